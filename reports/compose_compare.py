"""Several runs, or several students of one teacher, side by side: verdicts, scores, ways and plans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gapkit.errors import InputError
from gapkit.gap import Waterfall
from gapkit.measurement import Measurement
from gapkit.record import Record
from gapkit.reports.compose_front import headline
from gapkit.reports.compose_plan import price_words
from gapkit.reports.report import Block, Fact, Figure, Paragraph, Report, Section, Table
from gapkit.reports.results import Results, one, paired
from gapkit.wording import Wording, number, path_words, sentence, words

RUNS_DRAWN = 8


class Compared(Record):
    """Runs with a name each that tells them apart, and how their scores are put into words."""

    names: tuple[str, ...]
    runs: tuple[Results, ...]
    say: Wording

    def scores(self, role: str) -> list[Measurement | None]:
        """Every run's test score of "teacher", "student", or "reached", the student after the plan."""
        return [score_of(run, role) for run in self.runs]


def score_of(run: Results, role: str) -> Measurement | None:
    """One score on test; a run whose plan was not carried out reached nothing."""
    if role != "reached":
        return run.score(role)
    return run.outcome.score if run.outcome else None


def comparison(runs: Sequence[Results], names: Sequence[str]) -> tuple[Report, Compared]:
    """What is said of several runs, in the order given, and what its figures are drawn from.

    Args:
        names: of the runs, for example their folders; what they share at the start is left out.

    Raises:
        InputError: for fewer than two runs, or runs whose scores are not of one name and unit.
    """
    if len(runs) < 2:
        raise InputError(f"Expected two runs or more to compare but got {len(runs)}")
    kinds = sorted({f"{run.score_name} ({run.score_unit or 'no unit'})" for run in runs})
    if len(kinds) > 1:
        raise InputError(f"Expected runs with one score to compare but got {' and '.join(kinds)}")
    say = Wording(unit=runs[0].score_unit, score_name=runs[0].score_name)
    compared = Compared(names=tuple(_apart(names)), runs=tuple(runs), say=say)
    report = Report(
        title=f"{len(runs)} runs side by side",
        study=" · ".join(dict.fromkeys(run.study for run in runs)),
        created=max(str(run.manifest.get("created", "")) for run in runs),
        headline=_best(compared),
        verdict=_paired_words(compared),
        facts=tuple(_facts(compared)),
        sections=tuple(_sections(compared)),
    )
    return report, compared


def _apart(names: Sequence[str]) -> Iterator[str]:
    """Names without the folders that all share; numbered where two are the same."""
    parts = [name.rstrip("/").split("/") for name in names]
    while all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    short = ["/".join(part) for part in parts]
    for index, name in enumerate(short):
        yield name if short.count(name) == 1 else f"{name} ({index + 1})"


def _final(run: Results) -> Measurement | None:
    """The student's score as it is by now."""
    return score_of(run, "reached") or score_of(run, "student")


def _best(compared: Compared) -> str:
    """The highest student by now, and whether its interval lies above all others'."""
    known = [
        (name, item)
        for name, run in zip(compared.names, compared.runs)
        if (item := _final(run)) is not None and math.isfinite(item.value)
    ]
    if not known:
        return "No run has a student's score on the test split."
    name, top = max(known, key=lambda pair: pair[1].value)
    level = [other for other, item in known if item.value == top.value]
    if len(level) > 1:
        names = f"{', '.join(level[:-1])} and {level[-1]}"
        return f"The students of {names} score level: {compared.say.score_of(top)}, on test."
    others = [item for other, item in known if other != name]
    clear = all(top.low > item.high for item in others)
    how = "" if clear else "; another run's interval overlaps it"
    return f"The student of {name} scores highest: {compared.say.score_of(top)}, on test{how}."


def same_samples(first: Results, other: Results) -> bool:
    """Whether two runs report on the same test samples, as their fingerprints say."""
    prints = [run.manifest.get("inputs", {}).get("data") for run in (first, other)]
    return prints[0] is not None and prints[0] == prints[1]


def _paired_words(compared: Compared) -> str:
    """Differences of the students by now to the first run's, where the test samples are the same."""
    first, *others = compared.runs
    told = []
    for name, run in zip(compared.names[1:], others):
        found = _difference(run, first) if same_samples(run, first) else None
        if found is not None:
            told.append(f"{name} {compared.say.difference_of(found)}")
    if not told:
        return (
            "The runs do not report on the same test samples (or do not say so), so that their scores are not "
            "compared sample by sample: judge differences by the intervals."
        )
    return f"Against {compared.names[0]}, over the same test samples: {'; '.join(told)}."


