"""Gaussian gates: a normal density of the features for each expert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats, root_mean_square, weighted_mean
from mixexperts._design import DesignMap
from mixexperts.gates._whitening import bounded, inverse, largest, whiten
from mixexperts.gates.base import Gate
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty

Covariance = Literal["full", "diag", "tied", "spherical"]

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
# Smallest weight: an expert that lost all its rows keeps a finite log weight.
_MIN_WEIGHT = 1e-20
# Mixing weights are asked for this many standard deviations away at most, where squares are finite.
_FAR = 1e140
# Bound of exponents in unpack, so that a wild extrapolation stays a number (and is refused).
_MAX_LOG = 50.0
# Smallest floor whose eigenvalues are seen apart from rounding, and how near it is at the floor.
_MIN_FLOOR = 1e-12
_AT_FLOOR = 1.0 - 1e-3


@dataclass(frozen=True)
class Gaussian(Gate):
    r"""Gaussian gate, ``g_k(x) = w_k N(x; m_k, S_k) / sum_l w_l N(x; m_l, S_l)``.

    Each expert has a weight and a normal density of the gate's features, and the fit maximises
    the likelihood of features and response together, ``p(x, y) = sum_k w_k N(x; m_k, S_k)
    f_k(y | x)``. The M-step is then in closed form, and the borders between experts are
    quadrics instead of planes; but the features' distribution is part of the model, and a bad
    model of it harms the experts.

    Parameters
    ----------
    covariance : {"full", "diag", "tied", "spherical"}, default="full"
        Covariances ``S_k``: any for each expert; diagonal; one matrix for all experts; a
        multiple of the identity for each expert, in the units of the features as given.
        ``"full"`` and ``"tied"`` do not depend on the units or on a rotation of the features,
        ``"diag"`` does not depend on the units, ``"spherical"`` depends on both.
    covariance_floor : float, default=1e-6
        Smallest variance of an expert along any direction of the standardised features (of any
        feature with ``"diag"``), at least 1e-12. The joint likelihood has no maximum: an expert
        on rows with equal features can shrink its covariance for ever. A fit with a covariance
        at the floor is flagged ``degenerate``.

    Notes
    -----
    The log-likelihood, AIC, BIC and ICL of a fit are those of (x, y). They compare Gaussian
    gates over the same features, not a Gaussian gate with a softmax gate; the log densities
    of ``score_samples``, which are of y given x, do both.

    There are no Newton steps for this gate: ``tol`` is on the gain of EM's next step alone.

    With equal covariances the mixing weights are those of a softmax gate that is linear in x.

    References
    ----------
    Xu, L., Jordan, M. I. and Hinton, G. E. (1995). An alternative model for mixtures of
    experts. Advances in Neural Information Processing Systems 7, 633-640.
    Deleforge, A., Forbes, F. and Horaud, R. (2015). High-dimensional regression with Gaussian
    mixtures and partially-latent response variables. Statistics and Computing 25, 893-911.
    Fraley, C. and Raftery, A. E. (2007). Bayesian regularization for normal mixture estimation
    and model-based clustering. Journal of Classification 24, 155-181.
    Pourahmadi, M. (1999). Joint mean-covariance models with applications to longitudinal data:
    unconstrained parameterisation. Biometrika 86, 677-690.
    """

    covariance: Covariance = "full"
    covariance_floor: float = 1e-6

    name: ClassVar[str] = "gaussian"
    objective: ClassVar[Literal["conditional", "joint"]] = "joint"
    fused_code: ClassVar[int | None] = 2
    # The density of the features has no intercept column.
    fit_intercept = False

    def __post_init__(self) -> None:
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

    @property
    def _crossed(self) -> bool:
        """Whether covariances between features are free."""
        return self.covariance in ("full", "tied")

    @property
    def _tied(self) -> bool:
        return self.covariance == "tied"

    @property
    def shared_raw(self) -> frozenset[str]:  # type: ignore[override]
        """The covariance matrix, if it is tied."""
        return frozenset({"gate_covariances"} if self._tied else ())

    # --- columns ---------------------------------------------------------------------------

    def design_options(self) -> Mapping[str, Any]:
        return {
            "center": True,
            # Columns that are nearly collinear; others keep their axes in any case.
            "orthogonalize": self._crossed,
            "common_scale": self.covariance == "spherical",
        }

    def design_fault(self, design: DesignMap) -> str | None:
        if not design.names:
            return (
                "gate='gaussian' models the density of the gate's features, but there are none; "
                "name at least one column in gate_features (in a formula, a term of the gate)"
            )
        advice = "leave them out of gate_features (in a formula, of the gate's terms)"
        if design.constant:
            return (
                "gate='gaussian' needs features that vary; constant among the gate's are "
                f"{_listed(design.constant)}: {advice}"
            )
        if design.dependent and self._crossed:
            return (
                f"gate='gaussian' with covariance={self.covariance!r} needs features with a "
                "covariance matrix that is not singular; linear combinations of the gate's other "
                f"columns are {_listed(design.dependent)}: {advice}, give more rows if there are "
                "as many columns, or use covariance='diag'"
            )
        return None

    # --- density ---------------------------------------------------------------------------

    def _white(self, params: Params, Z: Array, k: int) -> tuple[Array, Array]:
        """Residuals of expert k (u, q), and the same in its own standard deviations."""
        residual, whitening = Z - params["mean"][k], params["whitening"][k]
        return residual, residual @ whitening.T if self._crossed else residual * whitening

    def _diagonal(self, params: Params) -> Array:
        """Diagonals of the whitening matrices, (K, q)."""
        whitening = params["whitening"]
        return np.diagonal(whitening, axis1=1, axis2=2) if self._crossed else whitening

    def _constant(self, params: Params) -> Array:
        """Log of weight times the density at the mean, (K,)."""
        diagonal = self._diagonal(params)
        q = diagonal.shape[1]
        log_top = np.log(diagonal).sum(axis=1) - q * _HALF_LOG_TWO_PI
        constant: Array = params["log_weight"] + log_top
        return constant

    def _scores(self, params: Params, Z: Array) -> Array:
        constant = self._constant(params)
        scores = np.empty((len(Z), len(constant)), dtype=np.result_type(Z, constant))
        for k, top in enumerate(constant):
            white = self._white(params, Z, k)[1]
            scores[:, k] = top - 0.5 * np.einsum("ij,ij->i", white, white)
        return scores

    def log_score(self, params: Params, batch: Batch) -> Array:
        """Log of weight times density of the features, (u, K)."""
        return self._scores(params, batch.Z)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        return kernels.log_softmax(self._scores(params, np.clip(batch.Z, -_FAR, _FAR)))

    def sample(self, params: Params, label: Array, rng: np.random.Generator) -> Array:
        """Features (u, q) of units from the experts that ``label`` (u,) names."""
        noise = rng.standard_normal((len(label), params["mean"].shape[1]))
        spread = inverse(self._matrices(params))
        drawn: Array = params["mean"][label] + np.einsum("ipq,iq->ip", spread[label], noise)
        return drawn

    def _matrices(self, params: Params) -> Array:
        """Whitening matrices (K, q, q), also where only diagonals (K, q) are kept."""
        whitening = params["whitening"]
        return whitening if self._crossed else whitening[:, :, None] * np.eye(whitening.shape[1])

    def fused_inputs(self, params: Params) -> Array:
        """Rows (K, 1 + q (q + 3) / 2): c, then b_a and A[a, 0..a] for each a.

        The score of the compiled pass is ``c - |u|^2 / 2`` with ``u = A z - b``.
        """
        whitening = self._matrices(params)
        n_experts, q = params["mean"].shape
        rows = np.empty((n_experts, 1 + q * (q + 3) // 2))
        rows[:, 0] = self._constant(params)
        at = 1
        for a in range(q):
            own = whitening[:, a, : a + 1]
            rows[:, at] = np.einsum("kb,kb->k", own, params["mean"][:, : a + 1])
            rows[:, at + 1 : at + a + 2] = own
            at += a + 2
        return rows

    def fused_stats(
        self, params: Params, sums: Array, gradient: Array, information: Array
    ) -> Stats:
        """From moments of u: residuals in each expert's own standard deviations lose no digits."""
        spread = inverse(self._matrices(params))
        first = np.einsum("kpq,kq->kp", spread, gradient)
        second = spread @ information @ spread.transpose(0, 2, 1)
        if not self._crossed:
            second = np.diagonal(second, axis1=1, axis2=2)
            second = second.sum(axis=1) if self.covariance == "spherical" else second
        return {"mass": sums[0], "first": first, "second": second}

    # --- estimation ------------------------------------------------------------------------

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Weighted means and covariances, these shrunk so that no expert starts singular.

        An expert's scatter is joined by ``q + 2`` rows of the overall one, made smaller by the
        K-th part of the volume, as in Fraley and Raftery (2007).
        """
        n_experts, q = resp.shape[1], batch.Z.shape[1]
        centre = weighted_mean(batch.Z, batch.weight)
        means = np.tile(centre, (n_experts, 1))
        start = self._params(np.zeros(n_experts), means, self._unit(n_experts, q))
        weight = resp * batch.weight[:, None]
        # Twice: the second pass takes scatter at the means, free of the cancellation that a
        # tight cluster far from the centre leaves in the first.
        for _ in range(2):
            stats = self.accumulate(start, batch, weight)
            start = self._updated(start, stats, self._prior(batch, centre, n_experts))
        return start

    def _prior(self, batch: Batch, centre: Array, n_experts: int) -> tuple[float, Array]:
        """Rows, and their mean scatter, that shrink the covariances of a start."""
        q = batch.Z.shape[1]
        residual = batch.Z - centre
        if self._crossed:
            whole = (residual * batch.weight[:, None]).T @ residual / batch.weight.sum()
        else:
            whole = root_mean_square(residual, batch.weight) ** 2
            if self.covariance == "spherical":
                whole = whole.sum()
        return q + 2.0, whole / n_experts ** (2.0 / q)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        """Mass (K,), and sums of residuals from the current means and of their products."""
        n_experts, q = params["mean"].shape
        dtype = np.result_type(batch.Z, params["mean"])
        shape = {"diag": (q,), "spherical": ()}.get(self.covariance, (q, q))
        first = np.empty((n_experts, q), dtype)
        second = np.empty((n_experts, *shape), dtype)
        for k in range(n_experts):
            residual = batch.Z - params["mean"][k]
            weighted = residual * weight[:, k, None]
            first[k] = weighted.sum(axis=0)
            if self._crossed:
                second[k] = weighted.T @ residual
            else:
                squares = np.einsum("ij,ij->j", weighted, residual)
                second[k] = squares if self.covariance == "diag" else squares.sum()
        return {"mass": weight.sum(axis=0), "first": first, "second": second}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """The maximum of the expected log-likelihood, in closed form; it takes no penalty."""
        return self._updated(params, stats, None)

    def _updated(
        self, params: Params, stats: Stats, prior: tuple[float, Array] | None
    ) -> dict[str, Array]:
        mass, first, second = stats["mass"], stats["first"], stats["second"]
        filled = mass > _MIN_WEIGHT * mass.sum()
        count = np.where(filled, mass, 1.0)
        step = np.where(filled[:, None], first / count[:, None], 0.0)
        if self._crossed:
            scatter = second - step[:, :, None] * first[:, None, :]
        elif self.covariance == "diag":
            scatter = second - step * first
        else:
            scatter = second - (step * first).sum(axis=1)
        rows, target = (0.0, 0.0) if prior is None else prior
        if self._tied:
            total = scatter[filled].sum(axis=0) + rows * target
            covariance = np.broadcast_to(total / (mass[filled].sum() + rows), scatter.shape)
        else:
            deep = (...,) + (None,) * (scatter.ndim - 1)
            covariance = (scatter + rows * target) / (count + rows)[deep]
        if self.covariance == "spherical":
            covariance = covariance / first.shape[1]
        weight = np.maximum(mass / mass.sum(), _MIN_WEIGHT)
        image = self._params(np.log(weight / weight.sum()), params["mean"] + step, covariance)
        if prior is None and not filled.all():  # an expert without rows stays as it is
            image["whitening"] = np.where(
                (filled | self._tied).reshape(-1, *[1] * (image["whitening"].ndim - 1)),
                image["whitening"],
                params["whitening"],
            )
        return image

    def _unit(self, n_experts: int, q: int) -> Array:
        """Unit covariances, as :meth:`_params` takes them."""
        if self._crossed:
            return np.tile(np.eye(q), (n_experts, 1, 1))
        return np.ones((n_experts, q) if self.covariance == "diag" else n_experts)

    def _params(self, log_weight: Array, mean: Array, covariance: Array) -> dict[str, Array]:
        """Parameters with covariances lifted to the floor.

        They come as (K, q, q), the same for all if tied, as (K, q) if diagonal, (K,) if spherical.
        """
        n_experts, q = mean.shape
        if self._crossed:
            own = covariance[:1] if self._tied else covariance
            whitening = whiten(own, self.covariance_floor)
            whitening = np.tile(whitening, (n_experts // len(own), 1, 1))
        else:
            variance = np.maximum(covariance, self.covariance_floor).reshape(n_experts, -1)
            whitening = np.tile(1.0 / np.sqrt(variance), q // variance.shape[1])
        return {"log_weight": log_weight, "mean": mean, "whitening": whitening}

    def at_boundary(self, params: Params) -> Array:
        whitening = params["whitening"]
        size = largest(whitening) if self._crossed else whitening.max(axis=1)
        boundary: Array = size >= _AT_FLOOR / math.sqrt(self.covariance_floor)
        return boundary

    def boundary_reason(self) -> str:
        return (
            f"has a variance of the gate's features at the floor ({self.covariance_floor:g} of the "
            "overall variance)"
        )

    def rows_needed(self, params: Params) -> int:
        """Two more than the rows on which the covariance of an expert is singular."""
        if self._tied:
            return 0
        return 2 + (params["mean"].shape[1] if self.covariance == "full" else 1)

    # --- free parameters ---------------------------------------------------------------------

    # With A the whitening of an expert, A = D U: D holds its diagonal, U is unit lower
    # triangular. D are the standard deviations of each feature given those before it, inverted,
    # and U the coefficients of these regressions (Pourahmadi 1999): both have sizes of order one
    # whatever the spread of the expert.

    def pack(self, params: Params) -> Array:
        """Log weights against the last, means, log of D, and U, expert by expert."""
        log_weight, diagonal = params["log_weight"], self._diagonal(params)
        if self._tied:
            diagonal = diagonal[:1]
        if self.covariance == "spherical":
            diagonal = diagonal[:, :1]
        parts = [log_weight[:-1] - log_weight[-1], params["mean"].ravel(), np.log(diagonal).ravel()]
        if self._crossed:
            whitening = params["whitening"][: len(diagonal)]
            below = np.tril_indices(whitening.shape[1], -1)
            parts.append((whitening / diagonal[:, :, None])[:, below[0], below[1]].ravel())
        return np.concatenate(parts)

    def unpack(self, vector: Array, like: Params) -> Params:
        n_experts, q = like["mean"].shape
        own = 1 if self._tied else n_experts
        cuts = np.cumsum(
            [n_experts - 1, n_experts * q, own * (1 if self.covariance == "spherical" else q)]
        )
        logits, mean, log_diagonal, lower = np.split(vector, cuts)
        diagonal = np.exp(np.clip(log_diagonal, -_MAX_LOG, _MAX_LOG)).reshape(own, -1)
        limit = 1.0 / math.sqrt(self.covariance_floor)
        if self._crossed:
            whitening = np.tile(np.eye(q), (own, 1, 1))
            below = np.tril_indices(q, -1)
            whitening[:, below[0], below[1]] = lower.reshape(own, -1)
            whitening = bounded(whitening * diagonal[:, :, None], limit)
            whitening = np.tile(whitening, (n_experts // own, 1, 1))
        else:
            whitening = np.tile(np.minimum(diagonal, limit), q // diagonal.shape[1])
        return {
            "log_weight": kernels.log_softmax(np.append(logits, 0.0)[None, :])[0],
            "mean": mean.reshape(n_experts, q),
            "whitening": whitening,
        }

    def score(self, params: Params, stats: Stats) -> Array:
        mass, first, second = stats["mass"], stats["first"], stats["second"]
        whitening, diagonal = params["whitening"], self._diagonal(params)
        log_weight = mass - mass.sum() * np.exp(params["log_weight"])
        if self._crossed:
            mean = np.einsum("kpq,kpr,kr->kq", whitening, whitening, first)
        else:
            mean = diagonal**2 * first
        parts = [log_weight[:-1], mean.ravel()]
        if self.covariance == "spherical":
            parts.append(mass * diagonal.shape[1] - diagonal[:, 0] ** 2 * second)
        elif self.covariance == "diag":
            parts.append((mass[:, None] - diagonal**2 * second).ravel())
        else:
            turned = whitening @ second
            log_diagonal = mass[:, None] - np.einsum("kpq,kpq->kp", turned, whitening)
            below = np.tril_indices(whitening.shape[1], -1)
            lower = -(diagonal[:, :, None] * turned)[:, below[0], below[1]]
            if self._tied:
                log_diagonal, lower = log_diagonal.sum(axis=0), lower.sum(axis=0)
            parts += [log_diagonal.ravel(), lower.ravel()]
        return np.concatenate(parts)

    def permute(self, params: Params, order: Array) -> Params:
        return {name: values[order] for name, values in params.items()}

    def n_params(self, params: Params) -> int:
        n_experts, q = params["mean"].shape
        each = {"full": q * (q + 1) // 2, "diag": q, "spherical": 1, "tied": 0}[self.covariance]
        shared = q * (q + 1) // 2 if self._tied else 0
        return int(n_experts - 1 + n_experts * (q + each) + shared)

    # --- the user's scale ----------------------------------------------------------------------

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        """``gate_weights`` (K,), ``gate_means`` (K, d) and ``gate_covariances``.

        Covariances have the shapes of scikit-learn's ``GaussianMixture``: (K, d, d), (d, d) if
        tied, (K, d) if diagonal, (K,) if spherical.
        """
        back = np.linalg.inv(design.linear())
        if self._crossed:
            own = params["whitening"][: 1 if self._tied else None]
            spread = np.einsum("qd,kqp->kdp", back, inverse(own))
            covariance = spread @ spread.transpose(0, 2, 1)
        else:
            covariance = (design.scale / params["whitening"]) ** 2
        if self.covariance == "spherical":
            covariance = covariance[:, 0]
        return {
            "gate_weights": np.exp(params["log_weight"]),
            "gate_means": params["mean"] @ back + design.center,
            "gate_covariances": covariance[0] if self._tied else covariance,
        }

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        weight = raw["gate_weights"]
        if not (weight > 0).all() or abs(weight.sum() - 1.0) > 1e-6:
            raise ValueError(f"init['gate_weights'] must be positive and sum to one, got {weight}")
        linear, covariance = design.linear(), raw["gate_covariances"]
        if self._crossed:
            square = np.broadcast_to(covariance, (len(weight), *covariance.shape[-2:]))
            skew = np.abs(square - square.transpose(0, 2, 1)).max()
            valid = skew <= 1e-8 * np.abs(square).max() and np.linalg.eigvalsh(square).min() > 0
            covariance = linear.T @ square @ linear
        else:
            valid = covariance.min() > 0
            scale = design.scale if self.covariance == "diag" else design.scale[0]
            covariance = covariance / scale**2
        if not valid:
            what = "positive definite matrices" if self._crossed else "positive variances"
            raise ValueError(
                f"init['gate_covariances'] must hold {what} (covariance={self.covariance!r})"
            )
        mean = (raw["gate_means"] - design.center) @ linear
        return self._params(np.log(weight / weight.sum()), mean, covariance)

    def neutral_raw(self, n_experts: int, design: DesignMap) -> dict[str, Array]:
        """Every expert sees the features' overall mean and spread."""
        q = len(design.names)
        equal = np.full(n_experts, -math.log(n_experts))
        unit = self._unit(n_experts, q)
        return self.raw(self._params(equal, np.zeros((n_experts, q)), unit), design)

    def reads(self, other: Gate) -> bool:
        return isinstance(other, Gaussian) and other.covariance == self.covariance

    def own_rows(self, raw: Mapping[str, Array], design: DesignMap) -> dict[str, Array]:
        """Weight, means, variances and covariances, by names such as ``cov(x1, x2)``."""
        names, covariance = design.names, raw["gate_covariances"]
        weight = raw["gate_weights"]
        rows = {"weight": weight}
        rows |= {f"mean({x})": raw["gate_means"][:, j] for j, x in enumerate(names)}
        if self.covariance == "spherical":
            return rows | {"var": covariance}
        if self.covariance == "diag":
            return rows | {f"var({x})": covariance[:, j] for j, x in enumerate(names)}
        square = np.broadcast_to(covariance, (len(weight), len(names), len(names)))
        rows |= {f"var({x})": square[:, j, j] for j, x in enumerate(names)}
        rows |= {
            f"cov({x}, {names[j]})": square[:, i, j]
            for j in range(len(names))
            for i, x in enumerate(names[:j])
        }
        return rows


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 10} more" * (len(names) > 10)
    return ", ".join(map(repr, names[:10])) + more
