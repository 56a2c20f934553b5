"""Run both models once over the same batches and keep what their layers show; leave nothing behind."""

from __future__ import annotations

import copy
import fnmatch
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gapkit.data import Batch, Data
from gapkit.errors import InputError, unknown
from gapkit.guest import call, guest, moved, seeded
from gapkit.probes.moments import BatchHsic, Grams, Moments, start_sums
from gapkit.probes.probe import Observation, Seen

WHOLE = "(model)"
FEWEST_LAYERS = 4
TOKEN_REDUCES = ("cls", "last")
SKIPPED = (
    *(
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.AlphaDropout,
        nn.FeatureAlphaDropout,
    ),
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d),
)
NORMS = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Taps:
    """Which layers are kept, and how.

    Attributes:
        teacher_layers, student_layers: names as `choose_layers` gives them; the untrained student
            is tapped like the student.
        reduce: how a layer's output becomes one vector per sample; see `reduced`.
        batch_size: samples a forward pass.
        cap: most samples whose features are kept (a seeded choice); sums go over all samples.
        device: where the models run; they come back to where they were.
        seed: of that choice and of the order in which samples are visited.
        moments: whether sums over all layer pairs are taken.
    """

    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    reduce: str = "gap"
    batch_size: int = 256
    cap: int = 10_000
    device: torch.device | str = "cpu"
    seed: int = 0
    moments: bool = True

    def __post_init__(self) -> None:
        check_reduce(self.reduce)
        if self.batch_size < 1 or self.cap < 1:
            raise InputError(
                f"Expected batch_size and cap of at least 1 but got {self.batch_size} and {self.cap}"
            )

    def layers(self, role: str) -> tuple[str, ...]:
        """The layers tapped in the teacher, the student or the untrained student."""
        return self.teacher_layers if role == "teacher" else self.student_layers


def check_reduce(reduce: str) -> None:
    """Raise InputError unless `reduced` knows this way.

    >>> check_reduce("grid:2")
    """
    kind, _, size = reduce.partition(":")
    if kind == "grid" and size.isdigit() and int(size) > 0:
        return
    if reduce not in ("gap", "flatten", *TOKEN_REDUCES):
        raise unknown("reduce", reduce, ("gap", "grid:2", "flatten", *TOKEN_REDUCES))


def reduced(
    output: Tensor, reduce: str, mask: Tensor | None = None, channels_first: bool | None = None
) -> Tensor:
    """One vector per sample from a layer's output; float32, and never a view of the output.

    Args:
        output: (n, d); (n, tokens, d), or (n, d, length) with `channels_first`; maps (n, d, h, w)
            or (n, d, t, h, w).
        reduce: "gap": mean over space or over unmasked tokens. "grid:k": adaptive average pooling
            to k cells an axis, flattened. "flatten": everything. "cls": the first token. "last":
            the last unmasked token. Outputs (n, d) stay as they are.
        mask: (n, tokens), nonzero where a token counts.
        channels_first: whether a 3-D output comes from a convolution over a sequence.

    Raises:
        InputError: for "cls" and "last" on maps, and for outputs of fewer than 2 dimensions.

    >>> reduced(torch.arange(8.0).view(1, 2, 2, 2), "gap")
    tensor([[1.5000, 5.5000]])
    >>> reduced(torch.tensor([[[1.0], [3.0], [9.0]]]), "gap", mask=torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    output = output.detach().to(torch.float32)
    if output.ndim < 2:
        raise InputError(f"Expected a layer output of at least 2 dimensions but got {output.ndim}")
    if output.ndim == 2 or reduce == "flatten":
        return output.flatten(1).clone()
    tokens = output.ndim == 3 and not channels_first
    if reduce in TOKEN_REDUCES and not tokens:
        raise InputError(
            f"Expected tokens (samples, tokens, width) for reduce={reduce!r} "
            f"but got an output of shape {tuple(output.shape)}"
        )
    if mask is not None and (not tokens or mask.shape != output.shape[:2]):
        mask = None
    if tokens and reduce in ("gap", *TOKEN_REDUCES):
        return _pooled_tokens(output, reduce, mask)
    maps = output.transpose(1, 2) if tokens else output
    if reduce == "gap":
        return maps.flatten(2).mean(2)
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[maps.ndim - 3]
    return pool(maps, int(reduce.partition(":")[2])).flatten(1).clone()


def _pooled_tokens(output: Tensor, reduce: str, mask: Tensor | None) -> Tensor:
    if reduce == "cls":
        return output[:, 0].clone()
    if mask is None:
        return output[:, -1].clone() if reduce == "last" else output.mean(1)
    weight = (mask != 0).to(output)
    if reduce == "gap":
        return (output * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(output.shape[1], device=output.device)
    return output[torch.arange(len(output), device=output.device), (weight * places).argmax(1)]


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in whatever a module returned: tensor, sequence, mapping or ModelOutput.

    >>> first_tensor(({"loss": None, "hidden": torch.ones(2)},))
    tensor([1., 1.])
    """
    if isinstance(value, Tensor):
        return value
    items: Iterable[Any] = ()
    if hasattr(value, "keys") and hasattr(value, "values"):
        items = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    return next((found for item in items if (found := first_tensor(item)) is not None), None)


