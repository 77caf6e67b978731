"""The penalty protocol, the null penalty and ridge."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array
from mixexperts._registry import register

# Below this ratio of pivots a Cholesky factor has lost more digits than an EM step can mend.
_PIVOT_RATIO = 1e-10
_EIGEN_RATIO = 1e-13


def solve_symmetric(hess: Array, rhs: Array) -> Array:
    """Minimum-norm solution of ``hess @ x = rhs`` for a positive semi-definite ``hess``.

    Parameters
    ----------
    hess : ndarray of shape (p, p)
    rhs : ndarray of shape (p,)

    Returns
    -------
    ndarray of shape (p,)
    """
    if hess.shape[0] == 0:
        return np.zeros(0)
    diagonal = np.diagonal(hess)
    if not np.isfinite(diagonal).all() or not np.isfinite(rhs).all():
        return np.full(rhs.shape, math.nan)
    from scipy.linalg.lapack import dpotrf, dpotrs

    factor, not_definite = dpotrf(hess, lower=1)
    if not not_definite:
        pivots = np.diagonal(factor) ** 2
        if (pivots > _PIVOT_RATIO * np.maximum(diagonal, diagonal.max() * _PIVOT_RATIO)).all():
            full: Array = dpotrs(factor, rhs, lower=1)[0]
            return full
    # Singular or nearly so: the eigenvalues tell the rank.
    values, vectors = np.linalg.eigh(hess)
    # Below the least normal number the inverse would overflow.
    keep = values > max(_EIGEN_RATIO * hess.shape[0] * values[-1], np.finfo(float).tiny)
    inverse = np.where(keep, 1.0, 0.0) / np.where(keep, values, 1.0)
    solution: Array = vectors @ (inverse * (vectors.T @ rhs))
    return solution


class Penalty(ABC):
    """A penalty on coefficients, in units of the total log-likelihood.

    ``alpha`` is stated per unit of weight, as the estimators state it; :meth:`scaled`
    gives the penalty on the scale of the sum over rows that the engine maximises.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register("penalty", cls)

    @property
    @abstractmethod
    def is_null(self) -> bool:
        """Whether the penalty is zero everywhere."""

    @abstractmethod
    def scaled(self, total_weight: float) -> Penalty:
        """The same penalty times the total weight of the rows."""

    @abstractmethod
    def value(self, coef: Array, penalized: Array) -> float:
        """Value at ``coef`` (..., p); ``penalized`` (p,) marks the columns that count."""

    @abstractmethod
    def gradient(self, coef: Array, penalized: Array) -> Array:
        """Gradient at ``coef`` (..., p), of the same shape."""

    def curvature(self, coef: Array, penalized: Array) -> Array | None:
        """Diagonal of the Hessian at ``coef`` (..., p), of the same shape; None if not smooth."""
        return None

    @abstractmethod
    def minimize_quadratic(self, hess: Array, grad: Array, coef: Array, penalized: Array) -> Array:
        """Step d (p,) that minimises ``d @ hess @ d / 2 - grad @ d + value(coef + d)``."""


@dataclass(frozen=True)
class NoPenalty(Penalty):
    """No penalty: steps are minimum-norm solutions."""

    name: ClassVar[str] = "none"

    @property
    def is_null(self) -> bool:
        return True

    def scaled(self, total_weight: float) -> NoPenalty:
        return self

    def value(self, coef: Array, penalized: Array) -> float:
        return 0.0

    def gradient(self, coef: Array, penalized: Array) -> Array:
        return np.zeros_like(coef)

    def curvature(self, coef: Array, penalized: Array) -> Array | None:
        return np.zeros_like(coef)

    def minimize_quadratic(self, hess: Array, grad: Array, coef: Array, penalized: Array) -> Array:
        return solve_symmetric(hess, grad)


@dataclass(frozen=True)
class Ridge(Penalty):
    """Ridge: ``alpha / 2`` times the sum of squared coefficients, intercepts left free.

    Estimators maximise ``log-likelihood / n - alpha / 2 * sum(coef ** 2)`` over the
    coefficients of the standardised columns (and, for Gaussian experts, of the standardised
    response: ``coef * sd(x) / sd(y)``). The gate's coefficients are centred over the experts
    first, so that the penalty does not depend on which of them is the reference.

    Parameters
    ----------
    alpha : float
        Strength per row, not negative.
    """

    alpha: float = 1e-3
    name: ClassVar[str] = "ridge"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be a finite number >= 0, got {self.alpha!r}")

    @property
    def is_null(self) -> bool:
        return self.alpha == 0.0

    def scaled(self, total_weight: float) -> Ridge:
        return replace(self, alpha=self.alpha * total_weight)

    def value(self, coef: Array, penalized: Array) -> float:
        return 0.5 * self.alpha * float(np.sum(coef[..., penalized] ** 2))

    def gradient(self, coef: Array, penalized: Array) -> Array:
        gradient: Array = self.alpha * coef * penalized
        return gradient

    def curvature(self, coef: Array, penalized: Array) -> Array | None:
        return np.broadcast_to(self.alpha * penalized, coef.shape)

    def minimize_quadratic(self, hess: Array, grad: Array, coef: Array, penalized: Array) -> Array:
        weight = self.alpha * penalized
        return solve_symmetric(hess + np.diag(weight), grad - weight * coef)
