"""Roots, peaks and sets of highest values of functions of one variable, many at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import numpy as np

from mixexperts._batch import Array

_EPS = float(np.finfo(float).eps)
_MAX_STEPS = 512  # of a root; every eighth halves the bracket if the others did not

#: A function of row numbers (c,) and places (c,), with values (c,).
Kernel: TypeAlias = Callable[[Array, Array], Array]
#: What :func:`solve` asks of a problem.
Probe: TypeAlias = Callable[[Array, Array], tuple[Array, Array, Array]]


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of ``range(n)`` of at most ``size``."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def grid(kernel: Kernel, rows: Array, value: Array, size: int) -> Array:
    """A kernel at values (r, m) of r rows, ``size`` of them at a time."""
    cell, flat = np.repeat(rows, value.shape[1]), value.ravel()
    result = np.empty(flat.size)
    for part in blocks(flat.size, size):
        result[part] = kernel(cell[part], flat[part])
    return result.reshape(value.shape)


def solve(probe: Probe, lo: Array, hi: Array, x: Array) -> Array:
    """Roots between lo and hi from x, by Newton's steps in a bracket that bisection halves.

    ``probe(index, x)`` tells of some cells, by number, whether x is below the root, whether it
    equals the root to rounding, and Newton's step. The answer is never below the root.
    """
    below, equal, _ = probe(np.arange(lo.size), lo)
    lo, hi, x = lo.copy(), np.where(below & ~equal, hi, lo), x.copy()
    with np.errstate(invalid="ignore"):  # infinite ends of the support are roots already
        last, checked = hi - lo, hi - lo
    for count in range(_MAX_STEPS):
        with np.errstate(invalid="ignore"):
            todo = np.flatnonzero(hi - lo > np.spacing(np.maximum(np.abs(lo), np.abs(hi))))
        if todo.size == 0:
            break
        at = x[todo]
        below, equal, step = probe(todo, at)
        lo[todo] = left = np.where(below | equal, at, lo[todo])
        hi[todo] = right = np.where(below & ~equal, hi[todo], at)
        # A step below the resolution is widened, to put the root between neighbours.
        step = np.copysign(np.maximum(np.abs(step), 2.0 * _EPS * np.abs(at)), step)
        trust = (at + step > left) & (at + step < right) & (np.abs(step) < 0.5 * last[todo])
        if count % 8 == 7:
            trust &= right - left <= 0.5 * checked[todo]
            checked[todo] = right - left
        x[todo] = np.where(trust, at + step, 0.5 * left + 0.5 * right)
        last[todo] = np.abs(x[todo] - at)
    return hi


def golden(function: Callable[[Array], Array], sign: Array, lo: Array, hi: Array) -> Array:
    """Points between lo and hi where ``sign * function``, with one peak there, is greatest."""
    ratio = 0.5 * (math.sqrt(5.0) - 1.0)
    left, right = hi - ratio * (hi - lo), lo + ratio * (hi - lo)
    f_left, f_right = sign * function(left), sign * function(right)
    for _ in range(40):
        first = f_left > f_right
        lo, hi = np.where(first, lo, left), np.where(first, right, hi)
        new = np.where(first, hi - ratio * (hi - lo), lo + ratio * (hi - lo))
        f_new = sign * function(new)
        left, right = np.where(first, new, right), np.where(first, left, new)
        f_left, f_right = np.where(first, f_new, f_right), np.where(first, f_left, f_new)
    return np.where(f_left > f_right, left, right)


def reach(bound: Array, mass: Array, confidence: float) -> Array:
    """Bound of the cell at which the cells, taken from the greatest bound down, hold enough."""
    order = np.argsort(-bound, axis=1)
    total = np.cumsum(np.take_along_axis(mass, order, axis=1), axis=1)
    last = np.minimum((total < confidence).sum(axis=1, keepdims=True), bound.shape[1] - 1)
    return np.take_along_axis(bound, np.take_along_axis(order, last, axis=1), axis=1)[:, 0]


def with_turns(kernel: Kernel, rows: Array, x: Array, f: Array) -> Array:
    """Ascending points (r, m) whose values are f, each peak or valley among them made exact."""
    left, mid, right = f[:, :-2], f[:, 1:-1], f[:, 2:]
    peak = (mid >= left) & (mid > right)
    row, col = np.nonzero(peak | ((mid <= left) & (mid < right)))
    sign, function = np.where(peak[row, col], 1.0, -1.0), partial(kernel, rows[row])
    x = x.copy()
    x[row, col + 1] = golden(function, sign, x[row, col], x[row, col + 2])
    x.sort(axis=1)
    return x


def _slope(kernel: Kernel, rows: Array, x: Array, h: Array) -> Array:
    """Derivative of a kernel by a central difference."""
    with np.errstate(all="ignore"):
        rise = kernel(rows, x + h) - kernel(rows, x - h)
        return rise / (2.0 * h)


def _edges(
    kernel: Kernel, rows: Array, x: Array, f: Array, level: Array
) -> tuple[Array, Array, Array, Array]:
    """Ends of the sets above a level: row, +1 if upper and -1 if lower, place, mobility."""
    above = np.pad(f >= level[:, None], ((0, 0), (1, 1)))
    row, col = np.nonzero(above[:, 1:] != above[:, :-1])
    sign, cell, want = np.where(above[row, col], 1.0, -1.0), rows[row], level[row]
    lo, hi = x[row, np.maximum(col - 1, 0)], x[row, np.minimum(col, x.shape[1] - 1)]
    h = 1e-4 * (hi - lo)

    def probe(i: Array, u: Array) -> tuple[Array, Array, Array]:
        excess = kernel(cell[i], u) - want[i]
        with np.errstate(all="ignore"):
            step = -excess / _slope(kernel, cell[i], u, h[i])
        return sign[i] * excess > 0.0, np.abs(excess) <= 4 * _EPS * (1 + np.abs(want[i])), step

    edge = solve(probe, lo, hi, 0.5 * (lo + hi))
    slope = np.abs(_slope(kernel, cell, edge, h))
    return row, sign, edge, np.divide(1.0, slope, out=np.zeros(slope.size), where=slope > 0.0)


def highest(
    log_density: Kernel,
    cdf: Kernel,
    rows: Array,
    x: Array,
    log_f: Array,
    part: Array,
    confidence: float,
) -> tuple[Array, Array, Array]:
    """Sets of highest density that hold a mass, of r rows.

    ``x`` (r, m) are points from :func:`with_turns`, ``log_f`` (r, m) their log densities and
    ``part`` (r, m - 1) the masses between them. Given are the places of the ends, a lower and
    an upper one in turn, with the number of their row among the r, and the masses held (r,).
    """
    hi = reach(np.maximum(log_f[:, 1:], log_f[:, :-1]), part, confidence)
    lo = reach(np.minimum(log_f[:, 1:], log_f[:, :-1]), part, confidence)
    lo = np.maximum(lo, hi - 800.0)  # what lies lower still has no mass in floats

    def probe(i: Array, level: Array) -> tuple[Array, Array, Array]:
        row, sign, edge, mobility = _edges(log_density, rows[i], x[i], log_f[i], level)
        excess = np.bincount(row, sign * cdf(rows[i][row], edge), i.size) - confidence
        with np.errstate(all="ignore"):
            step = excess / (np.bincount(row, mobility, i.size) * np.exp(level))
        return excess > 0.0, np.abs(excess) <= 1e-13, step

    level = solve(probe, lo, hi, 0.5 * (lo + hi))
    row, sign, edge, _ = _edges(log_density, rows, x, log_f, level)
    return row, edge, np.bincount(row, sign * cdf(rows[row], edge), rows.size)
