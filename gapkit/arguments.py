"""Arguments of a study: all that does not fit, at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any

import torch
from torch import nn

from gapkit.data import Data
from gapkit.errors import InputError
from gapkit.family import Family
from gapkit.probes.recorder import check_reduce
from gapkit.recipe import Recipe
from gapkit.task import Task


def check_arguments(**given: Any) -> None:
    """Refuse what a Study cannot be made of; keywords are those of Study.

    Raises:
        InputError: all that does not fit, in one line.

    >>> check_arguments(name="a/b", task=None, data=None, family=None, recipe=None, teacher=None,
    ...     student=None, teacher_score=None, layers=None, reduce="gap", device=None, seed=0)
    Traceback (most recent call last):
    ...
    gapkit.errors.InputError: Expected data a gapkit.Data but got NoneType; expected family ...
    """
    wrong = [*_of_other_kinds(given), *_out_of_range(given)]
    if wrong:
        raise InputError(f"Expected {'; expected '.join(wrong)}")


def _of_other_kinds(given: dict[str, Any]) -> Iterator[str]:
    for key, kind in (("data", Data), ("family", Family), ("recipe", Recipe)):
        if not isinstance(given[key], kind):
            yield f"{key} a gapkit.{kind.__name__} but got {type(given[key]).__name__}"
    if not isinstance(given["task"], Task):
        name = type(given["task"]).__name__
        yield f"task a task such as gapkit.Classification() but got {name}"
    for key in ("teacher", "student"):
        if given[key] is not None and not isinstance(given[key], nn.Module):
            yield f"{key} a trained nn.Module or None but got {type(given[key]).__name__}"
    if isinstance(given["layers"], str):
        yield f"layers a list of names or globs but got the string {given['layers']!r}"


def _out_of_range(given: dict[str, Any]) -> Iterator[str]:
    name, seed, score = given["name"], given["seed"], given["teacher_score"]
    if not name or not isinstance(name, str) or "/" in name or name.startswith("."):
        yield f"name a word that can name a folder but got {name!r}"
    family = given["family"]
    if given["teacher"] is None and isinstance(family, Family) and family.teacher is None:
        yield "a teacher, or a family with a teacher size to train, but got neither"
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        yield f"seed an integer from 0 to 2**32 - 1 but got {seed!r}"
    if score is not None and not is_finite(score):
        yield f"teacher_score a finite number or None but got {score!r}"
    try:
        check_reduce(given["reduce"])
    except InputError as error:
        yield str(error).removeprefix("Expected ")
    try:
        device_of(given["device"])
    except (RuntimeError, TypeError):
        device = given["device"]
        yield f"device one that torch knows, such as 'cpu' or 'cuda:0', but got {device!r}"


def device_of(device: str | torch.device | None) -> torch.device:
    """The device asked for; CUDA when there is one, else CPU, for None."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def is_finite(value: Any) -> bool:
    """Whether it is a number, and not infinite or nan."""
    return isinstance(value, Real) and math.isfinite(value)


def check_budget(budget: Any) -> None:
    """Refuse what is no number of student trainings."""
    if not is_finite(budget) or budget < 0:
        raise InputError(f"Expected a budget of 0 or more student trainings but got {budget!r}")
