"""Mergeable float64 sums that give every layer pair's CKA in one pass, whatever the batches were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.hsic import Products, exact_products
from gapkit.probes.shards import Shards
from gapkit.probes.tally import Layers

BLOCK_ROWS = 256


class Moments(Shards):
    """Exact sums over all samples, for every layer pair, biased and unbiased.

    With z = [x_1, |x_1|², .., x_L, |x_L|²] after subtracting the first batch's mean, holds Σ z and
    the cross and self blocks of Σ z zᵀ. Any batch split gives the same result (to rounding), and
    parts of the data may be summed apart and merged: moving the origin is linear in [z, 1].

    Products are taken in float64: for batches of a few hundred that costs no more than float32
    products added to float64 sums, and no mean, nor drift of it, is too large.

    Example:
        >>> x, y = torch.randn(64, 3), torch.randn(64, 2)
        >>> moments = Moments({"a": 3}, {"b": 2})
        >>> for part in (slice(0, 50), slice(50, 64)):
        ...     moments.update({"a": x[part]}, {"b": y[part]})
        >>> moments.n, moments.products().cross.shape
        (64, (1, 1))
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.x, self.y = _Side(self.dims_x), _Side(self.dims_y)
        self.cross = torch.zeros(len(self.x.sums), len(self.y.sums), dtype=torch.float64)

    @property
    def estimator(self) -> str:
        """How the products are got, in words."""
        return "exact sums in one pass"

    def totals(self) -> dict[str, Tensor]:
        """The float64 tensors that add up, once taken about the same origins; not copies."""
        sums = {"cross": self.cross, "sums_x": self.x.sums, "sums_y": self.y.sums}
        own = {f"own.{place}": block for place, block in enumerate((*self.x.own, *self.y.own))}
        return super().totals() | sums | own

    def origins(self) -> dict[str, Tensor]:
        """What was subtracted from features before summing; not copies."""
        return {"x": self.x.origin, "y": self.y.origin}

    def update(self, xs: Layers, ys: Layers, groups: np.ndarray | None = None) -> None:
        """Add a batch: layer -> (n, d) features of the same samples in the same order."""
        features = [part.cpu() for part in self._read(xs, ys, groups)]
        n, t = len(features[0]), len(self.dims_x)
        if not n:
            return
        parts = features[:t], features[t:]
        if self.n == 0:
            for side, part in zip((self.x, self.y), parts):
                side.start(part)
        wide_x, wide_y = self.x.extended(parts[0]), self.y.extended(parts[1])
        sum_x, sum_y = wide_x.sum(0), wide_y.sum(0)
        self._check_finite(torch.cat([sum_x[self.x.norms], sum_y[self.y.norms]]))
        self.x.sums += sum_x
        self.y.sums += sum_y
        self.cross.addmm_(wide_x.T, wide_y)
        layers = (*wide_x.split(self.x.sizes, 1), *wide_y.split(self.y.sizes, 1))
        for own, layer in zip((*self.x.own, *self.y.own), layers):
            own.addmm_(layer.T, layer)
        self._count(n)
        for start in range(0, n, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            grams = [layer[rows, :-1] @ layer[rows, :-1].T for layer in layers]
            self.blocks.add(torch.stack(grams), None if groups is None else groups[rows])

    def about(self, origins: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The totals as if these origins had been subtracted."""
        x = self.x.moved(self.x.origin - origins["x"], self.counts[:1])
        y = self.y.moved(self.y.origin - origins["y"], self.counts[:1])
        cross = torch.cat(list(self._strips(x, y)))
        own = {f"own.{place}": block for place, block in enumerate((*x.own(), *y.own()))}
        return {"counts": self.counts, "cross": cross, "sums_x": x.sums, "sums_y": y.sums} | own

    def _strips(self, x: _Moved, y: _Moved) -> Iterator[Tensor]:
        """Cross sums of one teacher layer after the other, about the origins that x and y moved to."""
        strips = self.cross.split(self.x.sizes)
        steps, sums = x.step.split(self.x.widths), x.sums.split(self.x.sizes)
        for strip, step, ones in zip(strips, steps, sums):
            strip = _translated(strip, self.y.sums, step, [len(step)])
            yield _translated(strip.T, ones, y.step, self.y.widths).T

    def products(self) -> Products:
        """Inner products of the centered Gram matrices of every pair of layers."""
        n = self.counts[:1]
        sides = self.x, self.y
        x, y = (side.moved(-side.sums[side.features] / n, n) for side in sides)
        inner, dots = [], []
        for strip in self._strips(x, y):
            squares = strip[:-1].square().sum(0)[self.y.features].split(self.y.widths)
            inner.append(torch.stack([part.sum() for part in squares]))
            dots.append(strip[-1, self.y.norms])
        own = (*x.own(), *y.own())
        raw = [side.moved(side.origin, n).sums[side.norms] for side in sides]
        return exact_products(
            inner=torch.stack(inner),
            dots=torch.stack(dots),
            norms=torch.stack([block[:-1, :-1].square().sum() for block in own]),
            quartic=torch.stack([block[-1, -1] for block in own]),
            trace=torch.cat([x.sums[self.x.norms], y.sums[self.y.norms]]),
            raw=torch.cat(raw),
            n=self.n,
            eps=self.eps,
        )


class _Side:
    """One model's part: Σ z, and Σ z zᵀ of each layer with itself.

    `features` and `norms` are the places of the x_l and of the |x_l|² in z.
    """

    def __init__(self, dims: Mapping[str, int]) -> None:
        self.widths = list(dims.values())
        self.sizes = [width + 1 for width in self.widths]
        self.norms = torch.tensor(self.sizes).cumsum(0) - 1
        plain = torch.ones(sum(self.sizes), dtype=torch.bool)
        plain[self.norms] = False
        self.features = plain.nonzero().flatten()
        self.origin = torch.zeros(sum(self.widths), dtype=torch.float64)
        self.sums = torch.zeros(sum(self.sizes), dtype=torch.float64)
        self.own = [torch.zeros(size, size, dtype=torch.float64) for size in self.sizes]

    def start(self, parts: Sequence[Tensor]) -> None:
        """Take the mean of a batch as the origin."""
        self.origin.copy_(torch.cat([part.mean(0, dtype=torch.float64) for part in parts]))

    def extended(self, parts: Sequence[Tensor]) -> Tensor:
        """(n, Σ(d + 1)) z of every sample."""
        wide = torch.empty(len(parts[0]), sum(self.sizes), dtype=torch.float64)
        origins = self.origin.split(self.widths)
        for part, origin, place in zip(parts, origins, wide.split(self.sizes, 1)):
            moved = torch.sub(part, origin, out=place[:, :-1])
            torch.sum(moved.square(), 1, out=place[:, -1])
        return wide

    def moved(self, step: Tensor, n: Tensor) -> _Moved:
        """These sums as if `step` had been added to every x."""
        return _Moved(self, step, n)


class _Moved:
    """A side's sums as if `step` had been added to every one of its n samples."""

    def __init__(self, side: _Side, step: Tensor, n: Tensor) -> None:
        self.side, self.step = side, step
        self.sums = _translated(side.sums[:, None], n, step, side.widths)[:, 0]

    def own(self) -> Iterator[Tensor]:
        """Each layer's Σ z zᵀ."""
        side = self.side
        before, after = side.sums.split(side.sizes), self.sums.split(side.sizes)
        for own, old, new, step in zip(side.own, before, after, self.step.split(side.widths)):
            own = _translated(own, old, step, [len(step)])
            yield _translated(own.T, new, step, [len(step)]).T


def _translated(sums: Tensor, ones: Tensor, step: Tensor, widths: Sequence[int]) -> Tensor:
    """Rows of Σ z wᵀ as if `step` had been added to every x: |x + d|² = |x|² + 2dᵀx + |d|².

    Args:
        sums: (Σ(d + 1), m) Σ z wᵀ. ones: (m,) Σ w.
    """
    moved = sums.clone()
    start = 0
    for part in step.split(list(widths)):
        end = start + len(part)
        moved[start:end] += part[:, None] * ones
        moved[end] += 2 * part @ sums[start:end] + part @ part * ones
        start = end + 1
    return moved
