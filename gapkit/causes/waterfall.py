"""The waterfall: a telescoping ladder of scores from the user's student up to the teacher."""

from __future__ import annotations

from dataclasses import dataclass

from gapkit.causes.case import SPLIT, Case, Scores
from gapkit.gap import Cause, ControlRun, Step, Waterfall


@dataclass(frozen=True)
class Rung:
    """A model, or an arm of several seeds, that the ladder stands on; what reaching it answers."""

    label: str
    cause: Cause
    scores: Scores | None
    looks: int = 1


def build_waterfall(case: Case) -> Waterfall:
    """Student → same recipe → best knowledge and source → longer → teacher-sized → teacher.

    Parts add up to the gap by construction. A rung whose control was not run is left out and its
    step is merged into the next, which names it and is laid to no single cause.
    """
    previous: Scores = case.student
    steps: list[Step] = []
    waiting: list[Rung] = []
    for rung in _ladder(case):
        if rung.scores is None:
            waiting.append(rung)
            continue
        points = case.difference(rung.label, rung.scores, previous, rung.looks, ladder=True)
        steps.append(
            Step(
                name=" and ".join([*(item.label for item in waiting), rung.label]),
                cause="undetermined" if waiting else rung.cause,
                points=points,
                merged=tuple(item.label for item in waiting),
            )
        )
        previous, waiting = rung.scores, []
    return Waterfall(
        start=case.measurements.get(case.score_name, of="student", split=SPLIT),
        end=case.measurements.get(case.score_name, of="teacher", split=SPLIT),
        steps=tuple(steps),
    )


def _ladder(case: Case) -> list[Rung]:
    """The rungs above the student; None where a control was not run."""
    same = case.controls.get("same recipe")
    best = best_source(case)
    longer = case.controls.get("longer")
    taught_by_smaller = best is not None and len(best.path) > 2
    length = "longer training"
    if best and longer and (best.path, best.recipe) != (longer.path, longer.recipe):
        length += f" by {longer.recipe}"
    return [
        Rung("same recipe by gapkit", "pipeline_fault", same),
        Rung(
            "other teacher" if taught_by_smaller else "other knowledge",
            "teacher_gap" if taught_by_smaller else "harsh_targets",
            best,
            max(1, len(_sources(case)) - 1),
        ),
        Rung(length, "undertrained", longer),
        Rung("size", "capacity", case.controls.get("teacher-sized")),
        Rung(*_rest(case), case.teacher),
    ]


def _rest(case: Case) -> tuple[str, Cause]:
    """What lies between a teacher-sized student and the teacher: where views differ, not training alone."""
    if case.same_view:
        return "rest of the training", "optimization"
    return "view and rest of the training", "undetermined"


def best_source(case: Case) -> ControlRun | None:
    """The best knowledge or smaller teacher found at the student's size and length; None without controls."""
    arms = _sources(case)
    return case.best(arms) if len(arms) >= 2 else None


def _sources(case: Case) -> list[ControlRun]:
    """All that the student learned from at its size and length."""
    smaller = case.controls.get("smaller teacher")
    return [*case.knowledge_arms, *([] if smaller is None else [smaller])]
