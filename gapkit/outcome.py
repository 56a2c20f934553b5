"""Training, StageResult, Comparison and Outcome: what was reached. Data only."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from gapkit.measurement import Measurement, Measurements
from gapkit.plans import Predicted
from gapkit.record import Array, Record


class Training(Record):
    """One finished training: what was trained, how it went, and where its weights lie.

    Attributes:
        key: name of its folder under the run folder's `trainings`.
        path: sizes from the teacher to the trained model; one size for labels alone.
        recipe: name of the knowledge; fraction: of the study's epochs.
        epochs, steps, seconds, flops: what it took.
        curve_*: (k,) epoch, mean training loss, validation score at that epoch.
        score: on validation; contributions: (n,) per validation sample.
        peer_scores: on validation, of the stage's own model and its peers, when it had any.
        notes: what must be said of it, such as which weights it inherited.
        train_score: on (a bounded sample of) the training split.
        agreement, train_agreement: share of samples where it answers as the study's teacher does,
            on validation and on that sample of train.
    """

    key: str
    path: tuple[int | float | str, ...]
    recipe: str
    fraction: float = 1.0
    seed: int
    epochs: int
    steps: int
    seconds: float
    flops: float
    curve_epoch: Array = Field(default_factory=lambda: np.array([]))
    curve_loss: Array = Field(default_factory=lambda: np.array([]))
    curve_score: Array = Field(default_factory=lambda: np.array([]))
    score: float
    train_score: float
    agreement: float
    train_agreement: float
    contributions: Array
    peer_scores: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    weights_sha256: str = ""

    def __str__(self) -> str:
        path = " → ".join(str(size) for size in self.path)
        return f"{path} by {self.recipe}, seed {self.seed}: {self.score:.3f} on validation"


class Comparison(Record):
    """A paired difference between two models or two ways of training, on test.

    `decided` is "better", "worse" or "undecided"; `would_decide` says what would settle it.
    """

    name: str
    better_than: str
    points: Measurement
    n_seeds: int
    decided: Literal["better", "worse", "undecided"]
    would_decide: str = ""

    def __str__(self) -> str:
        found = self.points
        seeds = f"{self.n_seeds} seed{'s' * (self.n_seeds != 1)}"
        return (
            f"{self.name} against {self.better_than}: {found.value:+.3f} "
            f"[{found.low:+.3f}, {found.high:+.3f}] (n = {found.n}, {seeds}), {self.decided}"
        )


class StageResult(Record):
    """One stage of a plan, carried out: its trainings (one a seed), the kept one, measured again.

    `predicted` and `missed` hold the forecast of a single run against the kept run's validation score.
    """

    name: str
    size: int | float | str
    sources: tuple[str, ...]
    knowledge: str
    trainings: tuple[Training, ...] = Field(min_length=1)
    kept: int
    measurements: Measurements
    predicted: Predicted | None = None
    missed: bool = False
    reaction: str = ""

    @property
    def training(self) -> Training:
        """The training that was kept."""
        return self.trainings[self.kept]

    def __str__(self) -> str:
        scores = ", ".join(f"{training.score:.3f}" for training in self.trainings)
        kept = f", seed {self.training.seed} kept" if len(self.trainings) > 1 else ""
        return f"{self.name} of size {self.size}: {scores} on validation{kept}"


class Outcome(Record):
    """What carrying out a plan reached, on test, against what was there before."""

    study: str
    stages: tuple[StageResult, ...] = Field(min_length=1)
    score: Measurement
    before: Measurement
    teacher: Measurement
    predicted: Predicted
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    _student: Any = PrivateAttr(default=None)

    @property
    def student(self) -> Any:
        """The re-distilled student, an nn.Module (present when the outcome came from a Study)."""
        return self._student

    @property
    def measurements(self) -> Measurements:
        """The last stage's measurements."""
        return self.stages[-1].measurements

    def __str__(self) -> str:
        reached = f"{self.before.value:.3f} → {self.score.value:.3f}"
        return f"{self.study}: {reached} on test (teacher {self.teacher.value:.3f})"
