"""Random outputs, and every loss with a random batch that it can be called on."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import entropy

from gapkit import losses

B, K = 12, 5


def pair(n=B, k=K, scale=2.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, n, k, generator=generator, dtype=torch.float64)).to(dtype)


def mean_kl(teacher, student):
    """Mean over rows of KL(teacher‖student) by scipy."""
    return np.mean([entropy(p, q) for p, q in zip(teacher, student)])


def forms():
    """Case -> function of (student, teacher) of shape (n, K): each form of each registered loss."""
    found = {}
    for name in losses.names():
        for task, fn in losses.named(name).forms.items():
            case = name if task in ("*", "classification") else f"{name}_{task}"
            found[case] = fn
    del found["attention"], found["mse_multilabel"], found["mse_regression"], found["mse_embedding"]
    del found["dkd"]

    def dkd(student, teacher, **given):
        targets = torch.arange(len(student)) % student.shape[1]
        return losses.dkd(student, teacher, targets, **given)

    return found | {"dkd": dkd}


FORMS = forms()
SURPRISED = ("hard", "hard_multilabel", "contrastive")  # not 0 for identical inputs
RELATION = {name: losses.named(name).fn for name in losses.names("relation")}
