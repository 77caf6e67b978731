"""Steps shared by the generators: sizes from arguments, seeds, random parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from mixexperts.datasets._truth import FloatArray, IntArray

RandomState = int | np.random.Generator | np.random.RandomState | None


def shape_of(
    arrays: Mapping[str, tuple[ArrayLike | None, str]],
    sizes: Mapping[str, tuple[str, int | None, int]],
) -> list[int]:
    """Return the value of each size symbol, agreed among arrays and integers.

    Parameters
    ----------
    arrays : mapping of str to (array_like or None, str)
        Argument name to its value and its axes, one symbol each ("Kp" for (K, p)).
    sizes : mapping of str to (str, int or None, int)
        Symbol to its integer argument: name, value if given, default.

    Returns
    -------
    list of int
        Sizes in the order of `sizes`.
    """
    found: dict[str, tuple[str, int]] = {}
    for symbol, (argument, value, _) in sizes.items():
        if value is not None:
            integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not integer or value < 1:
                raise ValueError(
                    f"{argument}: found {value!r}, expected an integer of at least 1. "
                    "Pass a positive count."
                )
            found[symbol] = (argument, int(value))
    for argument, (given, axes) in arrays.items():
        if given is None:
            continue
        shape = np.shape(given)
        wanted = "(" + ", ".join(axes) + ("," if len(axes) == 1 else "") + ")"
        if len(shape) != len(axes) or 0 in shape:
            raise ValueError(
                f"{argument}: found shape {shape}, expected {wanted}. Reshape the array."
            )
        for symbol, size in zip(axes, shape, strict=True):
            other, known = found.setdefault(symbol, (argument, size))
            if known != size:
                raise ValueError(
                    f"{argument}: found shape {shape}, expected {wanted} with {symbol} = {known} "
                    f"as in {other}. Change {argument} or {other}."
                )
    return [found[s][1] if s in found else default for s, (_, _, default) in sizes.items()]


def parameter(name: str, given: ArrayLike) -> FloatArray:
    """Return a copy of an argument as a finite float array."""
    values = np.array(given, dtype=np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"{name}: found NaN or infinite values, expected finite numbers. Replace them."
        )
    return values


def check_number(name: str, value: float, *, positive: bool = False) -> None:
    """Raise if a scale-like argument is negative, not finite, or zero where it must not be."""
    if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
        kind = "positive" if positive else "non-negative"
        raise ValueError(
            f"{name}: found {value!r}, expected a finite {kind} number. Pass such a number."
        )


def reference_zero(name: str, values: FloatArray, what: str, axis: int = 0) -> FloatArray:
    """Return `values` if the reference (last along `axis`) is zero, else raise.

    Logits are defined up to a common shift; a silent shift would return other numbers
    than the caller passed.
    """
    if np.any(np.take(values, -1, axis=axis)):
        raise ValueError(
            f"{name}: found nonzero values for the last {what}, expected zeros as it is the "
            f"reference. Subtract the last {what} from all of them."
        )
    return values


def split_random_state(random_state: RandomState) -> list[np.random.Generator]:
    """Return generators for X, parameters, labels and y.

    Separate streams keep one part of the sample unchanged when another is given.
    """
    if isinstance(random_state, np.random.RandomState):
        random_state = int(random_state.randint(2**31 - 1))
    seeds = np.random.default_rng(random_state).integers(2**63, size=4)
    return [np.random.default_rng(int(seed)) for seed in seeds]


def draw_rows(X: ArrayLike | None, n: int, p: int, rng: np.random.Generator) -> FloatArray:
    """Return the covariates given, or standard normal ones, shape (n, p)."""
    return rng.standard_normal((n, p)) if X is None else parameter("X", X)


def draw_labels(rng: np.random.Generator, score: FloatArray) -> IntArray:
    """Draw one index per row with probability softmax(score), shape (n,)."""
    # The largest of score plus Gumbel noise has exactly the softmax distribution.
    labels: IntArray = np.argmax(score + rng.gumbel(size=score.shape), axis=1).astype(np.int64)
    return labels


def random_gate(
    rng: np.random.Generator,
    gate: str,
    strength: float,
    n_experts: int,
    rows: FloatArray,
    *,
    drawn: bool,
) -> tuple[FloatArray, FloatArray]:
    """Draw gate slopes (K, p) and intercepts (K,) that order the experts along a direction.

    Neighbouring experts have equal weight at the quantiles k / K of the projected
    covariates, so that each expert gets a fair share of the rows.
    """
    if gate not in ("softmax", "constant"):
        raise ValueError(
            f"gate: found {gate!r}, expected 'softmax' or 'constant'. Pass one of the two."
        )
    direction = _direction(rng, rows.shape[1])
    if gate == "constant":
        strength = 0.0
    levels = np.arange(1, n_experts) / n_experts
    if drawn:
        cuts = np.array([NormalDist().inv_cdf(float(level)) for level in levels])
    else:
        cuts = np.quantile(rows @ direction, levels)
    steps = np.arange(n_experts, dtype=np.float64) - (n_experts - 1)
    slopes = strength * steps[:, np.newaxis] * direction
    offsets = np.concatenate([[0.0], -strength * np.cumsum(cuts)])
    return slopes + 0.0, offsets - offsets[-1] + 0.0  # + 0.0 turns -0.0 into 0.0


def random_experts(
    rng: np.random.Generator, separation: float, n_experts: int, n_features: int
) -> tuple[FloatArray, FloatArray]:
    """Draw slopes (K, p), evenly spread along a direction, and intercepts (K,)."""
    direction = _direction(rng, n_features)
    spread = np.linspace(-1.0, 1.0, n_experts) if n_experts > 1 else np.ones(1)
    slopes = separation * spread[:, np.newaxis] * direction
    return slopes, separation * rng.uniform(-1.0, 1.0, n_experts)


def _direction(rng: np.random.Generator, n_features: int) -> FloatArray:
    direction = rng.standard_normal(n_features)
    unit: FloatArray = direction / np.linalg.norm(direction)
    return unit
