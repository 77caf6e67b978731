"""Formulas: ``"y ~ x + C(g) | z"`` and a data frame in, named design matrices out.

The bar separates the experts' terms from the gate's. This is the only file that imports
formulaic, which parses the text and codes the columns; what it is not trusted with is done here
and in `_formula_state`: missing rows, unseen levels, names in errors, memory. What a fitted formula
remembers (knots, means, levels) is plain data, and every new matrix is made from that.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic import Formula, ModelSpec, SimpleFormula
from formulaic.materializers import PandasMaterializer
from formulaic.parser.types import Factor, Term
from formulaic.transforms import TRANSFORMS
from numpy.typing import NDArray

from mixexperts import _formula_parts as parts_of
from mixexperts import _formula_state as plain
from mixexperts._formula_state import Array, Clean, Env, FormulaData, Kind, Missing, Terms, listing
from mixexperts.errors import DesignError, RankDeficientWarning, UnseenLevelError, warn

__all__ = ["FormulaData", "FormulaSpec"]

_SCHEMA = 1
_SAVED = ("formula", "gate", "offset", "needs_offset")
_LABELS = {"response": "the response", "experts": "the experts' part", "gate": "the gate's part"}
#: Python's own functions that a formula may call; the others (open, eval, ...) it may not.
_BUILTINS = ("abs", "bool", "float", "int", "len", "max", "min", "pow", "range", "round", "sum")


# === formulaic's internals ===================================================================
# Written against formulaic 1.2; tests/unit/test_formula.py checks what is leant on here.


class _Materializer(PandasMaterializer):  # type: ignore[misc]
    """formulaic's materializer that refuses levels it would silently turn into zeros."""

    # No REGISTER_NAME of its own: it must not become formulaic's default for data frames.
    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _encode_evaled_factor(
        self, factor: Any, spec: Any, drop_rows: Any, reduced_rank: bool = False
    ) -> Any:
        self._refuse_unseen(factor, spec)
        with warnings.catch_warnings(action="ignore"):  # _refuse_unseen says it, as an error
            encoded = super()._encode_evaled_factor(factor, spec, drop_rows, reduced_rank)
        self._refuse_unseen(factor, spec)  # `C(g, levels=...)` may leave out levels of the fit
        return encoded

    def _refuse_unseen(self, factor: Any, spec: Any) -> None:
        known = spec.encoder_state.get(factor.expr, (None, {}))[1].get("categories")
        if known is None:
            return
        values = pd.Series(getattr(factor.values, "__wrapped__", factor.values)).dropna()
        levels = set(known)
        unseen = [level for level in pd.unique(values).tolist() if level not in levels]
        if unseen:
            read, _ = plain.names_in(factor.expr, factor.factor.eval_method.value)
            where = " and ".join(repr(c) for c in sorted(read) if c in self.data.columns)
            raise UnseenLevelError(
                f"column {where} has levels the model does not know: {listing(unseen)}; known "
                f"levels: {listing(known)}; leave these rows out or fit again with them"
            )


def _parse(text: str, columns: Iterable[str]) -> tuple[tuple[Terms, ...], tuple[Terms, ...]]:
    """Left parts and right parts of a formula; `columns` are what "." stands for."""
    if re.search(r"(^|[~|])\s*(\||$)", text.strip()):
        raise DesignError(f"the formula {text!r} has an empty part; write 1 for a constant")
    try:
        parsed = Formula(text, _context={"__formulaic_variables_available__": columns})
    except (DesignError, MemoryError):
        raise
    except Exception as error:  # formulaic lets errors of Python's parser through as well
        raise DesignError(
            f"the formula {text!r} cannot be read: {plain.one_line(error)}; join terms by +, and "
            "put Python expressions inside I(...)"
        ) from error
    sides = {"root": parsed} if isinstance(parsed, SimpleFormula) else parsed._to_dict(False)

    def parts(side: Any) -> tuple[Terms, ...]:
        return tuple(
            tuple(tuple((f.expr, f.eval_method.value) for f in term.factors) for term in part)
            for part in (side if isinstance(side, tuple) else (side,))
        )

    return parts(sides.get("lhs", ())), parts(sides.get("rhs", sides.get("root")))


