"""Forecast: the score a chain will give its last model, with intervals of the true mean and of one run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import stdtr, stdtrit

from gapkit.plans import Predicted

SCRATCH = "scratch"
LEVEL = 0.8

PRIOR_NOISE, PRIOR_RUNS = 0.14, 3.0
"""Expected standard deviation of one run as a share of the gap, and how many runs that guess is worth."""
PRIOR_PATIENCE = 0.03
"""Expected gain of training twice as long, as a share of the gap."""
LENGTH = 0.35
"""How far along the ordered sizes (teacher 0, student 1) two assistants still act alike."""
MEAN_VARIANCE = 1e3
KEPT_WEIGHT, KEPT_MAX = 0.97, 12
LIKELY = 24
CHUNK = 2_000_000


@dataclass(frozen=True)
class Arm:
    """What can be run: a path of sizes, the recipe of every hop, and the fraction of full training."""

    path: tuple[Hashable, ...]
    recipe: str
    fraction: float = 1.0

    @property
    def n_assistants(self) -> int:
        """Models between the teacher and the last one; 0 for scratch."""
        return max(0, len(self.path) - 2)


@dataclass(frozen=True)
class Run:
    """One measured score (finite, higher is better) of an arm under one seed."""

    arm: Arm
    seed: int
    score: float


@dataclass(frozen=True)
class Belief:
    """Joint belief about true means of arms and about what each seed adds to every arm.

    Attributes:
        mean: (a,) expected true mean of each arm.
        cov: (a + s, a + s) covariance of arms' true means, then of seed effects.
        noise: variance of one run beyond its arm's mean and its seed's effect.
    """

    mean: np.ndarray
    cov: np.ndarray
    noise: float


@dataclass(frozen=True)
class _Table:
    """Arms as columns: what the covariance between two of them is made of."""

    recipe: np.ndarray
    taught: np.ndarray
    last: np.ndarray
    members: np.ndarray
    path: np.ndarray
    octaves: np.ndarray

    @classmethod
    def of(cls, arms: Sequence[Arm], sizes: Sequence[Hashable], codes: dict[str, int]) -> _Table:
        """Columns of the arms; `codes` numbers the recipes and grows with new ones."""
        slot = {size: index for index, size in enumerate(sizes)}
        members = np.zeros((len(arms), len(sizes)))
        for row, arm in enumerate(arms):
            for size in arm.path[1:-1]:
                members[row, slot[size]] = 1.0
        last = np.array([slot[arm.path[-2]] if len(arm.path) > 1 else 0 for arm in arms])
        return cls(
            recipe=np.array([codes.setdefault(arm.recipe, len(codes)) for arm in arms], dtype=int),
            taught=np.array([len(arm.path) > 1 for arm in arms], dtype=float),
            last=last / max(1, len(sizes) - 1),
            members=members,
            path=members @ (2.0 ** np.arange(len(sizes))),
            octaves=np.log2([arm.fraction for arm in arms]),
        )

    def rows(self, index: np.ndarray) -> _Table:
        """Some of the arms."""
        return _Table(**{name: column[index] for name, column in vars(self).items()})


def _components(a: _Table, b: _Table) -> np.ndarray:
    """(6, n_a, n_b) covariance between arms, for each source of variation at unit variance.

    Recipe; recipe's patience; last teacher; last teacher under that recipe; chain (its assistants and
    their number); this very path under this very recipe.
    """
    same_recipe = (a.recipe[:, None] == b.recipe[None, :]).astype(float)
    taught = a.taught[:, None] * b.taught[None, :]
    near = np.exp(-np.abs(a.last[:, None] - b.last[None, :]) / LENGTH) * taught
    long = a.octaves[:, None] * b.octaves[None, :]
    n_a, n_b = a.members.sum(1), b.members.sum(1)
    shared = a.members @ b.members.T
    chain = 0.5 * shared + 0.25 * n_a[:, None] * n_b[None, :]
    same_path = (a.path[:, None] == b.path[None, :]) * same_recipe * taught
    patience = long * (1.0 + 0.5 * same_recipe)
    return np.stack([same_recipe, patience, near, near * same_recipe, chain, same_path])


def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances (g, 6) of the components over the run's variance, seed shares (g,), log priors (g,)."""
    rows, shares, priors = [], [], []
    for recipe, assistant, mixed, share in product(
        (0.4, 1.0, 2.0, 4.0, 8.0, 20.0),
        (0.1, 0.3, 0.8, 2.0, 5.0, 12.0),
        (0.5, 2.0),
        (0.0, 0.4, 0.8),
    ):
        a, r = assistant**2, recipe**2
        rows.append([r, 0.5 + 0.05 * r, a, mixed * a, 0.15 * a, 0.3 * mixed * a])
        shares.append(share)
        priors.append(
            -0.5 * (np.log(recipe / 1.5) / 0.7) ** 2 - 0.5 * (np.log(assistant / 1.0) / 0.7) ** 2
        )
    return np.array(rows), np.array(shares), np.array(priors)


