"""The plain half of formulas: clean columns, missing rows, memory as JSON. No formulaic here."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixexperts.errors import DesignError

Missing = Literal["drop", "raise", "none"]
Kind = Literal["number", "label", "other"]

_NUMBER_WORDS = frozenset({"integer", "floating", "mixed-integer-float", "boolean", "decimal"})
_LABEL_WORDS = frozenset({"string", "mixed", "mixed-integer", "empty", "bytes", "categorical"})


# --- words for errors ------------------------------------------------------------------------


def listing(names: Iterable[Any], limit: int = 12) -> str:
    """Names in quotes, the tail counted when there are more than `limit`."""
    items = [repr(name) for name in names]
    more = f", ... ({len(items) - limit} more)" if len(items) > limit else ""
    return (", ".join(items[:limit]) + more) or "none"


def near(name: str, options: Iterable[str]) -> str:
    """A "did you mean" clause, empty where nothing is close (case is ignored)."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3)
    return f"; did you mean {' or '.join(repr(by_lower[key]) for key in close)}?" if close else ""


# --- data in ---------------------------------------------------------------------------------


def as_frame(data: Any) -> pd.DataFrame:
    """A non-empty data frame from a data frame or a mapping of equally long columns."""
    if isinstance(data, pd.DataFrame):
        frame = data
    elif isinstance(data, Mapping):
        try:
            # .array: the index of a Series says nothing here, rows go by position
            frame = pd.DataFrame(
                {k: v.array if isinstance(v, pd.Series) else v for k, v in data.items()}
            )
        except ValueError as error:
            raise ValueError(
                f"data is a mapping that does not make a table ({error}); "
                "give one-dimensional columns of equal length"
            ) from error
    else:
        raise TypeError(
            f"data must be a pandas DataFrame or a mapping of columns, not {type(data).__name__}; "
            "convert it, for example with pandas.DataFrame(...)"
        )
    if len(frame) == 0:
        raise ValueError("data has no rows; give a table with at least one row")
    return frame


def pick(frame: pd.DataFrame, names: Iterable[str], what: str) -> pd.DataFrame:
    """The named columns, rows renumbered from 0; each must be there exactly once."""
    wanted = list(names)
    absent = [name for name in wanted if name not in frame.columns]
    if absent:
        have = [str(column) for column in frame.columns]
        hint = "".join(near(name, have) for name in absent[:1])
        raise DesignError(
            f"data lacks the columns {listing(absent)} that {what} needs{hint}; "
            f"it has {listing(have)}"
        )
    doubled = [name for name in wanted if (frame.columns == name).sum() > 1]
    if doubled:
        raise DesignError(f"data has more than one column named {listing(doubled)}; rename them")
    return frame[wanted].reset_index(drop=True)


def extra_column(what: str, value: Any, frame: pd.DataFrame) -> pd.Series[Any]:
    """`weights`, `offset` or `groups` as a column: looked up by name, or an array of that length.

    Parameters
    ----------
    what : str
        Name of the argument, for errors.
    value : str or array_like, shape (n,)
        Column name, or values in the order of the rows (an index is not consulted).
    frame : DataFrame, shape (n, any)
        The data.

    Returns
    -------
    Series, shape (n,)

    Raises
    ------
    ValueError
        Where the column is unknown, or the array is not one value per row.
    """
    if isinstance(value, str):
        return pick(frame, [value], f"{what}=")[value]
    array = value if isinstance(value, pd.Series | pd.Index) else np.asarray(value)
    if array.ndim != 1 or len(array) != len(frame):
        raise ValueError(
            f"{what} has shape {array.shape}, but data has {len(frame)} rows; "
            f"give a column name or one value per row"
        )
    return pd.Series(array).reset_index(drop=True)


