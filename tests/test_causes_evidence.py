"""Causes seen in measurements: each is fired by a case built by hand and silent in one just short of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import linregress

from gapkit.causes.case import Case
from gapkit.causes.catalog import (
    blind_layer,
    harness_fault,
    harsh_targets,
    input_gap,
    no_gap,
    optimization,
    overconfident_teacher,
    scheme_mismatch,
    undertrained,
    uniform_transfer,
)
from gapkit.causes.confidence import EVEN, NO_CONTROL
from gapkit.causes.teacher import weak_slice
from gapkit.diagnosis import diagnose, find_causes
from gapkit.gap import LIKE_TEACHER, VIEW, ControlRun
from gapkit.knowledge import Knowledge, hints, knowledge_named, response
from gapkit.measurement import Curve, Measurement, Measurements
from gapkit.probes.interval import Interval, measured
from tests.deciding_fixtures import N, control, hits, measurements, seeds_of

TEACHER, STUDENT = 0.9, 0.7


def value(name: str, of: str, mean: float, half: float = 0.02, **fields) -> Measurement:
    """A measurement on validation."""
    interval = Interval(mean, mean - half, mean + half, half / 1.96, N)
    return measured(name, of, "validation", interval, **fields)


def case(
    *values: Measurement | Curve,
    controls=(),
    teacher=TEACHER,
    student=STUDENT,
    train=None,
    **fields,
):
    found = measurements(hits(teacher), hits(student), train=train)
    found = found.with_(
        values=(*found.values, *(item for item in values if isinstance(item, Measurement))),
        curves=tuple(item for item in values if isinstance(item, Curve)),
    )
    return Case(found, {run.name: run for run in controls}, **fields)


def same(share=0.7, n_seeds=4, **fields) -> ControlRun:
    return control("same recipe", seeds_of(share, n_seeds), **fields)


def arm(name: str, share: float, n_seeds: int = 4, **fields) -> ControlRun:
    usual = {"scratch": {"path": (1,), "recipe": "scratch"}, "teacher-sized": {"path": (32, 32)}}
    return control(name, seeds_of(share, n_seeds)[::-1], **(usual.get(name, {}) | fields))


# harness_fault: other ways of calling the teacher


def order(places: list[int]) -> Curve:
    k = len(places)
    return Curve(
        name="class_order", of="teacher", split="validation", x_name="class", y_name="output",
        x=np.arange(k), y=np.array(places, float), low=np.full(k, np.nan), high=np.full(k, np.nan),
        n=np.ones(k),
    )  # fmt: skip


def arm_above(share: float) -> float:
    """The upper arm of the teacher's own interval."""
    own = measurements(hits(share), hits(share)).get("accuracy", of="teacher", split="validation")
    return own.high - own.value


def test_a_wrong_class_order_comes_with_the_right_one():
    gain = value("permuted_gain", "teacher", 0.5)
    finding = harness_fault(case(gain, order([2, 0, 1]), teacher=0.3, student=0.2))
    assert finding.points == gain
    assert (
        finding.remedy.text == "Reorder the teacher's outputs: logits[:, [2, 0, 1]] fit the labels."
    )
    assert finding.confidence == "high"
    assert finding.probability > 0.99
    many = [1, 0, *range(2, 40)]
    told = harness_fault(case(gain, order(many), teacher=0.3, student=0.2)).remedy.text
    assert told == "Reorder the teacher's outputs: class 0 is output 1, class 1 is output 0."


@pytest.mark.parametrize(
    "name, fix",
    [
        ("permuted_gain", "into the order of the labels"),
        ("train_mode_gain", "batch statistics anew"),
        ("student_view_gain", "the student's view"),
    ],
)
def test_a_way_must_gain_more_than_the_teachers_own_interval(name, fix):
    noise, half = arm_above(0.6), 0.02
    just = case(value(name, "teacher", noise + half + 1e-9, half), teacher=0.6, student=0.5)
    short = case(value(name, "teacher", noise + half - 1e-9, half), teacher=0.6, student=0.5)
    finding = harness_fault(just)
    assert fix in finding.remedy.text
    assert "6 ways were tried" in finding.evidence[0].limit
    assert harness_fault(short) is None


