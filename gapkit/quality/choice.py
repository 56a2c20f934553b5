"""choose_knowledge(): what a student should learn from and by which scheme, as measured, with reasons."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Literal

from gapkit.causes.case import SPLIT
from gapkit.errors import InputError
from gapkit.knowledge import MENUS, Knowledge
from gapkit.measurement import Measurement
from gapkit.quality.grounds import Grounds
from gapkit.record import Record
from gapkit.wording import number_of

LEADING = {
    "classification": ("dist1", "kl1"),
    "multilabel": ("dist1", "kl1"),
    "regression": ("mse",),
    "embedding": ("rkd",),
}
"""By task, the mixtures of gapkit.knowledge that lead, the first that its outputs are not too small for: DIST, which
asks for the order of the teacher's answers and not for their size; KL; the teacher's numbers; distances and angles."""

HINT_WEIGHT = 0.5  # of the hints together, beside responses and labels that sum to 1
RELATION_WEIGHT = 0.5


class Choice(Record):
    """What to learn from and by which scheme.

    Attributes:
        kinds: of knowledge, the leading one first.
        knowledge: to be put into a Phase as it is.
        scheme: of the Stage: "offline", "online", "self" or "cross_modal".
        hinted: teacher layers that the hints are for.
        exits: student layers, input to output, that can get an output of their own under "self".
        reasons: two to four sentences with numbers.
        evidence: what they rest on.
    """

    kinds: tuple[Literal["response", "feature", "relation"], ...]
    knowledge: tuple[Knowledge, ...]
    scheme: Literal["offline", "online", "self", "cross_modal"]
    hinted: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()
    reasons: tuple[str, ...]
    evidence: tuple[Measurement, ...] = ()

    def __str__(self) -> str:
        return f"{' and '.join(self.kinds)}, {self.scheme}. {' '.join(self.reasons)}"


class _Part(Record):
    """One decision: what it adds, why, and on what ground."""

    knowledge: tuple[Knowledge, ...] = ()
    reason: str = ""
    evidence: tuple[Measurement, ...] = ()
    scheme: Literal["offline", "online", "self", "cross_modal"] = "offline"
    exits: tuple[str, ...] = ()


def choose_knowledge(grounds: Grounds) -> Choice:
    """Choose knowledge and scheme from the measurements, on validation.

    - Knowledge: relations where geometry is the objective (an embedding), else responses, since the
      decision must survive. Hints are added for teacher layers that matter (importance above 0 beyond
      noise) and that the student foretells no better than an untrained one does; relations where the
      student keeps the teacher's distances no better than an untrained one does.
    - Scheme: cross-modal where teacher and student see different views; offline where the teacher is
      better on average and no worse on any slice; online where it is worse on one, so that peers teach
      beside it; without a better teacher, self where a deeper layer of the student says more than its
      first, else online. Peers and the student's own depth teach outputs only: no hints then.

    Args:
        grounds: its measurements, task and views; gap, plan and outcome are not read.

    Raises:
        InputError: when teacher and student were not scored on validation.
    """
    lead = grounds.lead
    if lead is None:
        raise InputError("Expected scores of teacher and student on validation but found none")
    source = _scheme(grounds, lead)
    parts = [_leading(grounds), source]
    if source.scheme in ("offline", "cross_modal"):
        parts.insert(1, _features(grounds))
    if grounds.task != "embedding":
        parts.insert(-1, _relations(grounds))
    knowledge = tuple(item for part in parts for item in part.knowledge)
    kinds = dict.fromkeys(item.kind for item in knowledge if item.kind != "label")
    hints = [item for item in knowledge if item.kind == "feature"]
    return Choice(
        kinds=tuple(kind for kind in kinds if kind != "label"),
        knowledge=knowledge,
        scheme=source.scheme,
        hinted=tuple(theirs for item in hints for _, theirs in item.layers),
        exits=source.exits,
        reasons=tuple(part.reason for part in parts if part.reason),
        evidence=tuple(item for part in parts for item in part.evidence),
    )


def _leading(grounds: Grounds) -> _Part:
    names = LEADING[grounds.task]
    name = next((name for name in names if name not in grounds.refused), names[-1])
    knowledge = MENUS[grounds.task][name]
    if grounds.task == "embedding":
        kept = _outputs_kept(grounds, "pair")
        now = f", of which the student keeps {number_of(kept)}" if kept else ""
        reason = (
            f"Relations lead ({name}), since the geometry of the vectors is the objective{now}."
        )
        return _Part(knowledge=knowledge, reason=reason, evidence=(kept,) if kept else ())
    found = grounds.measurements.find("agreement", of="pair", split=SPLIT, layer="", group="")
    now = f"; so far student and teacher agree on {number_of(found[0])}" if found else ""
    what = "numbers" if grounds.task == "regression" else "decision"
    reason = f"Responses lead ({name}), since the teacher's {what} must survive{now}."
    return _Part(knowledge=knowledge, reason=reason, evidence=found[:1])


def _features(grounds: Grounds) -> _Part:
    """Hints for the layers that matter and that training has not brought nearer."""
    from gapkit.teaching.layer_hints import matched_hints

    missed = _missed_layers(grounds)
    if not missed:
        return _Part()
    try:
        found = matched_hints(grounds.measurements, weight=HINT_WEIGHT)
    except InputError:
        return _Part()
    kept = tuple(item for part in found if (item := _only(part, missed)) is not None)
    layers = [theirs for part in kept for _, theirs in part.layers]
    if not layers:
        return _Part()
    first = max(layers, key=lambda layer: missed[layer][0].value)
    matters, known, fresh = missed[first]
    reason = (
        f"Hints at {', '.join(layers)}: without half of {first} the teacher loses "
        f"{number_of(matters)}, and the student foretells it ({number_of(known)}) no better than an "
        f"untrained one ({number_of(fresh)})."
    )
    evidence = tuple(item for layer in layers for item in missed[layer])
    return _Part(knowledge=kept, reason=reason, evidence=evidence)


def _missed_layers(grounds: Grounds) -> dict[str, tuple[Measurement, Measurement, Measurement]]:
    """Teacher layer -> its importance, its R² from the student and from an untrained student."""
    matters = _by_layer(grounds, "layer_importance", "teacher")
    known = _by_layer(grounds, "predictability", "pair")
    fresh = _by_layer(grounds, "predictability", "untrained")
    return {
        layer: (item, known[layer], fresh[layer])
        for layer, item in matters.items()
        if item.low > 0 and layer in known and layer in fresh
        if not known[layer].low > fresh[layer].high
    }


def _only(part: Knowledge, layers: Container[str]) -> Knowledge | None:
    """A hint's pairs of those teacher layers."""
    kept = [index for index, (_, theirs) in enumerate(part.layers) if theirs in layers]
    if not kept:
        return None
    return part.with_(
        layers=tuple(part.layers[index] for index in kept),
        layer_weights=tuple(part.layer_weights[index] for index in kept),
    )


