"""What estimators do differently where there are several responses."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import r2_score

from mixexperts._batch import Array
from mixexperts.estimators import _checks as checks


def several_scores(est: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Mean over the responses of R squared, each over the rows that have it."""
    predicted = est.predict(X)
    values = checks.response_matrix(y)
    if values.shape != predicted.shape:
        raise ValueError(f"y must have shape {predicted.shape}, got {values.shape}")
    weight = checks.sample_weight_array(sample_weight, len(values))
    seen = ~np.isnan(values)
    if not seen.any(axis=0).all():
        column = int(np.flatnonzero(~seen.any(axis=0))[0])
        raise ValueError(f"column {column} of y holds no value; R squared needs some of each")
    scores = [_r2(values[:, j], predicted[:, j], weight, seen[:, j]) for j in range(seen.shape[1])]
    return float(np.mean(scores))


def _r2(y: Array, predicted: Array, weight: Array, rows: Array) -> float:
    return float(r2_score(y[rows], predicted[rows], sample_weight=weight[rows]))
