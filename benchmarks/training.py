"""Training: a step of the distiller beside a hand-written PyTorch loop, and an epoch from kept answers.

Steps: teacher forward included (an augmentation that changes nothing makes both ask the teacher at every
batch), KL at temperature 4 and labels, AdamW, one-cycle; convolutional networks on random images
(float32, one thread). Epochs: the student taught by KL from the teacher's kept answers, beside the same
student trained on labels alone, both by the distiller. Ways take turns, epoch by epoch, and the ratios
are medians over the turns. CPU time of the process. Run it alone: `python benchmarks/training.py`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gapkit.data import Data
from gapkit.distiller import Loop
from gapkit.knowledge import knowledge_named
from gapkit.plans import Phase, Stage
from gapkit.recipe import Recipe
from gapkit.task import Classification
from gapkit.training.answers import OUTPUTS, Memory, Source, predict
from gapkit.training.job import Job

N, TURNS = 960, 9
CASES = {"10 ms": (8, 12, 32), "50 ms": (32, 48, 64)}  # student's and teacher's channels, batch
TASK = Classification()


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One comparison: milliseconds of a step both ways, their ratio, and what it may be at most."""

    name: str
    plain: float
    ours: float
    ratio: float
    bar: float


def network(channels: int) -> nn.Module:
    """Four convolutions with BatchNorm, pooled, for 10 classes."""
    layers: list[nn.Module] = []
    widths = (3, channels, channels, 2 * channels, 2 * channels)
    for place, (n_in, n_out) in enumerate(pairwise(widths)):
        stride = 2 if place == 2 else 1
        layers += [
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, 10)
    )


def images() -> TensorDataset:
    """Random images and labels."""
    draw = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(N, 3, 24, 24, generator=draw), torch.randint(10, (N,), generator=draw)
    )


def by_hand(
    student: nn.Module, teacher: nn.Module, data: TensorDataset, batch: int
) -> Callable[[], None]:
    """One epoch of a plain loop."""
    epochs = TURNS + 1
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=epochs * (N // batch)
    )
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    teacher.eval()

    def epoch() -> None:
        student.train()
        for x, y in loader:
            with torch.no_grad():
                wanted = teacher(x)
            logits = student(x)
            soft = F.kl_div(
                F.log_softmax(logits / 4, 1),
                F.log_softmax(wanted / 4, 1),
                reduction="batchmean",
                log_target=True,
            )
            loss = 0.9 * 16 * soft + 0.1 * F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    return epoch


def by_gapkit(
    student: nn.Module, teacher: nn.Module, data: Data, batch: int, knowledge: str, kept: bool
) -> Callable[[], None]:
    """One epoch of the distiller after another."""
    source = Source("teacher", (0,), teacher, "teacher")
    taught = knowledge != "scratch"
    phases = (Phase(knowledge=knowledge_named(knowledge)),)
    stage = Stage(name="student", size=1, sources=("teacher",) if taught else (), phases=phases)
    recipe = Recipe(epochs=TURNS + 1, batch_size=batch, lr=1e-3)
    tables = (Memory({OUTPUTS: predict(teacher, data, "train", TASK)}) if kept else None,)
    folder = Path(tempfile.mkdtemp())
    job = Job(
        student, stage, recipe, 0, (source,) if taught else (), tables if taught else (), folder
    )
    loop = Loop(job, TASK, data, "cpu")
    teacher.eval()

    def epoch() -> None:
        loop.learner.train()
        for _ in loop.steps(loop.next_epoch):
            pass
        loop._check(loop.next_epoch)
        loop.next_epoch += 1

    return epoch


def in_turns(ways: list[Callable[[], None]]) -> list[list[float]]:
    """CPU seconds of every way's epochs, the first of which warms up and is not counted."""
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(TURNS + 1):
        for way, found in zip(ways, seconds):
            start = time.process_time()
            way()
            if turn:
                found.append(time.process_time() - start)
    return seconds


def rows() -> list[TrainingRow]:
    """All comparisons."""
    torch.set_num_threads(1)
    found = []
    for name, (width, wide, batch) in CASES.items():
        raw = images()
        live = Data(train=raw, validation=raw, test=raw, augment=lambda batch: batch)
        teacher = network(wide)
        ways = [
            by_hand(network(width), teacher, raw, batch),
            by_gapkit(network(width), teacher, live, batch, "kl4", kept=False),
        ]
        bar = 1.08 if name.startswith("10") else 1.03
        found.append(
            _row(f"a step of about {name}, teacher asked", *in_turns(ways), bar, N // batch)
        )
        data = Data(train=raw, validation=raw, test=raw)
        ways = [
            by_gapkit(network(width), teacher, data, batch, "scratch", kept=False),
            by_gapkit(network(width), teacher, data, batch, "kl4", kept=True),
        ]
        found.append(
            _row(
                f"a step of the {name} student, answers kept, beside labels alone",
                *in_turns(ways),
                1.15,
                N // batch,
            )
        )
    return found


def _row(name: str, plain: list[float], ours: list[float], bar: float, steps: int) -> TrainingRow:
    ratio = median(b / a for a, b in zip(plain, ours))
    return TrainingRow(
        name=name,
        plain=1000 * median(plain) / steps,
        ours=1000 * median(ours) / steps,
        ratio=ratio,
        bar=bar,
    )


def table(found: list[TrainingRow]) -> str:
    """The rows as Markdown."""
    lines = ["| what | beside, ms | gapkit, ms | ratio | bar |", "|---|---|---|---|---|"]
    for row in found:
        lines.append(
            f"| {row.name} | {row.plain:.1f} | {row.ours:.1f} | {row.ratio:.3f} | {row.bar} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(rows()))
