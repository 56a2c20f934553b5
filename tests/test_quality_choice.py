"""Each decision on knowledge and scheme has a case that fires it and one just short of it."""

from __future__ import annotations

import pytest
import torch

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.knowledge import knowledge_named
from gapkit.measurement import Measurements
from gapkit.planning.plancheck import check_plan
from gapkit.quality.choice import Choice, choose_knowledge
from gapkit.quality.grounds import Grounds
from gapkit.task import Classification
from gapkit.teaching.layer_hints import matched_hints
from tests.gate_fixtures import VALIDATION, grounds, layers, plan_of, slice_gap, stage
from tests.report_fixtures import value

IMPORTANCE = layers("layer_importance", "teacher", t0=0.3, t1=0.2, t2=0.1)


def foretold(student: float, untrained: float = 0.3) -> list:
    """R² at t0 by the student and by an untrained one, ± .02; t1 and t2 are learned well."""
    return [
        *layers("predictability", "pair", t0=student, t1=0.9, t2=0.9),
        *layers("predictability", "untrained", t0=untrained, t1=0.1, t2=0.1),
    ]


def geometry(student: float, untrained: float = 0.3) -> list:
    """Distances among outputs kept by the student and by an untrained one, ± .05."""
    return [
        value("distance_structure", of, number, 0.05, unit="correlation", **VALIDATION)
        for of, number in (("pair", student), ("untrained", untrained))
    ]


def losses(choice: Choice) -> list[str]:
    return [part.loss for part in choice.knowledge]


@pytest.mark.parametrize(
    "task, kinds, expected",
    [
        ("classification", ("response",), knowledge_named("dist1")),
        ("multilabel", ("response",), knowledge_named("dist1", "multilabel")),
        ("regression", ("response",), knowledge_named("mse", "regression")),
        ("embedding", ("relation",), knowledge_named("rkd", "embedding")),
    ],
)
def test_the_task_says_what_leads(task, kinds, expected):
    choice = choose_knowledge(grounds(task=task))
    assert (choice.kinds, choice.knowledge) == (kinds, expected)
    assert ("geometry" in choice.reasons[0]) == (task == "embedding")
    assert len(choice.reasons) == 2


def test_a_mixture_that_the_outputs_are_too_small_for_is_passed_over():
    assert losses(choose_knowledge(grounds(refused=("kl4",)))) == ["dist", "task"]
    assert losses(choose_knowledge(grounds(refused=("dist1",)))) == ["kl", "task"]


def test_agreement_so_far_is_told():
    so_far = value("agreement", "pair", 0.5, 0.07, **VALIDATION)
    assert "agree on 50.0 % [43.0, 57.0]" in choose_knowledge(grounds(so_far)).reasons[0]


@pytest.mark.parametrize("student, fires", [(0.339, True), (0.341, False)])
def test_hints_go_to_layers_that_matter_and_are_not_learned(student, fires):
    known = grounds(*IMPORTANCE, *foretold(student))
    choice = choose_knowledge(known)
    assert ("feature" in choice.kinds) == fires
    assert choice.hinted == (("t0",) if fires else ())
    if fires:
        (hint,) = (part for part in choice.knowledge if part.kind == "feature")
        (whole,) = matched_hints(known.measurements)
        assert hint.layers == whole.layers[:1] == (("s0", "t0"),)
        assert hint.layer_weights == whole.layer_weights[:1]
        assert "Hints at t0" in choice.reasons[1]
        assert "30.0 % [28.0, 32.0]" in choice.reasons[1]


@pytest.mark.parametrize("half, fires", [(0.29, True), (0.31, False)])
def test_a_layer_whose_importance_is_within_noise_gets_no_hint(half, fires):
    found = layers("layer_importance", "teacher", half, t0=0.3)
    choice = choose_knowledge(grounds(*found, *foretold(0.2)))
    assert ("feature" in choice.kinds) == fires


