"""Penalties that set coefficients of the experts and of the gate to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mixexperts._batch import Array
from mixexperts.penalties import _blocks, _given, _shapes
from mixexperts.penalties._gauge import best_shift

Room = Literal["expert", "gate"]

KINDS = ("lasso", "mcp", "scad", "group")
GATE_CODINGS = ("symmetric", "reference")
_CONCAVITY = {"mcp": 3.0, "scad": 3.7}
_LEAST_CONCAVITY = {"mcp": 1.0, "scad": 2.0}


@dataclass(frozen=True, eq=False)
class SparsePenalty:
    """Penalty on the slopes of the experts, ``coef`` (K, L, p), and of the gate, (K, p).

    All values are per unit of weight: the objective is ``log-likelihood / W - penalty`` with
    ``W`` the sum of the weights. One coefficient ``b`` of the experts adds

    - lasso: ``alpha * w * (l1_ratio * |b| + (1 - l1_ratio) / 2 * b^2)``;
    - mcp, scad: the concave penalty of level ``alpha * w * l1_ratio`` in place of the absolute
      value, the ridge as above. Both start with the slope of the lasso and become flat: MCP at
      ``concavity`` times the level, its slope falling from zero on; SCAD there too, its slope
      falling from the level on;

    and one of the gate likewise with ``gate_alpha`` and its own weights. For "group", a block
    holds all coefficients of its columns, of experts, classes and gate, and adds
    ``l1_ratio * sqrt(columns) * sqrt(|alpha w coef|^2 + |gate_alpha v gate_coef|^2)``, and the
    ridge as above. The number of columns, not that of coefficients, is under the root, so that
    ``alpha`` means the same for any number of experts where each column is its own group.

    Parameters
    ----------
    alpha, gate_alpha : float
        Strength for experts and gate, finite and not negative.
    l1_ratio : float, default=1.0
        Share of the sparse part, in [0, 1]; the rest is ridge.
    kind : {"lasso", "mcp", "scad", "group"}, default="lasso"
    concavity : float, optional
        Constant of MCP (above 1, default 3) and SCAD (above 2, default 3.7); the larger, the
        nearer to the lasso.
    weights : array-like of shape (p,) or (K, L, p), optional
        Factors of ``alpha``, by default 1; 0 leaves a coefficient free, infinity holds it at zero.
    gate_weights : array-like of shape (p,) or (K, p), optional
        The same for the gate.
    groups : array-like of int of shape (p,), optional
        Columns with one label form one group; by default each column does. For "group" alone.
    gate_coding : {"symmetric", "reference"}, default="symmetric"
        Whether all rows of the gate are penalised, or the last one is held at zero.
    by_scale : bool, default=False
        Whether the experts' coefficients are divided by the experts' scales before the penalty
        sees them; for the caller to do.

    Raises
    ------
    ValueError
        If a number is outside its range, a weight is negative or NaN, or options contradict.
    TypeError
        If a number is none.
    """

    alpha: float
    gate_alpha: float
    l1_ratio: float = 1.0
    kind: Literal["lasso", "mcp", "scad", "group"] = "lasso"
    concavity: float | None = None
    weights: Array | None = None
    gate_weights: Array | None = None
    groups: Array | None = None
    gate_coding: Literal["symmetric", "reference"] = "symmetric"
    by_scale: bool = False

    def __post_init__(self) -> None:
        for name in ("alpha", "gate_alpha"):
            number = _given.real(getattr(self, name), name)
            if not (math.isfinite(number) and number >= 0.0):
                raise ValueError(f"{name} must be a finite number >= 0, got {number!r}")
            object.__setattr__(self, name, number)
        ratio = _given.real(self.l1_ratio, "l1_ratio")
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(
                f"l1_ratio must lie in [0, 1], got {ratio!r}; 1 is the lasso, 0 is ridge"
            )
        object.__setattr__(self, "l1_ratio", ratio)
        _given.one_of(self.kind, KINDS, "kind")
        _given.one_of(self.gate_coding, GATE_CODINGS, "gate_coding")
        object.__setattr__(self, "concavity", self._checked_concavity())
        shapes = (1,) if self.kind == "group" else (1, 3)
        object.__setattr__(self, "weights", _given.factors(self.weights, "weights", shapes))
        shapes = (1,) if self.kind == "group" else (1, 2)
        object.__setattr__(
            self, "gate_weights", _given.factors(self.gate_weights, "gate_weights", shapes)
        )
        if self.groups is not None:
            if self.kind != "group":
                raise ValueError(
                    f'groups is for kind="group", got kind={self.kind!r}; leave it None'
                )
            object.__setattr__(self, "groups", _given.labels(self.groups))

    def _checked_concavity(self) -> float | None:
        if self.kind not in _CONCAVITY:
            if self.concavity is not None:
                raise ValueError(
                    f'concavity is for kind="mcp" and "scad", got concavity={self.concavity!r} '
                    f"with kind={self.kind!r}; leave it None"
                )
            return None
        if self.concavity is None:
            return _CONCAVITY[self.kind]
        number, least = _given.real(self.concavity, "concavity"), _LEAST_CONCAVITY[self.kind]
        if not (math.isfinite(number) and number > least):
            raise ValueError(
                f"concavity must be a finite number > {least:g} for {self.kind}, got {number!r}; "
                f"the usual one is {_CONCAVITY[self.kind]:g}"
            )
        return number

    @property
    def is_convex(self) -> bool:
        """Whether the penalty is convex in the coefficients."""
        return self.kind not in _shapes.CONCAVE

    @property
    def is_null(self) -> bool:
        """Whether the penalty is zero everywhere, no coefficient being held at zero."""
        held = any(w is not None and np.isinf(w).any() for w in (self.weights, self.gate_weights))
        return self.alpha == 0.0 and self.gate_alpha == 0.0 and not held

    def scaled(self, factor: float) -> SparsePenalty:
        """The penalty with ``alpha`` and ``gate_alpha`` times ``factor``."""
        return replace(self, alpha=self.alpha * factor, gate_alpha=self.gate_alpha * factor)

    def _factor(self, room: Room, shape: tuple[int, ...]) -> Array:
        """``alpha`` times the weights, infinite where a coefficient is held, of shape ``shape``."""
        _given.one_of(room, ("expert", "gate"), "room")
        if len(shape) != (3 if room == "expert" else 2):
            wanted = "(K, L, p)" if room == "expert" else "(K, p)"
            raise ValueError(f"coefficients of the {room} must have shape {wanted}, got {shape}")
        alpha = self.alpha if room == "expert" else self.gate_alpha
        weights = self.weights if room == "expert" else self.gate_weights
        if weights is None:
            factor = np.full(shape, alpha)
        else:
            if weights.shape[-1] != shape[-1] or (weights.ndim > 1 and weights.shape != shape):
                name = "weights" if room == "expert" else "gate_weights"
                raise ValueError(
                    f"{name} has shape {weights.shape} for coefficients of shape {shape}; give "
                    "one weight per column, or per coefficient"
                )
            finite = np.where(np.isinf(weights), 0.0, weights)
            factor = np.where(np.isinf(weights), np.inf, alpha * finite)
            factor = np.array(np.broadcast_to(factor, shape))
        if room == "gate" and self.gate_coding == "reference":
            factor[-1] = np.inf
        return factor

    def _level(self, room: Room, shape: tuple[int, ...]) -> Array:
        factor = self._factor(room, shape)
        held = np.isinf(factor)
        factor[held] = 0.0
        factor *= self.l1_ratio
        factor[held] = np.inf
        return factor

    def _ridge(self, room: Room, shape: tuple[int, ...]) -> Array:
        factor = self._factor(room, shape)
        factor[np.isinf(factor)] = 0.0
        factor *= 1.0 - self.l1_ratio
        return factor

    @property
    def _bend(self) -> float:
        return math.inf if self.concavity is None else self.concavity

    def _labels_of(self, p: int) -> Array:
        if self.groups is None:
            return np.arange(p)
        if len(self.groups) != p:
            raise ValueError(f"groups has {len(self.groups)} labels for {p} columns; give one each")
        return self.groups

    def blocks(self, coef: Array, gate_coef: Array) -> _blocks.Blocks:
        """Both rooms as one matrix with the columns last, and the norms of its groups.

        Parameters
        ----------
        coef : ndarray of shape (K, L, p)
        gate_coef : ndarray of shape (K, p)
            Their shapes alone count.

        Returns
        -------
        Blocks
        """
        return _blocks.Blocks.of(
            self._labels_of(coef.shape[-1]),
            self._factor("expert", coef.shape),
            self._factor("gate", gate_coef.shape),
            self.l1_ratio,
        )

    def _no_group(self, method: str) -> None:
        if self.kind == "group":
            raise ValueError(
                f"{method} goes coefficient by coefficient, a group does not; use prox_group"
            )

    def value(self, coef: Array, gate_coef: Array) -> float:
        """Penalty per unit of weight; infinite where a held coefficient is not zero.

        Parameters
        ----------
        coef : ndarray of shape (K, L, p)
        gate_coef : ndarray of shape (K, p)

        Returns
        -------
        float
        """
        coef, gate_coef = np.asarray(coef, dtype=float), np.asarray(gate_coef, dtype=float)
        total = 0.0
        if self.kind == "group":
            blocks = self.blocks(coef, gate_coef)
            total = blocks.value(blocks.join(coef, gate_coef))
        rooms: tuple[tuple[Room, Array], ...] = (("expert", coef), ("gate", gate_coef))
        for room, b in rooms:
            total += 0.5 * float(np.sum(self._ridge(room, b.shape) * b**2))
            if self.kind != "group":
                level = self._level(room, b.shape)
                total += float(np.sum(_shapes.value(self.kind, self._bend, level, np.abs(b))))
        return total

    def l1(self, abs_coef: Array, room: Room) -> Array:
        """Slope of the penalty in the absolute coefficients, the ridge left out.

        It is what a weighted lasso has to use as the penalty of each coefficient: constant for
        the lasso; for MCP and SCAD the local linear approximation, which lies above the penalty.

        Parameters
        ----------
        abs_coef : ndarray of shape (K, L, p) or (K, p)
            Absolute values of coefficients.
        room : {"expert", "gate"}

        Returns
        -------
        ndarray of the shape of ``abs_coef``
            Infinite where a coefficient is held at zero.

        Raises
        ------
        ValueError
            If the penalty is that of groups.
        """
        self._no_group("l1")
        size = np.asarray(abs_coef, dtype=float)
        return _shapes.slope(self.kind, self._bend, self._level(room, size.shape), size)

    def ridge(self, room: Room) -> Array:
        """Curvature of the ridge, of shape () or that of the room's weights; 0 for held ones."""
        _given.one_of(room, ("expert", "gate"), "room")
        alpha = self.alpha if room == "expert" else self.gate_alpha
        weights = self.weights if room == "expert" else self.gate_weights
        factor = np.ones(()) if weights is None else np.where(np.isinf(weights), 0.0, weights)
        return np.asarray((1.0 - self.l1_ratio) * alpha * factor)

    def curvature(self, abs_coef: Array, room: Room) -> Array:
        """Second derivative at coefficients that are not zero, the ridge left out: 0 or negative.

        Raises
        ------
        ValueError
            If the penalty is that of groups.
        """
        self._no_group("curvature")
        size = np.asarray(abs_coef, dtype=float)
        return _shapes.curvature(self.kind, self._bend, self._level(room, size.shape), size)

    def prox(self, u: Array, step: Array | float, room: Room) -> Array:
        """Minimiser in b of ``(b - u)^2 / (2 step) + penalty(b)``, for each coefficient.

        It is the global one for every step, in closed form; the smaller one where two tie.

        Parameters
        ----------
        u : ndarray of shape (K, L, p) or (K, p)
        step : float or ndarray that broadcasts to the shape of ``u``
            Inverse curvature, positive.
        room : {"expert", "gate"}

        Returns
        -------
        ndarray of the shape of ``u``

        Raises
        ------
        ValueError
            If the penalty is that of groups.
        """
        self._no_group("prox")
        u = np.asarray(u, dtype=float)
        level, ridge = self._level(room, u.shape), self._ridge(room, u.shape)
        step = np.broadcast_to(np.asarray(step, dtype=float), u.shape)
        return _shapes.prox(self.kind, self._bend, level, ridge, u, step)

    def prox_group(
        self,
        coef: Array,
        gate_coef: Array,
        step: Array | float = 1.0,
        gate_step: Array | float = 1.0,
    ) -> tuple[Array, Array]:
        """Minimiser of the distance to both rooms' coefficients plus the penalty of groups.

        The distance is ``(b - u)^2 / (2 step)``, summed over the coefficients. The rooms are
        moved together: a block at zero may be the best for each of them and not for both.

        Parameters
        ----------
        coef : ndarray of shape (K, L, p)
        gate_coef : ndarray of shape (K, p)
        step, gate_step : float or ndarray that broadcasts to the coefficients
            Inverse curvatures, positive.

        Returns
        -------
        coef, gate_coef : ndarray
            Of the shapes given.

        Raises
        ------
        ValueError
            If the penalty is not that of groups.
        """
        if self.kind != "group":
            raise ValueError(f'prox_group is for kind="group", got kind={self.kind!r}; use prox')
        coef, gate_coef = np.asarray(coef, dtype=float), np.asarray(gate_coef, dtype=float)
        blocks = self.blocks(coef, gate_coef)
        metric = blocks.join(
            1.0 / np.broadcast_to(np.asarray(step, dtype=float), coef.shape),
            1.0 / np.broadcast_to(np.asarray(gate_step, dtype=float), gate_coef.shape),
        )
        ridge = blocks.join(self._ridge("expert", coef.shape), self._ridge("gate", gate_coef.shape))
        moved = blocks.prox(blocks.join(coef, gate_coef), metric, ridge)
        return blocks.split(moved, coef.shape)

    def subgradient_distance(
        self, gradient: Array, coef: Array, gate_gradient: Array, gate_coef: Array
    ) -> tuple[Array, Array]:
        """Distance of the log-likelihood's gradient from the subdifferential of the penalty.

        Where all distances are zero, the point is stationary: the conditions of Karush, Kuhn and
        Tucker hold. A coefficient held at zero has distance 0, and an infinite one if it is not
        zero. For groups, each coefficient shows the distance of its whole block (Euclidean).

        Parameters
        ----------
        gradient : ndarray of shape (K, L, p)
            Gradient of the log-likelihood per unit of weight in ``coef``.
        coef : ndarray of shape (K, L, p)
        gate_gradient, gate_coef : ndarray of shape (K, p)

        Returns
        -------
        distance : ndarray of shape (K, L, p)
        gate_distance : ndarray of shape (K, p)
        """
        coef, gate_coef = np.asarray(coef, dtype=float), np.asarray(gate_coef, dtype=float)
        rest = np.asarray(gradient, dtype=float) - self._ridge("expert", coef.shape) * coef
        gate_rest = np.asarray(gate_gradient, dtype=float)
        gate_rest = gate_rest - self._ridge("gate", gate_coef.shape) * gate_coef
        if self.kind == "group":
            blocks = self.blocks(coef, gate_coef)
            distance = blocks.distance(blocks.join(rest, gate_rest), blocks.join(coef, gate_coef))
            return blocks.split(distance, coef.shape)
        return self._distance("expert", rest, coef), self._distance("gate", gate_rest, gate_coef)

    def _distance(self, room: Room, rest: Array, coef: Array) -> Array:
        level = self._level(room, coef.shape)
        slope = _shapes.slope(self.kind, self._bend, level, np.abs(coef))
        at_zero = np.maximum(np.abs(rest) - level, 0.0)
        away: Array = np.abs(rest - np.sign(coef) * np.where(coef == 0.0, 0.0, slope))
        return np.where(coef == 0.0, at_zero, away)

    def zero_factor(self, gradient: Array, gate_gradient: Array) -> float:
        """Smallest factor of the penalty at which all slopes zero is stationary.

        With it, ``penalty.scaled(factor)`` is the strongest penalty worth trying. Free
        coefficients are left out; it is infinite if an ``alpha`` of 0 meets a gradient.

        Parameters
        ----------
        gradient : ndarray of shape (K, L, p)
            Gradient of the log-likelihood per unit of weight where all slopes are zero.
        gate_gradient : ndarray of shape (K, p)

        Returns
        -------
        float
        """
        gradient = np.asarray(gradient, dtype=float)
        gate_gradient = np.asarray(gate_gradient, dtype=float)
        unit = replace(self, alpha=1.0, gate_alpha=1.0)
        free = unit._factor("expert", gradient.shape) == 0.0
        gate_free = unit._factor("gate", gate_gradient.shape) == 0.0
        gradient = np.where(free, 0.0, np.abs(gradient))
        gate_gradient = np.where(gate_free, 0.0, np.abs(gate_gradient))
        if self.kind == "group":
            blocks = self.blocks(gradient, gate_gradient)
            return blocks.dual_norm(blocks.join(gradient, gate_gradient))
        largest = 0.0
        rooms: tuple[tuple[Room, Array], ...] = (("expert", gradient), ("gate", gate_gradient))
        for room, g in rooms:
            level = self._level(room, g.shape)
            ratio = np.divide(g, level, out=np.full(g.shape, np.inf), where=level > 0.0)
            largest = max(largest, float(np.max(np.where(g == 0.0, 0.0, ratio), initial=0.0)))
        return largest

    def centred(self, coef: Array, room: Room = "gate") -> Array:
        """Rows of a softmax shifted, column by column, to those of the smallest penalty.

        A softmax knows its rows up to a common shift of each column. For the lasso this is the
        shift by the mean, clipped to the two middle rows: the least sum of squares among the
        least absolute sums. In the coding by reference the last row becomes zero.

        Parameters
        ----------
        coef : ndarray of shape (K, p) for the gate, (K, L, p) for experts
            Classes of an expert are its rows; experts with L = 1 have nothing to shift.
        room : {"expert", "gate"}, default="gate"

        Returns
        -------
        ndarray of the shape of ``coef``
        """
        coef = np.asarray(coef, dtype=float)
        level, ridge = self._level(room, coef.shape), self._ridge(room, coef.shape)
        if room == "expert" and coef.shape[1] == 1:
            return coef.copy()
        if self.kind == "group":
            # The norm of a block grows with the sum of squares, whatever else the block holds.
            ridge = np.where(np.isinf(level), 0.0, 1.0)
            level = np.where(np.isinf(level), np.inf, 0.0)
        kind = "lasso" if self.kind == "group" else self.kind
        if room == "gate":
            return coef - best_shift(coef, kind, self._bend, level, ridge)
        n_classes = coef.shape[1]
        classes = [np.moveaxis(a, 1, 0).reshape(n_classes, -1) for a in (coef, level, ridge)]
        shift = best_shift(classes[0], kind, self._bend, classes[1], classes[2])
        centred: Array = coef - shift.reshape(len(coef), 1, -1)
        return centred

    def n_free(self, coef: Array, gate_coef: Array) -> int:
        """Number of slopes that are not zero, counted up to the shift of each softmax.

        A column of the gate counts ``min(non-zeros, K - 1)``; a column of an expert with
        ``L > 1`` classes ``min(non-zeros, L - 1)``.

        Parameters
        ----------
        coef : ndarray of shape (K, L, p)
        gate_coef : ndarray of shape (K, p)

        Returns
        -------
        int
        """
        found = np.count_nonzero(coef, axis=1)
        if coef.shape[1] > 1:
            found = np.minimum(found, coef.shape[1] - 1)
        gate = np.minimum(np.count_nonzero(gate_coef, axis=0), gate_coef.shape[0] - 1)
        return int(found.sum() + gate.sum())
