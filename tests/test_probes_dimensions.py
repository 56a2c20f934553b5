"""Dimensions: labels, rarity, quarters and crossings on columns whose slices are known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from gapkit.probes.dimensions import (
    Dimension,
    crossings,
    dimensions,
    largest,
    same_crossings,
    same_slices,
)
from gapkit.probes.probe import Observation, Seen


def view(
    targets: torch.Tensor | None, outputs: torch.Tensor | None = None, **slices: object
) -> Seen:
    n = len(next(iter(slices.values()))) if targets is None else len(targets)
    shown = Observation(torch.zeros(n, 1) if outputs is None else outputs, (), {}, np.arange(n))
    columns = {name: np.asarray(column) for name, column in slices.items()}
    return Seen("test", shown, shown, None, targets, slices=columns)


def found(
    shown: Seen,
    judge: Seen | None = None,
    train: Seen | None = None,
    kind: str = "classification",
) -> dict[str, Dimension]:
    targets = shown.targets
    assert targets is not None
    every = dimensions(shown, judge or shown, train, targets, kind)
    return {item.name: item for item in every}


def sizes(item: Dimension) -> dict[str, int]:
    return dict(zip(item.groups, item.counts.tolist()))


def members(item: Dimension) -> dict[str, set[int]]:
    return {
        group: set(item.rows[item.codes == index].tolist())
        for index, group in enumerate(item.groups)
    }


def test_labels_are_slices_by_task():
    labels = torch.tensor([7, 3, 7, 7])
    assert members(found(view(labels))["class"]) == {"class=3": {1}, "class=7": {0, 2, 3}}
    assert "class" not in found(view(labels), kind="regression")
    assert "class" in found(view(labels), kind="embedding")
    assert "class" not in found(view(labels.float()))
    assert "class" not in found(view(torch.zeros(4, 5, dtype=torch.long)))  # tokens


def test_several_labels_share_samples():
    targets = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    by_label = found(view(targets), kind="multilabel")["class"]
    assert members(by_label) == {"class=0": {0}, "class=1": {0, 1}}


def test_rarity_is_thirds_of_the_training_samples():
    train = view(torch.tensor([0] * 50 + [1] * 30 + [2] * 10 + [3] * 10))
    shown = view(torch.tensor([0, 1, 2, 3, 3, 9]))  # training has no sample of class 9
    rarity = found(shown, train=train)["rarity"]
    # More frequent than class 1: half of all samples; than classes 2 and 3, which tie: 80 of 100.
    assert members(rarity) == {"rarity=head": {0}, "rarity=mid": {1}, "rarity=tail": {2, 3, 4, 5}}
    assert "rarity" not in found(shown)
    even = view(torch.tensor([0] * 15 + [1] * 10 + [2] * 9))
    assert "rarity" not in found(shown, train=even)
    declared = view(shown.targets, rarity=["a", "a", "b", "b", "b", "b"])
    assert sizes(found(declared, train=train)["rarity"]) == {"rarity=a": 2, "rarity=b": 4}


def test_rarity_of_several_labels_is_that_of_the_rarest():
    train = view(torch.tensor([[1, 0], [1, 0], [1, 0], [1, 1]]))
    shown = view(torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]]))
    rarity = found(shown, train=train, kind="multilabel")["rarity"]
    assert members(rarity) == {"rarity=head": {0}, "rarity=tail": {1, 2}}


def test_difficulty_is_quarters_of_the_teachers_confidence_on_the_judge():
    def sure(shares: list[float]) -> Seen:
        p = torch.tensor(shares)
        return view(torch.zeros(len(p), dtype=torch.long), torch.stack([p, 1 - p], 1).log())

    judge = sure([0.6, 0.7, 0.8, 0.9] * 5)
    item = found(sure([0.55, 0.65, 0.95, 0.75]), judge)["difficulty"]
    assert members(item) == {
        "difficulty=confidence up to 0.6": {0},
        "difficulty=confidence 0.6 to 0.7": {1},
        "difficulty=confidence 0.7 to 0.8": {3},
        "difficulty=confidence above 0.8": {2},
    }
    assert "made on test" in item.note
    assert "luck" in item.note
    assert "difficulty" not in found(sure([0.9] * 8))
    assert "difficulty" not in found(sure([0.6, 0.7]), judge, kind="regression")
    mostly = found(sure([0.6] + [0.9] * 9))["difficulty"]
    assert list(sizes(mostly).values()) == [1, 9]


def test_confidence_in_several_labels_is_the_mean_of_the_likelier_answers():
    logits = torch.logit(torch.tensor([[0.9, 0.1], [0.6, 0.6], [0.2, 0.5], [0.01, 0.01]]).double())
    shown = view(torch.ones(4, 2), logits)
    by = found(shown, kind="multilabel")["difficulty"]
    assert by.codes.tolist() == [2, 0, 1, 3]


def test_declared_columns_are_taken_as_they_are_or_in_quarters():
    n = 40
    length = np.arange(n) / 10
    length[7] = np.nan
    shown = view(
        torch.zeros(n),
        language=np.array(["de", "en"], dtype=object)[np.arange(n) % 2],
        year=np.arange(n) // 3,
        half=np.arange(n) % 2 / 2,
        length=length,
        flag=np.arange(n) % 2 == 0,
    )
    by = found(shown, kind="regression")
    assert sizes(by["language"]) == {"language=de": 20, "language=en": 20}
    assert len(by["year"].groups) == 14  # whole numbers
    assert sizes(by["half"]) == {"half=0.0": 20, "half=0.5": 20}
    assert sizes(by["flag"]) == {"flag=False": 20, "flag=True": 20}
    finite = length[~np.isnan(length)]
    edges = np.quantile(finite, [0.25, 0.5, 0.75], method="inverted_cdf")
    assert by["length"].groups[-1] == "length=missing"
    for index, group in enumerate(by["length"].groups[:-1]):
        low, high = np.r_[-np.inf, edges, np.inf][index : index + 2]
        want = np.flatnonzero((length > low) & (length <= high))
        assert members(by["length"])[group] == set(want.tolist())
    assert "quarters made on test" in by["length"].note


def test_a_declared_difficulty_takes_the_place_of_confidence_and_class_keeps_its_name():
    labels = torch.arange(40) % 2
    shown = view(labels, difficulty=np.arange(40), **{"class": np.arange(40) // 20})
    by = found(shown)
    assert list(sizes(by["difficulty"]).values()) == [10, 10, 10, 10]
    assert by["difficulty"].groups[0] == "difficulty=up to 9"
    assert sizes(by["slice class"]) == {"slice class=0": 20, "slice class=1": 20}
    assert sizes(by["class"]) == {"class=0": 20, "class=1": 20}


def test_close_quartiles_are_told_apart():
    values = 1 - np.repeat([4e-6, 3e-6, 2e-6, 1e-6], 5) * (1 + np.arange(20) * 1e-9)
    groups = found(view(torch.zeros(20), x=values), kind="regression")["x"].groups
    assert len(set(groups)) == 4


def by_hand(one: np.ndarray, two: np.ndarray) -> Counter:
    return Counter(zip(one.tolist(), two.tolist()))


def test_crossings_by_hand():
    rng = np.random.default_rng(0)
    n = 400
    labels, side, place = rng.integers(0, 3, n), rng.integers(0, 2, n), rng.integers(0, 30, n)
    every = list(found(view(torch.from_numpy(labels), side=side, place=place)).values())
    got, left_out = crossings(every, n, least=20, most=100)
    counts = by_hand(labels, side)
    assert min(counts.values()) > 40
    want = {f"class={a} & side={b}": count for (a, b), count in counts.items()}
    assert sizes(got[0]) == want
    assert [item.name for item in got] == ["class & side"]  # places are too small to cross
    assert left_out == 0
    few, left_out = crossings(every, n, least=20, most=2)
    assert sizes(few[0]) == dict(sorted(want.items(), key=lambda item: -item[1])[:2])
    assert left_out == 4


def test_a_crossing_that_is_one_of_its_slices_is_none():
    labels = torch.arange(100) % 4
    nested = view(labels, parity=labels.numpy() % 2)
    assert crossings(list(found(nested).values()), 100, 1, 100) == ([], 0)
    assert crossings([], 100, 1, 100) == ([], 0)


def test_crossings_of_several_labels():
    rng = np.random.default_rng(1)
    targets, side = rng.integers(0, 2, (200, 3)), rng.integers(0, 2, 200)
    every = list(found(view(torch.from_numpy(targets), side=side), kind="multilabel").values())
    got, _ = crossings(every, 200, 1, 100)
    assert len(got[0].groups) == 6
    for group, rows in members(got[0]).items():
        label, value = int(group[6]), int(group[-1])
        assert rows == set(np.flatnonzero((targets[:, label] == 1) & (side == value)).tolist())


def test_the_same_slices_of_another_split():
    rng = np.random.default_rng(2)
    one, two = (
        list(found(view(torch.from_numpy(labels), side=rng.integers(0, 2, len(labels)))).values())
        for labels in (rng.integers(0, 4, 200), rng.integers(1, 6, 90))
    )
    chosen, _ = crossings(one, 200, 26, 100)
    again = same_crossings(two, 90, chosen)
    wanted, got = ({group for item in part for group in item.groups} for part in (chosen, again))
    assert len(got) < len(wanted)
    assert got == {group for group in wanted if "class=0" not in group}
    assert same_crossings(two, 90, []) == []
    assert [item.groups for item in same_slices(two, one)] == [
        ("class=1", "class=2", "class=3"),
        ("side=0", "side=1"),
    ]


@pytest.mark.parametrize("most, want", [(9, 5), (2, 2), (0, 0)])
def test_the_largest_slices(most, want):
    every = list(found(view(torch.tensor([0, 1, 1, 2, 2, 2]), side=[0, 0, 0, 0, 1, 1])).values())
    kept, left_out = largest(every, most)
    assert sum(len(item.groups) for item in kept) == want
    assert left_out == 5 - want
    if most == 2:
        assert {group for item in kept for group in item.groups} == {"class=2", "side=0"}
