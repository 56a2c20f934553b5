"""Simulated worlds: families of sizes whose true means are known, in nine kinds, by seed.

A true mean, in points of a 0-100 scale, is

    level(last) + √rank(last) · effect(teachers, recipe, fraction) + patience(recipe, fraction),

where a size's rank runs from 0 (teacher) to 1 (student), level falls from the teacher's score to the
student's from scratch, and a kind is a law of `effect`: what being taught is worth to the student. None
of the laws is the belief of gapkit.forecast; the last three have no additive structure at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

import numpy as np
from arms import World
from scipy.special import stdtrit

from gapkit.forecast import SCRATCH, Arm
from gapkit.planner import Trial

HALVES = ("tune", "report")
PER_KIND = 60
FIRST = {"tune": 0, "report": 13000}
"""Number of each half's first world; the report half's is raised whenever its worlds were looked at."""
SIZES = (3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 10, 12, 16, 20)
SMALL, SMALL_BUDGET = range(15001, 15701, 2), 8.0
"""Numbers of further worlds, and the budget up to which they count: what a few trainings buy."""
LOOKS = (0.25, 1.0, 4.0)
N_FRESH, FRESH_SEED = 8, 10_000
TAIL_DOF = 4

Ranks = tuple[float, ...]
Effect = Callable[[Ranks, int, float], float]
"""(ranks of the teachers relative to the last model's, recipe's index, log2 of the fraction) -> points.

