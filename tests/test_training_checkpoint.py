"""A checkpoint comes back bit by bit, or the one before it does, and never half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gapkit.training.checkpoint import Checkpoints, random_states, restore_random_states

ROOT = Path(__file__).parents[1]


def state_of(step: int, size: int = 64) -> dict:
    return {"step": step, "weight": torch.full((size,), float(step))}


def named(folder: Path, step: int, content: bytes) -> Path:
    """Any content under the name that a checkpoint of it would have."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"checkpoint-{step:09d}-{digest}.pt"
    path.write_bytes(content)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def two(tmp_path):
    """Checkpoints of the steps 1 and 2."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state_of(step), step)
    return checkpoints


def newest(checkpoints: Checkpoints) -> Path:
    return max(checkpoints.folder.glob("checkpoint-*.pt"))


def assert_same(mine, theirs):
    """The same types, and every tensor the same bit by bit."""
    assert type(mine) is type(theirs)
    if isinstance(mine, torch.Tensor):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert mine.contiguous().numpy(force=True).tobytes() == theirs.numpy(force=True).tobytes()
    elif isinstance(mine, dict):
        assert list(mine) == list(theirs)
        for key in mine:
            assert_same(mine[key], theirs[key])
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs):
            assert_same(one, other)
    else:
        assert repr(mine) == repr(theirs)


# What comes back


def test_a_state_comes_back_bit_by_bit(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(net.parameters(), amsgrad=True)
    for _ in range(3):
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    state = {
        "learner": dict(net.state_dict()),
        "optimizer": optimizer.state_dict(),
        "half": torch.randn(7).bfloat16().view(torch.int16),
        "deep": {"a": {"b": [1, 2.5, "größer", None, True, (3, -0.0)]}},
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 5e-324], dtype=torch.float64),
        "none": torch.empty(0, 3),
        "large": 2**70,
        "random": random_states(),
    }
    assert optimizer.state_dict()["state"][0]["exp_avg"].abs().sum() > 0
    checkpoints = Checkpoints(tmp_path / "not" / "there")
    path = checkpoints.save(state, 3)
    assert_same(checkpoints.load(), state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"checkpoint-000000003-{digest[:16]}.pt"


def test_bfloat16_stays_bfloat16(tmp_path):
    weight = torch.tensor([1.0, 3.14159, -1e30], dtype=torch.bfloat16)
    Checkpoints(tmp_path).save({"weight": weight}, 1)
    back = Checkpoints(tmp_path).load()["weight"]
    assert back.dtype == torch.bfloat16
    assert back.view(torch.int16).tolist() == weight.view(torch.int16).tolist()


def test_never_more_than_two_lie_there(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (0, 1, 9, 10, 999_999_999, 1_000_000_000):
        checkpoints.save(state_of(step), step)
        assert len(files(tmp_path)) == min(step + 1, 2)
        assert checkpoints.newest_step() == checkpoints.load()["step"] == step
    assert newest(checkpoints).name.startswith(
        "checkpoint-999999999-"
    )  # numbers decide, not letters


def test_one_step_saved_twice_counts_once(two):
    two.save(state_of(2) | {"place": 5}, 2)
    assert two.load()["place"] == 5
    two.save(state_of(2) | {"place": 5}, 2)
    assert [name[:20] for name in files(two.folder)] == [f"checkpoint-00000000{i}" for i in (1, 2)]


def test_a_course_that_was_given_up_is_not_gone_on_with(two):
    two.save(state_of(1) | {"anew": True}, 1)
    assert two.load()["anew"] is True
    assert len(files(two.folder)) == 1


def test_nothing_there(tmp_path):
    for checkpoints in (Checkpoints(tmp_path), Checkpoints(tmp_path / "absent")):
        assert checkpoints.load() is None
        assert checkpoints.newest_step() is None
        checkpoints.clear()
    assert not (tmp_path / "absent").exists()


def test_clear_leaves_what_is_not_a_checkpoint(two):
    (two.folder / "log.csv").write_text("epoch")
    two.half.write_bytes(b"half")
    two.clear()
    assert files(two.folder) == {"log.csv": b"epoch"}
    assert two.load() is None


def test_a_file_of_a_strategy_is_taken_over(two):
    torch.save(state_of(3), two.half)
    content = two.half.read_bytes()
    path = two.keep(3)
    assert path == named(two.folder, 3, content)
    assert len(files(two.folder)) == 2
    assert_same(two.load(), state_of(3))


# Damage


def cut(content: bytes, seed: int) -> bytes:
    return content[: random.Random(seed).randrange(1, len(content))]


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


SPOILERS = {
    **{f"cut {seed}": lambda content, seed=seed: cut(content, seed) for seed in range(8)},
    "one byte short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"\0",
    "first byte": lambda content: flipped(content, 0),
    "a weight": lambda content: flipped(content, content.index(np.float32(2).tobytes() * 8)),
    "no archive": lambda content: b"no archive",
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_damaged_one_is_said_and_the_one_before_is_used(two, caplog, spoil):
    last, first = newest(two), min(two.folder.iterdir())
    kept = first.read_bytes()
    last.write_bytes(spoil(last.read_bytes()))
    assert_same(two.load(), state_of(1))
    assert caplog.messages == [
        f"checkpoint {last} is damaged (its content does not have the hash of its name) and removed; "
        "going on from the one of step 1"
    ]
    assert caplog.records[0].name == "gapkit"
    assert files(two.folder) == {first.name: kept}
    two.save(state_of(2), 2)
    assert_same(two.load(), state_of(2))
    assert len(caplog.messages) == 1


def test_both_damaged_starts_anew(two, caplog):
    for path in two.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    assert two.load() is None
    assert len(caplog.messages) == 2
    assert all(said.endswith("and removed; starting anew") for said in caplog.messages)
    assert files(two.folder) == {}


def test_an_older_damaged_one_does_not_matter(two, caplog):
    min(two.folder.iterdir()).write_bytes(b"")
    assert_same(two.load(), state_of(2))
    assert caplog.messages == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_no_cut_and_no_flipped_bit_is_ever_taken_for_whole(data):
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        path = checkpoints.save(state_of(1), 1)
        content = path.read_bytes()
        place = data.draw(st.integers(0, len(content) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        whole = bytes([content[place] ^ bit])
        spoiled = content[:place] + data.draw(
            st.sampled_from([b"", whole, whole + content[place + 1 :]])
        )
        path.write_bytes(spoiled)
        assert checkpoints.load() is None


@pytest.mark.parametrize(
    "name", ["checkpoint-best.pt", "checkpoint-12-0123.pt", "checkpoint-000000009-0123456789ABCDEF.pt"]
)  # fmt: skip
def test_a_strange_name_is_left_alone(two, caplog, name):
    strange = two.folder / name
    strange.write_bytes(b"someone's")
    assert_same(two.load(), state_of(2))
    two.save(state_of(3), 3)
    two.clear()
    assert files(two.folder) == {name: b"someone's"}
    assert caplog.messages == []


def test_a_content_under_the_name_of_another_is_damaged(two, caplog):
    first, last = sorted(two.folder.iterdir())
    last.write_bytes(first.read_bytes())
    assert_same(two.load(), state_of(1))
    assert "going on from the one of step 1" in caplog.text


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def zipped(content: object) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        torch.save(content, file.name)
        return Path(file.name).read_bytes()


@pytest.mark.parametrize("pack", [pickle.dumps, zipped])
def test_a_pickle_under_its_right_hash_does_not_run(two, tmp_path_factory, caplog, pack):
    mark = tmp_path_factory.mktemp("evil") / "ran"
    pickle.loads(pickle.dumps(Evil(mark)))
    mark.rmdir()  # it would have run
    path = named(two.folder, 7, pack({"weight": Evil(mark)}))
    assert_same(two.load(), state_of(2))
    assert not mark.exists()
    assert re.search(r"is damaged \(\w+: .*\) and removed; going on .* step 2$", caplog.messages[0])
    assert "\n" not in caplog.messages[0]
    assert not path.exists()


def test_a_list_under_its_right_hash_is_no_state(two, caplog):
    named(two.folder, 7, zipped([1, 2]))
    assert_same(two.load(), state_of(2))
    assert "(it holds no state but list)" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"
        ),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_says_nothing_about_the_checkpoint_is_raised(two, monkeypatch, caplog, error):
    def failing(*args, **kwargs):
        raise error

    before = files(two.folder)
    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(type(error)) as raised:
        two.load()
    assert raised.value is error
    assert files(two.folder) == before
    assert caplog.messages == []


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.EIO, "Input/output error"), "the disk cannot read it"),
        (EOFError("no\nmore"), "EOFError: no more"),
    ],
)
def test_a_file_that_the_disk_or_torch_cannot_read_is_damaged(
    two, monkeypatch, caplog, error, said
):
    load = torch.load

    def failing(file, **kwargs):
        if "checkpoint-000000002" in file.name:
            raise error
        return load(file, **kwargs)

    monkeypatch.setattr(torch, "load", failing)
    assert_same(two.load(), state_of(1))
    assert f"is damaged ({said}) and removed" in caplog.text


def test_one_that_another_process_removed_is_passed_over(two, monkeypatch, caplog):
    load = torch.load

    def late(file, **kwargs):
        if "checkpoint-000000002" in file.name:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", file.name)
        return load(file, **kwargs)

    monkeypatch.setattr(torch, "load", late)
    assert_same(two.load(), state_of(1))
    assert caplog.messages == []


# Writing that fails


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("act", ["fsync", "replace"])
@pytest.mark.parametrize("through", ["save", "keep"])
def test_a_full_disk_leaves_the_checkpoints_before(two, monkeypatch, act, through):
    before = files(two.folder)
    if through == "keep":
        torch.save(state_of(3), two.half)
    monkeypatch.setattr(os, act, full)
    with pytest.raises(OSError, match=r"No space left on device: .*\.half-checkpoint") as error:
        two.save(state_of(3), 3) if through == "save" else two.keep(3)
    assert Path(error.value.filename).parent == two.folder
    monkeypatch.undo()
    assert files(two.folder) == before
    assert_same(two.load(), state_of(2))


def test_a_strategy_that_fails_leaves_no_half(two):
    before = files(two.folder)
    with pytest.raises(OSError, match=r"No space .*half-checkpoint"), two.cleaning():  # noqa: PT012
        two.half.write_bytes(b"half of it")
        full()
    assert files(two.folder) == before


def test_an_interrupt_leaves_no_half(two, monkeypatch):
    def interrupted(*arguments):
        assert two.half.exists()
        raise KeyboardInterrupt

    before = files(two.folder)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        two.save(state_of(3), 3)
    assert files(two.folder) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as error:
        Checkpoints(tmp_path / "file" / "deep").save(state_of(1), 1)
    assert error.value.filename


def test_a_half_that_is_not_there_is_named(two):
    with pytest.raises(FileNotFoundError, match="half-checkpoint"):
        two.keep(3)
    assert_same(two.load(), state_of(2))


@pytest.mark.parametrize("number, passes", [(errno.EINVAL, True), (errno.EIO, False)])
def test_file_systems_without_synced_folders_will_do(two, monkeypatch, number, passes):
    fsync = os.fsync

    def picky(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)
    if passes:
        two.save(state_of(3), 3)
    else:
        with pytest.raises(OSError, match="Input/output"):
            two.save(state_of(3), 3)
    assert_same(two.load(), state_of(3))


def said_by(code: str, *arguments: object) -> list[str]:
    """The lines that a process of its own says."""
    child = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines()


LIMITED = """
import errno, resource, sys
from pathlib import Path
from tests.test_training_checkpoint import Checkpoints, state_of
checkpoints = Checkpoints(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(state_of(3, 100_000), 3)
except OSError as error:
    print(errno.errorcode[error.errno], error.filename)
print(checkpoints.load()["step"])
"""


def test_a_file_system_that_takes_no_more_leaves_the_checkpoints_before(two):
    before = files(two.folder)
    assert said_by(LIMITED, two.folder) == [f"EFBIG {two.half}", "2"]
    assert files(two.folder) == before


# Kills

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from tests.test_training_checkpoint import Checkpoints, state_of

folder, pauses = Path(sys.argv[1]), random.Random(0)
checkpoints = Checkpoints(folder)

def kill(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def save_forever(told):
    step = checkpoints.newest_step() or 0
    while True:
        step += 1
        checkpoints.save(state_of(step, 500_000), step)
        os.write(told, step.to_bytes(8, "big"))

def save_until(act, step):
    setattr(*((Path, act) if act == "unlink" else (os, act)), kill)
    checkpoints.save(state_of(step), step)

def forked(act, *arguments):
    child = os.fork()
    if not child:
        try:
            act(*arguments)
        finally:
            os._exit(1)
    return child

def said():
    state, names = checkpoints.load(), sorted(os.listdir(folder))
    whole = bool((state["weight"] == state["step"]).all())
    print(state["step"], whole, *(name[:20] for name in names), flush=True)
    return state["step"]

if sys.argv[2] == "at":
    for act in ("fsync", "replace", "unlink"):
        step = checkpoints.newest_step() + 1
        assert os.WTERMSIG(os.waitpid(forked(save_until, act, step), 0)[1]) == signal.SIGKILL
        said()
else:
    for _ in range(8):
        heard, told = os.pipe()
        child = forked(save_forever, told)
        os.close(told)
        last = os.read(heard, 8)
        time.sleep(pauses.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(heard, 8):
            last = more
        os.close(heard)
        assert said() - int.from_bytes(last, "big") in (0, 1)
"""


def test_a_kill_in_every_act_of_saving_leaves_a_whole_one(two):
    one, two_, three = (f"checkpoint-00000000{i}" for i in (1, 2, 3))
    half = two.half.name
    assert said_by(KILLED, two.folder, "at") == [
        " ".join(["2", "True", half, one, two_]),
        " ".join(["2", "True", half, one, two_]),
        " ".join(["3", "True", one, two_, three]),
    ]
    two.save(state_of(4), 4)
    assert [name[:20] for name in files(two.folder)] == [three, "checkpoint-000000004"]


def test_kills_at_any_time_leave_what_was_saved_last(two, caplog):
    lines = [line.split() for line in said_by(KILLED, two.folder, "any")]
    assert len(lines) == 8
    steps = [int(line[0]) for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] > 8
    assert all(line[1] == "True" for line in lines)
    assert two.load()["step"] == steps[-1]
    assert caplog.messages == []


# Random states


def draws() -> tuple:
    """What the next draws are, from each of the generators."""
    return (
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
        torch.randperm(9).tolist(),
        np.random.rand(3).tolist(),
        np.random.randn(),
        np.random.randn(),
        random.random(),
        random.gauss(0, 1),
        random.gauss(0, 1),
    )


@pytest.mark.parametrize("drawn", range(4), ids="after {} draws".format)
def test_the_next_draws_are_those_that_would_have_come(tmp_path, drawn):
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(drawn)
    for _ in range(drawn):
        np.random.randn(), random.gauss(0, 1), torch.randn(1)
    cached = (np.random.get_state()[3], random.getstate()[2] is not None)
    assert cached == (drawn % 2, bool(drawn % 2))
    Checkpoints(tmp_path).save({"random": random_states()}, 1)
    expected = draws()
    assert draws() != expected
    restore_random_states(Checkpoints(tmp_path).load()["random"])
    assert (np.random.get_state()[3], random.getstate()[2] is not None) == cached
    assert draws() == expected


def test_random_states_draw_nothing_and_are_copies():
    states = random_states()
    again = random_states()
    assert_same(states, again)
    expected = draws()
    assert_same(states, again)
    for _ in range(2):
        restore_random_states(states)
        assert draws() == expected


def test_random_states_are_plain():
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        if isinstance(value, list):
            return {list}.union(*map(kinds, value))
        return {type(value)}

    random.gauss(0, 1)
    assert kinds(random_states()) <= {torch.Tensor, int, float, str, list}


@pytest.mark.parametrize("n_there, n_set", [(0, 0), (1, 0), (2, 2), (3, 0)])
def test_devices_get_their_states_back_when_as_many_are_there(monkeypatch, n_there, n_set):
    stored = [torch.arange(4, dtype=torch.uint8), torch.arange(4, 8, dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: stored)
    states = random_states()
    assert_same(states["cuda"], stored)
    back = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_there)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", back.extend)
    restore_random_states(states)
    assert len(back) == n_set
    assert_same(back, stored[:n_set])


def test_devices_not_in_use_are_left_asleep(monkeypatch):
    def waking():
        raise AssertionError("it initializes CUDA")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", waking)
    states = random_states()
    assert states["cuda"] == []
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: waking())
    restore_random_states(states)
