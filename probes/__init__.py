"""Measuring: what a teacher and a student show, in numbers with intervals; nothing here judges.

Names are imported when first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapkit.probes.importance import importance_weights
    from gapkit.probes.layer_map import cka_map, from_moments, layer_sums
    from gapkit.probes.linear import linear_probe, multilabel_probe, regression_probe
    from gapkit.probes.maps import similarity_map
    from gapkit.probes.matching import LayerMatching, match_layers
    from gapkit.probes.prediction import predictability
    from gapkit.probes.probe import Observation, Probe, Seen, Setting, register
    from gapkit.probes.rotation import procrustes
    from gapkit.probes.similarity import cka, mutual_knn, rbf_cka, rsa
    from gapkit.probes.survey import measure

_HOMES = {
    "importance": ("importance_weights",),
    "layer_map": ("cka_map", "from_moments", "layer_sums"),
    "linear": ("linear_probe", "multilabel_probe", "regression_probe"),
    "maps": ("similarity_map",),
    "matching": ("LayerMatching", "match_layers"),
    "prediction": ("predictability",),
    "probe": ("Observation", "Probe", "Seen", "Setting", "register"),
    "rotation": ("procrustes",),
    "similarity": ("cka", "mutual_knn", "rbf_cka", "rsa"),
    "survey": ("measure",),
}

__all__ = [
    "LayerMatching",
    "Observation",
    "Probe",
    "Seen",
    "Setting",
    "cka",
    "cka_map",
    "from_moments",
    "importance_weights",
    "layer_sums",
    "linear_probe",
    "match_layers",
    "measure",
    "multilabel_probe",
    "mutual_knn",
    "predictability",
    "procrustes",
    "rbf_cka",
    "register",
    "regression_probe",
    "rsa",
    "similarity_map",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
