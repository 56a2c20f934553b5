"""Mergeable float64 sums that give every layer pair's CKA in one pass, whatever the batches were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.hsic import Blocks, Products, exact_products

Layers = Mapping[str, Tensor]


@dataclass(eq=False)
class LayerSums:
    """What all estimators share: names and widths of layers, n, blocks, the number format seen.

    Args:
        dims_x, dims_y: layer -> width, of the two models.
        groups: whether `update` is told which samples depend on each other.
        block: samples a jackknife block; None: about a tenth of a batch.
    """

    dims_x: Mapping[str, int]
    dims_y: Mapping[str, int]
    groups: bool = False
    block: int | None = None

    estimator = ""

    def __post_init__(self) -> None:
        self.dims_x, self.dims_y = dict(self.dims_x), dict(self.dims_y)
        if not self.dims_x or not self.dims_y:
            raise InputError("Expected at least one layer of each model but got none")
        self.blocks = Blocks(self.block)
        self.n, self.eps = 0, 0.0

    def _read(self, xs: Layers, ys: Layers, groups: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Features as float64 on CPU, in the order of the layers."""
        if (groups is None) == self.groups:
            raise InputError(f"Expected groups={self.groups} but the batch says otherwise")
        out: list[list[Tensor]] = [[], []]
        n = len(next(iter(xs.values())))
        for side, dims, given in ((0, self.dims_x, xs), (1, self.dims_y, ys)):
            for name, dim in dims.items():
                features = given.get(name)
                if features is None or features.shape != (n, dim):
                    got = None if features is None else tuple(features.shape)
                    raise InputError(f"Expected {(n, dim)} features at {name!r} but got {got}")
                if features.is_floating_point():
                    self.eps = max(self.eps, torch.finfo(features.dtype).eps)
                out[side].append(features.detach().to("cpu", torch.float64))
        return out[0], out[1]


