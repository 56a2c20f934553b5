"""Mergeable float64 sums that give every layer pair's CKA in one pass, whatever the batches were."""

from __future__ import annotations

import json
import zlib
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

BYTE_BUDGET = 2**30
MIN_BLOCK = 8
MANY_BLOCKS = 64
MOST_BLOCKS = 512
GROUP_BLOCKS = 20
RELATIVE_ZERO = 1e-12

Layers = Mapping[str, Tensor]


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


def unbiased(inner: Any, dots: Any, sum_k: Any, sum_l: Any, n: int) -> Any:
    """n(n-3)·HSIC1 of linear kernels from centred features (Song et al. 2012, JMLR 13).

    ‖XᵀY‖² - n/(n-2)·kᵀl + (Σk)(Σl)/((n-1)(n-2)), where k_i = |x_i|² and l_i = |y_i|².

    Args:
        inner: ‖XᵀY‖². dots: kᵀl. sum_k, sum_l: Σk, Σl. n: samples, at least 4.

    >>> unbiased(4.0, 2.0, 2.0, 2.0, 4)
    0.6666666666666666
    """
    return inner - n / (n - 2) * dots + sum_k * sum_l / ((n - 1) * (n - 2))


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


def moment_bytes(dims_x: Mapping[str, int], dims_y: Mapping[str, int]) -> int:
    """Bytes that `Moments` of these layers hold.

    >>> moment_bytes({"a": 2}, {"b": 1})
    296
    """
    wide_x, wide_y = (sum(dims.values()) + len(dims) + 1 for dims in (dims_x, dims_y))
    own = sum((d + 2) ** 2 for dims in (dims_x, dims_y) for d in dims.values())
    return 8 * (wide_x * wide_y + own)


