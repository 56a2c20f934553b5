"""The run folder: atomic writes, JSON with arrays beside it, a manifest, one user at a time."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from gapkit import __version__
from gapkit.errors import InputError, describe
from gapkit.record import Record

FORMAT = 1
HEADER = "gapkit"
OPENING = (".lock", "manifest.json", ".manifest.json.")  # all that a refused first call leaves
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "lightning-fabric", "pydantic")

R = TypeVar("R", bound=Record)


class Run:
    """One study's folder. Everything in it is JSON, safetensors, or a checkpoint of plain tensors.

    >>> import tempfile
    >>> from gapkit.plans import Cost
    >>> run = Run(tempfile.mkdtemp())
    >>> run.open({"study": "digits"})
    >>> run.save("cost", Cost(seconds=2.0), request={"budget": 8})
    >>> run.load("cost", Cost, request={"budget": 8}).seconds
    2.0
    >>> run.load("cost", Cost, request={"budget": 9}) is None
    True
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = {}

    def path(self, *parts: str) -> Path:
        """A path inside the folder; leaving it is an error."""
        path = self.folder.joinpath(*parts)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(f"Expected a path inside the run folder but got {'/'.join(parts)!r}")
        return path

    def open(self, identity: Mapping[str, str]) -> None:
        """Create the folder, or check that it belongs to this study and this version can read it.

        A folder in which nothing was made yet (the first call was refused, say) is taken over.

        Args:
            identity: what makes the study itself, word by word (name, data, weights, recipe ...).

        Raises:
            InputError: for another study's folder, a newer version's, or one with a broken manifest.
        """
        self._refuse_strangers()
        path = self.path("manifest.json")
        if path.exists() and self.check(identity):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manifest = {
            "format": FORMAT,
            "gapkit": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in LIBRARIES},
            "identity": dict(identity),
        }
        write(path, json.dumps(self.manifest, indent=2, ensure_ascii=False).encode())

    def check(self, identity: Mapping[str, str]) -> bool:
        """Whether the folder is this study's; an error when it holds another's work. Writes nothing."""
        manifest = _read_json(self.path("manifest.json"), "restore it or choose another --out")
        found, theirs = manifest.get("format"), manifest.get("identity")
        if not isinstance(found, int) or not isinstance(theirs, dict):
            raise InputError(f"Expected a gapkit manifest in {self.folder} but got something else")
        if found > FORMAT:
            raise InputError(
                f"Expected a run folder of format {FORMAT} or older but {self.folder} has format {found}, "
                f"written by gapkit {manifest.get('gapkit')}; this is gapkit {__version__}"
            )
        differ = [key for key in identity if theirs.get(key) != identity[key]]
        if differ and not self._work():
            return False
        if differ:
            shown = "; ".join(
                f"{key} was {_short(theirs.get(key))}, is {_short(identity[key])}" for key in differ
            )
            raise InputError(
                f"Expected a run folder of this study but {self.folder} belongs to another ({shown}); "
                "choose another --out"
            )
        self.manifest = manifest
        return True

    def _work(self) -> bool:
        """Whether anything was made here, finished or not."""
        return any(
            path.is_file() and not path.name.startswith(OPENING) for path in self.folder.rglob("*")
        )

    def _refuse_strangers(self) -> None:
        """An error for a folder that holds something but no manifest; it is left as it is."""
        if not self.folder.exists() or self.path("manifest.json").exists():
            return
        names = sorted(item.name for item in self.folder.iterdir())
        strangers = [name for name in names if not name.startswith(OPENING)]
        if strangers:
            raise InputError(
                f"Expected an empty or a gapkit run folder but {self.folder} holds "
                f"{', '.join(strangers[:3])} and no manifest.json"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second process is refused."""
        from filelock import FileLock, Timeout

        self._refuse_strangers()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Expected a free run folder but {self.folder} is in use by another process"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def save(self, name: str, record: Record, request: Mapping[str, Any] | None = None) -> None:
        """Write a record as NAME.json, its arrays beside it; readers see the old or the new one whole."""
        from safetensors.numpy import save

        arrays: dict[str, Any] = {}
        body = json.loads(record.model_dump_json(context={"arrays": arrays}))
        blob = save(arrays) if arrays else b""
        digest = hashlib.sha256(blob).hexdigest()
        beside = f"{Path(name).name}-{digest[:12]}.safetensors" if arrays else ""
        header = {
            "format": FORMAT,
            "type": type(record).__name__,
            "request": dict(request or {}),
            "arrays": beside,
            "sha256": digest if arrays else "",
        }
        target = self.path(f"{name}.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        if arrays:
            write(target.parent / beside, blob)
        write(target, json.dumps({HEADER: header} | body, indent=2, ensure_ascii=False).encode())
        for stale in target.parent.glob(f"{target.stem}-*.safetensors"):
            if stale.name != beside and len(stale.stem) == len(target.stem) + 13:
                stale.unlink(missing_ok=True)

    def load(self, name: str, kind: type[R], request: Mapping[str, Any] | None = None) -> R | None:
        """Read a record back; None when there is none, or when it answers another request.

        Raises:
            InputError: when the file is cut off, its arrays are gone or changed, or a field is wrong.
        """
        path = self.path(f"{name}.json")
        if not path.exists():
            return None
        body = _read_json(path, "delete it to have it made again")
        header = body.pop(HEADER, {})
        if not isinstance(header, dict):
            raise InputError(f"Expected an object {HEADER!r} in {path} but got {header!r}")
        if (
            request is not None
            and header
            and header.get("request") != json.loads(json.dumps(dict(request)))
        ):
            return None
        arrays = self._arrays(path, header)
        try:
            return kind.model_validate(body, context={"arrays": arrays})
        except ValidationError as error:
            raise InputError(
                f"Expected {path} to hold a {kind.__name__} but {describe(error)}"
            ) from None

    def _arrays(self, path: Path, header: dict[str, Any]) -> dict[str, Any]:
        from safetensors.numpy import load

        if not header.get("arrays"):
            return {}
        beside = self.path(str(path.parent.relative_to(self.folder)), str(header["arrays"]))
        blob = beside.read_bytes() if beside.exists() else b""
        if hashlib.sha256(blob).hexdigest() != header.get("sha256"):
            raise InputError(
                f"Expected {beside} to hold the arrays of {path.name} but it is missing or changed; "
                f"delete {path} to have it made again"
            )
        return load(blob)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; on a full disk the old one stays."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(content)
        os.replace(half, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def _read_json(path: Path, mend: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected complete JSON in {path} but it cannot be read ({error}); {mend}"
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"Expected a JSON object in {path} but got {type(value).__name__}")
    return value


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