def _difference(run: Results, first: Results) -> Measurement | None:
    latest = [item.after or item.measurements for item in (run, first)]
    return paired(latest[0], "student", latest[1], "student")


def _facts(compared: Compared) -> Iterator[Fact]:
    for name, run in list(zip(compared.names, compared.runs))[:6]:
        item = _final(run)
        if item is not None:
            role = "reached" if run.outcome else "student"
            yield Fact(label=name, value=compared.say.score(item.value), role=role,  # type: ignore[arg-type]
                       note=f"{compared.say.interval(item)}, test")  # fmt: skip


def _sections(compared: Compared) -> Iterator[Section]:
    yield Section(heading="Verdicts", blocks=tuple(_verdicts(compared)))
    yield Section(heading="Scores", blocks=tuple(_scores(compared)))
    drawn = [run for run in compared.runs if run.gap is not None][:RUNS_DRAWN]
    if drawn:
        yield Section(heading="From student to teacher", blocks=(_ways(compared, len(drawn)),))
    if any(run.plan is not None for run in compared.runs):
        yield Section(heading="Plans", blocks=(_plans(compared),))


def _verdicts(compared: Compared) -> Iterator[Block]:
    for name, run in zip(compared.names, compared.runs):
        yield Paragraph(lead=sentence(name), text=headline(run, compared.say))


def _scores(compared: Compared) -> Iterator[Block]:
    say, roles = compared.say, ("teacher", "student", "reached")
    shown = min(len(compared.runs), RUNS_DRAWN)
    cells = [[_cell(item, say) for item in compared.scores(role)] for role in roles]
    left = len(compared.runs) - shown
    yield Figure(
        name="scores",
        caption="Scores on test with 95 % intervals, a row a run."
        + (f" {left} more runs are in the table." if left else ""),
        alt="Dot plot of scores: " + "; ".join(
            f"{name}: teacher {row[0]}, student {row[1]}, reached {row[2]}"
            for name, row in list(zip(compared.names, zip(*cells)))[:shown]
        ),
    )  # fmt: skip
    yield Table(
        caption="Scores on test with 95 % intervals, and the student's size.",
        columns=("Run", "Teacher", "Student", "After the plan", "Parameters", "Main cause"),
        rows=tuple(
            (name, *row, _size(run), words(run.gap.cause) if run.gap else "–")
            for name, run, row in zip(compared.names, compared.runs, zip(*cells))
        ),
        widths=(1.5, 2, 2, 2, 1, 1.3),
        right=(1, 2, 3, 4),
    )


def _cell(item: Measurement | None, say: Wording) -> str:
    return "–" if item is None else say.score_of(item)


def _size(run: Results) -> str:
    found = one(run.measurements, "parameters", "student", "")
    return "–" if found is None else number(found.value)


def _ways(compared: Compared, drawn: int) -> Figure:
    told = "; ".join(
        f"{name}: {_steps(run.gap.waterfall, compared.say)}"
        for name, run in zip(compared.names, compared.runs)
        if run.gap is not None
    )
    total = sum(run.gap is not None for run in compared.runs)
    more = f" The first {drawn} of {total} are drawn." if drawn < total else ""
    return Figure(
        name="ways",
        caption=f"The way from student to teacher of each run, on validation, on one scale.{more}",
        alt=f"Waterfalls side by side. {told}",
    )


def _steps(fall: Waterfall, say: Wording) -> str:
    return ", ".join(f"{step.name} {say.difference(step.points.value)}" for step in fall.steps)


def _plans(compared: Compared) -> Table:
    say, rows = compared.say, []
    for name, run in zip(compared.names, compared.runs):
        plan = run.plan
        if plan is None:
            rows.append((name, "none", "–", "–", "–"))
            continue
        path = path_words(["teacher", *(f"{stage.name} ({stage.size})" for stage in plan.stages)])
        learns = plan.stages[-1].learns
        reached = (
            "not carried out"
            if run.outcome is None
            else say.score(run.outcome.stages[-1].training.score)
        )
        low, high = say.plain(plan.predicted_run.low), say.plain(plan.predicted_run.high)
        forecast = f"{say.score(plan.predicted_run.value)} [{low}, {high}]"
        rows.append((name, f"{path}; {learns}", forecast, reached, price_words(plan.cost)))
    return Table(
        caption="Plans: who teaches whom and what the last stage learns; forecast of one run (80 % interval unless "
        "a plan says otherwise) and what the kept run reached, both on validation.",
        columns=("Run", "Plan", "Forecast", "Reached", "Cost"),
        rows=tuple(rows),
        widths=(1.3, 3, 1.9, 1.2, 1.6),
        right=(2, 3),
    )
