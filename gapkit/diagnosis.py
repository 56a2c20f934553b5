"""diagnose(): measurements and controls -> Gap. Finds the causes, ranks them and words the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gapkit.case import SPLIT, Case
from gapkit.causes import CAUSES, LEAST_SEEDS, no_gap
from gapkit.gap import MEANINGS, Cause, ControlRun, Evidence, Finding, Gap, Remedy
from gapkit.measurement import Measurements
from gapkit.waterfall import build_waterfall

FAULTS = ("harness_fault", "pipeline_fault")


def diagnose(
    measurements: Measurements,
    controls: Sequence[ControlRun] = (),
    *,
    score_name: str = "accuracy",
    unit: str = "share",
    teacher_score: float | None = None,
    budget: float = 0.0,
    notes: Sequence[str] = (),
) -> Gap:
    """Name why the student falls short, with evidence; "undetermined" when it does not decide.

    Reads validation only. Causes that can be recovered without changing the student's size come
    first, by points; `capacity` leads only when none of them excludes zero.

    Args:
        measurements: of gapkit.probes.survey.measure, on validation at least.
        controls: finished control runs; without any, only what needs no training is found.
        score_name, unit: of the task.
        teacher_score: what the user believes the teacher scores.
        budget: the controls' budget in student trainings, for the record.
        notes: what the controls left out.
    """
    case = Case(
        measurements=measurements,
        controls={run.name: run for run in controls},
        score_name=score_name,
        unit=unit,
        teacher_score=teacher_score,
    )
    findings = find_causes(case)
    return Gap(
        study=measurements.study,
        cause=findings[0].cause,
        verdict=word_verdict(case, findings),
        student=measurements.get(score_name, of="student", split=SPLIT),
        teacher=measurements.get(score_name, of="teacher", split=SPLIT),
        findings=tuple(findings),
        waterfall=build_waterfall(case),
        controls=tuple(controls),
        budget=budget,
        spent=sum(run.cost for run in controls),
        notes=tuple(notes),
    )


def find_causes(case: Case) -> list[Finding]:
    """All causes that hold, the leading one first."""
    equal = no_gap(case)
    found = [finding for cause in CAUSES if (finding := cause(case)) is not None]
    if equal is not None:
        return [
            equal,
            *(item for item in found if item.cause in ("harness_fault", "false_success")),
        ]
    found.sort(key=_rank)
    recovered = any(item.cause not in ("coverage", "false_success") for item in found)
    return found if recovered else [undetermined(case), *found]


def _rank(finding: Finding) -> tuple[int, float]:
    """Faults of the set-up, then what needs no other size by points, then capacity."""
    if finding.cause == "harness_fault":
        return 0, 0.0
    order = 2 if finding.cause in ("capacity", "false_success") else 1
    points = finding.points.value
    return order, -points if not math.isnan(points) else math.inf


def undetermined(case: Case) -> Finding:
    """The evidence does not decide; names the control that would."""
    gap = case.gap
    if not case.controls:
        decides = (
            "the same recipe, labels alone and gentler knowledge with a few seeds each, and the next "
            "size up: diagnose(controls=True)"
        )
    else:
        fewest = min(case.controls.values(), key=lambda run: len(run.seeds))
        decides = f"more seeds of every control ({fewest.name!r} has {len(fewest.seeds)}): a larger budget"
    return Finding(
        cause="undetermined",
        points=gap,
        confidence="low",
        evidence=(
            Evidence(
                text=f"The gap is {case.say.difference_of(gap)}; no cause explains a share of it whose "
                "interval excludes zero.",
                measurement=gap,
                limit=f"zero, with at least {LEAST_SEEDS} seeds a control",
            ),
        ),
        would_change=f"{decides[0].upper()}{decides[1:]}.",
        remedy=Remedy(text=f"Run {decides}."),
    )


def word_verdict(case: Case, findings: Sequence[Finding]) -> str:
    """The verdict in two or three sentences that a reader without this package understands."""
    first, gap = findings[0], case.gap
    say = case.say
    if first.cause == "no_gap":
        return f"Student and teacher score alike: the difference is {say.difference_of(gap)}."
    opening = f"On validation the student scores {say.magnitude(gap)} below its teacher."
    if first.cause in ("undetermined", "harness_fault"):
        meaning = MEANINGS[first.cause]
        return f"{opening} {meaning[0].upper()}{meaning[1:]}. {first.evidence[0].text}"
    parts = [
        opening,
        *(_clause(case, item) for item in findings if item.cause not in ("false_success",)),
    ]
    return " ".join(parts)


_CLAUSES: dict[Cause, str] = {
    "harsh_targets": "Its targets are too harsh: {points} come back with {remedy}.",
    "teacher_gap": "Its teacher is too large: {points} come back with a smaller one.",
    "undertrained": "It is still rising: longer training adds {points}.",
    "pipeline_fault": "Its training is at fault: the same recipe run by gapkit gains {points}.",
    "optimization": "Training itself loses {points}: a teacher-sized student falls short by that.",
    "coverage": "Off its training set it loses {points} more than the teacher.",
    "capacity": "Its size bounds the remaining {points}.",
}


def _clause(case: Case, finding: Finding) -> str:
    clause = _CLAUSES.get(finding.cause)
    if clause is None:
        return MEANINGS[finding.cause] + "."
    remedy = finding.remedy.knowledge
    words = "labels alone" if remedy == "scratch" else f"{remedy} instead"
    return clause.format(points=case.say.magnitude(finding.points), remedy=words)
