"""Case: the evidence of one diagnosis, and the paired differences that causes are judged by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gapkit.causes.confidence import LEAST_SEEDS, SURE_SEEDS
from gapkit.gap import HALF, RATE, ControlRun
from gapkit.knowledge import Knowledge
from gapkit.measurement import Measurement, Measurements
from gapkit.probes.interval import (
    Interval,
    bonferroni_level,
    difference_interval,
    measured,
    paired,
    undefined,
)
from gapkit.wording import Wording

SPLIT = "validation"  # validation decides
LEVEL = 0.95
Z = 1.96
EXCESS = "excess loss off the training set"
MANY = 1_000  # seeds: more than controls have
FEW = 3  # degrees of freedom: below, Student's factor for 95 % exceeds 3.2 and rises steeply

Scores = ControlRun | np.ndarray


@dataclass(frozen=True)
class Case:
    """Measurements and controls of one study; everything is read on validation.

    Attributes:
        measurements: of the teacher and the user's student.
        controls: by name; empty when none were run.
        score_name: the task's score; unit: "share" or "".
        teacher_score: what the user believes the teacher scores; None when not said.
        left_out: names of controls that were wanted but not run.
        groups: (N,) names of validation samples that depend on each other; None for independent ones.
        student_history: scores by epoch of the user's own training; empty when not said.
        knowledge: what the user's student learned from; empty when not said.
        same_view: whether teacher and student see the same of a sample.
        slices: name -> (N,) declared value of each validation sample.
    """

    measurements: Measurements
    controls: dict[str, ControlRun] = field(default_factory=dict)
    score_name: str = "accuracy"
    unit: str = "share"
    teacher_score: float | None = None
    left_out: tuple[str, ...] = ()
    groups: Any = None
    student_history: tuple[float, ...] = ()
    knowledge: tuple[Knowledge, ...] = ()
    same_view: bool = True
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def say(self) -> Wording:
        """How this task's scores are put into words."""
        return Wording(unit=self.unit, score_name=self.score_name)

    @property
    def teacher(self) -> np.ndarray:
        """(N,) the teacher's contributions."""
        return self.measurements.scores("teacher", SPLIT)

    @property
    def student(self) -> np.ndarray:
        """(N,) the user's student's contributions."""
        return self.measurements.scores("student", SPLIT)

    @property
    def gap(self) -> Measurement:
        """Teacher minus student."""
        return self.difference("gap", self.teacher, self.student)

    @property
    def knowledge_arms(self) -> list[ControlRun]:
        """The student's own size under each knowledge, for as long as its recipe says."""
        return [
            run
            for name, run in self.controls.items()
            if name in ("same recipe", "scratch") or name.startswith("knowledge: ")
        ]

    @property
    def other_knowledge(self) -> ControlRun | None:
        """All trainings with other knowledge than the student's own as one arm: an average picks nothing."""
        arms = [arm for arm in self.knowledge_arms if arm.name != "same recipe"]
        return _joined(arms, "other knowledge", "", -1) if arms else None

    def gain_of_others(self) -> Measurement | None:
        """What all other knowledge gains over the own recipe, with its longer trainings where there are any; None
        when one of them was not run twice.

        Where these are far better than the recipe they say nothing of it: it alone counts then too, for two looks.
        """
        same, others, own = (
            self.controls.get("same recipe"),
            self.other_knowledge,
            self.own_knowledge,
        )
        if same is None or others is None or own is None:
            return None
        if min(len(same.seeds), len(others.seeds)) < LEAST_SEEDS:
            return None
        points = self.difference("other knowledge", others, own)
        if points.low > 0 or own is same:
            return points
        return self.difference("other knowledge", others, same, looks=2)

    @property
    def own_knowledge(self) -> ControlRun | None:
        """All trainings of the student's own size and knowledge, for as long as its recipe says or longer, as one arm.

        More epochs can but help, so that what is better than these together is better than the recipe.
        """
        same, longer = self.controls.get("same recipe"), self.controls.get("longer")
        if same is None or longer is None or longer.recipe != same.recipe:
            return same
        return _joined([same, longer], same.name, same.recipe, -1 - MANY)

    @property
    def looks(self) -> int:
        """Differences looked at when the best knowledge is named: its interval is widened for them.

        All other knowledge, and what else was held against the student's own recipe at its size.
        """
        at_size = [run for run in self.controls.values() if self._at_size(run)]
        return max(1, len(at_size) - 1)

    def _at_size(self, run: ControlRun) -> bool:
        same = self.controls.get("same recipe")
        alike = same is not None and run.path[-1] == same.path[-1] and run.fraction >= 1
        return run.name in [arm.name for arm in self.knowledge_arms] or (
            alike and run.altered != HALF
        )

    def best(self, arms: Iterable[ControlRun]) -> ControlRun:
        """The arm of the highest mean among those with at least as many seeds as half the most."""
        arms = list(arms)
        most = max(len(arm.seeds) for arm in arms)
        return max((arm for arm in arms if 2 * len(arm.seeds) >= most), key=lambda arm: arm.mean)

    @property
    def fit_gap(self) -> Measurement | None:
        """Teacher minus student on train: what the student did not learn of what it was taught; None when unknown."""
        sides = self._both("train")
        if sides is None:
            return None
        interval = difference_interval(sides[0], sides[1])
        return measured("gap on train", "pair", "train", interval, unit=self.unit)

    @property
    def excess_loss(self) -> Measurement | None:
        """What the student loses from train to validation beyond what its teacher loses; None when unknown.

        With the gap on train it adds up to the gap.
        """
        seen, held = self._both("train"), self._both(SPLIT)
        if seen is None or held is None:
            return None
        parts = [difference_interval(*held, LEVEL, self.groups), difference_interval(*seen)]
        value, se = parts[0].value - parts[1].value, math.hypot(parts[0].se, parts[1].se)
        half = Z * se
        method = "difference of paired differences between train and validation; normal interval"
        interval = Interval(value, value - half, value + half, se, len(held[0]), method=method)
        return measured(EXCESS, "student", SPLIT, interval, unit=self.unit)

    @property
    def teacher_on_train(self) -> float | None:
        """The teacher's score on train; None when unknown."""
        found = self.measurements.find(self.score_name, of="teacher", split="train")
        return next((item.value for item in found if not item.group), None)

    @property
    def teacher_loss(self) -> float:
        """What the teacher itself loses from train to validation, at least 0; 0 when unknown."""
        sides = self._both("train")
        return 0.0 if sides is None else max(0.0, float(sides[0].mean() - self.teacher.mean()))

    @property
    def teacher_memorized(self) -> bool:
        """Whether the teacher loses more off its training set than the student does."""
        loss = self.excess_loss
        return loss is not None and loss.high < 0

    def _both(self, split: str) -> tuple[np.ndarray, np.ndarray] | None:
        if not all(
            self.measurements.has(self.score_name, of=of, split=split)
            for of in ("teacher", "student")
        ):
            return None
        scores = self.measurements.scores
        return scores("teacher", split), scores("student", split)

    @property
    def seed_spread(self) -> tuple[float, int]:
        """Variance of one training's score between seeds and its degrees of freedom, pooled over the controls.

        Few seeds of one arm say little of it; that arms vary alike is assumed, as in an analysis of
        variance. What cuts training short, thins it out or slows it down varies otherwise and is left out.
        While that leaves fewer than `FEW` degrees, all other knowledge counts as one arm: what its kinds
        differ by can only widen it.
        """
        arms = [run for run in self.controls.values() if _is_pooled(run)]
        variance, df = _within(arms)
        if df >= FEW or self.other_knowledge is None:
            return variance, df
        kept = [run for run in arms if not _is_other_knowledge(run.name)]
        return _within([*kept, self.other_knowledge])

    def difference(
        self, name: str, first: Scores, second: Scores, looks: int = 1, ladder: bool = False
    ) -> Measurement:
        """Mean difference first − second, in score units; widened (Bonferroni) for the number of looks.

        Paired by sample. Two controls are paired by seed too, over the seeds that both have, when these are
        `SURE_SEEDS` or more; else, and on a ladder, where differences have to add up, their means over all
        their seeds are held against each other, as if seeds were not shared, with the spread within
        all controls: s²·(1/S₁ + 1/S₂).
        """
        level = bonferroni_level(LEVEL, looks)
        if isinstance(first, ControlRun) or isinstance(second, ControlRun):
            interval = self._over_seeds(first, second, level, ladder)
        else:
            interval = difference_interval(first, second, level, self.groups)
        note = f"; widened for {looks} comparisons" if looks > 1 else ""
        return measured(
            name,
            "student",
            SPLIT,
            interval,
            unit=self.unit,
            better="higher",
            estimator=f"{interval.method}, {n_seeds(first, second)} seed(s){note}",
        )

    def _over_seeds(self, first: Scores, second: Scores, level: float, ladder: bool) -> Interval:
        shared = _paired(first, second)
        both = isinstance(first, ControlRun) and isinstance(second, ControlRun)
        between = self._between(first, second)
        if len(shared) >= SURE_SEEDS and not (both and ladder):
            return paired(shared, level, self.groups)
        value = _mean(first) - _mean(second)
        if between is None:
            interval = paired(shared, level, self.groups)
        else:
            differences = _by_sample(first) - _by_sample(second)
            interval = paired(differences, level, self.groups, between)
        shift = value - interval.value
        return replace(interval, value=value, low=interval.low + shift, high=interval.high + shift)

    def _between(self, first: Scores, second: Scores) -> tuple[float, float] | None:
        """The seeds' part of a difference's squared standard error, and its degrees of freedom; None when unknown.

        s²·Σ 1/S of the pool for the sides that are of it; another's own variance, after Satterthwaite.
        """
        runs = [side for side in (first, second) if isinstance(side, ControlRun)]
        variance, df = self.seed_spread
        strangers = [run for run in runs if not _is_pooled(run) and len(run.seeds) > 1]
        pooled = sum(
            1 / len(run.seeds) for run in runs if all(run is not other for other in strangers)
        )
        parts = [(variance * pooled, df)] if pooled else []
        parts += [
            (float(np.var(run.contributions.mean(1), ddof=1)) / len(run.seeds), len(run.seeds) - 1)
            for run in strangers
        ]
        if any(own == 0 for _, own in parts):
            return None
        total = sum(part for part, _ in parts)
        squares = sum(part**2 / own for part, own in parts)
        return total, total**2 / squares if squares > 0 else sum(own for _, own in parts)


