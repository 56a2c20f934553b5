"""plan() spends what it may, proposes what pays, claims no more, and writes down what it saw."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from gapkit.diagnosis import diagnose
from gapkit.gap import Gap
from gapkit.knowledge import KNOWLEDGE
from gapkit.planner import Trial
from gapkit.planning.history import History, TrialRow, control_rows, tell
from gapkit.planning.proposal import carry_out_cost
from gapkit.planning.search import make_planner, plan
from gapkit.plans import Phase, Plan, Predicted, Stage
from gapkit.wording import Wording
from tests.deciding_fixtures import (
    COSTS,
    SIZES,
    control,
    hits,
    measurements,
    prices,
    score_of,
    seeds_of,
)

SHARE = Wording(unit="share", score_name="accuracy")
EPOCHS = 60


class Table:
    """Scores of planted means with noise; notes what is asked."""

    def __init__(self, mean, sd: float = 0.01, seed: int = 0) -> None:
        self.mean, self.sd, self.rng = mean, sd, np.random.default_rng(seed)
        self.asked: list[Trial] = []

    def __call__(self, trial: Trial) -> float:
        self.asked.append(trial)
        return self.mean(trial) + self.sd * self.rng.normal()

    @property
    def cost(self) -> float:
        return sum(COSTS[trial.path[-1]] * trial.fraction for trial in self.asked)


def proposed(mean, budget: float = 20, **changes) -> tuple[Plan, History, Table]:
    table = mean if isinstance(mean, Table) else Table(mean)
    given = {
        "study": "invented",
        "sizes": SIZES,
        "prices": prices(),
        "knowledge": KNOWLEDGE,
        "teacher_score": 0.95,
        "epochs": EPOCHS,
        "fractions": (1.0,),
        "say": SHARE,
    }
    found, history = plan(table, budget=budget, **(given | changes))
    return found, history, table


def n_assistants(trial: Trial) -> int:
    return max(0, len(trial.path) - 2)


def diagnosis(*controls) -> Gap:
    return diagnose(measurements(hits(0.9), hits(0.6)), controls)


def test_a_student_that_already_does_better_is_to_be_kept():
    given = score_of("student", hits(0.9))
    found, _, _ = proposed(lambda trial: 0.5, as_given=given)
    assert found.keep_student
    assert found.reasons[0] == (
        f"On validation the student as it was given already scores {SHARE.score_of(given)}, more than is "
        "expected of this plan: keep it, or let the study's recipe be the one that it was trained by."
    )
    assert str(found).endswith("; the student as it was given already does better")
    worse, _, _ = proposed(lambda trial: 0.5, as_given=score_of("student", hits(0.4)))
    unknown, _, _ = proposed(lambda trial: 0.5)
    undefined = given.with_(value=math.nan, reason="too few samples")
    assert worse == unknown == proposed(lambda trial: 0.5, as_given=undefined)[0]
    assert not worse.keep_student
    assert worse.reasons == found.reasons[1:]


def test_an_assistant_that_helps_by_a_lot_is_claimed_and_chained():
    found, _, _ = proposed(lambda trial: 0.5 + 0.3 * (n_assistants(trial) == 1))
    assert found.assistant_pays
    assistant, student = found.stages
    assert assistant.name == f"assistant {assistant.size}"
    assert assistant.size in (12, 3)
    assert (assistant.sources, student.sources) == (("teacher",), (assistant.name,))
    assert (student.name, student.size) == ("student", 1)
    assert (len(assistant.seeds), len(student.seeds)) == (1, 3)
    assert (assistant.on_miss, student.on_miss) == ("replan", "retry")
    assert (
        assistant.predicted.low <= 0.5 <= assistant.predicted.high
    )  # trials trained that size too
    assert student.predicted == found.predicted_run
    recipe = next(arm.recipe for arm in found.alternatives if arm.chosen)
    assert assistant.phases == student.phases == (Phase(knowledge=KNOWLEDGE[recipe]),)
    path = f"32 → {assistant.size} → 1 by {recipe}"
    assert found.claim == f"An assistant pays: {path} beats the best single hop beyond noise."
    assert found.predicted.value == pytest.approx(0.8, abs=0.05)


def test_two_assistants_in_a_row_are_chained_in_order():
    found, _, _ = proposed(lambda trial: 0.3 + 0.25 * n_assistants(trial), budget=40)
    assert found.assistant_pays
    assert [stage.size for stage in found.stages] == [12, 3, 1]
    assert [stage.sources for stage in found.stages] == [
        ("teacher",),
        ("assistant 12",),
        ("assistant 3",),
    ]
    assert [len(stage.seeds) for stage in found.stages] == [1, 1, 3]


@pytest.mark.parametrize("effect", [-0.1, 0.0])
def test_an_assistant_that_hurts_or_is_level_is_not_proposed(effect):
    def mean(trial):
        return 0.6 + 0.05 * (trial.recipe == "dist1") + effect * n_assistants(trial)

    found, _, table = proposed(mean, budget=24)
    assert any(n_assistants(trial) for trial in table.asked)  # it was tried
    (stage,) = found.stages
    assert (stage.name, stage.size, stage.sources) == ("student", 1, ("teacher",))
    assert stage.phases[0].knowledge == KNOWLEDGE["dist1"]
    assert not found.assistant_pays
    assert found.claim.startswith("No assistant is claimed to pay: the best path with one, 32 → ")


def test_noise_is_blamed_only_where_the_assistant_looks_better():
    hurts, _, _ = proposed(lambda trial: 0.6 - 0.1 * n_assistants(trial))
    assert "−" in hurts.claim
    assert "noise" not in hurts.claim
    level = [proposed(Table(lambda t: 0.6, sd=0.03, seed=seed))[0] for seed in range(12)]
    better = [found.claim for found in level if "at +" in found.claim]
    assert len(better) >= 2
    for claim in better:
        runs = "0 runs" in claim or "1 run)" in claim
        why = "too few runs to claim it" if runs else "within what noise explains"
        assert why in claim


def test_a_chain_that_was_repeated_is_claimed_though_a_cheaper_one_looks_alike():
    """Two chains level at the top: the cheaper was run once, the dearer twice."""
    known = single_hops(0.5)
    known += [row((32, 12, 1), "kl4", seed, 0.8 - 0.002 * seed) for seed in range(2)]
    known += [row((32, 3, 1), "kl4", 0, 0.8)]
    found, _, _ = proposed(never_table(), 0, known=known)
    assert found.assistant_pays
    assert [stage.size for stage in found.stages] == [12, 1]


@pytest.mark.slow
def test_level_assistants_are_rarely_claimed():
    claimed = [
        proposed(Table(lambda trial: 0.6, sd=0.03, seed=seed))[0].assistant_pays
        for seed in range(60)
    ]
    assert np.mean(claimed) <= 0.1


def test_a_family_without_assistants_says_so():
    found, _, _ = proposed(lambda trial: 0.6, sizes=(32, 1))
    assert len(found.stages) == 1
    assert found.claim == "No assistant was in question: the family has no size between."


def test_labels_alone_when_clearly_best():
    found, _, _ = proposed(lambda trial: 0.8 if trial.recipe == "scratch" else 0.5)
    (stage,) = found.stages
    assert stage.sources == ()
    assert stage.phases[0].knowledge == KNOWLEDGE["scratch"]
    assert found.reasons[0].startswith("1 by scratch is expected to score ")
    assert not any("level" in reason for reason in found.reasons)


def test_labels_alone_level_with_a_taught_arm_give_way_and_the_reasons_say_so():
    def mean(trial):
        return {"scratch": 0.602, "kl1": 0.6}.get(trial.recipe, 0.4) - 0.1 * n_assistants(trial)

    for seed in range(8):
        found, _, _ = proposed(Table(mean, sd=0.02, seed=seed), budget=16)
        if any("level" in reason for reason in found.reasons):
            break
    (stage,) = found.stages
    assert stage.sources == ("teacher",)
    assert stage.phases[0].knowledge == KNOWLEDGE["kl1"]
    scratch = next(arm for arm in found.alternatives if arm.recipe == "scratch")
    assert scratch.predicted.value > found.predicted.value
    assert scratch.predicted.value <= found.predicted.high
    assert "The best other single hop, 1 by scratch, " in found.reasons[1]
    assert found.reasons[2] == (
        "The two are level; the taught one is tried, and its twins on labels alone beside it."
    )


def test_only_labels_alone_can_be_proposed_when_nothing_is_taught():
    found, _, _ = proposed(lambda trial: 0.6, knowledge={"scratch": KNOWLEDGE["scratch"]})
    assert found.stages[0].sources == ()


@pytest.mark.parametrize("best, epochs", [(1.0, {}), (4.0, {"epochs": 240})])
def test_fractions_become_epochs(best, epochs):
    def mean(trial):
        return 0.7 - 0.1 * abs(math.log2(trial.fraction / best)) - 0.1 * n_assistants(trial)

    found, _, table = proposed(mean, budget=60, fractions=(1.0, 2.0, 4.0))
    assert {trial.fraction for trial in table.asked} > {1.0}
    (stage,) = found.stages
    assert stage.recipe == epochs
    words = f"for {best:g} times the epochs"
    assert (words in found.reasons[0]) == (best != 1.0)


def test_an_epoch_count_is_a_whole_number_and_at_least_one():
    known = [row((32, 1), "kl4", seed, 0.5, fraction=0.1) for seed in range(4)]
    found, _, _ = proposed(lambda trial: 0.5, 0, known=known, fractions=(0.1,), epochs=3)
    assert found.stages[0].recipe == {"epochs": 1}


@pytest.mark.parametrize("budget", [0.5, 1, 3, 7.3, 15, 40])
def test_the_budget_is_never_exceeded(budget):
    found, history, table = proposed(lambda t: 0.6, budget, fractions=(1.0, 2.0, 4.0))
    assert table.cost <= budget + 1e-9
    assert found.search_cost.student_trainings == pytest.approx(table.cost)
    assert len(history.rows) == len(table.asked)


def test_less_than_one_student_training_buys_none():
    found, history, table = proposed(lambda t: 0.6, 0.5)
    assert table.asked == []
    assert history.rows == ()
    assert found.search_cost.student_trainings == 0


def row(path, recipe, seed, score, fraction=1.0, origin="search", cost=0.0) -> TrialRow:
    return TrialRow(
        path=path,
        recipe=recipe,
        seed=seed,
        fraction=fraction,
        origin=origin,
        cost=cost,
        expected=math.nan,
        score=score,
    )


def single_hops(score: float) -> list[TrialRow]:
    """Three runs of every knowledge, from the teacher or from labels alone."""
    return [
        row((1,) if name == "scratch" else (32, 1), name, seed, score)
        for seed in range(3)
        for name in KNOWLEDGE
    ]


def never(trial: Trial) -> float:
    raise AssertionError(f"{trial} was trained")


def test_budget_zero_chooses_from_what_is_known():
    gap = diagnosis(
        control("same recipe", seeds_of(0.6)),
        control("knowledge: dist1", seeds_of(0.75), recipe="dist1"),
        control("scratch", seeds_of(0.55), recipe="scratch", path=(1,)),
    )
    found, history = plan(
        never,
        study="invented",
        sizes=SIZES,
        prices=prices(),
        knowledge=KNOWLEDGE,
        budget=0,
        teacher_score=0.9,
        epochs=EPOCHS,
        gap=gap,
        say=SHARE,
    )
    assert found.stages[0].phases[0].knowledge == KNOWLEDGE["dist1"]
    assert found.search_cost.student_trainings == 0
    assert found.answers == tuple(finding.cause for finding in gap.findings)
    assert "harsh_targets" in found.answers
    assert {(r.origin, r.cost) for r in history.rows} == {("control", 0.0)}
    assert len(history.rows) == 12
    assert found.predicted.value == pytest.approx(0.75, abs=0.03)


def test_budget_zero_with_earlier_rows_and_with_nothing_at_all():
    known = [row((32, 3, 1), "kl4", seed, 0.8) for seed in range(4)]
    known += [row((32, 3), "kl4", seed, 0.85) for seed in range(4)]
    known += single_hops(0.5)
    found, history, _ = proposed(never_table(), 0, known=known)
    assert [stage.size for stage in found.stages] == [3, 1]
    assert found.assistant_pays
    assert history.rows == tuple(known)
    blind, nothing, _ = proposed(never_table(), 0)
    assert nothing.rows == ()
    assert len(blind.stages) == 1
    assert "0 runs of it: carried over" in blind.reasons[0]


def never_table() -> Table:
    table = Table(lambda trial: 0.5)
    table.mean = never
    return table


def test_controls_are_the_first_data_and_a_teacher_sized_one_is_passed_over():
    gap = diagnosis(
        control("same recipe", seeds_of(0.6, 3)),
        control("teacher-sized", seeds_of(0.8, 2), path=(32, 32)),
    )
    rows = control_rows(gap.controls)
    assert [(r.path, r.seed, r.score) for r in rows[:3]] == [
        ((32, 1), seed, pytest.approx(score)) for seed, score in enumerate(gap.controls[0].scores)
    ]
    planner = make_planner(SIZES, prices(), KNOWLEDGE, 5, 0.9, fractions=(1.0,), seed=0)
    assert tell(planner, rows) == rows[:3]
    assert planner.spent == 0
    found, history, table = proposed(lambda t: 0.6, 8, gap=gap)
    assert not {((32, 1), "kl4", seed) for seed in range(3)} & {
        (trial.path, trial.recipe, trial.seed) for trial in table.asked
    }
    assert [r.origin for r in history.rows[:3]] == ["control"] * 3
    assert found.search_cost.student_trainings == pytest.approx(table.cost)


def test_altered_trainings_are_not_told_to_the_planner():
    """Their path and recipe look like an arm's; their scores are not that arm's."""
    own = control("same recipe", seeds_of(0.6, 2))
    altered = control("half the samples", seeds_of(0.3, 2), altered="half the samples")
    assert (own.path, own.recipe, own.fraction) == (altered.path, altered.recipe, altered.fraction)
    assert control_rows([own, altered]) == control_rows([own])
    assert len(control_rows([own])) == 2
    assert control_rows([altered]) == []


def test_history_opens_in_plain_csv_and_its_costs_add_up():
    gap = diagnosis(control("same recipe", seeds_of(0.6, 2)))
    _, history, table = proposed(lambda t: 0.6, 15, gap=gap, fractions=(1.0, 2.0))
    lines = list(csv.DictReader(io.StringIO(history.csv())))
    assert list(lines[0]) == [
        "path",
        "recipe",
        "seed",
        "fraction",
        "origin",
        "cost",
        "expected",
        "score",
    ]
    assert len(lines) == len(history.rows) == 2 + len(table.asked)
    assert sum(float(line["cost"]) for line in lines) == pytest.approx(table.cost)
    assert lines[0]["path"] == "32 > 1"
    assert lines[0]["origin"] == "control"
    for line, trial in zip(lines[2:], table.asked):
        assert line["path"] == " > ".join(map(str, trial.path))
        assert (line["recipe"], int(line["seed"])) == (trial.recipe, trial.seed)
        assert float(line["fraction"]) == trial.fraction
        assert float(line["cost"]) == pytest.approx(COSTS[trial.path[-1]] * trial.fraction)


def test_what_was_expected_is_written_before_the_score_is_known():
    """A forecast that could see the score would have no errors left."""
    _, history, _ = proposed(Table(lambda t: 0.6, sd=0.05, seed=3), 15)
    searched = [item for item in history.rows if not math.isnan(item.expected)]
    assert math.isnan(history.rows[0].expected)  # nothing was known yet
    assert len(searched) >= 8
    assert np.std([item.score - item.expected for item in searched]) > 0.02


@pytest.mark.parametrize("level", [0.985, 0.01])
def test_forecasts_of_a_share_stay_between_0_and_1(level):
    found, _, _ = proposed(Table(lambda t: level, sd=0.04), 8, teacher_score=0.99)
    forecasts = [found.predicted, found.predicted_run, found.stages[-1].predicted]
    forecasts += [arm.predicted for arm in found.alternatives]
    assert any(item.high == 1.0 or item.low == 0.0 for item in forecasts)  # some had to be cut
    for item in forecasts:
        assert 0 <= item.low <= item.value <= item.high <= 1


def test_forecasts_of_other_scores_are_left_as_they_are():
    say = Wording(unit="", score_name="r2")
    found, _, _ = proposed(Table(lambda t: -2.0, sd=0.5), 8, say=say)
    assert found.predicted.low < -1
    assert found.reasons[0].count("%") == 1  # the interval's level alone


def test_the_plan_validates_and_comes_back_from_json_unchanged():
    found, history, _ = proposed(lambda t: 0.5 + 0.3 * (n_assistants(t) == 1))
    assert Plan.model_validate_json(found.model_dump_json()) == found
    assert History.model_validate_json(history.model_dump_json()) == history
    assert math.isnan(history.rows[0].expected)


def test_alternatives_mark_the_one_that_is_proposed():
    """The planner's own first choice may be a chain that is not claimed: it is then not marked."""
    for mean in (lambda t: 0.6, lambda t: 0.5 + 0.3 * (n_assistants(t) == 1)):
        found, _, _ = proposed(mean)
        (chosen,) = [arm for arm in found.alternatives if arm.chosen]
        sizes = tuple(stage.size for stage in found.stages)
        assert chosen.path == (sizes if chosen.recipe == "scratch" else (32, *sizes))
        assert chosen.predicted.value == pytest.approx(found.predicted.value)


