"""The Probe protocol, what a probe is shown, and the standard list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.measurement import Contributions, Curve, LayerMatrix, Measurement

Result = Measurement | LayerMatrix | Curve | Contributions

CPU = torch.device("cpu")

_REGISTERED: dict[str, Probe] = {}


@dataclass(frozen=True)
class Observation:
    """What one model showed on one split, on CPU.

    Attributes:
        outputs: (n, ...) the task's output tensor of every sample, float32, in the split's order.
        layers: names of the tapped layers, input to output.
        features: layer -> (m, d) pooled features, float32, of the samples at `rows`; read anew at every
            access when they are many, so keep what is used twice.
        rows: (m,) positions within the split; all of them unless the cap was reached. The same for
            all models of a Seen.
        tokens: (m,) place in its sequence of every row when rows are tokens (reduce="tokens"), each
            then with its sample's position in `rows`; None when rows are samples.
    """

    outputs: Tensor
    layers: tuple[str, ...]
    features: Mapping[str, Tensor]
    rows: np.ndarray
    tokens: np.ndarray | None = None


@dataclass(frozen=True)
class Seen:
    """One split as both models saw it, each batch once, in the split's order.

    `moments` are exact sums over all samples and layer pairs (gapkit.probes.moments), when taken.
    """

    split: str
    teacher: Observation
    student: Observation
    untrained: Observation | None
    targets: Tensor | None
    groups: np.ndarray | None = None
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    moments: Any = None
    untrained_moments: Any = None

    @property
    def models(self) -> dict[str, Observation]:
        """Role -> observation, the untrained student last when there is one."""
        roles = {"teacher": self.teacher, "student": self.student}
        return roles if self.untrained is None else roles | {"untrained": self.untrained}


def reference(seen: Seen, task: Any) -> Tensor | None:
    """What answers are scored against: the targets; for vectors without any, the teacher's own."""
    if seen.targets is None and task.kind == "embedding":
        return seen.teacher.outputs
    return seen.targets


@dataclass(frozen=True)
class Setting:
    """What is the same for every probe: task, models, one example view of each, the data, the seed.

    `data` is for probes that must run the models again on samples of their choice (None: they skip).
    """

    task: Any
    teacher: nn.Module
    student: nn.Module
    teacher_example: Any
    student_example: Any
    reduce: str = "gap"
    device: torch.device = CPU
    seed: int = 0
    data: Data | None = None


@runtime_checkable
class Probe(Protocol):
    """Measures one thing about a teacher and a student; judges nothing."""

    name: str

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Results for the splits in `seen` ("train", "validation", "test")."""


def register(probe: Probe) -> None:
    """Add a third party's probe to every later survey; its name must be new.

    Raises:
        InputError: when it lacks `name` or `measure`, or the name is taken.
    """
    if not isinstance(probe, Probe):
        raise InputError(
            f"Expected a probe with `name` and `measure` but got {type(probe).__name__}"
        )
    if probe.name in {known.name for known in standard()}:
        raise InputError(f"Expected a new probe name but {probe.name!r} is taken")
    _REGISTERED[probe.name] = probe


def standard() -> tuple[Probe, ...]:
    """gapkit's own probes, then the registered ones."""
    from gapkit.probes.attribution import AttributionProbe
    from gapkit.probes.capacity import CapacityProbe
    from gapkit.probes.harness import HarnessProbe
    from gapkit.probes.linear import LinearProbe
    from gapkit.probes.maps import SimilarityProbe
    from gapkit.probes.relation import RelationProbe
    from gapkit.probes.response import ResponseProbe
    from gapkit.probes.slices import SliceProbe

    own: tuple[Probe, ...] = (
        ResponseProbe(),
        HarnessProbe(),
        SimilarityProbe(),
        LinearProbe(),
        RelationProbe(),
        AttributionProbe(),
        CapacityProbe(),
        SliceProbe(),
    )
    return own + tuple(_REGISTERED.values())
