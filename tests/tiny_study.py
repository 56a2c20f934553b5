"""A study that runs from start to end in seconds: three blobs of points, perceptrons of width 2, 4, 16.

It is a study file itself; `tiny(...)` makes variants of it, and `study_file(...)` files that hold one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk

N_CLASSES, N_FEATURES = 3, 4
HEAD = """from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk
from tests.tiny_study import blobs, build, tiny

"""


def build(width: int, n_classes: int = N_CLASSES) -> nn.Module:
    """A perceptron with one hidden layer of that width."""
    return nn.Sequential(nn.Linear(N_FEATURES, width), nn.ReLU(), nn.Linear(width, n_classes))


def blobs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n points around one center a class, and their classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % N_CLASSES
    centers = 1.5 * torch.eye(N_CLASSES, N_FEATURES)
    return centers[labels] + torch.randn(n, N_FEATURES, generator=draw), labels


def blob_data(n: int = 120) -> gk.Data:
    """n points to train on (a fifth of them carved for validation), as many to test on."""
    return gk.Data(train=TensorDataset(*blobs(n, 1)), test=TensorDataset(*blobs(n, 2)))


def tiny(**changes: Any) -> gk.Study:
    """The tiny study, with some arguments of Study changed; teacher and student are trained here."""
    arguments = {
        "name": "tiny",
        "task": gk.Classification(),
        "data": blob_data(),
        "family": gk.Family(build, sizes=[2, 4, 16], student=2, teacher=16),
        "recipe": gk.Recipe(epochs=2, batch_size=16, lr=0.05),
        "device": "cpu",
    }
    return gk.Study(**(arguments | changes))


def study_file(folder: Path, body: str, name: str = "mine.py") -> Path:
    """A study file with what it needs imported and that body."""
    path = folder / name
    path.write_text(HEAD + body, encoding="utf-8")
    return path


def study() -> gk.Study:
    """The tiny study as it is."""
    return tiny()
