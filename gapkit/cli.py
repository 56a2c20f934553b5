"""The command line: run · measure · diagnose · plan · distill · report · demo."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from gapkit import __version__
from gapkit.errors import InputError

if TYPE_CHECKING:
    from gapkit.quote import Quote
    from gapkit.study import Study

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Why a student falls short of its teacher, what would close the gap, and whether it did.",
    epilog="A study file is your own Python; gapkit runs it. Budgets count student trainings.",
)

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY.py", help="Python file that defines `study`.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the work and its cost, then stop.")]
Budget = Annotated[
    float, typer.Option("--budget", min=0, max=1e6, help="Student trainings to spend at most.")
]
Controls = Annotated[bool, typer.Option("--controls/--no-controls", help="Run control trainings.")]
DiagnoseBudget = Annotated[
    float,
    typer.Option("--diagnose-budget", min=0, max=1e6, help="Student trainings for the controls."),
]
PlanBudget = Annotated[
    float,
    typer.Option(
        "--plan-budget", min=0, max=1e6, help="Student trainings for the planner's search."
    ),
]

Devices = Annotated[
    int,
    typer.Option(
        "--devices",
        min=0,
        help="Processes that train together, one a GPU; batch_size is each one's. Under torchrun: 0.",
    ),
]
Strategy = Annotated[
    str, typer.Option("--strategy", help="How they train together: ddp, or fsdp on GPUs.")
]

DEMO_BUDGETS = (36.0, 24.0)
INTERRUPTED = 130  # what typer makes of Ctrl-C


@app.command()
def run(
    study: StudyFile,
    out: Out = None,
    diagnose_budget: DiagnoseBudget = 8,
    plan_budget: PlanBudget = 10,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Measure, diagnose, plan, distill and report."""
    _everything(
        _opened(study, out, devices, strategy), diagnose_budget, plan_budget, as_json, dry_run
    )


@app.command()
def measure(
    study: StudyFile, out: Out = None, as_json: Json = False, dry_run: DryRun = False
) -> None:
    """Measure teacher and student."""
    _step(_opened(study, out), "measure", as_json, dry_run, lambda s: s.measure())


@app.command()
def diagnose(
    study: StudyFile,
    out: Out = None,
    controls: Controls = True,
    budget: Budget = 8,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Name why the student fails, with control runs."""
    spend = budget if controls else 0
    _step(
        _opened(study, out, devices, strategy),
        "diagnose",
        as_json,
        dry_run,
        lambda s: s.diagnose(controls=controls, budget=budget),
        diagnose_budget=spend,
    )


@app.command()
def plan(
    study: StudyFile,
    out: Out = None,
    budget: Budget = 10,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Propose assistants and stages, or say that none pay."""
    _step(
        _opened(study, out, devices, strategy),
        "plan",
        as_json,
        dry_run,
        lambda s: s.plan(budget=budget),
        plan_budget=budget,
    )


@app.command()
def distill(
    study: StudyFile,
    out: Out = None,
    devices: Devices = 0,
    strategy: Strategy = "ddp",
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Carry out the run folder's plan, edited or not."""
    _step(
        _opened(study, out, devices, strategy), "distill", as_json, dry_run, lambda s: s.distill()
    )


@app.command()
def report(
    study: StudyFile,
    out: Out = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="A .pdf or .md file; default OUT/gap.pdf.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Print the quality gates; exit 1 unless all of them pass."),
    ] = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write the PDF of what the run folder holds."""
    with _opened(study, out) as opened:
        if dry_run:
            work = _quoted(opened, ("report",))
        else:
            path, gates = _watched(opened, lambda s: (s.report(to), s.gates() if check else ()))
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of split, models and search.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of one full training.")] = 60,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Find out why a real student fails on real digits, and close what can be closed."""
    from importlib.resources import as_file, files

    with as_file(files("gapkit.examples") / "digits.py") as path:
        opened = _opened(path, out, seed=seed, epochs=epochs)
        _everything(opened, *DEMO_BUDGETS, as_json, dry_run)


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
    path: Path, out: Path | None, devices: int = 0, strategy: str = "ddp", **arguments: Any
) -> Iterator[Study]:
    """The study of a file. While it is open, what its code prints goes to standard error.

    Of several processes only the first comes out of here; the others train along with it and end.
    """
    from gapkit.studyfile import blamed, load_study

    with contextlib.redirect_stdout(sys.stderr), blamed(path):
        study = load_study(path, out, **arguments)
        study.command = shlex.join(["gapkit", *sys.argv[1:]])
        if devices > 1 or "LOCAL_RANK" in os.environ:
            from gapkit.engine import launch

            study.crew = launch(devices, strategy, study.device)
            if not study.crew.leads:
                _follow(study)
            study.device = study.crew.device if study.device.type == "cuda" else study.device
        yield study
        study.crew.tell(None)


def _follow(study: Study) -> None:
    """Train along with the first process until it sends us home, or is gone."""
    if study.device.type == "cuda":
        study.device = study.crew.device
    try:
        study.follow()
    except RuntimeError as error:  # what torch.distributed says when the first process has ended
        if not any(word in str(error) for word in ("onnection", "peer", "socket")):
            raise
        raise typer.Exit(1) from None
    raise typer.Exit


def _step(
    opened: AbstractContextManager[Study],
    name: str,
    as_json: bool,
    dry_run: bool,
    verb: Callable[[Study], Any],
    **budgets: float,
) -> None:
    with opened as study:
        result = _quoted(study, (name,), **budgets) if dry_run else _watched(study, verb)
    _show(result, as_json)
    if not (as_json or dry_run):
        print(f"kept in  {study.run.folder}")


def _everything(
    opened: AbstractContextManager[Study],
    diagnose_budget: float,
    plan_budget: float,
    as_json: bool,
    dry_run: bool,
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
        if dry_run:
            from gapkit.quote import STEPS

            work = _quoted(study, STEPS, diagnose_budget=diagnose_budget, plan_budget=plan_budget)
        else:
            measurements, gap, proposal, outcome, path = _watched(study, all_verbs)
    if dry_run:
        _show(work, as_json)
        return
    if as_json:
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


def _watched(study: Study, verb: Callable[[Study], Any]) -> Any:
    """Run a verb with the run folder held and its progress shown."""
    from gapkit.progress import Progress

    with study.run.locked(), Progress() as progress:
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
