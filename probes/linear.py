"""Linear: what a layer holds linearly. Probes of every layer of every model for the labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gapkit.probes.bases import (
    SPLITS,
    Bases,
    basis_flops,
    layer_widths,
    row_targets,
    usable_rows,
)
from gapkit.probes.linear_fit import LinearFit, fit_labels, penalty_grid
from gapkit.probes.prediction import predicted, prediction_flops
from gapkit.probes.probe import Result, Seen, Setting
from gapkit.probes.readings import Readings
from gapkit.probes.readout import SCREEN_PENALTIES, Classes, LabelSets, Readout, Values

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
MAX_FLOPS = 6e12  # some minutes on one core
MIN_ROWS = 200
KINDS: dict[str, type[Readout]] = {
    "classification": Classes,
    "multilabel": LabelSets,
    "regression": Values,
}


class ProbeFit(LinearFit):
    """A linear probe for classes: its accuracy off the samples it was fitted on, and its penalty."""

    @property
    def accuracy(self) -> float:
        """Share of test samples named right."""
        return self.value


def linear_probe(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    penalties: Sequence[float] = PENALTIES,
    x_validation: Any = None,
    y_validation: Any = None,
    seed: int = 0,
) -> ProbeFit:
    """How well a linear reader names the class from features: multinomial logistic regression.

    Minimizes mean cross-entropy + λ/2 ‖W‖² (intercept free) on features standardized by the training
    samples, constant ones dropped, at every penalty; the one with the best validation accuracy counts
    (among equals the lower validation loss).

    Args:
        x, x_test, x_validation: features (n, d); y, y_test, y_validation: integer labels (n,).
        penalties: λ to try, in any order. sklearn's C is 1/(λn).
        x_validation, y_validation: when None, a stratified fifth of x, drawn with `seed`, chooses the
            penalty and the fit is then repeated on all of x.

    Misleading as a measure of what a layer "knows": a layer can hold the label non-linearly, and
    few samples with many features fit anything. Alain & Bengio 2017 (1610.01644).

    Raises:
        InputError: shapes that do not fit, values that are not finite, one class only, or no
            feature that varies.

    >>> import numpy as np
    >>> x = np.array([[0.0], [0.1], [0.9], [1.0]] * 5)
    >>> fit = linear_probe(x, x[:, 0] > 0.5, x, x[:, 0] > 0.5)
    >>> fit.accuracy, fit.n
    (1.0, 20)
    """
    fit = fit_labels(
        Classes, (x, y), (x_test, y_test), (x_validation, y_validation), penalties, seed
    )
    return ProbeFit(**vars(fit))


def multilabel_probe(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    penalties: Sequence[float] = PENALTIES,
    x_validation: Any = None,
    y_validation: Any = None,
    seed: int = 0,
) -> LinearFit:
    """How well a linear reader names each of K labels: one logistic regression a label, shared penalty.

    As `linear_probe` with labels y (n, K) of 0 and 1 and a random fifth to choose the penalty. The value is balanced
    accuracy, mean over labels: 1/2 at chance however rare a label is (`readout.LabelSets`).

    Raises:
        InputError: as `linear_probe`, or when no label varies over the training samples.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> fit = multilabel_probe(x, x[:, :2] > 1, x, x[:, :2] > 1)
    >>> fit.value > 0.95
    True
    """
    return fit_labels(
        LabelSets, (x, y), (x_test, y_test), (x_validation, y_validation), penalties, seed
    )


def regression_probe(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    penalties: Sequence[float] = SCREEN_PENALTIES,
    x_validation: Any = None,
    y_validation: Any = None,
    seed: int = 0,
) -> LinearFit:
    """Share of the targets' variance that a linear reader predicts off its samples: ridge R², at most 1.

    As `linear_probe` with real targets y (n,) or (n, d), each in units of its training standard deviation: minimizes
    mean squared error + λ ‖W‖² (sklearn's alpha is λn). 0, also below, when features say nothing.

    Raises:
        InputError: as `linear_probe`, or when no target varies over the training samples.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> round(regression_probe(x, x @ [1.0, 2.0], x, x @ [1.0, 2.0]).value, 3)
    1.0
    """
    return fit_labels(
        Values, (x, y), (x_test, y_test), (x_validation, y_validation), penalties, seed
    )


class LinearProbe:
    """What each layer holds linearly: the labels, and the layers of the other model.

    Everything is fitted on train; validation chooses penalties, source layers and which layers are
    reported, test reports. "linear_screen" of every layer (LDA for classes, ridge for label sets), "linear_probe"
    (logistic; ridge for real targets) of all layers or of as many as the work budget allows, evenly
    spaced from the first to the last, and the screen's best. "predictability" of every teacher
    layer from the student's best one, and "student_predictability" the other way round.

    Args:
        penalties: of the logistic probes.
        max_flops: of all fits together. A third is for the logistic probes; when the rest does not do for
            all samples, all fits take the same random part of them. Estimators say so.
    """

    name = "linear"

    def __init__(
        self, penalties: Sequence[float] = PENALTIES, max_flops: float = MAX_FLOPS
    ) -> None:
        self.penalties, self.max_flops = penalty_grid(penalties), max_flops

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """Screens, probes and predictability on validation and test; nothing when a split is missing."""
        if not set(SPLITS) <= set(seen):
            return
        bases = Bases(seen, affordable_rows(seen, 2 / 3 * self.max_flops), setting.seed)
        kind = kind_of(setting.task, seen)
        for role in bases.roles:
            if kind is not None:
                budget = self.max_flops / 3 / len(bases.roles)
                yield from Readings(bases, kind, role, self.penalties).measure(budget)
        for role in bases.roles[1:]:
            yield from predicted(bases, role, "teacher", "predictability")
            yield from predicted(bases, "teacher", role, "student_predictability")


def kind_of(task: Any, seen: Mapping[str, Seen]) -> type[Readout] | None:
    """How the targets are read; None when there are none, one a sample or token, of the task's form."""
    kind = KINDS.get(task.kind)
    for shown in seen.values():
        targets = row_targets(shown)
        if targets is None or kind is None:
            return None
        if kind is Classes and (targets.ndim != 1 or targets.dtype.kind == "f"):
            return None
    return kind


def affordable_rows(seen: Mapping[str, Seen], flops: float) -> int:
    """Samples of each split with which bases and predictability of all layers cost at most `flops`."""
    n = max(len(usable_rows(seen[split])) for split in SPLITS)
    widths = {role: tuple(layers.values()) for role, layers in layer_widths(seen).items()}

    def work(n: int) -> float:
        total = sum(basis_flops(n, width) for role in widths for width in widths[role])
        for role in list(widths)[1:]:
            total += prediction_flops(n, widths[role], widths["teacher"])
            total += prediction_flops(n, widths["teacher"], widths[role])
        return total

    while n // 2 >= MIN_ROWS and work(n) > flops:
        n //= 2
    return n
