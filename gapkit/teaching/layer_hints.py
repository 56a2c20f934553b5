"""matched_hints(): which layers of a student should learn from which of the teacher, as measured."""

from __future__ import annotations

from typing import Any

from gapkit.errors import InputError
from gapkit.knowledge import Knowledge, hints
from gapkit.measurement import Measurements
from gapkit.probes.importance import importance_weights
from gapkit.probes.matching import match_layers

SPLIT = "validation"


def matched_hints(
    measurements: Measurements, loss: str = "hint", n: int | None = None, **fields: Any
) -> tuple[Knowledge, ...]:
    """Feature knowledge on the pairs that the layer matching names, weighted by the layers' importance.

    Pairs come from the best order-preserving matching of the CKA map, weights from what the teacher
    loses without its layer; both on validation. Layers of no importance get no hint. Where the
    importance of no layer is known, the pairs count alike.

    Args:
        loss: a registered feature loss; n: pairs at most, the most important ones; default all.
        **fields: of the Knowledge, such as weight or pool.

    Raises:
        InputError: when nothing can be matched.
    """
    matching = match_layers(measurements.matrix("cka", SPLIT))
    found = measurements.find("layer_importance", of="teacher", split=SPLIT)
    known = [item for item in found if item.value == item.value]
    weights = dict.fromkeys(matching.teacher_layers, 1.0)
    if any(item.value > 0 for item in known):
        weights = importance_weights(known)
    chosen = {pair: weights[pair[1]] for pair in matching.pairs if weights.get(pair[1], 0) > 0}
    if not chosen:
        raise InputError(
            "Expected a pair of layers that are alike, of a layer that matters, but the map of "
            f"{len(measurements.matrix('cka', SPLIT).teacher_layers)} teacher layers has none"
        )
    best = sorted(chosen, key=lambda pair: -chosen[pair])[:n]
    return hints({pair: chosen[pair] for pair in chosen if pair in best}, loss=loss, **fields)
