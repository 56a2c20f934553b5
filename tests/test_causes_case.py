"""Paired differences between models and arms: their value, their width, and which arm is the best."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from gapkit.causes.case import Case, n_seeds
from gapkit.gap import HALF, RATE, VIEW, ControlRun
from tests.deciding_fixtures import N, control, draw, hits, measurements


def case(*controls: ControlRun, **fields) -> Case:
    return Case(measurements(hits(0.9), hits(0.7)), {run.name: run for run in controls}, **fields)


def runs(share: float, n: int, first: int = 0) -> list[np.ndarray]:
    return [draw(share, first + seed) for seed in range(n)]


def two_way(d: np.ndarray, level: float) -> tuple[float, float]:
    """The interval of science: var of row means / S + var of column means / N, Welch's degrees."""
    n_rows, n = d.shape
    by_seed = np.var(d.mean(1), ddof=1) / n_rows
    by_sample = np.var(d.mean(0), ddof=1) / n
    total = by_seed + by_sample
    df = total**2 / (by_seed**2 / (n_rows - 1) + by_sample**2 / (n - 1))
    half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(total)
    return d.mean() - half, d.mean() + half


def test_the_gap_is_teacher_minus_student_on_the_same_samples():
    gap = case().gap
    assert gap.value == pytest.approx(0.2)
    assert (gap.n, gap.split, gap.unit, gap.better) == (N, "validation", "share", "higher")
    # Agresti & Min by hand: 80 discordant of 400, all one way.
    center = 80 / 402
    half = stats.norm.ppf(0.975) * np.sqrt(81 - 80**2 / 402) / 402
    shift = gap.value - 0.2
    assert (gap.low, gap.high) == pytest.approx((center - half + shift, center + half + shift))


def test_a_difference_of_arms_is_paired_by_seed_and_sample():
    first, second = control("a", runs(0.8, 4)), control("b", runs(0.6, 4, first=50))
    found = case().difference("a minus b", first, second)
    low, high = two_way(first.contributions - second.contributions, 0.95)
    assert found.value == pytest.approx(first.mean - second.mean)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.estimator.endswith("4 seed(s)")


def test_looks_widen_the_interval():
    first, second = control("a", runs(0.8, 4)), control("b", runs(0.6, 4, first=50))
    found = case().difference("a minus b", first, second, looks=5)
    low, high = two_way(first.contributions - second.contributions, 1 - 0.05 / 5)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.level == pytest.approx(0.99)
    assert found.estimator.endswith("widened for 5 comparisons")


def test_the_value_is_of_all_seeds_and_the_width_of_the_shared_ones():
    long, short = control("a", runs(0.8, 6)), control("b", runs(0.6, 3, first=50))
    found = case().difference("a minus b", long, short)
    assert found.value == pytest.approx(long.mean - short.mean)
    shared = long.contributions[:3] - short.contributions
    assert shared.mean() != pytest.approx(found.value, abs=1e-6)
    low, high = two_way(shared, 0.95)
    assert found.high - found.low == pytest.approx(high - low)
    assert n_seeds(long, short) == 3


def test_seeds_are_matched_by_number_and_not_by_place():
    one = control("a", runs(0.8, 3), first_seed=0)
    other = control("b", runs(0.6, 3, first=50), first_seed=1)
    found = case().difference("a minus b", one, other)
    assert n_seeds(one, other) == 2
    low, high = two_way(one.contributions[1:] - other.contributions[:2], 0.95)
    assert found.high - found.low == pytest.approx(high - low)


def test_arms_without_a_seed_in_common_count_as_one():
    one = control("a", runs(0.8, 3), first_seed=0)
    other = control("b", runs(0.6, 3, first=50), first_seed=10)
    found = case().difference("a minus b", one, other)
    assert n_seeds(one, other) == 1
    assert found.value == pytest.approx(one.mean - other.mean)
    assert "one training" in found.estimator


