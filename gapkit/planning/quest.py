"""Quest: the search for one study's plan: within which limits, over which ways, from which trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from gapkit.causes.variants import best_checkpoint
from gapkit.errors import InputError
from gapkit.family import Size
from gapkit.gap import Gap
from gapkit.limits import Limits
from gapkit.measurement import Measurement
from gapkit.outcome import StageResult
from gapkit.pair import Pair
from gapkit.planning.goal import Goal, Pupil
from gapkit.planning.history import History, TrialRow, control_rows
from gapkit.planning.menu import ways_for
from gapkit.planning.search import FRACTIONS, plan
from gapkit.plans import Plan
from gapkit.quality.grounds import Grounds
from gapkit.teaching.ways import Way
from gapkit.training.weights import on_device
from gapkit.wording import Wording

_SAID = {"worst_slice": "score of the worst slice", "relation": "correlation of distances"}


@dataclass(frozen=True)
class Quest:
    """Searches for a plan.

    Attributes:
        pair: whose plan.
        grounds: what is known of it by now.
        told: called with the history after every trial.
    """

    pair: Pair
    grounds: Callable[[], Grounds]
    told: Callable[[History], None]

    def within(self, limits: Limits) -> Size | None:
        """The next size up when that is within limits; refuses a student beyond them."""
        pair = self.pair
        batch = next(iter(pair.data.batches("validation", 1)))
        view = pair.data.student_view(batch.raw)
        beyond = limits.excess(pair.student_for_pricing, view)
        if beyond:
            raise InputError(
                f"Expected a student within the limits but size {pair.family.student} has {beyond}"
            )
        above = pair.family.next_size_up
        if above is None:
            return None
        larger = on_device(pair.family.fresh(above, pair.seed), pair.device)
        return None if limits.excess(larger, view) else above

    def search(
        self,
        gap: Gap,
        budget: float,
        fractions: Sequence[float],
        known: Sequence[TrialRow] = (),
        *,
        objective: str = "score",
        above: Size | None = None,
        jobs: int = 1,
    ) -> tuple[Plan, History]:
        """The plan chosen after trials for up to `budget`, and all trials; arguments as for Study.plan."""
        pair = self.pair
        goal = Goal(objective, pair.trainings)
        ways = self.ways(gap, budget, {row.recipe for row in known})
        pair.trainings.ways |= ways
        controls = goal.reached(control_rows(gap.controls))
        proposal, history = plan(
            Pupil(pair.trainings, objective),
            study=pair.name,
            sizes=(pair.teacher_size, *pair.family.assistants, pair.family.student),
            prices=pair.prices,
            knowledge=ways,
            budget=budget,
            teacher_score=gap.teacher.value if objective == "score" else goal.of_teacher,
            as_given=self._as_given(gap, goal),
            epochs=pair.recipe.epochs,
            fractions=fractions,
            gap=gap,
            known=[*controls, *known],
            seed=pair.seed,
            jobs=jobs,
            above=above,
            say=Wording(
                unit="" if objective == "relation" else pair.task.unit,
                score_name=_SAID.get(objective, pair.task.score_name),
            ),
            heard=partial(pair.train_heard, "plan"),
            told=self.told,
        )
        if objective != "score":  # what stages are measured by is the score
            silent = tuple(stage.with_(predicted=None) for stage in proposal.stages)
            proposal = proposal.with_(objective=objective, stages=silent)
        return proposal, history

    def _as_given(self, gap: Gap, goal: Goal) -> Measurement | None:
        """What the student that was given reached already; None where it was trained here, as one of the trials."""
        student = self.pair.student
        if "student" in self.pair.trainings.trained_here:
            return None
        return gap.student if goal.name == "score" else goal.of_student(student)

    def ways(self, gap: Gap, budget: float, tried: Set[str]) -> dict[str, Way]:
        """The ways that a plan is chosen from, those of earlier trials among them."""
        trainings = self.pair.trainings
        return ways_for(
            self.pair.knowledge,
            replace(self.grounds(), gap=gap),
            budget=budget,
            tried={self.pair.recipe_name, *tried},
            earlier=best_checkpoint(trainings) if trainings.sources.n_checkpoints else "",
            n_earlier=trainings.sources.n_checkpoints,
        )

    def again(self, gap: Gap, history: History, missed: StageResult) -> Plan | None:
        """Choose again from all that is known by now, the miss included, without further search."""
        fresh = [
            TrialRow(
                path=training.path,
                recipe=training.recipe,
                seed=training.seed,
                fraction=training.fraction,
                origin="search",
                cost=0.0,
                expected=math.nan if missed.predicted is None else missed.predicted.value,
                score=training.score,
            )
            for training in missed.trainings
            if training.recipe in self.pair.trainings.ways
        ]
        searched = [row for row in history.rows if row.origin == "search"]
        proposal, _ = self.search(gap, 0.0, FRACTIONS, [*searched, *fresh])
        return proposal if all(stage.name != missed.name for stage in proposal.stages) else None
