"""HSIC1: the unbiased inner product of two layers' Gram matrices, that debiased CKA is made of."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_BLOCK = 8
GROUP_BLOCKS = 20
RELATIVE_ZERO = 1e-12
LARGE_MEAN = 0.9
FLOAT32_SQUARES = (1e-25, 1e30)


def unbiased(inner: Any, dots: Any, sum_k: Any, sum_l: Any, n: int) -> Any:
    """n(n-3)·HSIC1 of linear kernels from centred features (Song et al. 2012, JMLR 13).

    ‖XᵀY‖² - n/(n-2)·kᵀl + (Σk)(Σl)/((n-1)(n-2)), where k_i = |x_i|² and l_i = |y_i|².

    Args:
        inner: ‖XᵀY‖². dots: kᵀl. sum_k, sum_l: Σk, Σl. n: samples, at least 4.

    >>> unbiased(4.0, 2.0, 2.0, 2.0, 4)
    0.6666666666666666
    """
    return inner - n / (n - 2) * dots + sum_k * sum_l / ((n - 1) * (n - 2))


def inner_product(x: Tensor, y: Tensor) -> float:
    """‖XᵀY‖² of centred features, through features or Gram matrices, whichever is less work."""
    n, p, q = len(x), x.shape[1], y.shape[1]
    if p * q <= n * (p + q):
        return (x.T @ y).square().sum().item()
    return ((x @ x.T) * (y @ y.T)).sum().item()


def scaled_hsic1(x: Tensor, y: Tensor) -> float:
    """n(n-3)·HSIC1 of centred features of n samples."""
    k, l_ = x.square().sum(1), y.square().sum(1)
    sums = k.sum().item(), l_.sum().item()
    return float(unbiased(inner_product(x, y), (k @ l_).item(), *sums, len(x)))


def own_hsic1(x: Tensor) -> float:
    """n(n-3)·HSIC1 of centred features with themselves; 0 when it is nothing but rounding."""
    value = scaled_hsic1(x, x)
    return value if value > RELATIVE_ZERO * inner_product(x, x) else 0.0


def u_centered(gram: Tensor) -> Tensor:
    """U-centring of Gram matrices (..., n, n): zero diagonal, rows sum to 0 (Székely & Rizzo 2014).

    >>> u_centered(torch.eye(5)).abs().max().item()
    0.0
    """
    n = gram.shape[-1]
    gram = gram - torch.diag_embed(torch.diagonal(gram, dim1=-2, dim2=-1))
    rows = gram.sum(-1, keepdim=True)
    total = rows.sum(-2, keepdim=True)
    gram = gram - (rows + rows.transpose(-1, -2)) / (n - 2) + total / ((n - 1) * (n - 2))
    return gram - torch.diag_embed(torch.diagonal(gram, dim1=-2, dim2=-1))


def is_constant(spread: Any, magnitude: Any, eps: float) -> Any:
    """Whether features vary by no more than their number format rounds.

    Args:
        spread: Σ|x - mean|². magnitude: Σ|x|². eps: machine epsilon of the features as they came.
    """
    return spread <= max(eps, 16 * np.finfo(np.float64).eps) ** 2 * magnitude


@dataclass(frozen=True)
class Products:
    """Inner products of centred Gram matrices, for every pair of layers and each with itself.

    Attributes:
        cross, own_x, own_y: (T, S), (T,), (S,) n(n-3)·HSIC1: U-centred, without bias.
        biased_cross, biased_own_x, biased_own_y: ‖XᵀY‖², ‖XᵀX‖², ‖YᵀY‖²; nan for batch sums.
        constant_x, constant_y: (T,), (S,) whether a layer's features are the same for all samples.
        pairs: Σ n(n-3) over the units summed; the null's standard deviation is √(2 / pairs).
        n: samples.
    """

    cross: np.ndarray
    own_x: np.ndarray
    own_y: np.ndarray
    biased_cross: np.ndarray
    biased_own_x: np.ndarray
    biased_own_y: np.ndarray
    constant_x: np.ndarray
    constant_y: np.ndarray
    pairs: float
    n: int

    def cka(self, debiased: bool = True) -> np.ndarray:
        """(T, S) CKA; nan where a self term is 0 or a layer does not vary."""
        own_x = self.own_x if debiased else self.biased_own_x
        own_y = self.own_y if debiased else self.biased_own_y
        cross = self.cross if debiased else self.biased_cross
        good_x, good_y = (own_x > 0) & ~self.constant_x, (own_y > 0) & ~self.constant_y
        scale_x = np.sqrt(np.where(good_x, own_x, np.nan))
        return cross / np.outer(scale_x, np.sqrt(np.where(good_y, own_y, np.nan)))


def exact_products(
    *,
    inner: Tensor,
    dots: Tensor,
    norms: Tensor,
    quartic: Tensor,
    trace: Tensor,
    raw: Tensor,
    n: int,
    eps: float,
) -> Products:
    """Products from what exact sums and whole Gram matrices both give.

    Args:
        inner, dots: (T, S) ‖XᵀY‖² and kᵀl. norms, quartic, trace, raw: (T + S,) ‖XᵀX‖², Σ|x|⁴,
            Σ|x|² after centring, and Σ|x|² before. n, eps: samples, epsilon as in `is_constant`.
    """
    t = len(inner)
    if n >= 4:
        cross = unbiased(inner, dots, trace[:t, None], trace[None, t:], n)
        own = unbiased(norms, quartic, trace, trace, n)
    else:
        cross, own = torch.full_like(inner, torch.nan), torch.full_like(norms, torch.nan)
    own = torch.where(own > RELATIVE_ZERO * norms, own, torch.where(own.isnan(), own, 0.0)).numpy()
    return Products(
        cross.numpy(),
        *sides(own, t),
        inner.numpy(),
        *sides(norms.numpy(), t),
        *sides(is_constant(trace.numpy(), raw.numpy(), eps), t),
        pairs=float(n * (n - 3)),
        n=n,
    )


def sides(both: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's t layers, and the student's."""
    return both[:t], both[t:]


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32, whatever autocast and matmul precision are set to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _square(x: Tensor) -> Tensor:
    """x xᵀ by strips of its lower half: five eighths of the work of a plain product."""
    n = len(x)
    out = x.new_empty(n, n)
    strip = max(32, math.ceil(n / 4))
    for start in range(0, n, strip):
        end = min(start + strip, n)
        torch.mm(x[start:end], x[:end].T, out=out[start:end, :end])
        out[:start, start:end] = out[start:end, :start].T
    return out


