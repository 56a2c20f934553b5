"""Whatever touches a user's model or random state leaves no trace, also after an exception."""

from __future__ import annotations

import collections
import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from gapkit.guest import call, guest, moved, seeded


@pytest.fixture
def net():
    """Trained mode, but with a BatchNorm and a layer that their owner froze."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def state(model):
    return (
        [module.training for module in model.modules()],
        [weight.requires_grad for weight in model.parameters()],
    )


def test_modes_and_gradient_flags_come_back_module_by_module(net):
    before = state(net)
    assert before == ([True, True, False, True, True], [False] + [True] * 5)
    with guest(net):
        assert state(net)[0] == [False] * 5
        for weight in net.parameters():
            weight.requires_grad_(False)
    assert state(net) == before


def test_they_come_back_after_an_exception_and_after_nesting(net):
    before = state(net)

    def fail():
        with guest(net, training=True):
            assert state(net)[0] == [True] * 5
            with guest(net):
                net[3].weight.requires_grad_(False)
                raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert state(net) == before


def test_several_models_are_guests_at_once(net):
    other = nn.Linear(1, 1)
    with guest(net, other):
        assert not net.training
        assert not other.training
    assert net.training
    assert other.training


def draw():
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_a_seed_makes_all_three_sources_repeat():
    with seeded(3):
        first = draw()
    with seeded(3):
        assert draw() == first
    with seeded(4):
        assert draw() != first


def test_random_states_outside_go_on_as_if_nothing_happened():
    with seeded(0):  # so that the test itself leaves none behind
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        expected = [draw() for _ in range(2)]
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        got = [draw()]
        with contextlib.suppress(KeyError), seeded(7):
            draw()
            raise KeyError("inside")
        got.append(draw())
    assert got == expected


def test_large_and_negative_seeds_are_taken():
    for seed in (2**40, -1):
        with seeded(seed):
            first = draw()
        with seeded(seed):
            assert draw() == first


def seen(*args, **keywords):
    return args, keywords


def test_a_view_is_passed_as_keywords_arguments_or_as_it_is():
    user_dict = collections.UserDict(a=1, b=2)  # what tokenizers return: a mapping, no dict
    assert call(seen, {"a": 1, "b": 2}) == ((), {"a": 1, "b": 2})
    assert call(seen, user_dict) == ((), {"a": 1, "b": 2})
    assert call(seen, (1, 2)) == ((1, 2), {})
    assert call(seen, [1]) == ((1,), {})
    assert call(seen, 5) == ((5,), {})


def test_tensors_are_moved_wherever_they_are_nested():
    Pair = collections.namedtuple("Pair", "left right")
    value = {
        "a": torch.ones(2),
        "b": [torch.ones(1), "text"],
        "c": Pair(torch.ones(1), 3),
        "d": (torch.ones(1), None),
        "e": collections.UserDict(x=torch.ones(1)),
    }
    got = moved(value, "meta")
    found = [got["a"], got["b"][0], got["c"].left, got["d"][0], got["e"]["x"]]
    assert [tensor.device.type for tensor in found] == ["meta"] * 5
    assert (got["b"][1], got["c"].right, got["d"][1]) == ("text", 3, None)
    assert isinstance(got["c"], Pair)
    assert value["a"].device.type == "cpu"
