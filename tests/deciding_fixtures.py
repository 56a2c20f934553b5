"""What the tests of the deciding rooms share: invented models as 0/1 contributions, and fake trainings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from gapkit.gap import ControlRun
from gapkit.measurement import Contributions, Measurement, Measurements
from gapkit.outcome import Training
from gapkit.plans import Cost
from gapkit.prices import Prices
from gapkit.probes.interval import Interval, measured, score_interval

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
        cost=len(runs) * fraction,
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
    """Trains in no time: planted means, noise by run, noise by sample.

    Args:
        mean: (path, recipe, fraction) -> true mean score.
        sd: of a run's true score around its arm's mean.
        seed: of all noise; n: validation samples.
    """

    def __init__(
        self,
        mean: Callable[[tuple, str, float], float],
        sd: float = 0.05,
        seed: int = 0,
        n: int = 200,
    ) -> None:
        self.mean, self.sd, self.seed, self.n = mean, sd, seed, n
        self.trained: list[tuple[tuple, str, int, float]] = []
        self.done: set[tuple[tuple, str, int, float]] = set()
        self._hard = np.random.default_rng([seed, 1]).normal(size=n)

    def rng(self, *what: Any) -> np.random.Generator:
        """A generator of its own for everything that is drawn."""
        return np.random.default_rng([self.seed, zlib.crc32(repr(what).encode())])

    def contributions(self, path: tuple, recipe: str, seed: int, fraction: float) -> np.ndarray:
        """(n,) hits and misses of a run; drawn alike however often it is asked for."""
        rng = self.rng(path, recipe, seed, fraction)
        share = np.clip(
            self.mean(path, recipe, fraction) + self.sd * rng.normal(), 1 / self.n, 1 - 1 / self.n
        )
        return (0.8 * self._hard + 0.6 * rng.normal(size=self.n) < norm.ppf(share)).astype(float)

    def train(self, path: tuple, recipe: str, seed: int, fraction: float) -> Training:
        """The training, noted in `trained`."""
        arm = (tuple(path), recipe, seed, fraction)
        assert arm not in self.done, f"{arm} is trained twice"
        self.trained.append(arm)
        self.done.add(arm)
        return make_training(path, recipe, seed, fraction, self.contributions(*arm))

    def price(self, path: tuple, recipe: str, seed: int, fraction: float) -> float:
        """What it would cost now; the missing prefix with it."""
        if (tuple(path), recipe, seed, fraction) in self.done:
            return 0.0
        above = self.price(path[:-1], recipe, seed, fraction) if len(path) > 2 else 0.0
        return COSTS[path[-1]] * fraction + above


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
