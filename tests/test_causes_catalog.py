"""Every cause is fired by a case built by hand, and stays silent in one just short of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from gapkit.causes.case import Case
from gapkit.causes.catalog import (
    CAUSES,
    SUCCESS,
    capacity,
    coverage,
    explains_most,
    false_success,
    harness_fault,
    harsh_targets,
    no_gap,
    optimization,
    pipeline_fault,
    scheme_mismatch,
    teacher_gap,
    undertrained,
)
from gapkit.causes.confidence import NO_CONTROL, ONE_MODEL
from gapkit.causes.scores import hides_most
from gapkit.gap import EARLIER, HALF, RATE, ControlRun, Finding
from gapkit.knowledge import hints, knowledge_named
from gapkit.probes.interval import Interval, measured
from tests.deciding_fixtures import N, control, hits, measurements, seeds_of

TEACHER, STUDENT = 0.9, 0.7


def case(*controls: ControlRun, teacher=TEACHER, student=STUDENT, **fields) -> Case:
    """A case of nested hits: whoever scores more is right wherever the other is."""
    about = {key: fields.pop(key) for key in ("train", "chance", "worst", "test") if key in fields}
    found = measurements(hits(teacher), hits(student), **about)
    return Case(found, {run.name: run for run in controls}, **fields)


def same(share=0.7, n_seeds=4, **fields) -> ControlRun:
    return control("same recipe", seeds_of(share, n_seeds), **fields)


def arm(name: str, share: float, n_seeds: int = 4, **fields) -> ControlRun:
    """A control of each kind, on the path and with the recipe that it has in the standard list.

    Its seeds rise where those of the same recipe fall: paired by seed they disagree by two points.
    """
    usual = {
        "scratch": {"path": (1,), "recipe": "scratch"},
        "knowledge: dist1": {"recipe": "dist1"},
        "shorter": {"fraction": 0.5},
        "longer": {"fraction": 2.0},
        "next size up": {"path": (32, 3)},
        "smaller teacher": {"path": (32, 12, 1)},
        "teacher-sized": {"path": (32, 32)},
        **{name: {"altered": name} for name in (HALF, RATE, EARLIER)},
    }
    return control(name, seeds_of(share, n_seeds)[::-1], **(usual.get(name, {}) | fields))


def points(finding: Finding | None) -> float:
    assert finding is not None
    assert finding.evidence
    return finding.points.value


@pytest.mark.parametrize("sized, found", [(0.74, True), (0.88, False)])
def test_samples_are_enough_where_a_larger_student_gains_most_of_what_is_lost_off_train(
    sized, found
):
    """Lost off train beyond the teacher: 20 points. 4 of them come back with the size, or 18."""
    larger = arm("teacher-sized", sized)
    evidence = case(same(0.7), larger, train=(hits(0.99), hits(0.99)))
    assert (coverage(evidence) is not None) == found
    few = case(same(0.7), arm("teacher-sized", 0.88, n_seeds=1), train=(hits(0.99), hits(0.99)))
    assert coverage(few) is not None


def test_no_gap_when_the_paired_interval_holds_zero():
    finding = no_gap(case(teacher=0.7, student=0.7))
    assert points(finding) == 0.0
    assert finding.points.low < 0 < finding.points.high
    assert "zero lies within" in finding.evidence[0].limit
    # Ten of 400 samples, all to the teacher's good: 11 discordant of Agresti and Min's table.
    se = math.sqrt(11 - 100 / 402) / 402
    assert 10 / 402 - 1.96 * se > 0
    assert no_gap(case(teacher=0.725, student=0.7)) is None


@pytest.mark.parametrize(
    "n_samples, shares, small",
    [
        (2_000, (0.9, 0.89), True),  # 1.0 point: may be below 0.9, surely below 3.6
        (40_000, (0.9, 0.89), False),  # 1.0 point: surely above 0.9
        (40_000, (0.9, 0.893), True),  # surely below 0.9
        (400, (0.9, 0.8775), False),  # 2.25 points: above zero, and may be above 3.6
    ],
)
def test_no_gap_where_the_gap_is_too_small_to_act_on(n_samples, shares, small):
    sides = (np.arange(n_samples) < round(share * n_samples) for share in shares)
    apart = measurements(*(side.astype(float) for side in sides))
    found = no_gap(Case(apart))
    assert (found is not None) == small
    if n_samples == 2_000:
        assert found.points.low > 0
        assert found.evidence[0].limit.endswith("not surely above it")


def test_no_gap_when_the_student_is_ahead_says_so():
    finding = no_gap(case(teacher=0.7, student=0.9))
    assert points(finding) == pytest.approx(-0.2)
    assert finding.evidence[0].limit == "zero: the student is ahead"
    assert finding.would_change.endswith("is no longer ahead.")


def test_no_gap_counts_samples_that_go_both_ways():
    """The same two-and-a-half points are noise when the models miss different samples."""
    apart = measurements(hits(0.725), hits(0.7, shift=100))
    assert no_gap(Case(apart)).points.value == pytest.approx(0.025)


def test_harness_fault_by_chance():
    finding = harness_fault(case(teacher=0.12, student=0.1, chance=0.1))
    assert finding.confidence == "high"
    assert "best constant answer, which scores 10.0 %" in finding.evidence[0].limit
    assert math.isnan(finding.points.value)
    assert "nobody said" in finding.points.reason
    assert harness_fault(case(teacher=0.14, student=0.1, chance=0.1)) is None


def test_harness_fault_by_claim():
    finding = harness_fault(case(teacher=0.7, teacher_score=0.9))
    assert finding.confidence == "moderate"
    assert points(finding) == pytest.approx(0.2)
    assert (finding.points.low, finding.points.high) == pytest.approx(
        (0.9 - finding.evidence[0].measurement.high, 0.9 - finding.evidence[0].measurement.low)
    )
    high = case(teacher=0.7).measurements.get("accuracy", of="teacher", split="validation").high
    assert harness_fault(case(teacher=0.7, teacher_score=high + 1e-6)) is not None
    assert harness_fault(case(teacher=0.7, teacher_score=high - 1e-6)) is None
    assert harness_fault(case(teacher=0.7, teacher_score=0.5)) is None  # better than believed


def satterthwaite(*parts):
    """Degrees of freedom of a sum of variances, each with its own."""
    return sum(v for v, _ in parts) ** 2 / sum(v**2 / df for v, df in parts)


def test_pipeline_fault_holds_one_run_against_the_spread_of_runs():
    """By hand: t(df)·√(s²(1 + 1/4) + var over samples / n) around the mean difference, df after Satterthwaite."""
    finding = pipeline_fault(case(same(0.8)))
    assert points(finding) == pytest.approx(0.1)
    runs = same(0.8)
    spread = np.std(runs.scores, ddof=1) ** 2 * 1.25
    sample = np.var(runs.contributions.mean(0) - hits(STUDENT), ddof=1) / N
    half = t.ppf(0.975, satterthwaite((spread, 3), (sample, N - 1))) * math.sqrt(spread + sample)
    assert finding.points.high - finding.points.value == pytest.approx(half, rel=1e-6)
    assert finding.confidence == "high"


def test_pipeline_fault_just_short():
    wide = control("same recipe", seeds_of(0.8, 4, spread=0.06))
    assert np.mean(wide.scores) == pytest.approx(0.8)
    assert pipeline_fault(case(wide)) is None  # one run of four lies as far off as the user's
    assert pipeline_fault(case(same(0.71))) is None
    assert pipeline_fault(case(same(0.6))) is None
    assert pipeline_fault(case(same(0.8, n_seeds=2))) is None  # too few of the recipe itself
    apart = control("same recipe", seeds_of(0.8, 2, spread=0.03))
    assert pipeline_fault(case(apart)) is None  # t with one degree of freedom, or little more


def test_pipeline_fault_of_few_seeds_takes_the_spread_of_all_controls():
    """By hand: t(df)·√(s²(1 + 1/3) + var over samples / n), s² = SS within arms / df."""
    own, steady = same(0.8, n_seeds=3), arm("scratch", 0.6, n_seeds=6)
    finding = pipeline_fault(case(own, steady))
    squares = sum(float(((run.scores - run.mean) ** 2).sum()) for run in (own, steady))
    sample = np.var(own.contributions.mean(0) - hits(STUDENT), ddof=1) / N
    df = satterthwaite((squares / 7 * (4 / 3), 7), (sample, N - 1))
    half = t.ppf(0.975, df) * math.sqrt(squares / 7 * (4 / 3) + sample)
    assert points(finding) == pytest.approx(0.1)
    assert finding.points.high - finding.points.value == pytest.approx(half, rel=1e-6)
    assert finding.confidence == "moderate"  # three seeds


def test_pipeline_fault_of_many_seeds_asks_no_other_control():
    wild = control("scratch", seeds_of(0.6, 4, spread=0.2), recipe="scratch", path=(1,))
    alone, beside = pipeline_fault(case(same(0.8))), pipeline_fault(case(same(0.8), wild))
    assert beside.points.low == pytest.approx(alone.points.low)
    few = case(same(0.8, n_seeds=3), wild)
    assert pipeline_fault(few) is None  # three seeds borrow the spread of the wild ones
    assert pipeline_fault(case(same(0.8, n_seeds=3))) is not None


def test_samples_that_depend_on_each_other_widen_what_rests_on_them():
    """All that the student is behind lies in a few groups: fewer of them tell less than as many samples."""
    groups = np.arange(N) // 40
    train = {"train": (hits(0.95), hits(0.95))}
    alone, grouped = case(same(0.8), **train), case(same(0.8), groups=groups, **train)
    for rule in (pipeline_fault, coverage):
        wide = rule(grouped)
        known = rule(alone).points
        assert wide is None or wide.points.high - wide.points.low > 1.5 * (known.high - known.low)
    loss, wide_loss = alone.excess_loss, grouped.excess_loss
    assert wide_loss.high - wide_loss.low > 1.5 * (loss.high - loss.low)


def test_harsh_targets_names_the_best_arm_and_tells_of_scratch():
    finding = harsh_targets(case(same(), arm("scratch", 0.74), arm("knowledge: dist1", 0.8)))
    assert points(finding) == pytest.approx(0.1)
    assert finding.remedy.knowledge == "dist1"
    assert finding.remedy.text == "Train with dist1 instead of kl4."
    assert finding.confidence == "high"
    assert finding.points.level == pytest.approx(0.975)  # two arms were looked at
    beside = finding.evidence[1]
    assert beside.measurement.value == pytest.approx(0.04)
    assert "better than its distilled self" in beside.text


def test_harsh_targets_by_scratch_needs_no_second_sentence():
    finding = harsh_targets(case(same(), arm("scratch", 0.8)))
    assert finding.remedy.knowledge == "scratch"
    assert len(finding.evidence) == 1
    assert "training on labels alone gains" in finding.evidence[0].text


@pytest.mark.parametrize("share, says", [(0.66, "worse than"), (0.70, "level with")])
def test_harsh_targets_says_where_labels_alone_stand(share, says):
    found = harsh_targets(case(same(), arm("scratch", share), arm("knowledge: dist1", 0.8)))
    assert says in found.evidence[1].text


def test_harsh_targets_just_short():
    assert harsh_targets(case(same(), arm("scratch", 0.705))) is None
    assert harsh_targets(case(same(0.8), arm("scratch", 0.7))) is None
    assert harsh_targets(case(same(), arm("scratch", 0.8, n_seeds=1))) is None
    assert harsh_targets(case(same(n_seeds=1), arm("scratch", 0.8))) is None
    assert harsh_targets(case(arm("scratch", 0.8), arm("knowledge: dist1", 0.7))) is None


def test_harsh_targets_is_widened_for_every_arm_looked_at():
    """The same difference is claimed among two arms and not among many."""
    rng = np.random.default_rng(0)

    def noisy(share, name, recipe):
        runs = [(rng.permutation(N) < share * N).astype(float) for _ in range(4)]
        return control(name, runs, recipe=recipe)

    own, better = noisy(0.7, "same recipe", "kl4"), noisy(0.74, "knowledge: dist1", "dist1")
    few = case(own, better)
    many = case(own, better, *(arm(f"knowledge: {i}", 0.6, recipe=str(i)) for i in range(60)))
    assert harsh_targets(few).points.low > 0
    assert many.looks == 61
    assert harsh_targets(many) is None


def pool(*shares: float) -> list[ControlRun]:
    """Arms of other knowledge with one seed each: no single one of them can be clear."""
    return [
        control(f"knowledge: {i}", [hits(share)], recipe=f"k{i}") for i, share in enumerate(shares)
    ]


def test_harsh_targets_by_all_other_knowledge_together_where_no_single_arm_is_clear():
    finding = harsh_targets(case(same(), *pool(0.79, 0.8, 0.81)))
    assert points(finding) == pytest.approx(0.1)  # the mean of all, not the best
    assert finding.remedy.knowledge == "k2"
    assert "all kinds of it together" in finding.evidence[0].text
    assert finding.evidence[0].limit == "zero"
    assert finding.points.level == pytest.approx(0.95)  # nothing was picked


def test_harsh_targets_by_the_pool_hold_longer_trainings_for_the_own_knowledge():
    """Two seeds of the own recipe leave it open; longer ones that gain nothing tell."""
    own, kinds = control("same recipe", [hits(0.62), hits(0.78)]), pool(0.8, 0.8, 0.81, 0.79)
    assert harsh_targets(case(own, *kinds)) is None
    longer = arm("longer", 0.71, n_seeds=6)
    finding = harsh_targets(case(own, longer, *kinds))
    assert points(finding) == pytest.approx(0.8 - (2 * 0.7 + 6 * 0.71) / 8, abs=1e-3)


def test_harsh_targets_by_the_pool_just_short():
    assert harsh_targets(case(same(), *pool(0.8))) is None  # one training of other knowledge
    assert harsh_targets(case(same(), *pool(0.72, 0.71, 0.7))) is None
    assert harsh_targets(case(same(n_seeds=1), *pool(0.79, 0.8, 0.81))) is None
    assert harsh_targets(case(same(), *pool(0.9, 0.5, 0.5))) is None  # one lucky run of three


def test_harsh_targets_are_answers_and_not_layers_alone():
    layers = hints({("s", "a"): "hint"})
    assert harsh_targets(case(same(), arm("scratch", 0.8), knowledge=layers)) is None
    both = (*layers, *knowledge_named("kl4"))
    assert harsh_targets(case(same(), arm("scratch", 0.8), knowledge=both)) is not None
    alone = same(recipe="scratch", path=(1,))
    taught = arm("knowledge: dist1", 0.8)
    assert harsh_targets(case(alone, taught, knowledge=knowledge_named("scratch"))) is not None


def test_teacher_gap():
    finding = teacher_gap(case(same(), arm("smaller teacher", 0.76)))
    assert points(finding) == pytest.approx(0.06)
    assert finding.remedy.size == "12"
    assert teacher_gap(case(same(), arm("smaller teacher", 0.72))) is None
    assert teacher_gap(case(same(), arm("smaller teacher", 0.6))) is None
    assert teacher_gap(case(same(), arm("smaller teacher", 0.76, n_seeds=1))) is None
    assert teacher_gap(case(arm("smaller teacher", 0.76))) is None


def test_teacher_gap_by_an_earlier_state():
    finding = teacher_gap(case(same(), arm(EARLIER, 0.76)))
    assert points(finding) == pytest.approx(0.06)
    assert (finding.remedy.source, finding.remedy.size) == ("checkpoint", "")
    assert "an earlier state of the teacher" in finding.evidence[0].text
    assert finding.points.level == pytest.approx(0.95)
    assert teacher_gap(case(same(), arm(EARLIER, 0.71))) is None
    assert teacher_gap(case(same(), arm(EARLIER, 0.76, n_seeds=1))) is None


@pytest.mark.parametrize("smaller, earlier, size", [(0.8, 0.76, "12"), (0.76, 0.8, "")])
def test_teacher_gap_takes_the_better_of_both_and_pays_for_the_choice(smaller, earlier, size):
    finding = teacher_gap(case(same(), arm("smaller teacher", smaller), arm(EARLIER, earlier)))
    assert points(finding) == pytest.approx(0.1)
    assert finding.remedy.size == size
    assert (finding.remedy.source == "checkpoint") == (size == "")
    assert finding.points.level == pytest.approx(0.975)


def test_undertrained_is_held_against_the_same_knowledge():
    finding = undertrained(case(same(), arm("longer", 0.76)))
    assert points(finding) == pytest.approx(0.06)
    assert (finding.remedy.fraction, finding.remedy.knowledge) == (2.0, "kl4")
    aimed = arm("longer", 0.81, recipe="dist1")
    against = undertrained(case(same(), arm("knowledge: dist1", 0.76), aimed))
    assert points(against) == pytest.approx(0.05)
    assert against.remedy.knowledge == "dist1"


def test_undertrained_is_held_against_other_knowledge_where_that_is_clearly_better():
    """What gentler targets return is theirs: 0.1 of the 0.13 that longer training of the own recipe reaches."""
    better = undertrained(case(same(), arm("knowledge: dist1", 0.8), arm("longer", 0.83)))
    assert points(better) == pytest.approx(0.03)
    assert "over other knowledge" in better.evidence[0].text
    level = undertrained(case(same(), arm("knowledge: dist1", 0.71), arm("longer", 0.83)))
    assert points(level) == pytest.approx(0.13)
    assert undertrained(case(same(), arm("knowledge: dist1", 0.83), arm("longer", 0.8))) is None


def test_undertrained_just_short():
    assert undertrained(case(same(), arm("longer", 0.72))) is None
    assert undertrained(case(same(), arm("longer", 0.66))) is None
    assert undertrained(case(same(), arm("longer", 0.76, n_seeds=1))) is None
    assert undertrained(case(same(), arm("longer", 0.81, recipe="dist1"))) is None
    apart = arm("longer", 0.76, first_seed=10)
    assert undertrained(case(same(), apart)) is None  # no seed in common: not told apart from luck


def test_undertrained_by_two_doublings_where_one_is_not_clear():
    """From half the length to twice is twice the gain at the same width; half of it is one doubling's."""
    own = control("same recipe", seeds_of(0.7, 2, spread=0.02))
    twice = arm("longer", 0.74, n_seeds=2, fraction=2.0)
    half = arm("shorter", 0.6, n_seeds=2, fraction=0.5)
    assert undertrained(case(own, twice)) is None
    found = case(own, twice, half)
    both = found.difference("longer", twice, half, looks=2)
    finding = undertrained(found)
    assert points(finding) == pytest.approx(0.07)
    assert finding.points.low == pytest.approx(both.low / 2)
    fallen = arm("shorter", 0.71, n_seeds=2, fraction=0.5)
    assert undertrained(case(own, twice, fallen)) is None  # it does not rise on the way


