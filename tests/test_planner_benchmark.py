"""The planner's benchmark: worlds whose truth is known, rivals that pay as the planner does, tables."""

from __future__ import annotations

import doctest
import json
import math
import sys
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from gapkit.forecast import SCRATCH, Arm
from gapkit.planner import Planner, Trial

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "planner"
SCRIPTS = ("arms", "worlds", "recorded", "rivals", "run", "tables", "seeds")


def scripts():
    """The folder's modules, taken out of sys.modules again: other benchmarks use the same names."""
    others = {name: sys.modules.pop(name) for name in SCRIPTS if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        return [import_module(name) for name in SCRIPTS]
    finally:
        sys.path.remove(str(FOLDER))
        for name in SCRIPTS:
            sys.modules.pop(name, None)
        sys.modules.update(others)


arms, worlds, recorded, rivals, run, tables, seeds = scripts()
NUMBERS = range(6)
EACH = [(kind, number) for kind in worlds.KINDS for number in (1, 2)]


def points(world, arm, fraction=None):
    """True mean of an arm in points."""
    return world.points(arm.path, arm.recipe, arm.fraction if fraction is None else fraction)


def full(world, fraction=1.0):
    """Points of (single hops by recipe, scratch, chains) at a fraction."""
    every = arms.arms_of(world.sizes, world.recipes, (fraction,))
    singles = {arm.recipe: points(world, arm) for arm in every if not arm.n_assistants}
    chains = {arm: points(world, arm) for arm in every if arm.n_assistants}
    return singles, singles.pop(SCRATCH), chains


def of_kind(kind):
    """A few worlds of a kind."""
    return [worlds.simulated(kind, number) for number in NUMBERS]


def searched(world, search, stream=0):
    """Run a search to its end; every trial with what was spent before it."""
    trials = []
    while (trial := search.ask()) is not None:
        trials.append(trial)
        assert search.spent <= world.budget + 1e-9
        search.tell(trial, world.draw(trial, stream))
    return trials


@pytest.mark.parametrize("module", [arms, tables, seeds], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module.__name__, module)  # doctest looks it up by name
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_there_are_500_worlds_and_the_halves_are_disjoint_and_alike():
    tune, report = (worlds.half(name) for name in worlds.HALVES)
    assert len(tune) == len(report)
    assert len({*tune, *report}) == len(tune) + len(report) >= 500
    assert [kind for kind, _ in tune] == [kind for kind, _ in report]
    assert len(worlds.KINDS) >= 6
    assert {kind for kind, _ in tune[: len(worlds.KINDS)]} == set(worlds.KINDS)
    assert all(worlds.simulated(*which).half == "tune" for which in tune[:9])
    assert all(worlds.simulated(*which).half == "report" for which in report[:9])
    assert min(number for _, number in report) > 1000 > max(number for _, number in tune)


def test_small_budgets_have_worlds_of_their_own(monkeypatch):
    monkeypatch.setattr(worlds, "SMALL", range(5001, 5041, 2))
    monkeypatch.setattr(worlds, "small", worlds.small.__wrapped__)
    found = worlds.small()
    assert 9 < len(found) < 20 * len(worlds.KINDS)
    assert all(worlds.simulated(*which).budget <= worlds.SMALL_BUDGET for which in found)
    assert not {*found} & {*worlds.half("tune"), *worlds.half("report")}
    assert [world().name for world in run.listed("small")[:2]] == [
        f"{kind}-{number}" for kind, number in found[:2]
    ]


def test_worlds_span_what_they_should():
    found = [worlds.Simulated(kind, number) for kind in worlds.KINDS for number in range(20)]
    assert {len(world.sizes) for world in found} >= {3, 20}
    assert {len(world.recipes) for world in found} == {1, 2, 3, 4, 5, 6}
    assert {world.fractions for world in found} == {(1.0,), (0.25, 1.0, 4.0)}
    assert {world.scale for world in found} == set(worlds.SCALES)
    noise = [world.noise for world in found]
    assert 0.2 <= min(noise) < 0.4
    assert 4.0 < max(noise) <= 5.0
    names = {name for world in found for name in world.recipes}
    assert not names & {"kl4", "kl1", "dist1", SCRATCH}
    for world in found:
        assert world.cost[world.sizes[-1]] == 1.0
        assert list(world.cost.values()) == sorted(world.cost.values(), reverse=True)


@pytest.mark.parametrize("kind, number", EACH)
def test_a_world_is_the_same_every_time(kind, number):
    one, other = worlds.Simulated(kind, number), worlds.Simulated(kind, number)
    every = arms.arms_of(one.sizes, one.recipes, one.fractions)[::7]
    assert [points(one, arm) for arm in every] == [points(other, arm) for arm in every]
    trials = [Trial(arm.path, arm.recipe, seed, arm.fraction) for arm in every for seed in (0, 3)]
    scores = [one.draw(trial, 2) for trial in trials]
    assert scores == [other.draw(trial, 2) for trial in reversed(trials)][::-1]
    assert scores != [one.draw(trial, 3) for trial in trials]


@pytest.mark.parametrize("kind, number", EACH)
def test_the_mean_of_many_draws_is_the_true_mean(kind, number):
    world = worlds.simulated(kind, number)
    arm = max(arms.arms_of(world.sizes, world.recipes, world.fractions), key=repr)
    n = 600
    draws = [world.draw(Trial(arm.path, arm.recipe, seed, arm.fraction)) for seed in range(n)]
    off = np.mean(draws) - world.true_mean(arm.path, arm.recipe, arm.fraction)
    assert abs(off) < 4 * world.noise * world.unit / math.sqrt(n)
    assert np.std(draws) / world.unit == pytest.approx(world.noise, rel=0.35)


def test_a_seed_shares_its_noise_across_arms_and_more_within_a_recipe():
    many = [worlds.simulated("noisy", number) for number in range(12)]
    world = max(many, key=lambda w: min(w.seed_share, w.recipe_share) * (len(w.sizes) > 3))
    top, student = world.sizes[0], world.sizes[-1]
    alike = [Arm((top, *part, student), world.recipes[0]) for part in ((), world.sizes[1:2])]
    draws = [
        [world.draw(Trial(a.path, a.recipe, seed)) for seed in range(800)]
        for a in (*alike, Arm((student,), SCRATCH))
    ]
    shared = np.corrcoef(draws)
    assert world.seed_share > 0.2
    assert world.recipe_share > 0.2
    assert shared[0, 2] == pytest.approx(world.seed_share, abs=0.12)
    assert shared[0, 1] == pytest.approx(world.seed_share + world.recipe_share, abs=0.12)


@pytest.mark.parametrize("of_seed, of_recipe", [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.3, 0.5)])
def test_what_seeds_add_to_runs_is_told_apart(of_seed, of_recipe):
    rng, recipes = np.random.default_rng(0), ["a", "b", "c"] * 3
    by_recipe = {recipe: rng.normal(size=2000) for recipe in "abc"}
    runs = math.sqrt(of_seed) * rng.normal(size=2000) + rng.normal(size=(9, 1))
    runs = runs + math.sqrt(of_recipe) * np.array([by_recipe[recipe] for recipe in recipes])
    runs += math.sqrt(1.0 - of_seed - of_recipe) * rng.normal(size=(9, 2000))
    expected = [of_seed, of_recipe, 1.0 - of_seed - of_recipe]
    assert seeds.shares(7.0 * runs, recipes) == pytest.approx(expected, abs=0.04)


