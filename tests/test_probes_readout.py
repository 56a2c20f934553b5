"""Readouts against sklearn's discriminant analysis, ridge regression and scores; linearized intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score

from gapkit.errors import InputError
from gapkit.probes.linear_fit import applied, choose, reading_interval
from gapkit.probes.readout import Classes, LabelSets, Values, r2_contributions
from gapkit.probes.spectrum import basis_of
from tests.linear_fixtures import digits, standardized


class Loaded(BaseEstimator):
    """A covariance estimator for sklearn: the sample covariance plus a multiple of the identity."""

    def __init__(self, penalty: float = 0.0) -> None:
        self.penalty = penalty

    def fit(self, x: np.ndarray) -> Loaded:
        away = x - x.mean(0)
        self.covariance_ = away.T @ away / len(x) + self.penalty * np.eye(x.shape[1])
        return self


@pytest.mark.parametrize("width", [64, 500])
def test_screen_of_classes_is_sklearns_lda(width):
    x, y = digits(150)
    x = x if width == 64 else np.tanh(x / 16 @ np.random.default_rng(1).normal(size=(64, width)))
    z, basis, penalties = standardized(x), basis_of(x), (1.0, 1e-1, 1e-2)
    for penalty, line in zip(penalties, Classes(y).screened(basis, penalties)):
        oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Loaded(penalty))
        found, want = applied(line, basis.scores), oracle.fit(z, y).decision_function(z)
        assert np.abs(want).max() > 1
        # Logits are free up to a constant a sample.
        np.testing.assert_allclose(
            found - found.mean(1, keepdims=True), want - want.mean(1, keepdims=True),
            atol=1e-6 * np.abs(want).max(),
        )  # fmt: skip


def test_lda_names_a_class_that_ridge_would_mask():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = (y - 1.0)[:, None] + 0.2 * rng.normal(size=(600, 1))
    basis = basis_of(x)
    (line,) = Classes(y).screened(basis, [1e-3])
    assert Classes(y).contributions(applied(line, basis.scores), y).mean() > 0.95
    ridge = Ridge().fit(x, np.eye(3)[y]).predict(x)
    assert (ridge.argmax(1)[y == 1] == 1).mean() < 0.5


def test_screen_of_values_is_sklearns_ridge():
    x, y = digits(120)
    targets = np.stack([y * 1.0, np.sin(y)], 1)
    z, basis = standardized(x), basis_of(x)
    readout = Values(targets)
    for penalty, line in zip((10.0, 1e-2), readout.screened(basis, (10.0, 1e-2))):
        want = Ridge(alpha=penalty * 120).fit(z, targets).predict(z)
        found = applied(line, basis.scores) * targets.std(0) + targets.mean(0)
        np.testing.assert_allclose(found, want, atol=1e-9 * np.abs(want).max())


def test_r2_is_sklearns_mean_over_targets():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(50, 3)) * [1, 100, 0.01] + [5, 0, 0]
    outputs = rng.normal(size=(50, 3)) * 0.3 + (y - y.mean(0)) / y.std(0) / 2
    found = Values(y).contributions(outputs, y)
    want = r2_score(y, outputs * y.std(0) + y.mean(0))
    assert 0.1 < want < 0.9
    assert found.mean() == pytest.approx(want, abs=1e-12)


def test_r2_is_one_for_the_target_and_zero_for_its_mean():
    y = np.random.default_rng(2).normal(size=(20, 2))
    assert Values(y).contributions((y - y.mean(0)) / y.std(0), y) == pytest.approx(np.ones(20))
    assert Values(y).contributions(np.zeros((20, 2)), y).mean() == pytest.approx(0, abs=1e-12)
    assert np.isnan(r2_contributions(np.ones(3), np.zeros(3))).all()
    assert np.isnan(Values(y).contributions(np.zeros((2, 2)), np.tile(y.mean(0), (2, 1)))).all()


def label_sets(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random((n, 3)) < [0.5, 0.3, 0.1]
    return y * 1.0, (y - 0.5) + rng.normal(size=(n, 3))


def test_label_sets_are_scored_by_sklearns_balanced_accuracy():
    y, outputs = label_sets(400)
    found = LabelSets(y).contributions(outputs, y)
    want = [balanced_accuracy_score(y[:, k], outputs[:, k] > 0) for k in range(3)]
    assert 0.6 < min(want) < max(want) < 0.8
    assert found.mean() == pytest.approx(np.mean(want), abs=1e-12)


def test_contributions_of_label_sets_have_the_standard_error_of_fresh_samples():
    spread, said = [], []
    for seed in range(2000):
        y, outputs = label_sets(300, seed)
        values = LabelSets(y).contributions(outputs, y)
        spread.append(values.mean())
        said.append(values.std(ddof=1) / np.sqrt(len(values)))
    assert np.mean(said) == pytest.approx(np.std(spread), rel=0.05)


def test_a_label_never_named_is_worth_a_half_however_rare():
    y = np.zeros((100, 1))
    y[:3] = 1
    assert LabelSets(y).contributions(np.full((100, 1), -1.0), y).mean() == pytest.approx(0.5)
    assert LabelSets(y).contributions(y - 0.5, y) == pytest.approx(np.ones(100))


def test_labels_that_do_not_vary_are_left_out():
    y, outputs = label_sets(200)
    wide = np.hstack([y, np.ones((200, 1)), np.zeros((200, 1))])
    readout = LabelSets(wide)
    assert readout.fitted.tolist() == [True, True, True, False, False]
    assert readout.contributions(outputs, wide).mean() == pytest.approx(
        LabelSets(y).contributions(outputs, y).mean()
    )
    for value in (0, 1):
        same = wide.copy()
        same[:, 2] = value
        assert readout.contributions(outputs, same).mean() == pytest.approx(
            LabelSets(y[:, :2]).contributions(outputs[:, :2], y[:, :2]).mean()
        )
    nothing = readout.contributions(outputs, np.zeros_like(wide))
    assert "no label that varied" in reading_interval(readout, nothing).reason


@pytest.mark.parametrize("path", ["screened", "probed"])
def test_a_rare_label_is_called_above_its_share(path):
    rng = np.random.default_rng(3)
    y = (rng.random((4000, 1)) < 0.03) * 1.0
    x = y * 1.5 + rng.normal(size=(4000, 1))
    basis, readout = basis_of(x), LabelSets(y)
    (line,) = getattr(readout, path)(basis, [1e-4])
    # The threshold that is best for balanced accuracy is where both densities are equal: x = 0.75.
    crossing = (0 - line[1][0]) / line[0][0, 0] / basis.axes[0, 0] * basis.scale[0] + basis.mean[0]
    assert crossing == pytest.approx(0.75, abs=0.1)
    assert readout.contributions(applied(line, basis.scores), y).mean() > 0.74


def test_classes_never_trained_on_are_missed():
    readout = Classes(np.array([2, 5, 2, 5]))
    outputs = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert readout.contributions(outputs, np.array([2, 5, 9, -1])).tolist() == [1, 1, 0, 0]
    assert readout.loss(outputs, np.array([9, 9, 9, 9])) == 0
    want = np.log(1 + np.exp(-1.0))
    assert readout.loss(outputs, np.array([2, 5, 9, -1])) == pytest.approx(want)


def test_among_equal_scores_the_lower_loss_is_chosen():
    y = np.array([0, 1])
    scores = np.array([[-1.0], [1.0]])
    weak, strong, wrong = (np.array([[-w, w]]) for w in (1.0, 3.0, -1.0))
    lines = [(wrong, np.zeros(2)), (weak, np.zeros(2)), (strong, np.zeros(2))]
    choice = choose(Classes(y), lines, scores, y)
    assert (choice.best, choice.path.tolist()) == (2, [0, 1, 1])
    assert choice.contributions.tolist() == [1, 1]


def test_intervals_fit_the_score():
    assert "Wilson" in reading_interval(Classes, np.array([1.0, 0, 1])).method
    y, outputs = label_sets(100)
    found = reading_interval(LabelSets, LabelSets(y).contributions(outputs, y))
    assert found.method == "macro balanced accuracy, ratio; t interval"
    grouped = reading_interval(Values, np.arange(6.0), np.arange(6) // 2)
    assert "3 groups" in grouped.method


@pytest.mark.parametrize(
    "kind,y,match",
    [
        (Classes, np.ones(4, dtype=int), "two classes to probe for but got 1"),
        (LabelSets, np.ones((4, 2)), "some training samples have"),
        (Values, np.full((4, 1), 7.3), "target that varies"),
    ],
)
def test_labels_that_say_nothing_are_refused(kind, y, match):
    with pytest.raises(InputError, match=match):
        kind(y)
