"""Grounds and Gate: what the quality of a distillation is judged on, and one judgement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from gapkit.causes.case import SPLIT, Case
from gapkit.gap import Gap
from gapkit.measurement import Measurement, Measurements
from gapkit.outcome import Outcome
from gapkit.plans import Plan
from gapkit.record import Record
from gapkit.wording import Wording


class Gate(Record):
    """One question of quality: its answer, the reason in a sentence or two, and what that rests on.

    `state` is "open" where the answer was not measured yet; the reason then says what would settle it.
    """

    name: str
    state: Literal["passed", "failed", "open"]
    reason: str
    evidence: tuple[Measurement, ...] = ()

    def __str__(self) -> str:
        return f"{self.state:<6}  {self.name}: {self.reason}"


@dataclass(frozen=True)
class Grounds:
    """What gates and the choice of knowledge are judged on.

    Attributes:
        measurements: of the teacher and the failing student.
        gap, plan, outcome: what was diagnosed, planned and reached, where it was.
        task: its kind; score_name, unit: of its score.
        refused: names of standard mixtures that the task's outputs are too small for.
        same_view: whether teacher and student see the same thing.
        groups: (N,) names of validation samples that depend on each other; None for independent ones.
    """

    measurements: Measurements
    gap: Gap | None = None
    plan: Plan | None = None
    outcome: Outcome | None = None
    task: str = "classification"
    score_name: str = "accuracy"
    unit: str = "share"
    refused: tuple[str, ...] = ()
    same_view: bool = True
    groups: Any = None

    @property
    def say(self) -> Wording:
        """How scores are put into words."""
        return Wording(unit=self.unit, score_name=self.score_name)

    @property
    def case(self) -> Case:
        """The measurements and controls as a diagnosis reads them, on validation."""
        controls = {} if self.gap is None else {run.name: run for run in self.gap.controls}
        return Case(
            measurements=self.measurements,
            controls=controls,
            score_name=self.score_name,
            unit=self.unit,
            groups=self.groups,
        )

    @cached_property
    def lead(self) -> Measurement | None:
        """Teacher minus failing student, paired over the validation samples; None when not measured."""
        known = {(item.of, item.split) for item in self.measurements.contributions}
        if not {("teacher", SPLIT), ("student", SPLIT)} <= known:
            return None
        found = self.case.gap
        return found if math.isfinite(found.low) and math.isfinite(found.high) else None

    @cached_property
    def lost_slices(self) -> tuple[Measurement, ...]:
        """Slices on which the teacher is worse than the student beyond noise, the worst first."""
        found = self.measurements.find("gap", of="pair", split=SPLIT)
        return tuple(
            sorted((item for item in found if item.group and item.high < 0), key=lambda i: i.value)
        )

    def stands(self, difference: Measurement) -> str:
        """How the teacher stands to the student by a difference teacher − student, in words."""
        if difference.low > 0:
            return f"ahead of the student by {self.say.magnitude(difference)}"
        if difference.high < 0:
            return f"behind the student by {self.say.magnitude(difference)}"
        return f"level with the student within noise ({self.say.difference_of(difference)})"


def settled_by(verb: str) -> str:
    """The command that answers an open gate.

    >>> settled_by("plan")
    '`gapkit plan` settles it.'
    """
    return f"`gapkit {verb}` settles it."
