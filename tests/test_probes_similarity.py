"""Similarity: formulas against definitions and other libraries, nulls, invariances, edges; the layer maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import spatial, stats
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import KernelCenterer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.probes import moments as moments_module
from gapkit.probes import similarity as module
from gapkit.probes.features import Taps, observe
from gapkit.probes.moments import Grams, Moments
from gapkit.probes.probe import Probe, Setting
from gapkit.probes.similarity import (
    SimilarityProbe,
    cka,
    cka_map,
    from_moments,
    hsic1,
    mutual_knn,
    permutation_p,
    procrustes,
    rbf_cka,
    rsa,
)
from gapkit.task import Classification

MEASURES = {
    "cka": cka,
    "biased": lambda x, y: cka(x, y, debiased=False),
    "rbf": rbf_cka,
    "procrustes": procrustes,
    "knn": mutual_knn,
    "rsa": rsa,
}


def related(n: int = 60, p: int = 5, q: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, 3))
    x = signal @ rng.normal(size=(3, p)) + 0.5 * rng.normal(size=(n, p))
    y = signal @ rng.normal(size=(3, q)) + 0.5 * rng.normal(size=(n, q))
    return x, y


def rotation(width: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def u_center(gram: np.ndarray) -> np.ndarray:
    """Székely & Rizzo's U-centring, entry by entry."""
    n = len(gram)
    gram = gram - np.diag(np.diag(gram))
    out = np.zeros_like(gram)
    for i in range(n):
        for j in range(n):
            if i != j:
                out[i, j] = (
                    gram[i, j]
                    - gram[i].sum() / (n - 2)
                    - gram[:, j].sum() / (n - 2)
                    + gram.sum() / ((n - 1) * (n - 2))
                )
    return out


# --- formulas


@pytest.mark.parametrize("widths", [(5, 4), (80, 4), (80, 90)])
def test_debiased_cka_is_the_cosine_of_u_centered_gram_matrices(widths):
    x, y = related(30, *widths)
    k, l_ = u_center(x @ x.T), u_center(y @ y.T)
    expected = (k * l_).sum() / np.sqrt((k * k).sum() * (l_ * l_).sum())
    assert 0.2 < expected < 0.995
    assert cka(x, y) == pytest.approx(expected, rel=1e-10)
    assert hsic1(x, y) == pytest.approx((k * l_).sum() / (30 * 27), rel=1e-10)


@pytest.mark.parametrize("widths", [(5, 4), (80, 90)])
def test_biased_cka_is_kornblith_formula(widths):
    x, y = related(30, *widths)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert 0.3 < expected < 0.995
    assert cka(x, y, debiased=False) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("bandwidth", [0.5, 2.0])
def test_rbf_cka_against_sklearn_kernels(bandwidth):
    x, y = related()
    grams = []
    for part in (x, y):
        sigma = bandwidth * np.median(spatial.distance.pdist(part))
        grams.append(rbf_kernel(part, gamma=1 / (2 * sigma**2)))

    def cosine(k, l_):
        return (k * l_).sum() / np.sqrt((k * k).sum() * (l_ * l_).sum())

    biased = cosine(*(KernelCenterer().fit_transform(gram) for gram in grams))
    assert 0.1 < biased < 0.98
    # the median of an even number of distances is torch's lower one
    assert rbf_cka(x, y, bandwidth, debiased=False) == pytest.approx(biased, rel=1e-3)
    free = cosine(*(u_center(gram) for gram in grams))
    assert rbf_cka(x, y, bandwidth) == pytest.approx(free, rel=1e-2)


def test_procrustes_against_scipy():
    x, y = related(q=5)
    disparity = spatial.procrustes(x, y)[2]
    assert 0.1 < disparity < 0.9
    assert procrustes(x, y) == pytest.approx(np.sqrt(1 - disparity), rel=1e-10)


