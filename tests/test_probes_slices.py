"""Slices on hand-made answers whose score by slice is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from gapkit.measurement import Curve, Measurement, Measurements
from gapkit.probes.probe import Observation, Seen, Setting
from gapkit.probes.slices import SliceProbe
from gapkit.task import Classification
from gapkit.tasks.embedding import Embedding


def answers(labels: torch.Tensor, wrong: np.ndarray, k: int) -> Observation:
    """Logits that name the label, or the next class where `wrong`."""
    named = (labels + torch.from_numpy(wrong).long()) % k
    return Observation(F.one_hot(named, k).float(), (), {}, np.arange(len(labels)))


def seen(
    split: str,
    labels: np.ndarray,
    wrong: np.ndarray,
    k: int = 3,
    slices: dict | None = None,
    **more,
) -> Seen:
    y = torch.from_numpy(labels)
    right = answers(y, np.zeros(len(y)), k)
    return Seen(split, right, answers(y, wrong, k), None, y, slices=slices or {}, **more)


def surveyed(*views: Seen, task: object = None) -> tuple[Measurements, list[Curve]]:
    net = nn.Identity()
    setting = Setting(task or Classification(), net, net, None, None)
    found = list(SliceProbe().measure({view.split: view for view in views}, setting))
    values = tuple(item for item in found if isinstance(item, Measurement))
    return Measurements(study="hand-made", values=values), [
        item for item in found if isinstance(item, Curve)
    ]


LABELS = np.arange(120) % 3
WRONG = (LABELS == 2) & (np.arange(120) < 90)
SIDE = np.where(np.arange(120) < 40, "left", "right")


def groups_of(found: Measurements) -> set[str]:
    return {item.group for item in found.find("gap")}


def test_scores_by_class_and_declared_slice_at_the_corrected_level():
    side = np.where(np.arange(120) < 40, "left", "right")
    found, _ = surveyed(seen("test", LABELS[:57], WRONG[:57], slices={"side": side[:57]}))
    groups = {item.group for item in found.find("accuracy", of="student")}
    assert groups == {"class=0", "class=1", "class=2", "side=left", "side=right"}
    score = found.get("accuracy", of="student", split="test", group="side=left")
    hits = 40 - WRONG[:40].sum()
    assert (score.value, score.n) == (hits / 40, 40)
    want = stats.binomtest(hits, 40).proportion_ci(1 - 0.05 / 5, method="exact")
    assert (score.low, score.high) == pytest.approx((want.low, want.high))
    assert score.level == pytest.approx(0.99)
    assert "corrected for 5 slices (Bonferroni)" in score.estimator
    assert "too small a slice to rely on (19 samples)" in found.find("gap")[0].estimator
    gap = found.get("gap", of="pair", split="test", group="class=2")
    assert (gap.value, gap.better) == (1.0, "lower")
    assert found.get("gap", of="pair", split="test", group="class=0").low < 0


def test_crossings_share_half_of_the_error():
    found, _ = surveyed(seen("test", LABELS, WRONG, slices={"side": SIDE}))
    crossed = {"class=0 & side=right", "class=1 & side=right", "class=2 & side=right"}
    assert {group for group in groups_of(found) if "&" in group} == crossed
    gap = found.get("gap", of="pair", split="test", group="class=2 & side=right")
    right = (LABELS == 2) & (SIDE == "right")
    assert (gap.value, gap.n) == (WRONG[right].mean(), right.sum())
    assert gap.level == pytest.approx(1 - 0.05 / 2 / 3)
    assert found.get("gap", split="test", group="class=2").level == pytest.approx(1 - 0.05 / 2 / 5)
    assert "5 slices and 3 crossings of two (Bonferroni, half of the error each)" in gap.estimator


def test_the_worst_slice_is_decided_on_validation_and_reported_on_test():
    other = LABELS == 1
    found, _ = surveyed(seen("validation", LABELS, WRONG), seen("test", LABELS, other))
    judged, reported = (found.find("worst_slice", split=split) for split in ("validation", "test"))
    assert [item.group for item in (*judged, *reported)] == ["class=2", "class=2"]
    assert (judged[0].value, reported[0].value) == (0.75, 0.0)
    assert judged[0].level == found.get("gap", split="validation", group="class=2").level
    assert reported[0].level == 0.95  # a single look
    assert reported[0].high < found.get("gap", split="test", group="class=2").high
    assert "named among 3 slices of validation" in reported[0].estimator
    assert "0.75 more than on all other samples" in reported[0].estimator
    assert "one look, hence not corrected: -0.5 more" in reported[0].estimator
    alone, _ = surveyed(seen("test", LABELS, other))
    assert alone.find("worst_slice")[0].group == "class=1"
    assert "slices of test" in alone.find("worst_slice")[0].estimator


def test_elsewhere_is_what_shares_nothing_with_the_worst_slice():
    wrong = WRONG | (np.arange(120) % 12 == 0)  # ten of class 0 too
    found, _ = surveyed(seen("validation", LABELS, wrong), seen("test", LABELS, LABELS == 1))
    judged, test = (found.find("gap_elsewhere", split=split)[0] for split in ("validation", "test"))
    assert (judged.group, test.group) == ("class=2", "class=2")
    assert (judged.value, judged.n, judged.level) == (10 / 80, 80, 0.95)
    assert test.value == 0.5  # of classes 0 and 1


def test_elsewhere_of_a_crossing_leaves_out_both_of_its_values():
    side = {"side": np.where(np.arange(120) < 75, "left", "right")}
    wrong = (LABELS == 2) & (side["side"] == "left") | (np.arange(120) == 117)
    found, _ = surveyed(seen("validation", LABELS, wrong, slices=side))
    rest = found.find("gap_elsewhere", split="validation")[0]
    assert rest.group == "class=2 & side=left"
    outside = (LABELS != 2) & (side["side"] == "right")
    assert (rest.value, rest.n) == (wrong[outside].mean(), outside.sum())


def test_a_worst_slice_that_test_lacks_is_nan_with_a_reason():
    kept = LABELS < 2
    found, _ = surveyed(seen("validation", LABELS, WRONG), seen("test", LABELS[kept], WRONG[kept]))
    worst = found.find("worst_slice", split="test")[0]
    assert math.isnan(worst.value)
    assert worst.reason == "no samples of class=2 on this split"


def test_no_slice_is_named_when_all_are_alike_bad():
    wrong = np.arange(120) // 3 % 2 == 0  # half of every class
    found, _ = surveyed(seen("validation", LABELS, wrong), seen("test", LABELS, LABELS == 1))
    for item in found.find("worst_slice"):
        assert item.group == ""
        assert "none of 3 slices of validation is worse than the rest beyond noise" in item.reason
        assert "(nearest: class=0 by 0, at least -0." in item.reason
    assert all(
        item.value == 0.5 and item.low > 0.2 for item in found.find("gap", split="validation")
    )


def test_a_worst_slice_just_short_of_the_rest():
    """Named as soon as the lower bound of its excess over the other samples passes zero."""
    named = []
    for n_wrong in range(41):
        wrong = (LABELS == 2) & (np.arange(120) < 3 * n_wrong)
        found, _ = surveyed(seen("test", LABELS, wrong))
        named.append(found.find("worst_slice")[0].group)
        gap, k = found.get("gap", split="test", group="class=2"), 1 - 0.05 / 3
        limit = stats.binomtest(0, 80).proportion_ci(k, method="exact").high
        assert gap.value == n_wrong / 40
        excess = gap.value - math.hypot(gap.value - gap.low, limit)
        assert (named[-1] == "class=2") == (excess > 0)
    assert named.index("class=2") == 7
    assert set(named[7:]) == {"class=2"}


def test_a_slice_is_not_named_when_its_rest_is_too_small_to_tell():
    side = np.where(np.arange(120) < 20, "few", "many")
    wrong = (side == "many") & (np.arange(120) % 10 < 2)
    one_class = np.zeros(120, dtype=np.int64)
    found, _ = surveyed(seen("test", one_class, wrong, slices={"side": side}))
    gap = found.get("gap", split="test", group="side=many")
    assert (gap.value, gap.n) == (0.2, 100)
    assert gap.low > 0.05
    assert "nearest: side=many by 0.2, at least -0" in found.find("worst_slice")[0].reason


def test_small_slices_are_measured_and_never_the_worst():
    tiny = np.where(np.arange(120) < 19, "odd", "even")
    wrong = (np.arange(120) < 19) | ((LABELS == 0) & (np.arange(120) < 90))
    found, _ = surveyed(seen("test", LABELS, wrong, slices={"kind": tiny}))
    score = found.get("accuracy", of="student", split="test", group="kind=odd")
    assert (score.value, score.n) == (0.0, 19)
    assert found.find("worst_slice")[0].group == "class=0"
    few, _ = surveyed(seen("test", LABELS[:39], WRONG[:39]))
    assert "no slice and its rest have 20 samples" in few.find("worst_slice")[0].reason


def test_equal_models_have_no_certain_gap_anywhere():
    found, _ = surveyed(seen("test", LABELS, np.zeros(120, dtype=bool)))
    for item in found.find("gap"):
        assert item.value == 0
        assert item.low < 0 < item.high
    assert found.find("worst_slice")[0].reason


def test_intervals_hold_for_all_slices_together_and_none_is_named_by_chance():
    """Ten classes, four quarters of difficulty and their crossings; a gap of 0.15 everywhere, accuracy of 0.97."""
    rng = np.random.default_rng(0)
    labels, together, named = np.arange(700) % 10, [], []
    for _ in range(120):
        view = seen(
            "test", labels, np.zeros(700, bool), k=10, slices={"difficulty": rng.random(700)}
        )
        teacher, student = (
            answers(view.targets, rng.random(700) < miss, 10) for miss in (0.03, 0.18)
        )
        found, _ = surveyed(replace(view, teacher=teacher, student=student))
        assert len(groups_of(found)) > 16
        together.append(
            [
                all(item.low <= true <= item.high for item in found.find(name, of=of))
                for name, of, true in (
                    ("accuracy", "teacher", 0.97), ("accuracy", "student", 0.82), ("gap", "pair", 0.15),
                )
            ]
        )  # fmt: skip
        named.append(found.find("worst_slice")[0].group != "")
    assert (np.mean(together, axis=0) >= 0.95).all()
    assert np.mean(named) <= 0.05


def test_many_slices_are_listed_where_the_student_is_worst():
    labels = np.arange(600) % 60
    wrong = (labels >= 35) & (np.arange(600) < 600 - (labels - 35) * 8)
    found, curves = surveyed(seen("test", labels, wrong, k=60))
    student = next(curve for curve in curves if curve.of == "student")
    assert student.ticks == tuple(str(label) for label in range(60))
    hits = ~wrong
    np.testing.assert_allclose(student.y, [hits[labels == label].mean() for label in range(60)])
    assert student.n.tolist() == [10] * 60
    assert (student.low <= student.y).all()
    listed = {item.group for item in found.find("accuracy", of="student")}
    assert len(listed) == 20
    worst = sorted(range(60), key=lambda label: student.y[label])[:20]
    assert listed == {f"class={label}" for label in worst}
    some = found.find("accuracy", of="student")[0]
    assert "one of the 20 worst of 60 class values" in some.estimator
    assert "corrected for 60 slices" in some.estimator


def test_crossings_are_chosen_on_validation_and_listed_alike():
    rng = np.random.default_rng(1)
    views = []
    for split, n in (("validation", 2000), ("test", 900)):
        columns = {name: rng.integers(0, 8, n) for name in ("a", "b", "c")}
        views.append(seen(split, rng.integers(0, 3, n), rng.random(n) < 0.3, slices=columns))
    found, _ = surveyed(*views)
    crossed = [
        {item.group for item in found.find("gap", split=split) if "&" in item.group}
        for split in ("validation", "test")
    ]
    assert len(crossed[0]) == 20
    assert crossed[0] == crossed[1]
    item = found.find("gap", split="test", group=min(crossed[0]))[0]
    assert "27 slices and 200 crossings" in item.estimator
    assert "59 smaller crossings not looked at" in item.estimator
    assert "one of the 20 worst of 200 crossings" in item.estimator
    assert item.n < 60


def test_groups_reach_the_intervals():
    plain, _ = surveyed(seen("test", LABELS, WRONG))
    grouped, _ = surveyed(seen("test", LABELS, WRONG, groups=np.arange(120) // 12))
    where = {"of": "student", "split": "test", "group": "class=2"}
    narrow, wide = (view.get("accuracy", **where) for view in (plain, grouped))
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    assert "groups" in wide.estimator


def test_scores_that_are_no_means_are_taken_within_the_slice():
    from sklearn.metrics import f1_score

    view = seen("test", LABELS, WRONG, slices={"side": SIDE})
    found, _ = surveyed(view, task=Classification("macro_f1"))
    rows = SIDE == "left"
    want = f1_score(LABELS[rows], ((LABELS + WRONG) % 3)[rows], average="macro")
    assert 0.3 < want < 0.9
    item = found.get("macro_f1", of="student", split="test", group="side=left")
    assert item.value == pytest.approx(want)
    assert item.n == 40
    assert "jackknife" in item.estimator
    assert groups_of(found) == {"class=0", "class=1", "class=2", "side=left", "side=right"}
    grouped, _ = surveyed(
        replace(view, groups=np.arange(120) // 20), task=Classification("macro_f1")
    )
    wide = grouped.get("macro_f1", of="student", split="test", group="side=left")
    assert wide.value == pytest.approx(want)
    assert wide.low < item.low


def test_the_error_of_a_score_taken_anew_is_that_of_the_samples():
    """For accuracy in disguise the jackknife over blocks comes close to the exact interval."""

    def disguised(logits: torch.Tensor, labels: torch.Tensor) -> float:
        return float((logits.argmax(1) == labels).float().mean())

    rng = np.random.default_rng(2)
    view = seen("test", np.arange(1200) % 3, rng.random(1200) < 0.3)
    anew, known = (
        surveyed(view, task=Classification(score))[0].find("gap", split="test")
        for score in (disguised, "accuracy")
    )
    for one, two in zip(anew, known):
        assert one.value == pytest.approx(two.value)
        assert one.high - one.low == pytest.approx(two.high - two.low, rel=0.5)


def test_only_the_largest_slices_are_scored_anew():
    labels = np.r_[np.repeat(np.arange(45), 3), np.repeat([44], 20)]
    found, _ = surveyed(
        seen("validation", labels, labels % 2 == 0, k=45),
        seen("test", labels[::-1].copy(), labels[::-1] % 2 == 0, k=45),
        task=Classification("macro_f1"),
    )
    for split in ("validation", "test"):
        groups = {item.group for item in found.find("gap", split=split)}
        assert len(groups) == 40
        assert "class=44" in groups
    first = found.find("gap", split="test", group="class=0")[0]
    assert "5 smaller slices not looked at" in first.estimator
    assert (first.low, first.high) == (1.0, 1.0)
    assert "no spread, hence no width" in first.estimator
    assert found.find("worst_slice", split="test")[0].group == ""


def test_a_score_that_refuses_a_slice_is_nan_with_its_words():
    def picky(logits: torch.Tensor, labels: torch.Tensor) -> float:
        if len(labels.unique()) < 2:
            raise ValueError("one class only")
        return float((logits.argmax(1) == labels).float().mean())

    wrong = np.arange(120) < 36
    found, curves = surveyed(
        seen("test", LABELS, wrong, slices={"side": SIDE}), task=Classification(picky)
    )
    item = found.get("picky", of="student", split="test", group="class=1")
    assert "one class only" in item.reason
    assert item.n == 40
    assert np.isnan(curves[0].y).all()
    assert found.find("worst_slice")[0].group == "side=left"


def test_tokens_are_scored_each_and_grouped_by_their_sample():
    rng = np.random.default_rng(3)
    labels = torch.from_numpy(rng.integers(0, 4, (60, 6)))
    labels[::2, 3:] = -100  # every other sequence is half as long
    wrong = torch.from_numpy(rng.random((60, 6)) < np.where(np.arange(60) % 2, 0.4, 0.1)[:, None])
    logits = F.one_hot(labels.clamp(min=0), 4).float()
    missed = F.one_hot((labels.clamp(min=0) + wrong) % 4, 4).float()
    rows = np.arange(60)
    view = Seen(
        "test", Observation(logits, (), {}, rows), Observation(missed, (), {}, rows), None, labels,
        slices={"length": np.where(rows % 2, "long", "short")},
    )  # fmt: skip
    found, curves = surveyed(view)
    assert groups_of(found) == {"length=long", "length=short"}
    assert curves == []
    for group, part, n in (
        ("length=long", slice(1, 60, 2), 180),
        ("length=short", slice(0, 60, 2), 90),
    ):
        item = found.get("accuracy", of="student", split="test", group=group)
        counted = labels[part] != -100
        assert item.n == n
        assert item.value == pytest.approx(float((~wrong[part])[counted].double().mean()))
        assert "groups" in item.estimator


def test_an_embedding_without_targets_is_held_against_the_teacher():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=g)
    noise = (
        torch.randn(200, 6, generator=g) * torch.where(torch.arange(200) % 4 > 0, 0.1, 3.0)[:, None]
    )
    rows = np.arange(200)
    view = Seen(
        "test", Observation(x, (), {}, rows), Observation(x + noise, (), {}, rows), None, None,
        slices={"source": rows % 4, "length": np.random.default_rng(0).random(200)},
    )  # fmt: skip
    found, _ = surveyed(view, task=Embedding())
    assert {group for group in groups_of(found) if "source" in group and "&" not in group} == {
        f"source={value}" for value in range(4)
    }
    assert found.get(
        "ranking", of="teacher", split="test", group="source=1"
    ).value == pytest.approx(1)
    assert found.find("worst_slice")[0].group == "source=0"


def test_without_targets_or_labels():
    view = seen("test", LABELS, WRONG, slices={"side": SIDE, "class": SIDE})
    found, _ = surveyed(view)
    assert found.has("accuracy", group="slice class=left")
    blind = Seen("test", view.teacher, view.student, None, None, slices={"side": SIDE})
    assert surveyed(blind)[0].values == ()