def test_no_gap_leaves_nothing_to_win():
    for world in of_kind("no_gap"):
        singles, scratch, chains = full(world)
        top = (world.teacher_score - world._zero) / world.unit
        assert 0 <= top - scratch <= 0.8
        assert max([*singles.values(), *chains.values()]) - scratch < 1.2


def test_harmful_targets_put_recipes_below_scratch_whatever_the_path():
    for world in of_kind("harmful_targets"):
        singles, scratch, chains = full(world)
        harmful = {name for name, value in singles.items() if value < scratch - 2}
        assert len(harmful) >= math.ceil(len(world.recipes) / 3)
        assert all(value < scratch for arm, value in chains.items() if arm.recipe in harmful)


def test_chain_pays_between_2_and_8_points():
    for world in of_kind("chain_pays"):
        singles, scratch, chains = full(world)
        gain = max(chains.values()) - max(scratch, *singles.values())
        assert 2.0 - 1e-9 <= gain <= 9.0
        short = [value for arm, value in chains.items() if arm.n_assistants <= 2]
        assert max(short) - max(scratch, *singles.values()) <= 8.0 + 1e-9


def test_noisy_has_noise_above_its_effects():
    for world in of_kind("noisy"):
        assert 2.5 <= world.noise <= 5.0


def test_misleading_small_assistants_lead_early_and_lose_in_the_end():
    for world in of_kind("misleading_small"):
        first, *_, smallest, last = world.sizes
        for name in world.recipes:
            direct, small = Arm((first, last), name), Arm((first, smallest, last), name)
            assert points(world, small, 0.25) > points(world, direct, 0.25) - 0.2
            assert points(world, small, 4.0) < points(world, direct, 4.0) - 1.5
        assert world.chain_gain < 1.0


