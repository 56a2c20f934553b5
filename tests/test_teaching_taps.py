"""Taps show what named layers gave in the last call, gradients included, and leave models as they were."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gapkit.errors import InputError
from gapkit.teaching.taps import Answer, Taps, ask, attention_mask, pooled, shapes
from tests.training_fixtures import noisy_net, random_states, seeded_model

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Twice(nn.Module):
    """One layer, called twice; another, never."""

    def __init__(self):
        super().__init__()
        self.shared, self.idle = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.shared(torch.relu(self.shared(x)))


class Returning(nn.Module):
    """A layer that returns whatever it is told, inside a model."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def test_a_tap_shows_the_layers_output_and_carries_its_gradient():
    model = seeded_model(noisy_net, 4, 0).eval()
    with Taps(model, ["0", "4"]) as taps:
        outputs = model(X)
        shown = taps.shown()
    assert list(shown) == ["0", "4"]
    assert torch.equal(shown["0"], F.linear(X, model[0].weight))
    assert torch.equal(shown["4"], outputs)
    shown["0"].sum().backward()
    assert torch.allclose(model[0].weight.grad, X.sum(0).expand(4, 6), atol=1e-5)
    assert model[4].weight.grad is None


def test_hooks_go_on_close_on_leaving_and_after_an_exception():
    model = seeded_model(noisy_net, 4, 0)
    kept = model[0].register_forward_hook(lambda *_: None)  # the owner's
    taps = Taps(model, ["0", "2"])
    assert hooks(model) == 4  # two layers, the start of a call, and the owner's
    taps.close()
    taps.close()
    assert hooks(model) == 1
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), Taps(model, ["0"]):
        model(X[:, :3])
    assert hooks(model) == 1
    kept.remove()
    with pytest.raises(InputError), Taps(model, ["0", "no such layer"]):
        pass
    assert hooks(model) == 0


def test_an_in_place_layer_further_on_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    with Taps(model, ["0", "1"]) as taps:
        model(X)
        shown = taps.shown()
    before = F.linear(X, model[0].weight, model[0].bias)
    assert (before < 0).any()
    assert torch.equal(shown["0"], before)
    assert torch.equal(shown["1"], before.relu())
    shown["0"].sum().backward()
    assert torch.allclose(model[0].bias.grad, torch.full((8,), 5.0))  # not only where it is above 0


def test_a_module_that_runs_twice_shows_both_calls():
    torch.manual_seed(0)
    model = Twice()
    with Taps(model, ["shared", "shared#1", "shared#2"]) as taps:
        outputs = model(X)
        shown = taps.shown()
    first = F.linear(X, model.shared.weight, model.shared.bias)
    assert torch.equal(shown["shared"], first)
    assert torch.equal(shown["shared#1"], first)
    assert torch.equal(shown["shared#2"], outputs)
    assert not torch.allclose(first, outputs)


def test_a_call_that_never_comes_is_named():
    model = Twice()
    with Taps(model, ["shared", "idle"], "student") as taps:
        model(X)
        with pytest.raises(InputError, match=r"layer 'idle' of the student to run .* it never did"):
            taps.shown()
    with Taps(model, ["shared#3"]) as taps:
        model(X)
        with pytest.raises(InputError, match="layer 'shared#3' of the model"):
            taps.shown()


def test_only_the_last_call_of_the_model_is_shown_and_once():
    model = Twice()
    with Taps(model, ["shared#1", "shared#2"]) as taps:
        model(X + 1)
        with torch.no_grad():
            model(2 * X)
        outputs = model(X)
        assert torch.equal(taps.shown()["shared#2"], outputs)
        with pytest.raises(InputError, match="it never did"):
            taps.shown()


def test_layers_that_run_without_the_model_are_refused():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    with Taps(model, ["0", "1"], "student") as taps:
        model[0](X)
        with pytest.raises(InputError, match=r"the student to be called as a whole but only .*: 0"):
            taps.shown()
        model[0](X)  # such as a validation of one part
        outputs = model(X + 1)
        assert torch.equal(taps.shown()["1"], outputs)


def test_a_compiled_model_shows_what_the_plain_one_does():
    torch.manual_seed(0)
    model = Twice()
    with Taps(model, ["shared#1"]) as taps:
        model(X)
        expected = taps.shown()["shared#1"]
    compiled = torch.compile(model, backend="eager")
    with Taps(compiled, ["shared#1"]) as taps:
        for _ in range(2):
            compiled(X)
            found = taps.shown()["shared#1"]
            assert torch.equal(found, expected)
            assert found.requires_grad


