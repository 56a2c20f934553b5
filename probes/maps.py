"""Maps: any similarity for every pair of a teacher's and a student's layers, with intervals, on held-out splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError, unknown
from gapkit.measurement import LayerMatrix
from gapkit.probes.layer_map import bounds, everywhere, from_moments
from gapkit.probes.layer_pairs import LayerPairs
from gapkit.probes.measures import MEASURES, Measure, affordable
from gapkit.probes.moments import Layers
from gapkit.probes.pairwise import N_NEIGHBORS
from gapkit.probes.permutation import N_PERMUTATIONS, permutation_p
from gapkit.probes.probe import Seen, Setting
from gapkit.probes.resample import one_of_each
from gapkit.probes.similarity import centered
from gapkit.probes.sums import at_rows, sums_of, widths

NAMES = ("cka", *MEASURES)
FEWEST_UNITS = 10

Sides = Sequence[Sequence[Tensor | None]]


def similarity_map(
    name: str,
    xs: Layers,
    ys: Layers,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    untrained: Layers | None = None,
    split: str = "",
    reduce: str = "gap",
) -> LayerMatrix:
    """One similarity of every pair of a teacher's and a student's layers, with its interval.

    All but "cka" use a seeded choice of the samples when there are many (about a second's work on
    the layers of a small network, at least 300 samples where memory allows); `estimator` says how
    many. The interval is value ± t·SE, SE from how much each sample moves the value; samples of one
    group count as one. It speaks of other samples of that number, not of other trainings.

    Args:
        name: "cka", "procrustes", "mutual_knn", "rsa" or "rbf_cka": see the functions of that name.
        xs, ys: layer -> (n, d) features of teacher and student, of the same samples.
        groups: (n,) which samples depend on each other. "mutual_knn" and "rsa" then leave out pairs
            within a group: they are near for a reason that no model had to learn.
        untrained: features of the untrained student at the layers of ys.

    Raises:
        InputError: for an unknown name, features that do not fit, nan or inf.

    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> print(similarity_map("rsa", {"a": x}, {"b": 2 * x, "c": x[:, :1]}))
    rsa 1 × 2, largest 1.000 at a ~ b (n = 100)
    """
    n = _check(name, xs, ys, untrained, groups)
    fresh = {} if untrained is None else {layer: untrained[layer] for layer in ys}
    if name == "cka":
        beside = sums_of(xs, fresh, groups) if fresh else None
        return from_moments(sums_of(xs, ys, groups), beside, split=split, reduce=reduce)
    order = np.random.default_rng(seed).permutation(n)
    rows = np.sort(order[: affordable(name, xs, ys, fresh)])
    units = None if groups is None else np.unique(np.asarray(groups)[rows], return_inverse=True)[1]
    sampled = [at_rows(side, rows) for side in (xs, ys, fresh)]
    about = {"name": name, "split": split, "reduce": reduce, "seed": seed}
    return _sampled_map(MEASURES[name], sampled, units, n, about)


def _sampled_map(
    measure: Measure,
    layers: Sequence[Layers],
    units: np.ndarray | None,
    n_all: int,
    about: Mapping[str, Any],
) -> LayerMatrix:
    """The map of the layers of teacher, student and untrained student at the samples chosen."""
    xs, ys, fresh = layers
    n = len(next(iter(xs.values())))
    n_units = n if units is None else int(units.max(initial=-1)) + 1
    roles = ("teacher", "student", "untrained student")
    sides = [_varying(side, role) for side, role in zip(layers, roles)]
    undefined = _undefined(measure, n, units)
    found = _nothing(sides) if undefined else _all_pairs(measure, sides, units)
    values, errors = found.values.numpy(), found.errors.numpy()
    few = n_units < FEWEST_UNITS
    open_ = f"no interval: {n_units} independent samples, {FEWEST_UNITS} needed" if few else ""
    low, high = bounds(
        values, np.full_like(errors, np.nan) if few else errors, n_units, measure.lowest
    )
    reasons = everywhere(values, open_)
    return LayerMatrix(
        teacher_layers=tuple(xs),
        student_layers=tuple(ys),
        values=values,
        low=low,
        high=high,
        null_z=found.null_z.numpy(),
        untrained=found.untrained.numpy() if fresh else np.array([]),
        teacher_dims=tuple(widths(xs).values()),
        student_dims=tuple(widths(ys).values()),
        estimator=_estimator(measure, n, n_all, None if units is None else n_units),
        n=n,
        reasons=reasons | _reasons(values, xs, ys, sides, undefined or measure.undefined),
        **about,
    )


def _estimator(measure: Measure, n: int, n_all: int, n_groups: int | None) -> str:
    of_all = f"n = {n}" if n == n_all else f"n = {n} of {n_all}, chosen at random"
    if n_groups is None:
        return f"{measure.says}; {of_all}; interval: infinitesimal jackknife over samples"
    over = f"interval: infinitesimal jackknife over {n_groups} groups of samples"
    return f"{measure.says}; no z for dependent samples; {of_all}; {over}"


def _check(
    name: str, xs: Layers, ys: Layers, untrained: Layers | None, groups: np.ndarray | None
) -> int:
    """The number of samples, once all fits."""
    if name not in NAMES:
        raise unknown("similarity", name, NAMES)
    if not xs or not ys:
        raise InputError("Expected at least one layer of each model but got none")
    if untrained is not None and set(ys) - set(untrained):
        missing = sorted(set(ys) - set(untrained))
        raise InputError(f"Expected the untrained student at {missing} too but got no features")
    sides = (xs, ys) if untrained is None else (xs, ys, untrained)
    counts = {len(part) for side in sides for part in side.values()}
    counts |= set() if groups is None else {len(groups)}
    if len(counts) > 1:
        raise InputError(f"Expected the same samples everywhere but got {sorted(counts)}")
    return counts.pop()


def _varying(side: Layers, of: str) -> list[Tensor | None]:
    """Centered features of each layer; None when they are the same for all samples."""
    return [centered(part, f"the {of}'s {layer!r}")[0] for layer, part in side.items()]


def _undefined(measure: Measure, n: int, units: np.ndarray | None) -> str:
    """Why that many samples say nothing; "" when they do."""
    if n < measure.fewest:
        return f"{n} samples, {measure.fewest} needed"
    if measure is MEASURES["mutual_knn"] and units is not None:
        outside = n - np.bincount(units).max()
        return measure.undefined if outside < N_NEIGHBORS else ""
    return ""


def _nothing(sides: Sides) -> LayerPairs:
    empty = torch.full((len(sides[0]), len(sides[1])), torch.nan, dtype=torch.float64)
    return LayerPairs(values=empty, errors=empty, null_z=empty, untrained=empty[:, : len(sides[2])])


def _all_pairs(measure: Measure, sides: Sides, units: np.ndarray | None) -> LayerPairs:
    """The similarity of all pairs of layers, nan where a layer does not vary."""
    kept = [[part for part in side if part is not None] for side in sides]
    if not kept[0] or not kept[1]:
        return _nothing(sides)
    found = measure.compare(*kept, units)
    rows, *columns = (
        torch.tensor([part is not None for part in side], dtype=torch.bool) for side in sides
    )

    def whole(part: Tensor, alive: Tensor) -> Tensor:
        out = part.new_full((len(rows), len(alive)), torch.nan)
        out[rows[:, None] & alive] = part.flatten()
        return out

    return LayerPairs(
        values=whole(found.values, columns[0]),
        errors=whole(found.errors, columns[0]),
        null_z=whole(found.null_z, columns[0]),
        untrained=whole(found.untrained, columns[1]),
    )


def _reasons(
    values: np.ndarray, xs: Layers, ys: Layers, sides: Sides, otherwise: str
) -> dict[str, str]:
    """Why cells are nan."""
    teacher, student = list(xs), list(ys)
    reasons = {}
    for row, column in np.argwhere(np.isnan(values)):
        why = otherwise
        if sides[1][column] is None:
            why = f"the student's {student[column]!r} is the same for all samples"
        if sides[0][row] is None:
            why = f"the teacher's {teacher[row]!r} is the same for all samples"
        reasons[f"{row},{column}"] = why
    return reasons


class SimilarityProbe:
    """Layer matrices "cka", "procrustes", "mutual_knn", "rsa" and "rbf_cka" on validation and test.

    CKA is debiased, over all samples; permutations use one sample of each declared group. The
    untrained student's values stand beside all of them.
    """

    name = "cka"

    def __init__(self, *, n_permutations: int = N_PERMUTATIONS) -> None:
        self.n_permutations = n_permutations

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterator[LayerMatrix]:
        """All maps of every split that is not trained on."""
        for split in ("validation", "test"):
            if split not in seen:
                continue
            item = seen[split]
            groups = None if item.groups is None else item.groups[item.teacher.rows]
            yield self._cka(item, groups, setting)
            for name in MEASURES:
                yield similarity_map(
                    name,
                    item.teacher.features,
                    item.student.features,
                    groups=groups,
                    seed=setting.seed,
                    untrained=None if item.untrained is None else item.untrained.features,
                    split=split,
                    reduce=setting.reduce,
                )

    def _cka(self, seen: Seen, groups: np.ndarray | None, setting: Setting) -> LayerMatrix:
        xs, ys = seen.teacher.features, seen.student.features
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
