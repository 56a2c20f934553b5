"""Knowledge: one kind of thing that a student learns from, and the named mixtures of every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from gapkit.errors import unknown
from gapkit.record import Record

LayerPairs = tuple[tuple[str, str], ...]


class Knowledge(Record):
    """One kind of knowledge in a training objective.

    Attributes:
        kind: "label" (the task's own loss), "response", "feature" or "relation".
        loss: a registered loss; "task" for labels.
        temperature: of losses that take one, above 0; of feature and relation losses 1 stands for
            the loss's own.
        weight: of this term in the sum, at least 0.
        layers: (student layer, teacher layer) pairs, of feature and relation losses; a relation loss
            without them compares the outputs.
        layer_weights: of each pair, such as the importance of the teacher's layer; default equal.
            Their sum does not matter: the term is their weighted mean.
        pool: compare one vector a sample (mean over space or tokens) instead of whole maps.
        temperature_end, weight_end: values at the end of the phase, reached linearly; default none.
    """

    kind: Literal["label", "response", "feature", "relation"]
    loss: str = "task"
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    layers: LayerPairs = ()
    layer_weights: tuple[float, ...] = ()
    pool: bool = False
    temperature_end: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    weight_end: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits(self) -> Knowledge:
        if (self.kind == "label") != (self.loss == "task"):
            raise ValueError(
                f"Expected loss 'task' for labels and a registered loss else but got kind "
                f"{self.kind!r} with loss {self.loss!r}"
            )
        if self.layers and self.kind not in ("feature", "relation"):
            raise ValueError(f"Expected no layers for {self.kind} knowledge but got {self.layers}")
        if self.kind == "feature" and not self.layers:
            raise ValueError(
                f"Expected (student layer, teacher layer) pairs for {self.loss!r} but got none"
            )
        weights = self.layer_weights
        if weights and (len(weights) != len(self.layers) or min(weights) < 0 or not sum(weights)):
            raise ValueError(
                f"Expected a weight of 0 or more for each of {len(self.layers)} layer pairs, one above "
                f"0, but got {list(weights)}"
            )
        return self

    @property
    def anneals(self) -> bool:
        """Whether its temperature or weight changes over the phase."""
        return self.temperature_end is not None or self.weight_end is not None

    @property
    def teaches(self) -> bool:
        """Whether it weighs anything at some time."""
        return self.weight > 0 or bool(self.weight_end)

    def at(self, share: float) -> Knowledge:
        """What it is when that share of its phase is done, from 0 to 1.

        >>> part = Knowledge(kind="response", loss="kl", temperature=4, temperature_end=1)
        >>> part.at(0.5).temperature
        2.5
        """
        if not self.anneals:
            return self

        def between(start: float, end: float | None) -> float:
            return start if end is None else (1 - share) * start + share * end

        return self.with_(
            temperature=between(self.temperature, self.temperature_end),
            weight=between(self.weight, self.weight_end),
            temperature_end=None,
            weight_end=None,
        )

    @property
    def name(self) -> str:
        """The term as logs call it, the same when its weight and temperature change."""
        if self.kind == "label":
            return "labels"
        first = "".join(f" {ours}→{theirs}" for ours, theirs in self.layers[:1])
        more = f" and {len(self.layers) - 1} more" * (len(self.layers) > 1)
        return f"{self.loss}{first}{more}"

    def __str__(self) -> str:
        tau = f" τ={_span(self.temperature, self.temperature_end)}" * (self.kind == "response")
        return f"{_span(self.weight, self.weight_end)}·{self.name}{tau}"


def _span(start: float, end: float | None) -> str:
    return f"{start:g}" if end is None else f"{start:g}→{end:g}"


def hints(pairs: Mapping[tuple[str, str], str | float], **fields: Any) -> tuple[Knowledge, ...]:
    """Feature knowledge by {(student layer, teacher layer): loss}, or {pair: weight} of one loss.

    Args:
        pairs: the layers and what compares them.
        **fields: of each Knowledge, such as weight or pool; `loss` when the values are weights.

    >>> [str(part) for part in hints({("net.1", "net.4"): "hint", ("net.3", "net.9"): "cka_loss"})]
    ['1·hint net.1→net.4', '1·cka_loss net.3→net.9']
    >>> hints({("a", "x"): 0.2, ("b", "y"): 0.8}, loss="hint")[0].layer_weights
    (0.2, 0.8)
    """
    if pairs and all(not isinstance(value, str) for value in pairs.values()):
        weights = tuple(float(value) for value in pairs.values())
        loss = fields.pop("loss", "hint")
        layers = tuple(pairs)
        return (
            Knowledge(kind="feature", loss=loss, layers=layers, layer_weights=weights, **fields),
        )
    by_loss: dict[str, list[tuple[str, str]]] = {}
    for pair, loss in pairs.items():
        by_loss.setdefault(str(loss), []).append(pair)
    return tuple(
        Knowledge(kind="feature", loss=loss, layers=tuple(layers), **fields)
        for loss, layers in by_loss.items()
    )


def response(loss: str, temperature: float = 1.0, weight: float = 0.9) -> tuple[Knowledge, ...]:
    """A response loss of that weight, labels the rest.

    >>> [str(part) for part in response("kl", 4.0)]
    ['0.9·kl τ=4', '0.1·labels']
    """
    return (
        Knowledge(kind="response", loss=loss, temperature=temperature, weight=weight),
        Knowledge(kind="label", weight=round(1 - weight, 6)),
    )


SCRATCH = (Knowledge(kind="label"),)
_LOGITS = {
    "kl4": response("kl", 4.0),
    "kl1": response("kl", 1.0),
    "dist1": response("dist", 1.0, 0.67),
}

MENUS: dict[str, dict[str, tuple[Knowledge, ...]]] = {
    "classification": {
        "scratch": SCRATCH,
        **_LOGITS,
        "std2": response("standardized_kl", 2.0),
    },
    "multilabel": {"scratch": SCRATCH, **_LOGITS},
    "regression": {
        "scratch": SCRATCH,
        "mse": response("mse"),
        "dist1": response("dist", 1.0, 0.67),
    },
    "embedding": {
        "scratch": SCRATCH,
        "cosine": (Knowledge(kind="response", loss="cosine"),),
        "rkd": (
            Knowledge(kind="relation", loss="rkd_distance", weight=25.0),
            Knowledge(kind="relation", loss="rkd_angle", weight=50.0),
        ),
        "sp": (Knowledge(kind="relation", loss="similarity_preserving"),),
    },
}
"""Named mixtures by task kind: KL at temperature 4 and 1 (Hinton 2015), DIST (Huang 2022), standardized
logits (Sun 2024), squared error to the teacher's numbers, cosine to its vectors, RKD (Park 2019),
similarity-preserving (Tung 2019)."""

KNOWLEDGE = MENUS["classification"]


def knowledge_named(name: str, task: str = "classification") -> tuple[Knowledge, ...]:
    """The mixture of that name for a kind of task.

    >>> [str(part) for part in knowledge_named("kl4")]
    ['0.9·kl τ=4', '0.1·labels']
    """
    if name not in MENUS[task]:
        raise unknown(f"knowledge for {task}", name, MENUS[task])
    return MENUS[task][name]
