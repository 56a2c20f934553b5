"""What the user gave does not fit: one line that names what was expected and what came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
