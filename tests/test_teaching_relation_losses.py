"""Relation losses against plain loops; degenerate batches; what each is blind to; refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from gapkit import losses
from gapkit.errors import InputError
from gapkit.teaching import relation_losses
from tests.loss_fixtures import RELATION, pair


def huber(difference):
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def test_rkd_distance_is_the_huber_of_a_double_loop():
    fs, ft = (z.double().numpy() for z in pair(n=6))
    pairs = list(itertools.combinations(range(6), 2))
    ds, dt = (np.array([np.linalg.norm(f[i] - f[j]) for i, j in pairs]) for f in (fs, ft))
    expected = np.mean([huber(d) for d in ds / ds.mean() - dt / dt.mean()])
    assert expected > 0.01
    got = losses.rkd_distance(*map(torch.tensor, (fs, ft))).item()
    assert got == pytest.approx(expected, rel=1e-9)


def angles(f):
    found = {}
    for i, j, k in itertools.permutations(range(len(f)), 3):
        a, b = f[i] - f[j], f[k] - f[j]
        found[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return found


def test_rkd_angle_is_the_huber_of_a_triple_loop():
    fs, ft = (z.double().numpy() for z in pair(n=6))
    a, b = angles(fs), angles(ft)
    expected = np.mean([huber(a[key] - b[key]) for key in a])
    assert expected > 0.01
    got = losses.rkd_angle(*map(torch.tensor, (fs, ft))).item()
    assert got == pytest.approx(expected, rel=1e-9)


def test_rkd_angle_caps_its_triplets_by_a_seeded_sample_near_the_whole():
    fs, ft = pair(n=20, dtype=torch.float64)
    whole = losses.rkd_angle(fs, ft).item()
    first, again, other = (losses.rkd_angle(fs, ft, 3000, seed).item() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first == pytest.approx(whole, rel=0.1)
    assert relation_losses._triplets(500, 100, 0).shape == (3, 100)


def test_triplets_are_of_three_different_samples_and_each_comes_up():
    sample = relation_losses._triplets(5, 29, 0), relation_losses._triplets(5, 30, 0)
    assert sample[0].shape == (3, 29)
    whole = {(min(i, k), j, max(i, k)) for i, j, k in itertools.permutations(range(5), 3)}
    assert set(map(tuple, sample[1].T.tolist())) == whole
    # 6 samples have 120 ordered triplets: 60 up to the swap of i and k; few draws leave some out
    drawn = torch.cat([relation_losses._triplets(6, 59, seed) for seed in range(40)], 1).T.tolist()
    assert all(len(set(triplet)) == 3 for triplet in drawn)
    assert len({tuple(triplet) for triplet in drawn}) == 120


def test_similarity_preserving_is_the_mean_distance_of_gram_rows():
    fs, ft = (z.double().numpy() for z in pair(n=6))
    total = 0.0
    for i in range(6):
        g, h = ([f[i] @ f[j] for j in range(6)] for f in (fs, ft))
        total += np.sum((g / np.linalg.norm(g) - h / np.linalg.norm(h)) ** 2)
    got = losses.similarity_preserving(*map(torch.tensor, (fs, ft))).item()
    assert got == pytest.approx(total / 6, rel=1e-9)


def test_similarity_preserving_does_not_depend_on_the_batch_size():
    fs, ft = pair()
    once, twice = (
        losses.similarity_preserving(fs, ft),
        losses.similarity_preserving(fs.repeat(2, 1), ft.repeat(2, 1)),
    )
    assert once.item() > 0.1
    assert twice.item() == pytest.approx(once.item(), rel=1e-5)


def test_pkt_is_the_kl_of_cosine_kernels_without_the_sample_itself():
    fs, ft = (z.double().numpy() for z in pair(n=6))
    total = 0.0
    for i in range(6):
        rows = []
        for f in (ft, fs):
            cosines = [f[i] @ f[j] / np.linalg.norm(f[i]) / np.linalg.norm(f[j]) for j in range(6)]
            row = np.delete((np.array(cosines) + 1) / 2, i)
            rows.append(row / row.sum())
        total += entropy(*rows)
    got = losses.pkt(*map(torch.tensor, (fs, ft))).item()
    assert got == pytest.approx(total / 6, rel=1e-4)


def test_pkt_changes_little_when_the_batch_grows():
    few, many = (losses.pkt(*pair(n=n)).item() for n in (64, 256))
    assert few > 0.1
    assert many == pytest.approx(few, rel=0.15)


def test_contrastive_is_the_cross_entropy_of_a_loop_over_samples():
    fs, ft = (z.double().numpy() for z in pair(n=6))
    s, t = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (fs, ft))
    total = 0.0
    for i in range(6):
        total -= log_softmax([s[i] @ t[j] / 0.3 for j in range(6)])[i]
    assert total > 1
    got = losses.contrastive(*map(torch.tensor, (fs, ft)), temperature=0.3).item()
    assert got == pytest.approx(total / 6, rel=1e-9)


@pytest.mark.parametrize("n, temperature", [(2, 1.0), (5, 0.5), (12, 0.1)])
def test_contrastive_of_identical_orthonormal_vectors_has_a_closed_form(n, temperature):
    vectors = torch.linalg.qr(pair(n=n, k=n, dtype=torch.float64)[0]).Q
    expected = np.log1p((n - 1) * np.exp(-1 / temperature))
    got = losses.contrastive(vectors, 3 * vectors, temperature).item()
    assert got == pytest.approx(expected, rel=1e-6)


def test_contrastive_of_a_student_that_says_nothing_is_chance():
    zt = pair()[1]
    zs = torch.zeros_like(zt, requires_grad=True)
    loss = losses.contrastive(zs, zt)
    assert loss.item() == pytest.approx(np.log(len(zt)), rel=1e-6)
    assert torch.autograd.grad(loss, zs)[0].isfinite().all()


def test_contrastive_tells_partners_from_strangers():
    zt = pair()[1]
    assert losses.contrastive(zt, zt).item() < 1 < losses.contrastive(zt.roll(1, 0), zt).item()


def test_contrastive_refuses_widths_that_differ():
    zs, zt = pair()
    with pytest.raises(InputError, match=r"one width .* but got 4 and 5"):
        losses.contrastive(zs[:, :4], zt)


@pytest.mark.parametrize("name", RELATION)
def test_two_samples_at_one_place_leave_the_gradient_finite(name):
    zs, zt = pair()
    zs[1] = zs[0]
    zs[2] = 0
    zs.requires_grad_()
    gradient = torch.autograd.grad(RELATION[name](zs, zt), zs)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("name", [name for name in RELATION if name != "pkt"])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_relations_ignore_the_scale_of_features(name, scale):
    zs, zt = pair()
    assert RELATION[name](scale * zs, zt).item() == pytest.approx(
        RELATION[name](zs, zt).item(), rel=1e-3
    )


@pytest.mark.parametrize("name", [name for name in RELATION if name != "contrastive"])
def test_relations_take_features_of_different_widths_and_any_shape(name):
    maps = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    zs, _ = pair(n=6)
    got = RELATION[name](zs, maps)
    assert got.item() > 1e-3
    assert got.item() == RELATION[name](zs, maps.flatten(1)).item()


def test_rkd_of_a_collapsed_student_is_finite():
    zt = pair()[1]
    zs = torch.ones_like(zt, requires_grad=True)
    for loss in (losses.rkd_distance(zs, zt), losses.rkd_angle(zs, zt)):
        assert loss.item() > 0.05
        assert torch.autograd.grad(loss, zs)[0].isfinite().all()


def test_pkt_of_opposite_samples_is_finite():
    zt = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    zs = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert 0 < losses.pkt(zs, zt).item() < 20


def test_rkd_angle_refuses_no_triplets():
    with pytest.raises(InputError, match="max_triplets"):
        losses.rkd_angle(*pair(), max_triplets=0)
