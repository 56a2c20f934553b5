"""A study file: the user's own Python, run as it is, that defines `study`."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gapkit.errors import InputError, describe, unknown

if TYPE_CHECKING:
    from gapkit.study import Study


def load_study(
    path: str | Path,
    out: str | Path | None = None,
    changed: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Study:
    """Run a study file and take its `study`: a Study, or a function that returns one.

    The file is code and runs with all rights of its user: open only what you would run yourself.

    Args:
        path: of the file.
        out: the run folder; None leaves the study's own.
        changed: setting -> value in words, see `change`; "seed" goes to a `study` function that takes one.
        arguments: for a `study` function.

    Raises:
        InputError: when the file is missing, fails, or defines no study, or for a setting that there is not.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"Expected a study file but {path} does not exist")
    if not path.is_file():
        raise InputError(f"Expected a study file but {path} is a folder")
    found = getattr(_run(path), "study", None)
    if found is None:
        raise InputError(
            f"Expected {path} to define `study` (a gapkit.Study or a function returning one) but it does not"
        )
    from gapkit.study import Study

    changed = dict(changed or {})
    if inspect.isfunction(found):
        if "seed" in changed and "seed" in inspect.signature(found).parameters:
            arguments["seed"] = _value("seed", changed.pop("seed"))
        found = _called(path, found, arguments)
    if not isinstance(found, Study):
        raise InputError(
            f"Expected `study` in {path} to be a gapkit.Study but got {type(found).__name__}"
        )
    for key, value in changed.items():
        change(found, key, value)
    if out is not None:
        found.run.folder = Path(out)
    return found


SETTINGS = ("seed", "device", "reduce", "teacher_score")


def change(study: Study, key: str, value: str) -> None:
    """Set one thing about a study before anything of it is used.

    Args:
        key: "recipe.FIELD", or one of SETTINGS.
        value: in words, as typed: a number, true, null or a name.

    Raises:
        InputError: for an unknown key, or a value that does not fit.
    """
    field = key.removeprefix("recipe.")
    if key.startswith("recipe."):
        known = type(study.recipe).model_fields
        if field not in known:
            raise unknown("setting of the recipe", field, known)
        try:
            study.recipe = study.recipe.with_(**{field: _plain(value)})
        except ValidationError as error:
            raise InputError(f"Expected a fitting --set {key} but {describe(error)}") from None
        return
    if key not in SETTINGS:
        raise unknown("setting", key, [*SETTINGS, "recipe.epochs", "recipe.lr"])
    setattr(study, key, _value(key, value))


def _plain(value: str) -> Any:
    """A value as typed: JSON where it is any, else the words themselves.

    >>> _plain("5"), _plain("1e-3"), _plain("sgd")
    (5, 0.001, 'sgd')
    """
    try:
        return json.loads(value)
    except ValueError:
        return value


def _value(key: str, value: str) -> Any:
    """A setting's value, checked as Study checks it."""
    plain = _plain(value)
    if key == "seed" and not (type(plain) is int and 0 <= plain < 2**32):
        raise InputError(f"Expected a seed, an integer from 0 to 2**32 - 1, but got {value!r}")
    if key == "teacher_score" and not isinstance(plain, (int, float, type(None))):
        raise InputError(f"Expected teacher_score to be a number but got {value!r}")
    if key == "reduce":
        from gapkit.probes.recorder import check_reduce

        check_reduce(value)
        return value
    if key == "device":
        import torch

        try:
            return torch.empty(0, device=value).device
        except (RuntimeError, AssertionError) as error:
            cause = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"Expected a device of this machine but got {value!r}: {cause}"
            ) from None
    return plain


@contextlib.contextmanager
def blamed(path: str | Path) -> Iterator[None]:
    """Say in one line which line of the study file, or of a module beside it, raised.

    What raises elsewhere passes as it is, and so does an InputError.
    """
    path = Path(path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if _lines(path, error):
            raise InputError(_where(path, error)) from error
        raise


def _run(path: Path) -> Any:
    name = f"gapkit_study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"Expected a Python file, named .py, but got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that classes defined in it can be found again
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(_where(path, error)) from error
    finally:
        with contextlib.suppress(ValueError):  # the file may have changed the path itself
            sys.path.remove(folder)
    return module


def _called(path: Path, function: Any, arguments: dict[str, Any]) -> Any:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        given = ", ".join(arguments) or "no argument"
        raise InputError(
            f"Expected `study` in {path} to be callable with {given} but: {error}"
        ) from None
    try:
        return function(**arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(_where(path, error)) from error


def _where(path: Path, error: BaseException) -> str:
    """The line of the user's that failed, and why, in one line."""
    lines = _lines(path, error)
    if isinstance(error, SyntaxError) and Path(error.filename or "").is_file():
        lines.append((Path(str(error.filename)), error.lineno))
    file, line = lines[-1] if lines else (path, "?")
    cause = describe(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
    return f"Expected {file} to run but line {line} raises {type(error).__name__}: {cause}"


def _lines(path: Path, error: BaseException) -> list[tuple[Path, int | None]]:
    """(file, line) of the frames that lie in the study file or beside it, outermost first."""
    folder = path.resolve().parent
    frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename) for frame in frames]
    return [
        (path if file.resolve() == path.resolve() else file, frame.lineno)
        for file, frame in zip(files, frames, strict=True)
        if file.resolve().parent == folder
    ]
