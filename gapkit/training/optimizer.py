"""Optimizers and learning-rate schedules, as a recipe names them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from gapkit.recipe import Recipe


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
    """The recipe's learning-rate schedule, stepped once an optimizer step."""
    schedules = torch.optim.lr_scheduler
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
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
