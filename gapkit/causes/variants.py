"""Variants: the study's training with one thing about it altered, for the controls that need one.

half the samples       every second sample of train gone, twice the epochs
another learning rate  one far below the recipe's, where it does better in short trainings (after Smith 1506.01186)
the teacher's view     the student sees what the teacher sees
an earlier teacher     the best of the teacher's earlier states teaches
teacher's architecture a fresh network like the teacher learns in the student's place
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from gapkit.distiller import TrainingFailed
from gapkit.family import Family
from gapkit.gap import ALIKE, EARLIER, HALF, LIKE_TEACHER, RATE, VIEW
from gapkit.guest import call, guest
from gapkit.plans import Phase, Stage
from gapkit.training.answers import predict
from gapkit.training.trainings import Trainings

RATES = (1.0, 0.1, 0.01)
SHORT = 0.1


def offered(trainings: Trainings) -> tuple[str, ...]:
    """The variants that this study has: views that differ, earlier teachers, a teacher of another family."""
    names = [HALF, RATE]
    if not trainings.data.same_view and _takes_the_teachers_view(trainings):
        names.append(VIEW)
    if trainings.sources.n_checkpoints:
        names.append(EARLIER)
    if trainings.family.teacher is None and trainings.data.same_view:
        names.append(LIKE_TEACHER)
    return tuple(names)


def _takes_the_teachers_view(trainings: Trainings) -> bool:
    """Whether a student can be called with what the teacher sees."""
    model = trainings.family.fresh(trainings.family.student, 0)
    batch = next(iter(trainings.data.batches("validation", 2)))
    try:
        with guest(model), torch.no_grad():
            call(model, trainings.data.teacher_view(batch.raw))
    except Exception:  # whatever a stranger's forward says of an input it was not made for
        return False
    return True


class Variants:
    """A study's trainings with one thing altered, each made once, when first asked for by name."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self._made: dict[str, Trainings] = {}

    def __call__(self, name: str) -> Trainings:
        if name not in self._made:
            self._made[name] = varied(self.trainings, name)
        return self._made[name]


def varied(trainings: Trainings, name: str) -> Trainings:
    """Those trainings with that one thing altered; they share the run folder under keys of their own.

    Where the recipe's own rate does best in short trainings there is nothing to alter: they are the study's own.
    """
    if name == RATE and best_rate(trainings) == 1.0:
        return trainings
    data, recipe, family = trainings.data, trainings.recipe, trainings.family
    teacher = trainings.sources["teacher"].model
    if name == HALF:
        data, recipe = data.thinned(2), recipe.with_(epochs=2 * recipe.epochs)
    elif name == RATE:
        recipe = recipe.with_(lr=recipe.lr * best_rate(trainings))
    elif name == VIEW:
        data = data.alike()
    elif name == LIKE_TEACHER:
        family = Family(lambda _: reinitialized(teacher), [ALIKE], teacher=ALIKE)
    altered = Trainings(
        trainings.task,
        data,
        family,
        recipe,
        trainings.run,
        knowledge=trainings.knowledge,
        recipe_name=trainings.recipe_name,
        device=trainings.device,
        crew=trainings.crew,
        altered=name,
    )
    if name == EARLIER:
        teacher = trainings.sources[best_checkpoint(trainings)].model
    altered.lend("teacher", teacher)
    return altered


def best_rate(trainings: Trainings) -> float:
    """The factor on the learning rate, of `RATES`, with which a tenth of the epochs reaches the highest score.

    Short trainings favor high rates: one far lower that wins them all the same is needed badly.
    """
    return max(RATES, key=lambda rate: _short_score(trainings, rate))


def price_of_rates(trainings: Trainings) -> float:
    """Student trainings that `best_rate` would cost now."""
    left = [rate for rate in RATES if trainings.finished(*_short(trainings, rate)) is None]
    return len(left) * trainings.epochs(SHORT) / trainings.recipe.epochs


def _short_score(trainings: Trainings, rate: float) -> float:
    try:
        score = trainings.stage(*_short(trainings, rate)).score
    except TrainingFailed:
        return -math.inf
    return -math.inf if math.isnan(score) else score


def _short(trainings: Trainings, rate: float) -> tuple[Stage, int, tuple[str, ...]]:
    """A tenth of a training of the student at that rate: stage, seed and sources."""
    taught = trainings.recipe_name != "scratch"
    stage = Stage(
        name=f"size {trainings.family.student}",
        size=trainings.family.student,
        sources=("teacher",) if taught else (),
        recipe={"epochs": trainings.epochs(SHORT), "lr": trainings.recipe.lr * rate},
        phases=(Phase(knowledge=trainings.knowledge[trainings.recipe_name]),),
    )
    return stage, 0, stage.sources


def best_checkpoint(trainings: Trainings) -> str:
    """The earlier teacher whose answers on validation lose least against the targets (the task's own loss)."""
    names = [f"checkpoint:{position}" for position in range(trainings.sources.n_checkpoints)]
    return min(names, key=lambda name: _loss(trainings, name))


def _loss(trainings: Trainings, name: str) -> float:
    source = trainings.sources[name]
    outputs = predict(
        source.model,
        trainings.data,
        "validation",
        trainings.task,
        trainings.device,
        sees=source.sees,
    )
    return float(trainings.task.loss(outputs, trainings.sources.reference("validation")))


def reinitialized(model: nn.Module) -> nn.Module:
    """A copy with fresh weights that all learn: each layer's own `reset_parameters`; what has none is shuffled.

    Shuffling keeps the scale that training gave a tensor and nothing else of it; a single number becomes 1.
    Draws from torch's random state.

    >>> fresh = reinitialized(nn.Linear(4, 2))
    >>> fresh.weight.shape
    torch.Size([2, 4])
    """
    fresh = copy.deepcopy(model).requires_grad_(True)
    reset: set[int] = set()
    for module in fresh.modules():
        reset_parameters = getattr(module, "reset_parameters", None)
        if callable(reset_parameters):
            reset_parameters()
            reset |= {id(tensor) for tensor in _own(module)}
    with torch.no_grad():
        for tensor in fresh.parameters():
            if id(tensor) not in reset:
                tensor.copy_(_shuffled(tensor))
    return fresh


def _own(module: nn.Module) -> list[Any]:
    return list(module.parameters(recurse=False))


def _shuffled(tensor: Tensor) -> Tensor:
    if tensor.numel() == 1:
        return torch.ones_like(tensor)
    return tensor.flatten()[torch.randperm(tensor.numel())].view_as(tensor)
