"""Features: what is kept of the layers, in which order, and that models are left as they were."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.probes import store
from gapkit.probes.features import Taps, observe, placed
from gapkit.probes.moments import Moments
from gapkit.probes.recorder import Recorder, reduced
from gapkit.probes.sums import BatchHsic, Grams
from gapkit.task import Classification


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


class Tokens(nn.Module):
    """Called with keywords, returns a mapping."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids, attention_mask):
        hidden = self.embed(input_ids)
        return {"logits": self.head(hidden[:, 0]), "hidden": hidden}


def mlp(width: int = 5, n_classes: int = 3, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(inplace), nn.BatchNorm1d(width), nn.Linear(width, n_classes)
    )


def vectors(n: int = 30, width: int = 4, seed: int = 0, **keywords) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator)
    dataset = TensorDataset(x, torch.arange(n) % 3)
    return Data(dataset, dataset, dataset, **keywords)


def taps(layers=("0", "1", "3"), student=None, **keywords) -> Taps:
    return Taps(tuple(layers), tuple(student or layers), **keywords)


def look(data=None, teacher=None, student=None, used=None, split="test", **models):
    torch.manual_seed(0)
    models = {"teacher": teacher or mlp(), "student": student or mlp(2), **models}
    return observe(split, data or vectors(), Classification(), models, used or taps())


def test_maps_are_pooled_as_a_plain_loop_would():
    maps = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    loop = [[maps[i, c].sum().item() / 24 for c in range(3)] for i in range(2)]
    torch.testing.assert_close(reduced(maps, "gap"), torch.tensor(loop))
    quarter = maps[:, :, :2, 3:].mean((2, 3))
    torch.testing.assert_close(reduced(maps, "grid:2").view(2, 3, 2, 2)[:, :, 0, 1], quarter)
    assert torch.equal(reduced(maps, "flatten"), maps.reshape(2, 72))
    volume = maps[:, :, None].expand(2, 3, 2, 4, 6)
    torch.testing.assert_close(reduced(volume, "gap"), torch.tensor(loop))


def test_tokens_are_pooled_where_they_count():
    tokens = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    mean = torch.stack([tokens[0, :2].mean(0), tokens[1, 1:].mean(0)])
    torch.testing.assert_close(reduced(tokens, "gap", mask), mean)
    torch.testing.assert_close(reduced(tokens, "gap"), tokens.mean(1))
    assert torch.equal(reduced(tokens, "cls", mask), tokens[:, 0])
    last = torch.stack([tokens[0, 1], tokens[1, 3]])
    assert torch.equal(reduced(tokens, "last", mask), last)
    assert torch.equal(reduced(tokens, "last"), tokens[:, -1])
    shorter = torch.ones(2, 3)
    torch.testing.assert_close(reduced(tokens, "gap", shorter), tokens.mean(1))
    assert torch.equal(reduced(tokens, "grid:1"), tokens.mean(1))


def test_reduced_is_no_view_and_is_float32():
    output = torch.ones(2, 3)
    kept = reduced(output, "gap")
    output.zero_()
    assert kept.min() == 1
    assert reduced(torch.ones(2, 3, dtype=torch.bfloat16), "gap").dtype == torch.float32
    assert reduced(torch.ones(2, 3, 4, dtype=torch.float16), "flatten").dtype == torch.float32


def test_tokens_are_asked_of_tokens_only():
    with pytest.raises(InputError, match=r"Expected tokens .* reduce='cls' .* \(2, 3, 4, 4\)"):
        reduced(torch.ones(2, 3, 4, 4), "cls")
    with pytest.raises(InputError, match="at least 2 dimensions"):
        reduced(torch.ones(3), "gap")
    with pytest.raises(InputError, match="known reduce but got 'gapp'; nearest: 'gap'"):
        taps(reduce="gapp")
    with pytest.raises(InputError, match="known reduce but got 'grid:0'"):
        taps(reduce="grid:0")


def record(net, layers, view, reduce="gap"):
    with torch.no_grad(), Recorder(net, layers, reduce, "student").open() as recorder:
        return recorder(view)[1]


def test_in_place_activations_do_not_change_what_was_kept():
    net, x = mlp(inplace=True), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    seen = record(net, ("0", "1"), x)
    before = net[0](x)
    assert before.min() < -0.1
    torch.testing.assert_close(seen["0"], before)
    torch.testing.assert_close(seen["1"], before.relu())


