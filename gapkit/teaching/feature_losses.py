"""Feature losses: how far a layer of the student is from a layer of the teacher, sample by sample or as a whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError
from gapkit.teaching.response_losses import NOISE, unit, wide

CKA_SAMPLES = 8


def flattened(student: Tensor, teacher: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both as (n, d) features, wide, the teacher's detached; the widths may differ."""
    if min(student.ndim, teacher.ndim) < 2 or len(student) != len(teacher):
        raise InputError(
            "Expected student and teacher features (samples, ...) of the same samples but got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if len(student) < least:
        raise InputError(f"Expected at least {least} samples in the batch but got {len(student)}")
    return wide(student.flatten(1)), wide(teacher.detach().flatten(1))


def products(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) inner products of rows, in the precision of the rows also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.T


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features that a regressor has brought to one shape (n, ...).

    The mean is over samples and features; from 0 up, in squared units of the feature.

    Misleading: grows with the teacher's scale, so its weight does not carry over to another layer; the
    regressor belongs in the optimizer and the checkpoint. Raises InputError when shapes differ.
    Source: Romero et al. 2015 (FitNets), arXiv 1412.6550, equation 3 (there ½ of the sum).

    >>> hint(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])).item()
    12.5
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"Expected student features of the teacher's shape {tuple(teacher.shape)} (a regressor makes "
            f"them so) but got {tuple(student.shape)}"
        )
    return F.mse_loss(*flattened(student, teacher, least=1))


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently the two look at the image: distance of their normalized energy maps.

    (1/B) Σ ‖q_S/‖q_S‖ − q_T/‖q_T‖‖² with q = Σ_c a_c² over the channels of (n, c, h, w). Range 0 to 2; the number of
    channels may differ, and a positive factor on either side changes nothing.

    Misleading: across architectures it can cost several points of accuracy. Raises InputError for features that
    are not 4-D, and when heights or widths differ.
    Source: Zagoruyko & Komodakis 2017, arXiv 1612.03928, equation 2 (squared).

    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    >>> attention(left, right).item(), attention(-3 * left, left.repeat(1, 5, 1, 1)).item()
    (2.0, 0.0)
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] != teacher.shape[2:]:
        raise InputError(
            "Expected student and teacher features (samples, channels, height, width) of one height and "
            f"width but got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    flattened(student, teacher, least=1)
    maps = [unit(wide(x).square().mean(1).flatten(1)) for x in (student, teacher.detach())]
    return (maps[0] - maps[1]).square().sum(1).mean()


def cka_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − debiased linear CKA of the batch: how much of the teacher's geometry the student lacks.

    CKA = <K̃, L̃>/(‖K̃‖‖L̃‖) with K̃, L̃ the U-centered Gram matrices of the features (n, d_S), (n, d_T). Range 0 to 2
    (above 1 where the student is less similar than chance); widths may differ; rotation and scale change nothing.

    Misleading: noisy in small batches, so n ≥ 8 is required. Raises InputError for fewer, for other shapes, and
    for features that do not vary within the batch.
    Source: Kornblith et al. 2019, arXiv 1905.00414; U-centering: Székely & Rizzo 2014.

    >>> x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    >>> abs(round(cka_loss(3 * x.flip(1) + 5, x).item(), 5))
    0.0
    """
    features, wanted = flattened(student, teacher, least=CKA_SAMPLES)
    units = []
    for who, x in (("student", features), ("teacher", wanted)):
        centered = x - x.mean(0)
        scale = centered.detach().abs().amax()
        if not scale > NOISE * x.detach().abs().amax():
            raise InputError(f"Expected {who} features that vary within the batch but they do not")
        units.append(unit(_u_centered(products(centered / scale, centered / scale)).flatten()))
    return 1 - (units[0] * units[1]).sum()


def _u_centered(gram: Tensor) -> Tensor:
    n = len(gram)
    gram = gram - torch.diag_embed(gram.diagonal())
    rows = gram.sum(0) / (n - 2)
    centered = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    return centered - torch.diag_embed(centered.diagonal())