def test_recipe_by_size_has_another_recipe_ahead_with_its_own_assistant():
    for world in of_kind("recipe_by_size"):
        singles, _, chains = full(world)
        leader = max(singles, key=singles.get)
        best = max(chains, key=chains.get)
        assert best.recipe != leader
        assert chains[best] > max(v for arm, v in chains.items() if arm.recipe == leader)


def test_smooth_changes_little_between_neighbors_and_plateaus_are_steps():
    world = next(w for w in of_kind("smooth") if len(w.sizes) >= 5)
    at = np.array([world._effect((0.0, rank), 0, 0.0) for rank in np.linspace(0, 1, 2001)])
    assert np.abs(np.diff(at)).max() < 0.1 < np.ptp(at)
    for world in of_kind("plateaus"):
        found = [world._effect((0.0, rank), 0, 0.0) for rank in np.linspace(0, 1, 400)]
        steps = np.diff(np.unique(np.round(found, 9)))
        assert len(np.unique(np.round(found, 9))) < 20
        assert (steps >= 1.5 - 1e-6).all()


def test_a_stairway_pays_once_every_hop_is_within_reach():
    """Sorted by its longest hop, a recipe's chains are worth one step, but for up to 1.5 points a hop."""
    for world in of_kind("stairway"):
        for r in range(len(world.recipes)):
            chains = world._setting.chains()
            gain = [world._effect(t, r, 0.0) - world._effect((0.0,), r, 0.0) for t in chains]
            longest = [max(np.diff((*t, 1.0))) for t in chains]
            paying = [hop for hop, value in zip(longest, gain) if value > 0]
            assert [hop for hop, value in zip(longest, gain) if value < -3.0] == []
            within = [value for hop, value in zip(longest, gain) if hop <= max(paying, default=0)]
            assert max(within, default=3.0) > 0.0
            assert max(within, default=0.0) - min(within, default=0.0) <= 1.5 + 1e-9


def test_the_budget_is_a_quarter_of_every_arm_once_between_its_bounds():
    shares = []
    for kind in worlds.KINDS:
        for world in of_kind(kind):
            whole = arms.exhaustive_cost(world.sizes, world.cost, world.recipes, world.fractions)
            assert 3.0 <= world.budget <= arms.BUDGET_CAP
            if 3.0 < world.budget < arms.BUDGET_CAP:
                shares.append(world.budget / whole)
    assert len(shares) > 5
    assert shares == pytest.approx([0.25] * len(shares))


def test_an_exhaustive_search_of_several_seeds_has_a_budget_as_many_times_as_large():
    once, twice = worlds.Simulated("smooth", 1), worlds.Simulated("smooth", 1)
    twice.n_seeds = 2
    assert 3.0 < once.budget < arms.BUDGET_CAP / 2
    assert twice.budget == pytest.approx(2 * once.budget)


def test_every_subset_of_few_assistants_is_an_arm_and_few_at_once_of_many():
    few = arms.arms_of((9, 5, 3, 1), ("a", "b"), (1.0, 4.0))
    assert len(few) == 2 * (1 + 2 * 2**2)
    many = arms.arms_of(tuple(range(20, 0, -1)), ("a",), (1.0,))
    assert len(many) == 1 + sum(math.comb(18, n) for n in range(4))
    assert max(arm.n_assistants for arm in many) == 3


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_rivals_stay_within_the_budget_and_pay_for_prefixes(name):
    for kind, number in (("noisy", 3), ("misleading_small", 4), ("stairway", 0)):
        world = worlds.simulated(kind, number)
        search = rivals.RIVALS[name](world, seed=1)
        trials = searched(world, search)
        assert trials
        assert len(set(trials)) == len(trials)
        paid = sum(world.cost[trial.path[-1]] * trial.fraction for trial in trials)
        assert search.spent == pytest.approx(paid)
        for place, trial in enumerate(trials):
            for n in range(2, len(trial.path)):
                prefix = Trial(trial.path[:n], trial.recipe, trial.seed, trial.fraction)
                assert prefix in trials[:place]
        choice = search.choose()
        assert choice.path[-1] == world.sizes[-1]
        assert choice in arms.arms_of(world.sizes, world.recipes, world.fractions)


