"""Scalar functions of a linear predictor or of a feature, with derivatives."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from mixexperts._batch import Array

Activation: TypeAlias = Literal[
    "identity", "sigmoid", "tanh", "softplus", "silu", "gelu", "relu", "leaky_relu"
]
Transform: TypeAlias = Literal["tanh", "sigmoid", "sin", "cos"]

#: Activations with phi(c z) = c phi(z) for c > 0: they leave a temperature without meaning.
HOMOGENEOUS = frozenset({"identity", "relu", "leaky_relu"})
#: Activations with a kink.
KINKED = frozenset({"relu", "leaky_relu"})
#: Mean slopes near zero, for starts.
SLOPE_AT_ZERO = {
    "identity": 1.0,
    "sigmoid": 0.25,
    "tanh": 1.0,
    "softplus": 0.5,
    "silu": 0.5,
    "gelu": 0.5,
    "relu": 0.5,
    "leaky_relu": 0.55,
}
_LEAK = 0.1
_SQRT_TWO_PI = math.sqrt(2.0 * math.pi)


def logistic(z: Array) -> Array:
    """``1 / (1 + exp(-z))`` without overflow."""
    small = np.exp(-np.abs(z))
    value: Array = np.where(z >= 0, 1.0, small) / (1.0 + small)
    return value


def activate(name: str, z: Array) -> tuple[Array, Array, Array]:
    """``phi(z) - phi(0)`` and the first two derivatives of phi."""
    if name == "identity":
        return z, np.ones_like(z), np.zeros_like(z)
    if name == "tanh":
        value = np.tanh(z)
        slope = 1.0 - value**2
        return value, slope, -2.0 * value * slope
    if name == "relu" or name == "leaky_relu":
        low = 0.0 if name == "relu" else _LEAK
        slope = np.where(z > 0, 1.0, low).astype(z.dtype)
        return slope * z, slope, np.zeros_like(z)
    if name == "gelu":
        from scipy.special import ndtr

        below = ndtr(z)
        density = np.exp(-0.5 * z * z) / _SQRT_TWO_PI
        return z * below, below + z * density, density * (2.0 - z * z)
    share = logistic(z)
    spread = share * (1.0 - share)
    if name == "sigmoid":
        return share - 0.5, spread, spread * (1.0 - 2.0 * share)
    if name == "softplus":
        return np.logaddexp(0.0, z) - math.log(2.0), share, spread
    # silu: z times the logistic function
    return z * share, share + z * spread, spread * (2.0 + z * (1.0 - 2.0 * share))


def transformed(name: str, z: Array) -> Array:
    """A bounded function M of each standardised feature."""
    if name == "sigmoid":
        return logistic(z)
    value: Array = {"tanh": np.tanh, "sin": np.sin, "cos": np.cos}[name](z)
    return value
