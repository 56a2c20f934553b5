"""The planted-failure suite: the split, the tables in closed form, and each plant held against its claim."""

# ruff: noqa: E402 - the suite is a folder of scripts, which import each other by name
from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "planted"
sys.path.insert(0, str(FOLDER))

import plants
import suite
import tables
import worlds
from plants import PLANTS, Check, plant, set_up
from run import finished, results_file, run
from setups import Setup, fit, student_of, teacher_of
from suite import Case


def line(truth, cause, confidence="high", **fields):
    """A result line of a case with one finding."""
    truth = (truth,) if isinstance(truth, str) else truth
    found = [{"cause": cause, "points": [0.1, 0.05, 0.15], "confidence": confidence}]
    base = {"id": f"{truth}-{cause}", "truth": list(truth), "took": True, "cause": cause}
    return base | {"findings": found, "spent": 8.0} | fields


def test_the_halves_are_disjoint_by_data_set_and_hold_every_kind_of_network():
    halves = {name: suite.half(name) for name in suite.HALVES}
    sets = {name: {case.world for case in part} for name, part in halves.items()}
    assert not sets["tune"] & sets["report"]
    assert sets["report"] == {"couples", "sectors", "bumps", "orders"}
    assert sets["tune"] | sets["report"] == set(worlds.WORLDS)
    assert len(halves["tune"]) == len(halves["report"])
    kinds = {name: {worlds.WORLDS[world].kind for world in part} for name, part in sets.items()}
    assert kinds["tune"] == kinds["report"] == {"cnn", "mlp", "transformer"}
    for part in sets.values():
        tasks = {worlds.WORLDS[world].task.kind for world in part}
        assert tasks == {"classification", "regression"}


def test_both_halves_hold_the_same_number_of_cases_of_each_cause():
    counts = [Counter(case.causes for case in suite.half(name)) for name in suite.HALVES]
    assert counts[0] == counts[1]
    both = counts[0] + counts[1]
    assert all(both[cause,] >= 20 for cause in suite.COMMON)
    assert all(both[cause,] >= 8 for cause in suite.OTHERS)
    assert both["no_gap",] >= 60
    assert sum(n for causes, n in both.items() if len(causes) == 2) >= 20


def test_cases_have_names_of_their_own_and_come_in_a_fair_order():
    listed = suite.cases()
    assert len({case.name for case in listed}) == len(listed)
    assert suite.cases() == listed
    first = suite.half("tune")[:60]
    assert {case.causes[0] for case in first} == {"no_gap", *suite.COMMON, *suite.OTHERS}


def test_faults_come_in_turn_so_that_two_seeds_hold_all_of_them():
    for cause, field, n in (("pipeline_fault", "fault", 4), ("harness_fault", "harness", 3)):
        places = ((seed, strength) for seed in (0, 1) for strength in (1, 2))
        planted = [set_up("corners", (cause,), strength, seed) for seed, strength in places]
        assert len({getattr(setup, field) for setup in planted}) == n


def test_what_cannot_be_a_case_any_more_trains_no_twins(kept, monkeypatch):
    monkeypatch.setattr(plants, "_against", lambda *_: pytest.fail("twins"))
    setup = Setup(worlds.WORLDS["clusters"], 0, 32)
    teacher = teacher_of(setup, kept / "teachers")
    (only,) = plants.prove(setup, "coverage", teacher, kept / "teachers")
    assert not only.holds


def test_every_cause_of_the_suite_can_be_planted_and_taken_away():
    causes = {cause for case in suite.cases() for cause in case.causes}
    assert causes == set(PLANTS)
    for cause in causes - {"no_gap", "capacity"}:
        healthy = Setup(world=worlds.WORLDS["digits"], seed=0, size=8)
        planted = PLANTS[cause](healthy, 2)
        cured = planted.but(**plants.CURES[cause])
        assert planted not in (healthy, cured)


def test_a_share_stands_with_wilsons_interval():
    lines = [line("coverage", "coverage")] * 9 + [line("coverage", "capacity")]
    n, p, z = 10, 0.9, norm.ppf(0.975)
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = 100 * (center - half), 100 * (center + half)
    assert tables.share(lines, tables.right) == f"90 % [{low:.0f}, {high:.0f}], n = 10"
    assert tables.share([], tables.right) == "none"


def test_precision_counts_the_named_and_coverage_all_that_fail():
    lines = [line("coverage", "coverage")] * 3 + [line("coverage", "undetermined", "low")]
    lines += [line("capacity", "coverage"), line("no_gap", "no_gap", "moderate")]
    shown = tables.headline(lines)
    assert "| precision among named | 75 % [30, 95], n = 4 |" in shown
    assert "| coverage (named) | 80 % [38, 96], n = 5 |" in shown
    assert "| top-1 accuracy, failing students | 60 % [23, 88], n = 5 |" in shown