@pytest.mark.parametrize("longer, found", [(0.728, True), (0.722, False)])
def test_two_doublings_count_only_while_the_second_gains_a_quarter_of_the_first(longer, found):
    """The first gains a tenth; a curve that levels off on the way promises nothing more."""
    own = control("same recipe", seeds_of(0.7, 2, spread=0.02))
    half = arm("shorter", 0.6, n_seeds=2, fraction=0.5)
    twice = arm("longer", longer, n_seeds=2, fraction=2.0)
    assert (undertrained(case(own, twice, half)) is not None) == found


def test_optimization_by_another_rate():
    finding = optimization(case(same(), arm(RATE, 0.76).with_(rate=0.1)))
    assert points(finding) == pytest.approx(0.06)
    assert finding.remedy.rate == 0.1
    assert "0.1 times the learning rate" in finding.remedy.text
    assert optimization(case(same(), arm(RATE, 0.71))) is None
    assert optimization(case(same(), arm(RATE, 0.6))) is None
    assert optimization(case(same(), arm(RATE, 0.76, n_seeds=1))) is None
    assert optimization(case(arm(RATE, 0.76))) is None


SEEN = {"train": (hits(0.95), hits(0.75))}


def sized(share: float, seen: float | None = 0.85, n_seeds: int = 4) -> ControlRun:
    """A student of the teacher's size with that score on train, where the teacher has 0.95."""
    return arm("teacher-sized", share, n_seeds, train_score=seen)


