"""Response: what both models answer, for every kind of task. Score, agreement, divergence, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from gapkit.measurement import Contributions
from gapkit.probes.calibration import confidences, measured_calibration
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
from gapkit.probes.label_sets import (
    as_two_classes,
    binary_confidences,
    binary_divergences,
    binary_entropies,
    binary_surprises,
)
from gapkit.probes.logits import agrees, beyond_labels, divergences, entropies, surprises
from gapkit.probes.probe import Result, Seen, Setting, reference
from gapkit.probes.resample import bootstrap

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
ROLES = ("teacher", "student")


class ResponseProbe:
    """What the models answer: score and contributions for any task, and what its kind allows.

    Classification (also per token, in groups of samples): agreement, KL and its profile over
    temperatures, likelihood, calibration, confidence, entropy, dark knowledge. Multi-label: the same of
    every label's yes or no, without dark knowledge. Regression: distance of the answers, and whether
    both err alike. Embedding: agreement of rankings.
    """

    name = "response"

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Everything on validation and test; score, agreement, contributions and how sure the teacher is on train."""
        kinds = {
            "classification": _classes,
            "multilabel": _label_sets,
            "regression": _numbers,
            "embedding": _vectors,
        }
        for split in (name for name in ("train", "validation", "test") if name in seen):
            shown = seen[split]
            targets = reference(shown, setting.task)
            if targets is not None:
                yield from _scores(shown, targets, setting)
            if setting.task.kind in kinds:
                yield from kinds[setting.task.kind](shown, setting)


def _scores(seen: Seen, targets: Tensor, setting: Setting) -> Iterator[Result]:
    task, groups = setting.task, seen.groups
    split: Any = seen.split
    values = {}
    for of, shown in seen.models.items():
        values[of] = np.asarray(task.contributions(shown.outputs, targets), dtype=np.float64)
        yield Contributions(of=of, split=split, values=values[of])
        interval = score_interval(values[of], groups=groups)
        if targets is shown.outputs:  # held against itself
            interval = replace(exact(interval.value, interval.n), method="its own target")
        yield measured(task.score_name, of, split, interval, better="higher", unit=task.unit)
    gap = difference_interval(values["teacher"], values["student"], groups=groups)
    yield measured("gap", "pair", split, gap, better="lower", unit=task.unit)
    chance = exact(float(task.chance(targets)), len(values["teacher"]))
    how = "best constant answer; exact"
    yield measured("chance", "pair", split, chance, unit=task.unit, estimator=how)


class _Answers:
    """Logits (m, K) of both models and labels of what is answered: samples, or tokens that count."""

    def __init__(self, seen: Seen, task: Any) -> None:
        units = {of: task.units(seen.models[of].outputs, seen.targets) for of in seen.models}
        self.split = seen.split
        self.logits = {of: unit.outputs for of, unit in units.items()}
        self.labels, owner = units["teacher"].targets, units["teacher"].owner
        several = len(owner) != len(seen.teacher.outputs)
        n = len(seen.teacher.outputs)
        groups = np.arange(n) if seen.groups is None and several else seen.groups
        self.groups = None if groups is None else groups[owner]

    def mean(self, values: np.ndarray) -> Interval:
        return mean_interval(values, groups=self.groups)


def _classes(seen: Seen, setting: Setting) -> Iterator[Result]:
    if seen.teacher.outputs.ndim == 3 and seen.targets is None:
        return  # no telling which tokens count
    answers = _Answers(seen, setting.task)
    t, s, split = answers.logits["teacher"], answers.logits["student"], seen.split
    fit = t.shape == s.shape
    nothing = undefined(f"teacher logits are {tuple(t.shape)}, student logits {tuple(s.shape)}")
    same = score_interval(agrees(t, s), groups=answers.groups) if fit else nothing
    yield measured("agreement", "pair", split, same, unit="share", better="higher")
    if split == "train":
        yield from _teaching(answers)
        return
    yield from _divergence(
        split,
        [answers.mean(divergences(t, s, tau)) if fit else nothing for tau in TEMPERATURES],
        "KL(teacher‖student)",
    )
    for of in ROLES:
        sure = answers.mean(confidences(answers.logits[of]))
        yield measured("confidence", of, split, sure, unit="share")
        spread = answers.mean(entropies(answers.logits[of]))
        yield measured("entropy", of, split, spread, unit="nats")
    if answers.labels is not None:
        yield from _against_labels(answers, answers.labels, setting.seed)


def _teaching(answers: _Answers) -> Iterator[Result]:
    """How sure the teacher is where it teaches, by temperature: what it leaves to all other classes is the rest."""
    found = [answers.mean(confidences(answers.logits["teacher"] / tau)) for tau in TEMPERATURES]
    yield measured("confidence", "teacher", answers.split, found[0], unit="share")
    names = {"x_name": "temperature", "y_name": "mean probability of the named class"}
    x = np.array(TEMPERATURES)
    yield curve("confidence_profile", "teacher", answers.split, found, x=x, **names)