def test_a_wrong_view_leads_over_the_statistics_that_make_up_for_it():
    mode, view = (
        value("train_mode_gain", "teacher", 0.3),
        value("student_view_gain", "teacher", 0.3),
    )
    finding = harness_fault(case(mode, view, teacher=0.6, student=0.5))
    assert finding.points == view
    assert "student's view" in finding.remedy.text
    assert [item.measurement for item in finding.evidence] == [view, mode]


# overconfident_teacher


def sure(left: float, half: float = 1e-4, n: int = 1000, other: float = 0.3) -> Curve:
    """Confidence on train at τ = 1 and 4: all but `left` at 4."""
    y = 1 - np.array([left / 10, left, other])
    return Curve(
        name="confidence_profile", of="teacher", split="train", x_name="temperature", y_name="confidence",
        x=np.array([1.0, 4.0, 8.0]), y=y, low=y - half, high=y + half, n=np.full(3, n),
    )  # fmt: skip


KL4 = knowledge_named("kl4")


def test_overconfident_when_what_is_left_cannot_be_told_from_none():
    """Limit by hand: 3/1000, and the bound is value + half."""
    finding = overconfident_teacher(case(sure(0.0028), knowledge=KL4))
    assert math.isnan(finding.points.value)
    assert "no control" in finding.points.reason
    assert finding.evidence[0].measurement.value == pytest.approx(0.0028)
    assert (finding.probability, finding.confidence) == (EVEN, "low")  # easy data look the same
    assert overconfident_teacher(case(sure(0.003), knowledge=KL4)) is None
    assert overconfident_teacher(case(sure(0.0028, n=1100), knowledge=KL4)) is None
    assert overconfident_teacher(case(knowledge=KL4)) is None


def test_the_temperature_is_the_one_the_student_hears_the_teacher_at():
    assert overconfident_teacher(case(sure(0.02), knowledge=KL4)) is None
    assert overconfident_teacher(case(sure(0.02), knowledge=knowledge_named("kl1"))) is not None
    assert overconfident_teacher(case(sure(0.001), knowledge=knowledge_named("scratch"))) is None


def test_overconfident_gives_way_to_a_student_that_learns_from_it():
    taught = (same(0.8), arm("scratch", 0.7))
    assert overconfident_teacher(case(sure(0.001), knowledge=KL4, controls=taught)) is None
    level = (same(0.7), arm("scratch", 0.7))
    finding = overconfident_teacher(case(sure(0.001), knowledge=KL4, controls=level))
    assert math.isnan(finding.points.value)  # nothing was softer
    assert finding.probability == EVEN
    assert finding.evidence[1].measurement.name == "scratch minus same recipe"


@pytest.mark.parametrize(
    "student, surplus, probability",
    [(0.6, 0.005, NO_CONTROL), (0.6, -0.005, EVEN), (0.3, 0.035, NO_CONTROL), (0.3, 0.015, EVEN)],
)
def test_overconfident_is_more_than_even_where_it_is_surely_surer_than_right_by_a_fifth_of_the_gap(
    student, surplus, probability
):
    """Held against the accuracy's upper bound, .044 above .7: the limit is zero, and .08 of a gap of .4."""
    level = (same(student), arm("scratch", student))
    weak = case(teacher=0.7, student=student)
    right = weak.measurements.get("accuracy", of="teacher", split="validation").high
    assert right == pytest.approx(0.744, abs=0.002)
    confidence = value("confidence", "teacher", right + surplus + 0.01, half=0.01)
    about = {"knowledge": KL4, "teacher": 0.7, "student": student}
    found = overconfident_teacher(case(sure(0.001), confidence, controls=level, **about))
    assert found.probability == probability
    assert found.evidence[1].measurement.low == pytest.approx(surplus)
    few = (same(student), arm("scratch", student, n_seeds=1))
    found = overconfident_teacher(case(sure(0.001), confidence, controls=few, **about))
    assert found.probability == EVEN
    assert overconfident_teacher(case(sure(0.01), confidence, controls=level, **about)) is None


