"""Statistical mixture-of-experts models.

p(y | x) is a sum over experts k of gate weights g_k(x) times expert densities f_k(y | x).
Everything public is loaded at first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixexperts import (
        datasets,
        em,
        errors,
        estimators,
        experts,
        gates,
        penalties,
        plots,
        sources,
        theory,
    )
    from mixexperts.api import moe
    from mixexperts.estimators import (
        LassoMoEClassifier,
        LassoMoEClassifierCV,
        LassoMoERegressor,
        LassoMoERegressorCV,
        LassoPath,
        MoEClassifier,
        MoERegressor,
    )
    from mixexperts.inference.adapt import Adaptation, adapt_experts
    from mixexperts.inference.selection import Selection, select
    from mixexperts.inference.splitting import SampleSplit, sample_splitting
    from mixexperts.inference.stability import StabilitySelection, stability_selection
    from mixexperts.io import load
    from mixexperts.predictive import Predictive
    from mixexperts.predictive_multi import MultivariatePredictive
    from mixexperts.results import MoEResults

__version__ = "0.1.0"

_NAMES = {
    "Adaptation": "mixexperts.inference.adapt",
    "LassoMoEClassifier": "mixexperts.estimators",
    "LassoMoEClassifierCV": "mixexperts.estimators",
    "LassoMoERegressor": "mixexperts.estimators",
    "LassoMoERegressorCV": "mixexperts.estimators",
    "LassoPath": "mixexperts.estimators",
    "MoEClassifier": "mixexperts.estimators",
    "MoERegressor": "mixexperts.estimators",
    "MoEResults": "mixexperts.results",
    "MultivariatePredictive": "mixexperts.predictive_multi",
    "Predictive": "mixexperts.predictive",
    "SampleSplit": "mixexperts.inference.splitting",
    "Selection": "mixexperts.inference.selection",
    "StabilitySelection": "mixexperts.inference.stability",
    "adapt_experts": "mixexperts.inference.adapt",
    "load": "mixexperts.io",
    "moe": "mixexperts.api",
    "sample_splitting": "mixexperts.inference.splitting",
    "select": "mixexperts.inference.selection",
    "stability_selection": "mixexperts.inference.stability",
}
_ROOMS = (
    "datasets", "em", "errors", "estimators", "experts", "gates", "penalties", "plots", "sources",
    "theory",
)  # fmt: skip

__all__ = [
    "Adaptation",
    "LassoMoEClassifier",
    "LassoMoEClassifierCV",
    "LassoMoERegressor",
    "LassoMoERegressorCV",
    "LassoPath",
    "MoEClassifier",
    "MoERegressor",
    "MoEResults",
    "MultivariatePredictive",
    "Predictive",
    "SampleSplit",
    "Selection",
    "StabilitySelection",
    "__version__",
    "adapt_experts",
    "datasets",
    "em",
    "errors",
    "estimators",
    "experts",
    "gates",
    "load",
    "moe",
    "penalties",
    "plots",
    "sample_splitting",
    "select",
    "sources",
    "stability_selection",
    "theory",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"mixexperts.{name}")
    raise AttributeError(f"module 'mixexperts' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
