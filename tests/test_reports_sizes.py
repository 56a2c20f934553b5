"""Reports of odd sizes: one layer or 300, 2 classes or 1,000, one slice or 5,000; top shown, rest counted."""

from __future__ import annotations

import io

import numpy as np
import pypdf
import pytest

from gapkit.measurement import LayerMatrix, Measurements
from gapkit.reports.compose import compose, report_of, wording_of
from gapkit.reports.draw import draw
from gapkit.reports.pdf import compile_pdf
from gapkit.reports.report import Report, Table
from gapkit.reports.results import Results
from gapkit.reports.slices import SLICES_SHOWN, worst_slices
from tests import report_fixtures as made


def layered(n: int) -> Measurements:
    """A study of n layers a model, each read, predicted and compared."""
    names = tuple(f"backbone.block{index}.act" for index in range(n))
    values = [item for item in made.measurements().values if not item.layer]
    for index, layer in enumerate(names):
        share = 0.2 + 0.7 * index / n
        values += [made.value("linear_probe", of, share, 0.03, layer=layer)
                   for of in ("teacher", "student", "untrained")]  # fmt: skip
        values += [
            made.value("predictability", "pair", share, 0.02, layer=layer, unit=""),
            made.value("predictability", "untrained", share / 3, 0.02, layer=layer, unit=""),
            made.value("hint_bound", "teacher", 0.95, 0.01, layer=layer),
            made.value("effective_rank", "teacher", 9, 0.3, layer=layer, unit=""),
        ]
    matrix = made.cka(n, n, names)
    return made.measurements().with_(values=tuple(values), matrices=(matrix,))


def classed(n: int) -> Measurements:
    curves = (made.by_class("teacher", 0.98, n), made.by_class("student", 0.42, n))
    return made.measurements().with_(curves=curves)


def sliced(n: int, score: float = 0.3) -> Measurements:
    """n declared slices; slice i has a gap that grows with i."""
    values = list(made.measurements().values)
    for index in range(n):
        gap, group = 0.5 * (index + 1) / n, f"store=number {index}"
        values += [
            made.value("gap", "pair", gap, 0.05, group=group, n=90),
            made.value("accuracy", "teacher", 0.9, 0.02, group=group, n=90, better="higher"),
            made.value("accuracy", "student", 0.9 - gap, 0.05, group=group, n=90, better="higher"),
        ]
    return made.measurements().with_(values=tuple(values))


def printed(measurements: Measurements) -> tuple[Report, pypdf.PdfReader, int]:
    """The report, its PDF opened, and the PDF's size in bytes."""
    results = Results(study="s", measurements=measurements)
    say = wording_of(results, "share")
    report = report_of(results, say)
    content = compile_pdf(report, draw(report, results, say))
    return report, pypdf.PdfReader(io.BytesIO(content)), len(content)


def tables(report: Report, heading: str) -> list[Table]:
    return [block for block in report.section(heading).blocks if isinstance(block, Table)]


@pytest.mark.parametrize("n", [1, 300])
def test_one_layer_and_three_hundred(n):
    report, reader, size = printed(layered(n))
    assert size < 2_000_000
    assert len(reader.pages) <= 9
    (table,) = tables(report, "Which layers resemble each other")
    assert len(table.rows) == min(n, 12)
    if n == 300:
        assert table.caption.startswith(
            "The 12 least matched of 300 teacher layers, in their order,"
        )
    assert {"cka", "reading"} <= {figure.name for figure in report.figures}


def test_the_layers_shown_are_the_least_matched_in_their_order():
    matrix = layered(40).cka
    values = matrix.values.copy()
    values[[3, 17, 30]] = 0.01
    matrix = LayerMatrix(**{**dict(matrix), "values": values})
    report = compose(
        study="s", task_unit="share", measurements=layered(40).with_(matrices=(matrix,))
    )
    (table,) = tables(report, "Which layers resemble each other")
    names = [row[0] for row in table.rows]
    assert [name for name in names if name in {"backbone.block3.act", "backbone.block17.act",
                                               "backbone.block30.act"}] == [
        "backbone.block3.act", "backbone.block17.act", "backbone.block30.act"
    ]  # fmt: skip
    numbers = [int(name.split("block")[1].split(".")[0]) for name in names]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("n, drawn", [(2, 2), (1000, 24)])
def test_two_classes_and_a_thousand(n, drawn):
    report, reader, size = printed(classed(n))
    assert size < 2_000_000
    figure = next(figure for figure in report.figures if figure.name == "by_class")
    more = f"Of {n} classes the student's {drawn} worst are drawn."
    assert (more in figure.caption) == (n > drawn)
    assert len(reader.pages) <= 8


@pytest.mark.parametrize("n", [1, 5000])
def test_one_slice_and_five_thousand(n):
    report, reader, size = printed(sliced(n))
    assert size < 2_000_000
    figure = next(figure for figure in report.figures if figure.name == "slices")
    (table,) = tables(report, "Which classes and slices suffer")
    assert table.rows[0][0] == "class=0"  # the worst slice, which the text names
    assert table.rows[1][0] == f"store=number {n - 1}"  # then the largest gap first
    assert len(table.rows) == 1 + min(n, 5)
    assert ("4,988 more slices" in figure.caption) == (n == 5000)
    assert ("4,995 more slices" in table.caption) == (n == 5000)
    assert len(reader.pages) <= 8


def test_the_slices_shown_are_the_ones_with_the_largest_gaps():
    base = sliced(400)
    order = np.random.default_rng(0).permutation(len(base.values))
    shuffled = base.with_(values=tuple(base.values[index] for index in order))
    shown, left = worst_slices(Results(study="s", measurements=shuffled))
    assert shown == [f"store=number {index}" for index in range(399, 399 - SLICES_SHOWN, -1)]
    assert left == 400 - SLICES_SHOWN


def test_nothing_but_scores_is_a_short_report():
    bare = made.measurements()
    bare = bare.with_(
        values=tuple(i for i in bare.values if i.name == "accuracy"), matrices=(), curves=()
    )
    report, reader, _ = printed(bare)
    assert not report.has("Where the student falls short")
    assert len(reader.pages) <= 2