def test_overconfident_takes_the_points_of_a_higher_temperature_alone():
    """KL at 4 is softer than KL at 1; DIST at 1 is not, and what it gains is that of harsh targets."""
    kl1 = knowledge_named("kl1")
    own = same(0.7, recipe="kl1")
    warm = (own, arm("scratch", 0.7), arm("knowledge: kl4", 0.8, recipe="kl4"))
    empty = case(sure(0.001), knowledge=kl1, controls=warm)
    finding = overconfident_teacher(empty)
    assert finding.points.value == pytest.approx(0.1)
    assert finding.confidence == "high"
    assert harsh_targets(empty) is None
    other = (own, arm("scratch", 0.7), arm("knowledge: dist1", 0.8, recipe="dist1"))
    as_warm = case(sure(0.001), knowledge=kl1, controls=other)
    assert math.isnan(overconfident_teacher(as_warm).points.value)
    assert harsh_targets(as_warm).points.value == pytest.approx(0.1)
    soft = case(sure(0.1), knowledge=kl1, controls=warm)
    assert overconfident_teacher(soft) is None
    assert harsh_targets(soft).points.value == pytest.approx(0.1)


def test_overconfidence_is_nothing_to_a_student_of_logits_as_numbers():
    numbers = response("mse", 1.0, 1.0)
    assert overconfident_teacher(case(sure(0.001), knowledge=numbers)) is None


# blind_layer


def like(share: float, n_seeds: int = 4) -> ControlRun:
    """A fresh network like the teacher."""
    fields = {"path": ("teacher", "teacher"), "fraction": 0.5, "altered": LIKE_TEACHER}
    return arm(LIKE_TEACHER, share, n_seeds, **fields)


def layers(blind=0.2, fresh=0.25, near=0.9, near_fresh=0.5, importance=0.3) -> list[Measurement]:
    """Two teacher layers: "a", which training brings nearer, and "b"."""
    return [
        value("layer_importance", "teacher", 0.3, layer="a"),
        value("layer_importance", "teacher", importance, layer="b"),
        value("predictability", "pair", near, layer="a"),
        value("predictability", "pair", blind, layer="b"),
        value("predictability", "untrained", near_fresh, layer="a"),
        value("predictability", "untrained", fresh, layer="b"),
    ]


def test_blind_layer():
    finding = blind_layer(case(*layers()))
    assert "layer b" in finding.evidence[0].text
    assert math.isnan(finding.points.value)
    assert finding.probability == EVEN  # never the verdict
    level = blind_layer(case(*layers(blind=0.2, fresh=0.19)))
    assert level.probability == EVEN


@pytest.mark.parametrize(
    "changes",
    [
        {"importance": 0.019},  # its interval holds 0
        {"fresh": 0.179},  # the untrained student's bound lies below it
        {"near": 0.23},  # no other layer is predicted better beyond both intervals
        {"near_fresh": 0.89},  # training brought nothing nearer
    ],
)
def test_blind_layer_just_short(changes):
    assert blind_layer(case(*layers(**changes))) is None


def test_blind_layer_needs_an_untrained_student_to_compare_with():
    assert blind_layer(case(*(item for item in layers() if item.of != "untrained"))) is None


