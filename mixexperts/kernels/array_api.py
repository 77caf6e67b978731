"""One pass of EM over a block of rows in operations of the array API standard.

The same code runs on NumPy, on CuPy and under ``array_api_strict``, which refuses whatever the
standard does not promise: it is the dispatch to a GPU, tested without one. Only functions are
used that CuPy 13 has as well. n rows, u sampling units (u = n unless ``unit`` is given), K
experts, p and q columns of the two designs; all floats are float64.

The families of experts are pairs of elementwise functions in :data:`FAMILIES`, the gates are
classes in :data:`GATES`, both by the name of the component. Everything that a pass returns adds
over blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
#: Largest eta whose exponential is taken: times weights and squares of columns it stays a number.
MAX_ETA = 300.0
# Factorials below this are looked up; from here on Stirling's series is exact to rounding.
_TABLE = 32
# Numbers in a scaled copy of a design: 32 MB, which the second-level cache of a large GPU holds.
_TILE_NUMBERS = 1 << 22


@dataclass(frozen=True)
class Rows:
    """A block of rows as arrays of one namespace ``xp``.

    Attributes
    ----------
    y : (n,) or (n, 2)
    X, Z : (n, p), (u, q)
        The same object where the gate shares the experts' design.
    weight : (u,)
    offset : (n,) or None
    log_prior : (u, K) or None
    unit : int64 (n,) or None
        Sampling unit of each row.
    members : tuple of (rows, present)
        Row number (u,) of the first, second, ... member of each unit, and whether there is
        one, (u, 1); empty if rows are units.
    constants : dict
        What the families computed from y alone, by their names; filled by the first pass.
    """

    xp: Any
    y: Any
    X: Any
    Z: Any
    weight: Any
    offset: Any = None
    log_prior: Any = None
    unit: Any = None
    members: tuple[tuple[Any, Any], ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)

    def sum_units(self, values: Any) -> Any:
        """Sum row values (n, K) within units, (u, K), member after member: a fixed order."""
        if self.unit is None:
            return values
        total = 0.0
        for rows, present in self.members:
            total = total + self.xp.where(present, self.xp.take(values, rows, axis=0), 0.0)
        return total

    def spread_units(self, values: Any) -> Any:
        """Repeat unit values (u, K) over the rows of each unit, (n, K)."""
        return values if self.unit is None else self.xp.take(values, self.unit, axis=0)

    def log_constant(self, family: Family, name: str) -> Any:
        """The family's part of the log density that no parameter changes: (n, 1), or zero."""
        if name not in self.constants:
            self.constants[name] = family.constant(self.xp, self.y)
        return self.constants[name]


# --- families of experts -------------------------------------------------------------------------


class Family(NamedTuple):
    """Elementwise part of a family of experts; y (n,) or (n, 2), eta (n, K), aux (K,) or None.

    Attributes
    ----------
    constant : (xp, y) -> (n, 1) or 0.0
        What the log density holds besides :attr:`density`.
    density : (xp, y, eta, aux) -> log_f, mean
        Log density less the constant, and the mean (of one trial), (n, K).
    moments : (xp, y, mean, aux) -> slope, curve, extra
        Derivative of the log density in eta, information about eta, and what is summed besides
        (None: nothing). For a Gaussian they are y - mean, one and the squared residual: the
        scale is left to the sums.
    """

    constant: Callable[[Any, Any], Any]
    density: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    moments: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any]]


@functools.cache
def _log_factorials() -> tuple[float, ...]:
    # Their logs are rounded once.
    return tuple(math.log(math.factorial(k)) for k in range(_TABLE))


