"""What families of positive responses share, beside a link of the mean."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row, one_column
from mixexperts.experts._linear import LinearExpert, Terms
from mixexperts.experts._links import OF_LOG_MEAN, Link, check_link, kept_positive

# Largest predictor whose exponential is taken: its square stays a number.
MAX_ETA = 300.0


class PositiveExpert(LinearExpert):
    """Experts for responses > 0, written in a log-linear predictor."""

    support: ClassVar[tuple[float, float]] = (0.0, math.inf)
    has_derivatives: ClassVar[bool] = True

    def check_response(self, y: Array) -> None:
        """Finite numbers > 0; the first row at fault is named."""
        one_column(y, self.name)
        bad = ~(np.isfinite(y) & (y > 0.0))
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"{self.name} experts take finite numbers > 0 as y; row {row} holds {y[row]:g}. "
                "Drop missing rows; for zeros among positive numbers wrap the family in "
                "ZeroInflated or Hurdle"
            )

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return np.log(y), np.ones_like(y)

    def residual(self, params: Params, batch: Batch) -> Array:
        """Log of the response over the fitted mean, (n, K)."""
        residual: Array = np.log(batch.y)[:, None] - np.log(self.mean(params, batch))
        return residual


class LinkedPositive(PositiveExpert):
    """Experts for responses > 0 whose family is written in the log of the mean, with any link.

    A family gives :meth:`own_terms`, :meth:`own_curves` and :meth:`information`; its other
    functions take eta through :meth:`own`.
    """

    links: ClassVar[tuple[str, ...]] = ("log",)
    link: str = "log"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_link(self.name, self.link, self.links)

    @property
    def other_link(self) -> Link | None:
        """The link, if it is not the log."""
        return None if self.link == "log" else OF_LOG_MEAN[self.link]

    def update_rises(self) -> bool:
        return self.link == "log"

    @abstractmethod
    def own_terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        """:meth:`terms` in the log of the mean."""

    @abstractmethod
    def own_curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        """:meth:`curves` in the log of the mean."""

    @abstractmethod
    def information(self, eta: Array, **shapes: Array) -> Array:
        """Expected information about the log of the mean, elementwise."""

    def own(self, eta: Array) -> Array:
        """Log of the mean."""
        link = self.other_link
        return np.minimum(eta if link is None else link.own(eta)[0], MAX_ETA)

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        link = self.other_link
        if link is None:
            return self.own_terms(y, np.minimum(eta, MAX_ETA), **shapes)
        own, first, _ = link.own(eta)
        terms = self.own_terms(y, own, **shapes)
        weight = self.information(own, **shapes) * first**2
        return replace(
            terms,
            slopes=(terms.slopes[0] * first, *terms.slopes[1:]),
            weights=(weight, *terms.weights[1:]),
        )

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        link = self.other_link
        if link is None:
            return self.own_curves(y, np.minimum(eta, MAX_ETA), **shapes)
        own, first, second = link.own(eta)
        table = self.own_curves(y, own, **shapes)
        slope = self.own_terms(y, own, **shapes).slopes[0]
        table[0] = [part * first for part in table[0]]
        table[0][0] = table[0][0] * first - slope * second
        for row, part in zip(table[1:], table[0][1:], strict=True):
            row[0] = part
        return table

    def nearest(self, y: Array) -> tuple[Array, Array]:
        link = self.other_link
        if link is None:
            return super().nearest(y)
        eta = link.eta(np.log(y))
        return eta, link.own(eta)[1] ** 2

    def steepness(self, params: Params) -> Array | None:
        return super().steepness(params) if self.link == "log" else None

    def admissible(self, previous: Array | None, coef: Array, batch: Batch) -> Array:
        return kept_positive(self.other_link, previous, coef, batch, self.nearest(batch.y)[0])
