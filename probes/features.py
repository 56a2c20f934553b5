"""Run both models once over the same batches and keep what their layers show; leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gapkit.data import Batch, Data
from gapkit.errors import InputError, unknown
from gapkit.guest import guest, moved, seeded
from gapkit.probes.moments import Moments
from gapkit.probes.probe import Observation, Seen
from gapkit.probes.recorder import Recorder, check_reduce
from gapkit.probes.sums import BatchHsic, Grams, start_sums, widths

ROLES = ("teacher", "student", "untrained")

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Taps:
    """Which layers are kept, and how.

    Attributes:
        teacher_layers, student_layers: names as `choose_layers` gives them; the untrained student
            is tapped like the student.
        reduce: how a layer's output becomes one vector per sample; see `reduced`.
        batch_size: samples a forward pass.
        cap: most samples whose features are kept (a seeded choice); sums go over all samples.
        device: where the models run; they come back to where they were.
        seed: of that choice and of the order in which samples are visited.
        moments: whether sums over all layer pairs are taken.
    """

    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    reduce: str = "gap"
    batch_size: int = 256
    cap: int = 10_000
    device: torch.device | str = "cpu"
    seed: int = 0
    moments: bool = True

    def __post_init__(self) -> None:
        check_reduce(self.reduce)
        if self.batch_size < 1 or self.cap < 1:
            raise InputError(
                f"Expected batch_size and cap of at least 1 but got {self.batch_size} and {self.cap}"
            )

    def layers(self, role: str) -> tuple[str, ...]:
        """The layers tapped in the teacher, the student or the untrained student."""
        return self.teacher_layers if role == "teacher" else self.student_layers


def observe(
    split: str,
    data: Data,
    task: Any,
    models: Mapping[str, nn.Module],
    taps: Taps,
    progress: Progress | None = None,
) -> Seen:
    """Run the models over a split, each batch once and the same for all, and keep what they show.

    Samples are visited in a seeded random order, so that a split sorted by class does not bias what
    is summed by batch; everything returned is in the split's own order. The models run in eval mode
    without gradients on `taps.device`; modes, flags, hooks, device and random states come back.

    Args:
        models: "teacher", "student" and, if wanted, "untrained".
        progress: called with the number of samples done.

    Raises:
        InputError: when a model refuses its view, shows nan or inf, lacks or never runs a tapped
            layer, or when outputs, targets and the other model's classes do not fit.
    """
    for role in models:
        if role not in ROLES:
            raise unknown("role of a model", role, ROLES)
    for role in ROLES[:2]:
        if role not in models:
            raise InputError(f"Expected a teacher and a student but the {role} is missing")
    run = _Pass(split, data, task, taps)
    done = 0
    with ExitStack() as stack:
        stack.enter_context(seeded(taps.seed))
        stack.enter_context(guest(*models.values()))
        stack.enter_context(placed(models.values(), taps.device))
        stack.enter_context(torch.no_grad())
        recorders = {
            role: stack.enter_context(Recorder(model, taps.layers(role), taps.reduce, role).open())
            for role, model in models.items()
        }
        for batch in data.batches(split, taps.batch_size, run.order):
            shown = {
                role: recorder(run.view(role, batch.raw)) for role, recorder in recorders.items()
            }
            run.add(batch, shown)
            done += len(batch.positions)
            if progress is not None:
                progress(done)
    return run.result()


@contextmanager
def placed(models: Iterable[nn.Module], device: torch.device | str) -> Iterator[None]:
    """Models on a device inside, back where they were outside; those spread over several stay."""
    homes: list[tuple[nn.Module, torch.device]] = []
    try:
        for model in models:
            places = {part.device for part in (*model.parameters(), *model.buffers())}
            if len(places) == 1 and places != {torch.device(device)}:
                homes.append((model, places.pop()))
                model.to(device)
        yield
    finally:
        for model, home in homes:
            model.to(home)


class _Pass:
    """One pass over a split: what is stored and what is summed."""

    def __init__(self, split: str, data: Data, task: Any, taps: Taps) -> None:
        self.split, self.data, self.task, self.taps = split, data, task, taps
        self.n = data.size(split)
        self.order = np.random.default_rng(taps.seed).permutation(self.n)
        self.rows = np.sort(self.order[: taps.cap])
        self.outputs: dict[str, Tensor] = {}
        self.features: dict[str, dict[str, Tensor]] = {}
        self.groups = data.groups(split)
        self.targets: Tensor | None = None
        self.sums: dict[str, Moments | BatchHsic | None] = {}

    def view(self, role: str, raw: Any) -> Any:
        view = self.data.teacher_view if role == "teacher" else self.data.student_view
        return moved(view(raw), self.taps.device)

    def add(self, batch: Batch, shown: Mapping[str, tuple[Any, dict[str, Tensor]]]) -> None:
        """Check and keep what the models showed of one batch."""
        first = not self.outputs
        targets = self.data.target(batch.raw)
        if targets is not None:
            targets = torch.as_tensor(targets).cpu()
            if self.targets is None:
                self.targets = torch.empty(self.n, *targets.shape[1:], dtype=targets.dtype)
            self.targets[batch.positions] = targets
        features: dict[str, dict[str, Tensor]] = {}
        outputs: dict[str, Tensor] = {}
        for role, (raw, parts) in shown.items():
            outputs[role] = self.task.outputs(raw).detach().to("cpu", torch.float32)
            features[role] = {name: part.cpu() for name, part in parts.items()}
            self._same_n(outputs[role], f"outputs from the {role}", batch)
            for name, part in features[role].items():
                self._same_n(part, f"features from the {role} at {name!r}", batch)
                self._finite(part, f"features but got {{}} from the {role} at {name!r}", batch)
            self._finite(outputs[role], f"outputs but got {{}} from the {role}", batch)
            self._keep(role, batch.positions, outputs[role], features[role])
        if first:
            self._same_classes(outputs)
            for role, output in outputs.items():
                self.task.check(output, targets, role)
            self._start_sums(features)
        groups = None if self.groups is None else self.groups[batch.positions]
        for role, sums in self.sums.items():
            if sums is not None:
                sums.update(features["teacher"], features[role], groups)

    def _keep(
        self, role: str, positions: np.ndarray, outputs: Tensor, features: Mapping[str, Tensor]
    ) -> None:
        """Put what a model showed back into the split's order, features of the chosen rows only."""
        if role not in self.outputs:
            self.outputs[role] = torch.empty(self.n, *outputs.shape[1:])
            self.features[role] = {
                name: torch.empty(len(self.rows), part.shape[1]) for name, part in features.items()
            }
        self.outputs[role][positions] = outputs
        slots = np.searchsorted(self.rows, positions).clip(max=len(self.rows) - 1)
        wanted = self.rows[slots] == positions
        for name, part in features.items():
            self.features[role][name][slots[wanted]] = part[wanted]

    def _same_n(self, part: Tensor, what: str, batch: Batch) -> None:
        if not part.ndim or len(part) != len(batch.positions):
            raise InputError(
                f"Expected {len(batch.positions)} samples first in the {what} "
                f"but got shape {tuple(part.shape)}"
            )

    def _finite(self, part: Tensor, what: str, batch: Batch) -> None:
        flat = part.flatten(1)
        bad = ~flat.isfinite()
        if not bad.any():
            return
        row = int(bad.any(1).nonzero()[0, 0])
        value = flat[row][bad[row]][0].item()
        name = self.data.ids(self.split)[batch.positions[row]]
        raise InputError(
            f"Expected finite {what.format(value)} for sample {str(name)!r} "
            f"({int(bad[row].sum())} of {flat.shape[1]} values)"
        )

    def _same_classes(self, outputs: Mapping[str, Tensor]) -> None:
        widths = {role: output.shape[-1] for role, output in outputs.items() if output.ndim > 1}
        if self.task.kind not in ("classification", "multilabel") or len(widths) != len(outputs):
            return
        for role, width in widths.items():
            if width != widths["teacher"]:
                raise InputError(
                    f"Expected teacher and {role} to have the same classes "
                    f"but got {widths['teacher']} and {width}"
                )

    def _start_sums(self, features: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Sums for every student beside the teacher; None where `Grams` of what is kept serve."""
        for role in features:
            if role != "teacher" and self.taps.moments:
                self.sums[role] = start_sums(
                    widths(features["teacher"]),
                    widths(features[role]),
                    n=self.n,
                    kept=self.n <= self.taps.cap,
                    groups=self.groups is not None,
                    n_pairs=len(features) - 1,
                )

    def result(self) -> Seen:
        """All that was seen, as a Seen."""
        seen: dict[str, Observation] = {}
        for role, outputs in self.outputs.items():
            layers = self.taps.layers(role)
            seen[role] = Observation(outputs, layers, self.features[role], self.rows)
            self.task.check(outputs, self.targets, role)
        moments = {
            role: sums or Grams(seen["teacher"].features, seen[role].features, self.groups)
            for role, sums in self.sums.items()
        }
        return Seen(
            split=self.split,
            teacher=seen["teacher"],
            student=seen["student"],
            untrained=seen.get("untrained"),
            targets=self.targets,
            groups=self.groups,
            slices=self.data.slices(self.split),
            moments=moments.get("student"),
            untrained_moments=moments.get("untrained"),
        )
