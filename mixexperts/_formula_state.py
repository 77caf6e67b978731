"""The half of formulas that needs no formulaic: names, clean columns, missing rows, memory."""

from __future__ import annotations

import ast
import difflib
import numbers
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixexperts.errors import DesignError

Array: TypeAlias = NDArray[np.float64]
Missing: TypeAlias = Literal["drop", "raise", "none"]
Kind: TypeAlias = Literal["number", "label", "other"]
Env: TypeAlias = Mapping[str, Any]
#: Terms as plain data: per term its factors, each an expression and how formulaic evaluates it.
Terms: TypeAlias = tuple[tuple[tuple[str, str], ...], ...]

_NUMBER_WORDS = ("integer", "floating", "mixed-integer-float", "boolean", "decimal")
_LABEL_WORDS = ("string", "mixed", "mixed-integer", "empty", "bytes", "categorical")
_MANY_LEVELS = 20


@dataclass(frozen=True, eq=False)
class FormulaData:
    """Arrays that a formula makes of a table; n rows kept, p and q columns without intercepts.

    Attributes
    ----------
    y : ndarray of shape (n,) or (n, 2), or None
        Response; two columns for ``"s + f ~ x"``; None where it was not asked for.
    y_name : str
        ``"y"``, or ``"s + f"``.
    X, Z : ndarray of shape (n, p), (n, q)
        Designs of the experts and of the gate, never with an intercept column.
    x_names, z_names : tuple of str
        Names of their columns.
    x_intercept, z_intercept : bool
        Whether the part has an intercept.
    rows, n_dropped : ndarray of shape (n,), int
        Positions in the data of the rows kept; how many were left out for missing values.
    extra : dict of str to ndarray of shape (n,)
        ``"weights"``, ``"offset"``, ``"groups"``, those that were given, for the rows kept.
    """

    y: Array | None
    y_name: str
    X: Array
    x_names: tuple[str, ...]
    x_intercept: bool
    Z: Array
    z_names: tuple[str, ...]
    z_intercept: bool
    rows: NDArray[np.intp]
    n_dropped: int
    extra: dict[str, NDArray[Any]]


# --- words for errors ------------------------------------------------------------------------


def listing(names: Iterable[Any], limit: int = 12) -> str:
    """Names in quotes, the tail counted when there are more than `limit`."""
    items = [repr(name) for name in names]
    more = f", ... ({len(items) - limit} more)" if len(items) > limit else ""
    return (", ".join(items[:limit]) + more) or "none"


def near(name: str, options: Iterable[Any]) -> str:
    """A "did you mean" remark, empty where nothing is close (case is ignored)."""
    by_lower = {option.lower(): option for option in sorted(map(str, options))}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3)
    return f" (did you mean {' or '.join(repr(by_lower[key]) for key in close)}?)" if close else ""


