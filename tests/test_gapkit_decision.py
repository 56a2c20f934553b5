"""The decision: the best expected arm, a chain only where it is likely to beat the best single hop."""

from __future__ import annotations

import numpy as np
import pytest

from gapkit.arm import SCRATCH, Arm, Run
from gapkit.decision import EDGE, SURE, Decision
from gapkit.forecast import Forecast
from gapkit.lookahead import odds
from gapkit.search_space import SearchSpace

SPACE = SearchSpace((9, 3, 1), {3: 2.0, 1: 1.0}, ("kl",), (1.0,))
DIRECT, ALONE, CHAIN = Arm((9, 1), "kl"), Arm((1,), SCRATCH), Arm((9, 3, 1), "kl")


def decided(scores: dict[Arm, list[float]], arms=(DIRECT, ALONE, CHAIN)) -> Decision:
    runs = [Run(arm, seed, s) for arm, many in scores.items() for seed, s in enumerate(many)]
    forecast = Forecast(SPACE.sizes, runs, teacher_score=0.9)
    return Decision(arms, forecast, SPACE.price, lambda a: len(scores.get(a, ())), bool(runs))


def test_a_chain_that_leads_by_less_than_its_doubt_is_not_chosen():
    noise = 0.05 * np.array([-1.0, 1.0, 0.4])
    taken = {}
    for lead in (0.02, 0.15):
        found = decided({DIRECT: list(0.5 + noise), CHAIN: list(0.5 + lead - noise), ALONE: [0.3]})
        sure = odds(found.forecast.belief(found.arms), found.rival)[2]
        assert found.mean[2] > found.mean[0]
        ahead = found.mean[2] - found.mean[0] >= EDGE * found.forecast.run_sd
        assert (found.arms[found.index] == CHAIN) == (sure >= SURE and ahead)
        taken[lead] = found.arms[found.index]
    assert taken == {0.02: DIRECT, 0.15: CHAIN}


def test_a_chain_sure_to_be_ahead_by_a_trifle_is_not_chosen():
    """Paired runs of many seeds make a small lead sure; a share of a run's noise is asked for all the same."""
    seeds = np.linspace(-0.1, 0.1, 16)
    taken = {}
    for lead in (0.004, 0.03):
        found = decided({DIRECT: list(0.5 + seeds), CHAIN: list(0.5 + lead + seeds), ALONE: [0.3]})
        assert odds(found.forecast.belief(found.arms), found.rival)[2] > SURE
        ahead = found.mean[2] - found.mean[0] >= EDGE * found.forecast.run_sd
        assert (found.arms[found.index] == CHAIN) == ahead
        taken[lead] = found.arms[found.index]
    assert taken == {0.004: DIRECT, 0.03: CHAIN}


def test_without_a_single_hop_the_best_chain_is_chosen():
    found = decided({CHAIN: [0.5, 0.6]}, arms=(CHAIN,))
    assert found.choice().path == CHAIN.path
    assert not found.choice().assistant_pays


def test_what_is_shown_is_what_was_weighed_best_first():
    choice = decided({DIRECT: [0.5, 0.51], ALONE: [0.4, 0.41], CHAIN: [0.3, 0.31]}).choice()
    values = [shown.predicted.value for shown in choice.alternatives]
    assert values == sorted(values, reverse=True)
    assert [shown.chosen for shown in choice.alternatives] == [True, False, False]
    assert {shown.path: shown.on_front for shown in choice.alternatives}[CHAIN.path] is False
    assert [shown.n_runs for shown in choice.alternatives] == [2, 2, 2]
    assert str(choice).startswith("9 → 1 by kl, fraction 1: ")


def test_before_any_run_the_first_arm_is_named_and_nothing_claimed():
    choice = decided({}).choice()
    assert choice.path == DIRECT.path
    assert not choice.tried
    assert choice.predicted.value == pytest.approx(0.9)
    assert "Nothing was measured yet" in choice.reason
