"""The numbers behind the figures of a fit, as tidy data frames; nothing here needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts.plots._source import Source, fitted, listing, source

if TYPE_CHECKING:
    import pandas as pd


def fit_frame(
    model: Any,
    X: Any = None,
    *,
    feature: Any = None,
    at: Mapping[str, Any] | None = None,
    interval: float | None = 0.9,
    n_grid: int = 200,
    offset: Any = None,
    data: Any = None,
    response: Any = None,
) -> pd.DataFrame:
    """Fitted means, mixing weights and predictive interval along one variable.

    Parameters
    ----------
    model : MoERegressor or MoEResults
        Fitted model.
    X : array-like or DataFrame of shape (n, n_features), optional
        Rows that give the range of the feature; needed with an estimator.
    feature : str, optional
        Variable along which to go: a column of X or, with results, of the data. By default the
        first numeric one that the model uses.
    at : mapping of str to value, optional
        Values of the other variables. By default labels and variables of two values are at
        their most frequent value, other numbers at their mean (estimator) or median (results).
    interval : float or None, default=0.9
        Probability of the central predictive interval; None leaves it out. Binomial experts
        have none: their curves are probabilities.
    n_grid : int, default=200
        Number of points.
    offset : array-like of shape (n,), optional
        Offset of the rows, held at its median; results know theirs if it is a column.
    data : DataFrame, optional
        With results, rows in place of those of the fit.
    response : str or int, optional
        Of several responses the one to draw: its name or number. Names are those of the formula
        or of the columns of y, else ``y0``, ``y1``, ...

    Returns
    -------
    DataFrame
        One row per component and point: ``component`` (``"mixture"``, ``"expert 1"``, ...),
        ``x``, ``mean``, ``weight`` (mixing weight; 1 for the mixture), ``lower`` and ``upper``
        (of the mixture). ``attrs`` holds ``feature``, ``response``, ``held`` and ``interval``.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    src = source(model, X, data=data, offset=offset, which=response, drawn=True)
    return fit_table(src, feature, at, interval, n_grid)


def fit_table(
    src: Source, feature: Any, at: Mapping[str, Any] | None, interval: float | None, n_grid: int
) -> pd.DataFrame:
    """See :func:`fit_frame`."""
    import pandas as pd

    if interval is not None and not 0.0 < interval < 1.0:
        raise ValueError(f"interval must lie between 0 and 1 or be None, got {interval!r}")
    name = src.feature(feature)
    values = _values(src, name, n_grid)
    held = src.held(name, at)
    X, offset = src.grid(name, values, held)
    predictive = src.estimator.predictive(X, offset=offset)
    if src.which is not None:
        predictive = predictive.marginal(src.which)
    lower = upper = np.full(len(values), np.nan)
    # The interval of a single trial says nothing that the probability does not.
    columns = src.estimator.model_.expert.response_columns
    if interval is not None and (src.which is not None or max(columns) == 1):
        lower, upper = predictive.interval(interval)
    mixture = pd.DataFrame(
        {
            "component": "mixture",
            "x": values,
            "mean": predictive.mean(),
            "weight": 1.0,
            "lower": lower,
            "upper": upper,
        }
    )
    means = src.estimator.predict_experts(X, offset=offset)
    means = means if src.which is None else means[:, :, src.which]
    weights = src.estimator.gate_proba(X)
    parts = [
        mixture.assign(
            component=expert, mean=means[:, k], weight=weights[:, k], lower=np.nan, upper=np.nan
        )
        for k, expert in enumerate(expert_names(src.n_experts))
    ]
    frame = pd.concat([mixture, *parts], ignore_index=True)
    frame.attrs = {"feature": name, "response": src.response, "held": held, "interval": interval}
    return frame


