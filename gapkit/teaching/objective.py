"""Objective: what a student learns from, as the loss of one step; in gapkit's loop or in your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gapkit import losses
from gapkit.data import targets_of
from gapkit.errors import InputError
from gapkit.guest import seeded
from gapkit.knowledge import Knowledge, knowledge_named
from gapkit.task import IGNORED, Task
from gapkit.teaching.regressor import Regressor, aligned
from gapkit.teaching.taps import Answer, Taps, attention_mask, pooled, shapes

OUTPUTS = "outputs"
Gather = Callable[[Tensor], Tensor]


class Term(NamedTuple):
    """One part of a loss.

    Attributes:
        name: what it is called in logs.
        weight: of its value in the sum.
        value: a scalar, unweighted.
        gathered: whether it was taken over the samples of all processes together.
    """

    name: str
    weight: float
    value: Tensor
    gathered: bool = False


def total(terms: Sequence[Term]) -> Tensor:
    """The weighted sum."""
    return torch.stack([term.weight * term.value for term in terms]).sum()


class Objective(nn.Module):
    """Knowledge as a loss of (student output, teacher output, batch); its parameters are regressors.

    Losses of outputs need nothing else. Losses of layers need `watch`, which sets hooks on both models
    (removed by `close`, or on leaving a `with`) and builds the regressors: give
    `objective.parameters()` to the optimizer beside the student's.

    Args:
        task: what outputs mean.
        knowledge: a name ("kl4", "dist1", ...) or Knowledge to learn from.

    Raises:
        InputError: for knowledge that this task cannot learn from, or that teaches nothing.

    >>> from gapkit.task import Classification
    >>> objective = Objective(Classification(), "kl4")
    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> round(objective(logits, logits, labels).item(), 4)  # a tenth of the cross-entropy
    0.022
    """

    def __init__(self, task: Task, knowledge: str | Sequence[Knowledge]) -> None:
        super().__init__()
        self.task = task
        self.knowledge: tuple[Knowledge, ...] = tuple(
            knowledge_named(knowledge, task.kind) if isinstance(knowledge, str) else knowledge
        )
        strangers = [part for part in self.knowledge if not isinstance(part, Knowledge)]
        if strangers or not any(part.teaches for part in self.knowledge):
            raise InputError(
                "Expected a name or a list of Knowledge, one with a weight above 0, but got "
                f"{type(knowledge).__name__} {knowledge!s}"
            )
        for part in self.knowledge:
            if part.kind != "label" and losses.named(part.loss).kind != part.kind:
                raise InputError(
                    f"Expected a {part.kind} loss but {part.loss!r} is a {losses.named(part.loss).kind} loss"
                )
            if part.kind == "response":
                losses.named(part.loss).form(task.kind)
        self.regressors = nn.ModuleDict()
        self._taps: tuple[Taps, Taps] | None = None

    # In a loop of one's own

    def watch(
        self,
        student: nn.Module,
        teacher: nn.Module,
        view: Any,
        teacher_view: Any = None,
        seed: int = 0,
    ) -> Objective:
        """Hook the layers that the knowledge names, and build what the student needs to match them.

        Args:
            view: a small batch of what the student is called with; teacher_view: the teacher's,
                default the same.
            seed: of the regressors' weights.
        """
        theirs = view if teacher_view is None else teacher_view
        outputs = self.task.outputs
        ours = shapes(student, view, outputs, self.student_layers, "student")
        answer = shapes(teacher, theirs, outputs, self.teacher_layers, "teacher")
        device = ours.outputs.device
        self.build(ours, [answer], seed)
        self.to(device)
        self.close()
        self._taps = (
            Taps(student, self.student_layers, "student"),
            Taps(teacher, self.teacher_layers, "teacher"),
        )
        return self

    def close(self) -> None:
        """Remove the hooks."""
        for taps in self._taps or ():
            taps.close()
        self._taps = None

    def __enter__(self) -> Objective:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forward(self, student: Any, teacher: Any, batch: Any = None) -> Tensor:
        """The loss of one step, a scalar.

        Args:
            student, teacher: what the models returned for the batch.
            batch: its targets, or the batch itself: (input, target), or a dict with "labels"; only tokens
                of the "attention_mask" in it count in losses of layers.
        """
        layers = self.student_layers or self.teacher_layers
        if layers and self._taps is None:
            raise InputError(
                "Expected watch(student, teacher, view) before a loss of layers but it was not called"
            )
        shown = [taps.shown() for taps in self._taps] if self._taps and layers else [{}, {}]
        mask = _mask_of(batch)
        ours = Answer(self.task.outputs(student), shown[0], mask)
        theirs = Answer(self.task.outputs(teacher), shown[1], mask).detached()
        targets = batch if isinstance(batch, Tensor) else targets_of(batch)
        return total(self.terms(ours, [theirs], targets))

    # What every step is made of

    @property
    def student_layers(self) -> tuple[str, ...]:
        """Layers of the student that the knowledge names."""
        return layers_of(self.knowledge, 0)

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """Layers of the teacher that the knowledge names."""
        return layers_of(self.knowledge, 1)

    @property
    def needs_shapes(self) -> bool:
        """Whether some loss may need a regressor."""
        return any(
            part.kind != "label"
            and losses.named(part.loss).same_shape
            and (part.layers or self.task.kind == "embedding" or part.kind == "relation")
            for part in self.knowledge
        )

    def build(self, student: Answer, teachers: Sequence[Answer], seed: int = 0) -> None:
        """Make the regressors, one for each pair of layers and each teacher, from answers of one batch."""
        with seeded(seed):
            for part in self.knowledge:
                if part.kind == "label":
                    continue
                for position, teacher in enumerate(teachers):
                    for pair in part.layers or ((OUTPUTS, OUTPUTS),):
                        self._build(part, pair, position, student, teacher)

    def _build(
        self,
        part: Knowledge,
        pair: tuple[str, str],
        position: int,
        student: Answer,
        teacher: Answer,
    ) -> None:
        key = _key(part, pair, position)
        if not losses.named(part.loss).same_shape or key in self.regressors:
            return
        ours, theirs = _pair(part, pair, student, teacher)
        on_outputs = pair[0] == OUTPUTS and not part.layers
        wide = on_outputs and ours.ndim == 2 and self.task.kind == "embedding"
        if part.kind == "feature" or (ours.shape != theirs.shape and (part.layers or wide)):
            self.regressors[key] = Regressor(ours, theirs)

    def terms(
        self,
        student: Answer,
        teachers: Sequence[Answer],
        targets: Tensor | None,
        knowledge: Sequence[Knowledge] | None = None,
        weights: Sequence[float] | None = None,
        gather: Gather | None = None,
        places: Sequence[int] | None = None,
    ) -> list[Term]:
        """The parts of one step's loss.

        Args:
            student: its answer, with gradients; teachers: theirs, without.
            targets: (n, ...), or None.
            knowledge: what counts now, default all.
            weights: of each teacher in their mean, default equal.
            gather: rows of all processes from those of this one, for losses that compare samples.
            places: which of the teachers of `build` these are, default the first ones.
        """
        places = range(len(teachers)) if places is None else places
        # Once, so that the terms' gradients add up in the wider type.
        student = student._replace(outputs=widened(student.outputs))
        found = []
        given = self.knowledge if knowledge is None else knowledge
        for part in [part for part in given if part.weight > 0] or given:
            if part.kind == "label":
                if targets is None:
                    raise InputError("Expected targets for label knowledge but the data gives none")
                found.append(Term(part.name, part.weight, self.task.loss(student.outputs, targets)))
                continue
            shared = gather if losses.named(part.loss).by_batch else None
            values = torch.stack(
                [
                    self._value(part, student, teacher, place, targets, shared)
                    for place, teacher in zip(places, teachers, strict=True)
                ]
            )
            value = values.mean() if weights is None else _weighted(values, weights)
            found.append(Term(part.name, part.weight, value, shared is not None))
        return _told_apart(found)

    def _value(
        self,
        part: Knowledge,
        student: Answer,
        teacher: Answer,
        place: int,
        targets: Tensor | None,
        gather: Gather | None,
    ) -> Tensor:
        if part.kind == "response":
            return self._response(part, student, teacher, place, targets, gather)
        values = []
        for pair in part.layers or ((OUTPUTS, OUTPUTS),):
            ours, theirs = self._matched(part, pair, place, student, teacher)
            if ours.ndim == 3 and student.mask is not None:
                ours, theirs = _kept(ours, theirs, student.mask)
            if gather is not None:
                ours, theirs = gather(ours), gather(theirs)
            own = None if part.temperature == 1 else part.temperature
            values.append(losses.layer_loss(part.loss, ours, theirs, temperature=own))
        stacked = torch.stack(values)
        return _weighted(stacked, part.layer_weights) if part.layer_weights else stacked.mean()

    def _matched(
        self, part: Knowledge, pair: tuple[str, str], place: int, student: Answer, teacher: Answer
    ) -> tuple[Tensor, Tensor]:
        """Both sides of a pair as its loss compares them."""
        ours, theirs = _pair(part, pair, student, teacher)
        key = _key(part, pair, place)
        if key in self.regressors:
            return self.regressors[key](ours, theirs)
        return aligned(ours, theirs) if part.kind == "feature" and ours.ndim > 2 else (ours, theirs)

    def _response(
        self,
        part: Knowledge,
        student: Answer,
        teacher: Answer,
        place: int,
        targets: Tensor | None,
        gather: Gather | None,
    ) -> Tensor:
        ours, theirs = self._matched(part, (OUTPUTS, OUTPUTS), place, student, teacher)
        if ours.ndim == 3 and self.task.kind == "classification":
            mask = student.mask if targets is None else targets != IGNORED
            ours, theirs, targets = _tokens(ours, theirs, targets, mask)
        if gather is not None:  # also without a token that counts: the others wait
            ours, theirs = gather(ours), gather(theirs)
            targets = None if targets is None else gather(targets)
        if not len(ours):
            return 0.0 * student.outputs.float().sum()
        return losses.response_loss(
            part.loss,
            ours,
            theirs,
            task=self.task.kind,
            temperature=part.temperature,
            targets=targets,
        )


def refusal(task: Task, knowledge: Sequence[Knowledge], outputs: Tensor) -> str:
    """Why answers of this shape cannot teach so, such as too few classes; "" when they can.

    Args:
        outputs: of a few samples, for their shape.
    """
    taught = [part for part in knowledge if part.kind != "label" and not part.layers]
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(outputs.shape, generator=draw) for _ in range(2))
    try:
        if taught:
            Objective(task, taught).terms(Answer(ours, {}), [Answer(theirs, {})], None)
    except InputError as error:
        return str(error)
    return ""


def widened(outputs: Tensor) -> Tensor:
    """Outputs in float32 at least."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def layers_of(knowledge: Sequence[Knowledge], side: int) -> tuple[str, ...]:
    """Layers of the student (side 0) or the teacher (side 1) that knowledge names, each once."""
    return tuple(dict.fromkeys(pair[side] for part in knowledge for pair in part.layers))


