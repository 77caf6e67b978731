"""What a user may pass, checked once at the door."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import validate_data

from mixexperts._batch import Array
from mixexperts._registry import resolve
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts.base import Expert


def is_cupy(values: Any) -> bool:
    """Whether something is an array of CuPy, told by its class: CuPy is not imported for it."""
    return type(values).__module__.partition(".")[0] == "cupy" and hasattr(values, "get")


def in_memory(values: Any) -> Any:
    """CuPy arrays copied to ordinary memory; anything else as it is."""
    return values.get() if is_cupy(values) else values


def positive_integer(value: Any, argument: str) -> int:
    """An integer >= 1; booleans are none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} must be a positive integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{argument} must be a positive integer, got {value!r}")
    return int(value)


def nonnegative_number(value: Any, argument: str) -> float:
    """A finite real number >= 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} must be a number >= 0, got {value!r}")
    number = float(value)
    if not (np.isfinite(number) and number >= 0):
        raise ValueError(f"{argument} must be a finite number >= 0, got {value!r}")
    return number


def validated(est: Any, expert: Expert, X: Any, y: Any, **options: Any) -> tuple[Array, Array]:
    """X and y as scikit-learn takes them, and y as the family of experts does, in float64."""
    if not is_classifier(est):
        refuse_labels(est, expert, y)
    family = expert.for_response(n_columns(y))
    shape = _shape(y) if family.multivariate or max(family.response_columns) > 1 else ()
    wide = len(shape) == 2 and (shape[-1] > 1 or family.multivariate)
    options = {"dtype": np.float64} | options
    lost = None
    if wide and (family.allows_missing or family.infinite_response):
        y = response_matrix(y)
        lost = np.isnan(y) if family.allows_missing else np.isinf(y)
        instead = y
        y = np.where(lost, 0.0, y)  # scikit-learn would refuse what is missing or has no bound
    X, y = validate_data(est, X, y, y_numeric=True, multi_output=wide, **options)
    y = np.asarray(y).astype(np.float64, copy=False)
    if lost is not None and lost.any():
        y = np.where(lost, instead, y)
    family.check_response(y)
    return X, y


def refuse_labels(est: Any, expert: Expert, y: Any) -> None:
    """Refuse classes where numbers are regressed on, and say what takes them."""
    name = type(est).__name__
    if expert.takes_classes == "many":
        raise UnsupportedCombinationError(
            f"expert={expert.name!r} is for classes, and {name} for numbers; use MoEClassifier"
        )
    values = np.asarray(y)
    if values.dtype.kind in "OUS" and values.ndim == 1:
        text = [row for row, value in enumerate(values[:1000]) if isinstance(value, str | bytes)]
        if text:
            raise InvalidResponseError(
                f"y holds labels, such as {values[text[0]]!r} in row {text[0]}, but {name} needs "
                "numbers; use MoEClassifier for classes, or convert y"
            )


def n_columns(y: Any) -> int:
    """Number of columns of a response, 1 where it is no matrix."""
    shape = _shape(y)
    return int(shape[1]) if len(shape) == 2 else 1


def _shape(y: Any) -> tuple[int, ...]:
    try:
        return np.asarray(y).shape
    except (TypeError, ValueError):  # lists of unequal length: for scikit-learn to refuse
        return ()


def response_matrix(y: Any) -> Array:
    """A matrix of floats, also of a DataFrame with missing values of its own kind."""
    try:
        if hasattr(y, "to_numpy"):
            return np.array(y.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.array(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"y cannot be read as numbers: {error}") from error


def same_responses(y: Array, n_responses: int) -> None:
    """Refuse new rows with another number of responses than the fit."""
    if y.shape[1] != n_responses:
        raise ValueError(
            f"y has {y.shape[1]} columns, but the model was fitted to {n_responses} responses; "
            "give NaN for those that are missing"
        )


def takes_several(expert: Any) -> bool:
    """Whether experts, by name or instance, take several responses; False where they are none."""
    try:
        family: Expert = resolve("expert", expert, "expert")
    except (TypeError, ValueError):  # said by fit
        return False
    return family.for_response(2).multivariate


def trials_array(trials: Any, expert: Expert, n: int) -> Array:
    """Trials of n rows from a number or (n,), as float64."""
    if max(expert.response_columns) < 2 or expert.multivariate:
        raise ValueError(f"trials are for binomial experts; {expert.name!r} experts have none")
    values = np.asarray(trials, dtype=np.float64)
    if values.shape not in ((), (n,)):
        raise ValueError(f"trials must be a number or have shape ({n},), got {values.shape}")
    if not (np.isfinite(values) & (values >= 0.0) & (values == np.floor(values))).all():
        raise ValueError("trials must be integers >= 0")
    return np.broadcast_to(values, (n,))


def sample_weight_array(sample_weight: Any, n: int) -> Array:
    """Weights as float64 (n,): None gives ones, a number that number n times."""
    if sample_weight is None:
        return np.ones(n)
    if isinstance(sample_weight, numbers.Number):
        weight = np.full(n, float(sample_weight))  # type: ignore[arg-type]
    else:
        weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.ndim != 1:
        raise ValueError(
            f"sample_weight must be one-dimensional, got shape {weight.shape}; "
            "Sample weights must be 1D array or scalar"
        )
    if len(weight) != n:
        raise ValueError(f"sample_weight has {len(weight)} entries but X has {n} rows")
    if not np.isfinite(weight).all():
        raise ValueError("sample_weight contains NaN or infinity; give finite weights >= 0")
    if (weight < 0).any():
        row = int(np.flatnonzero(weight < 0)[0])
        raise ValueError(f"sample_weight must not be negative, got {weight[row]:g} in row {row}")
    if not weight.any():
        raise ValueError("sample_weight is zero in every row; give at least one positive weight")
    return weight


def offset_array(offset: Any, n: int, responses: int = 1) -> Array | None:
    """Offset as float64 (n,), or (n, d) of d responses, or None."""
    if offset is None:
        return None
    values = np.asarray(offset, dtype=np.float64)
    if responses > 1 and values.shape != (n, responses):
        raise ValueError(
            f"offset must have shape ({n}, {responses}), a column for each response (zeros for "
            f"those without), got {values.shape}"
        )
    if responses == 1 and values.shape != (n,):
        raise ValueError(f"offset must have shape ({n},), one entry per row, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("offset contains NaN or infinity; give finite numbers")
    return values


def numeric_columns(X: Any, argument: str = "X") -> None:
    """Refuse a DataFrame with text columns by name; arrays are left to scikit-learn."""
    if not hasattr(X, "dtypes") or not hasattr(X, "columns"):
        return
    import pandas as pd

    if not isinstance(X, pd.DataFrame):
        return
    if not X.shape[1]:
        raise ValueError(
            f"{argument} has 0 feature(s) (shape={X.shape}) while a minimum of 1 is required; for "
            "a model without features use mixexperts.moe with the formula 'y ~ 1'"
        )
    text = [
        str(name)
        for name, dtype in X.dtypes.items()
        if not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_object_dtype(dtype))
        or (pd.api.types.is_object_dtype(dtype) and X[name].map(lambda v: isinstance(v, str)).any())
    ]
    if text:
        raise ValueError(
            f"{argument} has columns that are not numeric: {', '.join(map(repr, text))}; encode "
            "them as numbers, or use mixexperts.moe with a formula such as 'y ~ x + C(group)'"
        )


def feature_columns(
    features: Any, n_features: int, names: tuple[str, ...] | None, argument: str
) -> Array:
    """Indices of the columns that ``features`` selects.

    ``features`` is None (all), a column name or index, a list of either, a slice, or a
    boolean mask over the columns.
    """
    if features is None:
        return np.arange(n_features)
    if isinstance(features, slice):
        return np.arange(n_features)[features]
    if isinstance(features, str | int | np.integer):
        features = [features]
    values = np.asarray(features)
    if values.ndim != 1:
        raise TypeError(
            f"{argument} must be a list of column names or indices, a slice, a boolean mask or "
            f"None, got {features!r}"
        )
    if values.dtype == bool:
        if len(values) != n_features:
            raise ValueError(
                f"{argument} is a mask of {len(values)} entries, but X has {n_features} columns"
            )
        return np.flatnonzero(values)
    return np.array(
        [_column(item, n_features, names, argument) for item in features], dtype=np.int64
    )


def _column(item: Any, n_features: int, names: tuple[str, ...] | None, argument: str) -> int:
    if isinstance(item, str):
        if names is None:
            raise ValueError(
                f"{argument} names the column {item!r}, but X has no column names; "
                "pass a DataFrame or use indices"
            )
        if item not in names:
            raise ValueError(
                f"{argument} names the column {item!r}, which X lacks; its columns are "
                + ", ".join(map(repr, names))
            )
        return names.index(item)
    if isinstance(item, bool) or not isinstance(item, numbers.Integral):
        raise TypeError(f"{argument} must hold column names or indices, got {item!r}")
    if not -n_features <= int(item) < n_features:
        raise ValueError(
            f"{argument} asks for column {item}, but X has {n_features} columns (0 to "
            f"{n_features - 1})"
        )
    return int(item) % n_features
