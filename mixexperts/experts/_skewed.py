"""What skewed families share: 2 f0(z) G(skewness * odd(z)), with f0 and G symmetric."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from mixexperts._batch import Array
from mixexperts.experts._linear import Shape
from mixexperts.experts._location import LocationScale

SKEWNESS = Shape("skewness", -1e3, 1e3, transform="identity", held=True)
# Nodes of the double exponential rule for integrals over (0, inf) whose integrands fall at rate 1
# at first, and at some thousandth of it later: v = exp(u - exp(-u)).
_U = np.arange(-3.6, 11.2, 1.0 / 9.0)
NODES = np.exp(_U - np.exp(-_U))
WEIGHTS = NODES * (1.0 + np.exp(-_U)) / 9.0
_CELLS = 4096
_STEPS = 60


class Skewed(LocationScale):
    """A symmetric density and how it leans: the location is not the mean.

    Coefficients, scale and skewness are coupled, and steps of all at once would overshoot: their
    curvatures are doubled, after which the step is one of ascent, nearly always a rise.
    """

    def update_rises(self) -> bool:
        return False

    def predictor_at(self, mean: Array) -> Array:
        """Refused: the location is not the mean."""
        raise self._lacks("predictor_at")

    @abstractmethod
    def symmetric_sf(self, z: Array, **others: Array) -> Array:
        """Probability above z of the density that is skewed."""

    @abstractmethod
    def short_tail(self, z: Array, **others: Array) -> Array:
        """Probability below -z, for z >= 0 and skewness >= 0."""

    def _tails(self, z: Array, others: dict[str, Array]) -> tuple[Array, Array]:
        """Probabilities below and above z, each accurate where it is small."""
        skewness = others["skewness"]
        flip = skewness < 0.0
        z = np.where(flip, -z, z)
        size = np.abs(z)
        others = {**others, "skewness": np.broadcast_to(np.abs(skewness), z.shape)}
        short = self.short_tail(size, **others)
        upper = np.where(z < 0.0, 1.0 - short, 2.0 * self.symmetric_sf(size, **others) - short)
        lower = np.where(z < 0.0, short, 1.0 - upper)
        return np.where(flip, upper, lower), np.where(flip, lower, upper)

    def standard_cdf(self, z: Array, **others: Array) -> Array:
        return self._tails(z, others)[0]

    def standard_sf(self, z: Array, **others: Array) -> Array:
        return self._tails(z, others)[1]

    def standard_quantile(self, probability: float, **others: Array) -> Array | float:
        """Newton's steps of the log probability in asinh z, kept in a bracket."""
        arrays = np.broadcast_arrays(*others.values())
        others = dict(zip(others, arrays, strict=True))
        if not 0.0 < probability < 1.0:
            return np.full(arrays[0].shape, np.inf if probability >= 1.0 else -np.inf)
        x = np.zeros(arrays[0].shape)
        low, high = x - 40.0, x + 40.0
        lower_half = probability < 0.5
        target = np.log(probability if lower_half else 1.0 - probability)
        for step in range(_STEPS):
            z = np.sinh(x)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                tail = self._tails(z, others)[0 if lower_half else 1]
                short = np.log(tail) - target if lower_half else target - np.log(tail)
                slope = np.exp(self.standard(z, **others).log_f + np.log(np.cosh(x))) / tail
                moved = x - short / slope
            above = short > 0.0
            low, high = np.where(above, low, x), np.where(above, x, high)
            inside = (moved >= low) & (moved <= high) & (step >= 6)
            moved = np.where(inside, moved, 0.5 * (low + high))
            if (np.abs(moved - x) <= 1e-15 * (1e-3 + np.abs(x))).all():
                break
            x = moved
        return np.sinh(x)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        """The side on which the residuals lean; at skewness 0 the likelihood would stand still."""
        found = super().start_shapes(y, eta, weight)
        z = (y - eta) / found["scale"]
        mass = np.maximum(weight.sum(axis=0), 1e-300)
        z = np.clip(z - (weight * z).sum(axis=0) / mass, -3.0, 3.0)
        third = (weight * z**3).sum(axis=0) / mass
        # by the third moment of the skew-normal, neither near nothing nor near everything
        root = (2.0 * np.abs(third) / (4.0 - np.pi)) ** (2.0 / 3.0)
        delta = np.sqrt(np.pi / 2.0 * root / (1.0 + root))
        delta = np.clip(delta, 0.7, 0.98)
        skewness = np.where(third < 0.0, -1.0, 1.0) * delta / np.sqrt(1.0 - delta**2)
        scale = found["scale"] / np.sqrt(1.0 - 2.0 * delta**2 / np.pi)
        return {**found, "scale": scale, "skewness": skewness}


def integral(log_f: Callable[[Array, slice], Array], rate: Array) -> Array:
    """Integrals over v > 0 of ``exp(log_f(v, cells))`` that fall with the rates at first.

    Parameters
    ----------
    log_f : callable
        Takes v (m, cells) and the slice of the cells.
    rate : ndarray of shape (cells,)
    """
    total = np.empty(len(rate))
    for start in range(0, len(rate), _CELLS):
        cells = slice(start, start + _CELLS)
        v = NODES[:, None] / rate[cells]
        with np.errstate(under="ignore", over="ignore"):
            total[cells] = (WEIGHTS @ np.exp(log_f(v, cells))) / rate[cells]
    return total
