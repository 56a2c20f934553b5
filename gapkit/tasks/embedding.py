"""Embedding: vectors whose geometry is what counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError
from gapkit.task import Score, Units, named_score, output_tensor

K = 10  # neighbors
REFERENCES = 1000  # samples that every sample is compared with
CHUNK = 2000

KEYS = ("embeddings", "sentence_embedding", "pooler_output", "last_hidden_state")


class Embedding:
    """One vector per sample (n, d), compared by cosine; targets are vectors (n, D), or labels (n,).

    Without targets the teacher's own vectors are the target: a student scores by how well it keeps
    the teacher's geometry, and the teacher scores 1.

    Args:
        score: "ranking" (per sample the rank correlation of its similarities to up to 1,000 others,
            -1 to 1), "neighbors" (share of its 10 nearest others kept), "cosine" (to a target of the
            same width), "recall_at_1" (its nearest other has its label: targets must be labels), or
            a function (vectors, targets) -> float where higher is better.

    >>> x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    >>> task = Embedding()
    >>> round(task.score(3 * x, x), 6), round(task.score(-x, x), 6)
    (1.0, 1.0)
    >>> round(Embedding("cosine").score(-x, x), 6)
    -1.0
    """

    kind = "embedding"

    def __init__(self, score: str | Score = "ranking") -> None:
        self.score_name, self._score, unit = named_score(score, _SCORES)
        self.unit = unit if self.score_name in ("neighbors", "recall_at_1") else ""
        self.additive = self.score_name in _PARTS  # by convention among all samples of the split
        self.same_shape = self.score_name == "cosine"

    def outputs(self, raw: Any) -> Tensor:
        """The vectors: the tensor itself, "embeddings" and its like, or the first tensor."""
        return output_tensor(raw, KEYS)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 - cosine to targets of the same width, mean over samples."""
        if targets.shape != outputs.shape or not targets.is_floating_point():
            raise InputError(
                f"Expected target vectors of shape {tuple(outputs.shape)} to train on "
                f"but got {targets.dtype} {tuple(targets.shape)}"
            )
        return 1 - F.cosine_similarity(outputs.float(), targets.float()).mean()

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        return float(self._score(outputs, targets))

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """(n,) each sample's own value, its neighbors taken among all n."""
        if self.score_name in _PARTS:
            return _PARTS[self.score_name](outputs, targets)
        return np.full(len(outputs), self.score(outputs, targets))

    def agreement(
        self, outputs: Tensor, others: Tensor, targets: Tensor | None = None
    ) -> np.ndarray:
        """(n,) rank correlation of both sides' similarities, brought to 0 to 1."""
        return (1 + ranking(outputs, others)) / 2

    def chance(self, targets: Tensor) -> float:
        """What unrelated vectors score: k/(n-1) neighbors, two samples alike in label, 0 else."""
        n = len(targets)
        if self.score_name == "neighbors":
            return min(1.0, _k(n) / max(1, len(_references(n)) - 1))
        if self.score_name == "recall_at_1" and n > 1:
            counts = targets.unique(return_counts=True)[1].double()
            return float((counts * (counts - 1)).sum() / (n * (n - 1)))
        return 0.0

    def units(self, outputs: Tensor, targets: Tensor | None) -> Units:
        """The samples."""
        return Units(outputs, targets, np.arange(len(outputs)))

    def check(self, outputs: Tensor, targets: Tensor | None, who: str) -> None:
        if outputs.ndim != 2:
            raise InputError(
                f"Expected one vector a sample (samples, width) from the {who} but got "
                f"{tuple(outputs.shape)}; pool tokens in the model"
            )
        labels = self.score_name == "recall_at_1"
        if targets is None:
            if labels:
                raise InputError("Expected labels for recall_at_1 but the data gives no targets")
            return
        if labels and (targets.ndim != 1 or targets.is_floating_point()):
            raise InputError(
                f"Expected integer labels (samples,) for recall_at_1 but got {tuple(targets.shape)}"
            )
        if not labels and self.score_name in _PARTS and targets.ndim != 2:
            raise InputError(
                f"Expected target vectors (samples, width) or none for {self.score_name} "
                f"but got {tuple(targets.shape)}; labels go with score='recall_at_1'"
            )
        if self.same_shape and targets.shape[1] != outputs.shape[1]:
            raise InputError(
                f"Expected target vectors of the {who}'s width {outputs.shape[1]} for cosine "
                f"but got {targets.shape[1]}"
            )


