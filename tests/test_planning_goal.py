"""Goals: a finished training's score, its worst slice, the geometry it keeps; and what it may weigh."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.limits import Limits, latency
from gapkit.planner import Trial
from gapkit.planning.goal import Goal, Pupil
from gapkit.planning.side_by_side import side_by_side
from tests.deciding_fixtures import make_training
from tests.training_fixtures import SIZES as SPLITS
from tests.training_fixtures import make_trainings, point_data

ARM = ((16, 2), "kl1", 0)


def test_the_score_is_the_trainings_own(tmp_path):
    trainings = make_trainings(tmp_path)
    training = trainings.arm(*ARM)
    assert Goal("score", trainings).of(training) == training.score


def test_the_worst_slice_is_the_lowest_mean_of_those_that_are_large_enough(tmp_path):
    column = np.array(["a"] * 12 + ["b"] * 12 + ["c"] * 6)
    whole = {"train": np.array(["a"] * 40), "validation": column, "test": np.array(["a"] * 50)}
    trainings = make_trainings(tmp_path, point_data(slices={"part": whole}))
    values = np.array([1.0] * 12 + [0.5] * 12 + [0.0] * 6)
    training = make_training((16, 2), "kl1", 0, 1.0, values)
    assert Goal("worst_slice", trainings).of(training) == pytest.approx(values.mean())  # none of 20
    longer = np.array(["a"] * 20 + ["c"] * 10)
    trainings = make_trainings(
        tmp_path / "b", point_data(slices={"part": whole | {"validation": longer}})
    )
    assert Goal("worst_slice", trainings).of(training) == pytest.approx((12 + 4) / 20)


def test_the_teacher_keeps_its_own_geometry_and_a_student_less(tmp_path):
    trainings = make_trainings(tmp_path)
    goal = Goal("relation", trainings)
    assert goal.of_teacher == pytest.approx(1.0)
    reached = goal.of(trainings.arm(*ARM))
    assert 0 < reached < 0.999
    model, data = trainings.model(trainings.arm(*ARM)), trainings.data
    x = torch.stack([data.dataset("validation")[i][0] for i in range(30)])
    with torch.no_grad():
        mine, theirs = model(x), trainings.sources["teacher"].model(x)
    pairs = torch.triu_indices(30, 30, 1)
    distances = [torch.cdist(z, z)[pairs[0], pairs[1]].numpy() for z in (mine, theirs)]
    assert reached == pytest.approx(np.corrcoef(*distances)[0, 1], abs=1e-4)


@pytest.mark.parametrize("name", ["worst_slice", "relation"])
def test_a_model_reaches_what_its_training_did(tmp_path, name):
    columns = {split: np.array(["a"] * 20 + ["b"] * (n - 20)) for split, n, _ in SPLITS}
    trainings = make_trainings(tmp_path, point_data(slices={"part": columns}))
    training, goal = trainings.arm(*ARM), Goal(name, trainings)
    reached = goal.of_student(trainings.model(training))
    assert (reached.name, reached.of, reached.split) == (name, "student", "validation")
    assert reached.n == (20 if name == "worst_slice" else 30)
    assert reached.value == pytest.approx(goal.of(training))
    assert reached.low < reached.value < reached.high


def test_another_objective_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match="worst_slice"):
        Goal("worst_slices", make_trainings(tmp_path))


# limits


def test_what_is_beyond_a_limit_is_named():
    model, view = nn.Linear(4, 3), torch.zeros(1, 4)
    assert Limits().excess(model, view) == ""
    assert Limits(parameters=15, flops=24).excess(model, view) == ""
    assert (
        Limits(parameters=14, flops=23).excess(model, view)
        == "15 parameters, at most 14; 24 FLOPs, at most 23"
    )


def test_a_model_that_sleeps_is_too_slow_and_comes_back_as_it_was():
    class Slow(nn.Module):
        def forward(self, x):
            import time

            time.sleep(0.002)
            return x

    model = Slow().train()
    assert latency(model, torch.zeros(1)) >= 2
    assert "ms, at most 0.5" in Limits(milliseconds=0.5).excess(model, torch.zeros(1))
    assert model.training


# side by side

TRIALS = [Trial((16, 2), "kl1", seed) for seed in range(3)]


@pytest.mark.slow
def test_trials_side_by_side_score_as_one_after_the_other(tmp_path):
    alone = side_by_side(Pupil(make_trainings(tmp_path / "alone"), "score"), TRIALS, 1)
    trainings = make_trainings(tmp_path / "two")
    assert side_by_side(Pupil(trainings, "score"), TRIALS, 2) == alone
    assert all(trainings.done(trial.path, trial.recipe, trial.seed) for trial in TRIALS)


@pytest.mark.slow
def test_trials_run_on_a_cluster(tmp_path):
    joblib = pytest.importorskip("joblib")
    distributed = pytest.importorskip("distributed")
    alone = side_by_side(Pupil(make_trainings(tmp_path / "alone"), "score"), TRIALS, 1)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        found = side_by_side(Pupil(make_trainings(tmp_path / "there"), "score"), TRIALS, 2)
    assert found == alone


def test_a_training_that_fails_is_worse_than_all_others(tmp_path, monkeypatch):
    from gapkit.distiller import TrainingFailed

    trainings = make_trainings(tmp_path)

    def fails(*arm):
        raise TrainingFailed("the loss is nan")

    monkeypatch.setattr(trainings, "arm", fails)
    assert math.isnan(Pupil(trainings, "score")(TRIALS[0]))
