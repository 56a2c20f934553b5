"""Arm, Trial, Run: what can be trained, one training of it, and what that scored."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, NamedTuple

SCRATCH = "scratch"


class Arm(NamedTuple):
    """What can be run: a path of sizes, the recipe of every hop, and the fraction of full training."""

    path: tuple[Hashable, ...]
    recipe: str
    fraction: float = 1.0

    @property
    def n_assistants(self) -> int:
        """Models between the teacher and the last one; 0 for scratch."""
        return max(0, len(self.path) - 2)


class Trial(NamedTuple):
    """One training: the last model of `path`, taught by the one before it (nobody, when it is alone).

    Attributes:
        path: sizes from the teacher to the model trained; (size,) with recipe "scratch" for labels alone.
        recipe: of every hop of the path.
        seed: of the initialisation and the data order; a path's prefix has the same.
        fraction: of a full training; the prefix has the same.
    """

    path: tuple[Any, ...]
    recipe: str
    seed: int
    fraction: float = 1.0

    @property
    def arm(self) -> Arm:
        """What this is one training of."""
        return Arm(self.path, self.recipe, self.fraction)

    def grows_from(self, other: Trial) -> bool:
        """Whether the other is this training, or a prefix that it is built on."""
        mine, its = (
            (self.recipe, self.seed, self.fraction),
            (other.recipe, other.seed, other.fraction),
        )
        return mine == its and self.path[: len(other.path)] == other.path


class Run(NamedTuple):
    """One measured score (finite, higher is better) of an arm under one seed."""

    arm: Arm
    seed: int
    score: float


@lru_cache(maxsize=100_000)
def hops(arm: Arm) -> tuple[Arm, ...]:
    """The arm and the prefixes that it is built on, first hop first.

    >>> [hop.path for hop in hops(Arm((9, 3, 1), "kl"))]
    [(9, 3), (9, 3, 1)]
    """
    prefixes = (Arm(arm.path[:n], arm.recipe, arm.fraction) for n in range(2, len(arm.path)))
    return (*prefixes, arm)
