"""Measurements carry interval and n, explain their nan, are found by name, and survive the disk."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from gapkit.errors import InputError
from gapkit.measurement import Contributions, Curve, LayerMatrix, Measurement, Measurements


def measurement(name="accuracy", of="student", split="test", value=0.5, **more):
    return Measurement(
        **{"name": name, "of": of, "split": split, "value": value, "low": 0.4, "high": 0.6} | more
    )


def matrix(values=((0.1, 0.9, 0.3), (0.2, 0.4, math.nan)), **more):
    values = np.array(values)
    fields = {
        "name": "cka",
        "split": "test",
        "teacher_layers": ("stem", "head"),
        "student_layers": ("a", "b", "c"),
        "values": values,
        "low": values - 0.1,
        "high": values + 0.1,
        "null_z": values * 100,
        "n": 40,
    }
    return LayerMatrix(**fields | more)


@pytest.fixture
def measurements():
    return Measurements(
        study="digits",
        values=(
            measurement(n=100),
            measurement(split="validation", value=0.6, n=50),
            measurement(of="teacher", value=0.9, n=100),
            measurement(group="class=3", value=0.2, n=10),
            measurement("linear_accuracy", layer="stem", value=0.3, n=100),
            measurement("kl", "pair", value=math.nan, reason="no logits"),
        ),
        matrices=(matrix(), matrix(split="validation", n=7)),
        contributions=(Contributions(of="student", split="test", values=[0, 1, 1]),),
    )


def test_a_nan_needs_a_reason():
    with pytest.raises(ValidationError, match="Expected a reason for the nan of 'kl'"):
        measurement("kl", value=math.nan)
    assert math.isnan(measurement("kl", value=math.nan, reason="no logits").value)


def test_a_measurement_prints_as_one_line_with_interval_and_n():
    assert str(measurement(n=100)) == "accuracy of student on test 0.5 [0.4, 0.6] (n = 100)"
    layered = measurement("r2", layer="conv1", group="class=3", n=9)
    assert str(layered) == "r2 of student at conv1 class=3 on test 0.5 [0.4, 0.6] (n = 9)"
    assert str(measurement("parameters", split="", value=108)) == "parameters of student 108"
    undefined = measurement("kl", "pair", value=math.nan, reason="no logits")
    assert str(undefined) == "kl of pair on test undefined: no logits"


def test_unknown_splits_and_directions_are_refused():
    with pytest.raises(ValidationError, match="train"):
        measurement(split="tset")
    with pytest.raises(ValidationError, match="neither"):
        measurement(better="up")


def test_a_cell_is_found_by_its_layers():
    assert matrix().cell("stem", "b") == 0.9
    assert matrix().cell("head", "a") == 0.2
    with pytest.raises(InputError, match="known teacher layer but got 'stm'; nearest: 'stem'"):
        matrix().cell("stm", "a")
    with pytest.raises(InputError, match="known student layer but got 'd'"):
        matrix().cell("stem", "d")


def test_a_matrix_prints_its_largest_cell_or_that_there_is_none():
    assert str(matrix()) == "cka 2 × 3, largest 0.900 at stem ~ b (n = 40)"
    assert str(matrix(np.full((2, 3), math.nan))) == "cka 2 × 3: undefined everywhere"


def test_find_matches_every_field_and_get_wants_exactly_one(measurements):
    assert [item.value for item in measurements.find("accuracy", of="student")] == [0.5, 0.6, 0.2]
    assert measurements.find("accuracy", group="class=3")[0].value == 0.2
    assert measurements.find("accuracy", of="peer") == ()
    assert measurements.get("accuracy", of="student", split="test").value == 0.5
    assert measurements.get("linear_accuracy", layer="stem").value == 0.3
    assert measurements.has("accuracy", of="teacher")
    assert not measurements.has("accuracy", of="teacher", split="train")


def test_get_says_what_is_wrong(measurements):
    with pytest.raises(
        InputError, match="known measurement but got 'acuracy'; nearest: 'accuracy'"
    ):
        measurements.get("acuracy")
    with pytest.raises(InputError, match=r"one measurement 'accuracy' .* found 2"):
        measurements.get("accuracy", of="student")
    with pytest.raises(InputError, match="found 0"):
        measurements.get("accuracy", of="peer")
    with pytest.raises(
        InputError, match="known field of a measurement but got 'spilt'; nearest: 'split'"
    ):
        measurements.get("accuracy", spilt="test")


def test_cka_is_the_matrix_on_test(measurements):
    assert measurements.cka == measurements.matrix("cka", "test")
    assert measurements.cka.n == 40
    assert measurements.matrix("cka", "validation").n == 7
    with pytest.raises(InputError, match="known layer matrix but got 'rsa on test'"):
        measurements.matrix("rsa")


def test_scores_are_the_contributions_of_one_model_and_split(measurements):
    assert measurements.scores("student", "test").tolist() == [0, 1, 1]
    with pytest.raises(InputError, match="'teacher on test'; nearest: 'student on test'"):
        measurements.scores("teacher", "test")


def test_the_summary_lists_what_speaks_of_the_whole_test_split(measurements):
    lines = str(measurements).splitlines()
    assert lines[0] == "Measurements of digits: 6 values, 2 layer matrices"
    assert [line.split()[0] for line in lines[1:]] == ["accuracy", "accuracy", "kl"]


def test_the_table_for_notebooks_escapes_names():
    html = Measurements(study="s", values=(measurement("<b>", n=3),))._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 2


def test_everything_comes_back_from_json_and_from_arrays_beside_it(measurements):
    curve = Curve(
        name="reliability", of="student", split="test", x_name="confidence", y_name="accuracy",
        x=[0.1, 0.9], y=[0.2, math.nan], low=[0, 0], high=[1, 1], n=[3, 0],
    )  # fmt: skip
    whole = measurements.with_(curves=(curve,))
    assert Measurements.model_validate_json(whole.model_dump_json()) == whole
    beside: dict[str, np.ndarray] = {}
    data = whole.model_dump(mode="json", context={"arrays": beside})
    assert Measurements.model_validate(data, context={"arrays": beside}) == whole
    assert len(beside) > 10
