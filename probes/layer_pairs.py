"""Layer pairs: kernels, ranked distances and neighbors of all layers of two models, compared at once.

A layer becomes one (n, n) matrix over pairs of samples; two layers are compared by the inner product
of their matrices. What shuffled samples would give, and how much each sample moves the value, have
closed forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.hsic import RELATIVE_ZERO, u_centered
from gapkit.probes.pairwise import N_NEIGHBORS, apart, distance_ranks, median_distances, neighbors

COLUMNS = 64  # of neighbor matrices turned over at a time


@dataclass(frozen=True)
class LayerPairs:
    """One similarity for every pair of layers; nan where it is undefined.

    Attributes:
        values, errors, null_z: (T, S) similarity of teacher and student layers, its standard error,
            and its distance from the mean over shuffled samples in standard deviations of those.
        untrained: (T, S) the values with the untrained student; (T, 0) without one.
    """

    values: Tensor
    errors: Tensor
    null_z: Tensor
    untrained: Tensor


def compare_kernels(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    fresh: Sequence[Tensor],
    units: np.ndarray | None = None,
) -> LayerPairs:
    """`rbf_cka` (debiased) of all pairs of layers.

    A sample moves the value through its own pairs, and through the kernels' widths.

    Args:
        xs, ys, fresh: (n, d) centered features of teacher, student and untrained student.
        units: (n,) which samples depend on each other; for the standard errors.
    """
    pairs = _empty(xs, ys, fresh, torch.float64)
    n, t, s = len(pairs), len(xs), len(ys)
    slopes, width = pairs.new_zeros(n, t + s, n), pairs.new_zeros(n, t + s)
    for place, part in enumerate((*xs, *ys, *fresh)):
        relative = median_distances(part)
        pairs[:, place] = 0.0 if relative is None else u_centered(torch.exp(-relative / 2))
        if relative is not None and place < t + s:
            slopes[:, place] = torch.exp(-relative / 2) * relative / 2
            width[:, place] = _median_moved(relative)
    cross, own = _products(pairs, t), pairs.square().sum(2)
    own[:, own.sum(0) <= RELATIVE_ZERO * n**2] = 0.0
    totals = cross.sum(0), own.sum(0)
    by_x = (slopes[:, :t] @ pairs[:, t : t + s].mT).sum(0)
    by_y = (pairs[:, :t] @ slopes[:, t:].mT).sum(0)
    by_own = (slopes * pairs[:, : t + s]).sum((0, 2))
    moved = 2 * cross[:, :, :s] + width[:, :t, None] * by_x + width[:, None, t:] * by_y
    values, influence = _ratio(totals, (moved, 2 * (own[:, : t + s] + width * by_own)), t, s)
    return _compared(values, influence, (totals[0], _shuffled_sd(pairs, t)), s, units)


def compare_ranks(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    fresh: Sequence[Tensor],
    units: np.ndarray | None = None,
) -> LayerPairs:
    """`rsa` of all pairs of layers over pairs of samples of different units; arguments as above.

    A sample moves the value through its own distances and through the ranks of all others.
    """
    pairs = _empty(xs, ys, fresh, torch.float64)
    places = []
    for index, part in enumerate((*xs, *ys, *fresh)):
        ranks = distance_ranks(part, units)
        pairs[:, index] = torch.from_numpy(ranks.centered)
        places.append(ranks.place)
    counted = apart(len(pairs), units)
    cross, own = _products(pairs, len(xs)), pairs.square().sum(2)
    totals = cross.sum(0), own.sum(0)
    null = totals[0], _shuffled_sd(pairs, len(xs))
    through = _through_ranks(pairs, places, counted)
    for x in range(len(xs)):
        for y in range(len(ys)):
            cross[:, x, y] += through(x, len(xs) + y) + through(len(xs) + y, x)
    for layer in range(len(xs) + len(ys)):
        own[:, layer] += 2 * through(layer, layer)
    share = torch.from_numpy(counted.sum(1) / max(1, counted.sum()))
    cross -= share[:, None, None] * cross.sum(0)
    own -= share[:, None] * own.sum(0)
    moved = 2 * cross[:, :, : len(ys)], 2 * own[:, : len(xs) + len(ys)]
    values, influence = _ratio(totals, moved, len(xs), len(ys))
    return _compared(values, influence, null, len(ys), units)


def compare_neighbors(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    fresh: Sequence[Tensor],
    units: np.ndarray | None = None,
    k: int = N_NEIGHBORS,
) -> LayerPairs:
    """`mutual_knn` of all pairs of layers, neighbors being of another unit; arguments as above.

    A sample moves the value by its own neighbors, and as a neighbor of others: what is shared there,
    less what the places that it takes would share. Counting each pair of samples from both
    ends makes the standard error up to 1.5 times too large, most where the overlap is by chance.
    """
    pairs = _empty(xs, ys, fresh, torch.float32)
    n, t, s = len(pairs), len(xs), len(ys)
    last = torch.empty(n, pairs.shape[1], dtype=torch.int64)
    for place, part in enumerate((*xs, *ys, *fresh)):
        pairs[:, place], last[:, place] = neighbors(part, k, units)
    shared = _products(pairs, t).double()
    values = shared.sum(0) / (n * k)
    taken = pairs.sum(0).double().T
    at_last = torch.stack([pairs[torch.arange(n), :, at].mean(0) for at in last.T]).double()
    as_neighbor = torch.cat(
        [
            _products(pairs[:, :, at : at + COLUMNS].permute(2, 1, 0).contiguous(), t)
            for at in range(0, n, COLUMNS)
        ]
    ).double()
    lost = taken[:, :t, None] * at_last[:t, t:] + taken[:, None, t:] * at_last[t:, :t].T
    lost -= as_neighbor * (last[:, :t, None] == last[:, None, t:]).double().mean(0)
    influence = (shared + as_neighbor - lost)[:, :, :s] / (n * k)
    chance = k / (n - 1)
    null = shared.sum(0) - n * k * chance, _shuffled_sd(pairs, t, chance)
    return _compared(values, influence, null, s, units)


def standard_error(influence: Tensor, units: np.ndarray | None = None) -> Tensor:
    """Standard error (...) of a value from how much each sample moves it (n, ...).

    √(G/(G-1) Σ_g (h_g - mean)²), h_g the sum over a unit g of samples that depend on each other: the
    infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6).

    >>> x = torch.tensor([1.0, 2.0, 3.0, 6.0])
    >>> torch.allclose(standard_error(x / 4), x.std() / 2)
    True
    """
    if units is not None:
        codes = np.unique(units, return_inverse=True)[1]
        sums = influence.new_zeros(int(codes.max()) + 1, *influence.shape[1:])
        influence = sums.index_add_(0, torch.from_numpy(codes), influence)
    count = len(influence)
    if count < 2:
        return torch.full_like(influence[0], torch.nan)
    moved = influence - influence.mean(0)
    return (moved.square().sum(0) * count / (count - 1)).sqrt()


def _empty(
    xs: Sequence[Tensor], ys: Sequence[Tensor], fresh: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """(n, layers, n) room for the matrices of all layers, rows of one sample side by side."""
    n = len(xs[0])
    return torch.empty(n, len(xs) + len(ys) + len(fresh), n, dtype=dtype)


def _products(pairs: Tensor, t: int) -> Tensor:
    """(n, T, S) inner products of the rows of every teacher and every other layer."""
    return pairs[:, :t] @ pairs[:, t:].mT


def _ratio(
    totals: tuple[Tensor, Tensor], moved: tuple[Tensor, Tensor], t: int, s: int
) -> tuple[Tensor, Tensor]:
    """(T, S) cross / √(own · own), and (n, T, s) how much each sample moves the first s columns.

    Args:
        totals: (T, S) cross and (L,) own products of the layers.
        moved: (n, T, s) and (n, T + s) how much each sample moves them.
    """
    scale = (totals[1][:t, None] * totals[1][t:]).sqrt()
    scale = torch.where(scale > 0, scale, torch.nan)
    values = totals[0] / scale
    relative = moved[1] / totals[1][: t + s]
    change = relative[:, :t, None] + relative[:, None, t:]
    return values, moved[0] / scale[:, :s] - values[:, :s] / 2 * change


def _compared(
    values: Tensor,
    influence: Tensor,
    null: tuple[Tensor, Tensor],
    s: int,
    units: np.ndarray | None,
) -> LayerPairs:
    """Values of student and untrained student apart; no null where samples depend on each other."""
    z = torch.where(null[1] > 0, null[0] / null[1], torch.nan)[:, :s]
    return LayerPairs(
        values=values[:, :s],
        errors=standard_error(influence, units),
        null_z=z if units is None else torch.full_like(z, torch.nan),
        untrained=values[:, s:],
    )


def _median_moved(relative: Tensor) -> Tensor:
    """(n,) relative change of the median of all pairs as each sample counts more; it is 1 here.

    The share of a sample's pairs below the median, over the density there (pairs of rank .4 to .6).
    """
    n = len(relative)
    upper = torch.triu_indices(n, n, 1)
    low, high = np.quantile(relative[upper[0], upper[1]].numpy(), [0.4, 0.6])
    below = ((relative <= 1).sum(1) - 1) / (n - 1)
    return 2 / n * (0.5 - below) * (high - low) / 0.2


def _through_ranks(
    pairs: Tensor, places: Sequence[np.ndarray], counted: np.ndarray
) -> Callable[[int, int], Tensor]:
    """(of, against) -> (n,): how each sample moves their product by moving the ranks of `of`.

    Doubling a sample raises the rank of every distance above its own: by the mean of `against` over
    the pairs that are farther apart in `of` than the sample's, summed over the sample's pairs.
    """
    ranks = pairs.permute(1, 0, 2).numpy()
    n_pairs = max(1, counted.sum())

    def moved(of: int, against: int) -> Tensor:
        at = np.bincount(places[of].ravel(), ranks[against].ravel()) / n_pairs
        above = at.sum() - np.cumsum(at) + at / 2
        return torch.from_numpy(np.where(counted, above[places[of]], 0.0).sum(1))

    return moved


def _shuffled_sd(pairs: Tensor, t: int, mean: float = 0.0) -> Tensor:
    """(T, S) standard deviation, over shuffles of one side's samples, of Σ_ij A_ij B_ij.

    Exact for matrices of any shape whose entries off the diagonal have the given mean (quadratic
    assignment: Mantel 1967; Hubert & Schultz 1976, 10.1111/j.2044-8317.1976.tb00714.x).
    """
    n = len(pairs)
    sums = torch.stack([_entry_sums(pairs[:, layer], mean) for layer in range(pairs.shape[1])], 1)
    same, back, rows, columns, chains = sums[:, :t, None] * sums[:, None, t:]
    left = -(sums * torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0])[:, None]).sum(0)
    disjoint = left[:t, None] * left[t:]
    two = (same + back) / (n * (n - 1))
    three = (rows + columns + 2 * chains) / (n * (n - 1) * (n - 2))
    return (two + three + disjoint / (n * (n - 1) * (n - 2) * (n - 3))).sqrt()


def _entry_sums(matrix: Tensor, mean: float) -> Tensor:
    """(5,) sums of products of two entries: the same, mirrored, of one row, one column, a chain."""
    moved = (matrix.double() - mean).fill_diagonal_(0)
    rows, columns = moved.sum(1), moved.sum(0)
    same, back = moved.square().sum(), (moved * moved.T).sum()
    return torch.stack(
        [same, back, rows @ rows - same, columns @ columns - same, rows @ columns - back]
    )
