"""Splits, views, ids, groups and slices of a user's data, which is read and never changed."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from gapkit.data import Data
from gapkit.errors import InputError


def tensors(n=40, classes=4, offset=0.0):
    return TensorDataset(torch.arange(n).float().view(n, 1) + offset, torch.arange(n) % classes)


class Records(Dataset):
    """Dicts with a text column, as text datasets give them."""

    def __init__(self, n=10):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return {"x": torch.tensor([float(row)]), "labels": row % 2, "text": f"row {row}"}


def test_a_stratified_fifth_of_train_becomes_validation():
    data = Data(train=tensors(), test=tensors(12))
    assert [data.size(split) for split in ("train", "validation", "test")] == [32, 8, 12]
    assert np.bincount(data.targets("validation").numpy()).tolist() == [2, 2, 2, 2]
    assert set(data.ids("train")).isdisjoint(data.ids("validation"))
    assert sorted(data.ids("train").tolist() + data.ids("validation").tolist()) == sorted(
        f"train/{row}" for row in range(40)
    )


def test_the_carved_split_depends_on_the_seed_only():
    first, again, other = (
        Data(tensors(), tensors(), seed=seed).ids("validation") for seed in (0, 0, 1)
    )
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_given_validation_set_leaves_train_whole():
    data = Data(tensors(), tensors(12), tensors(6, offset=100))
    assert data.size("train") == 40
    assert data.ids("validation").tolist() == [f"validation/{row}" for row in range(6)]
    assert next(data.batches("validation", 9)).raw[0].min() == 100


def test_a_class_with_one_sample_is_carved_without_stratification():
    labels = torch.tensor([0] * 9 + [1])
    data = Data(TensorDataset(torch.arange(10), labels), tensors())
    assert [data.size("train"), data.size("validation")] == [8, 2]


def test_groups_stay_on_one_side_of_the_carved_split():
    group = np.arange(40) // 4
    data = Data(tensors(), tensors(), groups={"train": group, "test": group})
    sides = [set(data.groups(split).tolist()) for split in ("train", "validation")]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[1]) == 2
    assert data.size("validation") == 8
    with pytest.raises(InputError, match="at least two groups"):
        Data(tensors(), tensors(), groups=lambda sample: 0).size("train")


def test_batches_keep_the_order_and_every_sample_once():
    data = Data(tensors(), tensors(10))
    batches = list(data.batches("test", 4))
    assert [len(batch.positions) for batch in batches] == [4, 4, 2]
    assert np.concatenate([batch.positions for batch in batches]).tolist() == list(range(10))
    assert torch.cat([batch.raw[0] for batch in batches]).flatten().tolist() == list(range(10))
    assert torch.equal(torch.cat([batch.raw[1] for batch in batches]), data.targets("test"))


def test_batches_follow_a_given_order_of_positions():
    data = Data(tensors(), tensors(10))
    batch = next(data.batches("test", 3, np.array([7, 2, 2])))
    assert batch.positions.tolist() == [7, 2, 2]
    assert batch.raw[0].flatten().tolist() == [7, 2, 2]


def test_positions_of_a_carved_split_count_within_the_split():
    data = Data(tensors(), tensors())
    batch = next(data.batches("validation", 100))
    assert batch.positions.tolist() == list(range(8))
    rows = [int(name.split("/")[1]) for name in data.ids("validation")]
    assert batch.raw[0].flatten().tolist() == rows


def test_reading_batches_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    list(Data(tensors(), tensors()).batches("train", 8))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    alone, helped = (list(Data(Records(), Records(), workers=n).batches("test", 4)) for n in (0, 2))
    assert [batch.raw["text"] for batch in alone] == [batch.raw["text"] for batch in helped]
    assert all(torch.equal(a.raw["x"], b.raw["x"]) for a, b in zip(alone, helped))


def test_tuples_are_input_and_target():
    data = Data(tensors(), tensors())
    raw = (torch.ones(2, 1), torch.tensor([0, 1]))
    assert data.teacher_view(raw) is raw[0]
    assert data.student_view(raw) is raw[0]
    assert data.target(raw) is raw[1]
    assert data.same_view
    assert data.target((raw[0],)) is None
    assert data.target(raw[0]) is None


@pytest.mark.parametrize("wrap", [dict, collections.UserDict])
def test_dicts_are_keywords_without_their_target(wrap):
    data = Data(Records(), Records())
    raw = wrap(x=torch.ones(1), labels=torch.tensor([1]), text=["a"])
    assert data.target(raw) is raw["labels"]
    assert data.student_view(raw) == {"x": raw["x"], "text": ["a"]}


def test_each_model_can_have_its_own_view():
    data = Data(
        Records(),
        Records(),
        teacher_input=lambda raw: raw["x"] * 10,
        student_input=lambda raw: {"text": raw["text"]},
        target=lambda raw: raw["labels"] + 5,
    )
    raw = next(data.batches("test", 3)).raw
    assert data.teacher_view(raw).flatten().tolist() == [0, 10, 20]
    assert data.student_view(raw) == {"text": ["row 0", "row 1", "row 2"]}
    assert not data.same_view
    assert data.targets("test").tolist() == [5, 6] * 5


def test_data_without_targets_says_none():
    data = Data(TensorDataset(torch.ones(10, 2)), TensorDataset(torch.ones(4, 2)))
    assert data.targets("test") is None
    assert [data.size("train"), data.size("validation")] == [8, 2]


def test_ids_and_slices_are_functions_of_a_sample_or_columns():
    column = {"train": list("abcdefghij"), "test": list("klmnopqrst")}
    data = Data(
        Records(),
        Records(),
        ids=lambda sample: sample["text"],
        slices={"letter": column, "parity": lambda sample: sample["labels"]},
    )
    rows = [int(name.split()[1]) for name in data.ids("validation")]
    assert data.slices("validation")["letter"].tolist() == [column["train"][row] for row in rows]
    assert data.slices("validation")["parity"].tolist() == [row % 2 for row in rows]
    assert data.slices("test")["letter"].tolist() == column["test"]
    assert data.groups("test") is None
    assert Data(tensors(), tensors()).slices("test") == {}


def test_columns_that_do_not_fit_are_refused():
    short = Data(
        Records(), Records(), slices={"letter": {"train": list("abc"), "test": list("abc")}}
    )
    with pytest.raises(InputError, match="Expected 10 slice 'letter' for 'test' but got 3"):
        short.slices("test")
    partial = Data(Records(), Records(), ids={"train": range(10)})
    with pytest.raises(InputError, match=r"ids for the split 'test' but got only \['train'\]"):
        partial.ids("test")


@pytest.mark.parametrize("ask", ["size", "dataset", "targets", "ids", "batches"])
def test_an_unknown_split_names_the_nearest(ask):
    data = Data(tensors(), tensors())
    with pytest.raises(InputError, match="known split but got 'tests'; nearest: 'test'"):
        list(data.batches("tests", 4)) if ask == "batches" else getattr(data, ask)("tests")


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"train": iter(())}, "map-style train dataset"),
        ({"test": None}, "map-style test dataset .* but got NoneType"),
        ({"train": []}, "at least one sample in the train dataset"),
        ({"validation": []}, "at least one sample in the validation dataset"),
        ({"validation_share": 0.0}, "between 0 and 1 but got 0.0"),
        ({"validation_share": 1.0}, "between 0 and 1"),
    ],
)
def test_data_that_cannot_be_used_is_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        Data(**{"train": tensors(), "test": tensors()} | arguments)


def test_one_training_sample_cannot_be_carved():
    with pytest.raises(InputError, match="at least two training samples"):
        Data(tensors(1), tensors()).size("train")


def test_the_fingerprint_changes_with_values_labels_order_and_splits():
    def fingerprint(**changes):
        return Data(**{"train": tensors(), "test": tensors(12)} | changes).fingerprint()

    values = tensors(12)
    values.tensors[0][3] += 1
    labels = tensors(12)
    labels.tensors[1][3] += 1
    order = TensorDataset(*(tensor.flip(0) for tensor in tensors(12).tensors))
    prints = [
        fingerprint(),
        *(fingerprint(test=test) for test in (values, labels, order, tensors(11))),
        fingerprint(seed=1),
        fingerprint(validation=tensors(8)),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint() == prints[0]
    assert len(prints[0]) == 64


def test_the_fingerprint_reads_dicts_and_text():
    class Louder(Records):
        def __getitem__(self, row):
            return super().__getitem__(row) | {"text": f"ROW {row}"}

    assert Data(Records(), Records()).fingerprint() == Data(Records(), Records()).fingerprint()
    assert Data(Records(), Louder()).fingerprint() != Data(Records(), Records()).fingerprint()


def test_the_datasets_are_not_written_to():
    train = tensors()
    before = [tensor.clone() for tensor in train.tensors]
    data = Data(train, tensors())
    data.fingerprint()
    for batch in data.batches("train", 8):
        batch.raw[0].add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, train.tensors))


def test_ids_that_name_two_samples_are_refused():
    xs, ys = torch.arange(12.0).view(12, 1), torch.arange(12) % 2
    columns = {"train": list("abcdefghijkk"), "test": list("abcdefghijkl")}
    data = Data(TensorDataset(xs, ys), TensorDataset(xs, ys), TensorDataset(xs, ys), ids=columns)
    data.check("test")
    with pytest.raises(InputError, match=r"'k' names 2"):
        data.check("train")


def test_a_sample_that_changes_is_refused():
    class Counting(torch.utils.data.Dataset):
        asked = 0

        def __len__(self):
            return 5

        def __getitem__(self, index):
            self.asked += 1
            return torch.full((2,), float(self.asked)), index % 2

    data = Data(Counting(), Counting(), Counting())
    with pytest.raises(InputError, match="the same sample each time"):
        data.check("train")


def test_a_sample_of_the_data_keeps_what_belongs_together():
    xs, ys = torch.arange(40.0).view(40, 1), torch.arange(40) % 4
    columns = {"train": np.arange(40), "test": np.arange(40)}
    data = Data(TensorDataset(xs, ys), TensorDataset(xs, ys), ids=columns, slices={"own": columns})
    whole = data.targets("train").clone()
    part = data.sample(5, seed=1)
    assert part.size("train") == part.size("test") == 5
    for split in ("train", "validation", "test"):
        batch = next(iter(part.batches(split, 10)))
        rows = part.student_view(batch.raw)[:, 0].long()
        assert (part.ids(split) == rows.numpy().astype(str)).all()
        assert (part.slices(split)["own"] == rows.numpy()).all()
        assert torch.equal(part.targets(split), rows % 4)
    assert data.size("train") == 32
    assert torch.equal(data.targets("train"), whole)


def test_thinned_data_has_one_in_so_many_samples_of_train_and_all_others():
    data = Data(tensors(), tensors(12))
    fewer = data.thinned(4)
    assert (data.size("train"), fewer.size("train")) == (32, 8)
    assert set(fewer.ids("train")) < set(data.ids("train"))
    for split in ("validation", "test"):
        assert fewer.ids(split).tolist() == data.ids(split).tolist()
    values = torch.cat([batch.raw[0] for batch in fewer.batches("train", 3)]).flatten()
    assert fewer.targets("train").tolist() == (values.long() % 4).tolist()
    assert data.thinned(4).ids("train").tolist() == fewer.ids("train").tolist()
    assert Data(tensors(), tensors(12), seed=1).thinned(4).size("train") == 8
    assert data.thinned(99).size("train") == 1


def test_thinned_data_forgets_the_targets_of_the_whole():
    data = Data(tensors(), tensors(12))
    assert len(data.targets("train")) == 32
    assert len(data.thinned(2).targets("train")) == 16
    assert len(data.targets("train")) == 32


def test_alike_data_shows_the_student_what_the_teacher_sees():
    data = Data(tensors(), tensors(), student_input=lambda raw: raw[0] * 0)
    same = data.alike()
    assert (data.same_view, same.same_view) == (False, True)
    raw = next(iter(same.batches("train", 5))).raw
    assert torch.equal(same.student_view(raw), raw[0])
    assert not data.student_view(raw).any()
    other = Data(tensors(), tensors(), teacher_input=lambda raw: raw[0] + 1).alike()
    assert torch.equal(other.student_view(raw), raw[0] + 1)
    assert other.ids("train").tolist() == data.ids("train").tolist()
