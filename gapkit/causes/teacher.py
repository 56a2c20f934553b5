"""Causes that lie with the teacher: its answers say no more than labels, or others know better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gapkit.causes.case import LEVEL, SPLIT, Case, n_seeds, unmeasured
from gapkit.causes.confidence import (
    EVEN,
    LEAST_SEEDS,
    NO_CONTROL,
    ONE_MODEL,
    above,
    below,
    by_seeds,
    word,
)
from gapkit.causes.scores import OF_THE_TEACHER, SUCCESS
from gapkit.gap import ControlRun, Evidence, Finding, Remedy
from gapkit.knowledge import MENUS
from gapkit.measurement import Measurement
from gapkit.probes.interval import bonferroni_level, measured, paired

# No error among n samples: an error rate below 3/n cannot be told from 0 (Hanley & Lippman-Hand 1983).
RULE_OF_THREE = 3.0
UNEARNED = 0.2
LEAST_ROWS = 20  # of a slice, as in gapkit.probes.slices
MOST_VALUES = 20  # of a declared column whose values are looked at one by one
OF_PROBABILITIES = (
    "kl",
    "dkd",
    "dist",
    "standardized_kl",
    "hard_labels",
)  # not of logits as numbers
TIMES = ("time", "date", "year", "quarter", "month", "week", "day", "hour", "period", "epoch")


def overconfident_teacher(case: Case) -> Finding | None:
    """The teacher's outputs carry little beyond the label, at the temperature it is heard at.

    Limit: the probability that it leaves to all other classes together, on train where it teaches, lies
    below 3/n, which n samples cannot tell from none (rule of three). That alone is even odds: a
    good teacher on an easy training set looks the same. It is more where the teacher is as sure of what it
    gets wrong off train, by a fifth of the gap or more (`unearned`), so that the labels are memorized ones,
    and the student is no better off distilled than by labels alone. Points are those of hearing the
    same teacher at a higher temperature, where that control is better.
    """
    left = left_to_others(case)
    if left is None or not answers_are_labels(case):
        return None
    same, scratch = case.controls.get("same recipe"), case.controls.get("scratch")
    seen = Evidence(
        text=f"On train the teacher leaves {left.value:.2g} of its probability to all other classes "
        f"together, at most {left.high:.2g}, n = {left.n:,}: its answers are the labels.",
        measurement=left,
        limit=f"{RULE_OF_THREE / left.n:.2g}, 3/n: below it, {left.n:,} samples cannot tell it from none",
    )
    probability, points = EVEN, unmeasured("points of softer answers", left.n)
    beside = _unearned_evidence(case)
    arms = [arm for arm in case.knowledge_arms if len(arm.seeds) >= LEAST_SEEDS]
    if same in arms and scratch in arms and same is not None and scratch is not None:
        against = case.difference("scratch minus same recipe", scratch, same)
        if against.high < 0:
            return None  # whatever its answers carry, the student learns from it
        probability = NO_CONTROL if memorized_labels(case) else EVEN
        better = softer(case, same, arms)
        if better is not None:
            points, probability = better
        beside += (
            Evidence(
                text=f"Labels alone against the student's own recipe: {case.say.difference_of(against)}.",
                measurement=against,
                limit="zero: being taught adds nothing when the interval does not lie below it",
            ),
        )
    return Finding(
        cause="overconfident_teacher",
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=(seen, *beside),
        would_change="A student of this size that learns more from these answers than from labels alone.",
        remedy=Remedy(
            text="Teach from an earlier checkpoint of the teacher, one trained with less confidence, or its "
            "layers; or raise the temperature until its answers differ from the labels."
        ),
    )


def answers_are_labels(case: Case) -> bool:
    """Whether what the teacher leaves to other classes cannot be told from none (rule of three)."""
    left = left_to_others(case)
    return left is not None and left.high < RULE_OF_THREE / left.n


def unearned(case: Case) -> Measurement | None:
    """How much surer the teacher is off train than it is right: mean confidence − accuracy; None when unknown.

    The interval joins the bounds of both, which is wider than theirs together would be.
    """
    if not case.measurements.has("confidence", of="teacher", split=SPLIT):
        return None
    sure = case.measurements.get("confidence", of="teacher", split=SPLIT)
    right = case.measurements.get(case.score_name, of="teacher", split=SPLIT)
    return sure.with_(
        name="confidence minus accuracy",
        value=sure.value - right.value,
        low=sure.low - right.high,
        high=sure.high - right.low,
        estimator="difference of means; bounds of both intervals joined",
    )


def memorized_labels(case: Case) -> bool:
    """Whether the teacher's answers are the labels, and off train surely surer than right, by a share of the gap.

    Teachers that knew what they were taught were too sure by up to an eighth of the gap where students lacked
    samples, teachers that had memorized wrong labels by .32 of it and more (planted, benchmarks/planted):
    `UNEARNED` lies between.
    """
    off = unearned(case)
    if off is None or not answers_are_labels(case):
        return False
    return off.low > 0 and off.value >= UNEARNED * case.gap.value


def _unearned_evidence(case: Case) -> tuple[Evidence, ...]:
    off = unearned(case)
    if off is None:
        return ()
    text = (
        f"Off train its confidence exceeds its accuracy by {case.say.difference_of(off)}: what it says there "
        "is no more than memorized labels allow."
        if memorized_labels(case)
        else f"Off train its confidence exceeds its accuracy by {case.say.difference_of(off)} only."
    )
    return (Evidence(text=text, measurement=off, limit="zero, and a fifth of the gap"),)


def softer(
    case: Case, same: ControlRun, arms: Sequence[ControlRun]
) -> tuple[Measurement, float] | None:
    """What the best arm of softer answers gains, and its probability; None when nothing clear.

    Softer are answers at a higher temperature than the own one, and standardized ones at any.
    """
    own = max((part.temperature for part in case.knowledge), default=1.0)
    menu = MENUS["classification"]
    warm = [
        arm
        for arm in arms
        if any(
            part.loss == "standardized_kl" or part.temperature > own
            for part in menu.get(arm.recipe, ())
            if part.teaches
        )
    ]
    if not warm:
        return None
    best = case.best(warm)
    points = case.difference("softer answers", best, same, len(warm))
    if not points.low > 0:
        return None
    return points, by_seeds(max(NO_CONTROL, above(points)), n_seeds(best, same))


def left_to_others(case: Case) -> Measurement | None:
    """1 - the teacher's confidence on train, at the temperature its student hears it at; None when unknown."""
    soft = [
        part.temperature
        for part in case.knowledge
        if part.kind == "response" and part.teaches and part.loss in OF_PROBABILITIES
    ]
    if case.knowledge and not soft:
        return None
    for item in case.measurements.curves:
        if (item.name, item.of, item.split) != ("confidence_profile", "teacher", "train"):
            continue
        at = int(np.argmin(np.abs(np.log(item.x / max(soft, default=1.0)))))
        return Measurement(
            name="probability left to other classes",
            of="teacher",
            split="train",
            value=1 - float(item.y[at]),
            low=1 - float(item.high[at]),
            high=1 - float(item.low[at]),
            unit="share",
            n=int(item.n[at]),
            estimator=f"1 - mean confidence at τ = {item.x[at]:g}; t interval",
        )
    return None


