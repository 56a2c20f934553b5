"""Errors of the user: one line, the nearest known name."""

from __future__ import annotations

import pytest

from gapkit.errors import InputError, unknown


def test_an_input_error_is_a_value_error():
    with pytest.raises(ValueError, match=r"^Expected one$"):
        raise InputError("Expected one")


def test_the_nearest_name_comes_first_and_far_ones_are_not_suggested():
    text = str(unknown("layer", "layer3.conv", ["stem", "layer2.conv1", "layer3.conv1"]))
    assert "nearest: 'layer3.conv1'" in text
    assert "'stem'" not in text.split("known:")[0]
    assert "nearest" not in str(unknown("layer", "zzz", ["stem", "head"]))


def test_names_may_be_numbers_and_long_lists_are_cut_after_twelve():
    text = str(unknown("size", 4, range(100, 130)))
    assert text.startswith("Expected a known size but got '4'")
    assert text.endswith("'111', ...")
    assert "'112'" not in text
    assert not str(unknown("size", 4, range(12))).endswith("...")


def test_the_message_is_one_line_even_without_known_names():
    assert str(unknown("probe", "cka", [])) == "Expected a known probe but got 'cka'; known: "
