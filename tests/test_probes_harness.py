"""Wrong class orders, stale statistics and foreign views are seen; healthy teachers show no gain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.errors import InputError
from gapkit.measurement import Curve, Measurement
from gapkit.probes.harness import (
    CAP,
    LEVEL,
    RESCALINGS,
    HarnessProbe,
    best_permutation,
    reordered_hits,
)
from gapkit.probes.probe import Observation, Seen, Setting

N, K = 200, 4


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(n: int = N, k: int = K) -> torch.Tensor:
    return torch.arange(n) % k


def logits(right: float, seed: int = 0, n: int = N, k: int = K) -> torch.Tensor:
    """Answers of which that share is right, the rest at random."""
    named = torch.where(
        torch.rand(n, generator=draw(seed)) < right,
        labels(n, k),
        torch.randint(k, (n,), generator=draw(seed + 1)),
    )
    return torch.eye(k)[named] * 5


@pytest.mark.parametrize("seed", range(5))
def test_the_best_permutation_is_the_best_of_all(seed):
    x, y = torch.randn(60, K, generator=draw(seed)), labels(60)
    best = max((x[:, list(p)].argmax(1) == y).sum() for p in itertools.permutations(range(K)))
    order = best_permutation(x, y)
    assert sorted(order) == list(range(K))
    assert (x[:, order].argmax(1) == y).sum() == best


def test_the_order_of_a_permuted_teacher_is_found_and_right_ones_stay():
    shuffled = [2, 0, 3, 1]
    order = best_permutation(logits(0.9)[:, shuffled], labels())
    assert np.array_equal(np.asarray(shuffled)[order], np.arange(K))
    assert best_permutation(logits(0.9), labels()).tolist() == [0, 1, 2, 3]
    assert best_permutation(logits(0.9, k=9), labels(k=9)).tolist() == list(range(9))
    rare = torch.zeros(6, dtype=torch.long)  # classes that never occur stay where they are
    assert best_permutation(torch.eye(5)[rare], rare).tolist() == [0, 1, 2, 3, 4]


def test_the_best_permutation_refuses_what_is_no_pair():
    with pytest.raises(InputError, match="as many labels"):
        best_permutation(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))


def test_reordering_gains_nothing_by_luck():
    """Answers at random: the order chosen on the same samples flatters, the other half's does not."""
    luck, fair = [], []
    for seed in range(60):
        x, y = logits(0.0, seed, k=8), labels(k=8)
        luck.append(float((x[:, best_permutation(x, y)].argmax(1) == y).double().mean()))
        fair.append(reordered_hits(x, y, seed=seed).mean())
    assert np.mean(luck) > 0.17
    assert np.mean(fair) == pytest.approx(1 / 8, abs=3 * np.std(fair) / np.sqrt(60))


def test_groups_stay_in_one_half():
    groups = np.arange(N) // 100
    x = logits(1.0)
    x[100:] = x[100:, [1, 0, 3, 2]]
    assert (
        reordered_hits(x, labels(), groups).mean() == 0.0
    )  # each group's order misleads the other


class Scaled(nn.Module):
    """A linear reading of four inputs behind batch statistics."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(K, affine=False), nn.Linear(K, K, bias=False)
        self.head.weight.data = torch.eye(K)
        self.norm.running_mean[0] = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x))


def found(teacher: nn.Module, task=None, **views) -> dict[str, Measurement | Curve]:
    """What the probe says of a teacher on validation."""
    y = labels()
    x = torch.eye(K)[y] + 0.2 * torch.randn(N, K, generator=draw(3))
    whole = TensorDataset(x, y)
    data = gk.Data(train=whole, test=whole, validation=whole, **views)
    own = data.teacher_view((x, y))
    with torch.no_grad():
        outputs = teacher.eval()(own)
    shown = Observation(outputs, (), {}, np.arange(N))
    seen = Seen("validation", shown, shown, None, y)
    setting = Setting(task or gk.Classification(), teacher, teacher, None, None, data=data)
    items = list(HarnessProbe().measure({"validation": seen}, setting))
    named = {item.name: item for item in items if item.name != "rescaled_gain"}
    return named | {item.group: item for item in items if item.name == "rescaled_gain"}


def test_a_healthy_teacher_gains_nothing():
    shown = found(Scaled())
    ways = {"permuted_accuracy", "permuted_gain", "class_order", "train_mode_gain"}
    assert set(shown) == ways | set(RESCALINGS)
    assert all(shown[how].low <= 0 for how in RESCALINGS)
    assert shown["permuted_accuracy"].value > 0.95
    for name in ("permuted_gain", "train_mode_gain"):
        assert shown[name].low < 0 < shown[name].high
        assert shown[name].level == pytest.approx(LEVEL)
    assert shown["class_order"].y.tolist() == [0, 1, 2, 3]


class Reader(nn.Module):
    """Reads a class where its input is within 0.5 of one, else says the first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = (x - 1).abs() < 0.8
        return near.float() + 0.1 * torch.eye(K)[0]


