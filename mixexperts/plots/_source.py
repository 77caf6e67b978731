"""One view of what a plot needs, whether it comes from an estimator or from results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.errors import UnseenLevelError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Source:
    """A fitted model with rows of its variables.

    Attributes
    ----------
    estimator : MoERegressor
        The fitted estimator.
    results : MoEResults or None
        None if the estimator came alone.
    data : DataFrame
        Complete rows of the variables: features of an estimator, raw columns of results.
    X : array-like of shape (n, n_columns)
        These rows as the estimator takes them.
    y : ndarray of shape (n,) or (n, d), or None
        Response as the formula states it.
    offset : ndarray of shape (n,) or None
        Known part of the mean; None where the model has none.
    variables, gate_variables : tuple of str
        What predictions depend on, and what the gate's part depends on, in order of mention.
    response : str
        Name of the response.
    which : int or None
        Number of the response to draw, of several.
    extra : mapping
        What responsibilities take beside: groups of the rows, evidence about their experts.
    """

    estimator: Any
    results: Any
    data: pd.DataFrame
    X: Any
    y: Array | None
    offset: Array | None
    variables: tuple[str, ...]
    gate_variables: tuple[str, ...]
    response: str
    which: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heights(self) -> Array:
        """Where the rows are drawn, (n,): y, or the share of successes (NaN without trials)."""
        y = np.asarray(self.y, dtype=float)
        if y.ndim == 1:
            return y
        if self.which is not None:
            return np.asarray(y[:, self.which])
        trials = y.sum(axis=1)
        share: Array = np.where(trials > 0.0, y[:, 0] / np.maximum(trials, 1.0), np.nan)
        return share

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return len(self.estimator.mass_)

    def is_numeric(self, name: str) -> bool:
        """Whether a variable is a number, and not a truth value or a label."""
        from pandas.api.types import is_bool_dtype, is_numeric_dtype

        column = self.data[name]
        return bool(is_numeric_dtype(column) and not is_bool_dtype(column))

    def numeric(self, names: Iterable[str]) -> list[str]:
        """Those of the names that are numbers."""
        return [name for name in names if self.is_numeric(name)]

    def is_discrete(self, name: str) -> bool:
        """Whether a variable is a label or has two values at most."""
        return not self.is_numeric(name) or self.data[name].nunique() <= 2

    def feature(self, feature: Any, preferred: Iterable[str] = ()) -> str:
        """A feature by name (of arrays also by position), or the first numeric one."""
        if feature is None:
            numeric = self.numeric([*preferred, *self.variables])
            if not numeric:
                raise ValueError(
                    "the model depends on no numeric variable, so there is nothing to draw it "
                    f"against; its variables: {listing(self.variables)}"
                )
            return numeric[0]
        columns = list(self.data.columns)
        is_position = isinstance(feature, int | np.integer) and not isinstance(feature, bool)
        if self.results is None and is_position and feature not in columns:
            if not -len(columns) <= feature < len(columns):
                raise ValueError(
                    f"feature={feature} is not a position among {len(columns)} columns; available: "
                    + listing(self.variables)
                )
            feature = columns[int(feature)]
        if feature not in self.variables:
            raise ValueError(
                f"feature={feature!r} is not a variable of the model; available: "
                + listing(self.variables)
            )
        return str(feature)

    def held(self, feature: str | None, at: Mapping[str, Any] | None) -> dict[str, Any]:
        """Values of the other variables: as asked, or typical ones."""
        at = dict(at or {})
        others = [name for name in self.variables if name != feature]
        for name, value in at.items():
            if name not in others:
                raise ValueError(
                    f"at names {name!r}, which is not among the other variables: {listing(others)}"
                )
            levels = self.data[name].unique().tolist()
            if not self.is_numeric(name) and value not in levels:
                raise ValueError(
                    f"at[{name!r}]={value!r} is not a level; levels: {listing(levels)}"
                )
        return {name: at.get(name, self._typical(name)) for name in others}

    def _typical(self, name: str) -> Any:
        column = self.data[name]
        if self.is_discrete(name):
            return column.mode().iloc[0]
        return float(column.median() if self.results is not None else column.mean())

    def at_held(self, held: Mapping[str, Any]) -> Array:
        """Rows that have the held values of the discrete variables, (n,) of bool."""
        same = np.ones(len(self.data), dtype=bool)
        for name, value in held.items():
            if self.is_discrete(name):
                same &= (self.data[name] == value).to_numpy(dtype=bool)
        return same

    def grid(self, feature: str | None, values: Any, held: Mapping[str, Any]) -> tuple[Any, Any]:
        """Design and offset of m rows that differ in one variable only."""
        import pandas as pd

        m = len(values)
        columns = {}
        for name in self.data.columns:
            # Columns that are not variables have no bearing on anything.
            given = values if name == feature else [held.get(name, 0.0)] * m
            dtype = None if self.is_numeric(name) else self.data[name].dtype
            columns[name] = pd.Series(given, dtype=dtype)
        frame = pd.DataFrame(columns)
        offset = None if self.offset is None else np.full(m, np.median(self.offset))
        if self.results is None:
            named = hasattr(self.estimator, "feature_names_in_")
            return frame if named else frame.to_numpy(), offset
        by_name = self.results.spec.offset is not None
        try:
            rows = self.results.design(frame, offset=None if by_name else offset)
        except UnseenLevelError as error:
            raise ValueError(
                f"the formula takes feature={feature!r} as a factor, so there is no curve along "
                f"it ({error}); choose another of {listing(self.numeric(self.variables))}"
            ) from error
        return rows.X, rows.offset

    def responsibilities(self) -> Array:
        """Posterior probabilities of the experts in each row, (n, K)."""
        resp: Array = self.estimator.responsibilities(
            self.X, self.y, offset=self.offset, **self.extra
        )
        return resp


def source(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    data: Any = None,
    offset: Any = None,
    groups: Any = None,
    response: bool = False,
    which: Any = None,
    drawn: bool = False,
) -> Source:
    """Read a model and its rows; with ``response`` also y.

    ``which`` names one of several responses; where one is ``drawn`` it must.

    Raises
    ------
    TypeError
        If the model is neither a fitted estimator nor results.
    ValueError
        If rows are missing or given in the wrong way.
    """
    if hasattr(model, "spec") and hasattr(model, "estimator"):
        if X is not None or y is not None:
            raise ValueError("X and y go with an estimator; results take data=, a data frame")
        found = _from_results(model, data, offset, groups, response)
        names = model.spec.y_names
    else:
        fitted(model)
        if data is not None:
            raise ValueError("data= goes with results of a formula; an estimator takes X and y")
        found = _from_estimator(model, X, y, offset, response)
        found = replace(found, extra={"groups": groups})
        names = tuple(str(name) for name in getattr(y, "columns", ()))
    if not found.estimator.model_.expert.multivariate:
        if which is not None:
            raise ValueError(f"response={which!r} is for models of several responses; leave it out")
        return found
    names = names or tuple(f"y{j}" for j in range(found.estimator.frame_.n_columns))
    if which is None:
        if drawn:
            raise ValueError(
                f"the model has several responses, {listing(names)}; name the one to draw, such as "
                f"response={names[0]!r}"
            )
        return found
    j = _number_of(which, names)
    return replace(found, which=j, response=names[j])


def _number_of(which: Any, names: tuple[str, ...]) -> int:
    """A response by name or number."""
    is_number = isinstance(which, int | np.integer) and not isinstance(which, bool)
    if is_number and -len(names) <= which < len(names):
        return int(which) % len(names)
    if which not in names:
        raise ValueError(f"response={which!r} is not a response; available: {listing(names)}")
    return names.index(which)


def fitted(model: Any) -> Any:
    """The fitted estimator of a model: itself, or that of results."""
    from sklearn.utils.validation import check_is_fitted

    estimator = getattr(model, "estimator", model)
    if not hasattr(estimator, "gate_proba"):
        raise TypeError(
            f"model must be a fitted MoERegressor or MoEResults, got {type(model).__name__}"
        )
    check_is_fitted(estimator, "theta_")
    return estimator


def _from_results(results: Any, data: Any, offset: Any, groups: Any, response: bool) -> Source:
    import pandas as pd

    if data is not None and not isinstance(data, pd.DataFrame):
        data = pd.DataFrame(data)
    rows = results.design(data, response=response, offset=offset, groups=groups, missing="drop")
    frame = results.data if data is None else data
    spec = results.spec
    several = fitted(results).model_.expert.multivariate
    two = response and np.ndim(rows.y) == 2 and not several
    text = f"{spec.formula.partition('~')[2]} {spec.gate}"
    variables = _in_order(spec.variables, text, frame.columns)
    return Source(
        estimator=fitted(results),
        results=results,
        data=frame[list(variables)].iloc[rows.kept],
        X=rows.X,
        y=rows.y,
        offset=rows.offset,
        variables=variables,
        gate_variables=tuple(name for name in variables if _position(name, spec.gate) >= 0),
        response=f"share of {spec.y_name.partition(' + ')[0]}" if two else spec.y_name,
        extra={"groups": rows.groups, **(results.evidence if data is None else {})},
    )


def _position(name: str, text: str) -> int:
    """Where a text first names a column, -1 if it does not."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    return -1 if found is None else found.start()


