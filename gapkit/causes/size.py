"""Causes that sizes and rates tell: a training that learns too little at any size, and a size that bounds it."""

from __future__ import annotations

from gapkit.causes.case import Case, Scores, n_seeds
from gapkit.causes.confidence import LEAST_SEEDS
from gapkit.causes.controls import taught, told
from gapkit.gap import RATE, ControlRun, Evidence, Finding, Remedy
from gapkit.measurement import Measurement


def optimization(case: Case) -> Finding | None:
    """Another learning rate does better, or even a teacher-sized student does not learn the training set."""
    return _other_rate(case) or _teacher_sized_falls_short(case)


def _other_rate(case: Case) -> Finding | None:
    same, rate = case.controls.get("same recipe"), case.controls.get(RATE)
    if same is None or rate is None or n_seeds(rate, same) < LEAST_SEEDS:
        return None
    points = case.difference(RATE, rate, same)
    if not points.low > 0:
        return None
    return told(
        "optimization",
        points,
        n_seeds(rate, same),
        f"With {rate.rate:g} times the learning rate the same student gains {case.say.difference_of(points)}",
        "zero",
        "More seeds in which the recipe's own rate keeps up.",
        Remedy(
            text=f"Train with {rate.rate:g} times the learning rate, and tune it from there.",
            rate=rate.rate,
        ),
    )


def _teacher_sized_falls_short(case: Case) -> Finding | None:
    """A student of the teacher's own size stays behind on the training set itself: it was not trained well.

    Not what longer training may make up for (undertrained), not what a teacher memorized, and not what is
    lost off the training set alone (coverage, input_gap): half of it must be missing on train.
    """
    sized, train = case.controls.get("teacher-sized"), case.teacher_on_train
    if sized is None or len(sized.seeds) < LEAST_SEEDS or train is None:
        return None
    points = case.difference("teacher minus teacher-sized student", case.teacher, sized)
    if not len(sized.train_scores) or _may_rise(case, points) or case.teacher_memorized:
        return None
    missing = train - float(sized.train_scores.mean())
    if not points.low > 0 or missing < points.value / 2:
        return None
    return told(
        "optimization",
        points,
        len(sized.seeds),
        f"A student of the teacher's own size, trained this way, stays {case.say.difference_of(points)} short, "
        f"on the training set {case.say.difference(missing)}",
        "zero, with at least half of it missing on the training set too",
        "A teacher-sized student that reaches the teacher.",
        Remedy(text="Tune the training (schedule, rate, length) at the teacher's size first."),
    )


def _may_rise(case: Case, points: Measurement) -> bool:
    """Whether longer training gains half of that, or a quarter and surely some, or may for all that is known.

    What still rises may rise for long, at the teacher's size too; without two seeds of it nothing is known.
    """
    longer = case.controls.get("longer")
    short = next(
        (arm for arm in case.knowledge_arms if longer and arm.recipe == longer.recipe), None
    )
    if longer is None or short is None or len(longer.seeds) < LEAST_SEEDS:
        return True
    gained = case.difference("longer", longer, short)
    return gained.value > points.value / (4 if gained.low > 0 else 2)


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
    gained = _by_size(case, larger, same)
    top: Scores = sized if sized is not None and len(sized.seeds) >= LEAST_SEEDS else case.teacher
    longer = case.controls.get("longer")
    ways = [*case.knowledge_arms, *([] if longer is None else [longer])]
    reached = case.best([arm for arm in ways if len(arm.seeds) >= LEAST_SEEDS])
    points = case.difference("size", top, reached)
    if not (gained.low > 0 and points.low > 0):
        return None
    seen = [float(arm.train_agreement.mean()) for arm in (same, larger)]
    finding = told(
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


def _by_size(case: Case, larger: ControlRun, same: ControlRun) -> Measurement:
    """What a larger size gains over the own recipe; over its longer trainings too where that alone leaves it open.

    Widened for both looks then.
    """
    name = f"size {larger.path[-1]} minus same recipe"
    gained, own = case.difference(name, larger, same), case.own_knowledge
    if gained.low > 0 or own is None or own is same:
        return gained
    return case.difference(name, larger, own, looks=2)
