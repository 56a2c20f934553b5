"""Slices: which of them a report shows, found quickly however many there are."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gapkit.measurement import Measurement, Measurements
from gapkit.reports.results import REPORTED, Results

SLICES_SHOWN = 12


def sliced(measurements: Measurements, name: str, of: str) -> dict[str, Measurement]:
    """Slice -> that measurement on test, of every slice that has one (single classes among them)."""
    return {
        item.group: item
        for item in measurements.values
        if item.group and item.split == REPORTED and item.name == name and item.of == of
    }


def gaps(measurements: Measurements) -> Mapping[str, Measurement]:
    """Slice -> how much the student loses there; single classes are left out, and what is undefined."""
    found = sliced(measurements, "gap", "pair").items()
    return {
        group: item for group, item in found if not is_class(group) and math.isfinite(item.value)
    }


def worst_slices(results: Results) -> tuple[list[str], int]:
    """The slices to show, the largest gap first, and how many more were measured."""
    found = gaps(results.measurements)
    order = sorted(found, key=lambda group: (-found[group].value, group))
    return order[:SLICES_SHOWN], max(0, len(order) - SLICES_SHOWN)


def is_class(group: str) -> bool:
    """Whether a slice is one class, no crossing of classes with another dimension."""
    return group.startswith("class=") and " & " not in group
