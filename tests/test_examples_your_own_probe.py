"""A probe and a loss registered from outside run in a study like gapkit's own."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ttest_rel

import gapkit as gk
from gapkit import losses
from gapkit.commands.studyfile import load_study
from gapkit.examples import your_own_probe as example
from gapkit.probes import probe as probes

FILE = Path(example.__file__)


@pytest.fixture(autouse=True)
def _registers_restored():
    known, asked = dict(losses._LOSSES), dict(probes._REGISTERED)
    yield
    for register, before in ((losses._LOSSES, known), (probes._REGISTERED, asked)):
        register.clear()
        register.update(before)


def test_the_doctests():
    assert doctest.testmod(example).attempted >= 6
    assert doctest.testmod(example).failed == 0


def test_boldness_is_what_a_loop_over_samples_finds():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 200, 4) * 2
    labels = torch.randint(4, (200,))
    wanted = []
    for ours, theirs, label in zip(student, teacher, labels, strict=True):
        p, q = ours.softmax(0), theirs.softmax(0)
        answer = int(p.argmax())
        wanted.append(float(p[answer] - q[answer]) if answer != label else 0.0)
    found = example.boldness(student, teacher, labels)
    assert 0 < np.count_nonzero(found) < 200
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not example.boldness(student, student, labels).any()


def test_the_order_loss_is_ranknets_less_its_least():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4)
    total = 0.0
    for z, goal in zip(student, teacher, strict=True):
        for i in range(4):
            for j in range(4):
                p, q = torch.sigmoid((z[i] - z[j]) / 2), torch.sigmoid((goal[i] - goal[j]) / 2)
                total += float(F.binary_cross_entropy(p, q) - F.binary_cross_entropy(q, q))
    found = example.pairwise_order(student, teacher, temperature=2.0)
    assert found.item() == pytest.approx(4 * total / (3 * 16), rel=1e-4)
    assert found > 0.1


def test_the_order_loss_passes_the_check_and_ignores_a_shift():
    assert gk.check_loss(example.pairwise_order).ok
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3)
    before = example.pairwise_order(student, teacher)
    torch.testing.assert_close(example.pairwise_order(student + 7, teacher - 3), before)


def test_registering_twice_is_once():
    example.register()
    example.register()
    assert [probe.name for probe in probes.standard()].count("boldness") == 1
    with pytest.raises(gk.InputError, match="'boldness' is taken"):
        gk.probes.register(example.BoldProbe())
    with pytest.raises(gk.InputError, match="'pairwise_order' is taken"):
        gk.losses.register("pairwise_order", example.pairwise_order)


def test_the_loss_is_refused_where_there_are_no_classes():
    example.register()
    with pytest.raises(gk.InputError, match="Expected a loss for regression"):
        losses.named("pairwise_order").form("regression")


@pytest.mark.slow
def test_the_study_measures_the_probe_and_trains_by_the_loss(tmp_path):
    opened = load_study(FILE, tmp_path / "run", epochs=2)
    found = opened.measure()
    whole = found.get("boldness", of="pair", split="test")
    student, teacher = (
        example.predict(model, opened.data, "test", opened.task)
        for model in (opened.student, opened.teacher)
    )
    labels = opened.data.targets("test")
    values = example.boldness(student, teacher, labels)
    assert whole.value == pytest.approx(values.mean(), abs=1e-6)
    assert whole.low < whole.value < whole.high
    assert whole.n == 797
    one = found.get("boldness", of="pair", split="test", group="class=3")
    assert one.value == pytest.approx(values[labels.numpy() == 3].mean(), abs=1e-6)
    training = opened.trainings.arm((32, 1), "own", 0)
    assert training.path == (32, 1)
    assert opened.run.path("trainings").is_dir()
    rows = example.compare(opened, seeds=(0, 1))
    assert list(rows) == ["scratch", "kl4", "pairwise_order"]
    assert all(each.shape == (2, 2) and np.isfinite(each).all() for each in rows.values())


def test_the_table_holds_paired_differences():
    rng = np.random.default_rng(0)
    found = {"scratch": rng.random((4, 2)), "own": rng.random((4, 2))}
    line = example.table(found).splitlines()[-1]
    wanted = ttest_rel(found["own"][:, 0], found["scratch"][:, 0]).confidence_interval(0.95)
    middle, half = (wanted.low + wanted.high) / 2, (wanted.high - wanted.low) / 2
    assert f"{middle:+.3f} ± {half:.3f}" in line
