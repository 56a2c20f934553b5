"""A failing student on real digits: the study that `gapkit demo` runs.

Teacher and student are convolutional networks of widths 32 and 1 on scikit-learn's 8×8 digits:
800 samples to train on, 200 to decide on, 797 to report on. Neither model is given, so gapkit trains
the teacher on labels and distils the student with KL at temperature 4, which usually ends below the
same student trained from scratch.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset

import gapkit as gk

torch.set_num_threads(1)  # networks this small lose more by sharing work than they gain


def build(width: int) -> nn.Module:
    """Three 3×3 convolutions of width, 2·width and 2·width channels; 108 parameters at width 1."""

    def block(n_in: int, n_out: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(n_in, n_out, 3, stride, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU())

    layers = {
        "block1": block(1, width, 1),
        "block2": block(width, 2 * width, 2),
        "block3": block(2 * width, 2 * width, 2),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(2 * width, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def digits(seed: int = 0) -> gk.Data:
    """800 train, 200 validation, 797 test samples, stratified by class."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    targets = torch.tensor(labels)

    def subset(rows: np.ndarray) -> TensorDataset:
        return TensorDataset(images[rows], targets[rows])

    rows, test = train_test_split(
        np.arange(len(labels)), train_size=1000, stratify=labels, random_state=seed
    )
    train, validation = train_test_split(
        rows, train_size=800, stratify=labels[rows], random_state=seed
    )
    return gk.Data(train=subset(train), validation=subset(validation), test=subset(test))


def study(seed: int = 0, epochs: int = 60) -> gk.Study:
    """The digits study; other seeds give other splits, teachers and students."""
    return gk.Study(
        name="digits",
        task=gk.Classification(),
        teacher=None,
        student=None,
        data=digits(seed),
        family=gk.Family(build, sizes=[1, 3, 6, 12, 32], student=1, teacher=32),
        recipe=gk.Recipe(epochs=epochs, batch_size=100, lr=1e-2, knowledge="kl4"),
        seed=seed,
    )