def test_blind_layer_by_another_architecture():
    finding = blind_layer(case(controls=(same(0.7), like(0.8))))
    assert finding.points.value == pytest.approx(0.1)
    assert finding.points.low > 0
    assert finding.probability > NO_CONTROL
    assert "gains +10.0 points" in finding.evidence[0].text
    assert "what the teacher's layers are made of" in finding.remedy.text
    seen = blind_layer(case(*layers(), controls=(same(0.7), like(0.8))))
    assert "what layer b is made of" in seen.remedy.text
    assert len(seen.evidence) == 2


def test_blind_layer_by_another_architecture_just_short():
    assert blind_layer(case(controls=(same(0.7), like(0.71)))) is None
    assert blind_layer(case(controls=(same(0.7), like(0.8, n_seeds=1)))) is None
    assert blind_layer(case(controls=(like(0.8),))) is None
    no_better = case(*layers(), controls=(same(0.7), like(0.7)))
    assert blind_layer(no_better) is None  # the layers are overruled
    unsure = case(*layers(), controls=(same(0.7), like(0.7, n_seeds=1)))
    assert blind_layer(unsure).probability == EVEN  # by the layers alone


def test_another_architecture_must_do_more_than_a_larger_student():
    def told(share, n_seeds=4):
        size = arm("next size up", share, n_seeds, path=(32, 3))
        return blind_layer(case(controls=(same(0.7), size, like(0.8))))

    assert told(0.8) is None  # it is the size
    larger = told(0.74)
    assert larger.points.value == pytest.approx(0.06)
    assert "size 3" in larger.evidence[0].text
    assert told(0.6).points.value == pytest.approx(
        0.1
    )  # a larger one that does worse excuses nothing
    assert told(0.8, n_seeds=1).points.value == pytest.approx(0.1)


# uniform_transfer

PAIRS = {("s1", "a"): "hint", ("s2", "b"): "hint"}


def important(a: float, b: float) -> list[Measurement]:
    return [
        value("layer_importance", "teacher", mean, layer=layer)
        for layer, mean in (("a", a), ("b", b))
    ]


def test_uniform_transfer():
    finding = uniform_transfer(case(*important(0.01, 0.3), knowledge=hints(PAIRS)))
    assert finding.remedy.text.endswith("none on a.")
    assert [item.measurement.layer for item in finding.evidence] == ["a", "b"]
    assert finding.confidence == "moderate"
    apart = (*hints({("s1", "a"): "hint"}), *hints({("s2", "b"): "hint"}))
    assert uniform_transfer(case(*important(0.01, 0.3), knowledge=apart)) is not None


def test_uniform_transfer_just_short():
    def told(a, b, knowledge):
        return uniform_transfer(case(*important(a, b), knowledge=knowledge))

    assert told(0.021, 0.3, hints(PAIRS)) is None  # both matter
    assert told(0.01, 0.019, hints(PAIRS)) is None  # neither does
    weighed = hints({pair: weight for pair, weight in zip(PAIRS, (0.1, 0.9))})
    assert told(0.01, 0.3, weighed) is None
    assert told(0.01, 0.3, hints({("s1", "a"): "hint"})) is None
    assert told(0.01, 0.3, KL4) is None
    off = (Knowledge(kind="feature", loss="hint", layers=tuple(PAIRS), weight=0.0),)
    assert told(0.01, 0.3, off) is None


def test_uniform_transfer_by_what_the_student_gains_without_its_hints():
    """All other knowledge together, 0.8 and 0.76, against 0.7; importance is not asked."""
    others = (arm("scratch", 0.8), arm("knowledge: dist1", 0.76, recipe="dist1"))
    found = case(controls=(same(0.7), *others), knowledge=hints(PAIRS))
    finding = uniform_transfer(found)
    assert finding.points.value == pytest.approx(0.08)
    assert finding.confidence == "high"
    assert "Without its hints" in finding.evidence[0].text
    assert harsh_targets(found) is None  # layers are no harsh answers
    both = uniform_transfer(
        case(*important(0.01, 0.3), controls=(same(0.7), *others), knowledge=hints(PAIRS))
    )
    assert both.points.value == pytest.approx(0.08)
    assert len(both.evidence) == 3