def test_a_call_that_failed_halfway_leaves_nothing_behind():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    with Taps(model, ["0"]) as taps:
        broken = model[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(X)
        broken.remove()
        model(2 * X)
        assert torch.equal(taps.shown()["0"], F.linear(2 * X, model[0].weight, model[0].bias))


def test_an_unknown_layer_gets_the_nearest_names():
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    with pytest.raises(
        InputError, match="known layer of the teacher but got 'encodr'; nearest: 'encoder', 'decod"
    ):
        Taps(model, ["encodr"], "teacher")
    with pytest.raises(InputError, match="but got 'encodr#2'; nearest: 'encoder'"):
        Taps(model, ["encodr#2"])


@pytest.mark.parametrize(
    "value, got",
    [
        (None, "no tensor"),
        (torch.ones(5), r"torch.float32 \(5,\)"),
        (torch.ones(5, 2, dtype=torch.int64), r"torch.int64 \(5, 2\)"),
    ],
)
def test_what_is_no_feature_is_refused(value, got):
    model = nn.Sequential(Returning(value))
    with (
        Taps(model, ["0"], "teacher"),
        pytest.raises(InputError, match=f"'0' of the teacher to give features .* but got {got}"),
    ):
        model(X)


def test_the_first_tensor_of_a_tuple_or_mapping_counts():
    for value in ((X, None), {"loss": None, "hidden": X}, [(X,), 3]):
        model = nn.Sequential(Returning(value))
        with Taps(model, ["0"]) as taps:
            model(X)
            assert torch.equal(taps.shown()["0"], X)


def test_convolutions_over_sequences_are_shown_as_tokens():
    model = nn.Sequential(nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4)).eval()
    with Taps(model, ["0", "1"]) as taps:
        outputs = model(torch.ones(2, 6, 7))
        shown = taps.shown()
    assert shown["0"].shape == (2, 5, 4)
    assert torch.equal(shown["1"], outputs.transpose(1, 2))


def test_the_whole_model_and_one_inside_a_wrapper_have_the_plain_names():
    inner = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    with Taps(nn.DataParallel(inner), ["0", "(model)"]) as taps:
        outputs = inner(X)
        shown = taps.shown()
    assert torch.equal(shown["(model)"], outputs)
    assert torch.equal(shown["0"].relu(), outputs)


# Answers


def test_vectors_are_means_over_space_and_over_tokens_that_count():
    maps = torch.randn(2, 3, 4, 5)
    assert torch.allclose(pooled(maps), maps.sum((2, 3)) / 20, atol=1e-6)
    volumes = torch.randn(2, 3, 2, 4, 5)
    assert torch.allclose(pooled(volumes), volumes.sum((2, 3, 4)) / 40, atol=1e-6)
    tokens, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    by_hand = torch.stack([(tokens[0, 0] + tokens[0, 1]) / 2, torch.zeros(3)])
    assert torch.allclose(pooled(tokens, mask), by_hand, atol=1e-6)
    assert torch.allclose(pooled(tokens), tokens.sum(1) / 4, atol=1e-6)
    assert torch.equal(pooled(X, mask), X)


def test_a_mask_of_another_number_of_tokens_does_not_count():
    tokens, mask = torch.randn(2, 4, 3), torch.tensor([[True, False], [True, True]])
    assert torch.equal(pooled(tokens, mask), tokens.mean(1))


def test_the_mask_is_the_attention_mask_of_a_models_keywords():
    mask = attention_mask({"input_ids": X, "attention_mask": torch.tensor([[1, 0], [1, 1]])})
    assert mask is not None
    assert mask.tolist() == [[True, False], [True, True]]
    for view in (X, (X,), {"input_ids": X}, {"attention_mask": torch.ones(1, 1, 2, 2)}):
        assert attention_mask(view) is None


def test_asking_gives_outputs_features_and_mask():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Identity()

        def forward(self, x, attention_mask):
            return {"logits": self.scale(x) * 2}

    model, mask = Model(), torch.ones(5, 6)
    with Taps(model, ["scale"]) as taps:
        view = {"x": X, "attention_mask": mask}
        answer = ask(model, view, lambda raw: raw["logits"], taps)
    assert torch.equal(answer.outputs, 2 * X)
    assert torch.equal(answer.features["scale"], X)
    assert torch.equal(answer.mask, mask.bool())
    assert ask(model, view, lambda raw: raw["logits"]).features == {}


def test_a_detached_answer_has_no_gradient_and_keeps_its_mask():
    outputs, mask = X.clone().requires_grad_(), X > 0
    answer = Answer(outputs * 2, {"a": outputs * 3}, mask).detached()
    assert not answer.outputs.requires_grad
    assert not answer.features["a"].requires_grad
    assert torch.equal(answer.features["a"], 3 * X)
    assert answer.mask is mask


def test_asking_for_shapes_leaves_no_trace():
    model = seeded_model(noisy_net, 4, 0)
    model.train()
    model[3].eval()  # frozen by its owner; BatchNorm is not
    model[0].weight.requires_grad_(False)
    before, drawn = {k: v.clone() for k, v in model.state_dict().items()}, random_states()
    answer = shapes(model, X, lambda raw: raw, ["2"], "student")
    assert (answer.outputs.shape, answer.features["2"].shape) == ((5, 3), (5, 4))
    assert not answer.outputs.requires_grad
    assert [m.training for m in model] == [True, True, True, False, True]
    assert [w.requires_grad for w in model.parameters()] == [False, True, True, True, True]
    assert hooks(model) == 0
    assert random_states() == drawn
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
