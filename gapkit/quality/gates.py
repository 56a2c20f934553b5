"""Gates: whether a distillation was done well. Each is passed, failed, or open for want of a measurement."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from gapkit.causes.case import SPLIT, n_seeds
from gapkit.gap import ControlRun
from gapkit.measurement import Measurement
from gapkit.outcome import Comparison
from gapkit.quality.grounds import Gate, Grounds, settled_by
from gapkit.quality.plan_gates import knowledge_fits, scheme_fits, settled
from gapkit.wording import Wording

SEEDS = 2  # of a control, from which a difference has an interval
RELIABLE = 20  # samples of a slice, as the slice probe has it
RIVAL = "from scratch, trained as long"  # the comparison of an outcome that worth is judged by
BY_PROBE = ("class", "rarity", "difficulty")  # what is sliced by without being declared


def check_gates(grounds: Grounds) -> tuple[Gate, ...]:
    """Every gate's answer, in the order in which a distillation is set up."""
    judges = (
        knowledge_fits,
        gap_evaluated,
        scheme_fits,
        validation_stratified,
        worth_transferring,
    )
    return tuple(judge(grounds) for judge in judges)


def gap_evaluated(grounds: Grounds) -> Gate:
    """The gap has an interval, and same recipe and labels alone were trained with two seeds or more."""
    name, lead = "gap evaluated with controls", grounds.lead
    if lead is None:
        why = f"The gap has no interval on validation. {settled_by('measure')}"
        return Gate(name=name, state="open", reason=why)
    size = f"The gap is {grounds.say.difference_of(lead)}"
    if grounds.gap is None or not grounds.gap.controls:
        why = f"{size}, but no control tells where it comes from. {settled(grounds, 'diagnose')}"
        return Gate(name=name, state="open", reason=why, evidence=(lead,))
    runs = grounds.case.controls
    missing = [run for run in ("same recipe", "scratch") if _arm(runs, run) is None]
    if missing:
        why = f"{size}, but the control {missing[0]!r} was not run. Diagnose with a larger budget."
        return Gate(name=name, state="open", reason=why, evidence=(lead,))
    single = [run.name for run in runs.values() if len(run.seeds) < SEEDS]
    needed = [run.name for run in (_arm(runs, "same recipe"), _arm(runs, "scratch")) if run]
    if set(needed) & set(single):
        first = next(run for run in needed if run in single)
        why = f"{size}, but the control {first!r} has a single seed: its noise is not known."
        return Gate(name=name, state="failed", reason=why, evidence=(lead,))
    seeds = [len(run.seeds) for run in runs.values()]
    why = (
        f"{size}; {len(runs)} controls of {min(seeds)} to {max(seeds)} seeds were held against it."
    )
    aside = f" Nothing is claimed from {', '.join(single)}, of one seed." if single else ""
    return Gate(name=name, state="passed", reason=why + aside, evidence=(lead,))


def validation_stratified(grounds: Grounds) -> Gate:
    """The student's score is known by difficulty, class or rarity, and domain; so is its worst slice.

    That a slice is worse than the rest fails no gate: it is named. What fails is a validation split whose
    slices are too small to tell.
    """
    name = "validation stratified"
    source = grounds.measurements if grounds.outcome is None else grounds.outcome.measurements
    found = source.find(grounds.score_name, of="student", split=SPLIT)
    slices = [item for item in found if item.group and " & " not in item.group]
    by = {kind: [item for item in slices if _kind(item) == kind] for kind in map(_kind, slices)}
    domains = tuple(kind for kind in by if kind not in BY_PROBE)
    labels = ("class", "rarity") if grounds.task in ("classification", "multilabel") else ()
    wanted = {"difficulty": ("difficulty",), "domain": domains}
    wanted |= {"class or rarity": labels} if labels else {}
    small = [
        what
        for what, kinds in wanted.items()
        if any(kind in by for kind in kinds) and not any(_reliable(by.get(kind, ())) for kind in kinds)
    ]  # fmt: skip
    if small:
        why = f"By {small[0]} most slices have fewer than {RELIABLE} validation samples, or no score: "
        why += "a larger validation split would tell."
        return Gate(name=name, state="failed", reason=why, evidence=tuple(slices))
    absent = [what for what, kinds in wanted.items() if not any(kind in by for kind in kinds)]
    worst = source.find("worst_slice", of="pair", split=SPLIT)
    said = _worst_words(worst[0], grounds) if worst else "no worst slice was looked for"
    evidence = (*(min(items, key=_low) for items in by.values()), *worst)
    known = ", ".join(f"{kind} ({len(items)})" for kind, items in by.items()) or "nothing"
    if absent or not worst:
        missing = f", not by {' or '.join(absent)}" if absent else ""
        need = [kind for kind in absent if kind != "class or rarity"]
        how = (
            f" Declare {' and '.join(need)} in Data(slices=...)."
            if need
            else f" {settled_by('measure')}"
        )
        why = f"The score is known by {known}{missing}; {said}.{how}"
        return Gate(name=name, state="open", reason=why, evidence=evidence)
    why = f"The score is known by {known}; {said}."
    return Gate(name=name, state="passed", reason=why, evidence=evidence)


