"""Causes that controls tell: paired differences between short trainings, over seeds and samples.

A cause is found only when its interval excludes zero; nothing is claimed from a single seed.
"""

from __future__ import annotations

import math

import numpy as np

from gapkit.case import LEVEL, Case, Scores, n_seeds
from gapkit.causes_layers import poor_view
from gapkit.causes_scores import SUCCESS, rising_history
from gapkit.causes_teacher import overconfident_teacher
from gapkit.confidence import LEAST_SEEDS, above, by_seeds, word
from gapkit.gap import Cause, ControlRun, Evidence, Finding, Remedy
from gapkit.measurement import Measurement


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
    """Gentler or other knowledge, or none, does better under the same recipe.

    Not where the teacher's answers are the labels: then they are not harsh but empty
    (overconfident_teacher).
    """
    same = case.controls.get("same recipe")
    arms = [arm for arm in case.knowledge_arms if len(arm.seeds) >= LEAST_SEEDS]
    if same is None or len(arms) < 2 or len(same.seeds) < LEAST_SEEDS:
        return None
    best = case.best(arms)
    points = case.difference("other knowledge", best, same, case.looks)
    if best.name == same.name or not points.low > 0 or overconfident_teacher(case) is not None:
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
    """The same arm, trained longer, still rises; without that control, the user's own scores do."""
    longer = case.controls.get("longer")
    if longer is None:
        return rising_history(case)
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
    if not points.low > 0 or input_gap(case) is not None:
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


def input_gap(case: Case) -> Finding | None:
    """The student's view lacks what the teacher sees: on it, even the teacher's size falls short off train.

    Limit: a student of the teacher's size lies below the teacher beyond zero although on train it agrees
    with it on nine tenths of the samples, the least that is published as a success: it can be trained, so
    what it lacks is in the view. Without that control, the layers are asked.
    """
    sized = case.controls.get("teacher-sized")
    if case.same_view:
        return None
    if sized is None or len(sized.seeds) < LEAST_SEEDS:
        return poor_view(case)
    points = case.difference("teacher minus teacher-sized student", case.teacher, sized)
    seen = float(sized.train_agreement.mean())
    if not points.low > 0 or seen < SUCCESS:
        return None
    return _finding(
        "input_gap",
        points,
        len(sized.seeds),
        f"On the student's view a student of the teacher's own size agrees with the teacher on {100 * seen:.0f} % "
        f"of the training set and stays {case.say.difference_of(points)} short off it",
        "zero, with at least nine tenths of the training set agreed on",
        "A teacher-sized student on this view that reaches the teacher.",
        Remedy(
            text="Give the student what the teacher sees, or a teacher that sees no more than it."
        ),
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
    probability = by_seeds(above(points), seeds)
    return Finding(
        cause=cause,
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=(Evidence(text=text + ".", measurement=points, limit=limit),),
        would_change=would_change,
        remedy=remedy,
    )
