"""Probabilities of intervals under families of one linear predictor, and their derivatives.

Everything here works on cells: arrays of one axis, a row under an expert each. Intervals are open
below and closed above, ``lower < y <= upper``, which matters for counts only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mixexperts._batch import Array

if TYPE_CHECKING:
    from mixexperts.experts._linear import LinearExpert

_LOG_HALF = math.log(0.5)
# Below this share of the tail that it is cut from, an interval's probability is taken as its width
# times the density in its middle: the difference of two tails keeps 11 digits there, and the
# middle is right to as many.
_NARROW = 1e-5
# Steps of differences, as a share of a standard error of one row, and the longest one.
_STEP = 2e-3
_LONGEST_STEP = 4e-3
# Points and weights of central differences of fourth order.
_STENCIL = ((-2.0, 1.0 / 12.0), (-1.0, -8.0 / 12.0), (1.0, 8.0 / 12.0), (2.0, -1.0 / 12.0))

Cells = Mapping[str, Array]


def log_between(
    family: LinearExpert, lower: Array, upper: Array, eta: Array, shapes: Cells
) -> Array:
    """Log of the probability of ``lower < y <= upper`` in each cell.

    Differences are taken between the smaller tails, so that they keep their digits however far
    out the interval lies.
    """
    return _log_between(family, lower, upper, eta, shapes)[0]


def between(
    family: LinearExpert, lower: Array, upper: Array, eta: Array, shapes: Cells, sizes: list[Array]
) -> tuple[Array, list[Array]]:
    """The same, and its derivatives in eta and in the free shapes.

    With v the speed at which quantiles move (``flows_at``) the derivative of F(y) is ``-v f(y)``.
    Where a family does not know v, differences of the log probability take its place, with an
    error of some 1e-10. ``sizes`` are steps of eta and the shapes for them.
    """
    log_p, narrow = _log_between(family, lower, upper, eta, shapes)
    lowest, highest = family.support
    at_lower, at_upper = lower > lowest, upper < highest
    slopes: list[Array | None] = [np.zeros_like(log_p) for _ in range(1 + len(family.shapes))]
    with np.errstate(over="ignore", under="ignore"):
        for at, sign, y in ((at_lower, 1.0, lower), (at_upper, -1.0, upper)):
            inside, (eta_at, log_p_at), shapes_at = _some(at, (eta, log_p), shapes, y)
            ratio = np.exp(family.log_density(inside, eta_at, **shapes_at) - log_p_at)
            for t, speed in enumerate(family.flows_at(inside, eta_at, **shapes_at)):
                slope = slopes[t]
                if speed is None:
                    slopes[t] = None
                elif slope is not None:
                    slope[at] += sign * speed * ratio
    if narrow.any():
        middle = 0.5 * (lower[narrow] + upper[narrow])
        own = {name: values[narrow] for name, values in shapes.items()}
        for slope, exact in zip(slopes, family.terms(middle, eta[narrow], **own).slopes,
                                strict=True):  # fmt: skip
            if slope is not None:
                slope[narrow] = exact
    found = []
    for t, slope in enumerate(slopes):
        if slope is None:
            slope = _difference(
                family, t, eta, shapes, sizes[t],
                lambda e, s: _log_between(family, lower, upper, e, s)[0],
            )  # fmt: skip
        found.append(slope)
    return log_p, found


def curves_between(
    family: LinearExpert, lower: Array, upper: Array, eta: Array, shapes: Cells, sizes: list[Array]
) -> list[list[Array]]:
    """Second derivatives of the log probability, sign changed, by differences of the first."""
    size = 1 + len(family.shapes)
    table = [[np.empty(0)] * size for _ in range(size)]
    for t in range(size):
        for s in range(size):
            table[s][t] = -_difference(
                family, t, eta, shapes, sizes[t],
                lambda e, p, s=s: between(family, lower, upper, e, p, sizes)[1][s],
            )  # fmt: skip
    return [[0.5 * (table[s][t] + table[t][s]) for t in range(size)] for s in range(size)]


def step_sizes(family: LinearExpert, weights: tuple[Array, ...]) -> list[Array]:
    """Steps of differences from the information of a row about eta and the free shapes."""
    steps = []
    for t, weight in enumerate(weights):
        with np.errstate(divide="ignore"):
            step = _STEP / np.sqrt(weight)
        if t or not family.affine_response:
            step = np.minimum(step, _LONGEST_STEP)
        steps.append(np.where(np.isfinite(step), step, _LONGEST_STEP))
    return steps


def _log_between(
    family: LinearExpert, lower: Array, upper: Array, eta: Array, shapes: Cells
) -> tuple[Array, Array]:
    """Log probabilities, and which intervals are so narrow that their middle stands for them."""
    lowest, highest = family.support
    at_lower, at_upper = lower > lowest, upper < highest
    log_p = np.zeros(eta.shape)
    narrow = np.zeros(eta.shape, dtype=bool)
    with np.errstate(all="ignore"):
        above = at_lower & ~at_upper
        if above.any():
            y, (eta_at,), own = _some(above, (eta,), shapes, lower)
            log_p[above] = family.log_sf_at(y, eta_at, **own)
        below = at_upper & ~at_lower
        if below.any():
            y, (eta_at,), own = _some(below, (eta,), shapes, upper)
            log_p[below] = family.log_cdf_at(y, eta_at, **own)
        both = at_lower & at_upper
        if both.any():
            low, (high, eta_at), own = _some(both, (upper, eta), shapes, lower)
            log_p[both], narrow[both] = _difference_of_tails(family, low, high, eta_at, own)
    return log_p, narrow


def _difference_of_tails(
    family: LinearExpert, low: Array, high: Array, eta: Array, shapes: Cells
) -> tuple[Array, Array]:
    under, over = family.log_cdf_at(low, eta, **shapes), family.log_sf_at(high, eta, **shapes)
    share = -(np.exp(under) + np.exp(over))  # straddling the median: one less both tails
    whole = np.zeros_like(share)
    for side, far, function, y in (
        (under > _LOG_HALF, over, family.log_sf_at, low),
        (over > _LOG_HALF, under, family.log_cdf_at, high),
    ):
        if side.any():
            inside, (eta_at,), own = _some(side, (eta,), shapes, y)
            whole[side] = function(inside, eta_at, **own)
            share[side] = -np.exp(far[side] - whole[side])
    narrow = np.zeros(eta.shape, dtype=bool) if family.discrete else 1.0 + share < _NARROW
    narrow &= np.isfinite(whole)  # where the tails have left the floats there is nothing to mend
    log_p: Array = whole + np.log1p(np.maximum(share, -1.0))
    if narrow.any():
        middle, (width, eta_at), own = _some(narrow, (high - low, eta), shapes, 0.5 * (low + high))
        log_p[narrow] = family.log_density(middle, eta_at, **own) + np.log(width)
    return log_p, narrow


def _some(
    where: Array, parts: tuple[Array, ...], shapes: Cells, y: Array
) -> tuple[Array, tuple[Array, ...], dict[str, Array]]:
    """The marked cells of a response, of arrays beside it, and of the shapes."""
    own = {name: values[where] for name, values in shapes.items()}
    return y[where], tuple(part[where] for part in parts), own


def _difference(
    family: LinearExpert, t: int, eta: Array, shapes: Cells, size: Array, function: object
) -> Array:
    """Derivative of ``function(eta, shapes)`` in eta (t = 0) or a free shape."""
    total = np.zeros(eta.shape)
    shape = family.shapes[t - 1] if t else None
    for place, weight in _STENCIL:
        if shape is None:
            moved, own = eta + place * size, dict(shapes)
        else:
            free = shape.free(shapes[shape.name]) + place * size
            moved, own = eta, {**shapes, shape.name: shape.value(free)}
        total += weight * function(moved, own)  # type: ignore[operator]
    return total / size
