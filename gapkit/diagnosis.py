"""diagnose(): measurements and controls -> Gap. Finds the causes, ranks them and words the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from gapkit.causes.case import EXCESS, SPLIT, Case
from gapkit.causes.catalog import CAUSES, LEAST_SEEDS, no_gap
from gapkit.causes.confidence import EVEN
from gapkit.causes.questions import own_recovers
from gapkit.causes.scores import fine_elsewhere, hides_most
from gapkit.causes.teacher import memorized_labels, open_slice
from gapkit.causes.waterfall import build_waterfall
from gapkit.gap import MEANINGS, Cause, ControlRun, Evidence, Finding, Gap, Remedy
from gapkit.knowledge import Knowledge
from gapkit.measurement import Measurements


def diagnose(
    measurements: Measurements,
    controls: Sequence[ControlRun] = (),
    *,
    score_name: str = "accuracy",
    unit: str = "share",
    teacher_score: float | None = None,
    budget: float = 0.0,
    spent: float | None = None,
    left_out: Sequence[str] = (),
    notes: Sequence[str] = (),
    groups: Any = None,
    student_history: Sequence[float] = (),
    knowledge: Sequence[Knowledge] = (),
    same_view: bool = True,
    slices: Mapping[str, Any] | None = None,
) -> Gap:
    """Name why the student falls short, with evidence; "undetermined" when it does not decide.

    Reads validation, and train where it shows what was taught and learned; never test. Causes that can be
    recovered without changing the student's size come first, by points; `capacity` leads only when none
    of them excludes zero; evidence whose points no control measured comes last.

    Args:
        measurements: of gapkit.probes.survey.measure, on validation at least.
        controls: finished control runs; without any, only what needs no training is found.
        score_name, unit: of the task.
        teacher_score: what the user believes the teacher scores.
        budget: the controls' budget in student trainings, for the record.
        spent: student trainings that the controls took, failed ones too; default what those given cost.
        left_out: names of controls that the budget did not reach.
        notes: what else the controls have to say.
        groups: (n,) names of validation samples that depend on each other; intervals are then over groups.
        student_history: scores by epoch of the user's own training.
        knowledge: what the user's student learned from.
        same_view: whether teacher and student see the same of a sample.
        slices: name -> (n,) declared value of each validation sample, to look for controls that beat the
            teacher there.
    """
    case = Case(
        measurements=measurements,
        controls={run.name: run for run in controls},
        score_name=score_name,
        unit=unit,
        teacher_score=teacher_score,
        left_out=tuple(left_out),
        groups=groups,
        student_history=tuple(student_history),
        knowledge=tuple(knowledge),
        same_view=same_view,
        slices=slices or {},
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
        spent=sum(run.cost for run in controls) if spent is None else spent,
        notes=tuple(notes),
    )


def find_causes(case: Case) -> list[Finding]:
    """All causes that hold, the leading one first.

    Without a gap on average only what an average can hide is told: a harness fault, a bad slice.
    """
    found = [finding for cause in CAUSES if (finding := cause(case)) is not None]
    equal = no_gap(case)
    if equal is not None:
        found = [equal, *(item for item in found if item.cause in HIDDEN)]
    causes = {finding.cause for finding in found}
    found.sort(key=lambda finding: _rank(case, finding, causes))
    return found if found and _leads(case, found[0]) else [undetermined(case), *found]


def _leads(case: Case, finding: Finding) -> bool:
    """Whether that finding can be the verdict, not only evidence.

    Without controls a bad slice is the verdict only where the student has no gap elsewhere: else whatever
    made the gap made it there too. A slice on which the teacher is beaten explains no gap. No gap
    is one only where no declared slice is left open on which the teacher is weak.
    """
    if finding.cause == "no_gap" and open_slice(case) is not None:
        return False
    if finding.cause == "false_success" and not case.controls:
        return no_gap(case) is not None or fine_elsewhere(case)
    if finding.cause == "scheme_mismatch" and finding.points.group:
        return no_gap(case) is not None
    return finding.points.low > 0 or finding.probability > EVEN


HIDDEN = ("harness_fault", "false_success", "scheme_mismatch")  # what an average can hide

_ORDER: dict[Cause, int] = {"harness_fault": 0, "capacity": 2, "false_success": 3, "no_gap": 4}
"""Before what needs no other size (1), or after it; a bad slice says more than an average without a gap."""

_MOST_OF_IT, _SEEN, _ACCOUNTED, _UNMEASURED, _AHEAD = 0.5, 1.5, 1.6, 4.5, 5
"""Evidence whose points no control measured comes after what excludes zero; a student that is ahead of its
teacher has, first of all, no gap."""


def _rank(case: Case, finding: Finding, causes: Set[Cause]) -> tuple[float, float, float]:
    """A harness fault, a slice that holds most of the gap (unless the own recipe does as badly), what needs no
    other size by points, capacity, other slices, then what is not measured."""
    points = finding.points
    order: float = _ORDER.get(finding.cause, 1)
    if finding.cause == "false_success" and _is_most(case, finding):
        order = _MOST_OF_IT
    if finding.cause == "scheme_mismatch" and points.low > 0:
        of_a_control = points.name != "student minus teacher"
        order = _ORDER["false_success"] if points.group else 1 if of_a_control else _AHEAD
    elif finding.cause == "overconfident_teacher" and not points.low > 0:
        order = _SEEN if finding.probability > EVEN else _UNMEASURED
    elif order == 1 and not points.low > 0:
        order = _UNMEASURED
    elif points.name == EXCESS and _accounted(case, causes):
        order = _ACCOUNTED
    value = points.value if not math.isnan(points.value) else -math.inf
    return order, -value, -finding.probability


def _is_most(case: Case, slice_found: Finding) -> bool:
    """Whether a slice holds most of the gap, the student has none elsewhere, and its own recipe, where it was tried,
    does not do as badly."""
    whole = case.gap.low > 0 and hides_most(case, slice_found) and fine_elsewhere(case)
    return whole and own_recovers(case) is not False


def _accounted(case: Case, causes: Set[Cause]) -> bool:
    """Whether another teacher or view, or labels that the teacher memorized, account for some of a loss off train."""
    memorized = "overconfident_teacher" in causes and memorized_labels(case)
    return memorized or bool(causes & {"teacher_gap", "input_gap"})


def undetermined(case: Case) -> Finding:
    """The evidence does not decide; names the control that would."""
    decides = _would_decide(case)
    return Finding(
        cause="undetermined",
        points=case.gap,
        confidence="low",
        evidence=(_undecided(case),),
        would_change=f"{decides[0].upper()}{decides[1:]}.",
        remedy=Remedy(text=f"Run {decides}."),
    )


def _undecided(case: Case) -> Evidence:
    """What is not decided: the teacher's own slice where there is no gap, else the gap."""
    gap, weak = case.gap, open_slice(case)
    if no_gap(case) is None or weak is None:
        text = (
            f"The gap is {case.say.difference_of(gap)}; no cause explains a share of it whose interval "
            "excludes zero."
        )
        limit = f"zero, with at least {LEAST_SEEDS} seeds a control"
        return Evidence(text=text, measurement=gap, limit=limit)
    scratch = case.controls.get("scratch")
    tried = "was not tried" if scratch is None else f"is open after {len(scratch.seeds)} seeds"
    text = (
        f"There is no gap on average ({case.say.difference_of(gap)}), but on {weak.group} the teacher itself "
        f"scores {case.say.score_of(weak)}: whether labels know better there {tried}."
    )
    return Evidence(text=text, measurement=weak, limit="nine tenths of the teacher's average")


