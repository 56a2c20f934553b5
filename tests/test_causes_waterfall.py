"""The waterfall adds up to the gap for whatever controls there are, and names what it could not split."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gapkit.causes.case import Case
from gapkit.causes.waterfall import best_source, build_waterfall
from gapkit.gap import ControlRun, Waterfall
from tests.deciding_fixtures import control, draw, hits, measurements

TEACHER, STUDENT = draw(0.9, 90), draw(0.6, 91)


def runs(share: float, first: int, n_seeds: int) -> list[np.ndarray]:
    return [draw(share, first + seed) for seed in range(n_seeds)]


ALL = (
    control("same recipe", runs(0.63, 100, 5)),
    control("scratch", runs(0.65, 200, 3), recipe="scratch", path=(1,)),
    control("knowledge: dist1", runs(0.7, 300, 4), recipe="dist1"),
    control("longer", runs(0.74, 400, 2), recipe="dist1", fraction=2.0),
    control("next size up", runs(0.8, 500, 3), path=(32, 3)),
    control("smaller teacher", runs(0.6, 600, 3), path=(32, 12, 1)),
    control("teacher-sized", runs(0.86, 700, 2), path=(32, 32)),
)
SUBSETS = [chosen for size in range(len(ALL) + 1) for chosen in combinations(ALL, size)]


def case(*controls: ControlRun) -> Case:
    return Case(measurements(TEACHER, STUDENT), {run.name: run for run in controls})


def labels(waterfall: Waterfall) -> list[str]:
    """Every rung, merged or not, from the bottom up."""
    return [part for step in waterfall.steps for part in step.name.split(" and ")]


def shown(waterfall: Waterfall) -> list[tuple[str, str]]:
    return [(step.name, step.cause) for step in waterfall.steps]


def test_adds_up_to_the_gap_for_every_subset_of_controls():
    assert len(SUBSETS) == 128
    gap = TEACHER.mean() - STUDENT.mean()
    assert gap > 0.2
    for chosen in SUBSETS:
        found = build_waterfall(case(*chosen))
        total = sum(step.points.value for step in found.steps)
        assert abs(total - gap) < 1e-12, [run.name for run in chosen]
        assert abs(found.start.value + total - found.end.value) < 1e-12
        assert found.start.value == STUDENT.mean()
        assert found.end.value == TEACHER.mean()


def test_every_rung_is_named_once_and_merged_ones_belong_to_no_single_cause():
    for chosen in SUBSETS:
        found = build_waterfall(case(*chosen))
        names = labels(found)
        assert len(names) == 5
        assert len(set(names)) == 5
        assert names[0] == "same recipe by gapkit"
        assert names[3:] == ["size", "rest of the training"]
        present = {run.name for run in chosen}
        assert ("same recipe by gapkit" in {step.name for step in found.steps}) == (
            "same recipe" in present
        )
        for step in found.steps:
            assert tuple(step.name.split(" and ")[:-1]) == step.merged
            assert (step.cause == "undetermined") == bool(step.merged)
            assert step.points.low <= step.points.value <= step.points.high


def test_all_controls_give_five_steps_of_their_own_size():
    found = build_waterfall(case(*ALL))
    assert shown(found) == [
        ("same recipe by gapkit", "pipeline_fault"),
        ("other knowledge", "harsh_targets"),
        ("longer training", "undertrained"),
        ("size", "capacity"),
        ("rest of the training", "optimization"),
    ]
    by_name = {run.name: run.mean for run in ALL}
    ladder = [
        STUDENT.mean(),
        by_name["same recipe"],
        by_name["knowledge: dist1"],
        by_name["longer"],
        by_name["teacher-sized"],
        TEACHER.mean(),
    ]
    np.testing.assert_allclose([s.points.value for s in found.steps], np.diff(ladder), atol=1e-12)
    assert found.steps[1].points.level == pytest.approx(1 - 0.05 / 3)  # picked from four arms


def test_without_controls_one_step_is_the_whole_gap():
    (step,) = build_waterfall(case()).steps
    assert step.cause == "undetermined"
    assert step.merged == (
        "same recipe by gapkit",
        "other knowledge",
        "longer training",
        "size",
    )
    assert step.points.value == pytest.approx(TEACHER.mean() - STUDENT.mean(), abs=1e-12)
    assert step.points.low > 0


def test_a_missing_rung_is_merged_into_the_next_one():
    found = build_waterfall(case(*(run for run in ALL if run.name != "teacher-sized")))
    assert shown(found)[-1] == ("size and rest of the training", "undetermined")
    assert found.steps[-1].merged == ("size",)
    found = build_waterfall(case(*(run for run in ALL if run.name != "longer")))
    assert shown(found)[2] == ("longer training and size", "undetermined")


def test_a_smaller_teacher_that_teaches_best_takes_the_step_of_the_source():
    better = control("smaller teacher", runs(0.78, 600, 3), path=(32, 12, 1))
    found = build_waterfall(case(ALL[0], ALL[1], better))
    assert shown(found)[1] == ("other teacher", "teacher_gap")
    assert best_source(case(ALL[0], ALL[1], better)) is better


def test_longer_training_of_another_recipe_than_the_rung_below_says_whose():
    longer = control("longer", runs(0.74, 400, 2), fraction=2.0)
    found = build_waterfall(case(ALL[0], ALL[2], longer))
    assert "longer training by kl4" in labels(found)
    assert "longer training" in labels(build_waterfall(case(ALL[0], ALL[2], ALL[3])))


def test_the_best_source_needs_a_choice_and_enough_seeds():
    assert best_source(case()) is None
    assert best_source(case(ALL[0])) is None
    assert best_source(case(ALL[0], ALL[2])) is ALL[2]
    lucky = control("knowledge: kl1", [hits(0.99)], recipe="kl1")
    assert best_source(case(ALL[0], ALL[2], lucky)) is ALL[2]  # one seed against five


def test_steps_may_be_negative_and_still_add_up():
    worse = control("same recipe", runs(0.5, 100, 3))
    found = build_waterfall(case(worse, *ALL[1:]))
    assert found.steps[0].points.value < 0
    assert abs(sum(s.points.value for s in found.steps) - (TEACHER - STUDENT).mean()) < 1e-12
