"""Links: maps from a linear predictor to the predictor that a family is written in.

A family is written in one predictor of its own: the log of the mean, or the log odds. Another link
is a map of eta to that predictor, and the chain rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mixexperts._batch import Array, Batch

#: From eta to the family's own predictor, with the first and second derivatives of the map.
Forward: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
# Means of links whose eta must be positive end here: no smaller eta has a slope.
_LEAST = 1e-100
# The largest rate of a complementary log-log link, whose square stays a number.
_MAX_CLOGLOG = 150.0
_MAX_HALVINGS = 60


@dataclass(frozen=True)
class Link:
    """A link other than a family's own.

    Attributes
    ----------
    own : callable
        Takes eta to the family's own predictor and the map's first and second derivatives.
    eta : callable
        Inverse of the map.
    positive : bool
        Whether eta must be positive. At other values the mean is the one at the edge, 1e-100 of
        eta, and has no slope.
    """

    own: Forward
    eta: Callable[[Array], Array]
    positive: bool = False


def _power(power: float) -> Link:
    """Link whose mean is a power of eta > 0, for families written in the log of the mean."""

    def own(eta: Array) -> tuple[Array, Array, Array]:
        inside = eta > _LEAST
        eta = np.where(inside, np.asarray(eta, dtype=np.float64), _LEAST)
        slope = np.where(inside, power / eta, 0.0)
        return power * np.log(eta), slope, -slope / eta

    return Link(own, lambda own: np.exp(np.clip(own / power, -300.0, 300.0)), positive=True)


def _sqrt_own(eta: Array) -> tuple[Array, Array, Array]:
    """Mean ``eta ** 2``, whatever the sign of eta."""
    eta = np.asarray(eta, dtype=np.float64)
    away = np.where(eta < 0.0, np.minimum(eta, -_LEAST), np.maximum(eta, _LEAST))
    slope = 2.0 / away
    return 2.0 * np.log(np.abs(away)), slope, -slope / away


def _probit_own(eta: Array) -> tuple[Array, Array, Array]:
    from scipy.special import log_ndtr

    log_p, log_q = log_ndtr(eta), log_ndtr(-eta)
    log_density = -0.5 * eta * eta - _HALF_LOG_TWO_PI
    upper, lower = np.exp(log_density - log_p), np.exp(log_density - log_q)
    return log_p - log_q, upper + lower, lower * (lower - eta) - upper * (upper + eta)


def _probit_eta(own: Array) -> Array:
    from scipy.special import log_expit, ndtri_exp

    eta: Array = np.copysign(ndtri_exp(log_expit(-np.abs(own))), own)
    return eta


def _cloglog_own(eta: Array) -> tuple[Array, Array, Array]:
    rate = np.exp(np.minimum(eta, _MAX_CLOGLOG))
    none = np.exp(-rate)
    some = -np.expm1(-rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(rate > 0.0, rate / some, 1.0)
        log_odds = np.where(rate > 1e-300, rate + np.log(some), eta)
    return log_odds, slope, slope * (1.0 - slope * none)


def _cloglog_eta(own: Array) -> Array:
    # -log(1 - p) = log(1 + exp(own))
    return np.log(np.maximum(np.logaddexp(0.0, own), 1e-300))


IDENTITY = _power(1.0)
INVERSE = _power(-1.0)
INVERSE_SQUARED = _power(-0.5)
SQRT = Link(_sqrt_own, lambda own: np.exp(0.5 * np.clip(own, -300.0, 300.0)))
PROBIT = Link(_probit_own, _probit_eta)
CLOGLOG = Link(_cloglog_own, _cloglog_eta)

#: Links of families written in the log of the mean, and of those written in the log odds.
OF_LOG_MEAN = {
    "identity": IDENTITY, "inverse": INVERSE, "inverse_squared": INVERSE_SQUARED, "sqrt": SQRT,
}  # fmt: skip
OF_LOG_ODDS = {"probit": PROBIT, "cloglog": CLOGLOG}


def check_link(family: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise ``ValueError`` if a family has no link of that name."""
    if value not in known:
        raise ValueError(
            f"link={value!r} is no link of {family} experts; known links: "
            + ", ".join(map(repr, known))
        )


def kept_positive(
    link: Link | None, previous: Array | None, coef: Array, batch: Batch, wanted: Array
) -> Array:
    """Coefficients (K, p) moved back until every eta of the batch is positive, where it must be.

    They move towards ``previous``, or if that is None towards the constant eta that lies highest
    of the mean of ``wanted`` (n,) and of what the offset asks for. A design that holds no constant
    leaves them as they are.
    """
    if link is None or not link.positive:
        return coef
    offset = np.zeros(batch.n_rows) if batch.offset is None else batch.offset
    if previous is None:
        constant, *_ = np.linalg.lstsq(batch.X, np.ones(batch.n_rows), rcond=None)
        if np.abs(batch.X @ constant - 1.0).max(initial=0.0) > 1e-8:
            return coef
        level = float(np.average(wanted, weights=batch.spread_units(batch.weight)))
        highest = max(level, 2.0 * max(0.0, -float(offset.min())), 1e-10)
        previous = np.tile(highest * constant, (len(coef), 1))
    kept = coef.copy()
    for k in range(len(coef)):
        start = offset + batch.X @ previous[k]
        if not (start > 0.0).all():
            continue
        share = 1.0
        for _ in range(_MAX_HALVINGS):
            # A little of the way to the edge is left, so that slopes stay numbers.
            if (start + share * (batch.X @ (coef[k] - previous[k])) > 0.01 * start).all():
                break
            share *= 0.5
        kept[k] = previous[k] + share * (coef[k] - previous[k])
    return kept
