"""Parquet files as a source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mixexperts._batch import Array
from mixexperts.sources.base import Block, Source, column_list, missing_columns

Location: TypeAlias = str | os.PathLike[str]


class ParquetSource(Source):
    """Rows of Parquet files; only the columns that are named are read.

    Files of a folder come in the order of their names, files of a list in the order of the
    list. Integers, booleans, decimals, float32 and dictionaries of numbers become float64;
    nulls are refused by the fit, with their column and row.

    Parameters
    ----------
    path : path-like or list of path-like
        A file, a folder of files (with the Hive layout its folders are columns), or files.
    features : list of str
        Columns of the features, in the order in which the model sees them.
    response : str or list of str
        Column of the response, or columns where the response has several.
    sample_weight, offset : str, optional
        Columns of case weights and of offsets.
    batch_rows : int, default=65536
        Rows that are decoded at once; the result does not depend on it.

    Raises
    ------
    ImportError
        If pyarrow is not there.
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a column is not in the files, is no number, or has two roles.

    Examples
    --------
    >>> import mixexperts as mx
    >>> source = mx.sources.ParquetSource(
    ...     "measurements/", features=["x1", "x2"], response="y"
    ... )  # doctest: +SKIP
    >>> est = mx.MoERegressor(3, random_state=0).fit(source)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: Location | Sequence[Location],
        features: Sequence[str],
        response: str | Sequence[str],
        sample_weight: str | None = None,
        offset: str | None = None,
        batch_rows: int = 65536,
    ) -> None:
        self.files = _files(path)
        self.feature_names: tuple[str, ...] = column_list(features, "features")
        self.response_names = column_list(response, "response")
        self.sample_weight, self.offset = sample_weight, offset
        if isinstance(batch_rows, bool) or not isinstance(batch_rows, int) or batch_rows < 1:
            raise ValueError(f"batch_rows must be a positive integer, got {batch_rows!r}")
        self.batch_rows = batch_rows
        roles = [*self.feature_names, *self.response_names]
        roles += [name for name in (sample_weight, offset) if name is not None]
        column_list(roles, "features, response, sample_weight and offset together")
        self.columns = tuple(roles)
        # A folder itself is handed on: the names of its folders may be columns.
        self._place = str(path) if isinstance(path, str | os.PathLike) else self.files
        self._check_schema()

    def _dataset(self) -> Any:
        dataset = _arrow("pyarrow.dataset")
        if isinstance(self._place, str) and Path(self._place).is_dir():
            return dataset.dataset(
                self.files, format="parquet", partitioning="hive", partition_base_dir=self._place
            )
        return dataset.dataset(self.files, format="parquet")

    def _check_schema(self) -> None:
        types = _arrow("pyarrow.types")
        schema = self._dataset().schema
        where = str(self._place) if isinstance(self._place, str) else f"{self.files[0]}, ..."
        missing_columns(self.columns, schema.names, where)
        for name in self.columns:
            kind = schema.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
            if not (number or types.is_boolean(kind)):
                raise ValueError(
                    f"column {name!r} of {where} holds {kind}, not numbers; encode it as numbers"
                )

    @property
    def n_rows(self) -> int:
        """Number of rows, from the metadata of the files."""
        return int(self._dataset().count_rows())

    def blocks(self, rows: int) -> Iterator[Block]:
        options = _arrow("pyarrow.dataset").ParquetFragmentScanOptions(
            pre_buffer=False, use_buffered_stream=True
        )
        # Little is read ahead here: the thread that calls this already reads ahead of the fit.
        batches = self._dataset().to_batches(
            columns=list(self.columns),
            batch_size=self.batch_rows,
            batch_readahead=1,
            fragment_readahead=1,
            fragment_scan_options=options,
            use_threads=False,
        )
        for batch in batches:
            if batch.num_rows:
                yield self._block(batch)

    def _block(self, batch: Any) -> Block:
        n_features, n_response = len(self.feature_names), len(self.response_names)
        X = np.empty((batch.num_rows, n_features))
        for j in range(n_features):
            X[:, j] = _floats(batch.column(j))
        y = [_floats(batch.column(n_features + j)) for j in range(n_response)]
        more = [_floats(column) for column in batch.columns[n_features + n_response :]]
        weight = more.pop(0) if self.sample_weight is not None else None
        offset = more.pop(0) if self.offset is not None else None
        return Block(X, y[0] if n_response == 1 else np.column_stack(y), weight, offset)


def _arrow(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "ParquetSource needs pyarrow, which is not installed; install it with "
            "pip install 'mixexperts[arrow]'"
        ) from error


def _files(path: Location | Sequence[Location]) -> list[str]:
    """All files of a folder by name, hidden ones left out, or the files as given."""
    if not isinstance(path, str | os.PathLike):
        files = [Path(item) for item in path]
        if not files:
            raise ValueError("path is an empty list; give at least one file")
    elif Path(path).is_dir():
        found = sorted(item for item in Path(path).rglob("*") if item.is_file())
        files = [item for item in found if item.suffix.lower() in (".parquet", ".pq")]
        files = [f for f in files if not any(part[0] in "._" for part in f.relative_to(path).parts)]
        if not files:
            raise FileNotFoundError(f"the folder {path} holds no .parquet file")
    else:
        files = [Path(path)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    return [str(file) for file in files]


def _floats(column: Any) -> Array:
    """A column as float64; nulls become NaN, and are reported as such."""
    if hasattr(column, "dictionary"):
        column = column.dictionary_decode()
    values: Array = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    return values
