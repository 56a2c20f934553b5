"""Case: the evidence of one diagnosis, and the paired differences that causes are judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gapkit.gap import ControlRun
from gapkit.knowledge import Knowledge
from gapkit.measurement import Measurement, Measurements
from gapkit.probes.interval import (
    bonferroni_level,
    difference_interval,
    measured,
    paired,
    undefined,
)
from gapkit.wording import Wording

SPLIT = "validation"  # validation decides
LEVEL = 0.95

Scores = ControlRun | np.ndarray


@dataclass(frozen=True)
class Case:
    """Measurements and controls of one study; everything is read on validation.

    Attributes:
        measurements: of the teacher and the user's student.
        controls: by name; empty when none were run.
        score_name: the task's score; unit: "share" or "".
        teacher_score: what the user believes the teacher scores; None when not said.
        left_out: names of controls that were wanted but not run.
        groups: (N,) names of validation samples that depend on each other; None for independent ones.
        student_history: scores by epoch of the user's own training; empty when not said.
        knowledge: what the user's student learned from; empty when not said.
        same_view: whether teacher and student see the same of a sample.
        slices: name -> (N,) declared value of each validation sample.
    """

    measurements: Measurements
    controls: dict[str, ControlRun] = field(default_factory=dict)
    score_name: str = "accuracy"
    unit: str = "share"
    teacher_score: float | None = None
    left_out: tuple[str, ...] = ()
    groups: Any = None
    student_history: tuple[float, ...] = ()
    knowledge: tuple[Knowledge, ...] = ()
    same_view: bool = True
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def say(self) -> Wording:
        """How this task's scores are put into words."""
        return Wording(unit=self.unit, score_name=self.score_name)

    @property
    def teacher(self) -> np.ndarray:
        """(N,) the teacher's contributions."""
        return self.measurements.scores("teacher", SPLIT)

    @property
    def student(self) -> np.ndarray:
        """(N,) the user's student's contributions."""
        return self.measurements.scores("student", SPLIT)

    @property
    def gap(self) -> Measurement:
        """Teacher minus student."""
        return self.difference("gap", self.teacher, self.student)

    @property
    def knowledge_arms(self) -> list[ControlRun]:
        """The student's own size under each knowledge, for as long as its recipe says."""
        return [
            run
            for name, run in self.controls.items()
            if name in ("same recipe", "scratch") or name.startswith("knowledge: ")
        ]

    @property
    def looks(self) -> int:
        """Differences looked at when the best knowledge is named: its interval is widened for them."""
        return max(1, len(self.knowledge_arms) - 1)

    def best(self, arms: Iterable[ControlRun]) -> ControlRun:
        """The arm of the highest mean among those with at least as many seeds as half the most."""
        arms = list(arms)
        most = max(len(arm.seeds) for arm in arms)
        return max((arm for arm in arms if 2 * len(arm.seeds) >= most), key=lambda arm: arm.mean)

    def difference(self, name: str, first: Scores, second: Scores, looks: int = 1) -> Measurement:
        """Mean difference first − second, in score units.

        Paired by sample, and by seed where both are controls. Its value is the difference of the two
        means over all their seeds, so that differences along a ladder add up; its width comes from
        the seeds that both have. Widened (Bonferroni) for the number of looks.
        """
        value = _mean(first) - _mean(second)
        level = bonferroni_level(LEVEL, looks)
        if isinstance(first, ControlRun) or isinstance(second, ControlRun):
            interval = paired(_paired(first, second), level, self.groups)
        else:
            interval = difference_interval(first, second, level, self.groups)
        shift = value - interval.value
        moved = replace(interval, value=value, low=interval.low + shift, high=interval.high + shift)
        note = f"; widened for {looks} comparisons" if looks > 1 else ""
        return measured(
            name,
            "student",
            SPLIT,
            moved,
            unit=self.unit,
            better="higher",
            estimator=f"{interval.method}, {interval.n_seeds} seed(s){note}",
        )


def unmeasured(name: str, n: int) -> Measurement:
    """Points that no training measured: nan, with that reason."""
    nothing = undefined("no control measured them", n)
    return measured(name, "student", SPLIT, nothing)


def n_seeds(first: Scores, second: Scores) -> int:
    """Seeds that both sides of a difference share; 1 where a side is a single model."""
    return _paired(first, second).shape[0]


def _mean(scores: Scores) -> float:
    return scores.mean if isinstance(scores, ControlRun) else float(np.mean(scores))


def _paired(first: Scores, second: Scores) -> np.ndarray:
    """(S, N) differences over the seeds that both have."""
    if isinstance(first, ControlRun) and isinstance(second, ControlRun):
        common = [seed for seed in first.seeds if seed in second.seeds]
        rows = [[run.seeds.index(seed) for seed in common] for run in (first, second)]
        if not common:
            return np.atleast_2d(first.contributions.mean(0) - second.contributions.mean(0))
        return first.contributions[rows[0]] - second.contributions[rows[1]]
    sides = [
        side.contributions if isinstance(side, ControlRun) else side for side in (first, second)
    ]
    return np.atleast_2d(sides[0] - sides[1])
