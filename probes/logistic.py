"""Logistic: regressions over a path of penalties, by L-BFGS with few and cheap passes over the features."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

TOLERANCE = 1e-5  # of the objective, relative: what further steps are expected to gain
MEMORY = 20
MAX_STEPS = 1000
ROUNDING = 1e-7  # of an objective summed in float32, relative

Loss = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray, np.ndarray]]
"""Logits (K, n), targets -> mean loss, its gradient by the logits times n (K, n), mean curvature (K,)."""


def softmax_loss(logits: np.ndarray, code: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean cross-entropy of one class a sample, codes (n,); curvature is the mean of p (1 - p)."""
    columns = np.arange(len(code))
    p = logits - logits.max(0)
    own = p[code, columns]
    np.exp(p, out=p)
    total = p.sum(0)
    loss = float(np.log(total).mean(dtype=np.float64) - own.mean(dtype=np.float64))
    p /= total
    curvature = p.mean(1) - np.einsum("kn,kn->k", p, p) / len(code)
    p[code, columns] -= 1
    return loss, p, curvature


def sigmoid_loss(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Binary cross-entropy, mean over samples and summed over labels (K, n) of 0 and 1."""
    loss = np.logaddexp(0, logits) - labels * logits
    p = expit(logits)
    curvature = p.mean(1) - np.einsum("kn,kn->k", p, p) / p.shape[1]
    return float(loss.sum(dtype=np.float64)) / p.shape[1], p - labels, curvature


@dataclass(frozen=True)
class _Point:
    """Weights and intercept (K, r + 1), their logits (K, n), and the objective there."""

    theta: np.ndarray
    logits: np.ndarray
    value: float
    residual: np.ndarray
    curvature: np.ndarray


@dataclass(frozen=True)
class _Problem:
    """Mean loss + penalty/2 ‖W‖² of features in their principal axes.

    Attributes:
        features: (r, n) float32, centered; axes in rows, so that both products run along memory.
        values: (r,) their variances.
    """

    features: np.ndarray
    values: np.ndarray
    targets: np.ndarray
    loss: Loss
    penalty: float

    def at(self, theta: np.ndarray, logits: np.ndarray) -> _Point:
        loss, residual, curvature = self.loss(logits, self.targets)
        value = loss + self.penalty / 2 * float((theta[:, :-1] ** 2).sum())
        return _Point(theta, logits, value, residual, curvature)

    def logits(self, theta: np.ndarray) -> np.ndarray:
        theta = theta.astype(np.float32)
        return theta[:, :-1] @ self.features + theta[:, -1:]

    def gradient(self, point: _Point) -> np.ndarray:
        """(K, r + 1) float64."""
        n = self.features.shape[1]
        found = np.empty_like(point.theta)
        found[:, :-1] = point.residual @ self.features.T / np.float32(n)
        found[:, :-1] += self.penalty * point.theta[:, :-1]
        found[:, -1] = point.residual.sum(1, dtype=np.float64) / n
        return found

    def inverse_diagonal(self, point: _Point) -> np.ndarray:
        """1 over about the diagonal of the Hessian, as if curvature did not depend on the features."""
        curvature = np.maximum(point.curvature, 1e-12)  # rounding may leave a certain class below 0
        diagonal = np.outer(curvature, np.append(self.values, 1.0))
        diagonal[:, :-1] += self.penalty
        return 1 / diagonal

    def slope(self, point: _Point, direction: np.ndarray, change: np.ndarray) -> float:
        """Derivative of the objective along a direction that changes the logits by `change`."""
        along = float(np.vdot(point.residual, change)) / self.features.shape[1]
        return along + self.penalty * float((point.theta[:, :-1] * direction[:, :-1]).sum())


def logistic_path(
    scores: np.ndarray,
    values: np.ndarray,
    targets: np.ndarray,
    loss: Loss,
    start: tuple[np.ndarray, np.ndarray],
    penalties: Sequence[float],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights (r, K) and intercepts (K,) that minimize mean loss + λ/2 ‖W‖², from strong to weak λ.

    sklearn's C is 1/(λn). Each λ starts where the last ended, and first goes on in the direction in
    which the last two differ. Products with the features are in float32, sums in float64: the
    objective comes within about 1e-4 of its minimum, relative, for λ ≥ 1e-6 (Liu & Nocedal 1989; Nocedal &
    Wright 2006, algorithm 7.4). A line search is free: logits are linear in the step.

    Args:
        scores: (n, r) training features, centered, in principal axes of variance `values` (r,).
        targets: what `loss` takes.
        start: weights (r, K) and intercept (K,) to start from.
        penalties: λ > 0, descending.
    """
    features = np.ascontiguousarray(scores.T, dtype=np.float32)
    theta = np.hstack([start[0].T, start[1][:, None]])
    logits: np.ndarray | None = None
    last: _Point | None = None
    for penalty in penalties:
        problem = _Problem(features, values, targets, loss, penalty)
        point = problem.at(theta, problem.logits(theta) if logits is None else logits)
        ahead = None if last is None else (theta - last.theta, point.logits - last.logits)
        found = _minimum(problem, point, ahead)
        last, theta, logits = point, found.theta, found.logits
        yield theta[:, :-1].T.copy(), theta[:, -1].copy()


def _minimum(
    problem: _Problem, point: _Point, ahead: tuple[np.ndarray, np.ndarray] | None
) -> _Point:
    """L-BFGS until neither its quadratic model nor the last step promises a gain."""
    memory: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MEMORY)
    gradient, gained = problem.gradient(point), np.inf
    for _ in range(MAX_STEPS):
        direction = _direction(gradient, memory, problem.inverse_diagonal(point))
        expected = -float((gradient * direction).sum()) / 2
        if max(expected, gained / 2) <= TOLERANCE * point.value:
            break
        if ahead is not None and float((gradient * ahead[0]).sum()) < 0:
            direction, change = ahead
        else:
            change = problem.logits(direction)
        ahead = None
        found = _search(problem, point, direction, change)
        if found is None:
            break
        after = problem.gradient(found)
        step, turn = found.theta - point.theta, after - gradient
        if (step * turn).sum() > 0:
            memory.append((step, turn))
        gained, point, gradient = point.value - found.value, found, after
    return point


