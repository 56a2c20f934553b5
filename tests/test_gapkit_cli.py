"""The command line: what each command leaves, and one line and exit code 2 for what the user can mend."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from gapkit import __version__
from gapkit.cli import main
from gapkit.commands.quote import Quote
from gapkit.distiller import Loop
from gapkit.gap import Gap
from gapkit.measurement import Measurements
from gapkit.outcome import Outcome
from gapkit.plans import Plan
from gapkit.quality.grounds import Gate
from gapkit.study import Study
from tests.tiny_study import study_file

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny_study.py"
COMMANDS = ("run", "measure", "diagnose", "plan", "distill", "report", "demo")
OTHERS = ("init", "check", "compare")
BUDGETS = ("--diagnose-budget", "2", "--plan-budget", "2")
PROGRESS = re.compile(r"\d\d:\d\d:\d\d (preparing|measuring|diagnosing|planning|distilling): ")
NAN = "float('nan')"


class Said(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What standard error holds besides progress."""
        return [line for line in self.err.splitlines() if not PROGRESS.match(line)]

    def refuses(self, match: str) -> str:
        """Check that this is one line and exit code 2, and that the line says so; returns it."""
        assert self.code == 2, self
        assert self.out == ""
        assert len(self.lines) == 1, self.err
        assert self.lines[0].startswith("gapkit: ")
        assert re.search(match, self.lines[0]), self.lines[0]
        return self.lines[0]


