"""Why: the way from student to teacher, each finding with its evidence, and the controls behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gapkit.gap import MEANINGS, ControlRun, Finding, Gap, Waterfall
from gapkit.reports.intervals import mean_interval
from gapkit.reports.report import Block, Bullets, Figure, Paragraph, Section, Table
from gapkit.reports.results import Results
from gapkit.wording import Wording, described, number, path_words, words

NOT_DIAGNOSED = "No diagnosis was made: only measurements stand behind this report."


def why(results: Results, say: Wording) -> tuple[Section, ...]:
    """The diagnosis; all its numbers are the validation split's."""
    heading = "Why it falls short"
    gap = results.gap
    if gap is None:
        return (Section(heading=heading, blocks=(Paragraph(text=NOT_DIAGNOSED),)),)
    sections = [Section(heading=heading, blocks=tuple(_lead(gap, say)))]
    sections.append(Section(heading="Findings", level=2, blocks=tuple(_findings(gap, say))))
    if gap.controls:
        sections.append(Section(heading="Controls", level=2, blocks=tuple(_controls(gap, say))))
    return tuple(sections)


def _lead(gap: Gap, say: Wording) -> Iterator[Block]:
    yield Paragraph(
        text="The diagnosis reads the validation split only, so that the test split stays a fair judge; "
        "its numbers therefore differ a little from those above."
    )
    yield Figure(
        name="waterfall",
        caption=f"From the student to its teacher in steps that add up, {words(gap.student.name)} on "
        f"validation (student {say.interval(gap.student)}; teacher {say.interval(gap.teacher)}). "
        "Bars are paired differences with 95 % intervals; a pale bar's interval includes zero. A step "
        "that was not tested is merged into the next, which then names it.",
        alt=_fall_words(gap.waterfall, say),
    )


def _fall_words(fall: Waterfall, say: Wording) -> str:
    steps = "; ".join(f"{step.name} {say.difference_of(step.points)}" for step in fall.steps)
    start, end = say.score(fall.start.value), say.score(fall.end.value)
    return f"Waterfall from the student at {start} to the teacher at {end}: {steps or 'no steps'}."


def _findings(gap: Gap, say: Wording) -> Iterator[Block]:
    ranked = sorted(
        gap.findings, key=lambda item: (item.cause != gap.cause, -_finite(item.points.value))
    )
    yield Table(
        caption="What was found, on validation, with 95 % intervals: first the main cause (the largest "
        "that can be removed without changing the student's size), then by points explained. Causes may "
        "overlap, so these points need not add up; the steps above do.",
        columns=("Cause", "Explains", "Confidence", "What to do"),
        rows=tuple(
            (words(item.cause), say.difference_of(item.points), item.confidence, item.remedy.text)
            for item in ranked
        ),
        widths=(1.4, 2.3, 1.0, 3.0),
    )
    for item in ranked:
        yield Paragraph(lead=words(item.cause).capitalize() + ".", text=_explained(item))
        yield Bullets(items=tuple(_evidence(item)))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _explained(item: Finding) -> str:
    text = f"{MEANINGS[item.cause].capitalize()}."
    return (
        f"{text} This would change the finding: {item.would_change}" if item.would_change else text
    )


def _evidence(item: Finding) -> Iterator[str]:
    for evidence in item.evidence:
        held = f" Held against {evidence.limit}." if evidence.limit else ""
        yield f"{evidence.text} ({described(evidence.measurement)}.){held}"


def _controls(gap: Gap, say: Wording) -> Iterator[Block]:
    spent = f"{number(gap.spent)} of {number(gap.budget)}" if gap.budget else number(gap.spent)
    yield Paragraph(
        text="A control is a short training that tells causes apart. "
        f"They cost {spent} student trainings (one is a full training of the student)."
    )
    seeds = sorted({len(run.seeds) for run in gap.controls})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    yield Figure(
        name="controls",
        caption="Every seed of every control (dots) and its mean (bar) on validation, "
        f"{count} seeds each; ×: share of the full training length.",
        alt="Dot plot of controls: "
        + "; ".join(f"{run.name} {say.score(run.mean)}" for run in gap.controls),
    )
    yield Table(
        caption="The controls. Brackets: 95 % interval over seeds (t); cost in student trainings.",
        columns=("Control", "Question", "Path, knowledge", "Seeds", "Validation", "Cost"),
        rows=tuple(control_row(run, say) for run in gap.controls),
        widths=(1.5, 2.5, 1.7, 0.7, 1.9, 0.7),
        right=(3, 4, 5),
    )
    if gap.notes:
        yield Bullets(items=gap.notes)


def control_row(run: ControlRun, say: Wording) -> tuple[str, ...]:
    """One control as printed; a single seed has no interval and says so."""
    low, high = mean_interval(run.scores)
    interval = f" [{say.plain(low)}, {say.plain(high)}]" if math.isfinite(low) else " (no interval)"
    length = "" if run.fraction == 1 else f", ×{run.fraction:g}"
    path = f"{path_words(run.path)}, {run.recipe}{length}"
    score = say.score(run.mean) + interval
    return run.name, run.question, path, str(len(run.seeds)), score, f"{run.cost:.1f}"
