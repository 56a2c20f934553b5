"""The command line: init · check · run · measure · diagnose · plan · distill · report · compare · demo."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.exceptions import TyperException

from gapkit import __version__
from gapkit.errors import InputError
from gapkit.options import (
    Budget,
    Changes,
    Controls,
    Device,
    Devices,
    DiagnoseBudget,
    DryRun,
    Jobs,
    Json,
    Objective,
    Out,
    PlanBudget,
    Quiet,
    RunFolders,
    Seed,
    Strategy,
    StudyFile,
    examples,
)

if TYPE_CHECKING:
    from gapkit.quote import Quote
    from gapkit.study import Study

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

DEMO_BUDGETS = (36.0, 24.0)
INTERRUPTED = 130  # what typer makes of Ctrl-C


class Shown(NamedTuple):
    """How a command shows its result and its way there."""

    as_json: bool
    dry_run: bool
    quiet: bool


@app.command(
    epilog=examples("gapkit init", "gapkit init mine.py --name mine"),
)
def init(
    path: Annotated[Path, typer.Argument(metavar="[STUDY.py]", help="File to write.")] = Path(
        "study.py"
    ),
    name: Annotated[str, typer.Option("--name", help="Of the study; default: the file's.")] = "",
) -> None:
    """Write a commented study file to fill in; it runs as it is."""
    from gapkit.template import filled

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


@app.command(
    epilog=examples(
        "gapkit check mine.py",
        "gapkit check mine.py --device cuda:0 --json",
        more="Exit code 2 when something is wrong.",
    ),
)
def check(
    study: StudyFile,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Put one batch through everything: shapes, views, modes, layer names, one step."""
    from gapkit.checkup import checkup

    with _opened(study, None, changed=_changed(changes, seed, device)) as opened:
        found = checkup(opened)
    _show(found, as_json)
    if not found.passed:
        raise typer.Exit(2)


