"""The pages of docs/: their Python runs, their links lead somewhere, their commands exist, and they build."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
import typer.main

from gapkit import losses
from gapkit.cli import app
from gapkit.probes import probe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SKIPPED = "<!-- not run -->"  # on the line before a block
OTHERS = {"own_loop.md"}  # held against its results by test_own_loop.py
NEEDS = {"GPT2": ("transformers",), "import lightning": ("lightning",)}
LIMIT = 200_000  # bytes of a picture


def blocks(page: Path, language: str) -> list[str]:
    """A page's fenced blocks of one language, those marked as not run left out."""
    text = page.read_text(encoding="utf-8")
    pattern = rf"^({re.escape(SKIPPED)}\n)?```{language}\n(.*?)^```$"
    return [body for mark, body in re.findall(pattern, text, re.DOTALL | re.MULTILINE) if not mark]


def named(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


WITH_CODE = [page for page in PAGES if blocks(page, "python") and named(page) not in OTHERS]


def test_all_pages_are_found_and_some_hold_code():
    assert {"index.md", "tutorial.md", "causes.md", "examples/moderation.md"} <= set(
        map(named, PAGES)
    )
    assert {"index.md", "tutorial.md", "your_models.md"} <= set(map(named, WITH_CODE))


@pytest.fixture
def _registers_restored():
    registers = losses._LOSSES, probe._REGISTERED
    before = [dict(register) for register in registers]
    yield
    for register, known in zip(registers, before, strict=True):
        register.clear()
        register.update(known)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("_registers_restored")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # Lightning's own
@pytest.mark.parametrize("page", WITH_CODE, ids=named)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found: dict = {"__name__": page.stem}
    for position, block in enumerate(blocks(page, "python")):
        for mark, modules in NEEDS.items():
            if mark in block:
                for module in modules:
                    pytest.importorskip(module)
        exec(compile(block, f"{named(page)}, block {position + 1}", "exec"), found)


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures, code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """What headings can be linked to as; files that are shown within count."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r'^--8<-- "(.+)"$', text, re.MULTILINE):
        text += (ROOT / name).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_local_link_leads_somewhere(page):
    for link in links(page):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        target, _, anchor = unquote(link).partition("#")
        aim = (page.parent / target).resolve() if target else page
        assert aim.is_file(), f"{named(page)} links to {link}"
        assert DOCS in aim.parents, f"{named(page)} links out of docs/: {link}"
        assert not anchor or anchor in anchors(aim), f"{named(page)} links to {link}"


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    assert sorted(re.findall(r"[\w/]+\.md", menu)) == sorted(map(named, PAGES))


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line that a console block says to type."""
    return [
        (named(page), line.removeprefix("$ "))
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_that_is_shown_exists_with_its_options(page, command):
    program, *words = shlex.split(command)
    files = [word for word in words if word.startswith("examples/")]
    assert all((ROOT / word).is_file() for word in files), files
    if program == "python":
        text = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in text for word in words if word.startswith("--"))
        return
    assert program == "gapkit"
    name, *rest = words
    group = typer.main.get_command(app)
    known = group.commands  # type: ignore[attr-defined]
    assert name in known
    known[name].make_context(name, rest)  # raises for an option that it has not


def test_an_option_that_does_not_exist_is_noticed():
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="--colour"):
        known["report"].make_context("report", ["study.py", "--colour"])


def test_pages_name_no_place_of_one_computer():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(?:home|tmp|work|root|usr|opt)/", text), named(page)


def test_pictures_are_small():
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".svg", ".jpg")]
    assert pictures
    assert all(path.stat().st_size < LIMIT for path in pictures)


def test_doctests_are_fenced():
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("doctest_blocks", DOCS / "doctest_blocks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "One.\n\n    >>> a = [\n    ...     1]\n    >>> a\n    [1]\n\nEnd of >>> it."
    wanted = "One.\n\n    ```python\n    >>> a = [\n    ...     1]\n    >>> a\n    [1]\n    ```\n\nEnd of >>> it."
    assert module.fenced(text) == wanted
    assert module.fenced("Nothing to show.") == "Nothing to show."


LOADING = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon|dns-prefetch)[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon)"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
)


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js">',
        "<img alt=x src=//example/x.png>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="https://fonts.example" rel="preconnect" crossorigin>',
        "@import url(https://fonts.example/css)",
    ],
)
def test_what_loads_from_elsewhere_would_be_noticed(html):
    assert LOADING.search(html)
    assert not LOADING.search('<a href="https://example"> <link rel=next href="page.html">')


@pytest.mark.slow
def test_the_pages_build_without_warnings_and_load_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    shown = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "WARNING" not in shown.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {page.with_suffix(".html") for page in map(Path, map(named, PAGES))} <= {
        page.relative_to(tmp_path) for page in pages
    }
    for path in [*pages, *tmp_path.rglob("*.css")]:
        assert not LOADING.search(path.read_text(encoding="utf-8")), path.name
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in ("gapkit.study.Study", "gapkit.losses.register", "gapkit.probes.probe.register"):
        assert f'id="{name}"' in api