def scheme_mismatch(case: Case) -> Finding | None:
    """The given teacher is not the best source: a student beats it, on average or on a slice, or it ages."""
    return _beaten_by_a_control(case) or _beaten_on_a_slice(case) or _beaten(case) or _aged(case)


def _beaten_by_a_control(case: Case) -> Finding | None:
    """The best control of the student's size beats the teacher on average."""
    arms = _arms(case)
    if arms:
        best = case.best(arms)
        points = case.difference(f"{best.name} minus teacher", best, case.teacher, len(arms))
        if points.low > 0 and points.value >= _lead(case):
            who = f"A student of the given size, trained by {best.recipe},"
            return _other_source(
                case, points, by_seeds(above(points), len(best.seeds)), who, "on average"
            )
    return None


def _beaten(case: Case) -> Finding | None:
    """The student given beats the teacher on average."""
    if not case.gap.high < 0:
        return None
    points = case.difference("student minus teacher", case.student, case.teacher)
    probability = min(above(points), ONE_MODEL)
    return _other_source(case, points, probability, "The student", "on average")


def _beaten_on_a_slice(case: Case) -> Finding | None:
    """The student, or a control of its size, beats the teacher on a slice after paying for all looks.

    The measured slices count where the teacher itself is worse than on average: on a class that a weak
    student answers too often it beats any teacher. Slices made by the teacher's confidence do not count.
    """
    average = case.measurements.get(case.score_name, of="teacher", split=SPLIT)
    found = [(gap, "The student", 1) for gap in _ahead(case, average)]
    found += [
        (gap, f"A student of the given size, trained by {arm.recipe},", len(arm.seeds))
        for gap, arm in _arms_ahead(case)
    ]
    if not found:
        return None
    points, who, seeds = max(found, key=lambda item: item[0].low)
    chance = above(points)
    probability = min(chance, ONE_MODEL) if seeds == 1 else by_seeds(chance, seeds)
    return _other_source(case, points, probability, who, f"on {points.group}")


def weak_slice(case: Case) -> Measurement | None:
    """The declared slice on which the teacher surely stays below nine tenths of its average, the weakest; or None.

    A student that is level with it there may be held back by it: labels alone would tell. None too where
    the average is not above 0, of which no share means anything.
    """
    average = case.measurements.get(case.score_name, of="teacher", split=SPLIT).value
    declared = _declared(case)
    weak = [
        item
        for item in case.measurements.find(case.score_name, of="teacher", split=SPLIT)
        if item.group in declared and item.high < SUCCESS * average and average > 0
    ]
    return min(weak, key=lambda item: item.value, default=None)