def _would_decide(case: Case) -> str:
    """The control runs that would decide."""
    if no_gap(case) is not None and open_slice(case) is not None:
        return f"labels alone with at least {LEAST_SEEDS} seeds: diagnose(controls=True)"
    if not case.controls:
        return (
            "the same recipe, labels alone and gentler knowledge with a few seeds each, and the next "
            "size up: diagnose(controls=True)"
        )
    fewest = min(case.controls.values(), key=lambda run: len(run.seeds))
    seeds = (
        f"more seeds of every control ({fewest.name!r} has {len(fewest.seeds)}): a larger budget"
    )
    return f"{', '.join(case.left_out)}, and {seeds}" if case.left_out else seeds


def word_verdict(case: Case, findings: Sequence[Finding]) -> str:
    """The verdict in two or three sentences that a reader without this package understands."""
    first = findings[0]
    opening = _opening(case)
    if first.cause == "no_gap":
        return opening
    if first.cause in ("undetermined", "harness_fault"):
        meaning = MEANINGS[first.cause]
        slices = [item for item in findings[1:] if item.points.group and item.points.low > 0]
        hidden = [_clause(case, item) for item in slices]
        said = f"{opening} {meaning[0].upper()}{meaning[1:]}. {first.evidence[0].text}"
        return " ".join([said, *hidden])
    clauses = [_clause(case, item) for item in findings if item.cause != "no_gap"]
    if not case.controls:
        clauses.append(f"What else there is takes control runs: {_would_decide(case)}.")
    return " ".join([opening, *clauses])


