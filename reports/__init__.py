"""Reports: what was measured, diagnosed, planned and reached, as PDF, Markdown and terminal text.

Nothing heavy is imported before a report is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapkit.choice import Choice
    from gapkit.gap import Gap
    from gapkit.grounds import Gate
    from gapkit.measurement import Measurements
    from gapkit.outcome import Outcome
    from gapkit.plans import Plan
    from gapkit.reports.results import Results
    from gapkit.wording import Wording

__all__ = ["summary", "write"]


def write(
    path: str | Path,
    *,
    study: str,
    measurements: Measurements,
    gap: Gap | None = None,
    plan: Plan | None = None,
    outcome: Outcome | None = None,
    gates: Sequence[Gate] = (),
    choice: Choice | None = None,
    manifest: Mapping[str, Any] | None = None,
    task_unit: str | None = None,
) -> Path:
    """Write a report and return where it lies.

    Args:
        path: ends in .pdf, or in .md (figures then lie beside it in a folder NAME_figures).
        study: name of the study.
        measurements: of teacher and student before any plan.
        gap, plan, outcome: what was diagnosed, planned and reached, where it was.
        gates, choice: answers of the quality gates, and the choice of knowledge, where they were judged.
        manifest: how the run was made (see gapkit.reports.compose.compose).
        task_unit: unit of the task's score; default: that of the teacher's measured score.

    Raises:
        InputError: for another ending, a missing folder, or measurements without a score of the teacher.
    """
    from gapkit.errors import InputError

    target = Path(path)
    if target.suffix not in (".pdf", ".md"):
        raise InputError(f"Expected a report path that ends in .pdf or .md but got {str(path)!r}")
    from gapkit.reports.compose import report_of
    from gapkit.reports.figures import draw
    from gapkit.reports.pdf import check_target, write_pdf

    check_target(target)
    results, say = _gathered(study, measurements, gap, plan, outcome, manifest, task_unit)
    results = results.with_(gates=tuple(gates), choice=choice)
    report = report_of(results, say)
    drawings = draw(report, results, say)
    if target.suffix == ".pdf":
        return write_pdf(report, drawings, target)
    from gapkit.reports.text import write_markdown

    return write_markdown(report, drawings, target)


def summary(
    *,
    study: str,
    measurements: Measurements,
    gap: Gap | None = None,
    plan: Plan | None = None,
    outcome: Outcome | None = None,
    path: str | Path | None = None,
    task_unit: str | None = None,
) -> str:
    """The report in brief, plain text of 80 columns; `path` is where the whole of it lies.

    Raises:
        InputError: for measurements without a score of the teacher.
    """
    from gapkit.reports.compose import report_of
    from gapkit.reports.text import terminal

    results, say = _gathered(study, measurements, gap, plan, outcome, None, task_unit)
    return terminal(report_of(results, say), path)


def _gathered(
    study: str,
    measurements: Measurements,
    gap: Gap | None,
    plan: Plan | None,
    outcome: Outcome | None,
    manifest: Mapping[str, Any] | None,
    task_unit: str | None,
) -> tuple[Results, Wording]:
    from gapkit.reports.compose import wording_of
    from gapkit.reports.results import Results

    results = Results(
        study=study,
        measurements=measurements,
        gap=gap,
        plan=plan,
        outcome=outcome,
        manifest=dict(manifest or {}),
    )
    return results, wording_of(results, results.score_unit if task_unit is None else task_unit)
