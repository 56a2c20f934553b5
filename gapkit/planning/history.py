"""History: every trial of a search, what was expected of it and what came; and what a planner knows from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from gapkit.family import Size
from gapkit.gap import ControlRun
from gapkit.planner import Planner, Trial
from gapkit.record import Record


class TrialRow(Record):
    """One line of the search's history: a trial or a control, what was expected of it, what came."""

    path: tuple[Size, ...]
    recipe: str
    seed: int
    fraction: float
    origin: Literal["control", "search"]
    cost: float
    expected: float
    score: float


class History(Record):
    """Every trial of a search, in order."""

    rows: tuple[TrialRow, ...] = Field(default=())

    def csv(self) -> str:
        """The table as CSV, one line a trial."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(TrialRow.model_fields)
        for row in self.rows:
            path = " > ".join(map(str, row.path))
            table.writerow(
                [path, *(getattr(row, name) for name in list(TrialRow.model_fields)[1:])]
            )
        return out.getvalue()


def control_rows(controls: Sequence[ControlRun]) -> list[TrialRow]:
    """A diagnosis' controls as rows of the history; altered trainings are no arms of a plan."""
    return [
        TrialRow(
            path=run.path,
            recipe=run.recipe,
            seed=seed,
            fraction=run.fraction,
            origin="control",
            cost=0.0,
            expected=float("nan"),
            score=float(score),
        )
        for run in controls
        if not run.altered
        for seed, score in zip(run.seeds, run.scores, strict=True)
    ]


def tell(planner: Planner, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Hand known scores to the planner, without charge; returns the rows that it has a path for.

    A teacher-sized student is no step towards the student: its rows are passed over, and so is a size
    beyond the teacher's.
    """
    told = []
    for row in rows:
        known = set(row.path) <= set(planner.sizes) and row.path != (planner.teacher,)
        if known and len(set(row.path)) == len(row.path):
            planner.tell(Trial(row.path, row.recipe, row.seed, row.fraction), row.score)
            told.append(row)
    return told
