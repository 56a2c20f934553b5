"""Bases: the training axes of every layer of every model, over the same samples, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gapkit.errors import InputError
from gapkit.probes.probe import Seen
from gapkit.probes.spectrum import Basis, basis_of, feature_matrix
from gapkit.task import IGNORED

HELD_BYTES = 2**30
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class LayerBasis:
    """A layer's training basis, and the principal scores (m, r) of each held-out split along it."""

    basis: Basis
    held: Mapping[str, np.ndarray]

    @property
    def nbytes(self) -> int:
        arrays = (self.basis.axes, self.basis.scores, *self.held.values())
        return sum(array.nbytes for array in arrays)


class Bases:
    """What linear fits from any layer of any model share, over the same samples (or tokens).

    Attributes:
        seen: the splits train, validation and test.
        picked: split -> rows of the features that are used: all that have a label or need none, or
            `n_rows` of them at random with `seed`; the same for all layers, so that their fits can
            be compared.
        widths: role -> layer -> features.
    """

    def __init__(self, seen: Mapping[str, Seen], n_rows: int | None = None, seed: int = 0) -> None:
        self.seen, self.widths = seen, layer_widths(seen)
        self.picked: dict[str, np.ndarray] = {}
        for split in SPLITS:
            picked = usable_rows(seen[split])
            if n_rows is not None and n_rows < len(picked):
                picked = np.sort(np.random.default_rng(seed).permutation(picked)[:n_rows])
            self.picked[split] = picked
        self._found: dict[tuple[str, str], LayerBasis | InputError] = {}
        self._bytes = 0

    @property
    def roles(self) -> tuple[str, ...]:
        """Teacher, student and, where it was run, the untrained student."""
        return tuple(self.widths)

    def layers(self, role: str) -> tuple[str, ...]:
        """Layers of a model, input to output."""
        return tuple(self.widths[role])

    def features(self, role: str, layer: str, split: str) -> np.ndarray:
        """(n, d) float64.

        Raises:
            InputError: when one is not finite.
        """
        shown = self.seen[split].models[role]
        return feature_matrix(shown.features[layer][self.picked[split]], f"{split} features")

    def n(self, split: str) -> int:
        """Samples that fits use."""
        return len(self.picked[split])

    def n_seen(self, split: str) -> int:
        """Samples that they could use."""
        return len(usable_rows(self.seen[split]))

    def targets(self, split: str) -> np.ndarray:
        """Labels of the samples, as the data gives them, or of the tokens.

        Raises:
            InputError: when the data gives none.
        """
        targets = row_targets(self.seen[split])
        if targets is None:
            raise InputError("Expected targets to probe for but the data gives none")
        return targets[self.picked[split]]

    def groups(self, split: str) -> np.ndarray | None:
        """(n,) groups of dependent samples; tokens of one sample are one."""
        seen = self.seen[split]
        rows = seen.teacher.rows[self.picked[split]]
        if seen.groups is not None:
            return seen.groups[rows]
        return None if seen.teacher.tokens is None else rows

    def of(self, role: str, layer: str) -> LayerBasis:
        """The layer's basis: kept for the next call while all kept ones fit in a byte budget.

        Raises:
            InputError: when features are not finite or none varies over the training samples.
        """
        known = self._found.get((role, layer))
        if known is None:
            try:
                known = self._computed(role, layer)
            except InputError as error:
                known = error
            size = known.nbytes if isinstance(known, LayerBasis) else 0
            if self._bytes + size <= HELD_BYTES:
                self._found[role, layer] = known
                self._bytes += size
        if isinstance(known, InputError):
            raise known
        return known

    def _computed(self, role: str, layer: str) -> LayerBasis:
        basis = basis_of(self.features(role, layer, "train"))
        held = {split: basis.project(self.features(role, layer, split)) for split in SPLITS[1:]}
        return LayerBasis(basis, held)


def layer_widths(seen: Mapping[str, Seen]) -> dict[str, dict[str, int]]:
    """Role -> layer -> features, input to output."""
    return {
        role: {layer: int(shown.features[layer].shape[1]) for layer in shown.layers}
        for role, shown in seen["train"].models.items()
    }


def row_targets(seen: Seen) -> np.ndarray | None:
    """Targets of every row of the features: of its sample or, where rows are tokens, its token."""
    if seen.targets is None:
        return None
    rows, tokens = seen.teacher.rows, seen.teacher.tokens
    if tokens is None:
        return seen.targets.numpy()[rows]
    return seen.targets.numpy()[rows, tokens] if seen.targets.ndim == 2 else None


def usable_rows(seen: Seen) -> np.ndarray:
    """Rows of the features but those of tokens without a label."""
    targets = row_targets(seen)
    if targets is None or seen.teacher.tokens is None:
        return np.arange(len(seen.teacher.rows))
    return np.flatnonzero(targets != IGNORED)


def basis_flops(n: int, width: int) -> float:
    """About what a layer's basis and its scores on three splits of n samples cost."""
    small = min(n, width)
    return 8.0 * n * width * small + 10.0 * small**3
