"""Inverse Gaussian experts: positive responses with a variance like the cube of the mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Params, Stats
from mixexperts._roots import solve
from mixexperts.experts._linear import Shape, Terms
from mixexperts.experts._positive import MAX_ETA, LinkedPositive
from mixexperts.penalties.base import Penalty

_LOG_TWO_PI = math.log(2.0 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
# Largest log of y over the mean whose exponential is squared.
_MAX_RATIO = 150.0
# Squared coefficient of variation at which an expert is a spike, as with Gamma experts.
_SPIKE = 1e-10


@dataclass(frozen=True)
class InverseGaussian(LinkedPositive):
    r"""Inverse Gaussian experts with mean ``mu_k = exp(offset + intercept_k + x @ coef_k)``.

    The variance is :math:`\phi_k \mu_k^3` with the dispersion :math:`\phi_k`, in units of one over
    the response: one over the shape :math:`\lambda_k` of the distribution, and the scale of a
    generalised linear model. First passage times of a drifting Brownian motion are of this form.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    dispersion : float or None, default=None
        The dispersion of all experts; None estimates one for each.
    shared_dispersion : bool, default=False
        One dispersion for all experts instead of one each.
    link : {"log", "inverse_squared"}, default="log"
        Scale of the linear predictor ``eta``: the log of the mean, or one over its square, the
        canonical link, whose information is nearly singular where ``eta`` is next to zero.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If the link is not known, or a given dispersion is not positive.

    Notes
    -----
    With the canonical link ``eta`` must be positive. A row where it is not has the mean at the
    edge, next to infinity, so that an expert hardly reaches it. Steps of the fit that end there
    are halved.

    References
    ----------
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, 2nd edition. Chapman and
    Hall.
    Michael, J. R., Schucany, W. R. and Haas, R. W. (1976). Generating random variates using
    transformations with multiple roots. American Statistician 30, 88-90.
    Tweedie, M. C. K. (1957). Statistical properties of inverse Gaussian distributions I. Annals of
    Mathematical Statistics 28, 362-377.
    """

    degree: int = 1
    dispersion: float | None = None
    shared_dispersion: bool = False
    link: str = "log"
    fit_intercept: bool = True
    name: ClassVar[str] = "inverse_gaussian"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "dispersion")
    shapes: ClassVar[tuple[Shape, ...]] = (Shape("dispersion", 1e-100, 1e100),)
    links: ClassVar[tuple[str, ...]] = ("log", "inverse_squared")
    shortens: ClassVar[bool] = True

    @staticmethod
    def _parts(y: Array, eta: Array, dispersion: Array) -> tuple[Array, Array, Array]:
        """Log of y, y over the mean, and one over the dispersion times y."""
        log_y = np.log(y)
        ratio = np.exp(np.minimum(log_y - eta, _MAX_RATIO))
        return log_y, ratio, (1.0 / y) / dispersion

    def own_terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        dispersion = shapes["dispersion"]
        log_y, ratio, precision = self._parts(y, eta, dispersion)
        away = ratio - 1.0
        pull = ratio * precision
        half = (0.5 * away) * (pull - precision)
        log_f = (-0.5 * (3.0 * log_y + _LOG_TWO_PI) - half) - 0.5 * np.log(dispersion)
        # The log density is not concave in eta: where its curvature is less than the one that the
        # fitted mean leads to expect, as in all rows with y below the mean, that one.
        weight = np.maximum(ratio + away, 1.0) * pull
        flat = np.broadcast_to(0.5, log_f.shape)
        return Terms(log_f, np.exp(eta), (away * pull, half - 0.5), (weight, flat))

    def own_curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        _, ratio, precision = self._parts(y, eta, shapes["dispersion"])
        slope = ratio * (ratio - 1.0) * precision
        return [
            [ratio * (2.0 * ratio - 1.0) * precision, slope],
            [slope, 0.5 * (ratio - 1.0) ** 2 * precision],
        ]

    def information(self, eta: Array, **shapes: Array) -> Array:
        information: Array = np.exp(-np.clip(eta, -MAX_ETA, MAX_ETA)) / shapes["dispersion"]
        return information

    def nearest(self, y: Array) -> tuple[Array, Array]:
        eta, weight = super().nearest(y)
        # information about the log of the mean, up to the dispersion, at most that of the median
        return eta, weight / np.maximum(y, np.median(y))

    def update_rises(self) -> bool:
        return False

    def steepness(self, params: Params) -> Array | None:
        steepness = super().steepness(params)
        return None if steepness is None else 2.0 * steepness

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """The dispersion that is best for the coefficients, then a step of these given it."""
        if self.free_shapes():
            moved = self.update_shape(self.shapes[0], params, stats)
            factor = params["dispersion"] / moved
            stats = {
                **stats,
                "cross": stats["cross"] * factor[:, None],
                "gram": stats["gram"] * factor[:, None, None],
            }
        return super().update(params, stats, penalty)

    def update_shape(self, shape: Shape, params: Params, stats: Stats) -> Array:
        mass = stats["mass"]
        deviance = (2.0 * stats["dispersion_slope"] + mass) * params["dispersion"]
        if self.is_shared(shape):
            deviance, mass = (np.full_like(part, part.sum()) for part in (deviance, mass))
        filled = mass > 0.0
        moved = np.maximum(deviance, 0.0) / np.where(filled, mass, 1.0)
        return np.where(filled, np.clip(moved, shape.lower, shape.upper), params["dispersion"])

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        ratio = np.exp(np.clip(np.log(y) - self.own(eta), -20.0, 3.0))
        mass = np.maximum(weight.sum(axis=0), 1e-300)
        return {
            "dispersion": np.maximum((weight * (ratio - 1.0) ** 2 / y).sum(axis=0) / mass, 1e-90)
        }

    def collapsed(self, params: Params, stats: Stats) -> Array:
        """Where the coefficient of variation is next to nothing at the mean response."""
        collapsed = self.at_boundary(params)
        if self.free_shapes():
            mean = stats["fitted"] / np.maximum(stats["mass"], 1e-300)
            collapsed |= (stats["mass"] > 0.0) & (params["dispersion"] * mean <= _SPIKE)
        return collapsed

    def boundary_reason(self) -> str:
        return "has a dispersion next to zero: its density is a spike"

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return np.exp(self.own(eta))

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        variance: Array = shapes["dispersion"] * self.mean_at(eta) ** 3
        return variance

    def _ends(self, y: Array, eta: Array, dispersion: Array) -> tuple[Array, Array]:
        """Arguments of the two normal distribution functions."""
        ratio = np.exp(np.minimum(np.log(y) - self.own(eta), _MAX_RATIO))
        root = 1.0 / np.sqrt(dispersion * y)
        return root * (ratio - 1.0), root * (ratio + 1.0)

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import erfcx, ndtr

        low, high = self._ends(y, eta, shapes["dispersion"])
        cdf: Array = ndtr(low) + 0.5 * np.exp(-0.5 * low * low) * erfcx(high * _ROOT_HALF)
        return np.minimum(cdf, 1.0)

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import erfcx, ndtr

        low, high = self._ends(y, eta, shapes["dispersion"])
        common = 0.5 * np.exp(-0.5 * low * low)
        second = erfcx(high * _ROOT_HALF)
        # One factor for both parts, so that little is lost where they are nearly equal.
        upper = common * (erfcx(np.maximum(low, 0.0) * _ROOT_HALF) - second)
        sf: Array = np.where(low > 0.0, upper, ndtr(-low) - common * second)
        return np.maximum(sf, 0.0)

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        """Newton steps on the scale of log y, in a bracket."""
        eta = np.asarray(eta, dtype=np.float64)
        own = self.own(eta)
        dispersion = np.broadcast_to(shapes["dispersion"], own.shape).ravel()
        flat, shape = own.ravel(), own.shape
        if not 0.0 < probability < 1.0:
            return np.full(shape, np.inf if probability >= 1.0 else 0.0)
        upper = probability > 0.5
        wanted = np.log(1.0 - probability) if upper else np.log(probability)
        family = InverseGaussian()  # the log link, on the log of the mean

        def probe(index: Array, place: Array) -> tuple[Array, Array, Array]:
            at, by = flat[index], {"dispersion": dispersion[index]}
            y = np.exp(place)
            with np.errstate(all="ignore"):
                mass = (family.sf_at if upper else family.cdf_at)(y, at, **by)
                excess = (wanted - np.log(mass)) * (1.0 if upper else -1.0)
                density = np.exp(family.own_terms(y, at, **by).log_f) * y
                step = -excess * mass / density
            return excess < 0.0, np.abs(excess) <= 1e-13, step

        # Beyond these ends lies less than a float tells from nothing.
        width = np.log1p(1500.0 * dispersion * np.exp(np.clip(flat, -MAX_ETA, MAX_ETA)))
        width = width + 60.0 * np.sqrt(np.expm1(np.minimum(width, 1.0))) + 1e-12
        found = solve(probe, flat - width, flat + width, flat.copy())
        return np.exp(found).reshape(shape)

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        mean = self.mean_at(eta)
        half = 0.5 * mean * shapes["dispersion"] * rng.standard_normal(mean.shape) ** 2
        # The smaller of two roots, without a difference, and the larger one in turn (Michael,
        # Schucany and Haas 1976).
        share = 1.0 / (1.0 + half + np.sqrt(half * (half + 2.0)))
        first = rng.random(mean.shape) * (1.0 + share) <= 1.0
        return mean * np.where(first, share, 1.0 / share)
