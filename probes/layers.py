"""Layers: what a model's modules are called, which of them run, and which are worth looking at."""

from __future__ import annotations

import fnmatch
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.errors import InputError, unknown
from gapkit.guest import call, guest, mapped, moved, seeded

WHOLE = "(model)"
FEWEST_LAYERS = 4
ACTIVATIONS = "torch.nn.modules.activation"
SKIPPED = (
    *(nn.modules.dropout._DropoutNd, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d),
)
NORMS = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in whatever a module returned: tensor, sequence, mapping or ModelOutput.

    >>> first_tensor(({"loss": None, "hidden": torch.ones(2)},))
    tensor([1., 1.])
    """
    if isinstance(value, Tensor):
        return value
    items: Iterable[Any] = ()
    if hasattr(value, "keys") and hasattr(value, "values"):
        items = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    return next((found for item in items if (found := first_tensor(item)) is not None), None)


def bare(model: nn.Module) -> nn.Module:
    """The model inside DataParallel and torch.compile wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layer name -> module, without the names that wrappers add; the model itself last."""
    inner = bare(model)
    names = {
        ".".join(part for part in name.split(".") if part != "_orig_mod"): module
        for name, module in inner.named_modules()
        if name
    }
    return names | {WHOLE: inner}


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first weight lives; the CPU when it has none."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def answer(model: nn.Module, view: Any, who: str) -> Any:
    """The model's answer to its own copy of a view, or an InputError that says what went wrong.

    Tensors are cloned: a deep copy of a slice would copy the whole storage that it is a slice of.
    """
    try:
        return call(model, mapped(view, Tensor.clone))
    except InputError:
        raise
    except Exception as error:
        cause = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"Expected the {who} to accept its view {_shapes(view)} "
            f"but it raised {type(error).__name__}: {cause}"
        ) from error


def _shapes(view: Any) -> str:
    if isinstance(view, Tensor):
        return f"of shape {tuple(view.shape)}"
    if hasattr(view, "keys"):
        inside = ", ".join(f"{key}: {_shapes(view[key])}" for key in view.keys())  # noqa: SIM118
        return "{" + inside + "}"
    if isinstance(view, (tuple, list)):
        return "(" + ", ".join(_shapes(item) for item in view) + ")"
    return f"of type {type(view).__name__}"


def output_fault(output: Tensor | None, n: int | None = None, tokens: bool = False) -> str:
    """Why a layer's output gives no vector for each of n samples (or for their tokens); "" when it does."""
    if output is None:
        return "no tensor"
    shape = tuple(output.shape)
    if output.ndim < 2 or output.ndim > 5 or 0 in shape[1:] or (tokens and output.ndim != 3):
        return f"shape {shape}"
    if n is not None and shape[0] != n:
        return f"shape {shape} for {n} samples"
    return "" if output.is_floating_point() else f"{output.dtype}"


Wanted = str | type[nn.Module]


def choose_layers(
    model: nn.Module,
    view: Any,
    wanted: Sequence[Wanted] | Wanted | None = None,
    limit: int = 24,
    tokens: bool = False,
) -> tuple[str, ...]:
    """Names of the layers to look at, in the order in which they run.

    A module called several times gives "name#1", "name#2", ...; the model's own output is "(model)".

    Args:
        view: one batch's view, with which the model is called once.
        wanted: exact names, globs or module classes, all of which must be found and run. None chooses
            the outputs of repeated blocks (residual, transformer), elsewhere the activation that
            follows each layer with weights, and the last output.
        limit: most layers of the default choice, thinned evenly with both ends kept.
        tokens: only layers that show tokens (n, tokens, d).

    Raises:
        InputError: for a name that matches nothing, a layer that never runs, an output that is
            not one vector or map per sample.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    >>> choose_layers(net, torch.ones(2, 4))
    ('1', '3')
    >>> choose_layers(net, torch.ones(2, 4), wanted=["[01]"])
    ('0', '1')
    """
    fired = _trace(model, view)
    given = first_tensor(view)
    n = None if given is None or not given.ndim else len(given)
    for item in fired:
        item.fault = output_fault(item.output, n, tokens)
    if wanted is not None:
        return _matched(model, fired, [wanted] if isinstance(wanted, (str, type)) else wanted)
    blocks = _repeated(fired)
    chosen = _default(fired, blocks)
    while len(chosen) < FEWEST_LAYERS and blocks:
        outer = next(type(item.module) for item in reversed(fired) if type(item.module) in blocks)
        blocks = blocks - {outer}
        chosen = _default(fired, blocks)
    if not chosen:
        raise InputError("Expected a model with usable layers but found none to look at")
    kept = np.linspace(0, len(chosen) - 1, min(limit, len(chosen))).round().astype(int)
    return tuple(chosen[place] for place in kept)


@dataclass
class _Fired:
    """One call of one module, in the order in which calls ended.

    `inside`: calls that it made; `fault`: why its output is of no use, "" when it is.
    """

    name: str
    tap: str
    module: nn.Module
    output: Tensor | None
    inside: int
    fault: str = ""