def test_procrustes_of_more_features_than_samples():
    x, y = related(20, 150, 90)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.svd(a.T @ b, compute_uv=False).sum() / (
        np.linalg.norm(a) * np.linalg.norm(b)
    )
    assert procrustes(x, y) == pytest.approx(expected, rel=1e-6)


def test_wide_procrustes_takes_eigenvalues_without_losing_digits():
    x, y = related(300, 90, 80)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.svd(a.T @ b, compute_uv=False).sum() / (
        np.linalg.norm(a) * np.linalg.norm(b)
    )
    assert procrustes(x, y) == pytest.approx(expected, rel=1e-6)


def test_mutual_knn_against_sklearn():
    x, y = related()
    near = [
        NearestNeighbors(n_neighbors=7).fit(part).kneighbors(return_distance=False)
        for part in (x, y)
    ]
    shared = [len(set(a) & set(b)) / 7 for a, b in zip(*near)]
    assert 0.1 < np.mean(shared) < 0.9
    assert mutual_knn(x, y, k=7) == pytest.approx(np.mean(shared), rel=1e-6)


def test_rsa_against_scipy():
    x, y = related()
    expected = stats.spearmanr(spatial.distance.pdist(x), spatial.distance.pdist(y)).statistic
    assert 0.2 < expected < 0.95
    assert rsa(x, y) == pytest.approx(expected, rel=1e-6)


# --- invariances and nulls


@pytest.mark.parametrize("name", MEASURES)
def test_rotation_shift_and_scale_change_nothing(name):
    measure, (x, y) = MEASURES[name], related()
    plain = measure(x, y)
    assert 0.05 < plain < 0.98
    assert measure(x, x) == pytest.approx(1.0, abs=1e-9)
    assert measure(y, x) == pytest.approx(plain, rel=1e-9)
    assert measure(3 * x @ rotation(5) + 100, y) == pytest.approx(plain, rel=1e-6)
    order = np.random.default_rng(1).permutation(len(x))
    assert measure(x[order], y[order]) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("mean", [100.0, 1000.0])
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_large_means_and_small_scales(mean, scale):
    x, y = related()
    plain = cka(x, y)
    assert cka(mean + scale * x, y) == pytest.approx(plain, rel=1e-6)
    coarse = torch.tensor(mean + scale * x, dtype=torch.float32)
    assert cka(coarse, y) == pytest.approx(plain, rel=2e-2)


def test_shuffled_samples_have_the_closed_form_null():
    """Mean 0 and standard deviation √(2/(n(n-3))), whatever the data."""
    x, y = related(40, 6, 8)
    rng = np.random.default_rng(0)
    null = np.array([cka(x, y[rng.permutation(40)]) for _ in range(1500)])
    sd = math.sqrt(2 / (40 * 37))
    assert null.mean() == pytest.approx(0, abs=4 * sd / math.sqrt(1500))
    assert null.std() == pytest.approx(sd, rel=0.12)
    assert cka(x, y) > 5 * sd


def test_more_features_than_samples_fool_only_the_biased_form():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 16384)), rng.normal(size=(64, 16384))
    assert cka(x, y, debiased=False) > 0.99
    assert abs(cka(x, y)) < 5 * math.sqrt(2 / (64 * 61))


def test_one_large_direction_dominates_cka_but_not_neighbours_of_all():
    """Davari 2022: the information is the same, the value is not; hence a second measure."""
    x = np.random.default_rng(0).normal(size=(2000, 50))
    scaled = x.copy()
    scaled[:, 0] *= 10
    assert cka(x, scaled) < 0.35
    assert procrustes(x, scaled) > cka(x, scaled) + 0.2


def test_unrelated_neighbours_agree_by_chance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 5)), rng.normal(size=(500, 5))
    assert mutual_knn(x, y) == pytest.approx(10 / 499, abs=0.006)
    assert abs(rsa(x, y)) < 0.05
    assert abs(rbf_cka(x, y)) < 0.02


