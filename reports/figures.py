"""Figures: which drawing belongs to which name in a report, and all of them as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gapkit.errors import unknown
from gapkit.reports.figures_layers import cka_map, probe_depth
from gapkit.reports.figures_scores import (
    by_class,
    controls,
    drawn_classes,
    reliability,
    waterfall,
)
from gapkit.reports.figures_training import plan_diagram, plan_rows, training_curves
from gapkit.reports.look import blank, look, render
from gapkit.reports.report import Report
from gapkit.reports.results import Results, curve_of
from gapkit.wording import Wording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "by_class",
    "cka_map",
    "controls",
    "draw",
    "plan_diagram",
    "probe_depth",
    "reliability",
    "render",
    "training_curves",
    "waterfall",
]


def draw(report: Report, results: Results, say: Wording) -> dict[str, bytes]:
    """Name -> SVG of every figure that the report refers to.

    Raises:
        InputError: for a figure whose name is not known.
    """
    drawings: dict[str, bytes] = {}
    for figure in report.figures:
        if figure.name not in _DRAWINGS:
            raise unknown("figure", figure.name, _DRAWINGS)
        with look():
            drawings[figure.name] = render(_DRAWINGS[figure.name](results, say))
    return drawings


def _cka(results: Results, say: Wording) -> Figure:
    matrix = results.measurements.cka
    rows = len(matrix.teacher_layers)
    height = min(5.2, max(2.3, 1.5 + 0.24 * rows))
    figure, axes = blank(height, columns=2 if matrix.untrained.size else 1)
    cka_map(axes, matrix)
    return figure


def _probe_depth(results: Results, say: Wording) -> Figure:
    figure, (ax,) = blank(2.7)
    measured = results.measurements
    probes = [item for item in measured.find("linear_probe", split="test") if not item.reason]
    chance = measured.find("chance", split="test") if say.score_name == "accuracy" else ()
    probe_depth(ax, probes, chance[0].value if chance else math.nan)
    return figure


def _reliability(results: Results, say: Wording) -> Figure:
    curves = [curve_of(results.measurements, "reliability", of) for of in ("teacher", "student")]
    figure, (ax,) = blank(2.9)
    reliability(ax, [curve for curve in curves if curve is not None])
    ax.set_box_aspect(0.62)
    return figure


def _by_class(results: Results, say: Wording) -> Figure:
    before = curve_of(results.measurements, "by_class", "student")
    assert before is not None, "a report refers to this figure only when the curve is there"
    after = curve_of(results.after, "by_class", "student") if results.after else None
    figure, (ax,) = blank(1.0 + 0.2 * len(drawn_classes(before)))
    by_class(ax, curve_of(results.measurements, "by_class", "teacher"), before, after, say)
    return figure


def _waterfall(results: Results, say: Wording) -> Figure:
    assert results.gap is not None
    ladder = results.gap.waterfall
    figure, (ax,) = blank(1.0 + 0.34 * (len(ladder.steps) + 2))
    waterfall(ax, ladder, say)
    return figure


def _controls(results: Results, say: Wording) -> Figure:
    assert results.gap is not None
    gap = results.gap
    figure, (ax,) = blank(0.9 + 0.27 * len(gap.controls))
    controls(ax, gap.controls, {"student": gap.student.value, "teacher": gap.teacher.value}, say)
    return figure


def _plan(results: Results, say: Wording) -> Figure:
    assert results.plan is not None
    figure, (ax,) = blank(1.15 * len(plan_rows(results.plan)))
    plan_diagram(ax, results.plan, results.outcome, say)
    return figure


def _training(results: Results, say: Wording) -> Figure:
    from matplotlib.figure import Figure

    from gapkit.reports.look import TEXT_WIDTH

    assert results.outcome is not None
    stages = results.outcome.stages
    columns = min(len(stages), 3)
    rows = math.ceil(len(stages) / columns)
    figure = Figure(figsize=(TEXT_WIDTH, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, stage in zip(axes, stages):
        training_curves(ax, stage, say)
    for ax in axes[len(stages) :]:
        ax.axis("off")
    for ax in axes[::columns]:
        ax.set_ylabel(f"{say.axis}, validation")
    return figure


_DRAWINGS: dict[str, Callable[[Results, Wording], Figure]] = {
    "cka": _cka,
    "probe_depth": _probe_depth,
    "reliability": _reliability,
    "by_class": _by_class,
    "waterfall": _waterfall,
    "controls": _controls,
    "plan": _plan,
    "training": _training,
}
