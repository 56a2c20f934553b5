"""Forecast: the score a chain will give its last model, with intervals of the true mean and of one run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dtrtrs
from scipy.special import stdtr, stdtrit

from gapkit.planning.arm import SCRATCH, Arm, Run
from gapkit.planning.covariance import (
    GRID,
    N_PARTS,
    Columns,
    components,
    seed_components,
    variances,
)
from gapkit.plans import Predicted

__all__ = ["SCRATCH", "Arm", "Belief", "Forecast", "Run", "mixture_quantile", "systematic"]

LEVEL = 0.8
NOISE_SCALES = np.array([0.02, 0.06, 0.2, 0.6])
"""Standard deviations of one run, as shares of the gap, that are held possible."""
PRIOR_RUNS = 2.0
"""How many runs each of those guesses is worth."""
EFFECT, EFFECT_DOUBT = 0.1, 1.0
"""Median standard deviation of recipes and of assistants as a share of the gap, and that of its logarithm."""
PRIOR_PATIENCE = 0.06
"""Expected loss of training for a quarter of the time, as a share of the gap."""
MEAN_VARIANCE = 1e3
N_KEPT, N_LIKELY = 24, 32
CHUNK = 2_000_000


@dataclass(frozen=True)
class Belief:
    """Joint belief about true means of arms and about what each seed adds to the arms of each recipe.

    Attributes:
        mean: (a,) expected true mean of each arm.
        cov: (a + e, a + e) covariance of arms' true means, then of seeds' effects.
        noise: variance of one run beyond its arm's mean and its seed's effect.
        effects: (a, s) where in `cov` the effect of each seed on each arm stands.
    """

    mean: np.ndarray
    cov: np.ndarray
    noise: float
    effects: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=int))


class Forecast:
    """A Gaussian process over arms that end at one size, fitted to the runs so far.

    score = mean + recipe + last teacher + chain + patience + their interactions
          + seed + seed under that recipe + noise.

    Effects are random (gapkit.planning.covariance) with variances on a grid; each grid point has its exact
    posterior for each of four guesses of a run's variance (Student t, under an inverse-gamma prior) and
    is weighted by its marginal likelihood; a few drawn in proportion stand for all, so that intervals
    hold the doubt about the variances too. Assistants near each other in size act alike. A seed (same
    initialisation, same order of batches) adds the same to every arm, and more that is the same to all
    arms of a recipe: differences within a seed are sharper than scores, and many arms under few seeds
    say less about a mean than many seeds would. Prior scales are shares of teacher_score minus the runs'
    mean, so that any score scale will do. Arms' effects are shrunk towards each other: the best of many
    noisy arms does not flatter itself.

    Args:
        sizes: of the family, teacher first.
        runs: finite scores of arms that end at one and the same size; may be empty.
        teacher_score: on the scale of the scores.
        grid: indices of the grid points to weigh (an earlier forecast's `likely`); default all.

    Attributes:
        unit: the gap on the scale of the scores: teacher_score minus the runs' mean, or the runs' range
            where that is larger.

    >>> runs = [Run(Arm((9, 1), "kl"), seed, 0.5 + 0.01 * seed) for seed in range(3)]
    >>> forecast = Forecast((9, 3, 1), runs, teacher_score=0.9)
    >>> near, far = forecast.true_mean(Arm((9, 1), "kl")), forecast.true_mean(Arm((9, 1), "new"))
    >>> round(near.value, 2), near.high - near.low < far.high - far.low
    (0.51, True)
    """

    def __init__(
        self,
        sizes: Sequence[Hashable],
        runs: Sequence[Run],
        teacher_score: float,
        grid: np.ndarray | None = None,
    ) -> None:
        self.sizes, self.runs = tuple(sizes), tuple(runs)
        scores = np.array([run.score for run in runs])
        self._center = float(scores.mean()) if len(runs) else float(teacher_score)
        self.unit = self._scale(scores, teacher_score)
        self._patience = PRIOR_PATIENCE if teacher_score > self._center else 0.0
        self._codes: dict[str, int] = {}
        self._table = Columns.of([run.arm for run in runs], self.sizes, self._codes)
        self._seeds = np.array([run.seed for run in runs])
        self._parts = components(self._table, self._table)
        z = (scores - self._center) / self.unit - self._patience * self._table.patience
        self._fit(z, np.arange(len(GRID.shares)) if grid is None else grid)

    def _scale(self, scores: np.ndarray, teacher_score: float) -> float:
        if not len(scores):
            return max(abs(teacher_score), 1e-12) or 1.0
        unit = max(abs(teacher_score - self._center), float(np.ptp(scores)))
        return unit if unit > 1e-9 * max(1e-300, abs(self._center)) else max(1.0, abs(self._center))

    def _fit(self, z: np.ndarray, grid: np.ndarray) -> None:
        """Weigh every grid point under every guess of the noise; some drawn in proportion are kept."""
        n = len(z)
        log_det, fit = self._likelihoods(z, grid)
        self._dof = PRIOR_RUNS + max(0, n - 1)  # the mean takes one
        spread = PRIOR_RUNS * NOISE_SCALES**2 + fit[:, None]
        scale = np.log(GRID.effects[grid][:, :, None] * NOISE_SCALES / EFFECT) / EFFECT_DOUBT
        evidence = PRIOR_RUNS * np.log(NOISE_SCALES) - 0.5 * (scale**2).sum(1)
        evidence = evidence - log_det[:, None] - 0.5 * self._dof * np.log(spread)
        weight = np.exp(evidence - evidence.max())
        weight /= weight.sum()
        self.likely = grid[np.argsort(-weight.sum(1), kind="stable")[:N_LIKELY]]
        where, self._weight = systematic(weight.T.ravel(), N_KEPT)
        guess, point = np.divmod(where, len(grid))
        self._kept, self._variance = grid[point], spread[point, guess] / self._dof
        whole = self._factor(z, self._kept)
        self._chol = np.ascontiguousarray(whole[:, :n, :n])
        self._alpha = np.array(
            [solve_triangular(c[:n, :n], c[n, :n], lower=True, trans=1) for c in whole]
            if n
            else np.zeros((len(whole), 0))
        )

    def _likelihoods(self, z: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Half the log determinant (g,) of the runs' covariance V at each grid point, and zᵀV⁻¹z (g,)."""
        n = len(z)
        log_det, fit = np.empty(len(grid)), np.empty(len(grid))
        chunk = max(1, CHUNK // (n + 1) ** 2)
        for start in range(0, len(grid), chunk):
            part = slice(start, start + chunk)
            chol = self._factor(z, grid[part])
            log_det[part] = np.log(np.diagonal(chol, axis1=1, axis2=2)[:, :n]).sum(1)
            fit[part] = (chol[:, n, :n] ** 2).sum(1)
        return log_det, fit

    def _factor(self, z: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """(g, n + 1, n + 1) Cholesky factors L of the runs' covariance; the last row holds L⁻¹z."""
        n = len(z)
        shared = seed_components(self._table.recipe, self._seeds, self._table.recipe, self._seeds)
        parts = np.concatenate([self._parts, shared, np.eye(n)[None]])
        parts = parts.reshape(N_PARTS + 3, n * n)
        scale = np.column_stack([GRID.variances[grid], GRID.shares[grid]])
        cov = np.empty((len(grid), n + 1, n + 1))
        cov[:, :n, :n] = (scale @ parts).reshape(len(grid), n, n) + MEAN_VARIANCE
        cov[:, n, :n] = cov[:, :n, n] = z
        above = 2.0 / GRID.shares[:, 2].min()  # zᵀV⁻¹z is below zᵀz·above, so the factor exists
        cov[:, n, n] = 1.0 + above * (z**2).sum()
        return np.linalg.cholesky(cov)

    @property
    def run_sd(self) -> float:
        """Standard deviation of one run around its arm's true mean (seed effect included)."""
        return float(self.unit * np.sqrt(self._weight @ self._variance))

    def screen(self, arms: Sequence[Arm], n_points: int = N_KEPT) -> tuple[np.ndarray, np.ndarray]:
        """Expected true mean and standard deviation (a,) of many arms, from the weightiest grid points."""
        means, spread = self._marginals(Columns.of(arms, self.sizes, self._codes), n_points)
        weight = self._weight[:n_points] / self._weight[:n_points].sum()
        mean = weight @ means
        sd = np.sqrt(weight @ (spread + (means - mean) ** 2))
        return self._center + self.unit * mean, self.unit * sd

    def _marginals(self, table: Columns, n_points: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (k, a) of each arm under the weightiest points, in units of the gap."""
        kept = self._kept[:n_points]
        k = self._mixed(kept, components(table, self._table))
        own = GRID.variances[kept] @ variances(table) + MEAN_VARIANCE
        known = np.stack([(self._solve(i, k[i]) ** 2).sum(0) for i in range(len(kept))])
        means = np.einsum("kar,kr->ka", k, self._alpha[:n_points])
        spread = self._variance[:n_points, None] * (own - known)
        return means + self._patience * table.patience, np.maximum(spread, 1e-18)

    @staticmethod
    def _mixed(kept: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """(k, n_a, n_b) covariance at each point."""
        flat = GRID.variances[kept] @ parts.reshape(N_PARTS, -1)
        return (flat + MEAN_VARIANCE).reshape(len(kept), *parts.shape[1:])

    def _solve(self, i: int, k: np.ndarray) -> np.ndarray:
        """(n, rows) L⁻¹kᵀ at a kept grid point."""
        if not len(self.runs):
            return np.zeros((0, len(k)))
        return np.asarray(
            dtrtrs(self._chol[i].T, k.T, lower=0, trans=1)[0]
        )  # in columns, as it lies

    def _posteriors(
        self, table: Columns, recipe: np.ndarray, seeds: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean (k, a) and covariance (k, a + e, a + e) under each kept grid point, in units of the gap.

        The e effects are those of a seed on a recipe's arms, (e,) each.
        """
        cross = self._mixed(self._kept, components(table, self._table))
        own = self._mixed(self._kept, components(table, table))
        to_runs = seed_components(recipe, seeds, self._table.recipe, self._seeds)
        among = seed_components(recipe, seeds, recipe, seeds)
        a, e = len(table.recipe), len(seeds)
        covs = np.zeros((len(self._kept), a + e, a + e))
        for i, shares in enumerate(GRID.shares[self._kept]):
            covs[i, :a, :a] = own[i]
            covs[i, a:, a:] = shares[0] * among[0] + shares[1] * among[1]
            effects = shares[0] * to_runs[0] + shares[1] * to_runs[1]
            solved = self._solve(i, np.concatenate([cross[i], effects]))
            covs[i] = self._variance[i] * (covs[i] - solved.T @ solved)
        means = np.einsum("kar,kr->ka", cross, self._alpha) + self._patience * table.patience
        return means, covs

    def belief(self, arms: Sequence[Arm], seeds: Sequence[int] = ()) -> Belief:
        """Joint belief about arms and what each seed adds to them, the doubt about variances folded in."""
        table = Columns.of(arms, self.sizes, self._codes)
        names, row = np.unique(table.recipe, return_inverse=True)
        means, covs = self._posteriors(
            table, np.repeat(names, len(seeds)), np.tile(np.asarray(seeds, dtype=int), len(names))
        )
        mean = self._weight @ means
        cov = np.tensordot(self._weight, covs, 1)
        off = means - mean
        cov[: len(arms), : len(arms)] += (self._weight[:, None] * off).T @ off
        noise = float(self._weight @ (self._variance * GRID.shares[self._kept, 2]))
        effects = len(arms) + row[:, None] * len(seeds) + np.arange(len(seeds))
        return Belief(
            self._center + self.unit * mean, self.unit**2 * cov, self.unit**2 * noise, effects
        )

    def true_means(self, arms: Sequence[Arm], level: float = LEVEL) -> tuple[Predicted, ...]:
        """Each arm's mean score over seeds, with an interval."""
        return self._predict(arms, level, one_run=False)

    def true_mean(self, arm: Arm, level: float = LEVEL) -> Predicted:
        """The arm's mean score over seeds, with an interval."""
        return self._predict([arm], level, one_run=False)[0]

    def one_run(self, arm: Arm, level: float = LEVEL) -> Predicted:
        """The score of one further run of the arm, with an interval."""
        return self._predict([arm], level, one_run=True)[0]

    def _predict(
        self, arms: Sequence[Arm], level: float, *, one_run: bool
    ) -> tuple[Predicted, ...]:
        means, spread = self._marginals(Columns.of(arms, self.sizes, self._codes), N_KEPT)
        scale = np.sqrt(spread + one_run * self._variance[:, None])
        tail = (1.0 - level) / 2.0
        low, high = (
            mixture_quantile(q, means, scale, self._weight, self._dof) for q in (tail, 1.0 - tail)
        )
        value = np.clip(self._weight @ means, low, high)
        rows = self._center + self.unit * np.stack([low, value, high], axis=1)
        return tuple(Predicted(low=a, value=b, high=c, level=level) for a, b, c in rows.tolist())


def systematic(weight: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (k,) of at most n parts drawn in proportion to their weights, and what each counts (k,).

    Systematic draws without chance (at the middles of n equal steps), so that the parts kept stand for
    the whole mixture and not for its mode alone; the weightiest come first.

    >>> systematic(np.array([0.1, 0.7, 0.2]), 10)
    (array([1, 2, 0]), array([0.7, 0.2, 0.1]))
    """
    steps = (np.arange(n) + 0.5) / n * weight.sum()
    hits = np.minimum(np.searchsorted(np.cumsum(weight), steps), len(weight) - 1)
    where, count = np.unique(hits, return_counts=True)
    order = np.argsort(-count, kind="stable")
    return where[order], count[order] / n


def mixture_quantile(
    q: float, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, dof: float
) -> np.ndarray:
    """(a,) q-quantiles of mixtures of Student t laws, by bisection.

    Args:
        q: between 0 and 1.
        mean, scale: (k, a) of the k parts of each of a mixtures.
        weight: (k,) of the parts; sums to 1.
        dof: degrees of freedom of all parts.

    >>> mixture_quantile(0.9, np.zeros((1, 1)), np.ones((1, 1)), np.ones(1), 1e9).round(3)
    array([1.282])
    """
    ends = mean + scale * stdtrit(dof, q)
    low, high = ends.min(0), ends.max(0)
    for _ in range(50):
        middle = 0.5 * (low + high)
        below = weight @ stdtr(dof, (middle - mean) / scale) < q
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)
