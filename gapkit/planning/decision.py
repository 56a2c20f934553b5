"""Choice: the path to take after a search, what it should score, and why this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapkit.forecast import Forecast
from gapkit.planning.arm import Arm
from gapkit.planning.lookahead import odds
from gapkit.plans import Alternative, Predicted

TIE = 0.05
"""Arms are equal whose expected scores differ by less than this share of a run's noise."""
HARM = 0.1
"""What a chain that is worse than the best single hop costs, as a share of the gap: the lead that is
expected of a chain must be worth that, times the probability that it is worse."""
N_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The path to take, what it should score, and whether its assistants are worth their price.

    Attributes:
        path, recipe, fraction: what to train; the path ends at the student.
        predicted: 80 % interval of the true mean over seeds.
        predicted_run: 80 % interval of one run.
        assistant_pays: the path has an assistant and beats the best single hop beyond noise.
        reason: why this one, in one or two lines.
        tried: whether this very arm was run to its end at least once.
        n_runs: how many finite runs of it were told.
        alternatives: every arm considered, best first.
    """

    path: tuple[Any, ...]
    recipe: str
    fraction: float
    predicted: Predicted
    predicted_run: Predicted
    assistant_pays: bool
    reason: str
    tried: bool
    n_runs: int = 0
    alternatives: tuple[Alternative, ...] = ()

    def __str__(self) -> str:
        sizes = " → ".join(str(size) for size in self.path)
        return f"{sizes} by {self.recipe}, fraction {self.fraction:g}: {self.predicted}"


class Decision:
    """What the runs so far say about some arms, and the arm to take.

    Args:
        arms: that may be chosen; at least one.
        forecast: of the student's scores.
        price: arm -> student trainings that carrying it out takes.
        n_runs: arm -> finite scores told.
        any_told: whether anything was told at all, failures included.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        forecast: Forecast,
        price: Callable[[Arm], float],
        n_runs: Callable[[Arm], int],
        any_told: bool,
    ) -> None:
        self.arms, self.forecast, self.any_told = list(arms), forecast, any_told
        self.mean, _ = forecast.screen(self.arms)
        self.cost = np.array([price(arm) for arm in self.arms])
        self.n_runs = np.array([n_runs(arm) for arm in self.arms])
        self.rival = best_single(self.arms, self.mean)
        self.index = self._best() if forecast.runs else 0

    def choice(self) -> Choice:
        """The arm with its forecast, reason and alternatives."""
        arm, n = self.arms[self.index], int(self.n_runs[self.index])
        pays, why = self._claim()
        return Choice(
            path=arm.path,
            recipe=arm.recipe,
            fraction=arm.fraction,
            predicted=self.forecast.true_mean(arm),
            predicted_run=self.forecast.one_run(arm),
            assistant_pays=pays,
            reason=why,
            tried=n > 0,
            n_runs=n,
            alternatives=self._alternatives(),
        )

    def _best(self) -> int:
        """Of the arms within a little of the best expected score, the cheapest.

        A chain pays for the probability that it is worse than the best single hop. By the belief, of all
        rules that take a false chain as often, one with such a price loses least (Neyman & Pearson 1933).
        """
        worth = self.mean.copy()
        if self.rival is not None:
            chains = np.array([arm.n_assistants > 0 for arm in self.arms])
            worse = 1.0 - odds(self.forecast.belief(self.arms), self.rival)
            worth -= HARM * self.forecast.unit * worse * chains
        near = np.flatnonzero(worth >= worth.max() - TIE * self.forecast.run_sd)
        return int(
            min(
                near,
                key=lambda i: (round(float(self.cost[i]), 9), self.n_runs[i] == 0, -worth[i]),
            )
        )

    def _claim(self) -> tuple[bool, str]:
        """Whether an assistant pays (gain above 2σ√(1/n₁+1/n₂) over the best single hop), and why."""
        arm, n = self.arms[self.index], int(self.n_runs[self.index])
        if not self.forecast.runs:
            what = "Every run failed so far" if self.any_told else "Nothing was measured yet"
            return False, f"{what}: {arm.recipe} along {arm.path}, untried or failed."
        base = f"Expected {self.mean[self.index]:.4g} from {n} run{'s' * (n != 1)}"
        base = base if n else f"{base} of this arm (untried; forecast from other arms)"
        if arm.n_assistants == 0:
            return False, f"{base}; no chain is expected to do better beyond noise."
        if self.rival is None:
            return False, f"{base}; not claimed: every single hop failed, so there is no rival."
        rival, m = self.arms[self.rival], int(self.n_runs[self.rival])
        gain = float(self.mean[self.index] - self.mean[self.rival])
        over = f"{base}; {gain:+.3g} over {rival.recipe} in a single hop"
        if n < 2 or m < 1:
            return False, (
                f"{over}, not claimed: it takes two runs of the chain and one of its rival, there are "
                f"{n} and {m}."
            )
        limit = 2.0 * self.forecast.run_sd * math.sqrt(1 / n + 1 / m)
        said = "beyond" if gain > limit else "within"
        return gain > limit, f"{over} (n = {m}), {said} the noise limit of {limit:.3g}."

    def _alternatives(self) -> tuple[Alternative, ...]:
        """The most promising arms, those that were run, and every single hop; best first."""
        order = np.argsort(-self.mean, kind="stable")
        shown = [
            i
            for rank, i in enumerate(order)
            if rank < N_SHOWN or self.n_runs[i] or i == self.index or self.arms[i].n_assistants == 0
        ]
        forecasts = self.forecast.true_means([self.arms[i] for i in shown])
        return tuple(
            Alternative(
                path=tuple(_label(size) for size in self.arms[i].path),
                recipe=self.arms[i].recipe,
                fraction=self.arms[i].fraction,
                predicted=predicted,
                cost=float(self.cost[i]),
                n_runs=int(self.n_runs[i]),
                chosen=bool(i == self.index),
                on_front=self._on_front(i),
            )
            for i, predicted in zip(shown, forecasts)
        )

    def _on_front(self, i: int) -> bool:
        """Whether no arm is at least as good at a lower price, or better at no higher one."""
        mean, cost = self.mean, self.cost
        beaten = (mean >= mean[i]) & (cost < cost[i]) | (mean > mean[i]) & (cost <= cost[i])
        return not bool(np.any(beaten))


def best_single(arms: Sequence[Arm], mean: np.ndarray) -> int | None:
    """Index of the best scratch or single-hop arm; None when there is none.

    >>> best_single([Arm((9, 3, 1), "kl"), Arm((9, 1), "kl"), Arm((1,), "scratch")], np.arange(3))
    2
    """
    singles = [i for i, arm in enumerate(arms) if arm.n_assistants == 0]
    return max(singles, key=lambda i: float(mean[i])) if singles else None


def _label(size: Any) -> Any:
    return size if isinstance(size, (int, float, str)) else str(size)
