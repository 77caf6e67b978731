"""Truncated experts: rows that could enter the sample only if their response fell in a window."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row
from mixexperts.experts._interval import between, curves_between, log_between
from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.experts._window import window_draw, window_moments, window_quantile
from mixexperts.experts._wrapped import Wrapped, cell_shapes, cells, merged
from mixexperts.experts.base import Derivatives
from mixexperts.experts.censored import Censored
from mixexperts.experts.gaussian import Gaussian
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty


@dataclass(frozen=True)
class Truncated(Wrapped):
    r"""Experts of a response that was sampled only if it lay in a window.

    With :math:`f_k` and :math:`F_k` density and distribution function of the wrapped family, and
    :math:`T_k = F_k(\mathrm{upper}) - F_k(\mathrm{lower})`, there are two readings:

    .. math::

        \text{population:}\quad p = \frac{\sum_k g_k(x) f_k(y)}{\sum_k g_k(x) T_k},
        \qquad \text{expert:}\quad p = \sum_k g_k(x) \frac{f_k(y)}{T_k}.

    In the first the gate is that of the population, of which the sample saw the window: an
    insurer's claims above a deductible. In the second it is that of the sample, and each expert
    has a density on the window.

    Parameters
    ----------
    expert : Expert, default=Gaussian()
        The family: ``Gaussian``, ``Poisson``, any of one linear predictor with a distribution
        function, or ``Censored`` of these.
    lower, upper : float, default=-inf and inf
        The window, its ends excluded. Where each row has a window of its own, the response has
        two more columns: ``(y, lower, upper)``.
    of : {"population", "expert"}, default="population"
        What is truncated.

    Notes
    -----
    Of a population, predictions (``predict``, ``predictive``, ``sample``) are those of the
    population, ``score_samples`` and the criteria those of the sampled rows. EM counts the rows
    that were not seen: for one that was, ``(1 - T) / T`` with ``T`` the chance to be seen, spread
    over the experts by ``g_k (1 - T_k)``. That is slow where much is lost; the engine
    accelerates it. With ``of="expert"`` predictions, too, are those of responses in the window:
    in the window of each row, if it is given, and else in that of the family.

    References
    ----------
    McLachlan, G. J. and Jones, P. N. (1988). Fitting mixture models to grouped and truncated data
    via the EM algorithm. Biometrics 44, 571-578.
    Fung, T. C., Badescu, A. L. and Lin, X. S. (2022). Fitting censored and truncated regression
    data using the mixture of experts models. North American Actuarial Journal 26, 496-520.
    """

    expert: Any = field(default_factory=Gaussian)
    lower: float = -math.inf
    upper: float = math.inf
    of: Literal["population", "expert"] = "population"
    name: ClassVar[str] = "truncated"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale")
    response_columns: ClassVar[tuple[int, ...]] = (1, 3)
    infinite_response: ClassVar[bool] = True
    seen: ClassVar[LinearExpert]

    def __post_init__(self) -> None:
        for end in ("lower", "upper"):
            value = getattr(self, end)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise TypeError(
                    f"{end} must be a number, got {value!r}; give windows of single rows as two "
                    "more columns of y"
                )
        if not self.lower < self.upper:
            raise ValueError(
                f"lower must be less than upper, got {self.lower!r} and {self.upper!r}"
            )
        if self.of not in ("population", "expert"):
            raise ValueError(f"of must be 'population' or 'expert', got {self.of!r}")
        given = self.expert
        if isinstance(given, Censored):
            object.__setattr__(self, "expert", given.expert)
        try:
            super().__post_init__()
        finally:
            object.__setattr__(self, "expert", given)
        seen: LinearExpert = self.base
        columns: tuple[int, ...] = (1, 3)
        if isinstance(given, Censored):
            seen, columns = given, (1, 2, 3, 4)
        object.__setattr__(self, "seen", seen)
        object.__setattr__(self, "response_columns", columns)
        object.__setattr__(self, "truncates", self.of == "population")
        object.__setattr__(self, "has_row_terms", self.of == "expert")
        low, high = self._open_below(np.array(self.lower), np.array(self.upper))
        if not (low < high and high > self.support[0] and low < self.support[1]):
            raise ValueError(
                f"no {self.base_name} response lies between lower={self.lower!r} and "
                f"upper={self.upper!r}"
            )

    @property
    def base_name(self) -> str:
        """Name of the wrapped family."""
        return str(self.expert.name)

    # --- the response ------------------------------------------------------------------------

    def _columns(self, y: Array) -> tuple[Array, Array, Array]:
        """What was seen and the windows, of a response with its columns on axis 0 or of one."""
        if y.ndim < 3 or len(y) < 3:
            return y, np.array(self.lower), np.array(self.upper)
        own = y[0] if len(y) == 3 else y[:2]
        return own, y[-2], y[-1]

    def _parts(self, y: Array) -> tuple[Array, Array, Array]:
        """The same of a response (n,) or (n, c)."""
        if y.ndim == 1 or y.shape[1] < 3:
            return y, np.full(len(y), float(self.lower)), np.full(len(y), float(self.upper))
        own = y[:, 0] if y.shape[1] == 3 else y[:, :2]
        return own, y[:, -2], y[:, -1]

    def _open_below(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """The window as an interval that is open below and closed above."""
        if not self.discrete:
            return lower, upper
        return np.floor(lower), np.ceil(upper) - 1.0

    def check_rows(self, y: Array) -> None:
        """Responses of the wrapped family, inside their windows."""
        columns = 1 if y.ndim == 1 else y.shape[1]
        if y.ndim > 2 or columns not in self.response_columns:
            raise InvalidResponseError(
                f"truncated experts take a response of {self.base_name} experts, alone or with two "
                f"more columns (lower, upper), as y; got shape {y.shape}"
            )
        own, lower, upper = self._parts(y)
        bad = np.isnan(lower) | np.isnan(upper) | ~(lower < upper)
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"row {row} of y has the window ({lower[row]:g}, {upper[row]:g}); give its lower "
                "end first, and -inf or inf where there is none"
            )
        self.seen.check_rows(own)
        bad = ~self.admits(y)
        if bad.any():
            row = first_row(bad)
            found = np.array2string(np.atleast_1d(own[row]), precision=6)[1:-1]
            raise InvalidResponseError(
                f"row {row} of y holds {found}, outside the window ({lower[row]:g}, "
                f"{upper[row]:g}) without its ends: it could not have been sampled. Drop it or "
                "correct the window"
            )

    def check_response(self, y: Array) -> None:
        self.check_rows(y)
        self.seen.check_response(self._parts(y)[0])

    def admits(self, y: Array) -> Array:
        """Which rows lie in their windows, (n,) bool."""
        own, lower, upper = self._parts(y)
        if own.ndim == 1:
            inside: Array = (own > lower) & (own < upper)
            return inside
        exact = own[:, 0] == own[:, 1]
        inside = (own[:, 0] >= lower) & (own[:, 1] <= upper)
        inside &= ~(exact & ((own[:, 0] <= lower) | (own[:, 1] >= upper)))
        return inside

    def point_response(self, y: Array) -> Array:
        """What was seen as one number for each row, (n,)."""
        return self.seen.point_response(self._parts(y)[0])

    def response_at(self, y: Array, value: Array) -> Array:
        """Responses ``value`` with the windows that ``y`` has."""
        if y.ndim == 1 or y.shape[1] < 3:
            return value
        return np.column_stack([value, y[:, -2:]])

    def observed(self, y: Array, value: Array) -> Array:
        """Values as they would be seen, with the windows that ``y`` has."""
        own, _, _ = self._parts(y)
        seen = self.seen.observed(own, value)
        if y.ndim == 1 or y.shape[1] < 3:
            return seen
        return np.column_stack([seen, y[:, -2:]])

    def bounded(self, y: Array) -> Array:
        """The response with its windows as columns."""
        own, lower, upper = self._parts(y)
        return np.column_stack([own, lower, upper])

    # --- terms -----------------------------------------------------------------------------

    def outside(self, y: Array) -> Array:
        own, lower, upper = self._columns(y)
        out = self.seen.outside(own)
        if self.of == "expert" and own.ndim < 3:
            out = out | (own <= lower) | (own >= upper)
        return out

    def _inside(self, y: Array) -> tuple[Array, Array | None]:
        own, lower, upper = self._columns(y)
        outside = self.outside(y)
        if not outside.any():
            return y, None
        safe = np.where(outside, self._somewhere(lower, upper), own)
        if safe.ndim == 3:  # bounds of a censored response are never outside
            return y, None
        if y.ndim != 3:
            return safe, outside
        return np.stack([safe, *np.broadcast_arrays(*y[-2:])]), outside

    def _somewhere(self, lower: Array, upper: Array) -> Array:
        """A response in each window."""
        low, high = self._open_below(np.maximum(lower, self.support[0]), upper)
        high = np.minimum(high, self.support[1])
        if self.of == "population":
            return np.full(np.shape(low), 1.0 if self.discrete else self.inner)
        if self.discrete:
            return np.where(np.isfinite(low), np.maximum(low, -1.0) + 1.0, np.minimum(high, 0.0))
        with np.errstate(invalid="ignore"):
            some = np.where(np.isfinite(low), low + 1.0, np.minimum(high - 1.0, self.inner))
            return np.where(np.isfinite(low) & np.isfinite(high), 0.5 * (low + high), some)

    def log_density(self, y: Array, eta: Array, **shapes: Array) -> Array:
        own, lower, upper = self._columns(y)
        log_f = self.seen.log_density(own, eta, **shapes)
        if self.of == "population":
            return log_f
        return log_f - self._log_chance(lower, upper, eta, **shapes)

    def _log_chance(self, lower: Array, upper: Array, eta: Array, **shapes: Array) -> Array:
        """Log of the chance T of lying in the window."""
        log_t = np.zeros(np.broadcast(lower, eta).shape)
        where = self._cut(lower, upper, log_t.shape)
        if where.any():
            low, high, at = cells(where, *self._open_below(lower, upper), eta)
            log_t[where] = log_between(self.base, low, high, at, cell_shapes(where, shapes))
        return log_t

    @staticmethod
    def _cut(lower: Array, upper: Array, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to((lower > -np.inf) | (upper < np.inf), shape)

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        own, lower, upper = self._columns(y)
        terms = self.seen.terms(own, eta, **shapes)
        if self.of == "population":
            return terms
        chance = self._chance(lower, upper, eta, shapes)
        if chance is None:
            return terms
        log_t, slopes, _ = chance
        slopes = [a - b for a, b in zip(terms.slopes, slopes, strict=True)]
        return Terms(terms.log_f - log_t, terms.mean, tuple(slopes), terms.weights)

    def _chance(
        self, lower: Array, upper: Array, eta: Array, shapes: dict[str, Array]
    ) -> tuple[Array, list[Array], list[Array]] | None:
        """Log T, its slopes, and the information in a row that was not seen; None: all T are 1."""
        shape = np.broadcast(lower, eta).shape
        where = self._cut(lower, upper, shape)
        if not where.any():
            return None
        own = cell_shapes(where, shapes)
        low, high, at = cells(where, *self._open_below(lower, upper), eta)
        everywhere = np.full(at.shape, np.inf)
        middle = self.within(-everywhere, everywhere, at, **own)
        weights = [np.broadcast_to(w, at.shape) for w in self.base.terms(middle, at, **own).weights]
        log_t, slopes = between(self.base, low, high, at, own, self.sizes(middle, at, own))
        nothing = np.zeros(shape)
        return (
            merged(nothing, where, log_t),
            [merged(nothing, where, part) for part in slopes],
            [merged(nothing, where, part) for part in weights],
        )

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        own, lower, upper = self._columns(y)
        table = self.seen.curves(own, eta, **shapes)
        where = self._cut(lower, upper, np.broadcast(lower, eta).shape)
        if self.of == "population" or not where.any():
            return table
        less = self._chance_curves(where, lower, upper, eta, shapes)
        return [
            [old - part for old, part in zip(left, right, strict=True)]
            for left, right in zip(table, less, strict=True)
        ]

    def _chance_curves(
        self, where: Array, lower: Array, upper: Array, eta: Array, shapes: dict[str, Array]
    ) -> list[list[Array]]:
        """Second derivatives of log T, sign changed."""
        shapes = cell_shapes(where, shapes)
        low, high, at = cells(where, *self._open_below(lower, upper), eta)
        everywhere = np.full(at.shape, np.inf)
        sizes = self.sizes(self.within(-everywhere, everywhere, at, **shapes), at, shapes)
        found = curves_between(self.base, low, high, at, shapes, sizes)
        nothing = np.zeros(where.shape)
        return [[merged(nothing, where, part) for part in row] for row in found]

    def update_rises(self) -> bool:
        """Only of a population, whose M-step is that of the wrapped family."""
        return self.of == "population" and self.seen.update_rises()

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """The update of the wrapped family, or within a window steps with its curvature.

        A density that is cut to a window curves no more than it does uncut (of a log-concave
        family), so that these are steps of ascent, and short ones far out.
        """
        if self.of == "population":
            return super().update(params, stats, penalty)
        return LinearExpert.update(self, params, stats, penalty)

    def update_shape(self, shape: Shape, params: Params, stats: Stats) -> Array:
        if self.of == "population":
            return super().update_shape(shape, params, stats)
        return LinearExpert.update_shape(self, shape, params, stats)

    # --- the population's unseen rows --------------------------------------------------------

    def log_inside(self, params: Params, batch: Batch) -> Array:
        """Log of the chance of each row to be sampled under each expert, (n, K)."""
        _, lower, upper = self._columns(self.columns_first(batch.y))
        return self._log_chance(lower, upper, self.eta(params, batch), **self.shapes_of(params))

    def accumulate_unseen(
        self, params: Params, batch: Batch, unseen: Array, inside: Array
    ) -> Stats:
        """What the rows that were not seen add to the statistics.

        Scores have mean zero over all rows, so that those of the unseen make up for those in
        the window.
        """
        _, lower, upper = self._columns(self.columns_first(batch.y))
        eta, shapes = self.eta(params, batch), self.shapes_of(params)
        found = self._chance(lower, upper, eta, shapes)
        nothing = np.zeros(eta.shape)
        if found is None:  # no row has a window
            zeros = [nothing] * (1 + len(self.shapes))
            found = nothing, zeros, zeros
        _, slopes, weights = found
        n_experts = eta.shape[1]
        stats: dict[str, Any] = {
            "mass": np.zeros(n_experts),
            "gram": kernels.weighted_gram(batch.X, unseen * weights[0]),
            "cross": kernels.weighted_cross(batch.X, -inside * slopes[0]),
            "fitted": np.zeros(n_experts),
        }
        for shape, slope, weight in zip(self.shapes, slopes[1:], weights[1:], strict=True):
            stats[f"{shape.name}_slope"] = -(inside * slope).sum(axis=0)
            stats[f"{shape.name}_weight"] = (unseen * weight).sum(axis=0)
        return stats

    def inside_derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """Derivatives of :meth:`log_inside` in eta and in the free shapes."""
        _, lower, upper = self._columns(self.columns_first(batch.y))
        eta, shapes = self.eta(params, batch), self.shapes_of(params)
        places = [0, *(s + 1 for s, _ in self.free_shapes())]
        found = self._chance(lower, upper, eta, shapes)
        size = len(places)
        slope, curve = np.zeros((size, *eta.shape)), np.zeros((size, size, *eta.shape))
        if found is not None:
            where = self._cut(lower, upper, eta.shape)
            table = self._chance_curves(where, lower, upper, eta, shapes)
            slope = np.stack([found[1][s] for s in places])
            curve = np.stack([np.stack([table[s][t] for t in places]) for s in places])
        one = np.ones((batch.n_rows, 1))
        free = self.free_shapes()
        return Derivatives(
            (batch.X, *(one for _ in free)), slope, curve,
            (False, *(self.is_shared(shape) for _, shape in free)),
        )  # fmt: skip

    # --- predictions -----------------------------------------------------------------------

    def _window(self, params: Params, batch: Batch) -> tuple[Array, Array, Array, dict[str, Array]]:
        """Windows, predictors and shapes of all cells, flat."""
        _, lower, upper = self._parts(batch.y)
        eta = self.eta(params, batch)
        low, high = self._open_below(lower, upper)
        where = np.ones(eta.shape, dtype=bool)
        low, high, at = cells(where, low[:, None], high[:, None], eta)
        return low, high, at, cell_shapes(where, self.shapes_of(params))

    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, (n, K): of the population, or in the window."""
        if self.of == "population":
            return super().mean(params, batch)
        flat = window_moments(self.base, *self._window(params, batch))[0]
        return flat.reshape(batch.n_rows, -1)

    def variance(self, params: Params, batch: Batch) -> Array:
        if self.of == "population":
            return super().variance(params, batch)
        flat = window_moments(self.base, *self._window(params, batch))[1]
        return flat.reshape(batch.n_rows, -1)

    def cdf(self, params: Params, batch: Batch) -> Array:
        """Distribution function of each expert at the response, (n, K)."""
        return self._tail(params, batch, upper=False)

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above the response, (n, K), accurate in the upper tail."""
        return self._tail(params, batch, upper=True)

    def _tail(self, params: Params, batch: Batch, *, upper: bool) -> Array:
        point = self.point_response(batch.y)
        if self.of == "population":
            plain = replace(batch, y=point)
            return self.base.sf(params, plain) if upper else self.base.cdf(params, plain)
        low, high, eta, shapes = self._window(params, batch)
        y = np.repeat(point, len(params["coef"]))
        y = np.clip(np.floor(y) if self.discrete else y, low, high)
        start, end = (y, high) if upper else (low, y)
        log_p = log_between(self.base, start, end, eta, shapes)
        log_p -= log_between(self.base, low, high, eta, shapes)
        tail = np.where(start < end, np.exp(np.minimum(log_p, 0.0)), 0.0)
        return tail.reshape(batch.n_rows, -1)

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Quantile of each expert at each row, (n, K)."""
        if self.of == "population":
            return super().quantile(params, batch, probability)
        low, high, eta, shapes = self._window(params, batch)
        p = np.full(eta.shape, probability)
        flat = window_quantile(self.base, p, low, high, eta, shapes)
        return flat.reshape(batch.n_rows, -1)

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        if self.of == "population":
            return super().sample(params, batch, label, rng)
        _, lower, upper = self._parts(batch.y)
        eta = self.eta(params, batch)[np.arange(batch.n_rows), label]
        shapes = {name: values[label] for name, values in self.shapes_of(params).items()}
        low, high = self._open_below(lower, upper)
        return window_draw(self.base, rng, low, high, eta, shapes)
