"""Linear probes of arrays and of a hand-made teacher and student, against sklearn."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score
from torch import nn

from gapkit.errors import InputError
from gapkit.measurement import Measurements
from gapkit.probes.linear import (
    PENALTIES,
    LinearProbe,
    affordable_rows,
    linear_probe,
    multilabel_probe,
    regression_probe,
)
from gapkit.probes.linear_fit import applied, carried
from gapkit.probes.probe import Observation, Seen, Setting
from gapkit.probes.readings import evenly_spaced
from gapkit.probes.readout import Classes
from gapkit.probes.spectrum import basis_of
from gapkit.task import Classification


def digits(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:n]
    return x[order], y[order]


def standardized(x: np.ndarray, n: int) -> np.ndarray:
    """By its first n rows."""
    mean, scale = x[:n].mean(0), x[:n].std(0)
    return (x[:, scale > 0] - mean[scale > 0]) / scale[scale > 0]


def test_probe_chooses_on_validation_and_reports_test():
    x, y = digits(700)
    fit = linear_probe(
        x[:300], y[:300], x[400:], y[400:], x_validation=x[300:400], y_validation=y[300:400]
    )
    z = standardized(x, 300)
    path, tests = [], []
    for penalty in PENALTIES:
        oracle = LogisticRegression(C=1 / (penalty * 300), tol=1e-6, max_iter=5000)
        oracle.fit(z[:300], y[:300])
        path.append(oracle.score(z[300:400], y[300:400]))
        tests.append(oracle.score(z[400:], y[400:]))
    assert max(path) - min(path) > 0.02
    np.testing.assert_allclose(fit.path, path, atol=0.0101)
    assert fit.accuracy == pytest.approx(tests[PENALTIES.index(fit.penalty)], abs=0.0067)
    assert fit.path[PENALTIES.index(fit.penalty)] == fit.path.max()
    assert fit.contributions.mean() == fit.accuracy
    assert fit.contributions_validation.mean() == pytest.approx(fit.path.max())
    wilson = stats.binomtest(int(fit.contributions.sum()), 300).proportion_ci(method="wilson")
    assert (fit.low, fit.high, fit.n) == (*map(pytest.approx, (wilson.low, wilson.high)), 300)


def test_multilabel_probe_is_one_sklearn_regression_a_label():
    x, digit = digits(700)
    y = np.stack([digit % 2, digit > 7, digit == 3], 1)
    split = (x[:300], y[:300], x[400:], y[400:], (1e-1, 1e-2, 1e-3), x[300:400], y[300:400])
    fit = multilabel_probe(*split)
    z, want = standardized(x, 300), []
    for label in range(3):
        oracle = LogisticRegression(C=1 / (fit.penalty * 300), tol=1e-6, max_iter=5000)
        p = oracle.fit(z[:300], y[:300, label]).predict_proba(z[400:])[:, 1]
        want.append(balanced_accuracy_score(y[400:, label], p > y[:300, label].mean()))
    assert 0.8 < np.mean(want) < 0.99
    assert fit.value == pytest.approx(np.mean(want), abs=0.004)
    assert fit.low < fit.value < fit.high
    assert fit.n == 300


def test_regression_probe_is_sklearns_ridge():
    x, y = digits(700)
    fit = regression_probe(
        x[:300], y[:300], x[400:], y[400:], x_validation=x[300:400], y_validation=y[300:400]
    )
    z = standardized(x, 300)
    scores = {
        penalty: r2_score(
            y[300:400], Ridge(alpha=300 * penalty).fit(z[:300], y[:300]).predict(z[300:400])
        )
        for penalty in fit.penalties
    }
    assert max(scores, key=scores.__getitem__) == fit.penalty
    assert fit.interior
    answer = Ridge(alpha=300 * fit.penalty).fit(z[:300], y[:300]).predict(z[400:])
    missed, spread = ((y[400:] - answer) ** 2).sum(), ((y[400:] - y[:300].mean()) ** 2).sum()
    assert fit.value == pytest.approx(1 - missed / spread, abs=1e-9)
    assert 0.3 < fit.low < fit.value < fit.high < 0.8


@pytest.mark.parametrize("probe", [linear_probe, multilabel_probe, regression_probe])
def test_noise_is_read_at_chance(probe):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(800, 5)), rng.integers(0, 2, 800)
    y = y if probe is linear_probe else np.stack([y, rng.random(800) < 0.1], 1) * 1
    fit = probe(x[:400], y[:400], x[400:], y[400:])
    chance = 0.0 if probe is regression_probe else 0.5
    assert fit.value == pytest.approx(chance, abs=0.08)
    assert fit.low - 0.03 < chance < fit.high + 0.03


def test_interior_says_whether_the_path_was_long_enough():
    x, y = digits(500)
    split = (x[:300], y[:300], x[300:], y[300:])
    assert not linear_probe(*split, penalties=[100.0, 10.0, 1.0]).interior
    strong = linear_probe(*split, penalties=[1e-2, 1e-9, 1e-10])
    assert (strong.interior, strong.penalty) == (False, 1e-2)
    short = linear_probe(*split, penalties=[1e-4])
    assert (short.interior, short.penalty, short.path.shape) == (False, 1e-4, (1,))
    unordered = linear_probe(*split, penalties=[1e-3, 100.0, 1e-2, 0.1])
    assert unordered.penalties == (100.0, 0.1, 1e-2, 1e-3)


def test_a_carved_fit_uses_all_of_train_and_its_seed():
    x, y = digits(500)
    first = linear_probe(x[:300], y[:300], x[300:], y[300:], penalties=[1e-2])
    given = linear_probe(
        x[:300], y[:300], x[300:], y[300:], [1e-2], x_validation=x[300:], y_validation=y[300:]
    )
    assert np.array_equal(first.contributions, given.contributions)
    assert len(first.contributions_validation) == 60
    again = linear_probe(x[:300], y[:300], x[300:], y[300:], seed=0)
    assert np.array_equal(again.path, linear_probe(x[:300], y[:300], x[300:], y[300:]).path)


def test_the_refit_is_as_good_as_a_fresh_one():
    x, y = digits(500)
    x = np.hstack(
        [x, (np.arange(500) == 0)[:, None]]
    )  # varies in all of train, maybe not in a part
    part, whole = basis_of(x[50:300]), basis_of(x[:300])
    (line,) = Classes(y[50:300]).probed(part, [1e-3])
    moved = carried(line, part, whole)
    np.testing.assert_allclose(
        applied(moved, whole.project(x)), applied(line, part.project(x)), atol=1e-8
    )
    (warm,) = Classes(y[:300]).probed(whole, [1e-3], moved)
    (fresh,) = Classes(y[:300]).probed(whole, [1e-3])
    assert np.abs(moved[0] - fresh[0]).max() > 10 * np.abs(warm[0] - fresh[0]).max()


def test_scale_shift_and_dead_features_change_nothing():
    x, y = digits(300)
    shifted = np.hstack([1000 + 0.01 * x, np.full((300, 3), 7.3)])
    plain = linear_probe(x[:200], y[:200], x[200:], y[200:])
    moved = linear_probe(shifted[:200], y[:200], shifted[200:], y[200:])
    assert 0.7 < plain.accuracy < 1
    assert moved.accuracy == pytest.approx(plain.accuracy, abs=0.0101)
    assert moved.penalty == plain.penalty


def test_tensors_of_any_precision_and_labels_of_any_integers_are_read():
    x, y = digits(300)
    want = linear_probe(x[:200], y[:200], x[200:], y[200:])
    tensor = torch.tensor(x, dtype=torch.bfloat16, requires_grad=True)  # exact: 0 to 16
    found = linear_probe(tensor[:200], torch.tensor(y[:200]), tensor[200:].half(), y[200:] + 0)
    assert found.accuracy == want.accuracy
    odd = np.array([-3, 40])[y % 2]
    clear = linear_probe(odd[:200, None], odd[:200], odd[200:, None], odd[200:])
    assert clear.accuracy == 1.0


def test_a_class_unseen_in_training_counts_as_missed():
    x = np.array([[0.0], [1.0], [0.0], [1.0], [0.1], [0.9]])
    fit = linear_probe(
        x, [0, 1, 0, 1, 0, 1], x, [0, 1, 0, 1, 5, 5], [1e-3], x_validation=x, y_validation=[7] * 6
    )
    assert fit.accuracy == pytest.approx(4 / 6)
    assert fit.path.tolist() == [0.0]


@pytest.mark.parametrize(
    "x,y,match",
    [
        (np.zeros((4, 2)), [0, 1, 0, 1], "feature that varies"),
        (np.eye(4), [1, 1, 1, 1], "at least two classes"),
        (np.eye(4), [0, 1, 0], "4 integer training labels"),
        (np.eye(4), [0.5, 1, 0, 1], "integer training labels"),
        (np.arange(4.0), [0, 1, 0, 1], "shape \\(samples, features\\)"),
        (np.ones((4, 0)), [0, 1, 0, 1], "shape \\(samples, features\\)"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "finite training features"),
        (np.full((4, 2), -np.inf), [0, 1, 0, 1], "finite training features"),
        (np.ones((1, 4)), [0], "3 or more training samples"),
    ],
)
def test_refusals(x, y, match):
    with pytest.raises(InputError, match=match):
        linear_probe(x, y, np.eye(4)[:, : x.shape[-1]], [0, 1, 0, 1], [1.0])


@pytest.mark.parametrize("penalties", [[], [0.0], [1.0, -1.0], [math.inf], [math.nan]])
def test_refuses_penalties(penalties):
    with pytest.raises(InputError, match="penalties above 0"):
        linear_probe(np.eye(4), [0, 1, 0, 1], np.eye(4), [0, 1, 0, 1], penalties)


def test_refuses_what_does_not_fit():
    x = np.eye(4)
    with pytest.raises(InputError, match="4 test features"):
        linear_probe(x, [0, 1, 0, 1], np.eye(3), [0, 1, 0], [1.0])
    with pytest.raises(InputError, match="labels of 0 and 1"):
        multilabel_probe(x, x * 2, x, x)
    with pytest.raises(InputError, match="4 rows of training labels"):
        multilabel_probe(x, [0, 1, 0, 1], x, x)
    with pytest.raises(InputError, match="4 test labels but got 2"):
        multilabel_probe(x, x, x, x[:, :2])
    with pytest.raises(InputError, match="finite training labels"):
        regression_probe(x, [0, 1, 2, np.inf], x, np.ones(4))
    with pytest.raises(InputError, match="target that varies"):
        regression_probe(x, np.ones(4), x, np.ones(4))


SPLITS = {"train": slice(0, 400), "validation": slice(400, 600), "test": slice(600, 900)}


def hand_made(groups: bool = False, broken: bool = False, untrained: bool = False) -> dict:
    """A teacher with two layers and a student that sees one half of the second."""
    x, y = digits(900)
    seen = {}
    for split, rows in SPLITS.items():
        part = torch.tensor(x[rows] / 16).float()
        flat = torch.full_like(part[:, :3], math.nan if broken else 1.0)
        n = len(part)
        features = {"low": part, "high": part[:, 20:28]}
        teacher = Observation(part, ("low", "high"), features, np.arange(n))
        half = {"dead": flat, "half": 3 * part[:, 20:24] + 1}
        student = Observation(part, ("dead", "half"), half, np.arange(n))
        fresh = replace(student, features=half | {"half": part[:, 20:21]}) if untrained else None
        groups_of = np.arange(n) // 50 if groups else None
        seen[split] = Seen(split, teacher, student, fresh, torch.tensor(y[rows]), groups_of)
    return seen


def surveyed(seen: dict, task=None, probe: LinearProbe | None = None) -> Measurements:
    net = nn.Identity()
    setting = Setting(task or Classification(), net, net, None, None)
    values = tuple((probe or LinearProbe()).measure(seen, setting))
    return Measurements(study="hand-made", values=values)


def with_targets(seen: dict, make) -> dict:
    return {split: replace(part, targets=make(part.targets)) for split, part in seen.items()}


def test_probe_reports_every_layer_and_names_the_penalty():
    found, (x, y) = surveyed(hand_made()), digits(900)
    low = found.get("linear_probe", of="teacher", layer="low", split="test")
    assert low.value == pytest.approx(
        linear_probe(
            x[:400], y[:400], x[600:], y[600:], x_validation=x[400:600], y_validation=y[400:600]
        ).accuracy,
        abs=0.007,
    )
    assert low.n == 300
    assert low.estimator.startswith("logistic regression on 400 train samples, penalty 0.0")
    assert "chosen on validation, interior; share; Wilson" in low.estimator
    same = found.get("linear_probe", of="teacher", layer="low", split="validation")
    assert "chosen on this same split" in same.estimator
    high = found.get("linear_probe", of="teacher", layer="high", split="test")
    assert 0.2 < high.high < low.low
    assert len(found.find("linear_screen")) == len(found.find("linear_probe")) == 8


def test_screen_is_lda_and_near_the_probe():
    found, (x, y) = surveyed(hand_made()), digits(900)
    screen = found.get("linear_screen", of="teacher", layer="low", split="test")
    z = standardized(x, 400)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01).fit(z[:400], y[:400])
    assert screen.value == pytest.approx(oracle.score(z[600:], y[600:]), abs=0.02)
    assert screen.estimator.startswith("LDA on 400 train samples")
    probe = found.get("linear_probe", of="teacher", layer="low", split="test")
    assert probe.value - 0.05 < screen.value < probe.value


@pytest.mark.parametrize("broken", [False, True])
def test_probe_finds_the_best_student_layer_and_survives_a_dead_one(broken):
    found = surveyed(hand_made(broken=broken))
    for name in ("linear_probe", "linear_screen"):
        dead = found.get(name, of="student", layer="dead", split="test")
        assert math.isnan(dead.value)
        assert "finite" in dead.reason if broken else "varies" in dead.reason
    r2 = found.get("predictability", of="pair", layer="high", split="test")
    assert "student layer half, the best of 2 on validation" in r2.estimator
    x = digits(900)[0] / 16
    fit = Ridge(alpha=1e-6).fit(x[:400, 20:24], x[:400, 20:28])
    missed = ((x[600:, 20:28] - fit.predict(x[600:, 20:24])) ** 2).sum()
    want = 1 - missed / ((x[600:, 20:28] - x[:400, 20:28].mean(0)) ** 2).sum()
    assert 0.3 < want < 0.9
    assert r2.value == pytest.approx(want, abs=0.01)
    assert r2.low < r2.value < r2.high


def test_student_layers_are_predicted_from_the_teacher():
    found = surveyed(hand_made(untrained=True))
    half = found.get("student_predictability", of="pair", layer="half", split="test")
    assert half.value == pytest.approx(1, abs=1e-4)
    assert "from teacher layer" in half.estimator
    dead = found.get("student_predictability", of="pair", layer="dead", split="test")
    assert "constant or not finite" in dead.reason
    fresh = found.get("predictability", of="untrained", layer="high", split="test")
    assert fresh.value < found.get("predictability", of="pair", layer="high", split="test").value
    assert found.has("student_predictability", of="untrained", layer="half", split="validation")


def test_groups_widen_intervals():
    found = surveyed(hand_made(groups=True))
    for name in ("predictability", "linear_probe", "linear_screen"):
        assert "6 groups" in found.find(name, split="test", layer="high")[0].estimator


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_probe_reads_what_the_task_asks(kind):
    task = SimpleNamespace(kind=kind)
    make = (
        (lambda y: torch.stack([y % 2, y > 7, y * 0], 1))
        if kind == "multilabel"
        else (lambda y: y.float())
    )
    found = surveyed(with_targets(hand_made(), make), task)
    low = found.get("linear_probe", of="teacher", layer="low", split="test")
    x, y = digits(900)
    targets = make(torch.tensor(y)).numpy()
    probe = multilabel_probe if kind == "multilabel" else regression_probe
    want = probe(
        x[:400], targets[:400], x[600:], targets[600:],
        x_validation=x[400:600], y_validation=targets[400:600],
    )  # fmt: skip
    assert low.value == pytest.approx(want.value, abs=0.01)
    assert low.unit == ("share" if kind == "multilabel" else "R²")
    assert ("macro balanced accuracy" if kind == "multilabel" else "R²") in low.estimator
    assert found.has("linear_screen") == (kind == "multilabel")


def test_nothing_is_probed_without_labels_of_the_tasks_form():
    seen = hand_made()
    for task, targets in (
        (SimpleNamespace(kind="embedding"), lambda y: y),
        (SimpleNamespace(kind="regression"), lambda y: None),
        (Classification(), lambda y: y.float()),
        (Classification(), lambda y: y[:, None].expand(-1, 3)),
    ):
        found = surveyed(with_targets(seen, targets), task)
        assert not found.has("linear_probe")
        assert found.has("predictability")


def test_labels_that_do_not_vary_are_a_reason():
    found = surveyed(with_targets(hand_made(), torch.zeros_like))
    assert (
        "two classes" in found.get("linear_probe", of="teacher", layer="low", split="test").reason
    )
    soft = with_targets(hand_made(), lambda y: y[:, None] / 10)
    found = surveyed(soft, SimpleNamespace(kind="multilabel"))
    low = found.get("linear_probe", of="teacher", layer="low", split="test")
    assert "labels of 0 and 1" in low.reason


def deep(n_layers: int = 9) -> dict:
    """A teacher whose layers differ in what they show, so that the screen has a best one."""
    seen = hand_made()
    for split, part in seen.items():
        x = part.teacher.outputs
        features = {str(at): x[:, 8 * (at % 8) : 8 * (at % 8) + 8] for at in range(n_layers)}
        shown = replace(part.teacher, layers=tuple(features), features=features)
        seen[split] = replace(part, teacher=shown)
    return seen


def test_a_small_budget_probes_evenly_spaced_layers_and_the_screens_best():
    # One layer of 8 features costs 4 · 80 · 400 · 8 · 10 = 1.02e7 FLOPs; six pairs of roles share.
    probe = LinearProbe(max_flops=6 * 4.2 * 1.02e7)
    found = surveyed(deep(), probe=probe)
    assert len(found.find("linear_screen", of="teacher", split="test")) == 9
    shown = {item.layer for item in found.find("linear_probe", of="teacher", split="test")}
    screens = found.find("linear_screen", of="teacher", split="validation")
    best = max(screens, key=lambda item: item.value).layer
    assert shown == {"0", "4", "8", best}
    assert len(shown) == 4
    one = found.get("linear_probe", of="teacher", layer="0", split="test")
    assert "4 of 9 layers: evenly spaced and the screen's best" in one.estimator


def test_no_budget_leaves_the_screen_and_says_why():
    found = surveyed(deep(), probe=LinearProbe(max_flops=1e6))
    for layer in "048":
        dear = found.get("linear_probe", of="teacher", layer=layer, split="test")
        assert "FLOPs" in dear.reason
        assert found.get("linear_screen", of="teacher", layer=layer, split="test").value > 0.1
    # 400 train samples are halved once, not below 200.
    assert "200 (of 400) train samples" in found.find("linear_screen", layer="0")[0].estimator
    assert found.get("predictability", of="pair", layer="0", split="test").n == 200


def test_affordable_rows_halve_until_the_work_fits():
    seen = hand_made()
    assert affordable_rows(seen, 1e12) == 400
    assert affordable_rows(seen, 1.0) == 200


def test_wide_layers_choose_their_source_by_a_sketch():
    seen = hand_made()
    mix = torch.tensor(np.random.default_rng(0).normal(size=(64, 200))).float()
    for split, part in seen.items():
        wide = (part.teacher.outputs @ mix).relu()
        shown = replace(part.teacher, layers=("wide",), features={"wide": wide})
        two = {"few": part.teacher.outputs[:, 20:24], "all": part.teacher.outputs}
        student = replace(part.student, layers=("few", "all"), features=two)
        seen[split] = replace(part, teacher=shown, student=student)
    found = surveyed(seen).get("predictability", of="pair", layer="wide", split="test")
    assert "student layer all" in found.estimator
    x, y = (
        {
            split: getattr(part, role).features[layer].double().numpy()
            for split, part in seen.items()
        }
        for role, layer in (("student", "all"), ("teacher", "wide"))
    )
    missed = (
        (y["test"] - Ridge(alpha=1.0).fit(x["train"], y["train"]).predict(x["test"])) ** 2
    ).sum()
    want = 1 - missed / ((y["test"] - y["train"].mean(0)) ** 2).sum()
    assert 0.7 < want < 0.95
    assert found.value == pytest.approx(want, abs=0.02)


def test_only_kept_samples_are_used_with_their_labels():
    seen = hand_made()
    whole = surveyed(seen).get("linear_probe", of="teacher", layer="low", split="test")
    for split, part in seen.items():
        rows = np.random.default_rng(0).permutation(len(part.targets))[:-20]
        models = {
            role: replace(
                getattr(part, role),
                features={k: v[rows] for k, v in getattr(part, role).features.items()},
                rows=rows,
            )
            for role in ("teacher", "student")
        }
        seen[split] = replace(part, **models)
    found = surveyed(seen).get("linear_probe", of="teacher", layer="low", split="test")
    assert (whole.n, found.n) == (300, 280)
    assert found.value == pytest.approx(whole.value, abs=0.03)


def tokens(seen: dict, labeled: bool) -> dict:
    """Every two samples are the tokens of one; the first token of each sequence has no label."""
    for split, part in seen.items():
        n = len(part.targets)
        models = {
            role: replace(getattr(part, role), rows=np.arange(n) // 2, tokens=np.arange(n) % 2)
            for role in ("teacher", "student")
        }
        labels = part.targets.reshape(-1, 2).clone()
        labels[:, 0] = -100
        seen[split] = replace(part, targets=labels if labeled else labels[:, 1], **models)
    return seen


def test_tokens_are_probed_for_their_own_labels():
    found = surveyed(tokens(hand_made(), labeled=True))
    low = found.get("linear_probe", of="teacher", layer="low", split="test")
    x, y = digits(900)
    x, y = x[1::2], y[1::2]
    want = linear_probe(
        x[:200], y[:200], x[300:], y[300:], x_validation=x[200:300], y_validation=y[200:300]
    )
    assert low.n == want.n == 150
    assert low.value == pytest.approx(want.accuracy, abs=0.01)
    assert "150 groups" in low.estimator


def test_tokens_without_labels_of_their_own_are_only_predicted():
    found = surveyed(tokens(hand_made(), labeled=False))
    assert not found.has("linear_probe")
    r2 = found.get("predictability", of="pair", layer="high", split="test")
    assert r2.n == 300
    assert "150 groups" in r2.estimator


def test_a_missing_split_is_skipped():
    assert not list(LinearProbe().measure({}, None))


def test_evenly_spaced_layers_cost_no_more_than_allowed():
    costs = [1.0, 5.0, 2.0, 8.0, 1.0, 1.0, 3.0]
    assert evenly_spaced(costs, sum(costs)) == list(range(7))
    for budget in np.linspace(8, 20, 25):
        taken = evenly_spaced(costs, budget)
        assert sum(costs[place] for place in taken) + 8 <= budget or not taken
        assert not taken or (taken[0], taken[-1]) == (0, 6)
    assert evenly_spaced(costs, 9.0) == []
    assert evenly_spaced([4.0], 4.0) == [0]
    assert evenly_spaced([4.0], 3.0) == []
