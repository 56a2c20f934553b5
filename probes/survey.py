"""Run every probe over a teacher and a student, each split seen once: models and data -> Measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gapkit.data import SPLITS, Data
from gapkit.errors import InputError, unknown
from gapkit.measurement import Contributions, Curve, LayerMatrix, Measurement, Measurements
from gapkit.probes.features import Taps, observe
from gapkit.probes.layers import Wanted, choose_layers
from gapkit.probes.probe import Probe, Result, Seen, Setting, standard
from gapkit.probes.recorder import check_reduce

EXAMPLE_SAMPLES = 2
NO_LIMIT = 10**6

Layers = Sequence[Wanted] | Mapping[str, Sequence[Wanted]] | None
Progress = Callable[[str, int, int], None]


def measure(
    *,
    study: str,
    task: Any,
    data: Data,
    teacher: nn.Module,
    student: nn.Module,
    untrained: nn.Module | None = None,
    layers: Layers = None,
    reduce: str = "gap",
    probes: Sequence[Probe] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    splits: Sequence[str] = SPLITS,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Measurements:
    """Everything the probes say about a teacher and a student, on every split.

    Each split is seen once by all models, batch by batch; then every probe reads what was seen. The
    models are left as they were.

    Args:
        study: its name.
        untrained: a fresh student, measured beside: the row against which similarity is judged.
        layers: names, globs or module classes for both models, or {"teacher": [...], "student":
            [...]}; None: a default choice (`choose_layers`).
        reduce: how a layer's output becomes one vector per sample: "gap" or "mean", "grid:2",
            "flatten", "cls", "last"; "tokens": one per token.
        probes: which to run; None: gapkit's own and the registered ones.
        splits: which to look at.
        progress: called with a phase (a split's name, then "probes"), how much is done, of how much.

    Raises:
        InputError: for what does not fit, in one line; a failing probe is named.
    """
    models = {"teacher": teacher, "student": student}
    models |= {} if untrained is None else {"untrained": untrained}
    _check(models, splits, reduce, layers)
    taps, notes = taps_for(models, data, layers, reduce, splits[0], batch_size, device, seed)
    seen = {}
    for split in splits:
        step = None if progress is None else _stepper(progress, split, data.size(split))
        seen[split] = observe(split, data, task, models, taps, step)
        notes.append(_seen_note(seen[split], taps))
    setting = Setting(
        task=task,
        teacher=teacher,
        student=student,
        teacher_example=example(data, "teacher", splits[0]),
        student_example=example(data, "student", splits[0]),
        reduce=reduce,
        device=torch.device(device),
        seed=seed,
        data=data,
    )
    results = _run(standard() if probes is None else tuple(probes), seen, setting, progress)
    return _collect(study, results, notes)


def taps_for(
    models: Mapping[str, nn.Module],
    data: Data,
    layers: Layers,
    reduce: str,
    split: str,
    batch_size: int,
    device: torch.device | str,
    seed: int,
) -> tuple[Taps, list[str]]:
    """The layers that are meant, and a note on each choice; arguments as for `measure`."""
    wanted = layers if isinstance(layers, Mapping) else {"teacher": layers, "student": layers}
    chosen, notes = _choose(models, data, wanted, split, reduce == "tokens")
    taps = Taps(
        teacher_layers=chosen["teacher"],
        student_layers=chosen["student"],
        reduce=reduce,
        batch_size=batch_size,
        device=torch.device(device),
        seed=seed,
    )
    return taps, notes


def example(data: Data, role: str, split: str, n: int = 1) -> Any:
    """The view of the first n samples of a split."""
    order = np.arange(min(n, data.size(split)))
    batch = next(data.batches(split, len(order), order))
    return (data.teacher_view if role == "teacher" else data.student_view)(batch.raw)


def _check(
    models: Mapping[str, nn.Module], splits: Sequence[str], reduce: str, layers: Layers
) -> None:
    wrong = [
        f"Expected the {role} to be an nn.Module but got {type(model).__name__}"
        for role, model in models.items()
        if not isinstance(model, nn.Module)
    ]
    if not splits or isinstance(splits, str):
        wrong.append(f"Expected one or more splits but got {splits!r}")
    else:
        wrong += [str(unknown("split", split, SPLITS)) for split in splits if split not in SPLITS]
    if isinstance(layers, Mapping):
        roles = ("teacher", "student")
        wrong += [
            str(unknown("model in layers", role, roles)) for role in layers if role not in roles
        ]
    try:
        check_reduce(reduce)
    except InputError as error:
        wrong.append(str(error))
    if wrong:
        raise InputError("; ".join(wrong))


def _choose(
    models: Mapping[str, nn.Module],
    data: Data,
    wanted: Mapping[str, Sequence[Wanted] | None],
    split: str,
    tokens: bool,
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Layers of each model, and a note on each choice."""
    chosen, notes = {}, []
    for role in ("teacher", "student"):
        view = example(data, role, split, EXAMPLE_SAMPLES)
        model, names = models[role], wanted.get(role)
        try:
            chosen[role] = choose_layers(model, view, names, tokens=tokens)
            if names is None:
                n_all = len(choose_layers(model, view, None, NO_LIMIT, tokens))
        except InputError as error:
            raise InputError(f"{role}: {error}") from error
        count = len(chosen[role])
        how = "as asked" if names is not None else f"chosen, {n_all - count} left out"
        notes.append(f"{role}: {count} layers ({how}): {', '.join(chosen[role])}")
    return chosen, notes


def _stepper(progress: Progress, phase: str, total: int) -> Callable[[int], None]:
    return lambda done: progress(phase, done, total)


def _seen_note(seen: Seen, taps: Taps) -> str:
    n, kept = len(seen.teacher.outputs), len(seen.teacher.rows)
    how = "not taken" if seen.moments is None else seen.moments.estimator
    few = f"{kept:,} (cap {taps.cap:,}, chosen with seed {taps.seed})"
    what = "all" if kept == n else few
    if seen.teacher.tokens is not None:
        what = f"{few if kept == taps.cap else f'all {kept:,}'} tokens"
    return f"{seen.split}: {n:,} samples, features of {what} kept, reduce {taps.reduce}, layer sums: {how}"


def _run(
    probes: Sequence[Probe],
    seen: Mapping[str, Seen],
    setting: Setting,
    progress: Progress | None,
) -> list[Result]:
    results: list[Result] = []
    for done, probe in enumerate(probes, 1):
        try:
            for item in probe.measure(seen, setting):
                if not isinstance(item, Result):
                    raise InputError(
                        "Expected Measurement, LayerMatrix, Curve or Contributions but got "
                        f"{type(item).__name__}"
                    )
                results.append(item)
        except InputError as error:
            raise InputError(f"Probe {probe.name!r}: {error}") from error
        except Exception as error:
            raise RuntimeError(
                f"Probe {probe.name!r} failed with {type(error).__name__}: {error}"
            ) from error
        if progress is not None:
            progress("probes", done, len(probes))
    return results


def _collect(study: str, results: Sequence[Result], notes: Sequence[str]) -> Measurements:
    return Measurements(
        study=study,
        values=tuple(item for item in results if isinstance(item, Measurement)),
        matrices=tuple(item for item in results if isinstance(item, LayerMatrix)),
        curves=tuple(item for item in results if isinstance(item, Curve)),
        contributions=tuple(item for item in results if isinstance(item, Contributions)),
        notes=tuple(notes),
    )
