"""What the work will cost is said before it starts: by hand-made prices it can be counted by hand."""

from __future__ import annotations

import pytest

from gapkit import losses
from gapkit.commands.quote import STEPS, Line, Quote, quote
from gapkit.distiller import Loop
from gapkit.errors import InputError
from gapkit.knowledge import knowledge_named
from gapkit.plans import Cost, Phase, Plan, Predicted, Stage
from gapkit.recipe import Recipe
from gapkit.training.prices import Prices
from tests.tiny_study import build, tiny

UNIT = Cost(student_trainings=1.0, flops=100.0, seconds=10.0, memory_bytes=1000)
PRICES = Prices(
    costs={
        "2": UNIT,
        "4": UNIT.times(1.5).with_(memory_bytes=2000),
        "16": UNIT.times(2.5).with_(memory_bytes=5000),
    }
)


@pytest.fixture(autouse=True)
def _no_training(monkeypatch):
    def run(self, tick=None):
        raise AssertionError("a model is trained")

    monkeypatch.setattr(Loop, "run", run)


@pytest.fixture
def priced(tmp_path):
    """The tiny study with a run folder that knows the prices above."""
    study = tiny(out=tmp_path / "run")
    study.run.open(study.identity())
    study.run.save("prices", PRICES)
    return tiny(out=tmp_path / "run")


def costs(found: Quote) -> dict[str, Cost]:
    return {line.name: line.cost for line in found.lines}


def planned(*stages: Stage) -> Plan:
    guess = Predicted(low=0.4, value=0.5, high=0.6)
    return Plan(study="tiny", stages=stages, predicted=guess, predicted_run=guess, cost=Cost())


def stage(size: int, name: str, seeds: tuple[int, ...], **fields: object) -> Stage:
    given = {"sources": ("teacher",), "phases": (Phase(knowledge=knowledge_named("kl4")),)}
    return Stage(size=size, name=name, seeds=seeds, **(given | fields))


def test_budgets_are_student_trainings_at_the_students_price(priced):
    found = costs(quote(priced, diagnose_budget=7, plan_budget=4))
    assert list(found) == ["teacher", "student", *STEPS]
    assert found["teacher"] == PRICES.of(16)
    assert found["student"] == UNIT
    assert (found["diagnose"].student_trainings, found["diagnose"].seconds) == (7.0, 70.0)
    assert (found["plan"].student_trainings, found["plan"].flops) == (4.0, 400.0)
    longest, n_seeds = 4.0, 3
    rivals = longest + 1 + 1  # labels alone as long, labels alone, the failing recipe
    assert found["distill"].student_trainings == n_seeds * (longest + rivals)
    assert found["measure"].student_trainings == 0
    assert found["measure"].seconds > 0


def test_the_total_adds_up_and_memory_is_the_largest(priced):
    found = quote(priced)
    for field in ("student_trainings", "flops", "seconds"):
        parts = [getattr(line.cost, field) for line in found.lines]
        assert len([part for part in parts if part > 0]) > 4
        assert getattr(found.total, field) == pytest.approx(sum(parts))
    assert found.total.memory_bytes == max(line.cost.memory_bytes for line in found.lines) >= 5000
    assert Quote(study="x", device="cpu").total == Cost()


def test_only_the_steps_asked_for_are_priced(priced):
    assert list(costs(quote(priced, ("plan",), plan_budget=0)))[2:] == ["plan"]
    assert costs(quote(priced, ("plan",), plan_budget=0))["plan"].seconds == 0
    assert [line.name for line in quote(priced, ()).lines] == ["teacher", "student"]


def test_measuring_given_models_needs_no_price_of_a_training(tmp_path, monkeypatch):
    def never(*args):
        raise AssertionError("a training is priced")

    monkeypatch.setattr("gapkit.commands.quote.measure_prices", never)
    given = tiny(teacher=build(16), student=build(2), out=tmp_path / "run")
    assert costs(quote(given, ("measure", "report")))["measure"].flops > 0
    with pytest.raises(AssertionError, match="priced"):
        quote(given, ("plan",))


