"""HTML: a Report as one self-contained page, without scripts, for light and dark screens and screen readers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape as escaped
from importlib.resources import files
from pathlib import Path

from gapkit.reports.look import INK, PRINTED_FONT, QUIET, RULE, hidden
from gapkit.reports.pdf import check_drawings, glued, replace_file
from gapkit.reports.report import Block, Figure, Mark, Next, Report, Table
from gapkit.reports.text import COMMAND, SIGNS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SERIFS = "'STIX Two Text', 'Times New Roman', 'Liberation Serif'"  # as narrow as the one drawn with
_THEMED = {INK: "var(--ink)", QUIET: "var(--quiet)", RULE: "var(--rule)"}


def page(report: Report, figures: Mapping[str, bytes]) -> str:
    """The whole page.

    Every word is escaped, and characters without a shape (controls, direction marks) are written as
    U+XXXX; all others are left to the reader's own fonts. The page loads nothing and runs nothing.

    Args:
        figures: name -> SVG of every figure that the report refers to.

    Raises:
        InputError: when a figure is missing.
    """
    check_drawings(report, figures)
    style = (files("gapkit.reports") / "assets" / "report.css").read_text(encoding="utf-8")
    body = [
        f"<header><h1>{words(report.title)}</h1><p>Study {words(report.study)}{_dated(report)}</p></header>",
        '<main id="main">',
        *_front(report, figures),
        _contents(report),
    ]
    for index, section in enumerate(report.sections):
        tag = f"h{section.level + 1}"
        body.append(f'<{tag} id="s{index}">{words(section.heading)}</{tag}>')
        body += [shown(block, figures) for block in section.blocks]
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{words(report.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>",
        '<a class="skip" href="#main">Skip to the verdict</a>',
        *body,
        "</main>\n</body>\n</html>\n",
    ])  # fmt: skip


def words(text: str) -> str:
    """Text that is safe inside an element or a quoted attribute, numbers and intervals in one piece.

    >>> words('<a> & "b"' + chr(0x202E))
    '&lt;a&gt; &amp; &quot;b&quot;U+202E'
    """
    spaced = glued(re.sub(r"[\t\r\n]+", " ", text))
    return escaped("".join(f"U+{ord(char):04X}" if hidden(char) else char for char in spaced))


def prose(text: str) -> str:
    """Text that is safe inside an element, with commands of gapkit between backticks as code.

    >>> prose("`gapkit plan` settles <it>, `a` does not")
    '<code>gapkit plan</code> settles &lt;it&gt;, `a` does not'
    """
    return re.sub(rf"`({COMMAND})`", r"<code>\1</code>", words(text))


def _dated(report: Report) -> str:
    return f", {words(report.created[:10])}" if report.created else ""


def _front(report: Report, figures: Mapping[str, bytes]) -> Iterator[str]:
    """What page one of the PDF holds."""
    yield '<h2 id="verdict">Verdict</h2>'
    if report.headline:
        yield f'<p class="headline">{words(report.headline)}</p>'
    if report.facts:
        facts = "".join(
            f'<div class="{fact.role}"><dt>{words(fact.label)}</dt><dd><strong>{words(fact.value)}</strong> '
            f"<small>{words(fact.note)}</small></dd></div>"
            for fact in report.facts
        )
        yield f'<dl class="facts">{facts}</dl>'
    if report.opener is not None:
        yield _figure(report.opener, figures)
    if report.next:
        yield _next(report.next)
    if report.marks:
        yield _marks(report.marks)
    yield f"<p>{prose(report.verdict)}</p>"


def _next(steps: tuple[Next, ...]) -> str:
    rows = "".join(
        f"<tr><td>{prose(step.do)}</td><td>{words(step.gain)}</td><td>{words(step.price)}</td></tr>"
        for step in steps
    )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("What next", "Expected gain", "Price")
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _marks(marks: tuple[Mark, ...]) -> str:
    items = "".join(
        f'<li class="{mark.state}"><span aria-hidden="true">{SIGNS[mark.state]}</span> {words(mark.name)}'
        f'<span class="unseen">: {mark.state}</span></li>'
        for mark in marks
    )
    return f'<ul class="marks" aria-label="Quality gates">{items}</ul>'


def _contents(report: Report) -> str:
    links = "".join(
        f'<li><a href="#s{index}">{words(section.heading)}</a></li>'
        for index, section in enumerate(report.sections)
        if section.level == 1
    )
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else ""


def shown(block: Block, figures: Mapping[str, bytes]) -> str:
    """One block of a section."""
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figure):
        return _figure(block, figures)
    if block.kind == "bullets":
        return f"<ul>{''.join(f'<li>{prose(item)}</li>' for item in block.items)}</ul>"
    if block.kind == "command":
        return f"<pre><code>{words(block.text)}</code></pre>"
    lead = f"<strong>{words(block.lead)}</strong> " if block.lead else ""
    note = ' class="note"' if block.tone == "note" else ""
    return f"<p{note}>{lead}{prose(block.text)}</p>"


def _table(table: Table) -> str:
    def cell(tag: str, index: int, text: str) -> str:
        kind = ' class="number"' if index in table.right else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{kind}>{prose(text)}</{tag}>"

    head = "".join(cell("th", index, name) for index, name in enumerate(table.columns))
    rows = "".join(
        f"<tr>{''.join(cell('td', index, text) for index, text in enumerate(row))}</tr>"
        for row in table.rows
    )
    caption = f"<caption>{words(table.caption)}</caption>"
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _figure(figure: Figure, figures: Mapping[str, bytes]) -> str:
    drawing = inline(figure.name, figures[figure.name])
    return (
        f'<figure><div role="img" aria-label="{words(figure.alt)}">{drawing}</div>'
        f"<figcaption>{words(figure.caption)}</figcaption></figure>"
    )


def inline(name: str, svg: bytes) -> str:
    """An SVG to stand inside a page: ids of its own where they are used, the page's colors, its full width."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    known = {part for pair in used for part in pair}
    text = re.sub(
        r' \bid="([^"]+)"',
        lambda match: f' id="{name}-{match[1]}"' if match[1] in known else "",
        text,
    )
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for color, variable in _THEMED.items():
        text = re.sub(rf"(?<=: ){color}\b", variable, text, flags=re.IGNORECASE)
    text = text.replace(f"'{PRINTED_FONT}'", f"'{PRINTED_FONT}', {SERIFS}")
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true" focusable="false">{rest}'


def write_html(report: Report, figures: Mapping[str, bytes], path: str | Path) -> Path:
    """Write the page; readers of the path see the old file or the whole new one.

    Raises:
        InputError: when a figure is missing or the folder does not exist.
    """
    return replace_file(path, page(report, figures).encode())
