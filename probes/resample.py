"""Resampling: the bootstrap, sign flips of paired differences, and the price of many looks."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from gapkit.errors import InputError
from gapkit.probes.interval import Interval, check_level, undefined, unusable

EXACT_FLIPS = 12  # units up to which all 2^n sign patterns are enumerated
CHUNK = 1_000_000  # random signs or resampled positions held at once


def bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[Any],
    n_repeats: int = 1000,
    level: float = 0.95,
    groups: Any = None,
    seed: int = 0,
    method: str = "BCa",
) -> Interval:
    """Interval of a statistic that is no mean, by resampling samples (whole groups when given).

    Args:
        statistic: called with every array of `arrays` at the same resampled rows.
        arrays: arrays (n, ...) whose rows belong together.
        method: "BCa" (Efron 1987), "percentile", or "basic", which turns a bias upward round (fit for
            distances such as a calibration error). Where BCa is degenerate the percentile is used,
            and `Interval.method` says so.

    Misleading for extremes, ranks and nearest neighbors, which repeated rows distort.

    >>> interval = bootstrap(np.median, [np.arange(50.0)], seed=0)
    >>> bool(interval.low < interval.value < interval.high), interval.value
    (True, 24.5)
    """
    check_level(level)
    arrays = [np.asarray(array) for array in arrays]
    n = len(arrays[0])
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    if len(members) < 2:
        return undefined("a bootstrap needs two samples or groups", n, level)

    def of_units(units: np.ndarray) -> float:
        rows = np.concatenate([members[unit] for unit in units]) if groups is not None else units
        return float(statistic(*(array[rows] for array in arrays)))

    value = float(statistic(*arrays))
    if not math.isfinite(value):
        return undefined("the statistic is not finite on these samples", n, level)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(len(members)),),
            of_units,
            n_resamples=n_repeats,
            batch=max(1, CHUNK // len(members)),
            vectorized=False,
            confidence_level=level,
            method=method,
            rng=np.random.default_rng(seed),
        )
    low, high = map(float, found.confidence_interval)
    repeats = found.bootstrap_distribution
    how = f"{method} bootstrap, {n_repeats} repeats"
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = map(float, np.nanquantile(repeats, [(1 - level) / 2, (1 + level) / 2]))
        how = f"percentile bootstrap ({method} is degenerate here), {n_repeats} repeats"
    se = float(np.nanstd(repeats, ddof=1))
    return Interval(value, low, high, se, n, level, method=how, seed=seed, repeats=repeats)


def sign_flip_p(d: Any, groups: Any = None, n_repeats: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of a mean of zero, were the signs of independent paired differences a coin toss.

    d is (n,), or (S seeds, N samples): then the larger of the p over seeds and the p over samples, so
    that S seeds never give less than 2^(1-S). Groups flip together. Exact up to 12 units, random
    with the +1 correction above (Phipson & Smyth 2010).

    >>> sign_flip_p([1.0, 2.0, 0.5, 3.0])
    0.125
    """
    d = np.atleast_2d(np.asarray(d, dtype=np.float64))
    if d.ndim != 2 or unusable(d.ravel()):
        raise InputError(
            f"Expected finite differences (samples,) or (seeds, samples), got {d.shape}"
        )
    units = d.mean(0)
    if groups is not None:
        units = np.bincount(np.unique(groups, return_inverse=True)[1], units)
    over_samples = _flip_p(units, n_repeats, seed)
    return over_samples if len(d) == 1 else max(over_samples, _flip_p(d.mean(1), n_repeats, seed))


def holm(p_values: Any) -> np.ndarray:
    """Holm's (1979) adjusted p values: reject those at or below the error rate; nan stays nan.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted


def folds(n: int, k: int, groups: Any = None, seed: int = 0) -> np.ndarray:
    """(n,) one of k folds of equal size, at random, for each sample; groups stay whole."""
    units = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    return (np.random.default_rng(seed).permutation(int(units.max()) + 1) % k)[units]


def one_of_each(n: int, groups: Any = None) -> np.ndarray:
    """Positions of one of n samples of each group, of all without groups: they are independent."""
    return np.arange(n) if groups is None else np.sort(np.unique(groups, return_index=True)[1])


def _flip_p(units: np.ndarray, n_repeats: int, seed: int) -> float:
    seen = abs(units.sum()) * (1 - 1e-12)
    if len(units) <= EXACT_FLIPS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(units))))
        return float((np.abs(signs @ units) >= seen).mean())
    rng, count, done = np.random.default_rng(seed), 0, 0
    while done < n_repeats:
        rows = min(n_repeats - done, max(1, CHUNK // len(units)))
        signs = rng.integers(0, 2, size=(rows, len(units)), dtype=np.int8) * 2.0 - 1.0
        count += int((np.abs(signs @ units) >= seen).sum())
        done += rows
    return (count + 1) / (n_repeats + 1)
