"""Relation losses: whether the samples of a batch lie to each other for the student as for the teacher.

They compare samples with samples, so the widths of student and teacher may differ (but for `contrastive`), and
with several processes the batch must be gathered first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError
from gapkit.teaching.feature_losses import flattened, products
from gapkit.teaching.response_losses import above_zero, divergence, unit


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently the two space out the samples: Huber loss of the pairwise distances.

    Mean over pairs i < j of huber(d_S(i, j)/mean d_S − d_T(i, j)/mean d_T), δ = 1, features (n, ...). From 0 up; the
    paper weighs it 25. Widths may differ.

    Misleading: two samples at one place have distance 0, where √ has no gradient (0 is used). Raises InputError
    for one sample (an empty mean) and for other shapes.
    Source: Park et al. 2019, arXiv 1904.05068, equations 5 to 8.

    >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    >>> rkd_distance(7 * x + 2, x).item(), round(rkd_distance(x, y).item(), 4)  # 1/48
    (0.0, 0.0208)
    """
    features, wanted = flattened(student, teacher, least=2)
    above = torch.triu_indices(len(features), len(features), 1, device=features.device)
    spaced = []
    for x in (features, wanted):
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")[
            above[0], above[1]
        ]
        mean = distances.mean()
        spaced.append(distances / torch.where(mean > 0, mean, torch.ones_like(mean)))
    return F.smooth_l1_loss(spaced[0], spaced[1])


def rkd_angle(
    student: Tensor, teacher: Tensor, max_triplets: int = 20_000, seed: int = 0
) -> Tensor:
    """How differently the two arrange samples in angles: Huber loss of the cosines of triplets.

    Mean over triplets of huber(cos ∠_S(i, j, k) − cos ∠_T(i, j, k)), δ = 1, the angle at j, features (n, ...).
    Range 0 to 1.5; the paper weighs it 50. Widths may differ.

    Args:
        max_triplets: above this many (B(B−1)(B−2)/2 exist), a seeded sample of triplets is used.
        seed: of that sample.

    Misleading: a sample estimate above about 35 samples. Raises InputError below 3 samples, for other shapes.
    Source: Park et al. 2019, arXiv 1904.05068, equations 9 to 11.

    >>> corner = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    >>> abs(round(rkd_angle(2 * corner, corner).item(), 5))
    0.0
    """
    features, wanted = flattened(student, teacher, least=3)
    if max_triplets < 1:
        raise InputError(f"Expected max_triplets of at least 1 but got {max_triplets}")
    i, j, k = _triplets(len(features), max_triplets, seed).to(features.device)
    cosines = [(unit(x[i] - x[j]) * unit(x[k] - x[j])).sum(1) for x in (features, wanted)]
    return F.smooth_l1_loss(cosines[0], cosines[1])


def _triplets(n: int, most: int, seed: int) -> Tensor:
    """(3, m) triplets of different samples: all with i < k, or `most` drawn with replacement."""
    if n * (n - 1) * (n - 2) // 2 <= most:
        i, k = torch.triu_indices(n, n, 1)
        j = torch.arange(n).repeat_interleave(len(i))
        i, k = i.repeat(n), k.repeat(n)
        apart = (i != j) & (k != j)
        return torch.stack([i[apart], j[apart], k[apart]])
    generator = torch.Generator().manual_seed(seed)
    i, step, jump = (torch.randint(n - less, (most,), generator=generator) for less in (0, 1, 2))
    j = (i + 1 + step) % n
    low, high = torch.minimum(i, j), torch.maximum(i, j)
    k = jump + (jump >= low).long()
    return torch.stack([i, j, k + (k >= high).long()])


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Whether pairs alike for the teacher are alike for the student: distance of the batch's Gram rows.

    (1/B) Σ_i ‖g_S(i) − g_T(i)‖², g(i) row i of XXᵀ at length 1, features (n, ...). Range 0 to 4; widths may differ.

    Misleading: the paper divides by B², which makes its weight shrink as the batch grows; here it does not.
    Raises InputError for one sample and for other shapes.
    Source: Tung & Mori 2019, arXiv 1907.09682, equations 1 to 4.

    >>> apart, together = torch.eye(2), torch.ones(2, 2)
    >>> round(similarity_preserving(together, apart).item(), 4)  # 2 - √2
    0.5858
    """
    features, wanted = flattened(student, teacher, least=2)
    rows = [unit(_gram(_at_unit_scale(x))) for x in (features, wanted)]
    return (rows[0] - rows[1]).square().sum(1).mean()


def _at_unit_scale(features: Tensor) -> Tensor:
    """Features whose largest entry is 1, so that a Gram matrix neither overflows nor vanishes."""
    largest = features.detach().abs().amax()
    return features / torch.where(largest > 0, largest, torch.ones_like(largest))


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Whether each sample has the same neighbors: KL of the cosine kernel's rows, in nats.

    (1/B) Σ_i KL(p_T(·|i)‖p_S(·|i)), p(j|i) = k_ij/Σ_{l≠i} k_il, k = (cosine + 1)/2, features (n, ...). From 0 up;
    widths may differ.

    Misleading: cosines of features far from 0 are all near 1 and the loss near 0. Raises InputError below 3
    samples (one neighbor has probability 1) and for other shapes.
    Source: Passalis & Tefas 2018, arXiv 1803.10837, equations 3 to 6.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> pkt(3 * x, x).item(), pkt(x.roll(1, 0), x).item() > 0.01
    (0.0, True)
    """
    features, wanted = flattened(student, teacher, least=3)
    n = len(features)
    apart = ~torch.eye(n, dtype=torch.bool, device=features.device)
    logs = []
    for x in (features, wanted):
        kernel = (_gram(unit(x))[apart].view(n, n - 1) + 1) / 2 + 1e-6  # opposite samples: log 0
        logs.append(kernel.log() - kernel.sum(1, keepdim=True).log())
    return divergence(logs[0], logs[1]).mean()


def _gram(features: Tensor) -> Tensor:
    return products(features, features)


def contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """How well each student vector finds its own sample among the batch's teacher vectors, in nats.

    (1/B) Σ_i −log softmax_j(s_i·t_j/τ)_i (InfoNCE), s and t the features (n, d) at length 1: the positive is the same
    sample, the negatives are the batch's other teacher vectors. From 0 up; chance is log B. Identical inputs give
    log(1 + (B − 1)·exp(−1/τ)) when the vectors are orthonormal, not 0.

    Misleading: its size and its difficulty grow with the batch, and other samples of the same class count as
    negatives. Raises InputError for other shapes, for different widths, for one sample, for τ ≤ 0.
    Source: van den Oord et al. 2018, arXiv 1807.03748, equation 4; Tian et al. 2020 (CRD), arXiv 1910.10699, here
    in the form that needs no memory bank.

    >>> round(contrastive(torch.eye(3), torch.eye(3), temperature=1.0).item(), 4)  # log(1 + 2/e)
    0.5514
    """
    features, wanted = flattened(student, teacher, least=2)
    if features.shape != wanted.shape:
        raise InputError(
            "Expected student and teacher features of one width (a regressor makes them so) but got "
            f"{features.shape[1]} and {wanted.shape[1]}"
        )
    scores = products(unit(features), unit(wanted)) / above_zero(temperature)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
