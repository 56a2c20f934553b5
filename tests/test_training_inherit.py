"""Inheritance: the smaller model computes what the larger did once the units and blocks left out are silent."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gapkit.errors import InputError
from gapkit.training.inherit import inherit


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def take(giver: nn.Module, wanted: nn.Module):
    """What `wanted` inherits, loaded into it; both then evaluate."""
    inherited = inherit(giver.state_dict(), wanted.state_dict())
    wanted.load_state_dict(inherited.state)
    giver.eval()
    wanted.eval()
    return inherited


def same(given_by: torch.Tensor, got: torch.Tensor):
    assert given_by.std() > 0.01
    torch.testing.assert_close(got, given_by)


def widen(x: torch.Tensor, width: int) -> torch.Tensor:
    """The last dimension filled up with zeros."""
    return nn.functional.pad(x, (0, width - x.shape[-1]))


def fill(count: int, names: str = "blocks.{}.weight", shape=(2, 2)) -> dict[str, torch.Tensor]:
    """Numbered tensors, each filled with its number."""
    return {names.format(i): torch.full(shape, float(i)) for i in range(count)}


def numbers(state, names: str, count: int) -> list[float]:
    return [state[names.format(i)].flatten()[0].item() for i in range(count)]


# ---- width


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 3))


def test_an_mlp_whose_further_units_are_silent_keeps_its_function():
    giver, wanted, x = mlp(9), mlp(4), torch.randn(20, 5)
    giver(x)
    with torch.no_grad():
        giver[3].weight[:, 4:] = 0
    inherited = take(giver, wanted)
    same(giver(x), wanted(x))
    assert inherited.copied == ("1.num_batches_tracked", "3.bias")
    assert len(inherited.sliced) == 7
    assert not inherited.fresh
    assert inherited.state["1.num_batches_tracked"] == 1


def test_columns_of_a_flattened_map_follow_its_channels():
    def net(channels):
        conv = nn.Conv2d(3, channels, 3, padding=1)
        return nn.Sequential(
            conv, nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 16, 5)
        )

    giver, wanted, x = net(7), net(4), torch.randn(6, 3, 4, 4)
    giver(x)
    with torch.no_grad():
        giver[4].weight.unflatten(1, (7, 16))[:, 4:] = 0
    take(giver, wanted)
    same(giver(x), wanted(x))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=4))
def test_a_slice_is_the_leading_one(sizes):
    shape, larger = [size for size, _ in sizes], [size + extra for size, extra in sizes]
    giver = torch.arange(np.prod(larger), dtype=torch.float32).reshape(larger)
    inherited = inherit({"weight": giver}, {"weight": torch.full(shape, -1.0)})
    expected = giver.numpy()[tuple(slice(size) for size in shape)]
    np.testing.assert_array_equal(inherited.state["weight"].numpy(), expected)
    assert bool(inherited.sliced) == (shape != larger) != bool(inherited.copied)


# ---- stacked projections


def test_attention_takes_the_leading_heads_of_query_key_and_value():
    giver = nn.MultiheadAttention(8, 4, batch_first=True)
    wanted = nn.MultiheadAttention(4, 2, batch_first=True)
    with torch.no_grad():
        giver.in_proj_bias.normal_()
        giver.out_proj.weight[:, 4:] = 0
    x, y = torch.randn(3, 5, 4), torch.randn(3, 6, 4)
    take(giver, wanted)
    wide = [widen(x, 8), widen(y, 8), widen(y, 8)]
    same(giver(*wide)[0][..., :4], wanted(x, y, y)[0])


def test_sliced_attention_is_the_one_built_by_hand():
    giver = nn.MultiheadAttention(6, 1, bias=True)
    wanted = nn.MultiheadAttention(4, 1, bias=True)
    nn.init.normal_(giver.in_proj_bias)
    take(giver, wanted)
    x = torch.randn(5, 4, dtype=torch.float32)
    weight, bias = giver.in_proj_weight.detach().numpy(), giver.in_proj_bias.detach().numpy()
    q, k, v = (
        x.numpy() @ weight[start : start + 4, :4].T + bias[start : start + 4]
        for start in (0, 6, 12)
    )
    scores = np.exp(q @ k.T / 2)
    mixed = scores / scores.sum(1, keepdims=True) @ v
    out = mixed @ giver.out_proj.weight.detach().numpy()[:4, :4].T
    np.testing.assert_allclose(wanted(x, x, x)[0].detach().numpy(), out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attn.qkv", "attn.to_qkv", "h.0.c_attn"])
@pytest.mark.parametrize("ndim", [2, 4])
def test_each_third_of_a_linear_projection_is_sliced(name, ndim):
    tail = (1,) * (ndim - 2)
    q, k, v = torch.randn(3, 5, 5, *tail)
    giver = {f"{name}.weight": torch.cat([q, k, v]), f"{name}.bias": torch.arange(15.0)}
    wanted = {f"{name}.weight": torch.zeros(6, 2, *tail), f"{name}.bias": torch.zeros(6)}
    state = inherit(giver, wanted).state
    by_hand = torch.cat([q[:2, :2], k[:2, :2], v[:2, :2]])
    assert torch.equal(state[f"{name}.weight"], by_hand)
    assert state[f"{name}.bias"].tolist() == [0, 1, 5, 6, 10, 11]


@pytest.mark.parametrize("n", [3, 2])
def test_gpt2_stacks_along_the_columns(n):
    parts = torch.randn(n, 5, 5)
    giver = {"c_attn.weight": torch.cat(list(parts), 1), "c_attn.bias": torch.arange(5.0 * n)}
    wanted = {"c_attn.weight": torch.zeros(2, 2 * n), "c_attn.bias": torch.zeros(2 * n)}
    state = inherit(giver, wanted).state
    assert torch.equal(state["c_attn.weight"], torch.cat(list(parts[:, :2, :2]), 1))
    assert state["c_attn.bias"].tolist() == [5 * part + i for part in range(n) for i in range(2)]


def test_a_projection_without_thirds_stays_fresh():
    giver = {"qkv.weight": torch.ones(13, 4), "head": torch.ones(2)}
    wanted = {"qkv.weight": torch.zeros(6, 2), "head": torch.zeros(2)}
    inherited = inherit(giver, wanted)
    assert inherited.fresh == {"qkv.weight": "not 3 equal parts: (6, 2) against (13, 4)"}
    assert not inherited.state["qkv.weight"].any()


# ---- recurrent layers


def silence(net: nn.RNNBase, units: int, outputs: int, fed: int) -> None:
    """Cut everything that leaves the units beyond the leading ones, in each direction of each layer."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.startswith("weight_hh"):
                weight[:, outputs:] = 0
            elif name.startswith("weight_hr"):
                weight[:, units:] = 0
            elif name.startswith("weight_ih_l1"):
                weight.unflatten(1, (-1, fed))[:, :, outputs:] = 0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gates_are_sliced_one_by_one(kind, bidirectional):
    giver = kind(5, 7, num_layers=2, bidirectional=bidirectional)
    wanted = kind(3, 4, num_layers=2, bidirectional=bidirectional)
    silence(giver, 4, 4, 7)
    inherited = take(giver, wanted)
    assert set(inherited.sliced) == set(wanted.state_dict())
    x = torch.randn(6, 2, 3)
    leading = giver(widen(x, 5))[0].unflatten(-1, (-1, 7))[..., :4].flatten(-2)
    same(leading, wanted(x)[0])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projected_lstm_has_four_gates():
    giver, wanted = (nn.LSTM(3, h, num_layers=2, proj_size=p) for h, p in ((8, 4), (5, 2)))
    silence(giver, 5, 2, 4)
    take(giver, wanted)
    x = torch.randn(6, 2, 3)
    same(giver(x)[0][..., :2], wanted(x)[0])


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_cells_have_gates_too(kind):
    giver, wanted = kind(3, 7), kind(3, 4)
    take(giver, wanted)
    gates = giver.bias_ih.numel() // 7
    expected = giver.bias_ih.detach().reshape(gates, 7)[:, :4].flatten()
    assert torch.equal(wanted.bias_ih.detach(), expected)


