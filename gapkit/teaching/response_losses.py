"""Response losses: how far a student's outputs are from the teacher's, for each kind of task.

A name without a suffix is the form for classification or for every task; `kl_multilabel` and the like are
its forms for others. Classification takes logits (n, K), or (n, T, K) of T tokens with a mask (n, T).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError

NOISE = 1e-5  # a vector of unit scale that is shorter than this is rounding noise in float32


def wide(tensor: Tensor) -> Tensor:
    """In float32, or float64 where it is already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def unit(vectors: Tensor, floor: float = 0.0) -> Tensor:
    """Vectors along the last axis at length 1; those not above the floor are left as they are.

    Dividing by a small epsilon instead would send gradients of 1/epsilon through a zero vector.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > floor, length, torch.ones_like(length))


def divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(teacher‖student) of log-probabilities along the last axis, in nats."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


def rows(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs (..., K) as rows (m, K) with their targets: all of them, or those that the mask keeps.

    >>> student, teacher, _ = rows(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.eye(2, 3))
    >>> student.shape
    torch.Size([2, 4])
    """
    if mask is None:
        flat = targets if targets is None or student.ndim < 3 else targets.flatten()
        return student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1]), flat
    for outputs in (student, teacher):
        if mask.shape != outputs.shape[:-1]:
            raise InputError(
                f"Expected a mask of shape {tuple(outputs.shape[:-1])} but got {tuple(mask.shape)}"
            )
    keep = mask.bool()
    if not keep.any():
        raise InputError("Expected a mask that keeps at least one sample but it keeps none")
    return student[keep], teacher[keep], None if targets is None else targets[keep]


