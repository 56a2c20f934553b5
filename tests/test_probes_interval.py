"""Intervals against scipy, closed forms and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gapkit.errors import InputError
from gapkit.probes.interval import (
    Interval,
    bonferroni_level,
    difference_interval,
    mean_interval,
    measured,
    paired,
    proportion_interval,
    score_interval,
    undefined,
)


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_mean_interval_is_the_t_interval():
    values = np.random.default_rng(0).gamma(2.0, size=23)
    want = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = mean_interval(values, 0.9)
    assert found.value == pytest.approx(values.mean())
    assert bounds(found) == pytest.approx((want.low, want.high))
    assert found.se == pytest.approx(stats.sem(values))
    assert (found.n, found.level) == (23, 0.9)


def test_groups_of_one_change_nothing_and_equal_groups_are_their_means():
    values = np.random.default_rng(1).normal(size=24)
    assert bounds(mean_interval(values, groups=np.arange(24))) == pytest.approx(
        bounds(mean_interval(values))
    )
    groups = np.repeat(np.arange(8), 3)
    of_means = mean_interval(values.reshape(8, 3).mean(1))
    assert bounds(mean_interval(values, groups=groups)) == pytest.approx(bounds(of_means))


def test_repeating_every_sample_must_not_narrow_a_grouped_interval():
    values = np.random.default_rng(2).normal(size=30)
    repeated, groups = np.repeat(values, 5), np.repeat(np.arange(30), 5)
    assert bounds(mean_interval(repeated, groups=groups)) == pytest.approx(
        bounds(mean_interval(values))
    )
    assert mean_interval(repeated).se < 0.5 * mean_interval(values).se


def test_one_sample_or_group_leaves_the_interval_open():
    assert bounds(mean_interval([2.0])) == (-math.inf, math.inf)
    assert bounds(mean_interval([2.0, 3.0], groups=["a", "a"])) == (-math.inf, math.inf)


def test_nothing_and_broken_values_are_nan_with_a_reason():
    assert mean_interval([]).reason == "no samples"
    broken = mean_interval([1.0, math.nan])
    assert math.isnan(broken.value)
    assert broken.reason == "1 of 2 values are not finite"
    assert score_interval([]).reason == "no samples"


@pytest.mark.parametrize("hits,n", [(0, 10), (3, 10), (10, 10), (456, 797)])
def test_proportion_interval_is_wilson(hits, n):
    want = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert bounds(proportion_interval(hits, n)) == pytest.approx((want.low, want.high), abs=1e-12)
    values = np.arange(n) < hits
    assert bounds(score_interval(values)) == bounds(proportion_interval(hits, n))


def test_score_interval_of_anything_but_shares_is_the_t_interval():
    values = [0.0, 1.0, 0.5, 1.0]
    assert bounds(score_interval(values)) == bounds(mean_interval(values))


def test_grouped_shares_rest_on_the_groups():
    hits = np.random.default_rng(3).random(40) < 0.6
    repeated, groups = np.repeat(hits, 6), np.repeat(np.arange(40), 6)
    grouped, alone = score_interval(repeated, groups=groups), score_interval(hits)
    assert grouped.value == alone.value
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.06)
    sure = score_interval(np.ones(240), groups=groups)
    assert sure.low == pytest.approx(1 / (1 + stats.t.ppf(0.975, 39) ** 2 / 40))
    assert bounds(score_interval([1.0, 1.0], groups=[0, 0])) == (0.0, 1.0)


def test_difference_of_shares_is_agresti_min():
    # Agresti & Min add half a sample to each cell of the matched table, then take Wald's interval.
    first = np.array([1] * 30 + [1] * 9 + [0] * 2 + [0] * 9)
    second = np.array([1] * 30 + [0] * 9 + [1] * 2 + [0] * 9)
    both, only, other, total = 30.5, 9.5, 2.5, 52.0
    center = (only - other) / total
    se = math.sqrt(only + other - (only - other) ** 2 / total) / total
    found = difference_interval(first, second)
    assert both + only + other + 9.5 == total
    assert found.value == pytest.approx(7 / 50)
    assert bounds(found) == pytest.approx((center - 1.959964 * se, center + 1.959964 * se))


def test_difference_is_antisymmetric_and_no_narrower_with_groups():
    rng = np.random.default_rng(4)
    first, second = rng.random(60) < 0.8, rng.random(60) < 0.6
    there, back = difference_interval(first, second), difference_interval(second, first)
    assert bounds(there) == pytest.approx((-back.high, -back.low))
    grouped = difference_interval(first, second, groups=np.arange(60) // 10)
    assert grouped.low <= there.low
    assert grouped.high >= there.high
    real = difference_interval([0.5, 2.0, 3.0], [0.1, 1.0, 1.0])
    assert bounds(real) == pytest.approx(bounds(mean_interval([0.4, 1.0, 2.0])))


def test_difference_needs_the_same_samples():
    with pytest.raises(InputError, match="as many first as second"):
        difference_interval([1, 0], [1])


def test_paired_with_equal_rows_is_the_paired_t():
    row = np.random.default_rng(5).normal(size=40)
    want = stats.ttest_1samp(row, 0).confidence_interval(0.95)
    many, one = paired(np.tile(row, (6, 1))), paired(row)
    assert bounds(one) == pytest.approx((want.low, want.high))
    assert bounds(many) == pytest.approx((want.low, want.high))
    assert (many.n, many.n_seeds, one.n_seeds) == (40, 6, 1)
    assert "one training" in one.method


def test_paired_with_equal_columns_is_the_t_over_seeds():
    column = np.random.default_rng(6).normal(size=5)
    want = stats.ttest_1samp(column, 0).confidence_interval(0.95)
    found = paired(np.tile(column[:, None], (1, 300)))
    assert bounds(found) == pytest.approx((want.low, want.high))


def test_paired_adds_both_parts():
    d = np.random.default_rng(7).normal(size=(4, 9))
    found = paired(d)
    a, b = d.mean(1).var(ddof=1) / 4, d.mean(0).var(ddof=1) / 9
    half = stats.t.ppf(0.975, (a + b) ** 2 / (a**2 / 3 + b**2 / 8)) * math.sqrt(a + b)
    assert found.se == pytest.approx(math.sqrt(a + b))
    assert found.high - found.value == pytest.approx(half)


def test_paired_edges():
    assert bounds(paired([[1.0], [2.0]])) == (-math.inf, math.inf)
    assert bounds(paired(np.zeros((3, 5)))) == (0.0, 0.0)
    assert "not finite" in paired([[1.0, math.inf]]).reason
    with pytest.raises(InputError, match="seeds, samples"):
        paired(np.zeros((2, 2, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds,n", [(3, 60), (6, 200)])
def test_paired_covers_a_two_way_truth(n_seeds, n):
    rng = np.random.default_rng(8)
    hit = []
    for _ in range(1500):
        rows, columns = rng.normal(0, 0.1, (n_seeds, 1)), rng.normal(0, 1, (1, n))
        d = rows + columns + rng.normal(0, 1, (n_seeds, n))
        found = paired(d)
        hit.append(found.low <= 0 <= found.high)
    assert 0.94 <= np.mean(hit) <= 0.995


@pytest.mark.slow
def test_difference_of_shares_covers_in_small_slices():
    rng = np.random.default_rng(9)
    hit = []
    for _ in range(3000):
        easy = rng.random(15) < 0.7
        first, second = easy | (rng.random(15) < 0.5), easy & (rng.random(15) < 0.8)
        found = difference_interval(first, second)
        hit.append(found.low <= 0.85 - 0.56 <= found.high)
    assert 0.93 <= np.mean(hit) <= 0.99


def test_levels():
    assert bonferroni_level(0.95, 1) == pytest.approx(0.95)
    assert bonferroni_level(0.95, 0) == pytest.approx(0.95)
    assert bonferroni_level(0.9, 5) == pytest.approx(0.98)
    with pytest.raises(InputError, match="level between 0 and 1"):
        mean_interval([1.0, 2.0], level=95)
    with pytest.raises(InputError, match="between 0 and 3 hits"):
        proportion_interval(4, 3)


def test_measured_carries_the_interval_over():
    found = measured("accuracy", "student", "test", proportion_interval(3, 4, 0.9), unit="share")
    assert (found.value, found.n, found.level, found.unit) == (0.75, 4, 0.9, "share")
    assert found.estimator == "share; Wilson"
    assert measured("x", "pair", "test", undefined("why not")).reason == "why not"


def test_paired_takes_the_seeds_part_from_elsewhere():
    """By hand: SE² = given + var over samples / n, Welch's degrees from both."""
    d = np.random.default_rng(11).normal(size=(2, 30))
    found = paired(d, between=(0.02, 7))
    b = d.mean(0).var(ddof=1) / 30
    half = stats.t.ppf(0.975, (0.02 + b) ** 2 / (0.02**2 / 7 + b**2 / 29)) * math.sqrt(0.02 + b)
    assert found.value == pytest.approx(d.mean())
    assert found.se == pytest.approx(math.sqrt(0.02 + b))
    assert bounds(found) == pytest.approx((d.mean() - half, d.mean() + half))
    assert "pooled, 7 degrees of freedom" in found.method


def test_paired_gives_one_training_the_spread_of_others():
    row = np.random.default_rng(12).normal(size=30)
    alone, with_spread = paired(row), paired(row, between=(0.02, 7))
    assert with_spread.se == pytest.approx(math.hypot(alone.se, math.sqrt(0.02)))
    assert "one training" not in with_spread.method
    none = paired(row, between=(0.0, 7))
    assert bounds(none) == pytest.approx(bounds(alone))
    assert none.high > none.low


def test_paired_with_its_own_spread_given_is_itself():
    d = np.random.default_rng(13).normal(size=(5, 20))
    own = float(d.mean(1).var(ddof=1)) / 5, 4
    assert bounds(paired(d, between=own)) == pytest.approx(bounds(paired(d)))