def log_factorial(xp: Any, y: Any) -> Any:
    """log(y!) of whole numbers y >= 0, any shape, to a few units in the last place.

    A table below 32; above, Stirling's series for log Gamma(y + 1) (Abramowitz and Stegun 1964,
    6.1.41), whose first term left out is below 1e-16.
    """
    table = xp.asarray(np.asarray(_log_factorials()), dtype=xp.float64)
    small = y < _TABLE
    index = xp.asarray(xp.where(small, y, 0.0), dtype=xp.int64)
    looked_up = xp.reshape(xp.take(table, xp.reshape(index, (-1,)), axis=0), y.shape)
    z = xp.where(small, float(_TABLE), y)
    inverse = 1.0 / z
    square = inverse * inverse
    series = inverse * (
        1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0)))
    )
    # log(y!) = log Gamma(y) + log y
    stirling = (z + 0.5) * xp.log(z) - z + _HALF_LOG_TWO_PI + series
    return xp.where(small, looked_up, stirling)


def _no_constant(xp: Any, y: Any) -> float:
    return 0.0


def _gaussian_density(xp: Any, y: Any, eta: Any, aux: Any) -> tuple[Any, Any]:
    scaled = (y[:, None] - eta) / aux
    return -0.5 * (scaled * scaled) - (xp.log(aux) + _HALF_LOG_TWO_PI), eta


def _gaussian_moments(xp: Any, y: Any, mean: Any, aux: Any) -> tuple[Any, Any, Any]:
    residual = y[:, None] - mean
    return residual, xp.ones_like(mean), residual * residual


def _poisson_constant(xp: Any, y: Any) -> Any:
    return -log_factorial(xp, y)[:, None]


def _poisson_density(xp: Any, y: Any, eta: Any, aux: Any) -> tuple[Any, Any]:
    eta = xp.where(eta > MAX_ETA, MAX_ETA, eta)
    mean = xp.exp(eta)
    return y[:, None] * eta - mean, mean


def _poisson_moments(xp: Any, y: Any, mean: Any, aux: Any) -> tuple[Any, Any, Any]:
    return y[:, None] - mean, mean, None


def _trials(xp: Any, y: Any) -> tuple[Any, Any]:
    """Successes and failures, (n, 1) each."""
    if y.ndim == 1:
        return y[:, None], 1.0 - y[:, None]
    return y[:, 0:1], y[:, 1:2]


def _binomial_constant(xp: Any, y: Any) -> Any:
    if y.ndim == 1:
        return 0.0
    successes, failures = _trials(xp, y)
    ways = log_factorial(xp, successes + failures)
    return ways - log_factorial(xp, successes) - log_factorial(xp, failures)


def _binomial_density(xp: Any, y: Any, eta: Any, aux: Any) -> tuple[Any, Any]:
    successes, failures = _trials(xp, y)
    small = xp.exp(-xp.abs(eta))
    rest = xp.log1p(small)
    up = eta >= 0.0
    log_f = -successes * (xp.where(up, 0.0, -eta) + rest) - failures * (
        xp.where(up, eta, 0.0) + rest
    )
    return log_f, xp.where(up, 1.0, small) / (1.0 + small)


def _binomial_moments(xp: Any, y: Any, mean: Any, aux: Any) -> tuple[Any, Any, Any]:
    successes, failures = _trials(xp, y)
    expected = (successes + failures) * mean
    return successes - expected, expected * (1.0 - mean), None


FAMILIES: dict[str, Family] = {
    "gaussian": Family(_no_constant, _gaussian_density, _gaussian_moments),
    "poisson": Family(_poisson_constant, _poisson_density, _poisson_moments),
    "binomial": Family(_binomial_constant, _binomial_density, _binomial_moments),
}


# --- the mixture -------------------------------------------------------------------------------


def e_step(xp: Any, joint: Any) -> tuple[Any, Any]:
    """Responsibilities (u, K) and log density (u,) from log(gate x expert) (u, K).

    A row without support (all -inf) gives -inf and responsibilities of zero.
    """
    top = xp.max(joint, axis=1, keepdims=True)
    shift = xp.where(xp.isfinite(top), top, 0.0)
    resp = xp.exp(joint - shift)
    total = xp.sum(resp, axis=1, keepdims=True)
    empty = total == 0.0
    total = xp.where(empty, 1.0, total)
    log_density = xp.where(empty, -math.inf, xp.log(total) + shift)
    return resp / total, log_density[:, 0]


