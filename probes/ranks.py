"""Ranks: how many directions a layer uses, and how much of it a narrower layer can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gapkit.probes.interval import Interval, mean_interval, undefined
from gapkit.probes.resample import folds
from gapkit.probes.spectrum import feature_matrix, spectrum

MIN_SAMPLES = 10
MOST = 2000  # samples used of layers wider than this: the cost of a spectrum is min(n, d)³

Spectral = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Eigenvalues (r,) -> a value that does not depend on their scale, and its derivative by each."""


def effective_rank(x: Any) -> float:
    """How many directions features (n, d) use evenly: exp of the entropy of covariance eigenvalues.

    exp(-Σ p log p), p = λ/Σλ (Roy & Vetterli 2007, with eigenvalues of the covariance in place of singular
    values). 1 for a line, d for white features; nan for constant ones. Biased downward unless n ≫ d;
    one direction of large variance hides all others.

    >>> round(effective_rank([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 6)
    2.0
    """
    return _plain(x, entropy_rank)


def participation_ratio(x: Any) -> float:
    """How many directions features (n, d) use, weighing large ones more: (Σλ)²/Σλ², 1 to d.

    At most the effective rank; nan for constant features. Gao et al. 2017.

    >>> round(participation_ratio([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 6)
    2.0
    """
    return _plain(x, participation)


def hint_bound(x: Any, d: int) -> float:
    """Share of variance in the top d principal directions of features (n, D): 0 to 1.

    No linear map from d numbers predicts more of x (Eckart & Young 1936), so it bounds the R² of a linear
    hint from a layer d wide. It says nothing about accuracy. nan for constant features.

    >>> hint_bound([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], d=1)
    0.5
    """
    return _plain(x, top_share(d))


def spectral_interval(
    x: np.ndarray, statistic: Spectral, level: float = 0.95, groups: Any = None, seed: int = 0
) -> Interval:
    """A function of the covariance eigenvalues of x (n, d), with interval; see `spectral_intervals`."""
    return spectral_intervals(x, [statistic], level, groups, seed)[0]


def spectral_intervals(
    x: np.ndarray,
    statistics: Sequence[Spectral],
    level: float = 0.95,
    groups: Any = None,
    seed: int = 0,
) -> list[Interval]:
    """Functions of the covariance eigenvalues of x (n, d), each with its interval.

    The variance comes from the influence of each sample, Σ_j ∂f/∂λ_j · z_ij² (infinitesimal jackknife, Jaeckel
    1972; first-order eigenvalue perturbation), not from resampling: drawing with replacement repeats
    rows and shrinks every rank. The bias of order 1/n is estimated by the mean of two half samples
    minus the whole, and the interval is widened on that side. Of layers wider than 2,000 features
    2,000 samples are used, chosen by the seed.
    """
    n, d = x.shape
    if n > MOST and d > MOST:
        rows = np.sort(np.random.default_rng(seed).permutation(n)[:MOST])
        some = None if groups is None else np.asarray(groups)[rows]
        found = spectral_intervals(x[rows], statistics, level, some)
        how = f"{MOST} of {n} samples, seed {seed}; "
        return [replace(item, method=how + item.method, seed=seed) for item in found]
    if n < MIN_SAMPLES or not np.isfinite(x).all():
        reason = f"{n} samples are too few" if n < MIN_SAMPLES else "some features are not finite"
        return [undefined(reason, n, level) for _ in statistics]
    values, scores = spectrum(x)
    if not len(values):
        return [undefined("constant features", n, level) for _ in statistics]
    side = folds(n, 2, groups)
    halves = [spectrum(x[side == index])[0] for index in (0, 1)]
    squares = scores**2
    return [_interval(item, values, squares, halves, level, groups) for item in statistics]


def _interval(
    statistic: Spectral,
    values: np.ndarray,
    squares: np.ndarray,
    halves: Sequence[np.ndarray],
    level: float,
    groups: Any,
) -> Interval:
    value, slope = statistic(values)
    around = mean_interval(squares @ slope, level, groups)
    half_width = (around.high - around.low) / 2
    of_halves = [statistic(half)[0] if len(half) else math.nan for half in halves]
    bias = float(np.mean(of_halves)) - value
    corrected = value - bias if math.isfinite(bias) else value
    low, high = min(value, corrected) - half_width, max(value, corrected) + half_width
    method = f"influence of each sample, {around.method[6:]}; widened by the bias {bias:.2g} (half samples)"
    return Interval(value, low, high, around.se, len(squares), level, method=method)


def top_share(d: int) -> Spectral:
    """Share of variance in the top d directions, as a function of the eigenvalues."""

    def share_of(values: np.ndarray) -> tuple[float, np.ndarray]:
        share = values[:d].sum() / values.sum()
        return float(share), ((np.arange(len(values)) < d) - share) / values.sum()

    return share_of


def entropy_rank(values: np.ndarray) -> tuple[float, np.ndarray]:
    """`effective_rank` of the eigenvalues, and its derivative by each."""
    p = values / values.sum()
    entropy = -float((p * np.log(p)).sum())
    rank = math.exp(entropy)
    return rank, -rank * (np.log(p) + entropy) / values.sum()


def participation(values: np.ndarray) -> tuple[float, np.ndarray]:
    """`participation_ratio` of the eigenvalues, and its derivative by each."""
    total, squares = values.sum(), (values**2).sum()
    return float(total**2 / squares), 2 * total / squares - 2 * total**2 * values / squares**2


def _plain(x: Any, statistic: Spectral) -> float:
    values, _ = spectrum(feature_matrix(x))
    return statistic(values)[0] if len(values) else math.nan
