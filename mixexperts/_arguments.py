"""Arguments of predictions: weights, probabilities, sizes, sources of randomness."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixexperts._batch import Array


def fraction(value: Any, name: str, within: str) -> Array:
    """Value(s) as an array, refused outside ``within``: "[0, 1]" or "(0, 1)"."""
    array = np.asarray(value, dtype=float)
    inside = (array >= 0.0) & (array <= 1.0) if within[0] == "[" else (array > 0.0) & (array < 1.0)
    if not inside.all():
        raise ValueError(
            f"{name} must lie in {within}, got {array[~inside].flat[0]}; divide percents by 100"
        )
    return array


def count(value: Any, name: str) -> int:
    """A non-negative integer."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise ValueError(f"{name} must be an integer >= 0 or None, got {value!r}; try {name}=1")


def generator(random_state: Any) -> np.random.Generator:
    """A generator of what scikit-learn takes as ``random_state``."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(0, 2**32, size=4, dtype=np.uint32))
    seed = None if random_state is None else count(random_state, "random_state")
    return np.random.default_rng(seed)


def log_weights(log_weight: Any, n_rows: int) -> Array:
    """Log mixing weights (n, K), whose exponentials must sum to one in each row."""
    array = np.array(log_weight, dtype=float)
    if array.ndim != 2 or array.shape[0] != n_rows or array.shape[1] == 0:
        raise ValueError(
            f"log_weight must have shape ({n_rows}, K), got {array.shape}; give one line per row"
        )
    with np.errstate(over="ignore"):
        total = np.exp(array).sum(axis=1)
    for row in np.flatnonzero(~(np.abs(total - 1.0) <= 1e-8)):
        raise ValueError(
            f"mixing weights must sum to 1, those of row {row} sum to {total[row]:.9g}; pass "
            "normalised log weights"
        )
    return array
