"""The study's flow: guests untouched, nothing trained twice, the same study gives the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gapkit as gk
from gapkit import losses
from gapkit.distiller import Loop, TrainingFailed
from gapkit.errors import InputError
from gapkit.knowledge import KNOWLEDGE, Knowledge
from gapkit.pair import registered
from gapkit.plans import Cost, Phase, Predicted, Stage
from gapkit.study import Study
from gapkit.training.answers import predict
from gapkit.training.prices import Prices
from gapkit.training.trainings import Trainings
from gapkit.training.weights import hash_weights
from tests.tiny_study import N_CLASSES, N_FEATURES, blob_data, blobs, build, tiny

PRICES = Prices(
    costs={
        str(size): Cost(student_trainings=cost, seconds=cost, flops=cost, memory_bytes=1)
        for size, cost in {2: 1.0, 4: 1.1, 16: 1.5}.items()
    }
)


def trained(width: int, seed: int = 3, steps: int = 60) -> nn.Module:
    """A perceptron trained on the blobs by hand."""
    x, y = blobs(120, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def priced(study: Study) -> Study:
    """The study with prices that no clock decides; opens its folder."""
    assert study.trainings is not None
    study.run.save("prices", PRICES)
    return study


def flow(study: Study, budget: float = 6) -> tuple[Any, ...]:
    """All verbs but the report."""
    return (
        study.measure(),
        study.diagnose(budget=budget),
        study.plan(budget=budget),
        study.distill(),
    )


@pytest.fixture
def n_trained(monkeypatch) -> Callable[[], int]:
    """How many trainings were run so far."""
    count = []
    run = Loop.run

    def counting(self, *args, **fields):
        count.append(self)
        return run(self, *args, **fields)

    monkeypatch.setattr(Loop, "run", counting)
    return lambda: len(count)


def test_all_bad_arguments_are_named_in_one_error():
    with pytest.raises(InputError) as caught:
        tiny(
            name="../up",
            task="classification",
            data=[1],
            family=build,
            recipe={},
            teacher="t",
            student=3,
            seed=-1,
            teacher_score=float("nan"),
            layers="body.*",
            device="abacus",
        )
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "data a gapkit.Data but got list",
        "family a gapkit.Family but got function",
        "recipe a gapkit.Recipe but got dict",
        "task a task such as gapkit.Classification() but got str",
        "teacher a trained nn.Module or None but got str",
        "student a trained nn.Module or None but got int",
        "name a word that can name a folder but got '../up'",
        "seed an integer from 0 to 2**32 - 1 but got -1",
        "teacher_score a finite number or None but got nan",
        "layers a list of names or globs but got the string 'body.*'",
        "device one that torch knows, such as 'cpu' or 'cuda:0', but got 'abacus'",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", None])
def test_a_name_that_names_no_folder_is_refused(name):
    with pytest.raises(InputError, match="a word that can name a folder"):
        tiny(name=name)


def test_a_teacher_from_nowhere_is_refused():
    with pytest.raises(InputError, match="a teacher, or a family with a teacher size"):
        tiny(family=gk.Family(build, sizes=[2, 4], student=2))


def test_making_a_study_writes_nothing(tmp_path):
    tiny(out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


class Counted(nn.Module):
    """A perceptron with BatchNorm, whose running statistics would tell of a forward pass in train mode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(N_FEATURES, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that a guest could come back without."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "training": [part.training for part in model.modules()],
        "requires_grad": [weight.requires_grad for weight in model.parameters()],
        "grads": [
            None if weight.grad is None else weight.grad.clone() for weight in model.parameters()
        ],
        "hooks": [
            (len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks))
            for part in model.modules()
        ],
    }


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    for key in ("training", "requires_grad", "hooks"):
        assert first[key] == second[key], key
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in first["state"])
    for ours, theirs in zip(first["grads"], second["grads"], strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def test_given_models_come_back_untouched(tmp_path):
    """In mixed modes, with gradients, a frozen weight and a hook of the user's."""
    models = []
    for width in (16, 2):
        model = Counted(width)
        model(blobs(12, 5)[0]).sum().backward()
        model.train()
        model.body[2].eval()
        model.head.bias.requires_grad_(False)
        model.head.register_forward_hook(lambda module, given, out: None)
        models.append(model)
    before = [fingerprint(model) for model in models]
    assert all(any(grad is not None for grad in item["grads"]) for item in before)
    family = gk.Family(Counted, sizes=[2, 4, 16], student=2, teacher=16)
    study = tiny(out=tmp_path, teacher=models[0], student=models[1], family=family)
    rng = torch.get_rng_state(), np.random.get_state()[1].copy()
    flow(priced(study), budget=3)
    for model, was in zip(models, before, strict=True):
        assert_same(was, fingerprint(model))
    assert torch.equal(torch.get_rng_state(), rng[0])
    np.testing.assert_array_equal(np.random.get_state()[1], rng[1])


def test_the_second_call_of_each_verb_trains_nothing(tmp_path, n_trained):
    study = priced(tiny(out=tmp_path))
    first = flow(study)
    n = n_trained()
    assert n >= 8
    assert flow(study) == first
    again = tiny(out=tmp_path)  # another process would do the same
    assert flow(again) == first
    assert n_trained() == n


def test_another_budget_is_another_answer_and_keeps_the_trainings(tmp_path, n_trained):
    study = priced(tiny(out=tmp_path))
    small = study.diagnose(budget=4)
    n = n_trained()
    large = study.diagnose(budget=6)
    assert (small.budget, large.budget) == (4, 6)
    assert sum(len(run.seeds) for run in large.controls) > sum(len(r.seeds) for r in small.controls)
    assert n_trained() > n
    n = n_trained()
    assert study.diagnose(controls=False).controls == ()
    assert n_trained() == n


def test_the_outcomes_student_reproduces_its_test_score(tmp_path):
    study = priced(tiny(out=tmp_path))
    outcome = flow(study)[-1]
    x, y = blobs(120, 2)
    with torch.no_grad():
        hits = (outcome.student(x).argmax(1) == y).double()
    assert hits.mean().item() == outcome.score.value
    assert outcome.score.n == 120
    reopened = tiny(out=tmp_path).distill()
    assert hash_weights(reopened.student) == hash_weights(outcome.student)
    values = predict(reopened.student, study.data, "test", study.task)
    assert study.task.score(values, y) == outcome.score.value


def test_the_same_study_gives_the_same_answers(tmp_path):
    """From two fresh folders, the prices being the same: seconds are all that may differ."""
    found = [flow(priced(tiny(out=tmp_path / name))) for name in ("one", "two")]
    (m1, g1, p1, o1), (m2, g2, p2, o2) = found
    assert m1 == m2
    assert (g1.cause, g1.verdict) == (g2.cause, g2.verdict)
    assert g1.waterfall == g2.waterfall
    assert [run.scores.tolist() for run in g1.controls] == [r.scores.tolist() for r in g2.controls]
    assert p1 == p2
    assert (o1.score, o1.before, o1.comparisons) == (o2.score, o2.before, o2.comparisons)
    assert hash_weights(o1.student) == hash_weights(o2.student)


def test_another_seed_is_another_study(tmp_path):
    first = tiny(out=tmp_path / "one")
    second = tiny(out=tmp_path / "two", seed=1)
    assert hash_weights(first.student) != hash_weights(second.student)


def twisted(width: int) -> nn.Module:
    """As many parameters as `build`, in other shapes (2·width more in the body, as many fewer biases)."""
    plain = sum(weight.numel() for weight in build(width).parameters())
    model = nn.Sequential(
        nn.Linear(N_FEATURES, width), nn.Tanh(), nn.Linear(width, N_CLASSES, bias=False)
    )
    model.register_parameter(
        "extra", nn.Parameter(torch.zeros(plain - sum(w.numel() for w in model.parameters())))
    )
    return model


def test_another_architecture_of_as_many_parameters_is_another_study(tmp_path):
    study = tiny(out=tmp_path)
    study.measure()
    other = gk.Family(twisted, sizes=[2, 4, 16], student=2, teacher=16)
    assert other.parameters(2) == study.family.parameters(2)
    with pytest.raises(InputError, match=r"belongs to another \(architecture was"):
        tiny(out=tmp_path, family=other).measure()


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"recipe": gk.Recipe(epochs=3, batch_size=16, lr=0.05)}, "recipe"),
        ({"data": blob_data(150)}, "data"),
        ({"seed": 1}, "seed"),
        ({"name": "other"}, "study"),
        ({"task": gk.Classification(score="macro_f1")}, "task"),
        ({"teacher": build(16)}, "teacher"),
        ({"student": build(2)}, "student"),
        ({"family": gk.Family(build, sizes=[2, 16], student=2, teacher=16)}, "family"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_of_another_study_is_refused(tmp_path_factory, changes, what, finished):
    with pytest.raises(InputError, match=rf"belongs to another \(.*{what} was"):
        tiny(out=finished, **changes).measure()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run folder in which something was made."""
    folder = tmp_path_factory.mktemp("finished")
    assert tiny(out=folder).student is not None
    return folder


def test_a_family_that_the_teacher_is_no_member_of(tmp_path):
    family = gk.Family(build, sizes=[2, 4, 8], student=2)
    study = tiny(out=tmp_path, family=family, teacher=trained(32))
    costs = {str(size): PRICES.costs["4"] for size in (2, 4, 8)}
    assert study.trainings is not None
    study.run.save("prices", Prices(costs=costs))
    _, gap, plan, outcome = flow(study, budget=20)
    assert {run.path[0] for run in gap.controls if len(run.path) > 1} == {"teacher"}
    assert "teacher-sized" not in {run.name for run in gap.controls}
    assert all(arm.path[0] == "teacher" for arm in plan.alternatives if len(arm.path) > 1)
    assert {size for arm in plan.alternatives for size in arm.path} == {"teacher", 2, 4, 8}
    assert outcome.stages[-1].size == 2


def test_a_family_without_assistants(tmp_path):
    family = gk.Family(build, sizes=[2, 16], student=2, teacher=16)
    study = tiny(out=tmp_path, family=family)
    assert study.trainings is not None
    study.run.save("prices", Prices(costs={key: PRICES.costs[key] for key in ("2", "16")}))
    _, gap, plan, outcome = flow(study, budget=14)
    assert "smaller teacher" not in {run.name for run in gap.controls}
    assert len(plan.stages) == len(outcome.stages) == 1
    assert plan.claim == "No assistant was in question: the family has no size between."


def test_knowledge_given_as_a_list(tmp_path):
    own = (Knowledge(kind="response", loss="kl", temperature=3.0, weight=1.0),)
    recipe = gk.Recipe(epochs=2, batch_size=16, lr=0.05, knowledge=list(own))
    study = priced(tiny(out=tmp_path, recipe=recipe))
    assert study.recipe_name == "own"
    assert study.knowledge == {"own": own} | KNOWLEDGE
    gap = study.diagnose(budget=12)
    runs = {run.name: run for run in gap.controls}
    assert runs["same recipe"].recipe == "own"
    assert any(name.startswith("knowledge: ") for name in runs)
    assert study.plan(budget=6).stages


def squared(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of logits."""
    return ((student - teacher) ** 2).mean()


def test_knowledge_given_as_a_function(tmp_path):
    recipe = gk.Recipe(epochs=2, batch_size=16, lr=0.05, knowledge=squared)
    study = priced(tiny(out=tmp_path / "own", recipe=recipe))
    assert study.knowledge["own"] == (Knowledge(kind="response", loss="squared"),)
    outcome = flow(study, budget=8)[-1]
    assert outcome.stages[-1].size == 2
    usual = tiny(out=tmp_path / "usual")
    assert hash_weights(study.student) != hash_weights(usual.student)
    assert hash_weights(study.teacher) == hash_weights(usual.teacher)


def test_a_student_that_learned_from_labels_alone(tmp_path):
    recipe = gk.Recipe(epochs=2, batch_size=16, lr=1e-4, knowledge="scratch")
    study = priced(tiny(out=tmp_path, recipe=recipe, teacher=trained(16)))
    gap = study.diagnose(budget=12)
    runs = {run.name: run for run in gap.controls}
    assert (runs["same recipe"].path, runs["same recipe"].recipe) == ((2,), "scratch")
    assert "scratch" not in runs
    np.testing.assert_array_equal(  # the failing student is the control's first seed
        runs["same recipe"].contributions[0], study.measure().scores("student", "validation")
    )
    assert study.plan(budget=4).stages


def test_earlier_states_of_the_teacher_can_teach_an_edited_plan(tmp_path):
    teacher = trained(16)
    states = [trained(16, steps=steps).state_dict() for steps in (1, 20)]
    path = tmp_path / "early.pt"
    torch.save(states[0], path)
    study = priced(
        tiny(out=tmp_path / "run", teacher=teacher, teacher_checkpoints=[path, states[1]])
    )
    plan = study.plan(budget=3)
    stage = plan.stages[-1].with_(
        name="student",
        sources=("checkpoint:1",),
        phases=(gk.Phase(knowledge=KNOWLEDGE["kl4"]),),
        seeds=(0,),
    )
    outcome = study.distill(plan.with_(stages=(stage,)))
    assert outcome.stages[0].sources == ("checkpoint:1",)
    usual = study.distill(plan.with_(stages=(stage.with_(sources=("teacher",)),)))
    assert hash_weights(outcome.student) != hash_weights(usual.student)
    lent = [study.trainings.sources[f"checkpoint:{i}"].model for i in range(2)]
    for model, state in zip(lent, states, strict=True):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    absent = plan.with_(stages=(stage.with_(sources=("checkpoint:2",)),))
    with pytest.raises(InputError, match="a teacher checkpoint below 2"):
        study.distill(absent)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    study = tiny(out=tmp_path, teacher=trained(16), teacher_checkpoints=[trained(4).state_dict()])
    with pytest.raises(InputError, match="teacher checkpoint 0 to fit the teacher but: "):
        study.measure()


def test_the_controls_that_were_not_reached_are_said(tmp_path):
    study = priced(tiny(out=tmp_path))
    gap = study.diagnose(budget=4)
    assert gap.spent <= 4
    assert any(note.startswith("Not run within 4 student trainings: ") for note in gap.notes)
    undecided = [finding for finding in gap.findings if finding.cause == "undetermined"]
    for finding in undecided:
        assert "larger budget" in finding.remedy.text


def test_the_search_spends_no_more_than_its_budget(tmp_path):
    study = priced(tiny(out=tmp_path))
    study.diagnose(budget=6)
    plan = study.plan(budget=5)
    assert 0 < plan.search_cost.student_trainings <= 5
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    costs = [float(line.split(",")[5]) for line in lines[1:]]
    assert sum(costs) == pytest.approx(plan.search_cost.student_trainings)
    assert any(",control," in line for line in lines)


def test_what_the_search_trained_is_not_trained_again(tmp_path, n_trained):
    study = priced(tiny(out=tmp_path))
    study.diagnose(budget=6)
    plan = study.plan(budget=4)
    study.distill(plan)
    keys = [path.parent.name for path in (tmp_path / "trainings").glob("*/training.json")]
    assert len(keys) == len(set(keys)) == n_trained()


def test_a_plan_of_your_own_is_the_run_folders_once_it_is_carried_out(tmp_path):
    study = priced(tiny(out=tmp_path))
    proposed = study.plan(budget=0)
    stage = proposed.stages[-1].with_(seeds=(0,), phases=(gk.Phase(knowledge=KNOWLEDGE["kl1"]),))
    own = proposed.with_(stages=(stage,), reasons=("mine",))
    outcome = study.distill(own)
    assert study.run.load("plan", gk.Plan) == own
    assert study._grounds().outcome == outcome
    study.run.save("plan", proposed)  # planned again: what was reached answers another plan
    assert study._grounds().plan == proposed
    assert study._grounds().outcome is None
    assert study.distill(own) == outcome
    assert study._grounds().outcome == outcome


def test_a_plan_for_another_study_is_refused(tmp_path):
    study = priced(tiny(out=tmp_path))
    plan = study.plan(budget=0)
    with pytest.raises(InputError, match="a plan for 'tiny' but got one for 'other'"):
        study.distill(plan.with_(study="other"))


@pytest.mark.parametrize("budget", [-1, float("nan"), float("inf"), "8", None])
@pytest.mark.parametrize("verb", ["diagnose", "plan"])
def test_a_budget_that_is_none_is_refused_before_anything_is_trained(tmp_path, verb, budget):
    study = tiny(out=tmp_path / "run")
    with pytest.raises(
        InputError, match="Expected a budget of 0 or more student trainings but got"
    ):
        getattr(study, verb)(budget=budget)
    assert not (tmp_path / "run").exists()


def test_an_edited_plan_is_carried_out_as_it_stands(tmp_path):
    study = priced(tiny(out=tmp_path))
    study.plan(budget=0)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_text())
    stage = plan["stages"][-1]
    stage["seeds"], stage["recipe"] = [7, 9], {"epochs": 1, "lr": 0.02}
    stage["phases"] = [
        {"knowledge": [{"kind": "response", "loss": "dist", "weight": 1.0}], "until": 1.0}
    ]
    path.write_text(json.dumps(plan))
    outcome = tiny(out=tmp_path).distill()
    (done,) = outcome.stages
    assert [(run.seed, run.epochs) for run in done.trainings] == [(7, 1), (9, 1)]
    assert done.knowledge == "1·dist τ=1"
    assert json.loads(path.read_text()) == plan
    stage["size"] = 3
    path.write_text(json.dumps(plan))
    with pytest.raises(InputError, match="a known size for stage 'student' but got '3'"):
        tiny(out=tmp_path).distill()


