"""What estimators of numbers do beside the others: means, and their R squared."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from mixexperts._batch import Array
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.estimators import _checks as checks
from mixexperts.estimators._predict import Predictions
from mixexperts.estimators._several import several_scores
from mixexperts.estimators._sparse import sparse_weights


class Regression(RegressorMixin, Predictions):  # type: ignore[misc]
    """Predictions of a mean and their score."""

    expert: Any

    def predict(
        self, X: Any, *, offset: Any = None, top_k: int | None = None, top_p: float | None = None
    ) -> Array:
        """Mean of y given x, the experts' means weighted by the gate.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.
        top_k : int, optional
            Take only the k experts with the largest weights in a row, their weights renormalised.
        top_p : float, optional
            Take only the fewest experts whose weights sum to at least p in (0, 1]. With both, what
            both take.

        Returns
        -------
        ndarray of shape (n,), or (n, d) of d responses
            In units of y: for Poisson experts the expected count, for binomial experts the
            probability of a success.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        batch = self._batch(X, offset=offset)
        proba = np.exp(self.model_.gate.log_prob(self.theta_.gate, batch))
        proba = sparse_weights(proba, top_k, top_p)
        means = self.model_.expert.mean(self.theta_.expert, batch)
        mean = np.einsum("ik,ik...->i...", proba, means)
        predicted: Array = mean * self.frame_.scale + self.frame_.loc
        return predicted

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R squared of :meth:`predict`.

        For two columns, successes and failures, that of the observed shares of successes, each
        row weighted by its trials; rows without trials are left out. Of several responses the
        mean over the responses, each over the rows that have it.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, d)
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        check_is_fitted(self, "theta_")
        if self.model_.expert.multivariate:
            return several_scores(self, X, y, sample_weight)
        shape = np.shape(y)
        if len(shape) != 2 or shape[1] not in self.model_.expert.response_columns[1:]:
            return float(super().score(X, y, sample_weight))
        if self.model_.expert.infinite_response:
            raise UnsupportedCombinationError(
                "R squared needs exact responses in one column; see score_samples or aic instead"
            )
        counts = np.asarray(y, dtype=np.float64)
        self.model_.expert.check_response(counts)
        trials = counts.sum(axis=1)
        weight = trials * checks.sample_weight_array(sample_weight, len(trials))
        share = counts[:, 0] / np.where(trials > 0.0, trials, 1.0)
        return float(r2_score(share, self.predict(X), sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = checks.takes_several(self.expert)
        return tags
