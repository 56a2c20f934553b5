"""Layer maps: CKA of every pair of a teacher's and a student's layers, with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import torch
from scipy import stats
from torch import nn

from gapkit.data import TARGET_KEYS
from gapkit.errors import InputError
from gapkit.guest import guest, moved, seeded
from gapkit.measurement import LayerMatrix
from gapkit.probes.features import same_tokens
from gapkit.probes.hsic import Products
from gapkit.probes.layers import choose_layers, device_of
from gapkit.probes.moments import Moments
from gapkit.probes.permutation import Permutations
from gapkit.probes.recorder import Recorder, Shown, check_reduce
from gapkit.probes.sums import BatchHsic, Sums, start_sums, widths

FEWEST_BLOCKS = 10


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
        reduce: how a layer's output becomes vectors; see `reduced`. It moves CKA by up to .4:
            compare maps with the same reduce only.
        debiased: see `cka`.

    Raises:
        InputError: for no batches, unknown layers, nan or inf, or a model that refuses the input.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> cka_map(net, net, [torch.randn(50, 3), torch.randn(50, 3)]).values.diagonal().round(6)
    array([1., 1.])
    """
    sums = layer_sums(teacher, student, batches, teacher_layers, student_layers, reduce)
    return from_moments(sums, debiased=debiased, reduce=reduce)


def layer_sums(
    teacher: nn.Module,
    student: nn.Module,
    batches: Iterable[Any],
    teacher_layers: Sequence[str] | None = None,
    student_layers: Sequence[str] | None = None,
    reduce: str = "gap",
) -> Moments | BatchHsic:
    """What `cka_map` is computed from; sums over parts of the data add up to those over all of it.

    Each process takes its own part of the batches, then either calls `all_reduce` on its sums, or
    saves them for one that merges them all; `from_moments` makes the map. Arguments and errors are
    those of `cka_map`.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> sums, more = (layer_sums(net, net, [torch.randn(50, 3)]) for _ in range(2))
    >>> sums.merge(more)
    >>> from_moments(sums).n
    100
    """
    check_reduce(reduce)
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise InputError("Expected at least one batch but got none")
    models = {"teacher": teacher, "student": student}
    few, tokens = _few(_input(first)), reduce == "tokens"
    wanted = {"teacher": teacher_layers, "student": student_layers}
    chosen = {
        role: choose_layers(model, few, wanted[role], tokens=tokens)
        for role, model in models.items()
    }
    with ExitStack() as stack:
        stack.enter_context(seeded(0))
        stack.enter_context(guest(teacher, student))
        stack.enter_context(torch.no_grad())
        recorders = [
            stack.enter_context(Recorder(model, chosen[role], reduce, role).open())
            for role, model in models.items()
        ]
        dims = [widths(_shown(recorder, few).features) for recorder in recorders]
        sums = start_sums(*dims, groups=tokens)
        assert sums is not None  # only features kept till the end are left to Gram matrices
        if isinstance(sums, BatchHsic):
            for recorder in recorders:
                recorder.keep = sums.grams
        for batch in itertools.chain([first], source):
            shown = [_shown(recorder, _input(batch)) for recorder in recorders]
            xs, ys = (one.features for one in shown)
            groups = _sequences(shown, sums.n_batches) if tokens else None
            if isinstance(sums, BatchHsic):
                grams: list[Any] = [*xs.values(), *ys.values()]
                sums.add(grams, groups)
            else:
                sums.update(xs, ys, groups)
    return sums


def _shown(recorder: Recorder, view: Any) -> Shown:
    return recorder(moved(view, device_of(recorder.model)))


def _sequences(shown: Sequence[Shown], batch: int) -> np.ndarray:
    """Which sequence of which batch each token is of."""
    teacher, student = shown
    if teacher.places is None or not same_tokens(teacher, student):
        raise InputError(
            "Expected teacher and student to see the same tokens for reduce='tokens' "
            "but their places, ids or masks differ"
        )
    return np.array([f"{batch}.{sample}" for sample in teacher.places[:, 0].tolist()])


