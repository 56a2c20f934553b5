"""Cause, Evidence, Remedy, Finding, Step, Waterfall and Gap: what a diagnosis says. Data only."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from gapkit.measurement import Measurement
from gapkit.plans import Stage
from gapkit.record import Array, Record

Cause = Literal[
    "no_gap",
    "harsh_targets",
    "teacher_gap",
    "overconfident_teacher",
    "blind_layer",
    "uniform_transfer",
    "scheme_mismatch",
    "false_success",
    "undertrained",
    "optimization",
    "coverage",
    "input_gap",
    "pipeline_fault",
    "harness_fault",
    "capacity",
    "undetermined",
]

MEANINGS: dict[str, str] = {
    "no_gap": "student equals teacher within noise",
    "harsh_targets": "the soft targets ask for more than this student can use",
    "teacher_gap": "a smaller or earlier teacher teaches this student better",
    "overconfident_teacher": "the teacher's outputs carry little beyond the label",
    "blind_layer": "a teacher layer that the student's architecture cannot express",
    "uniform_transfer": "layers weighted alike though few matter",
    "scheme_mismatch": "the given teacher is not the best source",
    "false_success": "good on average, bad on a slice",
    "undertrained": "more training still helps",
    "optimization": "even a teacher-sized student trained this way falls short",
    "coverage": "agrees with the teacher on the training set, not off it",
    "input_gap": "the student's view lacks what the teacher sees",
    "pipeline_fault": "the same student, trained by gapkit under the same recipe, does far better",
    "harness_fault": "teacher and data do not fit",
    "capacity": "the student's size bounds what is left",
    "undetermined": "the evidence does not decide",
}


HALF, RATE, VIEW = "half the samples", "another learning rate", "the teacher's view"
EARLIER, LIKE_TEACHER = "an earlier teacher", "the teacher's architecture"
"""What a control alters of the study's own training."""

ALIKE = "teacher"
"""The size of a network like a teacher that is not of the family."""


class Evidence(Record):
    """A sentence, and the measurement it rests on; `limit` says what the value was held against, and why."""

    text: str
    measurement: Measurement
    limit: str = ""

    def __str__(self) -> str:
        return self.text


class Remedy(Record):
    """What to do: words, and the knowledge, size, source, length or rate that a plan can try.

    `stages` spell it out, to be put into a plan as they are; empty for what no training mends.
    """

    text: str
    knowledge: str = ""
    fraction: float = 1.0
    size: str = ""
    source: str = ""
    rate: float = 1.0
    stages: tuple[Stage, ...] = ()

    def __str__(self) -> str:
        return self.text


class Finding(Record):
    """One cause that holds, the points it explains and why it is believed.

    `points` is in score units (a share of 1 for accuracy): what the remedy recovers; nan with a reason
    where no training measured it. `probability` that the cause holds, from 0 to 1 (gapkit.causes.confidence says
    how it is had; 0 where nothing is stated), `confidence` its word.
    """

    cause: Cause
    points: Measurement
    confidence: Literal["high", "moderate", "low"]
    probability: float = Field(default=0.0, ge=0, le=1)
    evidence: tuple[Evidence, ...] = Field(min_length=1)
    would_change: str
    remedy: Remedy

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of the points lies above zero."""
        return self.points.low > 0

    def __str__(self) -> str:
        return f"{self.cause}: {MEANINGS[self.cause]}"


class Step(Record):
    """One rung of the waterfall: a paired difference with its interval."""

    name: str
    cause: Cause
    points: Measurement
    merged: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.points.value:+.3f}"


class Waterfall(Record):
    """From the student's score to the teacher's; the steps add up to the gap by construction."""

    start: Measurement
    end: Measurement
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        steps = "".join(f"{step}; " for step in self.steps)
        return f"student {self.start.value:.3f}; {steps}teacher {self.end.value:.3f}"


class ControlRun(Record):
    """A control: one arm trained with S seeds, scored on the N validation samples.

    `scores` (S,), `contributions` (S, N), `agreement` with the teacher on validation (S,) and on
    train (S,), `train_scores` (S,); `cost` in student trainings, of all seeds together. `altered` names
    what about the training differs from the study's own (gapkit.causes.variants); `rate` is a factor on its
    learning rate.
    """

    name: str
    question: str
    path: tuple[int | float | str, ...]
    recipe: str
    fraction: float = 1.0
    seeds: tuple[int, ...] = Field(min_length=1)
    scores: Array
    contributions: Array
    agreement: Array
    train_agreement: Array
    train_scores: Array = Field(default_factory=lambda: np.array([]))
    cost: float = 0.0
    altered: str = ""
    rate: float = 1.0

    @property
    def mean(self) -> float:
        """Mean validation score over the seeds."""
        return float(np.mean(self.scores))

    def __str__(self) -> str:
        path = " → ".join(map(str, self.path))
        length = "" if self.fraction == 1 else f", ×{self.fraction:g}"
        return (
            f"{self.name} ({path} by {self.recipe}{length}): {self.mean:.3f} on validation, "
            f"n = {len(self.seeds)} seeds; cost {self.cost:.1f} student trainings"
        )


class Gap(Record):
    """The diagnosis: cause, findings by points explained, waterfall, and the controls behind them."""

    study: str
    cause: Cause
    verdict: str
    student: Measurement
    teacher: Measurement
    findings: tuple[Finding, ...] = Field(min_length=1)
    waterfall: Waterfall
    controls: tuple[ControlRun, ...] = ()
    budget: float = 0.0
    spent: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def open_slice(self) -> str:
        """The slice on which nothing decides yet whether the teacher is the best source; "" where there is none.

        Student and teacher are level then, and the teacher itself is weak there.
        """
        level = any(finding.cause == "no_gap" for finding in self.findings)
        first = self.findings[0]
        return (
            first.evidence[0].measurement.group if first.cause == "undetermined" and level else ""
        )

    def __str__(self) -> str:
        return f"{self.study}: {self.cause}. {self.verdict}"
