"""Layers: which of them resemble each other, and what can be read off each, on the test split."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gapkit.measurement import LayerMatrix, Measurement, Measurements
from gapkit.reports.report import Block, Figure, Paragraph, Table
from gapkit.reports.results import Results, matrix_of, one
from gapkit.wording import Wording, bare, short

NAME_WIDTH = 36
LAYERS_SHOWN = 12


def similarity(results: Results) -> Iterator[Block]:
    """Which layers resemble each other: the map, its extremes in words, and a table of all layers."""
    matrix = matrix_of(results.measurements, "cka")
    if matrix is None:
        return
    if not np.isfinite(matrix.values).any():
        reason = next(iter(matrix.reasons.values()), "no pair of layers could be compared")
        yield Paragraph(text=f"Similarity of layers is undefined: {reason}.")
        return
    second = matrix_of(results.measurements, "procrustes")
    yield Paragraph(text=_nearest(matrix) + (_second_opinion(matrix, second) if second else ""))
    yield Figure(
        name="cka",
        caption="Similarity (debiased CKA: 0 unrelated, 1 the same up to rotation and scale) of every "
        f"teacher layer (rows) with every student layer (columns), n = {matrix.n:,}. Left: the student; "
        "right: the same architecture untrained, which shows how much similarity comes for free. Ringed: "
        "the student layer nearest to each teacher layer.",
        alt=f"Two heat maps of {len(matrix.teacher_layers)} teacher by "
        f"{len(matrix.student_layers)} student layers. " + _nearest(matrix),
    )
    yield _layer_table(results, matrix)


def _best(matrix: LayerMatrix, row: int) -> int | None:
    known = np.isfinite(matrix.values[row])
    return int(np.nanargmax(matrix.values[row])) if known.any() else None


def _pair(matrix: LayerMatrix, row: int, column: int) -> str:
    text = f"{_two(matrix.values[row, column])} [{_two(matrix.low[row, column])}, {_two(matrix.high[row, column])}]"
    return f"{text}, n = {matrix.n:,}"


def _two(cell: float | np.ndarray) -> str:
    value = float(cell)
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "–"


def _nearest(matrix: LayerMatrix) -> str:
    """The best and the worst matched teacher layer, each beside the untrained student's value."""
    best = {row: _best(matrix, row) for row in range(len(matrix.teacher_layers))}
    found = {row: float(matrix.values[row, at]) for row, at in best.items() if at is not None}
    high, low = max(found, key=found.__getitem__), min(found, key=found.__getitem__)

    def phrase(row: int) -> str:
        column = best[row]
        assert column is not None
        teacher, student = matrix.teacher_layers[row], matrix.student_layers[column]
        text = f"{short(teacher, NAME_WIDTH)} with the student's {short(student, NAME_WIDTH)}: "
        text += _pair(matrix, row, column)
        if matrix.untrained.size:
            text += f" (untrained student {_two(matrix.untrained[row, column])})"
        return text

    text = f"Best matched is the teacher's {phrase(high)}."
    return text if high == low else f"{text} Least matched is {phrase(low)}."


def _second_opinion(matrix: LayerMatrix, second: LayerMatrix) -> str:
    """For how many teacher layers another similarity names the same nearest student layer."""
    rows = range(len(matrix.teacher_layers))
    if second.values.shape != matrix.values.shape:
        return ""
    both = [(_best(matrix, row), _best(second, row)) for row in rows]
    known = [pair for pair in both if None not in pair]
    same = sum(first == other for first, other in known)
    return (
        f" A second measure, {second.name} similarity, names the same nearest student layer for "
        f"{same} of {len(known)} teacher layers (n = {second.n:,})."
    )


def _layer_table(results: Results, matrix: LayerMatrix) -> Table:
    measured = results.measurements
    predictable = any(item.split == "test" for item in measured.find("predictability", of="pair"))
    ranked = bool(measured.find("effective_rank", of="teacher"))
    columns = ["Teacher layer", "Nearest student layer", "CKA [95 %]", "Untrained"]
    columns += ["Predictable (R²)"] * predictable + ["Effective rank"] * ranked
    rows = []
    shown = _least_matched(matrix)
    known = (
        _by_layer(measured, "predictability", "pair"),
        _by_layer(measured, "effective_rank", "teacher"),
    )
    for row in shown:
        layer = matrix.teacher_layers[row]
        column = _best(matrix, row)
        nearest = "–" if column is None else matrix.student_layers[column]
        cells = [short(layer, NAME_WIDTH), short(nearest, NAME_WIDTH)]
        cells.append(
            "undefined" if column is None else _pair(matrix, row, column).split(", n =")[0]
        )
        judged = column is not None and matrix.untrained.size
        cells.append(_two(matrix.untrained[row, column]) if judged else "–")
        if predictable:
            cells.append(_cell(known[0].get(layer)))
        if ranked:
            cells.append(_cell(known[1].get(layer)))
        rows.append(tuple(cells))
    extra = (
        " Predictable: share of the layer's variance that a linear map from the student's features "
    )
    extra += "recovers on held-out samples (1 all of it)." if predictable else ""
    return Table(
        caption=f"{_which(matrix, len(shown))} and the student layer nearest to it, test, n = {matrix.n:,}."
        + (extra if predictable else "")
        + (" Effective rank: directions that the layer really uses." if ranked else ""),
        columns=tuple(columns),
        rows=tuple(rows),
        widths=(2.0, 2.0, 1.8, 1.2) + (1.8,) * predictable + (1.8,) * ranked,
        right=tuple(range(2, len(columns))),
    )


