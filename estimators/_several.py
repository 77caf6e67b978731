"""Responses of a fit, one or several: what is refused of them as a whole, and their score."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import r2_score

from mixexperts._batch import Array
from mixexperts.estimators import _checks as checks
from mixexperts.estimators._data import Data
from mixexperts.experts.base import Expert

_EPS = float(np.finfo(float).eps)


def refuse_constant(data: Data, expert: Expert) -> None:
    """Raise if a response has no value, is constant, or is a linear combination of others."""
    lowest, highest = map(np.atleast_1d, data.response_range)
    if not expert.multivariate:  # columns that are parts of one response
        lowest, highest = np.fmin.reduce(lowest)[None], np.fmax.reduce(highest)[None]
    without = np.flatnonzero(np.isnan(highest))
    if expert.multivariate and without.size:
        raise ValueError(
            f"column {without[0]} of y holds no value in the rows of positive weight; leave "
            "that response out"
        )
    # A probability is at most one: the likelihood of constant counts has a bound.
    continuous = ~expert.discrete_columns(len(lowest))
    size = np.maximum(abs(lowest), abs(highest))
    constant = np.flatnonzero(continuous & (highest - lowest <= 4.0 * _EPS * size))
    if constant.size:
        what = "y - offset" if data.has_offset else "y"
        what = f"column {constant[0]} of {what}" if expert.multivariate else what
        if data.n_rows == 1:
            raise ValueError(
                "X and y hold 1 sample (n_samples = 1); a mixture of experts needs at least "
                "two rows with different y"
            )
        raise ValueError(
            f"{what} is constant (= {lowest[constant[0]]:g}); its likelihood has no maximum. "
            "Give a response that varies"
        )
    column = data.dependent_response() if expert.correlates() else None
    if column is not None:
        raise ValueError(
            f"column {column} of y is a linear combination of the columns before it, so that "
            "the likelihood has no maximum; leave it out"
        )


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
