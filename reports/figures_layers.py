"""Figures of layers: which resemble which, and what can be read off them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gapkit.measurement import LayerMatrix, Measurement
from gapkit.reports.look import (
    INK,
    MARKERS,
    ON_COLOR,
    QUIET,
    ROLES,
    RULE,
    on,
    own,
    printable,
    styled,
)
from gapkit.wording import layer_order, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED_CELLS = 64
NAMED_LAYERS = {"x": 8, "y": 16}
FEW_LAYERS = 40
LABEL_WIDTH = 18
LEAST_NAMED = 8  # rows beside which the axis has room to say where the output is


@styled
def cka_map(
    matrix: LayerMatrix, ax: Axes | Sequence[Axes] | None = None, titles: Sequence[str] = ()
) -> Axes:
    """Similarity of every teacher layer with every student layer; beside it, the untrained student's.

    A ring marks the student layer that is nearest to each teacher layer.

    Args:
        matrix: values in −1..1; colors run from 0 (white) to 1, undefined cells are gray.
        ax: where to draw the trained student; two axes: the untrained one in the second.
        titles: of the panels.
    """
    axes = list(ax) if isinstance(ax, (list, tuple)) else [own(cast("Axes | None", ax))]
    panels = [matrix.values, matrix.untrained][: 1 + bool(matrix.untrained.size)]
    named = (*titles, *("Trained student", "Untrained student")[len(titles) :])
    for panel, values, title in zip(axes, panels, named):
        similarity_panel(matrix, values, panel)
        panel.set_title(title)
    few = len(matrix.teacher_layers) < LEAST_NAMED
    layer_names(axes[0], matrix.teacher_layers, "y", "" if few else ", output at the bottom")
    for panel in axes[1:]:
        panel.set_yticks([])
    color_bar(axes, matrix.name)
    return axes[0]


@styled
def cka_change(before: LayerMatrix, after: LayerMatrix, ax: Sequence[Axes]) -> Axes:
    """The map of the student as it was, and of the new one, side by side on one scale."""
    for panel, matrix, title in zip(ax, (before, after), ("Before", "After the plan")):
        similarity_panel(matrix, matrix.values, panel)
        panel.set_title(title)
    layer_names(ax[0], before.teacher_layers, "y")
    if after.teacher_layers == before.teacher_layers:
        ax[1].set_yticks([])
    else:
        layer_names(ax[1], after.teacher_layers, "y")
    color_bar(ax, before.name)
    return ax[0]


def similarity_panel(matrix: LayerMatrix, values: np.ndarray, ax: Axes) -> None:
    """One map of (T, S) values under the matrix's student layers, each row's largest ringed."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list(
        "similarity", ["#FFFFFF", "#9CC9E3", "#0072B2", "#0A2740"]
    ).with_extremes(bad=RULE)
    ax.imshow(
        np.ma.masked_invalid(values), cmap=colors, vmin=0, vmax=1, interpolation="none",
        aspect="auto",
    )  # fmt: skip
    layer_names(ax, matrix.student_layers, "x", ", input to output")
    ax.spines[:].set_visible(False)
    if values.size <= ANNOTATED_CELLS:
        _annotate(ax, values)
    rows = [row for row in range(len(values)) if np.isfinite(values[row]).any()]
    ring = _ring(values.shape)
    ax.plot([int(np.nanargmax(values[row])) for row in rows], rows, linestyle="none", **ring)


def _ring(shape: tuple[int, ...]) -> dict[str, Any]:
    """Rings in the cells of a small map, edged in white so that they stand out in gray too; dots on a large one."""
    from matplotlib.patheffects import withStroke

    if shape[0] * shape[1] <= ANNOTATED_CELLS:
        return {"marker": "o", "markersize": 22, "markerfacecolor": "none",
                "markeredgecolor": ROLES["student"], "markeredgewidth": 1.3,
                "clip_on": False, "path_effects": [withStroke(linewidth=3, foreground="white")]}  # fmt: skip
    return {"marker": ".", "markersize": max(1.5, 160 / max(shape)) / 4, "color": ROLES["student"]}


def color_bar(axes: Sequence[Axes], name: str) -> None:
    """The scale of a map's colors, to the right of all its panels."""
    figure = axes[0].figure
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label(name.upper() if len(name) <= 4 else name)


