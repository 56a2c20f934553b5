"""What was reached: predicted against measured, before against after, and what is still undecided."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gapkit.measurement import Measurement
from gapkit.outcome import Comparison, Outcome, StageResult
from gapkit.reports.compose_where import MEANING
from gapkit.reports.intervals import mean_interval
from gapkit.reports.report import Block, Bullets, Figure, Paragraph, Section, Table
from gapkit.reports.results import Results, matrix_of, one
from gapkit.wording import Wording, number_of, sentence, words

HEADING = "What was reached"
STAGES_SHOWN = 12


def reached(results: Results, say: Wording) -> tuple[Section, ...]:
    """The outcome; scores are the test split's, those held against forecasts validation's."""
    outcome = results.outcome
    if outcome is None:
        return ()
    sections = [
        Section(heading=HEADING, blocks=tuple(_before_after(results, outcome, say))),
        Section(heading="Predicted against measured", level=2, blocks=tuple(_stages(outcome, say))),
    ]
    if outcome.comparisons:
        blocks = tuple(_comparisons(outcome, say))
        sections.insert(1, Section(heading="Is it better?", level=2, blocks=blocks))
    change = tuple(_layers(results))
    if change:
        sections.append(Section(heading="What its layers became", level=2, blocks=change))
    return tuple(sections)


def _layers(results: Results) -> Iterator[Block]:
    """The similarity maps before and after, where both were measured over the same teacher layers."""
    before = matrix_of(results.measurements, "cka")
    after = None if results.after is None else matrix_of(results.after, "cka")
    if before is None or after is None:
        return
    known = [matrix.values[np.isfinite(matrix.values)] for matrix in (before, after)]
    if not all(len(values) for values in known):
        return
    nearest = [_mean_nearest(matrix.values) for matrix in (before, after)]
    told = "Mean similarity of a teacher layer to its nearest student layer: "
    told += f"{nearest[0]:.2f} before, {nearest[1]:.2f} after"
    yield Paragraph(text=f"{told}. It describes the change; it does not say that it matters.")
    yield Figure(
        name="cka_change",
        caption=f"The similarity map (debiased CKA, test, n = {after.n:,}) of the student as it was, and of "
        "the new one.",
        alt=f"Two heat maps, before and after the plan. {told}.",
    )


def _mean_nearest(values: np.ndarray) -> float:
    rows = values[np.isfinite(values).any(1)]
    return float(np.nanmax(rows, axis=1).mean())


def _before_after(results: Results, outcome: Outcome, say: Wording) -> Iterator[Block]:
    gain = results.gain
    paired = f" Paired over the same samples: {say.difference_of(gain)}." if gain else ""
    yield Paragraph(
        text=f"On test the student went from {say.score_of(outcome.before)} to "
        f"{say.score_of(outcome.score)}; the teacher has {say.score_of(outcome.teacher)}.{paired}"
    )
    if outcome.notes:
        yield Bullets(items=outcome.notes)
    after = results.after
    assert after is not None, "an outcome has measurements"
    rows = [(words(outcome.score.name), say.score_of(outcome.before), say.score_of(outcome.score))]
    for name in MEANING:
        for of in ("pair", "student"):
            old, new = one(results.measurements, name, of), one(after, name, of)
            if old is not None and new is not None:
                rows.append((_label(name), with_n(old), with_n(new)))
    yield Table(
        caption="The student before and after, on test; in brackets 95 % intervals.",
        columns=("Quantity", "Before", "After"),
        rows=tuple(rows),
        widths=(1.4, 2.5, 2.5),
        right=(1, 2),
    )


def _label(name: str) -> str:
    return name.upper() if len(name) <= 3 else words(name)


def with_n(item: Measurement) -> str:
    """Any quantity with interval and n."""
    text = number_of(item)
    return text if math.isnan(item.value) or not item.n else f"{text}, n = {item.n:,}"


def _comparisons(outcome: Outcome, say: Wording) -> Iterator[Block]:
    yield Table(
        caption="Paired differences on test with 95 % intervals. “Undecided” means that the interval "
        "leaves both directions open.",
        columns=("What", "Against", "Difference", "Seeds", "Verdict"),
        rows=tuple(_compared(item, say) for item in outcome.comparisons),
        widths=(1.5, 2.0, 2.5, 0.7, 1.0),
        right=(3,),
    )
    open_ = tuple(
        f"{item.name} against {item.better_than}: {sentence(item.would_decide)}"
        for item in outcome.comparisons
        if item.decided == "undecided" and item.would_decide
    )
    if open_:
        yield Paragraph(lead="What would decide it.", text="")
        yield Bullets(items=open_)


def _compared(item: Comparison, say: Wording) -> tuple[str, ...]:
    difference = say.difference_of(item.points)
    return item.name, item.better_than, difference, str(item.n_seeds), item.decided


def _stages(outcome: Outcome, say: Wording) -> Iterator[Block]:
    missed = [stage.name for stage in outcome.stages if stage.missed]
    told = f"Below their forecast: {', '.join(missed)}." if missed else ""
    yield Paragraph(
        text="Forecasts are of a single run's validation score, and are held against the run that was "
        f"kept: the best of its seeds on validation, which flatters it a little. {told}".strip()
    )
    if any(stage.predicted is not None for stage in outcome.stages):
        yield Figure(
            name="forecasts",
            caption="Forecast interval of one run (gray bar, its middle a line), every seed (pale) and the "
            "kept run (strong), on validation.",
            alt="Predicted against measured: "
            + "; ".join(_forecast(stage, say) for stage in outcome.stages),
        )
    shown = outcome.stages[-STAGES_SHOWN:]
    left = len(outcome.stages) - len(shown)
    yield Table(
        caption=f"Every stage, on validation. Forecast: {_level(outcome)} interval of one run; reached: "
        "95 % interval over the samples of the kept run."
        + (f" Left out: the first {left}." if left else ""),
        columns=("Stage", "Size", "Taught by", "Learned", "Forecast", "Reached", "All seeds"),
        rows=tuple(stage_row(stage, say) for stage in shown),
        widths=(1.2, 0.6, 1.2, 1.3, 1.8, 2.0, 1.1),
        right=(4, 5, 6),
    )
    reactions = tuple(
        f"{stage.name}: {stage.reaction}" for stage in outcome.stages if stage.reaction
    )
    if reactions:
        yield Bullets(items=reactions)
    if any(training.curve_epoch.size for stage in outcome.stages for training in stage.trainings):
        yield Figure(
            name="training",
            caption="Validation score over the epochs of every training; strong: the run that was kept; "
            "band: its forecast.",
            alt="Training curves: " + "; ".join(
                f"{stage.name} reached {say.score(stage.training.score)} with seed "
                f"{stage.training.seed}" for stage in outcome.stages
            ),
        )  # fmt: skip


def _forecast(stage: StageResult, say: Wording) -> str:
    predicted = "no forecast" if stage.predicted is None else say.forecast(stage.predicted)
    return f"{stage.name} {predicted}, reached {say.score(stage.training.score)}"


def _level(outcome: Outcome) -> str:
    levels = {stage.predicted.level for stage in outcome.stages if stage.predicted}
    return " or ".join(f"{level * 100:g} %" for level in sorted(levels)) or "no"


def stage_row(stage: StageResult, say: Wording) -> tuple[str, ...]:
    """One stage as printed: its forecast, the kept run's score with interval, and every seed's score."""
    training = stage.training
    n = len(training.contributions)
    low, high = mean_interval(training.contributions)
    score = say.score(training.score)
    score += f" [{say.plain(low)}, {say.plain(high)}], n = {n:,}" if math.isfinite(low) else ""
    expected = stage.predicted
    forecast = (
        f"{say.score(expected.value)} [{say.plain(expected.low)}, {say.plain(expected.high)}]"
        if expected
        else "none"
    )
    seeds = ", ".join(say.plain(run.score) for run in stage.trainings)
    sources = ", ".join(stage.sources) or "labels"
    return stage.name, str(stage.size), sources, stage.knowledge, forecast, score, seeds
