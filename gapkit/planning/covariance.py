"""Covariance: how alike the scores of two arms are held to be, before anything is run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from gapkit.planning.arm import Arm

LENGTH = 0.35
"""How far along the ordered sizes (teacher 0, student 1) two assistants still act alike."""
LEARNING_CURVE = 0.5
"""Exponent of the power law by which longer training pays (Viering & Loog 2021, arXiv 2103.10948)."""
STRAIGHT = 0.3
"""Share of patience's variance that goes straight up with the logarithm of the fraction instead."""
SEED_RATIO, RECIPE_RATIO = (0.1, 200.0), (0.05, 10.0)
"""Least and most of the variance that a seed shares among all arms by that of the rest of a run's noise,
and of what it shares among the arms of a recipe by that of an arm's own."""
N_POINTS = 1024
N_PARTS = 9


@dataclass(frozen=True)
class Columns:
    """Arms as columns (n,): what the covariance between two of them is made of.

    Attributes:
        recipe: number of the recipe. taught: 0 for labels alone, else 1.
        last: rank of the last teacher, 0 (the teacher) to 1 (the student).
        members: (n, sizes) 1 where a size is an assistant. path: a number of its own for each set of them.
        octaves: log2 of the fraction. patience: what that fraction is worth by the learning curve, 0 at 1.
    """

    recipe: np.ndarray
    taught: np.ndarray
    last: np.ndarray
    members: np.ndarray
    path: np.ndarray
    octaves: np.ndarray
    patience: np.ndarray

    @classmethod
    def of(cls, arms: Sequence[Arm], sizes: Sequence[Hashable], codes: dict[str, int]) -> Columns:
        """Columns of the arms; `codes` numbers the recipes and grows with new ones."""
        slot = {size: index for index, size in enumerate(sizes)}
        members = np.zeros((len(arms), len(sizes)))
        for row, arm in enumerate(arms):
            for size in arm.path[1:-1]:
                members[row, slot[size]] = 1.0
        last = np.array([slot[arm.path[-2]] if len(arm.path) > 1 else 0 for arm in arms])
        fraction = np.array([arm.fraction for arm in arms], dtype=float)
        return cls(
            recipe=np.array([codes.setdefault(arm.recipe, len(codes)) for arm in arms], dtype=int),
            taught=np.array([len(arm.path) > 1 for arm in arms], dtype=float),
            last=last / max(1, len(sizes) - 1),
            members=members,
            path=members @ (2.0 ** np.arange(len(sizes))),
            octaves=np.log2(fraction),
            patience=1.0 - fraction**-LEARNING_CURVE,
        )


def components(a: Columns, b: Columns) -> np.ndarray:
    """(9, n_a, n_b) covariance between arms, for each source of variation at unit variance.

    Recipe; last teacher; last teacher under that recipe; chain (its assistants and their number); this
    very path under this very recipe; patience; patience of that recipe; patience with that teacher; and
    what strays from the learning curve, as a random walk along octaves of training.
    """
    recipe = (a.recipe[:, None] == b.recipe[None, :]).astype(float)
    taught = a.taught[:, None] * b.taught[None, :]
    alone = (1.0 - a.taught)[:, None] * (1.0 - b.taught)[None, :]
    near = np.exp(-np.abs(a.last[:, None] - b.last[None, :]) / LENGTH) * taught
    chain = 0.5 * a.members @ b.members.T
    chain += 0.25 * a.members.sum(1)[:, None] * b.members.sum(1)[None, :]
    path = (a.path[:, None] == b.path[None, :]) * recipe * taught
    patience = (1.0 - STRAIGHT) * a.patience[:, None] * b.patience[None, :]
    patience += STRAIGHT / 4.0 * a.octaves[:, None] * b.octaves[None, :]  # 1 at a quarter, as above
    walk = _walk(a.octaves[:, None], b.octaves[None, :]) * (near * recipe + alone)
    teacher = near * recipe
    return np.stack(
        [recipe, near, teacher, chain, path, patience, patience * recipe, patience * near, walk]
    )