LEVEL = (same(), arm("longer", 0.7))  # twice the length gains nothing


def test_optimization_by_a_teacher_sized_student():
    finding = optimization(case(*LEVEL, sized(0.8), **SEEN))
    assert points(finding) == pytest.approx(0.1)
    assert finding.remedy.rate == 1.0
    assert optimization(case(*LEVEL, sized(0.897), **SEEN)) is None
    assert optimization(case(*LEVEL, sized(0.95), **SEEN)) is None
    assert optimization(case(*LEVEL, sized(0.8, n_seeds=1), **SEEN)) is None
    assert optimization(case(*LEVEL, sized(0.8, seen=None), **SEEN)) is None
    assert optimization(case(*LEVEL, sized(0.8))) is None  # nothing known of train


@pytest.mark.parametrize("seen, found", [(0.899, True), (0.901, False)])
def test_optimization_asks_for_half_of_it_to_be_missing_on_train(seen, found):
    """0.1 is missing off train, so that 0.05 of the teacher's 0.95 must be missing on it."""
    assert (optimization(case(*LEVEL, sized(0.8, seen), **SEEN)) is not None) == found


def test_optimization_waits_until_longer_training_was_tried_and_gains_nothing():
    def told(*arms):
        return optimization(case(sized(0.8), *arms, **SEEN))

    assert told(*LEVEL) is not None
    assert told(same()) is None  # nobody knows
    assert told(same(), arm("shorter", 0.7)) is None
    assert told(same(), arm("longer", 0.76)) is None
    assert told(same(), arm("longer", 0.73)) is None  # surely some, and a quarter of .1
    assert told(same(), arm("longer", 0.72)) is not None
    assert (
        told(same(n_seeds=2), control("longer", [hits(0.64), hits(0.82)], fraction=2.0)) is not None
    )


