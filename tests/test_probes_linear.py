"""Linear probes against sklearn's logistic and ridge regression; predictability against known maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from gapkit.errors import InputError
from gapkit.measurement import Measurements
from gapkit.probes.linear import (
    PENALTIES,
    LinearProbe,
    linear_probe,
    predictability,
    ridge_screen,
)
from gapkit.probes.probe import Observation, Seen, Setting
from gapkit.probes.readout import logistic_path
from gapkit.task import Classification


def digits(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:n]
    return x[order], y[order]


def standardized(x: np.ndarray) -> np.ndarray:
    scale = x.std(0)
    return (x[:, scale > 0] - x[:, scale > 0].mean(0)) / scale[scale > 0]


def objective(logits: np.ndarray, weights: np.ndarray, y: np.ndarray, penalty: float) -> float:
    rows = np.arange(len(y))
    return -log_softmax(logits, axis=1)[rows, y].mean() + penalty / 2 * (weights**2).sum()


@pytest.mark.parametrize("kind", ["tall", "wide"])
def test_logistic_reaches_sklearns_objective_at_every_penalty(kind):
    x, y = digits(300 if kind == "tall" else 50)
    if kind == "wide":
        x = np.tanh(x / 16 @ np.random.default_rng(1).normal(size=(64, 120)))
    z = standardized(x)
    found, classes = logistic_path(x, y, [x], PENALTIES)
    assert classes.tolist() == list(range(10))
    for penalty, logits in zip(PENALTIES, found[0]):
        oracle = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-7, max_iter=20_000).fit(z, y)
        want = objective(oracle.decision_function(z), oracle.coef_, y, penalty)
        # Logits are Z Wᵀ + b, hence W (up to parts that Z cannot see, which the optimum has none of).
        weights = np.linalg.lstsq(z, logits - logits.mean(0), rcond=1e-9)[0]
        assert objective(logits, weights, y, penalty) == pytest.approx(want, rel=1e-3)


def test_probe_chooses_on_validation_and_reports_test():
    x, y = digits(700)
    fit = linear_probe(
        x[:300], y[:300], x[400:], y[400:], x_validation=x[300:400], y_validation=y[300:400]
    )
    mean, scale = x[:300].mean(0), x[:300].std(0)
    kept = scale > 0
    z = (x[:, kept] - mean[kept]) / scale[kept]
    path, tests = [], []
    for penalty in PENALTIES:
        oracle = LogisticRegression(C=1 / (penalty * 300), tol=1e-6, max_iter=5000)
        oracle.fit(z[:300], y[:300])
        path.append(oracle.score(z[300:400], y[300:400]))
        tests.append(oracle.score(z[400:], y[400:]))
    assert max(path) - min(path) > 0.02
    np.testing.assert_allclose(fit.path, path, atol=0.0101)
    assert fit.accuracy == pytest.approx(tests[PENALTIES.index(fit.penalty)], abs=0.0067)
    assert fit.path[PENALTIES.index(fit.penalty)] == fit.path.max()
    assert fit.correct.mean() == fit.accuracy
    assert fit.correct_validation.mean() == pytest.approx(fit.path.max())
    wilson = stats.binomtest(int(fit.correct.sum()), 300).proportion_ci(method="wilson")
    assert (fit.low, fit.high, fit.n) == (*map(pytest.approx, (wilson.low, wilson.high)), 300)


def test_interior_says_whether_the_path_was_long_enough():
    x, y = digits(500)
    split = (x[:300], y[:300], x[300:], y[300:])
    assert not linear_probe(*split, penalties=[100.0, 10.0, 1.0]).interior
    short = linear_probe(*split, penalties=[1e-4])
    assert (short.interior, short.penalty, short.path.shape) == (False, 1e-4, (1,))
    unordered = linear_probe(*split, penalties=[1e-3, 100.0, 1e-2, 0.1])
    assert unordered.penalties == (100.0, 0.1, 1e-2, 1e-3)


def test_a_carved_fit_uses_all_of_train_and_its_seed():
    x, y = digits(500)
    first = linear_probe(x[:300], y[:300], x[300:], y[300:], penalties=[1e-2])
    given = linear_probe(
        x[:300], y[:300], x[300:], y[300:], [1e-2], x_validation=x[300:], y_validation=y[300:]
    )
    assert np.array_equal(first.correct, given.correct)
    assert len(first.correct_validation) == 60
    again = linear_probe(x[:300], y[:300], x[300:], y[300:], seed=0)
    assert np.array_equal(again.path, linear_probe(x[:300], y[:300], x[300:], y[300:]).path)


def test_scale_shift_and_dead_features_change_nothing():
    x, y = digits(300)
    shifted = np.hstack([1000 + 0.01 * x, np.full((300, 3), 7.3)])
    plain = linear_probe(x[:200], y[:200], x[200:], y[200:])
    moved = linear_probe(shifted[:200], y[:200], shifted[200:], y[200:])
    assert 0.7 < plain.accuracy < 1
    assert moved.accuracy == pytest.approx(plain.accuracy, abs=0.0101)
    assert moved.penalty == plain.penalty


def test_noise_is_read_at_chance_and_labels_may_be_any_integers():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(400, 5)), rng.choice([-3, 40], 400)
    fit = linear_probe(x[:200], y[:200], x[200:], y[200:])
    assert fit.low < 0.5 < fit.high
    clear = linear_probe(y[:200, None], y[:200], y[200:, None], y[200:])
    assert clear.accuracy == 1.0


def test_a_class_unseen_in_training_counts_as_missed():
    x = np.array([[0.0], [1.0], [0.0], [1.0], [0.1], [0.9]])
    fit = linear_probe(
        x, [0, 1, 0, 1, 0, 1], x, [0, 1, 0, 1, 5, 5], [1e-3], x_validation=x, y_validation=[7] * 6
    )
    assert fit.accuracy == pytest.approx(4 / 6)
    assert fit.path.tolist() == [0.0]


def test_a_path_too_dear_is_fitted_by_ridge_and_says_so():
    x, y = digits(300)
    fit = linear_probe(x[:200], y[:200], x[200:], y[200:], max_flops=1.0)
    assert fit.model == "ridge"
    assert fit.accuracy > 0.7


def test_ridge_screen_is_sklearns_ridge():
    x, y = digits(300)
    penalties = [1e-3, 100.0, 1.0]
    z, onehot = standardized(x[:200]), np.eye(10)[y[:200]]
    kept = x[:200].std(0) > 0
    z_eval = (x[200:, kept] - x[:200, kept].mean(0)) / x[:200, kept].std(0)
    want = [
        (Ridge(alpha=200 * value).fit(z, onehot).predict(z_eval).argmax(1) == y[200:]).mean()
        for value in penalties
    ]
    assert len(set(want)) == 3
    assert ridge_screen(x[:200], y[:200], x[200:], y[200:], penalties).tolist() == want


@pytest.mark.parametrize(
    "x,y,match",
    [
        (np.zeros((4, 2)), [0, 1, 0, 1], "feature that varies"),
        (np.eye(4), [1, 1, 1, 1], "at least two classes"),
        (np.eye(4), [0, 1, 0], "4 integer training labels"),
        (np.eye(4), [0.5, 1, 0, 1], "integer training labels"),
        (np.arange(4.0), [0, 1, 0, 1], "shape \\(samples, features\\)"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "finite training features"),
    ],
)
def test_refusals(x, y, match):
    with pytest.raises(InputError, match=match):
        linear_probe(x, y, np.eye(4)[:, : x.shape[-1]], [0, 1, 0, 1], [1.0])


def test_refuses_penalties_and_widths_that_do_not_fit():
    with pytest.raises(InputError, match="penalties above 0"):
        linear_probe(np.eye(4), [0, 1, 0, 1], np.eye(4), [0, 1, 0, 1], [0.0])
    with pytest.raises(InputError, match="4 test features"):
        linear_probe(np.eye(4), [0, 1, 0, 1], np.eye(3), [0, 1, 0], [1.0])
    with pytest.raises(InputError, match="as many rows"):
        predictability(np.eye(4), np.eye(3))


def test_predictability_knows_how_much_of_y_is_linear_in_x():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 4)) * [1, 10, 0.1, 1]
    signal = x / [1, 10, 0.1, 1] @ rng.normal(size=(4, 6))
    noise = rng.normal(size=signal.shape) * signal.std()
    found = predictability(x, signal + noise)
    assert found.value == pytest.approx(0.5, abs=0.04)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.06
    assert predictability(x, signal).value == pytest.approx(1, abs=1e-5)


def test_predictability_is_asymmetric_and_blind_to_rotation_and_scale():
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
def test_predictability_of_unrelated_features_is_about_zero(width):
    rng = np.random.default_rng(5)
    found = predictability(rng.normal(size=(150, width)), rng.normal(size=(150, 4)))
    assert -0.1 < found.value < 0.03
    assert found.n == 150


def test_predictability_keeps_groups_in_one_fold():
    rng = np.random.default_rng(6)
    group = np.arange(300) // 3
    x = rng.normal(size=(100, 60))[group] + 1e-3 * rng.normal(size=(300, 60))
    y = rng.normal(size=(100, 2))[group]
    assert predictability(x, y).value > 0.2  # copies of a sample leak through the folds
    assert predictability(x, y, groups=group).value < 0.1


def test_predictability_that_cannot_be_had_is_nan_with_a_reason():
    x = np.random.default_rng(7).normal(size=(40, 2))
    assert "constant" in predictability(x, np.ones((40, 1))).reason
    assert "no feature of x varies" in predictability(np.ones((40, 1)), x).reason
    assert "too few" in predictability(x[:8], x[:8]).reason


def surveyed(groups: bool = False, broken: bool = False) -> Measurements:
    """A teacher with two layers and a student that sees one half of the second."""
    x, y = digits(900)
    seen = {}
    for split, rows in (
        ("train", slice(0, 400)),
        ("validation", slice(400, 600)),
        ("test", slice(600, 900)),
    ):
        part = torch.tensor(x[rows] / 16).float()
        flat = torch.full_like(part[:, :3], math.nan if broken else 1.0)
        n = len(part)
        features = {"low": part, "high": part[:, 20:28]}
        teacher = Observation(part, ("low", "high"), features, np.arange(n))
        half = {"dead": flat, "half": 3 * part[:, 20:24] + 1}
        student = Observation(part, ("dead", "half"), half, np.arange(n))
        labels = torch.tensor(y[rows])
        groups_of = np.arange(n) // 50 if groups else None
        seen[split] = Seen(split, teacher, student, None, labels, groups_of)
    net = nn.Identity()
    values = tuple(LinearProbe().measure(seen, Setting(Classification(), net, net, None, None)))
    return Measurements(study="hand-made", values=values)


def test_probe_reports_every_layer_and_names_the_penalty():
    found, (x, y) = surveyed(), digits(900)
    low = found.get("linear_probe", of="teacher", layer="low", split="test")
    assert low.value == pytest.approx(
        linear_probe(
            x[:400], y[:400], x[600:], y[600:], x_validation=x[400:600], y_validation=y[400:600]
        ).accuracy,
        abs=0.007,
    )
    assert low.n == 300
    assert "chosen on validation, interior" in low.estimator
    same = found.get("linear_probe", of="teacher", layer="low", split="validation")
    assert "chosen on this same split" in same.estimator
    high = found.get("linear_probe", of="teacher", layer="high", split="test")
    assert 0.2 < high.high < low.low


@pytest.mark.parametrize("broken", [False, True])
def test_probe_finds_the_best_student_layer_and_survives_a_dead_one(broken):
    found = surveyed(broken=broken)
    dead = found.get("linear_probe", of="student", layer="dead", split="test")
    assert math.isnan(dead.value)
    assert "finite" in dead.reason if broken else "varies" in dead.reason
    r2 = found.get("predictability", of="pair", layer="high", split="test")
    assert "student layer half" in r2.estimator
    x = digits(900)[0] / 16
    fit = Ridge(alpha=1e-6).fit(x[:400, 20:24], x[:400, 20:28])
    missed = ((x[600:, 20:28] - fit.predict(x[600:, 20:24])) ** 2).sum()
    want = 1 - missed / ((x[600:, 20:28] - x[:400, 20:28].mean(0)) ** 2).sum()
    assert 0.3 < want < 0.9
    assert r2.value == pytest.approx(want, abs=0.01)
    assert r2.low < r2.value < r2.high


def test_probe_uses_groups_in_its_intervals():
    grouped = surveyed(groups=True).get("predictability", of="pair", layer="high", split="test")
    assert "6 groups" in grouped.estimator
    assert not list(LinearProbe().measure({}, None))
