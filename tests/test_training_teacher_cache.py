"""A teacher's answers come back bit by bit, under the right sample, or not at all."""

from __future__ import annotations

import json
import logging
import math
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import gapkit.training.teacher_cache as module
from gapkit.errors import InputError
from gapkit.teaching.topk import TopK, dense, top_k_of
from gapkit.training.teacher_cache import TeacherCache

IDENTITY = {"weights": "f00d", "split": "train"}
N = 23
IDS = np.array([f"train/{row}" for row in range(N)])

CHILD = """
import sys, time
from pathlib import Path
import numpy as np, torch
from gapkit.training.teacher_cache import TeacherCache
folder, what, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ids, identity = np.array([f"train/{row}" for row in range(n)]), {"weights": "f00d", "split": "train"}
def half():
    yield np.arange(n // 2), {"outputs": torch.zeros(n // 2, 4)}
    print("half", flush=True)
    time.sleep(600)
if what == "half":
    TeacherCache.build(folder, identity, ids, half())
else:
    rows = TeacherCache.open(folder, identity, ids[::-1]).rows(np.array([0, 1]))
    print(rows["outputs"].numpy().tobytes().hex())
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "answers" / "teacher-train"


@pytest.fixture(params=["in memory", "mapped"])
def place(request, monkeypatch):
    """Tables on either side of the size from which they stay mapped."""
    if request.param == "mapped":
        monkeypatch.setattr(module, "SMALL", 0)


def drawn(*shape, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(*shape, generator=generator)).to(dtype)


def shuffled(answers, size=5):
    """All positions in a random order, a batch at a time."""
    n = len(next(iter(answers.values())))
    order = np.random.default_rng(1).permutation(n)
    for start in range(0, n, size):
        at = order[start : start + size]
        yield at, {name: rows[at] for name, rows in answers.items()}


def built(folder, answers, **options):
    return TeacherCache.build(folder, IDENTITY, IDS, shuffled(answers), **options)


def beside(folder):
    """What lies next to a cache, its lock aside."""
    return sorted(path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (10,), (6, 10), (3, 4, 4)])
def test_rows_are_those_that_came(folder, place, dtype, shape):
    answers = {"outputs": drawn(N, *shape, dtype=dtype), "features/a": drawn(N, 2, dtype=dtype)}
    answers["outputs"].view(-1)[:3] = torch.tensor([math.inf, -0.0, math.nan]).to(dtype)
    cache = built(folder, answers)
    assert cache.names == ("outputs", "features/a")
    assert cache.nbytes == sum(rows.nbytes for rows in answers.values())
    at = np.array([4, 0, N - 1, 4])
    for rows in (cache.rows(at), TeacherCache.open(folder, IDENTITY, IDS).rows(at)):
        for name, expected in answers.items():
            assert rows[name].dtype == torch.float32
            bits, truth = (
                item.contiguous().view(torch.int32) for item in (rows[name], expected[at].float())
            )
            assert torch.equal(bits, truth)


def test_doubles_are_kept_as_floats(folder):
    outputs = drawn(N, 4, dtype=torch.float64) / 3
    assert not torch.equal(outputs, outputs.float().double())
    rows = built(folder, {"outputs": outputs}).rows(np.arange(N))["outputs"]
    assert torch.equal(rows, outputs.float())


def test_a_large_table_stays_mapped_and_a_small_one_is_copied(folder, monkeypatch):
    outputs = drawn(N, 4)
    small = built(folder, {"outputs": outputs})
    monkeypatch.setattr(module, "SMALL", outputs.nbytes)
    mapped = TeacherCache.open(folder, IDENTITY, IDS)
    table = np.load(folder / "0.npy", mmap_mode="r+")
    table[:] = 7.0
    table.flush()
    at = np.arange(N)
    assert torch.equal(small.rows(at)["outputs"], outputs)
    assert (mapped.rows(at)["outputs"] == 7.0).all()


def test_rows_are_copies_and_only_the_names_asked_for(folder, place):
    cache = built(folder, {"outputs": drawn(N, 4), "features/a": drawn(N, 2)})
    first = cache.rows(np.array([3]), ["features/a"])
    assert list(first) == ["features/a"]
    first["features/a"].zero_()
    assert cache.rows(np.array([3]))["features/a"].abs().min() > 0
    assert cache.rows(np.array([], dtype=int))["outputs"].shape == (0, 4)
    with pytest.raises(InputError, match="'features/b'; nearest: 'features/a'"):
        cache.rows(np.array([3]), ["features/b"])


@pytest.mark.parametrize("layer", ["net.3#2", "../../../etc/passwd", "con", "ä/ö", "x" * 300, ""])
def test_a_layer_may_have_any_name(folder, layer):
    features = drawn(N, 3)
    built(folder, {f"features/{layer}": features})
    assert beside(folder) == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == ["0.npy", "header.json", "ids.npy"]
    again = TeacherCache.open(folder, IDENTITY, IDS)
    assert torch.equal(again.rows(np.arange(N))[f"features/{layer}"], features)


@pytest.mark.parametrize(
    "order", [np.arange(N)[::-1], np.array([7, 3, 19]), np.array([5, 5, 0]), np.arange(4)]
)
def test_samples_are_found_by_their_ids(folder, place, order):
    outputs = drawn(N, 4)
    built(folder, {"outputs": outputs})
    cache = TeacherCache.open(folder, IDENTITY, IDS[order])
    assert len(cache) == len(order)
    at = np.array([2, 0, 1])
    assert torch.equal(cache.rows(at)["outputs"], outputs[order[at]])
    with pytest.raises(InputError, match=f"from 0 to {len(order) - 1} but got 0 to {len(order)}"):
        cache.rows(np.array([0, len(order)]))
    with pytest.raises(InputError, match="but got -1 to 0"):
        cache.rows(np.array([0, -1]))
    with pytest.raises(InputError, match=r"as integers but got .* bool"):
        cache.rows(np.ones(3, dtype=bool))


@pytest.mark.parametrize("stranger", ["train/99", "train/", "a", "z", "train/1\u00e4"])
def test_an_unknown_sample_opens_nothing(folder, stranger):
    built(folder, {"outputs": drawn(N, 4)})
    assert TeacherCache.open(folder, IDENTITY, IDS[:3]) is not None
    assert TeacherCache.open(folder, IDENTITY, np.array(["train/1", stranger])) is None


@pytest.mark.parametrize(
    "identity", [{}, {"weights": "f00d"}, IDENTITY | {"weights": "beef"}, IDENTITY | {"top_k": "5"}]
)
def test_another_identity_opens_nothing_and_is_built_over(folder, identity):
    built(folder, {"outputs": drawn(N, 4)})
    assert TeacherCache.open(folder, identity, IDS) is None
    ones = {"outputs": torch.ones(N, 2)}
    cache = TeacherCache.build(folder, identity, IDS, shuffled(ones))
    assert torch.equal(cache.rows(np.arange(N))["outputs"], ones["outputs"])
    assert TeacherCache.open(folder, IDENTITY, IDS) is None
    assert beside(folder) == [folder.name]


def test_an_open_cache_outlives_its_replacement(folder, place):
    outputs = drawn(N, 4)
    first = built(folder, {"outputs": outputs})
    built(folder, {"outputs": outputs + 1})
    assert torch.equal(first.rows(np.arange(N))["outputs"], outputs)


def test_nothing_opens_where_nothing_is(folder):
    assert TeacherCache.open(folder, IDENTITY, IDS) is None
    folder.mkdir(parents=True)
    assert TeacherCache.open(folder, IDENTITY, IDS) is None
    assert built(folder, {"outputs": drawn(N, 4)}) is not None


def test_a_build_that_fails_leaves_nothing(folder):
    def failing():
        yield np.arange(5), {"outputs": torch.zeros(5, 4)}
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        TeacherCache.build(folder, IDENTITY, IDS, failing())
    assert beside(folder) == []
    kept = drawn(N, 4)
    built(folder, {"outputs": kept})
    with pytest.raises(RuntimeError, match="out of memory"):
        TeacherCache.build(folder, IDENTITY, IDS, failing())
    again = TeacherCache.open(folder, IDENTITY, IDS)
    assert torch.equal(again.rows(np.arange(N))["outputs"], kept)


def test_a_killed_build_leaves_nothing_that_opens(folder):
    command = [sys.executable, "-c", CHILD, str(folder), "half", str(N)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "half\n"
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert beside(folder) == [f".{folder.name}.half"]
    for path in (folder, folder.with_name(beside(folder)[0])):
        assert TeacherCache.open(path, IDENTITY, IDS) is None
    outputs = drawn(N, 4)
    assert torch.equal(built(folder, {"outputs": outputs}).rows(np.arange(N))["outputs"], outputs)
    assert beside(folder) == [folder.name]


def test_a_second_process_opens_the_same_answers(folder):
    outputs = drawn(N, 4)
    built(folder, {"outputs": outputs})
    command = [sys.executable, "-c", CHILD, str(folder), "open", str(N)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert found == outputs[[N - 1, N - 2]].numpy().tobytes().hex()


def test_who_comes_while_another_builds_takes_what_that_one_made(folder):
    begun, go_on = threading.Event(), threading.Event()
    outputs = drawn(N, 4)

    def slow():
        begun.set()
        assert go_on.wait(60)
        yield np.arange(N), {"outputs": outputs}

    def never():
        pytest.fail("the teacher was asked twice")
        yield

    first = threading.Thread(target=TeacherCache.build, args=(folder, IDENTITY, IDS, slow()))
    first.start()
    assert begun.wait(60)
    threading.Timer(0.2, go_on.set).start()
    second = TeacherCache.build(folder, IDENTITY, IDS, never())
    first.join()
    assert torch.equal(second.rows(np.arange(N))["outputs"], outputs)


def rows(at, width=4, name="outputs", dtype=torch.float32):
    return np.array(at), {name: torch.zeros(len(at), width, dtype=dtype)}


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([rows([0, 1]), rows([1, 2])], "each position once but got 1 again .sample 'train/1'"),
        ([rows([0, 1, 2, 2])], "each position once but got 2 again"),
        ([rows([0, 1])], "all 3 samples but got none for 1, first 'train/2' at position 2"),
        ([], "all 3 samples but got none for 3, first 'train/0'"),
        ([rows([0, 1, 3])], "positions from 0 to 2 but got 0 to 3"),
        ([rows([-1, 0, 1])], "positions from 0 to 2 but got -1 to 1"),
        ([rows([0.0, 1.0, 2.0])], "as integers but got .* float64"),
        ([rows([0, 1]), rows([2], name="other")], "'outputs'.* in every batch but got .*'other'"),
        ([rows([0, 1]), rows([2], dtype=torch.float16)], "float32.* in every batch but got .*16"),
        ([rows([0, 1, 2], dtype=torch.int64)], "rows of floats for 'outputs' but got .*int64"),
        ([(np.arange(3), {"outputs": torch.zeros(2, 4)})], r"3 rows of floats .* got \(2, 4\)"),
        ([(np.arange(3), {})], "Expected answers"),
    ],
)
def test_batches_that_do_not_fit_are_refused(folder, batches, message):
    with pytest.raises(InputError, match=message):
        TeacherCache.build(folder, IDENTITY, IDS[:3], batches)
    assert beside(folder) == []


@pytest.mark.parametrize("ids", [np.array(["a", "b", "a"]), np.array([]), np.array([["a", "b"]])])
def test_ids_that_name_no_sample_are_refused(folder, ids):
    with pytest.raises(InputError, match="no two the same"):
        TeacherCache.build(folder, IDENTITY, ids, [rows(range(ids.size))])


def test_what_is_no_cache_is_not_replaced(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"Expected a folder of answers.*thesis\.tex"):
        built(folder, {"outputs": drawn(N, 4)})
    with pytest.raises(InputError, match=r"Expected a folder of answers.*thesis\.tex"):
        built(folder / "thesis.tex", {"outputs": drawn(N, 4)})
    assert (folder / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(("spare", "kept"), [(0, True), (-1, False)])
def test_what_exceeds_the_budget_is_not_kept(folder, caplog, spare, kept):
    asked = []

    def counted(answers):
        for batch in shuffled(answers):
            asked.append(1)
            yield batch

    answers = {"outputs": drawn(N, 4), "features/a": drawn(N, 3, dtype=torch.bfloat16)}
    caplog.set_level(logging.INFO, "gapkit")
    budget = N * (4 * 4 + 3 * 2) + spare
    cache = TeacherCache.build(folder, IDENTITY, IDS, counted(answers), budget=budget)
    assert (cache is not None) == kept
    if not kept:
        assert sum(asked) == 1
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "they would take" in caplog.text
        assert beside(folder) == []


def test_what_a_full_disk_has_no_room_for_is_not_kept(folder, monkeypatch):
    usage = module.shutil.disk_usage(folder.anchor)
    answers = {"outputs": drawn(N, 4)}
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=N * 32 - 2))
    assert built(folder, answers) is None
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=N * 32))
    assert built(folder, answers) is not None


def test_ragged_rows_are_not_kept(folder, caplog):
    caplog.set_level(logging.INFO, "gapkit")
    batches = [
        (np.array([place]), {"outputs": torch.zeros(1, length, 4)})
        for place, length in enumerate([6, 6, 7])
    ]
    assert TeacherCache.build(folder, IDENTITY, IDS[:3], batches) is None
    assert "outputs has rows of (6, 4) and of (7, 4)" in caplog.text
    assert len(caplog.records) == 1
    assert beside(folder) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)


def header_cut(path):
    path.write_bytes(
        path.read_bytes()[:6] + b"\x01\x00\x06\x00{'a':\n"
    )  # npy's reader trips over it


def header_garbled(path):
    path.write_bytes(path.read_bytes()[:6] + b"\x03\x00\x06\x00\x00\x00{'a' 1")


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def recast(path):
    np.save(path, np.load(path).astype(np.float64))


def evil(path):
    np.save(path, np.array([Trap()] * N, dtype=object), allow_pickle=True)


def pickled(path):
    path.write_bytes(pickle.dumps(Trap()))


class Trap:
    """Unpickling it leaves a trace."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize(
    "harm", [cut, header_cut, header_garbled, empty, recast, evil, pickled, flip, remove]
)
@pytest.mark.parametrize("file", ["0.npy", "ids.npy"])
def test_a_broken_file_is_said_and_built_again(folder, place, caplog, harm, file):
    outputs = drawn(N, 4)
    built(folder, {"outputs": outputs})
    if (harm, file) == (recast, "ids.npy"):
        np.save(folder / file, IDS[::-1])
    else:
        harm(folder / file)
    assert TeacherCache.open(folder, IDENTITY, IDS) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"The answers in {folder} cannot be read (" in caplog.text
    assert not Trap.sprung
    assert torch.equal(built(folder, {"outputs": outputs}).rows(np.arange(N))["outputs"], outputs)


