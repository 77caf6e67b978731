"""Mixture-of-experts models with known parameters, as drawn by the generators."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


# Arrays have no truth value, so the generated __eq__ would raise: compare by identity.
@dataclass(frozen=True, eq=False)
class MoETruth:
    """Softmax-gated mixture of Gaussian linear experts that a sample was drawn from.

    Parameters
    ----------
    coef : ndarray of shape (K, p)
        Slopes of the experts.
    intercept : ndarray of shape (K,)
        Intercepts of the experts.
    scale : ndarray of shape (K,)
        Standard deviations of the experts.
    gate_coef : ndarray of shape (K, p)
        Slopes of the gate; the last row is zero.
    gate_intercept : ndarray of shape (K,)
        Intercepts of the gate; the last entry is zero.
    labels : ndarray of shape (n,)
        Expert that each sample row came from, 0 to K - 1.
    """

    coef: FloatArray
    intercept: FloatArray
    scale: FloatArray
    gate_coef: FloatArray
    gate_intercept: FloatArray
    labels: IntArray

    def gate_proba(self, X: ArrayLike) -> FloatArray:
        """Return the mixing weights given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n, K)
            Rows sum to one.
        """
        return np.exp(_log_gate(self.gate_coef, self.gate_intercept, X))

    def expert_means(self, X: ArrayLike) -> FloatArray:
        """Return the mean of each expert given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n, K)
            Means in the unit of y.
        """
        return _covariates(X, self.coef.shape[1]) @ self.coef.T + self.intercept

    def mean(self, X: ArrayLike) -> FloatArray:
        """Return the mean of y given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n,)
            Sum over experts of mixing weight times mean.
        """
        total: FloatArray = np.sum(self.gate_proba(X) * self.expert_means(X), axis=1)
        return total

    def log_likelihood(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return the log-likelihood of a sample under the true parameters.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.
        y : array_like of shape (n,)
            Responses.

        Returns
        -------
        float
            Natural log-likelihood, summed over rows.
        """
        means = self.expert_means(X)
        z = (_response(y, means.shape[0])[:, np.newaxis] - means) / self.scale
        log_density = -0.5 * z**2 - np.log(self.scale) - 0.5 * math.log(2.0 * math.pi)
        log_joint = log_density + _log_gate(self.gate_coef, self.gate_intercept, X)
        return float(np.sum(np.logaddexp.reduce(log_joint, axis=1)))