def test_a_plan_made_before_the_diagnosis_is_made_anew_after_it(tmp_path, n_trained):
    study = priced(tiny(out=tmp_path))
    blind = study.plan(budget=0)
    n = n_trained()
    assert study.plan(budget=0) == blind
    assert tiny(out=tmp_path).plan(budget=0) == blind
    assert n_trained() == n
    gap = study.diagnose(budget=6)
    informed = study.plan(budget=0)
    assert informed.answers == tuple(finding.cause for finding in gap.findings)
    assert sum(arm.n_runs for arm in informed.alternatives) > sum(
        arm.n_runs for arm in blind.alternatives
    )


def test_planning_anew_on_the_way_leaves_the_plan_that_the_outcome_answers(tmp_path, n_trained):
    study = priced(tiny(out=tmp_path))
    plan = study.plan(budget=0)
    phases = (Phase(knowledge=KNOWLEDGE["kl4"]),)
    never = Predicted(low=1.1, value=1.2, high=1.3)
    assistant = Stage(
        name="assistant 4", size=4, sources=("teacher",), phases=phases, on_miss="replan",
        predicted=never,
    )  # fmt: skip
    student = plan.stages[-1].with_(sources=("assistant 4",), phases=phases, predicted=None)
    chain = plan.with_(stages=(assistant, student))
    study.run.save("plan", chain)
    outcome = study.distill()
    assert outcome.stages[0].missed
    assert outcome.stages[-1].sources != ("assistant 4",)  # planned anew: a single hop
    assert study.run.load("plan", gk.Plan) == chain
    n = n_trained()
    assert study.distill() == outcome
    assert n_trained() == n


