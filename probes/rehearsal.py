"""Rehearsal: what a survey will cost, from a few batches of it."""

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
from gapkit.probes.probe import Seen, Setting, standard
from gapkit.probes.store import IN_MEMORY
from gapkit.probes.sums import Grams, moment_bytes, widths
from gapkit.probes.survey import example, taps_for

SECONDS = 3.0  # spent on trying out the pass
MOST_BATCHES = 12
PROBED = (64, 192)  # samples of a split on which the probes are tried out


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
) -> tuple[Cost, Cost]:
    """What the pass over the splits and what the probes after it will cost; nothing is kept.

    The pass is timed on some real batches, its sums those that the whole would take; its seconds grow by
    the batch. The probes are timed at two sizes and extrapolated on a line, which is rough.

    Args:
        models: "teacher", "student" and, if wanted, "untrained".

    Raises:
        InputError: as `measure` would.
    """
    taps, _ = taps_for(models, data, layers, reduce, splits[0], batch_size, device, seed)
    largest = max(splits, key=data.size)

    def look(split: str, n: int) -> Seen:
        return observe(split, data.sample(n, seed), task, models, taps, planned=data.size(split))

    first, more, seen = _batch_seconds(lambda n: look(largest, n), data.size(largest), batch_size)
    batches = [-(-data.size(split) // batch_size) for split in splits]
    seconds = sum(first + more * (count - 1) for count in batches)
    seconds += sum(_gram_seconds(seen, data.size(split)) for split in splits)
    flops, memory = _models(models, data, splits, taps)
    passing = Cost(flops=flops, seconds=seconds, memory_bytes=memory + _kept_bytes(seen))
    setting = Setting(
        task=task,
        teacher=models["teacher"],
        student=models["student"],
        teacher_example=example(data, "teacher", splits[0]),
        student_example=example(data, "student", splits[0]),
        reduce=reduce,
        device=taps.device,  # type: ignore[arg-type]
        seed=seed,
        data=data,
    )
    small, large = (min(n, data.size(largest)) for n in PROBED)

    def probe(n: int) -> float:
        return _timed(lambda: _probe({split: look(split, n) for split in splits}, setting))

    short, long = probe(small), probe(large)
    kept = min(max(map(data.size, splits)), taps.cap)
    slope = max(0.0, long - short) / max(1, large - small)
    return passing, Cost(seconds=long + slope * max(0, kept - large))


def _batch_seconds(
    look: Callable[[int], Seen], n: int, batch_size: int
) -> tuple[float, float, Seen]:
    """Seconds of a pass of one batch, of each further one, and what the longest trial saw."""
    size = min(batch_size, n)
    look(size)  # the first run of everything is slow
    found: list[Seen] = []
    first = _timed(lambda: found.append(look(size)))
    count = int(np.clip(SECONDS / max(first, 1e-4), 1, min(MOST_BATCHES, -(-n // size))))
    if count == 1:
        return first, first, found[-1]
    several = _timed(lambda: found.append(look(count * size)))
    return first, max(0.0, several - first) / (count - 1), found[-1]


def _timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _probe(seen: Mapping[str, Seen], setting: Setting) -> None:
    for probe in standard():
        list(probe.measure(seen, setting))


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
