"""What a report says: order, honesty about what was not done, intervals beside numbers."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from gapkit.errors import InputError
from gapkit.gap import Waterfall
from gapkit.measurement import Measurements
from gapkit.outcome import Comparison
from gapkit.reports.compose import compose
from gapkit.reports.compose_plan import cost_words
from gapkit.reports.compose_reproduce import flattened
from gapkit.reports.compose_why import control_row
from gapkit.reports.intervals import mean_interval, paired_difference
from gapkit.reports.report import Bullets, Paragraph, Report, Table
from gapkit.wording import Wording, number_of, short
from tests import report_fixtures as made

SAY = Wording(unit="share", score_name="accuracy")


def words_of(report: Report) -> str:
    return report.model_dump_json()


def table(report: Report, heading: str) -> Table:
    return next(block for block in report.section(heading).blocks if isinstance(block, Table))


@pytest.fixture(scope="module")
def full() -> Report:
    return compose(task_unit="share", **made.results())


def test_parts_stand_in_reading_order(full):
    chapters = [section.heading for section in full.sections if section.level == 1]
    assert chapters == [
        "Where the student falls short",
        "Why it falls short",
        "What was planned",
        "What was reached",
        "How to reproduce",
        "How to read the numbers",
        "Words used",
    ]
    assert [figure.name for figure in full.figures] == [
        "waterfall", "cka", "reading", "reliability", "by_class", "controls", "plan", "pareto",
        "forecasts", "training", "cka_change",
    ]  # fmt: skip


def test_verdict_gives_cause_points_and_what_was_reached(full):
    assert "harsh targets" in full.verdict
    assert "10.0 points [6.0, 14.0], n = 200, on validation" in full.verdict
    assert "42.0 % [38.6, 45.4]" in full.verdict
    gain = paired_difference(
        made.contributions("student", 0.58).values, made.contributions("student", 0.42).values
    )
    assert f"a gain of {gain[0] * 100:.1f} points" in full.verdict


def test_points_that_the_diagnosis_tells_are_not_told_twice():
    gap = made.gap()
    told = gap.with_(verdict=f"Gentler targets bring {SAY.magnitude(gap.findings[0].points)}.")
    report = compose(task_unit="share", **(made.results() | {"gap": told}))
    assert report.verdict.count("10.0 points") == 1


def test_a_loss_and_noise_are_called_so():
    worse = made.outcome().with_(
        stages=tuple(
            stage.with_(measurements=made.measurements(accuracy=0.30))
            for stage in made.outcome().stages
        )
    )
    told = compose(task_unit="share", **(made.results() | {"outcome": worse})).verdict
    assert re.search(r"a loss of 12\.\d points \[9\.\d, 14\.\d\]", told)
    same = made.outcome().with_(
        stages=tuple(
            stage.with_(measurements=made.measurements()) for stage in made.outcome().stages
        )
    )
    told = compose(task_unit="share", **(made.results() | {"outcome": same})).verdict
    assert "no difference from before that exceeds noise" in told


def test_a_student_ahead_of_its_teacher_is_no_shortfall():
    ahead = made.measurements(accuracy=0.995)
    told = compose(study="s", task_unit="share", measurements=ahead).verdict
    assert "the student is ahead by 1.5 points [0.7, 2.4]" in told
    equal = compose(study="s", task_unit="share", measurements=made.measurements(accuracy=0.98))
    assert "within noise" in equal.verdict


def test_what_was_not_done_is_absent_and_the_verdict_says_so():
    report = compose(study="digits", task_unit="share", measurements=made.measurements())
    assert "has not been diagnosed yet" in report.verdict
    assert (report.planned, report.reached, report.ladder) == ("nothing yet", "nothing yet", ())
    for heading in ("Why it falls short", "What was planned", "What was reached"):
        assert not report.has(heading)
    (block,) = report.section("How to reproduce").blocks
    assert "seeds and versions are not known" in block.text


def test_a_plan_not_carried_out_says_so():
    given = made.results() | {"outcome": None}
    report = compose(task_unit="share", **given)
    assert "has not been carried out yet" in report.verdict
    assert not report.has("What was reached")
    assert "training" not in {figure.name for figure in report.figures}


def test_a_plan_below_the_student_as_it_is_says_so():
    given = made.results() | {"outcome": None}
    given["plan"] = given["plan"].with_(keep_student=True)
    report = compose(task_unit="share", **given)
    assert "on validation, less than the student as it is; it has not been" in report.verdict
    assert report.planned.endswith("; the student as it was given already does better")


def test_undetermined_is_a_verdict():
    gap = made.gap().with_(cause="undetermined", verdict="A longer control would decide.")
    report = compose(task_unit="share", **(made.results() | {"gap": gap}))
    assert "The evidence does not decide why. A longer control would decide." in report.verdict
    assert "explains an estimated" not in report.verdict


def test_a_cause_whose_interval_includes_zero_is_not_claimed():
    weak = made.finding("harsh_targets", 0.02, 0.05, made.gap().findings[0].remedy)
    gap = made.gap().with_(findings=(weak,))
    report = compose(task_unit="share", **(made.results() | {"gap": gap}))
    assert "How much this explains is not settled: +2.0 points [−3.0, +7.0]" in report.verdict


def test_findings_put_the_named_cause_first_and_the_rest_by_points(full):
    rows = table(full, "Findings").rows
    assert [row[0] for row in rows] == ["harsh targets", "capacity", "undertrained"]
    assert rows[1][1] == "+37.0 points [+31.0, +43.0], n = 200"


def test_evidence_stands_in_a_table_with_intervals_and_limits(full):
    tables = [block for block in full.section("Findings").blocks if isinstance(block, Table)]
    rows = tables[1].rows
    assert [row[0] for row in rows] == ["harsh targets", "capacity", "undertrained"]
    assert rows[0][1].startswith(
        "Trained with DIST at temperature 1 the same student scores higher"
    )
    assert (
        rows[0][2] == "agreement of teacher and student: 41.0 % [34.0, 48.0], n = 200, validation"
    )
    assert rows[0][3].startswith("zero: the paired difference")


def test_undecided_says_what_would_decide(full):
    blocks = full.section("Is it better?").blocks
    assert table(full, "Is it better?").rows[1][-1] == "undecided"
    bullets = next(block for block in blocks if isinstance(block, Bullets))
    assert bullets.items == (
        "the plan against the best single hop at equal cost: about 25 more seeds of each would settle "
        "a difference of 1 point.",
    )
    decided = Comparison(
        name="a", better_than="b", n_seeds=3, points=made.value("points", "pair", 0.16, 0.03),
        decided="better", would_decide="never printed",
    )  # fmt: skip
    outcome = made.outcome().with_(comparisons=(decided,))
    assert "never printed" not in words_of(
        compose(task_unit="share", **(made.results() | {"outcome": outcome}))
    )


def test_key_figures_carry_interval_and_n(full):
    assert 3 <= len(full.facts) <= 6
    for fact in full.facts:
        assert re.search(r"\[.+, .+\]", fact.note)
    assert len({fact.label for fact in full.facts}) == len(full.facts)


def test_every_percentage_of_the_running_text_has_an_interval(full):
    for section in full.sections:
        for block in section.blocks:
            if isinstance(block, Paragraph):
                for hit in re.finditer(r"\d+\.\d (%|points)", block.text):
                    after = block.text[hit.end() : hit.end() + 14]
                    assert re.match(r" (\[|\(\d+ % inter|interval)| over the best", after), (
                        hit.group(),
                        after,
                    )


def test_ladder_adds_up_to_the_teacher(full):
    first, *steps, last = full.ladder
    assert (first.end, last.end) == (True, True)
    assert first.value + sum(step.value for step in steps) == pytest.approx(last.value)
    assert len(steps) == 4


def test_another_unit_is_not_turned_into_percent():
    report = compose(study="s", task_unit="", measurements=made.measurements())
    assert "0.42 [0.386, 0.454]" in report.verdict
    assert "points" not in report.verdict


def test_no_score_is_refused():
    with pytest.raises(InputError, match="Expected a score of the teacher"):
        compose(study="s", task_unit="share", measurements=Measurements(study="s"))


def test_nan_scores_give_their_reason():
    gone = made.measurements()
    values = tuple(
        made.value("kl", "pair", math.nan, unit="nats", reason="logits differ in width")
        if item.name == "kl"
        else item
        for item in gone.values
    )
    report = compose(study="s", task_unit="share", measurements=gone.with_(values=values))
    row = next(row for row in table(report, "How the answers differ").rows if row[0] == "KL (nats)")
    assert row[3] == "undefined"
    assert "logits differ in width" in row[4]


def test_undefined_similarity_is_explained_not_drawn():
    matrix = made.cka()
    blank = matrix.with_(values=np.full((5, 5), np.nan), reasons={"0,0": "a layer is constant"})
    report = compose(
        study="s", task_unit="share", measurements=made.measurements().with_(matrices=(blank,))
    )
    (block,) = report.section("Which layers resemble each other").blocks
    assert "a layer is constant" in block.text


def test_second_measure_is_counted_against_the_first():
    first, second = made.cka(), made.cka()
    flipped = second.with_(name="procrustes", values=second.values[:, ::-1])
    report = compose(
        study="s", task_unit="share",
        measurements=made.measurements().with_(matrices=(first, flipped)),
    )  # fmt: skip
    said = report.section("Which layers resemble each other").blocks[0].text
    same = (first.values.argmax(1) == flipped.values.argmax(1)).sum()
    assert 0 < same < 5
    assert f"{same} of 5 teacher layers" in said


def test_declared_slices_are_listed_by_gap():
    values = list(made.measurements().values)
    for name, size in (("language=de", 0.3), ("language=fi", 0.6)):
        values += [
            made.value("gap", "pair", size, 0.05, group=name, n=90),
            made.value("accuracy", "teacher", 0.9, 0.02, group=name, n=90, better="higher"),
            made.value("accuracy", "student", 0.9 - size, 0.05, group=name, n=90, better="higher"),
        ]
    measured = made.measurements().with_(values=tuple(values))
    report = compose(study="s", task_unit="share", measurements=measured)
    rows = table(report, "Which classes and slices suffer").rows
    assert rows[0][0] == "class=0"  # the worst slice, which the text names
    assert rows[0][-1] == "+88.0 points [+81.0, +95.0], n = 79"
    assert rows[1] == (
        "language=fi", "90.0 % [88.0, 92.0]", "30.0 % [25.0, 35.0]", "+60.0 points [+55.0, +65.0], n = 90"
    )  # fmt: skip
    assert rows[2][0] == "language=de"


def test_what_a_registered_probe_measured_is_in_a_table_of_its_own():
    own = (
        made.value("boldness", "student", 0.148, 0.01, n=797),
        made.value("boldness", "student", 0.2, 0.01, n=200, split="validation"),
        made.value("warmth", "teacher", 1.5, 0.2, layer="conv", unit="", split="validation", n=200),
    )
    plain = compose(study="s", task_unit="share", measurements=made.measurements())
    assert "Measured by your own probes" not in {part.heading for part in plain.sections}
    values = (*made.measurements().values, *own)
    report = compose(
        study="s", task_unit="share", measurements=made.measurements().with_(values=values)
    )
    rows = table(report, "Measured by your own probes").rows
    assert [row[:3] for row in rows] == [
        ("boldness", "student", "all"),
        ("warmth", "teacher", "conv"),
    ]
    assert rows[0][3].startswith("14.8 % [13.8, 15.8]")  # test, where it was measured there


def test_without_targets_nothing_is_proposed_that_takes_them():
    values = tuple(
        item.with_(estimator="its own target") if item.of == "teacher" else item
        for item in made.measurements().values
    )
    bare = made.measurements().with_(values=values)
    fields = {"measurements": bare, "plan": None, "outcome": None}
    report = compose(task_unit="share", **(made.results() | fields))
    assert report.next[0].do == "Distill by a plan of your own: study.distill(plan)."
    first = compose(task_unit="share", **(made.results() | fields | {"gap": None}))
    assert first.next[0].do.endswith("gapkit diagnose --no-controls")


def test_waterfall_without_steps_still_composes():
    gap = made.gap()
    bare = gap.with_(waterfall=Waterfall(start=gap.student, end=gap.teacher), controls=())
    report = compose(task_unit="share", **(made.results() | {"gap": bare}))
    assert len(report.ladder) == 2
    assert "controls" not in {figure.name for figure in report.figures}


def test_manifest_is_listed_entry_by_entry():
    rows = dict(flattened({"a_b": {"c": [1, 2], "d": {"e": None}}, "f": []}))
    assert rows == {"a b: c": "1, 2", "a b: d: e": "None", "f": "none"}


def test_control_row_has_a_t_interval_over_seeds_and_none_for_one_seed():
    run = made.controls()[0]
    low, high = stats.t.interval(
        0.95, len(run.scores) - 1, loc=run.scores.mean(), scale=stats.sem(run.scores)
    )
    assert control_row(run, SAY)[4] == f"{run.mean * 100:.1f} % [{low * 100:.1f}, {high * 100:.1f}]"
    one = run.with_(seeds=(0,), scores=run.scores[:1])
    assert control_row(one, SAY)[4].endswith("(no interval)")


def test_an_interval_of_few_seeds_ends_where_scores_end():
    few = made.controls()[0].with_(seeds=(0, 1), scores=np.array([0.96, 0.98]))
    assert stats.t.interval(0.95, 1, loc=0.97, scale=stats.sem(few.scores))[1] > 1
    assert control_row(few, SAY)[4].endswith(", 100.0]")
    points = SAY.with_(unit="points")
    assert "[0.843, 1.1]" in control_row(few, points)[4]  # of a score without an end


@pytest.mark.parametrize("hits, n", [(0, 5), (3, 7), (40, 40), (391, 797)])
def test_interval_of_hits_is_wilsons(hits, n):
    values = (np.arange(n) < hits).astype(float)
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert mean_interval(values) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_paired_difference_is_the_paired_t_interval_and_antisymmetric():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=40), rng.normal(size=40)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    mean, low, high = paired_difference(first, second)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert paired_difference(second, first) == pytest.approx((-mean, -high, -low))
    with pytest.raises(ValueError, match="Expected as many samples in both but got 2 and 3"):
        paired_difference(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("seconds, shown", [(89, "89 s"), (95, "1.6 min"), (5400, "1.5 h")])
def test_costs_are_told_in_a_fitting_unit(seconds, shown):
    cost = made.plan().cost.with_(seconds=float(seconds), flops=0.0)
    assert f"about {shown}" in cost_words(cost)


def test_numbers_are_put_into_words():
    assert SAY.signed(-0.0001) == "0.0"
    assert SAY.difference(math.nan) == "undefined"
    level = made.value("accuracy", "student", 0.5, 0.1, level=0.995)
    assert SAY.score_of(level) == "50.0 % [40.0, 60.0] (99.5 % interval), n = 797"
    assert number_of(made.value("kl", "pair", 1.4, 0.1, unit="nats")) == "1.40 nats [1.30, 1.50]"
    assert number_of(made.value("n", "pair", 512, 10, unit="")) == "512 [502, 522]"
    assert len(short("x" * 100, 20)) == 20
    assert short("a" * 99 + "end", 20).endswith("end")
