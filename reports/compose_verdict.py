"""The verdict: one paragraph that a manager understands, the key figures, and the ladder in numbers."""

from __future__ import annotations

import math
from typing import Literal

from gapkit.gap import MEANINGS, Finding, Gap
from gapkit.measurement import Measurement
from gapkit.outcome import Outcome
from gapkit.reports.report import Fact, Rung
from gapkit.reports.results import Results, one
from gapkit.wording import Wording, sentence, words


def verdict(results: Results, say: Wording) -> str:
    """How large the gap is, its cause, what helps, and what was reached; what was not done is said."""
    parts = [_shortfall(results, say), _cause(results.gap, say), _cure(results, say)]
    return " ".join(part for part in parts if part)


def _shortfall(results: Results, say: Wording) -> str:
    student, teacher, gap = results.score("student"), results.score("teacher"), results.difference
    if student is None or teacher is None:
        return "The student's or the teacher's score was not measured on the test split."
    scores = f"the student scores {_bare(student, say)} and its teacher {_bare(teacher, say)}"
    start = f"On the test split (n = {student.n:,}) {scores}"
    if gap is None or math.isnan(gap.value):
        return f"{start}."
    if gap.low <= 0 <= gap.high:
        return f"{start}: a difference within noise, {say.difference(gap.value)} {say.interval(gap, n=False)}."
    if gap.value < 0:
        return f"{start}: the student is ahead by {say.magnitude(gap, n=False)}."
    return f"{start}, {say.magnitude(gap, n=False)} more."


def _bare(item: Measurement, say: Wording) -> str:
    """A score and its interval, where the n is said once for several."""
    return f"{say.score(item.value)} {say.interval(item, n=False)}"


def leading(gap: Gap) -> Finding | None:
    """The finding that the diagnosis names as the cause, or None when it names none of them."""
    return next((finding for finding in gap.findings if finding.cause == gap.cause), None)


def _cause(gap: Gap | None, say: Wording) -> str:
    if gap is None:
        return "Why it falls short has not been diagnosed yet."
    if gap.cause == "undetermined":
        told = "does not decide" in gap.verdict
        return ("" if told else "The evidence does not decide why. ") + sentence(gap.verdict)
    text = f"Main cause: {words(gap.cause)} ({MEANINGS[gap.cause]}). {sentence(gap.verdict)}"
    found = leading(gap)
    told = found is not None and say.interval(found.points) in gap.verdict
    if found is None or told or gap.cause == "no_gap":
        return text
    if math.isnan(found.points.value):
        return f"{text} How much this explains was not measured: {sentence(found.points.reason)}"
    if found.points.low <= 0:
        return f"{text} How much this explains is not settled: {say.difference_of(found.points)}."
    return f"{text} This explains an estimated {say.magnitude(found.points)}, on validation."


def _cure(results: Results, say: Wording) -> str:
    if results.outcome is not None:
        return _reached(results, results.outcome, say)
    found = leading(results.gap) if results.gap else None
    helps = f"What helps: {sentence(found.remedy.text)}" if found and found.remedy.text else ""
    if results.plan is None:
        return helps
    forecast = say.forecast(results.plan.predicted)
    less = ", less than the student as it is" * results.plan.keep_student
    return (
        f"{helps} The plan is expected to reach {forecast} on validation{less}; it has not been carried out yet."
    ).strip()


def _reached(results: Results, outcome: Outcome, say: Wording) -> str:
    text = (
        f"The plan was carried out; the new student scores {say.score_of(outcome.score)}, on test"
    )
    gain = results.gain
    if gain is None:
        return f"{text}; before, {say.score_of(outcome.before)}."
    if gain.low <= 0 <= gain.high:
        return f"{text}: no difference from before that exceeds noise ({say.difference_of(gain)})."
    kind = "gain" if gain.value > 0 else "loss"
    return f"{text}: a {kind} of {say.magnitude(gain, n=False)} over the same samples."


