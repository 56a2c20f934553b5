"""Slices: the score by class and by declared slice, and the slice where the student loses most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gapkit.measurement import Curve, Measurement
from gapkit.probes.interval import (
    Interval,
    bonferroni_level,
    curve,
    difference_interval,
    measured,
    score_interval,
    undefined,
)
from gapkit.probes.probe import Result, Seen, Setting

LEVEL = 0.95
CLASS = "class"
TOO_SMALL = 5
MANY = 50  # values of one dimension beyond which only the worst are reported one by one
WORST = 20


@dataclass(frozen=True)
class Slice:
    """Some samples of a split, and how both models do on them.

    Attributes:
        dimension, value: "class" and "3", or a declared slice's name and value; `group` joins them.
        n: samples; teacher, student: their scores; gap: teacher minus student, paired.
    """

    dimension: str
    value: str
    n: int
    teacher: Interval
    student: Interval
    gap: Interval

    @property
    def group(self) -> str:
        """The slice's name in a Measurement."""
        return f"{self.dimension}={self.value}"


class SliceProbe:
    """The task's score on every class and declared slice, with intervals that hold for all of them together.

    Which slice is the worst, and which of very many classes are listed, is decided on validation (when
    seen) and reported on test.
    """

    name = "slices"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Scores and paired gaps by slice, the worst slice, and curves by class."""
        found = {
            split: _sliced(seen[split], setting)
            for split in ("validation", "test")
            if split in seen and seen[split].targets is not None
        }
        judge = next(iter(found), "")
        for split, slices in found.items():
            yield from _report(slices, _listed(found[judge]), split, setting)
            for of in ("teacher", "student"):
                yield from _by_class(slices, of, split, setting)
            if slices:
                yield _worst(found[judge], slices, judge, split, setting)


def _sliced(seen: Seen, setting: Setting) -> list[Slice]:
    """Every slice of a split, measured at the level corrected for their number."""
    columns = _columns(seen)
    names = {name: np.unique(column) for name, column in columns.items()}
    level = bonferroni_level(LEVEL, sum(len(values) for values in names.values()))
    return [
        _slice(seen, setting, name, value, np.flatnonzero(columns[name] == value), level)
        for name, values in names.items()
        for value in values
    ]


def _columns(seen: Seen) -> dict[str, np.ndarray]:
    """The labels, when they are such, as dimension "class"; then the declared slices."""
    targets, columns = seen.targets, {}
    if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
        columns[CLASS] = targets.cpu().numpy()
    for name, column in seen.slices.items():
        values = np.asarray(column)
        values = values.astype(str) if values.dtype == object else values
        columns[name if name != CLASS else f"slice {CLASS}"] = values
    return columns


def _slice(
    seen: Seen, setting: Setting, name: str, value: Any, rows: np.ndarray, level: float
) -> Slice:
    groups = None if seen.groups is None else seen.groups[rows]
    label, index, targets = str(value), torch.from_numpy(rows), seen.targets
    assert targets is not None
    try:
        teacher, student = (
            np.asarray(setting.task.contributions(shown.outputs[index], targets[index]), float)
            for shown in (seen.teacher, seen.student)
        )
    except ValueError as error:  # a score of the user's own may refuse samples of one class
        nothing = undefined(f"the score refuses this slice: {error}", len(rows), level)
        return Slice(name, label, len(rows), nothing, nothing, nothing)
    scores = score_interval(teacher, level, groups), score_interval(student, level, groups)
    gap = difference_interval(teacher, student, level, groups)
    return Slice(name, label, len(rows), *scores, gap)


def _listed(slices: list[Slice]) -> tuple[set[str], dict[str, int]]:
    """Groups reported one by one, and the size of each dimension too large for that.

    Of a dimension with more than 50 values the 20 with the lowest student score are listed.
    """
    groups: set[str] = set()
    large: dict[str, int] = {}
    for dimension in dict.fromkeys(item.dimension for item in slices):
        members = [item for item in slices if item.dimension == dimension]
        if len(members) > MANY:
            large[dimension] = len(members)
            members = [item for item in members if not item.student.reason]
            members = sorted(members, key=lambda item: item.student.value)[:WORST]
        groups |= {item.group for item in members}
    return groups, large


def _report(
    slices: list[Slice], listed: tuple[set[str], dict[str, int]], split: str, setting: Setting
) -> Iterator[Measurement]:
    groups, large = listed
    task = setting.task
    for item in slices:
        if item.group not in groups:
            continue
        note = _caution(slices, item.n)
        if of_many := large.get(item.dimension):
            note += f"; one of the {WORST} worst of {of_many} {item.dimension} values"
        for name, of, interval, better in (
            (task.score_name, "teacher", item.teacher, "higher"),
            (task.score_name, "student", item.student, "higher"),
            ("gap", "pair", item.gap, "lower"),
        ):
            yield measured(
                name, of, split, interval, group=item.group, better=better, unit=task.unit,
                estimator=f"{interval.method}; {note}".removeprefix("; "),
            )  # fmt: skip


def _caution(slices: list[Slice], n: int) -> str:
    """What to know about the interval of one of these slices, n samples large."""
    small = f"; too small a slice to rely on ({n} samples)" if n < TOO_SMALL else ""
    return f"level corrected for {len(slices)} slices (Bonferroni){small}"


def _worst(
    judged: list[Slice], slices: list[Slice], judge: str, split: str, setting: Setting
) -> Measurement:
    """The paired gap on the slice whose gap is the most certain: the largest lower bound on the judging split."""
    able = [item for item in judged if item.n >= TOO_SMALL and not item.gap.reason]
    fields: dict[str, Any] = {"better": "lower", "unit": setting.task.unit}
    if not able:
        nothing = undefined(f"no slice has {TOO_SMALL} samples and a score", level=LEVEL)
        return measured("worst_slice", "pair", split, nothing, **fields)
    worst = max(able, key=lambda item: (item.gap.low, item.gap.value))
    here = next((item for item in slices if item.group == worst.group), None)
    if here is None:
        nothing = undefined(f"no samples of {worst.group} on this split", level=LEVEL)
        return measured("worst_slice", "pair", split, nothing, group=worst.group, **fields)
    how = f"{here.gap.method}; largest lower bound of the gap among {len(judged)} slices "
    fields["estimator"] = f"{how}of {judge}; {_caution(slices, here.n)}"
    return measured("worst_slice", "pair", split, here.gap, group=worst.group, **fields)


def _by_class(slices: list[Slice], of: str, split: Any, setting: Setting) -> Iterator[Curve]:
    """All classes in order of their labels; nothing when targets are no labels."""
    members = [item for item in slices if item.dimension == CLASS]
    if not members:
        return
    scores = [item.teacher if of == "teacher" else item.student for item in members]
    ticks, places = tuple(item.value for item in members), np.arange(len(members))
    names = {"x_name": CLASS, "y_name": setting.task.score_name}
    yield curve("by_class", of, split, scores, x=places, ticks=ticks, **names)
