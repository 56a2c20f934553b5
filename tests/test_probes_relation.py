"""Relations: distances, angles, neighbors and triplets of two models against oracles, nulls and simulation."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial, stats
from sklearn.neighbors import NearestNeighbors
from torch import nn

from gapkit.errors import InputError
from gapkit.probes.geometry import Geometry
from gapkit.probes.probe import Observation, Probe, Seen, Setting
from gapkit.probes.relation import (
    RelationProbe,
    angle_structure,
    distance_structure,
    neighbors_kept,
    triplet_order,
)

QUANTITIES = {
    "distance_structure": distance_structure,
    "angle_structure": angle_structure,
    "triplet_order": triplet_order,
    "neighbors_kept": neighbors_kept,
}
LOWEST = {"distance_structure": -1, "angle_structure": -1, "triplet_order": 0, "neighbors_kept": 0}


def related(n: int = 40, seed: int = 0, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Features of n samples in four clusters, and a distorted, noisy copy."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) + 2 * np.eye(4, 6)[rng.integers(0, 4, n)]
    return x, np.tanh(x * [1, 1, 0.6, 0.6, 0.3, 0.3]) + noise * rng.normal(size=(n, 6))


def rotation(d: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def leave_one_out(quantity, x: np.ndarray, y: np.ndarray, unit: np.ndarray) -> float:
    """The jackknife's standard error, from recomputing the quantity without each unit."""
    names = np.unique(unit)
    left = np.array([quantity(x[unit != name], y[unit != name]) for name in names])
    return math.sqrt((len(names) - 1) * left.var())


def plain_distance(x, y):
    return stats.pearsonr(spatial.distance.pdist(x), spatial.distance.pdist(y)).statistic


def plain_angle(x, y):
    sides = []
    for part in (x, y):
        found = []
        for a, b, c in itertools.permutations(range(len(part)), 3):
            u, v = part[b] - part[a], part[c] - part[a]
            found.append(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        sides.append(found)
    return np.corrcoef(*sides)[0, 1]


def plain_order(x, y):
    """(1 + Kendall's tau) / 2 of every sample's distances to the others, averaged."""
    d, e = (spatial.distance.squareform(spatial.distance.pdist(part)) for part in (x, y))
    taus = [
        stats.kendalltau(np.delete(d[i], i), np.delete(e[i], i)).statistic for i in range(len(x))
    ]
    return (1 + np.mean(taus)) / 2


def plain_neighbors(x, y, k=10):
    near = [
        NearestNeighbors(n_neighbors=k).fit(part).kneighbors(return_distance=False)
        for part in (x, y)
    ]
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(*near)])


PLAIN = {
    "distance_structure": plain_distance,
    "angle_structure": plain_angle,
    "triplet_order": plain_order,
    "neighbors_kept": plain_neighbors,
}


@pytest.mark.parametrize("name", QUANTITIES)
def test_value_against_its_definition(name):
    x, y = related(24)
    expected = PLAIN[name](x, y)
    assert LOWEST[name] + 0.2 < expected < 0.95
    found = QUANTITIES[name](x, y)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.n == 24
    assert found.low < found.value < found.high <= 1


@pytest.mark.parametrize("name", ["distance_structure", "angle_structure", "triplet_order"])
def test_standard_error_against_leaving_each_sample_out(name):
    x, y = related(14)
    expected = leave_one_out(PLAIN[name], x, y, np.arange(14))
    found = QUANTITIES[name](x, y)
    assert 0.005 < expected < 0.5
    assert found.se == pytest.approx(expected, rel=1e-6)
    half = stats.t.ppf(0.975, 13) * expected
    low = max(LOWEST[name], found.value - half)
    assert (found.low, found.high) == pytest.approx((low, min(1, found.value + half)))
    assert "jackknife over 14 samples" in found.method


def test_groups_leave_their_own_pairs_out():
    x, y = related(36)
    unit = np.random.default_rng(1).permutation(36) // 3

    def across(x, y, unit):
        upper = np.triu_indices(len(x), 1)
        apart = unit[upper[0]] != unit[upper[1]]
        d, e = spatial.distance.pdist(x)[apart], spatial.distance.pdist(y)[apart]
        return np.corrcoef(d, e)[0, 1]

    left = [across(x[unit != g], y[unit != g], unit[unit != g]) for g in range(12)]
    found = distance_structure(x, y, groups=unit)
    assert found.value == pytest.approx(across(x, y, unit), abs=1e-9)
    assert found.value != pytest.approx(distance_structure(x, y).value, abs=1e-4)
    assert found.se == pytest.approx(math.sqrt(11 * np.var(left)), rel=1e-6)
    assert "12 groups" in found.method


