"""Similarity: formulas against definitions and other libraries, nulls, invariances, edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import spatial, stats
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import KernelCenterer

from gapkit.errors import InputError
from gapkit.probes.rotation import procrustes
from gapkit.probes.similarity import cka, hsic1, mutual_knn, rbf_cka, rsa

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
        sigma = bandwidth * np.quantile(spatial.distance.pdist(part), 0.5, method="lower")
        grams.append(rbf_kernel(part, gamma=1 / (2 * sigma**2)))

    def cosine(k, l_):
        return (k * l_).sum() / np.sqrt((k * k).sum() * (l_ * l_).sum())

    biased = cosine(*(KernelCenterer().fit_transform(gram) for gram in grams))
    assert 0.1 < biased < 0.98
    assert rbf_cka(x, y, bandwidth, debiased=False) == pytest.approx(biased, rel=1e-10)
    free = cosine(*(u_center(gram) for gram in grams))
    assert rbf_cka(x, y, bandwidth) == pytest.approx(free, rel=1e-10)


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


def test_neighbors_that_tie_count_by_their_chance_to_be_drawn():
    """A plain loop over all ways to break the ties of a sample on few integer positions."""
    rng = np.random.default_rng(3)
    x, y = (rng.integers(0, 3, size=(8, 1)).astype(float) for _ in range(2))
    shared = []
    for i in range(8):
        ways = []
        for part in (x, y):
            distance = np.abs(part[:, 0] - part[i, 0])
            others = [j for j in range(8) if j != i]
            last = sorted(distance[others])[2]
            sets = itertools.combinations(others, 3)
            ways.append(
                [
                    set(drawn)
                    for drawn in sets
                    if distance[list(drawn)].max() <= last
                    and all(distance[j] >= last for j in others if j not in drawn)
                ]
            )
        shared.append(np.mean([len(a & b) / 3 for a in ways[0] for b in ways[1]]))
    assert len(ways[0]) > 1
    assert mutual_knn(x, y, k=3) == pytest.approx(np.mean(shared), rel=1e-6)


def test_layers_of_few_different_rows_do_not_agree_by_the_order_of_samples():
    rng = np.random.default_rng(0)
    x, y = (np.repeat(np.eye(2), 100, 0)[rng.permutation(200)] for _ in range(2))
    assert mutual_knn(x, y) == pytest.approx(10 / 199, abs=0.02)
    assert mutual_knn(x, x) == pytest.approx(10 / 99, rel=1e-6)
    assert rsa(x, x) == pytest.approx(1)


def test_rsa_against_scipy():
    x, y = related()
    expected = stats.spearmanr(spatial.distance.pdist(x), spatial.distance.pdist(y)).statistic
    assert 0.2 < expected < 0.95
    assert rsa(x, y) == pytest.approx(expected, rel=1e-6)


def test_rsa_with_ties_and_duplicate_rows_against_scipy():
    x, y = related()
    x, y = np.repeat(x.round(), 2, 0), np.repeat(y.round(1), 2, 0)
    near = spatial.distance.pdist(x)
    assert len(np.unique(near.round(9))) < len(near) / 2
    expected = stats.spearmanr(near.round(9), spatial.distance.pdist(y).round(9)).statistic
    assert 0.2 < expected < 0.95
    assert rsa(x, y) == pytest.approx(expected, rel=1e-6)
    assert rsa(100 + 3 * x @ rotation(5), y) == pytest.approx(expected, rel=1e-6)


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


def test_one_large_direction_dominates_cka_but_not_neighbors_of_all():
    """Davari 2022: the information is the same, the value is not; hence a second measure."""
    x = np.random.default_rng(0).normal(size=(2000, 50))
    scaled = x.copy()
    scaled[:, 0] *= 10
    assert cka(x, scaled) < 0.35
    assert procrustes(x, scaled) > cka(x, scaled) + 0.2


def test_unrelated_neighbors_agree_by_chance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 5)), rng.normal(size=(500, 5))
    assert mutual_knn(x, y) == pytest.approx(10 / 499, abs=0.006)
    assert abs(rsa(x, y)) < 0.05
    assert abs(rbf_cka(x, y)) < 0.02


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_features_are_nan_without_a_warning(value, dtype):
    x, _ = related()
    same = torch.full((60, 7), value, dtype=dtype)
    for measure in MEASURES.values():
        assert math.isnan(measure(same, x))
        assert math.isnan(measure(x, same))
    assert hsic1(same, x) == 0


@pytest.mark.parametrize("name", MEASURES)
def test_duplicate_rows_are_nothing_special(name):
    x, y = (np.repeat(part, 2, 0) for part in related(30))
    value = MEASURES[name](x, y)
    assert 0.1 < value < 0.999
    order = np.random.default_rng(1).permutation(60)
    assert MEASURES[name](x[order], y[order]) == pytest.approx(value, rel=1e-6)
    same = np.repeat(x[:1], 60, 0)
    assert math.isnan(MEASURES[name](same, y))


def test_over_half_of_all_pairs_coinciding_leaves_no_bandwidth():
    x, y = related()
    x[15:] = x[0]
    assert math.isnan(rbf_cka(x, y))
    assert math.isfinite(cka(x, y))


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e100])
@pytest.mark.parametrize("name", MEASURES)
def test_sizes_far_from_1_change_nothing(name, scale):
    x, y = related()
    plain = MEASURES[name](x, y)
    assert MEASURES[name](scale * x, y) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_number_formats_may_differ(name):
    x, y = related()
    plain = MEASURES[name](x, y)
    coarse = torch.tensor(x).half(), torch.tensor(y).bfloat16()
    assert MEASURES[name](*coarse) == pytest.approx(plain, abs=0.02)
    assert MEASURES[name](*(part.double() for part in coarse)) == MEASURES[name](*coarse)
    assert MEASURES[name](x[::-1], y[::-1]) == pytest.approx(plain, rel=1e-9)
    x.flags.writeable = False
    assert MEASURES[name](x, y) == plain


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
    with pytest.raises(InputError, match=r"x of shape \(samples, features\) but got \(60, 0\)"):
        rsa(x[:, :0], y)
    with pytest.raises(InputError, match="real numbers in x but got torch"):
        cka(torch.tensor(x) + 1j, y)
    with pytest.raises(InputError, match="real numbers in y but got <U1"):
        cka(x, np.full((60, 2), "a"))
    with pytest.raises(InputError, match="finite features in x but got nan or inf"):
        mutual_knn(x * np.inf, y)
    with pytest.raises(InputError, match="1 <= k < 1 samples"):
        mutual_knn(x[:1], y[:1])
    y[3, 1] = np.nan
    with pytest.raises(InputError, match="finite features in y"):
        procrustes(x, y)
    with pytest.raises(InputError, match="1 <= k < 60 samples but got k = 60"):
        mutual_knn(x, x, k=60)
    with pytest.raises(InputError, match="bandwidth above 0"):
        rbf_cka(x, x, bandwidth=0)
