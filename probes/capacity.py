"""Capacity: what a model has room for. Parameters, FLOPs, effective rank, intrinsic dimension, hint bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from gapkit.errors import InputError
from gapkit.family import count_flops, count_parameters
from gapkit.guest import moved
from gapkit.probes.interval import Interval, exact, mean_interval, measured, undefined
from gapkit.probes.layers import first_tensor
from gapkit.probes.probe import Result, Seen, Setting
from gapkit.probes.resample import folds, one_of_each
from gapkit.probes.spectrum import feature_matrix, spectrum

DISCARDED = 0.1  # share of the largest distance ratios that TwoNN does not use (Facco 2017)
MIN_SAMPLES = 10

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
    return _plain(x, _entropy_rank)


def participation_ratio(x: Any) -> float:
    """How many directions features (n, d) use, weighing large ones more: (Σλ)²/Σλ², 1 to d.

    At most the effective rank; nan for constant features. Gao et al. 2017.

    >>> round(participation_ratio([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 6)
    2.0
    """
    return _plain(x, _participation)


def hint_bound(x: Any, d: int) -> float:
    """Share of variance in the top d principal directions of features (n, D): 0 to 1.

    No linear map from d numbers predicts more of x (Eckart & Young 1936), so it bounds the R² of a linear
    hint from a layer d wide. It says nothing about accuracy. nan for constant features.

    >>> hint_bound([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], d=1)
    0.5
    """
    return _plain(x, _top_share(d))


def intrinsic_dimension(x: Any) -> float:
    """Dimension of the surface that samples (n, d) lie on, from each one's two nearest neighbors (TwoNN).

    The ratio μ of the two distances has P(μ > m) = m^(-dimension) (Facco 2017, eq. 4). The largest tenth of
    the ratios is taken as censored there, as they discard it, which gives the maximum-likelihood
    (r-1)/(Σ log μ_i + (n-r) log μ_r) over the r kept ones (Epstein & Sobel 1953). Samples that
    coincide with their neighbor are left out; nan with fewer than 10 left. Biased downward in high
    dimension, upward by noise.

    >>> line = np.random.default_rng(0).random((500, 1)) @ np.ones((1, 3))
    >>> 0.8 < intrinsic_dimension(line) < 1.2
    True
    """
    return dimension_interval(feature_matrix(x)).value


def dimension_interval(x: np.ndarray, level: float = 0.95) -> Interval:
    """`intrinsic_dimension` with its χ² interval: 2r·dimension/estimate ~ χ²(2r), exact for independent ratios."""
    if len(x) < MIN_SAMPLES:
        return undefined(f"{len(x)} samples are too few for TwoNN", len(x), level)
    if not np.isfinite(x).all():
        return undefined("some features are not finite", len(x), level)
    near = NearestNeighbors(n_neighbors=3).fit(x).kneighbors(x)[0]
    first, second = near[:, 1], near[:, 2]
    apart = first > 0
    n = int(apart.sum())
    if n < MIN_SAMPLES:
        return undefined(f"only {n} samples differ from their nearest neighbor", n, level)
    log_mu = np.sort(np.log(second[apart] / first[apart]))
    kept = int((1 - DISCARDED) * n)
    total = float(log_mu[:kept].sum() + (n - kept) * log_mu[kept - 1])
    if total <= 0:
        return undefined("nearest neighbors are equally far", n, level)
    tail = np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = stats.chi2.ppf(tail, 2 * kept) / (2 * total)
    value = (kept - 1) / total
    method = f"TwoNN, {kept} ratios and {n - kept} censored; χ² interval"
    return Interval(
        value, float(low), float(high), value / math.sqrt(kept), n, level, method=method
    )


def spectral_interval(
    x: np.ndarray, statistic: Spectral, level: float = 0.95, groups: Any = None
) -> Interval:
    """A function of the covariance eigenvalues of x (n, d), with interval.

    The variance comes from the influence of each sample, Σ_j ∂f/∂λ_j · z_ij² (infinitesimal jackknife, Jaeckel
    1972; first-order eigenvalue perturbation), not from resampling: drawing with replacement repeats
    rows and shrinks every rank. The bias of order 1/n is estimated by the mean of two half samples
    minus the whole, and the interval is widened on that side.
    """
    n = len(x)
    if n < MIN_SAMPLES or not np.isfinite(x).all():
        reason = f"{n} samples are too few" if n < MIN_SAMPLES else "some features are not finite"
        return undefined(reason, n, level)
    values, scores = spectrum(x)
    if not len(values):
        return undefined("constant features", n, level)
    value, slope = statistic(values)
    around = mean_interval(scores**2 @ slope, level, groups)
    half_width = (around.high - around.low) / 2
    side = folds(n, 2, groups)
    halves = [_plain(x[side == index], statistic) for index in (0, 1)]
    bias = float(np.mean(halves)) - value if np.isfinite(halves).all() else math.nan
    corrected = value - bias if math.isfinite(bias) else value
    low, high = min(value, corrected) - half_width, max(value, corrected) + half_width
    method = f"influence of each sample, {around.method[6:]}; widened by the bias {bias:.2g} (half samples)"
    return Interval(value, low, high, around.se, n, level, method=method)


class CapacityProbe:
    """Size and cost of teacher and student, and how many dimensions their layers use."""

    name = "capacity"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Counts once; ranks of every layer, dimension of the last, hint bounds, on validation and test."""
        yield from _counts("teacher", setting.teacher, setting.teacher_example, setting)
        yield from _counts("student", setting.student, setting.student_example, setting)
        for split in (name for name in ("validation", "test") if name in seen):
            for of in seen[split].models:
                yield from _ranks(seen[split], of)
            yield from _hint_bounds(seen[split])


def _counts(of: str, model: Any, example: Any, setting: Setting) -> Iterator[Result]:
    size, how = exact(float(count_parameters(model))), "exact, tied ones once"
    yield measured("parameters", of, "", size, unit="parameters", estimator=how)
    per_sample = count_flops(model, moved(example, setting.device)) / _batch_size(example)
    nothing = undefined("the forward pass has no operation whose FLOPs are counted")
    cost = exact(per_sample) if per_sample else nothing
    how = "one forward pass; matrix products, convolutions, attention; two per multiply-add"
    yield measured("flops", of, "", cost, unit="FLOPs", better="lower", estimator=how)


def _batch_size(example: Any) -> int:
    """Samples in a view: rows of its first tensor."""
    found = first_tensor(example)
    if found is None or not found.ndim:
        raise InputError(
            f"Expected an example that holds a tensor but got {type(example).__name__}"
        )
    return len(found)


def _ranks(seen: Seen, of: str) -> Iterator[Result]:
    shown = seen.models[of]
    groups = None if seen.groups is None else seen.groups[shown.rows]
    features = {layer: shown.features[layer].double().numpy() for layer in shown.layers}
    for layer, x in features.items():
        for name, statistic in (
            ("effective_rank", _entropy_rank),
            ("participation_ratio", _participation),
        ):
            interval = _bounded(spectral_interval(x, statistic, groups=groups), 1.0, x.shape[1])
            yield measured(name, of, seen.split, interval, layer=layer, unit="dimensions")
    if shown.layers:
        name, last = "intrinsic_dimension", shown.layers[-1]
        alone = one_of_each(len(shown.rows), groups)  # neighbors within a group would measure it
        interval = dimension_interval(features[last][alone])
        yield measured(name, of, seen.split, interval, layer=last, unit="dimensions")


def _hint_bounds(seen: Seen) -> Iterator[Result]:
    student, teacher = seen.student, seen.teacher
    if not student.layers:
        return
    widest = max(student.layers, key=lambda layer: student.features[layer].shape[1])
    d = student.features[widest].shape[1]
    groups = None if seen.groups is None else seen.groups[teacher.rows]
    for layer in teacher.layers:
        x = teacher.features[layer].double().numpy()
        interval = _bounded(spectral_interval(x, _top_share(d), groups=groups), 0.0, 1.0)
        how = f"variance share of the top {d} directions, the width of student layer {widest}; "
        yield measured(
            "hint_bound", "teacher", seen.split, interval, layer=layer, unit="share",
            estimator=how + interval.method,
        )  # fmt: skip


def _top_share(d: int) -> Spectral:
    def share_of(values: np.ndarray) -> tuple[float, np.ndarray]:
        share = values[:d].sum() / values.sum()
        return float(share), ((np.arange(len(values)) < d) - share) / values.sum()

    return share_of


def _entropy_rank(values: np.ndarray) -> tuple[float, np.ndarray]:
    p = values / values.sum()
    entropy = -float((p * np.log(p)).sum())
    rank = math.exp(entropy)
    return rank, -rank * (np.log(p) + entropy) / values.sum()


def _participation(values: np.ndarray) -> tuple[float, np.ndarray]:
    total, squares = values.sum(), (values**2).sum()
    return float(total**2 / squares), 2 * total / squares - 2 * total**2 * values / squares**2


def _plain(x: Any, statistic: Spectral) -> float:
    values, _ = spectrum(feature_matrix(x))
    return statistic(values)[0] if len(values) else math.nan


def _bounded(interval: Interval, lowest: float, highest: float) -> Interval:
    low, high = max(lowest, interval.low), min(highest, interval.high)
    return interval if interval.reason else replace(interval, low=low, high=high)