def test_optimization_by_the_rate_comes_before_the_size():
    slower = arm(RATE, 0.73).with_(rate=0.1)
    finding = optimization(case(*LEVEL, slower, sized(0.8), **SEEN))
    assert finding.remedy.rate == 0.1
    assert points(finding) == pytest.approx(0.03)


def test_coverage_takes_the_teachers_own_loss_off():
    finding = coverage(case(train=(hits(0.95), hits(0.95))))
    assert points(finding) == pytest.approx((0.95 - 0.7) - (0.95 - 0.9))
    seen, held = hits(0.95) - hits(0.95), hits(0.9) - hits(0.7)
    se = math.sqrt((np.var(seen, ddof=1) + np.var(held, ddof=1)) / N)
    assert finding.points.high - finding.points.value == pytest.approx(1.96 * se)
    # Just short: nearly as far behind on train as on validation; both fall by as much; nothing known.
    assert coverage(case(train=(hits(0.9), hits(0.72)))) is None
    assert coverage(case(train=(hits(0.99), hits(0.79)))) is None
    assert coverage(case()) is None


LOSES = {"train": (hits(0.95), hits(0.95))}  # the whole gap of 0.2 is lost off train
PARTLY = {"train": (hits(0.95), hits(0.85))}  # half of it is


def test_coverage_without_controls_is_no_more_than_a_suspicion():
    finding = coverage(case(**LOSES))
    assert points(finding) == pytest.approx(0.2)
    assert (finding.probability, finding.confidence) == (NO_CONTROL, "moderate")
    assert len(finding.evidence) == 1


