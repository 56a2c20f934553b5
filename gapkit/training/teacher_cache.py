"""A source's answers on a split: computed once, kept in files, found by sample id, read through memory maps."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError, unknown
from gapkit.teaching.topk import PARTS, TopK, dense, top_k_of

log = logging.getLogger("gapkit")

FORMAT = 1
BUDGET = 4 * 2**30  # bytes of one source's answers on one split
SMALL = 64 * 2**20  # bytes of a table that is read into memory
OUTPUTS = "outputs"
HEADER, IDS = "header.json", "ids.npy"
STORED = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2", "int32": "<i4"}  # bfloat16 as bits
NOT_NPY = (SyntaxError, TokenError)  # numpy parses a header as Python
BROKEN = (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, *NOT_NPY)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What one file holds: the rows of a name, or a part of its TopK, and their type in torch."""

    name: str
    part: str
    shape: tuple[int, ...]
    dtype: str
    n_classes: int


class TeacherCache:
    """One source's answers on one split: a row a sample, in files of the run folder, read through memory maps.

    `build` makes it, `open` finds it again, in any process, and reads every table once to compare its
    checksum (1.6 GiB a second). Tables below 64 MiB are then kept in memory; larger ones stay mapped, and
    processes share their pages.

    >>> import tempfile
    >>> folder, ids = Path(tempfile.mkdtemp()) / "teacher-train", np.array(["a", "b", "c"])
    >>> batches = [(np.array([2, 0]), {"outputs": torch.eye(2)}),
    ...            (np.array([1]), {"outputs": torch.ones(1, 2)})]
    >>> TeacherCache.build(folder, {"weights": "f00d"}, ids, batches)
    TeacherCache(3 samples of outputs, 24 bytes)
    >>> again = TeacherCache.open(folder, {"weights": "f00d"}, np.array(["c", "b"]))
    >>> again.rows(np.array([0, 1]))["outputs"].tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """

    def __init__(self, tables: Mapping[Table, np.ndarray], n: int, at: np.ndarray | None) -> None:
        self._n, self._at = n, at
        self._by_name: dict[str, list[tuple[Table, np.ndarray]]] = {}
        for table, rows in tables.items():
            self._by_name.setdefault(table.name, []).append((table, rows))

    @classmethod
    def build(
        cls,
        folder: Path,
        identity: Mapping[str, str],
        ids: np.ndarray,
        batches: Iterable[tuple[np.ndarray, Mapping[str, Tensor]]],
        *,
        top_k: int | None = None,
        budget: int = BUDGET,
    ) -> TeacherCache | None:
        """Write all answers and open them; what lies there is replaced at the very end.

        While another process builds the same folder this one waits and takes what the other made.

        Args:
            folder: the cache's own folder.
            identity: what makes the answers, word by word (weights, data, view, precision, top_k ...).
            ids: (n,) name of each sample of the split, no two the same.
            batches: (positions (b,), name -> (b, ...)), in any order, each position once.
            top_k: keep this many of the K classes of "outputs" (..., K) when K > 2·top_k; see `dense`.
            budget: bytes.

        Returns:
            None, said in one line of the log, when the rows would take more than the budget or half of
            the free disk, or differ in shape from batch to batch (ragged tokens).

        Raises:
            InputError: for repeated ids, a position given twice or never, batches whose names, types or
                lengths do not fit, or a folder that holds something else.
        """
        folder = Path(folder)
        _refuse_strangers(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        half, old = (folder.with_name(f".{folder.name}.{end}") for end in ("half", "old"))
        with _alone(folder) as waited:
            if waited and (found := cls.open(folder, identity, ids)) is not None:
                return found
            for left in (half, old):  # of a build that was killed
                shutil.rmtree(left, ignore_errors=True)
            half.mkdir()
            try:
                filling = _Filling(half, ids, top_k, budget)
                for positions, answers in batches:
                    filling.add(np.asarray(positions), answers)
                filling.close(identity)
                if folder.exists():
                    folder.rename(old)
                os.replace(half, folder)
                _sync(folder.parent)
            except _NotKept as reason:
                log.info("The answers for %s are not kept: %s", folder.name, reason)
                return None
            finally:
                for left in (half, old):
                    shutil.rmtree(left, ignore_errors=True)
            return cls.open(folder, identity, ids)

    @classmethod
    def open(
        cls, folder: Path, identity: Mapping[str, str], ids: np.ndarray
    ) -> TeacherCache | None:
        """The answers for these samples, in the order of these ids; None when they must be built.

        That is when there is nothing, or another identity's, or a sample is missing, or (said as a
        warning in the log) a file is broken.
        """
        folder = Path(folder)
        if not (folder / HEADER).exists():
            return None
        try:
            header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
            if header["format"] != FORMAT or header["identity"] != dict(identity):
                return None
            if header.pop("sha256") != _signature(header):
                raise ValueError(f"{HEADER} has changed")
            known = _mapped(folder / IDS)
            if _digest(known) != header["ids"] or known.ndim != 1:
                raise ValueError(f"{IDS} has changed")
            tables = dict(
                _read(folder / f"{place}.npy", item, len(known))
                for place, item in enumerate(header["tables"])
            )
        except BROKEN as error:
            cause = " ".join(str(error).split())[:160] or type(error).__name__
            log.warning(
                "The answers in %s cannot be read (%s); they must be made again", folder, cause
            )
            return None
        wanted = np.asarray(ids).astype(str)
        if np.array_equal(known, wanted):
            return cls(tables, len(wanted), None)
        order = np.argsort(known)
        at = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
        return cls(tables, len(wanted), at) if np.array_equal(known[at], wanted) else None

    @property
    def names(self) -> tuple[str, ...]:
        """What there are rows of."""
        return tuple(self._by_name)

    @property
    def nbytes(self) -> int:
        """Bytes of all tables, also of samples that were not asked for."""
        return sum(rows.nbytes for tables in self._by_name.values() for _, rows in tables)

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"TeacherCache({self._n} samples of {', '.join(self.names)}, {self.nbytes} bytes)"

    def rows(self, positions: np.ndarray, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Name -> (b, ...) float32 of the samples at these positions (b,) of the ids; new tensors.

        Raises:
            InputError: for a position outside the split, or a name that was not kept.
        """
        at = _integers(positions)
        _within(at, self._n)
        at = at if self._at is None else self._at[at]
        rows = {}
        for name in self.names if names is None else names:
            if name not in self._by_name:
                raise unknown("name of answers", name, self.names)
            parts = {
                table.part: _decoded(table, kept.take(at, axis=0))
                for table, kept in self._by_name[name]
            }
            n_classes = self._by_name[name][0][0].n_classes
            rows[name] = dense(TopK(**parts), n_classes) if n_classes else parts[""]
        return rows


class _NotKept(Exception):
    """Answers that are not worth or not fit for keeping."""


class _Filling:
    """A folder that is being filled, batch by batch."""

    def __init__(self, folder: Path, ids: np.ndarray, top_k: int | None, budget: int) -> None:
        self._folder, self._top_k, self._budget = folder, top_k, budget
        self._ids = np.asarray(ids).astype(str)
        found, counts = np.unique(self._ids, return_counts=True)
        if self._ids.ndim != 1 or not len(found) or counts.max() > 1:
            raise InputError(
                "Expected ids (n,), at least one, no two the same, but got "
                f"{self._ids.shape}, {len(found)} different"
            )
        self._seen = np.zeros(len(self._ids), bool)
        self._types: dict[str, torch.dtype] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._tables: dict[Table, np.ndarray] = {}

    def add(self, positions: np.ndarray, answers: Mapping[str, Tensor]) -> None:
        """Write the rows of some samples."""
        positions = _integers(positions)
        self._check(positions, answers)
        encoded = {
            table: rows
            for name, tensor in answers.items()
            for table, rows in _encoded(name, tensor, self._top_k)
        }
        if not self._tables:
            self._begin(encoded)
        for table, rows in encoded.items():
            self._tables[table][positions] = rows
        self._seen[positions] = True

    def close(self, identity: Mapping[str, str]) -> None:
        """Write everything through to the disk, the header last."""
        if not self._seen.all():
            first = int(self._seen.argmin())
            raise InputError(
                f"Expected answers for all {len(self._seen)} samples but got none for "
                f"{int((~self._seen).sum())}, first {str(self._ids[first])!r} at position {first}"
            )
        np.save(self._folder / IDS, self._ids, allow_pickle=False)
        header: dict[str, Any] = {"format": FORMAT, "identity": dict(identity)}
        header["ids"] = _digest(self._ids)
        header["tables"] = [
            asdict(table) | {"sha256": _digest(rows)} for table, rows in self._tables.items()
        ]
        for rows in self._tables.values():
            rows.flush()  # type: ignore[attr-defined]
        header["sha256"] = _signature(header)
        (self._folder / HEADER).write_text(json.dumps(header, indent=2), encoding="utf-8")
        for path in (*self._folder.iterdir(), self._folder):
            _sync(path)

    def _check(self, positions: np.ndarray, answers: Mapping[str, Tensor]) -> None:
        _within(positions, len(self._seen))
        found, counts = np.unique(positions, return_counts=True)
        again = found[(counts > 1) | self._seen[found]]
        if len(again):
            raise InputError(
                f"Expected each position once but got {again[0]} again "
                f"(sample {str(self._ids[again[0]])!r})"
            )
        for name, tensor in answers.items():
            if not tensor.is_floating_point() or tensor.shape[:1] != (len(positions),):
                raise InputError(
                    f"Expected {len(positions)} rows of floats for {name!r} but got "
                    f"{tuple(tensor.shape)} of {tensor.dtype}"
                )
        types = {name: tensor.dtype for name, tensor in answers.items()}
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in answers.items()}
        if not self._tables:
            self._types, self._shapes = types, shapes
        if types != self._types or not types:
            raise InputError(f"Expected answers {self._types} in every batch but got {types}")
        for name, shape in shapes.items():
            if shape != self._shapes[name]:
                raise _NotKept(f"{name} has rows of {self._shapes[name]} and of {shape}")

    def _begin(self, encoded: Mapping[Table, np.ndarray]) -> None:
        """Make the files, once it is known what they take."""
        n = len(self._seen)
        size = sum(n * math.prod(table.shape) * rows.itemsize for table, rows in encoded.items())
        # Writing to a map on a full disk kills the process instead of raising an error.
        room = min(self._budget, shutil.disk_usage(self._folder).free // 2)
        if size > room:
            raise _NotKept(f"they would take {size / 2**20:.1f} MiB of {room / 2**20:.1f}")
        for place, (table, rows) in enumerate(encoded.items()):
            self._tables[table] = np.lib.format.open_memmap(
                self._folder / f"{place}.npy", "w+", rows.dtype, (n, *table.shape)
            )


def _encoded(name: str, tensor: Tensor, top_k: int | None) -> Iterator[tuple[Table, np.ndarray]]:
    """The tables of a name, and these rows as they are stored."""
    n_classes, parts = 0, {"": tensor.detach()}
    if name == OUTPUTS and top_k is not None and tensor.ndim > 1 and tensor.shape[-1] > 2 * top_k:
        n_classes = tensor.shape[-1]
        top = top_k_of(tensor, top_k)
        parts = {part: getattr(top, part) for part in PARTS}
    for part, rows in parts.items():
        rows = (rows.float() if rows.dtype == torch.float64 else rows).cpu().contiguous()
        dtype = str(rows.dtype).removeprefix("torch.")
        table = Table(
            name=name, part=part, shape=tuple(rows.shape[1:]), dtype=dtype, n_classes=n_classes
        )
        yield table, (rows.view(torch.int16) if dtype == "bfloat16" else rows).numpy()


def _decoded(table: Table, rows: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(rows)
    if table.dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    return tensor if table.dtype == "int32" else tensor.float()


def _read(path: Path, item: Mapping[str, Any], n: int) -> tuple[Table, np.ndarray]:
    """A table of the header, and its rows: in memory when small, mapped when large."""
    item = dict(item)
    digest = item.pop("sha256")
    table = Table(**item | {"shape": tuple(item["shape"])})
    rows = _mapped(path)
    if rows.shape != (n, *table.shape) or rows.dtype != np.dtype(STORED[table.dtype]):
        raise ValueError(f"{path.name} holds {rows.shape} of {rows.dtype}")
    rows = np.array(rows) if rows.nbytes < SMALL else rows
    if _digest(rows) != digest:
        raise ValueError(f"{path.name} has changed")
    return table, rows


def _mapped(path: Path) -> np.ndarray:
    """A file's array, mapped read-only; one that holds Python objects is a ValueError."""
    return np.lib.format.open_memmap(path, "r").view(np.ndarray)


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.reshape(-1).view(np.uint8).data).hexdigest()


def _signature(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _integers(positions: Any) -> np.ndarray:
    array = np.asarray(positions)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(
            f"Expected positions (b,) as integers but got {array.shape} of {array.dtype}"
        )
    return array.astype(np.intp, copy=False)


def _within(positions: np.ndarray, n: int) -> None:
    if positions.size and (positions.min() < 0 or positions.max() >= n):
        raise InputError(
            f"Expected positions from 0 to {n - 1} but got {positions.min()} to {positions.max()}"
        )


def _refuse_strangers(folder: Path) -> None:
    """An error for a folder that holds what no cache does; replacing it would lose that."""
    if not folder.exists():
        return
    items = list(folder.iterdir()) if folder.is_dir() else [folder]
    others = [
        item.name
        for item in items
        if item.name not in (HEADER, IDS) and not (item.suffix == ".npy" and item.stem.isdecimal())
    ]
    if others:
        raise InputError(
            f"Expected a folder of answers, or none, at {folder} but it holds {min(others)}"
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold the right to build a folder; gives whether another process had to be waited for."""
    from filelock import FileLock, Timeout

    lock, waited = FileLock(folder.with_name(f".{folder.name}.lock")), False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        lock.acquire()
        waited = True
    try:
        yield waited
    finally:
        lock.release()


def _sync(path: Path) -> None:
    """Have the disk keep a file, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
