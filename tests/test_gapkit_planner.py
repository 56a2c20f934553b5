"""The planner keeps its contract whatever it is told, finds what is there, and claims only what it may."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gapkit.errors import InputError
from gapkit.forecast import Forecast
from gapkit.planner import Choice, Planner, Trial

SIZES = (48, 24, 12, 6, 3)
COST = {48: 2.0, 24: 1.5, 12: 1.2, 6: 1.0, 3: 1.0}
RECIPES = ("kl4", "kl1", "dist1")


def make(**changes) -> Planner:
    given = {
        "sizes": SIZES,
        "cost": COST,
        "recipes": RECIPES,
        "budget": 12.0,
        "teacher_score": 0.94,
    }
    return Planner(**(given | changes))


def search(planner: Planner, score) -> list[Trial]:
    trials = []
    while (trial := planner.ask()) is not None:
        trials.append(trial)
        planner.tell(trial, score(trial))
        assert len(trials) < 500
    return trials


def noisy(mean, sd=0.02, seed=0):
    rng = np.random.default_rng(seed)
    return lambda trial: mean(trial) + sd * rng.normal()


def price(trials, cost=COST) -> float:
    return sum(cost[trial.path[-1]] * trial.fraction for trial in trials)


def check_contract(planner: Planner, trials: list[Trial], free=(), failed=()) -> None:
    """Every promise about the trials asked, checked by hand."""
    assert len(set(trials)) == len(trials)
    assert price(trials, planner.cost) == pytest.approx(planner.spent)
    assert planner.spent <= planner.budget + 1e-9
    known = set(free)
    for trial in trials:
        assert trial not in known
        assert trial.path[-1] != planner.teacher
        assert trial.fraction in planner.fractions
        if trial.recipe == "scratch":
            assert len(trial.path) == 1
        else:
            assert trial.recipe in planner.recipes
            assert trial.path[0] == planner.teacher
            places = [planner.sizes.index(size) for size in trial.path]
            assert places == sorted(set(places))
            if len(trial.path) > 2:
                prefix = Trial(trial.path[:-1], trial.recipe, trial.seed, trial.fraction)
                assert prefix in known
        known.add(trial)
    ends = {trial for trial in trials if trial.path[-1] == planner.student}
    for trial in trials:  # a chain begun is a chain finished
        if trial not in ends and trial not in failed:
            assert any(
                end.path[: len(trial.path)] == trial.path
                and (end.recipe, end.seed, end.fraction)
                == (trial.recipe, trial.seed, trial.fraction)
                for end in ends
            )


@pytest.mark.parametrize("budget", [3, 4.5, 12, 30])
@pytest.mark.parametrize("fractions", [(1.0,), (0.25, 1.0, 4.0)])
@pytest.mark.parametrize("n_recipes", [1, 3, 12])
def test_the_contract_holds(budget, fractions, n_recipes):
    recipes = [f"r{i}" for i in range(n_recipes)]
    planner = make(budget=budget, fractions=fractions, recipes=recipes)
    trials = search(planner, noisy(lambda t: 0.5 + 0.02 * len(t.path) + 0.01 * t.fraction))
    check_contract(planner, trials)
    assert (
        planner.budget - planner.spent < min(fractions) * COST[3]
    )  # nothing payable is left unspent
    choice = planner.choose()
    assert choice.path[-1] == planner.student
    assert choice.predicted.low <= choice.predicted.value <= choice.predicted.high
    run, mean = choice.predicted_run, choice.predicted
    assert run.high - run.low > mean.high - mean.low
    assert sum(other.chosen for other in choice.alternatives) == 1


def test_every_single_hop_and_scratch_come_first():
    trials = search(make(), lambda t: 0.5)
    assert [(t.path, t.recipe, t.seed) for t in trials[:4]] == [
        *(((48, 3), name, seed) for name, seed in zip(RECIPES, (0, 0, 1))),
        ((3,), "scratch", 0),
    ]


@pytest.mark.parametrize("told", [0, 1, 2])
def test_every_third_single_hop_begins_with_another_seed(told):
    recipes = [f"r{i}" for i in range(8)]
    planner = make(recipes=recipes, budget=60)
    for name in recipes[:told]:
        planner.tell(Trial((48, 3), name, 0), 0.5)
    begun: dict[str, int] = {}
    for trial in search(planner, noisy(lambda t: 0.5)):
        if len(trial.path) < 3 and trial.path[-1] == 3:
            begun.setdefault(trial.recipe, trial.seed)
    opened = [begun[name] for name in (*recipes[told:], "scratch")]
    assert opened == [int((told + i) % 3 == 2) for i in range(9 - told)]


@pytest.mark.parametrize("n_recipes, budget", [(1, 4.5), (3, 6.5), (4, 7.5)])
def test_a_chain_is_run_wherever_two_single_hops_leave_its_price(n_recipes, budget):
    planner = make(recipes=[f"r{i}" for i in range(n_recipes)], budget=budget)
    trials = search(planner, noisy(lambda t: 0.5))
    assert any(len(trial.path) > 2 and trial.path[-1] == 3 for trial in trials)
    check_contract(planner, trials)


def test_scratch_may_be_the_only_recipe_and_two_sizes_are_enough():
    planner = Planner(["big", "small"], {"small": 1.0}, ["scratch"], budget=3, teacher_score=1.0)
    trials = search(planner, lambda t: 0.3)
    assert trials == [Trial(("small",), "scratch", seed) for seed in range(3)]
    assert planner.choose().path == ("small",)


def test_the_same_seed_and_scores_give_the_same_trials():
    runs = [search(make(seed=5), noisy(lambda t: 0.5, seed=1)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(runs[0]) > 5


@pytest.mark.parametrize("scale, shift", [(100.0, 0.0), (-2.0 * -1, -3.0), (5000.0, -9000.0)])
def test_another_scale_of_scores_leads_to_the_same_trials_and_choice(scale, shift):
    def mean(trial):
        return {"kl4": 0.4, "kl1": 0.5, "dist1": 0.6, "scratch": 0.52}[trial.recipe]

    plain, scaled = make(), make(teacher_score=shift + scale * 0.94)
    score = noisy(mean, seed=3)
    other = noisy(mean, seed=3)
    assert search(plain, score) == search(scaled, lambda t: shift + scale * other(t))
    a, b = plain.choose(), scaled.choose()
    assert (a.path, a.recipe) == (b.path, b.recipe)
    assert b.predicted.value == pytest.approx(shift + scale * a.predicted.value, rel=1e-6)


def test_asking_without_telling_gives_other_trials_and_keeps_to_the_budget():
    planner = make(budget=9.0)
    trials = list(itertools.takewhile(lambda t: t is not None, (planner.ask() for _ in range(99))))
    check_contract(planner, trials)
    assert len(trials) >= 6
    for trial in trials:
        planner.tell(trial, 0.5)
    assert planner.ask() is None


def test_controls_are_free_and_not_asked_again():
    planner = make(budget=6.0)
    free = [Trial((48, 3), name, 0) for name in RECIPES] + [Trial((3,), "scratch", 0)]
    free += [Trial((48, 6), "kl4", seed) for seed in range(3)]
    for trial in free:
        planner.tell(trial, 0.5)
    assert planner.spent == 0
    trials = search(planner, noisy(lambda t: 0.5 + 0.2 * (len(t.path) > 2)))
    check_contract(planner, trials, free)
    shown = {a.recipe: a.n_runs for a in planner.choose().alternatives if len(a.path) <= 2}
    assert len(shown) == 4
    assert min(shown.values()) >= 1


def test_controls_by_other_recipes_and_fractions_inform_but_are_never_named():
    planner = make(budget=3.0)
    planner.tell(Trial((48, 3), "the user's own", 0), 0.9)
    planner.tell(Trial((48, 3), "kl4", 0, 0.5), 0.9)
    search(planner, lambda t: 0.5)
    choice = planner.choose()
    assert choice.recipe in (*RECIPES, "scratch")
    assert choice.fraction == 1.0


def test_a_trial_told_twice_counts_once_with_its_last_score():
    planner = make()
    trial = Trial((48, 3), "kl4", 0)
    planner.tell(trial, 0.1)
    planner.tell(trial, 0.7)
    (run,) = planner.forecast().runs
    assert run.score == 0.7
    assert planner.choose().n_runs == 1


@pytest.mark.parametrize("failure", [math.nan, math.inf, -math.inf])
def test_failed_trainings_are_avoided(failure):
    planner = make(budget=20)
    trials = search(planner, lambda t: failure if t.recipe == "dist1" else 0.5)
    failed = {t for t in trials if t.recipe == "dist1"}
    check_contract(planner, trials, failed=failed)
    choice = planner.choose()
    assert choice.recipe != "dist1"
    assert math.isfinite(choice.predicted.low)
    assert len(failed) < len(trials) / 3


def test_a_failed_assistant_ends_its_chain():
    planner = make(budget=40, recipes=["kl"])
    broken = set()

    def score(trial):
        prefixes = {
            Trial(trial.path[:n], trial.recipe, trial.seed, trial.fraction)
            for n in range(2, len(trial.path))
        }
        assert not prefixes & broken
        if trial.path[-1] != 3:
            broken.add(trial)
            return math.nan
        return 0.5

    search(planner, score)
    assert broken
    assert len(planner.choose().path) <= 2


def test_all_failed_is_still_a_choice():
    planner = make(budget=6)
    search(planner, lambda t: math.nan)
    choice = planner.choose()
    assert choice.path[-1] == 3
    assert not choice.tried
    assert "failed" in choice.reason


def test_where_every_single_hop_failed_a_chain_is_named_without_a_claim():
    planner = make(budget=40)
    search(planner, lambda t: math.nan if len(t.path) <= 2 and t.path[-1] == 3 else 0.6)
    choice = planner.choose()
    assert len(choice.path) > 2
    assert choice.tried
    assert not choice.assistant_pays
    assert "no rival" in choice.reason


def test_before_any_score_the_first_recipe_in_a_single_hop_is_named_and_called_untried():
    choice = make().choose()
    assert (choice.path, choice.recipe, choice.fraction) == ((48, 3), "kl4", 1.0)
    assert not choice.tried
    assert not choice.assistant_pays
    assert "untried" in choice.reason
    assert isinstance(choice, Choice)


def test_choosing_midway_changes_nothing():
    quiet, curious = make(), make()
    a, b = noisy(lambda t: 0.5, seed=2), noisy(lambda t: 0.5, seed=2)
    expected, seen = search(quiet, a), []
    while (trial := curious.ask()) is not None:
        curious.choose()
        seen.append(trial)
        curious.tell(trial, b(trial))
    assert seen == expected


@pytest.mark.parametrize("best", ["kl4", "kl1", "dist1", "scratch"])
def test_the_recipe_that_decides_is_found(best):
    planner = make(budget=6)
    search(planner, noisy(lambda t: 0.7 if t.recipe == best else 0.5))
    choice = planner.choose()
    assert choice.recipe == best
    assert choice.predicted.low < 0.7 < choice.predicted.high or choice.n_runs < 2


def test_an_assistant_that_pays_is_found_and_claimed():
    for repeat in range(3):
        planner = make(budget=30, recipes=["kl", "dist"])
        search(planner, noisy(lambda t: 0.75 if t.path[-2:-1] == (12,) else 0.5, seed=repeat))
        choice = planner.choose()
        assert choice.path[-2] == 12
        assert choice.assistant_pays
        assert "beyond" in choice.reason


@pytest.mark.parametrize("recipe", ("a", "b", "c", "d", "e"))
@pytest.mark.parametrize("assistant", (12, 6))
def test_a_chain_that_goes_against_all_the_others_is_found_while_there_is_budget(recipe, assistant):
    """One path under one recipe is worth .08, every other chain costs .02: only running it can tell."""
    level = {"a": 0.62, "b": 0.6, "c": 0.61, "d": 0.59, "e": 0.6}

    def mean(trial):
        if trial.path[-1] != 3:
            return 0.8
        if len(trial.path) == 1:
            return 0.6
        lucky = (trial.recipe, trial.path[-2]) == (recipe, assistant)
        return level[trial.recipe] + (len(trial.path) > 2) * (0.08 if lucky else -0.02)

    planner = make(
        sizes=(48, 12, 6, 3),
        cost={12: 1.3, 6: 1.1, 3: 1.0},
        recipes=tuple(level),
        budget=45.0,
        teacher_score=0.9,
    )
    search(planner, noisy(mean, sd=0.003))
    choice = planner.choose()
    assert (choice.recipe, choice.path[-2]) == (recipe, assistant)
    assert choice.assistant_pays


def test_the_claim_needs_a_gain_above_the_noise_limit():
    """Two told arms: just above and just below 2σ√(1/n₁+1/n₂), with σ as the forecast has it."""
    for gain, n, claimed in ((0.2, 4, True), (0.004, 4, False), (0.2, 1, False)):
        planner = make(budget=3, recipes=["kl"])
        rng = np.random.default_rng(0)
        for seed in range(n):
            planner.tell(Trial((48, 3), "kl", seed), 0.5 + 0.01 * rng.normal())
            planner.tell(Trial((3,), "scratch", seed), 0.4 + 0.01 * rng.normal())
            planner.tell(Trial((48, 12), "kl", seed), 0.8)
            planner.tell(Trial((48, 12, 3), "kl", seed), 0.5 + gain + 0.01 * rng.normal())
        choice = planner.choose()
        assert choice.assistant_pays is claimed, (gain, n, choice.reason)
        if claimed:
            forecast = planner.forecast()
            mean = {a.path: a.predicted.value for a in choice.alternatives}
            limit = 2 * forecast.run_sd * math.sqrt(2 / n)
            assert mean[(48, 12, 3)] - mean[(48, 3)] > limit > 0


def test_no_assistant_is_claimed_where_all_arms_are_equal():
    claims = 0
    for repeat in range(12):
        planner = make(budget=24)
        search(planner, noisy(lambda t: 0.6, sd=0.03, seed=repeat))
        claims += planner.choose().assistant_pays
    assert claims <= 1


def test_patience_wins_where_it_decides_and_costs_its_price():
    planner = make(budget=16, fractions=(0.25, 1.0, 4.0))
    trials = search(planner, noisy(lambda t: 0.5 + 0.08 * math.log2(t.fraction), sd=0.01))
    choice = planner.choose()
    assert choice.fraction == 4.0
    assert any(t.fraction == 0.25 for t in trials)
    chosen = next(a for a in choice.alternatives if a.chosen)
    assert chosen.cost == pytest.approx(4.0 * sum(COST[s] for s in choice.path if s != 48))


def test_among_arms_within_noise_the_cheaper_is_taken():
    planner = make(budget=3, recipes=["kl"])
    for seed in range(4):
        planner.tell(Trial((48, 3), "kl", seed), 0.5)
        planner.tell(Trial((3,), "scratch", seed), 0.3)
        planner.tell(Trial((48, 12, 3), "kl", seed), 0.5001)
    assert planner.choose().path == (48, 3)


def test_the_front_is_what_no_arm_beats_at_its_price():
    planner = make(budget=16)
    search(planner, noisy(lambda t: 0.5 + 0.05 * len(t.path)))
    shown = planner.choose().alternatives
    best = max(shown, key=lambda a: a.predicted.value)
    cheapest = min(a.cost for a in shown)
    assert best.on_front
    assert any(a.on_front and a.cost == cheapest for a in shown)
    for a in shown:
        if a.on_front:
            assert not any(
                b.cost < a.cost and b.predicted.value > a.predicted.value + 1e-6 for b in shown
            )


@pytest.mark.parametrize("n_recipes, fractions", [(3, (1.0,)), (12, (0.25, 1.0, 4.0))])
def test_twenty_sizes_named_by_strings(n_recipes, fractions, monkeypatch):
    weighed, screen = [], Forecast.screen

    def counted(forecast, arms, *rest):
        weighed.append(len(arms))
        return screen(forecast, arms, *rest)

    monkeypatch.setattr(Forecast, "screen", counted)
    sizes = [f"s{i}" for i in range(20)]
    cost = {size: 1.0 + 0.05 * (19 - i) for i, size in enumerate(sizes)}
    recipes = [f"r{i}" for i in range(n_recipes)]
    planner = Planner(sizes, cost, recipes, 30, 0.9, fractions=fractions)
    score = noisy(lambda t: 0.5 + 0.2 * (len(t.path) > 2 and t.path[-2] in ("s9", "s10", "s11")))
    trials = []
    while (trial := planner.ask()) is not None:
        trials.append(trial)
        planner.tell(trial, score(trial))
    check_contract(planner, trials)
    assert planner.choose().path[-1] == "s19"
    assert max(weighed) < 2000  # of millions of arms


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"sizes": [3]}, r"Expected 2 to 20 different sizes.*but got \[3\]"),
        ({"sizes": [48, 3, 3]}, "Expected 2 to 20 different sizes"),
        ({"sizes": list(range(30, 0, -1))}, "Expected 2 to 20 different sizes"),
        ({"cost": {48: 1, 24: 1, 12: 1, 6: 1}}, "Expected a cost for size 3 but got none"),
        ({"cost": COST | {6: -1.0}}, "Expected a cost above 0 for size 6 but got -1.0"),
        ({"recipes": []}, "Expected at least one recipe"),
        ({"recipes": "kl4"}, "Expected a list of recipe names but got the string 'kl4'"),
        ({"recipes": ["a", "a"]}, "Expected at least one recipe, each once"),
        ({"budget": math.inf}, "Expected a finite budget of at least 0 but got inf"),
        ({"budget": -1}, "Expected a finite budget of at least 0 but got -1"),
        ({"teacher_score": math.nan}, "Expected a finite teacher score but got nan"),
        ({"fractions": (1.0, 0.0)}, "Expected different fractions above 0"),
        ({"fractions": ()}, "Expected different fractions above 0"),
    ],
)
def test_a_planner_that_cannot_be_built_says_why_in_one_line(changes, match):
    with pytest.raises(InputError, match=match) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_a_budget_of_zero_asks_nothing():
    assert make(budget=0).ask() is None


@pytest.mark.parametrize(
    "trial, match",
    [
        (Trial((48, 7), "kl4", 0), "Expected a known size but got '7'"),
        (Trial((6, 3), "kl4", 0), "Expected a path from the teacher 48 down the sizes"),
        (Trial((48, 3, 6), "kl4", 0), "Expected a path from the teacher 48 down the sizes"),
        (Trial((48, 3), "scratch", 0), "Expected a path of one size below the teacher's"),
        (Trial((48,), "scratch", 0), "Expected a path of one size below the teacher's"),
        (Trial((48, 3), "kl4", 0, -1.0), "Expected a fraction above 0"),
    ],
)
def test_a_trial_of_another_family_is_refused(trial, match):
    with pytest.raises(InputError, match=match):
        make().tell(trial, 0.5)


def test_a_score_must_be_a_number():
    with pytest.raises(InputError, match="Expected a score that is a number but got None"):
        make().tell(Trial((48, 3), "kl4", 0), None)


def test_a_forecast_for_another_size_uses_what_ended_there():
    planner = make()
    for seed in range(3):
        planner.tell(Trial((48, 6), "kl4", seed), 0.8 + 0.01 * seed)
        planner.tell(Trial((48, 3), "kl4", seed), 0.5)
    assert {run.arm.path for run in planner.forecast(6).runs} == {(48, 6)}
    with pytest.raises(InputError, match="Expected a known size below the teacher but got '48'"):
        planner.forecast(48)
