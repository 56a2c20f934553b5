"""Recorder: what the tapped layers of a model show of one batch, each as one vector per sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gapkit.errors import InputError, unknown
from gapkit.probes.layers import answer, bare, first_tensor, named_layers, output_fault

MEANS = ("gap", "mean")
TOKEN_REDUCES = ("cls", "last", "tokens")
CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


def check_reduce(reduce: str) -> None:
    """Raise InputError unless `reduced` knows this way.

    >>> check_reduce("grid:2")
    """
    kind, _, size = reduce.partition(":")
    if kind == "grid" and size.isdigit() and int(size) > 0:
        return
    if reduce not in (*MEANS, "flatten", *TOKEN_REDUCES):
        raise unknown("reduce", reduce, (*MEANS, "grid:2", "flatten", *TOKEN_REDUCES))


def reduced(
    output: Tensor, reduce: str, mask: Tensor | None = None, channels_first: bool | None = None
) -> Tensor:
    """One vector per sample (or token) from a layer's output; float32, never a view of the output.

    Args:
        output: (n, d); (n, tokens, d), or (n, d, length) with `channels_first`; maps (n, d, h, w)
            or (n, d, t, h, w).
        reduce: "gap" or "mean": over space or over unmasked tokens. "grid:k": adaptive average
            pooling to k cells an axis, flattened. "flatten": everything. "cls": the first token.
            "last": the last unmasked token. Outputs (n, d) stay as they are. "tokens": every
            unmasked token of every sample, (m, d); only for outputs (n, tokens, d).
        mask: (n, tokens), nonzero where a token counts.
        channels_first: whether a 3-D output comes from a convolution over a sequence.

    Raises:
        InputError: for "cls", "last" and "tokens" on maps, for "tokens" on vectors, and for outputs of
            fewer than 2 dimensions.

    >>> reduced(torch.arange(8.0).view(1, 2, 2, 2), "gap")
    tensor([[1.5000, 5.5000]])
    >>> reduced(torch.tensor([[[1.0], [3.0], [9.0]]]), "gap", mask=torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    features = _vectors(output, reduce, mask, channels_first)
    homes = [part.untyped_storage().data_ptr() for part in (features, output)]
    return features.clone() if homes[0] == homes[1] else features


def _vectors(
    output: Tensor, reduce: str, mask: Tensor | None, channels_first: bool | None
) -> Tensor:
    """What `reduced` gives, possibly a view of the output."""
    output = output.detach().to(torch.float32)
    if output.ndim < 2:
        raise InputError(f"Expected a layer output of at least 2 dimensions but got {output.ndim}")
    tokens = output.ndim == 3 and not channels_first
    if reduce == "tokens" and tokens:
        fits = mask is not None and mask.shape == output.shape[:2]
        return output[mask != 0] if fits else output.flatten(0, 1)  # type: ignore[operator]
    if reduce != "tokens" and (output.ndim == 2 or reduce == "flatten"):
        return output.flatten(1)
    if reduce in TOKEN_REDUCES and not tokens:
        raise InputError(
            f"Expected tokens (samples, tokens, width) for reduce={reduce!r} "
            f"but got an output of shape {tuple(output.shape)}"
        )
    if mask is not None and (not tokens or mask.shape != output.shape[:2]):
        mask = None
    if tokens and reduce in (*MEANS, *TOKEN_REDUCES):
        return _pooled_tokens(output, reduce, mask)
    maps = output.transpose(1, 2) if tokens else output
    if reduce in MEANS:
        return maps.flatten(2).mean(2)
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[maps.ndim - 3]
    return pool(maps, int(reduce.partition(":")[2])).flatten(1)


def _pooled_tokens(output: Tensor, reduce: str, mask: Tensor | None) -> Tensor:
    if reduce == "cls":
        return output[:, 0]
    if mask is None:
        return output[:, -1] if reduce == "last" else output.mean(1)
    weight = (mask != 0).to(output)
    if reduce in MEANS:
        return (output * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(output.shape[1], device=output.device)
    return output[torch.arange(len(output), device=output.device), (weight * places).argmax(1)]


class Shown(NamedTuple):
    """What a model showed of one batch.

    Attributes:
        raw: what it returned.
        features: layer -> (m, d), in the order asked for.
        places: (m, 2) sample in the batch and place in its sequence of every row, with
            reduce="tokens"; None when rows are samples.
        view: what it was called with.
    """

    raw: Any
    features: dict[str, Tensor]
    places: Tensor | None
    view: Any


class Recorder:
    """Calls a model and keeps reduced outputs of its tapped layers; its hooks live as long as `open`.

    In-place layers further on cannot change what was kept: outputs are reduced, or copied, at once.
    With `keep`, what it returns for the reduced output is kept instead, and nothing is copied.
    """

    keep: Callable[[Tensor], Any] | None = None

    def __init__(self, model: nn.Module, layers: Sequence[str], reduce: str, who: str) -> None:
        self.model, self.layers, self.reduce, self.who = bare(model), tuple(layers), reduce, who
        modules = named_layers(model)
        self._bases = {tap: tap if tap in modules else tap.rpartition("#")[0] for tap in layers}
        for tap, base in self._bases.items():
            if base not in modules:
                raise unknown(f"layer of the {who}", tap, modules)
        self._modules = {base: modules[base] for base in dict.fromkeys(self._bases.values())}
        self._features: dict[str, Tensor] = {}
        self._calls: Counter[str] = Counter()
        self._mask: Tensor | None = None
        self._channels_first: bool | None = None
        self._running = False
        self._places: Tensor | None = None

    @contextmanager
    def open(self) -> Iterator[Recorder]:
        """Set the hooks; remove them on leaving, also after an exception."""
        with ExitStack() as hooks:
            for module in self.model.modules():
                if isinstance(module, (*CHANNELS_FIRST, *CHANNELS_LAST)):
                    hooks.callback(module.register_forward_hook(self._orient).remove)
            for base, module in self._modules.items():
                hooks.callback(module.register_forward_hook(self._tap(base)).remove)
            yield self

    def _orient(self, module: nn.Module, args: Any, output: Any) -> None:
        self._channels_first = isinstance(module, CHANNELS_FIRST)

    def _tap(self, base: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not self._running:
                return
            self._calls[base] += 1
            numbered = f"{base}#{self._calls[base]}"
            tap = base if base in self._bases and base not in self._features else numbered
            if tap not in self._bases:
                return
            tensor = first_tensor(output)
            fault = output_fault(tensor)
            if tensor is None or fault:
                raise InputError(
                    f"Expected one vector or map per sample from the {self.who} at {tap!r} "
                    f"but got {fault}"
                )
            how = self.reduce, self._mask, self._channels_first
            self._features[tap] = (
                reduced(tensor, *how) if self.keep is None else self.keep(_vectors(tensor, *how))
            )
            if self.reduce == "tokens":
                self._place(tensor, tap)

        return hook

    def _place(self, output: Tensor, tap: str) -> None:
        """Remember which tokens the rows are; all layers must show the same ones."""
        places = torch.ones(output.shape[:2], dtype=torch.bool)
        if self._mask is not None and self._mask.shape == output.shape[:2]:
            places = self._mask.cpu() != 0
        found = places.nonzero()
        if self._places is not None and not torch.equal(found, self._places):
            raise InputError(
                f"Expected the same tokens at every layer of the {self.who} for reduce='tokens' "
                f"but got {len(self._places)} and, at {tap!r}, {len(found)}"
            )
        self._places = found

    def __call__(self, view: Any) -> Shown:
        """What the model and its layers show of a view."""
        self._features, self._calls, self._running = {}, Counter(), True
        self._channels_first, self._mask, self._places = None, None, None
        if hasattr(view, "keys"):
            mask = dict(view).get("attention_mask")
            self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        try:
            raw = answer(self.model, view, self.who)
        finally:
            self._running = False
        for layer in self.layers:
            if layer not in self._features:
                raise InputError(
                    f"Expected layer {layer!r} of the {self.who} to run in a forward pass "
                    "but it never did"
                )
        features = {layer: self._features[layer] for layer in self.layers}
        return Shown(raw, features, self._places, view)