def test_the_trap_works():
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung
    Trap.sprung = False


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": 1}',
        '{"format": 1, "identity": {}, "ids": "", "tables": 3}',
    ],
)
def test_a_broken_header_opens_nothing(folder, caplog, header):
    TeacherCache.build(folder, {}, IDS, shuffled({"outputs": drawn(N, 4)}))
    (folder / "header.json").write_text(header)
    assert TeacherCache.open(folder, {}, IDS) is None
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"dtype": "object"}, {"shape": [5]}, {"part": "values"}, {"n_classes": 9}, {"name": 3}],
)
def test_a_changed_header_opens_nothing(folder, caplog, change):
    built(folder, {"outputs": drawn(N, 4)})
    header = json.loads((folder / "header.json").read_text())
    header["tables"][0] |= change
    (folder / "header.json").write_text(json.dumps(header))
    assert TeacherCache.open(folder, IDENTITY, IDS) is None
    assert "header.json has changed" in caplog.text


def test_a_newer_format_is_left_alone(folder, caplog):
    built(folder, {"outputs": drawn(N, 4)})
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {"format": 2}))
    assert TeacherCache.open(folder, IDENTITY, IDS) is None
    assert not caplog.records


# The k largest logits and what the rest weighs.


def full_and_dense(n=50, n_classes=40, k=6, scale=2.0):
    logits = drawn(n, n_classes, scale=scale)
    return logits, dense(top_k_of(logits, k), n_classes), top_k_of(logits, k)


