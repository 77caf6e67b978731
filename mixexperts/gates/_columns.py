"""Which of the gate's columns a logit may use, and columns that a gate cannot use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mixexperts._design import DesignMap
from mixexperts.gates._predictors import listed
from mixexperts.gates.sigmoid import no_features

#: Columns of each logit, by name or position; None: all.
Features: TypeAlias = Sequence[Sequence[str | int] | None] | None


def checked_features(features: Any) -> tuple[tuple[str | int, ...] | None, ...] | None:
    """The entries as tuples.

    Raises
    ------
    TypeError, ValueError
        If an entry is no sequence of names or positions, or names a column twice.
    """
    if features is None:
        return None
    if isinstance(features, str) or not isinstance(features, Sequence):
        raise TypeError(
            "gate features must be a sequence with the columns of each logit but the "
            f"reference's, such as [['age'], ['age', 'income']]; got {features!r}"
        )
    return tuple(_entry(j, entry) for j, entry in enumerate(features))


def _entry(j: int, entry: Any) -> tuple[str | int, ...] | None:
    if entry is None:
        return None
    if isinstance(entry, str) or not isinstance(entry, Sequence | np.ndarray):
        raise TypeError(
            f"gate features[{j}] must be a sequence of names or positions, or None; got {entry!r}"
        )
    for value in entry:
        if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
            raise TypeError(f"gate features[{j}] holds {value!r}; expected a name or a position")
    own = tuple(value if isinstance(value, str) else int(value) for value in entry)
    twice = sorted({str(value) for value in own if own.count(value) > 1})
    if twice:
        raise ValueError(f"gate features[{j}] names {', '.join(twice)} more than once")
    return own


def bound_columns(
    features: Features, names: tuple[str, ...] | None = None
) -> tuple[tuple[int, ...] | None, ...] | None:
    """The entries as positions among the gate's columns.

    Raises
    ------
    ValueError
        If a name is not known, or a position is not there.
    """
    if features is None:
        return None
    return tuple(
        None if entry is None else tuple(_position(j, value, names) for value in entry)
        for j, entry in enumerate(features)
    )


def _position(j: int, value: str | int, names: tuple[str, ...] | None) -> int:
    if isinstance(value, str):
        if names is None:
            raise ValueError(
                f"gate features[{j}] names {value!r}, but the columns have no names here; give "
                "positions"
            )
        if value not in names:
            raise ValueError(
                f"gate features[{j}] names {value!r}, which is not among the gate's columns "
                f"{listed(names)}"
            )
        return names.index(value)
    if value < 0 or (names is not None and value >= len(names)):
        count = "" if names is None else f" of the gate's {len(names)} columns"
        raise ValueError(f"gate features[{j}] holds position {value}, which is none{count}")
    return value


def dependent_fault(name: str, design: DesignMap) -> str | None:
    """Why a gate that needs its columns as they are cannot be fitted on these."""
    if not design.names:
        return no_features(name)
    if design.dependent:
        return (
            f"gate={name!r} with these options needs columns that are not linear combinations of "
            f"the others; such are {listed(design.dependent)}: leave them out of gate_features "
            "(in a formula, of the gate's terms)"
        )
    return None
