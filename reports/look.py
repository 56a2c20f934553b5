"""The look of every figure: colors of the roles, fonts, a blank figure, and SVG bytes that never differ."""

from __future__ import annotations

import functools
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gapkit.reports.fonts import covers, families
from gapkit.wording import Wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

TEXT_WIDTH = 6.7  # inches between the margins of the page
SCORE = Wording(unit="share", score_name="score")

# Okabe and Ito (2008): told apart with any common color blindness. One role, one color, everywhere.
ROLES = {
    "teacher": "#0072B2",
    "student": "#D55E00",
    "reached": "#009E73",
    "assistant": "#CC79A7",
    "untrained": "#7F7F7F",
}
# Beside the color, so that a print in gray tells them apart too.
MARKERS = {"teacher": "s", "student": "o", "reached": "^", "assistant": "D", "untrained": "x"}
INK, QUIET, RULE = "#222222", "#666666", "#D9D9D9"
ON_COLOR = "#111111"  # words on a colored cell: they stay dark on a dark page


def on(color: Sequence[float]) -> str:
    """White or dark, whichever is read better on a color (WCAG 2.2, relative luminance and contrast).

    >>> on((0.0, 0.2, 0.5, 1.0)), on((0.4, 0.7, 0.9, 1.0))
    ('white', '#111111')
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.056 else ON_COLOR


_METRIC_FONT, PRINTED_FONT = "STIXGeneral", "Libertinus Serif"
_FAMILIES = (_METRIC_FONT, "DejaVu Sans", "DejaVu Sans Mono")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gapkit",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def look() -> Iterator[None]:
    """matplotlib in the house look inside the block; the user's settings come back after it."""
    import matplotlib

    with matplotlib.rc_context(_STYLE | {"font.family": [*_FAMILIES, *families()]}):
        yield


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """A drawing function that draws in the house look, whoever calls it."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with look():
            return draw(*args, **kwargs)

    return drawn


def own(ax: Axes | None, height: float = 2.7) -> Axes:
    """The axes given, or those of a new pyplot figure that a notebook shows."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(TEXT_WIDTH, height), layout="constrained")[1]


def blank(height: float, columns: int = 1, **layout: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the text, `height` inches high, with a row of axes; no pyplot state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(TEXT_WIDTH, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **layout)
    return figure, list(axes[0])


def render(figure: Figure) -> bytes:
    """The figure as SVG with real text; the same figure gives the same bytes.

    Words are laid out with a Times-like font of matplotlib's and named in the report's body font,
    whose widths are close, so that they print and copy as text.
    """
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    font = re.compile(r"""(<text[^>]*style="[^"]*)'""" + _METRIC_FONT + "'")
    return font.sub(rf"\1'{PRINTED_FONT}'", buffer.getvalue().decode()).encode()


@cache
def _glyphs() -> frozenset[int]:
    """Code points of DejaVu Sans Mono, which the typesetter embeds too and falls back on."""
    from pathlib import Path

    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    return frozenset(FT2Font(str(path)).get_charmap())


def printable(text: str) -> str:
    """The text with every character that would vanish on paper written as U+XXXX.

    Line breaks and tabs become spaces; CJK and emoji, unless a font for them is lent, control characters and
    those that turn the direction of what follows are spelled out.

    >>> printable("net → 網")
    'net → U+7DB2'
    >>> printable("abc" + chr(0x202E) + "def")
    'abcU+202Edef'
    """
    spaced = re.sub(r"[\t\r\n]+", " ", text)
    glyphs = _glyphs()
    return "".join(
        char
        if (ord(char) in glyphs or covers(ord(char))) and not hidden(char)
        else f"U+{ord(char):04X}"
        for char in spaced
    )


def hidden(char: str) -> bool:
    """Whether a character has no shape of its own: controls, direction marks, separators of lines."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