def test_an_arm_against_a_single_model_has_the_arms_seeds():
    arm = control("a", runs(0.8, 4))
    found = case().difference("a minus student", arm, case().student)
    assert n_seeds(arm, case().student) == 4
    low, high = two_way(arm.contributions - hits(0.7), 0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    back = case().difference("student minus a", case().student, arm)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_differences_along_a_ladder_add_up():
    ladder = [
        hits(0.7),
        control("a", runs(0.72, 5)),
        control("b", runs(0.75, 2, first=9), first_seed=3),
        control("c", runs(0.8, 3, first=30)),
        hits(0.9),
    ]
    steps = [case().difference("step", up, down) for down, up in itertools.pairwise(ladder)]
    assert abs(sum(step.value for step in steps) - 0.2) < 1e-12


def test_groups_make_samples_that_move_together_one():
    """Four hundred samples in twenty groups that are right or wrong as one: a t interval over twenty."""
    groups = np.arange(N) // 20
    blocks = (np.random.default_rng(0).random(20) < 0.6).astype(float)
    arm = control("a", [np.repeat(blocks, 20)] * 3)
    free = case().difference("a", arm, np.zeros(N))
    wide = case(groups=groups).difference("a", arm, np.zeros(N))
    assert wide.value == free.value == blocks.mean()
    half = stats.t.ppf(0.975, 19) * blocks.std(ddof=1) / np.sqrt(20)
    assert wide.high - wide.value == pytest.approx(half)
    assert free.high - free.value < 0.3 * half


def test_the_knowledge_arms_are_those_of_the_students_size_and_length():
    arms = [
        control("same recipe", runs(0.7, 2)),
        control("scratch", runs(0.7, 2), recipe="scratch", path=(1,)),
        control("knowledge: dist1", runs(0.7, 2), recipe="dist1"),
        control("longer", runs(0.9, 2), fraction=2.0),
        control("next size up", runs(0.9, 2), path=(32, 3)),
        control("smaller teacher", runs(0.9, 2), path=(32, 12, 1)),
    ]
    found = case(*arms)
    assert found.knowledge_arms == arms[:3]
    assert found.looks == 4  # longer training and the smaller teacher were held against it too
    assert case(*arms[:3]).looks == case(*arms[:3], arms[4]).looks == 2
    assert case().looks == case(arms[0]).looks == 1


def test_the_best_arm_has_at_least_half_as_many_seeds_as_the_most():
    many = control("a", [hits(0.7)] * 4)
    half = control("b", [hits(0.8)] * 2)
    lucky = control("c", [hits(0.95)])
    assert case().best([many, half, lucky]) is half
    assert case().best([many, lucky]) is many
    assert case().best([lucky]) is lucky


def spread_of(*arms: ControlRun) -> tuple[float, int]:
    """The pooled variance of an analysis of variance, by a plain loop: SS within over its degrees."""
    squares, df = 0.0, 0
    for arm in arms:
        for score in arm.scores:
            squares += (score - sum(arm.scores) / len(arm.scores)) ** 2
        df += len(arm.scores) - 1
    return squares / df, df


def pooled_half(d: np.ndarray, variance: float, df: int, parts: float) -> float:
    """Half the interval: s²·parts between seeds and the samples' part, Welch's degrees of freedom."""
    by_seed, by_sample = variance * parts, np.var(d, ddof=1) / len(d)
    total = by_seed + by_sample
    welch = total**2 / (by_seed**2 / df + by_sample**2 / (len(d) - 1))
    return stats.t.ppf(0.975, welch) * np.sqrt(total)


def test_the_spread_between_seeds_is_pooled_over_all_controls():
    """Arms of 2, 3 and 1 seeds: (1 + 2 + 0) degrees; whole arms may lie anywhere."""
    arms = (
        control("a", [hits(0.5), hits(0.54)]),
        control("b", [hits(0.7), hits(0.73), hits(0.76)]),
        control("c", [hits(0.1)]),
    )
    found, df = case(*arms).seed_spread
    assert df == 3
    assert found == pytest.approx((2 * 0.02**2 + 2 * 0.03**2) / 3)
    assert (found, df) == pytest.approx(spread_of(*arms))


@pytest.mark.parametrize(
    "fields, counts",
    [
        ({"fraction": 0.5}, False),
        ({"altered": HALF}, False),
        ({"altered": RATE}, False),
        ({"altered": VIEW}, True),
        ({"fraction": 2.0}, True),
    ],
)
def test_training_that_is_cut_short_says_nothing_of_the_spread(fields, counts):
    steady, wild = control("a", [hits(0.5), hits(0.54)]), [hits(0.4), hits(0.8)]
    found = case(steady, control("b", wild, **fields)).seed_spread
    assert found == pytest.approx(
        ((2 * 0.02**2 + 2 * 0.2**2) / 2, 2) if counts else (2 * 0.02**2, 1)
    )


def test_without_a_second_seed_there_is_no_spread():
    assert case().seed_spread == (np.inf, 0)
    assert case(control("a", [hits(0.5)]), control("b", [hits(0.6)])).seed_spread == (np.inf, 0)


def test_few_shared_seeds_take_the_pooled_spread():
    """SE² = s²(1/S₁ + 1/S₂) + the samples' part, with two and three seeds."""
    first, second = control("a", runs(0.8, 2)), control("b", runs(0.6, 3, first=50))
    steady = control("c", runs(0.7, 6, first=90))
    found = case(first, second, steady)
    variance, df = spread_of(first, second, steady)
    assert df == 8
    points = found.difference("a minus b", first, second)
    d = first.contributions.mean(0) - second.contributions.mean(0)
    assert points.value == pytest.approx(first.mean - second.mean)
    assert points.high - points.value == pytest.approx(
        pooled_half(d, variance, df, 1 / 2 + 1 / 3), rel=1e-6
    )
    assert "pooled, 8 degrees of freedom" in points.estimator
    assert points.estimator.endswith("2 seed(s)")


def test_against_a_single_model_only_the_arms_own_seeds_vary():
    arm, other = control("a", runs(0.8, 2)), control("b", runs(0.6, 3, first=50))
    found = case(arm, other)
    points = found.difference("a minus student", arm, found.student)
    half = pooled_half(arm.contributions.mean(0) - found.student, *spread_of(arm, other), 1 / 2)
    assert points.high - points.value == pytest.approx(half, rel=1e-6)


@pytest.mark.parametrize("n, pooled", [(3, True), (4, False)])
def test_from_four_shared_seeds_on_they_speak_for_themselves(n, pooled):
    first, second = control("a", runs(0.8, n)), control("b", runs(0.6, n, first=50))
    found = case(first, second, control("c", runs(0.7, 6, first=90)))
    points = found.difference("a minus b", first, second)
    assert ("pooled" in points.estimator) == pooled
    low, high = two_way(first.contributions - second.contributions, 0.95)
    assert ((points.low, points.high) == pytest.approx((low, high))) != pooled


def test_the_pooled_interval_forgets_neither_level_nor_groups():
    first, second = control("a", runs(0.8, 2)), control("b", runs(0.6, 2, first=50))
    plain = case(first, second).difference("d", first, second)
    looks = case(first, second).difference("d", first, second, looks=5)
    grouped = case(first, second, groups=np.arange(N) // 20).difference("d", first, second)
    assert looks.value == grouped.value == plain.value
    assert looks.high > plain.high
    assert grouped.high != pytest.approx(plain.high, rel=1e-3)


@pytest.mark.slow
def test_the_pooled_interval_covers_a_difference_of_two_arms_with_two_seeds():
    """Seven arms of two seeds, no true difference: noise by run and by sample. Nominal 95 %."""
    rng, missed = np.random.default_rng(5), 0
    teacher, student = hits(0.9, 200), hits(0.5, 200)
    for _ in range(400):
        arms = [
            control(f"arm {i}", [rng.normal(0.5 + 0.03 * rng.normal(), 0.4, 200) for _ in range(2)])
            for i in range(7)
        ]
        found = Case(measurements(teacher, student), {arm.name: arm for arm in arms})
        points = found.difference("d", arms[0], arms[1])
        missed += not points.low <= 0 <= points.high
    assert missed / 400 <= 0.08


def test_own_knowledge_joins_longer_trainings_by_the_same_recipe_and_pairs_no_seeds():
    same = control("same recipe", runs(0.6, 2))
    longer = control("longer", runs(0.65, 3, 50), fraction=2.0)
    labels = control("scratch", runs(0.7, 2, 80), recipe="scratch", path=(1,))
    found = case(same, longer, labels)
    own = found.own_knowledge
    np.testing.assert_array_equal(own.scores, [*same.scores, *longer.scores])
    assert not set(own.seeds) & {*found.other_knowledge.seeds, *same.seeds, *labels.seeds}
    apart = found.difference("x", found.other_knowledge, own)
    assert apart.value == pytest.approx(labels.mean - own.mean)
    assert case(same, longer.with_(recipe="dist1")).own_knowledge == same
    assert case(labels).own_knowledge is None


def test_other_knowledge_is_all_of_it_as_one_arm():
    arms = [
        control("same recipe", runs(0.7, 3)),
        control("scratch", runs(0.6, 2, first=20), recipe="scratch", path=(1,)),
        control("knowledge: dist1", runs(0.8, 3, first=30), recipe="dist1"),
        control("longer", runs(0.9, 2, first=40), fraction=2.0),
    ]
    joined = case(*arms).other_knowledge
    np.testing.assert_array_equal(
        joined.contributions, np.concatenate([arms[1].contributions, arms[2].contributions])
    )
    assert joined.mean == pytest.approx((2 * arms[1].mean + 3 * arms[2].mean) / 5)
    assert (len(joined.seeds), len(joined.agreement), len(joined.train_agreement)) == (5, 5, 5)
    assert joined.name == "other knowledge"
    assert case(arms[0], arms[3]).other_knowledge is None


def on_train(teacher: float, student: float) -> Case:
    pair = (hits(teacher), hits(student, shift=7))
    return Case(measurements(hits(0.9), hits(0.7), train=pair))


@pytest.mark.parametrize("teacher, student", [(0.99, 0.99), (0.99, 0.8), (0.8, 0.95)])
def test_the_gap_is_what_is_missing_on_train_and_what_is_lost_off_it(teacher, student):
    found = on_train(teacher, student)
    fit, loss = found.fit_gap, found.excess_loss
    assert fit.value == pytest.approx(teacher - student)
    assert loss.value == pytest.approx((0.9 - 0.7) - (teacher - student))
    assert fit.value + loss.value == pytest.approx(found.gap.value, abs=1e-12)
    assert (fit.split, loss.split) == ("train", "validation")
    seen, held = hits(teacher) - hits(student, shift=7), hits(0.9) - hits(0.7)
    se = np.sqrt((np.var(seen, ddof=1) + np.var(held, ddof=1)) / N)
    assert (loss.low, loss.high) == pytest.approx((loss.value - 1.96 * se, loss.value + 1.96 * se))
    assert found.teacher_on_train == pytest.approx(teacher)


def test_without_scores_on_train_none_of_that_is_known():
    assert case().fit_gap is None
    assert case().excess_loss is None
    assert case().teacher_on_train is None
