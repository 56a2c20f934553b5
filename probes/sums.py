"""Sums where exact moments do not fit: by batch or by Gram tiles; and the choice among all three."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.hsic import (
    FLOAT32_SQUARES,
    MIN_BLOCK,
    Products,
    exact_products,
    full_precision,
    gram,
    hsic1_sums,
    sides,
)
from gapkit.probes.moments import Moments
from gapkit.probes.shards import Shards
from gapkit.probes.tally import Layers, LayerSums

BYTE_BUDGET = 2**30
GRAM_WORK = 1e12
BATCH = 256
MOST_ROWS = 512


class BatchHsic(Shards):
    """Sums of per-batch HSIC1 (Nguyen et al. 2021, 2010.15327): any width, no exact total.

    Each batch counts with n_b(n_b - 3); batches of fewer than 4 samples are skipped, those of more
    than 512 fall into equal parts. Unbiased when batches are random samples; batches sorted by
    class would measure within classes only.

    >>> sums = BatchHsic({"a": 3}, {"b": 2})
    >>> sums.update({"a": torch.randn(64, 3)}, {"b": torch.randn(64, 2)})
    >>> sums.estimator
    'HSIC1 summed over batches of 64'
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cross = torch.zeros(len(self.dims_x), len(self.dims_y), dtype=torch.float64)
        self.own = torch.zeros(len(self.dims_x) + len(self.dims_y), dtype=torch.float64)
        self.varying = torch.zeros_like(self.own)

    @property
    def estimator(self) -> str:
        """How the products are got, in words."""
        mean = self.counts[0] / self.counts[1].clamp(min=1)
        return f"HSIC1 summed over batches of {mean:.0f}"

    def totals(self) -> dict[str, Tensor]:
        """The float64 tensors that add up; not copies."""
        return super().totals() | {"cross": self.cross, "own": self.own, "varying": self.varying}

    def update(self, xs: Layers, ys: Layers, groups: np.ndarray | None = None) -> None:
        """Add a batch: layer -> (n, d) features of the same samples in the same order."""
        self.add([self.grams(part) for part in self._read(xs, ys, groups)], groups)

    @staticmethod
    def grams(features: Tensor) -> list[Tensor]:
        """Gram matrices of a batch's parts of at most 512 samples: all that `add` needs of a layer."""
        parts = features.tensor_split(max(1, math.ceil(len(features) / MOST_ROWS)))
        return [gram(part).to("cpu", torch.float64) for part in parts]

    def add(self, layers: Sequence[list[Tensor]], groups: np.ndarray | None = None) -> None:
        """Add a batch by the `grams` of the teacher's, then the student's layers."""
        sizes = {tuple(map(len, parts)) for parts in layers}
        if len(sizes) > 1:
            raise InputError(f"Expected the same samples at all layers but got {sorted(sizes)}")
        groups_of = np.array_split(groups, len(layers[0])) if groups is not None else None
        for place, parts in enumerate(zip(*layers)):
            n = len(parts[0])
            if n < 4:
                continue
            grams = torch.stack(parts)
            self._check_finite(grams.sum((1, 2)))
            cross, own = hsic1_sums(grams[:, None], len(self.dims_x))
            self.cross += cross[0]
            self.own += own[0]
            self.varying += grams.diagonal(dim1=1, dim2=2).sum(1)
            self._count(n)
            self.blocks.add(grams, None if groups_of is None else groups_of[place])

    def products(self) -> Products:
        """Inner products summed over batches; the biased ones are nan."""
        t, own, cross = len(self.dims_x), self.own.numpy(), self.cross.numpy()
        constant = (self.varying == 0).numpy()
        nothing = np.full_like(cross, np.nan), *sides(np.full_like(own, np.nan), t)
        pairs = self.counts[2].item()
        return Products(cross, *sides(own, t), *nothing, *sides(constant, t), pairs, self.n)


