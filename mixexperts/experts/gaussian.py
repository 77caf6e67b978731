"""Gaussian experts: linear or polynomial mean, own or shared scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.errors import InvalidResponseError
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import NoPenalty, Penalty

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gaussian(Expert):
    r"""Gaussian experts, ``y | x, k ~ N(intercept_k + x @ coef_k, scale_k ** 2)``.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial mean: 0 gives constants, 1 lines or planes, 2 adds
        squares and products, and so on (all monomials up to that degree).
    shared_scale : bool, default=False
        One scale for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.
    scale_floor : float, default=1e-6
        Smallest scale, as a fraction of the standard deviation of y. With free scales the
        likelihood has no maximum: an expert on as few rows as it has coefficients can shrink
        its scale for ever. A fit with a scale at the floor is flagged ``degenerate``.
    covariance : {"full", "diag", "tied"}, default="full"
        Covariances of the responses, where there are several: those of
        :class:`MultivariateGaussian`, which then takes over (``shared_scale=True`` asks for
        ``"tied"``). One response has none.

    References
    ----------
    Jordan, M. I. and Jacobs, R. A. (1994). Hierarchical mixtures of experts and the EM
    algorithm. Neural Computation 6, 181-214.
    """

    degree: int = 1
    shared_scale: bool = False
    fit_intercept: bool = True
    scale_floor: float = 1e-6
    covariance: str = "full"

    name: ClassVar[str] = "gaussian"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale")
    affine_response: ClassVar[bool] = True
    fused_code: ClassVar[int | None] = 0
    has_derivatives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_terms()
        if not 0.0 < self.scale_floor < 1.0:
            raise ValueError(f"scale_floor must lie in (0, 1), got {self.scale_floor!r}")
        if self.covariance not in ("full", "diag", "tied"):
            raise ValueError(
                f"covariance={self.covariance!r} is not known; known: 'full', 'diag', 'tied'"
            )
        if self.shared_scale and self.covariance == "diag":
            raise ValueError(
                "covariance='diag' with shared_scale=True is not offered; choose one of the two"
            )

    def for_response(self, n_columns: int) -> Expert:
        """Itself for one response, :class:`MultivariateGaussian` for several."""
        if n_columns < 2:
            return self
        from mixexperts.experts.multivariate import MultivariateGaussian

        return MultivariateGaussian(
            covariance="tied" if self.shared_scale else self.covariance,  # type: ignore[arg-type]
            degree=self.degree,
            fit_intercept=self.fit_intercept,
            covariance_floor=max(self.scale_floor**2, 1e-14),
        )

    def check_response(self, y: Array) -> None:
        """Any finite real response will do; NaN and infinities are refused."""
        if not np.isfinite(y).all():
            raise InvalidResponseError("y contains NaN or infinity; drop or impute those rows")

    def _residual(self, params: Params, batch: Batch) -> Array:
        mean = batch.X @ params["coef"].T
        if batch.offset is not None:
            mean += batch.offset[:, None]
        residual: Array = np.subtract(batch.y[:, None], mean, out=mean)
        return residual

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Weighted least squares from zero coefficients and the overall scale."""
        n_experts = resp.shape[1]
        start: Params = {
            "coef": np.zeros((n_experts, batch.X.shape[1])),
            "scale": np.ones(n_experts),
        }
        weight = batch.spread_units(resp * batch.weight[:, None])
        # Twice: the second pass takes the residual sum of squares at the fitted coefficients,
        # free of the cancellation that the first one suffers from a large common mean.
        for _ in range(2):
            start = self.update(start, self.accumulate(start, batch, weight), NoPenalty())
        return start

    def log_prob(self, params: Params, batch: Batch) -> Array:
        scale = params["scale"]
        log_prob = self._residual(params, batch)
        log_prob /= scale
        np.square(log_prob, out=log_prob)
        log_prob *= -0.5
        log_prob -= np.log(scale) + _HALF_LOG_TWO_PI
        return log_prob

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        residual = self._residual(params, batch)
        weighted = weight * residual
        return {
            "mass": weight.sum(axis=0),
            "gram": kernels.weighted_gram(batch.X, weight),
            "cross": kernels.weighted_cross(batch.X, weighted),
            "rss": np.einsum("ik,ik->k", weighted, residual),
            "fitted": batch.y @ weight - weighted.sum(axis=0),
        }

    def fused_inputs(self, params: Params) -> tuple[Array, Array]:
        return params["coef"], params["scale"]

    def fused_stats(self, sums: Array, gram: Array, cross: Array) -> Stats:
        return {
            "mass": sums[0], "gram": gram, "cross": cross, "rss": sums[1], "fitted": sums[2]
        }  # fmt: skip

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """One conditional maximisation: coefficients given scales, then scales."""
        gram, cross = self.quadratic(params, stats)
        mask = self.penalized(params["coef"].shape[1])
        step = np.zeros_like(params["coef"])
        for k in np.flatnonzero(stats["mass"] > 0.0):
            step[k] = penalty.minimize_quadratic(gram[k], cross[k], params["coef"][k], mask)
        return self.stepped(params, stats, step)

    def quadratic(self, params: Params, stats: Stats) -> tuple[Array, Array]:
        variance = params["scale"] ** 2
        return stats["gram"] / variance[:, None, None], stats["cross"] / variance[:, None]

    def stepped(self, params: Params, stats: Stats, step: Array) -> Params:
        rss = (
            stats["rss"]
            - 2.0 * np.einsum("kp,kp->k", step, stats["cross"])
            + np.einsum("kp,kpq,kq->k", step, stats["gram"], step)
        )
        return {
            "coef": params["coef"] + step,
            "scale": self._scale(np.maximum(rss, 0.0), stats["mass"], params["scale"]),
        }

    def _scale(self, rss: Array, mass: Array, previous: Array) -> Array:
        if self.shared_scale:
            rss, mass = (np.full(rss.shape, part.sum()) for part in (rss, mass))
        filled = mass > 0.0
        scale = np.where(filled, np.sqrt(rss / np.where(filled, mass, 1.0)), previous)
        return np.maximum(scale, self.scale_floor)

    def pack(self, params: Params) -> Array:
        scale = params["scale"]
        if self.shared_scale:  # scales that differ, of a start, are pooled
            scale = np.sqrt(np.mean(scale**2, keepdims=True))
        return np.concatenate([params["coef"].ravel(), np.log(scale)])

    def unpack(self, vector: Array, like: Params) -> Params:
        n_experts, p = like["coef"].shape
        # The exponent is bounded so that a wild extrapolation stays a number (and is refused).
        scale = np.exp(np.clip(vector[n_experts * p :], -50.0, 50.0))
        return {
            "coef": vector[: n_experts * p].reshape(n_experts, p),
            "scale": np.maximum(np.broadcast_to(scale, (n_experts,)), self.scale_floor),
        }

    def score(self, params: Params, stats: Stats) -> Array:
        variance = params["scale"] ** 2
        log_scale = stats["rss"] / variance - stats["mass"]
        if self.shared_scale:
            log_scale = log_scale.sum(keepdims=True)
        return np.concatenate([(stats["cross"] / variance[:, None]).ravel(), log_scale])

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """In the mean and in the logarithm of the scale."""
        precision = params["scale"] ** -2
        residual = self._residual(params, batch)
        slope, square = residual * precision, residual**2 * precision
        flat = np.broadcast_to(precision, residual.shape)
        return Derivatives(
            (batch.X, np.ones((batch.n_rows, 1))),
            np.stack([slope, square - 1.0]),
            np.stack([[flat, 2.0 * slope], [2.0 * slope, 2.0 * square]]),
            (False, self.shared_scale),
        )

    def tie(self, params: Params, information: Array) -> Array:
        if not self.shared_scale:
            return information
        cut = len(information) - len(params["scale"])
        merge = np.eye(len(information), cut + 1)
        merge[cut:, cut] = 1.0
        tied: Array = merge.T @ information @ merge
        return tied

    def n_params(self, params: Params) -> int:
        return int(params["coef"].size) + (1 if self.shared_scale else len(params["scale"]))

    def n_params_each(self, params: Params) -> int:
        return int(params["coef"].shape[1]) + (0 if self.shared_scale else 1)

    def at_boundary(self, params: Params) -> Array:
        boundary: Array = params["scale"] <= self.scale_floor * (1.0 + 1e-9)
        return boundary

    def boundary_reason(self) -> str:
        return f"has its scale at the floor ({self.scale_floor:g} of the standard deviation of y)"

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        return super().raw(params, design, loc, scale) | {"scale": params["scale"] * scale}

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        return {**super().engine(raw, design, loc, scale), "scale": raw["scale"] / scale}

    def mean(self, params: Params, batch: Batch) -> Array:
        mean: Array = batch.X @ params["coef"].T
        return mean if batch.offset is None else mean + batch.offset[:, None]

    def variance(self, params: Params, batch: Batch) -> Array:
        return np.broadcast_to(params["scale"] ** 2, (batch.n_rows, len(params["scale"])))

    def cdf(self, params: Params, batch: Batch) -> Array:
        from scipy.special import ndtr

        cdf: Array = ndtr(self._residual(params, batch) / params["scale"])
        return cdf

    def sf(self, params: Params, batch: Batch) -> Array:
        """Survival function of each expert at ``batch.y``, (n, K), accurate in the upper tail."""
        from scipy.special import ndtr

        survival: Array = ndtr(-self._residual(params, batch) / params["scale"])
        return survival

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        from scipy.special import ndtri

        quantile: Array = self.mean(params, batch) + params["scale"] * ndtri(probability)
        return quantile

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        rows = np.arange(batch.n_rows)
        noise: Array = rng.standard_normal(batch.n_rows) * params["scale"][label]
        return self.mean(params, batch)[rows, label] + noise
