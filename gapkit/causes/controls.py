"""Causes that controls tell: paired differences between short trainings, over seeds and samples.

A cause is found only when its interval excludes zero; nothing is claimed from a single seed.
"""

from __future__ import annotations

import math

import numpy as np

from gapkit.causes.case import LEVEL, Case, n_seeds
from gapkit.causes.confidence import LEAST_SEEDS, SURE_SEEDS, above, by_seeds, word
from gapkit.causes.layers import poor_view
from gapkit.causes.scores import SUCCESS, rising_history
from gapkit.causes.teacher import overconfident_teacher
from gapkit.gap import EARLIER, VIEW, Cause, ControlRun, Evidence, Finding, Remedy
from gapkit.measurement import Measurement
from gapkit.probes.interval import mean_interval

LEVELS_OFF = 0.25  # of the doubling before: errors that fall as 1/t², faster than any published learning curve
PREDICTION_SEEDS = 3  # of the recipe itself: the spread of one run is not had from two


def pipeline_fault(case: Case) -> Finding | None:
    """The same student under the same recipe, trained here, does far better.

    The user's student is one draw of that recipe, so its distance is held against the spread of
    single runs (`beyond_one_run`).
    """
    same = case.controls.get("same recipe")
    if same is None or len(same.seeds) < PREDICTION_SEEDS:
        return None
    points = beyond_one_run(case, same)
    if not points.low > 0:
        return None
    return told(
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


def beyond_one_run(case: Case, same: ControlRun) -> Measurement:
    """What gapkit's runs of the recipe gain over the user's single one, with a prediction interval.

    t·√(s²·(1 + 1/S) + v), s the spread of single runs between seeds (pooled over the controls while the
    recipe has few of its own), v the sampling variance; degrees of freedom after Satterthwaite.
    """
    from scipy.stats import t

    points = case.difference("same recipe by gapkit", same, case.student)
    n_seeds = len(same.seeds)
    df: float
    variance, df = case.seed_spread
    if n_seeds >= SURE_SEEDS:
        variance, df = float(np.var(same.scores, ddof=1)), n_seeds - 1
    gains = same.contributions.mean(0) - case.student
    sample = mean_interval(gains, LEVEL, case.groups).se ** 2
    if df == 0 or math.isinf(sample):
        return points.with_(low=-math.inf, high=math.inf)
    spread = variance * (1 + 1 / n_seeds)
    squares = spread**2 / df + sample**2 / (points.n - 1)
    df = (spread + sample) ** 2 / squares if squares > 0 else df
    half = float(t.ppf((1 + LEVEL) / 2, df)) * math.sqrt(spread + sample)
    how = f"mean difference; prediction interval of one run from {n_seeds} seeds, {df:.3g} degrees of freedom"
    return points.with_(low=points.value - half, high=points.value + half, estimator=how)


def harsh_targets(case: Case) -> Finding | None:
    """Gentler or other knowledge, or none, does better under the same recipe.

    Judged by all other knowledge together, which picks nothing, or by the best of it. Not where the
    teacher's answers are the labels: then they are not harsh but empty (overconfident_teacher); nor
    where the student was taught layers alone (uniform_transfer).
    """
    same, others = case.controls.get("same recipe"), case.other_knowledge
    if same is None or others is None or min(len(same.seeds), len(others.seeds)) < LEAST_SEEDS:
        return None
    if same.recipe != "scratch" and not _hears_answers(case):
        return None
    arms = [arm for arm in case.knowledge_arms if len(arm.seeds) >= LEAST_SEEDS]
    best = case.best(arms) if len(arms) >= 2 else same
    points, seeds = case.difference("other knowledge", best, same, case.looks), n_seeds(best, same)
    says = taught(best)
    limit = f"zero, by an interval widened for the {case.looks} arms it was picked from"
    if not points.low > 0:
        best = max(case.knowledge_arms, key=lambda arm: arm.mean)
        points, seeds = case.gain_of_others() or points, len(others.seeds)
        says, limit = "other knowledge, all kinds of it together,", "zero"
    empty = overconfident_teacher(case)
    if best.name == same.name or not points.low > 0 or (empty is not None and empty.points.low > 0):
        return None
    finding = told(
        "harsh_targets",
        points,
        min(seeds, len(same.seeds)),
        f"At the same size and length, {says} gains {case.say.difference_of(points)} over the "
        f"student's own recipe, {taught(same)}",
        limit,
        "More seeds in which the student's own recipe keeps up.",
        Remedy(text=f"Train with {best.recipe} instead of {same.recipe}.", knowledge=best.recipe),
    )
    return finding.with_(evidence=(*finding.evidence, *_from_labels(case, best.name)))


def _hears_answers(case: Case) -> bool:
    return not case.knowledge or any(
        part.kind in ("response", "relation") and part.teaches for part in case.knowledge
    )


def _from_labels(case: Case, named: str) -> tuple[Evidence, ...]:
    """How the student fares from labels alone, unless that is what was named already."""
    scratch, same = case.controls.get("scratch"), case.controls["same recipe"]
    if scratch is None or scratch.name == named:
        return ()
    against = case.difference("scratch minus same recipe", scratch, same)
    says = "better than" if against.low > 0 else "worse than" if against.high < 0 else "level with"
    text = f"From labels alone the student is {says} its distilled self: {case.say.difference_of(against)}."
    return (Evidence(text=text, measurement=against, limit="zero"),)


def teacher_gap(case: Case) -> Finding | None:
    """A smaller or an earlier teacher teaches this student better, with the same knowledge."""
    same = case.controls.get("same recipe")
    arms = [
        arm
        for arm in (case.controls.get("smaller teacher"), case.controls.get(EARLIER))
        if arm is not None and same is not None and n_seeds(arm, same) >= LEAST_SEEDS
    ]
    if same is None or not arms:
        return None
    best = case.best(arms)
    points = case.difference(best.name, best, same, len(arms))
    if not points.low > 0:
        return None
    if best.altered:
        who = "an earlier state of the teacher"
        remedy = Remedy(text="Teach from that earlier state of the teacher.", source="checkpoint")
    else:
        who = f"size {best.path[-2]}"
        remedy = Remedy(
            text=f"Put an assistant of size {best.path[-2]} between.", size=str(best.path[-2])
        )
    return told(
        "teacher_gap",
        points,
        n_seeds(best, same),
        f"Taught by {who} instead of the teacher, the student gains {case.say.difference_of(points)}",
        "zero",
        "More seeds in which the full teacher keeps up.",
        remedy,
    )


def undertrained(case: Case) -> Finding | None:
    """The same arm, trained longer, still rises; without that control, the user's own scores do.

    Where other knowledge clearly does better at the usual length, longer training is held against that, as
    in the waterfall: what gentler targets return is theirs.
    """
    longer = case.controls.get("longer")
    if longer is None:
        return rising_history(case)
    short = next((arm for arm in case.knowledge_arms if arm.recipe == longer.recipe), None)
    if short is None or n_seeds(longer, short) < LEAST_SEEDS:
        return None
    base: ControlRun | None = short
    if short.name == "same recipe" and harsh_targets(case) is not None:
        base = case.other_knowledge
    points = case.difference("longer", longer, base or short)
    if not points.low > 0 and base is short:
        points = _by_doubling(case, longer, short) or points
    if not points.low > 0:
        return None
    return told(
        "undertrained",
        points,
        n_seeds(longer, short),
        f"{longer.fraction:g} times as many epochs with {longer.recipe} gain {case.say.difference_of(points)}"
        + ("" if base is short else " over other knowledge at the usual length"),
        "zero",
        "Longer runs that no longer gain.",
        Remedy(
            text=f"Train at least {longer.fraction:g} times as long.",
            fraction=longer.fraction,
            knowledge=longer.recipe,
        ),
    )


def _by_doubling(case: Case, longer: ControlRun, short: ControlRun) -> Measurement | None:
    """Gain of a doubling as the mean of two: from half the length to twice; None where it levels off on the way.

    Widened for two looks.
    """
    shorter = case.controls.get("shorter")
    if shorter is None or short.name != "same recipe" or len(shorter.seeds) < LEAST_SEEDS:
        return None
    first, second = short.mean - shorter.mean, longer.mean - short.mean
    if not (first > 0 and second >= LEVELS_OFF * first):
        return None
    both = case.difference("longer", longer, shorter, looks=2)
    return both.with_(value=both.value / 2, low=both.low / 2, high=both.high / 2)


def input_gap(case: Case) -> Finding | None:
    """The student's view lacks what the teacher sees: on the teacher's view the same student does better.

    Where the student cannot be called with the teacher's view: on its own view even a student of the
    teacher's size lies below the teacher beyond zero although on train it agrees with it on nine
    tenths of the samples, the least that is published as a success. Without controls, the layers are
    asked.
    """
    if case.same_view:
        return None
    same, shown = case.controls.get("same recipe"), case.controls.get(VIEW)
    if same is not None and shown is not None and n_seeds(shown, same) >= LEAST_SEEDS:
        points = case.difference(VIEW, shown, same)
        says = f"Shown {VIEW}, the same student gains {case.say.difference_of(points)}"
        limit, seeds = "zero", n_seeds(shown, same)
    else:
        sized = case.controls.get("teacher-sized")
        if sized is None or len(sized.seeds) < LEAST_SEEDS:
            return poor_view(case) if shown is None else None
        points = case.difference("teacher minus teacher-sized student", case.teacher, sized)
        seen = float(sized.train_agreement.mean())
        if seen < SUCCESS:
            return None
        says = (
            f"On the student's view a student of the teacher's own size agrees with the teacher on "
            f"{100 * seen:.0f} % of the training set and stays {case.say.difference_of(points)} short off it"
        )
        limit, seeds = (
            "zero, with at least nine tenths of the training set agreed on",
            len(sized.seeds),
        )
    if not points.low > 0:
        return None
    return told(
        "input_gap",
        points,
        seeds,
        says,
        limit,
        "A student on its own view that does as well.",
        Remedy(
            text="Give the student what the teacher sees, or a teacher that sees no more than it."
        ),
    )


def taught(arm: ControlRun) -> str:
    """How an arm learns, as a phrase."""
    return "training on labels alone" if arm.recipe == "scratch" else f"learning by {arm.recipe}"


def told(
    cause: Cause,
    points: Measurement,
    seeds: int,
    text: str,
    limit: str,
    would_change: str,
    remedy: Remedy,
) -> Finding:
    """A finding by controls: how sure it is follows from its interval and its seeds."""
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
