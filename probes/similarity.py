"""How alike two representations of the same samples are: CKA; neighbors and RSA beside it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.hsic import (
    RELATIVE_ZERO,
    inner_product,
    is_constant,
    own_hsic1,
    scaled_hsic1,
    u_centered,
)
from gapkit.probes.pairwise import N_NEIGHBORS, distance_ranks, median_distances, neighbors

Features = Tensor | np.ndarray


def centered(given: Features, name: str) -> tuple[Tensor | None, int]:
    """Features in float64 without their mean (None when the same for all samples), and n; checked."""
    if not isinstance(given, Tensor):
        given = np.require(given, requirements=("C", "W"))  # torch takes no other memory
        if given.dtype.kind not in "biuf":
            raise InputError(f"Expected real numbers in {name} but got {given.dtype}")
    tensor = torch.as_tensor(given).detach().cpu()
    if tensor.is_complex():
        raise InputError(f"Expected real numbers in {name} but got {tensor.dtype}")
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise InputError(
            f"Expected {name} of shape (samples, features) but got {tuple(tensor.shape)}"
        )
    eps = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    tensor = tensor.to(torch.float64)
    if not tensor.isfinite().all():
        raise InputError(f"Expected finite features in {name} but got nan or inf")
    moved = tensor - tensor.mean(0)
    spread, magnitude = moved.square().sum().item(), tensor.square().sum().item()
    return None if is_constant(spread, magnitude, eps) else moved, len(tensor)


def centered_pair(x: Features, y: Features) -> tuple[Tensor | None, Tensor | None, int]:
    """Both sides `centered`, and their common n."""
    a, n = centered(x, "x")
    b, n_y = centered(y, "y")
    if n != n_y:
        raise InputError(f"Expected the same samples in x and y but got {n} and {n_y}")
    return a, b, n


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
    a, b, n = centered_pair(x, y)
    if n < 4:
        return math.nan
    return 0.0 if a is None or b is None else scaled_hsic1(a, b) / (n * (n - 3))


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
    a, b, n = centered_pair(x, y)
    if a is None or b is None or (debiased and n < 4):
        return math.nan
    a, b = a / a.norm(), b / b.norm()  # fourth powers of very large or small features overflow
    if not debiased:
        return inner_product(a, b) / math.sqrt(inner_product(a, a) * inner_product(b, b))
    scale = math.sqrt(own_hsic1(a) * own_hsic1(b))
    return scaled_hsic1(a, b) / scale if scale > 0 else math.nan


def rbf_cka(x: Features, y: Features, bandwidth: float = 1.0, debiased: bool = True) -> float:
    """Whether samples that are near in one representation are near in the other: CKA, Gaussian kernels.

    `cka` with the kernel exp(-d²/(2σ²)), σ = bandwidth · median distance (Kornblith 2019,
    1905.00414, section 3). Like `cka` it does not see rotation, shift and scale; far samples all
    count alike, so it is less ruled by a few large directions. It depends on the bandwidth: towards
    linear CKA for a large one, and nothing but neighbors for a small one.

    Args:
        x, y: (n, p) and (n, q) features of the same samples.
        bandwidth: in median distances.
        debiased: see `cka`.

    Returns:
        The similarity in [-1, 1], 1 for equal features and about 0 for unrelated ones; nan for
        fewer than 4 samples, where `cka` is, or when over half of all pairs of samples coincide.

    Raises:
        InputError: as `cka`, and unless bandwidth > 0.

    >>> x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    >>> round(rbf_cka(x, 3 * x), 6)
    1.0
    """
    if not bandwidth > 0:
        raise InputError(f"Expected a bandwidth above 0 but got {bandwidth}")
    a, b, n = centered_pair(x, y)
    if a is None or b is None or n < 4:
        return math.nan
    near_x, near_y = median_distances(a), median_distances(b)
    if near_x is None or near_y is None:
        return math.nan
    k, l_ = (torch.exp(near / (-2 * bandwidth**2)) for near in (near_x, near_y))
    if debiased:
        k, l_ = u_centered(k), u_centered(l_)
    else:
        k, l_ = (gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean() for gram in (k, l_))
    own = k.square().sum().item(), l_.square().sum().item()
    if min(own) <= RELATIVE_ZERO * n**2:
        return math.nan
    return (k * l_).sum().item() / math.sqrt(own[0] * own[1])


def mutual_knn(x: Features, y: Features, k: int = N_NEIGHBORS) -> float:
    """Share of each sample's k nearest neighbors that both representations agree on.

    Mean over samples of |N_x ∩ N_y| / k with Euclidean distances (Huh 2024, 2405.07987, who
    normalize features first). Local, so it sees what CKA's large directions hide. It depends on n
    and k: compare values of the same n and k only. Samples that tie for the last places are
    neighbors in part, by their chance to be drawn, so that a layer in which many samples coincide
    does not agree by their order.

    Args:
        x, y: (n, p) and (n, q) features of the same samples.

    Returns:
        The share in [0, 1]: 1 for equal features (less where neighbors tie), k/(n-1) on average
        for unrelated ones; nan when one side is the same for all samples.

    Raises:
        InputError: as `cka`, and unless 1 <= k < n.

    >>> x = torch.arange(6.0)[:, None] ** 2
    >>> mutual_knn(x, -x, k=2)
    1.0
    """
    a, b, n = centered_pair(x, y)
    if not 1 <= k < n:
        raise InputError(f"Expected 1 <= k < {n} samples but got k = {k}")
    if a is None or b is None:
        return math.nan
    return ((neighbors(a, k)[0] * neighbors(b, k)[0]).sum(dtype=torch.float64) / (n * k)).item()


def rsa(x: Features, y: Features) -> float:
    """Whether samples that are far apart in one representation are far apart in the other.

    Representational similarity analysis: Spearman correlation of all pairwise Euclidean distances
    (Kriegeskorte 2008, 10.3389/neuro.06.004.2008), distances that agree to 7 digits being ties.
    It does not see rotation, shift and scale. Large distances rule it: two clusters on both sides
    make it high whatever happens within them.

    Args:
        x, y: (n, p) and (n, q) features of the same samples.

    Returns:
        The correlation in [-1, 1], 1 for equal features, 0 on average for unrelated ones; nan for
        fewer than 3 samples or when all distances of one side are equal.

    Raises:
        InputError: as `cka`.

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> round(rsa(x, 2 * x + 1), 6)
    1.0
    """
    a, b, n = centered_pair(x, y)
    if a is None or b is None or n < 3:
        return math.nan
    first, second = distance_ranks(a).centered, distance_ranks(b).centered
    scale = math.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else math.nan