def one_line(error: BaseException) -> str:
    """An error's text without terminal colours, on one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).replace("⧛", ">>").replace("⧚", "<<")
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    return ": ".join(lines) or type(error).__name__


def refuse_not_finite(
    what: str, values: Array, rows: NDArray[np.intp], names: Iterable[str] = (), nan: bool = True
) -> None:
    """Raise where `values`, (n,) or (n, columns), are infinite or NaN, naming columns and a row."""
    bad = (~np.isfinite(values) if nan else np.isinf(values)).reshape(len(values), -1)
    at = np.flatnonzero(bad.any(axis=1))
    if at.size:
        worst = np.atleast_1d(bad.any(axis=0))
        of = [name for name, is_bad in zip(names, worst, strict=False) if is_bad]
        raise DesignError(
            f"{what}{': ' + listing(of) if of else ''} holds infinite or undefined values in "
            f"{at.size} of {len(values)} rows (first at row {rows[at[0]]}); leave these rows out "
            "or change the term"
        )


def refuse_changed(
    label: str, alone: Array, together: Array, rows: NDArray[np.intp], names: Iterable[str]
) -> None:
    """Raise where rows built alone, (m, p), differ from those built with all, (n, p)."""
    size = np.abs(together).max(axis=0, initial=np.finfo(float).tiny)
    off = np.any(np.abs(alone - together[rows]) > 1e-8 * size, axis=0).tolist()
    made = [name for name, is_off in zip(names, off, strict=True) if is_off]
    if made:
        raise DesignError(
            f"{label}: {listing(made)} of one row hangs on the other rows and would change with "
            "the new data; use center(x), scale(x), ..., or compute the column before fitting"
        )


# --- names in expressions --------------------------------------------------------------------


def names_in(expr: str, how: str) -> tuple[set[str], set[str]]:
    """Names that an expression reads, and those that it calls.

    formulaic's own list misses what stands before a method call, as x in ``(x + z).clip(0)``.
    """
    if how != "python":
        return ({expr} if how == "lookup" else set()), set()
    values = set(re.findall(r"`([^`]+)`", expr))
    nodes = list(ast.walk(ast.parse(re.sub(r"`[^`]+`", " None ", expr).strip(), mode="eval")))
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise DesignError(f"{expr!r} uses the private attribute {node.attr!r}; leave it out")
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    called = {id(call.func): call.func.id for call in calls if isinstance(call.func, ast.Name)}
    for call in calls:  # Q("a b") names a column by text
        if called[id(call.func)] == "Q":
            values |= {str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    local = {node.arg for node in nodes if isinstance(node, ast.arg)}  # of a lambda, a loop
    local |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    values |= {node.id for node in names if id(node) not in called} - local
    return values, set(called.values()) - local


def quoted(expr: str, how: str) -> str:
    """A factor as it is typed: column names that are no identifiers stand in backticks."""
    return f"`{expr}`" if how == "lookup" and not expr.isidentifier() else expr


def columns_used(
    label: str, terms: Terms, columns: Iterable[Any], functions: Iterable[str]
) -> tuple[str, ...]:
    """Data columns that the terms read, in order; a name known to neither list raises."""
    used, called = dict[str, None](), set[str]()
    known, functions = list(columns), set(functions)
    for expr, how in dict.fromkeys(factor for term in terms for factor in term):
        values, calls = names_in(expr, how)
        for name in sorted(values):
            if name in known:
                used[name] = None
            elif how == "lookup" or name not in functions:
                what = "not a column" if how == "lookup" else "neither a column nor in env"
                raise DesignError(
                    f"{label} uses {name!r}, which is {what}{near(name, known)}; "
                    f"columns: {listing(known)}"
                )
        for name in sorted(calls - functions):
            raise DesignError(
                f"{label} calls the unknown function {name!r}{near(name, functions)}; "
                f"a function of your own goes in env={{{name!r}: ...}}"
            )
        called |= calls
    if called & set(used):
        raise DesignError(f"{label} calls {listing(called & set(used))}, a column; rename it")
    return tuple(used)


class Dot:
    """What "." stands for; raises only when it is used with columns that have no text name."""

    def __init__(self, columns: Iterable[Any], excluded: Iterable[str]) -> None:
        out = set(excluded)
        self.columns = [column for column in columns if column not in out]

    def __iter__(self) -> Iterator[str]:
        odd = [column for column in self.columns if not isinstance(column, str)]
        if odd:
            raise DesignError(
                f"'.' cannot stand for columns whose names are not text: {listing(odd)}; "
                "rename them, for example with data.rename(columns=str)"
            )
        return iter(self.columns)


def split(
    formula: str,
    gate: str | None,
    columns: Iterable[Any],
    special: Iterable[str],
    parse: Callable[[str, Iterable[str]], tuple[tuple[Terms, ...], tuple[Terms, ...]]],
) -> dict[str, Terms]:
    """Terms of the response, the experts and the gate, refused in user's words if malformed."""
    for name, text in (("formula", formula), ("gate", "~ 1" if gate is None else gate)):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be text such as 'y ~ x', not {type(text).__name__}")
    left, _ = parse(formula, ())  # "." is empty here: it needs to know the response first
    if not left:
        raise DesignError(f"the formula {formula!r} has no response; write 'y ~ x'")
    if len(left) > 1:
        raise DesignError(f"the response of {formula!r} holds '|'; write two columns as 's + f'")
    response = {n for term in left[0] for factor in term for n in names_in(*factor)[0]}
    dot = Dot(columns, response | set(special))
    experts, *gates = parse(formula, dot)[1]
    if len(gates) > 1:
        raise DesignError(
            f"the formula {formula!r} has {1 + len(gates)} parts on its right side; expected one "
            "or two: 'y ~ experts | gate'"
        )
    if gates and gate is not None:
        raise DesignError(
            f"the gate is given twice, after '|' in {formula!r} and by gate={gate!r}; keep one"
        )
    if not gates:
        gate_left, gates_right = parse("~ 1" if gate is None else gate, dot)
        if gate_left or len(gates_right) > 1:
            raise DesignError(f"gate={gate!r} must have one side and one part, as in '~ z'")
        gates = list(gates_right)
    if not experts:
        raise DesignError(
            f"the experts' part of {formula!r} has no terms and no intercept; write 1 for one"
        )
    return {"response": left[0], "experts": experts, "gate": gates[0]}


