"""Commands that carry out the verbs of a study: run · measure · diagnose · plan · distill · demo."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapkit.commands.opened import Shown, changes_of, open_study, quoted, show, watched
from gapkit.commands.options import (
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
    Seed,
    Strategy,
    StudyFile,
)

if TYPE_CHECKING:
    from gapkit.study import Study

DEMO_BUDGETS = (36.0, 24.0)


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
    opened = open_study(study, out, devices, strategy, changes_of(changes, seed, device))
    _everything(opened, diagnose_budget, plan_budget, Shown(as_json, dry_run, quiet))


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
    opened = open_study(study, out, changed=changes_of(changes, seed, device))
    _step(opened, "measure", Shown(as_json, dry_run, quiet), lambda s: s.measure())


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
        open_study(study, out, devices, strategy, changes_of(changes, seed, device)),
        "diagnose",
        Shown(as_json, dry_run, quiet),
        lambda s: s.diagnose(controls=controls, budget=budget),
        diagnose_budget=spend,
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
        open_study(study, out, devices, strategy, changes_of(changes, seed, device)),
        "plan",
        Shown(as_json, dry_run, quiet),
        lambda s: s.plan(budget=budget, objective=objective, jobs=jobs),
        plan_budget=budget,
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
    opened = open_study(study, out, devices, strategy, changes_of(changes, seed, device))
    _step(opened, "distill", Shown(as_json, dry_run, quiet), lambda s: s.distill())


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Of split, models and search.")
    ] = 0,
    epochs: Annotated[
        int, typer.Option("--epochs", metavar="N", min=1, help="Of one full training.")
    ] = 60,
    device: Device = None,
    changes: Changes = None,
    quiet: Quiet = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Find out why a real student fails on real digits, and close what can be closed."""
    from importlib.resources import as_file, files

    with as_file(files("gapkit.examples") / "digits.py") as path:
        changed = changes_of(changes, None, device)
        opened = open_study(path, out, changed=changed, seed=seed, epochs=epochs)
        _everything(opened, *DEMO_BUDGETS, Shown(as_json, dry_run, quiet))


def _step(
    opened: AbstractContextManager[Study],
    name: str,
    shown: Shown,
    verb: Callable[[Study], Any],
    **budgets: float,
) -> None:
    with opened as study:
        work = partial(quoted, study, (name,), **budgets)
        result = work() if shown.dry_run else watched(study, shown, verb)
    show(result, shown.as_json)
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
            from gapkit.commands.quote import STEPS

            work = quoted(study, STEPS, diagnose_budget=diagnose_budget, plan_budget=plan_budget)
        else:
            measurements, gap, proposal, outcome, path = watched(
                study, shown, all_verbs, ("measure", "diagnose", "plan", "distill")
            )
    if shown.dry_run:
        show(work, shown.as_json)
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
