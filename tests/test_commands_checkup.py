"""gapkit check: one batch through everything, and every mistake by name; the file that init writes passes."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit.commands.checkup import Checkup, checkup
from gapkit.commands.studyfile import load_study
from gapkit.commands.template import filled
from tests.tiny_study import blobs, build, tiny


def wrong(found: Checkup) -> list[str]:
    return [f"{item.name}: {item.said}" for item in found.items if item.state == "wrong"]


def test_a_sound_study_passes_and_says_what_it_saw():
    found = checkup(tiny())
    assert found.passed
    text = str(found)
    assert text.startswith("tiny on cpu: ready to run\n")
    for said in ("train 96, validation 24, test 120 samples", "both models see 8×4 float32",
                 "student (fresh: none given)", "answers 8×3 float32", "parameters by size 2: "):  # fmt: skip
        assert said in text
    assert [item.name for item in found.items if item.name == "layers"] == ["layers", "layers"]


def test_nothing_is_written_and_models_stay_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = build(16).train()
    before = copy.deepcopy(teacher.state_dict())
    checkup(tiny(teacher=teacher))
    assert list(tmp_path.iterdir()) == []
    assert teacher.training
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(part.grad is None for part in teacher.parameters())


class Batchwise(nn.Module):
    """Answers relative to the batch's mean, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build(4)

    def forward(self, x):
        return self.net(x - x.mean(0))


class Restless(nn.Module):
    """Dropout that is on in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build(4)

    def forward(self, x):
        return self.net(nn.functional.dropout(x, 0.5, training=True))


class Cut(nn.Module):
    """A graph cut before the head: nothing below it learns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = build(width)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return (self.net(x) + 0 * self.bias).detach().requires_grad_()


def infinite() -> nn.Module:
    model = build(16)
    model[2].bias.data[0] = torch.inf
    return model


NARROW = {2: 5}


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"teacher": nn.Linear(7, 3)}, "models: Expected the teacher on train to accept its view"),
        ({"student": build(2, n_classes=4)}, "models: Expected teacher and student to have the same classes"),
        ({"teacher": infinite()}, "not finite"),
        ({"student": Batchwise()}, "modes: student: .* depends on the others in its batch"),
        ({"teacher": Restless()}, "modes: teacher: .* other answers the second time"),
        ({"layers": {"teacher": ["3.nope"]}}, "layers: teacher: "),
        ({"family": gk.Family(lambda width: build(width, NARROW.get(width, 3)), sizes=[2, 4, 16],
                              student=2, teacher=16)}, "family: Expected every size to answer"),
        ({"family": gk.Family(Cut, sizes=[2, 4, 16], student=2, teacher=16)},
         "training: .*no gradient reaches the student"),
        ({"data": gk.Data(train=TensorDataset(*blobs(60, 1)), test=TensorDataset(*blobs(60, 2)),
                          student_input=lambda batch: batch[0][:, :2])}, "to accept its view"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(changes, match):
    found = checkup(tiny(**changes))
    assert not found.passed
    said = wrong(found)
    assert any(re.search(match, line) for line in said), said


def test_all_mistakes_are_said_at_once():
    found = checkup(tiny(student=Batchwise(), layers={"teacher": ["nope"], "student": ["nope"]}))
    said = wrong(found)
    assert len(said) == 3
    assert str(found).splitlines()[0] == "tiny on cpu: 3 things to mend"


def test_what_follows_from_another_mistake_is_not_said_again():
    found = checkup(tiny(teacher=nn.Linear(7, 3), layers={"student": ["nope"]}))
    assert [item.name for item in found.items if item.state == "wrong"] == ["models"]
    left = [item.name for item in found.items if item.said.startswith("not tried")]
    assert left == ["modes", "layers", "training"]


def test_a_recipe_of_another_kind_of_task_is_named():
    train, test = ((x, x[:, :3]) for x, _ in (blobs(60, 1), blobs(60, 2)))
    data = gk.Data(train=TensorDataset(*train), test=TensorDataset(*test))
    found = checkup(tiny(task=gk.Regression(), data=data))
    (said,) = wrong(found)
    assert said.startswith(
        "training: Expected Recipe(knowledge=...) for a task of regression, one of "
    )
    assert "but got 'kl4'" in said


def test_views_that_differ_are_both_said():
    data = gk.Data(
        train=TensorDataset(*blobs(60, 1)), test=TensorDataset(*blobs(60, 2)),
        student_input=lambda batch: {"x": batch[0]},
    )  # fmt: skip
    found = checkup(tiny(data=data, student=None))
    said = str(found)
    assert "the teacher sees 8×4 float32, the student {x: 8×4 float32}" in said


def test_the_file_that_init_writes_runs_as_it_is(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(filled("mine", path.name), encoding="utf-8")
    found = checkup(load_study(path))
    assert found.passed, str(found)
    assert found.study == "mine"
    assert path.read_text(encoding="utf-8").count("# <--") >= 8
