"""The idx reader takes what the data set's files hold and nothing else; the study runs on any such folder."""

from __future__ import annotations

import gzip
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gapkit as gk
from gapkit.commands.studyfile import load_study
from gapkit.examples import fashion as example
from gapkit.examples.fashion import (
    FILES,
    FOLDERS,
    N_CLASSES,
    VARIABLE,
    fashion,
    files_in,
    halved,
    home,
    hops,
    photographs,
    read_idx,
    study,
    table,
)

FILE = Path(example.__file__)
REAL = [folder for folder in FOLDERS if Path(folder).is_dir()]


def idx(items: np.ndarray, type_code: int = 8) -> bytes:
    """An idx file, written by hand."""
    header = struct.pack(">BBBB", 0, 0, type_code, items.ndim)
    return header + struct.pack(f">{items.ndim}I", *items.shape) + items.astype(np.uint8).tobytes()


def tiny(folder: Path, n_train: int = 300, n_test: int = 100, packed: bool = False) -> Path:
    """Four files of the data set's form, their classes told apart by a bright row."""
    rng = np.random.default_rng(0)
    for (images, labels), n in zip(FILES.values(), (n_train, n_test), strict=True):
        classes = np.arange(n) % N_CLASSES
        pixels = rng.integers(0, 120, (n, 28, 28))
        pixels[np.arange(n), 2 * classes + 3] = 250
        for name, content in ((images, idx(pixels)), (labels, idx(classes))):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


def squeezed(text: str) -> str:
    """Letters and digits alone: Markdown escapes the rest."""
    return re.sub(r"\W", "", text)


@pytest.fixture(params=["tiny", "tiny, packed", *REAL])
def folder(request, tmp_path) -> Path:
    """A folder of four files: made here, and the real one wherever it is installed."""
    if request.param in REAL:
        return Path(request.param)
    return tiny(tmp_path, packed=request.param.endswith("packed"))


def test_bytes_written_by_hand_are_read(tmp_path):
    (tmp_path / "labels").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x03\x07\x00\xff")
    assert read_idx(tmp_path / "labels").tolist() == [7, 0, 255]
    body = b"\x00\x00\x08\x03\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x02\x01\x02\x03\x04"
    (tmp_path / "images.gz").write_bytes(gzip.compress(body))
    assert read_idx(tmp_path / "images.gz", (1, 2)).tolist() == [[[1, 2]], [[3, 4]]]


LABELS = idx(np.arange(6))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "8 bytes of header but got 0"),
        (LABELS[:6], "8 bytes of header but got 6"),
        (LABELS[:-1], "6 bytes for 6 items .* but got 5"),
        (LABELS + b"\x00", "6 bytes for 6 items .* but got more"),
        (idx(np.zeros((2, 3))), "begin with 0x0801 but got 0x0802"),
        (idx(np.arange(6), type_code=0x0D), "begin with 0x0801 but got 0x0d01"),
        (b"\x80\x04\x95" + LABELS, "begin with 0x0801 but got 0x80049500"),
        (struct.pack(">II", 0x0801, 2**32 - 1), "4,294,967,295 items .* but got 0"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_not_whole_or_of_another_form_is_refused(tmp_path, content, said, packed):
    path = tmp_path / ("labels.gz" if packed else "labels")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(gk.InputError, match=said) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_are_refused(tmp_path):
    (tmp_path / "images").write_bytes(idx(np.zeros((2, 32, 32))))
    with pytest.raises(gk.InputError, match=r"\(28, 28\) in .* but got \(32, 32\)"):
        read_idx(tmp_path / "images", (28, 28))


@pytest.mark.parametrize(
    "content",
    [LABELS, gzip.compress(LABELS, mtime=0)[:-9], b"\x1f\x8b\x08" + b"\x00" * 7 + b"\xff" * 20],
    ids=["not packed", "cut off", "no stream"],
)
def test_a_broken_archive_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(gk.InputError, match=r"Expected to read .*labels\.gz but: ") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for names in FILES.values() for name in names])
def test_a_missing_file_is_named_with_the_way_to_get_it(tmp_path, name):
    (tiny(tmp_path) / name).unlink()
    with pytest.raises(gk.InputError, match=rf"Expected {name}\[\.gz\].*apt-get install") as caught:
        files_in(tmp_path)
    assert VARIABLE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_folder_is_the_variables_or_the_first_that_is_there(tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(example, "FOLDERS", (str(tmp_path / "absent"), str(there), str(tmp_path)))
    assert home() == there
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert home() == tmp_path / "mine"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(example, "FOLDERS", (str(tmp_path / "absent"),))
    with pytest.raises(gk.InputError, match=r"absent but found none: apt-get install"):
        home()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(4), "a label for each of 5 images .* but got 4"),
        (np.array([0, 1, 2, 3, 10]), "labels of 0 to 9 .* but got a 10"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, said):
    paths = tmp_path / "images", tmp_path / "labels"
    paths[0].write_bytes(idx(np.zeros((5, 28, 28))))
    paths[1].write_bytes(idx(labels))
    with pytest.raises(gk.InputError, match=said):
        photographs(paths)


