"""Columns of the data that the parts of a formula read, and the columns named beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import pandas as pd

from mixexperts import _formula_state as plain


class Part(Protocol):
    """A part of a formula: the columns it uses, and whether their values may be infinite."""

    @property
    def uses(self) -> tuple[str, ...]: ...

    @property
    def infinite(self) -> bool: ...


def extras(frame: pd.DataFrame, **given: Any) -> dict[str, pd.Series[Any]]:
    """Weights, offsets and groups that are given, by their names."""
    return {k: plain.extra_column(k, v, frame) for k, v in given.items() if v is not None}


def unbounded(parts: Iterable[Part]) -> frozenset[str]:
    """Columns of the data whose values may be infinite: those of such a part alone."""
    parts = list(parts)
    taken = {name for part in parts if not part.infinite for name in part.uses}
    return frozenset(name for part in parts if part.infinite for name in part.uses) - taken


def uses(parts: Iterable[Part]) -> list[str]:
    """Columns of the data that the parts read, each once."""
    return list(dict.fromkeys(name for part in parts for name in part.uses))
