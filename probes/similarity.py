"""How alike two representations of the same samples are: CKA, and neighbours and RSA beside it."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gapkit.errors import InputError
from gapkit.probes.hsic import inner_product, is_constant, own_hsic1, scaled_hsic1, u_centered

Features = Tensor | np.ndarray


def centered(given: Features, name: str) -> tuple[Tensor | None, int]:
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
    if not debiased:
        return inner_product(a, b) / math.sqrt(inner_product(a, a) * inner_product(b, b))
    scale = math.sqrt(own_hsic1(a) * own_hsic1(b))
    return scaled_hsic1(a, b) / scale if scale > 0 else math.nan


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
    a, b, n = centered_pair(x, y)
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
    a, b, n = centered_pair(x, y)
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
    a, b, n = centered_pair(x, y)
    if a is None or b is None or n < 3:
        return math.nan
    upper = np.triu_indices(n, 1)
    ranks = [stats.rankdata(_squared_distances(part).numpy()[upper]) for part in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])
