"""A plan is carried out stage by stage; validation decides, test only measures, misses have consequences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.execution import Execution, distill, gentle
from gapkit.knowledge import Knowledge
from gapkit.measurement import Contributions, Measurement, Measurements
from gapkit.outcome import Training
from gapkit.plans import Cost, Phase, Plan, Predicted, Stage
from gapkit.quality.comparison import compare
from gapkit.training.answers import predict
from gapkit.training.trainings import Trainings
from tests.training_fixtures import KL4, LABELS, furthest, make_trainings, sharp_teacher

KL1 = (KL4[0].with_(knowledge=tuple(p.with_(temperature=1.0) for p in KL4[0].knowledge)),)


def stage(name="student", size=2, sources=("teacher",), **fields):
    return Stage(**({"name": name, "size": size, "sources": sources, "phases": KL4} | fields))


def plan(*stages):
    guess = Predicted(low=0.1, value=0.2, high=0.3)
    return Plan(study="points", stages=stages, predicted=guess, predicted_run=guess, cost=Cost())


def expects(low):
    return Predicted(low=low, value=low + 0.01, high=low + 0.02)


def measure_with(trainings):
    """What a survey gives, as far as carrying out a plan asks for it: scores, and hits by sample."""
    teacher = trainings.sources["teacher"].model

    def measure(model, name):
        values, hits = [], []
        for of, net in (("teacher", teacher), ("student", model)):
            for split in ("validation", "test"):
                outputs = predict(net, trainings.data, split, trainings.task)
                right = trainings.task.contributions(outputs, trainings.data.targets(split))
                hits.append(Contributions(of=of, split=split, values=right))
                score = {"value": right.mean(), "low": 0.0, "high": 1.0, "n": len(right)}
                values.append(Measurement(name="accuracy", of=of, split=split, **score))
        return Measurements(study=name, values=tuple(values), contributions=tuple(hits))

    return measure


def carried_out(trainings, proposal, replan=None, heard=None):
    measure = measure_with(trainings)
    before = measure(trainings.family.fresh(2, 77), "failing")
    return distill(proposal, trainings, measure, before, replan, heard)


# Models whose scores are known beforehand

N_TEST = 100


def marked(n):
    """Inputs that hold the answer and their position, and the answers."""
    labels = torch.arange(n) % 3
    return torch.cat([torch.eye(3)[labels], torch.arange(n)[:, None] / n], 1), labels


class Answers(nn.Module):
    """Right on samples whose position lies between two shares of the split, wrong on the others."""

    def __init__(self, start, end):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x):
        right = (x[:, 3:] >= self.start - 1e-6) & (x[:, 3:] < self.end - 1e-6)
        return torch.where(right, x[:, :3], -x[:, :3])


def hits(start, end):
    position = np.arange(N_TEST) / N_TEST
    return ((position >= start - 1e-6) & (position < end - 1e-6)).astype(float)


class Planted(Trainings):
    """Trainings that train nothing: `scores` on validation and `answers` on test are given by arm.

    A stage is asked for by (name, temperature, seed), an arm by (path, recipe, seed, fraction).
    """

    def plant(self, scores, answers):
        self.scores, self.answers, self.asked = scores, answers, []
        return self

    def _planted(self, ask, path, recipe, seed, fraction):
        self.asked.append(ask)
        return Training(
            key=repr(ask),
            path=path,
            recipe=recipe,
            fraction=fraction,
            seed=seed,
            epochs=1,
            steps=1,
            seconds=0.0,
            flops=0.0,
            score=self.scores[ask],
            train_score=0.0,
            agreement=0.0,
            train_agreement=0.0,
            contributions=np.zeros(3),
        )

    def stage(self, stage, seed, sources, recipe="", fraction=0.0):
        temperature = max(part.temperature for part in stage.phases[0].knowledge)
        epochs = stage.recipe.get("epochs", self.recipe.epochs)
        ask = (stage.name, temperature, seed)
        return self._planted(ask, (16, stage.size), "kl4", seed, epochs / self.recipe.epochs)

    def arm(self, path, recipe, seed, fraction=1.0):
        return self._planted(
            (tuple(path), recipe, seed, fraction), tuple(path), recipe, seed, fraction
        )

    def model(self, training):
        return Answers(*self.answers.get(self.asked_as(training), (0.0, 0.5)))

    def asked_as(self, training):
        return next(ask for ask in self.asked if repr(ask) == training.key)


class AnyScore(dict):
    def __missing__(self, key):
        return 0.5


def planted(tmp_path, scores=(), answers=(), **fields):
    made = make_trainings(tmp_path, has_teacher=False)
    data = Data(
        **{s: TensorDataset(*marked(N_TEST)) for s in ("train", "validation", "test")}, **fields
    )
    given = (made.task, data, made.family, made.recipe, made.run)
    trainings = Planted(*given, knowledge=made.knowledge).plant(AnyScore(scores), dict(answers))
    trainings.lend("teacher", Answers(0.0, 1.0))
    return trainings


def planted_outcome(trainings, proposal, replan=None):
    measure = measure_with(trainings)
    return distill(proposal, trainings, measure, measure(Answers(0.0, 0.4), "failing"), replan)


# Order and sources


def test_stages_follow_each_other_and_find_their_sources_by_name(tmp_path, monkeypatch):
    asked, train = [], Trainings.stage

    def heard(self, stage, seed, sources, *rest):
        training = train(self, stage, seed, sources, *rest)
        asked.append((stage.name, seed, tuple(sources), training.key, training.score))
        return training

    monkeypatch.setattr(Trainings, "stage", heard)
    trainings = make_trainings(tmp_path, epochs=3)
    trainings.lend("checkpoint:0", sharp_teacher(9))
    outcome = carried_out(
        trainings,
        plan(
            stage("big", 8, seeds=(0, 1, 2)),
            stage("mid", 4, ("checkpoint:0", "big")),
            stage("student", 2, ("mid", "teacher"), seeds=(4, 5)),
        ),
    )
    plans_own = asked[:6]
    assert [(name, seed) for name, seed, *_ in plans_own] == [
        ("big", 0),
        ("big", 1),
        ("big", 2),
        ("mid", 0),
        ("student", 4),
        ("student", 5),
    ]
    best_big = max(plans_own[:3], key=lambda row: row[4])[3]
    assert len({row[4] for row in plans_own[:3]}) > 1
    assert plans_own[3][2] == ("checkpoint:0", best_big)
    assert plans_own[4][2] == plans_own[5][2] == (plans_own[3][3], "teacher")
    assert [result.name for result in outcome.stages] == ["big", "mid", "student"]
    assert outcome.stages[0].training.key == best_big
    assert [result.knowledge for result in outcome.stages] == ["0.9·kl τ=4 + 0.1·labels"] * 3
    assert outcome.notes == ()


def test_what_is_finished_is_not_trained_again(tmp_path, sizes_trained):
    proposal = plan(stage("mid", 4), stage("student", 2, ("mid",), seeds=(0, 1)))
    first = carried_out(make_trainings(tmp_path), proposal)
    assert sorted(sizes_trained) == [2] * 6 + [
        4
    ]  # two seeds, their scratch twins, the failing recipe
    sizes_trained.clear()
    again = carried_out(make_trainings(tmp_path), proposal)
    assert sizes_trained == []
    assert again == first
    assert furthest(first.student, again.student) == 0


def test_the_searchs_runs_are_taken_over(tmp_path, sizes_trained):
    trainings = make_trainings(tmp_path)
    arms = [trainings.arm((16, 2), "kl4", seed) for seed in (0, 1)]
    trainings.arm((2,), "scratch", 0)
    trainings.arm((2,), "scratch", 1)
    sizes_trained.clear()
    outcome = carried_out(trainings, plan(stage(seeds=(0, 1))))
    assert sizes_trained == []
    assert list(outcome.stages[0].trainings) == arms


def test_the_outcome_holds_the_student_and_its_scores(tmp_path):
    trainings = make_trainings(tmp_path, epochs=4)
    outcome = carried_out(trainings, plan(stage(seeds=(0, 1))))
    outputs = predict(outcome.student, trainings.data, "test", trainings.task)
    score = trainings.task.score(outputs, trainings.data.targets("test"))
    assert (
        outcome.score.value
        == outcome.measurements.get("accuracy", of="student", split="test").value
    )
    assert outcome.score.value == pytest.approx(score)
    assert outcome.before.value != outcome.score.value
    assert outcome.teacher.of == "teacher"
    assert outcome.predicted == plan(stage()).predicted


def test_what_is_trained_next_is_heard_comparisons_too(tmp_path):
    heard = []
    carried_out(
        make_trainings(tmp_path, epochs=2),
        plan(stage("mid", 4), stage("student", 2, ("mid",), seeds=(3, 1), recipe={"epochs": 4})),
        heard=lambda *what: heard.append(what),
    )
    as_long, by_recipe, failing = (
        f"comparison, {name}"
        for name in (
            "from scratch, trained as long",
            "from scratch by the study's recipe",
            "the failing recipe (kl4)",
        )
    )
    assert heard == [
        (0, 13, "mid, seed 0", 1),
        (1, 13, "student, seed 3", 2),
        (3, 13, "student, seed 1", 2),
        (5, 13, f"{as_long}, seed 3", 2),
        (7, 13, f"{as_long}, seed 1", 2),
        (9, 13, f"{by_recipe}, seed 3", 1),
        (10, 13, f"{by_recipe}, seed 1", 1),
        (11, 13, f"{failing}, seed 3", 1),
        (12, 13, f"{failing}, seed 1", 1),
    ]


@pytest.mark.parametrize(
    "wrong, match",
    [
        (stage(size=3), "size for stage 'student'"),
        (stage(size=4), "last stage to train the student's size 2"),
        (stage(sources=("checkpoint:0",)), "teacher checkpoint below 0"),
        (stage(recipe={"epoch": 3}), "known recipe field but got 'epoch'"),
        (stage(recipe={"lr": -1}), "usable recipe but lr"),
        (
            stage(phases=(Phase(knowledge=(Knowledge(kind="response", loss="kll"),)),)),
            "loss in stage 'student' but got 'kll'",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_is_trained(
    tmp_path, sizes_trained, wrong, match
):
    trainings = make_trainings(tmp_path)
    with pytest.raises(InputError, match=match):
        carried_out(trainings, plan(stage("mid", 4), wrong))
    assert sizes_trained == []


def phases(*ends):
    return tuple(KL4[0].with_(until=end) for end in ends)


def test_a_phase_that_holds_no_epoch_is_refused_before_anything_is_trained(tmp_path, sizes_trained):
    trainings = make_trainings(tmp_path, epochs=3)
    wrong = stage(phases=phases(0.4, 0.5, 1.0))  # epochs begin at 0, 1/3 and 2/3
    with pytest.raises(
        InputError, match=r"'student' to last an epoch .* ends at 0.5 holds none of its 3"
    ):
        carried_out(trainings, plan(stage("mid", 4), wrong))
    assert sizes_trained == []
    assert carried_out(trainings, plan(stage(phases=phases(0.3, 0.5, 1.0)))).stages
    hundredths = stage(phases=phases(0.07, 0.08, 1.0), recipe={"epochs": 100})
    given = planted_outcome(planted(tmp_path / "planted"), plan(hundredths))
    assert given.stages[0].training.fraction == pytest.approx(100 / 2)


def test_a_start_of_other_shapes_is_refused_before_anything_is_trained(tmp_path, sizes_trained):
    trainings = make_trainings(tmp_path)
    trainings.student = trainings.family.fresh(4, 0)
    with pytest.raises(InputError, match=r"'student' from \(student\) but 3 of 4 differ"):
        carried_out(trainings, plan(stage("mid", 4), stage(sources=("mid",), init="student")))
    assert sizes_trained == []
    fits = (stage("mid", 4), stage(sources=("mid",), init="inherit"))
    assert carried_out(trainings, plan(*fits)).stages[1].training.path == (16, 4, 2)


# Validation decides


def test_the_seed_that_is_best_on_test_only_is_not_kept(tmp_path):
    scores = {("student", 4.0, seed): value for seed, value in ((0, 0.6), (1, 0.7), (2, 0.5))}
    answers = {
        ("student", 4.0, 0): (0.0, 0.3),
        ("student", 4.0, 1): (0.0, 0.2),
        ("student", 4.0, 2): (0.0, 1.0),
    }
    outcome = planted_outcome(planted(tmp_path, scores, answers), plan(stage(seeds=(0, 1, 2))))
    assert (outcome.stages[0].kept, outcome.stages[0].training.seed) == (1, 1)
    assert outcome.score.value == pytest.approx(0.2)


def test_test_is_not_read_before_the_last_choice_is_made(tmp_path, monkeypatch):
    read = []
    batches, targets = Data.batches, Data.targets
    monkeypatch.setattr(
        Data, "batches", lambda s, split, *a, **k: read.append(split) or batches(s, split, *a, **k)
    )
    monkeypatch.setattr(Data, "targets", lambda s, split: read.append(split) or targets(s, split))
    trainings = make_trainings(tmp_path)
    at_outcome, finish = [], Execution._outcome
    monkeypatch.setattr(Execution, "_outcome", lambda s: at_outcome.extend(read) or finish(s))
    measure = measure_with(trainings)
    before = measure(trainings.family.fresh(2, 77), "failing")
    read.clear()
    stages = (
        stage("mid", 4),
        stage(sources=("mid",), seeds=(0, 1), predicted=expects(2.0), on_miss="retry"),
    )
    outcome = distill(plan(*stages), trainings, lambda model, name: before, before)
    assert "test" in read
    assert set(at_outcome) == {"train", "validation"}
    assert "temperature 1" in outcome.stages[-1].reaction


def test_an_undefined_score_is_not_kept(tmp_path):
    scores = {("student", 4.0, 0): math.nan, ("student", 4.0, 1): 0.2}
    chosen = stage(seeds=(0, 1), predicted=expects(0.1))
    outcome = planted_outcome(planted(tmp_path, scores), plan(chosen))
    assert outcome.stages[0].training.seed == 1
    assert outcome.stages[0].missed  # a mean that is undefined is above nothing


# Missed forecasts


@pytest.mark.parametrize("low, missed", [(0.4, False), (0.401, True)])
def test_a_forecast_is_missed_when_the_mean_of_the_seeds_lies_below(tmp_path, low, missed):
    scores = {("student", 4.0, 0): 0.3, ("student", 4.0, 1): 0.5}
    outcome = planted_outcome(
        planted(tmp_path, scores), plan(stage(seeds=(0, 1), predicted=expects(low)))
    )
    assert outcome.stages[0].missed is missed
    assert outcome.stages[0].predicted == expects(low)


def test_without_a_forecast_nothing_is_missed(tmp_path):
    scores = {("student", 4.0, 0): 0.0}
    outcome = planted_outcome(planted(tmp_path, scores), plan(stage(on_miss="retry")))
    assert not outcome.stages[0].missed
    assert outcome.stages[0].reaction == ""


def test_stop_leaves_the_rest_out_and_says_so(tmp_path):
    stages = (
        stage("mid", 4, predicted=expects(0.6), on_miss="stop"),
        stage("small", 4, ("mid",)),
        stage("student", 2, ("small",)),
    )
    trainings = planted(tmp_path, answers={("mid", 4.0, 0): (0.0, 0.9)})
    outcome = planted_outcome(trainings, plan(*stages))
    assert trainings.asked == [("mid", 4.0, 0)]
    assert [result.name for result in outcome.stages] == ["mid"]
    assert outcome.notes == (
        "Stopped after 'mid' missed its forecast; left out: 'small', 'student'.",
    )
    (only,) = outcome.comparisons  # an assistant is not the student, and is not called one
    assert only.name == "the assistant of size 4"
    assert only.points.value == pytest.approx(0.5)


def test_stop_at_the_last_stage_leaves_nothing_out(tmp_path):
    outcome = planted_outcome(
        planted(tmp_path), plan(stage(predicted=expects(0.6), on_miss="stop"))
    )
    assert outcome.notes == ()
    assert outcome.stages[0].missed
    assert len(outcome.comparisons) == 3


RETRY = stage(seeds=(0, 1), predicted=expects(0.6), on_miss="retry")


@pytest.mark.parametrize(
    "gentler, kept, words",
    [
        ((0.4, 0.55), 1.0, "which is kept"),
        ((0.3, 0.5), 4.0, "no better"),
        ((0.45, 0.1), 4.0, "no better"),
    ],
)
def test_retry_is_once_more_at_temperature_one_and_the_better_is_kept(
    tmp_path, gentler, kept, words
):
    scores = {("student", 4.0, 0): 0.5, ("student", 4.0, 1): 0.4}
    scores |= {("student", 1.0, seed): score for seed, score in enumerate(gentler)}
    trainings = planted(tmp_path, scores)
    outcome = planted_outcome(trainings, plan(RETRY))
    plans_own = [ask for ask in trainings.asked if ask[0] == "student"]
    assert plans_own == [("student", t, s) for t in (4.0, 1.0) for s in (0, 1)]
    (result,) = outcome.stages
    assert result.reaction.startswith("below its forecast; trained again at temperature 1")
    assert result.reaction.endswith(words)
    assert {trainings.asked_as(t)[1] for t in result.trainings} == {kept}
    assert result.knowledge.startswith(f"0.9·kl τ={kept:g}")
    assert result.missed


def test_retry_that_reaches_the_forecast_is_no_miss_any_more(tmp_path):
    scores = {("student", 1.0, 0): 0.9, ("student", 1.0, 1): 0.8}
    (result,) = planted_outcome(planted(tmp_path, scores), plan(RETRY)).stages
    assert not result.missed
    assert result.training.score == 0.9


@pytest.mark.parametrize("phases", [KL1, LABELS])
def test_what_is_at_temperature_one_is_not_repeated(tmp_path, phases):
    trainings = planted(tmp_path)
    (result,) = planted_outcome(trainings, plan(RETRY.with_(phases=phases))).stages
    assert [ask for ask in trainings.asked if ask[0] == "student"] == [
        ("student", 1.0, s) for s in (0, 1)
    ]
    assert result.reaction == "below its forecast; already at temperature 1, not repeated"


def test_a_real_retry_trains_at_temperature_one(tmp_path):
    trainings = make_trainings(tmp_path)
    gentler = trainings.arm((16, 2), "kl1", 0)
    sharper = trainings.arm((16, 2), "kl4", 0)
    wanted = stage(predicted=expects(1.5), on_miss="retry")
    (result,) = carried_out(trainings, plan(wanted)).stages
    assert result.training.key == max((sharper, gentler), key=lambda t: t.score).key
    assert gentler.key != sharper.key


def test_gentle_touches_responses_alone():
    odd = Knowledge(kind="relation", loss="rkd_distance", temperature=3.0, weight=0.2)
    phase = Phase(knowledge=(*KL4[0].knowledge, odd), until=0.5)
    milder = gentle(phase)
    assert [part.temperature for part in milder.knowledge] == [1.0, 1.0, 3.0]
    assert [part.weight for part in milder.knowledge] == [0.9, 0.1, 0.2]
    assert milder.until == 0.5
    assert gentle(milder) == milder


MISS = {"predicted": expects(0.6), "on_miss": "replan"}


def test_replan_puts_new_stages_in_place_of_the_rest(tmp_path):
    asked_for = []

    def replan(result):
        asked_for.append(result)
        return plan(stage("other", 8), stage("student", 2, ("other",), seeds=(7,)))

    trainings = planted(tmp_path)
    outcome = planted_outcome(
        trainings, plan(stage("mid", 4, **MISS), stage("last", 2, ("mid",))), replan
    )
    assert [(result.name, result.missed) for result in asked_for] == [("mid", True)]
    assert [result.name for result in outcome.stages] == ["mid", "other", "student"]
    assert trainings.asked[:3] == [("mid", 4.0, 0), ("other", 4.0, 0), ("student", 4.0, 7)]
    assert outcome.notes == ("'mid' missed its forecast; the rest was planned anew.",)


def test_planning_anew_happens_once(tmp_path):
    calls = []

    def replan(result):
        calls.append(result.name)
        return plan(stage("again", 4, **MISS), stage("student", 2, ("again",)))

    outcome = planted_outcome(
        planted(tmp_path), plan(stage("mid", 4, **MISS), stage("last", 2)), replan
    )
    assert calls == ["mid"]
    assert [result.name for result in outcome.stages] == ["mid", "again", "student"]
    assert outcome.notes[1] == "'again' missed its forecast; the rest of the plan was kept."


@pytest.mark.parametrize("replan", [None, lambda result: None])
def test_when_nobody_plans_anew_the_rest_is_kept(tmp_path, replan):
    outcome = planted_outcome(
        planted(tmp_path), plan(stage("mid", 4, **MISS), stage(sources=("mid",))), replan
    )
    assert [result.name for result in outcome.stages] == ["mid", "student"]
    assert outcome.notes == ("'mid' missed its forecast; the rest of the plan was kept.",)


def test_a_name_that_comes_back_in_the_new_plan_means_the_new_stage(tmp_path, monkeypatch):
    given, train = [], Planted.stage

    def heard(self, stage, seed, sources, *rest):
        given.append(tuple(sources))
        return train(self, stage, seed, sources, *rest)

    monkeypatch.setattr(Planted, "stage", heard)
    new = plan(stage("mid", 4, seeds=(5,)), stage("student", 2, ("mid",)))
    planted_outcome(
        planted(tmp_path), plan(stage("mid", 4, **MISS), stage("last", 2)), lambda result: new
    )
    assert given == [("teacher",), ("teacher",), (repr(("mid", 4.0, 5)),)]


# Comparisons


def longer(**fields):
    return stage(seeds=(3, 4), recipe={"epochs": 4}, **fields)


def test_comparisons_are_paired_by_seed_and_sample(tmp_path):
    answers = {
        ("student", 4.0, 3): (0.0, 0.8),
        ("student", 4.0, 4): (0.1, 1.0),
        ((2,), "scratch", 3, 2.0): (0.3, 0.9),
        ((2,), "scratch", 4, 2.0): (0.2, 0.9),
        ((2,), "scratch", 3, 1.0): (0.0, 0.8),
        ((2,), "scratch", 4, 1.0): (0.0, 0.9),
        ((16, 2), "kl4", 3, 1.0): (0.0, 0.1),
        ((16, 2), "kl4", 4, 1.0): (0.4, 0.5),
    }
    scores = {("student", 4.0, 4): 0.9}
    outcome = planted_outcome(planted(tmp_path, scores, answers), plan(longer()))
    kept, scratch, short, failing = outcome.comparisons
    names = [(item.name, item.better_than, item.n_seeds) for item in outcome.comparisons]
    assert names == [
        ("the re-distilled student", "the failing student", 1),
        ("this plan", "from scratch, trained as long", 2),
        ("this plan", "from scratch by the study's recipe", 2),
        ("this plan", "the failing recipe (kl4)", 2),
    ]
    ours = np.stack([hits(0.0, 0.8), hits(0.1, 1.0)])
    by_hand = [
        (kept, ours[1:], hits(0.0, 0.4)[None]),
        (scratch, ours, np.stack([hits(0.3, 0.9), hits(0.2, 0.9)])),
        (short, ours, np.stack([hits(0.0, 0.8), hits(0.0, 0.9)])),
        (failing, ours, np.stack([hits(0.0, 0.1), hits(0.4, 0.5)])),
    ]
    for found, mine, theirs in by_hand:
        expected = compare("", "", mine, theirs, "share").points
        assert found.points.value == pytest.approx((mine - theirs).mean())
        assert (found.points.low, found.points.high) == pytest.approx((expected.low, expected.high))
        assert found.points.n == N_TEST
    assert kept.points.value == pytest.approx(0.5)
    assert scratch.points.value == pytest.approx((0.2 + 0.2) / 2)
    assert failing.points.value == pytest.approx(0.75)
    assert (kept.decided, failing.decided) == ("better", "better")


def test_the_undecided_says_what_would_decide(tmp_path):
    answers = {((2,), "scratch", seed, 2.0): (0.0, 0.4 + 0.3 * (seed == 3)) for seed in (3, 4)}
    answers |= {("student", 4.0, seed): (0.0, 0.6) for seed in (3, 4)}
    outcome = planted_outcome(planted(tmp_path, answers=answers), plan(longer()))
    twin = outcome.comparisons[1]
    assert twin.points.value == pytest.approx((-0.1 + 0.2) / 2)
    assert twin.decided == "undecided"
    assert "(now 2)" in twin.would_decide
    decided = [item for item in outcome.comparisons if item.decided != "undecided"]
    assert decided
    assert all(item.would_decide == "" for item in decided)


@pytest.mark.parametrize(
    "chosen, recipe_name, rivals",
    [
        (stage(), "kl4", ["from scratch, trained as long", "the failing recipe (kl4)"]),
        (stage(), "scratch", ["from scratch, trained as long"]),
        (stage(sources=(), phases=LABELS), "kl4", ["the failing recipe (kl4)"]),
        (
            stage(sources=(), phases=LABELS, recipe={"epochs": 4}),
            "kl4",
            ["from scratch by the study's recipe", "the failing recipe (kl4)"],
        ),
    ],
)
def test_whom_a_plan_is_held_against(tmp_path, chosen, recipe_name, rivals):
    trainings = planted(tmp_path)
    trainings.recipe_name = recipe_name
    outcome = planted_outcome(trainings, plan(chosen))
    assert [item.better_than for item in outcome.comparisons] == ["the failing student", *rivals]


def test_dependent_test_samples_widen_the_comparisons(tmp_path):
    column = {split: np.arange(N_TEST) // 10 for split in ("train", "validation", "test")}
    answers = {("student", 4.0, 0): (0.0, 0.8), ((2,), "scratch", 0, 1.0): (0.2, 0.7)}
    alone = planted_outcome(planted(tmp_path / "a", answers=answers), plan(stage()))
    grouped = planted_outcome(
        planted(tmp_path / "g", answers=answers, groups=column), plan(stage())
    )
    for free, held in zip(alone.comparisons, grouped.comparisons, strict=True):
        assert held.points.value == free.points.value
        assert held.points.low < free.points.low - 0.02


def test_real_comparisons_come_from_the_models_on_disk(tmp_path):
    trainings = make_trainings(tmp_path, epochs=20)
    outcome = carried_out(trainings, plan(stage(seeds=(0, 1))))
    x, y = (trainings.data.dataset("test").tensors[i] for i in (0, 1))

    def right(path, recipe, seed):
        with torch.no_grad():
            return (
                (trainings.model(trainings.arm(path, recipe, seed))(x).argmax(1) == y)
                .double()
                .numpy()
            )

    ours, theirs = (
        np.stack([right(path, recipe, seed) for seed in (0, 1)])
        for path, recipe in (((16, 2), "kl4"), ((2,), "scratch"))
    )
    assert outcome.comparisons[1].points.value == pytest.approx((ours - theirs).mean())
    assert np.abs(ours - theirs).sum() > 0
    own = outcome.comparisons[2]  # the plan is the failing recipe itself here
    assert (own.points.value, own.decided) == (0.0, "undecided")
