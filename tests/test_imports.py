"""Imports go down, never up; the packages list, the folders and the names hold together."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIERS = (
    ("tasks", "teaching"),
    ("training",),
    ("causes",),
    ("quality",),
    ("planning",),
    ("commands",),
)
"""The rooms of gapkit, each importing none of those after it."""
TIER = {room: n for n, rooms in enumerate(TIERS) for room in rooms}
PACKAGES = {
    "gapkit": "gapkit",
    **{f"gapkit.{room}": f"gapkit/{room}" for room in TIER},
    "gapkit.probes": "probes",
    "gapkit.reports": "reports",
}
EXAMPLES = {"gapkit.examples": "examples"}  # a user's code: bound by no direction

NOUNS = {
    f"gapkit.{name}"
    for name in (
        "errors",
        "record",
        "guest",
        "task",
        "data",
        "family",
        "recipe",
        "knowledge",
        "measurement",
        "gap",
        "plans",
        "outcome",
    )
}
LOSSES = {"gapkit.losses"} | {
    f"gapkit.teaching.{of}_losses" for of in ("response", "feature", "relation")
}
TOP = {"gapkit.cli", "gapkit.__main__", "gapkit.study"} | {
    f"gapkit.commands.{name}" for name in ("files", "opened", "verbs", "studyfile", "quote")
}
DOORS = TOP - {"gapkit.study"} | {"gapkit"}  # they compose everything; nothing below imports TOP
ONLY_IN = {
    "matplotlib": "gapkit.reports",
    "typst": "gapkit.reports",
    "lightning": "gapkit.training.engine",
    "lightning_fabric": "gapkit.training.engine",
    "joblib": "gapkit.planning.side_by_side",  # sends trials to processes; nothing is read back from files
}
UNSAFE = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
UNFINISHED = ("TODO", "FIXME", "XXX", "HACK", "WIP")


def modules() -> dict[str, ast.Module]:
    """Name -> syntax tree of every module of the project (the symlinks in gapkit/ are not followed)."""
    return {
        package if path.stem == "__init__" else f"{package}.{path.stem}": ast.parse(
            path.read_text()
        )
        for package, folder in PACKAGES.items()
        for path in sorted((ROOT / folder).glob("*.py"))
    }


MODULES = modules()
BY_NAME = pytest.mark.parametrize("name", MODULES)


def imports(name: str, tree: ast.AST) -> set[str]:
    """Full names of the modules that a tree imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else str(node.module))
    return found


def own(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "gapkit"}


def allowed(name: str, wanted: str) -> bool:
    """Whether one module of the project may import another."""
    if name in DOORS:
        return True
    if wanted in TOP:
        return False
    if name == "gapkit.study":
        return True
    if TIER.get(_room(name), len(TIERS)) < TIER.get(_room(wanted), 0):
        return False
    if name in NOUNS:
        return wanted in NOUNS
    if name.startswith("gapkit.probes"):
        return wanted in NOUNS or wanted.startswith("gapkit.probes")
    if name.startswith("gapkit.reports"):
        return not wanted.startswith(("gapkit.probes", "gapkit.distiller", "gapkit.planner"))
    if wanted.startswith("gapkit.reports"):
        return False
    if name in LOSSES:
        return wanted in NOUNS | LOSSES
    if name == "gapkit.schemes":
        return wanted in NOUNS | {
            "gapkit.losses",
            "gapkit.teaching.objective",
            "gapkit.teaching.taps",
        }
    if name in {"gapkit.distiller", "gapkit.training.learner", "gapkit.training.trainings"}:
        return wanted not in {
            "gapkit.planner",
            "gapkit.planning.proposal",
            "gapkit.planning.search",
            "gapkit.forecast",
            "gapkit.diagnosis",
            "gapkit.controls",
        }
    return True


def _room(name: str) -> str:
    """The room of gapkit that the module lies in, or its own name at the top."""
    return name.split(".")[1] if "." in name else ""


@BY_NAME
def test_no_import_goes_up(name):
    wrong = {wanted for wanted in own(imports(name, MODULES[name])) if not allowed(name, wanted)}
    assert not wrong


