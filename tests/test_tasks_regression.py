"""Regression: what outputs mean, how they are scored, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from gapkit.errors import InputError
from gapkit.task import Task
from gapkit.tasks.regression import Regression

N = 70
ORACLES = {
    "r2": r2_score,
    "neg_mse": lambda y, z: -mean_squared_error(y, z),
    "neg_mae": lambda y, z: -mean_absolute_error(y, z),
}


def answers(d: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (N,) if d is None else (N, d)
    targets = torch.randn(*shape, generator=generator) + 5
    return targets + 0.5 * torch.randn(*shape, generator=generator), targets


def test_it_is_a_task():
    assert isinstance(Regression(), Task)


@pytest.mark.parametrize("d", [None, 3])
@pytest.mark.parametrize("name", ORACLES)
def test_scores_are_sklearns_and_contributions_their_parts(name, d):
    outputs, targets = answers(d)
    expected = ORACLES[name](targets.numpy(), outputs.numpy())
    assert abs(expected) > 0.1
    task = Regression(name)
    assert task.score(outputs, targets) == pytest.approx(expected, rel=1e-6)
    assert task.contributions(outputs, targets).mean() == pytest.approx(expected, rel=1e-6)


def test_the_spread_of_the_parts_of_r2_is_the_bootstraps():
    outputs, targets = answers(None)
    parts = Regression().contributions(outputs, targets)
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        rows = rng.integers(0, N, N)
        found.append(r2_score(targets[rows].numpy(), outputs[rows].numpy()))
    assert parts.std(ddof=1) / np.sqrt(N) == pytest.approx(np.std(found), rel=0.15)


def test_a_column_of_one_is_a_vector():
    outputs, targets = answers(1)
    task = Regression()
    assert task.outputs(outputs).shape == (N,)
    assert task.score(task.outputs(outputs), targets) == task.score(outputs[:, 0], targets[:, 0])


def test_chance_is_the_best_constant():
    _, targets = answers(None)
    assert Regression("r2").chance(targets) == pytest.approx(0.0, abs=1e-9)
    assert Regression("neg_mse").chance(targets) == pytest.approx(-targets.var(correction=0).item())
    expected = -(targets - targets.double().quantile(0.5)).abs().mean().item()
    assert Regression("neg_mae").chance(targets) == pytest.approx(expected)


def test_agreement_is_one_for_equal_answers_and_a_half_at_one_deviation():
    others = torch.tensor([0.0, 2.0])
    assert Regression().agreement(others, others).tolist() == [1.0, 1.0]
    assert Regression().agreement(others + 1.0, others).tolist() == [0.5, 0.5]
    constant = torch.ones(2)
    assert Regression().agreement(constant, constant).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "outputs, targets, message",
    [
        (torch.zeros(4, 2, 2), torch.zeros(4), "numbers"),
        (torch.zeros(4), None, "the data gives none"),
        (torch.zeros(4, 2), torch.zeros(4, 3), "targets like"),
        (torch.zeros(4), torch.full((4,), torch.nan), "finite targets"),
    ],
)
def test_what_does_not_fit_is_refused(outputs, targets, message):
    with pytest.raises(InputError, match=message):
        Regression().check(outputs, targets, "teacher")


def test_r2_of_targets_that_do_not_vary_is_refused():
    with pytest.raises(InputError, match="vary"):
        Regression().score(torch.arange(3.0), torch.ones(3))
