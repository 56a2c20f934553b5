"""Feature losses against plain loops and the published estimator; what each is blind to; refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gapkit import losses
from gapkit.errors import InputError
from tests.loss_fixtures import B, K, pair


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


def test_attention_sends_gradients_to_the_student_only_and_is_their_numerical_one():
    generator = torch.Generator().manual_seed(0)
    fs, ft = (
        torch.randn(3, c, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
        for c in (2, 4)
    )
    to_teacher = torch.autograd.grad(losses.attention(fs, ft), (fs, ft), allow_unused=True)[1]
    assert to_teacher is None
    assert torch.autograd.gradcheck(lambda x: losses.attention(x, ft), (fs,))


def test_attention_of_a_map_without_energy_is_one_with_a_finite_gradient():
    fs, ft = torch.zeros(2, 3, 4, 4, requires_grad=True), torch.ones(2, 5, 4, 4)
    loss = losses.attention(fs, ft)
    assert loss.item() == pytest.approx(1)
    assert torch.autograd.grad(loss, fs)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_of_half_precision_is_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    fs, ft = (300 * torch.randn(3, 4, 2, 2, generator=generator).to(dtype) for _ in range(2))
    got = losses.attention(fs, ft)
    assert got.dtype == torch.float32
    expected = losses.attention(fs.double(), ft.double()).item()
    assert got.item() == pytest.approx(expected, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert losses.attention(fs, ft).item() == got.item()


@pytest.mark.parametrize("name", ["hint", "cka_loss"])
def test_a_student_with_two_samples_at_one_place_has_a_finite_gradient(name):
    zs, zt = pair()
    zs[1], zs[2] = zs[0], 0
    zs.requires_grad_()
    gradient = torch.autograd.grad(losses.named(name).fn(zs, zt), zs)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


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
