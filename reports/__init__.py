"""Reports: what was measured, diagnosed, planned and reached, as PDF, HTML, Markdown, JSON and text.

Nothing heavy is imported before a report is written.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapkit.gap import Gap
    from gapkit.measurement import Measurements
    from gapkit.outcome import Outcome
    from gapkit.plans import Plan
    from gapkit.quality.choice import Choice
    from gapkit.quality.exhibits import Exhibits
    from gapkit.quality.grounds import Gate
    from gapkit.reports.report import Report
    from gapkit.reports.results import Results
    from gapkit.wording import Wording

__all__ = ["compare", "figures", "summary", "write"]

ENDINGS = (".pdf", ".md", ".html", ".json")


def __getattr__(name: str) -> Any:
    if name == "figures":
        return importlib.import_module("gapkit.reports.figures")
    raise AttributeError(f"module 'gapkit.reports' has no attribute {name!r}")


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
    exhibits: Exhibits | None = None,
    manifest: Mapping[str, Any] | None = None,
    task_unit: str | None = None,
    fonts: Sequence[str | Path] = (),
) -> Path:
    """Write a report and return where it lies.

    Args:
        path: ends in .pdf, .html (one self-contained page), .json (what is said, as data), or .md
            (figures then lie beside it in a folder NAME_figures).
        study: name of the study.
        measurements: of teacher and student before any plan.
        gap, plan, outcome: what was diagnosed, planned and reached, where it was.
        gates, choice: answers of the quality gates, and the choice of knowledge, where they were judged.
        exhibits: real samples with what each model's answer rests on.
        manifest: how the run was made (see gapkit.reports.compose.compose).
        task_unit: unit of the task's score; default: that of the teacher's measured score.
        fonts: files of fonts for scripts that the embedded ones lack (CJK, emoji); the report names them.

    Raises:
        InputError: for another ending, a missing folder, no font, or measurements without a score of the teacher.
    """
    target = checked_target(path)
    from gapkit.reports.compose import report_of
    from gapkit.reports.draw import draw
    from gapkit.reports.fonts import fingerprints, lent

    with lent(fonts):
        manifest = dict(manifest or {}) | ({"fonts": fingerprints()} if fonts else {})
        results, say = _gathered(study, measurements, gap, plan, outcome, manifest, task_unit)
        results = results.with_(gates=tuple(gates), choice=choice, exhibits=exhibits)
        report = report_of(results, say)
        return _put(report, {} if target.suffix == ".json" else draw(report, results, say), target)


def compare(
    path: str | Path, runs: Sequence[str | Path | Results], fonts: Sequence[str | Path] = ()
) -> Path:
    """Write several runs side by side (verdicts, scores, ways, plans) and return where that lies.

    Args:
        path: as for `write`.
        runs: run folders, or results gathered from elsewhere; two or more, of scores of one name.
        fonts: as for `write`.

    Raises:
        InputError: for fewer than two runs, scores that cannot be compared, or a folder without measurements.
    """
    target = checked_target(path)
    from gapkit.reports.compose_compare import comparison
    from gapkit.reports.draw_compare import draw_comparison
    from gapkit.reports.results import Results, read_run

    gathered = [run if isinstance(run, Results) else read_run(run) for run in runs]
    names = [run.study if isinstance(run, Results) else str(run) for run in runs]
    from gapkit.reports.fonts import lent

    with lent(fonts):
        report, compared = comparison(gathered, names)
        drawings = {} if target.suffix == ".json" else draw_comparison(report, compared)
        return _put(report, drawings, target)


def checked_target(path: str | Path) -> Path:
    """The path, once it is known that a report can be put there."""
    from gapkit.errors import InputError

    target = Path(path)
    if target.suffix not in ENDINGS:
        kinds = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise InputError(f"Expected a report path that ends in {kinds} but got {str(path)!r}")
    from gapkit.reports.pdf import check_target

    check_target(target)
    return target


def _put(report: Report, drawings: Mapping[str, bytes], target: Path) -> Path:
    """Write a report in the form that the target's ending says."""
    from gapkit.reports.pdf import replace_file, write_pdf

    if target.suffix == ".pdf":
        return write_pdf(report, drawings, target)
    if target.suffix == ".json":
        return replace_file(target, (report.model_dump_json(indent=2) + "\n").encode())
    if target.suffix == ".html":
        from gapkit.reports.html import write_html

        return write_html(report, drawings, target)
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