def bare(model: nn.Module) -> nn.Module:
    """The model inside DataParallel and torch.compile wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _named(model: nn.Module) -> dict[str, nn.Module]:
    """Layer name -> module, without the names that wrappers add; the model itself last."""
    inner = bare(model)
    names = {
        ".".join(part for part in name.split(".") if part != "_orig_mod"): module
        for name, module in inner.named_modules()
        if name
    }
    return names | {WHOLE: inner}


@dataclass
class _Fired:
    """One call of one module, in the order in which calls ended."""

    name: str
    module: nn.Module
    output: Tensor | None
    inside: int
    tap: str = ""


def _trace(model: nn.Module, view: Any) -> list[_Fired]:
    """Every call of a module during one forward pass; outputs are held so that none is recycled."""
    fired: list[_Fired] = []
    started: list[int] = []

    def before(module: nn.Module, args: Any) -> None:
        started.append(len(fired))

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            inside = len(fired) - started.pop()
            fired.append(_Fired(name, module, first_tensor(output), inside))

        return hook

    with guest(model), torch.no_grad(), seeded(0), ExitStack() as hooks:
        for name, module in _named(model).items():
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after(name)).remove)
        _called(bare(model), moved(view, device_of(model)), "model")
    calls: dict[str, int] = {}
    totals: dict[str, int] = {}
    for item in fired:
        totals[item.name] = totals.get(item.name, 0) + 1
    for item in fired:
        calls[item.name] = calls.get(item.name, 0) + 1
        many = totals[item.name] > 1
        item.tap = f"{item.name}#{calls[item.name]}" if many else item.name
    return fired


def _called(model: nn.Module, view: Any, who: str) -> Any:
    """The model's answer to its own copy of a view, or an InputError that says what went wrong."""
    try:
        return call(model, copy.deepcopy(view))
    except InputError:
        raise
    except Exception as error:
        cause = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"Expected the {who} to accept its view {_shapes(view)} "
            f"but it raised {type(error).__name__}: {cause}"
        ) from error


