"""Comparisons on test: paired, with an interval, and with what would decide the undecided."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from scipy import stats

from gapkit.errors import InputError
from gapkit.outcome import Comparison
from gapkit.probes.interval import difference_interval, mean_interval, measured, paired

LEVEL = 0.95
MOST_SEEDS = 1000
Z = float(stats.norm.ppf((1 + LEVEL) / 2))


def compare(
    name: str, other: str, ours: np.ndarray, theirs: np.ndarray, unit: str, groups: Any = None
) -> Comparison:
    """Hold ours (S, N) against theirs (S, N), seed by seed and sample by sample.

    With one row each it is a statement about these two models; with several, about the two ways of
    training. `groups` (N,) names samples that depend on each other.

    Raises:
        InputError: when the two were not got with as many seeds on as many samples.

    >>> better = compare("a", "b", np.ones((1, 50)), np.zeros((1, 50)), "share")
    >>> better.decided, better.points.value
    ('better', 1.0)
    """
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise InputError(
            f"Expected contributions of the same (seeds, samples) for {name!r} and {other!r} but got "
            f"{ours.shape} and {theirs.shape}"
        )
    differences = ours - theirs
    if len(differences) == 1:
        interval = difference_interval(ours[0], theirs[0], LEVEL, groups)
    else:
        interval = paired(differences, LEVEL, groups)
    decided: Literal["better", "worse", "undecided"] = "undecided"
    if interval.low > 0:
        decided = "better"
    elif interval.high < 0:
        decided = "worse"
    return Comparison(
        name=name,
        better_than=other,
        points=measured("difference", "student", "test", interval, unit=unit, better="higher"),
        n_seeds=len(differences),
        decided=decided,
        would_decide=what_would_decide(differences, groups) if decided == "undecided" else "",
    )


def what_would_decide(differences: np.ndarray, groups: Any = None) -> str:
    """How many seeds or samples would make a difference of this size exclude zero.

    Solves t²·(v_seed/S + v_sample/N) < d² for S (t of S − 1 degrees of freedom); when no number of
    seeds suffices, for S and N that get half of d² each. The variances are those of the (S, N)
    differences at hand, and so is d: the answer is rough.
    """
    n_seeds, n = differences.shape
    mean = abs(float(differences.mean()))
    by_sample = mean_interval(differences.mean(0), LEVEL, groups).se ** 2
    if math.isnan(by_sample):
        return "Nothing while contributions are missing: the difference itself is undefined."
    if mean == 0 or math.isinf(by_sample):
        return "The two are level here; only a much larger test set could tell them apart."
    whole = (Z / mean) ** 2
    if n_seeds == 1:
        samples = math.ceil(n * by_sample * whole)
        return f"About {max(samples, n + 1):,} test samples (now {n:,}), and more seeds."
    by_seed = float(np.var(differences.mean(1), ddof=1))
    if by_sample * whole >= 1:
        samples, seeds = math.ceil(2 * n * by_sample * whole), math.ceil(2 * by_seed * whole)
        also = f" and {seeds:,} seeds (now {n_seeds})" if seeds > n_seeds else ""
        return f"About {samples:,} test samples (now {n:,}){also} at this difference."
    for seeds in range(n_seeds + 1, MOST_SEEDS + 1):
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1))
        if quantile**2 * (by_seed / seeds + by_sample) < mean**2:
            return f"About {seeds:,} seeds (now {n_seeds}) at this difference."
    return (
        f"More than {MOST_SEEDS:,} seeds at this difference: for practical purposes they are level."
    )