def test_uniform_transfer_by_controls_just_short():
    def told(*controls, knowledge=None):
        return uniform_transfer(case(controls=controls, knowledge=knowledge or hints(PAIRS)))

    assert told(same(0.7), arm("scratch", 0.8)) is not None
    assert told(same(0.7), arm("scratch", 0.71)) is None
    assert told(same(0.7), arm("scratch", 0.6)) is None
    assert told(same(0.7), arm("scratch", 0.8, n_seeds=1)) is None
    assert told(same(0.7, n_seeds=1), arm("scratch", 0.8)) is None
    assert told(same(0.7), arm("scratch", 0.8), knowledge=hints({("s1", "a"): "hint"})) is None
    weighed = hints({pair: weight for pair, weight in zip(PAIRS, (0.1, 0.9))})
    assert told(same(0.7), arm("scratch", 0.8), knowledge=weighed) is None
    unclear = case(
        *important(0.01, 0.3),
        controls=(same(0.7), arm("scratch", 0.71)),
        knowledge=hints(PAIRS),
    )
    assert math.isnan(uniform_transfer(unclear).points.value)  # by the layers alone


# scheme_mismatch


def test_no_slice_is_weak_beside_an_average_that_is_not_above_zero():
    below = measurements(hits(0.9) - 2, hits(0.9) - 2)  # such as a log-likelihood
    interval = Interval(-1.4, -1.5, -1.3, 0.05, 50)
    slice_score = measured("accuracy", "teacher", "validation", interval, group="camera=2")
    columns = {"camera": np.where(np.arange(400) < 350, 0, 2)}
    found = Case(below.with_(values=(*below.values, slice_score)), slices=columns)
    assert weak_slice(found) is None
    above = measurements(hits(0.9) + 2, hits(0.9) + 2)
    high = slice_score.with_(value=2.5, low=2.4, high=2.6)
    assert weak_slice(Case(above.with_(values=(*above.values, high)), slices=columns)) == high


def test_a_control_that_beats_the_teacher():
    """By a tenth of the teacher's score, or not quite."""
    finding = scheme_mismatch(case(teacher=0.7, controls=(same(0.7), arm("scratch", 0.8))))
    assert finding.points.value == pytest.approx(0.1)
    assert finding.confidence == "high"
    assert "trained by scratch" in finding.evidence[0].text
    for arms in ((0.765, 4), (0.8, 1)):
        other = arm("scratch", arms[0], n_seeds=arms[1])
        assert scheme_mismatch(case(teacher=0.7, controls=(same(0.7), other))) is None


def test_a_student_that_is_ahead_has_no_gap_first():
    ahead = case(teacher=0.7, student=0.9)
    assert scheme_mismatch(ahead).points.value == pytest.approx(0.2)
    assert [item.cause for item in find_causes(ahead)] == ["no_gap", "scheme_mismatch"]
    assert scheme_mismatch(case(teacher=0.7, student=0.7)) is None


def slice_of(gap: float, teacher: float, group: str = "camera=2") -> list[Measurement]:
    return [
        value("gap", "pair", gap, group=group),
        value("accuracy", "teacher", teacher, group=group),
    ]


def test_a_slice_on_which_the_student_is_ahead():
    finding = scheme_mismatch(case(*slice_of(-0.3, 0.5)))
    assert (finding.points.value, finding.points.group) == (pytest.approx(0.3), "camera=2")
    assert "on camera=2" in finding.remedy.text
    low = measurements(hits(0.9), hits(0.7)).get("accuracy", of="teacher", split="validation").low
    assert scheme_mismatch(case(*slice_of(-0.0901, low - 0.0201))) is not None
    assert scheme_mismatch(case(*slice_of(-0.0899, low - 0.0201))) is None  # a tenth of .9
    assert scheme_mismatch(case(*slice_of(-0.0901, low - 0.0199))) is None
    own = slice_of(-0.3, 0.5, "difficulty=confidence up to 0.5")
    assert scheme_mismatch(case(*own)) is None


