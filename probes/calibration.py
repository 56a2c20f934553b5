"""Calibration: whether a model is right as often as it is sure; error with interval, reliability curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapkit.measurement import Curve, Measurement
from gapkit.probes.interval import Interval, curve, measured, proportion_interval, undefined
from gapkit.probes.resample import bootstrap

N_BINS = 15
NULL_DRAWS = 200
BOOTSTRAP_WORK = 2_000_000  # samples x repeats of one bootstrap; between 200 and 1000 repeats


def named_classes(logits: Tensor) -> np.ndarray:
    """(n,) the class that each of the answers (n, K) names."""
    return logits.detach().cpu().argmax(1).numpy()


def confidences(logits: Tensor) -> np.ndarray:
    """(n,) the probability that each of the answers (n, K) gives the class it names."""
    log_p = torch.log_softmax(logits.detach().cpu().double(), dim=1)
    return log_p.max(1).values.exp().numpy()


def calibration_error(logits: Tensor, labels: Tensor, n_bins: int = N_BINS) -> float:
    """How far confidence is from accuracy: mean |accuracy - confidence| over bins of equal mass.

    ECE (Guo 2017, eq. 3) with adaptive bins (Nguyen & O'Connor 2015); equal confidences share a bin, so
    the samples' order does not matter. In 0 to 1. Biased upward for few samples: a calibrated model
    scores above 0 too (ResponseProbe says how much).

    >>> calibration_error(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    0.0
    """
    return _error(*_sure_and_right(logits, labels), n_bins)


def measured_calibration(
    of: str, split: str, logits: Tensor, labels: Tensor, groups: Any = None, seed: int = 0
) -> Iterator[Measurement | Curve]:
    """`calibration_error` of a model as "ece" with its interval, then the reliability curve."""
    sure, right = _sure_and_right(logits, labels)
    if not np.isfinite(sure).all():
        nothing = undefined("some logits are not finite", len(right))
        yield measured("ece", of, split, nothing, unit="share")
        return
    interval, null = _error_interval(sure, right, groups, seed)
    how = (
        f"ECE, {N_BINS} bins of equal mass; {interval.method}; low is 0 unless calibration is refuted "
        f"(a calibrated model would score {null:.4f})"
    )
    yield measured("ece", of, split, interval, unit="share", better="lower", estimator=how)
    count, mean_sure, accuracy = _bins(sure, right, N_BINS)
    points = [
        proportion_interval(round(share * size), int(size)) for share, size in zip(accuracy, count)
    ]
    names = {"x_name": "mean confidence", "y_name": "accuracy"}
    yield curve("reliability", of, split, points, x=mean_sure, **names)


def _sure_and_right(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of each sample, and 1.0 where the label is named."""
    right = named_classes(logits) == labels.cpu().numpy()
    return confidences(logits), right.astype(np.float64)


def _bins(
    sure: np.ndarray, right: np.ndarray, n_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, mean confidence and accuracy of each non-empty bin, (k,) each."""
    edges = np.unique(np.quantile(sure, np.linspace(0, 1, n_bins + 1)[1:-1], method="inverted_cdf"))
    code = np.searchsorted(edges, sure, side="left")
    count = np.bincount(code)
    kept = count > 0
    sums = (np.bincount(code, weights) for weights in (sure, right))
    mean_sure, accuracy = (total[kept] / count[kept] for total in sums)
    return count[kept], mean_sure, accuracy


def _error(sure: np.ndarray, right: np.ndarray, n_bins: int = N_BINS) -> float:
    count, mean_sure, accuracy = _bins(sure, right, n_bins)
    return float(np.abs(mean_sure - accuracy) @ count / len(sure))


def _error_interval(
    sure: np.ndarray, right: np.ndarray, groups: Any, seed: int
) -> tuple[Interval, float]:
    """The calibration error's interval, and what a calibrated model would score on average.

    The basic bootstrap turns the estimate's upward bias round, where the percentile interval doubles
    it and misses the truth. Near 0 that is not enough: the lower bound is 0 as long as the error lies
    within what calibrated models score (consistency resampling, Bröcker & Smith 2007).
    """
    n_repeats = int(np.clip(BOOTSTRAP_WORK // len(right), 200, 1000))
    found = bootstrap(_error, [sure, right], n_repeats, groups=groups, seed=seed, method="basic")
    rng = np.random.default_rng(seed)
    null = np.array(
        [_error(sure, (rng.random(len(sure)) < sure).astype(np.float64)) for _ in range(NULL_DRAWS)]
    )
    refuted = found.value > np.quantile(null, (1 + found.level) / 2)
    low = max(0.0, found.low) if refuted else 0.0
    return replace(found, low=low, high=max(found.value, found.high)), float(null.mean())