def log_softmax(xp: Any, logits: Any) -> Any:
    """Log of the softmax over axis 1, (u, K)."""
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))


def weighted_grams(xp: Any, X: Any, weight: Any, tile_rows: int | None = None) -> Any:
    """Weighted Gram matrices (G, p, p) of X (n, p) under weights (n, G).

    One matrix product per tile of rows, of all scaled copies of the columns side by side. The
    copies of a tile stay in the cache, and tiles are added in order.
    """
    n, p = X.shape
    n_weights = weight.shape[1]
    total = xp.zeros((n_weights * p, p), dtype=xp.float64)
    step = tile_rows or max(1024, _TILE_NUMBERS // max(1, n_weights * p))
    for start in range(0, n, step):
        stop = min(start + step, n)
        part = X[start:stop, :]
        scaled = weight[start:stop, :, None] * part[:, None, :]
        total = total + xp.reshape(scaled, (part.shape[0], n_weights * p)).T @ part
    return xp.reshape(total, (n_weights, p, p))


class GatePart(Protocol):
    """What a gate adds to a pass: log scores before the E-step, statistics after it."""

    def scores(self, rows: Rows) -> Any:
        """Log score of each expert, (u, K) or (1, K)."""

    def residuals(self, rows: Rows, scores: Any, resp: Any) -> tuple[Any, Any] | None:
        """Weights (u, G') of Grams and (u, free) of cross products of Z, or None.

        ``resp`` (u, K) holds responsibilities times weight.
        """

    def sums(self, rows: Rows, resp: Any) -> dict[str, Any]:
        """Further statistics."""


@dataclass(frozen=True)
class ConstantGate:
    """Constant mixing weights."""

    log_weight: Any

    def scores(self, rows: Rows) -> Any:
        return self.log_weight[None, :]

    def residuals(self, rows: Rows, scores: Any, resp: Any) -> None:
        return None

    def sums(self, rows: Rows, resp: Any) -> dict[str, Any]:
        return {"gate_mass": rows.xp.sum(resp, axis=0)}


@dataclass(frozen=True)
class SoftmaxGate:
    """Softmax of Z @ coef', the last expert the reference."""

    coef: Any

    def scores(self, rows: Rows) -> Any:
        return log_softmax(rows.xp, rows.Z @ self.coef.T)

    def residuals(self, rows: Rows, scores: Any, resp: Any) -> tuple[Any, Any] | None:
        xp, free = rows.xp, self.coef.shape[0] - 1
        if free == 0:
            return None
        prob = xp.exp(scores)
        weighted = prob * rows.weight[:, None]
        mix = [
            weighted[:, a] * ((1.0 if a == b else 0.0) - prob[:, b])
            for a in range(free)
            for b in range(a + 1)
        ]
        return xp.stack(mix, axis=1), resp[:, :free] - weighted[:, :free]

    def sums(self, rows: Rows, resp: Any) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class GaussianGate:
    """Weight times normal density: log score ``constant - |whitening (z - mean)|^2 / 2``."""

    constant: Any
    mean: Any
    whitening: Any

    def scores(self, rows: Rows) -> Any:
        xp, found = rows.xp, []
        for k in range(self.mean.shape[0]):
            white = (rows.Z - self.mean[k, :]) @ self.whitening[k, :, :].T
            found.append(self.constant[k] - 0.5 * xp.sum(white * white, axis=1))
        return xp.stack(found, axis=1)

    def residuals(self, rows: Rows, scores: Any, resp: Any) -> None:
        return None

    def sums(self, rows: Rows, resp: Any) -> dict[str, Any]:
        xp, first, second = rows.xp, [], []
        for k in range(self.mean.shape[0]):
            residual = rows.Z - self.mean[k, :]
            weight = resp[:, k : k + 1]
            first.append(xp.sum(weight * residual, axis=0))
            second.append(weighted_grams(xp, residual, weight)[0, :, :])
        return {
            "gate_mass": xp.sum(resp, axis=0),
            "first": xp.stack(first, axis=0),
            "second": xp.stack(second, axis=0),
        }


#: Gate parts by name; the arguments are what :mod:`mixexperts.em.device` reads off the parameters.
GATES: dict[str, type] = {
    "constant": ConstantGate,
    "softmax": SoftmaxGate,
    "gaussian": GaussianGate,
}


def block_sums(rows: Rows, gate: GatePart, family: str, coef: Any, aux: Any) -> dict[str, Any]:
    """Everything that EM needs from a block of rows, as device arrays that add over blocks.

    Parameters
    ----------
    rows : Rows
    gate : GatePart
        With its parameters.
    family : str
        Name in :data:`FAMILIES`.
    coef : (K, p)
        Coefficients of the experts.
    aux : (K,) or None
        Scales of the experts, for families that have them.

    Returns
    -------
    dict
        ``log_likelihood`` (); ``mass``, ``fitted`` and ``extra`` (K,), the last zero for
        families without one; ``gram`` (K, p, p); ``cross`` (K, p). Of a softmax gate with
        K > 1 ``information`` (K (K - 1) / 2, q, q), the blocks a >= b row by row, and
        ``gradient`` (K - 1, q). Of the others what their ``sums`` return. With sampling units
        ``unit_mass`` (K,), in effective units.
    """
    xp, part = rows.xp, FAMILIES[family]
    eta = rows.X @ coef.T
    if rows.offset is not None:
        eta = eta + rows.offset[:, None]
    log_f, mean = part.density(xp, rows.y, eta, aux)
    scores = gate.scores(rows)
    joint = rows.sum_units(log_f + rows.log_constant(part, family)) + scores
    if rows.log_prior is not None:
        joint = joint + rows.log_prior
    resp, log_density = e_step(xp, joint)
    # A unit of weight zero counts for nothing, even where its density is zero.
    supported = xp.where(rows.weight > 0.0, log_density, 0.0)
    resp = resp * rows.weight[:, None]
    weight = rows.spread_units(resp)
    slope, curve, extra = part.moments(xp, rows.y, mean, aux)
    grams, crosses = weight * curve, weight * slope
    more = gate.residuals(rows, scores, resp)
    if more is not None and rows.Z is rows.X:
        grams, crosses, more = _beside(xp, grams, more[0]), _beside(xp, crosses, more[1]), None
    zero = xp.zeros((coef.shape[0],), dtype=xp.float64)
    units = {} if rows.unit is None else {"unit_mass": xp.sum(resp, axis=0)}
    return {
        **units,
        "log_likelihood": xp.sum(rows.weight * supported),
        "mass": xp.sum(weight, axis=0),
        "fitted": xp.sum(weight * mean, axis=0),
        "extra": zero if extra is None else xp.sum(weight * extra, axis=0),
        **products(rows, grams, crosses, coef.shape[0], more),
        **gate.sums(rows, resp),
    }


def products(
    rows: Rows, grams: Any, crosses: Any, n_experts: int, gate: tuple[Any, Any] | None = None
) -> dict[str, Any]:
    """Weighted products of the columns of both designs.

    ``grams`` (n, G) and ``crosses`` (n, M) hold the experts' weights in their first
    ``n_experts`` columns. Columns beyond are the gate's, of a design that both share; of a
    design of its own they are in ``gate``.
    """
    xp = rows.xp
    gram, cross = weighted_grams(xp, rows.X, grams), crosses.T @ rows.X
    found = {"gram": gram[:n_experts, :, :], "cross": cross[:n_experts, :]}
    if gate is not None:
        found["information"] = weighted_grams(xp, rows.Z, gate[0])
        found["gradient"] = gate[1].T @ rows.Z
    elif grams.shape[1] > n_experts:
        found["information"] = gram[n_experts:, :, :]
        found["gradient"] = cross[n_experts:, :]
    return found


def _beside(xp: Any, left: Any, right: Any) -> Any:
    """Columns of two arrays (n, a) and (n, b) side by side."""
    columns = [left[:, j] for j in range(left.shape[1])]
    columns += [right[:, j] for j in range(right.shape[1])]
    return xp.stack(columns, axis=1)
