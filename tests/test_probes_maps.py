"""Maps: every cell against the pure functions, intervals and nulls against resampling, groups, edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import spatial, stats
from torch import nn
from torch.utils.data import TensorDataset

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.probes import layer_pairs, measures
from gapkit.probes.features import Taps, observe
from gapkit.probes.maps import NAMES, SimilarityProbe, similarity_map
from gapkit.probes.measures import MEASURES, affordable
from gapkit.probes.probe import Probe, Setting
from gapkit.probes.rotation import procrustes, rotation_work
from gapkit.probes.similarity import cka, mutual_knn, rbf_cka, rsa
from gapkit.task import Classification

PLAIN = {
    "cka": cka,
    "procrustes": procrustes,
    "mutual_knn": mutual_knn,
    "rsa": rsa,
    "rbf_cka": rbf_cka,
}
SAMPLED = pytest.mark.parametrize("name", MEASURES)


def related(n: int, widths: tuple[int, ...], seed: int = 0, noise: float = 0.5) -> dict:
    """Layers that show the same three hidden directions, the same ones for every seed."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    signal = np.exp(0.5 * rng.normal(size=(n, 3)))
    return {
        f"l{place}": torch.tensor(
            signal @ fixed.normal(size=(3, width)) + noise * rng.normal(size=(n, width))
        )
        for place, width in enumerate(widths)
    }


def two(n: int, seed: int = 0, noise: float = 0.5) -> tuple[dict, dict]:
    layers = related(n, (5, 4, 7, 3), seed, noise)
    names = list(layers)
    return {key: layers[key] for key in names[:2]}, {key: layers[key] for key in names[2:]}


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_the_function_of_that_name(name):
    xs, ys = two(90)
    _, other = two(90, seed=1)
    fresh = {key: part + other[key] for key, part in ys.items()}
    found = similarity_map(name, xs, ys, untrained=fresh, split="test", reduce="flatten")
    for values, side in ((found.values, ys), (found.untrained, fresh)):
        expected = [[PLAIN[name](x, y) for y in side.values()] for x in xs.values()]
        assert 0.02 < np.min(expected) < np.max(expected) < 0.97
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert not np.allclose(found.values, found.untrained, rtol=0.02)
    assert (found.low < found.values).all()
    assert (found.values < found.high).all()
    assert (found.name, found.split, found.reduce, found.n) == (name, "test", "flatten", 90)
    assert (found.teacher_layers, found.student_layers) == (("l0", "l1"), ("l2", "l3"))
    assert (found.teacher_dims, found.student_dims) == ((5, 4), (7, 3))
    assert found.reasons == {}
    assert "n = 90;" in found.estimator


@SAMPLED
def test_the_same_features_are_alike_beyond_doubt(name):
    xs, _ = two(60)
    same = {key: 3 - 2 * part for key, part in xs.items()}
    found = similarity_map(name, xs, same)
    ends = [found.values.diagonal(), found.low.diagonal(), found.high.diagonal()]
    np.testing.assert_allclose(ends, 1, atol=1e-6)


def half_width(found) -> np.ndarray:
    return (found.high - found.low) / 2 / stats.t.ppf(0.975, found.n - 1)


@pytest.mark.parametrize("name", ["procrustes", "rsa", "rbf_cka"])
def test_standard_errors_are_those_of_leaving_each_sample_out(name):
    xs, ys = two(100)
    xs, ys = {"l1": xs["l1"], "ties": xs["l0"].round()}, {"l3": ys["l3"], "ties": ys["l2"].round()}
    found = similarity_map(name, xs, ys)
    for row, x in enumerate(xs.values()):
        for column, y in enumerate(ys.values()):
            rows = [np.delete(np.arange(100), i) for i in range(100)]
            left = np.array([PLAIN[name](x[kept], y[kept]) for kept in rows])
            expected = math.sqrt(99 / 100 * np.square(left - left.mean()).sum())
            assert expected > 0.005
            assert half_width(found)[row, column] == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("name", ["procrustes", "rsa", "rbf_cka"])
def test_standard_errors_of_groups_are_those_of_leaving_each_group_out(name):
    xs, ys = two(160)
    sizes = np.random.default_rng(0).integers(1, 8, size=40).cumsum()
    groups = np.searchsorted(sizes, np.arange(160), side="right")
    for layers in (xs, ys):
        layers |= {key: part + part[groups] for key, part in layers.items()}
    found = similarity_map(name, xs, ys, groups=groups)
    left = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups != group)
        kept = [{key: part[rows] for key, part in side.items()} for side in (xs, ys)]
        left.append(similarity_map(name, *kept, groups=groups[rows]).values)
    expected = np.sqrt((len(left) - 1) * np.var(left, 0))
    t = stats.t.ppf(0.975, len(left) - 1)
    assert (expected > 0.02).all()
    np.testing.assert_allclose((found.high - found.low) / 2 / t, expected, rtol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.3, 3.0])
