"""What a family says of rows: derivatives, and terms for compiled sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mixexperts._batch import Array


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Derivatives of the log density of each row under each expert in T linear predictors.

    Predictor t of expert k is ``designs[t] @ coefficients``; :meth:`Expert.pack` holds the
    coefficients predictor by predictor and, within one, expert by expert.

    Attributes
    ----------
    designs : tuple of T ndarrays of shape (n, p_t)
    slope : ndarray of shape (T, n, K)
        First derivatives.
    curve : ndarray of shape (T, T, n, K)
        Second derivatives with the sign changed.
    tied : tuple of T bool
        Predictors whose coefficients all experts share.
    merge : ndarray of shape (Q, P) or None
        From the P entries of :meth:`Expert.pack` to the Q coefficients of the predictors, where
        these are not the same.
    """

    designs: tuple[Array, ...]
    slope: Array
    curve: Array
    tied: tuple[bool, ...]
    merge: Array | None = None


@dataclass(frozen=True, slots=True)
class RowTerms:
    """What the compiled sums need of n rows under K experts of T linear predictors each.

    Attributes
    ----------
    log_f : ndarray of shape (K, n)
        Log density.
    slope : ndarray of shape (K T, n)
        Its slopes in the predictors, expert by expert.
    curve : ndarray of shape (K P, n)
        Weights of the P Grams of each expert.
    sums : dict of str to ndarray of shape (K, ..., n)
        What else is to be summed under the responsibilities.
    """

    log_f: Array
    slope: Array
    curve: Array
    sums: Mapping[str, Array]
