"""Fonts: files of the user's that print the scripts which the embedded fonts lack."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from gapkit.errors import InputError

ENDINGS = (".ttf", ".otf", ".ttc", ".otc")

_LENT: ContextVar[tuple[Path, ...]] = ContextVar("lent", default=())


@contextmanager
def lent(paths: Sequence[str | Path]) -> Iterator[None]:
    """Print with these fonts too inside the block; the embedded ones come first.

    Raises:
        InputError: for a file that is missing or no font.
    """
    files = tuple(Path(path) for path in paths)
    for file in files:
        glyphs(file)
    token, log = _LENT.set(files), logging.getLogger("matplotlib.font_manager")
    level = log.level
    if files:  # it says of every figure that they have no bold face
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        _LENT.reset(token)


@cache
def glyphs(path: Path) -> frozenset[int]:
    """Code points that a font has a shape for.

    Raises:
        InputError: for a file that is missing or no font.
    """
    from matplotlib.ft2font import FT2Font

    try:
        if path.suffix.lower() in ENDINGS:
            return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        pass
    raise InputError(f"Expected a font file, {', '.join(ENDINGS)}, but got {str(path)!r}")


def covers(code: int) -> bool:
    """Whether a font that was lent has a shape for a code point."""
    return any(code in glyphs(path) for path in _LENT.get())


def families() -> list[str]:
    """Names of the fonts lent, so that figures leave room for their words."""
    return [_family(path) for path in _LENT.get()]


@cache
def _family(path: Path) -> str:
    """The name of a font, by which matplotlib knows it from here on."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    fontManager.addfont(str(path))
    return FT2Font(str(path)).family_name


def fingerprints() -> dict[str, str]:
    """File name -> hash of the fonts lent: which bytes a report has depends on them."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _LENT.get()}


@contextmanager
def folder() -> Iterator[list[str]]:
    """A folder with nothing but the fonts lent, as the typesetter wants them; none without any."""
    if not _LENT.get():
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="gapkit-fonts-") as found:
        for number, path in enumerate(_LENT.get()):
            shutil.copyfile(path, Path(found) / f"{number}{path.suffix}")
        yield [found]
