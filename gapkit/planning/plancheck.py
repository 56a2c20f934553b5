"""check_plan(): everything that keeps a plan from being carried out, said before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from gapkit import losses
from gapkit.data import Data
from gapkit.errors import InputError, unknown
from gapkit.family import Size
from gapkit.knowledge import Knowledge
from gapkit.plans import Plan, Stage
from gapkit.task import Task


def check_plan(
    plan: Plan,
    *,
    task: Task,
    data: Data,
    sizes: tuple[Size, ...],
    student: Size,
    n_checkpoints: int = 0,
) -> None:
    """Raise InputError, naming all mistakes, when a plan cannot be carried out with this family."""
    wrong = [fault for stage in plan.stages for fault in _faults(stage, task, data, sizes)]
    known = {f"checkpoint:{i}" for i in range(n_checkpoints)}
    for stage in plan.stages:
        for source in stage.sources:
            if source.startswith("checkpoint:") and source not in known:
                wrong.append(
                    f"Expected a teacher checkpoint below {n_checkpoints} in stage {stage.name!r} "
                    f"but got {source!r}"
                )
    if str(plan.stages[-1].size) != str(student):
        wrong.append(
            f"Expected the last stage to train the student's size {student!r} "
            f"but got {plan.stages[-1].size!r}"
        )
    if wrong:
        raise InputError("; ".join(wrong))


def _faults(stage: Stage, task: Task, data: Data, sizes: tuple[Size, ...]) -> Iterator[str]:
    for size in (stage.size, *stage.peers):
        if str(size) not in {str(known) for known in sizes}:
            yield str(unknown(f"size for stage {stage.name!r}", size, sizes))
    if stage.scheme == "cross_modal" and data.same_view:
        yield (
            f"Expected teacher and student to see different views for scheme 'cross_modal' in stage "
            f"{stage.name!r} but they see the same: give Data(teacher_input=..., student_input=...)"
        )
    if any(phase.widens for phase in stage.phases) and task.kind not in (
        "classification",
        "multilabel",
    ):
        yield (
            f"Expected a task whose teacher can be sure of a sample (classification, multilabel) for "
            f"'easiest' in stage {stage.name!r} but got {task.kind}"
        )
    for part in (part for phase in stage.phases for part in phase.knowledge):
        fault = _knowledge_fault(part, stage, task)
        if fault:
            yield fault


def _knowledge_fault(part: Knowledge, stage: Stage, task: Task) -> str:
    """Why a stage cannot learn from this; "" when it can."""
    where = f" in stage {stage.name!r}"
    if part.kind == "label":
        return ""
    if part.loss not in losses.names(part.kind):
        return str(unknown(f"{part.kind} loss{where}", part.loss, losses.names(part.kind)))
    if part.layers and stage.scheme in ("online", "self"):
        return (
            f"Expected knowledge of outputs for scheme {stage.scheme!r}{where} but {part.loss!r} "
            "compares layers"
        )
    if part.kind == "response":
        try:
            losses.named(part.loss).form(task.kind)
        except InputError as error:
            return f"{error}{where}"
    return ""
