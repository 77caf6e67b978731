"""The rows and the parameters of a penalised fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mixexperts._batch import Array


@dataclass(frozen=True)
class SparseRows:
    """Rows of a penalised fit, all of positive weight, on the engine's scale.

    Attributes
    ----------
    X : ndarray of shape (n, p)
        Columns without an intercept, in Fortran order: a coordinate step reads one column.
    y : ndarray of shape (n,) or (n, c)
    weight : ndarray of shape (n,)
    offset : ndarray of shape (n,) or None
        Known part of every expert's linear predictor.
    expert_mask, gate_mask : ndarray of bool of shape (p,) or None
        Columns that the experts and the gate may use; None means all.
    """

    X: Array
    y: Array
    weight: Array
    offset: Array | None = None
    expert_mask: Array | None = None
    gate_mask: Array | None = None

    @property
    def columns(self) -> Array:
        """The columns as rows (p, n) that lie in one piece."""
        return np.ascontiguousarray(self.X.T)

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return int(self.X.shape[0])

    @property
    def n_columns(self) -> int:
        """Number of columns p."""
        return int(self.X.shape[1])

    @property
    def total(self) -> float:
        """Sum W of the weights."""
        return float(self.weight.sum())

    def take(self, rows: Array) -> SparseRows:
        """Some of the rows, by number or mask."""
        return replace(
            self,
            X=np.asfortranarray(self.X[rows]),
            y=self.y[rows],
            weight=self.weight[rows],
            offset=None if self.offset is None else self.offset[rows],
        )


@dataclass(frozen=True)
class SparseParams:
    """Parameters of a penalised fit, in the coding in which they are penalised.

    Attributes
    ----------
    intercept : ndarray of shape (K, L)
        L is 1, or the number of classes of multinomial experts.
    coef : ndarray of shape (K, L, p)
    gate_intercept : ndarray of shape (K,)
    gate_coef : ndarray of shape (K, p)
    shapes : mapping of str to ndarray of shape (K,)
        Scales and the like.
    """

    intercept: Array
    coef: Array
    gate_intercept: Array
    gate_coef: Array
    shapes: Mapping[str, Array] = field(default_factory=dict)

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return len(self.intercept)

    def permute(self, order: Array) -> SparseParams:
        """The same experts in another order."""
        return SparseParams(
            self.intercept[order],
            self.coef[order],
            self.gate_intercept[order],
            self.gate_coef[order],
            {name: values[order] for name, values in self.shapes.items()},
        )

    def active(self) -> Array:
        """Columns with a coefficient that is not zero, (p,) bool."""
        used: Array = (self.coef != 0.0).any(axis=(0, 1)) | (self.gate_coef != 0.0).any(axis=0)
        return used