def test_dense_rows_are_exact_for_the_kept_and_for_the_mass_of_the_rest():
    full, rows, top = full_and_dense()
    kept = top.indices.long()
    truth, found = (item.double().log_softmax(-1) for item in (full, rows))
    oracle = np.sort(full.numpy(), axis=1)[:, ::-1][:, :6]
    assert np.array_equal(top.values.numpy(), oracle)
    assert torch.equal(rows.gather(-1, kept), top.values)
    torch.testing.assert_close(found.gather(-1, kept), truth.gather(-1, kept), atol=1e-6, rtol=0)
    rest = 1 - truth.gather(-1, kept).exp().sum(-1)
    assert 0.01 < rest.min() < rest.max() < 0.8
    mass = found.exp().scatter(-1, kept, 0.0)
    torch.testing.assert_close(mass.sum(-1), rest, atol=1e-6, rtol=0)
    assert ((mass > 0).sum(-1) == 34).all()
    assert (mass.max(-1).values - mass.sum(-1) / 34).abs().max() < 1e-12
    torch.testing.assert_close(top.lse, full.logsumexp(-1))


def test_a_rest_far_below_rounding_keeps_its_mass():
    full = torch.tensor([[200.0, 0.0, 1.0, 0.5, -1.0]])
    rows = dense(top_k_of(full, 1), 5)
    rest = full[0, 1:].double().exp().sum().item()
    assert math.exp(-200) * rest < 1e-80
    assert rows[0, 1:].double().exp().sum().item() == pytest.approx(rest, rel=1e-6)


