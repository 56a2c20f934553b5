"""Stages of every kind, carried out from a plan on real trainings, and killed at any moment."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gapkit import distiller
from tests.stage_fixtures import N_KILLS, carry_out

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=["kept", "augmented"])
def carried_out(request, tmp_path_factory):
    """The plan, carried out without a kill; what that shortens is as it was for later tests."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SAVE_SECONDS", "CHECK_STEPS"):
            patch.setattr(distiller, name, getattr(distiller, name))
        return request.param, folder, carry_out(folder, request.param == "augmented")


def test_every_stage_is_carried_out_as_it_says(carried_out):
    _, _, outcome = carried_out
    found = {stage.name: stage for stage in outcome.stages}
    assert list(found) == ["assistant", "peers", "exits", "student"]
    assert found["assistant"].training.path == (16, 4)
    assert found["student"].training.path == (16, 2)
    assert found["student"].training.notes == ("inherited 4 of 4 tensors (3 sliced)",)
    peers = found["peers"].training
    assert len(peers.peer_scores) == 3
    assert peers.score == max(peers.peer_scores[:2])  # the best of its size, not the wider one
    for stage in outcome.stages:
        assert all(training.epochs == 60 for training in stage.trainings)
        assert stage.training.score > 0.4  # a third would be chance


def rows(folder, training):
    with (folder / "trainings" / training.key / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_log_tells_phases_terms_and_balance(carried_out):
    _, folder, outcome = carried_out
    table = rows(folder, outcome.stages[0].training)
    assert [int(row["epoch"]) for row in table] == list(range(1, 61))
    early, late = table[:24], table[24:]
    assert all(row["hint 0→0"] and not row["kl"] for row in early)
    assert all(row["kl"] and not row["hint 0→0"] for row in late)
    assert all(float(row["balance of labels"]) > 0 for row in late)
    steps = [int(row["step"]) for row in table]
    per_epoch = [b - a for a, b in zip([0, *steps], steps)]
    assert per_epoch[0] == 2  # 29 of 96 samples: two batches of 16, the rest too few
    assert per_epoch[:24] == sorted(per_epoch[:24])
    assert set(per_epoch[23:]) == {6}
    peers = rows(folder, outcome.stages[1].training)[0]
    assert {f"kl of peer {i}" for i in (1, 2, 3)} <= peers.keys()
    assert {"kl of exit 1", "labels"} <= rows(folder, outcome.stages[2].training)[0].keys()


def test_only_results_are_left(carried_out):
    kind, folder, _ = carried_out
    names = {path.name for path in folder.glob("trainings/*/*")}
    assert not [name for name in names if "checkpoint" in name]
    assert (folder / "answers").exists() == (kind == "kept")


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_weights(carried_out, tmp_path):
    kind, whole, _ = carried_out
    done = subprocess.run(
        [sys.executable, "-m", "tests.stage_fixtures", str(tmp_path / "run"), kind],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kills = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("killed")]
    assert len(kills) == N_KILLS
    struck = {name for kill in kills for name in kill}
    assert len(struck) >= 3, struck  # trainings that were killed and went on
    ours, theirs = (
        {path.parent.name: path for path in folder.glob("trainings/*/weights.safetensors")}
        for folder in (tmp_path / "run", whole)
    )
    assert ours.keys() == theirs.keys()
    assert struck <= ours.keys()
    for name in theirs:
        first, second = load_file(ours[name]), load_file(theirs[name])
        assert all(torch.equal(first[key], second[key]) for key in second), name
        curves = [
            json.loads((path.parent / "training.json").read_text())["score"]
            for path in (ours[name], theirs[name])
        ]
        assert curves[0] == curves[1]
