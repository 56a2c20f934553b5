"""The report in a terminal and as Markdown."""

from __future__ import annotations

import re

import pytest

from gapkit.reports import summary, write
from gapkit.reports.compose import compose
from gapkit.reports.report import Report, Rung
from gapkit.reports.text import WIDTH, escape, markdown, terminal
from tests import report_fixtures as made


@pytest.fixture(scope="module")
def report() -> Report:
    return compose(task_unit="share", **made.results())


def bars(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.search("[█▓│]", line)]


def test_terminal_tells_everything_in_80_columns(report):
    text = terminal(report, "gap.pdf")
    assert max(map(len, text.splitlines())) <= WIDTH
    for said in (
        "Main cause: harsh",
        "planned  teacher → assistant 6",
        "reached  58.0 %",
        "gap.pdf",
    ):
        assert said in text
    assert len(bars(text)) == 6


def test_bars_are_as_long_as_their_numbers_and_follow_each_other():
    ladder = (
        Rung(label="student", value=40, text="40", end=True),
        Rung(label="up", value=20, text="+20"),
        Rung(label="down", value=-10, text="−10"),
        Rung(label="none", value=0, text="0"),
        Rung(label="teacher", value=60, text="60", end=True),
    )
    text = terminal(Report(title="t", study="s", verdict="v", ladder=ladder))
    spans = [re.search("[█▓│]+", line).span() for line in bars(text)]
    start = spans[0][0]
    assert [(a - start, b - start) for a, b in spans] == [
        (0, 16), (16, 24), (20, 24), (20, 21), (0, 24)
    ]  # fmt: skip


def test_no_line_breaks_within_a_number_and_what_belongs_to_it(report):
    for extra in range(40):  # wherever the lines happen to end
        words = "x" * extra + " " + report.verdict
        text = terminal(report.with_(verdict=words))
        assert all(len(line) <= 80 for line in text.splitlines())
        for part in ("n = 797", "42.0 % [38.6, 45.4]"):
            assert part in words
        assert not re.search(r"\bn\n|\bn =\n|\d\n%|\[[^\]]*\n[^\]]*\]", text)


def test_a_ladder_of_zeros_is_drawn_too():
    ladder = (
        Rung(label="student", value=0, text="0", end=True),
        Rung(label="teacher", value=0, text="0", end=True),
    )
    assert len(bars(terminal(Report(title="t", study="s", verdict="v", ladder=ladder)))) == 2


def test_terminal_lets_no_control_character_through():
    text = terminal(compose(task_unit="share", **made.hostile()))
    assert "\x1b" not in text
    assert "U+001B" in text


def test_summary_is_the_terminal_text_of_the_results(report):
    given = {key: item for key, item in made.results().items() if key != "manifest"}
    assert summary(**given, path="gap.pdf") == terminal(report, "gap.pdf")
    alone = summary(study="digits", measurements=made.measurements())
    assert "planned  nothing yet" in alone
    assert "report " not in alone


def test_markdown_has_every_heading_table_and_figure(report):
    text = markdown(report, {"cka": "f/cka.svg"})
    headings = re.findall(r"^#{2,3} (.+)$", text, re.M)
    assert [escape(section.heading) for section in report.sections] == headings
    assert "](<f/cka.svg>)" in text
    assert text.count("*Figure: ") == len(list(report.figures)) - 1
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.split(r"(?<!\\)\|", line)) >= 4


def test_markdown_tables_are_rectangular_whatever_the_cells_hold():
    text = markdown(compose(task_unit="share", **made.hostile()))
    width = 0
    for line in text.splitlines():
        cells = len(re.split(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells and cells != width), line
        width = cells
    assert "<b>" not in re.sub(r"```.*?```", "", text, flags=re.S)
    assert r"\<b\>" in text


def test_markdown_file_links_to_drawings_that_exist(tmp_path):
    path = write(tmp_path / "gap.md", **made.results())
    links = re.findall(r"\]\(<(.+?)>\)", path.read_text(encoding="utf-8"))
    assert len(links) == 11
    for link in links:
        assert (tmp_path / link).read_bytes().startswith(b"<?xml")
