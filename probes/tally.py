"""LayerSums: the tally every estimator of layer pairs starts from: layers, widths, n, jackknife blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.blocks import Blocks
from gapkit.probes.hsic import Products

Layers = Mapping[str, Tensor]


@dataclass(eq=False)
class LayerSums:
    """Sums over samples for every pair of a teacher's and a student's layers.

    Args:
        dims_x, dims_y: layer -> width, of the teacher and the student.
        groups: whether samples come with groups that depend on each other.
        block: samples a jackknife block; None: about a tenth of a batch.
    """

    dims_x: Mapping[str, int]
    dims_y: Mapping[str, int]
    groups: bool = False
    block: int | None = None

    def __post_init__(self) -> None:
        self.dims_x, self.dims_y = dict(self.dims_x), dict(self.dims_y)
        for who, dims in (("teacher", self.dims_x), ("student", self.dims_y)):
            if not dims:
                raise InputError(f"Expected at least one layer of the {who} but got none")
            for name, width in dims.items():
                if width < 1:
                    raise InputError(f"Expected features from the {who} at {name!r} but got none")
        self.blocks = Blocks(len(self.dims_x), self.block)
        self.counts = torch.zeros(3, dtype=torch.float64)  # samples, batches, Σ n_b(n_b - 3)
        self.eps = 0.0

    @property
    def n(self) -> int:
        """Samples summed."""
        return int(self.counts[0])

    @property
    def n_batches(self) -> int:
        """Batches summed."""
        return int(self.counts[1])

    @property
    def estimator(self) -> str:
        """How the products are got, in words."""
        raise NotImplementedError

    def products(self) -> Products:
        """Inner products of the centered Gram matrices of every pair of layers."""
        raise NotImplementedError

    def _read(self, xs: Layers, ys: Layers, groups: Any) -> list[Tensor]:
        """Features of the teacher's, then the student's layers, checked."""
        if (groups is None) == self.groups:
            raise InputError(f"Expected groups={self.groups} but the batch says otherwise")
        out = []
        n = len(next(iter(xs.values())))
        for dims, given in ((self.dims_x, xs), (self.dims_y, ys)):
            for name, dim in dims.items():
                features = given.get(name)
                if features is None or features.shape != (n, dim):
                    got = None if features is None else tuple(features.shape)
                    raise InputError(f"Expected {(n, dim)} features at {name!r} but got {got}")
                if features.is_floating_point():
                    self.eps = max(self.eps, torch.finfo(features.dtype).eps)
                out.append(features.detach())
        return out

    def _count(self, n: int) -> None:
        self.counts += torch.tensor([n, 1, n * (n - 3)], dtype=torch.float64)

    def _check_finite(self, per_layer: Tensor) -> None:
        """Raise InputError for the first of all layers whose sum over a batch is not finite."""
        bad = (~per_layer.isfinite()).nonzero().flatten().tolist()
        if bad:
            names = [("teacher", name) for name in self.dims_x]
            who, layer = (names + [("student", name) for name in self.dims_y])[bad[0]]
            raise InputError(
                f"Expected finite features but got nan or inf from the {who} at {layer!r} "
                f"in batch {self.n_batches}"
            )
