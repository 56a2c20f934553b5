"""Losses against scipy, numpy and plain loops; their traps; the register; the check of a user's own loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from scipy.stats import entropy

from gapkit import losses
from gapkit.errors import InputError
from gapkit.losscheck import LossCheck, check_loss

B, K = 12, 5
RESPONSE = {
    "kl": losses.kl,
    "dkd": lambda s, t: losses.dkd(s, t, torch.arange(len(s)) % s.shape[1]),
    "dist": losses.dist,
    "standardized_kl": losses.standardized_kl,
}
FEATURE = {name: losses.named(name).fn for name in ("hint", "cka_loss")}
RELATION = {name: losses.named(name).fn for name in losses.names("relation")}
ALL = RESPONSE | FEATURE | RELATION


def pair(n=B, k=K, scale=2.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, n, k, generator=generator, dtype=torch.float64)).to(dtype)


def mean_kl(teacher, student):
    """Mean over rows of KL(teacher‖student) by scipy."""
    return np.mean([entropy(p, q) for p, q in zip(teacher, student)])


@pytest.fixture(autouse=True)
def _register_restored():
    known = dict(losses._LOSSES)
    yield
    losses._LOSSES.clear()
    losses._LOSSES.update(known)


# Oracles


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_the_mean_of_scipys_entropy_times_temperature_squared(temperature):
    zs, zt = pair()
    expected = temperature**2 * mean_kl(
        softmax(zt.double().numpy() / temperature, 1), softmax(zs.double().numpy() / temperature, 1)
    )
    assert expected > 0.1
    assert losses.kl(zs, zt, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_kl_of_tokens_is_the_mean_over_the_kept_ones():
    zs, zt = pair(n=6, k=2 * K).view(2, 3, 4, K)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    kept = [
        entropy(softmax(zt[n, t].double().numpy()), softmax(zs[n, t].double().numpy()))
        for n, t in itertools.product(range(3), range(4))
        if mask[n, t]
    ]
    assert losses.kl(zs, zt, 1.0, mask).item() == pytest.approx(np.mean(kept), rel=1e-5)
    assert losses.kl(zs, zt, 1.0).item() != pytest.approx(np.mean(kept), rel=1e-2)
    padded = zs.clone()
    padded[mask == 0] = 1e4
    assert losses.kl(padded, zt, 1.0, mask).item() == pytest.approx(np.mean(kept), rel=1e-5)


def dkd_loop(zs, zt, targets, alpha, beta, temperature):
    total = 0.0
    for s, t, y in zip(zs / temperature, zt / temperature, targets):
        p, q = softmax(t), softmax(s)
        others = [k for k in range(len(s)) if k != y]
        tckd = entropy([p[y], p[others].sum()], [q[y], q[others].sum()])
        nckd = entropy(p[others] / p[others].sum(), q[others] / q[others].sum())
        total += alpha * tckd + beta * nckd
    return temperature**2 * total / len(zs)


def test_dkd_is_the_two_entropies_of_a_plain_loop():
    zs, zt = pair()
    targets = torch.arange(B) % K
    expected = dkd_loop(zs.double().numpy(), zt.double().numpy(), targets.numpy(), 0.7, 3.0, 2.0)
    assert losses.dkd(zs, zt, targets, 0.7, 3.0, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_dkd_recombines_to_kl():
    """KL = TCKD + (1 − p_target of the teacher)·NCKD, the identity of the paper's equation 6."""
    zs, zt = pair(dtype=torch.float64)
    targets = torch.arange(B) % K
    total = 0.0
    for s, t, y in zip(zs, zt, targets):
        one = (s[None], t[None], y[None])
        share = 1 - t.softmax(0)[y]
        total += losses.dkd(*one, 1.0, 0.0, 1.0) + share * losses.dkd(*one, 0.0, 1.0, 1.0)
    assert (total / B).item() == pytest.approx(losses.kl(zs, zt, 1.0).item(), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_numpys_correlation_of_rows_and_columns(temperature):
    zs, zt = pair()
    p, q = (softmax(z.double().numpy() / temperature, 1) for z in (zs, zt))
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T)])
    assert abs(rows - columns) > 1e-3
    expected = temperature**2 * (0.5 * (1 - rows) + 2 * (1 - columns))
    assert losses.dist(zs, zt, temperature, 0.5, 2.0).item() == pytest.approx(expected, rel=1e-4)


