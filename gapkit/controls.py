"""Controls: short trainings that tell causes apart; which there are, and a race for the budget among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gapkit.causes.case import Case
from gapkit.causes.catalog import explains_most
from gapkit.causes.confidence import LEAST_SEEDS, SURE_SEEDS
from gapkit.causes.controls import PREDICTION_SEEDS
from gapkit.causes.questions import LOSES, SAME, asked, gain, is_knowledge, matters, worth_longer
from gapkit.causes.teacher import memorized_labels
from gapkit.distiller import TrainingFailed
from gapkit.family import Family, Size
from gapkit.gap import ALIKE, EARLIER, HALF, LIKE_TEACHER, RATE, VIEW, ControlRun
from gapkit.measurement import Measurement
from gapkit.outcome import Training

MAX_SEEDS = 8
LONGER, SHORTER = 2.0, 0.5
RISING = 0.5  # of the gap, lost with half the length: see Controls._suspects
PROMISES = (
    0.25  # of the gap: an arm whose first seeds gain as much is followed up before others are begun
)
OF_SIZE, SMALLER = ("next size up", "teacher-sized"), "smaller teacher"
DEARER = 2.0
"""How many times the next size up the teacher's may cost and still be tried first: it recovers whatever
size can, the next one perhaps two thirds, and the seeds that a difference takes go with its square."""
SOFTER = ("knowledge: std2", "knowledge: kl4")
GENTLE = ("dist1", "kl1", "cosine", "mse")  # tried before other knowledge

_VARIANTS = {
    HALF: "would more samples help?",
    RATE: "is it the learning rate?",
    VIEW: "is it what the student sees?",
    EARLIER: "did an earlier teacher teach better?",
    LIKE_TEACHER: "can another architecture learn this?",
}


@dataclass(frozen=True)
class Control:
    """One arm of the controls.

    Attributes:
        name: "same recipe", "scratch", "knowledge: dist1", "shorter", "longer", "next size up",
            "smaller teacher", "teacher-sized", or that of a variant.
        question: what it tells.
        path, recipe, fraction: the arm, as the planner names it.
        altered: the variant of the study's training it is (gapkit.causes.variants); "" for none.
    """

    name: str
    question: str
    path: tuple[Size, ...]
    recipe: str
    fraction: float = 1.0
    altered: str = ""


def standard_controls(
    family: Family,
    recipe: str,
    knowledge: Mapping[str, object],
    variants: Sequence[str] = (),
) -> list[Control]:
    """The controls of a family whose student learned by `recipe`: the student's own arms first."""
    teacher = family.teacher if family.teacher is not None else "teacher"
    direct, taught = (teacher, family.student), recipe != "scratch"
    own = direct if taught else (family.student,)
    controls = [Control(SAME, "does gapkit's training do better?", own, recipe)]
    if taught:
        controls.append(
            Control("scratch", "is it better off without a teacher?", (family.student,), "scratch")
        )
    controls += [
        Control(f"knowledge: {name}", "is it the knowledge?", direct, name)
        for name in sorted(knowledge, key=lambda name: name not in GENTLE)
        if name not in (recipe, "scratch")
    ]
    controls.append(Control("shorter", "was it still rising?", own, recipe, SHORTER))
    controls.append(Control("longer", "is it still rising?", own, recipe, LONGER))
    above = family.next_size_up
    if above is not None:
        larger = (teacher, above) if taught else (above,)
        controls.append(Control("next size up", "is it the size?", larger, recipe))
    if family.assistants and taught:
        middle = family.assistants[len(family.assistants) // 2]
        smaller = (teacher, middle, family.student)
        controls.append(Control(SMALLER, "is it the teacher's size?", smaller, recipe))
    if family.teacher is not None and taught:
        sized = (teacher, family.teacher)
        controls.append(Control("teacher-sized", "is it the training?", sized, recipe))
    return controls + [
        _variant(name, own, recipe) for name in variants if name != EARLIER or taught
    ]


def _variant(name: str, own: tuple[Size, ...], recipe: str) -> Control:
    path, fraction = own, 1.0
    if name == LIKE_TEACHER:  # dearer: half as long, and what it reaches all the same counts
        path, fraction = (ALIKE,) * len(own), SHORTER
    return Control(name, _VARIANTS[name], path, recipe, fraction, name)


@dataclass
class Controls:
    """Runs controls seed by seed under a budget: a race, in which what promises most goes on.

    The student's own recipe comes first, with two seeds. What would explain most of the gap is followed
    up at once; else every control that can still name a cause is run once, the cheapest first, and the
    promising ones again until their difference is clear or does not matter. A cause that is clear and
    explains most of the gap ends it: shares add up, so that none can overtake it.

    Args:
        arms: what may be run, the one named "same recipe" first.
        train: (control, seed) -> Training.
        price: the same -> student trainings it would cost now; 0 for what is there already.
        budget: in student trainings.
        evidence: what is known without controls.
        first_seed: seeds count up from it.
        heard: called with (spent, budget, what is trained next, what that costs).

    Afterwards `spent` says what was spent, `left_out` names the arms that the budget did not reach, and
    `notes` tells both that and what failed.
    """

    arms: list[Control]
    train: Callable[[Control, int], Training]
    price: Callable[[Control, int], float]
    budget: float
    evidence: Case
    first_seed: int = 0
    heard: Callable[[float, float, str, float], None] | None = None
    spent: float = 0.0
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _found: dict[str, list[Training]] = field(default_factory=dict)
    _tried: dict[str, int] = field(default_factory=dict)
    _costs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arms = list(self.arms)  # the longer arm is aimed anew; the caller's list stays

    def run(self) -> tuple[ControlRun, ...]:
        """All runs, in the order of the arms."""
        while (name := self._next()) is not None:
            self._train(name)
        case = self._case()
        names = () if explains_most(case) else asked(case, [arm.name for arm in self.arms])
        self.left_out = [name for name in names if name not in self._tried]
        if self.left_out:
            self.notes.append(
                f"Not run within {self.budget:g} student trainings: {', '.join(self.left_out)}."
            )
        return self._runs()

    def _next(self) -> str | None:
        """The control to run next; None when all is clear or too dear."""
        case = self._case()
        names = asked(case, [arm.name for arm in self.arms])
        if explains_most(case) and not self._pending(case, names):
            return None
        bases = self._bases(names)
        if SAME in bases:  # all else is held against it
            return self._affordable(SAME, case)
        for wishes in (
            bases,
            self._first(case, names),
            self._suspects(case, names),
            self._untried(names),
            self._unclear(case, names),
        ):
            for name in wishes:
                found = self._affordable(name, case)
                if found is not None:
                    return found
        return None

    def _pending(self, case: Case, names: Sequence[str]) -> bool:
        """Whether another view or an earlier teacher was not looked into: what they lose looks like other causes."""
        return any(
            name in names
            and self._tried.get(name, 0) == len(self._found.get(name, []))  # none failed
            and not self._settled(case, name)
            for name in (VIEW, EARLIER)
        )

    def _bases(self, names: Sequence[str]) -> list[str]:
        """The student's own recipe, to two seeds; where it is not asked for, what is, as long as it is."""
        if SAME in names:
            return [SAME] if self._tried.get(SAME, 0) < LEAST_SEEDS else []
        return [name for name in names if self._tried.get(name, 0) < MAX_SEEDS]

    def _suspects(self, case: Case, names: Sequence[str]) -> list[str]:
        """What would explain a good part of the gap if its first seeds tell the truth.

        A larger size only once nothing at the student's own is left to try: it leads where nothing else
        does. Longer training where half the length loses half of the gap: returns diminish, so that where
        it loses less, twice the length cannot explain most.
        """
        found = [(points.value, name) for name, points in self._open(case, names)]
        if any(name not in (*OF_SIZE, SMALLER) for name in self._fresh(names)):
            found = [(value, name) for value, name in found if name not in OF_SIZE]
        part = PROMISES * case.gap.value
        wishes = [
            name
            for value, name in sorted(found, reverse=True)
            if value >= part and self._tried[name] <= LEAST_SEEDS and name not in LOSES
        ]
        if self._tried.get("longer", 0) < LEAST_SEEDS and worth_longer(case, RISING):
            wishes.insert(0, "longer")
        return [name for name in wishes if name in names and not self._settled(case, name)]

    def _first(self, case: Case, names: Sequence[str]) -> list[str]:
        """What the study itself raises, to two seeds: another view, earlier teachers, layers that were taught,
        answers that are no more than labels."""
        raised = {VIEW, EARLIER}
        if any(part.kind == "feature" for part in case.knowledge):
            kinds = [name for name in names if name.startswith("knowledge: ")]
            raised |= {"scratch", *kinds[:1]}
        if memorized_labels(case):
            raised |= {"scratch", *self._softer(names)}
        few = (name for name in names if name in raised and self._tried.get(name, 0) < LEAST_SEEDS)
        return [name for name in self._cheapest(few) if not self._settled(case, name)]

    def _softer(self, names: Sequence[str]) -> list[str]:
        """Of knowledge that softens a sure teacher's answers one kind: standardized logits know no sharpness."""
        return [name for name in SOFTER if name in names][:1]

    def _untried(self, names: Sequence[str]) -> list[str]:
        """What was never run, the cheapest first; then larger sizes, and a smaller teacher, which takes a training
        of its own.

        The learning rate comes first, for all else is trained with it; then half the length, which says
        what longer training can bring.
        """
        fresh = self._cheapest(self._fresh(names))
        return sorted(
            fresh,
            key=lambda name: (name == SMALLER, name in OF_SIZE, name != RATE, name != "shorter"),
        )

    def _fresh(self, names: Sequence[str]) -> list[str]:
        """What was never run and is not to wait."""
        waiting = self._waiting()
        return [name for name in names if name not in self._tried and name not in waiting]

    def _cheapest(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: self.price(self._arm(name), self.first_seed))

    def _waiting(self) -> list[str]:
        """Knowledge beyond the first other kind, and one of the two larger sizes."""
        kinds = [arm.name for arm in self.arms if arm.name.startswith("knowledge: ")]
        sizes = [name for name in OF_SIZE if any(arm.name == name for arm in self.arms)]
        prices = [self.price(self._arm(name), self.first_seed) for name in sizes]
        dear = len(sizes) == len(OF_SIZE) and prices[1] > DEARER * prices[0]
        return [*kinds[1:], *(sizes[1:] if dear else sizes[:-1])]

    def _unclear(self, case: Case, names: Sequence[str]) -> list[str]:
        """What may still matter, the most promising first; then the knowledge that was left for later."""
        found = sorted(self._open(case, names), key=lambda item: -item[1].value)
        return [name for name, _ in found] + [name for name in names if name not in self._tried]

    def _open(self, case: Case, names: Sequence[str]) -> list[tuple[str, Measurement]]:
        """Controls that were run and are not clear, with what they would explain."""
        return [
            (name, points)
            for name in names
            if name in self._found and not self._settled(case, name)
            for points in [gain(case, name)]
            if points is not None
        ]

    def _settled(self, case: Case, name: str) -> bool:
        """Whether more seeds change no verdict: clear, or too little to matter."""
        points, n_seeds = gain(case, name), self._tried.get(name, 0)
        if n_seeds >= (LEAST_SEEDS if name == "shorter" else MAX_SEEDS):
            return True
        if points is None or n_seeds == 0:
            return False
        if points.high < matters(case):
            return True
        return n_seeds >= (PREDICTION_SEEDS if name == SAME else LEAST_SEEDS) and points.low > 0

    def _affordable(self, name: str, case: Case) -> str | None:
        """The arm, or the student's own recipe where one more of its seeds tells more; None when too dear."""
        own = self._tried.get(SAME, 0)
        if name != SAME and 0 < own < MAX_SEEDS and self._own_lags(name, case):
            name = SAME
        cost = self.price(self._arm(name), self.first_seed + self._tried.get(name, 0))
        return name if self.spent + cost <= self.budget + 1e-9 else None

    def _own_lags(self, name: str, case: Case) -> bool:
        """Whether the own recipe has too few seeds beside an arm's, for it is what all are held against.

        √k times as many are best for k arms that vary alike (Dunnett 1955): k are those still open with as
        many seeds. Beside one arm n₁/n₂ = s₁/s₂ is; what few seeds spread by says nothing, so that below
        `SURE_SEEDS` of either s₁ = s₂.
        """
        own, other = ([training.score for training in self._found.get(n, [])] for n in (SAME, name))
        alike = [
            arm
            for arm, found in self._found.items()
            if arm not in (SAME, name) and len(found) >= len(other) and not self._settled(case, arm)
        ]
        ratio = math.sqrt(1 + len(alike))
        if min(len(own), len(other)) >= SURE_SEEDS:
            spreads = [float(np.std(scores, ddof=1)) for scores in (own, other)]
            ratio *= spreads[0] / spreads[1] if spreads[1] > 0 else math.inf
        return len(own) < ratio * len(other)

    def _arm(self, name: str) -> Control:
        if name == "longer":
            return self._longer()
        return next(arm for arm in self.arms if arm.name == name)

    def _train(self, name: str) -> None:
        """One more seed of an arm."""
        arm = self._arm(name)
        self.arms = [arm if other.name == name else other for other in self.arms]
        seed = self.first_seed + self._tried.get(name, 0)
        cost = self.price(arm, seed)
        if self.heard:
            self.heard(self.spent, self.budget, f"{name}, seed {seed}", cost)
        self._tried[name] = self._tried.get(name, 0) + 1
        self._costs[name] = self._costs.get(name, 0.0) + cost
        self.spent += cost
        try:
            training = self.train(arm, seed)
        except TrainingFailed as error:
            self.notes.append(f"{name}, seed {seed}, failed: {error}.")
            return
        if name == RATE and training.key in [own.key for own in self._found.get(SAME, [])]:
            self._keep_rate(cost)
            return
        self._found.setdefault(name, []).append(training)

    def _keep_rate(self, cost: float) -> None:
        """No other rate did better in short trainings: these alone were paid for, and the arm is over."""
        unseen = self.first_seed + self._tried[SAME]
        self.spent -= min(cost, self.price(self._arm(SAME), unseen))
        self._tried[RATE] = MAX_SEEDS
        self.notes.append(
            "In short trainings no lower learning rate did better than the recipe's own."
        )

    def _longer(self) -> Control:
        """Longer training, of the knowledge that clearly beats the student's own when there is one.

        Once run, it stays what it was.
        """
        arm = next(arm for arm in self.arms if arm.name == "longer")
        if "longer" in self._tried:
            return arm
        case = self._case()
        better = [
            (points.value, run)
            for name, run in case.controls.items()
            if is_knowledge(name) and name != SAME and len(run.seeds) >= LEAST_SEEDS
            for points in [gain(case, name)]
            if points is not None and points.low > 0
        ]
        if not better:
            return arm
        best = max(better, key=lambda item: item[0])[1]
        return replace(arm, path=best.path, recipe=best.recipe)

    def _case(self) -> Case:
        """The evidence with all that was run so far."""
        return replace(self.evidence, controls={run.name: run for run in self._runs()})

    def _runs(self) -> tuple[ControlRun, ...]:
        return tuple(self._record(arm) for arm in self.arms if arm.name in self._found)

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
            train_scores=np.array([training.train_score for training in trainings]),
            cost=self._costs[arm.name],
            altered=arm.altered,
        )
