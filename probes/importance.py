"""Importance: which of a model's layers its decisions rest on, as weights for what is matched where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.errors import InputError
from gapkit.guest import call, guest
from gapkit.measurement import Measurement
from gapkit.probes.interval import mean_interval, measured, undefined
from gapkit.probes.layers import bare, first_tensor, named_layers
from gapkit.probes.probe import Setting
from gapkit.probes.question import Question, named_answer
from gapkit.probes.recorder import CHANNELS_FIRST

NAME = "layer_importance"
PASSES = 2  # forward passes a layer: one half of its units, then the other
UNITS = {"classification": "probability", "multilabel": "probability", "embedding": "1 - cosine"}
SHARE = "share of variance"


def layer_importance(
    model: nn.Module, view: Any, layers: Iterable[str], task: Any, seed: int = 0
) -> dict[str, np.ndarray]:
    """What each sample's answer loses when half of a layer's units are silenced: layer -> (n,).

    A random half of the units, another for each sample, shows its mean over the samples instead; then
    the other half does, and both losses are averaged. Units are the channels of maps and of 1-D
    convolutions, else the last dimension. The loss is the fall in probability of the model's own
    answer (classification, multi-label), 1 - cosine with its embedding, or the squared change over
    the variance of the outputs (else). About 0: the layer is not used, or has room to spare; the more, the more the
    decision rests on all of it.

    Half, because silencing a layer that everything passes through leaves nothing to decide on: in a
    chain all layers lose the same. (Ablation of units: Meyes 2019, 1901.08644.) Works
    for any module, needs no gradient, touches one layer at a time. Misleading for recurrent layers
    whose last state is used beside their output: only the first tensor returned is silenced.

    Args:
        model: called in eval mode, left as it was.
        view: what it is called with, n samples, on its device.
        layers: names as `choose_layers` gives them; one that shows the answer itself is left out.
        task: reads the outputs.

    >>> from gapkit.task import Classification
    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> list(layer_importance(net, torch.randn(20, 2), ["1", "2"], Classification()))
    ['1']
    """
    model, draw = bare(model), torch.Generator().manual_seed(seed)
    modules = named_layers(model)
    lost = {}
    with guest(model), torch.no_grad():
        before = task.outputs(call(model, view)).float()
        means = _means(model, view, layers, before)
        for layer, mean in means.items():
            dim = _unit_dim(mean, modules[_base(layer)])
            half = _random_half(len(before), mean.shape[dim], draw).to(mean.device)
            shape = [1] * mean.ndim
            shape[0], shape[dim] = half.shape
            total = np.zeros(len(before))
            for mask in (half, ~half):
                with _silenced(modules[_base(layer)], layer, mask.view(shape), mean):
                    after = task.outputs(call(model, view)).float()
                total += _loss(task.kind, before, after).cpu().numpy()
            lost[layer] = total / PASSES
    return lost


def layer_conductance(ask: Question, module: nn.Module, n_steps: int = 16) -> Tensor:
    """How much of an answer flows through each unit of a layer, from the baseline to x: (n, ...).

    Conductance (Dhamdhere 2019, 1805.12233, eq. 3; captum). Complete: for a layer that everything passes
    through, a sample's values add up to f(x) - f(baseline), the same for every such layer; so read
    it within a layer, not between layers.

    >>> from gapkit.task import Classification
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> ask = Question(net, torch.eye(2), Classification(), torch.tensor([0, 1]))
    >>> layer_conductance(ask, net[1]).shape
    torch.Size([2, 3])
    """
    from captum.attr import LayerConductance

    with guest(ask.model), torch.enable_grad():
        found = LayerConductance(ask, module).attribute(
            ask.x, baselines=ask.baseline, n_steps=n_steps, method="riemann_trapezoid"
        )
    return (found[0] if isinstance(found, tuple) else found).detach()


def importance_weights(measurements: Iterable[Measurement]) -> dict[str, float]:
    """Share of each layer in the importance of all: layer -> weight, 1 together.

    A layer whose loss is below 0, hence within noise of none, or undefined, weighs 0.

    Args:
        measurements: "layer_importance" of one model on one split; others are passed over.

    Raises:
        InputError: when a layer occurs twice or no layer has an importance above 0.
    """
    found: dict[str, float] = {}
    for item in measurements:
        if item.name != NAME:
            continue
        if item.layer in found:
            raise InputError(f"Expected one importance a layer but {item.layer!r} has two")
        found[item.layer] = item.value if item.value > 0 else 0.0
    total = sum(found.values())
    if not total > 0:
        raise InputError(f"Expected a layer of importance above 0 but got {found or 'none'}")
    return {layer: value / total for layer, value in found.items()}


def measured_importance(
    split: str,
    layers: Iterable[str],
    lost: Mapping[str, np.ndarray],
    setting: Setting,
    why: str = "the layer shows the answer itself",
) -> Iterator[Measurement]:
    """The teacher's "layer_importance" at each layer; `why`: the reason for those without losses."""
    unit = UNITS.get(setting.task.kind, SHARE)
    for layer in layers:
        interval = mean_interval(lost[layer]) if layer in lost else undefined(why)
        how = f"loss when half of the layer's units show their mean; {interval.method}"
        how = "" if interval.reason else how
        yield measured(
            NAME, "teacher", split, interval, layer=layer, unit=unit, estimator=how,
            seed=setting.seed,
        )  # fmt: skip


