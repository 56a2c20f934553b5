"""Quote: what the work will cost, said before any of it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from gapkit.planning.plancheck import check_plan
from gapkit.plans import Cost, Plan
from gapkit.record import Record
from gapkit.study import Study
from gapkit.training.prices import Prices, measure_prices

STEPS = ("measure", "diagnose", "plan", "distill", "report")
REPORT_SECONDS = 8.0  # drawing and typesetting hardly depend on the study


class Line(Record):
    """One piece of work: its cost, and whether that is a ceiling or an estimate."""

    name: str
    what: str
    cost: Cost


class Quote(Record):
    """The work of some steps, line by line, and its sum."""

    study: str
    device: str
    lines: tuple[Line, ...] = Field(default=())

    @property
    def total(self) -> Cost:
        """All lines together: trainings, FLOPs and seconds add up, memory is the largest."""
        total = Cost()
        for line in self.lines:
            total += line.cost
        return total

    def __str__(self) -> str:
        heads = ("work", "student trainings", "FLOPs", "time", "memory")
        rows = [_cells(line.name, line.cost) for line in self.lines] + [_cells("total", self.total)]
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths))
            for row in [heads, *rows]
        ]
        unit = self.lines[0].cost.unit_from if self.lines else "seconds"
        notes = [f"  {line.name}: {line.what}" for line in self.lines if line.what]
        return "\n".join(
            [
                f"Work for {self.study} on {self.device}; one student training is the unit ({unit}).",
                *table,
                *notes,
            ]
        )


def quote(
    study: Study, steps: Sequence[str] = STEPS, diagnose_budget: float = 8, plan_budget: float = 10
) -> Quote:
    """Price the steps from a short warm-up; trains nothing and writes nothing.

    Raises:
        InputError: for a run folder of another study, or a plan in it that cannot be carried out.
    """
    if not study.run.manifest and study.run.path("manifest.json").exists():
        study.run.check(study.identity())
    study.check()
    untrained = not study.has_teacher or not study.has_student
    trains = untrained or bool({"diagnose", "plan", "distill"} & set(steps))
    prices = _prices(study) if trains else Prices(costs={})
    lines = list(_first_models(study, prices)) if untrained else []
    if "measure" in steps:
        lines.append(_measuring(study))
    if "diagnose" in steps:
        cost = prices.of(study.family.student).times(diagnose_budget)
        lines.append(Line(name="diagnose", what="at most; stops early when clear", cost=cost))
    if "plan" in steps:
        cost = prices.of(study.family.student).times(plan_budget)
        lines.append(Line(name="plan", what="at most", cost=cost))
    if "distill" in steps:
        lines.append(_distilling(study, prices))
    if "report" in steps:
        lines.append(Line(name="report", what="", cost=Cost(seconds=REPORT_SECONDS)))
    return Quote(study=study.name, device=str(study.device), lines=tuple(lines))


def _first_models(study: Study, prices: Prices) -> Iterator[Line]:
    """The teacher and the failing student, where they are not given."""
    if not study.has_teacher and study.family.teacher is not None:
        what = "trained on labels, unless the run folder has it"
        yield Line(name="teacher", what=what, cost=prices.of(study.family.teacher))
    if not study.has_student:
        what = "the first one, unless it is there"
        yield Line(name="student", what=what, cost=prices.of(study.family.student))


def _prices(study: Study) -> Prices:
    """The run folder's prices when it has them, else measured now with a teacher of the right size."""
    if study.run.path("prices.json").exists():
        found = study.run.load("prices", Prices)
        if found is not None:
            return found
    teacher = study.teacher_model_for_pricing
    return measure_prices(
        study.task, study.data, study.family, study.recipe, teacher, str(study.device)
    )


def _measuring(study: Study) -> Line:
    """One pass over all splits with teacher, student and untrained student."""
    from gapkit.probes.rehearsal import rehearse

    fresh = study.family.fresh(study.family.student, study.seed)
    models = {"teacher": study.teacher_model_for_pricing, "student": study.student_for_pricing}
    cost = rehearse(
        task=study.task,
        data=study.data,
        models=models | {"untrained": fresh},
        layers=study.layers,
        reduce=study.reduce,
        device=study.device,
        seed=study.seed,
    )
    what = "one pass of all models over all splits; the probes after it are not in the time"
    return Line(name="measure", what=what, cost=cost)


def _distilling(study: Study, prices: Prices) -> Line:
    from gapkit.planning.proposal import carry_out_cost
    from gapkit.planning.search import FRACTIONS, N_SEEDS

    plan = study.run.load("plan", Plan) if study.run.path("plan.json").exists() else None
    if plan is not None:
        _check(study, plan)
        cost = carry_out_cost(plan.stages, prices, study.recipe.epochs)
        return Line(
            name="distill", what="at most: the plan in the run folder, and its rivals", cost=cost
        )
    longest = float(np.max(FRACTIONS))
    cost = prices.of(study.family.student).times(N_SEEDS * (2 * longest + 2))
    what = (
        f"at most, for a single hop: {N_SEEDS} seeds, {longest:g} times as long, and their rivals"
    )
    return Line(name="distill", what=what, cost=cost)


def _check(study: Study, plan: Plan) -> None:
    """The same refusals as when the plan is carried out."""
    family = study.family
    assert study.knowledge  # registers the recipe's own loss
    check_plan(
        plan,
        task=study.task,
        data=study.data,
        sizes=family.sizes,
        student=family.student,
        n_checkpoints=len(study.checkpoints),
    )
    for stage in plan.stages:
        study.recipe.changed(stage.recipe)


def _cells(name: str, cost: Cost) -> tuple[str, ...]:
    trainings = f"{cost.student_trainings:.1f}" if cost.student_trainings else "-"
    flops = f"{cost.flops:.1e}" if cost.flops else "-"
    minutes = f"{cost.seconds / 60:.1f} min" if cost.seconds >= 90 else f"{cost.seconds:.0f} s"
    memory = f"{cost.memory_bytes / 2**20:,.1f} MiB" if cost.memory_bytes else "-"
    return name, trainings, flops, minutes, memory