def _shapes(view: Any) -> str:
    if isinstance(view, Tensor):
        return f"of shape {tuple(view.shape)}"
    if hasattr(view, "keys"):
        inside = ", ".join(f"{key}: {_shapes(view[key])}" for key in view.keys())  # noqa: SIM118
        return "{" + inside + "}"
    if isinstance(view, (tuple, list)):
        return "(" + ", ".join(_shapes(item) for item in view) + ")"
    return f"of type {type(view).__name__}"


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first weight lives; the CPU when it has none."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def choose_layers(
    model: nn.Module, view: Any, wanted: Sequence[str] | None = None, limit: int = 24
) -> tuple[str, ...]:
    """Names of the layers to look at, in the order in which they run.

    A module called several times gives "name#1", "name#2", ...; the model's own output is "(model)".

    Args:
        view: one batch's view, with which the model is called once.
        wanted: exact names or globs, all of which must be found and run. None chooses the outputs of
            repeated blocks (residual, transformer), elsewhere the activation that follows each
            layer with weights, and the last output.
        limit: most layers of the default choice, thinned evenly with both ends kept.

    Raises:
        InputError: for a name that matches nothing, a layer that never runs, an output that is
            not one vector or map per sample.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    >>> choose_layers(net, torch.ones(2, 4))
    ('1', '3')
    >>> choose_layers(net, torch.ones(2, 4), wanted=["[01]"])
    ('0', '1')
    """
    fired = _trace(model, view)
    given = first_tensor(view)
    n = None if given is None or not given.ndim else len(given)
    if wanted is not None:
        return _matched(model, fired, [wanted] if isinstance(wanted, str) else wanted, n)
    repeated = _repeated(fired)
    chosen = _default(fired, repeated, n)
    while len(chosen) < FEWEST_LAYERS and repeated:
        outer = next(type(item.module) for item in reversed(fired) if type(item.module) in repeated)
        repeated = repeated - {outer}
        chosen = _default(fired, repeated, n)
    if not chosen:
        raise InputError("Expected a model with usable layers but found none to look at")
    kept = np.linspace(0, len(chosen) - 1, min(limit, len(chosen))).round().astype(int)
    return tuple(chosen[place] for place in kept)


def _fault(output: Tensor | None, n: int | None) -> str:
    """Why an output cannot be turned into one vector per sample; "" when it can."""
    if output is None:
        return "no tensor"
    shape = tuple(output.shape)
    if output.ndim < 2 or output.ndim > 5 or 0 in shape[1:]:
        return f"shape {shape}"
    if n is not None and shape[0] != n:
        return f"shape {shape} for {n} samples"
    return "" if output.is_floating_point() else f"{output.dtype}"


def _matched(
    model: nn.Module, fired: list[_Fired], wanted: Sequence[str], n: int | None
) -> tuple[str, ...]:
    names = list(_named(model))
    taps = [item.tap for item in fired]
    chosen: set[int] = set()
    for pattern in wanted:
        exact = [i for i, item in enumerate(fired) if pattern in (item.name, item.tap)]
        found = exact or [
            i
            for i, item in enumerate(fired)
            if item.name != WHOLE
            and (fnmatch.fnmatchcase(item.name, pattern) or fnmatch.fnmatchcase(item.tap, pattern))
        ]
        if not found:
            silent = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if pattern in names or silent:
                raise InputError(
                    f"Expected layer {pattern if pattern in names else silent[0]!r} to run in a "
                    "forward pass but it never did"
                )
            raise unknown("layer", pattern, dict.fromkeys([*taps, *names]))
        for i in found:
            fault = _fault(fired[i].output, n)
            if fault and exact:
                raise InputError(
                    f"Expected one vector or map per sample from layer {taps[i]!r} but got {fault}"
                )
            chosen |= set() if fault else {i}
    if not chosen:
        raise InputError(f"Expected usable layers for {list(wanted)} but none gives vectors")
    return tuple(taps[i] for i in sorted(chosen))


