"""Peak memory of `cka_map` and `measure` as the number of samples grows: it should not grow with it.

Images are made on the fly, item i from seed i, so that the data themselves take no memory. Every
figure is the peak resident set of a process of its own (VmHWM of Linux; ru_maxrss would carry over what
the parent process once held). Run it alone:
`python benchmarks/memory.py`; about a minute for 200,000 samples and `cka_map`, more for `measure`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZES = (2_000, 20_000, 200_000)
TASKS = ("cka_map", "measure")


@dataclass(frozen=True)
class Row:
    """Peak megabytes of one task over n samples."""

    task: str
    n: int
    megabytes: float


def work(task: str, n: int) -> None:
    """Do the task in this process."""
    import numpy as np
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    from gapkit.data import Data
    from gapkit.probes.layer_map import cka_map
    from gapkit.probes.survey import measure
    from gapkit.task import Classification

    class Images(Dataset[Any]):
        """n random images 3×8×8 of ten classes."""

        def __init__(self, n: int) -> None:
            self.n = n

        def __len__(self) -> int:
            return self.n

        def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
            if not 0 <= place < self.n:
                raise IndexError(place)
            rng = np.random.default_rng(place)
            return torch.from_numpy(rng.random((3, 8, 8), dtype=np.float32)), place % 10

    def net(width: int) -> nn.Module:
        torch.manual_seed(width)
        wide = 2 * width
        convs = [nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, wide, 3), nn.ReLU()]
        return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10))

    torch.set_num_threads(1)
    if task == "cka_map":
        cka_map(net(16), net(8), DataLoader(Images(n), batch_size=256))
        return
    few = Images(2_000)
    data = Data(train=few, validation=few, test=Images(n))
    measure(
        study="memory",
        task=Classification(),
        data=data,
        teacher=net(16),
        student=net(8),
        splits=("validation", "test"),
    )


def rows(sizes: tuple[int, ...] = SIZES, tasks: tuple[str, ...] = TASKS) -> list[Row]:
    """Each task over each number of samples, in a fresh process."""
    found = []
    for task in tasks:
        for n in sizes:
            command = [sys.executable, __file__, "--task", task, "--n", str(n)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(Row(task, n, float(done.stdout.split()[-1])))
    return found


def lines(found: list[Row]) -> list[str]:
    """A Markdown table, each task against its smallest number of samples."""
    out = ["| task | samples | peak MB | ÷ fewest samples |", "|---|---|---|---|"]
    for row in found:
        least = next(other.megabytes for other in found if other.task == row.task)
        ratio = row.megabytes / least
        out.append(f"| {row.task} | {row.n:,} | {row.megabytes:.0f} | {ratio:.2f} |")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--n", type=int)
    args = parser.parse_args()
    if args.n is None:
        print("\n".join(lines(rows(tasks=(args.task,) if args.task else TASKS))))
        return
    work(args.task, args.n)
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


if __name__ == "__main__":
    main()
