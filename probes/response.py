"""Response: what both models answer. Score, agreement, KL, calibration, confidence, dark knowledge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError
from gapkit.measurement import Contributions, Curve
from gapkit.probes.probe import Result, Seen, Setting
from gapkit.probes.resample import (
    Interval,
    bootstrap,
    difference_interval,
    mean_interval,
    measured,
    proportion_interval,
    score_interval,
    undefined,
)

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
N_BINS = 15
NULL_DRAWS = 200
BOOTSTRAP_WORK = 2_000_000  # samples x repeats of one bootstrap; between 200 and 1000 repeats


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
    return float(_confidence(logits).mean())


def calibration_error(logits: Tensor, labels: Tensor, n_bins: int = N_BINS) -> float:
    """How far confidence is from accuracy: mean |accuracy - confidence| over bins of equal mass.

    ECE (Guo 2017, eq. 3) with adaptive bins (Nguyen & O'Connor 2015); equal confidences share a bin, so
    the samples' order does not matter. In 0 to 1. Biased upward for few samples: a calibrated model
    scores above 0 too (ResponseProbe says how much).

    >>> calibration_error(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    0.0
    """
    sure, right = _confidence(logits), _answers(logits) == labels.cpu().numpy()
    return _calibration_error(sure, right.astype(np.float64), n_bins)


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
            yield _agreement(shown)
            if split == "train":
                continue
            yield from _divergences(shown)
            for of in ("teacher", "student"):
                yield from _shape(of, shown)
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
    chance = float(task.chance(seen.targets))
    exact = Interval(chance, chance, chance, 0.0, len(values["teacher"]))
    yield measured(
        "chance", "pair", split, exact, unit=task.unit, estimator="best constant answer; exact"
    )


def _classifies(seen: Seen, setting: Setting) -> bool:
    return setting.task.kind == "classification" and seen.teacher.outputs.ndim == 2


def _agreement(seen: Seen) -> Result:
    interval = _of_pair(seen, lambda t, s: score_interval(_agrees(t, s), groups=seen.groups))
    return measured("agreement", "pair", seen.split, interval, unit="share", better="higher")


def _of_pair(seen: Seen, measure: Callable[[Tensor, Tensor], Interval]) -> Interval:
    t, s = seen.teacher.outputs, seen.student.outputs
    if t.shape != s.shape:
        return undefined(f"teacher logits are {tuple(t.shape)}, student logits {tuple(s.shape)}")
    return measure(t, s)


def _divergences(seen: Seen) -> Iterator[Result]:
    def at(temperature: float) -> Interval:
        return _of_pair(
            seen, lambda t, s: mean_interval(_kl(t, s, temperature), groups=seen.groups)
        )

    found = [at(temperature) for temperature in TEMPERATURES]
    how = f"KL(teacher‖student) at τ = 1, without τ²; {found[0].method}"
    yield measured("kl", "pair", seen.split, found[0], unit="nats", better="lower", estimator=how)
    yield _profile("kl_profile", "pair", seen.split, "KL(teacher‖student) in nats", found)


def _shape(of: str, seen: Seen) -> Iterator[Result]:
    """What needs no labels: how sure and how spread the answers are."""
    logits, groups = seen.models[of].outputs, seen.groups
    sure = mean_interval(_confidence(logits), groups=groups)
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
            yield from _calibration(of, seen, shown.outputs, labels, seed)
    for of in ("teacher", "student"):
        found = [
            _beyond_label(seen.models[of].outputs, labels, tau, groups) for tau in TEMPERATURES
        ]
        yield measured("dark_knowledge", of, split, found[0], unit="nats", better="higher")
        words = "knowledge beyond the label in nats"
        yield _profile("dark_knowledge_profile", of, split, words, found)


def _beyond_label(logits: Tensor, labels: Tensor, temperature: float, groups: object) -> Interval:
    if logits.shape[1] < 3:
        return undefined("two classes leave nothing beyond the label", len(labels))
    return mean_interval(_dark_knowledge(logits, labels, temperature), groups=groups)


def _calibration(
    of: str, seen: Seen, logits: Tensor, labels: Tensor, seed: int
) -> Iterator[Result]:
    sure = _confidence(logits)
    right = (_answers(logits) == labels.cpu().numpy()).astype(np.float64)
    if not np.isfinite(sure).all():
        yield measured(
            "ece", of, seen.split, undefined("some logits are not finite", len(right)), unit="share"
        )
        return
    interval, null = _error_interval(sure, right, seen.groups, seed)
    how = (
        f"ECE, {N_BINS} bins of equal mass; {interval.method}; low is 0 unless calibration is refuted "
        f"(a calibrated model would score {null:.4f})"
    )
    yield measured("ece", of, seen.split, interval, unit="share", better="lower", estimator=how)
    yield _reliability(of, seen.split, sure, right)


def _reliability(of: str, split: Any, sure: np.ndarray, right: np.ndarray) -> Curve:
    count, mean_sure, accuracy = _bins(sure, right, N_BINS)
    bounds = [
        proportion_interval(round(share * size), int(size)) for share, size in zip(accuracy, count)
    ]
    return Curve(
        name="reliability",
        of=of,
        split=split,
        x_name="mean confidence",
        y_name="accuracy",
        x=mean_sure,
        y=accuracy,
        low=np.array([bound.low for bound in bounds]),
        high=np.array([bound.high for bound in bounds]),
        n=count.astype(int),
    )


def _profile(name: str, of: str, split: Any, y_name: str, found: list[Interval]) -> Curve:
    return Curve(
        name=name,
        of=of,
        split=split,
        x_name="temperature",
        y_name=y_name,
        x=np.array(TEMPERATURES),
        y=np.array([interval.value for interval in found]),
        low=np.array([interval.low for interval in found]),
        high=np.array([interval.high for interval in found]),
        n=np.array([interval.n for interval in found]),
    )


def _log_p(logits: Tensor, temperature: float = 1.0) -> Tensor:
    if temperature <= 0:
        raise InputError(f"Expected a temperature above 0 but got {temperature}")
    return torch.log_softmax(logits.detach().cpu().double() / temperature, dim=1)


def _answers(logits: Tensor) -> np.ndarray:
    return logits.detach().cpu().argmax(1).numpy()


def _same_shape(t: Tensor, s: Tensor) -> None:
    if t.shape != s.shape:
        raise InputError(
            f"Expected logits of one shape but got {tuple(t.shape)} and {tuple(s.shape)}"
        )


def _agrees(t: Tensor, s: Tensor) -> np.ndarray:
    _same_shape(t, s)
    return (_answers(t) == _answers(s)).astype(np.float64)


def _kl(t: Tensor, s: Tensor, temperature: float) -> np.ndarray:
    _same_shape(t, s)
    log_t, log_s = _log_p(t, temperature), _log_p(s, temperature)
    return (log_t.exp() * (log_t - log_s)).sum(1).clamp_min(0.0).numpy()


def _nll(logits: Tensor, labels: Tensor) -> np.ndarray:
    return -_log_p(logits).gather(1, labels.cpu().long()[:, None])[:, 0].numpy()


def _entropy(logits: Tensor) -> np.ndarray:
    log_p = _log_p(logits)
    return -(log_p.exp() * log_p).sum(1).numpy()


def _confidence(logits: Tensor) -> np.ndarray:
    return _log_p(logits).max(1).values.exp().numpy()


def _dark_knowledge(logits: Tensor, labels: Tensor, temperature: float) -> np.ndarray:
    others = torch.ones(logits.shape, dtype=torch.bool)
    others[torch.arange(len(labels)), labels.cpu().long()] = False
    rest = _log_p(logits, temperature)[others].view(len(labels), -1)
    mass = torch.logsumexp(rest, dim=1)
    hat = rest - mass[:, None]
    divergence = math.log(rest.shape[1]) + (hat.exp() * hat).sum(1)
    return (mass.exp() * divergence.clamp_min(0.0)).numpy()


def _bins(
    sure: np.ndarray, right: np.ndarray, n_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, mean confidence and accuracy of each non-empty bin, (k,) each."""
    edges = np.unique(np.quantile(sure, np.linspace(0, 1, n_bins + 1)[1:-1], method="inverted_cdf"))
    code = np.searchsorted(edges, sure, side="left")
    count = np.bincount(code)
    kept = count > 0
    sums = (np.bincount(code, weights) for weights in (sure, right))
    mean_sure, accuracy = (total[kept] / count[kept] for total in sums)
    return count[kept], mean_sure, accuracy


def _calibration_error(sure: np.ndarray, right: np.ndarray, n_bins: int = N_BINS) -> float:
    count, mean_sure, accuracy = _bins(sure, right, n_bins)
    return float(np.abs(mean_sure - accuracy) @ count / len(sure))


def _error_interval(
    sure: np.ndarray, right: np.ndarray, groups: Any, seed: int
) -> tuple[Interval, float]:
    """The calibration error's interval, and what a calibrated model would score on average.

    The basic bootstrap turns the estimate's upward bias round, where the percentile interval doubles
    it and misses the truth. Near 0 that is not enough: the lower bound is 0 as long as the error lies
    within what calibrated models score (consistency resampling, Bröcker & Smith 2007).
    """
    n_repeats = int(np.clip(BOOTSTRAP_WORK // len(right), 200, 1000))
    found = bootstrap(
        _calibration_error, [sure, right], n_repeats, groups=groups, seed=seed, method="basic"
    )
    rng = np.random.default_rng(seed)
    null = np.array(
        [
            _calibration_error(sure, (rng.random(len(sure)) < sure).astype(np.float64))
            for _ in range(NULL_DRAWS)
        ]
    )
    refuted = found.value > np.quantile(null, (1 + found.level) / 2)
    low = max(0.0, found.low) if refuted else 0.0
    return replace(found, low=low, high=max(found.value, found.high)), float(null.mean())
