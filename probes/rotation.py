"""Rotations: how well one layer can be turned onto another (Procrustes), and onto every layer of a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.layer_pairs import LayerPairs, standard_error
from gapkit.probes.similarity import Features, centered_pair

SVD = 18.0  # of a (p, q) matrix, in units of min(p, q)² max(p, q) multiplications


def procrustes(x: Features, y: Features) -> float:
    """How well one representation can be rotated onto the other: 1 when a rotation and scale does it.

    ‖XᵀY‖_* / (‖X‖·‖Y‖) of centered features (nuclear norm; Schönemann 1966; Williams 2021,
    2110.14739): the cosine of the angle left after the best rotation. Unlike CKA it weighs
    directions by standard deviation, not variance. It has no bias correction: unrelated features
    of p and q columns give roughly √(pq/n) when that is small, and near 1 when they are wider than
    n, so that it must be read beside the untrained student's.

    Args:
        x, y: (n, p) and (n, q) features of the same samples.

    Returns:
        The similarity in [0, 1], 1 for equal features; nan when one side is the same for all
        samples.

    Raises:
        InputError: as `cka`.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(procrustes(x, 2 * x.flip(1) + 5), 6)
    1.0
    """
    a, b, _ = centered_pair(x, y)
    return math.nan if a is None or b is None else _similarity(_slim(a), _slim(b)).item()


def compare_rotations(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    fresh: Sequence[Tensor],
    units: np.ndarray | None = None,
) -> LayerPairs:
    """`procrustes` of all pairs of layers; its null has no closed form.

    Args:
        xs, ys, fresh: (n, d) centered features of teacher, student and untrained student.
        units: (n,) which samples depend on each other; for the standard errors.
    """
    slim_x, slim_y, slim_fresh = ([_slim(part) for part in side] for side in (xs, ys, fresh))
    values = torch.empty(len(xs), len(ys), dtype=torch.float64)
    errors, untrained = values.clone(), values.new_empty(len(xs), len(fresh))
    for row, x in enumerate(slim_x):
        for column, y in enumerate(slim_y):
            values[row, column], influence = _moved(x, y)
            errors[row, column] = standard_error(influence, units)
        for column, y in enumerate(slim_fresh):
            untrained[row, column] = _similarity(x, y)
    return LayerPairs(
        values=values,
        errors=errors,
        null_z=torch.full_like(values, torch.nan),
        untrained=untrained,
    )


def rotation_work(x: Sequence[int], y: Sequence[int], fresh: Sequence[int], n: int) -> float:
    """Multiplications of `compare_rotations` for layers of these widths: products and decompositions.

    >>> rotation_work([8], [4], [], 100)
    11904.0
    """
    total = 0.0
    for p, q in itertools.product(x, (*y, *fresh)):
        low, high = sorted((min(p, n), min(q, n)))
        total += SVD * low**2 * high + 3 * n * low * high
    return total


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Procrustes similarity of centered features."""
    return (torch.linalg.svdvals(x.T @ y).sum() / (x.norm() * y.norm())).clamp(max=1.0)


def _moved(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Procrustes similarity of centered features, and (n,) how much each sample moves it.

    The nuclear norm changes by ⟨UVᵀ, dC⟩, where C = XᵀY = U diag(s) Vᵀ (Watson 1992).
    """
    u, s, v = torch.linalg.svd(x.T @ y, full_matrices=False)
    norm, k, l_ = s.sum(), x.square().sum(1), y.square().sum(1)
    value = norm / (k.sum() * l_.sum()).sqrt()
    turned = ((x @ u) * (y @ v.T)).sum(1)
    influence = value * (turned / norm - (k / k.sum() + l_ / l_.sum()) / 2)
    return value.clamp(max=1.0), influence


def _slim(features: Tensor) -> Tensor:
    """Features rotated to at most n columns: no inner product changes."""
    if features.shape[1] <= len(features):
        return features
    return torch.linalg.qr(features.T, mode="r").R.T
