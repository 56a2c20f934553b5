"""A training's log is a table that grows columns, survives resuming, and is what TensorBoard shows."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from gapkit.distiller import Loop
from gapkit.task import Classification
from gapkit.training.heard import Means, Pending
from gapkit.training.traininglog import TrainingLog
from tests.training_fixtures import make_job, plain, point_data, trained

FIRST = {"epoch": 1, "step": 8, "seconds": 0.5, "lr": 0.1, "loss": 2.0, "kl": 3.0}
SECOND = {"epoch": 2, "step": 16, "seconds": 1.0, "lr": 0.05, "loss": 1.5, "hint 1→2": 0.25}
THIRD = {"epoch": 3, "step": 24, "loss": 1.0, "kl": 0.5, "score": 0.875}


@pytest.fixture(autouse=True)
def _no_tensorboard(request, monkeypatch):
    if "tensorboard" not in request.fixturenames:
        found = importlib.util.find_spec

        def find_spec(name, *more):
            return None if name == "tensorboard" else found(name, *more)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.fixture
def tensorboard():
    """Folder -> {tag: [(step, value), ...]}, read back by TensorBoard itself."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(folder):
        shown = EventAccumulator(str(folder / "tensorboard"))
        shown.Reload()
        return {
            tag: [(event.step, event.value) for event in shown.Scalars(tag)]
            for tag in shown.Tags()["scalars"]
        }

    return read


