"""plan(): search with the planner under a budget, then propose the stages that pay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gapkit.family import Size
from gapkit.forecast import SCRATCH, Arm
from gapkit.gap import Gap
from gapkit.knowledge import Knowledge
from gapkit.measurement import Measurement
from gapkit.planner import Planner, Trial
from gapkit.planning.history import History, TrialRow, control_rows, tell
from gapkit.planning.proposal import arm_words, propose
from gapkit.planning.side_by_side import side_by_side
from gapkit.plans import Cost, Plan
from gapkit.teaching.ways import Way, plain
from gapkit.training.prices import Prices
from gapkit.wording import Wording

FRACTIONS = (1.0, 2.0, 4.0)
N_SEEDS = 3


def plan(
    train: Callable[[Trial], float],
    *,
    study: str,
    sizes: Sequence[Size],
    prices: Prices,
    knowledge: Mapping[str, tuple[Knowledge, ...] | Way],
    budget: float,
    teacher_score: float,
    epochs: int,
    fractions: Sequence[float] = FRACTIONS,
    gap: Gap | None = None,
    known: Sequence[TrialRow] = (),
    seed: int = 0,
    n_seeds: int = N_SEEDS,
    jobs: int = 1,
    above: Size | None = None,
    as_given: Measurement | None = None,
    say: Wording | None = None,
    heard: Callable[[float, float, str, float], None] | None = None,
    told: Callable[[History], None] | None = None,
) -> tuple[Plan, History]:
    """Search for the path and the way of teaching that score best, and write it down as stages.

    Args:
        train: trial -> validation score; called within the budget only.
        study: its name.
        sizes: teacher first, student last.
        prices: what each size costs.
        knowledge: name -> what may be taught all along, or a whole way of teaching.
        budget: student trainings the search may spend; 0 chooses from what is known.
        teacher_score: on validation.
        epochs: of a full training.
        fractions: lengths that compete, in full trainings.
        gap: the diagnosis, which the plan answers; its controls are the planner's first data when `known`
            holds none, without charge.
        known: rows of controls or of an earlier search, without charge.
        seed: the plan's first seed when nothing was trained for it.
        n_seeds: how often each chosen stage that ends at the student is trained, with seeds that nothing
            was chosen on: runs that were lucky in the search would flatter the plan on test as well.
        jobs: trials that run at once, each in a process of its own (see gapkit.planning.side_by_side).
        above: the next size up, when that may be proposed instead of the student.
        as_given: what the student reaches as it was given.
        say: how scores are worded; default: as plain numbers.
        heard: called with (spent, budget, what is trained next, what that costs).
        told: called with the history whenever trials have ended.

    Returns:
        The plan, and the history of the search.
    """
    ways = {
        name: given if isinstance(given, Way) else plain(given) for name, given in knowledge.items()
    }
    planner = make_planner(
        sizes,
        prices,
        ways,
        budget,
        teacher_score,
        fractions=fractions,
        seed=seed,
        chains_only=[name for name, way in ways.items() if way.scheme == "dense"],
    )
    given = any(row.origin == "control" for row in known)
    controls = [] if given or gap is None else control_rows(gap.controls)
    rows = tell(planner, [*controls, *known])
    waiting: list[Trial] = []
    while budget > 0 and (trials := _together(planner, waiting, jobs)):
        expected = [_expected(planner, trial) for trial in trials]
        costs = [prices.trainings(trial.path[-1], trial.fraction) for trial in trials]
        if heard:
            what = "; ".join(f"{arm_words(trial)}, seed {trial.seed}" for trial in trials)
            heard(planner.spent - sum(costs), budget, what, sum(costs))
        scores = side_by_side(train, trials, jobs)
        for trial, score, cost, forecast in zip(trials, scores, costs, expected, strict=True):
            planner.tell(trial, score)
            rows.append(_row(trial, score, cost, forecast))
        if told:
            told(History(rows=tuple(rows)))
    unseen = max([seed, *(row.seed + 1 for row in rows)])
    proposal = propose(
        planner,
        study=study,
        prices=prices,
        ways=ways,
        epochs=epochs,
        seeds=tuple(range(unseen, unseen + n_seeds)),
        say=say or Wording(unit="", score_name="score"),
        above=above,
        as_given=as_given,
    )
    search = _total(prices, [row for row in rows if row.origin == "search"])
    answers = () if gap is None else tuple(finding.cause for finding in gap.findings)
    return proposal.with_(search_cost=search, answers=answers), History(rows=tuple(rows))


def make_planner(
    sizes: Sequence[Size],
    prices: Prices,
    names: Iterable[str],
    budget: float,
    teacher_score: float,
    *,
    fractions: Sequence[float],
    seed: int,
    chains_only: Sequence[str] = (),
) -> Planner:
    """The planner of a family: scratch is always among its arms."""
    cost = {size: prices.trainings(size) for size in sizes[1:]}
    unit = cost[sizes[-1]]
    return Planner(
        sizes=sizes,
        cost={size: price / unit for size, price in cost.items()},
        recipes=[name for name in names if name != SCRATCH] or [SCRATCH],
        budget=budget,
        teacher_score=teacher_score,
        fractions=fractions,
        seed=seed,
        chains_only=chains_only,
    )


def _together(planner: Planner, waiting: list[Trial], jobs: int) -> list[Trial]:
    """Up to that many trials that need nothing of each other; what has to wait for one of them is left in `waiting`."""
    found: list[Trial] = []
    while len(found) < jobs:
        trial = waiting.pop(0) if waiting else planner.ask()
        if trial is None:
            break
        if any(_builds_on(trial, other) for other in found):
            waiting.insert(0, trial)
            break
        found.append(trial)
    return found


def _builds_on(trial: Trial, other: Trial) -> bool:
    alike = (trial.recipe, trial.seed, trial.fraction) == (other.recipe, other.seed, other.fraction)
    return alike and trial.path[: len(other.path)] == other.path


def _row(trial: Trial, score: float, cost: float, expected: float) -> TrialRow:
    return TrialRow(
        path=trial.path,
        recipe=trial.recipe,
        seed=trial.seed,
        fraction=trial.fraction,
        origin="search",
        cost=cost,
        expected=expected,
        score=score,
    )


def _expected(planner: Planner, trial: Trial) -> float:
    forecast = planner.forecast(trial.path[-1])
    if not forecast.runs:
        return float("nan")
    return forecast.true_mean(Arm(trial.path, trial.recipe, trial.fraction)).value


def _total(prices: Prices, rows: Sequence[TrialRow]) -> Cost:
    total = Cost()
    for row in rows:
        total += prices.of(row.path[-1], row.fraction)
    return total