def _told_apart(terms: Sequence[Term]) -> list[Term]:
    """The terms, with numbers where a name comes again."""
    seen: dict[str, int] = {}
    for term in terms:
        seen[term.name] = seen.get(term.name, 0) + 1
    if len(seen) == len(terms):
        return list(terms)
    counts: dict[str, int] = {}
    found = []
    for term in terms:
        number = counts[term.name] = counts.get(term.name, 0) + 1
        found.append(term._replace(name=f"{term.name} {number}") if seen[term.name] > 1 else term)
    return found


def _mask_of(batch: Any) -> Tensor | None:
    """The attention mask in a batch, or in the input that is its first item."""
    view = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return attention_mask(view)


def _key(part: Knowledge, pair: tuple[str, str], place: int) -> str:
    """A name that modules may have: dots would nest."""
    kind = "pooled" if part.pool else "whole"
    return f"{place}:{pair[0]}:{pair[1]}:{kind}".replace(".", "/")


def _pair(
    part: Knowledge, pair: tuple[str, str], student: Answer, teacher: Answer
) -> tuple[Tensor, Tensor]:
    """Both tensors of a pair, as vectors when the knowledge says so or their kinds differ.

    Tokens are vectors too where a loss compares samples: among all tokens of a batch it would compare
    (samples × tokens)² pairs.
    """
    if not part.layers:
        return student.outputs, teacher.outputs
    ours, theirs = (
        _layer(student.features, pair[0], "student"),
        _layer(teacher.features, pair[1], "teacher"),
    )
    by_sample = losses.named(part.loss).by_batch and 3 in (ours.ndim, theirs.ndim)
    if part.pool or by_sample or (part.kind == "feature" and ours.ndim != theirs.ndim):
        return pooled(ours, student.mask), pooled(theirs, teacher.mask)
    return ours, theirs


def _layer(features: Mapping[str, Tensor], layer: str, who: str) -> Tensor:
    if layer not in features:
        raise InputError(f"Expected layer {layer!r} of the {who} to be watched but it is not")
    return features[layer]


def _kept(ours: Tensor, theirs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens (m, d) that count on both sides."""
    if theirs.ndim != 3 or ours.shape[:2] != mask.shape or theirs.shape[:2] != mask.shape:
        return ours, theirs
    return ours[mask], theirs[mask]


def _tokens(
    ours: Tensor, theirs: Tensor, targets: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens as rows (m, K), those that count."""
    if mask is None or mask.shape != ours.shape[:2]:
        flat = None if targets is None else targets.flatten()
        return ours.flatten(0, 1), theirs.flatten(0, 1), flat
    return ours[mask], theirs[mask], None if targets is None else targets[mask]


def _weighted(values: Tensor, weights: Sequence[float]) -> Tensor:
    share = torch.tensor(weights, dtype=values.dtype, device=values.device)
    return (values * share).sum() / share.sum()
