"""What the tests of the deciding rooms share: invented models as 0/1 contributions, and fake trainings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from gapkit.causes.case import Case
from gapkit.controls import Control
from gapkit.distiller import TrainingFailed
from gapkit.gap import ControlRun
from gapkit.measurement import Contributions, Measurement, Measurements
from gapkit.outcome import Training
from gapkit.plans import Cost
from gapkit.probes.interval import Interval, measured, score_interval
from gapkit.training.prices import Prices

N = 400  # validation samples of the invented studies
SIZES = (32, 12, 3, 1)
COSTS = {32: 4.0, 12: 1.5, 3: 1.2, 1: 1.0}


def hits(share: float, n: int = N, shift: int = 0) -> np.ndarray:
    """n samples of which the first round(share·n) are right, moved by `shift` places round the circle."""
    return np.roll((np.arange(n) < round(share * n)).astype(float), shift)


def draw(share: float, seed: int, n: int = N, alike: float = 0.8) -> np.ndarray:
    """n hits and misses of one model; models find the same samples hard, as far as `alike` says."""
    hard = np.random.default_rng(12345).normal(size=n)
    own = np.random.default_rng([seed, 777]).normal(size=n)
    return (alike * hard + np.sqrt(1 - alike**2) * own < norm.ppf(share)).astype(float)


def score_of(of: str, values: np.ndarray, split: str = "validation", **fields: Any) -> Measurement:
    """The accuracy of a model with those contributions."""
    given = {"unit": "share", "better": "higher"} | fields
    return measured("accuracy", of, split, score_interval(values), **given)


def chance_of(value: float, split: str = "validation") -> Measurement:
    """The best constant answer's score."""
    return measured("chance", "pair", split, Interval(value, value, value, 0.0, N), unit="share")


def measurements(
    teacher: np.ndarray,
    student: np.ndarray,
    *,
    train: Sequence[np.ndarray] | None = None,
    chance: float = 0.1,
    worst: Measurement | None = None,
    test: Sequence[np.ndarray] | None = None,
) -> Measurements:
    """Measurements from contributions on validation and, as (teacher, student), on train and test."""
    splits = {"validation": (teacher, student), "train": train, "test": test or (teacher, student)}
    values, contributions = [chance_of(chance)], []
    for split, pair in splits.items():
        for of, given in zip(("teacher", "student"), pair or ()):
            values.append(score_of(of, given, split))
            contributions.append(Contributions(of=of, split=split, values=given))
    values += [] if worst is None else [worst]
    return Measurements(study="invented", values=tuple(values), contributions=tuple(contributions))


def control(
    name: str,
    runs: Sequence[np.ndarray],
    *,
    recipe: str = "kl4",
    path: tuple[Any, ...] = (32, 1),
    fraction: float = 1.0,
    first_seed: int = 0,
    agreement: float = 0.5,
    train_score: float | None = None,
    altered: str = "",
) -> ControlRun:
    """A control from the contributions of its seeds."""
    return ControlRun(
        name=name,
        question="?",
        path=path,
        recipe=recipe,
        fraction=fraction,
        seeds=tuple(range(first_seed, first_seed + len(runs))),
        scores=np.array([run.mean() for run in runs]),
        contributions=np.stack(runs),
        agreement=np.full(len(runs), agreement),
        train_agreement=np.full(len(runs), agreement),
        train_scores=np.array([] if train_score is None else [train_score] * len(runs)),
        cost=len(runs) * fraction,
        altered=altered,
    )


def seeds_of(share: float, n_seeds: int = 4, spread: float = 0.01, n: int = N) -> list[np.ndarray]:
    """Runs whose shares lie evenly around the mean, at most `spread` from it."""
    return [hits(share + offset, n) for offset in np.linspace(-spread, spread, n_seeds)]


