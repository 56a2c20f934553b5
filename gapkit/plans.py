"""Plan, Stage, Phase and Knowledge: what will be trained, by whom and on what. Data only, hand-editable."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gapkit.errors import InputError, unknown
from gapkit.family import Size
from gapkit.record import Record

LayerPairs = tuple[tuple[str, str], ...]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Knowledge(Record):
    """One kind of knowledge in a training objective.

    Attributes:
        kind: "label" (the task's own loss), "response", "feature" or "relation".
        loss: a registered loss; "task" for labels.
        temperature: of response losses, above 0.
        weight: of this term in the sum, at least 0.
        layers: (student layer, teacher layer) pairs of a feature loss.
    """

    kind: Literal["label", "response", "feature", "relation"]
    loss: str = "task"
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    layers: LayerPairs = ()

    @model_validator(mode="after")
    def _kind_and_loss_agree(self) -> Knowledge:
        if (self.kind == "label") != (self.loss == "task"):
            raise ValueError(
                f"Expected loss 'task' for labels and a registered loss else but got kind "
                f"{self.kind!r} with loss {self.loss!r}"
            )
        return self

    def __str__(self) -> str:
        if self.kind == "label":
            return f"{self.weight:g}·labels"
        return f"{self.weight:g}·{self.loss}" + (
            f" τ={self.temperature:g}" if self.kind == "response" else ""
        )


def _response(loss: str, temperature: float, weight: float) -> tuple[Knowledge, ...]:
    return (
        Knowledge(kind="response", loss=loss, temperature=temperature, weight=weight),
        Knowledge(kind="label", weight=round(1 - weight, 6)),
    )


KNOWLEDGE: dict[str, tuple[Knowledge, ...]] = {
    "scratch": (Knowledge(kind="label"),),
    "kl4": _response("kl", 4.0, 0.9),
    "kl1": _response("kl", 1.0, 0.9),
    "dist1": _response("dist", 1.0, 0.67),
    "std2": _response("standardized_kl", 2.0, 0.9),
}
"""Named mixtures: KL at temperature 4 and 1 (Hinton 2015), DIST (Huang 2022), standardized logits (Sun 2024)."""


def knowledge_named(name: str) -> tuple[Knowledge, ...]:
    """The mixture of that name.

    >>> [str(part) for part in knowledge_named("kl4")]
    ['0.9·kl τ=4', '0.1·labels']
    """
    if name not in KNOWLEDGE:
        raise unknown("knowledge", name, KNOWLEDGE)
    return KNOWLEDGE[name]


class Predicted(Record):
    """A forecast score: an interval of the given level around its expected value."""

    low: float
    value: float
    high: float
    level: float = 0.8

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Cost(Record):
    """What something costs: in trainings of the student, in FLOPs, in seconds, in bytes at its peak."""

    student_trainings: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    memory_bytes: int = 0
    unit_from: Literal["seconds", "FLOPs"] = "seconds"

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            student_trainings=self.student_trainings + other.student_trainings,
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
            memory_bytes=max(self.memory_bytes, other.memory_bytes),
            unit_from=self.unit_from,
        )

    def times(self, factor: float) -> Cost:
        """The cost of that many of it, one after the other."""
        return self.with_(
            student_trainings=self.student_trainings * factor,
            flops=self.flops * factor,
            seconds=self.seconds * factor,
        )

    def __str__(self) -> str:
        return f"{self.student_trainings:.1f} student trainings, {self.flops:.2g} FLOPs, about {self.seconds:.0f} s"


class Phase(Record):
    """A stretch of a stage with its own knowledge; `until` is the share of the stage's epochs at its end."""

    knowledge: tuple[Knowledge, ...] = Field(min_length=1)
    until: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Phase:
        if not any(part.weight > 0 for part in self.knowledge):
            raise ValueError("Expected at least one knowledge with a weight above 0 in a phase")
        return self


class Stage(Record):
    """One training of one model of the family.

    Attributes:
        name: unique within the plan; later stages may name it as a source.
        size: of the model that is trained.
        sources: who teaches: "teacher", an earlier stage, "checkpoint:0" (an earlier state of the
            teacher); empty for labels alone.
        init: "fresh", "student" (from the failing student's weights), "inherit" (from the source).
        scheme: "offline" today.
        recipe: what differs from the study's recipe, for example {"epochs": 240}.
        phases: knowledge over time; the last one ends at 1.
        seeds: the stage is trained once with each; the best on validation is kept.
        on_miss: what a measured score below the forecast leads to.
        predicted: validation score expected of one run.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$")
    size: Size
    sources: tuple[str, ...] = ()
    init: Literal["fresh", "student", "inherit"] = "fresh"
    scheme: str = "offline"
    recipe: dict[str, Any] = Field(default_factory=dict)
    phases: tuple[Phase, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    on_miss: Literal["stop", "retry", "replan"] = "stop"
    predicted: Predicted | None = None

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name == "teacher" or name.startswith("checkpoint"):
            raise ValueError(
                f"Expected a stage name other than {name!r}, which is a source of its own"
            )
        return name

    @model_validator(mode="after")
    def _phases_and_sources(self) -> Stage:
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError(
                f"Expected phases of stage {self.name!r} that end in rising order at 1 but got {ends}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"Expected the seeds of stage {self.name!r} to differ but got {list(self.seeds)}"
            )
        taught = any(part.kind != "label" for phase in self.phases for part in phase.knowledge)
        if taught and not self.sources:
            raise ValueError(
                f"Expected a source for stage {self.name!r}, whose knowledge needs a teacher"
            )
        return self

    @property
    def learns(self) -> str:
        """What the stage learns from, in a few words."""
        return ", then ".join(" + ".join(map(str, phase.knowledge)) for phase in self.phases)


class Alternative(Record):
    """A path that was considered: its forecast, its price, and what it was measured at, if it was."""

    path: tuple[Size, ...]
    recipe: str
    fraction: float = 1.0
    predicted: Predicted
    cost: float
    n_runs: int = 0
    chosen: bool = False
    on_front: bool = False
    note: str = ""


class Plan(Record):
    """Stages in order, the last one training the student; with forecast, price and reasons.

    `predicted` is the expected validation score (of the true mean), `predicted_run` of a single run.
    """

    study: str
    stages: tuple[Stage, ...] = Field(min_length=1)
    predicted: Predicted
    predicted_run: Predicted
    cost: Cost
    search_cost: Cost = Field(default_factory=Cost)
    alternatives: tuple[Alternative, ...] = ()
    reasons: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    assistant_pays: bool = False
    claim: str = ""

    @model_validator(mode="after")
    def _sources_exist(self) -> Plan:
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"Expected stage names to differ but {stage.name!r} comes twice")
            for source in stage.sources:
                if (
                    source != "teacher"
                    and not source.startswith("checkpoint:")
                    and source not in seen
                ):
                    known = ", ".join(["teacher", *seen])
                    raise ValueError(
                        f"Expected the sources of stage {stage.name!r} among {known} (earlier stages) "
                        f"but got {source!r}"
                    )
            seen.add(stage.name)
        return self

    def __str__(self) -> str:
        sizes = " → ".join(str(stage.size) for stage in self.stages)
        return f"Plan for {self.study}: teacher → {sizes}; predicted {self.predicted}; costs {self.cost}"


def check_plan(
    plan: Plan,
    sizes: tuple[Size, ...],
    student: Size,
    losses: tuple[str, ...],
    n_checkpoints: int = 0,
) -> None:
    """Raise InputError, naming all mistakes, when a plan cannot be carried out with this family."""
    wrong = []
    for stage in plan.stages:
        if str(stage.size) not in {str(size) for size in sizes}:
            wrong.append(str(unknown(f"size for stage {stage.name!r}", stage.size, sizes)))
        if stage.scheme != "offline":
            wrong.append(
                f"Expected scheme 'offline' in stage {stage.name!r} but got {stage.scheme!r}"
            )
        for part in (part for phase in stage.phases for part in phase.knowledge):
            if part.kind not in ("label", "response") or part.layers:
                wrong.append(
                    f"Expected knowledge of kind 'label' or 'response', without layers, in stage "
                    f"{stage.name!r} but got {part.kind!r}: this version carries out no other"
                )
            elif part.kind == "response" and part.loss not in losses:
                wrong.append(str(unknown(f"loss in stage {stage.name!r}", part.loss, losses)))
        for source in stage.sources:
            if source.startswith("checkpoint:") and source not in {
                f"checkpoint:{i}" for i in range(n_checkpoints)
            }:
                wrong.append(
                    f"Expected a teacher checkpoint below {n_checkpoints} in stage {stage.name!r} but got {source!r}"
                )
    if str(plan.stages[-1].size) != str(student):
        wrong.append(
            f"Expected the last stage to train the student's size {student!r} but got {plan.stages[-1].size!r}"
        )
    if wrong:
        raise InputError("; ".join(wrong))
