"""Comparisons on test: paired, with an interval, and with what would decide the undecided."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gapkit.outcome import Comparison
from gapkit.probes.resample import measured, paired

LEVEL = 0.95
MOST_SEEDS = 1000


def compare(name: str, other: str, ours: np.ndarray, theirs: np.ndarray, unit: str) -> Comparison:
    """Hold ours (S, N) against theirs (S, N), seed by seed and sample by sample.

    With one row each it is a statement about these two models; with several, about the two ways of
    training.

    >>> better = compare("a", "b", np.ones((1, 50)), np.zeros((1, 50)), "share")
    >>> better.decided, better.points.value
    ('better', 1.0)
    """
    differences = ours - theirs
    interval = paired(differences, LEVEL)
    n_seeds = len(differences)
    decided: Literal["better", "worse", "undecided"] = "undecided"
    if interval.low > 0:
        decided = "better"
    elif interval.high < 0:
        decided = "worse"
    return Comparison(
        name=name,
        better_than=other,
        points=measured("difference", "student", "test", interval, unit=unit, better="higher"),
        n_seeds=n_seeds,
        decided=decided,
        would_decide=what_would_decide(differences) if decided == "undecided" else "",
    )


def what_would_decide(differences: np.ndarray) -> str:
    """How many seeds or samples would make a difference of this size exclude zero.

    Solves 1.96²·(v_seed/S + v_sample/N) < d² for S, or for N when no number of seeds suffices; the
    variances are those of the (S, N) differences at hand, so the answer is rough.
    """
    n_seeds, n = differences.shape
    mean = abs(float(differences.mean()))
    by_sample = float(np.var(differences.mean(0), ddof=1)) / n if n > 1 else math.inf
    target = (mean / 1.96) ** 2
    if mean == 0 or not math.isfinite(by_sample):
        return "The two are level here; only a much larger test set could tell them apart."
    if n_seeds == 1:
        return (
            f"About {math.ceil(n * by_sample / target):,} test samples (now {n:,}), and more seeds."
        )
    by_seed = float(np.var(differences.mean(1), ddof=1))
    if by_sample >= target:
        return f"About {math.ceil(n * by_sample / target):,} test samples (now {n:,}) at this difference."
    needed = math.ceil(by_seed / (target - by_sample))
    needed = max(needed, n_seeds + 1)
    if needed > MOST_SEEDS:
        return f"More than {MOST_SEEDS:,} seeds at this difference: for practical purposes they are level."
    return f"About {needed:,} seeds (now {n_seeds}) at this difference."