def seed_components(
    recipe: np.ndarray, seed: np.ndarray, other_recipe: np.ndarray, other_seed: np.ndarray
) -> np.ndarray:
    """(2, n, m) covariance of what seeds add to runs, at unit variance: to all, and to a recipe's.

    >>> one, two = np.array([0, 0, 1]), np.array([0, 1, 1])
    >>> seed_components(one, two, np.array([0]), np.array([1]))[:, :, 0]
    array([[0., 1., 1.],
           [0., 1., 0.]])
    """
    same = (seed[:, None] == other_seed[None, :]).astype(float)
    return np.stack([same, same * (recipe[:, None] == other_recipe[None, :])])


def _walk(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Covariance of a random walk that starts at 0 and goes both ways."""
    return np.where(a * b > 0, np.minimum(np.abs(a), np.abs(b)), 0.0)


def variances(table: Columns) -> np.ndarray:
    """(9, n) the diagonals of `components(table, table)`."""
    one, n, taught = np.ones(len(table.last)), table.members.sum(1), table.taught
    p = (1.0 - STRAIGHT) * table.patience**2 + STRAIGHT / 4.0 * table.octaves**2
    chain = 0.5 * n + 0.25 * n**2
    return np.stack([one, taught, taught, chain, taught, p, p, p * taught, np.abs(table.octaves)])


@dataclass(frozen=True)
class Grid:
    """Points that stand for what is held possible of the variances: a Sobol sequence.

    Attributes:
        variances: (g, 9) of the components, in units of one run's variance.
        shares: (g, 3) of one run's variance: what a seed shares among all arms, among the arms of a
            recipe, and the run's own; log-uniform over SEED_RATIO and RECIPE_RATIO, for runs of one
            seed cannot tell them.
        effects: (g, 2) standard deviations of recipes and of assistants, in units of one run's.
    """

    variances: np.ndarray
    shares: np.ndarray
    effects: np.ndarray

    @classmethod
    def spread(cls, n: int) -> Grid:
        """n points, a power of 2; every variance is log-uniform over one to two powers of ten or more."""
        u = qmc.Sobol(8, scramble=False).random(n) + 0.5 / n
        recipe, assistant = 2.0 ** (-3.0 + 6.0 * u[:, 0]), 2.0 ** (-5.0 + 8.0 * u[:, 1])
        r, a, p = recipe**2, assistant**2, 4.0 ** (-2.0 + 5.0 * u[:, 4])
        mixed, path = 2.0 ** (-3.0 + 4.0 * u[:, 2]) * a, 2.0 ** (-4.0 + 4.0 * u[:, 5]) * a
        own = 2.0 ** (-6.5 + 4.5 * u[:, 6]) * p
        parts = [r, a, mixed, 0.15 * a, path, p, own + 0.01 * r]
        parts += [own + 0.05 * a, 0.5 * own + 0.01 * (a + r)]
        shares = _split(_log_uniform(SEED_RATIO, u[:, 3]), _log_uniform(RECIPE_RATIO, u[:, 7]))
        return cls(np.stack(parts, axis=1), shares, np.stack([recipe, assistant], axis=1))


def _log_uniform(ends: tuple[float, float], u: np.ndarray) -> np.ndarray:
    return np.asarray(ends[0] * (ends[1] / ends[0]) ** u)


def _split(common: np.ndarray, by_recipe: np.ndarray) -> np.ndarray:
    """(g, 3) shares of a run's variance from the two ratios."""
    rest, own = 1.0 / (1.0 + common), 1.0 / (1.0 + by_recipe)
    return np.stack([1.0 - rest, rest * (1.0 - own), rest * own], axis=1)


GRID = Grid.spread(N_POINTS)