def test_what_the_teacher_is_said_to_score_is_part_of_the_question(tmp_path):
    plain = tiny(out=tmp_path)
    assert plain.diagnose(controls=False).cause != "harness_fault"
    claimed = tiny(out=tmp_path, teacher_score=1.0)
    gap = claimed.diagnose(controls=False)
    assert gap.cause == "harness_fault"
    assert gap.findings[0].points.value == pytest.approx(1.0 - gap.teacher.value)


@pytest.mark.parametrize("objective", ["score", "worst_slice", "relation"])
def test_a_student_that_was_trained_better_than_the_study_trains_is_kept(tmp_path, objective):
    short = gk.Recipe(epochs=1, batch_size=60, lr=1e-4)
    given = tiny(student=trained(2, steps=300), recipe=short, out=tmp_path / "given")
    plan = given.plan(budget=3, fractions=(1.0,), objective=objective)
    assert plan.keep_student
    assert plan.reasons[0].startswith("On validation the student as it was given already scores")
    trained_here = tiny(
        recipe=short, seed=4, out=tmp_path / "here"
    )  # a lucky run, no better than its like
    assert not trained_here.plan(budget=3, fractions=(1.0,), objective=objective).keep_student


def test_models_of_another_size_than_the_familys_are_told_of(tmp_path):
    family = gk.Family(build, sizes=[2, 4, 16], student=2, teacher=16)
    study = tiny(out=tmp_path, family=family, teacher=trained(16), student=trained(3))
    gap = study.diagnose(controls=False)
    assert gap.notes == (
        "The student given has 27 parameters, size 2 of the family 19: the controls speak of the latter.",
    )


