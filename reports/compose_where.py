"""Where the student falls short: layers, answers, calibration and classes, on the test split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from gapkit.measurement import Curve, Measurement
from gapkit.reports.compose_evidence import attribution, relation
from gapkit.reports.compose_layers import reading, similarity
from gapkit.reports.compose_own import own
from gapkit.reports.report import Block, Figure, Paragraph, Section, Table
from gapkit.reports.results import Results, curve_of, one
from gapkit.reports.slices import gaps, is_class, sliced, worst_slices
from gapkit.wording import Wording, bare, number, words

ROWS_SHOWN = 5

# quantity -> what a reader is told that it means
MEANING = {
    "agreement": "how often, or how closely, student and teacher give the same answer; 1 or 100 %: always",
    "kl": "how far the student's probabilities are from the teacher's; 0 means the same",
    "nll": "loss on the labels; large when confident answers are wrong",
    "ece": "mean distance between stated confidence and share right; 0 is honest",
    "confidence": "mean probability of the given answer",
    "entropy": "how spread the probabilities are; 0 means always certain",
    "dark_knowledge": "what the probabilities say beyond the right answer",
    "distance": "mean distance of both answers, in units of the target",
    "absolute_error": "mean distance from the target",
    "bias": "mean of answer minus target",
    "error_correlation": "whether both err alike: 1 in the same direction on every sample",
}


def where(results: Results, say: Wording) -> tuple[Section, ...]:
    """A lead section and one a topic; topics that were not measured are left out."""
    topics = (
        ("Which layers resemble each other", similarity(results)),
        ("What can be read off each layer", reading(results, say)),
        ("How the answers differ", _answers(results)),
        ("How samples lie to each other", relation(results)),
        ("What the answers rest on", attribution(results)),
        ("Which classes and slices suffer", _classes(results, say)),
        ("Measured by your own probes", own(results)),
    )
    sections = [
        Section(heading=heading, level=2, blocks=blocks)
        for heading, blocks in ((name, tuple(found)) for name, found in topics)
        if blocks
    ]
    if not sections:
        return ()
    lead = (
        "This part describes both networks on the test split; it shows where they differ, not why."
    )
    first = Section(heading="Where the student falls short", blocks=(Paragraph(text=lead),))
    return (first, *sections)


def _answers(results: Results) -> Iterator[Block]:
    found = {
        (name, of): item
        for name in MEANING
        for of in ("pair", "teacher", "student")
        if (item := one(results.measurements, name, of)) is not None
    }
    if found:
        names = [name for name in MEANING if any(name == key for key, _ in found)]
        counts = sorted({item.n for item in found.values()})
        n = " to ".join(
            f"{count:,}" for count in (counts if len(counts) < 2 else (counts[0], counts[-1]))
        )
        yield Table(
            caption=f"How student and teacher answer, on test, n = {n}; in brackets 95 % intervals.",
            columns=("Quantity", "Teacher", "Student", "Between both", "What it says"),
            rows=tuple(_answer(name, found) for name in names),
            widths=(1.5, 1.8, 1.8, 1.8, 3.0),
            right=(1, 2, 3),
        )
    curves = [curve_of(results.measurements, "reliability", of) for of in ("teacher", "student")]
    if any(curve is not None for curve in curves):
        after = results.after and curve_of(results.after, "reliability", "student")
        yield Figure(
            name="reliability",
            caption="Left: share of right answers over stated confidence, test; each point is a bin of "
            f"{_per_point(curves)}, bars are 95 % intervals; below the dotted line a model is surer than it "
            "should be. Right: how sure each is, samples added up.",
            alt="Reliability curves against the diagonal of honest confidence: "
            + "; ".join(_calibrated(curve) for curve in (*curves, after) if curve) + ".",
        )  # fmt: skip


def _answer(name: str, found: Mapping[tuple[str, str], Measurement]) -> tuple[str, ...]:
    cells = [found.get((name, of)) for of in ("teacher", "student", "pair")]
    unit = next(cell.unit for cell in cells if cell is not None)
    shown = [bare(cell) if cell is not None else "" for cell in cells]
    reasons = dict.fromkeys(cell.reason for cell in cells if cell is not None and cell.reason)
    label = words(name) if len(name) > 3 else name.upper()
    label += f" ({unit})" if unit not in ("share", "") else ""
    return (label, *shown, "; ".join((MEANING[name], *reasons)))


def _calibrated(curve: Curve) -> str:
    """How far a curve lies from the diagonal, in words."""
    known = np.isfinite(curve.y)
    if not known.any():
        return f"{curve.of} undefined"
    off = np.average(curve.y[known] - curve.x[known], weights=np.maximum(curve.n[known], 1))
    side = "less sure than right" if off > 0 else "surer than right"
    return f"{curve.of} by {abs(off):.2f} {side} on average"


def _per_point(curves: list[Curve | None]) -> str:
    counts = np.concatenate([curve.n for curve in curves if curve is not None])
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,} samples" if low == high else f"{low:,} to {high:,} samples"


def _classes(results: Results, say: Wording) -> Iterator[Block]:
    for item in results.measurements.find("worst_slice", of="pair", split="test"):
        yield Paragraph(text=_worst(item, results, say))
    yield from _sliced(results, say)
    before = curve_of(results.measurements, "by_class", "student")
    if before is None:
        return
    n_classes, shown = len(before.x), min(len(before.x), 24)
    some = (
        ""
        if shown == n_classes
        else f" Of {n_classes} classes the student's {shown} worst are drawn."
    )
    after = results.after is not None and curve_of(results.after, "by_class", "student") is not None
    yield Figure(
        name="by_class",
        caption=f"{words(results.score_name).capitalize()} by {before.x_name} on test"
        f"{', before and after the plan' if after else ''}, the student's worst on top; lines are "
        f"{_together(results)} over {_per_point([before])} a class.{some}",
        alt=_class_words(before, say),
    )


def _worst(item: Measurement, results: Results, say: Wording) -> str:
    if math.isnan(item.value):
        why = say.no_worst_slice(item.reason, results.difference)
        return f"No worst slice can be named: {why}."
    return (
        f"The slice on which the student loses most beyond all other samples is {item.group}: the gap "
        f"to the teacher there is {say.difference_of(item)}."
    )


def _sliced(results: Results, say: Wording) -> Iterator[Block]:
    """Slices and crossings (single classes have a figure of their own), the largest gap first."""
    shown, left = worst_slices(results)
    if not shown:
        return
    after = results.after is not None and bool(sliced(results.after, results.score_name, "student"))
    more = f" {left:,} more slices, with smaller gaps, are not drawn." if left else ""
    yield Figure(
        name="slices",
        caption=f"The slices with the largest gaps{', before and after the plan' if after else ''}, on test, the "
        f"largest on top; intervals hold for all slices together.{more}",
        alt="Dot plot by slice. "
        + "; ".join(_slice_words(results, group, say) for group in shown[:ROWS_SHOWN]),
    )
    worst = [item.group for item in _named(results)]
    others = [group for group in shown if group not in worst][:ROWS_SHOWN]
    rows = tuple(_slice_row(results, group, say) for group in (*worst, *others))
    rest = len(shown) + left - sum(group in shown for group in (*worst, *others))
    yield Table(
        caption=("The slice named above, then those" if worst else "The slices")
        + " with the largest gaps in numbers."
        + (f" {rest:,} more slices have smaller gaps." if rest else ""),
        columns=("Slice", "Teacher", "Student", "Gap"),
        rows=rows,
        widths=(1.6, 1.7, 1.7, 2.1),
        right=(1, 2, 3),
    )


def _named(results: Results) -> list[Measurement]:
    """The worst slice where one is named, a single class too."""
    found = results.measurements.find("worst_slice", of="pair", split="test")
    return [item for item in found if item.group and math.isfinite(item.value)][:1]


def _slice_row(results: Results, group: str, say: Wording) -> tuple[str, ...]:
    measured = results.measurements
    scores = [one(measured, results.score_name, of, group=group) for of in ("teacher", "student")]
    cells = [f"{say.score(s.value)} {say.bounds(s)}" if s else "–" for s in scores]
    gap = next((item for item in _named(results) if item.group == group), None)
    gap = gap or gaps(measured)[group]
    return (
        group,
        *cells,
        f"{say.difference(gap.value)} {say.bounds(gap, signed=True)}, n = {gap.n:,}",
    )


def _slice_words(results: Results, group: str, say: Wording) -> str:
    return f"{group}: the student is {say.difference_of(gaps(results.measurements)[group])} from its teacher"


def _together(results: Results) -> str:
    """Which intervals the class figure shows: plain ones, or corrected for the number of slices."""
    classes = (
        item
        for item in results.measurements.find(results.score_name, of="student", split="test")
        if is_class(item.group)
    )
    level = max((item.level for item in classes), default=0.95)
    return (
        "95 % intervals"
        if level <= 0.95
        else "intervals that hold for all classes together (95 %),"
    )


def _class_words(curve: Curve, say: Wording) -> str:
    if not np.isfinite(curve.y).any():
        return "Scores by class; all undefined."
    names = curve.ticks or tuple(number(float(x)) for x in curve.x)
    low, high = int(np.nanargmin(curve.y)), int(np.nanargmax(curve.y))
    return (
        f"Dot plot by {curve.x_name}. The student's worst is {names[low]} with {say.score(float(curve.y[low]))}, "
        f"its best {names[high]} with {say.score(float(curve.y[high]))}."
    )
