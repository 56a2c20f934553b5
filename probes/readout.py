"""Readouts: how each kind of label is read off features by a linear map, and how well it was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

import numpy as np
from scipy.special import log_softmax

from gapkit.errors import InputError
from gapkit.probes.logistic import logistic_path, sigmoid_loss, softmax_loss
from gapkit.probes.spectrum import Basis

SCREEN_PENALTIES = tuple(10.0**power for power in range(3, -7, -1))

Line = tuple[np.ndarray, np.ndarray]
"""A linear map of principal scores: weights (r, K) and offset (K,)."""


class Readout(Protocol):
    """What training labels of one kind say about fitting a linear map and judging it."""

    score: ClassVar[str]
    unit: ClassVar[str]
    screen: ClassVar[str]
    probe: ClassVar[str]
    nothing: ClassVar[str]

    def __init__(self, y: np.ndarray) -> None: ...

    @property
    def n_outputs(self) -> int: ...

    def screened(self, basis: Basis, penalties: Sequence[float]) -> Iterator[Line]:
        """The quick fit at every penalty, in their order: one eigendecomposition serves all."""

    def probed(
        self, basis: Basis, penalties: Sequence[float], start: Line | None = None
    ) -> Iterator[Line]:
        """The reported fit at every penalty, which must descend; `start` only saves time."""

    def contributions(self, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(m,) values whose mean is the score; nan, for the reason `nothing`, when it has none."""

    def loss(self, outputs: np.ndarray, y: np.ndarray) -> float:
        """What decides between penalties of equal score."""