@SAMPLED
def test_intervals_cover_the_mean_over_samples(name, noise):
    """95 % aimed at: more for neighbors and where nothing is alike, less for skewed features."""
    found = [similarity_map(name, *two(120, seed, noise)) for seed in range(250)]
    values = np.stack([item.values for item in found])
    truth, spread = values.mean(0), values.std(0)
    inside = [(item.low <= truth) & (truth <= item.high) for item in found]
    ratio = np.sqrt(np.mean([half_width(item) ** 2 for item in found], 0)) / spread
    careful = name == "mutual_knn" or noise > 1
    assert (np.mean(inside, 0) > 0.9).all()
    assert (ratio > 0.88).all()
    assert (ratio < (1.7 if careful else 1.15)).all()


@pytest.mark.parametrize("name", ["mutual_knn", "rsa", "rbf_cka"])
def test_null_z_counts_standard_deviations_of_shuffled_samples(name):
    xs, ys = two(60)
    found = similarity_map(name, xs, ys)
    rng = np.random.default_rng(0)
    x, y = xs["l0"], ys["l3"]
    null = np.array([PLAIN[name](x, y[rng.permutation(60)]) for _ in range(1500)])
    z = (PLAIN[name](x, y) - null.mean()) / null.std()
    assert z > 3
    assert found.null_z[0, 1] == pytest.approx(z, rel=0.12)


def test_the_spread_over_shuffles_is_exact_for_matrices_of_any_shape():
    rng = np.random.default_rng(0)
    both = rng.normal(size=(6, 2, 6))
    both[np.arange(6), :, np.arange(6)] = 0
    off = ~np.eye(6, dtype=bool)
    for layer, mean in itertools.product(range(2), [0.3]):
        both[:, layer][off] += mean - both[:, layer][off].mean()
    sums = [
        (both[:, 0] * both[:, 1][np.ix_(order, order)]).sum()
        for order in map(list, itertools.permutations(range(6)))
    ]
    assert np.std(sums) > 0.5
    expected = layer_pairs._shuffled_sd(torch.tensor(both), 1, 0.3)
    assert expected.item() == pytest.approx(np.std(sums), rel=1e-9)


def test_neighbors_and_distances_within_a_group_do_not_count():
    """Against plain loops."""
    xs, ys = two(80)
    groups = np.arange(80) % 23
    x, y = xs["l1"].numpy(), ys["l2"].numpy()
    near = [spatial.distance.cdist(part, part) for part in (x, y)]
    shared = []
    for i in range(80):
        others = np.flatnonzero(groups != groups[i])
        sets = [set(others[np.argsort(part[i][others])[:10]]) for part in near]
        shared.append(len(sets[0] & sets[1]) / 10)
    apart = np.triu(groups[:, None] != groups)
    expected = {
        "mutual_knn": np.mean(shared),
        "rsa": stats.spearmanr(near[0][apart], near[1][apart]).statistic,
    }
    for name, value in expected.items():
        found = similarity_map(name, xs, ys, groups=groups)
        assert found.values[1, 0] == pytest.approx(value, rel=1e-6)
        assert found.values[1, 0] != pytest.approx(PLAIN[name](x, y), rel=1e-4)
        assert np.isnan(found.null_z).all()
        assert "no z for dependent samples" in found.estimator
        assert "over 23 groups of samples" in found.estimator


@pytest.mark.parametrize("name", ["procrustes", "rsa"])
def test_copies_declared_as_groups_add_nothing(name):
    xs, ys = two(40)
    alone = similarity_map(name, xs, ys)
    copies = [{key: part.repeat(3, 1) for key, part in side.items()} for side in (xs, ys)]
    groups = np.array([f"id{i}" for i in range(40)] * 3)
    grouped = similarity_map(name, *copies, groups=groups)
    np.testing.assert_allclose(grouped.values, alone.values, rtol=1e-9)
    np.testing.assert_allclose(grouped.low, alone.low, rtol=1e-6)
    loose = similarity_map(name, *copies)
    assert ((loose.high - loose.low) < 0.7 * (alone.high - alone.low)).all()