def _materialize(part: _Part, frame: pd.DataFrame, env: Env) -> tuple[Any, Any]:
    """Evaluate a part with its memory; the matrix and the model spec that made it."""
    terms = [Term([Factor(expr, eval_method=how) for expr, how in term]) for term in part.terms]
    spec = ModelSpec(
        formula=SimpleFormula(terms, _ordering="none"),
        na_action="ignore",
        output="numpy",  # a data frame would merge columns of equal name
        transform_state=plain.decode(part.transforms),
        encoder_state={
            expr: (Factor.Kind(kind), {} if levels is None else {"categories": levels})
            for expr, kind, levels in part.encoders
        },
    )
    with np.errstate(all="ignore"):  # log of a negative number: refused later, by name
        matrix = _Materializer(frame, context=dict(env)).get_model_matrix(spec)
    return np.asarray(matrix.__wrapped__, dtype=np.float64), matrix.model_spec


def _remember(part: _Part, spec: Any) -> _Part:
    """The part with the memory and the columns of a model spec, as plain data.

    Contrast objects are left out: formulaic makes them again from the expression.
    """
    encoders, label = [], _LABELS[part.name]
    columns, intercept = _columns_of(spec)
    for expr, (kind, state) in spec.encoder_state.items():
        if set(state) - {"categories", "contrasts"}:
            raise DesignError(f"{label}: {expr!r} codes several columns at once; use one column")
        levels = list(state["categories"]) if state else None
        if levels is not None and len(levels) == 1:
            warn(
                f"{label}: the factor {expr!r} has the single level {levels[0]!r}: it adds "
                "nothing to the intercept",
                RankDeficientWarning,
            )
        encoders.append([expr, kind.value, plain.encode(levels, f"{label}: {expr!r}")])
    known = plain.encode(spec.transform_state, label)
    return _Part(
        part.name, part.terms, part.uses, known, encoders, columns, intercept, part.infinite
    )


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


def _columns_used(part: str, terms: Terms, columns: Iterable[Any], env: Env) -> tuple[str, ...]:
    return plain.columns_used(_LABELS[part], terms, columns, {*env, *TRANSFORMS, *_BUILTINS})


