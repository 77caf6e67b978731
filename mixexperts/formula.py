"""Formulas: ``"y ~ x + C(g) | z"`` and a data frame in, named design matrices out.

The bar separates the experts' terms from the gate's. This is the only file that imports
formulaic, which parses the text and codes the columns; what it is not trusted with is done here
and in `_formula_state`: missing rows, unseen levels, names in errors, and memory. The memory of a
fitted formula (knots, means, levels) is kept as plain data, and every new matrix is built from
that plain data, so a formula read back from a file cannot behave otherwise than the one saved.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import formulaic
import numpy as np
import pandas as pd
from formulaic import Formula, ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning
from formulaic.materializers import PandasMaterializer
from formulaic.parser.types import Factor, Term
from formulaic.transforms import TRANSFORMS
from numpy.typing import NDArray

from mixexperts._formula_state import (
    Clean,
    Kind,
    Missing,
    as_frame,
    clean,
    decode,
    encode,
    extra_column,
    listing,
    near,
    pick,
)
from mixexperts.errors import DesignError, UnseenLevelError

Array: TypeAlias = NDArray[np.float64]
#: Terms as plain data: per term its factors, each an expression and how formulaic evaluates it.
Terms: TypeAlias = tuple[tuple[tuple[str, str], ...], ...]

_SCHEMA = 1
_INTERCEPT_ONLY: Terms = ((("1", "literal"),),)
_LABELS = {"response": "the response", "experts": "the experts' part", "gate": "the gate's part"}
#: Python's own functions that a formula may call; the others (open, eval, ...) it may not.
_BUILTINS = frozenset(
    {"abs", "bool", "float", "int", "len", "max", "min", "pow", "range", "round", "sum"}
)


# === formulaic's internals ===================================================================
# Written against formulaic 1.2. Everything that leans on more than its documented calls is in
# this block; tests/unit/test_formula.py checks each assumption by name (TestFormulaicMoved).


class _Materializer(PandasMaterializer):  # type: ignore[misc]
    """formulaic's materializer that refuses levels it would silently turn into zeros.

    No REGISTER_NAME of its own: it must not become formulaic's default for data frames.
    """

    def _encode_evaled_factor(
        self, factor: Any, spec: Any, drop_rows: Any, reduced_rank: bool = False
    ) -> Any:
        known = self._levels(factor, spec)
        if known is not None:
            self._refuse_unseen(factor, known)
            return super()._encode_evaled_factor(factor, spec, drop_rows, reduced_rank)
        with warnings.catch_warnings():  # said by _refuse_unseen, as an error
            warnings.simplefilter("ignore", DataMismatchWarning)
            encoded = super()._encode_evaled_factor(factor, spec, drop_rows, reduced_rank)
        known = self._levels(factor, spec)
        if known is not None:  # `C(g, levels=...)` may leave out levels of the very first data
            self._refuse_unseen(factor, known)
        return encoded

    @staticmethod
    def _levels(factor: Any, spec: Any) -> list[Any] | None:
        _, state = spec.encoder_state.get(factor.expr, (None, {}))
        return state.get("categories")

    def _refuse_unseen(self, factor: Any, known: list[Any]) -> None:
        values = getattr(factor.values, "__wrapped__", factor.values)
        seen = pd.unique(pd.Series(values).dropna()).tolist()
        unseen = [level for level in seen if level not in set(known)]
        if unseen:
            columns = sorted(_names_in(factor.expr, factor.factor.eval_method.value)[0])
            where = " and ".join(repr(c) for c in columns if c in self.data.columns)
            raise UnseenLevelError(
                f"column {where} has levels the model does not know: {listing(unseen)}; known "
                f"levels: {listing(known)}; leave these rows out or fit again with them"
            )


def _parse(text: str, columns: Iterable[str]) -> tuple[tuple[Terms, ...], tuple[Terms, ...]]:
    """Left parts and right parts of a formula; `columns` are what "." stands for."""
    context = {"__formulaic_variables_available__": columns}
    try:
        if re.search(r"[~|]\s*(\||$)", text.strip()):
            raise DesignError(f"the formula {text!r} has an empty part; write 1 for a constant")
        parsed = Formula(text, _context=context)
    except (DesignError, MemoryError):
        raise
    except Exception as error:  # formulaic lets errors of Python's parser through as well
        raise DesignError(
            f"the formula {text!r} cannot be read: {_one_line(error)}; write terms joined by +, "
            "and Python expressions inside I(...)"
        ) from error
    if isinstance(parsed, SimpleFormula):
        return (), (_plain_terms(parsed),)
    sides = parsed._to_dict(recurse=False)
    right = sides["rhs"] if "rhs" in sides else sides["root"]
    return _plain_parts(sides.get("lhs", ())), _plain_parts(right)


def _plain_parts(side: Any) -> tuple[Terms, ...]:
    return tuple(_plain_terms(part) for part in (side if isinstance(side, tuple) else (side,)))


def _plain_terms(part: Any) -> Terms:
    return tuple(tuple((f.expr, f.eval_method.value) for f in term.factors) for term in part)


def _materialize(
    terms: Terms, frame: pd.DataFrame, env: Mapping[str, Any], transforms: Any, encoders: Any
) -> tuple[Any, Any]:
    """Evaluate terms with the given memory; the matrix and the model spec that made it."""
    spec = ModelSpec(
        formula=SimpleFormula(
            [Term([Factor(expr, eval_method=how) for expr, how in term]) for term in terms],
            _ordering="none",
        ),
        na_action="ignore",
        output="numpy",  # a data frame would merge columns of equal name
        transform_state=decode(transforms),
        encoder_state={
            expr: (Factor.Kind(kind), {} if levels is None else {"categories": decode(levels)})
            for expr, (kind, levels) in encoders.items()
        },
    )
    with np.errstate(all="ignore"):  # log of a negative number: refused below, by name
        matrix = _Materializer(frame, context=dict(env)).get_model_matrix(spec)
    return np.asarray(matrix.__wrapped__, dtype=np.float64), matrix.model_spec


def _memory(spec: Any, label: str) -> tuple[Any, dict[str, list[Any]]]:
    """Transform and encoder state of a model spec as plain data.

    Contrast objects are left out: formulaic makes them again from the expression.
    """
    encoders: dict[str, list[Any]] = {}
    for expr, (kind, state) in spec.encoder_state.items():
        odd = set(state) - {"categories", "contrasts"}
        if odd:
            raise DesignError(f"{label}: {expr!r} codes several columns at once; use one column")
        levels = state.get("categories")
        where = f"{label}: {expr!r}"
        encoders[expr] = [kind.value, None if levels is None else encode(list(levels), where)]
    return encode(spec.transform_state, label), encoders


def _columns_of(spec: Any) -> tuple[tuple[str, ...], int]:
    """Column names in order, and the position of the intercept (-1: none)."""
    names: list[str] = []
    intercept = -1
    for entry in spec.structure:
        if all(f.eval_method is Factor.EvalMethod.LITERAL for f in entry.term.factors):
            intercept = len(names)
        names += [str(name) for name in entry.columns]
    return tuple(names), intercept


# === end of formulaic's internals ============================================================


def _one_line(error: BaseException) -> str:
    """An error's text without terminal colours, on one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).replace("⧛", ">>").replace("⧚", "<<")
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    return ": ".join(lines) or type(error).__name__