# --- edges and refusals


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_features_are_nan_without_a_warning(value, dtype):
    x, _ = related()
    same = torch.full((60, 7), value, dtype=dtype)
    for measure in MEASURES.values():
        assert math.isnan(measure(same, x))
        assert math.isnan(measure(x, same))
    assert hsic1(same, x) == 0


def test_too_few_samples_are_nan():
    x, y = related(3)
    assert math.isnan(cka(x, y))
    assert math.isnan(hsic1(x, y))
    assert math.isnan(rbf_cka(x, y))
    assert math.isnan(rsa(x[:2], y[:2]))
    assert math.isfinite(cka(x, y, debiased=False))
    assert math.isnan(cka(x[:1], y[:1], debiased=False))


def test_features_without_structure_between_samples_are_nan():
    assert math.isnan(cka(np.eye(9), np.eye(9)))
    assert cka(np.eye(9), np.eye(9), debiased=False) == pytest.approx(1)
    assert math.isnan(rsa(np.eye(9), np.eye(9)))


def test_tensors_arrays_and_integers_agree():
    x, y = related()
    assert cka(torch.tensor(x, requires_grad=True), y) == pytest.approx(cka(x, y), rel=1e-12)
    whole = (10 * x).round()
    assert cka(whole.astype(int), y) == pytest.approx(cka(whole, y), rel=1e-12)


def test_what_does_not_fit_is_refused():
    x, y = related()
    with pytest.raises(InputError, match="same samples in x and y but got 60 and 59"):
        cka(x, y[:59])
    with pytest.raises(InputError, match=r"x of shape \(samples, features\) but got \(60,\)"):
        cka(x[:, 0], y)
    with pytest.raises(InputError, match=r"y of shape \(samples, features\) but got \(0, 4\)"):
        cka(x, y[:0])
    y[3, 1] = np.nan
    with pytest.raises(InputError, match="finite features in y"):
        procrustes(x, y)
    with pytest.raises(InputError, match="1 <= k < 60 samples but got k = 60"):
        mutual_knn(x, x, k=60)
    with pytest.raises(InputError, match="bandwidth above 0"):
        rbf_cka(x, x, bandwidth=0)


# --- permutations


def as_layers(*parts: np.ndarray) -> dict[str, torch.Tensor]:
    return {f"l{i}": torch.tensor(part) for i, part in enumerate(parts)}


def test_both_ways_of_permuting_agree_with_a_plain_loop():
    x, y = related(40)
    z = np.random.default_rng(9).normal(size=(40, 6))
    xs, ys = [x, z], [y]
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(40) for _ in range(6)])
    plain = [[[cka(a, b[order]) for b in ys] for a in xs] for order in orders]
    centered = [[torch.tensor(part - part.mean(0)) for part in side] for side in (xs, ys)]
    by_features = module._permuted_features(*centered, orders)
    by_grams = module._permuted_grams(*centered, orders)
    assert np.std(plain) > 0.01
    np.testing.assert_allclose(by_features, plain, atol=1e-12)
    np.testing.assert_allclose(by_grams, plain, atol=1e-6)


@pytest.mark.parametrize("width", [4, 400])
def test_a_planted_pair_is_found_and_the_rest_is_not(width):
    rng = np.random.default_rng(1)
    x, y = related(80, width, width)
    noise = rng.normal(size=(80, width))
    found = permutation_p(as_layers(noise, x), as_layers(y), n_permutations=99)
    assert found.p_value[1, 0] == 0.01
    assert found.p_value[0, 0] > 0.05
    assert found.p_max == 0.01
    assert (found.n, found.n_permutations, len(found.maxima)) == (80, 99, 99)


def test_p_values_of_unrelated_features_are_uniform_and_the_maximum_is_corrected():
    cells, largest = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        parts = [rng.normal(size=(30, 3)) for _ in range(6)]
        result = permutation_p(as_layers(*parts[:3]), as_layers(*parts[3:]), 39, seed)
        cells.append(result.p_value.min())
        largest.append(result.p_max)
    assert np.mean(np.array(cells) <= 0.05) > 0.2
    assert np.mean(np.array(largest) <= 0.05) < 0.12
    assert np.mean(largest) == pytest.approx(0.5, abs=0.09)


