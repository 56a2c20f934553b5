"""Taps: what named layers of a model show while it trains or teaches, gradients included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gapkit.errors import InputError, unknown
from gapkit.guest import call
from gapkit.probes.layers import bare, first_tensor, named_layers

CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)


class Answer(NamedTuple):
    """What a model gave for one batch.

    Attributes:
        outputs: (n, ...) what the task counts.
        features: layer -> (n, d), (n, tokens, d) or (n, channels, height, width).
        mask: (n, tokens), true where a token counts; None when all do.
    """

    outputs: Tensor
    features: Mapping[str, Tensor]
    mask: Tensor | None = None

    def detached(self) -> Answer:
        """The same without gradients."""
        features = {name: tensor.detach() for name, tensor in self.features.items()}
        return Answer(self.outputs.detach(), features, self.mask)


class Taps:
    """Hooks on named layers of a model; each call of the model shows their outputs once.

    A module that runs several times gives "name#1", "name#2", ...; "name" is the first. Outputs are
    copied at once, so that in-place layers further on cannot change them. Convolutions over sequences
    are shown as tokens.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
    >>> with Taps(net, ["0"]) as taps:
    ...     outputs = net(torch.ones(1, 2))
    ...     shown = taps.shown()
    >>> shown["0"].shape, shown["0"].requires_grad, len(net[0]._forward_hooks)
    (torch.Size([1, 3]), True, 0)
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], who: str = "model") -> None:
        self.layers, self.who = tuple(dict.fromkeys(layers)), who
        modules = named_layers(model)
        self._bases = {
            tap: tap if tap in modules else tap.rpartition("#")[0] for tap in self.layers
        }
        for tap, base in self._bases.items():
            if base not in modules:
                raise unknown(f"layer of the {who}", tap, modules)
        self._shown: dict[str, Tensor] = {}
        self._calls: Counter[str] = Counter()
        self._began = False
        self._hooks = [
            modules[base].register_forward_hook(self._hook(base))
            for base in dict.fromkeys(self._bases.values())
        ]
        if self.layers:
            self._hooks.append(bare(model).register_forward_pre_hook(self._forget))

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _forget(self, module: nn.Module, args: Any) -> None:
        """A new call of the model begins."""
        self._shown, self._calls, self._began = {}, Counter(), True

    def _hook(self, base: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._calls[base] += 1
            names = [base] if self._calls[base] == 1 else []
            taps = [tap for tap in (*names, f"{base}#{self._calls[base]}") if tap in self._bases]
            if not taps:
                return
            tensor = first_tensor(output)
            if tensor is None or tensor.ndim < 2 or not tensor.is_floating_point():
                raise InputError(
                    f"Expected layer {taps[0]!r} of the {self.who} to give features (samples, ...) but "
                    f"got {'no tensor' if tensor is None else f'{tensor.dtype} {tuple(tensor.shape)}'}"
                )
            if tensor.ndim == 3 and isinstance(module, CHANNELS_FIRST):
                tensor = tensor.transpose(1, 2)
            self._shown |= dict.fromkeys(taps, tensor.clone())

        return hook

    def shown(self) -> dict[str, Tensor]:
        """Layer -> output of the last call; an error for a layer that did not run.

        Also one when layers ran without the model: nobody knows then where a call began, and what they
        showed may be of another batch.
        """
        shown, began = self._shown, self._began
        self._shown, self._calls, self._began = {}, Counter(), False
        if shown and not began:
            raise InputError(
                f"Expected the {self.who} to be called as a whole but only layers of it were: "
                f"{', '.join(shown)}"
            )
        for layer in self.layers:
            if layer not in shown:
                raise InputError(
                    f"Expected layer {layer!r} of the {self.who} to run in a forward pass but it never did"
                )
        return shown


def attention_mask(view: Any) -> Tensor | None:
    """The (n, tokens) mask in a model's keywords, as booleans; None when there is none."""
    mask = dict(view).get("attention_mask") if hasattr(view, "keys") else None
    return mask != 0 if isinstance(mask, Tensor) and mask.ndim == 2 else None


def ask(model: nn.Module, view: Any, outputs: Any, taps: Taps | None = None) -> Answer:
    """Call a model on a view: its outputs as the task reads them, and what its taps show.

    Args:
        outputs: whatever the model returned -> the tensor that counts.
    """
    found = outputs(call(model, view))
    return Answer(found, taps.shown() if taps and taps.layers else {}, attention_mask(view))


def pooled(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """(n, d) mean over space of maps (n, d, h, w), over unmasked tokens of (n, tokens, d).

    >>> pooled(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    if features.ndim == 2:
        return features
    if features.ndim > 3:
        return features.flatten(2).mean(2)
    if mask is None or mask.shape != features.shape[:2]:
        return features.mean(1)
    weight = mask.to(features)[..., None]
    return (features * weight).sum(1) / weight.sum(1).clamp(min=1)


def shapes(model: nn.Module, view: Any, outputs: Any, layers: Sequence[str], who: str) -> Answer:
    """An answer on one small view in eval mode, without gradients: shapes to build regressors from."""
    from gapkit.guest import guest, seeded

    with guest(bare(model)), seeded(0), torch.no_grad(), Taps(model, layers, who) as taps:
        return ask(model, view, outputs, taps)
