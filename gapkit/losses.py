"""Response, feature and relation losses as pure functions, and the register that plans name them from.

Every loss reads (student, teacher), works in float32 at least (also under autocast), is a mean over the
batch, sends gradients to the student only, and is 0 for identical inputs unless its docstring says else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError, unknown

KINDS = ("response", "feature", "relation")
EXTRAS = ("temperature", "targets", "mask")
CKA_SAMPLES = 8
NOISE = 1e-5  # a vector of unit scale that is shorter than this is rounding noise in float32


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _logits(
    student: Tensor, teacher: Tensor, temperature: float, least: int
) -> tuple[Tensor, Tensor]:
    """Both (n, K) logits over the temperature, wide, the teacher's detached."""
    if student.shape != teacher.shape or student.ndim != 2 or not len(student):
        raise InputError(
            "Expected student and teacher logits of one shape (samples, classes) but got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if student.shape[1] < least:
        raise InputError(
            f"Expected at least {least} classes for this loss but got {student.shape[1]}"
        )
    if not 0 < temperature < float("inf"):
        raise InputError(f"Expected a temperature above 0 but got {temperature}")
    return _wide(student) / temperature, _wide(teacher.detach()) / temperature


def _features(student: Tensor, teacher: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both as (n, d) features, wide, the teacher's detached; the widths may differ."""
    if min(student.ndim, teacher.ndim) < 2 or len(student) != len(teacher):
        raise InputError(
            "Expected student and teacher features (samples, ...) of the same samples but got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if len(student) < least:
        raise InputError(f"Expected at least {least} samples in the batch but got {len(student)}")
    return _wide(student.flatten(1)), _wide(teacher.detach().flatten(1))


def _unit(vectors: Tensor, floor: float = 0.0) -> Tensor:
    """Vectors along the last axis at length 1; those not above the floor are left as they are.

    Dividing by a small epsilon instead would send gradients of 1/epsilon through a zero vector.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > floor, length, torch.ones_like(length))


def _gram(features: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return features @ features.T


def _divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """(n,) KL(teacher‖student) of log-probabilities along the last axis, in nats."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


def kl(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """How far the student's softened answers are from the teacher's, in nats times τ².

    τ²·(1/B) Σ KL(p_T‖p_S) with p = softmax(z/τ), z the logits; from 0 up.

    Args:
        student, teacher: logits (n, K), or (n, T, K) of T tokens.
        temperature: τ > 0. τ² keeps the gradient's size when τ changes.
        mask: (n,) or (n, T), true where a sample or token counts; the mean is over those.

    Misleading: 'mean' reduction divides by K too (100 times too small at K = 100).
    Raises InputError for other shapes, for τ ≤ 0, for a mask that keeps nothing.
    Source: Hinton, Vinyals & Dean 2015, arXiv 1503.02531, section 2.

    >>> zs = torch.tensor([[0.0, 0.0]])
    >>> kl(zs, zs).item(), round(kl(zs, torch.tensor([[99.0, 0.0]]), temperature=1.0).item(), 4)
    (0.0, 0.6931)
    """
    if mask is not None and mask.shape != student.shape[:-1]:
        raise InputError(
            f"Expected a mask of shape {tuple(student.shape[:-1])} but got {tuple(mask.shape)}"
        )
    if student.ndim == 3 and student.shape == teacher.shape:
        student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
    zs, zt = _logits(student, teacher, temperature, least=2)
    each = _divergence(F.log_softmax(zs, -1), F.log_softmax(zt, -1))
    if mask is not None:
        each = each[mask.flatten().bool()]
        if not len(each):
            raise InputError("Expected a mask that keeps at least one sample but it keeps none")
    return temperature**2 * each.mean()


def dkd(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """KL split into "is it the target class" (weight α) and "which of the others" (weight β).

    τ²·(α·TCKD + β·NCKD): TCKD is the KL of (p_target, 1 − p_target), NCKD that of the softmax over the
    other K − 1 classes; KL itself is TCKD + (1 − p_target of the teacher)·NCKD. From 0 up.

    Args:
        student, teacher: logits (n, K), K ≥ 3 (with K = 2 NCKD is always 0).
        targets: (n,) integer labels.

    Misleading: log(softmax) and additive masks of −1000 turn confident logits into inf; here the sums
    stay logarithms. Raises InputError for other shapes, K = 2, labels outside 0 … K − 1.
    Source: Zhao et al. 2022, arXiv 2203.08679, equations 5 and 7.
    """
    zs, zt = _logits(student, teacher, temperature, least=3)
    n, classes = zs.shape
    if targets.shape != (n,) or targets.is_floating_point():
        raise InputError(
            f"Expected integer targets of shape ({n},) but got {targets.dtype} {tuple(targets.shape)}"
        )
    if targets.min() < 0 or targets.max() >= classes:
        raise InputError(
            f"Expected targets from 0 to {classes - 1} but got {int(targets.min())} to {int(targets.max())}"
        )
    other = ~F.one_hot(targets.long(), classes).bool()
    binary, rest = [], []
    for z in (zs, zt):
        others = z[other].view(n, classes - 1)
        pair = torch.stack([z[~other], others.logsumexp(1)], dim=1)
        binary.append(F.log_softmax(pair, 1))
        rest.append(F.log_softmax(others, 1))
    each = alpha * _divergence(*binary) + beta * _divergence(*rest)
    return temperature**2 * each.mean()


def dist(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """How badly the student's answers correlate with the teacher's, within samples and within classes.

    τ²·[β(1 − mean over rows of ρ) + γ(1 − mean over columns of ρ)], ρ Pearson's correlation of the
    probabilities softmax(z/τ), (n, K). Range 0 to 2τ²(β + γ).

    Misleading: with B = 1 the class term says nothing; it is refused unless γ = 0. A row or column that is
    constant has no correlation: it counts as ρ = 0, so identical inputs with such a column score above 0.
    Raises InputError for other shapes, for one sample, for K = 2 with β ≠ 0 (ρ of two numbers is ±1).
    Source: Huang et al. 2022, arXiv 2205.10536, equations 8 to 11.

    >>> zs = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    >>> abs(round(dist(zs, zs).item(), 5))
    0.0
    """
    zs, zt = _logits(student, teacher, temperature, least=3 if beta else 2)
    if gamma and len(zs) < 2:
        raise InputError("Expected at least 2 samples for the class term of dist but got 1")
    logs, logt = F.log_softmax(zs, 1), F.log_softmax(zt, 1)
    rows = _correlation(logs, logt).mean()
    columns = _correlation(logs.T, logt.T).mean() if gamma else torch.zeros_like(rows)
    return temperature**2 * (beta * (1 - rows) + gamma * (1 - columns))


def _correlation(logx: Tensor, logy: Tensor) -> Tensor:
    """(n,) Pearson correlation of exp(x) and exp(y), row by row.

    Scaled so that each row's largest value is 1 (ρ does not change): a class that no sample of the batch
    comes near would otherwise fall below float32's reach.
    """
    units = []
    for log in (logx, logy):
        scaled = (log - log.detach().amax(1, keepdim=True)).exp()
        units.append(_unit(scaled - scaled.mean(1, keepdim=True), NOISE))
    return (units[0] * units[1]).sum(1)


def standardized_kl(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """KL after each sample's logits are brought to mean 0 and deviation 1, so that only their shape counts.

    `kl` of (z − mean z)/std z at temperature τ, logits (n, K), population deviation; from 0 up. Also 0 when the
    student's logits are the teacher's times a positive number.

    Misleading: with K = 2 only the sign of the difference is left, so it is refused; a row of equal logits
    stands as uniform. Raises InputError for other shapes.
    Source: Sun et al. 2024, arXiv 2403.01427, section 4 and algorithm 1.
    """
    zs, zt = _logits(student, teacher, 1.0, least=3)
    return kl(_standardized(zs), _standardized(zt), temperature)


def _standardized(logits: Tensor) -> Tensor:
    centered = logits - logits.mean(1, keepdim=True)
    return centered * (centered.square().mean(1, keepdim=True) + 1e-12).rsqrt()


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features that a regressor has brought to one shape (n, ...).

    The mean is over samples and features; from 0 up, in squared units of the feature.

    Misleading: grows with the teacher's scale, so its weight does not carry over to another layer; the
    regressor belongs in the optimizer and the checkpoint. Raises InputError when shapes differ.
    Source: Romero et al. 2015 (FitNets), arXiv 1412.6550, equation 3 (there ½ of the sum).
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"Expected student features of the teacher's shape {tuple(teacher.shape)} (a regressor makes "
            f"them so) but got {tuple(student.shape)}"
        )
    features, wanted = _features(student, teacher, least=1)
    return F.mse_loss(features, wanted)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently the two look at the image: distance of their normalized energy maps.

    (1/B) Σ ‖q_S/‖q_S‖ − q_T/‖q_T‖‖² with q = Σ_c a_c² over the channels of (n, c, h, w). Range 0 to 2; the number of
    channels may differ, and a positive factor on either side changes nothing.

    Misleading: across architectures it can cost several points of accuracy. Raises InputError for features that
    are not 4-D, and when heights or widths differ.
    Source: Zagoruyko & Komodakis 2017, arXiv 1612.03928, equation 2 (squared).
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] != teacher.shape[2:]:
        raise InputError(
            "Expected student and teacher features (samples, channels, height, width) of one height and "
            f"width but got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    _features(student, teacher, least=1)
    maps = [_unit(_wide(x).square().mean(1).flatten(1)) for x in (student, teacher.detach())]
    return (maps[0] - maps[1]).square().sum(1).mean()


def cka_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − debiased linear CKA of the batch: how much of the teacher's geometry the student lacks.

    CKA = <K̃, L̃>/(‖K̃‖‖L̃‖) with K̃, L̃ the U-centered Gram matrices of the features (n, d_S), (n, d_T). Range 0 to 2
    (above 1 where the student is less similar than chance); widths may differ; rotation and scale change nothing.

    Misleading: noisy in small batches, so n ≥ 8 is required. Raises InputError for fewer, for other shapes, and
    for features that do not vary within the batch.
    Source: Kornblith et al. 2019, arXiv 1905.00414; U-centering: Székely & Rizzo 2014.
    """
    features, wanted = _features(student, teacher, least=CKA_SAMPLES)
    units = []
    for who, x in (("student", features), ("teacher", wanted)):
        centered = x - x.mean(0)
        scale = centered.detach().abs().amax()
        if not scale > NOISE * x.detach().abs().amax():
            raise InputError(f"Expected {who} features that vary within the batch but they do not")
        units.append(_unit(_u_centered(_gram(centered / scale)).flatten()))
    return 1 - (units[0] * units[1]).sum()


def _u_centered(gram: Tensor) -> Tensor:
    n = len(gram)
    gram = gram - torch.diag_embed(gram.diagonal())
    rows = gram.sum(0) / (n - 2)
    centered = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    return centered - torch.diag_embed(centered.diagonal())


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently the two space out the samples: Huber loss of the pairwise distances.

    Mean over pairs i < j of huber(d_S(i, j)/mean d_S − d_T(i, j)/mean d_T), δ = 1, features (n, ...). From 0 up; the
    paper weighs it 25. Widths may differ.

    Misleading: two samples at one place have distance 0, where √ has no gradient (0 is used). Raises InputError
    for one sample (an empty mean) and for other shapes.
    Source: Park et al. 2019, arXiv 1904.05068, equations 5 to 8.
    """
    features, wanted = _features(student, teacher, least=2)
    above = torch.triu_indices(len(features), len(features), 1, device=features.device)
    spaced = []
    for x in (features, wanted):
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")[
            above[0], above[1]
        ]
        mean = distances.mean()
        spaced.append(distances / torch.where(mean > 0, mean, torch.ones_like(mean)))
    return F.smooth_l1_loss(spaced[0], spaced[1])


def rkd_angle(
    student: Tensor, teacher: Tensor, max_triplets: int = 20_000, seed: int = 0
) -> Tensor:
    """How differently the two arrange samples in angles: Huber loss of the cosines of triplets.

    Mean over triplets of huber(cos ∠_S(i, j, k) − cos ∠_T(i, j, k)), δ = 1, the angle at j, features (n, ...).
    Range 0 to 1.5; the paper weighs it 50. Widths may differ.

    Args:
        max_triplets: above this many (B(B−1)(B−2)/2 exist), a seeded sample of triplets is used.
        seed: of that sample.

    Misleading: a sample estimate above about 35 samples. Raises InputError below 3 samples, for other shapes.
    Source: Park et al. 2019, arXiv 1904.05068, equations 9 to 11.
    """
    features, wanted = _features(student, teacher, least=3)
    if max_triplets < 1:
        raise InputError(f"Expected max_triplets of at least 1 but got {max_triplets}")
    i, j, k = _triplets(len(features), max_triplets, seed).to(features.device)
    cosines = [(_unit(x[i] - x[j]) * _unit(x[k] - x[j])).sum(1) for x in (features, wanted)]
    return F.smooth_l1_loss(cosines[0], cosines[1])


def _triplets(n: int, most: int, seed: int) -> Tensor:
    """(3, m) triplets of different samples: all with i < k, or `most` drawn with replacement."""
    if n * (n - 1) * (n - 2) // 2 <= most:
        i, k = torch.triu_indices(n, n, 1)
        j = torch.arange(n).repeat_interleave(len(i))
        i, k = i.repeat(n), k.repeat(n)
        apart = (i != j) & (k != j)
        return torch.stack([i[apart], j[apart], k[apart]])
    generator = torch.Generator().manual_seed(seed)
    i, step, jump = (torch.randint(n - less, (most,), generator=generator) for less in (0, 1, 2))
    j = (i + 1 + step) % n
    low, high = torch.minimum(i, j), torch.maximum(i, j)
    k = jump + (jump >= low).long()
    return torch.stack([i, j, k + (k >= high).long()])


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Whether pairs alike for the teacher are alike for the student: distance of the batch's Gram rows.

    (1/B) Σ_i ‖g_S(i) − g_T(i)‖², g(i) row i of XXᵀ at length 1, features (n, ...). Range 0 to 4; widths may differ.

    Misleading: the paper divides by B², which makes its weight shrink as the batch grows; here it does not.
    Raises InputError for one sample and for other shapes.
    Source: Tung & Mori 2019, arXiv 1907.09682, equations 1 to 4.
    """
    features, wanted = _features(student, teacher, least=2)
    rows = [_unit(_gram(_at_unit_scale(x))) for x in (features, wanted)]
    return (rows[0] - rows[1]).square().sum(1).mean()


def _at_unit_scale(features: Tensor) -> Tensor:
    """Features whose largest entry is 1, so that a Gram matrix neither overflows nor vanishes."""
    largest = features.detach().abs().amax()
    return features / torch.where(largest > 0, largest, torch.ones_like(largest))


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Whether each sample has the same neighbors: KL of the cosine kernel's rows, in nats.

    (1/B) Σ_i KL(p_T(·|i)‖p_S(·|i)), p(j|i) = k_ij/Σ_{l≠i} k_il, k = (cosine + 1)/2, features (n, ...). From 0 up;
    widths may differ.

    Misleading: cosines of features far from 0 are all near 1 and the loss near 0. Raises InputError below 3
    samples (one neighbor has probability 1) and for other shapes.
    Source: Passalis & Tefas 2018, arXiv 1803.10837, equations 3 to 6.
    """
    features, wanted = _features(student, teacher, least=3)
    n = len(features)
    apart = ~torch.eye(n, dtype=torch.bool, device=features.device)
    logs = []
    for x in (features, wanted):
        kernel = (_gram(_unit(x))[apart].view(n, n - 1) + 1) / 2 + 1e-6  # opposite samples: log 0
        logs.append(kernel.log() - kernel.sum(1, keepdim=True).log())
    return _divergence(logs[0], logs[1]).mean()


@dataclass(frozen=True)
class Loss:
    """A registered loss: its name, its kind, the function, and the extra keywords that it takes.

    `needs` holds those of "temperature", "targets" and "mask" that the function has parameters for.
    """

    name: str
    kind: str
    fn: Callable[..., Tensor]
    needs: tuple[str, ...]


_LOSSES: dict[str, Loss] = {}


def register(name: str, fn: Callable[..., Tensor], kind: str = "response") -> None:
    """Add a loss that plans can name.

    Args:
        name: new, a Python identifier.
        fn: (student, teacher) -> scalar, which may also take temperature, targets and mask by keyword.
        kind: "response" (logits), "feature" (one layer pair) or "relation" (one layer pair, by batch).

    Raises:
        InputError: when name, kind or function cannot be used.
    """
    if kind not in KINDS:
        raise unknown("kind of loss", kind, KINDS)
    if not isinstance(name, str) or not name.isidentifier() or name == "task":
        raise InputError(
            f"Expected a Python identifier other than 'task' (the labels' own) as loss name but got {name!r}"
        )
    if name in _LOSSES:
        raise InputError(f"Expected a new loss name but {name!r} is taken")
    _LOSSES[name] = Loss(name, kind, fn, keywords_of(name, fn))


def keywords_of(name: str, fn: Callable[..., Tensor]) -> tuple[str, ...]:
    expected = f"Expected loss {name!r} to be a function of (student, teacher)"
    try:
        signature = inspect.signature(fn)
        parameters = list(signature.parameters.values())
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        needs = tuple(extra for extra in EXTRAS if takes_any or extra in signature.parameters)
        signature.bind(None, None, **dict.fromkeys(needs))
    except TypeError as error:
        raise InputError(
            f"{expected}, with temperature, targets and mask at most, but got {fn!r}: {error}"
        ) from error
    except ValueError as error:
        raise InputError(f"{expected} whose parameters can be read but got {fn!r}") from error
    return needs


def named(name: str) -> Loss:
    """The registered loss of that name; an error naming the nearest when there is none.

    >>> named("kl").needs, named("dist").needs
    (('temperature', 'mask'), ('temperature',))
    """
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    return _LOSSES[name]


def names(kind: str | None = None) -> tuple[str, ...]:
    """Names of the registered losses, of one kind or of all.

    >>> names("response")[:4]
    ('kl', 'dkd', 'dist', 'standardized_kl')
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind of loss", kind, KINDS)
    return tuple(name for name, loss in _LOSSES.items() if kind in (None, loss.kind))


def response_loss(
    name: str,
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A registered response loss, given only what it takes.

    A loss that takes no mask is shown the samples or tokens that the mask keeps, as rows (m, K).

    Raises:
        InputError: when the name is unknown, is no response loss, or needs targets and none are given.
    """
    loss = named(name)
    if loss.kind != "response":
        raise InputError(f"Expected a response loss but {name!r} is a {loss.kind} loss")
    if mask is not None and "mask" not in loss.needs:
        if mask.shape != student.shape[:-1] or not mask.any():
            raise InputError(
                f"Expected a mask of shape {tuple(student.shape[:-1])} that keeps something but got "
                f"{tuple(mask.shape)} keeping {int(mask.sum())}"
            )
        kept = mask.bool()
        student, teacher = student[kept], teacher[kept]
        targets = None if targets is None else targets[kept]
    given: dict[str, Any] = {"temperature": temperature, "targets": targets, "mask": mask}
    if "targets" in loss.needs and targets is None and requires(loss.fn, "targets"):
        raise InputError(f"Expected targets for loss {name!r} but the data gives none")
    return loss.fn(student, teacher, **{extra: given[extra] for extra in loss.needs})


def requires(fn: Callable[..., Tensor], name: str) -> bool:
    parameter = inspect.signature(fn).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


for _kind, _functions in (
    ("response", (kl, dkd, dist, standardized_kl)),
    ("feature", (hint, attention, cka_loss)),
    ("relation", (rkd_distance, rkd_angle, similarity_preserving, pkt)),
):
    for _fn in _functions:
        register(_fn.__name__, _fn, _kind)