def test_standardized_kl_is_kl_of_z_scores():
    zs, zt = pair()
    p, q = (
        softmax((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) / 2, 1)
        for z in (zt.double().numpy(), zs.double().numpy())
    )
    assert losses.standardized_kl(zs, zt, 2.0).item() == pytest.approx(4 * mean_kl(p, q), rel=1e-5)
    assert losses.standardized_kl(7 * zt + 3, zt).item() == pytest.approx(0, abs=1e-5)
    assert losses.kl(7 * zt + 3, zt).item() > 1


def test_hint_is_the_mean_squared_difference():
    zs, zt = pair()
    expected = np.mean((zs.numpy() - zt.numpy()) ** 2)
    assert losses.hint(zs, zt).item() == pytest.approx(expected, rel=1e-5)


def test_attention_is_the_distance_of_normalized_energy_maps():
    generator = torch.Generator().manual_seed(0)
    fs, ft = (torch.randn(3, c, 4, 5, generator=generator) for c in (2, 7))
    total = 0.0
    for a, b in zip(fs.double().numpy(), ft.double().numpy()):
        q, r = ((x**2).mean(0).ravel() for x in (a, b))
        total += np.sum((q / np.linalg.norm(q) - r / np.linalg.norm(r)) ** 2)
    assert losses.attention(fs, ft).item() == pytest.approx(total / 3, rel=1e-5)
    assert losses.attention(-3 * ft, ft).item() == pytest.approx(0, abs=1e-6)