@SAMPLED
def test_many_samples_are_chosen_from_by_seed(name, monkeypatch):
    xs, ys = two(200)
    monkeypatch.setattr(measures, "WORK", 0.0)
    monkeypatch.setattr(measures, "FEWEST_SAMPLES", 50)
    one, again = (similarity_map(name, xs, ys, seed=1) for _ in range(2))
    other = similarity_map(name, xs, ys, seed=2)
    assert one == again
    assert 50 <= one.n < 90
    assert f"n = {one.n} of 200, chosen at random" in one.estimator
    assert not np.allclose(one.values, other.values, rtol=1e-3)
    rows = np.sort(np.random.default_rng(1).permutation(200)[: one.n])
    expected = PLAIN[name](xs["l0"][rows], ys["l2"][rows])
    assert one.values[0, 0] == pytest.approx(expected, rel=1e-6)
    assert (one.seed, other.seed) == (1, 2)


def test_work_and_memory_bound_the_samples():
    def layers(count: int, width: int) -> dict:
        return {str(i): torch.empty(5000, 1).expand(5000, width) for i in range(count)}

    few, many, wide = layers(2, 4), layers(24, 64), layers(24, 2048)
    for name, measure in MEASURES.items():
        n = [affordable(name, side, side, {}) for side in (few, many, wide)]
        assert 5000 >= n[0] > n[1] >= n[2] >= 300
        if measure.entry:
            assert measure.entry * n[1] ** 2 * 48 <= measures.BYTES
    assert affordable("rsa", layers(600, 1), few, {}) == 166
    assert rotation_work([3], [5], [7], 1000) == 18 * (45 + 63) + 3000 * (15 + 21)


@SAMPLED
def test_layers_that_do_not_vary_are_named(name):
    xs, ys = two(60)
    xs["dead"], ys["off"] = torch.full((60, 3), 0.1), torch.zeros(60, 2)
    fresh = dict(reversed((ys | {"l2": torch.ones(60, 7)}).items()))
    found = similarity_map(name, xs, ys, untrained=fresh)
    lost = np.isnan(found.values)
    assert lost.tolist() == [[False, False, True]] * 2 + [[True] * 3]
    assert np.isnan(found.low).tolist() == np.isnan(found.high).tolist() == lost.tolist()
    assert np.isnan(found.untrained[:2]).tolist() == [[True, False, True]] * 2
    np.testing.assert_allclose(found.untrained[:2, 1], found.values[:2, 1])
    assert found.reasons["0,2"] == "the student's 'off' is the same for all samples"
    assert found.reasons["2,2"] == "the teacher's 'dead' is the same for all samples"
    assert set(found.reasons) == {"0,2", "1,2", "2,0", "2,1", "2,2"}
    nothing = similarity_map(name, {"dead": xs["dead"]}, ys, untrained=ys)
    assert np.isnan(nothing.values).all()
    assert np.isnan(nothing.untrained).all()
    assert nothing.untrained.shape == (1, 3)


@pytest.mark.parametrize(
    "name, n", [("procrustes", 1), ("mutual_knn", 10), ("rsa", 3), ("rbf_cka", 3)]
)
def test_too_few_samples_say_so(name, n):
    xs, ys = two(n)
    few = similarity_map(name, xs, ys, untrained=ys)
    assert np.isnan(few.values).all()
    assert np.isnan(few.untrained).all()
    if n > 1:
        assert few.reasons["1,1"] == f"{n} samples, {n + 1} needed"
    enough = similarity_map(name, *two(n + 1))
    assert np.isfinite(enough.values).all()


@SAMPLED
def test_few_independent_samples_give_no_interval(name):
    xs, ys = two(72)
    found = similarity_map(name, xs, ys, groups=np.arange(72) % 9)
    assert np.isfinite(found.values).all()
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    assert found.reasons["0,0"] == "no interval: 9 independent samples, 10 needed"
    assert np.isfinite(similarity_map(name, xs, ys, groups=np.arange(72) % 10).low).all()


def test_groups_that_leave_no_neighbors_or_distances_say_so():
    xs, ys = two(60)
    most = np.where(np.arange(60) < 51, 0, np.arange(60))
    found = similarity_map("mutual_knn", xs, ys, groups=most)
    assert np.isnan(found.values).all()
    assert "fewer than 10 others outside their group" in found.reasons["0,0"]
    most[50] = 1
    assert np.isfinite(similarity_map("mutual_knn", xs, ys, groups=most).values).all()
    one = similarity_map("rsa", xs, ys, groups=np.zeros(60))
    assert np.isnan(one.values).all()
    assert one.reasons["1,0"] == "no two distances between samples differ"