def _in_order(names: Iterable[str], text: str, columns: Iterable[Any]) -> tuple[str, ...]:
    """Names in the order of a formula's text; those it does not spell out last, as in the data."""
    place = {name: i for i, name in enumerate(columns)}
    first = {name: _position(name, text) for name in names}
    return tuple(sorted(first, key=lambda name: (first[name] < 0, first[name], place[name])))


def _from_estimator(estimator: Any, X: Any, y: Any, offset: Any, response: bool) -> Source:
    import pandas as pd

    if X is None or (response and y is None):
        wanted = "X and y" if response else "X"
        raise ValueError(
            f"{wanted} missing: an estimator keeps no data; pass the {wanted} to draw, for "
            "instance those of the fit"
        )
    if hasattr(estimator, "feature_names_in_"):
        names = [str(name) for name in estimator.feature_names_in_]
        values = X if hasattr(X, "columns") else np.asarray(X)
    else:
        names = [f"x{j}" for j in range(estimator.n_features_in_)]
        values = np.asarray(X)
    if hasattr(values, "columns"):
        absent = [name for name in names if name not in values.columns]
        if absent:
            raise ValueError(f"X lacks the columns {listing(absent)} of the fit")
        frame = pd.DataFrame(values)[names]
    elif values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"X must have shape (n, {len(names)}) as in the fit, got {values.shape}")
    else:
        frame = pd.DataFrame(values, columns=names)
    design = estimator.frame_
    used = {*map(int, design.expert_columns), *map(int, design.gate_columns)}
    return Source(
        estimator=estimator,
        results=None,
        data=frame,
        X=frame if hasattr(estimator, "feature_names_in_") else frame.to_numpy(),
        y=_response(estimator, y, len(frame)) if response else None,
        offset=None if offset is None else _column(offset, len(frame), "offset"),
        variables=tuple(names[j] for j in sorted(used)),
        gate_variables=tuple(names[int(j)] for j in design.gate_columns),
        response=str(getattr(y, "name", None) or "y"),
    )


def _response(estimator: Any, y: Any, n: int) -> Array:
    if hasattr(estimator, "classes_"):  # labels
        if np.shape(y) != (n,):
            raise ValueError(f"y must hold {n} labels, one per row, got shape {np.shape(y)}")
        return np.asarray(y)
    expert = estimator.model_.expert
    if np.ndim(y) == 2 and expert.infinite_response:
        return np.asarray(expert.point_response(np.asarray(y, dtype=float)))
    if len(np.shape(y)) == 2 and len(y) == n and expert.takes_columns(np.shape(y)[1]):
        return np.asarray(y, dtype=float)
    return _column(y, n, "y")


def _column(values: Any, n: int, name: str) -> Array:
    array = np.asarray(values, dtype=float)
    if array.shape not in ((n,), (n, 1)):
        raise ValueError(f"{name} must hold {n} numbers, one per row, got shape {array.shape}")
    return array.reshape(n)


def listing(names: Iterable[Any]) -> str:
    """Names in quotes, joined by commas."""
    return ", ".join(map(repr, names)) or "none"