The teachers are never empty: models trained on labels alone have effect 0. The first is the teacher, 0.
"""


@dataclass(frozen=True)
class Setting:
    """What a law of effects may look at: a random state, the assistants' ranks, recipes, and luck.

    Attributes:
        ranks: of all sizes, 0 to 1. luck: key -> a standard normal number of its own.
    """

    rng: np.random.Generator
    ranks: Ranks
    n_recipes: int
    luck: Callable[..., float]

    @property
    def middle(self) -> Ranks:
        """Ranks of the assistants."""
        return self.ranks[1:-1]

    def chains(self) -> list[Ranks]:
        """Teachers of every chain of at most two assistants."""
        pairs = [(0.0, a, b) for a in self.middle for b in self.middle if a < b]
        return [(0.0, a) for a in self.middle] + pairs


def no_gap(s: Setting) -> Effect:
    """The student is as good as its teacher; nothing is worth more than a fraction of a point."""
    recipe = s.rng.normal(0.0, 0.2, s.n_recipes)
    return lambda teachers, r, look: recipe[r] + 0.1 * s.luck("path", teachers, r)


def harmful_targets(s: Setting) -> Effect:
    """A third of the recipes or more leave the student 3 to 15 points below scratch; assistants soften it."""
    n_harmful = int(s.rng.integers(math.ceil(s.n_recipes / 3), s.n_recipes + 1))
    recipe = s.rng.uniform(-1.0, 4.0, s.n_recipes)
    recipe[s.rng.permutation(s.n_recipes)[:n_harmful]] = -s.rng.uniform(3.0, 15.0, n_harmful)
    soft, hop = s.rng.uniform(0.0, 0.4), s.rng.uniform(0.0, 0.8)

    def effect(teachers: Ranks, r: int, look: float) -> float:
        eased = soft * teachers[-1] * max(0.0, -recipe[r])
        return recipe[r] + eased - hop * (len(teachers) - 1) + 0.2 * s.luck("path", teachers, r)

    return effect


def chain_pays(s: Setting) -> Effect:
    """A capacity gap: the best chain is worth 2 to 8 points over the best single hop."""
    recipe = s.rng.normal(0.0, 2.0, s.n_recipes)
    peak, width = s.rng.uniform(0.25, 0.8), s.rng.uniform(0.15, 0.4)
    second, hop, target = s.rng.uniform(-0.15, 0.25), s.rng.uniform(0.0, 0.8), s.rng.uniform(2, 8)

    def shape(teachers: Ranks) -> float:
        steps = [math.exp(-(((rank - peak) / width) ** 2)) for rank in teachers[1:]]
        return sum(step * second**n for n, step in enumerate(reversed(steps)))

    def cost(teachers: Ranks, r: int) -> float:
        return hop * (len(teachers) - 1) + 0.3 * s.luck("path", teachers, r)

    chains = [(shape(t), recipe[r] - cost(t, r)) for t in s.chains() for r in range(s.n_recipes)]
    goal = max(0.0, *recipe) + target
    height = min((goal - base) / part for part, base in chains if part > 1e-3)
    return lambda teachers, r, look: (
        recipe[r] + height * shape(teachers) - (len(teachers) > 1) * cost(teachers, r)
    )


def noisy(s: Setting) -> Effect:
    """Moderate effects of recipes and assistants under noise of 2.5 to 5 points."""
    recipe = s.rng.normal(0.0, 2.0, s.n_recipes)
    height, hop = s.rng.normal(0.0, 2.0), s.rng.uniform(-0.3, 0.8)
    peak, width = s.rng.uniform(0.2, 0.9), s.rng.uniform(0.15, 0.4)

    def effect(teachers: Ranks, r: int, look: float) -> float:
        if len(teachers) == 1:
            return recipe[r]
        bump = height * math.exp(-(((teachers[-1] - peak) / width) ** 2))
        return recipe[r] + bump - hop * (len(teachers) - 1) + 0.5 * s.luck("path", teachers, r)

    return effect


def misleading_small(s: Setting) -> Effect:
    """Small assistants lead in quick looks and hold the student back in the end.

    Patience is worth more with the teacher itself; no quick look beats a full single hop.
    """
    recipe = s.rng.normal(0.0, 2.0, s.n_recipes)
    strength, hop = s.rng.uniform(3.0, 8.0), s.rng.uniform(0.0, 0.3)

    def effect(teachers: Ranks, r: int, look: float) -> float:
        lead = strength * (teachers[-1] * (-0.5 * look - 0.4) + 0.3 * look)
        return recipe[r] + lead - hop * (len(teachers) - 1) + 0.1 * s.luck("path", teachers, r)

    return effect


def recipe_by_size(s: Setting) -> Effect:
    """Each recipe has an assistant that suits it, but for the one that leads in a single hop.

    It is worth 1 to 5 points over the best single hop.
    """
    recipe = s.rng.normal(0.0, 2.0, s.n_recipes)
    leader = int(np.argmax(recipe))
    height = s.rng.uniform(1.0, 5.0, s.n_recipes) + recipe[leader] - recipe
    height[leader] = -s.rng.uniform(1.0, 4.0)
    peak, width = s.rng.choice(s.middle, s.n_recipes), s.rng.uniform(0.15, 0.4)

    def effect(teachers: Ranks, r: int, look: float) -> float:
        if len(teachers) == 1:
            return recipe[r]
        bump = height[r] * math.exp(-(((teachers[-1] - peak[r]) / width) ** 2))
        return recipe[r] + bump - 0.3 * (len(teachers) - 2) + 0.2 * s.luck("path", teachers, r)

    return effect


def smooth(s: Setting) -> Effect:
    """A random smooth function of the last two teachers, the number of hops, recipe and fraction."""
    n = 24
    place = s.rng.normal(0.0, 1.0, (s.n_recipes, 2))
    frequency = s.rng.normal(0.0, 1.0, (n, 6)) * [5.0, 2.5, 0.7, 1.0, 1.0, 0.25]
    phase, height = s.rng.uniform(0.0, 2 * math.pi, n), s.rng.uniform(1.0, 4.0)
    weight = height * math.sqrt(2.0 / n) * s.rng.normal(0.0, 1.0, n)

    def effect(teachers: Ranks, r: int, look: float) -> float:
        before = teachers[-2] if len(teachers) > 1 else 0.0
        x = np.array([teachers[-1], before, len(teachers) - 1, *place[r], look])
        return float(weight @ np.cos(frequency @ x + phase))

    return effect


def plateaus(s: Setting) -> Effect:
    """A random smooth function cut into steps of 1.5 to 4 points: many equals, sudden drops."""
    under, step = smooth(s), s.rng.uniform(1.5, 4.0)
    return lambda teachers, r, look: step * round(under(teachers, r, look) / step)


def stairway(s: Setting) -> Effect:
    """Nothing is gained until every hop is within a recipe's reach; then 3 to 8 points, less by the hop."""
    recipe, chains = s.rng.normal(0.0, 1.5, s.n_recipes), s.chains()
    worth, hop = s.rng.uniform(3.0, 8.0), s.rng.uniform(0.0, 1.5)
    found = [chains[i] for i in s.rng.integers(len(chains), size=s.n_recipes)]
    reach = [longest_hop(teachers) for teachers in found]

    def effect(teachers: Ranks, r: int, look: float) -> float:
        climbed = longest_hop(teachers) <= reach[r] + 1e-9
        return recipe[r] + worth * climbed - hop * (len(teachers) - 1)

    return effect


