"""Distributions on the integers: quantiles by bisection, sets of the likeliest values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mixexperts._batch import Array

#: Probabilities whose quantiles enclose all mass that floats can tell from nothing.
LEAST, MOST = 1e-18, 1.0 - 2.0**-53
#: Most integers that are looked at one by one.
LIMIT = 5_000_000

# Densities that differ by less are equal: sums of a few exponentials in another order.
_TIE = 1e-12


def smallest_integer(
    reaches: Callable[[Array, Array], Array], below: Array, reaching: Array
) -> Array:
    """The least integers for which something that stays true once it is true is true.

    ``reaches(index, value)`` asks it of some problems by number. It must be false at the
    integers ``below`` (-1 for example) and true at ``reaching``, which are not asked about.
    """
    lo, hi = below.astype(float), reaching.astype(float)
    while True:
        with np.errstate(invalid="ignore"):  # an infinite end of the support is the answer
            middle = np.floor(0.5 * lo + 0.5 * hi)
            todo = np.flatnonzero((middle > lo) & (middle < hi))
        if todo.size == 0:
            return hi
        yes = reaches(todo, middle[todo])
        hi[todo[yes]] = middle[todo[yes]]
        lo[todo[~yes]] = middle[todo[~yes]]


def integers_between(lo: Array, hi: Array) -> Array | None:
    """All integers in the ranges lo to hi (m,), ends included, once; None if over the limit."""
    if not np.sum(hi - lo + 1.0) <= LIMIT:
        return None
    ranges = [np.arange(first, last + 1.0) for first, last in zip(lo, hi, strict=True)]
    return np.unique(np.concatenate(ranges))


def likeliest(value: Array, log_mass: Array, confidence: float) -> list[tuple[float, float]]:
    """Runs (first, last) of the integers that are likeliest and together hold ``confidence``.

    Integers as likely as the last one that is needed belong to the set as well.
    """
    order = np.argsort(-log_mass, kind="stable")
    total = np.cumsum(np.exp(log_mass[order]))
    need = min(int(np.searchsorted(total, confidence * (1.0 - _TIE))), value.size - 1)
    chosen = value[log_mass >= log_mass[order[need]] - _TIE]
    cuts = np.flatnonzero(np.diff(chosen) > 1.0) + 1
    return [(float(run[0]), float(run[-1])) for run in np.split(chosen, cuts)]
