"""Evidence: whether samples lie to each other as in the teacher, and what the answers rest on, on test."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gapkit.measurement import Measurement
from gapkit.quality.exhibits import Exhibit
from gapkit.reports.report import Block, Figure, Paragraph, Table
from gapkit.reports.results import Results, one
from gapkit.wording import bare, sentence, short, words

NAME_WIDTH = 36
LAYERS_SHOWN = 10

# quantity -> what a reader is told that it means
RELATION = {
    "distance_structure": "correlation of distances between samples; 1 when the same pairs are far apart",
    "angle_structure": "correlation of angles among three samples; 1 when shapes are kept",
    "neighbors_kept": "share of a sample's 10 nearest in the teacher that are so in the student",
    "triplet_order": "share of triplets whose nearer pair is the same; a half by chance",
}


def relation(results: Results) -> Iterator[Block]:
    """Whether samples that are alike to the teacher are alike to the student."""
    found = [
        item
        for name in RELATION
        for item in results.measurements.find(name, of="pair", split="test")
        if math.isfinite(item.value)
    ]
    if not found:
        return
    layers = [layer for layer in dict.fromkeys(item.layer for item in found) if layer]
    layers = [*[""] * any(not item.layer for item in found), *layers[-1:]]
    rows = [_row(results, name, layer) for layer in layers for name in RELATION]
    yield Table(
        caption=f"How far the student keeps the teacher's relations among samples, test, n = {found[0].n:,}; "
        "in brackets 95 % intervals. The untrained student is what to judge it against.",
        columns=("Quantity", "Of", "Student", "Untrained", "What it says"),
        rows=tuple(row for row in rows if row),
        widths=(1.5, 1.5, 1.8, 1.8, 3.0),
        right=(2, 3),
    )


def _row(results: Results, name: str, layer: str) -> tuple[str, ...]:
    student = one(results.measurements, name, "pair", layer=layer)
    if student is None:
        return ()
    fresh = one(results.measurements, name, "untrained", layer=layer)
    where = short(layer, NAME_WIDTH) if layer else "outputs"
    untrained = "" if fresh is None else bare(fresh)
    why = f"; {student.reason}" if student.reason else ""
    return (words(name), where, bare(student), untrained, RELATION[name] + why)


def attribution(results: Results) -> Iterator[Block]:
    """Whether both models look at the same evidence, and which teacher layers matter."""
    same = one(results.measurements, "attribution_agreement", "pair")
    other = one(results.measurements, "attribution_agreement_shuffled", "pair")
    if same is not None and math.isnan(same.value):
        yield Paragraph(text=f"What the answers rest on cannot be compared: {same.reason}.")
    elif same is not None:
        text = (
            "The parts of the input that the teacher's answer rests on and those that the student's "
            f"rests on agree by {bare(same)} (rank correlation over {same.n:,} samples; 1 the same order)"
        )
        if other is not None and math.isfinite(other.value):
            text += f"; with the teacher's map of another sample by {bare(other)}"
        yield Paragraph(text=f"{text}. ({same.estimator.partition(';')[0]}.)")
    yield from _samples(results)
    yield from _importance(results)


def _samples(results: Results) -> Iterator[Block]:
    """Real samples with the parts that speak for the teacher's answer in each model."""
    shown = results.exhibits
    if shown is None or not shown.items:
        return
    flat = _flat(shown.items)
    signs = (
        "for (green, up) or against (purple, down)"
        if flat
        else "for (green) or against (purple, strong cells dotted)"
    )
    yield Figure(
        name="attribution",
        caption=f"Samples of the {shown.split} split, and what in them speaks {signs} the teacher's "
        f"answer, by model; each map on its own scale. {sentence(shown.estimator)} "
        f"{_above(shown.items)}Chosen: samples on which the two differ, and one on which they agree.",
        alt="Attribution maps side by side. " + "; ".join(_sample(item) for item in shown.items),
    )


def _flat(items: tuple[Exhibit, ...]) -> bool:
    """Whether the maps are of height 1 and drawn as bars."""
    return all(found.shape[0] == 1 for found in items[0].maps.values())


def _above(items: tuple[Exhibit, ...]) -> str:
    """What stands above the maps: answers where they fit a line; samples are named above pictures only."""
    named = any(item.picture.size for item in items) and not _flat(items)
    answers = [answer for item in items for answer in item.answers.values() if answer]
    sure = " and how sure" if any(answer.endswith("%)") for answer in answers) else ""
    above = f"Above each: the answer{sure}. " if answers else ""
    order = "From top to bottom" if _flat(items) else "In reading order"
    positions = ", ".join(str(item.position) for item in items)
    return above if named else f"{above}{order}: samples {positions}. "


def _sample(item: Exhibit) -> str:
    said = ", ".join(f"{role} says {answer}" for role, answer in item.answers.items() if answer)
    label = f" (label {item.label})" if item.label else ""
    return f"sample {item.position}{label}" + (f": {said}" if said else "")


def _importance(results: Results) -> Iterator[Block]:
    found = results.measurements.find("layer_importance", of="teacher", split="test")
    known: list[Measurement] = [item for item in found if math.isfinite(item.value)]
    if not known:
        return
    order = sorted(known, key=lambda item: -item.value)[:LAYERS_SHOWN]
    shown = [item for item in known if item in order]
    left = len(known) - len(shown)
    unit = "" if known[0].unit in ("share", "") else f" ({known[0].unit})"
    yield Table(
        caption="How much the teacher's answer loses when half of a layer's units show their mean, "
        f"test, n = {known[0].n:,}; input to output"
        + (f"; {left} weaker layers left out." if left else "."),
        columns=("Teacher layer", f"Loss{unit} [95 %]"),
        rows=tuple((short(item.layer, NAME_WIDTH), bare(item)) for item in shown),
        widths=(3.0, 2.0),
        right=(1,),
    )
