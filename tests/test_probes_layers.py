"""Layers: which of a model's modules are looked at, by default and by name; nothing is left on it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gapkit.errors import InputError
from gapkit.probes.layers import bare, choose_layers, first_tensor


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.relu(x + self.conv2(self.relu(self.conv1(x))))


class ResNet(nn.Module):
    def __init__(self, width: int = 4, n_blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(True))
        self.layer1 = nn.Sequential(*(Residual(width) for _ in range(n_blocks)))
        self.drop = nn.Dropout()
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc(self.drop(self.layer1(self.stem(x)).mean((2, 3))))


class Functional(nn.Module):
    """Activations without modules, one module called twice, one never, a last step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.twice = nn.Linear(6, 6)
        self.never = nn.Linear(6, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        return F.log_softmax(self.head(F.relu(self.twice(F.relu(self.twice(x))))), 1)


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.lstm = nn.LSTM(3, 5, batch_first=batch_first)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        states, _ = self.lstm(x if self.batch_first else x.transpose(0, 1))
        return self.head(states[:, -1] if self.batch_first else states[-1])


def mlp(width: int = 5, n_classes: int = 3, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(inplace), nn.BatchNorm1d(width), nn.Linear(width, n_classes)
    )


def test_plain_stacks_are_seen_after_each_activation():
    net = nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(2, 3, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()),
        *(nn.Identity(), nn.Linear(3, 4), nn.Softmax(1)),
    )
    assert choose_layers(net, torch.ones(2, 1, 9, 9)) == ("2", "5", "10")


def test_residual_blocks_are_seen_as_wholes():
    layers = choose_layers(ResNet(), torch.ones(2, 1, 8, 8))
    assert layers == ("stem.2", "layer1.0", "layer1.1", "layer1.2", "fc")


def test_a_model_of_few_blocks_is_opened():
    layers = choose_layers(ResNet(n_blocks=1), torch.ones(2, 1, 8, 8))
    assert layers == ("stem.2", "layer1.0.relu#1", "layer1.0.relu#2", "fc")


def test_functional_activations_and_repeated_calls():
    layers = choose_layers(Functional(), torch.ones(2, 4))
    assert layers == ("first", "twice#1", "twice#2", "head", "(model)")


def test_transformer_blocks():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
    net = nn.Sequential(nn.Linear(4, 8), encoder, nn.Linear(8, 2))
    assert choose_layers(net, torch.ones(2, 5, 4)) == (
        *("0", "1.layers.0", "1.layers.1", "1.layers.2", "2"),
    )


def test_layers_that_are_not_batch_first_are_left_out_or_refused():
    x = torch.ones(2, 7, 3)
    assert choose_layers(Recurrent(batch_first=True), x) == ("lstm", "head")
    assert choose_layers(Recurrent(batch_first=False), x) == ("head",)
    with pytest.raises(InputError, match=r"'lstm' but got shape \(7, 2, 5\) for 2 samples"):
        choose_layers(Recurrent(batch_first=False), x, wanted=["lstm"])


def test_a_single_layer_is_a_model():
    assert choose_layers(nn.Linear(3, 2), torch.ones(2, 3)) == ("(model)",)


def test_wrappers_do_not_show_in_names():
    net = mlp()
    expected = choose_layers(net, torch.ones(2, 4))
    assert expected == ("1", "3")
    assert choose_layers(nn.DataParallel(net), torch.ones(2, 4)) == expected
    compiled = torch.compile(net, backend="eager")
    assert bare(compiled) is net
    assert choose_layers(compiled, torch.ones(2, 4)) == expected
    inner = nn.Sequential(net, torch.compile(nn.Linear(3, 2), backend="eager"))
    assert choose_layers(inner, torch.ones(2, 4), ["0.3"]) == ("0.3",)


def test_many_layers_are_thinned_evenly_with_both_ends():
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(41)))
    layers = choose_layers(net, torch.ones(2, 3), limit=5)
    assert layers == ("0", "10", "20", "30", "40")
    assert len(choose_layers(net, torch.ones(2, 3))) == 24


def test_wanted_layers_by_name_and_glob_come_in_running_order():
    net, x = ResNet(), torch.ones(2, 1, 8, 8)
    assert choose_layers(net, x, ["fc", "layer1.?"]) == ("layer1.0", "layer1.1", "layer1.2", "fc")
    assert choose_layers(net, x, ["*.conv2"])[0] == "layer1.0.conv2"
    assert choose_layers(Functional(), torch.ones(2, 4), ["twice"]) == ("twice#1", "twice#2")
    assert choose_layers(Functional(), torch.ones(2, 4), ["twice#2"]) == ("twice#2",)


def test_unknown_and_silent_layers_are_named():
    x = torch.ones(2, 4)
    with pytest.raises(InputError, match=r"known layer but got 'firts'; nearest: 'first'"):
        choose_layers(Functional(), x, ["firts"])
    with pytest.raises(InputError, match=r"layer 'never' to run .* but it never did"):
        choose_layers(Functional(), x, ["never"])
    with pytest.raises(InputError, match=r"layer 'never' to run"):
        choose_layers(Functional(), x, ["head", "nev*"])


def test_a_view_that_does_not_fit_is_told_in_one_line():
    with pytest.raises(
        InputError, match=r"accept its view of shape \(2, 5\) but it raised"
    ) as info:
        choose_layers(mlp(), torch.ones(2, 5))
    assert "\n" not in str(info.value)


def test_first_tensor_of_whatever_a_module_returns():
    x = torch.ones(1)
    assert first_tensor((None, (x, 2))) is x
    assert first_tensor({"a": None, "b": [x]}) is x
    assert first_tensor("text") is None


def hooks(*models) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for model in models
        for module in model.modules()
    )


def test_choosing_layers_leaves_no_hooks_after_an_exception():
    net = mlp().train()
    with pytest.raises(InputError, match="accept its view"):
        choose_layers(net, torch.ones(2, 9))
    assert hooks(net) == 0
    assert net.training


def test_layers_by_class():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    view = torch.ones(2, 4)
    assert choose_layers(net, view, [nn.Linear]) == ("0", "2")
    assert choose_layers(net, view, nn.ReLU) == ("1",)
    with pytest.raises(InputError, match=r"class of layers but got 'Conv2d'.*'Linear'"):
        choose_layers(net, view, [nn.Conv2d])
    with pytest.raises(InputError, match="name, glob or module class but got 3"):
        choose_layers(net, view, [3])


def test_only_layers_with_tokens_are_chosen_for_tokens():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(9, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.mix(self.embed(ids)).mean(1))

    view = torch.ones(2, 3, dtype=torch.long)
    assert choose_layers(Classifier(), view, tokens=True) == ("embed", "mix")
    assert choose_layers(Classifier(), view)[-1] == "head"
    with pytest.raises(InputError, match=r"'head' but got shape \(2, 2\)"):
        choose_layers(Classifier(), view, ["head"], tokens=True)
