"""Prediction: how much of one layer a linear map from another predicts, in both directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gapkit.errors import InputError
from gapkit.measurement import Measurement
from gapkit.probes.bases import Bases
from gapkit.probes.interval import Interval, mean_interval, measured, undefined
from gapkit.probes.readout import SCREEN_PENALTIES, r2_contributions
from gapkit.probes.resample import folds
from gapkit.probes.spectrum import Basis, basis_of, feature_matrix

FOLDS = 5
SKETCH = 32  # random directions of a wide layer by which its best source is chosen
CONSTANT = "what is to be predicted is constant or not finite"


def predictability(
    x: Any, y: Any, groups: Any = None, seed: int = 0, level: float = 0.95
) -> Interval:
    """Share of Y's variance that a linear map from X predicts on held-out samples: ridge R², at most 1.

    Args:
        x, y: features (n, p) and (n, q) of the same samples; swap them for the other direction.
        groups: samples that depend on each other stay in one fold.
        seed: of the five folds.

    1 when y is a linear image of x, about 0 (also below) when x says nothing. The penalty of each fold
    is chosen on its training part by generalized cross-validation (Golub, Heath & Wahba 1979). High-variance
    directions of Y dominate. The interval is a ratio estimator's over held-out samples; how the fit
    itself would vary is not in it.

    Raises:
        InputError: features that are not finite, not (samples, features), or of different samples.

    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> round(predictability(x, x @ np.array([[1.0, 2.0], [0.0, 1.0]])).value, 3)
    1.0
    """
    x, y = feature_matrix(x, "x"), feature_matrix(y, "y")
    if len(x) != len(y):
        raise InputError(f"Expected as many rows of x as of y but got {len(x)} and {len(y)}")
    n_units = len(x) if groups is None else len(np.unique(groups))
    if n_units < 2 * FOLDS:
        why = f"{n_units} samples or groups are too few for {FOLDS} folds"
        return undefined(why, len(x), level)
    fold = folds(len(x), FOLDS, groups, seed)
    missed, spread = np.empty(len(x)), np.empty(len(x))
    for index in range(FOLDS):
        held = fold == index
        try:
            basis = basis_of(x[~held])
        except InputError:
            return undefined("no feature of x varies", len(x), level)
        fit = ridge_fit(basis, y[~held])
        missed[held], spread[held] = fit.errors(basis.project(x[held]), y[held])
    found = _r2(missed, spread, groups, level)
    method = f"{FOLDS}-fold ridge R², penalty by GCV; {found.method}"
    return found if found.reason else replace(found, method=method)


@dataclass(frozen=True)
class RidgeFit:
    """Weights (r, q) of principal scores and the training mean (q,) of what they predict."""

    weights: np.ndarray
    center: np.ndarray

    def errors(self, scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) squared error of each sample, and its squared distance from the training mean."""
        away = y - self.center
        return ((away - scores @ self.weights) ** 2).sum(1), (away**2).sum(1)


def ridge_fit(basis: Basis, y: np.ndarray) -> RidgeFit:
    """Ridge regression of y (n, q) on the basis' n samples, penalty by GCV.

    Penalties that leave less than a tenth of the samples as degrees of freedom are not considered:
    GCV is erratic there. Should none be left, the fit is the mean.
    """
    n, center = len(y), y.mean(0)
    cross = basis.scores.T @ (y - center) / n
    total = float(((y - center) ** 2).sum()) / n
    explained = (cross**2).sum(1) / basis.values
    best, penalty = np.inf, np.inf
    for candidate in SCREEN_PENALTIES:
        shrink = basis.values / (basis.values + candidate)
        freedom = 1 - (1 + shrink.sum()) / n
        left = total - float(((2 * shrink - shrink**2) * explained).sum())
        if freedom > 0.1 and left / freedom**2 < best:
            best, penalty = left / freedom**2, candidate
    return RidgeFit(cross / (basis.values + penalty)[:, None], center)


