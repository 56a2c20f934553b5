"""Readings: the labels as linear maps read them off every layer of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gapkit.errors import InputError
from gapkit.measurement import Measurement
from gapkit.probes.bases import Bases
from gapkit.probes.interval import Interval, measured, undefined
from gapkit.probes.linear_fit import applied, choose, fit_of, label_array, reading_interval
from gapkit.probes.readout import SCREEN_PENALTIES, Classes, Readout, Values

HELD = ("validation", "test")
PASSES = 80  # over the features, forth and back, of L-BFGS along a path of penalties


@dataclass(frozen=True)
class Readings:
    """Linear readings of the labels off one model's layers.

    Attributes:
        kind: how the labels are read; penalties: of the logistic probes.
    """

    bases: Bases
    kind: type[Readout]
    role: str
    penalties: tuple[float, ...]

    def measure(self, budget: float) -> Iterator[Measurement]:
        """The linear_screen of every layer, the linear_probe of those that a budget of FLOPs allows."""
        layers = self.bases.layers(self.role)
        screened: dict[str, float] = {}
        for layer in layers if self.kind.screen else ():
            for item in self._read("linear_screen", layer, ""):
                yield item
                screened.setdefault(layer, item.value)
        costs = [self._flops(layer) for layer in layers]
        taps = evenly_spaced(costs, budget)
        known = {layer: value for layer, value in screened.items() if np.isfinite(value)}
        chosen = {layers[tap] for tap in taps}
        note = ""
        if len(taps) < len(layers):
            chosen |= {max(known, key=known.__getitem__)} if known and taps else set()
            note = f"; {len(chosen)} of {len(layers)} layers: evenly spaced and the screen's best"
        for layer in layers:
            if layer in chosen:
                yield from self._read("linear_probe", layer, note)
            elif not taps:
                dear = f"logistic probes of two layers take {max(costs):.1g} FLOPs each, more than allowed"
                yield from self._undefined("linear_probe", layer, dear)

    def _read(self, name: str, layer: str, note: str) -> Iterator[Measurement]:
        """Fit on train, choose the penalty on validation, judge on both."""
        probe = name == "linear_probe"
        how = self.kind.probe if probe else self.kind.screen
        grid = self.penalties if probe and self.kind is not Values else SCREEN_PENALTIES
        try:
            labels = {split: self._labels(split) for split in ("train", *HELD)}
            known, readout = self.bases.of(self.role, layer), self.kind(labels["train"])
        except InputError as error:
            yield from self._undefined(name, layer, str(error))
            return
        lines = list((readout.probed if probe else readout.screened)(known.basis, grid))
        choice = choose(readout, lines, known.held["validation"], labels["validation"])
        outputs = applied(lines[choice.best], known.held["test"])
        fit = fit_of(readout, grid, choice, readout.contributions(outputs, labels["test"]))
        where = "interior" if fit.interior else "at an end of the path"
        rows, all_rows = self.bases.n("train"), self.bases.n_seen("train")
        rows_of = f"{rows}" if rows == all_rows else f"{rows} (of {all_rows})"
        for split, values in zip(HELD, (fit.contributions_validation, fit.contributions)):
            chosen = "this same split" if split == "validation" else "validation"
            interval = reading_interval(readout, values, self.bases.groups(split))
            words = f"{how} on {rows_of} train samples, penalty {fit.penalty:g} chosen on {chosen}, {where}{note}"
            yield self._measured(name, split, interval, layer, f"{words}; {interval.method}")

    def _labels(self, split: str) -> np.ndarray:
        return label_array(self.kind, self.bases.targets(split), self.bases.n(split), split)

    def _undefined(self, name: str, layer: str, reason: str) -> Iterator[Measurement]:
        for split in HELD:
            nothing = undefined(reason, self.bases.n(split))
            yield self._measured(name, split, nothing, layer, "")

    def _measured(
        self, name: str, split: str, interval: Interval, layer: str, estimator: str
    ) -> Measurement:
        return measured(
            name, self.role, split, interval, layer=layer, unit=self.kind.unit, better="higher",
            estimator=estimator,
        )  # fmt: skip

    def _flops(self, layer: str) -> float:
        """Of a path of logistic regressions; ridge costs no more than its basis."""
        if self.kind is Values:
            return 0.0
        y = self.bases.targets("train")
        n_outputs = len(np.unique(y)) if self.kind is Classes else y.shape[-1]
        rank = min(len(y), self.bases.widths[self.role][layer])
        return 4.0 * PASSES * len(y) * rank * n_outputs


def evenly_spaced(costs: Sequence[float], budget: float) -> list[int]:
    """As many positions as the budget allows, first and last among them, one more always affordable.

    All when all are; none when not even two are.

    >>> evenly_spaced([1.0] * 9, 4.0)
    [0, 4, 8]
    """
    count = len(costs)
    if sum(costs) <= budget:
        return list(range(count))
    for n in range(count - 1, 1, -1):
        taken = sorted({round(place) for place in np.linspace(0, count - 1, n)})
        if sum(costs[place] for place in taken) + max(costs) <= budget:
            return taken
    return []
