"""Pricing: what trainings of a study cost by now, in student trainings."""

from __future__ import annotations

from functools import cached_property

from gapkit.causes.variants import Variants, price_of_rates
from gapkit.controls import Control
from gapkit.family import Family, Size
from gapkit.gap import ALIKE, LIKE_TEACHER, RATE
from gapkit.training.prices import Prices, measure_prices
from gapkit.training.trainings import Trainings


class Pricing:
    """Prices of arms and controls; what is in the run folder already costs nothing.

    Args:
        trainings: the study's, with its teacher.
        variants: the same with one thing altered.
    """

    def __init__(self, trainings: Trainings, variants: Variants) -> None:
        self.trainings, self.variants = trainings, variants

    @cached_property
    def prices(self) -> Prices:
        """Measured once, kept in the run folder: the unit of every budget."""
        return self._measured("prices", self.trainings.family)

    def arm(self, path: tuple[Size, ...], recipe: str, seed: int, fraction: float) -> float:
        """What an arm would cost now: nothing when it is there, its missing prefix with it else."""
        if self.trainings.done(path, recipe, seed, fraction) is not None:
            return 0.0
        cost = self.prices.trainings(path[-1], fraction)
        return cost + (self.arm(path[:-1], recipe, seed, fraction) if len(path) > 2 else 0.0)

    def control(self, control: Control, seed: int) -> float:
        """What a control would cost now; altered trainings as what they alter, a stranger by its own clock."""
        arm = control.path, control.recipe, seed, control.fraction
        if not control.altered:
            return self.arm(*arm)
        rates = price_of_rates(self.trainings) if control.altered == RATE else 0.0
        if rates:  # which rate it is takes short trainings first
            return self.prices.trainings(control.path[-1], control.fraction) + rates
        if self.variants(control.altered).done(*arm) is not None:
            return 0.0
        if control.altered == LIKE_TEACHER:
            return self._like_teacher * control.fraction
        return self.prices.trainings(control.path[-1], control.fraction)

    @cached_property
    def _like_teacher(self) -> float:
        """Student trainings that a full training of the teacher's architecture costs."""
        found = self._measured("prices_like_teacher", self.variants(LIKE_TEACHER).family)
        theirs, unit = found.of(ALIKE), self.prices.of(self.trainings.family.student)
        if unit.unit_from == "seconds" and unit.seconds > 0:
            return theirs.seconds / unit.seconds
        return theirs.flops / unit.flops if unit.flops > 0 else 1.0

    def _measured(self, name: str, family: Family) -> Prices:
        trainings = self.trainings
        found = trainings.run.load(name, Prices)
        if found is None:
            teacher, device = trainings.sources["teacher"].model, str(trainings.device)
            found = measure_prices(
                trainings.task, trainings.data, family, trainings.recipe, teacher, device
            )
            trainings.run.save(name, found)
        return found