def _names_in(expr: str, how: str = "python") -> tuple[set[str], set[str]]:
    """Names that an expression reads, and those that it calls.

    formulaic's own list misses what stands before a method call, as x in ``(x + z).clip(0)``.
    """
    if how == "literal":
        return set(), set()
    if how == "lookup":
        return {expr}, set()
    values = set(re.findall(r"`([^`]+)`", expr))
    nodes = list(ast.walk(ast.parse(re.sub(r"`[^`]+`", " None ", expr).strip(), mode="eval")))
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise DesignError(f"{expr!r} uses the private attribute {node.attr!r}; leave it out")
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    called = [node.func for node in calls if isinstance(node.func, ast.Name)]
    for call in calls:  # Q("a b") names a column by text
        if isinstance(call.func, ast.Name) and call.func.id == "Q":
            values |= {str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)}
    local = {node.arg for node in nodes if isinstance(node, ast.arg)}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    local |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    values |= {node.id for node in names if node not in called} - local
    return values, {node.id for node in called} - local


def _columns_used(
    part: str, terms: Terms, columns: Sequence[str], env: Mapping[str, Any]
) -> tuple[str, ...]:
    """Data columns that the terms read, in order; every other name must be known, or it raises."""
    used: dict[str, None] = {}
    functions = {*env, *TRANSFORMS, *_BUILTINS}
    for expr, how in dict.fromkeys(factor for term in terms for factor in term):
        values, calls = _names_in(expr, how)
        for name in sorted(values):
            if name in columns:
                used[name] = None
            elif how == "lookup" or name not in functions:
                raise DesignError(
                    f"{_LABELS[part]} uses {name!r}, which is not a column"
                    f"{near(name, columns)}; columns: {listing(columns)}"
                )
        for name in sorted(calls - functions):
            raise DesignError(
                f"{_LABELS[part]} calls the unknown function {name!r}{near(name, functions)}; "
                f"a function of your own goes in env={{{name!r}: ...}}"
            )
    return tuple(used)


