"""plan(): search with the planner under a budget, then propose the stages that pay."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from gapkit.family import Size
from gapkit.forecast import SCRATCH
from gapkit.gap import ControlRun, Gap
from gapkit.knowledge import Knowledge
from gapkit.planner import Choice, Planner, Trial
from gapkit.plans import Alternative, Cost, Phase, Plan, Predicted, Stage
from gapkit.prices import Prices
from gapkit.record import Record
from gapkit.wording import Wording

FRACTIONS = (1.0, 2.0, 4.0)
N_SEEDS = 3
CLAIM_RUNS = 2  # of a chain, before the planner claims that it pays


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


def plan(
    train: Callable[[Trial], float],
    *,
    study: str,
    sizes: Sequence[Size],
    prices: Prices,
    knowledge: Mapping[str, tuple[Knowledge, ...]],
    budget: float,
    teacher_score: float,
    epochs: int,
    fractions: Sequence[float] = FRACTIONS,
    gap: Gap | None = None,
    known: Sequence[TrialRow] = (),
    seed: int = 0,
    n_seeds: int = N_SEEDS,
    say: Wording | None = None,
    heard: Callable[[float, float, str], None] | None = None,
) -> tuple[Plan, History]:
    """Search for the path and knowledge that score best, and write it down as stages.

    Args:
        train: trial -> validation score; called within the budget only.
        study: its name.
        sizes: teacher first, student last.
        prices: what each size costs.
        knowledge: name -> knowledge that may be taught.
        budget: student trainings the search may spend; 0 chooses from what is known.
        teacher_score: on validation.
        epochs: of a full training.
        fractions: lengths that compete, in full trainings.
        gap: the diagnosis; its controls are the planner's first data, without charge.
        known: rows of an earlier search, without charge.
        seed: the plan's first seed when nothing was trained for it.
        n_seeds: how often each chosen stage that ends at the student is trained, with seeds that nothing
            was chosen on: runs that were lucky in the search would flatter the plan on test as well.
        say: how scores are worded; default: as plain numbers.
        heard: called with (spent, budget, what is trained next).

    Returns:
        The plan, and the history of the search.
    """
    planner = make_planner(
        sizes, prices, knowledge, budget, teacher_score, fractions=fractions, seed=seed
    )
    rows = tell(planner, [*control_rows(() if gap is None else gap.controls), *known])
    while budget > 0 and (trial := planner.ask()) is not None:
        expected = _expected(planner, trial)
        cost = prices.trainings(trial.path[-1], trial.fraction)
        if heard:
            heard(planner.spent - cost, budget, f"{_arm_words(trial)}, seed {trial.seed}")
        score = train(trial)
        planner.tell(trial, score)
        rows.append(
            TrialRow(
                path=trial.path,
                recipe=trial.recipe,
                seed=trial.seed,
                fraction=trial.fraction,
                origin="search",
                cost=cost,
                expected=expected,
                score=score,
            )
        )
    unseen = max([seed, *(row.seed + 1 for row in rows)])
    proposal = propose(
        planner,
        study=study,
        prices=prices,
        knowledge=knowledge,
        epochs=epochs,
        seeds=tuple(range(unseen, unseen + n_seeds)),
        say=say or Wording(unit="", score_name="score"),
    )
    search = _total(prices, [row for row in rows if row.origin == "search"])
    answers = () if gap is None else tuple(finding.cause for finding in gap.findings)
    return proposal.with_(search_cost=search, answers=answers), History(rows=tuple(rows))


def make_planner(
    sizes: Sequence[Size],
    prices: Prices,
    knowledge: Mapping[str, tuple[Knowledge, ...]],
    budget: float,
    teacher_score: float,
    *,
    fractions: Sequence[float],
    seed: int,
) -> Planner:
    """The planner of a family: scratch is always among its arms."""
    cost = {size: prices.trainings(size) for size in sizes[1:]}
    unit = cost[sizes[-1]]
    return Planner(
        sizes=sizes,
        cost={size: price / unit for size, price in cost.items()},
        recipes=[name for name in knowledge if name != SCRATCH] or [SCRATCH],
        budget=budget,
        teacher_score=teacher_score,
        fractions=fractions,
        seed=seed,
    )


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


def propose(
    planner: Planner,
    *,
    study: str,
    prices: Prices,
    knowledge: Mapping[str, tuple[Knowledge, ...]],
    epochs: int,
    seeds: tuple[int, ...],
    say: Wording,
) -> Plan:
    """The planner's choice as stages: assistants once, the student with every seed.

    A path with assistants is proposed only when it is claimed to pay; else the best single hop is.
    """
    first = _claimed_or_best(planner)
    choice = first if first.assistant_pays else _best_single(planner)
    stages = _stages(choice, knowledge, epochs, seeds, say)
    alternatives = tuple(
        arm.with_(predicted=_possible(arm.predicted, say), chosen=_is(arm, choice))
        for arm in first.alternatives
    )
    return Plan(
        study=study,
        stages=tuple(stages),
        predicted=_possible(choice.predicted, say),
        predicted_run=_possible(choice.predicted_run, say),
        cost=carry_out_cost(stages, prices, epochs),
        alternatives=alternatives,
        reasons=_reasons(choice, alternatives, say),
        assistant_pays=choice.assistant_pays,
        claim=_claim(choice, alternatives, len(planner.sizes) > 2, say),
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
    choice: Choice,
    knowledge: Mapping[str, tuple[Knowledge, ...]],
    epochs: int,
    seeds: tuple[int, ...],
    say: Wording,
) -> list[Stage]:
    sizes = choice.path if choice.recipe == "scratch" else choice.path[1:]
    changes = {} if choice.fraction == 1.0 else {"epochs": max(1, round(epochs * choice.fraction))}
    stages: list[Stage] = []
    for position, size in enumerate(sizes):
        last = position == len(sizes) - 1
        source = "teacher" if not stages else stages[-1].name
        stages.append(
            Stage(
                name="student" if last else _assistant_name(size, stages),
                size=size,
                sources=() if choice.recipe == "scratch" else (source,),
                recipe=changes,
                phases=(Phase(knowledge=knowledge[choice.recipe]),),
                seeds=seeds if last else seeds[:1],
                on_miss="retry" if last else "replan",
                predicted=_possible(choice.predicted_run, say) if last else None,
            )
        )
    return stages


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
        f"{_arm_words(choice)} is expected to score {forecast} on validation, from {runs}{rest}."
    ]
    rivals = [arm for arm in alternatives if not arm.chosen and len(arm.path) <= 2]
    if rivals:
        best = max(rivals, key=lambda arm: arm.predicted.value)
        lines.append(
            f"The best other single hop, {_arm_words(best)}, is expected to score "
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
        return f"An assistant pays: {_arm_words(choice)} beats the best single hop beyond noise."
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
        f"No assistant is claimed to pay: the best path with one, {_arm_words(best)} ({runs}), is "
        f"expected at {say.difference(ahead)} against this plan{why} and costs "
        f"{best.cost:.1f} student trainings."
    )


def _is(arm: Alternative, choice: Choice) -> bool:
    return (arm.path, arm.recipe, arm.fraction) == (choice.path, choice.recipe, choice.fraction)


def _arm_words(arm: Choice | Alternative | Trial) -> str:
    path = " → ".join(map(str, arm.path))
    length = "" if arm.fraction == 1.0 else f" for {arm.fraction:g} times the epochs"
    return f"{path} by {arm.recipe}{length}"


def _expected(planner: Planner, trial: Trial) -> float:
    from gapkit.forecast import Arm

    forecast = planner.forecast(trial.path[-1])
    if not forecast.runs:
        return float("nan")
    return forecast.true_mean(Arm(trial.path, trial.recipe, trial.fraction)).value


def _total(prices: Prices, rows: Sequence[TrialRow]) -> Cost:
    total = Cost()
    for row in rows:
        total += prices.of(row.path[-1], row.fraction)
    return total
