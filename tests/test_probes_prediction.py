"""Predictability of one layer from another against known maps, sklearn's ridge and nulls."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from gapkit.errors import InputError
from gapkit.probes.prediction import predictability, prediction_flops, ridge_fit
from gapkit.probes.readout import SCREEN_PENALTIES
from gapkit.probes.spectrum import basis_of


def test_knows_how_much_of_y_is_linear_in_x():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 4)) * [1, 10, 0.1, 1]
    signal = x / [1, 10, 0.1, 1] @ rng.normal(size=(4, 6))
    noise = rng.normal(size=signal.shape) * signal.std()
    found = predictability(x, signal + noise)
    assert found.value == pytest.approx(0.5, abs=0.04)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.06
    assert predictability(x, signal).value == pytest.approx(1, abs=1e-5)


def test_is_asymmetric_and_blind_to_rotation_and_scale():
    rng = np.random.default_rng(4)
    y = rng.normal(size=(400, 6))
    narrow = y[:, :2]
    assert predictability(y, narrow).value == pytest.approx(1, abs=1e-5)
    assert predictability(narrow, y).value == pytest.approx(2 / 6, abs=0.06)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert predictability(narrow, 5 * y @ turn).value == pytest.approx(
        predictability(narrow, y).value, abs=1e-9
    )


@pytest.mark.parametrize("width", [3, 300])
def test_unrelated_features_predict_about_nothing(width):
    rng = np.random.default_rng(5)
    found = predictability(rng.normal(size=(150, width)), rng.normal(size=(150, 4)))
    assert -0.1 < found.value < 0.03
    assert found.n == 150


def test_groups_stay_in_one_fold():
    rng = np.random.default_rng(6)
    group = np.arange(300) // 3
    x = rng.normal(size=(100, 60))[group] + 1e-3 * rng.normal(size=(300, 60))
    y = rng.normal(size=(100, 2))[group]
    assert predictability(x, y).value > 0.2  # copies of a sample leak through the folds
    assert predictability(x, y, groups=group).value < 0.1


def test_what_cannot_be_had_is_nan_with_a_reason():
    x = np.random.default_rng(7).normal(size=(40, 2))
    assert "constant" in predictability(x, np.ones((40, 1))).reason
    assert "no feature of x varies" in predictability(np.ones((40, 1)), x).reason
    assert "too few" in predictability(x[:8], x[:8]).reason


def test_refusals():
    with pytest.raises(InputError, match="as many rows"):
        predictability(np.eye(4), np.eye(3))
    with pytest.raises(InputError, match="finite y"):
        predictability(np.eye(4), np.full((4, 1), np.inf))
    with pytest.raises(InputError, match="shape \\(samples, features\\)"):
        predictability(np.eye(4), np.ones((4, 0)))


@pytest.mark.parametrize("width", [5, 200])
def test_penalty_is_that_of_least_generalized_cross_validation(width):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(80, width))
    y = x[:, :3] @ rng.normal(size=(3, 2)) + rng.normal(size=(80, 2))
    z, away = (x - x.mean(0)) / x.std(0), y - y.mean(0)
    scores = {}
    for penalty in SCREEN_PENALTIES:
        hat = z @ np.linalg.solve(z.T @ z + 80 * penalty * np.eye(width), z.T)
        freedom = 1 - (np.trace(hat) + 1) / 80
        if freedom > 0.1:
            scores[penalty] = ((away - hat @ away) ** 2).sum() / 80 / freedom**2
    best = min(scores, key=scores.__getitem__)
    assert max(scores.values()) > 1.2 * scores[best]
    want = Ridge(alpha=80 * best).fit(z, y).predict(z)
    basis = basis_of(x)
    fit = ridge_fit(basis, y)
    np.testing.assert_allclose(basis.scores @ fit.weights + fit.center, want, atol=1e-9)
    missed, spread = fit.errors(basis.scores, y)
    np.testing.assert_allclose(missed, ((y - want) ** 2).sum(1))
    np.testing.assert_allclose(spread, (away**2).sum(1))


def test_work_grows_with_samples_layers_and_widths():
    least = prediction_flops(100, [8], [8])
    assert least > 0
    for more in (
        prediction_flops(200, [8], [8]),
        prediction_flops(100, [8, 8], [8]),
        prediction_flops(100, [8], [8, 8]),
        prediction_flops(100, [16], [8]),
        prediction_flops(100, [8], [16]),
    ):
        assert more > least
