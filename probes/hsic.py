"""HSIC1: the unbiased inner product of two layers' Gram matrices, that debiased CKA is made of."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_BLOCK = 8
MANY_BLOCKS = 64
MOST_BLOCKS = 512
GROUP_BLOCKS = 20
RELATIVE_ZERO = 1e-12


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
        good = np.outer((own_x > 0) & ~self.constant_x, (own_y > 0) & ~self.constant_y)
        return np.where(good, cross / np.sqrt(np.where(good, np.outer(own_x, own_y), 1.0)), np.nan)


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


def batch_products(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """U-centred inner products of one set of samples: (T, S) cross and (T + S,) own."""
    grams = []
    for features in (*xs, *ys):
        centered = features - features.mean(0)
        gram = centered @ centered.T
        free = u_centered(gram)
        rounding = free.square().sum() <= RELATIVE_ZERO * gram.square().sum()
        grams.append((torch.zeros_like(free) if rounding else free).flatten())
    flat = torch.stack(grams)
    return flat[: len(xs)] @ flat[len(xs) :].T, flat.square().sum(1)


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


class Blocks:
    """HSIC1 sums of small blocks of samples: all that a jackknife needs, three scalars a cell.

    Args:
        size: samples a block; None: about a tenth of a batch until there are many blocks, then
            whole batches. Blocks of fewer than 4 samples are skipped.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.cross: list[Tensor] = []
        self.own: list[Tensor] = []
        self.places: dict[int, int] = {}  # bucket of groups -> its block

    def __len__(self) -> int:
        return len(self.cross)

    def add(self, xs: Sequence[Tensor], ys: Sequence[Tensor], groups: np.ndarray | None) -> None:
        """Add one batch; samples of one group always go to the same block."""
        n = len(xs[0])
        parts: list[tuple[int | None, np.ndarray]]
        if groups is not None:
            labels = group_buckets(groups)
            parts = [(int(label), np.flatnonzero(labels == label)) for label in np.unique(labels)]
        else:
            size = self.size or (max(MIN_BLOCK, n // 10) if len(self) < MANY_BLOCKS else n)
            parts = [(None, rows) for rows in np.array_split(np.arange(n), max(1, n // size))]
        for bucket, rows in parts:
            if len(rows) >= 4:
                sums = batch_products([x[rows] for x in xs], [y[rows] for y in ys])
                self._put(*sums, bucket)
        if len(self) > MOST_BLOCKS:
            self._halve()

    def merge(self, other: Blocks) -> None:
        """Take over the blocks of another part of the data."""
        buckets = {place: bucket for bucket, place in other.places.items()}
        for place, (cross, own) in enumerate(zip(other.cross, other.own)):
            self._put(cross, own, buckets.get(place))

    def _put(self, cross: Tensor, own: Tensor, bucket: int | None) -> None:
        """A new block, or more of the block that a bucket has already."""
        if bucket is not None and bucket in self.places:
            place = self.places[bucket]
            self.cross[place], self.own[place] = self.cross[place] + cross, self.own[place] + own
            return
        if bucket is not None:
            self.places[bucket] = len(self)
        self.cross.append(cross)
        self.own.append(own)

    def _halve(self) -> None:
        """Join neighbours: the sums of two blocks are those of one larger block."""
        for kept in (self.cross, self.own):
            pairs = [kept[i : i + 2] for i in range(0, len(kept), 2)]
            kept[:] = [pair[0] if len(pair) == 1 else pair[0] + pair[1] for pair in pairs]

    def standard_error(self) -> np.ndarray:
        """(T, S) jackknife standard error of CKA, each block left out once (Nguyen 2021's sums).

        Near CKA 0 it is wider than the full estimate's, because pairs across blocks are not used.
        """
        cross, own = torch.stack(self.cross), torch.stack(self.own)
        left, alone = cross.sum(0) - cross, own.sum(0) - own
        n_x = cross.shape[1]
        scale = (alone[:, :n_x, None] * alone[:, None, n_x:]).sqrt()
        return jackknife_error(torch.where(scale > 0, left / scale, torch.nan)).numpy()
