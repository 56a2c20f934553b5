"""Teachers: what the sources of a training say about each batch, kept before or asked now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gapkit.data import Data
from gapkit.guest import guest, moved
from gapkit.probes.layers import device_of
from gapkit.task import Task
from gapkit.teaching.objective import layers_of
from gapkit.teaching.taps import Answer, Taps, ask, attention_mask, shapes
from gapkit.training.answers import OUTPUTS, Kept, Source
from gapkit.training.job import Job


class Teachers:
    """The sources of one job: in eval mode, without gradients, each seeing its own view.

    Args:
        job: names them, and what of their answers was kept.
        task, data: what outputs mean and what each is shown.
    """

    def __init__(self, job: Job, task: Task, data: Data) -> None:
        self.job, self.task, self.data = job, task, data
        self.layers = layers_of(job.knowledge, 1)
        self.device = torch.device("cpu")
        self._taps: list[Taps] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Have all of them on `device` with their layers watched; leave them as they were."""
        models = [source.model for source in self.job.sources]
        with guest(*models):
            for model in models:
                model.to(self.device)
            self._taps = [Taps(model, self.layers, "teacher") for model in models]
            try:
                yield
            finally:
                for taps in self._taps:
                    taps.close()

    def shapes(self, positions: np.ndarray, raw: Any) -> list[Answer]:
        """Their answers to some samples, for the shapes."""
        found = []
        for source, kept in zip(self.job.sources, self.job.kept):
            if kept is not None:
                found.append(self._kept(kept, positions, raw, source))
                continue
            view = self._view(source)(moved(raw, device_of(source.model)))
            found.append(shapes(source.model, view, self.task.outputs, self.layers, source.key))
        return found

    def answers(self, positions: np.ndarray, raw: Any, places: Sequence[int]) -> list[Answer]:
        """What those at these places say about a batch that lies on the device."""
        found = []
        for place in places:
            source, kept = self.job.sources[place], self.job.kept[place]
            if kept is not None:
                found.append(self._kept(kept, positions, raw, source))
                continue
            taps = self._taps[place] if self._taps else None
            with torch.no_grad():
                found.append(ask(source.model, self._view(source)(raw), self.task.outputs, taps))
        return found

    def _kept(self, kept: Kept, positions: np.ndarray, raw: Any, source: Source) -> Answer:
        """A source's answer from what was kept; its mask comes with the batch."""
        rows = moved(dict(kept.rows(positions)), self.device)
        features = {name.partition("/")[2]: rows[name] for name in rows if name != OUTPUTS}
        mask = attention_mask(self._view(source)(raw)) if features else None
        return Answer(rows[OUTPUTS], features, mask)

    def _view(self, source: Source) -> Any:
        return self.data.teacher_view if source.sees == "teacher" else self.data.student_view