def _ahead(case: Case, average: Measurement) -> Iterator[Measurement]:
    """Student minus teacher on each measured slice where that lies above zero and the teacher is weak."""
    for gap in case.measurements.find("gap", split=SPLIT, of="pair"):
        if not gap.group or not gap.high < 0 or OF_THE_TEACHER in gap.group:
            continue
        own = case.measurements.find(case.score_name, of="teacher", split=SPLIT, group=gap.group)
        if any(item.high < average.low for item in own) and -gap.value >= _lead(case):
            yield gap.with_(value=-gap.value, low=-gap.high, high=-gap.low, better="higher")


def open_slice(case: Case) -> Measurement | None:
    """The declared slice on which the teacher is weak, while it is open whether labels alone do better there; or None.

    Open until two seeds of labels alone, while their lead may be zero and may be one that counts.
    """
    weak, scratch = weak_slice(case), case.controls.get("scratch")
    if weak is None or scratch is None or len(scratch.seeds) < LEAST_SEEDS:
        return weak
    leads = [lead for lead, arm in _leads(case) if arm is scratch and lead.group == weak.group]
    return weak if any(not lead.low > 0 and lead.high >= _lead(case) for lead in leads) else None


def _arms_ahead(case: Case) -> Iterator[tuple[Measurement, ControlRun]]:
    """Controls that lead the teacher on a declared slice by what counts, and beyond zero."""
    for lead, arm in _leads(case):
        if lead.low > 0 and lead.value >= _lead(case):
            yield lead, arm


def _leads(case: Case) -> Iterator[tuple[Measurement, ControlRun]]:
    """Control minus teacher on each declared slice, corrected for all pairs."""
    arms, slices = _arms(case), _declared(case)
    level = bonferroni_level(LEVEL, len(arms) * len(slices))
    for group, rows in slices.items():
        groups = None if case.groups is None else np.asarray(case.groups)[rows]
        for arm in arms:
            interval = paired((arm.contributions - case.teacher)[:, rows], level, groups)
            name = f"{arm.name} minus teacher"
            yield measured(name, "student", SPLIT, interval, unit=case.unit, group=group), arm


def _declared(case: Case) -> dict[str, np.ndarray]:
    """Declared slices by name, and their rows."""
    return {
        f"{name}={value}": rows
        for name, column in case.slices.items()
        if len(values := np.unique(column)) <= MOST_VALUES
        for value in values
        if (rows := np.flatnonzero(column == value)).size >= LEAST_ROWS
    }


def _lead(case: Case) -> float:
    """A lead that counts: a tenth of the teacher's score, as far as a failing student would be behind."""
    return (1 - SUCCESS) * max(0.0, float(case.teacher.mean()))


def _arms(case: Case) -> list[ControlRun]:
    return [arm for arm in case.knowledge_arms if len(arm.seeds) >= LEAST_SEEDS]


def _other_source(
    case: Case, points: Measurement, probability: float, who: str, where: str
) -> Finding:
    return Finding(
        cause="scheme_mismatch",
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"{who} scores {case.say.difference_of(points)} more than the teacher {where}.",
                measurement=points,
                limit="zero, corrected for all that was looked at",
            ),
        ),
        would_change="More samples on which the teacher is ahead.",
        remedy=Remedy(
            text=f"Do not let this teacher decide {where}: learn from labels or peers there (schemes 'online' "
            "and 'self'), or from another teacher."
        ),
    )


def _aged(case: Case) -> Finding | None:
    """On a declared slice of time the teacher is worse than on average, beyond both intervals."""
    average = case.measurements.get(case.score_name, of="teacher", split=SPLIT)
    worse = [
        item
        for item in case.measurements.find(case.score_name, of="teacher", split=SPLIT)
        if item.group
        and "×" not in item.group
        and any(word_ in TIMES for word_ in item.group.partition("=")[0].lower().split("_"))
        and item.high < average.low
    ]
    if not worse:
        return None
    worst = min(worse, key=lambda item: item.high)
    probability = min(below(worst, average.value), NO_CONTROL)
    return Finding(
        cause="scheme_mismatch",
        points=unmeasured("points of another source", worst.n),
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"On {worst.group} the teacher scores {case.say.score_of(worst)}, on average "
                f"{case.say.score_of(average)}: what it knows does not stay valid.",
                measurement=worst,
                limit="the lower bound of its average, corrected for the slices looked at",
            ),
        ),
        would_change="More samples of that time on which the teacher scores as on average.",
        remedy=Remedy(
            text=f"Retrain the teacher on data like {worst.group}, or learn from labels there."
        ),
    )
