"""The diagnosis ranks causes, words its verdict, reads validation alone and says when it cannot decide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gapkit.causes.case import Case
from gapkit.causes.catalog import explains_most
from gapkit.causes.confidence import EVEN
from gapkit.diagnosis import diagnose
from gapkit.gap import EARLIER, RATE, ControlRun, Gap
from gapkit.knowledge import knowledge_named
from gapkit.measurement import Curve, Measurements
from gapkit.probes.interval import Interval, measured
from tests.deciding_fixtures import control, hits, measurements, seeds_of

GAP = "On validation the student scores 20.0 points [16.0, 23.8], n = 400 below its teacher."


def run(name: str, share: float, **fields) -> ControlRun:
    """A control; the seeds of all but the same recipe rise where its own fall."""
    usual = {
        "scratch": {"path": (1,), "recipe": "scratch"},
        "knowledge: dist1": {"recipe": "dist1"},
        "longer": {"fraction": 2.0},
        "next size up": {"path": (32, 3)},
        "smaller teacher": {"path": (32, 12, 1)},
        "teacher-sized": {"path": (32, 32)},
    }
    order = 1 if name == "same recipe" else -1
    return control(name, seeds_of(share)[::order], **(usual.get(name, {}) | fields))


def diagnosed(*controls: ControlRun, teacher=0.9, student=0.7, **fields) -> Gap:
    about = {key: fields.pop(key) for key in ("train", "chance", "worst", "test") if key in fields}
    return diagnose(measurements(hits(teacher), hits(student), **about), controls, **fields)


def causes(gap: Gap) -> list[str]:
    return [finding.cause for finding in gap.findings]


def worst(value: float, low: float):
    interval = Interval(value, low, 2 * value - low, 0.0, 40)
    return measured("worst_slice", "pair", "validation", interval, unit="share", group="class=3")


EVERYTHING = (
    run("same recipe", 0.7),
    run("scratch", 0.74),
    run("knowledge: dist1", 0.8),
    run("longer", 0.82, recipe="dist1"),
    run("smaller teacher", 0.76),
    run("next size up", 0.86),
    run("teacher-sized", 0.865),
)


def test_what_needs_no_other_size_comes_first_by_points_then_capacity():
    gap = diagnosed(*EVERYTHING, run(RATE, 0.735, altered=RATE))
    assert causes(gap) == [
        "harsh_targets",
        "teacher_gap",
        "optimization",
        "undertrained",
        "capacity",
    ]
    points = [finding.points.value for finding in gap.findings]
    assert points == pytest.approx([0.1, 0.06, 0.035, 0.02, 0.045], abs=1e-3)
    assert all(finding.excludes_zero for finding in gap.findings)
    assert gap.cause == "harsh_targets"


def test_the_larger_share_leads_whichever_it_is():
    longer = run("longer", 0.84)  # held against the other knowledge, which is better too
    first = diagnosed(EVERYTHING[0], run("scratch", 0.76), longer)
    assert causes(first) == ["undertrained", "harsh_targets"]
    second = diagnosed(EVERYTHING[0], run("scratch", 0.8), longer)
    assert causes(second) == ["harsh_targets", "undertrained"]


def test_capacity_leads_only_when_nothing_else_excludes_zero():
    same, size = run("same recipe", 0.7), run("next size up", 0.86)
    alone = diagnosed(same, run("scratch", 0.71), run("longer", 0.71), size)
    assert causes(alone) == ["capacity"]
    beside = diagnosed(same, run("scratch", 0.71), run("longer", 0.74), size)
    assert causes(beside) == ["undertrained", "capacity"]
    small, large = (finding.points.value for finding in beside.findings)
    assert small < large  # the smaller share leads all the same


def test_a_harness_fault_leads_whatever_else_holds():
    gap = diagnosed(*EVERYTHING, teacher_score=0.99)
    assert causes(gap)[0] == "harness_fault"
    assert causes(gap)[1:] == causes(diagnosed(*EVERYTHING))
    by_chance = diagnosed(*EVERYTHING, chance=0.95)
    assert by_chance.cause == "harness_fault"
    assert math.isnan(by_chance.findings[0].points.value)


def test_a_slice_comes_after_what_explains_the_average_unless_it_holds_most_that_the_own_recipe_closes():
    """The gap is 0.05 of 400 samples, 20 in all: 0.6 behind on 16 of them is less than half, on 17 more."""
    same = run("same recipe", 0.85)
    longer, size = run("longer", 0.88), run("next size up", 0.89)
    other, most = (worst(0.6, 0.4).with_(n=n) for n in (16, 17))
    beside = diagnosed(same, longer, size, student=0.85, worst=other)
    assert causes(beside) == ["undertrained", "capacity", "false_success"]
    assert causes(diagnosed(student=0.85, worst=most)) == ["undetermined", "false_success"]
    recovered = diagnosed(run("same recipe", 0.876), longer, size, student=0.85, worst=most)
    assert causes(recovered)[0] == "false_success"
    rises = run("longer", 0.905)
    as_badly = diagnosed(run("same recipe", 0.874), rises, size, student=0.85, worst=most)
    assert causes(as_badly)[0] == "undertrained"  # less than half of the gap comes back by itself
    assert causes(diagnosed(same, longer, size, student=0.85, worst=most)) == causes(beside)
    broken = diagnosed(student=0.85, worst=most, teacher_score=0.99)
    assert causes(broken)[:2] == ["harness_fault", "false_success"]


CAMERA = np.where(
    np.arange(400) < 350, 0, 2
)  # 50 samples; of its last 40 a teacher of 0.9 misses all


def elsewhere(value: float, low: float):
    interval = Interval(value, low, 2 * value - low, 0.0, 380)
    return measured("gap_elsewhere", "pair", "validation", interval, unit="share", group="class=3")


def with_values(*values, teacher=0.9, student=0.7, **fields) -> Gap:
    found = measurements(hits(teacher), hits(student))
    return diagnose(found.with_(values=(*found.values, *values)), **fields)


@pytest.mark.parametrize(
    "rest, leads",
    [
        (elsewhere(0.01, 0.0), True),
        (elsewhere(0.01, 0.001), True),  # not surely above 1 % of 0.9, surely below 4
        (elsewhere(0.01, 0.0091), False),
        (elsewhere(0.03, 0.008), False),  # may be more than 4 %
        (elsewhere(0.03, -0.001), True),
    ],
)
def test_without_controls_a_slice_is_the_verdict_where_the_rest_has_no_gap(rest, leads):
    gap = with_values(worst(0.6, 0.4).with_(n=20), rest, student=0.85)
    assert causes(gap) == (["false_success"] if leads else ["undetermined", "false_success"])


@pytest.mark.parametrize("rest, first", [(0.005, "false_success"), (0.04, "pipeline_fault")])
def test_a_slice_comes_before_the_pipeline_only_where_the_rest_has_no_gap(rest, first):
    """Most of the gap lies on the slice, and the own recipe closes it: a loop that left the slice out, or a fault."""
    own = run("same recipe", 0.9)
    found = with_values(
        worst(0.6, 0.4).with_(n=20), elsewhere(rest, rest - 0.01), student=0.85, controls=[own]
    )
    assert causes(found)[0] == first
    assert {"false_success", "pipeline_fault"} == set(causes(found))


def test_a_slice_on_which_the_teacher_is_beaten_explains_no_gap():
    score = measured(
        "accuracy", "teacher", "validation", Interval(0.1, 0.0, 0.2, 0.05, 50), group="camera=2"
    )
    gap = measured(
        "gap", "pair", "validation", Interval(-0.7, -0.8, -0.6, 0.05, 50), group="camera=2"
    )
    found = with_values(score, gap, student=0.7)
    assert causes(found)[0] == "undetermined"
    assert "scheme_mismatch" in causes(found)
    level = with_values(score, gap, student=0.9)
    assert causes(level)[0] == "scheme_mismatch"
    tried = [run("same recipe", 0.7), run("scratch", 0.7)]
    assert causes(with_values(score, gap, student=0.7, controls=tried))[0] == "undetermined"
    case = Case(measurements(hits(0.9), hits(0.7)))
    case = replace(
        case, measurements=case.measurements.with_(values=(*case.measurements.values, score, gap))
    )
    assert not explains_most(case)


def test_no_gap_is_open_where_the_teacher_is_weak_on_a_declared_slice_until_labels_were_tried():
    def told(high: float, *controls: ControlRun, slices=("camera",)) -> list[str]:
        interval = Interval(high - 0.1, high - 0.2, high, 0.05, 50)
        weak = measured("accuracy", "teacher", "validation", interval, group="camera=2")
        declared = {name: CAMERA for name in slices}
        return causes(with_values(weak, student=0.9, slices=declared, controls=controls))

    assert told(0.809) == ["undetermined", "no_gap"]  # below nine tenths of 0.9
    assert told(0.811) == ["no_gap"]
    assert told(0.809, slices=("lens",)) == ["no_gap"]
    assert told(0.809, run("scratch", 0.86)) == ["no_gap"]  # no better there
    noisy = control("scratch", [hits(0.98), hits(0.9)], path=(1,), recipe="scratch")
    assert told(0.809, noisy) == ["undetermined", "no_gap"]  # better in one of two seeds
    assert told(0.809, run("scratch", 0.98))[0] == "scheme_mismatch"


def test_what_is_open_of_a_slice_is_said_with_what_would_decide_it():
    interval = Interval(0.5, 0.4, 0.6, 0.05, 50)
    weak = measured("accuracy", "teacher", "validation", interval, group="camera=2", unit="share")
    gap = with_values(weak, student=0.9, slices={"camera": CAMERA})
    assert "on camera=2 the teacher itself scores 50.0 %" in gap.findings[0].evidence[0].text
    assert "Labels alone with at least 2 seeds" in gap.findings[0].would_change
    assert "on camera=2 the teacher itself" in gap.verdict


def test_without_a_gap_only_what_an_average_hides_is_told():
    rising = (run("same recipe", 0.7), run("longer", 0.8), run("next size up", 0.86))
    assert causes(diagnosed(*rising, teacher=0.7)) == ["no_gap"]
    hidden = diagnosed(*rising, teacher=0.7, worst=worst(0.4, 0.2))
    assert causes(hidden) == ["false_success", "no_gap"]
    broken = diagnosed(teacher=0.7, teacher_score=0.95, worst=worst(0.4, 0.2))
    assert causes(broken) == ["harness_fault", "false_success", "no_gap"]


def test_undetermined_without_controls_names_those_that_would_decide():
    gap = diagnosed()
    (finding,) = gap.findings
    assert (gap.cause, finding.confidence) == ("undetermined", "low")
    wanted = (
        "the same recipe, labels alone and gentler knowledge with a few seeds each, and the next "
        "size up: diagnose(controls=True)."
    )
    assert finding.remedy.text == f"Run {wanted}"
    assert finding.would_change == f"T{wanted[1:]}"
    assert finding.points.value == pytest.approx(0.2)


def test_undetermined_with_controls_names_the_fewest_seeds_and_what_was_left_out():
    few = control("scratch", seeds_of(0.72, 2), recipe="scratch", path=(1,))
    gap = diagnosed(run("same recipe", 0.7), few)
    assert gap.findings[0].remedy.text == (
        "Run more seeds of every control ('scratch' has 2): a larger budget."
    )
    left = diagnosed(run("same recipe", 0.7), few, left_out=("longer", "next size up"))
    assert left.findings[0].remedy.text == (
        "Run longer, next size up, and more seeds of every control ('scratch' has 2): a larger budget."
    )


def test_undetermined_leads_where_the_best_finding_is_no_more_than_even_odds():
    """An overconfident teacher: an easy training set looks the same, unless off train it is as sure of errors."""
    level = run("same recipe", 0.6), run("scratch", 0.6)
    for even in (told_by_confidence(), told_by_confidence(*level), told_by_confidence(surety=0.75)):
        assert causes(even) == ["undetermined", "overconfident_teacher"]
        assert even.findings[1].probability == EVEN
    more = told_by_confidence(*level, surety=0.95)
    assert causes(more) == ["overconfident_teacher"]
    assert more.findings[0].probability > EVEN
    assert math.isnan(more.findings[0].points.value)


def test_labels_that_the_teacher_memorized_come_before_the_loss_off_the_training_set():
    level = run("same recipe", 0.6), run("scratch", 0.6)
    train = hits(1.0), hits(1.0)
    assert causes(told_by_confidence(*level, surety=0.95, train=train)) == [
        "overconfident_teacher",
        "coverage",
    ]
    assert causes(told_by_confidence(*level, surety=0.75, train=train))[0] == "coverage"


def told_by_confidence(*controls: ControlRun, surety: float | None = None, train=None) -> Gap:
    """A teacher that leaves a thousandth of its probability to other classes, on a thousand samples.

    It is right on seven tenths of validation, and as sure there as `surety` says.
    """
    y = np.array([0.999])
    sure = Curve(
        name="confidence_profile", of="teacher", split="train", x_name="temperature", y_name="confidence",
        x=np.array([4.0]), y=y, low=y - 1e-4, high=y + 1e-4, n=np.array([1000]),
    )  # fmt: skip
    found = measurements(hits(0.7), hits(0.6), train=train).with_(curves=(sure,))
    if surety is not None:
        interval = Interval(surety, surety - 0.01, surety + 0.01, 0.005, 400)
        confidence = measured("confidence", "teacher", "validation", interval, unit="share")
        found = found.with_(values=(*found.values, confidence))
    return diagnose(found, controls, knowledge=knowledge_named("kl4"))


def test_a_loss_off_the_training_set_is_ranked_by_its_points():
    controls = run("same recipe", 0.7), run("longer", 0.84)
    all_of_it = diagnosed(*controls, train=(hits(0.95), hits(0.95)))
    assert causes(all_of_it) == ["coverage", "undertrained"]
    none_of_it = diagnosed(*controls, train=(hits(0.95), hits(0.75)))
    assert causes(none_of_it) == ["undertrained"]


def test_golden_verdict_of_an_earlier_teacher():
    gap = diagnosed(run("same recipe", 0.7), run(EARLIER, 0.8, altered=EARLIER))
    assert gap.verdict == (
        f"{GAP} Its teacher is too large: 10.0 points [6.6, 13.4], n = 400 come back with an earlier "
        "state of it."
    )


@pytest.mark.parametrize("n_seeds", [1, 2, 4])
def test_controls_that_differ_in_nothing_claim_nothing(n_seeds):
    runs = [hits(0.7)] * n_seeds
    arms = [
        control("same recipe", runs),
        control("scratch", runs, recipe="scratch", path=(1,)),
        control("longer", runs, fraction=2.0),
        control("next size up", runs, path=(32, 3)),
        control("smaller teacher", runs, path=(32, 12, 1)),
    ]
    assert causes(diagnosed(*arms)) == ["undetermined"]


def test_golden_verdict_of_several_causes():
    assert diagnosed(*EVERYTHING[:3], EVERYTHING[3], EVERYTHING[5]).verdict == (
        f"{GAP} Its targets are too harsh: 10.0 points [5.9, 14.1] (98.33 % interval), n = 400 come back "
        "with dist1 instead. It is still rising: longer training adds 2.0 points [0.9, 3.1], n = 40"
        "0. Its size bounds the remaining 8.0 points [5.3, 10.7], n = 400."
    )


def test_golden_verdict_of_a_student_that_is_better_off_alone():
    assert diagnosed(run("same recipe", 0.7), run("scratch", 0.8)).verdict == (
        f"{GAP} Its targets are too harsh: 10.0 points [6.6, 13.4], n = 400 come back with labels "
        "alone."
    )


def test_golden_verdict_of_a_student_that_could_use_its_teacher():
    own = run("same recipe", 0.7, recipe="scratch", path=(1,))
    assert diagnosed(own, run("knowledge: kl4", 0.8, recipe="kl4")).verdict == (
        f"{GAP} It learns from labels alone: 10.0 points [6.6, 13.4], n = 400 come with kl4 instead."
    )


def test_golden_verdict_of_what_is_not_decided():
    assert diagnosed().verdict == (
        f"{GAP} The evidence does not decide. The gap is +20.0 points [+16.0, +23.8], n = 400; no "
        "cause explains a share of it whose interval excludes zero."
    )


def test_golden_verdict_of_a_harness_fault():
    assert diagnosed(teacher=0.12, student=0.1).verdict == (
        "On validation the student scores 2.0 points [0.5, 3.4], n = 400 below its teacher. Teacher "
        "and data do not fit. On the student's own data the teacher scores 12.0 % [9.2, 15.6], "
        "n = 400."
    )


def test_golden_verdict_without_a_gap():
    assert diagnosed(teacher=0.7).verdict == (
        "On validation student and teacher cannot be told apart: teacher minus student is 0.0 points "
        "[−0.5, +0.5], n = 400."
    )
    assert diagnosed(teacher=0.7, student=0.9).verdict == (
        "On validation the student scores 20.0 points [16.0, 23.8], n = 400 above its teacher."
    )


def test_golden_verdict_of_a_hidden_slice_asks_for_controls():
    gap = diagnosed(student=0.89, worst=worst(0.4, 0.2))
    assert gap.verdict == (
        "On validation student and teacher cannot be told apart: teacher minus student is +1.0 points "
        "[−0.1, +2.1], n = 400. The average hides class=3, where it is 40.0 points [20.0, 60.0], "
        "n = 40 behind. What else there is takes control runs: the same recipe, labels alone and "
        "gentler knowledge with a few seeds each, and the next size up: diagnose(controls=True)."
    )


def test_the_unit_of_another_score_is_kept():
    gap = diagnose(measurements(hits(0.9), hits(0.7)), unit="")
    assert gap.verdict.startswith("On validation the student scores 0.2 [0.16, 0.238], n = 400")
    assert "points" not in gap.verdict


def disturbed(found: Measurements, split: str, seed: int = 0) -> Measurements:
    """The measurements with every number of one split replaced by another."""
    rng = np.random.default_rng(seed)

    def other(item):
        if item.split != split:
            return item
        low, value, high = sorted(rng.uniform(0, 1, 3))
        return item.with_(value=value, low=low, high=high, n=int(rng.integers(1, 99)))

    contributions = [
        item.with_(values=rng.integers(0, 2, len(item.values)).astype(float))
        if item.split == split
        else item
        for item in found.contributions
    ]
    return found.with_(
        values=tuple(other(item) for item in found.values), contributions=tuple(contributions)
    )


def full_measurements() -> Measurements:
    found = measurements(hits(0.9), hits(0.7), train=(hits(0.95), hits(0.8)))
    on_test = measured("worst_slice", "pair", "test", Interval(0.9, 0.8, 1.0, 0.0, 9), group="a=1")
    return found.with_(values=(*found.values, worst(0.3, 0.1), on_test))


@pytest.mark.parametrize("controls", [(), EVERYTHING], ids=["no controls", "controls"])
def test_validation_decides_and_test_does_not(controls):
    found = full_measurements()
    gap = diagnose(found, controls)
    other = disturbed(found, "test")
    assert other != found
    assert diagnose(other, controls) == gap
    assert diagnose(disturbed(found, "validation"), controls) != gap
    without = found.with_(
        values=tuple(item for item in found.values if item.split != "test"),
        contributions=tuple(item for item in found.contributions if item.split != "test"),
    )
    assert diagnose(without, controls) == gap


def test_the_gap_records_what_it_rests_on():
    gap = diagnosed(*EVERYTHING, budget=36, notes=("a note",))
    assert gap.study == "invented"
    assert (gap.budget, gap.notes) == (36, ("a note",))
    assert gap.spent == sum(arm.cost for arm in EVERYTHING)
    assert gap.controls == EVERYTHING
    assert (gap.teacher.value, gap.student.value) == (0.9, 0.7)
    assert gap.waterfall.start == gap.student
    assert gap.waterfall.end == gap.teacher
    assert gap.teacher.split == gap.student.split == "validation"
    assert Gap.model_validate_json(gap.model_dump_json()) == gap


def test_groups_widen_every_interval():
    """Samples of a group are right or wrong together: 400 of them are worth 20."""
    groups = np.arange(400) // 20
    free, grouped = diagnosed(*EVERYTHING), diagnosed(*EVERYTHING, groups=groups)
    by_cause = {finding.cause: finding.points for finding in free.findings}
    assert grouped.findings
    for finding in grouped.findings:
        if finding.cause in by_cause:
            alone = by_cause[finding.cause]
            assert finding.points.value == pytest.approx(alone.value)
            assert finding.points.high - finding.points.low > alone.high - alone.low
    wide, narrow = (gap.waterfall.steps[-1].points for gap in (grouped, free))
    assert wide.high - wide.low > narrow.high - narrow.low
