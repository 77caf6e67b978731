"""Beta experts: shares and rates strictly between zero and one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row, one_column
from mixexperts.experts._linear import LinearExpert, Shape, Terms

# Means end this far from zero and one, in log odds: nearer to one there are no floats.
_MAX_ETA = 36.0


@dataclass(frozen=True)
class Beta(LinearExpert):
    r"""Beta experts with logistic mean ``mu_k`` and precision ``phi_k``.

    .. math:: \log\frac{\mu_k}{1 - \mu_k} = \mathrm{offset} + \beta_{0k} + \beta_k^\top x

    The density is that of Beta(:math:`\mu_k \phi_k`, :math:`(1 - \mu_k) \phi_k`), the variance
    :math:`\mu_k (1 - \mu_k) / (1 + \phi_k)`.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    precision : float or None, default=None
        The precision of all experts; None estimates one for each.
    shared_precision : bool, default=False
        One precision for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If a given precision is not positive.

    Notes
    -----
    The response lies strictly between 0 and 1. Shares that are counts out of totals are for
    binomial experts. Log odds of a mean end at 36 on either side.

    References
    ----------
    Ferrari, S. and Cribari-Neto, F. (2004). Beta regression for modelling rates and proportions.
    Journal of Applied Statistics 31, 799-815.
    """

    degree: int = 1
    precision: float | None = None
    shared_precision: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "beta"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "precision")
    shapes: ClassVar[tuple[Shape, ...]] = (Shape("precision", 1e-6, 1e10, upper_boundary=True),)
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    has_derivatives: ClassVar[bool] = True

    def check_response(self, y: Array) -> None:
        """Numbers strictly between 0 and 1; the first row at fault is named."""
        one_column(y, self.name)
        bad = ~(np.isfinite(y) & (y > 0.0) & (y < 1.0))
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"beta experts take numbers strictly between 0 and 1 as y; row {row} holds "
                f"{y[row]:g}. Divide percentages by 100; for shares that are counts out of totals "
                "use binomial experts"
            )

    @staticmethod
    def _means(eta: Array) -> tuple[Array, Array, Array]:
        """Mean, one less the mean, and the slope of the mean in eta; zero beyond the ends."""
        odds = np.exp(np.clip(eta, -_MAX_ETA, _MAX_ETA))
        rest = 1.0 / (1.0 + odds)
        mean = odds * rest
        return mean, rest, np.where(np.abs(eta) < _MAX_ETA, mean * rest, 0.0)

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        from mixexperts.kernels.special import gamma_functions

        phi = shapes["precision"]
        mean, rest, turn = self._means(eta)
        log_y, log_rest = np.log(y), np.log1p(-y)
        a, b = mean * phi, rest * phi
        log_a, psi_a, curve_a = gamma_functions(a)
        log_b, psi_b, curve_b = gamma_functions(b)
        log_phi, psi, curve = gamma_functions(phi)
        log_f = a * log_y + b * log_rest - (log_y + log_rest) + (log_phi - log_a - log_b)
        left, right = log_y - psi_a, log_rest - psi_b
        turn = turn * phi
        slope = (left - right) * turn
        weight = turn * turn * (curve_a + curve_b)
        towards = a * left + b * right + phi * psi
        # a^2 psi1(a) + b^2 psi1(b) - phi^2 psi1(phi), which is positive
        flat = a * a * curve_a + b * b * curve_b - phi * phi * curve
        return Terms(log_f, mean, (slope, towards), (weight, flat))

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        from mixexperts.kernels.special import gamma_functions

        phi = shapes["precision"]
        mean, rest, turn = self._means(eta)
        a, b = mean * phi, rest * phi
        _, psi_a, curve_a = gamma_functions(a)
        _, psi_b, curve_b = gamma_functions(b)
        _, psi, curve = gamma_functions(phi)
        left, right = np.log(y) - psi_a, np.log1p(-y) - psi_b
        turn = turn * phi
        slope = (left - right) * turn
        cross = turn * (a * curve_a - b * curve_b) - slope
        flat = a * a * curve_a + b * b * curve_b - phi * phi * curve
        towards = a * left + b * right + phi * psi
        return [
            [turn * turn * (curve_a + curve_b) - slope * (rest - mean), cross],
            [cross, flat - towards],
        ]

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return np.log(y) - np.log1p(-y), np.sqrt(y * (1.0 - y))

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        """Moments: the variance of y over that of one trial is 1 / (1 + precision)."""
        mean, rest, _ = self._means(eta)
        square = weight * (y - mean) ** 2
        trial = np.maximum((weight * mean * rest).sum(axis=0), 1e-300)
        return {
            "precision": np.clip(trial / np.maximum(square.sum(axis=0), 1e-300) - 1.0, 0.1, 1e4)
        }

    def residual(self, params: Params, batch: Batch) -> Array:
        """Pearson residuals but for the precision, (n, K)."""
        mean, rest, _ = self._means(self.eta(params, batch))
        residual: Array = (batch.y[:, None] - mean) / np.sqrt(mean * rest + 1e-4)
        return residual

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return self._means(eta)[0]

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        mean, rest, _ = self._means(eta)
        return mean * rest / (1.0 + shapes["precision"])

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import betainc

        mean, rest, _ = self._means(eta)
        return np.asarray(betainc(mean * shapes["precision"], rest * shapes["precision"], y))

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import betaincc

        mean, rest, _ = self._means(eta)
        return np.asarray(betaincc(mean * shapes["precision"], rest * shapes["precision"], y))

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        from scipy.special import betainccinv, betaincinv

        mean, rest, _ = self._means(eta)
        a, b = mean * shapes["precision"], rest * shapes["precision"]
        if probability > 0.5:
            return np.asarray(betainccinv(a, b, 1.0 - probability))
        return np.asarray(betaincinv(a, b, probability))

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        mean, rest, _ = self._means(eta)
        drawn = rng.beta(mean * shapes["precision"], rest * shapes["precision"])
        # A draw that rounds to an end is the number next to it.
        return np.clip(drawn, np.finfo(float).tiny, 1.0 - np.finfo(float).epsneg)
