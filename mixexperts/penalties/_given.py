"""Numbers, weights and labels that a sparse penalty is given, checked."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

from mixexperts._batch import Array


def real(value: Any, name: str) -> float:
    """A number as a float."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    return float(value)


def one_of(value: Any, known: tuple[str, ...], name: str) -> None:
    """Refuse what is not one of the known names."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def factors(value: Any, name: str, dimensions: tuple[int, ...]) -> Array | None:
    """Weights, read-only, of one of the numbers of dimensions; None stays None."""
    if value is None:
        return None
    array = np.array(value, dtype=float)
    if array.ndim not in dimensions:
        wanted = " or ".join(
            {1: "(p,)", 2: "(K, p)", 3: "(K, L, p)"}[number] for number in dimensions
        )
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    if not (array >= 0.0).all():
        bad = array[~(array >= 0.0)].flat[0]
        raise ValueError(f"{name} must be numbers >= 0, got {bad}; 0 leaves a coefficient free")
    array.setflags(write=False)
    return array


def labels(value: Any) -> Array:
    """Labels of groups as 0 .. G - 1."""
    array = np.asarray(value)
    whole = array.dtype.kind in "iu" or all(isinstance(v, Integral) for v in array.flat)
    if array.ndim != 1 or not whole or array.dtype.kind == "b":
        raise ValueError(
            f"groups must be integers of shape (p,), got {array.dtype} of shape {array.shape}"
        )
    codes: Array = np.unique(array.astype(np.intp), return_inverse=True)[1]
    codes.setflags(write=False)
    return codes
