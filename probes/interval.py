"""Intervals in closed form: means, shares, differences over the same samples, over seeds and samples.

Nothing here raises over the values themselves: what cannot be had is an Interval of nan whose
`reason` says why, and an interval that too few samples leave open is (-inf, inf).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from gapkit.errors import InputError
from gapkit.measurement import Curve, Measurement


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval, and what they rest on.

    Attributes:
        value, low, high, se: estimate, confidence bounds and standard error, in the values' unit.
        n: samples; level: coverage aimed at; n_seeds: trainings behind it.
        method: how the interval was got, in words; reason: why the value is nan.
        seed, repeats: of a resampling, with its raw values.
    """

    value: float
    low: float
    high: float
    se: float
    n: int
    level: float = 0.95
    n_seeds: int = 1
    method: str = ""
    reason: str = ""
    seed: int | None = None
    repeats: np.ndarray = field(default_factory=lambda: np.array([]), compare=False, repr=False)


def undefined(reason: str, n: int = 0, level: float = 0.95) -> Interval:
    """The Interval of something that cannot be measured."""
    return Interval(math.nan, math.nan, math.nan, math.nan, n, level, reason=reason)


def exact(value: float, n: int = 0) -> Interval:
    """The Interval of something that is counted, not estimated."""
    return Interval(value, value, value, 0.0, n)


def mean_interval(values: Any, level: float = 0.95, groups: Any = None) -> Interval:
    """Mean of (n,) values with its t interval; robust to dependence within groups when given.

    With G groups SE² = G/(G-1) Σ_g (Σ_{i in g} (v_i - mean))² / n², G - 1 degrees of freedom (Liang &
    Zeger 1986); groups of one sample each give the usual t interval. One sample or group alone
    leaves the interval open. Misleading for a handful of heavy-tailed values.

    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> round(interval.value, 3), round(interval.low, 3), round(interval.high, 3), interval.n
    (2.0, -0.484, 4.484, 3)
    """
    check_level(level)
    values = np.asarray(values, dtype=np.float64)
    if reason := unusable(values):
        return undefined(reason, values.size, level)
    variance, df = _variance_of_mean(values, groups)
    how = "t interval" if groups is None else f"t interval over {df + 1} groups"
    return _t_interval(float(values.mean()), variance, df, len(values), level, f"mean; {how}")


def proportion_interval(hits: float, n: int, level: float = 0.95) -> Interval:
    """Share hits/n with Wilson's (1927) score interval, in [0, 1]; never of zero width.

    Raises:
        InputError: when not 0 ≤ hits ≤ n.

    >>> interval = proportion_interval(10, 10)
    >>> interval.value, round(interval.low, 4), interval.high
    (1.0, 0.7225, 1.0)
    """
    check_level(level)
    if not 0 <= hits <= n:
        raise InputError(f"Expected between 0 and {n} hits but got {hits}")
    if n == 0:
        return undefined("no samples", 0, level)
    share = hits / n
    low, high = _wilson(share, n, float(stats.norm.ppf((1 + level) / 2)))
    se = math.sqrt(share * (1 - share) / n)
    return Interval(share, low, high, se, n, level, method="share; Wilson")


def score_interval(values: Any, level: float = 0.95, groups: Any = None) -> Interval:
    """Mean of per-sample contributions: Wilson when all are 0 or 1, a t interval else.

    With groups, Wilson's n becomes the effective sample size p(1-p)/SE² of the cluster-robust SE, at
    most n (Korn & Graubard 1998; Dean & Pagano 2015), the number of groups when all samples agree,
    with a t quantile.

    >>> round(score_interval([1.0, 1.0, 1.0, 0.0]).low, 3)
    0.301
    """
    check_level(level)
    values = np.asarray(values, dtype=np.float64)
    if unusable(values) or not _is_binary(values):
        return mean_interval(values, level, groups)
    n, share = len(values), float(values.mean())
    if groups is None:
        return proportion_interval(float(values.sum()), n, level)
    variance, df = _variance_of_mean(values, groups)
    effective = min(n, share * (1 - share) / variance) if 0 < variance < math.inf else df + 1
    method = f"share; Wilson with an effective n of {effective:.3g} from {df + 1} groups"
    if df == 0:
        return Interval(share, 0.0, 1.0, math.inf, n, level, method=method)
    low, high = _wilson(share, effective, float(stats.t.ppf((1 + level) / 2, df)))
    return Interval(share, low, high, math.sqrt(variance), n, level, method=method)


def difference_interval(
    first: Any, second: Any, level: float = 0.95, groups: Any = None
) -> Interval:
    """Mean of first - second over the same samples (n,), each a score contribution.

    For 0/1 contributions Agresti & Min (2005): half a sample is added to each of the four cells, so
    that a handful of samples that all agree does not claim certainty. Else, and with groups, the t
    interval of the differences (for 0/1 with groups: those two bounds, whichever is further out).

    >>> interval = difference_interval([1, 1, 1, 1], [1, 1, 1, 1])
    >>> interval.value, round(interval.low, 3), round(interval.high, 3)
    (0.0, -0.327, 0.327)
    """
    first, second = (np.asarray(side, dtype=np.float64) for side in (first, second))
    if first.shape != second.shape:
        raise InputError(
            f"Expected as many first as second values but got {first.shape} and {second.shape}"
        )
    plain = mean_interval(first - second, level, groups)
    if plain.reason or not (_is_binary(first) and _is_binary(second)):
        return plain
    n, total = len(first), float((first - second).sum())
    discordant = float((first != second).sum()) + 1
    se = math.sqrt(discordant - total**2 / (n + 2)) / (n + 2)
    half = float(stats.norm.ppf((1 + level) / 2)) * se
    low, high = total / (n + 2) - half, total / (n + 2) + half
    if groups is not None:
        low, high = min(low, plain.low), max(high, plain.high)
    method = "paired difference of shares; Agresti-Min"
    method += f", no narrower than a {plain.method[6:]}" if groups is not None else ""
    bounds = max(min(low, plain.value), -1.0), min(max(high, plain.value), 1.0)
    return Interval(plain.value, *bounds, plain.se, n, level, method=method)


