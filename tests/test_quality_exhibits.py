"""Exhibits: real samples, and what speaks for the teacher's answer in each model."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.quality.exhibits import LARGEST, Exhibits, exhibit

WEIGHTS = torch.tensor([[2.0, 0.0, -1.0, 0.0], [-2.0, 0.0, 1.0, 0.5]])


def data(n: int = 40, shape: tuple[int, ...] = (4,)) -> gk.Data:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=draw)
    y = torch.arange(n) % 2
    return gk.Data(train=TensorDataset(x, y), test=TensorDataset(x + 0.1, y))


def linear(weight: torch.Tensor) -> nn.Module:
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight.data.copy_(weight)
    return model


def test_maps_of_linear_models_are_weight_times_distance_from_the_mean_sample():
    """The closed form of Integrated Gradients for a linear answer: w·(x − b)."""
    models = {"teacher": linear(WEIGHTS), "student": linear(-0.5 * WEIGHTS)}
    found = exhibit(gk.Classification(), data(), models)
    assert not found.reason
    assert 2 <= len(found.items) <= 4
    x = torch.stack([data()._datasets["test"][item.position][0] for item in found.items])
    for item, sample in zip(found.items, x):
        named = int((WEIGHTS @ sample).argmax())
        expected = (WEIGHTS[named] * (sample - x.mean(0))).numpy()
        np.testing.assert_allclose(item.maps["teacher"][0], expected, atol=1e-5)
        np.testing.assert_allclose(item.maps["student"][0], -0.5 * expected, atol=1e-5)
        np.testing.assert_allclose(item.picture[0], sample.numpy(), atol=1e-5)
        assert item.answers["teacher"].startswith(f"{named} (")
        assert item.label == str(item.position % 2)


def test_shown_first_is_where_the_models_differ_most_and_last_where_least():
    models = {"teacher": linear(WEIGHTS), "student": linear(-WEIGHTS)}
    found = exhibit(gk.Classification(), data(), models)
    x = data()._datasets["test"].tensors[0]
    apart = ((x @ WEIGHTS.T).softmax(1) - (-x @ WEIGHTS.T).softmax(1)).norm(dim=1).numpy()
    positions = [item.position for item in found.items]
    assert positions[0] == int(apart.argmax())
    assert positions[-1] == int(apart.argmin())
    assert len(set(positions)) == len(positions)


def test_models_stay_as_they_were_and_the_same_seed_shows_the_same():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)
    )
    models = {"teacher": net.train(), "student": copy.deepcopy(net)}
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    first = exhibit(gk.Classification(), data(shape=(1, 8, 8)), models, seed=3)
    assert exhibit(gk.Classification(), data(shape=(1, 8, 8)), models, seed=3) == first
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not net[1]._forward_hooks
    assert first.items[0].picture.shape == (8, 8)


def test_large_pictures_are_made_small():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    models = {"teacher": net, "student": net}
    found = exhibit(gk.Classification(), data(12, (3, 100, 70)), models)
    assert found.items[0].picture.shape == (LARGEST, LARGEST)
    assert found.items[0].maps["student"].shape == (LARGEST, LARGEST)


def test_words_are_never_kept():
    net = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(24, 2))
    ids = torch.randint(0, 20, (30, 6), generator=torch.Generator().manual_seed(0))
    texts = gk.Data(train=TensorDataset(ids, ids[:, 0] % 2), test=TensorDataset(ids, ids[:, 0] % 2))
    found = exhibit(gk.Classification(), texts, {"teacher": net, "student": net})
    assert found.items[0].picture.size == 0
    assert found.items[0].maps["teacher"].shape == (1, 6)


def test_what_cannot_be_attributed_is_a_reason_not_an_error():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 2)

    found = exhibit(gk.Classification(), data(), {"teacher": Constant(), "student": Constant()})
    assert found.items == ()
    assert "no gradient" in found.reason


def test_they_are_written_and_read_back_unchanged():
    models = {"teacher": linear(WEIGHTS), "student": linear(-WEIGHTS)}
    found = exhibit(gk.Classification(), data(), models)
    assert Exhibits.model_validate_json(found.model_dump_json()) == found
