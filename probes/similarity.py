"""How alike two representations are: CKA of all layer pairs; Procrustes, neighbours, RSA beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from gapkit.data import TARGET_KEYS
from gapkit.errors import InputError
from gapkit.guest import guest, moved, seeded
from gapkit.measurement import LayerMatrix
from gapkit.probes.features import Recorder, check_reduce, choose_layers, device_of
from gapkit.probes.moments import (
    MIN_BLOCK,
    RELATIVE_ZERO,
    BatchHsic,
    Grams,
    Moments,
    Products,
    group_buckets,
    is_constant,
    start_sums,
    u_centered,
    unbiased,
)
from gapkit.probes.probe import Seen, Setting

FEWEST_BLOCKS = 10
N_BLOCKS = 20
N_PERMUTATIONS = 199
PERMUTED_SAMPLES = 1000
PERMUTATION_WORK = 2e10
PROCRUSTES_WORK = 2e10
JACKKNIFE_WORK = 5e9
BATCH = 256

Features = Tensor | np.ndarray
Layers = Mapping[str, Tensor]
Sums = Moments | BatchHsic | Grams


def _centered(given: Features, name: str) -> tuple[Tensor | None, int]:
    """Features in float64 without their mean (None when the same for all samples), and n; checked."""
    tensor = torch.as_tensor(given).detach().cpu()
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise InputError(
            f"Expected {name} of shape (samples, features) but got {tuple(tensor.shape)}"
        )
    eps = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    tensor = tensor.to(torch.float64)
    if not tensor.isfinite().all():
        raise InputError(f"Expected finite features in {name} but got nan or inf")
    centered = tensor - tensor.mean(0)
    spread, magnitude = centered.square().sum().item(), tensor.square().sum().item()
    return None if is_constant(spread, magnitude, eps) else centered, len(tensor)


def _pair(x: Features, y: Features) -> tuple[Tensor | None, Tensor | None, int]:
    a, n = _centered(x, "x")
    b, n_y = _centered(y, "y")
    if n != n_y:
        raise InputError(f"Expected the same samples in x and y but got {n} and {n_y}")
    return a, b, n


def _inner(x: Tensor, y: Tensor) -> float:
    """‖XᵀY‖² of centred features, through features or Gram matrices, whichever is less work."""
    n, p, q = len(x), x.shape[1], y.shape[1]
    if p * q <= n * (p + q):
        return (x.T @ y).square().sum().item()
    return ((x @ x.T) * (y @ y.T)).sum().item()


def _hsic(x: Tensor, y: Tensor, n: int) -> float:
    """n(n-3)·HSIC1 of centred features."""
    k, l_ = x.square().sum(1), y.square().sum(1)
    return float(unbiased(_inner(x, y), (k @ l_).item(), k.sum().item(), l_.sum().item(), n))


def hsic1(x: Features, y: Features) -> float:
    """Unbiased estimate of how much two representations depend on each other linearly.

    HSIC1 with linear kernels (Song et al. 2012, JMLR 13): about 0 for independent features, in
    squared units of x times those of y, so that only ratios of it can be read.

    Args:
        x, y: (n, p) and (n, q) features of the same samples.

    Returns:
        The estimate, which may be negative; nan for fewer than 4 samples.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]])
    >>> hsic1(x, x) > 0 and hsic1(x, torch.ones(5, 1)) == 0
    True
    """
    a, b, n = _pair(x, y)
    if n < 4:
        return math.nan
    return 0.0 if a is None or b is None else _hsic(a, b, n) / (n * (n - 3))


def cka(x: Features, y: Features, debiased: bool = True) -> float:
    """How alike two representations arrange the same samples: 1 for equal up to rotation and scale.

    Centred kernel alignment with linear kernels (Kornblith 2019, 1905.00414): the biased form is
    ‖XᵀY‖² / (‖XᵀX‖·‖YᵀY‖); the debiased form puts HSIC1 in the place of each (Song 2012), is 0 on
    average for unrelated features whatever n, p and q, and may be negative.

    It does not change under rotation, translation and common scaling of either side. It misleads
    when few directions carry most variance, or compared across ways of pooling; it says where two
    networks differ, not whether one can learn from the other.

    Args:
        x, y: (n, p) and (n, q) features of the same samples; tensors or arrays.
        debiased: which form. The biased one tends to 1 for p much larger than n, on noise too.

    Returns:
        The similarity in [-1, 1]; nan for fewer than 4 samples (debiased), when one side is the
        same for all samples, or when its unbiased self term is 0.

    Raises:
        InputError: when shapes do not fit or a value is nan or inf.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(cka(x, 2 * x.flip(1) + 5), 6)
    1.0
    """
    a, b, n = _pair(x, y)
    if a is None or b is None or (debiased and n < 4):
        return math.nan
    if not debiased:
        return _inner(a, b) / math.sqrt(_inner(a, a) * _inner(b, b))
    scale = math.sqrt(_own(a) * _own(b))
    return _hsic(a, b, n) / scale if scale > 0 else math.nan


def _squared_distances(x: Tensor) -> Tensor:
    """(n, n) squared Euclidean distances of centred features."""
    norms = x.square().sum(1)
    return (norms[:, None] + norms - 2 * x @ x.T).clamp(min=0).fill_diagonal_(0)


def rbf_cka(x: Features, y: Features, bandwidth: float = 1.0, debiased: bool = True) -> float:
    """CKA with Gaussian kernels: like `cka`, but near samples count more than far ones.

    The kernel is exp(-d²/(2σ²)), σ = bandwidth · median distance (Kornblith 2019, section 3).

    Returns:
        The similarity, 1 for equal features; nan where `cka` is, or when over half of all samples
        coincide.

    >>> x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    >>> round(rbf_cka(x, 3 * x), 6)
    1.0
    """
    if not bandwidth > 0:
        raise InputError(f"Expected a bandwidth above 0 but got {bandwidth}")
    a, b, n = _pair(x, y)
    if a is None or b is None or n < 4:
        return math.nan
    grams = []
    for part in (a, b):
        squared = _squared_distances(part)
        upper = torch.triu_indices(n, n, 1)
        median = squared[upper[0], upper[1]].median().item()
        if median == 0:
            return math.nan
        gram = torch.exp(-squared / (2 * bandwidth**2 * median))
        centering = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
        grams.append(u_centered(gram) if debiased else centering)
    k, l_ = grams
    scale = math.sqrt(k.square().sum().item() * l_.square().sum().item())
    return (k * l_).sum().item() / scale if scale > 0 else math.nan


def _nuclear(cross: Tensor) -> Tensor:
    """Sum of the singular values of matrices (..., p, q)."""
    if min(cross.shape[-2:]) <= 64:
        return torch.linalg.svdvals(cross).sum(-1)
    if cross.shape[-2] > cross.shape[-1]:
        cross = cross.mT
    return torch.linalg.eigvalsh(cross @ cross.mT).clamp(min=0).sqrt().sum(-1)


def _slim(features: Tensor) -> Tensor:
    """Features rotated to at most n columns: no inner product changes."""
    if features.shape[1] <= len(features):
        return features
    return torch.linalg.qr(features.T, mode="r").R.T


def procrustes(x: Features, y: Features) -> float:
    """How well one representation can be rotated onto the other: 1 when a rotation and scale does it.

    ‖XᵀY‖_* / (‖X‖·‖Y‖) of centred features (nuclear norm; Schönemann 1966; Williams 2021,
    2110.14739): the cosine of the angle left after the best rotation. Unlike CKA it weighs
    directions by standard deviation, not variance. It has no bias correction: unrelated features
    of p and q columns give roughly √(pq/n) when that is small, and more the wider they are.

    Returns:
        The similarity in [0, 1]; nan when one side is the same for all samples.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(procrustes(x, 2 * x.flip(1) + 5), 6)
    1.0
    """
    a, b, _ = _pair(x, y)
    if a is None or b is None:
        return math.nan
    return min(1.0, (_nuclear(_slim(a).T @ _slim(b)) / (a.norm() * b.norm())).item())


def mutual_knn(x: Features, y: Features, k: int = 10) -> float:
    """Share of each sample's k nearest neighbours that both representations agree on.

    Mean over samples of |N_x ∩ N_y| / k with Euclidean distances (Huh 2024, 2405.07987, who
    normalise features first). Local, so it sees what CKA's large directions hide.

    Returns:
        The share in [0, 1]: 1 for equal features, about k/(n-1) for unrelated ones; nan when one
        side is the same for all samples.

    Raises:
        InputError: unless 1 <= k < n.

    >>> x = torch.arange(6.0)[:, None] ** 2
    >>> mutual_knn(x, -x, k=2)
    1.0
    """
    a, b, n = _pair(x, y)
    if not 1 <= k < n:
        raise InputError(f"Expected 1 <= k < {n} samples but got k = {k}")
    if a is None or b is None:
        return math.nan
    member = []
    for part in (a, b):
        nearest = _squared_distances(part).fill_diagonal_(torch.inf).topk(k, largest=False).indices
        member.append(torch.zeros(n, n).scatter_(1, nearest, 1.0))
    return ((member[0] * member[1]).sum() / (n * k)).item()


def rsa(x: Features, y: Features) -> float:
    """Whether samples that are far apart in one representation are far apart in the other.

    Spearman correlation of all pairwise Euclidean distances (Kriegeskorte 2008,
    10.3389/neuro.06.004.2008).

    Returns:
        The correlation in [-1, 1], 1 for equal features; nan for fewer than 3 samples or when all
        distances of one side are equal.

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> round(rsa(x, 2 * x + 1), 6)
    1.0
    """
    a, b, n = _pair(x, y)
    if a is None or b is None or n < 3:
        return math.nan
    upper = np.triu_indices(n, 1)
    ranks = [stats.rankdata(_squared_distances(part).numpy()[upper]) for part in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


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
    xs = [features_x] if isinstance(features_x, Tensor) else list(features_x.values())
    ys = [features_y] if isinstance(features_y, Tensor) else list(features_y.values())
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
    reached = np.concatenate(
        [(shuffled >= real).sum(0).ravel(), [(maxima >= np.nanmax(real)).sum()]]
    )
    p_values = (1 + reached) / (1 + n_permutations)
    return Permutations(
        p_value=np.where(np.isnan(real), np.nan, p_values[:-1].reshape(real.shape)),
        p_max=float(p_values[-1]),
        maxima=maxima,
        n=n,
        n_permutations=n_permutations,
        seed=seed,
    )


def _permutation_size(xs: list[Tensor], ys: list[Tensor], count: int) -> tuple[int, bool]:
    """Samples to permute, and whether features are less work than Gram matrices."""
    n = min(len(xs[0]), PERMUTED_SAMPLES)
    wide_x, wide_y = (sum(part.shape[1] for part in side) for side in (xs, ys))
    per_pair = len(ys) * (len(xs) + 8)
    if wide_x * wide_y <= n * per_pair / 2:
        return n, True
    return min(n, max(100, int(math.sqrt(PERMUTATION_WORK / (count * per_pair))))), False


def _varying(features: Tensor) -> Tensor:
    """Centred features; zeros when they are the same for all samples."""
    centered, _ = _centered(features, "features")
    return torch.zeros_like(features, dtype=torch.float64) if centered is None else centered


def _own(x: Tensor) -> float:
    """n(n-3)·HSIC1 of centred features with themselves; 0 when it is nothing but rounding."""
    value = _hsic(x, x, len(x))
    return value if value > RELATIVE_ZERO * _inner(x, x) else 0.0


def _scaled(cross: Tensor, xs: list[Tensor], ys: list[Tensor]) -> np.ndarray:
    """Debiased CKA from n(n-3)·HSIC1 of every pair (P, T, S); nan where a self term is 0."""
    own_x, own_y = (
        torch.tensor([_own(part) for part in side], dtype=torch.float64) for side in (xs, ys)
    )
    scale = (own_x[:, None] * own_y).sqrt()
    return torch.where(scale > 0, cross / scale, torch.nan).numpy()


def _permuted_features(xs: list[Tensor], ys: list[Tensor], orders: np.ndarray) -> np.ndarray:
    """(P, T, S) debiased CKA with the samples of y in each of the orders, by ‖XᵀPY‖²."""
    n = len(xs[0])
    x, y = torch.cat(xs, 1), torch.cat(ys, 1)
    sides = [
        torch.repeat_interleave(
            torch.eye(len(side), dtype=torch.float64),
            torch.tensor([part.shape[1] for part in side]),
            dim=1,
        )
        for side in (xs, ys)
    ]
    k, l_ = (torch.stack([part.square().sum(1) for part in side]) for side in (xs, ys))
    sums = k.sum(1)[:, None], l_.sum(1)[None]
    cross = []
    for order in orders:
        squares = (x.T @ y[order]).square()
        cross.append(unbiased(sides[0] @ squares @ sides[1].T, k @ l_[:, order].T, *sums, n))
    return _scaled(torch.stack(cross), xs, ys)


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
    return _scaled(torch.stack(cross).double(), xs, ys)


def from_moments(
    moments: Sums,
    untrained: Sums | None = None,
    *,
    name: str = "cka",
    split: str = "",
    debiased: bool = True,
    reduce: str = "gap",
    permutations: Permutations | None = None,
) -> LayerMatrix:
    """CKA of every pair of layers from their sums, with interval, null and, if given, the untrained row.

    The interval is value ± t·SE, SE from leaving out each block of samples once, cut at ±1; nan below
    10 blocks. `null_z` is the debiased value over √(2/(n(n-3))), the null's standard deviation for
    any features when samples are shuffled (a sanity check only: untrained pairs reach hundreds).

    Raises:
        InputError: for the biased form from sums over batches, which do not hold it.

    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> print(from_moments(Grams({"a": x}, {"b": x})))
    cka 1 × 1, largest 1.000 at a ~ b (n = 100)
    """
    if not debiased and isinstance(moments, BatchHsic):
        raise InputError(
            "Expected debiased=True for layers this wide (sums over batches have no biased form) "
            "but got debiased=False; a smaller reduce fits"
        )
    products = moments.products()
    values = _cells(products, debiased)
    reasons = _reasons(values, products, moments)
    low, high = _interval(values, moments, reasons)
    form = "debiased linear CKA (HSIC1)" if debiased else "biased linear CKA"
    estimator = (
        f"{form}, {moments.estimator}, n = {products.n}; "
        f"interval: jackknife over {len(moments.blocks)} blocks of samples"
    )
    if permutations is not None and permutations.n_permutations:
        estimator += f"; p: {permutations.n_permutations} permutations of {permutations.n} samples"
    scale = math.sqrt(2 / products.pairs) if products.pairs > 0 else math.nan
    row = np.array([])
    if untrained is not None:
        row = _cells(untrained.products(), debiased)
    return LayerMatrix(
        name=name,
        split=cast(Any, split),
        teacher_layers=tuple(moments.dims_x),
        student_layers=tuple(moments.dims_y),
        values=values,
        low=low,
        high=high,
        null_z=_cells(products, True) / scale,
        p_value=np.array([]) if permutations is None else permutations.p_value,
        p_max=math.nan if permutations is None else permutations.p_max,
        untrained=row,
        teacher_dims=tuple(moments.dims_x.values()),
        student_dims=tuple(moments.dims_y.values()),
        reduce=reduce,
        estimator=estimator,
        n=products.n,
        seed=None if permutations is None else permutations.seed,
        reasons=reasons,
    )


def _cells(products: Products, debiased: bool) -> np.ndarray:
    """(T, S) CKA; nan where a self term is 0 or a layer does not vary."""
    own_x = products.own_x if debiased else products.biased_own_x
    own_y = products.own_y if debiased else products.biased_own_y
    cross = products.cross if debiased else products.biased_cross
    good = np.outer((own_x > 0) & ~products.constant_x, (own_y > 0) & ~products.constant_y)
    return np.where(good, cross / np.sqrt(np.where(good, np.outer(own_x, own_y), 1.0)), np.nan)


def _reasons(values: np.ndarray, products: Products, moments: Sums) -> dict[str, str]:
    """Why cells are nan."""
    reasons = {}
    for row, column in np.argwhere(np.isnan(values)):
        if products.n < 4:
            why = f"{products.n} samples, 4 needed"
        elif products.constant_x[row]:
            why = f"the teacher's {list(moments.dims_x)[row]!r} is the same for all samples"
        elif products.constant_y[column]:
            why = f"the student's {list(moments.dims_y)[column]!r} is the same for all samples"
        else:
            why = "an unbiased self term is 0: no two samples are more alike than others"
        reasons[f"{row},{column}"] = why
    return reasons


def _interval(
    values: np.ndarray, moments: Sums, reasons: dict[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the values; adds to the reasons where there are none."""
    count = len(moments.blocks)
    if count < FEWEST_BLOCKS:
        _explain(values, reasons, f"no interval: {count} blocks of samples, {FEWEST_BLOCKS} needed")
        return np.full_like(values, np.nan), np.full_like(values, np.nan)
    return _bounds(values, moments.blocks.standard_error(), count, -1.0)


