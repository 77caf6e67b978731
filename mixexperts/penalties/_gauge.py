"""The shift, common to all rows of a column, that a penalty likes best.

A softmax does not change when the same number is added to a column of all its rows. The penalty
does, and at its minimum the rows are those of the smallest penalty.
"""

from __future__ import annotations

import numpy as np

from mixexperts._batch import Array
from mixexperts.penalties import _shapes

# Slopes are sums of levels: what is left after cancellation counts as zero.
_FLAT = 1e-12


def best_shift(rows: Array, kind: str, concavity: float, level: Array, ridge: Array) -> Array:
    """Shift c (m,) of the smallest penalty of ``rows - c``; ties go to the smallest squares.

    Parameters
    ----------
    rows : ndarray of shape (K, m)
    kind : {"lasso", "mcp", "scad"}
    concavity : float
    level, ridge : ndarray of shape (K, m)
        Slope at zero, and curvature of the ridge. A row with an infinite level becomes zero.

    Returns
    -------
    ndarray of shape (m,)
    """
    shift = np.zeros(rows.shape[1])
    held = np.isinf(level)
    if held.any():
        last = rows.shape[0] - 1 - np.argmax(held[::-1], axis=0)
        fixed = held.any(axis=0)
        shift[fixed] = rows[last, np.arange(rows.shape[1])][fixed]
        rest = ~fixed & rows.any(axis=0)
    else:
        rest = rows.any(axis=0)
    if rest.any():
        given = rows[:, rest], level[:, rest], ridge[:, rest]
        if kind in _shapes.CONCAVE:
            shift[rest] = _concave(kind, concavity, *given)
        else:
            shift[rest] = _convex(*given)
    return shift


def _convex(rows: Array, level: Array, ridge: Array) -> Array:
    """Where the slope of ``sum_k level_k |b_k - c| + ridge_k (b_k - c)^2 / 2`` changes its sign."""
    order = np.argsort(rows, axis=0)
    b = np.take_along_axis(rows, order, axis=0)
    l1 = np.take_along_axis(level, order, axis=0)
    total, squares = l1.sum(axis=0), ridge.sum(axis=0)
    pulled = (ridge * rows).sum(axis=0)
    below = np.cumsum(l1, axis=0)
    linear = squares * b - pulled
    after, before = 2.0 * below - total + linear, 2.0 * (below - l1) - total + linear
    slack = _FLAT * (total + np.abs(linear).max(axis=0))
    columns = np.arange(b.shape[1])
    low = np.argmax(after >= -slack, axis=0)
    high = b.shape[0] - 1 - np.argmax((before <= slack)[::-1], axis=0)
    # Between two rows: flat without a ridge, else one point where the slope is zero.
    left, right = b[np.minimum(low, high), columns], b[np.maximum(low, high), columns]
    inner = after[np.minimum(low, high), columns] - linear[np.minimum(low, high), columns]
    point = np.where(squares > 0, (pulled - inner) / np.where(squares > 0, squares, 1.0), 0.0)
    return np.clip(np.where(squares > 0, point, b.mean(axis=0)), left, right)


def _concave(kind: str, concavity: float, rows: Array, level: Array, ridge: Array) -> Array:
    """The best of all kinks and of the stationary points between them."""
    bends = [level * concavity] if kind == "mcp" else [level, level * concavity]
    kinks = np.sort(
        np.concatenate([rows, *(rows - bend for bend in bends), *(rows + bend for bend in bends)]),
        axis=0,
    )
    between = 0.5 * (kinks[1:] + kinks[:-1])
    gap = between[:, None] - rows
    size = np.abs(gap)
    rise = np.sign(gap) * _shapes.slope(kind, concavity, level, size) + ridge * gap
    curve = (_shapes.curvature(kind, concavity, level, size) + ridge).sum(axis=1)
    gain = rise.sum(axis=1)
    flat = (np.abs(curve) <= _FLAT) & (np.abs(gain) <= _FLAT * level.sum(axis=0))
    inner = between - gain / np.where(curve > _FLAT, curve, np.inf)
    inner = np.clip(np.where(flat, rows.mean(axis=0), inner), kinks[:-1], kinks[1:])
    candidates = np.concatenate([kinks, inner])
    gap = rows - candidates[:, None]
    at = _shapes.value(kind, concavity, level, np.abs(gap)) + 0.5 * ridge * gap**2
    at = at.sum(axis=1)
    best = at.min(axis=0)
    tied = at <= best + 4.0 * np.finfo(float).eps * np.maximum(at.max(axis=0), 1e-300)
    squares = np.where(tied, (gap**2).sum(axis=1), np.inf)
    chosen: Array = candidates[np.argmin(squares, axis=0), np.arange(rows.shape[1])]
    return chosen
