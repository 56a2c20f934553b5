"""The register that plans name losses from, and all losses as functions: `losses.kl(student, teacher)`.

Every loss reads (student, teacher), works in float32 at least (also under autocast), is a mean over the
batch, sends gradients to the student only, and is 0 for identical inputs unless its docstring says else.

Your own loss is a function of (student, teacher) that returns a scalar; it may take temperature, targets and
mask by those names. Try it with `gapkit.check_loss`, then give it a name that plans can use:

    def huber(student, teacher):
        return F.smooth_l1_loss(student.float(), teacher.detach().float())

    losses.register("huber", huber, tasks=("regression",))

One name may stand for several functions, and for reasons why there is none:

    losses.register("mine", {"classification": mine, "regression": "numbers have no classes"})

Say `by_batch=True` when a sample's part depends on the others of its batch, `least` when a small batch says
nothing, `same_shape=True` when both sides must have one shape.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gapkit.errors import InputError, unknown
from gapkit.teaching.feature_losses import CKA_SAMPLES, attention, cka_loss, hint
from gapkit.teaching.relation_losses import (
    contrastive,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from gapkit.teaching.response_losses import (
    cosine,
    dist,
    dist_multilabel,
    dist_regression,
    dkd,
    hard,
    hard_multilabel,
    kl,
    kl_multilabel,
    kl_regression,
    mse,
    rows,
    standardized_kl,
    standardized_kl_multilabel,
)

__all__ = [
    "KINDS",
    "TASKS",
    "Loss",
    "attention",
    "cka_loss",
    "contrastive",
    "cosine",
    "dist",
    "dist_multilabel",
    "dist_regression",
    "dkd",
    "hard",
    "hard_multilabel",
    "hint",
    "keywords_of",
    "kl",
    "kl_multilabel",
    "kl_regression",
    "layer_loss",
    "mse",
    "named",
    "names",
    "pkt",
    "register",
    "requires",
    "response_loss",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
    "standardized_kl",
    "standardized_kl_multilabel",
]

KINDS = ("response", "feature", "relation")
TASKS = ("classification", "multilabel", "regression", "embedding")
EXTRAS = ("temperature", "targets", "mask")
ANY = "*"

Form = Callable[..., Tensor]


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    Attributes:
        name: what plans call it.
        kind: "response" (outputs), "feature" or "relation" (a pair of layers).
        forms: the function for each kind of task, or for "*", any.
        needs: for each form, which of "temperature", "targets" and "mask" it has parameters for.
        reasons: why there is no form for a kind of task.
        by_batch: whether a sample's part depends on the other samples of the batch, so that several
            processes must gather theirs first.
        same_shape: whether student and teacher tensors must have one shape (a regressor is needed
            where they differ).
        least: samples that a batch must have.
    """

    name: str
    kind: str
    forms: Mapping[str, Form]
    needs: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str] = field(default_factory=dict)
    by_batch: bool = False
    same_shape: bool = False
    least: int = 1

    @property
    def fn(self) -> Form:
        """The first of its forms."""
        return next(iter(self.forms.values()))

    def fits(self, task: str) -> bool:
        """Whether there is a form for that kind of task."""
        return task in self.forms or ANY in self.forms

    def form(self, task: str) -> Form:
        """The function for that kind of task; an error naming the kinds that it has when there is none.

        >>> named("kl").form("regression").__name__
        'kl_regression'
        >>> named("dkd").reasons["regression"]
        'numbers have no classes'
        """
        if self.fits(task):
            return self.forms.get(task) or self.forms[ANY]
        if task not in TASKS:
            raise unknown("kind of task", task, TASKS)
        reason = f": {self.reasons[task]}" if task in self.reasons else ""
        raise InputError(
            f"Expected a loss for {task} but {self.name!r} is one for {', '.join(self.forms)}{reason}"
        )

    def call(self, task: str, student: Tensor, teacher: Tensor, **given: Any) -> Tensor:
        """Its value, by the form for that kind of task and with only those keywords that it takes.

        A form that takes no mask is shown what the mask keeps, as rows (m, d).
        """
        form = self.form(task)
        needs = self.needs[task if task in self.forms else ANY]
        tokens = task == "classification" and student.ndim == 3
        if "mask" not in needs and (given.get("mask") is not None or tokens):
            student, teacher, targets = rows(
                student, teacher, given.get("mask"), given.get("targets")
            )
            given = {**given, "targets": targets}
        if given.get("targets") is None and requires(form, "targets"):
            raise InputError(f"Expected targets for loss {self.name!r} but the data gives none")
        return form(student, teacher, **{key: given[key] for key in needs if key in given})