class Grams(LayerSums):
    """Exact products from Gram matrices of all samples, a tile at a time: few samples, any width.

    Memory is a tile of every layer, whatever n. Float64 features are multiplied in float64, others
    in float32 (after the mean is taken out), and summed in float64.

    >>> x = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    >>> grams = Grams({"a": x}, {"b": 2 * x})
    >>> grams.estimator, grams.products().cka().round(5).item()
    ('exact Gram matrices in tiles of 50', 1.0)
    """

    def __init__(
        self,
        xs: Layers,
        ys: Layers,
        groups: np.ndarray | None = None,
        block: int | None = None,
        tile: int = 512,
    ) -> None:
        super().__init__(widths(xs), widths(ys), groups is not None, block)
        parts = self._read(xs, ys, groups)
        n = len(parts[0])
        self._count(n)
        self.blocks.size = block or max(MIN_BLOCK, n // 20)
        self.tile = max(1, min(n, tile))
        order = torch.from_numpy(np.random.default_rng(0).permutation(n))  # splits may be sorted
        self._multiply(parts, order.split(self.tile), groups)

    @property
    def estimator(self) -> str:
        """How the products are got, in words."""
        return f"exact Gram matrices in tiles of {self.tile}"

    def _multiply(
        self, parts: list[Tensor], tiles: Sequence[Tensor], groups: np.ndarray | None
    ) -> None:
        """Sum over tiles of every pair of row sets, those off the diagonal counted twice."""
        t, n, wide = len(self.dims_x), self.n, torch.float64
        layers = [_Centered(part, tiles) for part in parts]
        self._check_finite(torch.stack([layer.raw for layer in layers]))
        inner = torch.zeros(t, len(layers) - t, dtype=wide)
        norms = torch.zeros(len(layers), dtype=wide)
        rows, diagonal = torch.zeros(2, len(layers), n, dtype=wide)
        for i, left in enumerate(tiles):
            of_left = [layer.rows(left) for layer in layers]
            for j, right in enumerate(tiles[: i + 1]):
                of_right = of_left if i == j else [layer.rows(right) for layer in layers]
                with full_precision():
                    tile = torch.stack([a @ b.T for a, b in zip(of_left, of_right)]).to(wide)
                if i == j:
                    diagonal[:, left] = tile.diagonal(dim1=1, dim2=2)
                    self.blocks.add(tile, None if groups is None else groups[left.numpy()])
                else:
                    rows[:, right] += tile.sum(1)
                rows[:, left] += tile.sum(2)
                flat, times = tile.flatten(1), 1 if i == j else 2
                inner += times * flat[:t] @ flat[t:].T
                norms += times * flat.square().sum(1)
        total = rows.sum(1)
        inner += total[:t, None] * total[t:] / n**2 - 2 / n * rows[:t] @ rows[t:].T
        norms += total.square() / n**2 - 2 / n * rows.square().sum(1)
        diagonal += total[:, None] / n**2 - 2 / n * rows
        self._products = exact_products(
            inner=inner,
            dots=diagonal[:t] @ diagonal[t:].T,
            norms=norms,
            quartic=diagonal.square().sum(1),
            trace=diagonal.sum(1),
            raw=torch.stack([layer.raw for layer in layers]),
            n=n,
            eps=self.eps,
        )

    def products(self) -> Products:
        """Inner products of the centered Gram matrices of every pair of layers."""
        return self._products


class _Centered:
    """Features whose rows are given out without their mean, in the format they are multiplied in."""

    def __init__(self, features: Tensor, tiles: Sequence[Tensor]) -> None:
        self.features = features
        total = torch.zeros(features.shape[1], dtype=torch.float64)
        self.raw = torch.zeros((), dtype=torch.float64)
        for rows in tiles:
            part = features[rows].to("cpu", torch.float64)
            total += part.sum(0)
            self.raw += part.square().sum()
        low, high = FLOAT32_SQUARES
        narrow = features.dtype != torch.float64 and low < self.raw < high
        self.kind = torch.float32 if narrow else torch.float64
        self.mean = (total / len(features)).to(self.kind)

    def rows(self, rows: Tensor) -> Tensor:
        """(m, d) centered features of some samples."""
        return self.features[rows].to("cpu", self.kind) - self.mean


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
    192
    """
    wide_x, wide_y = (sum(dims.values()) + len(dims) for dims in (dims_x, dims_y))
    own = sum((width + 1) ** 2 for dims in (dims_x, dims_y) for width in dims.values())
    return 8 * (wide_x * wide_y + own + wide_x + wide_y)


def moment_work(dims_x: Mapping[str, int], dims_y: Mapping[str, int], n: int) -> float:
    """Multiply-adds of `Moments`, in float64, which count twice."""
    wide_x, wide_y = sum(dims_x.values()), sum(dims_y.values())
    own = sum(width**2 for dims in (dims_x, dims_y) for width in dims.values())
    return 2.0 * n * (wide_x * wide_y + own)


def gram_work(dims_x: Mapping[str, int], dims_y: Mapping[str, int], n: int) -> float:
    """Multiply-adds of `Grams`: half of every Gram matrix, and their inner products in float64."""
    wide = sum(dims_x.values()) + sum(dims_y.values())
    return n**2 / 2 * (wide + 2 * len(dims_x) * len(dims_y))


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

    Exact sums where they fit and are less work than Gram matrices; Gram matrices where the features
    of all n samples are kept and 10¹² multiply-adds suffice; else sums over batches.

    Args:
        n: samples to come; None when unknown. kept: whether their features are kept till the end.
        n_pairs: pairs of models that are summed at the same time.

    >>> type(start_sums({"a": 8}, {"b": 4}, n=1000)).__name__
    'Moments'
    """
    fits = n_pairs * moment_bytes(dims_x, dims_y) <= BYTE_BUDGET
    if n is not None and kept:
        work = gram_work(dims_x, dims_y, n)
        if work <= GRAM_WORK and not (fits and moment_work(dims_x, dims_y, n) <= work):
            return None
    kind = Moments if fits else BatchHsic
    block = None if n is None else max(MIN_BLOCK, n // 20)
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
