"""Rehearsal: what is counted beforehand is what the whole pass does; nothing is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.probes import features
from gapkit.probes.rehearsal import rehearse
from gapkit.probes.survey import measure
from gapkit.task import Classification


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.fixture
def study():
    torch.manual_seed(0)
    x, y = torch.randn(400, 4), torch.arange(400) % 3
    data = Data(TensorDataset(x, y), TensorDataset(x[:90], y[:90]), TensorDataset(x[:60], y[:60]))
    models = {"teacher": net(8), "student": net(2), "untrained": net(2)}
    return {"task": Classification(), "data": data, "models": models}


def test_flops_are_those_of_every_forward_pass(study):
    passing = rehearse(**study)
    by_hand = 2 * (4 * 8 + 8 * 3) + 2 * 2 * (4 * 2 + 2 * 3)
    assert passing.flops == by_hand * 550
    assert passing.memory_bytes > 4 * (4 * 8 + 8 + 8 * 3 + 3)
    assert passing.seconds > 0


def test_the_sums_tried_out_are_those_of_the_whole(study, monkeypatch):
    chosen = []
    whole = features.start_sums

    def start(*dims, **keywords):
        chosen.append((keywords["n"], keywords["kept"]))
        return whole(*dims, **keywords)

    monkeypatch.setattr(features, "start_sums", start)
    rehearse(**study, batch_size=16)
    rehearsed = set(chosen)
    chosen.clear()
    named = {key: study[key] for key in ("task", "data")}
    measure(study="x", **named, **study["models"], probes=[])
    assert rehearsed == {(400, True)}
    assert (400, True) in chosen


def test_the_models_and_the_random_state_stay_as_they_were(study):
    before = {name: copy.deepcopy(model.state_dict()) for name, model in study["models"].items()}
    state = torch.get_rng_state()
    rehearse(**study)
    assert torch.equal(state, torch.get_rng_state())
    for name, model in study["models"].items():
        assert model.training
        assert not any(module._forward_hooks for module in model.modules())
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[name][key])


def test_what_does_not_fit_is_refused_as_when_measuring(study):
    with pytest.raises(InputError, match="nearest: '0'"):
        rehearse(**study, layers=["00"])