def test_triplets_are_all_or_a_random_choice_of_three_groups():
    x, _ = related(12)
    alone = Geometry.of(x, x).triplets(0)
    assert {tuple(row) for row in alone} == {
        (a, b, c) for a, b, c in itertools.permutations(range(12), 3) if b < c
    }
    unit = np.arange(90) // 9
    drawn = Geometry.of(*related(90), groups=unit).triplets(3)
    assert 100_000 < len(drawn) < 200_000
    assert all(len(set(unit[row])) == 3 for row in drawn[:500])
    assert abs(np.bincount(drawn[:, 0], minlength=90) / len(drawn) * 90 - 1).max() < 0.15
    assert not np.array_equal(drawn[:50], Geometry.of(*related(90)).triplets(4)[:50])


def test_random_triplets_estimate_what_all_of_them_say():
    x, y = related(90)
    found = triplet_order(x, y, seed=1)
    assert "triplets" in found.method
    assert found.value == pytest.approx(plain_order(x, y), abs=0.006)
    assert found.value != triplet_order(x, y, seed=2).value


def test_copies_inside_groups_count_for_nothing():
    """Neighbors and triplets are sought in other groups, so near copies of a sample gain nothing."""
    x, y = related(30, noise=3.0)
    copied = [np.repeat(part, 3, axis=0) for part in (x, y)]
    copied = [part + 1e-6 * np.random.default_rng(5).normal(size=part.shape) for part in copied]
    unit = np.arange(90) // 3
    assert neighbors_kept(*copied, k=2).value == pytest.approx(1, abs=0.05)
    grouped = neighbors_kept(*copied, k=3, groups=unit)
    assert grouped.value == pytest.approx(neighbors_kept(x, y, k=1).value, abs=0.08)
    assert "30 groups" in grouped.method
    order = triplet_order(*copied, groups=unit)
    assert order.value == pytest.approx(triplet_order(x, y).value, abs=0.006)
    assert order.se == pytest.approx(triplet_order(x, y).se, rel=0.15)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_rotation_shift_scale_and_order_change_nothing(seed, scale, shift):
    x, y = related(26, seed)
    moved = scale * y @ rotation(6, seed) + shift
    order = np.random.default_rng(seed).permutation(26)
    for quantity in QUANTITIES.values():
        plain = quantity(x, y)
        assert quantity(x, moved).value == pytest.approx(plain.value, abs=1e-6)
        assert quantity(x[order], y[order]).value == pytest.approx(plain.value, abs=1e-9)
        assert quantity(x, 3 * x @ rotation(6) - shift).value == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name, null", [("triplet_order", 0.5), ("neighbors_kept", 10 / 299)])
def test_unrelated_features_agree_by_chance(name, null):
    rng = np.random.default_rng(0)
    found = QUANTITIES[name](rng.normal(size=(300, 5)), rng.normal(size=(300, 8)))
    assert found.low < null < found.high
    assert found.high - found.low < 0.08


@pytest.mark.parametrize("name", ["distance_structure", "angle_structure"])
def test_unrelated_features_do_not_correlate(name):
    rng = np.random.default_rng(1)
    found = QUANTITIES[name](rng.normal(size=(300, 5)), rng.normal(size=(300, 8)))
    assert found.low < 0 < found.high
    assert found.high - found.low < 0.15


def test_angles_see_shape_where_distances_see_one_far_sample():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
    x[0], y[0] = 100, 100
    assert distance_structure(x, y).value > 0.9
    assert angle_structure(x, y).value < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_intervals_cover_what_many_samples_say(noise):
    """Of 150 intervals of 95 % at least 87 % hold the truth, and none is twice as wide as needed."""
    draws = [related(60, seed, noise) for seed in range(150)]
    for name, quantity in QUANTITIES.items():
        found = [quantity(x, y) for x, y in draws]
        values = np.array([item.value for item in found])
        truth = (
            values.mean()
            if name == "neighbors_kept"
            else quantity(*related(1000, 999, noise)).value
        )
        covered = np.mean([item.low <= truth <= item.high for item in found])
        assert covered >= 0.87, name
        assert 0.8 < np.mean([item.se for item in found]) / values.std() < 1.3, name


