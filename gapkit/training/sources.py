"""Sources: the models that teach, and what they answer on the study's data, computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Data
from gapkit.errors import InputError, unknown
from gapkit.knowledge import Knowledge
from gapkit.task import Task
from gapkit.training.answers import OUTPUTS, Source, answers, feature_names, predict
from gapkit.training.crew import Crew
from gapkit.training.shelf import Shelf
from gapkit.training.teacher_cache import TeacherCache
from gapkit.training.weights import hash_weights

TRAIN_SAMPLES = 2000


class Sources:
    """Models lent to a study ("teacher", "checkpoint:0") and its finished trainings, by key.

    Args:
        task, data: of the study.
        shelf: its finished trainings.
        device: where models answer.
        crew: the processes that train together; the first writes answers to files.
        mark: what tells an altered study's files from the study's own.
    """

    def __init__(
        self,
        task: Task,
        data: Data,
        shelf: Shelf,
        device: str | torch.device,
        crew: Crew,
        mark: Mapping[str, str],
    ) -> None:
        self.task, self.data, self.shelf = task, data, shelf
        self.device, self.crew, self.mark = device, crew, dict(mark)
        self._known: dict[str, Source] = {}
        self._outputs: dict[tuple[str, str], Tensor] = {}
        self._kept: dict[Path, TeacherCache | None] = {}
        self._whole: dict[str, TeacherCache] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For another process: what was kept in memory is made again there."""
        return self.__dict__ | {"_outputs": {}, "_kept": {}, "_whole": {}}

    def __contains__(self, key: str) -> bool:
        """Whether a model of that key was lent, or asked for."""
        return key in self._known

    def __getitem__(self, key: str) -> Source:
        """A lent model, or a finished training's."""
        if key not in self._known:
            training = self.shelf.record(key)
            if training is None:
                raise unknown("source", key, self._known)
            self._known[key] = Source(key, training.path, self.shelf.model(training), "student")
        return self._known[key]

    def lend(self, key: str, model: nn.Module) -> None:
        """Make a model known as a source: "teacher", "checkpoint:0"."""
        size = self.shelf.family.teacher
        self._known[key] = Source(key, ("teacher" if size is None else size,), model, "teacher")

    @property
    def n_checkpoints(self) -> int:
        """Earlier states of the teacher that were lent."""
        return sum(key.startswith("checkpoint:") for key in self._known)

    def outputs(self, key: str, split: str) -> Tensor:
        """A source's outputs (n, ...) on a split, computed once; of train those of `sample`."""
        if (key, split) not in self._outputs and split == "train" and key in self._whole:
            rows = self._whole[key].rows(self.sample, [OUTPUTS])
            self._outputs[key, split] = rows[OUTPUTS].float()
        if (key, split) not in self._outputs:
            source = self[key]
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

    def reference(self, split: str) -> Tensor:
        """What outputs on a split are held against; of train those of `sample`.

        The targets; for an embedding without any, the teacher's own vectors.
        """
        targets = self.data.targets(split)
        if targets is not None:
            return targets[torch.from_numpy(self.sample)] if split == "train" else targets
        if self.task.kind == "embedding" and "teacher" in self:
            return self.outputs("teacher", split)
        raise InputError(f"Expected targets on {split} but the data gives none")

    def agreement(self, split: str, outputs: Tensor) -> float:
        """Of outputs with the study's teacher; 1 for the teacher itself, before there is one."""
        if "teacher" not in self:
            return 1.0
        return float(self.task.agreement(outputs, self.outputs("teacher", split)).mean())

    def kept(
        self, key: str, knowledge: Sequence[Knowledge], top_k: int | None
    ) -> TeacherCache | None:
        """A source's answers on train from files, made when they are not there.

        None when they take too much room, or change with every batch: the source is then asked anew.
        """
        if self.data.augment is not None:
            return None
        source, names = self[key], feature_names(knowledge)
        spec = {"source": key, "names": list(names), "top_k": top_k} | self.mark
        digest = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:10]
        folder = self.shelf.run.path("answers", f"{plain_name(key)}-{digest}")
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

    def surest(self, key: str) -> np.ndarray:
        """(n,) positions of train, those first whose answer the source is surest of."""
        parts = []
        for _, rows in answers(self[key], self.data, "train", self.task, self.device):
            outputs = rows[OUTPUTS].float()
            if self.task.kind == "multilabel":
                sure = (outputs.sigmoid() - 0.5).abs().mean(1)
            else:
                sure = outputs.softmax(-1).amax(-1)
            parts.append(sure.flatten(1).mean(1) if sure.ndim > 1 else sure)
        return np.argsort(-torch.cat(parts).numpy(), kind="stable")


def plain_name(name: str) -> str:
    """A name as part of a folder's."""
    return "".join(char if char.isalnum() else "-" for char in name)
