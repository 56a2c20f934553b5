"""Rotations: how well one layer can be turned onto another (Procrustes), and onto every layer of a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.hsic import MIN_BLOCK, group_buckets, jackknife_error
from gapkit.probes.moments import Layers
from gapkit.probes.similarity import Features, centered, centered_pair

N_BLOCKS = 20
FEWEST_SAMPLES = 1000
PROCRUSTES_WORK = 2e10
JACKKNIFE_WORK = 5e9


def procrustes(x: Features, y: Features) -> float:
    """How well one representation can be rotated onto the other: 1 when a rotation and scale does it.

    ‖XᵀY‖_* / (‖X‖·‖Y‖) of centred features (nuclear norm; Schönemann 1966; Williams 2021,
    2110.14739): the cosine of the angle left after the best rotation. Unlike CKA it weighs
    directions by standard deviation, not variance. It has no bias correction: unrelated features
    of p and q columns give roughly √(pq/n) when that is small, and more the wider they are.

    Returns:
        The similarity in [0, 1]; nan when one side is the same for all samples.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(procrustes(x, 2 * x.flip(1) + 5), 6)
    1.0
    """
    a, b, _ = centered_pair(x, y)
    if a is None or b is None:
        return math.nan
    return min(1.0, (_nuclear(_slim(a).T @ _slim(b)) / (a.norm() * b.norm())).item())


def procrustes_map(
    xs: Layers, ys: Layers, blocks: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """(T, S) `procrustes` of every pair of layers, and its jackknife standard error; nan where undefined.

    Args:
        blocks: positions of the samples to leave out together; without them there are no errors.
    """
    values = np.full((len(xs), len(ys)), np.nan)
    errors = values.copy()
    slim_x, slim_y = (
        [
            None if (moved := centered(part, name)[0]) is None else _slim(moved)
            for name, part in side.items()
        ]
        for side in (xs, ys)
    )
    for (row, x), (column, y) in itertools.product(enumerate(slim_x), enumerate(slim_y)):
        if x is not None and y is not None:
            values[row, column], errors[row, column] = _procrustes_cell(x, y, blocks)
    return values, errors


def procrustes_rows(xs: Layers, ys: Layers, seed: int) -> np.ndarray:
    """Positions of the samples that the work budget allows, in order: a seeded choice."""
    n = len(next(iter(xs.values())))
    wide_x, wide_y = (sum(part.shape[1] for part in side.values()) for side in (xs, ys))
    most = max(FEWEST_SAMPLES, int(PROCRUSTES_WORK / (wide_x * wide_y)))
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def leave_out_blocks(n: int, groups: np.ndarray | None, seed: int) -> list[np.ndarray]:
    """Positions of n samples in blocks: at random, or a declared group always as a whole."""
    if groups is not None:
        buckets = group_buckets(groups)
        return [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
    count = min(N_BLOCKS, n // MIN_BLOCK)
    order = np.random.default_rng(seed).permutation(n)
    return np.array_split(order, count) if count else []


def jackknife_fits(xs: Layers, ys: Layers, n_blocks: int) -> bool:
    """Whether leaving out each block of samples stays within the work budget."""
    widths = itertools.product(xs.values(), ys.values())
    pairs = [sorted((x.shape[1], y.shape[1])) for x, y in widths]
    return n_blocks * sum(low**2 * high for low, high in pairs) <= JACKKNIFE_WORK


def _procrustes_cell(x: Tensor, y: Tensor, blocks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Procrustes similarity of centred features and its jackknife standard error (nan: no blocks)."""
    cross, n = x.T @ y, len(x)
    value = min(1.0, (_nuclear(cross) / (x.norm() * y.norm())).item())
    if not len(blocks):
        return value, math.nan
    left, scale = [], []
    for rows in blocks:
        part_x, part_y, rest = x[rows], y[rows], n - len(rows)
        mean_x, mean_y = -part_x.sum(0) / rest, -part_y.sum(0) / rest
        left.append(cross - part_x.T @ part_y - rest * torch.outer(mean_x, mean_y))
        own = [
            total.square().sum() - part.square().sum() - rest * mean.square().sum()
            for total, part, mean in ((x, part_x, mean_x), (y, part_y, mean_y))
        ]
        scale.append((own[0] * own[1]).sqrt())
    return value, jackknife_error(_nuclear(torch.stack(left)) / torch.stack(scale)).item()


def _nuclear(cross: Tensor) -> Tensor:
    """Sum of the singular values of matrices (..., p, q)."""
    if min(cross.shape[-2:]) <= 64:
        return torch.linalg.svdvals(cross).sum(-1)
    if cross.shape[-2] > cross.shape[-1]:
        cross = cross.mT
    return torch.linalg.eigvalsh(cross @ cross.mT).clamp(min=0).sqrt().sum(-1)


def _slim(features: Tensor) -> Tensor:
    """Features rotated to at most n columns: no inner product changes."""
    if features.shape[1] <= len(features):
        return features
    return torch.linalg.qr(features.T, mode="r").R.T
