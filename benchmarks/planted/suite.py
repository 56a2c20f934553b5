"""The suite: which causes are planted where, how strongly and with which seeds; tune and report halves.

The halves are split by data set, three kinds of networks in each, so that no rule is reported on data
it was tuned on:

    tune      digits (CNN), regions and waves (MLP), motif (transformer)
    report    glyphs (CNN), clusters and friedman (MLP), majority (transformer)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from plants import fits
from worlds import WORLDS

COMMON = (
    "harsh_targets",
    "teacher_gap",
    "undertrained",
    "coverage",
    "input_gap",
    "pipeline_fault",
    "harness_fault",
    "false_success",
    "capacity",
    "overconfident_teacher",
)
OTHERS = ("optimization", "blind_layer", "uniform_transfer", "scheme_mismatch")
PAIRS = (
    ("harsh_targets", "pipeline_fault"),
    ("undertrained", "input_gap"),
    ("capacity", "pipeline_fault"),
    ("input_gap", "pipeline_fault"),
    ("undertrained", "pipeline_fault"),
    ("false_success", "capacity"),
)
STRENGTHS = (1, 2)
HALVES = ("tune", "report")
SEEDS = {"common": 3, "others": 2, "pairs": 1, "healthy": 6}
"""Seeds for each world and strength; what only classification has gets one more."""


@dataclass(frozen=True)
class Case:
    """One planted failure, by name: enough to make it again anywhere."""

    world: str
    causes: tuple[str, ...]
    strength: int
    seed: int

    @property
    def name(self) -> str:
        """Such as "digits-harsh_targets-2-0"."""
        return f"{self.world}-{'+'.join(self.causes)}-{self.strength}-{self.seed}"

    @property
    def half(self) -> str:
        """ "tune" or "report", by the data set."""
        return WORLDS[self.world].half


def cases() -> list[Case]:
    """All cases, strengths and worlds in turn, so that a first part of them is a fair sample."""
    listed = [
        *_listed([("no_gap",)], SEEDS["healthy"]),
        *_listed([(cause,) for cause in COMMON], SEEDS["common"]),
        *_listed([(cause,) for cause in OTHERS], SEEDS["others"]),
        *_listed(list(PAIRS), SEEDS["pairs"]),
    ]
    return sorted(listed, key=lambda case: (case.seed, case.strength))


def half(name: str) -> list[Case]:
    """The cases of one half."""
    return [case for case in cases() if case.half == name]


def _listed(groups: list[tuple[str, ...]], n_seeds: int) -> Iterator[Case]:
    for causes, world in product(groups, WORLDS.values()):
        if not fits(world, causes):
            continue
        scarce = not all(fits(other, causes) for other in WORLDS.values())
        for strength, seed in product(STRENGTHS, range(n_seeds + scarce)):
            yield Case(world.name, causes, strength, seed)
