"""Readouts: linear classifiers over a whole path of penalties, fitted in the features' principal axes."""

from __future__ import annotations

import numpy as np
from scipy import optimize
from scipy.special import logsumexp

from gapkit.errors import InputError
from gapkit.probes.spectrum import Basis, basis_of

RIDGE_PENALTIES = tuple(10.0**power for power in range(3, -7, -1))

Path = tuple[list[list[np.ndarray]], np.ndarray]
"""Scores (m, K) of every other sample set at every penalty, and the classes (K,)."""


def _training_basis(x: np.ndarray, y: np.ndarray) -> tuple[Basis, np.ndarray, np.ndarray]:
    classes, code = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"Expected at least two classes to probe for but got {len(classes)}")
    basis = basis_of(x)
    if basis is None:
        raise InputError("Expected a feature that varies over the training samples but got none")
    return basis, classes, code


def ridge_path(
    x: np.ndarray, y: np.ndarray, others: list[np.ndarray], penalties: tuple[float, ...]
) -> Path:
    """Ridge regression on one-hot labels: one eigendecomposition serves all penalties."""
    basis, classes, code = _training_basis(x, y)
    onehot = np.eye(len(classes))[code]
    share = onehot.mean(0)
    cross = basis.scores.T @ (onehot - share) / len(x)
    projected = [basis.project(other) for other in others]
    weights = [cross / (basis.values + penalty)[:, None] for penalty in penalties]
    return [[z @ w + share for w in weights] for z in projected], classes


def logistic_path(
    x: np.ndarray, y: np.ndarray, others: list[np.ndarray], penalties: tuple[float, ...]
) -> Path:
    """Multinomial logistic regression, warm-started from strong to weak penalties.

    Solved in the principal axes, each scaled by about the root of its curvature: the optimum is the
    same (the penalty is rotated and scaled along), L-BFGS needs far fewer steps.
    """
    basis, classes, code = _training_basis(x, y)
    projected = [basis.project(other) for other in others]
    found: list[list[np.ndarray]] = [[] for _ in others]
    weights = np.zeros((len(classes), len(basis.values)))
    intercept = np.log(np.bincount(code) / len(code))
    for penalty in penalties:
        weights, intercept = _logistic(basis, code, penalty, weights, intercept)
        for logits, z in zip(found, projected):
            logits.append(z @ weights.T + intercept)
    return found, classes


def _logistic(
    basis: Basis, code: np.ndarray, penalty: float, weights: np.ndarray, intercept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, r) and intercept (K,) that minimize mean cross-entropy + penalty/2 ‖W‖²."""
    n, n_classes, rank = len(code), *weights.shape
    stretch = 1 / np.sqrt(basis.values / n_classes + penalty)
    z, shrink = basis.scores * stretch, penalty * stretch**2
    rows, unit = np.arange(n), 1.0

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta, free = flat[:-n_classes].reshape(n_classes, rank), flat[-n_classes:]
        logits = z @ theta.T + free
        logits -= logits.max(1, keepdims=True)
        own = logits[rows, code]
        p = np.exp(logits, out=logits)
        total = p.sum(1)
        loss = (np.log(total) - own).mean() + 0.5 * (shrink * theta**2).sum()
        p /= total[:, None]
        p[rows, code] -= 1
        p /= n
        return loss * unit, np.concatenate([(p.T @ z + shrink * theta).ravel(), p.sum(0)]) * unit

    start = np.concatenate([(weights / stretch).ravel(), intercept])
    unit = 1 / min(1.0, loss_and_gradient(start)[0])  # SciPy's ftol is absolute for losses below 1
    options = {"maxiter": 1000, "maxfun": 1500, "gtol": 1e-6, "ftol": 1e-6, "maxcor": 10}
    found = optimize.minimize(
        loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options
    ).x
    return found[:-n_classes].reshape(n_classes, rank) * stretch, found[-n_classes:]


def ridge_errors(
    basis: Basis, y: np.ndarray, x_held: np.ndarray, y_held: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared error and squared distance from y's mean of each held-out sample, penalty by GCV."""
    center = y.mean(0)
    cross = basis.scores.T @ (y - center) / len(y)
    total = float(((y - center) ** 2).sum()) / len(y)
    explained = (cross**2).sum(1) / basis.values
    best, weights = np.inf, basis.values * np.inf
    for penalty in RIDGE_PENALTIES:
        shrink = basis.values / (basis.values + penalty)
        freedom = 1 - (1 + shrink.sum()) / len(y)
        left = total - ((2 * shrink - shrink**2) * explained).sum()
        if freedom > 0.1 and left / freedom**2 < best:
            best, weights = left / freedom**2, basis.values + penalty
    answer = basis.project(x_held) @ (cross / weights[:, None]) + center
    return ((y_held - answer) ** 2).sum(1), ((y_held - center) ** 2).sum(1)


def judge(
    path: list[np.ndarray], classes: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and mean cross-entropy at every penalty; a class never trained on counts as a miss."""
    code = np.clip(np.searchsorted(classes, y), 0, len(classes) - 1)
    known = classes[code] == y
    rows = np.arange(len(y))
    accuracy = np.array([((logits.argmax(1) == code) & known).mean() for logits in path])
    losses = [(logsumexp(logits, axis=1) - logits[rows, code])[known] for logits in path]
    return accuracy, np.array([loss.mean() if len(loss) else 0.0 for loss in losses])