def _divergence(split: str, found: list[Interval], what: str) -> Iterator[Result]:
    """The divergence at temperature 1, and its profile."""
    how = f"{what} at τ = 1, without τ²; {found[0].method}"
    yield measured("kl", "pair", split, found[0], unit="nats", better="lower", estimator=how)
    names = {"x_name": "temperature", "y_name": f"{what} in nats"}
    yield curve("kl_profile", "pair", split, found, x=np.array(TEMPERATURES), **names)


def _against_labels(answers: _Answers, labels: Tensor, seed: int) -> Iterator[Result]:
    split, groups = answers.split, answers.groups
    for of, logits in answers.logits.items():
        loss = answers.mean(surprises(logits, labels))
        yield measured("nll", of, split, loss, unit="nats", better="lower")
        if of != "untrained":
            yield from measured_calibration(of, split, logits, labels, groups, seed)
    for of in ROLES:
        found = [_beyond_label(answers, of, labels, tau) for tau in TEMPERATURES]
        yield measured("dark_knowledge", of, split, found[0], unit="nats", better="higher")
        names = {"x_name": "temperature", "y_name": "knowledge beyond the label in nats"}
        yield curve("dark_knowledge_profile", of, split, found, x=np.array(TEMPERATURES), **names)


def _beyond_label(answers: _Answers, of: str, labels: Tensor, temperature: float) -> Interval:
    logits = answers.logits[of]
    if logits.shape[1] < 3:
        return undefined("two classes leave nothing beyond the label", len(labels))
    return answers.mean(beyond_labels(logits, labels, temperature))


def _label_sets(seen: Seen, setting: Setting) -> Iterator[Result]:
    t, s, split = seen.teacher.outputs, seen.student.outputs, seen.split
    same = mean_interval(setting.task.agreement(s, t), groups=seen.groups)
    yield measured("agreement", "pair", split, same, unit="share", better="higher")
    if split == "train":
        return
    found = [
        mean_interval(binary_divergences(t, s, tau), groups=seen.groups) for tau in TEMPERATURES
    ]
    yield from _divergence(split, found, "KL(teacher‖student), mean over labels,")
    for of, shown in seen.models.items():
        if of in ROLES:
            sure = mean_interval(binary_confidences(shown.outputs), groups=seen.groups)
            yield measured("confidence", of, split, sure, unit="share")
            spread = mean_interval(binary_entropies(shown.outputs), groups=seen.groups)
            yield measured("entropy", of, split, spread, unit="nats")
        if seen.targets is None:
            continue
        loss = mean_interval(binary_surprises(shown.outputs, seen.targets), groups=seen.groups)
        yield measured("nll", of, split, loss, unit="nats", better="lower")
        if of in ROLES:
            logits, labels, owner = as_two_classes(shown.outputs, seen.targets)
            groups = owner if seen.groups is None else seen.groups[owner]
            yield from measured_calibration(of, split, logits, labels, groups, setting.seed)


def _numbers(seen: Seen, setting: Setting) -> Iterator[Result]:
    t, s = (_columns(shown.outputs) for shown in (seen.teacher, seen.student))
    split, groups = seen.split, seen.groups
    same = mean_interval(
        setting.task.agreement(seen.student.outputs, seen.teacher.outputs), groups=groups
    )
    yield measured("agreement", "pair", split, same, better="higher")
    if split == "train":
        return
    away = mean_interval(np.abs(t - s).mean(1), groups=groups)
    how = f"mean |teacher - student|, in units of the target; {away.method}"
    yield measured("distance", "pair", split, away, better="lower", estimator=how)
    if seen.targets is None:
        return
    truth = _columns(seen.targets)
    errors = {of: _columns(shown.outputs) - truth for of, shown in seen.models.items()}
    for of, error in errors.items():
        off = mean_interval(np.abs(error).mean(1), groups=groups)
        yield measured("absolute_error", of, split, off, better="lower")
        bias = mean_interval(error.mean(1), groups=groups)
        yield measured("bias", of, split, bias)
    alike = _correlation(errors["teacher"], errors["student"], groups, setting.seed)
    how = f"correlation of both models' errors, all dimensions together; {alike.method}"
    yield measured("error_correlation", "pair", split, alike, estimator=how)


def _correlation(one: np.ndarray, two: np.ndarray, groups: Any, seed: int) -> Interval:
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return undefined("one model errs by the same amount on every sample", len(one))

    def of(one: np.ndarray, two: np.ndarray) -> float:
        return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])

    return bootstrap(of, [one, two], 500, groups=groups, seed=seed, method="percentile")


def _vectors(seen: Seen, setting: Setting) -> Iterator[Result]:
    alike = setting.task.agreement(seen.student.outputs, seen.teacher.outputs)
    same = mean_interval(alike, groups=seen.groups)
    how = f"(1 + rank correlation of cosines to other samples)/2; {same.method}"
    yield measured("agreement", "pair", seen.split, same, better="higher", estimator=how)


def _columns(values: Tensor) -> np.ndarray:
    array = values.detach().cpu().double().numpy()
    return array[:, None] if array.ndim == 1 else array
