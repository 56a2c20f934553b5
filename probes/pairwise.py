"""Pairs of samples: what one layer says of them, as kernel, ranked distances, or nearest neighbors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.hsic import RELATIVE_ZERO

N_NEIGHBORS = 10


def squared_distances(x: Tensor) -> Tensor:
    """(n, n) squared Euclidean distances of centered features, in units of their mean squared norm.

    Those of equal rows are exactly 0; otherwise rounding is relative to the norms of the two rows.
    """
    norms = x.square().sum(1)
    both = norms[:, None] + norms
    squared = (both - 2 * x @ x.T).fill_diagonal_(0)
    return torch.where(squared > RELATIVE_ZERO * both, squared, 0.0) / norms.mean()


def median_distances(x: Tensor) -> Tensor | None:
    """(n, n) squared distances over their median, all pairs of samples; None when that is 0."""
    squared = squared_distances(x)
    upper = torch.triu_indices(len(x), len(x), 1)
    median = squared[upper[0], upper[1]].median()
    return None if median == 0 else squared / median


@dataclass(frozen=True)
class Ranks:
    """Ranks of the distances of all pairs of samples that count.

    Attributes:
        place: (n, n) position of each distance among the different ones, 0 the smallest.
        centered: (n, n) mid-rank as a share of all pairs, minus the mean; 0 for pairs left out.
    """

    place: np.ndarray
    centered: np.ndarray


def distance_ranks(x: Tensor, units: np.ndarray | None = None) -> Ranks:
    """Ranks of Euclidean distances, equal to 7 digits counted as ties, of samples of different units."""
    counted = apart(len(x), units)
    squared = squared_distances(x).float().numpy()
    found = np.unique(squared[np.triu(counted)], return_inverse=True, return_counts=True)
    _, inverse, counts = found
    shares = (np.cumsum(counts) - (counts - 1) / 2) / max(1, len(inverse))
    place = np.zeros(squared.shape, dtype=np.intp)
    place[np.triu(counted)] = inverse
    place += place.T
    centered = np.zeros(squared.shape)
    if len(counts) > 1:
        centered = np.where(counted, (shares - counts @ shares / len(inverse))[place], 0.0)
    return Ranks(place=place, centered=centered)


def neighbors(x: Tensor, k: int, units: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """(n, n) weight of each sample among the k nearest of another unit, and (n,) which is the k-th.

    Weights of a row sum to k. Samples that tie for the last places share them: their weight is the
    chance to be drawn.
    """
    squared = squared_distances(x).float()
    squared[torch.from_numpy(~apart(len(x), units))] = torch.inf
    distance, index = squared.topk(k, largest=False)
    last = distance[:, -1:]
    closer, tied = (squared < last).float(), (squared == last).float()
    share = (k - closer.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    return closer + share * tied, index[:, -1]


def apart(n: int, units: np.ndarray | None) -> np.ndarray:
    """(n, n) whether two samples differ, and belong to different units when these are given."""
    units = np.arange(n) if units is None else units
    return units[:, None] != units
