"""Schemes: offline, dense, online, self, cross-modal: how one training step uses knowledge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gapkit.errors import unknown
from gapkit.knowledge import Knowledge
from gapkit.teaching.objective import Gather, Objective, Term
from gapkit.teaching.taps import Answer


class Moment(NamedTuple):
    """What holds for one step.

    Attributes:
        knowledge: with the temperatures and weights of now.
        places: which of the stage's sources teach; weights: of each of them, None for equal.
        draw: random numbers of this step alone.
        gather: rows of all processes from those of this one; None for a single process.
    """

    knowledge: tuple[Knowledge, ...]
    places: tuple[int, ...] = ()
    weights: tuple[float, ...] | None = None
    draw: np.random.Generator | None = None
    gather: Gather | None = None


class Lesson:
    """What one batch is to teach: the teachers' answers, the targets, what holds now.

    A plain object, so that no precision plugin rounds what is in it to the student's.
    """

    def __init__(self, teachers: Sequence[Answer], targets: Tensor | None, moment: Moment) -> None:
        self.teachers, self.targets, self.moment = teachers, targets, moment


Scheme = Callable[[Objective, Sequence[Answer], Lesson], list[Term]]
"""(objective, answers of what trains, lesson) -> one step's loss, term by term."""


def offline(objective: Objective, learners: Sequence[Answer], lesson: Lesson) -> list[Term]:
    """Stable teachers: the first learner learns from their weighted mean."""
    moment = lesson.moment
    return objective.terms(
        learners[0],
        lesson.teachers,
        lesson.targets,
        moment.knowledge,
        moment.weights,
        moment.gather,
        moment.places,
    )


def dense(objective: Objective, learners: Sequence[Answer], lesson: Lesson) -> list[Term]:
    """All larger models of the chain teach; one of them, drawn anew for each batch, is left out.

    Source: Son et al. 2021 (densely guided distillation), arXiv 2009.08825.
    """
    teachers, moment = lesson.teachers, lesson.moment
    if moment.draw is None or len(teachers) < 2:
        return offline(objective, learners, lesson)
    out = int(moment.draw.integers(len(teachers)))
    kept = [position for position in range(len(teachers)) if position != out]
    weights = moment.weights and tuple(moment.weights[position] for position in kept)
    if weights and not sum(weights):
        weights = None
    fewer = moment._replace(places=tuple(moment.places[i] for i in kept), weights=weights)
    return offline(objective, learners, Lesson([teachers[i] for i in kept], lesson.targets, fewer))


def online(objective: Objective, learners: Sequence[Answer], lesson: Lesson) -> list[Term]:
    """Peers learn together: each from the labels and from the mean of the others, and of teachers if any.

    Source: Zhang et al. 2018 (deep mutual learning), arXiv 1706.00384, equations 5 to 8.
    """
    found = []
    for position, learner in enumerate(learners):
        others = [peer.detached() for place, peer in enumerate(learners) if place != position]
        terms = _taught(objective, learner, [*others, *lesson.teachers], lesson)
        found += [term._replace(name=f"{term.name} of peer {position + 1}") for term in terms]
    return found


def deep_to_shallow(objective: Objective, learners: Sequence[Answer], lesson: Lesson) -> list[Term]:
    """The deepest output teaches the exits; itself it learns from teachers, or from labels alone.

    Source: Zhang et al. 2019 (be your own teacher), arXiv 1905.08094, equations 4 and 5, without their
    feature term.
    """
    if lesson.teachers:
        found = offline(objective, learners[:1], lesson)
    else:
        labels = [Knowledge(kind="label")]
        found = objective.terms(learners[0], (), lesson.targets, labels)
    deepest = learners[0].detached()
    for position, learner in enumerate(learners[1:]):
        terms = _taught(objective, learner, [deepest], lesson)
        found += [term._replace(name=f"{term.name} of exit {position + 1}") for term in terms]
    return found


def _taught(
    objective: Objective, learner: Answer, teachers: Sequence[Answer], lesson: Lesson
) -> list[Term]:
    """What one learner learns from those beside it, counted alike."""
    moment = lesson.moment
    return objective.terms(learner, teachers, lesson.targets, moment.knowledge, None, moment.gather)


SCHEMES: dict[str, Scheme] = {
    "offline": offline,
    "dense": dense,
    "online": online,
    "self": deep_to_shallow,
    "cross_modal": offline,  # what differs is the data's two views
}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name."""
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]
