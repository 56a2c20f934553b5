"""Logits: what class logits say. Agreement, KL, likelihood, entropy, confidence, dark knowledge."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.calibration import confidences, named_classes

CHUNK = 2**22  # logits worked on at once


def agreement(t: Tensor, s: Tensor) -> float:
    """Share of samples on which both (n, K) logits name the same class; 1 for identical ones.

    Misleading when one class dominates: two constant answers agree fully.

    >>> agreement(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    0.5
    """
    return float(agrees(t, s).mean())


def kl(t: Tensor, s: Tensor, temperature: float = 1.0) -> float:
    """How far the student's answer is from the teacher's: mean KL(p_T‖p_S) in nats, ≥ 0.

    Both (n, K) logits are divided by the temperature first. This is the divergence itself: the factor
    τ² of the distillation loss (Hinton 2015, §2.1) is not applied, so values at different temperatures
    are not gradients of one loss. 0 for identical logits. A single confident miss can dominate.

    >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    0.0
    """
    return float(divergences(t, s, temperature).mean())


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels (n,) under (n, K) logits, in nats, ≥ 0.

    >>> round(nll(torch.zeros(3, 4), torch.tensor([0, 1, 2])), 4)
    1.3863
    """
    return float(surprises(logits, labels).mean())


def entropy(logits: Tensor) -> float:
    """How undecided the answers (n, K) are: mean entropy in nats, 0 to log K.

    >>> round(entropy(torch.zeros(3, 4)), 4)
    1.3863
    """
    return float(entropies(logits).mean())


def confidence(logits: Tensor) -> float:
    """Mean probability of the named class, 1/K to 1.

    >>> confidence(torch.zeros(3, 4))
    0.25
    """
    return float(confidences(logits).mean())


def dark_knowledge(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """What the answers say beyond the label and its probability, in nats, 0 to log(K-1).

    Mean of (1 - p_y)·KL(p̂‖uniform), p̂ being p over the K-1 other classes, renormalized: the KL of p from
    the same p_y with the rest spread evenly, which is label smoothing. 0 for a teacher sure of its label and for
    one that merely smooths it (Müller 2019: smoothing erases what a student could learn); the split of
    p into label and rest is Zhao 2022, eq. 7; the idea Hinton 2015, §1. Misleading for a teacher that is
    often wrong: mass on one wrong class counts as knowledge. 0 throughout when K = 2.

    >>> round(dark_knowledge(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])), 6)
    0.0
    """
    return float(beyond_labels(logits, labels, temperature).mean())


def agrees(t: Tensor, s: Tensor) -> np.ndarray:
    """(n,) 1 where both (n, K) logits name the same class."""
    _same_shape(t, s)
    return (named_classes(t) == named_classes(s)).astype(np.float64)


def divergences(t: Tensor, s: Tensor, temperature: float) -> np.ndarray:
    """(n,) KL(p_T‖p_S) in nats."""
    _same_shape(t, s)

    def of(t: Tensor, s: Tensor) -> Tensor:
        log_t, log_s = _log_p(t, temperature), _log_p(s, temperature)
        return (log_t.exp() * (log_t - log_s)).sum(1).clamp_min(0.0)

    return _by_chunk(of, t, s)


def surprises(logits: Tensor, labels: Tensor) -> np.ndarray:
    """(n,) negative log-likelihood of the labels in nats."""
    return -_by_chunk(
        lambda part, own: _log_p(part).gather(1, own.long()[:, None])[:, 0], logits, labels
    )


def entropies(logits: Tensor) -> np.ndarray:
    """(n,) entropy in nats."""

    def of(logits: Tensor) -> Tensor:
        log_p = _log_p(logits)
        return -(log_p.exp() * log_p).sum(1)

    return _by_chunk(of, logits)


def beyond_labels(logits: Tensor, labels: Tensor, temperature: float) -> np.ndarray:
    """(n,) `dark_knowledge` of each answer."""

    def of(logits: Tensor, labels: Tensor) -> Tensor:
        others = torch.ones(logits.shape, dtype=torch.bool)
        others[torch.arange(len(labels)), labels.long()] = False
        rest = _log_p(logits, temperature)[others].view(len(labels), -1)
        mass = torch.logsumexp(rest, dim=1)
        hat = rest - mass[:, None]
        divergence = math.log(rest.shape[1]) + (hat.exp() * hat).sum(1)
        return mass.exp() * divergence.clamp_min(0.0)

    return _by_chunk(of, logits, labels)


def _by_chunk(of: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> np.ndarray:
    """One value a row; in float64, some rows at a time, so that large outputs are never held twice."""
    rows = max(1, CHUNK // logits[0].numel()) if len(logits) else 1
    parts = zip(*(part.detach().cpu().split(rows) for part in (logits, *others)))
    return torch.cat([of(*part) for part in parts]).numpy()


def _log_p(logits: Tensor, temperature: float = 1.0) -> Tensor:
    if temperature <= 0:
        raise InputError(f"Expected a temperature above 0 but got {temperature}")
    return torch.log_softmax(logits.double() / temperature, dim=1)


def _same_shape(t: Tensor, s: Tensor) -> None:
    if t.shape != s.shape:
        raise InputError(
            f"Expected logits of one shape but got {tuple(t.shape)} and {tuple(s.shape)}"
        )