@dataclass(frozen=True, eq=False)
class MoEClassificationTruth:
    """Softmax-gated mixture of multinomial-logit experts that a sample was drawn from.

    Parameters
    ----------
    coef : ndarray of shape (K, C, p)
        Slopes of the experts' logits; the last class of each expert is zero.
    intercept : ndarray of shape (K, C)
        Intercepts of the experts' logits; the last class of each expert is zero.
    gate_coef : ndarray of shape (K, p)
        Slopes of the gate; the last row is zero.
    gate_intercept : ndarray of shape (K,)
        Intercepts of the gate; the last entry is zero.
    labels : ndarray of shape (n,)
        Expert that each sample row came from, 0 to K - 1.
    """

    coef: FloatArray
    intercept: FloatArray
    gate_coef: FloatArray
    gate_intercept: FloatArray
    labels: IntArray

    def gate_proba(self, X: ArrayLike) -> FloatArray:
        """Return the mixing weights given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n, K)
            Rows sum to one.
        """
        return np.exp(_log_gate(self.gate_coef, self.gate_intercept, X))

    def expert_means(self, X: ArrayLike) -> FloatArray:
        """Return the class probabilities of each expert given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n, K, C)
            The last axis sums to one.
        """
        return np.exp(self._log_expert(X))

    def mean(self, X: ArrayLike) -> FloatArray:
        """Return the class probabilities given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n, C)
            Rows sum to one.
        """
        total: FloatArray = np.einsum("nk,nkc->nc", self.gate_proba(X), self.expert_means(X))
        return total

    def log_likelihood(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return the log-likelihood of a sample under the true parameters.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.
        y : array_like of int of shape (n,)
            Classes, 0 to C - 1.

        Returns
        -------
        float
            Natural log-likelihood, summed over rows.

        Raises
        ------
        ValueError
            If `y` holds anything but the classes.
        """
        log_expert = self._log_expert(X)
        n, _, n_classes = log_expert.shape
        values = _response(y, n)
        if not np.all(np.isin(values, np.arange(n_classes))):
            raise ValueError(
                f"y: found values other than the classes, expected integers 0 to "
                f"{n_classes - 1}. Recode the classes."
            )
        chosen = log_expert[np.arange(n), :, values.astype(np.int64)]
        log_joint = chosen + _log_gate(self.gate_coef, self.gate_intercept, X)
        return float(np.sum(np.logaddexp.reduce(log_joint, axis=1)))

    def _log_expert(self, X: ArrayLike) -> FloatArray:
        """Return the log class probabilities, shape (n, K, C)."""
        rows = _covariates(X, self.coef.shape[2])
        return _log_softmax(np.einsum("np,kcp->nkc", rows, self.coef) + self.intercept)


@dataclass(frozen=True, eq=False)
class MoECountTruth:
    """Softmax-gated mixture of Poisson log-linear experts that a sample was drawn from.

    Parameters
    ----------
    coef : ndarray of shape (K, p)
        Slopes of the experts' log means.
    intercept : ndarray of shape (K,)
        Intercepts of the experts' log means.
    gate_coef : ndarray of shape (K, p)
        Slopes of the gate; the last row is zero.
    gate_intercept : ndarray of shape (K,)
        Intercepts of the gate; the last entry is zero.
    labels : ndarray of shape (n,)
        Expert that each sample row came from, 0 to K - 1.
    """

    coef: FloatArray
    intercept: FloatArray
    gate_coef: FloatArray
    gate_intercept: FloatArray
    labels: IntArray

    def gate_proba(self, X: ArrayLike) -> FloatArray:
        """Return the mixing weights given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n, K)
            Rows sum to one.
        """
        return np.exp(_log_gate(self.gate_coef, self.gate_intercept, X))

    def expert_means(self, X: ArrayLike) -> FloatArray:
        """Return the mean of each expert given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n, K)
            Expected counts.
        """
        return np.exp(self._log_means(X))

    def mean(self, X: ArrayLike) -> FloatArray:
        """Return the mean of y given `X`.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.

        Returns
        -------
        ndarray of shape (n,)
            Sum over experts of mixing weight times mean.
        """
        total: FloatArray = np.sum(self.gate_proba(X) * self.expert_means(X), axis=1)
        return total

    def log_likelihood(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return the log-likelihood of a sample under the true parameters.

        Parameters
        ----------
        X : array_like of shape (n, p)
            Covariates.
        y : array_like of shape (n,)
            Counts.

        Returns
        -------
        float
            Natural log-likelihood, summed over rows.

        Raises
        ------
        ValueError
            If `y` holds anything but counts.
        """
        log_means = self._log_means(X)
        values = _response(y, log_means.shape[0])
        if np.any(values < 0) or np.any(values != np.floor(values)):
            raise ValueError(
                "y: found values other than counts, expected integers of at least 0. Pass counts."
            )
        factorials = np.array([math.lgamma(value + 1.0) for value in values])
        log_density = values[:, np.newaxis] * log_means - np.exp(log_means)
        log_joint = log_density - factorials[:, np.newaxis]
        log_joint += _log_gate(self.gate_coef, self.gate_intercept, X)
        return float(np.sum(np.logaddexp.reduce(log_joint, axis=1)))

    def _log_means(self, X: ArrayLike) -> FloatArray:
        """Return the logarithm of each expert's mean, shape (n, K)."""
        log_means: FloatArray = _covariates(X, self.coef.shape[1]) @ self.coef.T + self.intercept
        return log_means


def _log_gate(gate_coef: FloatArray, gate_intercept: FloatArray, X: ArrayLike) -> FloatArray:
    return _log_softmax(_covariates(X, gate_coef.shape[1]) @ gate_coef.T + gate_intercept)


def _log_softmax(score: FloatArray) -> FloatArray:
    log_proba: FloatArray = score - np.logaddexp.reduce(score, axis=-1, keepdims=True)
    return log_proba


def _covariates(X: ArrayLike, n_features: int) -> FloatArray:
    rows = np.asarray(X, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != n_features:
        raise ValueError(
            f"X: found shape {rows.shape}, expected (n, {n_features}). "
            "Pass one row per observation and one column per feature."
        )
    return rows


def _response(y: ArrayLike, n_rows: int) -> FloatArray:
    values = np.asarray(y, dtype=np.float64)
    if values.shape != (n_rows,):
        raise ValueError(
            f"y: found shape {values.shape}, expected ({n_rows},) as X has {n_rows} rows. "
            "Pass one response per row of X."
        )
    return values
