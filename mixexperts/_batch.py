"""Blocks of rows and the algebra of additive statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mixexperts._archive import saveable

T = TypeVar("T")
Array: TypeAlias = NDArray[Any]
#: Parameter arrays by name. Every array has the expert on axis 0.
Params: TypeAlias = Mapping[str, Array]
#: Arrays (or floats) by name that add over rows.
Stats: TypeAlias = Mapping[str, Any]


@saveable("theta")
@dataclass(frozen=True, slots=True)
class Theta:
    """Parameters of a mixture of experts: one mapping for the gate, one for the experts."""

    gate: Params
    expert: Params


@dataclass(frozen=True, slots=True)
class Columns:
    """Standardised columns of rows that are left as they are until somebody reads them.

    Column j is ``(values[:, index[j]] - shift[j]) * factor[j]``, or one where ``index[j]`` is
    -1. The compiled pass makes them block by block, so that the features are held once.

    Attributes
    ----------
    values : ndarray of shape (N, d)
        The user's features, float64 or float32, in any order.
    start, stop : int
        The rows that count.
    index : ndarray of int of shape (p,)
    shift, factor : ndarray of shape (p,)
    """

    values: Array
    start: int
    stop: int
    index: Array
    shift: Array
    factor: Array

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (n, p)."""
        return self.stop - self.start, len(self.index)

    def rows(self, start: int, stop: int) -> Columns:
        """Some of the rows, again without a copy."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    def dense(self) -> Array:
        """The columns as an array (n, p)."""
        return self._make(self.values[self.start : self.stop])

    def take(self, rows: Array) -> Array:
        """The columns of rows by number, as an array."""
        return self._make(self.values[self.start + rows])

    def _make(self, values: Array) -> Array:
        out = np.empty((len(values), len(self.index)))
        for j, (column, shift, factor) in enumerate(
            zip(self.index, self.shift, self.factor, strict=True)
        ):
            out[:, j] = 1.0 if column < 0 else (values[:, column] - shift) * factor
        return out


def dense(design: Array | Columns) -> Array:
    """A design as an array."""
    return design.dense() if isinstance(design, Columns) else design


def take_rows(design: Array | Columns, rows: Array) -> Array:
    """Rows of a design by number, as an array."""
    return design.take(rows) if isinstance(design, Columns) else design[rows]


def _rows(design: Array | Columns, rows: slice) -> Array | Columns:
    if isinstance(design, Columns):
        return design.rows(rows.start, rows.stop)
    return design[rows]


@dataclass(frozen=True, slots=True)
class Batch:
    """A block of rows, frozen and small enough to be sent to a worker.

    Attributes
    ----------
    y : ndarray of shape (n,) or (n, d)
        Response.
    designs : mapping of str to ndarray or Columns of shape (n, p)
        Design matrices of the experts; ``"mean"`` is always there.
    Z : ndarray or Columns of shape (u, q)
        Design matrix of the gate, one row per sampling unit.
    weight : ndarray of shape (u,)
        Non-negative case weights: a unit of weight 2 counts as the unit twice.
    unit : ndarray of int of shape (n,) or None
        Sampling unit of each row, ``0 <= unit < u`` and ascending; None: rows are units.
    offset : ndarray of shape (n,) or None
        Known part of the linear predictor of every expert.
    log_prior : ndarray of shape (u, K) or None
        Log evidence about the expert of each unit, added to the gate's score.
    """

    y: Array
    designs: Mapping[str, Any]
    Z: Any
    weight: Array
    unit: Array | None = None
    offset: Array | None = None
    log_prior: Array | None = None

    @property
    def X(self) -> Array:
        """Design of the experts' mean, (n, p)."""
        return dense(self.designs["mean"])

    @property
    def same_design(self) -> bool:
        """Whether gate and experts share one design."""
        return self.Z is self.designs["mean"]

    def dense(self) -> Batch:
        """The same rows with their designs as arrays."""
        if not any(isinstance(d, Columns) for d in (self.Z, *self.designs.values())):
            return self
        designs = {name: dense(design) for name, design in self.designs.items()}
        return replace(
            self, designs=designs, Z=designs["mean"] if self.same_design else dense(self.Z)
        )

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return int(self.y.shape[0])

    @property
    def n_units(self) -> int:
        """Number of sampling units u."""
        return int(self.weight.shape[0])

    def sum_units(self, values: Array) -> Array:
        """Sum row values (n, K) within sampling units, (u, K)."""
        if self.unit is None:
            return values
        total = np.zeros((self.n_units, *values.shape[1:]))
        first = np.flatnonzero(np.diff(self.unit, prepend=-1))
        if first.size:
            total[self.unit[first]] = np.add.reduceat(values, first, axis=0)
        return total

    def spread_units(self, values: Array) -> Array:
        """Repeat unit values (u, K) over the rows of each unit, (n, K)."""
        return values if self.unit is None else values[self.unit]

    def take(self, start: int, stop: int) -> Batch:
        """Units ``start`` to ``stop`` (exclusive), as views wherever numpy allows."""
        units = slice(start, stop)
        if self.unit is None:
            rows, unit = units, None
        else:
            first, last = np.searchsorted(self.unit, [start, stop])
            rows = slice(int(first), int(last))
            unit = self.unit[rows] - start
        designs = {name: _rows(design, rows) for name, design in self.designs.items()}
        return replace(
            self,
            y=self.y[rows],
            designs=designs,
            # A gate that shares the experts' design goes on sharing it.
            Z=designs["mean"] if self.same_design else _rows(self.Z, units),
            weight=self.weight[units],
            unit=unit,
            offset=None if self.offset is None else self.offset[rows],
            log_prior=None if self.log_prior is None else self.log_prior[units],
        )

    def split(self, chunk_rows: int | None) -> tuple[Batch, ...]:
        """Blocks of at most ``chunk_rows`` rows; more only where a single unit has more."""
        if chunk_rows is None or chunk_rows >= max(self.n_rows, self.n_units):
            return (self,)
        n = self.n_units
        if self.unit is None:
            return tuple(self.take(i, min(i + chunk_rows, n)) for i in range(0, n, chunk_rows))
        ends = np.searchsorted(self.unit, np.arange(n), side="right")
        cuts = [0]
        while cuts[-1] < n:
            rows = chunk_rows + (ends[cuts[-1] - 1] if cuts[-1] else 0)
            stop = int(np.searchsorted(ends, rows, side="right"))
            # Units without rows must not gather in one block either.
            cuts.append(max(min(stop, cuts[-1] + chunk_rows), cuts[-1] + 1))
        return tuple(self.take(a, b) for a, b in pairwise(cuts))

    def pick(self, units: Array) -> Batch:
        """Units by ascending number, with arrays for designs."""
        rows, unit = units, None
        if self.unit is not None:
            first, last = (np.searchsorted(self.unit, units, side=s) for s in ("left", "right"))
            size = last - first
            unit = np.repeat(np.arange(len(units)), size)
            rows = np.arange(size.sum()) + np.repeat(first - (np.cumsum(size) - size), size)
        designs = {name: take_rows(design, rows) for name, design in self.designs.items()}
        return replace(
            self,
            y=self.y[rows],
            designs=designs,
            Z=designs["mean"] if self.same_design else take_rows(self.Z, units),
            weight=self.weight[units],
            unit=unit,
            offset=None if self.offset is None else self.offset[rows],
            log_prior=None if self.log_prior is None else self.log_prior[units],
        )


