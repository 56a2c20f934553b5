"""A plan of many kinds of stages, and a process that is killed again and again while it carries it out."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

import gapkit as gk
from gapkit import distiller
from gapkit.knowledge import response
from gapkit.plans import Cost, Predicted
from gapkit.training.engine import make_fabric
from tests.tiny_study import blobs, tiny

LABEL = gk.Knowledge(kind="label", weight=0.5)
HINT = gk.Knowledge(kind="feature", loss="hint", layers=(("0", "0"),), weight_end=0.0)
KL = response("kl", 2.0)
ANNEALED = (KL[0].with_(temperature=4.0, temperature_end=1.0), KL[1])
N_KILLS = 25


def stages(epochs: int = 60) -> tuple[gk.Stage, ...]:
    """Hints first and then response, with easy samples first; peers; exits; a chain learned from densely."""
    recipe = {"epochs": epochs}
    return (
        gk.Stage(
            name="assistant",
            size=4,
            sources=("teacher",),
            recipe=recipe,
            phases=(
                gk.Phase(knowledge=(HINT, LABEL), until=0.4, easiest=0.3, easiest_end=1.0),
                gk.Phase(knowledge=ANNEALED, balance="gradient"),
            ),
            seeds=(0, 1),
        ),
        gk.Stage(
            name="peers",
            size=2,
            scheme="online",
            peers=(2, 4),
            recipe=recipe,
            phases=(gk.Phase(knowledge=KL),),
        ),
        gk.Stage(
            name="exits",
            size=2,
            scheme="self",
            exits=("0",),
            recipe=recipe,
            phases=(gk.Phase(knowledge=KL),),
        ),
        gk.Stage(
            name="student",
            size=2,
            sources=("teacher", "assistant"),
            scheme="dense",
            init="inherit",
            recipe=recipe,
            phases=(gk.Phase(knowledge=KL),),
            seeds=(0, 1),
        ),
    )


def plan(study: str = "tiny", epochs: int = 60) -> gk.Plan:
    """Those stages, with nothing forecast."""
    nothing = Predicted(low=0, value=0, high=0)
    return gk.Plan(
        study=study, stages=stages(epochs), predicted=nothing, predicted_run=nothing, cost=Cost()
    )


def shaken(batch: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Points moved at random."""
    return batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]


def carry_out(folder: Path, augmented: bool, measure_only: bool = False) -> gk.Outcome | None:
    """The plan, in that folder; augmented data ask the teacher at every batch and draw at random.

    What stands between trainings is measured once: kills shall meet trainings.
    """
    torch.set_num_threads(1)
    distiller.SAVE_SECONDS, distiller.CHECK_STEPS = 0.05, 2
    data = gk.Data(
        train=TensorDataset(*blobs(120, 1)),
        test=TensorDataset(*blobs(120, 2)),
        augment=shaken if augmented else None,
    )
    study = tiny(data=data, out=folder, recipe=gk.Recipe(epochs=2, batch_size=16, lr=0.05))
    with study.run.locked():
        before = study.measure()
        if measure_only:
            return None
        study._survey = lambda model, name: before  # type: ignore[method-assign]
        return study.distill(plan())


def killed_often(folder: Path, augmented: bool) -> None:
    """Carry the plan out in processes that are killed at random moments; says in which training."""
    make_fabric("cpu", "32-true")  # imports what takes seconds, once for all processes
    in_a_process(folder, augmented, measure_only=True)
    rng = random.Random(int(augmented))
    for _ in range(N_KILLS):
        child = started(folder, augmented)
        time.sleep(0.4 + 1.4 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        half = [path.parent.name for path in folder.glob("trainings/*/checkpoint-*.pt")]
        print("killed", *sorted(set(half)), flush=True)
    in_a_process(folder, augmented)


def started(folder: Path, augmented: bool, measure_only: bool = False) -> int:
    """A process of its own, with everything imported already."""
    child = os.fork()
    if not child:
        carry_out(folder, augmented, measure_only)
        os._exit(0)
    return child


def in_a_process(folder: Path, augmented: bool, measure_only: bool = False) -> None:
    """The same, waited for."""
    os.waitpid(started(folder, augmented, measure_only), 0)


if __name__ == "__main__":
    killed_often(Path(sys.argv[1]), sys.argv[2] == "augmented")