def test_a_constant_student_keeps_nothing():
    x, _ = related()
    same = np.full((40, 3), 0.1)
    assert triplet_order(x, same).value == 0.5
    for name in ("distance_structure", "angle_structure", "neighbors_kept"):
        for pair in ((x, same), (same, x)):
            found = QUANTITIES[name](*pair)
            assert math.isnan(found.value)
            assert "one model" in found.reason
    assert "one model" in triplet_order(same, x).reason


def test_samples_that_are_all_equally_far_have_no_structure():
    x, _ = related(12)
    for name in ("distance_structure", "angle_structure"):
        assert "apart" in QUANTITIES[name](np.eye(12), x).reason
    assert triplet_order(x, np.eye(12)).value == 0.5
    assert math.isnan(triplet_order(np.eye(12), x).value)


def test_one_sample_apart_from_equal_ones_gives_no_interval():
    x = np.zeros((12, 2))
    x[3] = 1
    found = distance_structure(x, related(12)[0])
    assert math.isnan(found.value)
    assert "only one" in found.reason


def test_tied_neighbors_fall_at_random():
    """Two groups of equal samples: who is nearest is a toss, not the order of the rows."""
    x = np.repeat([[0.0], [1.0]], 50, axis=0)
    assert neighbors_kept(x, x, k=7).value == pytest.approx(7 / 49, abs=0.06)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("name", QUANTITIES)
def test_few_samples_are_nan(name, n):
    x, y = related(n)
    found = QUANTITIES[name](x, y)
    assert math.isnan(found.value)
    assert "needed" in found.reason
    assert found.n == n


