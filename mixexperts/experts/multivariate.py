"""Gaussian experts of several responses, some of which may be missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._several import filled, missing_patterns, offset_columns
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.experts.gaussian import Gaussian
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import NoPenalty, Penalty

Covariance = Literal["full", "diag", "tied"]

_LOG_TWO_PI = math.log(2.0 * math.pi)
# Bound of exponents in unpack, so that a wild extrapolation stays a number (and is refused).
_MAX_LOG = 50.0
# Smallest floor whose eigenvalues are seen apart from rounding, and how near it is at the floor.
_MIN_FLOOR = 1e-14
_AT_FLOOR = 1.0 + 1e-2


@dataclass(frozen=True)
class MultivariateGaussian(Expert):
    r"""Gaussian experts of d >= 2 responses, ``y | x, k ~ N(intercept_k + coef_k @ x, S_k)``.

    All responses have the same terms. A missing response (NaN) is left to the likelihood: the
    row counts by the density of what was observed of it, which is right where values are
    missing at random, that is, where the chance to be missing depends on what was observed only.
    A row without any response is refused.

    ``expert="gaussian"`` with a response of several columns is this family.

    Parameters
    ----------
    covariance : {"full", "diag", "tied"}, default="full"
        Covariances ``S_k`` (d, d) of the responses given the features: any for each expert;
        diagonal, so that the responses are independent given the features and the expert; one
        matrix for all experts. A multiple of the identity is not offered, since it would depend
        on the units of the responses.
    degree : int, default=1
        Total degree of the polynomial means, as for :class:`Gaussian`.
    fit_intercept : bool, default=True
        Whether the means have intercepts.
    covariance_floor : float, default=1e-12
        Smallest variance of an expert along any direction of the responses divided by their
        standard deviations, at least 1e-14. The likelihood has no maximum: an expert on few
        rows can shrink its covariance for ever. A fit with a covariance at the floor is flagged
        ``degenerate``; it is also where one response is a linear combination of the others.

    Notes
    -----
    Without missing values the M-step is multivariate least squares, which does not depend on
    the covariance. With them, a row adds the mean and the covariance of the missing part given
    the observed part to its expert's sums (the E-step, by patterns of missing values).

    References
    ----------
    Deleforge, A., Forbes, F. and Horaud, R. (2015). High-dimensional regression with Gaussian
    mixtures and partially-latent response variables. Statistics and Computing 25, 893-911.
    Little, R. J. A. and Rubin, D. B. (2019). Statistical Analysis with Missing Data, 3rd
    edition, section 11.2. Wiley.
    Meng, X.-L. and Rubin, D. B. (1993). Maximum likelihood estimation via the ECM algorithm.
    Biometrika 80, 267-278.
    """

    covariance: Covariance = "full"
    degree: int = 1
    fit_intercept: bool = True
    covariance_floor: float = 1e-12

    name: ClassVar[str] = "multivariate_gaussian"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "covariance")
    affine_response: ClassVar[bool] = True
    multivariate: ClassVar[bool] = True
    allows_missing: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_terms()
        known = get_args(Covariance)
        if self.covariance not in known:
            raise ValueError(
                f"covariance={self.covariance!r} is not known; known: "
                + ", ".join(map(repr, known))
            )
        floor = self.covariance_floor
        if isinstance(floor, bool) or not isinstance(floor, int | float | np.number):
            raise TypeError(f"covariance_floor must be a number, got {floor!r}")
        if not _MIN_FLOOR <= floor < 1.0:
            raise ValueError(f"covariance_floor must lie in [{_MIN_FLOOR:g}, 1), got {floor!r}")

    # --- response --------------------------------------------------------------------------

    def takes_columns(self, n_columns: int) -> bool:
        return n_columns >= 2

    def correlates(self) -> bool:
        return self.covariance != "diag"

    def check_response(self, y: Array) -> None:
        """Two columns or more of real numbers; NaN where a response is missing, never all."""
        self.check_rows(y)
        lost = np.isnan(y).all(axis=0)
        if lost.any():
            raise InvalidResponseError(
                f"column {int(lost.argmax())} of y holds no value; leave that response out"
            )

    def check_rows(self, y: Array) -> None:
        if y.ndim != 2:
            raise InvalidResponseError(
                f"{self.name} experts take a response of several columns, got shape {y.shape}; "
                "use expert='gaussian' for one"
            )
        if np.isinf(y).any():
            row = int(np.flatnonzero(np.isinf(y).any(axis=1))[0])
            raise InvalidResponseError(f"y contains infinity in row {row}; correct or drop it")
        empty = np.isnan(y).all(axis=1)
        if empty.any():
            row = int(np.flatnonzero(empty)[0])
            raise InvalidResponseError(
                f"all responses are missing (NaN) in row {row} of y, which says nothing about the "
                "experts; drop such rows"
            )

    def response_at(self, y: Array, value: Array) -> Array:
        return np.where(np.isnan(y), np.nan, value)

    # --- density ---------------------------------------------------------------------------

    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, (n, K, d)."""
        coef = params["coef"]
        mean: Array = (batch.X @ coef.reshape(-1, coef.shape[2]).T).reshape(-1, *coef.shape[:2])
        return mean if batch.offset is None else mean + offset_columns(batch)[:, None]

    def _residual(self, params: Params, batch: Batch, k: int, rows: Any, seen: Array) -> Array:
        """Residuals of some rows and responses under expert k."""
        coef = params["coef"][k][seen]
        residual: Array = batch.y[rows][:, seen] - batch.X[rows] @ coef.T
        if batch.offset is not None:
            residual -= offset_columns(batch)[rows]
        return residual

    def log_prob(self, params: Params, batch: Batch) -> Array:
        """Log density of what was observed of each row, (n, K)."""
        n_experts = len(params["coef"])
        out = np.empty((batch.n_rows, n_experts), np.result_type(batch.y, params["coef"]))
        for rows, seen in missing_patterns(batch.y):
            factor = np.linalg.cholesky(_block(params["covariance"], seen, seen))
            whitening = np.linalg.inv(factor)
            top = -np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
            top -= 0.5 * len(seen) * _LOG_TWO_PI
            for k in range(n_experts):
                white = self._residual(params, batch, k, rows, seen) @ whitening[k].T
                out[rows, k] = top[k] - 0.5 * np.einsum("ij,ij->i", white, white)
        return out

    # --- estimation ------------------------------------------------------------------------

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Weighted least squares from zero coefficients and the overall covariance.

        Missing responses are replaced by the regression on the observed ones, in a few passes.
        """
        n_experts, d = resp.shape[1], batch.y.shape[1]
        start: Params = {
            "coef": np.zeros((n_experts, d, batch.X.shape[1])),
            "covariance": np.tile(np.eye(d), (n_experts, 1, 1)),
        }
        weight = batch.spread_units(resp * batch.weight[:, None])
        # Twice: the second pass takes the products of residuals at the fitted coefficients, free
        # of the cancellation that the first one suffers from a large common mean.
        for _ in range(2 if not np.isnan(batch.y).any() else 5):
            start = self.update(start, self.accumulate(start, batch, weight), NoPenalty())
        return start

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        """Masses (K,), Grams (K, p, p), and sums of the completed residuals.

        ``cross`` (K, d, p) with the design, ``rss`` (K, d, d) with each other, plus the covariance
        of what was missing given what was observed.
        """
        n_experts, d, p = params["coef"].shape
        dtype = np.result_type(batch.y, params["coef"])
        cross, rss = np.zeros((n_experts, d, p), dtype), np.zeros((n_experts, d, d), dtype)
        for rows, seen in missing_patterns(batch.y):
            fill, left = _completion(params["covariance"], seen)
            X = batch.X[rows]
            for k in range(n_experts):
                residual = self._residual(params, batch, k, rows, seen)
                if len(seen) < d:
                    residual = residual @ fill[k].T
                weighted = weight[rows, k, None] * residual
                cross[k] += weighted.T @ X
                rss[k] += weighted.T @ residual + weight[rows, k].sum() * left[k]
        return {
            "mass": weight.sum(axis=0),
            "gram": kernels.weighted_gram(batch.X, weight),
            "cross": cross,
            "rss": rss,
            "fitted": np.einsum("ik,ik->k", weight, self.mean(params, batch)[:, :, 0]),
        }

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """Multivariate least squares, then covariances; with a penalty response by response."""
        coef, gram, cross = params["coef"], stats["gram"], stats["cross"]
        mask = self.penalized(coef.shape[2])
        step = np.zeros_like(coef)
        for k in np.flatnonzero(stats["mass"] > 0.0):
            # Free coefficients of one response do not depend on those of the others.
            inverse = None if penalty.is_null else np.linalg.inv(params["covariance"][k])
            for j in range(coef.shape[1]):
                curve, pull = 1.0, cross[k, j]
                if inverse is not None:
                    curve, pull = inverse[j, j], inverse[j] @ (cross[k] - step[k] @ gram[k])
                step[k, j] = penalty.minimize_quadratic(curve * gram[k], pull, coef[k, j], mask)
        moved = step @ cross.transpose(0, 2, 1)
        rss = stats["rss"] - moved - moved.transpose(0, 2, 1)
        rss = rss + step @ gram @ step.transpose(0, 2, 1)
        return {
            "coef": coef + step,
            "covariance": self._covariance(rss, stats["mass"], params["covariance"]),
        }

    def _covariance(self, rss: Array, mass: Array, previous: Array) -> Array:
        rss = 0.5 * (rss + rss.transpose(0, 2, 1))
        if self.covariance == "tied":
            rss, mass = rss.sum(axis=0, keepdims=True), mass.sum(keepdims=True)
        some = mass > 0.0
        covariance = rss / np.where(some, mass, 1.0)[:, None, None]
        covariance = np.where(some[:, None, None], covariance, previous[: len(some)])
        return self._inside(covariance, len(previous))

    def _inside(self, covariance: Array, n_experts: int) -> Array:
        """Covariances (K, d, d) of the kind asked for, lifted to the floor; one alone is tied."""
        d = covariance.shape[1]
        if self.covariance == "diag":
            variance = np.maximum(np.diagonal(covariance, axis1=1, axis2=2), self.covariance_floor)
            diagonal: Array = variance[:, :, None] * np.eye(d, dtype=covariance.dtype)
            return diagonal
        if np.isfinite(covariance).all():
            values, vectors = np.linalg.eigh(covariance)
            for k in np.flatnonzero(values[:, 0] < self.covariance_floor):
                lifted = np.maximum(values[k], self.covariance_floor)
                covariance[k] = (vectors[k] * lifted) @ vectors[k].T
        return np.tile(covariance, (n_experts // len(covariance), 1, 1))

    # --- one vector ------------------------------------------------------------------------

    def _entries(self, d: int) -> tuple[Array, Array]:
        """Rows and columns of the free entries of the Cholesky factor, in the order of pack."""
        if self.covariance == "diag":
            return np.arange(d), np.arange(d)
        return np.tril_indices(d)

    def pack(self, params: Params) -> Array:
        """Coefficients response by response; log diagonal and lower half of Cholesky factors."""
        covariance = params["covariance"]
        if self.covariance == "tied":  # matrices that differ, of a start, are pooled
            covariance = covariance.mean(axis=0, keepdims=True)
        factor = np.linalg.cholesky(covariance)
        rows, columns = self._entries(covariance.shape[1])
        entries = factor[:, rows, columns]
        entries[:, rows == columns] = np.log(entries[:, rows == columns])
        return np.concatenate([params["coef"].transpose(1, 0, 2).ravel(), entries.T.ravel()])

    def unpack(self, vector: Array, like: Params) -> Params:
        n_experts, d, p = like["coef"].shape
        cut = n_experts * d * p
        rows, columns = self._entries(d)
        entries = vector[cut:].reshape(len(rows), -1).T.copy()
        on = rows == columns
        entries[:, on] = np.exp(np.clip(entries[:, on], -_MAX_LOG, _MAX_LOG))
        factor = np.zeros((len(entries), d, d), vector.dtype)
        factor[:, rows, columns] = entries
        coef = vector[:cut].reshape(d, n_experts, p).transpose(1, 0, 2)
        covariance = self._inside(factor @ factor.transpose(0, 2, 1), n_experts)
        return {"coef": np.ascontiguousarray(coef), "covariance": covariance}

    def score(self, params: Params, stats: Stats) -> Array:
        covariance = params["covariance"]
        precision = np.linalg.inv(covariance)
        factor = np.linalg.cholesky(covariance)
        excess = stats["rss"] - stats["mass"][:, None, None] * covariance
        slope = precision @ excess @ precision @ factor
        rows, columns = self._entries(covariance.shape[1])
        entries = slope[:, rows, columns]
        on = rows == columns
        entries[:, on] *= factor[:, rows[on], rows[on]]
        if self.covariance == "tied":
            entries = entries.sum(axis=0, keepdims=True)
        coef = (precision @ stats["cross"]).transpose(1, 0, 2)
        return np.concatenate([coef.ravel(), entries.T.ravel()])

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """In the d means and the free entries of the Cholesky factor of the covariance."""
        n, (n_experts, d, _) = batch.n_rows, params["coef"].shape
        first, second = self._turns(params["covariance"])
        m = first.shape[1]
        slope, curve = np.empty((d + m, n, n_experts)), np.empty((d + m, d + m, n, n_experts))
        for rows, seen in missing_patterns(batch.y):
            # Precision of the observed part, with zeros elsewhere, and it times the residuals.
            inner = np.linalg.inv(_block(params["covariance"], seen, seen))
            precision = np.zeros((n_experts, d, d))
            precision[:, seen[:, None], seen] = inner
            pull = np.zeros((len(batch.y[rows]), n_experts, d))
            for k in range(n_experts):
                pull[:, k, seen] = self._residual(params, batch, k, rows, seen) @ inner[k]
            along = np.einsum("kaij,nkj->nkai", first, pull)
            back = np.einsum("kij,nkaj->nkai", precision, along)
            product = precision[:, None] @ first
            trace = np.einsum("kaii->ka", product)
            pairs = np.einsum("kaij,kbji->kab", product, product)
            bent = np.einsum("kij,kabji->kab", precision, second)
            square = np.einsum("nkai,nkbi->nkab", along, back)
            square -= 0.5 * np.einsum("kabij,nki,nkj->nkab", second, pull, pull, optimize=True)
            square += 0.5 * (bent - pairs)
            slope[:d, rows] = pull.transpose(2, 0, 1)
            slope[d:, rows] = (
                0.5 * (np.einsum("nkai,nki->nka", along, pull) - trace)
            ).transpose(2, 0, 1)  # fmt: skip
            curve[:d, :d, rows] = precision.transpose(1, 2, 0)[:, :, None]
            curve[:d, d:, rows] = back.transpose(3, 2, 0, 1)
            curve[d:, :d, rows] = back.transpose(2, 3, 0, 1)
            curve[d:, d:, rows] = square.transpose(2, 3, 0, 1)
        one = np.ones((n, 1))
        tied = self.covariance == "tied"
        return Derivatives(
            (batch.X,) * d + (one,) * m, slope, curve, (False,) * d + (tied,) * m
        )  # fmt: skip

    def _turns(self, covariance: Array) -> tuple[Array, Array]:
        """First (K, m, d, d) and second (K, m, m, d, d) derivatives of the covariances."""
        factor = np.linalg.cholesky(covariance)
        n_experts, d, _ = factor.shape
        rows, columns = self._entries(d)
        m, a = len(rows), np.arange(len(rows))
        moved = np.zeros((n_experts, m, d, d))
        moved[:, a, rows, columns] = np.where(rows == columns, factor[:, rows, columns], 1.0)
        half = moved @ factor[:, None].transpose(0, 1, 3, 2)
        second = moved[:, :, None] @ moved[:, None].transpose(0, 1, 2, 4, 3)
        for i in np.flatnonzero(rows == columns):  # of the exponential
            second[:, i, i] += half[:, i]
        return half + half.transpose(0, 1, 3, 2), second + second.transpose(0, 1, 2, 4, 3)

    def _n_free(self, params: Params) -> int:
        return len(self._entries(params["coef"].shape[1])[0])

    def n_params(self, params: Params) -> int:
        matrices = 1 if self.covariance == "tied" else len(params["coef"])
        return int(params["coef"].size) + matrices * self._n_free(params)

    def n_params_each(self, params: Params) -> int:
        own = 0 if self.covariance == "tied" else self._n_free(params)
        return int(params["coef"][0].size) + own

    def at_boundary(self, params: Params) -> Array:
        least = np.linalg.eigvalsh(params["covariance"])[:, 0]
        boundary: Array = least <= self.covariance_floor * _AT_FLOOR
        return boundary

    def boundary_reason(self) -> str:
        return (
            "has its covariance at the floor (a variance of at most "
            f"{self.covariance_floor:g} along some direction of the standardised responses)"
        )

    def penalized_coef(self, params: Params) -> Array:
        """The coefficients that a penalty sees, (d K, p), in the order of :meth:`pack`."""
        coef = params["coef"]
        return coef.transpose(1, 0, 2).reshape(-1, coef.shape[2])

    # --- the user's scale ------------------------------------------------------------------

    def raw(self, params: Params, design: DesignMap, loc: Any, scale: Any) -> dict[str, Array]:
        """``intercept`` (K, d), ``coef`` (K, d, J) and ``covariance`` (K, d, d)."""
        n_experts, d, p = params["coef"].shape
        intercept, coef = design.raw_coefficients(params["coef"].reshape(-1, p))
        intercept = intercept.reshape(n_experts, d)
        return {
            "intercept": intercept * scale + loc if design.intercept else intercept,
            "coef": coef.reshape(n_experts, d, -1) * np.reshape(scale, (-1, 1)),
            "covariance": params["covariance"] * np.outer(scale, scale),
        }

    def engine(self, raw: Mapping[str, Array], design: DesignMap, loc: Any, scale: Any) -> Params:
        n_experts, d = raw["intercept"].shape
        intercept = (raw["intercept"] - loc) / scale
        coef = raw["coef"] / np.reshape(scale, (-1, 1))
        engine = design.engine_coefficients(intercept.ravel(), coef.reshape(n_experts * d, -1))
        covariance = raw["covariance"] / np.outer(scale, scale)
        covariance = 0.5 * (covariance + covariance.transpose(0, 2, 1))
        return {
            "coef": engine.reshape(n_experts, d, -1),
            "covariance": self._inside(covariance, n_experts),
        }

    def raw_template(self, n_experts: int, n_terms: int, n_columns: int) -> dict[str, Array]:
        return {
            "intercept": np.zeros((n_experts, n_columns)),
            "coef": np.zeros((n_experts, n_columns, n_terms)),
            "covariance": np.tile(np.eye(n_columns), (n_experts, 1, 1)),
        }

    def table_rows(
        self, raw: Mapping[str, Array], responses: tuple[str, ...]
    ) -> dict[tuple[str, ...], Array]:
        """Variances and covariances."""
        rows, columns = self._entries(len(responses))
        return {
            ("var", responses[i]) if i == j else ("cov", responses[j], responses[i]): (
                raw["covariance"][:, i, j]
            )
            for i, j in zip(rows, columns, strict=True)
        }

    # --- starts ----------------------------------------------------------------------------

    def working_response(self, batch: Batch) -> Array:
        """The responses less the offset, (n, d); missing ones are at the mean of the others."""
        response = batch.y if batch.offset is None else batch.y - offset_columns(batch)
        return filled(response, batch.spread_units(batch.weight))

    def residual(self, params: Params, batch: Batch) -> Array:
        """Residuals of each expert, (n, K, d); zero where the response is missing."""
        lost = np.isnan(batch.y)[:, None]
        return np.where(lost, 0.0, batch.y[:, None] - self.mean(params, batch))

    def distance(self, params: Params, batch: Batch) -> Array:
        """Mean squared residual of the observed responses, (n, K)."""
        seen = np.maximum((~np.isnan(batch.y)).sum(axis=1, keepdims=True), 1)
        distance: Array = (self.residual(params, batch) ** 2).sum(axis=2) / seen
        return distance

    # --- predictions -----------------------------------------------------------------------

    def variance(self, params: Params, batch: Batch) -> Array:
        """Variances of the responses, (n, K, d)."""
        variance = np.diagonal(params["covariance"], axis1=1, axis2=2)
        return np.broadcast_to(variance, (batch.n_rows, *variance.shape))

    def covariance_within(self, params: Params, batch: Batch) -> Array:
        covariance = params["covariance"]
        return np.broadcast_to(covariance, (batch.n_rows, *covariance.shape))

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        """Responses (n, d), none of them missing."""
        mean = self.mean(params, batch)[np.arange(batch.n_rows), label]
        factor = np.linalg.cholesky(params["covariance"])
        noise = rng.standard_normal(mean.shape)
        drawn: Array = mean + np.einsum("nij,nj->ni", factor[label], noise)
        return drawn

    def marginal(self, params: Params, response: int) -> tuple[Expert, Params]:
        family = Gaussian(degree=self.degree, fit_intercept=self.fit_intercept)
        scale = np.sqrt(params["covariance"][:, response, response])
        return family, {"coef": params["coef"][:, response], "scale": scale}


def _block(covariance: Array, rows: Array, columns: Array) -> Array:
    block: Array = covariance[:, rows[:, None], columns]
    return block


def _completion(covariance: Array, seen: Array) -> tuple[Array, Array]:
    """What completes a row of which ``seen`` was observed, for each expert.

    Matrices (K, d, o) that give the expected residuals of all responses from those observed,
    and covariances (K, d, d) of the responses given these, zero where one of two was observed.
    """
    n_experts, d, _ = covariance.shape
    left = np.zeros_like(covariance)
    fill = np.tile(np.eye(d, dtype=covariance.dtype)[:, seen], (n_experts, 1, 1))
    lost = np.setdiff1d(np.arange(d), seen)
    if lost.size:
        both = _block(covariance, seen, lost)
        slope = np.linalg.solve(_block(covariance, seen, seen), both)
        fill[:, lost] = slope.transpose(0, 2, 1)
        left[:, lost[:, None], lost] = (
            _block(covariance, lost, lost) - both.transpose(0, 2, 1) @ slope
        )
    return fill, left
