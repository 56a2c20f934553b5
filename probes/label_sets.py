"""Label sets: what multi-label logits say, every label being a yes or no of its own."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError


def binary_divergences(t: Tensor, s: Tensor, temperature: float = 1.0) -> np.ndarray:
    """(n,) KL between both models' yes/no answers at a temperature, mean over labels, in nats.

    KL(q_T‖q_S) + KL(1-q_T‖1-q_S), q = σ(z/τ), of logits (n, K); 0 for identical ones.

    >>> binary_divergences(torch.zeros(1, 2), torch.zeros(1, 2))
    array([0.])
    """
    if t.shape != s.shape:
        raise InputError(
            f"Expected logits of one shape but got {tuple(t.shape)} and {tuple(s.shape)}"
        )
    if temperature <= 0:
        raise InputError(f"Expected a temperature above 0 but got {temperature}")
    t, s = t.double() / temperature, s.double() / temperature
    yes = F.logsigmoid(t).exp() * (F.logsigmoid(t) - F.logsigmoid(s))
    no = F.logsigmoid(-t).exp() * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return (yes + no).clamp_min(0.0).mean(1).numpy()


def binary_surprises(logits: Tensor, targets: Tensor) -> np.ndarray:
    """(n,) negative log-likelihood of targets (n, K) of 0 and 1, mean over labels, in nats.

    >>> binary_surprises(torch.zeros(1, 2), torch.tensor([[0, 1]])).round(4)
    array([0.6931])
    """
    loss = F.binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="none")
    return loss.mean(1).numpy()


def binary_entropies(logits: Tensor) -> np.ndarray:
    """(n,) entropy of the yes/no answers (n, K), mean over labels, in nats, 0 to log 2."""
    z = logits.double()
    return (F.softplus(-z) + (1 - torch.sigmoid(z)) * z).mean(1).numpy()


def binary_confidences(logits: Tensor) -> np.ndarray:
    """(n,) probability of the answer given, yes or no, mean over labels (n, K), 0.5 to 1."""
    return torch.sigmoid(logits.double().abs()).mean(1).numpy()


def as_two_classes(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
    """Every label of every sample as a sample of two classes: logits (nK, 2), labels, owner."""
    flat = logits.double().flatten()
    owner = np.repeat(np.arange(len(logits)), logits.shape[1])
    return torch.stack([torch.zeros_like(flat), flat], 1), targets.long().flatten(), owner
