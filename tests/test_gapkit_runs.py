"""The run folder gives back what it was given, or says in one line why it cannot."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gapkit import __version__
from gapkit.errors import InputError, describe
from gapkit.knowledge import knowledge_named
from gapkit.plans import Cost, Phase, Plan, Predicted, Stage
from gapkit.record import Array, Record
from gapkit.runs import FORMAT, Run, write

IDENTITY = {"study": "tiny", "seed": "0"}


class Inner(Record):
    """An array one level down."""

    x: Array


class Kept(Record):
    """What a record can hold: numbers that JSON lacks, words, arrays at two depths."""

    number: float
    words: str = "größer → 1"
    table: Array
    inner: tuple[Inner, ...] = ()


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.open(IDENTITY)
    return run


def made(scale: float = 1.0) -> Kept:
    table = np.array([[math.nan, math.inf], [-math.inf, -0.1 * scale]])
    return Kept(
        number=math.nan,
        table=table,
        inner=(Inner(x=np.arange(3)), Inner(x=np.array([], dtype=np.float32))),
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, and its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_arrays_nan_and_inf_come_back_bit_for_bit(run):
    run.save("deep/kept", made())
    back = run.load("deep/kept", Kept)
    assert back == made()
    assert back.table.tobytes() == made().table.tobytes()
    assert [item.x.dtype for item in back.inner] == [np.int64, np.float32]
    assert math.isnan(back.number)
    assert not back.table.flags.writeable


def test_the_text_is_strict_json_that_names_its_arrays(run):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    run.save("kept", made(), request={"budget": 8})
    body = json.loads((run.folder / "kept.json").read_text("utf-8"), parse_constant=refuse)
    assert body["gapkit"]["format"] == FORMAT
    assert body["gapkit"]["type"] == "Kept"
    assert body["gapkit"]["request"] == {"budget": 8}
    assert (run.folder / body["gapkit"]["arrays"]).exists()
    assert body["number"] == "NaN"
    assert body["words"] == "größer → 1"


def test_the_same_record_twice_gives_the_same_bytes(run, tmp_path):
    other = Run(tmp_path / "other")
    other.open(IDENTITY)
    for folder in (run, other):
        folder.save("kept", made())
    assert files(run.folder) == files(other.folder)


def test_nothing_there_and_another_request_are_both_none(run):
    assert run.load("cost", Cost) is None
    run.save("cost", Cost(seconds=1), request={"budget": 8, "fractions": (1.0, 2.0)})
    assert run.load("cost", Cost, {"fractions": [1.0, 2.0], "budget": 8}).seconds == 1
    assert run.load("cost", Cost, {"budget": 9, "fractions": [1.0, 2.0]}) is None
    assert run.load("cost", Cost).seconds == 1


def test_saving_again_leaves_one_arrays_file_and_other_records_alone(run):
    run.save("kept", made())
    run.save("kept-more", made(2))
    run.save("kept", made(3))
    arrays = sorted(path.name for path in run.folder.glob("*.safetensors"))
    assert len(arrays) == 2
    assert run.load("kept", Kept) == made(3)
    assert run.load("kept-more", Kept) == made(2)
    assert made(2) != made(3)


@pytest.mark.parametrize("parts", [("../x",), ("a", "..", "..", "x"), ("/etc/passwd",)])
def test_a_path_out_of_the_folder_is_refused(run, parts):
    with pytest.raises(InputError, match="Expected a path inside the run folder but got"):
        run.path(*parts)


def test_names_that_leave_the_folder_are_neither_read_nor_written(run, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match=r"inside the run folder but got '\.\./x\.json'"):
        run.load("../x", Cost)
    with pytest.raises(InputError, match="inside the run folder"):
        run.save("../y", Cost())
    run.save("kept", made())
    text = (run.folder / "kept.json").read_text("utf-8")
    name = json.loads(text)["gapkit"]["arrays"]
    (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    (run.folder / "kept.json").write_text(text.replace(name, f"../{name}"))
    with pytest.raises(InputError, match="inside the run folder"):
        run.load("kept", Kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "run", "x.json"]


def test_a_link_out_of_the_folder_is_not_followed(run, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    (run.folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="inside the run folder"):
        run.path("link", "x.json")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_record_cut_off_is_refused_and_deleting_it_helps(run, share):
    run.save("kept", made())
    path = run.folder / "kept.json"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"kept.json but it cannot be read .*delete it"):
        run.load("kept", Kept)
    path.unlink()
    assert run.load("kept", Kept) is None


@pytest.mark.parametrize("harm", ["missing", "changed", "cut"])
def test_arrays_missing_or_changed_are_refused_by_name(run, harm):
    run.save("kept", made())
    arrays = next(run.folder.glob("kept-*.safetensors"))
    blob = arrays.read_bytes()
    if harm == "missing":
        arrays.unlink()
    else:
        arrays.write_bytes(blob[:-4] if harm == "cut" else blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(
        InputError, match=rf"{arrays.name} .* missing or changed; delete .*kept.json"
    ):
        run.load("kept", Kept)


@pytest.mark.parametrize(
    "text, match",
    [
        ("[1]", "Expected a JSON object in .*cost.json but got list"),
        ('{"gapkit": 3}', "Expected an object 'gapkit' in .*cost.json but got 3"),
        ('{"secondes": 3}', "hold a Cost but Expected a known field but got 'secondes'"),
        ('{"seconds": "long"}', "Cost but seconds: Expected a valid number but got 'long'"),
        ('{"seconds": "a", "flops": "b"}', "flops: .*'b'; seconds: .*'a'"),
    ],
)
def test_what_is_no_such_record_is_refused_with_field_and_value(run, text, match):
    (run.folder / "cost.json").write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        run.load("cost", Cost)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(run):
    (run.folder / "cost.json").write_bytes(b'{"seconds": "\xff"}')
    with pytest.raises(InputError, match=r"complete JSON in .*cost.json"):
        run.load("cost", Cost)


def test_a_record_written_by_hand_without_header_is_read(run):
    (run.folder / "cost.json").write_text('{"seconds": "inf"}')
    assert run.load("cost", Cost, request={"budget": 1}).seconds == math.inf


def test_a_validation_error_in_one_line_names_the_place():
    stage = Stage(name="s", size=1, phases=(Phase(knowledge=knowledge_named("scratch")),))
    given = {"low": 0.0, "value": 0.0, "high": 0.0}
    plan = Plan(
        study="x", stages=(stage,), predicted=given, predicted_run=given, cost=Cost()
    ).model_dump(mode="json")
    assert Predicted(**given) == Plan.model_validate(plan).predicted
    plan["stages"][0]["phases"][0]["knowledge"][0]["weight"] = -1
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested below
        Plan.model_validate(plan)
    assert describe(caught.value) == (
        "stages.0.phases.0.knowledge.0.weight: Expected a number greater than or equal to 0 but got -1"
    )


def test_the_manifest_says_what_made_the_folder(run):
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["format"] == FORMAT == 1
    assert manifest["gapkit"] == __version__
    assert manifest["identity"] == IDENTITY
    assert manifest["versions"]["numpy"] == np.__version__
    again = Run(run.folder)
    again.open(IDENTITY)
    assert again.manifest == manifest


def test_the_folder_of_another_study_is_refused_and_untouched(run):
    run.save("cost", Cost())
    before = files(run.folder)
    with pytest.raises(InputError, match=r"another \(seed was 0, is 1\); choose another --out"):
        Run(run.folder).open(IDENTITY | {"seed": "1"})
    assert files(run.folder) == before


def test_a_folder_in_which_nothing_was_made_is_taken_over(run):
    (run.folder / "trainings" / "2-s0").mkdir(parents=True)
    changed = IDENTITY | {"seed": "1"}
    Run(run.folder).open(changed)
    assert json.loads((run.folder / "manifest.json").read_text())["identity"] == changed
    (run.folder / "trainings" / "2-s0" / "checkpoint.pt").write_bytes(b"half a training")
    with pytest.raises(InputError, match="belongs to another"):
        Run(run.folder).open(IDENTITY)


def test_long_values_are_shortened_in_what_differs(run):
    run.save("cost", Cost())
    with pytest.raises(InputError, match=r"data was None, is aaaaaaaaaaaa…\)"):
        Run(run.folder).open(IDENTITY | {"data": "a" * 64})


@pytest.mark.parametrize(
    "text, match",
    [
        ('{"format": 1, "iden', "complete JSON in .*manifest.json .*restore it or choose another"),
        ('{"format": 2, "gapkit": "0.9", "identity": {}}', r"format 1 or older .* format 2, written by gapkit 0\.9"),
        ('{"format": "1", "identity": {}}', "Expected a gapkit manifest"),
        ('{"format": 1}', "Expected a gapkit manifest"),
        ('{"format": 1, "identity": []}', "Expected a gapkit manifest"),
        ("3", "Expected a JSON object in .*manifest.json but got int"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_broken_or_newer_is_refused_and_untouched(run, text, match):
    (run.folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=match):
        Run(run.folder).open(IDENTITY)
    assert (run.folder / "manifest.json").read_text() == text


def test_a_folder_with_foreign_files_is_refused_and_left_without_a_lock(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis.tex and no manifest.json"):
        Run(tmp_path).open(IDENTITY)
    with pytest.raises(InputError, match=r"holds thesis.tex"), Run(tmp_path).locked():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_first_call_leaves_is_no_stranger(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".manifest.json.4711").write_bytes(b'{"for')
    Run(tmp_path).open(IDENTITY)
    assert json.loads((tmp_path / "manifest.json").read_text())["identity"] == IDENTITY


def test_the_lock_is_held_against_another_process_and_given_back(run):
    code = (
        "import sys; from gapkit.runs import Run\n"
        "with Run(sys.argv[1]).locked():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"), run.locked():
            pass
        holder.stdin.close()
        assert holder.wait(20) == 0
    with run.locked():
        assert (run.folder / ".lock").exists()


def test_a_lock_is_given_back_after_an_exception(run):
    with pytest.raises(KeyError), run.locked():
        raise KeyError
    with run.locked(), pytest.raises(InputError, match="in use"), Run(run.folder).locked():
        pass


def test_a_full_disk_keeps_the_old_record_whole(run, monkeypatch):
    run.save("kept", made())
    before = files(run.folder)
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        run.save("kept", made(2))
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith(".safetensors")
    assert files(run.folder) == before
    assert run.load("kept", Kept) == made()


def test_a_disk_that_fills_between_arrays_and_text_keeps_the_old_record(run, monkeypatch):
    run.save("kept", made())
    real = os.replace

    def replace(source, target):
        if str(target).endswith(".json"):
            full_disk()
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=r"No space left.*kept\.json"):
        run.save("kept", made(2))
    monkeypatch.undo()
    assert run.load("kept", Kept) == made()
    assert not list(run.folder.glob(".*.json.*"))
    run.save("kept", made(2))
    assert len(list(run.folder.glob("*.safetensors"))) == 1


def test_a_real_limit_of_the_file_system_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(path, b"n" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert files(tmp_path) == {"a.json": b"old"}


def test_an_interrupt_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    path = tmp_path / "a.json"
    write(path, b"old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, b"new")
    assert files(tmp_path) == {"a.json": b"old"}
