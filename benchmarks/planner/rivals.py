"""Rivals of the planner: other ways to spend the same budget on trainings and name an arm (ask/tell).

All of them pay for a chain's prefix under the same recipe, seed and fraction, reuse it free of charge as
the planner does, and never begin a chain that the budget does not cover. They name the arm with the best
mean of its runs, unless their rule says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from arms import MOST_ASSISTANTS, World, arms_of, hops, price

from gapkit.forecast import SCRATCH, Arm
from gapkit.planner import Trial

N_REFUSED = 200
"""Proposals in a row that do not fit the budget before a search gives up."""


class Search:
    """Asks for the trials of one arm after another, as `arms` yields them.

    Attributes:
        spent: student trainings of the trials asked so far; never above the budget.
    """

    def __init__(self, world: World, seed: int = 0) -> None:
        self.sizes, self.cost, self.recipes = world.sizes, world.cost, world.recipes
        self.fractions, self.budget = world.fractions, world.budget
        self.teacher_score, self.seed = world.teacher_score, seed
        self.spent = 0.0
        self._asked: set[Trial] = set()
        self._scores: dict[Arm, list[float]] = {}
        self._queue: list[Trial] = []
        self._arms = self.arms()

    def arms(self) -> Iterator[Arm]:
        """Arms to run once more each, in turn; what does not fit the budget is passed over."""
        raise NotImplementedError

    def ask(self) -> Trial | None:
        """The next trial; None at the end."""
        refused = 0
        while not self._queue and refused < N_REFUSED:
            arm = next(self._arms, None)
            if arm is None:
                return None
            self._queue = self._chain(arm)
            refused = 0 if self._queue else refused + 1
        if not self._queue:
            return None
        trial = self._queue.pop(0)
        self._asked.add(trial)
        self.spent += self._price(trial)
        return trial

    def tell(self, trial: Trial, score: float) -> None:
        """Take the score of a trial asked."""
        self._scores.setdefault(Arm(trial.path, trial.recipe, trial.fraction), []).append(score)

    def choose(self) -> Arm:
        """The arm that ends at the student with the best mean; the first recipe when there is none."""
        ended = {arm: runs for arm, runs in self._scores.items() if arm.path[-1] == self.sizes[-1]}
        if not ended:
            return self.direct(self.recipes[0])
        return max(ended, key=lambda arm: float(np.mean(ended[arm])))

    def direct(self, recipe: str, fraction: float | None = None) -> Arm:
        """Scratch, or the single hop by a recipe."""
        path = self.sizes[-1:] if recipe == SCRATCH else (self.sizes[0], self.sizes[-1])
        return Arm(path, recipe, self.full if fraction is None else fraction)

    @property
    def full(self) -> float:
        """The fraction nearest a full training."""
        return min(self.fractions, key=lambda fraction: abs(np.log(fraction)))

    def _price(self, trial: Trial) -> float:
        return self.cost[trial.path[-1]] * trial.fraction

    def _chain(self, arm: Arm) -> list[Trial]:
        """The trials that one more run of the arm takes; empty when they do not fit."""
        seed = 0
        while Trial(arm.path, arm.recipe, seed, arm.fraction) in self._asked:
            seed += 1
        chain = [Trial(hop.path, hop.recipe, seed, hop.fraction) for hop in hops(arm)]
        chain = [trial for trial in chain if trial not in self._asked]
        fits = sum(map(self._price, chain)) <= self.budget - self.spent + 1e-9
        return chain if fits else []


class RandomSearch(Search):
    """Arms drawn evenly from all that fit: every path, recipe and fraction, and scratch."""

    def arms(self) -> Iterator[Arm]:
        rng = np.random.default_rng([self.seed, 1])
        every = arms_of(self.sizes, self.recipes, self.fractions)
        while True:
            yield every[rng.integers(len(every))]


class SinglesOnce(Search):
    """Scratch and every single hop once, full trainings first, while the budget lasts: no assistants."""

    n_turns = 1

    def arms(self) -> Iterator[Arm]:
        order = sorted(self.fractions, key=lambda fraction: (fraction != self.full, -fraction))
        for _ in range(self.n_turns):
            for fraction in order:
                yield from (self.direct(name, fraction) for name in (*self.recipes, SCRATCH))


class SinglesRepeated(SinglesOnce):
    """The same, seed after seed until the budget is gone."""

    n_turns = 300


class MeanPerformance(Search):
    """Mirzadeh et al. 2020 (arXiv 1902.03393): the assistant whose score is nearest the mean.

    The student and the assistants are trained on labels alone, from the middle of the family outwards
    while a chain by the dearest can still be paid; the one nearest the mean of the teacher's and the
    student's scores makes the chain, by a recipe whose name holds "dist", else the first. That chain is
    the choice: the rule does not compare it with anything.
    """

    def arms(self) -> Iterator[Arm]:
        middle = self.sizes[1:-1]
        recipe = next((name for name in self.recipes if "dist" in name.lower()), self.recipes[0])
        chains = {
            size: Arm((self.sizes[0], size, self.sizes[-1]), recipe, self.full) for size in middle
        }
        reserve = max(price(arm, self.cost) for arm in chains.values())
        outward = sorted(middle, key=lambda size: abs(middle.index(size) - (len(middle) - 1) / 2))
        for size in (self.sizes[-1], *outward):
            alone = Arm((size,), SCRATCH, self.full)
            if price(alone, self.cost) + reserve <= self.budget - self.spent + 1e-9:
                yield alone
        self._chosen = chains[self._nearest(outward)]
        yield self._chosen

    def _nearest(self, outward: list[Any]) -> Any:
        """The assistant by the rule; the middle one when the budget allows no look."""
        found = {arm.path[0]: runs[0] for arm, runs in self._scores.items() if len(arm.path) == 1}
        student = found.pop(self.sizes[-1], None)
        if student is None or not found:
            return outward[0]
        goal = 0.5 * (self.teacher_score + student)
        return min(found, key=lambda size: abs(found[size] - goal))

    def choose(self) -> Arm:
        payable = price(self._chosen, self.cost) <= self.budget + 1e-9
        return self._chosen if payable else self.direct(self.recipes[0])


class Tpe(Search):
    """Optuna's TPE: recipe, fraction, how many assistants (up to 3) and which; maximise the score.

    Assistants are whole numbers along the ordered sizes, so that TPE can tell near from far. A quarter
    of the budget, 3 to 10 trials, goes to its random start. What does not fit is told as failed.
    """

    def arms(self) -> Iterator[Arm]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        n_random = int(min(max(0.25 * self.budget, 3), 10))
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=n_random)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        while True:
            proposed = study.ask()
            arm = self._arm(proposed)
            n_before = len(self._scores.get(arm, ()))
            yield arm
            runs = self._scores.get(arm, ())
            if len(runs) > n_before:
                study.tell(proposed, runs[-1])
            else:
                study.tell(proposed, state=optuna.trial.TrialState.FAIL)

    def _arm(self, proposed: Any) -> Arm:
        recipe = proposed.suggest_categorical("recipe", [*self.recipes, SCRATCH])
        fraction = proposed.suggest_categorical("fraction", list(self.fractions))
        if recipe == SCRATCH:
            return self.direct(SCRATCH, fraction)
        n_middle = len(self.sizes) - 2
        n = proposed.suggest_int("assistants", 0, min(MOST_ASSISTANTS, n_middle))
        ranks = {proposed.suggest_int(f"assistant {i}", 1, n_middle) for i in range(n)}
        used = [self.sizes[rank] for rank in sorted(ranks)]
        return Arm((self.sizes[0], *used, self.sizes[-1]), recipe, fraction)


RIVALS: dict[str, type[Search]] = {
    "random": RandomSearch,
    "singles once": SinglesOnce,
    "singles": SinglesRepeated,
    "mean performance": MeanPerformance,
    "tpe": Tpe,
}

YARDSTICKS = {"every arm once": 1, "every arm under four seeds": 4}
"""Seeds of searches that have no budget: how well anyone could do who ran everything."""


def exhaustive(world: World, stream: int = 0, n_seeds: int = 1) -> Arm:
    """The best of all affordable arms, each run under n_seeds seeds: a yardstick that has no budget."""

    def mean(arm: Arm) -> float:
        trials = [Trial(arm.path, arm.recipe, seed, arm.fraction) for seed in range(n_seeds)]
        return float(np.mean([world.draw(trial, stream) for trial in trials]))

    return max(world.affordable, key=mean)
