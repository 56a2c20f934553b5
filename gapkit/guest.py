"""Models are guests: modes, gradient flags, hooks and random states come back as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def guest(*models: nn.Module, training: bool = False) -> Iterator[None]:
    """Run models in eval (or train) mode; restore every module's mode and gradient flag on leaving.

    Works per module, so a model whose BatchNorm was frozen by its owner keeps it frozen. Restores
    after an exception too. Hooks are removed by those who set them.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> with guest(net):
    ...     net.training, net[1].training
    (False, False)
    >>> net.training
    True
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    grads = [(weight, weight.requires_grad) for model in models for weight in model.parameters()]
    try:
        for model in models:
            model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, flag in grads:
            weight.requires_grad_(flag)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python inside; outside, their random states go on as if nothing happened.

    >>> before = torch.get_rng_state()
    >>> with seeded(0):
    ...     _ = torch.rand(3)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def call(model: nn.Module, view: Any) -> Any:
    """Call a model with one view of a batch: a mapping as keywords, a tuple as arguments, else as is."""
    if isinstance(view, dict) or hasattr(view, "keys"):
        return model(**view)
    if isinstance(view, (tuple, list)):
        return model(*view)
    return model(view)


def moved(value: Any, device: torch.device | str) -> Any:
    """Tensors in nested mappings and sequences on the device; everything else as it is."""
    return mapped(value, lambda tensor: tensor.to(device, non_blocking=True))


def mapped(value: Any, act: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nested mappings and sequences anew, each tensor in them as `act` makes it.

    >>> mapped({"x": (torch.ones(2), "name")}, lambda tensor: 2 * tensor)
    {'x': (tensor([2., 2.]), 'name')}
    """
    if isinstance(value, torch.Tensor):
        return act(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, act) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, act) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(item, act) for item in value)
    return value
