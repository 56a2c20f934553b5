"""Study: teacher, student, data, family, recipe and folder; the verbs, and what they leave behind."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gapkit import losses
from gapkit.answers import predict
from gapkit.arguments import check_arguments, check_budget, device_of
from gapkit.case import Case
from gapkit.choice import choose_knowledge
from gapkit.crew import Crew
from gapkit.data import Data
from gapkit.diagnosis import diagnose
from gapkit.distiller import Tick
from gapkit.errors import InputError, unknown
from gapkit.execution import Execution
from gapkit.exhibits import Exhibits, exhibit
from gapkit.family import Family, Size, count_parameters
from gapkit.gap import Gap
from gapkit.gates import check_gates
from gapkit.goal import GOALS, Goal, Pupil
from gapkit.grounds import Gate, Grounds
from gapkit.history import History, TrialRow, control_rows
from gapkit.inquiry import Inquiry
from gapkit.knowledge import MENUS, Knowledge
from gapkit.limits import Limits
from gapkit.measurement import Measurements
from gapkit.menu import ways_for
from gapkit.objective import refusal
from gapkit.outcome import Outcome, StageResult, Training
from gapkit.plans import Plan
from gapkit.preflight import preflight
from gapkit.prices import Prices
from gapkit.pricing import Pricing
from gapkit.recipe import Recipe
from gapkit.record import Record
from gapkit.remedies import with_stages
from gapkit.runs import Run, write
from gapkit.search import FRACTIONS, plan
from gapkit.task import Task
from gapkit.trainings import Trainings
from gapkit.variants import Variants, best_checkpoint
from gapkit.ways import Way
from gapkit.weights import hash_state, hash_weights, on_device, read_state
from gapkit.wording import Wording

REFUSAL_SAMPLES = 8
_SAID = {"worst_slice": "score of the worst slice", "relation": "correlation of distances"}

Heard = Callable[[str, float, float, str], None]


class Study:
    """One teacher, one student that disappoints, and everything gapkit finds out about them.

    Every verb writes its result to the run folder and takes from it what is there already, so that a
    study can be interrupted, continued, or opened on another machine.

    Args:
        name: of the study and its default folder, runs/NAME.
        task: what outputs mean, for example gapkit.Classification().
        data: splits and views.
        family: size -> fresh model.
        recipe: how the user trains.
        teacher: the trained teacher; None: the family's teacher size is trained on labels.
        student: the trained student that disappoints; None: gapkit distils it by `recipe.knowledge`.
        student_history: scores by epoch of the user's own training: whether it still rose when it ended.
        teacher_checkpoints: earlier states of the teacher (state dicts, or paths to safetensors or
            weights-only files), oldest first; a plan may name them as sources.
        teacher_score: what the user believes the teacher scores.
        layers: None (chosen well), names, globs or module classes for both, or {"teacher": [...],
            "student": [...]}.
        reduce: how a layer's output becomes one vector per sample: "gap" (also "mean"), "grid:2",
            "flatten", "cls", "last"; or "tokens", one per token.
        device: where everything runs; None: CUDA when there is one, else CPU. `device` says which.
        seed: of splits carved, models trained and everything random.
        out: the run folder.

    Raises:
        InputError: all that does not fit, in one line.
    """

    def __init__(
        self,
        *,
        name: str,
        task: Task,
        data: Data,
        family: Family,
        recipe: Recipe,
        teacher: nn.Module | None = None,
        student: nn.Module | None = None,
        student_history: Sequence[float] | None = None,
        teacher_checkpoints: Sequence[Any] | None = None,
        teacher_score: float | None = None,
        layers: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None,
        reduce: str = "gap",
        device: str | torch.device | None = None,
        seed: int = 0,
        out: str | Path | None = None,
    ) -> None:
        check_arguments(
            name=name, task=task, data=data, family=family, recipe=recipe, teacher=teacher,
            student=student, teacher_score=teacher_score, layers=layers, reduce=reduce,
            device=device, seed=seed,
        )  # fmt: skip
        self.device = device_of(device)
        self.name, self.task, self.data, self.family = name, task, data, family
        self.recipe, self.layers, self.reduce, self.seed = recipe, layers, reduce, seed
        self.student_history = tuple(student_history or ())
        self.teacher_score = teacher_score
        self._teacher, self._student = teacher, student
        self.checkpoints = tuple(teacher_checkpoints or ())
        self.run = Run(out if out is not None else Path("runs") / name)
        self.heard: Heard | None = None
        self.command = ""
        self.crew = Crew()
        self.outcome: Outcome | None = None

    @cached_property
    def knowledge(self) -> dict[str, tuple[Knowledge, ...]]:
        """Name -> knowledge of all arms: the standard ones and the recipe's own."""
        own = self.recipe.knowledge
        menu = {
            name: parts
            for name, parts in MENUS[self.task.kind].items()
            if name == own or name not in self.refused
        }
        if isinstance(own, str):
            return menu
        if callable(own):
            own = (Knowledge(kind="response", loss=registered(own)),)
        others = {name: parts for name, parts in menu.items() if parts != tuple(own)}
        return {"own": tuple(own)} | others

    @cached_property
    def refused(self) -> dict[str, str]:
        """Standard mixtures that this task's outputs are too small for -> why."""
        few = np.arange(min(REFUSAL_SAMPLES, self.data.size("train")))
        student = self.student_for_pricing
        outputs = predict(student, self.data, "train", self.task, self.device, positions=few)
        menu = MENUS[self.task.kind]
        reasons = {name: refusal(self.task, parts, outputs) for name, parts in menu.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    @property
    def recipe_name(self) -> str:
        """The name of the failing student's own knowledge."""
        return self.recipe.knowledge if isinstance(self.recipe.knowledge, str) else "own"

    @cached_property
    def trainings(self) -> Trainings:
        """Everything trained for this study; opens the run folder, trains a teacher when none is given."""
        self.check()
        self._check_layers()
        if self.crew.leads:
            self.run.open(self.identity())
        trainings = Trainings(
            self.task,
            self.data,
            self.family,
            self.recipe,
            self.run,
            knowledge=self.knowledge,
            recipe_name=self.recipe_name,
            device=self.device,
            crew=self.crew,
        )
        teacher, key = self._teacher, ""
        if teacher is None and self.crew.leads:
            trainings.tick = self._ticks("prepare", 0, 1, f"teacher of size {self.family.teacher}")
            training = trainings.arm((self._teacher_size,), "scratch", self.seed)
            teacher, key = trainings.model(training), training.key
        if teacher is None:
            return trainings  # the first process trains one and says so
        self._teacher = teacher
        trainings.lend("teacher", on_device(teacher, self.device), training=key)
        trainings.student = self._student
        for position, state in enumerate(self._states):
            trainings.lend(f"checkpoint:{position}", self._earlier(teacher, state, position))
        trainings.tick = None
        trainings.variant = lambda name: self._variants(name)
        return trainings

    def check(self) -> None:
        """Raise InputError when models, data and task do not fit; two samples a split decide."""
        models = {"teacher": self.teacher_model_for_pricing, "student": self.student_for_pricing}
        preflight(self.task, self.data, models, self.device)

    def _check_layers(self) -> None:
        """Refuse layers asked for by a name that there is not, before anything is trained for it."""
        if self.layers is None:
            return
        from gapkit.probes.survey import taps_for

        models = {"teacher": self.teacher_model_for_pricing, "student": self.student_for_pricing}
        taps_for(
            models,
            self.data,
            self.layers,
            self.reduce,
            "train",
            REFUSAL_SAMPLES,
            self.device,
            self.seed,
        )

    @property
    def has_teacher(self) -> bool:
        """Whether a trained teacher was given (or is trained by now)."""
        return self._teacher is not None

    @property
    def has_student(self) -> bool:
        """Whether a trained student was given (or is trained by now)."""
        return self._student is not None

    @property
    def teacher_model_for_pricing(self) -> nn.Module:
        """The teacher, or an untrained one of its size: costs do not depend on the weights."""
        model = self._teacher
        if model is None:
            model = self.family.fresh(self._teacher_size, self.seed)
        return on_device(model, self.device)

    @property
    def student_for_pricing(self) -> nn.Module:
        """The student, or an untrained one of its size."""
        model = self._student
        if model is None:
            model = self.family.fresh(self.family.student, self.seed)
        return on_device(model, self.device)

    @property
    def teacher(self) -> nn.Module:
        """The teacher, trained first when none was given."""
        return self.trainings.source("teacher").model

    @property
    def student(self) -> nn.Module:
        """The student that disappoints, distilled first when none was given."""
        trainings = self.trainings
        if self._student is None:
            trainings.tick = self._ticks("prepare", 0, 1, f"student of size {self.family.student}")
            self._check_trains()
            training = self._same_recipe(self.seed)
            self._student = trainings.model(training)
            trainings.trained_here["student"] = training.key
            trainings.tick = None
        trainings.student = self._student
        return self._student

    @property
    def _teacher_size(self) -> Size:
        return self.family.teacher if self.family.teacher is not None else "teacher"

    def _same_recipe(self, seed: int) -> Training:
        name = self.recipe_name
        path = (
            (self.family.student,)
            if name == "scratch"
            else (self._teacher_size, self.family.student)
        )
        return self.trainings.arm(path, name, seed)

    def measure(self) -> Measurements:
        """Measure teacher, student and an untrained student on every split."""
        teacher, student = self.teacher, self.student
        request = {"layers": repr(self.layers), "reduce": self.reduce}
        found = self.run.load("measurements", Measurements, request)
        if found is None:
            found = self._survey(
                student, self.name, self.family.fresh(self.family.student, self.seed)
            )
            self.run.save("measurements", found, request)
        del teacher
        return found

    def _survey(
        self, model: nn.Module, name: str, untrained: nn.Module | None = None
    ) -> Measurements:
        from gapkit.probes.survey import measure

        return measure(
            study=name,
            task=self.task,
            data=self.data,
            teacher=self.teacher,
            student=on_device(model, self.device),
            untrained=untrained,
            layers=self.layers,
            reduce=self.reduce,
            device=self.device,
            seed=self.seed,
            progress=lambda phase, done, total: self._hear("measure", done, total, phase),
        )

    def diagnose(self, controls: bool = True, budget: float = 8) -> Gap:
        """Name the cause; with controls, trainings for up to `budget` student trainings tell causes apart."""
        check_budget(budget)
        if controls:
            self._check_trains()
        measurements = self.measure()
        request: dict[str, Any] = {"controls": controls, "budget": budget if controls else 0}
        if self.teacher_score is not None:
            request["teacher_score"] = self.teacher_score
        if self.student_history:
            request["student_history"] = list(self.student_history)
        found = self.run.load("gap", Gap, request)
        if found is not None:
            return found
        inquiry = Inquiry(
            self.trainings, self._variants, self._pricing, partial(self._train_heard, "diagnose")
        )
        case = Case(measurements, **self._circumstances())
        runner = inquiry.controls(case, budget, self.seed) if controls else None
        runs = () if runner is None else tuple(map(inquiry.with_rate, runner.run()))
        gap = diagnose(
            measurements,
            runs,
            budget=budget if controls else 0,
            spent=None if runner is None else runner.spent,
            left_out=() if runner is None else runner.left_out,
            notes=[*self._notes(), *(() if runner is None else runner.notes)],
            **self._circumstances(),
        )
        gap = gap.with_(
            findings=tuple(with_stages(item, inquiry.workshop) for item in gap.findings)
        )
        self.run.save("gap", gap, request)
        return gap

    def check_recipe(self) -> None:
        """Raise InputError when this kind of task knows no knowledge of the recipe's name."""
        if self.recipe_name not in self.knowledge:
            raise InputError(
                f"Expected Recipe(knowledge=...) for a task of {self.task.kind}, one of "
                f"{', '.join(self.knowledge)} or your own, but got {self.recipe_name!r}"
            )

    def _check_trains(self) -> None:
        """Refuse controls and searches that could not train all of their arms."""
        self.check_recipe()
        if self.data.targets("train") is None:
            raise InputError(
                "Expected targets for controls and plans, which train on labels alone too, but the data "
                "gives none; measure(), diagnose(controls=False) and distill(plan) need none"
            )

    def follow(self) -> None:
        """As one of several processes but the first: train along with it until it is done."""
        self.trainings.follow()

    def _circumstances(self) -> dict[str, Any]:
        """What a diagnosis knows of the study beside what was measured."""
        return {
            "score_name": self.task.score_name,
            "unit": self.task.unit,
            "teacher_score": self.teacher_score,
            "groups": self.data.groups("validation"),
            "student_history": self.student_history,
            "knowledge": self.knowledge.get(self.recipe_name, ()),
            "same_view": self.data.same_view,
            "slices": self.data.slices("validation"),
        }

    @cached_property
    def _variants(self) -> Variants:
        return Variants(self.trainings)

    @cached_property
    def _pricing(self) -> Pricing:
        return Pricing(self.trainings, self._variants)

    @property
    def prices(self) -> Prices:
        """Measured once, kept in the run folder: the unit of every budget."""
        return self._pricing.prices

    def _notes(self) -> list[str]:
        """What a reader of the diagnosis must know about the models that were given."""
        pairs = (
            ("teacher", self._teacher, self.family.teacher),
            ("student", self._student, self.family.student),
        )
        refused = [f"Not tried: {name}. {reason}." for name, reason in self.refused.items()]
        return refused + [
            f"The {who} given has {count_parameters(model):,} parameters, size {size} of the family "
            f"{self.family.parameters(size):,}: the controls speak of the latter."
            for who, model, size in pairs
            if model is not None
            and size is not None
            and count_parameters(model) != self.family.parameters(size)
        ]

    def plan(
        self,
        budget: float = 10,
        fractions: Sequence[float] = FRACTIONS,
        *,
        objective: str = "score",
        limits: Limits | None = None,
        jobs: int = 1,
    ) -> Plan:
        """Propose stages: search for up to `budget` student trainings, then choose.

        A search that was interrupted goes on where it was: finished trials are in the run folder, and all of
        them, with what was expected of each, in its trials.csv.

        Args:
            budget: in student trainings.
            fractions: lengths that compete, in full trainings.
            objective: what to raise on validation: "score", "worst_slice" (gapkit.goal) or "relation".
            limits: what a student may weigh and take; a next size up beyond them is not proposed.
            jobs: trials that run at once (gapkit.side_by_side).

        Raises:
            InputError: for another objective, or when the student itself is beyond the limits.
        """
        if objective not in GOALS:
            raise unknown("objective", objective, GOALS)
        check_budget(budget)
        self._check_trains()
        self.measure()
        gap = self.run.load("gap", Gap) or self.diagnose(controls=False)
        above = self._within(limits or Limits())
        request = {"budget": budget, "fractions": list(fractions), "gap": _digest(gap)}
        if objective != "score":
            request["objective"] = objective
        if limits is not None:
            request["limits"] = limits.model_dump(mode="json")
        found = self.run.load("plan", Plan, request)
        if found is not None:
            return found
        proposal, history = self._search(
            gap, budget, fractions, objective=objective, above=above, jobs=jobs
        )
        self.run.save("plan", proposal, request)
        self._keep_history(history)
        return proposal

    def _keep_history(self, history: History) -> None:
        self.run.save("trials", history)
        write(self.run.path("trials.csv"), history.csv().encode())

    def _within(self, limits: Limits) -> Size | None:
        """The next size up when that is within limits; refuses a student beyond them."""
        batch = next(iter(self.data.batches("validation", 1)))
        view = self.data.student_view(batch.raw)
        beyond = limits.excess(self.student_for_pricing, view)
        if beyond:
            raise InputError(
                f"Expected a student within the limits but size {self.family.student} has {beyond}"
            )
        above = self.family.next_size_up
        if above is None:
            return None
        larger = on_device(self.family.fresh(above, self.seed), self.device)
        return None if limits.excess(larger, view) else above

    def _search(
        self,
        gap: Gap,
        budget: float,
        fractions: Sequence[float],
        known: Sequence[TrialRow] = (),
        *,
        objective: str = "score",
        above: Size | None = None,
        jobs: int = 1,
    ) -> tuple[Plan, History]:
        goal = Goal(objective, self.trainings)
        ways = self._ways(gap, budget, {row.recipe for row in known})
        self.trainings.ways |= ways
        controls = goal.reached(control_rows(gap.controls))
        proposal, history = plan(
            Pupil(self.trainings, objective),
            study=self.name,
            sizes=self._path_sizes,
            prices=self.prices,
            knowledge=ways,
            budget=budget,
            teacher_score=gap.teacher.value if objective == "score" else goal.of_teacher,
            epochs=self.recipe.epochs,
            fractions=fractions,
            gap=gap,
            known=[*controls, *known],
            seed=self.seed,
            jobs=jobs,
            above=above,
            say=Wording(
                unit="" if objective == "relation" else self.task.unit,
                score_name=_SAID.get(objective, self.task.score_name),
            ),
            heard=lambda spent, total, what: self._train_heard("plan", spent, total, what),
            told=self._keep_history,
        )
        if objective != "score":  # what stages are measured by is the score
            silent = tuple(stage.with_(predicted=None) for stage in proposal.stages)
            proposal = proposal.with_(objective=objective, stages=silent)
        return proposal, history

    def _ways(self, gap: Gap, budget: float, tried: Set[str]) -> dict[str, Way]:
        """The ways that a plan is chosen from, those of earlier trials among them."""
        trainings = self.trainings
        return ways_for(
            self.knowledge,
            replace(self._grounds(), gap=gap),
            budget=budget,
            tried={self.recipe_name, *tried},
            earlier=best_checkpoint(trainings) if trainings.n_checkpoints else "",
            n_earlier=trainings.n_checkpoints,
        )

    @property
    def _path_sizes(self) -> tuple[Size, ...]:
        return (self._teacher_size, *self.family.assistants, self.family.student)

    def distill(self, plan: Plan | None = None) -> Outcome:
        """Carry out a plan (default: the run folder's, edited or not), measuring after every stage."""
        before = self.measure()
        if plan is None:
            plan = self.run.load("plan", Plan) or self.plan()
        if plan.study != self.name:
            raise InputError(f"Expected a plan for {self.name!r} but got one for {plan.study!r}")
        request = {"plan": _digest(plan)}
        found = self.run.load("outcome", Outcome, request)
        if found is not None:
            found._student = self.trainings.model(found.stages[-1].training)
            return found
        execution = Execution(
            plan,
            self.trainings,
            self._survey,
            before,
            self._replan,
            lambda done, total, what: self._train_heard("distill", done, total, what),
        )
        outcome = execution.run()
        self.run.save("outcome", outcome, request)
        return outcome

    def _replan(self, missed: StageResult) -> Plan | None:
        """Choose again from all that is known by now, the miss included, without further search.

        The plan in the run folder stays as it is: it is what the outcome answers.
        """
        gap = self.run.load("gap", Gap) or self.diagnose(controls=False)
        history = self.run.load("trials", History) or History()
        fresh = [
            TrialRow(
                path=training.path,
                recipe=training.recipe,
                seed=training.seed,
                fraction=training.fraction,
                origin="search",
                cost=0.0,
                expected=math.nan if missed.predicted is None else missed.predicted.value,
                score=training.score,
            )
            for training in missed.trainings
            if training.recipe in self.trainings.ways
        ]
        searched = [row for row in history.rows if row.origin == "search"]
        proposal, _ = self._search(gap, 0.0, FRACTIONS, [*searched, *fresh])
        return proposal if all(stage.name != missed.name for stage in proposal.stages) else None

    def gates(self) -> tuple[Gate, ...]:
        """Answer the quality gates from whatever the run folder holds."""
        return check_gates(self._grounds())

    def _grounds(self) -> Grounds:
        return Grounds(
            self.measure(),
            self.run.load("gap", Gap),
            self.run.load("plan", Plan),
            self.run.load("outcome", Outcome),
            task=self.task.kind,
            score_name=self.task.score_name,
            unit=self.task.unit,
            refused=tuple(self.refused),
            same_view=self.data.same_view,
            groups=self.data.groups("validation"),
        )

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report of whatever the run folder holds: PDF, or .md, .html, .json by the path's ending.

        Args:
            path: default: gap.pdf in the run folder.
        """
        from gapkit.reports import checked_target
        from gapkit.reports import write as write_report

        target = checked_target(self.run.path("gap.pdf") if path is None else path)
        inside = target.resolve().parent == self.run.folder.resolve()
        if inside and target.suffix == ".json" and target.name != "report.json":
            raise InputError(
                f"Expected a report outside the run's own results but got {target}; report.json is free"
            )
        grounds = self._grounds()
        return write_report(
            target,
            study=self.name,
            measurements=grounds.measurements,
            gap=grounds.gap,
            plan=grounds.plan,
            outcome=grounds.outcome,
            gates=check_gates(grounds),
            choice=None if grounds.lead is None else choose_knowledge(grounds),
            exhibits=self._exhibits(grounds.outcome),
            manifest=self._manifest(),
            task_unit=self.task.unit,
        )

    def _exhibits(self, outcome: Outcome | None) -> Exhibits:
        """Real samples with what each model's answer rests on, kept in the run folder."""
        models = {"teacher": self.teacher, "student": self.student}
        if outcome is not None:
            models["reached"] = self.trainings.model(outcome.stages[-1].training)
        request = {role: hash_weights(model) for role, model in models.items()}
        found = self.run.load("exhibits", Exhibits, request)
        if found is None:
            models = {role: on_device(model, self.device) for role, model in models.items()}
            found = exhibit(self.task, self.data, models, self.device, self.seed)
            self.run.save("exhibits", found, request)
        return found

    def _manifest(self) -> dict[str, Any]:
        versions = self.run.manifest.get("versions", {})
        return {
            "command": self.command or f"study.report()  # Study(name={self.name!r}, ...)",
            "created": self.run.manifest.get("created", ""),
            "seed": self.seed,
            "folder": str(self.run.folder),
            "device": str(self.device),
            "versions": {"gapkit": self.run.manifest.get("gapkit", ""), **versions},
            "inputs": self.run.manifest.get("identity", {}),
        }

    def identity(self) -> dict[str, str]:
        """What makes this study itself; a folder that says otherwise belongs to another."""
        sizes = ", ".join(f"{size}: {self.family.parameters(size)}" for size in self.family.sizes)
        earlier = {"checkpoints": " ".join(map(hash_state, self._states))} if self._states else {}
        return {
            "study": self.name,
            "task": f"{self.task.kind}, {self.task.score_name}",
            "seed": str(self.seed),
            "data": self.data.fingerprint(),
            "family": sizes,
            "architecture": self.family.fingerprint(),
            "recipe": self.recipe.model_dump_json(),
            "teacher": "trained here" if self._teacher is None else hash_weights(self._teacher),
            "student": "trained here" if self._student is None else hash_weights(self._student),
        } | earlier

    @cached_property
    def _states(self) -> tuple[Mapping[str, Any], ...]:
        """The teacher's earlier states, read once."""
        return tuple(
            read_state(state, f"teacher checkpoint {position}")
            for position, state in enumerate(self.checkpoints)
        )

    def _earlier(self, teacher: nn.Module, state: Mapping[str, Any], position: int) -> nn.Module:
        """A copy of the teacher with an earlier state."""
        model = copy.deepcopy(teacher)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            cause = " ".join(str(error).split())[:200]
            raise InputError(
                f"Expected teacher checkpoint {position} to fit the teacher but: {cause}"
            ) from None
        return on_device(model, self.device)

    def _hear(self, phase: str, done: float, total: float, what: str) -> None:
        if self.heard:
            self.heard(phase, done, total, what)

    def _train_heard(self, phase: str, done: float, total: float, what: str) -> None:
        self._hear(phase, done, total, what)
        self.trainings.tick = self._ticks(phase, done, total, what)

    def _ticks(self, phase: str, done: float, total: float, what: str) -> Tick:
        def tick(share: float, said: str) -> None:
            self._hear(phase, min(total, done + share), total, f"{what}: {said}" if said else what)

        return tick


def registered(fn: Callable[..., Any]) -> str:
    """The name that a user's own loss goes by in plans: its own, with a number when another loss has it."""
    own = getattr(fn, "__name__", "")
    base = own if own.isidentifier() and own != "task" else "own"
    name, number = base, 1
    while name in losses.names() and losses.named(name).fn is not fn:
        number += 1
        name = f"{base}_{number}"
    if name not in losses.names():
        losses.register(name, fn)
    return name


def _digest(record: Record) -> str:
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()