def _outputs(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, tokens: bool = True
) -> tuple[Tensor, Tensor]:
    """Both as rows (m, K), wide, the teacher's detached."""
    fits = student.shape == teacher.shape and student.ndim in ((2, 3) if tokens else (2,))
    if not fits or not student.numel():
        raise InputError(
            "Expected student and teacher outputs of one shape (samples, outputs)"
            f"{' or (samples, tokens, classes)' * tokens} but got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    student, teacher, _ = rows(student, teacher, mask)
    return wide(student), wide(teacher.detach())


def _columns(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (n,) as (n, 1), so that (n,) against (n, 1) does not become (n, n)."""
    student, teacher = (x[:, None] if x.ndim == 1 else x for x in (student, teacher))
    return student, teacher


def above_zero(temperature: float) -> float:
    """The temperature, when it is one."""
    if not 0 < temperature < float("inf"):
        raise InputError(f"Expected a temperature above 0 but got {temperature}")
    return temperature


def _at_least(outputs: Tensor, least: int, what: str) -> None:
    if outputs.shape[1] < least:
        raise InputError(
            f"Expected at least {least} {what} for this loss but got {outputs.shape[1]}"
        )


def _yes_no(logits: Tensor) -> Tensor:
    """(n, L, 2) log-probabilities of yes and no; the log of a sigmoid would be −inf."""
    return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], -1)


def kl(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """How far the student's softened answers are from the teacher's, in nats times τ².

    τ²·(1/B) Σ KL(p_T‖p_S) with p = softmax(z/τ), z the logits; from 0 up.

    Args:
        student, teacher: logits (n, K), or (n, T, K) of T tokens.
        temperature: τ > 0. τ² keeps the gradient's size when τ changes.
        mask: (n,) or (n, T), true where a sample or token counts; the mean is over those.

    Misleading: 'mean' reduction divides by K too (100 times too small at K = 100).
    Raises InputError for other shapes, for one class, for τ ≤ 0, for a mask that keeps nothing.
    Source: Hinton, Vinyals & Dean 2015, arXiv 1503.02531, section 2.

    >>> zs = torch.tensor([[0.0, 0.0]])
    >>> kl(zs, zs).item(), round(kl(zs, torch.tensor([[99.0, 0.0]]), temperature=1.0).item(), 4)
    (0.0, 0.6931)
    """
    zs, zt = _outputs(student, teacher, mask)
    _at_least(zs, 2, "classes")
    logs = (F.log_softmax(z / above_zero(temperature), -1) for z in (zs, zt))
    return temperature**2 * divergence(*logs).mean()


def kl_multilabel(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """How far the student's softened yes and no are from the teacher's, summed over labels, times τ².

    τ²·(1/B) Σ_n Σ_l KL(Bernoulli(p_T)‖Bernoulli(p_S)) with p = σ(z/τ), logits (n, L); from 0 up, in nats.

    Misleading: a sum over labels, as they are answered independently; the labels' own loss is a mean.
    Raises InputError for other shapes and for τ ≤ 0.
    Source: Yang et al. 2023, arXiv 2308.06453, the logits part; here with a temperature.

    >>> round(kl_multilabel(torch.zeros(1, 2), torch.full((1, 2), 99.0), temperature=1.0).item(), 4)
    1.3863
    """
    zs, zt = _outputs(student, teacher, tokens=False)
    logs = (_yes_no(z / above_zero(temperature)) for z in (zs, zt))
    return temperature**2 * divergence(*logs).sum(1).mean()


def kl_regression(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's numbers are from the teacher's: KL of two Gaussians around them.

    KL(N(t, τ²I)‖N(s, τ²I)) = ‖s − t‖²/(2τ²), and times τ² the temperature cancels: (1/B) Σ ½‖s − t‖², outputs
    (n, d) or (n,). From 0 up, in squared units of the outputs.

    Misleading: a sum over outputs, so the one with the widest range decides. Raises InputError for other shapes.
    Source: Kullback & Leibler 1951, doi 10.1214/aoms/1177729694, for equal variances.

    >>> kl_regression(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])).item()
    12.5
    """
    numbers, wanted = _outputs(*_columns(student, teacher), tokens=False)
    return (numbers - wanted).square().sum(1).mean() / 2


def dkd(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
) -> Tensor:
    """KL split into "is it the target class" (weight α) and "which of the others" (weight β).

    τ²·(α·TCKD + β·NCKD): TCKD is the KL of (p_target, 1 − p_target), NCKD that of the softmax over the
    other K − 1 classes; KL itself is TCKD + (1 − p_target of the teacher)·NCKD. From 0 up.

    Args:
        student, teacher: logits (n, K) or (n, T, K), K ≥ 3 (with K = 2 NCKD is always 0).
        targets: (n,) or (n, T) integer labels; those that the mask leaves out may be anything.

    Misleading: log(softmax) and additive masks of −1000 turn confident logits into inf; here the sums
    stay logarithms. Raises InputError for other shapes, K = 2, labels outside 0 … K − 1.
    Source: Zhao et al. 2022, arXiv 2203.08679, equations 5 and 7.

    >>> zs, zt = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 99.0, 0.0]])
    >>> round(dkd(zs, zt, torch.tensor([0]), alpha=0.0, beta=1.0, temperature=1.0).item(), 4)
    0.6931
    """
    zs, zt = _outputs(student, teacher, mask)
    _at_least(zs, 3, "classes")
    shape = student.shape[:-1]
    if targets.shape != shape or targets.is_floating_point():
        raise InputError(
            f"Expected integer targets of shape {tuple(shape)} but got {targets.dtype} "
            f"{tuple(targets.shape)}"
        )
    labels = targets.flatten() if mask is None else targets[mask.bool()]
    n, classes = zs.shape
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"Expected targets from 0 to {classes - 1} but got {int(labels.min())} to {int(labels.max())}"
        )
    other = ~F.one_hot(labels.long(), classes).bool()
    binary, rest = [], []
    for z in (zs / above_zero(temperature), zt / temperature):
        others = z[other].view(n, classes - 1)
        pair = torch.stack([z[~other], others.logsumexp(1)], dim=1)
        binary.append(F.log_softmax(pair, 1))
        rest.append(F.log_softmax(others, 1))
    each = alpha * divergence(*binary) + beta * divergence(*rest)
    return temperature**2 * each.mean()


def standardized_kl(
    student: Tensor, teacher: Tensor, temperature: float = 2.0, mask: Tensor | None = None
) -> Tensor:
    """KL after each sample's logits are brought to mean 0 and deviation 1, so that only their shape counts.

    `kl` of (z − mean z)/std z at temperature τ, logits (n, K) or (n, T, K), population deviation; from 0 up. Also
    0 when the student's logits are the teacher's times a positive number.

    Misleading: with K = 2 only the sign of the difference is left, so it is refused; a row of equal logits
    stands as uniform. Raises InputError for other shapes.
    Source: Sun et al. 2024, arXiv 2403.01427, section 4 and algorithm 1.

    >>> zt = torch.tensor([[3.0, 1.0, 0.0]])
    >>> abs(round(standardized_kl(5 * zt - 2, zt).item(), 5))
    0.0
    """
    zs, zt = _outputs(student, teacher, mask)
    _at_least(zs, 3, "classes")
    return kl(_standardized(zs), _standardized(zt), temperature)


def standardized_kl_multilabel(
    student: Tensor, teacher: Tensor, temperature: float = 2.0
) -> Tensor:
    """Yes-or-no KL after each sample's logits are brought to mean 0 and deviation 1 over its labels.

    `kl_multilabel` of (z − mean z)/std z at temperature τ, logits (n, L), L ≥ 3, population deviation; from 0 up.
    Also 0 when the student's logits are the teacher's times a positive number plus another.

    Misleading: how many labels a sample has, which lies in its mean logit, is not taught. Raises InputError for
    other shapes and for fewer than 3 labels.
    Source: Sun et al. 2024, arXiv 2403.01427, section 4, for one Bernoulli a label.

    >>> zt = torch.tensor([[3.0, 1.0, 0.0]])
    >>> abs(round(standardized_kl_multilabel(5 * zt - 2, zt).item(), 5))
    0.0
    """
    zs, zt = _outputs(student, teacher, tokens=False)
    _at_least(zs, 3, "labels")
    return kl_multilabel(_standardized(zs), _standardized(zt), temperature)


def _standardized(logits: Tensor) -> Tensor:
    centered = logits - logits.mean(1, keepdim=True)
    return centered * (centered.square().mean(1, keepdim=True) + 1e-12).rsqrt()


def dist(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """How badly the student's answers correlate with the teacher's, within samples and within classes.

    τ²·[β(1 − mean over rows of ρ) + γ(1 − mean over columns of ρ)], ρ Pearson's correlation of the
    probabilities softmax(z/τ), (n, K) or those of tokens. Range 0 to 2τ²(β + γ).

    Misleading: with B = 1 the class term says nothing; it is refused unless γ = 0. A row or column that is
    constant has no correlation: it counts as ρ = 0, so identical inputs with such a column score above 0.
    Raises InputError for other shapes, for one sample, for K = 2 with β ≠ 0 (ρ of two numbers is ±1).
    Source: Huang et al. 2022, arXiv 2205.10536, equations 8 to 11.

    >>> zs = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    >>> abs(round(dist(zs, zs).item(), 5))
    0.0
    """
    zs, zt = _outputs(student, teacher, mask)
    _at_least(zs, 3 if beta else 2, "classes")
    logs, logt = (F.log_softmax(z / above_zero(temperature), 1) for z in (zs, zt))
    return temperature**2 * _uncorrelated(logs, logt, _share, beta, gamma)


def dist_multilabel(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """How badly the student's yeses correlate with the teacher's, within samples and within labels.

    `dist` of the probabilities σ(z/τ), logits (n, L). Range 0 to 2τ²(β + γ).

    Misleading: as `dist`. Raises InputError for other shapes, for one sample unless γ = 0, for fewer than 3
    labels unless β = 0.
    Source: Huang et al. 2022, arXiv 2205.10536, equations 8 to 11, for one Bernoulli a label.

    >>> zs = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    >>> abs(round(dist_multilabel(zs, zs).item(), 5))
    0.0
    """
    zs, zt = _outputs(student, teacher, tokens=False)
    if beta:
        _at_least(zs, 3, "labels")
    logs, logt = (F.logsigmoid(z / above_zero(temperature)) for z in (zs, zt))
    return temperature**2 * _uncorrelated(logs, logt, _share, beta, gamma)


def dist_regression(
    student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """How badly the student's numbers correlate with the teacher's over the batch.

    β(1 − mean over rows of ρ) + γ(1 − mean over columns of ρ), ρ Pearson's correlation, outputs (n, d) or
    (n,); the row term only for d ≥ 3 (ρ of two numbers is ±1). Range 0 to 2(β + γ).

    Misleading: scale and offset of every output go untaught (labels must teach them), and the row term
    compares outputs of different units. Raises InputError for other shapes and for one sample unless γ = 0.
    Source: Huang et al. 2022, arXiv 2205.10536, equations 8 to 11, of numbers instead of probabilities.

    >>> abs(round(dist_regression(torch.tensor([2.0, 4.0, 9.0]), torch.tensor([1.0, 2.0, 4.5])).item(), 5))
    0.0
    """
    numbers, wanted = _outputs(*_columns(student, teacher), tokens=False)
    return _uncorrelated(numbers, wanted, _scaled, beta if numbers.shape[1] > 2 else 0.0, gamma)


def _uncorrelated(
    student: Tensor,
    teacher: Tensor,
    scale: Callable[[Tensor], Tensor],
    beta: float,
    gamma: float,
) -> Tensor:
    if gamma and len(student) < 2:
        raise InputError("Expected at least 2 samples in the batch for the column term but got 1")
    none = student.new_zeros(())
    row = _correlation(scale(student), scale(teacher)).mean() if beta else none
    column = _correlation(scale(student.T), scale(teacher.T)).mean() if gamma else none
    return beta * (1 - row) + gamma * (1 - column)


def _share(logs: Tensor) -> Tensor:
    """exp of each row over its largest: without it a class that no sample of the batch comes near would
    fall below float32's reach. ρ does not change."""
    return (logs - logs.detach().amax(1, keepdim=True)).exp()


def _scaled(numbers: Tensor) -> Tensor:
    """Each row over its largest magnitude, so that what counts as constant does not depend on the unit."""
    largest = numbers.detach().abs().amax(1, keepdim=True)
    return numbers / torch.where(largest > 0, largest, torch.ones_like(largest))


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """(n,) Pearson correlation row by row, of rows whose largest magnitude is 1."""
    units = [unit(values - values.mean(1, keepdim=True), NOISE) for values in (x, y)]
    return (units[0] * units[1]).sum(1)


def hard(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """How surprised the student is by the class that the teacher names, in nats.

    Cross-entropy with argmax of the teacher's logits, (n, K) or (n, T, K) with a mask (n, T). From 0 up; not 0
    for identical inputs unless they are sure.

    Misleading: what the teacher thinks of the other classes is lost. Raises InputError for other shapes, for one
    class, for a mask that keeps nothing.
    Source: Lee 2013, "Pseudo-Label", ICML workshop on challenges in representation learning.

    >>> round(hard(torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 0.0]])).item(), 4)
    1.3863
    """
    zs, zt = _outputs(student, teacher, mask)
    _at_least(zs, 2, "classes")
    return F.cross_entropy(zs, zt.argmax(1))


def hard_multilabel(student: Tensor, teacher: Tensor) -> Tensor:
    """How surprised the student is by the teacher's yes or no to each label, in nats.

    Binary cross-entropy with the labels whose logit is above 0 for the teacher, logits (n, L), mean over samples
    and labels like the labels' own loss. From 0 up; not 0 for identical inputs unless they are sure.

    Misleading: rare labels that the teacher never answers with yes are taught as no. Raises InputError for other
    shapes.
    Source: Lee 2013, "Pseudo-Label", ICML workshop, for one yes or no a label.

    >>> round(hard_multilabel(torch.zeros(1, 2), torch.tensor([[3.0, -1.0]])).item(), 4)
    0.6931
    """
    zs, zt = _outputs(student, teacher, tokens=False)
    return F.binary_cross_entropy_with_logits(zs, (zt > 0).to(zs.dtype))


def mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of the outputs, logits, numbers or vectors.

    Mean over samples (or kept tokens) and outputs of (s − t)², (n, d), (n,) or (n, T, d). From 0 up.

    Misleading: of logits it also teaches their mean, which a softmax does not see. Raises InputError for other
    shapes and for a mask that keeps nothing.
    Source: Ba & Caruana 2014, arXiv 1312.6184; Kim et al. 2021, arXiv 2105.08919, for logits.

    >>> mse(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])).item()
    12.5
    """
    outputs, wanted = _outputs(*_columns(student, teacher), mask)
    return F.mse_loss(outputs, wanted)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's vectors point away from the teacher's.

    (1/B) Σ 1 − cos(s, t), vectors (n, d). Range 0 to 2; lengths do not matter. A vector of length 0 points
    nowhere: its cosine is 0 and its gradient finite.

    Misleading: vectors that all share a large mean look alike. Raises InputError for other shapes.
    Source: Sanh et al. 2019 (DistilBERT), arXiv 1910.01108, section 2, there of hidden states.

    >>> cosine(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]])).item()
    1.0
    """
    vectors, wanted = _outputs(student, teacher, tokens=False)
    return 1 - (unit(vectors) * unit(wanted)).sum(1).mean()
