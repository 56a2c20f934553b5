"""The code of docs/own_loop.md runs as it stands, and students learn by it."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gapkit import losses

PAGE = (Path(__file__).parents[1] / "docs" / "own_loop.md").read_text(encoding="utf-8")
SECTIONS = {
    heading: re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    for heading, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
OWN, PLAIN, LIGHTNING, TRAINER = SECTIONS


@pytest.fixture(autouse=True)
def _register_restored():
    known = dict(losses._LOSSES)
    yield
    losses._LOSSES.clear()
    losses._LOSSES.update(known)


def run(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a section's code leaves behind."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"__name__": "own_loop"}
    exec(compile(SECTIONS[heading][0], f"own_loop.md, {heading}", "exec"), found)
    return found


def reset(model: nn.Module) -> nn.Module:
    """A copy with fresh weights."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return model


def by_hand(found: dict[str, Any], student: nn.Module, regressor: nn.Module) -> torch.Tensor:
    """The knowledge of the two snippets with hints, written out."""
    x, y, teacher = found["x"], found["y"], found["teacher"]
    ours, theirs = student[:2](x), teacher[:2](x).detach()
    p, q = F.log_softmax(student(x) / 4, 1), F.log_softmax(teacher(x).detach() / 4, 1)
    soft = 16 * F.kl_div(p, q, reduction="batchmean", log_target=True)
    hint = F.mse_loss(regressor(ours), theirs)
    return 0.1 * F.cross_entropy(student(x), y) + 0.9 * soft + 0.5 * hint


def test_every_section_has_one_block_and_no_block_is_left_out():
    assert [len(blocks) for blocks in SECTIONS.values()] == [1, 1, 1, 1]
    assert PAGE.count("```") == 2 * len(SECTIONS)


def test_a_loss_of_ones_own(tmp_path, monkeypatch, capsys):
    found = run(OWN, tmp_path, monkeypatch)
    faulty, mended = capsys.readouterr().out.splitlines()
    comments = re.findall(r"print\(.*\)  # (.*)", SECTIONS[OWN][0])
    assert comments[0].removesuffix(" ...") in faulty
    assert mended.endswith(comments[1])
    zs, zt = torch.randn(2, 5, 3)
    expected = 16 * F.kl_div(F.log_softmax(zs / 4, 1), F.softmax(zt / 4, 1), reduction="batchmean")
    torch.testing.assert_close(found["objective"](zs, zt), expected)


def test_plain_pytorch(tmp_path, monkeypatch):
    found = run(PLAIN, tmp_path, monkeypatch)
    history, student, teacher = found["history"], found["student"], found["teacher"]
    assert history[-1] < 0.7 * history[0]
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())
    assert not teacher.training
    assert all(weight.grad is None for weight in teacher.parameters())
    objective = found["objective"]
    (regressor,) = objective.regressors.values()
    with torch.no_grad(), objective.watch(student, teacher, found["x"][:2]):
        again = objective(student(found["x"]), teacher(found["x"]), found["y"])
    torch.testing.assert_close(again, by_hand(found, student, regressor.map))
    steps = {float(state["step"]) for state in found["optimizer"].state.values()}
    assert steps == {80.0}  # regressors too
    assert len(found["optimizer"].state) == len([*student.parameters(), *regressor.parameters()])


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # Lightning's own
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # rows in memory need none
def test_lightning(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    found = run(LIGHTNING, tmp_path, monkeypatch)
    module, student = found["module"], found["student"]
    (regressor,) = module.objective.regressors.values()
    end = by_hand(found, student, regressor.map).item()
    start = by_hand(found, reset(student), reset(regressor.map)).item()
    assert end < 0.7 * start
    assert end == pytest.approx(found["trainer"].callback_metrics["loss"].item(), rel=0.1)
    names = set(module.state_dict())
    assert {name.partition(".")[0] for name in names} == {"student", "objective"}
    assert not found["teacher"].training
    assert not any(inner._forward_hooks for inner in student.modules())


def test_hugging_face_trainer(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    found = run(TRAINER, tmp_path, monkeypatch)
    history, ids = found["history"], found["ids"]
    assert len(history) == 5
    assert history[-1] < history[0]
    student, teacher = found["student"].eval(), found["teacher"]
    torch.manual_seed(0)
    fresh = found["causal"](1).eval()

    def loss(model: nn.Module) -> float:
        """KL at temperature 1 and a tenth of labels, on tokens that have a successor."""
        with torch.no_grad():
            p, q = (
                F.log_softmax(each(ids).logits[:, :-1].flatten(0, 1), 1)
                for each in (model, teacher)
            )
        soft = F.kl_div(p, q, reduction="batchmean", log_target=True)
        return float(0.9 * soft + 0.1 * F.nll_loss(p, ids[:, 1:].flatten()))

    assert loss(student) < 0.95 * loss(fresh)
    assert history[-1] == pytest.approx(loss(student), rel=0.1)
    assert not teacher.training
