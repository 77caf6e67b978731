"""Moments, quantiles and draws of a family that is cut to a window, cell by cell.

Windows are open below and closed above, as intervals are: ``lower < y <= upper``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mixexperts._batch import Array
from mixexperts._lattice import LIMIT, MOST, smallest_integer
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts._adapters import LinearGaussian
from mixexperts.experts._interval import Cells, between, log_between

if TYPE_CHECKING:
    from mixexperts.experts._linear import LinearExpert

# Ends of the panels of the quadrature: probabilities of the whole family, and distances from the
# ends of the window in units of its probability over the density there.
_LEVELS = (1e-15, 1e-9, 1e-5, 1e-3, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_UPPER = (1e-3, 1e-5, 1e-9, 1e-15)
_DISTANCES = (0.02, 0.1, 0.3, 0.7, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0)
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(10)
_DRAWS = 16
_CELLS = 1 << 14


def normal_moments(lower: Array, upper: Array) -> tuple[Array, Array]:
    """First two raw moments of a standard normal variable between bounds.

    Parameters
    ----------
    lower, upper : ndarray
        Bounds of one shape, ``lower < upper``; infinities are allowed.

    Returns
    -------
    first, second : ndarray
        ``(phi(a) - phi(b)) / D`` and ``1 + (a phi(a) - b phi(b)) / D`` with ``D`` the probability
        between the bounds, all in logarithms.
    """
    low, high = (np.ravel(part) for part in np.broadcast_arrays(lower, upper))
    family, zero = LinearGaussian(), np.zeros(low.shape)
    shapes = {"scale": np.ones(low.shape)}
    _, (first, second) = between(family, low, high, zero, shapes, [zero, zero])
    shape = np.broadcast(lower, upper).shape
    return first.reshape(shape), 1.0 + second.reshape(shape)


def window_moments(
    family: LinearExpert, lower: Array, upper: Array, eta: Array, shapes: Cells
) -> tuple[Array, Array]:
    """Mean and variance of the family between bounds, (cells,)."""
    if isinstance(family, LinearGaussian):
        scale = shapes["scale"]
        first, second = normal_moments((lower - eta) / scale, (upper - eta) / scale)
        return eta + scale * first, scale**2 * np.maximum(second - first**2, 0.0)
    if family.discrete and (lower == 0.0).all() and np.isposinf(upper).all():
        # only zeros are left out, which add to no moment
        kept = np.exp(log_between(family, lower, upper, eta, shapes))
        whole_mean = family.mean_at(eta, **shapes)
        square = family.variance_at(eta, **shapes) + whole_mean**2
        mean = np.maximum(whole_mean / kept, 1.0)
        return mean, np.maximum(square / kept - mean**2, 0.0)
    mean, variance = np.empty(eta.shape), np.empty(eta.shape)
    for start in range(0, eta.size, _CELLS):
        part = slice(start, start + _CELLS)
        own = {name: values[part] for name, values in shapes.items()}
        whole = log_between(family, lower[part], upper[part], eta[part], own)
        points = _integers if family.discrete else _nodes
        y, weight = points(family, lower[part], upper[part], eta[part], own, whole)
        far = {name: values[:, None] for name, values in own.items()}
        with np.errstate(all="ignore"):
            log_f = family.log_density(y, eta[part][:, None], **far) - whole[:, None]
        mass = np.where(weight > 0.0, weight * np.exp(log_f), 0.0)
        mass /= mass.sum(axis=1, keepdims=True)
        mean[part] = (mass * y).sum(axis=1)
        variance[part] = (mass * (y - mean[part][:, None]) ** 2).sum(axis=1)
    return mean, variance


def _nodes(
    family: LinearExpert, lower: Array, upper: Array, eta: Array, shapes: Cells, whole: Array
) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre panels that follow the density in the window."""
    lowest, highest = family.support
    lower, upper = np.maximum(lower, lowest), np.minimum(upper, highest)
    levels = [*_LEVELS, *(1.0 - p for p in _UPPER)]
    edges = [np.broadcast_to(family.quantile_at(p, eta, **shapes), eta.shape) for p in levels]
    for end, sign in ((lower, 1.0), (upper, -1.0)):
        known = (end > lowest) & (end < highest)
        at = np.where(known, end, family.inner)
        with np.errstate(all="ignore"):
            unit = np.exp(whole - family.log_density(at, eta, **shapes))
        unit = np.where(known & np.isfinite(unit), unit, 0.0)
        edges += [np.where(known, end + sign * d * unit, np.nan) for d in (0.0, *_DISTANCES)]
    grid = np.stack(edges, axis=1)
    grid = np.where(np.isfinite(grid), grid, grid[:, [7]])
    grid = np.sort(np.clip(grid, lower[:, None], upper[:, None]), axis=1)
    half = 0.5 * np.diff(grid, axis=1)[:, :, None]
    middle = 0.5 * (grid[:, 1:] + grid[:, :-1])[:, :, None]
    y, weight = middle + half * _NODES, half * _NODE_WEIGHTS
    weight = weight.reshape(len(eta), -1)
    return np.where(weight > 0.0, y.reshape(len(eta), -1), family.inner), weight