@app.command(
    epilog=examples(
        "gapkit run mine.py --out runs/mine",
        "gapkit run mine.py --dry-run",
        "gapkit run mine.py --set recipe.epochs=5 --plan-budget 4",
    ),
)
def run(
    study: StudyFile,
    out: Out = None,
    diagnose_budget: DiagnoseBudget = 8,
    plan_budget: PlanBudget = 10,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Measure, diagnose, plan, distill and report."""
    opened = _opened(study, out, devices, strategy, _changed(changes, seed, device))
    _everything(opened, diagnose_budget, plan_budget, Shown(as_json, dry_run, quiet))


@app.command(
    epilog=examples(
        "gapkit measure mine.py",
        "gapkit measure mine.py --set reduce=flatten --json",
    ),
)
def measure(
    study: StudyFile,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Measure teacher and student."""
    opened = _opened(study, out, changed=_changed(changes, seed, device))
    _step(opened, "measure", Shown(as_json, dry_run, quiet), lambda s: s.measure())


@app.command(
    epilog=examples(
        "gapkit diagnose mine.py --budget 8",
        "gapkit diagnose mine.py --no-controls",
    ),
)
def diagnose(
    study: StudyFile,
    out: Out = None,
    controls: Controls = True,
    budget: Budget = 8,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Name why the student fails, with control runs."""
    spend = budget if controls else 0
    _step(
        _opened(study, out, devices, strategy, _changed(changes, seed, device)),
        "diagnose",
        Shown(as_json, dry_run, quiet),
        lambda s: s.diagnose(controls=controls, budget=budget),
        diagnose_budget=spend,
    )


@app.command(
    epilog=examples(
        "gapkit plan mine.py --budget 10",
        "gapkit plan mine.py --objective worst_slice --jobs 2",
        "gapkit plan mine.py --dry-run",
    )
)
def plan(
    study: StudyFile,
    out: Out = None,
    budget: Budget = 10,
    objective: Objective = "score",
    jobs: Jobs = 1,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Propose assistants and stages, or say that none pay."""
    _step(
        _opened(study, out, devices, strategy, _changed(changes, seed, device)),
        "plan",
        Shown(as_json, dry_run, quiet),
        lambda s: s.plan(budget=budget, objective=objective, jobs=jobs),
        plan_budget=budget,
    )


@app.command(
    epilog=examples(
        "gapkit distill mine.py",
        "gapkit distill mine.py --devices 2",
        more="Edit plan.json in the run folder first, if you like.",
    ),
)
def distill(
    study: StudyFile,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Carry out the run folder's plan, edited or not."""
    opened = _opened(study, out, devices, strategy, _changed(changes, seed, device))
    _step(opened, "distill", Shown(as_json, dry_run, quiet), lambda s: s.distill())


@app.command(
    epilog=examples(
        "gapkit report mine.py",
        "gapkit report mine.py --format html",
        "gapkit report mine.py --check --to mine.pdf",
        more="With --check, exit code 1 unless every gate is passed.",
    ),
)
def report(
    study: StudyFile,
    out: Out = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="File to write (.pdf .html .md .json); default OUT/gap.pdf."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="pdf, html, md or json; default: as --to ends.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Print the quality gates; exit 1 unless all of them pass."),
    ] = False,
    seed: Seed = None,
    device: Device = None,
    changes: Changes = None,
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write the PDF of what the run folder holds."""
    shown, changed = Shown(as_json, dry_run, quiet), _changed(changes, seed, device)
    with _opened(study, out, changed=changed) as opened:
        target = _reported(opened, to, form)
        again = [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]
        folder = str(opened.run.folder)
        opened.command = shlex.join(["gapkit", "run", str(study), "--out", folder, *again])
        if dry_run:
            work = _quoted(opened, ("report",))
        else:
            path, gates = _watched(
                opened, shown, lambda s: (s.report(target), s.gates() if check else ())
            )
    if dry_run:
        _show(work, as_json)
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


@app.command(
    epilog=examples(
        "gapkit compare runs/small runs/large",
        "gapkit compare runs/* --to students.html",
    ),
)
def compare(
    runs: RunFolders,
    to: Annotated[Path, typer.Option("--to", help="File to write (.pdf .html .md .json).")] = Path(
        "compare.pdf"
    ),
    as_json: Json = False,
) -> None:
    """Put several runs, or several students, side by side in one PDF."""
    from gapkit.reports import compare as side_by_side

    path = side_by_side(to, runs)
    print(json.dumps({"report": str(path)}) if as_json else f"report   {path}")


@app.command(
    epilog=examples(
        "gapkit demo", "gapkit demo --epochs 5 --out runs/quick", "gapkit demo --dry-run"
    )
)
def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of split, models and search.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of one full training.")] = 60,
    device: Device = None,
    changes: Changes = None,
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Find out why a real student fails on real digits, and close what can be closed."""
    from importlib.resources import as_file, files

    with as_file(files("gapkit.examples") / "digits.py") as path:
        changed = _changed(changes, None, device)
        opened = _opened(path, out, changed=changed, seed=seed, epochs=epochs)
        _everything(opened, *DEMO_BUDGETS, Shown(as_json, dry_run, quiet))


def _changed(changes: list[str] | None, seed: int | None, device: str | None) -> dict[str, str]:
    """Setting -> value, of everything that the command line changes about a study."""
    found = {}
    for change in changes or ():
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise InputError(f"Expected --set KEY=VALUE but got {change!r}")
        found[key.strip()] = value.strip()
    found |= {} if seed is None else {"seed": str(seed)}
    return found | ({} if device is None else {"device": device})


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gapkit {__version__}")
        raise typer.Exit


@app.callback()
def _gapkit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@contextlib.contextmanager
def _opened(
    path: Path,
    out: Path | None,
    devices: int = 0,
    strategy: str = "ddp",
    changed: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Iterator[Study]:
    """The study of a file. While it is open, what its code prints goes to standard error.

    Of several processes only the first comes out of here; the others train along with it and end.
    """
    from gapkit.studyfile import blamed, load_study

    with contextlib.redirect_stdout(sys.stderr), blamed(path):
        study = load_study(path, out, changed, **arguments)
        study.command = shlex.join(["gapkit", *sys.argv[1:]])
        if devices > 1 or "LOCAL_RANK" in os.environ:
            from gapkit.engine import launch

            study.crew = launch(devices, strategy, study.device)
            if not study.crew.leads:
                _follow(study)
            study.device = study.crew.device if study.device.type == "cuda" else study.device
        yield study
        study.crew.tell(None)
        study.crew.part()


def _follow(study: Study) -> None:
    """Train along with the first process until it sends us home, or is gone."""
    if study.device.type == "cuda":
        study.device = study.crew.device
    try:
        study.follow()
        study.crew.part()
    except RuntimeError as error:  # what torch.distributed says when the first process has ended
        if not any(word in str(error) for word in ("onnection", "peer", "socket")):
            raise
        raise typer.Exit(1) from None
    raise typer.Exit


def _step(
    opened: AbstractContextManager[Study],
    name: str,
    shown: Shown,
    verb: Callable[[Study], Any],
    **budgets: float,
) -> None:
    with opened as study:
        work = partial(_quoted, study, (name,), **budgets)
        result = work() if shown.dry_run else _watched(study, shown, verb)
    _show(result, shown.as_json)
    if not (shown.as_json or shown.dry_run):
        print(f"kept in  {study.run.folder}")


def _everything(
    opened: AbstractContextManager[Study],
    diagnose_budget: float,
    plan_budget: float,
    shown: Shown,
) -> None:
    def all_verbs(s: Study) -> tuple[Any, ...]:
        return (
            s.measure(),
            s.diagnose(budget=diagnose_budget),
            s.plan(budget=plan_budget),
            s.distill(),
            s.report(),
        )

    with opened as study:
        if shown.dry_run:
            from gapkit.quote import STEPS

            work = _quoted(study, STEPS, diagnose_budget=diagnose_budget, plan_budget=plan_budget)
        else:
            measurements, gap, proposal, outcome, path = _watched(
                study, shown, all_verbs, ("measure", "diagnose", "plan", "distill")
            )
    if shown.dry_run:
        _show(work, shown.as_json)
        return
    if shown.as_json:
        whole = {"gap": gap, "plan": proposal, "outcome": outcome}
        found = {key: json.loads(item.model_dump_json()) for key, item in whole.items()}
        print(json.dumps(found | {"report": str(path)}, indent=2))
        return
    from gapkit.reports import summary

    print(
        summary(
            study=study.name,
            measurements=measurements,
            gap=gap,
            plan=proposal,
            outcome=outcome,
            path=path,
        )
    )


def _show(result: Any, as_json: bool) -> None:
    print(result.model_dump_json(indent=2) if as_json else result)


def _quoted(study: Study, steps: tuple[str, ...], **budgets: float) -> Quote:
    """The work and its cost; nothing is trained and nothing written."""
    from gapkit.quote import quote

    return quote(study, steps, **budgets)


def _watched(
    study: Study, shown: Shown, verb: Callable[[Study], Any], phases: tuple[str, ...] = ()
) -> Any:
    """Run a verb with the run folder held and its progress shown; `phases` are those to come."""
    from gapkit.progress import Progress

    with study.run.locked():
        if shown.quiet:
            return verb(study)
        with Progress(phases) as progress:
            study.heard = progress
            return verb(study)


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
        from gapkit.runs import describe

        return f"Expected valid fields but {describe(error)}"  # type: ignore[arg-type]
    return str(error)


def _fail(message: str) -> None:
    if message:
        print(f"gapkit: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