def test_one_left_out_is_no_loss():
    full = drawn(3, 4, 9)
    torch.testing.assert_close(dense(top_k_of(full, 8), 9), full)


def test_equal_logits_come_back():
    torch.testing.assert_close(
        dense(top_k_of(torch.full((2, 10), 1.5), 3), 10), torch.full((2, 10), 1.5)
    )


def test_forbidden_classes_stay_forbidden():
    full = torch.tensor([[1.0, -math.inf, 2.0, -math.inf, -math.inf]])
    for k in (1, 2, 3):
        rows = dense(top_k_of(full, k), 5)
        assert torch.equal(rows.isinf(), full.isinf() if k > 1 else rows.isinf())
        assert rows.softmax(-1)[0, 2].item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert torch.equal(dense(top_k_of(full, 2), 5), full)


@pytest.mark.parametrize(("temperature", "sign"), [(4.0, -1), (2.0, -1), (0.5, 1)])
def test_other_temperatures_misjudge_the_kept_in_a_known_direction(temperature, sign):
    full, rows, top = full_and_dense()
    kept = top.indices.long()
    found, truth = (
        (item.double() / temperature).log_softmax(-1).gather(-1, kept) for item in (rows, full)
    )
    assert (sign * (found - truth) > 0).all()
    assert (found - truth).abs().max() > 0.02


