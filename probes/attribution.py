"""Attribution: whether teacher and student look at the same evidence, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapkit.errors import InputError, unknown
from gapkit.family import count_flops
from gapkit.guest import guest, moved, seeded
from gapkit.measurement import Measurement
from gapkit.probes.evidence import SHIFTS, same_evidence, shuffled_evidence, side_by_side
from gapkit.probes.features import placed
from gapkit.probes.importance import PASSES, layer_importance, measured_importance
from gapkit.probes.interval import Interval, mean_interval, measured, undefined
from gapkit.probes.probe import Seen, Setting
from gapkit.probes.question import Question, Unattributable, named_answer
from gapkit.probes.resample import one_of_each

METHODS = {
    "integrated_gradients": "Integrated Gradients",
    "saliency": "saliency",
    "occlusion": "occlusion",
}
MAX_FLOPS = 1e13
FEWEST_SAMPLES = 8
WINDOWS = 8

Answer = Callable[[Tensor], Tensor]


def integrated_gradients(
    answer: Answer, x: Tensor, baseline: Tensor | None = None, n_steps: int = 16
) -> Tensor:
    """How much every input value adds to the answer, on the straight path from a baseline to x.

    (x - b)·∫∂f(b + α(x - b))/∂x dα (Sundararajan 2017, 1703.01365, eq. 1; captum, Gauss-Legendre).
    Complete: the values of a sample add up to f(x) - f(b), exactly for a linear f, where they are
    w·(x - b). Misleading in what the baseline hides: values equal to it get 0 always.

    Args:
        answer: (m, ...) -> (m,), one number a sample that depends on that sample alone.
        x: (n, ...) floating. baseline: like x; None: the mean of the n samples.
        n_steps: gradients along the path.

    Returns:
        (n, ...) like x, in the answer's unit.

    >>> weight = torch.tensor([1.0, -2.0])
    >>> integrated_gradients(lambda x: x @ weight, torch.ones(1, 2), torch.zeros(1, 2)).round(decimals=4)
    tensor([[ 1., -2.]])
    """
    from captum.attr import IntegratedGradients

    if n_steps < 1:
        raise InputError(f"Expected n_steps of at least 1 but got {n_steps}")
    x, baseline = _prepared(x, baseline)
    with torch.enable_grad():
        found = IntegratedGradients(answer).attribute(
            x, baselines=baseline, n_steps=n_steps, internal_batch_size=len(x)
        )
    return found.detach()


def saliency(answer: Answer, x: Tensor) -> Tensor:
    """How fast the answer rises with every input value: ∂f/∂x (n, ...) (Simonyan 2014, 1312.6034).

    With its sign, which they drop. 0 where the answer saturates, however much it rests on that value.

    >>> saliency(lambda x: x @ torch.tensor([1.0, -2.0]), torch.eye(2))
    tensor([[ 1., -2.],
            [ 1., -2.]])
    """
    from captum.attr import Saliency

    x, _ = _prepared(x, None)
    with torch.enable_grad():
        return Saliency(answer).attribute(x.requires_grad_(), abs=False).detach()


def occlusion(answer: Answer, x: Tensor, baseline: Tensor | None = None) -> Tensor:
    """How much the answer falls when a window of the input is set to the baseline; needs no gradient.

    Windows (Zeiler & Fergus 2014, 1311.2901) split vectors into about 64 parts, every axis else into
    about 8; all channels of a map go together. Every value of a window gets its fall.

    Args and returns as for `integrated_gradients`.

    >>> occlusion(lambda x: x @ torch.tensor([1.0, -2.0]), torch.eye(2), torch.zeros(2, 2))
    tensor([[ 1.,  0.],
            [ 0., -2.]])
    """
    from captum.attr import Occlusion

    x, baseline = _prepared(x, baseline)
    parts = WINDOWS**2 if x.ndim == 2 else WINDOWS
    window = [-(-size // parts) for size in x.shape[1:]]
    if x.ndim > 3:
        window[0] = x.shape[1]
    with torch.no_grad():
        return Occlusion(answer).attribute(
            x, sliding_window_shapes=tuple(window), strides=tuple(window), baselines=baseline
        )


def _prepared(x: Tensor, baseline: Tensor | None) -> tuple[Tensor, Tensor]:
    if x.ndim < 2 or not x.is_floating_point() or not x.numel():
        raise InputError(
            f"Expected floating inputs of shape (samples, ...) but got {x.dtype} {tuple(x.shape)}"
        )
    baseline = x.mean(0) if baseline is None else baseline
    return x.detach().clone(), baseline.detach().expand_as(x).clone()


class AttributionProbe:
    """Agreement of attributions of teacher and student, and the teacher's layer importance.

    On validation and test: "attribution_agreement" of the pair, for the answer that the teacher names;
    "attribution_agreement_shuffled", the same with the teacher's maps of other samples, to judge it
    against; "layer_importance" of the teacher at every tapped layer. What cannot be attributed is
    nan with its reason. One sample of each group is used.

    Args:
        n_samples: most samples a split, a seeded choice.
        n_steps: gradients a sample of Integrated Gradients.
        method: "integrated_gradients", "saliency" or "occlusion". Occlusion stands in, and the
            estimator says so, where a model gives no gradient.
        max_flops: of one split; fewer samples are taken to stay below, nan below 8.
    """

    name = "attribution"

    def __init__(
        self,
        n_samples: int = 64,
        n_steps: int = 16,
        method: str = "integrated_gradients",
        max_flops: float = MAX_FLOPS,
    ) -> None:
        if method not in METHODS:
            raise unknown("attribution method", method, METHODS)
        if n_samples < FEWEST_SAMPLES or n_steps < 1:
            raise InputError(
                f"Expected n_samples of at least {FEWEST_SAMPLES} and n_steps of at least 1 "
                f"but got {n_samples} and {n_steps}"
            )
        self.n_samples, self.n_steps = n_samples, n_steps
        self.method, self.max_flops = method, max_flops

    def measure(self, seen: Mapping[str, Seen], setting: Setting) -> Iterator[Measurement]:
        """Runs both models again on the chosen samples, and leaves them as they were."""
        if setting.data is None:
            return
        for split in ("validation", "test"):
            if split in seen:
                yield from self._on_split(seen[split], setting)

    def _on_split(self, seen: Seen, setting: Setting) -> list[Measurement]:
        """All measurements at once: no model may stay changed while a caller holds a generator."""
        models = {"teacher": setting.teacher, "student": setting.student}
        layers = seen.teacher.layers
        with ExitStack() as stack:
            stack.enter_context(seeded(setting.seed))
            stack.enter_context(guest(*models.values()))
            stack.enter_context(placed(models.values(), setting.device))
            n, why = self._affordable(seen, setting)
            if why:
                nothing = undefined(why)
                agreements = _agreements(seen.split, nothing, nothing, setting.seed)
                return [*agreements, *measured_importance(seen.split, layers, {}, setting, why)]
            alone = one_of_each(len(seen.teacher.outputs), seen.groups)
            rows = np.sort(np.random.default_rng(setting.seed).permutation(alone)[:n])
            views = _views(seen.split, rows, setting)
            agreements = self._compared(seen, rows, views, setting)
            lost = layer_importance(
                setting.teacher, views["teacher"], layers, setting.task, setting.seed
            )
        return [*agreements, *measured_importance(seen.split, layers, lost, setting)]

    def _affordable(self, seen: Seen, setting: Setting) -> tuple[int, str]:
        """How many samples may be taken, and why none if so."""
        n = len(one_of_each(len(seen.teacher.outputs), seen.groups))
        if n < FEWEST_SAMPLES:
            return 0, f"{n} samples or groups, {FEWEST_SAMPLES} needed"
        each = {"integrated_gradients": 3 * self.n_steps, "saliency": 3, "occlusion": WINDOWS**2}
        passes = {"student": each[self.method] + 1}
        passes["teacher"] = passes["student"] + PASSES * len(seen.teacher.layers)
        examples = {"teacher": setting.teacher_example, "student": setting.student_example}
        models = {"teacher": setting.teacher, "student": setting.student}
        flops = sum(
            passes[role] * count_flops(model, moved(examples[role], setting.device))
            for role, model in models.items()
        )
        n = min(n, self.n_samples, int(self.max_flops // max(1, flops)))
        if n < FEWEST_SAMPLES:
            return 0, f"{flops:.2g} FLOPs a sample, {self.max_flops:.2g} allowed for all"
        return n, ""

    def _compared(
        self, seen: Seen, rows: np.ndarray, views: Mapping[str, Any], setting: Setting
    ) -> list[Measurement]:
        """Agreement and its shuffled twin; nan where one of the models cannot be attributed."""
        try:
            asked = {role: _question(role, seen, rows, views, setting) for role in views}
            method = self.method
            if method != "occlusion" and not all(ask.differentiable() for ask in asked.values()):
                method = "occlusion"
            maps = {role: self._map(ask, method) for role, ask in asked.items()}
            teacher, student = side_by_side(asked, maps)
        except (Unattributable, RuntimeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            nothing = undefined(why, len(rows))
            return _agreements(seen.split, nothing, nothing, setting.seed)
        same = same_evidence(teacher, student)
        other = shuffled_evidence(teacher, student, setting.seed)
        known = np.isfinite(same) & np.isfinite(other)
        if not known.any():
            why = "a model answers without regard to its input, or the input has under 3 cells"
            nothing = undefined(why, len(rows))
            return _agreements(seen.split, nothing, nothing, setting.seed)
        how = self._said(method, asked["teacher"], teacher)
        how += (
            "" if known.all() else f", {(~known).sum()} samples without an order of cells left out"
        )
        found = mean_interval(same[known]), mean_interval(other[known])
        return _agreements(seen.split, *found, setting.seed, how)

    def _map(self, ask: Question, method: str) -> Tensor:
        if method == "integrated_gradients":
            return integrated_gradients(ask, ask.x, ask.baseline, self.n_steps)
        if method == "saliency":
            return saliency(ask, ask.x)
        return occlusion(ask, ask.x, ask.baseline)

    def _said(self, method: str, ask: Question, maps: Tensor) -> str:
        """The estimator in words."""
        steps = f", {self.n_steps} steps" if method == "integrated_gradients" else ""
        baseline = "zero embeddings" if ask.ids is not None else "mean sample"
        against = "" if method == "saliency" else f" from the {baseline}"
        cells = "×".join(str(size) for size in maps.shape[1:])
        why = "" if method == self.method else " (a model gives no gradient)"
        return f"Spearman of {METHODS[method]}{why}{steps}{against}, {cells} cells"


def _views(split: str, rows: np.ndarray, setting: Setting) -> dict[str, Any]:
    """What each model is called with for those samples, on the device."""
    assert setting.data is not None
    raw = next(setting.data.batches(split, len(rows), rows)).raw
    views = {"teacher": setting.data.teacher_view(raw), "student": setting.data.student_view(raw)}
    return {role: moved(view, setting.device) for role, view in views.items()}


def _question(
    role: str, seen: Seen, rows: np.ndarray, views: Mapping[str, Any], setting: Setting
) -> Question:
    """Both models are asked for the teacher's answer; for their own embedding where that is it."""
    task = setting.task
    whose = seen.models[role] if task.kind == "embedding" else seen.teacher
    named = named_answer(task.kind, whose.outputs[rows]).to(setting.device)
    model = setting.teacher if role == "teacher" else setting.student
    try:
        return Question(model, views[role], task, named)
    except Unattributable as error:
        raise Unattributable(f"{role}: {error}") from error


def _agreements(
    split: str, same: Interval, other: Interval, seed: int, how: str = ""
) -> list[Measurement]:
    """The two measurements of the pair."""
    shuffled = f"{how}, teacher's maps of {SHIFTS} other samples"
    fields: dict[str, Any] = {"unit": "correlation", "seed": seed}
    return [
        measured(
            name,
            "pair",
            split,
            interval,
            better=better,
            estimator="" if interval.reason else f"{said}; {interval.method}",
            **fields,
        )
        for name, interval, said, better in (
            ("attribution_agreement", same, how, "higher"),
            ("attribution_agreement_shuffled", other, shuffled, "neither"),
        )
    ]
