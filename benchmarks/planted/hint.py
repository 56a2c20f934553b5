"""Hint: feature knowledge in a user's own loop, pooled features through linear maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gapkit.knowledge import Knowledge


class Hint(nn.Module):
    """Hints (FitNets) by pooled features: linear maps from the student's layers to the teacher's.

    Args:
        part: the feature knowledge, layer pairs weighted alike.
        targets: the teacher's features (n, d) on the student's sample, for each pair.
    """

    def __init__(self, model: nn.Module, part: Knowledge, targets: list[Tensor], x: Tensor) -> None:
        super().__init__()
        self.weight, self.targets = part.weight, targets
        self.names = [ours for ours, _ in part.layers]
        self.seen: dict[str, Tensor] = {}
        shapes = [found.shape[1] for found in features(model, self.names, x[:2])]
        self.maps = nn.ModuleList(
            nn.Linear(width, target.shape[1]) for width, target in zip(shapes, targets)
        )
        self.hooks = [
            model.get_submodule(name).register_forward_hook(self._keep(name)) for name in self.names
        ]

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self.seen[name] = pooled(output)

        return hook

    def loss(self, rows: Tensor) -> Tensor:
        """Mean squared error of the mapped features, mean over pairs, times the weight."""
        errors = [
            (to(self.seen[name]) - target[rows]).square().mean()
            for to, name, target in zip(self.maps, self.names, self.targets)
        ]
        return self.weight * torch.stack(errors).mean()


def pooled(output: Tensor) -> Tensor:
    """Mean over tokens (n, T, d) or space (n, c, h, w)."""
    return (
        output.mean(1)
        if output.ndim == 3
        else output.flatten(2).mean(2)
        if output.ndim > 2
        else output
    )


def features(model: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    """Pooled outputs of those layers, in eval mode."""
    kept: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: kept.__setitem__(name, pooled(output))
        )
        for name in names
    ]
    was = model.training
    with torch.no_grad():
        model.eval()(x)
    model.train(was)
    for hook in hooks:
        hook.remove()
    return [kept[name] for name in names]
