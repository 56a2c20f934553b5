"""Capacity: what a model has room for. Parameters, FLOPs, activation memory, and the dimensions that layers use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from gapkit.errors import InputError
from gapkit.family import activation_bytes, count_flops, count_parameters
from gapkit.guest import moved
from gapkit.measurement import LayerMatrix
from gapkit.probes.interval import Interval, exact, measured, undefined
from gapkit.probes.layers import first_tensor
from gapkit.probes.probe import Result, Seen, Setting
from gapkit.probes.ranks import entropy_rank, participation, spectral_intervals, top_share
from gapkit.probes.resample import one_of_each
from gapkit.probes.twonn import dimension_interval

RANKS = {"effective_rank": entropy_rank, "participation_ratio": participation}


class CapacityProbe:
    """Size and cost of teacher and student, how many dimensions their layers use, and how much a student can hold."""

    name = "capacity"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Counts once; ranks and dimension of every layer and the width shares on validation and test.

        "width_share" says for each pair of layers which share of the teacher layer's variance lies in as
        many principal directions as the student layer is wide (the bound of a linear hint);
        "hint_bound" is its largest value over student layers, that of the widest.
        """
        yield from _counts("teacher", setting.teacher, setting.teacher_example, setting)
        yield from _counts("student", setting.student, setting.student_example, setting)
        for split in (name for name in ("validation", "test") if name in seen):
            shown = seen[split]
            dims = [shown.student.features[layer].shape[1] for layer in shown.student.layers]
            for of in shown.models:
                asked = dims if of == "teacher" else []
                found = _spectra(shown, of, asked, setting.seed)
                yield from _dimensions(shown, of, found, setting.seed)
                if asked and found:
                    yield from _shares(shown, dims, list(found.values()), setting)


def _counts(of: str, model: Any, example: Any, setting: Setting) -> Iterator[Result]:
    size, how = exact(float(count_parameters(model))), "exact, tied ones once"
    yield measured("parameters", of, "", size, unit="parameters", estimator=how)
    n = _batch_size(example)
    view = moved(example, setting.device)
    per_sample = count_flops(model, view) / n
    nothing = undefined("the forward pass has no operation whose FLOPs are counted")
    cost = exact(per_sample) if per_sample else nothing
    how = "one forward pass; matrix products, convolutions, attention; two per multiply-add"
    yield measured("flops", of, "", cost, unit="FLOPs", better="lower", estimator=how)
    how = "what a forward pass in train mode keeps for its backward pass, by each further sample"
    memory = _activations(model, view, n)
    yield measured("activation_bytes", of, "", memory, unit="bytes", better="lower", estimator=how)


def _activations(model: Any, view: Any, n: int) -> Interval:
    """Bytes a sample adds: of four copies of the view less those of two, which batch statistics need."""
    try:
        two, four = (activation_bytes(model, _copied(view, n, times)) for times in (2, 4))
    except (RuntimeError, TypeError, ValueError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        return undefined(f"no forward pass in train mode over copies of a sample: {words}")
    return exact((four - two) / (2 * n))


def _copied(view: Any, n: int, times: int) -> Any:
    """The view with every tensor of n rows repeated."""
    if isinstance(view, torch.Tensor):
        return torch.cat([view] * times) if view.ndim and len(view) == n else view
    if isinstance(view, Mapping):
        return {key: _copied(item, n, times) for key, item in view.items()}
    if isinstance(view, (tuple, list)):
        return tuple(_copied(item, n, times) for item in view)
    return view


def _batch_size(example: Any) -> int:
    """Samples in a view: rows of its first tensor."""
    found = first_tensor(example)
    if found is None or not found.ndim:
        raise InputError(
            f"Expected an example that holds a tensor but got {type(example).__name__}"
        )
    return len(found)


def _spectra(seen: Seen, of: str, dims: list[int], seed: int) -> dict[str, list[Interval]]:
    """Layer -> its ranks, then the share of its variance that each of the widths holds."""
    shown = seen.models[of]
    groups = None if seen.groups is None else seen.groups[shown.rows]
    statistics = [*RANKS.values(), *(top_share(d) for d in dims)]
    found = {}
    for layer in shown.layers:
        x = shown.features[layer].double().numpy()
        cells = spectral_intervals(x, statistics, groups=groups, seed=seed)
        ranks, shares = cells[: len(RANKS)], cells[len(RANKS) :]
        found[layer] = [_bounded(item, 1.0, x.shape[1]) for item in ranks]
        found[layer] += [_held(item, d, x.shape[1]) for item, d in zip(shares, dims)]
    return found


def _held(share: Interval, d: int, width: int) -> Interval:
    """Share that d directions hold of a layer; nan where there are too few samples to tell."""
    if share.reason or d >= width or share.n > d + 1:
        return _bounded(share, 0.0, 1.0)
    return undefined(f"{share.n} samples span no more than the {d} directions asked about", share.n)


def _dimensions(
    seen: Seen, of: str, found: Mapping[str, list[Interval]], seed: int
) -> Iterator[Result]:
    shown = seen.models[of]
    groups = None if seen.groups is None else seen.groups[shown.rows]
    alone = one_of_each(len(shown.rows), groups)  # neighbors within a group would measure it
    for layer, ranks in found.items():
        x = shown.features[layer].double().numpy()[alone]
        intervals = dict(zip(RANKS, ranks)) | {
            "intrinsic_dimension": dimension_interval(x, seed=seed)
        }
        for name, interval in intervals.items():
            yield measured(name, of, seen.split, interval, layer=layer, unit="dimensions")


def _shares(
    seen: Seen, dims: list[int], found: list[list[Interval]], setting: Setting
) -> Iterator[Result]:
    """The width-share matrix, and its column of the widest student layer as "hint_bound"."""
    student, teacher = seen.student, seen.teacher
    rows = [cells[len(RANKS) :] for cells in found]
    widest = int(np.argmax(dims))
    for layer, cells in zip(teacher.layers, rows):
        bound = cells[widest]
        how = f"variance share of the top {dims[widest]} directions, the width of student layer "
        yield measured(
            "hint_bound", "teacher", seen.split, bound, layer=layer, unit="share",
            estimator=f"{how}{student.layers[widest]}; {bound.method}".removesuffix("; "),
        )  # fmt: skip
    values, low, high = (
        np.array([[getattr(cell, name) for cell in cells] for cells in rows])
        for name in ("value", "low", "high")
    )
    yield LayerMatrix(
        name="width_share",
        split=cast(Any, seen.split),
        teacher_layers=teacher.layers,
        student_layers=student.layers,
        values=values,
        low=low,
        high=high,
        null_z=np.full_like(values, np.nan),
        teacher_dims=tuple(teacher.features[layer].shape[1] for layer in teacher.layers),
        student_dims=tuple(dims),
        reduce=setting.reduce,
        estimator="variance share of the teacher layer in as many principal directions as the "
        "student layer is wide; interval: influence of each sample; no null: it compares no answers",
        n=len(teacher.rows),
        reasons={
            f"{row},{column}": cell.reason
            for row, cells in enumerate(rows)
            for column, cell in enumerate(cells)
            if cell.reason
        },
    )


def _bounded(interval: Interval, lowest: float, highest: float) -> Interval:
    low, high = max(lowest, interval.low), min(highest, interval.high)
    return interval if interval.reason else replace(interval, low=low, high=high)
