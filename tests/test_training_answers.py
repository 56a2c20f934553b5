"""Answers come sample by sample in the asked order, and the model that gave them is as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from gapkit import hints
from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.knowledge import Knowledge
from gapkit.task import Classification
from gapkit.training.answers import Memory, Source, answers, feature_names, predict
from tests.training_fixtures import noisy_net, point_data, points, random_states, sharp_teacher

TASK = Classification()
DATA = point_data()
X, _ = points(50, 3)  # test


def source(model, sees="teacher"):
    return Source("teacher", (16,), model, sees)


def gathered(model, names=(), data=DATA, **how):
    """(positions, name -> all rows) of test."""
    found = list(answers(source(model), data, "test", TASK, "cpu", names, **how))
    rows = {name: torch.cat([part[name] for _, part in found]) for name in found[0][1]}
    return np.concatenate([positions for positions, _ in found]), rows


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def small(width=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, width, 1), nn.Flatten(), nn.Linear(6 * width, 3)
    )


# Rows


def test_outputs_and_features_come_in_the_splits_order():
    model = sharp_teacher()
    positions, rows = gathered(model, ["features/1"], batch_size=7)
    assert positions.tolist() == list(range(50))
    assert list(rows) == ["outputs", "features/1"]
    with torch.no_grad():
        assert torch.allclose(rows["outputs"], model(X), atol=1e-6)
        assert torch.allclose(rows["features/1"], model[:2](X), atol=1e-6)
    assert not any(tensor.requires_grad for tensor in rows.values())


def test_features_are_whole_or_one_vector_a_sample():
    model = small()
    _, rows = gathered(model, ["features/1", "pooled/1"])
    with torch.no_grad():
        maps = model[:2](X)
    assert rows["features/1"].shape == (50, 3, 2, 3)
    assert torch.allclose(rows["features/1"], maps, atol=1e-6)
    means = torch.stack([maps[:, :, i, j] for i in range(2) for j in range(3)]).mean(0)
    assert torch.allclose(rows["pooled/1"], means, atol=1e-6)
    assert means.std() > 0.1


def test_some_positions_come_in_their_order():
    model, some = sharp_teacher(), np.array([40, 3, 3, 17])
    positions, rows = gathered(model, positions=some, batch_size=3)
    assert positions.tolist() == [40, 3, 3, 17]
    assert torch.allclose(rows["outputs"], model(X[some]), atol=1e-6)


def test_vectors_of_tokens_leave_padding_out():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 4)

        def forward(self, input_ids, attention_mask):
            return self.embed(input_ids)[:, 0]

    torch.manual_seed(0)
    ids = torch.randint(20, (10, 5))
    kept = torch.arange(5) < 1 + torch.arange(10)[:, None] % 5
    rows = [
        {"input_ids": row, "attention_mask": mask.long(), "labels": 0}
        for row, mask in zip(ids, kept)
    ]
    model, data = Tokens(), Data(train=rows, test=rows, validation=rows)
    _, found = gathered(model, ["pooled/embed"], data=data, batch_size=3)
    means = torch.stack([model.embed(row[mask]).mean(0) for row, mask in zip(ids, kept)])
    assert torch.allclose(found["pooled/embed"], means, atol=1e-6)


def test_each_model_sees_its_own_view():
    data = point_data(teacher_input=lambda raw: 2 * raw[0], student_input=lambda raw: raw[0] - 1)
    model = sharp_teacher()
    for sees, view in (("teacher", 2 * X), ("student", X - 1)):
        parts = answers(source(model, sees), data, "test", TASK, "cpu")
        outputs = torch.cat([rows["outputs"] for _, rows in parts])
        assert torch.allclose(outputs, model(view), atol=1e-6)


def test_a_batch_goes_to_the_device_and_the_answer_comes_back():
    seen = []
    model = sharp_teacher()
    owners = model.register_forward_pre_hook(lambda _, args: seen.append(args[0].device.type))
    # Weights on "meta" compute nothing, which is enough to see where a batch went.
    with pytest.raises(NotImplementedError, match="meta tensor"):
        next(answers(source(model.to("meta")), DATA, "test", TASK, "meta"))
    assert seen == ["meta"]
    owners.remove()
    assert gathered(sharp_teacher())[1]["outputs"].device.type == "cpu"


def test_an_unknown_layer_is_refused_before_anything_runs():
    model = sharp_teacher().train()
    with pytest.raises(InputError, match="known layer of the teacher but got '11'; nearest: '1'"):
        gathered(model, ["features/11"])
    assert model.training
    assert hooks(model) == 0


# Guests


def frozen_in_part():
    model = sharp_teacher(build=noisy_net).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def assert_untouched(model):
    assert [module.training for module in model] == [True, False, True, True, True]
    assert [weight.requires_grad for weight in model.parameters()] == [False, *[True] * 4]
    assert all(weight.grad is None for weight in model.parameters())
    assert hooks(model) == 0


def test_the_model_is_as_it_was():
    model, drawn = frozen_in_part(), random_states()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, rows = gathered(model, ["features/2"])
    assert random_states() == drawn
    assert_untouched(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.allclose(rows["outputs"], model.eval()(X), atol=1e-6)  # as in eval mode


def test_the_model_is_as_it_was_when_nobody_listens_to_the_end():
    model, drawn = frozen_in_part(), random_states()
    listening = answers(source(model), DATA, "test", TASK, "cpu", ["features/2"], batch_size=7)
    next(listening)
    assert not model.training
    listening.close()
    assert_untouched(model)
    assert random_states() == drawn


def test_the_model_is_as_it_was_after_an_exception():
    model, drawn = frozen_in_part(), random_states()
    broken = model[4].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gathered(model, ["features/2"])
    broken.remove()
    assert_untouched(model)
    assert random_states() == drawn


def test_whoever_listens_may_want_gradients():
    weight = torch.ones(3, requires_grad=True)
    for _, rows in answers(source(sharp_teacher()), DATA, "test", TASK, "cpu", batch_size=20):
        assert torch.is_grad_enabled()
        (rows["outputs"] @ weight).sum().backward()
    assert weight.grad.abs().sum() > 0


# predict


def test_predicting_is_the_plain_loop():
    model = sharp_teacher(build=noisy_net)
    outputs = []
    with torch.no_grad():
        for start in range(0, 50, 9):
            outputs.append(model(X[start : start + 9]))
    found = predict(model, DATA, "test", TASK, batch_size=9)
    assert torch.equal(found, torch.cat(outputs))
    assert found.std() > 0.1
    assert predict(model.double(), point_data_in_double(), "test", TASK).dtype == torch.float32


def point_data_in_double():
    return point_data(student_input=lambda raw: raw[0].double())


def test_what_draws_at_random_draws_alike_each_time():
    class Drawing(nn.Module):
        def forward(self, x):
            return x[:, :3] + torch.rand(3) + float(np.random.rand()) + random.random()

    first, drawn = predict(Drawing(), DATA, "test", TASK, batch_size=10), random_states()
    again = predict(Drawing(), DATA, "test", TASK, batch_size=10)
    assert torch.equal(first, again)
    assert random_states() == drawn
    shifts = (first - X[:, :3])[::10, 0]
    assert len(set(shifts.tolist())) == 5  # batches draw one after the other


# What is kept


def test_kept_answers_are_looked_up_by_position():
    table = {"outputs": torch.arange(12.0).view(6, 2), "pooled/1": torch.arange(6)}
    rows = Memory(table).rows(np.array([5, 0, 5]))
    assert rows["outputs"].tolist() == [[10, 11], [0, 1], [10, 11]]
    assert rows["pooled/1"].tolist() == [5, 0, 5]


def test_vectors_are_enough_where_only_they_count():
    pooled = hints({("a", "x"): "hint", ("b", "y"): "hint"}, pool=True)
    whole = hints({("c", "y"): "attention"})
    assert feature_names(pooled) == ("pooled/x", "pooled/y")
    assert feature_names((*pooled, *whole)) == ("pooled/x", "features/y")
    assert feature_names((*whole, *pooled)) == ("features/y", "pooled/x")
    assert feature_names((Knowledge(kind="response", loss="kl"),)) == ()
