"""Choosing the number of experts."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mixexperts.errors import DegenerateFitWarning

CRITERIA = ("aic", "bic", "icl")


@dataclass(frozen=True)
class Selection:
    """Fits with different numbers of experts, side by side.

    Attributes
    ----------
    table : DataFrame
        Indexed by ``n_experts``; columns ``log_likelihood``, ``df``, the criteria (lower is
        better), ``status``, ``reached_best`` (starts that reached the best solution),
        ``n_starts`` (those that ran on all rows), ``min_share``, ``flag``.
    estimators : dict
        Fitted estimator for each number of experts.
    criterion : str
        The criterion that :attr:`best_estimator` follows.
    """

    table: Any
    estimators: dict[int, Any]
    criterion: str

    def best_n_experts(self, criterion: str | None = None) -> int:
        """Number of experts with the lowest criterion among the sound fits.

        Parameters
        ----------
        criterion : str, optional
            One of the criteria computed; by default :attr:`criterion`.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If the criterion was not computed.
        """
        name = self.criterion if criterion is None else criterion
        if name not in self.table.columns or name not in CRITERIA:
            known = [column for column in CRITERIA if column in self.table.columns]
            raise ValueError(f"criterion={name!r} was not computed; available: {', '.join(known)}")
        sound = self.table["status"].isin(["converged", "max_iter"])
        candidates = self.table.loc[sound] if sound.any() else self.table
        return int(candidates[name].idxmin())

    @property
    def best_estimator(self) -> Any:
        """Estimator with the best number of experts."""
        return self.estimators[self.best_n_experts()]

    def plot(self, **options: Any) -> Any:
        """Draw the criteria against the number of experts.

        Parameters
        ----------
        **options
            Passed to :func:`mixexperts.plots.plot_selection`.

        Returns
        -------
        matplotlib Axes
        """
        import importlib

        return importlib.import_module("mixexperts.plots").plot_selection(self, **options)


def experts_range(n_experts: Any) -> list[int]:
    """Numbers of experts in ascending order.

    Raises
    ------
    ValueError, TypeError
        If they are not positive integers, or there are none.
    """
    if isinstance(n_experts, numbers.Integral):
        n_experts = [n_experts]
    if isinstance(n_experts, str) or not isinstance(n_experts, Iterable):
        raise TypeError(
            "n_experts must be a positive integer or an iterable of them, such as range(1, 6); "
            f"got {n_experts!r}"
        )
    values = list(n_experts)
    if not values:
        raise ValueError("n_experts is empty; give at least one number of experts")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"n_experts must hold positive integers, got {value!r}")
        if value < 1:
            raise ValueError(f"n_experts must hold positive integers, got {value!r}")
    return sorted({int(value) for value in values})


def select(
    est: Any,
    X: Any,
    y: Any,
    *,
    n_experts: Any = range(1, 6),
    criteria: Sequence[str] = CRITERIA,
    criterion: str = "bic",
    sample_weight: Any = None,
    offset: Any = None,
    groups: Any = None,
) -> Selection:
    """Fit an estimator for several numbers of experts and compare them.

    Each fit also starts from the fit with fewer experts, its worst explained expert split.

    Parameters
    ----------
    est : estimator
        Not changed; clones of it are fitted. Its ``init`` must be a name.
    X, y : array-like of shape (n, n_features) and (n,) or (n, 2)
        Data.
    n_experts : int or iterable of int, default=range(1, 6)
        Numbers of experts to try.
    criteria : sequence of {"aic", "bic", "icl"}
        Columns of the table; lower is better for all of them.
    criterion : str, default="bic"
        What :attr:`Selection.best_estimator` goes by.
    sample_weight, offset : array-like of shape (n,), optional
        Case weights >= 0, and the known part of every expert's linear predictor (in units of y;
        for counts of the log mean or the log odds).
    groups : array-like of shape (n,), optional
        Labels of groups whose rows share one expert; BIC and ICL count groups then.

    Returns
    -------
    Selection
        One fit per number of experts, and their table.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.

    References
    ----------
    Biernacki, C., Celeux, G. and Govaert, G. (2000). Assessing a mixture model for clustering
    with the integrated completed likelihood. IEEE Transactions on Pattern Analysis and Machine
    Intelligence 22, 719-725.
    """
    import pandas as pd

    values = experts_range(n_experts)
    for name in (*criteria, criterion):
        if name not in CRITERIA:
            raise ValueError(f"criterion {name!r} is not known; known: {', '.join(CRITERIA)}")
    if not hasattr(est, "n_experts"):
        raise TypeError(
            f"est must be a mixture-of-experts estimator, got {type(est).__name__}; select its "
            "last step, with X as the steps before leave it"
        )
    if not isinstance(est.init, str):
        raise TypeError("est.init must be a name when several numbers of experts are fitted")
    estimators: dict[int, Any] = {}
    rows = []
    given = {"sample_weight": sample_weight, "offset": offset}
    given |= {} if groups is None else {"groups": groups}
    for value in values:
        fitted = _fit_one(est, X, y, value, estimators, given)
        estimators[value] = fitted
        rows.append(_row(fitted, X, y, dict.fromkeys((*criteria, criterion)), given))
    table = pd.DataFrame(rows, index=pd.Index(values, name="n_experts"))
    selection = Selection(table, estimators, criterion)
    # The fit that is chosen speaks for itself.
    selection.best_estimator.warn_about_fit()
    return selection


def _fit_one(
    est: Any,
    X: Any,
    y: Any,
    value: int,
    smaller: dict[int, Any],
    given: dict[str, Any],
) -> Any:
    from sklearn.base import clone

    fitted = clone(est).set_params(n_experts=value)
    if smaller:
        fitted.set_params(init=[est.init, smaller[max(smaller)]])
    if getattr(est, "checkpoint", None) is not None:
        fitted.set_params(checkpoint=f"{est.checkpoint}.K{value}")
    with warnings.catch_warnings():
        # What a fit has to say of itself stands in the table; the design is the same for all.
        for category in reported(designs=bool(smaller)):
            warnings.simplefilter("ignore", category)
        fitted.fit(X, y, **given)
    return fitted.set_params(init=est.init)


def reported(designs: bool) -> list[type[Warning]]:
    """What a fit warns of itself, and with ``designs`` also of its data."""
    from sklearn.exceptions import ConvergenceWarning

    from mixexperts.errors import RankDeficientWarning, SeparationWarning

    own = [DegenerateFitWarning, SeparationWarning, ConvergenceWarning]
    return [*own, RankDeficientWarning] if designs else own


def _row(
    fitted: Any, X: Any, y: Any, criteria: Iterable[str], given: dict[str, Any]
) -> dict[str, Any]:
    table = fitted.restarts_
    row: dict[str, Any] = {"log_likelihood": fitted.log_likelihood_, "df": fitted.n_parameters_}
    for name in criteria:
        row[name] = getattr(fitted, name)(X, y, **given)
    flags = list(fitted.flags_) + ["gate separates experts perfectly"] * bool(fitted.separated_)
    flags += [f"expert {k + 1} is separated" for k in fitted.separated_experts_.nonzero()[0]]
    row |= {
        "status": fitted.status_,
        "reached_best": int(table["reached_best"].sum()),
        "n_starts": int((table["status"] != "screened").sum()),
        "min_share": float(fitted.mass_.min() / fitted.mass_.sum()),
        "flag": "; ".join(flags),
    }
    return row
