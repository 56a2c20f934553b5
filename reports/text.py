"""Text: a Report in a terminal of 80 columns, and as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from gapkit.reports.pdf import replace_file
from gapkit.reports.report import Block, Figure, Report, Rung, Table

WIDTH, LABEL, BAR = 80, 30, 24
NO_BREAK = "\xa0"
COMMAND = (
    r"gapkit [a-z]+(?: --[a-z-]+)*|study\.[a-z]+\([a-z]*\)"  # between backticks: typeset as code
)
SIGNS = {"passed": "✓", "failed": "✗", "open": "○"}


def terminal(report: Report, path: str | Path | None = None) -> str:
    """The report in brief: verdict, ladder as bars, plan, what was reached, and where the PDF lies.

    Plain text of at most 80 columns (a long path is left whole); control characters are shown as
    U+XXXX, so that a name cannot move the cursor.
    """
    parts = [_wrapped(f"{report.title}"), "", _wrapped(report.verdict)]
    if report.ladder:
        parts += ["", "Validation decides; on it, from the student to its teacher:"]
        parts += [*(_bar(rung, start, report.ladder) for rung, start in _starts(report.ladder))]
    parts += ["", _wrapped(f"planned  {report.planned}", "         ")]
    parts += [_wrapped(f"reached  {report.reached}", "         ")]
    if path is not None:
        parts += [f"report   {_safe(str(path))}"]
    return "\n".join(parts)


def _safe(text: str) -> str:
    return "".join(
        char if char.isprintable() else " " if char in "\t\r\n" else f"U+{ord(char):04X}"
        for char in text
    )


def _wrapped(text: str, indent: str = "") -> str:
    """The text in lines of 80 columns, none of which breaks "n = 5", "[1, 2]" or "5 %"."""
    kept = re.sub(
        r"n = \d|\[[^\[\]]{,24}\]|\d %", lambda found: found[0].replace(" ", NO_BREAK), _safe(text)
    )
    return textwrap.fill(kept, WIDTH, subsequent_indent=indent).replace(NO_BREAK, " ")


def _starts(ladder: tuple[Rung, ...]) -> list[tuple[Rung, float]]:
    """Every rung with the level that it starts from."""
    level, found = 0.0, []
    for rung in ladder:
        found.append((rung, 0.0 if rung.end else level))
        level = rung.value if rung.end else level + rung.value
    return found


def _bar(rung: Rung, start: float, ladder: tuple[Rung, ...]) -> str:
    levels = [at + item.value for item, at in _starts(ladder)] + [0.0]
    low, high = min(levels), max(levels)
    scale = BAR / (high - low) if high > low else 0.0
    ends = sorted((start, start + rung.value))
    first, last = (round((end - low) * scale) for end in ends)
    drawn = ("█" if rung.end else "▓") * (last - first) or "│"
    label = _safe(rung.label)
    label = label if len(label) <= LABEL else label[: LABEL - 1] + "…"
    return f"{label:<{LABEL}} {' ' * first + drawn:<{BAR}} {_safe(rung.text)}"


def markdown(report: Report, figures: Mapping[str, str] | None = None) -> str:
    """The whole report as Markdown; every word of it is escaped.

    Args:
        figures: figure name -> link to its drawing; a figure without one is given by its words.
    """
    lines = [f"# {escape(report.title)}", ""]
    if report.headline:
        lines += [f"**{escape(report.headline)}**", ""]
    lines += [escape(report.verdict), ""]
    if report.facts:
        rows = tuple((fact.label, fact.value, fact.note) for fact in report.facts)
        lines += [*_table(("Key figure", "Value", "Interval and source"), rows), ""]
    if report.opener is not None:
        lines += [*_figure(report.opener, figures or {}), ""]
    if report.next:
        steps = tuple((step.do, step.gain, step.price) for step in report.next)
        lines += [*_table(("What next", "Expected gain", "Price"), steps), ""]
    if report.marks:
        marks = " · ".join(f"{SIGNS[mark.state]} {escape(mark.name)}" for mark in report.marks)
        lines += [f"Quality gates: {marks}", ""]
    for section in report.sections:
        lines += [f"{'#' * (section.level + 1)} {escape(section.heading)}", ""]
        for block in section.blocks:
            lines += [*_block(block, figures or {}), ""]
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block, figures: Mapping[str, str]) -> list[str]:
    if isinstance(block, Table):
        return [f"*{escape(block.caption)}*", "", *_table(block.columns, block.rows, block.right)]
    if isinstance(block, Figure):
        return _figure(block, figures)
    if block.kind == "bullets":
        return [f"- {escape(item)}" for item in block.items]
    if block.kind == "command":
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
        return [fence, block.text, fence]
    lead = f"**{escape(block.lead)}** " if block.lead else ""
    return [(lead + escape(block.text)).strip()]


def _figure(figure: Figure, figures: Mapping[str, str]) -> list[str]:
    if figure.name not in figures:
        return [f"*Figure: {escape(figure.caption)}* {escape(figure.alt)}"]
    return [f"![{escape(figure.alt)}](<{figures[figure.name]}>)", "", f"*{escape(figure.caption)}*"]


def _table(
    columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], right: tuple[int, ...] = ()
) -> list[str]:
    rule = ["---:" if index in right else "---" for index in range(len(columns))]
    cells = [columns, tuple(rule), *rows]
    return [
        "| " + " | ".join(cell if row == 1 else escape(cell) for cell in line) + " |"
        for row, line in enumerate(cells)
    ]


def escape(text: str) -> str:
    """The text on one line, with Markdown's and HTML's special characters escaped.

    Only a command of gapkit between backticks stays as it is.

    >>> escape("a*b | <c>")
    'a\\\\*b \\\\| \\\\<c\\\\>'
    >>> escape("`gapkit plan` settles it, `a` does not")
    '`gapkit plan` settles it, \\\\`a\\\\` does not'
    """
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", _safe(text))
    return re.sub(rf"\\`({COMMAND})\\`", r"`\1`", escaped)


def write_markdown(report: Report, figures: Mapping[str, bytes], path: str | Path) -> Path:
    """Write the Markdown, and its drawings beside it in a folder NAME_figures.

    Raises:
        InputError: when the path's folder does not exist.
    """
    target = Path(path)
    folder = target.with_name(f"{target.stem}_figures")
    replace_file(target, b"")
    if figures:
        folder.mkdir(exist_ok=True)
    for name, svg in figures.items():
        replace_file(folder / f"{name}.svg", svg)
    links = {name: f"{folder.name}/{name}.svg" for name in figures}
    return replace_file(target, markdown(report, links).encode())
