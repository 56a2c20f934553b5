"""Train every chain of a small family and write its scores down: `python benchmarks/planner/record.py waves`.

A table that searches can be judged on without training anything. Four worlds of the planted failures, as they are
before anything is planted: waves (regression), shells (both perceptrons), motif and majority (transformers). Scores
are on test, which no choice is made on while the table is made; lines that are there are not trained again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "planted"))
from worlds import WORLDS

import gapkit as gk
from gapkit.knowledge import MENUS
from gapkit.runs import Run
from gapkit.training.answers import predict
from gapkit.training.trainings import Trainings

TABLES = Path(__file__).resolve().parents[1] / "tables"
SIZES = {
    "waves": (64, 12, 3, 2),
    "motif": (32, 8, 5, 3),
    "shells": (64, 6, 3, 2),
    "majority": (32, 8, 4, 2),
}
RECIPES = {**dict.fromkeys(SIZES, ("kl4", "kl1", "dist1")), "waves": ("mse", "dist1")}
N_SEEDS = 8

Arm = tuple[tuple[int, ...], str]


def arms(name: str) -> Iterator[Arm]:
    """Every size from labels alone, then every path down the sizes under every recipe, prefixes first."""
    teacher, *smaller = SIZES[name]
    yield from (((size,), "scratch") for size in (teacher, *smaller))
    for recipe in RECIPES[name]:
        for n in range(1, len(smaller) + 1):
            yield from (((teacher, *part), recipe) for part in combinations(smaller, n))


def lines(name: str, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of one seed of teacher, first weights and order of batches; the data are the same for all."""
    world = WORLDS[name]
    splits = world.draw(0)
    sets = {part: getattr(splits, part) for part in ("train", "validation", "test")}
    data = gk.Data(**{part: TensorDataset(found.x, found.y) for part, found in sets.items()})
    family = gk.Family(
        world.build, sizes=sorted(SIZES[name]), student=SIZES[name][-1], teacher=SIZES[name][0]
    )
    run = Run(folder / f"{name}-{seed}")
    run.open({"study": name})
    trainings = Trainings(
        world.task, data, family, world.recipe, run, knowledge=MENUS[world.task.kind]
    )
    for path, recipe in arms(name):
        training = trainings.arm(path, recipe, seed)
        if path == SIZES[name][:1]:
            trainings.lend("teacher", trainings.model(training))
        outputs = predict(trainings.model(training), data, "test", world.task, "cpu")
        score = float(world.task.score(outputs, splits.test.y))
        yield {
            "task": name, "seed": seed, "path": list(path), "recipe": recipe, "score": round(score, 6),
            "sec": round(training.seconds, 4), "validation": round(training.score, 6),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(SIZES))
    name = parser.parse_args().name
    torch.set_num_threads(1)
    path = TABLES / f"{name}.jsonl"
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {json.loads(line)["seed"] for line in known}
    for seed in range(N_SEEDS):
        if seed in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = [json.dumps(line) + "\n" for line in lines(name, seed, Path(folder))]
        with path.open("a", encoding="utf-8") as out:
            out.writelines(found)
        print(f"{name}, seed {seed}: {len(found)} trainings", flush=True)


if __name__ == "__main__":
    main()