@dataclass(frozen=True)
class _Part:
    """The response, the experts' or the gate's part, all plain data: terms, memory, columns.

    `columns` counts the intercept, at position `intercept` (-1: none); None before the fit.
    `encoders` are [expression, kind, levels or None]. `infinite`: values may be infinite.
    """

    name: str
    terms: Terms
    uses: tuple[str, ...]
    transforms: Any = field(default_factory=lambda: {"map": []})
    encoders: list[list[Any]] = field(default_factory=list)
    columns: tuple[str, ...] | None = None
    intercept: int = -1
    infinite: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c for i, c in enumerate(self.columns or ()) if i != self.intercept)

    @property
    def text(self) -> str:
        terms = [":".join(plain.quoted(*factor) for factor in term) for term in self.terms]
        return "~ " + " + ".join(terms if self.intercept >= 0 else ["0", *terms])

    def build(
        self, frame: pd.DataFrame, env: Env, rows: NDArray[np.intp], holes: Any = False
    ) -> tuple[Array, _Part]:
        """Matrix (n, all columns) and the part with the memory it has then; NaN at `holes` only."""
        label = _LABELS[self.name]
        try:
            matrix, spec = _materialize(self, frame[list(self.uses)], env)
        except (DesignError, MemoryError):
            raise
        except Exception as error:  # a user's expression may raise anything
            raise DesignError(f"{label} cannot be evaluated: {plain.one_line(error)}") from error
        columns, _ = _columns_of(spec)
        if self.columns not in (None, columns):
            raise DesignError(
                f"{label} makes the columns {listing(columns)} of these data, but made "
                f"{listing(self.columns or ())} when fitting (formulaic {formulaic.__version__}); "
                "give columns of the same types as then"
            )
        checked = np.where(np.isinf(matrix), 0.0, matrix) if self.infinite else matrix
        plain.refuse_not_finite(label, np.where(holes, 0.0, checked), rows, columns)
        matrix = np.where(holes, np.nan, matrix)
        return matrix, self if self.columns is not None else _remember(self, spec)

    def design(
        self, table: Clean, env: Env, per_term: tuple[frozenset[str], ...] = ()
    ) -> tuple[Array, _Part]:
        """Matrix (n, columns without the intercept); rows with missing values are NaN.

        With the columns of the data that each term uses, only the values of terms concerned are.
        """
        absent = [table.absent[name] for name in self.uses]
        if per_term and np.any(absent):
            holes = plain.holes_of_terms(table, per_term)
            return self.build(table.frame, env, table.rows, holes)
        whole = ~np.logical_or.reduce([np.zeros(table.rows.size, dtype=bool), *absent])
        at = np.flatnonzero(whole)
        if not at.size and self.columns is None:
            raise DesignError(f"{_LABELS[self.name]} has no row without missing values; fill some")
        part, matrix = self, np.empty((0, len(self.columns or ())))
        if at.size:
            frame = table.frame if whole.all() else table.frame.iloc[at].reset_index(drop=True)
            matrix, part = self.build(frame, env, table.rows[at])
            if self.columns is None and self.name != "response":
                part.refuse_looking_across(frame, matrix, env)
        full = np.full((whole.size, matrix.shape[1]), np.nan)
        full[at] = matrix
        return (np.delete(full, part.intercept, axis=1) if part.intercept >= 0 else full), part

    def refuse_looking_across(self, frame: pd.DataFrame, matrix: Array, env: Env) -> None:
        """Raise where a row's values hang on the other rows, as in ``I(x - x.mean())``.

        Such a term would silently be another one at prediction. Seen by building the last rows
        alone and backwards: terms with a memory (`center`, `poly`, ...) come out the same.
        """
        few, label = min(8, len(frame) - 1), _LABELS[self.name]
        if few < 1 or not self.uses:
            return
        try:
            last = np.arange(len(frame) - 1, len(frame) - 1 - few, -1)
            alone, _ = self.build(frame.iloc[last], env, last)
        except DesignError as error:
            raise DesignError(
                f"{label} cannot be evaluated on {few} rows alone: {error}"
            ) from error
        plain.refuse_changed(label, alone, matrix, last, self.columns or ())


