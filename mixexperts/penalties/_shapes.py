"""Penalties of one coefficient: lasso, MCP and SCAD, each with a ridge beside it.

Everywhere ``level`` is the slope at zero, ``ridge`` the curvature of the ridge and ``concavity``
the constant of MCP and SCAD. An infinite level holds a coefficient at zero.
"""

from __future__ import annotations

import numpy as np

from mixexperts._batch import Array

CONCAVE = ("mcp", "scad")


def times(factor: Array, other: Array) -> Array:
    """``factor * other``, where an infinite factor of zero is zero."""
    shape = np.broadcast_shapes(factor.shape, other.shape)
    product: Array = np.multiply(factor, other, out=np.zeros(shape), where=other != 0)
    return product


def value(kind: str, concavity: float, level: Array, size: Array) -> Array:
    """Penalty at coefficients of absolute value ``size``, without the ridge."""
    linear = times(level, size)
    if kind == "mcp":
        return np.where(
            size <= concavity * level,
            linear - size**2 / (2.0 * concavity),
            0.5 * concavity * times(level, level),
        )
    if kind == "scad":
        # An infinite level ends in the first branch; the others must not warn about it.
        finite = np.where(np.isfinite(level), level, 0.0)
        middle = (2.0 * concavity * finite * size - size**2 - finite**2) / (2.0 * (concavity - 1.0))
        flat = 0.5 * (concavity + 1.0) * finite**2
        return np.where(size <= level, linear, np.where(size <= concavity * level, middle, flat))
    return linear


def slope(kind: str, concavity: float, level: Array, size: Array) -> Array:
    """Derivative in the absolute value ``size``, from the right at zero, without the ridge."""
    if kind == "mcp":
        return np.maximum(level - size / concavity, 0.0)
    if kind == "scad":
        falling = np.maximum(concavity * level - size, 0.0) / (concavity - 1.0)
        return np.where(size <= level, level, falling)
    return np.broadcast_to(level, np.broadcast_shapes(level.shape, size.shape)).copy()


def curvature(kind: str, concavity: float, level: Array, size: Array) -> Array:
    """Second derivative at coefficients that are not zero, without the ridge."""
    if kind == "mcp":
        return np.where(size < concavity * level, -1.0 / concavity, 0.0)
    if kind == "scad":
        inside = (size > level) & (size < concavity * level)
        return np.where(inside, -1.0 / (concavity - 1.0), 0.0)
    return np.zeros(np.broadcast_shapes(level.shape, size.shape))


def soft(u: Array, threshold: Array) -> Array:
    """``u`` moved towards zero by ``threshold``, and no further than zero."""
    moved: Array = np.sign(u) * np.maximum(np.abs(u) - threshold, 0.0)
    return moved


def prox(kind: str, concavity: float, level: Array, ridge: Array, u: Array, step: Array) -> Array:
    """Minimiser in b of ``(b - u)^2 / (2 step) + ridge b^2 / 2 + penalty(|b|)``.

    The minimum is the global one for any step. Where two minimisers tie, the smaller is returned.
    """
    # The ridge is a part of the quadratic: a shorter step from a point nearer to zero.
    shrink = 1.0 + step * ridge
    u, step = u / shrink, step / shrink
    near = soft(u, times(level, step))
    if kind not in CONCAVE:
        return near
    size = np.abs(u)
    free = size > concavity * level
    if kind == "mcp":
        # Up to the flat part the objective is convex for short steps, concave for long ones.
        bend = 1.0 - step / concavity
        firm = near / np.where(bend > 0.0, bend, 1.0)
        hard = np.where(size > level * np.sqrt(concavity * step), u, 0.0)
        return np.where(bend > 0.0, np.where(free, u, firm), hard)
    bend = 1.0 - step / (concavity - 1.0)
    finite = np.where(np.isfinite(level), level, 0.0)
    middle = soft(u, concavity * finite * step / (concavity - 1.0))
    middle /= np.where(bend > 0.0, bend, 1.0)
    firm = np.where(free, u, np.where(size <= level * (1.0 + step), near, middle))
    # A long step makes the middle part concave: its ends are left, compared by their objective.
    near = np.where(np.abs(near) <= level, near, np.sign(u) * finite)
    at_near = (near - u) ** 2 / (2.0 * step) + value(kind, concavity, level, np.abs(near))
    at_free = value(kind, concavity, level, size)
    jump = np.where(free & (at_free < at_near), u, near)
    return np.where(bend > 0.0, firm, jump)