def test_the_cost_of_carrying_out_by_hand():
    """One assistant of 1.2 for 2.5 times the epochs, a student of 2 seeds as long, and its rivals.

    1.2·2.5 + 2·2.5 = 8; twins on labels as long 2·2.5; labels and own recipe at the usual length 2 + 2.
    """

    def stage(name, size, sources, seeds, knowledge="kl4", **recipe):
        phases = (Phase(knowledge=KNOWLEDGE[knowledge]),)
        return Stage(
            name=name, size=size, sources=sources, seeds=seeds, phases=phases, recipe=recipe
        )

    chain = (
        stage("assistant 3", 3, ("teacher",), (0,), epochs=150),
        stage("student", 1, ("assistant 3",), (0, 1), epochs=150),
    )
    cost = carry_out_cost(chain, prices(), EPOCHS)
    assert cost.student_trainings == pytest.approx(8 + 5 + 4)
    assert cost.seconds == pytest.approx(170)
    assert cost.flops == pytest.approx(17e9)
    assert cost.memory_bytes == 100
    hop = (stage("student", 1, ("teacher",), (0, 1, 2)),)
    assert carry_out_cost(hop, prices(), EPOCHS).student_trainings == pytest.approx(3 + 3 + 3)
    labels = (stage("student", 1, (), (0,), knowledge="scratch"),)
    assert carry_out_cost(labels, prices(), EPOCHS).student_trainings == pytest.approx(1 + 1)