def test_a_gru_takes_nothing_from_the_gates_of_an_lstm():
    giver, wanted = nn.LSTM(3, 7).state_dict(), nn.GRU(3, 4).state_dict()
    with pytest.raises(InputError, match=r"other stacked parts: \(12, 3\) against \(28, 3\)"):
        inherit(giver, wanted)


# ---- depth


class Residual(nn.Module):
    def __init__(self, depth: int, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_a_residual_net_whose_dropped_blocks_are_silent_keeps_its_function():
    giver, wanted, x = Residual(5), Residual(3), torch.randn(10, 3)
    for i in (1, 3):
        nn.init.zeros_(giver.blocks[i][2].weight)
        nn.init.zeros_(giver.blocks[i][2].bias)
    inherited = take(giver, wanted)
    same(giver(x), wanted(x))
    assert inherited.kept_layers == ("blocks.0", "blocks.2", "blocks.4")
    assert inherited.dropped_layers == ("blocks.1", "blocks.3")
    assert str(inherited) == "inherited 16 of 16 tensors (blocks 0, 2, 4 of 5)"


@pytest.mark.parametrize(
    "have, want, taken",
    [
        (4, 2, [0, 3]),
        (4, 3, [0, 2, 3]),
        (12, 4, [0, 4, 7, 11]),
        (5, 1, [0]),
        (12, 12, [*range(12)]),
    ],
)
def test_blocks_are_evenly_spaced_with_both_ends(have, want, taken):
    state = inherit(fill(have), fill(want)).state
    assert numbers(state, "blocks.{}.weight", want) == taken


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_spacing_is_numpys(one, other):
    have, want = max(one, other), min(one, other)
    inherited = inherit(fill(have), fill(want))
    taken = numbers(inherited.state, "blocks.{}.weight", want)
    assert taken == np.round(np.linspace(0, have - 1, want)).tolist()
    assert len(set(taken)) == want
    assert len(inherited.dropped_layers) == have - want


def test_numbering_goes_level_by_level():
    giver = fill(3, "stages.0.blocks.{}.w") | fill(9, "stages.1.blocks.{}.w")
    wanted = fill(2, "stages.0.blocks.{}.w") | fill(3, "stages.1.blocks.{}.w")
    inherited = inherit(giver, wanted)
    assert numbers(inherited.state, "stages.0.blocks.{}.w", 2) == [0, 2]
    assert numbers(inherited.state, "stages.1.blocks.{}.w", 3) == [0, 4, 8]
    assert str(inherited) == (
        "inherited 5 of 5 tensors (stages.0.blocks 0, 2 of 3; stages.1.blocks 0, 4, 8 of 9)"
    )


def test_repeated_stages_are_spread_and_their_blocks_too():
    giver = {
        f"stages.{stage}.{block}.w": torch.tensor([10.0 * stage + block])
        for stage in range(3)
        for block in range(4)
    }
    wanted = {f"stages.{stage}.{block}.w": torch.zeros(1) for stage in (0, 1) for block in (0, 1)}
    assert [t.item() for t in inherit(giver, wanted).state.values()] == [0, 3, 20, 23]


def test_numbers_of_unlike_modules_mean_the_same_number():
    giver = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))
    wanted = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    nn.init.normal_(giver[1].weight)
    inherited = take(giver, wanted)
    for i in range(3):
        assert torch.equal(wanted[i].weight, giver[i].weight)
    assert inherited.dropped_layers == ("3",)
    assert str(inherited) == "inherited 6 of 6 tensors (blocks 0, 1, 2 of 4)"


