"""TopK: the largest logits of rows over many classes, and what the others weigh together."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gapkit.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k largest logits of rows (...), and what the others weigh together.

    Attributes:
        values: (..., k) float32, largest first.
        indices: (..., k) int32, the classes they belong to.
        rest: (...) float32, the logsumexp of all other logits. The mass 1 − Σ p_k would drown in
            rounding on a confident row; this does not.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor

    @property
    def lse(self) -> Tensor:
        """(...) logsumexp of all logits."""
        return torch.logaddexp(self.values.logsumexp(-1), self.rest)


PARTS = tuple(field.name for field in fields(TopK))


def top_k_of(logits: Tensor, k: int) -> TopK:
    """The k largest of logits (..., K), 1 ≤ k < K, and the logsumexp of the rest.

    Raises:
        InputError: for any other k.

    >>> top = top_k_of(torch.tensor([1.0, 3.0, 1.0, 2.0]), 2)
    >>> top.values.tolist(), top.indices.tolist(), round(top.rest.item() - math.log(2), 4)
    ([3.0, 2.0], [1, 3], 1.0)
    """
    n_classes = logits.shape[-1]
    if not 1 <= k < n_classes:
        raise InputError(f"Expected top_k from 1 to {n_classes - 1} but got {k}")
    wide = logits.detach().float()
    values, indices = wide.topk(k, dim=-1)
    rest = wide.scatter(-1, indices, -math.inf).logsumexp(-1)
    return TopK(values=values, indices=indices.int(), rest=rest)


def dense(topk: TopK, n_classes: int) -> Tensor:
    """Logits (..., K) of which the kept ones are exact and the others share their mass equally.

    Each of the m = K − k others gets rest − log m. At τ = 1 the log-probabilities of the kept classes
    and the mass R of the rest are those of the full logits, to float32 rounding; with k = K − 1
    everything is. What is lost is the shape of the rest:

    - At τ ≠ 1 its mass is approximate: too large at τ > 1 (so that the kept classes get too little),
      too small at τ < 1 (Jensen: x^(1/τ) is concave for τ > 1).
    - Entropy is at least that of the full row p. KL(p̃‖q) to a student q is **no bound** on KL(p‖q):
      KL(p‖q) − KL(p̃‖q) = R·log m − R·H(p | rest) − Σ_rest (p_j − R/m)·log q_j, whose last sum has either
      sign. It is too small for a q that is flat in the rest and too large for one that follows p
      there (for q = p it is KL(p̃‖p) ≥ 0): a student learns a flat rest. Both are at least
      Σ_kept p·log(p/q) + R·log(R/Q), Q the student's mass of the rest (log-sum inequality, Cover &
      Thomas 2006, theorem 2.7.1).

    >>> dense(top_k_of(torch.tensor([0.0, 3.0, 0.0, 2.0]), 2), 4).tolist()
    [0.0, 3.0, 0.0, 2.0]
    """
    n_rest = n_classes - topk.values.shape[-1]
    if n_rest < 1:
        raise InputError(
            f"Expected more classes than the {topk.values.shape[-1]} kept but got {n_classes}"
        )
    each = (topk.rest - math.log(n_rest)).unsqueeze(-1)
    rows = each.expand(*each.shape[:-1], n_classes).contiguous()
    return rows.scatter_(-1, topk.indices.long(), topk.values)
