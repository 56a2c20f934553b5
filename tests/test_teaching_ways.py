"""Ways: each hop of a path is the stage that it says; those offered answer the diagnosis and all can be trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gapkit.forecast import SCRATCH
from gapkit.knowledge import MENUS, knowledge_named
from gapkit.planning.menu import ways_for
from gapkit.plans import Phase
from gapkit.quality.grounds import Grounds
from gapkit.teaching.ways import Way, plain
from tests.deciding_fixtures import control, seeds_of
from tests.gate_fixtures import gap_with, grounds, layers
from tests.tiny_study import tiny

KL1, DIST = knowledge_named("kl1"), knowledge_named("dist1")
STANDARD = MENUS["classification"]

# one hop


def test_knowledge_alone_is_taught_by_the_model_before():
    way = plain(KL1)
    stage = way.stage("student", 1, way.sources, seeds=(3,))
    assert (stage.sources, stage.scheme, stage.init) == (("teacher",), "offline", "fresh")
    assert stage.phases == (Phase(knowledge=KL1),)
    assert stage.seeds == (3,)
    assert way.taught_by(["a", "b"]) == ("b",)


def test_labels_alone_have_no_source():
    way = plain(knowledge_named("scratch"))
    assert way.stage("student", 1, way.sources).sources == ()


def test_dense_means_all_larger_models_and_nothing_where_there_is_one():
    way = Way(phases=(Phase(knowledge=KL1),), scheme="dense")
    assert way.taught_by(["a", "b"]) == ("teacher", "a", "b")
    assert way.stage("student", 1, way.taught_by(["a"])).scheme == "dense"
    assert way.stage("first", 4, way.sources).scheme == "offline"


def test_an_earlier_teacher_teaches_the_first_hop_alone():
    early = Phase(knowledge=KL1, sources=("checkpoint:0",), until=0.5)
    late = Phase(knowledge=DIST, sources=("teacher",))
    way = Way(phases=(early, late), sources=("checkpoint:0", "teacher"))
    assert way.stage("first", 4, way.sources).phases == (early, late)
    assert way.stage("student", 1, way.taught_by(["first"])).phases == (Phase(knowledge=DIST),)


def test_weights_are_inherited_where_there_is_someone_to_inherit_from():
    way = Way(phases=(Phase(knowledge=KL1),), init="inherit")
    assert way.stage("student", 1, way.sources).init == "inherit"
    labels = Way(phases=(Phase(knowledge=knowledge_named("scratch")),), sources=(), init="inherit")
    assert labels.stage("student", 1, ()).init == "fresh"


# which are offered


def offered(budget: float, found: Grounds | None = None, **fields) -> dict[str, Way]:
    return ways_for(STANDARD, found or grounds(), budget=budget, tried={"kl4"}, **fields)


def test_new_ways_get_a_third_of_the_budget_and_what_was_run_is_free():
    assert set(offered(3)) - {"kl4", SCRATCH} == {"kl1"}
    assert len(offered(9)) == 2 + 3
    controls = (
        control(f"knowledge: {name}", seeds_of(0.7, 1), recipe=name) for name in ("kl1", "dist1")
    )
    run = grounds(gap=gap_with(*controls))
    assert {"kl1", "dist1"} < set(offered(3, run))
    assert len(offered(3, run)) == 2 + 2 + 1


def test_the_standard_responses_come_before_the_rest():
    assert set(offered(9)) == {SCRATCH, "kl4", "kl1", "dist1", "std2"}


@pytest.mark.parametrize(
    "cause, first",
    [("teacher_gap", "dense+dist1"), ("undertrained", "inherit+dist1"), ("no_gap", "kl1")],
)
def test_what_answers_the_first_finding_comes_first(cause, first):
    gap = gap_with()
    finding = gap.findings[0].with_(cause=cause)
    found = grounds(gap=gap.with_(findings=(finding,)))
    assert set(offered(3, found)) - {"kl4", SCRATCH} == {first}


def test_earlier_teachers_are_offered_where_they_were_given():
    found = grounds()
    assert not any("early" in name for name in offered(1000, found))
    ways = offered(1000, found, earlier="checkpoint:1", n_earlier=2)
    assert ways["early+dist1"].sources == ("checkpoint:1",)
    assert ways["early-to-late+dist1"].sources == ("checkpoint:0", "teacher")


def test_hints_go_to_matched_layers_beside_the_answers_or_before_them():
    known = grounds(*layers("layer_importance", "teacher", t0=0.3, t1=0.2, t2=0.1))
    ways = offered(1000, known)
    (beside,) = ways["hint+dist1"].phases
    first, then = ways["hint-then-dist1"].phases
    assert [part.kind for part in beside.knowledge] == ["response", "label", "feature"]
    assert [part.kind for part in first.knowledge] == ["feature"]
    assert first.until == 0.25
    assert then.knowledge == DIST


def test_other_views_leave_out_what_needs_the_same_one():
    names = set(offered(1000, replace(grounds(), same_view=False)))
    assert not any(name.startswith(("dense", "inherit")) for name in names)


def test_a_task_without_logits_is_not_annealed():
    menu = MENUS["regression"]
    found = ways_for(menu, replace(grounds(), task="regression"), budget=1000)
    assert set(menu) < set(found)
    assert "kl4to1" not in found


# in a study


@pytest.mark.slow
def test_every_way_that_a_study_offers_can_be_trained_and_its_stages_are_the_arms(tmp_path):
    states = [tiny(out=tmp_path / "first").teacher.state_dict() for _ in range(2)]
    study = tiny(out=tmp_path / "run", teacher_checkpoints=states)
    gap = study.diagnose(controls=False)
    ways = study._quest.ways(gap, 1000, set())
    assert {"hint+dist1", "hint-then-dist1", "dense+dist1", "early-to-late+dist1"} < set(ways)
    trainings = study.trainings
    trainings.ways = ways
    for name, way in ways.items():
        path = (2,) if name == SCRATCH else (16, 4, 2)
        training = trainings.arm(path, name, 1)
        assert (training.path[-len(path) :], training.recipe) == (path, name)
        if name == SCRATCH or name.startswith("early"):
            continue
        first = trainings.stage(way.stage("middle", 4, way.sources, seeds=(1,)), 1, way.sources)
        sources = way.taught_by([first.key])
        assert trainings.stage(way.stage("student", 2, sources), 1, sources).key == training.key
