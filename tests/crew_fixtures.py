"""Trainings that two processes carry out together; run as a script in each of them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from gapkit import distiller
from gapkit.data import Data
from gapkit.distiller import Loop
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.plans import Phase
from gapkit.task import Classification
from gapkit.training.crew import Crew
from gapkit.training.job import Job
from tests.training_fixtures import (
    make_job,
    noisy_net,
    plain,
    point_data,
    seeded_model,
    shaken,
)

STEPS = 20
LABEL = Knowledge(kind="label", weight=0.5)


def relation(loss: str) -> Knowledge:
    """A relation loss on the outputs."""
    return Knowledge(kind="relation", loss=loss)


CASES: dict[str, tuple[Knowledge, ...]] = {
    "labels": knowledge_named("scratch"),
    "kl": knowledge_named("kl4"),
    "hint": (Knowledge(kind="feature", loss="hint", layers=(("0", "0"),)), LABEL),
    "dist": knowledge_named("dist1"),
    "rkd": (relation("rkd_distance"), relation("rkd_angle"), LABEL),
    "sp": (relation("similarity_preserving"), relation("pkt"), LABEL),
    "cka": (Knowledge(kind="feature", loss="cka_loss", layers=(("0", "0"),)), LABEL),
}


class Speller(nn.Module):
    """Three tokens a sample, each answered on its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.view(len(x), 3, 2))


def token_data() -> Data:
    """Points of three tokens each, of which unequally many count."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(160, 6, generator=draw), torch.randint(3, (160, 3), generator=draw)
    y[torch.rand(160, 3, generator=draw) < torch.linspace(0.05, 0.8, 160)[:, None]] = -100
    y[:, 0] = y[:, 0].clamp(min=0)
    both = TensorDataset(x, y)
    return Data(train=both, validation=both, test=both)


def job(case: str, folder: Path, batch_size: int) -> tuple[Job, Data]:
    """Twenty steps in float64 on 160 samples, as one process takes them with a batch of 16."""
    settings = {"batch_size": batch_size, "epochs": 2, "precision": "64-true", "lr": 0.01}
    if case == "tokens":
        data, build = token_data(), Speller
        settings["teachers"] = [seeded_model(Speller, 16, 7).eval()]
    else:
        data, build = point_data(160), plain
    phases = (Phase(knowledge=CASES.get(case, CASES["kl"])),)
    if case == "accumulate":
        settings |= {"accumulate": 2, "batch_size": batch_size // 2}
    return make_job(folder, data, build=build, phases=phases, **settings), data


NAMES = (*CASES, "tokens", "accumulate")


def train(folder: Path, batch_size: int, crew: Crew | None = None) -> dict[str, dict]:
    """Case -> the weights that it ends with."""
    ends = {}
    for case in NAMES:
        made, data = job(case, folder / case, batch_size)
        Loop(made, Classification(), data, "cpu", crew).run()
        ends[case] = {name: w.clone() for name, w in made.model.state_dict().items()}
    return ends


def train_twice(folder: Path, crew: Crew) -> dict[str, dict]:
    """With dropout and augmentation: to the end, and again from a checkpoint within the last epoch."""
    distiller.SAVE_SECONDS, distiller.CHECK_STEPS = 0.0, 2
    data, ends = point_data(160, augment=shaken), {}
    for name in ("whole", "resumed"):
        made = make_job(folder / "resumed", data, build=noisy_net, batch_size=8, epochs=2)
        loop = Loop(made, Classification(), data, "cpu", crew)
        loop.run()
        ends[name] = {key: w.clone() for key, w in made.model.state_dict().items()}
        ends[name]["steps"] = torch.tensor(len(loop.log.rows))
        newest = max((folder / "resumed").glob("checkpoint-*.pt"))
        if crew.agree(crew.leads):  # waits until the first process is here
            newest.unlink(missing_ok=True)
    return ends


if __name__ == "__main__":
    from gapkit.training.engine import launch

    torch.set_num_threads(1)
    together = launch(2, "ddp", "cpu")
    found = train(Path(sys.argv[1]), 8, together)
    found |= train_twice(Path(sys.argv[1]), together)
    if together.leads:
        torch.save(found, Path(sys.argv[1]) / "together.pt")
