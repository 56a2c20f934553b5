"""Start: the weights that a stage's model takes over, and whether its outputs fit its sources'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.errors import InputError
from gapkit.guest import call, guest, seeded
from gapkit.plans import Stage
from gapkit.training.answers import Source
from gapkit.training.inherit import inherit
from gapkit.training.sources import Sources


def starting_weights(
    stage: Stage, model: nn.Module, student: nn.Module | None, source: nn.Module | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights that a fresh model takes over from the failing student, or from its source, with what to say of them.

    Raises:
        InputError: when there is none to take from, when the student's names and shapes differ, or
            when nothing of the source fits.
    """
    giver = student if stage.init == "student" else source
    if giver is None:
        raise InputError(
            f"Expected a model to start stage {stage.name!r} from ({stage.init}) but there is none"
        )
    given, wanted = giver.state_dict(), model.state_dict()
    if stage.init == "inherit":
        found = inherit(given, wanted)
        return found.state, (str(found),)
    differ = [
        name for name in wanted if name not in given or given[name].shape != wanted[name].shape
    ]
    if differ:
        raise InputError(
            f"Expected weights of the same shapes to start stage {stage.name!r} from ({stage.init}) "
            f"but {len(differ)} of {len(wanted)} differ, first {differ[0]!r}"
        )
    return {name: given[name].detach().clone() for name in wanted}, ()


def check_outputs(
    model: nn.Module, stage: Stage, known: Sequence[Source], sources: Sources
) -> None:
    """Refuse a stage that learns from answers of another shape than its model's."""
    task, data = sources.task, sources.data
    if not task.same_shape or not any(
        part.kind == "response" for phase in stage.phases for part in phase.knowledge
    ):
        return
    first = np.arange(min(2, data.size("train")))
    with guest(model), seeded(0), torch.no_grad():
        batch = next(iter(data.batches("train", 2, first)))
        width = task.outputs(call(model, data.student_view(batch.raw))).shape[1:]
    for source in known:
        theirs = sources.outputs(source.key, "validation").shape[1:]
        if theirs != width:
            raise InputError(
                f"Expected teacher and student to have the same classes but {source.key!r} gives "
                f"{tuple(theirs)} and size {stage.size!r} gives {tuple(width)}"
            )
