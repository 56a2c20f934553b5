"""What was planned: the stages, why these, what else was considered, and whether an assistant pays."""

from __future__ import annotations

from collections.abc import Iterator

from gapkit.plans import Alternative, Cost, Plan
from gapkit.quality.choice import Choice
from gapkit.reports.report import Block, Bullets, Figure, Paragraph, Section, Table
from gapkit.reports.results import Results
from gapkit.wording import (
    Wording,
    knowledge_words,
    number,
    path_words,
    sentence,
    stage_knowledge,
    words,
)

ALTERNATIVES_SHOWN = 8
HEADING = "What was planned"
CHOICE = "What knowledge, by which scheme, and why"


def planned(results: Results, say: Wording) -> tuple[Section, ...]:
    """The plan and its rivals; forecasts are of the validation score."""
    plan = results.plan
    if plan is None:
        return tuple(_choice(results.choice, False))
    sections = [
        Section(heading=HEADING, blocks=tuple(_lead(plan, results, say))),
        *_choice(results.choice, True),
        Section(heading="Does an assistant pay?", level=2, blocks=tuple(_claim(plan))),
    ]
    if plan.alternatives:
        blocks = tuple(_considered(plan, say))
        sections.append(Section(heading="What else was considered", level=2, blocks=blocks))
    return tuple(sections)


def _lead(plan: Plan, results: Results, say: Wording) -> Iterator[Block]:
    yield Paragraph(
        text=f"Carried out, the plan is expected to bring the student to {say.forecast(plan.predicted)} "
        f"on validation, on average over trainings; a single run to {say.forecast(plan.predicted_run)}. "
        f"It costs {cost_words(plan.cost)}."
        + (f" The search for it cost {cost_words(plan.search_cost)}." if plan.search_cost.student_trainings else "")
    )  # fmt: skip
    stages = "; ".join(
        f"{stage.name} (size {stage.size}) taught by {' and '.join(stage.taught_by) or 'labels alone'}"
        for stage in plan.stages
    )
    yield Figure(
        name="plan",
        caption="Who teaches whom, from top to bottom. On the arrows what is learned (weight·loss, τ the "
        "temperature); beside each box the forecast validation score of one run"
        + (" and what the kept run reached." if results.outcome else "."),
        alt=f"Diagram of the plan: {stages}.",
    )
    if plan.reasons or plan.answers:
        answered = (
            (f"It answers: {', '.join(words(cause) for cause in plan.answers)}.",)
            if plan.answers
            else ()
        )
        yield Paragraph(lead="Why this plan.", text="")
        yield Bullets(items=plan.reasons + answered)
    yield Table(
        caption="The stages in full.",
        columns=("Stage", "Size", "Taught by", "Starts from", "Learns", "Seeds", "Differs"),
        rows=tuple(
            (stage.name, str(stage.size), ", ".join(stage.taught_by) or "labels", stage.init,
             stage_knowledge(stage), ", ".join(map(str, stage.seeds)),
             ", ".join(f"{key} {value}" for key, value in stage.recipe.items()) or "–")
            for stage in plan.stages
        ),
        widths=(1.3, 0.7, 1.2, 1.1, 2.4, 0.8, 1.2),
    )  # fmt: skip


def _choice(choice: Choice | None, planned: bool) -> Iterator[Section]:
    """What the measurements speak for; where there is a plan, that its own knowledge may differ."""
    if choice is None:
        return
    learned = f"{knowledge_words(choice.knowledge)}; scheme: {words(choice.scheme)}"
    blocks = [
        Paragraph(text=" ".join(sentence(reason) for reason in choice.reasons)),
        Paragraph(text=f"To learn: {learned}."),
    ]
    if planned:
        aside = (
            "This is read from the measurements alone, on validation; the plan's own knowledge was "
            "picked by trainings and may differ."
        )
        blocks.append(Paragraph(text=aside, tone="note"))
    yield Section(heading=CHOICE, level=2, blocks=tuple(blocks))


