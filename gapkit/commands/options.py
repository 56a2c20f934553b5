"""Options: what the commands of the command line take, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

STUDY = "The study"
WORK = "The work"
FLAG = ""  # an option without a value: the help names no type for it


def _budget(name: str, said: str) -> Any:
    """An option that counts student trainings."""
    return typer.Option(name, metavar="N", min=0, max=1_000_000, help=said)


StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY.py", help="Python file that defines `study`.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/NAME.")
]
Json = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar=FLAG, help="Show no progress.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", metavar=FLAG, help="Print the work and its cost, then stop."),
]
Budget = Annotated[float, _budget("--budget", "Student trainings to spend at most.")]
Controls = Annotated[
    bool,
    typer.Option("--controls/--no-controls", metavar=FLAG, help="Run control trainings."),
]
DiagnoseBudget = Annotated[
    float, _budget("--diagnose-budget", "Student trainings for the controls.")
]
PlanBudget = Annotated[
    float, _budget("--plan-budget", "Student trainings for the planner's search.")
]
Objective = Annotated[
    str,
    typer.Option(
        "--objective", metavar="NAME", help="What to raise: score, worst_slice or relation."
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        metavar="N",
        min=1,
        help="Trials that run at once, each in a process.",
        rich_help_panel=WORK,
    ),
]
Devices = Annotated[
    int,
    typer.Option(
        "--devices",
        metavar="N",
        min=0,
        help="Processes that train together, one a GPU; batch_size is each one's. Under torchrun: 0.",
        rich_help_panel=WORK,
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="How they train together: ddp, or fsdp on GPUs.",
        rich_help_panel=WORK,
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
    typer.Option("--device", metavar="NAME", help="Such as cpu or cuda:0.", rich_help_panel=STUDY),
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
Fonts = Annotated[
    list[Path] | None,
    typer.Option(
        "--font", metavar="FILE", help="Font for scripts such as CJK or emoji. Repeatable."
    ),
]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN RUN...", help="Two run folders or more.")
]


def examples(*lines: str, more: str = "") -> str:
    """The end of a command's help: commands to copy, a line each.

    >>> examples("gapkit demo", "gapkit demo --dry-run")
    'Examples:\\n$ gapkit demo\\n$ gapkit demo --dry-run'
    """
    shown = "\n".join(["Examples:", *(f"$ {line}" for line in lines)])
    return f"{shown}\n\n{more}" if more else shown
