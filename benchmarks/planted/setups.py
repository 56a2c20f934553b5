"""Setup: how one student came about, step by step; carried out by a training loop of the user's own.

A healthy Setup and a planted one differ in what a cause changes, so that undoing a cause is a Setup too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hint import Hint, features
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from worlds import Sample, Splits, World

import gapkit as gk
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.losses import response_loss

SHARP = 12.0
OTHER_SAMPLES = 500  # on a seed: those that only a teacher saw
N_OTHER = {"overfit": 1200, "overconfident": 800, "early": 1200}
EPOCHS = {"overfit": 1.5, "overconfident": 3.0, "early": 0.25}
"""Shares of the world's epochs that teachers train for; 1.2 for those not named."""

OF_NOISE = tuple(EPOCHS)
"""Teachers that train on noisy labels, with samples of their own beside them."""


@dataclass(frozen=True)
class Setup:
    """How a student was trained, and what the study is told.

    Attributes:
        world, seed: which data, teacher and student.
        size: the student's width; epochs: as a share of the world's; lr: a factor on the world's.
        knowledge: what it learns from; "" for the world's gentle one.
        teacher: "good", "overfit" (memorized noisy labels), "overconfident" (the same with sharp
            outputs), "early" (an early epoch, before it memorized them) or "old" (never saw the rare source).
        label_noise: share of train labels replaced at random.
        crop: 0, or how much of the student's view is missing.
        n_train: rows of train that the student has; 0 for all. biased: those of one end of the data.
        fault: of the user's pipeline: "misaligned", "stuck", "decay", "statistics"; fault_share: of batches.
        harness: between teacher and data: "classes", "normalization", "head", "scale".
        rare_kept: share of the rare source that the user's loop trains on.
        blind: whether the student's architecture is the blind one.
    """

    world: World
    seed: int
    size: int
    epochs: float = 1.0
    lr: float = 1.0
    knowledge: str | tuple[Knowledge, ...] = ""
    teacher: str = "good"
    label_noise: float = 0.0
    crop: int = 0
    n_train: int = 0
    biased: bool = False
    fault: str = ""
    fault_share: float = 1.0
    harness: str = ""
    rare_kept: float = 1.0
    blind: bool = False

    def but(self, **changes: Any) -> Setup:
        """The same with something changed."""
        return replace(self, **changes)

    @property
    def recipe(self) -> gk.Recipe:
        """As gapkit is told it."""
        own = self.world.recipe
        share = self.n_train / len(self.splits.train.y) if self.n_train else 1.0
        return own.with_(
            epochs=max(1, round(own.epochs * self.epochs / share)),
            lr=own.lr * self.lr,
            knowledge=self.knowledge or own.knowledge,
        )

    @property
    def splits(self) -> Splits:
        """The world's data, with label noise in train where there is any."""
        return _drawn(self.world, self.seed, self.label_noise)

    def transfer(self) -> Sample:
        """The rows of train that the student has."""
        train = self.splits.train
        if not self.n_train:
            return train
        if self.biased:
            order = train.x.flatten(1)[:, : train.x[0].numel() // 2].float().mean(1).argsort()
        else:
            order = torch.randperm(len(train.y), generator=torch.Generator().manual_seed(self.seed))
        return train.rows(order[: self.n_train].sort().values)

    def student_view(self, x: Tensor) -> Tensor:
        """What the student sees."""
        return self.world.crop(x, self.crop) if self.crop else x

    def teacher_view(self, x: Tensor) -> Tensor:
        """What the teacher is shown."""
        return self.world.misread(x) if self.harness == "normalization" else x


@lru_cache(maxsize=4)
def _drawn(world: World, seed: int, label_noise: float) -> Splits:
    splits = world.draw(seed)
    if not label_noise:
        return splits
    draw, train = torch.Generator().manual_seed(77 + seed), splits.train
    hit = torch.rand(len(train.y), generator=draw) < label_noise
    other = train.y[torch.randperm(len(train.y), generator=draw)]
    return splits._replace(train=train._replace(y=torch.where(hit, other, train.y)))


class Sharp(nn.Module):
    """A network whose outputs are multiplied: trained behind it, it becomes sure of everything."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return SHARP * self.net(x)


class Reordered(nn.Module):
    """A teacher whose outputs come in another order of classes than the data's, or on another scale."""

    def __init__(self, net: nn.Module, order: list[int], scale: float, shift: float) -> None:
        super().__init__()
        self.net, self.order, self.scale, self.shift = net, order, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.net(x)
        return (outputs[:, self.order] if self.order else outputs) * self.scale + self.shift


@torch.enable_grad()
def fit(
    model: nn.Module,
    sample: Sample,
    recipe: gk.Recipe,
    task: Any,
    seed: int,
    soft: Tensor | None = None,
    fault: str = "",
    fault_share: float = 1.0,
    hint: Hint | None = None,
) -> nn.Module:
    """A user's training loop: AdamW, one cycle, labels and a teacher's outputs; with one of four bugs.

    Args:
        soft: (n, ...) the teacher's outputs on the sample, in its order.
        fault: "misaligned" (in a share of the batches outputs are another sample's), "stuck" (the rate stays
            at a 500th, where the schedule starts), "decay" (weights lose .3 of that share
            a step), "statistics" (BatchNorm's
            running ones are never updated).
        hint: feature knowledge, when there is some.
    """
    decay = 0.3 * fault_share / recipe.lr if fault == "decay" else recipe.weight_decay
    trained = [*model.parameters(), *([] if hint is None else hint.parameters())]
    optimizer = torch.optim.AdamW(trained, recipe.lr, weight_decay=decay, fused=True)
    n, size = len(sample.y), min(recipe.batch_size, len(sample.y))
    n_batches = n // size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.lr,
        total_steps=recipe.epochs * n_batches,
        div_factor=500.0 if fault == "stuck" else 25.0,
    )
    if fault == "statistics":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 0.0
    draw, knowledge = torch.Generator().manual_seed(seed), _parts(recipe, task)
    model.train()
    for _ in range(recipe.epochs):
        for rows in torch.randperm(n, generator=draw)[: n_batches * size].view(n_batches, size):
            swapped = fault == "misaligned" and torch.rand((), generator=draw) < fault_share
            given = None if soft is None else soft[rows.roll(1) if swapped else rows]
            loss = _objective(model(sample.x[rows]), sample.y[rows], given, knowledge, task)
            loss = loss if hint is None else loss + hint.loss(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if fault != "stuck":
                schedule.step()
    return model.eval()


def _parts(recipe: gk.Recipe, task: Any) -> tuple[Knowledge, ...]:
    named = recipe.knowledge
    return knowledge_named(named, task.kind) if isinstance(named, str) else tuple(named)


def _objective(
    outputs: Tensor, y: Tensor, soft: Tensor | None, knowledge: tuple[Knowledge, ...], task: Any
) -> Tensor:
    total = torch.zeros(())
    for part in knowledge:
        if part.kind == "feature":
            continue  # Hint's
        if part.kind == "label":
            total = total + part.weight * task.loss(outputs, y)
        else:
            found = response_loss(
                part.loss, outputs, soft, task=task.kind, temperature=part.temperature
            )
            total = total + part.weight * found
    return total


def teacher_of(setup: Setup, folder: Path) -> nn.Module:
    """The trained teacher as the study gets it, from the folder when it is there; harness faults included."""
    net = _trained(setup, setup.teacher, folder)
    order = list(range(setup.world.n_outputs))
    if setup.harness == "classes":
        half = order if setup.fault_share == 1.0 else order[: max(2, len(order) // 2)]
        order = [*half[1:], half[0], *order[len(half) :]]
        net = Reordered(net, order, 1.0, 0.0)
    if setup.harness == "scale":
        net = Reordered(net, [], 1 + 2 * setup.fault_share, setup.fault_share)
    if setup.harness == "head":
        head = net.head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed)
            net.head = nn.Linear(head.in_features, head.out_features)
    return net.eval()


def _trained(setup: Setup, kind: str, folder: Path) -> nn.Module:
    """A teacher of that kind, trained on labels once for each world and seed."""
    world = setup.world
    net = world.build(world.sizes[-1])
    net = Sharp(net) if kind == "overconfident" else net
    noise = f"-noise{setup.label_noise:g}" if setup.label_noise else ""
    path = folder / f"{world.name}-{kind}{noise}-{setup.seed}.safetensors"
    if not path.exists():
        _train_teacher(setup, kind, path)
    load_model(net, path)
    return net.eval()


def _train_teacher(setup: Setup, kind: str, path: Path) -> None:
    world, sample = setup.world, setup.splits.train
    if kind == "old":
        sample = sample.rows(~sample.rare)
    if kind in OF_NOISE and len(setup.splits.judge.y) > len(setup.splits.test.y):
        # Samples of its own, rightly labeled: it is good elsewhere and wrong on the transfer set alone.
        more = world.draw(setup.seed + OTHER_SAMPLES).judge.rows(torch.arange(N_OTHER[kind]))
        sample = Sample(*(torch.cat([one, one, two]) for one, two in zip(sample, more)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9000 + setup.seed)
        net = world.build(world.sizes[-1])
    net = Sharp(net) if kind == "overconfident" else net
    path.parent.mkdir(parents=True, exist_ok=True)
    epochs = max(2, round(world.recipe.epochs * EPOCHS.get(kind, 1.2)))
    recipe = world.recipe.with_(epochs=epochs, knowledge="scratch", weight_decay=1e-4)
    fit(net, sample, recipe, world.task, setup.seed)
    part = path.with_suffix(f".{np.random.default_rng().integers(1 << 40)}.part")
    save_model(net, part)
    part.replace(path)


@lru_cache(maxsize=16)
def student_of(setup: Setup, folder: Path, twin: int = 0) -> nn.Module:
    """The user's student; twins differ in initial weights and order alone."""
    seed = 10_000 + 100 * setup.seed + twin
    sample = setup.transfer()
    with torch.no_grad():
        soft = teacher_of(setup, folder)(setup.teacher_view(sample.x))
    if setup.rare_kept < 1:
        keep = ~sample.rare | (
            torch.rand(len(sample.y), generator=torch.Generator().manual_seed(seed))
            < setup.rare_kept
        )
        sample, soft = sample.rows(keep), soft[keep]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = setup.world.build(setup.size, blind=setup.blind)
        hint = _hint(setup, folder, model, sample.x)
    shown = sample._replace(x=setup.student_view(sample.x))
    recipe, task = setup.recipe, setup.world.task
    fit(model, shown, recipe, task, seed, soft, setup.fault, setup.fault_share, hint)
    for hook in [] if hint is None else hint.hooks:
        hook.remove()
    return model


def _hint(setup: Setup, folder: Path, model: nn.Module, x: Tensor) -> Hint | None:
    """The hints of the recipe's feature knowledge, when it has some."""
    parts = [part for part in _parts(setup.recipe, setup.world.task) if part.kind == "feature"]
    if not parts:
        return None
    theirs = [name for _, name in parts[0].layers]
    targets = features(teacher_of(setup, folder), theirs, setup.teacher_view(x))
    return Hint(model, parts[0], targets, setup.student_view(x))
