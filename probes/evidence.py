"""Evidence: attributions of two models laid over each other, and how alike they are sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.question import Question, Unattributable

FEWEST_CELLS = 3
SHIFTS = 4


def side_by_side(
    asked: Mapping[str, Question], maps: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """How much every cell speaks for the answer, teacher and student; tokens that do not count are nan.

    Raises:
        Unattributable: as `overlaid` does, or when the models do not read the same tokens.
    """
    teacher, student = asked["teacher"], asked["student"]
    if teacher.ids is None and student.ids is None:
        return overlaid(maps["teacher"], maps["student"])
    if teacher.ids is None or student.ids is None or not torch.equal(teacher.ids, student.ids):
        raise Unattributable("teacher and student do not read the same tokens")
    weights = []
    for role, ask in asked.items():
        weight = maps[role].sum(-1)
        weights.append(weight if ask.counts is None else weight.where(ask.counts, torch.nan))
    return weights[0], weights[1]


def overlaid(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Attributions of both models cell by cell: of like shape, maps averaged to the smaller of both grids.

    Signs stay: for and against. Channels of maps (n, c, h, w) are summed; so are those of sequences
    (n, c, t) of unequal length. Other inputs must be of one shape and are compared value by value.

    Raises:
        Unattributable: when the two cannot be laid over each other.

    >>> wide, narrow = overlaid(torch.ones(1, 3, 8, 8), torch.ones(1, 1, 4, 8))
    >>> wide.shape, narrow.shape
    (torch.Size([1, 4, 8]), torch.Size([1, 4, 8]))
    """
    shapes = teacher.shape, student.shape
    maps = teacher.ndim in (4, 5) and student.ndim == teacher.ndim
    waves = teacher.ndim == student.ndim == 3 and teacher.shape[1] == student.shape[1]
    if maps or (waves and shapes[0] != shapes[1]):
        size = [min(pair) for pair in zip(teacher.shape[2:], student.shape[2:])]
        return _pooled(teacher.sum(1), size), _pooled(student.sum(1), size)
    if shapes[0] == shapes[1]:
        return teacher, student
    raise Unattributable(
        "inputs of different kinds cannot be laid over each other: "
        f"teacher {tuple(shapes[0][1:])}, student {tuple(shapes[1][1:])}"
    )


def _pooled(maps: Tensor, size: list[int]) -> Tensor:
    pools: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    return pools[len(size) - 1](maps[:, None], size)[:, 0]


def same_evidence(teacher: Tensor, student: Tensor) -> np.ndarray:
    """Whether two models weigh a sample's evidence alike: Spearman correlation (n,) over its cells.

    Args:
        teacher, student: (n, ...) how much each cell speaks for the answer, as `overlaid` gives it;
            nan cells are left out.

    Returns:
        In [-1, 1], 1 for equal maps up to any rising function, about 0 for an untrained student; nan
        where a map is constant or has fewer than 3 cells. Of absolute values it would mislead:
        Integrated Gradients multiply by input minus baseline, which both models share, so that
        trained and untrained students reach 0.8 alike on 8×8 digits, where signs tell .69 (a twin
        of the teacher), .51, .21 and .02 apart.

    >>> same_evidence(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.0, 1.0, 7.0]]))
    array([1.])
    """
    if teacher.shape != student.shape:
        raise InputError(
            f"Expected maps of one shape but got {tuple(teacher.shape)} and {tuple(student.shape)}"
        )
    sides = (part.detach().cpu().double().flatten(1).numpy() for part in (teacher, student))
    return np.array([_spearman(t, s) for t, s in zip(*sides)])


def _spearman(t: np.ndarray, s: np.ndarray) -> float:
    known = np.isfinite(t) & np.isfinite(s)
    t, s = t[known], s[known]
    if len(t) < FEWEST_CELLS or np.ptp(t) == 0 or np.ptp(s) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(t), stats.rankdata(s))[0, 1])


def shuffled_evidence(teacher: Tensor, student: Tensor, seed: int = 0) -> np.ndarray:
    """(n,) `same_evidence` of a sample's student map with the teacher's maps of four other samples."""
    n = len(teacher)
    order = np.random.default_rng(seed).permutation(n)
    found = []
    for shift in range(1, min(SHIFTS, n - 1) + 1):
        other = np.empty(n, dtype=int)
        other[order] = np.roll(order, shift)
        found.append(same_evidence(teacher[torch.from_numpy(other)], student))
    return np.mean(found, axis=0) if found else np.full(n, np.nan)