def test_only_a_raised_cause_is_a_false_alarm():
    lines = [line("no_gap", cause) for cause in ("no_gap", "undetermined", "coverage", "capacity")]
    assert "| false alarms on healthy pairs | 50 % [15, 85], n = 4 |" in tables.headline(lines)


def test_plants_that_did_not_take_and_errors_are_counted_apart():
    lines = [line("coverage", "coverage"), line("coverage", "capacity", took=False)]
    lines.append({"id": "x", "truth": ["coverage"], "error": "ValueError: no"})
    shown = tables.headline(lines)
    assert "| plants that took | 50 % [9, 91], n = 2 |" in shown
    assert "| errors | 1 |" in shown
    assert "| top-1 accuracy, failing students | 100 % [21, 100], n = 1 |" in shown
    assert "| x | error |  | ValueError: no |" in tables.wrong(lines)


def test_two_causes_are_right_when_either_leads():
    lines = [line(("coverage", "capacity"), "capacity"), line(("coverage", "capacity"), "no_gap")]
    assert [tables.right(item) for item in lines] == [True, False]
    lines[0]["findings"].append({"cause": "coverage", "points": [0, 0, 0], "confidence": "low"})
    assert "both among the findings | 50 % [9, 91], n = 2 |" in tables.headline(lines)


def test_calibration_error_in_closed_form():
    lines = [line("coverage", "coverage")] * 3 + [line("coverage", "capacity")]
    lines += [line("coverage", "coverage", "low"), line("coverage", "capacity", "low")]
    lines[-1]["findings"][0]["probability"] = 0.62
    by_hand = (4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.61)) / 6
    assert tables.calibration_error(lines) == pytest.approx(by_hand)
    assert math.isnan(tables.calibration_error([]))


def test_the_confusion_table_counts_pairs_of_planted_and_named():
    lines = [line("coverage", "coverage")] * 2 + [line("coverage", "capacity")]
    assert tables.confusion(lines).splitlines() == [
        "| planted \\ named | coverage | capacity |",
        "| --- | --- | --- |",
        "| coverage | 2 | 1 |",
    ]


def test_a_check_holds_only_beyond_its_least_and_beyond_noise():
    assert Check("a", 0.03, 0.01, 0.02).holds
    assert not Check("too little", 0.019, 0.001, 0.02).holds
    assert not Check("too noisy", 0.03, 0.016, 0.02).holds


def test_a_line_cut_off_is_run_again(tmp_path):
    path = results_file(tmp_path, "tune", True, 8.0)
    assert path.name == "tune-budget-8.jsonl"
    assert finished(path) == {}
    path.write_text('{"id": "a", "cause": "capacity"}\n{"id": "b", "cau')
    assert list(finished(path)) == ["a"]


@pytest.mark.parametrize("name", sorted(worlds.WORLDS))
def test_a_world_is_the_same_for_a_seed_and_its_splits_share_no_sample(name):
    world = worlds.WORLDS[name]
    first, again, other = world.draw(0), world.draw(0), world.draw(1)
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.train.x, other.train.x)
    rows = [{tuple(row.tolist()) for row in part.x.flatten(1)} for part in first[:3]]
    if world.kind != "transformer":  # twelve tokens may repeat by chance
        assert not rows[0] & rows[1]
        assert not rows[0] & rows[2]
    assert 0.04 < first.train.rare.float().mean() < 0.13
    for width in world.sizes:
        assert world.build(width)(first.train.x[:5]).shape[0] == 5


def test_blind_networks_cannot_tell_what_they_are_blind_to():
    torch.manual_seed(0)
    tokens = torch.randint(8, (4, 12))
    for world, shuffled in (("motif", tokens.flip(1)), ("digits", None)):
        x = tokens if world == "motif" else torch.rand(4, 1, 8, 8)
        if shuffled is None:  # the same pixels on another place of the stride's grid
            shuffled = x.roll((4, 4), (2, 3))
        blind, whole = (worlds.WORLDS[world].build(8, blind).eval() for blind in (True, False))
        torch.testing.assert_close(blind(x), blind(shuffled))
        assert (whole(x) - whole(shuffled)).abs().max() > 1e-4
    additive = worlds.WORLDS["regions"].build(4, True).eval()
    a, b = torch.rand(1, 11), torch.rand(1, 11)
    mixed = torch.cat([a[:, :5], b[:, 5:]], 1), torch.cat([b[:, :5], a[:, 5:]], 1)
    torch.testing.assert_close(additive(a) + additive(b), additive(mixed[0]) + additive(mixed[1]))