def test_the_same_scores_give_the_same_plan():
    first, again = (proposed(Table(lambda t: 0.6, sd=0.03, seed=5)) for _ in range(2))
    assert first[0] == again[0]
    assert first[1] == again[1]


def test_stages_are_trained_with_seeds_that_nothing_was_chosen_on():
    """Controls ran with seed 20, the search with seeds from 0 on: the plan's start at 21."""
    gap = diagnosis(control("same recipe", seeds_of(0.5, 1), first_seed=20))
    found, history, table = proposed(
        lambda t: 0.5 + 0.3 * (n_assistants(t) == 1), seed=11, n_seeds=2, gap=gap
    )
    assert {trial.seed for trial in table.asked} >= {0, 1}
    assert max(row.seed for row in history.rows) == 20
    assert [stage.seeds for stage in found.stages] == [(21,), (21, 22)]
    untried, _, _ = proposed(never_table(), 0, seed=11)
    assert untried.stages[-1].seeds == (11, 12, 13)


def test_a_failed_training_does_not_stop_the_search():
    def mean(trial):
        return math.nan if trial.recipe == "kl4" else 0.6

    found, history, table = proposed(mean, 12)
    assert any(math.isnan(item.score) for item in history.rows)
    assert len(table.asked) > 6
    assert found.stages[-1].phases[0].knowledge != KNOWLEDGE["kl4"]
    assert isinstance(found.predicted, Predicted)


