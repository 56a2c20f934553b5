"""Planner: which training to try next within a budget, and which path to take in the end (ask/tell)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from gapkit.errors import InputError, unknown
from gapkit.forecast import N_KEPT, Belief, Forecast
from gapkit.planning.arm import SCRATCH, Arm, Trial
from gapkit.planning.decision import Choice, Decision, best_single
from gapkit.planning.ledger import Ledger
from gapkit.planning.lookahead import best_rate, value_of_knowing
from gapkit.planning.search_space import SearchSpace, check_search, check_space

__all__ = ["Choice", "Planner", "Trial"]

MAX_RUNS = 300
FULL_FIT = 24
SCREENED, CANDIDATES = 96, 48
SCREEN_POINTS = 4
REPLICATES = (1, 2, 4, 8)
SINGLES_SHARE, OPENING_SHARE, FIRST_CHAINS = 0.5, 0.6, 3
"""Of the budget: above it single hops are only looked at; below it three chains are sure of a run."""
OTHER_SEED = 3
"""One single hop in that many begins with seed 1 in place of 0; the others stay paired."""
EXPLORING = 0.5
"""Share of the budget in which a trial is worth what knowing its arm would be, not what that trial tells."""
SLACK = 0.05
"""Share of what is left that counts beside a price: what is not spent in the end is worth nothing, and
many cheap trials that tell next to nothing shall not come before a dear one that may."""
CONFIRM = ((0.3, 2), (0.15, 4))
"""When no more than this share of the budget is left, leader and rival are run that many times."""


class Planner:
    """Chooses trainings one by one (`ask`), learns their scores (`tell`) and names a path (`choose`).

    Single-hop recipes and scratch come first, then chains of one assistant, spread over the sizes: one
    wherever the budget covers it, up to three while the budget lasts. Every third single hop begins with
    a second seed: under one seed alone, what a seed adds to every arm stays unseen. From there each step
    weighs, for every arm that can still be paid for, how much better the final choice is expected to
    become per student training spent: first by knowing the arm, later by the runs that can be paid for
    (knowledge gradient with repeats, Frazier & Powell 2010, under gapkit.forecast's belief, with heavier
    tails: while there is budget, chains that the belief has given up are run before what is known is run
    again). The last of the budget confirms the leader and its rival. A chain is asked hop by hop, prefix
    first, and only begun when the budget covers its end. It is chosen only where the lead expected
    of it over the best single hop outweighs the risk that it is worse.

    Args:
        sizes: 2 to 20 different labels, teacher first, student last.
        cost: size -> price of one full training, in student trainings; the teacher's is not needed.
        recipes: names of the ways to teach; "scratch" is available whether named or not.
        budget: student trainings the search may spend.
        teacher_score: on the scale of the scores told.
        fractions: of a full training that may be asked: 0.25 a quick look, 4.0 patience.
        seed: kept beside the search; nothing is drawn, so the same scores give the same trials.
        chains_only: recipes that say nothing without an assistant: no single hop has them.

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
        chains_only: Collection[str] = (),
    ) -> None:
        check_search(check_space(sizes, cost, recipes, fractions), budget, teacher_score)
        self.sizes, self.recipes = tuple(sizes), tuple(recipes)
        self.cost = {size: float(cost[size]) for size in self.sizes[1:]}
        self.budget, self.teacher_score = float(budget), float(teacher_score)
        self.fractions = tuple(float(fraction) for fraction in fractions)
        self.seed = seed
        self.spent = 0.0
        self._space = SearchSpace(
            self.sizes, self.cost, self.recipes, self.fractions, frozenset(chains_only)
        )
        self._ledger = Ledger()
        self._queue: list[Trial] = []
        self._fitted: tuple[int, Forecast] | None = None
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
        return self.budget - self.spent - self._price(self._queue)

    def ask(self) -> Trial | None:
        """The next trial; None when nothing more can be paid for.

        Asking again before telling gives another trial, never the same one; trials may be run in the
        order in which they were asked.
        """
        if not self._queue and self._ledger.n_used < MAX_RUNS:
            self._queue = self._next_chain()
        if not self._queue:
            return None
        trial = self._queue.pop(0)
        self._ledger.ask(trial)
        self.spent += self._price([trial])
        return trial

    def tell(self, trial: Trial, score: float) -> None:
        """Take a score, of a trial asked or of any other (a control, without charge).

        A trial told twice counts once, with its last score. A score that is not finite says that the
        training failed: it counts as worse than every score of that size so far.

        Raises:
            InputError: when the path is not one of this planner's sizes, or the score is no number.
        """
        trial = self._space.known(trial)
        try:
            value = float(score)
        except (TypeError, ValueError):
            raise InputError(f"Expected a score that is a number but got {score!r}") from None
        self._ledger.tell(trial, value)
        if trial in self._queue:
            self._queue.remove(trial)
        if not math.isfinite(value):
            self._queue = [waiting for waiting in self._queue if not waiting.grows_from(trial)]

    def choose(self, among: Callable[[Arm], bool] | None = None) -> Choice:
        """The arm with the highest expected score; among arms within noise, the cheapest.

        `among` leaves arms out, for example those with assistants when none is claimed to pay.
        """
        arms = self._screened()
        if among is not None:
            arms = [arm for arm in arms if among(arm)] or self._space.single_hops()
        told, n_runs = bool(self._ledger.told), self._ledger.n_runs
        return Decision(arms, self.forecast(), self._space.price, n_runs, told).choice()

    def forecast(self, size: Any = None) -> Forecast:
        """What the scores told so far say about paths that end at `size` (default: the student)."""
        size = self.student if size is None else size
        if size not in self.cost:
            raise unknown("size below the teacher", size, self.sizes[1:])
        if size != self.student:
            return Forecast(self.sizes, self._ledger.runs(size), self.teacher_score)
        if self._fitted is None or self._fitted[0] != self._ledger.version:
            self._fitted = (self._ledger.version, self._refitted())
        return self._fitted[1]

    def _refitted(self) -> Forecast:
        """The student's forecast; with many runs, mostly from the grid points found likely before."""
        runs = self._ledger.runs(self.student)
        grid = None
        if self._fitted is not None and FULL_FIT < len(runs) < 1.2 * self._n_full:
            grid = self._fitted[1].likely
        else:
            self._n_full = len(runs)
        return Forecast(self.sizes, runs, self.teacher_score, grid)

    def execution_cost(self, arm: Arm) -> float:
        """Student trainings that carrying out the whole path takes."""
        return self._space.price(arm)

    @property
    def _exploring(self) -> bool:
        """Whether a trial is still worth what knowing its arm would be."""
        return self.spent < EXPLORING * self.budget

    def _price(self, trials: Sequence[Trial]) -> float:
        return sum(self.cost[trial.path[-1]] * trial.fraction for trial in trials)

    def _arms(self) -> list[Arm]:
        """All arms that end at the student: single hops first, then chains, shorter first."""
        told = [
            arm
            for arm in self._ledger.told
            if arm.path[-1] == self.student
            and arm.fraction in self.fractions
            and arm.recipe in (*self.recipes, SCRATCH)
        ]
        chains = self._space.chains(self._promise)
        return list(dict.fromkeys([*self._space.single_hops(), *chains, *told]))

    def _promise(self, arms: Sequence[Arm], n_points: int = SCREEN_POINTS) -> np.ndarray:
        """Expected score and a standard deviation more (a,), at the fraction that promises most.

        A quick look is worth what it tells of the long training.
        """
        mean, sd = self.forecast().screen(arms, n_points)
        best: dict[tuple[Any, str], float] = {}
        for arm, value in zip(arms, (mean + sd).tolist()):
            way = (arm.path, arm.recipe)
            best[way] = max(value, best.get(way, value))
        return np.array([best[arm.path, arm.recipe] for arm in arms])

    def _screened(self) -> list[Arm]:
        """The arms worth weighing: all when few, else told ones, single hops and the most promising."""
        arms, singles = self._arms(), self._space.single_hops()
        if self._ledger.any_failed:
            arms = [arm for arm in arms if not self._ledger.failing(arm)] or singles
        if len(arms) <= SCREENED:
            return arms
        sure = np.array([arm in self._ledger.told for arm in arms])
        sure[: len(singles)] |= len(singles) <= SCREENED // 2
        value = np.where(sure, np.inf, self._promise(arms))
        keep = np.sort(np.argsort(-value, kind="stable")[: max(SCREENED, int(sure.sum()))])
        return [arms[index] for index in keep]

    def _next_chain(self) -> list[Trial]:
        """The trials of the arm that is worth its price most, prefix first; empty when none fits."""
        for arm in (*self._opening(), *self._first_chains()):
            if chain := self._payable(arm):
                return chain
        arms = self._screened()
        forecast = self.forecast()
        mean, _ = forecast.screen(arms)
        for index in self._unconfirmed(arms, mean):
            if chain := self._payable(arms[index]):
                return chain
        twice, price = self._to_confirm(arms, mean)
        room = self.remaining - price
        spare = [a in twice or self._price(self._payable(a)) <= room + 1e-9 for a in arms]
        return self._worthiest(arms, spare) or self._worthiest(arms, [True] * len(arms))

    def _worthiest(self, arms: list[Arm], allowed: Sequence[bool]) -> list[Trial]:
        """The trials of the allowed arm that is worth its price most; empty when none can be paid for."""
        forecast = self.forecast()
        n_seeds = max((len(seeds) for seeds in self._ledger.used.values()), default=0)
        n_seeds = 0 if self._exploring else n_seeds + max(REPLICATES)
        belief = forecast.belief(arms, range(n_seeds))
        best: list[Trial] = []
        best_value, n_weighed = -1.0, 0
        for index in np.argsort(-self._promise(arms, N_KEPT), kind="stable").tolist():
            chain = self._payable(arms[index]) if allowed[index] else []
            if not chain:
                continue
            value = self._value(arms, index, belief)
            if value > best_value:
                best, best_value = chain, value
            n_weighed += 1
            if n_weighed == CANDIDATES:
                break
        return best

    def _opening(self) -> list[Arm]:
        """Single hops never run, at the fraction that lets the budget see most of them.

        After two of them, the price of a chain is left where the budget still covers one.
        """
        singles = self._space.single_hops()
        n_names = len(singles) // len(self.fractions)
        fraction = singles[0].fraction
        if self.cost[self.student] * fraction * n_names > SINGLES_SHARE * self.budget:
            fraction = min(fraction, *self.fractions)
        first = [arm for arm in singles if arm.fraction == fraction]
        rest = [arm for arm in first if arm not in self._ledger.used]
        if rest and len(first) - len(rest) >= 2 and self._space.middle:
            looks = self._space.first_looks(rest[0].recipe, fraction)
            chain = min(self._space.price(arm) for arm in looks)
            after = self.remaining - self.cost[self.student] * fraction
            if after + 1e-9 < chain <= self.remaining + 1e-9:
                return []
        return rest

    def _first_chains(self) -> list[Arm]:
        """Chains by the recipes that lead in a single hop: one, and more while most is unspent."""
        ended = [arm for arm in self._ledger.used if arm.path[-1] == self.student]
        single = [arm for arm in ended if len(arm.path) == 2 and self._ledger.n_runs(arm)]
        n_chains = sum(arm.n_assistants > 0 for arm in ended)
        late = self.spent >= OPENING_SHARE * self.budget
        if not single or n_chains >= FIRST_CHAINS or (late and n_chains):
            return []
        mean, _ = self.forecast().screen(single)
        names = list(dict.fromkeys(single[i].recipe for i in np.argsort(-mean, kind="stable")))
        fraction = single[int(np.argmax(mean))].fraction
        looks = [
            self._space.first_looks(names[n % len(names)], fraction) for n in range(FIRST_CHAINS)
        ]
        arms = [arms[n] for n, arms in enumerate(looks) if n < len(arms)]
        return [
            arm for arm in arms if arm not in self._ledger.used and not self._ledger.failing(arm)
        ]

    def _unconfirmed(self, arms: list[Arm], mean: np.ndarray) -> list[int]:
        """Once a share of the budget is left: the leader and its single-hop rival, while runs are few.

        A claim needs runs of both, and one lucky run shall not decide.
        """
        wanted = [n for share, n in CONFIRM if self.remaining <= share * self.budget]
        pair = [int(np.argmax(mean))]
        rival = best_single(arms, mean)
        if arms[pair[0]].n_assistants and rival is not None:
            pair.append(rival)
        few = [i for i in pair if self._ledger.n_runs(arms[i]) < max(wanted, default=0)]
        return sorted(few, key=lambda i: self._ledger.n_runs(arms[i]))

    def _to_confirm(self, arms: list[Arm], mean: np.ndarray) -> tuple[set[Arm], float]:
        """The leader and chains whose first score is awaited, and what a second run of one takes at most.

        Other trials leave that much of the budget, where it is there.
        """
        waiting = [
            arm
            for arm in self._ledger.used
            if arm.n_assistants and arm.path[-1] == self.student and arm not in self._ledger.told
        ]
        leader = arms[int(np.argmax(mean))]
        once = {arm for arm in (leader, *waiting) if len(self._ledger.used.get(arm, ())) == 1}
        return once, max((self._price(self._payable(arm)) for arm in once), default=0.0)

    def _value(self, arms: list[Arm], index: int, belief: Belief) -> float:
        """What running the arm is worth by its cost: to know it at all, then by runs that can be paid for."""
        seeds = self._ledger.next_seeds(arms[index], 1 if self._exploring else max(REPLICATES))
        prices = [self._price(self._ledger.missing(arms[index], seed)) for seed in seeds]
        slack = SLACK * self.remaining
        if self._exploring:
            return value_of_knowing(belief, index) / (slack + prices[0])
        payable = np.cumsum(prices) <= self.remaining + 1e-9
        counts = [n for n in REPLICATES if payable[n - 1]]
        return best_rate(belief, index, belief.effects[index, seeds], prices, counts, slack)

    def _payable(self, arm: Arm) -> list[Trial]:
        """The trials of one more run of the arm; empty when they cannot be paid for."""
        chain = self._ledger.missing(arm, self._next_seed(arm))
        return chain if self._price(chain) <= self.remaining + 1e-9 else []

    def _next_seed(self, arm: Arm) -> int:
        """The smallest seed not used by the arm; every third single hop begins with 1."""
        if arm.n_assistants == 0 and arm not in self._ledger.used:
            beside = self._space.single_hops()
            n = sum(a in self._ledger.used for a in beside if a.fraction == arm.fraction)
            if n % OTHER_SEED == OTHER_SEED - 1:
                return 1
        return self._ledger.next_seeds(arm, 1)[0]
