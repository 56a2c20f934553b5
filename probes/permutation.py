"""Whether CKA is larger than shuffled samples would give: permutation p for all layer pairs at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.hsic import own_hsic1, u_centered, unbiased
from gapkit.probes.moments import Layers
from gapkit.probes.similarity import centered

N_PERMUTATIONS = 199
MOST_SAMPLES = 1000
PERMUTATION_WORK = 2e10


@dataclass(frozen=True, kw_only=True)
class Permutations:
    """How often shuffled samples give a CKA as large as the real pairing does.

    Attributes:
        p_value: (T, S) share of permutations that reach each cell, the real order counted in.
        p_max: the same for the largest cell against each permutation's largest: corrected for
            having looked at all of them.
        maxima: (n_permutations,) each permutation's largest debiased CKA.
        n: samples used; n_permutations, seed: as run.
    """

    p_value: np.ndarray
    p_max: float
    maxima: np.ndarray
    n: int
    n_permutations: int
    seed: int


def permutation_p(
    features_x: Layers | Tensor,
    features_y: Layers | Tensor,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Permutations:
    """Permutation p of debiased CKA, one-sided, for every pair of layers and for the largest.

    The same permutation is applied to all layers of y, so that maxima are comparable (Westfall &
    Young 1993). Uses at most 1,000 samples, fewer for many layers (a seeded choice; see `n`).

    Args:
        features_x, features_y: layer -> (n, d) features of the same, independent samples, or one
            tensor each.

    >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    >>> permutation_p(x, x, n_permutations=19).p_max
    0.05
    """
    xs, ys = (
        [side] if isinstance(side, Tensor) else list(side.values())
        for side in (features_x, features_y)
    )
    if n_permutations < 1:
        raise InputError(f"Expected at least 1 permutation but got {n_permutations}")
    if len({len(part) for part in (*xs, *ys)}) != 1:
        raise InputError("Expected the same samples in x and y but their numbers differ")
    rng = np.random.default_rng(seed)
    n, by_features = _permutation_size(xs, ys, n_permutations)
    rows = np.sort(rng.permutation(len(xs[0]))[:n])
    kept_x, kept_y = ([_varying(part[rows]) for part in side] for side in (xs, ys))
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(n_permutations))])
    compute = _permuted_features if by_features else _permuted_grams
    null = compute(kept_x, kept_y, orders) if n >= 4 else np.full((1, len(xs), len(ys)), np.nan)
    real, shuffled = null[0], null[1:]
    if not np.isfinite(real).any():
        return Permutations(
            p_value=real, p_max=math.nan, maxima=real[:0], n=n, n_permutations=0, seed=seed
        )
    maxima = np.nanmax(shuffled, axis=(1, 2))
    p_value = (1 + (shuffled >= real).sum(0)) / (1 + n_permutations)
    return Permutations(
        p_value=np.where(np.isnan(real), np.nan, p_value),
        p_max=float((1 + (maxima >= np.nanmax(real)).sum()) / (1 + n_permutations)),
        maxima=maxima,
        n=n,
        n_permutations=n_permutations,
        seed=seed,
    )


def _permutation_size(xs: list[Tensor], ys: list[Tensor], count: int) -> tuple[int, bool]:
    """Samples to permute, and whether features are less work than Gram matrices."""
    n = min(len(xs[0]), MOST_SAMPLES)
    wide_x, wide_y = (sum(part.shape[1] for part in side) for side in (xs, ys))
    per_pair = len(ys) * (len(xs) + 8)
    if wide_x * wide_y <= n * per_pair / 2:
        return n, True
    return min(n, max(100, int(math.sqrt(PERMUTATION_WORK / (count * per_pair))))), False


def _varying(features: Tensor) -> Tensor:
    """Centred features; zeros when they are the same for all samples."""
    moved, _ = centered(features, "features")
    return torch.zeros_like(features, dtype=torch.float64) if moved is None else moved


def _scaled(cross: list[Tensor], xs: list[Tensor], ys: list[Tensor]) -> np.ndarray:
    """(P, T, S) debiased CKA from n(n-3)·HSIC1 of every pair; nan where a self term is 0."""
    own_x, own_y = (
        torch.tensor([own_hsic1(part) for part in side], dtype=torch.float64) for side in (xs, ys)
    )
    scale = (own_x[:, None] * own_y).sqrt()
    return torch.where(scale > 0, torch.stack(cross).double() / scale, torch.nan).numpy()


def _permuted_features(xs: list[Tensor], ys: list[Tensor], orders: np.ndarray) -> np.ndarray:
    """(P, T, S) debiased CKA with the samples of y in each of the orders, by ‖XᵀPY‖²."""
    n = len(xs[0])
    x, y = torch.cat(xs, 1), torch.cat(ys, 1)
    of_x, of_y = (
        torch.block_diag(*(part.new_ones(1, part.shape[1]) for part in side)) for side in (xs, ys)
    )
    k, l_ = (torch.stack([part.square().sum(1) for part in side]) for side in (xs, ys))
    sums = k.sum(1)[:, None], l_.sum(1)[None]
    cross = []
    for order in orders:
        inner = of_x @ (x.T @ y[order]).square() @ of_y.T
        cross.append(unbiased(inner, k @ l_[:, order].T, *sums, n))
    return _scaled(cross, xs, ys)


def _permuted_grams(xs: list[Tensor], ys: list[Tensor], orders: np.ndarray) -> np.ndarray:
    """(P, T, S) debiased CKA with the samples of y in each of the orders, by Gram matrices."""
    n = len(xs[0])
    upper = torch.triu_indices(n, n, 1)
    grams_x, grams_y = (
        torch.stack([u_centered(part @ part.T).float() for part in side]) for side in (xs, ys)
    )
    half_x, flat_y = grams_x[:, upper[0], upper[1]], grams_y.flatten(1)
    cross = []
    for order in torch.from_numpy(orders):
        index = order[upper[0]] * n + order[upper[1]]
        cross.append(2 * half_x @ flat_y[:, index].T)
    return _scaled(cross, xs, ys)
