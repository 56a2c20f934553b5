"""Trainings: every model that the study trains, each once, kept by what it was trained from."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gapkit.data import Data
from gapkit.distiller import Loop, Tick, TrainingFailed
from gapkit.errors import InputError, unknown
from gapkit.family import Family, Size
from gapkit.knowledge import Knowledge
from gapkit.outcome import Training
from gapkit.plans import Stage
from gapkit.recipe import Recipe
from gapkit.runs import Run
from gapkit.task import Task
from gapkit.teaching.ways import plain
from gapkit.training.answers import Source
from gapkit.training.checkpoint import Checkpoints
from gapkit.training.crew import Crew
from gapkit.training.job import Job
from gapkit.training.scored import scored
from gapkit.training.shelf import Shelf
from gapkit.training.sources import Sources, plain_name
from gapkit.training.start import check_outputs, starting_weights


class Trainings:
    """Trains stages and arms, keeps the results under the run folder, and never trains one twice.

    An arm is what planner and controls speak of: a path of sizes, a named knowledge, a seed and a
    fraction of the recipe's epochs. A stage is the same with everything spelled out.

    Args:
        task, data, family, recipe: of the study.
        run: the folder.
        device: where trainings run.
        knowledge: name -> knowledge of the arms; recipe_name: the one that the failing student had.
            `ways` holds how each name teaches; a plan may offer more (gapkit.teaching.ways).
        tick: hears the share of the current training that is done, and how it goes.
        crew: the processes that train together.
        altered: what differs from the study's own training; "" for nothing (see gapkit.causes.variants).

    Attributes:
        sources: the models that teach, lent or trained.
    """

    def __init__(
        self,
        task: Task,
        data: Data,
        family: Family,
        recipe: Recipe,
        run: Run,
        *,
        knowledge: dict[str, tuple[Knowledge, ...]],
        recipe_name: str = "kl4",
        device: str | torch.device = "cpu",
        tick: Tick | None = None,
        crew: Crew | None = None,
        altered: str = "",
    ) -> None:
        self.task, self.data, self.family, self.recipe = task, data, family, recipe
        self.run, self.device, self.tick, self.crew = run, device, tick, crew or Crew()
        self.knowledge, self.recipe_name = knowledge, recipe_name
        self.altered = altered
        self.ways = {name: plain(parts) for name, parts in knowledge.items()}
        self.variant: Callable[[str], Trainings] | None = None
        self.student: nn.Module | None = None
        self.trained_here: dict[str, str] = {}
        self._shelf = Shelf(run, family)
        self.sources = Sources(task, data, self._shelf, device, self.crew, self._mark)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, where nobody listens."""
        return self.__dict__ | dict.fromkeys(("tick", "variant"))

    def lend(self, key: str, model: nn.Module, training: str = "") -> None:
        """Make a model known as a source: "teacher", "checkpoint:0"; `training` when it was trained here."""
        self.sources.lend(key, model)
        if training:
            self.trained_here[key] = training

    def model(self, training: Training) -> nn.Module:
        """The trained model, on CPU, in eval mode; its file is checked against the recorded hash."""
        return self._shelf.model(training)

    def arm(self, path: Sequence[Size], recipe: str, seed: int, fraction: float = 1.0) -> Training:
        """Train the last size of a path; its prefix is trained first, alike, unless it is there."""

        def trained(above: Sequence[Size]) -> str:
            return self.arm(above, recipe, seed, fraction).key

        stage = self._arm_stage(path, recipe, fraction)
        sources = self._arm_sources(path, recipe, trained)
        return self.stage(stage, seed, sources, recipe, fraction, path)

    def done(
        self, path: Sequence[Size], recipe: str, seed: int, fraction: float = 1.0
    ) -> Training | None:
        """The arm's training when it is finished, None else; trains nothing."""
        return self._shelf.find(self._arm_key(path, recipe, seed, fraction))

    def _arm_key(self, path: Sequence[Size], recipe: str, seed: int, fraction: float) -> str:
        """The key of an arm, trained or not."""
        stage = self._arm_stage(path, recipe, fraction)
        sources = self._arm_sources(
            path, recipe, lambda above: self._arm_key(above, recipe, seed, fraction)
        )
        return self._key(stage, self.recipe.changed(stage.recipe), seed, sources)

    def _arm_stage(self, path: Sequence[Size], recipe: str, fraction: float) -> Stage:
        """The last hop of a path, its sources by the names that `_arm_sources` has the keys of."""
        if recipe not in self.ways:
            raise unknown("knowledge", recipe, self.ways)
        if (recipe == "scratch") != (len(path) == 1):
            raise InputError(
                "Expected a path of one size for 'scratch', from the teacher down for all else, but "
                f"got {tuple(path)} by {recipe!r}"
            )
        names = self._arm_sources(path, recipe, lambda above: f"size {above[-1]}")
        changes = {} if fraction == 1.0 else {"epochs": self.epochs(fraction)}
        return self.ways[recipe].stage(f"size {path[-1]}", path[-1], names, recipe=changes)

    def _arm_sources(
        self, path: Sequence[Size], recipe: str, name: Callable[[Sequence[Size]], str]
    ) -> tuple[str, ...]:
        """Who teaches the last model of a path: the way's own sources, or the models before it by `name`."""
        way = self.ways[recipe]
        if len(path) <= 2:
            return way.sources
        above = [tuple(path[:n]) for n in range(2, len(path))]
        return way.taught_by([name(part) for part in above])

    def epochs(self, fraction: float) -> int:
        """Epochs of a fraction of the recipe."""
        return max(1, round(self.recipe.epochs * fraction))

    def stage(
        self,
        stage: Stage,
        seed: int,
        sources: Sequence[str],
        recipe: str = "",
        fraction: float = 0.0,
        path: Sequence[Size] = (),
    ) -> Training:
        """Train one stage with one seed from sources given by key, or take what is there.

        Its path is that of its first source and its size, unless one is given.
        """
        effective = self.recipe.changed(stage.recipe)
        key = self._key(stage, effective, seed, sources)
        done = self._shelf.find(key)
        if done is not None:
            return done
        job, said = self._job(stage, effective, seed, sources, key)
        self._lead(stage, seed, sources, key)
        curve = Loop(job, self.task, self.data, self.device, self.crew).run(self.tick)
        above = self.sources[sources[0]].path if sources else ()
        path = tuple(path) or (*above, self.family.known(stage.size))
        fraction = fraction or effective.epochs / self.recipe.epochs
        recipe = recipe or self._recipe_name(stage, path, seed, fraction, key)
        training = scored(job, curve, key, path, self.sources)
        training = training.with_(recipe=recipe, fraction=fraction, notes=said)
        self._shelf.put(training)
        Checkpoints(job.folder).clear()
        return training

    def _lead(self, stage: Stage, seed: int, sources: Sequence[str], key: str) -> None:
        """Have the other processes train along; see `follow`."""
        self.crew.tell(
            {
                "stage": stage.model_dump(mode="json"),
                "seed": seed,
                "sources": list(sources),
                "key": key,
                "trained_here": self.trained_here,
                "altered": self.altered,
            }
        )

    def follow(self) -> None:
        """Train along with the first process until it is done; nothing is decided or written here."""
        while (order := self.crew.hear()) is not None:
            for key, training in order["trained_here"].items():
                self._take(key, training)
            asked = self.variant(order["altered"]) if order["altered"] and self.variant else self
            asked._train_along(Stage.model_validate(order["stage"]), order)

    def _train_along(self, stage: Stage, order: Mapping[str, Any]) -> None:
        effective = self.recipe.changed(stage.recipe)
        job, _ = self._job(stage, effective, order["seed"], order["sources"], order["key"])
        with contextlib.suppress(TrainingFailed):  # the first process says so
            Loop(job, self.task, self.data, self.device, self.crew).run()

    def _take(self, key: str, training: str) -> None:
        """Know a model that the first process trained as the teacher or the failing student."""
        found = self._shelf.record(training)
        if found is None:
            raise unknown("training", training, ())
        if key == "student":
            self.student = self.student or self.model(found)
        elif key not in self.sources:
            self.lend(key, self.model(found))

    def _recipe_name(
        self, stage: Stage, path: tuple[Size, ...], seed: int, fraction: float, key: str
    ) -> str:
        """The knowledge's name when the stage is an arm, so that the planner knows it again; its words else."""
        for name in self.ways:
            fits = (name == "scratch") == (len(path) == 1)
            if fits and self._arm_key(path, name, seed, fraction) == key:
                return name
        return stage.learns

    def finished(self, stage: Stage, seed: int, sources: Sequence[str]) -> Training | None:
        """The stage's training when it is there, None else; trains nothing."""
        return self._shelf.find(self._key(stage, self.recipe.changed(stage.recipe), seed, sources))

    @property
    def _mark(self) -> dict[str, str]:
        return {"altered": self.altered} if self.altered else {}

    def _key(self, stage: Stage, recipe: Recipe, seed: int, sources: Sequence[str]) -> str:
        """A readable name, and a hash of everything that decides the weights."""
        spec = {
            "size": str(stage.size),
            "init": stage.init,
            "scheme": stage.scheme,
            "peers": [str(size) for size in stage.peers],
            "exits": list(stage.exits),
            "source_weights": list(stage.source_weights),
            "world": self.crew.world,
            "phases": [phase.model_dump(mode="json") for phase in stage.phases],
            "recipe": recipe.model_dump(mode="json", exclude={"knowledge"}),
            "seed": seed,
            "sources": list(sources),
        } | self._mark
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:10]
        return f"{plain_name(str(stage.size))[:24]}-s{seed}-{digest}"

    def _job(
        self, stage: Stage, recipe: Recipe, seed: int, sources: Sequence[str], key: str
    ) -> tuple[Job, tuple[str, ...]]:
        """The training, and what must be said of its start."""
        known = tuple(self.sources[name] for name in sources)
        knowledge = tuple(part for phase in stage.phases for part in phase.knowledge)
        stage = _renamed(stage, sources)
        kept = tuple(self.sources.kept(name, knowledge, recipe.top_k) for name in sources)
        model, said = self._initial(stage, seed, known)
        check_outputs(model, stage, known, self.sources)
        peers = tuple(
            self.family.fresh(size, _peer_seed(seed, number))
            for number, size in enumerate(stage.peers)
        )
        widens = any(phase.widens for phase in stage.phases)
        surest = self.sources.surest(sources[0]) if widens else None
        folder = self._shelf.folder(key)
        return Job(model, stage, recipe, seed, known, kept, folder, peers, surest), said

    def _initial(
        self, stage: Stage, seed: int, known: Sequence[Source]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """The model that a stage starts from, and what of it was inherited."""
        model = self.family.fresh(stage.size, seed)
        if stage.init == "fresh":
            return model, ()
        source = next((source.model for source in known), None)
        state, said = starting_weights(stage, model, self.student, source)
        model.load_state_dict(state)
        return model, said


def _peer_seed(seed: int, number: int) -> int:
    """The seed of a peer's first weights."""
    return int(np.random.SeedSequence([seed, number + 1]).generate_state(1)[0])


def _renamed(stage: Stage, keys: Sequence[str]) -> Stage:
    """The stage with its sources called by their keys, in its phases too."""
    if tuple(keys) == stage.sources:
        return stage
    phases = stage.phases
    if any(phase.sources for phase in phases):
        names = dict(zip(stage.sources, keys, strict=True))
        phases = tuple(
            phase.with_(sources=tuple(names[source] for source in phase.sources))
            for phase in phases
        )
    return stage.with_(sources=tuple(keys), phases=phases)
