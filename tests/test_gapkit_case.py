"""Paired differences between models and arms: their value, their width, and which arm is the best."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from gapkit.case import Case, n_seeds
from gapkit.gap import ControlRun
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
    assert found.looks == 2
    assert case().looks == case(arms[0]).looks == 1


def test_the_best_arm_has_at_least_half_as_many_seeds_as_the_most():
    many = control("a", [hits(0.7)] * 4)
    half = control("b", [hits(0.8)] * 2)
    lucky = control("c", [hits(0.95)])
    assert case().best([many, half, lucky]) is half
    assert case().best([many, lucky]) is many
    assert case().best([lucky]) is lucky
