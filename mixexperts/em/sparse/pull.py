"""The penalty of a problem as a function of its parameters: values, thresholds, derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse.rows import SparseParams
from mixexperts.penalties.sparse import SparsePenalty


@dataclass(frozen=True, slots=True)
class Predictor:
    """One linear predictor, or shape, and the coefficients in it that are free."""

    #: "gate", "expert" or "shape"
    room: str
    expert: int
    #: Class of an expert's predictor, or number of a shape.
    part: int
    intercept: bool
    active: Array


class Pull:
    """A penalty times the sum of weights, on some columns.

    With ``penalty.by_scale`` the coefficients of an expert are divided by its scale before the
    penalty sees them (Staedler, Buehlmann and van de Geer 2010): convex penalties then cost more
    than interpolation gains however many columns there are, and do not hang on the unit of the
    response.

    Parameters
    ----------
    penalty : SparsePenalty
    total : float
        Sum W of the weights.
    masks : tuple of two ndarrays of bool of shape (q,) or None
        Columns that experts and gate may use.
    """

    def __init__(
        self, penalty: SparsePenalty, total: float, masks: tuple[Array | None, Array | None]
    ) -> None:
        self.penalty = penalty
        self.total = total
        self.masks = masks
        self._constant: tuple[Array, Array, Array, Array] | None = None

    def units(self, params: SparseParams) -> Array:
        """Factors (K, 1, 1) of the experts' coefficients before the penalty sees them."""
        if not self.penalty.by_scale:
            return np.ones((params.n_experts, 1, 1))
        unit: Array = 1.0 / params.shapes["scale"][:, None, None]
        return unit

    def seen(self, params: SparseParams) -> Array:
        """The experts' coefficients (K, L, q) as the penalty sees them."""
        seen: Array = params.coef * self.units(params)
        return seen

    def value(self, params: SparseParams) -> float:
        """The penalty."""
        coef = self.seen(params)
        if self.penalty.kind != "lasso":
            return float(self.total * self.penalty.value(coef, params.gate_coef))
        total = 0.0
        l1, gate_l1, l2, gate_l2 = self.levels(params)
        for b, first, second in ((coef, l1, l2), (params.gate_coef, gate_l1, gate_l2)):
            used = b != 0.0
            size = np.abs(b[used])
            total += float(first[used] @ size + 0.5 * (second[used] @ size**2))
        return total

    def levels(self, params: SparseParams) -> tuple[Array, Array, Array, Array]:
        """Weights of absolute values and squares of what the penalty sees, as sums.

        Of concave penalties the tangents at the parameters. Columns that a room may not use have
        a weight of infinity.

        Returns
        -------
        l1, gate_l1, l2, gate_l2 : ndarray of shape (K, L, q), (K, q), (K, L, q), (K, q)
        """
        if self._constant is not None:
            return self._constant
        found = []
        for room, coef, mask in (
            ("expert", self.seen(params), self.masks[0]),
            ("gate", params.gate_coef, self.masks[1]),
        ):
            l1 = self.total * self.penalty.l1(np.abs(coef), room)  # type: ignore[arg-type]
            l1 = np.array(np.broadcast_to(l1, coef.shape))
            if mask is not None:
                l1[..., ~mask] = math.inf
            l2 = self.total * self.penalty.ridge(room)  # type: ignore[arg-type]
            found += [l1, np.array(np.broadcast_to(l2, coef.shape))]
        levels = found[0], found[2], found[1], found[3]
        if self.penalty.kind == "lasso":  # the same at all points
            self._constant = levels
        return levels

    def thresholds(self, params: SparseParams) -> tuple[Array, Array, Array, Array]:
        """The same weights for the coefficients themselves, at the scales of the parameters."""
        l1, gate_l1, l2, gate_l2 = self.levels(params)
        if self.penalty.by_scale:
            unit = self.units(params)
            l1, l2 = l1 * unit, l2 * unit**2
        return l1, gate_l1, l2, gate_l2

    def distances(
        self, params: SparseParams, slope: Array, gate_slope: Array
    ) -> tuple[Array, Array]:
        """Distances of gradients, per unit of weight, from the subdifferential.

        Entries of columns that a room may not use mean nothing.
        """
        slope, gate_slope = slope.copy(), gate_slope.copy()
        if self.penalty.kind == "lasso":
            l1, gate_l1, l2, gate_l2 = self.thresholds(params)
            return (
                _distance(slope, params.coef, l1, l2) / self.total,
                _distance(gate_slope, params.gate_coef, gate_l1, gate_l2) / self.total,
            )
        # blocks hold columns that a room may not use: there they have no say
        for mask, part in zip(self.masks, (slope, gate_slope), strict=True):
            if mask is not None:
                part[..., ~mask] = 0.0
        unit = self.units(params)
        expert, gate = self.penalty.subgradient_distance(
            slope / unit / self.total, self.seen(params), gate_slope / self.total, params.gate_coef
        )
        return expert * unit, gate

    # --- what the penalty makes of the scales ----------------------------------------------------

    def on_scales(self, params: SparseParams) -> tuple[Array, Array] | None:
        """Weights (K,) of ``1 / scale`` and of ``1 / (2 scale^2)`` in a majorising penalty.

        None where the penalty does not depend on the scales.
        """
        if not self.penalty.by_scale:
            return None
        size = np.abs(params.coef)
        if self.penalty.kind == "group":
            scale, strength, labels = self.norms(params)
            seen = np.vstack([self.seen(params).reshape(-1, size.shape[-1]), params.gate_coef])
            weighed = np.where(np.isfinite(scale), scale, 0.0)
            square = np.bincount(labels, ((weighed * seen) ** 2).sum(axis=0), len(strength))
            norm = np.sqrt(square)
            rate = np.where(norm > 0.0, strength / np.where(norm > 0.0, norm, 1.0), 0.0)[labels]
            own = (weighed[: size.shape[0] * size.shape[1]]).reshape(size.shape)
            ridge = np.broadcast_to(self.penalty.ridge("expert"), size.shape)
            squares = ((rate * own**2 + ridge) * size**2).sum(axis=(1, 2))
            return np.zeros(len(size)), self.total * squares
        l1, _, l2, _ = self.levels(params)
        used = size > 0.0
        linear = np.where(used, np.where(used, l1, 0.0) * size, 0.0).sum(axis=(1, 2))
        return linear, (l2 * size**2).sum(axis=(1, 2))

    def scale_slope(self, params: SparseParams) -> Array:
        """Derivatives (K,) of minus the penalty in the logarithms of the scales."""
        if not self.penalty.by_scale:
            return np.zeros(params.n_experts)
        seen = self.seen(params)
        found = self.on_scales(params)
        assert found is not None
        if self.penalty.kind == "group":  # tangent: the majorising function has its slope
            scaled: Array = found[1] / params.shapes["scale"] ** 2
            return scaled
        l1, _, l2, _ = self.levels(params)
        finite = np.where(seen != 0.0, l1, 0.0)  # columns that are barred have no coefficient
        slope: Array = (finite * np.abs(seen) + l2 * seen**2).sum(axis=(1, 2))
        return slope

    # --- derivatives for Newton's steps ----------------------------------------------------------

    def derivatives(
        self, params: SparseParams, predictors: Sequence[Predictor], cuts: Array, scale_part: int
    ) -> tuple[Array, Array]:
        """Gradient and Hessian of the penalty in free parameters, signs of coefficients held.

        ``cuts`` (P + 1,) tells where the entries of each predictor are, an intercept first;
        ``scale_part`` is the number of the shape that is the scale.
        """
        K, L, _ = params.coef.shape
        gradient = np.zeros(int(cuts[-1]))
        hessian = np.zeros((len(gradient), len(gradient)))
        place, owner, row, column = [], [], [], []
        for a, p in enumerate(predictors):
            if p.room == "shape" or not len(p.active):
                continue
            m = K * L + p.expert if p.room == "gate" else p.expert * L + p.part
            place.append(np.arange(cuts[a] + p.intercept, cuts[a + 1]))
            owner.append(np.full(len(p.active), -1 if p.room == "gate" else p.expert))
            row.append(np.full(len(p.active), m))
            column.append(p.active)
        if not place:
            return gradient, hessian
        at, own, m, j = (np.concatenate(part) for part in (place, owner, row, column))
        seen = np.vstack([self.seen(params).reshape(K * L, -1), params.gate_coef])[m, j]
        first, second = self._curves(params, m, j, seen)
        unit = np.where(own >= 0, self.units(params)[own, 0, 0], 1.0)
        gradient[at] += unit * first
        hessian[np.ix_(at, at)] += unit[:, None] * second * unit
        if self.penalty.by_scale:
            scales = {
                p.expert: int(cuts[a])
                for a, p in enumerate(predictors)
                if p.room == "shape" and p.part == scale_part
            }
            moves = np.where(own == np.arange(K)[:, None], seen, 0.0)  # (K, A)
            bent = moves @ second
            pulls = moves @ first
            for k, s in scales.items():
                gradient[s] -= pulls[k]
                cross = -unit * (bent[k] + np.where(own == k, first, 0.0))
                hessian[s, at] += cross
                hessian[at, s] += cross
                for other, t in scales.items():
                    hessian[s, t] += moves[k] @ bent[other]
                hessian[s, s] += pulls[k]
        return gradient, hessian

    def _curves(self, params: SparseParams, m: Array, j: Array, seen: Array) -> tuple[Array, Array]:
        """Gradient (A,) and Hessian (A, A) in coefficients as the penalty sees them."""
        K, L, q = params.coef.shape

        def flat(expert: Array, gate: Array) -> Array:
            both = np.broadcast_to(expert, (K, L, q)).reshape(K * L, q)
            return np.vstack([both, np.broadcast_to(gate, (K, q))])[m, j]

        if self.penalty.kind == "group":
            l2 = self.total * flat(self.penalty.ridge("expert"), self.penalty.ridge("gate"))
            first, second = l2 * seen, np.diag(l2)
            scale, strength, labels = self.norms(params)
            s, group = np.where(np.isfinite(scale[m, j]), scale[m, j], 0.0), labels[j]
            for one in np.unique(group):
                mine = np.flatnonzero(group == one)
                norm = float(np.linalg.norm(s[mine] * seen[mine]))
                if norm == 0.0:
                    continue
                pull = s[mine] ** 2 * seen[mine]
                first[mine] += self.total * strength[one] * pull / norm
                bend = np.diag(s[mine] ** 2) / norm - np.outer(pull, pull) / norm**3
                second[np.ix_(mine, mine)] += self.total * strength[one] * bend
            return first, second
        l1, gate_l1, l2, gate_l2 = self.levels(params)
        slope, ridge = flat(l1, gate_l1), flat(l2, gate_l2)
        bend = self.total * flat(
            self.penalty.curvature(np.abs(self.seen(params)), "expert"),
            self.penalty.curvature(np.abs(params.gate_coef), "gate"),
        )
        return slope * np.sign(seen) + ridge * seen, np.diag(ridge + bend)

    def norms(self, params: SparseParams) -> tuple[Array, Array, Array]:
        """Factors (M, q) inside of norms, of the norms (G,), and the group of each column.

        Factors are 0 where a coefficient is free and infinite where it is held at zero. They are
        those of what the penalty sees.
        """
        blocks = self.penalty.blocks(params.coef, params.gate_coef)
        scale = np.array(blocks.scale)
        K, L, _ = params.coef.shape
        for mask, rows in zip(self.masks, (slice(0, K * L), slice(K * L, None)), strict=True):
            if mask is not None:
                scale[rows, ~mask] = np.inf
        if K == 1:
            scale[L:] = np.inf
        return scale, blocks.strength, blocks.labels


def _distance(slope: Array, coef: Array, l1: Array, l2: Array) -> Array:
    """Distances of slopes from the subdifferential of absolute values and squares."""
    rest = slope - l2 * coef
    with np.errstate(invalid="ignore"):
        away = np.abs(rest - l1 * np.sign(coef))
    found: Array = np.where(coef != 0.0, away, np.maximum(np.abs(rest) - l1, 0.0))
    return found
