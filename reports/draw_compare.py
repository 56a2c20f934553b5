"""Figures of several runs side by side, as SVG."""

from __future__ import annotations

from gapkit.reports.compose_compare import RUNS_DRAWN, Compared
from gapkit.reports.figures_scores import dumbbells, waterfall
from gapkit.reports.intervals import with_bounds
from gapkit.reports.look import TEXT_WIDTH, blank, look, printable, render
from gapkit.reports.report import Report
from gapkit.wording import short


def draw_comparison(report: Report, compared: Compared) -> dict[str, bytes]:
    """Name -> SVG of every figure that the report on a comparison refers to."""
    drawings = {"scores": _scores, "ways": _ways}
    with look():
        return {figure.name: drawings[figure.name](compared) for figure in report.figures}


def _scores(compared: Compared) -> bytes:
    names = compared.names[:RUNS_DRAWN]
    rows = {}
    for role in ("student", "reached", "teacher"):
        found = compared.scores(role)[:RUNS_DRAWN]
        if any(item is not None for item in found):
            rows[role] = with_bounds(found)
    figure, (ax,) = blank(0.9 + 0.28 * len(names))
    dumbbells(names, rows, ax, compared.say)
    return render(figure)


def _ways(compared: Compared) -> bytes:
    from matplotlib.figure import Figure

    drawn = [
        (name, run.gap.waterfall)
        for name, run in zip(compared.names, compared.runs)
        if run.gap is not None
    ][:RUNS_DRAWN]
    lines = -(-len(drawn) // 2)
    bars = max(len(fall.steps) for _, fall in drawn) + 2
    figure = Figure(figsize=(TEXT_WIDTH, lines * (0.75 + 0.35 * bars)), layout="constrained")
    axes = figure.subplots(lines, 2, squeeze=False, sharex=True).ravel()
    for ax, (name, fall) in zip(axes, drawn):
        waterfall(fall, ax, compared.say, narrow=True)
        ax.set_title(short(printable(name), 24))
    for ax in axes[len(drawn) :]:
        ax.axis("off")
    return render(figure)