def _input(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {key: item for key, item in batch.items() if key not in TARGET_KEYS}
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _few(view: Any) -> Any:
    """Two samples of a view of tensors that all have as many; else the view as it is."""
    if isinstance(view, torch.Tensor):
        return view[:2]
    if isinstance(view, dict) and view:
        sizes = {len(item) if isinstance(item, torch.Tensor) else 0 for item in view.values()}
        if len(sizes) == 1 and sizes != {0}:
            return {key: item[:2] for key, item in view.items()}
    return view


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
    >>> from gapkit.probes.sums import sums_of
    >>> print(from_moments(sums_of({"a": x}, {"b": x})))
    cka 1 × 1, largest 1.000 at a ~ b (n = 100)
    """
    if not debiased and isinstance(moments, BatchHsic):
        raise InputError(
            "Expected debiased=True for layers this wide (sums over batches have no biased form) "
            "but got debiased=False; a smaller reduce fits"
        )
    products = moments.products()
    values = products.cka(debiased)
    n_blocks, why = len(moments.blocks), too_few(len(moments.blocks))
    errors = np.full_like(values, np.nan) if why else moments.blocks.standard_error()
    low, high = bounds(values, errors, n_blocks, -1.0)
    form = "debiased linear CKA (HSIC1)" if debiased else "biased linear CKA"
    estimator = (
        f"{form}, {moments.estimator}, n = {products.n}; "
        f"interval: jackknife over {n_blocks} blocks of samples"
    )
    if permutations is not None and permutations.n_permutations:
        estimator += f"; p: {permutations.n_permutations} permutations of {permutations.n} samples"
    scale = math.sqrt(2 / products.pairs) if products.pairs > 0 else math.nan
    return LayerMatrix(
        name=name,
        split=cast(Any, split),
        teacher_layers=tuple(moments.dims_x),
        student_layers=tuple(moments.dims_y),
        values=values,
        low=low,
        high=high,
        null_z=products.cka() / scale,
        p_value=np.array([]) if permutations is None else permutations.p_value,
        p_max=math.nan if permutations is None else permutations.p_max,
        untrained=np.array([]) if untrained is None else untrained.products().cka(debiased),
        teacher_dims=tuple(moments.dims_x.values()),
        student_dims=tuple(moments.dims_y.values()),
        reduce=reduce,
        estimator=estimator,
        n=products.n,
        seed=None if permutations is None else permutations.seed,
        reasons=everywhere(values, why) | _reasons(values, products, moments),
    )


def _reasons(values: np.ndarray, products: Products, moments: Sums) -> dict[str, str]:
    """Why cells are nan."""
    teacher, student = list(moments.dims_x), list(moments.dims_y)
    reasons = {}
    for row, column in np.argwhere(np.isnan(values)):
        if products.n < 4:
            why = f"{products.n} samples, 4 needed"
        elif products.constant_x[row]:
            why = f"the teacher's {teacher[row]!r} is the same for all samples"
        elif products.constant_y[column]:
            why = f"the student's {student[column]!r} is the same for all samples"
        else:
            why = "an unbiased self term is 0: no two samples are more alike than others"
        reasons[f"{row},{column}"] = why
    return reasons


def too_few(n_blocks: int) -> str:
    """Why that many blocks of samples give no interval; "" when they do."""
    short = f"no interval: {n_blocks} blocks of samples, {FEWEST_BLOCKS} needed"
    return short if n_blocks < FEWEST_BLOCKS else ""


def everywhere(values: np.ndarray, why: str) -> dict[str, str]:
    """The same reason for every cell, if there is one."""
    return {f"{row},{column}": why for row, column in np.ndindex(values.shape) if why}


def bounds(
    values: np.ndarray, error: np.ndarray, n_blocks: int, lowest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values ± t · jackknife error, cut at `lowest` and 1; nan without an error."""
    half = stats.t.ppf(0.975, max(1, n_blocks - 1)) * error
    return np.maximum(values - half, lowest), np.minimum(values + half, 1.0)
