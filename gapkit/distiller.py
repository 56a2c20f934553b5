"""Carries out one training of one Stage on lightning-fabric; a checkpoint every epoch; resumable.

Every random act of epoch e is seeded by (seed, e): order, dropout and augmentation. A checkpoint
therefore needs no random states: a resumed training is the uninterrupted one, bit for bit (on CPU,
with as many threads).
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Batch, Data
from gapkit.errors import InputError
from gapkit.family import Size
from gapkit.guest import call, guest, moved, seeded
from gapkit.plans import Phase, Stage
from gapkit.recipe import Recipe
from gapkit.schemes import scheme_named
from gapkit.task import Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger("gapkit")

CURVE_POINTS = 20
CHECKPOINT = "checkpoint.pt"


class TrainingFailed(InputError):
    """A training whose loss became nan or infinite; its last good checkpoint stays."""


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


@dataclass(frozen=True)
class Job:
    """One training, wholly specified.

    Attributes:
        model: the initialised model; trained in place.
        outputs: each source's outputs on train (n, ...), in the split's order; None when augmentation
            makes the sources see every batch anew.
        sources: the models that teach.
        folder: where the checkpoint lies.
    """

    model: nn.Module
    stage: Stage
    recipe: Recipe
    seed: int
    sources: tuple[Source, ...]
    outputs: tuple[Tensor, ...] | None
    folder: Path


@dataclass(frozen=True)
class Curve:
    """How a training went: mean loss and validation score at some epochs, steps and seconds in all."""

    epochs: np.ndarray
    losses: np.ndarray
    scores: np.ndarray
    steps: int
    seconds: float


def make_fabric(device: str | torch.device, precision: str) -> Fabric:
    """One device's fabric, without talk."""
    from lightning_fabric import Fabric

    device = torch.device(device)
    if device.type == "cpu" and precision.startswith("16"):
        raise InputError(
            f"Expected a precision that CPUs have but got {precision!r}; 'bf16-mixed' is one"
        )
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    devices = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision=precision)  # type: ignore[arg-type]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the weights that train."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if callable(recipe.optimizer):
        return recipe.optimizer(weights, recipe.lr)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            weights, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, recipe.lr, weight_decay=recipe.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, n_steps: int) -> Any:
    """The recipe's learning-rate schedule, stepped once a batch."""
    schedules = torch.optim.lr_scheduler
    if callable(recipe.schedule):
        return recipe.schedule(optimizer, n_steps)
    if recipe.schedule == "one_cycle":
        cycles = any(name in optimizer.defaults for name in ("momentum", "betas"))
        return schedules.OneCycleLR(
            optimizer, recipe.lr, total_steps=n_steps, cycle_momentum=cycles
        )
    if recipe.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=n_steps)
    return schedules.ConstantLR(optimizer, factor=1.0)


