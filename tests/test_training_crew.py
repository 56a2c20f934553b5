"""Several processes train as one with the larger batch, and the first alone decides and writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gapkit.errors import InputError
from gapkit.training.crew import Crew
from gapkit.training.engine import launch
from tests.crew_fixtures import NAMES, job, train
from tests.training_fixtures import make_job, noisy_net, point_data

ROOT = Path(__file__).parents[1]


def alone():
    """The environment without what tells a process its place among several."""
    told = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    return {key: value for key, value in os.environ.items() if key not in told} | {
        "OMP_NUM_THREADS": "1"
    }


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Weights that two gloo processes of 8 samples a batch end with."""
    folder = tmp_path_factory.mktemp("together")
    done = subprocess.run(
        [sys.executable, "-m", "tests.crew_fixtures", str(folder)],
        cwd=ROOT,
        env=alone(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "together.pt", weights_only=True), folder


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return train(tmp_path_factory.mktemp("single"), 16)


@pytest.mark.parametrize("case", NAMES)
def test_two_processes_are_one_with_the_doubled_batch(together, single, case, tmp_path):
    ours, theirs = together[0][case], single[case]
    assert all((ours[name] - theirs[name]).abs().max() < 1e-7 for name in theirs)
    first = job(case, tmp_path, 16)[0].model.state_dict()
    assert max((theirs[name] - first[name]).abs().max() for name in first) > 0.01  # it trained
    if case not in ("kl", "accumulate"):
        other = single["kl"]
        if [w.shape for w in other.values()] == [w.shape for w in theirs.values()]:
            assert max((a - b).abs().max() for a, b in zip(other.values(), theirs.values())) > 1e-4


def test_two_processes_go_on_within_an_epoch_with_their_own_random_states(together):
    whole, resumed = (together[0][name] for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    first = make_job(together[1] / "x", point_data(160), build=noisy_net).model.state_dict()
    assert max((whole[n].double() - first[n].double()).abs().max() for n in first) > 0.01


def test_the_first_process_alone_writes(together):
    for case in NAMES:
        logs = {path.name for path in (together[1] / case).iterdir()}
        assert "log.csv" in logs
        assert logs <= {"log.csv", "tensorboard"}
        assert len(list((together[1] / case).glob("tensorboard/*"))) <= 1


def test_a_crew_of_one_is_no_crew():
    crew = Crew()
    rows = torch.ones(2, 3, requires_grad=True)
    assert crew.gather(rows) is rows
    assert crew.collect(b"state") == [b"state"]
    assert crew.tell({"a": 1}) is None
    assert launch(1, "ddp", "cpu") == launch(0, "ddp", "cpu") == crew


@pytest.mark.parametrize(
    "given, match",
    [
        ((2, "fsdp", "cpu"), "Expected GPUs for strategy 'fsdp' but the device is 'cpu'"),
        ((2, "dpd", "cpu"), "Expected strategy 'ddp' or 'fsdp' but got 'dpd'"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(given, match):
    with pytest.raises(InputError, match=match):
        launch(*given)


def test_another_number_than_was_started_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="--devices 4, the processes that were started, but got 2"):
        launch(2, "ddp", "cpu")


def test_batch_norm_of_several_processes_is_announced(tmp_path, caplog, monkeypatch):
    from gapkit.distiller import Loop

    loop = Loop.__new__(Loop)
    loop.crew, loop.module = Crew(0, 2, "ddp"), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    loop.job = job("labels", tmp_path, 8)[0]
    loop._say_batch_norm()
    assert "BatchNorm sees each process' own 8 samples" in caplog.text
    assert "16 samples a batch" in caplog.text
    caplog.clear()
    loop.module = nn.Linear(2, 2)
    loop._say_batch_norm()
    assert caplog.text == ""


STUDY = """
torch.set_num_threads(1)
study = tiny(recipe=gk.Recipe(epochs=2, batch_size={batch}, lr=0.05, precision="64-true"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--devices", "torchrun"])
def test_the_command_line_starts_them_and_ends_with_the_same_weights(tmp_path, how):
    """`gapkit run --devices 2` against one process with the doubled batch: teacher, student, plan."""
    from safetensors.torch import load_file

    from tests.tiny_study import study_file

    ends = {}
    for name, batch in (("one", 16), ("two", 8)):
        path = study_file(tmp_path, STUDY.format(batch=batch), f"{name}.py")
        command = [sys.executable, "-m"]
        if name == "two" and how == "torchrun":
            command += ["torch.distributed.run", "--nproc_per_node", "2", "-m"]
        command += ["gapkit", "diagnose", str(path), "--out", str(tmp_path / name), "--budget", "1"]
        if name == "two" and how == "--devices":
            command += ["--devices", "2"]
        env = alone() | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "kept in" in done.stdout
        assert done.stdout.count("kept in") == 1  # the second process says nothing
        files = sorted((tmp_path / name / "trainings").glob("*/weights.safetensors"))
        ends[name] = {path.parent.name.rsplit("-", 1)[0]: load_file(path) for path in files}
    shared = ends["one"].keys() & ends["two"].keys()
    assert {"16-s0", "2-s0"} <= shared
    for training in shared:
        for name, weight in ends["one"][training].items():
            assert (weight - ends["two"][training][name]).abs().max() < 1e-5
