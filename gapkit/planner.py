"""Planner: which training to try next within a budget, and which path to take in the end (ask/tell)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm

from gapkit.errors import InputError, unknown
from gapkit.forecast import SCRATCH, Arm, Belief, Forecast, Run
from gapkit.plans import Alternative, Predicted

MAX_SIZES = 20
MAX_RUNS = 300
FULL_FIT = 48
ALL_SUBSETS, ALL_PAIRS, BEAM, BEAM_RECIPES = 5, 12, 8, 4
SCREENED, CANDIDATES = 80, 30
REPLICATES = (1, 2, 4, 8)
TIE = 0.1
CONFIRM = ((0.3, 2), (0.15, 3))
"""When no more than this share of the budget is left, leader and rival are run that many times."""
_Z = norm.ppf((np.arange(16) + 0.5) / 16)


@dataclass(frozen=True)
class Trial:
    """One training: the last model of `path`, taught by the one before it (nobody, when it is alone).

    Attributes:
        path: sizes from the teacher to the model trained; (size,) with recipe "scratch" for labels alone.
        recipe: of every hop of the path.
        seed: of the initialisation and the data order; a path's prefix has the same.
        fraction: of a full training; the prefix has the same.
    """

    path: tuple[Any, ...]
    recipe: str
    seed: int
    fraction: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The path to take, what it should score, and whether its assistants are worth their price.

    Attributes:
        path, recipe, fraction: what to train; the path ends at the student.
        predicted: 80 % interval of the true mean over seeds.
        predicted_run: 80 % interval of one run.
        assistant_pays: the path has an assistant and beats the best single hop beyond noise.
        reason: why this one, in one or two lines.
        tried: whether this very arm was run to its end at least once.
        n_runs: how many finite runs of it were told.
        alternatives: every arm considered, best first.
    """

    path: tuple[Any, ...]
    recipe: str
    fraction: float
    predicted: Predicted
    predicted_run: Predicted
    assistant_pays: bool
    reason: str
    tried: bool
    n_runs: int = 0
    alternatives: tuple[Alternative, ...] = ()

    def __str__(self) -> str:
        sizes = " → ".join(str(size) for size in self.path)
        return f"{sizes} by {self.recipe}, fraction {self.fraction:g}: {self.predicted}"


