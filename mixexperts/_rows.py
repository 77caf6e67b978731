"""Rows of a data frame as the estimator behind a formula takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rows:
    """Rows as the estimator sees them.

    Attributes
    ----------
    X : DataFrame of shape (m, n_columns)
    y, offset : ndarray of shape (m,) or None
    groups : ndarray of shape (m,) or None
        Labels of groups, of a fit that had them, where the response was asked for.
    kept : ndarray of int of shape (m,)
        Their positions among the n rows of the data.
    index : Index of length n
    """

    X: pd.DataFrame
    y: Array | None
    offset: Array | None
    kept: Array
    index: pd.Index
    groups: Array | None = None

    def spread(self, values: Array) -> Array:
        """Values of the kept rows (m, ...) at their places among all rows, NaN elsewhere."""
        if len(values) == len(self.index):
            return values
        full = np.full((len(self.index), *values.shape[1:]), np.nan)
        full[self.kept] = values
        return full


def union_design(built: Any, index: pd.Index) -> pd.DataFrame:
    """Columns of experts and gate side by side, a column that both use only once."""
    import pandas as pd

    columns: dict[str, Array] = dict(zip(built.x_names, np.asarray(built.X, float).T, strict=True))
    columns |= dict(zip(built.z_names, np.asarray(built.Z, float).T, strict=True))
    # An estimator wants at least one column, be it one that neither room looks at.
    return pd.DataFrame(columns or {"(none)": np.ones(len(index))}, index=index)
