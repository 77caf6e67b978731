"""Blocks of a source, checked and cut anew to chunks of a fixed number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mixexperts._batch import Array
from mixexperts.sources.base import Block, Source, numbers

# Numbers in a chunk of the size that is chosen by itself, and bounds on its rows.
_NUMBERS = 2**19
_ROWS = (1024, 32768)

#: Called with each block, as it comes, and the number of its first row.
Inspector: TypeAlias = Callable[[Block, int], None]


@dataclass(frozen=True)
class Chunks:
    """Chunks of a source: the same in every pass, and however the source cuts its blocks.

    Calling it begins a pass and gives blocks of ``chunk_rows`` rows, the last one shorter:
    float64, C-contiguous, with positive weights. Rows of weight zero are left out.

    Parameters
    ----------
    source : Source
    chunk_rows : int or None, default=None
        None chooses by the number of columns.
    n_given, n_rows : int or None, default=None
        Rows of the source, and those of positive weight, that a pass must give.
    """

    source: Source
    chunk_rows: int | None = None
    n_given: int | None = None
    n_rows: int | None = None

    def __call__(self, inspect: Inspector | None = None) -> Iterator[Block]:
        """One pass; ``inspect`` sees the blocks of the source before they are cut.

        Raises
        ------
        ValueError
            If the blocks do not go together, or their rows are not as many as before.
        """
        pieces = self._pieces(inspect)
        first = next(pieces, None)
        if first is None:
            return
        rows = self.chunk_rows or _default_rows(first.X.shape[1])
        held: list[Block] = []
        n_held = 0
        piece: Block | None = first
        while piece is not None:
            start = 0
            while start < piece.n_rows:
                stop = min(piece.n_rows, start + rows - n_held)
                held.append(piece.take(slice(start, stop)))
                n_held += stop - start
                start = stop
                if n_held == rows:
                    yield _joined(held)
                    held, n_held = [], 0
            piece = next(pieces, None)
        if held:
            yield _joined(held)

    def _pieces(self, inspect: Inspector | None) -> Iterator[Block]:
        """Blocks of arrays that go together, rows of weight zero left out."""
        rows = self.chunk_rows or _ROWS[1]
        like: Block | None = None
        n_given = n_rows = 0
        for i, raw in enumerate(self.source.blocks(rows)):
            block = _arrays(raw, f"block {i} of the source", self.source.response_names)
            like = like or block
            _same_kind(block, like, i)
            if inspect is not None:
                inspect(block, n_given)
            n_given += block.n_rows
            if block.weight is not None and not block.weight.all():
                block = block.take(block.weight > 0)
            n_rows += block.n_rows
            if self.n_given is not None and n_given > self.n_given:
                raise ValueError(_changed(f"more than the {self.n_given} rows", self.n_given))
            if block.n_rows:
                yield block
        if self.n_given is not None and (n_given, n_rows) != (self.n_given, self.n_rows):
            what = f"{n_given} rows, {n_rows} of them of positive weight"
            raise ValueError(_changed(what, self.n_given))


def _changed(got: str, expected: int) -> str:
    hint = (
        "; if it is an IteratorSource, its function must make a fresh iterator at every call"
        if got.startswith("0 ")
        else ""
    )
    return (
        f"the source gave {got} in this pass, but {expected} in the first one; all passes must "
        f"give the same rows{hint}"
    )


def _default_rows(n_features: int) -> int:
    least, most = _ROWS
    return int(min(most, max(least, _NUMBERS // max(n_features, 1))))


def _arrays(raw: Any, where: str, response_names: tuple[str, ...]) -> Block:
    X, y, weight, offset = raw
    X = numbers(X, f"X in {where}", 2)
    y = np.asarray(y)
    y = numbers(
        y, f"y in {where}", 2 if y.ndim == 2 and y.shape[1] > 1 else 1 if y.ndim != 2 else 2
    )
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if len(y) != len(X):
        raise ValueError(f"y in {where} has {len(y)} rows but X has {len(X)}")
    parts: list[Array | None] = []
    for name, values in (("weight", weight), ("offset", offset)):
        array = None if values is None else numbers(values, f"{name} in {where}", 1)
        if array is not None and len(array) != len(y):
            raise ValueError(f"{name} in {where} has {len(array)} entries but y has {len(y)}")
        parts.append(array)
    return Block(X, y, *parts)


def _same_kind(block: Block, first: Block, number: int) -> None:
    """Blocks must have the same columns and parts as the first one."""
    if block.X.shape[1] != first.X.shape[1]:
        raise ValueError(
            f"block {number} of the source has {block.X.shape[1]} columns of features, block 0 "
            f"has {first.X.shape[1]}"
        )
    if block.y.shape[1:] != first.y.shape[1:]:
        raise ValueError(
            f"y in block {number} of the source has shape {block.y.shape}, in block 0 "
            f"{first.y.shape}"
        )
    for name in ("weight", "offset"):
        if (getattr(block, name) is None) != (getattr(first, name) is None):
            has = "no " if getattr(block, name) is None else "a "
            raise ValueError(f"block {number} of the source has {has}{name}, unlike block 0")


def _joined(pieces: list[Block]) -> Block:
    """One chunk of some pieces; a single piece is not copied if it is float64."""
    weights = [np.ones(p.n_rows) if p.weight is None else p.weight for p in pieces]
    offsets = [p.offset for p in pieces if p.offset is not None]
    return Block(
        _float64([p.X for p in pieces]),
        _float64([p.y for p in pieces]),
        _float64(weights),
        _float64(offsets) if offsets else None,
    )


def _float64(arrays: Iterable[Array]) -> Array:
    listed = list(arrays)
    if len(listed) == 1:
        return np.ascontiguousarray(listed[0], dtype=np.float64)
    return np.concatenate(listed, axis=0, dtype=np.float64)