def facts(results: Results, say: Wording) -> tuple[Fact, ...]:
    """Up to six key figures, each with its interval and n or its source."""
    found = []
    roles: tuple[Literal["student", "teacher"], ...] = ("student", "teacher")
    for of in roles:
        item = results.score(of)
        if item is not None:
            label = "Student as it was" if of == "student" else "Teacher"
            found.append(Fact(label=f"{label}, {words(item.name)}", value=say.score(item.value),
                              note=f"{say.interval(item)}, test", role=of))  # fmt: skip
    gap = results.difference
    if gap is not None:
        found.append(Fact(label="Gap", value=say.difference(gap.value).lstrip("+"),
                          note=f"{say.interval(gap)}, test"))  # fmt: skip
    return (*found, *_diagnosed(results.gap, say), *_planned(results, say), *_size(results))[:6]


def _diagnosed(gap: Gap | None, say: Wording) -> list[Fact]:
    if gap is None:
        return []
    found = leading(gap)
    if found is None or gap.cause in ("undetermined", "no_gap"):
        return [Fact(label="Main cause", value=words(gap.cause), note=MEANINGS[gap.cause])]
    note = "points not measured"
    if not math.isnan(found.points.value):
        points = f"{say.difference(found.points.value)} {say.interval(found.points)}"
        note = f"{points}, {found.points.split}"
    return [Fact(label="Main cause", value=words(gap.cause), note=note)]


def _planned(results: Results, say: Wording) -> list[Fact]:
    found = []
    if results.plan is not None:
        low, high = say.plain(results.plan.predicted.low), say.plain(results.plan.predicted.high)
        level = f"{results.plan.predicted.level * 100:.0f} % interval"
        found.append(Fact(label="Predicted for the plan", value=say.score(results.plan.predicted.value),
                          note=f"[{low}, {high}], {level}, validation"))  # fmt: skip
    if results.outcome is not None:
        score = results.outcome.score
        found.append(Fact(label="Reached", value=say.score(score.value), role="reached",
                          note=f"{say.interval(score)}, test"))  # fmt: skip
    return found


def _size(results: Results) -> list[Fact]:
    counts = [one(results.measurements, "parameters", of, "") for of in ("teacher", "student")]
    teacher, student = counts
    if teacher is None or student is None or not student.value:
        return []
    note = f"{teacher.value:,.0f} against {student.value:,.0f} parameters"
    return [Fact(label="Teacher's size", value=f"{teacher.value / student.value:,.1f}×", note=note)]


def ladder(gap: Gap | None, say: Wording) -> tuple[Rung, ...]:
    """The waterfall in display units, for text output."""
    if gap is None:
        return ()
    fall = gap.waterfall
    steps = tuple(
        Rung(
            label=step.name, value=step.points.value * say.scale,
            text=f"{say.signed(step.points.value)} [{say.signed(step.points.low)}, {say.signed(step.points.high)}]",
        )
        for step in fall.steps
    )  # fmt: skip
    return (
        Rung(label="student", value=fall.start.value * say.scale, end=True,
             text=say.score(fall.start.value)),
        *steps,
        Rung(label="teacher", value=fall.end.value * say.scale, end=True,
             text=say.score(fall.end.value)),
    )  # fmt: skip


def planned_line(results: Results, say: Wording) -> str:
    """The plan in one line."""
    plan = results.plan
    if plan is None:
        return "nothing yet"
    path = " → ".join(["teacher", *(f"{stage.name} ({stage.size})" for stage in plan.stages)])
    cost = f"{plan.cost.student_trainings:.1f} student trainings"
    kept = "; the student as it was given already does better" * plan.keep_student
    return f"{path}; predicted {say.forecast(plan.predicted)} on validation; costs {cost}{kept}"


def reached_line(results: Results, say: Wording) -> str:
    """What was reached, in one line."""
    if results.outcome is None:
        return "nothing yet" if results.plan is None else "not carried out yet"
    line = f"{say.score_of(results.outcome.score)} on test"
    gain = results.gain
    return line if gain is None else f"{line}; {say.difference_of(gain)} against before"
