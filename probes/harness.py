"""Harness: whether a teacher does better reordered, in train mode, on the student's view or on rescaled inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.guest import call, guest, moved, seeded
from gapkit.measurement import Curve
from gapkit.probes.calibration import named_classes
from gapkit.probes.features import placed
from gapkit.probes.interval import (
    Interval,
    bonferroni_level,
    difference_interval,
    measured,
    score_interval,
    undefined,
)
from gapkit.probes.probe import Result, Seen, Setting
from gapkit.probes.resample import folds

RESCALINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "standardized": lambda x: (x - x.mean(_all_but_channel(x), True)) / _spread(x),
    "divided by 255": lambda x: x / 255,
    "multiplied by 255": lambda x: x * 255,
}
"""What inputs are commonly brought to: zero mean and unit variance by channel; pixels in [0, 1], or 0 to 255."""

CHECKS = 3 + len(RESCALINGS)  # of one teacher: class order, mode, view, rescaled inputs
LEVEL = bonferroni_level(0.95, CHECKS)
CAP, BATCH = 1024, 128  # samples that the teacher is run on again, and how many at once


def best_permutation(logits: Tensor, labels: Tensor) -> np.ndarray:
    """The order of outputs under which the most answers are right: logits[:, order] fits the labels.

    The assignment of outputs to classes with the largest sum over the confusion matrix
    (scipy.optimize.linear_sum_assignment; Kuhn 1955). Among equals, classes stay where they are. Never
    below the score as it is, by choice alone: judge the order on other samples (`reordered_hits`).

    Args:
        logits: (m, K). labels: (m,) integers below K.

    Returns:
        (K,) position of the output that answers each class; 0, 1, ... when nothing is gained.

    >>> best_permutation(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([0, 1])).tolist()
    [1, 0]
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            f"Expected logits (samples, classes) and as many labels but got {tuple(logits.shape)} "
            f"and {tuple(labels.shape)}"
        )
    k = logits.shape[1]
    answers, truth = named_classes(logits), labels.cpu().numpy()
    confusion = np.bincount(truth * k + answers, minlength=k * k).reshape(k, k).astype(float)
    stay = 0.5 / k  # all of them together less than one sample
    order: np.ndarray = linear_sum_assignment(confusion + stay * np.eye(k), maximize=True)[1]
    return order


