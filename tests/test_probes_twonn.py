"""TwoNN: known surfaces, a plain loop, copies, and bounded work."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gapkit.errors import InputError
from gapkit.probes.twonn import dimension_interval, intrinsic_dimension


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_twonn_finds_the_dimension_of_a_curved_surface(dimension):
    rng = np.random.default_rng(6)
    flat = rng.random((1500, dimension))
    curved = np.hstack([flat, flat**2, np.sin(flat)]) @ rng.normal(size=(3 * dimension, 20))
    found = dimension_interval(curved)
    assert found.value == pytest.approx(dimension, rel=0.12)
    assert found.high - found.low < 0.15 * dimension
    assert intrinsic_dimension(7 * curved + 3) == pytest.approx(found.value, rel=1e-6)


def test_twonn_by_a_plain_loop():
    x = np.random.default_rng(7).normal(size=(40, 3))
    log_mu, group = [], list(range(40))
    for row, one in enumerate(x):
        distances = np.linalg.norm(x - one, axis=1)
        near = np.argsort(distances)
        log_mu.append(math.log(distances[near[2]] / distances[near[1]]))
        old, new = group[row], group[near[1]]
        group = [new if name == old else name for name in group]
    cap = sorted(log_mu)[35]
    log_mu = [min(value, cap) for value in log_mu]
    found = dimension_interval(x)
    assert found.value == pytest.approx(35 / sum(log_mu))
    parts = np.array(log_mu) - np.mean(log_mu)
    sums = [parts[np.array(group) == name].sum() for name in set(group)]
    effect = np.square(sums).sum() / np.square(parts).sum()
    assert effect > 1
    df = 2 * 36 / effect
    want = stats.chi2.ppf([0.025, 0.975], df) / df * 36 / sum(log_mu)
    assert (found.low, found.high) == pytest.approx(tuple(want))


def test_twonn_leaves_out_copies_and_says_when_nothing_is_left():
    x = np.random.default_rng(8).random((100, 2))
    doubled = np.vstack([x, x[:30]])
    assert dimension_interval(doubled).n == 70
    assert "only 0 samples" in dimension_interval(np.vstack([x, x])).reason
    assert "too few" in dimension_interval(x[:5]).reason
    assert (
        "equally far" in dimension_interval(np.arange(12.0)[1:-1, None] * 0 + 5 * np.eye(10)).reason
    )
    with pytest.raises(InputError, match="finite features"):
        intrinsic_dimension(np.full((20, 2), np.nan))
    assert "not finite" in dimension_interval(np.full((20, 2), np.inf)).reason


def test_copies_in_wide_features_far_from_zero_are_copies_still():
    """Distances of wide features are sums of products, whose rounding is not zero for a copy."""
    x = 1000 + np.random.default_rng(9).normal(size=(120, 60))
    doubled = np.vstack([x, x[:50]])
    found = dimension_interval(doubled)
    assert found.n == 70
    assert found.value == pytest.approx(dimension_interval(doubled - 1000).value, rel=1e-6)
    assert 10 < found.value < 60


def test_intervals_cover_the_dimension_and_are_not_wide():
    rng = np.random.default_rng(10)
    found = [dimension_interval(rng.random((400, 2))) for _ in range(300)]
    center = np.mean([item.value for item in found])
    assert center == pytest.approx(2, rel=0.03)
    assert 0.91 <= np.mean([item.low <= center <= item.high for item in found]) <= 0.98
    claimed = np.mean([item.se for item in found])
    assert claimed == pytest.approx(np.std([item.value for item in found]), rel=0.12)
    assert claimed > 1.1 * center / np.sqrt(360)


def test_many_or_wide_samples_are_a_seeded_part(monkeypatch):
    monkeypatch.setattr("gapkit.probes.twonn.MOST", 300)
    x = np.random.default_rng(11).normal(size=(500, 4))
    found = dimension_interval(x, seed=2)
    rows = np.sort(np.random.default_rng(2).permutation(500)[:300])
    assert found.value == pytest.approx(dimension_interval(x[rows]).value)
    assert (found.n, found.seed) == (300, 2)
    assert found.method.endswith("300 of 500 samples, seed 2")
    assert dimension_interval(x[:300]).seed is None
    monkeypatch.setattr("gapkit.probes.twonn.WORK", 4 * 100**2)
    assert dimension_interval(x).n == 100
