"""Shards: sums over parts of the data, kept on disk, merged, or added up over processes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.tally import Layers, LayerSums


class Shards(LayerSums):
    """Sums of which parts of the data add up.

    Parts may be summed in one process (`update`), in processes whose files are merged (`save`,
    `load`, `merge`), or in processes that talk (`all_reduce`); the result is the same to rounding.
    """

    def update(self, xs: Layers, ys: Layers, groups: np.ndarray | None = None) -> None:
        """Add a batch: layer -> (n, d) features of the same samples in the same order."""
        raise NotImplementedError

    def totals(self) -> dict[str, Tensor]:
        """The float64 tensors that add up, once taken about the same origins; not copies."""
        return {"counts": self.counts}

    def origins(self) -> dict[str, Tensor]:
        """What was subtracted from features before summing; not copies."""
        return {}

    def about(self, origins: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The totals as if these origins had been subtracted."""
        return self.totals()

    def _set(self, totals: Mapping[str, Tensor], origins: Mapping[str, Tensor]) -> None:
        for mine, new in ((self.totals(), totals), (self.origins(), origins)):
            for name, tensor in mine.items():
                tensor.copy_(new[name])

    def _head(self) -> dict[str, Any]:
        """What parts of the data must have in common."""
        dims = [list(dims.items()) for dims in (self.dims_x, self.dims_y)]
        return {"kind": type(self).__name__, "dims": dims, "groups": self.groups}

    def merge(self, other: Self) -> None:
        """Add the sums of another part of the data.

        Raises:
            InputError: unless layers, widths and kind of sums agree.
        """
        if self._head() != other._head():
            raise InputError("Expected sums of the same layers and widths but they differ")
        if not other.n:
            return
        origins = (self if self.n else other).origins()
        mine, theirs = self.about(origins), other.about(origins)
        self._set({name: mine[name] + theirs[name] for name in mine}, origins)
        self.eps = max(self.eps, other.eps)
        self.blocks.merge(other.blocks)

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Add up the sums of all processes of a group, in each of them; all must call it.

        Only float64 tensors travel. With NCCL they go through the current CUDA device.

        Raises:
            InputError: in every process, unless layers, widths and kind of sums agree.
        """
        nccl = dist.get_backend(group) == "nccl"
        device = torch.device("cuda") if nccl else torch.device("cpu")

        def over(tensor: Tensor, how: Any = dist.ReduceOp.SUM) -> Tensor:
            sent = tensor.to(device, copy=True)
            dist.all_reduce(sent, how, group)
            return sent.cpu()

        code = float(zlib.crc32(json.dumps(self._head()).encode()))
        largest = torch.tensor([code, -code, self.eps, len(self.blocks)], dtype=torch.float64)
        high, low, eps, most = over(largest, dist.ReduceOp.MAX).tolist()
        if high != -low:
            raise InputError("Expected sums of the same layers and widths but processes differ")
        n = over(self.counts)[0]
        scale = self.n / n.clamp(min=1)
        origins = {name: over(origin * scale) for name, origin in self.origins().items()}
        totals = {name: over(total) for name, total in self.about(origins).items()}
        rank, world = dist.get_rank(group), dist.get_world_size(group)
        tables = self.blocks.table(len(self.dims_y), rank, int(most), world)
        self._set(totals, origins)
        self.eps = eps
        self.blocks.replace(over(tables), len(self.dims_y))

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a safetensors file."""
        tensors = {f"total.{name}": total for name, total in self.totals().items()}
        tensors |= {f"origin.{name}": origin for name, origin in self.origins().items()}
        tensors["blocks"] = self.blocks.table(len(self.dims_y))
        head = self._head() | {"block": self.block, "eps": self.eps}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, str(path), metadata={"layer_sums": json.dumps(head)})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote; summing goes on as if it had never stopped.

        Raises:
            InputError: when the file holds no sums, or those of another kind.
        """
        with safe_open(str(path), framework="pt") as file:
            head = json.loads((file.metadata() or {}).get("layer_sums", "{}"))
            if head.get("kind") != cls.__name__:
                raise InputError(
                    f"Expected a file of {cls.__name__} but {str(path)!r} holds "
                    f"{head.get('kind', 'no sums')}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        dims_x, dims_y = (dict(dims) for dims in head["dims"])
        sums = cls(dims_x, dims_y, head["groups"], head["block"])
        totals, origins = (
            {name: tensors[f"{kind}.{name}"] for name in held}
            for kind, held in (("total", sums.totals()), ("origin", sums.origins()))
        )
        sums._set(totals, origins)
        sums.eps = head["eps"]
        sums.blocks.replace(tensors["blocks"], len(sums.dims_y))
        return sums