class _Dot:
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


def _split(
    formula: str, gate: str | None, columns: Iterable[Any], special: Iterable[str]
) -> dict[str, Terms]:
    """Terms of the response, the experts and the gate."""
    for name, text in (("formula", formula), ("gate", gate)):
        if not isinstance(text, str) and not (name == "gate" and text is None):
            raise TypeError(f"{name} must be text such as 'y ~ x', not {type(text).__name__}")
    left, _ = _parse(formula, ())  # "." is empty here: it needs to know the response first
    if not left:
        raise DesignError(f"the formula {formula!r} has no response; write 'y ~ x'")
    if len(left) > 1:
        raise DesignError(f"the response of {formula!r} holds '|'; write two columns as 's + f'")
    in_response = {
        name for term in left[0] for expr, how in term for name in _names_in(expr, how)[0]
    }
    dot = _Dot(columns, in_response | set(special))
    right = _parse(formula, dot)[1]
    if len(right) > 2:
        raise DesignError(
            f"the formula {formula!r} has {len(right)} parts on its right side; expected one or "
            "two: 'y ~ experts | gate'"
        )
    if gate is None:
        gate_terms = right[1] if len(right) == 2 else _INTERCEPT_ONLY
    elif len(right) == 2:
        raise DesignError(
            f"the gate is given twice, after '|' in {formula!r} and by gate={gate!r}; keep one"
        )
    else:
        gate_left, gate_right = _parse(gate, dot)
        if gate_left or len(gate_right) > 1:
            raise DesignError(f"gate={gate!r} must have one side and one part, such as '~ z'")
        gate_terms = gate_right[0]
    if not right[0]:
        raise DesignError(
            f"the experts' part of {formula!r} has no terms and no intercept; write 1 for one"
        )
    return {"response": left[0], "experts": right[0], "gate": gate_terms}


