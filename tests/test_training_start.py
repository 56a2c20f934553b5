"""A model starts from weights that fit, and stages whose outputs do not fit are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.plans import Stage
from tests.training_fixtures import (
    KL4,
    LABELS,
    N_FEATURES,
    furthest,
    make_trainings,
    plain,
    point_data,
    same,
    seeded_model,
    sharp_teacher,
)


def student(**fields):
    return Stage(
        **({"name": "student", "size": 2, "sources": ("teacher",), "phases": KL4} | fields)
    )


# Once


def test_a_student_may_start_from_the_failing_one(tmp_path):
    trainings = make_trainings(tmp_path)
    stage = student(init="student", recipe={"lr": 1e-9, "weight_decay": 0.0})
    with pytest.raises(InputError, match=r"a model to start stage 'student' from \(student\)"):
        trainings.stage(stage, 0, ("teacher",))
    trainings.student = seeded_model(plain, 2, 33)
    model = trainings.model(trainings.stage(stage, 0, ("teacher",)))
    assert furthest(model, trainings.student) < 1e-6
    assert furthest(model, trainings.family.fresh(2, 0)) > 0.01


def test_a_model_may_inherit_from_its_source(tmp_path):
    trainings = make_trainings(tmp_path)
    before = {name: tensor.clone() for name, tensor in sharp_teacher().state_dict().items()}
    stage = student(size=16, init="inherit", recipe={"lr": 0.1})
    heir = trainings.model(trainings.stage(stage, 0, ("teacher",)))
    still = student(size=16, init="inherit", recipe={"lr": 1e-9, "weight_decay": 0.0})
    assert (
        furthest(trainings.model(trainings.stage(still, 0, ("teacher",))), sharp_teacher()) < 1e-6
    )
    assert furthest(heir, sharp_teacher()) > 0.01  # it trained, and its source did not
    given = trainings.sources["teacher"].model.state_dict()
    assert all(torch.equal(before[name], given[name]) for name in before)


def test_a_shallower_model_inherits_the_layers_it_shares(tmp_path):
    trainings = make_trainings(tmp_path)
    deeper = nn.Sequential(*plain(2), nn.Linear(3, 3))
    trainings.lend("checkpoint:0", deeper)
    stage = student(
        sources=("checkpoint:0",), init="inherit", recipe={"lr": 1e-9, "weight_decay": 0.0}
    )
    heir = trainings.model(trainings.stage(stage, 0, ("checkpoint:0",)))
    assert furthest(heir, deeper[:3]) < 1e-6


def test_a_narrower_model_inherits_slices_and_says_so(tmp_path):
    trainings = make_trainings(tmp_path)
    still = student(init="inherit", recipe={"lr": 1e-9, "weight_decay": 0.0})
    training = trainings.stage(still, 0, ("teacher",))
    assert training.notes == ("inherited 4 of 4 tensors (3 sliced)",)
    model, teacher = trainings.model(training), sharp_teacher()
    assert torch.allclose(model[0].weight, teacher[0].weight[:2], atol=1e-6)
    assert torch.allclose(model[2].weight, teacher[2].weight[:, :2], atol=1e-6)


def test_other_shapes_are_refused(tmp_path):
    trainings = make_trainings(tmp_path)
    trainings.student = plain(4)
    with pytest.raises(
        InputError, match=r"from \(student\) but 3 of 4 differ, first '0.weight'"
    ) as error:
        trainings.stage(student(init="student"), 0, ("teacher",))
    assert "\n" not in str(error.value)


# Refusals


def test_different_class_counts_are_refused_in_one_line(tmp_path, sizes_trained):
    teacher = nn.Linear(N_FEATURES, 5)
    for augment in (None, same):
        trainings = make_trainings(tmp_path, point_data(augment=augment), teacher=teacher)
        with pytest.raises(
            InputError, match=r"'teacher' gives \(5,\) and size 2 gives \(3,\)"
        ) as error:
            trainings.arm((16, 2), "kl4", 0)
        assert "\n" not in str(error.value)
    assert sizes_trained == []
    assert trainings.stage(student(sources=(), phases=LABELS), 0, ()).path == (2,)