def ranking(outputs: Tensor, others: Tensor) -> np.ndarray:
    """(n,) Spearman correlation of each sample's cosines to the references in both sets of vectors.

    nan for fewer than 4 samples; 0 where one side sees all references alike.
    """
    values = []
    for itself, sides in _similarities(outputs, others):
        one, two = (_centered_ranks(cosines, itself) for cosines in sides)
        norm = (one.square().sum(1) * two.square().sum(1)).sqrt()
        values.append((one * two).sum(1) / norm.where(norm > 0, torch.inf))
    found = torch.cat(values).numpy()
    return found if len(found) > 3 else np.full_like(found, np.nan)


def neighbors(outputs: Tensor, others: Tensor) -> np.ndarray:
    """(n,) share of each sample's k nearest references that both sets of vectors name."""
    k, values = _k(len(outputs)), []
    for _, sides in _similarities(outputs, others):
        near = [
            torch.zeros_like(cosines).scatter_(1, cosines.topk(k, dim=1).indices, 1.0)
            for cosines in sides
        ]
        values.append((near[0] * near[1]).sum(1) / k)
    return torch.cat(values).numpy()


def _k(n: int) -> int:
    return max(1, min(K, len(_references(n)) - 1))


def _references(n: int) -> np.ndarray:
    """Positions that every sample is compared with: the same choice for the same n."""
    return np.sort(np.random.default_rng(0).permutation(n)[:REFERENCES])


def _similarities(outputs: Tensor, others: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Cosines (rows, references) of both sides, a chunk of rows at a time; -inf to itself (the mask)."""
    sides = [F.normalize(side.detach().cpu().double(), dim=1) for side in (outputs, others)]
    refs = torch.from_numpy(_references(len(outputs)))
    for rows in torch.arange(len(outputs)).split(CHUNK):
        itself = rows[:, None] == refs
        yield (
            itself,
            [(side[rows] @ side[refs].T).masked_fill(itself, -torch.inf) for side in sides],
        )


def _centered_ranks(values: Tensor, left_out: Tensor) -> Tensor:
    """(rows, columns) average ranks minus their mean; 0 where left out."""
    from scipy.stats import rankdata

    ranks, kept = torch.from_numpy(rankdata(values.numpy(), axis=1)), ~left_out
    mean = (ranks * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    return (ranks - mean) * kept


def _cosines(outputs: Tensor, targets: Tensor) -> np.ndarray:
    return F.cosine_similarity(
        outputs.detach().cpu().double(), targets.detach().cpu().double()
    ).numpy()


def _recalls(outputs: Tensor, labels: Tensor) -> np.ndarray:
    """(n,) 1 where the nearest other sample has the same label; all n are searched."""
    unit, labels = F.normalize(outputs.detach().cpu().float(), dim=1), labels.cpu()
    values = []
    for rows in torch.arange(len(unit)).split(CHUNK):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        values.append((labels[cosines.argmax(1)] == labels[rows]).double())
    return torch.cat(values).numpy()


_PARTS = {
    "ranking": ranking,
    "neighbors": neighbors,
    "cosine": _cosines,
    "recall_at_1": _recalls,
}


def _mean_of(part: Any) -> Score:
    return lambda outputs, targets: float(part(outputs, targets).mean())


_SCORES: dict[str, Score] = {name: _mean_of(part) for name, part in _PARTS.items()}