def test_permutations_of_constant_or_few_samples_say_nan():
    x, y = related(20)
    mixed = permutation_p(as_layers(np.ones((20, 2)), x), as_layers(y), 19)
    assert math.isnan(mixed.p_value[0, 0])
    assert mixed.p_value[1, 0] == mixed.p_max == 0.05
    nothing = permutation_p(as_layers(np.ones((20, 2))), as_layers(y), 19)
    assert math.isnan(nothing.p_max)
    assert nothing.n_permutations == 0
    assert math.isnan(permutation_p(as_layers(x[:3]), as_layers(y[:3]), 19).p_max)
    with pytest.raises(InputError, match="at least 1 permutation"):
        permutation_p(torch.tensor(x), torch.tensor(y), 0)
    with pytest.raises(InputError, match="their numbers differ"):
        permutation_p(torch.tensor(x), torch.tensor(y[:9]))


# --- layer maps


def net(width: int = 6, seed: int = 0, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(inplace), nn.BatchNorm1d(width), nn.Linear(width, 3)
    )


def inputs(n: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("size", [200, 64, 33, 199])
def test_the_map_equals_cka_of_each_pair_for_any_batch_size(size, debiased):
    """All batches count, a last one of 1 sample too."""
    teacher, student, x = net(6, 0).eval(), net(3, 1).eval(), inputs()
    layers = ["0", "1", "3"]
    matrix = cka_map(teacher, student, x.split(size), layers, layers, debiased=debiased)
    for row, t in enumerate((1, 2, 4)):
        for column, s in enumerate((1, 2, 4)):
            expected = cka(teacher[:t](x), student[:s](x), debiased=debiased)
            assert 0.01 < expected < 1
            assert matrix.values[row, column] == pytest.approx(expected, rel=1e-4)
    assert matrix.teacher_layers == ("0", "1", "3")
    assert (matrix.teacher_dims, matrix.student_dims) == ((6, 6, 3), (3, 3, 3))
    assert (matrix.n, matrix.reduce) == (200, "gap")
    sd = math.sqrt(2 / (200 * 197))
    free = cka(teacher[:1](x), student[:1](x))
    assert matrix.null_z[0, 0] == pytest.approx(free / sd, rel=1e-4)


def test_a_shuffled_loader_shows_both_models_the_same_samples():
    teacher, x = net(6, 0, inplace=True), inputs()
    loader = DataLoader(TensorDataset(x, torch.zeros(200)), batch_size=30, shuffle=True)
    matrix = cka_map(teacher, teacher, loader)
    np.testing.assert_allclose(matrix.values.diagonal(), 1.0)
    assert (matrix.low.diagonal() > 0.999).all()


def test_in_place_activations_do_not_change_a_kept_layer():
    x = inputs()
    plain, greedy = net(6, 0, False), net(6, 0, True)
    layers = ["0", "1"]
    values = [cka_map(model, model, [x], layers, layers).values for model in (plain, greedy)]
    assert values[0][0, 1] < 0.98
    np.testing.assert_array_equal(values[0], values[1])


def test_mappings_pairs_and_generators_are_read_once():
    class Named(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    model, x = Named(*net()), inputs()
    tensors = cka_map(model, model, (part for part in x.split(50)))
    pairs = cka_map(model, model, [(part, part) for part in x.split(50)])
    dicts = cka_map(model, model, [{"x": part, "labels": part} for part in x.split(50)])
    np.testing.assert_array_equal(tensors.values, pairs.values)
    np.testing.assert_array_equal(tensors.values, dicts.values)


def test_models_are_left_alone_by_the_map():
    teacher, student = net().train(), net(3).train()
    means = teacher[2].running_mean.clone()
    random = torch.get_rng_state()
    with pytest.raises(InputError, match="nan or inf from the teacher at '1' in batch 1"):
        cka_map(teacher, student, [inputs(), torch.full((9, 4), torch.nan)])
    cka_map(teacher, student, [inputs()])
    for module_ in (*teacher.modules(), *student.modules()):
        assert module_.training
        assert not module_._forward_hooks
    assert torch.equal(teacher[2].running_mean, means)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_map_refuses_what_it_cannot_use():
    with pytest.raises(InputError, match="at least one batch"):
        cka_map(net(), net(), [])
    with pytest.raises(InputError, match="known layer but got '7'"):
        cka_map(net(), net(), [inputs()], ["7"])
    with pytest.raises(InputError, match="known reduce but got 'mean'"):
        cka_map(net(), net(), [inputs()], reduce="mean")


def test_intervals_need_blocks_and_cells_say_why_not():
    matrix = cka_map(net(), net(3, 1), [inputs(40)])
    assert np.isfinite(matrix.values).all()
    assert np.isnan(matrix.low).all()
    assert matrix.reasons["0,0"] == "no interval: 5 blocks of samples, 10 needed"
    enough = cka_map(net(), net(3, 1), [inputs(200)])
    assert (enough.low < enough.values).all()
    assert (enough.values < enough.high).all()
    assert enough.reasons == {}


def test_intervals_cover_the_truth():
    teacher, student = net(6, 0).eval(), net(2, 1).eval()
    truth = cka_map(teacher, student, [inputs(20_000, 99)], ["1"], ["1"]).values[0, 0]
    hits = []
    for seed in range(60):
        matrix = cka_map(teacher, student, inputs(240, seed).split(80), ["1"], ["1"])
        hits.append(matrix.low[0, 0] <= truth <= matrix.high[0, 0])
    assert 0.05 < truth < 0.95
    assert 0.88 <= np.mean(hits) <= 1.0


def test_dead_layers_are_nan_with_a_reason():
    dead = net(3)
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1)
    matrix = cka_map(net(), dead, [inputs()], ["0"], ["0", "1", "3"])
    assert np.isnan(matrix.values).all()
    assert matrix.reasons["0,1"] == "the student's '1' is the same for all samples"
    few = cka_map(net(), net(), [inputs(3)], ["0"], ["0"])
    assert few.reasons == {"0,0": "3 samples, 4 needed"}
    eye = {"a": torch.eye(9, dtype=torch.float64)}
    assert "self term is 0" in from_moments(Grams(eye, eye)).reasons["0,0"]


def test_layers_too_wide_for_exact_sums_are_summed_by_batch(monkeypatch):
    exact = cka_map(net(), net(3, 1), inputs(2000).split(100))
    monkeypatch.setattr(moments_module, "BYTE_BUDGET", 100)
    batched = cka_map(net(), net(3, 1), inputs(2000).split(100))
    assert "exact sums in one pass" in exact.estimator
    assert "HSIC1 summed over batches" in batched.estimator
    np.testing.assert_allclose(batched.values, exact.values, atol=0.05)
    assert not np.array_equal(batched.values, exact.values)
    with pytest.raises(InputError, match="debiased=True for layers this wide"):
        cka_map(net(), net(3, 1), [inputs()], debiased=False)


# --- the probe


def probed(n=200, taps=None, groups=None, student=None, **keywords):
    x = inputs(n)
    dataset = TensorDataset(x, (x[:, 0] > 0).long())
    data = Data(dataset, dataset, dataset, groups=groups)
    models = {"teacher": net(6), "student": student or net(3, 1), "untrained": net(3, 2)}
    taps = taps or Taps(("1", "3"), ("0", "1", "3"), batch_size=64)
    seen = {name: observe(name, data, Classification(), models, taps) for name in ("train", "test")}
    setting = Setting(Classification(), models["teacher"], models["student"], x[:1], x[:1])
    return seen, list(SimilarityProbe(n_permutations=39, **keywords).measure(seen, setting))


def test_the_probe_gives_two_maps_for_each_held_out_split():
    assert isinstance(SimilarityProbe(), Probe)
    seen, results = probed()
    assert [(matrix.name, matrix.split) for matrix in results] == [
        ("cka", "test"),
        ("procrustes", "test"),
    ]
    first, second = results
    xs, ys, zs = (role.features for role in seen["test"].models.values())
    for matrix, measure in ((first, cka), (second, procrustes)):
        assert matrix.values.shape == matrix.untrained.shape == matrix.low.shape == (2, 3)
        expected = [[measure(x, y) for y in ys.values()] for x in xs.values()]
        np.testing.assert_allclose(matrix.values, expected, rtol=1e-8)
        fresh = [[measure(x, z) for z in zs.values()] for x in xs.values()]
        np.testing.assert_allclose(matrix.untrained, fresh, rtol=1e-8)
        assert not np.allclose(matrix.values, matrix.untrained)
        assert (matrix.low < matrix.values).all()
        assert (matrix.values < matrix.high).all()
        assert matrix.n == 200
        assert (matrix.teacher_dims, matrix.student_dims) == ((6, 3), (3, 3, 3))
        assert matrix.reasons == {}
    assert first.p_value[0, 0] == 1 / 40
    assert (first.p_value <= 2 / 40).all()
    assert first.p_max == 1 / 40
    assert "39 permutations of 200 samples" in first.estimator


def test_the_probe_without_sums_takes_the_kept_features():
    taken = probed()[1][0]
    left = probed(taps=Taps(("1", "3"), ("0", "1", "3"), moments=False))[1][0]
    np.testing.assert_allclose(left.values, taken.values, rtol=1e-8)
    np.testing.assert_allclose(left.untrained, taken.untrained, rtol=1e-8)
    assert np.isfinite(left.low).all()


def test_dependent_samples_are_permuted_one_per_group_and_left_out_together():
    groups = {"train": np.arange(200) // 4, "test": np.arange(200) // 4}
    _, (first, second) = probed(groups=groups | {"validation": groups["test"]})
    assert "39 permutations of 50 samples" in first.estimator
    assert np.isfinite(first.low).all()
    assert np.isfinite(second.low).all()


def test_procrustes_interval_matches_leaving_blocks_out_by_hand():
    x, y = (torch.tensor(part) for part in related(60))
    blocks = np.array_split(np.random.default_rng(0).permutation(60), 12)
    left = [
        procrustes(np.delete(x.numpy(), rows, 0), np.delete(y.numpy(), rows, 0)) for rows in blocks
    ]
    expected = np.sqrt(11 / 12 * np.square(np.array(left) - np.mean(left)).sum())
    value, error = module._procrustes_cell(x - x.mean(0), y - y.mean(0), blocks)
    assert value == pytest.approx(procrustes(x, y))
    assert expected > 1e-3
    assert error == pytest.approx(expected, rel=1e-8)


def test_the_probe_explains_what_it_leaves_out(monkeypatch):
    dead = net(3)
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1)
    _, (first, second) = probed(student=dead)
    for matrix in (first, second):
        assert np.isnan(matrix.values).all()
        assert "the same for all samples" in matrix.reasons["0,0"]
    monkeypatch.setattr(module, "JACKKNIFE_WORK", 1)
    second = probed()[1][1]
    assert np.isnan(second.low).all()
    assert np.isfinite(second.values).all()
    assert "too wide" in second.reasons["0,0"]
    small = probed(n=40)[1][1]
    assert "5 blocks" in small.reasons["0,0"]


def test_many_layers_are_permuted_on_fewer_samples():
    rng = np.random.default_rng(0)
    layers = {f"l{i}": torch.tensor(rng.normal(size=(1200, 300))) for i in range(3)}
    assert permutation_p(layers, layers, n_permutations=3).n == 1000
    assert module._permutation_size([layers["l0"]] * 24, [layers["l0"]] * 24, 199) == (361, False)


def test_probe_sums_are_exact_moments_for_narrow_layers():
    assert isinstance(probed()[0]["test"].moments, Moments)