# --- data in ---------------------------------------------------------------------------------


def as_frame(data: Any) -> pd.DataFrame:
    """A non-empty data frame from a data frame or a mapping of equally long columns."""
    if isinstance(data, Mapping):
        try:  # .array: the index of a Series says nothing here, rows go by position
            data = pd.DataFrame(
                {k: v.array if isinstance(v, pd.Series) else v for k, v in data.items()}
            )
        except ValueError as error:
            raise ValueError(f"data does not make a table: {error}") from error
    if not isinstance(data, pd.DataFrame):
        raise TypeError(
            f"data must be a pandas DataFrame or a mapping of columns, not {type(data).__name__}"
        )
    if len(data) == 0:
        raise ValueError("data has no rows; give a table with at least one row")
    return data


def pick(frame: pd.DataFrame, names: Iterable[str], what: str) -> pd.DataFrame:
    """The named columns; each must be there exactly once."""
    wanted = list(names)
    absent = [name for name in wanted if name not in frame.columns]
    if absent:
        raise DesignError(
            f"data lacks the columns {listing(absent)} that {what} needs"
            f"{near(absent[0], frame.columns)}; it has {listing(frame.columns)}"
        )
    doubled = [name for name in wanted if (frame.columns == name).sum() > 1]
    if doubled:
        raise DesignError(f"data has more than one column named {listing(doubled)}; rename them")
    return frame[wanted]


def extra_column(what: str, value: Any, frame: pd.DataFrame) -> pd.Series[Any]:
    """`weights`, `offset` or `groups`: a column by name, or an array by position."""
    if isinstance(value, str):
        return pick(frame, [value], f"{what}=")[value]
    if isinstance(value, pd.Series) and not value.index.equals(frame.index):
        raise ValueError(
            f"{what} is a Series whose index differs from that of data; align them, or pass its "
            "values (to_numpy()) to go by position"
        )
    array = value if isinstance(value, pd.Series | pd.Index) else np.asarray(value)
    if array.ndim != 1 or len(array) != len(frame):
        raise ValueError(
            f"{what} has shape {array.shape}, but data has {len(frame)} rows; "
            "give a column name or one value per row"
        )
    return pd.Series(array)


