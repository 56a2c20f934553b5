"""propose(): what a planner chose, as stages that can be carried out, with reasons in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gapkit.family import Size
from gapkit.forecast import SCRATCH, Arm
from gapkit.measurement import Measurement
from gapkit.planner import Choice, Planner, Trial
from gapkit.plans import Alternative, Cost, Plan, Predicted, Stage
from gapkit.teaching.ways import Way
from gapkit.training.prices import Prices
from gapkit.wording import Wording

CLAIM_RUNS = 2  # of a chain, before the planner claims that it pays


def propose(
    planner: Planner,
    *,
    study: str,
    prices: Prices,
    ways: Mapping[str, Way],
    epochs: int,
    seeds: tuple[int, ...],
    say: Wording,
    above: Size | None = None,
    as_given: Measurement | None = None,
) -> Plan:
    """The planner's choice as stages: assistants once, the student with every seed.

    A path with assistants is proposed only when it is claimed to pay; else the best single hop is. `above`
    is the next size up, when that may be proposed instead; `as_given` what the student reaches as it was given.
    """
    first = _claimed_or_best(planner)
    choice = first if first.assistant_pays else _best_single(planner)
    stages = _stages(planner, choice, ways, epochs, seeds, say)
    alternatives = tuple(
        arm.with_(predicted=_possible(arm.predicted, say), chosen=_is(arm, choice))
        for arm in first.alternatives
    )
    wider = next_size_up(planner, above)
    kept = _or_as_given(choice, as_given, say)
    return Plan(
        study=study,
        stages=tuple(stages),
        predicted=_possible(choice.predicted, say),
        predicted_run=_possible(choice.predicted_run, say),
        cost=carry_out_cost(stages, prices, epochs),
        alternatives=alternatives,
        reasons=kept + _reasons(choice, alternatives, say) + _or_wider(choice, wider, say),
        would_change=_would_change(choice, alternatives, say),
        wider=wider,
        keep_student=bool(kept),
        assistant_pays=choice.assistant_pays,
        claim=_claim(choice, alternatives, len(planner.sizes) > 2, say),
    )


def _would_change(choice: Choice, alternatives: Sequence[Alternative], say: Wording) -> str:
    """The runs that would lead to another plan: of the likeliest rival, or of this very arm where it was never run."""
    expected = say.score(_possible(choice.predicted, say).value)
    if not choice.tried:
        return f"Runs of it that average clearly below {expected}."
    rivals = [arm for arm in alternatives if not arm.chosen]
    if not rivals:
        return ""
    rival = max(rivals, key=lambda arm: arm.predicted.high)
    return f"Runs of {arm_words(rival)} ({rival.n_runs} so far) that average above {expected}."


def next_size_up(planner: Planner, above: Size | None) -> Alternative | None:
    """The next size up by the best way that it was trained in, in place of the student; None when it never was."""
    if above not in planner.cost or above == planner.student:
        return None
    forecast = planner.forecast(above)
    arms = list(dict.fromkeys(run.arm for run in forecast.runs))
    if not arms:
        return None
    predicted = dict(zip(arms, forecast.true_means(arms), strict=True))
    best = max(arms, key=lambda arm: predicted[arm].value)
    return Alternative(
        path=tuple(size if isinstance(size, int | float) else str(size) for size in best.path),
        recipe=best.recipe,
        fraction=best.fraction,
        predicted=predicted[best],
        cost=planner.execution_cost(best),
        n_runs=sum(run.arm == best for run in forecast.runs),
        note=f"size {above} instead of {planner.student}",
    )


def _or_wider(choice: Choice, wider: Alternative | None, say: Wording) -> tuple[str, ...]:
    """What the next size up would bring instead, when that is more."""
    if wider is None or wider.predicted.value <= choice.predicted.value:
        return ()
    forecast = say.forecast(_possible(wider.predicted, say))
    return (
        f"Instead, {wider.note}: {arm_words(wider)} is expected to score {forecast}, from {wider.n_runs} "
        f"run{'s' * (wider.n_runs != 1)} of it, for {wider.cost:.1f} student trainings.",
    )


def _or_as_given(choice: Choice, as_given: Measurement | None, say: Wording) -> tuple[str, ...]:
    """That the student already does better than the plan should, when it does."""
    if as_given is None or not as_given.value > choice.predicted.value:  # nan is no more either
        return ()
    return (
        f"On validation the student as it was given already scores {say.score_of(as_given)}, more than is expected "
        "of this plan: keep it, or let the study's recipe be the one that it was trained by.",
    )


def _claimed_or_best(planner: Planner) -> Choice:
    """The best path; where it is a chain of too few runs to claim, the best claimed one if there is any.

    Among chains that look alike the cheapest is chosen, which need not be the one that was repeated.
    """
    first = planner.choose()
    if first.assistant_pays or len(first.path) <= 2:
        return first
    repeated = {
        (arm.path, arm.recipe, arm.fraction)
        for arm in first.alternatives
        if arm.n_runs >= CLAIM_RUNS
    }
    second = planner.choose(
        lambda arm: not arm.n_assistants or (arm.path, arm.recipe, arm.fraction) in repeated
    )
    if not second.assistant_pays:
        return first
    return replace(second, alternatives=first.alternatives)


def _best_single(planner: Planner) -> Choice:
    """The best single hop; one with a teacher where labels alone are not expected to do better.

    Level means that the expected score of labels alone lies below the upper bound of the taught arm's
    mean. The twins that every plan is compared with are trained on labels alone, so that nothing is
    lost by trying the teacher.
    """
    best = planner.choose(lambda arm: not arm.n_assistants)
    if best.recipe != SCRATCH or planner.recipes == (SCRATCH,):
        return best
    taught = planner.choose(lambda arm: not arm.n_assistants and arm.recipe != SCRATCH)
    level = taught.recipe != SCRATCH and best.predicted.value <= taught.predicted.high
    return taught if level else best


def _stages(
    planner: Planner,
    choice: Choice,
    ways: Mapping[str, Way],
    epochs: int,
    seeds: tuple[int, ...],
    say: Wording,
) -> list[Stage]:
    way, sizes = ways[choice.recipe], choice.path[1:] or choice.path
    changes = {} if choice.fraction == 1.0 else {"epochs": max(1, round(epochs * choice.fraction))}
    stages: list[Stage] = []
    for position, size in enumerate(sizes):
        last = position == len(sizes) - 1
        before = [stage.name for stage in stages]
        stages.append(
            way.stage(
                "student" if last else _assistant_name(size, stages),
                size,
                way.taught_by(before) if before else way.sources,
                recipe=changes,
                seeds=seeds if last else seeds[:1],
                on_miss="retry" if last else "replan",
                predicted=_of_stage(planner, choice, position, say),
            )
        )
    return stages


def _of_stage(planner: Planner, choice: Choice, position: int, say: Wording) -> Predicted | None:
    """What a run of that hop should score; None for an assistant whose size was never trained."""
    if position == len(choice.path) - 2 or len(choice.path) == 1:
        return _possible(choice.predicted_run, say)
    path = choice.path[: position + 2]
    forecast = planner.forecast(path[-1])
    if not forecast.runs:
        return None
    return _possible(forecast.one_run(Arm(path, choice.recipe, choice.fraction)), say)


def _assistant_name(size: Size, stages: Sequence[Stage]) -> str:
    """A stage's name from a size's, whose characters need not be those of a name."""
    name = "assistant " + re.sub(r"[^A-Za-z0-9._+-]", "-", str(size))
    return f"{name} {len(stages) + 1}" if name in {stage.name for stage in stages} else name


def _possible(predicted: Predicted, say: Wording) -> Predicted:
    """A forecast of a share, kept between 0 and 1."""
    if say.unit != "share":
        return predicted
    low, value, high = (
        min(max(x, 0.0), 1.0) for x in (predicted.low, predicted.value, predicted.high)
    )
    return predicted.with_(low=low, value=value, high=high)


def carry_out_cost(stages: Sequence[Stage], prices: Prices, epochs: int) -> Cost:
    """What the stages cost at most, with the trainings that the last one is compared with.

    Those have its seeds: labels alone as long, labels alone and the failing recipe by the study's
    recipe. Whatever the search or the controls have trained already costs nothing.
    """

    def fraction(stage: Stage) -> float:
        return float(stage.recipe.get("epochs", epochs)) / epochs

    last = stages[-1]
    total = Cost()
    for stage in stages:
        for size in (stage.size, *stage.peers):
            total += prices.of(size, fraction(stage)).times(len(stage.seeds))
    rivals = [fraction(last)] * bool(last.sources) + [1.0] * (fraction(last) != 1.0) + [1.0]
    for length in rivals:
        total += prices.of(last.size, length).times(len(last.seeds))
    return total


def _reasons(choice: Choice, alternatives: Sequence[Alternative], say: Wording) -> tuple[str, ...]:
    """Why this plan, in lines of plain words."""
    forecast = say.forecast(_possible(choice.predicted, say))
    runs = f"{choice.n_runs} run{'s' * (choice.n_runs != 1)} of it"
    rest = "" if choice.tried else ": carried over from the arms around it"
    lines = [
        f"{arm_words(choice)} is expected to score {forecast} on validation, from {runs}{rest}."
    ]
    rivals = [arm for arm in alternatives if not arm.chosen and len(arm.path) <= 2]
    if rivals:
        best = max(rivals, key=lambda arm: arm.predicted.value)
        lines.append(
            f"The best other single hop, {arm_words(best)}, is expected to score "
            f"{say.forecast(best.predicted)}, from {best.n_runs} run{'s' * (best.n_runs != 1)}."
        )
        ahead = best.predicted.value > choice.predicted.value
        if best.recipe == SCRATCH and ahead and len(choice.path) == 2:
            lines.append(
                "The two are level; the taught one is tried, and its twins on labels alone beside it."
            )
    return tuple(lines)


def _claim(choice: Choice, alternatives: Sequence[Alternative], between: bool, say: Wording) -> str:
    """Whether an assistant pays, in a sentence."""
    if choice.assistant_pays:
        return f"An assistant pays: {arm_words(choice)} beats the best single hop beyond noise."
    chains = [arm for arm in alternatives if len(arm.path) > 2]
    if not between:
        return "No assistant was in question: the family has no size between."
    if not chains:
        return "No assistant is claimed to pay: none was run, and none is among the most promising paths."
    best = max(chains, key=lambda arm: arm.predicted.value)
    ahead = best.predicted.value - choice.predicted.value
    runs = f"{best.n_runs} run{'s' * (best.n_runs != 1)}"
    why = ""
    if ahead > 0:
        few = best.n_runs < CLAIM_RUNS or not choice.n_runs
        why = ", too few runs to claim it," if few else ", within what noise explains,"
    return (
        f"No assistant is claimed to pay: the best path with one, {arm_words(best)} ({runs}), is "
        f"expected at {say.difference(ahead)} against this plan{why} and costs "
        f"{best.cost:.1f} student trainings."
    )


def _is(arm: Alternative, choice: Choice) -> bool:
    return (arm.path, arm.recipe, arm.fraction) == (choice.path, choice.recipe, choice.fraction)


def arm_words(arm: Choice | Alternative | Trial) -> str:
    """A path, its way and its length in words."""
    path = " → ".join(map(str, arm.path))
    length = "" if arm.fraction == 1.0 else f" for {arm.fraction:g} times the epochs"
    return f"{path} by {arm.recipe}{length}"
