"""Matching: which student layer to pair with which teacher layer, in order, from a map of their similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from gapkit.errors import InputError
from gapkit.measurement import LayerMatrix, Split
from gapkit.record import Array, Record

Pairs = tuple[tuple[int, int], ...]


class LayerMatching(Record):
    """Pairs of a teacher's and a student's layers, both in order, of the largest summed similarity.

    Attributes:
        name, split, n: the similarity matched by, the split and the samples behind it.
        teacher_layers, student_layers: (k,) the matched layers, input to output.
        values, low, high: (k,) similarity of each pair and its interval.
        untrained: (k,) the same with the untrained student: what the architecture alone gives.
            Empty when it was not measured.
        margins: (k,) how much the total falls when the pair is forbidden and all else is chosen anew.
        least_margins: (k,) the smallest margin that is possible while every cell of the map lies in
            its interval: above 0, the pair is decided by the data. nan without intervals.
        left_out: names of the layers of the teacher, then of the student, that no pair holds.
        estimator: rule and similarity, in words.
    """

    name: str
    split: Split | Literal[""] = ""
    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    values: Array
    low: Array
    high: Array
    untrained: Array
    margins: Array
    least_margins: Array
    left_out: tuple[tuple[str, ...], tuple[str, ...]]
    n: int
    estimator: str

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(student layer, teacher layer) of each pair: the keys of a hint."""
        return tuple(zip(self.student_layers, self.teacher_layers))

    @property
    def total(self) -> float:
        """Summed similarity of the pairs."""
        return float(self.values.sum())

    @property
    def decided(self) -> tuple[bool, ...]:
        """Whether each pair stays, wherever in their intervals the similarities lie."""
        return tuple(bool(margin > 0) for margin in self.least_margins)

    def __str__(self) -> str:
        pairs = ", ".join(
            f"{student} ~ {teacher} {value:.3f}" + ("" if sure else " (undecided)")
            for (student, teacher), value, sure in zip(self.pairs, self.values, self.decided)
        )
        return f"{len(self.pairs)} pairs of layers by {self.name}: {pairs or 'none'}"


def match_layers(matrix: LayerMatrix | np.ndarray | Sequence[Sequence[float]]) -> LayerMatching:
    """The order-preserving pairs of layers whose summed similarity is largest: where to put hints.

    Each layer is in one pair at most, and a later student layer is paired with a later teacher layer
    (Needleman & Wunsch 1970 without a price for gaps, 10.1016/0022-2836(70)90057-4). A layer is left
    out where any partner would cost the others more than it brings; cells that are nan or not above
    0 are never paired. Among equal sums the earliest pairs are taken.

    The similarities themselves are summed, not what they exceed the untrained student's by: two
    layers can be alike by architecture and still be the ones that belong together, and where both
    are near 1 the difference is noise. Misleading where the map is flat (see `least_margins`), and for
    as many layers on both sides: where no cell is near 0, the order alone then pairs them one by one.

    Args:
        matrix: a layer matrix, or plain similarities (T, S) of teacher rows and student columns,
            taken as exact; its layers are then called "0", "1", ...

    Raises:
        InputError: unless the similarities form a matrix.

    >>> match_layers([[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]]).pairs
    (('0', '0'), ('1', '2'))
    """
    matrix = matrix if isinstance(matrix, LayerMatrix) else _plain(matrix)
    values = matrix.values
    found = _best(values)
    rows, columns = ([pair[side] for pair in found] for side in (0, 1))
    teacher, student = matrix.teacher_layers, matrix.student_layers
    return LayerMatching(
        name=matrix.name,
        split=matrix.split,
        teacher_layers=tuple(teacher[row] for row in rows),
        student_layers=tuple(student[column] for column in columns),
        values=values[rows, columns],
        low=matrix.low[rows, columns],
        high=matrix.high[rows, columns],
        untrained=matrix.untrained[rows, columns] if matrix.untrained.size else np.array([]),
        margins=_margins(values, found),
        least_margins=_least_margins(matrix, found),
        left_out=(
            tuple(layer for row, layer in enumerate(teacher) if row not in rows),
            tuple(layer for column, layer in enumerate(student) if column not in columns),
        ),
        n=matrix.n,
        estimator=f"largest sum of {matrix.name} over pairs in order, each layer at most once",
    )


def _plain(given: Any) -> LayerMatrix:
    """Similarities as a layer matrix, taken as exact."""
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected similarities but got {type(given).__name__}") from error
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(
            f"Expected similarities (teacher layers, student layers) but got {values.shape}"
        )
    if np.isinf(values).any():
        raise InputError("Expected finite similarities or nan but got inf")
    rows, columns = (tuple(map(str, range(count))) for count in values.shape)
    return LayerMatrix(
        name="similarity",
        teacher_layers=rows,
        student_layers=columns,
        values=values,
        low=values,
        high=values,
        null_z=np.full_like(values, np.nan),
        n=0,
    )


def _best(weights: np.ndarray) -> Pairs:
    """Cells (row, column), both increasing, of the largest sum; the earliest among equals."""
    rest = _sums(weights)
    rows, columns = weights.shape
    row, column, pairs = 0, 0, []
    while row < rows and column < columns:
        weight, here = weights[row, column], rest[row, column]
        if weight > 0 and weight + rest[row + 1, column + 1] == here:
            pairs.append((row, column))
            row, column = row + 1, column + 1
        elif rest[row, column + 1] == here:
            column += 1
        else:
            row += 1
    return tuple(pairs)


def _sums(weights: np.ndarray) -> np.ndarray:
    """(T + 1, S + 1) largest sum over pairs in order from each cell on."""
    rest = np.zeros((weights.shape[0] + 1, weights.shape[1] + 1))
    for row in reversed(range(weights.shape[0])):
        for column in reversed(range(weights.shape[1])):
            here = max(rest[row + 1, column], rest[row, column + 1])
            if weights[row, column] > 0:
                here = max(here, weights[row, column] + rest[row + 1, column + 1])
            rest[row, column] = here
    return rest


def _margins(weights: np.ndarray, pairs: Pairs) -> np.ndarray:
    """(k,) how far the best sum without each pair lies below that of all pairs."""
    total, margins = sum(weights[pair] for pair in pairs), []
    for pair in pairs:
        allowed = weights.copy()
        allowed[pair] = np.nan
        margins.append(total - _sums(allowed)[0, 0])
    return np.round(margins, 12)  # a tie is 0 whatever the order of the sums


def _least_margins(matrix: LayerMatrix, pairs: Pairs) -> np.ndarray:
    """(k,) margin of each pair when all chosen cells are as low, all others as high as may be.

    What two matchings share cancels, so this is the worst case over all others at once.
    """
    known = np.isfinite(matrix.values)
    if not np.isfinite(np.stack([matrix.low, matrix.high])[:, known]).all():
        return np.full(len(pairs), np.nan)
    worst = matrix.high.copy()
    for pair in pairs:
        worst[pair] = matrix.low[pair]
    return _margins(worst, pairs)
