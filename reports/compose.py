"""Compose: results -> Report. What is said and in which order; no drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gapkit.gap import Gap
from gapkit.measurement import Measurements
from gapkit.outcome import Outcome
from gapkit.plans import Plan
from gapkit.quality.choice import Choice
from gapkit.quality.exhibits import Exhibits
from gapkit.quality.grounds import Gate
from gapkit.reports.compose_front import headline, marks, opener, steps
from gapkit.reports.compose_gates import quality
from gapkit.reports.compose_plan import planned
from gapkit.reports.compose_reached import reached
from gapkit.reports.compose_reproduce import reproduce
from gapkit.reports.compose_verdict import facts, ladder, planned_line, reached_line, verdict
from gapkit.reports.compose_where import where
from gapkit.reports.compose_why import why
from gapkit.reports.report import Report
from gapkit.reports.results import Results
from gapkit.wording import Wording


def compose(
    *,
    study: str,
    task_unit: str,
    measurements: Measurements,
    gap: Gap | None = None,
    plan: Plan | None = None,
    outcome: Outcome | None = None,
    gates: Sequence[Gate] = (),
    choice: Choice | None = None,
    exhibits: Exhibits | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Report:
    """Everything that a report on these results says, verdict first.

    Numbers are the test split's unless they are said to be validation's; each carries its interval
    and n. A part that was not done is absent; page one says what is to be done next.

    Args:
        study: name of the study.
        task_unit: unit of the task's score; "share" is told in percent and points.
        measurements: of teacher and student before any plan.
        gap, plan, outcome: what was diagnosed, planned and reached, where it was.
        gates: answers of the quality gates; without any, nothing is said of them.
        choice: of knowledge and scheme, told under the plan.
        exhibits: real samples with what each model's answer rests on.
        manifest: how the run was made: "command", "created" (ISO date), seeds, versions, fingerprints;
            nested mappings are listed entry by entry.

    Raises:
        InputError: when the measurements hold no score of the teacher.
    """
    results = Results(
        study=study,
        measurements=measurements,
        gap=gap,
        plan=plan,
        outcome=outcome,
        gates=tuple(gates),
        choice=choice,
        exhibits=exhibits,
        manifest=dict(manifest or {}),
    )
    return report_of(results, wording_of(results, task_unit))


def wording_of(results: Results, task_unit: str) -> Wording:
    """How this study's scores are put into words."""
    return Wording(unit=task_unit, score_name=results.score_name)


def report_of(results: Results, say: Wording) -> Report:
    """The report on results that were gathered already."""
    results = results.possible
    return Report(
        title=_title(results),
        study=results.study,
        created=str(results.manifest.get("created", "")),
        headline=headline(results, say),
        verdict=verdict(results, say),
        opener=opener(results, say),
        next=steps(results, say),
        marks=marks(results),
        facts=facts(results, say),
        ladder=ladder(results.gap, say),
        planned=planned_line(results, say),
        reached=reached_line(results, say),
        sections=(
            *where(results, say),
            *why(results, say),
            *planned(results, say),
            *reached(results, say),
            *quality(results),
            *reproduce(results),
        ),
    )


def _title(results: Results) -> str:
    if results.gap is None:
        return f"{results.study}: student and teacher compared"
    if results.gap.cause == "no_gap":
        return f"{results.study}: the student equals its teacher"
    if results.gap.open_slice:
        return f"{results.study}: student and teacher are level, and one slice is open"
    return f"Why {results.study} falls short of its teacher" + (
        ", and what was done" if results.outcome else ""
    )
