"""Weights are read back as they were written, or not at all."""

from __future__ import annotations

import pytest
from torch import nn

from gapkit.errors import InputError
from gapkit.task import Classification
from gapkit.training.answers import predict
from tests.training_fixtures import (
    N_FEATURES,
    make_trainings,
    plain,
)


def test_changed_weights_are_refused(tmp_path):
    trainings = make_trainings(tmp_path)
    training = trainings.arm((16, 2), "kl4", 0)
    path = tmp_path / "trainings" / training.key / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = make_trainings(tmp_path)
    with pytest.raises(InputError, match=r"16 → 2 by kl4, seed 0.* missing or changed; delete"):
        again.model(training)
    with pytest.raises(InputError, match="missing or changed"):
        again.sources[training.key]


def test_deleted_weights_are_trained_again(tmp_path, sizes_trained):
    trainings = make_trainings(tmp_path)
    training = trainings.arm((16, 2), "kl4", 0)
    (tmp_path / "trainings" / training.key / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="missing or changed"):
        trainings.model(training)
    assert trainings.done((16, 2), "kl4", 0) is None
    assert trainings.arm((16, 2), "kl4", 0).weights_sha256 == training.weights_sha256
    assert sizes_trained == [2, 2]


def test_tied_weights_are_kept_and_read_back(tmp_path):
    def tied(width):
        model = nn.Sequential(
            nn.Linear(N_FEATURES, N_FEATURES),
            nn.Tanh(),
            nn.Linear(N_FEATURES, N_FEATURES),
            plain(width),
        )
        model[2].weight = model[0].weight
        return model

    trainings = make_trainings(tmp_path, build=tied)
    training = trainings.arm((16, 2), "kl4", 0)
    model = trainings.model(training)
    assert model[2].weight is model[0].weight
    outputs = predict(model, trainings.data, "validation", Classification())
    assert Classification().score(outputs, trainings.data.targets("validation")) == training.score


# Where a model starts
