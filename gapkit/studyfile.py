"""A study file: the user's own Python, run as it is, that defines `study`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapkit.errors import InputError

if TYPE_CHECKING:
    from gapkit.study import Study


def load_study(path: str | Path, out: str | Path | None = None, **arguments: Any) -> Study:
    """Run a study file and take its `study`: a Study, or a function that returns one.

    The file is code and runs with all rights of its user: open only what you would run yourself.

    Args:
        path: of the file.
        out: the run folder; None leaves the study's own.
        arguments: for a `study` function.

    Raises:
        InputError: when the file is missing, fails, or defines no study.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Expected a study file but {path} does not exist")
    found = getattr(_run(path), "study", None)
    if found is None:
        raise InputError(
            f"Expected {path} to define `study` (a gapkit.Study or a function returning one) but it does not"
        )
    from gapkit.study import Study

    if inspect.isfunction(found):
        found = _called(path, found, arguments)
    if not isinstance(found, Study):
        raise InputError(
            f"Expected `study` in {path} to be a gapkit.Study but got {type(found).__name__}"
        )
    if out is not None:
        found.run.folder = Path(out)
    return found


def _run(path: Path) -> Any:
    name = f"gapkit_study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"Expected a Python file but got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that classes defined in it can be found again
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_where(path, error)) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _called(path: Path, function: Any, arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_where(path, error)) from error


def _where(path: Path, error: Exception) -> str:
    """The line of the study file that failed, and why, in one line."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else "?")
    cause = " ".join(str(error).split())
    return f"Expected {path} to run but line {line} raises {type(error).__name__}: {cause}"
