"""A uniform density: the expert for outliers."""

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
class Uniform(Expert):
    """A constant density between two ends, without coefficients.

    One such expert beside others, in ``Mixed([...])``, takes the rows that none of them explains:
    gross outliers then have no pull. Several of them alone cannot be told apart.

    Parameters
    ----------
    low, high : float or None, default=None
        Ends of the interval, both or none, in units of y. None: the smallest and the largest y
        among the rows that starts are made from, which are all rows up to 20,000 of them. Of
        more rows state the ends: what lies beyond them has density zero here, and one of the
        other experts must explain it.

    Notes
    -----
    The ends are not counted as parameters. Offsets do not matter.

    References
    ----------
    Banfield, J. D. and Raftery, A. E. (1993). Model-based Gaussian and non-Gaussian clustering.
    Biometrics 49, 803-821.
    """

    low: float | None = None
    high: float | None = None
    name: ClassVar[str] = "uniform"
    param_names: ClassVar[tuple[str, ...]] = ("low", "high")
    has_derivatives: ClassVar[bool] = True
    partial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(
                f"state both ends or none, got low={self.low!r} and high={self.high!r}"
            )
        if self.low is None or self.high is None:
            return
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"low must be less than high and both finite, got {self.low!r} and {self.high!r}"
            )

    @property
    def affine_response(self) -> bool:  # type: ignore[override]
        """Ends that are stated are in units of y; those of the data follow its scale."""
        return self.low is None

    def check_response(self, y: Array) -> None:
        """Any finite real response will do; beyond the ends its density is zero."""
        one_column(y, self.name)
        bad = ~np.isfinite(y)
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"uniform experts take finite numbers as y; row {row} holds {y[row]:g}. "
                "Drop or impute such rows"
            )

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """The ends; responsibilities have no say in them."""
        if self.low is None or self.high is None:
            there = batch.y[batch.spread_units(batch.weight) > 0.0]
            low, high = float(there.min()), float(there.max())
            if low == high:
                raise InvalidResponseError(
                    f"y is {low:g} in every row, which leaves no interval for a uniform density; "
                    "state low= and high="
                )
        else:
            low, high = float(self.low), float(self.high)
        n_experts = resp.shape[1]
        return {"low": np.full(n_experts, low), "high": np.full(n_experts, high)}

    def log_prob(self, params: Params, batch: Batch) -> Array:
        y = batch.y[:, None]
        low, high = params["low"], params["high"]
        return np.where((y >= low) & (y <= high), -np.log(high - low), -np.inf)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        mass = weight.sum(axis=0)
        return {"mass": mass, "fitted": mass * self._middle(params)}

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
        """Of one linear predictor without columns: all zero."""
        shape = (batch.n_rows, len(params["low"]))
        columns = np.empty((batch.n_rows, 0))
        return Derivatives((columns,), np.zeros((1, *shape)), np.zeros((1, 1, *shape)), (False,))

    def n_params(self, params: Params) -> int:
        return 0

    def n_params_each(self, params: Params) -> int:
        return 0

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        low, high = (params[name] * scale + loc for name in ("low", "high"))
        coef = np.zeros((len(low), design.n_terms))
        return {"intercept": 0.5 * (low + high), "coef": coef, "low": low, "high": high}

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        own = {"low": self.low, "high": self.high}  # ends that are stated hold in any start
        ends = {n: raw[n] if v is None else np.full_like(raw[n], v) for n, v in own.items()}
        return {name: (values - loc) / scale for name, values in ends.items()}

    @staticmethod
    def _middle(params: Params) -> Array:
        middle: Array = 0.5 * (params["low"] + params["high"])
        return middle

    def _rows(self, values: Array, batch: Batch) -> Array:
        return np.broadcast_to(values, (batch.n_rows, len(values)))

    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, (n, K)."""
        return self._rows(self._middle(params), batch)

    def variance(self, params: Params, batch: Batch) -> Array:
        return self._rows((params["high"] - params["low"]) ** 2 / 12.0, batch)

    def cdf(self, params: Params, batch: Batch) -> Array:
        low, high = params["low"], params["high"]
        cdf: Array = np.clip((batch.y[:, None] - low) / (high - low), 0.0, 1.0)
        return cdf

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K), accurate in the upper tail."""
        low, high = params["low"], params["high"]
        survival: Array = np.clip((high - batch.y[:, None]) / (high - low), 0.0, 1.0)
        return survival

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Quantile of each expert at each row, (n, K)."""
        low, high = params["low"], params["high"]
        return self._rows(low + probability * (high - low), batch)

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        return rng.uniform(params["low"][label], params["high"][label])
