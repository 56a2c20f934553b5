"""Store: what layers showed of some samples, in memory when small, in a temporary file when not."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError

IN_MEMORY = 16 * 2**20  # bytes of features that are not worth a file
LARGE = 2**28  # bytes of outputs that are not worth a file
MOST = 4 * 2**30  # bytes of features kept in one pass, when a quarter of the disk allows it


class Store(Mapping[str, Tensor]):
    """Layer -> (n_rows, d) float32 features that were put in piece by piece.

    A large store lies in a temporary file that is gone with it. Reading a layer gives a new tensor and
    keeps nothing, so that memory grows neither with rows nor with layers.

    Args:
        widths: layer -> features.
        n_rows: rows to come.
        on_disk: whether to use a file.

    >>> store = Store({"a": 2}, n_rows=3, on_disk=True)
    >>> store.put(np.array([2, 0]), {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    >>> store["a"].tolist()
    [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
    """

    def __init__(self, widths: Mapping[str, int], n_rows: int, on_disk: bool) -> None:
        self._widths, self._n_rows = dict(widths), n_rows
        self.n_rows = n_rows  # rows that are read; fewer when fewer came
        starts = np.concatenate([[0], np.cumsum([n_rows * d for d in self._widths.values()])])
        self._starts = dict(zip(self._widths, starts.tolist()))
        size = int(starts[-1])
        self._map: mmap.mmap | None = None
        if on_disk and size:
            with tempfile.TemporaryFile() as file:
                file.truncate(4 * size)
                self._map = mmap.mmap(file.fileno(), 4 * size)
        self._whole = (
            np.zeros(size, np.float32)
            if self._map is None
            else np.frombuffer(self._map, np.float32)
        )

    def _rows(self, layer: str) -> np.ndarray:
        start, width = self._starts[layer], self._widths[layer]
        return self._whole[start : start + self._n_rows * width].reshape(self._n_rows, width)

    def put(self, slots: np.ndarray, features: Mapping[str, Tensor]) -> None:
        """Write rows (m, d) of every layer at the given slots (m,)."""
        for layer, part in features.items():
            self._rows(layer)[slots] = part.to("cpu", torch.float32).numpy()
        self._release()

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self._widths:
            raise KeyError(layer)
        rows = self._rows(layer)[: self.n_rows]
        if self._map is not None:
            rows = rows.copy()
            self._release()
        return torch.from_numpy(rows)

    def _release(self) -> None:
        """Give the pages of the file back: they stay in it, not with us."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)


class Rows(NamedTuple):
    """Which samples rows of features are: position of the sample, and place of the token in it."""

    owner: np.ndarray
    place: np.ndarray | None


class Kept:
    """Features of a bounded choice of samples (or tokens), of every model.

    Samples are chosen beforehand, the first of a random `order`, and kept in the split's order. Tokens
    are kept as they come, in that same random order of samples, until there is no more room.

    Attributes:
        features: role -> layer -> (m, d).
        rows: (m,) position of the sample of each row.
        tokens: (m,) place in its sequence; None when rows are samples.
        everything: whether all samples are kept.
    """

    def __init__(
        self, by_role: Mapping[str, Mapping[str, int]], order: np.ndarray, cap: int, tokens: bool
    ) -> None:
        row = 4 * sum(sum(widths.values()) for widths in by_role.values())
        n_rows = rows_that_fit(row, cap if tokens else min(cap, len(order)))
        self.everything = not tokens and n_rows == len(order)
        self.rows = np.zeros(n_rows, dtype=int) if tokens else np.sort(order[:n_rows])
        self.tokens = np.zeros(n_rows, dtype=int) if tokens else None
        self._done = 0
        self.features = {
            role: Store(widths, n_rows, on_disk=row * n_rows > IN_MEMORY)
            for role, widths in by_role.items()
        }

    def add(self, rows: Rows, features: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep what is wanted of a batch."""
        slots, wanted = self._slots(rows)
        if len(slots):
            for role, parts in features.items():
                self.features[role].put(slots, {name: part[wanted] for name, part in parts.items()})

    def _slots(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Where to put which rows of a batch."""
        if self.tokens is None or rows.place is None:
            slots = np.searchsorted(self.rows, rows.owner).clip(max=len(self.rows) - 1)
            wanted = np.flatnonzero(self.rows[slots] == rows.owner)
            return slots[wanted], wanted
        wanted = np.arange(min(len(rows.owner), len(self.rows) - self._done))
        slots = self._done + wanted
        self.rows[slots], self.tokens[slots] = rows.owner[wanted], rows.place[wanted]
        self._done += len(wanted)
        return slots, wanted

    def close(self) -> None:
        """Cut off what was kept free for tokens that did not come."""
        if self.tokens is not None:
            self.rows, self.tokens = self.rows[: self._done], self.tokens[: self._done]
            for store in self.features.values():
                store.n_rows = self._done


def rows_that_fit(row: int, wanted: int) -> int:
    """Rows of so many bytes that the budget allows, at most `wanted`, at least one.

    The budget is 4 GiB, less on a disk that has not four times as much to spare.

    >>> rows_that_fit(8, wanted=100)
    100
    """
    budget = min(MOST, shutil.disk_usage(tempfile.gettempdir()).free // 4)
    return max(1, min(wanted, max(budget, IN_MEMORY) // max(1, row)))


def large_tensor(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
    """A tensor to be filled, in a temporary file when large.

    Raises:
        InputError: when the disk has not twice that to spare.
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size <= LARGE:
        return torch.empty(shape, dtype=dtype)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if 2 * size > free:
        raise InputError(
            f"Expected room for {what} {shape}, {size / 2**30:.1f} GiB, in the temporary folder but "
            f"only {free / 2**30:.1f} GiB are free; set TMPDIR or measure fewer samples"
        )
    with tempfile.TemporaryFile() as file:
        raw = np.memmap(file, np.uint8, "w+", shape=(size,))
    return torch.from_numpy(raw).view(dtype).view(shape)


def put(
    whole: Tensor | None, positions: np.ndarray, part: Tensor, n: int, padding: int, what: str
) -> Tensor:
    """The tensor of all n samples with a batch put in; made, or its sequences made longer, as needed."""
    if whole is None:
        whole = large_tensor((n, *part.shape[1:]), part.dtype, what).fill_(padding)
    if part.shape[1:] != whole.shape[1:]:
        sequences = part.ndim == 3 or (part.ndim == 2 and not part.is_floating_point())
        if not sequences or part.ndim != whole.ndim or part.shape[2:] != whole.shape[2:]:
            raise InputError(
                f"Expected {what} of one shape for all samples but got "
                f"{tuple(whole.shape[1:])} and {tuple(part.shape[1:])}"
            )
        if part.shape[1] > whole.shape[1]:
            longer = large_tensor((n, *part.shape[1:]), part.dtype, what).fill_(padding)
            longer[:, : whole.shape[1]] = whole
            whole = longer
        whole[positions] = padding
    index = (positions, slice(part.shape[1])) if part.ndim > 1 else positions
    whole[index] = part
    return whole