def _repeated(fired: list[_Fired]) -> set[type]:
    """Classes of composite modules that occur more than once: the blocks a model is made of."""
    counts: dict[type, set[int]] = {}
    for item in fired:
        container = isinstance(item.module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        if item.inside and not container and not isinstance(item.module, SKIPPED):
            counts.setdefault(type(item.module), set()).add(id(item.module))
    return {kind for kind, modules in counts.items() if len(modules) > 1}


def _default(fired: list[_Fired], blocks: set[type], n: int | None) -> list[str]:
    """Outputs of blocks, the end of each stage of plain layers, and what a composite adds to them."""
    kept: list[_Fired] = []
    growing = False
    covered = _covered(fired, blocks)
    for place, item in enumerate(fired):
        if covered[place] or isinstance(item.module, SKIPPED) or _fault(item.output, n):
            continue
        block = bool(item.inside) and type(item.module) in blocks
        if (
            block
            or (item.inside and _adds(item, kept))
            or (not item.inside and _mixes(item.module))
        ):
            kept.append(item)
            growing = not item.inside
        elif not item.inside and kept and _is_activation(item, kept[-1]):
            if growing:
                kept[-1] = item
            elif kept[-1].inside:
                kept.append(item)
            growing = False
        elif growing and isinstance(item.module, NORMS):
            kept[-1] = item
    return [item.tap for item in kept]


def _covered(fired: list[_Fired], blocks: set[type]) -> list[bool]:
    """Whether each call happened inside a block."""
    covered = [False] * len(fired)
    for place, item in enumerate(fired):
        if item.inside and type(item.module) in blocks:
            covered[place - item.inside : place] = [True] * item.inside
    return covered


def _adds(item: _Fired, kept: list[_Fired]) -> bool:
    """Whether a composite module returns something else than its last kept part."""
    if isinstance(item.module, nn.Sequential) or item.output is None:
        return False
    if not kept or kept[-1].output is None:
        return True
    last, own = kept[-1].output, item.output
    return last is not own and (last.data_ptr(), last.numel()) != (own.data_ptr(), own.numel())


def _mixes(module: nn.Module) -> bool:
    """Whether a leaf computes new features: it has weights and is no norm or activation."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    activation = type(module).__module__ == "torch.nn.modules.activation"
    return (
        not activation and not isinstance(module, NORMS) and any(True for _ in module.parameters())
    )


def _is_activation(item: _Fired, before: _Fired) -> bool:
    """A torch activation, or a third party's module without weights that keeps the shape."""
    home = type(item.module).__module__
    if home == "torch.nn.modules.activation":
        return True
    shapes = [None if part.output is None else part.output.shape for part in (item, before)]
    plain = home.startswith("torch.nn.") or isinstance(item.module, NORMS)
    return not plain and shapes[0] == shapes[1] and not any(True for _ in item.module.parameters())


class Recorder:
    """Calls a model and keeps reduced outputs of its tapped layers; its hooks live as long as `open`.

    In-place layers further on cannot change what was kept: outputs are reduced, or copied, at once.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], reduce: str, who: str) -> None:
        self.model, self.layers, self.reduce, self.who = bare(model), tuple(layers), reduce, who
        modules = _named(model)
        self._bases = {tap: tap if tap in modules else tap.rpartition("#")[0] for tap in layers}
        for tap, base in self._bases.items():
            if base not in modules:
                raise unknown(f"layer of the {who}", tap, modules)
        self._modules = {base: modules[base] for base in dict.fromkeys(self._bases.values())}
        self._features: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._mask: Tensor | None = None
        self._channels_first: bool | None = None
        self._running = False

    @contextmanager
    def open(self) -> Iterator[Recorder]:
        """Set the hooks; remove them on leaving, also after an exception."""
        with ExitStack() as hooks:
            for module in self.model.modules():
                if isinstance(module, (*CHANNELS_FIRST, *CHANNELS_LAST)):
                    hooks.callback(module.register_forward_hook(self._orient).remove)
            for base, module in self._modules.items():
                hooks.callback(module.register_forward_hook(self._tap(base)).remove)
            yield self

    def _orient(self, module: nn.Module, args: Any, output: Any) -> None:
        self._channels_first = isinstance(module, CHANNELS_FIRST)

    def _tap(self, base: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not self._running:
                return
            self._calls[base] = self._calls.get(base, 0) + 1
            numbered = f"{base}#{self._calls[base]}"
            tap = base if base in self._bases and base not in self._features else numbered
            if tap not in self._bases:
                return
            tensor = first_tensor(output)
            fault = _fault(tensor, None)
            if tensor is None or fault:
                raise InputError(
                    f"Expected one vector or map per sample from the {self.who} at {tap!r} "
                    f"but got {fault}"
                )
            self._features[tap] = reduced(tensor, self.reduce, self._mask, self._channels_first)

        return hook

    def __call__(self, view: Any) -> tuple[Any, dict[str, Tensor]]:
        """What the model returns for a view, and layer -> (n, d) features in the order asked for."""
        self._features, self._calls, self._running = {}, {}, True
        self._channels_first, self._mask = None, None
        if hasattr(view, "keys"):
            mask = dict(view).get("attention_mask")
            self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        try:
            raw = _called(self.model, view, self.who)
        finally:
            self._running = False
        for layer in self.layers:
            if layer not in self._features:
                raise InputError(
                    f"Expected layer {layer!r} of the {self.who} to run in a forward pass "
                    "but it never did"
                )
        return raw, {layer: self._features[layer] for layer in self.layers}


@contextmanager
def placed(models: Iterable[nn.Module], device: torch.device | str) -> Iterator[None]:
    """Models on a device inside, back where they were outside; those spread over several stay."""
    homes: list[tuple[nn.Module, torch.device]] = []
    try:
        for model in models:
            places = {part.device for part in (*model.parameters(), *model.buffers())}
            if len(places) == 1 and places != {torch.device(device)}:
                homes.append((model, places.pop()))
                model.to(device)
        yield
    finally:
        for model, home in homes:
            model.to(home)


@dataclass
class _Store:
    """What one model showed, put back into the split's order."""

    who: str
    n: int
    rows: np.ndarray
    outputs: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, positions: np.ndarray, outputs: Tensor, features: Mapping[str, Tensor]) -> None:
        if self.outputs is None:
            self.outputs = torch.empty(self.n, *outputs.shape[1:])
            self.features = {
                name: torch.empty(len(self.rows), part.shape[1]) for name, part in features.items()
            }
        self.outputs[positions] = outputs
        slots = np.searchsorted(self.rows, positions).clip(max=len(self.rows) - 1)
        wanted = self.rows[slots] == positions
        for name, part in features.items():
            self.features[name][slots[wanted]] = part[wanted]

    def observation(self, layers: tuple[str, ...]) -> Observation:
        assert self.outputs is not None
        return Observation(self.outputs, layers, self.features, self.rows)


