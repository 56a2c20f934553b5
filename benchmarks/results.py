"""Run the speed, memory and exactness benchmarks, and write their tables to RESULTS.md with date and versions.

Run it alone, on a machine that does nothing else: `python benchmarks/results.py`, about 25 minutes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datetime
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import flops
import linear
import memory
import rehearsal
import similarity
import training

PACKAGES = ("gapkit", "torch", "numpy", "scipy", "scikit-learn")

SECTIONS: dict[str, Callable[[], str]] = {
    "All-pairs CKA": lambda: "\n".join(similarity.lines(similarity.rows())),
    "Peak memory": lambda: "\n".join(memory.lines(memory.rows())),
    "Logistic probes over five penalties": lambda: linear.table(linear.rows()),
    "FLOPs": lambda: flops.table(flops.rows()),
    "What `--dry-run` says": lambda: rehearsal.table(rehearsal.rows()),
    "Training": lambda: training.table(training.rows()),
}
MODULES = (similarity, memory, linear, flops, rehearsal, training)


def report() -> str:
    """All tables, each under what its module says that it measures."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    parts = [
        "# Measured figures",
        f"{datetime.date.today().isoformat()}; Python {platform.python_version()}, {versions}; one thread, CPU.",
    ]
    for (heading, table), module in zip(SECTIONS.items(), MODULES):
        said = (module.__doc__ or "").partition("Run it alone")[0].strip()
        parts += [f"## {heading}", said, table()]
        print("\n\n".join(parts[-3:]), flush=True)
    return "\n\n".join(parts) + "\n"


def kept(path: Path) -> str:
    """What the file holds from the planted failures on, which are measured apart (`make planted`)."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    _, heading, rest = text.partition("## Planted failures")
    return f"\n{heading}{rest}" if heading else ""


if __name__ == "__main__":
    path = Path(__file__).with_name("RESULTS.md")
    path.write_text(report() + kept(path), encoding="utf-8")
