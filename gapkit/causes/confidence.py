"""Confidence: the probability that a cause holds, from the interval it was judged by, and its word."""

from __future__ import annotations

import math
from typing import Literal

from scipy.stats import norm

from gapkit.measurement import Measurement

LEVEL = 0.95
LEAST_SEEDS, SURE_SEEDS = 2, 4
HIGH, MODERATE = 0.95, 0.8  # what the words stand for
FEW_SEEDS = 0.9  # at most this below SURE_SEEDS: a normal law is too sure of so few
ONE_MODEL = 0.9  # at most this for what was seen on the one student or teacher that was given
NO_CONTROL = 0.85  # at most this for what no training was held against: about what was right of it
# among planted failures (benchmarks/planted, tuning worlds)

EVEN = 0.5  # what does not exceed it is no reason to name a cause

Word = Literal["high", "moderate", "low"]


def above(item: Measurement, limit: float = 0.0) -> float:
    """Probability that a measured value lies above a limit: Φ(z·(value - limit)/(value - low)).

    z is the normal quantile of the interval's own level, so that an interval that ends at the limit gives
    (1 + level)/2. The looks that a level above 95 % pays for, k = .05/(1 - level), are taken off
    again: 1 - k·(1 - Φ), at least 0. Misleading for prior belief (none is used) and for few seeds,
    whose t law has wider tails: callers cap it.

    Returns:
        In [0, 1]; ½ for an open interval, 0 for an undefined value.

    >>> item = Measurement(name="gain", of="pair", value=0.1, low=0.0, high=0.2, n=50)
    >>> round(above(item), 4), round(above(item.with_(level=0.975)), 4)
    (0.975, 0.975)
    """
    width = item.value - item.low
    if math.isnan(item.value) or math.isnan(width):
        return 0.0
    if math.isinf(width):
        return 0.5
    if width <= 0:
        return float(item.value > limit)
    looks = max(1.0, (1 - LEVEL) / (1 - item.level))
    z = float(norm.ppf((1 + item.level) / 2)) * (item.value - limit) / width
    return max(0.0, 1 - looks * float(norm.sf(z)))


def below(item: Measurement, limit: float = 0.0) -> float:
    """Probability that a measured value lies below a limit; as `above`, from the upper bound."""
    return above(item.with_(value=-item.value, low=-item.high, high=-item.low), -limit)


def by_seeds(probability: float, seeds: int) -> float:
    """A probability that rests on that many seeds: at most `FEW_SEEDS` below `SURE_SEEDS` of them.

    >>> by_seeds(0.999, 2), by_seeds(0.999, 4)
    (0.9, 0.999)
    """
    return probability if seeds >= SURE_SEEDS else min(probability, FEW_SEEDS)


def word(probability: float) -> Word:
    """high from .95 on, moderate from .8 on, else low.

    >>> word(0.95), word(0.94), word(0.79)
    ('high', 'moderate', 'low')
    """
    return "high" if probability >= HIGH else "moderate" if probability >= MODERATE else "low"