def hsic(k, m):
    """Unbiased HSIC of Song et al. 2012, equation 5, from Gram matrices with the diagonal kept."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    first = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (first - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def test_cka_loss_is_one_minus_the_ratio_of_unbiased_hsics():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    y = torch.cat([x[:, :5], torch.randn(9, 3, generator=generator)], 1) + 10
    k, m = (z.numpy() @ z.numpy().T for z in (x, y))
    cka = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert 0.1 < cka < 0.9
    assert losses.cka_loss(x, y).item() == pytest.approx(1 - cka, rel=1e-9)
    far = losses.cka_loss((x + 1000).float(), y.float())
    assert far.item() == pytest.approx(1 - cka, abs=1e-3)


def test_cka_loss_ignores_rotation_and_scale():
    x, _ = pair(n=20)
    rotation = torch.linalg.qr(pair(n=K, k=K, seed=3)[0]).Q
    assert losses.cka_loss(0.01 * x @ rotation + 5, x).item() == pytest.approx(0, abs=1e-4)


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
    assert losses._triplets(500, 100, 0).shape == (3, 100)


def test_triplets_are_of_three_different_samples_and_each_comes_up():
    sample = losses._triplets(5, 29, 0), losses._triplets(5, 30, 0)
    assert sample[0].shape == (3, 29)
    whole = {(min(i, k), j, max(i, k)) for i, j, k in itertools.permutations(range(5), 3)}
    assert set(map(tuple, sample[1].T.tolist())) == whole
    # 6 samples have 120 ordered triplets: 60 up to the swap of i and k; few draws leave some out
    drawn = torch.cat([losses._triplets(6, 59, seed) for seed in range(40)], 1).T.tolist()
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


# Properties that all share


@pytest.mark.parametrize("name", ALL)
def test_identical_inputs_give_zero_and_others_do_not(name):
    zs, zt = pair()
    assert ALL[name](zt, zt).item() == pytest.approx(0, abs=1e-5)
    assert ALL[name](zs, zt).item() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_gradient_goes_to_the_student_only_and_downhill(name):
    zs, zt = (z.requires_grad_() for z in pair(dtype=torch.float64))
    loss = ALL[name](zs, zt)
    to_student, to_teacher = torch.autograd.grad(loss, (zs, zt), allow_unused=True)
    assert to_teacher is None
    assert to_student.norm() > 1e-4
    step = 1e-3 / to_student.norm()
    assert ALL[name](zs.detach() - step * to_student, zt).item() < loss.item()


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_the_numerical_one(name):
    zs, zt = pair(n=8, k=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: ALL[name](z, zt), (zs.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_float32(name, dtype):
    zs, zt = pair(dtype=dtype)
    got = ALL[name](zs, zt)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(ALL[name](zs.double(), zt.double()).item(), rel=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_autocast_changes_nothing(name):
    zs, zt = pair()
    expected = ALL[name](zs, zt).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert ALL[name](zs, zt).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_samples_does_not_matter_but_the_pairing_does(name):
    zs, zt = pair()
    order = torch.randperm(B // K * K, generator=torch.Generator().manual_seed(1))
    zs, zt = zs[: len(order)], zt[: len(order)]
    if name != "dkd":  # whose targets stay where they are
        assert ALL[name](zs[order], zt[order]).item() == pytest.approx(
            ALL[name](zs, zt).item(), rel=1e-4
        )
    assert ALL[name](zs[order], zt).item() != pytest.approx(ALL[name](zs, zt).item(), rel=1e-3)


@pytest.mark.parametrize("name", RESPONSE)
def test_confident_logits_stay_finite(name):
    sure = 2000 * torch.eye(3)
    for zs, zt in ((sure, sure.roll(1, 0)), (sure, torch.randn(3, 3)), (torch.randn(3, 3), sure)):
        zs = zs.clone().requires_grad_()
        loss = RESPONSE[name](zs, zt)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, zs)[0].isfinite().all()


def test_kl_of_confident_logits_is_the_gap_itself():
    zs, zt = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])
    assert losses.kl(zs, zt, 1.0).item() == pytest.approx(1000)


@pytest.mark.parametrize("name", RELATION | FEATURE)
def test_two_samples_at_one_place_leave_the_gradient_finite(name):
    zs, zt = pair()
    zs[1] = zs[0]
    zs[2] = 0
    zs.requires_grad_()
    gradient = torch.autograd.grad(ALL[name](zs, zt), zs)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("name", [name for name in RELATION if name != "pkt"])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_relations_ignore_the_scale_of_features(name, scale):
    zs, zt = pair()
    assert RELATION[name](scale * zs, zt).item() == pytest.approx(
        RELATION[name](zs, zt).item(), rel=1e-3
    )


@pytest.mark.parametrize("name", RELATION)
def test_relations_take_features_of_different_widths_and_any_shape(name):
    maps = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    zs, _ = pair(n=6)
    got = RELATION[name](zs, maps)
    assert got.item() > 1e-3
    assert got.item() == RELATION[name](zs, maps.flatten(1)).item()


# Traps


def test_mean_reduction_would_be_k_times_too_small():
    zs, zt = pair(n=16, k=100)
    with pytest.warns(UserWarning, match="batchmean"):
        mean = F.kl_div(F.log_softmax(zs, 1), F.softmax(zt, 1), reduction="mean")
    assert losses.kl(zs, zt, 1.0).item() == pytest.approx(100 * mean.item(), rel=1e-5)


def test_temperature_squared_keeps_the_gradient_when_the_temperature_rises():
    norms = []
    for temperature in (10.0, 40.0):
        zs, zt = pair()
        zs.requires_grad_()
        norms.append(torch.autograd.grad(losses.kl(zs, zt, temperature), zs)[0].norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_dist_of_one_sample_needs_gamma_zero():
    zs, zt = pair(n=1)
    with pytest.raises(InputError, match="at least 2 samples"):
        losses.dist(zs, zt)
    p, q = (softmax(z.double().numpy()) for z in (zs[0], zt[0]))
    expected = 1 - np.corrcoef(p, q)[0, 1]
    assert losses.dist(zs, zt, gamma=0.0).item() == pytest.approx(expected, rel=1e-4)


def test_dist_of_a_class_that_no_sample_comes_near_still_correlates():
    zs, zt = pair()
    zs[:, 0] -= 60
    zt[:, 0] -= 60
    assert losses.dist(zt, zt).item() == pytest.approx(0, abs=1e-4)
    p, q = (softmax(z.double().numpy(), 1)[:, 0] for z in (zs, zt))
    assert max(p.max(), q.max()) < 1e-20
    got = losses._correlation(*(F.log_softmax(z, 1)[:, :1].T for z in (zs, zt))).item()
    assert got == pytest.approx(np.corrcoef(p, q)[0, 1], abs=1e-4)


def test_dist_of_a_student_that_answers_all_alike_has_a_small_gradient_in_the_right_direction():
    zt = pair()[1]
    zs = torch.zeros_like(zt, requires_grad=True)
    loss = losses.dist(zs, zt)
    assert loss.item() == pytest.approx(2, abs=1e-5)
    gradient = torch.autograd.grad(loss, zs)[0]
    assert 0 < gradient.norm() < 10
    assert losses.dist(-gradient, zt).item() < 1


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


# Refusals


@pytest.mark.parametrize("name", RESPONSE)
def test_logits_of_different_shapes_are_refused(name):
    zs, zt = pair()
    with pytest.raises(InputError, match=r"one shape .* but got \(12, 5\) and \(12, 4\)"):
        RESPONSE[name](zs, zt[:, :4])
    with pytest.raises(InputError, match="one shape"):
        RESPONSE[name](zs[:0], zt[:0])


@pytest.mark.parametrize("name", RESPONSE)
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(name, temperature):
    zs, zt = pair()
    given = {"targets": torch.zeros(B, dtype=torch.long)} if name == "dkd" else {}
    with pytest.raises(InputError, match="temperature above 0"):
        losses.named(name).fn(zs, zt, temperature=temperature, **given)


@pytest.mark.parametrize("name", ["dkd", "dist", "standardized_kl"])
def test_two_classes_are_refused_where_they_say_nothing(name):
    zs, zt = pair(k=2)
    with pytest.raises(InputError, match="at least 3 classes"):
        RESPONSE[name](zs, zt)
    assert losses.kl(zs, zt).item() > 0


def test_masks_that_do_not_fit_or_keep_nothing_are_refused():
    zs, zt = pair()
    with pytest.raises(InputError, match=r"mask of shape \(12,\) but got \(3,\)"):
        losses.kl(zs, zt, mask=torch.ones(3))
    with pytest.raises(InputError, match="keeps none"):
        losses.kl(zs, zt, mask=torch.zeros(B))


@pytest.mark.parametrize(
    "targets, match",
    [
        (torch.zeros(B), "integer targets"),
        (torch.zeros(B - 1, dtype=torch.long), r"shape \(12,\)"),
        (torch.full((B,), K), "from 0 to 4 but got 5 to 5"),
        (torch.full((B,), -100), "but got -100"),
    ],
)
def test_dkd_refuses_targets_that_do_not_fit(targets, match):
    with pytest.raises(InputError, match=match):
        losses.dkd(*pair(), targets)


def test_features_that_do_not_fit_are_refused():
    zs, zt = pair()
    with pytest.raises(InputError, match=r"teacher's shape \(12, 4\) .* but got \(12, 5\)"):
        losses.hint(zs, zt[:, :4])
    with pytest.raises(InputError, match="height, width"):
        losses.attention(zs, zt)
    with pytest.raises(InputError, match=r"\(2, 3, 4, 4\) and \(2, 3, 8, 8\)"):
        losses.attention(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 8, 8))
    with pytest.raises(InputError, match="same samples"):
        losses.attention(torch.ones(2, 3, 4, 4), torch.ones(1, 3, 4, 4))
    with pytest.raises(InputError, match="student features that vary"):
        losses.cka_loss(torch.full((B, 3), 7.3), zt)
    with pytest.raises(InputError, match="teacher features that vary"):
        losses.cka_loss(zs, torch.zeros(B, 3))


@pytest.mark.parametrize(
    "name, least",
    [
        ("cka_loss", 8),
        ("rkd_distance", 2),
        ("rkd_angle", 3),
        ("similarity_preserving", 2),
        ("pkt", 3),
    ],
)
def test_batches_too_small_to_say_anything_are_refused(name, least):
    fn = losses.named(name).fn
    zs, zt = pair()
    assert fn(zs[:least], zt[:least]).isfinite()
    with pytest.raises(
        InputError, match=f"at least {least} samples in the batch but got {least - 1}"
    ):
        fn(zs[: least - 1], zt[: least - 1])
    with pytest.raises(InputError, match="same samples"):
        fn(zs, zt[:-1])


def test_rkd_angle_refuses_no_triplets():
    with pytest.raises(InputError, match="max_triplets"):
        losses.rkd_angle(*pair(), max_triplets=0)


# The register


def test_the_standard_losses_are_registered_by_kind():
    assert losses.names("response") == ("kl", "dkd", "dist", "standardized_kl")
    assert losses.names("feature") == ("hint", "attention", "cka_loss")
    assert losses.names("relation") == ("rkd_distance", "rkd_angle", "similarity_preserving", "pkt")
    assert losses.names() == sum((losses.names(kind) for kind in losses.KINDS), ())
    assert losses.named("dkd").needs == ("temperature", "targets")
    assert losses.named("rkd_angle").needs == ()
    assert losses.named("kl").fn is losses.kl


def test_every_named_recipe_uses_a_registered_loss():
    from gapkit.plans import KNOWLEDGE

    used = {part.loss for parts in KNOWLEDGE.values() for part in parts} - {"task"}
    assert used
    assert used <= set(losses.names("response"))


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(InputError, match="known loss but got 'klx'; nearest: 'kl'"):
        losses.named("klx")
    with pytest.raises(InputError, match="kind of loss"):
        losses.names("logits")


def test_a_registered_loss_is_found_and_called_with_what_it_takes():
    seen = {}

    def mine(student, teacher, targets, temperature=1.0):
        seen.update(targets=targets, temperature=temperature)
        return (student - teacher.detach()).square().mean()

    losses.register("mine", mine)
    assert losses.named("mine") == losses.Loss("mine", "response", mine, ("temperature", "targets"))
    assert losses.names("response")[-1] == "mine"
    zs, zt = pair()
    targets = torch.arange(B)
    got = losses.response_loss("mine", zs, zt, temperature=3.0, targets=targets)
    assert got.item() == pytest.approx((zs - zt).square().mean().item())
    assert seen["temperature"] == 3.0
    assert seen["targets"] is targets
    with pytest.raises(InputError, match="Expected targets for loss 'mine'"):
        losses.response_loss("mine", zs, zt, temperature=3.0)


@pytest.mark.parametrize(
    "name, fn, kind, match",
    [
        ("kl", losses.kl, "response", "'kl' is taken"),
        ("my loss", losses.kl, "response", "Python identifier"),
        ("task", losses.kl, "response", "Python identifier other than 'task'"),
        ("mine", losses.kl, "respons", "nearest: 'response'"),
        ("mine", 3, "response", "function of"),
        ("mine", lambda student: student, "response", "too many positional"),
        ("mine", lambda s, t, labels: s, "response", "missing a required argument: 'labels'"),
        ("mine", lambda s, targets: s, "response", "multiple values"),
    ],
)
def test_losses_that_cannot_be_registered_are_refused(name, fn, kind, match):
    before = losses.names()
    with pytest.raises(InputError, match=match):
        losses.register(name, fn, kind)
    assert losses.names() == before


def test_response_loss_passes_temperature_and_mask():
    zs, zt = pair(n=6, k=2 * K).view(2, 3, 4, K)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    got = losses.response_loss("kl", zs, zt, temperature=2.0, mask=mask)
    assert got.item() == losses.kl(zs, zt, 2.0, mask).item()
    rows = losses.response_loss("dist", zs, zt, temperature=2.0, mask=mask)
    kept = mask.bool()
    assert rows.item() == losses.dist(zs[kept], zt[kept], 2.0).item()
    targets = torch.arange(12).view(3, 4) % K
    tokens = losses.response_loss("dkd", zs, zt, temperature=2.0, targets=targets, mask=mask)
    expected = losses.dkd(zs[kept], zt[kept], targets[kept], temperature=2.0)
    assert tokens.item() == expected.item()


def test_response_loss_refuses_other_kinds_and_masks_that_do_not_fit():
    zs, zt = pair()
    with pytest.raises(InputError, match="'hint' is a feature loss"):
        losses.response_loss("hint", zs, zt, temperature=1.0)
    with pytest.raises(InputError, match="keeps something"):
        losses.response_loss("dist", zs, zt, temperature=1.0, mask=torch.zeros(B))


# check_loss: each fault fires, and a correct loss fires none


def softened(student, teacher, temperature):
    return F.log_softmax(student / temperature, 1), F.softmax(teacher.detach() / temperature, 1)


def correct(student, teacher, temperature=4.0):
    logs, wanted = softened(student, teacher, temperature)
    return temperature**2 * F.kl_div(logs, wanted, reduction="batchmean")


def mean_reduction(student, teacher):
    return 16 * F.kl_div(*softened(student, teacher, 4.0), reduction="mean")


def sum_reduction(student, teacher):
    return 16 * F.kl_div(*softened(student, teacher, 4.0), reduction="sum")


def no_reduction(student, teacher):
    return F.kl_div(*softened(student, teacher, 4.0), reduction="none").sum(1)


def teacher_first(teacher, student):
    return correct(student, teacher)


def reverse_kl(student, teacher):
    logs, wanted = (z.log_softmax(1) for z in (student, teacher.detach()))
    return F.kl_div(wanted, logs, reduction="batchmean", log_target=True)


def no_tau_squared(student, teacher, temperature=4.0):
    return F.kl_div(*softened(student, teacher, temperature), reduction="batchmean")


def attached_teacher(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


def log_of_softmax(student, teacher):
    p, q = teacher.detach().softmax(1), student.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def probabilities_for_logs(student, teacher):
    return F.kl_div(student.softmax(1), teacher.detach().softmax(1), reduction="batchmean")


def logits_for_logs(student, teacher):
    return F.kl_div(student / 3, (teacher.detach() / 3).softmax(1), reduction="batchmean")


def false_log_target(student, teacher, temperature=4.0):
    logs, wanted = softened(student, teacher, temperature)
    return F.kl_div(logs, wanted, reduction="batchmean", log_target=True)


def log_teacher(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.detach().log_softmax(1), reduction="batchmean")


def softmax_twice(student, teacher):
    return correct(student.softmax(1), teacher.softmax(1), 2.0)


def softened_twice(student, teacher, temperature=4.0):
    return correct((student / temperature).softmax(1), (teacher / temperature).softmax(1), 1.0)


def softmax_twice_of_the_student(student, teacher):
    return correct(student.softmax(1), teacher, 1.0)


def negative(student, teacher):
    return -correct(student, teacher)


def label_smoothed(student, teacher):
    """Not at its minimum at the teacher: pulls the logits towards 0 as well."""
    return correct(student, teacher) + student.square().sum(1).mean()


def root_of_distance(student, teacher):
    return ((student - teacher.detach()).square().sum(1)).sqrt().mean()


def detached_student(student, teacher):
    return correct(student.detach(), teacher)


FAULTS = [
    (mean_reduction, "'mean' reduction"),
    (sum_reduction, "'sum' reduction"),
    (no_reduction, r"'none' reduction: expected a scalar tensor but got shape \(24,\)"),
    (teacher_first, "swapped arguments: trains its second"),
    (reverse_kl, "swapped arguments: computes KL"),
    (no_tau_squared, "τ² missing"),
    (attached_teacher, "teacher not detached"),
    (log_of_softmax, "nan or inf for confident logits"),
    (probabilities_for_logs, "mixed up: .*got probabilities"),
    (logits_for_logs, "mixed up: .*got logits"),
    (false_log_target, "mixed up: log_target=True"),
    (log_teacher, "mixed up: nan or inf"),
    (softmax_twice, "mixed up: the softmax is taken twice"),
    (softened_twice, "mixed up: the softmax is taken twice on both"),
    (softmax_twice_of_the_student, "mixed up: the student's softmax is taken twice"),
    (negative, "not minimal at student = teacher"),
    (label_smoothed, "not minimal at student = teacher"),
    (root_of_distance, "nan or inf at student = teacher"),
    (detached_student, "no gradient reaches the student"),
]


@pytest.mark.parametrize("n_classes", [3, 10, 100])
@pytest.mark.parametrize("fn, match", FAULTS, ids=lambda item: getattr(item, "__name__", None))
def test_each_fault_fires_alone(fn, match, n_classes):
    check = check_loss(fn, n_classes)
    with pytest.raises(ValueError, match=match):  # the sentence, matched as an error would be
        raise ValueError("; ".join(check.problems))
    if fn is not root_of_distance:  # whose gradient is nan for equal confident logits too
        assert len(check.problems) == 1
    assert not check.ok


def soft_cross_entropy(student, teacher):
    return F.cross_entropy(student, teacher.detach().softmax(1))


def jensen_shannon(student, teacher):
    logs, wanted = student.log_softmax(1), teacher.detach().log_softmax(1)
    middle = torch.logaddexp(logs, wanted) - np.log(2)
    return sum(
        0.5 * F.kl_div(middle, side, reduction="batchmean", log_target=True)
        for side in (logs, wanted)
    )


def logit_distance(student, teacher):
    return F.mse_loss(student, teacher.detach())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n_classes", [3, 10, 100])
@pytest.mark.parametrize(
    "fn",
    [
        correct,
        soft_cross_entropy,
        jensen_shannon,
        logit_distance,
        *(losses.named(name).fn for name in losses.names("response")),
        *(lambda s, t, tau=tau: correct(s, t, tau) for tau in (0.5, 7.0, 20.0)),
    ],
)
def test_a_correct_loss_has_no_fault(fn, n_classes, seed):
    assert check_loss(fn, n_classes, seed).problems == ()


def test_several_faults_are_all_named():
    def wrong(student, teacher, temperature=4.0):
        return F.kl_div((student / temperature).log_softmax(1), (teacher / temperature).softmax(1))

    problems = check_loss(wrong).problems
    assert [problem.split()[0] for problem in problems] == ["'mean'", "teacher", "τ²"]


def test_a_check_prints_as_one_line_and_is_read_back():
    check = check_loss(correct)
    assert check.ok
    assert str(check) == "correct (K = 10): no fault found"
    faulty = check_loss(negative)
    assert str(faulty).startswith("negative (K = 10): not minimal")
    assert "\n" not in str(faulty)
    assert LossCheck.model_validate_json(faulty.model_dump_json()) == faulty


def test_checking_works_without_gradients_and_leaves_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with torch.no_grad():
        problems = check_loss(attached_teacher).problems
    assert problems == ("teacher not detached: the gradient reaches it",)
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_cannot_be_called_is_refused_in_one_line():
    def broken(student, teacher):
        raise RuntimeError("size mismatch")

    with pytest.raises(InputError, match=r"'broken' .*\(24, 10\) but it raised RuntimeError: size"):
        check_loss(broken)
    with pytest.raises(InputError, match="at least 2 classes"):
        check_loss(correct, n_classes=1)
    with pytest.raises(InputError, match="function of"):
        check_loss(lambda student: student)
