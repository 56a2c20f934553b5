"""A family builds fresh models of known sizes and says what each costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.family import Family, activation_bytes, count_flops, count_parameters, seconds_of


def build(width):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def parameters_of(width):
    return 4 * width + width + 2 * width + 2


@pytest.fixture
def family():
    return Family(build, sizes=[1, 3, 6, 12], student=3, teacher=12)


def test_parameters_are_counted_by_hand(family):
    assert [family.parameters(size) for size in family.sizes] == [
        parameters_of(size) for size in (1, 3, 6, 12)
    ]
    assert family.parameters("6") == parameters_of(6)


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    assert count_parameters(model) == 18
    model[1].weight = model[0].weight
    assert count_parameters(model) == 9


def test_assistants_lie_between_student_and_teacher_largest_first():
    assert Family(build, [1, 3, 6, 12], student=1, teacher=12).assistants == (6, 3)
    assert Family(build, [1, 3, 6, 12], student=3, teacher=6).assistants == ()
    assert Family(build, [1, 3, 6, 12], student=3).assistants == (12, 6)  # teacher of another kind
    assert Family(build, [1, 3], student=3, teacher=3).assistants == ()


def test_the_next_size_up(family):
    assert family.next_size_up == 6
    assert Family(build, [1, 3], student=3).next_size_up is None


def test_the_student_defaults_to_the_smallest():
    assert Family(build, ["small", "large"]).student == "small"
    assert Family(build, ["small", "large"]).teacher is None


def test_a_size_read_from_text_is_the_size_itself(family):
    assert family.known("12") == 12
    assert isinstance(family.known("12"), int)
    with pytest.raises(InputError, match="known size of the family but got '13'; nearest: "):
        family.known(13)


def test_the_seed_decides_the_weights_and_nothing_outside():
    family = Family(build, [1, 3])
    before = torch.get_rng_state()
    first, again, other = (family.fresh(3, seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"sizes": []}, "one or more distinct sizes"),
        ({"sizes": [1, 1]}, "distinct sizes"),
        ({"sizes": [1, 3], "student": 2}, "known size of the family but got '2'"),
        ({"sizes": [1, 3], "teacher": 9}, "known size of the family but got '9'"),
    ],
)
def test_families_that_cannot_be_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        Family(build, **arguments)


def test_sizes_out_of_order_and_builders_of_no_module_are_refused():
    with pytest.raises(InputError, match="small to large by parameters but got 3: 23, 1: 9"):
        Family(build, [3, 1]).parameters(1)
    with pytest.raises(InputError, match=r"Expected build\(1\) to return an nn.Module but got str"):
        Family(lambda size: "model", [1]).fresh(1, 0)


N = 5  # samples of a batch


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


@pytest.mark.parametrize(
    "model, shape, by_hand",
    [
        (build(3), (N, 4), 2 * N * (4 * 3 + 3 * 2)),
        (nn.Conv2d(2, 3, 3, padding=1), (N, 2, 8, 8), 2 * N * 8 * 8 * (2 * 3 * 9)),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (N, 2, 9, 9), 2 * N * 5 * 5 * (2 * 3 * 9)),
        (nn.Conv2d(4, 6, 3, groups=2), (N, 4, 8, 8), 2 * N * 6 * 6 * (6 * 2 * 9)),
        (nn.Conv2d(4, 6, 3, dilation=2), (N, 4, 8, 8), 2 * N * 4 * 4 * (6 * 4 * 9)),
        (nn.Conv1d(4, 6, 3), (N, 4, 8), 2 * N * 6 * (6 * 4 * 3)),
        (nn.Conv3d(2, 3, 2), (N, 2, 4, 4, 4), 2 * N * 27 * (3 * 2 * 8)),
        # Each input cell is spread over a kernel: by input, not by output positions.
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (N, 4, 5, 5), 2 * N * 25 * (4 * 3 * 9)),
        (nn.Conv2d(2, 3, 3).bfloat16(), (N, 2, 8, 8), 2 * N * 6 * 6 * (2 * 3 * 9)),
    ],
)
def test_flops_of_linear_and_convolution_are_two_per_multiply_add(model, shape, by_hand):
    assert count_flops(model, torch.ones(shape, dtype=next(model.parameters()).dtype)) == by_hand


@pytest.mark.parametrize(
    "function, shapes, by_hand",
    [
        (torch.bmm, [(N, 4, 3), (N, 3, 6)], 2 * N * 4 * 3 * 6),
        (torch.baddbmm, [(N, 4, 6), (N, 4, 3), (N, 3, 6)], 2 * N * 4 * 3 * 6),
        (torch.matmul, [(N, 4, 3), (3, 6)], 2 * N * 4 * 3 * 6),
        (torch.matmul, [(4, 3), (3,)], 2 * 4 * 3),
        (torch.matmul, [(3,), (3,)], 2 * 3),
        (torch.addmv, [(4,), (4, 3), (3,)], 2 * 4 * 3),
        (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(N, 4, 3), (N, 6, 3)], 2 * N * 72),
        (lambda a, b: torch.einsum("bi,bj->bij", a, b), [(N, 4), (N, 6)], 0),  # no sum
        (torch.add, [(N, 4), (N, 4)], 0),
    ],
)
def test_flops_of_products(function, shapes, by_hand):
    assert count_flops(Call(function), tuple(torch.ones(shape) for shape in shapes)) == by_hand


def test_an_embedding_is_a_look_up():
    assert count_flops(nn.Embedding(10, 4), torch.zeros(N, 3, dtype=torch.long)) == 0


def attention_by_hand(queries: int, keys: int, width: int) -> int:
    """Projections in and out, scores, weighted sum; whatever the number of heads."""
    projections = 2 * N * width * width * 2 * (queries + keys)
    return projections + 2 * (2 * N * queries * keys * width)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_flops_of_an_encoder_are_seen_and_masks_save_none(norm_first, masked):
    """The fused paths hide their products from the counter; these are the ones of the formula."""
    tokens, width, hidden = 6, 8, 16
    layer = nn.TransformerEncoderLayer(
        width, 2, dim_feedforward=hidden, batch_first=True, norm_first=norm_first
    )
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=not norm_first).eval()
    by_hand = 3 * (attention_by_hand(tokens, tokens, width) + 2 * 2 * N * tokens * width * hidden)
    view = {"src": torch.ones(N, tokens, width)}
    if masked:
        view["src_key_padding_mask"] = torch.arange(tokens).expand(N, tokens) > 3
    assert count_flops(model, view) == by_hand


def test_flops_of_attention_by_itself():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

        def forward(self, x, memory):
            return self.attention(x, memory, memory)[0]

    inputs = torch.ones(N, 6, 8), torch.ones(N, 9, 8)
    assert count_flops(Cross(), inputs) == attention_by_hand(6, 9, 8)
    heads = torch.ones(N, 2, 6, 4), torch.ones(N, 2, 9, 4), torch.ones(N, 2, 9, 7)
    got = count_flops(Call(torch.nn.functional.scaled_dot_product_attention), heads)
    assert got == 2 * N * 2 * 6 * 9 * (4 + 7)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_flops_of_recurrent_layers(kind, gates, bidirectional, layers):
    """Every gate multiplies the input and the state at every step; later layers read both directions."""
    steps, width, hidden, ways = 7, 4, 6, 2 if bidirectional else 1
    model = kind(width, hidden, layers, bidirectional=bidirectional, batch_first=True)
    inputs = [width, *[ways * hidden] * (layers - 1)]
    by_hand = sum(2 * N * steps * ways * gates * hidden * (d + hidden) for d in inputs)
    assert count_flops(model, torch.ones(N, steps, width)) == by_hand


def test_flops_of_a_projected_lstm_and_of_cells():
    model = nn.LSTM(4, 6, 2, proj_size=3, batch_first=True)
    step = 4 * 6 * (4 + 3) + 6 * 3 + 4 * 6 * (3 + 3) + 6 * 3
    assert count_flops(model, torch.ones(N, 7, 4)) == 2 * N * 7 * step
    assert count_flops(nn.LSTMCell(4, 6), torch.ones(N, 4)) == 2 * N * 4 * 6 * (4 + 6)
    assert count_flops(nn.GRUCell(4, 6), torch.ones(N, 4)) == 2 * N * 3 * 6 * (4 + 6)


def test_wrappers_hide_nothing():
    compiled = torch.compile(build(3), backend="eager")
    assert count_flops(compiled, torch.ones(N, 4)) == count_flops(build(3), torch.ones(N, 4))


def test_counting_leaves_the_model_and_switches_as_they_were():
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.Dropout())
    model[0].weight.requires_grad_(False)
    fast, before = torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state()
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model, torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0)))
    activation_bytes(model, torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert model[1].training
    assert [weight.requires_grad for weight in model.parameters()] == [False, True, True, True]
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(TypeError):
        count_flops(model, {"no": torch.ones(1)})
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled() is fast


def test_activations_are_the_inputs_that_backward_needs():
    """Linear keeps its input; ReLU keeps its output, which the next Linear shares."""
    n, width = 5, 3
    kept = 4 * (n * 4 + n * width)
    assert activation_bytes(build(width), torch.ones(n, 4)) == kept
    assert activation_bytes(build(width), torch.ones(2 * n, 4)) == 2 * kept
    with torch.no_grad():
        assert activation_bytes(build(width), torch.ones(n, 4)) == kept


def test_seconds_are_the_median_after_a_warm_up(monkeypatch):
    clock = iter([0, 1, 10, 13, 20, 22])  # three calls of 1, 3 and 2 seconds
    monkeypatch.setattr("gapkit.family.time.perf_counter", lambda: next(clock))
    calls = []
    assert seconds_of(lambda: calls.append(1), repeats=3) == 2
    assert len(calls) == 4


# sizes between


def test_sizes_between_are_spread_evenly_in_proportion():
    family = Family(lambda width: nn.Linear(4, width), sizes=[2, 32], teacher=32, between=3)
    assert family.sizes == (2, 4, 8, 16, 32)
    assert family.assistants == (16, 8, 4)
    assert family.fresh(8, 0).out_features == 8
    near = Family(lambda width: nn.Linear(4, width), sizes=[2, 3, 4], teacher=4, between=5)
    assert near.sizes == (2, 3, 4)  # there is nothing more between


@pytest.mark.parametrize(
    "sizes, fields, match",
    [
        (["s", "l"], {"teacher": "l"}, "whole numbers to add 2"),
        ([1, 8], {}, "whole numbers to add 2"),
        ([1, 8], {"student": 8, "teacher": 1}, "teacher's larger"),
    ],
)
def test_sizes_between_are_refused_where_there_are_none(sizes, fields, match):
    with pytest.raises(InputError, match=match):
        Family(lambda width: nn.Linear(4, 1), sizes=sizes, between=2, **fields)
