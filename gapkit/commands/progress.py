"""Progress: nested bars with the time left in a terminal, plain lines with the time elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

QUIET_SECONDS = 10.0
VERBS = {
    "prepare": "preparing",
    "measure": "measuring",
    "diagnose": "diagnosing",
    "plan": "planning",
    "distill": "distilling",
}


class Pace:
    """Seconds a unit of work takes, by what took at least one: what was finished before tells nothing."""

    def __init__(self) -> None:
        self._seconds = self._work = 0.0  # of items that ended
        self._name: str | None = None
        self._began = self._first = self._now = self._done = 0.0

    def at(self, now: float, done: float, name: str) -> None:
        """So much is done at this second, and the item of that name is worked on."""
        self._now, self._done = now, done
        if name != self._name:
            seconds, work = self._item()
            self._seconds, self._work = self._seconds + seconds, self._work + work
            self._name, self._began, self._first = name, now, done

    def left(self, total: float) -> float | None:
        """Seconds until all is done; None while nothing tells."""
        seconds, work = self._item()
        seconds, work = self._seconds + seconds, self._work + work
        return max(0.0, (total - self._done) * seconds / work) if work > 0 else None

    def _item(self) -> tuple[float, float]:
        """Seconds and work of the item at hand, where it took time."""
        seconds = self._now - self._began
        if self._name is None or seconds < 1 or self._done <= self._first:
            return 0.0, 0.0
        return seconds, self._done - self._first


class Progress:
    """Hears (phase, done, total, what) from a Study and shows it on standard error.

    Args:
        phases: those that are to come, in order: in a terminal a bar above the phase's own counts them.
    """

    def __init__(self, phases: Sequence[str] = ()) -> None:
        self._phases = tuple(phases)
        self._phase, self._start, self._said, self._what = "", 0.0, 0.0, ""
        self._pace = Pace()
        self._at = 0
        self._bar: Any = None
        self._task: Any = None
        self._whole: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description:<12}", table_column=_column(12)),
                BarColumn(bar_width=18, table_column=_column(18)),
                TextColumn("{task.fields[left]:>5}", table_column=_column(5)),
                TextColumn("{task.fields[what]}", markup=False, table_column=_column(None)),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            if len(self._phases) > 1:
                self._whole = self._bar.add_task(
                    "all of it", total=len(self._phases), what="", left=""
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish("done in" if error is None else "stopped after")
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, phase: str, done: float, total: float, what: str) -> None:
        """Show how far a phase is; a new phase closes the one before it."""
        if phase != self._phase:
            self._finish("done in")
            self._phase, self._start, self._said, self._what = phase, time.monotonic(), 0.0, ""
            self._pace = Pace()
            if self._bar is not None:
                verb = VERBS.get(phase, phase)
                self._task = self._bar.add_task(verb, total=total, what=what, left="")
            self._count(0.0)
        self._pace.at(time.monotonic(), done, what.partition(": ")[0])
        if self._bar is not None:
            left = _clock(self._pace.left(total))
            self._bar.update(self._task, completed=done, total=total, what=what, left=left)
            self._count(done / total if total > 0 else 0.0)
        elif what != self._what and time.monotonic() - self._said > (
            QUIET_SECONDS if self._said else -1
        ):
            _line(f"{VERBS.get(phase, phase)}: {what}{_said(self._pace.left(total))}")
            self._said, self._what = time.monotonic(), what

    def _finish(self, how: str) -> None:
        if not self._phase:
            return
        seconds = time.monotonic() - self._start
        text = f"{VERBS.get(self._phase, self._phase)}: {how} {seconds:.0f} s"
        if self._bar is not None:
            self._bar.remove_task(self._task)
            self._bar.refresh()  # so that what is printed next finds as many lines as there are
            self._bar.console.print(text, highlight=False)
        else:
            _line(text)
        self._phase = ""

    def _count(self, share: float) -> None:
        """Bring the bar of all phases to where the running one is; phases that were done before count."""
        if self._whole is None or self._phase not in self._phases:
            return
        at = self._phases.index(self._phase)
        if at < self._at:  # a step within a later one, such as measuring what was distilled
            return
        self._at = at
        what = f"step {at + 1} of {len(self._phases)}"
        self._bar.update(self._whole, completed=at + min(1.0, share), what=what)


def _line(text: str) -> None:
    """A plain line that begins with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _said(left: float | None) -> str:
    return "" if left is None else f" (about {left:.0f} s left)"


def _clock(left: float | None) -> str:
    return "" if left is None else "{}:{:02}".format(*divmod(round(left), 60))


def _column(width: int | None) -> Any:
    """A column of that width, kept when another's text is long; None: what is left, cut at its end."""
    from rich.table import Column

    return Column(no_wrap=True, overflow="ellipsis", min_width=width)
