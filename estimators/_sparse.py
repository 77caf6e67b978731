"""Mixing weights cut to the largest."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixexperts._batch import Array


def sparse_weights(proba: Array, top_k: Any = None, top_p: Any = None) -> Array:
    """Mixing weights with the small ones set to zero, renormalised.

    Parameters
    ----------
    proba : ndarray of shape (n, K)
        Rows sum to one.
    top_k : int, optional
        Keep the k largest of each row; of equal weights that of the expert with the lower number.
    top_p : float, optional
        Keep the fewest largest whose weights sum to at least p. With both, what both keep.

    Returns
    -------
    ndarray of shape (n, K)
        ``proba`` itself if nothing is to be cut.

    Raises
    ------
    ValueError, TypeError
        If ``top_k`` is not in 1, ..., K or ``top_p`` not in (0, 1].
    """
    n_experts = proba.shape[1]
    if top_k is not None:
        if isinstance(top_k, bool | np.bool_) or not isinstance(top_k, int | np.integer):
            raise TypeError(f"top_k must be an integer or None, got {top_k!r}")
        if not 1 <= top_k <= n_experts:
            raise ValueError(
                f"top_k must lie between 1 and the number of experts, {n_experts}; got {top_k!r}"
            )
    if top_p is not None:
        if isinstance(top_p, bool | np.bool_) or not isinstance(
            top_p, int | float | np.integer | np.floating
        ):
            raise TypeError(f"top_p must be a number or None, got {top_p!r}")
        if not 0.0 < top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {top_p!r}")
    cut_k = top_k is not None and top_k < n_experts
    cut_p = top_p is not None and top_p < 1.0
    if not (cut_k or cut_p):
        return proba
    order = np.argsort(-proba, axis=1, kind="stable")
    largest = np.take_along_axis(proba, order, axis=1)
    up_to = np.cumsum(largest, axis=1)
    if cut_k:
        largest[:, top_k:] = 0.0
    if cut_p:  # an expert goes if those before it do already
        largest[:, 1:][up_to[:, :-1] >= top_p] = 0.0
    kept = np.zeros_like(proba)
    np.put_along_axis(kept, order, largest, axis=1)
    weights: Array = kept / kept.sum(axis=1, keepdims=True)
    return weights


class Sparse:
    """What estimators say of the number of experts in use."""

    def active_experts(
        self, X: Any, *, top_k: int | None = None, top_p: float | None = None
    ) -> float:
        """Mean number of experts with positive weight over the rows of X.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        top_k, top_p : int and float, optional
            As in ``predict``.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        weights = sparse_weights(self.gate_proba(X), top_k, top_p)  # type: ignore[attr-defined]
        return float(np.count_nonzero(weights, axis=1).mean())