def make_training(
    path: Sequence[Any], recipe: str, seed: int, fraction: float, values: np.ndarray
) -> Training:
    """A finished training with those validation contributions."""
    arm = "-".join(map(str, path))
    return Training(
        key=f"{arm}-{recipe}-{seed}-{fraction:g}",
        path=tuple(path),
        recipe=recipe,
        fraction=fraction,
        seed=seed,
        epochs=1,
        steps=1,
        seconds=0.0,
        flops=0.0,
        score=float(values.mean()),
        train_score=0.5,
        agreement=0.5,
        train_agreement=0.5,
        contributions=values,
    )


class World:
    """Trains controls in no time: planted means, noise by run, noise by sample.

    Args:
        mean: (control, seed) -> true mean score.
        sd: of a run's true score around that mean; None for nested hits without any noise.
        seed: of all noise; n: validation samples.
        failing: names of controls whose trainings fail.
    """

    def __init__(
        self,
        mean: Callable[[Control, int], float],
        sd: float | None = 0.02,
        seed: int = 0,
        n: int = 200,
        failing: Container[str] = (),
    ) -> None:
        self.mean, self.sd, self.seed, self.n, self.failing = mean, sd, seed, n, failing
        self.trained: list[tuple[str, int]] = []
        self.done: set[tuple[Any, ...]] = set()
        self._hard = np.random.default_rng([seed, 1]).normal(size=n)

    def case(self, teacher: float = 0.9, student: float = 0.5, **fields: Any) -> Case:
        """The evidence of a study whose models find the same samples hard as its controls do."""
        about = {key: fields.pop(key) for key in ("train", "chance", "worst") if key in fields}
        pair = (self._hits(teacher, "teacher"), self._hits(student, "student"))
        return Case(measurements(*pair, **about), **fields)

    def contributions(self, control: Control, seed: int) -> np.ndarray:
        """(n,) hits and misses of a run; drawn alike however often it is asked for."""
        share, what = self.mean(control, seed), self._key(control, seed)
        if self.sd is not None:
            share += self.sd * self._rng("share", what).normal()
        return self._hits(share, what)

    def train(self, control: Control, seed: int) -> Training:
        """The training, noted in `trained`; what is done already is only read."""
        key = self._key(control, seed)
        if key not in self.done:
            self.trained.append((control.name, seed))
            for end in range(2, len(control.path)):  # the prefix is trained with it
                self.done.add((control.path[:end], *key[1:]))
        self.done.add(key)
        if control.name in self.failing:
            raise TrainingFailed("the loss is nan")
        values = self.contributions(control, seed)
        found = make_training(control.path, control.recipe, seed, control.fraction, values)
        return found.with_(key=f"{found.key}-{control.altered}")

    def price(self, control: Control, seed: int) -> float:
        """What it would cost now; the missing prefix with it."""
        _, *rest = self._key(control, seed)
        ends = range(min(2, len(control.path)), len(control.path) + 1)
        missing = [
            control.path[:end] for end in ends if (control.path[:end], *rest) not in self.done
        ]
        if control.path not in missing:
            return 0.0
        return sum(COSTS.get(path[-1], 4.0) * control.fraction for path in missing)

    @staticmethod
    def _key(control: Control, seed: int) -> tuple[Any, ...]:
        return control.path, control.recipe, seed, control.fraction, control.altered

    def _rng(self, *what: Any) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(repr(what).encode())])

    def _hits(self, share: float, what: Any) -> np.ndarray:
        if self.sd is None:
            return hits(share, self.n)
        share = float(np.clip(share, 1 / self.n, 1 - 1 / self.n))
        own = self._rng("sample", what).normal(size=self.n)
        return (0.8 * self._hard + 0.6 * own < norm.ppf(share)).astype(float)


def prices(costs: dict[Any, float] = COSTS) -> Prices:
    """Prices of those student trainings; a student training is 10 s, 1e9 FLOPs and 100 bytes."""
    return Prices(
        costs={
            str(size): Cost(
                student_trainings=cost, seconds=10 * cost, flops=1e9 * cost, memory_bytes=100
            )
            for size, cost in costs.items()
        }
    )
