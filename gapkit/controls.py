"""Controls: short trainings that tell causes apart, cheapest first, until they do or the budget ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gapkit.distiller import TrainingFailed
from gapkit.family import Family, Size
from gapkit.gap import ControlRun
from gapkit.outcome import Training
from gapkit.probes.interval import bonferroni_level, paired

OPENING_SEEDS = 2
SETTLED_SEEDS = 3
MAX_SEEDS = 8
LONGER = 2.0
LEVEL = 0.95


@dataclass(frozen=True)
class Control:
    """One arm of the controls.

    Attributes:
        name: "same recipe", "scratch", "knowledge: dist1", "longer", "next size up",
            "smaller teacher", "teacher-sized".
        question: what it tells.
        path, recipe, fraction: the arm, as the planner names it.
    """

    name: str
    question: str
    path: tuple[Size, ...]
    recipe: str
    fraction: float = 1.0


def standard_controls(
    family: Family, recipe: str, knowledge: Mapping[str, object]
) -> list[Control]:
    """The controls of a family whose student learned by `recipe`: the student's own arms first."""
    teacher = family.teacher if family.teacher is not None else "teacher"
    direct = (teacher, family.student)

    def path(name: str) -> tuple[Size, ...]:
        return (family.student,) if name == "scratch" else direct

    others = [name for name in knowledge if name not in (recipe, "scratch")]
    controls = [Control("same recipe", "does gapkit's training do better?", path(recipe), recipe)]
    if recipe != "scratch":
        controls.append(
            Control("scratch", "is it better off without a teacher?", (family.student,), "scratch")
        )
    controls += [
        Control(f"knowledge: {name}", "is it the knowledge?", direct, name) for name in others
    ]
    controls.append(Control("longer", "is it still rising?", path(recipe), recipe, LONGER))
    above = family.next_size_up
    if above is not None:
        taught = (above,) if recipe == "scratch" else (teacher, above)
        controls.append(Control("next size up", "is it the size?", taught, recipe))
    if family.assistants and recipe != "scratch":
        middle = family.assistants[len(family.assistants) // 2]
        smaller = (teacher, middle, family.student)
        controls.append(Control("smaller teacher", "is it the teacher's size?", smaller, recipe))
    if family.teacher is not None and recipe != "scratch":
        controls.append(
            Control("teacher-sized", "is it the training?", (teacher, family.teacher), recipe)
        )
    return controls


@dataclass
class Controls:
    """Runs controls seed by seed under a budget.

    Args:
        arms: what may be run, the one named "same recipe" first.
        train: (path, recipe, seed, fraction) -> Training.
        price: the same -> student trainings it would cost now; 0 for what is there already.
        budget: in student trainings.
        first_seed: seeds count up from it.
        heard: called with (spent, budget, what is trained next).
        groups: (N,) names of validation samples that depend on each other; None for independent ones.

    Afterwards `spent` says what was spent, `left_out` names the arms that the budget did not reach, and
    `notes` tells both that and what failed.
    """

    arms: list[Control]
    train: Callable[[tuple[Size, ...], str, int, float], Training]
    price: Callable[[tuple[Size, ...], str, int, float], float]
    budget: float
    first_seed: int = 0
    heard: Callable[[float, float, str], None] | None = None
    groups: Any = None
    spent: float = 0.0
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _found: dict[str, list[Training]] = field(default_factory=dict)
    _tried: dict[str, int] = field(default_factory=dict)
    _costs: dict[str, float] = field(default_factory=dict)
    _contending: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arms = list(self.arms)  # the longer arm is aimed anew; the caller's list stays

    def run(self) -> tuple[ControlRun, ...]:
        """Two seeds of all that the student may learn from; then the contenders, length and size.

        Nothing is claimed from a single seed, so arms are brought to two seeds one after the other. When
        the budget does not cover the opening, the arms that tell most apart are run for two seeds.
        """
        self._extend(self._opening(), OPENING_SEEDS)
        contenders = self._contending = self._contenders()
        for names, n_seeds in (
            (contenders, 4),
            (["next size up"], 2),
            (contenders, 6),
            (["longer"], 2),
            (["smaller teacher"], 2),
            (["longer", "next size up"], 3),
            (["teacher-sized"], 1),
            (contenders, MAX_SEEDS),
            (["longer", "next size up"], 4),
            (["teacher-sized"], 2),
        ):
            self._extend(names, n_seeds)
        self.left_out = [arm.name for arm in self.arms if arm.name not in self._tried]
        if self.left_out:
            self.notes.append(
                f"Not run within {self.budget:g} student trainings: {', '.join(self.left_out)}."
            )
        return tuple(self._record(arm) for arm in self.arms if arm.name in self._found)

    def _opening(self) -> list[str]:
        """All knowledge; under a budget too small for two seeds of it, the first of the arms that fit."""
        knowledge = [arm for arm in self.arms if self._is_knowledge(arm)]
        if sum(map(self._opening_price, knowledge)) <= self.budget:
            return [arm.name for arm in knowledge]
        own = [arm for arm in knowledge if not arm.name.startswith("knowledge: ")]
        up = [arm for arm in self.arms if arm.name == "next size up"]
        chosen: list[str] = []
        left = self.budget + 1e-9
        for arm in [*own, *up, *(arm for arm in knowledge if arm not in own)]:
            cost = self._opening_price(arm)
            if cost <= left or not chosen:
                chosen.append(arm.name)
                left -= cost
        return chosen

    def _opening_price(self, arm: Control) -> float:
        seeds = range(self.first_seed, self.first_seed + OPENING_SEEDS)
        return sum(self.price(arm.path, arm.recipe, seed, arm.fraction) for seed in seeds)

    def _contenders(self) -> list[str]:
        """The student's own recipe and the two best others so far: further seeds go to them.

        With one alone the best of several near arms would be passed over too often.
        """
        others = [
            arm.name
            for arm in self.arms
            if self._is_knowledge(arm) and arm.name in self._found and arm.name != "same recipe"
        ]
        found = ["same recipe"] if "same recipe" in self._found else []
        return [*found, *sorted(others, key=self._mean, reverse=True)[:2]]

    @staticmethod
    def _is_knowledge(arm: Control) -> bool:
        return arm.name in ("same recipe", "scratch") or arm.name.startswith("knowledge: ")

    def _extend(self, names: list[str], n_seeds: int) -> None:
        """Give arms up to n seeds each, seed by seed, leaving out what is settled or too dear."""
        arms = {arm.name for arm in self.arms}
        for number in range(n_seeds):
            for name in (name for name in names if name in arms):
                if self._tried.get(name, 0) == number and not self._settled(name):
                    self._train(name)

    def _train(self, name: str) -> None:
        """One more seed of an arm, when the budget covers it."""
        if name == "longer":
            self._aim_longer()
        arm = next(arm for arm in self.arms if arm.name == name)
        seed = self.first_seed + self._tried.get(name, 0)
        cost = self.price(arm.path, arm.recipe, seed, arm.fraction)
        if self.spent + cost > self.budget + 1e-9:
            return
        if self.heard:
            self.heard(self.spent, self.budget, f"{name}, seed {seed}")
        self._tried[name] = self._tried.get(name, 0) + 1
        self._costs[name] = self._costs.get(name, 0.0) + cost
        self.spent += cost
        try:
            training = self.train(arm.path, arm.recipe, seed, arm.fraction)
        except TrainingFailed as error:
            self.notes.append(f"{name}, seed {seed}, failed: {error}.")
            return
        self._found.setdefault(name, []).append(training)

    def _aim_longer(self) -> None:
        """Longer training is asked of the best contender, whose seeds it shares, before its first run."""
        if "longer" in self._found or not self._contending:
            return
        name = max(self._contending, key=self._mean)
        best = next(arm for arm in self.arms if arm.name == name)
        position = next(i for i, arm in enumerate(self.arms) if arm.name == "longer")
        arm = self.arms[position]
        self.arms[position] = Control(arm.name, arm.question, best.path, best.recipe, arm.fraction)

    def _mean(self, name: str) -> float:
        return float(np.mean([training.score for training in self._found[name]]))

    def _settled(self, name: str) -> bool:
        """Whether more seeds of this arm would change no verdict: its difference is clear already.

        Everything is held against the student's own recipe (longer training against the same knowledge
        at its usual length). That recipe goes on until all that it is held against are clear, and
        whatever beats it goes on with it: the best arm shall not be the one with the fewest seeds.
        """
        if len(self._found.get(name, [])) < SETTLED_SEEDS:
            return False
        knowledge = [arm.name for arm in self.arms if self._is_knowledge(arm)]
        if name == "longer":
            recipe = next(arm.recipe for arm in self.arms if arm.name == name)
            alike = (
                arm.name for arm in self.arms if self._is_knowledge(arm) and arm.recipe == recipe
            )
            return self._clear(name, next(alike, "")) != 0
        if name not in knowledge:
            return self._clear(name, "same recipe") != 0
        if name != "same recipe" and self._clear(name, "same recipe") < 0:
            return True
        rivals = [
            other
            for other in knowledge
            if other != "same recipe" and len(self._found.get(other, [])) >= SETTLED_SEEDS
        ]
        return bool(rivals) and all(self._clear(rival, "same recipe") for rival in rivals)

    def _clear(self, first: str, second: str) -> int:
        """1 or -1 when the paired difference of two arms lies above or below zero, 0 while it includes it."""
        sides = [{run.seed: run for run in self._found.get(name, [])} for name in (first, second)]
        pairs = [(run, sides[1][seed]) for seed, run in sides[0].items() if seed in sides[1]]
        if len(pairs) < SETTLED_SEEDS:
            return 0
        level = bonferroni_level(LEVEL, sum(map(self._is_knowledge, self.arms)) - 1)
        interval = paired([a.contributions - b.contributions for a, b in pairs], level, self.groups)
        return int(interval.low > 0) - int(interval.high < 0)

    def _record(self, arm: Control) -> ControlRun:
        trainings = self._found[arm.name]
        return ControlRun(
            name=arm.name,
            question=arm.question,
            path=arm.path,
            recipe=arm.recipe,
            fraction=arm.fraction,
            seeds=tuple(training.seed for training in trainings),
            scores=np.array([training.score for training in trainings]),
            contributions=np.stack([training.contributions for training in trainings]),
            agreement=np.array([training.agreement for training in trainings]),
            train_agreement=np.array([training.train_agreement for training in trainings]),
            cost=self._costs[arm.name],
        )
