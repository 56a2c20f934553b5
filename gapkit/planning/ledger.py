"""Ledger: which trials were asked and told, what they scored, and what a further run would take."""

from __future__ import annotations

import math
from typing import Any

from gapkit.planning.arm import Arm, Run, Trial, hops


class Ledger:
    """Seeds and scores of every arm, prefixes included.

    Attributes:
        used: arm -> seeds asked or told.
        told: arm -> seed -> score; not finite where the training failed.
        version: rises with every score told.

    >>> ledger = Ledger()
    >>> ledger.tell(Trial((9, 3), "kl", 0), 0.7)
    >>> [trial.path for trial in ledger.missing(Arm((9, 3, 1), "kl"), seed=0)]  # the prefix is there
    [(9, 3, 1)]
    """

    def __init__(self) -> None:
        self.used: dict[Arm, set[int]] = {}
        self.told: dict[Arm, dict[int, float]] = {}
        self.version = 0

    def ask(self, trial: Trial) -> None:
        """The trial is not to be asked again."""
        self.used.setdefault(trial.arm, set()).add(trial.seed)

    def tell(self, trial: Trial, score: float) -> None:
        """Keep a score; a trial told twice counts once, with its last score."""
        self.ask(trial)
        self.told.setdefault(trial.arm, {})[trial.seed] = score
        self.version += 1

    @property
    def n_used(self) -> int:
        """How many trials were asked or told."""
        return sum(map(len, self.used.values()))

    @property
    def any_failed(self) -> bool:
        """Whether a training failed."""
        return any(not math.isfinite(s) for runs in self.told.values() for s in runs.values())

    def n_runs(self, arm: Arm) -> int:
        """How many finite scores of the arm were told."""
        return sum(map(math.isfinite, self.told.get(arm, {}).values()))

    def failing(self, arm: Arm) -> bool:
        """Whether a hop of the arm failed at least as often as it gave a score."""
        return any(
            2 * self.n_runs(hop) <= len(self.told[hop]) for hop in hops(arm) if self.told.get(hop)
        )

    def runs(self, size: Any) -> list[Run]:
        """Scores of paths that end at a size; a failure counts as worse than all of them."""
        found = [
            Run(arm, seed, score)
            for arm, runs in self.told.items()
            if arm.path[-1] == size
            for seed, score in runs.items()
        ]
        finite = [run.score for run in found if math.isfinite(run.score)]
        if not finite:
            return []
        bad = min(finite) - 0.5 * (max(finite) - min(finite))
        return [r if math.isfinite(r.score) else Run(r.arm, r.seed, bad) for r in found]

    def next_seeds(self, arm: Arm, count: int) -> list[int]:
        """The smallest seeds that the arm was not run with and no hop of it failed with."""
        used = set(self.used.get(arm, ()))
        for hop in hops(arm)[:-1]:
            used |= {s for s, score in self.told.get(hop, {}).items() if not math.isfinite(score)}
        return [seed for seed in range(count + len(used)) if seed not in used][:count]

    def missing(self, arm: Arm, seed: int) -> list[Trial]:
        """Trials of the path under that seed that were neither told nor asked, prefix first."""
        return [
            Trial(hop.path, hop.recipe, seed, hop.fraction)
            for hop in hops(arm)
            if seed not in self.used.get(hop, ())
        ]
