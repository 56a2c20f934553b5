"""Question: a model's answer as a function of the one tensor that it looks at, ready for attribution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gapkit.guest import call, mapped
from gapkit.probes.layers import bare


class Unattributable(ValueError):
    """What a model sees or says leaves nothing to attribute; the message says why."""


def named_answer(kind: str, outputs: Tensor) -> Tensor:
    """What a model says of each sample, to be explained: its class or label (n, ...), its embedding (n, d).

    Regressions name nothing: all their outputs are explained together.
    """
    if kind in ("classification", "multilabel"):
        return outputs.argmax(-1)
    return outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]


def answer_score(kind: str, outputs: Tensor, named: Tensor) -> Tensor:
    """(n,) how strongly outputs (n, ...) give the answer `named`, as a number to be attributed.

    Classification and multi-label: the logit of the named class or label (mean over tokens).
    Embedding: the length along the named embedding (not the cosine, whose gradient at the embedding
    itself is 0). Else: the sum of all outputs.

    >>> answer_score("classification", torch.tensor([[1.0, 5.0]]), torch.tensor([1]))
    tensor([5.])
    """
    if kind in ("classification", "multilabel"):
        return outputs.gather(-1, named[..., None]).flatten(1).mean(1)
    flat = outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]
    if kind == "embedding":
        return (flat * nn.functional.normalize(named, dim=1)).sum(1)
    return flat.sum(1)


class Question:
    """A model asked how strongly it gives an answer, as a function of x: (m, ...) -> (m,).

    x stands in for the largest floating tensor of the view; where the view holds integers alone, for
    what the first nn.Embedding that reads them returns. The rest of the view stays as it is,
    repeated when x holds the n samples several times over (as captum's paths do).

    Args:
        view: what the model is called with, of n samples, on the model's device.
        task: reads the outputs; its kind says what an answer is.
        named: (n, ...) the answer, see `named_answer`.

    Attributes:
        x: (n, ...) float32, as the model saw it.
        ids: (n, tokens) that the embedding read; None for floating inputs.
        counts: (n, tokens) whether a token counts (attention mask, else not padding); None: all do.

    Raises:
        Unattributable: when there is no such tensor.

    >>> net = nn.Linear(2, 2)
    >>> from gapkit.task import Classification
    >>> ask = Question(net, torch.ones(3, 2), Classification(), torch.tensor([0, 1, 1]))
    >>> torch.equal(ask(ask.x), net(torch.ones(3, 2))[torch.arange(3), torch.tensor([0, 1, 1])])
    True
    """

    def __init__(self, model: nn.Module, view: Any, task: Any, named: Tensor) -> None:
        self.model, self.view, self.task, self.named = bare(model), view, task, named
        self.n = len(named)
        self.ids: Tensor | None = None
        self.counts: Tensor | None = None
        self._embedding: nn.Embedding | None = None
        leaves = [leaf for leaf in _leaves(view) if leaf.ndim > 1 and len(leaf) == self.n]
        floating = [leaf for leaf in leaves if leaf.is_floating_point()]
        if floating:
            self._leaf = max(floating, key=Tensor.numel)
            self.x = self._leaf.detach().float()
        else:
            self._find_embedding(leaves)

    def _find_embedding(self, leaves: list[Tensor]) -> None:
        """The first embedding that reads one of the view's tensors, and what it returned."""
        found: list[tuple[nn.Embedding, Tensor, Tensor]] = []

        def hook(module: nn.Embedding, args: tuple[Any, ...], output: Tensor) -> None:
            if any(args and torch.equal(leaf, args[0]) for leaf in leaves):
                found.append((module, args[0], output.detach().float().clone()))

        modules = [part for part in self.model.modules() if isinstance(part, nn.Embedding)]
        handles = [module.register_forward_hook(hook) for module in modules]
        try:
            with torch.no_grad():
                call(self.model, self.view)
        finally:
            for handle in handles:
                handle.remove()
        if not found:
            raise Unattributable(
                "the view holds no floating tensor, and no nn.Embedding reads its integers"
            )
        self._embedding, self.ids, self.x = found[0]
        self._leaf = self.ids
        mask = dict(self.view).get("attention_mask") if hasattr(self.view, "keys") else None
        if isinstance(mask, Tensor) and mask.shape == self.ids.shape:
            self.counts = mask != 0
        elif self._embedding.padding_idx is not None:
            self.counts = self.ids != self._embedding.padding_idx

    def __call__(self, x: Tensor) -> Tensor:
        times = len(x) // self.n
        x = x.clone()  # a model may start with an in-place layer
        with self._standing_in(x):
            view = _swapped(self.view, None if self.ids is not None else self._leaf, x, times)
            outputs = self.task.outputs(call(self.model, view)).float()
        named = self.named.repeat(times, *[1] * (self.named.ndim - 1))
        return answer_score(self.task.kind, outputs, named)

    @contextmanager
    def _standing_in(self, x: Tensor) -> Iterator[None]:
        """Inside, the embedding answers x where it reads the ids."""
        if self._embedding is None:
            yield
            return
        assert self.ids is not None
        ids = self.ids

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            read = args[0][: self.n] if args else None
            same = read is not None and torch.equal(read, ids)
            return x.to(output.dtype) if same else None

        handle = self._embedding.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @property
    def baseline(self) -> Tensor:
        """What "nothing to see" is: the mean of the n samples; the zero vector for every token."""
        return (
            torch.zeros_like(self.x) if self.ids is not None else self.x.mean(0).expand_as(self.x)
        )

    def differentiable(self) -> bool:
        """Whether the answer has a gradient by x."""
        x = self.x.clone().requires_grad_()
        try:
            with torch.enable_grad():
                answer = self(x)
            if not answer.requires_grad:
                return False
            return torch.autograd.grad(answer.sum(), x, allow_unused=True)[0] is not None
        except RuntimeError:
            return False


def _leaves(value: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif hasattr(value, "keys"):
        for key in value.keys():  # noqa: SIM118 - a ModelOutput's `in` looks at values
            yield from _leaves(value[key])
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)


def _swapped(view: Any, leaf: Tensor | None, x: Tensor, times: int) -> Any:
    """A copy of a view with x in the leaf's place, and its other tensors `times` over."""

    def swap(tensor: Tensor) -> Tensor:
        if tensor is leaf:
            return x.to(tensor.dtype)
        return tensor.repeat(times, *[1] * (tensor.ndim - 1)) if tensor.ndim else tensor

    return mapped(view, swap)