def group_buckets(groups: np.ndarray) -> np.ndarray:
    """(n,) one of 20 buckets for each sample; the same group always falls into the same one.

    >>> np.ptp(group_buckets(np.array(["a", "a"])))
    np.int64(0)
    """
    return np.array([zlib.crc32(str(group).encode()) % GROUP_BLOCKS for group in groups])


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
        self._bucket: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.cross)

    def add(self, xs: Sequence[Tensor], ys: Sequence[Tensor], groups: np.ndarray | None) -> None:
        """Add one batch; samples of one group always go to the same block."""
        n = len(xs[0])
        if groups is not None:
            labels = group_buckets(groups)
            for label in np.unique(labels):
                self._keep(xs, ys, np.flatnonzero(labels == label), int(label))
            return
        size = self.size or (max(MIN_BLOCK, n // 10) if len(self) < MANY_BLOCKS else n)
        for rows in np.array_split(np.arange(n), max(1, n // size)):
            self._keep(xs, ys, rows, None)
        if len(self) > MOST_BLOCKS:
            self._halve()

    def _keep(
        self, xs: Sequence[Tensor], ys: Sequence[Tensor], rows: np.ndarray, bucket: int | None
    ) -> None:
        if len(rows) < 4:
            return
        cross, own = _batch_products([x[rows] for x in xs], [y[rows] for y in ys])
        if bucket is not None and bucket in self._bucket:
            place = self._bucket[bucket]
            self.cross[place], self.own[place] = self.cross[place] + cross, self.own[place] + own
            return
        if bucket is not None:
            self._bucket[bucket] = len(self)
        self.cross.append(cross)
        self.own.append(own)

    def _halve(self) -> None:
        """Join neighbours: the sums of two blocks are those of one larger block."""
        for kept in (self.cross, self.own):
            pairs = [kept[i : i + 2] for i in range(0, len(kept), 2)]
            kept[:] = [pair[0] if len(pair) == 1 else pair[0] + pair[1] for pair in pairs]

    def merge(self, other: Blocks) -> None:
        """Take over the blocks of another part of the data."""
        buckets = {place: label for label, place in other._bucket.items()}
        for place, (cross, own) in enumerate(zip(other.cross, other.own)):
            label = buckets.get(place)
            if label is not None and label in self._bucket:
                mine = self._bucket[label]
                self.cross[mine], self.own[mine] = self.cross[mine] + cross, self.own[mine] + own
                continue
            if label is not None:
                self._bucket[label] = len(self)
            self.cross.append(cross)
            self.own.append(own)

    def standard_error(self) -> np.ndarray:
        """(T, S) jackknife standard error of CKA, each block left out once (Nguyen 2021's sums).

        Near CKA 0 it is wider than the full estimate's, because pairs across blocks are not used.
        """
        cross, own = torch.stack(self.cross), torch.stack(self.own)
        left, alone = cross.sum(0) - cross, own.sum(0) - own
        n_x = cross.shape[1]
        scale = (alone[:, :n_x, None] * alone[:, None, n_x:]).sqrt()
        estimates = torch.where(scale > 0, left / scale, torch.nan)
        count = len(estimates)
        spread = (estimates - estimates.mean(0)).square().sum(0)
        return (spread * (count - 1) / count).sqrt().numpy()


def _batch_products(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """U-centred inner products of one set of samples: (T, S) cross and (T + S,) own."""
    grams = []
    for features in (*xs, *ys):
        centered = features - features.mean(0)
        gram = centered @ centered.T
        free = u_centered(gram)
        rounding = free.square().sum() <= RELATIVE_ZERO * gram.square().sum()
        grams.append((torch.zeros_like(free) if rounding else free).flatten())
    flat = torch.stack(grams)
    n_x = len(xs)
    return flat[:n_x] @ flat[n_x:].T, flat.square().sum(1)


def _exact(
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
            Σ|x|² after centring, and Σ|x|² before.
    """
    split = len(inner)
    if n >= 4:
        cross = unbiased(inner, dots, trace[:split, None], trace[None, split:], n)
        own = unbiased(norms, quartic, trace, trace, n)
    else:
        cross, own = torch.full_like(inner, torch.nan), torch.full_like(norms, torch.nan)
    own = torch.where(own > RELATIVE_ZERO * norms, own, torch.where(own.isnan(), own, 0.0))
    constant = is_constant(trace.numpy(), raw.numpy(), eps)
    return Products(
        cross=cross.numpy(),
        own_x=own[:split].numpy(),
        own_y=own[split:].numpy(),
        biased_cross=inner.numpy(),
        biased_own_x=norms[:split].numpy(),
        biased_own_y=norms[split:].numpy(),
        constant_x=constant[:split],
        constant_y=constant[split:],
        pairs=float(n * (n - 3)),
        n=n,
    )


def _extended(layers: Sequence[Tensor]) -> Tensor:
    """(n, Σd + L + 1): all features, each layer's squared norm, and 1."""
    norms = torch.stack([features.square().sum(1) for features in layers], 1)
    return torch.cat([*layers, norms, torch.ones_like(norms[:, :1])], 1)


def _shifted(layers: Sequence[Tensor], origin: Tensor) -> list[Tensor]:
    parts = origin.split([features.shape[1] for features in layers])
    return [features - part for features, part in zip(layers, parts)]


def _translated(sums: Tensor, step: Tensor, widths: list[int]) -> Tensor:
    """Rows of Σ z zᵀ as if `step` had been added to every x: |x + d|² = |x|² + 2dᵀx + |d|²."""
    wide, ones = len(step), sums[-1]
    moved = sums.clone()
    moved[:wide] += step[:, None] * ones
    start = 0
    for layer, width in enumerate(widths):
        part = step[start : start + width]
        moved[wide + layer] += 2 * part @ sums[start : start + width] + part @ part * ones
        start += width
    return moved


def _block_sums(values: Tensor, widths_x: list[int], widths_y: list[int]) -> Tensor:
    """(T, S) sums over the block of each pair of layers."""
    columns = [part.sum(1) for part in values.split(widths_y, dim=1)]
    rows = torch.stack(columns, 1).split(widths_x)
    return torch.stack([part.sum(0) for part in rows])


def _widths(layers: Layers) -> dict[str, int]:
    return {name: features.shape[1] for name, features in layers.items()}


class _Sums:
    """What the estimators share: names and widths of layers, n, blocks, the number format seen."""

    estimator = ""

    def __init__(
        self,
        dims_x: Mapping[str, int],
        dims_y: Mapping[str, int],
        groups: bool = False,
        block: int | None = None,
    ) -> None:
        self.dims_x, self.dims_y = dict(dims_x), dict(dims_y)
        if not self.dims_x or not self.dims_y:
            raise InputError("Expected at least one layer of each model but got none")
        self.groups, self.blocks = groups, Blocks(block)
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


class Moments(_Sums):
    """Exact sums over all samples, for every layer pair, biased and unbiased.

    With z = [x_1..x_L, |x_1|²..|x_L|², 1] after subtracting the first batch's mean, holds the cross
    and self blocks of Σ z zᵀ. Any batch split gives the same result (to rounding), and parts of the
    data may be summed apart and merged: moving the origin is linear in z.

    Args:
        dims_x, dims_y: layer -> width, of the two models.
        groups: whether `update` is told which samples depend on each other.
        block: samples a jackknife block; None: about a tenth of a batch.

    Example:
        >>> x, y = torch.randn(64, 3), torch.randn(64, 2)
        >>> moments = Moments({"a": 3}, {"b": 2})
        >>> for part in (slice(0, 50), slice(50, 64)):
        ...     moments.update({"a": x[part]}, {"b": y[part]})
        >>> moments.n, moments.products().cross.shape
        (64, (1, 1))
    """

    estimator = "exact sums in one pass"

    def __init__(
        self,
        dims_x: Mapping[str, int],
        dims_y: Mapping[str, int],
        groups: bool = False,
        block: int | None = None,
    ) -> None:
        super().__init__(dims_x, dims_y, groups, block)
        wide_x, wide_y = sum(self.dims_x.values()), sum(self.dims_y.values())
        size_x, size_y = wide_x + len(self.dims_x) + 1, wide_y + len(self.dims_y) + 1
        self.cross = torch.zeros(size_x, size_y, dtype=torch.float64)
        self.own_x = [torch.zeros(d + 2, d + 2, dtype=torch.float64) for d in self.dims_x.values()]
        self.own_y = [torch.zeros(d + 2, d + 2, dtype=torch.float64) for d in self.dims_y.values()]
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
        list_x = _shifted(list_x, self.shift_x)
        list_y = _shifted(list_y, self.shift_y)
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
        cross, own_x, own_y = other._at(self.shift_x, self.shift_y)
        self.cross += cross
        for mine, theirs in zip((*self.own_x, *self.own_y), (*own_x, *own_y)):
            mine += theirs
        self.n, self.eps = self.n + other.n, max(self.eps, other.eps)
        self.blocks.merge(other.blocks)

    def _at(self, origin_x: Tensor, origin_y: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Cross and self blocks as if the given origins had been subtracted."""
        step_x, step_y = self.shift_x - origin_x, self.shift_y - origin_y
        widths_x, widths_y = list(self.dims_x.values()), list(self.dims_y.values())
        cross = _translated(self.cross, step_x, widths_x)
        cross = _translated(cross.T, step_y, widths_y).T
        sides = []
        for own, step, widths in (
            (self.own_x, step_x, widths_x),
            (self.own_y, step_y, widths_y),
        ):
            parts = step.split(widths)
            sides.append(
                [
                    _translated(_translated(block, part, [len(part)]).T, part, [len(part)]).T
                    for block, part in zip(own, parts)
                ]
            )
        return cross, sides[0], sides[1]

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean of all features of x and of y, layers side by side."""
        wide_x, wide_y = len(self.shift_x), len(self.shift_y)
        return (
            self.shift_x + self.cross[:wide_x, -1] / self.n,
            self.shift_y + self.cross[-1, :wide_y] / self.n,
        )

    def products(self) -> Products:
        """Inner products of the centred Gram matrices of every pair of layers."""
        n = self.n
        mean_x, mean_y = self.means()
        cross, own_x, own_y = self._at(mean_x, mean_y)
        widths_x, widths_y = list(self.dims_x.values()), list(self.dims_y.values())
        wide_x, wide_y = sum(widths_x), sum(widths_y)
        own = (*own_x, *own_y)
        trace = torch.stack([block[-2, -1] for block in own])
        means = (*mean_x.split(widths_x), *mean_y.split(widths_y))
        return _exact(
            inner=_block_sums(cross[:wide_x, :wide_y].square(), widths_x, widths_y),
            dots=cross[wide_x:-1, wide_y:-1],
            norms=torch.stack([block[:-2, :-2].square().sum() for block in own]),
            quartic=torch.stack([block[-2, -2] for block in own]),
            trace=trace,
            raw=trace + n * torch.stack([mean.square().sum() for mean in means]),
            n=n,
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
            "block": self.blocks.size,
            "buckets": list(self.blocks._bucket.items()),
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
        moments.blocks._bucket = {int(label): place for label, place in head["buckets"]}
        moments.n, moments.eps = head["n"], head["eps"]
        return moments


class BatchHsic(_Sums):
    """Sums of per-batch HSIC1 (Nguyen et al. 2021, 2010.15327): any width, no exact total.

    Each batch counts with n_b(n_b - 3); batches of fewer than 4 samples are skipped. Unbiased when
    batches are random samples; batches sorted by class would measure within classes only.
    """

    estimator = "HSIC1 summed over batches"

    def __init__(
        self,
        dims_x: Mapping[str, int],
        dims_y: Mapping[str, int],
        groups: bool = False,
        block: int | None = None,
    ) -> None:
        super().__init__(dims_x, dims_y, groups, block)
        self.cross = torch.zeros(len(self.dims_x), len(self.dims_y), dtype=torch.float64)
        self.own = torch.zeros(len(self.dims_x) + len(self.dims_y), dtype=torch.float64)
        self._spread = torch.zeros_like(self.own)
        self._magnitude = torch.zeros_like(self.own)
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
        cross, own = _batch_products(list_x, list_y)
        self.cross += cross
        self.own += own
        self.n, self._pairs = self.n + n, self._pairs + n * (n - 3)
        self.blocks.add(list_x, list_y, groups)

    def products(self) -> Products:
        """Inner products summed over batches; the biased ones are nan."""
        split = len(self.dims_x)
        constant = is_constant(self._spread.numpy(), self._magnitude.numpy(), self.eps)
        own = self.own.numpy()
        nothing = np.full_like(own, np.nan)
        return Products(
            cross=self.cross.numpy(),
            own_x=own[:split],
            own_y=own[split:],
            biased_cross=np.full(tuple(self.cross.shape), np.nan),
            biased_own_x=nothing[:split],
            biased_own_y=nothing[split:],
            constant_x=constant[:split],
            constant_y=constant[split:],
            pairs=self._pairs,
            n=self.n,
        )


class Grams(_Sums):
    """Exact products from the Gram matrices of all samples: few samples, any width."""

    estimator = "exact Gram matrices"

    def __init__(
        self, xs: Layers, ys: Layers, groups: np.ndarray | None = None, block: int | None = None
    ) -> None:
        super().__init__(_widths(xs), _widths(ys), groups is not None, block)
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
        n, split = self.n, len(xs)
        centered = [features - features.mean(0) for features in (*xs, *ys)]
        flat = torch.stack([features @ features.T for features in centered]).flatten(1)
        diagonal = flat[:, :: n + 1]
        return _exact(
            inner=flat[:split] @ flat[split:].T,
            dots=diagonal[:split] @ diagonal[split:].T,
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
