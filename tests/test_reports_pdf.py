"""The PDF itself, opened: pages, words, bookmarks, tags, and the same bytes twice."""

from __future__ import annotations

import io
import re

import pypdf
import pytest

from gapkit.errors import InputError
from gapkit.reports import write
from gapkit.reports.compose import compose
from gapkit.reports.pdf import ZERO_WIDTH_SPACE, breakable, compile_pdf, page_data, write_pdf
from gapkit.reports.report import Figure, Report, Section, Table
from tests import report_fixtures as made


def bookmarks(outline) -> list[str]:
    return [
        title
        for item in outline
        for title in (bookmarks(item) if isinstance(item, list) else [item.title])
    ]


def words(reader: pypdf.PdfReader) -> str:
    """All text on one line, without break points and without the spaces that line ends bring."""
    text = " ".join(page.extract_text() for page in reader.pages)
    return re.sub(r"\s+", "", text.replace(ZERO_WIDTH_SPACE, ""))


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "gap.pdf"
    assert write(path, **made.results()) == path
    return path


@pytest.fixture(scope="module")
def reader(written):
    return pypdf.PdfReader(written)


@pytest.fixture(scope="module")
def report():
    return compose(task_unit="share", **made.results())


def test_pages_are_a4_numbered_and_few(reader):
    assert 5 <= len(reader.pages) <= 12
    width, height = reader.pages[0].mediabox[2:]
    assert (round(float(width)), round(float(height))) == (595, 842)
    for number, page in enumerate(reader.pages, start=1):
        assert f"{number} / {len(reader.pages)}" in page.extract_text()


def test_bookmarks_are_the_headings(reader, report):
    headings = [section.heading for section in report.sections]
    assert bookmarks(reader.outline) == ["Verdict", *headings]


def test_words_captions_and_tables_are_there(reader, report):
    text = words(reader)
    assert squeezed(report.verdict) in text
    assert len(list(report.figures)) == 11
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, (Figure, Table)):
                assert squeezed(block.caption)[:60] in text
            if isinstance(block, Table):
                assert all(squeezed(cell) in text for cell in block.rows[-1])


def test_figures_bring_their_words_as_text(reader):
    text = words(reader)
    assert "samerecipe,trainedbygapkit" in text
    assert "predicted59.0%[52.0,65.0]" in text


def test_document_is_tagged_titled_and_every_figure_has_its_alt_text(reader, report):
    root = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"].startswith("en")
    assert reader.metadata.title == report.title
    assert b"pdfuaid" in root["/Metadata"].get_object().get_data()
    found = set()

    def walk(node):
        node = node.get_object()
        if isinstance(node, list):
            for kid in node:
                walk(kid)
        elif isinstance(node, dict) and "/S" in node:
            if "/Alt" in node:
                found.add(node["/Alt"])
            if "/K" in node:
                walk(node["/K"])

    walk(root["/StructTreeRoot"]["/K"])
    clean = {squeezed(alt.replace(ZERO_WIDTH_SPACE, "")) for alt in found}
    assert {squeezed(figure.alt) for figure in report.figures} <= clean


def test_the_same_input_gives_the_same_bytes_and_another_date_others(written, tmp_path):
    again = write(tmp_path / "again.pdf", **made.results())
    assert again.read_bytes() == written.read_bytes()
    later = made.results() | {"manifest": made.MANIFEST | {"created": "2025-04-02T10:00:00"}}
    other = write(tmp_path / "later.pdf", **later)
    assert other.read_bytes() != written.read_bytes()
    assert "2 April 2025" in pypdf.PdfReader(other).pages[0].extract_text()


def test_hostile_names_print_as_they_are_or_spelled_out(tmp_path):
    path = write(tmp_path / "gap.pdf", **made.hostile())
    reader = pypdf.PdfReader(path)
    text = words(reader)
    assert '#panic("x")$\\alpha$<b>*U+7DB2*</b>U+1F600|U+001B[2J' in text
    assert "Of100classesthestudent’s24worst" in text.replace("'", "’")
    assert "\x1b" not in text
    for page in reader.pages:
        right = float(page.mediabox[2])
        spots: list[float] = []
        page.extract_text(visitor_text=lambda s, cm, tm, f, z, spots=spots: spots.append(tm[4]))
        assert max(spots) < right


@pytest.mark.parametrize(
    "left_out", [("gap", "plan", "outcome"), ("plan", "outcome"), ("outcome",)]
)
def test_partial_results_make_a_report(tmp_path, left_out):
    given = {key: item for key, item in made.results().items() if key not in left_out}
    reader = pypdf.PdfReader(write(tmp_path / "gap.pdf", **given))
    assert "Whatwasreached" not in words(reader)
    assert "Whatnext" in words(reader)


def test_long_tables_run_over_pages_and_repeat_their_head():
    table = Table(
        caption="Many rows.", columns=("Left", "Right"), widths=(1, 1),
        rows=tuple((f"row {index}", str(index)) for index in range(150)),
    )  # fmt: skip
    report = Report(
        title="t", study="s", verdict="v", sections=(Section(heading="h", blocks=(table,)),)
    )
    reader = pypdf.PdfReader(io.BytesIO(compile_pdf(report, {})))
    pages = [page.extract_text() for page in reader.pages]
    assert len(pages) >= 3
    assert all("Left" in page for page in pages)
    assert "row 149" in pages[-1]


def test_a_heading_is_never_left_alone_at_the_foot_of_a_page():
    filler = tuple(
        Section(heading=f"Heading {index}", blocks=({"kind": "paragraph", "text": "word " * 150},))
        for index in range(40)
    )
    report = Report(title="t", study="s", verdict="v", sections=filler)
    reader = pypdf.PdfReader(io.BytesIO(compile_pdf(report, {})))
    assert len(reader.pages) > 5
    for page in reader.pages:
        lines = [line for line in page.extract_text().splitlines() if line.strip()]
        assert not lines[-2].startswith("Heading"), lines[-3:]


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    given = made.results()
    with pytest.raises(InputError, match=r"ends in .pdf, .md, .html or .json but got 'gap.docx'"):
        write("gap.docx", **given)
    with pytest.raises(InputError, match="Expected an existing folder for the report"):
        write(tmp_path / "none" / "gap.pdf", **given)
    (tmp_path / "dir.pdf").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path / "dir.pdf", **given)
    with pytest.raises(InputError, match="Expected an ISO date"):
        compile_pdf(Report(title="t", study="s", verdict="v", created="yesterday"), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.pdf"]


def test_a_missing_drawing_is_refused_and_the_old_file_stays(tmp_path, report):
    path = tmp_path / "gap.pdf"
    path.write_bytes(b"old")
    with pytest.raises(
        InputError, match="Expected a drawing for every figure but got none for 'waterfall'"
    ):
        write_pdf(report, {}, path)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["gap.pdf"]


def test_break_points_change_nothing_but_where_lines_break():
    assert breakable(made.LONG_LAYER).replace(ZERO_WIDTH_SPACE, "") == made.LONG_LAYER
    longest = max(map(len, breakable(made.LONG_LAYER).split(ZERO_WIDTH_SPACE)))
    assert longest <= 25
    assert breakable("a sentence of short words, 0.42 [0.1, 0.2].").count(ZERO_WIDTH_SPACE) == 0


def test_numbers_stay_with_their_units():
    report = Report(title="t", study="s", verdict="42.0 % [38.6, 45.4], n = 797; a, b")
    assert page_data(report)["verdict"] == (
        "42.0\u00a0% [38.6,\u00a045.4], n\u00a0=\u00a0797; a, b"
    )
