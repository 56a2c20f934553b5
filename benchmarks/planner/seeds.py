"""What seeds add to runs in the recorded tables: `python benchmarks/planner/seeds.py`.

Shares of the variance between runs of an arm: what a seed adds to every arm, to the arms of its recipe alone, and
the rest, by restricted maximum likelihood: every arm's mean is free. The forecast's GRID spans such shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from arms import arms_of
from recorded import DATA, Recorded, table
from scipy.optimize import minimize
from tables import markdown

FLOOR = 1e-6
"""Least share of any part, so that the likelihood exists."""


def shares(runs: np.ndarray, recipes: Sequence[str]) -> np.ndarray:
    """(3,) shares of the variance: a seed's, a seed's within a recipe, a run's own; they sum to 1.

    Args:
        runs: (a, s) scores of each arm under each seed.
        recipes: (a,) of the arms.

    >>> rng = np.random.default_rng(0)
    >>> shares(rng.normal(size=(4, 500)) + 2 * rng.normal(size=500), ["a", "a", "b", "b"]).round(1)
    array([0.8, 0. , 0.2])
    """
    n_arms = len(runs)
    same = np.equal.outer(np.array(recipes), np.array(recipes)).astype(float)
    parts = np.stack([np.ones((n_arms, n_arms)), same, np.eye(n_arms)])
    spread = np.cov(runs)

    def loss(logits: np.ndarray) -> float:
        cov = np.tensordot(np.exp(logits), parts, 1)
        return float(np.linalg.slogdet(cov)[1] + np.trace(np.linalg.solve(cov, spread)))

    start = np.log(np.trace(spread) / n_arms)
    starts = [start + np.log(np.roll([0.8, 0.1, 0.1], n)) for n in range(3)]
    bounds = [(start + np.log(FLOOR), start + 3.0)] * 3
    best = min((minimize(loss, x, bounds=bounds) for x in starts), key=lambda found: found.fun)
    variance = np.exp(best.x)
    return np.asarray(variance / variance.sum())


def main() -> None:
    rows = []
    for path in sorted(DATA.glob("*.jsonl")):
        for student in table(path).students():
            world = Recorded(path, student, 0)
            arms = arms_of(world.sizes, world.recipes, world.fractions)
            seeds = sorted({*world.chosen_on, *world.judged_by})
            scores = table(path).scores
            runs = np.array([[scores[arm][seed] / world.unit for seed in seeds] for arm in arms])
            found = shares(runs, [arm.recipe for arm in arms])
            sizes = f"{len(arms)} × {len(seeds)}"
            rows.append(
                (world.kind, sizes, f"{world.noise:.1f}", *(f"{100 * x:.0f} %" for x in found))
            )
    head = (
        "student",
        "arms × seeds",
        "spread of a run, points",
        "seed",
        "seed within a recipe",
        "own",
    )
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
