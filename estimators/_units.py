"""What comes with rows: groups, weights, offsets, and evidence about their experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.estimators import _checks as checks


@dataclass(frozen=True)
class Grouping:
    """Rows that share one expert, as repeated measures of one subject do.

    Attributes
    ----------
    names : ndarray of shape (u,)
        Labels of the groups in order of first appearance.
    unit : ndarray of int of shape (n,)
        Number of each row's group.
    """

    names: Array
    unit: Array

    @classmethod
    def of(cls, groups: Any, n: int) -> Grouping:
        """Groups of n rows from their labels.

        Raises
        ------
        ValueError
            If there is not one label per row.
        """
        import pandas as pd

        values = groups if isinstance(groups, pd.Series | pd.Index) else np.asarray(groups)
        if values.ndim != 1 or len(values) != n:
            raise ValueError(
                f"groups must have shape ({n},), one label per row, got {np.shape(groups)}"
            )
        unit, names = pd.factorize(values)
        if (unit < 0).any():
            row = int(np.flatnonzero(unit < 0)[0])
            raise ValueError(
                f"groups is missing in row {row}; give every row a label (its own, if it is a "
                "group by itself)"
            )
        return cls(np.asarray(names), unit.astype(np.int64))

    @classmethod
    def wanted(cls, groups: Any, n: int, needed: bool) -> Grouping | None:
        """Groups of n new rows, None without; ``needed`` where the model was fitted with groups."""
        if groups is not None:
            return cls.of(groups, n)
        if needed:
            raise ValueError(
                "groups is missing: the model was fitted with groups; pass groups= for these rows "
                "too (numpy.arange(len(X)) where every row is a group of its own)"
            )
        return None

    @property
    def n_units(self) -> int:
        """Number of groups u."""
        return len(self.names)

    def name(self, unit: Any) -> Any:
        """Label of a group, for messages."""
        label = self.names[unit]
        return label.item() if isinstance(label, np.generic) else label

    @property
    def order(self) -> Array:
        """The rows group by group, in the order given within each, (n,)."""
        return np.argsort(self.unit, kind="stable")

    @property
    def first(self) -> Array:
        """First row of each group, (u,)."""
        order = self.order
        starts: Array = order[np.flatnonzero(np.diff(self.unit[order], prepend=-1))]
        return starts

    def subset(self, rows: Array) -> Grouping:
        """The groups of some of the rows (a mask), numbered anew."""
        kept, unit = np.unique(self.unit[rows], return_inverse=True)
        return Grouping(self.names[kept], unit.astype(np.int64))

    def constant(self, values: Array, what: str, advice: str, number: Array | None = None) -> Array:
        """Values of the rows (n, ...) as those of the groups, (u, ...).

        ``number`` (n,) are the rows' numbers, where these are some of the rows given.

        Raises
        ------
        ValueError
            If they differ within a group; names the first such row.
        """
        reduced = values[self.first]
        same = (values == reduced[self.unit]).reshape(len(values), -1).all(axis=1)
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            other = int(self.first[self.unit[row]])
            name = self.name(self.unit[row])
            if number is not None:
                row, other = int(number[row]), int(number[other])
            raise ValueError(
                f"{what} differs within group {name!r}: rows {other} and {row}; {advice}"
            )
        return reduced

    def refuse_varying(
        self, X: Array, columns: Array, names: tuple[str, ...], number: Array | None = None
    ) -> None:
        """Raise if a column that the gate looks at varies within a group."""
        for j in columns:
            self.constant(
                X[:, j],
                f"the gate's column {names[j]!r}",
                "rows of a group share one expert, so the gate can only look at what is constant "
                "in a group: name such columns with gate_features=[...], or use gate='constant'",
                number,
            )


def weights(sample_weight: Any, n: int, groups: Grouping | None) -> Array:
    """Weights of the sampling units: of rows (n,), or of groups (u,).

    Raises
    ------
    ValueError
        If they cannot be used, or differ within a group.
    """
    if groups is None or sample_weight is None or np.ndim(sample_weight) == 0:
        return checks.sample_weight_array(sample_weight, n if groups is None else groups.n_units)
    if np.ndim(sample_weight) == 1 and len(sample_weight) == groups.n_units != n:
        return checks.sample_weight_array(sample_weight, groups.n_units)
    return groups.constant(
        checks.sample_weight_array(sample_weight, n),
        "sample_weight",
        "a weight counts whole groups: give all rows of a group the same, or one weight per "
        "group in order of first appearance",
    )


def evidence(
    log_prior: Any, partial_labels: Any, n: int, n_experts: int, groups: Grouping | None
) -> Array | None:
    """Log evidence about the expert of each sampling unit, (u, K); None if there is none.

    Raises
    ------
    ValueError, TypeError
        If it cannot be used; the message names the argument and the row.
    """
    found = None if log_prior is None else _log_prior(log_prior, n, n_experts, groups)
    if partial_labels is not None:
        known = _labels(partial_labels, n, n_experts, groups)
        pinned = np.where(known[:, None] == np.arange(n_experts), 0.0, -np.inf)
        pinned[known < 0] = 0.0
        found = pinned if found is None else found + pinned
    if found is not None and np.isneginf(found).all(axis=1).any():
        row = int(np.flatnonzero(np.isneginf(found).all(axis=1))[0])
        which = f"row {row}" if groups is None else f"group {groups.name(row)!r}"
        raise ValueError(
            f"log_prior rules out every expert for {which}; leave at least one that is not -inf"
            + " (its partial_labels counts as well)" * (partial_labels is not None)
        )
    return found


def _log_prior(log_prior: Any, n: int, n_experts: int, groups: Grouping | None) -> Array:
    values = np.array(log_prior, dtype=np.float64)
    sizes = {n} if groups is None else {n, groups.n_units}
    if values.ndim != 2 or values.shape[1] != n_experts or len(values) not in sizes:
        rows = " or ".join(str(size) for size in sorted(sizes, reverse=True))
        raise ValueError(
            f"log_prior must have shape ({rows}, {n_experts}), one column per expert, got "
            f"{values.shape}"
        )
    bad = np.isnan(values) | np.isposinf(values)
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        raise ValueError(
            f"log_prior holds NaN or +infinity in row {row}; give logarithms: numbers, or -inf "
            "where an expert is ruled out"
        )
    if groups is None or len(values) != n:
        return values
    return groups.constant(
        values,
        "log_prior",
        "rows of a group share one expert: give all of them the same, or one row per group in "
        "order of first appearance",
    )


def _labels(partial_labels: Any, n: int, n_experts: int, groups: Grouping | None) -> Array:
    """Numbers of the known experts, -1 where they are not known, (u,)."""
    import pandas as pd

    given = np.asarray(partial_labels, dtype=object)
    if given.shape != (n,):
        raise ValueError(
            f"partial_labels must have shape ({n},), one entry per row, got {given.shape}"
        )
    try:
        values = np.where(pd.isna(given), -1.0, given).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"partial_labels must hold expert numbers 0 to {n_experts - 1}, and -1, NaN or None "
            f"where the expert is not known: {error}"
        ) from error
    wrong = ~np.isin(values, np.arange(-1, n_experts))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"partial_labels is {given[row]!r} in row {row}; it takes expert numbers 0 to "
            f"{n_experts - 1}, and -1, NaN or None where the expert is not known"
        )
    known: Array = values.astype(np.int64)
    if groups is None:
        return known
    # A group is known if one of its rows is.
    highest: Array = np.full(groups.n_units, -1)
    np.maximum.at(highest, groups.unit, known)
    clash = np.flatnonzero((known >= 0) & (known != highest[groups.unit]))
    if clash.size:
        row = int(clash[0])
        raise ValueError(
            f"partial_labels names two experts within group {groups.name(groups.unit[row])!r} "
            f"(row {row}); rows of a group share one"
        )
    return highest


@dataclass(frozen=True)
class Given:
    """The rows of a fit that count, group by group where there are groups.

    Attributes
    ----------
    X, y, offset : ndarray of n rows
        ``offset`` may be None.
    weight : ndarray of shape (u,)
        Positive weights of the sampling units.
    unit : ndarray of int of shape (n,) or None
        Ascending numbers of the rows' groups; None: rows are units.
    log_prior : ndarray of shape (u, K) or None
    used : ndarray or None
        For each unit a row of those given, as numbers or a mask; None: all of them.
    groups : Grouping or None
        Of all rows given, those of weight zero too.
    n_given : int
        Number of these.
    rows : ndarray of int of shape (n,) or None
        Their numbers among these, where there are groups.
    """

    X: Array
    y: Array
    offset: Array | None
    weight: Array
    unit: Array | None = None
    log_prior: Array | None = None
    used: Array | None = None
    groups: Grouping | None = None
    n_given: int = 0
    rows: Array | None = None

    @classmethod
    def of(
        cls,
        X: Array,
        y: Array,
        offset: Array | None,
        weight: Array,
        log_prior: Array | None,
        groups: Grouping | None,
    ) -> Given:
        """Sort rows by group, and leave out units of weight zero."""
        n = len(y)
        rows: Array
        if groups is None:
            if weight.all():
                return cls(X, y, offset, weight, None, log_prior, n_given=n)
            used = rows = weight > 0
            unit = number = None
        else:
            counts = weight > 0
            kept = groups.subset(counts[groups.unit])
            rows = number = np.flatnonzero(counts[groups.unit])[kept.order]
            unit = kept.unit[kept.order]
            used = groups.first[counts]
        units = weight > 0
        return cls(
            X[rows],
            y[rows],
            None if offset is None else offset[rows],
            weight[units],
            unit,
            None if log_prior is None else log_prior[units],
            used,
            groups,
            n,
            number,
        )

    def check_gate(self, columns: Array, names: tuple[str, ...]) -> None:
        """Raise if a column that the gate looks at varies within a group."""
        if self.unit is None or self.groups is None:
            return
        own = Grouping(self.groups.names[self.groups.unit[self.used]], self.unit)
        own.refuse_varying(self.X, columns, names, self.rows)

    @property
    def row_weight(self) -> Array:
        """Weights of the rows, (n,)."""
        return self.weight if self.unit is None else self.weight[self.unit]
