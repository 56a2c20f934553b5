"""Ranks and hint bound: closed forms, numeric derivatives, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from gapkit.errors import InputError
from gapkit.probes.ranks import (
    effective_rank,
    entropy_rank,
    hint_bound,
    participation,
    participation_ratio,
    spectral_interval,
    spectral_intervals,
    top_share,
)


def white(n: int, d: int, seed: int = 0) -> np.ndarray:
    """(n, d) samples whose covariance is the identity exactly."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    return np.linalg.qr(x - x.mean(0))[0] * math.sqrt(n)


def test_closed_forms_of_a_known_spectrum():
    x = white(50, 3) * np.sqrt([6.0, 3.0, 1.0])
    p = np.array([0.6, 0.3, 0.1])
    assert effective_rank(x) == pytest.approx(np.exp(stats.entropy(p)))
    assert participation_ratio(x) == pytest.approx(1 / (p**2).sum())
    assert [hint_bound(x, d) for d in (1, 2, 3, 9)] == pytest.approx([0.6, 0.9, 1, 1])
    assert effective_rank(white(50, 7)) == pytest.approx(7)


def test_ranks_do_not_see_rotation_shift_scale_or_shape():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 5)) * [5, 3, 2, 1, 1]
    turned = 0.01 * x @ np.linalg.qr(rng.normal(size=(200, 5)))[0].T + 100
    assert turned.shape == (40, 200)  # more features than samples: the other Gram matrix
    for function in (effective_rank, participation_ratio, lambda z: hint_bound(z, 2)):
        assert function(turned) == pytest.approx(function(x), rel=1e-6)
    assert 1 < participation_ratio(x) < effective_rank(x) < 5


def test_hint_bound_is_pcas_and_bounds_every_linear_hint():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(100, 8)) * np.arange(1, 9)
    assert hint_bound(x, 3) == pytest.approx(PCA(3).fit(x).explained_variance_ratio_.sum())
    centered = x - x.mean(0)
    source = centered @ rng.normal(size=(8, 3))
    fitted = source @ np.linalg.lstsq(source, centered, rcond=None)[0]
    assert 0.1 < 1 - ((centered - fitted) ** 2).sum() / (centered**2).sum() < hint_bound(x, 3)


@pytest.mark.parametrize("statistic", [entropy_rank, participation, top_share(2)])
def test_slopes_are_the_derivatives(statistic):
    values = np.array([5.0, 2.5, 1.0, 0.3])
    value, slope = statistic(values)
    for index in range(4):
        step = np.eye(4)[index] * 1e-6
        numeric = (statistic(values + step)[0] - statistic(values - step)[0]) / 2e-6
        assert slope[index] == pytest.approx(numeric, rel=1e-5, abs=1e-8)
    assert statistic(10 * values)[0] == pytest.approx(value)


def test_constant_and_broken_features():
    assert math.isnan(effective_rank(np.full((20, 3), 0.1)))
    assert spectral_interval(np.full((20, 3), 0.1), entropy_rank).reason == "constant features"
    assert "too few" in spectral_interval(np.eye(5), entropy_rank).reason
    assert "not finite" in spectral_interval(np.full((20, 3), np.inf), entropy_rank).reason
    assert effective_rank(np.arange(10.0)[:, None] * [1.0, 2.0]) == pytest.approx(1)
    with pytest.raises(InputError, match="samples, features"):
        effective_rank(np.arange(3.0))


def test_standard_error_of_a_rank_is_that_of_fresh_samples():
    rng = np.random.default_rng(3)
    scale = np.sqrt([4.0, 2.0, 1.0, 0.5])
    draws = [rng.normal(size=(300, 4)) * scale for _ in range(200)]
    true = np.std([effective_rank(x) for x in draws])
    claimed = np.mean([spectral_interval(x, entropy_rank).se for x in draws])
    assert claimed == pytest.approx(true, rel=0.15)


@pytest.mark.slow
def test_rank_intervals_cover_the_population_value():
    rng = np.random.default_rng(4)
    p = np.exp(-np.arange(20) / 5)
    true = np.exp(stats.entropy(p / p.sum()))
    found = [
        spectral_interval(rng.normal(size=(200, 20)) * np.sqrt(p), entropy_rank) for _ in range(300)
    ]
    assert np.mean([item.low <= true <= item.high for item in found]) >= 0.93
    assert np.mean([item.value - item.se * 1.96 > true for item in found]) < 0.05


def test_groups_count_instead_of_samples():
    x = np.random.default_rng(5).normal(size=(60, 3)) * [3, 2, 1]
    repeated, groups = np.repeat(x, 5, axis=0), np.repeat(np.arange(60), 5)
    alone = spectral_interval(x, entropy_rank)
    grouped = spectral_interval(repeated, entropy_rank, groups=groups)
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.se == pytest.approx(alone.se)
    assert spectral_interval(repeated, entropy_rank).se < 0.5 * alone.se


def test_many_statistics_at_once_are_those_one_by_one():
    x = np.random.default_rng(6).normal(size=(80, 6)) * np.arange(1, 7)
    groups = np.arange(80) // 2
    together = spectral_intervals(x, [entropy_rank, participation, top_share(2)], 0.9, groups)
    for statistic, found in zip((entropy_rank, participation, top_share(2)), together):
        assert found == spectral_interval(x, statistic, 0.9, groups)
        assert found.low < found.value < found.high


def test_wide_layers_use_a_part_of_the_samples(monkeypatch):
    monkeypatch.setattr("gapkit.probes.ranks.MOST", 30)
    x = np.random.default_rng(7).normal(size=(100, 40))
    found = spectral_interval(x, entropy_rank, seed=3)
    rows = np.sort(np.random.default_rng(3).permutation(100)[:30])
    assert found.value == pytest.approx(effective_rank(x[rows]))
    assert (found.n, found.seed) == (30, 3)
    assert found.method.startswith("30 of 100 samples, seed 3; influence")
    assert spectral_interval(x[:, :30], entropy_rank).n == 100
    assert spectral_interval(x[:30], entropy_rank).seed is None
    groups = np.arange(100) // 4
    assert spectral_interval(x, entropy_rank, groups=groups, seed=3).se != found.se
