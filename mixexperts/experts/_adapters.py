"""Gaussian and Poisson experts in the form that the wrappers of linear families work on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array, Params, Stats
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.experts.base import Expert
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.poisson import (
    Poisson,
    poisson_cdf,
    poisson_draws,
    poisson_quantile,
    poisson_sf,
)
from mixexperts.penalties.base import Penalty

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def as_linear(expert: Any, wrapper: str) -> LinearExpert:
    """The family as one of a linear predictor and shapes.

    Raises
    ------
    TypeError
        If it is no family.
    UnsupportedCombinationError
        If it has another form, or no distribution function.
    """
    if isinstance(expert, Gaussian):
        return LinearGaussian(
            expert.degree, expert.shared_scale, expert.fit_intercept, expert.scale_floor
        )
    if isinstance(expert, Poisson):
        return LinearPoisson(expert.degree, expert.fit_intercept)
    plain = isinstance(expert, LinearExpert) and not hasattr(expert, "base")
    if plain and type(expert).cdf_at is not LinearExpert.cdf_at:
        linear: LinearExpert = expert
        return linear
    if not isinstance(expert, Expert):
        raise TypeError(
            f"expert of {wrapper} must be an instance of a family such as Gaussian(), got "
            f"{expert!r}"
        )
    raise UnsupportedCombinationError(
        f"{wrapper} cannot wrap {expert.name!r} experts: it needs a family of one column of "
        "responses with a distribution function, such as Gaussian, Poisson or Gamma"
    )


@dataclass(frozen=True)
class LinearGaussian(LinearExpert):
    """Gaussian experts by their terms; the updates are those of ``Gaussian``."""

    degree: int = 1
    shared_scale: bool = False
    fit_intercept: bool = True
    scale_floor: float = 1e-6
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale")
    affine_response: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True
    inner: ClassVar[float] = 0.0
    shapes: ClassVar[tuple[Shape, ...]] = (
        Shape("scale", 1e-6, math.inf, follows_scale=True, boundary=True),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        lowest = Shape("scale", self.scale_floor, math.inf, follows_scale=True, boundary=True)
        object.__setattr__(self, "shapes", (lowest,))

    def check_response(self, y: Array) -> None:
        Gaussian.check_response(Gaussian(), y)

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        scale = shapes["scale"]
        z = (y - eta) / scale
        square = z * z
        log_f = -0.5 * square - (np.log(scale) + _HALF_LOG_TWO_PI)
        flat = np.broadcast_to(1.0 / (scale * scale), z.shape)
        two = np.broadcast_to(np.float64(2.0), z.shape)
        return Terms(log_f, eta, (z / scale, square - 1.0), (flat, two))

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        scale = shapes["scale"]
        z = (y - eta) / scale
        cross = 2.0 * z / scale
        return [[np.broadcast_to(scale**-2, z.shape), cross], [cross, 2.0 * z * z]]

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return y, np.ones_like(y)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        mass = np.maximum(weight.sum(axis=0), 1e-300)
        return {"scale": np.sqrt((weight * (y - eta) ** 2).sum(axis=0) / mass)}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """One conditional maximisation: coefficients given scales, then scales.

        The weights of the scales are two for each row of the complete data.
        """
        moved = dict(super().update(params, stats, penalty))
        step = moved["coef"] - params["coef"]
        rows = 0.5 * stats["scale_weight"]
        square = (
            stats["scale_slope"] + rows - 2.0 * np.einsum("kp,kp->k", step, stats["cross"])
            + np.einsum("kp,kpq,kq->k", step, stats["gram"], step)
        )  # fmt: skip
        square = np.maximum(square, 0.0) * params["scale"] ** 2
        if self.shared_scale:
            square, rows = (np.full(rows.shape, part.sum()) for part in (square, rows))
        scale = np.sqrt(square / np.where(rows > 0.0, rows, 1.0))
        shape = self.shapes[0]
        moved["scale"] = np.where(
            rows > 0.0, np.clip(scale, shape.lower, shape.upper), params["scale"]
        )
        return moved

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return eta

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        return np.broadcast_to(shapes["scale"] ** 2, np.shape(eta))

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import ndtr

        return np.asarray(ndtr((y - eta) / shapes["scale"]))

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import ndtr

        return np.asarray(ndtr((eta - y) / shapes["scale"]))

    def log_cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import log_ndtr

        return np.asarray(log_ndtr((y - eta) / shapes["scale"]))

    def log_sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import log_ndtr

        return np.asarray(log_ndtr((eta - y) / shapes["scale"]))

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        from scipy.special import ndtri

        return np.asarray(eta + shapes["scale"] * ndtri(probability))

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        drawn: Array = eta + shapes["scale"] * rng.standard_normal(eta.shape)
        return drawn


@dataclass(frozen=True)
class LinearPoisson(LinearExpert):
    """Poisson experts by their terms."""

    degree: int = 1
    fit_intercept: bool = True
    param_names: ClassVar[tuple[str, ...]] = ("coef",)
    discrete: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True
    shortens: ClassVar[bool] = True

    def check_response(self, y: Array) -> None:
        Poisson().check_response(y)

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        from scipy.special import gammaln

        mean = Poisson.inverse_link(eta)
        log_f = y * eta - mean - gammaln(y + 1.0)
        return Terms(log_f, mean, (y - mean,), (mean,))

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        return [[Poisson.inverse_link(eta)]]

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return Poisson.nearest(y)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        return {}

    def flows_at(self, y: Array, eta: Array, **shapes: Array) -> tuple[Array | None, ...]:
        return (Poisson.inverse_link(eta),)

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return Poisson.inverse_link(eta)

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        return Poisson.inverse_link(eta)

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return poisson_cdf(y, Poisson.inverse_link(eta))

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return poisson_sf(y, Poisson.inverse_link(eta))

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        return poisson_quantile(probability, Poisson.inverse_link(eta))

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        return poisson_draws(rng, Poisson.inverse_link(eta))
