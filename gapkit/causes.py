"""Causes: one function each, from the evidence to a Finding or None.

Each function names what it measures, the limit, where the limit comes from, and the remedy. A cause
is found only when its interval excludes zero; nothing is claimed from a single seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from gapkit.case import LEVEL, SPLIT, Case, Scores, n_seeds
from gapkit.gap import Cause, ControlRun, Evidence, Finding, Remedy
from gapkit.measurement import Measurement
from gapkit.probes.interval import Interval, measured

LEAST_SEEDS, SURE_SEEDS = 2, 4
# Published successes keep 96 to 99 % of the teacher's score (TinyBERT 1909.10351, DistilBERT
# 1910.01108, MobileBERT 2004.02984); below nine tenths nobody takes the average for a success.
SUCCESS = 0.9

Confidence = Literal["high", "moderate", "low"]


def no_gap(case: Case) -> Finding | None:
    """Student equals teacher: the paired difference includes zero, or the student is ahead."""
    gap = case.gap
    if gap.low > 0 or math.isnan(gap.value):
        return None
    ahead = gap.high < 0
    return Finding(
        cause="no_gap",
        points=gap,
        confidence="moderate",
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


def harness_fault(case: Case) -> Finding | None:
    """Teacher and data do not fit: the teacher is no better than chance, or than it is said to be."""
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
    return Finding(
        cause="harness_fault",
        points=points,
        confidence="high" if by_chance else "moderate",
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


def pipeline_fault(case: Case) -> Finding | None:
    """The same student under the same recipe, trained here, does far better.

    The user's student is one draw of that recipe, so its distance is held against the spread of
    single runs: t·s·√(1 + 1/S) (a prediction interval), plus the sampling error of the samples.
    """
    same = case.controls.get("same recipe")
    if same is None or len(same.seeds) < LEAST_SEEDS:
        return None
    from scipy.stats import t

    points = case.difference("same recipe by gapkit", same, case.student)
    spread = float(np.std(same.scores, ddof=1)) * math.sqrt(1 + 1 / len(same.seeds))
    sample = float(np.std(same.contributions.mean(0) - case.student, ddof=1)) / math.sqrt(points.n)
    half = float(t.ppf((1 + LEVEL) / 2, len(same.seeds) - 1)) * math.hypot(spread, sample)
    how = f"mean difference; prediction interval of one run from {len(same.seeds)} seeds"
    points = points.with_(low=points.value - half, high=points.value + half, estimator=how)
    if not points.low > 0:
        return None
    return _finding(
        "pipeline_fault",
        points,
        len(same.seeds),
        f"The same recipe, run by gapkit with {len(same.seeds)} seeds, gains {case.say.difference_of(points)} "
        "over the student that was given",
        "more than a single run of this recipe strays (prediction interval over seeds)",
        "A run of the user's own pipeline that reaches the controls' score.",
        Remedy(
            text="Compare the user's training with gapkit's step by step: data order, modes, targets."
        ),
    )


def harsh_targets(case: Case) -> Finding | None:
    """Gentler or other knowledge, or none, does better under the same recipe."""
    same = case.controls.get("same recipe")
    arms = [arm for arm in case.knowledge_arms if len(arm.seeds) >= LEAST_SEEDS]
    if same is None or len(arms) < 2 or len(same.seeds) < LEAST_SEEDS:
        return None
    best = case.best(arms)
    points = case.difference("other knowledge", best, same, case.looks)
    if best.name == same.name or not points.low > 0:
        return None
    finding = _finding(
        "harsh_targets",
        points,
        n_seeds(best, same),
        f"At the same size and length, {taught(best)} gains {case.say.difference_of(points)} over the "
        f"student's own recipe, {taught(same)}",
        f"zero, by an interval widened for the {case.looks} arms it was picked from",
        "More seeds in which the student's own recipe keeps up.",
        Remedy(text=f"Train with {best.recipe} instead of {same.recipe}.", knowledge=best.recipe),
    )
    scratch = case.controls.get("scratch")
    if scratch is None or scratch.name == best.name:
        return finding
    against = case.difference("scratch minus same recipe", scratch, same)
    says = "better than" if against.low > 0 else "worse than" if against.high < 0 else "level with"
    extra = Evidence(
        text=f"From labels alone the student is {says} its distilled self: {case.say.difference_of(against)}.",
        measurement=against,
        limit="zero",
    )
    return finding.with_(evidence=(*finding.evidence, extra))


def teacher_gap(case: Case) -> Finding | None:
    """A smaller teacher teaches this student better, with the same knowledge."""
    smaller, same = case.controls.get("smaller teacher"), case.controls.get("same recipe")
    if smaller is None or same is None or n_seeds(smaller, same) < LEAST_SEEDS:
        return None
    points = case.difference("smaller teacher", smaller, same)
    if not points.low > 0:
        return None
    size = smaller.path[-2]
    return _finding(
        "teacher_gap",
        points,
        n_seeds(smaller, same),
        f"Taught by size {size} instead of the teacher, the student gains {case.say.difference_of(points)}",
        "zero",
        "More seeds in which the full teacher keeps up.",
        Remedy(text=f"Put an assistant of size {size} between.", size=str(size)),
    )


def undertrained(case: Case) -> Finding | None:
    """The same arm, trained longer, still rises."""
    longer = case.controls.get("longer")
    if longer is None:
        return None
    short = next((arm for arm in case.knowledge_arms if arm.recipe == longer.recipe), None)
    if short is None or n_seeds(longer, short) < LEAST_SEEDS:
        return None
    points = case.difference("longer", longer, short)
    if not points.low > 0:
        return None
    return _finding(
        "undertrained",
        points,
        n_seeds(longer, short),
        f"{longer.fraction:g} times as many epochs with {longer.recipe} gain {case.say.difference_of(points)}",
        "zero",
        "Longer runs that no longer gain.",
        Remedy(
            text=f"Train at least {longer.fraction:g} times as long.",
            fraction=longer.fraction,
            knowledge=longer.recipe,
        ),
    )


def optimization(case: Case) -> Finding | None:
    """Even a student of the teacher's size, trained this way, falls short of the teacher."""
    sized = case.controls.get("teacher-sized")
    if sized is None or len(sized.seeds) < LEAST_SEEDS:
        return None
    points = case.difference("teacher minus teacher-sized student", case.teacher, sized)
    if not points.low > 0:
        return None
    return _finding(
        "optimization",
        points,
        len(sized.seeds),
        f"A student of the teacher's own size, trained this way, stays {case.say.difference_of(points)} short",
        "zero",
        "A teacher-sized student that reaches the teacher.",
        Remedy(text="Tune the training (schedule, rate, length) at the teacher's size first."),
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
    return Finding(
        cause="coverage",
        points=points,
        confidence="moderate",
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
    return Finding(
        cause="false_success",
        points=slice_gap,
        confidence="moderate",
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


def capacity(case: Case) -> Finding | None:
    """The student's size bounds what is left: a larger one, trained alike, does better."""
    same, sized = case.controls.get("same recipe"), case.controls.get("teacher-sized")
    larger = next(
        (
            arm
            for arm in (case.controls.get("next size up"), sized)
            if same is not None and arm is not None and n_seeds(arm, same) >= LEAST_SEEDS
        ),
        None,
    )
    if same is None or larger is None:
        return None
    gained = case.difference(f"size {larger.path[-1]} minus same recipe", larger, same)
    top: Scores = sized if sized is not None and len(sized.seeds) >= LEAST_SEEDS else case.teacher
    longer = case.controls.get("longer")
    reached = case.best([*case.knowledge_arms, *([] if longer is None else [longer])])
    points = case.difference("size", top, reached)
    if not (gained.low > 0 and points.low > 0):
        return None
    seen = [float(arm.train_agreement.mean()) for arm in (same, larger)]
    finding = _finding(
        "capacity",
        points,
        n_seeds(larger, same),
        f"The best way of training this size that was found, {taught(reached)}, leaves "
        f"{case.say.difference_of(points)}",
        "zero",
        "A way of training this size that reaches the larger one.",
        Remedy(
            text=f"Move to size {larger.path[-1]} if what is left matters.",
            size=str(larger.path[-1]),
        ),
    )
    width = Evidence(
        text=f"Size {larger.path[-1]}, trained alike, gains {case.say.difference_of(gained)}; on the "
        f"training set it agrees with the teacher on {100 * seen[1]:.0f} % of the samples, this student "
        f"on {100 * seen[0]:.0f} %.",
        measurement=gained,
        limit="zero",
    )
    return finding.with_(evidence=(width, *finding.evidence))


CAUSES: tuple[Callable[[Case], Finding | None], ...] = (
    harness_fault,
    pipeline_fault,
    harsh_targets,
    teacher_gap,
    undertrained,
    optimization,
    coverage,
    false_success,
    capacity,
)


def taught(arm: ControlRun) -> str:
    """How an arm learns, as a phrase."""
    return "training on labels alone" if arm.recipe == "scratch" else f"learning by {arm.recipe}"


def _finding(
    cause: Cause,
    points: Measurement,
    seeds: int,
    text: str,
    limit: str,
    would_change: str,
    remedy: Remedy,
) -> Finding:
    confidence: Confidence = "high" if seeds >= SURE_SEEDS else "moderate"
    return Finding(
        cause=cause,
        points=points,
        confidence=confidence,
        evidence=(Evidence(text=text + ".", measurement=points, limit=limit),),
        would_change=would_change,
        remedy=remedy,
    )
