"""Options: what the commands of the command line take, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STUDY = "The study"
WORK = "The work"

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY.py", help="Python file that defines `study`.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
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
Objective = Annotated[
    str,
    typer.Option("--objective", help="What to raise: score, worst_slice or relation."),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", min=1, help="Trials that run at once, each in a process.", rich_help_panel=WORK
    ),
]
Devices = Annotated[
    int,
    typer.Option(
        "--devices",
        min=0,
        help="Processes that train together, one a GPU; batch_size is each one's. Under torchrun: 0.",
        rich_help_panel=WORK,
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        "--strategy", help="How they train together: ddp, or fsdp on GPUs.", rich_help_panel=WORK
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=2**32 - 1,
        help="Instead of the study's own.",
        rich_help_panel=STUDY,
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Such as cpu or cuda:0.", rich_help_panel=STUDY),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the study: recipe.epochs=5, recipe.lr=0.01, reduce=flatten. Repeatable.",
        rich_help_panel=STUDY,
    ),
]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN RUN...", help="Two run folders or more.")
]


def examples(*lines: str, more: str = "") -> str:
    """The end of a command's help: commands to copy, a line each.

    >>> examples("gapkit demo")
    'Examples:\\n\\n  gapkit demo'
    """
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines), *([more] if more else [])])
