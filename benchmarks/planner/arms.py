"""Arms: what can be chosen in a world, what it costs, and how large a budget stands for a quarter of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any

from gapkit.forecast import SCRATCH, Arm
from gapkit.planner import MAX_RUNS, Trial

ALL_SUBSETS, MOST_ASSISTANTS = 7, 3
BUDGET_SHARE, BUDGET_FLOOR, BUDGET_CAP = 0.25, 3.0, float(MAX_RUNS)
"""A planner asks for so many trainings at most; in the largest spaces that is less than a quarter."""


class World:
    """Answers trials, and knows the true mean of every arm.

    Attributes:
        name, kind: the kind says what is hard about it.
        half: "tune" or "report" for simulated worlds, "recorded" for tables.
        sizes: teacher first, student last; cost: size -> student trainings, of all but the teacher.
        recipes, fractions: what a search may ask for, scratch apart.
        teacher_score: on the scale of the scores.
        unit: score units that make one point of a 0-100 scale.
        noise: standard deviation of one run in points; nan where it is not known.
    """

    name: str
    kind: str
    half: str
    sizes: tuple[Any, ...]
    cost: dict[Any, float]
    recipes: tuple[str, ...]
    fractions: tuple[float, ...]
    teacher_score: float
    unit: float
    noise: float
    n_seeds: int = 1
    """Seeds under which an exhaustive search runs every arm; the budget is a quarter of what that costs."""

    def true_mean(self, path: Sequence[Any], recipe: str, fraction: float = 1.0) -> float:
        """Mean score over seeds of the last model of the path."""
        raise NotImplementedError

    def draw(self, trial: Trial, stream: int = 0) -> float:
        """The score of one training; the same trial in the same stream has the same score."""
        raise NotImplementedError

    def fresh(self, arm: Arm, stream: int = 0) -> list[float]:
        """Scores of runs of the arm that no search has seen."""
        raise NotImplementedError

    @cached_property
    def budget(self) -> float:
        """Student trainings: a quarter of the exhaustive cost, at least 3 and at most 300."""
        cost = exhaustive_cost(self.sizes, self.cost, self.recipes, self.fractions)
        return min(max(BUDGET_SHARE * cost * self.n_seeds, BUDGET_FLOOR), BUDGET_CAP)

    @cached_property
    def affordable(self) -> dict[Arm, float]:
        """True mean of each arm that the budget could carry out once, prefix included."""
        return {
            arm: self.true_mean(arm.path, arm.recipe, arm.fraction)
            for arm in arms_of(self.sizes, self.recipes, self.fractions)
            if price(arm, self.cost) <= self.budget + 1e-9
        }

    @cached_property
    def best(self) -> float:
        """The best true mean of the affordable arms."""
        return max(self.affordable.values())

    @cached_property
    def best_single(self) -> float:
        """The best true mean of affordable scratch and single-hop arms."""
        return max(mean for arm, mean in self.affordable.items() if not arm.n_assistants)

    @property
    def chain_gain(self) -> float:
        """What the best chain is worth over the best single hop, in points; 0 when it is worth nothing."""
        return (self.best - self.best_single) / self.unit

    def regret(self, arm: Arm) -> float:
        """Best true mean minus that of the arm, in points (never negative)."""
        mean = self.true_mean(arm.path, arm.recipe, arm.fraction)
        return max(0.0, (self.best - mean) / self.unit)

    def false_chain(self, arm: Arm) -> bool:
        """Whether the arm has an assistant though its true mean is below the best single hop's."""
        mean = self.true_mean(arm.path, arm.recipe, arm.fraction)
        return bool(arm.n_assistants and mean < self.best_single - 1e-9 * self.unit)


@lru_cache(maxsize=16)
def arms_of(
    sizes: tuple[Any, ...], recipes: tuple[str, ...], fractions: tuple[float, ...]
) -> tuple[Arm, ...]:
    """Scratch, single hops and chains: every subset of up to 7 assistants, up to 3 at once of more."""
    middle = sizes[1:-1]
    most = len(middle) if len(middle) <= ALL_SUBSETS else MOST_ASSISTANTS
    chosen = [part for n in range(most + 1) for part in combinations(middle, n)]
    return tuple(
        arm
        for fraction in fractions
        for arm in (
            Arm((sizes[-1],), SCRATCH, fraction),
            *(
                Arm((sizes[0], *part, sizes[-1]), recipe, fraction)
                for recipe in recipes
                for part in chosen
            ),
        )
    )


def hops(arm: Arm) -> list[Arm]:
    """The trainings that the arm takes: its prefixes, first hop first, and itself."""
    return [Arm(arm.path[:n], arm.recipe, arm.fraction) for n in range(2, len(arm.path))] + [arm]


def price(arm: Arm, cost: Mapping[Any, float]) -> float:
    """Student trainings that carrying out the whole path takes.

    >>> price(Arm((9, 3, 1), "kl", 0.5), {3: 2.0, 1: 1.0})
    1.5
    """
    return sum(cost[hop.path[-1]] for hop in hops(arm)) * arm.fraction


def exhaustive_cost(
    sizes: tuple[Any, ...],
    cost: Mapping[Any, float],
    recipes: tuple[str, ...],
    fractions: tuple[float, ...],
) -> float:
    """Student trainings of every arm of `arms_of` once at every fraction, shared prefixes paid once.

    >>> exhaustive_cost((9, 3, 1), {3: 2.0, 1: 1.0}, ("kl",), (1.0,))
    5.0
    >>> exhaustive_cost((9, 3, 1), {3: 2.0, 1: 1.0}, ("kl",), (0.25, 1.0, 4.0))
    26.25
    """
    trained = {hop for arm in arms_of(sizes, recipes, (1.0,)) for hop in hops(arm)}
    return sum(cost[hop.path[-1]] for hop in trained) * sum(fractions)
