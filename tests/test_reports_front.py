"""Page one: one sentence, what to do next with gain and price, gates as marks, the waterfall."""

from __future__ import annotations

import math
import re

import pypdf
import pytest

from gapkit.gap import Remedy
from gapkit.reports import write
from gapkit.reports.compose import compose
from gapkit.reports.text import markdown
from tests import report_fixtures as made
from tests.test_reports_gates import GATES


def front(**changes):
    return compose(task_unit="share", **(made.results() | changes))


def test_the_headline_is_one_sentence_that_says_how_far_why_and_what_came_back():
    assert front().headline == (
        "The student scores 56.0 points [52.5, 59.4] below its teacher on test (n = 797), chiefly for "
        "harsh targets (the soft targets ask for more than this student can use); the plan brought it up "
        "by 15.9 points [13.4, 18.5]."
    )


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"gap": None, "plan": None, "outcome": None}, "; why has not been diagnosed yet."),
        (
            {"gap": made.gap().with_(cause="undetermined")},
            "; the evidence does not decide why; the plan",
        ),
        ({"outcome": None}, "more than this student can use)."),
        ({"gap": made.gap().with_(cause="no_gap")}, "on test (n = 797); the plan"),
    ],
)
def test_the_headline_claims_no_more_than_was_done(changes, said):
    told = front(**changes).headline
    assert said in told
    assert len(re.findall(r"\.(?:\s|$)", told)) == 1


def test_level_models_are_called_level_and_a_student_ahead_is_above():
    level = front(measurements=made.measurements(accuracy=0.98), gap=None, plan=None, outcome=None)
    assert level.headline.startswith("Student and teacher are level on test (n = 797): 0.0 points")
    ahead = front(measurements=made.measurements(accuracy=0.995), gap=None, plan=None, outcome=None)
    assert "above its teacher" in ahead.headline


def test_level_models_with_an_open_slice_ask_for_what_decides_it_and_not_for_a_plan():
    found = made.gap()
    first = found.findings[0]
    weak = first.evidence[0].measurement.with_(group="camera=2")
    asked = first.with_(
        cause="undetermined",
        evidence=(first.evidence[0].with_(measurement=weak),),
        remedy=Remedy(text="Run labels alone."),
    )
    level = first.with_(cause="no_gap", remedy=Remedy(text="Nothing to close."))
    gap = found.with_(cause="undetermined", findings=(asked, level))
    report = front(gap=gap, plan=None, outcome=None)
    assert report.title == "digits: student and teacher are level, and one slice is open"
    assert "; the teacher is weak on camera=2, and whether labels know better there is open." in (
        report.headline
    )
    assert [(step.do, step.gain) for step in report.next] == [("Run labels alone.", "a decision")]


def test_what_next_is_the_next_verb_with_gain_and_price():
    undone = front(gap=None, plan=None, outcome=None).next
    assert [step.do for step in undone] == ["Diagnose why: gapkit diagnose"]
    unplanned = front(plan=None, outcome=None).next
    assert unplanned[0].do == "Plan what would close it: gapkit plan"
    waiting = front(outcome=None).next
    assert waiting[0].do == "Carry out the plan: teacher → assistant 6 (6) → student (1)"
    assert waiting[0].gain == "to 59.0 % [55.0, 63.0], from 42.0 % today, validation"
    assert waiting[0].price == "6.2 student trainings, about 1.6 min"


def test_a_student_that_does_better_than_its_plan_should_is_kept():
    kept = front(plan=made.plan().with_(keep_student=True), outcome=None).next[0]
    assert (kept.do, kept.price) == ("Keep the student as it is", "nothing")
    assert kept.gain == "the plan would lead to 59.0 % [55.0, 63.0], from 42.0 % today, validation"


def test_after_the_plan_comes_what_it_left_priced_by_the_control_that_tried_it():
    steps = front().next
    assert steps[0].do == "Widen the student to 3 channels."
    assert steps[0].gain == "+37.0 points [+31.0, +43.0], validation"
    assert steps[0].price == "1 student training a seed"  # five seeds cost 5
    assert steps[1].gain == "a decision"
    assert len(steps) == 2


def test_a_remedy_that_nothing_measured_is_not_priced_and_comes_last():
    blind = made.finding("blind_layer", 0.1, 0.04, Remedy(text="Widen block2."))
    points = blind.points.with_(value=math.nan, reason="no control trained it")
    gap = made.gap().with_(findings=(blind.with_(points=points), *made.gap().findings[2:]))
    steps = front(gap=gap, plan=None, outcome=None).next
    assert [step.do for step in steps[1:]] == ["Widen the student to 3 channels.", "Widen block2."]
    assert (steps[2].gain, steps[2].price) == ("not measured", "not priced")


def test_page_one_of_the_pdf_holds_all_of_it_and_the_rest_begins_on_page_two(tmp_path):
    path = write(tmp_path / "gap.pdf", **made.results(), gates=GATES)
    first, second = (page.extract_text() for page in pypdf.PdfReader(path).pages[:2])
    squeezed = re.sub(r"\s+", "", first)
    for said in ("Verdict", "Whatnext", "Expectedgain", "Price", "Qualitygates", "✗worthtransferring",
                 "teacher-sizedstudent", "Thestudentscores56.0points"):  # fmt: skip
        assert said in squeezed
    assert "Where the student falls short" not in first
    assert "Where the student falls short" in second


def test_markdown_begins_with_the_same():
    text = markdown(compose(task_unit="share", **made.results(), gates=GATES))
    assert text.startswith(
        "# Why digits falls short of its teacher, and what was done\n\n**The student scores"
    )
    assert "| What next | Expected gain | Price |" in text
    assert (
        "Quality gates: ✓ knowledge fits the objective · ○ validation stratified · ✗ worth transferring"
        in text
    )
    assert text.index("What next") < text.index("## Where the student falls short")
