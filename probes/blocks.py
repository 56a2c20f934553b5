"""Blocks: HSIC1 of small sets of samples, from which the jackknife gets CKA's standard error."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gapkit.probes.hsic import MIN_BLOCK, group_buckets, hsic1_sums, jackknife_error

MANY_BLOCKS = 64
MOST_BLOCKS = 512


class Blocks:
    """HSIC1 sums of blocks of samples: all that a jackknife needs, three scalars a cell.

    Args:
        t: layers of the teacher, which come first.
        size: samples a block; None: about a tenth of a batch until there are many blocks, then
            whole batches. Blocks of fewer than 4 samples are skipped.
    """

    def __init__(self, t: int, size: int | None = None) -> None:
        self.t, self.size = t, size
        self.cross: list[Tensor] = []
        self.own: list[Tensor] = []
        self.places: dict[int, int] = {}  # bucket of groups -> its block

    def __len__(self) -> int:
        return len(self.cross)

    def add(self, grams: Tensor, groups: np.ndarray | None = None) -> None:
        """Add n samples by their Gram matrices (L, n, n); a group always goes to the same block."""
        if groups is None:
            self._add_runs(grams)
        else:
            self._add_buckets(grams, group_buckets(groups))
        self._join()

    def _add_runs(self, grams: Tensor) -> None:
        """Blocks of neighbours, of two sizes that differ by one."""
        n = grams.shape[-1]
        size = self.size or (max(MIN_BLOCK, n // 10) if len(self) < MANY_BLOCKS else n)
        count = max(1, n // size)
        small, n_large = divmod(n, count)
        start = 0
        for rows, blocks in ((small + 1, n_large), (small, count - n_large)):
            end = start + rows * blocks
            if blocks and rows >= 4:
                part = grams[:, start:end, start:end].reshape(-1, blocks, rows, blocks, rows)
                cross, own = hsic1_sums(part.diagonal(dim1=1, dim2=3).movedim(-1, 1), self.t)
                self.cross += cross.unbind()
                self.own += own.unbind()
            start = end

    def _add_buckets(self, grams: Tensor, buckets: np.ndarray) -> None:
        for bucket in np.unique(buckets):
            rows = torch.from_numpy(np.flatnonzero(buckets == bucket))
            if len(rows) >= 4:
                part = grams[:, rows[:, None], rows]
                cross, own = hsic1_sums(part[:, None], self.t)
                self._put(cross[0], own[0], int(bucket))

    def merge(self, other: Blocks) -> None:
        """Take over the blocks of another part of the data."""
        buckets = {place: bucket for bucket, place in other.places.items()}
        for place, (cross, own) in enumerate(list(zip(other.cross, other.own))):
            self._put(cross, own, buckets.get(place))
        self._join()

    def _put(self, cross: Tensor, own: Tensor, bucket: int | None) -> None:
        """A new block, or more of the block that a bucket has already."""
        if bucket is not None and bucket in self.places:
            place = self.places[bucket]
            self.cross[place], self.own[place] = self.cross[place] + cross, self.own[place] + own
            return
        if bucket is not None:
            self.places[bucket] = len(self)
        self.cross.append(cross)
        self.own.append(own)

    def _join(self) -> None:
        """Join neighbours while there are too many: the sums of two blocks are those of a larger one."""
        while len(self) > MOST_BLOCKS:
            for kept in (self.cross, self.own):
                pairs = [kept[i : i + 2] for i in range(0, len(kept), 2)]
                kept[:] = [pair[0] if len(pair) == 1 else pair[0] + pair[1] for pair in pairs]

    def table(self, s: int, rank: int = 0, most: int | None = None, world: int = 1) -> Tensor:
        """(world · most, 1 + T·S + T + S) the blocks as rows: a mark, cross, own.

        The mark is 0 for no block, 1 for one without groups, 2 + bucket otherwise. The rows of each
        process stand at its rank's place, so that tables of several processes add up to all blocks.
        """
        most = len(self) if most is None else most
        rows = torch.zeros(world * most, 1 + self.t * s + self.t + s, dtype=torch.float64)
        buckets = {place: bucket for bucket, place in self.places.items()}
        for place, (cross, own) in enumerate(zip(self.cross, self.own)):
            mark = torch.tensor([2.0 + buckets.get(place, -1)], dtype=torch.float64)
            rows[rank * most + place] = torch.cat([mark, cross.flatten(), own])
        return rows

    def replace(self, table: Tensor, s: int) -> None:
        """Hold the blocks of a table instead."""
        self.cross, self.own, self.places = [], [], {}
        for row in table[table[:, 0] > 0]:
            mark, cross, own = row.split([1, self.t * s, self.t + s])
            self._put(cross.view(self.t, s), own, int(mark) - 2 if mark > 1 else None)
        self._join()

    def standard_error(self) -> np.ndarray:
        """(T, S) jackknife standard error of CKA, each block left out once (Nguyen 2021's sums).

        Near CKA 0 it is wider than the full estimate's, because pairs across blocks are not used.
        """
        cross, own = torch.stack(self.cross), torch.stack(self.own)
        left, alone = cross.sum(0) - cross, own.sum(0) - own
        scale = (alone[:, : self.t, None] * alone[:, None, self.t :]).sqrt()
        return jackknife_error(torch.where(scale > 0, left / scale, torch.nan)).numpy()
