"""Blocks that a function of the user makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from mixexperts.sources.base import Block, Source, column_list, missing_columns


class IteratorSource(Source):
    """Blocks from a function that gives a fresh iterator at every call.

    Parameters
    ----------
    factory : callable
        Called without arguments at the beginning of every pass. The blocks that it gives are
        ``(X, y)``, ``(X, y, weight)`` or ``(X, y, weight, offset)``, or DataFrames. All passes
        must give the same rows in the same order.
    features, response : list of str, str or list of str, optional
        Columns of DataFrames; by default the features are all columns without another role.
    sample_weight, offset : str, optional
        Columns of DataFrames.

    Raises
    ------
    TypeError
        If ``factory`` is an iterator and not a function, or an argument is no column name.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> def blocks():
    ...     rng = np.random.default_rng(0)
    ...     for _ in range(3):
    ...         X = rng.standard_normal((100, 2))
    ...         yield X, X[:, 0] + 0.1 * rng.standard_normal(100)
    >>> source = mx.sources.IteratorSource(blocks)
    >>> mx.MoERegressor(1).fit(source).coef_.round(1).tolist()
    [[1.0, 0.0]]
    """

    def __init__(
        self,
        factory: Callable[[], Iterable[Any]],
        *,
        features: Any = None,
        response: Any = None,
        sample_weight: str | None = None,
        offset: str | None = None,
    ) -> None:
        if not callable(factory):
            raise TypeError(
                "factory must be a function that gives a fresh iterator at every call, got a "
                f"{type(factory).__name__}: every pass of a fit reads the blocks again. Pass the "
                "function itself, IteratorSource(make_blocks), not what it returns"
            )
        self.factory = factory
        self._features = None if features is None else column_list(features, "features")
        self._response = None if response is None else column_list(response, "response")
        self._weight = (
            None if sample_weight is None else column_list(sample_weight, "sample_weight")[0]
        )
        self._offset = None if offset is None else column_list(offset, "offset")[0]
        self.feature_names = self._features
        self.response_names = self._response or ("y",)

    def blocks(self, rows: int) -> Iterator[Block]:
        """All blocks from the first on; a new iterator at every call.

        Parameters
        ----------
        rows : int
            Not used: the function decides.

        Yields
        ------
        Block
        """
        made = self.factory()
        if not isinstance(made, Iterable):
            raise TypeError(
                f"factory() must give an iterator over blocks, got a {type(made).__name__}"
            )
        for number, item in enumerate(made):
            yield self._block(item, f"block {number}")

    def _block(self, item: Any, where: str) -> Block:
        if hasattr(item, "columns") and hasattr(item, "to_numpy"):
            return self._from_frame(item, where)
        if not isinstance(item, tuple | list) or not 2 <= len(item) <= 4:
            size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise TypeError(
                f"{where} must be (X, y), (X, y, weight), (X, y, weight, offset) or a DataFrame, "
                f"got a {type(item).__name__}{size}"
            )
        X, *rest = item
        if hasattr(X, "columns") and hasattr(X, "to_numpy"):
            X = self._columns(X, where)
        return Block(X, *rest)

    def _columns(self, frame: Any, where: str) -> Any:
        """Features of a DataFrame, in the order of the first one."""
        if self.feature_names is None:
            self.feature_names = tuple(map(str, frame.columns))
        known = list(map(str, frame.columns))
        missing_columns(self.feature_names, known, where)
        order = [known.index(name) for name in self.feature_names]
        return frame.iloc[:, order].to_numpy()

    def _from_frame(self, frame: Any, where: str) -> Block:
        if self._response is None:
            raise TypeError(
                f"{where} is a DataFrame; name its response by IteratorSource(response=)"
            )
        known = list(map(str, frame.columns))
        roles = [*self._response, *filter(None, (self._weight, self._offset))]
        missing_columns(roles, known, where)
        y = np.column_stack([frame[name].to_numpy() for name in self._response])
        return Block(
            self._columns(frame if self._features else frame.drop(columns=roles), where),
            y[:, 0] if len(self._response) == 1 else y,
            None if self._weight is None else frame[self._weight].to_numpy(),
            None if self._offset is None else frame[self._offset].to_numpy(),
        )