def _explain(values: np.ndarray, reasons: dict[str, str], why: str) -> None:
    for row, column in np.ndindex(values.shape):
        reasons.setdefault(f"{row},{column}", why)


def _bounds(
    values: np.ndarray, error: np.ndarray, n_blocks: int, lowest: float
) -> tuple[np.ndarray, np.ndarray]:
    half = stats.t.ppf(0.975, n_blocks - 1) * error
    return np.maximum(values - half, lowest), np.minimum(values + half, 1.0)


def cka_map(
    teacher: nn.Module,
    student: nn.Module,
    batches: Iterable[Any],
    teacher_layers: Sequence[str] | None = None,
    student_layers: Sequence[str] | None = None,
    reduce: str = "gap",
    debiased: bool = True,
) -> LayerMatrix:
    """CKA of every pair of layers of two models, in one pass over the batches.

    Both models get the same input, so shuffled loaders are fine; they run where they are, in eval
    mode and without gradients, and are left as they were. The result does not depend on how the
    samples fall into batches (for layers too wide for exact sums it does: see `estimator`).

    Args:
        batches: inputs, or (input, target) pairs, or dicts of keywords (targets left out); read once.
        teacher_layers, student_layers: names or globs; None: see `choose_layers`.
        reduce: "gap", "grid:2", "flatten", "cls" or "last". It moves CKA by up to .4: compare
            maps with the same reduce only.
        debiased: see `cka`.

    Raises:
        InputError: for no batches, unknown layers, nan or inf, or a model that refuses the input.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> cka_map(net, net, [torch.randn(50, 3), torch.randn(50, 3)]).values.diagonal().round(6)
    array([1., 1.])
    """
    check_reduce(reduce)
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise InputError("Expected at least one batch but got none")
    models = {"teacher": teacher, "student": student}
    chosen = {
        role: choose_layers(models[role], _input(first), wanted)
        for role, wanted in (("teacher", teacher_layers), ("student", student_layers))
    }
    sums: Moments | BatchHsic | None = None
    with ExitStack() as stack:
        stack.enter_context(seeded(0))
        stack.enter_context(guest(teacher, student))
        stack.enter_context(torch.no_grad())
        recorders = {
            role: stack.enter_context(Recorder(models[role], chosen[role], reduce, role).open())
            for role in models
        }
        for place, batch in enumerate(itertools.chain([first], source)):
            seen = {
                role: recorder(moved(_input(batch), device_of(models[role])))[1]
                for role, recorder in recorders.items()
            }
            _check_batch(seen, place)
            if sums is None:
                dims = [
                    {name: part.shape[1] for name, part in seen[role].items()} for role in models
                ]
                sums = start_sums(dims[0], dims[1]) or BatchHsic(dims[0], dims[1])
            sums.update(seen["teacher"], seen["student"])
    assert sums is not None
    return from_moments(sums, debiased=debiased, reduce=reduce)