class Planner:
    """Chooses trainings one by one (`ask`), learns their scores (`tell`) and names a path (`choose`).

    Each step weighs, for every arm that can still be paid for, how much better the final choice is
    expected to become per student training spent (knowledge gradient with repeats, Frazier & Powell
    2010, under gapkit.forecast's belief). Every single-hop recipe and scratch come first. A chain is
    asked hop by hop, prefix first, and only begun when the budget covers its end.

    Args:
        sizes: 2 to 20 different labels, teacher first, student last.
        cost: size -> price of one full training, in student trainings; the teacher's is not needed.
        recipes: names of the ways to teach; "scratch" is available whether named or not.
        budget: student trainings the search may spend.
        teacher_score: on the scale of the scores told.
        fractions: of a full training that may be asked: 0.25 a quick look, 4.0 patience.
        seed: kept beside the search; nothing is drawn, so the same scores give the same trials.

    Raises:
        InputError: one line that names what does not fit.

    >>> planner = Planner([8, 4, 1], {4: 2.0, 1: 1.0}, ["kl4", "dist1"], budget=6, teacher_score=0.9)
    >>> while (trial := planner.ask()) is not None:
    ...     planner.tell(trial, {"kl4": 0.5, "dist1": 0.7, "scratch": 0.6}[trial.recipe])
    >>> choice = planner.choose()
    >>> choice.recipe, choice.assistant_pays, planner.spent <= 6
    ('dist1', False, True)
    """

    def __init__(
        self,
        sizes: Sequence[Hashable],
        cost: Mapping[Any, float],
        recipes: Sequence[str],
        budget: float,
        teacher_score: float,
        fractions: Sequence[float] = (1.0,),
        seed: int = 0,
    ) -> None:
        _check(sizes, cost, recipes, budget, teacher_score, fractions)
        self.sizes, self.recipes = tuple(sizes), tuple(recipes)
        self.cost = {size: float(cost[size]) for size in self.sizes[1:]}
        self.budget, self.teacher_score = float(budget), float(teacher_score)
        self.fractions = tuple(float(fraction) for fraction in fractions)
        self.seed = seed
        self.spent = 0.0
        self._used: dict[Arm, set[int]] = {}  # seeds asked or told
        self._told: dict[Arm, dict[int, float]] = {}  # seed -> score
        self._queue: list[Trial] = []
        self._rank = {size: index for index, size in enumerate(self.sizes)}
        self._fitted: tuple[int, Forecast] | None = None
        self._version = 0
        self._n_full = 0

    @property
    def teacher(self) -> Any:
        """The teacher's size."""
        return self.sizes[0]

    @property
    def student(self) -> Any:
        """The student's size, where every path ends."""
        return self.sizes[-1]

    @property
    def remaining(self) -> float:
        """Student trainings not yet spent on trials asked, nor set apart for a chain begun."""
        return self.budget - self.spent - sum(self._price(trial) for trial in self._queue)

    def ask(self) -> Trial | None:
        """The next trial; None when nothing more can be paid for.

        Asking again before telling gives another trial, never the same one; trials may be run in the
        order in which they were asked.
        """
        if not self._queue and sum(map(len, self._used.values())) < MAX_RUNS:
            self._queue = self._next_chain()
        if not self._queue:
            return None
        trial = self._queue.pop(0)
        self._used.setdefault(_arm(trial), set()).add(trial.seed)
        self.spent += self._price(trial)
        return trial

    def tell(self, trial: Trial, score: float) -> None:
        """Take a score, of a trial asked or of any other (a control, without charge).

        A trial told twice counts once, with its last score. A score that is not finite says that the
        training failed: it counts as worse than every score of that size so far.

        Raises:
            InputError: when the path is not one of this planner's sizes, or the score is no number.
        """
        trial = self._known(trial)
        try:
            value = float(score)
        except (TypeError, ValueError):
            raise InputError(f"Expected a score that is a number but got {score!r}") from None
        self._told.setdefault(_arm(trial), {})[trial.seed] = value
        self._used.setdefault(_arm(trial), set()).add(trial.seed)
        self._version += 1
        if trial in self._queue:
            self._queue.remove(trial)
        if not math.isfinite(value):
            self._queue = [waiting for waiting in self._queue if not _grows_from(waiting, trial)]

    def choose(self, among: Callable[[Arm], bool] | None = None) -> Choice:
        """The arm with the highest expected score; among arms within noise, the cheapest.

        `among` leaves arms out, for example those with assistants when none is claimed to pay.
        """
        arms = self._screened()
        if among is not None:
            arms = [arm for arm in arms if among(arm)] or self._single_hops()
        forecast = self.forecast()
        mean, _ = forecast.screen(arms, n_points=12)
        best = self._best(arms, mean, forecast.run_sd) if forecast.runs else 0
        arm, n_runs = arms[best], self._n_runs(arms[best])
        pays, why = self._claim(arm, arms, mean, forecast)
        return Choice(
            path=arm.path,
            recipe=arm.recipe,
            fraction=arm.fraction,
            predicted=forecast.true_mean(arm),
            predicted_run=forecast.one_run(arm),
            assistant_pays=pays,
            reason=why,
            tried=n_runs > 0,
            n_runs=n_runs,
            alternatives=self._alternatives(arms, mean, forecast, arm),
        )

    def forecast(self, size: Any = None) -> Forecast:
        """What the scores told so far say about paths that end at `size` (default: the student)."""
        size = self.student if size is None else size
        if size not in self.cost:
            raise unknown("size below the teacher", size, self.sizes[1:])
        if size != self.student:
            return Forecast(self.sizes, self._runs(size), self.teacher_score)
        if self._fitted is None or self._fitted[0] != self._version:
            self._fitted = (self._version, self._refitted())
        return self._fitted[1]

    def _refitted(self) -> Forecast:
        """The student's forecast; with many runs, mostly from the grid points found likely before."""
        runs = self._runs(self.student)
        grid = None
        if self._fitted is not None and FULL_FIT < len(runs) < 1.2 * self._n_full:
            grid = self._fitted[1].likely
        else:
            self._n_full = len(runs)
        return Forecast(self.sizes, runs, self.teacher_score, grid)

    def execution_cost(self, arm: Arm) -> float:
        """Student trainings that carrying out the whole path takes."""
        return sum(self.cost[hop.path[-1]] * hop.fraction for hop in _hops(arm))

    def _price(self, trial: Trial) -> float:
        return self.cost[trial.path[-1]] * trial.fraction

    def _runs(self, size: Any) -> list[Run]:
        told = [
            Run(arm, seed, score)
            for arm, runs in self._told.items()
            if arm.path[-1] == size
            for seed, score in runs.items()
        ]
        finite = [run.score for run in told if math.isfinite(run.score)]
        if not finite:
            return []
        bad = min(finite) - 0.5 * (max(finite) - min(finite))
        return [r if math.isfinite(r.score) else Run(r.arm, r.seed, bad) for r in told]

    def _n_runs(self, arm: Arm) -> int:
        return sum(map(math.isfinite, self._told.get(arm, {}).values()))

    def _failing(self, arm: Arm) -> bool:
        """Whether a hop of the arm failed at least as often as it gave a score."""
        return any(
            2 * self._n_runs(hop) <= len(self._told[hop])
            for hop in _hops(arm)
            if self._told.get(hop)
        )

    def _single_hops(self) -> list[Arm]:
        names = [name for name in self.recipes if name != SCRATCH]
        order = [*self.recipes] if SCRATCH in self.recipes else [*names, SCRATCH]
        path = {SCRATCH: (self.student,)}
        direct = (self.teacher, self.student)
        nearest_full = sorted(self.fractions, key=lambda f: (abs(math.log(f)), f))
        return [
            Arm(path.get(name, direct), name, fraction)
            for fraction in nearest_full
            for name in order
        ]

    def _chains(self) -> list[Arm]:
        """Arms with assistants: all subsets of few sizes, up to two of more, a beam's of many."""
        middle = self.sizes[1:-1]
        names = [name for name in self.recipes if name != SCRATCH]
        most = len(middle) if len(middle) <= ALL_SUBSETS else 2
        alone = [Arm((self.teacher, size, self.student), name) for size in middle for name in names]
        wide, wide_names = middle, names
        if len(middle) > ALL_PAIRS or len(names) * len(middle) ** 2 > 4 * ALL_PAIRS**2:
            wide, wide_names = self._beam(alone)
        sets = [chosen for n in range(2, most + 1) for chosen in combinations(wide, n)]
        if len(middle) > most:
            sets += [wide[i:j] for i in range(len(wide)) for j in range(i + 3, len(wide) + 1)]
        long = [Arm((self.teacher, *s, self.student), name) for s in sets for name in wide_names]
        return [Arm(a.path, a.recipe, f) for a in [*alone, *long] for f in self.fractions]

    def _beam(self, alone: list[Arm]) -> tuple[tuple[Any, ...], list[str]]:
        """The assistants and the recipes that look best in chains of one assistant."""
        forecast = self.forecast()
        if not alone:
            return (), []
        mean, sd = forecast.screen(alone, n_points=1)
        shape = (len(self.sizes) - 2, -1)
        value = (mean + sd).reshape(shape)
        assistants = sorted(np.argsort(-value.max(1), kind="stable")[:BEAM])
        names = [arm.recipe for arm in alone[: value.shape[1]]]
        recipes = sorted(np.argsort(-value.max(0), kind="stable")[:BEAM_RECIPES])
        return tuple(self.sizes[1 + i] for i in assistants), [names[i] for i in recipes]

    def _arms(self) -> list[Arm]:
        """All arms that end at the student: single hops first, then chains, shorter first."""
        told = [
            arm
            for arm in self._told
            if arm.path[-1] == self.student
            and arm.fraction in self.fractions
            and arm.recipe in (*self.recipes, SCRATCH)
        ]
        return list(dict.fromkeys([*self._single_hops(), *self._chains(), *told]))

    def _screened(self) -> list[Arm]:
        """The arms worth weighing: all when few, else told ones, single hops and the most promising."""
        arms = self._arms()
        if any(not math.isfinite(score) for runs in self._told.values() for score in runs.values()):
            arms = [arm for arm in arms if not self._failing(arm)] or self._single_hops()
        if len(arms) <= SCREENED:
            return arms
        mean, sd = self.forecast().screen(arms, n_points=1)
        sure = np.array([arm in self._told for arm in arms])
        sure[: len(self._single_hops())] |= len(self._single_hops()) <= SCREENED // 2
        value = np.where(sure, np.inf, mean + sd)
        keep = np.sort(np.argsort(-value, kind="stable")[: max(SCREENED, int(sure.sum()))])
        return [arms[index] for index in keep]

    def _next_chain(self) -> list[Trial]:
        """The trials of the arm that is worth its price most, prefix first; empty when none fits."""
        for arm in self._opening():
            chain = self._missing(arm, self._next_seeds(arm, 1)[0])
            if chain and self._affordable(chain):
                return chain
        arms = self._screened()
        forecast = self.forecast()
        mean, sd = forecast.screen(arms, n_points=4)
        for index in self._unconfirmed(arms, mean):
            chain = self._missing(arms[index], self._next_seeds(arms[index], 1)[0])
            if self._affordable(chain):
                return chain
        order = np.argsort(-(mean + 1.5 * sd), kind="stable")
        n_seeds = max((len(seeds) for seeds in self._used.values()), default=0)
        belief = forecast.belief(arms, range(n_seeds + max(REPLICATES)))
        best: list[Trial] = []
        best_value, n_weighed = -1.0, 0
        for index in order.tolist():
            chain, value = self._value(arms, index, belief)
            n_weighed += bool(chain)
            if chain and value > best_value:
                best, best_value = chain, value
            if n_weighed == CANDIDATES:
                break
        return best

    def _unconfirmed(self, arms: list[Arm], mean: np.ndarray) -> list[int]:
        """Once a share of the budget is left: the leader and its single-hop rival, while runs are few.

        A claim needs runs of both, and one lucky run shall not decide.
        """
        wanted = [n for share, n in CONFIRM if self.remaining <= share * self.budget]
        leader = int(np.argmax(mean))
        pair = [leader]
        if arms[leader].n_assistants:
            pair += _best_single(arms, mean)
        few = [i for i in pair if self._n_runs(arms[i]) < max(wanted, default=0)]
        return sorted(few, key=lambda i: self._n_runs(arms[i]))

    def _opening(self) -> list[Arm]:
        """Single hops never run, at the fraction that lets the budget see most of them."""
        singles = self._single_hops()
        names = len(singles) // len(self.fractions)
        full = [arm for arm in singles if arm.fraction == singles[0].fraction]
        cost = self.cost[self.student] * singles[0].fraction
        looks = min(self.fractions)
        if cost * names > 0.5 * self.budget and looks < singles[0].fraction:
            full = [arm for arm in singles if arm.fraction == looks]
        return [arm for arm in full if arm not in self._used]

    def _value(self, arms: list[Arm], index: int, belief: Belief) -> tuple[list[Trial], float]:
        """First chain of trials that running the arm takes, and its knowledge gradient per cost."""
        arm = arms[index]
        seeds = self._next_seeds(arm, max(REPLICATES))
        chains = [self._missing(arm, seed) for seed in seeds]
        if not chains[0] or not self._affordable(chains[0]):
            return [], 0.0
        best = 0.0
        price = np.cumsum([sum(self._price(trial) for trial in chain) for chain in chains])
        for count in REPLICATES:
            if price[count - 1] > self.remaining + 1e-9:
                break
            gain = knowledge_gradient(belief, index, len(arms) + np.array(seeds[:count]))
            best = max(best, gain / price[count - 1])
        return chains[0], best

    def _next_seeds(self, arm: Arm, count: int) -> list[int]:
        """The smallest seeds that the arm was not run with and no hop of it failed with."""
        used = set(self._used.get(arm, ()))
        for hop in _hops(arm)[:-1]:
            used |= {s for s, score in self._told.get(hop, {}).items() if not math.isfinite(score)}
        return [seed for seed in range(count + len(used)) if seed not in used][:count]

    def _missing(self, arm: Arm, seed: int) -> list[Trial]:
        """Trials of the chain that were neither told nor asked."""
        return [
            Trial(hop.path, hop.recipe, seed, hop.fraction)
            for hop in _hops(arm)
            if seed not in self._used.get(hop, ())
        ]

    def _affordable(self, chain: list[Trial]) -> bool:
        return sum(self._price(trial) for trial in chain) <= self.remaining + 1e-9

    def _best(self, arms: list[Arm], mean: np.ndarray, run_sd: float) -> int:
        """Index of the cheapest arm whose expected score is within a tenth of a run's noise of the best."""
        near = np.flatnonzero(mean >= mean.max() - TIE * run_sd)
        return int(
            min(
                near,
                key=lambda i: (
                    round(self.execution_cost(arms[i]), 9),
                    self._n_runs(arms[i]) == 0,
                    -mean[i],
                ),
            )
        )

    def _claim(
        self, arm: Arm, arms: list[Arm], mean: np.ndarray, forecast: Forecast
    ) -> tuple[bool, str]:
        """Whether an assistant pays (gain above 2σ√(1/n₁+1/n₂) over the best single hop), and why."""
        if not forecast.runs:
            what = "Every run failed so far" if self._told else "Nothing was measured yet"
            return False, f"{what}: {arm.recipe} along {arm.path}, untried or failed."
        n = self._n_runs(arm)
        base = f"Expected {mean[arms.index(arm)]:.4g} from {n} run{'s' * (n != 1)}"
        base = base if n else f"{base} of this arm (untried; forecast from other arms)"
        if arm.n_assistants == 0:
            return False, f"{base}; no chain is expected to do better beyond noise."
        singles = _best_single(arms, mean)
        if not singles:
            return False, f"{base}; not claimed: every single hop failed, so there is no rival."
        best = singles[0]
        rival, m = arms[best], self._n_runs(arms[best])
        gain = float(mean[arms.index(arm)] - mean[best])
        if n < 2 or m < 1:
            return False, (
                f"{base}; {gain:+.3g} over {rival.recipe} in a single hop, not claimed: it takes two "
                f"runs of the chain and one of its rival, there are {n} and {m}."
            )
        limit = 2.0 * forecast.run_sd * math.sqrt(1 / n + 1 / m)
        pays = gain > limit
        said = "beyond" if pays else "within"
        return pays, (
            f"{base}; {gain:+.3g} over {rival.recipe} in a single hop (n = {m}), {said} the noise "
            f"limit of {limit:.3g}."
        )

    def _alternatives(
        self, arms: list[Arm], mean: np.ndarray, forecast: Forecast, chosen: Arm
    ) -> tuple[Alternative, ...]:
        cost = np.array([self.execution_cost(arm) for arm in arms])
        order = np.argsort(-mean, kind="stable")
        shown = [
            i
            for rank, i in enumerate(order)
            if rank < 12 or arms[i] in self._told or arms[i] == chosen or arms[i].n_assistants == 0
        ]
        forecasts = forecast.true_means([arms[i] for i in shown])
        return tuple(
            Alternative(
                path=tuple(_label(size) for size in arms[i].path),
                recipe=arms[i].recipe,
                fraction=arms[i].fraction,
                predicted=predicted,
                cost=float(cost[i]),
                n_runs=self._n_runs(arms[i]),
                chosen=arms[i] == chosen,
                on_front=not np.any(
                    ((mean >= mean[i]) & (cost < cost[i])) | ((mean > mean[i]) & (cost <= cost[i]))
                ),
            )
            for i, predicted in zip(shown, forecasts)
        )

    def _known(self, trial: Any) -> Trial:
        """The trial in the planner's own terms."""
        path, recipe = tuple(trial.path), trial.recipe
        for size in path:
            if size not in self._rank:
                raise unknown("size", size, self.sizes)
        ranks = [self._rank[size] for size in path]
        if recipe == SCRATCH and (len(path) != 1 or ranks == [0]):
            raise InputError(
                f"Expected a path of one size below the teacher's for {SCRATCH!r} but got {path}"
            )
        if recipe != SCRATCH and (len(path) < 2 or ranks[0] != 0 or ranks != sorted(set(ranks))):
            raise InputError(
                f"Expected a path from the teacher {self.teacher!r} down the sizes but got {path}"
            )
        if not (math.isfinite(trial.fraction) and trial.fraction > 0):
            raise InputError(f"Expected a fraction above 0 but got {trial.fraction!r}")
        return Trial(path, recipe, int(trial.seed), float(trial.fraction))


