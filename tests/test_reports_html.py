"""The page: one file that loads nothing, runs nothing, is well formed, and says what the report says."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from gapkit.errors import InputError
from gapkit.reports import write
from gapkit.reports.compose import compose
from gapkit.reports.html import inline, page, words
from gapkit.reports.report import Bullets, Report, Section
from tests import report_fixtures as made

SCRIPT = '</script><script>alert("x")</script>'
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Elements in order, ids, texts, and whether every element that opens is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(text: str) -> Outline:
    found = Outline()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "gap.html"
    write(path, **made.results())
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "gap.html"
    given = made.hostile()
    given["gap"] = given["gap"].with_(notes=(SCRIPT, "عربي", "網 😀", "abc\u202edef", "x" * 4000))
    write(path, **given)
    return path.read_text(encoding="utf-8")


def test_it_says_what_the_report_says(text):
    said = " ".join("".join(outline(text).text).split())
    report = compose(task_unit="share", **made.results())
    assert report.headline in said
    assert report.verdict in said
    for section in report.sections:
        assert section.heading in said
    for figure in report.figures:
        assert figure.caption in said


def test_it_loads_nothing_and_runs_nothing(text, hostile):
    for whole in (text, hostile):
        for tag, attributes in outline(whole).seen:
            assert tag not in {"script", "link", "iframe", "object", "embed", "form"}
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "href", "xlink:href"):
                assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
        assert "default-src 'none'" in whole
        assert not re.search(r"url\((?!#)", whole)


def test_hostile_names_are_words(hostile):
    said = "".join(outline(hostile).text)
    assert made.HOSTILE.replace("\x1b", "U+001B") in said
    assert SCRIPT in said
    assert "網 😀" in said  # left to the reader's fonts
    assert "عربي" in said
    assert "abcU+202Edef" in said
    assert "\u202e" not in hostile
    assert "\x1b" not in hostile
    assert "x" * 4000 in said


def test_it_is_accessible(text):
    found = outline(text).seen
    tags = [tag for tag, _ in found]
    assert dict(found)["html"]["lang"] == "en"
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    pictures = [attributes for tag, attributes in found if attributes.get("role") == "img"]
    assert len(pictures) == tags.count("figure") == 11
    assert all(attributes["aria-label"] for attributes in pictures)
    assert all(a.get("scope") in ("col", "row") for tag, a in found if tag == "th")
    assert {"main", "nav", "header"} <= set(tags)
    skip = next(a["href"] for tag, a in found if a.get("class") == "skip")
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert skip == "#main"
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for tag, a in found if tag == "a"]
    assert set(links) <= set(ids)


def test_light_and_dark_have_contrast_and_drawings_follow(text):
    """WCAG 2.1: 4.5 for words on their background (relative luminance by its own formula)."""

    def luminance(color: str) -> float:
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    )
    for theme in (light, light | dark):
        paper = luminance(theme["paper"])
        for name in ("ink", "quiet", "teacher", "student", "reached"):
            high, low = sorted((luminance(theme[name]), paper), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, name
    assert "var(--ink)" in text
    assert not re.search(r"fill: #222222", text)


def test_drawings_are_well_formed_and_their_parts_named_apart(text):
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 11
    for drawing in drawings:
        ET.fromstring(drawing)
        ids = set(re.findall(r'\bid="([^"]+)"', drawing))
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing))
        assert used <= ids


def test_the_same_results_give_the_same_page(text, tmp_path):
    again = write(tmp_path / "again.html", **made.results())
    assert again.read_text(encoding="utf-8") == text


def test_an_svg_keeps_its_picture_and_loses_its_size():
    svg = b'<?xml version="1.0"?><svg width="4pt" height="2pt" viewBox="0 0 4 2"><g id="a"/><use href="#a"/></svg>'
    assert inline("f", svg) == (
        '<svg viewBox="0 0 4 2" aria-hidden="true" focusable="false"><g id="f-a"/><use href="#f-a"/></svg>'
    )


def test_golden_text_of_a_small_page():
    section = Section(heading="Of <x>", blocks=(Bullets(items=("a & b",)),))
    report = Report(title="T", study="s", verdict="v", headline="One.", sections=(section,))
    text = page(report, {})
    assert text[text.index("<header>") :] == (
        "<header><h1>T</h1><p>Study s</p></header>\n"
        '<main id="main">\n<h2 id="verdict">Verdict</h2>\n<p class="headline">One.</p>\n<p>v</p>\n'
        '<nav aria-label="Contents"><ul><li><a href="#s0">Of &lt;x&gt;</a></li></ul></nav>\n'
        '<h2 id="s0">Of &lt;x&gt;</h2>\n<ul><li>a &amp; b</li></ul>\n'
        "</main>\n</body>\n</html>\n"
    )
    assert words("a\nb\tc") == "a b c"


def test_json_is_the_report_as_data_and_reads_back(tmp_path):
    for given in (made.results(), made.hostile()):
        path = write(tmp_path / "gap.json", **given)
        report = Report.model_validate_json(path.read_bytes())
        assert report == compose(task_unit="share", **given)
        assert json.loads(path.read_text(encoding="utf-8"))["study"] == given["study"]


def test_a_missing_drawing_is_refused():
    report = compose(task_unit="share", **made.results())
    with pytest.raises(InputError, match="Expected a drawing for every figure but got none for"):
        page(report, {})


def test_numbers_and_their_intervals_stay_in_one_piece():
    assert words("45.9 % [42.5, 49.4], n = 797") == (
        "45.9\u00a0% [42.5,\u00a049.4], n\u00a0=\u00a0797"
    )
