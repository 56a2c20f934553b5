"""Course: which samples a training sees at each step, and which knowledge holds there."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from gapkit import losses
from gapkit.errors import InputError
from gapkit.knowledge import Knowledge
from gapkit.plans import Phase, Stage
from gapkit.recipe import Recipe


class Course:
    """The steps of one training, the same for every process and after every resumption.

    Args:
        stage, recipe, seed: of the training.
        n: samples of train.
        world: processes that train together; each sees `batch_size` samples a step.
        surest: (n,) positions of train by the teacher's confidence, surest first; None when no phase
            asks for it.

    Raises:
        InputError: when a batch is too small for a loss, or train too small for one batch.
    """

    def __init__(
        self,
        stage: Stage,
        recipe: Recipe,
        seed: int,
        n: int,
        world: int = 1,
        surest: np.ndarray | None = None,
    ) -> None:
        self.stage, self.recipe, self.seed, self.n, self.world = stage, recipe, seed, n, world
        self.rank_of: np.ndarray | None = None
        self._sizes: dict[int, list[list[int]]] = {}
        if surest is not None:
            self.rank_of = np.empty(n, dtype=np.int64)
            self.rank_of[surest] = np.arange(n)
        for phase in stage.phases:
            self._check(phase)
        if n < 2 or not all(self.n_steps(epoch) for epoch in range(recipe.epochs)):
            raise InputError(
                f"Expected enough training samples for one step in every epoch of stage {stage.name!r} "
                f"but {n} samples give none"
            )

    def _check(self, phase: Phase) -> None:
        """Refuse losses that need a larger batch than there ever is, and easiest samples nobody named."""
        if phase.widens and self.rank_of is None:
            raise InputError(
                f"Expected samples in order of confidence for the easiest ones of stage "
                f"{self.stage.name!r} but got none"
            )
        for part in phase.knowledge:
            if part.kind == "label":
                continue
            least = losses.named(part.loss).least
            most = min(self.recipe.batch_size * self.world, self.n)
            if most < least:
                raise InputError(
                    f"Expected at least {least} samples in a batch for {part.loss!r} in stage "
                    f"{self.stage.name!r} but there are {most}"
                )

    @cached_property
    def _starts(self) -> list[int]:
        """First epoch of each phase, and the number of epochs at the end."""
        epochs = self.recipe.epochs
        starts, done = [], 0.0
        for phase in self.stage.phases:
            starts.append(next(e for e in range(epochs + 1) if e == epochs or e / epochs >= done))
            done = phase.until
        return [*starts, epochs]

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch."""
        return self.stage.phases[self._number(epoch)]

    def _number(self, epoch: int) -> int:
        return max(i for i, start in enumerate(self._starts[:-1]) if start <= epoch)

    def knowledge(self, epoch: int, step: int) -> tuple[Knowledge, ...]:
        """What is learned from at one step of an epoch, as it is then."""
        parts = self.phase(epoch).knowledge
        if not any(part.anneals for part in parts):
            return parts
        first, end = self._ends(epoch)
        steps = (end - first) * self.n_steps(epoch)
        done = (epoch - first) * self.n_steps(epoch) + step
        share = min(1.0, done / max(1, steps - 1))  # the last step of a phase has its end values
        return tuple(part.at(share) for part in parts)

    def _ends(self, epoch: int) -> tuple[int, int]:
        """First epoch of an epoch's phase, and of the next one."""
        number = self._number(epoch)
        return self._starts[number], self._starts[number + 1]

    def order(self, epoch: int) -> np.ndarray:
        """Positions of the samples of an epoch, shuffled by (seed, epoch); only the easiest when asked for."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
        kept = self._kept(epoch)
        if kept == self.n or self.rank_of is None:
            return order
        return order[self.rank_of[order] < kept]

    def _kept(self, epoch: int) -> int:
        """Samples of an epoch: all, or the easiest; at least one batch."""
        phase = self.phase(epoch)
        if not phase.widens:
            return self.n
        first, end = self._ends(epoch)
        share = phase.share_at((epoch - first) / max(1, end - first - 1))
        least = min(self.n, self.recipe.batch_size * self.world)
        return min(self.n, max(least, round(share * self.n)))

    def sizes(self, epoch: int) -> list[list[int]]:
        """Samples of each batch (over all processes) of each step of an epoch.

        A last batch is left out when a process would have fewer than two samples (on which BatchNorm
        fails), or when it is too small for a loss that compares samples.
        """
        if epoch in self._sizes:
            return self._sizes[epoch]
        left = self._kept(epoch)
        needs = [
            losses.named(part.loss).least
            for part in self.phase(epoch).knowledge
            if part.kind != "label"
        ]
        least = max([2 * self.world if self.n > 1 else 1, *needs])
        together = self.recipe.batch_size * self.world
        batches = [together] * (left // together)
        if left % together >= least:
            batches.append(left % together)
        group = self.recipe.accumulate
        steps = [batches[start : start + group] for start in range(0, len(batches), group)]
        return self._sizes.setdefault(epoch, steps)

    def n_steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        return len(self.sizes(epoch))

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the training."""
        return sum(self.n_steps(epoch) for epoch in range(self.recipe.epochs))

    def chunks(self, epoch: int, rank: int = 0, start: int = 0) -> list[list[np.ndarray]]:
        """Positions of one process' share of every batch, step by step, from step `start` on."""
        order, place, found = self.order(epoch), 0, []
        for step in self.sizes(epoch):
            batches = []
            for size in step:
                batches.append(np.array_split(order[place : place + size], self.world)[rank])
                place += size
            found.append(batches)
        return found[start:]