@pytest.mark.parametrize("factor, how", [(255.0, "divided by 255"), (1 / 255, "multiplied by 255")])
def test_inputs_on_another_scale_show(factor, how):
    scaled = found(Reader(), teacher_input=lambda batch: batch[0] * factor, student_input=None)
    gains = {name: scaled[name].value for name in RESCALINGS}
    assert max(gains, key=gains.get) == how
    assert scaled[how].low > 0.4
    assert scaled[how].level == pytest.approx(LEVEL)


def test_inputs_that_were_to_be_standardized_show():
    """A reader of positive inputs, given them shifted far up and stretched by channel."""
    stretched = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    teacher = nn.Linear(K, K, bias=False)
    teacher.weight.data = torch.eye(K)
    shown = found(teacher, teacher_input=lambda batch: stretched * (batch[0] + 5.0))
    assert shown["standardized"].low > 0.5


def test_inputs_that_are_no_real_numbers_are_not_rescaled():
    teacher = nn.Embedding(2, K)
    shown = found(teacher, teacher_input=lambda batch: batch[0][:, 0].long().clamp(0, 1))
    assert not set(shown) & set(RESCALINGS)


def test_permuted_classes_show():
    teacher = nn.Sequential(Scaled(), nn.Linear(K, K, bias=False))
    teacher[1].weight.data = torch.eye(K)[[1, 2, 3, 0]]
    shown = found(teacher)
    assert shown["permuted_gain"].low > 0.9
    order = shown["class_order"].y.astype(int)
    assert np.array_equal(np.array([1, 2, 3, 0])[order], np.arange(K))


def test_stale_statistics_show_and_are_left_as_they_were():
    teacher = Scaled(shift=5.0)
    before = {name: part.clone() for name, part in teacher.state_dict().items()}
    shown = found(teacher)
    assert shown["train_mode_gain"].low > 0.1
    assert shown["train_mode_gain"].n == min(N, CAP)
    assert not teacher.training
    for name, part in teacher.state_dict().items():
        assert torch.equal(part, before[name])


def test_the_students_view_shows():
    shown = found(
        nn.Linear(K, K, bias=False).requires_grad_(False),
        teacher_input=lambda batch: batch[0].flip(1),
        student_input=lambda batch: batch[0],
    )
    assert "train_mode_gain" not in shown  # no batch statistics, nothing to run again
    reader = nn.Linear(K, K, bias=False)
    reader.weight.data = torch.eye(K)
    shown = found(
        reader,
        teacher_input=lambda batch: batch[0].flip(1),
        student_input=lambda batch: batch[0],
    )
    assert shown["student_view_gain"].low > 0.9


def test_a_view_that_the_teacher_refuses_is_no_gain():
    reader = nn.Linear(K, K)
    shown = found(reader, student_input=lambda batch: batch[0][:, :2])
    assert np.isnan(shown["student_view_gain"].value)
    assert "raises RuntimeError" in shown["student_view_gain"].reason


def test_other_tasks_have_no_class_order():
    y = torch.rand(N, generator=draw(0))
    shown = Observation(y + 0.1, (), {}, np.arange(N))
    seen = {"validation": Seen("validation", shown, shown, None, y)}
    setting = Setting(gk.Regression(), nn.Identity(), nn.Identity(), None, None)
    assert not list(HarnessProbe().measure(seen, setting))
