"""Gates on a plan: whether its knowledge fits the task, and its scheme where valid knowledge lives."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gapkit.causes.case import SPLIT
from gapkit.measurement import Measurement
from gapkit.plans import Stage
from gapkit.quality.grounds import Gate, Grounds, settled_by
from gapkit.wording import number, without_targets

NO_TARGETS = {
    "plan": "A search for one takes targets, and the data has none; a plan of your own is yours to judge.",
    "diagnose": "Controls take targets, and the data has none.",
}


def knowledge_fits(grounds: Grounds) -> Gate:
    """Every taught stage learns what the task needs: responses, or the geometry of an embedding.

    Features must come from teacher layers whose importance is above 0.
    """
    name = "knowledge fits the objective"
    if grounds.plan is None:
        why = f"There is no plan yet. {settled(grounds, 'plan')}"
        return Gate(name=name, state="open", reason=why)
    stages = [stage for stage in grounds.plan.stages if _is_taught(stage)]
    if not stages:
        why = "No stage learns from a teacher, a peer or itself: nothing is transferred."
        return Gate(name=name, state="failed", reason=why)
    wanted = "relations or cosine" if grounds.task == "embedding" else "responses"
    bare = [stage.name for stage in stages if not _serves(stage, grounds.task)]
    if bare:
        why = f"A task of {grounds.task} needs {wanted}, but stage {bare[0]!r} learns from {_kinds(stages)}."
        return Gate(name=name, state="failed", reason=why)
    return _layers_matter(name, grounds, stages, f"Every taught stage learns from {wanted}")


def settled(grounds: Grounds, verb: str) -> str:
    """What settles an open gate: that command, or what is left where the data has no targets for it."""
    if verb in NO_TARGETS and without_targets(grounds.measurements):
        return NO_TARGETS[verb]
    return settled_by(verb)


def _layers_matter(name: str, grounds: Grounds, stages: Iterable[Stage], so_far: str) -> Gate:
    hinted = dict.fromkeys(
        theirs
        for stage in stages
        for phase in stage.phases
        for part in phase.knowledge
        if part.kind == "feature" and part.teaches and _given(stage)
        for _, theirs in part.layers
    )
    if not hinted:
        return Gate(name=name, state="passed", reason=f"{so_far}, as {grounds.task} needs.")
    found = grounds.measurements.find("layer_importance", of="teacher", split=SPLIT)
    known = {item.layer: item for item in found if math.isfinite(item.value)}
    evidence = tuple(known[layer] for layer in hinted if layer in known)
    idle = [item for item in evidence if not item.value > 0]
    if idle:
        why = (
            f"Hints come from {idle[0].layer}, whose importance is {_range(idle[0])}: not above 0."
        )
        return Gate(name=name, state="failed", reason=why, evidence=tuple(idle))
    unknown = [layer for layer in hinted if layer not in known]
    if unknown:
        why = f"Hints come from {unknown[0]}, whose importance was not measured. "
        why += "Hint at a layer among Study(layers=...), but not the output itself."
        return Gate(name=name, state="open", reason=why, evidence=evidence)
    least = min(evidence, key=lambda item: item.value)
    why = f"{so_far}; hints come from {len(hinted)} layer(s) that matter, the least being {least.layer} "
    return Gate(
        name=name, state="passed", reason=f"{why}(loss without it {_range(least)}).", evidence=evidence
    )  # fmt: skip


def scheme_fits(grounds: Grounds) -> Gate:
    """Who teaches is who knows better: a better teacher offline, peers or depth where there is none.

    Cross-modal if, and only if, teacher and student see different views.
    """
    name, plan, lead = "scheme fits the source", grounds.plan, grounds.lead
    if plan is None or lead is None:
        missing = "plan" if plan is None else "measure"
        why = "There is no plan yet." if plan is None else "The gap has no interval on validation."
        return Gate(name=name, state="open", reason=f"{why} {settled(grounds, missing)}")
    strange = [stage for stage in plan.stages if _given(stage) and _views_clash(stage, grounds)]
    if strange:
        stage, views = strange[0], "the same view" if grounds.same_view else "different views"
        why = f"Teacher and student see {views}, but stage {stage.name!r} is {stage.scheme}."
        return Gate(name=name, state="failed", reason=why)
    if any(_given(stage) for stage in plan.stages):
        return _teacher_is_better(name, grounds, lead, plan.stages)
    ahead = f"the teacher is {grounds.stands(lead)}"
    if any(stage.sources for stage in plan.stages):
        why = "Only assistants teach, and none was measured against the student. Name the teacher as a source."
        return Gate(name=name, state="open", reason=why, evidence=(lead,))
    alone = (
        ", ".join(dict.fromkeys(s.scheme for s in plan.stages if _is_taught(s))) or "labels alone"
    )
    if lead.low > 0 and not grounds.lost_slices:
        why = f"The plan learns by {alone}, although {ahead} and no worse on any slice."
        return Gate(name=name, state="failed", reason=why, evidence=(lead,))
    lost = grounds.lost_slices
    where = f", and on {lost[0].group} {grounds.stands(lost[0])}" if lost else ""
    why = f"The plan learns by {alone}: {ahead}{where}."
    return Gate(name=name, state="passed", reason=why, evidence=(lead, *lost))


def _teacher_is_better(
    name: str, grounds: Grounds, lead: Measurement, stages: Iterable[Stage]
) -> Gate:
    lost, schemes = grounds.lost_slices, [stage.scheme for stage in stages]
    size = f"on average the teacher is {grounds.stands(lead)}"
    if lead.high < 0:
        why = f"The plan learns from the teacher, but {size}: it is no better source."
        return Gate(name=name, state="failed", reason=why, evidence=(lead,))
    if lost and "online" not in schemes:
        why = (
            f"On {lost[0].group} the teacher is {grounds.stands(lost[0])}: peers or another source "
        )
        why += f"know it better ({size})."
        return Gate(name=name, state="failed", reason=why, evidence=(lead, *lost))
    if not lead.low > 0:
        why = f"The plan learns from the teacher, but {size}: more validation samples would settle it."
        return Gate(name=name, state="open", reason=why, evidence=(lead,))
    where = f"; peers teach beside it where it is worse ({lost[0].group})" if lost else ""
    why = f"{size[0].upper()}{size[1:]}{where or ', and no worse on any slice beyond noise'}."
    return Gate(name=name, state="passed", reason=why, evidence=(lead, *lost))


def _is_taught(stage: Stage) -> bool:
    taught = any(p.kind != "label" and p.teaches for phase in stage.phases for p in phase.knowledge)
    return taught and bool(stage.sources or stage.peers or stage.exits)


def _serves(stage: Stage, task: str) -> bool:
    parts = [part for phase in stage.phases for part in phase.knowledge if part.teaches]
    if task == "embedding":
        return any(part.kind == "relation" or part.loss == "cosine" for part in parts)
    return any(part.kind == "response" for part in parts)


def _kinds(stages: Iterable[Stage]) -> str:
    parts = [part for stage in stages for phase in stage.phases for part in phase.knowledge]
    return " and ".join(
        dict.fromkeys(f"{part.kind} ({part.loss})" for part in parts if part.teaches)
    )


def _given(stage: Stage) -> bool:
    """Whether the study's teacher, or an earlier state of it, teaches."""
    return any(source.partition(":")[0] in ("teacher", "checkpoint") for source in stage.sources)


def _views_clash(stage: Stage, grounds: Grounds) -> bool:
    """Whether a stage says cross-modal where there is one view; offline on two views is the same training."""
    return stage.scheme == "cross_modal" and grounds.same_view


def _range(item: Measurement) -> str:
    return f"{number(item.value)} [{number(item.low)}, {number(item.high)}]"
