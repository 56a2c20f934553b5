"""Template: the study file that `gapkit init` writes, to be filled in; it runs as it is."""

from __future__ import annotations

STUDY = '''"""My study: fill in what is marked with <--, then run

    gapkit check {file}       one batch through everything: seconds
    gapkit run {file}         measure, diagnose, plan, distill, report
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk


def build(width: int) -> nn.Module:
    """A fresh, untrained model of that size; the teacher's architecture at every size you could ship."""
    return nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 4))  # <--


def samples(n: int, seed: int) -> TensorDataset:
    """Made-up points of four classes, so that this file runs as it is; put your own dataset here."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    return TensorDataset(torch.randn(n, 20, generator=draw) + 2 * torch.eye(4, 20)[labels], labels)


# Your trained models. None: gapkit trains the teacher on labels, and distills the first student itself.
teacher = None  # <-- for example: build(64), then teacher.load_state_dict(...)
student = None  # <--

study = gk.Study(
    name="{name}",
    task=gk.Classification(),  # <-- or gk.MultiLabel(), gk.Regression(), gk.Embedding()
    teacher=teacher,
    student=student,
    data=gk.Data(
        train=samples(800, seed=1),  # <-- map-style datasets of (input, target), or of dicts
        test=samples(400, seed=2),  # <-- only reported on; nothing is decided by it
        validation=None,  # None: a stratified fifth of train, which decides
        # teacher_input=lambda batch: batch[0],  # what each model is called with, where that differs
        # student_input=lambda batch: batch[0],
        # slices={{"length": lambda sample: ...}},  # groups that you care about: a function of a sample
    ),
    family=gk.Family(build, sizes=[2, 4, 16, 64], student=2, teacher=64),  # <--
    recipe=gk.Recipe(  # how you train
        epochs=20,  # <--
        batch_size=64,
        lr=1e-2,
        knowledge="kl4",  # what the student learned from: "kl4", "kl1", "dist1", "scratch", or your loss
    ),
    layers=None,  # None: chosen well; or names and globs: {{"teacher": ["block*"], "student": ["block*"]}}
    seed=0,
)
'''


def filled(name: str, file: str) -> str:
    """The study file for that name, which says how it itself is called.

    >>> compile(filled("mine", "mine.py"), "mine.py", "exec") is not None
    True
    """
    return STUDY.format(name=name, file=file)