def worth_transferring(grounds: Grounds) -> Gate:
    """Distilled does better than labels alone trained as long, beyond zero; level is not enough."""
    if grounds.outcome is not None:
        found = [item for item in grounds.outcome.comparisons if item.better_than == RIVAL]
        if found:
            return _worth(found[0], grounds.say)
    name, case = "worth transferring", grounds.case
    scratch = _arm(case.controls, "scratch")
    arms = [
        run
        for run in case.knowledge_arms
        if scratch is not None
        and run.recipe != "scratch"
        and run.fraction == scratch.fraction
        and min(n_seeds(run, scratch), len(run.seeds), len(scratch.seeds)) >= SEEDS
    ]
    if scratch is None or not arms:
        why = f"No distilled student was held against labels alone. {settled(grounds, 'diagnose')}"
        return Gate(name=name, state="open", reason=why)
    best = case.best(arms)
    points = case.difference("distilled minus scratch", best, scratch, len(arms))
    n = n_seeds(best, scratch)
    decided: Literal["better", "worse", "undecided"] = "undecided"
    if points.low > 0 or points.high < 0:
        decided = "better" if points.low > 0 else "worse"
    return _worth(
        Comparison(name=f"distilled by {best.recipe}", better_than=RIVAL, points=points, n_seeds=n,
                   decided=decided, would_decide="More seeds of both would."),
        grounds.say,
    )  # fmt: skip


def _worth(item: Comparison, say: Wording) -> Gate:
    on = "test" if item.points.split == "test" else "validation"
    size = (
        f"On {on}, {item.name} differs from labels alone trained as long by "
        f"{say.difference_of(item.points)} ({item.n_seeds} seed{'s' * (item.n_seeds != 1)} each)"
    )
    says = {
        "better": f"{size}: relearning does not get there.",
        "worse": f"{size}: relearning does better.",
        "undecided": f"{size}: relearning does as well. To tell them apart: {item.would_decide}",
    }
    state: Literal["passed", "failed"] = "passed" if item.decided == "better" else "failed"
    return Gate(
        name="worth transferring", state=state, reason=says[item.decided], evidence=(item.points,)
    )


def _arm(runs: dict[str, ControlRun], name: str) -> ControlRun | None:
    """The control of that name; a student whose own recipe is labels alone has its scratch there."""
    same = runs.get("same recipe")
    if name == "scratch" and same is not None and same.recipe == "scratch":
        return same
    return runs.get(name)


def _kind(item: Measurement) -> str:
    return item.group.partition("=")[0]


def _low(item: Measurement) -> float:
    return item.value if math.isfinite(item.value) else math.inf


def _reliable(items: Iterable[Measurement]) -> bool:
    """Whether at least half of the slices have a score and samples enough."""
    good = [math.isfinite(item.value) and item.n >= RELIABLE for item in items]
    return bool(good) and 2 * sum(good) >= len(good)


def _worst_words(worst: Measurement, grounds: Grounds) -> str:
    if not math.isfinite(worst.value):
        return f"worst slice: {grounds.say.no_worst_slice(worst.reason, grounds.lead)}"
    return (
        f"{worst.group} is worse than the rest after correction for all looks, a gap of "
        f"{grounds.say.difference_of(worst)}"
    )
