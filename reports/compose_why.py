"""Why: the way from student to teacher, each finding with its evidence, and the controls behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gapkit.gap import MEANINGS, ControlRun, Finding, Gap, Waterfall
from gapkit.reports.intervals import mean_interval
from gapkit.reports.report import Block, Bullets, Figure, Paragraph, Section, Table
from gapkit.reports.results import Results
from gapkit.wording import Wording, described, number, path_words, sentence, words


def why(results: Results, say: Wording) -> tuple[Section, ...]:
    """The diagnosis; all its numbers are the validation split's. Nothing without one."""
    gap = results.gap
    if gap is None:
        return ()
    lead = Paragraph(
        text="The diagnosis reads the validation split only, so that the test split stays a fair judge; "
        "its numbers therefore differ a little from those above. The steps from student to teacher are "
        "drawn on page one."
    )
    sections = [Section(heading="Why it falls short", blocks=(lead,))]
    sections.append(Section(heading="Findings", level=2, blocks=tuple(_findings(gap, say))))
    if gap.controls:
        sections.append(Section(heading="Controls", level=2, blocks=tuple(_controls(gap, say))))
    return tuple(sections)


def fall_figure(gap: Gap, say: Wording) -> Figure:
    """The way from student to teacher, for page one."""
    return Figure(
        name="waterfall",
        caption=f"From the student to its teacher in steps that add up, {words(gap.student.name)} on "
        f"validation (student {say.interval(gap.student)}; teacher {say.interval(gap.teacher)}). "
        "Paired differences with 95 % intervals; a pale bar's interval includes zero. What was not "
        "tested is merged into the next step.",
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
            (words(item.cause), _points(item, say), item.confidence, item.remedy.text)
            for item in ranked
        ),
        widths=(1.4, 2.3, 1.0, 3.0),
    )
    yield Bullets(
        items=tuple(f"{words(item.cause).capitalize()}: {_explained(item)}" for item in ranked)
    )
    yield Table(
        caption="The evidence of each finding with its interval, and the limit that it was held against.",
        columns=("Cause", "Evidence", "Measured", "Held against"),
        rows=tuple(row for item in ranked for row in _evidence(item)),
        widths=(1.0, 2.8, 2.2, 1.1),
    )


def _points(item: Finding, say: Wording) -> str:
    if math.isnan(item.points.value):
        return f"not measured: {item.points.reason}"
    return say.difference_of(item.points)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _explained(item: Finding) -> str:
    text = f"{MEANINGS[item.cause].capitalize()}."
    return (
        f"{text} This would change the finding: {item.would_change}" if item.would_change else text
    )


def _evidence(item: Finding) -> Iterator[tuple[str, ...]]:
    """A row a piece of evidence; the cause is named in the first."""
    for index, evidence in enumerate(item.evidence):
        cause = "" if index else words(item.cause)
        yield cause, sentence(evidence.text), described(evidence.measurement), evidence.limit or "–"


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
    if say.unit == "share":  # of few seeds the t interval reaches beyond what a score can be
        low, high = np.clip((low, high), 0, 1).tolist()
    interval = f" [{say.plain(low)}, {say.plain(high)}]" if math.isfinite(low) else " (no interval)"
    length = "" if run.fraction == 1 else f", ×{run.fraction:g}"
    path = f"{path_words(run.path)}, {run.recipe}{length}"
    score = say.score(run.mean) + interval
    return run.name, run.question, path, str(len(run.seeds)), score, f"{run.cost:.1f}"
