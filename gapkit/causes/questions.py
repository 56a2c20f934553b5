"""Questions: which controls can still name a cause, by what is known, and what each would explain."""

from __future__ import annotations

from collections.abc import Sequence

from gapkit.causes.case import Case
from gapkit.causes.confidence import LEAST_SEEDS
from gapkit.causes.controls import beyond_one_run
from gapkit.causes.harness import harness_fault
from gapkit.causes.scores import false_success, hides_most, no_gap
from gapkit.causes.teacher import open_slice
from gapkit.gap import HALF, LIKE_TEACHER, RATE, ControlRun
from gapkit.measurement import Measurement

SAME = "same recipe"
MATTERS = 0.1  # of the gap: less is no reason to train on; it limits seeds, never a finding
UNDER_FIT = ("shorter", "longer", "next size up", "teacher-sized", RATE, LIKE_TEACHER)
OFF_TRAIN = (HALF,)
LOSES = ("shorter", HALF)  # what these lose is the point, not what they gain


def asked(case: Case, names: Sequence[str]) -> list[str]:
    """Of those controls the ones that can still name a cause.

    None where teacher and data do not fit; labels alone where there is no gap and the teacher is weak
    on a slice, until it is clear whether they do better there. Where a slice holds most of the gap, the
    student's own recipe alone as long as it closes half of it: then the study's data and recipe serve
    the slice, and the user's training did not. What the student did not learn of train asks for length,
    rate, size and architecture; what it loses off train for more samples.
    """
    if harness_fault(case) is not None:
        return []
    if no_gap(case) is not None:
        return [name for name in names if name == "scratch" and open_slice(case)]
    slice_found = false_success(case)
    if (
        slice_found is not None
        and hides_most(case, slice_found)
        and own_recovers(case) is not False
    ):
        return [name for name in names if name == SAME]
    least, found = matters(case), list(names)
    if (fit := case.fit_gap) is not None and fit.value < least:
        found = [name for name in found if name not in UNDER_FIT]
    if (loss := case.excess_loss) is not None and loss.value < least:
        found = [name for name in found if name not in OFF_TRAIN]
    if not (worth_longer(case, MATTERS) or stuck_at_size(case)):
        found = [name for name in found if name != "longer"]
    return found


def own_recovers(case: Case) -> bool | None:
    """Whether the student's own recipe, trained here, closes half of the gap or more; None before two seeds tell."""
    same = case.controls.get(SAME)
    if same is None or len(same.seeds) < LEAST_SEEDS:
        return None
    return bool(same.mean - float(case.student.mean()) >= case.gap.value / 2)


def matters(case: Case) -> float:
    """Points below which an explanation does not matter here."""
    return MATTERS * max(0.0, case.gap.value)


def worth_longer(case: Case, share: float) -> bool:
    """Whether half the length loses more than that share of the gap: longer training may gain as much."""
    lost = gain(case, "shorter")
    return lost is not None and lost.value > share * case.gap.value


def stuck_at_size(case: Case) -> bool:
    """Whether a larger student does not learn the training set either: on a plateau half the length loses nothing."""
    train = case.teacher_on_train
    larger = [case.controls.get(name) for name in ("teacher-sized", "next size up")]
    run = next((run for run in larger if run is not None and len(run.train_scores)), None)
    if run is None or train is None or case.fit_gap is None:
        return False
    return train - float(run.train_scores.mean()) > case.fit_gap.value / 2


def gain(case: Case, name: str) -> Measurement | None:
    """What a control explains against the one it is held against; None when one of them was not run."""
    run, base = case.controls.get(name), case.controls.get(SAME)
    if run is None or base is None:
        return None
    if name == SAME:
        return beyond_one_run(case, run)
    if name == "longer":
        base = _alike(case, run) or base
    first, second = (base, run) if name in LOSES else (run, base)
    return case.difference(name, first, second)


def _alike(case: Case, longer: ControlRun) -> ControlRun | None:
    """The arm that longer training continues."""
    return next((run for run in case.knowledge_arms if run.recipe == longer.recipe), None)


def is_knowledge(name: str) -> bool:
    """Whether a control is the student's own size and length under some knowledge."""
    return name in (SAME, "scratch") or name.startswith("knowledge: ")