def test_the_rule_knows_an_import_that_goes_up():
    tree = ast.parse("def f():\n    from gapkit.reports.pdf import write\n    import gapkit.cli")
    assert imports("gapkit.task", tree) == {"gapkit.reports.pdf", "gapkit.cli"}
    assert not allowed("gapkit.task", "gapkit.losses")
    assert not allowed("gapkit.probes.linear", "gapkit.losses")
    assert not allowed("gapkit.reports.compose", "gapkit.probes.survey")
    assert not allowed("gapkit.distiller", "gapkit.planner")
    assert not allowed("gapkit.training.learner", "gapkit.causes.case")
    assert not allowed("gapkit.causes.case", "gapkit.planning.search")
    assert allowed("gapkit.planning.menu", "gapkit.quality.choice")
    assert not allowed("gapkit.distiller", "gapkit.study")
    assert allowed("gapkit.probes.linear", "gapkit.measurement")
    assert allowed("gapkit.study", "gapkit.reports")
    assert NOUNS - {"gapkit.errors"} <= set(MODULES)


def test_modules_import_each_other_without_a_cycle_when_they_are_loaded():
    graph = {}
    for name, tree in MODULES.items():
        top = ast.Module([node for node in tree.body if not _lazy(node)], [])
        graph[name] = (own(imports(name, top)) & set(MODULES)) - {name}
    done: set[str] = set()
    while ready := {name for name in graph if name not in done and graph[name] <= done}:
        done |= ready
    assert not set(graph) - done


def _lazy(node: ast.stmt) -> bool:
    """Whether the imports in it run later (functions, methods) or never (for type checkers only)."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@BY_NAME
def test_the_mapped_folders_are_named_by_their_installed_name(name):
    tops = {wanted.split(".")[0] for wanted in imports(name, MODULES[name])}
    assert not tops & {"probes", "reports"}


@BY_NAME
def test_heavy_libraries_stay_in_their_rooms(name):
    for wanted in imports(name, MODULES[name]):
        room = ONLY_IN.get(wanted.split(".")[0])
        assert room is None or name == room or name.startswith(f"{room}."), wanted


@BY_NAME
def test_nothing_is_unpickled_or_evaluated(name):
    tree = MODULES[name]
    assert not {wanted.split(".")[0] for wanted in imports(name, tree)} & UNSAFE
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec"} or name in DOORS, called
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called.split(".")[0] in {"torch", "fabric"} and called.endswith(".load"):
            assert keywords.get("weights_only") == "True", called
        assert keywords.get("allow_pickle", "False") == "False", called


@pytest.mark.parametrize("package", ["gapkit", "gapkit.probes", "gapkit.reports"])
def test_no_module_bears_the_name_of_a_public_function_of_its_package(package):
    """Importing the module would put it in the function's place."""
    room = importlib.import_module(package)
    names = [name for name in room.__all__ if f"{package}.{name}" in MODULES]
    assert all(inspect.ismodule(getattr(room, name)) for name in names)
    assert len(room.__all__) > 1


def test_the_packages_list_and_the_folders_agree():
    whole = PACKAGES | EXAMPLES
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    mapped = dict(
        (part.strip() for part in line.split("="))
        for line in config["options"]["package_dir"].strip().splitlines()
    )
    assert {name: mapped.get(name, name.replace(".", "/")) for name in listed} == whole
    found = {path.parent.relative_to(ROOT) for path in ROOT.glob("*/__init__.py")} | {
        path.parent.relative_to(ROOT)
        for path in ROOT.glob("*/*/__init__.py")
        if not path.parent.is_symlink()
    }
    assert {str(path) for path in found} == set(whole.values())


@pytest.mark.parametrize("folder", ["probes", "reports", "examples"])
def test_the_folder_is_the_package(folder):
    linked = ROOT / "gapkit" / folder
    assert linked.resolve() == (ROOT / folder).resolve()
    code = f"import gapkit.{folder} as it; print(it.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert Path(shown.stdout.strip()).resolve() == (ROOT / folder / "__init__.py").resolve()


def test_importing_gapkit_loads_nothing_heavy():
    code = "import gapkit, sys; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(shown.stdout.split())
    assert "gapkit" in loaded
    assert not loaded & {"torch", "numpy", "sklearn", "captum", "pydantic", *ONLY_IN}


@pytest.mark.parametrize("folder", [*PACKAGES.values(), "examples", "benchmarks"])
def test_nothing_is_left_unfinished(folder):
    for path in (ROOT / folder).glob("*.*"):
        if path.suffix in {".py", ".typ", ".md"}:
            words = set("".join(c if c.isalnum() else " " for c in path.read_text()).split())
            assert not words & set(UNFINISHED), path.name


@BY_NAME
def test_every_module_says_what_it_is_and_defers_annotations(name):
    tree = MODULES[name]
    assert ast.get_docstring(tree)
    if any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body):
        assert "__future__" in imports(name, tree)