def add_stats(left: Stats, right: Stats) -> Stats:
    """Add two dictionaries of statistics key by key."""
    return {name: value + right[name] for name, value in left.items()}


class TreeSum(Generic[T]):
    """Adds parts pairwise in a fixed order as they come, holding about log2 of them.

    The order is that of a balanced tree over the parts in the order they were given.

    Parameters
    ----------
    combine : callable
        Adds two parts.
    """

    def __init__(self, combine: Callable[[T, T], T]) -> None:
        self._combine = combine
        self._held: list[tuple[int, T]] = []  # (number of parts below, their sum)

    def add(self, part: T) -> None:
        """Take in the next part."""
        size = 1
        while self._held and self._held[-1][0] == size:
            size, part = 2 * size, self._combine(self._held.pop()[1], part)
        self._held.append((size, part))

    def total(self) -> T:
        """Sum of all parts.

        Raises
        ------
        ValueError
            If there is nothing to add.
        """
        if not self._held:
            raise ValueError("no blocks to add: the data source is empty; give at least one row")
        *rest, (_, total) = self._held
        for _, part in reversed(rest):
            total = self._combine(part, total)
        return total


def tree_sum(parts: Iterable[Stats]) -> Stats:
    """Sum statistics pairwise in a fixed order, so that the result never depends on who ran what.

    Raises
    ------
    ValueError
        If there is nothing to add.
    """
    total = TreeSum(add_stats)
    for part in parts:
        total.add(part)
    return total.total()


def root_mean_square(values: Array, weight: Array) -> Array:
    """Weighted root of the mean square over axis 0, safe from overflow and underflow."""
    size = np.abs(values[weight > 0]).max(axis=0, initial=0.0)
    unit = np.where(size > 0.0, size, 1.0)
    root: Array = unit * np.sqrt(weight @ (values / unit) ** 2 / weight.sum())
    return root


def weighted_mean(values: Array, weight: Array) -> Array:
    """Weighted mean over axis 0.

    A second pass removes the rounding that a large common shift leaves in the first.
    """
    total = float(weight.sum())
    first = weight @ values / total
    mean: Array = first + weight @ (values - first) / total
    return mean
