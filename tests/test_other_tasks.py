"""Every kind of task from data to a PDF: measured, diagnosed, planned, distilled, reported."""

from __future__ import annotations

import io

import pytest
import torch
from pypdf import PdfReader
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.knowledge import MENUS, knowledge_named
from gapkit.plans import Cost, Predicted
from gapkit.teaching.objective import refusal
from gapkit.teaching.taps import Answer

N, WIDTH, N_OUT = 240, 8, 3


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, width), nn.Tanh(), nn.Linear(width, N_OUT))


class PerToken(nn.Module):
    """The same network on every token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = build(width)

    def forward(self, x):
        return self.net(x)


def trained(model: nn.Module, task, x, targets) -> nn.Module:
    """The model after some steps on labels, where there are any."""
    if targets is not None:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            task.loss(model(x), targets).backward()
            optimizer.step()
    return model


def study(kind: str, out, knowledge="scratch", epochs: int = 1) -> gk.Study:
    draw = torch.Generator().manual_seed(0)
    shape = (N, 4, WIDTH) if kind == "tokens" else (N, WIDTH)
    x = torch.randn(*shape, generator=draw)
    true = torch.tanh(x @ torch.randn(WIDTH, N_OUT, generator=draw))
    targets = {
        "multilabel": (true > 0.3).long(),
        "regression": true,
        "embedding": None,
        "tokens": true.argmax(-1),
    }[kind]
    if kind == "tokens":
        targets[torch.rand(N, 4, generator=draw) < 0.3] = -100
    tasks = {
        "multilabel": gk.MultiLabel(),
        "regression": gk.Regression(),
        "embedding": gk.Embedding(),
        "tokens": gk.Classification(),
    }
    data = TensorDataset(x) if targets is None else TensorDataset(x, targets)
    make = PerToken if kind == "tokens" else build
    torch.manual_seed(0)
    return gk.Study(
        name=kind,
        task=tasks[kind],
        teacher=trained(make(32), tasks[kind], x, targets),
        student=make(2),
        data=gk.Data(train=data, validation=data, test=data),
        family=gk.Family(make, sizes=[2, 8, 32], student=2, teacher=32),
        recipe=gk.Recipe(epochs=epochs, batch_size=40, lr=1e-2, knowledge=knowledge),
        reduce="tokens" if kind == "tokens" else "gap",
        device="cpu",
        out=out,
    )


@pytest.mark.parametrize("kind", ["multilabel", "regression", "embedding", "tokens"])
def test_a_task_of_any_kind_is_measured_and_reported(kind, tmp_path):
    work = study(kind, tmp_path / "run")
    found = work.measure()
    score = work.task.score_name
    teacher, student = (found.get(score, of=of, split="test") for of in ("teacher", "student"))
    gap = found.get("gap", of="pair", split="test")
    assert gap.value == pytest.approx(teacher.value - student.value)
    assert found.cka.values.shape == (2, 2)
    assert found.has("agreement", of="pair", split="test")
    assert found.has("distance_structure", of="pair", split="test")
    probed = found.has("linear_probe", of="student", split="test")
    assert probed == (kind != "embedding")
    if kind == "tokens":
        assert found.cka.n == N * 4
        assert "groups" in found.get("kl", of="pair", split="test").estimator
    verdict = work.diagnose(controls=False)
    assert verdict.cause == "undetermined"
    assert teacher.value > found.get("chance", of="pair", split="test").value
    assert teacher.value > student.value
    work.report(tmp_path / "gap.pdf")
    text = PdfReader(io.BytesIO((tmp_path / "gap.pdf").read_bytes())).pages[0].extract_text()
    assert score.replace("_", " ") in text


@pytest.mark.parametrize(
    "kind, own", [("multilabel", "kl1"), ("regression", "mse"), ("tokens", "kl4")]
)
def test_a_task_of_any_kind_is_diagnosed_planned_and_distilled(kind, own, tmp_path):
    work = study(kind, tmp_path / "run", knowledge=own, epochs=10)
    verdict = work.diagnose(budget=4)
    assert own in {run.recipe for run in verdict.controls}
    plan = work.plan(budget=3)
    outcome = work.distill(plan)
    assert outcome.score.value > outcome.before.value  # the failing student is untrained
    assert outcome.stages[-1].training.recipe in MENUS[work.task.kind]


def test_without_targets_an_embedding_is_distilled_by_a_plan_of_ones_own(tmp_path):
    work = study("embedding", tmp_path / "run", knowledge="cosine")
    for verb in (work.diagnose, work.plan):
        with pytest.raises(gk.InputError, match="Expected targets for controls and plans"):
            verb()
    knowledge = (
        *knowledge_named("cosine", "embedding"),
        gk.Knowledge(kind="relation", loss="similarity_preserving"),
    )
    stage = gk.Stage(
        name="student",
        size=2,
        sources=("teacher",),
        recipe={"epochs": 20},
        phases=(gk.Phase(knowledge=knowledge),),
    )
    nothing = Predicted(low=0, value=0, high=0)
    plan = gk.Plan(
        study="embedding", stages=(stage,), predicted=nothing, predicted_run=nothing, cost=Cost()
    )
    outcome = work.distill(plan)
    assert outcome.score.value > outcome.before.value + 0.1
    assert outcome.teacher.value == 1


def test_knowledge_of_another_task_is_refused_before_anything_is_trained(tmp_path):
    work = study("regression", tmp_path / "run", knowledge="kl4")
    for verb in (work.diagnose, work.plan):
        with pytest.raises(gk.InputError, match="for a task of regression, one of scratch, mse"):
            verb()
    assert not (tmp_path / "run" / "trainings").exists()


def two_classes(n: int, seed: int):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    return TensorDataset(torch.eye(2, 4)[y] * 1.5 + torch.randn(n, 4, generator=draw), y)


def test_mixtures_that_need_more_classes_are_left_out_and_named(tmp_path):
    work = gk.Study(
        name="two",
        task=gk.Classification(),
        data=gk.Data(train=two_classes(120, 1), test=two_classes(120, 2)),
        family=gk.Family(
            lambda w: nn.Sequential(nn.Linear(4, w), nn.ReLU(), nn.Linear(w, 2)),
            sizes=[2, 4, 16],
            student=2,
            teacher=16,
        ),
        recipe=gk.Recipe(epochs=2, batch_size=16, lr=0.05),
        device="cpu",
        out=tmp_path / "run",
    )
    assert set(work.knowledge) == {"scratch", "kl4", "kl1"}
    verdict = work.diagnose(budget=4)
    told = [
        note for note in verdict.notes if note.startswith("Not tried: dist1. Expected at least 3")
    ]
    assert len(told) == 1
    assert work.distill(work.plan(budget=2)).score.value > 0.5


@pytest.mark.parametrize("task", [gk.Regression(), gk.MultiLabel()])
@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 2), (8, 5)])
def test_whatever_the_menu_offers_can_be_learned_from(task, shape):
    if task.kind == "multilabel" and len(shape) == 1:
        shape = (8, 1)
    outputs = task.outputs(torch.randn(shape, requires_grad=True))
    offered = [
        parts for parts in MENUS[task.kind].values() if not refusal(task, parts, outputs.detach())
    ]
    assert len(offered) >= 2
    targets = (torch.randn(outputs.shape) > 0).float()
    for parts in offered:
        terms = gk.Objective(task, parts).terms(
            Answer(outputs, {}), [Answer(torch.randn(outputs.shape), {})], targets
        )
        assert all(term.value.isfinite() for term in terms)


def test_an_embedding_of_another_width_is_measured_and_distilled(tmp_path):
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(120, WIDTH, generator=draw))
    torch.manual_seed(0)
    narrow = lambda w: nn.Sequential(nn.Linear(WIDTH, w), nn.Tanh())  # noqa: E731
    work = gk.Study(
        name="narrow",
        task=gk.Embedding(),
        teacher=narrow(12),
        student=narrow(3),
        data=gk.Data(train=data, validation=data, test=data),
        family=gk.Family(narrow, sizes=[3, 12], student=3, teacher=12),
        recipe=gk.Recipe(epochs=30, batch_size=40, lr=1e-2, knowledge="cosine"),
        device="cpu",
        out=tmp_path / "run",
    )
    stage = gk.Stage(
        name="student",
        size=3,
        sources=("teacher",),
        phases=(gk.Phase(knowledge=knowledge_named("cosine", "embedding")),),
    )
    nothing = Predicted(low=0, value=0, high=0)
    outcome = work.distill(
        gk.Plan(
            study="narrow", stages=(stage,), predicted=nothing, predicted_run=nothing, cost=Cost()
        )
    )
    assert outcome.score.value > outcome.before.value