def test_says_what_it_trains_and_what_is_spent():
    heard: list[tuple[float, float, str, float]] = []
    _, _, table = proposed(lambda t: 0.6, 10, heard=lambda *what: heard.append(what))
    assert len(heard) == len(table.asked)
    assert heard[0][:2] == (0.0, 10)
    spent = 0.0
    for (told, _, what, cost), trial in zip(heard, table.asked):
        assert told == pytest.approx(spent)
        assert cost == pytest.approx(COSTS[trial.path[-1]] * trial.fraction)
        assert what.startswith(" → ".join(map(str, trial.path)))
        assert what.endswith(f"seed {trial.seed}")
        spent += COSTS[trial.path[-1]] * trial.fraction


def test_the_students_price_is_the_unit_even_when_prices_are_not_in_it():
    scaled = prices({size: 3 * cost for size, cost in COSTS.items()})
    planner = make_planner(SIZES, scaled, KNOWLEDGE, 5, 0.9, fractions=(1.0,), seed=0)
    assert planner.cost == pytest.approx({12: 1.5, 3: 1.2, 1: 1.0})
    assert "scratch" not in planner.recipes


def test_sizes_that_are_no_words_give_stages_that_can_be_named():
    sizes = ("ViT/L", "ViT/S", "ViT:S", "tiny")
    costs = dict(zip(sizes, (4.0, 1.5, 1.2, 1.0)))

    def mean(trial):
        return 0.3 + 0.25 * n_assistants(trial)

    table = Table(mean)
    given = {"sizes": sizes, "prices": prices(costs), "fractions": (1.0,), "say": SHARE}
    found, _ = plan(
        table,
        study="invented",
        knowledge=KNOWLEDGE,
        budget=40,
        teacher_score=0.95,
        epochs=2,
        **given,
    )
    assert [stage.size for stage in found.stages] == list(sizes[1:])
    assert [stage.name for stage in found.stages] == [
        "assistant ViT-S",
        "assistant ViT-S 2",
        "student",
    ]
    assert [stage.sources[0] for stage in found.stages[1:]] == [
        "assistant ViT-S",
        "assistant ViT-S 2",
    ]
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_a_family_with_assistants_that_no_path_leads_over_is_not_said_to_have_none():
    found, _, _ = proposed(lambda trial: 0.6, knowledge={"scratch": KNOWLEDGE["scratch"]})
    assert found.claim == (
        "No assistant is claimed to pay: none was run, and none is among the most promising paths."
    )


@pytest.mark.parametrize("path", [(32,), (64, 1), (64,)])
def test_scores_of_paths_that_lead_to_no_student_are_passed_over(path):
    """The teacher's size on labels alone, and a size beyond the teacher's, are controls but no steps."""
    planner = make_planner(SIZES, prices(), KNOWLEDGE, 5, 0.9, fractions=(1.0,), seed=0)
    recipe = "scratch" if len(path) == 1 else "kl4"
    good = row((32, 1), "kl4", 0, 0.6)
    assert tell(planner, [row(path, recipe, 0, 0.5), good]) == [good]
