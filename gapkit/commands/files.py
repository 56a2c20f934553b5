"""Commands that write or check files: init · check · report · compare. No training is started."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gapkit.commands.opened import Shown, changes_of, open_study, quoted, show, watched
from gapkit.commands.options import (
    FLAG,
    Changes,
    Device,
    DryRun,
    Fonts,
    Json,
    Out,
    Quiet,
    RunFolders,
    Seed,
    StudyFile,
)
from gapkit.errors import InputError

if TYPE_CHECKING:
    from gapkit.study import Study


def init(
    path: Annotated[Path, typer.Argument(metavar="[STUDY.py]", help="File to write.")] = Path(
        "study.py"
    ),
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Of the study; default: the file's.")
    ] = "",
) -> None:
    """Write a commented study file to fill in; it runs as it is."""
    from gapkit.commands.template import filled

    if path.suffix != ".py":
        raise InputError(f"Expected a file that ends in .py but got {str(path)!r}")
    if path.exists():
        raise InputError(f"Expected a new file but {path} exists; it is left as it is")
    if not path.parent.is_dir():
        raise InputError(f"Expected an existing folder but got {path.parent}")
    called = name or path.stem
    if not called.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"Expected a name of letters, digits, - and _ but got {called!r}")
    path.write_text(filled(called, path.name), encoding="utf-8")
    print(f"wrote {path}; next: gapkit check {path}")


def check(
    study: StudyFile,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Put one batch through everything: shapes, views, modes, layer names, one step."""
    from gapkit.commands.checkup import checkup

    with open_study(study, None, changed=changes_of(changes, seed, device)) as opened:
        found = checkup(opened)
    show(found, as_json)
    if not found.passed:
        raise typer.Exit(2)


def report(
    study: StudyFile,
    out: Out = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="File to write (.pdf .html .md .json); default OUT/gap.pdf.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="pdf, html, md or json; default: as --to ends."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", metavar=FLAG, help="Print the quality gates; exit 1 unless all of them pass."
        ),
    ] = False,
    fonts: Fonts = None,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write what the run folder holds as PDF, HTML, Markdown or JSON; answer quality gates."""
    shown, changed = Shown(as_json, dry_run, quiet), changes_of(changes, seed, device)
    with open_study(study, out, changed=changed) as opened:
        target = _reported(opened, to, form)
        again = [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]
        folder = str(opened.run.folder)
        opened.command = shlex.join(["gapkit", "run", str(study), "--out", folder, *again])
        if dry_run:
            work = quoted(opened, ("report",))
        else:
            path, gates = watched(
                opened, shown, lambda s: (s.report(target, fonts or ()), s.gates() if check else ())
            )
    if dry_run:
        show(work, as_json)
        return
    if as_json:
        judged = {"gates": [json.loads(gate.model_dump_json()) for gate in gates]} if check else {}
        print(json.dumps({"report": str(path)} | judged))
    else:
        print(*gates, f"report   {path}", sep="\n")
    if any(gate.state != "passed" for gate in gates):
        raise typer.Exit(1)


def _reported(study: Study, to: Path | None, form: str | None) -> Path:
    """Where a report goes: the path given, else gap.FORMAT in the run folder (gap.json is the diagnosis)."""
    from gapkit.errors import unknown
    from gapkit.reports import ENDINGS

    known = [ending.removeprefix(".") for ending in ENDINGS]
    if form is not None and form not in known:
        raise unknown("format", form, known)
    if to is None:
        return study.run.path("report.json" if form == "json" else f"gap.{form or 'pdf'}")
    if form is not None and to.suffix != f".{form}":
        raise InputError(f"Expected a path that ends in .{form} but got {str(to)!r}")
    return to


def compare(
    runs: RunFolders,
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="File to write (.pdf .html .md .json).")
    ] = Path("compare.pdf"),
    fonts: Fonts = None,
    as_json: Json = False,
) -> None:
    """Put several runs, or several students, side by side in one file."""
    from gapkit.reports import compare as side_by_side

    path = side_by_side(to, runs, fonts or ())
    print(json.dumps({"report": str(path)}) if as_json else f"report   {path}")