def knowledge_gradient(belief: Belief, arm: int, seeds: np.ndarray) -> float:
    """Expected rise of the best expected score when the arm is run once under each seed (never negative).

    E[max_a μ'_a] − max_a μ_a, where μ' = μ + σ̃·Z is the belief after the mean of those runs (Frazier,
    Powell & Dayanik 2009, eq. 11), over 16 equally likely Z.

    Args:
        belief: about a arms and s seeds.
        arm: index of the arm that would be run.
        seeds: (m,) indices of the seeds in belief.cov.

    >>> belief = Belief(np.array([0.0, 0.0]), np.diag([1.0, 0.0, 0.0]), noise=0.0)
    >>> round(knowledge_gradient(belief, 0, np.array([2])), 1)  # E[max(Z, 0)] = 0.399
    0.4
    """
    n_arms = len(belief.mean)
    c = belief.cov[:, arm] + belief.cov[:, seeds].mean(1)
    variance = c[arm] + c[seeds].mean() + belief.noise / len(seeds)
    if variance <= 0:
        return 0.0
    shift = c[:n_arms] / math.sqrt(variance)
    after = (belief.mean[:, None] + shift[:, None] * _Z).max(0).mean()
    return max(0.0, float(after - belief.mean.max()))


def _arm(trial: Trial) -> Arm:
    return Arm(trial.path, trial.recipe, trial.fraction)


