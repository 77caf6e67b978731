"""Poisson experts: counts with a log-linear mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts._lattice import smallest_integer
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import GLM, first_row
from mixexperts.experts._links import IDENTITY, SQRT, Link

# Largest eta whose exponential is taken: its square, times weights and squares of columns, stays
# a number.
_MAX_ETA = 300.0
# Above this mean neighbouring floats are no neighbouring integers, and numpy draws none.
_MAX_DRAWN = 1e15


@dataclass(frozen=True)
class Poisson(GLM):
    r"""Poisson experts, ``y | x, k ~ Poisson(exp(offset + intercept_k + x @ coef_k))``.

    The response holds counts: integers >= 0, also as floats. With the log link an offset is the
    log of the exposure (hours, areas, persons at risk).

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features: 0 gives constants, 1 log-linear
        experts, 2 adds squares and products, and so on.
    link : {"log", "identity", "sqrt"}, default="log"
        Scale of the linear predictor ``eta``: the log of the mean, the mean, or its square root.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If the link is not known.

    Notes
    -----
    With the identity link ``eta`` must be positive. A row where it is not has a mean next to zero,
    so that an expert reaches it only with a count of zero. Steps of the fit that end there are
    halved. With the square root the mean is the square of ``eta``, whatever its sign.

    An expert whose rows hold no event has no finite maximum: its mean goes to zero. The fit
    stands where the log-likelihood stopped rising, and the expert is marked as separated.

    References
    ----------
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, 2nd edition. Chapman and
    Hall.
    Wang, P., Puterman, M. L., Cockburn, I. and Le, N. (1996). Mixed Poisson regression models
    with covariate dependent rates. Biometrics 52, 381-400.
    """

    degree: int = 1
    link: Literal["log", "identity", "sqrt"] = "log"
    fit_intercept: bool = True
    name: ClassVar[str] = "poisson"
    links: ClassVar[Mapping[str, Link | None]] = {"log": None, "identity": IDENTITY, "sqrt": SQRT}

    @property
    def fused_code(self) -> int | None:  # type: ignore[override]
        return 1 if self.link == "log" else None

    def check_response(self, y: Array) -> None:
        """Integers >= 0 in one column; anything else is refused, and the first row named."""
        if y.ndim != 1:
            raise InvalidResponseError(
                f"poisson experts take one column of counts as y, got shape {y.shape}; two columns "
                "(successes, failures) are for binomial experts"
            )
        bad = ~(np.isfinite(y) & (y >= 0.0) & (y == np.floor(y)))
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"poisson experts take counts, integers >= 0, as y; row {row} holds {y[row]:g}. "
                "For rates give the counts as y and the log of the exposure as offset"
            )

    def possible(self, y: Array) -> Array:
        counts: Array = np.isfinite(y) & (y >= 0.0) & (y == np.floor(y))
        return counts

    @staticmethod
    def inverse_link(eta: Array) -> Array:
        mean: Array = np.exp(np.minimum(eta, _MAX_ETA))
        return mean

    @staticmethod
    def density(y: Array, eta: Array) -> tuple[Array, Array]:
        from scipy.special import gammaln

        mean = Poisson.inverse_link(eta)
        eta = np.minimum(eta, _MAX_ETA)
        log_prob: Array = y[:, None] * eta - mean - gammaln(y + 1.0)[:, None]
        return log_prob, mean

    @staticmethod
    def moments(y: Array, mean: Array) -> tuple[Array, Array]:
        return y[:, None] - mean, mean

    @staticmethod
    def nearest(y: Array) -> tuple[Array, Array]:
        return np.log(y + 0.5), y + 0.5

    def mean(self, params: Params, batch: Batch) -> Array:
        """Expected counts, (n, K)."""
        return self.inverse_link(self._natural(params, batch))

    def variance(self, params: Params, batch: Batch) -> Array:
        return self.mean(params, batch)

    def cdf(self, params: Params, batch: Batch) -> Array:
        return poisson_cdf(batch.y[:, None], self.mean(params, batch))

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K), accurate in the upper tail."""
        return poisson_sf(batch.y[:, None], self.mean(params, batch))

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Least count whose distribution function reaches the probability, (n, K)."""
        return poisson_quantile(probability, self.mean(params, batch))

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        return poisson_draws(rng, self.mean(params, batch)[np.arange(batch.n_rows), label])


def poisson_quantile(probability: float, mean: Array) -> Array:
    """Least counts whose distribution function reaches the probability."""
    if probability >= 1.0:
        return np.where(mean > 0.0, np.inf, 0.0)
    flat, root = mean.ravel(), np.sqrt(mean.ravel())
    # Bernstein's inequality: less than 1e-300 lies below, less than 1e-17 above.
    below = np.maximum(np.floor(flat - 40.0 * root), 0.0) - 1.0
    reaching = np.ceil(flat + 10.0 * root + 30.0)

    def reaches(index: Array, value: Array) -> Array:
        if probability > 0.5:
            return np.asarray(poisson_sf(value, flat[index]) <= 1.0 - probability)
        return np.asarray(poisson_cdf(value, flat[index]) >= probability)

    return smallest_integer(reaches, below, reaching).reshape(mean.shape)


def poisson_draws(rng: np.random.Generator, mean: Array) -> Array:
    """A count for each mean (n,)."""
    drawn = rng.poisson(np.minimum(mean, _MAX_DRAWN)).astype(float)
    huge = mean > _MAX_DRAWN
    # The normal distribution, which the Poisson is to within the spacing of floats there.
    drawn[huge] = np.rint(
        mean[huge] + np.sqrt(mean[huge]) * rng.standard_normal(np.count_nonzero(huge))
    )
    return drawn


def poisson_cdf(value: Array, mean: Array) -> Array:
    """Distribution function of counts."""
    from scipy.special import gammaincc

    k = np.floor(value)
    inside = np.isfinite(k) & (k >= 0.0)
    within = gammaincc(np.where(inside, k, 0.0) + 1.0, mean)
    cdf: Array = np.where(inside, within, np.heaviside(k, 0.0))
    return cdf


def poisson_sf(value: Array, mean: Array) -> Array:
    """Probability above counts, accurate in the upper tail."""
    from scipy.special import gammainc

    k = np.floor(value)
    inside = np.isfinite(k) & (k >= 0.0)
    within = gammainc(np.where(inside, k, 0.0) + 1.0, mean)
    sf: Array = np.where(inside, within, np.heaviside(-k, 0.0))
    return sf
