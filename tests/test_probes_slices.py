"""Slices on hand-made answers whose score by slice is known."""

from __future__ import annotations

import math

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


def test_scores_by_class_and_declared_slice_at_the_corrected_level():
    found, _ = surveyed(seen("test", LABELS, WRONG, slices={"side": SIDE}))
    groups = {item.group for item in found.find("accuracy", of="student")}
    assert groups == {"class=0", "class=1", "class=2", "side=left", "side=right"}
    score = found.get("accuracy", of="student", split="test", group="class=2")
    assert (score.value, score.n) == (0.25, 40)
    want = stats.binomtest(10, 40).proportion_ci(1 - 0.05 / 5, method="wilson")
    assert (score.low, score.high) == pytest.approx((want.low, want.high))
    assert score.level == pytest.approx(0.99)
    assert "corrected for 5 slices (Bonferroni)" in score.estimator
    gap = found.get("gap", of="pair", split="test", group="class=2")
    assert (gap.value, gap.better) == (0.75, "lower")
    assert found.get("gap", of="pair", split="test", group="class=0").low < 0


def test_the_worst_slice_is_decided_on_validation_and_reported_on_test():
    other = LABELS == 1
    found, _ = surveyed(seen("validation", LABELS, WRONG), seen("test", LABELS, other))
    judged, reported = (found.find("worst_slice", split=split) for split in ("validation", "test"))
    assert [item.group for item in (*judged, *reported)] == ["class=2", "class=2"]
    assert judged[0].value == 0.75
    assert reported[0].value == 0.0
    alone, _ = surveyed(seen("test", LABELS, other))
    assert alone.find("worst_slice")[0].group == "class=1"
    assert "slices of test" in alone.find("worst_slice")[0].estimator


def test_a_worst_slice_that_test_lacks_is_nan_with_a_reason():
    kept = LABELS < 2
    found, _ = surveyed(seen("validation", LABELS, WRONG), seen("test", LABELS[kept], WRONG[kept]))
    worst = found.find("worst_slice", split="test")[0]
    assert math.isnan(worst.value)
    assert worst.reason == "no samples of class=2 on this split"


def test_small_slices_are_measured_named_and_never_the_worst():
    tiny = np.where(np.arange(120) < 4, "odd", "even")
    wrong = (np.arange(120) < 4) | ((LABELS == 0) & (np.arange(120) < 60))
    found, _ = surveyed(seen("test", LABELS, wrong, slices={"kind": tiny}))
    score = found.get("accuracy", of="student", split="test", group="kind=odd")
    assert (score.value, score.n) == (0.0, 4)
    assert "too small a slice to rely on (4 samples)" in score.estimator
    assert found.find("worst_slice")[0].group == "class=0"
    few, _ = surveyed(seen("test", LABELS[:9], WRONG[:9]))
    assert "no slice has 5 samples" in few.find("worst_slice")[0].reason


def test_equal_models_have_no_certain_gap_anywhere():
    found, _ = surveyed(seen("test", LABELS, np.zeros(120, dtype=bool)))
    for item in (*found.find("gap"), *found.find("worst_slice")):
        assert item.value == 0
        assert item.low < 0 < item.high


def test_intervals_hold_for_all_slices_together():
    rng = np.random.default_rng(0)
    labels, together = np.arange(600) % 10, []
    for _ in range(150):
        found, _ = surveyed(seen("test", labels, rng.random(600) < 0.2, k=10))
        scores = found.find("accuracy", of="student")
        assert len(scores) == 10
        together.append(all(item.low <= 0.8 <= item.high for item in scores))
    assert np.mean(together) >= 0.92


def test_curves_by_class_keep_every_class():
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


def test_groups_reach_the_intervals():
    plain, _ = surveyed(seen("test", LABELS, WRONG))
    grouped, _ = surveyed(seen("test", LABELS, WRONG, groups=np.arange(120) // 30))
    where = {"of": "student", "split": "test", "group": "class=2"}
    narrow, wide = (view.get("accuracy", **where) for view in (plain, grouped))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert "groups" in wide.estimator


def test_other_scores_are_taken_within_the_slice():
    found, _ = surveyed(
        seen("test", LABELS, WRONG, slices={"side": SIDE}), task=Classification("macro_f1")
    )
    from sklearn.metrics import f1_score

    rows = SIDE == "left"
    want = f1_score(LABELS[rows], ((LABELS + WRONG) % 3)[rows], average="macro")
    assert 0.3 < want < 0.9
    item = found.get("macro_f1", of="student", split="test", group="side=left")
    assert item.value == pytest.approx(want)


def test_a_score_that_refuses_a_slice_is_nan_with_its_words():
    def picky(logits: torch.Tensor, labels: torch.Tensor) -> float:
        if len(labels.unique()) < 2:
            raise ValueError("one class only")
        return float((logits.argmax(1) == labels).float().mean())

    found, curves = surveyed(
        seen("test", LABELS, WRONG, slices={"side": SIDE}), task=Classification(picky)
    )
    item = found.get("picky", of="student", split="test", group="class=1")
    assert "one class only" in item.reason
    assert np.isnan(curves[0].y).all()
    assert found.find("worst_slice")[0].group == "side=left"


def test_without_targets_or_labels():
    view = seen("test", LABELS, WRONG, slices={"side": SIDE, "class": SIDE})
    found, _ = surveyed(view)
    assert found.has("accuracy", group="slice class=left")
    blind = Seen("test", view.teacher, view.student, None, None, slices={"side": SIDE})
    assert surveyed(blind)[0].values == ()