class Classes:
    """One class a sample, y (n,): accuracy. Screened by LDA, reported by logistic regression."""

    score: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "share"
    screen: ClassVar[str] = "LDA"
    probe: ClassVar[str] = "logistic regression"
    nothing: ClassVar[str] = "no samples"

    def __init__(self, y: np.ndarray) -> None:
        self.classes, self.code = np.unique(y, return_inverse=True)
        if len(self.classes) < 2:
            raise InputError(
                f"Expected at least two classes to probe for but got {len(self.classes)}"
            )

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    def screened(self, basis: Basis, penalties: Sequence[float]) -> Iterator[Line]:
        """Linear discriminant analysis with within-class covariance + λ I (Friedman 1989).

        In principal axes the total covariance is diagonal and the within-class one differs from it
        by the K class means, so each λ costs a K × K system (Woodbury).
        """
        onehot = np.eye(self.n_outputs)[self.code]
        share = onehot.mean(0)
        means = basis.scores.T @ onehot / onehot.sum(0)
        for penalty in penalties:
            scaled = means / (basis.values + penalty)[:, None]
            between = np.eye(self.n_outputs) - share[:, None] * (means.T @ scaled)
            weights = np.linalg.solve(between.T, scaled.T).T
            yield weights, np.log(share) - (means * weights).sum(0) / 2

    def probed(
        self, basis: Basis, penalties: Sequence[float], start: Line | None = None
    ) -> Iterator[Line]:
        if start is None:
            share = np.bincount(self.code) / len(self.code)
            start = np.zeros((len(basis.values), self.n_outputs)), np.log(share)
        return logistic_path(basis.scores, basis.values, self.code, softmax_loss, start, penalties)

    def _known(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes of labels, and which were trained on: the others count as missed."""
        code = np.clip(np.searchsorted(self.classes, y), 0, self.n_outputs - 1)
        return code, self.classes[code] == y

    def contributions(self, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        code, known = self._known(y)
        return ((outputs.argmax(1) == code) & known).astype(np.float64)

    def loss(self, outputs: np.ndarray, y: np.ndarray) -> float:
        code, known = self._known(y)
        own = log_softmax(outputs, axis=1)[np.arange(len(y)), code][known]
        return -float(own.mean()) if len(own) else 0.0


class LabelSets:
    """K labels of 0 or 1 a sample, y (n, K): balanced accuracy, mean over labels; chance is 1/2.

    Half the hit rate among samples that have a label plus half of that among those that lack it, where a
    label is called when its probability exceeds its share in training, which is optimal for this
    score (Menon 2013). Plain accuracy of a rare label rewards never naming it, and average precision
    has another chance level for every label. A label that does not vary over the samples in hand, or
    did not in training, is left out.
    """

    score: ClassVar[str] = "macro balanced accuracy"
    unit: ClassVar[str] = "share"
    screen: ClassVar[str] = "ridge"
    probe: ClassVar[str] = "logistic regression of each label"
    nothing: ClassVar[str] = "no label that varied in training varies here"

    def __init__(self, y: np.ndarray) -> None:
        share = y.mean(0)
        self.fitted = (share > 0) & (share < 1)
        if not self.fitted.any():
            raise InputError("Expected a label that some training samples have and some lack")
        self.y, self.share = y[:, self.fitted], share[self.fitted]
        self.threshold = np.log(self.share / (1 - self.share))

    @property
    def n_outputs(self) -> int:
        return len(self.share)

    def screened(self, basis: Basis, penalties: Sequence[float]) -> Iterator[Line]:
        """Ridge on each label, cut midway between the means of those that have and lack it."""
        cross = basis.scores.T @ (self.y - self.share) / len(self.y)
        midway = cross * (0.5 / self.share - 0.5 / (1 - self.share))
        for penalty in penalties:
            weights = cross / (basis.values + penalty)[:, None]
            yield weights, -(weights * midway).sum(0)

    def probed(
        self, basis: Basis, penalties: Sequence[float], start: Line | None = None
    ) -> Iterator[Line]:
        """Logits above that of the label's share."""
        if start is None:
            start = np.zeros((len(basis.values), self.n_outputs)), np.zeros(self.n_outputs)
        start = start[0], start[1] + self.threshold
        labels = np.ascontiguousarray(self.y.T, dtype=np.float32)
        for weights, intercept in logistic_path(
            basis.scores, basis.values, labels, sigmoid_loss, start, penalties
        ):
            yield weights, intercept - self.threshold

    def contributions(self, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Linearized ratios: a sample of a rare label weighs more."""
        has = y[:, self.fitted] > 0
        judged = has.any(0) & ~has.all(0)
        has, hit = has[:, judged], ((outputs > 0)[:, judged] == has[:, judged])
        if not judged.any():
            return np.full(len(y), np.nan)
        around = np.zeros(len(y))
        value = 0.0
        for side in (has, ~has):
            rate = (hit & side).sum(0) / side.sum(0)
            value += rate.mean() / 2
            around += (side * (hit - rate) / side.mean(0)).mean(1) / 2
        return value + around

    def loss(self, outputs: np.ndarray, y: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(y[:, self.fitted] > 0, -outputs, outputs)).mean())


class Values:
    """Real targets, y (n, d): R² of ridge regression, at most 1, 0 for naming the training mean.

    Each target counts in units of its training standard deviation, so that all weigh alike.
    """

    score: ClassVar[str] = "R²"
    unit: ClassVar[str] = "R²"
    screen: ClassVar[str] = ""
    probe: ClassVar[str] = "ridge"
    nothing: ClassVar[str] = "the targets are constant or not finite on these samples"

    def __init__(self, y: np.ndarray) -> None:
        scale = y.std(0)
        self.fitted = scale > 1e-12 * np.abs(y).max(0)
        if not self.fitted.any():
            raise InputError("Expected a target that varies over the training samples but got none")
        self.mean, self.scale = y.mean(0)[self.fitted], scale[self.fitted]
        self.y = self._standardized(y)

    @property
    def n_outputs(self) -> int:
        return len(self.scale)

    def _standardized(self, y: np.ndarray) -> np.ndarray:
        return (y[:, self.fitted] - self.mean) / self.scale

    def probed(
        self, basis: Basis, penalties: Sequence[float], start: Line | None = None
    ) -> Iterator[Line]:
        cross = basis.scores.T @ self.y / len(self.y)
        for penalty in penalties:
            yield cross / (basis.values + penalty)[:, None], np.zeros(self.n_outputs)

    screened = probed

    def contributions(self, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        y = self._standardized(y)
        return r2_contributions(((y - outputs) ** 2).sum(1), (y**2).sum(1))

    def loss(self, outputs: np.ndarray, y: np.ndarray) -> float:
        return float(((self._standardized(y) - outputs) ** 2).mean())


def r2_contributions(missed: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(m,) linearized ratio with mean 1 - Σ missed / Σ spread; nan when nothing is to be explained."""
    if not len(spread) or not spread.sum() > 0 or not np.isfinite(missed.sum()):
        return np.full(len(spread), np.nan)
    value = 1 - missed.sum() / spread.sum()
    return value - (missed - (1 - value) * spread) / spread.mean()