def kind_of(column: pd.Series[Any]) -> Kind:
    """What a column holds, by its values where its dtype is `object`."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "label"
    if pd.api.types.is_complex_dtype(column.dtype):
        return "other"
    if pd.api.types.is_numeric_dtype(column.dtype):  # bool and the nullable types too
        return "number"
    word = pd.api.types.infer_dtype(column, skipna=True)
    return "number" if word in _NUMBER_WORDS else "label" if word in _LABEL_WORDS else "other"


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
        return column.astype({"b": np.bool_, "i": np.int64, "f": np.float64}[column.dtype.kind])
    absent = column.isna()
    if kind_of(column) != "number" and not absent.all():
        raise DesignError(
            f"column {name!r} held numbers when the model was fitted and now holds "
            f"{column.dtype} values; convert it, for example with pandas.to_numeric"
        )
    values = column.astype(object).where(~absent, np.nan).to_numpy(dtype=np.float64)
    word = "" if absent.any() else pd.api.types.infer_dtype(column)
    if word in ("integer", "boolean") and np.all(np.abs(values) < 2.0**53):
        return pd.Series(values.astype(np.int64 if word == "integer" else np.bool_))
    return pd.Series(values)


def check_lookups(label: str, terms: Terms, table: Clean) -> None:
    """Refuse bare columns that formulaic would take, but that hardly are what was meant."""
    for name in (expr for term in terms for expr, how in term if how == "lookup"):
        column, kind = table.frame[name], table.kinds[name]
        if kind == "other":
            raise DesignError(
                f"{label} uses column {name!r} of type {column.dtype}; convert it to numbers first"
            )
        if kind == "label" and label == "the response":
            raise DesignError(
                f"the response {name!r} holds {column.dtype} labels, expected numbers; for classes "
                "take family='multinomial' or 'ordinal', or convert with pandas.to_numeric"
            )
        levels = column.nunique() if kind == "label" and column.dtype == object else 0
        if levels > max(_MANY_LEVELS, len(column) / 2):
            raise DesignError(
                f"column {name!r} holds text with {levels} distinct values in {len(column)} rows, "
                "and each would become a level; convert numbers stored as text with "
                f"pandas.to_numeric, or write C({name}) if levels are meant"
            )


# --- missing rows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Clean:
    """Used columns after the missing-value rule: n rows kept, converted by kind.

    `absent` tells per column where it is missing (nowhere, unless ``missing="none"``), `extra`
    holds `weights`, `offset` and `groups`, `rows` the positions (n,) of the rows in the data.
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
    spare: Sequence[frozenset[str]] = (),
    unbounded: Collection[str] = (),
) -> Clean:
    """Apply the missing-value rule to columns and arrays together, then convert and check them.

    Rows go *before* anything is evaluated: knots, means and levels come from the rows that the
    model sees. `kinds` are those of the fit, None when fitting. `spare` holds the columns of each
    of several responses: ``"drop"`` keeps a row that has one of them. `unbounded` columns may
    hold infinities.
    """
    if missing not in ("drop", "raise", "none"):
        raise ValueError(f"missing must be 'drop', 'raise' or 'none', not {missing!r}")
    columns: dict[str, pd.Series[Any]] = {str(name): frame[name] for name in frame.columns}
    holes = {f"column {name!r}": column.isna().to_numpy() for name, column in columns.items()}
    holes |= {name: column.isna().to_numpy() for name, column in extra.items()}
    bad = np.logical_or.reduce([np.zeros(len(frame), dtype=bool), *holes.values()])
    counts = ", ".join(f"{name}: {mask.sum()}" for name, mask in holes.items() if mask.any())
    if missing == "raise" and bad.any():
        raise DesignError(
            f"missing values in {bad.sum()} of {len(frame)} rows ({counts}); "
            "fill them, or leave these rows out with missing='drop'"
        )
    if missing == "none":
        bad[:] = False
    elif spare:
        needed = set(columns) - frozenset().union(*spare)
        lost = [holes[f"column {name!r}"] for name in needed]
        lost += [mask for name, mask in holes.items() if name in extra]
        bad = np.logical_or.reduce([_of_terms(columns, spare).all(axis=1), *lost])
    if bad.all():
        raise DesignError(f"no complete row of {len(frame)}; missing in {counts}; fill them")
    keep = np.flatnonzero(~bad)
    kept = {name: column.iloc[keep].reset_index(drop=True) for name, column in columns.items()}
    found = {name: kinds[name] if kinds else kind_of(column) for name, column in kept.items()}
    converted = {name: convert(column, found[name], name) for name, column in kept.items()}
    for name, column in converted.items():
        if found[name] == "number" and name not in unbounded:
            values = column.to_numpy(dtype=np.float64)
            refuse_not_finite(f"column {name!r}", values, keep, nan=False)
    return Clean(
        frame=pd.DataFrame(converted, index=pd.RangeIndex(keep.size)),
        absent={name: column.isna().to_numpy() for name, column in converted.items()},
        extra={name: _extra_array(name, column.iloc[keep], keep) for name, column in extra.items()},
        rows=keep,
        n_dropped=int(bad.sum()),
        kinds=found,
    )


def _of_terms(columns: Mapping[str, Any], per_term: Sequence[frozenset[str]]) -> Array:
    """Where each term lacks one of its columns, (n, terms) of bool."""
    n = len(next(iter(columns.values())))
    lost = [[columns[name].isna().to_numpy() for name in sorted(term)] for term in per_term]
    return np.stack([np.logical_or.reduce([np.zeros(n, bool), *of]) for of in lost], axis=1)


def holes_of_terms(table: Clean, per_term: Sequence[frozenset[str]]) -> Array:
    """Where each term of several responses is missing, (n, terms) of bool."""
    return _of_terms({str(name): table.frame[name] for name in table.frame.columns}, per_term)


def spare_columns(
    per_term: Sequence[frozenset[str]], needed: Iterable[str]
) -> tuple[frozenset[str], ...]:
    """What each of several responses alone uses: of these columns some may be missing."""
    others = frozenset(needed)
    return tuple(term - others for term in per_term)


def _extra_array(what: str, column: pd.Series[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    if what == "groups":
        return column.to_numpy()
    if kind_of(column) != "number":
        raise ValueError(f"{what} holds {column.dtype} values; give numbers")
    values = convert(column.reset_index(drop=True), "number", what).to_numpy(dtype=np.float64)
    refuse_not_finite(what, values, rows, nan=False)
    return values


# --- memory of transforms as plain data ------------------------------------------------------


def encode(value: Any, where: str) -> Any:
    """Nested dicts, lists, arrays and scalars as what JSON can hold, keys of any kind kept."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return {"array": value.tolist(), "dtype": value.dtype.str}
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
        return np.asarray(value["array"], dtype=value["dtype"])
    if isinstance(value, dict):
        return {decode(k): decode(v) for k, v in value["map"]}
    return [decode(item) for item in value] if isinstance(value, list) else value
