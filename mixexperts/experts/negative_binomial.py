"""Negative binomial experts: counts that vary more than Poisson counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._lattice import smallest_integer
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row, one_column
from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.experts._rising import log_factorials, rising_sums
from mixexperts.experts.poisson import poisson_draws

# Largest eta whose exponential is taken, as for Poisson experts.
_MAX_ETA = 300.0


@dataclass(frozen=True)
class NegativeBinomial(LinearExpert):
    r"""Negative binomial experts with mean ``mu_k = exp(offset + intercept_k + x @ coef_k)``.

    The variance is :math:`\mu_k + \alpha_k \mu_k^2` with the dispersion :math:`\alpha_k` (NB2). A
    Poisson count whose mean is multiplied by a gamma variable of mean one and variance
    :math:`\alpha_k` has this distribution; as :math:`\alpha_k` goes to zero it is Poisson.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    dispersion : float or None, default=None
        The dispersion of all experts; None estimates one for each.
    shared_dispersion : bool, default=False
        One dispersion for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If a given dispersion lies outside 1e-10 to 1e8.

    Notes
    -----
    Where counts vary less than Poisson counts the dispersion goes to its lower bound, 1e-10, and
    the expert is a Poisson expert to all digits. An expert whose rows hold no event has no finite
    maximum and is marked as separated, as with Poisson experts.

    References
    ----------
    Lawless, J. F. (1987). Negative binomial and mixed Poisson regression. Canadian Journal of
    Statistics 15, 209-225.
    Cameron, A. C. and Trivedi, P. K. (2013). Regression Analysis of Count Data, 2nd edition.
    Cambridge University Press.
    """

    degree: int = 1
    dispersion: float | None = None
    shared_dispersion: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "negative_binomial"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "dispersion")
    shapes: ClassVar[tuple[Shape, ...]] = (Shape("dispersion", 1e-10, 1e8),)
    discrete: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True
    shortens: ClassVar[bool] = True
    inner: ClassVar[float] = 0.0

    def update_rises(self) -> bool:
        return bool(not self.free_shapes())

    def check_response(self, y: Array) -> None:
        """Integers >= 0 in one column; anything else is refused, and the first row named."""
        if y.ndim != 1:
            raise InvalidResponseError(
                f"{self.name} experts take one column of counts as y, got shape {y.shape}; two "
                "columns (successes, failures) are for binomial experts"
            )
        one_column(y, self.name)
        bad = ~(np.isfinite(y) & (y >= 0.0) & (y == np.floor(y)))
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"{self.name} experts take counts, integers >= 0, as y; row {row} holds "
                f"{y[row]:g}. For rates give the counts as y and the log of the exposure as offset"
            )

    def outside(self, y: Array) -> Array:
        outside: Array = (y < 0.0) | (y != np.floor(y))
        return outside

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        alpha = shapes["dispersion"]
        eta = np.minimum(eta, _MAX_ETA)
        mean = np.exp(eta)
        x = alpha * mean
        inverse = 1.0 / (1.0 + x)
        log_rest = np.log1p(x)
        log_rising, first, square = rising_sums(y, alpha)
        spread = log_rest / alpha
        log_f = log_rising - log_factorials(y) + y * (eta - log_rest) - spread
        reach, small = x * inverse, mean * inverse
        slope = (y - mean) * inverse
        # The log-likelihood is concave in eta; this is its curvature.
        weight = (1.0 + alpha * y) * inverse * small
        level = first + spread - small
        # The curvature in log alpha is of either sign in a row.
        flat = square - first - first + level + slope * reach
        return Terms(log_f, mean, (slope, level - y * reach), (weight, flat))

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        alpha = shapes["dispersion"]
        mean = np.exp(np.minimum(eta, _MAX_ETA))
        x = alpha * mean
        inverse = 1.0 / (1.0 + x)
        _, first, square = rising_sums(y, alpha)
        reach, small = x * inverse, mean * inverse
        cross = (y - mean) * inverse * reach
        flat = square - first + np.log1p(x) / alpha - small - small * reach + y * reach * inverse
        weight = (1.0 + alpha * y) * inverse * small
        return [[weight, cross], [cross, flat]]

    def update_shape(self, shape: Shape, params: Params, stats: Stats) -> Array:
        """A Newton step of log dispersion, at most one unit long, or one unit uphill."""
        slope, weight = stats["dispersion_slope"], stats["dispersion_weight"]
        if self.is_shared(shape):
            slope, weight = (np.full_like(part, part.sum()) for part in (slope, weight))
        weight = np.maximum(weight, np.abs(slope))
        step = np.where(weight > 0.0, slope / np.where(weight > 0.0, weight, 1.0), 0.0)
        moved = shape.value(shape.free(params["dispersion"]) + step)
        return np.where(stats["mass"] > 0.0, moved, params["dispersion"])

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return np.log(y + 0.5), (y + 0.5) / (1.5 + y)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        """Moments: what the squared residuals exceed the means by, over the squared means."""
        mean = np.exp(np.minimum(eta, 30.0))
        share = weight / (1.0 + mean * mean)
        excess = (share * ((y - mean) ** 2 - mean)).sum(axis=0)
        square = np.maximum((share * mean * mean).sum(axis=0), 1e-300)
        return {"dispersion": np.clip(excess / square, 0.05, 1e2)}

    def residual(self, params: Params, batch: Batch) -> Array:
        """Pearson residuals; a quarter is added to the variance, for means next to nothing."""
        mean, variance = self.mean(params, batch), self.variance(params, batch)
        residual: Array = (batch.y[:, None] - mean) / np.sqrt(variance + 0.25)
        return residual

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return np.exp(np.minimum(eta, _MAX_ETA))

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        mean = self.mean_at(eta)
        return mean * (1.0 + shapes["dispersion"] * mean)

    def cdf(self, params: Params, batch: Batch) -> Array:
        return self.cdf_at(batch.y[:, None], self.eta(params, batch), **self.shapes_of(params))

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K), accurate in the upper tail."""
        return self.sf_at(batch.y[:, None], self.eta(params, batch), **self.shapes_of(params))

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import betaincc

        return self._tail(betaincc, y, eta, shapes["dispersion"], 1.0)

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import betainc

        return self._tail(betainc, y, eta, shapes["dispersion"], 0.0)

    def _tail(self, function: np.ufunc, y: Array, eta: Array, alpha: Array, above: float) -> Array:
        """A tail probability; ``above`` is that of an infinite y."""
        count = np.floor(y)
        inside = np.isfinite(count) & (count >= 0.0)
        x = alpha * self.mean_at(eta)
        found = function(np.where(inside, count, 0.0) + 1.0, 1.0 / alpha, x / (1.0 + x))
        tail: Array = np.where(inside, found, np.where(count > 0.0, above, 1.0 - above))
        return tail

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        """Least count whose distribution function reaches the probability."""
        mean = self.mean_at(np.asarray(eta, dtype=np.float64))
        if probability >= 1.0:
            return np.where(mean > 0.0, np.inf, 0.0)
        flat_eta = np.broadcast_to(eta, mean.shape).ravel()
        alpha = np.broadcast_to(shapes["dispersion"], mean.shape).ravel()

        def reaches(index: Array, value: Array) -> Array:
            at, by = flat_eta[index], alpha[index]
            if probability > 0.5:
                return np.asarray(self.sf_at(value, at, dispersion=by) <= 1.0 - probability)
            return np.asarray(self.cdf_at(value, at, dispersion=by) >= probability)

        # The mean and ever longer distances above it, until all quantiles are below.
        upper = np.ceil(mean.ravel()) + 1.0
        todo = np.arange(upper.size)
        while todo.size:
            todo = todo[~reaches(todo, upper[todo])]
            upper[todo] *= 2.0
        return smallest_integer(reaches, np.full(upper.size, -1.0), upper).reshape(mean.shape)

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        alpha = shapes["dispersion"]
        return poisson_draws(rng, self.mean_at(eta) * alpha * rng.gamma(1.0 / alpha))