def divergence(p, q):
    return (p.exp() * (p - q)).sum(-1)


def binned(p, q, kept):
    """KL of the kept classes and one bin for the others."""
    p_kept, q_kept = p.gather(-1, kept), q.gather(-1, kept)
    p_rest, q_rest = (torch.log1p(-item.exp().sum(-1)) for item in (p_kept, q_kept))
    return divergence(p_kept, q_kept) + p_rest.exp() * (p_rest - q_rest)


def test_the_divergence_to_a_student_is_bounded_by_that_of_bins_only():
    full, rows, top = full_and_dense()
    kept = top.indices.long()
    p, p_dense = full.double().log_softmax(-1), rows.double().log_softmax(-1)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(full.shape, generator=generator)
    students = {"flat": torch.zeros_like(full), "far": 2 * noise, "near": full + 0.1 * noise}
    differences = {}
    for name, student in students.items():
        q = student.double().log_softmax(-1)
        least = binned(p, q, kept)
        assert (divergence(p, q) > least).all()
        assert (divergence(p_dense, q) > least - 1e-6).all()  # equal for a flat rest
        differences[name] = divergence(p, q) - divergence(p_dense, q)
        rest = torch.ones_like(p, dtype=torch.bool).scatter(-1, kept, False)
        mass = (p.exp() * rest).sum(-1)
        shape = (p.exp() * (p - (mass / 34).log().unsqueeze(-1)) * rest).sum(-1)
        lean = ((p.exp() - mass.unsqueeze(-1) / 34) * q * rest).sum(-1)
        torch.testing.assert_close(differences[name], shape - lean, atol=1e-5, rtol=0)
    assert (differences["flat"] > 1e-3).all()
    assert (differences["near"] < -1e-3).all()
    assert (differences["far"] > 0).any()
    assert (differences["far"] < 0).any()


