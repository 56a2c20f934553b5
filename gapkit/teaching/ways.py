"""Way: how every model along a path is taught; an arm of a plan is a path, a way, a seed and a length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from gapkit.family import Size
from gapkit.gap import Cause
from gapkit.knowledge import Knowledge
from gapkit.plans import Phase, Stage
from gapkit.record import Record


class Way(Record):
    """How a model is taught: everything about a stage but its size, its length and who taught its teacher.

    Attributes:
        phases: knowledge over time.
        sources: of the first hop: "teacher", "checkpoint:0"; later hops are taught by the model before.
        scheme: of every hop: "offline", "dense" (all larger models of the path teach), "self",
            "cross_modal".
        exits: layers that get an output of their own, for "self".
        init: "fresh" or "inherit" (from the model before).
        answers: causes that it is a remedy for.
    """

    phases: tuple[Phase, ...]
    sources: tuple[str, ...] = ("teacher",)
    scheme: Literal["offline", "dense", "self", "cross_modal"] = "offline"
    exits: tuple[str, ...] = ()
    init: Literal["fresh", "inherit"] = "fresh"
    answers: tuple[Cause, ...] = ()

    def taught_by(self, before: Sequence[str]) -> tuple[str, ...]:
        """Sources of a later hop, by the names of the assistants before it."""
        return ("teacher", *before) if self.scheme == "dense" else (before[-1],)

    def stage(self, name: str, size: Size, sources: Sequence[str], **fields: Any) -> Stage:
        """One hop in this way, from sources of those names.

        A single source leaves nothing to be dense about; phases with sources of their own (an earlier
        teacher first) hold for the first hop, later ones end as it does.
        """
        sources, phases, scheme = tuple(sources), self.phases, self.scheme
        if sources != self.sources and any(phase.sources for phase in phases):
            phases = (phases[-1].with_(sources=(), until=1.0),)
        if scheme == "dense" and len(sources) < 2:
            scheme = "offline"
        init = self.init if sources else "fresh"
        return Stage(
            name=name,
            size=size,
            sources=sources,
            phases=phases,
            scheme=scheme,
            exits=self.exits,
            init=init,
            **fields,
        )

    def __str__(self) -> str:
        said = ", then ".join(map(str, self.phases))
        said += f", scheme {self.scheme}" * (self.scheme != "offline")
        return said + ", starting from its teacher's weights" * (self.init == "inherit")


def plain(knowledge: tuple[Knowledge, ...]) -> Way:
    """The way of learning that knowledge all along from the model before."""
    taught = any(part.kind != "label" for part in knowledge)
    sources = ("teacher",) if taught else ()
    return Way(phases=(Phase(knowledge=knowledge),), sources=sources, answers=("harsh_targets",))
