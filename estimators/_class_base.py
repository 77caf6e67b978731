"""What an estimator of classes does beside the others: labels to codes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mixexperts._batch import Array, Batch
from mixexperts._registry import resolve
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.estimators import _checks as checks
from mixexperts.estimators._base import BaseMoE
from mixexperts.estimators._labels import (
    CodedSource,
    class_codes,
    classes_of,
    classes_of_source,
    labels,
    listing,
    refuse_one,
)
from mixexperts.experts.base import Expert


class ClassBase(BaseMoE):
    """Fits and predictions in codes of classes; labels are the caller's."""

    classes_: Array

    def _fit(self, X: Any, y: Any, sample_weight: Any, offset: Any, *rows: Any) -> None:
        """Fit to codes of the labels."""
        if self._is_source(X, y, sample_weight, offset):
            classes = classes_of_source(X)
            X = CodedSource(X, classes)
        elif y is None:
            self._arrays(X, y)  # scikit-learn says what is missing
            raise ValueError("y is missing; give the labels of the classes")
        else:
            y = labels(y)
            weight = _row_weight(sample_weight, len(y))
            announced = getattr(self, "_announced", None)
            classes = classes_of(y, weight) if announced is None else announced
            refuse_one(classes, y, weight)
            y = class_codes(y, classes, weight)
        self._classes = classes  # what the family is told while the fit runs
        try:
            super()._fit(X, y, sample_weight, offset, *rows)
        finally:
            del self._classes
        self.classes_ = classes

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


def _row_weight(sample_weight: Any, n: int) -> Array | None:
    """Weights of n rows; None where there are none, or one per group."""
    if sample_weight is None:
        return None
    values = np.asarray(checks.in_memory(sample_weight))
    if values.ndim == 1 and len(values) != n:
        return None  # one per group, or refused later
    return checks.sample_weight_array(values if values.ndim else sample_weight, n)
