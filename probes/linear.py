"""Linear: what a layer holds linearly. Probes for the label, and one layer predicted from another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import linalg, optimize
from scipy.special import logsumexp

from gapkit.errors import InputError
from gapkit.measurement import Measurement
from gapkit.probes.probe import Observation, Result, Seen, Setting
from gapkit.probes.resample import Interval, mean_interval, measured, score_interval, undefined

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RIDGE_PENALTIES = tuple(10.0**power for power in range(3, -7, -1))
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
    path_of = _logistic_path if work <= max_flops else _ridge_path
    rows = [x_validation] if carved else [x_validation, x_test]
    scores, classes = path_of(x_fit, y_fit, rows, grid)
    path, losses = _judge(scores[0], classes, y_validation)
    best = int(np.lexsort((losses, -path))[0])
    if carved:
        refit, classes_all = path_of(x, y, [x_test], grid[: best + 1])
        answers = classes_all[refit[0][best].argmax(1)]
    else:
        answers = classes[scores[1][best].argmax(1)]
    interval = score_interval(answers == y_test)
    return ProbeFit(
        accuracy=interval.value,
        low=interval.low,
        high=interval.high,
        penalty=grid[best],
        interior=0 < best < len(grid) - 1,
        penalties=grid,
        path=path,
        n=len(y_test),
        correct=answers == y_test,
        correct_validation=classes[scores[0][best].argmax(1)] == y_validation,
        model="logistic" if path_of is _logistic_path else "ridge",
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
    scores, classes = _ridge_path(x, y, [x_eval], tuple(penalties))
    return _judge(scores[0], classes, y_eval)[0]


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
    x, y = _matrix(x, "x"), _matrix(y, "y")
    if len(x) != len(y):
        raise InputError(f"Expected as many rows of x as of y but got {len(x)} and {len(y)}")
    units = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_units = int(units.max()) + 1
    if n_units < 2 * FOLDS:
        return undefined(
            f"{n_units} samples or groups are too few for {FOLDS} folds", len(x), level
        )
    fold = (np.random.default_rng(seed).permutation(n_units) % FOLDS)[units]
    missed, spread = np.empty(len(x)), np.empty(len(x))
    for index in range(FOLDS):
        held = fold == index
        basis = _basis(x[~held])
        if basis is None:
            return undefined("no feature of x varies", len(x), level)
        missed[held], spread[held] = basis.errors(y[~held], x[held], y[held])
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
        kind = (
            "logistic" if fit.model == "logistic" else "ridge on one-hot labels (logistic too dear)"
        )
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
        basis = _basis(x)
        if basis is None or len(x) < 3:
            continue
        found[source] = {}
        for split in ("validation", "test"):
            x_held, y_held, groups = _both(seen[split], role, source, layer)
            found[source][split] = _r2(*basis.errors(y, x_held, y_held), groups)
    usable = {name: values for name, values in found.items() if not values["validation"].reason}
    best = max(usable, key=lambda name: usable[name]["validation"].value) if usable else ""
    of = "pair" if role == "student" else role
    for split in ("validation", "test"):
        nothing = undefined(
            f"this layer or every {role} layer is constant, not finite or seen on too few samples"
        )
        interval = usable[best][split] if best else nothing
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
    x, y = _rows_of(model, source, left), _rows_of(teacher, layer, right)
    return x, y, None if seen.groups is None else seen.groups[rows]


def _rows_of(observation: Observation, layer: str, rows: np.ndarray) -> np.ndarray:
    return observation.features[layer].double().numpy()[rows]


def _r2(missed: np.ndarray, spread: np.ndarray, groups: Any, level: float = 0.95) -> Interval:
    """1 - Σ missed / Σ spread with the ratio estimator's interval."""
    if not len(spread) or not spread.sum() > 0 or not np.isfinite(missed.sum()):
        return undefined("what is to be predicted is constant or not finite", len(spread), level)
    value = 1 - missed.sum() / spread.sum()
    around = mean_interval(value - (missed - (1 - value) * spread) / spread.mean(), level, groups)
    return replace(around, method=f"ratio, {around.method[6:]}")


@dataclass(frozen=True)
class _Basis:
    """Standardized training features in their principal axes: what every ridge penalty shares."""

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    scores: np.ndarray
    kept: np.ndarray

    def project(self, x: np.ndarray) -> np.ndarray:
        """(m, r) principal scores of new samples."""
        return (x[:, self.kept] - self.mean) / self.scale @ self.axes

    def errors(
        self, y: np.ndarray, x_held: np.ndarray, y_held: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Squared error and squared distance from y's mean of each held-out sample, penalty by GCV."""
        center = y.mean(0)
        cross = self.scores.T @ (y - center) / len(y)
        total = float(((y - center) ** 2).sum()) / len(y)
        explained = (cross**2).sum(1) / self.values
        best, weights = np.inf, self.values * np.inf
        for penalty in RIDGE_PENALTIES:
            shrink = self.values / (self.values + penalty)
            freedom = 1 - (1 + shrink.sum()) / len(y)
            left = total - ((2 * shrink - shrink**2) * explained).sum()
            if freedom > 0.1 and left / freedom**2 < best:
                best, weights = left / freedom**2, self.values + penalty
        answer = self.project(x_held) @ (cross / weights[:, None]) + center
        return ((y_held - answer) ** 2).sum(1), ((y_held - center) ** 2).sum(1)


def _basis(x: np.ndarray) -> _Basis | None:
    """Principal axes of standardized x (n, d), through the smaller of its two Gram matrices."""
    if not np.isfinite(x).all():
        return None
    mean, scale = x.mean(0), x.std(0)
    kept = scale > 1e-9 * (np.abs(mean) + 1e-30) + 1e-30
    if not kept.any():
        return None
    mean, scale = mean[kept], scale[kept]
    z = (x[:, kept] - mean) / scale
    n, d = z.shape
    wide = d > n
    values, vectors = linalg.eigh((z @ z.T if wide else z.T @ z) / n)
    good = values > values[-1] * 1e-12 * max(n, d)
    values, vectors = values[good][::-1], vectors[:, good][:, ::-1]
    axes = z.T @ vectors / np.sqrt(values * n) if wide else vectors
    return _Basis(mean, scale, axes, values, z @ axes, kept)


def _training_basis(x: np.ndarray, y: np.ndarray) -> tuple[_Basis, np.ndarray, np.ndarray]:
    classes, code = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"Expected at least two classes to probe for but got {len(classes)}")
    basis = _basis(x)
    if basis is None:
        raise InputError("Expected a feature that varies over the training samples but got none")
    return basis, classes, code