def _relations(grounds: Grounds) -> _Part:
    """Geometry beside the answers, where training has not brought any of the teacher's."""
    kept, fresh = _outputs_kept(grounds, "pair"), _outputs_kept(grounds, "untrained")
    if kept is None or fresh is None or kept.low > fresh.high:
        return _Part()
    part = Knowledge(kind="relation", loss="similarity_preserving", weight=RELATION_WEIGHT)
    reason = (
        f"Relations beside them: the student keeps the teacher's distances ({number_of(kept)}) no "
        f"better than an untrained one ({number_of(fresh)})."
    )
    return _Part(knowledge=(part,), reason=reason, evidence=(kept, fresh))


def _scheme(grounds: Grounds, lead: Measurement) -> _Part:
    ahead = f"the teacher is {grounds.stands(lead)}"
    if not grounds.same_view:
        reason = f"Cross-modal, since teacher and student see different views; {ahead}."
        return _Part(scheme="cross_modal", reason=reason, evidence=(lead,))
    if lead.low > 0:
        lost = grounds.lost_slices
        if not lost:
            reason = f"Offline: {ahead}, and no worse on any slice beyond noise."
            return _Part(scheme="offline", reason=reason, evidence=(lead,))
        where = f"{lost[0].group} it is {grounds.stands(lost[0])}"
        reason = f"Online, peers beside the teacher: on average {ahead}, but on {where}."
        return _Part(scheme="online", reason=reason, evidence=(lead, *lost))
    rising = _useful_depth(grounds)
    if rising is None:
        reason = (
            f"Online, from peers: {ahead}, so no better source, and no layer of the student is one."
        )
        return _Part(scheme="online", reason=reason, evidence=(lead,))
    first, deepest, exits = rising
    reason = (
        f"Self: {ahead}, so no better source, but within the student {deepest.layer} says more "
        f"({number_of(deepest)}, linear probe) than {first.layer} ({number_of(first)})."
    )
    return _Part(scheme="self", reason=reason, evidence=(lead, first, deepest), exits=exits)


def _useful_depth(grounds: Grounds) -> tuple[Measurement, Measurement, tuple[str, ...]] | None:
    """First and best-probed layer of the student, and the layers before that one; None when level."""
    probed = list(_by_layer(grounds, "linear_probe", "student").values())
    if len(probed) < 2:
        return None
    deepest = max(probed[1:], key=lambda item: item.value)
    if not deepest.low > probed[0].high:
        return None
    return probed[0], deepest, tuple(item.layer for item in probed[: probed.index(deepest)])


def _by_layer(grounds: Grounds, name: str, of: str) -> dict[str, Measurement]:
    found = grounds.measurements.find(name, of=of, split=SPLIT)
    return {item.layer: item for item in found if item.layer and math.isfinite(item.value)}


def _outputs_kept(grounds: Grounds, of: str) -> Measurement | None:
    """How far distances among the outputs follow the teacher's."""
    found = grounds.measurements.find("distance_structure", of=of, split=SPLIT, layer="", group="")
    return found[0] if found and math.isfinite(found[0].value) else None
