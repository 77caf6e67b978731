"""What estimators of classes do beside the others: labels for codes, and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from mixexperts._batch import Array, Batch
from mixexperts._registry import resolve
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.estimators._labels import class_codes, labels, listing
from mixexperts.estimators._predict import Predictions
from mixexperts.estimators._saving import Saving
from mixexperts.estimators._sparse import sparse_weights
from mixexperts.experts.base import Expert


class Classification(ClassifierMixin, Predictions, Saving):  # type: ignore[misc]
    """Predictions of classes; the fit in codes of labels is the estimators'."""

    classes_: Array
    expert: Any

    def _family(self) -> Expert:
        """The experts, told the number of classes."""
        expert: Expert = resolve("expert", self.expert, "expert")
        if expert.takes_classes == "none":
            raise UnsupportedCombinationError(
                f"expert={expert.name!r} is no family of classes; use 'multinomial', 'ordinal' or, "
                "for two classes, 'binomial'"
            )
        classes = getattr(self, "_classes", getattr(self, "classes_", None))
        if classes is None:
            return expert
        if expert.takes_classes == "two" and len(classes) != 2:
            raise InvalidResponseError(
                f"expert={expert.name!r} takes two classes, but y holds {len(classes)}: "
                f"{listing(classes)}; use expert='multinomial'"
            )
        return expert.with_classes(len(classes))

    def _batch(self, X: Any, y: Any = None, *arguments: Any, **options: Any) -> Batch:
        if y is not None:
            check_is_fitted(self, "theta_")
            y = class_codes(labels(y), self.classes_)
        return super()._batch(X, y, *arguments, **options)

    def _log_experts(self, batch: Batch) -> Array:
        expert = self.model_.expert
        return expert.log_class_proba(self.theta_.expert, batch, len(self.classes_))

    # --- saving ----------------------------------------------------------------------------

    def to_state(self) -> dict[str, Any]:
        """Parameters and fitted attributes, for :meth:`save`.

        Returns
        -------
        dict
            As in :class:`MoERegressor`.
        """
        # Text comes back as objects: the type of the labels is kept apart.
        return super().to_state() | {"labels": self.classes_.dtype.str}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Any:
        """Inverse of :meth:`to_state`.

        Parameters
        ----------
        state : dict
            What :meth:`to_state` returned.

        Returns
        -------
        MoEClassifier
        """
        est = super().from_state(state)
        assert isinstance(est, cls)
        est.classes_ = est.classes_.astype(state["labels"])
        return est

    # --- predictions -----------------------------------------------------------------------

    def predict_log_proba(
        self, X: Any, *, offset: Any = None, top_k: Any = None, top_p: Any = None
    ) -> Array:
        """Log probabilities of the classes given x, accurate also where they are tiny.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            Needed if the fit had one.
        top_k : int, optional
            Only the experts with the k largest mixing weights in each row, renormalised.
        top_p : float, optional
            Only the fewest with weights of at least p together; with both, what both keep.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns as in ``classes_``; none is less than -708.4, the log of the smallest normal
            number. :meth:`score_samples` has no such bound.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        batch = self._batch(X, offset=offset)
        gate = self.model_.gate.log_prob(self.theta_.gate, batch)
        proba = np.exp(gate)
        kept = sparse_weights(proba, top_k, top_p)
        if kept is not proba:
            with np.errstate(divide="ignore"):  # experts that are cut
                gate = np.log(kept)
        log_proba: Array = np.logaddexp.reduce(gate[:, :, None] + self._log_experts(batch), axis=1)
        return np.maximum(log_proba, np.log(np.finfo(np.float64).tiny))

    def predict_proba(
        self, X: Any, *, offset: Any = None, top_k: Any = None, top_p: Any = None
    ) -> Array:
        """Probabilities of the classes given x.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            Needed if the fit had one.
        top_k : int, optional
            Only the experts with the k largest mixing weights in each row, renormalised.
        top_p : float, optional
            Only the fewest with weights of at least p together; with both, what both keep.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns as in ``classes_``; rows sum to one. None is zero: where it would underflow it
            is the smallest normal number, 2e-308.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        return np.exp(self.predict_log_proba(X, offset=offset, top_k=top_k, top_p=top_p))

    def predict(self, X: Any, *, offset: Any = None, top_k: Any = None, top_p: Any = None) -> Array:
        """The most probable class given x.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            Needed if the fit had one.
        top_k : int, optional
            Only the experts with the k largest mixing weights in each row, renormalised.
        top_p : float, optional
            Only the fewest with weights of at least p together; with both, what both keep.

        Returns
        -------
        ndarray of shape (n,)
            Labels as in ``classes_``; the first of them where several are as probable.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        log_proba = self.predict_log_proba(X, offset=offset, top_k=top_k, top_p=top_p)
        likeliest = log_proba.argmax(axis=1)
        predicted: Array = self.classes_[likeliest]
        return predicted

    def predict_experts(self, X: Any, *, offset: Any = None) -> Array:
        """Probabilities of the classes given x under each expert.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            Needed if the fit had one.

        Returns
        -------
        ndarray of shape (n, n_experts, n_classes)
            The last axis sums to one.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        return np.exp(self._log_experts(self._batch(X, offset=offset)))

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None) -> float:
        """Accuracy of :meth:`predict`.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,)
            Labels, all among ``classes_``.
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0.
        offset : array-like of shape (n,), optional
            Needed if the fit had one.

        Returns
        -------
        float
            Share of the weight of the rows whose class is predicted.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used, or y holds a class that the fit never saw; the message
            names it.
        """
        predicted = self.predict(X, offset=offset)
        known = class_codes(labels(y), self.classes_)
        right = self.classes_[known.astype(np.int64)]
        return float(accuracy_score(right, predicted, sample_weight=sample_weight))

    def score_samples(
        self, X: Any, y: Any = None, *, offset: Any = None, groups: Any = None
    ) -> Array:
        """Log probability of each row's class, ``log P(y | x)``.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        y : array-like of shape (n,), optional
            Labels; without them the log probability is that of the most probable class.
        offset : array-like of shape (n,), optional
            Needed if the fit had one.
        groups : array-like of shape (n,), optional
            Labels of groups, whose rows share one expert; needed if the fit had groups.

        Returns
        -------
        ndarray of shape (n,), or (n_groups,) with groups
            In nats, never positive.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        if y is None:
            highest: Array = self.predict_log_proba(X, offset=offset).max(axis=1)
            return highest
        return super().score_samples(X, y, offset=offset, groups=groups)

    def sample(
        self, X: Any, *, offset: Any = None, trials: Any = None, random_state: Any = None
    ) -> Array:
        """Draw one class for each row of X.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            A DataFrame's columns are matched by name.
        offset : array-like of shape (n,), optional
            Needed if the fit had one.
        trials : None
            Classes have none.
        random_state : int, Generator, RandomState or None, default=None
            An integer repeats its draws, a generator is advanced, None draws afresh.

        Returns
        -------
        ndarray of shape (n,)
            Labels as in ``classes_``.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used; the message names it.
        """
        if trials is not None:
            raise ValueError("trials are for counts of successes; a class is a single trial")
        drawn = super().sample(X, offset=offset, random_state=random_state)
        sampled: Array = self.classes_[drawn.astype(np.int64)]
        return sampled