def _base(tap: str) -> str:
    return tap.rpartition("#")[0] if "#" in tap else tap


def _means(
    model: nn.Module, view: Any, layers: Iterable[str], outputs: Tensor
) -> dict[str, Tensor]:
    """Layer -> (1, ...) mean over samples of its output, without layers that show the outputs."""
    modules, wanted = named_layers(model), set(layers)
    means: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def tap(base: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[base] += 1
            tensor = first_tensor(output)
            for name in {base, f"{base}#{calls[base]}"} & (wanted - set(means)):
                if tensor is not None and not _equal(tensor, outputs):
                    means[name] = tensor.float().mean(0, keepdim=True)

        return hook

    with ExitStack() as hooks:
        for base in {_base(layer) for layer in wanted}:
            hooks.callback(modules[base].register_forward_hook(tap(base)).remove)
        call(model, view)
    return {layer: means[layer] for layer in layers if layer in means}


def _equal(tensor: Tensor, outputs: Tensor) -> bool:
    return tensor.shape == outputs.shape and torch.equal(tensor.float(), outputs)


def _unit_dim(output: Tensor, module: nn.Module) -> int:
    return 1 if output.ndim > 3 or isinstance(module, CHANNELS_FIRST) else output.ndim - 1


def _random_half(n: int, k: int, draw: torch.Generator) -> Tensor:
    """(n, k) true for k // 2 units of each sample."""
    return torch.rand(n, k, generator=draw).argsort(1).argsort(1) < k // 2


@contextmanager
def _silenced(module: nn.Module, tap: str, mask: Tensor, mean: Tensor) -> Iterator[None]:
    """Inside, the masked units of a module show their mean at the call that the tap names."""
    calls = 0
    number = int(tap.rpartition("#")[2]) if "#" in tap else 1

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != number:
            return None
        tensor = first_tensor(output)
        assert tensor is not None
        return _replaced(output, tensor, torch.where(mask, mean.to(tensor), tensor))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """What a module returned with one tensor in place of another; mappings are changed themselves."""
    if output is old:
        return new
    if hasattr(output, "keys"):
        for key in list(output.keys()):
            if output[key] is not None:
                output[key] = _replaced(output[key], old, new)
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_replaced(item, old, new) for item in output))
    elif isinstance(output, (tuple, list)):
        return type(output)(_replaced(item, old, new) for item in output)
    return output


def _loss(kind: str, before: Tensor, after: Tensor) -> Tensor:
    """(n,) what the answers lost; see `layer_importance`."""
    if kind in ("classification", "multilabel"):
        probability = torch.sigmoid if kind == "multilabel" else _softmax
        named = named_answer(kind, before)[..., None]
        fall = probability(before).gather(-1, named) - probability(after).gather(-1, named)
        return fall.flatten(1).mean(1)
    before, after = before.reshape(len(before), -1), after.reshape(len(after), -1)
    if kind == "embedding":
        return 1 - torch.cosine_similarity(before, after)
    variance = (before - before.mean(0)).square().sum(1).mean()
    return (before - after).square().sum(1) / variance


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)
