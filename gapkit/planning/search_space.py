"""SearchSpace: the arms that end at the student, single hops always, chains as many as can be weighed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from gapkit.errors import InputError, unknown
from gapkit.planning.arm import SCRATCH, Arm, Trial, hops

MAX_SIZES = 20
ALL_SUBSETS, ALL_PAIRS, BEAM, BEAM_RECIPES = 5, 12, 8, 4
FIRST_LOOKS = {1: (0,), 2: (0, 1), 3: (1, 0, 2)}

Worth = Callable[[Sequence[Arm]], np.ndarray]
"""Arms -> how promising each is (a,)."""


@dataclass(frozen=True)
class SearchSpace:
    """Sizes, prices, recipes and fractions, and the arms that they allow.

    Attributes:
        sizes: teacher first, student last. cost: size -> student trainings, of all but the teacher.
        recipes: names of the ways to teach. fractions: of a full training.
        chains_only: recipes that say nothing without an assistant, such as dense guidance.
    """

    sizes: tuple[Any, ...]
    cost: Mapping[Any, float]
    recipes: tuple[str, ...]
    fractions: tuple[float, ...]
    chains_only: frozenset[str] = frozenset()

    @property
    def middle(self) -> tuple[Any, ...]:
        """The assistants' sizes."""
        return self.sizes[1:-1]

    @property
    def taught_by(self) -> list[str]:
        """The recipes that need a teacher."""
        return [name for name in self.recipes if name != SCRATCH]

    def price(self, arm: Arm) -> float:
        """Student trainings that carrying out the whole path takes.

        >>> SearchSpace((9, 3, 1), {3: 2.0, 1: 1.0}, ("kl",), (1.0,)).price(Arm((9, 3, 1), "kl", 0.5))
        1.5
        """
        return sum(self.cost[hop.path[-1]] * hop.fraction for hop in hops(arm))

    def known(self, trial: Any) -> Trial:
        """The trial in this space's own terms.

        Raises:
            InputError: when its path does not lead down these sizes, or its fraction is not above 0.
        """
        path, recipe = tuple(trial.path), trial.recipe
        for size in path:
            if size not in self.sizes:
                raise unknown("size", size, self.sizes)
        ranks = [self.sizes.index(size) for size in path]
        if recipe == SCRATCH and (len(path) != 1 or ranks == [0]):
            raise InputError(
                f"Expected a path of one size below the teacher's for {SCRATCH!r} but got {path}"
            )
        if recipe != SCRATCH and (len(path) < 2 or ranks[0] != 0 or ranks != sorted(set(ranks))):
            raise InputError(
                f"Expected a path from the teacher {self.sizes[0]!r} down the sizes but got {path}"
            )
        if not (math.isfinite(trial.fraction) and trial.fraction > 0):
            raise InputError(f"Expected a fraction above 0 but got {trial.fraction!r}")
        return Trial(path, recipe, int(trial.seed), float(trial.fraction))

    def single_hops(self) -> list[Arm]:
        """Every recipe straight from the teacher, and scratch; the fraction nearest 1 first."""
        every = self.recipes if SCRATCH in self.recipes else (*self.recipes, SCRATCH)
        names = [name for name in every if name not in self.chains_only]
        direct, alone = (self.sizes[0], self.sizes[-1]), self.sizes[-1:]
        nearest_full = sorted(self.fractions, key=lambda f: (abs(math.log(f)), f))
        return [
            Arm(alone if name == SCRATCH else direct, name, fraction)
            for fraction in nearest_full
            for name in names
        ]

    def first_looks(self, recipe: str, fraction: float) -> list[Arm]:
        """Up to three chains of one assistant spread over the sizes, the middle one first."""
        n = len(self.middle)
        if not n:
            return []
        places = FIRST_LOOKS.get(n) or (n // 2, n // 6, n - 1 - n // 6)
        paths = [(self.sizes[0], self.middle[i], self.sizes[-1]) for i in places if i < n]
        return [Arm(path, recipe, fraction) for path in paths]

    def chains(self, worth: Worth) -> list[Arm]:
        """Arms with assistants: all subsets of few sizes, up to two of more, a beam's of many."""
        if not self.middle or not self.taught_by:
            return []
        most = len(self.middle) if len(self.middle) <= ALL_SUBSETS else 2
        alone = [self._chain((size,), name) for size in self.middle for name in self.taught_by]
        wide, names = self.middle, self.taught_by
        if len(wide) > ALL_PAIRS or len(names) * len(wide) ** 2 > 4 * ALL_PAIRS**2:
            wide, names = self._beam(worth(alone))
        sets = [chosen for n in range(2, most + 1) for chosen in combinations(wide, n)]
        if len(self.middle) > most:
            sets += [wide[i:j] for i in range(len(wide)) for j in range(i + 3, len(wide) + 1)]
        long = [self._chain(assistants, name) for assistants in sets for name in names]
        return [Arm(a.path, a.recipe, f) for a in [*alone, *long] for f in self.fractions]

    def _chain(self, assistants: tuple[Any, ...], name: str) -> Arm:
        return Arm((self.sizes[0], *assistants, self.sizes[-1]), name)

    def _beam(self, worth: np.ndarray) -> tuple[tuple[Any, ...], list[str]]:
        """The assistants and the recipes that look best in chains of one assistant."""
        table = worth.reshape(len(self.middle), -1)
        assistants = sorted(np.argsort(-table.max(1), kind="stable")[:BEAM])
        recipes = sorted(np.argsort(-table.max(0), kind="stable")[:BEAM_RECIPES])
        return tuple(self.middle[i] for i in assistants), [self.taught_by[i] for i in recipes]


def check_space(
    sizes: Sequence[Hashable],
    cost: Mapping[Any, float],
    recipes: Sequence[str],
    fractions: Sequence[float],
) -> list[str]:
    """What does not fit, a sentence each; empty when all does."""
    wrong = []
    sizes = tuple(sizes)
    if isinstance(recipes, str):
        wrong.append(f"Expected a list of recipe names but got the string {recipes!r}")
    if not 2 <= len(sizes) <= MAX_SIZES or len(set(sizes)) != len(sizes):
        wrong.append(
            f"Expected 2 to {MAX_SIZES} different sizes, teacher first, but got {list(sizes)}"
        )
    for size in sizes[1:]:
        if size not in cost:
            wrong.append(f"Expected a cost for size {size!r} but got none")
        elif not positive(cost[size]):
            wrong.append(f"Expected a cost above 0 for size {size!r} but got {cost[size]!r}")
    if not recipes or len(set(recipes)) != len(recipes):
        wrong.append(f"Expected at least one recipe, each once, but got {list(recipes)}")
    return wrong + _check_fractions(fractions)


def _check_fractions(fractions: Sequence[float]) -> list[str]:
    different = len(set(fractions)) == len(fractions) > 0
    if different and all(map(positive, fractions)):
        return []
    return [f"Expected different fractions above 0 but got {list(fractions)}"]


def check_search(space_faults: list[str], budget: float, teacher_score: float) -> None:
    """Raise InputError, naming all mistakes, when a planner cannot be built from these."""
    wrong = list(space_faults)
    if not positive(budget) and budget != 0:
        wrong.append(f"Expected a finite budget of at least 0 but got {budget!r}")
    if not isinstance(teacher_score, (int, float, np.number)) or not math.isfinite(teacher_score):
        wrong.append(f"Expected a finite teacher score but got {teacher_score!r}")
    if wrong:
        raise InputError("; ".join(wrong))


def positive(value: Any) -> bool:
    """Whether it is a finite number above 0."""
    return isinstance(value, (int, float, np.number)) and 0 < float(value) < math.inf
