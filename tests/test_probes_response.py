"""Response measures against scipy, sklearn, closed forms and nulls; the probe on hand-made answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import log_loss
from torch import nn

from gapkit.errors import InputError
from gapkit.measurement import Contributions, Curve, Measurement, Measurements
from gapkit.probes.calibration import _error_interval, calibration_error
from gapkit.probes.logits import agreement, confidence, dark_knowledge, entropy, kl, nll
from gapkit.probes.probe import Observation, Seen, Setting
from gapkit.probes.response import ResponseProbe
from gapkit.task import Classification
from gapkit.tasks.embedding import Embedding
from gapkit.tasks.multilabel import MultiLabel
from gapkit.tasks.regression import Regression


class Distance:
    """A task of another kind: the score is minus the squared error."""

    kind, score_name, unit = "of its own", "closeness", ""

    def contributions(self, outputs: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        return -((outputs - targets) ** 2).mean(1).numpy()

    def chance(self, targets: torch.Tensor) -> float:
        return -float(targets.var(unbiased=False))


def logits(seed: int, n: int = 60, k: int = 5, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def labels(n: int = 60, k: int = 5) -> torch.Tensor:
    return torch.arange(n) % k


def shown(outputs: torch.Tensor) -> Observation:
    return Observation(outputs, (), {}, np.arange(len(outputs)))


def survey(seen: dict[str, Seen], task: object = None) -> Measurements:
    net = nn.Identity()
    setting = Setting(task or Classification(), net, net, None, None)
    found = list(ResponseProbe().measure(seen, setting))
    return Measurements(
        study="hand-made",
        values=tuple(item for item in found if isinstance(item, Measurement)),
        curves=tuple(item for item in found if isinstance(item, Curve)),
        contributions=tuple(item for item in found if isinstance(item, Contributions)),
    )


def views(t: torch.Tensor, s: torch.Tensor, y: torch.Tensor | None, **more) -> dict[str, Seen]:
    return {
        split: Seen(split, shown(t), shown(s), None, y, **more)
        for split in ("train", "validation", "test")
    }


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_scipys_without_the_square_of_the_temperature(temperature):
    t, s = logits(0), logits(1)
    p, q = (torch.softmax(x.double() / temperature, 1).numpy() for x in (t, s))
    want = stats.entropy(p, q, axis=1).mean()
    assert want > 0.05
    assert kl(t, s, temperature) == pytest.approx(want, rel=1e-9)
    assert kl(t, s, temperature) != pytest.approx(kl(s, t, temperature), rel=1e-3)


def test_kl_null_and_confident_logits():
    t = logits(0)
    assert kl(t, t + 7.0) == pytest.approx(0, abs=1e-9)
    sure = torch.tensor([[1000.0, 0.0]])
    assert kl(sure, -sure) == pytest.approx(1000.0)


def test_nll_and_entropy_against_sklearn_and_scipy():
    x, y = logits(2), labels()
    p = torch.softmax(x.double(), 1).numpy()
    assert nll(x, y) == pytest.approx(log_loss(y, p), rel=1e-9)
    assert entropy(x) == pytest.approx(stats.entropy(p, axis=1).mean(), rel=1e-9)
    assert confidence(x) == pytest.approx(p.max(1).mean(), rel=1e-9)
    assert entropy(torch.tensor([[1e4, 0.0, 0.0]])) == 0


def test_agreement_counts_and_does_not_see_scale():
    t, s = logits(3), logits(4)
    want = np.mean([int(a.argmax() == b.argmax()) for a, b in zip(t, s)])
    assert 0.05 < want < 0.6
    assert agreement(t, s) == pytest.approx(want)
    assert agreement(t, 10 * t + 1) == 1.0


def test_calibration_error_by_a_plain_loop():
    x, y = logits(5, 90), labels(90)
    p = torch.softmax(x.double(), 1)
    sure, right = p.max(1).values.numpy(), (p.argmax(1) == y).numpy()
    want = sum(
        abs(sure[rows].mean() - right[rows].mean()) * len(rows) / 90
        for rows in np.array_split(np.argsort(sure), 9)
    )
    assert want > 0.1
    assert calibration_error(x, y, n_bins=9) == pytest.approx(want)


def test_calibration_error_closed_forms_and_order():
    sure = torch.tensor([[50.0, 0.0]]).repeat(10, 1)
    y = torch.tensor([0] * 7 + [1] * 3)
    assert calibration_error(sure, y) == pytest.approx(0.3)
    x, order = logits(6), torch.randperm(60, generator=torch.Generator().manual_seed(0))
    tied = torch.cat([x[:30], sure[:1].new_zeros(30, 5)])
    assert calibration_error(tied, labels()) == pytest.approx(
        calibration_error(tied[order], labels()[order])
    )


def test_dark_knowledge_is_the_kl_from_smoothing_the_rest_evenly():
    x, y = logits(7), labels()
    p = torch.softmax(x.double() / 2, 1).numpy()
    even = np.empty_like(p)
    for row, label in enumerate(y.tolist()):
        even[row] = (1 - p[row, label]) / 4
        even[row, label] = p[row, label]
    want = stats.entropy(p, even, axis=1).mean()
    assert want > 0.02
    assert dark_knowledge(x, y, temperature=2) == pytest.approx(want, rel=1e-9)


def test_dark_knowledge_extremes():
    y = torch.tensor([0])
    assert dark_knowledge(torch.tensor([[1000.0, 0.0, -5.0]]), y) == 0
    assert dark_knowledge(torch.tensor([[3.0, 1.0, 1.0]]), y) == pytest.approx(0, abs=1e-12)
    assert dark_knowledge(torch.tensor([[-1e3, 1e3, -1e3]]), y) == pytest.approx(math.log(2))
    assert dark_knowledge(torch.tensor([[0.3, -0.7]]), y) == pytest.approx(0, abs=1e-12)


def test_refusals():
    with pytest.raises(InputError, match="one shape"):
        kl(logits(0), logits(0, k=4))
    with pytest.raises(InputError, match="one shape"):
        agreement(logits(0), logits(0, n=3))
    with pytest.raises(InputError, match="temperature above 0"):
        kl(logits(0), logits(1), 0)


def test_probe_scores_every_split_and_keeps_contributions():
    t, s, y = logits(8), logits(9), labels()
    t[torch.arange(60), y] += 4
    found = survey(views(t, s, y))
    for split in ("train", "validation", "test"):
        for of, x in (("teacher", t), ("student", s)):
            hits = (x.argmax(1) == y).double().numpy()
            assert np.array_equal(found.scores(of, split), hits)
            score = found.get("accuracy", of=of, split=split)
            assert score.value == pytest.approx(hits.mean())
            wilson = stats.binomtest(int(hits.sum()), 60).proportion_ci(method="wilson")
            assert (score.low, score.high) == pytest.approx((wilson.low, wilson.high))
        assert found.get("agreement", split=split).value == pytest.approx(agreement(t, s))
    gap = found.get("gap", split="test")
    hits_t, hits_s = found.scores("teacher", "test"), found.scores("student", "test")
    assert gap.value == pytest.approx((hits_t - hits_s).mean())
    assert gap.low > 0
    assert found.get("chance", split="test").value == pytest.approx(0.2)
    assert not found.has("kl", split="train")


def test_probe_values_are_the_pure_functions():
    t, s, y = logits(10), logits(11), labels()
    found = survey(views(t, s, y))
    assert found.get("kl", split="test").value == pytest.approx(kl(t, s))
    for of, x in (("teacher", t), ("student", s)):
        for name, function in (("entropy", entropy), ("confidence", confidence)):
            assert found.get(name, of=of, split="test").value == pytest.approx(function(x))
        for name, function in (
            ("nll", nll),
            ("ece", calibration_error),
            ("dark_knowledge", dark_knowledge),
        ):
            item = found.get(name, of=of, split="validation")
            assert item.value == pytest.approx(function(x, y))
            assert item.low <= item.value <= item.high
            assert item.n == 60
    profile = next(c for c in found.curves if c.name == "kl_profile" and c.split == "test")
    np.testing.assert_allclose(profile.y, [kl(t, s, tau) for tau in (1, 2, 4, 8)])
    curve = next(c for c in found.curves if c.name == "reliability" and c.of == "student")
    assert curve.n.sum() == 60
    assert curve.n @ abs(curve.x - curve.y) / 60 == pytest.approx(calibration_error(s, y))
    assert (curve.low <= curve.y).all()
    assert (curve.high >= curve.y).all()


def test_calibrated_answers_score_what_the_estimator_announces():
    x = logits(12, 3000, 4, 1.0)
    p = torch.softmax(x, 1)
    y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(3))[:, 0]
    found = survey({"test": Seen("test", shown(x), shown(3 * x), None, y)})
    calm, harsh = (found.get("ece", of=of, split="test") for of in ("teacher", "student"))
    null = float(calm.estimator.split("would score ")[1].strip(")"))
    assert calm.value == pytest.approx(null, abs=0.012)
    assert calm.low == 0
    assert harsh.low > 0.15


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.05, 0.15])
def test_calibration_intervals_cover_the_population_error(shift):
    rng = np.random.default_rng(0)
    many = rng.beta(5, 2, 200_000)
    true = np.abs(many - np.clip(many - shift, 0, 1)).mean()
    covered = []
    for _ in range(40):
        sure = rng.beta(5, 2, 500)
        right = (rng.random(500) < np.clip(sure - shift, 0, 1)).astype(float)
        found, _ = _error_interval(sure, right, None, 0)
        covered.append(found.low <= true <= found.high)
    assert np.mean(covered) >= 0.85


def test_without_targets_only_label_free_measures_are_left():
    found = survey(views(logits(13), logits(14), None))
    assert {item.name for item in found.values} == {"agreement", "kl", "confidence", "entropy"}
    assert not found.contributions


def test_models_with_other_classes_are_scored_but_not_compared():
    t, s, y = logits(15), logits(16, k=7), labels()
    found = survey(views(t, s, y))
    assert found.get("accuracy", of="student", split="test").n == 60
    for name in ("kl", "agreement"):
        item = found.get(name, split="test")
        assert math.isnan(item.value)
        assert "(60, 7)" in item.reason


def test_broken_logits_are_nan_with_a_reason():
    s = logits(17)
    s[3, 2] = math.nan
    found = survey(views(logits(18), s, labels()))
    for name, of in (
        ("kl", "pair"),
        ("nll", "student"),
        ("ece", "student"),
        ("entropy", "student"),
    ):
        item = found.get(name, of=of, split="test")
        assert math.isnan(item.value)
        assert "not finite" in item.reason
    assert found.get("nll", of="teacher", split="test").value > 0


def test_two_classes_have_no_dark_knowledge():
    found = survey(views(logits(19, k=2), logits(20, k=2), labels(k=2)))
    assert "two classes" in found.get("dark_knowledge", of="teacher", split="test").reason


def test_groups_widen_every_interval_of_repeated_samples():
    t, s, y = (x.repeat_interleave(6, 0) for x in (logits(21), logits(22), labels()))
    alone = survey(views(t, s, y))
    grouped = survey(views(t, s, y, groups=np.repeat(np.arange(60), 6)))
    for name, of in (
        ("accuracy", "student"),
        ("kl", "pair"),
        ("nll", "teacher"),
        ("ece", "student"),
    ):
        narrow = alone.get(name, of=of, split="test")
        wide = grouped.get(name, of=of, split="test")
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_other_tasks_are_scored_alone():
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(30, 1, generator=rng)
    found = survey(views(y + 0.1, y + 1.0, y), Distance())
    names = {item.name for item in found.values}
    assert names == {"closeness", "gap", "chance"}
    assert found.get("gap", split="test").value == pytest.approx(0.99, rel=1e-5)


def test_tokens_count_where_they_are_labeled_and_samples_are_their_groups():
    t, s = logits(0, 40, 5).view(8, 5, 5), logits(1, 40, 5).view(8, 5, 5)
    y = labels(40).view(8, 5).clone()
    y[:, 3:] = -100
    y[0, 1:] = -100
    found = survey(views(t, s, y))
    counted = y != -100
    p, q = (torch.softmax(x[counted].double(), 1).numpy() for x in (t, s))
    for name, of, want in (
        ("kl", "pair", stats.entropy(p, q, axis=1).mean()),
        ("nll", "student", log_loss(y[counted], q, labels=range(5))),
        ("confidence", "teacher", p.max(1).mean()),
        ("agreement", "pair", np.mean(p.argmax(1) == q.argmax(1))),
        ("accuracy", "student", np.mean(q.argmax(1) == y[counted].numpy())),
    ):
        got = found.get(name, of=of, split="test")
        assert got.value == pytest.approx(want, rel=1e-6)
    assert found.get("kl", of="pair", split="test").n == 22
    assert "8 groups" in found.get("kl", of="pair", split="test").estimator
    assert len(found.scores("student", "test")) == 8


def test_tokens_without_labels_say_nothing():
    t = logits(0, 40, 5).view(8, 5, 5)
    assert not survey(views(t, t, None)).values


def test_label_sets_are_yes_and_no_of_every_label():
    t, s = logits(0, 50, 4), logits(1, 50, 4)
    y = (logits(2, 50, 4) > 0).long()
    found = survey(views(t, s, y), MultiLabel("micro_f1"))
    p, q = (torch.sigmoid(x.double()).numpy() for x in (t, s))
    both = [np.stack([1 - x, x], -1) for x in (p, q)]
    for name, of, want in (
        ("kl", "pair", stats.entropy(*both, axis=-1).mean()),
        ("nll", "student", log_loss(y.flatten(), q.flatten())),
        ("entropy", "teacher", stats.entropy(both[0], axis=-1).mean()),
        ("confidence", "student", both[1].max(-1).mean()),
        ("agreement", "pair", np.mean((p > 0.5) == (q > 0.5))),
    ):
        assert found.get(name, of=of, split="test").value == pytest.approx(want, rel=1e-6)
    profile = next(item for item in found.curves if item.name == "kl_profile")
    assert (np.diff(profile.y) < 0).all()
    assert found.get("ece", of="teacher", split="test").n == 200
    same = survey(views(t, t, y), MultiLabel("micro_f1"))
    assert same.get("kl", of="pair", split="test").value == pytest.approx(0, abs=1e-12)


def test_a_calibrated_label_set_is_not_refuted():
    z = logits(3, 400, 3)
    y = (torch.rand(400, 3, generator=torch.Generator().manual_seed(1)) < torch.sigmoid(z)).long()
    found = survey(views(z, 6 * z, y), MultiLabel("micro_f1"))
    assert found.get("ece", of="teacher", split="test").low == 0
    assert found.get("ece", of="student", split="test").low > 0.02


def test_numbers_are_compared_by_distance_and_errors():
    rng = torch.Generator().manual_seed(0)
    y, noise = torch.randn(80, generator=rng), torch.randn(80, generator=rng)
    t, s = y + 0.5 * noise, y + noise + 0.3
    found = survey(views(t, s, y), Regression())
    for name, of, want in (
        ("distance", "pair", (t - s).abs().mean()),
        ("absolute_error", "student", (s - y).abs().mean()),
        ("bias", "student", (s - y).mean()),
        ("error_correlation", "pair", 1.0),
    ):
        assert found.get(name, of=of, split="test").value == pytest.approx(float(want), rel=1e-5)
    other = torch.randn(80, generator=rng)
    apart = survey(views(t, y + other, y), Regression())
    alike = apart.get("error_correlation", of="pair", split="test")
    assert alike.low < 0 < alike.high


def test_a_constant_error_has_no_correlation():
    y = torch.arange(20.0)
    found = survey(views(y + 1, y + torch.arange(20.0), y), Regression())
    assert "same amount" in found.get("error_correlation", of="pair", split="test").reason


def test_vectors_without_targets_are_held_against_the_teachers():
    t = logits(0, 60, 6)
    s = t + 0.8 * logits(1, 60, 6)
    found = survey(views(t, s, None), Embedding())
    teacher = found.get("ranking", of="teacher", split="test")
    assert (teacher.low, teacher.high) == (pytest.approx(1), pytest.approx(1))
    student = found.get("ranking", of="student", split="test")
    assert 0.3 < student.value < 0.95
    gap = found.get("gap", of="pair", split="test")
    assert gap.value == pytest.approx(1 - student.value)
    agreed = found.get("agreement", of="pair", split="test")
    assert agreed.value == pytest.approx((1 + student.value) / 2)


def test_how_sure_the_teacher_is_on_train_by_temperature():
    t, s, y = logits(12), logits(13), labels()
    found = survey(views(t, s, y))
    (profile,) = [item for item in found.curves if item.name == "confidence_profile"]
    assert (profile.of, profile.split, profile.n.tolist()) == ("teacher", "train", [60] * 4)
    for tau, sure in zip(profile.x, profile.y):
        want = torch.softmax(t.double() / tau, 1).max(1).values.mean()
        assert sure == pytest.approx(float(want))
    assert profile.y[0] > profile.y[-1] > 0.2
    assert found.get("confidence", of="teacher", split="train").value == pytest.approx(profile.y[0])
