"""Checkpoint: the state of a training on disk, whole or not at all, and the random states it needs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

HALF = ".half-checkpoint.pt"
NAME = re.compile(r"checkpoint-(\d{9,})-([0-9a-f]{16})\.pt")
UNSYNCABLE = (errno.EINVAL, errno.ENOTSUP)  # file systems whose folders cannot be synced

log = logging.getLogger("gapkit")


class Checkpoints:
    """The last two checkpoints of one training: written whole or not at all, each known by its hash.

    They lie in the folder as checkpoint-STEP-HASH.pt. A state holds tensors, numbers, strings, lists
    and dicts only: nothing else is ever unpickled.

    >>> import tempfile
    >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()))
    >>> checkpoints.load() is None
    True
    >>> for step in (10, 20, 30):
    ...     path = checkpoints.save({"weight": torch.full((2,), float(step))}, step)
    >>> path.name[:21], checkpoints.newest_step(), len(list(checkpoints.folder.iterdir()))
    ('checkpoint-000000030-', 30, 2)
    >>> checkpoints.load()
    {'weight': tensor([30., 30.])}
    >>> checkpoints.clear()
    >>> list(checkpoints.folder.iterdir())
    []
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @property
    def half(self) -> Path:
        """Where a checkpoint is written before it counts; a killed process leaves it behind."""
        return self.folder / HALF

    def save(self, state: Mapping[str, Any], step: int) -> Path:
        """Write the state after `step` steps; on any failure the older checkpoints stay as they are.

        Those of later steps belong to a course that was given up and go with the ones before the last.

        Raises:
            OSError: with the file's name, when the disk is full or the folder cannot be written.
        """
        packed = io.BytesIO()
        torch.save(dict(state), packed)
        content = packed.getbuffer()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.cleaning():
            with self.half.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return self._settle(step, hashlib.sha256(content).hexdigest())

    def keep(self, step: int) -> Path:
        """Take over the half file, whoever wrote it (a strategy that shards), as the one of `step`.

        Raises:
            OSError: as by `save`.
        """
        with self.cleaning():
            with self.half.open("rb") as file:
                digest = _sha256(file)
                os.fsync(file.fileno())
            return self._settle(step, digest)

    @contextlib.contextmanager
    def cleaning(self) -> Iterator[None]:
        """Remove the half file when writing fails; an OSError without a file's name gets it."""
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(OSError):
                self.half.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(self.half)
            raise

    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint, on the CPU; None when there is none.

        A damaged one is said in a warning and removed: there is nothing to be had from it.

        Raises:
            OSError, MemoryError, torch.OutOfMemoryError: what says nothing about the checkpoint.
        """
        damaged: list[tuple[Path, str]] = []
        state, course = None, "starting anew"
        for step, path in self._found():
            try:
                state = _read(path)
            except FileNotFoundError:
                continue  # another process of the same training found it damaged
            except _Damaged as error:
                damaged.append((path, str(error)))
                continue
            course = f"going on from the one of step {step}"
            break
        for path, cause in damaged:
            path.unlink(missing_ok=True)
            log.warning("checkpoint %s is damaged (%s) and removed; %s", path, cause, course)
        return state

    def newest_step(self) -> int | None:
        """The step of the newest checkpoint by its name, unread; None when there is none."""
        return next((step for step, _ in self._found()), None)

    def clear(self) -> None:
        """Remove all of them, and what a killed process left half: the training is finished."""
        for path in (*(path for _, path in self._found()), self.half):
            path.unlink(missing_ok=True)

    def _found(self) -> list[tuple[int, Path]]:
        """(step, file) of all that have a checkpoint's name, newest first."""
        found = []
        for path in self.folder.glob("checkpoint-*.pt"):
            name = NAME.fullmatch(path.name)
            if name and path.is_file():
                found.append((int(name[1]), path))
        return sorted(found, reverse=True)

    def _settle(self, step: int, digest: str) -> Path:
        """Give the synced half file its name, for good, and remove all others but the last before it."""
        path = self.folder / f"checkpoint-{step:09d}-{digest[:16]}.pt"
        os.replace(self.half, path)
        _sync(self.folder)
        others = [(found, other) for found, other in self._found() if other != path]
        before = [other for found, other in others if found < step]
        for _, other in others:
            if other not in before[:1]:
                other.unlink(missing_ok=True)
        return path


class _Damaged(Exception):
    """A checkpoint that is not what was written; the message is one line."""


def _read(path: Path) -> dict[str, Any]:
    """The state in a file whose content has the hash of its name; _Damaged for any other."""
    try:
        with path.open("rb") as file:
            if not path.stem.endswith(_sha256(file)[:16]):
                raise _Damaged("its content does not have the hash of its name")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (_Damaged, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise _Damaged("the disk cannot read it") from error
    except Exception as error:
        if "can't allocate memory" in str(error):  # torch's CPU allocator has no class of its own
            raise
        cause = " ".join(str(error).split())[:160]
        raise _Damaged(f"{type(error).__name__}: {cause}") from error
    if not isinstance(state, dict):
        raise _Damaged(f"it holds no state but {type(state).__name__}")
    return state


def _sync(folder: Path) -> None:
    """Make a file's new name outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise
    finally:
        os.close(handle)


def _sha256(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def random_states() -> dict[str, Any]:
    """The random states of torch (CPU, CUDA once in use), numpy's global one and Python's.

    Tensors, numbers, strings and lists only, so that a checkpoint can hold them.

    >>> states = random_states()
    >>> first = torch.rand(2), np.random.randn(), random.gauss()
    >>> restore_random_states(states)
    >>> again = torch.rand(2), np.random.randn(), random.gauss()
    >>> torch.equal(first[0], again[0]), first[1:] == again[1:]
    (True, True)
    """
    legacy = np.random.get_state(legacy=False)
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
        "numpy": [
            legacy["bit_generator"],
            torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            int(legacy["state"]["pos"]),
            int(legacy["has_gauss"]),
            float(legacy["gauss"]),
        ],
        "python": [version, list(words), [] if gauss is None else [gauss]],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Go on drawing as if nothing had been drawn since `random_states`.

    CUDA's are restored only when as many devices are there as then.
    """
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, key, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
