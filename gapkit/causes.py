"""Causes: one function each, from the evidence to a Finding or None; this is the list of them.

Each function names what it measures, the limit, where the limit comes from, and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable

from gapkit.case import Case
from gapkit.causes_controls import (
    capacity,
    harsh_targets,
    input_gap,
    optimization,
    pipeline_fault,
    taught,
    teacher_gap,
    undertrained,
)
from gapkit.causes_harness import harness_fault
from gapkit.causes_layers import blind_layer, uniform_transfer
from gapkit.causes_scores import SUCCESS, coverage, false_success, no_gap
from gapkit.causes_teacher import overconfident_teacher, scheme_mismatch
from gapkit.confidence import LEAST_SEEDS
from gapkit.gap import Finding

__all__ = [
    "CAUSES",
    "LEAST_SEEDS",
    "SUCCESS",
    "blind_layer",
    "capacity",
    "coverage",
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
