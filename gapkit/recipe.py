"""Recipe: epochs, batch size, optimizer, schedule and knowledge of one training."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from gapkit.errors import InputError, describe, unknown
from gapkit.knowledge import MENUS, Knowledge
from gapkit.record import Record

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("one_cycle", "cosine", "constant")
NAMES = tuple(dict.fromkeys(name for menu in MENUS.values() for name in menu))


def called(function: Callable[..., Any]) -> str:
    """A function's name with a hash of its source (or byte code), so that another one is told apart."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        text = "" if code is None else f"{code.co_code!r}{code.co_names}{code.co_consts!r}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{function.__module__}.{name} ({digest})"


class Recipe(Record):
    """How the user trains; controls and plans train the same way unless they say what differs.

    Attributes:
        epochs: passes over train. batch_size: samples of a batch, for each process of several.
        lr, weight_decay, momentum: as in torch.optim.
        optimizer: "adamw", "adam", "sgd", or a function (parameters, lr) -> torch optimizer.
        schedule: "one_cycle", "cosine", "constant", or a function (optimizer, n_steps) -> scheduler;
            stepped once a batch.
        knowledge: what the failing student learned from: a name ("kl4": KL at temperature 4,
            weight .9; "kl1", "dist1", "std2", "scratch"), a list of Knowledge, or a loss function
            (student logits, teacher logits) -> scalar.
        grad_clip: largest gradient norm; 0 for none.
        precision: as lightning-fabric names it: "32-true", "16-mixed", "bf16-mixed", ...
        accumulate: batches whose gradients make up one optimizer step. Losses that compare samples
            (DIST, relation losses, CKA) compare those of each batch.
        compile: whether the model is compiled (torch.compile) while it trains.
        top_k: logits of each teacher's answer that the cache keeps, for large vocabularies; None: all.

    >>> Recipe(epochs=60, batch_size=100, lr=1e-2).optimizer
    'adamw'
    """

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    optimizer: str | Callable[..., Any] = "adamw"
    schedule: str | Callable[..., Any] = "one_cycle"
    knowledge: str | tuple[Knowledge, ...] | Callable[..., Any] = "kl4"
    grad_clip: float = Field(default=0.0, ge=0)
    accumulate: int = Field(default=1, ge=1)
    compile: bool = False
    top_k: int | None = Field(default=None, ge=1)
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "16-true", "64-true"] = (
        "32-true"
    )

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, values: Any) -> Any:
        for name in values if isinstance(values, Mapping) else ():
            if name not in cls.model_fields:
                raise unknown("recipe field", name, cls.model_fields)
        return values

    @field_validator("optimizer", "schedule", "knowledge")
    @classmethod
    def _known_name(cls, value: Any, info: Any) -> Any:
        known = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "knowledge": NAMES}[
            info.field_name
        ]
        if isinstance(value, str) and value not in known:
            raise unknown(info.field_name, value, known)
        return value

    @field_serializer("optimizer", "schedule", "knowledge", when_used="json")
    def _named(self, value: Any) -> Any:
        return called(value) if callable(value) else value

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """This recipe with what a stage says differs; what is wrong is said in one line."""
        allowed = [name for name in type(self).model_fields if name != "knowledge"]
        for name in changes:
            if name not in allowed:
                raise unknown("recipe field", name, allowed)
        try:
            return self.with_(**changes)
        except ValidationError as error:
            raise InputError(f"Expected a usable recipe but {describe(error)}") from None

    def steps(self, n_samples: int) -> int:
        """Optimizer steps of one training; a last batch of one sample is joined to none and left out."""
        full, rest = divmod(n_samples, self.batch_size)
        return self.epochs * max(1, -(-(full + (rest > 1)) // self.accumulate))
