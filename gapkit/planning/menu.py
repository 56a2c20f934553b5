"""ways_for(): the ways that a study's plan is chosen from, those first that answer its diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Literal

from gapkit.errors import InputError
from gapkit.forecast import SCRATCH
from gapkit.gap import Cause, Gap
from gapkit.knowledge import Knowledge
from gapkit.plans import Phase
from gapkit.quality.choice import HINT_WEIGHT, LEADING, choose_knowledge
from gapkit.quality.grounds import Grounds
from gapkit.teaching.layer_hints import matched_hints
from gapkit.teaching.ways import Way, plain

SHARE_OF_NEW = 1 / 3  # of a budget, for ways that no control has run
HINTED_UNTIL = 0.25  # of the epochs, where hints come first (FitNets 1412.6550 trains them apart)
EARLY_UNTIL = 0.5  # of the epochs, where an earlier teacher comes first
EASIEST = 0.5  # share of samples to begin with
WARM = 4.0  # temperature that annealing begins with (Annealing-KD 2104.07163 goes from high to 1)
CHOSEN = "chosen"  # by choose_knowledge

Scheme = Literal["offline", "cross_modal"]


def ways_for(
    menu: Mapping[str, tuple[Knowledge, ...]],
    grounds: Grounds,
    *,
    budget: float,
    tried: Set[str] = frozenset(),
    earlier: str = "",
    n_earlier: int = 0,
) -> dict[str, Way]:
    """The ways that a plan is chosen from, by name: what controls have run, and as many others as pay.

    Every way costs a student training to look at once, so that new ones get a third of the budget:
    first those that answer a finding of the diagnosis, then what the measurements choose, then the
    standard responses, then the rest.

    Args:
        menu: name -> knowledge that this task can be taught.
        grounds: what was measured and diagnosed.
        budget: of the search, in student trainings.
        tried: names that are offered in any case, the failing student's own recipe among them.
        earlier: the earlier teacher whose answers lose least on validation; "" for none.
        n_earlier: earlier teachers that were given.
    """
    known = _run_already(grounds.gap) | {*tried, SCRATCH}
    standard = {name: plain(knowledge) for name, knowledge in menu.items()}
    extra = dict(_extra(menu, grounds, earlier, n_earlier))
    found = [finding.cause for finding in grounds.gap.findings] if grounds.gap else []
    new = [name for name in (*standard, *extra) if name not in known]
    every = standard | extra
    new.sort(key=lambda name: (_rank(every[name], found), name in extra and name != CHOSEN))
    kept = known | set(new[: max(1, int(budget * SHARE_OF_NEW))])
    return {name: way for name, way in every.items() if name in kept}


def _rank(way: Way, found: Sequence[str]) -> int:
    """Place of the first finding that the way answers; after all of them when it answers none."""
    return min((place for place, cause in enumerate(found) if cause in way.answers), default=99)


def _run_already(gap: Gap | None) -> set[str]:
    runs = () if gap is None else gap.controls
    return {run.recipe for run in runs if not run.altered}


def _extra(
    menu: Mapping[str, tuple[Knowledge, ...]], grounds: Grounds, earlier: str, n_earlier: int
) -> list[tuple[str, Way]]:
    """Name -> way, of all that this study has the parts for."""
    lead = next((name for name in LEADING[grounds.task] if name in menu), None)
    if lead is None:
        return []
    base = menu[lead]
    scheme: Scheme = "offline" if grounds.same_view else "cross_modal"
    found = [*_by_layers(lead, base, grounds, scheme)]
    found += _by_choice(grounds, menu)
    if grounds.task in ("classification", "multilabel") and "kl1" in menu:
        cooling = tuple(
            part.with_(temperature=WARM, temperature_end=1.0) if part.kind == "response" else part
            for part in menu["kl1"]
        )
        found.append(
            ("kl4to1", Way(phases=(Phase(knowledge=cooling),), answers=("harsh_targets",)))
        )
    easy = Phase(knowledge=base, easiest=EASIEST, easiest_end=1.0)
    found.append((f"easy+{lead}", Way(phases=(easy,), answers=("harsh_targets", "capacity"))))
    if grounds.same_view:
        inherited = Way(phases=(Phase(knowledge=base),), init="inherit", answers=("undertrained",))
        found.append((f"inherit+{lead}", inherited))
        dense = Way(phases=(Phase(knowledge=base),), scheme="dense", answers=("teacher_gap",))
        found.append((f"dense+{lead}", dense))
    if earlier:
        found += _from_earlier(lead, base, earlier, n_earlier)
    return found


def _from_earlier(
    lead: str, base: tuple[Knowledge, ...], earlier: str, n_earlier: int
) -> list[tuple[str, Way]]:
    """From an early-stopped teacher (Cho & Hariharan 1910.01348), or from the earliest first and then the last."""
    answers: tuple[Cause, ...] = ("teacher_gap", "overconfident_teacher")
    alone = Way(phases=(Phase(knowledge=base),), sources=(earlier,), answers=answers)
    steps = (
        Phase(knowledge=base, sources=("checkpoint:0",), until=EARLY_UNTIL),
        Phase(knowledge=base, sources=("teacher",)),
    )
    both = Way(phases=steps, sources=("checkpoint:0", "teacher"), answers=answers)
    return [(f"early+{lead}", alone)] + [(f"early-to-late+{lead}", both)] * (n_earlier > 0)


def _by_layers(
    lead: str,
    base: tuple[Knowledge, ...],
    grounds: Grounds,
    scheme: Scheme,
) -> list[tuple[str, Way]]:
    """Hints at the layers that matter beside the answers, or before them."""
    try:
        found = matched_hints(grounds.measurements, weight=HINT_WEIGHT)
    except (InputError, LookupError):
        return []
    answers: tuple[Cause, ...] = ("blind_layer", "uniform_transfer", "overconfident_teacher")
    first = (Phase(knowledge=found, until=HINTED_UNTIL), Phase(knowledge=base))
    beside = (Phase(knowledge=(*base, *found)),)
    return [
        (f"hint+{lead}", Way(phases=beside, scheme=scheme, answers=answers)),
        (f"hint-then-{lead}", Way(phases=first, scheme=scheme, answers=answers)),
    ]


def _by_choice(
    grounds: Grounds, menu: Mapping[str, tuple[Knowledge, ...]]
) -> list[tuple[str, Way]]:
    """What the measurements choose, unless it is on the menu already.

    Peers take a training each, which no price of a size holds: they are for plans made by hand.
    """
    if grounds.lead is None:
        return []
    choice = choose_knowledge(grounds)
    if choice.scheme == "self" and choice.exits:
        spoken = tuple(part for part in choice.knowledge if part.kind in ("label", "response"))
        way = Way(phases=(Phase(knowledge=spoken),), scheme="self", exits=choice.exits)
    elif choice.knowledge in menu.values():
        return []
    else:
        scheme: Scheme = "offline" if grounds.same_view else "cross_modal"
        way = Way(phases=(Phase(knowledge=choice.knowledge),), scheme=scheme)
    return [(CHOSEN, way.with_(answers=("scheme_mismatch", "blind_layer")))]