def reordered_hits(
    logits: Tensor, labels: Tensor, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """(m,) 1 where the answer is right after reordering the classes as the other half of the samples says.

    Each half is judged by the order that the other half chose, so the mean is that of an order found
    elsewhere: for a teacher whose order is right it is the accuracy, not more.

    >>> logits = torch.eye(3).repeat(10, 1)
    >>> float(reordered_hits(logits, (logits.argmax(1) + 1) % 3).mean())
    1.0
    """
    half = folds(len(labels), 2, groups, seed)
    answers, truth = named_classes(logits), labels.cpu().numpy()
    hits = np.empty(len(labels))
    for held in (half == 0, half == 1):
        kept = torch.from_numpy(~held)
        order = best_permutation(logits[kept], labels[kept])
        hits[held] = answers[held] == order[truth[held]]
    return hits


class HarnessProbe:
    """Signs that the teacher is fed or read in a wrong way, each as a gain of its score over what it has.

    "permuted_accuracy" and "permuted_gain" (classification; the curve "class_order" holds the order),
    "train_mode_gain" (models with batch statistics), "student_view_gain" (where the views differ) and
    "rescaled_gain" (where its view is one tensor of real numbers; `group` says how): paired over samples, at
    a level that holds for all of them together. The teacher is run again on at most 1,024 samples of
    validation.
    """

    name = "harness"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterator[Result]:
        """The class order on validation and test, all else on validation."""
        for split in ("validation", "test"):
            if split not in seen or seen[split].targets is None:
                continue
            if setting.task.kind == "classification":
                yield from _class_order(seen[split], setting)
            if split == "validation" and setting.data is not None:
                yield from _run_again(seen[split], setting, setting.data)


def _class_order(seen: Seen, setting: Setting) -> Iterator[Result]:
    units = setting.task.units(seen.teacher.outputs, seen.targets)
    logits, labels = units.outputs, units.targets
    n = len(seen.teacher.outputs)
    several = seen.groups is None and len(units.owner) != n
    groups = np.arange(n) if several else seen.groups
    by = None if groups is None else groups[units.owner]
    split: Any = seen.split
    n_units = len(labels) if by is None else len(np.unique(by))
    if n_units < 2:
        return
    right = (named_classes(logits) == labels.cpu().numpy()).astype(np.float64)
    hits = reordered_hits(logits, labels, by, setting.seed)
    how = "classes reordered as the other half of the samples says; "
    for name, interval in (
        ("permuted_accuracy", score_interval(hits, LEVEL, by)),
        ("permuted_gain", difference_interval(hits, right, LEVEL, by)),
    ):
        yield measured(
            name, "teacher", split, interval, unit="share", better="neither",
            estimator=how + interval.method, seed=setting.seed,
        )  # fmt: skip
    order = best_permutation(logits, labels)
    nothing, counts = np.full(len(order), np.nan), np.bincount(labels.cpu(), minlength=len(order))
    yield Curve(
        name="class_order", of="teacher", split=split, x_name="class", y_name="output that answers it",
        x=np.arange(len(order)), y=order.astype(float), low=nothing, high=nothing, n=counts,
    )  # type: ignore[arg-type]  # fmt: skip


def _run_again(seen: Seen, setting: Setting, data: Data) -> Iterator[Result]:
    """The teacher in train mode, where that makes a difference, and on the student's view, where it has one."""
    norms = nn.modules.batchnorm._BatchNorm
    if any(
        isinstance(part, norms) and part.track_running_stats for part in setting.teacher.modules()
    ):
        found = _gain(seen, setting, data, data.teacher_view, training=True)
        yield measured("train_mode_gain", "teacher", seen.split, found, unit=setting.task.unit)
    if not data.same_view:
        found = _gain(seen, setting, data, data.student_view, training=False)
        yield measured("student_view_gain", "teacher", seen.split, found, unit=setting.task.unit)
    for how in RESCALINGS if _is_real(seen.split, data) else ():
        found = _gain(seen, setting, data, _rescaled(data, how), training=False)
        yield measured(
            "rescaled_gain", "teacher", seen.split, found, unit=setting.task.unit, group=how
        )


def _rescaled(data: Data, how: str) -> Callable[[Any], Any]:
    """The teacher's view with its numbers brought to another scale."""
    return lambda raw: RESCALINGS[how](data.teacher_view(raw))


def _is_real(split: str, data: Data) -> bool:
    """Whether the teacher's view is one tensor of real numbers."""
    view = data.teacher_view(next(iter(data.batches(split, 1, np.arange(1)))).raw)
    return isinstance(view, Tensor) and view.is_floating_point()


def _all_but_channel(x: Tensor) -> list[int]:
    """Samples and places: all dimensions but the second of (n, c, ...), as normalizing layers have it."""
    return [dim for dim in range(x.ndim) if dim != 1 or x.ndim < 2]


def _spread(x: Tensor) -> Tensor:
    """Standard deviation by channel, 1 where there is none."""
    deviation = x.std(_all_but_channel(x), correction=0, keepdim=True)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _gain(
    seen: Seen, setting: Setting, data: Data, view: Callable[[Any], Any], training: bool
) -> Interval:
    """What the teacher's score gains when it is called another way, paired over the same samples."""
    task, targets = setting.task, seen.targets
    assert targets is not None
    rows = np.random.default_rng(setting.seed).permutation(len(targets))[:CAP]
    rows = rows[:-1] if len(rows) % BATCH == 1 else rows  # one sample has no batch statistics
    if not len(rows):
        return undefined("one sample alone")
    own = seen.teacher.outputs[torch.from_numpy(rows)]
    try:
        other = _outputs(seen.split, setting, data, view, rows, training)
        if other.shape != own.shape:
            return undefined("the teacher's outputs are then of another shape", len(rows))
        truth = targets[torch.from_numpy(rows)]
        scores = [task.contributions(part, truth) for part in (other, own)]
    except Exception as error:  # a guest may refuse a view that is not its own
        return undefined(f"the teacher then raises {type(error).__name__}", len(rows))
    groups = None if seen.groups is None else seen.groups[rows]
    return difference_interval(scores[0], scores[1], LEVEL, groups)


def _outputs(
    split: str,
    setting: Setting,
    data: Data,
    view: Callable[[Any], Any],
    rows: np.ndarray,
    training: bool,
) -> Tensor:
    """(m, ...) the teacher's outputs for rows of a split, in their order."""
    model, parts = setting.teacher, []
    with (
        seeded(setting.seed),
        _same_buffers(model),
        guest(model, training=training),
        placed([model], setting.device),
        torch.no_grad(),
    ):
        for batch in data.batches(split, BATCH, rows):
            raw = call(model, moved(view(batch.raw), setting.device))
            parts.append(setting.task.outputs(raw).float().cpu())
    return torch.cat(parts)


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Inside, running statistics may move; outside they are what they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
