"""Data: splits, the teacher's and the student's view of one batch, slices, stable sample ids."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from gapkit.errors import InputError, unknown
from gapkit.guest import seeded

SPLITS = ("train", "validation", "test")
TARGET_KEYS = ("labels", "label", "target", "targets", "y")
FINGERPRINT_SAMPLES = 2000
FINGERPRINT_VIEWS = 4
ASKED_TWICE = 4

Column = Callable[[Any], Any] | Mapping[str, Sequence[Any]]
View = Callable[[Any], Any]


@dataclass(frozen=True)
class Batch:
    """Some samples of a split: their positions in it, and what the dataset gave, collated."""

    split: str
    positions: np.ndarray
    raw: Any


class _Rows(torch.utils.data.Dataset):
    """Rows of a map-style dataset, fetched a batch at a time (tensors are sliced, not stacked)."""

    def __init__(self, dataset: Any, rows: np.ndarray) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[int(self.rows[position])]

    def __getitems__(self, positions: list[int]) -> Any:
        rows = self.rows[positions]
        if type(self.dataset) is TensorDataset:
            index = torch.from_numpy(rows)
            return np.asarray(positions), tuple(tensor[index] for tensor in self.dataset.tensors)
        samples = [self.dataset[int(row)] for row in rows]
        try:
            return np.asarray(positions), default_collate(samples)
        except (RuntimeError, TypeError, KeyError) as error:
            cause = str(error).splitlines()[0]
            raise InputError(
                f"Expected samples that make up a batch but rows {rows[0]} to {rows[-1]} do not: {cause}"
            ) from error


class Data:
    """Where samples come from and how each model sees them.

    Args:
        train, test, validation: map-style datasets of (input, target) tuples or of dicts. Without a
            validation set a stratified fifth of train becomes it (with groups: a fifth of the groups).
        teacher_input, student_input: batch -> what the model is called with (a dict: keywords).
            Default: the first item of a tuple; a dict without its target.
        target: batch -> targets (n, ...). Default: the second item, or the key "labels" and its like.
        augment: batch -> batch, in training only; teacher and student see the same augmented batch.
        ids: name of each sample that survives reordering: a function of a sample, or one column per
            split. Default: split and position.
        groups: samples that depend on each other share a group; same forms as `ids`.
        slices: name -> function of a sample, or one column per split.
        validation_share: of train, when no validation set is given.
        workers: processes that load batches.
        seed: of the carved validation split.

    >>> xs, ys = torch.arange(20.0).view(20, 1), torch.arange(20) % 2
    >>> data = Data(train=TensorDataset(xs, ys), test=TensorDataset(xs, ys))
    >>> data.size("train"), data.size("validation"), data.size("test")
    (16, 4, 20)
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        validation: Any = None,
        *,
        teacher_input: View | None = None,
        student_input: View | None = None,
        target: View | None = None,
        augment: View | None = None,
        ids: Column | None = None,
        groups: Column | None = None,
        slices: Mapping[str, Column] | None = None,
        validation_share: float = 0.2,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        self._datasets = {"train": train, "test": test, "validation": validation}
        for name, dataset in self._datasets.items():
            if dataset is None and name == "validation":
                continue
            if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
                raise InputError(
                    f"Expected a map-style {name} dataset (with len and indexing) but got "
                    f"{type(dataset).__name__}"
                )
            if len(dataset) == 0:
                raise InputError(
                    f"Expected at least one sample in the {name} dataset but it is empty"
                )
        if not 0 < validation_share < 1:
            raise InputError(
                f"Expected validation_share between 0 and 1 but got {validation_share}"
            )
        self._views = {"teacher": teacher_input, "student": student_input, "target": target}
        self.augment = augment
        self._ids, self._groups, self._slices = ids, groups, dict(slices or {})
        self._share, self.workers, self._seed = validation_share, workers, seed

    def dataset(self, split: str) -> Any:
        """The dataset that a split's samples come from."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        dataset = self._datasets[split]
        return self._datasets["train"] if dataset is None else dataset

    def size(self, split: str) -> int:
        """Samples in a split."""
        return len(self._of(split))

    def _of(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self._rows[split]

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Rows of the underlying dataset that make up each split."""
        rows = {name: np.arange(len(self.dataset(name))) for name in SPLITS}
        if self._datasets["validation"] is None:
            rows["train"], rows["validation"] = self._carve(rows["train"])
        return rows

    def _carve(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.model_selection import GroupShuffleSplit, train_test_split

        if len(rows) < 2:
            raise InputError(
                "Expected at least two training samples to carve a validation split from"
            )
        if self._groups is not None:  # samples that depend on each other stay on one side
            groups = self._column(self._groups, "groups", "train", rows)
            if len(np.unique(groups)) < 2:
                raise InputError(
                    "Expected at least two groups in train to carve a validation split"
                )
            splitter = GroupShuffleSplit(1, test_size=self._share, random_state=self._seed)
            return next(splitter.split(rows, groups=groups))
        target = self._read(rows, self.dataset("train"), self.target)
        labels = (
            None
            if target is None or target.is_floating_point() or target.ndim != 1
            else target.numpy()
        )
        size = max(1, round(self._share * len(rows)))
        if labels is not None:
            counts = np.unique(labels, return_counts=True)[1]
            if counts.min() < 2 or min(size, len(rows) - size) < len(counts):
                labels = None
        kept, held = train_test_split(
            rows, test_size=size, stratify=labels, random_state=self._seed, shuffle=True
        )
        return np.sort(kept), np.sort(held)

    @staticmethod
    def _read(rows: np.ndarray, dataset: Any, view: View) -> Tensor | None:
        parts = [
            view(
                _Rows(dataset, rows).__getitems__(list(range(start, min(start + 512, len(rows)))))[
                    1
                ]
            )
            for start in range(0, len(rows), 512)
        ]
        return None if parts[0] is None else torch.cat([torch.as_tensor(part) for part in parts])

    def sample(self, n: int, seed: int = 0) -> Data:
        """The same data with at most n samples a split, drawn at random."""
        part = copy.copy(self)
        rng = np.random.default_rng(seed)
        rows = {name: np.sort(rng.permutation(own)[:n]) for name, own in self._rows.items()}
        for cached in ("_targets", "_known_ids"):
            part.__dict__.pop(cached, None)
        part.__dict__["_rows"] = rows
        return part

    def thinned(self, part: int) -> Data:
        """The same data with one in `part` samples of train, drawn at random; the other splits whole."""
        fewer = self.sample(max(1, self.size("train") // part), self._seed)
        fewer.__dict__["_rows"] = self._rows | {"train": fewer._rows["train"]}
        return fewer

    def alike(self) -> Data:
        """The same data with the teacher's view for the student too."""
        same = copy.copy(self)
        same._views = self._views | {"student": self._views["teacher"]}
        return same

    def batches(
        self, split: str, batch_size: int, order: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """The split in batches: in its own order, or in the given order of positions."""
        order = np.arange(self.size(split)) if order is None else order
        chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        yield from self.chunks(split, chunks)

    def chunks(
        self, split: str, chunks: Sequence[np.ndarray], pinned: bool = False
    ) -> Iterator[Batch]:
        """Batches of the given positions; `pinned` in memory that a GPU reads from directly."""
        loader = DataLoader(
            _Rows(self.dataset(split), self._of(split)),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            # Without one, each pass would draw from the user's random state; workers need a new seed.
            generator=None if self.workers else torch.Generator(),
        )
        for positions, raw in loader:
            yield Batch(split, positions, raw)

    def teacher_view(self, raw: Any) -> Any:
        """What the teacher is called with."""
        return self._view("teacher", raw)

    def student_view(self, raw: Any) -> Any:
        """What the student is called with."""
        return self._view("student", raw)

    @property
    def same_view(self) -> bool:
        """Whether teacher and student see the same thing."""
        return self._views["teacher"] is self._views["student"]

    def _view(self, who: str, raw: Any) -> Any:
        view = self._views[who]
        if view is not None:
            return view(raw)
        if isinstance(raw, Mapping):
            return {key: item for key, item in raw.items() if key not in TARGET_KEYS}
        return raw[0] if isinstance(raw, (tuple, list)) else raw

    def target(self, raw: Any) -> Any:
        """The targets of a batch; None when the data has none."""
        view = self._views["target"]
        return targets_of(raw) if view is None else view(raw)

    def targets(self, split: str) -> Tensor | None:
        """All targets of a split, in its order; None when the data has none."""
        if split not in self._targets:
            self._targets[split] = self._read(self._of(split), self.dataset(split), self.target)
        return self._targets[split]

    @cached_property
    def _targets(self) -> dict[str, Tensor | None]:
        return {}

    def ids(self, split: str) -> np.ndarray:
        """(n,) stable name of each sample of a split; no two are the same."""
        if self._ids is None:
            return np.array([f"{self._origin(split)}/{row}" for row in self._of(split)])
        if split not in self._known_ids:
            names = self._column(self._ids, "ids", split).astype(str)
            found, counts = np.unique(names, return_counts=True)
            if counts.max() > 1:
                raise InputError(
                    f"Expected one id for each sample of {split} but {str(found[counts.argmax()])!r} "
                    f"names {counts.max()} of them"
                )
            self._known_ids[split] = names
        return self._known_ids[split]

    @cached_property
    def _known_ids(self) -> dict[str, np.ndarray]:
        return {}

    def check(self, split: str) -> None:
        """Raise InputError when ids are not unique or samples are not the same each time they are asked for."""
        if self._ids is not None:
            self.ids(split)
        chosen = np.unique(np.linspace(0, self.size(split) - 1, ASKED_TWICE).astype(int))
        digests: list[list[str]] = []
        with seeded(0):
            for _ in range(2):
                digests.append([])
                for batch in self.batches(split, 1, chosen):
                    digest = hashlib.sha256()
                    _hash(digest, batch.raw)
                    digests[-1].append(digest.hexdigest())
        for row, first, second in zip(self._of(split)[chosen], *digests):
            if first != second:
                raise InputError(
                    f"Expected the same sample each time it is asked for but sample {row} of the "
                    f"{self._origin(split)} dataset changes; random augmentation goes into "
                    "Data(augment=...)"
                )

    def groups(self, split: str) -> np.ndarray | None:
        """(n,) group of each sample, or None when all are independent."""
        return None if self._groups is None else self._column(self._groups, "groups", split)

    def slices(self, split: str) -> dict[str, np.ndarray]:
        """Name -> (n,) value of each sample, for every declared slice."""
        return {
            name: self._column(column, f"slice {name!r}", split)
            for name, column in self._slices.items()
        }

    def _origin(self, split: str) -> str:
        return "train" if self._datasets[split] is None else split

    def _column(
        self, column: Column, what: str, split: str, rows: np.ndarray | None = None
    ) -> np.ndarray:
        rows, dataset = self._of(split) if rows is None else rows, self.dataset(split)
        if callable(column):
            return np.array([column(dataset[int(row)]) for row in rows])
        origin = self._origin(split)
        if origin not in column:
            raise InputError(
                f"Expected {what} for the split {origin!r} but got only {sorted(column)}"
            )
        values = np.asarray(column[origin])
        if len(values) != len(dataset):
            raise InputError(f"Expected {len(dataset)} {what} for {origin!r} but got {len(values)}")
        return values[rows]

    def fingerprint(self) -> str:
        """SHA-256 over sizes, evenly spaced samples of every split and what views make of some of them."""
        digest = hashlib.sha256()
        for split in SPLITS:
            rows = self._rows[split]
            digest.update(f"{split}:{len(rows)}".encode())
            chosen = np.unique(
                np.linspace(0, len(rows) - 1, min(len(rows), FINGERPRINT_SAMPLES)).astype(int)
            )
            for batch in self.batches(split, 256, chosen):
                _hash(digest, batch.raw)
            self._hash_views(digest, split, chosen[:FINGERPRINT_VIEWS])
        return digest.hexdigest()

    def _hash_views(self, digest: Any, split: str, positions: np.ndarray) -> None:
        """What the models are shown of some samples, and what augmentation makes of them."""
        with seeded(0):
            raw = next(iter(self.batches(split, len(positions), positions))).raw
            shown = [raw] if self.augment is None else [raw, self.augment(raw)]
            for batch in shown:
                _hash(digest, (self.teacher_view(batch), self.student_view(batch)))


def targets_of(batch: Any) -> Any:
    """The targets of a batch: a mapping's "labels" or its like, the second item of a tuple; else None.

    >>> targets_of({"x": 1, "labels": 2}), targets_of((1, 2)), targets_of(1)
    (2, 2, None)
    """
    if isinstance(batch, Mapping):
        return next((batch[key] for key in TARGET_KEYS if key in batch), None)
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def _as_it_is(batch: Any) -> Any:
    return batch


def _hash(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(str((value.dtype, tuple(value.shape))).encode())
        digest.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            if value.numel()
            else b""
        )
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(str(key).encode())
            _hash(digest, value[key])
    elif isinstance(value, (tuple, list)):
        for item in value:
            _hash(digest, item)
    else:
        digest.update(repr(value).encode())
