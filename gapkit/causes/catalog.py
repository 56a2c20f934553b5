"""Causes: one function each, from the evidence to a Finding or None; this is the list of them.

Each function names what it measures, the limit, where the limit comes from, and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable

from gapkit.causes.case import EXCESS, Case
from gapkit.causes.confidence import LEAST_SEEDS, NO_CONTROL
from gapkit.causes.controls import (
    harsh_targets,
    input_gap,
    pipeline_fault,
    taught,
    teacher_gap,
    undertrained,
)
from gapkit.causes.harness import harness_fault
from gapkit.causes.layers import blind_layer, uniform_transfer
from gapkit.causes.scores import SUCCESS, coverage, false_success, no_gap
from gapkit.causes.size import capacity, optimization
from gapkit.causes.teacher import overconfident_teacher, scheme_mismatch
from gapkit.gap import Finding

__all__ = [
    "CAUSES",
    "LEAST_SEEDS",
    "SUCCESS",
    "blind_layer",
    "capacity",
    "coverage",
    "explains_most",
    "false_success",
    "harness_fault",
    "harsh_targets",
    "input_gap",
    "no_gap",
    "optimization",
    "overconfident_teacher",
    "pipeline_fault",
    "scheme_mismatch",
    "taught",
    "teacher_gap",
    "undertrained",
    "uniform_transfer",
]

CAUSES: tuple[Callable[[Case], Finding | None], ...] = (
    harness_fault,
    pipeline_fault,
    overconfident_teacher,
    harsh_targets,
    teacher_gap,
    undertrained,
    optimization,
    input_gap,
    coverage,
    scheme_mismatch,
    blind_layer,
    uniform_transfer,
    false_success,
    capacity,
)

AT_THIS_SIZE = tuple(cause for cause in CAUSES if cause not in (false_success, capacity))


def explains_most(case: Case) -> bool:
    """Whether a control has shown that half of the gap or more comes back at the student's own size.

    Shares of a gap add up: no other cause can then come before that one by more than noise. Nothing explains
    a gap that is not there.
    """
    if not case.gap.value > 0:
        return False
    findings = (cause(case) for cause in AT_THIS_SIZE)
    return any(
        item.points.low > 0
        and item.points.value >= case.gap.value / 2
        and item.probability > NO_CONTROL
        and item.points.name != EXCESS
        and not item.points.group  # points of a slice are no share of the gap
        for item in findings
        if item is not None
    )
