"""The search: what runs together, what is told, what a study's plan may be asked for beside its score."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from gapkit.errors import InputError
from gapkit.knowledge import KNOWLEDGE
from gapkit.limits import Limits
from gapkit.planner import Planner, Trial
from gapkit.planning.history import History
from gapkit.planning.search import _together, plan
from gapkit.plans import Phase
from gapkit.teaching.ways import Way
from tests.deciding_fixtures import COSTS, SIZES, control, prices, seeds_of
from tests.gate_fixtures import gap_with
from tests.tiny_study import tiny


def planner(budget: float = 30) -> Planner:
    cost = {size: COSTS[size] for size in SIZES[1:]}
    return Planner(SIZES, cost, ["kl4", "kl1"], budget, teacher_score=0.9)


def score(trial: Trial) -> float:
    """An assistant helps a lot; kl1 a little."""
    return 0.5 + 0.3 * (len(trial.path) > 2) + 0.02 * (trial.recipe == "kl1")


def searched(**fields):
    given = {
        "study": "invented", "sizes": SIZES, "prices": prices(), "knowledge": KNOWLEDGE, "budget": 12,
        "teacher_score": 0.95, "epochs": 60, "fractions": (1.0,),
    }  # fmt: skip
    return plan(score, **(given | fields))


@pytest.mark.parametrize("jobs", [1, 2, 3, 5])
def test_trials_that_run_together_need_nothing_of_each_other(jobs):
    search, waiting, spent = planner(), [], 0.0
    finished: set[tuple] = set()
    while trials := _together(search, waiting, jobs):
        assert len(trials) <= jobs
        spent += sum(COSTS[trial.path[-1]] for trial in trials)
        for trial in trials:
            if len(trial.path) > 2:  # its teacher is there
                assert (trial.path[:-1], trial.recipe, trial.seed) in finished
        for trial in trials:
            finished.add((trial.path, trial.recipe, trial.seed))
            search.tell(trial, score(trial))
    assert any(len(path) > 2 for path, _, _ in finished)
    assert not waiting
    assert spent == pytest.approx(search.spent)
    assert spent <= 30 + 1e-9


def test_the_history_is_told_after_every_trial_and_holds_each_once():
    told: list[History] = []
    _, history = searched(told=told.append)
    assert [len(found.rows) for found in told] == list(range(1, len(history.rows) + 1))
    assert told[-1] == history
    rows = [(row.path, row.recipe, row.seed, row.fraction) for row in history.rows]
    assert len(set(rows)) == len(rows)


def test_a_way_is_carried_into_the_stages():
    inherited = Way(phases=(Phase(knowledge=KNOWLEDGE["kl1"]),), init="inherit")
    ways = {"scratch": KNOWLEDGE["scratch"], "inherit+kl1": inherited}
    found, _ = searched(knowledge=ways, budget=30)
    assert found.assistant_pays
    assert {stage.init for stage in found.stages} == {"inherit"}


def test_dense_guidance_is_no_single_hop():
    dense = Way(phases=(Phase(knowledge=KNOWLEDGE["kl1"]),), scheme="dense")
    _, history = searched(knowledge={"kl1": KNOWLEDGE["kl1"], "dense+kl1": dense}, budget=40)
    hops = {row.recipe: [] for row in history.rows}
    for row in history.rows:
        hops[row.recipe].append(row.path)
    assert (32, 1) in hops["kl1"]
    assert (32, 1) not in hops.get("dense+kl1", [])


def test_the_next_size_up_is_named_with_its_price_where_a_control_trained_it():
    up = control("next size up", seeds_of(0.88, 2), path=(32, 3), recipe="kl4")
    gap = gap_with(up)
    found, _ = searched(gap=gap, above=3)
    assert found.wider.path == (32, 3)
    assert found.wider.n_runs >= 2
    assert found.wider.cost == pytest.approx(COSTS[3])
    assert found.wider.predicted.low < 0.88 < found.wider.predicted.high
    assert "size 3 instead of 1" in " ".join(found.reasons)
    assert searched(gap=gap)[0].wider is None


def test_a_plan_says_what_would_change_it():
    found, _ = searched()
    rivals = [arm for arm in found.alternatives if not arm.chosen]
    likeliest = max(rivals, key=lambda arm: arm.predicted.high)
    assert f"by {likeliest.recipe}" in found.would_change
    assert f"({likeliest.n_runs} so far)" in found.would_change
    blind, _ = searched(budget=0)
    assert blind.would_change.startswith("Runs of it that average clearly below")


@pytest.mark.slow
def test_a_search_in_two_processes_spends_and_tells_as_one_does():
    found, history = searched(jobs=2)
    assert found.assistant_pays
    assert sum(row.cost for row in history.rows) <= 12 + 1e-9
    assert {round(row.score, 6) for row in history.rows} <= {0.5, 0.52, 0.8, 0.82}


# a study's


@pytest.mark.slow
def test_a_plan_for_the_worst_slice_says_so_and_its_table_opens_in_pandas(tmp_path):
    study = tiny(out=tmp_path)
    study.diagnose(controls=True, budget=3)
    found = study.plan(budget=3, objective="worst_slice")
    assert found.objective == "worst_slice"
    assert all(stage.predicted is None for stage in found.stages)
    table = pd.read_csv(tmp_path / "trials.csv")
    assert {"path", "recipe", "seed", "fraction", "score", "expected", "cost"} <= set(table)
    by_score = study.plan(budget=3)
    assert by_score.objective == "score"
    trained = [json.loads(path.read_text()) for path in tmp_path.glob("trainings/*/training.json")]
    worst = {round(row.score, 9) for row in study.run.load("trials", History).rows}
    assert worst <= {round(item["score"], 9) for item in trained}


def test_a_student_beyond_its_limits_is_refused(tmp_path):
    study = tiny(out=tmp_path)
    with pytest.raises(InputError, match=r"size 2 has 19 parameters, at most 18"):
        study.plan(budget=0, limits=Limits(parameters=18))


def test_another_objective_is_refused_before_anything_is_measured(tmp_path):
    study = tiny(out=tmp_path)
    with pytest.raises(InputError, match="worst_slice"):
        study.plan(budget=0, objective="worst")
    assert not (tmp_path / "measurements.json").exists()


def test_a_larger_size_beyond_the_limits_is_not_proposed(tmp_path):
    study = tiny(out=tmp_path)
    assert study._quest.within(Limits(parameters=19)) is None
    assert study._quest.within(Limits(parameters=35)) == 4
