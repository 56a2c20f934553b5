"""A family builds fresh models of known sizes and says what each costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.family import Family, activation_bytes, count_flops, count_parameters, seconds_of


def build(width):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def parameters_of(width):
    return 4 * width + width + 2 * width + 2


@pytest.fixture
def family():
    return Family(build, sizes=[1, 3, 6, 12], student=3, teacher=12)


def test_parameters_are_counted_by_hand(family):
    assert [family.parameters(size) for size in family.sizes] == [
        parameters_of(size) for size in (1, 3, 6, 12)
    ]
    assert family.parameters("6") == parameters_of(6)


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    assert count_parameters(model) == 18
    model[1].weight = model[0].weight
    assert count_parameters(model) == 9


def test_assistants_lie_between_student_and_teacher_largest_first():
    assert Family(build, [1, 3, 6, 12], student=1, teacher=12).assistants == (6, 3)
    assert Family(build, [1, 3, 6, 12], student=3, teacher=6).assistants == ()
    assert Family(build, [1, 3, 6, 12], student=3).assistants == (12, 6)  # teacher of another kind
    assert Family(build, [1, 3], student=3, teacher=3).assistants == ()


def test_the_next_size_up(family):
    assert family.next_size_up == 6
    assert Family(build, [1, 3], student=3).next_size_up is None


def test_the_student_defaults_to_the_smallest():
    assert Family(build, ["small", "large"]).student == "small"
    assert Family(build, ["small", "large"]).teacher is None


def test_a_size_read_from_text_is_the_size_itself(family):
    assert family.known("12") == 12
    assert isinstance(family.known("12"), int)
    with pytest.raises(InputError, match="known size of the family but got '13'; nearest: "):
        family.known(13)


def test_the_seed_decides_the_weights_and_nothing_outside():
    family = Family(build, [1, 3])
    before = torch.get_rng_state()
    first, again, other = (family.fresh(3, seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"sizes": []}, "one or more distinct sizes"),
        ({"sizes": [1, 1]}, "distinct sizes"),
        ({"sizes": [1, 3], "student": 2}, "known size of the family but got '2'"),
        ({"sizes": [1, 3], "teacher": 9}, "known size of the family but got '9'"),
    ],
)
def test_families_that_cannot_be_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        Family(build, **arguments)


def test_sizes_out_of_order_and_builders_of_no_module_are_refused():
    with pytest.raises(InputError, match="small to large by parameters but got 3: 23, 1: 9"):
        Family(build, [3, 1]).parameters(1)
    with pytest.raises(InputError, match=r"Expected build\(1\) to return an nn.Module but got str"):
        Family(lambda size: "model", [1]).fresh(1, 0)


def test_flops_of_linear_and_convolution_are_two_per_multiply_add():
    assert count_flops(build(3), torch.ones(5, 4)) == 2 * 5 * (4 * 3 + 3 * 2)
    convolution = nn.Conv2d(2, 3, 3, padding=1)
    assert count_flops(convolution, torch.ones(5, 2, 8, 8)) == 2 * 5 * 8 * 8 * (2 * 3 * 9)


def test_flops_of_attention_are_seen():
    """The fused paths hide their products from the counter; these are the ones of the formula."""
    n, tokens, width = 2, 6, 8
    layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16, batch_first=True)
    projections = 2 * n * tokens * width * (3 * width + width)
    products = 2 * 2 * n * tokens * tokens * width
    feed_forward = 2 * 2 * n * tokens * width * 16
    got = count_flops(layer, torch.ones(n, tokens, width))
    assert got == projections + products + feed_forward


def test_counting_leaves_the_model_and_switches_as_they_were():
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.Dropout())
    model[0].weight.requires_grad_(False)
    fast, before = torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state()
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model, torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0)))
    activation_bytes(model, torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert model[1].training
    assert [weight.requires_grad for weight in model.parameters()] == [False, True, True, True]
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(TypeError):
        count_flops(model, {"no": torch.ones(1)})
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled() is fast


def test_activations_are_the_inputs_that_backward_needs():
    """Linear keeps its input; ReLU keeps its output, which the next Linear shares."""
    n, width = 5, 3
    kept = 4 * (n * 4 + n * width)
    assert activation_bytes(build(width), torch.ones(n, 4)) == kept
    assert activation_bytes(build(width), torch.ones(2 * n, 4)) == 2 * kept
    with torch.no_grad():
        assert activation_bytes(build(width), torch.ones(n, 4)) == kept


def test_seconds_are_the_median_after_a_warm_up(monkeypatch):
    clock = iter([0, 1, 10, 13, 20, 22])  # three calls of 1, 3 and 2 seconds
    monkeypatch.setattr("gapkit.family.time.perf_counter", lambda: next(clock))
    calls = []
    assert seconds_of(lambda: calls.append(1), repeats=3) == 2
    assert len(calls) == 4
