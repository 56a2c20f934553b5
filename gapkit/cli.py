"""The command line: its commands with their examples in the order of the help, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from typer.exceptions import TyperException

from gapkit import __version__
from gapkit.commands.files import check, compare, init, report
from gapkit.commands.options import FLAG, examples
from gapkit.commands.verbs import DEMO_BUDGETS, demo, diagnose, distill, measure, plan, run
from gapkit.errors import InputError, describe

__all__ = ["DEMO_BUDGETS", "app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Why a student falls short of its teacher, what would close the gap, and whether it did.",
    epilog=examples(
        "gapkit init mine.py",
        "gapkit check mine.py",
        "gapkit run mine.py --out runs/mine",
        more="A study file is your own Python; gapkit runs it. Budgets count student trainings.\n\n"
        "Exit codes: 0 done; 1 a quality gate that is not passed; 2 what you can mend, or Ctrl-C.",
    ),
)

INTERRUPTED = 130  # what typer makes of Ctrl-C

COMMANDS: dict[Callable[..., None], str] = {
    init: examples("gapkit init", "gapkit init mine.py --name mine"),
    check: examples(
        "gapkit check mine.py",
        "gapkit check mine.py --device cuda:0 --json",
        more="Exit code 2 when something is wrong.",
    ),
    run: examples(
        "gapkit run mine.py --out runs/mine",
        "gapkit run mine.py --dry-run",
        "gapkit run mine.py --set recipe.epochs=5 --plan-budget 4",
    ),
    measure: examples(
        "gapkit measure mine.py",
        "gapkit measure mine.py --set reduce=flatten --json",
    ),
    diagnose: examples(
        "gapkit diagnose mine.py --budget 8",
        "gapkit diagnose mine.py --no-controls",
    ),
    plan: examples(
        "gapkit plan mine.py --budget 10",
        "gapkit plan mine.py --objective worst_slice --jobs 2",
        "gapkit plan mine.py --dry-run",
    ),
    distill: examples(
        "gapkit distill mine.py",
        "gapkit distill mine.py --devices 2",
        more="Edit plan.json in the run folder first, if you like.",
    ),
    report: examples(
        "gapkit report mine.py",
        "gapkit report mine.py --format html",
        "gapkit report mine.py --check --to mine.pdf",
        more="With --check, exit code 1 unless every gate is passed.",
    ),
    compare: examples(
        "gapkit compare runs/small runs/large",
        "gapkit compare runs/* --to students.html",
    ),
    demo: examples(
        "gapkit demo", "gapkit demo --epochs 5 --out runs/quick", "gapkit demo --dry-run"
    ),
}

for command, shown in COMMANDS.items():
    app.command(epilog=shown)(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gapkit {__version__}")
        raise typer.Exit


@app.callback()
def _gapkit(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=FLAG, callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: one line and exit code 2 for whatever the user can mend."""
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:
            _fail("interrupted; what was finished is kept, the same command goes on from there")
        sys.exit(code)
    except TyperException as error:
        _fail(error.format_message())  # type: ignore[attr-defined]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _fail(
            f"Expected to read and write{where} but: {error.strerror or error}; what was finished is kept"
        )
    except (InputError, ValueError) as error:
        if not isinstance(error, InputError) and type(error).__name__ != "ValidationError":
            raise
        _fail(_one_line(error))


def _one_line(error: Exception) -> str:
    if type(error).__name__ == "ValidationError":
        return f"Expected valid fields but {describe(error)}"  # type: ignore[arg-type]
    return str(error)


def _fail(message: str) -> None:
    if message:
        print(f"gapkit: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
