"""Prices: what training each size costs, before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from gapkit.data import Data
from gapkit.distiller import Job, Loop, Source
from gapkit.errors import unknown
from gapkit.family import Family, Size, activation_bytes, count_flops, count_parameters
from gapkit.guest import call, guest, moved, seeded
from gapkit.plans import Cost, Phase, Stage, knowledge_named
from gapkit.recipe import Recipe
from gapkit.record import Record
from gapkit.task import Task

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


def training_flops(data: Data, model: nn.Module, sources: Sequence[Source], epochs: int) -> float:
    """FLOPs of a training: forward and twice that backward; sources once, or every epoch when augmented."""
    n = data.size("train")
    with seeded(0):
        batch = next(iter(data.batches("train", 1, np.arange(1))))
    raw = moved(batch.raw, _device(model))
    total = 3.0 * epochs * n * count_flops(model, data.student_view(raw))
    for source in sources:
        view = data.teacher_view if source.sees == "teacher" else data.student_view
        passes = 1 if data.augment is None else epochs
        raw = moved(batch.raw, _device(source.model))
        total += passes * n * count_flops(source.model, view(raw))
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
    knowledge = (
        knowledge_named("kl4") if task.kind == "classification" else knowledge_named("scratch")
    )
    stage = Stage(
        name=f"price of {size}",
        size=size,
        sources=("teacher",),
        phases=(Phase(knowledge=knowledge),),
    )
    outputs = None
    if data.augment is None:  # cached in a training: a look-up in a table of this shape
        raw = moved(batch.raw, _device(teacher))
        with guest(teacher), torch.no_grad():
            row = task.outputs(call(teacher, data.teacher_view(raw))).shape[1:]
        outputs = (torch.zeros(data.size("train"), *row),)
    # Long enough for the warm-up: a schedule refuses to be stepped beyond its end.
    lasting = recipe.with_(epochs=max(recipe.epochs, WARM_UP_STEPS))
    job = Job(model, stage, lasting, 0, (source,), outputs, Path())
    with guest(teacher):
        step = _seconds_a_step(Loop(job, task, data, device), data)
    return Cost(
        flops=flops, seconds=step * recipe.steps(data.size("train")), memory_bytes=int(memory)
    )


def _seconds_a_step(loop: Loop, data: Data) -> float:
    """Median seconds of a step after the first, loading included; batches as large as a training's."""
    n, batch_size = data.size("train"), loop.job.recipe.batch_size
    order = np.resize(np.arange(n), WARM_UP_STEPS * min(n, batch_size))
    ends = []
    for batch in data.batches("train", min(n, batch_size), order):
        loop.step(batch, loop.job.stage.phases[0]).item()  # waits for a GPU to be done
        ends.append(time.perf_counter())
    return float(np.median(np.diff(ends)))