def paired(
    d: Any, level: float = 0.95, groups: Any = None, between: tuple[float, float] | None = None
) -> Interval:
    """Mean of paired differences d (S seeds, N samples) where both seeds and samples are random.

    SE² = var(row means)/S + var(column means)/N counts the seed-by-sample part twice, hence is
    conservative (Owen 2007, "The pigeonhole bootstrap"); degrees of freedom after Welch and
    Satterthwaite. With one seed, d (N,) or (1, N), only the sample part exists and
    `method` says that the interval does not speak of other trainings.

    Args:
        between: the seeds' part of SE² and its degrees of freedom, from elsewhere (pooled over like
            trainings, as in an analysis of variance), in place of what few rows of d say.

    >>> interval = paired([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    >>> interval.value, interval.n, interval.n_seeds
    (0.625, 4, 2)
    """
    check_level(level)
    d = np.atleast_2d(np.asarray(d, dtype=np.float64))
    if d.ndim != 2:
        raise InputError(f"Expected differences of shape (seeds, samples) but got {d.shape}")
    n_seeds, n = d.shape
    if reason := unusable(d.ravel()):
        return undefined(reason, n, level)
    by_sample, df_sample = _variance_of_mean(d.mean(0), groups)
    if between is not None:
        by_seed, df_seed = between
        how = f"; seeds' spread pooled, {df_seed:.3g} degrees of freedom"
    elif n_seeds == 1:
        method = "paired difference; t interval over samples of one training: "
        method += "says nothing of others"
        return _t_interval(float(d.mean()), by_sample, df_sample, n, level, method)
    else:
        by_seed, df_seed = _variance_of_mean(d.mean(1), None)
        how = ""
    variance = by_seed + by_sample
    spread = by_seed**2 / df_seed + (by_sample**2 / df_sample if df_sample else 0.0)
    df = 0.0 if not df_sample else variance**2 / spread if spread > 0 else df_seed
    method = f"paired difference; t interval over {n_seeds} seeds and samples (two-way){how}"
    return _t_interval(float(d.mean()), variance, df, n, level, method, n_seeds)


def bonferroni_level(level: float, k: int) -> float:
    """Level of each of k intervals that hold together with probability `level` or more.

    >>> round(bonferroni_level(0.95, 10), 6)
    0.995
    """
    check_level(level)
    return 1 - (1 - level) / max(1, k)


def measured(name: str, of: str, split: str, interval: Interval, **fields: Any) -> Measurement:
    """The Measurement of an Interval; `fields` adds unit, better, layer, group, or a longer estimator."""
    given = {"estimator": interval.method, "reason": interval.reason, "seed": interval.seed}
    return Measurement(
        name=name,
        of=of,
        split=split,  # type: ignore[arg-type]
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=interval.level,
        n=interval.n,
        repeats=interval.repeats,
        **(given | fields),
    )


def curve(name: str, of: str, split: str, points: Sequence[Interval], **fields: Any) -> Curve:
    """The Curve through Intervals; `fields` adds x, x_name, y_name, or ticks."""
    columns = {"y": "value", "low": "low", "high": "high", "n": "n"}
    arrays = {key: np.array([getattr(p, own) for p in points]) for key, own in columns.items()}
    return Curve(name=name, of=of, split=split, **arrays, **fields)  # type: ignore[arg-type]


def check_level(level: float) -> None:
    """Raise InputError unless it is a coverage to aim at."""
    if not 0 < level < 1:
        raise InputError(f"Expected a level between 0 and 1 but got {level}")


def unusable(values: np.ndarray) -> str:
    """Why no interval can rest on the values; "" when one can."""
    if values.size == 0:
        return "no samples"
    broken = int((~np.isfinite(values)).sum())
    return f"{broken} of {values.size} values are not finite" if broken else ""


def _is_binary(values: np.ndarray) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _variance_of_mean(values: np.ndarray, groups: Any) -> tuple[float, int]:
    """Squared standard error of the mean and its degrees of freedom; inf and 0 for a single unit."""
    parts = values - values.mean()
    if groups is not None:
        parts = np.bincount(np.unique(groups, return_inverse=True)[1], parts)
    k = len(parts)
    if k < 2:
        return math.inf, 0
    return k / (k - 1) * float((parts**2).sum()) / len(values) ** 2, k - 1


def _t_interval(
    value: float, variance: float, df: float, n: int, level: float, method: str, n_seeds: int = 1
) -> Interval:
    if df == 0:
        return Interval(value, -math.inf, math.inf, math.inf, n, level, n_seeds, method)
    se = math.sqrt(variance)
    half = float(stats.t.ppf((1 + level) / 2, df)) * se
    return Interval(value, value - half, value + half, se, n, level, n_seeds, method)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if share == 0 else center - half), (1.0 if share == 1 else center + half)
