"""Records are frozen, typed, and come back from disk as they were."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from gapkit.record import Array, Record
from tests import report_fixtures as made


class Point(Record):
    x: Array
    value: float = 0.0
    tags: tuple[str, ...] = ()


def test_a_record_is_frozen_keyword_only_and_refuses_unknown_fields():
    point = Point(x=[1, 2])
    with pytest.raises(ValidationError, match="frozen"):
        point.value = 3.0
    with pytest.raises(TypeError):
        Point([1, 2])
    with pytest.raises(ValidationError, match="valeu"):
        Point(x=[1], valeu=3)


def test_an_array_is_a_read_only_copy():
    source = np.array([1.0, 2.0])
    point = Point(x=source)
    with pytest.raises(ValueError, match="read-only"):
        point.x[0] = 9
    source[0] = 9
    assert point.x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, -0.0])
def test_floats_come_back_from_json_as_they_were(value):
    back = Point.model_validate_json(Point(x=[value, 1.0], value=value).model_dump_json())
    np.testing.assert_array_equal(back.x, [value, 1.0])
    np.testing.assert_array_equal(back.value, value)
    assert math.copysign(1, back.value) == math.copysign(1, value)


def test_numbers_stay_numbers_in_json_beside_nan():
    text = Point(x=[[1.5, math.nan], [-math.inf, 2.0]]).model_dump_json()
    assert json.loads(text)["x"] == [[1.5, "nan"], ["-inf", 2.0]]


@pytest.mark.parametrize("shape", [(7,), (1, 1), (3, 4), (2, 3, 4)])
def test_arrays_of_any_bit_pattern_survive_json(shape):
    bits = np.random.default_rng(0).integers(0, 2**64, shape, dtype=np.uint64)
    array = bits.view(np.float64).copy()
    array.ravel()[0] = math.nan
    back = Point.model_validate_json(Point(x=array).model_dump_json()).x
    np.testing.assert_array_equal(back, array)
    assert back.dtype == np.float64


@pytest.mark.parametrize("values", [[0], [1, -5, 2**62], [[1, 2], [3, 4]]])
def test_integers_stay_integers(values):
    back = Point.model_validate_json(Point(x=values).model_dump_json()).x
    assert back.tolist() == values
    assert back.dtype.kind == "i"


def test_booleans_and_empty_arrays_survive_json():
    flags = Point.model_validate_json(Point(x=[True, False]).model_dump_json()).x
    assert flags.dtype == bool
    assert flags.tolist() == [True, False]
    assert Point.model_validate_json(Point(x=[]).model_dump_json()).x.shape == (0,)


def test_arrays_can_be_stored_beside_the_text_bit_by_bit():
    point = Point(x=np.array([0.1, np.nan], dtype=np.float32))
    beside: dict[str, np.ndarray] = {}
    text = json.dumps(point.model_dump(mode="json", context={"arrays": beside}))
    assert json.loads(text)["x"] == {"tensor": "a0"}
    back = Point.model_validate_json(text, context={"arrays": beside})
    assert back.x.dtype == np.float32
    np.testing.assert_array_equal(back.x, point.x)
    with pytest.raises(ValidationError, match="Expected an array named 'a0' beside the record"):
        Point.model_validate_json(text)


@pytest.mark.parametrize("value", [["a", "b"], {"no": 1}, [[1], [1, 2]]])
def test_what_is_no_array_of_numbers_is_refused(value):
    with pytest.raises((ValidationError, TypeError)):
        Point(x=value)


def test_records_are_compared_by_value_and_type():
    class Other(Point):
        pass

    point = Point(x=[1.0, math.nan], tags=("a",))
    assert point == Point(x=[1.0, math.nan], tags=("a",))
    assert hash(point) == hash(Point(x=[1.0, math.nan], tags=("a",)))
    assert point != Point(x=[2.0, math.nan], tags=("a",))
    assert point != Other(x=[1.0, math.nan], tags=("a",))
    assert point != "a"


def test_with_changes_a_validated_copy():
    point = Point(x=[1.0], value=1.0)
    assert point.with_(value=2) == Point(x=[1.0], value=2.0)
    assert point.value == 1.0
    with pytest.raises(ValidationError, match="valid number"):
        point.with_(value="much")
    with pytest.raises(ValidationError, match="colour"):
        point.with_(colour=1)


def test_a_json_schema_exists():
    schema = Point.model_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"x", "value", "tags"}


def test_a_notebook_shows_fields_in_a_table_with_every_word_escaped():
    html = Point(x=[1.0, 2.0, 3.0], tags=("<script>", "a & b"), value=0.5)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;<br>a &amp; b" in html
    assert "3 numbers" in html
    assert '<th scope="row" style="text-align: left">value</th>' in html
    assert ">tags<" not in Point(x=[])._repr_html_()  # nothing is shown of nothing


def test_of_many_the_first_are_shown_and_the_rest_counted():
    html = Point(x=[], tags=tuple(f"tag{index}" for index in range(20)))._repr_html_()
    table = html.partition("<table>")[2]
    assert "tag7<br>… 12 more" in table
    assert "tag8" not in table


@pytest.mark.parametrize("make", [made.gap, made.plan, made.outcome, made.measurements])
def test_every_result_shows_itself_in_a_notebook(make):
    html = make()._repr_html_()
    assert html.count("<table>") == html.count("</table>") == 1
    assert len(html) < 50_000
    assert "digits" in html or "accuracy" in html
    assert "Measurement(" not in html  # a line each, not the fields of what they hold
    assert "array(" not in html


def test_what_results_hold_says_itself_in_one_line():
    gap, plan, outcome = made.gap(), made.plan(), made.outcome()
    said = [
        gap.waterfall, *gap.waterfall.steps, *gap.controls, gap.findings[0].remedy, *plan.stages,
        *plan.alternatives, *outcome.stages, *outcome.comparisons,
    ]  # fmt: skip
    assert len(said) > 15
    for item in said:
        assert 3 < len(str(item)) < 300
        assert "=(" not in str(item)
        assert "\n" not in str(item)
    first = gap.controls[0]
    assert f"{first.mean:.3f} on validation, n = {len(first.seeds)} seeds" in str(first)
    assert f"{outcome.comparisons[0].points.value:+.3f}" in str(outcome.comparisons[0])