@pytest.fixture
def diverging(monkeypatch) -> None:
    """Every training by KL at temperature 1 ends in a loss that is nan."""
    arm = Trainings.arm

    def failing(self, path, recipe, seed, fraction=1.0):
        if recipe == "kl1":
            raise TrainingFailed("Expected a finite loss but got nan")
        return arm(self, path, recipe, seed, fraction)

    monkeypatch.setattr(Trainings, "arm", failing)


def test_knowledge_that_diverges_ends_neither_diagnosis_nor_search(tmp_path, diverging):
    slow = gk.Recipe(epochs=2, batch_size=16, lr=1e-4)
    study = priced(tiny(out=tmp_path, recipe=slow, teacher=trained(16)))
    gap = study.diagnose(budget=40)
    assert "knowledge: kl1" not in {run.name for run in gap.controls}
    assert any("kl1, seed 0, failed: Expected a finite loss" in note for note in gap.notes)
    plan = study.plan(budget=8)
    assert plan.stages[-1].phases[0].knowledge != KNOWLEDGE["kl1"]
    assert ",kl1," in (tmp_path / "trials.csv").read_text()


def test_a_loss_of_the_users_goes_by_its_own_name_or_by_a_free_one():
    """Never by that of another loss: it would be trained with that one in its place."""

    def named(name: str) -> Callable[..., torch.Tensor]:
        def fn(student, teacher):
            return (student - teacher).abs().mean()

        fn.__name__ = name
        return fn

    first, second, builtin = named("distance_x"), named("distance_x"), named("kl")
    assert registered(first) == registered(first) == "distance_x"
    assert registered(second) == "distance_x_2"
    assert losses.named("distance_x").fn is first
    assert losses.named(registered(builtin)).fn is builtin
    assert losses.named("kl").fn is losses.kl
    nameless = registered(lambda student, teacher: (student - teacher).mean())
    assert nameless.isidentifier()
    assert registered(named("task")) != "task"


