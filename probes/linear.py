"""Linear: what a layer holds linearly. Probes for the label, and one layer predicted from another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gapkit.errors import InputError
from gapkit.measurement import Measurement
from gapkit.probes.interval import Interval, mean_interval, measured, score_interval, undefined
from gapkit.probes.probe import Result, Seen, Setting
from gapkit.probes.readout import RIDGE_PENALTIES, judge, logistic_path, ridge_errors, ridge_path
from gapkit.probes.resample import folds
from gapkit.probes.spectrum import basis_of, feature_matrix

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
FOLDS = 5
MAX_FLOPS = 2e11  # of one logistic probe; beyond it the ridge screen is reported and says so
ITERATIONS = 200  # of L-BFGS over a whole path of penalties, for that estimate


@dataclass(frozen=True)
class ProbeFit:
    """A linear probe: its accuracy off the samples it was fitted on, and how its penalty was found.

    Attributes:
        accuracy, low, high, n: share of test samples named right, its 95 % Wilson bounds.
        penalty: chosen λ; interior: whether it lies within `penalties`, not at an end.
        path: (len(penalties),) validation accuracy by penalty.
        correct, correct_validation: whether each test / validation sample was named right.
    """

    accuracy: float
    low: float
    high: float
    penalty: float
    interior: bool
    penalties: tuple[float, ...]
    path: np.ndarray
    n: int
    correct: np.ndarray = field(repr=False)
    correct_validation: np.ndarray = field(repr=False)
    model: str = "logistic"


def linear_probe(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    penalties: Sequence[float] = PENALTIES,
    x_validation: Any = None,
    y_validation: Any = None,
    seed: int = 0,
    max_flops: float = float("inf"),
) -> ProbeFit:
    """How well a linear reader names the label from features: multinomial logistic regression.

    Minimizes mean cross-entropy + λ/2 ‖W‖² (intercept free) on features standardized by the training
    samples, constant ones dropped, at every penalty; the one with the best validation accuracy counts
    (among equals the lower validation loss).

    Args:
        x, x_test, x_validation: features (n, d); y, y_test, y_validation: integer labels (n,).
        penalties: λ to try, in any order. sklearn's C is 1/(λn).
        x_validation, y_validation: when None, a stratified fifth of x, drawn with `seed`, chooses the
            penalty and the fit is then repeated on all of x.
        max_flops: a path that would cost more is fitted by ridge on one-hot labels (`model` says so).

    Misleading as a measure of what a layer "knows": a layer can hold the label non-linearly, and
    few samples with many features fit anything. Alain & Bengio 2017 (1610.01644).

    Raises:
        InputError: shapes that do not fit, one class only, or no feature that varies.

    >>> x = np.array([[0.0], [0.1], [0.9], [1.0]] * 5)
    >>> fit = linear_probe(x, x[:, 0] > 0.5, x, x[:, 0] > 0.5)
    >>> fit.accuracy, fit.n
    (1.0, 20)
    """
    x, y = _checked(x, y, "training")
    x_test, y_test = _checked(x_test, y_test, "test", x.shape[1])
    grid = tuple(sorted({float(value) for value in penalties}, reverse=True))
    if not grid or grid[-1] <= 0:
        raise InputError(f"Expected one or more penalties above 0 but got {list(penalties)}")
    carved = x_validation is None
    if carved:
        held = _stratified_fifth(y, seed)
        x_fit, y_fit, x_validation, y_validation = x[~held], y[~held], x[held], y[held]
    else:
        x_fit, y_fit = x, y
        x_validation, y_validation = _checked(x_validation, y_validation, "validation", x.shape[1])
    work = 4.0 * x.shape[0] * x.shape[1] * len(np.unique(y)) * ITERATIONS
    path_of = logistic_path if work <= max_flops else ridge_path
    (judged, tested), classes = path_of(x_fit, y_fit, [x_validation, x_test], grid)
    path, losses = judge(judged, classes, y_validation)
    best = int(np.lexsort((losses, -path))[0])
    correct_validation = classes[judged[best].argmax(1)] == y_validation
    if carved:
        (tested,), classes = path_of(x, y, [x_test], grid[: best + 1])
    correct = classes[tested[best].argmax(1)] == y_test
    interval = score_interval(correct)
    return ProbeFit(
        accuracy=interval.value,
        low=interval.low,
        high=interval.high,
        penalty=grid[best],
        interior=0 < best < len(grid) - 1,
        penalties=grid,
        path=path,
        n=len(y_test),
        correct=correct,
        correct_validation=correct_validation,
        model="logistic" if path_of is logistic_path else "ridge",
    )


def ridge_screen(
    x: Any, y: Any, x_eval: Any, y_eval: Any, penalties: Sequence[float] = RIDGE_PENALTIES
) -> np.ndarray:
    """Accuracy (len(penalties),) of ridge regression on one-hot labels, at every penalty in the given order.

    One eigendecomposition serves all penalties. Quick, but trails logistic regression by some points
    on hard data: screen with it, report `linear_probe`. Penalties as there (λ against mean squares).

    >>> x = np.array([[0.0], [0.1], [0.9], [1.0]])
    >>> ridge_screen(x, [0, 0, 1, 1], x, [0, 0, 1, 1], penalties=[1e-3])
    array([1.])
    """
    x, y = _checked(x, y, "training")
    x_eval, y_eval = _checked(x_eval, y_eval, "evaluation", x.shape[1])
    scores, classes = ridge_path(x, y, [x_eval], tuple(penalties))
    return judge(scores[0], classes, y_eval)[0]


def predictability(
    x: Any, y: Any, groups: Any = None, seed: int = 0, level: float = 0.95
) -> Interval:
    """Share of Y's variance that a linear map from X predicts on held-out samples: ridge R², at most 1.

    Args:
        x, y: features (n, p) and (n, q) of the same samples; swap them for the other direction.
        groups: samples that depend on each other stay in one fold.
        seed: of the five folds.

    1 when y is a linear image of x, about 0 (also below) when x says nothing. The penalty of each fold
    is chosen on its training part by generalized cross-validation (Golub, Heath & Wahba 1979). High-variance
    directions of Y dominate. The interval is a ratio estimator's over held-out samples; how the fit
    itself would vary is not in it.

    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> round(predictability(x, x @ np.array([[1.0, 2.0], [0.0, 1.0]])).value, 3)
    1.0
    """
    x, y = feature_matrix(x, "x"), feature_matrix(y, "y")
    if len(x) != len(y):
        raise InputError(f"Expected as many rows of x as of y but got {len(x)} and {len(y)}")
    n_units = len(x) if groups is None else len(np.unique(groups))
    if n_units < 2 * FOLDS:
        why = f"{n_units} samples or groups are too few for {FOLDS} folds"
        return undefined(why, len(x), level)
    fold = folds(len(x), FOLDS, groups, seed)
    missed, spread = np.empty(len(x)), np.empty(len(x))
    for index in range(FOLDS):
        held = fold == index
        basis = basis_of(x[~held])
        if basis is None:
            return undefined("no feature of x varies", len(x), level)
        missed[held], spread[held] = ridge_errors(basis, y[~held], x[held], y[held])
    found = _r2(missed, spread, groups, level)
    method = f"{FOLDS}-fold ridge R², penalty by GCV; {found.method}"
    return found if found.reason else replace(found, method=method)


class LinearProbe:
    """What each layer holds linearly: the label, and the teacher's layers from the student's.

    Probes are fitted on train; validation chooses penalties and the best student layer, test reports.

    Args:
        penalties: of the logistic probes.
        max_flops: of one layer's probe; beyond it the ridge screen stands in, and the estimator says so.
    """

    name = "linear"

    def __init__(
        self, penalties: Sequence[float] = PENALTIES, max_flops: float = MAX_FLOPS
    ) -> None:
        self.penalties, self.max_flops = tuple(penalties), max_flops

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterable[Result]:
        """`linear_probe` of every model and layer, `predictability` of every teacher layer."""
        if not {"train", "validation", "test"} <= set(seen):
            return
        for role, observation in seen["train"].models.items():
            if _has_labels(seen):
                for layer in observation.layers:
                    yield from self._probe(seen, role, layer, setting.seed)
        for role in ("student", "untrained"):
            if role in seen["train"].models:
                for layer in seen["train"].teacher.layers:
                    yield from _predicted(seen, role, layer)

    def _probe(
        self, seen: Mapping[str, Seen], role: str, layer: str, seed: int
    ) -> Iterator[Result]:
        parts = {split: _labeled(seen[split], role, layer) for split in seen}
        fields: dict[str, Any] = {"layer": layer, "unit": "share", "better": "higher"}
        try:
            fit = linear_probe(
                *parts["train"], *parts["test"], self.penalties, *parts["validation"], seed,
                self.max_flops,
            )  # fmt: skip
        except InputError as error:
            for split in ("validation", "test"):
                nothing = undefined(str(error), len(parts[split][1]))
                yield measured("linear_probe", role, split, nothing, **fields)
            return
        where = "interior" if fit.interior else "at an end of the path"
        dear = "ridge on one-hot labels (logistic too dear)"
        kind = "logistic" if fit.model == "logistic" else dear
        for split, correct in (("validation", fit.correct_validation), ("test", fit.correct)):
            interval = score_interval(correct, groups=_groups(seen[split], role))
            chosen = "on this same split" if split == "validation" else "on validation"
            how = f"{kind} fitted on train, penalty {fit.penalty:g} chosen {chosen}, {where}; "
            yield measured(
                "linear_probe", role, split, interval, estimator=how + interval.method, **fields
            )


def _has_labels(seen: Mapping[str, Seen]) -> bool:
    """Integer labels, one a sample; other targets have no probe of their own."""
    return all(
        shown.targets is not None
        and shown.targets.ndim == 1
        and not shown.targets.is_floating_point()
        for shown in seen.values()
    )


def _labeled(seen: Seen, role: str, layer: str) -> tuple[np.ndarray, np.ndarray]:
    shown = seen.models[role]
    assert seen.targets is not None
    return shown.features[layer].double().numpy(), seen.targets.cpu().numpy()[shown.rows]


def _groups(seen: Seen, role: str) -> np.ndarray | None:
    return None if seen.groups is None else seen.groups[seen.models[role].rows]


def _predicted(seen: Mapping[str, Seen], role: str, layer: str) -> Iterator[Measurement]:
    """R² of one teacher layer from the model's layer that predicts it best on validation."""
    found: dict[str, dict[str, Interval]] = {}
    for source in seen["train"].models[role].layers:
        x, y, _ = _both(seen["train"], role, source, layer)
        basis = basis_of(x)
        if basis is None or len(x) < 3:
            continue
        found[source] = {}
        for split in ("validation", "test"):
            x_held, y_held, groups = _both(seen[split], role, source, layer)
            found[source][split] = _r2(*ridge_errors(basis, y, x_held, y_held), groups)
    usable = {name: values for name, values in found.items() if not values["validation"].reason}
    best = max(usable, key=lambda name: usable[name]["validation"].value) if usable else ""
    of = "pair" if role == "student" else role
    for split in ("validation", "test"):
        why = f"this layer or every {role} layer is constant, not finite or seen on too few samples"
        interval = usable[best][split] if best else undefined(why)
        how = f"ridge fitted on train (penalty by GCV) from {role} layer {best}, the best of {len(found)} on "
        how += "this same split; " if split == "validation" else "validation; "
        yield measured(
            "predictability", of, split, interval, layer=layer, unit="R²", better="higher",
            estimator=how + interval.method,
        )  # fmt: skip


