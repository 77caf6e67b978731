"""Sources of rows that need not fit in memory, for ``est.fit(source)``."""

from mixexperts.sources.arrays import ArraySource
from mixexperts.sources.base import Block, Source
from mixexperts.sources.iterators import IteratorSource
from mixexperts.sources.parquet import ParquetSource

__all__ = ["ArraySource", "Block", "IteratorSource", "ParquetSource", "Source"]
