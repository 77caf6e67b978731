"""The first pass over a source: checks, moments, a digest, and rows to start from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixexperts._batch import Array, TreeSum
from mixexperts._moments import Moments, ObservedMoments
from mixexperts.errors import InvalidResponseError
from mixexperts.sources.base import Block, Source


class PrioritySample:
    """A sample of rows, drawn while they pass by; all rows if they are not more than that.

    Heavy rows are sure to come along, and the new weights give sums over all rows without
    bias. The sample depends on the seed and on the order of the rows, not on the blocks.

    Parameters
    ----------
    size : int
    seed : int

    References
    ----------
    Duffield, N., Lund, C. and Thorup, M. (2007). Priority sampling for estimation of arbitrary
    subset sums. Journal of the ACM 54, 32.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._rng = np.random.default_rng([seed, size])
        self._held: list[tuple[Array | None, ...]] = []
        self._n_held = 0
        self._least = -np.inf

    def add(self, weight: Array, *arrays: Array | None) -> None:
        """Rows with their positive weights (m,), and whatever belongs to them, by rows."""
        with np.errstate(divide="ignore"):
            priority = weight / self._rng.random(len(weight))
        mask = priority > self._least
        rows = (priority, weight, *arrays)
        self._held.append(tuple(None if part is None else part[mask] for part in rows))
        self._n_held += int(np.count_nonzero(mask))
        if self._n_held > 2 * self.size:
            self._drop()

    def _drop(self) -> None:
        """Keep the rows of highest priority: one more than asked for, the threshold."""
        if not self._held:
            return
        columns: list[Array | None] = [
            None if parts[0] is None else np.concatenate(parts)
            for parts in zip(*self._held, strict=True)
        ]
        priority = columns[0]
        assert priority is not None
        if len(priority) > self.size + 1:
            keep = np.sort(np.argpartition(-priority, self.size)[: self.size + 1])
            columns = [None if column is None else column[keep] for column in columns]
            self._least = float(priority[keep].min())
            self._n_held = len(keep)
        self._held = [tuple(columns)]

    def take(self) -> tuple[Array, list[Any]]:
        """Weights of the sampled rows, and the arrays that belong to them, in their order."""
        self._drop()
        priority, weight, *arrays = self._held[0]
        assert priority is not None
        assert weight is not None
        if len(priority) > self.size:
            last = int(priority.argmin())
            keep = np.arange(len(priority)) != last
            weight = np.maximum(weight[keep], priority[last])
            arrays = [None if array is None else array[keep] for array in arrays]
        return weight, arrays


@dataclass(frozen=True)
class Summary:
    """What the first pass found; rows of weight zero are only counted.

    Attributes
    ----------
    n_given, n_rows : int
        Rows of the source, and those of positive weight.
    features, response : Moments
        Moments of X, and of y less its offset (ObservedMoments of several responses).
    lowest, highest : float, or ndarray of shape (d,)
        Range of y less its offset; of each of several responses, NaN without a value.
    sample : Block
        Rows to make starts from, with weights that stand for all rows.
    sample_rows : ndarray of int
        Which rows of the source they are.
    digest : str
        Of all values and of the chunks; empty if not asked for.
    """

    n_given: int
    n_rows: int
    features: Moments
    response: Moments | ObservedMoments
    lowest: Any
    highest: Any
    sample: Block
    sample_rows: Array
    digest: str

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return self.features.weight


