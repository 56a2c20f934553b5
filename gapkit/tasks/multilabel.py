"""MultiLabel: any number of labels per sample, each answered with yes or no."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError
from gapkit.task import Score, Units, named_score, output_tensor, pseudo_values


class MultiLabel:
    """Several labels per sample: outputs are logits (n, K), targets (n, K) of 0 and 1.

    Args:
        score: "mean_average_precision" (over the labels that occur), "micro_f1", "macro_f1" (both
            with yes at a logit above 0), "exact_match", or a function (logits, targets) -> float
            where higher is better.

    >>> task = MultiLabel("exact_match")
    >>> task.score(torch.tensor([[2.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [0, 1]]))
    0.5
    """

    kind = "multilabel"
    same_shape = True

    def __init__(self, score: str | Score = "mean_average_precision") -> None:
        self.score_name, self._score, self.unit = named_score(score, _SCORES)
        self.additive = self._score is _exact_match

    def outputs(self, raw: Any) -> Tensor:
        """The logits: the tensor itself, a mapping's or ModelOutput's "logits", or the first tensor."""
        return output_tensor(raw, ("logits",))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy in nats, mean over samples and labels."""
        return F.binary_cross_entropy_with_logits(outputs.float(), targets.float())

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        return float(self._score(outputs, targets))

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """0 and 1 for exact match; jackknife pseudo-values else."""
        if self.additive:
            return _matches(outputs, targets).double().cpu().numpy()
        without = _mean_average_precisions if self._score is _mean_average_precision else None
        return pseudo_values(self.score, outputs, targets, without)

    def agreement(
        self, outputs: Tensor, others: Tensor, targets: Tensor | None = None
    ) -> np.ndarray:
        """(n,) share of labels that both answer alike."""
        return ((outputs > 0) == (others > 0)).double().mean(1).cpu().numpy()

    def chance(self, targets: Tensor) -> float:
        """The score of answering every label by how often it occurs."""
        return self.score(torch.logit(targets.double().mean(0)).expand(len(targets), -1), targets)

    def units(self, outputs: Tensor, targets: Tensor | None) -> Units:
        """The samples."""
        return Units(outputs, targets, np.arange(len(outputs)))

    def check(self, outputs: Tensor, targets: Tensor | None, who: str) -> None:
        if outputs.ndim != 2:
            raise InputError(
                f"Expected logits of shape (samples, labels) from the {who} but got {tuple(outputs.shape)}"
            )
        if targets is None:
            raise InputError("Expected targets for a multi-label task but the data gives none")
        if targets.ndim != 2 or targets.shape[1] != outputs.shape[1]:
            raise InputError(
                f"Expected targets of shape (samples, {outputs.shape[1]}), the {who}'s labels, "
                f"but got {tuple(targets.shape)}"
            )
        if not ((targets == 0) | (targets == 1)).all():
            raise InputError("Expected targets of 0 and 1 for a multi-label task but got others")


def _matches(logits: Tensor, targets: Tensor) -> Tensor:
    return ((logits > 0) == (targets > 0)).all(1)


def _exact_match(logits: Tensor, targets: Tensor) -> float:
    return _matches(logits, targets).double().mean().item()


def _mean_average_precision(logits: Tensor, targets: Tensor) -> float:
    """Mean over labels that occur of Σ precision · Δrecall; ties in score count as one step."""
    from sklearn.metrics import average_precision_score

    scores, truth = logits.detach().cpu().double().numpy(), targets.cpu().numpy()
    occurring = truth.any(0)
    if not occurring.any():
        raise InputError("Expected a label that occurs but none does in these samples")
    finite = np.nan_to_num(scores[:, occurring], posinf=1e300, neginf=-1e300)
    return float(average_precision_score(truth[:, occurring], finite, average="macro"))


def _mean_average_precisions(logits: Tensor, targets: Tensor, group: np.ndarray) -> np.ndarray:
    """(G,) mean average precision without the samples of each group; all groups from one sorting.

    Raises:
        InputError: when no label occurs without some group.
    """
    scores = np.nan_to_num(logits.detach().cpu().double().numpy(), posinf=1e300, neginf=-1e300)
    truth = targets.cpu().numpy() > 0
    n_groups = int(group.max()) + 1
    total, counted = np.zeros(n_groups), np.zeros(n_groups)
    for label in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked = scores[order, label]
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # ties are one step
        kept = group[order] != np.arange(n_groups)[:, None]
        hits = np.cumsum(kept & truth[order, label], axis=1)[:, ends]
        shown = np.cumsum(kept, axis=1)[:, ends]
        precision = hits / np.maximum(shown, 1)
        steps = np.diff(hits, axis=1, prepend=0)
        occurs = hits[:, -1] > 0
        total += np.where(occurs, (precision * steps).sum(1) / np.maximum(hits[:, -1], 1), 0.0)
        counted += occurs
    if not counted.all():
        raise InputError("Expected a label that occurs but none does in these samples")
    return total / counted


def _f1(logits: Tensor, targets: Tensor, average: str) -> float:
    from sklearn.metrics import f1_score

    answers = (logits > 0).cpu().numpy()
    return float(f1_score(targets.cpu().numpy() > 0, answers, average=average, zero_division=0))


def _micro_f1(logits: Tensor, targets: Tensor) -> float:
    return _f1(logits, targets, "micro")


def _macro_f1(logits: Tensor, targets: Tensor) -> float:
    return _f1(logits, targets, "macro")


_SCORES: dict[str, Score] = {
    "mean_average_precision": _mean_average_precision,
    "micro_f1": _micro_f1,
    "macro_f1": _macro_f1,
    "exact_match": _exact_match,
}
