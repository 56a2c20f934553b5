"""Checkup: one batch through everything a study will do, before any of it starts; all mistakes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gapkit.data import SPLITS
from gapkit.errors import InputError
from gapkit.guest import call, guest, moved
from gapkit.record import Record

BATCH = 8
CLOSE = 1e-3

State = Literal["fine", "note", "wrong"]
SIGNS: dict[State, str] = {"fine": "✓", "note": "·", "wrong": "✗"}
Said = tuple[State, str]


class Item(Record):
    """One thing that was tried, and how it went."""

    name: str
    state: State
    said: str

    def __str__(self) -> str:
        return f"{SIGNS[self.state]} {self.name:<10} {self.said}"


class Checkup(Record):
    """Everything that was tried with one batch; nothing was trained and nothing written."""

    study: str
    device: str
    items: tuple[Item, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return all(item.state != "wrong" for item in self.items)

    def __str__(self) -> str:
        wrong = sum(item.state == "wrong" for item in self.items)
        end = "ready to run" if self.passed else f"{wrong} thing{'s' * (wrong > 1)} to mend"
        lines = [f"{self.study} on {self.device}: {end}", *map(str, self.items)]
        return "\n".join(lines)


def checkup(study: Any) -> Checkup:
    """Try data, views, both models in both modes, layers, family and one training step of a study.

    Models stay as they were. A model that is not given is stood in for by a fresh one of its size.
    """
    tried: tuple[tuple[str, Callable[[Any], Iterator[Said]]], ...] = (
        ("data", _data),
        ("views", _views),
        ("models", _models),
        ("family", _family),
        ("modes", _modes),
        ("layers", _layers),
        ("training", _step),
    )
    items: list[Item] = []
    for name, check in tried:
        if name in _left_out(study, items):
            said = "not tried: it follows from what is wrong above"
            items.append(Item(name=name, state="note", said=said))
        else:
            tries = _caught(check, study)
            items += [Item(name=name, state=state, said=said) for state, said in tries]
    return Checkup(study=study.name, device=str(study.device), items=tuple(items))


def _left_out(study: Any, items: Sequence[Item]) -> tuple[str, ...]:
    """Checks that could only repeat the mistakes found by now."""
    if not any(
        item.state == "wrong" and item.name in ("data", "views", "models") for item in items
    ):
        return ()
    return ("training",) if _answers(study) else ("modes", "layers", "training")


def _answers(study: Any) -> bool:
    """Whether both models take their views at all."""
    try:
        views = dict(zip(("teacher", "student"), _batch(study)))
        for who, model in _both(study).items():
            with guest(model), torch.no_grad():
                call(model, views[who])
    except Exception:
        return False
    return True


def _caught(check: Callable[[Any], Iterator[Said]], study: Any) -> Iterator[Said]:
    """What a check says; a mistake that ends it becomes its last word."""
    try:
        yield from check(study)
    except InputError as error:
        yield "wrong", str(error)
    except Exception as error:
        cause = (str(error).strip().splitlines() or ["no message"])[0]
        yield "wrong", f"{type(error).__name__}: {cause}"


def _batch(study: Any, split: str = "train") -> tuple[Any, Any, Any]:
    """Teacher's view, student's view and targets of the first samples of a split."""
    rows = np.arange(min(BATCH, study.data.size(split)))
    raw = moved(next(study.data.batches(split, len(rows), rows)).raw, study.device)
    targets = study.data.targets(split)
    few = None if targets is None else moved(torch.as_tensor(targets)[rows], study.device)
    return study.data.teacher_view(raw), study.data.student_view(raw), few


def _both(study: Any) -> dict[str, nn.Module]:
    return {"teacher": study.teacher_model_for_pricing, "student": study.student_for_pricing}


def _data(study: Any) -> Iterator[Said]:
    for split in SPLITS:
        study.data.check(split)
    sizes = ", ".join(f"{split} {study.data.size(split):,}" for split in SPLITS)
    yield "fine", f"{sizes} samples"
    _, _, targets = _batch(study)
    if targets is not None:
        yield "fine", f"targets {_shape(targets)}, the first: {_few(targets)}"


def _views(study: Any) -> Iterator[Said]:
    teacher, student, _ = _batch(study)
    if study.data.same_view:
        yield "fine", f"both models see {_shape(teacher)}"
    else:
        yield "fine", f"the teacher sees {_shape(teacher)}, the student {_shape(student)}"


def _models(study: Any) -> Iterator[Said]:
    study.check()
    views = dict(zip(("teacher", "student"), _batch(study)))
    for who, model in _both(study).items():
        with guest(model), torch.no_grad():
            outputs = study.task.outputs(call(model, views[who]))
        given = {"teacher": study.has_teacher, "student": study.has_student}[who]
        size = sum(part.numel() for part in model.parameters())
        said = f"{who}{'' if given else ' (fresh: none given)'}: {size:,} parameters, answers {_shape(outputs)}"
        finite = bool(torch.isfinite(outputs).all())
        yield ("fine", said) if finite else ("wrong", f"{said}, some of it not finite")


def _modes(study: Any) -> Iterator[Said]:
    """In eval mode an answer repeats, and does not depend on the other samples of a batch."""
    views = dict(zip(("teacher", "student"), _batch(study)))
    for who, model in _both(study).items():
        with guest(model), torch.no_grad():
            first, again = (study.task.outputs(call(model, views[who])) for _ in range(2))
            alone = study.task.outputs(call(model, _first(views[who], len(first))))
        if not _same(first, again):
            yield "wrong", f"{who}: in eval mode the same batch gives other answers the second time"
        elif not _same(first[:1], alone):
            yield (
                "wrong",
                f"{who}: in eval mode a sample's answer depends on the others in its batch",
            )
        else:
            yield "fine", f"{who}: eval mode repeats itself, sample by sample"


def _layers(study: Any) -> Iterator[Said]:
    from gapkit.probes.survey import taps_for

    wanted = (
        study.layers
        if isinstance(study.layers, Mapping)
        else dict.fromkeys(_both(study), study.layers)
    )
    for role in _both(study):
        asked: Any = {role: wanted.get(role)}  # one model at a time, so that both mistakes are said
        try:
            taps, _ = taps_for(
                _both(study),
                study.data,
                asked,
                study.reduce,
                "train",
                BATCH,
                study.device,
                study.seed,
            )
        except InputError as error:
            yield "wrong", str(error)
            continue
        found = {"teacher": taps.teacher_layers, "student": taps.student_layers}[role]
        shown = ", ".join(found[:4]) + (f", … {found[-1]}" if len(found) > 4 else "")
        yield "fine", f"{role}: {len(found)} layers: {shown}"


def _family(study: Any) -> Iterator[Said]:
    _, view, _ = _batch(study)
    wanted, counts = None, []
    for size in study.family.sizes:
        model = study.family.fresh(size, study.seed).to(study.device)
        try:
            with guest(model), torch.no_grad():
                shape = tuple(study.task.outputs(call(model, view)).shape[1:])
        except Exception as error:
            if size == study.family.teacher and not study.data.same_view:
                continue  # it sees what the teacher sees
            cause = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"Expected size {size} to take the student's view but it raised {type(error).__name__}: {cause}"
            ) from error
        wanted = wanted or shape
        if study.task.same_shape and shape != wanted:
            raise InputError(
                f"Expected every size to answer {wanted} but size {size} answers {shape}"
            )
        counts.append(f"{size}: {study.family.parameters(size):,}")
    shown = counts if len(counts) <= 5 else [*counts[:2], "…", *counts[-2:]]
    yield "fine", f"parameters by size {', '.join(shown)}"


def _step(study: Any) -> Iterator[Said]:
    """The recipe's own loss on one batch, and whether it moves the student."""
    from gapkit.teaching.objective import Objective

    study.check_recipe()
    teacher_view, student_view, targets = _batch(study)
    teacher = study.teacher_model_for_pricing
    student = study.family.fresh(study.family.student, study.seed).to(study.device)
    knowledge = study.knowledge[study.recipe_name]
    with guest(teacher), Objective(study.task, knowledge) as objective:
        objective.watch(student, teacher, student_view, teacher_view, study.seed)
        with torch.no_grad():
            theirs = call(teacher, teacher_view)
        student.train()
        loss = objective(call(student, student_view), theirs, targets)
        loss.backward()
    slopes = [part.grad for part in student.parameters() if part.grad is not None]
    said = f"loss of {study.recipe_name} {float(loss.detach()):.3g} on {BATCH} samples of train"
    if not bool(torch.isfinite(loss)):
        yield "wrong", f"{said}: not finite"
    elif not any(bool(slope.abs().sum() > 0) for slope in slopes):
        yield "wrong", f"{said}, but no gradient reaches the student"
    else:
        yield (
            "fine",
            f"{said}, {len(slopes)} of {len(list(student.parameters()))} tensors get a gradient",
        )


def _same(first: torch.Tensor, other: torch.Tensor) -> bool:
    scale = max(1.0, float(first.abs().max()))
    return first.shape == other.shape and float((first - other).abs().max()) <= CLOSE * scale


def _first(view: Any, n: int) -> Any:
    """The view of the first sample alone."""
    if isinstance(view, torch.Tensor):
        return view[:1] if view.ndim and len(view) == n else view
    if isinstance(view, Mapping):
        return {key: _first(item, n) for key, item in view.items()}
    if isinstance(view, (tuple, list)):
        return type(view)(_first(item, n) for item in view)
    return view


def _shape(view: Any) -> str:
    """Shape and type of a tensor, or of the parts of a view."""
    if isinstance(view, torch.Tensor):
        return (
            f"{'×'.join(map(str, view.shape)) or 'scalar'} {str(view.dtype).removeprefix('torch.')}"
        )
    if isinstance(view, Mapping):
        return "{" + ", ".join(f"{key}: {_shape(item)}" for key, item in view.items()) + "}"
    if isinstance(view, (tuple, list)):
        return "(" + ", ".join(map(_shape, view)) + ")"
    return type(view).__name__


def _few(targets: torch.Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in targets.flatten()[:6].tolist())
