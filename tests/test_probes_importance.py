"""Importance: hand-made networks whose layers matter by design, conductance against its completeness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.measurement import Measurement
from gapkit.probes.importance import (
    importance_weights,
    layer_conductance,
    layer_importance,
    measured_importance,
)
from gapkit.probes.probe import Setting
from gapkit.probes.question import Question
from gapkit.task import Classification


class Kind(Classification):
    """Reads outputs as they are, of another kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


class Branches(nn.Module):
    """Adds what two linear branches say, each with its own weight; in-place layers after the taps."""

    def __init__(self, left: float, right: float) -> None:
        super().__init__()
        self.left, self.right = nn.Identity(), nn.Identity()
        self.scales, self.act = (left, right), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.left(x.clone()), self.right(x.clone())
        return self.scales[0] * self.act(left) + self.scales[1] * self.act(right)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chain(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 16)]
    net = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Linear(16, 3))
    with torch.no_grad():
        net[-1].weight *= 8
    return net


def test_a_branch_that_is_not_used_has_no_importance():
    lost = layer_importance(Branches(9, 0), drawn(50, 4), ["left", "right"], Classification())
    assert lost["left"].mean() > 0.2
    assert not lost["right"].any()
    both = layer_importance(Branches(9, 1), drawn(50, 4), ["left", "right"], Classification())
    assert both["left"].mean() > 4 * both["right"].mean() > 0


def test_regression_loses_the_share_of_variance_that_is_silenced():
    """y = Σ w_i x_i: silencing a set of units loses Σ w_i² (x_i - mean)² of them; half loses half of it."""
    weight = torch.tensor([[3.0], [1.0], [0.0], [0.0], [0.0], [0.0]])
    net = nn.Sequential(nn.Identity(), nn.Linear(6, 1, bias=False))
    net[1].weight = nn.Parameter(weight.T.clone())
    x = drawn(400, 6)
    x = torch.linalg.qr(x - x.mean(0)).Q * 20  # columns without mean or correlation
    lost = layer_importance(net, x, ["0"], Kind("regression"), seed=3)["0"]
    variance = (x @ weight).square().mean()
    own = [(w * x[:, i]).square() / variance for i, w in enumerate(weight[:, 0])]
    cross = 2 * 3 * x[:, 0] * x[:, 1] / variance
    alike, apart = (own[0] + own[1] + cross) / 2, (own[0] + own[1]) / 2  # in one half, or in two
    near = np.minimum(np.abs(lost - alike.numpy()), np.abs(lost - apart.numpy()))
    assert near.max() < 1e-5
    assert lost.mean() == pytest.approx(0.5, abs=0.05)


def test_every_sample_loses_both_halves_and_seeds_choose_them():
    net, x = chain().eval(), drawn(40, 6)
    first, again = (layer_importance(net, x, ["1", "3"], Classification(), seed=1) for _ in "ab")
    other = layer_importance(net, x, ["1", "3"], Classification(), seed=2)
    assert list(first) == ["1", "3"]
    assert all(np.array_equal(first[layer], again[layer]) for layer in first)
    assert not np.array_equal(first["1"], other["1"])
    assert first["1"].shape == (40,)
    assert first["1"].mean() == pytest.approx(other["1"].mean(), abs=0.15)


def test_a_single_unit_is_silenced_once_in_two_passes():
    """With one unit, one half is empty: the loss is half of silencing the layer."""
    net = nn.Sequential(nn.Identity(), nn.Linear(1, 2, bias=False))
    net[1].weight = nn.Parameter(torch.tensor([[4.0], [-4.0]]))
    x = drawn(30, 1)
    lost = layer_importance(net, x, ["0"], Classification())["0"]
    with torch.no_grad():
        before, after = net(x).softmax(1), net(x.mean(0, keepdim=True)).softmax(1)
    named = before.argmax(1)
    fall = before.gather(1, named[:, None])[:, 0] - after[0, named]
    assert fall.abs().max() > 0.1
    assert lost == pytest.approx(fall.numpy() / 2, abs=1e-6)


@pytest.mark.parametrize("kind", ["multilabel", "embedding", "regression", "classification"])
def test_losses_of_every_kind_have_their_range(kind):
    lost = layer_importance(chain().eval(), drawn(60, 6), ["0", "3"], Kind(kind))
    for values in lost.values():
        assert values.mean() > 0.005
        assert np.abs(values).max() <= (2 if kind == "embedding" else math.inf)
        if kind in ("multilabel", "classification"):
            assert np.abs(values).max() <= 1


