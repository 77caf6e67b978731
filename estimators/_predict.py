"""What a fitted mixture of experts says about new rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from mixexperts._batch import Array, Batch, Theta
from mixexperts.em.model import Model
from mixexperts.estimators import _checks as checks
from mixexperts.estimators._frame import Frame
from mixexperts.kernels.numpy_ import e_step
from mixexperts.sources.base import Source

if TYPE_CHECKING:
    from mixexperts.predictive import Predictive


class Predictions(TransformerMixin):  # type: ignore[misc]
    """Methods of the fitted estimators; the fit itself is in ``BaseMoE``."""

    model_: Model
    theta_: Theta
    frame_: Frame
    mass_: Array
    n_parameters_: int
    has_offset_: bool

    @property
    def expert_terms_(self) -> tuple[str, ...]:
        """Names of the columns of ``coef_``."""
        terms: tuple[str, ...] = self.frame_.expert_map.column_names()
        return terms

    @property
    def gate_terms_(self) -> tuple[str, ...]:
        """Names of the columns of ``gate_coef_``."""
        terms: tuple[str, ...] = self.frame_.gate_map.column_names()
        return terms

    def _batch(self, X: Any, y: Any = None, offset: Any = None, sample_weight: Any = None) -> Batch:
        """New rows as the engine sees them."""
        check_is_fitted(self, "theta_")
        if isinstance(X, Source):
            raise TypeError(
                f"X is a {type(X).__name__}; predictions take arrays: call this method for one "
                "block of rows after the other"
            )
        X, y, offset, sample_weight = map(checks.in_memory, (X, y, offset, sample_weight))
        X = self._reordered(X)
        checks.numeric_columns(X)
        if y is None:
            X = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            X, y = checks.validated(self, self.model_.expert, X, y, reset=False)
        weight = None
        if sample_weight is not None:
            weight = checks.sample_weight_array(sample_weight, len(X))
        if offset is None and self.has_offset_:
            raise ValueError(
                "offset is missing: the model was fitted with one; pass offset= for these rows "
                "too (zeros for none)"
            )
        batch: Batch = self.frame_.batch(X, y, weight, checks.offset_array(offset, len(X)))
        return batch

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
        offset = np.zeros(len(X)) if self.has_offset_ else None
        return self._batch(X, offset=offset)

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

    def responsibilities(self, X: Any, y: Any, *, offset: Any = None) -> Array:
        """Posterior probabilities of the experts given x and y.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2)
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.

        Returns
        -------
        ndarray of shape (n, n_experts)
            Rows sum to one; NaN where a row is so far from all experts that its density is
            zero in floating point.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        batch = self._batch(X, y, offset)
        with np.errstate(over="ignore"):  # a density of zero, far from all experts
            terms = self.model_.log_conditional(self.theta_, batch)
        responsibilities, log_density = e_step(terms)
        responsibilities[np.isneginf(log_density)] = np.nan
        return responsibilities

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
        ndarray of shape (n, n_experts)

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        batch = self._batch(X, offset=offset)
        mean: Array = self.model_.expert.mean(self.theta_.expert, batch)
        return mean * self.frame_.scale + self.frame_.loc

    def score_samples(self, X: Any, y: Any = None, *, offset: Any = None) -> Array:
        """Log density ``log p(y | x)`` of each row.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2), optional
            Responses. Without them the density is taken at the predictive mean; counts must be
            given.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.

        Returns
        -------
        ndarray of shape (n,)
            In nats, of a density per unit of y; of counts the log of a probability.

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
        batch = self._batch(X, y, offset)
        with np.errstate(over="ignore"):  # a density of zero, far from all experts
            terms = self.model_.log_conditional(self.theta_, batch)
        _, log_density = e_step(terms)
        density: Array = log_density - np.log(self.frame_.scale)
        return density

    def predictive(self, X: Any, *, offset: Any = None, trials: Any = None) -> Predictive:
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
        Predictive
            Of n rows, with ``mean``, ``std``, ``pdf``, ``cdf``, ``ppf``, ``interval``, ``sample``.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        from mixexperts.predictive import Predictive

        batch = self._batch(X, offset=offset)
        if trials is not None:
            total = checks.trials_array(trials, self.model_.expert, batch.n_rows)
            batch = replace(batch, y=np.column_stack([np.zeros(batch.n_rows), total]))
        return Predictive(
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
        ndarray of shape (n,)

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        return self.predictive(X, offset=offset, trials=trials).sample(random_state=random_state)

    # --- criteria --------------------------------------------------------------------------

    def _log_likelihood(
        self, X: Any, y: Any, sample_weight: Any, offset: Any
    ) -> tuple[float, float]:
        """Log-likelihood that the fit maximises, of (x, y) for a joint gate, and the weight."""
        batch = self._batch(X, y, offset)
        with np.errstate(over="ignore"):
            _, log_density = e_step(self.model_.log_joint(self.theta_, batch))
        log_density += self.frame_.log_jacobian(1.0)
        weight = checks.sample_weight_array(sample_weight, len(log_density))
        used = weight > 0  # a row of weight zero counts for nothing, however far away
        return float(weight[used] @ log_density[used]), float(weight.sum())

    def aic(self, X: Any, y: Any, *, sample_weight: Any = None, offset: Any = None) -> float:
        """Akaike's criterion on data, ``-2 log-likelihood + 2 n_parameters_``.

        Lower is better (Akaike 1974). With a Gaussian gate the log-likelihood is that of
        features and response together, as the fit maximises it.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2)
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        llf, _ = self._log_likelihood(X, y, sample_weight, offset)
        return float(-2.0 * llf + 2.0 * self.n_parameters_)

    def bic(self, X: Any, y: Any, *, sample_weight: Any = None, offset: Any = None) -> float:
        """Schwarz's criterion on data, ``-2 log-likelihood + n_parameters_ log n``.

        n is the sum of the weights; lower is better (Schwarz 1978). With a Gaussian gate the
        log-likelihood is that of features and response together.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2)
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        llf, n = self._log_likelihood(X, y, sample_weight, offset)
        return float(-2.0 * llf + np.log(n) * self.n_parameters_)

    def icl(self, X: Any, y: Any, *, sample_weight: Any = None, offset: Any = None) -> float:
        """Integrated completed likelihood, BIC plus twice the entropy of the responsibilities.

        Lower is better (McLachlan and Peel 2000, section 6.10.3: ICL-BIC). With a Gaussian
        gate the log-likelihood is that of features and response together.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2)
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        resp = self.responsibilities(X, y, offset=offset)
        weight = checks.sample_weight_array(sample_weight, len(resp))
        surprise = -resp * np.log(np.where(resp > 0, resp, 1.0))
        used = weight > 0
        entropy = float(weight[used] @ surprise[used].sum(axis=1))
        return self.bic(X, y, sample_weight=sample_weight, offset=offset) + 2.0 * entropy
