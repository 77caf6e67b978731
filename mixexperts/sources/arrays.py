"""Arrays and memory-mapped arrays as a source."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np

from mixexperts.sources.base import Block, Source


class ArraySource(Source):
    """Arrays, memory-mapped or not, that are read slice by slice.

    Parameters
    ----------
    X : array of shape (n, n_features)
        Anything with a shape that can be sliced by rows: ``numpy.ndarray``,
        ``numpy.memmap``, an array of h5py or zarr, or a DataFrame.
    y : array of shape (n,) or (n, d)
        Response.
    sample_weight : array of shape (n,) or float, optional
        Case weights >= 0: a row of weight 2 counts as the row twice.
    offset : array of shape (n,), optional
        Known part of every expert's mean, in units of y.

    Raises
    ------
    TypeError
        If X or y is no array.
    ValueError
        If their lengths or dimensions do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> X = np.linspace(-1.0, 1.0, 50)[:, None]
    >>> source = mx.sources.ArraySource(X, np.abs(X[:, 0]))
    >>> source.n_rows
    50
    """

    def __init__(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> None:
        if hasattr(X, "columns") and hasattr(X, "to_numpy"):
            self.feature_names = tuple(map(str, X.columns))
            X = X.to_numpy()
        if hasattr(y, "to_numpy"):
            y = y.to_numpy()
        for name, value in (("X", X), ("y", y)):
            if not hasattr(value, "shape") or not hasattr(value, "__getitem__"):
                raise TypeError(
                    f"{name} must be an array, such as numpy.memmap, got {type(value).__name__}"
                )
        if len(X.shape) != 2 or not X.shape[1]:
            raise ValueError(f"X must have rows and columns, got shape {tuple(X.shape)}")
        n = X.shape[0]
        if len(y.shape) not in (1, 2) or y.shape[0] != n:
            raise ValueError(
                f"y must have one entry per row of X ({n}), got shape {tuple(y.shape)}"
            )
        if isinstance(sample_weight, numbers.Real):
            sample_weight = np.broadcast_to(np.float64(sample_weight), (n,))
        self.X, self.y = X, y
        self.sample_weight = _per_row(sample_weight, n, "sample_weight")
        self.offset = _per_row(offset, n, "offset")

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])

    @property
    def in_memory(self) -> bool:
        """Whether X is an ordinary array, neither memory-mapped nor of another library."""
        return isinstance(self.X, np.ndarray) and not isinstance(self.X, np.memmap)

    def blocks(self, rows: int) -> Iterator[Block]:
        """All blocks from the first on; a new iterator at every call.

        Parameters
        ----------
        rows : int
            Rows per block.

        Yields
        ------
        Block
        """
        for i in range(0, self.n_rows, rows):
            parts = (self.X, self.y, self.sample_weight, self.offset)
            yield Block(*(_slice(part, i, i + rows) for part in parts))


def _per_row(values: Any, n: int, name: str) -> Any:
    if values is None:
        return None
    values = values if hasattr(values, "shape") else np.asarray(values)
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if tuple(values.shape) != (n,):
        raise ValueError(f"{name} must have shape ({n},), one entry per row, got {values.shape}")
    return values


def _slice(array: Any, start: int, stop: int) -> Any:
    if array is None:
        return None
    rows = array[start:stop]
    # The copy is made where the file is read: later work must not wait for the disk.
    return np.array(rows) if isinstance(array, np.memmap) else np.asarray(rows)
