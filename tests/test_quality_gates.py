"""Every gate passes, fails and is open on records made by hand, each just beside its limit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gapkit.execution import Execution
from gapkit.knowledge import SCRATCH, Knowledge, hints, knowledge_named
from gapkit.measurement import Measurements
from gapkit.outcome import Comparison
from gapkit.quality.gates import (
    RIVAL,
    check_gates,
    gap_evaluated,
    validation_stratified,
    worth_transferring,
)
from gapkit.quality.grounds import Gate, Grounds
from gapkit.quality.plan_gates import knowledge_fits, scheme_fits
from tests import report_fixtures as made
from tests.deciding_fixtures import control, draw, seeds_of
from tests.gate_fixtures import (
    KL,
    gap_with,
    grounds,
    layers,
    plan_of,
    slice_gap,
    sliced,
    stage,
    worst,
)

HINT = hints({("s0", "t0"): 0.5, ("s1", "t2"): 0.5})
COSINE = knowledge_named("cosine", "embedding")
RELATION = Knowledge(kind="relation", loss="rkd_distance")
SLICES = sliced("class=0", "class=1", "difficulty=up to 0.5", "difficulty=above 0.5", "site=a")


def judged(gate: Gate, state: str, *said: str) -> Gate:
    assert gate.state == state, gate
    for words in said:
        assert words in gate.reason
    return gate


# Knowledge


def test_responses_serve_decisions_and_an_embedding_needs_its_geometry():
    judged(knowledge_fits(grounds(plan=plan_of())), "passed", "learns from responses")
    judged(
        knowledge_fits(grounds(plan=plan_of(), task="embedding")),
        "failed",
        "embedding needs relations or cosine",
        "response (kl) and label (task)",
    )
    for knowledge in (COSINE, (RELATION,)):
        plan = plan_of(stage(*knowledge))
        judged(knowledge_fits(grounds(plan=plan, task="embedding")), "passed")
    for task in ("classification", "multilabel", "regression"):
        relations = grounds(plan=plan_of(stage(RELATION)), task=task)
        judged(knowledge_fits(relations), "failed", f"{task} needs responses", "rkd_distance")


def test_a_response_of_no_weight_is_no_response():
    silent = Knowledge(kind="response", loss="kl", weight=0.0)
    judged(knowledge_fits(grounds(plan=plan_of(stage(silent, RELATION)))), "failed", "relation")
    assert stage(silent.with_(weight_end=0.5), RELATION).phases[0].knowledge[0].teaches
    later = plan_of(stage(silent.with_(weight_end=0.5), RELATION))
    judged(knowledge_fits(grounds(plan=later)), "passed")


@pytest.mark.parametrize(
    "least, state, said",
    [(0.001, "passed", "t2 (loss without it 0.001"), (0.0, "failed", "t2, whose importance is 0 ")],
)
def test_hints_need_layers_that_matter(least, state, said):
    found = layers("layer_importance", "teacher", t0=0.3, t2=least)
    gate = judged(knowledge_fits(grounds(*found, plan=plan_of(stage(*KL, *HINT)))), state, said)
    assert {item.layer for item in gate.evidence} == ({"t0", "t2"} if state == "passed" else {"t2"})


def test_a_hint_from_a_layer_that_was_not_measured_is_open():
    found = layers("layer_importance", "teacher", t0=0.3)
    gate = knowledge_fits(grounds(*found, plan=plan_of(stage(*KL, *HINT))))
    judged(gate, "open", "t2, whose importance was not measured")


def test_layers_of_an_assistant_are_not_the_teachers():
    first = stage(name="assistant", size=3)
    plan = plan_of(first, stage(*KL, *HINT, sources=("assistant",)))
    judged(knowledge_fits(grounds(plan=plan)), "passed")


def test_labels_alone_transfer_nothing_and_no_plan_is_open():
    alone = plan_of(stage(*SCRATCH, sources=()))
    judged(knowledge_fits(grounds(plan=alone)), "failed", "nothing is transferred")
    judged(knowledge_fits(grounds()), "open", "`gapkit plan`")


# The gap and its controls


def test_two_seeds_of_same_recipe_and_scratch_are_enough():
    runs = control("same recipe", seeds_of(0.6, 2)), control("scratch", seeds_of(0.6, 2), path=(1,))
    gate = judged(
        gap_evaluated(grounds(gap=gap_with(*runs))), "passed", "2 controls of 2 to 2 seeds"
    )
    expected = draw(0.9, 0).mean() - draw(0.6, 1).mean()
    assert gate.evidence[0].value == pytest.approx(expected)
    assert f"{expected * 100:.1f} points [" in gate.reason
    aside = gap_with(*runs, control("longer", seeds_of(0.6, 1), fraction=2.0))
    judged(gap_evaluated(grounds(gap=aside)), "passed", "Nothing is claimed from longer")


@pytest.mark.parametrize("short", ["same recipe", "scratch"])
def test_a_single_seed_fails(short):
    runs = [
        control(name, seeds_of(0.6, 1 if name == short else 2))
        for name in ("same recipe", "scratch")
    ]
    judged(gap_evaluated(grounds(gap=gap_with(*runs))), "failed", repr(short), "single seed")


def test_a_gap_without_interval_or_controls_is_open():
    judged(gap_evaluated(grounds()), "open", "no control", "`gapkit diagnose`")
    judged(gap_evaluated(grounds(gap=gap_with())), "open", "no control")
    only = gap_with(control("same recipe", seeds_of(0.6, 2)))
    judged(gap_evaluated(grounds(gap=only)), "open", "'scratch' was not run")
    empty = Grounds(Measurements(study="invented"))
    judged(gap_evaluated(empty), "open", "no interval", "`gapkit measure`")


def test_a_recipe_of_labels_alone_is_its_own_scratch():
    same = control("same recipe", seeds_of(0.6, 2), recipe="scratch", path=(1,))
    judged(gap_evaluated(grounds(gap=gap_with(same))), "passed", "1 controls")


# The scheme


def test_a_better_teacher_teaches_offline():
    gate = judged(scheme_fits(grounds(plan=plan_of())), "passed", "ahead of the student by")
    assert gate.evidence[0].low > 0
    judged(scheme_fits(grounds(teacher=0.6, student=0.9, plan=plan_of())), "failed", "behind")
    level = grounds(teacher=0.62, student=0.6, plan=plan_of())
    assert level.lead is not None
    assert level.lead.low < 0 < level.lead.high
    judged(scheme_fits(level), "open", "level with the student", "more validation samples")
    judged(scheme_fits(grounds()), "open", "no plan yet")
    judged(
        scheme_fits(Grounds(Measurements(study="x"), plan=plan_of())), "open", "`gapkit measure`"
    )


def test_a_teacher_worse_on_a_slice_needs_peers_beside_it():
    lost, held = slice_gap("site=a", -0.06), slice_gap("site=a", -0.04)
    assert lost.high < 0 < held.high
    judged(scheme_fits(grounds(lost, plan=plan_of())), "failed", "site=a", "behind", "6.0 points")
    judged(scheme_fits(grounds(held, plan=plan_of())), "passed", "no worse on any slice")
    peers = plan_of(stage(scheme="online", peers=(1,)))
    judged(scheme_fits(grounds(lost, plan=peers)), "passed", "peers teach beside it", "site=a")


@pytest.mark.parametrize(
    "fields", [{"scheme": "online", "peers": (1,)}, {"scheme": "self", "exits": ("s0",)}]
)
def test_peers_and_depth_teach_where_no_teacher_is_better(fields):
    plan = plan_of(stage(**fields, sources=()))
    level = grounds(teacher=0.62, student=0.6, plan=plan)
    judged(scheme_fits(level), "passed", fields["scheme"])
    judged(
        scheme_fits(grounds(plan=plan)), "failed", fields["scheme"], "although the teacher is ahead"
    )
    lost = grounds(slice_gap("site=a", -0.06), plan=plan)
    judged(scheme_fits(lost), "passed", "on site=a")


def test_labels_alone_leave_a_better_teacher_unused():
    plan = plan_of(stage(*SCRATCH, sources=()))
    judged(scheme_fits(grounds(plan=plan)), "failed", "labels alone")
    judged(scheme_fits(grounds(teacher=0.6, student=0.9, plan=plan)), "passed", "labels alone")


def test_a_student_of_assistants_alone_is_open():
    plan = plan_of(stage(*SCRATCH, name="a", size=3, sources=()), stage(sources=("a",)))
    judged(scheme_fits(grounds(plan=plan)), "open", "Only assistants teach")


@pytest.mark.parametrize(
    "scheme, same_view, state",
    [
        ("offline", True, "passed"),
        ("offline", False, "passed"),
        ("cross_modal", True, "failed"),
        ("cross_modal", False, "passed"),
    ],
)
def test_cross_modal_goes_with_different_views(scheme, same_view, state):
    plan = plan_of(stage(scheme=scheme))
    gate = judged(scheme_fits(grounds(plan=plan, same_view=same_view)), state)
    assert (f"is {scheme}" in gate.reason) == (state == "failed")


def test_an_assistant_sees_the_students_view():
    plan = plan_of(
        stage(name="a", size=3, scheme="cross_modal"), stage(sources=("a",), scheme="offline")
    )
    judged(scheme_fits(grounds(plan=plan, same_view=False)), "passed")


# Slices


def test_a_score_known_by_difficulty_class_and_domain_passes():
    gate = judged(
        validation_stratified(grounds(*SLICES, worst())),
        "passed",
        "class (2), difficulty (2), site (1)",
        "none of 9 slices",
    )
    assert {item.group.partition("=")[0] for item in gate.evidence} == {
        "class", "difficulty", "site", ""
    }  # fmt: skip
    named = validation_stratified(grounds(*SLICES, worst("class=1")))
    judged(named, "passed", "class=1 is worse than the rest", "+50.0 points [+40.0, +60.0]")


@pytest.mark.parametrize("left_out, said", [("difficulty", "difficulty"), ("site", "domain")])
def test_what_is_not_sliced_by_is_open(left_out, said):
    found = [item for item in SLICES if not item.group.startswith(left_out)]
    gate = judged(validation_stratified(grounds(*found, worst())), "open", f"not by {said}")
    assert f"Declare {said} in Data(slices=...)" in gate.reason


def test_slices_that_were_not_measured_are_open():
    judged(validation_stratified(grounds(*SLICES)), "open", "no worst slice was looked for")
    judged(validation_stratified(grounds()), "open", "known by nothing")


def test_numbers_have_no_classes():
    found = [item for item in SLICES if not item.group.startswith("class")]
    judged(validation_stratified(grounds(*found, worst(), task="regression")), "passed")
    judged(validation_stratified(grounds(*found, worst())), "open", "not by class or rarity")


@pytest.mark.parametrize("n, state", [(20, "passed"), (19, "failed")])
def test_slices_too_small_to_tell_fail(n, state):
    found = [*sliced("class=0", "class=1", n=n), *SLICES[2:], worst()]
    gate = judged(validation_stratified(grounds(*found)), state)
    assert ("class or rarity" in gate.reason) == (state == "failed")
    rare = sliced("rarity=head", "rarity=tail", n=60)
    judged(validation_stratified(grounds(*found, *rare)), "passed", "rarity (2)")


# Worth


def compared(decided: str, points: float, half: float) -> Comparison:
    return Comparison(
        name="this plan", better_than=RIVAL, n_seeds=3, points=made.value("p", "pair", points, half),
        decided=decided, would_decide="About 40 seeds (now 3).",
    )  # fmt: skip


@pytest.mark.parametrize(
    "decided, points, half, state, said",
    [
        ("better", 0.1, 0.05, "passed", "+10.0 points [+5.0, +15.0], n = 797 (3 seeds each)"),
        (
            "undecided",
            0.04,
            0.05,
            "failed",
            "relearning does as well. To tell them apart: About 40",
        ),
        ("worse", -0.1, 0.05, "failed", "relearning does better"),
    ],
)
def test_an_outcome_is_held_against_scratch_trained_as_long(decided, points, half, state, said):
    outcome = made.outcome().with_(comparisons=(compared(decided, points, half),))
    judged(worth_transferring(grounds(outcome=outcome)), state, "On test", said)


def runs_of(share: float, first_seed: int, n_seeds: int) -> list[np.ndarray]:
    return [draw(share, first_seed + index) for index in range(n_seeds)]


def scratch_and(distilled: float, n_seeds: int = 4) -> Grounds:
    return grounds(
        gap=gap_with(
            control("same recipe", runs_of(0.5, 10, n_seeds)),
            control("scratch", runs_of(0.6, 20, n_seeds), recipe="scratch", path=(1,)),
            control("knowledge: dist1", runs_of(distilled, 30, n_seeds), recipe="dist1"),
        )
    )


def test_without_an_outcome_controls_tell():
    gate = judged(worth_transferring(scratch_and(0.75)), "passed", "On validation", "by dist1")
    expected = np.mean(runs_of(0.75, 30, 4)) - np.mean(runs_of(0.6, 20, 4))
    assert gate.evidence[0].value == pytest.approx(expected)
    assert gate.evidence[0].level == pytest.approx(0.975)  # the better of two arms
    judged(worth_transferring(scratch_and(0.605)), "failed", "relearning does as well")
    judged(worth_transferring(scratch_and(0.3)), "failed", "by kl4", "relearning does better")


def test_outcomes_hold_the_plan_against_the_rival_that_worth_is_judged_by():
    trainings = SimpleNamespace(
        family=SimpleNamespace(student=1),
        recipe_name="kl4",
        data=SimpleNamespace(targets=lambda split: []),
        sources={"teacher": SimpleNamespace(path=(32,))},
    )
    rivals = Execution._rivals(SimpleNamespace(trainings=trainings), 2.0, True)
    assert (RIVAL, (1,), "scratch", 2.0) in rivals


def test_an_outcome_without_that_comparison_falls_back_on_the_controls():
    given = scratch_and(0.75)
    with_outcome = grounds(gap=given.gap, outcome=made.outcome())
    assert RIVAL not in {item.better_than for item in made.outcome().comparisons}
    judged(worth_transferring(with_outcome), "passed", "On validation")


def test_what_was_not_held_against_scratch_is_open():
    judged(worth_transferring(grounds()), "open", "`gapkit diagnose`")
    judged(worth_transferring(scratch_and(0.9, n_seeds=1)), "open")
    longer = control("scratch", seeds_of(0.6), recipe="scratch", path=(1,), fraction=2.0)
    unlike = gap_with(control("same recipe", seeds_of(0.8)), longer)
    judged(worth_transferring(grounds(gap=unlike)), "open", "No distilled student")


# All of them


def test_gates_come_in_their_order_and_a_line_each():
    gates = check_gates(scratch_and(0.75))
    assert [gate.name for gate in gates] == [
        "knowledge fits the objective",
        "gap evaluated with controls",
        "scheme fits the source",
        "validation stratified",
        "worth transferring",
    ]
    assert [gate.state for gate in gates] == ["open", "passed", "open", "open", "passed"]
    for gate in gates:
        assert str(gate).startswith(f"{gate.state:<6}  {gate.name}: ")
        assert "\n" not in str(gate)
        assert Gate.model_validate_json(gate.model_dump_json()) == gate


def test_measurements_are_left_as_they_are():
    given = scratch_and(0.75)
    before = given.measurements.model_dump_json()
    check_gates(given)
    assert given.measurements.model_dump_json() == before
    assert np.isfinite(given.lead.value)