def gram(features: Tensor) -> Tensor:
    """(n, n) inner products of samples, exact enough for HSIC1; 0 when all samples are the same.

    HSIC1 does not change when a vector is added to every sample, so the mean is taken out where it
    holds over nine tenths of Σ|x|² and would drown what differs. Float64 features are multiplied in
    float64, all others in float32, or float64 where their squares would leave its range.

    >>> gram(torch.tensor([[1001.0], [1002.0], [1003.0]])).abs().tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    """
    n, eps = len(features), 0.0
    if features.is_floating_point():
        eps = torch.finfo(features.dtype).eps
    wide = features if features.dtype == torch.float64 else features.float()
    with full_precision():
        product = _square(wide)
        magnitude = product.trace().item()
        low, high = FLOAT32_SQUARES
        if wide.dtype == torch.float32 and not low < magnitude < high:
            wide = features.double()
            product = _square(wide)
            magnitude = product.trace().item()
        if product.sum().item() > LARGE_MEAN * n * magnitude:
            wide = wide - wide.mean(0, dtype=torch.float64).to(wide.dtype)
            product = _square(wide)
    spread = product.trace().item() - product.sum().item() / n
    return torch.zeros_like(product) if is_constant(spread, magnitude, eps) else product


def hsic1_sums(grams: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """n(n-3)·HSIC1 of c sets of n samples, from Gram matrices (L, c, n, n) of t + s layers.

    tr(K̃L̃) - 2/(n-2)·1ᵀK̃L̃1 + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)), K̃ and L̃ without their diagonal (Song 2012).

    Returns:
        (c, t, s) of the layer pairs and (c, L) of each layer with itself, 0 where that is rounding.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [4.0]]).double()
    >>> cross, own = hsic1_sums((x @ x.T).expand(2, 1, 4, 4), 1)
    >>> round(cross.item(), 6) == round(own[0, 0].item(), 6) == round(own_hsic1(x - x.mean(0)), 6)
    True
    """
    n = grams.shape[-1]
    free = grams.to(torch.float64, copy=True)
    free.diagonal(dim1=-2, dim2=-1).zero_()
    rows = free.sum(-1).transpose(0, 1)
    flat, total = free.flatten(2).transpose(0, 1), rows.sum(-1)
    few, fewer = n - 2, (n - 1) * (n - 2)
    cross = flat[:, :t] @ flat[:, t:].mT - 2 / few * rows[:, :t] @ rows[:, t:].mT
    cross += total[:, :t, None] * total[:, None, t:] / fewer
    norms = flat.square().sum(-1)
    own = norms - 2 / few * rows.square().sum(-1) + total.square() / fewer
    return cross, torch.where(own > RELATIVE_ZERO * norms, own, torch.where(own.isnan(), own, 0.0))


def group_buckets(groups: np.ndarray) -> np.ndarray:
    """(n,) one of 20 buckets for each sample; the same group always falls into the same one.

    >>> np.ptp(group_buckets(np.array(["a", "a"])))
    np.int64(0)
    """
    return np.array([zlib.crc32(str(group).encode()) % GROUP_BLOCKS for group in groups])


def jackknife_error(estimates: Tensor) -> Tensor:
    """Standard error from estimates (B, ...), each without one of B blocks of samples.

    >>> jackknife_error(torch.tensor([1.0, 2.0, 3.0])).item()
    1.154700517654419
    """
    count = len(estimates)
    spread = (estimates - estimates.mean(0)).square().sum(0)
    return (spread * (count - 1) / count).sqrt()