def layer_names(ax: Axes, layers: Sequence[str], side: str, order: str = "") -> None:
    """Name an axis of layers: the teacher's on y, the student's on x.

    Of many layers every so-manieth is named, the first and the last always. A path that long names share is said once,
    beside the axis.
    """
    step = math.ceil(len(layers) / NAMED_LAYERS[side])
    shown = [*range(0, len(layers) - 1, step), len(layers) - 1]
    if len(shown) > 1 and shown[-1] - shown[-2] < 0.9 * step:
        del shown[-2]
    path = shared_path(layers)
    labels = [short(printable(layers[index][len(path) :]), LABEL_WIDTH) for index in shown]
    within = f" in {short(printable(path[:-1]), 24)}" if path else ""
    if side == "y":
        ax.set_yticks(shown, labels)
        ax.set_ylabel(f"teacher layer{within}{order}")
    else:
        ax.set_xticks(shown, labels, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_xlabel(f"student layer{within}{order}")
    ax.tick_params(length=0)


def shared_path(layers: Sequence[str]) -> str:
    """The dotted path in which all layers lie, with its last dot; "" where names are short anyway.

    >>> shared_path(["model.encoder.layers.0.output", "model.encoder.layers.11.output"])
    'model.encoder.layers.'
    >>> shared_path(["block1.relu", "block2.relu"])
    ''
    """
    if len(layers) < 2 or max(map(len, layers)) <= LABEL_WIDTH:
        return ""
    steps = zip(*(name.split(".")[:-1] for name in layers))
    return "".join(f"{step[0]}." for step in takewhile(lambda step: len(set(step)) == 1, steps))


def _annotate(ax: Axes, values: np.ndarray) -> None:
    image = ax.images[0]
    for (row, column), value in np.ndenumerate(values):
        known = math.isfinite(value)
        ax.text(
            column, row, f"{value:.2f}".replace("-", "−") if known else "–", ha="center",
            va="center", fontsize=7.5, color=on(tuple(image.cmap(image.norm(value)))) if known else ON_COLOR,
        )  # fmt: skip


@styled
def probe_depth(
    probes: Sequence[Measurement], chance: float = math.nan, ax: Axes | None = None
) -> Axes:
    """How well a linear map reads the labels off each layer, over relative depth.

    Args:
        probes: one a layer of teacher, student and untrained student, in the layers' order; shares
            are drawn in percent.
        chance: accuracy of the best constant answer; nan leaves the line out.
    """
    ax = own(ax)
    shares = all(item.unit == "share" for item in probes)
    scale = 100 if shares else 1
    for role in ("untrained", "teacher", "student"):
        mine = [item for item in probes if item.of == role]
        if mine:
            _over_depth(ax, mine, role, role, scale)
    if math.isfinite(chance):
        ax.axhline(chance * scale, color=QUIET, linewidth=0.8, linestyle=":")
        ax.annotate("constant answer", (0.0, chance * scale), (0, -2), color=QUIET, fontsize=8,
                    textcoords="offset points", va="top")  # fmt: skip
    ax.set_xlabel("relative depth: 0 the first tapped layer, 1 the last")
    named = "accuracy (%)" if math.isfinite(chance) else "%" if shares else probes[0].unit
    ax.set_ylabel(f"linear probe, {named}")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


@styled
def predictability(
    student: Sequence[Measurement],
    untrained: Sequence[Measurement] = (),
    ceiling: Sequence[Measurement] = (),
    ax: Axes | None = None,
) -> Axes:
    """How much of each teacher layer a linear map from the student predicts, under what its width holds.

    Args:
        student, untrained: R² of every teacher layer, one measurement a layer.
        ceiling: share of the layer's variance that as many directions as the student is wide hold.
    """
    ax = own(ax)
    order = layer_order([item.layer for item in (ceiling or student)])
    if ceiling:
        ceiling = sorted(ceiling, key=lambda item: order[item.layer])
        x = [order[item.layer] for item in ceiling]
        ax.plot(x, [item.value for item in ceiling], color=INK, linestyle=":", linewidth=1.2,
                label="student's width holds")  # fmt: skip
    if untrained:
        _over_depth(ax, untrained, "untrained", "untrained predicts", order=order)
    _over_depth(ax, student, "student", "student predicts", order=order)
    ax.set_xlabel("relative depth of the teacher's layers")
    ax.set_ylabel("share of the layer's variance")
    ax.set_ylim(top=1.03)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def _over_depth(
    ax: Axes,
    items: Sequence[Measurement],
    role: str,
    label: str,
    scale: float = 1,
    order: dict[str, float] | None = None,
) -> None:
    depth = order or layer_order([item.layer for item in items])
    items = sorted((i for i in items if i.layer in depth), key=lambda item: depth[item.layer])
    x = [depth[item.layer] for item in items]
    y, low, high = (
        scale * np.array([getattr(item, field) for item in items])
        for field in ("value", "low", "high")
    )
    dashed, few = role == "untrained", len(items) <= FEW_LAYERS
    ax.set_xlim(-0.04, 1.04)
    ax.fill_between(x, low, high, color=ROLES[role], alpha=0.15, linewidth=0)
    ax.plot(x, y, color=ROLES[role], marker=MARKERS[role] if few else "", markersize=4, label=label,
            linestyle="--" if dashed else "-", linewidth=1.2 if dashed else 1.6)  # fmt: skip
