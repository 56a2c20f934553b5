"""The decision: the best expected arm, a chain only where its lead outweighs the risk that it is worse."""

from __future__ import annotations

import numpy as np
import pytest

from gapkit.forecast import Forecast
from gapkit.planning.arm import SCRATCH, Arm, Run
from gapkit.planning.decision import HARM, TIE, Decision
from gapkit.planning.lookahead import odds
from gapkit.planning.search_space import SearchSpace

SPACE = SearchSpace((9, 3, 1), {3: 2.0, 1: 1.0}, ("kl",), (1.0,))
DIRECT, ALONE, CHAIN = Arm((9, 1), "kl"), Arm((1,), SCRATCH), Arm((9, 3, 1), "kl")


def decided(scores: dict[Arm, list[float]], arms=(DIRECT, ALONE, CHAIN)) -> Decision:
    runs = [Run(arm, seed, s) for arm, many in scores.items() for seed, s in enumerate(many)]
    forecast = Forecast(SPACE.sizes, runs, teacher_score=0.9)
    return Decision(arms, forecast, SPACE.price, lambda a: len(scores.get(a, ())), bool(runs))


def worth_its_risk(found: Decision) -> bool:
    """The rule in its own words: E[lead] > HARM · gap · P(worse), and more than a tie."""
    worse = 1.0 - odds(found.forecast.belief(found.arms), found.rival)[2]
    lead = found.mean[2] - found.mean[found.rival]
    return lead - HARM * found.forecast.unit * worse > TIE * found.forecast.run_sd


def test_a_chain_whose_lead_does_not_outweigh_the_risk_is_not_chosen():
    noise = 0.05 * np.array([-1.0, 1.0, 0.4])
    taken = {}
    for lead in (0.02, 0.15):
        found = decided({DIRECT: list(0.5 + noise), CHAIN: list(0.5 + lead - noise), ALONE: [0.3]})
        assert found.mean[2] > found.mean[0]
        assert (found.arms[found.index] == CHAIN) == worth_its_risk(found)
        taken[lead] = found.arms[found.index]
    assert taken == {0.02: DIRECT, 0.15: CHAIN}


def test_the_same_lead_is_enough_once_it_is_sure():
    taken = {}
    for n in (3, 24):
        noise = 0.05 * np.resize([-1.0, 1.0, 0.4], n)
        found = decided({DIRECT: list(0.5 + noise), CHAIN: list(0.525 - noise), ALONE: [0.3]})
        assert (found.arms[found.index] == CHAIN) == worth_its_risk(found)
        taken[n] = found.arms[found.index]
    assert taken == {3: DIRECT, 24: CHAIN}


def test_of_equals_the_cheapest_is_chosen():
    seeds = np.linspace(-0.1, 0.1, 16)
    found = decided({DIRECT: list(0.5 + seeds), CHAIN: list(0.501 + seeds), ALONE: [0.3]})
    assert found.mean[2] > found.mean[0]
    assert found.arms[found.index] == DIRECT


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
