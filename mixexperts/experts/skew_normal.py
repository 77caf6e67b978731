"""Skew-normal experts: responses that lean to one side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array
from mixexperts.experts._linear import Shape
from mixexperts.experts._location import SCALE, Bends, Standard
from mixexperts.experts._skewed import SKEWNESS, Skewed, integral

_LOG_TWO = math.log(2.0)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class SkewNormal(Skewed):
    r"""Skew-normal experts, density :math:`2 \phi(z) \Phi(\lambda_k z) / s_k`.

    :math:`z = (y - \eta) / s` with the location ``eta = offset + intercept_k + x @ coef_k``, the
    scale and the skewness :math:`\lambda`. The mean is ``eta + scale * delta * sqrt(2 / pi)``
    with ``delta = skewness / sqrt(1 + skewness ** 2)``: the coefficients are slopes of the mean,
    the intercept is not that of the mean.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    shared_scale, shared_skewness : bool, default=False
        One scale, or one skewness, for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Notes
    -----
    At skewness 0 the density is normal, and the information about intercept, scale and skewness
    is singular: estimates of a skewness near 0 converge slowly and are far from normal. Of few
    rows the likelihood may rise towards an infinite skewness, the half-normal density; the
    estimate is kept in [-1000, 1000].

    References
    ----------
    Azzalini, A. (1985). A class of distributions which includes the normal ones. Scandinavian
    Journal of Statistics 12, 171-178.

    Chamroukhi, F. (2016). Skew-normal mixture of experts. International Joint Conference on Neural
    Networks, 3000-3007.
    """

    degree: int = 1
    shared_scale: bool = False
    shared_skewness: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "skew_normal"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale", "skewness")
    shapes: ClassVar[tuple[Shape, ...]] = (SCALE, SKEWNESS)

    def standard(self, z: Array, **others: Array) -> Standard:
        from mixexperts.kernels.special import normal_tail

        skewness = others["skewness"]
        w = skewness * z
        log_cdf, ratio = normal_tail(w)
        square = z * z
        bend = ratio * (w + ratio)  # in (0, 1)
        lean = w * ratio
        steep = skewness * skewness * bend
        return Standard(
            log_cdf - 0.5 * square + (_LOG_TWO - _HALF_LOG_TWO_PI),
            skewness * ratio - z,
            2.0 * (1.0 + steep),
            2.0 * ((2.0 + steep) * square + np.abs(lean)),
            (z * ratio,),
            (2.0 * square * bend,),
        )

    def bends(self, z: Array, **others: Array) -> Bends:
        from mixexperts.kernels.special import normal_tail

        skewness = others["skewness"]
        w = skewness * z
        _, ratio = normal_tail(w)
        bend = ratio * (w + ratio)
        return Bends(
            skewness * ratio - z,
            -1.0 - skewness * skewness * bend,
            (ratio - w * bend,),
            ((-z * z * bend,),),
        )

    @staticmethod
    def _delta(skewness: Array) -> Array:
        delta: Array = skewness / np.sqrt(1.0 + skewness**2)
        return delta

    def standard_mean(self, **others: Array) -> Array | float:
        return math.sqrt(2.0 / math.pi) * self._delta(others["skewness"])

    def standard_variance(self, **others: Array) -> Array | float:
        return 1.0 - 2.0 / math.pi * self._delta(others["skewness"]) ** 2

    def symmetric_sf(self, z: Array, **others: Array) -> Array:
        from scipy.special import ndtr

        return np.asarray(ndtr(-z))

    def short_tail(self, z: Array, **others: Array) -> Array:
        from mixexperts.kernels.special import normal_tail

        shape = np.broadcast_shapes(z.shape, others["skewness"].shape)
        start = np.broadcast_to(z, shape).ravel()
        skewness = np.broadcast_to(others["skewness"], shape).ravel()
        rate = start + skewness * normal_tail(-skewness * start)[1]

        def log_f(v: Array, cells: slice) -> Array:
            s = start[cells] + v
            tail: Array = normal_tail(-skewness[cells] * s)[0]
            found: Array = tail - 0.5 * s * s + (_LOG_TWO - _HALF_LOG_TWO_PI)
            return found

        return integral(log_f, np.maximum(rate, 0.5)).reshape(shape)

    def standard_draw(self, rng: np.random.Generator, size: int, **others: Array) -> Array:
        return draw_skew_normal(rng, size, others["skewness"])


def draw_skew_normal(rng: np.random.Generator, size: int, skewness: Array) -> Array:
    """Draws (size,) of location 0 and scale 1: a half-normal and a normal part."""
    half, normal = np.abs(rng.standard_normal(size)), rng.standard_normal(size)
    drawn: Array = (skewness * half + normal) / np.sqrt(1.0 + skewness**2)
    return drawn