def test_two_studies_with_losses_of_one_name_train_differently(tmp_path):
    def study(power: int) -> Study:
        def loss(student, teacher):
            return ((student - teacher).abs() ** power).mean()

        recipe = gk.Recipe(epochs=2, batch_size=16, lr=0.05, knowledge=loss)
        return tiny(out=tmp_path / str(power), recipe=recipe)

    one, four = study(1), study(4)
    assert one.knowledge["own"] != four.knowledge["own"]
    assert hash_weights(one.teacher) == hash_weights(four.teacher)
    assert hash_weights(one.student) != hash_weights(four.student)


@pytest.mark.parametrize(
    "content, match",
    [
        (None, "to read teacher checkpoint 0 from .*early.pt but: "),
        (b"no checkpoint", "to read teacher checkpoint 0 from .*early.pt but: "),
        ([1, 2], "teacher checkpoint 0 to be a state dict, or a file that holds one, but got list"),
    ],
    ids=["missing", "garbage", "list"],
)
def test_a_checkpoint_that_cannot_be_read_is_refused(tmp_path, content, match):
    path = tmp_path / "early.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    study = tiny(out=tmp_path / "run", teacher=trained(16), teacher_checkpoints=[path])
    with pytest.raises(InputError, match=match) as caught:
        study.measure()
    assert "\n" not in str(caught.value)