def test_empty_files_are_refused(tmp_path):
    paths = tmp_path / "images", tmp_path / "labels"
    paths[0].write_bytes(idx(np.zeros((0, 28, 28))))
    paths[1].write_bytes(idx(np.zeros(0)))
    with pytest.raises(gk.InputError, match="but got none"):
        photographs(paths)


def test_halving_is_the_mean_of_four_pixels():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    wanted = torch.nn.functional.avg_pool2d(torch.tensor(images[:, None] / 255.0), 2)
    assert halved(images).shape == (3, 1, 14, 14)
    assert torch.allclose(halved(images).double(), wanted, atol=1e-6)


def test_the_folder_gives_stratified_splits_without_overlap(folder):
    data = fashion(100, 50, seed=1, folder=folder)
    images, labels = photographs(files_in(folder)["train"])
    whole = len(photographs(files_in(folder)["test"])[1])
    assert [data.size(split) for split in ("train", "validation", "test")] == [100, 50, whole]
    assert np.bincount(labels).tolist() == [len(labels) // N_CLASSES] * N_CLASSES
    assert torch.bincount(data.targets("train")).tolist() == [10] * N_CLASSES
    assert torch.bincount(data.targets("validation")).tolist() == [5] * N_CLASSES
    rows = {
        split: next(data.batches(split, 100)).raw[0].flatten(1).numpy()
        for split in ("train", "validation")
    }
    assert not set(map(bytes, rows["train"])) & set(map(bytes, rows["validation"]))
    pool = dict(zip(map(bytes, halved(images).flatten(1).numpy()), labels, strict=True))
    for split, found in rows.items():
        assert [pool[bytes(row)] for row in found] == data.targets(split).tolist()
    other = fashion(100, 50, seed=2, folder=folder)
    assert not torch.equal(next(other.batches("train", 100)).raw[0], torch.tensor(rows["train"]))


def test_all_photographs_can_be_taken_and_no_more(tmp_path):
    tiny(tmp_path)
    data = fashion(200, 100, folder=tmp_path)
    assert (data.size("train"), data.size("validation")) == (200, 100)
    with pytest.raises(gk.InputError, match=r"at most 300 but got 250 \+ 100"):
        fashion(250, 100, folder=tmp_path)


def test_the_table_holds_each_path_against_labels_alone():
    found = {
        (1,): np.array([[0.5, 0.4], [0.7, 0.6]]),
        (32, 6, 1): np.array([[0.6, 0.5], [0.8, 0.8]]),
    }
    rows = [line.split() for line in table(found).splitlines()[1:]]
    assert rows[0] == ["1", "0.600", "0.500", "±", "0.141", "+0.000", "±", "0.000", "SE"]
    assert rows[1] == [
        "32",
        "→",
        "6",
        "→",
        "1",
        "0.700",
        "0.650",
        "±",
        "0.212",
        "+0.150",
        "±",
        "0.050",
        "SE",
    ]


@pytest.mark.slow
def test_hops_are_scored_on_validation_and_on_test(tmp_path, monkeypatch):
    paths = {"scratch": ((1,),), "dist1": ((32, 1), (32, 3, 1))}
    monkeypatch.setattr(example, "PATHS", paths)
    monkeypatch.setenv(VARIABLE, str(tiny(tmp_path)))
    opened = load_study(FILE, tmp_path / "run", epochs=2, n_train=200, n_validation=100)
    found = hops(opened, seeds=(0, 1))
    assert list(found) == [(1,), (32, 1), (32, 3, 1)]
    training = opened.trainings.arm((32, 3, 1), "dist1", 1)
    batch = next(opened.data.batches("test", 100))
    with torch.no_grad():
        right = opened.trainings.model(training)(batch.raw[0]).argmax(1) == batch.raw[1]
    assert found[32, 3, 1][1].tolist() == pytest.approx(
        [training.score, right.float().mean().item()]
    )


@pytest.mark.slow
def test_the_study_runs_from_four_files_to_a_report(tmp_path):
    opened = study(epochs=2, n_train=200, n_validation=100, folder=tiny(tmp_path, packed=True))
    opened.run.folder = tmp_path / "run"
    measurements = opened.measure()
    assert measurements.get("accuracy", of="teacher", split="test").n == 100
    gap = opened.diagnose(budget=2)
    plan = opened.plan(budget=2)
    outcome = opened.distill()
    assert outcome.stages[-1].size == opened.family.student == 1
    assert outcome.before.value == measurements.get("accuracy", of="student", split="test").value
    said = squeezed(opened.report(tmp_path / "gap.md").read_text())
    assert squeezed(gap.verdict) in said
    assert squeezed(plan.claim) in said


@pytest.mark.slow
def test_the_command_line_says_in_one_line_how_to_get_the_files(tmp_path):
    shown = subprocess.run(
        [sys.executable, "-m", "gapkit", "run", str(FILE), "--dry-run"],
        cwd=tmp_path,
        env=os.environ | {VARIABLE: str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr.startswith("gapkit: Expected train-images-idx3-ubyte[.gz] in ")
    assert "apt-get install dataset-fashion-mnist" in shown.stderr
    assert shown.stderr.count("\n") == 1