@dataclass(frozen=True)
class _Part:
    """A fitted part, all plain data: its terms, columns used, memory, columns made."""

    terms: Terms
    uses: tuple[str, ...]
    transforms: Any = field(default_factory=lambda: {"map": []})
    encoders: dict[str, list[Any]] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None  # None: not fitted yet
    intercept: int = -1

    @property
    def names(self) -> tuple[str, ...]:
        columns = self.columns or ()
        return tuple(name for i, name in enumerate(columns) if i != self.intercept)

    @property
    def text(self) -> str:
        """The terms as a one-sided formula."""
        shown = [
            ":".join(f"`{e}`" if how == "lookup" and not e.isidentifier() else e for e, how in term)
            for term in self.terms
        ]
        return "~ " + " + ".join(shown if self.intercept >= 0 else ["0", *shown])

    def build(
        self, name: str, frame: pd.DataFrame, env: Mapping[str, Any], rows: NDArray[np.intp]
    ) -> tuple[Array, _Part]:
        """The matrix (n, all columns) of complete rows, and the part with its memory."""
        label = _LABELS[name]
        try:
            matrix, spec = _materialize(
                self.terms, frame[list(self.uses)], env, self.transforms, self.encoders
            )
        except (DesignError, MemoryError):
            raise
        except Exception as error:  # whatever a user's expression may raise
            text = _one_line(error)
            hint = "'; write for example bs(x, df=4, extrapolation=\"clip\")" * (
                "extrapolation" in text
            )
            raise DesignError(f"{label} cannot be evaluated: {text}{hint.lstrip(chr(39))}") from error
        columns, intercept = _columns_of(spec)
        if self.columns is not None and columns != self.columns:
            raise DesignError(
                f"{label} makes the columns {listing(columns)} of these data, but made "
                f"{listing(self.columns)} when fitting (formulaic {formulaic.__version__}); "
                "give columns of the same types as then"
            )
        bad = ~np.isfinite(matrix)
        if bad.any():
            made = [column for column, any_bad in zip(columns, bad.any(axis=0), strict=True) if any_bad]
            where = np.flatnonzero(bad.any(axis=1))
            raise DesignError(
                f"{label}: {listing(made)} is not finite in {where.size} of {len(frame)} rows "
                f"(first at row {rows[where[0]]}); leave these rows out or change the term"
            )
        if self.columns is not None:
            return matrix, self
        transforms, encoders = _memory(spec, label)
        return matrix, _Part(self.terms, self.uses, transforms, encoders, columns, intercept)

    def design(
        self, name: str, table: Clean, env: Mapping[str, Any]
    ) -> tuple[Array, _Part]:
        """The matrix without its intercept column; rows with missing values are NaN."""
        whole = ~np.logical_or.reduce(
            [np.zeros(table.rows.size, dtype=bool), *(table.absent[use] for use in self.uses)]
        )
        if not whole.any() and self.columns is not None:
            return np.full((whole.size, len(self.names)), np.nan), self
        if not whole.any():
            raise DesignError(f"{_LABELS[name]} has no row without missing values; fill some")
        at = np.flatnonzero(whole)
        frame = table.frame if whole.all() else table.frame.iloc[at].reset_index(drop=True)
        matrix, part = self.build(name, frame, env, table.rows[at])
        if self.columns is None and name != "response":
            part.refuse_looking_across(name, frame, matrix, env)
        if part.intercept >= 0:
            matrix = np.delete(matrix, part.intercept, axis=1)
        if whole.all():
            return matrix, part
        full = np.full((whole.size, matrix.shape[1]), np.nan)
        full[at] = matrix
        return full, part

    def refuse_looking_across(
        self, name: str, frame: pd.DataFrame, matrix: Array, env: Mapping[str, Any]
    ) -> None:
        """Raise where a row's values hang on the other rows, as in ``I(x - x.mean())``.

        Such a term would be another term at prediction, without a word. Seen by building the
        first rows alone: with memory (`center`, `poly`, ...) they come out the same.
        """
        few = min(8, len(frame) - 1)
        if few < 1 or not self.uses:
            return
        advice = (
            "so it would change with the data at prediction; use center(x), scale(x), ..., or "
            "compute the column before fitting"
        )
        try:
            alone, _ = self.build(name, frame.iloc[:few], env, np.arange(few))
        except DesignError as error:
            raise DesignError(f"{_LABELS[name]} hangs on more than one row, {advice}") from error
        size = np.abs(matrix).max(axis=0, initial=np.finfo(float).tiny)
        off = np.any(np.abs(alone - matrix[:few]) > 1e-8 * size, axis=0)
        if off.any():
            made = [c for c, is_off in zip(self.columns or (), off, strict=True) if is_off]
            raise DesignError(
                f"{_LABELS[name]}: {listing(made)} is computed across rows, {advice}"
            )


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
    rows : ndarray of shape (n,), int
        Positions in the data of the rows kept.
    n_dropped : int
        Rows left out for missing values.
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


@dataclass(frozen=True)
class FormulaSpec:
    """A fitted formula: builds the same columns of new data, and turns into plain data.

    Attributes
    ----------
    formula : str
        As typed.
    gate : str
        The gate's part as a one-sided formula, ``"~ 1"`` where none was given.
    offset : str or None
        Column of the offset, where it was given by name; needed again at prediction.
    needs_offset : bool
        Whether there was an offset at all.
    """

    formula: str
    gate: str
    offset: str | None
    needs_offset: bool
    _parts: dict[str, _Part]
    _kinds: dict[str, Kind]
    _env: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def y_names(self) -> tuple[str, ...]:
        """Names of the response columns, one or two."""
        return self._parts["response"].names

    @property
    def y_name(self) -> str:
        """Name of the response; two columns are joined by ``" + "``."""
        return " + ".join(self.y_names)

    @property
    def x_names(self) -> tuple[str, ...]:
        """Names of the p columns of X."""
        return self._parts["experts"].names

    @property
    def z_names(self) -> tuple[str, ...]:
        """Names of the q columns of Z."""
        return self._parts["gate"].names

    @property
    def x_intercept(self) -> bool:
        """Whether the experts have an intercept."""
        return self._parts["experts"].intercept >= 0

    @property
    def z_intercept(self) -> bool:
        """Whether the gate has an intercept."""
        return self._parts["gate"].intercept >= 0

    @property
    def variables(self) -> frozenset[str]:
        """Columns of the data that prediction needs."""
        used = {*self._parts["experts"].uses, *self._parts["gate"].uses}
        return frozenset(used if self.offset is None else used | {self.offset})
