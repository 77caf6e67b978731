"""What the penalised estimators that choose their penalty share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mixexperts._batch import Array
from mixexperts.errors import warn
from mixexperts.estimators._lasso import LassoBase
from mixexperts.estimators._lasso_arguments import positive_number
from mixexperts.estimators._lasso_folds import (
    Folds,
    Task,
    chosen_by_folds,
    make_folds,
    ratios,
    run_all,
    summarised,
)
from mixexperts.estimators._lasso_grid import (
    CRITERIA,
    SOUND,
    Branch,
    given_alphas,
    grid_arguments,
)
from mixexperts.estimators._lasso_path import Bar, LassoPath, assembled, lowest, share
from mixexperts.estimators._lasso_problem import Problem
from mixexperts.inference.selection import experts_range


class LassoCVBase(LassoBase):
    """Fits along paths and the choice among them; parameters are documented in the subclasses."""

    alphas: Any
    n_alphas: int
    alpha_min_ratio: float | None
    gate_ratio: Any
    cv: Any
    criterion: str
    ebic_gamma: float
    one_se: bool

    #: Estimator of one point.
    _single: type[Any]

    warm_start = False

    def _fit(self, X: Any, y: Any, sample_weight: Any, offset: Any, *rows: Any) -> None:
        values = experts_range(self.n_experts)
        self._check_choice()
        gamma = share(self.ebic_gamma, "ebic_gamma")
        strengths = ratios(
            self.gate_ratio,
            lambda value: positive_number(value, "gate_ratio", "it is a ratio of strengths"),
        )
        alphas = None if self.alphas is None else given_alphas(self.alphas)
        base = self._base(max(values))
        problem = base._problem(X, y, sample_weight, offset)
        base = base._settled(problem)
        grid = grid_arguments(self.n_alphas, self.alpha_min_ratio, problem)
        folds = make_folds(self.cv, problem, X, y) if self.criterion == "cv" else None
        # One expert has a gate without coefficients: all ratios are the same.
        tasks = [
            Task(k, ratio, alphas, None)
            for k in values
            for ratio in strengths[: None if k > 1 else 1]
        ]
        n_points = len(tasks) * (grid[0] if alphas is None else len(alphas))
        total = n_points * (1 if folds is None else 1 + len(folds))
        with Bar(total, bool(self.verbose), "paths") as bar:
            found = dict(run_all(base, problem, tasks, None, grid, bar))
            branches = [found[i] for i in range(len(tasks))]
            scores = None
            if folds is not None:
                scores = _scores(base, problem, branches, folds, grid, bar)
        self._choose(base, branches, scores, folds, gamma)

    def _check_choice(self) -> None:
        known = ("cv", *CRITERIA)
        if not isinstance(self.criterion, str):
            raise TypeError(f"criterion must be one of {', '.join(known)}, got {self.criterion!r}")
        if self.criterion not in known:
            raise ValueError(
                f"criterion={self.criterion!r} is not known; known: {', '.join(known)}"
            )
        if not isinstance(self.one_se, bool | np.bool_):
            raise TypeError(f"one_se must be True or False, got {self.one_se!r}")
        if self.one_se and self.criterion != "cv":
            raise ValueError(
                f"one_se=True needs the spread of folds, which criterion={self.criterion!r} does "
                "not have; use criterion='cv', or leave it out"
            )
        if not isinstance(self.init, str):
            raise TypeError(
                f"init must be the name of a kind of starts, got {type(self.init).__name__}: every "
                "fold makes starts of its own, since those of all rows have seen what is held out"
            )

    def _base(self, n_experts: int) -> Any:
        """Estimator of one point with the same settings."""
        own = self.get_params(deep=False)
        names = self._single._get_param_names()
        shared = {name: own[name] for name in names if name in own}
        return self._single(**shared).set_params(n_experts=n_experts)

    def _checker(self) -> Any:
        """An estimator that checks data as the fit does."""
        return self._base(max(experts_range(self.n_experts)))

    def _choose(
        self,
        base: Any,
        branches: Sequence[Branch],
        scores: Array | None,
        folds: Folds | None,
        gamma: float,
    ) -> None:
        starts = np.cumsum([0, *(len(branch.fits) for branch in branches)])
        path = assembled(base, branches, gamma)
        table = path.table.copy()
        if scores is None or folds is None:
            best = lowest(table, self.criterion)
        else:
            mean, error, failed = summarised(scores, folds.weight)
            best = self._best_of_folds(table, mean, error, failed)
            table["mean_score"], table["std_error"], table["failed_folds"] = mean, error, failed
            for number in range(len(folds)):
                table[f"fold{number + 1}"] = scores[:, number]
        own = int(np.searchsorted(starts, best, side="right")) - 1
        anchors = [best - int(starts[own]) if b == own else None for b in range(len(branches))]
        path = assembled(base, branches, gamma, anchors)
        self._keep(path, path.estimator(best), table, best, branches[own].alphas)
        self._warn_about_choice(branches[own], best - int(starts[own]))
        self.best_estimator_.warn_about_fit()

    def _best_of_folds(self, table: Any, mean: Array, error: Array, failed: Array) -> int:
        if not np.isfinite(mean).any():
            raise ValueError(
                f"no point has a finite score in all folds: at each of the {len(mean)} points some "
                "held-out row has no density under the fit of the other rows; use fewer folds, "
                "larger alphas, or another family (one with heavier tails, for instance)"
            )
        if failed.any():
            warn(
                f"at {np.count_nonzero(failed)} of {len(mean)} points some fold has no finite "
                "score, since a held-out row has no density under the fit of the others; these "
                "points are not chosen (failed_folds in cv_results_)",
                UserWarning,
            )
        sound = table["status"].isin(SOUND).to_numpy() & np.isfinite(mean)
        allowed = np.where(sound | ~(sound.any()), mean, -np.inf)
        return chosen_by_folds(allowed, error, table["df"].to_numpy(), bool(self.one_se))

    def _keep(self, path: LassoPath, best: Any, table: Any, index: int, alphas: Array) -> None:
        """Fitted attributes: those of the chosen point, and of the choice."""
        for name in [name for name in vars(self) if name.endswith("_") and name[0] != "_"]:
            delattr(self, name)
        for name, value in vars(best).items():
            if name.endswith("_") and not name.startswith("_"):
                setattr(self, name, value)
        self.best_estimator_ = best
        self.alpha_, self.gate_alpha_ = best.alpha, best.gate_alpha
        self.gate_ratio_ = float(table["gate_ratio"].iloc[index])
        self.n_experts_ = int(best.n_experts)
        self.best_index_ = index
        self.alphas_ = alphas
        self.alpha_max_ = path.alpha_max
        self.path_ = path.frame
        self.cv_results_ = table

    def _warn_about_choice(self, branch: Branch, place: int) -> None:
        """Warn where the choice stands at the end of the grid."""
        last = len(branch.alphas) - 1
        if last == 0:
            return
        if place == last:
            warn(
                f"the smallest alpha of the grid, {branch.alphas[-1]:.4g}, was chosen by "
                f"{self.criterion!r}; a smaller one may be better: lower alpha_min_ratio, or give "
                "alphas that go further down",
                UserWarning,
            )
        given = self.alphas is not None
        if place == 0 and given and _has_slopes(branch):
            warn(
                f"the largest alpha of the grid, {branch.alphas[0]:.4g}, was chosen by "
                f"{self.criterion!r}; a larger one may be better: give alphas that go further up",
                UserWarning,
            )

    def alpha_max(
        self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None
    ) -> tuple[float, float]:
        """As :meth:`LassoMoERegressor.alpha_max`, of the chosen fit's settings.

        Parameters
        ----------
        X, y, sample_weight, offset
            As in :meth:`fit`.

        Returns
        -------
        alpha, gate_alpha : float

        Raises
        ------
        NotFittedError
            If nothing was chosen yet; grids have their own ``alpha_max``.
        ValueError, TypeError
            If the data cannot be used; the message names the argument.
        """
        check_is_fitted(self, "theta_")
        found: tuple[float, float] = self.best_estimator_.alpha_max(
            X, y, sample_weight, offset=offset
        )
        return found

    def summary(self) -> Any:
        """Tables of the chosen fit, without standard errors: a penalised fit has none.

        Returns
        -------
        statsmodels.iolib.summary.Summary

        Raises
        ------
        NotFittedError
            If there is no fit.
        """
        check_is_fitted(self, "theta_")
        return self.best_estimator_.summary()


def _has_slopes(branch: Branch) -> bool:
    """Whether the first point of a branch has coefficients that are not zero."""
    params = branch.fits[0].params
    return bool(params.coef.any() or params.gate_coef.any())


def _scores(
    base: Any,
    problem: Problem,
    branches: Sequence[Branch],
    folds: Folds,
    grid: tuple[int, float],
    bar: Bar,
) -> Array:
    """Scores (n_points, n_folds) at the points of all branches, in their order."""
    tasks = [
        Task(branch.problem.n_experts, branch.gate_ratio, branch.alphas, fold)
        for branch in branches
        for fold in range(len(folds))
    ]
    found = dict(run_all(base, problem, tasks, folds, grid, bar))
    per_branch = [
        np.column_stack([found[b * len(folds) + fold] for fold in range(len(folds))])
        for b in range(len(branches))
    ]
    return np.concatenate(per_branch)