@pytest.mark.parametrize("train, most", [(0.91, True), (0.88, False)])
def test_coverage_by_an_excess_loss_that_is_most_of_the_gap(train, most):
    """Its lower bound lies above half of the gap of 0.2, or just below it, though above zero."""
    about = {"train": (hits(0.95), hits(train))}
    loss = case(**about).excess_loss
    assert loss.low > 0
    assert (loss.low > 0.1) == most
    assert (coverage(case(same(), **about)) is not None) == most
    assert (
        coverage(case(same(), **about, same_view=False)) is None
    )  # it may be what the views differ in


def test_coverage_without_controls_waits_where_the_teacher_loses_a_quarter_of_the_excess():
    """Beyond the teacher's own loss of 0.05 off train the student loses 0.2, or two samples less."""
    four_times = {"train": (hits(0.95), hits(0.955)), "student": 0.7}
    assert coverage(case(**four_times)) is not None
    less = four_times | {"student": 0.7075}
    assert coverage(case(**less)) is None
    assert coverage(case(same(), **less)) is not None  # a control was run


def test_coverage_by_half_the_samples_is_half_of_what_they_lose():
    """A power law with an exponent of at most one: doubling returns half of what halving lost."""
    found = case(same(), arm(HALF, 0.6), **PARTLY)
    finding, fewer = coverage(found), found.difference("lost", same(), arm(HALF, 0.6))
    assert points(finding) == pytest.approx(0.05)
    assert (finding.points.low, finding.points.high) == pytest.approx(
        (fewer.low / 2, fewer.high / 2)
    )
    assert finding.points.name == "gain of twice the samples"
    assert finding.probability > NO_CONTROL
    assert [item.measurement.value for item in finding.evidence] == pytest.approx([0.1, 0.1])
    beside = coverage(case(same(), arm(HALF, 0.6), **PARTLY, same_view=False))
    assert points(beside) == pytest.approx(0.05)  # the control tells whatever the views