def _ridge_path(
    x: np.ndarray, y: np.ndarray, others: list[np.ndarray], penalties: tuple[float, ...]
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    basis, classes, code = _training_basis(x, y)
    onehot = np.eye(len(classes))[code]
    share = onehot.mean(0)
    cross = basis.scores.T @ (onehot - share) / len(x)
    projected = [basis.project(other) for other in others]
    weights = [cross / (basis.values + penalty)[:, None] for penalty in penalties]
    return [[z @ w + share for w in weights] for z in projected], classes


def _logistic_path(
    x: np.ndarray, y: np.ndarray, others: list[np.ndarray], penalties: tuple[float, ...]
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Logits of every other sample set at every penalty, warm-started from strong to weak, and the classes.

    Solved in the principal axes, each scaled by about the root of its curvature: the optimum is the
    same (the penalty is rotated and scaled along), L-BFGS needs far fewer steps.
    """
    basis, classes, code = _training_basis(x, y)
    projected = [basis.project(other) for other in others]
    found: list[list[np.ndarray]] = [[] for _ in others]
    weights = np.zeros((len(classes), len(basis.values)))
    intercept = np.log(np.bincount(code) / len(code))
    for penalty in penalties:
        weights, intercept = _logistic(basis, code, penalty, weights, intercept)
        for logits, z in zip(found, projected):
            logits.append(z @ weights.T + intercept)
    return found, classes


def _logistic(
    basis: _Basis, code: np.ndarray, penalty: float, weights: np.ndarray, intercept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, r) and intercept (K,) that minimize mean cross-entropy + penalty/2 ‖W‖²."""
    n, n_classes, rank = len(code), *weights.shape
    stretch = 1 / np.sqrt(basis.values / n_classes + penalty)
    z, shrink = basis.scores * stretch, penalty * stretch**2
    rows, unit = np.arange(n), 1.0

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta, free = flat[:-n_classes].reshape(n_classes, rank), flat[-n_classes:]
        logits = z @ theta.T + free
        logits -= logits.max(1, keepdims=True)
        own = logits[rows, code]
        p = np.exp(logits, out=logits)
        total = p.sum(1)
        loss = (np.log(total) - own).mean() + 0.5 * (shrink * theta**2).sum()
        p /= total[:, None]
        p[rows, code] -= 1
        p /= n
        return loss * unit, np.concatenate([(p.T @ z + shrink * theta).ravel(), p.sum(0)]) * unit

    start = np.concatenate([(weights / stretch).ravel(), intercept])
    unit = 1 / min(1.0, loss_and_gradient(start)[0])  # SciPy's ftol is absolute for losses below 1
    options = {"maxiter": 1000, "maxfun": 1500, "gtol": 1e-6, "ftol": 1e-6, "maxcor": 10}
    found = optimize.minimize(
        loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options
    ).x
    return found[:-n_classes].reshape(n_classes, rank) * stretch, found[-n_classes:]


def _judge(
    path: list[np.ndarray], classes: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and mean cross-entropy at every penalty; a class never trained on counts as a miss."""
    code = np.clip(np.searchsorted(classes, y), 0, len(classes) - 1)
    known = classes[code] == y
    rows = np.arange(len(y))
    accuracy = np.array([((logits.argmax(1) == code) & known).mean() for logits in path])
    losses = [(logsumexp(logits, axis=1) - logits[rows, code])[known] for logits in path]
    return accuracy, np.array([loss.mean() if len(loss) else 0.0 for loss in losses])


def _stratified_fifth(y: np.ndarray, seed: int) -> np.ndarray:
    """Which samples to hold out: every fifth within each class, in random order."""
    order = np.lexsort((np.random.default_rng(seed).random(len(y)), y))
    held = np.zeros(len(y), dtype=bool)
    held[order[2::5]] = True
    return held


def _matrix(x: Any, what: str) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise InputError(f"Expected {what} of shape (samples, features) but got {x.shape}")
    if not np.isfinite(x).all():
        raise InputError(f"Expected finite {what} but some are not")
    return x


def _checked(x: Any, y: Any, what: str, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    x, y = _matrix(x, f"{what} features"), np.asarray(y)
    if y.shape != (len(x),) or y.dtype.kind not in "biu":
        raise InputError(f"Expected {len(x)} integer {what} labels but got {y.dtype} {y.shape}")
    if width is not None and x.shape[1] != width:
        raise InputError(f"Expected {width} {what} features but got {x.shape[1]}")
    return x, y
