"""Trainings: every model that the study trains, each once, kept by what it was trained from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Data
from gapkit.distiller import Job, Loop, Source, predict
from gapkit.errors import InputError, unknown
from gapkit.family import Family, Size
from gapkit.guest import call, guest, seeded
from gapkit.outcome import Training
from gapkit.plans import Knowledge, Phase, Stage
from gapkit.prices import training_flops
from gapkit.recipe import Recipe
from gapkit.runs import Run
from gapkit.task import Task

TRAIN_SAMPLES = 2000


class Trainings:
    """Trains stages and arms, keeps the results under the run folder, and never trains one twice.

    An arm is what planner and controls speak of: a path of sizes, a named knowledge, a seed and a
    fraction of the recipe's epochs. A stage is the same with everything spelled out.

    Args:
        task, data, family, recipe: of the study.
        run: the folder.
        device: where trainings run.
        knowledge: name -> knowledge of the arms; recipe_name: the one that the failing student had.
        tick: hears the share of the current training that is done.
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
        tick: Callable[[float], None] | None = None,
    ) -> None:
        self.task, self.data, self.family, self.recipe = task, data, family, recipe
        self.run, self.device, self.tick = run, device, tick
        self.knowledge, self.recipe_name = knowledge, recipe_name
        self.student: nn.Module | None = None
        self._sources: dict[str, Source] = {}
        self._outputs: dict[tuple[str, str], Tensor] = {}

    def lend(self, key: str, model: nn.Module, sees: Any = "teacher") -> None:
        """Make a model known as a source: "teacher", "checkpoint:0"."""
        size = self.family.teacher if self.family.teacher is not None else "teacher"
        self._sources[key] = Source(key, (size,), model, sees)

    @property
    def n_checkpoints(self) -> int:
        """Earlier states of the teacher that were lent."""
        return sum(key.startswith("checkpoint:") for key in self._sources)

    def source(self, key: str) -> Source:
        """A lent model, or a finished training's."""
        if key not in self._sources:
            training = self.run.load(f"trainings/{key}/training", Training)
            if training is None:
                raise unknown("source", key, self._sources)
            self._sources[key] = Source(key, training.path, self.model(training), "student")
        return self._sources[key]

    def outputs(self, key: str, split: str) -> Tensor:
        """A source's outputs (n, ...) on a split, computed once."""
        if (key, split) not in self._outputs:
            source = self.source(key)
            source.model.to(self.device)
            self._outputs[key, split] = predict(
                source.model, self.data, split, self.task, self.device, sees=source.sees
            )
        return self._outputs[key, split]

    def arm(self, path: Sequence[Size], recipe: str, seed: int, fraction: float = 1.0) -> Training:
        """Train the last size of a path; its prefix is trained first, alike, unless it is there."""
        stage = self._arm_stage(path, recipe, fraction)
        sources: tuple[str, ...] = ()
        if stage.sources:
            above = tuple(path[:-1])
            taught_by_teacher = len(above) == 1
            sources = (
                "teacher" if taught_by_teacher else self.arm(above, recipe, seed, fraction).key,
            )
        return self.stage(stage, seed, sources, recipe, fraction)

    def done(
        self, path: Sequence[Size], recipe: str, seed: int, fraction: float = 1.0
    ) -> Training | None:
        """The arm's training when it is finished, None else; trains nothing."""
        return self._finished(self._arm_key(path, recipe, seed, fraction))

    def _arm_key(self, path: Sequence[Size], recipe: str, seed: int, fraction: float) -> str:
        """The key of an arm, trained or not."""
        stage = self._arm_stage(path, recipe, fraction)
        sources: tuple[str, ...] = ()
        if stage.sources:
            above = tuple(path[:-1])
            one_hop = len(above) == 1
            sources = ("teacher" if one_hop else self._arm_key(above, recipe, seed, fraction),)
        return self._key(stage, self.recipe.changed(stage.recipe), seed, sources)

    def _arm_stage(self, path: Sequence[Size], recipe: str, fraction: float) -> Stage:
        if recipe not in self.knowledge:
            raise unknown("knowledge", recipe, self.knowledge)
        if (recipe == "scratch") != (len(path) == 1):
            raise InputError(
                "Expected a path of one size for 'scratch', from the teacher down for all else, but "
                f"got {tuple(path)} by {recipe!r}"
            )
        return Stage(
            name=f"size {path[-1]}",
            size=path[-1],
            sources=() if recipe == "scratch" else ("teacher",),
            recipe={} if fraction == 1.0 else {"epochs": self.epochs(fraction)},
            phases=(Phase(knowledge=self.knowledge[recipe]),),
        )

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
    ) -> Training:
        """Train one stage with one seed from sources given by key, or take what is there."""
        effective = self.recipe.changed(stage.recipe)
        key = self._key(stage, effective, seed, sources)
        done = self._finished(key)
        if done is not None:
            return done
        job = self._job(stage, effective, seed, sources, key)
        curve = Loop(job, self.task, self.data, self.device).run(self.tick)
        above = self.source(sources[0]).path if sources else ()
        path = (*above, self.family.known(stage.size))
        fraction = fraction or effective.epochs / self.recipe.epochs
        recipe = recipe or self._recipe_name(stage, path, seed, fraction, key)
        training = self._record(job, curve, key, path)
        training = training.with_(recipe=recipe, fraction=fraction)
        self.run.save(f"trainings/{key}/training", training)
        (job.folder / "checkpoint.pt").unlink(missing_ok=True)
        return training

    def _recipe_name(
        self, stage: Stage, path: tuple[Size, ...], seed: int, fraction: float, key: str
    ) -> str:
        """The knowledge's name when the stage is an arm, so that the planner knows it again; its words else."""
        for name in self.knowledge:
            fits = (name == "scratch") == (len(path) == 1)
            if fits and self._arm_key(path, name, seed, fraction) == key:
                return name
        return stage.learns

    def _finished(self, key: str) -> Training | None:
        training = self.run.load(f"trainings/{key}/training", Training)
        return training if training is not None and self._weights(key).exists() else None

    def _key(self, stage: Stage, recipe: Recipe, seed: int, sources: Sequence[str]) -> str:
        """A readable name, and a hash of everything that decides the weights."""
        spec = {
            "size": str(stage.size),
            "init": stage.init,
            "scheme": stage.scheme,
            "phases": [phase.model_dump(mode="json") for phase in stage.phases],
            "recipe": recipe.model_dump(mode="json", exclude={"knowledge"}),
            "seed": seed,
            "sources": list(sources),
        }
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:10]
        size = "".join(char if char.isalnum() else "-" for char in str(stage.size))[:24]
        return f"{size}-s{seed}-{digest}"

    def _job(
        self, stage: Stage, recipe: Recipe, seed: int, sources: Sequence[str], key: str
    ) -> Job:
        known = tuple(self.source(name) for name in sources)
        outputs = None
        if self.data.augment is None:
            outputs = tuple(self.outputs(name, "train") for name in sources)
        folder = self.run.path("trainings", key)
        model = self._initial(stage, seed, known)
        self._check_outputs(model, stage, known)
        return Job(model, stage, recipe, seed, known, outputs, folder)

    def _initial(self, stage: Stage, seed: int, sources: Sequence[Source]) -> nn.Module:
        model = self.family.fresh(stage.size, seed)
        if stage.init == "fresh":
            return model
        given = self.check_init(stage, next((source.model for source in sources), None))
        model.load_state_dict({name: given[name].detach().clone() for name in model.state_dict()})
        return model

    def check_init(self, stage: Stage, source: nn.Module | None) -> dict[str, Tensor]:
        """The state that a stage starts from (the student's, or its source's), refused when it cannot fit.

        Raises:
            InputError: when there is none, or names and shapes differ from the stage's size.
        """
        giver = self.student if stage.init == "student" else source
        if giver is None:
            raise InputError(
                f"Expected a model to start stage {stage.name!r} from ({stage.init}) but there is none"
            )
        given, wanted = giver.state_dict(), self.family.fresh(stage.size, 0).state_dict()
        differ = [
            name for name in wanted if name not in given or given[name].shape != wanted[name].shape
        ]
        if differ:
            raise InputError(
                f"Expected weights of the same shapes to start stage {stage.name!r} from ({stage.init}) "
                f"but {len(differ)} of {len(wanted)} differ, first {differ[0]!r}"
            )
        return given

    def _check_outputs(self, model: nn.Module, stage: Stage, sources: Sequence[Source]) -> None:
        if not sources or not any(
            part.kind == "response" for phase in stage.phases for part in phase.knowledge
        ):
            return
        first = np.arange(min(2, self.data.size("train")))
        with guest(model), seeded(0), torch.no_grad():
            batch = next(iter(self.data.batches("train", 2, first)))
            width = self.task.outputs(call(model, self.data.student_view(batch.raw))).shape[1:]
        for source in sources:
            theirs = self.outputs(source.key, "validation").shape[1:]
            if theirs != width:
                raise InputError(
                    f"Expected teacher and student to have the same classes but {source.key!r} gives "
                    f"{tuple(theirs)} and size {stage.size!r} gives {tuple(width)}"
                )

    def _record(self, job: Job, curve: Any, key: str, path: tuple[Size, ...]) -> Training:
        from safetensors.torch import save_model

        model = job.model
        positions = np.arange(self.data.size("train"))
        if len(positions) > TRAIN_SAMPLES:
            positions = np.sort(
                np.random.default_rng(0).choice(positions, TRAIN_SAMPLES, replace=False)
            )
        held = predict(model, self.data, "validation", self.task, self.device)
        seen = predict(model, self.data, "train", self.task, self.device, positions=positions)
        targets = {split: self._targets(split) for split in ("train", "validation")}
        teacher = (
            {split: self.outputs("teacher", split) for split in targets}
            if "teacher" in self._sources
            else {}
        )
        model.to("cpu")
        half = job.folder / ".weights.safetensors"
        save_model(model, str(half))
        digest = hashlib.sha256(half.read_bytes()).hexdigest()
        half.replace(self._weights(key))

        def agrees(split: str, outputs: Tensor) -> float:
            if not teacher:
                return 1.0  # the teacher itself
            others = (
                teacher[split][torch.from_numpy(positions)] if split == "train" else teacher[split]
            )
            return float(self.task.agreement(outputs, others).mean())

        return Training(
            key=key,
            path=path,
            recipe="",
            seed=job.seed,
            epochs=job.recipe.epochs,
            steps=curve.steps,
            seconds=curve.seconds,
            flops=training_flops(self.data, model, job.sources, job.recipe.epochs),
            curve_epoch=curve.epochs,
            curve_loss=curve.losses,
            curve_score=curve.scores,
            score=self.task.score(held, targets["validation"]),
            train_score=self.task.score(seen, targets["train"][torch.from_numpy(positions)]),
            agreement=agrees("validation", held),
            train_agreement=agrees("train", seen),
            contributions=self.task.contributions(held, targets["validation"]),
            weights_sha256=digest,
        )

    def _targets(self, split: str) -> Tensor:
        targets = self.data.targets(split)
        if targets is None:
            raise InputError(f"Expected targets on {split} but the data gives none")
        return targets

    def _weights(self, key: str) -> Path:
        return self.run.path("trainings", key, "weights.safetensors")

    def model(self, training: Training) -> nn.Module:
        """The trained model, on CPU, in eval mode; its file is checked against the recorded hash."""
        from safetensors.torch import load_model

        path = self._weights(training.key)
        if (
            not path.exists()
            or hashlib.sha256(path.read_bytes()).hexdigest() != training.weights_sha256
        ):
            raise InputError(
                f"Expected the weights of {training} in {path} but the file is missing or "
                f"changed; delete {path.parent} to train it again"
            )
        model = self.family.fresh(training.path[-1], training.seed)
        load_model(model, str(path))
        return model.eval()