def _joined(arms: list[ControlRun], name: str, recipe: str, first_seed: int) -> ControlRun:
    """Several arms as one; its seeds count down from one below zero that no other has: they are paired with nothing."""
    joined = {
        field: np.concatenate([getattr(arm, field) for arm in arms])
        for field in ("scores", "contributions", "agreement", "train_agreement", "train_scores")
    }
    seeds = tuple(first_seed - number for number in range(len(joined["scores"])))
    return arms[0].with_(name=name, recipe=recipe, seeds=seeds, **joined)


def _within(arms: Iterable[ControlRun]) -> tuple[float, int]:
    """Variance within arms of one or more seeds, and its degrees of freedom."""
    rows = [run.contributions.mean(1) for run in arms]
    df = sum(len(row) - 1 for row in rows)
    squares = sum(float(((row - row.mean()) ** 2).sum()) for row in rows)
    return (squares / df if df else math.inf), df


def _is_other_knowledge(name: str) -> bool:
    return name == "scratch" or name.startswith("knowledge: ")


def _is_pooled(run: ControlRun) -> bool:
    return run.fraction >= 1 and run.altered not in (HALF, RATE)


def unmeasured(name: str, n: int) -> Measurement:
    """Points that no training measured: nan, with that reason."""
    nothing = undefined("no control measured them", n)
    return measured(name, "student", SPLIT, nothing)


def n_seeds(first: Scores, second: Scores) -> int:
    """Seeds that both sides of a difference share; 1 where a side is a single model."""
    return _paired(first, second).shape[0]


def _by_sample(scores: Scores) -> np.ndarray:
    return scores.contributions.mean(0) if isinstance(scores, ControlRun) else scores


def _mean(scores: Scores) -> float:
    return scores.mean if isinstance(scores, ControlRun) else float(np.mean(scores))


def _paired(first: Scores, second: Scores) -> np.ndarray:
    """(S, N) differences over the seeds that both have."""
    if isinstance(first, ControlRun) and isinstance(second, ControlRun):
        common = [seed for seed in first.seeds if seed in second.seeds]
        rows = [[run.seeds.index(seed) for seed in common] for run in (first, second)]
        if not common:
            return np.atleast_2d(first.contributions.mean(0) - second.contributions.mean(0))
        return first.contributions[rows[0]] - second.contributions[rows[1]]
    sides = [
        side.contributions if isinstance(side, ControlRun) else side for side in (first, second)
    ]
    return np.atleast_2d(sides[0] - sides[1])
