"""Measurement, LayerMatrix, Curve, Contributions and Measurements: what was measured. Nothing here judges."""

from __future__ import annotations

import math
from html import escape
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from gapkit.errors import InputError, unknown
from gapkit.record import Array, Record

Split = Literal["train", "validation", "test"]


class Measurement(Record):
    """One number with its interval, its n and how it was got.

    Attributes:
        name: the quantity, for example "accuracy", "kl", "effective_rank".
        of: whose it is: "teacher", "student", "untrained", "pair", or a stage's name.
        split: the split it was measured on; "" where no data is involved (parameters).
        value, low, high: the estimate and its interval; nan needs a reason.
        level: coverage of the interval, 0.95 unless said; low = high = value for exact counts.
        unit: "share", "nats", "points", "FLOPs", "parameters", ...; "" when it has none.
        better: which way is better; "neither" for descriptions.
        n: samples behind the value; 0 for exact counts.
        estimator: how value and interval were got, in words.
        seed: of the random part (bootstrap, permutations); None when there was none.
        layer, group: the layer, and the slice ("class=3"), it speaks of; "" for the whole.
        reason: why the value is nan.
        repeats: the raw repeats behind the interval, when there are any.

    >>> print(Measurement(name="accuracy", of="student", split="test", value=0.5, low=0.4, high=0.6,
    ...                   unit="share", better="higher", n=100, estimator="mean; Wilson"))
    accuracy of student on test 0.5 [0.4, 0.6] (n = 100)
    """

    name: str
    of: str
    split: Split | Literal[""] = ""
    value: float
    low: float
    high: float
    level: float = 0.95
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    n: int = 0
    estimator: str = ""
    seed: int | None = None
    layer: str = ""
    group: str = ""
    reason: str = ""
    repeats: Array = Field(default_factory=lambda: np.array([]))

    @model_validator(mode="after")
    def _nan_has_a_reason(self) -> Measurement:
        if math.isnan(self.value) and not self.reason:
            raise ValueError(f"Expected a reason for the nan of {self.name!r} but got none")
        return self

    def __str__(self) -> str:
        where = "".join(
            f" {part}" for part in (self.layer and f"at {self.layer}", self.group) if part
        )
        on = f" on {self.split}" if self.split else ""
        if math.isnan(self.value):
            return f"{self.name} of {self.of}{where}{on} undefined: {self.reason}"
        interval = f" [{shown(self.low)}, {shown(self.high)}] (n = {self.n})" if self.n else ""
        return f"{self.name} of {self.of}{where}{on} {shown(self.value)}{interval}"


class LayerMatrix(Record):
    """One similarity for every pair of a teacher's and a student's layer.

    Attributes:
        name: the similarity, for example "cka".
        teacher_layers, student_layers: names of the rows (T of them) and columns (S).
        values, low, high: (T, S); nan cells are explained in `reasons` under "row,column".
        null_z: (T, S) value divided by the standard deviation of its null (samples permuted).
        p_value: (T, S) permutation p of each cell; empty when no permutations were run.
        p_max: permutation p of the largest cell, corrected for having looked at all; nan if not run.
        untrained: (T, S) the same similarity with the untrained student: the row to judge against.
        teacher_dims, student_dims: features per layer after `reduce`.
        reduce: how maps became vectors ("gap", "grid:2", "flatten").
        estimator: formula and path, in words.
    """

    name: str
    split: Split | Literal[""] = ""
    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    values: Array
    low: Array
    high: Array
    level: float = 0.95
    null_z: Array
    p_value: Array = Field(default_factory=lambda: np.array([]))
    p_max: float = math.nan
    untrained: Array = Field(default_factory=lambda: np.array([]))
    teacher_dims: tuple[int, ...] = ()
    student_dims: tuple[int, ...] = ()
    reduce: str = "gap"
    estimator: str = ""
    n: int
    seed: int | None = None
    reasons: dict[str, str] = Field(default_factory=dict)

    def cell(self, teacher_layer: str, student_layer: str) -> float:
        """The value of one pair of layers."""
        if teacher_layer not in self.teacher_layers:
            raise unknown("teacher layer", teacher_layer, self.teacher_layers)
        if student_layer not in self.student_layers:
            raise unknown("student layer", student_layer, self.student_layers)
        row, column = (
            self.teacher_layers.index(teacher_layer),
            self.student_layers.index(student_layer),
        )
        return float(self.values[row, column])

    def __str__(self) -> str:
        shape = f"{len(self.teacher_layers)} × {len(self.student_layers)}"
        if not np.isfinite(self.values).any():
            return f"{self.name} {shape}: undefined everywhere"
        row, column = np.unravel_index(np.nanargmax(self.values), self.values.shape)
        top = f"{self.teacher_layers[row]} ~ {self.student_layers[column]}"
        return (
            f"{self.name} {shape}, largest {self.values[row, column]:.3f} at {top} (n = {self.n})"
        )