def gapkit(*arguments: object) -> Said:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["gapkit", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        return Said(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("main returned without an exit code")


def started(*arguments: object, **environment: str) -> subprocess.Popen:
    """Start a command in a process of its own, which hears Ctrl-C also where this one ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "gapkit", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def ended(process: subprocess.Popen) -> Said:
    """Wait for it."""
    with process:
        out, err = process.communicate(timeout=120)
    return Said(process.returncode, out, err)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder but the lock: when it was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A run folder in which `run` did everything, and what it said. Read only: take `folder`."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    said = gapkit("run", TINY, "--out", folder, *BUDGETS)
    assert said.code == 0, said.err
    return folder, said


@pytest.fixture
def folder(prepared, tmp_path):
    """A copy of the prepared run folder."""
    return Path(shutil.copytree(prepared[0], tmp_path / "run"))


@pytest.fixture
def no_training(monkeypatch):
    """Whatever trains fails the test."""

    def run(self, tick=None):
        raise AssertionError("a model is trained")

    monkeypatch.setattr(Loop, "run", run)


def edited(folder: Path, edit) -> Path:
    """Change plan.json by a function of its content."""
    path = folder / "plan.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def one_stage(**changes: object) -> dict:
    """A stage that distils the student by KL; its phases' knowledge is the first in it."""
    knowledge = [
        {"kind": "response", "loss": "kl", "temperature": 2.0, "weight": 0.9},
        {"kind": "label", "weight": 0.1},
    ]
    return {
        "name": "student", "size": 2, "sources": ["teacher"], "recipe": {"epochs": 1},
        "phases": [{"knowledge": knowledge}], "seeds": [5],
    } | changes  # fmt: skip


# Each step, and all of them


def test_run_leaves_every_result_and_says_them_in_brief(prepared):
    folder, said = prepared
    for name, kind in (("gap", Gap), ("plan", Plan), ("outcome", Outcome)):
        body = json.loads((folder / f"{name}.json").read_text())
        assert body["gapkit"]["type"] == kind.__name__
    assert (folder / "gap.pdf").read_bytes().startswith(b"%PDF-")
    assert said.lines == []
    assert said.out.startswith("Why tiny falls short of its teacher")
    assert all(len(line) <= 80 for line in said.out.splitlines() if "report " not in line)
    assert not list(folder.rglob("*checkpoint*"))
    assert not [path for path in folder.rglob(".*") if not path.name.endswith(".lock")]


def test_run_again_repeats_nothing(folder, prepared, no_training):
    before = files(folder)
    again = gapkit("run", TINY, "--out", folder, *BUDGETS)
    assert again.code == 0, again.err
    strip = str.maketrans("", "", "\n ")
    first = prepared[1].out.replace(str(prepared[0]), "").translate(strip)
    assert again.out.replace(str(folder), "").translate(strip) == first
    after = files(folder)
    del before["gap.pdf"], after["gap.pdf"]  # names its folder
    assert after == before


def test_each_step_alone_picks_up_what_the_folder_holds(tmp_path):
    out, seen = tmp_path / "run", {}
    steps = {
        "measure": ((), "measurements.json"),
        "diagnose": (("--no-controls",), "gap.json"),
        "plan": (("--budget", "3"), "plan.json"),
        "distill": ((), "outcome.json"),
        "report": ((), "gap.pdf"),
    }
    for step, (options, leaves) in steps.items():
        assert not (out / leaves).exists()
        said = gapkit(step, TINY, "--out", out, *options)
        assert said.code == 0, said.err
        assert said.lines == []
        assert str(out) in said.out
        now = files(out)
        assert leaves in now
        assert {name: now[name] for name in seen} == seen
        seen = now
    searched = json.loads((out / "trials.json").read_text())["rows"]
    assert searched
    assert sum(row["cost"] for row in searched if row["origin"] == "search") <= 3


def test_report_alone_writes_what_there_is(tmp_path):
    out = tmp_path / "run"
    said = gapkit("report", TINY, "--out", out, "--to", tmp_path / "gap.md", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == {"report": str(tmp_path / "gap.md")}
    assert "tiny" in (tmp_path / "gap.md").read_text()
    assert not (out / "gap.json").exists()


def test_report_checks_the_quality_gates_a_line_each(folder, no_training):
    said = gapkit("report", TINY, "--out", folder, "--check")
    assert (said.code, said.lines) == (1, [])
    *gates, last = said.out.splitlines()
    assert last == f"report   {folder / 'gap.pdf'}"
    assert [line.split()[0] for line in gates].count("passed") < len(gates) == 5
    assert all(re.match(r"(passed|failed|open) +[a-z ]+: [A-Z].+\.$", line) for line in gates)
    as_json = gapkit("report", TINY, "--out", folder, "--check", "--json")
    assert as_json.code == 1
    found = json.loads(as_json.out)
    assert [str(Gate.model_validate(gate)) for gate in found["gates"]] == gates
    assert found["report"] == str(folder / "gap.pdf")
    assert gapkit("report", TINY, "--out", folder).out == f"{last}\n"


@pytest.mark.parametrize(
    "states, code",
    [(("passed", "passed"), 0), (("passed", "failed"), 1), (("open", "passed"), 1)],
)
def test_report_check_passes_only_when_every_gate_does(
    folder, no_training, monkeypatch, states, code
):
    gates = tuple(Gate(name="invented", state=state, reason="Because.") for state in states)
    monkeypatch.setattr(Study, "gates", lambda self: gates)
    said = gapkit("report", TINY, "--out", folder, "--check")
    assert (said.code, said.lines) == (code, [])
    assert said.out.splitlines()[:2] == [str(gate) for gate in gates]
    assert gapkit("report", TINY, "--out", folder).code == 0


def test_report_check_refuses_what_cannot_be_written(folder, tmp_path, no_training):
    gapkit("report", TINY, "--out", folder, "--check", "--to", tmp_path / "gap.txt").refuses(
        "Expected a report path that ends in .pdf, .md, .html or .json"
    )


@pytest.mark.parametrize(
    "options, kind, name",
    [
        (("measure",), Measurements, "measurements"),
        (("diagnose", "--budget", "2"), Gap, "gap"),
        (("plan", "--budget", "2"), Plan, "plan"),
        (("distill",), Outcome, "outcome"),
    ],
)
def test_json_on_standard_output_is_the_result_itself(folder, no_training, options, kind, name):
    step, *rest = options
    said = gapkit(step, TINY, "--out", folder, *rest, "--json")
    assert said.code == 0, said.err
    result = kind.model_validate_json(said.out)
    body = json.loads((folder / f"{name}.json").read_text())
    assert result.study == body["study"] == "tiny"
    assert not said.lines


def test_json_of_run_holds_all_results_and_strict_json(folder, no_training):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    said = gapkit("run", TINY, "--out", folder, *BUDGETS, "--json")
    found = json.loads(said.out, parse_constant=refuse)
    assert set(found) == {"gap", "plan", "outcome", "report"}
    assert found["gap"]["cause"] == json.loads((folder / "gap.json").read_text())["cause"]
    assert found["report"] == str(folder / "gap.pdf")


def test_what_a_study_file_prints_does_not_spoil_the_json(folder, tmp_path, no_training):
    path = study_file(tmp_path, "print('hello from the user')\nstudy = tiny()\n")
    said = gapkit("measure", path, "--out", folder, "--json")
    assert said.code == 0
    assert json.loads(said.out)["study"] == "tiny"
    assert said.lines == ["hello from the user"]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_a_dry_run_trains_nothing_and_leaves_no_folder(tmp_path, no_training, command):
    out = tmp_path / "run"
    said = gapkit(command, TINY, "--out", out, "--dry-run")
    assert said.code == 0, said.err
    assert "one student training is the unit" in said.out
    assert "total" in said.out
    assert not out.exists()
    as_json = gapkit(command, TINY, "--out", out, "--dry-run", "--json")
    names = [line.name for line in Quote.model_validate_json(as_json.out).lines]
    steps = list(COMMANDS[1:-1]) if command == "run" else [command]
    assert names == ["teacher", "student", *steps]
    assert not out.exists()


def test_a_dry_run_on_a_finished_folder_changes_nothing_in_it(folder, no_training):
    (folder / ".lock").unlink(missing_ok=True)
    before = files(folder)
    said = gapkit("run", TINY, "--out", folder, "--dry-run")
    assert said.code == 0, said.err
    assert "the plan in the run folder" in said.out
    assert files(folder) == before
    assert not (folder / ".lock").exists()


# Study files


@pytest.mark.parametrize(
    "body, match",
    [
        ("x = 1", "to define `study` .* but it does not"),
        ("study = 3", "to be a gapkit.Study but got int"),
        ("def f():\n    return 1 / 0\nstudy = f()", r"mine\.py to run but line 11 raises ZeroDivisionError"),
        ("study = tiny(seed=0)\nstudy.nosuch()", "line 11 raises AttributeError"),
        ("def build_it(w):\n    raise RuntimeError('out of ideas')\n"
         "study = tiny(family=gk.Family(build_it, [2, 16], teacher=16))", "line 11 raises RuntimeError: out of"),
        ("study = tiny(data=gk.Data(train=TensorDataset(*blobs(0, 1)), test=TensorDataset(*blobs(9, 1))))",
         "at least one sample in the train dataset but it is empty"),
        ("study = tiny(family=gk.Family(build, [2, 4, 16], student=3))",
         "a known size of the family but got '3'.*known: '2', '4', '16'"),
        ("study = tiny(teacher=build(16, 4))", "the same classes but .*4.* and .*3"),
        ("study = tiny(teacher=build(16), student=build(2, 4))", "the same classes but got 3 and 4"),
        ("study = tiny(teacher=build(16, 2), student=build(2, 2), "
         "family=gk.Family(lambda w: build(w, 2), [2, 4, 16], student=2, teacher=16))",
         "labels from 0 to 1, the .*2 classes, but got labels from 0 to 2"),
        ("x, y = blobs(30, 1)\nsplit = TensorDataset(torch.cat([x, x], 1), y)\n"
         "study = tiny(teacher=build(16), student=build(2), data=gk.Data(train=split, test=split))",
         r"teacher.* to accept its view .*but it raised RuntimeError: mat1 and mat2 shapes"),
        ("study = tiny(teacher=build(16), student=build(2), layers=['nosuch'])", "a known layer but got 'nosuch'"),
        ("study = tiny(teacher=build(16), student=build(2), layers={'teacher': ['1'], 'student': ['x.*']})",
         r"student: Expected a known layer but got 'x\.\*'"),
        ("class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
         "        self.body, self.aside = build(16), nn.Linear(2, 2)\n"
         "    def forward(self, x):\n        return self.body(x)\n"
         "study = tiny(teacher=Net(), student=build(2), layers={'teacher': ['aside']})",
         "teacher: Expected layer 'aside' to run in a forward pass but it never did"),
        (f"x, y = blobs(60, 1)\nx[7, 2] = {NAN}\n"
         "study = tiny(teacher=build(16), student=build(2), data=gk.Data("
         "train=TensorDataset(x, y), test=TensorDataset(*blobs(30, 2))))",
         r"finite features but got nan from the \w+ at '\d' for sample 'train/7'"),
        (f"net = build(16)\nnet[2].bias.data[1] = {NAN}\nstudy = tiny(teacher=net, student=build(2))",
         r"nan from the teacher at '2' for sample '\w+/\d+' \(1 of 3 values\)"),
        (f"net = build(2)\nnet[0].bias.data[1] = {NAN}\nstudy = tiny(teacher=build(16), student=net)",
         r"nan from the student at '1' for sample '\w+/\d+' \(1 of 2 values\)"),
        ("study = tiny(recipe=gk.Recipe(epochs=2, batch_size=16, lr=1e30, optimizer='sgd'))",
         "finite loss but got .* in stage .*, epoch 1, step .*samples train/"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_is_refused_in_one_line(tmp_path, body, match):
    out = tmp_path / "run"
    said = gapkit("measure", study_file(tmp_path, body), "--out", out)
    said.refuses(match)
    assert not (out / "measurements.json").exists()


ROWS = "train=TensorDataset(x, y), test=TensorDataset(x, y)"


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    "body, match",
    [
        ("study = tiny(teacher=build(16, 4))", "teacher and student to have the same classes but got 4 and 3"),
        (f"x, y = torch.zeros(30, 5), torch.arange(30) % 3\nstudy = tiny(data=gk.Data({ROWS}))",
         "the teacher on train to accept its view but it raised RuntimeError: mat1 and mat2"),
        (f"x, y = torch.zeros(30, 4), torch.rand(30)\nstudy = tiny(data=gk.Data({ROWS}))",
         r"integer labels of shape \(samples,\) but got torch.float32"),
        (f"x, y = torch.zeros(30, 4), torch.arange(30) % 4\nstudy = tiny(data=gk.Data({ROWS}))",
         "labels from 0 to 2, the teacher's 3 classes, but got labels from 0 to 3"),
        ("rows = [(torch.zeros(4 + (i == 20)), i % 3) for i in range(30)]\n"
         "study = tiny(data=gk.Data(train=rows, test=rows))", "samples that make up a batch but rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_a_teacher_is_trained(
    tmp_path, no_training, body, match, options
):
    out = tmp_path / "run"
    gapkit("run", study_file(tmp_path, body), "--out", out, *options).refuses(match)
    assert not out.exists() or files(out) == {}


def test_a_refused_first_call_does_not_bar_the_mended_study(tmp_path):
    out = tmp_path / "run"
    wrong = study_file(tmp_path, "study = tiny(teacher=build(16), student=build(2, 4))")
    gapkit("measure", wrong, "--out", out).refuses("the same classes")
    torch_seeded = "torch.manual_seed(0)\nstudy = tiny(teacher=build(16), student=build(2))"
    said = gapkit("measure", study_file(tmp_path, torch_seeded), "--out", out)
    assert said.code == 0, said.err
    assert "measurements.json" in files(out)


def test_a_study_file_that_does_not_exist_is_refused(tmp_path):
    gapkit("run", tmp_path / "no.py").refuses(r"Expected a study file but .*no\.py does not exist")
    gapkit("run", tmp_path).refuses("is a folder")


# Plans by hand


def test_an_edited_plan_is_what_distill_carries_out(folder):
    before = json.loads((folder / "outcome.json").read_text())
    edited(folder, lambda plan: plan.update(stages=[one_stage()]))
    said = gapkit("distill", TINY, "--out", folder, "--json")
    assert said.code == 0, said.err
    (stage,) = json.loads(said.out)["stages"]
    assert stage["knowledge"] == "0.9·kl τ=2 + 0.1·labels"
    (training,) = stage["trainings"]
    assert (training["epochs"], training["seed"], training["path"]) == (1, 5, [16, 2])
    after = json.loads((folder / "outcome.json").read_text())
    assert after["stages"][0]["knowledge"] != before["stages"][0]["knowledge"]
    again = gapkit("distill", TINY, "--out", folder, "--json")
    assert json.loads(again.out) == json.loads(said.out)


def test_two_stages_by_hand_teach_one_after_the_other(folder):
    first = one_stage(name="assistant 4", size=4)
    second = one_stage(
        sources=["assistant 4"],
        phases=[
            {"knowledge": one_stage()["phases"][0]["knowledge"], "until": 0.5},
            {"knowledge": [{"kind": "label"}]},
        ],
        recipe={"epochs": 2},
    )
    edited(folder, lambda plan: plan.update(stages=[first, second]))
    said = gapkit("distill", TINY, "--out", folder, "--json")
    assert said.code == 0, said.err
    stages = json.loads(said.out)["stages"]
    assert [stage["trainings"][0]["path"] for stage in stages] == [[16, 4], [16, 4, 2]]
    assert stages[1]["knowledge"] == "0.9·kl τ=2 + 0.1·labels, then 1·labels"


def response(**changes: object) -> dict:
    """Change the response knowledge of the one stage."""
    stage = one_stage()
    stage["phases"][0]["knowledge"][0] |= changes
    return {"stages": [stage]}


def phases(*ends: float) -> dict:
    """Phases that end there."""
    knowledge = one_stage()["phases"][0]["knowledge"]
    return {"stages": [one_stage(phases=[{"knowledge": knowledge, "until": end} for end in ends])]}


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    "change, match",
    [
        (response(loss="kll"), "a known response loss in stage 'student' but got 'kll'; nearest: 'kl'"),
        (response(temperature=-1), r"plan\.json.*knowledge\.0\.temperature: .*greater than 0 but got -1"),
        (response(weight="heavy"), r"knowledge\.0\.weight: .*got 'heavy'"),
        (response(weight=float("nan")), "weight: Expected a finite number but got nan"),
        (response(kind="label"), "loss 'task' for labels"),
        (response(heat=3), "Expected a known field but got 'heat'"),
        (phases(0.5), r"phases of stage 'student' that end in rising order at 1 but got \[0\.5\]"),
        (phases(0.8, 0.2, 1.0), "rising order"),
        (phases(1.5), "until: Expected a number less than or equal to 1 but got 1.5"),
        ({"stages": [one_stage(sources=["nobody"])]}, "sources of stage 'student' among teacher .*'nobody'"),
        ({"stages": [one_stage(sources=[])]}, "a source for stage 'student'"),
        ({"stages": [one_stage(sources=["checkpoint:0"])]}, "a teacher checkpoint below 0 .*'checkpoint:0'"),
        ({"stages": [one_stage(size=3)]}, "a known size for stage 'student' but got '3'"),
        ({"stages": [one_stage(size=4)]}, "last stage to train the student's size 2 but got 4"),
        ({"stages": [one_stage(), one_stage()]}, "'student' comes twice"),
        ({"stages": [one_stage(name="teacher")]}, "a stage name other than 'teacher'"),
        ({"stages": [one_stage(scheme="online")]}, "Expected peers for scheme 'online'"),
        ({"stages": [one_stage(recipe={"epoch": 3})]}, "a known recipe field but got 'epoch'; nearest: 'epochs'"),
        ({"stages": [one_stage(recipe={"epochs": 0})]}, "epochs: Expected a number .* equal to 1 but got 0"),
        ({"stages": [one_stage(recipe={"epochs": "many"})]}, "epochs: .*got 'many'"),
        ({"stages": [one_stage(recipe={"optimizer": "adamm"})]}, "known optimizer but got 'adamm'"),
        ({"stages": [one_stage(init="stale")]}, "init: Expected 'fresh', 'student' or 'inherit' but got 'stale'"),
        ({"stages": [one_stage(seeds=[])]}, "seeds: .*at least 1 item"),
        ({"stages": []}, "stages: .*at least 1 item"),
        ({"stagess": []}, "Expected a known field but got 'stagess'"),
    ],
)  # fmt: skip
def test_a_plan_edited_into_nonsense_is_refused_before_anything_is_trained(
    folder, no_training, change, match, options
):
    path = edited(folder, lambda plan: plan.update(change))
    before = files(folder)
    gapkit("distill", TINY, "--out", folder, *options).refuses(match)
    assert files(folder) == before
    assert path.exists()


def test_a_plan_that_is_no_json_is_refused(folder, no_training):
    path = folder / "plan.json"
    path.write_text(path.read_text().replace('"stages": [', '"stages": [,', 1))
    before = files(folder)
    for options in ((), ("--dry-run",)):
        gapkit("distill", TINY, "--out", folder, *options).refuses(r"complete JSON in .*plan\.json")
    assert files(folder) == before


# Run folders


def cut(name: str):
    """Cut all files of that name in half."""

    def harm(folder: Path) -> None:
        for path in folder.rglob(name):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return harm


def dropped(pattern: str):
    """Delete a file of the folder."""
    return lambda folder: next(folder.rglob(pattern)).unlink()


def rewritten(name: str, old: str, new: str):
    """Replace a word in a file of the folder."""

    def harm(folder: Path) -> None:
        path = next(folder.rglob(name))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return harm


def flipped(pattern: str):
    """Change the last byte of all such files."""

    def harm(folder: Path) -> None:
        for path in folder.rglob(pattern):
            blob = path.read_bytes()
            path.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))

    return harm


@pytest.mark.parametrize(
    "harm, match",
    [
        (cut("manifest.json"), "complete JSON in .*manifest.json .*restore it or choose another --out"),
        (rewritten("manifest.json", '"format": 1', '"format": 2'), "format 1 or older .* has format 2"),
        (rewritten("manifest.json", '"study": "tiny"', '"study": "huge"'), "another .study was huge, is tiny"),
        (dropped("manifest.json"), "Expected an empty or a gapkit run folder but .* no manifest"),
        (cut("measurements.json"), "complete JSON in .*measurements.json .*delete it"),
        (dropped("measurements-*.safetensors"), "arrays of measurements.json but it is missing or changed"),
        (flipped("measurements-*.safetensors"), "arrays of measurements.json but it is missing or changed"),
        (cut("training.json"), "complete JSON in .*training.json .*delete it"),
        (flipped("weights.safetensors"), "weights of .* missing or changed; delete"),
        (rewritten("measurements.json", '"study": ', '"studie": '), "hold a Measurements but"),
    ],
)  # fmt: skip
def test_a_harmed_run_folder_is_refused_and_its_other_files_are_kept(
    folder, no_training, harm, match
):
    harm(folder)
    before = files(folder)
    (folder / ".lock").unlink(missing_ok=True)
    said = gapkit("run", TINY, "--out", folder, *BUDGETS)
    said.refuses(match)
    assert files(folder) == before


@pytest.mark.parametrize("name", ["measurements.json", "gap.json", "outcome.json"])
def test_doing_as_the_refusal_says_mends_the_folder(folder, prepared, name):
    cut(name)(folder)
    line = gapkit("run", TINY, "--out", folder, *BUDGETS).refuses("delete it to have it made again")
    assert str(folder / name) in line
    (folder / name).unlink()
    said = gapkit("run", TINY, "--out", folder, *BUDGETS)
    assert said.code == 0, said.err
    made, first = (json.loads((place / name).read_text()) for place in (folder, prepared[0]))
    if name == "gap.json":  # what is trained by now costs nothing: more of it is looked at
        assert (made["cause"], made["student"]) == (first["cause"], first["student"])
    else:
        assert made == first


def test_the_folder_of_another_study_is_refused_by_every_command(folder, tmp_path, no_training):
    path = study_file(tmp_path, "study = tiny(seed=1)")
    before = files(folder)
    for command in COMMANDS[:-1]:
        for options in ((), ("--dry-run",)):
            said = gapkit(command, path, "--out", folder, *options)
            said.refuses(r"belongs to another \(.*seed was 0, is 1")
    assert files(folder) == before


def test_a_folder_with_foreign_files_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    gapkit("measure", TINY, "--out", tmp_path).refuses("holds thesis.tex and no manifest.json")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_another_process_holds_is_refused(folder, no_training):
    code = (
        "import sys; from gapkit.runs import Run\n"
        "with Run(sys.argv[1]).locked():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    before = files(folder)
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        gapkit("measure", TINY, "--out", folder).refuses("in use by another process")
        holder.stdin.close()
    assert files(folder) == before
    assert gapkit("measure", TINY, "--out", folder).code == 0


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    out = tmp_path / "taken"
    out.write_text("mine")
    gapkit("measure", TINY, "--out", out).refuses(
        f"read and write .*{out}.* what was finished is kept"
    )
    gapkit("measure", TINY, "--out", out / "below").refuses(f"read and write .*{out}")
    assert out.read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_said_and_keeps_what_was_finished(folder, monkeypatch, number):
    (folder / "outcome.json").unlink()
    edited(folder, lambda plan: plan.update(stages=[one_stage()]))
    before = files(folder)

    def write_bytes(path, content):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    said = gapkit("distill", TINY, "--out", folder)
    monkeypatch.undo()
    said.refuses(f"read and write .*{os.strerror(number)}; what was finished is kept")
    after = files(folder)
    assert {name: after[name] for name in before} == before
    assert gapkit("distill", TINY, "--out", folder).code == 0


@pytest.mark.parametrize("limit, n_kept", [(700, 0), (3000, 2), (12_000, 2)])
def test_a_file_system_that_takes_no_more_is_said_and_the_same_command_goes_on(
    tmp_path, limit, n_kept
):
    """The kernel itself refuses to write past the limit: weights and checkpoints meet it too."""
    out = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        said = gapkit("measure", TINY, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said.refuses("read and write .*File too large; what was finished is kept")
    kept = {name: file for name, file in files(out).items() if "training" in name}
    assert len([name for name in kept if name.endswith("training.json")]) == n_kept
    assert not [path for path in out.rglob(".*") if not path.name.endswith(".lock")]
    assert gapkit("measure", TINY, "--out", out).code == 0
    after = files(out)
    assert {name: after[name] for name in kept} == kept


def test_a_report_that_cannot_be_written_is_refused(folder, tmp_path, no_training):
    for to, match in (
        (tmp_path / "gap.docx", r"ends in \.pdf, \.md, \.html or \.json"),
        (tmp_path / "no" / "gap.pdf", "no"),
    ):
        gapkit("report", TINY, "--out", folder, "--to", to).refuses(match)


INTERRUPTIBLE = """
import os, time

class Slow(torch.utils.data.Dataset):
    def __init__(self, seed):
        self.x, self.y = blobs(120, seed)
    def __len__(self):
        return 120
    def __getitem__(self, i):
        time.sleep(float(os.environ.get("PAUSE", 0)) / 120)
        return self.x[i], self.y[i]

study = tiny(data=gk.Data(train=Slow(1), test=Slow(2)), recipe=gk.Recipe(epochs=8, batch_size=16, lr=0.05))
"""


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(tmp_path):
    path, out = study_file(tmp_path, INTERRUPTIBLE), tmp_path / "run"
    process = started("measure", path, "--out", out, PAUSE="0.1")
    until = time.monotonic() + 60
    while not list(out.glob("trainings/16-*/training.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.3)  # the student's training goes on for more than a second
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    ended(process).refuses("interrupted; what was finished is kept, the same command goes on")
    finished = {name: kept for name, kept in files(out).items() if "trainings/16-" in name}
    assert any(name.endswith("training.json") for name in finished)
    assert not any("measurements" in name for name in files(out))
    said = gapkit("measure", path, "--out", out)
    assert said.code == 0, said.err
    after = files(out)
    assert {name: after[name] for name in finished} == finished
    assert "measurements.json" in after
    assert not list(out.rglob("*checkpoint*"))
    assert len([name for name in after if name.endswith("training.json")]) == 2


# Help and usage


IMPORTS = """
import sys
sys.argv = ["gapkit", *sys.argv[1:]]
from gapkit.cli import main
try:
    main()
finally:
    heavy = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "typst", "lightning_fabric"}
    print("HEAVY", sorted(heavy & set(sys.modules)), len(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_is_quick_and_imports_nothing_heavy(command):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *command, "--help"],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heavy, n_modules = done.stderr.rsplit(maxsplit=1)
    assert heavy == "HEAVY []"
    assert int(n_modules) < 600  # numpy alone has a hundred and more
    assert "Usage" in done.stdout
    expected = ("--out", "--json", "--dry-run") if command else COMMANDS
    assert all(word in done.stdout for word in expected)


def test_the_version_is_printed():
    assert gapkit("--version") == Said(0, f"gapkit {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments, match",
    [
        (("nosuch",), "No such command 'nosuch'"),
        (("measure",), r"Missing argument 'STUDY\.py'"),
        (("plan", TINY, "--budgt", "3"), "No such option: --budgt"),
        (("plan", TINY, "--budget", "-1"), "--budget"),
        (("plan", TINY, "--objective", "worst"), "worst_slice"),
        (("plan", TINY, "--jobs", "0"), "--jobs"),
        (("plan", TINY, "--budget", "nan"), "--budget"),
        (("plan", TINY, "--budget", "inf"), "--budget"),
        (("plan", TINY, "--budget", "much"), "--budget"),
        (("demo", "--epochs", "0"), "--epochs"),
    ],
)
def test_usage_errors_are_one_line(arguments, match):
    gapkit(*arguments).refuses(match)


def test_a_reader_that_goes_away_is_no_traceback(folder):
    process = started("measure", TINY, "--out", folder, "--json")
    process.stdout.close()
    assert process.wait(120) in (0, 1)
    err = process.stderr.read()
    process.stderr.close()
    assert "Traceback" not in err
    assert "gapkit:" not in err


def test_demo_prices_its_work_without_training(tmp_path, no_training):
    said = gapkit("demo", "--out", tmp_path / "demo", "--epochs", "1", "--dry-run")
    assert said.code == 0, said.err
    assert said.out.startswith("Work for digits on ")
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_demo_does_everything_with_short_trainings(tmp_path):
    said = ended(started("demo", "--out", tmp_path / "demo", "--epochs", "1", "--json"))
    assert said.code == 0, said.err
    assert said.lines == []
    found = json.loads(said.out)
    assert found["gap"]["study"] == "digits"
    assert Path(found["report"]).read_bytes().startswith(b"%PDF-")


# A study file to fill in, and one batch through it


def test_init_writes_a_file_that_check_passes(tmp_path, monkeypatch, no_training):
    monkeypatch.chdir(tmp_path)
    said = gapkit("init", "mine.py", "--name", "shop")
    assert said == Said(0, "wrote mine.py; next: gapkit check mine.py\n", "")
    checked = gapkit("check", "mine.py")
    assert checked.code == 0, checked
    assert checked.out.startswith("shop on ")
    assert "ready to run" in checked.out
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["mine.py"]


@pytest.mark.parametrize(
    "arguments, match",
    [
        (("there.py",), r"Expected a new file but .*there\.py exists; it is left as it is"),
        (("mine.txt",), r"Expected a file that ends in \.py but got 'mine\.txt'"),
        (("no/mine.py",), "Expected an existing folder but got no"),
        (("mine.py", "--name", "a/b"), "Expected a name of letters, digits, - and _ but got 'a/b'"),
    ],
)
def test_init_overwrites_nothing_and_refuses_in_one_line(tmp_path, monkeypatch, arguments, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("mine")
    gapkit("init", *arguments).refuses(match)
    assert [path.name for path in tmp_path.iterdir()] == ["there.py"]
    assert (tmp_path / "there.py").read_text() == "mine"


def test_check_names_every_mistake_and_ends_with_2(tmp_path, no_training):
    body = "study = tiny(student=build(2, n_classes=4), layers={'teacher': ['nope']})\n"
    said = gapkit("check", study_file(tmp_path, body))
    assert said.code == 2
    assert said.err == ""
    wrong = [line for line in said.out.splitlines() if line.startswith("✗")]
    assert len(wrong) >= 2
    assert any("same classes" in line for line in wrong)
    assert any("nope" in line for line in wrong)
    found = json.loads(gapkit("check", study_file(tmp_path, body), "--json").out)
    assert sum(item["state"] == "wrong" for item in found["items"]) == len(wrong)


# What the command line changes about a study


def test_settings_reach_the_study(tmp_path, no_training):
    changes = (
        "--set",
        "recipe.epochs=7",
        "--set",
        "reduce=flatten",
        "--seed",
        "5",
        "--device",
        "cpu",
    )
    path = study_file(
        tmp_path,
        "study = tiny()\n"
        "check = type(study).check\n"
        "def said(self):\n"
        "    print(self.recipe.epochs, self.reduce, self.seed, self.device)\n"
        "    return check(self)\n"
        "type(study).check = said\n",
    )
    try:
        said = gapkit("check", path, *changes)
    finally:
        from gapkit.training.preflight import preflight

        def check(self):
            models = {
                "teacher": self.teacher_model_for_pricing,
                "student": self.student_for_pricing,
            }
            preflight(self.task, self.data, models, self.device)

        Study.check = check
    assert said.code == 0, said
    assert "7 flatten 5 cpu" in said.err


@pytest.mark.parametrize(
    "options, match",
    [
        (
            ("--set", "recipe.epochs=0"),
            "fitting --set recipe.epochs but epochs: .* greater than or equal",
        ),
        (("--set", "recipe.epoch=3"), "setting of the recipe but got 'epoch'; nearest: 'epochs'"),
        (("--set", "recipes.epochs=3"), "known setting but got 'recipes.epochs'"),
        (("--set", "recipe.epochs"), "Expected --set KEY=VALUE but got 'recipe.epochs'"),
        (("--set", "reduce=gapp"), "reduce"),
        (("--set", "seed=1.5"), "Expected a seed, an integer from 0"),
        (("--device", "gpu9"), "Expected a device of this machine but got 'gpu9'"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, match, no_training):
    gapkit("measure", TINY, *options).refuses(match)


def test_a_changed_study_does_not_mix_with_the_folder_of_the_old_one(folder, no_training):
    gapkit("measure", TINY, "--out", folder, "--set", "recipe.epochs=3").refuses(
        "belongs to another .*recipe was"
    )


def test_seed_goes_to_a_study_function_that_takes_one(tmp_path, no_training):
    body = "def study(seed=0):\n    print('made with', seed)\n    return tiny(seed=seed)\n"
    said = gapkit("check", study_file(tmp_path, body), "--seed", "9")
    assert said.code == 0, said
    assert "made with 9" in said.err


def test_quiet_says_nothing_but_the_result(folder, tmp_path):
    said = gapkit("measure", TINY, "--out", tmp_path / "new", "--quiet")
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith("Measurements of tiny")
    loud = gapkit("measure", TINY, "--out", tmp_path / "other")
    assert re.match(r"\d\d:\d\d:\d\d preparing: ", loud.err)


# Forms of the report, and several runs


@pytest.mark.parametrize("form, begins", [("html", "<!doctype html>"), ("md", "# "), ("json", "{")])
def test_report_is_written_in_the_form_asked_for(folder, tmp_path, no_training, form, begins):
    before = files(folder)
    where = folder / ("report.json" if form == "json" else f"gap.{form}")
    said = gapkit("report", TINY, "--out", folder, "--format", form)
    assert said == Said(0, f"report   {where}\n", "")
    assert where.read_text(encoding="utf-8").startswith(begins)
    elsewhere = tmp_path / f"mine.{form}"
    assert gapkit("report", TINY, "--out", folder, "--to", elsewhere).code == 0
    assert elsewhere.read_text(encoding="utf-8").startswith(begins)
    assert {name: files(folder)[name] for name in before} == before


def test_a_report_says_how_to_run_the_study_again(folder, no_training):
    assert gapkit("report", TINY, "--out", folder, "--format", "md", "--seed", "0").code == 0
    said = (folder / "gap.md").read_text(encoding="utf-8")
    assert f"gapkit run {TINY} --out {folder} --set seed=0\n" in said


def test_a_report_never_takes_the_place_of_a_result(folder, no_training):
    before = files(folder)
    for name in ("gap.json", "plan.json", "manifest.json"):
        gapkit("report", TINY, "--out", folder, "--to", folder / name).refuses(
            "Expected a report outside the run's own results but got .*report.json is free"
        )
    assert files(folder) == before


def test_a_form_that_is_none_or_does_not_fit_the_path_is_refused(folder, no_training):
    gapkit("report", TINY, "--out", folder, "--format", "docx").refuses(
        "Expected a known format but got 'docx'"
    )
    gapkit("report", TINY, "--out", folder, "--format", "md", "--to", folder / "a.pdf").refuses(
        r"Expected a path that ends in \.md but got"
    )


def test_a_report_shows_samples_and_writes_the_same_bytes_again(folder, no_training):
    assert gapkit("report", TINY, "--out", folder).code == 0
    first = (folder / "gap.pdf").read_bytes()
    kept = (folder / "exhibits.json").stat().st_mtime_ns
    assert gapkit("report", TINY, "--out", folder).code == 0
    assert (folder / "gap.pdf").read_bytes() == first
    assert (folder / "exhibits.json").stat().st_mtime_ns == kept


def test_compare_puts_runs_side_by_side_in_one_file(folder, tmp_path, no_training):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    before = files(folder)
    said = gapkit("compare", folder, other, "--to", tmp_path / "both.pdf")
    assert said == Said(0, f"report   {tmp_path / 'both.pdf'}\n", "")
    assert (tmp_path / "both.pdf").read_bytes().startswith(b"%PDF-")
    assert files(folder) == before
    page = gapkit("compare", folder, other, "--to", tmp_path / "both.html", "--json")
    assert json.loads(page.out) == {"report": str(tmp_path / "both.html")}


def test_compare_refuses_what_it_cannot_compare(folder, tmp_path, no_training):
    gapkit("compare", folder).refuses("Expected two runs or more to compare but got 1")
    gapkit("compare", folder, tmp_path / "no").refuses(
        "Expected a run folder but .* does not exist"
    )
    gapkit("compare", folder, folder, "--to", tmp_path / "a.doc").refuses(
        "a report path that ends in"
    )


def test_nothing_is_trained_for_a_layer_or_a_report_that_cannot_be(tmp_path, no_training):
    file = study_file(tmp_path, '\nstudy = tiny(layers={"teacher": ["blok*"]})\n')
    gapkit("measure", file, "--out", tmp_path / "r").refuses(
        "teacher: Expected a known layer but got 'blok\\*'"
    )
    fresh = ("report", TINY, "--out", tmp_path / "r")
    gapkit(*fresh, "--to", tmp_path / "x.docx").refuses("a report path that ends in")
    gapkit(*fresh, "--to", tmp_path / "no" / "x.pdf").refuses("an existing folder for the report")
    assert not (tmp_path / "r").exists() or files(tmp_path / "r") == {}


# Help, and completion


@pytest.mark.parametrize("command", [*COMMANDS, *OTHERS])
def test_every_command_has_examples_that_parse(command):
    said = gapkit(command, "--help").out
    assert "Examples:" in said
    shown = re.findall(rf"^ *\$ (gapkit {command}\b.*?) *$", said, re.MULTILINE)
    assert shown
    from gapkit.cli import app

    parser = typer.main.get_command(app)
    for line in shown:
        words = line.split()[2:]
        if words and words[0] == "runs/*":
            words = ["runs/a", "runs/b", *words[1:]]
        context = parser.commands[command].make_context(command, words)
        assert context.params


def test_help_fits_80_columns_and_says_the_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "gapkit", "--help"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"COLUMNS": "80"}, check=True,
    )  # fmt: skip
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = " ".join(done.stdout.split())
    assert (
        "Exit codes: 0 done; 1 a quality gate that is not passed; 2 what you can mend, or Ctrl-C."
        in said
    )


def test_completion_offers_commands_and_options():
    def offered(words: str) -> str:
        code = "import sys; sys.argv = ['gapkit']; from gapkit.cli import main; main()"
        environment = {"_GAPKIT_COMPLETE": "complete_bash", "COMP_WORDS": words,
                       "COMP_CWORD": str(len(words.split()) - 1)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    assert offered("gapkit re").split() == ["report"]
    assert "--format" in offered("gapkit report --f")