def test_rivals_do_what_their_names_say():
    world = worlds.simulated("noisy", 3)
    once = searched(world, rivals.SinglesOnce(world))
    assert len(once) <= (len(world.recipes) + 1) * len(world.fractions)
    again = searched(world, rivals.SinglesRepeated(world))
    assert again[: len(once)] == once
    assert len(again) > len(once)
    assert all(len(trial.path) <= 2 for trial in again)
    tried = searched(world, rivals.RandomSearch(world, seed=3))
    assert {len(trial.path) > 2 for trial in tried} == {True, False}


def test_mean_performance_takes_the_assistant_halfway_between_the_scores():
    world = next(w for w in of_kind("chain_pays") if len(w.sizes) >= 5 and w.budget > 20)
    search = rivals.MeanPerformance(world)
    trials = searched(world, search)
    alone = {trial.path[0]: world.draw(trial) for trial in trials if len(trial.path) == 1}
    goal = 0.5 * (world.teacher_score + alone.pop(world.sizes[-1]))
    nearest = min(alone, key=lambda size: abs(alone[size] - goal))
    assert set(alone) == set(world.sizes[1:-1])
    assert search.choose().path == (world.sizes[0], nearest, world.sizes[-1])


def test_tpe_learns_which_recipe_is_best():
    class Clear(worlds.Simulated):
        budget = 100.0

        def draw(self, trial, stream=0):
            return float(trial.recipe == self.recipes[-1])

    world = next(w for w in (Clear("no_gap", n) for n in range(20)) if w.fractions == (1.0,))
    trials = searched(world, rivals.Tpe(world, seed=0))
    late = [trial.recipe for trial in trials[len(trials) // 2 :]]
    assert len(trials) > 20
    assert late.count(world.recipes[-1]) > 0.6 * len(late)


def test_an_oracle_has_no_regret_and_the_worst_arm_has_the_whole_spread():
    for kind, number in EACH:
        world = worlds.simulated(kind, number)
        best = max(world.affordable, key=world.affordable.get)
        worst = min(world.affordable, key=world.affordable.get)
        assert world.regret(best) == 0.0
        spread = (world.affordable[best] - world.affordable[worst]) / world.unit
        assert world.regret(worst) == pytest.approx(spread)
        assert world.chain_gain >= 0.0


def test_every_arm_often_enough_finds_the_best():
    world = worlds.simulated("chain_pays", 1)
    assert world.regret(rivals.exhaustive(world, n_seeds=200)) < 0.5


def test_a_recorded_table_is_chosen_on_some_seeds_and_judged_by_the_others():
    listed = recorded.students()
    assert len({student for _, student, _ in listed}) >= 3
    raw = [json.loads(text) for text in listed[0][0].read_text(encoding="utf-8").splitlines()]
    for path, student, split in listed[:3]:
        world = recorded.recorded(path, student, split)
        assert not set(world.chosen_on) & set(world.judged_by)
        assert {*world.chosen_on, *world.judged_by} == {row["seed"] for row in raw}
        arm = max(world.affordable, key=world.affordable.get)
        rows = [r for r in raw if tuple(r["path"]) == arm.path and r["recipe"] == arm.recipe]
        shown = {world.draw(Trial(arm.path, arm.recipe, seed)) for seed in range(20)}
        assert shown == {row["acc"] for row in rows if row["seed"] in world.chosen_on}
        kept = [row["acc"] for row in rows if row["seed"] in world.judged_by]
        assert world.true_mean(arm.path, arm.recipe) == pytest.approx(np.mean(kept))
    splits = {recorded.recorded(*listed[0][:2], split).judged_by for split in range(10)}
    assert len(splits) > 5


def test_a_table_that_lacks_a_run_is_refused(tmp_path):
    rows = [
        {"path": path, "recipe": recipe, "seed": seed, "score": 0.5}
        for path, recipe in (([3], SCRATCH), ([1], SCRATCH), ([3, 2], "a"), ([3, 2, 1], "a"))
        for seed in (0, 1)
    ]
    path = tmp_path / "small.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"every seed of every arm but .*path=\(3, 1\)"):
        recorded.Recorded(path, 1, 0)


def test_a_line_says_what_was_chosen_and_how_good_it_is():
    world = worlds.simulated("chain_pays", 2)
    found = run.one_search(world, 0, rivals=True)
    path, recipe, fraction = found["arm"]
    mean = world.true_mean(path, recipe, fraction)
    assert found["regret"] == pytest.approx((world.best - mean) / world.unit, abs=1e-3)
    assert found["spent"] <= found["budget"] + 1e-3
    assert set(found["rivals"]) == {*rivals.RIVALS, *rivals.YARDSTICKS}
    assert set(found["rivals_false"]) == set(found["rivals"])
    assert found["false_chain"] == (found["chain"] and mean < world.best_single)
    again = run.one_search(world, 0, rivals=True)
    assert {**found, "seconds": 0} == {**again, "seconds": 0}
    assert json.loads(json.dumps(found)) == found


def test_an_error_in_a_search_is_a_line_too(monkeypatch):
    def broken(self, trial, score):
        raise RuntimeError("no scores today")

    monkeypatch.setattr(Planner, "tell", broken)
    found = run.one_search(worlds.simulated("no_gap", 1), 0, rivals=False)
    assert found["error"] == "RuntimeError: no scores today"
    assert tables.headline([found])


def test_a_line_cut_off_does_not_count(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": "a/0", "regret": 1}\n{"id": "a/1", "re', encoding="utf-8")
    assert set(run.finished(path)) == {"a/0"}
    assert run.finished(tmp_path / "none.jsonl") == {}


def line(world, **fields):
    """A result line."""
    base = {"world": world, "kind": "noisy", "regret": 0.5, "chain_gain": 0.0, "covered": True}
    base |= {"run_covered": 0.8, "false_chain": False, "claimed": False, "claim_right": False}
    base |= {"spent": 3.0, "budget": 3.0, "seconds": 0.1, "noise": 1.0, "n_sizes": 4}
    return (
        base
        | {"n_recipes": 2, "n_fractions": 1, "chain": False, "tried": True, "payable": True}
        | fields
    )


def rivals_of(**found):
    """The fields of a line that say what rivals named: name -> (regret, whether it is a false chain)."""
    named = {**found, "every arm once": (0.0, False)}
    return {
        "rivals": {name: regret for name, (regret, _) in named.items()},
        "rivals_false": {name: false for name, (_, false) in named.items()},
    }


def test_the_tables_count_as_they_should():
    lines = [
        line("a", regret=0.0, **rivals_of(random=(1.0, True))),
        line("b", regret=2.0, chain_gain=3.0, **rivals_of(random=(4.0, False))),
        line("c", regret=1.0, claimed=True, false_chain=True, chain=True, covered=False),
        line("d", regret=1.0, claimed=True, claim_right=True, chain_gain=2.0, chain=True),
        {"world": "e", "error": "ValueError: x"},
    ]
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in tables.headline(lines).split("\n")
    ]
    found = {row[0]: row[2] for row in rows}
    assert found["mean regret, points"].startswith("1.00 [")
    assert found["... where a chain pays > 1 point"].startswith("1.50 [")
    assert found["chains chosen below the best single hop"].startswith("25 % [")
    assert found["80 % interval holds the true mean"].startswith("75 % [")
    assert found["... that are right"].startswith("50 % [")
    assert found["worlds, searches, errors"] == "5, 5, 1"
    rows = tables.against(lines).split("\n")
    assert "| random | 2.50 [" in rows[3]
    assert "| 1.50 [" in rows[3]
    assert "| 50 % [" in rows[3]
    for group in tables.GROUPS:
        assert "4" in tables.by(group, lines)
    assert tables.report(lines, "x").startswith("### x")


def test_searches_of_one_world_count_as_dependent():
    alone = [line(f"w{n}", regret=float(n % 2)) for n in range(40)]
    together = [line(f"w{n % 2}", regret=float(n % 2)) for n in range(40)]
    assert tables.mean(alone, lambda x: x["regret"]) == "0.50 [0.34, 0.66]"
    assert tables.mean(together, lambda x: x["regret"]).startswith("0.50 [-")


def test_a_world_searched_more_often_counts_once():
    lines = [line("a", regret=4.0, false_chain=True)] * 20 + [line("b", regret=0.0)]
    assert tables.mean(lines, lambda x: x["regret"]).startswith("2.00 [")
    assert tables.share(lines, lambda x: x["false_chain"]).startswith("50 % [")


@pytest.mark.parametrize(("given", "n"), (("--seeds 3", 3), ("", 20)))
def test_every_world_is_searched_under_as_many_streams(given, n, tmp_path, monkeypatch):
    asked = {}

    class Now:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, _, half, index, streams, *rest):
            asked[index] = streams
            done = Future()
            done.set_result([line(str(index))])
            return done

    monkeypatch.setattr(run, "ProcessPoolExecutor", Now)
    monkeypatch.setattr(
        sys,
        "argv",
        f"run --limit 2 {given} --results {tmp_path / 'x'}".split(),
    )
    run.main()
    assert asked == {index: list(range(n)) for index in range(2)}
