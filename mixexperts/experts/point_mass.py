"""A point mass: the expert for a value that stands apart, such as zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row, one_column
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.penalties.base import Penalty


@dataclass(frozen=True)
class PointMass(Expert):
    """All probability at one value, without coefficients.

    One such expert beside others, in ``Mixed([PointMass(), Poisson()])``, gives that value a
    probability of its own that the gate lets depend on the features: with a softmax gate this
    is zero-inflated regression with covariates in both parts. Several of them alone cannot be
    told apart.

    Parameters
    ----------
    value : float, default=0.0
        The value, in units of y.

    References
    ----------
    Zeileis, A., Kleiber, C. and Jackman, S. (2008). Regression models for count data in R.
    Journal of Statistical Software 27 (8).
    """

    value: float = 0.0
    name: ClassVar[str] = "point_mass"
    param_names: ClassVar[tuple[str, ...]] = ("value",)
    discrete: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True
    partial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float | np.number):
            raise TypeError(f"value must be a number, got {self.value!r}")
        if not math.isfinite(self.value):
            raise ValueError(f"value must be finite, got {self.value!r}")

    def on_integers(self) -> bool:
        return float(self.value).is_integer()

    def with_intercept(self, fit_intercept: bool) -> PointMass:
        """The same: there is no intercept."""
        return self

    def check_response(self, y: Array) -> None:
        """Any finite number will do; other values than the family's have probability zero."""
        one_column(y, self.name)
        bad = ~np.isfinite(y)
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"point mass experts take finite numbers as y; row {row} holds a value that is "
                "not. Drop or impute such rows"
            )

    def possible(self, y: Array) -> Array:
        """Which responses have a positive probability, (n,) bool."""
        possible: Array = y == self.value
        return possible

    def atoms(self, y: Array) -> Array:
        """The same: all are atoms."""
        return self.possible(y)

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """The value; responsibilities have no say in it."""
        return {"value": np.full(resp.shape[1], float(self.value))}

    def log_prob(self, params: Params, batch: Batch) -> Array:
        return np.where(batch.y[:, None] == params["value"], 0.0, -np.inf)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        mass = weight.sum(axis=0)
        return {"mass": mass, "fitted": mass * params["value"]}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """The same parameters: there is nothing to learn."""
        return params

    def pack(self, params: Params) -> Array:
        return np.empty(0)

    def unpack(self, vector: Array, like: Params) -> Params:
        return like

    def score(self, params: Params, stats: Stats) -> Array:
        return np.empty(0)

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """None: there are no predictors."""
        shape = (batch.n_rows, len(params["value"]))
        return Derivatives((), np.empty((0, *shape)), np.empty((0, 0, *shape)), ())

    def n_params(self, params: Params) -> int:
        return 0

    def n_params_each(self, params: Params) -> int:
        return 0

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        value = params["value"] * scale + loc
        return {"intercept": value, "coef": np.zeros((len(value), design.n_terms)),
                "value": value}  # fmt: skip

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        return {"value": (np.full_like(raw["value"], self.value) - loc) / scale}

    def _rows(self, values: Array, batch: Batch) -> Array:
        return np.broadcast_to(values, (batch.n_rows, len(values)))

    def mean(self, params: Params, batch: Batch) -> Array:
        """The value, at each row and expert, (n, K)."""
        return self._rows(params["value"], batch)

    def variance(self, params: Params, batch: Batch) -> Array:
        return self._rows(np.zeros(len(params["value"])), batch)

    def cdf(self, params: Params, batch: Batch) -> Array:
        return (batch.y[:, None] >= params["value"]).astype(float)

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K)."""
        return (batch.y[:, None] < params["value"]).astype(float)

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """The value, at each row and expert, (n, K)."""
        return self._rows(params["value"], batch)

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        drawn: Array = params["value"][label]
        return drawn