def test_few_groups_are_nan():
    x, y = related(40)
    found = distance_structure(x, y, groups=np.arange(40) // 5)
    assert found.reason == "8 groups, 10 needed"
    assert "needed for 25 neighbors" in neighbors_kept(*related(26), k=25).reason


def test_tensors_of_any_float_agree_and_large_means_do_not_hurt():
    x, y = (torch.tensor(part, dtype=torch.float32) for part in related())
    plain = distance_structure(x, y).value
    assert distance_structure(x.requires_grad_(), y.double().numpy()).value == plain
    assert distance_structure(x.detach() + 1000, y).value == pytest.approx(plain, abs=1e-3)
    assert distance_structure(x.bfloat16().float(), y).value == pytest.approx(plain, abs=0.01)


def test_what_does_not_fit_is_refused():
    x, y = related()
    for quantity in QUANTITIES.values():
        with pytest.raises(InputError, match="same samples in x and y but got 40 and 39"):
            quantity(x, y[:39])
        with pytest.raises(InputError, match=r"x of shape \(samples, features\) but got \(40,\)"):
            quantity(x[:, 0], y)
        with pytest.raises(InputError, match="40 groups but got shape"):
            quantity(x, y, groups=np.arange(39))
        with pytest.raises(InputError, match="finite y"):
            quantity(x, np.where(y > y.mean(), np.nan, y))
        with pytest.raises(InputError, match="level between 0 and 1"):
            quantity(x, y, level=2)
    with pytest.raises(InputError, match="k of at least 1"):
        neighbors_kept(x, y, k=0)


def observation(outputs: np.ndarray, rows: np.ndarray, **features: np.ndarray) -> Observation:
    parts = {name: torch.tensor(part[rows]).float() for name, part in features.items()}
    return Observation(torch.tensor(outputs).float(), tuple(features), parts, rows)


def seen(untrained: bool = True, groups: bool = False) -> Seen:
    """120 samples, features of 90 kept; the teacher's last tap shows its outputs, the student's not."""
    x, y = related(120)
    rows = np.sort(np.random.default_rng(3).permutation(120)[:90])
    teacher = observation(x[:, :3], rows, low=x, head=x[:, :3])
    student = observation(y[:, :3], rows, wide=y, narrow=y[:, :2])
    fresh = np.random.default_rng(4).normal(size=(120, 6))
    other = observation(fresh[:, :3], rows, wide=fresh, narrow=fresh[:, :2]) if untrained else None
    return Seen("test", teacher, student, other, None, np.arange(120) // 4 if groups else None)


def setting(kind: str = "classification") -> Setting:
    return Setting(SimpleNamespace(kind=kind), nn.Identity(), nn.Identity(), None, None, seed=5)


def measured(given: Seen, n_samples: int = 1000, kind: str = "classification"):
    found = list(RelationProbe(n_samples).measure({"train": given, "test": given}, setting(kind)))
    return {(item.name, item.of, item.layer): item for item in found}


def test_probe_compares_outputs_and_the_layers_before_them():
    given = seen()
    found = measured(given)
    assert len(found) == 4 * 2 * 2
    rows = given.teacher.rows
    outputs, inner = found["triplet_order", "pair", ""], found["triplet_order", "pair", "low"]
    x, y = related(120)
    assert outputs.value == pytest.approx(plain_order(x[rows, :3], y[rows, :3]), abs=0.006)
    assert inner.value == pytest.approx(plain_order(x[rows], y[rows, :2]), abs=0.006)
    assert outputs.value != pytest.approx(inner.value, abs=0.02)
    assert "teacher layer low, student layer narrow" in inner.estimator
    assert "90 of 120 samples" in inner.estimator
    assert "0.112 by chance" in found["neighbors_kept", "pair", "low"].estimator
    fresh = found["triplet_order", "untrained", "low"]
    assert fresh.low < 0.5 < fresh.high < inner.low
    assert {item.split for item in found.values()} == {"test"}
    assert all(item.better == "higher" and item.seed == 5 for item in found.values())


def test_probe_is_bounded_seeded_and_minds_groups():
    given = seen(untrained=False, groups=True)
    found = measured(given, n_samples=60)
    assert len(found) == 8
    assert all(item.n == 60 for item in found.values())
    assert all("groups" in item.estimator for item in found.values())
    again = measured(given, n_samples=60)
    assert [item.value for item in again.values()] == [item.value for item in found.values()]


def test_probe_compares_tokens_of_different_samples():
    """With reduce="tokens" the kept rows repeat samples; outputs are compared once a sample."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(30, 4, 5))
    y = x @ rng.normal(size=(5, 3)) + 0.3 * rng.normal(size=(30, 4, 3))
    rows, tokens = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)
    sides = [
        Observation(
            torch.tensor(part).float(),
            ("deep", "head"),
            {
                "deep": torch.tensor(part[rows, tokens] ** 3).float(),
                "head": torch.tensor(part[rows, tokens]),
            },
            rows,
            tokens,
        )
        for part in (x, y)
    ]
    found = measured(Seen("test", *sides, None, None, np.arange(30)))
    assert {layer for _, _, layer in found} == {"", "deep"}
    deep, outputs = (found["distance_structure", "pair", layer] for layer in ("deep", ""))
    flat = [part[rows, tokens] ** 3 for part in (x, y)]
    assert deep.value == pytest.approx(distance_structure(*flat, groups=rows).value, abs=1e-6)
    assert (deep.n, outputs.n) == (120, 30)
    assert "30 groups" in deep.estimator


def test_probe_compares_embeddings_by_direction():
    given = seen(untrained=False)
    lengths = torch.linspace(0.1, 5, 120)[:, None]
    longer = Observation(
        given.teacher.outputs * lengths,
        ("low",),
        {"low": given.teacher.features["low"]},
        given.teacher.rows,
    )
    pair = Seen("test", given.teacher, longer, None, None)
    by_direction = measured(pair, kind="embedding")["distance_structure", "pair", ""]
    assert by_direction.value == pytest.approx(1, abs=1e-6)
    assert "length 1" in by_direction.estimator
    assert measured(pair)["distance_structure", "pair", ""].value < 0.9


def test_probe_with_outputs_of_any_shape():
    x, y = related(30)
    rows = np.arange(30)
    for cut in (lambda part: part[:, 0], lambda part: part.reshape(30, 3, 2)):
        sides = [observation(cut(part), rows, only=part) for part in (x, y)]
        found = measured(Seen("test", *sides, None, None))
        flat = [cut(part).reshape(30, -1) for part in (x, y)]
        value = found["distance_structure", "pair", ""].value
        assert value == pytest.approx(plain_distance(*flat), abs=1e-5)


def test_probe_says_outputs_once_when_nothing_else_is_tapped():
    x, y = related(30)
    sides = [observation(part, np.arange(30), head=part) for part in (x, y)]
    assert {layer for _, _, layer in measured(Seen("test", *sides, None, None))} == {""}
    assert isinstance(RelationProbe(), Probe)
    assert not list(RelationProbe().measure({"train": seen()}, setting()))