def test_a_control_that_beats_the_teacher_on_a_declared_slice():
    """The teacher is wrong on the last forty of 400, the arms right; paired over all looks."""
    late = np.where(np.arange(N) < N - 40, "early", "late")
    runs = [np.roll(run, 120) for run in seeds_of(0.7)]
    arms = (control("same recipe", runs), arm("scratch", 0.6))
    finding = scheme_mismatch(case(controls=arms, slices={"part": late}))
    assert finding.points.group == "part=late"
    assert finding.points.level == pytest.approx(1 - 0.05 / 4)
    assert finding.points.value == pytest.approx(np.mean([run[-40:].mean() for run in runs]))
    assert scheme_mismatch(case(controls=arms)) is None
    few = np.where(np.arange(N) < N - 19, "early", "late")
    assert scheme_mismatch(case(controls=arms, slices={"part": few})) is None


def test_a_teacher_that_ages():
    low = measurements(hits(0.9), hits(0.7)).get("accuracy", of="teacher", split="validation").low
    old = value("accuracy", "teacher", low - 0.0201, group="year=2024")
    finding = scheme_mismatch(case(old))
    assert math.isnan(finding.points.value)
    assert "year=2024" in finding.remedy.text
    assert scheme_mismatch(case(old.with_(high=low))) is None
    assert scheme_mismatch(case(old.with_(group="camera=2024"))) is None


# input_gap


def shown(share: float, n_seeds: int = 4) -> ControlRun:
    """The same student on the teacher's view."""
    return arm(VIEW, share, n_seeds, altered=VIEW)


def test_input_gap_by_the_teachers_view():
    finding = input_gap(case(controls=(same(0.7), shown(0.8)), same_view=False))
    assert finding.points.value == pytest.approx(0.1)
    assert finding.confidence == "high"
    assert VIEW in finding.evidence[0].text
    assert input_gap(case(controls=(same(0.7), shown(0.8)))) is None  # both see the same


def test_input_gap_by_the_teachers_view_just_short():
    def told(*controls):
        return input_gap(case(*views(0.3, 0.25, 0.8), controls=controls, same_view=False))

    assert told(same(0.7), shown(0.71)) is None
    assert told(same(0.7), shown(0.6)) is None
    assert told(same(0.7), shown(0.8, n_seeds=1)) is None
    sized = arm("teacher-sized", 0.8, agreement=0.95)
    assert told(same(0.7), shown(0.71), sized) is None  # the view decides over the size
    assert told(same(0.7), sized).points.value == pytest.approx(0.1)


def test_input_gap_by_a_teacher_sized_student_where_it_cannot_take_the_teachers_view():
    sized = (arm("teacher-sized", 0.8, agreement=0.95),)
    other = case(controls=sized, same_view=False)
    assert input_gap(other).points.value == pytest.approx(0.1)
    assert optimization(other) is None
    assert input_gap(case(controls=sized)) is None


def test_input_gap_by_a_teacher_sized_student_just_short():
    for sized in (
        arm("teacher-sized", 0.8, agreement=0.89),  # it does not learn what it is shown
        arm("teacher-sized", 0.897, agreement=0.95),  # it reaches the teacher
        arm("teacher-sized", 0.8, n_seeds=1, agreement=0.95),
    ):
        assert input_gap(case(controls=(sized,), same_view=False)) is None


def views(trained: float, fresh: float, bound: float) -> list[Measurement]:
    return [
        value("predictability", "pair", trained, layer="a"),
        value("predictability", "untrained", fresh, layer="a"),
        value("hint_bound", "teacher", bound, layer="a"),
    ]