def _which(matrix: LayerMatrix, shown: int) -> str:
    total = len(matrix.teacher_layers)
    if shown == total:
        return "Every teacher layer"
    return f"The {shown} least matched of {total:,} teacher layers, in their order,"


def _least_matched(matrix: LayerMatrix) -> list[int]:
    """Rows of the table: all, or of many the least similar to any student layer, in their order."""
    best = np.where(np.isfinite(matrix.values), matrix.values, -np.inf).max(1)
    return sorted(np.argsort(best, kind="stable")[:LAYERS_SHOWN].tolist())


def _by_layer(measured: Measurements, name: str, of: str) -> dict[str, Measurement]:
    return {item.layer: item for item in measured.find(name, of=of, split="test")}


def _cell(item: Measurement | None) -> str:
    return "–" if item is None else bare(item)


def reading(results: Results, say: Wording) -> Iterator[Block]:
    """What a linear map reads off each layer, and how much of each teacher layer the student predicts."""
    read = list(_finite(results.measurements, "linear_probe"))
    found = list(_finite(results.measurements, "predictability"))
    told = [*_probed(read, results, say), *_predicted(found, results)]
    if not told:
        return
    yield Paragraph(text=" ".join(told))
    left = (
        "what a linear map, fitted on each layer's features, scores on test "
        f"(n = {read[0].n:,}); the untrained line is what the architecture gives for free"
        if read
        else ""
    )
    right = (
        f"how much of each teacher layer a linear map from the student's best layer predicts (n = {found[0].n:,}), "
        "under the share that a layer of the student's width can hold at all"
        if found
        else ""
    )
    both = (
        f"Left: {left}. Right: {right}." if left and right else f"{(left or right).capitalize()}."
    )
    yield Figure(
        name="reading",
        caption=f"{both} Bands are 95 % intervals.",
        alt="Line charts over depth. " + " ".join(told),
    )


def _finite(measured: Measurements, name: str) -> Iterator[Measurement]:
    return (item for item in measured.find(name, split="test") if math.isfinite(item.value))


def _probed(found: list[Measurement], results: Results, say: Wording) -> Iterator[str]:
    if not found:
        return
    read = Wording(unit=found[0].unit, score_name="linear probe")
    told = []
    for of in ("teacher", "student", "untrained"):
        mine = [item for item in found if item.of == of]
        if mine:
            top = max(mine, key=lambda item: item.value)
            name = "the untrained student" if of == "untrained" else f"the {of}"
            told.append(f"{read.score_of(top)} off {name}'s {short(top.layer, NAME_WIDTH)}")
    yield f"A linear map reads the labels at best with {'; '.join(told)} ({_how(found[0])})."
    score = results.score("student")
    if score is not None:
        yield f"The student itself answers with {say.score_of(score)}."


def _predicted(found: list[Measurement], results: Results) -> Iterator[str]:
    """The teacher layer that the student's features predict least, beside what its width could hold."""
    mine = [item for item in found if item.of == "pair"]
    if not mine:
        return
    worst = min(mine, key=lambda item: item.value)
    text = (
        f"Least predictable from the student is the teacher's {short(worst.layer, NAME_WIDTH)}: R² "
        f"{bare(worst)}"
    )
    fresh = one(results.measurements, "predictability", "untrained", layer=worst.layer)
    bound = one(results.measurements, "hint_bound", "teacher", layer=worst.layer)
    aside = [f"untrained student {bare(fresh)}"] if fresh is not None else []
    if bound is not None and math.isfinite(bound.value):
        aside.append(f"its width can hold {bare(bound)} of that layer")
    yield f"{text} ({'; '.join(aside)})." if aside else f"{text}."


def _how(item: Measurement) -> str:
    """The estimator's first words: what was fitted."""
    return item.estimator.partition(" on ")[0]
