"""A penalised mixture of experts as an objective: points, gradients, optimality."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse.family import Family, GaussianFamily, Shapes, Terms, family_of
from mixexperts.em.sparse.pull import Pull
from mixexperts.em.sparse.rows import SparseParams, SparseRows
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts.base import Expert
from mixexperts.penalties.sparse import SparsePenalty


@dataclass(frozen=True, slots=True)
class Point:
    """Parameters on some columns, and what the rows say of them.

    Attributes
    ----------
    params : SparseParams
        With q columns.
    eta : ndarray of shape (K L, n)
        Predictors of the experts, without the offset.
    score : ndarray of shape (K, n)
        Logits of the gate; a common shift of a row means nothing.
    terms : Terms
    resp, prob : ndarray of shape (K, n)
        Responsibilities and weights of the gate.
    log_likelihood, objective : float
        Sums over rows; the objective is less the penalty.
    """

    params: SparseParams
    eta: Array
    score: Array
    terms: Terms
    resp: Array
    prob: Array
    log_likelihood: float
    objective: float

    @property
    def ok(self) -> bool:
        """Whether the objective is a number."""
        return bool(np.isfinite(self.objective))


@dataclass(frozen=True)
class Slopes:
    """Gradients of the log-likelihood, sums over rows.

    Attributes
    ----------
    coef : ndarray of shape (K, L, q)
    gate_coef : ndarray of shape (K, q)
    intercept : ndarray of shape (K, L)
    gate_intercept : ndarray of shape (K,)
    """

    coef: Array
    gate_coef: Array
    intercept: Array
    gate_intercept: Array


class Problem:
    """The objective on a set of columns.

    Parameters
    ----------
    family : Family
    rows : SparseRows
        All rows; their columns are those that ``columns`` numbers.
    n_experts : int
    penalty : SparsePenalty
        Per unit of weight, for these columns.
    XT : ndarray of shape (q, n)
        The columns as rows.
    """

    def __init__(
        self, family: Family, rows: SparseRows, n_experts: int, penalty: SparsePenalty, XT: Array
    ) -> None:
        self.family = family
        self.rows = rows
        self.n_experts = n_experts
        self.penalty = penalty
        self.XT = XT
        self.total = rows.total
        self.masks = rows.expert_mask, rows.gate_mask
        self.pull = Pull(penalty, self.total, self.masks)
        #: Rows of gate coefficients that are free: all, or all but the reference.
        self.gate_rows = n_experts - (penalty.gate_coding == "reference" or n_experts == 1)

    @classmethod
    def of(
        cls, expert: Expert, rows: SparseRows, n_experts: int, penalty: SparsePenalty
    ) -> Problem:
        """The problem on all columns of some rows."""
        family = family_of(expert, 1 if rows.y.ndim == 1 else rows.y.shape[1])
        if penalty.by_scale and not isinstance(family, GaussianFamily):
            raise UnsupportedCombinationError(
                f"a penalty by scale is for Gaussian experts, got {expert.name!r}; use "
                "by_scale=False"
            )
        return cls(family, rows, n_experts, penalty, rows.columns)

    def with_penalty(self, penalty: SparsePenalty) -> Problem:
        """The same rows under another penalty."""
        return Problem(self.family, self.rows, self.n_experts, penalty, self.XT)

    def restricted(self, columns: Array) -> Problem:
        """The problem on some of the columns, by number."""
        masks = [None if mask is None else mask[columns] for mask in self.masks]
        rows = replace(self.rows, expert_mask=masks[0], gate_mask=masks[1])
        penalty = _restricted(self.penalty, columns)
        part = Problem(self.family, rows, self.n_experts, penalty, self.XT[columns])
        part.total = part.pull.total = self.total
        return part

    # --- points ------------------------------------------------------------------------------

    def predictors(self, params: SparseParams) -> tuple[Array, Array]:
        """Predictors (K L, n) of the experts and logits (K, n) of the gate."""
        K, L, q = params.coef.shape
        coef = params.coef.reshape(K * L, q)
        used = np.flatnonzero((coef != 0.0).any(axis=0) | (params.gate_coef != 0.0).any(axis=0))
        XT = self.XT if len(used) == q else self.XT[used]
        eta = coef[:, used] @ XT + params.intercept.reshape(-1, 1)
        score = params.gate_coef[:, used] @ XT + params.gate_intercept[:, None]
        return eta, score

    def at(self, params: SparseParams) -> Point:
        """The point of some parameters."""
        return self.evaluate(params, *self.predictors(params))

    def evaluate(self, params: SparseParams, eta: Array, score: Array) -> Point:
        """The point of parameters whose predictors are known."""
        from mixexperts.kernels import numba_descent

        terms = self.terms(eta, params.shapes)
        resp, prob = np.empty(score.shape), np.empty(score.shape)
        log_likelihood = numba_descent.softmax_rows()(
            np.ascontiguousarray(terms.log_f), score, self.rows.weight, resp, prob
        )
        objective = log_likelihood - self.pull.value(params)
        return Point(params, eta, score, terms, resp, prob, log_likelihood, objective)

    def terms(self, eta: Array, shapes: Shapes) -> Terms:
        """Terms of the rows at predictors without the offset."""
        with np.errstate(all="ignore"):  # what is no number shows in the objective
            return self.family.terms(self.rows.y, self.shifted(eta), shapes)

    def shifted(self, eta: Array) -> Array:
        """Predictors with the offset; of classes, that of each against the last."""
        offset, L = self.rows.offset, self.family.n_predictors
        if offset is None:
            return eta
        if L == 1:
            return eta + offset
        own = np.arange(len(eta)) % L < L - 1
        shifted: Array = eta + own[:, None] * offset
        return shifted

    # --- gradients and optimality ----------------------------------------------------------------

    def residuals(self, point: Point) -> tuple[Array, Array]:
        """Weighted slopes of rows: in the predictors (K L, n), and in the logits (K, n)."""
        L = self.family.n_predictors
        weighted = point.resp * self.rows.weight
        slope = point.terms.slope * (weighted if L == 1 else np.repeat(weighted, L, axis=0))
        return slope, weighted - point.prob * self.rows.weight

    def slopes(self, point: Point) -> Slopes:
        """Gradient of the log-likelihood at a point."""
        K, L = point.params.intercept.shape
        slope, gate = self.residuals(point)
        both = np.vstack([slope, gate]) @ self.XT.T
        return Slopes(
            both[: K * L].reshape(K, L, -1),
            both[K * L :],
            slope.sum(axis=1).reshape(K, L),
            gate.sum(axis=1),
        )

    def distances(self, point: Point, slopes: Slopes | None = None) -> tuple[Array, Array]:
        """How far each column's gradient is from the subdifferential, experts and gate, (q,)."""
        slopes = self.slopes(point) if slopes is None else slopes
        params = point.params
        expert, gate = self.pull.distances(params, slopes.coef, slopes.gate_coef)
        gate = gate[: self.gate_rows]
        for distance, mask in zip((expert, gate), self.masks, strict=True):
            if mask is not None:
                distance[..., ~mask] = 0.0
        return expert.max(axis=(0, 1), initial=0.0), gate.max(axis=0, initial=0.0)

    def free_distance(self, point: Point, slopes: Slopes) -> float:
        """The largest gradient of what is not penalised, per unit of weight."""
        largest = 0.0
        if self.family.intercept:
            largest = float(np.abs(slopes.intercept).max())
        if self.n_experts > 1:
            largest = max(largest, float(np.abs(slopes.gate_intercept).max()))
        return max(largest, float(np.abs(self.shape_slopes(point)).max(initial=0.0))) / self.total

    def shape_slopes(self, point: Point) -> Array:
        """Gradient (K, S) of the objective in the unconstrained shapes, tied ones added up."""
        names = self.family.free_shapes
        if not names:
            return np.zeros((self.n_experts, 0))
        L = self.family.n_predictors
        eta = self.shifted(point.eta)
        weighted = point.resp * self.rows.weight
        with np.errstate(all="ignore"):
            slope = self.family.slopes(self.rows.y, eta, point.params.shapes)[:, L:]
            total = np.einsum("kn,ksn->ks", weighted, slope)
            if not np.isfinite(total).all():  # a row out of reach says nothing
                seen = weighted[:, None] > 0.0
                total = np.where(seen, weighted[:, None] * slope, 0.0).sum(axis=2)
        if self.penalty.by_scale:
            total[:, names.index("scale")] += self.pull.scale_slope(point.params)
        for s, name in enumerate(names):
            if name in self.family.tied_shapes:
                total[:, s] = total[:, s].sum()
        return self._inward(point, total)

    def _inward(self, point: Point, slope: Array) -> Array:
        """Slopes that push a shape over its bound are none."""
        moved = self.family.moved_shapes(point.params.shapes, 1e-6 * np.sign(slope))
        for s, name in enumerate(self.family.free_shapes):
            slope[:, s] = np.where(moved[name] == point.params.shapes[name], 0.0, slope[:, s])
        return slope

    def curves(self, point: Point) -> tuple[Array, Array]:
        """Slopes and negated second derivatives of the family's rows at a point."""
        eta = self.shifted(point.eta)
        with np.errstate(all="ignore"):
            return self.family.curves(self.rows.y, eta, point.params.shapes)

    def violation(self, point: Point) -> float:
        """The largest distance of the gradient per unit of weight from the subdifferential."""
        slopes = self.slopes(point)
        expert, gate = self.distances(point, slopes)
        return max(
            float(expert.max(initial=0.0)),
            float(gate.max(initial=0.0)),
            self.free_distance(point, slopes),
        )

    def whole_groups(self, columns: Array) -> Array:
        """Columns (p,) bool, with those that are in a group with any of them."""
        groups = self.penalty.groups
        if self.penalty.kind != "group" or groups is None:
            return columns
        found: Array = np.isin(groups, groups[columns])
        return found

    def centred(self, params: SparseParams) -> SparseParams:
        """The same model with the common shifts of softmax rows that the penalty likes best."""
        coef, gate_coef = params.coef, params.gate_coef
        if self.family.n_predictors > 1:
            coef = self.penalty.centred(coef, "expert")
        if self.gate_rows == self.n_experts > 1:
            gate_coef = self.penalty.centred(gate_coef, "gate")
        return replace(params, coef=coef, gate_coef=gate_coef)

    # --- columns ---------------------------------------------------------------------------------

    def spread(self, params: SparseParams, columns: Array) -> SparseParams:
        """Parameters on some of the columns as parameters on all."""
        K, L, _ = params.coef.shape
        coef, gate_coef = np.zeros((K, L, len(self.XT))), np.zeros((K, len(self.XT)))
        coef[:, :, columns], gate_coef[:, columns] = params.coef, params.gate_coef
        return replace(params, coef=coef, gate_coef=gate_coef)


def _restricted(penalty: SparsePenalty, columns: Array) -> SparsePenalty:
    """The penalty of some of the columns; of groups, whole ones."""
    own = {
        name: None if values is None else values[..., columns]
        for name, values in (
            ("weights", penalty.weights),
            ("gate_weights", penalty.gate_weights),
            ("groups", penalty.groups),
        )
    }
    return replace(penalty, **own)  # type: ignore[arg-type]


def narrowed(params: SparseParams, columns: Array) -> SparseParams:
    """Parameters of some of the columns."""
    return replace(
        params,
        coef=np.ascontiguousarray(params.coef[:, :, columns]),
        gate_coef=np.ascontiguousarray(params.gate_coef[:, columns]),
    )
