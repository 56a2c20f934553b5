"""Ranks, dimension and hint bound: closed forms, numeric derivatives, known surfaces, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from torch import nn

from gapkit.errors import InputError
from gapkit.measurement import Measurements
from gapkit.probes.capacity import (
    CapacityProbe,
    _entropy_rank,
    _participation,
    _top_share,
    dimension_interval,
    effective_rank,
    hint_bound,
    intrinsic_dimension,
    participation_ratio,
    spectral_interval,
)
from gapkit.probes.probe import Observation, Seen, Setting
from gapkit.task import Classification


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


@pytest.mark.parametrize("statistic", [_entropy_rank, _participation, _top_share(2)])
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
    assert spectral_interval(np.full((20, 3), 0.1), _entropy_rank).reason == "constant features"
    assert "too few" in spectral_interval(np.eye(5), _entropy_rank).reason
    assert "not finite" in spectral_interval(np.full((20, 3), np.inf), _entropy_rank).reason
    assert effective_rank(np.arange(10.0)[:, None] * [1.0, 2.0]) == pytest.approx(1)
    with pytest.raises(InputError, match="samples, features"):
        effective_rank(np.arange(3.0))
    with pytest.raises(InputError, match="finite features"):
        intrinsic_dimension(np.full((20, 2), np.nan))


def test_standard_error_of_a_rank_is_that_of_fresh_samples():
    rng = np.random.default_rng(3)
    scale = np.sqrt([4.0, 2.0, 1.0, 0.5])
    draws = [rng.normal(size=(300, 4)) * scale for _ in range(200)]
    true = np.std([effective_rank(x) for x in draws])
    claimed = np.mean([spectral_interval(x, _entropy_rank).se for x in draws])
    assert claimed == pytest.approx(true, rel=0.15)


@pytest.mark.slow
def test_rank_intervals_cover_the_population_value():
    rng = np.random.default_rng(4)
    p = np.exp(-np.arange(20) / 5)
    true = np.exp(stats.entropy(p / p.sum()))
    found = [
        spectral_interval(rng.normal(size=(200, 20)) * np.sqrt(p), _entropy_rank)
        for _ in range(300)
    ]
    assert np.mean([item.low <= true <= item.high for item in found]) >= 0.93
    assert np.mean([item.value - item.se * 1.96 > true for item in found]) < 0.05


def test_groups_count_instead_of_samples():
    x = np.random.default_rng(5).normal(size=(60, 3)) * [3, 2, 1]
    repeated, groups = np.repeat(x, 5, axis=0), np.repeat(np.arange(60), 5)
    alone = spectral_interval(x, _entropy_rank)
    grouped = spectral_interval(repeated, _entropy_rank, groups=groups)
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.se == pytest.approx(alone.se)
    assert spectral_interval(repeated, _entropy_rank).se < 0.5 * alone.se


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
    log_mu = []
    for row in x:
        near = np.sort(np.linalg.norm(x - row, axis=1))
        log_mu.append(math.log(near[2] / near[1]))
    log_mu.sort()
    total = sum(log_mu[:36]) + 4 * log_mu[35]
    found = dimension_interval(x)
    assert found.value == pytest.approx(35 / total)
    assert found.high == pytest.approx(stats.chi2.ppf(0.975, 72) / (2 * total))


def test_twonn_leaves_out_copies_and_says_when_nothing_is_left():
    x = np.random.default_rng(8).random((100, 2))
    doubled = np.vstack([x, x[:30]])
    assert dimension_interval(doubled).n == 70
    assert "only 0 samples" in dimension_interval(np.vstack([x, x])).reason
    assert "too few" in dimension_interval(x[:5]).reason
    assert (
        "equally far" in dimension_interval(np.arange(12.0)[1:-1, None] * 0 + 5 * np.eye(10)).reason
    )


def views(groups: np.ndarray | None = None) -> dict[str, Seen]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=rng) * torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5, 0.1])
    rows = np.arange(80)
    teacher = Observation(x, ("in", "out"), {"in": x, "out": x[:, :2]}, rows)
    student = Observation(x, ("a", "dead"), {"a": x[:, :3], "dead": x[:, :1] * 0}, rows)
    return {name: Seen(name, teacher, student, None, None, groups) for name in ("train", "test")}


def surveyed(example: object, groups: np.ndarray | None = None) -> Measurements:
    nets = nn.Linear(6, 4), nn.Bilinear(6, 6, 2) if isinstance(example, tuple) else nn.Linear(6, 2)
    setting = Setting(Classification(), nets[0], nets[1], torch.ones(8, 6), example)
    return Measurements(
        study="hand-made", values=tuple(CapacityProbe().measure(views(groups), setting))
    )


def test_probe_counts_per_sample_and_once():
    found = surveyed(torch.ones(5, 6))
    assert found.get("parameters", of="teacher").value == 28
    assert found.get("parameters", of="student").value == 14
    assert found.get("flops", of="teacher").value == 2 * 6 * 4
    assert found.get("flops", of="student").value == 2 * 6 * 2
    assert found.get("flops", of="student").split == ""
    as_words = surveyed({"input": torch.ones(5, 6)})
    assert as_words.get("flops", of="student").value == 2 * 6 * 2


def test_probe_measures_layers_and_says_what_it_cannot():
    found, x = surveyed(torch.ones(5, 6)), views()["test"].teacher.features["in"].double().numpy()
    rank = found.get("effective_rank", of="teacher", layer="in", split="test")
    assert rank.value == pytest.approx(effective_rank(x))
    assert 1 <= rank.low < rank.value < rank.high <= 6
    assert rank.n == 80
    assert not found.has("effective_rank", split="train")
    assert found.get("effective_rank", of="student", layer="dead", split="test").reason
    assert found.get("intrinsic_dimension", of="student", layer="dead", split="test").reason
    assert found.has("intrinsic_dimension", of="teacher", layer="out")
    bound = found.get("hint_bound", of="teacher", layer="in", split="test")
    assert bound.value == pytest.approx(hint_bound(x, 3))
    assert "student layer a" in bound.estimator
    assert found.get("hint_bound", of="teacher", layer="out", split="test").value == 1


def test_probe_takes_one_sample_of_each_group_for_the_dimension():
    found = surveyed(torch.ones(5, 6), groups=np.arange(80) // 2)
    assert found.get("intrinsic_dimension", of="teacher", layer="out", split="test").n == 40


def test_probe_refuses_an_example_without_a_tensor():
    setting = Setting(Classification(), nn.Identity(), nn.Identity(), "words", "words")
    with pytest.raises(InputError, match="holds a tensor but got str"):
        list(CapacityProbe().measure({}, setting))
