"""Labels of classes: their order, their codes, and a source of rows that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from mixexperts._batch import Array
from mixexperts.errors import InvalidResponseError
from mixexperts.estimators import _checks as checks
from mixexperts.sources import Source
from mixexperts.sources.base import Block

# Rows of a source looked at together when its classes are found.
_BLOCK_ROWS = 65536


@dataclass(frozen=True)
class CodedSource(Source):
    """A source whose response is read as codes of classes.

    Attributes
    ----------
    source : Source
    classes : ndarray of shape (n_classes,)
        Ascending.
    """

    source: Source
    classes: Array

    @property
    def feature_names(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Those of the source."""
        return self.source.feature_names

    @property
    def response_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the source."""
        return self.source.response_names

    @property
    def n_rows(self) -> int | None:
        """That of the source."""
        return self.source.n_rows

    def blocks(self, rows: int) -> Iterator[Block]:
        """Blocks of the source with codes in place of labels."""
        for block in self.source.blocks(rows):
            y = np.asarray(block.y)
            code = np.searchsorted(self.classes, y).astype(np.float64)
            inside = np.minimum(code, len(self.classes) - 1).astype(np.int64)
            # Rows of weight zero may hold any class.
            yield block._replace(y=np.where(self.classes[inside] == y, code, 0.0))


def labels(y: Any) -> Any:
    """Labels as one column, or as an ordered pandas Categorical if they are one."""
    import pandas as pd

    y = checks.in_memory(y)
    dtype = getattr(y, "dtype", None)
    categorical = isinstance(dtype, pd.CategoricalDtype)
    missing = np.asarray(pd.isna(y if categorical else np.asarray(y)))
    if missing.ndim and missing.any():
        row = int(np.flatnonzero(missing.reshape(len(missing), -1).any(axis=1))[0])
        raise ValueError(
            f"y contains NaN or another missing label in row {row}; drop or impute those rows"
        )
    if isinstance(dtype, pd.CategoricalDtype) and dtype.ordered:
        return pd.Categorical(y)
    y = column_or_1d(np.asarray(y), warn=True)
    if y.dtype.kind == "f" and np.isinf(y).any():
        row = int(np.flatnonzero(np.isinf(y))[0])
        raise ValueError(f"y contains infinity in row {row}; give labels of classes")
    check_classification_targets(y)
    return y


def classes_of(y: Any, weight: Array | None) -> Array:
    """The classes of rows of positive weight, in order."""
    import pandas as pd

    used = y if weight is None or len(weight) != len(y) else y[weight > 0.0]
    if isinstance(used, pd.Categorical):
        present = np.flatnonzero(np.bincount(used.codes, minlength=len(used.categories)))
        return np.asarray(used.categories)[present]
    return np.unique(used)


def refuse_one(classes: Array, y: Any, weight: Array | None) -> None:
    if len(classes) > 1:
        return
    where = "" if weight is None or weight.all() else " in the rows of positive weight"
    raise InvalidResponseError(
        f"y holds one class only{where}, {listing(classes)} (n_samples = {len(y)}); a classifier "
        "needs at least 2 classes"
    )


def class_codes(y: Any, classes: Array, weight: Array | None = None) -> Array:
    """Codes of labels as float64; only rows of weight zero may hold an unknown class."""
    values = np.asarray(y)
    order = np.argsort(classes)
    ascending = classes[order]
    try:
        place = np.minimum(np.searchsorted(ascending, values), len(classes) - 1)
    except TypeError as error:
        raise InvalidResponseError(
            f"y holds labels of another kind than the fit's, {listing(classes)}"
        ) from error
    unknown = ascending[place] != values
    if weight is not None:
        unknown &= weight > 0.0
    if np.any(unknown):
        row = int(np.flatnonzero(unknown)[0])
        raise InvalidResponseError(
            f"y holds the class {values[row]!s} in row {row}, which the fit never saw; its classes "
            f"are {listing(classes)}"
        )
    code: Array = order[place].astype(np.float64)
    return code


def classes_of_source(source: Source) -> Array:
    """Classes of the rows of positive weight of a source, in one pass."""
    classes = np.empty(0)
    for block in source.blocks(_BLOCK_ROWS):
        y = np.asarray(block.y)
        if y.ndim != 1 or y.dtype.kind not in "biuf" or not np.isfinite(y).all():
            raise InvalidResponseError(
                "the source must give one finite number per row as y; code classes as numbers"
            )
        used = y if block.weight is None else y[np.asarray(block.weight) > 0.0]
        classes = np.union1d(classes, used)
    refuse_one(classes, classes, None)
    check_classification_targets(classes)
    return classes


def listing(classes: Array, most: int = 10) -> str:
    shown = ", ".join(str(c) for c in classes[:most])
    return shown + (f" and {len(classes) - most} more" if len(classes) > most else "")


def row_weight(sample_weight: Any, n: int) -> Array | None:
    """Weights of n rows; None where there are none, or one per group."""
    if sample_weight is None:
        return None
    values = np.asarray(checks.in_memory(sample_weight))
    if values.ndim == 1 and len(values) != n:
        return None  # one per group, or refused later
    return checks.sample_weight_array(values if values.ndim else sample_weight, n)
