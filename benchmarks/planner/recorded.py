"""Recorded tables as worlds: chosen on some seeds, judged by the mean of the others.

A table in benchmarks/tables/ has one JSON object a line: `path`, `recipe` ("scratch" for labels alone), `seed`, the
score as `score` or `acc` (higher is better), and where they differ from the default `fraction` (1), `sec`
(the same for every size) and `unit` (score units that make a point, .01). Every size that was the last
of a chain with an assistant is a student, and has every arm under every seed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from arms import World, arms_of

from gapkit.forecast import SCRATCH, Arm
from gapkit.planner import Trial

DATA = Path(__file__).resolve().parents[1] / "tables"
HALF = "recorded"
N_SPLITS = 10
METRICS = ("score", "acc")

Scores = dict[Arm, dict[int, float]]


class Table:
    """The scores of one file.

    Attributes:
        scores: arm -> seed -> score. seconds: size -> median seconds of a training.
        unit: score units that make one point of a 0-100 scale.
        sizes: dearest path first: teacher, then by the order in which chains go down.
    """

    def __init__(self, path: Path) -> None:
        self.scores: Scores = defaultdict(dict)
        seconds: dict[Any, list[float]] = defaultdict(list)
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            arm = Arm(tuple(row["path"]), row["recipe"], float(row.get("fraction", 1.0)))
            score = next(row[name] for name in METRICS if name in row)
            self.scores[arm][int(row["seed"])] = float(score)
            seconds[arm.path[-1]].append(row.get("sec", 1.0) / arm.fraction)
        self.name, self.unit = path.stem, float(row.get("unit", 0.01))
        self.seconds = {size: float(np.median(found)) for size, found in seconds.items()}
        self.sizes = max((arm.path for arm in self.scores), key=len)

    def students(self) -> list[Any]:
        """Sizes that were taught by an assistant, smallest first."""
        taught = {arm.path[-1] for arm in self.scores if arm.n_assistants}
        return [size for size in reversed(self.sizes) if size in taught]


@cache
def table(path: Path) -> Table:
    """The table in that file."""
    return Table(path)


class Recorded(World):
    """A student of a table under one split of its seeds.

    `draw` answers from the seeds to choose on, in an order of its own for each stream, and starts over
    when they are used up; `true_mean` and `fresh` come from the seeds to judge by. `true_mean` is a mean
    of few runs: the best of many such means is above the best true mean, so regret is overstated, by
    the same amount for every search.
    """

    half, kind = HALF, "recorded"

    def __init__(self, path: Path, student: Any, split: int) -> None:
        found = table(path)
        self.name = f"{found.name}-{student}-split-{split}"
        self.kind = f"{found.name}-{student}"
        self._scores = found.scores
        self.sizes = found.sizes[: found.sizes.index(student) + 1]
        own = [arm for arm in found.scores if arm.path[-1] == student]
        taught = [arm for arm in own if arm.recipe != SCRATCH]
        self.recipes = tuple(dict.fromkeys(arm.recipe for arm in taught))
        self.fractions = tuple(sorted({arm.fraction for arm in taught}))
        self.cost = {
            size: round(found.seconds[size] / found.seconds[student], 3) for size in self.sizes[1:]
        }
        self._split(split)
        teacher = self._scores[Arm(self.sizes[:1], SCRATCH)]
        self.teacher_score = float(np.mean(list(teacher.values())))
        self.unit = found.unit
        self._check()
        self.noise = self._noise()

    def _split(self, split: int) -> None:
        """Half of the seeds to choose on, half to judge by."""
        seeds = sorted(set.union(*(set(runs) for runs in self._scores.values())))
        mixed = np.random.default_rng([2026, split]).permutation(seeds).tolist()
        self.chosen_on, self.judged_by = tuple(mixed[::2]), tuple(mixed[1::2])

    def _noise(self) -> float:
        """Median standard deviation of an arm over seeds, in points."""
        arms = arms_of(self.sizes, self.recipes, self.fractions)
        spread = [np.std(list(self._scores[arm].values()), ddof=1) for arm in arms]
        return float(np.median(spread)) / self.unit

    def _check(self) -> None:
        missing = [
            arm
            for arm in arms_of(self.sizes, self.recipes, self.fractions)
            if not set(self._scores.get(arm, {})) >= {*self.chosen_on, *self.judged_by}
        ]
        if missing:
            raise ValueError(f"Expected every seed of every arm but {missing[0]} lacks some")

    def true_mean(self, path: Any, recipe: str, fraction: float = 1.0) -> float:
        return float(np.mean(self.fresh(Arm(tuple(path), recipe, fraction))))

    def draw(self, trial: Trial, stream: int = 0) -> float:
        order = np.random.default_rng([stream, 7]).permutation(len(self.chosen_on))
        seed = self.chosen_on[order[trial.seed % len(order)]]
        return self._scores[Arm(trial.path, trial.recipe, trial.fraction)][seed]

    def fresh(self, arm: Arm, stream: int = 0) -> list[float]:
        return [self._scores[arm][seed] for seed in self.judged_by]


@lru_cache(maxsize=16)
def recorded(path: Path, student: Any, split: int) -> Recorded:
    """That student of the table under that split."""
    return Recorded(path, student, split)


def students(folder: Path = DATA) -> list[tuple[Path, Any, int]]:
    """(file, student, split) of every table in a folder."""
    return [
        (path, student, split)
        for split in range(N_SPLITS)
        for path in sorted(folder.glob("*.jsonl"))
        for student in table(path).students()
    ]
