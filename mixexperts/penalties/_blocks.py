"""Norms of blocks of columns over both rooms, and what optimisation needs of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixexperts._batch import Array
from mixexperts.penalties._shapes import times

_ITERATIONS = 100


def _flat(coef: Array) -> Array:
    """Coefficients (K, L, p) as rows (K L, p), also where there is no column."""
    flat: Array = coef.reshape(coef.shape[0] * coef.shape[1], coef.shape[2])
    return flat


@dataclass(frozen=True)
class Blocks:
    """Coefficients of both rooms as rows of one matrix (rows, p), columns in groups.

    Parameters
    ----------
    labels : ndarray of int of shape (p,)
        0 .. G - 1.
    scale : ndarray of shape (rows, p)
        The norm of a block is that of ``scale * b``; 0 leaves free, infinity holds at zero.
    strength : ndarray of shape (G,)
        Factor of each norm.
    """

    labels: Array
    scale: Array
    strength: Array

    @classmethod
    def of(cls, labels: Array, scale: Array, gate_scale: Array, l1_ratio: float) -> Blocks:
        """Blocks with a strength of ``l1_ratio`` times the root of the number of columns."""
        n_columns = np.bincount(labels)
        joined = np.concatenate([_flat(scale), gate_scale])
        return cls(labels, joined, l1_ratio * np.sqrt(n_columns))

    @staticmethod
    def join(coef: Array, gate_coef: Array) -> Array:
        """One matrix (K L + K, p) of both rooms."""
        return np.concatenate([_flat(coef), gate_coef])

    @staticmethod
    def split(matrix: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """The rooms of a matrix, the experts' of shape ``shape``."""
        n_rows = shape[0] * shape[1]
        return matrix[:n_rows].reshape(shape), matrix[n_rows:]

    def sums(self, matrix: Array) -> Array:
        """Sum over each block, of shape (G,)."""
        total: Array = np.bincount(self.labels, matrix.sum(axis=0), len(self.strength))
        return total

    def norms(self, matrix: Array) -> Array:
        """Norm of each block, of shape (G,)."""
        # Squares of small numbers vanish: the largest of a block is divided out.
        scaled = np.abs(times(self.scale, matrix))
        largest = np.zeros(len(self.strength))
        np.maximum.at(largest, self.labels, scaled.max(axis=0))
        usable = (largest > 0.0) & np.isfinite(largest)
        unit = np.where(usable, largest, 1.0)
        held = np.where(np.isfinite(scaled), scaled, 0.0)
        return np.where(usable, unit * np.sqrt(self.sums((held / unit[self.labels]) ** 2)), largest)

    def value(self, matrix: Array) -> float:
        """Sum of the norms times their strengths."""
        norms = self.norms(matrix)
        weighted = self.strength * np.where(np.isinf(norms), 0.0, norms)
        return float(np.where(np.isinf(norms), np.inf, weighted).sum())

    @property
    def penalized(self) -> Array:
        """Coefficients with a penalty that is neither zero nor infinite."""
        return (self.scale > 0.0) & np.isfinite(self.scale) & (self.strength[self.labels] > 0.0)

    def _dual(self, matrix: Array) -> Array:
        inside = self.penalized
        safe = np.where(inside, self.scale, 1.0)
        squares = self.sums(np.where(inside, matrix / safe, 0.0) ** 2)
        return np.sqrt(squares) / np.where(self.strength > 0.0, self.strength, 1.0)

    def dual_norm(self, matrix: Array) -> float:
        """Smallest factor of the penalty whose subdifferential at zero holds ``matrix``."""
        if ((matrix != 0.0) & ~self.penalized & ~np.isinf(self.scale)).any():
            return float("inf")
        return float(np.max(self._dual(matrix), initial=0.0))

    def prox(self, u: Array, metric: Array, ridge: Array) -> Array:
        """Minimiser of ``sum metric (b - u)^2 / 2 + ridge b^2 / 2`` plus the norms."""
        total = metric + ridge
        pull = metric * u
        inside = self.penalized
        # b = pull s / (total s + t d^2) with s the norm of d b, zero if the pull is too weak.
        scale = np.where(inside, self.scale, 0.0)
        cost = scale**2 * self.strength[self.labels]
        drive = (scale * pull) ** 2
        alive = self._dual(pull) > 1.0
        s = np.zeros(len(self.strength))
        for _ in range(_ITERATIONS):
            below = np.where(inside, total * s[self.labels] + cost, 1.0)
            square = np.where(alive, self.sums(drive / below**2), 1.0)
            fall = np.where(alive, self.sums(drive * total / below**3), 1.0)
            # Newton on 1 / norm, which is concave in s: from zero it rises and never passes.
            move = np.where(alive, (square - np.sqrt(square)) * np.sqrt(square) / fall, 0.0)
            s = s + move
            if (np.abs(move) <= 4.0 * np.finfo(float).eps * s).all():
                break
        norm = s[self.labels]
        below = np.where(inside & (norm > 0.0), total * norm + cost, 1.0)
        shrunk = np.where(inside, pull * norm / below, pull / total)
        return np.where(np.isinf(self.scale), 0.0, shrunk)

    def distance(self, rest: Array, coef: Array) -> Array:
        """Distance of ``rest`` from the subdifferential at ``coef``, shown by all of a block."""
        held = np.isinf(self.scale)
        inside = self.penalized
        norms = self.norms(np.where(inside, coef, 0.0))
        norm = norms[self.labels]
        strength = self.strength[self.labels]
        scale = np.where(inside, self.scale, 0.0)
        away = rest - strength * scale**2 * coef / np.where(norm > 0.0, norm, 1.0)
        # At zero the subdifferential is an ellipsoid: what is left of the projection on it.
        ones, zeros = np.ones_like(rest), np.zeros_like(rest)
        left = np.where(inside & (norm == 0.0), self.prox(rest, ones, zeros), away)
        left = np.where(held, np.where(coef == 0.0, 0.0, np.inf), left)
        found = np.sqrt(self.sums(left**2))[self.labels]
        return np.broadcast_to(found, rest.shape).copy()
