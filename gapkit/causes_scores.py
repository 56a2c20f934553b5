"""Causes seen in scores alone: no gap, a loss off the training set, a hidden slice, a rise at the end."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import linregress, t

from gapkit.case import LEVEL, SPLIT, Case, unmeasured
from gapkit.confidence import NO_CONTROL, ONE_MODEL, above, below, word
from gapkit.gap import Evidence, Finding, Remedy
from gapkit.probes.interval import Interval, measured

# Published successes keep 96 to 99 % of the teacher's score (TinyBERT 1909.10351, DistilBERT
# 1910.01108, MobileBERT 2004.02984); below nine tenths nobody takes the average for a success.
SUCCESS = 0.9
LEAST_EPOCHS = 5  # in the last quarter of a history: a line and three degrees of freedom


def no_gap(case: Case) -> Finding | None:
    """Student equals teacher: the paired difference includes zero, or the student is ahead.

    Its probability is that of keeping nine tenths of the teacher's score, the least that is published
    as a success.
    """
    gap = case.gap
    if gap.low > 0 or math.isnan(gap.value):
        return None
    ahead = gap.high < 0
    margin = (1 - SUCCESS) * max(0.0, float(case.teacher.mean()))
    probability = below(gap, margin)
    return Finding(
        cause="no_gap",
        points=gap,
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"Teacher minus student is {case.say.difference_of(gap)}.",
                measurement=gap,
                limit="zero: the student is ahead"
                if ahead
                else "zero lies within the paired interval",
            ),
        ),
        would_change="A larger validation set on which the student "
        + ("is no longer ahead." if ahead else "falls behind."),
        remedy=Remedy(text="Nothing to close; check the slices before shipping."),
    )


def coverage(case: Case) -> Finding | None:
    """The student loses more off its training set than the teacher does."""
    found = {}
    for of in ("teacher", "student"):
        if not case.measurements.has(case.score_name, of=of, split="train"):
            return None
        found[of] = [case.measurements.scores(of, split) for split in ("train", SPLIT)]
    drops = {of: float(seen.mean() - held.mean()) for of, (seen, held) in found.items()}
    value = drops["student"] - drops["teacher"]
    seen = found["student"][0] - found["teacher"][0]
    held = found["student"][1] - found["teacher"][1]
    se = math.sqrt(np.var(seen, ddof=1) / len(seen) + np.var(held, ddof=1) / len(held))
    half = 1.96 * se
    method = "difference of paired differences between train and validation; normal interval"
    points = measured(
        "excess loss off the training set",
        "student",
        SPLIT,
        Interval(value, value - half, value + half, se, len(held), method=method),
        unit=case.unit,
    )
    if not points.low > 0:
        return None
    probability = min(above(points), ONE_MODEL)
    return Finding(
        cause="coverage",
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"From train to validation the student loses {case.say.difference_of(points)} more than "
                "the teacher.",
                measurement=points,
                limit="zero: the teacher's own loss is taken off",
            ),
        ),
        would_change="A student trained on more samples that loses as much.",
        remedy=Remedy(text="More transfer data, unlabeled too: the teacher can label it; augment."),
    )


def false_success(case: Case) -> Finding | None:
    """Good on average, bad on a slice, after correction for how many slices were looked at."""
    worst = case.measurements.find("worst_slice", split=SPLIT, of="pair")
    teacher, student = float(case.teacher.mean()), float(case.student.mean())
    if not worst or teacher <= 0 or student < SUCCESS * teacher:
        return None
    slice_gap = worst[0]
    if not slice_gap.low > case.gap.high:
        return None
    probability = min(above(slice_gap, case.gap.value), ONE_MODEL)
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