def kind_of(column: pd.Series[Any]) -> Kind:
    """What a column holds, by its values where its dtype is `object`."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "label"
    if pd.api.types.is_complex_dtype(column.dtype):
        return "other"
    if pd.api.types.is_numeric_dtype(column.dtype):  # bool and the nullable types too
        return "number"
    word = pd.api.types.infer_dtype(column, skipna=True)
    if word in _NUMBER_WORDS:
        return "number"
    return "label" if word in _LABEL_WORDS else "other"


def convert(column: pd.Series[Any], kind: Kind, name: str) -> pd.Series[Any]:
    """The column in one dtype per kind, so that equal values always are coded alike.

    Integers stay integers (level names of `C(h)` come from them) but are widened to 64 bits:
    `x**2` of an 8-bit column would wrap around.
    """
    if kind == "other":
        return column
    if kind == "label":
        if isinstance(column.dtype, pd.CategoricalDtype):
            return column.cat.remove_unused_categories()  # an empty level has no coefficient
        return column.astype(object)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "bif":
        wide = {"b": np.bool_, "i": np.int64, "f": np.float64}[column.dtype.kind]
        return column.astype(wide)
    absent = column.isna()
    try:
        values = column.astype(object).where(~absent, np.nan).to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DesignError(f"column {name!r} cannot be read as numbers ({error})") from error
    word = "" if absent.any() else pd.api.types.infer_dtype(column)
    if word in ("integer", "boolean") and np.all(np.abs(values) < 2.0**53):
        return pd.Series(values.astype(np.int64 if word == "integer" else np.bool_))
    return pd.Series(values)


def check_kind(column: pd.Series[Any], kind: Kind, name: str) -> None:
    """Refuse new data whose column holds something else than it did when fitting."""
    if column.isna().all():
        return
    found = kind_of(column)
    if kind == "number" and found != "number":
        raise DesignError(
            f"column {name!r} held numbers when the model was fitted and now holds "
            f"{column.dtype} values; convert it, for example with pandas.to_numeric"
        )


# --- missing rows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Clean:
    """Used columns after the missing-value rule.

    Attributes
    ----------
    frame : DataFrame, shape (n, columns used)
        Kept rows, converted by kind.
    absent : dict of (n,) bool arrays
        Per column, where it is missing; all False unless ``missing="none"``.
    extra : dict of (n,) arrays
        Evaluated `weights`, `offset`, `groups`.
    rows : (n,) int array
        Positions of the kept rows in the data.
    n_dropped : int
    kinds : dict
        What each column holds.
    """

    frame: pd.DataFrame
    absent: dict[str, NDArray[np.bool_]]
    extra: dict[str, NDArray[Any]]
    rows: NDArray[np.intp]
    n_dropped: int
    kinds: dict[str, Kind]


def clean(
    frame: pd.DataFrame,
    extra: Mapping[str, pd.Series[Any]],
    missing: Missing,
    kinds: Mapping[str, Kind] | None = None,
) -> Clean:
    """Apply the missing-value rule to columns and arrays together, then convert and check them.

    Rows go *before* anything is evaluated, so that knots, means and levels come from the rows
    that the model sees. `kinds` are those of the fit, None when fitting.
    """
    if missing not in ("drop", "raise", "none"):
        raise ValueError(f"missing must be 'drop', 'raise' or 'none', not {missing!r}")
    columns: dict[str, pd.Series[Any]] = {str(name): frame[name] for name in frame.columns}
    holes = {
        **{repr(name): column.isna().to_numpy() for name, column in columns.items()},
        **{f"{name}=": column.isna().to_numpy() for name, column in extra.items()},
    }
    bad = np.logical_or.reduce([np.zeros(len(frame), dtype=bool), *holes.values()])
    counts = ", ".join(f"{name} ({mask.sum()})" for name, mask in holes.items() if mask.any())
    if missing == "raise" and bad.any():
        raise DesignError(
            f"missing values in {counts} of {len(frame)} rows; "
            "fill them or use missing='drop' to leave these rows out"
        )
    if missing == "none":
        bad = np.zeros(len(frame), dtype=bool)
    if bad.all():
        raise DesignError(
            f"no complete row among {len(frame)}; missing values in {counts}; "
            "fill them or leave the emptiest column out of the formula"
        )
    keep = np.flatnonzero(~bad)
    kept = {
        name: column.iloc[keep].reset_index(drop=True) for name, column in columns.items()
    }
    found: dict[str, Kind] = {}
    for name, column in kept.items():
        if kinds is not None:
            check_kind(column, kinds[name], name)
        found[name] = kinds[name] if kinds is not None else kind_of(column)
    converted = {name: convert(column, found[name], name) for name, column in kept.items()}
    for name, column in converted.items():
        if found[name] == "number":
            refuse_infinite(f"column {name!r}", column.to_numpy(dtype=np.float64), keep)
    return Clean(
        frame=pd.DataFrame(converted, index=pd.RangeIndex(keep.size)),
        absent={name: column.isna().to_numpy() for name, column in converted.items()},
        extra={name: _extra_array(name, column.iloc[keep], keep) for name, column in extra.items()},
        rows=keep,
        n_dropped=int(bad.sum()),
        kinds=found,
    )


def _extra_array(what: str, column: pd.Series[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    if what == "groups":
        return column.to_numpy()
    if kind_of(column) != "number":
        raise ValueError(f"{what} holds {column.dtype} values; give numbers")
    values = convert(column.reset_index(drop=True), "number", what).to_numpy(dtype=np.float64)
    refuse_infinite(what, values, rows)
    return values


def refuse_infinite(what: str, values: NDArray[np.float64], rows: NDArray[np.intp]) -> None:
    """Raise where a column holds an infinity; `rows` are the positions to name."""
    at = np.flatnonzero(np.isinf(values))
    if at.size:
        raise DesignError(
            f"{what} holds infinite values in {at.size} of {values.size} rows "
            f"(first at row {rows[at[0]]}); replace them or leave these rows out"
        )


# --- memory of transforms as plain data ------------------------------------------------------


def encode(value: Any, where: str) -> Any:
    """Nested dicts, lists, arrays and scalars as what JSON can hold, keys of any kind kept.

    Raises
    ------
    ValueError
        For any other object, naming the term in `where` that keeps it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return {"array": value.tolist(), "shape": list(value.shape), "dtype": value.dtype.str}
    if isinstance(value, Mapping):
        return {"map": [[encode(k, where), encode(v, where)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [encode(item, where) for item in value]
    raise DesignError(
        f"{where} keeps a value of type {type(value).__name__}, which a saved model cannot hold; "
        "turn it into text or numbers in the data first, for example with .astype(str)"
    )


def decode(value: Any) -> Any:
    """Invert `encode`; each call makes new objects."""
    if isinstance(value, dict) and "array" in value:
        return np.asarray(value["array"], dtype=value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {decode(k): decode(v) for k, v in value["map"]}
    return [decode(item) for item in value] if isinstance(value, list) else value