def _input(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {key: item for key, item in batch.items() if key not in TARGET_KEYS}
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _check_batch(seen: Mapping[str, Layers], place: int) -> None:
    for role, parts in seen.items():
        for name, part in parts.items():
            if not part.isfinite().all():
                raise InputError(
                    f"Expected finite features but got nan or inf from the {role} at {name!r} "
                    f"in batch {place}"
                )


def _procrustes_rows(xs: Layers, ys: Layers) -> int:
    """Samples that the work budget allows."""
    wide_x, wide_y = (sum(part.shape[1] for part in side.values()) for side in (xs, ys))
    n = len(next(iter(xs.values())))
    return min(n, max(PERMUTED_SAMPLES, int(PROCRUSTES_WORK / (wide_x * wide_y))))


def _procrustes_cell(x: Tensor, y: Tensor, blocks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Procrustes similarity of centred features and its jackknife standard error (nan: no blocks)."""
    cross, n = x.T @ y, len(x)
    value = min(1.0, (_nuclear(cross) / (x.norm() * y.norm())).item())
    if not len(blocks):
        return value, math.nan
    left, scale = [], []
    for rows in blocks:
        part_x, part_y, rest = x[rows], y[rows], n - len(rows)
        mean_x, mean_y = -part_x.sum(0) / rest, -part_y.sum(0) / rest
        left.append(cross - part_x.T @ part_y - rest * torch.outer(mean_x, mean_y))
        own = [
            total.square().sum() - part.square().sum() - rest * mean.square().sum()
            for total, part, mean in ((x, part_x, mean_x), (y, part_y, mean_y))
        ]
        scale.append((own[0] * own[1]).sqrt())
    estimates = _nuclear(torch.stack(left)) / torch.stack(scale)
    count = len(blocks)
    spread = (estimates - estimates.mean()).square().sum() * (count - 1) / count
    return value, spread.sqrt().item()


def _row_blocks(seen: Seen, rows: np.ndarray, seed: int) -> list[np.ndarray]:
    """Positions of `rows` in blocks to leave out: at random, or a declared group always as a whole."""
    n = len(rows)
    if seen.groups is None:
        count = min(N_BLOCKS, n // MIN_BLOCK)
        order = np.random.default_rng(seed).permutation(n)
        return list(np.array_split(order, count)) if count else []
    buckets = group_buckets(seen.groups[rows])
    return [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]


def _no_jackknife(xs: Layers, ys: Layers, n_blocks: int) -> str:
    """Why Procrustes gets no interval; "" when it does."""
    if n_blocks < FEWEST_BLOCKS:
        return f"no interval: {n_blocks} blocks of samples, {FEWEST_BLOCKS} needed"
    widths = itertools.product(xs.values(), ys.values())
    pairs = [sorted((x.shape[1], y.shape[1])) for x, y in widths]
    if n_blocks * sum(low**2 * high for low, high in pairs) > JACKKNIFE_WORK:
        return "no interval: layers too wide to leave out blocks of samples"
    return ""


def _procrustes_map(
    xs: Sequence[Tensor | None], ys: Sequence[Tensor | None], blocks: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(T, S) values and standard errors of centred features; nan for layers that do not vary."""
    values = np.full((len(xs), len(ys)), np.nan)
    errors = values.copy()
    slim_x, slim_y = ([None if part is None else _slim(part) for part in side] for side in (xs, ys))
    for (row, x), (column, y) in itertools.product(enumerate(slim_x), enumerate(slim_y)):
        if x is not None and y is not None:
            values[row, column], errors[row, column] = _procrustes_cell(x, y, blocks)
    return values, errors


def sums_of(xs: Layers, ys: Layers, groups: np.ndarray | None = None) -> Sums:
    """Sums over features at hand, by the estimator that suits their widths and number."""
    n = len(next(iter(xs.values())))
    dims_x, dims_y = ({name: part.shape[1] for name, part in side.items()} for side in (xs, ys))
    sums = start_sums(dims_x, dims_y, n=n, kept=True, groups=groups is not None)
    if sums is None:
        return Grams(xs, ys, groups)
    order = np.random.default_rng(0).permutation(n)
    for rows in np.array_split(order, max(1, n // BATCH)):
        sums.update(
            {name: part[rows] for name, part in xs.items()},
            {name: part[rows] for name, part in ys.items()},
            None if groups is None else groups[rows],
        )
    return sums


@dataclass(frozen=True, kw_only=True)
class SimilarityProbe:
    """Layer matrices "cka" and "procrustes" of teacher and student on validation and test.

    CKA is debiased, over all samples; permutations use one sample of each declared group. The
    untrained student's values stand beside both.
    """

    name: str = "cka"
    n_permutations: int = N_PERMUTATIONS

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterator[LayerMatrix]:
        for split in ("validation", "test"):
            if split in seen:
                yield self._cka(seen[split], setting)
                yield self._procrustes(seen[split], setting)

    def _cka(self, seen: Seen, setting: Setting) -> LayerMatrix:
        xs, ys = seen.teacher.features, seen.student.features
        groups = None if seen.groups is None else seen.groups[seen.teacher.rows]
        alone = np.arange(len(seen.teacher.rows))
        if groups is not None:
            alone = np.sort(np.unique(groups, return_index=True)[1])
        permutations = permutation_p(
            {name: part[alone] for name, part in xs.items()},
            {name: part[alone] for name, part in ys.items()},
            self.n_permutations,
            setting.seed,
        )
        moments, untrained = seen.moments, seen.untrained_moments
        if moments is None:
            moments = sums_of(xs, ys, groups)
        if untrained is None and seen.untrained is not None:
            untrained = sums_of(xs, seen.untrained.features, groups)
        return from_moments(
            moments,
            untrained,
            split=seen.split,
            reduce=setting.reduce,
            permutations=permutations,
        )

    def _procrustes(self, seen: Seen, setting: Setting) -> LayerMatrix:
        xs, ys = seen.teacher.features, seen.student.features
        n = _procrustes_rows(xs, ys)
        order = np.random.default_rng(setting.seed).permutation(len(seen.teacher.rows))
        rows = np.sort(order[:n])
        blocks = _row_blocks(seen, seen.teacher.rows[rows], setting.seed)
        extra = {} if seen.untrained is None else seen.untrained.features
        sides = [
            [_centered(part[rows], name)[0] for name, part in side.items()]
            for side in (xs, ys, extra)
        ]
        why = _no_jackknife(xs, ys, len(blocks))
        used = [] if why else blocks
        values, errors = _procrustes_map(sides[0], sides[1], used)
        low, high = _bounds(values, errors, max(2, len(used)), 0.0)
        reasons = {
            f"{row},{column}": "a layer is the same for all samples"
            for row, column in np.argwhere(np.isnan(values))
        }
        if why:
            _explain(values, reasons, why)
        return LayerMatrix(
            name="procrustes",
            split=cast(Any, seen.split),
            teacher_layers=tuple(xs),
            student_layers=tuple(ys),
            values=values,
            low=low,
            high=high,
            null_z=np.full_like(values, np.nan),
            untrained=_procrustes_map(sides[0], sides[2], [])[0] if sides[2] else np.array([]),
            teacher_dims=tuple(part.shape[1] for part in xs.values()),
            student_dims=tuple(part.shape[1] for part in ys.values()),
            reduce=setting.reduce,
            estimator=f"orthogonal Procrustes similarity, n = {n}; "
            + (f"interval: jackknife over {len(used)} blocks of samples; " if used else "")
            + "its null has no closed form",
            n=n,
            seed=setting.seed,
            reasons=reasons,
        )
