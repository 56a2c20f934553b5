"""Inquiry: the control runs of one study: which there are, how each is trained, and what its remedies need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gapkit.causes.case import Case
from gapkit.causes.remedies import Workshop
from gapkit.causes.variants import Variants, best_checkpoint, offered
from gapkit.controls import Control, Controls, standard_controls
from gapkit.gap import RATE, ControlRun
from gapkit.outcome import Training
from gapkit.pricing import Pricing
from gapkit.training.trainings import Trainings


@dataclass(frozen=True)
class Inquiry:
    """Trains controls for a diagnosis.

    Attributes:
        trainings: the study's; variants: the same with one thing altered.
        pricing: of what is not trained yet.
        heard: called with (spent, budget, what is trained next, what that costs).
    """

    trainings: Trainings
    variants: Variants
    pricing: Pricing
    heard: Callable[[float, float, str, float], None]

    def controls(self, case: Case, budget: float, first_seed: int) -> Controls:
        """The standard controls under a budget, to be run."""
        own = self.trainings
        return Controls(
            standard_controls(own.family, own.recipe_name, own.knowledge, offered(own)),
            self._train,
            self.pricing.control,
            budget,
            case,
            first_seed=first_seed,
            heard=self.heard,
        )

    def _train(self, control: Control, seed: int) -> Training:
        trainings = self.variants(control.altered) if control.altered else self.trainings
        trainings.tick = self.trainings.tick
        return trainings.arm(control.path, control.recipe, seed, control.fraction)

    def with_rate(self, run: ControlRun) -> ControlRun:
        """The run with the factor on the learning rate that it was trained with, when that was altered."""
        if run.altered != RATE:
            return run
        return run.with_(rate=self.variants(RATE).recipe.lr / self.trainings.recipe.lr)

    @property
    def workshop(self) -> Workshop:
        """What it takes to make stages of remedies."""
        own = self.trainings
        earlier = best_checkpoint(own) if own.sources.n_checkpoints else ""
        return Workshop(own.family, own.recipe, own.recipe_name, own.knowledge, earlier)
