"""Preflight: two samples of every split through every model, before anything is trained or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import SPLITS, Data
from gapkit.errors import InputError
from gapkit.guest import call, guest, moved
from gapkit.task import Task


def preflight(
    task: Task, data: Data, models: Mapping[str, nn.Module], device: torch.device | str = "cpu"
) -> None:
    """Raise InputError when models, data and task do not fit together; the models stay as they were.

    Args:
        models: "teacher" and "student"; whatever is not named "teacher" gets the student's view.
    """
    for split in SPLITS:
        data.check(split)
        batch = next(iter(data.batches(split, 2, np.arange(min(2, data.size(split))))))
        raw, targets = moved(batch.raw, device), data.targets(split)
        widths = {}
        for who, model in models.items():
            view = data.teacher_view(raw) if who == "teacher" else data.student_view(raw)
            outputs = _answer(task, model, view, f"{who} on {split}")
            task.check(outputs, targets, who)
            widths[who] = tuple(outputs.shape[1:])
        if task.same_shape and len(set(widths.values())) > 1:
            got = " and ".join(
                str(width[0] if len(width) == 1 else width) for width in widths.values()
            )
            raise InputError(
                f"Expected {' and '.join(widths)} to have the same classes but got {got}"
            )


def _answer(task: Task, model: nn.Module, view: Any, who: str) -> Tensor:
    try:
        with guest(model), torch.no_grad():
            return task.outputs(call(model, view))
    except InputError:
        raise
    except Exception as error:
        cause = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"Expected the {who} to accept its view but it raised {type(error).__name__}: {cause}"
        ) from error
