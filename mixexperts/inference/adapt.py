"""Adding, deleting and merging experts as a criterion decides."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.inference.selection import CRITERIA, reported

_SOUND = ("converged", "max_iter")


@dataclass(frozen=True)
class Adaptation:
    """What :func:`adapt_experts` came to.

    Attributes
    ----------
    best_estimator : estimator
        The fitted estimator with the number of experts that was reached.
    table : DataFrame
        One row per move tried: ``step``, ``move`` (``start``, ``add``, ``delete`` or ``merge``),
        ``n_experts`` after it, ``log_likelihood``, the criterion, ``status`` and ``accepted``.
    criterion : str
        The criterion that moves were judged by.
    """

    best_estimator: Any
    table: Any
    criterion: str

    @property
    def n_experts(self) -> int:
        """Number of experts that was reached."""
        return int(self.best_estimator.n_experts)


def adapt_experts(
    est: Any,
    X: Any,
    y: Any,
    *,
    criterion: str = "bic",
    max_experts: int = 10,
    max_moves: int = 20,
    sample_weight: Any = None,
    offset: Any = None,
    groups: Any = None,
) -> Adaptation:
    """Find the number of experts by moves that add, delete and merge them.

    From the fit with ``est.n_experts``, the fits after these moves are compared: one expert
    more (the worst explained split; also the starts that ``est.init`` names), the expert
    of least mass left out, and the two merged that share their rows most. The best is kept
    if it lowers the criterion, and the search goes on from there. Unlike
    :func:`mixexperts.select` it does not walk through all numbers of experts.

    Parameters
    ----------
    est : estimator
        Not changed; clones of it are fitted, beginning with its ``n_experts``.
    X, y : array-like of shape (n, n_features) and (n,) or (n, 2)
        Data.
    criterion : {"bic", "aic", "icl"}, default="bic"
        What moves must lower.
    max_experts : int, default=10
        Most experts that are tried.
    max_moves : int, default=20
        Most moves that are kept.
    sample_weight, offset, groups : array-like of shape (n,), optional
        As in the ``fit`` of the estimator.

    Returns
    -------
    Adaptation

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.

    Examples
    --------
    >>> import mixexperts as mx
    >>> df = mx.datasets.load_tonedata()
    >>> est = mx.MoERegressor(1, gate="constant", random_state=0, n_init=5)
    >>> found = mx.adapt_experts(est, df[["stretchratio"]], df["tuned"], criterion="icl")
    >>> found.table["move"].iloc[0]
    'start'
    """
    import pandas as pd

    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r} is not known; known: {', '.join(CRITERIA)}")
    if not hasattr(est, "n_experts"):
        raise TypeError(f"est must be a mixture-of-experts estimator, got {type(est).__name__}")
    if max_experts < est.n_experts:
        raise ValueError(
            f"max_experts={max_experts} is less than the n_experts={est.n_experts} to begin with"
        )
    given = {"sample_weight": sample_weight, "offset": offset, "groups": groups}
    given = {name: value for name, value in given.items() if value is not None}
    search = _Search(est, X, y, criterion, given)
    current, value = search.fit("start", est.n_experts, est.init)
    search.rows[-1]["accepted"] = True
    for _ in range(max_moves):
        search.step += 1
        trials = [search.fit(*move) for move in search.moves(current, max_experts)]
        values = [trial for _, trial in trials]
        if not values or not min(values) < value - 1e-6:
            break
        best = int(np.argmin(values))
        current, value = trials[best]
        search.rows[best - len(trials)]["accepted"] = True
    current.set_params(init=est.init)
    current.warn_about_fit()
    return Adaptation(current, pd.DataFrame(search.rows), criterion)


class _Search:
    """The fits of a search and their table."""

    def __init__(self, est: Any, X: Any, y: Any, criterion: str, given: dict[str, Any]) -> None:
        self.est, self.X, self.y = est, X, y
        self.criterion, self.given = criterion, given
        self.rows: list[dict[str, Any]] = []
        self.step = 0

    def fit(self, move: str, n_experts: int, init: Any) -> tuple[Any, float]:
        """A fit and its criterion; infinite where it is not sound."""
        from sklearn.base import clone

        fitted = clone(self.est).set_params(n_experts=n_experts, init=init)
        with warnings.catch_warnings():
            for category in reported(designs=self.step > 0):
                warnings.simplefilter("ignore", category)
            fitted.fit(self.X, self.y, **self.given)
        value = float("inf")
        if fitted.status_ in _SOUND:
            value = getattr(fitted, self.criterion)(self.X, self.y, **self.given)
        self.rows.append(
            {
                "step": self.step,
                "move": move,
                "n_experts": n_experts,
                "log_likelihood": fitted.log_likelihood_,
                self.criterion: value,
                "status": fitted.status_,
                "accepted": False,
            }
        )
        return fitted, value

    def moves(self, current: Any, most: int) -> list[tuple[str, int, Any]]:
        """Moves from a fit: what they are called, numbers of experts, starts."""
        n_experts = len(current.mass_)
        found: list[tuple[str, int, Any]] = []
        if n_experts < most:
            found.append(("add", n_experts + 1, [current, self.est.init]))
        if n_experts == 2:
            found.append(("delete", 1, "auto"))
        if n_experts < 3:
            return found
        known = {name: v for name, v in self.given.items() if name != "sample_weight"}
        resp = np.nan_to_num(current.responsibilities(self.X, self.y, **known), nan=1.0 / n_experts)
        left_out = np.delete(resp, int(current.mass_.argmin()), axis=1)
        found.append(("delete", n_experts - 1, _normalised(left_out)))
        product = resp.T @ resp
        size = np.sqrt(np.diagonal(product))
        cosine = np.where(np.tri(n_experts, dtype=bool), -np.inf, product / np.outer(size, size))
        i, j = np.unravel_index(cosine.argmax(), cosine.shape)
        pooled = np.delete(resp, j, axis=1)
        pooled[:, i] += resp[:, j]
        found.append(("merge", n_experts - 1, _normalised(pooled)))
        return found


def _normalised(resp: Array) -> Array:
    """Rows that sum to one; even where nothing is left of them."""
    total = resp.sum(axis=1, keepdims=True)
    even = np.full_like(resp, 1.0 / resp.shape[1])
    shares: Array = np.where(total > 1e-12, resp / np.maximum(total, 1e-300), even)
    return shares
