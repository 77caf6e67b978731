"""What an estimator of classes does beside the others: labels to codes, and back."""

from __future__ import annotations

from typing import Any

from mixexperts._batch import Array
from mixexperts.estimators._base import BaseMoE
from mixexperts.estimators._labels import (
    CodedSource,
    class_codes,
    classes_of,
    classes_of_source,
    labels,
    refuse_one,
    row_weight,
)


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
            weight = row_weight(sample_weight, len(y))
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
