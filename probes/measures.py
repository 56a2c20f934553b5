"""Measures: the similarities that need the samples themselves, what each says and what it costs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gapkit.probes.layer_pairs import LayerPairs, compare_kernels, compare_neighbors, compare_ranks
from gapkit.probes.moments import Layers
from gapkit.probes.pairwise import N_NEIGHBORS
from gapkit.probes.rotation import compare_rotations, rotation_work
from gapkit.probes.sums import widths

FEWEST_SAMPLES = 300
WORK = 6e9
BYTES = 2**28

Widths = Sequence[int]


@dataclass(frozen=True)
class Measure:
    """How one similarity is got for all pairs of layers.

    Attributes:
        compare: centered features of teacher, student, untrained student, and units -> `LayerPairs`.
        says: formula and null, in words. undefined: why a cell may be nan although layers vary.
        lowest: of its range. fewest: samples it needs.
        work: widths of the three models, and n -> multiplications. entry: bytes a pair of samples
            and layer.
    """

    compare: Callable[..., LayerPairs]
    says: str
    undefined: str
    lowest: float
    fewest: int
    work: Callable[[Widths, Widths, Widths, int], float]
    entry: int = 0


def _pair_work(overhead: float) -> Callable[[Widths, Widths, Widths, int], float]:
    """Multiplications of (n, n) matrices of all layers, what else an entry costs counted as some."""
    return lambda x, y, fresh, n: n**2 * sum(width + overhead for width in (*x, *y, *fresh))


MEASURES = {
    "procrustes": Measure(
        compare=compare_rotations,
        says="orthogonal Procrustes similarity; its null has no closed form",
        undefined="a layer is the same for all samples",
        lowest=0.0,
        fewest=2,
        work=rotation_work,
    ),
    "mutual_knn": Measure(
        compare=compare_neighbors,
        says=f"share of {N_NEIGHBORS} nearest neighbors in common; null: k/(n-1) on average",
        undefined=f"some samples have fewer than {N_NEIGHBORS} others outside their group",
        lowest=0.0,
        fewest=N_NEIGHBORS + 1,
        work=_pair_work(200),
        entry=8,
    ),
    "rsa": Measure(
        compare=compare_ranks,
        says="Spearman correlation of all distances between samples; null: 0 on average",
        undefined="no two distances between samples differ",
        lowest=-1.0,
        fewest=4,
        work=_pair_work(1500),
        entry=16,
    ),
    "rbf_cka": Measure(
        compare=compare_kernels,
        says="debiased CKA (HSIC1) with Gaussian kernels of the median distance; null: 0 on average",
        undefined="over half of all pairs of samples coincide, or no two are nearer than others",
        lowest=-1.0,
        fewest=4,
        work=_pair_work(400),
        entry=16,
    ),
}


def affordable(name: str, xs: Layers, ys: Layers, fresh: Layers) -> int:
    """How many samples work and memory allow: `FEWEST_SAMPLES` of them, or more that cost little.

    >>> import torch
    >>> affordable("rsa", {"a": torch.ones(2000, 8)}, {"b": torch.ones(2000, 4)}, {})
    1411
    """
    measure, n = MEASURES[name], len(next(iter(xs.values())))
    x, y, beside = (list(widths(side).values()) for side in (xs, ys, fresh))
    limit = max(WORK, 1.2 * measure.work(x, y, beside, FEWEST_SAMPLES))
    most = bisect_right(range(1, n + 1), limit, key=lambda m: measure.work(x, y, beside, m))
    if measure.entry:
        most = min(most, int((BYTES / (measure.entry * len([*x, *y, *beside]))) ** 0.5))
    return most
