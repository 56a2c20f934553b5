"""Figures of the plan: boxes and arrows, and every path that was considered by score and cost."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gapkit.outcome import Outcome, StageResult
from gapkit.plans import Alternative, Plan, Predicted, Stage
from gapkit.reports.look import INK, MARKERS, QUIET, ROLES, SCORE, own, printable, styled
from gapkit.wording import Wording, path_words, short, stage_knowledge

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


@styled
def plan_diagram(
    plan: Plan, outcome: Outcome | None = None, ax: Axes | None = None, say: Wording = SCORE
) -> Axes:
    """Who teaches whom: boxes with sizes, arrows with knowledge, predicted and measured scores.

    Time runs downward. Beside each box stands the validation score forecast for one run and, when
    the plan was carried out, the one the kept run reached.
    """
    rows = {name: index for index, name in enumerate(plan_rows(plan))}
    ax = own(ax, 0.95 * len(rows))
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
    return ax


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


@styled
def pareto(found: Sequence[Alternative], ax: Axes | None = None, say: Wording = SCORE) -> Axes:
    """Every path considered: forecast score over cost in student trainings; the line is the front.

    Diamonds lead through an assistant, circles straight from the teacher, crosses are labels alone.
    The chosen path has a ring, its interval and a name, as have the front's ends.
    """
    ax = own(ax, 2.9)
    front = sorted((item for item in found if item.on_front), key=lambda item: item.cost)
    ax.plot([item.cost for item in front], [item.predicted.value * say.scale for item in front],
            color=QUIET, linewidth=0.9, drawstyle="steps-post", zorder=1)  # fmt: skip
    for kind, role in (
        ("labels alone", "untrained"),
        ("straight", "student"),
        ("assistant", "assistant"),
    ):
        mine = [item for item in found if _hops(item) == kind]
        label = {"labels alone": kind, "straight": "straight from the teacher",
                 "assistant": "through an assistant"}[kind]  # fmt: skip
        if mine:
            ax.plot([item.cost for item in mine], [item.predicted.value * say.scale for item in mine],
                    MARKERS[role], color=ROLES[role], markersize=5, label=label, zorder=3)  # fmt: skip
    for item in found:
        if item.chosen:
            mid, low, high = (
                bound * say.scale
                for bound in (item.predicted.value, item.predicted.low, item.predicted.high)
            )
            ax.plot([item.cost], [mid], "o", markersize=11, markerfacecolor="none", zorder=4,
                    markeredgecolor=INK, label="chosen, with its interval")  # fmt: skip
            ax.vlines(item.cost, low, high, color=INK, linewidth=0.9, zorder=2)
    _name_front(ax, front, say)
    ax.set_xlabel("cost in student trainings")
    ax.set_ylabel("forecast " + say.axis)
    ax.margins(x=0.14, y=0.14)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2)
    return ax


def _hops(item: Alternative) -> str:
    return {1: "labels alone", 2: "straight"}.get(len(item.path), "assistant")


def _name_front(ax: Axes, front: Sequence[Alternative], say: Wording) -> None:
    """Names of the chosen path, of the cheapest and of the best on the front, where they do not collide."""
    if not front:
        return
    chosen = next((item for item in front if item.chosen), None)
    wide = front[-1].cost - front[0].cost
    named: list[Alternative] = []
    for item in (chosen, front[-1], front[0]):
        if item is None or any(abs(item.cost - other.cost) < 0.3 * wide for other in named):
            continue
        named.append(item)
        length = "" if item.fraction == 1 else f" ×{item.fraction:g}"
        name = short(printable(f"{path_words(item.path)}, {item.recipe}{length}"), 30)
        bound = item.predicted.high if item.chosen else item.predicted.value
        ax.annotate(name, (item.cost, bound * say.scale), (0, 5), color=INK, fontsize=8,
                    textcoords="offset points", ha="center", va="bottom")  # fmt: skip
