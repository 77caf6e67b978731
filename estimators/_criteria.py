"""Information criteria of a fitted mixture of experts on data."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixexperts.estimators import _units as units
from mixexperts.estimators._predict import Predictions, rows_of
from mixexperts.kernels.numpy_ import e_step


class Criteria(Predictions):
    """AIC, BIC and ICL."""

    def _log_likelihood(
        self, X: Any, y: Any, sample_weight: Any, offset: Any, **rows: Any
    ) -> tuple[float, float, float]:
        """Log-likelihood that the fit maximises, of (x, y) for a joint gate, and the weights.

        These are the sums over the sampling units, and over the rows.
        """
        grouping = self._grouping(X, rows.pop("groups", None))
        batch = self._batch(X, y, offset, groups=grouping, **rows)
        with np.errstate(over="ignore"):
            _, log_density = e_step(self.model_.log_joint(self.theta_, batch))
        size = rows_of(batch)
        log_density += self.frame_.log_volume() - self.frame_.log_scale(batch)
        weight = units.weights(sample_weight, batch.n_rows, grouping)
        used = weight > 0  # a row of weight zero counts for nothing, however far away
        llf = float(weight[used] @ log_density[used])
        return llf, float(weight.sum()), float(weight @ size)

    def aic(
        self, X: Any, y: Any, *, sample_weight: Any = None, offset: Any = None, **rows: Any
    ) -> float:
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
        **rows
            ``groups`` (needed if the fit had groups), ``log_prior`` and ``partial_labels``, as
            in :meth:`fit`.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        llf, _, _ = self._log_likelihood(X, y, sample_weight, offset, **rows)
        return float(-2.0 * llf + 2.0 * self.n_parameters_)

    def bic(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        offset: Any = None,
        count: str = "groups",
        **rows: Any,
    ) -> float:
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
        count : {"groups", "rows"}, default="groups"
            What n counts where there are groups: these, which are independent, or all rows.
        **rows
            ``groups`` (needed if the fit had groups), ``log_prior`` and ``partial_labels``, as
            in :meth:`fit`.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        if count not in ("groups", "rows"):
            raise ValueError(f"count must be 'groups' or 'rows', got {count!r}")
        llf, n_groups, n_rows = self._log_likelihood(X, y, sample_weight, offset, **rows)
        n = n_groups if count == "groups" else n_rows
        return float(-2.0 * llf + np.log(n) * self.n_parameters_)

    def icl(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        offset: Any = None,
        count: str = "groups",
        **rows: Any,
    ) -> float:
        """Integrated completed likelihood, BIC plus twice the entropy of the responsibilities.

        Lower is better (McLachlan and Peel 2000, section 6.10.3: ICL-BIC). With a Gaussian
        gate the log-likelihood is that of features and response together. The entropy of a
        group is that of its one expert.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,) or (n, 2)
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0.
        offset : array-like of shape (n,), optional
            In units of y (of the linear predictor for counts); needed if the fit had one.
        count : {"groups", "rows"}, default="groups"
            As in :meth:`bic`.
        **rows
            ``groups`` (needed if the fit had groups), ``log_prior`` and ``partial_labels``, as
            in :meth:`fit`.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        grouping = self._grouping(X, rows.get("groups"))
        resp = self.responsibilities(X, y, offset=offset, **rows)
        weight = units.weights(sample_weight, len(resp), grouping)
        resp = resp if grouping is None else resp[grouping.first]
        surprise = -resp * np.log(np.where(resp > 0, resp, 1.0))
        used = weight > 0
        entropy = float(weight[used] @ surprise[used].sum(axis=1))
        bic = self.bic(X, y, sample_weight=sample_weight, offset=offset, count=count, **rows)
        return bic + 2.0 * entropy