def test_the_loop_learns_and_its_bugs_do_what_they_say():
    world = worlds.WORLDS["clusters"]
    train = world.draw(0).train
    recipe = world.recipe.with_(epochs=5, knowledge="scratch")

    def loss(**bug):
        torch.manual_seed(0)
        model = fit(world.build(12), train, recipe, world.task, 0, **bug)
        return world.task.loss(model(train.x), train.y).item(), model

    good, stuck, decay = loss()[0], loss(fault="stuck")[0], loss(fault="decay")[0]
    assert good < stuck
    assert good < decay
    norm_layer = loss(fault="statistics")[1].first[1]
    assert torch.equal(norm_layer.running_mean, torch.zeros(12))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where teachers are kept for all tests here."""
    return tmp_path_factory.mktemp("planted")


def test_a_teacher_is_trained_once_and_comes_back_the_same(kept):
    setup = set_up("clusters", ("undertrained",), 2, 0)
    first = teacher_of(setup, kept / "teachers")
    files = {path: path.stat().st_mtime_ns for path in (kept / "teachers").iterdir()}
    again = teacher_of(setup, kept / "teachers")
    x = setup.splits.judge.x[:50]
    assert torch.equal(first(x), again(x))
    assert files == {path: path.stat().st_mtime_ns for path in (kept / "teachers").iterdir()}
    assert world_score(setup, first) > 0.9


def world_score(setup, model):
    """Share of the judge's samples that a model gets right, by hand."""
    judge = setup.splits.judge
    with torch.no_grad():
        answers = model(setup.student_view(judge.x)).argmax(1)
    return float((answers == judge.y).double().mean())


def test_permuting_classes_loses_the_teacher_but_nothing_else(kept):
    setup = Setup(worlds.WORLDS["clusters"], 0, 32, harness="classes")
    x = setup.splits.judge.x[:200]
    sound, faulty = (
        teacher_of(one, kept / "teachers")(x) for one in (setup.but(harness=""), setup)
    )
    assert torch.equal(sound.roll(-1, 1), faulty)


def test_a_smaller_transfer_set_has_as_many_steps_and_the_study_knows_no_more(kept):
    planted = plant("clusters", ("coverage",), 1, 0, kept)
    assert planted.study.data.size("train") == 100
    whole = worlds.WORLDS["clusters"].recipe
    assert planted.study.recipe.epochs == 10 * whole.epochs
    assert planted.took, planted.note


SLOW = [
    ("digits", "harsh_targets", 2, 0),
    ("regions", "undertrained", 2, 0),
    ("clusters", "input_gap", 2, 0),
    ("clusters", "pipeline_fault", 2, 0),
    ("clusters", "capacity", 2, 0),
    ("friedman", "harness_fault", 2, 1),
    ("clusters", "false_success", 2, 0),
    ("clusters", "optimization", 2, 0),
    ("majority", "blind_layer", 2, 0),
    ("clusters", "scheme_mismatch", 2, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize("world, cause, strength, seed", SLOW)
def test_a_plant_costs_what_it_claims_on_samples_nobody_trained_on(
    kept, world, cause, strength, seed
):
    planted = plant(world, (cause,), strength, seed, kept, f"{world}-{cause}")
    assert planted.took, planted.note
    setup = set_up(world, (cause,), strength, seed)
    cure = {"size": setup.world.able} if cause == "capacity" else plants.CURES[cause]
    cured = setup.but(**cure)
    judge = setup.splits.judge
    rows = (
        judge.rare
        if cause in ("false_success", "scheme_mismatch")
        else torch.ones(len(judge.y)) > 0
    )
    scores = []
    for one in (cured, setup):
        student = student_of(one, kept / "teachers", 7)
        with torch.no_grad():
            outputs = student(one.student_view(judge.x[rows]))
        truth = judge.y[rows]
        hits = (outputs - truth).square().neg() if outputs.ndim == 1 else outputs.argmax(1) == truth
        scores.append(hits.double().mean().item())
    assert scores[0] > scores[1] + 0.01


@pytest.mark.slow
def test_a_case_runs_from_start_to_end_and_its_line_is_kept(tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    run([Case("clusters", ("no_gap",), 1, 0)], path, tmp_path, 0.0, False, 1)
    (found,) = finished(path).values()
    assert found["took"]
    assert "error" not in found
    assert found["cause"] == found["findings"][0]["cause"]
    assert np.isfinite(found["teacher"])
    assert "clusters-no_gap-1-0" in capsys.readouterr().out
    assert not (tmp_path / "studies" / found["id"]).exists()
