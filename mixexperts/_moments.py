"""Weighted means and products about them, one block of rows after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixexperts._batch import Array, weighted_mean


@dataclass(frozen=True)
class Moments:
    """Weighted moments of the columns of some rows; those of two blocks merge.

    Attributes
    ----------
    n_rows : int
    weight : float
        Sum of the weights.
    unit : ndarray of shape (d,)
        Powers of two near the size of the columns; the next two are in these units, so that
        squares neither overflow nor underflow.
    unit_mean : ndarray of shape (d,)
    unit_scatter : ndarray of shape (d, d)
        Sums of weighted products of the deviations from the mean.
    size : ndarray of shape (d,)
        Largest absolute values.

    References
    ----------
    Chan, T. F., Golub, G. H. and LeVeque, R. J. (1983). Algorithms for computing the sample
    variance: analysis and recommendations. The American Statistician 37, 242-247.
    """

    n_rows: int
    weight: float
    unit: Array
    unit_mean: Array
    unit_scatter: Array
    size: Array

    @classmethod
    def of(cls, values: Array, weight: Array, unit: Array | None = None) -> Moments:
        """Moments of values (n, d) with positive weights (n,).

        ``unit`` None takes one from these values.
        """
        size = np.abs(values).max(axis=0, initial=0.0)
        if unit is None:
            unit = np.ldexp(1.0, np.frexp(np.where(size > 0.0, size, 1.0))[1])
        values = values / unit
        mean = weighted_mean(values, weight)
        values -= mean
        scatter = (values * weight[:, None]).T @ values
        return cls(len(values), float(weight.sum()), unit, mean, scatter, size)

    def merged(self, other: Moments) -> Moments:
        """Moments of the rows of both, in the larger of their units."""
        unit = np.maximum(self.unit, other.unit)
        if not (np.array_equal(unit, self.unit) and np.array_equal(unit, other.unit)):
            return self._in(unit).merged(other._in(unit))
        weight = self.weight + other.weight
        step = other.unit_mean - self.unit_mean
        share = other.weight / weight
        return Moments(
            self.n_rows + other.n_rows,
            weight,
            self.unit,
            self.unit_mean + step * share,
            self.unit_scatter + other.unit_scatter + np.outer(step, step) * (self.weight * share),
            np.maximum(self.size, other.size),
        )

    def _in(self, unit: Array) -> Moments:
        factor = self.unit / unit  # powers of two: exact
        return replace(
            self,
            unit=unit,
            unit_mean=self.unit_mean * factor,
            unit_scatter=self.unit_scatter * np.outer(factor, factor),
        )

    def take(self, columns: Array) -> Moments:
        """Moments of some of the columns."""
        return Moments(
            self.n_rows,
            self.weight,
            self.unit[columns],
            self.unit_mean[columns],
            self.unit_scatter[np.ix_(columns, columns)],
            self.size[columns],
        )

    @property
    def mean(self) -> Array:
        """Weighted means, (d,)."""
        mean: Array = self.unit_mean * self.unit
        return mean

    def second(self, center: Array, scale: Array) -> Array:
        """Weighted mean products of ``(values - center) / scale``, (d, d)."""
        shift = self.unit_mean - center / self.unit
        relative = scale / self.unit
        mean_product = self.unit_scatter / self.weight + np.outer(shift, shift)
        second: Array = mean_product / np.outer(relative, relative)
        return second

    def spread(self, center: Array) -> Array:
        """Weighted root mean square of the deviations from ``center`` (d,), (d,)."""
        root: Array = self.unit * np.sqrt(np.diagonal(self.second(center, self.unit)))
        return root


@dataclass(frozen=True)
class ObservedMoments:
    """Moments of columns some of whose values are missing (NaN), each over its own rows.

    Attributes
    ----------
    columns : tuple of d Moments or None
        None: no value yet.
    """

    columns: tuple[Moments | None, ...]

    @classmethod
    def of(cls, values: Array, weight: Array) -> ObservedMoments:
        """Moments of values (n, d) with positive weights (n,)."""
        seen = ~np.isnan(values)
        return cls(
            tuple(
                Moments.of(values[rows, j : j + 1], weight[rows]) if rows.any() else None
                for j, rows in enumerate(seen.T)
            )
        )

    def merged(self, other: ObservedMoments) -> ObservedMoments:
        """Moments of the rows of both."""
        pairs = zip(self.columns, other.columns, strict=True)
        return ObservedMoments(
            tuple(
                right if left is None else left if right is None else left.merged(right)
                for left, right in pairs
            )
        )

    @property
    def weight(self) -> Array:
        """Sums of the weights of the values, (d,)."""
        return np.array([0.0 if column is None else column.weight for column in self.columns])

    @property
    def mean(self) -> Array:
        """Weighted means, (d,); NaN without a value."""
        return np.array([np.nan if column is None else column.mean[0] for column in self.columns])

    @property
    def spread(self) -> Array:
        """Standard deviations, (d,)."""
        return np.array(
            [np.nan if column is None else column.spread(column.mean)[0] for column in self.columns]
        )