class _Pass:
    """One pass over a split: what is stored and what is summed."""

    def __init__(self, split: str, data: Data, task: Any, taps: Taps, roles: Iterable[str]) -> None:
        self.split, self.data, self.task, self.taps = split, data, task, taps
        self.n = data.size(split)
        rng = np.random.default_rng(taps.seed)
        self.order = rng.permutation(self.n)
        rows = np.sort(self.order[: taps.cap])
        self.stores = {role: _Store(role, self.n, rows) for role in roles}
        self.groups = data.groups(split)
        self.targets: Tensor | None = None
        self.sums: dict[str, Moments | BatchHsic | None] = {}

    def view(self, role: str, raw: Any) -> Any:
        view = self.data.teacher_view if role == "teacher" else self.data.student_view
        return moved(view(raw), self.taps.device)

    def add(self, batch: Batch, shown: Mapping[str, tuple[Any, dict[str, Tensor]]]) -> None:
        """Check and keep what the models showed of one batch."""
        first = not self.sums
        targets = self.data.target(batch.raw)
        targets = None if targets is None else torch.as_tensor(targets).cpu()
        if targets is not None and self.targets is None:
            self.targets = torch.empty(self.n, *targets.shape[1:], dtype=targets.dtype)
        if targets is not None and self.targets is not None:
            self.targets[batch.positions] = targets
        features: dict[str, dict[str, Tensor]] = {}
        outputs: dict[str, Tensor] = {}
        for role, (raw, parts) in shown.items():
            outputs[role] = self._outputs(role, raw, batch)
            features[role] = {name: part.cpu() for name, part in parts.items()}
            for name, part in features[role].items():
                self._same_n(part, f"features from the {role} at {name!r}", batch)
                self._finite(part, f"features but got {{}} from the {role} at {name!r}", batch)
            self._finite(outputs[role], f"outputs but got {{}} from the {role}", batch)
            self.stores[role].keep(batch.positions, outputs[role], features[role])
        if first:
            self._same_classes(outputs)
            for role, output in outputs.items():
                self.task.check(output, targets, role)
            self._start_sums(features)
        groups = None if self.groups is None else self.groups[batch.positions]
        for role, sums in self.sums.items():
            if sums is not None:
                sums.update(features["teacher"], features[role], groups)

    def _outputs(self, role: str, raw: Any, batch: Batch) -> Tensor:
        outputs = self.task.outputs(raw).detach().to("cpu", torch.float32)
        self._same_n(outputs, f"outputs from the {role}", batch)
        return outputs

    def _same_n(self, part: Tensor, what: str, batch: Batch) -> None:
        if not part.ndim or len(part) != len(batch.positions):
            raise InputError(
                f"Expected {len(batch.positions)} samples first in the {what} "
                f"but got shape {tuple(part.shape)}"
            )

    def _finite(self, part: Tensor, what: str, batch: Batch) -> None:
        flat = part.flatten(1)
        bad = ~flat.isfinite()
        if not bad.any():
            return
        row = int(bad.any(1).nonzero()[0, 0])
        value = flat[row][bad[row]][0].item()
        name = self.data.ids(self.split)[batch.positions[row]]
        raise InputError(
            f"Expected finite {what.format(value)} for sample {str(name)!r} "
            f"({int(bad[row].sum())} of {flat.shape[1]} values)"
        )

    def _same_classes(self, outputs: Mapping[str, Tensor]) -> None:
        widths = {role: output.shape[-1] for role, output in outputs.items() if output.ndim > 1}
        if self.task.kind not in ("classification", "multilabel") or len(widths) != len(outputs):
            return
        for role in outputs:
            if widths[role] != widths["teacher"]:
                raise InputError(
                    f"Expected teacher and {role} to have the same classes "
                    f"but got {widths['teacher']} and {widths[role]}"
                )

    def _start_sums(self, features: Mapping[str, Mapping[str, Tensor]]) -> None:
        dims = {
            role: {name: part.shape[1] for name, part in parts.items()}
            for role, parts in features.items()
        }
        for role in (role for role in features if role != "teacher"):
            if not self.taps.moments:
                self.sums[role] = None
                continue
            self.sums[role] = start_sums(
                dims["teacher"],
                dims[role],
                n=self.n,
                kept=self.n <= self.taps.cap,
                groups=self.groups is not None,
                n_pairs=len(features) - 1,
            )

    def result(self) -> Seen:
        """All that was seen, as a Seen."""
        seen = {
            role: store.observation(self.taps.layers(role)) for role, store in self.stores.items()
        }
        for role, observation in seen.items():
            self.task.check(observation.outputs, self.targets, role)
        sums = {
            role: None
            if not self.taps.moments
            else kept
            if kept is not None
            else Grams(seen["teacher"].features, seen[role].features, self.groups)
            for role, kept in self.sums.items()
        }
        return Seen(
            split=self.split,
            teacher=seen["teacher"],
            student=seen["student"],
            untrained=seen.get("untrained"),
            targets=self.targets,
            groups=self.groups,
            slices=self.data.slices(self.split),
            moments=sums["student"],
            untrained_moments=sums.get("untrained"),
        )