def test_layers_called_twice_shaped_as_maps_or_in_tuples():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.act = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()
            self.rnn = nn.GRU(4, 5, batch_first=True)
            self.wrap = self.Dict()
            self.head = nn.Linear(5, 3)

        class Dict(nn.Module):
            def forward(self, x: torch.Tensor) -> dict[str, Any]:
                return {"none": None, "hidden": [x, 1]}

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            maps = self.act(self.conv(self.act(x)))
            steps, _ = self.rnn(maps.mean(2).transpose(1, 2))
            return {"logits": self.head(self.wrap(steps)["hidden"][0].mean(1))}

    layers = ["act#1", "act#2", "rnn", "wrap", "head"]
    found = layer_importance(Odd().eval(), drawn(40, 1, 6, 6), layers, Kind("regression"))
    assert list(found) == layers[:4]
    assert min(values.mean() for values in found.values()) > 0.02
    assert len({round(values.mean(), 6) for values in found.values()}) == 4


def test_a_layer_that_shows_the_answer_is_left_out():
    net = chain().eval()
    assert list(layer_importance(net, drawn(20, 6), ["3", "4"], Classification())) == ["3"]
    setting = Setting(Classification(), net, net, None, None, seed=7)
    lost = {"3": np.array([0.1, 0.3])}
    found = list(measured_importance("test", ["3", "4"], lost, setting))
    assert found[0].value == pytest.approx(0.2)
    assert (found[0].of, found[0].unit, found[0].layer) == ("teacher", "probability", "3")
    assert (found[0].seed, found[0].n) == (7, 2)
    assert found[0].low < 0.2 < found[0].high
    assert found[1].reason == "the layer shows the answer itself"


def test_the_model_is_left_as_it_was_also_after_an_exception():
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = nn.Linear(3, 3), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("third call")
            return self.inner(x) + 1

    net = Fragile().train()
    with pytest.raises(RuntimeError, match="third call"):
        layer_importance(net, drawn(9, 3), ["inner"], Classification())
    assert net.training
    assert not net.inner._forward_hooks
    assert net.inner.weight.requires_grad
    assert net.inner.weight.grad is None


def test_low_precision_models_keep_their_type():
    net = chain().eval()
    full = layer_importance(net, drawn(60, 6), ["1"], Classification())["1"].mean()
    half = net.bfloat16()
    lost = layer_importance(half, drawn(60, 6).bfloat16(), ["1"], Classification())["1"]
    assert lost.mean() == pytest.approx(full, abs=0.02)


def test_conductance_adds_up_to_the_change_of_the_answer_at_every_layer_of_a_chain():
    net, x = chain().eval(), drawn(12, 6)
    named = net(x).argmax(1)
    ask = Question(net, x, Classification(), named)
    fall = (ask(x) - ask(ask.baseline)).detach()
    assert fall.abs().min() > 0.01
    for place in (0, 2, 3):
        found = layer_conductance(ask, net[place], n_steps=200)
        assert found.shape == (12, 16)
        torch.testing.assert_close(
            found.sum(1), fall, atol=0.02 * fall.abs().max().item(), rtol=0.05
        )
    assert not any(module._forward_hooks for module in net.modules())
    assert all(part.grad is None for part in net.parameters())


def test_conductance_of_a_linear_layer_is_its_share():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    x = drawn(5, 3)
    ask = Question(net, x, Classification(), torch.ones(5).long())
    expected = net[1].weight[1] * net[0](x - x.mean(0))
    torch.testing.assert_close(layer_conductance(ask, net[0]), expected.detach())


def importance(layer: str, value: float, name: str = "layer_importance") -> Measurement:
    reason = "none" if math.isnan(value) else ""
    bounds = {"value": value, "low": value, "high": value, "reason": reason}
    return Measurement(name=name, of="teacher", split="test", layer=layer, **bounds)


def test_weights_are_shares_and_what_is_below_zero_weighs_nothing():
    given = [importance("a", 0.3), importance("b", 0.1), importance("c", -0.2)]
    given += [importance("d", math.nan), importance("a", 9.0, name="cka")]
    assert importance_weights(given) == pytest.approx({"a": 0.75, "b": 0.25, "c": 0, "d": 0})


@pytest.mark.parametrize("values", [[], [("a", 0.0), ("b", -1.0)], [("a", math.nan)]])
def test_weights_need_a_layer_that_matters(values):
    with pytest.raises(InputError, match="a layer of importance above 0"):
        importance_weights([importance(*item) for item in values])


def test_weights_are_of_one_split():
    with pytest.raises(InputError, match="one importance a layer but 'a' has two"):
        importance_weights([importance("a", 0.1), importance("a", 0.2)])
