"""What a model's outputs mean: how they are read, scored and learned from labels alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError, unknown

MAX_JACKKNIFE_GROUPS = 200


@runtime_checkable
class Task(Protocol):
    """What every task kind answers; probes and losses ask nothing else of it."""

    kind: str
    score_name: str
    unit: str

    def outputs(self, raw: Any) -> Tensor:
        """The tensor (n, ...) that counts in whatever a model returned."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of labels alone, a scalar (mean over samples)."""

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """How good the outputs are; higher is better."""

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """(n,) values whose mean is the score."""

    def agreement(self, outputs: Tensor, others: Tensor) -> np.ndarray:
        """(n,) how much two models answer alike on each sample, from 0 to 1."""

    def chance(self, targets: Tensor) -> float:
        """The score of the best constant answer."""

    def check(self, outputs: Tensor, targets: Tensor | None, who: str) -> None:
        """Raise InputError when outputs and targets do not fit this task."""


class Classification:
    """One label per sample; outputs are logits (n, K).

    Args:
        score: "accuracy", "balanced_accuracy", "macro_f1", "top5", or a function
            (logits (n, K), labels (n,)) -> float where higher is better.

    >>> task = Classification()
    >>> task.score(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """

    kind = "classification"

    def __init__(self, score: str | Callable[[Tensor, Tensor], float] = "accuracy") -> None:
        if isinstance(score, str) and score not in _SCORES:
            raise unknown("score", score, _SCORES)
        self.score_name = score if isinstance(score, str) else getattr(score, "__name__", "score")
        self._score = _SCORES[score] if isinstance(score, str) else score
        self.unit = "share" if isinstance(score, str) else ""

    def outputs(self, raw: Any) -> Tensor:
        """The logits: the tensor itself, a mapping's or ModelOutput's "logits", or the first tensor."""
        if isinstance(raw, Tensor):
            return raw
        if hasattr(raw, "keys"):
            if "logits" in raw.keys():  # noqa: SIM118 - a ModelOutput's `in` looks at values
                return raw["logits"]
            raw = tuple(raw.values())
        for item in raw if isinstance(raw, (tuple, list)) else ():
            if isinstance(item, Tensor):
                return item
        raise InputError(f"Expected a model output that holds logits but got {type(raw).__name__}")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, mean over samples."""
        return F.cross_entropy(outputs.float(), targets)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        return float(self._score(outputs, targets))

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """0 and 1 for accuracy; jackknife pseudo-values for a score that is no mean over samples."""
        if self._score in (_accuracy, _top5):
            return _hits(outputs, targets, 5 if self._score is _top5 else 1).double().cpu().numpy()
        return _pseudo_values(self.score, outputs, targets)

    def agreement(self, outputs: Tensor, others: Tensor) -> np.ndarray:
        """1 where both name the same class, 0 where they do not."""
        return (outputs.argmax(1) == others.argmax(1)).double().cpu().numpy()

    def chance(self, targets: Tensor) -> float:
        """Share of the most frequent class when the score is a share, the constant answer's score else."""
        counts = torch.bincount(targets, minlength=2).float()  # as logits: frequent classes first
        return self.score(counts.expand(len(targets), -1), targets)

    def check(self, outputs: Tensor, targets: Tensor | None, who: str) -> None:
        if outputs.ndim != 2:
            raise InputError(
                f"Expected logits of shape (samples, classes) from the {who} but got {tuple(outputs.shape)}"
            )
        if targets is None:
            raise InputError("Expected targets for a classification task but the data gives none")
        if targets.ndim != 1 or targets.is_floating_point():
            raise InputError(
                "Expected integer labels of shape (samples,) but got "
                f"{targets.dtype} {tuple(targets.shape)}"
            )
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs.shape[1]:
            raise InputError(
                f"Expected labels from 0 to {outputs.shape[1] - 1}, the {who}'s {outputs.shape[1]} "
                f"classes, but got labels from {low} to {high}"
            )


def _hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    if k == 1:
        return logits.argmax(1) == labels
    return (logits.topk(min(k, logits.shape[1]), dim=1).indices == labels[:, None]).any(1)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return _hits(logits, labels, 1).double().mean().item()


def _top5(logits: Tensor, labels: Tensor) -> float:
    return _hits(logits, labels, 5).double().mean().item()


def _balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    hits = _hits(logits, labels, 1).double()
    return float(np.mean([hits[labels == label].mean().item() for label in labels.unique()]))


def _macro_f1(logits: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import f1_score

    answers = logits.argmax(1).cpu().numpy()
    return float(f1_score(labels.cpu().numpy(), answers, average="macro", zero_division=0))


_SCORES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "top5": _top5,
}


def _pseudo_values(
    score: Callable[[Tensor, Tensor], float], outputs: Tensor, targets: Tensor
) -> np.ndarray:
    """Delete-a-group jackknife pseudo-values (Tukey 1958), spread over the samples of each group.

    Groups are interleaved so that each holds a like share of the split; their mean is shifted to
    the score itself, so that the contributions' mean is the score exactly, and stretched so that
    their standard error is the jackknife's: n samples stand for n_groups independent groups.
    """
    n = len(targets)
    n_groups = min(n, MAX_JACKKNIFE_GROUPS)
    group = torch.arange(n) % n_groups
    whole = score(outputs, targets)
    values = np.empty(n)
    for index in range(n_groups):
        kept = (group != index).to(outputs.device)
        without = score(outputs[kept], targets[kept]) if n_groups > 1 else whole
        values[(group == index).numpy()] = n_groups * whole - (n_groups - 1) * without
    return (values - values.mean()) * np.sqrt(n / n_groups) + whole
