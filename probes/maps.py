"""Maps: every layer matrix of a teacher and a student, on validation and test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from gapkit.measurement import LayerMatrix
from gapkit.probes.layer_map import bounds, everywhere, from_moments, too_few
from gapkit.probes.permutation import N_PERMUTATIONS, permutation_p
from gapkit.probes.probe import Seen, Setting
from gapkit.probes.resample import one_of_each
from gapkit.probes.rotation import jackknife_fits, leave_out_blocks, procrustes_map, procrustes_rows
from gapkit.probes.sums import at_rows, sums_of, widths


class SimilarityProbe:
    """Layer matrices "cka" and "procrustes" of teacher and student on validation and test.

    CKA is debiased, over all samples; permutations use one sample of each declared group. The
    untrained student's values stand beside both.
    """

    name = "cka"

    def __init__(self, *, n_permutations: int = N_PERMUTATIONS) -> None:
        self.n_permutations = n_permutations

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterator[LayerMatrix]:
        """Both maps of every split that is not trained on."""
        for split in ("validation", "test"):
            if split in seen:
                yield self._cka(seen[split], setting)
                yield self._procrustes(seen[split], setting)

    def _cka(self, seen: Seen, setting: Setting) -> LayerMatrix:
        xs, ys = seen.teacher.features, seen.student.features
        groups = None if seen.groups is None else seen.groups[seen.teacher.rows]
        alone = one_of_each(len(seen.teacher.rows), groups)
        permutations = permutation_p(
            at_rows(xs, alone), at_rows(ys, alone), self.n_permutations, setting.seed
        )
        moments, untrained = seen.moments, seen.untrained_moments
        if moments is None:
            moments = sums_of(xs, ys, groups)
        if untrained is None and seen.untrained is not None:
            untrained = sums_of(xs, seen.untrained.features, groups)
        where, reduce = seen.split, setting.reduce
        return from_moments(
            moments, untrained, split=where, reduce=reduce, permutations=permutations
        )

    def _procrustes(self, seen: Seen, setting: Setting) -> LayerMatrix:
        rows = procrustes_rows(seen.teacher.features, seen.student.features, setting.seed)
        xs, ys, fresh = (
            {} if shown is None else at_rows(shown.features, rows)
            for shown in (seen.teacher, seen.student, seen.untrained)
        )
        groups = None if seen.groups is None else seen.groups[seen.teacher.rows[rows]]
        blocks = leave_out_blocks(len(rows), groups, setting.seed)
        why = too_few(len(blocks))
        if not why and not jackknife_fits(xs, ys, len(blocks)):
            why = "no interval: layers too wide to leave out blocks of samples"
        used = [] if why else blocks
        values, errors = procrustes_map(xs, ys, used)
        low, high = bounds(values, errors, len(used), 0.0)
        reasons = everywhere(values, why) | {
            f"{row},{column}": "a layer is the same for all samples"
            for row, column in np.argwhere(np.isnan(values))
        }
        how = f"interval: jackknife over {len(used)} blocks of samples; " if used else ""
        return LayerMatrix(
            name="procrustes",
            split=cast(Any, seen.split),
            teacher_layers=tuple(xs),
            student_layers=tuple(ys),
            values=values,
            low=low,
            high=high,
            null_z=np.full_like(values, np.nan),
            untrained=procrustes_map(xs, fresh)[0] if fresh else np.array([]),
            teacher_dims=tuple(widths(xs).values()),
            student_dims=tuple(widths(ys).values()),
            reduce=setting.reduce,
            estimator=f"orthogonal Procrustes similarity, n = {len(rows)}; {how}"
            "its null has no closed form",
            n=len(rows),
            seed=setting.seed,
            reasons=reasons,
        )
