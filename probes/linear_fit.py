"""Linear fits: a readout of labels fitted at every penalty, one chosen on validation, judged on test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gapkit.errors import InputError
from gapkit.probes.interval import Interval, score_interval, undefined
from gapkit.probes.readout import Classes, LabelSets, Line, Readout, Values
from gapkit.probes.spectrum import Basis, basis_of, feature_matrix


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A linear map from features to labels, judged on samples that it was not fitted on.

    Attributes:
        value, low, high, n: the readout's score on n test samples and its 95 % bounds.
        penalty: chosen λ; interior: whether it lies within `penalties`, not at an end.
        path: (len(penalties),) validation score by penalty.
        contributions, contributions_validation: what each sample adds; their mean is the score.
    """

    value: float
    low: float
    high: float
    n: int
    penalty: float
    interior: bool
    penalties: tuple[float, ...]
    path: np.ndarray
    contributions: np.ndarray = field(repr=False)
    contributions_validation: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Choice:
    """The penalty that validation prefers: its index, every penalty's score, the best one's by sample."""

    best: int
    path: np.ndarray
    contributions: np.ndarray


def choose(readout: Readout, lines: Sequence[Line], scores: np.ndarray, y: np.ndarray) -> Choice:
    """The best of a path of linear maps on validation samples' principal scores (m, r)."""
    outputs = [applied(line, scores) for line in lines]
    judged = [readout.contributions(output, y) for output in outputs]
    path = np.array([values.mean() for values in judged])
    losses = [readout.loss(output, y) for output in outputs]
    best = int(np.lexsort((np.array(losses), -path))[0])
    return Choice(best, path, judged[best])


def fit_of(
    readout: Readout, grid: tuple[float, ...], choice: Choice, judged: np.ndarray
) -> LinearFit:
    """The LinearFit of a chosen penalty whose contributions on test are `judged`."""
    interval = reading_interval(readout, judged)
    return LinearFit(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=len(judged),
        penalty=grid[choice.best],
        interior=0 < choice.best < len(grid) - 1,
        penalties=grid,
        path=choice.path,
        contributions=judged,
        contributions_validation=choice.contributions,
    )


def reading_interval(
    readout: type[Readout] | Readout, contributions: np.ndarray, groups: Any = None
) -> Interval:
    """The score with its interval: Wilson for accuracy, a ratio estimator's for the other two."""
    if np.isnan(contributions).all():
        return undefined(readout.nothing, len(contributions))
    found = score_interval(contributions, groups=groups)
    if found.method.startswith("mean"):
        return replace(found, method=f"{readout.score}, ratio; {found.method[6:]}")
    return found


def fit_labels(
    kind: type[Readout],
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    validation: tuple[Any, Any],
    penalties: Sequence[float],
    seed: int,
) -> LinearFit:
    """Check features and labels, fit at every penalty, choose one on validation, judge on test.

    Without validation samples (None, None) a seeded fifth of train, stratified by class, stands in, and the
    fit at the chosen penalty is repeated on all of train.
    """
    grid = penalty_grid(penalties)
    x, y = _checked(kind, *train, "training")
    x_test, y_test = _checked(kind, *test, "test", x, y)
    x_fit, y_fit, carved = x, y, validation[0] is None
    if carved:
        held = _held_fifth(y if kind is Classes else np.zeros(len(y)), seed)
        x_fit, y_fit, x_validation, y_validation = x[~held], y[~held], x[held], y[held]
    else:
        x_validation, y_validation = _checked(kind, *validation, "validation", x, y)
    readout, basis = kind(y_fit), basis_of(x_fit)
    lines = list(readout.probed(basis, grid))
    choice = choose(readout, lines, basis.project(x_validation), y_validation)
    line = lines[choice.best]
    if carved:
        readout, of_part, basis = kind(y), basis, basis_of(x)
        alike = readout.n_outputs == len(line[1])
        start = carried(line, of_part, basis) if alike else None
        (line,) = readout.probed(basis, (grid[choice.best],), start)
    outputs = applied(line, basis.project(x_test))
    return fit_of(readout, grid, choice, readout.contributions(outputs, y_test))


def applied(line: Line, scores: np.ndarray) -> np.ndarray:
    """(m, K) outputs of a linear map for principal scores (m, r)."""
    return scores @ line[0] + line[1]


def carried(line: Line, source: Basis, target: Basis) -> Line:
    """About the same map in the principal axes of another basis of the same features."""
    weights = np.zeros((len(source.kept), len(line[1])))
    weights[source.kept] = source.axes @ line[0] / source.scale[:, None]
    offset = line[1] - source.mean @ weights[source.kept]
    weights = weights[target.kept]
    return target.axes.T @ (weights * target.scale[:, None]), offset + target.mean @ weights


def penalty_grid(penalties: Sequence[float]) -> tuple[float, ...]:
    """Penalties from strong to weak.

    Raises:
        InputError: when there is none, or one is not above 0 and finite.
    """
    grid = tuple(sorted({float(value) for value in penalties}, reverse=True))
    if not grid or not all(0 < value < math.inf for value in grid):
        raise InputError(f"Expected one or more finite penalties above 0 but got {list(penalties)}")
    return grid


def label_array(kind: type[Readout], y: Any, n: int, what: str) -> np.ndarray:
    """Labels of n samples in the form that a readout takes: (n,) of classes, (n, K) of the others.

    Raises:
        InputError: when they have another form, number or are not finite.
    """
    y = np.asarray(y)
    if kind is Classes:
        if y.shape != (n,) or y.dtype.kind not in "biu":
            raise InputError(f"Expected {n} integer {what} labels but got {y.dtype} {y.shape}")
        return y
    if kind is Values and y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or len(y) != n or not y.size or y.dtype.kind not in "biuf":
        raise InputError(f"Expected {n} rows of {what} labels but got {y.dtype} {y.shape}")
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        raise InputError(f"Expected finite {what} labels but some are not")
    if kind is LabelSets and not np.isin(y, (0, 1)).all():
        raise InputError(f"Expected {what} labels of 0 and 1 but got others")
    return y


def _held_fifth(strata: np.ndarray, seed: int) -> np.ndarray:
    """Which samples to hold out: every fifth within each stratum, in random order."""
    if len(strata) < 3:
        raise InputError(
            f"Expected 3 or more training samples to hold some out but got {len(strata)}"
        )
    order = np.lexsort((np.random.default_rng(seed).random(len(strata)), strata))
    held = np.zeros(len(strata), dtype=bool)
    held[order[2::5]] = True
    return held


def _checked(
    kind: type[Readout],
    x: Any,
    y: Any,
    what: str,
    x_like: np.ndarray | None = None,
    y_like: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and labels that fit each other and, when given, those of training."""
    x = feature_matrix(x, f"{what} features")
    y = label_array(kind, y, len(x), what)
    if x_like is not None and x.shape[1] != x_like.shape[1]:
        raise InputError(f"Expected {x_like.shape[1]} {what} features but got {x.shape[1]}")
    if y_like is not None and y.shape[1:] != y_like.shape[1:]:
        raise InputError(f"Expected {y_like.shape[1]} {what} labels but got {y.shape[1]}")
    return x, y
