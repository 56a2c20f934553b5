"""Page one: the verdict in one sentence, what to do next with its gain and price, the gates as marks."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gapkit.gap import MEANINGS, ControlRun, Finding, Gap
from gapkit.reports.compose_plan import price_words
from gapkit.reports.compose_why import fall_figure
from gapkit.reports.report import Figure, Mark, Next
from gapkit.reports.results import OWN_PLAN, Results
from gapkit.wording import Wording, path_words, sentence, words

NEXT_SHOWN = 3


def headline(results: Results, say: Wording) -> str:
    """How far behind the student is, chiefly why, and what was got back: one sentence."""
    parts = [_behind(results, say), _why(results.gap), _got_back(results, say)]
    return sentence("".join(part for part in parts if part))


def _behind(results: Results, say: Wording) -> str:
    gap = results.difference
    if gap is None or math.isnan(gap.value):
        return "How far the student is behind its teacher was not measured on the test split"
    on = f"on test (n = {gap.n:,})"
    if gap.low <= 0 <= gap.high:
        return f"Student and teacher are level {on}: {say.difference(gap.value)} {say.bounds(gap, signed=True)}"
    size = say.magnitude(gap, n=False)
    side = "below its teacher" if gap.value > 0 else "above its teacher"
    return f"The student scores {size} {side} {on}"


def _why(gap: Gap | None) -> str:
    if gap is None:
        return "; why has not been diagnosed yet"
    if gap.cause == "no_gap":
        return ""
    if gap.open_slice:
        return f"; the teacher is weak on {gap.open_slice}, and whether labels know better there is open"
    if gap.cause == "undetermined":
        return "; the evidence does not decide why"
    return f", chiefly for {words(gap.cause)} ({MEANINGS[gap.cause]})"


def _got_back(results: Results, say: Wording) -> str:
    gain = results.gain
    if results.outcome is None or gain is None or math.isnan(gain.value):
        return ""
    if gain.low <= 0 <= gain.high:
        return "; carrying out the plan made no difference beyond noise"
    did = "brought it up" if gain.value > 0 else "took it down"
    return f"; the plan {did} by {say.magnitude(gain, n=False)}"


def opener(results: Results, say: Wording) -> Figure | None:
    """The waterfall, where there is a diagnosis."""
    return None if results.gap is None else fall_figure(results.gap, say)


def marks(results: Results) -> tuple[Mark, ...]:
    """The gates' answers in a row."""
    return tuple(Mark(name=gate.name, state=gate.state) for gate in results.gates)


def steps(results: Results, say: Wording) -> tuple[Next, ...]:
    """What to do next, the most promising first; at most three."""
    found = [*_verbs(results, say), *_remedies(results, say), *_open_questions(results)]
    return tuple(found[:NEXT_SHOWN])


def _verbs(results: Results, say: Wording) -> Iterator[Next]:
    """The next verb of gapkit's, where one was not called yet."""
    gap, plan = results.gap, results.plan
    if gap is None:
        yield _diagnosis(results)
    elif plan is None and gap.cause != "no_gap" and results.without_targets:
        yield Next(do=f"{OWN_PLAN}.", gain="not predicted", price="what the plan's stages cost")
    elif plan is None and gap.cause != "no_gap" and not gap.open_slice:
        yield Next(
            do="Plan what would close it: gapkit plan",
            gain="a priced plan",
            price="10 student trainings at most",
        )
    elif plan is not None and results.outcome is None:
        path = path_words(["teacher", *(f"{stage.name} ({stage.size})" for stage in plan.stages)])
        now = "" if gap is None else f", from {say.score(gap.student.value)} today"
        low, high = say.plain(plan.predicted.low), say.plain(plan.predicted.high)
        reached = f"to {say.score(plan.predicted.value)} [{low}, {high}]{now}, validation"
        if plan.keep_student:
            yield Next(
                do="Keep the student as it is",
                gain=f"the plan would lead {reached}",
                price="nothing",
            )
        else:
            yield Next(do=f"Carry out the plan: {path}", gain=reached, price=price_words(plan.cost))


def _diagnosis(results: Results) -> Next:
    if results.without_targets:
        do, gain = (
            "Diagnose without controls: gapkit diagnose --no-controls",
            "what needs no training",
        )
        return Next(do=do, gain=gain, price="no trainings")
    price = "8 student trainings at most"
    return Next(do="Diagnose why: gapkit diagnose", gain="names the cause", price=price)


def _remedies(results: Results, say: Wording) -> Iterator[Next]:
    """Remedies that the plan does not hold; after a plan, what it left, and what no training carries out."""
    gap = results.gap
    if gap is None:
        return
    answered = set(results.plan.answers) if results.plan else set()
    left = [
        item
        for item in gap.findings
        if item.remedy.text
        and (item.cause not in answered or item.remedy.size or _by_hand(item))
        and OWN_PLAN not in item.remedy.text  # told already
        and not (gap.open_slice and item.cause == "no_gap")
    ]
    for item in sorted(left, key=_worth):
        yield Next(
            do=sentence(item.remedy.text), gain=_gain(item, gap, say), price=_price(item, gap)
        )


def _by_hand(item: Finding) -> bool:
    """Whether a cause was found whose remedy no training carries out: other data, or another input."""
    remedy = item.remedy
    trained = remedy.knowledge or remedy.size or remedy.source or remedy.stages
    lengths = (remedy.fraction, remedy.rate) != (1, 1)
    return item.cause not in ("undetermined", "no_gap") and not (trained or lengths)


def _gain(item: Finding, gap: Gap, say: Wording) -> str:
    if item.cause == "undetermined":
        return "a decision"
    if math.isnan(item.points.value):
        return "not measured"
    return f"{say.difference(item.points.value)} {say.bounds(item.points, signed=True)}, {item.points.split}"


def _worth(item: Finding) -> float:
    return -item.points.value if math.isfinite(item.points.value) else math.inf


def _price(item: Finding, gap: Gap) -> str:
    """What one training of the remedy cost as a control, or is known to cost by its length."""
    remedy = item.remedy
    run = next((run for run in gap.controls if _tried(run, item)), None)
    if run is not None:
        return _trainings(run.cost / len(run.seeds))
    if remedy.knowledge or remedy.fraction != 1:
        return _trainings(remedy.fraction)
    return "not priced"


def _trainings(count: float) -> str:
    """
    >>> _trainings(1.0), _trainings(4.04)
    ('1 student training a seed', '4 student trainings a seed')
    """
    shown = f"{count:.1f}".removesuffix(".0")
    return f"{shown} student training{'' if shown == '1' else 's'} a seed"


def _tried(run: ControlRun, item: Finding) -> bool:
    remedy = item.remedy
    if remedy.size:
        return str(run.path[-1]) == remedy.size and run.fraction == remedy.fraction
    return bool(remedy.knowledge) and (run.recipe, run.fraction) == (
        remedy.knowledge,
        remedy.fraction,
    )


def _open_questions(results: Results) -> Iterator[Next]:
    """Comparisons that are undecided, and what would decide them."""
    for item in results.outcome.comparisons if results.outcome else ():
        if item.decided == "undecided" and item.would_decide:
            yield Next(do=f"Settle whether {item.name} beats {item.better_than}: {sentence(item.would_decide)}",
                       gain="a decision", price="not priced")  # fmt: skip
