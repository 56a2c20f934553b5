"""Slices: the score by class, rarity, difficulty, declared column and crossing, and where the student loses most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapkit.measurement import Curve, Measurement
from gapkit.probes.cells import Cells
from gapkit.probes.dimensions import (
    CLASS,
    Dimension,
    crossings,
    dimensions,
    largest,
    same_crossings,
    same_slices,
)
from gapkit.probes.interval import curve, measured, undefined
from gapkit.probes.probe import Result, Seen, Setting, reference
from gapkit.probes.slice_table import LEVEL, Answers, Slicing, Table

LEAST = 20  # samples of a crossing, and of a slice that can be named the worst
MOST_CROSSINGS = 200
CANDIDATES = 10  # slices held against the rest of the split
MOST_SCORED, FEW_CANDIDATES = 40, 3  # the same for a score that must be computed anew on each slice
MANY = 50  # slices of one dimension beyond which only the worst are reported one by one
WORST = 20


@dataclass(frozen=True)
class Worst:
    """The slice whose gap exceeds that of the rest beyond noise, "" when there is none; and how that was found."""

    group: str
    how: str


class SliceProbe:
    """The task's score on every slice and crossing of two, with intervals that hold for all of them together.

    Quarters, crossings, which of very many slices are listed and which one is the worst are decided on
    validation (when seen) and reported on test. The worst slice is named only when its gap
    exceeds the gap of all other samples beyond the price of all looks. A score that is no mean of
    contributions is computed anew on each slice, the 40 largest at most, and not on crossings.
    """

    name = "slices"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Scores and paired gaps by slice, the worst slice, and curves by class."""
        answers = {
            split: Answers(seen[split], targets, setting.task)
            for split in ("validation", "test")
            if split in seen and (targets := reference(seen[split], setting.task)) is not None
        }
        if not answers:
            return
        first = next(iter(answers))
        train = seen.get("train")
        found = {
            split: dimensions(its.seen, seen[first], train, its.targets, setting.task.kind)
            for split, its in answers.items()
        }
        plain, crossed, also = _chosen(found[first], answers[first])
        judged = answers[first].table(Slicing.of(plain, crossed, also))
        listed, worst = _listed(judged), _worst(judged, answers[first])
        for split, its in answers.items():
            table = judged
            if split != first:
                kept = found[split] if setting.task.additive else same_slices(found[split], plain)
                again = same_crossings(found[split], its.n, crossed)
                table = its.table(Slicing.of(kept, again, also))
            yield from _report(table, listed, setting)
            yield from _by_class(table, setting)
            yield _reported(worst, table, judged, its)
            if worst.group in table.slicing.groups:
                yield _elsewhere(worst.group, table, its)


def _chosen(
    found: list[Dimension], answers: Answers
) -> tuple[list[Dimension], list[Dimension], str]:
    """Slices and crossings to look at on all splits, and what is left out in words."""
    if answers.task.additive:
        crossed, left_out = crossings(found, answers.n, LEAST, MOST_CROSSINGS)
        return found, crossed, f"{left_out} smaller crossings not looked at" if left_out else ""
    plain, left_out = largest(found, MOST_SCORED)
    return plain, [], f"{left_out} smaller slices not looked at" if left_out else ""


def _listed(table: Table) -> dict[str, str]:
    """Slices reported one by one, and a note on those of a dimension too large for that.

    Of a dimension (or crossings) of more than 50 slices the 20 with the lowest student score.
    """
    notes: dict[str, str] = {}
    kinds = np.array(table.slicing.kinds)
    for kind in dict.fromkeys(table.slicing.kinds):
        members, note = np.flatnonzero(kinds == kind), ""
        if len(members) > MANY:
            note = f"one of the {WORST} worst of {len(members)} "
            note += "crossings" if kind == "crossing" else f"{kind} values"
            members = members[np.isfinite(table.student.value[members])]
            order = np.argsort(table.student.value[members], kind="stable")
            members = members[order[:WORST]]
        notes |= {table.slicing.groups[index]: note for index in members}
    return notes


def _report(table: Table, listed: Mapping[str, str], setting: Setting) -> Iterator[Measurement]:
    score, unit, slicing = setting.task.score_name, setting.task.unit, table.slicing
    for index, group in enumerate(slicing.groups):
        if group not in listed:
            continue
        n = int(table.gap.n[index])
        small = f"too small a slice to rely on ({n} samples)" if n < LEAST else ""
        for name, of, cells, better in (
            (score, "teacher", table.teacher, "higher"),
            (score, "student", table.student, "higher"),
            ("gap", "pair", table.gap, "lower"),
        ):
            interval = cells[index]
            flat = "no spread, hence no width" if interval.low == interval.high else ""
            words = (
                interval.method,
                slicing.notes[index],
                slicing.price,
                small,
                flat,
                listed[group],
            )
            yield measured(
                name, of, table.split, interval, group=group, better=better, unit=unit,
                estimator="; ".join(word for word in words if word),
            )  # fmt: skip


