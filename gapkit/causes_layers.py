"""Causes seen in layers: one that the student cannot express, hints that weigh alike, a view that lacks."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from gapkit.case import SPLIT, Case, unmeasured
from gapkit.confidence import NO_CONTROL, below, word
from gapkit.gap import Evidence, Finding, Remedy
from gapkit.measurement import Measurement


def blind_layer(case: Case) -> Finding | None:
    """A teacher layer that matters and that no layer of the student comes nearer to by training.

    Limits: the layer's importance lies above 0; it is predicted from the student no better than from
    the same architecture untrained; it is predicted worse, beyond both intervals, than every other
    layer; and training did bring another layer nearer, so that it is this layer and not the training.
    """
    trained = {item.layer: item for item in _on_layers(case, "predictability", "pair")}
    fresh = {item.layer: item for item in _on_layers(case, "predictability", "untrained")}
    matters = {i.layer for i in _on_layers(case, "layer_importance", "teacher") if i.low > 0}
    for layer in sorted(matters & set(trained) & set(fresh)):
        here, untrained = trained[layer], fresh[layer]
        others = [item for name, item in trained.items() if name != layer and name in fresh]
        nearer = any(item.low > fresh[item.layer].high for item in others)
        lowest = all(here.high < item.low for item in others)
        if here.value <= untrained.high and nearer and lowest:
            return _blind(here, untrained)
    return None


def _blind(here: Measurement, untrained: Measurement) -> Finding:
    spread = math.hypot(here.value - here.low, untrained.high - untrained.value) / 1.96
    nearer = float(norm.cdf((here.value - untrained.value) / spread)) if spread > 0 else 0.5
    probability = min(
        NO_CONTROL, 1 - nearer + 0.5 * nearer
    )  # level with the untrained one counts half
    return Finding(
        cause="blind_layer",
        points=unmeasured("points of that layer", here.n),
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"Of the teacher's layer {here.layer}, which matters, the student's layers predict "
                f"R² {here.value:.2f} [{here.low:.2f}, {here.high:.2f}], less than of any other; those of "
                f"an untrained student {untrained.value:.2f} [{untrained.low:.2f}, {untrained.high:.2f}].",
                measurement=here,
                limit="the untrained student's interval: training brought this layer no nearer",
            ),
        ),
        would_change="A student trained on this layer alone that predicts it better than an untrained one.",
        remedy=Remedy(
            text=f"Give the student what layer {here.layer} is made of (depth, width or a block of its kind "
            "there), or leave that layer out of the hints."
        ),
    )


def uniform_transfer(case: Case) -> Finding | None:
    """Hints weigh alike though some of the teacher's layers do not matter.

    Limit: of the layers that are taught, the importance of some lies above 0 and that of others
    includes 0.
    """
    hints = [part for part in case.knowledge if part.kind == "feature" and part.teaches]
    weights = [
        (teacher, part.weight * share)
        for part in hints
        for (_, teacher), share in zip(part.layers, part.layer_weights or (1,) * len(part.layers))
    ]
    if len(weights) < 2 or not np.allclose([weight for _, weight in weights], weights[0][1]):
        return None
    known = {item.layer: item for item in _on_layers(case, "layer_importance", "teacher")}
    taught = [known[layer] for layer, _ in dict(weights).items() if layer in known]
    useless = [item for item in taught if item.low <= 0]
    useful = [item for item in taught if item.low > 0]
    if not useless or not useful:
        return None
    least = min(item.value for item in useful)
    probability = min(NO_CONTROL, *(below(item, least) for item in useless))
    names = ", ".join(item.layer for item in useless)
    return Finding(
        cause="uniform_transfer",
        points=unmeasured("points of weighing by importance", useless[0].n),
        probability=probability,
        confidence=word(probability),
        evidence=tuple(
            Evidence(
                text=f"Layer {item.layer}, taught with the same weight as the others, matters "
                f"{item.value:.2g} [{item.low:.2g}, {item.high:.2g}] to the teacher's answers.",
                measurement=item,
                limit="zero: the importance of a layer that is not used",
            )
            for item in (*useless, *useful)
        ),
        would_change="A student whose score does not rise when the hints weigh by importance.",
        remedy=Remedy(text=f"Weigh hints by importance (gapkit.matched_hints), none on {names}."),
    )


def poor_view(case: Case) -> Finding | None:
    """Where views differ: the teacher's first layer is not to be had from the student's view.

    Limit: the share of that layer's variance that fits into a layer of the student's width (the
    hint's bound). Both the student and the same architecture untrained predict less, beyond all three
    intervals: width would suffice, training is not the reason, so the view lacks it.
    """
    if case.same_view:
        return None
    trained = _on_layers(case, "predictability", "pair")
    if not trained:
        return None
    here, layer = trained[0], trained[0].layer
    fresh = [i for i in _on_layers(case, "predictability", "untrained") if i.layer == layer]
    bound = [i for i in _on_layers(case, "hint_bound", "teacher") if i.layer == layer]
    if not fresh or not bound or not max(here.high, fresh[0].high) < bound[0].low:
        return None
    probability = min(NO_CONTROL, below(here, bound[0].low), below(fresh[0], bound[0].low))
    return Finding(
        cause="input_gap",
        points=unmeasured("points of the teacher's view", here.n),
        probability=probability,
        confidence=word(probability),
        evidence=(
            Evidence(
                text=f"Of the teacher's first layer, {layer}, the student's layers predict R² {here.value:.2f} "
                f"[{here.low:.2f}, {here.high:.2f}], trained or not ({fresh[0].value:.2f}); their width would "
                f"hold {bound[0].value:.2f}.",
                measurement=here,
                limit="what fits into the student's width: the view does not hold the rest",
            ),
        ),
        would_change="A student on the teacher's view that is as far behind.",
        remedy=Remedy(
            text="Give the student what the teacher sees there, or a teacher that sees no more."
        ),
    )


def _on_layers(case: Case, name: str, of: str) -> list[Measurement]:
    found = case.measurements.find(name, of=of, split=SPLIT)
    return [item for item in found if item.layer and not math.isnan(item.value)]