def table(folder):
    with (folder / "log.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def log_of(folder, *rows):
    log = TrainingLog(folder)
    for row in rows:
        log.add(row)
    return log


# The table


def test_columns_that_come_later_are_empty_before(tmp_path):
    log_of(tmp_path / "new", FIRST, SECOND, THIRD).write()
    rows = table(tmp_path / "new")
    assert list(rows[0]) == [
        *("epoch", "step", "seconds", "lr", "loss", "score"),
        *("kl", "hint 1→2"),
    ]
    for row, given in zip(rows, (FIRST, SECOND, THIRD), strict=True):
        assert {name: value for name, value in row.items() if value} == {
            name: str(value) for name, value in given.items()
        }


def test_a_row_is_kept_as_it_was_when_added(tmp_path):
    row = dict(FIRST)
    log = log_of(tmp_path, row)
    row["loss"] = 99.0
    log.write()
    assert table(tmp_path)[0]["loss"] == "2.0"


def test_writing_again_repeats_nothing(tmp_path):
    log = log_of(tmp_path, FIRST)
    log.write()
    log.write()
    log.add(SECOND)
    log.write()
    assert [row["step"] for row in table(tmp_path)] == ["8", "16"]


def test_a_log_without_rows_is_an_empty_table(tmp_path):
    TrainingLog(tmp_path).write()
    assert table(tmp_path) == []


def test_a_resumed_log_goes_on_from_the_checkpoints_rows(tmp_path):
    log_of(tmp_path, FIRST, SECOND, THIRD).write()  # ended after the checkpoint of step 16
    kept = json.loads(json.dumps([FIRST, SECOND]))
    resumed = TrainingLog(tmp_path, kept)
    resumed.add(THIRD | {"loss": 0.5})
    resumed.write()
    assert [(row["step"], row["loss"]) for row in table(tmp_path)] == [
        ("8", "2.0"),
        ("16", "1.5"),
        ("24", "0.5"),
    ]
    assert kept == [FIRST, SECOND]


def test_nan_is_written_as_it_is(tmp_path):
    log_of(tmp_path, FIRST | {"score": float("nan")}).write()
    assert math.isnan(float(table(tmp_path)[0]["score"]))


def test_a_stopped_training_has_the_rows_of_an_unstopped_one(tmp_path):
    data = point_data()
    trained(make_job(tmp_path / "whole", data, build=plain), data)
    loop = Loop(make_job(tmp_path / "part", data, build=plain), Classification(), data, "cpu")
    for epoch in range(2):
        loop.epoch(epoch)
    loop.save()
    loop.epoch(2)  # lost
    trained(make_job(tmp_path / "part", data, build=plain), data)
    whole, part = ([_without_clock(row) for row in table(tmp_path / n)] for n in ("whole", "part"))
    assert part == whole
    assert [row["epoch"] for row in whole] == ["1", "2", "3", "4"]
    assert [row["step"] for row in whole] == ["5", "10", "15", "20"]
    assert set(whole[0]) == {"epoch", "step", "lr", "loss", "score", "kl", "labels"}
    for row in whole:
        assert float(row["loss"]) == pytest.approx(
            0.9 * float(row["kl"]) + 0.1 * float(row["labels"])
        )


def _without_clock(row):
    return {name: value for name, value in row.items() if name != "seconds"}


# TensorBoard


def test_tensorboard_shows_what_the_table_holds(tmp_path, tensorboard):
    log_of(tmp_path, FIRST, SECOND, THIRD | {"note": "words"}).write()
    assert tensorboard(tmp_path) == {
        "seconds": [(8, 0.5), (16, 1.0)],
        "lr": [(8, pytest.approx(0.1)), (16, pytest.approx(0.05))],
        "loss": [(8, 2.0), (16, 1.5), (24, 1.0)],
        "kl": [(8, 3.0), (24, 0.5)],
        "hint 1→2": [(16, 0.25)],
        "score": [(24, 0.875)],
    }


def test_tensorboard_gets_each_row_once(tmp_path, tensorboard):
    log = log_of(tmp_path, FIRST)
    log.write()
    log.write()
    written = set((tmp_path / "tensorboard").iterdir())
    assert len(written) == 1
    log.add(SECOND)
    log.write()
    log.close()
    assert tensorboard(tmp_path)["loss"] == [(8, 2.0), (16, 1.5)]
    assert set((tmp_path / "tensorboard").iterdir()) == written  # one file a training


def test_tensorboard_is_not_shown_the_checkpoints_rows_again(tmp_path, tensorboard):
    resumed = TrainingLog(tmp_path, [FIRST, SECOND])
    resumed.write()
    assert not (tmp_path / "tensorboard").exists()
    resumed.add(THIRD)
    resumed.write()
    assert tensorboard(tmp_path)["loss"] == [(24, 1.0)]


def test_tensorboard_forgets_steps_that_were_trained_again(tmp_path, tensorboard):
    log_of(tmp_path, FIRST, SECOND, THIRD).write()
    resumed = TrainingLog(tmp_path, [FIRST, SECOND])
    resumed.add(THIRD | {"loss": 0.5})
    resumed.write()
    assert tensorboard(tmp_path)["loss"] == [(8, 2.0), (16, 1.5), (24, 0.5)]


def test_without_tensorboard_nothing_of_it_is_imported(tmp_path):
    code = (
        "import importlib.util, sys\n"
        "from pathlib import Path\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'tensorboard' else real(name)\n"
        "from gapkit.training.traininglog import TrainingLog\n"
        f"log = TrainingLog(Path({str(tmp_path)!r}))\n"
        f"log.add({FIRST!r})\n"
        "log.write()\n"
        "print([name for name in sys.modules if 'tensorboard' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


# What has been heard


def test_means_are_over_all_rows_of_a_name():

    means = Means()
    means.add(("loss", "kl"), np.array([[1.0, 2.0], [3.0, 6.0]]))
    means.add(("loss", "hint"), np.array([[8.0, 5.0]]))
    assert means.values() == {"loss": 4.0, "kl": 4.0, "hint": 5.0}
    assert Means().values() == {}
    assert Means(means.sums, means.counts).values() == means.values()


def test_pending_losses_are_rows_until_they_are_cleared():

    pending = Pending()
    for step in range(3):
        pending.add(("loss", "kl"), torch.tensor([step, 2.0 * step]), np.array([step, 9]))
    assert pending.names == ("loss", "kl")
    assert pending.rows().tolist() == [[0, 0], [1, 2], [2, 4]]
    assert pending.rows().dtype == torch.float64
    assert [positions.tolist() for positions in pending.positions] == [[0, 9], [1, 9], [2, 9]]
    pending.clear()
    assert (pending.values, pending.positions) == ([], [])
