"""What zero-inflated and hurdle families share: a point mass at zero beside another family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts._glm import first_row
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.penalties.base import Penalty

# The log odds of the point mass stay between these.
_MOST_ODDS = 30.0


class WithZeros(Expert):
    """Experts ``p delta_0(y) + (1 - p) f(y)`` with a probability p of each expert.

    Whether a zero came from the point mass is one more latent variable of the row: everything
    about f is left to its family, with the weight of the rows that are its own.
    """

    expert: Any
    #: The family beside the point mass.
    inner: Expert
    #: Name of the probability p among the parameters.
    share: ClassVar[str]

    def __post_init__(self) -> None:
        inner = self.make_inner()
        adopted = {
            "inner": inner,
            "degree": inner.degree,
            "fit_intercept": inner.fit_intercept,
            "discrete": inner.discrete,
            "has_derivatives": inner.has_derivatives,
            "has_atoms": not inner.discrete,
            "support": (-np.inf, inner.support[1]),
            "param_names": (*inner.param_names, self.share),
        }
        for name, value in adopted.items():
            object.__setattr__(self, name, value)

    def with_intercept(self, fit_intercept: bool) -> Self:
        """The same with the wrapped family so."""
        wrapped = self.expert.with_intercept(fit_intercept)
        return replace(self, expert=wrapped)  # type: ignore[type-var]

    @abstractmethod
    def make_inner(self) -> Expert:
        """The family beside the point mass; raises what is wrong with the one given."""

    # --- the response ------------------------------------------------------------------------

    def _filled(self, y: Array) -> Array:
        """The response with a value of the inner family in place of zeros that it cannot hold."""
        return y if self.inner_takes_zero else np.where(y == 0.0, self._stand_in, y)

    @property
    def inner_takes_zero(self) -> bool:
        """Whether the inner family has a probability of zero, too."""
        return False

    @property
    def _stand_in(self) -> float:
        return 1.0 if self.discrete else float(getattr(self.inner, "inner", 0.5))

    def check_rows(self, y: Array) -> None:
        """Zeros, and responses of the wrapped family."""
        if y.ndim != 1:
            raise InvalidResponseError(
                f"{self.name} experts take one column as y, got shape {y.shape}"
            )
        bad = ~np.isfinite(y) | (y < 0.0)
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"{self.name} experts take numbers >= 0 as y; row {row} holds {y[row]:g}"
            )
        self.inner.check_rows(self._filled(y))

    def check_response(self, y: Array) -> None:
        self.check_rows(y)
        if not y.any():
            raise InvalidResponseError(
                f"{self.name} experts need responses that are not zero; all {len(y)} rows of y are"
            )

    def atoms(self, y: Array) -> Array:
        """Which responses have a positive probability, (n,) bool."""
        whole = (y == np.floor(y)) if self.discrete else (y == 0.0)
        atoms: Array = np.isfinite(y) & (y >= 0.0) & whole
        return atoms

    def possible(self, y: Array) -> Array:
        """Which responses have a positive density or probability, (n,) bool."""
        lattice = (y == np.floor(y)) if self.discrete else True
        possible: Array = np.isfinite(y) & (y >= 0.0) & (y < self.support[1]) & lattice
        return possible

    # --- parameters --------------------------------------------------------------------------

    def _own(self, params: Params) -> Params:
        """The parameters of the inner family."""
        return {name: values for name, values in params.items() if name != self.share}

    def _joined(self, inner: Params, share: Array) -> Params:
        return {**inner, self.share: share}

    def _parts(self, params: Params, batch: Batch) -> tuple[Array, Array, Batch]:
        """Log density (n, K); the share (n, K) of the point mass in it; the inner family's batch.

        Without a zero the share is nought.
        """
        inner = replace(batch, y=self._filled(batch.y))
        zero = (batch.y == 0.0)[:, None]
        log_f = self.inner.log_prob(self._own(params), inner)
        if not self.inner_takes_zero:
            log_f = np.where(zero, -np.inf, log_f)
        log_f = np.where((batch.y < 0.0)[:, None], -np.inf, log_f)
        share = params[self.share]
        with np.errstate(divide="ignore"):
            inside, outside = np.log(share), np.log1p(-share) + log_f
        joint = np.where(zero, np.logaddexp(inside, outside), outside)
        with np.errstate(invalid="ignore", over="ignore"):
            mass = np.where(zero, np.exp(inside - joint), 0.0)
        return joint, np.where(np.isnan(mass), 1.0 * zero, mass), inner

    def log_prob(self, params: Params, batch: Batch) -> Array:
        return self._parts(params, batch)[0]

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        _, mass, inner = self._parts(params, batch)
        own = self.inner.accumulate(self._own(params), inner, weight * (1.0 - mass))
        total, zero = weight.sum(axis=0), (weight * mass).sum(axis=0)
        fitted = np.einsum("ik,ik->k", weight, self.mean(params, batch))
        return {
            "mass": total, "fitted": fitted, "zero": zero,
            **{f"inner.{name}": value for name, value in own.items()},
        }  # fmt: skip

    @staticmethod
    def _inner_stats(stats: Stats) -> Stats:
        return {
            name.removeprefix("inner."): value
            for name, value in stats.items()
            if name.startswith("inner.")
        }

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """The share of the point mass, and the inner family's own update."""
        inner = self.inner.update(self._own(params), self._inner_stats(stats), penalty)
        total = stats["mass"]
        filled = total > 0.0
        share = np.where(filled, stats["zero"] / np.where(filled, total, 1.0), params[self.share])
        least = 1.0 / (1.0 + np.exp(_MOST_ODDS))
        return self._joined(inner, np.clip(share, least, 1.0 - least))

    def update_rises(self) -> bool:
        """Where the inner family's are."""
        return self.inner.update_rises()

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """The inner family from the rows that are not zero, where it lacks zeros or has too many.

        Of zeros an inner family of counts gets as many as it expects after two steps.
        """
        inner = replace(batch, y=self._filled(batch.y))
        zero = batch.sum_units((batch.y == 0.0).astype(float)[:, None])[:, 0]
        rows = batch.sum_units(np.ones((batch.n_rows, 1)))[:, 0]
        # Weights are of units; within one, zeros and others share it.
        kept = 1.0 - zero / np.maximum(rows, 1.0)
        if self.inner_takes_zero:
            kept = np.maximum(kept, 0.5)
        own = self.inner.init_params(inner, resp * kept[:, None], rng)
        weight = batch.spread_units(resp * batch.weight[:, None])
        total = np.maximum(weight.sum(axis=0), 1e-300)
        share = np.clip((weight * (batch.y == 0.0)[:, None]).sum(axis=0) / total, 0.02, 0.98)
        params = self._joined(own, 0.5 * share if self.inner_takes_zero else share)
        for _ in range(2 if self.inner_takes_zero else 0):
            mass = self._parts(params, batch)[1]
            params = self._joined(own, np.clip((weight * mass).sum(axis=0) / total, 0.02, 0.98))
        return params

    # --- acceleration, convergence, information ------------------------------------------------

    def pack(self, params: Params) -> Array:
        share = params[self.share]
        return np.concatenate([self.inner.pack(self._own(params)), np.log(share / (1.0 - share))])

    def unpack(self, vector: Array, like: Params) -> Params:
        n_experts = len(like[self.share])
        odds = np.clip(vector[len(vector) - n_experts :], -_MOST_ODDS, _MOST_ODDS)
        inner = self.inner.unpack(vector[: len(vector) - n_experts], self._own(like))
        return self._joined(inner, 1.0 / (1.0 + np.exp(-odds)))

    def score(self, params: Params, stats: Stats) -> Array:
        inner = self.inner.score(self._own(params), self._inner_stats(stats))
        return np.concatenate([inner, stats["zero"] - stats["mass"] * params[self.share]])

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """Those of the inner family with its share of the rows, and in the log odds of zero.

        A row that may have come from either has the covariance of its two scores taken off
        (Louis 1982).
        """
        _, mass, rows = self._parts(params, batch)
        own = self.inner.derivatives(self._own(params), rows)
        share = np.broadcast_to(params[self.share], mass.shape)
        rest, both = 1.0 - mass, mass * (1.0 - mass)
        size = len(own.slope)
        slope = np.concatenate([own.slope * rest, (mass - share)[None]])
        curve = np.empty((size + 1, size + 1, *mass.shape))
        curve[:size, :size] = own.curve * rest - both * own.slope[:, None] * own.slope[None]
        curve[size, :size] = curve[:size, size] = both * own.slope
        curve[size, size] = share * (1.0 - share) - both
        one = np.ones((batch.n_rows, 1))
        return Derivatives((*own.designs, one), slope, curve, (*own.tied, False))

    def n_params(self, params: Params) -> int:
        return self.inner.n_params(self._own(params)) + len(params[self.share])

    def n_params_each(self, params: Params) -> int:
        return int(np.max(self.inner.n_params_each(self._own(params)))) + 1

    def at_boundary(self, params: Params) -> Array:
        return self.inner.at_boundary(self._own(params))

    def collapsed(self, params: Params, stats: Stats) -> Array:
        return self.inner.collapsed(self._own(params), self._inner_stats(stats))

    def boundary_reason(self) -> str:
        return self.inner.boundary_reason()

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        return self.inner.separation(self._own(params), self._inner_stats(stats), penalty)

    def penalized(self, n_columns: int) -> Array:
        return self.inner.penalized(n_columns)

    def penalized_coef(self, params: Params) -> Array:
        return self.inner.penalized_coef(self._own(params))

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        raw = self.inner.raw(self._own(params), design, loc, scale)
        return {**raw, self.share: params[self.share]}

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        inner = self.inner.engine(raw, design, loc, scale)
        return self._joined(inner, np.asarray(raw[self.share], dtype=np.float64))

    # --- starts and predictions ----------------------------------------------------------------

    def working_response(self, batch: Batch) -> Array:
        y, positive = batch.y, batch.y > 0.0
        if not (self.inner_takes_zero or self.discrete) and positive.any():
            y = np.where(positive, y, 0.5 * y[positive].min())
        return self.inner.working_response(replace(batch, y=y))

    def distance(self, params: Params, batch: Batch) -> Array:
        return -self.log_prob(params, batch)

    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, its zeros included, (n, K)."""
        rows = replace(batch, y=self._filled(batch.y))
        mean: Array = (1.0 - params[self.share]) * self.inner.mean(self._own(params), rows)
        return mean

    def variance(self, params: Params, batch: Batch) -> Array:
        own, rows = self._own(params), replace(batch, y=self._filled(batch.y))
        share, mean = params[self.share], self.inner.mean(own, rows)
        variance: Array = (1.0 - share) * (self.inner.variance(own, rows) + share * mean**2)
        return variance

    def cdf(self, params: Params, batch: Batch) -> Array:
        share = params[self.share]
        return self._tail(params, batch, self.inner.cdf, lambda f: share + (1.0 - share) * f, 0.0)

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K), accurate in the upper tail."""
        own = getattr(self.inner, "sf", None)
        if own is None:
            return 1.0 - self.cdf(params, batch)
        share = params[self.share]
        return self._tail(params, batch, own, lambda f: (1.0 - share) * f, 1.0)

    def _tail(self, params: Params, batch: Batch, function: Any, mix: Any, below: float) -> Array:
        inside = batch.y > 0.0 if not self.inner_takes_zero else batch.y >= 0.0
        rows = replace(batch, y=np.where(inside, batch.y, self._stand_in))
        found = mix(function(self._own(params), rows))
        nothing = mix(np.full(found.shape, below))  # at zero, where the inner family has no mass
        found = np.where(inside[:, None], found, nothing)
        return np.where((batch.y < 0.0)[:, None], below, found)

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Quantile of each expert at each row, (n, K)."""
        rows = replace(batch, y=self._filled(batch.y))
        own, share = self._own(params), params[self.share]
        found = np.zeros((batch.n_rows, len(share)))
        for k, p in enumerate(share):
            rest = 1.0 - (1.0 - probability) / (1.0 - p)
            if rest > 0.0 or probability >= 1.0:
                alone = {name: values[[k]] for name, values in own.items()}
                found[:, k] = self.inner.quantile(alone, rows, min(rest, 1.0))[:, 0]
        return found

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        rows = replace(batch, y=self._filled(batch.y))
        drawn = self.inner.sample(self._own(params), rows, label, rng)
        return np.where(rng.random(batch.n_rows) < params[self.share][label], 0.0, drawn)


def checked(expert: Any, wrapper: str) -> Expert:
    """A family of one column of counts or of positive numbers.

    Raises
    ------
    TypeError
        If it is no family.
    UnsupportedCombinationError
        If zeros mean nothing beside it.
    """
    if not isinstance(expert, Expert):
        raise TypeError(
            f"expert of {wrapper} must be an instance of a family such as Poisson(), got {expert!r}"
        )
    counts = expert.discrete and expert.response_columns == (1,)
    positive = not expert.discrete and expert.support[0] >= 0.0
    from mixexperts.experts._composite import Composite
    from mixexperts.experts.tied import Tied

    layered = isinstance(expert, WithZeros | Composite | Tied) or expert.truncates
    if not (counts or positive) or layered:
        raise UnsupportedCombinationError(
            f"{wrapper} cannot wrap {expert.name!r} experts: it needs a family of counts or of "
            "positive numbers as it is, such as Poisson or Gamma (truncated ones with of='expert')"
        )
    return expert
