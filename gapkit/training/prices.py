"""Prices: what training each size costs, before it starts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from gapkit.data import Data
from gapkit.distiller import Loop
from gapkit.errors import unknown
from gapkit.family import Family, Size, activation_bytes, count_flops, count_parameters
from gapkit.guest import call, guest, moved, seeded
from gapkit.knowledge import MENUS
from gapkit.plans import Cost, Phase, Stage
from gapkit.recipe import Recipe
from gapkit.record import Record
from gapkit.task import Task
from gapkit.training.answers import OUTPUTS, Memory, Source
from gapkit.training.job import Job

WARM_UP_STEPS = 12
OPTIMIZER_COPIES = 4  # weights, gradients and AdamW's two moments


class Prices(Record):
    """What one full training of each size costs; the student's is the unit of every budget."""

    costs: dict[str, Cost]

    def of(self, size: Size, fraction: float = 1.0) -> Cost:
        """The cost of training that size for a fraction of the recipe's epochs."""
        if str(size) not in self.costs:
            raise unknown("priced size", size, self.costs)
        return self.costs[str(size)].times(fraction)

    def trainings(self, size: Size, fraction: float = 1.0) -> float:
        """The same in student trainings alone."""
        return self.of(size, fraction).student_trainings


def training_flops(
    data: Data,
    model: nn.Module,
    sources: Sequence[Source],
    epochs: int,
    kept: Sequence[object] | None = None,
) -> float:
    """FLOPs of a training: forward and twice that backward; sources once, or every epoch when not kept."""
    n = data.size("train")
    with seeded(0):
        batch = next(iter(data.batches("train", 1, np.arange(1))))
    raw = moved(batch.raw, _device(model))
    total = 3.0 * epochs * n * count_flops(model, data.student_view(raw))
    for position, source in enumerate(sources):
        view = data.teacher_view if source.sees == "teacher" else data.student_view
        once = data.augment is None and (kept is None or kept[position] is not None)
        raw = moved(batch.raw, _device(source.model))
        total += (1 if once else epochs) * n * count_flops(source.model, view(raw))
    return total


def _device(model: nn.Module) -> torch.device:
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def measure_prices(
    task: Task,
    data: Data,
    family: Family,
    recipe: Recipe,
    teacher: nn.Module,
    device: str = "cpu",
) -> Prices:
    """Time a few training steps of every size, with the teacher's outputs as a training has them.

    The unit is seconds, or FLOPs where the clock shows none; `Cost.unit_from` says which of the two.
    """
    size = family.teacher if family.teacher is not None else "teacher"
    source = Source("teacher", (size,), teacher, "teacher")
    with seeded(0):
        raw = {
            size: _price(task, data, family.fresh(size, 0), recipe, source, device, size)
            for size in family.sizes
        }
    unit = raw[family.student]
    by_seconds = unit.seconds > 0
    by: Literal["seconds", "FLOPs"] = "seconds" if by_seconds else "FLOPs"

    def share(cost: Cost) -> float:
        return cost.seconds / unit.seconds if by_seconds else cost.flops / max(unit.flops, 1.0)

    return Prices(
        costs={
            str(member): cost.with_(student_trainings=round(share(cost), 3), unit_from=by)
            for member, cost in raw.items()
        }
    )


def _price(
    task: Task,
    data: Data,
    model: nn.Module,
    recipe: Recipe,
    source: Source,
    device: str,
    size: Size,
) -> Cost:
    teacher = source.model
    batch = next(iter(data.batches("train", recipe.batch_size)))
    view = data.student_view(batch.raw)
    memory = OPTIMIZER_COPIES * 4 * count_parameters(model) + activation_bytes(model, view)
    memory += 4 * count_parameters(teacher)
    flops = training_flops(data, model, [source], recipe.epochs)
    stage = Stage(
        name=f"price of {size}",
        size=size,
        sources=("teacher",),
        phases=(Phase(knowledge=list(MENUS[task.kind].values())[1]),),
    )
    kept = None
    if data.augment is None:  # kept in a training: a look-up in a table of this shape
        raw = moved(batch.raw, _device(teacher))
        with guest(teacher), torch.no_grad():
            row = task.outputs(call(teacher, data.teacher_view(raw)))[:1].cpu()
        kept = Memory({OUTPUTS: row.expand(data.size("train"), *row.shape[1:])})
    # Long enough for the warm-up: a schedule refuses to be stepped beyond its end.
    lasting = recipe.with_(epochs=max(recipe.epochs, WARM_UP_STEPS))
    job = Job(model, stage, lasting, 0, (source,), (kept,), Path())
    with guest(teacher):
        step = _seconds_a_step(Loop(job, task, data, device))
    return Cost(
        flops=flops, seconds=step * recipe.steps(data.size("train")), memory_bytes=int(memory)
    )


def _seconds_a_step(loop: Loop) -> float:
    """Median seconds of a step after the first, loading included; batches as large as a training's."""
    ends = []
    loop.learner.train()
    epochs = range(loop.job.recipe.epochs)
    steps = itertools.chain.from_iterable(loop.steps(epoch) for epoch in epochs)
    for _ in itertools.islice(steps, WARM_UP_STEPS):
        loop.pending.values[-1].sum().item()  # waits for a GPU to be done
        ends.append(time.perf_counter())
    return float(np.median(np.diff(ends)))
