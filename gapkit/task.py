"""Task: what a model's outputs mean, and the first kind of it, classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError, unknown

MAX_JACKKNIFE_GROUPS = 200
IGNORED = -100  # the label that cross-entropy leaves out

Score = Callable[[Tensor, Tensor], float]


class Units(NamedTuple):
    """What is answered: samples, or the tokens of samples that count.

    Attributes:
        outputs, targets: (m, ...) of every unit.
        owner: (m,) position of the sample that each unit belongs to.
    """

    outputs: Tensor
    targets: Tensor | None
    owner: np.ndarray


@runtime_checkable
class Task(Protocol):
    """What every task kind answers; probes and losses ask nothing else of it.

    Attributes:
        kind: "classification", "multilabel", "regression" or "embedding".
        score_name, unit: of the score; "share" is printed in percent.
        additive: whether a sample's contribution is the same whatever other samples are scored with
            it, so that the score of a slice is the mean of its contributions.
        same_shape: whether the outputs of teacher and student must have one shape.
    """

    kind: str
    score_name: str
    unit: str
    additive: bool
    same_shape: bool

    def outputs(self, raw: Any) -> Tensor:
        """The tensor (n, ...) that counts in whatever a model returned."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of labels alone, a scalar (mean over samples)."""

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """How good the outputs are; higher is better."""

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """(n,) values whose mean is the score."""

    def agreement(
        self, outputs: Tensor, others: Tensor, targets: Tensor | None = None
    ) -> np.ndarray:
        """(n,) how much two models answer alike on each sample, from 0 to 1."""

    def chance(self, targets: Tensor) -> float:
        """The score of the best constant answer."""

    def units(self, outputs: Tensor, targets: Tensor | None) -> Units:
        """Outputs and targets of what is answered, one row each."""

    def check(self, outputs: Tensor, targets: Tensor | None, who: str) -> None:
        """Raise InputError when outputs and targets do not fit this task."""


class Classification:
    """One label per sample, logits (n, K); or one per token, logits (n, T, K) and labels (n, T).

    Tokens labeled -100 (padding) are left out. For next-token prediction the `target` view of the
    data must shift the labels itself: token t of the logits is held against label t.

    Args:
        score: "accuracy", "balanced_accuracy", "macro_f1", "top5", or a function
            (logits (m, K), labels (m,)) -> float where higher is better.

    >>> task = Classification()
    >>> task.score(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    >>> task.score(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, -100]]))
    1.0
    """

    kind = "classification"
    same_shape = True

    def __init__(self, score: str | Score = "accuracy") -> None:
        self.score_name, self._score, self.unit = named_score(score, _SCORES)
        self.additive = self._score in (_accuracy, _top5)

    def outputs(self, raw: Any) -> Tensor:
        """The logits: the tensor itself, a mapping's or ModelOutput's "logits", or the first tensor."""
        return output_tensor(raw, ("logits",))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, mean over samples (or over the tokens that count)."""
        if targets.ndim == 1:
            return F.cross_entropy(outputs.float(), targets)
        logits, labels = outputs.float().flatten(0, -2), targets.flatten()
        counted = (labels != IGNORED).sum().clamp(min=1)  # 0 where no token counts, not nan
        return F.cross_entropy(logits, labels, reduction="sum") / counted

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        units = self.units(outputs, targets)
        return float(self._score(units.outputs, units.targets))  # type: ignore[arg-type]

    def contributions(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """0 and 1 for accuracy; jackknife pseudo-values for a score that is no mean over samples.

        With tokens a sample's contribution is its share in the ratio hits/tokens, linearized:
        score + (hits - score · tokens) · n / (all tokens).
        """
        if not self.additive:
            return pseudo_values(self.score, outputs, targets)
        units = self.units(outputs, targets)
        assert units.targets is not None
        hits = _hits(units.outputs, units.targets, 5 if self._score is _top5 else 1)
        return by_sample(hits.double().cpu().numpy(), units.owner, len(outputs))

    def agreement(
        self, outputs: Tensor, others: Tensor, targets: Tensor | None = None
    ) -> np.ndarray:
        """1 where both name the same class, 0 where they do not; with tokens a share of those that count."""
        same = (outputs.argmax(-1) == others.argmax(-1)).double().cpu()
        if same.ndim == 1:
            return same.numpy()
        counts = torch.ones_like(same) if targets is None else (targets.cpu() != IGNORED).double()
        return ((same * counts).sum(1) / counts.sum(1).clamp(min=1)).numpy()

    def chance(self, targets: Tensor) -> float:
        """The score of answering with the classes' frequencies: the share of the most frequent one for a share."""
        targets = targets[targets != IGNORED]
        counts = torch.bincount(targets, minlength=2).float()
        logits = counts.clamp(min=torch.finfo(counts.dtype).tiny).log()
        return self.score(logits.expand(len(targets), -1), targets)

    def units(self, outputs: Tensor, targets: Tensor | None) -> Units:
        """The samples; the tokens whose label counts when there is one for each."""
        if outputs.ndim == 2 or targets is None:
            return Units(outputs, targets, np.arange(len(outputs)))
        counts = (targets != IGNORED).cpu()
        owner = counts.nonzero()[:, 0].numpy()
        return Units(outputs[counts.to(outputs.device)], targets[counts.to(targets.device)], owner)

    def check(self, outputs: Tensor, targets: Tensor | None, who: str) -> None:
        if outputs.ndim not in (2, 3):
            raise InputError(
                "Expected logits of shape (samples, classes) or (samples, tokens, classes) from the "
                f"{who} but got {tuple(outputs.shape)}"
            )
        if targets is None:
            raise InputError("Expected targets for a classification task but the data gives none")
        fits = targets.ndim == outputs.ndim - 1 and targets.shape[1:] == outputs.shape[1:-1]
        if not fits or targets.is_floating_point():
            wanted = ", ".join(["samples", *map(str, outputs.shape[1:-1])])
            raise InputError(
                f"Expected integer labels of shape ({wanted},) but got "
                f"{targets.dtype} {tuple(targets.shape)}"
            )
        if outputs.ndim == 3:
            targets = targets[targets != IGNORED]
            if not targets.numel():
                raise InputError(f"Expected tokens with a label but all of them are {IGNORED}")
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs.shape[-1]:
            raise InputError(
                f"Expected labels from 0 to {outputs.shape[-1] - 1}, the {who}'s {outputs.shape[-1]} "
                f"classes, but got labels from {low} to {high}"
            )