def _direction(
    gradient: np.ndarray,
    memory: deque[tuple[np.ndarray, np.ndarray]],
    inverse_diagonal: np.ndarray,
) -> np.ndarray:
    """Minus the inverse Hessian, as the remembered steps show it, times the gradient."""
    rest, shares = gradient.copy(), []
    for step, turn in reversed(memory):
        shares.append(float((step * rest).sum() / (step * turn).sum()))
        rest -= shares[-1] * turn
    rest *= inverse_diagonal
    if memory:
        step, turn = memory[-1]
        rest *= (step * turn).sum() / (turn**2 * inverse_diagonal).sum()
    for (step, turn), share in zip(memory, reversed(shares)):
        rest += (share - float((turn * rest).sum() / (step * turn).sum())) * step
    return -rest


def _search(
    problem: _Problem, point: _Point, direction: np.ndarray, change: np.ndarray
) -> _Point | None:
    """Where the objective is lower along a direction and flatter (Wolfe); None when rounding forbids."""
    first = problem.slope(point, direction, change)
    low, high, t = (0.0, first), np.inf, 1.0
    best: _Point | None = None
    for _ in range(12):
        trial = problem.at(point.theta + t * direction, point.logits + np.float32(t) * change)
        slope = problem.slope(trial, direction, change)
        if trial.value < (point.value if best is None else best.value):
            best = trial
        limit = point.value * (1 + ROUNDING) + 1e-4 * t * first
        if trial.value <= limit and abs(slope) <= 0.9 * abs(first):
            return trial
        t, low, high = _next(t, slope, low, high)
    return best


def _next(
    t: float, slope: float, low: tuple[float, float], high: float
) -> tuple[float, tuple[float, float], float]:
    """Secant step to where the slope is zero, kept within the bracket; the new bracket."""
    guess = t - slope * (t - low[0]) / (slope - low[1]) if slope > low[1] else np.inf
    if slope < 0:
        low = (t, slope)
    else:
        high = t
    if high < np.inf:
        margin = 0.1 * (high - low[0])
        return min(max(guess, low[0] + margin), high - margin), low, high
    return min(max(guess, 1.5 * t), 4 * t), low, high
