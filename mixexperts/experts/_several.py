"""Responses of several columns: offsets, and values that are missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mixexperts._batch import Array, Batch


def offset_columns(batch: Batch) -> Array:
    """Offsets of the batch as (n, d), or as (n, 1) where all responses have the same."""
    offset = batch.offset
    assert offset is not None
    return offset if offset.ndim == 2 else offset[:, None]


def missing_patterns(y: Array) -> Iterator[tuple[Any, Array]]:
    """Rows with the same responses observed, and which those are (numbers of columns).

    Rows come as a slice over all of them where nothing is missing.
    """
    lost = np.isnan(y)
    if not lost.any():
        yield slice(None), np.arange(y.shape[1])
        return
    # As many columns at a time as an integer has bits.
    code = np.zeros(len(y), dtype=np.int64)
    for first in range(0, y.shape[1], 32):
        bits = lost[:, first : first + 32] @ (1 << np.arange(min(32, y.shape[1] - first)))
        code = np.unique(code * (1 << 32) + bits if first else bits, return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        yield rows, np.flatnonzero(~lost[rows[0]])


def filled(values: Array, weight: Array) -> Array:
    """Values (n, d) with the weighted means of the columns in place of NaN."""
    lost = np.isnan(values)
    if not lost.any():
        return values
    known = np.where(lost, 0.0, values)
    share = np.where(lost, 0.0, weight[:, None])
    mean = (share * known).sum(axis=0) / np.maximum(share.sum(axis=0), np.finfo(float).tiny)
    return np.where(lost, mean, values)
