"""Own probes: what measures made by others than gapkit found, as a table; nothing of it is judged."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gapkit.measurement import Measurement
from gapkit.reports.report import Block, Table
from gapkit.reports.results import Results
from gapkit.wording import number_of, short, words

ROWS_SHOWN = 20
NAME_WIDTH = 36
SPLITS = ("test", "validation", "train", "")  # the first that a quantity was measured on is shown

# what gapkit's own probes measure, beside the task's score
STANDARD = frozenset(
    (
        "absolute_error",
        "activation_bytes",
        "agreement",
        "angle_structure",
        "attribution_agreement",
        "attribution_agreement_shuffled",
        "bias",
        "chance",
        "confidence",
        "dark_knowledge",
        "distance",
        "distance_structure",
        "ece",
        "effective_rank",
        "entropy",
        "error_correlation",
        "flops",
        "gap",
        "gap_elsewhere",
        "hint_bound",
        "intrinsic_dimension",
        "kl",
        "layer_importance",
        "linear_probe",
        "linear_screen",
        "neighbors_kept",
        "nll",
        "parameters",
        "participation_ratio",
        "permuted_accuracy",
        "permuted_gain",
        "predictability",
        "rescaled_gain",
        "student_predictability",
        "student_view_gain",
        "train_mode_gain",
        "triplet_order",
        "worst_slice",
    )
)


def own(results: Results) -> Iterator[Block]:
    """Every measurement that no probe of gapkit makes, by quantity in the order measured; at most 20 rows."""
    found = _found(results)
    if not found:
        return
    left = len(found) - ROWS_SHOWN
    splits = " and ".join(dict.fromkeys(item.split for item in found if item.split))
    placed = any(item.layer or item.group for item in found)
    yield Table(
        caption="What registered probes measured beside gapkit's own"
        + (f", on {splits}" if splits else "")
        + "; in brackets intervals, of 95 % unless another level is said."
        + (f" {left:,} more values are not shown." if left > 0 else ""),
        columns=("Quantity", "Of", *["Layer, slice"] * placed, "Value", "n"),
        rows=tuple(_row(item, placed, " and " in splits) for item in found[:ROWS_SHOWN]),
        widths=(1.6, 1.0, *[1.8] * placed, 2.6, 0.7),
        right=(2 + placed, 3 + placed),
    )


def _found(results: Results) -> list[Measurement]:
    """The measurements to show; of each place the split that says most, whole models before their parts."""
    standard = STANDARD | {results.score_name}
    places: dict[tuple[str, str, str, str], Measurement] = {}
    for item in results.measurements.values:
        if item.name in standard:
            continue
        place = (item.name, item.of, item.layer, item.group)
        held = places.get(place)
        if held is None or SPLITS.index(item.split) < SPLITS.index(held.split):
            places[place] = item
    names = list(dict.fromkeys(name for name, *_ in places))
    return sorted(
        places.values(), key=lambda item: (names.index(item.name), bool(item.layer or item.group))
    )


def _row(item: Measurement, placed: bool, several: bool) -> tuple[str, ...]:
    whose = {"pair": "both", "untrained": "untrained student"}.get(item.of, item.of)
    where = [short(part, NAME_WIDTH) for part in (item.layer, item.group) if part]
    value = number_of(item)
    if item.level != 0.95 and not math.isnan(item.value):
        value += f" ({item.level * 100:.4g} %)"
    if several and item.split:
        value += f", {item.split}"
    place = (", ".join(where) or "all",) if placed else ()
    return (words(item.name), whose, *place, value, f"{item.n:,}" if item.n else "–")