def longest_hop(teachers: Ranks) -> float:
    """The largest difference in rank from a model to the next, down to the last model's 1.

    >>> longest_hop((0.0, 0.25))
    0.75
    """
    return max(after - before for before, after in zip(teachers, (*teachers[1:], 1.0)))


KINDS: dict[str, Callable[[Setting], Effect]] = {
    law.__name__: law
    for law in (
        no_gap,
        harmful_targets,
        chain_pays,
        noisy,
        misleading_small,
        recipe_by_size,
        smooth,
        plateaus,
        stairway,
    )
}

SCALES = {
    "accuracy": (0.0, 0.01),
    "percent": (0.0, 1.0),
    "R²": (-0.2, 0.012),
    "negative loss": (-3.0, 0.03),
    "negative perplexity": (-9000.0, 90.0),
}
"""(score of 0 points, score units of a point)."""


class Simulated(World):
    """A world of one kind, drawn by its number: sizes, costs, recipes, scale, noise and true means."""

    def __init__(self, kind: str, number: int) -> None:
        self._key = (2026, list(KINDS).index(kind), number)
        rng = np.random.default_rng(self._key)
        self.kind, self.name = kind, f"{kind}-{number:02d}"
        self.half = HALVES[number % 2]
        self._draw_family(rng)
        self._draw_levels(rng)
        self._draw_noise(rng)
        self._setting = Setting(rng, tuple(self._rank.values()), len(self.recipes), self._luck)
        self._effect = KINDS[kind](self._setting)

    def _draw_family(self, rng: np.random.Generator) -> None:
        """Sizes, costs, recipes and fractions."""
        n = int(rng.choice(SIZES))
        grown = np.round(np.geomspace(rng.uniform(1, 9), rng.uniform(40, 900), n) + np.arange(n))
        widths = grown[::-1].astype(int).tolist()
        self.sizes = tuple(widths if rng.uniform() < 0.5 else [f"net-{width}" for width in widths])
        self._rank = {size: i / (n - 1) for i, size in enumerate(self.sizes)}
        dearest = float(np.exp(rng.uniform(np.log(1.1), np.log(6.0))))
        self.cost = {size: round(dearest ** (1 - self._rank[size]), 3) for size in self.sizes[1:]}
        fewest = 2 if self.kind == "recipe_by_size" else 1
        self.recipes = _names(rng, int(rng.integers(fewest, 7)))
        looks = self.kind == "misleading_small" or rng.uniform() < 0.5
        self.fractions = LOOKS if looks else (1.0,)

    def _draw_levels(self, rng: np.random.Generator) -> None:
        """Scale, the teacher's and the students' points from scratch, and what patience is worth."""
        self.scale = str(rng.choice(list(SCALES)))
        self._zero, self.unit = SCALES[self.scale]
        healthy = self.kind == "no_gap"
        self._gap = rng.uniform(0.0, 0.8) if healthy else rng.uniform(6.0, 40.0)
        self._top, self._bend = rng.uniform(50.0, 98.0), rng.uniform(0.6, 4.0)
        self.teacher_score = self._score(self._top)
        gain = rng.uniform(0.0, 0.3) if healthy else rng.uniform(1.0, 6.0)
        self._patience = gain * rng.uniform(0.7, 1.3, len(self.recipes) + 1)
        self._fading = rng.uniform(0.3, 0.8)

    def _draw_noise(self, rng: np.random.Generator) -> None:
        """Noise of one run in points, the shares of its variance that a seed shares, and its tails."""
        low = 2.5 if self.kind == "noisy" else 0.2
        self.noise = float(np.exp(rng.uniform(np.log(low), np.log(5.0))))
        self.seed_share = rng.uniform(0.0, 0.7)
        self._heavy = rng.uniform() < 0.25
        by_recipe = np.random.default_rng([*self._key, 1])
        own = 1.0 - by_recipe.uniform(0.0, 0.9) * (by_recipe.uniform() < 0.6)
        self.recipe_share = (1.0 - self.seed_share) * (1.0 - own)

    def _score(self, points: float) -> float:
        return float(self._zero + self.unit * points)

    def _luck(self, *key: Any, heavy: bool = False) -> float:
        """A number of its own for every key: standard normal, or Student's t of 4 scaled to variance 1."""
        digest = blake2b(repr((self._key, key)).encode(), digest_size=8).digest()
        u = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2.0**52
        if heavy:
            return float(stdtrit(TAIL_DOF, u)) * math.sqrt((TAIL_DOF - 2) / TAIL_DOF)
        return NormalDist().inv_cdf(u)

    def points(self, path: Sequence[Any], recipe: str, fraction: float = 1.0) -> float:
        """True mean in points of a 0-100 scale."""
        last = self._rank[path[-1]]
        level = self._top - self._gap * last**self._bend
        r = len(self.recipes) if recipe == SCRATCH else self.recipes.index(recipe)
        longer = self._patience[r] * math.sqrt(last) * (1.0 - fraction**-self._fading)
        if recipe == SCRATCH:
            return level + longer
        teachers = tuple(self._rank[size] / last for size in path[:-1])
        return level + longer + math.sqrt(last) * self._effect(teachers, r, math.log2(fraction))

    def true_mean(self, path: Sequence[Any], recipe: str, fraction: float = 1.0) -> float:
        return self._score(self.points(path, recipe, fraction))

    def draw(self, trial: Trial, stream: int = 0) -> float:
        key = (stream, trial.seed, trial.path[-1])
        parts = {
            ("seed", *key): self.seed_share,
            ("seed by recipe", *key, trial.recipe): self.recipe_share,
            ("run", *key, trial.path, trial.recipe, trial.fraction): (
                1.0 - self.seed_share - self.recipe_share
            ),
        }
        luck = sum(math.sqrt(v) * self._luck(*k, heavy=self._heavy) for k, v in parts.items())
        points = self.points(trial.path, trial.recipe, trial.fraction)
        return self._score(points + self.noise * luck)

    def fresh(self, arm: Arm, stream: int = 0) -> list[float]:
        seeds = range(FRESH_SEED, FRESH_SEED + N_FRESH)
        return [self.draw(Trial(arm.path, arm.recipe, s, arm.fraction), stream) for s in seeds]


def _names(rng: np.random.Generator, n: int) -> tuple[str, ...]:
    """Different recipe names of three syllables, of no meaning."""
    names: dict[str, None] = {}
    while len(names) < n:
        consonants, vowels = rng.choice(list("bdfgklmnprtvz"), 3), rng.choice(list("aeiou"), 3)
        names["".join(c + v for c, v in zip(consonants, vowels))] = None
    return tuple(names)


@lru_cache(maxsize=16)
def simulated(kind: str, number: int) -> Simulated:
    """The world of that kind and number."""
    return Simulated(kind, number)


def half(name: str) -> list[tuple[str, int]]:
    """(kind, number) of the worlds of a half; kinds take turns, so that the first 9 n hold n of each."""
    numbers = range(FIRST[name] + HALVES.index(name), FIRST[name] + PER_KIND, 2)
    return [(kind, number) for number in numbers for kind in KINDS]


@cache
def small() -> tuple[tuple[str, int], ...]:
    """(kind, number) of further worlds whose budget is small; they are used in no tuning."""
    drawn = [(kind, number) for number in SMALL for kind in KINDS]
    return tuple(which for which in drawn if simulated(*which).budget <= SMALL_BUDGET)
