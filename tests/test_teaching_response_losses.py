"""Response losses against scipy, numpy, torch's distributions and plain loops; tokens, traps, refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cosine as cosine_distance
from scipy.special import expit, softmax
from scipy.stats import entropy, pearsonr

from gapkit import losses
from gapkit.errors import InputError
from gapkit.teaching import response_losses
from tests.loss_fixtures import FORMS, B, K, mean_kl, pair

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


def bernoulli(logits, temperature):
    return torch.distributions.Bernoulli(logits=logits.double() / temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_of_labels_is_the_sum_of_torchs_bernoulli_divergences(temperature):
    zs, zt = pair()
    each = torch.distributions.kl_divergence(bernoulli(zt, temperature), bernoulli(zs, temperature))
    expected = temperature**2 * each.sum(1).mean().item()
    assert expected > 0.1
    assert losses.kl_multilabel(zs, zt, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_kl_of_one_label_is_kl_of_two_classes():
    zs, zt = pair(k=1)
    both = [torch.cat([z, torch.zeros_like(z)], 1) for z in (zs, zt)]
    expected = losses.kl(*both, 3.0).item()
    assert losses.kl_multilabel(zs, zt, 3.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_kl_of_numbers_is_that_of_torchs_gaussians_at_any_temperature(temperature):
    zs, zt = pair(dtype=torch.float64)
    gaussians = [torch.distributions.Normal(z, temperature) for z in (zt, zs)]
    each = torch.distributions.kl_divergence(*gaussians)
    expected = temperature**2 * each.sum(1).mean().item()
    assert losses.kl_regression(zs, zt).item() == pytest.approx(expected, rel=1e-9)


def test_dist_of_labels_is_numpys_correlation_of_yeses():
    zs, zt = pair()
    p, q = (expit(z.double().numpy() / 2) for z in (zs, zt))
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T)])
    expected = 4 * (0.5 * (1 - rows) + 2 * (1 - columns))
    assert losses.dist_multilabel(zs, zt, 2.0, 0.5, 2.0).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("width, has_rows", [(1, False), (2, False), (3, True), (5, True)])
def test_dist_of_numbers_is_scipys_pearson_with_rows_from_three_outputs_on(width, has_rows):
    zs, zt = pair(k=width)
    p, q = zs.double().numpy(), zt.double().numpy()
    expected = 1 - np.mean([pearsonr(a, b).statistic for a, b in zip(p.T, q.T)])
    if has_rows:
        expected += 1 - np.mean([pearsonr(a, b).statistic for a, b in zip(p, q)])
    assert expected > 0.1
    assert losses.dist_regression(zs, zt).item() == pytest.approx(expected, rel=1e-4)


def test_dist_of_numbers_ignores_unit_and_offset():
    zs, zt = pair(k=2)
    expected = losses.dist_regression(zs, zt).item()
    for scale in (1e-4, 1e4):
        assert losses.dist_regression(scale * (zs + 3), zt).item() == pytest.approx(
            expected, rel=1e-3
        )


def test_dist_of_a_student_of_one_number_is_one_with_a_gradient_towards_the_teacher():
    zt = pair(k=1)[1]
    for start in (0.0, 7.3):
        zs = torch.full_like(zt, start, requires_grad=True)
        loss = losses.dist_regression(zs, zt)
        assert loss.item() == pytest.approx(1, abs=1e-5)
        gradient = torch.autograd.grad(loss, zs)[0]
        assert 0 < gradient.norm() < 10
        assert losses.dist_regression(start - gradient, zt).item() < 1e-3


def test_standardized_kl_of_labels_is_the_bernoulli_divergence_of_z_scores():
    zs, zt = pair()
    scores = [
        (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True) for z in (zt, zs)
    ]
    each = torch.distributions.kl_divergence(*(bernoulli(z, 2.0) for z in scores))
    expected = 4 * each.sum(1).mean().item()
    assert losses.standardized_kl_multilabel(zs, zt).item() == pytest.approx(expected, rel=1e-5)
    assert losses.standardized_kl_multilabel(7 * zt + 3, zt).item() == pytest.approx(0, abs=1e-5)


def test_hard_is_minus_the_log_probability_of_the_teachers_class():
    zs, zt = pair()
    p, named = softmax(zs.double().numpy(), 1), zt.argmax(1).numpy()
    expected = -np.mean(np.log(p[np.arange(B), named]))
    assert losses.hard(zs, zt).item() == pytest.approx(expected, rel=1e-5)
    assert losses.hard(zs, 100 * zt).item() == losses.hard(zs, zt).item()


def test_hard_of_labels_is_minus_the_log_probability_of_the_teachers_yes_or_no():
    zs, zt = pair()
    p, yes = expit(zs.double().numpy()), zt.numpy() > 0
    assert 0.2 < yes.mean() < 0.8
    expected = -np.mean(np.where(yes, np.log(p), np.log(1 - p)))
    assert losses.hard_multilabel(zs, zt).item() == pytest.approx(expected, rel=1e-5)


def test_mse_is_the_mean_over_samples_and_outputs():
    zs, zt = pair()
    expected = np.mean((zs.numpy() - zt.numpy()) ** 2)
    assert losses.mse(zs, zt).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fn", [losses.mse, losses.kl_regression, losses.dist_regression])
def test_numbers_without_a_column_are_not_held_against_every_other(fn):
    zs, zt = pair(k=1)
    expected = fn(zs, zt).item()
    for student in (zs, zs[:, 0]):
        for teacher in (zt, zt[:, 0]):
            assert fn(student, teacher).item() == expected


def test_cosine_is_scipys_distance():
    zs, zt = pair()
    expected = np.mean([cosine_distance(a, b) for a, b in zip(zs.numpy(), zt.numpy())])
    assert losses.cosine(zs, zt).item() == pytest.approx(expected, rel=1e-5)
    assert losses.cosine(0.01 * zs, 100 * zt).item() == pytest.approx(expected, rel=1e-5)


def test_cosine_of_vectors_without_length_is_one_with_a_finite_gradient():
    zs, zt = pair()
    zs[0], zt[1] = 0, 0
    zs.requires_grad_()
    assert losses.cosine(zs[:2], zt[:2]).item() == 1
    gradient = torch.autograd.grad(losses.cosine(zs, zt), zs)[0]
    assert gradient.isfinite().all()
    assert gradient[0].norm() > 0
    assert gradient[1].norm() == 0


# Tokens

TOKENS = ("kl", "dkd", "dist", "standardized_kl", "hard", "mse")


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_count_as_rows_and_only_those_that_the_mask_keeps(name):
    zs, zt = pair(n=6, k=2 * K).view(2, 3, 4, K)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    labels = torch.arange(12).view(3, 4) % K
    kept = mask.bool()
    fn = getattr(losses, name)
    whole, some, flat, rows = (
        {"targets": given} if name == "dkd" else {}
        for given in (labels, labels.masked_fill(~kept, -100), labels.flatten(), labels[kept])
    )
    expected = fn(zs[kept], zt[kept], **rows).item()
    padded = zs.clone()
    padded[~kept] = float("nan")
    padded.requires_grad_()
    loss = fn(padded, zt, mask=mask, **some)
    assert loss.item() == expected
    assert torch.autograd.grad(loss, padded)[0].isfinite().all()
    everything = fn(zs, zt, **whole).item()
    assert everything == fn(zs.flatten(0, 1), zt.flatten(0, 1), **flat).item()
    assert everything != pytest.approx(expected, rel=1e-3)


def test_rows_of_other_widths_keep_the_same_tokens_on_both_sides():
    mask = torch.tensor([[True, False], [True, True]])
    student, teacher, _ = response_losses.rows(torch.ones(2, 2, 3), torch.ones(2, 2, 7), mask)
    assert student.shape == (3, 3)
    assert teacher.shape == (3, 7)
    with pytest.raises(InputError, match=r"mask of shape \(2, 3\) but got \(2, 2\)"):
        response_losses.rows(torch.ones(2, 2, 3), torch.ones(2, 3, 3), mask)


# Traps


def test_kl_of_confident_logits_is_the_gap_itself():
    zs, zt = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])
    assert losses.kl(zs, zt, 1.0).item() == pytest.approx(1000)


def test_mean_reduction_would_be_k_times_too_small():
    zs, zt = pair(n=16, k=100)
    with pytest.warns(UserWarning, match="batchmean"):
        mean = F.kl_div(F.log_softmax(zs, 1), F.softmax(zt, 1), reduction="mean")
    assert losses.kl(zs, zt, 1.0).item() == pytest.approx(100 * mean.item(), rel=1e-5)


@pytest.mark.parametrize(
    "case",
    ["kl", "kl_multilabel", "dkd", "standardized_kl", "standardized_kl_multilabel"],
)
def test_temperature_squared_keeps_the_gradient_when_the_temperature_rises(case):
    norms = []
    for temperature in (10.0, 40.0):
        zs, zt = pair()
        zs.requires_grad_()
        loss = FORMS[case](zs, zt, temperature=temperature)
        norms.append(torch.autograd.grad(loss, zs)[0].norm().item())
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
    got = response_losses._correlation(
        *(response_losses._share(F.log_softmax(z, 1)[:, :1].T) for z in (zs, zt))
    ).item()
    assert got == pytest.approx(np.corrcoef(p, q)[0, 1], abs=1e-4)


def test_dist_of_a_student_that_answers_all_alike_has_a_small_gradient_in_the_right_direction():
    zt = pair()[1]
    zs = torch.zeros_like(zt, requires_grad=True)
    loss = losses.dist(zs, zt)
    assert loss.item() == pytest.approx(2, abs=1e-5)
    gradient = torch.autograd.grad(loss, zs)[0]
    assert 0 < gradient.norm() < 10
    assert losses.dist(-gradient, zt).item() < 1


RESPONSE = [
    case
    for name in losses.names("response")
    for case in (name, f"{name}_multilabel", f"{name}_regression")
    if case in FORMS
]


@pytest.mark.parametrize("case", RESPONSE)
def test_confident_outputs_stay_finite(case):
    sure = 2000 * torch.eye(3)
    for zs, zt in ((sure, sure.roll(1, 0)), (sure, torch.randn(3, 3)), (torch.randn(3, 3), sure)):
        zs = zs.clone().requires_grad_()
        loss = FORMS[case](zs, zt)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, zs)[0].isfinite().all()


def test_kl_of_confident_labels_is_the_gap_itself():
    zs, zt = torch.tensor([[1000.0, -1000.0]]), torch.tensor([[-1000.0, 1000.0]])
    assert losses.kl_multilabel(zs, zt, 1.0).item() == pytest.approx(2000)


# Refusals


@pytest.mark.parametrize("case", RESPONSE)
def test_outputs_of_different_shapes_are_refused(case):
    zs, zt = pair()
    with pytest.raises(InputError, match=r"one shape .* but got \(12, 5\) and \(12, 4\)"):
        FORMS[case](zs, zt[:, :4])
    with pytest.raises(InputError, match="one shape"):
        FORMS[case](zs[:0], zt[:0])
    with pytest.raises(InputError, match="one shape"):
        FORMS[case](zs[None, None], zt[None, None])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "case",
    [
        "kl",
        "kl_multilabel",
        "dkd",
        "dist",
        "dist_multilabel",
        "standardized_kl",
        "standardized_kl_multilabel",
        "contrastive",
    ],
)
def test_a_temperature_that_is_not_above_zero_is_refused(case, temperature):
    with pytest.raises(InputError, match="temperature above 0"):
        FORMS[case](*pair(), temperature=temperature)


@pytest.mark.parametrize(
    "case, what",
    [
        ("dkd", "classes"),
        ("dist", "classes"),
        ("standardized_kl", "classes"),
        ("dist_multilabel", "labels"),
        ("standardized_kl_multilabel", "labels"),
    ],
)
def test_two_classes_or_labels_are_refused_where_they_say_nothing(case, what):
    zs, zt = pair(k=2)
    with pytest.raises(InputError, match=f"at least 3 {what} for this loss but got 2"):
        FORMS[case](zs, zt)
    assert FORMS[case](*pair(k=3)).isfinite()
    assert losses.kl(zs, zt).item() > 0


def test_two_columns_are_enough_for_dist_without_its_rows():
    zs, zt = pair(k=2)
    for fn in (losses.dist, losses.dist_multilabel):
        assert fn(zs, zt, beta=0.0).item() > 0.1


@pytest.mark.parametrize("fn", [losses.kl, losses.hard])
def test_one_class_is_refused(fn):
    with pytest.raises(InputError, match="at least 2 classes"):
        fn(*pair(k=1))


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
