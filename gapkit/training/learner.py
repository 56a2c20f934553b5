"""Learner: everything that trains in one stage, as one module: models, regressors, exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gapkit.guest import seeded
from gapkit.schemes import Lesson, Scheme
from gapkit.teaching.objective import Objective, Term
from gapkit.teaching.regressor import heads
from gapkit.teaching.taps import Answer, Taps, ask, attention_mask, shapes


class Learner(nn.Module):
    """The models of a stage with what they need to learn; called, it gives the terms of the loss.

    One module, so that an optimizer, a checkpoint and several processes see all that trains.

    Args:
        models: the stage's own first, then its peers.
        objective: what they learn from; its regressors are made here.
        scheme: how.
        exits: layers of the first model that get an output of their own.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        objective: Objective,
        scheme: Scheme,
        exits: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.objective, self.scheme, self.exits = objective, scheme, tuple(exits)
        self.heads = nn.ModuleList()
        layers = (*objective.student_layers, *self.exits)
        self._taps = [Taps(model, layers, "student") if layers else None for model in models]

    @property
    def needs_shapes(self) -> bool:
        """Whether regressors or exits are to be built."""
        return bool(self.exits) or self.objective.needs_shapes

    def build(self, view: Any, teachers: Sequence[Answer], seed: int) -> None:
        """Make regressors and exits.

        Args:
            view: a small batch's student view; teachers: their answers to the same batch.
            seed: of the first weights.
        """
        objective, layers = self.objective, (*self.objective.student_layers, *self.exits)
        student = shapes(self.models[0], view, objective.task.outputs, layers, "student")
        objective.build(student, teachers, seed)
        with seeded(seed):
            for layer in self.exits:
                self.heads.append(heads(student.features[layer], student.outputs))

    @property
    def has_helpers(self) -> bool:
        """Whether parts are trained that one phase or another may leave unused."""
        return len(self.objective.regressors) + len(self.heads) > 0

    def close(self) -> None:
        """Remove the hooks."""
        for taps in self._taps:
            if taps:
                taps.close()

    def forward(self, view: Any, lesson: Lesson) -> list[Term]:
        """The terms of one batch's loss."""
        outputs = self.objective.task.outputs
        learners = [ask(model, view, outputs, taps) for model, taps in zip(self.models, self._taps)]
        first = learners[0]
        learners += [
            Answer(head(first.features[layer], attention_mask(view)), {}, first.mask)
            for layer, head in zip(self.exits, self.heads)
        ]
        return self.scheme(self.objective, learners, lesson)


class Balance:
    """Multipliers that give each term's gradient the share that its weight says.

    The first term is the measure: m_k = ‖∇L_first‖/‖∇L_k‖ on the student's weights, smoothed over
    measurements, so that the learning rate means what it meant. After Chen et al. 2018 (GradNorm),
    arXiv 1711.02257, without its training-rate term.
    """

    EVERY = 20
    KEPT = 0.7  # of the old multiplier at each measurement

    def __init__(self) -> None:
        self.factors: dict[str, float] = {}

    def measure(self, terms: Sequence[Term], weights: Sequence[Tensor]) -> dict[str, float]:
        """Norm of each term's gradient on these weights."""
        norms = {}
        for term in terms:
            if not term.value.requires_grad:
                continue
            grads = torch.autograd.grad(term.value, weights, retain_graph=True, allow_unused=True)
            squares = [grad.double().square().sum() for grad in grads if grad is not None]
            norms[term.name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        return norms

    def update(self, norms: Mapping[str, float]) -> None:
        """Move the multipliers towards what these norms ask for."""
        measure, first = next(iter(norms.items()), ("", 0.0))
        for name, norm in norms.items():
            if norm > 0 and first > 0:
                wanted = first / norm
                old = wanted if name == measure else self.factors.get(name, wanted)
                self.factors[name] = old**self.KEPT * wanted ** (1 - self.KEPT)

    def balanced(self, terms: Sequence[Term]) -> list[Term]:
        """The terms with their weights multiplied."""
        return [
            term._replace(weight=term.weight * self.factors.get(term.name, 1.0)) for term in terms
        ]
