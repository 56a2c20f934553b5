"""Study: teacher, student, data, family, recipe and folder; the verbs, and what they leave behind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gapkit.arguments import check_arguments, check_budget, device_of
from gapkit.causes.case import Case
from gapkit.causes.inquiry import Inquiry
from gapkit.causes.remedies import with_stages
from gapkit.data import Data
from gapkit.diagnosis import diagnose
from gapkit.errors import InputError, unknown
from gapkit.execution import Execution
from gapkit.family import Family
from gapkit.gap import Gap
from gapkit.limits import Limits
from gapkit.measurement import Measurements
from gapkit.outcome import Outcome, StageResult
from gapkit.pair import Heard, Pair
from gapkit.planning.goal import GOALS
from gapkit.planning.history import History
from gapkit.planning.quest import Quest
from gapkit.planning.search import FRACTIONS
from gapkit.plans import Plan
from gapkit.quality.choice import choose_knowledge
from gapkit.quality.exhibits import Exhibits, exhibit
from gapkit.quality.gates import check_gates
from gapkit.quality.grounds import Gate, Grounds
from gapkit.recipe import Recipe
from gapkit.record import Record
from gapkit.runs import Run, write
from gapkit.task import Task
from gapkit.training.crew import Crew
from gapkit.training.weights import hash_weights, on_device


class Study(Pair):
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
            self.trainings, self._variants, self._pricing, partial(self.train_heard, "diagnose")
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
            objective: what to raise on validation: "score", "worst_slice" (gapkit.planning.goal) or "relation".
            limits: what a student may weigh and take; a next size up beyond them is not proposed.
            jobs: trials that run at once (gapkit.planning.side_by_side).

        Raises:
            InputError: for another objective, or when the student itself is beyond the limits.
        """
        if objective not in GOALS:
            raise unknown("objective", objective, GOALS)
        check_budget(budget)
        self._check_trains()
        self.measure()
        gap = self.run.load("gap", Gap) or self.diagnose(controls=False)
        above = self._quest.within(limits or Limits())
        request = {"budget": budget, "fractions": list(fractions), "gap": _digest(gap)}
        if objective != "score":
            request["objective"] = objective
        if limits is not None:
            request["limits"] = limits.model_dump(mode="json")
        found = self.run.load("plan", Plan, request)
        if found is not None:
            return found
        proposal, history = self._quest.search(
            gap, budget, fractions, objective=objective, above=above, jobs=jobs
        )
        self.run.save("plan", proposal, request)
        self._keep_history(history)
        return proposal

    @property
    def _quest(self) -> Quest:
        return Quest(self, self._grounds, self._keep_history)

    def _keep_history(self, history: History) -> None:
        self.run.save("trials", history)
        write(self.run.path("trials.csv"), history.csv().encode())

    def distill(self, plan: Plan | None = None) -> Outcome:
        """Carry out a plan (default: the run folder's, edited or not), measuring after every stage.

        A plan of your own becomes the run folder's once it is carried out: `report` shows a plan beside
        what that very plan reached.
        """
        before = self.measure()
        if plan is None:
            plan = self.run.load("plan", Plan) or self.plan()
        if plan.study != self.name:
            raise InputError(f"Expected a plan for {self.name!r} but got one for {plan.study!r}")
        found = self._reached(plan)
        outcome = found or self._execution(plan, before).run()
        if found is not None:
            found._student = self.trainings.model(found.stages[-1].training)
        if self.run.load("plan", Plan) != plan:
            self.run.save("plan", plan)
        if found is None:
            self.run.save("outcome", outcome, {"plan": _digest(plan)})
        return outcome

    def _execution(self, plan: Plan, before: Measurements) -> Execution:
        heard = partial(self.train_heard, "distill")
        return Execution(plan, self.trainings, self._survey, before, self._replan, heard)

    def _reached(self, plan: Plan) -> Outcome | None:
        """What carrying out this very plan came to; None when that was not done, or was another plan."""
        return self.run.load("outcome", Outcome, {"plan": _digest(plan)})

    def _replan(self, missed: StageResult) -> Plan | None:
        """A plan for what is left after a miss; the one in the run folder stays: it is what the outcome answers."""
        gap = self.run.load("gap", Gap) or self.diagnose(controls=False)
        history = self.run.load("trials", History) or History()
        return self._quest.again(gap, history, missed)

    def gates(self) -> tuple[Gate, ...]:
        """Answer the quality gates from whatever the run folder holds."""
        return check_gates(self._grounds())

    def _grounds(self) -> Grounds:
        plan = self.run.load("plan", Plan)
        return Grounds(
            self.measure(),
            self.run.load("gap", Gap),
            plan,
            self._reached(plan) if plan is not None else self.run.load("outcome", Outcome),
            task=self.task.kind,
            score_name=self.task.score_name,
            unit=self.task.unit,
            refused=tuple(self.refused),
            same_view=self.data.same_view,
            groups=self.data.groups("validation"),
        )

    def report(self, path: str | Path | None = None, fonts: Sequence[str | Path] = ()) -> Path:
        """Write the report of whatever the run folder holds: PDF, or .md, .html, .json by the path's ending.

        Args:
            path: default: gap.pdf in the run folder.
            fonts: files of fonts for scripts that the embedded ones lack, such as CJK; the report names them.
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
            fonts=fonts,
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


def _digest(record: Record) -> str:
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()