def test_given_models_are_not_trained(priced):
    given = tiny(teacher=build(16), student=build(2))
    assert list(costs(quote(given, ("measure",)))) == ["measure"]
    found = costs(quote(tiny(student=build(2)), ("measure",)))
    assert list(found) == ["teacher", "measure"]


def test_the_plan_in_the_folder_is_priced_stage_by_stage(priced):
    assistant = stage(4, "assistant 4", (0,))
    last = stage(2, "student", (0, 1), sources=("assistant 4",), recipe={"epochs": 6})
    priced.run.save("plan", planned(assistant, last))
    line = quote(priced, ("distill",)).lines[-1]
    # assistant once; the student thrice as long with two seeds; its rivals: labels alone as long,
    # labels alone and the failing recipe at the usual length
    assert line.cost.student_trainings == pytest.approx(1.5 + 2 * 3 + 2 * (3 + 1 + 1))
    assert "the plan in the run folder" in line.what


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"size": 3}, "a known size for stage 'student' but got '3'"),
        ({"recipe": {"epochs": "many"}}, "epochs: .* got 'many'"),
        ({"recipe": {"epoch": 2}}, "a known recipe field but got 'epoch'"),
        ({"sources": ("checkpoint:0",)}, "a teacher checkpoint below 0"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_has_no_price(priced, changes, match):
    given = {"size": 2, "name": "student", "seeds": (0,)} | changes
    priced.run.save("plan", planned(stage(**given)))
    with pytest.raises(InputError, match=match):
        quote(priced, ("distill",))


def test_a_plan_may_name_the_studys_own_loss(priced, monkeypatch):
    # what a study registers stays here
    monkeypatch.setattr(losses, "_LOSSES", dict(losses._LOSSES))

    def own_loss(student_logits, teacher_logits):
        return ((student_logits - teacher_logits) ** 2).mean()

    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, knowledge=own_loss)
    study = tiny(recipe=recipe, out=priced.run.folder.parent / "own")
    study.run.save("prices", PRICES)
    phases = (Phase(knowledge=study.knowledge["own"]),)
    study.run.save("plan", planned(stage(2, "student", (0,), phases=phases)))
    assert quote(study, ("distill",)).lines[-1].cost.student_trainings == 1 + 1 + 1


def test_another_studys_folder_lends_no_prices(priced):
    other = tiny(seed=1, out=priced.run.folder)
    with pytest.raises(InputError, match="seed was 0, is 1"):
        quote(other)
    assert not other.run.manifest


def test_without_a_folder_prices_are_measured_and_nothing_is_written(tmp_path):
    study = tiny(out=tmp_path / "run")
    found = costs(quote(study, diagnose_budget=1))
    assert not (tmp_path / "run").exists()
    assert found["student"].student_trainings == 1.0
    assert found["student"].seconds > 0
    # forward and twice that backward of 96 samples in 2 epochs, and the teacher's forward once
    student, teacher = (2 * (4 * width + width * 3) for width in (2, 16))
    assert found["student"].flops == 3 * 2 * 96 * student + 96 * teacher


def test_the_table_lines_up_and_says_the_unit(priced):
    lines = str(quote(priced, ("plan",), plan_budget=100)).splitlines()
    assert lines[0] == "Work for tiny on cpu; one student training is the unit (seconds)."
    table = lines[1:6]
    assert [line.split()[0] for line in table] == ["work", "teacher", "student", "plan", "total"]
    assert len({len(line) for line in table}) == 1
    assert "100.0" in table[3]
    assert "16.7 min" in table[3]  # 1000 s
    assert "10 s" in table[2]
    assert "  plan: at most" in lines


def test_a_quote_is_read_back_as_it_was(priced):
    found = quote(priced)
    assert Quote.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValueError, match="Extra inputs"):
        Line(name="x", what="", cost=Cost(), price=3)