def test_samples_all_equally_far_apart_say_so():
    eye = {"a": torch.eye(30, dtype=torch.float64)}
    _, ys = two(30)
    for name, why in (("rsa", "no two distances"), ("rbf_cka", "no two are nearer")):
        found = similarity_map(name, eye, ys)
        assert np.isnan(found.values).all()
        assert why in found.reasons["0,1"]
    assert similarity_map("mutual_knn", eye, eye).values == pytest.approx(10 / 29, rel=1e-6)


def test_what_does_not_fit_is_refused():
    xs, ys = two(30)
    with pytest.raises(InputError, match="known similarity but got 'rbf'; nearest: 'rbf_cka'"):
        similarity_map("rbf", xs, ys)
    with pytest.raises(InputError, match="at least one layer of each model"):
        similarity_map("rsa", xs, {})
    with pytest.raises(InputError, match=r"same samples everywhere but got \[29, 30\]"):
        similarity_map("rsa", xs, {"a": ys["l2"][1:]})
    with pytest.raises(InputError, match=r"same samples everywhere but got \[29, 30\]"):
        similarity_map("rsa", xs, ys, groups=np.arange(29))
    with pytest.raises(InputError, match=r"untrained student at \['l3'\] too"):
        similarity_map("rsa", xs, ys, untrained={"l2": ys["l2"]})
    ys["l3"][2, 1] = torch.inf
    with pytest.raises(InputError, match="finite features in the student's 'l3'"):
        similarity_map("mutual_knn", xs, ys)
    with pytest.raises(InputError, match=r"the teacher's 'a' of shape .* got \(30, 0\)"):
        similarity_map("rsa", {"a": torch.empty(30, 0)}, {"l2": ys["l2"]})


def net(width: int = 6, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Linear(width, 3))


def probed(n=200, taps=None, groups=None, student=None, **keywords):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(x, (x[:, 0] > 0).long())
    data = Data(dataset, dataset, dataset, groups=groups)
    models = {"teacher": net(6), "student": student or net(3, 1), "untrained": net(3, 2)}
    taps = taps or Taps(("1", "3"), ("0", "1", "3"), batch_size=64)
    seen = {name: observe(name, data, Classification(), models, taps) for name in ("train", "test")}
    setting = Setting(Classification(), models["teacher"], models["student"], x[:1], x[:1])
    found = SimilarityProbe(n_permutations=39, **keywords).measure(seen, setting)
    return seen, {matrix.name: matrix for matrix in found}


def test_the_probe_gives_all_maps_for_each_held_out_split():
    assert isinstance(SimilarityProbe(), Probe)
    seen, found = probed()
    assert tuple(found) == NAMES
    xs, ys, zs = (role.features for role in seen["test"].models.values())
    for name, matrix in found.items():
        assert matrix.split == "test"
        assert matrix.values.shape == matrix.untrained.shape == matrix.low.shape == (2, 3)
        expected = [[PLAIN[name](x, y) for y in ys.values()] for x in xs.values()]
        np.testing.assert_allclose(matrix.values, expected, rtol=1e-6)
        fresh = [[PLAIN[name](x, z) for z in zs.values()] for x in xs.values()]
        np.testing.assert_allclose(matrix.untrained, fresh, rtol=1e-6)
        assert not np.allclose(matrix.values, matrix.untrained)
        assert (matrix.low < matrix.values).all()
        assert (matrix.values < matrix.high).all()
        assert matrix.n == 200
        assert (matrix.teacher_dims, matrix.student_dims) == ((6, 3), (3, 3, 3))
        assert matrix.reasons == {}
    first = found["cka"]
    assert first.p_value[0, 0] == 1 / 40
    assert (first.p_value <= 2 / 40).all()
    assert first.p_max == 1 / 40
    assert "39 permutations of 200 samples" in first.estimator


def test_the_probe_without_sums_takes_the_kept_features():
    taken = probed()[1]["cka"]
    left = probed(taps=Taps(("1", "3"), ("0", "1", "3"), moments=False))[1]["cka"]
    np.testing.assert_allclose(left.values, taken.values, rtol=1e-6)
    np.testing.assert_allclose(left.untrained, taken.untrained, rtol=1e-6)
    assert np.isfinite(left.low).all()


def test_the_probe_keeps_groups_together():
    groups = {split: np.arange(200) // 4 for split in ("train", "validation", "test")}
    _, found = probed(groups=groups)
    assert "39 permutations of 50 samples" in found["cka"].estimator
    for name in MEASURES:
        assert "50 groups of samples" in found[name].estimator
        assert np.isfinite(found[name].low).all()


def test_the_probe_explains_a_dead_student():
    dead = net(3)
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1)
    for matrix in probed(student=dead)[1].values():
        assert np.isnan(matrix.values).all()
        assert "the same for all samples" in matrix.reasons["0,0"]
