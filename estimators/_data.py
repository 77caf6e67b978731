"""The rows of a fit: in memory, or read anew in every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from mixexperts._batch import Array, Batch
from mixexperts.em.engine import Model
from mixexperts.em.executors import one_blas_thread
from mixexperts.em.streaming import PassBar, Stream
from mixexperts.estimators._frame import Frame
from mixexperts.estimators._units import Given, Grouping
from mixexperts.experts.base import Expert
from mixexperts.sources.arrays import ArraySource
from mixexperts.sources.base import Block, Source
from mixexperts.sources.chunks import Chunks
from mixexperts.sources.prefetch import Prefetch
from mixexperts.sources.scan import PrioritySample, Scan, Summary

# Rows per block of an in-memory fit: the block and its scratch arrays stay in the cache.
_BLOCK_ROWS = 32768
# Share of a response's spread that is left where it is a linear combination of others.
_DEPENDENT = 1e-9
# Starts are made from at most this many rows; the runs themselves use all rows.
_START_ROWS = 20000
# At least so many sampling units, however many rows they have.
_START_UNITS = 200


@dataclass(frozen=True)
class Placed:
    """The rows as the engine sees them.

    Attributes
    ----------
    frame : Frame
    blocks : sequence of Batch or Stream
        All rows of positive weight.
    sample : Batch
        Rows that starts are made from, with their features.
    labelled : callable
        Gives the rows that are partitioned where ``init`` holds labels, and which of the rows
        of the data they are (with groups, one row of each): a mask or numbers; None: all.
    digest : str
        Of the data, where the blocks are not at hand for one.
    """

    frame: Frame
    blocks: Sequence[Batch] | Stream
    sample: Batch
    labelled: Callable[[], tuple[Batch, Array | None]]
    digest: str = ""


class Data(Protocol):
    """What a fit needs to know of its rows before they have a frame."""

    n_given: int
    n_rows: int
    #: Sampling units: groups, or the rows where there are none; and the sum of their weights.
    n_units: int
    weight: float
    row_weight: float
    groups: Grouping | None
    log_prior: Array | None
    has_offset: bool
    n_features: int
    n_columns: int
    response_range: tuple[Any, Any]

    def place(
        self,
        model: Model,
        columns: tuple[Array, Array],
        names: tuple[str, ...],
        lazy: bool,
        backend: str,
    ) -> Placed:
        """Learn the frame from the rows, and see them through it; ``lazy`` where it pays."""

    def dependent_response(self) -> int | None:
        """First column of y that is a linear combination of those before it, if seen at once."""


class Resident:
    """Rows in memory."""

    def __init__(self, given: Given, *, seed: int) -> None:
        self.given = given
        self.seed = seed
        self.n_rows, self.n_features = given.X.shape
        self.n_given, self.n_units = given.n_given, len(given.weight)
        self.weight = float(given.weight.sum())
        self.row_weight = float(given.row_weight.sum())
        self.groups, self.log_prior = given.groups, given.log_prior
        y, offset = given.y, given.offset
        self.has_offset = offset is not None
        self.n_columns = 1 if y.ndim == 1 else y.shape[1]
        wide = y.ndim > 1 and offset is not None and offset.ndim == 1
        response = y if offset is None else y - (offset[:, None] if wide else offset)
        # Of each column, without the values that are missing and bounds that are not known.
        if response.ndim > 1:
            response = np.where(np.isinf(response), np.nan, response)
        self.response_range = np.fmin.reduce(response), np.fmax.reduce(response)

    def place(
        self,
        model: Model,
        columns: tuple[Array, Array],
        names: tuple[str, ...],
        lazy: bool,
        backend: str,
    ) -> Placed:
        given = self.given
        rows = (given.X, given.y, given.weight, given.offset)
        frame = Frame.fit(model, *rows, columns, names, given.unit)
        batch = frame.batch(
            *rows,
            # Few rows are made ready at once, and so are those that the compiled pass leaves.
            lazy=lazy
            and self.n_rows > _BLOCK_ROWS
            and given.unit is None
            and given.log_prior is None,
            unit=given.unit,
            log_prior=given.log_prior,
        )
        taken = np.union1d(*columns)
        features = given.X if len(taken) == self.n_features else given.X[:, taken]
        sample = _sample(batch, features, self.seed)
        # The GPU's executor cuts by itself.
        blocks = batch.split(None if backend == "cupy" else _BLOCK_ROWS)
        return Placed(frame, blocks, sample, lambda: (batch, given.used))

    def dependent_response(self) -> int | None:
        """Over the rows without missing responses, if there are enough of them."""
        whole = self.given.y[~np.isnan(self.given.y).any(axis=1)]
        if self.has_offset or len(whole) <= 2 * self.n_columns:
            return None
        away = whole - whole.mean(axis=0)
        size = np.sqrt(np.square(away).mean(axis=0))
        if not (size > 0.0).all():
            return None
        factor = np.linalg.qr(away / size, mode="r")
        left = np.abs(np.diagonal(factor)) <= _DEPENDENT * np.sqrt(len(whole))
        return int(left.argmax()) if left.any() else None


def _sample(batch: Batch, features: Array, seed: int) -> Batch:
    """The rows that starts are made from, with their features: all rows, or some of many.

    Sampling units come along whole.
    """
    if batch.n_rows > _START_ROWS:
        size = _START_ROWS
        if batch.unit is not None:
            size = max(_START_UNITS, _START_ROWS * batch.n_units // batch.n_rows)
        if batch.n_units > size:
            sample = PrioritySample(size, seed)
            for i in range(0, batch.n_units, _BLOCK_ROWS):
                weight = batch.weight[i : i + _BLOCK_ROWS]
                sample.add(weight, np.arange(i, i + len(weight)))
            weight, (units,) = sample.take()
            if batch.unit is None:
                features = features[units]
            else:
                features = features[np.isin(batch.unit, units)]
            batch = replace(batch.pick(units), weight=weight)
    batch = batch.dense()
    return replace(batch, designs={**batch.designs, "features": features})


class Streamed:
    """Rows that are read from a source in every pass; making it is the first pass."""

    def __init__(
        self,
        source: Source,
        chunk_rows: int | None,
        expert: Expert,
        *,
        seed: int,
        digest: bool,
        show: bool,
    ) -> None:
        self.show = show
        chunks = Chunks(source, chunk_rows)

        def several(columns: int) -> bool:
            return expert.for_response(columns).multivariate

        check = partial(_check_response, expert)
        scan = Scan(source, check, _START_ROWS, seed, digest, several)
        self.summary = _first_pass(chunks, scan, source.n_rows if show else None, show)
        summary = self.summary
        y = np.asarray(summary.sample.y, dtype=np.float64)
        self.n_columns = 1 if y.ndim == 1 else y.shape[1]
        if not np.all(summary.highest > 0.0):  # what holds of all rows, such as no trial at all
            expert.for_response(self.n_columns).check_response(y)
        if summary.sample.offset is not None and several(self.n_columns):
            raise ValueError(
                "a source has one offset for each row, and so many responses take one each; leave "
                "it out, or give arrays in memory and an offset of the shape of y"
            )
        self.chunks = replace(chunks, n_given=summary.n_given, n_rows=summary.n_rows)
        self.n_given, self.n_rows = summary.n_given, summary.n_rows
        self.n_units = self.n_rows
        self.groups: Grouping | None = None
        self.log_prior: Array | None = None
        self.weight = self.row_weight = summary.weight
        self.has_offset = summary.sample.offset is not None
        self.n_features = summary.sample.X.shape[1]
        self.response_range = summary.lowest, summary.highest

    def place(
        self,
        model: Model,
        columns: tuple[Array, Array],
        names: tuple[str, ...],
        lazy: bool,
        backend: str,
    ) -> Placed:
        summary = self.summary
        frame = Frame.from_moments(
            model, summary.features, summary.response, self._features, columns, names
        )
        stream = Stream(
            self.chunks,
            partial(_batch, frame, lazy=lazy),
            self.n_rows,
            self.weight,
            self.show,
            frame.log_jacobian(self.weight),
        )
        batch = _batch(frame, summary.sample)
        features = summary.sample.X[:, np.union1d(*columns)]
        sample = replace(batch, designs={**batch.designs, "features": features})
        return Placed(frame, stream, sample, partial(self._labelled, frame, batch), summary.digest)

    def dependent_response(self) -> int | None:
        """None: that would take a pass; such a fit ends at the floor of the covariance."""
        return None

    def _labelled(self, frame: Frame, sample: Batch) -> tuple[Batch, Array | None]:
        """All rows if they are in memory anyway, so that chunks do not matter; else the sample."""
        source = self.chunks.source
        if not isinstance(source, ArraySource) or not source.in_memory:
            return sample, self.summary.sample_rows
        weight = source.sample_weight
        weight = None if weight is None else np.asarray(weight, dtype=np.float64)
        used = slice(None) if weight is None or weight.all() else weight > 0
        block = Block(source.X, source.y, weight, source.offset).take(used)
        return _batch(frame, block), None if isinstance(used, slice) else used

    def _features(self) -> Iterator[tuple[Array, Array]]:
        """X and weights of all rows, in one more pass."""
        with Prefetch(self.chunks) as chunks:
            for chunk in chunks:
                assert chunk.weight is not None
                yield chunk.X, chunk.weight


def _batch(frame: Frame, rows: Block, lazy: bool = False) -> Batch:
    return frame.batch(*rows, lazy=lazy)


def _check_response(expert: Expert, y: Array) -> None:
    given = 1 if y.ndim == 1 else y.shape[1]
    family = expert.for_response(given)
    if not (family.takes_columns(given) or family.multivariate):
        raise ValueError(
            f"y has {given} columns, but {family.name!r} experts take "
            f"{' or '.join(map(str, family.response_columns))}; name as many in the source"
        )
    family.check_rows(y)


def _first_pass(chunks: Chunks, scan: Scan, n_rows: int | None, show: bool) -> Summary:
    """Checks and draws on the reading thread, moments on this one."""
    bar = PassBar(n_rows, label="reading") if show else None
    try:
        if bar is not None:
            bar.begin()
        # Chunks are too thin for the threads of BLAS to pay, as in the passes.
        with (
            one_blas_thread(),
            Prefetch(partial(chunks, scan.inspect)) as items,
        ):
            for chunk in items:
                scan.add(chunk)
                if bar is not None:
                    bar.advance(chunk.n_rows)
    finally:
        if bar is not None:
            bar.close()
    return scan.summary()
