"""A study file is run as it is; what fails in it is said with its line."""

from __future__ import annotations

import sys

import pytest

from gapkit.commands.studyfile import blamed, load_study
from gapkit.errors import InputError
from gapkit.runs import Run
from gapkit.study import Study
from tests.tiny_study import HEAD, study_file

FIRST = HEAD.count("\n") + 1  # line of the body's first line


def test_a_study_or_a_function_that_returns_one(tmp_path):
    plain = load_study(study_file(tmp_path, "study = tiny(seed=3)"))
    made = load_study(study_file(tmp_path, "def study(seed=4):\n    return tiny(seed=seed)"))
    told = load_study(
        study_file(tmp_path, "def study(seed=4):\n    return tiny(seed=seed)"), seed=5
    )
    named = load_study(study_file(tmp_path, "study = tiny"))
    assert all(isinstance(item, Study) for item in (plain, made, told, named))
    assert [item.seed for item in (plain, made, told)] == [3, 4, 5]


def test_the_run_folder_is_the_given_one_else_the_files_own(tmp_path):
    path = study_file(tmp_path, f"study = tiny(out={str(tmp_path / 'own')!r})")
    assert load_study(path).run.folder == tmp_path / "own"
    assert load_study(path, tmp_path / "given").run.folder == tmp_path / "given"
    assert isinstance(load_study(path).run, Run)
    assert not (tmp_path / "own").exists()
    assert not (tmp_path / "given").exists()


def test_a_study_file_imports_what_lies_beside_it_and_leaves_the_path(tmp_path):
    (tmp_path / "beside_the_study.py").write_text("SEED = 7\n")
    path = study_file(tmp_path, "import beside_the_study\nstudy = tiny(seed=beside_the_study.SEED)")
    before = list(sys.path)
    assert load_study(path).seed == 7
    assert sys.path == before
    with pytest.raises(InputError):
        load_study(study_file(tmp_path, "1 / 0"))
    assert sys.path == before


def test_classes_of_a_study_file_can_be_found_again(tmp_path):
    path = study_file(tmp_path, "class Net(nn.Linear):\n    pass\nstudy = tiny(teacher=Net(4, 3))")
    kind = type(load_study(path)._teacher)
    assert getattr(sys.modules[kind.__module__], kind.__qualname__) is kind


@pytest.mark.parametrize(
    "body, line, cause",
    [
        ("study = (", 0, "SyntaxError: '(' was never closed"),
        ("x = 1\nstudy = tiny(data=3 / 0)", 1, "ZeroDivisionError: division by zero"),
        ("import no_such_module", 0, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    raise KeyError('k')\n\nf()", 1, "KeyError: 'k'"),
        ("import json\njson.loads('{')", 1, "JSONDecodeError: Expecting property name"),
        ("x = 1\ny = 2\nraise SystemExit(3)", 2, "SystemExit: 3"),
        ("raise ValueError('a\\nb   c')", 0, "ValueError: a b c"),
        ("\ngk.Recipe(epochs=0)", 1, "ValidationError: epochs: Expected a number greater than or equal to 1 but got 0"),
        ("def study():\n    x = 1\n    return x / 0", 2, "ZeroDivisionError"),
        ("def study():\n    raise SystemExit", 1, "SystemExit"),
    ],
)  # fmt: skip
def test_what_raises_is_said_with_its_line(tmp_path, body, line, cause):
    path = study_file(tmp_path, body)
    with pytest.raises(InputError) as caught:
        load_study(path)
    assert str(caught.value).startswith(
        f"Expected {path} to run but line {FIRST + line} raises {cause}"
    )
    assert "\n" not in str(caught.value)
    assert "http" not in str(caught.value)


def test_a_module_beside_the_study_is_named_when_it_is_at_fault(tmp_path):
    broken = tmp_path / "broken_beside.py"
    path = study_file(tmp_path, "import broken_beside")
    broken.write_text("x = 1\ny = (\n")
    with pytest.raises(InputError, match=r"broken_beside\.py to run but line 2 raises SyntaxError"):
        load_study(path)
    broken.write_text("x = 1\n\nx.y\n")
    with pytest.raises(InputError, match=r"broken_beside\.py to run but line 3 raises Attribute"):
        load_study(path)


@pytest.mark.parametrize(
    "body, match",
    [
        ("x = 1", r"to define `study` \(a gapkit.Study or a function returning one\) but it does not"),
        ("study = None", "to define `study`"),
        ("study = 'tiny'", "to be a gapkit.Study but got str"),
        ("def study():\n    return 4", "to be a gapkit.Study but got int"),
        ("class study:\n    pass", "to be a gapkit.Study but got type"),
        ("def study(seed):\n    return tiny()", "callable with no argument but: missing a required argument: 'seed'"),
        ("tiny(name='a/b')\nstudy = tiny()", "a word that can name a folder but got 'a/b'"),
        ("study = tiny(teacher='best')", "teacher a trained nn.Module or None but got str"),
    ],
)  # fmt: skip
def test_what_is_no_study_is_refused(tmp_path, body, match):
    with pytest.raises(InputError, match=match):
        load_study(study_file(tmp_path, body))


def test_a_function_that_takes_no_such_argument_is_refused(tmp_path):
    path = study_file(tmp_path, "def study():\n    return tiny()")
    with pytest.raises(InputError, match="callable with seed but: got an unexpected keyword"):
        load_study(path, seed=1)


def test_paths_that_are_no_study_file_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a study file but .*no\.py does not exist"):
        load_study(tmp_path / "no.py")
    with pytest.raises(InputError, match=r"a study file but .* is a folder"):
        load_study(tmp_path)
    with pytest.raises(InputError, match=r"a Python file, named \.py, but got .*study\.txt"):
        load_study(study_file(tmp_path, "study = tiny()", "study.txt"))


def test_blame_falls_on_the_study_file_only(tmp_path):
    path = study_file(
        tmp_path, "def bad(x):\n    raise RuntimeError('no idea')\nstudy = tiny()\nstudy.bad = bad"
    )
    study = load_study(path)
    with pytest.raises(InputError, match=f"{path} to run but line {FIRST + 1} raises RuntimeError"):  # noqa: SIM117
        with blamed(path):
            list(map(study.bad, [1]))
    with pytest.raises(ZeroDivisionError), blamed(path):
        list(map(lambda x: 1 / x, [0]))
    with pytest.raises(InputError, match=r"^as it is$"), blamed(path):
        raise InputError("as it is")
    with pytest.raises(KeyboardInterrupt), blamed(path):
        raise KeyboardInterrupt
