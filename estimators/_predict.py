"""What a fitted mixture of experts says about new rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from mixexperts._batch import Array, Batch, Theta
from mixexperts.em.model import Model
from mixexperts.estimators import _checks as checks
from mixexperts.estimators import _units as units
from mixexperts.estimators._frame import Frame
from mixexperts.estimators._sparse import Sparse
from mixexperts.estimators._units import Grouping
from mixexperts.kernels.numpy_ import e_step
from mixexperts.sources.base import Source


class Predictions(Sparse, TransformerMixin):  # type: ignore[misc]
    """Methods of the fitted estimators; the fit itself is in ``BaseMoE``."""

    model_: Model
    theta_: Theta
    frame_: Frame
    mass_: Array
    n_parameters_: int
    weight_sum_: float
    row_weight_sum_: float
    log_likelihood_: Any
    has_offset_: bool

    @property
    def expert_terms_(self) -> tuple[str, ...]:
        """Names of the columns of ``coef_``."""
        terms: tuple[str, ...] = self.frame_.expert_map.column_names()
        return terms

    @property
    def gate_terms_(self) -> tuple[str, ...]:
        """Names of the columns of ``gate_coef_``."""
        terms: tuple[str, ...] = self.model_.gate.terms(self.frame_.gate_map)
        return terms

    @property
    def gate_odds_ratios_(self) -> Array:
        """Factor (K, q') of the odds of an expert against the last per unit of a gate column.

        Raises ``UnsupportedCombinationError`` for gates whose log odds are not linear in them.
        """
        raw = self.frame_.raw(self.model_, self.theta_)
        with np.errstate(over="ignore"):
            ratios: Array = np.exp(self.model_.gate.log_odds(raw))
        return ratios

    def _batch(
        self,
        X: Any,
        y: Any = None,
        offset: Any = None,
        sample_weight: Any = None,
        groups: Grouping | None = None,
        log_prior: Any = None,
        partial_labels: Any = None,
    ) -> Batch:
        """New rows as the engine sees them, group by group where there are groups."""
        check_is_fitted(self, "theta_")
        _refuse_source(X)
        X, y, offset, sample_weight = map(checks.in_memory, (X, y, offset, sample_weight))
        X = self._reordered(X)
        checks.numeric_columns(X)
        if y is None:
            X = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            X, y = checks.validated(self, self.model_.expert, X, y, reset=False)
            if self.model_.expert.multivariate:
                checks.same_responses(y, self.frame_.n_columns)
        weight = None
        if sample_weight is not None:
            weight = checks.sample_weight_array(sample_weight, len(X))
        if offset is None and self.has_offset_:
            raise ValueError(
                "offset is missing: the model was fitted with one; pass offset= for these rows "
                "too (zeros for none)"
            )
        offset = checks.offset_array(offset, len(X), self.frame_.n_columns)
        known = units.evidence(log_prior, partial_labels, len(X), len(self.mass_), groups)
        if groups is None:
            return self.frame_.batch(X, y, weight, offset, log_prior=known)
        groups.refuse_varying(X, self.frame_.gate_columns, self._names(X.shape[1]))
        order = groups.order
        rows = (None if values is None else values[order] for values in (X, y, None, offset))
        return self.frame_.batch(*rows, unit=groups.unit[order], log_prior=known)  # type: ignore[arg-type]

    def _names(self, n_features: int) -> tuple[str, ...]:
        if hasattr(self, "feature_names_in_"):
            return tuple(str(name) for name in self.feature_names_in_)
        return tuple(f"x{j}" for j in range(n_features))

    def _grouping(self, X: Any, groups: Any) -> Grouping | None:
        """The groups of new rows; a model that was fitted with groups wants them."""
        check_is_fitted(self, "theta_")
        _refuse_source(X)
        return Grouping.wanted(groups, len(X), getattr(self, "has_groups_", False))

    def _reordered(self, X: Any) -> Any:
        """The columns of a DataFrame in the order of the fit.

        Missing and additional columns are left for scikit-learn to refuse by name.
        """
        if not (hasattr(X, "columns") and hasattr(self, "feature_names_in_")):
            return X
        wanted = list(self.feature_names_in_)
        given = list(X.columns)
        return X[wanted] if given != wanted and sorted(map(str, given)) == sorted(wanted) else X

    def _gate_batch(self, X: Any) -> Batch:
        """New rows for the gate alone, which has no offset."""
        if not self.has_offset_:
            return self._batch(X)
        d = self.frame_.n_columns
        return self._batch(X, offset=np.zeros((len(X), d) if d > 1 else len(X)))

    def gate_proba(self, X: Any) -> Array:
        """Mixing weights given x.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.

        Returns
        -------
        ndarray of shape (n, n_experts)
            Rows sum to one.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        check_is_fitted(self, "theta_")
        batch = self._gate_batch(X)
        proba: Array = np.exp(self.model_.gate.log_prob(self.theta_.gate, batch))
        return proba

    def transform(self, X: Any) -> Array:
        """Mixing weights given x, as features for a later step; the same as ``gate_proba``.

        With ``set_output(transform="pandas")`` a DataFrame with columns ``gate1``, ``gate2``, ...

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.

        Returns
        -------
        ndarray or DataFrame of shape (n, n_experts)

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        return self.gate_proba(X)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Names of the columns of :meth:`transform`: ``gate1`` to ``gateK``.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str of shape (n_experts,)
        """
        check_is_fitted(self, "theta_")
        return np.array([f"gate{k}" for k in range(1, len(self.mass_) + 1)], dtype=object)

    def responsibilities(
        self,
        X: Any,
        y: Any,
        *,
        offset: Any = None,
        groups: Any = None,
        log_prior: Any = None,
        partial_labels: Any = None,
    ) -> Array:
        """Posterior probabilities of the experts given x and y.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2)
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.
        groups : array-like of shape (n,), optional
            Labels of groups, whose rows share one expert: the posterior is that given all of
            them. Needed if the fit had groups.
        log_prior : array-like of shape (n, n_experts), optional
        partial_labels : array-like of shape (n,), optional
            Evidence about the experts of these rows, as in :meth:`fit`; the fit's is not kept.

        Returns
        -------
        ndarray of shape (n, n_experts)
            Rows sum to one, and those of a group are equal; NaN where a row is so far from all
            experts that its density is zero in floating point.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        grouping = self._grouping(X, groups)
        known = {"log_prior": log_prior, "partial_labels": partial_labels}
        batch = self._batch(X, y, offset, groups=grouping, **known)
        with np.errstate(over="ignore"):  # a density of zero, far from all experts
            terms = self.model_.log_conditional(self.theta_, batch)
        responsibilities, log_density = e_step(terms)
        responsibilities[np.isneginf(log_density)] = np.nan
        return responsibilities if grouping is None else responsibilities[grouping.unit]

    def predict_experts(self, X: Any, *, offset: Any = None) -> Array:
        """Mean of each expert, on the scale of y.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.

        Returns
        -------
        ndarray of shape (n, n_experts), or (n, n_experts, d) of d responses

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        batch = self._batch(X, offset=offset)
        mean = self.model_.expert.mean(self.theta_.expert, batch)
        return np.asarray(mean * self.frame_.scale + self.frame_.loc)

    def score_samples(
        self, X: Any, y: Any = None, *, offset: Any = None, groups: Any = None
    ) -> Array:
        """Log density ``log p(y | x)`` of each row, or of each group of rows.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2), optional
            Responses. Without them the density is taken at the predictive mean; counts must be
            given.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.
        groups : array-like of shape (n,), optional
            Labels of groups, whose rows share one expert. Needed if the fit had groups.

        Returns
        -------
        ndarray of shape (n,)
            In nats, of a density per unit of y; of counts the log of a probability. Of several
            responses the density of those that are not missing. With groups of shape
            (n_groups,): the joint log density of the rows of each, in order of first appearance.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        if y is None:
            check_is_fitted(self, "theta_")
            if self.model_.expert.discrete:
                raise ValueError("y is missing: a mean of counts is no count; give the responses")
            y = self.predictive(X, offset=offset).mean()
        batch = self._batch(X, y, offset, groups=self._grouping(X, groups))
        with np.errstate(over="ignore"):  # a density of zero, far from all experts
            terms = self.model_.log_conditional(self.theta_, batch)
        _, log_density = e_step(terms)
        density: Array = log_density - self.frame_.log_scale(batch)
        return density

    def predictive(self, X: Any, *, offset: Any = None, trials: Any = None) -> Any:
        """Predictive distribution of y at each row of X.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.
        trials : int or array-like of shape (n,), optional
            Trials of binomial experts: the distribution is that of the successes. By default
            one trial.

        Returns
        -------
        Predictive or MultivariatePredictive
            Of n rows, with ``mean``, ``std``, ``pdf``, ``cdf``, ``ppf``, ``interval``, ``sample``;
            of several responses with ``mean``, ``cov``, ``pdf``, ``sample`` and ``marginal``.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        from mixexperts.predictive import Predictive
        from mixexperts.predictive_multi import MultivariatePredictive

        batch = self._batch(X, offset=offset)
        if trials is not None:
            total = checks.trials_array(trials, self.model_.expert, batch.n_rows)
            batch = replace(batch, y=np.column_stack([np.zeros(batch.n_rows), total]))
        several = self.model_.expert.multivariate
        return (MultivariatePredictive if several else Predictive)(
            self.model_.expert,
            self.theta_.expert,
            batch,
            self.model_.gate.log_prob(self.theta_.gate, batch),
            loc=self.frame_.loc,
            scale=self.frame_.scale,
            index=X.index if hasattr(X, "columns") else None,
        )

    def sample(
        self, X: Any, *, offset: Any = None, trials: Any = None, random_state: Any = None
    ) -> Array:
        """Draw one response for each row of X.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.
        trials : int or array-like of shape (n,), optional
            As in :meth:`predictive`; successes are drawn.
        random_state : int, Generator, RandomState or None, default=None
            An integer repeats its draws, a generator is advanced, None draws afresh.

        Returns
        -------
        ndarray of shape (n,), or (n, d) of d responses

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        predictive = self.predictive(X, offset=offset, trials=trials)
        return np.asarray(predictive.sample(random_state=random_state))


def rows_of(batch: Batch) -> Array:
    """Number of rows of each sampling unit, (u,)."""
    return np.asarray(batch.sum_units(np.ones((batch.n_rows, 1)))[:, 0])


def _refuse_source(X: Any) -> None:
    if isinstance(X, Source):
        raise TypeError(
            f"X is a {type(X).__name__}; predictions take arrays: call this method for one "
            "block of rows after the other"
        )