def _integers(
    family: LinearExpert, lower: Array, upper: Array, eta: Array, shapes: Cells, whole: Array
) -> tuple[Array, Array]:
    """All counts of the window that weigh something, with weights zero and one."""
    top = np.broadcast_to(family.quantile_at(MOST, eta, **shapes), eta.shape)
    bottom = np.broadcast_to(family.quantile_at(1e-18, eta, **shapes), eta.shape)
    # Windows far out in a tail hold its nearest counts.
    reach = 200.0 + 12.0 * np.sqrt(np.maximum(np.where(np.isfinite(lower), lower, 0.0), 0.0))
    last = np.minimum(np.maximum(top, np.where(np.isfinite(lower), lower + reach, top)), upper)
    short = np.where(np.isfinite(upper), upper - reach, bottom)
    first = np.maximum(np.minimum(bottom, short), lower + 1.0)
    first = np.maximum(first, 0.0)
    width = np.max(last - first, initial=0.0) + 1.0
    if not width * len(eta) <= 40 * LIMIT:
        raise UnsupportedCombinationError(
            "truncated counts are too large to be summed; take of='population'"
        )
    y = first[:, None] + np.arange(width)
    return y, (y <= last[:, None]).astype(float)


def window_quantile(
    family: LinearExpert, probability: Array, lower: Array, upper: Array, eta: Array, shapes: Cells
) -> Array:
    """Quantiles (cells,) of the family between bounds, at a probability for each cell."""
    whole = log_between(family, lower, upper, eta, shapes)
    high = probability > 0.5
    with np.errstate(divide="ignore"):
        target = np.where(high, np.log1p(-probability), np.log(probability)) + whole

    def reaches(index: Array, value: Array) -> Array:
        own = {name: values[index] for name, values in shapes.items()}
        low, up = np.where(high[index], value, lower[index]), upper[index]
        up = np.where(high[index], up, value)
        log_p = np.where(low < up, log_between(family, low, up, eta[index], own), -np.inf)
        return np.where(high[index], log_p <= target[index], log_p >= target[index])

    start = np.broadcast_to(family.quantile_at(0.5, eta, **shapes), eta.shape)
    lowest = max(family.support[0], -1.0) if family.discrete else family.support[0]
    lo, hi = np.maximum(lower, lowest), np.minimum(upper, family.support[1])
    found = np.where(probability <= 0.0, lower, upper)
    if family.discrete:
        found = np.where(probability <= 0.0, np.maximum(lo + 1.0, 0.0), hi)
    rows = np.flatnonzero((probability > 0.0) & (probability < 1.0))
    if not rows.size:
        return found
    lo, hi = _bracket(reaches, rows, start, lo, hi, family.discrete)
    if family.discrete:
        found[rows] = smallest_integer(lambda i, v: reaches(rows[i], v), lo, hi)
        return found
    for _ in range(200):
        middle = 0.5 * lo + 0.5 * hi
        if not ((middle > lo) & (middle < hi)).any():
            break
        yes = reaches(rows, middle)
        lo, hi = np.where(yes, lo, middle), np.where(yes, middle, hi)
    found[rows] = hi
    return found


def _bracket(
    reaches: object, rows: Array, start: Array, lo: Array, hi: Array, whole: bool
) -> tuple[Array, Array]:
    """Finite ends between which the answer turns, going outwards in steps that double."""
    lo, hi = lo[rows], hi[rows]
    start = np.clip(start[rows], lo, hi)
    start = np.where(np.isfinite(start), start, 0.0)
    low, high = np.where(np.isfinite(lo), lo, start), np.where(np.isfinite(hi), hi, start)
    step = np.ones(len(rows))
    for _ in range(1100):
        short = ~np.isfinite(hi) & ~reaches(rows, high)  # type: ignore[operator]
        if not short.any():
            break
        low, high = np.where(short, high, low), np.where(short, high + step, high)
        step = np.where(short, 2.0 * step, step)
    step = np.ones(len(rows))
    for _ in range(1100):
        far = ~np.isfinite(lo) & reaches(rows, low)  # type: ignore[operator]
        if not far.any():
            break
        high, low = np.where(far, low, high), np.where(far, low - step, low)
        step = np.where(far, 2.0 * step, step)
    return (np.floor(low), np.ceil(high)) if whole else (low, high)


def window_draw(
    family: LinearExpert,
    rng: np.random.Generator,
    lower: Array,
    upper: Array,
    eta: Array,
    shapes: Cells,
) -> Array:
    """A draw for each cell: drawn anew while it falls outside, then by its quantile."""
    drawn = np.array(family.draw(rng, eta, **shapes), dtype=np.float64)
    for _ in range(_DRAWS):
        out = np.flatnonzero((drawn <= lower) | (drawn > upper))
        if not out.size:
            return drawn
        own = {name: values[out] for name, values in shapes.items()}
        drawn[out] = family.draw(rng, eta[out], **own)
    out = np.flatnonzero((drawn <= lower) | (drawn > upper))
    own = {name: values[out] for name, values in shapes.items()}
    p = rng.random(out.size)
    drawn[out] = window_quantile(family, p, lower[out], upper[out], eta[out], own)
    return drawn
