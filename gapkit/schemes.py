"""Schemes: how one training step turns outputs of student and teachers into a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gapkit.errors import InputError, unknown
from gapkit.losses import response_loss
from gapkit.plans import Knowledge
from gapkit.task import Task


class Scheme(Protocol):
    """One step's loss: a scalar to minimize."""

    def __call__(
        self,
        task: Task,
        student: Tensor,
        teachers: Sequence[Tensor],
        targets: Tensor | None,
        knowledge: Sequence[Knowledge],
    ) -> Tensor: ...


def offline(
    task: Task,
    student: Tensor,
    teachers: Sequence[Tensor],
    targets: Tensor | None,
    knowledge: Sequence[Knowledge],
) -> Tensor:
    """A stable teacher: the weighted sum of the knowledge; several teachers count alike.

    student (n, ...), each teacher (n, ...), targets (n, ...); teachers get no gradient.

    >>> from gapkit.plans import knowledge_named
    >>> from gapkit.task import Classification
    >>> z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> loss = offline(Classification(), z, [z], torch.tensor([0, 1]), knowledge_named("kl4"))
    >>> round(loss.item(), 4)  # KL to itself is 0: a tenth of the cross-entropy is left
    0.022
    """
    total: Any = torch.zeros((), device=student.device)
    for part in knowledge:
        if part.weight == 0:
            continue
        if part.kind == "label":
            if targets is None:
                raise InputError("Expected targets for label knowledge but the data gives none")
            total = total + part.weight * task.loss(student, targets)
            continue
        if task.kind != "classification":
            raise InputError(
                f"Expected a classification task for response knowledge {part.loss!r} but got {task.kind}"
            )
        losses = [
            response_loss(
                part.loss, student, teacher, temperature=part.temperature, targets=targets
            )
            for teacher in teachers
        ]
        total = total + part.weight * torch.stack(losses).mean()
    return total


SCHEMES: dict[str, Scheme] = {"offline": offline}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name."""
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]
