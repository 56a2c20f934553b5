"""Goal: what a plan is to raise: the task's score, its worst slice, or the geometry kept; on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn

from gapkit.errors import unknown
from gapkit.measurement import Measurement
from gapkit.outcome import Training
from gapkit.planner import Trial
from gapkit.planning.history import TrialRow
from gapkit.probes.interval import Interval, measured, score_interval
from gapkit.probes.relation import distance_structure
from gapkit.training.answers import predict
from gapkit.training.trainings import Trainings

GOALS = ("score", "worst_slice", "relation")
LEAST_ROWS = 20  # of a slice, as in gapkit.probes.slices
MOST_ROWS = 1000  # samples whose distances are compared, as in gapkit.probes.relation


class Goal:
    """What a finished training reached, as one number, higher is better.

    "score": the task's. "worst_slice": the lowest mean score over declared slices, or over classes where
    none is declared, of at least 20 validation samples. "relation": correlation of the distances
    between its outputs with the teacher's (RKD's distance potential).

    The worst of several slices is a minimum of noisy means: lower than what the same slice shows on
    fresh data, by the more the smaller the slices are, and alike for every arm.

    Raises:
        InputError: for another name.
    """

    def __init__(self, name: str, trainings: Trainings) -> None:
        if name not in GOALS:
            raise unknown("objective", name, GOALS)
        self.name, self.trainings = name, trainings

    def of(self, training: Training) -> float:
        """Of a finished training."""
        if self.name == "score":
            return training.score
        if self.name == "worst_slice":
            return self._worst(training.contributions).value
        return self._alike(self._answers(self.trainings.model(training), self._few)).value

    def reached(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Trials told by their score, by what they reached of this goal; those whose training is gone are left out."""
        if self.name == "score":
            return list(rows)
        found = []
        for row in rows:
            training = self.trainings.done(row.path, row.recipe, row.seed, row.fraction)
            if training is not None:
                found.append(row.with_(score=self.of(training)))
        return found

    @property
    def of_teacher(self) -> float:
        """The teacher's worst slice, or geometry (1 for its own); a diagnosis holds its score."""
        return self._of_outputs(self.trainings.sources.outputs("teacher", "validation")).value

    def of_student(self, student: nn.Module) -> Measurement:
        """A student's worst slice, or geometry, with its interval; a diagnosis holds its score."""
        reached = self._of_outputs(self._answers(student))
        return measured(self.name, "student", "validation", reached, better="higher")

    def _of_outputs(self, outputs: torch.Tensor) -> Interval:
        """Of outputs (n, ...) on all of validation."""
        if self.name == "relation":
            return self._alike(outputs[torch.from_numpy(self._few)])
        targets = self.trainings.sources.reference("validation")
        return self._worst(self.trainings.task.contributions(outputs, targets))

    def _answers(self, model: nn.Module, positions: np.ndarray | None = None) -> torch.Tensor:
        trainings = self.trainings
        return predict(
            model.to(trainings.device),
            trainings.data,
            "validation",
            trainings.task,
            trainings.device,
            positions=positions,
        )

    def _worst(self, contributions: np.ndarray) -> Interval:
        slices = [
            contributions[column == value]
            for column in self._columns.values()
            for value, count in zip(*np.unique(column, return_counts=True), strict=True)
            if count >= LEAST_ROWS
        ]
        return score_interval(min(slices, default=contributions, key=np.mean))

    @cached_property
    def _columns(self) -> Mapping[str, np.ndarray]:
        declared = self.trainings.data.slices("validation")
        if declared or self.trainings.task.kind != "classification":
            return declared
        return {"class": self.trainings.sources.reference("validation").numpy().reshape(-1)}

    @cached_property
    def _few(self) -> np.ndarray:
        return np.arange(min(MOST_ROWS, self.trainings.data.size("validation")))

    def _alike(self, outputs: torch.Tensor) -> Interval:
        theirs = self.trainings.sources.outputs("teacher", "validation")[
            torch.from_numpy(self._few)
        ]
        return distance_structure(theirs.flatten(1), outputs.flatten(1))


class Pupil:
    """Trains a trial's arm and says what it reached; can be sent to another process.

    A training that fails counts as worse than all others: nan.
    """

    def __init__(self, trainings: Trainings, goal: str) -> None:
        self.trainings, self.goal = trainings, goal

    def __call__(self, trial: Trial) -> float:
        from gapkit.distiller import TrainingFailed

        try:
            training = self.trainings.arm(trial.path, trial.recipe, trial.seed, trial.fraction)
        except TrainingFailed:
            return float("nan")
        return Goal(self.goal, self.trainings).of(training)
