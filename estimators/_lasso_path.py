"""Penalised fits along a grid of penalties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from mixexperts._batch import Array
from mixexperts.estimators._lasso_arguments import positive_number
from mixexperts.estimators._lasso_grid import (
    CRITERIA,
    SOUND,
    Branch,
    coefficient_rows,
    fit_branch,
    given_alphas,
    grid_arguments,
    point_rows,
)
from mixexperts.estimators._lasso_parts import Parts, all_responsibilities, matching

if TYPE_CHECKING:
    import pandas as pd

_FEATURES = ("n_features_in_", "feature_names_in_")


@dataclass(frozen=True)
class LassoPath:
    """Penalised fits along a grid of penalties, the strongest first.

    Attributes
    ----------
    frame : DataFrame
        Slopes that are not zero, one per row, on the scale of X and y: ``point`` (row of
        ``table``), ``n_experts``, ``gate_ratio``, ``alpha``, ``gate_alpha``, ``room``
        (``"expert"`` or ``"gate"``), ``expert`` (1 to K), ``class`` (label, None where there is
        one row of coefficients per expert), ``term`` and ``coef``. Intercepts and scales are with
        :meth:`estimator`.
    table : DataFrame
        One row per point, indexed by ``point``: ``n_experts``, ``gate_ratio``, ``alpha``,
        ``gate_alpha``, ``log_likelihood``, ``objective`` (of the penalised fit), ``n_nonzero``,
        ``df``, ``aic``, ``bic``, ``ebic``, ``mbic`` (lower is better), ``kkt_violation``,
        ``status``, ``n_iter``, ``flag``.
    alpha_max : float
        The smallest ``alpha`` at which all penalised slopes zero is stationary; NaN where the grid
        was given.
    ebic_gamma : float

    Notes
    -----
    An expert keeps its number along the path, also where the order of the mean responses changes:
    numbers are those of the weakest penalty (of the chosen one, after a choice).

    With n the sum of the weights and the log-likelihood that of the reported coefficients,

    - ``aic`` is ``-2 log-likelihood + 2 df``, ``bic`` the same with ``df log n``;
    - ``ebic`` is ``bic + 2 ebic_gamma log C(P, s)``, where s is ``n_nonzero`` and P the number of
      slopes that there could be: K for each column of the experts (times C - 1 for C classes) and
      K - 1 for each column of the gate (Chen and Chen 2008);
    - ``mbic`` counts ``n_nonzero`` in place of ``df``: slopes alone, neither intercepts nor
      scales, as Chamroukhi and Huynh (2019) do.

    ``df`` and ``n_nonzero`` are those of :class:`LassoMoERegressor`, for all penalties.

    References
    ----------
    Chen, J. and Chen, Z. (2008). Extended Bayesian information criteria for model selection with
    large model spaces. Biometrika 95, 759-771.
    Chamroukhi, F. and Huynh, B.-T. (2019). Regularized maximum likelihood estimation and feature
    selection in mixtures-of-experts models. Journal de la Société Française de Statistique 160.
    """

    frame: Any
    table: Any
    alpha_max: float
    ebic_gamma: float
    _est: Any
    _branches: tuple[Branch, ...]
    _orders: tuple[tuple[Array, ...], ...]

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        alpha = self.table["alpha"]
        return (
            f"LassoPath of {len(self)} points, alpha from {alpha.max():.4g} to {alpha.min():.4g}; "
            f"up to {self.table['n_nonzero'].max()} slopes"
        )

    def estimator(self, point: int) -> Any:
        """Fitted estimator of a point.

        Parameters
        ----------
        point : int
            Row of :attr:`table`; negative ones count from the end.

        Returns
        -------
        LassoMoERegressor or LassoMoEClassifier
            With the point's ``alpha`` and ``gate_alpha``.

        Raises
        ------
        IndexError, TypeError
            If there is no such point.
        """
        if isinstance(point, bool | np.bool_) or not isinstance(point, int | np.integer):
            raise TypeError(f"point must be an integer, a row of the table; got {point!r}")
        if not -len(self) <= point < len(self):
            raise IndexError(f"point={point} is not on the path; it has {len(self)} points")
        at = int(point) % len(self)
        row = self.table.iloc[at]
        own = 0
        while at >= len(self._branches[own].fits):
            at, own = at - len(self._branches[own].fits), own + 1
        branch, orders = self._branches[own], self._orders[own]
        est = unfitted(self._est).set_params(
            n_experts=branch.problem.n_experts,
            alpha=float(row["alpha"]),
            gate_alpha=float(row["gate_alpha"]),
        )
        for name in _FEATURES:
            if hasattr(self._est, name):
                setattr(est, name, getattr(self._est, name))
        fit = branch.fits[at]
        relaxed = None if branch.relaxed is None else branch.relaxed[at]
        est._adopt(branch.problem, branch.penalties[at], fit, (fit,), relaxed, order=orders[at])
        return est

    def best(self, criterion: str = "bic") -> int:
        """The sound point of the lowest criterion, the sparser one where two tie.

        Parameters
        ----------
        criterion : {"aic", "bic", "ebic", "mbic"}, default="bic"

        Returns
        -------
        int
            For :meth:`estimator`.

        Raises
        ------
        ValueError
            If the criterion is not known.
        """
        if criterion not in CRITERIA:
            raise ValueError(f"criterion={criterion!r} is not known; known: {', '.join(CRITERIA)}")
        return lowest(self.table, criterion)

    def plot(self, **options: Any) -> Any:
        """Draw the coefficients against ``alpha``.

        Parameters
        ----------
        **options
            Passed to :func:`mixexperts.plots.plot_path`.

        Returns
        -------
        ndarray of matplotlib Axes, of shape (K + 1,)
        """
        import importlib

        return importlib.import_module("mixexperts.plots").plot_path(self, **options)


def lowest(table: pd.DataFrame, criterion: str) -> int:
    """Position of the lowest criterion among sound points, or among all if none is sound."""
    values = table[criterion].to_numpy(dtype=float)
    sound = table["status"].isin(SOUND).to_numpy() & np.isfinite(values)
    allowed = np.where(sound | ~sound.any(), values, np.inf)
    order = np.lexsort([table["df"].to_numpy(), allowed])
    return int(order[0])


def assembled(
    est: Any, branches: Sequence[Branch], ebic_gamma: float, anchors: Sequence[int | None] = ()
) -> LassoPath:
    """Tables of some branches; experts keep the numbers that they have at the anchors.

    ``anchors`` holds a point of each branch, None for its last.
    """
    import pandas as pd

    places = list(anchors) or [None] * len(branches)
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, Array]] = []
    orders = []
    for branch, anchor in zip(branches, places, strict=True):
        own = tracked(branch, len(branch.fits) - 1 if anchor is None else anchor, est.gate_coding)
        parts += coefficient_rows(branch, own, len(rows))
        rows += point_rows(branch, ebic_gamma)
        orders.append(own)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Labels may be of any kind, and None is no missing one.
    frame = pd.DataFrame({**columns, "class": pd.Series(columns["class"], dtype=object)})
    table = pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="point"))
    largest = max(branch.alpha_max for branch in branches)
    return LassoPath(frame, table, largest, ebic_gamma, est, tuple(branches), tuple(orders))


def tracked(branch: Branch, anchor: int, coding: str) -> tuple[Array, ...]:
    """Order of the experts at each point in which they are those of the anchor.

    From there on experts go with those of the neighbouring point whose rows they explain. With
    ``coding="reference"`` the last one stays: the penalty knows it.
    """
    problem, fits = branch.problem, branch.final
    weight = problem.rows.weight
    orders: list[Any] = [None] * len(fits)
    orders[anchor] = problem.order(fits[anchor], coding)

    def resp(i: int) -> Array:
        return all_responsibilities(problem, fits[i].params, problem.rows)

    free = problem.n_experts - (coding == "reference")
    for steps in (range(anchor + 1, len(fits)), range(anchor - 1, -1, -1)):
        target = resp(anchor)[:, orders[anchor]]
        for i in steps:
            own = resp(i)
            order = np.arange(problem.n_experts)
            order[:free] = matching(own[:, :free], target[:, :free], weight)
            orders[i], target = order, own[:, order]
    return tuple(orders)


class Bar:
    """Progress bar over points of paths; nothing is shown unless asked."""

    def __init__(self, total: int, show: bool, label: str) -> None:
        self._bar: Any = None
        if show:
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=total,
                desc=label,
                unit="point",
                bar_format="{desc} |{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
            )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """So many points more are done."""
        if self._bar is not None:
            self._bar.update(count)


class LassoPathMixin(Parts):
    """The path of an estimator whose fits are those of one point."""

    alpha: float
    gate_alpha: float
    verbose: int

    def path(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        offset: Any = None,
        alphas: Any = None,
        n_alphas: int = 50,
        alpha_min_ratio: float | None = None,
        gate_ratio: float | None = None,
        ebic_gamma: float = 0.5,
    ) -> LassoPath:
        """Fits along a grid of penalties, each started from its neighbours.

        At some points runs from starts of their own compete, so that the path does not follow
        one local maximum to its end. The estimator itself is not fitted.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
        y : array-like of shape (n,)
        sample_weight, offset : array-like of shape (n,), optional
            As in :meth:`fit`.
        alphas : sequence of float, optional
            Strengths of the experts' penalty. By default ``n_alphas`` values from the smallest one
            at which all slopes zero is stationary down to ``alpha_min_ratio`` times that, evenly on
            the log scale.
        n_alphas : int, default=50
        alpha_min_ratio : float in (0, 1), optional
            By default 0.01, or 0.05 if there are at least as many columns as rows.
        gate_ratio : float, optional
            ``gate_alpha`` is ``gate_ratio`` times ``alpha`` times the standard deviation of y at
            all points (of Gaussian and other experts of a response that may be rescaled; times 1
            for counts and classes, and with ``by_scale``). By default ``gate_alpha / alpha`` is
            that of the estimator's own.
        ebic_gamma : float in [0, 1], default=0.5
            Of the criterion ``ebic``; 0 gives BIC.

        Returns
        -------
        LassoPath
            With ``frame``, ``table``, ``estimator(point)``, ``best(criterion)`` and ``plot()``.
            With ``relax=True`` all coefficients are those of the dense refits.

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used; the message names it.
        """
        est = unfitted(self)
        for name in ("theta_", "model_", "frame_", "mass_"):  # for warm_start
            if getattr(self, "warm_start", False) and hasattr(self, name):
                setattr(est, name, getattr(self, name))
        problem = est._problem(X, y, sample_weight, offset)
        points, least = grid_arguments(n_alphas, alpha_min_ratio, problem)
        gamma = share(ebic_gamma, "ebic_gamma")
        if gate_ratio is None:
            gate_ratio = est.gate_alpha / (est.alpha * float(est._unit(problem)))
        ratio = positive_number(gate_ratio, "gate_ratio", "it is a ratio of strengths")
        grid = None if alphas is None else given_alphas(alphas)
        total = points if grid is None else len(grid)
        with Bar(total, bool(self.verbose), f"K={problem.n_experts}") as bar:
            branch = fit_branch(
                est, problem, ratio, grid, n_alphas=points, alpha_min_ratio=least, progress=bar
            )
        return assembled(est, [branch], gamma)


def unfitted(est: Any) -> Any:
    """As scikit-learn's clone, but a fitted ``init`` stays as it is: it states a start."""
    own = est.get_params(deep=False)
    return type(est)(
        **{
            name: value if name == "init" else clone(value, safe=False)
            for name, value in own.items()
        }
    )


def share(value: Any, name: str) -> float:
    """A number in [0, 1]; booleans are none.

    Raises
    ------
    ValueError, TypeError
        If it is none.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return float(value)
