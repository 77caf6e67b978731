"""Student's t experts: tails as heavy as the data ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array
from mixexperts.experts._linear import Shape
from mixexperts.experts._location import SCALE, Bends, Reweighted, Standard, check_positive

_HALF_LOG_PI = 0.5 * math.log(math.pi)
_START_DF = 5.0


@dataclass(frozen=True)
class StudentT(Reweighted):
    r"""Student's t experts, ``y = offset + intercept_k + x @ coef_k + scale_k * t(df_k)``.

    With :math:`z = (y - \eta) / s` a row weighs :math:`(\nu + 1) / (\nu + z^2)` in the fit of the
    coefficients: outliers count little, and the less the fewer degrees of freedom.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    df : float or None, default=None
        Degrees of freedom, known and common to all experts. None: estimated, for each expert,
        between 1.1 and 1e6, so that means exist; variances are infinite for ``df <= 2``.
    shared_df : bool, default=False
        One estimate of ``df`` for all experts instead of one each.
    shared_scale : bool, default=False
        One scale for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Notes
    -----
    With ``df`` known each update is a step of EM, by weighted least squares. The step of ``df``
    is one of Fisher scoring of its logarithm, beside it: a direction of ascent that the engine
    halves where it must.

    References
    ----------
    Lange, K. L., Little, R. J. A. and Taylor, J. M. G. (1989). Robust statistical modeling using
    the t distribution. Journal of the American Statistical Association 84, 881-896.

    Chamroukhi, F. (2016). Robust mixture of experts modeling using the t distribution. Neural
    Networks 79, 20-36.
    """

    degree: int = 1
    df: float | None = None
    shared_df: bool = False
    shared_scale: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "student_t"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale", "df")
    shapes: ClassVar[tuple[Shape, ...]] = (SCALE, Shape("df", 1.1, 1e6, held=True))

    def __post_init__(self) -> None:
        self.check_terms()
        check_positive("df", self.df)

    def update_rises(self) -> bool:
        return self.df is not None

    def standard(self, z: Array, **others: Array) -> Standard:
        from mixexperts.kernels.special import half_step

        df = others["df"]
        value, first, second = half_step(df)
        square = z * z
        weight = (df + 1.0) / (df + square)
        log_tail = np.log1p(square / df)
        pull = weight * square
        log_f = value - _HALF_LOG_PI - 0.5 * np.log(df) - (0.5 * (df + 1.0)) * log_tail
        towards = (df * first - 0.5) + 0.5 * (pull - df * log_tail)
        return Standard(
            log_f, -weight * z, weight,
            towards=(towards,), weights=(df * df * information_of_df(df, second),),
        )  # fmt: skip

    def bends(self, z: Array, **others: Array) -> Bends:
        from mixexperts.kernels.special import half_step

        df = others["df"]
        _, first, second = half_step(df)
        square = z * z
        total = df + square
        by_df, by_df2 = tail_bends(z, df)
        return Bends(
            -(df + 1.0) * z / total,
            -(df + 1.0) * (df - square) / total**2,
            (df * z * (1.0 - square) / total**2,),
            ((df * df * (second + by_df2) + df * (first + by_df),),),
        )

    def standard_mean(self, **others: Array) -> Array | float:
        return np.where(others["df"] > 1.0, 0.0, np.nan)

    def standard_variance(self, **others: Array) -> Array | float:
        return variance_of_t(others["df"])

    def standard_cdf(self, z: Array, **others: Array) -> Array:
        from scipy.special import stdtr

        return np.asarray(stdtr(others["df"], z))

    def standard_sf(self, z: Array, **others: Array) -> Array:
        from scipy.special import stdtr

        return np.asarray(stdtr(others["df"], -z))

    def standard_quantile(self, probability: float, **others: Array) -> Array | float:
        from scipy.special import stdtrit

        return np.asarray(stdtrit(others["df"], probability))

    def standard_draw(self, rng: np.random.Generator, size: int, **others: Array) -> Array:
        return rng.standard_t(others["df"], size=size)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        return {**super().start_shapes(y, eta, weight), "df": np.asarray(_START_DF)}


def variance_of_t(df: Array) -> Array:
    """Variance of t, infinite for df in (1, 2], NaN without a mean."""
    variance = df / np.where(df > 2.0, df - 2.0, 1.0)
    return np.where(df > 2.0, variance, np.where(df > 1.0, np.inf, np.nan))


def tail_bends(z: Array, df: Array) -> tuple[Array, Array]:
    """First and second derivative in df of the log density of t, less those of ``half_step``."""
    square = z * z
    product = df * (df + square)
    first = -0.5 / df - 0.5 * np.log1p(square / df) + 0.5 * (df + 1.0) * square / product
    second = 0.5 / df**2 + square / product
    second = second - 0.5 * square * (df + 1.0) * (2.0 * df + square) / product**2
    return first, second


def information_of_df(df: Array, second: Array) -> Array:
    """Expected information about df; for many df from its series, where the rest cancels."""
    low = np.minimum(df, 300.0)
    exact = -second - (low + 5.0) / (2.0 * low * (low + 1.0) * (low + 3.0))
    return np.where(df < 300.0, exact, 3.5 * df**-4.0)