def test_an_in_place_first_layer_does_not_change_the_other_models_input():
    x = torch.randn(30, 4)
    dataset = TensorDataset(x, torch.arange(30) % 3)
    greedy = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))
    student = mlp(2)
    seen = look(Data(dataset, dataset, dataset), greedy, student, taps(("1",), ("0",)))
    assert x.min() < 0
    torch.testing.assert_close(seen.student.features["0"], student[0](x))


def test_a_module_called_twice_gives_both_calls():
    net, x = Functional().eval(), torch.randn(5, 4)
    seen = record(net, ("twice#1", "twice#2"), x)
    first = net.twice(net.first(x).relu())
    torch.testing.assert_close(seen["twice#1"], first)
    torch.testing.assert_close(seen["twice#2"], net.twice(first.relu()))
    assert not torch.allclose(first, seen["twice#2"])


def test_sequences_from_convolutions_are_pooled_over_length():
    net = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    x = torch.randn(4, 2, 10)
    seen = record(net, ("1",), x)["1"]
    torch.testing.assert_close(seen, net[:2](x).mean(2))
    assert seen.shape == (4, 6)


def test_masked_tokens_do_not_count():
    net = Tokens()
    ids = torch.tensor([[1, 2, 9, 9], [3, 4, 5, 6]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    seen = record(net, ("embed",), {"input_ids": ids, "attention_mask": mask})["embed"]
    torch.testing.assert_close(seen[0], net.embed.weight[[1, 2]].mean(0))
    torch.testing.assert_close(seen[1], net.embed.weight[3:7].mean(0))


def test_recorded_layers_must_exist_and_run():
    with pytest.raises(InputError, match="layer of the student but got 'frist'; nearest: 'first'"):
        Recorder(Functional(), ("frist",), "gap", "student")
    with pytest.raises(InputError, match="layer 'never' of the student to run"):
        record(Functional(), ("never",), torch.ones(2, 4))


def test_everything_comes_back_in_the_splits_own_order():
    data, teacher, student = vectors(), mlp(), mlp(2)
    seen = look(data, teacher, student, taps(batch_size=7))
    x = data.dataset("test").tensors[0]
    torch.testing.assert_close(seen.teacher.outputs, teacher.eval()(x))
    torch.testing.assert_close(seen.student.outputs, student.eval()(x))
    torch.testing.assert_close(seen.teacher.features["1"], teacher[:2](x))
    torch.testing.assert_close(seen.student.features["0"], student[0](x))
    assert torch.equal(seen.targets, torch.arange(30) % 3)
    assert seen.teacher.rows.tolist() == list(range(30))
    assert seen.teacher.layers == ("0", "1", "3")
    assert seen.untrained is None


class Changing(torch.utils.data.Dataset):
    """Gives other numbers each time."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.randn(4), index % 3


def test_a_dataset_that_answers_differently_each_time_is_refused():
    data = Data(Changing(), Changing(), Changing())
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=r"sample 0 of the test dataset changes.*augment"):
        data.check("test")
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(InputError, match="sample 0 of the test dataset changes"):
        look(data)


def test_each_sample_is_fetched_once_for_all_models(monkeypatch):
    monkeypatch.setattr(Data, "check", lambda self, split: None)
    teacher = mlp()
    data = Data(Changing(), Changing(), Changing())
    seen = look(data, teacher, copy.deepcopy(teacher), taps(batch_size=5))
    assert seen.teacher.outputs.std() > 0
    assert torch.equal(seen.teacher.outputs, seen.student.outputs)


def test_one_model_in_both_roles_and_a_shared_layer():
    shared = nn.Linear(4, 6)
    teacher = nn.Sequential(shared, nn.Linear(6, 3))
    student = nn.Sequential(shared, nn.Linear(6, 3))
    seen = look(None, teacher, student, taps(("0", "1")))
    assert torch.equal(seen.teacher.features["0"], seen.student.features["0"])
    assert not torch.allclose(seen.teacher.features["1"], seen.student.features["1"])
    same = look(None, teacher, teacher, taps(("0", "1")))
    assert torch.equal(same.teacher.features["1"], same.student.features["1"])


def hooks(*models) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for model in models
        for module in model.modules()
    )


@pytest.mark.parametrize("fails", [False, True])
def test_models_are_left_as_they_were(fails):
    teacher, student = mlp().train(), mlp(2).train()
    teacher[2].eval()
    teacher[0].weight.requires_grad_(False)
    if fails:
        with torch.no_grad():
            student[3].bias[0] = torch.nan
    states = copy.deepcopy(teacher.state_dict())
    torch.manual_seed(5)
    random = torch.get_rng_state()
    models = {"teacher": teacher, "student": student}
    if fails:
        with pytest.raises(InputError, match="nan"):
            observe("test", vectors(), Classification(), models, taps())
    else:
        observe("test", vectors(), Classification(), models, taps())
    assert hooks(teacher, student) == 0
    assert [module.training for module in teacher] == [True, True, False, True]
    assert teacher.training
    assert all(module.training for module in student)
    assert not teacher[0].weight.requires_grad
    assert teacher[3].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, states[name])


def test_models_go_to_the_device_and_back():
    class Travels(nn.Linear):
        trips: list[str] = []  # noqa: RUF012

        def to(self, device):
            self.trips.append(str(device))
            return self

    net = Travels(2, 2)
    with pytest.raises(KeyError), placed([net], "meta"):
        raise KeyError
    assert net.trips == ["meta", "cpu"]
    with placed([net], "cpu"):
        assert net.trips == ["meta", "cpu"]


def test_features_are_capped_by_a_seeded_choice_but_sums_are_not():
    data, teacher = vectors(), mlp()
    seen = look(data, teacher, None, taps(cap=11, batch_size=8, seed=3))
    assert len(seen.teacher.rows) == 11
    assert (np.diff(seen.teacher.rows) > 0).all()
    assert seen.teacher.rows.tolist() != list(range(11))
    x = data.dataset("test").tensors[0][seen.teacher.rows]
    torch.testing.assert_close(seen.teacher.features["0"], teacher[0](x))
    assert seen.moments.n == 30
    assert len(seen.teacher.outputs) == 30
    again = look(data, teacher, None, taps(cap=11, batch_size=30, seed=3))
    assert again.teacher.rows.tolist() == seen.teacher.rows.tolist()


def test_sums_do_not_depend_on_the_batch_size():
    data, teacher = vectors(90), mlp()
    student = mlp(2)
    layers = taps(cap=50, batch_size=90), taps(cap=50, batch_size=29)
    one, many = (look(data, teacher, student, used).moments.products() for used in layers)
    assert isinstance(look(data, teacher, student, layers[0]).moments, Moments)
    np.testing.assert_allclose(many.cross, one.cross, rtol=1e-5)  # forward passes round apart


def test_wide_layers_use_gram_matrices_or_batches(monkeypatch):
    wide = nn.Sequential(nn.Linear(4, 500), nn.Linear(500, 3))
    layers = taps(("0",))
    assert isinstance(look(None, wide, wide, layers).moments, Grams)
    from gapkit.probes import sums

    monkeypatch.setattr(sums, "BYTE_BUDGET", 1000)
    monkeypatch.setattr(sums, "GRAM_WORK", 0)
    seen = look(None, wide, wide, layers, untrained=wide)
    assert isinstance(seen.moments, BatchHsic)
    assert isinstance(seen.untrained_moments, BatchHsic)
    assert look(None, wide, wide, taps(("0",), moments=False)).moments is None


def test_the_untrained_student_is_seen_beside():
    seen = look(untrained=mlp(2))
    assert set(seen.models) == {"teacher", "student", "untrained"}
    assert seen.untrained_moments.dims_y == seen.moments.dims_y
    assert not torch.equal(seen.untrained.outputs, seen.student.outputs)


def test_groups_slices_and_progress():
    groups = {"test": [i // 3 for i in range(30)]}
    data = vectors(groups=groups, slices={"odd": {"test": [i % 2 for i in range(30)]}})
    done = []
    observe(
        "test",
        data,
        Classification(),
        {"teacher": mlp(), "student": mlp(2)},
        taps(batch_size=16),
        done.append,
    )
    assert done == [16, 30]
    seen = look(data)
    assert seen.groups.tolist() == groups["test"]
    assert seen.slices["odd"].tolist() == [0, 1] * 15
    assert seen.moments.groups


def test_half_precision_models_give_float32():
    half = nn.Sequential(nn.Linear(4, 3)).to(torch.bfloat16)
    data = vectors(teacher_input=lambda raw: raw[0].to(torch.bfloat16))
    seen = look(data, half, mlp(), taps(("0",)))
    assert seen.teacher.outputs.dtype == seen.teacher.features["0"].dtype == torch.float32


def test_nan_features_name_model_layer_and_sample():
    class Spoils(nn.Module):
        def forward(self, x):
            y = x[:, :4].clone()
            y[x[:, 0] == 17, 2] = torch.nan
            return y

    x = torch.arange(30.0)[:, None].expand(30, 4).contiguous()
    data = Data(*[TensorDataset(x, torch.arange(30) % 3)] * 3)
    student = nn.Sequential(Spoils(), nn.Linear(4, 3))
    message = (
        r"Expected finite features but got nan from the student at '0' "
        r"for sample 'test/17' \(1 of 4 values\)"
    )
    with pytest.raises(InputError, match=message):
        look(data, mlp(), student, taps(("1",), ("0",)))


def test_infinite_outputs_name_model_and_sample():
    teacher = mlp()
    with torch.no_grad():
        teacher[3].bias.fill_(-torch.inf)
    with pytest.raises(
        InputError,
        match=r"finite outputs but got -inf from the teacher for sample 'test/\d+' \(3 of 3",
    ):
        look(None, teacher, None, taps(("1",)))


def test_other_classes_are_refused():
    with pytest.raises(InputError, match="have the same classes but got 7 and 3"):
        look(None, mlp(n_classes=7), mlp(n_classes=3))
    with pytest.raises(InputError, match="teacher and untrained to have the same classes"):
        look(untrained=mlp(n_classes=4))


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(InputError, match="the teacher's 2 classes"):
        look(None, mlp(n_classes=2), mlp(n_classes=2))


def test_a_student_that_refuses_its_view_is_named():
    with pytest.raises(
        InputError,
        match=r"Expected the student to accept its view of shape \(30, 4\) but it raised Runt",
    ):
        look(None, mlp(), nn.Sequential(nn.Linear(9, 3)), taps(("1",), ("0",)))


def test_outputs_of_other_samples_are_refused():
    class Half(nn.Linear):
        def forward(self, x):
            return super().forward(x[: len(x) // 2])

    with pytest.raises(
        InputError, match=r"Expected 30 samples first in the outputs from the student"
    ):
        look(None, mlp(), Half(4, 3), taps(("1",), ("(model)",)))


def test_roles_are_checked():
    with pytest.raises(InputError, match="known role of a model but got 'pupil'"):
        observe("test", vectors(), Classification(), {"teacher": mlp(), "pupil": mlp()}, taps())
    with pytest.raises(InputError, match="the student is missing"):
        observe("test", vectors(), Classification(), {"teacher": mlp()}, taps())
    with pytest.raises(InputError, match="batch_size and cap of at least 1"):
        taps(batch_size=0)


class Sentences(torch.utils.data.Dataset):
    """Token ids of different length, padded to the longest of the batch by the view."""

    def __init__(self, n: int = 20, longest: int = 6) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1, 10, (n, longest), generator=generator)
        self.lengths = torch.randint(2, longest + 1, (n,), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"ids": self.ids[index], "length": self.lengths[index]}


def padded(batch, shift: int = 0, longer: int = 0):
    longest = int(batch["length"].max())
    mask = (torch.arange(longest) < (batch["length"] + longer)[:, None]).long()
    return {"input_ids": (batch["ids"][:, :longest] + shift) * mask, "attention_mask": mask}


def labels_of(batch):
    view = padded(batch)
    return torch.where(view["attention_mask"] == 1, view["input_ids"] % 2, -100)


class Tagger(nn.Module):
    """Logits for every token."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(12, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids, attention_mask):
        return {"logits": self.head(torch.tanh(self.mix(self.embed(input_ids))))}


def sentences(student_view=padded, target=labels_of, **keywords) -> Data:
    parts = Sentences(), Sentences(), Sentences()
    return Data(*parts, teacher_input=padded, student_input=student_view, target=target, **keywords)


def test_tokens_become_rows_that_know_their_sample_and_place():
    used = taps(("embed", "mix"), reduce="tokens", batch_size=4, cap=1000)
    teacher = Tagger()
    seen = look(sentences(), teacher, Tagger(3), used)
    data = Sentences()
    shown = seen.teacher
    assert shown.tokens is not None
    assert len(shown.rows) == int(data.lengths.sum()) == len(shown.features["mix"])
    for row, place, features in zip(shown.rows, shown.tokens, shown.features["embed"]):
        assert torch.equal(features, teacher.embed.weight[data.ids[row, place]].detach())
    assert seen.groups is not None
    assert (seen.groups == np.arange(20)).all()
    assert seen.moments is not None
    assert seen.moments.n == len(shown.rows)


def test_the_number_of_kept_tokens_is_bounded_and_random():
    used = taps(("mix",), reduce="tokens", batch_size=4, cap=13)
    seen = look(sentences(), Tagger(), Tagger(3), used)
    assert len(seen.teacher.rows) == len(seen.student.features["mix"]) == 13
    assert not (np.diff(seen.teacher.rows) >= 0).all()
    assert seen.moments.n > 13


def test_sequences_of_different_length_are_padded_to_the_longest():
    teacher = Tagger()
    seen = look(sentences(), teacher, Tagger(3), taps(("mix",), batch_size=3))
    data = Sentences()
    assert seen.teacher.outputs.shape == (20, int(data.lengths.max()), 2)
    assert ((seen.targets != -100).sum(1) == data.lengths).all()
    for row in (0, 7):
        n = int(data.lengths[row])
        alone = teacher(data.ids[row : row + 1, :n], None)["logits"][0]
        torch.testing.assert_close(seen.teacher.outputs[row, :n], alone.detach())


@pytest.mark.parametrize("change", [{"shift": 1}, {"longer": 1}])
def test_two_tokenizers_are_refused_for_tokens_and_fine_for_sentences(change):
    data = sentences(lambda batch: padded(batch, **change))
    with pytest.raises(InputError, match=r"same tokens.*two tokenizers.*reduce='mean'"):
        look(data, Tagger(), Tagger(3), taps(("mix",), reduce="tokens"))
    look(data, Tagger(), Tagger(3), taps(("mix",), reduce="mean"))


def test_a_layer_without_tokens_is_refused_for_tokens():
    with pytest.raises(InputError, match="tokens"):
        look(used=taps(reduce="tokens"))


def test_what_is_large_goes_to_a_file_and_reads_the_same(monkeypatch):
    plain = look(used=taps(batch_size=7))
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    monkeypatch.setattr(store, "LARGE", 0)
    filed = look(used=taps(batch_size=7))
    assert filed.teacher.features._map is not None
    assert plain.teacher.features._map is None
    assert plain.teacher.features["1"].std() > 0
    for layer in ("0", "1", "3"):
        assert torch.equal(plain.student.features[layer], filed.student.features[layer])
    assert torch.equal(plain.teacher.outputs, filed.teacher.outputs)
    assert torch.equal(plain.targets, filed.targets)


def test_fewer_samples_are_kept_when_bytes_run_out(monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    monkeypatch.setattr(store, "MOST", 4 * (5 + 5 + 3 + 2 + 2 + 3) * 11)
    seen = look()
    assert len(seen.teacher.rows) == 11
    assert seen.moments is not None
    assert seen.moments.n == 30


def test_too_little_room_for_outputs_is_said(monkeypatch):
    monkeypatch.setattr(store, "LARGE", 0)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(InputError, match=r"room for targets \(30,\).*TMPDIR"):
        look()


def test_outputs_of_changing_width_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x)[:, : 3 if len(x) == 20 else 2]

    with pytest.raises(InputError, match="one shape for all samples"):
        look(None, Odd(), Odd(), taps(("layer",), batch_size=20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_formats_give_float32_features(dtype):
    data = vectors(teacher_input=lambda batch: batch[0].to(dtype))
    teacher = mlp()
    exact = look(vectors(), teacher)
    seen = look(data, copy.deepcopy(teacher).to(dtype))
    assert seen.teacher.features["1"].dtype == torch.float32
    close = {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(seen.teacher.features["1"], exact.teacher.features["1"], **close)


def test_a_number_format_that_does_not_fit_is_said():
    with pytest.raises(InputError, match=r"teacher to accept its view.*dtype"):
        look(vectors(), mlp().to(torch.bfloat16))


def test_wrapped_models_are_seen_through():
    teacher = mlp()
    plain = look(None, teacher)
    for wrapped in (nn.DataParallel(teacher), torch.compile(teacher, backend="eager")):
        seen = look(None, wrapped)
        assert torch.equal(plain.teacher.features["1"], seen.teacher.features["1"])
