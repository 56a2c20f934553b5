"""Logistic probes: time and objective of a five-penalty path beside sklearn's five fits.

Features are what a layer of a real network looks like: a low-rank signal with decaying spectrum and noise,
mixed and passed through a ReLU, hence correlated and skewed; labels are drawn from a tanh teacher of the
signal. Times are CPU seconds on one thread, medians of interleaved repeats, from the same standardized
features to weights at every penalty. Run it alone: `python benchmarks/linear.py --repeats 3`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from gapkit.probes.logistic import logistic_path, softmax_loss
from gapkit.probes.spectrum import basis_of

CASES = ((10_000, 512, 10), (10_000, 512, 100), (50_000, 256, 10))
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RANK = 64
COLUMNS = (
    "(N, D, C)", "sklearn, s", "sklearn float32, s", "gapkit, s", "ratio", "ratio float32",
    "worst objective, gapkit", "worst objective, sklearn as timed",
)  # fmt: skip

Solver = Callable[[], list[tuple[np.ndarray, np.ndarray]]]
"""Weights (K, d) and intercepts (K,) at every penalty."""


@dataclass(frozen=True, kw_only=True)
class LinearRow:
    """One case.

    Attributes:
        seconds, sklearn, sklearn_single: median CPU time of gapkit's path, of sklearn's five fits in
            float64 and in float32.
        excess, sklearn_excess: worst relative difference of the objective from that of a converged
            sklearn fit (tol 1e-7) over the penalties.
    """

    case: tuple[int, int, int]
    seconds: float
    sklearn: float
    sklearn_single: float
    excess: float
    sklearn_excess: float


def layer(n: int, d: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardized features (n, d) and labels (n,)."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, RANK)) / np.sqrt(1 + np.arange(RANK) / 8)
    mixed = 2 * signal @ rng.normal(size=(RANK, d)) / np.sqrt(RANK)
    x = np.maximum(mixed + 0.5 * rng.normal(size=(n, d)) + 0.3 * rng.normal(size=d), 0)
    hidden = np.tanh(3 * signal @ rng.normal(size=(RANK, RANK)) / np.sqrt(RANK))
    logits = hidden @ rng.normal(size=(RANK, n_classes)) / 2
    logits += 0.75 * signal @ rng.normal(size=(RANK, n_classes))
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return (x - x.mean(0)) / x.std(0), y


def ours(z: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """gapkit's path, the eigendecomposition included."""
    basis = basis_of(z)
    shares = np.bincount(y) / len(y)
    start = np.zeros((len(basis.values), len(shares))), np.log(shares)
    path = logistic_path(basis.scores, basis.values, y, softmax_loss, start, PENALTIES)
    return [((basis.axes @ weights).T, intercept) for weights, intercept in path]


def theirs(z: np.ndarray, y: np.ndarray, tol: float = 1e-4) -> list[tuple[np.ndarray, np.ndarray]]:
    """sklearn's fits, by default as its users run them; max_iter only so that it does not warn."""
    found = []
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / (penalty * len(y)), tol=tol, max_iter=100_000)
        model.fit(z, y)
        found.append((model.coef_, model.intercept_))
    return found


def objectives(
    z: np.ndarray, y: np.ndarray, path: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Mean cross-entropy + penalty/2 ‖W‖² in float64 at every penalty."""
    values = []
    for penalty, (weights, intercept) in zip(PENALTIES, path):
        own = log_softmax(z @ weights.T + intercept, axis=1)[np.arange(len(y)), y]
        values.append(-own.mean() + penalty / 2 * (weights.astype(np.float64) ** 2).sum())
    return np.array(values)


def row(case: tuple[int, int, int], repeats: int) -> LinearRow:
    """Measure one case, solvers by turns."""
    z, y = layer(*case)
    single = z.astype(np.float32)
    solvers: dict[str, Solver] = {
        "gapkit": lambda: ours(z, y),
        "sklearn": lambda: theirs(z, y),
        "single": lambda: theirs(single, y),
    }
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    paths = {}
    for _ in range(repeats):
        for name, solver in solvers.items():
            start = time.process_time()
            paths[name] = solver()
            seconds[name].append(time.process_time() - start)
    least = objectives(z, y, theirs(z, y, tol=1e-7))
    excess = {
        name: float((objectives(z, y, path) / least - 1).max()) for name, path in paths.items()
    }
    return LinearRow(
        case=case,
        seconds=float(np.median(seconds["gapkit"])),
        sklearn=float(np.median(seconds["sklearn"])),
        sklearn_single=float(np.median(seconds["single"])),
        excess=excess["gapkit"],
        sklearn_excess=excess["sklearn"],
    )


def rows(repeats: int = 3, cases: Sequence[tuple[int, int, int]] = CASES) -> list[LinearRow]:
    """Every case, on one thread."""
    with threadpool_limits(1):
        return [row(case, repeats) for case in cases]


def table(found: Sequence[LinearRow]) -> str:
    """The rows in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    for item in found:
        cells = [
            "({}, {}, {})".format(*item.case), f"{item.sklearn:.2f}", f"{item.sklearn_single:.2f}",
            f"{item.seconds:.2f}", f"{item.seconds / item.sklearn:.2f}",
            f"{item.seconds / item.sklearn_single:.2f}",
            f"{item.excess:+.1e}", f"{item.sklearn_excess:+.1e}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    print(table(rows(parser.parse_args().repeats)))