def test_numbered_tensors_of_a_list_mean_the_same_number():
    inherited = inherit(fill(4, "scales.{}"), fill(2, "scales.{}"))
    assert numbers(inherited.state, "scales.{}", 2) == [0, 1]
    assert not inherited.dropped_layers


# ---- what is taken, what is not


def test_equal_sizes_are_an_exact_copy():
    giver, wanted = Residual(3), Residual(3)
    assert not torch.equal(giver.stem.weight, wanted.stem.weight)
    inherited = inherit(giver.state_dict(), wanted.state_dict())
    assert inherited.copied == tuple(giver.state_dict())
    for name, tensor in giver.state_dict().items():
        assert torch.equal(inherited.state[name], tensor)


def test_each_reason_to_stay_fresh():
    giver = {
        "fits": torch.ones(2),
        "conv.weight": torch.ones(4, 4, 3, 3),
        "wider.weight": torch.ones(2, 3),
        "table": torch.arange(9),
        "packed": torch.ones(2, dtype=torch.int8),
        "only.giver": torch.ones(1),
    }
    wanted = {
        "fits": torch.zeros(2),
        "conv.weight": torch.zeros(4, 4),
        "wider.weight": torch.zeros(2, 4),
        "table": torch.zeros(4, dtype=torch.int64),
        "packed": torch.zeros(2),
        "only.wanted": torch.zeros(1),
    }
    inherited = inherit(giver, wanted)
    assert inherited.fresh == {
        "conv.weight": "2-D against 4-D",
        "wider.weight": "larger: (2, 4) against (2, 3)",
        "table": "integers of another shape: (4,) against (9,)",
        "packed": "float32 against int8",
        "only.wanted": "the giver has none",
    }
    assert list(inherited.state) == list(wanted)
    assert all(not inherited.state[name].any() for name in inherited.fresh)
    assert str(inherited) == (
        "inherited 1 of 6 tensors; fresh: conv.weight (2-D against 4-D); "
        "wider.weight (larger: (2, 4) against (2, 3)); "
        "table (integers of another shape: (4,) against (9,)) and 2 more"
    )


