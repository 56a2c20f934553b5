"""gapkit: why a student falls short of its teacher, what would close the gap, and whether it did.

    models + data -> measure -> Measurements -> diagnose -> Gap -> plan -> Plan
                                              -> distill -> Outcome -> report

Every name is imported when it is first used, so that `import gapkit` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Study": "study",
    "Classification": "task",
    "MultiLabel": "tasks.multilabel",
    "Regression": "tasks.regression",
    "Embedding": "tasks.embedding",
    "Data": "data",
    "Family": "family",
    "Recipe": "recipe",
    "InputError": "errors",
    "Measurement": "measurement",
    "LayerMatrix": "measurement",
    "Measurements": "measurement",
    "Gap": "gap",
    "Finding": "gap",
    "Plan": "plans",
    "Stage": "plans",
    "Phase": "plans",
    "Knowledge": "knowledge",
    "Limits": "limits",
    "hints": "knowledge",
    "matched_hints": "teaching.layer_hints",
    "Objective": "teaching.objective",
    "Planner": "planner",
    "Outcome": "outcome",
    "check_loss": "teaching.losscheck",
    "diagnose": "diagnosis",
    "plan": "planning.search",
    "distill": "execution",
}
_RENAMED = {"measure": ("gapkit.probes.survey", "measure"), "report": ("gapkit.reports", "write")}

__all__ = sorted([*_HOMES, *_RENAMED, "losses", "probes", "reports"])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"gapkit.{_HOMES[name]}"), name)
    if name in _RENAMED:
        module, attribute = _RENAMED[name]
        return getattr(importlib.import_module(module), attribute)
    if name in ("losses", "probes", "reports"):
        return importlib.import_module(f"gapkit.{name}")
    raise AttributeError(f"module 'gapkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