def test_coverage_by_half_the_samples_just_short():
    assert coverage(case(same(), arm(HALF, 0.69), **PARTLY)) is None  # they lose nothing clear
    assert coverage(case(same(), arm(HALF, 0.6, n_seeds=1), **PARTLY)) is None
    assert coverage(case(same(), arm(HALF, 0.6))) is None  # nothing known of train
    assert coverage(case(same(), arm(HALF, 0.6), train=(hits(0.95), hits(0.76)))) is None


@pytest.mark.parametrize("share", [0.7, 0.6])
def test_coverage_by_most_of_the_gap_tells_what_half_the_samples_lose_too(share):
    """Samples of the wrong kind: half of them lose nothing, and the loss off train stands."""
    finding = coverage(case(same(), arm(HALF, share), **LOSES))
    assert points(finding) == pytest.approx(0.2)
    assert finding.evidence[1].measurement.value == pytest.approx(0.7 - share)
    assert finding.probability == ONE_MODEL
    assert NO_CONTROL < ONE_MODEL


def slice_gap(value: float, low: float):
    interval = Interval(value, low, 2 * value - low, 0.0, 40)
    return measured("worst_slice", "pair", "validation", interval, unit="share", group="class=3")


def test_false_success():
    found = case(teacher=0.9, student=0.85, worst=slice_gap(0.4, 0.2))
    finding = false_success(found)
    assert points(finding) == 0.4
    assert "class=3" in finding.remedy.text
    bound = found.gap.high
    just = case(teacher=0.9, student=0.85, worst=slice_gap(0.4, bound + 1e-9))
    short = case(teacher=0.9, student=0.85, worst=slice_gap(0.4, bound - 1e-9))
    assert false_success(just) is not None
    assert false_success(short) is None
    assert false_success(case(teacher=0.9, student=0.85)) is None


