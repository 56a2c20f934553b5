"""Family: size -> fresh model; parameters, FLOPs and measured cost of each size."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gapkit.errors import InputError, unknown
from gapkit.guest import call, guest, seeded

Size = int | float | str


class Family:
    """Models of one architecture in several sizes.

    Args:
        build: size -> fresh nn.Module.
        sizes: labels, ordered small to large by parameters.
        student: the student's size; default the smallest.
        teacher: the teacher's size; None when the teacher is not of the family.
        between: sizes to add between student and teacher where those are whole numbers, spread evenly in
            proportion: assistants that `build` can make though nobody listed them.

    >>> Family(lambda width: nn.Linear(4, width), sizes=[1, 32], teacher=32, between=2).sizes
    (1, 3, 10, 32)
    >>> family = Family(lambda width: nn.Linear(4, width), sizes=[1, 2, 8], teacher=8)
    >>> family.student, family.assistants, family.parameters(8)
    (1, (2,), 40)
    """

    def __init__(
        self,
        build: Callable[[Any], nn.Module],
        sizes: Sequence[Size],
        student: Size | None = None,
        teacher: Size | None = None,
        between: int = 0,
    ) -> None:
        self.build, self.sizes = build, tuple(sizes)
        if not self.sizes or len(set(self.sizes)) != len(self.sizes):
            raise InputError(f"Expected one or more distinct sizes but got {list(sizes)}")
        self.student = self.known(self.sizes[0] if student is None else student)
        self.teacher = None if teacher is None else self.known(teacher)
        if between:
            self.sizes = self._with(between)

    def _with(self, between: int) -> tuple[Size, ...]:
        """The sizes with that many more between student and teacher."""
        low, high = self.student, self.teacher
        whole = [size for size in self.sizes if isinstance(size, int)]
        if not (isinstance(low, int) and isinstance(high, int) and len(whole) == len(self.sizes)):
            raise InputError(
                f"Expected sizes that are whole numbers to add {between} between student and teacher but "
                f"got {list(self.sizes)} with student {low!r} and teacher {high!r}"
            )
        if between < 0 or not 0 < low < high:
            raise InputError(
                f"Expected a number above 0 of sizes between student and teacher, the teacher's larger, but "
                f"got {between} between {low} and {high}"
            )
        steps = (low * (high / low) ** (step / (between + 1)) for step in range(1, between + 1))
        return tuple(sorted({*whole, *(round(size) for size in steps)}))

    def known(self, size: Size) -> Size:
        """The size itself; an error naming the nearest when the family lacks it."""
        for member in self.sizes:
            if member == size or str(member) == str(size):
                return member
        raise unknown("size of the family", size, self.sizes)

    def fresh(self, size: Size, seed: int) -> nn.Module:
        """An untrained model of that size; the same seed gives the same weights."""
        with seeded(seed):
            model = self.build(self.known(size))
        if not isinstance(model, nn.Module):
            raise InputError(
                f"Expected build({size!r}) to return an nn.Module but got {type(model).__name__}"
            )
        return model

    @cached_property
    def _parameters(self) -> dict[Size, int]:
        counts = {size: count_parameters(self.fresh(size, 0)) for size in self.sizes}
        ordered = list(counts.values())
        if ordered != sorted(ordered):
            listing = ", ".join(f"{size}: {count:,}" for size, count in counts.items())
            raise InputError(
                f"Expected sizes ordered small to large by parameters but got {listing}"
            )
        return counts

    def parameters(self, size: Size) -> int:
        """Parameters of that size."""
        return self._parameters[self.known(size)]

    def fingerprint(self) -> str:
        """SHA-256 over the sizes and the names and shapes of each one's weights."""
        digest = hashlib.sha256()
        for size in self.sizes:
            shapes = {
                name: tuple(value.shape) for name, value in self.fresh(size, 0).state_dict().items()
            }
            digest.update(f"{size}: {shapes}".encode())
        return digest.hexdigest()

    @property
    def assistants(self) -> tuple[Size, ...]:
        """Sizes between student and teacher, largest first."""
        above = self.sizes.index(self.student) + 1
        end = len(self.sizes) if self.teacher is None else self.sizes.index(self.teacher)
        return tuple(reversed(self.sizes[above:end]))

    @property
    def next_size_up(self) -> Size | None:
        """The size after the student's; None when there is none."""
        position = self.sizes.index(self.student) + 1
        return self.sizes[position] if position < len(self.sizes) else None


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(weight.numel() for weight in model.parameters())


@contextmanager
def _countable() -> Iterator[None]:
    """Attention, transformer and convolution paths whose FLOPs the counter sees."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(),
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            torch.no_grad(),
        ):
            warnings.filterwarnings("ignore", message=".*TF32 acceleration.*")
            warnings.filterwarnings(
                "ignore", message=".*global hooks on modules.*"
            )  # compiled ones
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count_flops(model: nn.Module, view: Any) -> int:
    """FLOPs (two per multiply-add) of one forward pass over one view of a batch, in eval mode.

    Counts products of matrices and vectors, convolutions, attention and recurrent layers; elementwise
    work is left out, as is usual, and with it embeddings (0), outer products and nn.Bilinear.
    Padding counts as computed: masked attention costs as much as full.

    >>> count_flops(nn.Linear(4, 3), torch.ones(1, 4))
    24
    """
    counter = FlopCounterMode(display=False, custom_mapping=_VECTOR_PRODUCTS)
    with guest(model), _countable(), counter:
        call(model, view)
    return int(counter.get_total_flops())


def _matrix_vector(matrix: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(_: torch.Size, matrix: torch.Size, *__: Any, **___: Any) -> int:
    return 2 * matrix.numel()


_VECTOR_PRODUCTS = {  # which torch's counter does not know
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.dot: _matrix_vector,
    torch.ops.aten.addmv: _added_matrix_vector,
}


def activation_bytes(model: nn.Module, view: Any) -> int:
    """Bytes that one forward pass in train mode keeps for its backward pass, the weights left out.

    The model's buffers (BatchNorm's running statistics) come back as they were.
    """
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        _buffers_restored(model),
        guest(model, training=True),
        seeded(0),
        torch.enable_grad(),
    ):
        for weight in model.parameters():
            weight.requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = call(model, view)
        del output
    return sum(kept.values())


@contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    saved = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def seconds_of(step: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of one call after one warm-up call."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]
