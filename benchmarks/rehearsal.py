"""What `--dry-run` says that the measuring pass will take, against what it takes."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.utils.data import Dataset

from gapkit.data import Data
from gapkit.probes.features import observe
from gapkit.probes.rehearsal import rehearse
from gapkit.probes.survey import taps_for
from gapkit.task import Classification

HEADS = ("study", "samples", "said", "took", "ratio")


class Noise(Dataset):
    """Images and labels that are made when asked for."""

    def __init__(self, n: int, side: int) -> None:
        self.n, self.side = n, side

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.randn(3, self.side, self.side, generator=torch.Generator().manual_seed(index))
        label = index % 5
        return image + 0.3 * label, label


def net(width: int) -> nn.Module:
    """Six convolutions and a head."""
    layers: list[nn.Module] = []
    channels = 3
    for step in range(6):
        layers += [nn.Conv2d(channels, width * (1 + step // 2), 3, 1 + (step % 2), 1), nn.ReLU()]
        channels = width * (1 + step // 2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def one(name: str, data: Data, teacher: nn.Module, student: nn.Module, fresh: nn.Module) -> tuple:
    """Said and taken seconds of one study."""
    task = Classification()
    models = {"teacher": teacher, "student": student, "untrained": fresh}
    said = rehearse(task=task, data=data, models=models).seconds
    splits = ("train", "validation", "test")
    taps, _ = taps_for(models, data, None, "gap", "train", 256, "cpu", 0)
    start = time.perf_counter()
    for split in splits:
        observe(split, data, task, models, taps)
    took = time.perf_counter() - start
    n = sum(map(data.size, splits))
    return (name, f"{n:,}", f"{said:.1f} s", f"{took:.1f} s", f"{said / took:.2f}")


def rows() -> list[tuple]:
    """Three studies of different size."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = []
    for name, n, side, width in (
        ("small", 600, 16, 8),
        ("many", 12_000, 12, 8),
        ("wide", 1500, 32, 64),
    ):
        data = Data(Noise(n, side), Noise(n // 3, side), Noise(n // 3, side))
        found.append(one(name, data, net(width), net(width // 4), net(width // 4)))
    return found


def table(found: list[tuple]) -> str:
    """The rows as Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADS, *found)]
    return "\n".join([lines[0], "|" + "---|" * len(HEADS), *lines[1:]])


if __name__ == "__main__":
    print(table(rows()))
