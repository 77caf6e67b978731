"""What families of a location and a scale share: f(y) = f0((y - eta) / scale) / scale."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row, one_column
from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.penalties.base import Penalty

SCALE = Shape("scale", 1e-9, 1e9, follows_scale=True, boundary=True)


@dataclass(frozen=True, slots=True)
class Standard:
    """The log density at location 0 and scale 1, elementwise, and what steps are made of.

    Attributes
    ----------
    log_f : ndarray
    slope : ndarray
        Derivative in z.
    weight : ndarray
        Curvature >= 0 for steps of the location.
    scale_weight : ndarray or float
        Curvature >= 0 for steps of the log scale.
    towards, weights : tuple of ndarrays
        Derivatives in the other free shapes t, and curvatures >= 0 for their steps.
    """

    log_f: Array
    slope: Array
    weight: Array
    scale_weight: Array | float = 2.0
    towards: tuple[Array, ...] = ()
    weights: tuple[Array, ...] = ()


@dataclass(frozen=True, slots=True)
class Bends:
    """Second derivatives of the log density at location 0 and scale 1.

    Attributes
    ----------
    slope, bend : ndarray
        First and second derivative in z.
    mixed : tuple of ndarrays
        Derivatives in z and each other free shape.
    shapes : tuple of tuples of ndarrays
        Second derivatives in the other free shapes.
    """

    slope: Array
    bend: Array
    mixed: tuple[Array, ...] = ()
    shapes: tuple[tuple[Array, ...], ...] = ()


class LocationScale(LinearExpert):
    """Families of a location eta and a scale, given by their density at 0 and 1.

    The first shape is the scale; the functions below take the others as keyword arguments.
    """

    affine_response: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True
    inner: ClassVar[float] = 0.0

    # --- the family at location 0 and scale 1 -----------------------------------------------

    @abstractmethod
    def standard(self, z: Array, **others: Array) -> Standard:
        """Log density, first derivatives and curvatures."""

    def bends(self, z: Array, **others: Array) -> Bends:
        """Second derivatives."""
        raise self._lacks("bends")

    @abstractmethod
    def standard_mean(self, **others: Array) -> Array | float:
        """Mean; NaN where there is none."""

    @abstractmethod
    def standard_variance(self, **others: Array) -> Array | float:
        """Variance; infinite where it is, NaN where there is no mean."""

    @abstractmethod
    def standard_cdf(self, z: Array, **others: Array) -> Array:
        """Distribution function, accurate in the lower tail."""

    @abstractmethod
    def standard_sf(self, z: Array, **others: Array) -> Array:
        """Probability above z, accurate in the upper tail."""

    @abstractmethod
    def standard_quantile(self, probability: float, **others: Array) -> Array | float:
        """Quantile."""

    @abstractmethod
    def standard_draw(self, rng: np.random.Generator, size: int, **others: Array) -> Array:
        """Draws (size,), with shapes (size,)."""

    # --- what a linear family needs -------------------------------------------------------------

    def check_response(self, y: Array) -> None:
        """Any finite real response will do; NaN and infinities are refused."""
        one_column(y, self.name)
        bad = ~np.isfinite(y)
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"{self.name} experts take finite numbers as y; row {row} holds {y[row]:g}. "
                "Drop or impute such rows"
            )

    @staticmethod
    def _split(y: Array, eta: Array, shapes: dict[str, Array]) -> tuple[Array, Array]:
        scale = shapes.pop("scale")
        return (y - eta) / scale, scale

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        z, scale = self._split(y, eta, shapes)
        at = self.standard(z, **shapes)
        return Terms(
            at.log_f - np.log(scale),
            self._level(eta, scale, **shapes),
            (at.slope * (-1.0 / scale), -1.0 - z * at.slope, *at.towards),
            (at.weight * scale**-2.0, np.asarray(at.scale_weight), *at.weights),
        )

    def _level(self, eta: Array, scale: Array, **others: Array) -> Array:
        """Mean, or where there is none the location, for the order of the experts."""
        mean = self.standard_mean(**others)
        if not np.any(mean):
            return eta
        level: Array = eta + scale * np.where(np.isfinite(mean), mean, 0.0)
        return level

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        z, scale = self._split(y, eta, shapes)
        at = self.bends(z, **shapes)
        stretch = at.slope + z * at.bend
        table = [[-at.bend / scale**2, -stretch / scale], [-stretch / scale, -z * stretch]]
        for mixed in at.mixed:
            table[0].append(mixed / scale)
            table[1].append(z * mixed)
        for s, row in enumerate(at.shapes):
            table.append([table[0][s + 2], table[1][s + 2], *(-second for second in row)])
        return table

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return y, np.ones_like(y)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        return {"scale": np.maximum(spread_of(y - eta, weight), 1e-3)}

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        scale = shapes.pop("scale")
        mean = self.standard_mean(**shapes)
        return eta + scale * mean if np.any(mean) else np.array(eta)

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        scale = shapes.pop("scale")
        return np.broadcast_to(scale**2 * self.standard_variance(**shapes), eta.shape)

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        z, _ = self._split(y, eta, shapes)
        return self.standard_cdf(z, **shapes)

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        z, _ = self._split(y, eta, shapes)
        return self.standard_sf(z, **shapes)

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        scale = shapes.pop("scale")
        return eta + scale * self.standard_quantile(probability, **shapes)

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        scale = shapes.pop("scale")
        drawn: Array = eta + scale * self.standard_draw(rng, len(eta), **shapes)
        return drawn

    def residual(self, params: Params, batch: Batch) -> Array:
        """Residuals from the location, which there always is, (n, K)."""
        residual: Array = batch.y[:, None] - self.eta(params, batch)
        return residual


class Reweighted(LocationScale):
    """Symmetric families whose log density is convex in z squared.

    Its tangent there is a normal log density times a weight that falls with the residual: each
    update is weighted least squares, then the scale that its residuals ask for, and never lowers
    the likelihood. ``Standard.weight`` is that weight, ``-slope / z``.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1980). Iteratively reweighted least squares for
    linear regression when errors are normal/independent distributed. Multivariate Analysis V.
    """

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        moved = super().update(params, stats, penalty)
        step = moved["coef"] - params["coef"]
        # weighted squares after the step of the coefficients, in units of the scale
        square = (
            stats["scale_slope"]
            + stats["mass"]
            - 2.0 * np.einsum("kp,kp->k", step, stats["cross"])
            + np.einsum("kp,kpq,kq->k", step, stats["gram"], step)
        )
        return {**moved, "scale": self._scale(params["scale"], np.maximum(square, 0.0), stats)}

    def update_shape(self, shape: Shape, params: Params, stats: Stats) -> Array:
        if shape.name != "scale":
            return super().update_shape(shape, params, stats)
        square = np.maximum(stats["scale_slope"] + stats["mass"], 0.0)
        return self._scale(params["scale"], square, stats)

    def _scale(self, scale: Array, square: Array, stats: Stats) -> Array:
        mass, square = stats["mass"], square * scale**2
        if self.is_shared(SCALE):
            mass, square = (np.full_like(part, part.sum()) for part in (mass, square))
        filled = mass > 0.0
        found = np.sqrt(square / np.where(filled, mass, 1.0))
        return np.where(filled, np.clip(found, SCALE.lower, SCALE.upper), scale)


def spread_of(residual: Array, weight: Array) -> Array:
    """Weighted root mean square of residuals (n, K), (K,)."""
    mass = np.maximum(weight.sum(axis=0), 1e-300)
    spread: Array = np.sqrt((weight * residual**2).sum(axis=0) / mass)
    return spread


def check_positive(name: str, value: float | None, highest: float = np.inf) -> None:
    """Raise unless a fixed value is absent or a number in (0, highest]."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number > 0 or None, got {value!r}")
    if not 0.0 < value <= highest:
        raise ValueError(f"{name} must lie in (0, {highest:g}], got {value!r}; None estimates it")
