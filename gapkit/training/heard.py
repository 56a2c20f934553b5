"""What a training's losses were: those that are yet to be looked at, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass
class Means:
    """Running means by name."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, names: Sequence[str], rows: np.ndarray) -> None:
        """Add rows (steps, names)."""
        for name, column in zip(names, rows.T):
            self.sums[name] = self.sums.get(name, 0.0) + float(column.sum())
            self.counts[name] = self.counts.get(name, 0) + len(column)

    def values(self) -> dict[str, float]:
        """Name -> mean."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


@dataclass
class Pending:
    """Losses of some steps, still on the device so that no step waits for them.

    Attributes:
        names: "loss" and its terms. values: of each step. positions: samples of each step.
    """

    names: tuple[str, ...] = ()
    values: list[Tensor] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)

    def add(self, names: tuple[str, ...], values: Tensor, positions: np.ndarray) -> None:
        """One more step, whose names are those of the others."""
        self.names = names
        self.values.append(values)
        self.positions.append(positions)

    def rows(self) -> Tensor:
        """(steps, names)."""
        return torch.stack(self.values).double()

    def clear(self) -> None:
        """Forget all steps."""
        self.values, self.positions = [], []
