"""Measuring: what a teacher and a student show, in numbers with intervals; nothing here judges.

Names are imported when first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapkit.probes.layer_map import cka_map
    from gapkit.probes.linear import linear_probe
    from gapkit.probes.probe import Observation, Probe, Seen, Setting, register
    from gapkit.probes.rotation import procrustes
    from gapkit.probes.similarity import cka, mutual_knn, rsa
    from gapkit.probes.survey import measure

__all__ = [
    "Observation",
    "Probe",
    "Seen",
    "Setting",
    "cka",
    "cka_map",
    "linear_probe",
    "measure",
    "mutual_knn",
    "procrustes",
    "register",
    "rsa",
]

_HOMES = {
    "layer_map": ("cka_map",),
    "linear": ("linear_probe",),
    "probe": ("Observation", "Probe", "Seen", "Setting", "register"),
    "rotation": ("procrustes",),
    "similarity": ("cka", "mutual_knn", "rsa"),
    "survey": ("measure",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
