"""Geometry: distances among the same samples in two models, and jackknife intervals of what rests on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.interval import Interval, check_level, undefined
from gapkit.probes.spectrum import feature_matrix

MAX_TRIPLETS = 200_000
FEWEST_UNITS = 10
ROUNDING = 1e-9

Features = Tensor | np.ndarray
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Geometry:
    """Distances x, y (n, n) between samples in both models, and each sample's group `unit` (n,)."""

    x: np.ndarray
    y: np.ndarray
    unit: np.ndarray
    n_units: int
    what: str

    @classmethod
    def of(cls, x: Features, y: Features, groups: Any = None) -> Geometry:
        x, y = (part.detach().cpu() if isinstance(part, Tensor) else part for part in (x, y))
        a, b = feature_matrix(x, "x"), feature_matrix(y, "y")
        n = len(a)
        if len(b) != n:
            raise InputError(f"Expected the same samples in x and y but got {n} and {len(b)}")
        if groups is not None and np.shape(groups) != (n,):
            raise InputError(f"Expected {n} groups but got shape {np.shape(groups)}")
        unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
        what = "samples" if groups is None else "groups"
        return cls(pairwise_distances(a), pairwise_distances(b), unit, int(unit.max()) + 1, what)

    @property
    def apart(self) -> np.ndarray:
        """(n, n) whether two samples are of different groups."""
        return self.unit[:, None] != self.unit

    def triplets(self, seed: int) -> np.ndarray:
        """(t, 3) samples a, b, c of three groups: all with b < c when few, else a random choice."""
        n = len(self.unit)
        if n * (n - 1) * (n - 2) // 2 <= MAX_TRIPLETS:
            found = np.indices((n, n, n)).reshape(3, -1).T
            found = found[found[:, 1] < found[:, 2]]
        else:
            found = np.random.default_rng(seed).integers(n, size=(MAX_TRIPLETS, 3))
        a, b, c = self.unit[found].T
        return found[(a != b) & (a != c) & (b != c)]

    def by_unit(self, rows: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """(n_units, m) sums (k, m) added to the units of their samples at rows (k,) or (k, r)."""
        units = self.unit[rows.T.reshape(-1)]
        times = units.size // len(sums) if len(sums) else 1
        columns = [np.bincount(units, np.tile(part, times), self.n_units) for part in sums.T]
        return np.stack(columns, axis=1)

    def interval(
        self,
        statistic: Statistic,
        total: np.ndarray,
        by_unit: np.ndarray,
        *,
        lowest: float,
        level: float,
        method: str,
    ) -> Interval:
        """Interval of a statistic of sums (m,), each unit's share (n_units, m) left out once.

        It is cut at `lowest` and at 1.
        """
        value, without = float(statistic(total)), statistic(total - by_unit)
        if self.n_units >= FEWEST_UNITS and not np.isfinite([value, *without]).all():
            return undefined("one model sets no sample, or only one, apart", len(self.unit), level)
        spread = ((without - without.mean()) ** 2).mean()
        se = math.sqrt((self.n_units - 1) * spread)
        return self.bounded(value, se, lowest=lowest, level=level, method=f"{method}; jackknife")

    def bounded(
        self, value: float, se: float, *, lowest: float, level: float, method: str
    ) -> Interval:
        """t interval over samples or groups, cut at `lowest` and at 1."""
        check_level(level)
        n, count = len(self.unit), self.n_units
        if count < FEWEST_UNITS:
            return undefined(f"{count} {self.what}, {FEWEST_UNITS} needed", n, level)
        half = float(stats.t.ppf((1 + level) / 2, count - 1)) * se
        low, high = max(lowest, value - half), max(value, min(1.0, value + half))
        return Interval(value, low, high, se, n, level, method=f"{method} over {count} {self.what}")

    def dyadic_error(self, parts: np.ndarray) -> float:
        """Standard error of a sum of centered parts (n, n), each of a pair, where pairs share samples.

        Var = Σ_g R_g² - Σ_{g<h} Q_gh², Q_gh: parts between groups g and h, R_g: all of g's (Aronow,
        Samii & Assenova 2015); where chance makes that negative, Σ_g R_g² alone, which is wider.
        """
        every = np.arange(len(parts))
        half = self.by_unit(every, self.by_unit(every, parts + parts.T).T)
        own = (half.sum(0) ** 2).sum()
        shared = (np.triu(half, 1) ** 2).sum()
        factor = self.n_units / max(1, self.n_units - 1)
        return math.sqrt(factor * (own - shared if own > shared else own))


def pairwise_distances(x: np.ndarray) -> np.ndarray:
    """(n, n) distances over their root mean square; 0 where float64 cannot tell them from 0."""
    x = x - x.mean(0)
    norms = (x**2).sum(1)
    both = norms[:, None] + norms
    squared = both - 2 * (x @ x.T)
    squared = np.where(squared > 1e-13 * both, squared, 0.0)
    scale = squared.mean()
    return np.sqrt(squared / scale) if scale > 0 else squared


def nearest(
    distances: np.ndarray, allowed: np.ndarray, k: int, rng: np.random.Generator
) -> np.ndarray:
    """(n, n) 1 where a sample is among another's k nearest allowed ones; ties fall at random."""
    order = rng.permutation(len(distances))
    shuffled = torch.from_numpy(np.where(allowed, distances, np.inf)[:, order])
    found = order[shuffled.topk(k, largest=False).indices.numpy()]
    near = np.zeros(distances.shape)
    np.put_along_axis(near, found, 1.0, axis=1)
    return near


def cosines(distances: np.ndarray, triplets: np.ndarray) -> np.ndarray:
    """(t,) cosine of the angle at a between b and c, by the law of cosines; nan where a side is 0."""
    a, b, c = triplets.T
    to_b, to_c, across = distances[a, b], distances[a, c], distances[b, c]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (to_b**2 + to_c**2 - across**2) / (2 * to_b * to_c)
    return np.where((to_b > 0) & (to_c > 0), cosines, np.nan)


def nearer(distances: np.ndarray, triplets: np.ndarray) -> np.ndarray:
    """(t,) 1 where b is nearer to a than c is, -1 where it is not, 0 where rounding decides."""
    a, b, c = triplets.T
    lead = distances[a, c] - distances[a, b]
    return np.where(np.abs(lead) > ROUNDING, np.sign(lead), 0.0)


def correlation(moments: np.ndarray) -> np.ndarray:
    """Pearson correlation from (..., 6) sums of 1, a, b, a², b² and ab; nan when a side is constant."""
    count, a, b, aa, bb, ab = np.moveaxis(moments, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        own_a, own_b = aa / count - (a / count) ** 2, bb / count - (b / count) ** 2
        varies = (own_a > 1e-14 * aa / count) & (own_b > 1e-14 * bb / count)
        value = (ab / count - a * b / count**2) / np.sqrt(own_a * own_b)
    return np.where(varies, value, np.nan)


def share(sums: np.ndarray) -> np.ndarray:
    """Hits over all from (..., 2) sums of all and of hits; nan for none."""
    every, hits = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / every
