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
from gapkit.probes.recorder import Recorder, Shown, check_reduce
from gapkit.probes.store import Kept, Rows, put
from gapkit.probes.sums import BatchHsic, Grams, start_sums, widths
from gapkit.task import IGNORED

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
        cap: most samples (or tokens) whose features are kept, a seeded choice, fewer when they would
            take more than 4 GiB; sums go over all samples.
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
    planned: int | None = None,
) -> Seen:
    """Run the models over a split, each batch once and the same for all, and keep what they show.

    Samples are visited in a seeded random order, so that a split sorted by class does not bias what
    is summed by batch; everything returned is in the split's own order. The models run in eval mode
    without gradients on `taps.device`; modes, flags, hooks, device and random states come back. Only
    outputs grow with the number of samples (on disk when large); kept features are bounded.

    Args:
        models: "teacher", "student" and, if wanted, "untrained".
        progress: called with the number of samples done.
        planned: samples that the sums are chosen for, when this is only a trial of a longer pass.

    Raises:
        InputError: when a model refuses its view, shows nan or inf, lacks or never runs a tapped
            layer, when outputs, targets and the other model's classes do not fit, or when the data
            gives another sample each time it is asked.
    """
    for role in models:
        if role not in ROLES:
            raise unknown("role of a model", role, ROLES)
    for role in ROLES[:2]:
        if role not in models:
            raise InputError(f"Expected a teacher and a student but the {role} is missing")
    data.check(split)
    run = _Pass(split, data, task, taps, planned)
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
            run.add(
                batch,
                {role: recorder(run.view(role, batch.raw)) for role, recorder in recorders.items()},
            )
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

    def __init__(
        self, split: str, data: Data, task: Any, taps: Taps, planned: int | None = None
    ) -> None:
        self.split, self.data, self.task, self.taps = split, data, task, taps
        self.n = data.size(split)
        self.planned = planned or self.n
        self.order = np.random.default_rng(taps.seed).permutation(self.n)
        self.tokens = taps.reduce == "tokens"
        self.groups = data.groups(split)
        if self.groups is None and self.tokens:
            self.groups = np.arange(self.n)  # tokens of one sample depend on each other
        self.outputs: dict[str, Tensor] = {}
        self.targets: Tensor | None = None
        self.kept: Kept | None = None
        self.sums: dict[str, Moments | BatchHsic | None] = {}

    def view(self, role: str, raw: Any) -> Any:
        view = self.data.teacher_view if role == "teacher" else self.data.student_view
        return moved(view(raw), self.taps.device)

    def add(self, batch: Batch, shown: Mapping[str, Shown]) -> None:
        """Check and keep what the models showed of one batch."""
        outputs = {
            role: self.task.outputs(one.raw).detach().to("cpu", torch.float32)
            for role, one in shown.items()
        }
        features = {
            role: {name: part.cpu() for name, part in one.features.items()}
            for role, one in shown.items()
        }
        rows = self._rows(batch, shown)
        for role, output in outputs.items():
            self._same_n(output, len(batch.positions), f"outputs from the {role}")
            for name, part in features[role].items():
                where = f"features from the {role} at {name!r}"
                self._same_n(part, len(rows.owner), where)
                self._finite(part, rows.owner, where)
            self._finite(output, batch.positions, f"outputs from the {role}")
        self._keep_targets(batch)
        for role, output in outputs.items():
            self._keep_outputs(role, batch.positions, output)
        if self.kept is None:
            self._same_shape(outputs)
            for role, output in outputs.items():
                targets = None if self.targets is None else self.targets[batch.positions]
                self.task.check(output, targets, role)
            self._start(features)
        assert self.kept is not None
        self.kept.add(rows, features)
        groups = None if self.groups is None else self.groups[rows.owner]
        for role, sums in self.sums.items():
            if sums is not None:
                sums.update(features["teacher"], features[role], groups)

    def _rows(self, batch: Batch, shown: Mapping[str, Shown]) -> Rows:
        """Which samples (and tokens) the rows of the features are; the same for all models."""
        if not self.tokens:
            return Rows(batch.positions, None)
        first = shown["teacher"]
        for role, one in shown.items():
            if not same_tokens(first, one):
                raise InputError(
                    f"Expected teacher and {role} to see the same tokens for reduce='tokens' but their "
                    "ids or masks differ (two tokenizers?); compare sentences with reduce='mean'"
                )
        assert first.places is not None
        sample, place = first.places.T.numpy()
        return Rows(batch.positions[sample], place)

    def _keep_targets(self, batch: Batch) -> None:
        targets = self.data.target(batch.raw)
        if targets is not None:
            part = torch.as_tensor(targets).cpu()
            self.targets = put(self.targets, batch.positions, part, self.n, IGNORED, "targets")

    def _keep_outputs(self, role: str, positions: np.ndarray, outputs: Tensor) -> None:
        what = f"outputs of the {role}"
        self.outputs[role] = put(self.outputs.get(role), positions, outputs, self.n, 0, what)

    @staticmethod
    def _same_n(part: Tensor, n: int, what: str) -> None:
        if not part.ndim or len(part) != n:
            raise InputError(
                f"Expected {n} samples first in the {what} but got shape {tuple(part.shape)}"
            )

    def _finite(self, part: Tensor, owner: np.ndarray, what: str) -> None:
        if part.sum().isfinite():
            return
        flat = part.flatten(1)
        bad = ~flat.isfinite()
        if not bad.any():
            return
        row = int(bad.any(1).nonzero()[0, 0])
        value = flat[row][bad[row]][0].item()
        name = self.data.ids(self.split)[owner[row]]
        kind, _, where = what.partition(" ")
        raise InputError(
            f"Expected finite {kind} but got {value} {where} for sample {str(name)!r} "
            f"({int(bad[row].sum())} of {flat.shape[1]} values)"
        )

    def _same_shape(self, outputs: Mapping[str, Tensor]) -> None:
        if not self.task.same_shape:
            return
        shapes = {role: tuple(output.shape[1:]) for role, output in outputs.items()}
        for role, shape in shapes.items():
            if shape != shapes["teacher"]:
                wanted, got = (
                    item[0] if len(item) == 1 else item for item in (shapes["teacher"], shape)
                )
                what = "classes" if len(shape) == 1 else "tokens and classes"
                raise InputError(
                    f"Expected teacher and {role} to have the same {what} but got {wanted} and {got}"
                )

    def _start(self, features: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Storage for the first batch's widths; sums for every student beside the teacher.

        The sums are None where `Grams` of what is kept serve.
        """
        by_role = {role: widths(parts) for role, parts in features.items()}
        self.kept = Kept(by_role, self.order, self.taps.cap, self.tokens)
        for role in features:
            if role != "teacher" and self.taps.moments:
                self.sums[role] = start_sums(
                    by_role["teacher"],
                    by_role[role],
                    n=None if self.tokens else self.planned,
                    kept=self.kept.everything and self.planned <= self.taps.cap,
                    groups=self.groups is not None,
                    n_pairs=len(features) - 1,
                )

    def result(self) -> Seen:
        """All that was seen, as a Seen."""
        assert self.kept is not None
        kept = self.kept
        kept.close()
        seen: dict[str, Observation] = {}
        for role, outputs in self.outputs.items():
            layers = self.taps.layers(role)
            rows, tokens = kept.rows, kept.tokens
            seen[role] = Observation(outputs, layers, kept.features[role], rows, tokens)
            self.task.check(outputs, self.targets, role)
        groups = None if self.groups is None else self.groups[kept.rows]
        moments = {
            role: sums or Grams(seen["teacher"].features, seen[role].features, groups)
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


def same_tokens(one: Shown, two: Shown) -> bool:
    """Whether two models were shown the same tokens: places, and ids where both have them."""
    if one.places is None or two.places is None or not torch.equal(one.places, two.places):
        return False
    ids = [
        shown.view.get("input_ids") if hasattr(shown.view, "keys") else None for shown in (one, two)
    ]
    return ids[0] is None or ids[1] is None or torch.equal(ids[0].cpu(), ids[1].cpu())