def test_false_success_asks_for_an_average_that_passes_for_one():
    """Nine tenths of the teacher's score is the limit: 0.72 of 0.8."""
    worst = slice_gap(0.6, 0.5)
    assert SUCCESS == 0.9
    assert false_success(case(teacher=0.8, student=0.7225, worst=worst)) is not None
    assert false_success(case(teacher=0.8, student=0.7175, worst=worst)) is None


def test_capacity_is_what_the_best_training_of_this_size_leaves():
    larger = arm("next size up", 0.85)
    finding = capacity(case(same(0.75), larger))
    assert points(finding) == pytest.approx(0.9 - 0.75)
    assert finding.remedy.size == "3"
    assert finding.evidence[0].measurement.value == pytest.approx(0.1)
    assert "agrees with the teacher on 50 %" in finding.evidence[0].text
    better = case(same(0.75), arm("knowledge: dist1", 0.8), arm("longer", 0.82), larger)
    assert points(capacity(better)) == pytest.approx(0.9 - 0.82)
    sized = case(same(0.75), larger, arm("teacher-sized", 0.87))
    assert points(capacity(sized)) == pytest.approx(0.87 - 0.75)


@pytest.mark.parametrize("longer, found", [(0.71, True), (0.84, False)])
def test_capacity_holds_longer_trainings_for_the_own_size(longer, found):
    """Two seeds that lie far apart leave open what a size gains; longer ones that gain nothing tell."""
    own = control("same recipe", [hits(0.6), hits(0.8)])
    larger = arm("teacher-sized", 0.88, n_seeds=2)
    assert capacity(case(own, larger)) is None
    tested = capacity(case(own, arm("longer", longer, n_seeds=6), larger))
    assert (tested is not None) == found


def test_capacity_is_not_held_against_a_single_lucky_run():
    lucky = arm("scratch", 0.86, n_seeds=1)
    finding = capacity(case(same(0.75, n_seeds=2), lucky, arm("next size up", 0.85)))
    assert points(finding) == pytest.approx(0.9 - 0.75)


def test_capacity_just_short():
    assert capacity(case(same(), arm("next size up", 0.72))) is None  # a larger one gains nothing
    assert capacity(case(same(), arm("next size up", 0.85, n_seeds=1))) is None
    assert capacity(case(arm("next size up", 0.85))) is None
    assert capacity(case(same())) is None
    closed = case(same(), arm("longer", 0.9), arm("next size up", 0.85))
    assert capacity(closed) is None  # a way of training this size reaches the teacher


