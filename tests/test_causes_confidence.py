"""The stated probability of a cause is that of its interval's normal law, with looks taken off, and capped."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from gapkit.causes.confidence import FEW_SEEDS, above, below, by_seeds, word
from gapkit.measurement import Measurement
from gapkit.probes.interval import Interval, bonferroni_level, measured


def value(mean: float, se: float, level: float = 0.95) -> Measurement:
    half = float(norm.ppf((1 + level) / 2)) * se
    interval = Interval(mean, mean - half, mean + half, se, 100, level)
    return measured("gain", "student", "validation", interval)


@pytest.mark.parametrize(
    "mean, se, limit", [(0.1, 0.05, 0.0), (0.1, 0.05, 0.08), (-0.02, 0.05, 0.0)]
)
def test_it_is_the_normal_probability_of_lying_above_the_limit(mean, se, limit):
    wanted = norm(mean, se).sf(limit)
    assert 0.3 < wanted < 0.99
    assert above(value(mean, se), limit) == pytest.approx(wanted)
    assert below(value(mean, se), limit) == pytest.approx(1 - wanted)


def test_each_bound_speaks_for_its_own_side():
    skewed = value(0.1, 0.05).with_(high=1.0)
    assert above(skewed) == above(value(0.1, 0.05))
    assert below(skewed, 0.5) < below(value(0.1, 0.05), 0.5)


def test_looks_that_the_level_pays_for_are_taken_off():
    one, ten = value(0.1, 0.04), value(0.1, 0.04, bonferroni_level(0.95, 10))
    assert 1 - above(ten) == pytest.approx(10 * (1 - above(one)))
    assert above(value(0.01, 0.04, bonferroni_level(0.95, 10))) == 0.0


def test_stated_probabilities_are_reached_under_the_null():
    """Of gains drawn around 0, those said to hold with .975 or more are a fortieth."""
    draws = np.random.default_rng(0).normal(size=20_000)
    share = np.mean([above(value(float(draw), 1.0)) >= 0.975 for draw in draws])
    assert share == pytest.approx(0.025, abs=0.004)


def test_what_has_no_width_or_no_value():
    exact = value(0.1, 0.0)
    assert (above(exact), above(exact, 0.2)) == (1.0, 0.0)
    assert above(value(0.1, 1.0).with_(low=-np.inf, high=np.inf)) == 0.5
    nothing = Measurement(
        name="gain", of="student", value=np.nan, low=np.nan, high=np.nan, reason="not run"
    )
    assert above(nothing) == below(nothing) == 0.0


@pytest.mark.parametrize("seeds, stated", [(2, FEW_SEEDS), (3, FEW_SEEDS), (4, 0.99)])
def test_few_seeds_cap_it(seeds, stated):
    assert by_seeds(0.99, seeds) == stated
    assert by_seeds(0.5, seeds) == 0.5


@pytest.mark.parametrize(
    "probability, said",
    [
        (1, "high"),
        (0.95, "high"),
        (0.9499, "moderate"),
        (0.8, "moderate"),
        (0.79, "low"),
        (0, "low"),
    ],
)
def test_words(probability, said):
    assert word(probability) == said