@dataclass(frozen=True)
class FormulaSpec:
    """A fitted formula: makes the same columns of new data, and turns into plain data.

    Made by `fit` or `from_state`. Column names are formulaic's: ``C(g)[T.b]``, ``poly(x, 2)[1]``.

    Attributes
    ----------
    formula : str
        As typed.
    gate : str
        The gate's part as a one-sided formula, ``"~ 1"`` where none was given.
    offset, needs_offset : str or None, bool
        Column of the offset if given by name, read at prediction too; whether there was one.
    y_name : str
        Name of the response; several columns are joined by ``" + "``.
    x_names, z_names : tuple of str
        Names of the p columns of X and the q columns of Z.
    x_intercept, z_intercept : bool
        Whether the experts, the gate have an intercept.
    variables : frozenset of str
        Columns of the data that prediction needs.
    """

    formula: str
    gate: str
    offset: str | None
    needs_offset: bool
    _parts: dict[str, _Part]
    _kinds: dict[str, Kind]
    _env: Env = field(default_factory=dict, compare=False, repr=False)
    y_name: str = field(init=False)
    x_names: tuple[str, ...] = field(init=False)
    z_names: tuple[str, ...] = field(init=False)
    x_intercept: bool = field(init=False)
    z_intercept: bool = field(init=False)
    variables: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        experts, gate = self._parts["experts"], self._parts["gate"]
        put = partial(object.__setattr__, self)  # frozen: no plain assignment
        put("y_name", " + ".join(self._parts["response"].names))
        put("x_names", experts.names)
        put("z_names", gate.names)
        put("x_intercept", experts.intercept >= 0)
        put("z_intercept", gate.intercept >= 0)
        put("variables", frozenset({*experts.uses, *gate.uses, self.offset} - {None}))

    @property
    def y_names(self) -> tuple[str, ...]:
        """Names of the columns of the response."""
        return self._parts["response"].names

    @classmethod
    def fit(
        cls,
        formula: str,
        data: Any,
        gate: str | None = None,
        *,
        missing: Missing = "drop",
        weights: Any = None,
        offset: Any = None,
        groups: Any = None,
        env: Env | None = None,
        partial: bool = False,
        infinite_response: bool = False,
    ) -> tuple[FormulaSpec, FormulaData]:
        """Read a formula and build its arrays.

        Parameters
        ----------
        formula : str
            ``"y ~ experts | gate"`` or ``"y ~ experts"``; ``"s + f ~ x"`` has a response of two
            columns. ``.`` stands for every column but the response and the named extras.
        data : DataFrame or mapping of columns, n rows
        gate : str, optional
            ``"~ z"``: the gate's part, instead of the bar. Neither: constant mixing weights.
        missing : {"drop", "raise", "none"}
            Rows with a missing value in any column or array used are left out, refused, or kept
            with NaN in the parts concerned.
        weights, offset, groups : str or array_like of shape (n,), optional
            A column name, or values in the order of the rows.
        env : mapping, optional
            Functions and values that the formula names besides columns, ``np`` and formulaic's
            own (``poly``, ``bs``, ``cr``, ``scale``, ``C``, ...). Callers' frames are not read.
        partial : bool, default=False
            Whether a row may lack some of several responses, which then are NaN in y; with
            ``"drop"`` only rows that lack all of them, or anything else, are left out.
        infinite_response : bool
            Whether the response may hold infinities, such as bounds that are not known.

        Returns
        -------
        FormulaSpec, FormulaData

        Raises
        ------
        DesignError
            The formula cannot be read, names what is not there, or makes values that are not
            finite or hang on other rows.
        ValueError, TypeError
            `data` has no rows or is no table, or an array has another length.

        Examples
        --------
        >>> table = {"y": [1.0, 2.0, 4.0], "g": ["a", "b", "a"], "z": [0.0, 1.0, 2.0]}
        >>> spec, arrays = FormulaSpec.fit("y ~ C(g) | z", table)
        >>> spec.x_names, spec.z_names, arrays.X.tolist()
        (('C(g)[T.b]',), ('z',), [[0.0], [1.0], [0.0]])
        """
        frame, env = plain.as_frame(data), dict(env or {})
        extra = parts_of.extras(frame, weights=weights, offset=offset, groups=groups)
        special = [value for value in (weights, offset, groups) if isinstance(value, str)]
        parts = {
            name: _Part(
                name, terms, _columns_used(name, terms, frame.columns, env),
                infinite=infinite_response and name == "response",
            )
            for name, terms in plain.split(formula, gate, frame.columns, special, _parse).items()
        }  # fmt: skip
        used = plain.pick(frame, parts_of.uses(parts.values()), "the formula")
        per_term = _response_terms(parts["response"], frame.columns, env) if partial else ()
        spare = plain.spare_columns(per_term, parts["experts"].uses + parts["gate"].uses)
        unbounded = parts_of.unbounded(parts.values())
        table = plain.clean(used, extra, missing, spare=spare, unbounded=unbounded)
        for part in parts.values():
            plain.check_lookups(_LABELS[part.name], part.terms, table)
        made = {
            name: part.design(table, env, per_term if name == "response" else ())
            for name, part in parts.items()
        }
        response = made["response"][1]
        labels = any(kind == "categorical" for _, kind, _ in response.encoders)
        if labels or not response.uses or len(response.names) != len(response.terms):
            raise DesignError(
                f"the response of {formula!r} makes the columns {listing(response.names)}; "
                "expected one column of numbers, or several joined by +"
            )
        spec = cls(
            formula=formula,
            gate=gate or made["gate"][1].text,
            offset=offset if isinstance(offset, str) else None,
            needs_offset=offset is not None,
            _parts={name: part for name, (_, part) in made.items()},
            _kinds=table.kinds,
            _env=env,
        )
        return spec, spec._assemble({name: matrix for name, (matrix, _) in made.items()}, table)

    def transform(
        self,
        data: Any,
        *,
        response: bool = False,
        missing: Missing = "none",
        weights: Any = None,
        offset: Any = None,
        groups: Any = None,
        partial: bool = False,
    ) -> FormulaData:
        """Build the same columns of other data: same knots, same levels, same order.

        Parameters
        ----------
        data : DataFrame or mapping of columns, n rows
            Needs the columns in `variables`; more columns and another order do not matter.
        response : bool
            Whether to evaluate the response, whose columns then are needed too.
        missing, weights, groups, partial
            As in `fit`; weights and groups of the fit are not looked up again.
        offset : str or array_like of shape (n,), optional
            The column of the fit where not given.

        Returns
        -------
        FormulaData

        Raises
        ------
        UnseenLevelError
            A factor has a level that the fit never saw.
        DesignError
            Columns or an offset are not there, or do not hold what they held in the fit.
        """
        frame = plain.as_frame(data)
        offset = self.offset if offset is None else offset
        if self.needs_offset and offset is None:
            raise DesignError("the fit had an array as offset=; give offset= for these rows too")
        extra = parts_of.extras(frame, weights=weights, offset=offset, groups=groups)
        wanted = {n: part for n, part in self._parts.items() if response or n != "response"}
        used = plain.pick(frame, parts_of.uses(wanted.values()), "the model")
        several = self._parts["response"] if partial and response else None
        per_term = _response_terms(several, frame.columns, self._env) if several else ()
        spare = plain.spare_columns(per_term, wanted["experts"].uses + wanted["gate"].uses)
        unbounded = parts_of.unbounded(wanted.values())
        table = plain.clean(used, extra, missing, self._kinds, spare, unbounded)
        made = {
            name: part.design(table, self._env, per_term if name == "response" else ())[0]
            for name, part in wanted.items()
        }
        return self._assemble(made, table)

    def _assemble(self, made: Mapping[str, Array], table: Clean) -> FormulaData:
        y = made.get("response")
        y = y[:, 0] if y is not None and y.shape[1] == 1 else y
        x = (made["experts"], self.x_names, self.x_intercept)
        z = (made["gate"], self.z_names, self.z_intercept)
        return FormulaData(y, self.y_name, *x, *z, table.rows, table.n_dropped, table.extra)

    def to_state(self) -> dict[str, Any]:
        """Everything but `env`, as dicts, sequences, text and numbers that JSON can hold."""
        return {
            "schema": _SCHEMA,
            "formulaic": formulaic.__version__,
            **{key: getattr(self, key) for key in _SAVED},
            "kinds": dict(self._kinds),
            "parts": [dict(vars(part)) for part in self._parts.values()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], env: Env | None = None) -> FormulaSpec:
        """Rebuild a fitted formula from `to_state`, also after a round trip through JSON.

        `env` must hold what it held in `fit`; DesignError names what it lacks. A formula is code
        that `transform` evaluates: do not load models from people you do not trust.
        """
        if state["schema"] > _SCHEMA:
            raise DesignError(
                f"schema {state['schema']} is newer than {_SCHEMA}; update mixexperts"
            )
        parts = {}
        for saved in state["parts"]:
            terms = tuple(tuple((expr, how) for expr, how in term) for term in saved["terms"])
            fixed = {
                "terms": terms,  # checked again: a file may hold anything
                "uses": _columns_used(saved["name"], terms, saved["uses"], env or {}),
                "columns": tuple(saved["columns"]),
            }
            parts[saved["name"]] = _Part(**{**saved, **fixed})
        same = {key: state[key] for key in _SAVED}
        return cls(**same, _parts=parts, _kinds=dict(state["kinds"]), _env=dict(env or {}))


def _response_terms(part: _Part, columns: Iterable[Any], env: Env) -> tuple[frozenset[str], ...]:
    """Columns of the data that each of several responses uses; none where there is one."""
    several = part.terms if len(part.terms) > 1 else ()
    return tuple(frozenset(_columns_used("response", (t,), columns, env)) for t in several)
