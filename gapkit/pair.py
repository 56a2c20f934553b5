"""Pair: the two models of a study with what they are trained from, trained here where none is given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from gapkit import losses
from gapkit.causes.variants import Variants
from gapkit.data import Data
from gapkit.distiller import Tick
from gapkit.errors import InputError
from gapkit.family import Family, Size, count_parameters
from gapkit.knowledge import MENUS, Knowledge
from gapkit.outcome import Training
from gapkit.pricing import Pricing
from gapkit.recipe import Recipe
from gapkit.runs import Run
from gapkit.task import Task
from gapkit.teaching.objective import refusal
from gapkit.training.answers import predict
from gapkit.training.crew import Crew
from gapkit.training.preflight import preflight
from gapkit.training.prices import Prices
from gapkit.training.trainings import Trainings
from gapkit.training.weights import hash_state, hash_weights, on_device, read_state

REFUSAL_SAMPLES = 8

Heard = Callable[[str, float, float, str], None]


class Pair:
    """Teacher and student, checked, trained where they are not given, and priced; a Study adds the verbs."""

    name: str
    task: Task
    data: Data
    family: Family
    recipe: Recipe
    layers: Sequence[Any] | Mapping[str, Sequence[Any]] | None
    reduce: str
    device: torch.device
    seed: int
    checkpoints: tuple[Any, ...]
    run: Run
    crew: Crew
    heard: Heard | None
    _teacher: nn.Module | None
    _student: nn.Module | None

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
            training = trainings.arm((self.teacher_size,), "scratch", self.seed)
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
            model = self.family.fresh(self.teacher_size, self.seed)
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
        return self.trainings.sources["teacher"].model

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
    def teacher_size(self) -> Size:
        """The teacher's size in the family, or "teacher" when it is not of it."""
        return self.family.teacher if self.family.teacher is not None else "teacher"

    def _same_recipe(self, seed: int) -> Training:
        name = self.recipe_name
        path = (
            (self.family.student,)
            if name == "scratch"
            else (self.teacher_size, self.family.student)
        )
        return self.trainings.arm(path, name, seed)

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

    def follow(self) -> None:
        """As one of several processes but the first: train along with it until it is done."""
        self.trainings.follow()

    def _hear(self, phase: str, done: float, total: float, what: str) -> None:
        if self.heard:
            self.heard(phase, done, total, what)

    def train_heard(
        self, phase: str, done: float, total: float, what: str, cost: float = 1.0
    ) -> None:
        """Say how far a phase is, and let the training that begins, `cost` of the total, say how far it is."""
        self._hear(phase, done, total, what)
        self.trainings.tick = self._ticks(phase, done, total, what, cost)

    def _ticks(self, phase: str, done: float, total: float, what: str, cost: float = 1.0) -> Tick:
        def tick(share: float, said: str) -> None:
            so_far = min(total, done + cost * share)
            self._hear(phase, so_far, total, f"{what}: {said}" if said else what)

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
