"""The ledger: seeds and scores as told, failures counted, prefixes not paid for twice."""

from __future__ import annotations

import math

from gapkit.planning.arm import Arm, Trial
from gapkit.planning.ledger import Ledger

CHAIN = Arm((9, 3, 1), "kl")


def kept(*rows) -> Ledger:
    ledger = Ledger()
    for path, seed, score in rows:
        ledger.tell(Trial(path, "kl", seed), score)
    return ledger


def test_a_failure_counts_as_worse_than_every_score():
    ledger = kept(((9, 1), 0, 0.4), ((9, 1), 1, 0.6), ((9, 3, 1), 0, math.nan), ((9, 3), 0, 0.9))
    scores = {(run.arm.path, run.seed): run.score for run in ledger.runs(1)}
    assert scores == {((9, 1), 0): 0.4, ((9, 1), 1): 0.6, ((9, 3, 1), 0): 0.4 - 0.5 * (0.6 - 0.4)}
    assert ledger.any_failed
    assert ledger.n_runs(CHAIN) == 0
    assert kept(((9, 1), 0, math.inf)).runs(1) == []


def test_an_arm_fails_with_its_prefix():
    assert kept(((9, 3), 0, math.nan)).failing(CHAIN)
    assert kept(((9, 3), 0, math.nan), ((9, 3), 1, 0.5)).failing(CHAIN)
    assert not kept(((9, 3), 0, math.nan), ((9, 3), 1, 0.5), ((9, 3), 2, 0.5)).failing(CHAIN)
    assert not kept().failing(CHAIN)


def test_seeds_that_were_used_or_whose_prefix_failed_are_passed_over():
    ledger = kept(((9, 3, 1), 0, 0.5), ((9, 3), 1, math.nan), ((9, 3), 2, 0.8))
    ledger.ask(Trial((9, 3, 1), "kl", 3))
    assert ledger.next_seeds(CHAIN, 3) == [2, 4, 5]
    assert [trial.path for trial in ledger.missing(CHAIN, 2)] == [(9, 3, 1)]
    assert [trial.path for trial in ledger.missing(CHAIN, 4)] == [(9, 3), (9, 3, 1)]
    assert ledger.n_used == 4
