"""Figures of scores: the way from student to teacher, the controls, calibration, and classes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from gapkit.gap import ControlRun, Step, Waterfall
from gapkit.measurement import Curve
from gapkit.reports.look import INK, MARKERS, QUIET, ROLES, RULE, SCORE, own, printable, styled
from gapkit.wording import Wording, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES_DRAWN = 24


@styled
def waterfall(
    ladder: Waterfall, ax: Axes | None = None, say: Wording = SCORE, narrow: bool = False
) -> Axes:
    """From the student's score to the teacher's: one bar a step, with the step's interval.

    Steps rest on the level that the steps before them reached; a merged step names what it holds.
    A `narrow` one leaves the intervals to its error bars.
    """
    ax = own(ax)
    level, base = ladder.start.value * say.scale, _base(ladder, say)
    names = ["student as it is"]
    ax.barh(0, level - base, left=base, color=ROLES["student"], height=0.62)
    _beside(ax, level, 0, say.score(ladder.start.value))
    for row, step in enumerate(ladder.steps, start=1):
        change = step.points.value * say.scale
        low, high = (
            level + bound * say.scale - (level + change)
            for bound in (step.points.low, step.points.high)
        )
        ax.barh(row, change, left=level, height=0.62, linewidth=0.8, **_step_colors(step))
        ax.errorbar(level + change, row, xerr=[[max(0.0, -low)], [max(0.0, high)]], color=INK,
                    elinewidth=0.9, capsize=2.5, capthick=0.9)  # fmt: skip
        ax.plot([level, level], [row - 1 + 0.31, row - 0.31], color=QUIET, linewidth=0.6)
        _beside(
            ax,
            max(level, level + change + max(0.0, high)),
            row,
            say.signed(step.points.value) if narrow else _stepped(step, say),
        )
        level += change
        names.append(step_name(step, *(22, 1) if narrow else (30, 2)))
    last = len(ladder.steps) + 1
    end = ladder.end.value * say.scale - base
    ax.barh(last, end, left=base, color=ROLES["teacher"], height=0.62)
    _beside(ax, ladder.end.value * say.scale, last, say.score(ladder.end.value))
    ax.set_yticks(range(last + 1), [*names, "teacher"], fontsize=7.5 if narrow else 8.5)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(say.axis + ", validation split")
    ax.margins(x=0.16)
    if say.unit == "share":  # room for words beyond 100 %, but no tick there
        ax.set_xticks([tick for tick in ax.get_xticks() if -100 <= tick <= 100])
    return ax


def step_name(step: Step, width: int = 30, most: int = 2) -> str:
    """The step and, in brackets, what was merged into it unless its name says so; `most` lines of either."""
    said = (part.replace("_", " ") for part in step.merged)
    parts = ", ".join(part for part in said if part not in step.name)
    lines = [printable(step.name), *([f"(with {parts})"] if parts else [])]
    wrapped = (textwrap.wrap(line, width, max_lines=most, placeholder=" …") for line in lines)
    return "\n".join(part for line in wrapped for part in line)


def _base(ladder: Waterfall, say: Wording) -> float:
    """Where the bars begin: at 0; left of all levels where one is negative, so that better is farther right."""
    steps = (step.points.value for step in ladder.steps)
    levels = [*accumulate(steps, initial=ladder.start.value), ladder.end.value]
    found = [level * say.scale for level in levels if math.isfinite(level)]
    if not found or min(found) >= 0:
        return 0.0
    return min(found) - (max(found) - min(found) or abs(min(found)))


def _step_colors(step: Step) -> dict[str, Any]:
    """Green for a gain, gray for a loss, pale when the interval includes zero."""
    strong, pale = (ROLES["reached"], "#CFE8DF") if step.points.value >= 0 else (QUIET, RULE)
    decided = step.points.low > 0 or step.points.high < 0
    return {"edgecolor": strong, "color": strong if decided else pale}


def _stepped(step: Step, say: Wording) -> str:
    low, high = say.signed(step.points.low), say.signed(step.points.high)
    return f"{say.signed(step.points.value)} [{low}, {high}]"


def _beside(ax: Axes, x: float, y: float, text: str) -> None:
    ax.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5)


@styled
def controls(
    runs: Sequence[ControlRun],
    marks: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    say: Wording = SCORE,
) -> Axes:
    """Every seed of every control as a dot, their mean as a bar.

    Args:
        marks: role -> validation score drawn as a vertical line, for example of the teacher.
    """
    ax = own(ax)
    for row, run in enumerate(runs):
        scores = np.array(run.scores) * say.scale
        ax.plot(scores, np.full(len(scores), row), "o", color=QUIET, markersize=4,
                alpha=0.75, markeredgewidth=0)  # fmt: skip
        ax.plot([scores.mean()] * 2, [row - 0.28, row + 0.28], color=INK, linewidth=1.6)
    for role, score in (marks or {}).items():
        ax.axvline(score * say.scale, color=ROLES[role], linewidth=1.1, zorder=0)
        ax.annotate(role, (score * say.scale, 1.0), (0, 3), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", color=ROLES[role], fontsize=8.5)  # fmt: skip
    ax.set_yticks(range(len(runs)), [_control_name(run) for run in runs])
    ax.set_ylim(len(runs) - 0.5, -0.5)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(say.axis + ", validation split")
    return ax


def _control_name(run: ControlRun) -> str:
    name = short(printable(run.name), 30)
    return name if run.fraction == 1 else f"{name} (×{run.fraction:g})"


@styled
def reliability(curves: Sequence[Curve], ax: Axes | None = None) -> Axes:
    """Share of right answers over stated confidence; on the diagonal confidence is honest."""
    ax = own(ax)
    ax.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    ax.annotate("honest", (0.04, 0.04), (6, 14), textcoords="offset points", rotation=33,
                color=QUIET, fontsize=8)  # fmt: skip
    for curve in curves:
        color, marker = _role(curve.of)
        filled = np.isfinite(curve.y)
        x, y = curve.x[filled], curve.y[filled]
        low = np.nan_to_num(np.clip(y - curve.low[filled], 0, None))
        high = np.nan_to_num(np.clip(curve.high[filled] - y, 0, None))
        ax.errorbar(x, y, yerr=[low, high], color=color, marker=marker, markersize=3.5,
                    label=_NAMES.get(curve.of, curve.of), elinewidth=0.8, capsize=0, linewidth=1.2)  # fmt: skip
    ax.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="confidence in the answer", ylabel="share right")
    return ax


@styled
def confidence(curves: Sequence[Curve], ax: Axes | None = None) -> Axes:
    """How sure each model is: samples (%) by the confidence of the bin they fall in."""
    ax = own(ax)
    for curve in curves:
        color, marker = _role(curve.of)
        filled = np.isfinite(curve.x)
        share = 100 * curve.n[filled] / max(1, curve.n.sum())
        ax.plot(curve.x[filled], np.cumsum(share), color=color, marker=marker, markersize=3.5,
                drawstyle="steps-post", label=_NAMES.get(curve.of, curve.of), linewidth=1.2)  # fmt: skip
    ax.set(xlim=(0, 1.01), ylim=(0, 102), xlabel="confidence in the answer")
    ax.set_ylabel("samples up to there (%)")
    return ax


_NAMES = {"reached": "student after"}


def _role(of: str) -> tuple[str, str]:
    """Color and marker of a model; those without a role of their own are assistants."""
    role = of if of in ROLES else "assistant"
    return ROLES[role], MARKERS[role]


def drawn_classes(student: Curve) -> np.ndarray:
    """Positions of the classes that are drawn, worst student score first."""
    order = np.argsort(np.nan_to_num(student.y, nan=np.inf), kind="stable")
    return order[:CLASSES_DRAWN]


@styled
def by_class(
    teacher: Curve | None,
    before: Curve,
    after: Curve | None = None,
    ax: Axes | None = None,
    say: Wording = SCORE,
) -> Axes:
    """Score of each class: the student's, the teacher's and, when there is one, the new student's.

    Classes run from the student's worst to its best; of many, the worst 24 are drawn.
    """
    ax = own(ax, 1.0 + 0.2 * min(len(before.x), CLASSES_DRAWN))
    shown = drawn_classes(before)
    rows = {}
    for role, curve in (("student", before), ("reached", after), ("teacher", teacher)):
        if curve is not None:
            at = _matched(curve, before, shown)
            rows[role] = tuple(
                np.where(at >= 0, getattr(curve, field)[at], np.nan)
                for field in ("y", "low", "high")
            )
    labels = [before.ticks[i] if before.ticks else f"{before.x[i]:g}" for i in shown]
    dumbbells(labels, rows, ax, say)
    ax.set_ylabel(printable(before.x_name))
    return ax


@styled
def dumbbells(
    labels: Sequence[str],
    rows: Mapping[str, tuple[np.ndarray, ...]],
    ax: Axes | None = None,
    say: Wording = SCORE,
) -> Axes:
    """A row a slice: the scores of student, new student and teacher with their intervals.

    Args:
        labels: (k,) of the slices, the first on top.
        rows: "student", "reached" or "teacher" -> value, low, high, each (k,), nan where unknown.
    """
    ax = own(ax, 1.0 + 0.2 * len(labels))
    at = np.arange(len(labels))
    names = {"student": "student before" if "reached" in rows else "student",
             "reached": "student after", "teacher": "teacher"}  # fmt: skip
    shifts = {"student": -0.16, "reached": 0.16, "teacher": 0.0}
    for role in ("student", "reached", "teacher"):
        if role not in rows:
            continue
        y, low, high = (np.asarray(part, dtype=float) * say.scale for part in rows[role])
        shift = shifts[role] if "reached" in rows else shifts[role] / 2
        ax.hlines(at + shift, low, high, color=ROLES[role], linewidth=0.9, alpha=0.6)
        ax.plot(y, at + shift, MARKERS[role], color=ROLES[role], markersize=4.2, label=names[role])
    ax.set_yticks(at, [short(printable(label), 34) for label in labels])
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(say.axis + ", test split")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


def _matched(curve: Curve, reference: Curve, shown: np.ndarray) -> np.ndarray:
    """Positions in `curve` of the reference's shown classes; −1 for a class it lacks."""
    where = {value: index for index, value in enumerate(curve.x.tolist())}
    return np.array([where.get(reference.x[index], -1) for index in shown])