def points_frame(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    feature: Any = None,
    at: Mapping[str, Any] | None = None,
    offset: Any = None,
    groups: Any = None,
    data: Any = None,
    response: Any = None,
) -> pd.DataFrame:
    """Data with responsibilities, as :func:`plot_fit` draws them.

    Parameters
    ----------
    model, X
        As in :func:`fit_frame`.
    y : array-like of shape (n,), optional
        Response; needed with an estimator.
    feature, at, offset
        As in :func:`fit_frame`.
    groups : array-like of shape (n,), optional
        Groups of the rows; needed with an estimator that was fitted with groups.
    data, response
        As in :func:`fit_frame`.

    Returns
    -------
    DataFrame
        One row per complete row of the data: ``x``, ``y``, ``at_held`` (whether labels and
        variables of two values are at their held values), and the responsibilities in columns
        ``"expert 1"``, ``"expert 2"``, ...

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    src = source(
        model,
        X,
        y,
        data=data,
        offset=offset,
        groups=groups,
        response=True,
        which=response,
        drawn=True,
    )
    return points_table(src, feature, at)


def points_table(src: Source, feature: Any, at: Mapping[str, Any] | None) -> pd.DataFrame:
    """See :func:`points_frame`."""
    import pandas as pd

    name = src.feature(feature)
    held = src.held(name, at)
    resp = pd.DataFrame(
        src.responsibilities(), columns=expert_names(src.n_experts), index=src.data.index
    )
    resp.insert(0, "x", src.data[name].to_numpy())
    resp.insert(1, "y", src.heights)
    resp.insert(2, "at_held", src.at_held(held))
    resp.attrs = {"feature": name, "response": src.response, "held": held}
    return resp


def gate_frame(
    model: Any,
    X: Any = None,
    *,
    feature: Any = None,
    at: Mapping[str, Any] | None = None,
    n_grid: int = 200,
    data: Any = None,
) -> pd.DataFrame:
    """Mixing weights along one variable.

    Parameters
    ----------
    model, X
        As in :func:`fit_frame`. A constant gate needs no X.
    feature : str, optional
        Variable along which to go; by default the first numeric one of the gate, or its first
        variable if all are labels. Labels give one point per level.
    at, n_grid, data
        As in :func:`fit_frame`.

    Returns
    -------
    DataFrame
        One row per expert and point: ``expert`` (``"expert 1"``, ...), ``x``, ``weight``.
        ``attrs`` holds ``feature`` (None if the weights depend on nothing) and ``held``.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    est = fitted(model)
    if X is None and est is model and not est.model_.gate.uses_features:
        return _constant_gate(est)
    return gate_table(source(model, X, data=data), feature, at, n_grid)


def gate_table(
    src: Source, feature: Any, at: Mapping[str, Any] | None, n_grid: int
) -> pd.DataFrame:
    """See :func:`gate_frame`."""
    gate = list(src.gate_variables)
    if feature is None and gate and not src.numeric(gate):
        feature = gate[0]
    if feature is None and not gate and not src.numeric(src.variables):
        return _constant_gate(src.estimator)
    name = src.feature(feature, gate)
    values = _values(src, name, n_grid) if src.is_numeric(name) else _levels(src.data[name])
    held = src.held(name, at)
    X, _ = src.grid(name, values, held)
    if not gate:
        held = {}
    frame = _weights(src.estimator.gate_proba(X), values)
    frame.attrs = {
        "feature": name,
        "held": {other: value for other, value in held.items() if other in gate},
    }
    return frame


def _constant_gate(est: Any) -> pd.DataFrame:
    """Weights that depend on nothing, at two points."""
    log_weight = est.gate_intercept_ - np.logaddexp.reduce(est.gate_intercept_)
    frame = _weights(np.exp([log_weight, log_weight]), np.array([0.0, 1.0]))
    frame.attrs = {"feature": None, "held": {}}
    return frame


def _weights(proba: Any, values: Any) -> pd.DataFrame:
    import pandas as pd

    names = expert_names(proba.shape[1])
    parts = [
        pd.DataFrame({"expert": expert, "x": values, "weight": proba[:, k]})
        for k, expert in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)


def _levels(column: pd.Series) -> list[Any]:
    """Levels at hand, categories in their order, others sorted."""
    import pandas as pd

    return list(pd.Categorical(column).remove_unused_categories().categories)


def _values(src: Source, name: str, n_grid: int) -> Any:
    if not isinstance(n_grid, int | np.integer) or n_grid < 2:
        raise ValueError(f"n_grid must be an integer of at least 2, got {n_grid!r}")
    if not src.is_numeric(name):
        raise ValueError(
            f"feature={name!r} is not numeric; numeric ones: " + listing(src.numeric(src.variables))
        )
    low, high = float(src.data[name].min()), float(src.data[name].max())
    if not low < high:
        raise ValueError(f"feature={name!r} has the same value {low:g} in all rows; choose another")
    return np.linspace(low, high, int(n_grid))


def posterior_frame(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    offset: Any = None,
    groups: Any = None,
    data: Any = None,
) -> pd.DataFrame:
    """Responsibilities, one row per row of the data and expert.

    Parameters
    ----------
    model, X, y, offset, groups, data
        As in :func:`points_frame`.

    Returns
    -------
    DataFrame
        ``row`` (label in the data), ``expert`` (``"expert 1"``, ...), ``responsibility``.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    import pandas as pd

    src = source(model, X, y, data=data, offset=offset, groups=groups, response=True)
    resp = src.responsibilities()
    n, k = resp.shape
    return pd.DataFrame(
        {
            "row": np.tile(src.data.index.to_numpy(), k),
            "expert": np.repeat(expert_names(k), n),
            "responsibility": resp.T.ravel(),
        }
    )


def expert_names(n_experts: int) -> list[str]:
    """Names of the experts in tables and legends."""
    return [f"expert {k}" for k in range(1, n_experts + 1)]
