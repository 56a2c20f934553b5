"""Controls: short trainings that tell causes apart, cheapest first, until they do or the budget ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from gapkit.family import Family, Size
from gapkit.gap import ControlRun
from gapkit.outcome import Training
from gapkit.probes.resample import bonferroni_level, paired

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
    """

    arms: list[Control]
    train: Callable[[tuple[Size, ...], str, int, float], Training]
    price: Callable[[tuple[Size, ...], str, int, float], float]
    budget: float
    first_seed: int = 0
    heard: Callable[[float, float, str], None] | None = None
    spent: float = 0.0
    notes: list[str] = field(default_factory=list)
    _found: dict[str, list[Training]] = field(default_factory=dict)
    _costs: dict[str, float] = field(default_factory=dict)
    _contending: list[str] = field(default_factory=list)

    def run(self) -> tuple[ControlRun, ...]:
        """Two seeds of all that the student may learn from; then the contenders, length and size."""
        size = [arm.name for arm in self.arms if arm.name in ("longer", "next size up")]
        dear = [arm.name for arm in self.arms if arm.name in ("smaller teacher", "teacher-sized")]
        self._extend([arm.name for arm in self.arms if self._is_knowledge(arm)], OPENING_SEEDS)
        contenders = self._contending = self._contenders()
        for names, n_seeds in (
            (contenders, 4),
            (size, 1),
            (dear, 1),
            (contenders, 6),
            (size, 3),
            (contenders, MAX_SEEDS),
            (size, 4),
            (dear, 2),
        ):
            self._extend(names, n_seeds)
        left_out = [arm.name for arm in self.arms if arm.name not in self._found]
        if left_out:
            self.notes.append(
                f"Not run within {self.budget:g} student trainings: {', '.join(left_out)}."
            )
        return tuple(self._record(arm) for arm in self.arms if arm.name in self._found)

    def _contenders(self) -> list[str]:
        """The student's own recipe and the two best others so far: further seeds go to them."""
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
        for number in range(n_seeds):
            for name in names:
                if len(self._found.get(name, [])) == number and not self._settled(name):
                    self._train(name)

    def _train(self, name: str) -> None:
        """One more seed of an arm, when the budget covers it."""
        if name == "longer":
            self._aim_longer()
        arm = next(arm for arm in self.arms if arm.name == name)
        seed = self.first_seed + len(self._found.get(name, []))
        cost = self.price(arm.path, arm.recipe, seed, arm.fraction)
        if self.spent + cost > self.budget + 1e-9:
            return
        if self.heard:
            self.heard(self.spent, self.budget, f"{name}, seed {seed}")
        training = self.train(arm.path, arm.recipe, seed, arm.fraction)
        self._found.setdefault(name, []).append(training)
        self._costs[name] = self._costs.get(name, 0.0) + cost
        self.spent += cost

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
        at its usual length); the recipe itself is settled when all that have as many seeds are.
        """
        n_seeds = len(self._found.get(name, []))
        if n_seeds < SETTLED_SEEDS:
            return False
        if name == "same recipe":
            rivals = [
                arm.name
                for arm in self.arms
                if self._is_knowledge(arm)
                and arm.name != name
                and len(self._found.get(arm.name, [])) >= SETTLED_SEEDS
            ]
            return bool(rivals) and all(self._clear(rival, name) for rival in rivals)
        reference = "same recipe"
        if name == "longer":
            recipe = next(arm.recipe for arm in self.arms if arm.name == name)
            reference = next(
                arm.name for arm in self.arms if self._is_knowledge(arm) and arm.recipe == recipe
            )
        return self._clear(name, reference)

    def _clear(self, first: str, second: str) -> bool:
        """Whether the paired difference of two arms excludes zero."""
        pairs = list(zip(self._found.get(first, []), self._found.get(second, []), strict=False))
        if len(pairs) < SETTLED_SEEDS:
            return False
        level = bonferroni_level(LEVEL, sum(map(self._is_knowledge, self.arms)) - 1)
        interval = paired([a.contributions - b.contributions for a, b in pairs], level)
        return interval.low > 0 or interval.high < 0

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
