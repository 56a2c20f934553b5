"""Figures of layers: which resemble which, and what can be read off them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gapkit.measurement import LayerMatrix, Measurement
from gapkit.reports.look import QUIET, ROLES, RULE, printable
from gapkit.wording import layer_order, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED_CELLS = 64
NAMED_LAYERS = {"x": 8, "y": 16}


def cka_map(axes: Sequence[Axes], matrix: LayerMatrix) -> None:
    """Similarity of every teacher layer with every student layer; beside it, the untrained student's.

    Args:
        axes: one axes a panel: two when the matrix knows the untrained student, else one.
        matrix: values in −1..1; colors run from 0 (white) to 1, undefined cells are gray.
    """
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list(
        "teacher", ["#FFFFFF", "#9CC9E3", ROLES["teacher"], "#0A2740"]
    ).with_extremes(bad=RULE)
    panels = [("Trained student", matrix.values)]
    if matrix.untrained.size:
        panels.append(("Untrained student", matrix.untrained))
    for ax, (title, values) in zip(axes, panels):
        image = ax.imshow(
            np.ma.masked_invalid(values), cmap=colors, vmin=0, vmax=1,
            interpolation="none", aspect="auto",
        )  # fmt: skip
        ax.set_title(title)
        _name_layers(ax, matrix.student_layers, "x")
        ax.set_xlabel("student layer, input to output")
        ax.spines[:].set_visible(False)
        if values.size <= ANNOTATED_CELLS:
            _annotate(ax, values)
    _name_layers(axes[0], matrix.teacher_layers, "y")
    axes[0].set_ylabel("teacher layer, output at the bottom")
    for ax in axes[1:]:
        ax.set_yticks([])
    bar = axes[0].figure.colorbar(image, ax=list(axes), fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(f"{matrix.name.upper() if len(matrix.name) <= 4 else matrix.name}")


def _name_layers(ax: Axes, layers: Sequence[str], side: str) -> None:
    """Tick labels of layers; with many, every so-manieth is named, the first and the last always."""
    step = math.ceil(len(layers) / NAMED_LAYERS[side])
    shown = [*range(0, len(layers) - 1, step), len(layers) - 1]
    if len(shown) > 1 and shown[-1] - shown[-2] < step / 2:
        del shown[-2]
    labels = [short(printable(layers[index]), 18) for index in shown]
    if side == "y":
        ax.set_yticks(shown, labels)
    else:
        ax.set_xticks(shown, labels, rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)


def _annotate(ax: Axes, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        known = math.isfinite(value)
        ax.text(
            column, row, f"{value:.2f}".replace("-", "−") if known else "–", ha="center",
            va="center", fontsize=7.5, color="white" if known and value > 0.45 else "#222222",
        )  # fmt: skip


def probe_depth(ax: Axes, probes: Sequence[Measurement], chance: float) -> None:
    """How well a linear map reads the labels off each layer, over relative depth.

    Args:
        probes: one a layer of teacher, student and untrained student, in the layers' order; shares
            are drawn in percent.
        chance: accuracy of the best constant answer; nan leaves the line out.
    """
    shares = all(item.unit == "share" for item in probes)
    scale = 100 if shares else 1
    for role in ("untrained", "teacher", "student"):
        mine = [item for item in probes if item.of == role]
        if not mine:
            continue
        depth = layer_order([item.layer for item in mine])
        x = [depth[item.layer] for item in mine]
        y, low, high = (
            scale * np.array([getattr(item, field) for item in mine])
            for field in ("value", "low", "high")
        )
        dashed = role == "untrained"
        ax.fill_between(x, low, high, color=ROLES[role], alpha=0.15, linewidth=0)
        ax.plot(x, y, color=ROLES[role], marker="o", markersize=3.5, label=role,
                linestyle="--" if dashed else "-", linewidth=1.2 if dashed else 1.6)  # fmt: skip
    if math.isfinite(chance):
        ax.axhline(chance * scale, color=QUIET, linewidth=0.8, linestyle=":")
        ax.annotate("constant answer", (1.0, chance * scale), (0, -3), color=QUIET, fontsize=8,
                    textcoords="offset points", ha="right", va="top")  # fmt: skip
    ax.set_xlabel("relative depth: 0 the first tapped layer, 1 the last")
    named = "accuracy (%)" if math.isfinite(chance) else "%" if shares else probes[0].unit
    ax.set_ylabel(f"linear probe, {named}")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3)
