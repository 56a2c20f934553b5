"""Regressor: brings a student's features to the shape of a teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gapkit.errors import InputError
from gapkit.teaching.taps import pooled

MAPS = {4: nn.Conv2d, 5: nn.Conv3d}


class Regressor(nn.Module):
    """A learned linear map from the student's channels to the teacher's (FitNets, arXiv 1412.6550).

    A 1×1 convolution on maps, a linear layer on tokens and vectors. Heights and widths that differ are
    pooled to the smaller; features of unlike kinds (maps and tokens) are pooled to vectors.

    Args:
        student, teacher: features of one batch, for their shapes.

    >>> regressor = Regressor(torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4))
    >>> [tuple(side.shape) for side in regressor(torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4))]
    [(2, 5, 4, 4), (2, 5, 4, 4)]
    """

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        ours, theirs = aligned(student, teacher)
        place = 1 if ours.ndim in MAPS else -1
        n_in, n_out = ours.shape[place], theirs.shape[place]
        self.map: nn.Module = (
            MAPS[ours.ndim](n_in, n_out, 1) if ours.ndim in MAPS else nn.Linear(n_in, n_out)
        )

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The student's features brought over, and the teacher's that they stand beside."""
        ours, theirs = aligned(student, teacher)
        return self.map(ours.to(next(self.map.parameters()).dtype)), theirs


def aligned(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both with one number of dimensions and, for maps, one height and width; channels as they are.

    Raises:
        InputError: when both are tokens and their number differs.
    """
    if student.ndim != teacher.ndim:
        return pooled(student), pooled(teacher)
    if student.ndim == 4 and student.shape[2:] != teacher.shape[2:]:
        height, width = (min(sides) for sides in zip(student.shape[2:], teacher.shape[2:]))
        cells = (height, width)
        return F.adaptive_avg_pool2d(student, cells), F.adaptive_avg_pool2d(teacher, cells)
    if student.ndim > 4 and student.shape[2:] != teacher.shape[2:]:
        return pooled(student), pooled(teacher)
    if student.ndim == 3 and student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"Expected as many tokens from student and teacher but got {student.shape[1]} and "
            f"{teacher.shape[1]}; pool=True compares one vector a sample"
        )
    return student, teacher


def heads(layer: Tensor, outputs: Tensor) -> nn.Module:
    """An output of its own for a layer: mean over space or tokens, then linear to the outputs (n, K).

    Args:
        layer, outputs: of one batch, for their shapes; outputs (n, tokens, K) get one for each token.
    """
    n_out = outputs.shape[-1] if outputs.ndim > 1 else 1
    n_in = layer.shape[1] if layer.ndim > 3 else layer.shape[-1]
    return Head(nn.Linear(n_in, n_out), tokens=outputs.ndim == 3, flat=outputs.ndim == 1)


class Head(nn.Module):
    """The linear output of one exit."""

    def __init__(self, map: nn.Linear, tokens: bool, flat: bool) -> None:
        super().__init__()
        self.map, self.tokens, self.flat = map, tokens, flat

    def forward(self, layer: Tensor, mask: Tensor | None = None) -> Tensor:
        features = layer if self.tokens else pooled(layer, mask)
        outputs = self.map(features.to(self.map.weight.dtype))
        return torch.squeeze(outputs, -1) if self.flat else outputs
