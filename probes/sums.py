"""Sums where exact moments do not fit: by batch or by Gram matrices; and the choice among all three."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.hsic import (
    MIN_BLOCK,
    Products,
    batch_products,
    exact_products,
    is_constant,
    sides,
)
from gapkit.probes.moments import Layers, LayerSums, Moments

BYTE_BUDGET = 2**30
BATCH = 256


class BatchHsic(LayerSums):
    """Sums of per-batch HSIC1 (Nguyen et al. 2021, 2010.15327): any width, no exact total.

    Each batch counts with n_b(n_b - 3); batches of fewer than 4 samples are skipped. Unbiased when
    batches are random samples; batches sorted by class would measure within classes only.
    """

    estimator = "HSIC1 summed over batches"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cross = torch.zeros(len(self.dims_x), len(self.dims_y), dtype=torch.float64)
        self.own = torch.zeros(len(self.dims_x) + len(self.dims_y), dtype=torch.float64)
        self._spread, self._magnitude = torch.zeros_like(self.own), torch.zeros_like(self.own)
        self._first: list[Tensor] = []
        self._pairs = 0.0

    def update(self, xs: Layers, ys: Layers, groups: np.ndarray | None = None) -> None:
        """Add a batch: layer -> (n, d) features of the same samples in the same order."""
        list_x, list_y = self._read(xs, ys, groups)
        n = len(list_x[0])
        if n < 4:
            return
        self._first = self._first or [part.mean(0) for part in (*list_x, *list_y)]
        for i, part in enumerate((*list_x, *list_y)):
            self._spread[i] += (part - self._first[i]).square().sum()
            self._magnitude[i] += part.square().sum()
        cross, own = batch_products(list_x, list_y)
        self.cross += cross
        self.own += own
        self.n, self._pairs = self.n + n, self._pairs + n * (n - 3)
        self.blocks.add(list_x, list_y, groups)

    def products(self) -> Products:
        """Inner products summed over batches; the biased ones are nan."""
        t, own, cross = len(self.dims_x), self.own.numpy(), self.cross.numpy()
        constant = is_constant(self._spread.numpy(), self._magnitude.numpy(), self.eps)
        nothing = np.full_like(cross, np.nan), *sides(np.full_like(own, np.nan), t)
        return Products(cross, *sides(own, t), *nothing, *sides(constant, t), self._pairs, self.n)


class Grams(LayerSums):
    """Exact products from the Gram matrices of all samples: few samples, any width."""

    estimator = "exact Gram matrices"

    def __init__(
        self, xs: Layers, ys: Layers, groups: np.ndarray | None = None, block: int | None = None
    ) -> None:
        super().__init__(widths(xs), widths(ys), groups is not None, block)
        list_x, list_y = self._read(xs, ys, groups)
        self.n = len(list_x[0])
        self.blocks.size = block or max(MIN_BLOCK, self.n // 20)
        order = np.random.default_rng(0).permutation(self.n)  # splits may be sorted by class
        self.blocks.add(
            [part[order] for part in list_x],
            [part[order] for part in list_y],
            None if groups is None else groups[order],
        )
        self._products = self._multiply(list_x, list_y)

    def _multiply(self, xs: list[Tensor], ys: list[Tensor]) -> Products:
        n, t = self.n, len(xs)
        centered = [features - features.mean(0) for features in (*xs, *ys)]
        flat = torch.stack([features @ features.T for features in centered]).flatten(1)
        diagonal = flat[:, :: n + 1]
        return exact_products(
            inner=flat[:t] @ flat[t:].T,
            dots=diagonal[:t] @ diagonal[t:].T,
            norms=flat.square().sum(1),
            quartic=diagonal.square().sum(1),
            trace=diagonal.sum(1),
            raw=torch.stack([features.square().sum() for features in (*xs, *ys)]),
            n=n,
            eps=self.eps,
        )

    def products(self) -> Products:
        """Inner products of the centred Gram matrices of every pair of layers."""
        return self._products


Sums = Moments | BatchHsic | Grams


def widths(layers: Layers) -> dict[str, int]:
    """Layer -> number of features."""
    return {name: features.shape[1] for name, features in layers.items()}


def at_rows(layers: Layers, rows: np.ndarray) -> dict[str, Tensor]:
    """Features of some samples."""
    return {name: features[rows] for name, features in layers.items()}


def moment_bytes(dims_x: Mapping[str, int], dims_y: Mapping[str, int]) -> int:
    """Bytes that `Moments` of these layers hold.

    >>> moment_bytes({"a": 2}, {"b": 1})
    296
    """
    wide_x, wide_y = (sum(dims.values()) + len(dims) + 1 for dims in (dims_x, dims_y))
    own = sum((d + 2) ** 2 for dims in (dims_x, dims_y) for d in dims.values())
    return 8 * (wide_x * wide_y + own)


def start_sums(
    dims_x: Mapping[str, int],
    dims_y: Mapping[str, int],
    *,
    n: int | None = None,
    kept: bool = False,
    groups: bool = False,
    n_pairs: int = 1,
) -> Moments | BatchHsic | None:
    """The estimator for these layers, chosen by work under a byte budget; None: use `Grams`.

    Exact sums where they fit and cost less than Gram matrices (n above 2·S₁S₂/(S₁+S₂) for summed
    widths S); Gram matrices where all n samples are kept and these fit; else sums over batches.

    Args:
        n: samples to come; None when unknown. kept: whether their features are kept till the end.
        n_pairs: pairs of models that are summed at the same time.

    >>> type(start_sums({"a": 8}, {"b": 4}, n=1000)).__name__
    'Moments'
    """
    block = None if n is None else max(MIN_BLOCK, n // 20)
    fits = n_pairs * moment_bytes(dims_x, dims_y) <= BYTE_BUDGET
    if n is not None and kept:
        grams_fit = 8 * (len(dims_x) + len(dims_y)) * n * n <= BYTE_BUDGET // 4
        wide_x, wide_y = sum(dims_x.values()), sum(dims_y.values())
        if grams_fit and not (fits and n > 2 * wide_x * wide_y / (wide_x + wide_y)):
            return None
    kind = Moments if fits else BatchHsic
    return kind(dims_x, dims_y, groups=groups, block=block)


def sums_of(xs: Layers, ys: Layers, groups: np.ndarray | None = None) -> Sums:
    """Sums over features at hand, by the estimator that suits their widths and number."""
    n = len(next(iter(xs.values())))
    sums = start_sums(widths(xs), widths(ys), n=n, kept=True, groups=groups is not None)
    if sums is None:
        return Grams(xs, ys, groups)
    order = np.random.default_rng(0).permutation(n)
    for rows in np.array_split(order, max(1, n // BATCH)):
        groups_of = None if groups is None else groups[rows]
        sums.update(at_rows(xs, rows), at_rows(ys, rows), groups_of)
    return sums
