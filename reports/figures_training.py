"""Figures of what was trained: every training's curve, and what was predicted against what was reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gapkit.outcome import StageResult
from gapkit.reports.look import MARKERS, QUIET, ROLES, RULE, SCORE, own, printable, styled
from gapkit.wording import Wording, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def training_curves(result: StageResult, ax: Axes | None = None, say: Wording = SCORE) -> Axes:
    """Validation score over epochs, one line a seed; the kept seed's is drawn strong, its forecast as a band."""
    ax = own(ax)
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
        ax.axhspan(low, high, color=QUIET, alpha=0.15, linewidth=0, zorder=0,
                   label="forecast")  # fmt: skip
    ax.set_title(short(printable(result.name), 30))
    ax.set_xlabel("epoch")
    ax.legend(loc="lower right")
    return ax


@styled
def stage_forecasts(
    stages: Sequence[StageResult], ax: Axes | None = None, say: Wording = SCORE
) -> Axes:
    """Predicted against measured, a row a stage: the forecast's interval, every seed, and the kept run."""
    ax = own(ax, 0.9 + 0.3 * len(stages))
    for row, stage in enumerate(stages):
        if stage.predicted is not None:
            low, mid, high = (
                getattr(stage.predicted, field) * say.scale for field in ("low", "value", "high")
            )
            ax.plot([low, high], [row, row], color=RULE, linewidth=9, solid_capstyle="butt", zorder=1,
                    label="" if row else "forecast of one run")  # fmt: skip
            ax.plot([mid, mid], [row - 0.2, row + 0.2], color=QUIET, linewidth=1.4, zorder=2)
        role = "reached" if row == len(stages) - 1 else "assistant"
        scores = [training.score * say.scale for training in stage.trainings]
        ax.plot(scores, [row] * len(scores), MARKERS[role], color=ROLES[role], markersize=4, alpha=0.5,
                markeredgewidth=0, zorder=3)  # fmt: skip
        ax.plot([stage.training.score * say.scale], [row], MARKERS[role], color=ROLES[role],
                markersize=7, zorder=4, label=f"reached, {'student' if role == 'reached' else role}"
                if row in (0, len(stages) - 1) else "")  # fmt: skip
    ax.set_yticks(range(len(stages)), [short(printable(stage.name), 24) for stage in stages])
    ax.set_ylim(len(stages) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(say.axis + ", validation split")
    ax.margins(x=0.08)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax
