"""Prices count the work of a training by hand, and leave no trace of having been taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.family import Family
from gapkit.plans import Cost
from gapkit.recipe import Recipe
from gapkit.runs import Run
from gapkit.task import Classification
from gapkit.training.answers import Source
from gapkit.training.prices import Prices, measure_prices, training_flops
from tests.training_fixtures import (
    N_CLASSES,
    N_FEATURES,
    noisy_net,
    plain,
    point_data,
    point_family,
    random_states,
    same,
    shaken,
    sharp_teacher,
    state,
)

TASK = Classification()


def linear(width):
    return nn.Linear(N_FEATURES, N_CLASSES, bias=width > 1)


def priced(data=None, family=None, teacher=None, **recipe):
    settings = {"epochs": 3, "batch_size": 8} | recipe
    return measure_prices(
        TASK,
        point_data() if data is None else data,
        point_family() if family is None else family,
        Recipe(**settings),
        sharp_teacher() if teacher is None else teacher,
    )


@pytest.mark.parametrize("augment, teacher_passes", [(None, 1), (same, 7)])
def test_flops_of_a_linear_model_by_hand(augment, teacher_passes):
    data = point_data(augment=augment)
    source = Source("teacher", (16,), plain(10), "teacher")
    one = 2 * N_FEATURES * N_CLASSES
    teacher = 2 * (N_FEATURES * 10 + 10 * N_CLASSES)
    assert training_flops(data, linear(1), [], 7) == 3 * one * 40 * 7
    assert (
        training_flops(data, linear(1), [source], 7)
        == 3 * one * 40 * 7 + teacher * 40 * teacher_passes
    )
    twice = training_flops(data, linear(1), [source, source], 7)
    assert twice == 3 * one * 40 * 7 + 2 * teacher * 40 * teacher_passes


def test_flops_are_counted_on_each_models_own_view():
    data = point_data(
        teacher_input=lambda raw: raw[0].repeat(1, 2), student_input=lambda raw: raw[0][:, :2]
    )
    teacher, student = nn.Linear(12, 3), nn.Linear(2, 3)
    assistant = Source("key", (16,), nn.Linear(2, 3), "student")
    sources = [Source("teacher", (16,), teacher, "teacher"), assistant]
    assert training_flops(data, student, sources, 2) == 40 * (
        3 * 2 * 2 * 3 * 2 + 2 * 12 * 3 + 2 * 2 * 3
    )


def test_flops_are_counted_where_each_model_is():
    """The teacher may be on another device than the fresh student."""
    source = Source("teacher", (16,), plain(10).to("meta"), "teacher")
    expected = training_flops(
        point_data(), linear(1), [Source("t", (16,), plain(10), "teacher")], 2
    )
    assert training_flops(point_data(), linear(1), [source], 2) == expected


def test_the_student_is_the_unit_and_larger_sizes_take_more():
    family = Family(plain, sizes=[2, 4, 8, 16], student=4, teacher=16)
    prices = priced(family=family)
    assert prices.of(4).student_trainings == 1.0
    assert prices.trainings(4, 2.5) == 2.5
    assert set(prices.costs) == {"2", "4", "8", "16"}
    flops = [prices.of(size).flops for size in family.sizes]
    assert flops == sorted(flops)
    assert flops[0] == 40 * (3 * 2 * 2 * 9 * 3 + 2 * 16 * 9)
    assert {cost.unit_from for cost in prices.costs.values()} == {"seconds"}
    for size in family.sizes:
        cost = prices.of(size)
        assert cost.seconds > 0
        assert cost.student_trainings == pytest.approx(
            cost.seconds / prices.of(4).seconds, abs=5e-4
        )


def test_where_the_clock_stands_still_flops_are_the_unit(monkeypatch):
    monkeypatch.setattr("gapkit.training.prices.time.perf_counter", lambda: 1.0)
    prices = priced()
    assert {cost.unit_from for cost in prices.costs.values()} == {"FLOPs"}
    assert prices.trainings(2) == 1.0
    assert prices.trainings(16) == pytest.approx(prices.of(16).flops / prices.of(2).flops, abs=5e-4)
    assert prices.trainings(16) > 2


def test_seconds_are_those_of_all_steps(monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr("gapkit.training.prices.time.perf_counter", lambda: 0.5 * next(ticks))
    prices = priced(epochs=3, batch_size=8)
    assert prices.of(16).seconds == 0.5 * 3 * 5
    assert prices.of(2, fraction=2.0).seconds == 0.5 * 3 * 5 * 2
    assert prices.of(2, fraction=0.5).memory_bytes == prices.of(2).memory_bytes


def test_memory_counts_weights_optimizer_activations_and_the_teacher():
    data, teacher = point_data(), sharp_teacher()
    prices = priced(data, teacher=teacher)

    def weights(width):
        return N_FEATURES * width + width + width * N_CLASSES + N_CLASSES

    def activations(width):  # the input, and the ReLU's output, which the last layer keeps too
        return 4 * 8 * (N_FEATURES + width)

    for width in (2, 16):
        known = 4 * 4 * weights(width) + 4 * weights(16)
        assert prices.of(width).memory_bytes == known + activations(width)


def test_a_batch_is_no_larger_than_the_split(monkeypatch):
    sizes = []
    teacher = sharp_teacher()
    student = plain(2)
    student.register_forward_hook(
        lambda m, args, out: sizes.append(len(out)) if m.training else None
    )
    family = Family(lambda size: student if size == 2 else plain(size), [2, 16], teacher=16)
    monkeypatch.setattr(family, "fresh", lambda size, seed: family.build(size))
    priced(family=family, teacher=teacher, batch_size=512)
    assert set(sizes) == {40}
    assert len(sizes) == 12 + 1  # the warm-up steps, and one pass for its memory


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_a_training_of_a_single_step_has_a_price(schedule):
    prices = priced(epochs=1, batch_size=40, schedule=schedule)
    assert prices.of(2).seconds > 0


@pytest.mark.parametrize("augment", [None, shaken])
def test_pricing_leaves_the_teacher_and_random_states_alone(augment):
    teacher = sharp_teacher(build=noisy_net).train()
    teacher[3].eval()
    teacher[0].weight.requires_grad_(False)
    before, modes = state(teacher), [module.training for module in teacher.modules()]
    states = random_states()
    priced(point_data(augment=augment), point_family(noisy_net), teacher)
    assert random_states() == states
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in state(teacher).items())
    assert [weight.requires_grad for weight in teacher.parameters()] == [
        False,
        True,
        True,
        True,
        True,
    ]
    assert all(weight.grad is None for weight in teacher.parameters())


def test_pricing_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    priced()
    assert list(tmp_path.iterdir()) == []


def test_an_unpriced_size_is_refused():
    prices = Prices(costs={"2": Cost(student_trainings=1.0), "16": Cost(student_trainings=3.0)})
    assert prices.trainings("16") == prices.trainings(16) == 3.0
    with pytest.raises(
        InputError, match=r"known priced size but got '12'; nearest: .*; known: '2', '16'"
    ):
        prices.of(12)


def test_prices_come_back_from_disk(tmp_path):
    run, prices = Run(tmp_path), priced()
    run.open({"study": "points"})
    run.save("prices", prices)
    assert run.load("prices", Prices) == prices
