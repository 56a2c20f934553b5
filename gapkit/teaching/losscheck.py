"""check_loss(): says what is wrong with a user's own distillation loss, by how it behaves."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gapkit.errors import InputError
from gapkit.guest import seeded
from gapkit.losses import keywords_of, kl, requires
from gapkit.record import Record


class LossCheck(Record):
    """What is wrong with a distillation loss, one sentence a fault; nothing found means `ok`."""

    name: str
    n_classes: int
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.problems

    def __str__(self) -> str:
        found = "; ".join(self.problems) or "no fault found"
        return f"{self.name} (K = {self.n_classes}): {found}"


def check_loss(fn: Callable[..., Tensor], n_classes: int = 10, seed: int = 0) -> LossCheck:
    """Say what is wrong with a response loss of one's own, by how it behaves on random logits.

    Looks for: 'mean' and 'sum' reduction, swapped arguments, a missing τ² (when `fn` takes `temperature`), a
    teacher that is not detached, logits, probabilities and logarithms mixed up, a minimum elsewhere than at
    student = teacher, and nan or inf for confident logits.

    Args:
        fn: (student logits (n, K), teacher logits (n, K)) -> scalar; may take temperature and targets by keyword.
        n_classes: K of the logits that it is tried on.
        seed: of those logits.

    Raises:
        InputError: when `fn` cannot be called with two logits.

    >>> print(check_loss(lambda s, t: F.kl_div(s.log_softmax(1), t.detach().softmax(1)), n_classes=4))
    <lambda> (K = 4): 'mean' reduction: also divides by the number of classes; use 'batchmean'
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    keywords_of(name, fn)
    if n_classes < 2:
        raise InputError(f"Expected at least 2 classes to try a loss on but got {n_classes}")
    with seeded(seed), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # F.kl_div warns of its 'mean'; here it becomes a sentence
        student, teacher = 3 * torch.randn(2, 24, n_classes)
        try:
            result = _ask(fn, student, teacher)
        except Exception as error:
            raise InputError(
                f"Expected loss {name!r} to take student and teacher logits of shape "
                f"{tuple(student.shape)} but it raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(result, Tensor) or result.ndim:
            got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else repr(result)
            problems = [f"'none' reduction: expected a scalar tensor but got {got}"]
        elif not result.isfinite():
            problems = [_NAN]
        elif mixture := _examine_mixture(fn, student, teacher):
            problems = [mixture]  # whatever else it shows follows from this
        else:
            problems = [fault for examine in _EXAMINED if (fault := examine(fn, student, teacher))]
    return LossCheck(name=name, n_classes=n_classes, problems=tuple(problems))


_NAN = (
    "log and probabilities mixed up: nan or inf at ordinary logits, as F.kl_div gives when its target "
    "is logits or log-probabilities instead of probabilities"
)


def _ask(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor, **extra: Any) -> Tensor:
    if requires(fn, "targets"):
        extra["targets"] = teacher.argmax(1)
    if requires(fn, "temperature"):
        extra.setdefault("temperature", 4.0)
    return fn(student, teacher, **extra)


def _value(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor, **extra: Any) -> float:
    with torch.no_grad():
        return float(_ask(fn, student, teacher, **extra))


def _gradients(
    fn: Callable[..., Tensor], student: Tensor, teacher: Tensor, **extra: Any
) -> tuple[Tensor, Tensor]:
    """Gradients to student and teacher; zeros where none arrives."""
    pair = (student.clone().requires_grad_(), teacher.clone().requires_grad_())
    loss = _ask(fn, *pair, **extra)
    if not loss.requires_grad:
        return torch.zeros_like(student), torch.zeros_like(teacher)
    found = torch.autograd.grad(loss, pair, allow_unused=True)
    to_student, to_teacher = (torch.zeros_like(z) if g is None else g for z, g in zip(pair, found))
    return to_student, to_teacher


def _takes_temperature(fn: Callable[..., Tensor]) -> bool:
    return "temperature" in inspect.signature(fn).parameters


def _examine_mean(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    """A divergence of probabilities does not notice classes that have none; one that divides by K does."""
    whole, moved = _value(fn, student, teacher), _value(fn, student + 5, teacher - 3)
    if whole == 0 or abs(whole - moved) > 1e-3 * abs(whole):
        return ""  # reads logits, not probabilities: a mean over classes is its owner's choice
    classes = student.shape[1]
    for fill in (-1000.0, -60.0):  # the second for those that take the log of a softmax
        shares = [
            _value(fn, *(F.pad(z, (0, more * classes), value=fill) for z in (student, teacher)))
            / whole
            for more in (1, 3)
        ]
        if all(torch.tensor(shares).isfinite()):
            divided = abs(shares[0] - 1 / 2) < 0.02 and abs(shares[1] - 1 / 4) < 0.02
            fault = "'mean' reduction: also divides by the number of classes; use 'batchmean'"
            return fault if divided else ""
    return ""


def _examine_sum(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    once, twice = (
        _value(fn, student, teacher),
        _value(fn, student.repeat(2, 1), teacher.repeat(2, 1)),
    )
    grows = abs(twice) > 1.5 * abs(once)
    return "'sum' reduction: grows with the batch; use 'batchmean'" if grows else ""


def _examine_roles(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    reached = tuple(bool(g.abs().sum() > 0) for g in _gradients(fn, student, teacher))
    if reached == (False, True):
        return "swapped arguments: trains its second argument; expected fn(student, teacher)"
    if reached == (False, False):
        return "no gradient reaches the student"
    if reached == (True, True):
        return "teacher not detached: the gradient reaches it"
    return ""


def _examine_direction(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    """KL(T‖S) grows without bound where the student rules out what the teacher allows; KL(S‖T) saturates."""
    if not _gradients(fn, student, teacher)[0].abs().sum() > 0:
        return ""
    sure, unsure = F.one_hot(student.argmax(1), student.shape[1]).float(), student / 30
    for gap in (1000.0, 60.0):
        student_sure = _value(fn, gap * sure, unsure)
        teacher_sure = _value(fn, unsure, gap * sure)
        if student_sure == student_sure and teacher_sure == teacher_sure:  # neither is nan
            fault = "swapped arguments: computes KL(student‖teacher) instead of KL(teacher‖student)"
            return fault if teacher_sure > 2 * max(student_sure, 0.0) else ""
    return ""


def _examine_temperature(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    if not _takes_temperature(fn):
        return ""
    warm, hot = (
        _gradients(fn, student, teacher, temperature=tau)[0].norm() for tau in (20.0, 40.0)
    )
    fades = bool(warm > 1.5 * hot)
    return (
        "τ² missing: the gradient fades as the temperature rises; multiply by τ²" if fades else ""
    )


def _examine_mixture(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    """Whether the values are, up to one factor, those of a known way to mix up logits and logarithms."""
    scales = (1.0, 2.0, 3.0, 0.7)
    pairs = [(scale * student, scale * teacher.roll(turn, 0)) for turn, scale in enumerate(scales)]
    extra: dict[str, Any] = {"temperature": 2.0} if _takes_temperature(fn) else {}
    values = torch.tensor([_value(fn, *pair, **extra) for pair in pairs])
    for tau in (2.0,) if extra else (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0):
        for known in zip(*(_mixtures(*pair, tau) for pair in pairs)):
            ratios = values / torch.stack([value for _, value in known])
            if bool((ratios - ratios[0]).abs().max() < 1e-3 * ratios[0].abs()):
                return f"log and probabilities mixed up: {known[0][0]}"
    return ""


def _examine_minimum(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    least, slope = _value(fn, teacher, teacher), _gradients(fn, teacher, teacher)[0]
    if not (abs(least) < float("inf") and bool(slope.isfinite().all())):
        return "nan or inf at student = teacher"
    downhill = -slope / slope.norm().clamp_min(1e-30)
    ways = [torch.randn_like(teacher) for _ in range(3)] + [downhill * teacher.numel() ** 0.5]
    others = [
        _value(fn, teacher + step * way, teacher) for step in (0.03, 0.3, 3.0) for way in ways
    ]
    margin = 1e-4 * abs(_value(fn, student, teacher) - least) + 1e-6 * abs(least)
    lower = min(others) < least - margin
    return "not minimal at student = teacher: other answers score lower" if lower else ""


def _examine_confident(fn: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> str:
    sure, other = (500 * F.one_hot(z.argmax(1), z.shape[1]).float() for z in (student, teacher))
    for zs, zt in ((sure, other), (sure, teacher), (student, other), (other, other)):
        if not (
            abs(_value(fn, zs, zt)) < float("inf") and _gradients(fn, zs, zt)[0].isfinite().all()
        ):
            return "nan or inf for confident logits: use log_softmax, not the log of a softmax"
    return ""


def _mixtures(zs: Tensor, zt: Tensor, tau: float) -> Iterator[tuple[str, Tensor]]:
    """Each known way to mix up logits, probabilities and logarithms, and its value at that temperature."""
    soft, wanted = (zs / tau).softmax(1), (zt / tau).softmax(1)
    got = "log-probabilities but got"
    for given, as_what in ((soft, "probabilities"), (zs / tau, "logits")):
        value = F.kl_div(given, wanted, reduction="batchmean")
        yield f"F.kl_div takes the student's {got} {as_what}", value
    value = F.kl_div((zs / tau).log_softmax(1), wanted, reduction="batchmean", log_target=True)
    yield f"log_target=True takes the teacher's {got} probabilities", value
    yield "the softmax is taken twice on both sides", kl(soft, wanted, 1.0)
    yield "the softmax is taken twice on both sides", kl(zs.softmax(1), zt.softmax(1), tau)
    yield "the student's softmax is taken twice", kl(soft, zt / tau, 1.0)
    yield "the teacher's softmax is taken twice", kl(zs / tau, wanted, 1.0)


_EXAMINED = (
    _examine_mean,
    _examine_sum,
    _examine_roles,
    _examine_direction,
    _examine_temperature,
    _examine_minimum,
    _examine_confident,
)
