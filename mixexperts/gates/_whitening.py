"""Lower triangular matrices A that whiten covariances: ``A S A' = 1``."""

from __future__ import annotations

import numpy as np

from mixexperts._batch import Array

# Whitening matrices beyond this many times their limit cannot be decomposed.
_WILD = 1e30


def largest(matrices: Array) -> Array:
    """Largest singular value of each matrix, (K,)."""
    largest: Array = np.linalg.norm(matrices, ord=2, axis=(1, 2))
    return largest


def inverse(lower: Array) -> Array:
    """Inverses of lower triangular matrices (K, q, q)."""
    return np.tril(np.linalg.inv(lower))


def whiten(covariance: Array, floor: float) -> Array:
    """Lower triangular A (K, q, q) with ``A S A' = 1``, eigenvalues of S lifted to the floor.

    The likelihood's maximum over covariances above a floor is the free one with its
    eigenvalues lifted, so that EM still ascends.
    """
    if not np.isfinite(covariance).all():  # seen, and refused, in the objective
        return np.full(covariance.shape, np.nan)
    values, vectors = np.linalg.eigh(covariance)
    low = values[:, 0] < floor
    if low.any():
        lifted = np.maximum(values[low], floor)
        covariance = np.array(covariance)
        covariance[low] = (vectors[low] * lifted[:, None, :]) @ vectors[low].transpose(0, 2, 1)
    return inverse(np.linalg.cholesky(covariance))


def bounded(whitening: Array, limit: float) -> Array:
    """Whitening matrices with singular values up to ``limit``, left alone where they are."""
    if not (np.abs(whitening) < _WILD * limit).all():  # an extrapolation that will be refused
        return np.full(whitening.shape, np.nan)
    wild = largest(whitening) > limit * (1.0 + 1e-9)
    if wild.any():
        _, size, rows = np.linalg.svd(whitening[wild])
        spread = rows.transpose(0, 2, 1) / np.clip(size, 1.0 / _WILD, limit)[:, None, :]
        # The factor of S = spread spread', without squaring its condition.
        upper = np.linalg.qr(spread.transpose(0, 2, 1), mode="r")
        sign = np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, :, None]
        whitening = np.array(whitening)
        whitening[wild] = inverse((upper * sign).transpose(0, 2, 1))
    return whitening
