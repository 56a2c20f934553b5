"""Intervals of means that a report prints beside trainings and pairs; pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gapkit.measurement import Measurement

Z95 = 1.959963984540054


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of independent values (n,).

    Wilson's score interval (Wilson 1927) when all values are 0 or 1, mean ± t·s/√n otherwise.
    Misleading when the values depend on each other. One value has no interval: (nan, nan).

    >>> tuple(round(bound, 3) for bound in mean_interval(np.array([1.0] * 9 + [0.0])))
    (0.596, 0.982)
    >>> mean_interval(np.array([0.4]))
    (nan, nan)
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean = float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        center = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n * n))
        return center - half, center + half
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean of first − second over the same samples (n,), with its 95 % t interval.

    For identical inputs (0, 0, 0). The interval speaks of these two models on new samples, not of
    other trainings. Bounds are nan for n = 1.

    Raises:
        ValueError: when the lengths differ or are 0.

    >>> paired_difference(np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    (0.0, 0.0, 0.0)
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"Expected as many samples in both but got {len(first)} and {len(second)}")
    difference = first - second
    if len(difference) == 1:
        return float(difference[0]), math.nan, math.nan
    from scipy.special import stdtrit

    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    half = float(stdtrit(len(difference) - 1, 0.975)) * error
    mean = float(difference.mean())
    return mean, mean - half, mean + half


def with_bounds(items: Sequence[Measurement | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, lower and upper bounds (n,) of measurements; nan where there is none.

    >>> item = Measurement(name="gain", of="pair", value=0.1, low=0.0, high=0.2, n=50)
    >>> [bound.tolist() for bound in with_bounds([item, None])]
    [[0.1, nan], [0.0, nan], [0.2, nan]]
    """
    value, low, high = np.array(
        [[math.nan] * 3 if item is None else [item.value, item.low, item.high] for item in items]
    ).T
    return value, low, high
