"""Answers: what a model says about the samples of a split, computed in batches or looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Data
from gapkit.family import Size
from gapkit.guest import guest, moved, seeded
from gapkit.knowledge import Knowledge
from gapkit.task import Task
from gapkit.teaching.taps import Taps, ask, pooled

OUTPUTS, WHOLE, POOLED = "outputs", "features/", "pooled/"
BATCH = 512


@dataclass(frozen=True)
class Source:
    """A model that teaches.

    Attributes:
        key: its folder's name among the trainings, or "teacher", or "checkpoint:0".
        path: sizes from the teacher to it.
        sees: whose view it is called with: "teacher", or "student" for models of the family.
    """

    key: str
    path: tuple[Size, ...]
    model: nn.Module
    sees: Literal["teacher", "student"]


class Kept(Protocol):
    """Answers that are there already, a row a sample."""

    def rows(self, positions: np.ndarray) -> Mapping[str, Tensor]:
        """Name -> (b, ...) of the samples at these positions of the split."""


@dataclass(frozen=True)
class Memory:
    """Kept answers in memory: name -> (n, ...)."""

    tables: Mapping[str, Tensor]

    def rows(self, positions: np.ndarray) -> dict[str, Tensor]:
        index = torch.from_numpy(positions)
        return {name: table[index] for name, table in self.tables.items()}


def predict(
    model: nn.Module,
    data: Data,
    split: str,
    task: Task,
    device: str | torch.device = "cpu",
    *,
    sees: str = "student",
    positions: np.ndarray | None = None,
    batch_size: int = BATCH,
) -> Tensor:
    """A model's outputs (n, ...) on a split in its order, float32 on CPU.

    The model stays as it was, and so do the random states outside: data or a model that draws at
    random draws alike at every call.
    """
    source = Source("", (), model, "teacher" if sees == "teacher" else "student")
    parts = [
        rows[OUTPUTS].float()
        for _, rows in answers(source, data, split, task, device, (), positions, batch_size)
    ]
    return torch.cat(parts)


def answers(
    source: Source,
    data: Data,
    split: str,
    task: Task,
    device: str | torch.device,
    names: Sequence[str] = (),
    positions: np.ndarray | None = None,
    batch_size: int = BATCH,
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """(positions, name -> rows on CPU) batch by batch: outputs, and the features that are named.

    Args:
        names: "features/LAYER" for whole outputs of a layer, "pooled/LAYER" for one vector a sample.
    """
    view = data.teacher_view if source.sees == "teacher" else data.student_view
    layers = [name.partition("/")[2] for name in names]
    with (
        guest(source.model),
        seeded(0),
        Taps(source.model, layers, "teacher") as taps,
    ):
        for batch in data.batches(split, batch_size, positions):
            with torch.no_grad():  # not around the yield: whoever listens may want gradients
                answer = ask(source.model, view(moved(batch.raw, device)), task.outputs, taps)
            rows = {OUTPUTS: answer.outputs}
            for name, layer in zip(names, layers):
                shown = answer.features[layer]
                rows[name] = pooled(shown, answer.mask) if name.startswith(POOLED) else shown
            yield batch.positions, {name: tensor.cpu() for name, tensor in rows.items()}


def feature_names(knowledge: Sequence[Knowledge]) -> tuple[str, ...]:
    """What must be kept of a teacher's layers: whole outputs, or vectors where only those count."""
    whole = {pair[1] for part in knowledge if not part.pool for pair in part.layers}
    names = dict.fromkeys(
        (WHOLE if pair[1] in whole else POOLED) + pair[1]
        for part in knowledge
        for pair in part.layers
    )
    return tuple(names)