def test_the_line_of_the_report():
    giver = fill(4, shape=(3, 3)) | {"head.weight": torch.ones(2, 2, 1, 1)}
    wanted = fill(2) | {"head.weight": torch.ones(2, 2)}
    assert str(inherit(giver, wanted)) == (
        "inherited 2 of 3 tensors (2 sliced, blocks 0, 3 of 4); fresh: head.weight (2-D against 4-D)"
    )


def test_the_wanted_dtype_counts():
    giver = {"w": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float16), "scale": torch.tensor(2.5)}
    wanted = {"w": torch.zeros(2), "scale": torch.tensor(0.0, dtype=torch.float64)}
    state = inherit(giver, wanted).state
    assert state["w"].dtype == torch.float32
    assert state["w"].tolist() == np.array([0.1, 0.2], np.float16).tolist()
    assert state["scale"].dtype == torch.float64
    assert state["scale"].item() == 2.5


def test_nothing_is_written_into_and_nothing_is_shared():
    giver, wanted = Residual(4).state_dict(), Residual(2).state_dict()
    wanted["extra"] = torch.ones(2)
    before = copy.deepcopy((giver, wanted))
    for tensor in inherit(giver, wanted).state.values():
        tensor.fill_(7)
    for now, then in zip((giver, wanted), before):
        assert list(now) == list(then)
        assert all(torch.equal(now[name], then[name]) for name in then)


def test_parameters_give_plain_tensors():
    giver, wanted = (dict(nn.Linear(3, n).named_parameters()) for n in (4, 2))
    state = inherit(giver, wanted | {"new": nn.Parameter(torch.ones(1))}).state
    assert not any(tensor.requires_grad for tensor in state.values())


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, width), nn.Linear(width, 7, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("lost", [None, "embed.weight", "head.weight"])
def test_tied_weights_get_one_value(lost):
    giver, wanted = Tied(5), Tied(3)
    state = giver.state_dict()
    state.pop(lost, None)
    inherited = inherit(state, wanted.state_dict())
    wanted.load_state_dict(inherited.state)
    assert torch.equal(wanted.embed.weight, giver.embed.weight[:, :3])
    assert torch.equal(inherited.state["embed.weight"], inherited.state["head.weight"])
    assert set(inherited.sliced) == {"embed.weight", "head.weight"}


# ---- refusals


def test_a_giver_of_another_family_is_refused():
    giver, wanted = {"fc.weight": torch.ones(3, 3)}, {"head.weight": torch.ones(2, 2)}
    with pytest.raises(
        InputError,
        match=r"^Expected weights .* but no tensor of the giver's 1 fits: head.weight \(the giver has none\)$",
    ):
        inherit(giver, wanted)


def test_a_counter_alone_is_no_inheritance():
    giver, wanted = nn.BatchNorm1d(3).state_dict(), nn.BatchNorm1d(4).state_dict()
    with pytest.raises(InputError, match="but no tensor of the giver's 5 fits: weight"):
        inherit(giver, wanted)


def test_a_model_without_weights_is_refused():
    with pytest.raises(InputError, match=r"giver's 1 fits: no weights are wanted$"):
        inherit({"w": torch.ones(1)}, {})


def test_entries_that_are_no_tensors_are_named():
    with pytest.raises(InputError, match=r"tensors but got giver 'a': int; wanted 'b': str$"):
        inherit({"a": 3}, {"b": "c"})