def test_entropy_is_at_least_that_of_the_full_row():
    full, rows, _ = full_and_dense()
    entropy = [
        -(item.exp() * item).sum(-1) for item in (full.log_softmax(-1), rows.log_softmax(-1))
    ]
    assert (entropy[1] > entropy[0] + 1e-3).all()


@pytest.mark.parametrize("k", [0, -1, 5, 6])
def test_a_k_out_of_range_is_refused(k):
    with pytest.raises(InputError, match=f"top_k from 1 to 4 but got {k}"):
        top_k_of(torch.zeros(2, 5), k)


def test_as_many_classes_as_kept_are_refused():
    with pytest.raises(InputError, match="more classes than the 3 kept but got 3"):
        dense(TopK(**vars(top_k_of(torch.zeros(2, 5), 3))), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40,), (3, 40)])
def test_a_cache_of_the_largest_gives_dense_rows(folder, place, dtype, shape):
    answers = {"outputs": drawn(N, *shape, dtype=dtype), "features/a": drawn(N, 50)}
    cache = built(folder, answers, top_k=6)
    expected = dense(top_k_of(answers["outputs"], 6), 40)
    assert not torch.allclose(expected, answers["outputs"].float())
    at = np.array([N - 1, 0, 8])
    for order in (np.arange(N), np.arange(N)[::-1].copy()):
        again = TeacherCache.open(folder, IDENTITY, IDS[order])
        assert torch.equal(again.rows(at)["outputs"], expected[order[at]])
        assert torch.equal(again.rows(at)["features/a"], answers["features/a"][order[at]])
    assert cache.nbytes == N * (4 * (6 + 6 + 1) * math.prod(shape[:-1]) + 4 * 50)


@pytest.mark.parametrize(("top_k", "whole"), [(20, True), (50, True), (19, False)])
def test_few_classes_are_kept_whole(folder, top_k, whole):
    outputs = drawn(N, 40)
    cache = built(folder, {"outputs": outputs}, top_k=top_k)
    assert torch.equal(cache.rows(np.arange(N))["outputs"], outputs) == whole
    assert cache.nbytes == N * 4 * (40 if whole else 2 * top_k + 1)


def test_the_budget_counts_what_is_kept_of_the_largest(folder):
    outputs = drawn(N, 1000)
    assert built(folder, {"outputs": outputs}, budget=N * 4 * 21) is None
    assert built(folder, {"outputs": outputs}, budget=N * 4 * 21, top_k=10) is not None


def test_top_k_below_one_is_refused(folder):
    with pytest.raises(InputError, match="top_k from 1 to 39 but got 0"):
        built(folder, {"outputs": drawn(N, 40)}, top_k=0)
