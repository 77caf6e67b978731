"""What experts of a response of classes share; codes 0, 1, ... stand for the classes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal, Self

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row
from mixexperts.experts.base import Expert

# Most classes that a family takes without being told their number: a code beyond is a count.
_MOST = 100
# Log probabilities below this are as bad as this, where rows are compared.
_WORST = -700.0


class ClassExpert(Expert):
    """Experts that give each class a probability.

    ``n_classes`` is the number C of classes, or None. Without it the largest code of the rows
    that a start is made from tells it; the shapes of the parameters hold it from then on.
    """

    discrete: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True
    takes_classes: ClassVar[Literal["none", "two", "many"]] = "many"

    n_classes: int | None = None

    def check_classes(self) -> None:
        """Raise if ``n_classes`` is neither None nor an integer >= 2."""
        n = self.n_classes
        if n is None:
            return
        if isinstance(n, bool) or not isinstance(n, int | np.integer):
            raise TypeError(f"n_classes must be an integer >= 2 or None, got {n!r}")
        if n < 2:
            raise ValueError(f"n_classes must be an integer >= 2 or None, got {n!r}")

    def with_classes(self, n_classes: int) -> Self:
        if self.n_classes not in (None, n_classes):
            raise ValueError(
                f"expert {self.name!r} was made for n_classes={self.n_classes}, but y holds "
                f"{n_classes} classes; leave n_classes out"
            )
        return replace(self, n_classes=int(n_classes))  # type: ignore[type-var]

    def check_response(self, y: Array) -> None:
        """Codes 0 to C - 1 in one column; anything else is refused, and the first row named."""
        if y.ndim != 1:
            raise InvalidResponseError(
                f"{self.name} experts take one column of class codes as y, got shape {y.shape}"
            )
        most = _MOST if self.n_classes is None else self.n_classes
        bad = ~((y >= 0.0) & (y < most) & (y == np.floor(y)))
        if bad.any():
            row = first_row(bad)
            advice = "state n_classes for more" if self.n_classes is None else "recode the classes"
            raise InvalidResponseError(
                f"{self.name} experts take the codes 0 to {most - 1} of classes as y; row {row} "
                f"holds {y[row]:g}. MoEClassifier takes labels of any kind; else {advice}"
            )

    def count(self, batch: Batch) -> int:
        """Number of classes C: as stated, or as the rows tell."""
        if self.n_classes is not None:
            return int(self.n_classes)
        return max(2, 1 + int(batch.y.max(initial=0.0)))

    @staticmethod
    @abstractmethod
    def classes_of(params: Params) -> int:
        """Number of classes C that parameters are for."""

    def class_proba(self, params: Params, batch: Batch) -> Array:
        """Probability of each class under each expert, (n, K, C)."""
        return np.exp(self.log_class_proba(params, batch, self.classes_of(params)))

    def log_prob(self, params: Params, batch: Batch) -> Array:
        n_classes = self.classes_of(params)
        log_proba = self.log_class_proba(params, batch, n_classes)
        code, known = codes(batch.y, n_classes)
        log_prob = np.take_along_axis(log_proba, code[:, None, None], axis=2)[:, :, 0]
        if not known.all():  # no class has such a code
            log_prob[~known] = np.where(np.isnan(batch.y[~known]), np.nan, -np.inf)[:, None]
        return log_prob

    def all_values(self, params: Params) -> Array:
        return np.arange(float(self.classes_of(params)))

    def separation_reason(self) -> str:
        return "its rows lack a class, or the features part the classes"

    # --- starts ----------------------------------------------------------------------------

    def residual(self, params: Params, batch: Batch) -> Array:
        """Deviance residuals without a sign: large where the class was hardly expected."""
        residual: Array = np.sqrt(-2.0 * np.maximum(self.log_prob(params, batch), _WORST))
        return residual

    def distance(self, params: Params, batch: Batch) -> Array:
        return -self.log_prob(params, batch)

    # --- predictions -----------------------------------------------------------------------

    def mean(self, params: Params, batch: Batch) -> Array:
        """Expected code of the class, (n, K); what the order of the experts goes by."""
        mean: Array = self.class_proba(params, batch) @ self.all_values(params)
        return mean

    def variance(self, params: Params, batch: Batch) -> Array:
        """Variance of the code of the class, (n, K)."""
        proba, value = self.class_proba(params, batch), self.all_values(params)
        centred = value - (proba @ value)[:, :, None]
        variance: Array = np.einsum("nkc,nkc->nk", proba, centred**2)
        return variance

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        """Codes of classes, (n,)."""
        proba = self.class_proba(params, batch)[np.arange(batch.n_rows), label]
        bound = np.cumsum(proba, axis=1)
        drawn = rng.random(batch.n_rows) * bound[:, -1]
        code: Array = (drawn[:, None] >= bound[:, :-1]).sum(axis=1).astype(float)
        return code


def codes(y: Array, n_classes: int) -> tuple[Array, Array]:
    """Codes (n,) as integers, and which of them are codes at all; the others are 0."""
    known: Array = (y >= 0.0) & (y < n_classes) & (y == np.floor(y))
    return np.where(known, y, 0.0).astype(np.int64), known
