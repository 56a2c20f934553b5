"""Lookahead: against Monte Carlo over what runs might show, and in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from gapkit.forecast import Belief
from gapkit.planning.lookahead import DOF, best_rate, knowledge_gradient, odds, value_of_knowing


def belief(seed: int = 0) -> Belief:
    root = np.random.default_rng(seed).normal(size=(5, 5))
    return Belief(np.array([0.0, 0.3, 0.1]), root @ root.T, noise=0.5)


def test_the_knowledge_gradient_is_the_expected_maximum():
    """Against Monte Carlo over what the runs might show, by Student's law."""
    rng, found = np.random.default_rng(0), belief()
    gain = knowledge_gradient(found, 1, np.array([3, 4]))
    joint = rng.multivariate_normal([*found.mean, 0, 0], found.cov, size=100_000)
    shown = joint[:, 1] + joint[:, 3:].mean(1) + rng.normal(size=100_000) * math.sqrt(0.5 / 2)
    slope = np.array([np.cov(joint[:, i], shown)[0, 1] for i in range(3)]) / shown.var()
    wide = np.sqrt(DOF / rng.chisquare(DOF, size=100_000))
    after = found.mean + np.outer(wide * (shown - found.mean[1]), slope)
    assert gain == pytest.approx(after.max(1).mean() - 0.3, rel=0.06)
    assert gain > 0.1


def test_to_know_an_arm_is_worth_more_than_a_run_and_as_much_as_endless_ones():
    for seed in range(5):
        cov = np.zeros((203, 203))
        cov[:3, :3] = belief(seed).cov[:3, :3]
        cov[3:, 3:] = 0.2 * np.eye(200)  # seeds
        found = Belief(np.array([0.0, 0.3, 0.1]), cov, noise=0.5)
        for arm in range(3):
            known = value_of_knowing(found, arm)
            once, often = (knowledge_gradient(found, arm, 3 + np.arange(n)) for n in (1, 200))
            assert once < known
            assert often == pytest.approx(known, rel=0.02)


def test_several_runs_are_weighed_where_one_would_change_nothing():
    found = Belief(np.array([0.0, 1.0]), np.diag([1.0, 0.0, *np.zeros(8)]), noise=16.0)
    seeds = 2 + np.arange(8)
    rate = {n: knowledge_gradient(found, 0, seeds[:n]) / (2.0 * n) for n in (1, 2, 4, 8)}
    assert best_rate(found, 0, seeds, [2.0] * 8, (1, 2, 4, 8)) == pytest.approx(max(rate.values()))
    assert rate[8] > rate[1]
    assert best_rate(found, 0, seeds, [2.0] * 8, ()) == 0.0


def test_nothing_is_learned_of_an_arm_that_is_known():
    found = Belief(np.zeros(2), np.diag([0.0, 1.0]), noise=1.0)
    assert value_of_knowing(found, 0) == 0.0
    assert value_of_knowing(found, 1) > 0.3


def test_an_arm_that_looks_beaten_is_worth_more_than_one_that_is_known():
    """Three standard deviations behind: under Gaussian tails that is next to nothing, here it is not."""
    found = Belief(np.array([0.0, -3.0, -3.0]), np.diag([1e-6, 1.0, 1e-4]), noise=1.0)
    gaussian = norm.pdf(3) - 3 * norm.sf(3)
    assert value_of_knowing(found, 1) > 20 * gaussian
    assert value_of_knowing(found, 0) < 0.02 * value_of_knowing(found, 1)
    assert value_of_knowing(found, 2) < 0.02 * value_of_knowing(found, 1)


def test_slack_lets_a_dear_arm_come_before_a_cheap_one_that_tells_little():
    found = Belief(np.zeros(3), np.diag([1.0, 0.01, 0.0]), noise=0.0)
    dear, cheap = (best_rate(found, i, np.array([2]), [p], (1,)) for i, p in ((0, 8.0), (1, 0.5)))
    assert dear < cheap
    dear, cheap = (
        best_rate(found, i, np.array([2]), [p], (1,), slack=3.0) for i, p in ((0, 8.0), (1, 0.5))
    )
    assert dear > cheap


def test_odds_are_those_of_the_difference():
    """Arms that go up and down together are told apart though each alone is uncertain."""
    cov = np.array([[4.0, 3.9, 0.0], [3.9, 4.0, 0.0], [0.0, 0.0, 1.0]])
    found = odds(Belief(np.array([0.0, 0.5, 0.5]), cov, noise=1.0), rival=0)
    assert found[0] == pytest.approx(0.5)
    assert found[1] == pytest.approx(norm.cdf(0.5 / math.sqrt(0.2)))
    assert found[2] == pytest.approx(norm.cdf(0.5 / math.sqrt(5.0)))
    assert found[1] > 0.85 > 0.6 > found[2]