_LOSSES: dict[str, Loss] = {}


def register(
    name: str,
    fn: Form | Mapping[str, Form | str],
    kind: str = "response",
    *,
    by_batch: bool | None = None,
    tasks: Sequence[str] | None = None,
    same_shape: bool | None = None,
    least: int = 1,
) -> None:
    """Add a loss that plans can name.

    Args:
        name: new, a Python identifier.
        fn: (student, teacher) -> scalar, which may also take temperature, targets and mask by keyword; or
            such a function for each kind of task, or a sentence saying why there is none.
        kind: "response" (outputs), "feature" (one layer pair) or "relation" (one layer pair, by batch).
        by_batch: whether a sample's part depends on the rest of its batch; default for relations only.
        tasks: the kinds of task that one function is for, default any; of response losses only.
        same_shape: whether both sides must have one shape, default not.
        least: samples that a batch must have.

    Raises:
        InputError: when name, kind, tasks or function cannot be used.
    """
    _check_new(name, kind, least)
    given = _by_task(name, fn, tasks)
    if kind != "response" and set(given) != {ANY}:
        raise InputError(
            f"Expected no kinds of task for the {kind} loss {name!r} but got {', '.join(given)}"
        )
    forms = {task: form for task, form in given.items() if not isinstance(form, str)}
    if not forms:
        raise InputError(f"Expected a function for some kind of task of loss {name!r} but got none")
    _LOSSES[name] = Loss(
        name=name,
        kind=kind,
        forms=forms,
        needs={task: keywords_of(name, form) for task, form in forms.items()},
        reasons={task: form for task, form in given.items() if isinstance(form, str)},
        by_batch=kind == "relation" if by_batch is None else by_batch,
        same_shape=bool(same_shape),
        least=least,
    )


def _check_new(name: str, kind: str, least: int) -> None:
    if kind not in KINDS:
        raise unknown("kind of loss", kind, KINDS)
    if not isinstance(name, str) or not name.isidentifier() or name == "task":
        raise InputError(
            f"Expected a Python identifier other than 'task' (the labels' own) as loss name but got {name!r}"
        )
    if name in _LOSSES:
        raise InputError(f"Expected a new loss name but {name!r} is taken")
    if least < 1:
        raise InputError(f"Expected at least 1 sample as least of loss {name!r} but got {least}")


def _by_task(
    name: str, fn: Form | Mapping[str, Form | str], tasks: Sequence[str] | None
) -> dict[str, Form | str]:
    if isinstance(fn, Mapping) and tasks is not None:
        raise InputError(
            f"Expected tasks of loss {name!r} with one function but got {', '.join(fn)} beside them"
        )
    kinds = (ANY,) if tasks is None else (tasks,) if isinstance(tasks, str) else tasks
    given = dict(fn if isinstance(fn, Mapping) else dict.fromkeys(kinds, fn))
    for task in given:
        if task not in (*TASKS, ANY):
            raise unknown("kind of task", task, TASKS)
    return given


def keywords_of(name: str, fn: Form) -> tuple[str, ...]:
    """Which of "temperature", "targets" and "mask" a loss takes; an error when it takes something else."""
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


def requires(fn: Form, name: str) -> bool:
    """Whether a function cannot be called without that argument."""
    parameter = inspect.signature(fn).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def named(name: str) -> Loss:
    """The registered loss of that name; an error naming the nearest when there is none.

    >>> named("kl").needs["classification"], named("rkd_angle").least
    (('temperature', 'mask'), 3)
    """
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    return _LOSSES[name]


