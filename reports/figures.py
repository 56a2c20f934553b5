"""Figures: small functions that draw one result each, alone or for a report.

>>> from gapkit.reports import figures
>>> sorted(figures.__all__)[:3]
['attribution_pairs', 'by_class', 'cka_change']
"""

from __future__ import annotations

from gapkit.reports.draw import draw
from gapkit.reports.figures_layers import cka_change, cka_map, predictability, probe_depth
from gapkit.reports.figures_plan import pareto, plan_diagram
from gapkit.reports.figures_samples import attribution_pairs
from gapkit.reports.figures_scores import (
    by_class,
    confidence,
    controls,
    dumbbells,
    reliability,
    waterfall,
)
from gapkit.reports.figures_training import stage_forecasts, training_curves
from gapkit.reports.look import render

__all__ = [
    "attribution_pairs",
    "by_class",
    "cka_change",
    "cka_map",
    "confidence",
    "controls",
    "draw",
    "dumbbells",
    "pareto",
    "plan_diagram",
    "predictability",
    "probe_depth",
    "reliability",
    "render",
    "stage_forecasts",
    "training_curves",
    "waterfall",
]
