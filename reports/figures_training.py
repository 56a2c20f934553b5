"""Figures of what was planned and trained: the plan as boxes and arrows, and every training's curve."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from gapkit.outcome import Outcome, StageResult
from gapkit.plans import Plan, Predicted, Stage
from gapkit.reports.look import INK, QUIET, ROLES, printable
from gapkit.wording import Wording, short, stage_knowledge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOX_WIDTH, BOX_HEIGHT, ROW_HEIGHT = 3.1, 0.62, 1.25


def plan_rows(plan: Plan) -> list[str]:
    """Boxes of the diagram from top to bottom: the sources from outside the plan, then its stages."""
    outside = [
        source
        for stage in plan.stages
        for source in stage.sources
        if source not in {other.name for other in plan.stages}
    ]
    return [*dict.fromkeys(outside), *(stage.name for stage in plan.stages)]


def plan_diagram(ax: Axes, plan: Plan, outcome: Outcome | None, say: Wording) -> None:
    """Who teaches whom: boxes with sizes, arrows with knowledge, predicted and measured scores.

    Time runs downward. Beside each box stands the validation score forecast for one run and, when
    the plan was carried out, the one the kept run reached.
    """
    rows = {name: index for index, name in enumerate(plan_rows(plan))}
    stages = {stage.name: stage for stage in plan.stages}
    results = {result.name: result for result in outcome.stages} if outcome else {}
    for name, row in rows.items():
        stage = stages.get(name)
        _box(ax, row, name, stage, stage is plan.stages[-1])
        if stage is not None:
            _scores(ax, row, stage, results.get(name), say)
            _arrows(ax, rows, stage)
    skips = any(
        rows[stage.name] - rows[source] > 1 for stage in plan.stages for source in stage.sources
    )
    widest = 0.4 + 0.25 * max(len(stage.sources) for stage in plan.stages)
    ax.set_xlim(-widest if skips else -0.05, 7.2)
    ax.set_ylim(len(rows) - 1 + 0.45, -0.45)
    ax.axis("off")


def _box(ax: Axes, row: int, name: str, stage: Stage | None, last: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    role = "teacher" if stage is None else "student" if last else "assistant"
    half = BOX_HEIGHT / ROW_HEIGHT / 2
    patch = FancyBboxPatch(
        (0, row - half), BOX_WIDTH, 2 * half, boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=ROLES[role] + "18", edgecolor=ROLES[role], linewidth=1.2, mutation_aspect=0.8,
    )  # fmt: skip
    ax.add_patch(patch)
    below = "as given" if stage is None else f"size {stage.size}, {_seeds(stage)}{_without(stage)}"
    ax.text(BOX_WIDTH / 2, row - 0.09, short(printable(name), 26), ha="center", va="center",
            weight="bold", color=ROLES[role])  # fmt: skip
    ax.text(BOX_WIDTH / 2, row + 0.12, short(printable(below), 34), ha="center", va="center",
            fontsize=8.5)  # fmt: skip


def _without(stage: Stage) -> str:
    """Who teaches a stage that has no sources."""
    return "" if stage.sources else f", {' and '.join(stage.taught_by) or 'labels alone'}"


def _seeds(stage: Stage) -> str:
    return f"{len(stage.seeds)} seed{'s' if len(stage.seeds) > 1 else ''}"


def _arrows(ax: Axes, rows: dict[str, int], stage: Stage) -> None:
    half = BOX_HEIGHT / ROW_HEIGHT / 2
    target = rows[stage.name]
    for order, source in enumerate(stage.sources):
        start = rows[source]
        style = {"arrowstyle": "-|>", "color": QUIET, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
        if target - start == 1:
            x = BOX_WIDTH / 2
            ax.annotate("", (x, target - half), (x, start + half), arrowprops=style)
            continue
        beside, end = -0.3 - 0.25 * order, target - 0.08 + 0.1 * order
        ax.plot([0, beside, beside], [start, start, end], color=QUIET, linewidth=1.1)
        ax.annotate("", (0, end), (beside, end), arrowprops=style)
    if stage.taught_by:
        words = textwrap.wrap(printable(stage_knowledge(stage)), 46, max_lines=2, placeholder=" …")
        ax.text(BOX_WIDTH / 2 + 0.15, target - 0.5, "\n".join(words), va="center", fontsize=8.5,
                color=QUIET)  # fmt: skip


def _scores(ax: Axes, row: int, stage: Stage, result: StageResult | None, say: Wording) -> None:
    lines = []
    if stage.predicted is not None:
        lines.append((_forecast(stage.predicted, say), INK))
    if result is not None:
        missed = " (below the forecast)" if result.missed else ""
        lines.append((f"reached {say.score(result.training.score)}{missed}", ROLES["reached"]))
    for index, (text, color) in enumerate(lines):
        offset = 0.0 if len(lines) == 1 else (-0.1, 0.11)[index]
        ax.text(BOX_WIDTH + 0.25, row + offset, text, va="center", color=color)


def _forecast(predicted: Predicted, say: Wording) -> str:
    low, high = say.plain(predicted.low), say.plain(predicted.high)
    return f"predicted {say.score(predicted.value)} [{low}, {high}]"


def training_curves(ax: Axes, result: StageResult, say: Wording) -> None:
    """Validation score over epochs, one line a seed; the kept seed's is drawn strong, its forecast as a band."""
    for index, training in enumerate(result.trainings):
        kept = index == result.kept
        ax.plot(
            training.curve_epoch, np.asarray(training.curve_score) * say.scale,
            color=ROLES["reached"] if kept else QUIET, linewidth=1.8 if kept else 0.8,
            alpha=1.0 if kept else 0.6, zorder=3 if kept else 2,
            label=f"seed {training.seed}, kept" if kept else None,
        )  # fmt: skip
    others = len(result.trainings) - 1
    if others:
        ax.plot(
            [], [], color=QUIET, linewidth=0.8, label=f"{others} other seed{'s' * (others > 1)}"
        )
    if result.predicted is not None:
        low, high = result.predicted.low * say.scale, result.predicted.high * say.scale
        ax.axhspan(low, high, color=ROLES["assistant"], alpha=0.15, linewidth=0, zorder=0,
                   label="forecast")  # fmt: skip
    ax.set_title(short(printable(result.name), 30))
    ax.set_xlabel("epoch")
    ax.legend(loc="lower right")
