"""What the user gave does not fit: one line that names what was expected and what came."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Something given by the user cannot be used; the message is one line and says how to mend it.

    The command line prints it and exits with 2.

    >>> raise InputError("Expected a size of the family but got 4")
    Traceback (most recent call last):
    gapkit.errors.InputError: Expected a size of the family but got 4
    """


def unknown(kind: str, name: object, known: Iterable[object]) -> InputError:
    """The error for a name that is not among the known ones, with the nearest of them.

    >>> str(unknown("loss", "kll", ["kl", "dist"]))
    "Expected a known loss but got 'kll'; nearest: 'kl'; known: 'kl', 'dist'"
    """
    names = [str(item) for item in known]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    shown = ", ".join(repr(item) for item in names[:12]) + (", ..." if len(names) > 12 else "")
    hint = f"; nearest: {', '.join(repr(item) for item in near)}" if near else ""
    return InputError(f"Expected a known {kind} but got {str(name)!r}{hint}; known: {shown}")


def describe(error: ValidationError) -> str:
    """A pydantic error in one line: where, what was expected, what came."""
    parts = []
    found = error.errors(include_url=False)
    places = [item["loc"] for item in found]
    for item in found:
        place = item["loc"]
        if any(len(other) > len(place) and other[: len(place)] == place for other in places):
            continue  # a container is at fault only because of what it holds
        *parents, _ = place or ("",)
        unknown = item["type"] == "extra_forbidden"
        where = ".".join(str(part) for part in (parents if unknown else place))
        said = f"Expected a known field but got {place[-1]!r}" if unknown else _expected(item)
        parts.append(f"{where}: {said}" if where else said)
    return "; ".join(parts[:5])


def _expected(item: Any) -> str:
    """One mistake that pydantic found, in the words of all others."""
    said = item["msg"].removeprefix("Value error, ").split(", unable to parse")[0]
    said = said.replace("Input should be ", "Expected ").replace("Input should ", "Expected it to ")
    said = re.sub(r"^Expected (?=greater|less)", "Expected a number ", said)
    if "got" in said:
        return said
    came = item.get("input")
    return said if isinstance(came, (dict, list)) else f"{said} but got {came!r}"
