"""Sources answer once for all their students, in the view that is theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gapkit.plans import Stage
from gapkit.training import sources as room
from tests.training_fixtures import (
    KL4,
    furthest,
    make_trainings,
    noisy_net,
    point_data,
    points,
    same,
    sharp_teacher,
)


def student(**fields):
    return Stage(
        **({"name": "student", "size": 2, "sources": ("teacher",), "phases": KL4} | fields)
    )


# Once


def test_train_scores_of_a_large_split_come_from_a_sample(tmp_path, monkeypatch):
    whole = make_trainings(tmp_path / "whole").arm((16, 4), "kl4", 0)
    monkeypatch.setattr(room, "TRAIN_SAMPLES", 10)
    trainings = make_trainings(tmp_path / "some")
    some = trainings.arm((16, 4), "kl4", 0)
    assert some.weights_sha256 == whole.weights_sha256
    rows = np.sort(np.random.default_rng(0).choice(40, 10, replace=False))
    x, y = points(40, 1)
    with torch.no_grad():
        answers = trainings.model(some)(x[rows]).argmax(1)
        taught = sharp_teacher()(x[rows]).argmax(1)
    assert some.train_score == pytest.approx((answers == y[rows]).double().mean().item())
    assert some.train_agreement == pytest.approx((answers == taught).double().mean().item())
    assert some.score == whole.score


def test_a_source_answers_once_for_all_its_students(tmp_path):
    teacher, calls = sharp_teacher(), []
    teacher.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    trainings = make_trainings(tmp_path, teacher=teacher)
    trainings.arm((16, 2), "kl4", 0)
    after_one = list(calls)
    trainings.arm((16, 2), "kl4", 1)
    assert [n for n in after_one if n > 1] == [40, 30]
    assert [n for n in calls if n > 1] == [40, 30]  # the rest: one sample, for its FLOPs


def test_the_teachers_view_is_the_teachers_alone(tmp_path):
    """An assistant, of the family, is shown what the student is shown."""
    views = {"teacher_input": lambda raw: raw[0] * 2, "student_input": lambda raw: raw[0]}
    trainings = make_trainings(tmp_path, point_data(**views))
    middle = trainings.arm((16, 8), "kl4", 0)
    x, _ = points(40, 1)
    assert torch.allclose(
        trainings.sources.outputs("teacher", "train"), sharp_teacher()(2 * x), atol=1e-5
    )
    expected = trainings.model(middle)(x)
    assert torch.allclose(trainings.sources.outputs(middle.key, "train"), expected, atol=1e-5)


def test_cached_and_augmented_trainings_agree(tmp_path):
    kept = make_trainings(tmp_path / "kept", build=noisy_net)
    seen = make_trainings(tmp_path / "seen", point_data(augment=same), build=noisy_net)
    first, second = (found.arm((16, 8, 4), "kl4", 0) for found in (kept, seen))
    assert furthest(kept.model(first), seen.model(second)) < 1e-5
    assert first.score == second.score


def test_checkpoints_are_counted_and_teach(tmp_path):
    trainings = make_trainings(tmp_path)
    assert trainings.sources.n_checkpoints == 0
    trainings.lend("checkpoint:0", sharp_teacher(9))
    trainings.lend("checkpoint:1", sharp_teacher(10))
    assert trainings.sources.n_checkpoints == 2
    found = [
        trainings.stage(student(), 0, (name,))
        for name in ("teacher", "checkpoint:0", "checkpoint:1")
    ]
    assert len({training.weights_sha256 for training in found}) == 3
    assert {training.path for training in found} == {(16, 2)}
