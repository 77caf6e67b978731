"""What the penalised estimators share: arguments, the fit at one point, and its attributes."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mixexperts._batch import Array
from mixexperts.em.sparse import SparseFit, SparseFits, alpha_max, fit_sparse, null_fit
from mixexperts.errors import InferenceRefusedError, UnsupportedCombinationError
from mixexperts.estimators import _checks as checks
from mixexperts.estimators._base import BaseMoE
from mixexperts.estimators._data import Resident
from mixexperts.estimators._lasso_arguments import Arguments, checked_arguments
from mixexperts.estimators._lasso_grid import worse
from mixexperts.estimators._lasso_problem import Problem, centred
from mixexperts.estimators._lasso_starts import given_starts
from mixexperts.estimators._lasso_tables import coefficient_table, restart_table, summary
from mixexperts.experts.gaussian import Gaussian
from mixexperts.penalties.sparse import SparsePenalty
from mixexperts.sources import Source

if TYPE_CHECKING:
    import pandas as pd

_FLAG = re.compile(r"expert (\d+) (.*)", re.DOTALL)


class LassoBase(BaseMoE):
    """Fits at one point of the penalties; parameters are documented in the subclasses."""

    alpha: float
    gate_alpha: float
    l1_ratio: float
    penalty: str
    concavity: float | None
    penalty_weights: Any
    gate_penalty_weights: Any
    groups: Any
    standardize: bool
    gate_coding: str
    relax: bool
    # Classes have no scale to divide by.
    by_scale: Any = False

    # What the fits by maximum likelihood let the user choose.
    gate = "softmax"
    gate_penalty = None
    expert_penalty = None
    algorithm = "em"
    accelerate = True
    backend = "auto"
    chunk_rows = None
    checkpoint = None

    # --- fitting ---------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, offset: Any, *rows: Any) -> None:
        problem = self._problem(X, y, sample_weight, offset)
        fit, starts, penalty = self._solve(problem, self._penalty(problem))
        relaxed = self._relaxed(problem, penalty, fit) if self.relax else None
        self._adopt(problem, penalty, fit, starts, relaxed)
        if self.verbose:
            self._tell()
        self.warn_about_fit()

    def _problem(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Problem:
        """The rows, checked and brought to the solver's scale."""
        arguments = self._arguments()
        if isinstance(X, Source):
            raise TypeError(
                f"X is a {type(X).__name__}; penalised fits take arrays in memory: read its rows "
                "first"
            )
        expert = self._family()
        if expert.for_response(checks.n_columns(y)).multivariate:
            raise UnsupportedCombinationError(
                f"y has {checks.n_columns(y)} columns; penalised experts take one response: fit "
                "each by itself, or use MoERegressor for all together"
            )
        given = self._given(X, y, sample_weight, offset)
        seed = self._seed()
        data = Resident(given, seed=seed)
        expert = expert.for_response(data.n_columns)
        expert.check_experts(arguments.n_experts)
        self._check_size(data, arguments.n_experts, expert)
        columns, names = self._columns(data.n_features), self._names(data.n_features)
        return Problem.of(
            expert,
            data,
            columns,
            names,
            arguments.n_experts,
            bool(self.standardize),
            seed,
            getattr(self, "_classes", None),
        )

    def _arguments(self) -> Arguments:
        return checked_arguments(self)

    def _penalty(
        self, problem: Problem, alpha: float | None = None, gate_alpha: float | None = None
    ) -> SparsePenalty:
        """The penalty on the solver's scale, at the estimator's point or another one.

        That of the adaptive lasso is the one of its pilot.
        """
        arguments = self._arguments()
        alpha = arguments.alpha if alpha is None else alpha
        gate_alpha = arguments.gate_alpha if gate_alpha is None else gate_alpha
        return arguments.penalty(
            alpha * self._unit(problem),
            gate_alpha,
            problem.taken,
            problem.data.n_features,
            self._is_by_scale(problem),
        )

    def _unit(self, problem: Problem) -> float:
        """How many times the user's ``alpha`` the solver's is."""
        return 1.0 if self._is_by_scale(problem) else problem.unit

    def _is_by_scale(self, problem: Problem) -> bool:
        """Whether the penalty sees coefficients by their expert's scale."""
        if self.by_scale != "auto":
            return bool(self.by_scale)
        # With as many columns as rows the other form has no maximum.
        many = len(problem.taken) >= problem.data.n_rows
        return many and isinstance(problem.family, Gaussian)

    def _starts(self, problem: Problem, penalty: SparsePenalty) -> tuple[Any, tuple[str, ...]]:
        """Starts that ``init`` states, None where the solver makes them; and their names."""
        warm = self.warm_start and hasattr(self, "theta_")
        if not (warm and len(self.mass_) == problem.n_experts):
            return given_starts(self.init, problem, penalty, self.n_init)
        try:
            return given_starts(self, problem, penalty, 1)
        except ValueError as error:
            raise ValueError(
                f"warm_start=True cannot go on from the previous fit: {error}; set warm_start=False"
            ) from error

    def _solve(
        self, problem: Problem, penalty: SparsePenalty
    ) -> tuple[SparseFit, tuple[SparseFit, ...], SparsePenalty]:
        """The best fit, those of all starts, and the penalty that the first maximises under."""
        starts, names = self._starts(problem, penalty)
        fits = self._solver(problem, penalty, starts, names[0] if starts is None else "auto")
        best, tried = fits.best, fits.all
        if starts is not None:
            tried = tuple(replace(f, kind=name) for f, name in zip(tried, names, strict=True))
        if self.penalty != "adaptive":
            return best, tried, penalty
        penalty = self._arguments().adapted(
            penalty, centred(penalty, best.params), problem.family.nominal
        )
        second = self._solver(problem, penalty, (best.params,), "auto").best
        return replace(second, n_iter=best.n_iter + second.n_iter), tried, penalty

    def _solver(
        self, problem: Problem, penalty: SparsePenalty, starts: Any, init: str
    ) -> SparseFits:
        return fit_sparse(
            problem.family,
            problem.rows,
            problem.n_experts,
            penalty,
            starts=starts,
            n_init=self.n_init,
            init=init,
            tol=float(self.tol),
            max_iter=self.max_iter,
            seed=problem.seed,
        )

    def _relaxed(self, problem: Problem, penalty: SparsePenalty, fit: SparseFit) -> SparseFit:
        """Maximum likelihood from the fitted point, over the coefficients that are not zero."""
        params = centred(penalty, fit.params)
        free = replace(
            penalty,
            kind="lasso",
            concavity=None,
            groups=None,
            weights=np.where(params.coef != 0.0, 0.0, np.inf),
            gate_weights=np.where(params.gate_coef != 0.0, 0.0, np.inf),
        )
        return self._solver(problem, free, (params,), "auto").best

    # --- attributes ------------------------------------------------------------------------

    def _adopt(
        self,
        problem: Problem,
        penalty: SparsePenalty,
        fit: SparseFit,
        fits: Sequence[SparseFit],
        relaxed: SparseFit | None = None,
        order: Array | None = None,
    ) -> None:
        """Set all fitted attributes, experts in their final order."""
        final = fit if relaxed is None else relaxed
        order = problem.order(final, self.gate_coding) if order is None else order
        params = centred(penalty, fit.params) if relaxed is None else relaxed.params
        params = params.permute(order)
        if hasattr(self, "theta_"):  # attributes that another family had
            for name in self.frame_.raw(self.model_, self.theta_):
                self.__dict__.pop(f"{name}_", None)
        theta = problem.settled(params, self.gate_coding)
        self.model_, self.frame_, self.theta_ = problem.model, problem.frame, theta
        for name, values in problem.raw(theta, params).items():
            setattr(self, f"{name}_", values)
        experts, gate = problem.room_columns
        active, gate_active = params.coef != 0.0, params.gate_coef != 0.0
        self.active_ = active[:, :, experts] if problem.family.nominal else active[:, 0, experts]
        self.gate_active_ = gate_active[:, gate]
        self.support_ = np.zeros(problem.data.n_features, dtype=bool)
        self.support_[problem.taken] = active.any(axis=(0, 1)) | gate_active.any(axis=0)
        for name in ("lasso_coef_", "lasso_gate_coef_"):
            self.__dict__.pop(name, None)
        if relaxed is not None:
            shrunk = centred(penalty, fit.params).permute(order)
            raw = problem.raw(problem.settled(shrunk, self.gate_coding), shrunk)
            self.lasso_coef_, self.lasso_gate_coef_ = raw["coef"], raw["gate_coef"]
        self.n_nonzero_, self.df_ = problem.counts(params)
        self.n_parameters_ = self.df_
        self.by_scale_ = penalty.by_scale
        jacobian = problem.log_jacobian
        self.mass_ = final.mass[order]
        self.log_likelihood_ = final.log_likelihood + jacobian
        self.objective_ = fit.objective + jacobian
        self.history_ = np.asarray(fit.history) + jacobian
        self.n_iter_ = fit.n_iter
        self.kkt_violation_ = fit.kkt_violation
        said = worse(fit, final)
        self.status_ = said.status
        self.converged_ = self.status_ == "converged"
        self.separated_, self.separated_experts_ = False, np.zeros(len(order), dtype=bool)
        if relaxed is not None or _lets_go(penalty):
            self.separated_, self.separated_experts_ = problem.separation(params)
        self.restarts_ = restart_table(fits, jacobian, problem.unit)
        self.weight_sum_, self.row_weight_sum_ = problem.data.weight, problem.data.row_weight
        self.has_offset_ = problem.data.has_offset
        self.has_groups_ = self.has_log_prior_ = False
        self.flags_ = _renumbered(said.flags, order)
        if problem.classes is not None:
            self.classes_ = problem.classes

    def _tell(self) -> None:
        """Say how the fit went, on the standard error."""
        lines = [f"objective {self.objective_:.4f}, {self.n_nonzero_} slopes, {self.status_}"]
        if self.verbose > 1:
            lines += [
                f"  {row.init:<10} {row.objective:.4f} {row.status}"
                for row in self.restarts_.itertuples()
            ]
        print(*lines, sep="\n", file=sys.stderr)

    def alpha_max(
        self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None
    ) -> tuple[float, float]:
        """Strengths of the penalties from which on the model without slopes is stationary.

        Exact at the best mixture of ``n_experts`` experts without slopes and with a constant
        gate: with ``alpha`` and ``gate_alpha`` of at least this size it is a local maximum, with
        less of either slopes come in. A better maximum may have slopes even there.

        Parameters
        ----------
        X, y, sample_weight, offset
            As in :meth:`fit`.

        Returns
        -------
        alpha, gate_alpha : float
            With ``penalty="group"`` in the ratio of the estimator's, and for both rooms together.

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used, or ``l1_ratio`` is 0: ridge has no such
            strength.
        """
        problem = self._problem(X, y, sample_weight, offset)
        penalty = self._penalty(problem)
        if penalty.l1_ratio == 0.0:
            raise ValueError(
                "l1_ratio=0 is ridge, which sets no coefficient to zero: there is no alpha_max"
            )
        null = null_fit(
            problem.family, problem.rows, problem.n_experts, penalty,
            n_init=self.n_init, seed=problem.seed,
        )  # fmt: skip
        alpha, gate_alpha = alpha_max(problem.family, problem.rows, null, penalty)
        return alpha / self._unit(problem), gate_alpha

    # --- tables ----------------------------------------------------------------------------

    def coefficients(self) -> pd.DataFrame:
        """Coefficients that are not zero, one per row.

        Returns
        -------
        DataFrame
            With columns ``room`` (``"expert"`` or ``"gate"``), ``expert`` (1 to K), ``class`` (the
            label, None where there is one row of coefficients per expert), ``term`` and ``coef``,
            on the scale of X and y; without intercepts.

        Raises
        ------
        NotFittedError
            If there is no fit.
        """
        check_is_fitted(self, "theta_")
        return coefficient_table(self)

    def summary(self) -> Any:
        """Tables of the fit, without standard errors: a penalised fit has none.

        Returns
        -------
        statsmodels.iolib.summary.Summary
            Prints as text; ``as_html()``, ``as_latex()`` and ``as_csv()`` for other uses. Terms
            whose coefficients are all zero are left out.

        Raises
        ------
        NotFittedError
            If there is no fit.
        """
        check_is_fitted(self, "theta_")
        return summary(self)

    # --- what a penalised fit does not give ------------------------------------------------

    def inference(self, *args: Any, **kwargs: Any) -> None:
        """Refused: a penalised fit has no standard errors.

        Parameters
        ----------
        *args, **kwargs
            Whatever; nothing is read.

        Raises
        ------
        InferenceRefusedError
            Always; says why, and what may be used instead.
        """
        raise InferenceRefusedError(
            f"{type(self).__name__} gives no standard errors, intervals or p-values: the penalty "
            "shrinks coefficients and the data chose which ones are there, so that the usual "
            "formulas would be too narrow. Use mixexperts.stability_selection for how surely a "
            "column is chosen, or mixexperts.sample_splitting for intervals from rows that did "
            "not take part in the choice"
        )

    conf_int = pvalues = inference


def _lets_go(penalty: SparsePenalty) -> bool:
    """Whether large coefficients, or some columns, are not held by the penalty."""
    free = any(w is not None and (w == 0.0).any() for w in (penalty.weights, penalty.gate_weights))
    return free or not penalty.is_convex


def _renumbered(flags: Sequence[str], order: Array) -> tuple[str, ...]:
    """Flags that start with 'expert <number>' in the final numbering."""
    renumbered = []
    for flag in flags:
        match = _FLAG.fullmatch(flag)
        if match is not None:
            number = int(np.flatnonzero(order == int(match[1]) - 1)[0]) + 1
            flag = f"expert {number} {match[2]}"
        renumbered.append(flag)
    return tuple(sorted(renumbered))
