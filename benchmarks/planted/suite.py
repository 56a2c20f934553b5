"""The suite: which causes are planted where, how strongly and with which seeds; tune and report halves.

The halves are split by data set, three kinds of networks in each, so that no rule is reported on data
it was tuned on:

    tune      digits, glyphs, gratings and strokes (CNN), regions, clusters, corners, shells, waves, friedman,
              folds and ripples (MLP), motif, majority, later and marked (transformer); all but the first of
              each kind were a report half until rules changed after it
    report    couples (CNN), sectors and bumps (MLP), orders (transformer)
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
    ("input_gap", "capacity"),
)
STRENGTHS = (1, 2)
HALVES = ("tune", "report")
CASES = {"common": 14, "others": 8, "pairs": 4, "healthy": 40}
"""Of each cause or pair in each half."""
MORE = {"harsh_targets": 28, "teacher_gap": 24, "overconfident_teacher": 24}
"""Of causes whose plants take in half of the cases: so many in each half."""


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
    """All cases, causes in turn, so that a first part of them is a fair sample."""
    listed = [
        *_listed([("no_gap",)], CASES["healthy"]),
        *_listed([(cause,) for cause in COMMON], CASES["common"], MORE),
        *_listed([(cause,) for cause in OTHERS], CASES["others"]),
        *_listed(list(PAIRS), CASES["pairs"]),
    ]
    return [case for _, case in sorted(listed, key=lambda turn: turn[0])]


def half(name: str) -> list[Case]:
    """The cases of one half."""
    return [case for case in cases() if case.half == name]


def _listed(
    groups: list[tuple[str, ...]], n_cases: int, more: dict[str, int] | None = None
) -> Iterator[tuple[int, Case]]:
    """That many cases of each group in each half, by turn: worlds and strengths in turn, then seeds.

    Groups begin at different worlds, so that a few cases of each are spread over all.

    Args:
        more: cause -> number of cases in place of `n_cases`.
    """
    for part, (group, causes) in product(HALVES, enumerate(groups)):
        places = [world for world in WORLDS.values() if world.half == part and fits(world, causes)]
        n = len(places)
        for turn in range((more or {}).get(causes[0], n_cases)):
            world = places[(turn + group * n_cases) % n]
            strength = STRENGTHS[(turn % n + turn // n) % len(STRENGTHS)]
            yield turn, Case(world.name, causes, strength, turn // (n * len(STRENGTHS)))
