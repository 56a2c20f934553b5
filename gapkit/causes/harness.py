"""harness_fault: teacher and data do not fit, and what would make them fit."""

from __future__ import annotations

import math

import numpy as np

from gapkit.causes.case import SPLIT, Case
from gapkit.causes.confidence import ONE_MODEL, above, word
from gapkit.gap import Evidence, Finding, Remedy
from gapkit.measurement import Measurement

N_CHECKS = 6  # gapkit.probes.harness
NAMED = 12  # classes whose place is told one by one

CHECKS = {
    "permuted_gain": "with its classes reordered",
    "student_view_gain": "on the student's view",
    "rescaled_gain": "with inputs {group}",
    "train_mode_gain": "in train mode, with the statistics of each batch instead of the running ones,",
}
"""From what explains the others to what it explains: batch statistics make up for a wrong view too."""

FIXES = {
    "rescaled_gain": "Give the teacher its inputs {group}, as it was trained.",
    "train_mode_gain": "Estimate the teacher's batch statistics anew on this data, or load the buffers that "
    "belong to its weights.",
    "student_view_gain": "Give the teacher the student's view: its own is not what it was trained on.",
}


def harness_fault(case: Case) -> Finding | None:
    """Teacher and data do not fit: another way of calling it, chance, or the claim says so."""
    return _other_way(case) or _too_low(case)


def _other_way(case: Case) -> Finding | None:
    """The teacher does far better when its outputs, mode or view are changed.

    Limit: the upper arm of the teacher's own interval. A gain whose lower bound exceeds it could not be
    undone by another validation sample of this size; a mere paired difference above zero could be the
    small effect that batch statistics have on any healthy teacher.
    """
    teacher = case.measurements.get(case.score_name, of="teacher", split=SPLIT)
    noise = teacher.high - teacher.value
    gains = [
        gain
        for name in CHECKS
        for gain in case.measurements.find(name, of="teacher", split=SPLIT)
        if gain.low > noise
    ]
    if not gains:
        return None
    alike = [gain for gain in gains if gain.name == gains[0].name]
    best = max(alike, key=lambda gain: gain.value)
    probability = above(best, noise)
    return Finding(
        cause="harness_fault",
        points=best,
        probability=probability,
        confidence=word(probability),
        evidence=tuple(
            Evidence(
                text=f"On the student's own data the teacher scores {case.say.score_of(teacher)}; "
                f"{CHECKS[gain.name].format(group=gain.group)} it gains {case.say.difference_of(gain)}.",
                measurement=gain,
                limit=f"{case.say.difference(noise)}, the upper arm of the teacher's own interval; "
                f"{N_CHECKS} ways were tried",
            )
            for gain in gains
        ),
        would_change="The teacher as it is, reaching the same score on these very batches.",
        remedy=Remedy(text=_fix(case, best)),
    )


def _fix(case: Case, gain: Measurement) -> str:
    known = FIXES.get(gain.name)
    return _reorder(case) if known is None else known.format(group=gain.group)


def _reorder(case: Case) -> str:
    """The order of outputs that fits the labels, as something to type."""
    curve = next(
        (
            item
            for item in case.measurements.curves
            if (item.name, item.of, item.split) == ("class_order", "teacher", SPLIT)
        ),
        None,
    )
    if curve is None:
        return "Bring the teacher's classes into the order of the labels."
    order = curve.y.astype(int)
    moved = np.flatnonzero(order != np.arange(len(order)))
    if len(order) <= NAMED:
        return f"Reorder the teacher's outputs: logits[:, {order.tolist()}] fit the labels."
    told = ", ".join(f"class {label} is output {order[label]}" for label in moved[:NAMED])
    more = f" and {len(moved) - NAMED} more" if len(moved) > NAMED else ""
    return f"Reorder the teacher's outputs: {told}{more}."


def _too_low(case: Case) -> Finding | None:
    """The teacher is no better than chance, or than it is said to be."""
    teacher = case.measurements.get(case.score_name, of="teacher", split=SPLIT)
    chance = case.measurements.get("chance", split=SPLIT)
    claimed = case.teacher_score
    if teacher.low > chance.value and (claimed is None or teacher.high >= claimed):
        return None
    by_chance = teacher.low <= chance.value
    if by_chance:
        limit = f"the best constant answer, which scores {case.say.score(chance.value)}"
    else:
        limit = f"the {case.say.score(claimed or 0.0)} that the teacher is said to score"
    points = _below_claim(teacher, claimed)
    # One that knows anything shows it in all samples but the share that its interval leaves out.
    probability = (1 + teacher.level) / 2 if by_chance else min(above(points), ONE_MODEL)
    return Finding(
        cause="harness_fault",
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"On the student's own data the teacher scores {case.say.score_of(teacher)}.",
                measurement=teacher,
                limit=limit,
            ),
        ),
        would_change="The teacher's claimed score, reached on these very batches.",
        remedy=Remedy(
            text="Check class order, normalization and which output is the head before anything else."
        ),
    )


def _below_claim(teacher: Measurement, claimed: float | None) -> Measurement:
    """How far the teacher is below what it is said to score."""
    name = "points below the claim"
    if claimed is None:
        reason = "nobody said what the teacher scores elsewhere"
        nothing = math.nan
        return teacher.with_(name=name, value=nothing, low=nothing, high=nothing, reason=reason)
    return teacher.with_(
        name=name,
        value=claimed - teacher.value,
        low=claimed - teacher.high,
        high=claimed - teacher.low,
        better="lower",
    )
