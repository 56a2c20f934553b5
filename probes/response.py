"""Response: what both models answer. Score, agreement, KL, calibration, confidence, dark knowledge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.measurement import Contributions
from gapkit.probes.calibration import confidences, measured_calibration, named_classes
from gapkit.probes.interval import (
    Interval,
    curve,
    difference_interval,
    exact,
    mean_interval,
    measured,
    score_interval,
    undefined,
)
from gapkit.probes.probe import Result, Seen, Setting

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)


def agreement(t: Tensor, s: Tensor) -> float:
    """Share of samples on which both (n, K) logits name the same class; 1 for identical ones.

    Misleading when one class dominates: two constant answers agree fully.

    >>> agreement(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    0.5
    """
    return float(_agrees(t, s).mean())


def kl(t: Tensor, s: Tensor, temperature: float = 1.0) -> float:
    """How far the student's answer is from the teacher's: mean KL(p_T‖p_S) in nats, ≥ 0.

    Both (n, K) logits are divided by the temperature first. This is the divergence itself: the factor
    τ² of the distillation loss (Hinton 2015, §2.1) is not applied, so values at different temperatures
    are not gradients of one loss. 0 for identical logits. A single confident miss can dominate.

    >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    0.0
    """
    return float(_kl(t, s, temperature).mean())


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels (n,) under (n, K) logits, in nats, ≥ 0.

    >>> round(nll(torch.zeros(3, 4), torch.tensor([0, 1, 2])), 4)
    1.3863
    """
    return float(_nll(logits, labels).mean())


def entropy(logits: Tensor) -> float:
    """How undecided the answers (n, K) are: mean entropy in nats, 0 to log K.

    >>> round(entropy(torch.zeros(3, 4)), 4)
    1.3863
    """
    return float(_entropy(logits).mean())


def confidence(logits: Tensor) -> float:
    """Mean probability of the named class, 1/K to 1.

    >>> confidence(torch.zeros(3, 4))
    0.25
    """
    return float(confidences(logits).mean())


def dark_knowledge(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """What the answers say beyond the label and its probability, in nats, 0 to log(K-1).

    Mean of (1 - p_y)·KL(p̂‖uniform), p̂ being p over the K-1 other classes, renormalized: the KL of p from
    the same p_y with the rest spread evenly, which is label smoothing. 0 for a teacher sure of its label and for
    one that merely smooths it (Müller 2019: smoothing erases what a student could learn); the split of
    p into label and rest is Zhao 2022, eq. 7; the idea Hinton 2015, §1. Misleading for a teacher that is
    often wrong: mass on one wrong class counts as knowledge. 0 throughout when K = 2.

    >>> round(dark_knowledge(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])), 6)
    0.0
    """
    return float(_dark_knowledge(logits, labels, temperature).mean())


class ResponseProbe:
    """Score, agreement, divergence, calibration and dark knowledge of the models' answers.

    Scores and their contributions for any task with targets; the rest for classification logits.
    """

    name = "response"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Everything on validation and test; score, agreement and contributions on train too."""
        for split in (name for name in ("train", "validation", "test") if name in seen):
            shown = seen[split]
            if shown.targets is not None:
                yield from _scores(shown, setting)
            if not _classifies(shown, setting):
                continue
            yield from _compared(shown)
            if split == "train":
                continue
            yield from _undecided(shown)
            if shown.targets is not None:
                yield from _against_labels(shown, setting.seed)


def _scores(seen: Seen, setting: Setting) -> Iterator[Result]:
    task, groups = setting.task, seen.groups
    split: Any = seen.split
    values = {}
    for of, shown in seen.models.items():
        values[of] = np.asarray(task.contributions(shown.outputs, seen.targets), dtype=np.float64)
        yield Contributions(of=of, split=split, values=values[of])
        interval = score_interval(values[of], groups=groups)
        yield measured(task.score_name, of, split, interval, better="higher", unit=task.unit)
    gap = difference_interval(values["teacher"], values["student"], groups=groups)
    yield measured("gap", "pair", split, gap, better="lower", unit=task.unit)
    chance = exact(float(task.chance(seen.targets)), len(values["teacher"]))
    how = "best constant answer; exact"
    yield measured("chance", "pair", split, chance, unit=task.unit, estimator=how)


def _classifies(seen: Seen, setting: Setting) -> bool:
    return setting.task.kind == "classification" and seen.teacher.outputs.ndim == 2


def _compared(seen: Seen) -> Iterator[Result]:
    """Agreement, and off train the divergence at every temperature."""
    t, s, groups, split = seen.teacher.outputs, seen.student.outputs, seen.groups, seen.split
    nothing = undefined(f"teacher logits are {tuple(t.shape)}, student logits {tuple(s.shape)}")
    fit = t.shape == s.shape
    same = score_interval(_agrees(t, s), groups=groups) if fit else nothing
    yield measured("agreement", "pair", split, same, unit="share", better="higher")
    if split == "train":
        return
    found = [
        mean_interval(_kl(t, s, tau), groups=groups) if fit else nothing for tau in TEMPERATURES
    ]
    how = f"KL(teacher‖student) at τ = 1, without τ²; {found[0].method}"
    yield measured("kl", "pair", split, found[0], unit="nats", better="lower", estimator=how)
    names = {"x_name": "temperature", "y_name": "KL(teacher‖student) in nats"}
    yield curve("kl_profile", "pair", split, found, x=np.array(TEMPERATURES), **names)


def _undecided(seen: Seen) -> Iterator[Result]:
    """What needs no labels: how sure and how spread the answers are."""
    for of in ("teacher", "student"):
        logits, groups = seen.models[of].outputs, seen.groups
        sure = mean_interval(confidences(logits), groups=groups)
        yield measured("confidence", of, seen.split, sure, unit="share")
        spread = mean_interval(_entropy(logits), groups=groups)
        yield measured("entropy", of, seen.split, spread, unit="nats")


def _against_labels(seen: Seen, seed: int) -> Iterator[Result]:
    labels, groups, split = seen.targets, seen.groups, seen.split
    assert labels is not None
    for of, shown in seen.models.items():
        loss = mean_interval(_nll(shown.outputs, labels), groups=groups)
        yield measured("nll", of, split, loss, unit="nats", better="lower")
        if of != "untrained":
            yield from measured_calibration(of, split, shown.outputs, labels, groups, seed)
    for of in ("teacher", "student"):
        found = [
            _beyond_label(seen.models[of].outputs, labels, tau, groups) for tau in TEMPERATURES
        ]
        yield measured("dark_knowledge", of, split, found[0], unit="nats", better="higher")
        names = {"x_name": "temperature", "y_name": "knowledge beyond the label in nats"}
        yield curve("dark_knowledge_profile", of, split, found, x=np.array(TEMPERATURES), **names)


def _beyond_label(logits: Tensor, labels: Tensor, temperature: float, groups: object) -> Interval:
    if logits.shape[1] < 3:
        return undefined("two classes leave nothing beyond the label", len(labels))
    return mean_interval(_dark_knowledge(logits, labels, temperature), groups=groups)


def _log_p(logits: Tensor, temperature: float = 1.0) -> Tensor:
    if temperature <= 0:
        raise InputError(f"Expected a temperature above 0 but got {temperature}")
    return torch.log_softmax(logits.detach().cpu().double() / temperature, dim=1)


def _same_shape(t: Tensor, s: Tensor) -> None:
    if t.shape != s.shape:
        raise InputError(
            f"Expected logits of one shape but got {tuple(t.shape)} and {tuple(s.shape)}"
        )


def _agrees(t: Tensor, s: Tensor) -> np.ndarray:
    _same_shape(t, s)
    return (named_classes(t) == named_classes(s)).astype(np.float64)


def _kl(t: Tensor, s: Tensor, temperature: float) -> np.ndarray:
    _same_shape(t, s)
    log_t, log_s = _log_p(t, temperature), _log_p(s, temperature)
    return (log_t.exp() * (log_t - log_s)).sum(1).clamp_min(0.0).numpy()


def _nll(logits: Tensor, labels: Tensor) -> np.ndarray:
    return -_log_p(logits).gather(1, labels.cpu().long()[:, None])[:, 0].numpy()


def _entropy(logits: Tensor) -> np.ndarray:
    log_p = _log_p(logits)
    return -(log_p.exp() * log_p).sum(1).numpy()


def _dark_knowledge(logits: Tensor, labels: Tensor, temperature: float) -> np.ndarray:
    others = torch.ones(logits.shape, dtype=torch.bool)
    others[torch.arange(len(labels)), labels.cpu().long()] = False
    rest = _log_p(logits, temperature)[others].view(len(labels), -1)
    mass = torch.logsumexp(rest, dim=1)
    hat = rest - mass[:, None]
    divergence = math.log(rest.shape[1]) + (hat.exp() * hat).sum(1)
    return (mass.exp() * divergence.clamp_min(0.0)).numpy()
