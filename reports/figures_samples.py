"""Figures of single samples: what each model's answer rests on, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gapkit.quality.exhibits import Exhibit
from gapkit.reports.look import INK, ON_COLOR, TEXT_WIDTH, printable, styled
from gapkit.wording import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINT, FAINT_FINE = (
    0.1,
    0.4,
)  # of the largest cell: fainter ones get no dot; on fine maps dots would hide the map
FINE = 16  # cells along a side
DOT_SHARE = 0.3  # of a cell's width
NAMES = {"teacher": "teacher", "student": "student", "reached": "student after"}


@styled
def attribution_pairs(items: Sequence[Exhibit]) -> Figure:
    """A row a sample: what is looked at, and what speaks for (green) and against (purple, dotted) the answer.

    Every model's map is scaled by its own largest cell, so that shapes can be compared, not sizes.
    Maps of height 1 (vectors, sequences) are drawn as bars.
    """
    from matplotlib.figure import Figure

    pictures = any(item.picture.size for item in items)
    roles = [role for role in NAMES if role in items[0].maps]
    flat = all(array.shape[0] == 1 for array in items[0].maps.values())
    columns = roles if flat or not pictures else ["picture", *roles]
    if flat:
        figure = Figure(figsize=(TEXT_WIDTH, 0.5 + 0.75 * len(items)), layout="constrained")
        grid = figure.subplots(len(items), len(columns), squeeze=False)
        rows, across = list(grid), False
    else:  # two samples in a row
        lines = -(-len(items) // 2)
        side = TEXT_WIDTH / (2 * len(columns) + 0.6)
        figure = Figure(figsize=(TEXT_WIDTH, (side + 0.34) * lines), layout="constrained")
        ratios = [*[1.0] * len(columns), 0.25, *[1.0] * len(columns)]
        grid = figure.subplots(lines, len(ratios), squeeze=False, width_ratios=ratios)
        rows, across = [], True
        for line in grid:
            line[len(columns)].axis("off")
            rows += [line[: len(columns)], line[len(columns) + 1 :]]
    for line in rows[len(items) :]:
        for ax in line:
            ax.axis("off")
    for item, line in zip(items, rows):
        for ax, column in zip(line, columns):
            _cell(ax, item, column)
            _title(ax, item, column, across)
    return figure


def _title(ax: Axes, item: Exhibit, column: str, across: bool) -> None:
    if column == "picture":
        said = f"sample {item.position}"
        second = f"label {item.label}" if item.label else ""
    else:
        said, second = NAMES[column], item.answers.get(column, "")
    parts = [short(printable(part), 34 if not across else 16) for part in (said, second) if part]
    ax.set_title(("\n" if across else "  ").join(parts), fontsize=7.2, weight="normal", loc="center",
                 pad=2)  # fmt: skip


def _cell(ax: Axes, item: Exhibit, column: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    if column == "picture":
        ax.imshow(item.picture, cmap="gray", interpolation="none")
        return
    values = item.maps[column]
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    if values.shape[0] == 1:
        x = np.arange(values.shape[1])
        colors = ["#1B7837" if value >= 0 else "#762A83" for value in values[0]]
        ax.bar(x, values[0] / largest, color=colors, width=0.9)
        ax.axhline(0, color=INK, linewidth=0.5)
        ax.set_ylim(-1.05, 1.05)
        ax.spines[:].set_visible(False)
        return
    ax.imshow(values / largest, cmap="PRGn", vmin=-1, vmax=1, interpolation="none")
    _dot(ax, values / largest)
    for spine in ax.spines.values():
        spine.set_visible(True)


def _dot(ax: Axes, values: np.ndarray) -> None:
    """A dot in every cell that speaks clearly against, so that gray tells it from one that speaks for."""
    rows, columns = np.nonzero(values <= -(FAINT_FINE if max(values.shape) > FINE else FAINT))
    size = DOT_SHARE * 72 * TEXT_WIDTH / 9 / max(values.shape)
    colors = ["white" if value < -0.5 else ON_COLOR for value in values[rows, columns]]
    ax.scatter(columns, rows, s=size**2, c=colors, linewidths=0)
