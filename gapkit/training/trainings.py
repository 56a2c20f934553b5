"""Trainings: every model that the study trains, each once, kept by what it was trained from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Data
from gapkit.distiller import Loop, Tick, TrainingFailed
from gapkit.errors import InputError, unknown
from gapkit.family import Family, Size
from gapkit.guest import call, guest, seeded
from gapkit.knowledge import Knowledge
from gapkit.outcome import Training
from gapkit.plans import Stage
from gapkit.recipe import Recipe
from gapkit.runs import Run
from gapkit.task import Task
from gapkit.teaching.ways import plain
from gapkit.training.answers import OUTPUTS, Source, answers, feature_names, predict
from gapkit.training.checkpoint import Checkpoints
from gapkit.training.crew import Crew
from gapkit.training.inherit import inherit
from gapkit.training.job import Curve, Job
from gapkit.training.prices import training_flops
from gapkit.training.teacher_cache import TeacherCache
from gapkit.training.weights import hash_weights

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
            `ways` holds how each name teaches; a plan may offer more (gapkit.teaching.ways).
        tick: hears the share of the current training that is done, and how it goes.
        crew: the processes that train together.
        altered: what differs from the study's own training; "" for nothing (see gapkit.causes.variants).
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
        self._sources: dict[str, Source] = {}
        self._outputs: dict[tuple[str, str], Tensor] = {}
        self._kept: dict[Path, TeacherCache | None] = {}
        self._whole: dict[str, TeacherCache] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For another process: what was kept in memory is made again there, and nobody listens."""
        kept = dict.fromkeys(("tick", "variant"))
        return self.__dict__ | kept | {"_outputs": {}, "_kept": {}, "_whole": {}}

    def lend(self, key: str, model: nn.Module, sees: Any = "teacher", training: str = "") -> None:
        """Make a model known as a source: "teacher", "checkpoint:0"; `training` when it was trained here."""
        size = self.family.teacher if self.family.teacher is not None else "teacher"
        self._sources[key] = Source(key, (size,), model, sees)
        if training:
            self.trained_here[key] = training

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
        """A source's outputs (n, ...) on a split, computed once; of train those of `sample`."""
        if (key, split) not in self._outputs and split == "train" and key in self._whole:
            rows = self._whole[key].rows(self.sample, [OUTPUTS])
            self._outputs[key, split] = rows[OUTPUTS].float()
        if (key, split) not in self._outputs:
            source = self.source(key)
            source.model.to(self.device)
            self._outputs[key, split] = predict(
                source.model,
                self.data,
                split,
                self.task,
                self.device,
                sees=source.sees,
                positions=self.sample if split == "train" else None,
            )
        return self._outputs[key, split]

    @cached_property
    def sample(self) -> np.ndarray:
        """Positions of train that are scored after each training: all, or a bounded sample of them."""
        positions = np.arange(self.data.size("train"))
        if len(positions) > TRAIN_SAMPLES:
            rng = np.random.default_rng(0)
            positions = np.sort(rng.choice(positions, TRAIN_SAMPLES, replace=False))
        return positions

    def kept(
        self, key: str, knowledge: Sequence[Knowledge], top_k: int | None
    ) -> TeacherCache | None:
        """A source's answers on train from files, made when they are not there.

        None when they take too much room, or change with every batch: the source is then asked anew.
        """
        if self.data.augment is not None:
            return None
        source, names = self.source(key), feature_names(knowledge)
        spec = {"source": key, "names": list(names), "top_k": top_k} | self._mark
        digest = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:10]
        folder = self.run.path("answers", f"{_plain(key)}-{digest}")
        if folder in self._kept:
            return self._kept[folder]
        identity = {"weights": hash_weights(source.model), "spec": json.dumps(spec)}
        ids = self.data.ids("train")
        found = TeacherCache.open(folder, identity, ids)
        if found is None and self.crew.leads:
            source.model.to(self.device)
            rows = answers(source, self.data, "train", self.task, self.device, names)
            found = TeacherCache.build(folder, identity, ids, rows, top_k=top_k)
        self._kept[folder] = found
        if found is not None and top_k is None:
            self._whole[key] = found
        return found

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
        return self._finished(self._arm_key(path, recipe, seed, fraction))

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
        done = self._finished(key)
        if done is not None:
            return done
        job, said = self._job(stage, effective, seed, sources, key)
        self._lead(stage, seed, sources, key)
        curve = Loop(job, self.task, self.data, self.device, self.crew).run(self.tick)
        above = self.source(sources[0]).path if sources else ()
        path = tuple(path) or (*above, self.family.known(stage.size))
        fraction = fraction or effective.epochs / self.recipe.epochs
        recipe = recipe or self._recipe_name(stage, path, seed, fraction, key)
        training = self._record(job, curve, key, path)
        training = training.with_(recipe=recipe, fraction=fraction, notes=said)
        self.run.save(f"trainings/{key}/training", training)
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
        found = self.run.load(f"trainings/{training}/training", Training)
        if found is None:
            raise unknown("training", training, ())
        if key == "student":
            self.student = self.student or self.model(found)
        elif key not in self._sources:
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
        return self._finished(self._key(stage, self.recipe.changed(stage.recipe), seed, sources))

    def _finished(self, key: str) -> Training | None:
        training = self.run.load(f"trainings/{key}/training", Training)
        return training if training is not None and self._weights(key).exists() else None

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
        return f"{_plain(str(stage.size))[:24]}-s{seed}-{digest}"

    def _job(
        self, stage: Stage, recipe: Recipe, seed: int, sources: Sequence[str], key: str
    ) -> tuple[Job, tuple[str, ...]]:
        """The training, and what must be said of its start."""
        known = tuple(self.source(name) for name in sources)
        knowledge = tuple(part for phase in stage.phases for part in phase.knowledge)
        stage = _renamed(stage, sources)
        kept = tuple(self.kept(name, knowledge, recipe.top_k) for name in sources)
        model, said = self._initial(stage, seed, known)
        self._check_outputs(model, stage, known)
        peers = tuple(
            self.family.fresh(size, _peer_seed(seed, number))
            for number, size in enumerate(stage.peers)
        )
        surest = None
        if any(phase.widens for phase in stage.phases):
            surest = self._surest(known[0])
        folder = self.run.path("trainings", key)
        return Job(model, stage, recipe, seed, known, kept, folder, peers, surest), said

    def _surest(self, source: Source) -> np.ndarray:
        """(n,) positions of train, those first whose answer the source is surest of."""
        parts = []
        for _, rows in answers(source, self.data, "train", self.task, self.device):
            outputs = rows[OUTPUTS].float()
            if self.task.kind == "multilabel":
                sure = (outputs.sigmoid() - 0.5).abs().mean(1)
            else:
                sure = outputs.softmax(-1).amax(-1)
            parts.append(sure.flatten(1).mean(1) if sure.ndim > 1 else sure)
        return np.argsort(-torch.cat(parts).numpy(), kind="stable")

    def _initial(
        self, stage: Stage, seed: int, sources: Sequence[Source]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """The model that a stage starts from, and what of it was inherited."""
        model = self.family.fresh(stage.size, seed)
        if stage.init == "fresh":
            return model, ()
        state, said = self.start(stage, model, next((source.model for source in sources), None))
        model.load_state_dict(state)
        return model, said

    def start(
        self, stage: Stage, model: nn.Module, source: nn.Module | None
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """The weights that a fresh model takes over from the failing student, or from its source.

        Raises:
            InputError: when there is none to take from, when the student's names and shapes differ, or
                when nothing of the source fits.
        """
        giver = self.student if stage.init == "student" else source
        if giver is None:
            raise InputError(
                f"Expected a model to start stage {stage.name!r} from ({stage.init}) but there is none"
            )
        given, wanted = giver.state_dict(), model.state_dict()
        if stage.init == "inherit":
            found = inherit(given, wanted)
            return found.state, (str(found),)
        differ = [
            name for name in wanted if name not in given or given[name].shape != wanted[name].shape
        ]
        if differ:
            raise InputError(
                f"Expected weights of the same shapes to start stage {stage.name!r} from ({stage.init}) "
                f"but {len(differ)} of {len(wanted)} differ, first {differ[0]!r}"
            )
        return {name: given[name].detach().clone() for name in wanted}, ()

    def _check_outputs(self, model: nn.Module, stage: Stage, sources: Sequence[Source]) -> None:
        if not self.task.same_shape or not any(
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

    def _record(self, job: Job, curve: Curve, key: str, path: tuple[Size, ...]) -> Training:
        """Keep the weights of the model, or of the best peer of its size, and what it scores."""
        targets = {split: self.reference(split) for split in ("train", "validation")}
        scores = [self._score(model, targets["validation"]) for model in (job.model, *job.peers)]
        alike = [0] + [i for i, size in enumerate(job.stage.peers, 1) if size == job.stage.size]
        best = max(alike, key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])
        model = (job.model, *job.peers)[best]
        held = predict(model, self.data, "validation", self.task, self.device)
        seen = predict(model, self.data, "train", self.task, self.device, positions=self.sample)
        flops = training_flops(self.data, model, job.sources, job.recipe.epochs, job.kept)
        flops += sum(training_flops(self.data, peer, (), job.recipe.epochs) for peer in job.peers)
        model.to("cpu")
        return Training(
            key=key,
            path=path,
            recipe="",
            seed=job.seed,
            epochs=job.recipe.epochs,
            steps=curve.steps,
            seconds=curve.seconds,
            flops=flops,
            curve_epoch=curve.epochs,
            curve_loss=curve.losses,
            curve_score=curve.scores,
            score=self.task.score(held, targets["validation"]),
            train_score=self.task.score(seen, targets["train"]),
            agreement=self._agreement("validation", held),
            train_agreement=self._agreement("train", seen),
            contributions=self.task.contributions(held, targets["validation"]),
            peer_scores=tuple(scores) if job.peers else (),
            weights_sha256=self._write_weights(model, key),
        )

    def _score(self, model: nn.Module, targets: Tensor) -> float:
        return self.task.score(
            predict(model, self.data, "validation", self.task, self.device), targets
        )

    def _agreement(self, split: str, outputs: Tensor) -> float:
        """With the study's teacher; 1 for the teacher itself, before there is one."""
        if "teacher" not in self._sources:
            return 1.0
        return float(self.task.agreement(outputs, self.outputs("teacher", split)).mean())

    def _write_weights(self, model: nn.Module, key: str) -> str:
        """Write the weights whole or not at all; returns their hash."""
        from safetensors.torch import save_model

        half = self._weights(key).with_name(".weights.safetensors")
        save_model(model, str(half))
        digest = hashlib.sha256(half.read_bytes()).hexdigest()
        half.replace(self._weights(key))
        return digest

    def reference(self, split: str) -> Tensor:
        """What outputs on a split are held against; of train those of `sample`.

        The targets; for an embedding without any, the teacher's own vectors.
        """
        targets = self.data.targets(split)
        if targets is not None:
            return targets[torch.from_numpy(self.sample)] if split == "train" else targets
        if self.task.kind == "embedding" and "teacher" in self._sources:
            return self.outputs("teacher", split)
        raise InputError(f"Expected targets on {split} but the data gives none")

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


def _plain(name: str) -> str:
    """A name as part of a folder's."""
    return "".join(char if char.isalnum() else "-" for char in name)


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