class Scan:
    """Makes a :class:`Summary` of a source: ``inspect`` its blocks and ``add`` its chunks.

    Parameters
    ----------
    source : Source
        Gives the names that messages use.
    check_response : callable
        Called with y; raises ``InvalidResponseError`` if a row cannot be used.
    sample_size, seed : int
        Of the sample.
    digest : bool, default=False
        Whether to make a digest of the data.
    is_several : callable, optional
        Called with the number of columns of y: whether these are so many responses, of which
        some may be missing (NaN).
    """

    def __init__(
        self,
        source: Source,
        check_response: Callable[[Array], None],
        sample_size: int,
        seed: int,
        digest: bool = False,
        is_several: Callable[[int], bool] = lambda columns: False,
    ) -> None:
        self._is_several = is_several
        self._source = source
        self._check_response = check_response
        self._sample = PrioritySample(sample_size, seed)
        self._digest = hashlib.sha256() if digest else None
        self._features: TreeSum[Moments] = TreeSum(Moments.merged)
        self._response: TreeSum[Any] = TreeSum(lambda left, right: left.merged(right))
        self._lowest: Any = np.inf
        self._highest: Any = -np.inf
        self._n_given = 0

    def inspect(self, block: Block, first_row: int) -> None:
        """Check a block as it comes from the source, and draw from it.

        Raises
        ------
        ValueError
            If a number is missing, infinite or not allowed; names its column and row.
        """
        self._n_given = first_row + block.n_rows
        names = self._source.feature_names
        _finite(block.X, names or [f"x{j}" for j in range(block.X.shape[1])], "X", first_row)
        y = block.y if block.y.ndim == 2 else block.y[:, None]
        named = self._source.response_names
        known = np.nan_to_num(y, nan=0.0) if self._several(block.y) else y
        _finite(known, named if len(named) == y.shape[1] else ["y"] * y.shape[1], "y", first_row)
        if block.offset is not None:
            _finite(block.offset[:, None], ["offset"], "offset", first_row)
        rows = np.arange(first_row, first_row + block.n_rows)
        if block.weight is not None:
            _weights(block.weight, first_row)
            if not block.weight.all():
                used = block.weight > 0
                block, rows = block.take(used), rows[used]
        weight = np.ones(block.n_rows) if block.weight is None else block.weight
        self._refuse_response(block.y, rows)
        self._sample.add(weight, block.X, block.y, block.offset, rows)

    def _several(self, y: Array) -> bool:
        return y.ndim == 2 and self._is_several(y.shape[1])

    def _refuse_response(self, y: Array, rows: Array) -> None:
        """Let the family check y; find the row that it refuses."""
        if not len(y):
            return
        y = y.astype(np.float64, copy=False)
        try:
            self._check_response(y)
        except InvalidResponseError:
            low, high = 0, len(y)  # y[:low] will do, y[:high] will not
            while high - low > 1:
                middle = (low + high) // 2
                try:
                    self._check_response(y[:middle])
                    low = middle
                except InvalidResponseError:
                    high = middle
            try:
                self._check_response(y[low:high])
            except InvalidResponseError as error:
                raise InvalidResponseError(
                    f"y in row {rows[low]} of the source: {error}"
                ) from error
            raise  # of no single row

    def add(self, chunk: Block) -> None:
        """Take in the next chunk."""
        assert chunk.weight is not None
        response = chunk.y.astype(np.float64).reshape(chunk.n_rows, -1)
        if chunk.offset is not None:
            response = response - chunk.offset[:, None]
        self._features.add(Moments.of(chunk.X, chunk.weight))
        if self._several(chunk.y):
            self._lowest = np.fmin(self._lowest, np.fmin.reduce(response, axis=0))
            self._highest = np.fmax(self._highest, np.fmax.reduce(response, axis=0))
            self._response.add(ObservedMoments.of(response, chunk.weight))
        else:
            self._lowest = min(self._lowest, float(response.min()))
            self._highest = max(self._highest, float(response.max()))
            self._response.add(Moments.of(response, chunk.weight))
        if self._digest is not None:
            for part in chunk:
                if part is not None:
                    self._digest.update(str(part.shape).encode())
                    self._digest.update(part.data)

    def summary(self) -> Summary:
        """The result.

        Raises
        ------
        ValueError
            If there was no row, or none of positive weight.
        """
        if not self._n_given:
            raise ValueError("the source is empty; give at least one row")
        if not np.isfinite(self._highest).any():
            raise ValueError(
                "sample_weight is zero in every row of the source; give at least one positive "
                "weight"
            )
        features = self._features.total()
        weight, (X, y, offset, rows) = self._sample.take()
        return Summary(
            self._n_given,
            features.n_rows,
            features,
            self._response.total(),
            self._lowest,
            self._highest,
            Block(np.asarray(X, dtype=np.float64), y.astype(np.float64), weight, offset),
            rows,
            "" if self._digest is None else self._digest.hexdigest(),
        )


def _finite(values: Array, names: Any, what: str, first_row: int) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    row, column = np.argwhere(~finite)[0]
    value = values[row, column]
    kind = "missing (NaN or null)" if np.isnan(value) else "infinite"
    name = names[column]
    where = what if name == what else f"column {name!r} of {what}"
    raise ValueError(
        f"{where} is {kind} in row {first_row + row} of the source; drop or impute such rows"
    )


def _weights(weight: Array, first_row: int) -> None:
    finite = np.isfinite(weight)
    wrong = ~finite | (weight < 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"sample_weight is {weight[row]:g} in row {first_row + row} of the source; give "
            "finite weights >= 0"
        )