def _opening(case: Case) -> str:
    """How far the student is from its teacher."""
    gap, say = case.gap, case.say
    if gap.low > 0:
        return f"On validation the student scores {say.magnitude(gap)} below its teacher."
    if gap.high < 0:
        return f"On validation the student scores {say.magnitude(gap)} above its teacher."
    return (
        "On validation student and teacher cannot be told apart: teacher minus student is "
        f"{say.difference_of(gap)}."
    )


_CLAUSES: dict[Cause, str] = {
    "harsh_targets": "Its targets are too harsh: {points} come back with {remedy}.",
    "teacher_gap": "Its teacher is too large: {points} come back with {teacher}.",
    "undertrained": "It is still rising: longer training adds {points}.",
    "pipeline_fault": "Its training is at fault: the same recipe run by gapkit gains {points}.",
    "optimization": "Training itself loses {points}.",
    "coverage": "It has too few samples: {points}.",
    "input_gap": "Its view lacks what the teacher sees: {points}.",
    "overconfident_teacher": "Its teacher's answers say little beyond the labels: {points} come with others.",
    "scheme_mismatch": "Its teacher is not the best source: {points} more are reached without it{where}.",
    "capacity": "Its size bounds the remaining {points}.",
    "blind_layer": "Its architecture cannot express what its teacher's does: {points}.",
    "uniform_transfer": "It learns layers with equal weight of which some do not matter: {points}.",
    "false_success": "The average hides {group}, where it is {points} behind.",
}


_UNMEASURED_CLAUSES: dict[Cause, str] = {
    "undertrained": "Its own scores were still rising when its training ended.",
    "overconfident_teacher": "Its teacher's answers say little beyond the labels.",
    "blind_layer": "One of its teacher's layers that matter came no nearer by training.",
    "uniform_transfer": "It learns layers with equal weight of which some do not matter.",
    "scheme_mismatch": "Its teacher does not stay valid over time.",
    "input_gap": "Its view does not hold what the teacher's first layer sees.",
}


def _clause(case: Case, finding: Finding) -> str:
    if not finding.points.low > 0 and finding.cause in _UNMEASURED_CLAUSES:
        return _UNMEASURED_CLAUSES[finding.cause]
    clause = _CLAUSES[finding.cause]
    same, knowledge = case.controls.get("same recipe"), finding.remedy.knowledge
    if finding.cause == "harsh_targets" and same is not None and same.recipe == "scratch":
        clause = "It learns from labels alone: {points} come with {remedy}."
    return clause.format(
        points=case.say.magnitude(finding.points),
        remedy="labels alone" if knowledge == "scratch" else f"{knowledge} instead",
        group=finding.points.group,
        teacher="an earlier state of it" if finding.remedy.source else "a smaller one",
        where=f" on {finding.points.group}" if finding.points.group else "",
    )
