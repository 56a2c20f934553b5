"""Limits: what a student may weigh and take where it is to run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gapkit.family import count_flops, count_parameters
from gapkit.guest import call, guest
from gapkit.record import Record

WARM_UP, ROUNDS = 3, 15


class Limits(Record):
    """Upper bounds of a model; None leaves one open.

    Attributes:
        parameters: their number.
        flops: of the answer to one sample.
        milliseconds: of the answer to one sample, alone in its batch, median of repeats on the study's
            device.
    """

    parameters: int | None = Field(default=None, gt=0)
    flops: float | None = Field(default=None, gt=0)
    milliseconds: float | None = Field(default=None, gt=0)

    def excess(self, model: nn.Module, view: Any) -> str:
        """What of a model is beyond a limit, in words; "" when nothing is.

        Args:
            view: what the model is called with for one sample.

        >>> Limits(parameters=5).excess(nn.Linear(2, 3), torch.zeros(1, 2))
        '9 parameters, at most 5'
        """
        found = []
        if self.parameters is not None and (n := count_parameters(model)) > self.parameters:
            found.append(f"{n:,} parameters, at most {self.parameters:,}")
        if self.flops is not None and (flops := count_flops(model, view)) > self.flops:
            found.append(f"{flops:.3g} FLOPs, at most {self.flops:.3g}")
        if self.milliseconds is not None and (took := latency(model, view)) > self.milliseconds:
            found.append(f"{took:.3g} ms, at most {self.milliseconds:.3g}")
        return "; ".join(found)


def latency(model: nn.Module, view: Any) -> float:
    """Median milliseconds of one answer, after a few that do not count."""

    def once() -> float:
        start = time.perf_counter()
        call(model, view)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    with guest(model), torch.no_grad():
        times = [once() for _ in range(WARM_UP + ROUNDS)]
    return statistics.median(times[WARM_UP:])
