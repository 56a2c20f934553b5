"""Where figures land: where they stand, or at the head of the next page with text filling the room before."""

from __future__ import annotations

import io

import pypdf

from gapkit.reports.pdf import compile_pdf
from gapkit.reports.report import Figure, Paragraph, Report, Section
from tests.test_reports_accessible import tree


def drawn(height: int) -> bytes:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="170mm" height="{height}mm">'
        f'<rect width="170mm" height="{height}mm" fill="#888"/></svg>'
    ).encode()


def spread(*blocks, **heights: int) -> tuple[list[str], list[str]]:
    """The words of each page, and what is told of its figures, in the order of the tags."""
    report = Report(
        title="t", study="s", verdict="v", sections=(Section(heading="h", blocks=blocks),)
    )
    figures = {name: drawn(height) for name, height in heights.items()}
    reader = pypdf.PdfReader(io.BytesIO(compile_pdf(report, figures)))
    alts = [str(element["/Alt"]) for element in tree(reader, "/Figure")]
    return [page.extract_text() for page in reader.pages], alts


def figure(name: str) -> Figure:
    return Figure(name=name, caption=f"Caption of {name}.", alt=f"alt {name}")


def text(word: str, n: int = 40) -> Paragraph:
    return Paragraph(text=f"{word} " * n)


def test_text_fills_the_room_before_a_figure_that_did_not_fit():
    pages, alts = spread(
        text("before"), figure("wide"), text("after"), figure("tall"), text("last"),
        wide=110, tall=120,
    )  # fmt: skip
    assert "Caption of wide" in pages[0]
    assert "after" in pages[0]
    assert "last" in pages[0]
    assert "Caption of tall" in pages[1]
    assert "last" not in pages[1]
    assert alts == ["alt wide", "alt tall"]


def test_a_figure_that_fits_stays_where_it_stands():
    (page,), _ = spread(text("before"), figure("low"), text("after"), low=60)
    assert page.index("before") < page.index("Caption of low") < page.index("after")


def test_figures_keep_their_order_when_a_later_one_would_fit_before():
    pages, alts = spread(
        text("before"), figure("wide"), text("after"), figure("tall"), text("between"),
        figure("low"), text("last"), wide=110, tall=120, low=20,
    )  # fmt: skip
    assert "last" in pages[0]
    assert pages[1].index("Caption of tall") < pages[1].index("Caption of low")
    assert alts == ["alt wide", "alt tall", "alt low"]


def test_a_heading_goes_with_its_figure_to_the_next_page():
    sections = (
        Section(heading="First", blocks=(text("before"), figure("wide"))),
        Section(heading="Second", level=2, blocks=(figure("tall"), text("after"))),
    )
    report = Report(title="t", study="s", verdict="v", sections=sections)
    content = compile_pdf(report, {"wide": drawn(110), "tall": drawn(120)})
    first, second = (page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages)
    assert "Second" not in first
    assert second.index("Second") < second.index("Caption of tall") < second.index("after")
