"""Causes seen in scores alone: no gap, a loss off the training set, a hidden slice, a rise at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import linregress, t

from gapkit.causes.case import LEVEL, SPLIT, Case, n_seeds, unmeasured
from gapkit.causes.confidence import (
    LEAST_SEEDS,
    NO_CONTROL,
    ONE_MODEL,
    SURE_SEEDS,
    above,
    below,
    by_seeds,
    word,
)
from gapkit.gap import HALF, Evidence, Finding, Remedy
from gapkit.measurement import Measurement
from gapkit.probes.interval import Interval, measured

# Published successes keep 96 to 99 % of the teacher's score (TinyBERT 1909.10351, DistilBERT
# 1910.01108, MobileBERT 2004.02984); below nine tenths nobody takes the average for a success,
# and a student that surely keeps more than 99 % is as good as any that was published.
SUCCESS, PUBLISHED, EQUAL = 0.9, 0.96, 0.99
# Students of teachers that had memorized wrong labels lost up to 2.5 times as much beyond their teacher
# as it lost itself (planted in glyphs, gratings and later, benchmarks/planted).
MEMORIZED = 4.0
OF_THE_TEACHER = (
    "difficulty=confidence"  # slices made by what the teacher said flatter others there
)
CROSSED = " & "  # between the names of the two slices of a crossing
LEAST_EPOCHS = 5  # in the last quarter of a history: a line and three degrees of freedom


def no_gap(case: Case) -> Finding | None:
    """Student equals teacher: the paired difference includes zero, or is small.

    Small is surely below 1 % of the teacher's score; or not surely above that, and surely below 4 %, the
    least that published successes keep. A student that is ahead has no gap either. The probability is
    that of keeping nine tenths of the teacher's score.
    """
    gap, reached = case.gap, max(0.0, float(case.teacher.mean()))
    if math.isnan(gap.value) or not _is_small(gap, reached):
        return None
    ahead = gap.high < 0
    limit = "zero lies within the paired interval"
    if ahead:
        limit = "zero: the student is ahead"
    elif gap.low > 0:
        limit = f"{case.say.difference((1 - EQUAL) * reached)}, 1 % of the teacher's score: {_how(gap, reached)}"
    probability = below(gap, (1 - SUCCESS) * reached)
    return Finding(
        cause="no_gap",
        points=gap,
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"Teacher minus student is {case.say.difference_of(gap)}.",
                measurement=gap,
                limit=limit,
            ),
        ),
        would_change="A larger validation set on which the student "
        + ("is no longer ahead." if ahead else "falls behind."),
        remedy=Remedy(text="Nothing to close; check the slices before shipping."),
    )


def _is_small(gap: Measurement, reached: float) -> bool:
    """Whether a gap to a teacher that reached that score counts for none."""
    one, four = (1 - EQUAL) * reached, (1 - PUBLISHED) * reached
    return gap.low <= 0 or gap.high < one or (gap.low <= one and gap.high < four)


def _how(gap: Measurement, reached: float) -> str:
    return "surely below it" if gap.high < (1 - EQUAL) * reached else "not surely above it"


def coverage(case: Case) -> Finding | None:
    """The student loses more off its training set than the teacher does, and samples are what it lacks.

    Limit: the excess loss lies above zero, and either makes up most of the gap where both see the same,
    or the control bears it out: half of the samples, trained on for as many steps, lose something too. A
    power law of the number of samples with an exponent of at most 1 (Hestness 1712.00409) returns at
    least half of that when they are doubled; those are then the points. More of the same are not always
    the cure: where the excess loss is most of the gap and half of the samples lose nothing, they are of
    the wrong kind. Not where a larger student, trained on the same samples, surely gains half of the
    excess or more: these samples are enough for it. Without any control, not where the teacher itself
    loses a quarter of the excess or more: labels that it memorized would cost the student as much.
    """
    loss = case.excess_loss
    if loss is None or not loss.low > 0:
        return None
    if not case.controls and loss.value < MEMORIZED * case.teacher_loss:
        return None
    same, half = case.controls.get("same recipe"), case.controls.get(HALF)
    points: Measurement | None = None
    seeds, lost = 0, tuple[Evidence, ...]()
    if same is not None and half is not None and (shared := n_seeds(same, half)) >= LEAST_SEEDS:
        fewer = case.difference("loss with half the samples", same, half)
        lost = (_lost_by_half(case, fewer),)
        if fewer.low > 0:
            points, seeds = _scaled(fewer, 0.5, "gain of twice the samples"), shared
    if case.same_view and loss.low > case.gap.value / 2:
        points, seeds = loss, SURE_SEEDS
    if points is None or _larger_generalizes(case, loss):
        return None
    evidence = [
        Evidence(
            text=f"From train to validation the student loses {case.say.difference_of(loss)} more than "
            "the teacher.",
            measurement=loss,
            limit="zero: the teacher's own loss is taken off",
        ),
        *lost,
    ]
    most = ONE_MODEL if case.controls else NO_CONTROL
    probability = min(above(loss), most, by_seeds(above(points), seeds))
    return Finding(
        cause="coverage",
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=tuple(evidence),
        would_change="A student trained on more samples that loses as much.",
        remedy=Remedy(text="More transfer data, unlabeled too: the teacher can label it; augment."),
    )


def _larger_generalizes(case: Case, loss: Measurement) -> bool:
    """Whether a larger student, trained on the same samples, gains half of that loss or more, beyond zero."""
    same = case.controls.get("same recipe")
    sizes = (case.controls.get(name) for name in ("next size up", "teacher-sized"))
    larger = [run for run in sizes if run and same and n_seeds(run, same) >= LEAST_SEEDS]
    gains = [case.difference(run.name, run, same) for run in larger if same]
    return any(gain.low > 0 and gain.value >= loss.value / 2 for gain in gains)


def _lost_by_half(case: Case, points: Measurement) -> Evidence:
    return Evidence(
        text=f"With {HALF} and twice the epochs it loses {case.say.difference_of(points)}.",
        measurement=points,
        limit="zero",
    )


def _scaled(item: Measurement, by: float, name: str) -> Measurement:
    return item.with_(name=name, value=by * item.value, low=by * item.low, high=by * item.high)


def false_success(case: Case) -> Finding | None:
    """Good on average, bad on a slice, after correction for how many slices were looked at.

    Good is nine tenths of the teacher's score; bad is further behind than that, beyond the average gap.
    """
    worst = case.measurements.find("worst_slice", split=SPLIT, of="pair")
    teacher, student = float(case.teacher.mean()), float(case.student.mean())
    if not worst or teacher <= 0 or student < SUCCESS * teacher:
        return None
    slice_gap = worst[0]
    if not slice_gap.low > case.gap.high or slice_gap.value < (1 - SUCCESS) * teacher:
        return None
    most = ONE_MODEL if case.controls else NO_CONTROL
    probability = min(above(slice_gap, case.gap.value), most)
    return Finding(
        cause="false_success",
        points=slice_gap,
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"On {slice_gap.group} the student is {case.say.difference_of(slice_gap)} behind, against "
                f"{case.say.difference_of(case.gap)} on average.",
                measurement=slice_gap,
                limit="the average gap's upper bound, corrected for the slices looked at",
            ),
        ),
        would_change="More samples of that slice on which the gap closes.",
        remedy=Remedy(text=f"Weight or collect {slice_gap.group}; report it beside the average."),
    )


def fine_elsewhere(case: Case) -> bool:
    """Whether on all samples that share nothing with the worst slice the student has no gap."""
    found = case.measurements.find("gap_elsewhere", of="pair", split=SPLIT)
    reached = max(0.0, float(case.teacher.mean()))
    return any(_is_small(item, reached) for item in found if not math.isnan(item.value))


def hides_most(case: Case, found: Finding) -> bool:
    """Whether a bad slice holds most of the gap: its share of the samples times how far it is behind there.

    Of a crossing also either of the two slices that it lies in, where that is surely worse than the average;
    but not one that the teacher's confidence made, for hard samples are worse whatever is wrong.
    """
    most = case.gap.value * case.gap.n / 2
    return any(part.value * part.n >= most for part in (found.points, *_around(case, found)))


def _around(case: Case, found: Finding) -> Iterator[Measurement]:
    for group in found.points.group.split(CROSSED):
        if OF_THE_TEACHER in group or group == found.points.group:
            continue
        for item in case.measurements.find("gap", of="pair", split=SPLIT, group=group):
            if item.low > case.gap.high:
                yield item


def rising_history(case: Case) -> Finding | None:
    """The user's own scores by epoch still rise over the last quarter: a line whose slope lies above zero."""
    history = np.asarray(case.student_history, dtype=float)
    last = history[len(history) - len(history) // 4 :]
    if len(last) < LEAST_EPOCHS or not np.isfinite(last).all():
        return None
    line = linregress(np.arange(len(last)), last)
    half = float(t.ppf((1 + LEVEL) / 2, len(last) - 2)) * float(line.stderr)
    slope = measured(
        "slope by epoch",
        "student",
        "",
        Interval(float(line.slope), line.slope - half, line.slope + half, line.stderr, len(last)),
        unit=case.unit,
        better="higher",
        estimator=f"least squares over the last {len(last)} epochs; t interval",
    )
    if not slope.low > 0:
        return None
    probability = min(above(slope), NO_CONTROL)
    return Finding(
        cause="undertrained",
        points=unmeasured("points of longer training", slope.n),
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"Over its last {len(last)} epochs the student's own score still rises by "
                f"{case.say.difference(slope.value)} an epoch {case.say.interval(slope, signed=True, n=False)}.",
                measurement=slope,
                limit="zero: the slope of a training that has settled",
            ),
        ),
        would_change="A longer run of the same recipe that gains nothing.",
        remedy=Remedy(text="Train longer.", fraction=2.0),
    )
