"""Parquet files as a source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mixexperts._batch import Array
from mixexperts.sources.base import Block, Source, column_list, missing_columns

# Bytes of a column that are read from a file at once.
_BUFFER_BYTES = 1 << 20

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
        schema = self._dataset().schema
        where = str(self._place) if isinstance(self._place, str) else f"{self.files[0]}, ..."
        missing_columns(self.columns, schema.names, where)
        for name in self.columns:
            _refuse_text(name, schema.field(name).type, where)

    @property
    def n_rows(self) -> int:
        """Number of rows, from the metadata of the files."""
        return int(self._dataset().count_rows())

    def blocks(self, rows: int) -> Iterator[Block]:
        """All blocks from the first on; a new iterator at every call.

        Parameters
        ----------
        rows : int
            Not used: ``batch_rows`` decides.

        Yields
        ------
        Block
        """
        keys = _arrow("pyarrow.dataset").get_partition_keys
        parquet = _arrow("pyarrow.parquet")
        for fragment in self._dataset().get_fragments():
            # Read through a buffer: of a row group, only what is being decoded is held.
            with parquet.ParquetFile(
                fragment.path, buffer_size=_BUFFER_BYTES, pre_buffer=False
            ) as file:
                yield from self._file(file, fragment.path, keys(fragment.partition_expression))

    def _file(self, file: Any, path: str, folders: dict[str, Any]) -> Iterator[Block]:
        """Blocks of one file; ``folders`` are the columns that its path gives."""
        inside = [name for name in self.columns if name not in folders]
        missing_columns(inside, file.schema_arrow.names, path)
        for name in inside:
            _refuse_text(name, file.schema_arrow.field(name).type, path)
        for batch in file.iter_batches(self.batch_rows, columns=inside, use_threads=False):
            if not batch.num_rows:
                continue
            values = np.empty((batch.num_rows, len(self.columns)))
            for j, name in enumerate(self.columns):
                values[:, j] = folders[name] if name in folders else _floats(batch.column(name))
            yield self._block(values)

    def _block(self, values: Array) -> Block:
        first = len(self.feature_names)
        last = first + len(self.response_names)
        y = values[:, first] if last == first + 1 else values[:, first:last]
        more = list(values[:, last:].T)
        weight = more.pop(0) if self.sample_weight is not None else None
        offset = more.pop(0) if self.offset is not None else None
        return Block(values[:, :first], y, weight, offset)


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


def _refuse_text(name: str, kind: Any, where: str) -> None:
    types = _arrow("pyarrow.types")
    kind = kind.value_type if types.is_dictionary(kind) else kind
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if not (number or types.is_boolean(kind)):
        raise ValueError(
            f"column {name!r} of {where} holds {kind}, not numbers; encode it as numbers"
        )


def _floats(column: Any) -> Array:
    """A column as float64; nulls become NaN, and are reported as such."""
    if hasattr(column, "dictionary"):
        column = column.dictionary_decode()
    values: Array = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    return values
