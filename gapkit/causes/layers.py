"""Causes seen in layers: one that the student cannot express, hints that weigh alike, a view that lacks."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.stats import norm

from gapkit.causes.case import SPLIT, Case, n_seeds, unmeasured
from gapkit.causes.confidence import EVEN, LEAST_SEEDS, NO_CONTROL, above, below, by_seeds, word
from gapkit.gap import LIKE_TEACHER, Evidence, Finding, Remedy
from gapkit.measurement import Measurement


def blind_layer(case: Case) -> Finding | None:
    """A teacher layer that matters and that the student's architecture cannot express.

    With controls: a network like the teacher, trained the same way for half as long, does better, and
    more than the next size of the student's family does, so that it is not the size; without, by the
    layers. Limits of the layers: the layer's importance lies above 0; it is predicted from the student no
    better than from the same architecture untrained; it is predicted worse, beyond both intervals, than
    every other layer; and training did bring another layer nearer. Layers alone are no better than even
    odds: a student that was trained badly leaves one untouched too (benchmarks/planted).
    """
    layer, shown = _unexpressed(case), _architecture(case)
    if shown is False:
        return None  # another architecture does no better
    if shown is None:
        return None if layer is None else _blind(*layer)
    points, seeds, size = shown
    probability = by_seeds(above(points), seeds)
    says = (
        "A fresh network like the teacher, trained the same way for half as long, gains "
        f"{case.say.difference_of(points)} over {size}."
    )
    evidence = (
        Evidence(text=says, measurement=points, limit="zero"),
        *(() if layer is None else _blind(*layer).evidence),
    )
    where = (
        "what the teacher's layers are made of"
        if layer is None
        else f"what layer {layer[0].layer} is made of"
    )
    return Finding(
        cause="blind_layer",
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=evidence,
        would_change="A student of this family that reaches the other architecture.",
        remedy=Remedy(
            text=f"Give the student {where}: the same kind of block, or its depth or width."
        ),
    )


def _architecture(case: Case) -> tuple[Measurement, int, str] | Literal[False] | None:
    """What the teacher's architecture gains over the student's next size up; None when not known."""
    same, like = case.controls.get("same recipe"), case.controls.get(LIKE_TEACHER)
    if same is None or like is None or n_seeds(like, same) < LEAST_SEEDS:
        return None
    above_, base = case.controls.get("next size up"), same
    if above_ is not None and n_seeds(above_, like) >= LEAST_SEEDS and above_.mean > same.mean:
        base = above_
    points = case.difference(LIKE_TEACHER, like, base)
    if not points.low > 0:
        return False
    who = "the student" if base is same else f"size {base.path[-1]} of the student's family"
    return points, n_seeds(like, base), who


def _unexpressed(case: Case) -> tuple[Measurement, Measurement] | None:
    trained = {item.layer: item for item in _on_layers(case, "predictability", "pair")}
    fresh = {item.layer: item for item in _on_layers(case, "predictability", "untrained")}
    matters = {i.layer for i in _on_layers(case, "layer_importance", "teacher") if i.low > 0}
    for layer in sorted(matters & set(trained) & set(fresh)):
        here, untrained = trained[layer], fresh[layer]
        others = [item for name, item in trained.items() if name != layer and name in fresh]
        nearer = any(item.low > fresh[item.layer].high for item in others)
        lowest = all(here.high < item.low for item in others)
        if here.value <= untrained.high and nearer and lowest:
            return here, untrained
    return None


def _blind(here: Measurement, untrained: Measurement) -> Finding:
    spread = math.hypot(here.value - here.low, untrained.high - untrained.value) / 1.96
    nearer = float(norm.cdf((here.value - untrained.value) / spread)) if spread > 0 else 0.5
    probability = min(EVEN, 1 - nearer + 0.5 * nearer)  # level with the untrained one counts half
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
    """Hints weigh alike though some of the teacher's layers do not matter, or though the student is better off.

    Limits: of the layers that are taught, the importance of some lies above 0 and that of others
    includes 0; or, by the controls, what the student gains without these hints lies above zero.
    """
    taught = _hinted_alike(case)
    known = {item.layer: item for item in _on_layers(case, "layer_importance", "teacher")}
    useless = [known[layer] for layer in taught if layer in known and known[layer].low <= 0]
    useful = [known[layer] for layer in taught if layer in known and known[layer].low > 0]
    seen = len(taught) > 1 and bool(useless and useful)
    other = _without_hints(case) if len(taught) > 1 else None
    if not seen and other is None:
        return None
    points, probability = unmeasured("points of weighing by importance", case.gap.n), 0.0
    evidence: tuple[Evidence, ...] = ()
    if seen:
        least = min(item.value for item in useful)
        probability = min(NO_CONTROL, *(below(item, least) for item in useless))
        evidence = tuple(map(_matters, (*useless, *useful)))
    if other is not None:
        points, seeds = other
        probability = max(probability, by_seeds(above(points), seeds))
        says = f"Without its hints, all of the same weight, the student gains {case.say.difference_of(points)}."
        evidence = (Evidence(text=says, measurement=points, limit="zero"), *evidence)
    names = f", none on {', '.join(item.layer for item in useless)}" if useless else ""
    return Finding(
        cause="uniform_transfer",
        points=points,
        probability=probability,
        confidence=word(probability),
        evidence=evidence,
        would_change="A student whose score does not rise when the hints weigh by importance.",
        remedy=Remedy(text=f"Weigh hints by importance (gapkit.matched_hints){names}."),
    )


def _hinted_alike(case: Case) -> tuple[str, ...]:
    """The teacher's layers that hints teach, when they all weigh alike."""
    hints = [part for part in case.knowledge if part.kind == "feature" and part.teaches]
    weights = [
        (teacher, part.weight * share)
        for part in hints
        for (_, teacher), share in zip(part.layers, part.layer_weights or (1,) * len(part.layers))
    ]
    if not weights or not np.allclose([weight for _, weight in weights], weights[0][1]):
        return ()
    return tuple(dict(weights))


def _matters(item: Measurement) -> Evidence:
    return Evidence(
        text=f"Layer {item.layer}, taught with the same weight as the others, matters "
        f"{item.value:.2g} [{item.low:.2g}, {item.high:.2g}] to the teacher's answers.",
        measurement=item,
        limit="zero: the importance of a layer that is not used",
    )


def _without_hints(case: Case) -> tuple[Measurement, int] | None:
    """What other knowledge, all kinds of it together, gains over these hints; None when it is not clear."""
    same, others, points = (
        case.controls.get("same recipe"),
        case.other_knowledge,
        case.gain_of_others(),
    )
    if same is None or others is None or points is None or not points.low > 0:
        return None
    return points.with_(name="without these hints"), min(len(same.seeds), len(others.seeds))


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
