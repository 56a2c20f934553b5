"""Hand-made grounds for gates and choices: 0/1 answers of two models, slices, layers and plans."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gapkit.gap import Gap, Remedy, Waterfall
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.measurement import LayerMatrix, Measurement, Measurements
from gapkit.plans import Cost, Phase, Plan, Predicted, Stage
from gapkit.quality.grounds import Grounds
from tests.deciding_fixtures import draw, measurements
from tests.report_fixtures import finding, value

VALIDATION = {"split": "validation", "n": 400}
KL = knowledge_named("kl4")
CKA = np.array([[0.9, 0.1], [0.3, 0.2], [0.1, 0.8]])
FORECAST = Predicted(low=0.4, value=0.5, high=0.6)


def measured(*values: Measurement, teacher: float = 0.9, student: float = 0.6) -> Measurements:
    """Two models of those accuracies on 400 validation samples, and what else is given."""
    base = measurements(draw(teacher, 0), draw(student, 1))
    return base.with_(values=(*base.values, *values), matrices=(matrix(),))


def matrix() -> LayerMatrix:
    """Student layers s0 and s1 resemble teacher layers t0 and t2."""
    return LayerMatrix(
        name="cka", split="validation", teacher_layers=("t0", "t1", "t2"), student_layers=("s0", "s1"),
        values=CKA, low=CKA - 0.05, high=CKA + 0.05, null_z=CKA * 0, n=400,
    )  # fmt: skip


def layers(name: str, of: str, half: float = 0.02, **by_layer: float) -> list[Measurement]:
    """One quantity at several layers, each number ± half."""
    return [
        value(name, of, number, half, layer=layer, **VALIDATION)
        for layer, number in by_layer.items()
    ]


def sliced(*groups: str, n: int = 60, score: float = 0.7) -> list[Measurement]:
    """The student's score on each slice."""
    return [
        value("accuracy", "student", score, 0.1, group=group, split="validation", n=n)
        for group in groups
    ]


def slice_gap(group: str, gap: float, half: float = 0.05) -> Measurement:
    """Teacher minus student on one slice."""
    return value("gap", "pair", gap, half, group=group, split="validation", n=60)


def worst(group: str = "") -> Measurement:
    """The worst slice, or that none is."""
    if group:
        return value("worst_slice", "pair", 0.5, 0.1, group=group, split="validation", n=60)
    nothing = math.nan
    return Measurement(
        name="worst_slice", of="pair", split="validation", value=nothing, low=nothing, high=nothing,
        reason="none of 9 slices is worse than the rest beyond noise",
    )  # fmt: skip


def stage(*knowledge: Knowledge, **fields: Any) -> Stage:
    """A stage that trains the student from the teacher unless said otherwise."""
    given = {"name": "student", "size": 1, "sources": ("teacher",)} | fields
    return Stage(phases=(Phase(knowledge=knowledge or KL),), **given)


def plan_of(*stages: Stage) -> Plan:
    """A plan of those stages; default: the teacher teaches by KL, offline."""
    return Plan(
        study="invented", stages=stages or (stage(),), predicted=FORECAST, predicted_run=FORECAST,
        cost=Cost(student_trainings=1.0),
    )  # fmt: skip


def gap_with(*controls: Any) -> Gap:
    """A diagnosis with those controls."""
    score = value("accuracy", "student", 0.6, 0.05, **VALIDATION)
    return Gap(
        study="invented", cause="undertrained", verdict="It still rises.", student=score,
        teacher=score.with_(of="teacher"), waterfall=Waterfall(start=score, end=score),
        findings=(finding("undertrained", 0.1, 0.05, Remedy(text="Train longer.")),),
        controls=controls,
    )  # fmt: skip


def grounds(
    *values: Measurement, teacher: float = 0.9, student: float = 0.6, **fields: Any
) -> Grounds:
    """Grounds on two models of those accuracies and what else was measured."""
    return Grounds(measured(*values, teacher=teacher, student=student), **fields)
