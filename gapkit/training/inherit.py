"""Inheritance: the weights a smaller model of a family takes over from a larger one, before it trains."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gapkit.errors import InputError

RECURRENT = re.compile(r"(?:weight|bias)_(?:ih|hh)(?P<layer>_l\d+)?(?P<back>_reverse)?")
SHOWN = 3

Groups = Mapping[str, Mapping[str, torch.Size]]  # first part of the names -> the rest -> shape


class Inherited(NamedTuple):
    """What a smaller model starts from.

    Attributes:
        state: all names of the smaller model, in its shapes and dtypes, on its devices; load it with
            `load_state_dict`. Every tensor is a copy of its own.
        copied: names taken whole.
        sliced: names taken in part.
        kept_layers: the giver's numbered modules that were taken where others were skipped.
        dropped_layers: the giver's numbered modules that were skipped.
        fresh: names that stay as they were -> why, the smaller model's side first.
    """

    state: dict[str, Tensor]
    copied: tuple[str, ...]
    sliced: tuple[str, ...]
    kept_layers: tuple[str, ...]
    dropped_layers: tuple[str, ...]
    fresh: dict[str, str]

    def __str__(self) -> str:
        taken = len(self.copied) + len(self.sliced)
        parts = [f"{len(self.sliced)} sliced"] if self.sliced else []
        if self.dropped_layers:
            parts.append(_short(_numbers_kept(self.kept_layers, self.dropped_layers)))
        line = f"inherited {taken} of {len(self.state)} tensors"
        line += f" ({', '.join(parts)})" if parts else ""
        reasons = [f"{name} ({reason})" for name, reason in self.fresh.items()]
        return f"{line}; fresh: {_short(reasons)}" if reasons else line


def inherit(giver: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Inherited:
    """The start of a smaller model that takes over what fits from a larger one of its family.

    Depth: where numbered modules (`blocks.0.`, `blocks.1.`, ...) are repeated blocks (the same names
    and numbers of dimensions under each number) and the giver has G of them for W wanted ones, wanted
    block i takes the giver's round(i (G - 1) / (W - 1)), so that both ends are kept; a single one takes
    the first. This goes level by level (`stages.1.blocks.2`). Numbers of unlike things (convolution,
    normalization, ... of an `nn.Sequential`) mean the same number.

    Width: with as many dimensions and none larger than the giver's, a tensor is the leading slice
    t[:w_1, :w_2, ...]. The leading units, not the strongest ones of each layer, because unit i of a
    layer must stay input i of the next one, of its normalization's statistics, and of whatever a skip
    connection adds it to. Flattened maps are channel-major, so the leading columns after a convolution
    belong to its leading channels as long as the maps have the same height and width. Stacked
    projections (`in_proj_*`, `c_attn.*`, `qkv.*`) and the gates of `nn.LSTM` and `nn.GRU` are sliced
    part by part. Integers are copied or left alone: part of an index table means nothing.

    Names that are one tensor in `wanted` (tied embeddings) get one value, also when the giver has only
    one of the names.

    Misleading: the smaller model computes what the larger did only if the units and blocks left out
    were silent; it is a start for training. Attention heads stay whole only at the same head size.
    Grouped queries (unequal q, k, v in one tensor), the two directions that a recurrent layer hands to
    another kind of layer, and kernels of another size are not recognized: leading slice.

    Args:
        giver: state dict of the larger model; not written into.
        wanted: state dict of the fresh smaller model; not written into.

    Raises:
        InputError: an entry is no tensor, or no weight fits at all.

    Source: weight selection, Xu et al. 2024 (arXiv 2311.18823, section 3), here with consecutive units;
    skipped layers as in DistilBERT, Sanh et al. 2019 (arXiv 1910.01108, section 2).

    >>> giver = {f"blocks.{i}.weight": torch.full((4, 4), float(i)) for i in range(4)}
    >>> wanted = {f"blocks.{i}.weight": torch.zeros(2, 3) for i in range(2)} | {"head": torch.ones(1)}
    >>> inherited = inherit(giver, wanted)
    >>> print(inherited)
    inherited 2 of 3 tensors (2 sliced, blocks 0, 3 of 4); fresh: head (the giver has none)
    >>> inherited.state["blocks.1.weight"].tolist()
    [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]]
    """
    _check(giver, wanted)
    match = _Match({}, [], [])
    theirs, ours = ({name: t.shape for name, t in side.items()} for side in (giver, wanted))
    _match(theirs, ours, "", "", match)
    leads = _leads(wanted, match.sources, giver)
    state: dict[str, Tensor] = {}
    fresh: dict[str, str] = {}
    copied: list[str] = []
    sliced: list[str] = []
    for name, own in wanted.items():
        lead = leads[name]
        source = match.sources.get(lead)
        reason = _misfit(source, giver, lead, wanted)
        if source is None or reason:
            state[name], fresh[name] = own.detach().clone(), reason
            continue
        part = _slice(giver[source].detach(), own.shape, _parts(source, giver))
        state[name] = torch.empty_like(own, requires_grad=False).copy_(part)
        (copied if part.shape == giver[source].shape else sliced).append(name)
    if all(_kind(state[name]) == "integer" for name in (*copied, *sliced)):
        reasons = [f"{name} ({reason})" for name, reason in fresh.items()]
        raise InputError(
            f"Expected weights that the smaller model can take over but no tensor of the giver's "
            f"{len(giver)} fits: {_short(reasons) or 'no weights are wanted'}"
        )
    layers = tuple(match.kept), tuple(match.dropped)
    return Inherited(state, tuple(copied), tuple(sliced), *layers, fresh)


class _Match(NamedTuple):
    """Which name of the giver each wanted name stands for, and the numbered modules where some were left out."""

    sources: dict[str, str]
    kept: list[str]
    dropped: list[str]


def _check(giver: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    sides = {"giver": giver, "wanted": wanted}
    wrong = [
        f"{side} {name!r}: {type(value).__name__}"
        for side, state in sides.items()
        for name, value in state.items()
        if not isinstance(value, Tensor)
    ]
    if wrong:
        raise InputError(f"Expected state dicts of tensors but got {_short(wrong)}")


def _match(
    giver: Mapping[str, torch.Size],
    wanted: Mapping[str, torch.Size],
    there: str,
    here: str,
    match: _Match,
) -> None:
    """Match the names below one module, `there` in the giver and `here` in the smaller model."""
    theirs, ours = _by_head(giver), _by_head(wanted)
    heads = {head: head for head in ours if head in theirs} | _spread(theirs, ours)
    numbers = _numbered(theirs)
    taken = {heads[head] for head in _numbered(ours) if head in heads}
    if taken and taken < set(numbers):
        match.kept.extend(there + number for number in numbers if number in taken)
        match.dropped.extend(there + number for number in numbers if number not in taken)
    for head, source in heads.items():
        if "" in theirs[source] and "" in ours[head]:
            match.sources[here + head] = there + source
        deeper_theirs, deeper_ours = (
            {rest: n for rest, n in below.items() if rest} for below in (theirs[source], ours[head])
        )
        if deeper_theirs and deeper_ours:
            _match(deeper_theirs, deeper_ours, f"{there}{source}.", f"{here}{head}.", match)


def _by_head(shapes: Mapping[str, torch.Size]) -> dict[str, dict[str, torch.Size]]:
    """First part of the names -> the rest of each, "" for a tensor of that very name."""
    groups: dict[str, dict[str, torch.Size]] = defaultdict(dict)
    for name, shape in shapes.items():
        head, _, rest = name.partition(".")
        groups[head][rest] = shape
    return dict(groups)


def _numbered(groups: Groups) -> list[str]:
    """The numbered modules in order; a numbered tensor of a list is none."""
    heads = [head for head, below in groups.items() if head.isdecimal() and "" not in below]
    return sorted(heads, key=int)


def _spread(theirs: Groups, ours: Groups) -> dict[str, str]:
    """Wanted number -> giver's number for repeated blocks of which the giver has more; else nothing.

    Blocks repeat when all but the first (which may change the width) have the same names and shapes.
    """
    many, few = _numbered(theirs), _numbered(ours)
    if len(many) <= len(few) or not few:
        return {}
    repeated = all(theirs[number] == theirs[many[1]] for number in many[1:]) and all(
        ours[number].keys() <= theirs[many[min(place, 1)]].keys()
        for place, number in enumerate(few)
    )
    if not repeated:
        return {}
    step = (len(many) - 1) / max(len(few) - 1, 1)
    return {number: many[round(i * step)] for i, number in enumerate(few)}


def _leads(
    wanted: Mapping[str, Tensor], sources: Mapping[str, str], giver: Mapping[str, Tensor]
) -> dict[str, str]:
    """Name -> the name whose value it takes: itself, or for tied names the first of them that fits."""
    tied: dict[tuple, list[str]] = defaultdict(list)
    for name, tensor in wanted.items():
        alone = tensor.is_meta or not tensor.numel()
        place = (name,) if alone else (tensor.device, tensor.data_ptr(), tensor.dtype)
        tied[(*place, tensor.shape, tensor.stride())].append(name)
    leads: dict[str, str] = {}
    for names in tied.values():
        fits = [name for name in names if not _misfit(sources.get(name), giver, name, wanted)]
        leads |= {name: fits[0] if fits else name for name in names}
    return leads


def _misfit(
    source: str | None, giver: Mapping[str, Tensor], name: str, wanted: Mapping[str, Tensor]
) -> str:
    """Why a tensor cannot be taken over; empty when it can."""
    if source is None:
        return "the giver has none"
    theirs, ours = giver[source], wanted[name]
    if ours.ndim != theirs.ndim:
        return f"{ours.ndim}-D against {theirs.ndim}-D"
    if _kind(ours) != _kind(theirs):
        return f"{_dtype(ours)} against {_dtype(theirs)}"
    shapes = f"{tuple(ours.shape)} against {tuple(theirs.shape)}"
    if any(own > their for own, their in zip(ours.shape, theirs.shape)):
        return f"larger: {shapes}"
    if ours.shape == theirs.shape:
        return ""
    if _kind(ours) == "integer":
        return f"integers of another shape: {shapes}"
    parts = _parts(name, wanted)
    if parts != _parts(source, giver):
        return f"other stacked parts: {shapes}"
    if any(size % n for side in (ours, theirs) for size, n in zip(side.shape, parts)):
        return f"not {max(parts)} equal parts: {shapes}"
    return ""


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "integer"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _parts(name: str, state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """How many parts are stacked along each dimension of a tensor, told by its name and its neighbors.

    >>> _parts("attention.qkv.weight", {"attention.qkv.weight": torch.zeros(12, 4)})
    (3, 1)
    """
    shape = state[name].shape
    path, _, leaf = name.rpartition(".")
    owner = path.rpartition(".")[2]
    parts = [1] * len(shape)
    if not shape:
        return ()
    if owner == "c_attn":
        weight = state.get(f"{path}.weight")
        dim, parts_there = _conv1d(weight) if weight is not None and weight.ndim == 2 else (0, 3)
        parts[dim if len(shape) == 2 else 0] = parts_there
    elif leaf in ("in_proj_weight", "in_proj_bias") or "qkv" in owner or "qkv" in leaf:
        parts[0] = 3
    elif found := RECURRENT.fullmatch(leaf):
        stem = name.removesuffix(leaf)
        layer, back = found["layer"] or "", found["back"] or ""
        parts[0] = _gates(stem, layer + back, state)
        if leaf.startswith("weight_ih") and layer not in ("", "_l0") and len(shape) == 2:
            parts[1] = 2 if f"{stem}weight_ih{layer}_reverse" in state else 1
    return tuple(parts)


def _conv1d(weight: Tensor) -> tuple[int, int]:
    """Stacked dimension and parts of `c_attn`: (d, 3d), nanoGPT's linear (3d, d), or (d, 2d) for cross-attention."""
    long = int(weight.shape[1] > weight.shape[0])
    return long, 2 if weight.shape[long] == 2 * weight.shape[1 - long] else 3