class Loop:
    """The epochs of one job.

    Args:
        job: what is trained.
        task, data: what outputs mean and where samples come from.
        device: where it runs; nothing moves to another silently.
    """

    def __init__(self, job: Job, task: Task, data: Data, device: str | torch.device) -> None:
        self.job, self.task, self.data = job, task, data
        self.steps_per_epoch = job.recipe.steps(data.size("train")) // job.recipe.epochs
        self.fabric = make_fabric(device, job.recipe.precision)
        self._dtype = _dtype(job.model)
        optimizer = make_optimizer(job.model, job.recipe)
        self.model, self.optimizer = self.fabric.setup(job.model, optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            self.schedule = make_schedule(
                self.optimizer.optimizer, job.recipe, self.steps_per_epoch * job.recipe.epochs
            )
        self.scheme = scheme_named(job.stage.scheme)
        self.outputs = None
        if job.outputs is not None:
            self.outputs = [table.to(self.fabric.device) for table in job.outputs]
        self.next_epoch, self.seconds = 0, 0.0
        self.points: list[tuple[int, float, float]] = []

    def run(self, tick: Callable[[float], None] | None = None) -> Curve:
        """Train to the end from wherever the checkpoint stands; `tick` hears the share that is done.

        The model keeps its dtype: a "bf16-true" or "64-true" training is converted back at the end.
        """
        self.resume()
        epochs = self.job.recipe.epochs
        teaching = [source.model for source in self.job.sources]
        with guest(*teaching):
            for model in teaching:
                model.to(self.fabric.device)
            while self.next_epoch < epochs:
                start = time.perf_counter()
                loss = self.epoch(self.next_epoch)
                self.next_epoch += 1
                if (
                    self.next_epoch % max(1, epochs // CURVE_POINTS) == 0
                    or self.next_epoch == epochs
                ):
                    self.points.append((self.next_epoch, loss, self.validate()))
                self.seconds += time.perf_counter() - start
                self.save()
                if tick:
                    tick(self.next_epoch / epochs)
        if _dtype(self.job.model) != self._dtype:
            self.job.model.to(self._dtype)
        epoch, losses, scores = np.array(self.points, dtype=float).T
        return Curve(epoch, losses, scores, self.steps_per_epoch * epochs, self.seconds)

    def epoch(self, index: int) -> float:
        """One pass over train; returns its mean loss."""
        seed = int(np.random.SeedSequence([self.job.seed, index]).generate_state(1)[0])
        order = np.random.default_rng([self.job.seed, index]).permutation(self.data.size("train"))
        order = order[: self._usable(len(order))]
        losses, positions = [], []
        with seeded(seed):
            self.model.train()
            for batch in self.data.batches("train", self.job.recipe.batch_size, order):
                losses.append(self.step(batch, self._phase(index)))
                positions.append(batch.positions)
        values = torch.stack(losses).float().cpu()
        if not values.isfinite().all():
            self._fail(index, values, positions)
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            raise TrainingFailed(
                f"Expected finite weights but the last step of epoch {index + 1} in stage "
                f"{self.job.stage.name!r} left nan or infinite ones; {_kept(index)}"
            )
        return values.mean().item()

    def step(self, batch: Batch, phase: Phase) -> Tensor:
        """One optimizer step on one batch; returns the loss without its graph."""
        raw = self.data.augment(batch.raw) if self.data.augment else batch.raw
        raw = moved(raw, self.fabric.device)
        student = self.task.outputs(call(self.model, self.data.student_view(raw)))
        loss = self.scheme(
            self.task, student, self._taught(batch, raw), self.data.target(raw), phase.knowledge
        )
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.job.recipe.grad_clip:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=self.job.recipe.grad_clip,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _taught(self, batch: Batch, raw: Any) -> Sequence[Tensor]:
        if self.outputs is not None:
            index = torch.as_tensor(batch.positions, device=self.fabric.device)
            return [table[index] for table in self.outputs]
        with torch.no_grad():
            views = {"teacher": self.data.teacher_view, "student": self.data.student_view}
            return [
                self.task.outputs(call(source.model, views[source.sees](raw)))
                for source in self.job.sources
            ]

    def _usable(self, n: int) -> int:
        """Samples of an epoch: a last batch of one, on which BatchNorm fails, is left out."""
        return n - 1 if n > 1 and n % self.job.recipe.batch_size == 1 else n

    def _phase(self, epoch: int) -> Phase:
        done = epoch / self.job.recipe.epochs
        return next(phase for phase in self.job.stage.phases if done < phase.until)

    def validate(self) -> float:
        """The score on validation, with modes restored afterwards."""
        outputs = predict(self.model, self.data, "validation", self.task, self.fabric.device)
        return self.task.score(outputs, _targets(self.data, "validation"))

    def _fail(self, epoch: int, losses: Tensor, positions: list[np.ndarray]) -> None:
        first = int((~losses.isfinite()).nonzero()[0])
        ids = self.data.ids("train")[positions[first]]
        shown = ", ".join(ids[:3]) + (" ..." if len(ids) > 3 else "")
        raise TrainingFailed(
            f"Expected a finite loss but got {losses[first].item()} in stage {self.job.stage.name!r}, "
            f"epoch {epoch + 1}, batch {first + 1} (samples {shown}); {_kept(epoch)}"
        )

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        folder = self.job.folder
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{CHECKPOINT}"
        state = self._state() | {
            "schedule": self.schedule.state_dict(),
            "epoch": self.next_epoch,
            "seconds": self.seconds,
            "points": [list(point) for point in self.points],
        }
        self.fabric.save(half, state)
        half.replace(folder / CHECKPOINT)

    def resume(self) -> None:
        """Go on from the checkpoint when there is one; a broken one is said and left behind."""
        path = self.job.folder / CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.job.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.points = [(int(epoch), loss, score) for epoch, loss, score in state["points"]]
            self.next_epoch, self.seconds = int(state["epoch"]), float(state["seconds"])
        except (PermissionError, MemoryError, torch.OutOfMemoryError):
            raise  # says nothing about the checkpoint
        except Exception as error:  # torch.load says it in a dozen ways
            cause = " ".join(str(error).split())[:160] or type(error).__name__
            path.unlink(missing_ok=True)
            raise InputError(
                f"Expected a whole checkpoint in {path} but it cannot be read ({cause}); "
                "it is removed and the training starts anew at the next call"
            ) from None

    def _state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}


def predict(
    model: nn.Module,
    data: Data,
    split: str,
    task: Task,
    device: str | torch.device = "cpu",
    *,
    sees: str = "student",
    positions: np.ndarray | None = None,
    batch_size: int = 512,
) -> Tensor:
    """A model's outputs (n, ...) on a split in its order, float32 on CPU.

    The model stays as it was, and so do the random states outside: data or a model that draws at
    random draws alike at every call.
    """
    view = data.teacher_view if sees == "teacher" else data.student_view
    parts = []
    with guest(model), seeded(0), torch.no_grad():
        for batch in data.batches(split, batch_size, positions):
            outputs = task.outputs(call(model, view(moved(batch.raw, device))))
            parts.append(outputs.float().cpu())
    return torch.cat(parts)


def _targets(data: Data, split: str) -> Tensor:
    targets = data.targets(split)
    if targets is None:
        raise InputError(f"Expected targets on {split} but the data gives none")
    return targets


def _dtype(model: nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in model.parameters()), torch.float32)


def _kept(epoch: int) -> str:
    return f"the checkpoint of epoch {epoch} is kept" if epoch else "there is no checkpoint yet"