def test_input_gap_by_layers_alone():
    finding = input_gap(case(*views(0.3, 0.25, 0.8), same_view=False))
    assert finding.confidence == "moderate"
    assert "layer, a," in finding.evidence[0].text
    assert input_gap(case(*views(0.3, 0.25, 0.8))) is None
    assert input_gap(case(*views(0.761, 0.25, 0.8), same_view=False)) is None
    assert input_gap(case(*views(0.3, 0.761, 0.8), same_view=False)) is None
    assert input_gap(case(*views(0.3, 0.25, 0.8)[:2], same_view=False)) is None


# undertrained, by the user's own history


def rise(slope: float, n: int = 40, noise: float = 0.01) -> tuple[float, ...]:
    """Scores that rise early and then by `slope` an epoch, with a zigzag."""
    epochs = np.arange(n)
    return tuple(0.5 + slope * epochs + noise * (-1.0) ** epochs)


def test_undertrained_by_the_last_quarter_of_the_history():
    history = rise(0.01)
    finding = undertrained(case(student_history=history))
    slope = finding.evidence[0].measurement
    line = linregress(np.arange(10), history[-10:])
    assert slope.value == pytest.approx(line.slope)
    assert slope.high - slope.value == pytest.approx(2.306004 * line.stderr, rel=1e-6)
    assert math.isnan(finding.points.value)
    assert finding.confidence == "moderate"
    assert finding.remedy.fraction == 2.0


def test_undertrained_by_history_just_short():
    for flat in (rise(0.0), rise(-0.01), rise(0.0015), rise(0.01)[:19], ()):
        assert undertrained(case(student_history=flat)) is None
    broken = (*rise(0.01)[:-1], math.nan)
    assert undertrained(case(student_history=broken)) is None


def test_a_control_decides_over_the_history():
    arms = (same(0.7), arm("longer", 0.705, fraction=2.0))
    assert undertrained(case(controls=arms, student_history=rise(0.01))) is None


# how they are ranked and worded


def test_what_no_control_measured_comes_last():
    size = arm("next size up", 0.86, path=(32, 3))
    found = find_causes(case(*layers(), controls=(same(0.7), arm("scratch", 0.7), size)))
    assert [item.cause for item in found] == ["capacity", "blind_layer"]


def test_without_controls_evidence_is_named_with_a_low_word_and_no_points():
    found: Measurements = case(*layers()).measurements
    gap = diagnose(found, student_history=rise(0.01))
    assert [item.cause for item in gap.findings] == ["undertrained", "blind_layer"]
    assert gap.verdict == (
        "On validation the student scores 20.0 points [16.0, 23.8], n = 400 below its teacher. Its own "
        "scores were still rising when its training ended. One of its teacher's layers that matter came no "
        "nearer by training. What else there is takes control runs: the same recipe, labels alone and gentler "
        "knowledge with a few seeds each, and the next size up: diagnose(controls=True)."
    )


def test_golden_clauses_of_measured_points():
    arms = (
        same(0.7, recipe="kl1"), arm("scratch", 0.7), arm("knowledge: kl4", 0.8, recipe="kl4")
    )  # fmt: skip
    found = case(sure(0.001)).measurements
    verdict = diagnose(found, arms, knowledge=knowledge_named("kl1")).verdict
    assert "Its teacher's answers say little beyond the labels: 10.0 points [" in verdict
    assert verdict.endswith("n = 400 come with others.")
    ahead = diagnose(case(*slice_of(-0.3, 0.5)).measurements).verdict
    assert "30.0 points [28.0, 32.0], n = 400 more are reached without it on camera=2." in ahead


def test_no_gap_is_as_sure_as_nine_tenths_of_the_teacher_are_kept():
    sure_of_it = no_gap(case(teacher=0.7, student=0.7))
    assert sure_of_it.probability > 0.99
    wide = measurements(hits(0.7, 20), hits(0.65, 20))
    unsure = no_gap(Case(wide))
    assert unsure.probability < 0.9
    assert unsure.confidence != "high"