def output_tensor(raw: Any, keys: tuple[str, ...]) -> Tensor:
    """What counts in a model's answer: the tensor itself, one of the keys, or the first tensor.

    >>> output_tensor({"loss": torch.zeros(()), "logits": torch.ones(1, 2)}, ("logits",))
    tensor([[1., 1.]])
    """
    if isinstance(raw, Tensor):
        return raw
    if hasattr(raw, "keys"):
        for key in keys:
            if key in raw.keys():  # noqa: SIM118 - a ModelOutput's `in` looks at values
                return raw[key]
        raw = tuple(raw.values())
    for item in raw if isinstance(raw, (tuple, list)) else ():
        if isinstance(item, Tensor):
            return item
    wanted = " or ".join(keys)
    raise InputError(f"Expected a model output that holds {wanted} but got {type(raw).__name__}")


def named_score(score: str | Score, known: dict[str, Score]) -> tuple[str, Score, str]:
    """Name, function and unit ("share" for the known ones) of a score."""
    if isinstance(score, str):
        if score not in known:
            raise unknown("score", score, known)
        return score, known[score], "share"
    return getattr(score, "__name__", "score"), score, ""


def by_sample(values: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """(n,) contributions to the mean of unit values (m,), each unit owned by a sample.

    With one unit a sample these are the values; else the linearized ratio Σvalues/Σunits, whose
    mean is that ratio and whose spread gives its standard error (Cochran 1977, §6.3).

    >>> by_sample(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1]), 2)
    array([0.44444444, 0.88888889])
    """
    if len(values) == n and (owner == np.arange(n)).all():
        return values
    mean = float(values.mean())
    total, count = np.bincount(owner, values, n), np.bincount(owner, minlength=n)
    return mean + (total - mean * count) * n / len(values)


def pseudo_values(
    score: Score,
    outputs: Tensor,
    targets: Tensor,
    all_without: Callable[[Tensor, Tensor, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Delete-a-group jackknife pseudo-values (Tukey 1958), spread over the samples of each group.

    Groups are interleaved so that each holds a like share of the split; their mean is shifted to
    the score itself, so that the contributions' mean is the score exactly, and stretched so that
    their standard error is the jackknife's: n samples stand for n_groups independent groups.

    Args:
        all_without: (outputs, targets, group of each sample) -> (G,) the scores without each group,
            for scores that are quicker had all at once.
    """
    n = len(targets)
    n_groups = min(n, MAX_JACKKNIFE_GROUPS)
    group = torch.arange(n) % n_groups
    whole = score(outputs, targets)
    values = np.empty(n)
    if all_without is not None and n_groups > 1:
        left = all_without(outputs, targets, group.numpy())
        values = (n_groups * whole - (n_groups - 1) * left)[group.numpy()]
        return (values - values.mean()) * np.sqrt(n / n_groups) + whole
    for index in range(n_groups):
        kept = (group != index).to(outputs.device)
        without = score(outputs[kept], targets[kept]) if n_groups > 1 else whole
        values[(group == index).numpy()] = n_groups * whole - (n_groups - 1) * without
    return (values - values.mean()) * np.sqrt(n / n_groups) + whole


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


_SCORES: dict[str, Score] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "top5": _top5,
}
