"""PDF: a Report typeset with Typst, in memory, tagged (PDF/UA-1), the same bytes for the same input."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from gapkit.errors import InputError
from gapkit.reports.fonts import folder
from gapkit.reports.look import printable
from gapkit.reports.report import Report
from gapkit.runs import write

ZERO_WIDTH_SPACE, LEFT_TO_RIGHT_MARK = "\u200b", "\u200e"
LONG_RUN = 24
_SEPARATORS = re.compile(r"(?<=[._/\\:-])(?=\w)")
_GLUED = re.compile(r"(?<=\d) (?=%|points\b|nats\b)|(?<=\bn) (?== )|(?<=\bn =) (?=\d)")
_BOUNDS = re.compile(r"\[([−+]?[\d.]+), ([−+]?[\d.]+)\]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]+")
_RUNS = re.compile(rf"[^\s\u200b]{{{LONG_RUN}}}(?=[^\s\u200b])")


def breakable(text: str) -> str:
    """The text with invisible break points after the dots of long words, and in runs without any.

    >>> breakable("encoder.layers.11.attention.output").count(ZERO_WIDTH_SPACE)
    4
    >>> breakable("plain words, 3.14")
    'plain words, 3.14'
    """

    def loosen(match: re.Match[str]) -> str:
        parted = _SEPARATORS.sub(ZERO_WIDTH_SPACE, match.group())
        return _RUNS.sub(lambda run: run.group() + ZERO_WIDTH_SPACE, parted)

    return re.sub(rf"\S{{{LONG_RUN},}}", loosen, text)


def page_data(report: Report) -> dict[str, Any]:
    """What the template reads: the report's words, each fit for paper, and its date in parts."""
    date = _date(report.created)
    data = _clean(report.model_dump(mode="json", exclude={"ladder"}))
    made = f"Study {printable(report.study)}"
    when = f", {date:%d %B %Y}".replace(" 0", " ") if date else ""
    data["subtitle"] = _settled(breakable(made + when))
    data["running"] = _settled(_shortened(printable(report.study), 60))
    data["title"] = _settled(printable(report.title))
    data["date"] = (
        {"year": date.year, "month": date.month, "day": date.day} if date is not None else None
    )
    return data


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _settled(breakable(glued(printable(value))))
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return value


def _settled(text: str) -> str:
    """The text with a mark after every run of letters from right to left, so that what follows is not drawn into it."""
    return _RIGHT_TO_LEFT.sub(lambda run: run.group() + LEFT_TO_RIGHT_MARK, text)


def glued(text: str) -> str:
    """Numbers that stay with their units, and intervals in one piece."""
    return _BOUNDS.sub("[\\1,\u00a0\\2]", _GLUED.sub("\u00a0", text))


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _date(created: str) -> datetime | None:
    try:
        return datetime.fromisoformat(created) if created else None
    except ValueError:
        raise InputError(f"Expected an ISO date as the report's date but got {created!r}") from None


def compile_pdf(report: Report, figures: Mapping[str, bytes]) -> bytes:
    """The PDF as bytes.

    Args:
        figures: name -> SVG of every figure that the report refers to.

    Raises:
        InputError: when a figure is missing or the date is none.
    """
    check_drawings(report, figures)
    import typst

    compiled: Any = typst.compile  # its stubs do not know sources that are held in memory

    date = _date(report.created)
    stamp = 0 if date is None else int(date.replace(tzinfo=UTC).timestamp())
    sources: dict[str, Any] = {
        "main": (files("gapkit.reports") / "assets" / "report.typ").read_bytes(),
    }
    sources |= {f"figures/{name}.svg": svg for name, svg in figures.items()}
    data = page_data(report)
    with folder() as fonts:
        look: dict[str, Any] = {"ignore_system_fonts": True, "font_paths": fonts}
        data["floating"] = _floating(data, sources, look)
        return compiled(
            sources | {"report.json": _json(data)},
            pdf_standards=["ua-1"],
            timestamp=stamp,
            **look,
        )


def _floating(
    data: Mapping[str, Any], sources: Mapping[str, Any], look: Mapping[str, Any]
) -> list[str]:
    """Names of the figures that did not fit where they stand: at the head of the next page, text fills the room before.

    One is found at a time, as letting it float moves what follows.
    """
    import typst

    query: Any = typst.query
    floating: list[str] = []
    while True:
        source = _json({**data, "floating": floating})
        found = query({**sources, "report.json": source}, "<landed>", field="value", **look)
        moved = _moved(json.loads(found), floating)
        if moved is None:
            return floating
        floating.append(moved)


def _moved(landed: Sequence[Mapping[str, Any]], floating: Sequence[str]) -> str | None:
    """The first figure yet to float: one that leads a page, or that lies before a figure it should follow."""
    reached = 0
    for figure in landed:
        before = figure["page"] < reached
        reached = max(reached, figure["page"])
        if figure["name"] not in floating and (figure["leads"] or before):
            return str(figure["name"])
    return None


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def check_drawings(report: Report, figures: Mapping[str, bytes]) -> None:
    """Raise InputError when a figure that the report refers to has no drawing."""
    missing = [figure.name for figure in report.figures if figure.name not in figures]
    if missing:
        raise InputError(f"Expected a drawing for every figure but got none for {missing[0]!r}")


def write_pdf(report: Report, figures: Mapping[str, bytes], path: str | Path) -> Path:
    """Write the report as a PDF; readers of the path see the old file or the whole new one.

    Raises:
        InputError: see compile_pdf; also when the folder does not exist.
    """
    return replace_file(path, compile_pdf(report, figures))


def replace_file(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all, in a folder that is there.

    Raises:
        InputError: when the folder does not exist or the path is a folder.
    """
    target = Path(path)
    check_target(target)
    write(target, content)
    return target


def check_target(target: Path) -> None:
    """Raise InputError when a file cannot be put there."""
    if not target.parent.is_dir():
        raise InputError(f"Expected an existing folder for the report but got {target.parent}")
    if target.is_dir():
        raise InputError(f"Expected a file for the report but {target} is a folder")
