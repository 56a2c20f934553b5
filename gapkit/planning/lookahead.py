"""Lookahead: how much better the final choice is expected to become by more runs of an arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr
from scipy.stats import norm

from gapkit.forecast import Belief

DOF = 4.0
"""Of Student's law of what runs may show. Effects have outliers that no Gaussian belief expects: under
its tails an arm that looks beaten keeps a little worth, and is run before a known one is run again."""

_Z = np.concatenate([-np.geomspace(8.0, 0.1, 32), np.geomspace(0.1, 8.0, 32)])
_WEIGHT = np.diff(stdtr(DOF, [-np.inf, *0.5 * (_Z[1:] + _Z[:-1]), np.inf]))


def knowledge_gradient(belief: Belief, arm: int, seeds: np.ndarray) -> float:
    """Expected rise of the best expected score when the arm is run once under each seed (never negative).

    E[max_a μ'_a] − max_a μ_a, where μ' = μ + σ̃·Z is the belief after the mean of those runs (Frazier,
    Powell & Dayanik 2009, eq. 11), with Student's law of `DOF` degrees of freedom for Z, at 64 values.

    Args:
        belief: about a arms and s seeds.
        arm: index of the arm that would be run.
        seeds: (m,) indices of the seeds in belief.cov.

    >>> belief = Belief(np.array([0.0, 0.0]), np.diag([1.0, 0.0, 0.0]), noise=0.0)
    >>> round(knowledge_gradient(belief, 0, np.array([2])), 1)  # E[max(Z, 0)] = 0.5
    0.5
    """
    c = belief.cov[:, arm] + belief.cov[:, seeds].mean(1)
    return _rise(belief, c, c[arm] + c[seeds].mean() + belief.noise / len(seeds))


def best_rate(
    belief: Belief,
    arm: int,
    seeds: np.ndarray,
    prices: Sequence[float],
    counts: Sequence[int],
    slack: float = 0.0,
) -> float:
    """The most that some number of runs of the arm is expected to be worth by its price (never negative).

    One run may change nothing where several would (Frazier & Powell 2010).

    Args:
        belief: about a arms and s seeds.
        arm: index of the arm that would be run.
        seeds: (m,) indices in belief.cov of the seeds it would be run under, in turn.
        prices: (m,) of a run under each of them, above 0.
        counts: numbers of runs to weigh, up to m.
        slack: added to every price.
    """
    total = slack + np.cumsum(prices)
    rates = [knowledge_gradient(belief, arm, seeds[:n]) / float(total[n - 1]) for n in counts]
    return max(rates, default=0.0)


def value_of_knowing(belief: Belief, arm: int) -> float:
    """Expected rise of the best expected score when the arm's true mean becomes known (never negative).

    The limit of `knowledge_gradient` for many runs under new seeds: it does not shy from arms that take
    more than one run to tell apart.

    >>> belief = Belief(np.array([0.0, 0.0]), np.diag([1.0, 0.0]), noise=9.0)
    >>> round(value_of_knowing(belief, 0), 1)
    0.5
    """
    return _rise(belief, belief.cov[:, arm], float(belief.cov[arm, arm]))


def _rise(belief: Belief, c: np.ndarray, variance: float) -> float:
    """E[max_a (μ_a + c_a Z/√variance)] − max_a μ_a."""
    if variance <= 0:
        return 0.0
    shift = c[: len(belief.mean)] / math.sqrt(variance)
    after = (belief.mean[:, None] + shift[:, None] * _Z).max(0) @ _WEIGHT
    return max(0.0, float(after - belief.mean.max()))


def odds(belief: Belief, rival: int) -> np.ndarray:
    """(a,) probability that each arm's true mean is above the rival's; 0.5 for the rival itself.

    Args:
        belief: about a arms. rival: index of one of them.

    >>> odds(Belief(np.array([0.0, 1.2816]), np.diag([0.5, 0.5]), noise=1.0), rival=0).round(3)
    array([0.5, 0.9])
    """
    n = len(belief.mean)
    cov = belief.cov[:n, :n]
    variance = np.maximum(np.diag(cov) + cov[rival, rival] - 2.0 * cov[rival], 0.0)
    lead = belief.mean - belief.mean[rival]
    return np.asarray(norm.cdf(lead / np.sqrt(variance + 1e-300)))