def names(kind: str | None = None, task: str | None = None) -> tuple[str, ...]:
    """Names of the registered losses, of one kind or of all, for one kind of task or for any.

    >>> names("response", "regression")[:3]
    ('kl', 'dist', 'mse')
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind of loss", kind, KINDS)
    if task is not None and task not in TASKS:
        raise unknown("kind of task", task, TASKS)
    return tuple(
        name
        for name, loss in _LOSSES.items()
        if kind in (None, loss.kind) and (task is None or loss.fits(task))
    )


def response_loss(
    name: str,
    student: Tensor,
    teacher: Tensor,
    *,
    task: str = "classification",
    temperature: float,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A registered response loss of a kind of task, given only what it takes.

    A loss that takes no mask is shown the samples or tokens that the mask keeps, as rows (m, K).

    Raises:
        InputError: when the name is unknown, is no response loss or none for this kind of task, or needs
            targets and none are given.

    >>> import torch
    >>> response_loss("mse", torch.ones(4), torch.zeros(4), task="regression", temperature=2.0).item()
    1.0
    """
    loss = named(name)
    if loss.kind != "response":
        raise InputError(f"Expected a response loss but {name!r} is a {loss.kind} loss")
    return loss.call(task, student, teacher, temperature=temperature, targets=targets, mask=mask)


def layer_loss(
    name: str,
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A registered feature or relation loss of one pair of layers, given only what it takes.

    Args:
        temperature: of a loss that takes one, default its own.
        mask: (n, T) of features (n, T, d), true where a token counts: the loss sees tokens as rows (m, d).

    Raises:
        InputError: when the name is unknown or is a response loss.

    >>> import torch
    >>> layer_loss("hint", torch.ones(2, 3, 4), torch.zeros(2, 3, 4), mask=torch.eye(2, 3)).item()
    1.0
    """
    loss = named(name)
    if loss.kind == "response":
        raise InputError(f"Expected a feature or relation loss but {name!r} is a response loss")
    given = {} if temperature is None else {"temperature": temperature}
    return loss.call(ANY, student, teacher, mask=mask, **given)


_NO_CLASSES = "numbers have no classes"
_VECTORS = "vectors are no answers; use 'cosine' or 'mse'"
_LENGTH = "the length is part of the answer, which a cosine does not see; use 'mse'"

register(
    "kl",
    {
        "classification": kl,
        "multilabel": kl_multilabel,
        "regression": kl_regression,
        "embedding": _VECTORS,
    },
)
register(
    "dkd",
    {
        "classification": dkd,
        "multilabel": "with two classes a label its second part (which of the others) is always 0",
        "regression": _NO_CLASSES,
        "embedding": _VECTORS,
    },
)
register(
    "dist",
    {
        "classification": dist,
        "multilabel": dist_multilabel,
        "regression": dist_regression,
        "embedding": "coordinates are no answers; use 'rkd_distance' or 'similarity_preserving'",
    },
    by_batch=True,
    least=2,
)
register(
    "standardized_kl",
    {
        "classification": standardized_kl,
        "multilabel": standardized_kl_multilabel,
        "regression": "mean and deviation of a sample's numbers are part of the answer; use 'kl' or 'mse'",
        "embedding": _VECTORS,
    },
)
register(
    "hard",
    {
        "classification": hard,
        "multilabel": hard_multilabel,
        "regression": "numbers have no hard answer; use 'mse'",
        "embedding": _VECTORS,
    },
)
register("mse", mse, tasks=TASKS, same_shape=True)
register(
    "cosine",
    {"embedding": cosine, "classification": _LENGTH, "multilabel": _LENGTH, "regression": _LENGTH},
    same_shape=True,
)
register("hint", hint, "feature", same_shape=True)
register("attention", attention, "feature")
register("cka_loss", cka_loss, "feature", by_batch=True, least=CKA_SAMPLES)
register("rkd_distance", rkd_distance, "relation", least=2)
register("rkd_angle", rkd_angle, "relation", least=3)
register("similarity_preserving", similarity_preserving, "relation", least=2)
register("pkt", pkt, "relation", least=3)
register("contrastive", contrastive, "relation", same_shape=True, least=2)
