"""Remedies as stages: what training can carry out is spelled out, what only the user can mend is not."""

from __future__ import annotations

import pytest
from torch import nn

import gapkit as gk
from gapkit.causes.remedies import Workshop, with_stages
from gapkit.gap import Evidence, Finding, Remedy
from gapkit.knowledge import KNOWLEDGE
from gapkit.plans import Cost, Plan, Predicted
from tests.deciding_fixtures import hits, score_of

FAMILY = gk.Family(lambda width: nn.Linear(4, width), sizes=[1, 3, 12, 32], student=1, teacher=32)
RECIPE = gk.Recipe(epochs=10, lr=1e-2, knowledge="kl4")
SHOP = Workshop(FAMILY, RECIPE, "kl4", KNOWLEDGE, "checkpoint:1")


def finding(cause, **remedy):
    """A finding of that cause with that remedy."""
    score = score_of("student", hits(0.5))
    return Finding(
        cause=cause,
        points=score,
        confidence="high",
        evidence=(Evidence(text="It is so.", measurement=score),),
        would_change="Something else.",
        remedy=Remedy(text="Do it.", **remedy),
    )


def stages(cause, shop=SHOP, **remedy):
    """The stages of that remedy, as (name, size, sources, recipe, knowledge)."""
    found = with_stages(finding(cause, **remedy), shop).remedy.stages
    return [
        (stage.name, stage.size, stage.sources, stage.recipe, stage.phases[-1].knowledge)
        for stage in found
    ]


@pytest.mark.parametrize(
    "cause, remedy, expected",
    [
        ("harsh_targets", {"knowledge": "dist1"}, (("teacher",), {}, "dist1")),
        ("harsh_targets", {"knowledge": "scratch"}, ((), {}, "scratch")),
        ("undertrained", {"fraction": 2.0}, (("teacher",), {"epochs": 20}, "kl4")),
        ("optimization", {"rate": 0.1}, (("teacher",), {"lr": 1e-3}, "kl4")),
        ("teacher_gap", {"source": "checkpoint"}, (("checkpoint:1",), {}, "kl4")),
    ],
)
def test_one_stage_at_the_students_size(cause, remedy, expected):
    sources, recipe, knowledge = expected
    [(name, size, taught_by, changed, learned)] = stages(cause, **remedy)
    assert (name, size, taught_by) == ("student", 1, sources)
    assert changed == pytest.approx(recipe)
    assert learned == KNOWLEDGE[knowledge]


def test_an_assistant_is_a_stage_before_the_student():
    found = stages("teacher_gap", size="3")
    assert [(name, size, sources) for name, size, sources, *_ in found] == [
        ("assistant", 3, ("teacher",)),
        ("student", 1, ("assistant",)),
    ]


def test_another_size_is_the_student_itself():
    [(name, size, sources, *_)] = stages("capacity", size="12")
    assert (name, size, sources) == ("student", 12, ("teacher",))


@pytest.mark.parametrize(
    "cause, remedy",
    [
        ("pipeline_fault", {}),
        ("coverage", {}),
        ("input_gap", {}),
        ("harsh_targets", {"knowledge": "strange"}),
    ],
)
def test_what_training_does_not_mend_stays_in_words(cause, remedy):
    before = finding(cause, **remedy)
    assert with_stages(before, SHOP) == before


def test_an_earlier_teacher_that_nobody_gave_stays_in_words():
    shop = Workshop(FAMILY, RECIPE, "kl4", KNOWLEDGE)
    assert stages("teacher_gap", shop, source="checkpoint") == []


def test_the_stages_make_a_plan_as_they_are():
    found = with_stages(finding("teacher_gap", size="3"), SHOP).remedy.stages
    nothing = Predicted(low=0.0, value=0.5, high=1.0)
    plan = Plan(study="x", stages=found, predicted=nothing, predicted_run=nothing, cost=Cost())
    assert [stage.size for stage in plan.stages] == [3, 1]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
