"""Quality gates and the choice of knowledge in the report: a row of marks, and why, in words."""

from __future__ import annotations

import io
import re

import pypdf
import pytest

from gapkit.knowledge import hints, knowledge_named
from gapkit.quality.choice import Choice
from gapkit.quality.grounds import Gate
from gapkit.reports import write
from gapkit.reports.compose import compose
from gapkit.reports.compose_gates import HEADING
from gapkit.reports.compose_plan import CHOICE
from gapkit.reports.report import Report
from gapkit.reports.text import markdown
from tests import report_fixtures as made

GATES = (
    Gate(name="knowledge fits the objective", state="passed", reason="Responses are taught."),
    Gate(name="validation stratified", state="open", reason="No domain is declared."),
    Gate(name="worth transferring", state="failed", reason="Relearning does as well."),
)
CHOSEN = Choice(
    kinds=("response", "feature"),
    knowledge=(*knowledge_named("dist1"), *hints({("s0", "t0"): 1.0}, weight=0.5)),
    scheme="cross_modal",
    hinted=("t0",),
    reasons=("Responses lead", "Hints at t0: it matters.", "Cross-modal: the views differ."),
)


@pytest.fixture(scope="module")
def report() -> Report:
    return compose(task_unit="share", **made.results(), gates=GATES, choice=CHOSEN)


def test_gates_are_marks_on_page_one_and_have_their_reasons_further_on(report):
    assert [(mark.name, mark.state) for mark in report.marks] == [
        ("knowledge fits the objective", "passed"),
        ("validation stratified", "open"),
        ("worth transferring", "failed"),
    ]
    (table,) = report.section(HEADING).blocks
    assert table.columns == ("Gate", "Answer", "Reason")
    assert table.rows == (
        ("knowledge fits the objective", "✓ passed", "Responses are taught."),
        ("validation stratified", "○ open", "No domain is declared."),
        ("worth transferring", "✗ failed", "Relearning does as well."),
    )
    assert "1 passed, 1 failed, 1 open" in table.caption


def test_the_choice_stands_under_the_plan(report):
    headings = [section.heading for section in report.sections]
    assert headings.index(CHOICE) == headings.index("What was planned") + 1
    why, learned, aside = report.section(CHOICE).blocks
    assert why.text == "Responses lead. Hints at t0: it matters. Cross-modal: the views differ."
    assert learned.text == (
        "To learn: 0.67·dist τ=1 + 0.33·labels + 0.5·hint s0→t0; scheme: cross modal."
    )
    assert (aside.tone, "picked by trainings" in aside.text) == ("note", True)


def test_what_was_not_judged_is_not_told():
    headings = [s.heading for s in compose(task_unit="share", **made.results()).sections]
    assert not {HEADING, CHOICE} & set(headings)


def test_without_a_plan_the_choice_is_told_alone():
    given = made.results() | {"plan": None, "outcome": None}
    report = compose(task_unit="share", **given, choice=CHOSEN)
    assert not report.has("What was planned")
    chosen = report.section(CHOICE).blocks
    assert len(chosen) == 2  # no plan to differ from
    assert chosen[0].text.startswith("Responses lead.")


def test_markdown_is_golden(report):
    text = markdown(report)
    part = text[text.index(f"## {HEADING}") : text.index("## How to reproduce")]
    assert part == (
        "## Quality gates\n\n"
        "*Whether the distillation was set up and checked as it should be: 1 passed, 1 failed, 1 open. "
        "Open: not measured yet; the reason says what settles it.*\n\n"
        "| Gate | Answer | Reason |\n| --- | --- | --- |\n"
        "| knowledge fits the objective | ✓ passed | Responses are taught. |\n"
        "| validation stratified | ○ open | No domain is declared. |\n"
        "| worth transferring | ✗ failed | Relearning does as well. |\n\n"
    )


def test_the_pdf_shows_marks_and_reasons(tmp_path):
    path = write(tmp_path / "gap.pdf", **made.results(), gates=GATES, choice=CHOSEN)
    reader = pypdf.PdfReader(io.BytesIO(path.read_bytes()))
    words = re.sub(r"\s+", "", " ".join(page.extract_text() for page in reader.pages))
    for said in (
        "✗worthtransferring",
        "✓passed",
        "✗failed",
        "○open",
        "Relearningdoesaswell.",
        "Hintsatt0:itmatters.",
    ):
        assert said in words
    assert len(reader.pages) <= 13