def test_capacity_takes_the_teacher_sized_when_no_size_lies_between():
    finding = capacity(case(same(0.75), arm("teacher-sized", 0.88)))
    assert points(finding) == pytest.approx(0.13)
    assert finding.remedy.size == "32"


WITHOUT_TRAINING: tuple[Callable[..., Finding | None], ...] = (
    harness_fault,
    coverage,
    false_success,
)


@pytest.mark.parametrize("cause", CAUSES)
def test_without_controls_nothing_that_needs_them_is_claimed(cause):
    """A case that fires all that can be told without training, and nothing else."""
    found = case(
        student=0.85,
        teacher_score=0.99,
        train=(hits(0.91), hits(0.91)),
        worst=slice_gap(0.6, 0.5),
    )
    assert (cause(found) is not None) == (cause in WITHOUT_TRAINING)


@pytest.mark.parametrize("n_seeds, confidence", [(2, "moderate"), (3, "moderate"), (4, "high")])
def test_confidence_grows_with_the_seeds(n_seeds, confidence):
    runs = [hits(0.7), hits(0.7), hits(0.7), hits(0.7)][:n_seeds]
    longer = [hits(0.8), hits(0.8), hits(0.8), hits(0.8)][:n_seeds]
    found = case(control("same recipe", runs), control("longer", longer, fraction=2.0))
    assert undertrained(found).confidence == confidence


def test_every_finding_names_interval_n_limit_and_remedy():
    found = case(
        same(0.76),
        arm("scratch", 0.82),
        arm("longer", 0.86),
        arm("next size up", 0.86),
        arm("smaller teacher", 0.81),
        arm("teacher-sized", 0.89),
        arm(RATE, 0.79),
    )
    findings = [finding for cause in CAUSES if (finding := cause(found))]
    assert [finding.cause for finding in findings] == [
        "pipeline_fault",
        "harsh_targets",
        "teacher_gap",
        "undertrained",
        "optimization",
        "capacity",
    ]
    findings.append(coverage(case(train=(hits(0.95), hits(0.95)))))
    for finding in findings:
        assert finding.points.n == N
        assert 0 < finding.points.low < finding.points.value < finding.points.high
        assert finding.remedy.text
        assert finding.would_change.endswith(".")
        for item in finding.evidence:
            assert item.limit
            assert f"n = {N}" in item.text


def test_explains_most_at_half_of_the_gap_by_a_control():
    """The gap is 0.2; a slice, the size or a suspicion without a control end nothing."""
    assert explains_most(case(same(), arm("scratch", 0.805)))
    assert not explains_most(case(same(), arm("scratch", 0.795)))
    assert not explains_most(case(same(), arm("next size up", 0.85)))
    assert capacity(case(same(), arm("next size up", 0.85))).points.value > 0.1
    assert not explains_most(case(**LOSES))
    assert coverage(case(**LOSES)).points.value > 0.1
    assert not explains_most(case())
    ahead = case(teacher=0.6, student=0.7)  # another source is better, but of no gap a share
    assert scheme_mismatch(ahead).probability > NO_CONTROL
    assert not explains_most(ahead)


@pytest.mark.parametrize("n, most", [(26, True), (24, False)])
def test_a_slice_holds_most_of_the_gap_by_its_share_of_the_samples(n, most):
    """The gap is 0.05 of 400 samples, 20; half of it is 25 samples that are 0.4 behind."""
    found = case(student=0.85, worst=slice_gap(0.4, 0.2).with_(n=n))
    assert hides_most(found, false_success(found)) == most


@pytest.mark.parametrize(
    "around, low, most",
    [
        ("source=rare", 0.2, True),
        ("source=rare", 0.01, False),  # not surely worse than the average
        ("difficulty=confidence up to 0.9", 0.2, False),  # hard samples are worse whatever is wrong
    ],
)
def test_of_a_crossing_the_slice_around_it_may_hold_most_of_the_gap(around, low, most):
    """The gap is 0.05 of 400 samples, 20: the crossing holds 4 of them, the slice around it 12."""
    crossing = slice_gap(0.4, 0.2).with_(n=10, group=f"class=3 & {around}")
    wide = slice_gap(0.4, low).with_(name="gap", n=30, group=around)
    found = case(student=0.85, worst=crossing)
    told = found.measurements.with_(values=(*found.measurements.values, wide))
    found = replace(found, measurements=told)
    assert hides_most(found, false_success(found)) == most
