"""Gates whose weights depend on the features through a few linear predictors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats, dense
from mixexperts.gates.base import Gate
from mixexperts.penalties.base import Penalty, Ridge

# Rows taken at a time: what is made of them stays in the cache.
_ROWS = 4096
# Share of the Fisher information that the curvature of a step keeps in every direction.
_LEAST_CURVATURE = 0.01
# Longest step of a predictor's coefficients, in standard deviations of the predictor.
_LONGEST = 3.0
# Information per direction of the standardised design, in effective rows, below which a
# direction is not identified.
_SEPARATION = 1e-3
#: What a lack of information means where the gate is more than a plane between experts.
NO_MAXIMUM = (
    "the data do not hold some coefficients of the gate: it separates experts perfectly, or is as "
    "good as a simpler gate that these coefficients approach at infinity"
)
_START_STEPS = 8
_START_RIDGE = 1e-4
_START_HALVINGS = 8


class PredictorGate(Gate):
    """A gate that is a function of L linear predictors ``columns(batch) @ predictors(params).T``.

    Statistics are the gradient of the expected log-likelihood in the free coefficients, its
    negative Hessian, and the Fisher information; all three are sums over rows. The update is a
    Newton step with the eigenvalues of the Hessian made positive, so that it always ascends.
    """

    # --- what a gate says of itself --------------------------------------------------------

    def columns(self, batch: Batch) -> Array:
        """Columns (u, q) of the predictors."""
        design: Array = dense(batch.Z)
        return design

    @abstractmethod
    def predictors(self, params: Params) -> Array:
        """Coefficients (L, q) of the predictors, zero where they are not free."""

    @abstractmethod
    def with_predictors(self, like: Params, coef: Array) -> Params:
        """Parameters with these coefficients (L, q)."""

    def free(self, params: Params) -> Array:
        """Which coefficients are free, (L, q) bool."""
        coef = self.predictors(params)
        return np.full(coef.shape, self._n_experts(params) > 1)

    @abstractmethod
    def log_weights(self, params: Params, eta: Array) -> Array:
        """Log mixing weights (u, K) of predictors (u, L)."""

    @abstractmethod
    def derivatives(self, params: Params, eta: Array, weight: Array) -> tuple[Array, Array, Array]:
        """Gradient (u, L), minus Hessian and Fisher information (u, L, L) in the predictors.

        Of ``sum_k weight[i, k] log g_k``, unit by unit.
        """

    @abstractmethod
    def starts(self, batch: Batch, resp: Array) -> list[Params]:
        """Points from which :meth:`init_params` climbs; the highest is taken."""

    @property
    def row_penalized(self) -> bool:
        """Whether there is a :meth:`row_penalty`."""
        return False

    def row_penalty(self, params: Params, eta: Array, weight: Array) -> float:
        """What a sum over rows takes off the log-likelihood; :meth:`derivatives` know of it."""
        return 0.0

    def last_bounds(self, params: Params) -> tuple[float, float] | None:
        """Bounds of the last free coefficient, where it has some."""
        return None

    # --- what follows ------------------------------------------------------------------------

    def _n_experts(self, params: Params) -> int:
        return int(next(iter(params.values())).shape[0])

    def _slots(self, params: Params) -> list[Array]:
        """Free columns of each predictor."""
        return [np.flatnonzero(row) for row in self.free(params)]

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """A few ridge-damped steps towards the responsibilities, none of which may fall."""
        weight = resp * batch.weight[:, None]
        climbed = [self._climb(batch, weight, params) for params in self.starts(batch, resp)]
        return max(climbed, key=lambda found: found[1])[0]

    def _climb(self, batch: Batch, weight: Array, params: Params) -> tuple[Params, float]:
        damping = Ridge(_START_RIDGE).scaled(float(batch.weight.sum()))
        best = self._value(params, batch, weight, damping)
        for _ in range(_START_STEPS):
            image = self.update(params, self.accumulate(params, batch, weight), damping)
            here = self.pack(params)
            step = self.pack(image) - here
            for _ in range(_START_HALVINGS):
                trial = self.unpack(here + step, params)
                found = self._value(trial, batch, weight, damping)
                if found > best:
                    break
                step = 0.5 * step
            else:
                break
            params, best = trial, found
        return params, best

    def _value(self, params: Params, batch: Batch, weight: Array, penalty: Penalty) -> float:
        """Expected log-likelihood less the penalties."""
        log_prob = np.where(weight > 0.0, self.log_prob(params, batch), 0.0)
        coef = self.penalized_coef(params)
        pull = penalty.value(coef, self.penalized(coef.shape[1]))
        pieces = self._pieces(params, batch, weight)
        lost = sum(self.row_penalty(params, eta, own) for _, eta, own in pieces)
        return float(np.sum(weight * log_prob)) - pull - lost

    def log_score(self, params: Params, batch: Batch) -> Array:
        return self.log_prob(params, batch)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        return self.log_weights(params, self.columns(batch) @ self.predictors(params).T)

    def _pieces(self, params: Params, batch: Batch, weight: Array) -> Iterator[tuple[Array, ...]]:
        """Columns, predictors and weights of some rows at a time."""
        coef = self.predictors(params)
        design = self.columns(batch)
        for i in range(0, len(design), _ROWS):
            Z = design[i : i + _ROWS]
            yield Z, Z @ coef.T, weight[i : i + _ROWS]

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        slots = self._slots(params)
        bounds = np.cumsum([0, *map(len, slots)])
        size = int(bounds[-1])
        dtype = np.result_type(dense(batch.Z), self.predictors(params))
        gradient = np.zeros(size, dtype)
        curvature, information = np.zeros((size, size), dtype), np.zeros((size, size), dtype)
        lost = 0.0
        for Z, eta, own_weight in self._pieces(params, batch, weight):
            slope, curve, fisher = self.derivatives(params, eta, own_weight)
            lost += self.row_penalty(params, eta, own_weight)
            own = [Z[:, slot] for slot in slots]
            for a, left in enumerate(own):
                rows = slice(bounds[a], bounds[a + 1])
                gradient[rows] += slope[:, a] @ left
                for b, right in enumerate(own[: a + 1]):
                    cols = slice(bounds[b], bounds[b + 1])
                    curvature[rows, cols] += left.T @ (right * curve[:, a, b, None])
                    information[rows, cols] += left.T @ (right * fisher[:, a, b, None])
        for matrix in (curvature, information):
            for a in range(len(slots)):
                rows = slice(bounds[a], bounds[a + 1])
                for b in range(a):
                    cols = slice(bounds[b], bounds[b + 1])
                    matrix[cols, rows] = matrix[rows, cols].T
        stats = {"gradient": gradient, "curvature": curvature, "information": information}
        return {**stats, "penalty": lost} if self.row_penalized else stats

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        gradient = stats["gradient"]
        if not gradient.size or not np.isfinite(gradient).all():
            return params
        free = self.free(params)
        matrix = _ascending(stats["curvature"], stats["information"])
        coef = self.predictors(params)
        here = coef[free]
        penalized = np.broadcast_to(self.penalized(free.shape[1]), free.shape)[free]
        step = penalty.minimize_quadratic(matrix, gradient, here, penalized)
        bounds = self.last_bounds(params)
        if bounds is not None and not bounds[0] <= here[-1] + step[-1] <= bounds[1]:
            # The quadratic's maximum within the bounds has the last coefficient at its bound.
            last = np.clip(here[-1] + step[-1], *bounds) - here[-1]
            rest = gradient[:-1] - matrix[:-1, -1] * last
            others = penalty.minimize_quadratic(matrix[:-1, :-1], rest, here[:-1], penalized[:-1])
            step = np.append(others, last)
        moved = np.zeros(coef.shape)
        moved[free] = step
        # Coefficients without a finite maximum may grow by a share of what they are.
        reach = _LONGEST + 0.5 * np.sqrt((coef**2).sum(axis=1))
        excess = (np.sqrt((moved**2).sum(axis=1)) / reach).max()
        if excess > 1.0:
            moved /= excess
        return self.with_predictors(params, coef + moved)

    def pack(self, params: Params) -> Array:
        packed: Array = self.predictors(params)[self.free(params)]
        return packed

    def unpack(self, vector: Array, like: Params) -> Params:
        coef = np.zeros(self.predictors(like).shape)
        coef[self.free(like)] = vector
        return self.with_predictors(like, coef)

    def score(self, params: Params, stats: Stats) -> Array:
        gradient: Array = stats["gradient"]
        return gradient

    def n_params(self, params: Params) -> int:
        return int(self.free(params).sum())

    def permute(self, params: Params, order: Array) -> Params:
        return {name: values[order] for name, values in params.items()}

    def penalized_coef(self, params: Params) -> Array:
        return self.predictors(params)

    def pull(self, params: Params, gradient: Array) -> Array:
        pulled: Array = gradient[self.free(params)]
        return pulled

    def separation(self, params: Params, stats: Stats) -> bool:
        information = stats["information"]
        if information.size == 0 or not self.identified:
            return False
        return bool(np.linalg.eigvalsh(information)[0] < _SEPARATION)


def softmax_derivatives(
    score: Array, jacobian: Array, weight: Array
) -> tuple[Array, Array, Array, Array]:
    """Gradient and information of ``sum_k weight_k log softmax(score)_k`` in the predictors.

    Parameters
    ----------
    score : ndarray of shape (u, K)
    jacobian : ndarray of shape (u, K, L)
        Derivatives of the scores in the predictors.
    weight : ndarray of shape (u, K)

    Returns
    -------
    gradient : ndarray of shape (u, L)
    fisher : ndarray of shape (u, L, L)
    excess : ndarray of shape (u, K)
        Gradient in the scores. The Hessian is ``sum_k excess_k (second derivatives of score k)
        - fisher``.
    prob : ndarray of shape (u, K)
    """
    shifted = np.exp(score - score.max(axis=1, keepdims=True))
    prob = shifted / shifted.sum(axis=1, keepdims=True)
    total = weight.sum(axis=1)
    excess = weight - total[:, None] * prob
    gradient = np.matmul(excess[:, None, :], jacobian)[:, 0]
    mean = np.matmul(prob[:, None, :], jacobian)
    spread = jacobian - mean
    fisher = np.matmul(spread.transpose(0, 2, 1) * (total[:, None] * prob)[:, None, :], spread)
    return gradient, fisher, excess, prob


def listed(names: Sequence[str]) -> str:
    """Names in quotes, the first ten."""
    more = f" and {len(names) - 10} more" * (len(names) > 10)
    return ", ".join(map(repr, names[:10])) + more


def _ascending(curvature: Array, information: Array) -> Array:
    """A positive semi-definite matrix that is the Hessian where this is well positive.

    Both are scaled by the diagonal of the information; eigenvalues of the Hessian are taken
    by size, and none falls below a share of the information along its direction.
    """
    size = np.sqrt(np.maximum(np.diagonal(information), 0.0))
    largest = size.max(initial=0.0)
    if not largest > 1e-100:  # no information at all: no step
        return np.zeros_like(information)
    size = np.where(size > 1e-8 * largest, size, largest)
    scale = np.outer(size, size)
    values, vectors = np.linalg.eigh(curvature / scale)
    floor = np.einsum("ij,ij->j", vectors, (information / scale) @ vectors)
    values = np.maximum(np.abs(values), _LEAST_CURVATURE * floor)
    matrix: Array = (vectors * values) @ vectors.T * scale
    return matrix
