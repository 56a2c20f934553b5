"""Rehearsal: what the pass of a survey will cost, from some of its samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gapkit.data import SPLITS, Data
from gapkit.family import activation_bytes, count_flops, count_parameters
from gapkit.guest import moved
from gapkit.plans import Cost
from gapkit.probes.features import Taps, observe
from gapkit.probes.moments import Moments
from gapkit.probes.probe import Seen
from gapkit.probes.store import IN_MEMORY
from gapkit.probes.sums import Grams, moment_bytes, widths
from gapkit.probes.survey import example, taps_for

SECONDS = 3.0  # spent on trying out the pass
MOST_BATCHES = 12
FEW = 16


def rehearse(
    *,
    task: Any,
    data: Data,
    models: Mapping[str, nn.Module],
    layers: Any = None,
    reduce: str = "gap",
    device: Any = "cpu",
    seed: int = 0,
    splits: Sequence[str] = SPLITS,
    batch_size: int = 256,
) -> Cost:
    """What the pass of all models over the splits will cost; nothing is kept.

    It is timed on some real samples, its sums those that the whole would take. What the probes compute
    afterwards from the bounded sample that is kept is not in it.

    Args:
        models: "teacher", "student" and, if wanted, "untrained".

    Raises:
        InputError: as `measure` would.
    """
    taps, _ = taps_for(models, data, layers, reduce, splits[0], batch_size, device, seed)
    largest = max(splits, key=data.size)

    def look(split: str, n: int) -> Seen:
        return observe(split, data.sample(n, seed), task, models, taps, planned=data.size(split))

    fixed, each, seen = _sample_seconds(lambda n: look(largest, n), data.size(largest), batch_size)
    seconds = sum(fixed + each * data.size(split) for split in splits)
    seconds += sum(_gram_seconds(seen, data.size(split)) for split in splits)
    flops, memory = _models(models, data, splits, taps)
    return Cost(flops=flops, seconds=seconds, memory_bytes=memory + _kept_bytes(seen))


def _sample_seconds(
    look: Callable[[int], Seen], n: int, batch_size: int
) -> tuple[float, float, Seen]:
    """Seconds of a pass apart from its samples, seconds of each sample, and what the longest trial saw."""
    few = min(FEW, n)
    look(few)  # the first run of everything is slow
    found = [look(few)]
    each = _timed(lambda: look(few)) / few
    many = int(np.clip(SECONDS / max(each, 1e-7), 2 * few, min(n, MOST_BATCHES * batch_size)))
    many = many if many < batch_size else many // batch_size * batch_size
    if many < 2 * few:
        return 0.0, each, found[-1]

    def trial(size: int) -> float:
        return _timed(lambda: found.append(look(size)))

    half, whole = trial(many // 2), trial(many)
    slope = max(0.0, whole - half) / (many - many // 2)
    return max(0.0, half - slope * (many // 2)), slope, found[-1]


def _timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _gram_seconds(seen: Seen, n: int) -> float:
    """Seconds of the Gram matrices of n samples, where these are what the pass will take."""
    if not isinstance(seen.moments, Grams):
        return 0.0
    rows = torch.arange(n) % len(seen.teacher.rows)
    teacher, student = (
        {name: part[rows] for name, part in shown.features.items()}
        for shown in (seen.teacher, seen.student)
    )
    alone = _timed(lambda: Grams(teacher, student).products())
    return alone * (1 if seen.untrained is None else 2)


def _models(
    models: Mapping[str, nn.Module], data: Data, splits: Sequence[str], taps: Taps
) -> tuple[float, int]:
    """FLOPs of all forward passes, and bytes of weights and of a batch's activations."""
    n = sum(map(data.size, splits))
    flops, memory = 0.0, 0
    for role, model in models.items():
        view = moved(example(data, role, splits[0], 8), taps.device)
        size = min(8, data.size(splits[0]))
        flops += count_flops(model, view) / size * n
        memory += 4 * count_parameters(model)
        memory += activation_bytes(model, view) // size * min(taps.batch_size, n)
    return flops, memory


def _kept_bytes(seen: Seen) -> int:
    """Bytes of sums, and of features as far as they are kept in memory."""
    kept = sum(
        4 * part.numel() for shown in seen.models.values() for part in shown.features.values()
    )
    sides = widths(seen.teacher.features), widths(seen.student.features)
    sums = moment_bytes(*sides) if isinstance(seen.moments, Moments) else 0
    return min(kept, IN_MEMORY) + sums
