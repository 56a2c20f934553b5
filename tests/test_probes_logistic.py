"""Logistic regressions against finite differences and sklearn's optimum at every penalty."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_expit, log_softmax
from sklearn.linear_model import LogisticRegression

from gapkit.probes.logistic import (
    _direction,
    _Problem,
    logistic_path,
    sigmoid_loss,
    softmax_loss,
)
from gapkit.probes.spectrum import basis_of
from tests.linear_fixtures import digits, standardized

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def objective(logits: np.ndarray, weights: np.ndarray, y: np.ndarray, penalty: float) -> float:
    own = log_softmax(logits, axis=1)[np.arange(len(y)), y]
    return -own.mean() + penalty / 2 * (weights**2).sum()


def problem(loss, targets, n_outputs: int, n: int, penalty: float):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4, n))
    made = _Problem(features, features.var(1), targets, loss, penalty)
    return made, rng.normal(size=(n_outputs, 5))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_gradient_is_the_slope_of_the_objective(kind):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 30) if kind == "softmax" else rng.integers(0, 2, (3, 30)) * 1.0
    loss = softmax_loss if kind == "softmax" else sigmoid_loss
    made, theta = problem(loss, labels, 3, 30, penalty=0.3)

    def logits(theta):  # in float64, so that differences are exact enough
        return theta[:, :-1] @ made.features + theta[:, -1:]

    found = made.gradient(made.at(theta, logits(theta)))
    assert np.abs(found).min() > 1e-4
    for row, column in np.ndindex(*theta.shape):
        step = np.zeros_like(theta)
        step[row, column] = 1e-6
        up, down = (made.at(theta + way * step, logits(theta + way * step)) for way in (1, -1))
        assert found[row, column] == pytest.approx((up.value - down.value) / 2e-6, abs=1e-8)


def test_losses_are_those_of_a_loop():
    rng = np.random.default_rng(2)
    logits, code, labels = (
        rng.normal(size=(3, 8)),
        rng.integers(0, 3, 8),
        rng.integers(0, 2, (3, 8)),
    )
    want = -np.mean(
        [np.log(np.exp(logits[k, i]) / np.exp(logits[:, i]).sum()) for i, k in enumerate(code)]
    )
    assert softmax_loss(logits, code)[0] == pytest.approx(want, abs=1e-12)
    both = -sum(
        log_expit(logits[k, i] if labels[k, i] else -logits[k, i]) for k, i in np.ndindex(3, 8)
    )
    assert sigmoid_loss(logits, labels)[0] == pytest.approx(both / 8, abs=1e-12)
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(sigmoid_loss(logits, labels)[2], (p * (1 - p)).mean(1))


def test_confident_logits_stay_finite():
    logits = np.float32([[1e4, -1e4], [-1e4, 1e4]])
    for found in (softmax_loss(logits, np.array([0, 0])), sigmoid_loss(logits, np.eye(2))):
        assert all(np.isfinite(part).all() for part in found)
        assert found[0] >= 0


@pytest.mark.parametrize("kind", ["tall", "wide"])
def test_path_reaches_sklearns_objective_at_every_penalty(kind):
    x, y = digits(300 if kind == "tall" else 50)
    if kind == "wide":
        x = np.tanh(x / 16 @ np.random.default_rng(1).normal(size=(64, 120)))
    z, basis = standardized(x), basis_of(x)
    start = np.zeros((len(basis.values), 10)), np.log(np.bincount(y) / len(y))
    path = list(logistic_path(basis.scores, basis.values, y, softmax_loss, start, PENALTIES))
    assert len(path) == len(PENALTIES)
    for penalty, (weights, intercept) in zip(PENALTIES, path):
        oracle = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-7, max_iter=20_000).fit(z, y)
        want = objective(oracle.decision_function(z), oracle.coef_, y, penalty)
        found = objective(basis.scores @ weights + intercept, weights, y, penalty)
        assert want * (1 - 1e-4) < found < want * (1 + 5e-4)


def test_each_label_has_its_own_regression():
    x, y = digits(300)
    labels = np.stack([y % 2, y > 7, (y == 3)]).astype(np.float32)
    z, basis = standardized(x), basis_of(x)
    share = labels.mean(1)
    start = np.zeros((len(basis.values), 3)), np.log(share / (1 - share))
    penalties = (1e-1, 1e-3)
    path = logistic_path(basis.scores, basis.values, labels, sigmoid_loss, start, penalties)
    for penalty, (weights, intercept) in zip(penalties, path):
        logits = basis.scores @ weights + intercept
        for label in range(3):
            oracle = LogisticRegression(C=1 / (penalty * 300), tol=1e-7, max_iter=20_000)
            oracle.fit(z, labels[label])
            want, sign = oracle.decision_function(z), 2 * labels[label] - 1
            best, found = (
                -log_expit(sign * output).mean() + penalty / 2 * (inner**2).sum()
                for output, inner in ((want, oracle.coef_), (logits[:, label], weights[:, label]))
            )
            assert best * (1 - 1e-4) < found < best * (1 + 5e-4)


def test_scores_may_have_any_scale():
    x, y = digits(200)
    basis = basis_of(x)
    start = np.zeros((len(basis.values), 10)), np.zeros(10)
    for scale in (1e-3, 1e3):
        scores, values = basis.scores * scale, basis.values * scale**2
        ((weights, intercept),) = logistic_path(
            scores, values, y, softmax_loss, start, [1e-2 * scale**2]
        )
        ((plain, offset),) = logistic_path(
            basis.scores, basis.values, y, softmax_loss, start, [1e-2]
        )
        np.testing.assert_allclose(weights * scale, plain, atol=0.02 * np.abs(plain).max())
        intercept, offset = intercept - intercept.mean(), offset - offset.mean()
        np.testing.assert_allclose(intercept, offset, atol=0.02 * np.abs(offset).max())


def test_separable_data_ends_at_vanishing_penalties():
    y = np.arange(40) % 2
    basis = basis_of(np.random.default_rng(3).normal(size=(40, 60)) + y[:, None])
    start = np.zeros((len(basis.values), 2)), np.zeros(2)
    penalties = (1e-4, 1e-8, 1e-12)
    for weights, intercept in logistic_path(
        basis.scores, basis.values, y, softmax_loss, start, penalties
    ):
        assert np.isfinite(weights).all()
        assert ((basis.scores @ weights + intercept).argmax(1) == y).all()


def test_direction_is_newtons_once_a_quadratic_is_known():
    rng = np.random.default_rng(4)
    root = rng.normal(size=(3, 3))
    hessian = root @ root.T + np.eye(3)
    # Conjugate steps show a quadratic's whole Hessian to L-BFGS.
    steps = [vector[None] for vector in np.linalg.eigh(hessian)[1].T]
    memory = [(step, step @ hessian) for step in steps]
    gradient = rng.normal(size=(1, 3))
    found = _direction(gradient, memory, np.ones((1, 3)))
    np.testing.assert_allclose(found, -np.linalg.solve(hessian, gradient[0])[None], rtol=1e-9)