class Curve(Record):
    """Points of one quantity over another, for drawing: reliability, spectra, scores by class.

    Attributes:
        x: (k,) positions, or labels through `ticks`.
        y, low, high: (k,) values and their intervals (nan where there is none).
        n: (k,) samples behind each point.
    """

    name: str
    of: str
    split: Split | Literal[""] = ""
    x_name: str
    y_name: str
    ticks: tuple[str, ...] = ()
    x: Array
    y: Array
    low: Array
    high: Array
    n: Array


class Contributions(Record):
    """What each sample contributes to a model's score: their mean is the score.

    For accuracy these are 0 and 1; for a score that is no mean they are jackknife pseudo-values.
    The order is the split's own, so that two models can be compared sample by sample.
    """

    of: str
    split: Split
    values: Array


class Measurements(Record):
    """Everything measured about a teacher and a student, on every split."""

    study: str
    values: tuple[Measurement, ...] = ()
    matrices: tuple[LayerMatrix, ...] = ()
    curves: tuple[Curve, ...] = ()
    contributions: tuple[Contributions, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, name: str, **where: str) -> tuple[Measurement, ...]:
        """All measurements of that name whose fields (of, split, layer, group) match."""
        for key in where:
            if key not in Measurement.model_fields:
                raise unknown("field of a measurement", key, Measurement.model_fields)
        return tuple(
            item
            for item in self.values
            if item.name == name and all(getattr(item, key) == want for key, want in where.items())
        )

    def get(self, name: str, **where: str) -> Measurement:
        """The one measurement of that name for the whole model (layer and group "" unless said)."""
        found = self.find(name, **({"layer": "", "group": ""} | where))
        if len(found) == 1:
            return found[0]
        if not any(item.name == name for item in self.values):
            raise unknown("measurement", name, sorted({item.name for item in self.values}))
        raise InputError(f"Expected one measurement {name!r} with {where} but found {len(found)}")

    def has(self, name: str, **where: str) -> bool:
        """Whether there is such a measurement."""
        return bool(self.find(name, **where))

    def matrix(self, name: str, split: str = "test") -> LayerMatrix:
        """The layer matrix of that name on that split."""
        for item in self.matrices:
            if item.name == name and item.split == split:
                return item
        raise unknown(
            "layer matrix", f"{name} on {split}", [f"{m.name} on {m.split}" for m in self.matrices]
        )

    @property
    def cka(self) -> LayerMatrix:
        """Debiased CKA of all layer pairs, on test."""
        return self.matrix("cka")

    def scores(self, of: str, split: str) -> np.ndarray:
        """Per-sample contributions (n,) of one model to its score."""
        for item in self.contributions:
            if item.of == of and item.split == split:
                return item.values
        raise unknown(
            "model and split",
            f"{of} on {split}",
            [f"{c.of} on {c.split}" for c in self.contributions],
        )

    def __str__(self) -> str:
        lines = [
            f"Measurements of {self.study}: {len(self.values)} values, {len(self.matrices)} layer matrices"
        ]
        lines += [
            f"  {item}"
            for item in self.values
            if not item.layer and not item.group and item.split == "test"
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(item.name)}</td><td>{escape(item.of)}</td><td>{escape(item.split)}</td>"
            f"<td>{shown(item.value)}</td><td>[{shown(item.low)}, {shown(item.high)}]</td>"
            f"<td>{item.n}</td></tr>"
            for item in self.values
            if not item.layer and not item.group
        )
        head = "<tr><th>quantity</th><th>of</th><th>split</th><th>value</th><th>interval</th><th>n</th></tr>"
        return f"<table>{head}{rows}</table>"


def shown(value: float) -> str:
    """Four digits, and large numbers whole.

    >>> shown(0.123456), shown(56713.2)
    ('0.1235', '56,713')
    """
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
