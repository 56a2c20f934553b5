"""Relations: whether the student keeps the teacher's geometry across samples, as relational distillation asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.measurement import Measurement
from gapkit.probes.geometry import Features, Geometry, correlation, cosines, nearer, nearest, share
from gapkit.probes.interval import Interval, measured, undefined
from gapkit.probes.probe import Observation, Seen, Setting

MAX_SAMPLES = 1000
NEIGHBORS = 10


def distance_structure(
    x: Features, y: Features, groups: Any = None, level: float = 0.95
) -> Interval:
    """Whether samples far apart for the teacher are as far apart, in proportion, for the student.

    Pearson correlation over all pairs of samples of ‖x_i - x_j‖ with ‖y_i - y_j‖: the distance potential
    of RKD (Park 2019, 1904.05068, eq. 6), whose division by the mean distance a correlation does not
    feel. For ranks in place of distances see `rsa`. Misleading in that distances within and between
    two far clusters correlate whatever happens inside them.

    Args:
        x, y: (n, p) teacher's and (n, q) student's features of the same samples.
        groups: (n,) samples that depend on each other; pairs inside a group are left out.

    Returns:
        In [-1, 1]: 1 for equal features, also when rotated, shifted or scaled; 0 for unrelated ones.
        The interval is a jackknife's over samples (groups), each left out with all its pairs
        (Arvesen 1969), cut at ±1; nan below 10 of them or when all distances of a side are equal.

    Raises:
        InputError: when shapes do not fit or a value is nan or inf.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(distance_structure(x, 2 * x.flip(1) + 5).value, 6)
    1.0
    """
    return _distance_structure(Geometry.of(x, y, groups), level)


def angle_structure(
    x: Features, y: Features, groups: Any = None, level: float = 0.95, seed: int = 0
) -> Interval:
    """Whether samples stand at like angles to each other for the teacher and for the student.

    Pearson correlation over triplets (i, j, k) of cos∠ijk, the angle at sample j: the angle potential
    of RKD (Park 2019, 1904.05068, eq. 9). All triplets of distinct groups, or 200,000 at random.
    Angles look at shape alone, so a few far samples weigh less than in `distance_structure`;
    in many dimensions they are all near 60° and noise drowns them sooner.

    Args, returns and errors as for `distance_structure`; triplets in which a side coincides (no
    angle) are left out. The jackknife over samples is slightly wide for triplets at random.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(angle_structure(x, 2 * x.flip(1) + 5).value, 6)
    1.0
    """
    geometry = Geometry.of(x, y, groups)
    return _angle_structure(geometry, geometry.triplets(seed), level)


def triplet_order(
    x: Features, y: Features, groups: Any = None, level: float = 0.95, seed: int = 0
) -> Interval:
    """How often the student agrees with the teacher on which of two samples is nearer to a third.

    Share of triplets (a, b, c) with d(a, b) < d(a, c) in the teacher that the student orders alike; its
    tie counts one half. Averaged over anchors a this is (1 + Kendall's τ)/2 of a retrieval list.
    Triplets are those of `angle_structure`, less the teacher's ties. Misleading when classes are far
    apart: most triplets are then easy.

    Args, interval and errors as for `distance_structure`.

    Returns:
        In [0, 1]: 1 for equal features, 0.5 for unrelated or constant student features.

    >>> x = torch.arange(12.0)[:, None] ** 2
    >>> triplet_order(x, 3 * x).value, triplet_order(x, torch.zeros(12, 1)).value
    (1.0, 0.5)
    """
    geometry = Geometry.of(x, y, groups)
    return _triplet_order(geometry, geometry.triplets(seed), level)


def neighbors_kept(
    x: Features,
    y: Features,
    k: int = NEIGHBORS,
    groups: Any = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Share of a sample's k nearest neighbors in the teacher that are so in the student, on average.

    Mean over samples of |N_x ∩ N_y| / k, Euclidean, neighbors from other groups only. Local, where the
    correlations are global. Ties are broken at random, apart in x and y.

    Returns:
        In [0, 1]: 1 for equal features without ties; by chance k over the number of candidates,
        which `Interval.method` states. The interval allows for pairs that share a sample (dyadic
        cluster-robust variance, Aronow 2015, doi:10.1093/pan/mpv018): a t interval over samples
        is 30 % too narrow, a jackknife 40 % too wide.

    Raises:
        InputError: for k < 1, and as for `distance_structure`.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> neighbors_kept(x, 2 * x.flip(1) + 5).value
    1.0
    """
    if k < 1:
        raise InputError(f"Expected k of at least 1 but got {k}")
    return _neighbors_kept(Geometry.of(x, y, groups), k, seed, level)


class RelationProbe:
    """Distance and angle structure, neighbors and triplet order, on validation and test.

    Of the outputs (`layer` ""), and of the last tapped layers before them (`layer`: the teacher's
    name). `of` is "pair" for the student, "untrained" for the row to judge it against.

    Args:
        n_samples: most samples compared, a seeded choice.
    """

    name = "relation"

    def __init__(self, n_samples: int = MAX_SAMPLES) -> None:
        self.n_samples = n_samples

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterator[Measurement]:
        """Embeddings as outputs are compared by direction, as retrieval does: rows of length 1."""
        for split in ("validation", "test"):
            if split not in seen:
                continue
            draw = np.random.default_rng(setting.seed)
            kept = np.sort(draw.permutation(len(seen[split].teacher.rows))[: self.n_samples])
            for role in ("student", "untrained"):
                if role in seen[split].models:
                    yield from _of_role(seen[split], role, kept, setting)


def _of_role(seen: Seen, role: str, kept: np.ndarray, setting: Setting) -> Iterator[Measurement]:
    """What one model keeps of the teacher's outputs and last inner layer; kept: places in `rows`."""
    embeds = setting.task.kind == "embedding"
    teacher, student = seen.teacher, seen.models[role]
    rows = teacher.rows[kept]
    own = np.unique(rows)
    outputs = _outputs(teacher, own, embeds), _outputs(student, own, embeds)
    note = "outputs, rows of length 1" if embeds else "outputs"
    yield from _measured(seen, role, own, setting.seed, outputs, "", note)
    inner, other = _last_inner(teacher, kept), _last_inner(student, kept)
    if inner or other:
        inner, other = inner or teacher.layers[-1], other or student.layers[-1]
        features = teacher.features[inner][kept], student.features[other][kept]
        note = f"teacher layer {inner}, {role} layer {other}"
        yield from _measured(seen, role, rows, setting.seed, features, inner, note)


def _measured(
    seen: Seen,
    role: str,
    rows: np.ndarray,
    seed: int,
    sides: tuple[Tensor, Tensor],
    layer: str,
    note: str,
) -> Iterator[Measurement]:
    """The four quantities of one pair of representations of the samples at rows."""
    geometry = Geometry.of(*sides, None if seen.groups is None else seen.groups[rows])
    triplets = geometry.triplets(seed)
    n, n_all = len(np.unique(rows)), len(seen.teacher.outputs)
    if n < n_all:
        note += f"; {n} of {n_all} samples, chosen at random"
    fields: dict[str, Any] = {"layer": layer, "better": "higher", "seed": seed}
    for name, unit, interval in (
        ("distance_structure", "correlation", _distance_structure(geometry)),
        ("angle_structure", "correlation", _angle_structure(geometry, triplets)),
        ("neighbors_kept", "share", _neighbors_kept(geometry, NEIGHBORS, seed)),
        ("triplet_order", "share", _triplet_order(geometry, triplets)),
    ):
        how = f"{interval.method}; {note}" if interval.method else note
        whose = "pair" if role == "student" else role
        yield measured(name, whose, seen.split, interval, unit=unit, estimator=how, **fields)


def _outputs(shown: Observation, rows: np.ndarray, embeds: bool) -> Tensor:
    outputs = shown.outputs[rows].double().reshape(len(rows), -1)
    norms = outputs.norm(dim=1, keepdim=True)
    return outputs / torch.where(norms > 0, norms, 1.0) if embeds else outputs


def _last_inner(shown: Observation, kept: np.ndarray) -> str:
    """The last tapped layer that does not show the outputs themselves; "" when all do."""
    outputs = shown.outputs[shown.rows[kept]]
    if shown.tokens is not None and outputs.ndim == 3:
        outputs = outputs[np.arange(len(kept)), shown.tokens[kept]]
    outputs = outputs.reshape(len(kept), -1)
    for layer in reversed(shown.layers):
        part = shown.features[layer][kept].to(outputs)
        if part.shape != outputs.shape or not torch.allclose(part, outputs, rtol=1e-4, atol=1e-6):
            return layer
    return ""


def _distance_structure(geometry: Geometry, level: float = 0.95) -> Interval:
    apart = geometry.apart
    x, y = np.where(apart, geometry.x, 0.0), np.where(apart, geometry.y, 0.0)
    products = (apart, x, y, x * x, y * y, x * y)
    sums = np.stack([product.sum(1, dtype=np.float64) for product in products], axis=1)
    return geometry.interval(
        correlation,
        sums.sum(0) / 2,
        geometry.by_unit(np.arange(len(sums)), sums),
        lowest=-1.0,
        level=level,
        method="Pearson correlation of pairwise distances",
    )


def _angle_structure(geometry: Geometry, triplets: np.ndarray, level: float = 0.95) -> Interval:
    x, y = cosines(geometry.x, triplets), cosines(geometry.y, triplets)
    known = np.isfinite(x) & np.isfinite(y)
    x, y, triplets = x[known], y[known], triplets[known]
    sums = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return geometry.interval(
        correlation,
        sums.sum(0),
        geometry.by_unit(triplets, sums),
        lowest=-1.0,
        level=level,
        method=f"Pearson correlation of the cosines of angles in {len(triplets)} triplets",
    )


def _triplet_order(geometry: Geometry, triplets: np.ndarray, level: float = 0.95) -> Interval:
    x, y = nearer(geometry.x, triplets), nearer(geometry.y, triplets)
    x, y, triplets = x[x != 0], y[x != 0], triplets[x != 0]
    sums = np.stack([np.ones_like(x), (1 + x * y) / 2], axis=1)
    return geometry.interval(
        share,
        sums.sum(0),
        geometry.by_unit(triplets, sums),
        lowest=0.0,
        level=level,
        method=f"share of {len(triplets)} triplets in like order, 0.5 by chance",
    )


def _neighbors_kept(geometry: Geometry, k: int, seed: int, level: float = 0.95) -> Interval:
    apart, n = geometry.apart, len(geometry.unit)
    candidates = int(apart.sum(1).min())
    if candidates <= k:
        why = f"{candidates} samples of other groups, {k + 1} needed for {k} neighbors"
        return undefined(why, n, level)
    if not (geometry.x.any() and geometry.y.any()):
        return undefined("one model shows the same for all samples", n, level)
    rng = np.random.default_rng(seed)
    near_x, near_y = (nearest(side, apart, k, rng) for side in (geometry.x, geometry.y))
    value = float((near_x * near_y).sum() / (n * k))
    surplus = (near_x * (near_y - value) + near_y * (near_x - value)) / (2 * n * k)
    method = f"share of {k} nearest neighbors kept, {k / apart.sum(1).mean():.3g} by chance; dyadic"
    return geometry.bounded(
        value, geometry.dyadic_error(surplus), lowest=0.0, level=level, method=method
    )
