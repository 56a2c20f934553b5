"""Job: one training, wholly specified, and how it went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from gapkit.knowledge import Knowledge
from gapkit.plans import Stage
from gapkit.recipe import Recipe
from gapkit.training.answers import Kept, Source


@dataclass(frozen=True)
class Job:
    """One training, wholly specified.

    Attributes:
        model: the initialised model; trained in place. peers: those that train beside it.
        kept: each source's answers on train; None for one that is asked batch by batch.
        sources: the models that teach.
        folder: where checkpoints and the log lie.
        surest: (n,) positions of train, those first that the first source is surest of; None when no
            phase asks.
    """

    model: nn.Module
    stage: Stage
    recipe: Recipe
    seed: int
    sources: tuple[Source, ...]
    kept: tuple[Kept | None, ...]
    folder: Path
    peers: tuple[nn.Module, ...] = ()
    surest: np.ndarray | None = None

    @property
    def knowledge(self) -> tuple[Knowledge, ...]:
        """That of all phases."""
        return tuple(part for phase in self.stage.phases for part in phase.knowledge)


@dataclass(frozen=True)
class Curve:
    """How a training went: mean loss and validation score at some epochs, steps and seconds in all."""

    epochs: np.ndarray
    losses: np.ndarray
    scores: np.ndarray
    steps: int
    seconds: float
