"""Exhibits: a few real samples, and which parts of them speak for the teacher's answer in each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.guest import call, guest, moved, seeded
from gapkit.record import Array, Record

CANDIDATES, SHOWN, LARGEST = 64, 4, 64


class Exhibit(Record):
    """One sample. Arrays are (height, width); a vector or a sequence has height 1.

    Attributes:
        position: in its split.
        label: the sample's target, in words; "" when it has none that fits a line.
        answers: role ("teacher", "student", "reached") -> what it says, in words.
        picture: what the models look at, channels averaged; empty where that is words or tokens, which
            are never kept.
        maps: role -> how much each cell adds to the teacher's answer (below 0: speaks against it).
    """

    position: int
    label: str = ""
    answers: dict[str, str]
    picture: Array
    maps: dict[str, Array]


class Exhibits(Record):
    """The samples shown, how their maps were got, or why there are none."""

    split: str = "test"
    items: tuple[Exhibit, ...] = ()
    estimator: str = ""
    reason: str = ""


def exhibit(
    task: Any,
    data: Data,
    models: Mapping[str, nn.Module],
    device: torch.device | str = "cpu",
    seed: int = 0,
    split: str = "test",
) -> Exhibits:
    """Up to four samples of a split: first such on which the student departs from its teacher.

    The maps are Integrated Gradients of the teacher's answer from the mean sample (Sundararajan 2017,
    1703.01365), as the attribution probe takes them. All models are left as they were.

    Args:
        models: "teacher", "student" and perhaps "reached", the student after a plan.
    """
    from gapkit.probes.question import Unattributable

    rows = np.random.default_rng(seed).permutation(data.size(split))[:CANDIDATES]
    rows = np.sort(rows)
    with seeded(seed), guest(*models.values()):
        try:
            outputs = _outputs(task, data, split, rows, models, device)
            chosen = _telling(task, outputs)
            outputs = {role: found[chosen] for role, found in outputs.items()}
            return _shown(task, data, split, rows[chosen], models, outputs, device)
        except (Unattributable, InputError, RuntimeError) as error:
            return Exhibits(split=split, reason=(str(error).splitlines() or ["unknown"])[0])


def _views(data: Data, split: str, rows: np.ndarray, device: Any) -> tuple[Any, Any]:
    raw = next(data.batches(split, len(rows), rows)).raw
    views = data.teacher_view(raw), data.student_view(raw)
    return moved(views[0], device), moved(views[1], device)


def _outputs(
    task: Any,
    data: Data,
    split: str,
    rows: np.ndarray,
    models: Mapping[str, nn.Module],
    device: Any,
) -> dict[str, torch.Tensor]:
    teacher, student = _views(data, split, rows, device)
    with torch.no_grad():
        return {
            role: task.outputs(call(model, teacher if role == "teacher" else student)).float().cpu()
            for role, model in models.items()
        }


def _telling(task: Any, outputs: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Positions of the samples to show: three on which both answers differ most, one on which they agree."""
    teacher, student = (outputs[role].flatten(1) for role in ("teacher", "student"))
    if task.kind in ("classification", "multilabel") and teacher.shape == student.shape:
        teacher, student = teacher.softmax(1), student.softmax(1)
    if teacher.shape != student.shape:
        return np.arange(min(SHOWN, len(teacher)))
    apart = (teacher - student).norm(dim=1).numpy()
    order = np.argsort(-apart, kind="stable")
    spread = order[
        : max(1, len(order) // 2)
    ]  # not only the most extreme, which are often broken samples
    picks = spread[np.linspace(0, len(spread) - 1, min(SHOWN - 1, len(spread))).astype(int)]
    return np.array(list(dict.fromkeys([*picks.tolist(), int(order[-1])])))


def _shown(
    task: Any,
    data: Data,
    split: str,
    rows: np.ndarray,
    models: Mapping[str, nn.Module],
    outputs: Mapping[str, torch.Tensor],
    device: Any,
) -> Exhibits:
    from gapkit.probes.attribution import integrated_gradients
    from gapkit.probes.evidence import side_by_side
    from gapkit.probes.question import Question, Unattributable, named_answer

    teacher_view, student_view = _views(data, split, rows, device)
    asked, maps = {}, {}
    for role, model in models.items():
        whose = outputs[role] if task.kind == "embedding" else outputs["teacher"]
        named = named_answer(task.kind, whose).to(device)
        ask = Question(model, teacher_view if role == "teacher" else student_view, task, named)
        if not ask.differentiable():
            raise Unattributable(f"{role}: the answer has no gradient by the input")
        asked[role], maps[role] = ask, integrated_gradients(ask, ask.x, ask.baseline)
    cells = {}
    for role in maps:
        if role != "teacher":
            pair = {"teacher": asked["teacher"], "student": asked[role]}
            laid = side_by_side(pair, {"teacher": maps["teacher"], "student": maps[role]})
            cells["teacher"], cells[role] = laid
    words = asked["teacher"].ids is not None
    pictures = None if words else asked["teacher"].x.cpu()
    labels = data.targets(split)
    return Exhibits(
        split=split,
        estimator="Integrated Gradients of the teacher's answer, 16 steps"
        + ("" if words else " from the mean of the samples shown"),
        items=tuple(
            Exhibit(
                position=int(row),
                label=_label(task, labels, int(row)),
                answers={role: _said(task, outputs[role][at]) for role in models},
                picture=np.array([]) if pictures is None else _plane(pictures[at]),
                maps={role: _plane(found[at].detach().cpu()) for role, found in cells.items()},
            )
            for at, row in enumerate(rows)
        ),
    )


def _plane(x: torch.Tensor) -> np.ndarray:
    """(h, w) of any sample: channels averaged, volumes flattened to rows, no side above 64."""
    x = x.float()
    if x.ndim >= 3:
        x = x.mean(0)
    x = x.reshape(1, -1) if x.ndim < 2 else x.reshape(x.shape[0], -1)
    height, width = (min(side, LARGEST) for side in x.shape)
    if (height, width) != tuple(x.shape):
        x = nn.functional.adaptive_avg_pool2d(x[None, None], (height, width))[0, 0]
    return x.numpy().astype(np.float64).round(6)


def _said(task: Any, output: torch.Tensor) -> str:
    """An answer in a word: the class with its probability, a number, or nothing for what is longer."""
    if task.kind == "classification" and output.ndim == 1:
        chance = output.softmax(0)
        return f"{int(output.argmax())} ({float(chance.max()):.0%})"
    return f"{float(output):.3g}" if output.numel() == 1 else ""


def _label(task: Any, labels: Any, row: int) -> str:
    if labels is None or task.kind not in ("classification", "regression"):
        return ""
    label = torch.as_tensor(labels[row])
    if label.numel() != 1:
        return ""
    return str(int(label)) if task.kind == "classification" else f"{float(label):.3g}"