_VARIANCES, _SHARES, _LOG_PRIOR = _grid()


class Forecast:
    """A Gaussian process over arms that end at one size, fitted to the runs so far.

    score = mean + recipe + patience·log2(fraction) + last teacher + chain + interactions + seed + noise.
    Effects are random with variances on a grid; each grid point keeps its exact posterior (Student t,
    the run's variance integrated out under an inverse-gamma prior) and is weighted by its marginal
    likelihood, so that intervals hold the doubt about the variances too. Assistants near each other
    in size act alike; a seed adds the same to every arm (same initialisation), which makes
    differences within a seed sharper than scores. Prior scales are shares of teacher_score minus the
    runs' mean, so that any score scale will do. Arms' effects are shrunk towards each other: the
    best of many noisy arms does not flatter itself.

    Args:
        sizes: of the family, teacher first.
        runs: finite scores of arms that end at one and the same size; may be empty.
        teacher_score: on the scale of the scores.
        grid: indices of the grid points to weigh (an earlier forecast's `likely`); default all.

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
        self._unit = self._scale(scores, teacher_score)
        self._patience = PRIOR_PATIENCE if teacher_score > self._center else 0.0
        self._codes: dict[str, int] = {}
        self._table = _Table.of([run.arm for run in runs], self.sizes, self._codes)
        self._seeds = np.array([run.seed for run in runs])
        self._parts = _components(self._table, self._table)
        z = (scores - self._center) / self._unit - self._patience * self._table.octaves
        self._fit(z, np.arange(len(_SHARES)) if grid is None else grid)

    def _scale(self, scores: np.ndarray, teacher_score: float) -> float:
        if not len(scores):
            return max(abs(teacher_score), 1e-12) or 1.0
        unit = max(abs(teacher_score - self._center), float(np.ptp(scores)))
        return unit if unit > 1e-9 * max(1e-300, abs(self._center)) else max(1.0, abs(self._center))

    def _fit(self, z: np.ndarray, grid: np.ndarray) -> None:
        """Marginal likelihood of every grid point; the weightiest keep their posterior."""
        n = len(z)
        log_det, fit = np.empty(len(grid)), np.empty(len(grid))
        chunk = max(1, CHUNK // (n + 1) ** 2)
        for start in range(0, len(grid), chunk):
            part = slice(start, start + chunk)
            chol = self._factor(z, grid[part])
            log_det[part] = np.log(np.diagonal(chol, axis1=1, axis2=2)[:, :n]).sum(1)
            fit[part] = (chol[:, n, :n] ** 2).sum(1)
        self._dof = PRIOR_RUNS + n
        spread = PRIOR_RUNS * PRIOR_NOISE**2 + fit
        evidence = _LOG_PRIOR[grid] - log_det - 0.5 * self._dof * np.log(spread)
        weight = np.exp(evidence - evidence.max())
        weight /= weight.sum()
        order = np.argsort(-weight, kind="stable")
        n_kept = int(np.searchsorted(np.cumsum(weight[order]), KEPT_WEIGHT)) + 1
        kept = order[: min(n_kept, KEPT_MAX)]
        self._kept, self.likely = grid[kept], grid[order[:LIKELY]]
        self._weight = weight[kept] / weight[kept].sum()
        self._variance = spread[kept] / self._dof
        chol = self._factor(z, self._kept)
        self._chol = chol[:, :n, :n]
        self._alpha = [
            solve_triangular(whole[:n, :n], whole[n, :n], lower=True, trans=1) if n else z
            for whole in chol
        ]

    def _factor(self, z: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """(g, n + 1, n + 1) Cholesky factors L of the runs' covariance; the last row holds L⁻¹z."""
        n = len(z)
        same = (self._seeds[:, None] == self._seeds[None, :]).astype(float)
        parts = np.concatenate([self._parts, same[None], np.eye(n)[None]]).reshape(8, n * n)
        scale = np.column_stack([_VARIANCES[grid], _SHARES[grid], 1.0 - _SHARES[grid]])
        cov = np.empty((len(grid), n + 1, n + 1))
        cov[:, :n, :n] = (scale @ parts).reshape(len(grid), n, n) + MEAN_VARIANCE
        cov[:, n, :n] = cov[:, :n, n] = z
        cov[:, n, n] = 1.0 + 10.0 * (z**2).sum()  # above zᵀV⁻¹z, so that the factor exists
        return np.linalg.cholesky(cov)

    @property
    def run_sd(self) -> float:
        """Standard deviation of one run around its arm's true mean (seed effect included)."""
        return float(self._unit * np.sqrt(self._weight @ self._variance))

    def screen(self, arms: Sequence[Arm], n_points: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """Expected true mean and standard deviation (a,) of many arms, from the likeliest grid points."""
        means, variances = self._marginals(_Table.of(arms, self.sizes, self._codes), n_points)
        weight = self._weight[:n_points] / self._weight[:n_points].sum()
        mean = weight @ means
        sd = np.sqrt(weight @ (variances + (means - mean) ** 2))
        return self._center + self._unit * mean, self._unit * sd

    def _marginals(self, table: _Table, n_points: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (k, a) of each arm under the likeliest grid points, in units of the gap."""
        cross, own = _components(table, self._table), self._prior_variance(table)
        means, variances = [], []
        for i, point in enumerate(self._kept[:n_points]):
            v = _VARIANCES[point]
            k = np.tensordot(v, cross, 1) + MEAN_VARIANCE
            solved = self._solve(i, k)
            variances.append(self._variance[i] * (v @ own + MEAN_VARIANCE - (solved**2).sum(0)))
            means.append(k @ self._alpha[i] + self._patience * table.octaves)
        return np.array(means), np.maximum(variances, 1e-18)

    def _solve(self, i: int, k: np.ndarray) -> np.ndarray:
        """(n, rows) L⁻¹kᵀ at a kept grid point."""
        if not len(self.runs):
            return np.zeros((0, len(k)))
        return solve_triangular(self._chol[i], k.T, lower=True, check_finite=False)

    @staticmethod
    def _prior_variance(table: _Table) -> np.ndarray:
        ones, n = np.ones(len(table.last)), table.members.sum(1)
        return np.stack(
            [
                ones,
                1.5 * table.octaves**2,
                table.taught,
                table.taught,
                0.5 * n + 0.25 * n**2,
                table.taught,
            ]
        )

    def _posteriors(
        self, arms: Sequence[Arm], seeds: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean (k, a) and covariance (k, a + s, a + s) under each kept grid point, in units of the gap."""
        table = _Table.of(arms, self.sizes, self._codes)
        cross, own = _components(table, self._table), _components(table, table)
        of_seed = (np.asarray(seeds).reshape(-1, 1) == self._seeds[None, :]).astype(float)
        a, s = len(arms), len(seeds)
        means, covs = [], []
        for i, point in enumerate(self._kept):
            k = np.tensordot(_VARIANCES[point], cross, 1) + MEAN_VARIANCE
            k = np.concatenate([k, _SHARES[point] * of_seed])
            prior = np.zeros((a + s, a + s))
            prior[:a, :a] = np.tensordot(_VARIANCES[point], own, 1) + MEAN_VARIANCE
            prior[a:, a:] = _SHARES[point] * np.eye(s)
            solved = self._solve(i, k)
            means.append(k[:a] @ self._alpha[i] + self._patience * table.octaves)
            covs.append(self._variance[i] * (prior - solved.T @ solved))
        return np.array(means).reshape(-1, a), np.array(covs)

    def belief(self, arms: Sequence[Arm], seeds: Sequence[int] = ()) -> Belief:
        """Joint belief about arms and seeds, the doubt about variances folded in."""
        means, covs = self._posteriors(arms, seeds)
        mean = self._weight @ means
        cov = np.tensordot(self._weight, covs, 1)
        off = means - mean
        cov[: len(arms), : len(arms)] += (self._weight[:, None] * off).T @ off
        noise = float(self._weight @ (self._variance * (1.0 - _SHARES[self._kept])))
        return Belief(self._center + self._unit * mean, self._unit**2 * cov, self._unit**2 * noise)

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
        means, variances = self._marginals(
            _Table.of(arms, self.sizes, self._codes), len(self._kept)
        )
        scale = np.sqrt(variances + one_run * self._variance[:, None])
        tail = (1.0 - level) / 2.0
        low, high = (
            mixture_quantile(q, means, scale, self._weight, self._dof) for q in (tail, 1.0 - tail)
        )
        value = np.clip(self._weight @ means, low, high)
        rows = self._center + self._unit * np.stack([low, value, high], axis=1)
        return tuple(Predicted(low=a, value=b, high=c, level=level) for a, b, c in rows.tolist())


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