class Moments(LayerSums):
    """Exact sums over all samples, for every layer pair, biased and unbiased.

    With z = [x_1..x_L, |x_1|²..|x_L|², 1] after subtracting the first batch's mean, holds the cross
    and self blocks of Σ z zᵀ. Any batch split gives the same result (to rounding), and parts of the
    data may be summed apart and merged: moving the origin is linear in z.

    Example:
        >>> x, y = torch.randn(64, 3), torch.randn(64, 2)
        >>> moments = Moments({"a": 3}, {"b": 2})
        >>> for part in (slice(0, 50), slice(50, 64)):
        ...     moments.update({"a": x[part]}, {"b": y[part]})
        >>> moments.n, moments.products().cross.shape
        (64, (1, 1))
    """

    estimator = "exact sums in one pass"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.widths_x, self.widths_y = list(self.dims_x.values()), list(self.dims_y.values())
        wide_x, wide_y = sum(self.widths_x), sum(self.widths_y)
        size = wide_x + len(self.widths_x) + 1, wide_y + len(self.widths_y) + 1
        self.cross = torch.zeros(size, dtype=torch.float64)
        self.own_x, self.own_y = (
            [torch.zeros(width + 2, width + 2, dtype=torch.float64) for width in widths]
            for widths in (self.widths_x, self.widths_y)
        )
        self.shift_x = torch.zeros(wide_x, dtype=torch.float64)
        self.shift_y = torch.zeros(wide_y, dtype=torch.float64)

    def update(self, xs: Layers, ys: Layers, groups: np.ndarray | None = None) -> None:
        """Add a batch: layer -> (n, d) features of the same samples in the same order."""
        list_x, list_y = self._read(xs, ys, groups)
        if not len(list_x[0]):
            return
        if self.n == 0:
            self.shift_x = torch.cat(list_x, 1).mean(0)
            self.shift_y = torch.cat(list_y, 1).mean(0)
        list_x = [x - part for x, part in zip(list_x, self.shift_x.split(self.widths_x))]
        list_y = [y - part for y, part in zip(list_y, self.shift_y.split(self.widths_y))]
        self.cross += _extended(list_x).T @ _extended(list_y)
        for own, features in zip((*self.own_x, *self.own_y), (*list_x, *list_y)):
            wide = _extended([features])
            own += wide.T @ wide
        self.n += len(list_x[0])
        self.blocks.add(list_x, list_y, groups)

    def merge(self, other: Moments) -> None:
        """Add the sums of another part of the data; layers and widths must agree."""
        if (self.dims_x, self.dims_y, self.groups) != (other.dims_x, other.dims_y, other.groups):
            raise InputError("Expected moments of the same layers and widths but they differ")
        if other.n == 0:
            return
        if self.n == 0:
            self.shift_x, self.shift_y = other.shift_x.clone(), other.shift_y.clone()
        cross, owns = other._at(self.shift_x, self.shift_y)
        self.cross += cross
        for mine, theirs in zip((*self.own_x, *self.own_y), owns):
            mine += theirs
        self.n, self.eps = self.n + other.n, max(self.eps, other.eps)
        self.blocks.merge(other.blocks)

    def _at(self, origin_x: Tensor, origin_y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Cross and self blocks as if the given origins had been subtracted."""
        step_x, step_y = self.shift_x - origin_x, self.shift_y - origin_y
        cross = _translated(self.cross, step_x, self.widths_x)
        cross = _translated(cross.T, step_y, self.widths_y).T
        steps = (*step_x.split(self.widths_x), *step_y.split(self.widths_y))
        owns = []
        for own, step in zip((*self.own_x, *self.own_y), steps):
            own = _translated(own, step, [len(step)])
            owns.append(_translated(own.T, step, [len(step)]).T)
        return cross, owns

    def products(self) -> Products:
        """Inner products of the centred Gram matrices of every pair of layers."""
        wide_x, wide_y = len(self.shift_x), len(self.shift_y)
        mean_x = self.shift_x + self.cross[:wide_x, -1] / self.n
        mean_y = self.shift_y + self.cross[-1, :wide_y] / self.n
        cross, owns = self._at(mean_x, mean_y)
        trace = torch.stack([block[-2, -1] for block in owns])
        means = (*mean_x.split(self.widths_x), *mean_y.split(self.widths_y))
        return exact_products(
            inner=_block_sums(cross[:wide_x, :wide_y].square(), self.widths_x, self.widths_y),
            dots=cross[wide_x:-1, wide_y:-1],
            norms=torch.stack([block[:-2, :-2].square().sum() for block in owns]),
            quartic=torch.stack([block[-2, -2] for block in owns]),
            trace=trace,
            raw=trace + self.n * torch.stack([mean.square().sum() for mean in means]),
            n=self.n,
            eps=self.eps,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a safetensors file."""
        tensors = {"cross": self.cross, "shift_x": self.shift_x, "shift_y": self.shift_y}
        for side, own in (("x", self.own_x), ("y", self.own_y)):
            tensors |= {f"own_{side}.{i}": block for i, block in enumerate(own)}
        if len(self.blocks):
            tensors["blocks_cross"] = torch.stack(self.blocks.cross)
            tensors["blocks_own"] = torch.stack(self.blocks.own)
        head = {
            "dims_x": list(self.dims_x.items()),
            "dims_y": list(self.dims_y.items()),
            "groups": self.groups,
            "block": self.block,
            "buckets": list(self.blocks.places.items()),
            "n": self.n,
            "eps": self.eps,
        }
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, str(path), metadata={"moments": json.dumps(head)})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Moments:
        """Read what `save` wrote; summing goes on as if it had never stopped."""
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("moments")
            if text is None:
                raise InputError(f"Expected a file of moments but {str(path)!r} holds none")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = json.loads(text)
        moments = cls(dict(head["dims_x"]), dict(head["dims_y"]), head["groups"], head["block"])
        moments.cross = tensors["cross"]
        moments.shift_x, moments.shift_y = tensors["shift_x"], tensors["shift_y"]
        moments.own_x = [tensors[f"own_x.{i}"] for i in range(len(moments.dims_x))]
        moments.own_y = [tensors[f"own_y.{i}"] for i in range(len(moments.dims_y))]
        moments.blocks.cross = list(tensors.get("blocks_cross", torch.empty(0)))
        moments.blocks.own = list(tensors.get("blocks_own", torch.empty(0)))
        moments.blocks.places = {int(bucket): place for bucket, place in head["buckets"]}
        moments.n, moments.eps = head["n"], head["eps"]
        return moments


def _extended(layers: Sequence[Tensor]) -> Tensor:
    """(n, Σd + L + 1): all features, each layer's squared norm, and 1."""
    norms = torch.stack([features.square().sum(1) for features in layers], 1)
    return torch.cat([*layers, norms, torch.ones_like(norms[:, :1])], 1)


def _translated(sums: Tensor, step: Tensor, widths: list[int]) -> Tensor:
    """Rows of Σ z zᵀ as if `step` had been added to every x: |x + d|² = |x|² + 2dᵀx + |d|²."""
    wide, ones = len(step), sums[-1]
    moved = sums.clone()
    moved[:wide] += step[:, None] * ones
    for layer, (part, rows) in enumerate(zip(step.split(widths), sums[:wide].split(widths))):
        moved[wide + layer] += 2 * part @ rows + part @ part * ones
    return moved


def _block_sums(values: Tensor, widths_x: list[int], widths_y: list[int]) -> Tensor:
    """(T, S) sums over the block of each pair of layers."""
    columns = [part.sum(1) for part in values.split(widths_y, dim=1)]
    rows = torch.stack(columns, 1).split(widths_x)
    return torch.stack([part.sum(0) for part in rows])