def predicted(bases: Bases, source: str, target: str, name: str) -> Iterator[Measurement]:
    """R² on validation and test of each layer of `target`, from the layer of `source` that predicts it best.

    Fitted on train; validation chooses the source layer, for wide layers by random projections to
    32 directions, which keep shares of variance in expectation.
    """
    pair = {source, target} == {"teacher", "student"}
    of = "pair" if pair else "untrained"
    best = _best_sources(bases, source, target)
    for origin in (*dict.fromkeys(best.values()),):
        for layer in (name for name in bases.layers(target) if best[name] == origin):
            found = _judged(bases, (source, origin), (target, layer))
            for split, interval in found.items():
                chosen = "this same split" if split == "validation" else "validation"
                how = (
                    f"ridge fitted on {bases.n('train')} train samples (penalty by GCV) from "
                    f"{source} layer {origin}, the best of {len(bases.layers(source))} on {chosen}; "
                )
                yield measured(
                    name, of, split, interval, layer=layer, unit="R²", better="higher",
                    estimator=how + interval.method,
                )  # fmt: skip


def prediction_flops(n: int, sources: Sequence[int], targets: Sequence[int]) -> float:
    """About what `predicted` costs on n samples a split, given widths and known bases."""
    ranks = [min(n, width) for width in sources]
    choosing = 4.0 * n * sum(ranks) * sum(min(width, SKETCH) for width in targets)
    return choosing + 6.0 * n * max(ranks) * sum(targets)


def _best_sources(bases: Bases, source: str, target: str) -> dict[str, str]:
    """Target layer -> the source layer that predicts most of it on validation; "" when none can."""
    sketches = {layer: _sketch(bases, target, layer) for layer in bases.layers(target)}
    best = {layer: ("", -np.inf) for layer in sketches}
    for origin in bases.layers(source):
        try:
            known = bases.of(source, origin)
        except InputError:
            continue
        for layer, sketch in sketches.items():
            if sketch is None:
                continue
            fit = ridge_fit(known.basis, sketch["train"])
            missed, spread = fit.errors(known.held["validation"], sketch["validation"])
            value = r2_contributions(missed, spread).mean()
            if value > best[layer][1]:
                best[layer] = (origin, value)
    return {layer: origin for layer, (origin, _) in best.items()}


def _sketch(bases: Bases, role: str, layer: str) -> dict[str, np.ndarray] | None:
    """A layer's features along a few random directions; all of them when it is narrow."""
    try:
        parts = {split: bases.features(role, layer, split) for split in ("train", "validation")}
    except InputError:
        return None
    width = parts["train"].shape[1]
    if width <= SKETCH:
        return parts
    directions = np.random.default_rng(0).normal(size=(width, SKETCH))
    return {split: part @ directions for split, part in parts.items()}


def _judged(bases: Bases, source: tuple[str, str], target: tuple[str, str]) -> dict[str, Interval]:
    """R² of a target layer from one source layer on validation and test."""
    splits = ("validation", "test")
    if not source[1]:
        why = f"this layer or every {source[0]} layer is constant or not finite"
        return {split: undefined(why, bases.n(split)) for split in splits}
    known = bases.of(*source)
    fit = ridge_fit(known.basis, bases.features(*target, "train"))
    return {
        split: _r2(
            *fit.errors(known.held[split], bases.features(*target, split)), bases.groups(split)
        )
        for split in splits
    }


def _r2(missed: np.ndarray, spread: np.ndarray, groups: Any, level: float = 0.95) -> Interval:
    """1 - Σ missed / Σ spread with the ratio estimator's interval."""
    contributions = r2_contributions(missed, spread)
    if np.isnan(contributions).all():
        return undefined(CONSTANT, len(spread), level)
    around = mean_interval(contributions, level, groups)
    return replace(around, method=f"ratio, {around.method[6:]}")
