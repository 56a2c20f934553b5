"""Every scheme is tried, each with its own sources and all else alike, and scored on test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

import gapkit as gk
from gapkit.commands.studyfile import load_study
from gapkit.examples import schemes as example
from gapkit.examples.schemes import (
    ANSWERS,
    LABELS_ALONE,
    MUTUAL,
    STUDENT,
    Scores,
    carried_out,
    compare,
    on_test,
    paired,
    schemes,
    study,
    table,
)
from gapkit.knowledge import SCRATCH
from gapkit.planning.plancheck import check_plan
from gapkit.plans import SCHEMES, Cost, Predicted

FILE = Path(example.__file__)
UNKNOWN = Predicted(low=0.0, value=0.5, high=1.0)
BY_NAME = pytest.mark.parametrize("name", schemes())


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> gk.Study:
    """The study with trainings of two epochs, its teacher trained."""
    return load_study(FILE, tmp_path_factory.mktemp("schemes"), epochs=2)


def test_every_scheme_is_there_but_that_of_two_views():
    tried = {stage.scheme for stages in schemes().values() for stage in stages}
    assert tried == set(SCHEMES) - {"cross_modal"}


@BY_NAME
def test_a_scheme_is_a_plan_whose_students_differ_in_their_sources_alone(name, opened):
    stages = schemes()[name]
    plan = gk.Plan(
        study="schemes", stages=stages, predicted=UNKNOWN, predicted_run=UNKNOWN, cost=Cost()
    )
    check_plan(
        plan,
        task=opened.task,
        data=opened.data,
        sizes=opened.family.sizes,
        student=STUDENT,
        n_checkpoints=0,
    )
    last = stages[-1]
    assert (last.size, last.recipe, last.init) == (STUDENT, {}, "fresh")
    mutual = last.scheme in ("online", "self")
    wanted = SCRATCH if name == LABELS_ALONE else MUTUAL if mutual else ANSWERS
    assert last.phases[0].knowledge == wanted


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (LABELS_ALONE, (1,)),
        ("offline", (32, 1)),
        ("offline, assistant", (32, 6, 1)),
        ("dense", (32, 1)),
        ("online, peer", (1,)),
        ("born again", (1, 1, 1)),
        ("self, exits", (1,)),
    ],
)
def test_each_student_is_taught_by_whom_the_scheme_says(name, path, opened):
    training = carried_out(opened, schemes()[name], seed=3)
    assert (training.path, training.seed, training.epochs) == (path, 3, 2)
    assert len(training.peer_scores) == (2 if name == "online, peer" else 0)
    model = opened.trainings.model(training)
    batch = next(opened.data.batches("test", 797))
    with torch.no_grad():
        right = model(batch.raw[0]).argmax(1) == batch.raw[1]
    assert on_test(opened, training) == pytest.approx(right.float().mean().item())


def test_the_first_generation_is_the_student_of_labels_alone(opened):
    first = carried_out(opened, schemes()["born again"][:1], seed=4)
    assert carried_out(opened, schemes()[LABELS_ALONE], seed=4).key == first.key
    later = {carried_out(opened, schemes()["born again"][:n], seed=4).key for n in (1, 2, 3)}
    assert len(later) == 3


def test_the_comparison_scores_every_scheme_with_every_seed(opened, monkeypatch):
    few = {name: schemes()[name] for name in (LABELS_ALONE, "offline")}
    monkeypatch.setattr(example, "schemes", lambda: few)
    found = compare(opened, seeds=(5, 6))
    assert list(found) == list(few)
    for name, scores in found.items():
        trained = [carried_out(opened, few[name], seed) for seed in (5, 6)]
        assert scores.validation.tolist() == [training.score for training in trained]
        assert scores.test.tolist() == [on_test(opened, training) for training in trained]
    assert not np.array_equal(found["offline"].test, found[LABELS_ALONE].test)


def test_paired_differences_are_those_of_a_t_test():
    ours, theirs = np.array([0.5, 0.62, 0.4, 0.55]), np.array([0.45, 0.6, 0.42, 0.5])
    better, half = paired(ours, theirs)
    wanted = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (better - half, better + half) == pytest.approx((wanted.low, wanted.high))


def test_the_table_shows_each_scheme_beside_labels_alone():
    found = {
        LABELS_ALONE: Scores(np.array([0.5, 0.6]), np.array([0.4, 0.5])),
        "offline": Scores(np.array([0.6, 0.7]), np.array([0.5, 0.6])),
    }
    rows = [line.split() for line in table(found).splitlines()[1:]]
    assert rows == [
        ["labels", "alone", "0.550", "0.450", "0.400", "0.500"],
        ["offline", "0.650", "0.550", "+0.100", "±", "0.000", "0.500", "0.600"],
    ]


def test_the_study_is_that_of_the_demo_with_labels_alone_as_its_recipe():
    found = study(seed=2, epochs=5)
    assert (found.name, found.seed, found.recipe.epochs) == ("schemes", 2, 5)
    assert found.recipe.knowledge == "scratch"
    assert {found.data.size(split) for split in ("train", "validation", "test")} == {800, 200, 797}