def observe(
    split: str,
    data: Data,
    task: Any,
    models: Mapping[str, nn.Module],
    taps: Taps,
    progress: Progress | None = None,
) -> Seen:
    """Run the models over a split, each batch once and the same for all, and keep what they show.

    Samples are visited in a seeded random order, so that a split sorted by class does not bias what
    is summed by batch; everything returned is in the split's own order. The models run in eval mode
    without gradients on `taps.device`; modes, flags, hooks, device and random states come back.

    Args:
        models: "teacher", "student" and, if wanted, "untrained".
        progress: called with the number of samples done.

    Raises:
        InputError: when a model refuses its view, shows nan or inf, lacks or never runs a tapped
            layer, or when outputs, targets and the other model's classes do not fit.
    """
    roles = ("teacher", "student", "untrained")
    for role in models:
        if role not in roles:
            raise unknown("role of a model", role, roles)
    for role in roles[:2]:
        if role not in models:
            raise InputError(f"Expected a teacher and a student but the {role} is missing")
    run = _Pass(split, data, task, taps, models)
    done = 0
    with ExitStack() as stack:
        stack.enter_context(seeded(taps.seed))
        stack.enter_context(guest(*models.values()))
        stack.enter_context(placed(models.values(), taps.device))
        stack.enter_context(torch.no_grad())
        recorders = {
            role: stack.enter_context(Recorder(model, taps.layers(role), taps.reduce, role).open())
            for role, model in models.items()
        }
        for batch in data.batches(split, taps.batch_size, run.order):
            shown = {
                role: recorder(run.view(role, batch.raw)) for role, recorder in recorders.items()
            }
            run.add(batch, shown)
            done += len(batch.positions)
            if progress is not None:
                progress(done)
    return run.result()