def _trace(model: nn.Module, view: Any) -> list[_Fired]:
    """Every call of a module during one forward pass; outputs are held so that none is recycled."""
    fired: list[_Fired] = []
    started: list[int] = []

    def before(module: nn.Module, args: Any) -> None:
        started.append(len(fired))

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            inside = len(fired) - started.pop()
            fired.append(_Fired(name, name, module, first_tensor(output), inside))

        return hook

    with guest(model), torch.no_grad(), seeded(0), ExitStack() as hooks:
        for name, module in named_layers(model).items():
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after(name)).remove)
        answer(bare(model), moved(view, device_of(model)), "model")
    totals, calls = Counter(item.name for item in fired), Counter[str]()
    for item in fired:
        calls[item.name] += 1
        if totals[item.name] > 1:
            item.tap = f"{item.name}#{calls[item.name]}"
    return fired


def _matched(model: nn.Module, fired: list[_Fired], wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """Taps of the calls that the wanted names, globs and classes mean."""
    chosen: set[int] = set()
    for pattern in wanted:
        exact = [i for i, item in enumerate(fired) if pattern in (item.name, item.tap)]
        found = exact or [
            i for i, item in enumerate(fired) if item.name != WHOLE and _means(pattern, item)
        ]
        if not found:
            raise _not_found(model, fired, pattern)
        for i in exact:
            if fired[i].fault:
                raise InputError(
                    f"Expected one vector or map per sample from layer {fired[i].tap!r} "
                    f"but got {fired[i].fault}"
                )
        chosen |= {i for i in found if not fired[i].fault}
    if not chosen:
        shown = [item if isinstance(item, str) else item.__name__ for item in wanted]
        raise InputError(f"Expected usable layers for {shown} but none gives vectors")
    return tuple(fired[i].tap for i in sorted(chosen))


def _means(pattern: Wanted, item: _Fired) -> bool:
    if isinstance(pattern, str):
        return any(fnmatch.fnmatchcase(text, pattern) for text in (item.name, item.tap))
    return isinstance(pattern, type) and isinstance(item.module, pattern)


def _not_found(model: nn.Module, fired: list[_Fired], pattern: Wanted) -> InputError:
    """Why nothing that ran is meant: it never runs, or there is no such name or class."""
    modules = named_layers(model)
    if not isinstance(pattern, str):
        if not (isinstance(pattern, type) and issubclass(pattern, nn.Module)):
            return InputError(f"Expected layers by name, glob or module class but got {pattern!r}")
        if not any(isinstance(module, pattern) for module in modules.values()):
            kinds = dict.fromkeys(type(module).__name__ for module in modules.values())
            return unknown("class of layers", pattern.__name__, kinds)
        return InputError(f"Expected a {pattern.__name__} to run in a forward pass but none did")
    for name in modules:
        if name == pattern or fnmatch.fnmatchcase(name, pattern):
            return InputError(f"Expected layer {name!r} to run in a forward pass but it never did")
    return unknown("layer", pattern, dict.fromkeys([*(item.tap for item in fired), *modules]))


def _repeated(fired: list[_Fired]) -> set[type]:
    """Classes of composite modules that occur more than once: the blocks a model is made of."""
    plain = (nn.Sequential, nn.ModuleList, nn.ModuleDict, *SKIPPED)
    modules = {id(item.module): item.module for item in fired if item.inside}
    counts = Counter(type(part) for part in modules.values() if not isinstance(part, plain))
    return {kind for kind, count in counts.items() if count > 1}


def _default(fired: list[_Fired], blocks: set[type]) -> list[str]:
    """Outputs of blocks, the end of each stage of plain layers, and what a composite adds to them."""
    kept: list[_Fired] = []
    growing = False  # whether a norm or an activation may still end the last stage
    covered = _covered(fired, blocks)
    for place, item in enumerate(fired):
        if place in covered or isinstance(item.module, SKIPPED) or item.fault:
            continue
        if item.inside:
            if type(item.module) in blocks or _adds(item, kept):
                kept.append(item)
                growing = False
        elif _mixes(item.module):
            kept.append(item)
            growing = True
        elif kept and _is_activation(item, kept[-1]):
            if growing:
                kept[-1] = item
            elif kept[-1].inside:
                kept.append(item)
            growing = False
        elif growing and isinstance(item.module, NORMS):
            kept[-1] = item
    return [item.tap for item in kept]


def _covered(fired: list[_Fired], blocks: set[type]) -> set[int]:
    """Places of the calls that happened inside a block."""
    return {
        inner
        for place, item in enumerate(fired)
        if type(item.module) in blocks
        for inner in range(place - item.inside, place)
    }


def _adds(item: _Fired, kept: list[_Fired]) -> bool:
    """Whether a composite module returns something else than a part that is kept."""
    if isinstance(item.module, nn.Sequential) or item.output is None:
        return False
    seen = {
        (part.output.data_ptr(), part.output.numel()) for part in kept if part.output is not None
    }
    return (item.output.data_ptr(), item.output.numel()) not in seen


def _mixes(module: nn.Module) -> bool:
    """Whether a leaf computes new features: it has weights and is no norm or activation."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    plain = type(module).__module__ == ACTIVATIONS or isinstance(module, NORMS)
    return not plain and any(True for _ in module.parameters())


def _is_activation(item: _Fired, before: _Fired) -> bool:
    """A torch activation, or a third party's module without weights that keeps the shape."""
    home = type(item.module).__module__
    if home == ACTIVATIONS:
        return True
    shapes = [None if part.output is None else part.output.shape for part in (item, before)]
    plain = home.startswith("torch.nn.") or isinstance(item.module, NORMS)
    return not plain and shapes[0] == shapes[1] and not any(True for _ in item.module.parameters())
