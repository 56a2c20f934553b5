"""What PDF/UA-1 (ISO 14289-1) asks of a file: by validators, and by reading the file itself."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise

import page as validator  # one that passes the corpus veraPDF is tested with
import pypdf
import pytest

from gapkit.reports import compare, write
from gapkit.reports.results import Results
from tests import report_fixtures as made
from tests.test_reports_gates import GATES
from tests.test_reports_sizes import layered


@pytest.fixture(scope="module", params=["normal", "hostile", "comparison", "300 layers"])
def content(request, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("pdf") / "gap.pdf"
    if request.param == "300 layers":
        write(path, study="deep", measurements=layered(300))
    elif request.param == "comparison":
        whole = Results(**made.results())
        compare(path, [whole, whole.with_(study=made.HOSTILE)])
    else:
        given = made.results() if request.param == "normal" else made.hostile()
        write(path, **given, gates=GATES)
    return path.read_bytes()


@pytest.fixture(scope="module")
def reader(content) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(content))


def faults(content: bytes) -> set[str]:
    """Rules of PDF/UA-1 that a file breaks."""
    found = validator.validate_pdf_bytes(content, profile="ua1")
    assert found.rules.total > 100
    return {failure.rule_id for failure in found.failures}


def test_a_validator_finds_no_fault(content):
    assert faults(content) == set()


def test_the_validator_finds_faults_that_were_made(content):
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(content))
    figure = next(elements(writer.root_object["/StructTreeRoot"]["/K"], "/Figure"))
    del figure["/Alt"]
    del writer.root_object["/Lang"]
    spoiled = io.BytesIO()
    writer.write(spoiled)
    assert "PDFUA1-FIGURE-ALTERNATIVE-TEXT-001" in faults(spoiled.getvalue())
    assert any("LANGUAGE" in rule for rule in faults(spoiled.getvalue()))


@pytest.mark.skipif(shutil.which("verapdf") is None, reason="veraPDF is not installed")
def test_verapdf_finds_no_fault(content, tmp_path):
    path = tmp_path / "gap.pdf"
    path.write_bytes(content)
    command = ["verapdf", "--flavour", "ua1", "--format", "text", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.stdout.startswith("PASS"), said


def elements(node, tag: str = "") -> Iterator[dict]:
    """Structure elements in reading order, of that tag or of any."""
    node = node.get_object()
    if isinstance(node, list):
        for kid in node:
            yield from elements(kid, tag)
    elif isinstance(node, dict):
        if "/S" in node and tag in ("", node["/S"]):
            yield node
        if "/K" in node:
            yield from elements(node["/K"], tag)


def tree(reader: pypdf.PdfReader, tag: str = "") -> list[dict]:
    return list(elements(reader.trailer["/Root"]["/StructTreeRoot"]["/K"], tag))


def test_it_says_that_it_is_tagged_its_language_its_title_and_its_part(reader):
    root = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"].startswith("en")
    assert root["/ViewerPreferences"]["/DisplayDocTitle"]
    metadata = root["/Metadata"].get_object().get_data().decode()
    assert re.search(r"pdfuaid:part[^1-9]*1", metadata)
    title = re.search(r"<dc:title>.*?<rdf:li[^>]*>(.+?)</rdf:li>", metadata, re.DOTALL)
    assert title is not None
    assert title[1].strip()
    assert "/StructTreeRoot" in root


def test_every_figure_has_words_and_a_place_on_its_page(reader):
    figures = tree(reader, "/Figure")
    assert len(figures) >= 2
    for figure in figures:
        assert str(figure["/Alt"]).strip()


def test_headings_begin_at_one_and_skip_no_level(reader):
    levels = [int(node["/S"][2:]) for node in tree(reader) if re.fullmatch(r"/H\d", node["/S"])]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_are_rows_of_cells_under_heads(reader):
    tables = tree(reader, "/Table")
    assert tables
    for table in tables:
        rows = list(elements(table["/K"], "/TR"))
        heads = list(elements(table["/K"], "/TH"))
        assert heads
        assert len(rows) > 1
        widths = {
            len(list(elements(row["/K"], "/TH"))) + len(list(elements(row["/K"], "/TD")))
            for row in rows
        }
        assert len(widths) == 1


def test_all_that_is_shown_is_marked_as_content_or_as_decoration(reader):
    """Every operator that paints stands between a BDC or BMC and its EMC."""
    painting = {
        b"Tj",
        b"TJ",
        b"'",
        b'"',
        b"f",
        b"F",
        b"f*",
        b"S",
        b"s",
        b"B",
        b"b",
        b"B*",
        b"b*",
        b"sh",
    }
    for page in reader.pages:
        depth = 0
        for _, operator in pypdf.generic.ContentStream(page.get_contents(), reader).operations:
            if operator in (b"BDC", b"BMC"):
                depth += 1
            elif operator == b"EMC":
                depth -= 1
            elif operator in painting:
                assert depth > 0, operator
        assert depth == 0


def test_fonts_are_in_the_file_with_a_way_back_to_unicode(reader):
    found = 0
    for page in reader.pages:
        for font in page["/Resources"].get("/Font", {}).values():
            font = font.get_object()
            descendant = font["/DescendantFonts"][0].get_object()
            keys = set(descendant["/FontDescriptor"].get_object())
            assert keys & {"/FontFile", "/FontFile2", "/FontFile3"}
            assert "/ToUnicode" in font
            found += 1
    assert found


def test_nothing_runs_and_nothing_points_outside(reader):
    root = reader.trailer["/Root"]
    assert "/OpenAction" not in root
    assert "/JavaScript" not in root.get("/Names", {})
    assert "/AcroForm" not in root
    for page in reader.pages:
        for note in page.get("/Annots", []):
            action = note.get_object().get("/A", {})
            assert action.get("/S", "/GoTo") in ("/GoTo", "/URI")
