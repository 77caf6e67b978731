"""Censored experts: responses of which only bounds are known in some rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row
from mixexperts.experts._interval import between, curves_between, log_between
from mixexperts.experts._linear import Terms
from mixexperts.experts._wrapped import Wrapped, cell_shapes, cells, changed, merged
from mixexperts.experts.gaussian import Gaussian


@dataclass(frozen=True)
class Censored(Wrapped):
    r"""Experts of a response that is known to lie between bounds, in some rows or all.

    The response has two columns, ``lower`` and ``upper``, as in Stata's ``intreg``: equal bounds
    are an exact value, ``(-inf, c)`` is censored on the left, ``(c, inf)`` on the right, and
    ``(a, b)`` is an interval. One column holds exact values only. With :math:`F_k` the
    distribution function of the wrapped family,

    .. math::

        A_k = f_k(y) \quad\text{or}\quad A_k = F_k(\mathrm{upper}) - F_k(\mathrm{lower}), \qquad
        p = \sum_k g_k(x) A_k.

    Of counts both bounds belong to the interval. Predictions are those of the response itself,
    not of what is seen of it.

    Parameters
    ----------
    expert : Expert, default=Gaussian()
        The family: ``Gaussian``, ``Poisson``, or any of one linear predictor with a distribution
        function, such as ``Gamma``.

    Notes
    -----
    The updates are those of EM: what is missing is replaced by its expectation given the bounds,
    exactly for Gaussian experts. Of a location and a scale the derivatives of :math:`\log A_k`
    are exact; of other parameters they are central differences with relative errors of some
    1e-10. Scale floors of the wrapped family are shares of the spread of the fitted values.

    References
    ----------
    Tobin, J. (1958). Estimation of relationships for limited dependent variables. Econometrica
    26, 24-36.
    Tseung, S. C., Badescu, A. L., Fung, T. C. and Lin, X. S. (2021). LRMoE.jl: a software package
    for insurance loss modelling using mixture of experts regression model. Annals of Actuarial
    Science 15, 419-440.
    """

    expert: Any = field(default_factory=Gaussian)
    name: ClassVar[str] = "censored"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale")
    response_columns: ClassVar[tuple[int, ...]] = (1, 2)
    infinite_response: ClassVar[bool] = True

    # --- the response ------------------------------------------------------------------------

    def check_rows(self, y: Array) -> None:
        """Bounds in order, not both infinite, with a possible response between them."""
        if y.ndim == 1:
            self.base.check_rows(y)
            return
        if y.ndim != 2 or y.shape[1] != 2:
            raise InvalidResponseError(
                "censored experts take one column of exact values or two columns (lower, upper) "
                f"as y, got shape {y.shape}"
            )
        lower, upper = y.T
        found = [
            (np.isnan(y).any(axis=1), "give -inf or inf for a bound that is not known"),
            (np.isinf(lower) & np.isinf(upper), "drop rows of which nothing is known"),
            (lower > upper, "give the lower bound first"),
        ]
        low, high = self._bounds(lower, upper)
        lowest, highest = self.support
        empty = (upper <= lowest) | (lower >= highest) | ~(low < high) & (lower < upper)
        found.append((empty, f"no {self.expert.name} response lies between them"))
        for bad, advice in found:
            if bad.any():
                row = first_row(bad)
                raise InvalidResponseError(
                    f"censored experts take bounds (lower, upper) as y; row {row} holds "
                    f"({lower[row]:g}, {upper[row]:g}): {advice}"
                )
        # The family's own words for exact values, with their rows.
        self.base.check_rows(np.where(lower == upper, lower, 1.0 if self.discrete else self.inner))

    def check_response(self, y: Array) -> None:
        """As :meth:`check_rows`, and not all rows censored on the same side."""
        self.check_rows(y)
        if y.ndim == 1:
            self.base.check_response(y)
            return
        for column, side in ((0, "left"), (1, "right")):
            if np.isinf(y[:, column]).all():
                raise InvalidResponseError(
                    f"all rows of y are censored on the {side}: the likelihood has no maximum. "
                    "Give rows with exact values or other bounds, too"
                )

    def _bounds(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """The bounds as those of an interval that is open below and closed above."""
        if not self.discrete:
            return lower, upper
        return np.ceil(lower) - 1.0, np.floor(upper)

    def point_response(self, y: Array) -> Array:
        """Exact values, middles of intervals, and the finite bound of the others, (n,)."""
        if y.ndim == 1:
            return y
        lower, upper = np.maximum(y[:, 0], self.support[0]), np.minimum(y[:, 1], self.support[1])
        with np.errstate(invalid="ignore"):
            point = np.where(np.isinf(lower), upper, 0.5 * (lower + upper))
        point = np.where(np.isinf(upper), lower, point)
        return np.round(point) if self.discrete else point

    def observed(self, y: Array, value: Array) -> Array:
        """Values (n,) as they would be seen where the bounds of ``y`` are those of the instrument.

        A value within a row's bounds is known by these, one beyond an interval by its end, and
        one on the visible side of a limit exactly.
        """
        if y.ndim == 1:
            return value
        lower, upper = y.T
        seen = np.column_stack([value, value])
        within = (value >= lower) & (value <= upper) & (lower < upper)
        seen[within] = y[within]
        interval = np.isfinite(lower) & np.isfinite(upper) & (lower < upper)
        step = 1.0 if self.discrete else 0.0
        below, above = interval & (value < lower), interval & (value > upper)
        seen[below] = np.column_stack([np.full_like(lower, -np.inf), lower - step])[below]
        seen[above] = np.column_stack([upper + step, np.full_like(upper, np.inf)])[above]
        return seen

    # --- terms -----------------------------------------------------------------------------

    def outside(self, y: Array) -> Array:
        return np.zeros(1, dtype=bool) if y.ndim == 3 else self.base.outside(y)

    def _split(self, y: Array, eta: Array) -> tuple[Array, Array, Array, Array | None]:
        """Bounds, and which cells are censored; None: none."""
        lower, upper = (y, y) if y.ndim != 3 else (y[0], y[1])
        censored = lower != upper
        if not censored.any():
            return lower, lower, upper, None
        low, high = self._bounds(lower, upper)
        return lower, low, high, np.broadcast_to(censored, np.broadcast(lower, eta).shape)

    def log_density(self, y: Array, eta: Array, **shapes: Array) -> Array:
        """Log density of exact values, log probability of intervals."""
        exact, low, high, where = self._split(y, eta)
        if where is None:
            return self.base.log_density(exact, eta, **shapes)
        own = cell_shapes(where, shapes)
        low, high, at = cells(where, low, high, eta)
        safe = np.where(y[0] == y[1], exact, self.inner)
        log_f = self.base.log_density(safe, eta, **shapes)
        return merged(log_f, where, log_between(self.base, low, high, at, own))

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        exact, low, high, where = self._split(y, eta)
        if where is None:
            return self.base.terms(exact, eta, **shapes)
        own = cell_shapes(where, shapes)
        low, high, at = cells(where, low, high, eta)
        middle = self.within(low, high, at, **own)
        terms = self.base.terms(merged(exact, where, middle), eta, **shapes)
        sizes = self.sizes(middle, at, own)
        return changed(terms, where, *between(self.base, low, high, at, own, sizes))

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        exact, low, high, where = self._split(y, eta)
        if where is None:
            return self.base.curves(exact, eta, **shapes)
        own = cell_shapes(where, shapes)
        low, high, at = cells(where, low, high, eta)
        middle = self.within(low, high, at, **own)
        table = self.base.curves(merged(exact, where, middle), eta, **shapes)
        sizes = self.sizes(middle, at, own)
        found = curves_between(self.base, low, high, at, own, sizes)
        return [
            [merged(old, where, new) for old, new in zip(left, right, strict=True)]
            for left, right in zip(table, found, strict=True)
        ]

    # --- predictions -----------------------------------------------------------------------

    def cdf(self, params: Params, batch: Batch) -> Array:
        """Distribution function of the response itself, (n, K)."""
        return super().cdf(params, replace(batch, y=self.point_response(batch.y)))

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above the response, (n, K), accurate in the upper tail."""
        return super().sf(params, replace(batch, y=self.point_response(batch.y)))
