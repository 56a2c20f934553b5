"""Fonts of the user's: used for what the embedded ones lack, named in the report, and gone afterwards."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import matplotlib
import page as validator
import pypdf
import pytest

from gapkit.errors import InputError
from gapkit.reports import compare, write
from gapkit.reports.fonts import families, lent
from gapkit.reports.look import printable
from gapkit.reports.pdf import LEFT_TO_RIGHT_MARK, page_data
from gapkit.reports.report import Report
from gapkit.reports.results import Results
from tests import report_fixtures as made

HEBREW = "שלום"  # which the embedded fonts lack, and this one has
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
SPELLED = "U+05E9U+05DCU+05D5U+05DD"


def words(path: Path) -> str:
    return "\n".join(
        page.extract_text() for page in pypdf.PdfReader(io.BytesIO(path.read_bytes())).pages
    )


def results() -> dict:
    """A study of that name with a class of that name."""
    given = made.results(HEBREW)
    ticks = (HEBREW, *map(str, range(1, 10)))
    curves = tuple(
        curve.with_(ticks=ticks) if curve.name == "by_class" else curve
        for curve in given["measurements"].curves
    )
    return given | {"measurements": given["measurements"].with_(curves=curves)}


def test_letters_are_spelled_out_without_a_font_and_printed_with_one(tmp_path):
    bare = words(write(tmp_path / "bare.pdf", **results()))
    assert SPELLED in bare
    assert not set(HEBREW) & set(bare)
    path = write(tmp_path / "lent.pdf", **results(), fonts=[FONT])
    said = words(path)
    assert "U+05" not in said
    assert set(HEBREW) <= set(said)
    assert f"fonts: {FONT.name}" in said.replace("\u200b", "")
    assert validator.validate_pdf(path, profile="ua1").is_compliant
    assert (
        write(tmp_path / "again.pdf", **results(), fonts=[FONT]).read_bytes() == path.read_bytes()
    )


def test_a_comparison_is_printed_with_it_too(tmp_path):
    runs = [Results(**results()), Results(**made.results())]
    assert set(HEBREW) <= set(words(compare(tmp_path / "both.pdf", runs, fonts=[FONT])))


def test_a_font_is_lent_for_the_block_only():
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    with lent([FONT]):
        assert printable(HEBREW) == HEBREW
        assert families() == ["DejaVu Sans"]
        assert printable("\u202e") == "U+202E"  # what turns directions is spelled out all the same
    assert printable(HEBREW) == SPELLED
    assert families() == []
    assert log.level == level


@pytest.mark.parametrize("name", ["missing.ttf", "text.ttf", "text.txt"])
def test_what_is_no_font_is_refused_before_anything_is_written(tmp_path, name):
    for text in ("text.ttf", "text.txt"):
        (tmp_path / text).write_text("no font")
    with pytest.raises(InputError, match=rf"Expected a font file, .*, but got '.*{name}'"):
        write(tmp_path / "gap.pdf", **made.results(), fonts=[tmp_path / name])
    assert not (tmp_path / "gap.pdf").exists()


def test_numbers_after_letters_from_right_to_left_stay_where_they_are():
    said = page_data(
        Report(title="مرحبا 1", study="مرحبا", verdict="مرحبا 12 points", created="2025-03-01")
    )
    assert said["title"] == f"مرحبا{LEFT_TO_RIGHT_MARK} 1"
    assert said["verdict"].startswith(f"مرحبا{LEFT_TO_RIGHT_MARK} 12")
    assert said["subtitle"] == f"Study مرحبا{LEFT_TO_RIGHT_MARK}, 1 March 2025"