def test_a_layer_without_a_partner_gets_no_hint():
    missed = [
        *layers("predictability", "pair", t0=0.9, t1=0.1, t2=0.9),
        *layers("predictability", "untrained", t0=0.1, t1=0.3, t2=0.1),
    ]
    assert choose_knowledge(grounds(*IMPORTANCE, *missed)).kinds == ("response",)


@pytest.mark.parametrize("student, fires", [(0.399, True), (0.401, False)])
def test_relations_are_added_where_no_geometry_was_learned(student, fires):
    choice = choose_knowledge(grounds(*geometry(student)))
    assert ("similarity_preserving" in losses(choice)) == fires
    assert choice.kinds == (("response", "relation") if fires else ("response",))
    assert len(choice.reasons) == 2 + fires


def test_an_embedding_is_told_what_it_keeps_and_gets_its_relations_once():
    choice = choose_knowledge(grounds(*geometry(0.2), task="embedding"))
    assert losses(choice) == ["rkd_distance", "rkd_angle"]
    assert "keeps 0.20 correlation [0.15, 0.25]" in choice.reasons[0]


@pytest.mark.parametrize("gap, scheme", [(-0.06, "online"), (-0.05, "offline"), (0.3, "offline")])
def test_a_slice_that_the_teacher_loses_calls_for_peers(gap, scheme):
    choice = choose_knowledge(grounds(slice_gap("site=a", gap)))
    assert choice.scheme == scheme
    assert ("site=a" in choice.reasons[-1]) == (scheme == "online")
    assert "ahead of the student by" in choice.reasons[-1]


@pytest.mark.parametrize("deep, scheme", [(0.561, "self"), (0.54, "online")])
def test_without_a_better_teacher_depth_or_peers_teach(deep, scheme):
    probed = layers("linear_probe", "student", s0=0.5, s1=deep)
    choice = choose_knowledge(grounds(*probed, teacher=0.6, student=0.9))
    assert choice.scheme == scheme
    assert choice.exits == (("s0",) if scheme == "self" else ())
    assert "behind the student by" in choice.reasons[-1]
    assert choose_knowledge(grounds(*probed)).scheme == "offline"


def test_different_views_are_cross_modal_whoever_is_better():
    assert choose_knowledge(grounds(same_view=False)).scheme == "cross_modal"
    assert choose_knowledge(grounds(same_view=False, student=0.9)).scheme == "cross_modal"
    assert choose_knowledge(grounds(same_view=True)).scheme == "offline"


def test_peers_and_depth_get_no_hints():
    found = [*IMPORTANCE, *foretold(0.2)]
    assert choose_knowledge(grounds(*found, slice_gap("site=a", -0.06))).kinds == ("response",)
    assert choose_knowledge(grounds(*found, same_view=False)).kinds == ("response", "feature")


@pytest.mark.parametrize(
    "known, fields",
    [
        (grounds(*IMPORTANCE, *foretold(0.2), *geometry(0.2)), {}),
        (grounds(slice_gap("site=a", -0.06)), {"peers": (1,)}),
        (
            grounds(*layers("linear_probe", "student", s0=0.2, s1=0.9), student=0.95),
            {"sources": ()},
        ),
    ],
)
def test_the_choice_can_be_carried_out(known, fields):
    choice = choose_knowledge(known)
    if choice.scheme == "self":
        fields = fields | {"exits": choice.exits}
    planned = plan_of(stage(*choice.knowledge, scheme=choice.scheme, **fields))
    inputs = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.arange(40) % 4)
    data = Data(train=inputs, test=inputs)
    check_plan(planned, task=Classification(), data=data, sizes=(1, 3), student=1)
    assert Choice.model_validate_json(choice.model_dump_json()) == choice


def test_nothing_is_chosen_without_scores():
    with pytest.raises(InputError, match="Expected scores of teacher and student on validation"):
        choose_knowledge(Grounds(Measurements(study="x")))