def _worst(table: Table, answers: Answers) -> Worst:
    """The slice whose excess over the rest has the largest lower bound, if that is above zero.

    The ten slices (three, of a score computed anew) with the largest lower bounds of the gap itself
    are held against their rest.
    """
    able = np.flatnonzero(
        np.isfinite(table.gap.low)
        & (table.gap.low < table.gap.high)
        & (table.gap.n >= LEAST)
        & (table.gap.n <= answers.n - LEAST)
    )
    if not len(able):
        return Worst("", f"no slice and its rest have {LEAST} samples and a score each")
    most = CANDIDATES if answers.task.additive else FEW_CANDIDATES
    held = able[np.argsort(-table.gap.low[able], kind="stable")[:most]]
    parts = [table.slicing.rows_of(index) for index in held]
    value, low, _ = _excess(table.gap, held, answers, parts)
    best = int(np.argmax(np.nan_to_num(low, nan=-math.inf)))
    group, k = table.slicing.groups[held[best]], len(table.slicing.groups)
    if not low[best] > 0:
        nearest = f"{group} by {value[best]:.3g}, at least {low[best]:.3g}"
        return Worst(
            "",
            f"none of {k} slices of {table.split} is worse than the rest beyond noise (nearest: {nearest})",
        )
    return Worst(
        group,
        f"named among {k} slices of {table.split}, {table.slicing.price}: there {value[best]:.3g} "
        f"more than on all other samples, at least {low[best]:.3g}",
    )


def _excess(
    gaps: Cells, held: np.ndarray, answers: Answers, parts: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gap of the slices `held` minus that of all other samples, and its bounds (MOVER, Zou & Donner 2008)."""
    others = [np.setdiff1d(np.arange(answers.n), part) for part in parts]
    rest = answers.gaps(others, gaps.level[held])
    gap, low, high = gaps.value[held], gaps.low[held], gaps.high[held]
    value = gap - rest.value
    return (
        value,
        value - np.hypot(gap - low, rest.high - rest.value),
        value + np.hypot(high - gap, rest.value - rest.low),
    )


def _reported(worst: Worst, table: Table, judged: Table, answers: Answers) -> Measurement:
    """The gap on the worst slice; on a split that did not choose it, one look: no correction."""
    fields: dict[str, Any] = {"better": "lower", "unit": answers.task.unit}
    groups = table.slicing.groups
    if worst.group not in groups:
        reason = f"no samples of {worst.group} on this split" if worst.group else worst.how
        nothing = undefined(reason, level=LEVEL)
        return measured("worst_slice", "pair", table.split, nothing, group=worst.group, **fields)
    index = groups.index(worst.group)
    interval, how = table.gap[index], worst.how
    if table is not judged:
        part = table.slicing.rows_of(index)
        gaps = answers.gaps([part], np.array([LEVEL]))
        interval = gaps[0]
        value, low, high = (float(x[0]) for x in _excess(gaps, np.array([0]), answers, [part]))
        how += f"; on this split one look, hence not corrected: {value:.3g} more [{low:.3g}, {high:.3g}]"
    fields["estimator"] = f"{interval.method}; {how}"
    return measured("worst_slice", "pair", table.split, interval, group=worst.group, **fields)


def _elsewhere(group: str, table: Table, answers: Answers) -> Measurement:
    """The gap on the samples that share nothing with the worst slice: for a crossing, neither of its values.

    Not corrected: it is the gap that is left when that slice and its likes are set aside.
    """
    slicing, index = table.slicing, table.slicing.groups.index(group)
    inside = np.zeros(answers.n, dtype=bool)
    inside[slicing.rows_of(index)] = True
    shared = np.bincount(slicing.codes[inside[slicing.rows]], minlength=len(slicing.groups))
    for whole in np.flatnonzero(shared == shared[index]).tolist():
        if slicing.kinds[index] == "crossing" and slicing.kinds[whole] != "crossing":
            inside[slicing.rows_of(whole)] = True
    rest, fields = np.flatnonzero(~inside), {"better": "lower", "unit": answers.task.unit}
    if len(rest) < LEAST:
        interval = undefined(f"fewer than {LEAST} samples elsewhere", len(rest), level=LEVEL)
    else:
        interval = answers.gaps([rest], np.array([LEVEL]))[0]
    return measured("gap_elsewhere", "pair", table.split, interval, group=group, **fields)


def _by_class(table: Table, setting: Setting) -> Iterator[Curve]:
    """All classes in order of their labels; nothing when targets are no labels."""
    members = [index for index, kind in enumerate(table.slicing.kinds) if kind == CLASS]
    if not members:
        return
    ticks = tuple(table.slicing.groups[index].removeprefix(f"{CLASS}=") for index in members)
    places, names = np.arange(len(members)), {"x_name": CLASS, "y_name": setting.task.score_name}
    for of, cells in (("teacher", table.teacher), ("student", table.student)):
        points = [cells[index] for index in members]
        yield curve("by_class", of, table.split, points, x=places, ticks=ticks, **names)
