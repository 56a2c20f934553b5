"""The README's Python runs as it stands, and what it names exists."""

from __future__ import annotations

import ast
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gapkit.probes.layer_map import cka_map

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def mine() -> types.ModuleType:
    """A user's module: a two-layer perceptron of any width on points around three centers."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    points = torch.eye(3)[labels] + 0.4 * torch.randn(240, 3, generator=rng)
    module = types.ModuleType("mine")

    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 3))

    torch.manual_seed(0)
    parts = {
        "build": build,
        "teacher": build(128),
        "student": build(16),
        "train_set": TensorDataset(points[:160], labels[:160]),
        "test_set": TensorDataset(points[160:], labels[160:]),
    }
    optimizer = torch.optim.Adam(parts["teacher"].parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(parts["teacher"](points[:160]), labels[:160]).backward()
        optimizer.step()
    vars(module).update(parts)
    return module


@pytest.mark.slow
def test_the_example_with_own_models_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mine", mine())
    found: dict = {}
    exec(compile(BLOCKS[0], "README", "exec"), found)
    assert (tmp_path / "gap.pdf").read_bytes().startswith(b"%PDF")
    assert isinstance(found["out"].student, nn.Module)
    assert found["gap"].cause in capsys.readouterr().out


def test_the_single_measures_say_what_the_comments_say():
    found: dict = {}
    torch.manual_seed(0)
    values = []
    for statement in ast.parse(BLOCKS[1]).body:
        if isinstance(statement, ast.Expr):
            values.append(eval(ast.unparse(statement), found))
        else:
            exec(ast.unparse(statement), found)
    unrelated, rotated, accuracy, check = values
    assert abs(unrelated) < 0.05
    assert rotated == pytest.approx(1, abs=1e-5)
    assert accuracy > 0.85
    assert not check.ok


def test_sums_of_shards_are_those_of_the_whole():
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(4, w), nn.Tanh(), nn.Linear(w, 3)) for w in (8, 5))
    x = torch.randn(300, 4)
    shards = [x[:100].split(50), x[100:].split(64)]
    found: dict = {"teacher": teacher, "student": student, "shards": shards}
    exec(compile(BLOCKS[2], "README", "exec"), found)
    whole = cka_map(teacher, student, [x])
    np.testing.assert_allclose(found["similarity"].values, whole.values, atol=1e-6)
    assert found["match_layers"](whole).pairs


def test_the_tree_names_every_file_of_every_folder_and_no_other():
    tree = README.split("## The tree")[1]
    shown: dict[str, list[str]] = {}
    for indent, name in re.findall(r"^( *)([\w/]+(?:\.py|/)) ", tree, re.MULTILINE):
        if not indent:
            files = shown.setdefault(name.rstrip("/"), [])
        else:
            files.append(name)
    rooms = [f"gapkit/{path.parent.name}" for path in (ROOT / "gapkit").glob("*/__init__.py")]
    rooms = [room for room in rooms if not (ROOT / room).is_symlink()]
    for folder in ("gapkit", *rooms, "probes", "reports", "examples", "benchmarks"):
        there = sorted(path.name for path in (ROOT / folder).glob("*.py"))
        assert shown[folder] == [name for name in there if name != "__init__.py"]


def test_every_command_that_is_shown_exists():
    shown = set(re.findall(r"^gapkit (\w+) study.py", README, re.MULTILINE))
    from gapkit.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert len(shown) >= 6
    assert shown <= known
