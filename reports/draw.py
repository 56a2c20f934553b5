"""Draw: which drawing belongs to which name in a report, and all of them as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gapkit.errors import unknown
from gapkit.measurement import Curve
from gapkit.reports.figures_layers import cka_change, cka_map, predictability, probe_depth
from gapkit.reports.figures_plan import pareto, plan_diagram, plan_rows
from gapkit.reports.figures_samples import attribution_pairs
from gapkit.reports.figures_scores import (
    by_class,
    confidence,
    controls,
    drawn_classes,
    dumbbells,
    reliability,
    step_name,
    waterfall,
)
from gapkit.reports.figures_training import stage_forecasts, training_curves
from gapkit.reports.intervals import with_bounds
from gapkit.reports.look import TEXT_WIDTH, blank, look, render
from gapkit.reports.report import Report
from gapkit.reports.results import Results, curve_of, matrix_of
from gapkit.reports.slices import sliced, worst_slices
from gapkit.wording import Wording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES_DRAWN = 6


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
    height = min(3.6, max(2.0, 1.3 + 0.22 * rows))
    figure, axes = blank(height, columns=2 if matrix.untrained.size else 1)
    cka_map(matrix, axes)
    return figure


def _reading(results: Results, say: Wording) -> Figure:
    """Probe curves, predictability, or both side by side."""
    measured = results.measurements
    read = [item for item in measured.find("linear_probe", split="test") if not item.reason]
    found = [item for item in measured.find("predictability", split="test") if not item.reason]
    figure, axes = blank(2.5, columns=bool(read) + bool(found))
    if read:
        chance = measured.find("chance", split="test") if say.score_name == "accuracy" else ()
        probe_depth(read, chance[0].value if chance else math.nan, axes[0])
        axes[0].set_xlabel("relative depth: 0 first layer, 1 last")
    if found:
        bound = measured.find("hint_bound", of="teacher", split="test")
        predictability(
            [item for item in found if item.of == "pair"],
            [item for item in found if item.of == "untrained"],
            [item for item in bound if not item.reason],
            axes[-1],
        )
    return figure


def _reliability(results: Results, say: Wording) -> Figure:
    curves = reliability_curves(results)
    figure, axes = blank(2.5, columns=2)
    reliability(curves, axes[0])
    confidence(curves, axes[1])
    figure.legend(
        *axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=len(curves)
    )
    return figure


def reliability_curves(results: Results) -> list[Curve]:
    """Those of teacher, student and, after a plan, the new student (as "reached")."""
    sources = [
        ("teacher", results.measurements, "teacher"),
        ("student", results.measurements, "student"),
    ]
    sources += [("reached", results.after, "student")] if results.after else []
    found = [(role, curve_of(source, "reliability", of)) for role, source, of in sources]
    return [curve.with_(of=role) for role, curve in found if curve is not None]


def _by_class(results: Results, say: Wording) -> Figure:
    before = curve_of(results.measurements, "by_class", "student")
    assert before is not None, "a report refers to this figure only when the curve is there"
    after = curve_of(results.after, "by_class", "student") if results.after else None
    figure, (ax,) = blank(0.9 + 0.165 * len(drawn_classes(before)))
    by_class(curve_of(results.measurements, "by_class", "teacher"), before, after, ax, say)
    return figure


def _slices(results: Results, say: Wording) -> Figure:
    shown = worst_slices(results)[0]
    roles = [
        ("student", results.measurements, "student"),
        ("teacher", results.measurements, "teacher"),
    ]
    roles += [("reached", results.after, "student")] if results.after else []
    rows = {}
    for role, source, of in roles:
        known = sliced(source, results.score_name, of)
        found = [known.get(group) for group in shown]
        if any(item is not None for item in found):
            rows[role] = with_bounds(found)
    figure, (ax,) = blank(0.9 + 0.2 * len(shown))
    dumbbells(shown, rows, ax, say)
    return figure


def _attribution(results: Results, say: Wording) -> Figure:
    assert results.exhibits is not None
    return attribution_pairs(results.exhibits.items)


def _waterfall(results: Results, say: Wording) -> Figure:
    assert results.gap is not None
    ladder = results.gap.waterfall
    lines = max((step_name(step).count("\n") + 1 for step in ladder.steps), default=1)
    figure, (ax,) = blank(0.75 + max(0.29, 0.15 * lines) * (len(ladder.steps) + 2))
    waterfall(ladder, ax, say)
    return figure


def _controls(results: Results, say: Wording) -> Figure:
    assert results.gap is not None
    gap = results.gap
    figure, (ax,) = blank(0.8 + 0.21 * len(gap.controls))
    controls(gap.controls, {"student": gap.student.value, "teacher": gap.teacher.value}, ax, say)
    return figure


def _plan(results: Results, say: Wording) -> Figure:
    assert results.plan is not None
    figure, (ax,) = blank(0.9 * len(plan_rows(results.plan)))
    plan_diagram(results.plan, results.outcome, ax, say)
    return figure


def _pareto(results: Results, say: Wording) -> Figure:
    assert results.plan is not None
    figure, (ax,) = blank(2.8)
    pareto(results.plan.alternatives, ax, say)
    return figure


def _training(results: Results, say: Wording) -> Figure:
    from matplotlib.figure import Figure

    assert results.outcome is not None
    stages = results.outcome.stages[-STAGES_DRAWN:]
    columns = min(len(stages), 3)
    rows = math.ceil(len(stages) / columns)
    figure = Figure(figsize=(TEXT_WIDTH, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, stage in zip(axes, stages):
        training_curves(stage, ax, say)
    for ax in axes[len(stages) :]:
        ax.axis("off")
    for ax in axes[::columns]:
        ax.set_ylabel(f"{say.axis}, validation")
    return figure


def _forecasts(results: Results, say: Wording) -> Figure:
    assert results.outcome is not None
    figure, (ax,) = blank(0.8 + 0.26 * len(results.outcome.stages))
    stage_forecasts(results.outcome.stages, ax, say)
    return figure


def _change(results: Results, say: Wording) -> Figure:
    before = matrix_of(results.measurements, "cka")
    after = matrix_of(results.after, "cka") if results.after else None
    assert before is not None
    assert after is not None
    height = min(3.2, max(1.8, 1.2 + 0.18 * len(before.teacher_layers)))
    figure, axes = blank(height, columns=2)
    cka_change(before, after, axes)
    return figure


_DRAWINGS: dict[str, Callable[[Results, Wording], Figure]] = {
    "cka": _cka,
    "reading": _reading,
    "reliability": _reliability,
    "by_class": _by_class,
    "slices": _slices,
    "attribution": _attribution,
    "waterfall": _waterfall,
    "controls": _controls,
    "plan": _plan,
    "pareto": _pareto,
    "training": _training,
    "forecasts": _forecasts,
    "cka_change": _change,
}
