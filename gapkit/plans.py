"""Plan, Stage and Phase: what will be trained, by whom and on what. Data only, hand-editable."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gapkit.errors import unknown
from gapkit.family import Size
from gapkit.knowledge import Knowledge
from gapkit.record import Record

SCHEMES = ("offline", "dense", "online", "self", "cross_modal")

Seed = Annotated[int, Field(ge=0, lt=2**32)]


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
    """A stretch of a stage with its own knowledge.

    Attributes:
        knowledge: what is learned from; temperatures and weights may change linearly over the phase.
        until: the share of the stage's epochs at its end.
        sources: those of the stage's that teach in this phase, such as an early checkpoint of the
            teacher; default all.
        easiest: the share of samples to begin with, those that the first source is surest of;
            `easiest_end` at the end of the phase (linearly widening).
        balance: "fixed" weights, or "gradient": weights are rescaled so that each term's gradient on the
            student has the share that its weight says; the first term keeps its weight.
    """

    knowledge: tuple[Knowledge, ...] = Field(min_length=1)
    until: float = Field(default=1.0, gt=0, le=1)
    sources: tuple[str, ...] = ()
    easiest: float = Field(default=1.0, gt=0, le=1)
    easiest_end: float | None = Field(default=None, gt=0, le=1)
    balance: Literal["fixed", "gradient"] = "fixed"

    @model_validator(mode="after")
    def _something_to_learn(self) -> Phase:
        if not any(part.teaches for part in self.knowledge):
            raise ValueError("Expected at least one knowledge with a weight above 0 in a phase")
        return self

    @property
    def widens(self) -> bool:
        """Whether it leaves out samples for a while."""
        return self.easiest < 1 or self.easiest_end not in (None, 1.0)

    def share_at(self, share: float) -> float:
        """The share of samples when that share of the phase is done."""
        end = self.easiest if self.easiest_end is None else self.easiest_end
        return self.easiest + share * (end - self.easiest)

    def __str__(self) -> str:
        words = " + ".join(map(str, self.knowledge))
        if self.sources:
            words += f" from {', '.join(self.sources)}"
        if self.widens:
            words += f", easiest {self.share_at(0):.0%} to {self.share_at(1):.0%} of samples"
        return words + ", balanced by gradients" * (self.balance == "gradient")


class Stage(Record):
    """One training of one model of the family.

    Attributes:
        name: unique within the plan; later stages may name it as a source.
        size: of the model that is trained.
        sources: who teaches: "teacher", an earlier stage, "checkpoint:0" (an earlier state of the
            teacher); empty for labels alone.
        source_weights: of each source in the mean over sources; default equal.
        init: "fresh", "student" (from the failing student's weights), "inherit" (from the first source:
            widths are sliced, blocks dropped, and what fits nowhere stays fresh).
        scheme: "offline" (stable sources), "dense" (all larger models of a chain, one left out at
            random per batch), "online" (learns together with `peers`), "self" (its deepest output teaches its
            `exits`), "cross_modal" (offline, teacher and student seeing different views).
        peers: sizes that are trained beside it and from each other, for "online"; of those of the
            stage's own size the best on validation is kept.
        exits: layers that get an output of their own while it trains, for "self".
        recipe: what differs from the study's recipe, for example {"epochs": 240}.
        phases: knowledge over time; the last one ends at 1.
        seeds: the stage is trained once with each; the best on validation is kept.
        on_miss: what a measured score below the forecast leads to.
        predicted: validation score expected of one run.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$")
    size: Size
    sources: tuple[str, ...] = ()
    source_weights: tuple[float, ...] = ()
    init: Literal["fresh", "student", "inherit"] = "fresh"
    scheme: str = "offline"
    peers: tuple[Size, ...] = ()
    exits: tuple[str, ...] = ()
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
        if taught and not self.sources and not self.peers and not self.exits:
            raise ValueError(
                f"Expected a source for stage {self.name!r}, whose knowledge needs a teacher"
            )
        weights = self.source_weights
        if weights and (len(weights) != len(self.sources) or min(weights) < 0 or not sum(weights)):
            raise ValueError(
                f"Expected a weight of 0 or more for each source of stage {self.name!r}, one above 0, "
                f"but got {list(weights)} for {len(self.sources)}"
            )
        for phase in self.phases:
            strangers = [source for source in phase.sources if source not in self.sources]
            if strangers:
                raise ValueError(
                    f"Expected sources of a phase among those of stage {self.name!r} "
                    f"({', '.join(self.sources) or 'none'}) but got {strangers[0]!r}"
                )
            if phase.widens and not self.sources:
                raise ValueError(
                    f"Expected a source for stage {self.name!r}, whose easiest samples a teacher names"
                )
        return self

    @model_validator(mode="after")
    def _scheme_fits(self) -> Stage:
        if self.scheme not in SCHEMES:
            raise ValueError(str(unknown("scheme", self.scheme, SCHEMES)))
        for scheme, field in (("online", "peers"), ("self", "exits")):
            if (self.scheme == scheme) != bool(getattr(self, field)):
                raise ValueError(
                    f"Expected {field} for scheme {scheme!r} and for no other but stage {self.name!r} has "
                    f"scheme {self.scheme!r} and {field} {list(getattr(self, field))}"
                )
        if self.scheme == "dense" and len(self.sources) < 2:
            raise ValueError(
                f"Expected two sources or more for scheme 'dense' in stage {self.name!r} but got "
                f"{len(self.sources)}"
            )
        if self.scheme == "cross_modal" and not self.sources:
            raise ValueError(f"Expected a source for scheme 'cross_modal' in stage {self.name!r}")
        return self

    @property
    def learns(self) -> str:
        """What the stage learns from, in a few words."""
        return ", then ".join(map(str, self.phases))

    @property
    def taught_by(self) -> tuple[str, ...]:
        """Who teaches it: its sources, its peers, itself (its deepest output); nobody for labels alone."""
        peers = f"peers of size {', '.join(map(str, self.peers))}"
        own = f"itself, at {', '.join(self.exits)}"
        return (*self.sources, *([peers] if self.peers else ()), *([own] if self.exits else ()))

    def __str__(self) -> str:
        taught = (
            f"{self.learns} from {', '.join(self.taught_by)}" if self.taught_by else self.learns
        )
        seeds = ", ".join(map(str, self.seeds))
        return f"{self.name} of size {self.size}: {taught}; seeds {seeds}"


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

    def __str__(self) -> str:
        length = "" if self.fraction == 1 else f" for {self.fraction:g} times the epochs"
        path = " → ".join(map(str, self.path))
        return (
            f"{path} by {self.recipe}{length}: {self.predicted}; costs {self.cost:.1f} student trainings"
            + "; chosen" * self.chosen
        )


class Plan(Record):
    """Stages in order, the last one training the student; with forecast, price and reasons.

    `predicted` is what the objective is expected to be on validation (the true mean), `predicted_run` of
    a single run; `would_change` says which runs would lead to another plan. The objective is "score",
    "worst_slice" or "relation". `wider` is the next size up under the best way that was tried with it, in
    place of all this, with its price; None when none was, or when it is beyond the limits. `keep_student`:
    the student as it was given already reaches more on validation than is expected of these stages.
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
    would_change: str = ""
    objective: str = "score"
    wider: Alternative | None = None
    keep_student: bool = False

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
        return (
            f"Plan for {self.study}: teacher → {sizes}; predicted {self.predicted}; costs {self.cost}"
            + "; the student as it was given already does better" * self.keep_student
        )
