"""Regression: numbers to be hit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError
from gapkit.task import Score, Units, named_score, output_tensor, pseudo_values


class Regression:
    """Numbers per sample: outputs and targets (n,) or (n, d).

    Args:
        score: "r2" (coefficient of determination, mean over dimensions), "neg_mse", "neg_mae" (both
            negated, so that higher is better), or a function (outputs, targets) -> float.

    >>> Regression().score(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    1.0
    >>> Regression("neg_mae").score(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    -1.0
    """

    kind = "regression"
    same_shape = True

    def __init__(self, score: str | Score = "r2") -> None:
        self.score_name, self._score, _ = named_score(score, _SCORES)
        self.unit = "R²" if self._score is _r2 else ""
        self.additive = self._score in (_neg_mse, _neg_mae)

    def outputs(self, raw: Any) -> Tensor:
        """The numbers, (n, 1) as (n,): the tensor itself, "logits" or "predictions", or the first tensor."""
        found = output_tensor(raw, ("predictions", "logits"))
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error, mean over samples and dimensions."""
        return F.mse_loss(outputs.float(), _like(targets, outputs).float())

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        return float(self._score(outputs, _like(targets, outputs)))

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """Negated errors; for R² each sample's part in the ratio, linearized; else pseudo-values."""
        targets = _like(targets, outputs)
        if self._score is _r2:
            return _r2_parts(outputs, targets)
        if self.additive:
            return -_errors(outputs, targets, 2 if self._score is _neg_mse else 1)
        return pseudo_values(self.score, outputs, targets)

    def agreement(
        self, outputs: Tensor, others: Tensor, targets: Tensor | None = None
    ) -> np.ndarray:
        """(n,) 1/(1 + d²), d the distance of both answers in standard deviations of the others'.

        1 for equal answers, a half at one standard deviation.
        """
        one, two = _columns(outputs), _columns(others)
        spread = two.var(0, correction=0)
        squared = torch.where(one == two, 0.0, (one - two).square() / spread)
        return (1 / (1 + squared)).mean(1).numpy()

    def chance(self, targets: Tensor) -> float:
        """The score of answering the mean (the median for the absolute error)."""
        rows = targets.double()
        center = rows.quantile(0.5, 0) if self._score is _neg_mae else rows.mean(0)
        return self.score(center.expand_as(rows), rows)

    def units(self, outputs: Tensor, targets: Tensor | None) -> Units:
        """The samples."""
        return Units(outputs, targets, np.arange(len(outputs)))

    def check(self, outputs: Tensor, targets: Tensor | None, who: str) -> None:
        if outputs.ndim not in (1, 2):
            raise InputError(
                f"Expected numbers (samples,) or (samples, dimensions) from the {who} "
                f"but got {tuple(outputs.shape)}"
            )
        if targets is None:
            raise InputError("Expected targets for a regression task but the data gives none")
        if _like(targets, outputs).shape[1:] != outputs.shape[1:]:
            raise InputError(
                f"Expected targets like the {who}'s outputs {tuple(outputs.shape[1:])} a sample "
                f"but got {tuple(targets.shape[1:])}"
            )
        if not targets.double().isfinite().all():
            raise InputError("Expected finite targets for a regression task but got nan or inf")


def _like(targets: Tensor, outputs: Tensor) -> Tensor:
    """Targets (n, 1) as (n,) where the outputs are (n,)."""
    return targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 == outputs.ndim else targets


def _columns(values: Tensor) -> Tensor:
    values = values.detach().cpu().double()
    return values[:, None] if values.ndim == 1 else values


def _errors(outputs: Tensor, targets: Tensor, power: int) -> np.ndarray:
    """(n,) mean over dimensions of |output - target|^power."""
    return (_columns(outputs) - _columns(targets)).abs().pow(power).mean(1).numpy()


def _neg_mse(outputs: Tensor, targets: Tensor) -> float:
    return -float(_errors(outputs, targets, 2).mean())


def _neg_mae(outputs: Tensor, targets: Tensor) -> float:
    return -float(_errors(outputs, targets, 1).mean())


def _r2_parts(outputs: Tensor, targets: Tensor) -> np.ndarray:
    """(n,) linearized parts of 1 - Σ(error²)/Σ(target - mean)², whose mean is R² itself."""
    truth = _columns(targets)
    missed = (_columns(outputs) - truth).square()
    spread = (truth - truth.mean(0)).square()
    if not (spread.sum(0) > 0).all():
        raise InputError("Expected targets that vary but they are the same for all these samples")
    left = missed.mean(0) / spread.mean(0)
    return (1 - left - (missed - left * spread) / spread.mean(0)).mean(1).numpy()


def _r2(outputs: Tensor, targets: Tensor) -> float:
    return float(_r2_parts(outputs, targets).mean())


_SCORES: dict[str, Score] = {"r2": _r2, "neg_mse": _neg_mse, "neg_mae": _neg_mae}
