"""A study file as the commands use it: opened, changed, run with its progress shown, priced, printed."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from gapkit.errors import InputError

if TYPE_CHECKING:
    from gapkit.commands.quote import Quote
    from gapkit.study import Study


class Shown(NamedTuple):
    """How a command shows its result and its way there."""

    as_json: bool
    dry_run: bool
    quiet: bool


def changes_of(changes: list[str] | None, seed: int | None, device: str | None) -> dict[str, str]:
    """Setting -> value, of everything that the command line changes about a study."""
    found = {}
    for change in changes or ():
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise InputError(f"Expected --set KEY=VALUE but got {change!r}")
        found[key.strip()] = value.strip()
    found |= {} if seed is None else {"seed": str(seed)}
    return found | ({} if device is None else {"device": device})


@contextlib.contextmanager
def open_study(
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
    from gapkit.commands.studyfile import blamed, load_study

    with contextlib.redirect_stdout(sys.stderr), blamed(path):
        study = load_study(path, out, changed, **arguments)
        study.command = shlex.join(["gapkit", *sys.argv[1:]])
        if devices > 1 or "LOCAL_RANK" in os.environ:
            from gapkit.training.engine import launch

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


def quoted(study: Study, steps: tuple[str, ...], **budgets: float) -> Quote:
    """The work and its cost; nothing is trained and nothing written."""
    from gapkit.commands.quote import quote

    return quote(study, steps, **budgets)


def watched(
    study: Study, shown: Shown, verb: Callable[[Study], Any], phases: tuple[str, ...] = ()
) -> Any:
    """Run a verb with the run folder held and its progress shown; `phases` are those to come."""
    from gapkit.commands.progress import Progress

    with study.run.locked():
        if shown.quiet:
            return verb(study)
        with Progress(phases) as progress:
            study.heard = progress
            return verb(study)


def show(result: Any, as_json: bool) -> None:
    print(result.model_dump_json(indent=2) if as_json else result)
