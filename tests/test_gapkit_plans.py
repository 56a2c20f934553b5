"""Plans are edited by hand: what they say is read back unchanged, and what cannot be done is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gapkit.errors import InputError
from gapkit.knowledge import KNOWLEDGE, Knowledge, knowledge_named
from gapkit.planning.plancheck import check_plan
from gapkit.plans import Alternative, Cost, Phase, Plan, Predicted, Stage
from gapkit.task import Classification
from gapkit.tasks.regression import Regression
from tests.tiny_study import blob_data

LABELS = Knowledge(kind="label")
KL = Knowledge(kind="response", loss="kl", temperature=4.0, weight=0.9)
SCORE = Predicted(low=0.5, value=0.6, high=0.7)


def stage(name="student", size=1, sources=("teacher",), knowledge=(KL, LABELS), **more):
    return Stage(
        **{"name": name, "size": size, "sources": sources, "phases": (Phase(knowledge=knowledge),)}
        | more
    )


def plan(*stages, **more):
    fields = {"study": "digits", "predicted": SCORE, "predicted_run": SCORE, "cost": Cost()}
    return Plan(**fields | {"stages": stages or (stage(),)} | more)


# Knowledge and phases


def test_named_mixtures_are_those_of_their_papers():
    assert set(KNOWLEDGE) == {"scratch", "kl4", "kl1", "dist1", "std2"}
    response, label = knowledge_named("kl4")
    assert (response.loss, response.temperature, response.weight) == ("kl", 4.0, 0.9)
    assert (label.kind, label.weight) == ("label", 0.1)
    assert knowledge_named("dist1")[1].weight == 0.33
    assert knowledge_named("scratch") == (LABELS,)
    for parts in KNOWLEDGE.values():
        assert sum(part.weight for part in parts) == pytest.approx(1)
    with pytest.raises(
        InputError, match="known knowledge for classification but got 'kl3'; nearest: 'kl"
    ):
        knowledge_named("kl3")


def test_knowledge_prints_its_weight_and_temperature():
    assert str(KL) == "0.9·kl τ=4"
    pairs = (("a", "x"), ("b", "y"))
    assert (
        str(Knowledge(kind="feature", loss="hint", weight=2, layers=pairs))
        == "2·hint a→x and 1 more"
    )
    assert str(LABELS) == "1·labels"


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"kind": "label", "loss": "kl"}, "loss 'task' for labels .* kind 'label' with loss 'kl'"),
        ({"kind": "response"}, "kind 'response' with loss 'task'"),
        ({"kind": "respons", "loss": "kl"}, "relation"),
        ({"kind": "response", "loss": "kl", "temperature": 0}, "temperature"),
        ({"kind": "response", "loss": "kl", "temperature": float("inf")}, "temperature"),
        ({"kind": "label", "weight": -1}, "weight"),
    ],
)
def test_knowledge_that_means_nothing_is_refused(fields, match):
    with pytest.raises(ValidationError, match=match):
        Knowledge(**fields)


def test_a_phase_needs_something_to_learn():
    with pytest.raises(ValidationError, match="at least one knowledge with a weight above 0"):
        Phase(knowledge=(KL.with_(weight=0),))
    with pytest.raises(ValidationError, match="at least 1 item"):
        Phase(knowledge=())
    with pytest.raises(ValidationError, match="until"):
        Phase(knowledge=(KL,), until=1.5)


# Stages


@pytest.mark.parametrize(
    "name", ["teacher", "checkpoint:0", "checkpoints", "", "-x", "a/b", "a\nb"]
)
def test_stage_names_that_clash_or_are_no_file_name_are_refused(name):
    with pytest.raises(ValidationError, match="name"):
        stage(name)


@pytest.mark.parametrize(
    "ends, fits",
    [
        ((0.5, 1.0), True),
        ((1.0,), True),
        ((0.5,), False),
        ((1.0, 0.5), False),
        ((0.5, 0.5, 1.0), False),
    ],
)
def test_phases_end_in_rising_order_at_one(ends, fits):
    phases = tuple(Phase(knowledge=(KL,), until=end) for end in ends)
    if fits:
        assert stage(phases=phases).phases == phases
    else:
        with pytest.raises(ValidationError, match="end in rising order at 1"):
            stage(phases=phases)


def test_knowledge_of_a_teacher_needs_a_source():
    with pytest.raises(ValidationError, match="Expected a source for stage 'student'"):
        stage(sources=())
    assert stage(sources=(), knowledge=(LABELS,)).sources == ()


def test_a_stage_says_what_it_learns():
    phases = (Phase(knowledge=(KL,), until=0.5), Phase(knowledge=(LABELS, KL)))
    assert stage(phases=phases).learns == "0.9·kl τ=4, then 1·labels + 0.9·kl τ=4"


# Plans


def test_sources_are_the_teacher_its_checkpoints_and_earlier_stages():
    assistant = stage("assistant", 6, ("teacher", "checkpoint:0"))
    assert plan(assistant, stage(sources=("assistant", "teacher"))).stages[0].name == "assistant"
    with pytest.raises(
        ValidationError, match=r"sources of stage 'student' among teacher .* 'assistant'"
    ):
        plan(stage(sources=("assistant",)), assistant)
    with pytest.raises(ValidationError, match="'student' comes twice"):
        plan(stage(), stage())
    with pytest.raises(ValidationError, match="got 'student'"):
        plan(stage(sources=("student",)))


def test_a_plan_comes_back_from_json_and_prints_as_one_line():
    other = Alternative(path=(12, 6, 1), recipe="kl4", predicted=SCORE, cost=2.5)
    whole = plan(
        stage("assistant", 6, seeds=(0, 1), recipe={"epochs": 240}, predicted=SCORE),
        stage(sources=("assistant",), init="inherit", on_miss="replan"),
        alternatives=(other,),
        cost=Cost(student_trainings=2.5, flops=3e12, seconds=41),
    )
    assert Plan.model_validate_json(whole.model_dump_json()) == whole
    assert str(whole) == (
        "Plan for digits: teacher → 6 → 1; predicted 0.600 [0.500, 0.700]; "
        "costs 2.5 student trainings, 3e+12 FLOPs, about 41 s"
    )


def test_a_misspelled_field_is_refused():
    with pytest.raises(ValidationError, match="on_mis"):
        stage(on_mis="stop")


def test_costs_add_up_and_memory_is_the_larger_of_two_peaks():
    first = Cost(student_trainings=1, flops=10, seconds=2, memory_bytes=100, unit_from="FLOPs")
    second = Cost(student_trainings=2, flops=5, seconds=1, memory_bytes=300)
    assert first + second == Cost(
        student_trainings=3, flops=15, seconds=3, memory_bytes=300, unit_from="FLOPs"
    )
    assert first.times(3) == Cost(
        student_trainings=3, flops=30, seconds=6, memory_bytes=100, unit_from="FLOPs"
    )


# What a family can carry out

SIZES = (1, 3, 6)


def check(whole, task=None, data=None, n_checkpoints=0):
    return check_plan(
        whole,
        task=task or Classification(),
        data=data or blob_data(),
        sizes=SIZES,
        student=1,
        n_checkpoints=n_checkpoints,
    )


def test_a_plan_that_can_be_carried_out_passes():
    good = plan(stage("assistant", "6", ("checkpoint:1",)), stage(sources=("assistant",)))
    assert check(good, n_checkpoints=2) is None


HINT = Knowledge(kind="feature", loss="hint", layers=(("0", "2"),))
RKD = Knowledge(kind="relation", loss="rkd_distance")


@pytest.mark.parametrize(
    "whole",
    [
        stage(knowledge=(HINT, LABELS)),
        stage(knowledge=(RKD,)),
        stage(sources=(), scheme="online", peers=(1, 3)),
        stage(sources=(), scheme="self", exits=("0",)),
        stage(sources=("teacher", "checkpoint:0"), scheme="dense"),
        stage(phases=(Phase(knowledge=(KL,), easiest=0.3, easiest_end=1.0),)),
    ],
)
def test_every_kind_of_knowledge_and_scheme_can_be_planned(whole):
    assert check(plan(whole), n_checkpoints=1) is None


@pytest.mark.parametrize(
    "stages, match",
    [
        ((stage("a", 5), stage()), "known size for stage 'a' but got '5'"),
        ((stage(size=3),), "last stage to train the student's size 1 but got 3"),
        (
            (stage(sources=(), scheme="online", peers=(5,)),),
            "known size for stage 'student' but got '5'",
        ),
        (
            (stage(knowledge=(KL.with_(loss="dits"),)),),
            "known response loss in stage 'student' but got 'dits'; nearest: 'dist'",
        ),
        (
            (stage(knowledge=(HINT.with_(loss="kl"),)),),
            "known feature loss in stage 'student' but got 'kl'",
        ),
        (
            (stage(sources=(), scheme="self", exits=("0",), knowledge=(HINT,)),),
            "outputs for scheme 'self' in stage 'student' but 'hint' compares layers",
        ),
        ((stage(scheme="cross_modal"),), "different views for scheme 'cross_modal'"),
        (
            (stage(sources=("checkpoint:2",)),),
            "checkpoint below 2 in stage 'student' but got 'checkpoint:2'",
        ),
        ((stage(sources=("checkpoint:x",)),), "got 'checkpoint:x'"),
    ],
)
def test_what_a_family_cannot_carry_out_is_refused(stages, match):
    with pytest.raises(InputError, match=match):
        check(plan(*stages), n_checkpoints=2)


@pytest.mark.parametrize(
    "whole, match",
    [
        (stage(knowledge=(KL.with_(loss="dkd"), LABELS)), "dkd"),
        (stage(knowledge=(KL.with_(loss="hard"), LABELS)), "hard"),
        (stage(phases=(Phase(knowledge=(KL,), easiest=0.5),)), "sure of a sample"),
    ],
)
def test_what_a_task_cannot_learn_from_is_refused(whole, match):
    with pytest.raises(InputError, match=match):
        check(plan(whole), task=Regression())


def test_different_views_are_cross_modal():
    data = blob_data()
    data._views["student"] = lambda batch: batch[0][:, :2]
    assert check(plan(stage(scheme="cross_modal")), data=data) is None


def test_all_mistakes_are_named_at_once():
    bad = plan(
        stage("a", 5, scheme="cross_modal"), stage("b", 3, knowledge=(KL.with_(loss="kll"),))
    )
    with pytest.raises(InputError) as caught:
        check(bad)
    message = str(caught.value)
    for part in ("size for stage 'a'", "'cross_modal'", "'kll'", "last stage"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"scheme": "onlin"}, "known scheme but got 'onlin'"),
        ({"scheme": "online"}, "Expected peers for scheme 'online'"),
        ({"peers": (1,)}, "Expected peers for scheme 'online'"),
        ({"exits": ("0",)}, "Expected exits for scheme 'self'"),
        ({"scheme": "dense"}, "two sources or more for scheme 'dense'"),
        ({"source_weights": (1.0, 2.0)}, "weight of 0 or more for each source"),
        ({"source_weights": (0.0,)}, "weight of 0 or more for each source"),
        ({"phases": (Phase(knowledge=(KL,), sources=("x",)),)}, "sources of a phase among"),
        (
            {"sources": (), "phases": (Phase(knowledge=(LABELS,), easiest=0.5),)},
            "whose easiest samples a teacher names",
        ),
    ],
)
def test_a_stage_that_contradicts_itself_is_refused(fields, match):
    with pytest.raises(ValidationError, match=match):
        stage(**fields)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"kind": "response", "loss": "kl", "layers": (("a", "b"),)}, "no layers for response"),
        ({"kind": "feature", "loss": "hint"}, "pairs for 'hint' but got none"),
        (
            {"kind": "feature", "loss": "hint", "layers": (("a", "b"),), "layer_weights": (1, 2)},
            "for each of 1 layer pairs",
        ),
    ],
)
def test_knowledge_that_contradicts_itself_is_refused(fields, match):
    with pytest.raises(ValidationError, match=match):
        Knowledge(**fields)


def test_knowledge_anneals_linearly_and_keeps_its_name():
    part = KL.with_(temperature_end=1.0, weight_end=0.1)
    assert part.at(0.0) == KL
    assert part.at(1.0).temperature == 1.0
    assert part.at(0.25).weight == pytest.approx(0.7)
    assert part.at(0.25).name == part.name == "kl"
    assert str(part) == "0.9→0.1·kl τ=4→1"
