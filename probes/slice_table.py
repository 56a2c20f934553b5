"""Slice table: all slices of one split, and how teacher and student do on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.cells import Cells, gap_cells, mean_cells, score_cells
from gapkit.probes.dimensions import Dimension
from gapkit.probes.probe import Seen
from gapkit.probes.resample import folds

LEVEL = 0.95
BLOCKS = 20  # parts of a slice left out in turn for the interval of a score that is no mean


@dataclass(frozen=True)
class Slicing:
    """All slices of one split: first those of one dimension, then crossings of two.

    Attributes:
        groups, kinds, notes: (k,) each slice's name, dimension ("crossing" for those) and how it was made.
        rows, codes: (m,) a sample and the slice that it is in.
        level: (k,) coverage of each slice's interval, so that all hold together.
        price: what that cost, in words.
    """

    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    notes: tuple[str, ...]
    rows: np.ndarray
    codes: np.ndarray
    level: np.ndarray
    price: str

    @classmethod
    def of(cls, plain: Sequence[Dimension], crossed: Sequence[Dimension], also: str) -> Slicing:
        """Half of the error for the slices of one dimension, half for the crossings, if there are any.

        So that looking at 200 crossings widens the intervals of 20 slices by 7 % and not by 23 %. The dependence of
        overlapping slices is not used: the exact quantile of the largest of their correlated
        deviations, by simulation, is less than 0.4 % below Bonferroni's.
        """
        every = [*plain, *crossed]
        sizes = [len(item.groups) for item in every]
        n_plain, n_crossed = sum(sizes[: len(plain)]), sum(sizes[len(plain) :])
        error = (1 - LEVEL) / (2 if n_crossed else 1)
        price = f"level corrected for {n_plain} slices (Bonferroni)"
        if n_crossed:
            price = f"level corrected for {n_plain} slices and {n_crossed} crossings of two "
            price += "(Bonferroni, half of the error each)"
        codes = [item.codes + at for item, at in zip(every, np.cumsum([0, *sizes]))]
        kinds = [item.name for item in plain] + ["crossing"] * len(crossed)
        return cls(
            groups=tuple(group for item in every for group in item.groups),
            kinds=tuple(kind for kind, size in zip(kinds, sizes) for _ in range(size)),
            notes=tuple(item.note for item, size in zip(every, sizes) for _ in range(size)),
            rows=np.concatenate([np.empty(0, int), *(item.rows for item in every)]),
            codes=np.concatenate([np.empty(0, int), *codes]),
            level=1
            - np.repeat([error / max(1, n_plain), error / max(1, n_crossed)], [n_plain, n_crossed]),
            price=f"{price}; {also}".removesuffix("; "),
        )

    def rows_of(self, index: int) -> np.ndarray:
        """Samples of one slice."""
        return self.rows[self.codes == index]


@dataclass(frozen=True)
class Table:
    """The slices of one split and how both models do on each, in the order of the slices."""

    split: str
    slicing: Slicing
    teacher: Cells
    student: Cells
    gap: Cells


@dataclass(frozen=True)
class Answers:
    """What both models answered on one split, to be scored on any of its slices."""

    seen: Seen
    targets: Tensor
    task: Any

    @property
    def n(self) -> int:
        """Samples of the split."""
        return len(self.targets)

    def table(self, slicing: Slicing) -> Table:
        """Scores and paired gap of every slice at its own level."""
        found = self._scored(slicing.rows, slicing.codes, slicing.level)
        return Table(self.seen.split, slicing, *found)

    def gaps(self, slices: Sequence[np.ndarray], level: np.ndarray) -> Cells:
        """The paired gap on each of several choices of samples of the split."""
        codes = np.repeat(np.arange(len(slices)), [len(part) for part in slices])
        return self._scored(np.concatenate(slices), codes, level).gap

    def _scored(self, rows: np.ndarray, codes: np.ndarray, level: np.ndarray) -> _Scored:
        return (self._looked_up if self.task.additive else self._scored_anew)(rows, codes, level)

    def _looked_up(self, rows: np.ndarray, codes: np.ndarray, level: np.ndarray) -> _Scored:
        """From the contributions of the slices' samples (or tokens, grouped by their sample)."""
        (*values, owner), groups = self._contributions, self.seen.groups
        if len(owner) != self.n or (owner != np.arange(self.n)).any():
            rows, codes = _owned(rows, codes, owner, self.n)
            groups = owner if groups is None else groups[owner]
        where = codes, level, None if groups is None else groups[rows]
        teacher, student = (side[rows] for side in values)
        return _Scored(
            score_cells(teacher, *where),
            score_cells(student, *where),
            gap_cells(teacher, student, *where),
        )

    @cached_property
    def _contributions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the teacher's and the student's units (m,), and the sample that owns each unit."""
        models = self.seen.teacher, self.seen.student
        units = [self.task.units(shown.outputs, self.targets) for shown in models]
        teacher, student = (
            np.asarray(self.task.contributions(unit.outputs, unit.targets), dtype=np.float64)
            for unit in units
        )
        return teacher, student, units[0].owner

    def _scored_anew(self, rows: np.ndarray, codes: np.ndarray, level: np.ndarray) -> _Scored:
        """From jackknife pseudo-values of each slice's own score, one a block of its samples."""
        values, blocks, refused = [np.empty((0, 2))], [np.empty(0, int)], {}
        order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes, minlength=len(level))
        for index, part in enumerate(np.split(rows[order], np.cumsum(sizes)[:-1])):
            try:
                values.append(self._pseudo_values(part))
            except ValueError as error:  # a score may refuse samples of one class
                refused[index] = f"the score refuses this slice: {error}"
                continue
            blocks.append(np.full(len(values[-1]), index))
        teacher, student = np.concatenate(values).T
        how = f"score of the slice; jackknife over {BLOCKS} blocks at most, t interval, no narrower than Hall's"
        found = [
            mean_cells(side, np.concatenate(blocks), level)
            for side in (teacher, student, teacher - student)
        ]
        return _Scored(
            *(replace(side, n=sizes, method=how, reasons=side.reasons | refused) for side in found)
        )

    def _pseudo_values(self, rows: np.ndarray) -> np.ndarray:
        """(blocks, 2) values of both models; their mean is the score on these rows, their spread its jackknife's.

        Tukey 1958; groups stay whole.
        """
        groups = None if self.seen.groups is None else self.seen.groups[rows]
        block = folds(len(rows), BLOCKS, groups)
        names, whole = np.unique(block), self._scores(rows)
        if len(names) < 2:
            return whole[None]
        without = np.array([self._scores(rows[block != name]) for name in names])
        values = len(names) * whole - (len(names) - 1) * without
        return values - values.mean(0) + whole

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        index = torch.from_numpy(rows)
        outputs = (self.seen.teacher.outputs, self.seen.student.outputs)
        return np.array([self.task.score(one[index], self.targets[index]) for one in outputs])


class _Scored(NamedTuple):
    teacher: Cells
    student: Cells
    gap: Cells


def _owned(
    rows: np.ndarray, codes: np.ndarray, owner: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The units that the samples `rows` own, each with its sample's slice; owners in ascending order."""
    counts = np.bincount(owner, minlength=n)
    first = np.cumsum(counts) - counts
    many = counts[rows]
    within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return np.repeat(first[rows], many) + within, np.repeat(codes, many)