def _gates(stem: str, layer: str, state: Mapping[str, Tensor]) -> int:
    """Gates of a recurrent layer: 4 for an LSTM, 3 for a GRU, 1 for a plain one, from its hidden weights."""
    hidden = state.get(f"{stem}weight_hh{layer}")
    if hidden is None or hidden.ndim != 2 or not hidden.shape[1]:
        return 1
    projection = state.get(f"{stem}weight_hr{layer}")
    width = hidden.shape[1] if projection is None else projection.shape[1]
    return max(hidden.shape[0] // width, 1)


def _slice(tensor: Tensor, shape: torch.Size, parts: tuple[int, ...]) -> Tensor:
    """The leading part of each stacked part, along every dimension."""
    for dim, (size, n) in enumerate(zip(shape, parts)):
        if size != tensor.shape[dim]:
            chunks = tensor.chunk(n, dim)
            tensor = torch.cat([chunk.narrow(dim, 0, size // n) for chunk in chunks], dim)
    return tensor


def _numbers_kept(kept: tuple[str, ...], dropped: tuple[str, ...]) -> list[str]:
    """One entry for each list of modules: its name, the numbers taken, and how many there are."""
    numbers: dict[str, list[str]] = defaultdict(list)
    for layer in kept:
        numbers[layer.rpartition(".")[0]].append(layer.rpartition(".")[2])
    skipped = [layer.rpartition(".")[0] for layer in dropped]
    return [
        f"{path or 'blocks'} {', '.join(taken)} of {len(taken) + skipped.count(path)}"
        for path, taken in numbers.items()
    ]


def _short(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
