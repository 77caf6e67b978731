"""What a source of rows is, and how its blocks become numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixexperts._batch import Array


class Block(NamedTuple):
    """Some rows of a source.

    Parameters
    ----------
    X : ndarray of shape (m, n_features)
        Features; numbers of any kind.
    y : ndarray of shape (m,) or (m, d)
        Response.
    weight, offset : ndarray of shape (m,) or None
        Case weights, and known parts of the linear predictor in units of y.
    """

    X: Array
    y: Array
    weight: Array | None = None
    offset: Array | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows m."""
        return len(self.y)

    def take(self, rows: Any) -> Block:
        """Some of the rows.

        Parameters
        ----------
        rows : slice, mask or indices

        Returns
        -------
        Block
        """
        return Block(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]


class Source(ABC):
    """Rows in blocks of any size, which every pass of a fit reads anew and in the same order.

    A subclass gives :meth:`blocks`. Values may be of any numeric kind; they are checked in
    the first pass, and become float64 in chunks that do not depend on how the source cuts.
    """

    #: Names of the features; None: they have none, or are known once a block was read.
    feature_names: tuple[str, ...] | None = None
    #: What messages call the response; one name per column of y.
    response_names: tuple[str, ...] = ("y",)

    @property
    def n_rows(self) -> int | None:
        """Number of rows, None if that is not known before they are read."""
        return None

    @abstractmethod
    def blocks(self, rows: int) -> Iterator[Block]:
        """All blocks from the first on; a new iterator at every call.

        Parameters
        ----------
        rows : int
            Rows per block that would be convenient.

        Yields
        ------
        Block
        """


def column_list(value: Any, argument: str) -> tuple[str, ...]:
    """One column name or a list of different ones.

    Raises
    ------
    TypeError, ValueError
        If it is neither; the message names the argument.
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{argument} must be a column name or a list of them, got {value!r}")
    value = list(value)
    if not value:
        raise ValueError(f"{argument} is an empty list; name at least one column")
    twice = sorted({item for item in value if value.count(item) > 1})
    if twice:
        raise ValueError(f"{argument} names columns twice: {', '.join(map(repr, twice))}")
    return tuple(value)


def missing_columns(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse columns that are not there, by name.

    Raises
    ------
    ValueError
    """
    missing = [name for name in wanted if name not in known]
    if missing:
        shown = ", ".join(map(repr, known[:30])) + (", ..." if len(known) > 30 else "")
        raise ValueError(
            f"{where} lacks the column{'s' * (len(missing) > 1)} "
            f"{', '.join(map(repr, missing))}; it has {shown}"
        )


def numbers(values: Any, what: str, ndim: int) -> Array:
    """Values as an array of numbers with so many dimensions, not copied if it is one.

    Raises
    ------
    ValueError
        If they are text or other objects, or have another shape; the message says of what.
    """
    array = np.asarray(values)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} cannot be read as numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} cannot be read as numbers: its type is {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{what} must have {ndim} dimension(s), got shape {array.shape}")
    return array