def _both(
    seen: Seen, role: str, source: str, layer: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Source features, teacher features and groups of the samples that both models kept."""
    model, teacher = seen.models[role], seen.teacher
    rows, left, right = np.intersect1d(model.rows, teacher.rows, return_indices=True)
    x = model.features[source][left].double().numpy()
    y = teacher.features[layer][right].double().numpy()
    return x, y, None if seen.groups is None else seen.groups[rows]


def _r2(missed: np.ndarray, spread: np.ndarray, groups: Any, level: float = 0.95) -> Interval:
    """1 - Σ missed / Σ spread with the ratio estimator's interval."""
    if not len(spread) or not spread.sum() > 0 or not np.isfinite(missed.sum()):
        return undefined("what is to be predicted is constant or not finite", len(spread), level)
    value = 1 - missed.sum() / spread.sum()
    around = mean_interval(value - (missed - (1 - value) * spread) / spread.mean(), level, groups)
    return replace(around, method=f"ratio, {around.method[6:]}")


def _stratified_fifth(y: np.ndarray, seed: int) -> np.ndarray:
    """Which samples to hold out: every fifth within each class, in random order."""
    order = np.lexsort((np.random.default_rng(seed).random(len(y)), y))
    held = np.zeros(len(y), dtype=bool)
    held[order[2::5]] = True
    return held


def _checked(x: Any, y: Any, what: str, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    x, y = feature_matrix(x, f"{what} features"), np.asarray(y)
    if y.shape != (len(x),) or y.dtype.kind not in "biu":
        raise InputError(f"Expected {len(x)} integer {what} labels but got {y.dtype} {y.shape}")
    if width is not None and x.shape[1] != width:
        raise InputError(f"Expected {width} {what} features but got {x.shape[1]}")
    return x, y