def cost_words(cost: Cost) -> str:
    """A cost in student trainings, with time and arithmetic where they are known.

    >>> cost_words(Cost(student_trainings=6.2, seconds=95.0, flops=4.1e12))
    '6.2 student trainings (by seconds; about 1.6 min, 4.1e+12 FLOPs)'
    """
    known = [f"about {time_words(cost.seconds)}"] * (cost.seconds > 0)
    known += [f"{cost.flops:.2g} FLOPs"] * (cost.flops > 0)
    more = f" (by {cost.unit_from}; {', '.join(known)})" if known else ""
    return f"{cost.student_trainings:.1f} student trainings{more}"


def _claim(plan: Plan) -> Iterator[Block]:
    if plan.assistant_pays:
        text = "Yes: the gain over the best direct distillation exceeds noise."
    elif any(len(item.path) > 2 for item in plan.alternatives) or len(plan.stages) > 1:
        text = "Not shown: no gain over the best direct distillation exceeds noise."
    else:
        text = "Not tested: no path through an assistant was considered."
    yield Paragraph(text=f"{text} {plan.claim}".strip())


def price_words(cost: Cost) -> str:
    """A cost as a price: student trainings, and the time where it is known.

    >>> price_words(Cost(student_trainings=6.2, seconds=95.0))
    '6.2 student trainings, about 1.6 min'
    """
    time = f", about {time_words(cost.seconds)}" if cost.seconds > 0 else ""
    return f"{cost.student_trainings:.1f} student trainings{time}"


def time_words(seconds: float) -> str:
    """Seconds in a fitting unit.

    >>> time_words(4.2), time_words(95.0), time_words(7200.0)
    ('4.2 s', '1.6 min', '2.0 h')
    """
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _considered(plan: Plan, say: Wording) -> Iterator[Block]:
    found = plan.alternatives
    if len(found) > 1:
        chosen = next((item for item in found if item.chosen), None)
        told = f" Chosen: {path_words(chosen.path)} by {chosen.recipe}." if chosen else ""
        yield Paragraph(
            text="Along the line of the figure nothing cheaper is forecast to do as well; what lies below it was "
            "dropped."
        )
        yield Figure(
            name="pareto",
            caption=f"All {len(found)} paths considered: forecast of the mean validation score over cost.",
            alt=f"Scatter plot of {len(found)} paths by cost and forecast; "
            f"{sum(item.on_front for item in found)} on the front.{told}",
        )
    yield _alternatives(found, say)


def _alternatives(found: tuple[Alternative, ...], say: Wording) -> Table:
    ranked = sorted(found, key=lambda item: (not item.chosen, -item.predicted.value))
    shown = ranked[:ALTERNATIVES_SHOWN]
    level = f"{shown[0].predicted.level * 100:.0f} %"
    left = len(ranked) - len(shown)
    more = f" Left out: {left:,} more, with lower forecasts." if left else ""
    return Table(
        caption=f"Paths considered, the chosen one first; forecast of the mean validation score with its {level} "
        f"interval; runs: trainings of that path that the forecast rests on; cost in student trainings. "
        f"“Front”: nothing cheaper is forecast to do as well.{more}",
        columns=("Path, knowledge", "Forecast", "Runs", "Cost", "Note"),
        rows=tuple(_alternative(item, say) for item in shown),
        widths=(2.6, 2.0, 0.7, 0.8, 2.0),
        right=(1, 2, 3),
    )


def _alternative(item: Alternative, say: Wording) -> tuple[str, ...]:
    length = "" if item.fraction == 1 else f", ×{item.fraction:g}"
    forecast = item.predicted
    notes = ["chosen"] * item.chosen + ["front"] * item.on_front + [item.note] * bool(item.note)
    return (
        f"{path_words(item.path)}, {item.recipe}{length}",
        f"{say.score(forecast.value)} [{say.plain(forecast.low)}, {say.plain(forecast.high)}]",
        number(item.n_runs),
        f"{item.cost:.1f}",
        ", ".join(notes),
    )
