"""distill(): carry a plan out stage by stage, re-measuring after each, and say what it reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch import nn

from gapkit.errors import InputError
from gapkit.knowledge import Knowledge
from gapkit.measurement import Measurements
from gapkit.outcome import Comparison, Outcome, StageResult, Training
from gapkit.planning.plancheck import check_plan
from gapkit.plans import Phase, Plan, Stage
from gapkit.quality.comparison import compare
from gapkit.training.answers import predict
from gapkit.training.start import starting_weights
from gapkit.training.trainings import Trainings

GENTLE_TEMPERATURE = 1.0

Measure = Callable[[nn.Module, str], Measurements]
Heard = Callable[[float, float, str, float], None]


class Execution:
    """One plan being carried out.

    Args:
        plan: what to do; checked against the family before anything starts.
        trainings: where models are trained and kept.
        measure: (model, name) -> Measurements of it against the teacher.
        before: measurements of the student that fails.
        replan: asks for the rest of the plan anew after a missed forecast; None when nobody can.
        heard: called with (trained, to train, what is trained next, its length), in trainings as long as the study's.
    """

    def __init__(
        self,
        plan: Plan,
        trainings: Trainings,
        measure: Measure,
        before: Measurements,
        replan: Callable[[StageResult], Plan | None] | None = None,
        heard: Heard | None = None,
    ) -> None:
        family = trainings.family
        check_plan(
            plan,
            task=trainings.task,
            data=trainings.data,
            sizes=family.sizes,
            student=family.student,
            n_checkpoints=trainings.sources.n_checkpoints,
        )
        _check_stages(plan, trainings)
        self.plan, self.trainings, self.measure, self.before = plan, trainings, measure, before
        self.replan, self.heard = replan, heard
        self.results: list[StageResult] = []
        self.notes: list[str] = []
        self._trained = self._total = 0.0

    def run(self) -> Outcome:
        """All stages, what each miss leads to, then the comparisons on test."""
        waiting = list(self.plan.stages)
        replanned = False
        while waiting:
            stage = waiting.pop(0)
            self._total = self._trained + self._work([stage, *waiting])
            result = self._stage(stage)
            reaction = stage.on_miss if result.missed else ""
            if reaction == "retry":
                result = self._retry(stage, result)
            self.results.append(result)
            self.notes += [f"{stage.name!r} {note}." for note in result.training.notes]
            if reaction == "replan":
                waiting = self._replanned(result, waiting, None if replanned else self.replan)
                replanned = True
            if reaction == "stop" and waiting:
                left = ", ".join(repr(item.name) for item in waiting)
                self.notes.append(
                    f"Stopped after {stage.name!r} missed its forecast; left out: {left}."
                )
                break
        return self._outcome()

    def _stage(self, stage: Stage) -> StageResult:
        sources = [self._key(name) for name in stage.sources]
        trained = []
        for seed in stage.seeds:
            self._hear(f"{stage.name}, seed {seed}", self._length(stage))
            trained.append(self.trainings.stage(stage, seed, sources))
        return self._result(stage, trained)

    def _hear(self, what: str, length: float) -> None:
        if self.heard:
            self.heard(self._trained, self._total, what, length)
        self._trained += length

    def _length(self, stage: Stage) -> float:
        recipe = self.trainings.recipe
        return recipe.changed(stage.recipe).epochs / recipe.epochs

    def _work(self, stages: Sequence[Stage]) -> float:
        """Length of all trainings of these stages and of what the last one is held against."""
        last = stages[-1]
        rivals = 0.0
        if self._is_student(last):
            found = self._rivals(self._length(last), bool(last.sources))
            rivals = len(last.seeds) * sum(length for *_, length in found)
        return rivals + sum(len(stage.seeds) * self._length(stage) for stage in stages)

    def _is_student(self, stage: Stage | StageResult) -> bool:
        return str(stage.size) == str(self.trainings.family.student)

    def _result(self, stage: Stage, trained: Sequence[Training]) -> StageResult:
        scores = [training.score for training in trained]
        kept = max(range(len(trained)), key=lambda i: _rank(scores[i]))
        return StageResult(
            name=stage.name,
            size=stage.size,
            sources=stage.taught_by,
            knowledge=stage.learns,
            trainings=tuple(trained),
            kept=kept,
            measurements=self.measure(self.trainings.model(trained[kept]), stage.name),
            predicted=stage.predicted,
            missed=stage.predicted is not None and not np.mean(scores) >= stage.predicted.low,
        )

    def _key(self, source: str) -> str:
        if source == "teacher" or source.startswith("checkpoint:"):
            return source
        latest = next(result for result in reversed(self.results) if result.name == source)
        return latest.training.key

    def _retry(self, stage: Stage, missed: StageResult) -> StageResult:
        """Once more, gentler: temperature 1. The better of the two on validation is kept."""
        gentler = stage.with_(phases=tuple(gentle(phase) for phase in stage.phases))
        if gentler.phases == stage.phases:
            return missed.with_(
                reaction="below its forecast; already at temperature 1, not repeated"
            )
        self._total += len(gentler.seeds) * self._length(gentler)
        again = self._stage(gentler)
        if _rank(again.training.score) > _rank(missed.training.score):
            return again.with_(
                reaction="below its forecast; trained again at temperature 1, which is kept"
            )
        return missed.with_(
            reaction="below its forecast; trained again at temperature 1, no better"
        )

    def _replanned(
        self,
        result: StageResult,
        waiting: list[Stage],
        replan: Callable[[StageResult], Plan | None] | None,
    ) -> list[Stage]:
        new = replan(result) if replan else None
        if new is None:
            self.notes.append(
                f"{result.name!r} missed its forecast; the rest of the plan was kept."
            )
            return waiting
        self.notes.append(f"{result.name!r} missed its forecast; the rest was planned anew.")
        return list(new.stages)

    def _outcome(self) -> Outcome:
        last = self.results[-1]
        task = self.trainings.task
        reached = last.measurements
        outcome = Outcome(
            study=self.plan.study,
            stages=tuple(self.results),
            score=reached.get(task.score_name, of="student", split="test"),
            before=self.before.get(task.score_name, of="student", split="test"),
            teacher=reached.get(task.score_name, of="teacher", split="test"),
            predicted=self.plan.predicted,
            comparisons=self._comparisons(last),
            notes=tuple(self.notes),
        )
        outcome._student = self.trainings.model(last.training)
        return outcome

    def _comparisons(self, last: StageResult) -> tuple[Comparison, ...]:
        """The kept student against the failing one; this way of training against others, over seeds."""
        unit, groups = self.trainings.task.unit, self.trainings.data.groups("test")
        is_student = self._is_student(last)
        found = [
            compare(
                "the re-distilled student" if is_student else f"the assistant of size {last.size}",
                "the failing student",
                last.measurements.scores("student", "test")[None],
                self.before.scores("student", "test")[None],
                unit,
                groups,
            )
        ]
        if not is_student or last.reaction.endswith("kept"):
            return tuple(found)
        seeds = [training.seed for training in last.trainings]
        ours = np.stack([self._test(training) for training in last.trainings])
        fraction = last.training.fraction
        others = self._rivals(fraction, bool(last.sources))
        self._total = self._trained + len(seeds) * sum(length for *_, length in others)
        for name, arm, recipe, length in others:
            rivals = []
            for seed in seeds:
                self._hear(f"comparison, {name}, seed {seed}", length)
                rivals.append(self.trainings.arm(arm, recipe, seed, length))
            theirs = np.stack([self._test(training) for training in rivals])
            found.append(compare("this plan", name, ours, theirs, unit, groups))
        return tuple(found)

    def _rivals(self, fraction: float, taught: bool) -> list[tuple[str, tuple, str, float]]:
        """What the plan is held against with the same seeds: scratch as long, scratch and the failing recipe."""
        family, recipe = self.trainings.family, self.trainings.recipe_name
        if self.trainings.data.targets("train") is None:
            return []  # labels alone cannot be trained on, and the failing recipe is not known
        scratch = (family.student,)
        direct = (self.trainings.sources["teacher"].path[0], family.student)
        rivals: list[tuple[str, tuple, str, float]] = []
        if taught:
            rivals.append(("from scratch, trained as long", scratch, "scratch", fraction))
        if fraction != 1.0:
            rivals.append(("from scratch by the study's recipe", scratch, "scratch", 1.0))
        if recipe != "scratch":
            rivals.append((f"the failing recipe ({recipe})", direct, recipe, 1.0))
        return rivals

    def _test(self, training: Training) -> np.ndarray:
        model = self.trainings.model(training).to(self.trainings.device)
        outputs = predict(
            model, self.trainings.data, "test", self.trainings.task, self.trainings.device
        )
        return self.trainings.task.contributions(outputs, self.trainings.sources.reference("test"))


def _rank(score: float) -> float:
    """The score itself; an undefined one comes last."""
    return -math.inf if math.isnan(score) else score


def _check_stages(plan: Plan, trainings: Trainings) -> None:
    """Refuse, before anything is trained, a recipe, a phase or a start that no training could have."""
    sizes = {stage.name: stage.size for stage in plan.stages}
    for stage in plan.stages:
        epochs = trainings.recipe.changed(stage.recipe).epochs
        starts = [0.0, *(phase.until for phase in stage.phases)]
        for start, end in pairwise(starts):
            if not any(start <= epoch / epochs < end for epoch in range(epochs)):
                raise InputError(
                    f"Expected every phase of stage {stage.name!r} to last an epoch but the one that ends at "
                    f"{end:g} holds none of its {epochs}"
                )
        if stage.init != "fresh":
            first = next(iter(stage.sources), None)
            source = None
            if first in sizes:
                source = trainings.family.fresh(sizes[first], 0)
            elif first is not None:
                source = trainings.sources[first].model
            starting_weights(
                stage, trainings.family.fresh(stage.size, 0), trainings.student, source
            )


def gentle(phase: Phase) -> Phase:
    """The phase with every response at temperature 1."""

    def milder(part: Knowledge) -> Knowledge:
        return part.with_(temperature=GENTLE_TEMPERATURE) if part.kind == "response" else part

    return phase.with_(knowledge=tuple(milder(part) for part in phase.knowledge))


def distill(
    plan: Plan,
    trainings: Trainings,
    measure: Measure,
    before: Measurements,
    replan: Callable[[StageResult], Plan | None] | None = None,
    heard: Heard | None = None,
) -> Outcome:
    """Carry a plan out, measuring after every stage; see Execution for the arguments.

    Seeds and reactions are chosen on validation; test only measures. Work that was finished before
    (the search's, or an interrupted call's) is taken over.

    Raises:
        InputError: when the plan does not fit the family, before anything is trained.
    """
    return Execution(plan, trainings, measure, before, replan, heard).run()