def _best_single(arms: Sequence[Arm], mean: np.ndarray) -> list[int]:
    """Index of the best scratch or single-hop arm; empty when there is none."""
    singles = [i for i, arm in enumerate(arms) if arm.n_assistants == 0]
    return [max(singles, key=lambda i: mean[i])] if singles else []


def _hops(arm: Arm) -> list[Arm]:
    """The arm and the prefixes that it is built on, first hop first."""
    return [Arm(arm.path[:n], arm.recipe, arm.fraction) for n in range(2, len(arm.path))] + [arm]


def _grows_from(trial: Trial, prefix: Trial) -> bool:
    return trial.path[: len(prefix.path)] == prefix.path and (
        trial.recipe,
        trial.seed,
        trial.fraction,
    ) == (prefix.recipe, prefix.seed, prefix.fraction)


def _label(size: Any) -> Any:
    return size if isinstance(size, (int, float, str)) else str(size)


def _check(
    sizes: Sequence[Hashable],
    cost: Mapping[Any, float],
    recipes: Sequence[str],
    budget: float,
    teacher_score: float,
    fractions: Sequence[float],
) -> None:
    """Raise InputError, naming all mistakes, when a planner cannot be built from these."""
    wrong = []
    sizes = tuple(sizes)
    if isinstance(recipes, str):
        wrong.append(f"Expected a list of recipe names but got the string {recipes!r}")
    if not 2 <= len(sizes) <= MAX_SIZES or len(set(sizes)) != len(sizes):
        wrong.append(
            f"Expected 2 to {MAX_SIZES} different sizes, teacher first, but got {list(sizes)}"
        )
    for size in sizes[1:]:
        if size not in cost:
            wrong.append(f"Expected a cost for size {size!r} but got none")
        elif not _positive(cost[size]):
            wrong.append(f"Expected a cost above 0 for size {size!r} but got {cost[size]!r}")
    if not recipes or len(set(recipes)) != len(recipes):
        wrong.append(f"Expected at least one recipe, each once, but got {list(recipes)}")
    if not _positive(budget) and budget != 0:
        wrong.append(f"Expected a finite budget of at least 0 but got {budget!r}")
    if not isinstance(teacher_score, (int, float, np.number)) or not math.isfinite(teacher_score):
        wrong.append(f"Expected a finite teacher score but got {teacher_score!r}")
    if (
        not fractions
        or not all(_positive(f) for f in fractions)
        or len(set(fractions)) != len(fractions)
    ):
        wrong.append(f"Expected different fractions above 0 but got {list(fractions)}")
    if wrong:
        raise InputError("; ".join(wrong))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and 0 < float(value) < math.inf