def test_other_checkpoints_are_another_study(tmp_path):
    """What was learned from a checkpoint must not be taken for what another would teach."""
    states = [trained(16, steps=steps).state_dict() for steps in (5, 20)]
    assert tiny(out=tmp_path, teacher_checkpoints=states[:1]).student is not None
    assert tiny(out=tmp_path, teacher_checkpoints=states[:1]).measure()
    with pytest.raises(InputError, match=r"belongs to another \(checkpoints was"):
        tiny(out=tmp_path, teacher_checkpoints=states[1:]).measure()


def test_a_student_that_is_the_largest_of_its_family(tmp_path):
    family = gk.Family(build, sizes=[2, 4], student=4)
    slow = gk.Recipe(epochs=2, batch_size=16, lr=1e-4)
    study = tiny(out=tmp_path, family=family, teacher=trained(16), recipe=slow)
    assert study.trainings is not None
    costs = {str(size): Cost(student_trainings=1.0) for size in (2, 4)}
    study.run.save("prices", Prices(costs=costs))
    _, gap, plan, outcome = flow(study, budget=24)
    names = {run.name for run in gap.controls}
    assert {"same recipe", "shorter"} <= names
    assert not {"next size up", "smaller teacher", "teacher-sized"} & names
    assert plan.claim == "No assistant was in question: the family has no size between."
    assert outcome.stages[-1].size == 4


def test_a_student_on_labels_whose_next_size_is_the_teachers(tmp_path):
    """The next size up is then trained on labels as the teacher was: no step of any path."""
    family = gk.Family(build, sizes=[2, 16], student=2, teacher=16)
    recipe = gk.Recipe(epochs=2, batch_size=16, lr=1e-4, knowledge="scratch")
    study = tiny(out=tmp_path, family=family, recipe=recipe, teacher=trained(16))
    assert study.trainings is not None
    study.run.save("prices", Prices(costs={key: PRICES.costs[key] for key in ("2", "16")}))
    gap = study.diagnose(budget=16)
    assert next(run for run in gap.controls if run.name == "next size up").path == (16,)
    assert study.plan(budget=0).stages[-1].size == 2


def test_the_users_history_reaches_the_diagnosis(tmp_path):
    rising = [0.2 + 0.01 * epoch + 0.002 * (epoch % 2) for epoch in range(40)]
    given = tiny(out=tmp_path / "a", student_history=rising).diagnose(controls=False)
    silent = tiny(out=tmp_path / "b").diagnose(controls=False)
    assert "undertrained" in {finding.cause for finding in given.findings}
    assert "undertrained" not in {finding.cause for finding in silent.findings}
