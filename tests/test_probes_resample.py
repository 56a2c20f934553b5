"""Bootstrap, sign flips and Holm against closed forms, t intervals and plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gapkit.errors import InputError
from gapkit.probes.interval import (
    Interval,
    mean_interval,
)
from gapkit.probes.resample import bootstrap, holm, sign_flip_p


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_bootstrap_of_a_mean_agrees_with_the_t_interval():
    values = np.random.default_rng(10).normal(size=200)
    for method in ("BCa", "percentile", "basic"):
        found = bootstrap(np.mean, [values], 2000, seed=1, method=method)
        assert bounds(found) == pytest.approx(bounds(mean_interval(values)), abs=0.02)
        assert len(found.repeats) == 2000
        assert found.seed == 1


def test_bootstrap_keeps_rows_and_groups_together():
    x = np.random.default_rng(11).normal(size=60)
    slope = bootstrap(lambda a, b: float(np.polyfit(a, b, 1)[0]), [x, 3 * x], 100)
    assert bounds(slope) == pytest.approx((3, 3))
    repeated, groups = np.repeat(x, 4), np.repeat(np.arange(60), 4)
    grouped = bootstrap(np.mean, [repeated], groups=groups, method="percentile")
    assert bounds(grouped) == pytest.approx(bounds(mean_interval(x)), abs=0.03)
    assert grouped.se > 1.6 * bootstrap(np.mean, [repeated], method="percentile").se


def test_bootstrap_repeats_with_its_seed_and_says_when_bca_fails():
    values = np.random.default_rng(12).normal(size=30)
    first, again = bootstrap(np.median, [values], 200), bootstrap(np.median, [values], 200)
    assert np.array_equal(first.repeats, again.repeats)
    assert not np.array_equal(first.repeats, bootstrap(np.median, [values], 200, seed=1).repeats)
    constant = bootstrap(np.mean, [np.ones(20)], 100)
    assert bounds(constant) == (1.0, 1.0)
    assert "BCa is degenerate" in constant.method
    assert "two samples" in bootstrap(np.mean, [values], groups=np.zeros(30)).reason
    assert "not finite" in bootstrap(lambda a: math.nan, [values]).reason


def test_sign_flip_p_counts_every_pattern():
    d = np.random.default_rng(13).normal(0.4, 1, size=9)
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([-1, 1], repeat=9)]
    want = np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert 0.01 < want < 0.9
    assert sign_flip_p(d) == pytest.approx(want)


def test_sign_flip_p_by_chance_is_near_the_t_test():
    d = np.random.default_rng(14).normal(0.15, 1, size=200)
    want = stats.ttest_1samp(d, 0).pvalue
    assert 0.001 < want < 0.5
    assert sign_flip_p(d) == pytest.approx(want, abs=0.015)


def test_sign_flip_p_needs_seeds_and_whole_groups():
    d = np.ones((3, 100))
    assert sign_flip_p(d) == 0.25  # 2 of 2^3 patterns, whatever the number of samples
    assert sign_flip_p(np.ones(100), groups=np.arange(100) // 25) == 2 / 2**4
    assert sign_flip_p(np.zeros(5)) == 1.0
    with pytest.raises(InputError, match="finite differences"):
        sign_flip_p([1.0, math.nan])


def test_holm_by_a_plain_loop():
    p = np.array([0.02, 0.001, 0.3, np.nan, 0.011, 0.02])
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    want, largest = np.full(6, np.nan), 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        want[index] = largest
    assert want[4] == pytest.approx(0.044)
    np.testing.assert_allclose(holm(p), want)
