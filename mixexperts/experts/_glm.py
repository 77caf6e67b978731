"""What generalised linear experts of a discrete response share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._links import Link, check_link, kept_positive
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty, Ridge, solve_symmetric

# Pull of the experts of a start towards the fit of all rows together, per row of an expert.
_START_DAMPING = 0.01
_START_STEPS = 4
# Largest change of eta over the rows in units of its root mean square, for shortening a step.
_LARGEST = 2.5
# Information at the edge of the floats, whose inverse would overflow: there is no step left.
_NOTHING = 1e-290
# Information about an expert, per direction of its standardised design, below which the
# direction is not identified. A row with an event weighs about one; a converged separated
# expert has some 1e-8.
_SEPARATION = 1e-3


class GLM(Expert):
    """Experts with a linear predictor ``eta = offset + x @ coef``.

    A family is four elementwise functions of its natural parameter, which is eta with the
    canonical link: :meth:`inverse_link`, :meth:`density`, :meth:`moments` and :meth:`nearest`.
    """

    param_names: ClassVar[tuple[str, ...]] = ("coef",)
    discrete: ClassVar[bool] = True
    has_derivatives: ClassVar[bool] = True

    #: Links by name, the canonical one first.
    links: ClassVar[Mapping[str, Link | None]] = {}

    def __post_init__(self) -> None:
        self.check_terms()
        check_link(self.name, getattr(self, "link", None), tuple(self.links))

    @property
    def other_link(self) -> Link | None:
        """The link, if it is not the canonical one."""
        return self.links[getattr(self, "link")]  # noqa: B009

    def update_rises(self) -> bool:
        return self.other_link is None

    # --- the family ------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def inverse_link(eta: Array) -> Array:
        """Mean (of one trial) at the natural parameter, (n, K)."""

    @staticmethod
    @abstractmethod
    def density(y: Array, eta: Array) -> tuple[Array, Array]:
        """Log probability of y, constants included, and the mean (of one trial), (n, K)."""

    @staticmethod
    @abstractmethod
    def moments(y: Array, mean: Array) -> tuple[Array, Array]:
        """Derivative of the log probability in the natural parameter, and information, (n, K)."""

    @staticmethod
    @abstractmethod
    def nearest(y: Array) -> tuple[Array, Array]:
        """The natural parameter (n,) a row alone asks for, kept finite, and information there."""

    # --- EM --------------------------------------------------------------------------------

    def _eta(self, params: Params, batch: Batch) -> Array:
        eta: Array = batch.X @ params["coef"].T
        if batch.offset is not None:
            eta += batch.offset[:, None]
        return eta

    def _natural(self, params: Params, batch: Batch) -> Array:
        """Natural parameters (n, K)."""
        eta, link = self._eta(params, batch), self.other_link
        return eta if link is None else link.own(eta)[0]

    def log_prob(self, params: Params, batch: Batch) -> Array:
        return self.density(batch.y, self._natural(params, batch))[0]

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        eta, link = self._eta(params, batch), self.other_link
        if link is None:
            mean = self.inverse_link(eta)
            slope, curve = self.moments(batch.y, mean)
        else:
            natural, first, _ = link.own(eta)
            mean = self.inverse_link(natural)
            slope, curve = self.moments(batch.y, mean)
            slope, curve = slope * first, curve * first**2
        return {
            "mass": weight.sum(axis=0),
            "gram": kernels.weighted_gram(batch.X, weight * curve),
            "cross": kernels.weighted_cross(batch.X, weight * slope),
            "fitted": np.einsum("ik,ik->k", weight, mean),
        }

    def fused_inputs(self, params: Params) -> tuple[Array, Array]:
        return params["coef"], np.ones(len(params["coef"]))

    def fused_stats(self, sums: Array, gram: Array, cross: Array) -> Stats:
        return {"mass": sums[0], "gram": gram, "cross": cross, "fitted": sums[2]}

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """In eta; with the canonical link the information is the same, observed or expected."""
        eta, link = self._eta(params, batch), self.other_link
        if link is None:
            slope, curve = self.moments(batch.y, self.inverse_link(eta))
        else:
            natural, first, second = link.own(eta)
            slope, curve = self.moments(batch.y, self.inverse_link(natural))
            slope, curve = slope * first, curve * first**2 - slope * second
        return Derivatives((batch.X,), slope[None], curve[None, None], (False,))

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """A scoring step for each expert, with the canonical link shortened where it is long."""
        coef = params["coef"]
        mask = self.penalized(coef.shape[1])
        step = np.zeros_like(coef)
        for k in np.flatnonzero(stats["mass"] > 0.0):
            gram, cross = stats["gram"][k], stats["cross"][k]
            if penalty.is_null and np.trace(gram) < _NOTHING:
                continue
            step[k] = penalty.minimize_quadratic(gram, cross, coef[k], mask)
            if self.other_link is None:
                step[k] = shortened(step[k], gram)
        return self.stepped(params, stats, step)

    def steepness(self, params: Params) -> Array | None:
        """Third derivatives over second ones in eta (K,), where steps are shortened; or None."""
        return np.ones(len(params["coef"])) if self.other_link is None else None

    def quadratic(self, params: Params, stats: Stats) -> tuple[Array, Array]:
        return stats["gram"], stats["cross"]

    def stepped(self, params: Params, stats: Stats, step: Array) -> Params:
        return {"coef": params["coef"] + step}

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Least squares on the scale of eta, then Newton steps, pulled to the pooled fit.

        The pull keeps a start finite where an expert's rows hold no event, or nothing else.
        """
        weight = batch.spread_units(resp * batch.weight[:, None])
        eta, curve = self._wanted(batch.y)
        wanted, link = eta, self.other_link
        eta = eta if batch.offset is None else eta - batch.offset
        rows = curve * batch.spread_units(batch.weight)
        pooled = solve_symmetric(
            kernels.weighted_gram(batch.X, rows[:, None])[0], batch.X.T @ (rows * eta)
        )
        gram = kernels.weighted_gram(batch.X, weight * curve[:, None])
        cross = kernels.weighted_cross(
            batch.X, weight * (curve * (eta - batch.X @ pooled))[:, None]
        )
        away = np.zeros(cross.shape)
        everything: Array = np.ones(batch.X.shape[1], dtype=bool)
        pulls = [Ridge(_START_DAMPING).scaled(float(mass)) for mass in weight.sum(axis=0)]
        for k, pull in enumerate(pulls):
            away[k] = pull.minimize_quadratic(gram[k], cross[k], away[k], everything)
        coef = kept_positive(link, None, pooled + away, batch, wanted)
        for _ in range(_START_STEPS):
            stats, away = self.accumulate({"coef": coef}, batch, weight), coef - pooled
            for k, pull in enumerate(pulls):
                gram_k, cross_k = stats["gram"][k], stats["cross"][k]
                step = pull.minimize_quadratic(gram_k, cross_k, away[k], everything)
                away[k] += shortened(step, gram_k) if link is None else step
            coef = kept_positive(link, coef, pooled + away, batch, wanted)
        return {"coef": coef}

    def _wanted(self, y: Array) -> tuple[Array, Array]:
        """The eta (n,) that a row alone asks for, and the information about it there."""
        natural, curve = self.nearest(y)
        link = self.other_link
        if link is None:
            return natural, curve
        eta = link.eta(natural)
        return eta, curve * link.own(eta)[1] ** 2

    def pack(self, params: Params) -> Array:
        return params["coef"].ravel()

    def unpack(self, vector: Array, like: Params) -> Params:
        return {"coef": vector.reshape(like["coef"].shape)}

    def score(self, params: Params, stats: Stats) -> Array:
        score: Array = stats["cross"].ravel()
        return score

    def n_params(self, params: Params) -> int:
        return int(params["coef"].size)

    def n_params_each(self, params: Params) -> int:
        return int(params["coef"].shape[1])

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        gram = stats["gram"]
        if not penalty.is_null:  # holds its own columns; the others may still run away
            free = ~self.penalized(gram.shape[1])
            gram = gram[:, free][:, :, free]
        if not gram.shape[1]:
            return np.zeros(len(gram), dtype=bool)
        separated: Array = np.linalg.eigvalsh(gram)[:, 0] < _SEPARATION
        return separated

    # --- starts ----------------------------------------------------------------------------

    def working_response(self, batch: Batch) -> Array:
        eta, _ = self._wanted(batch.y)
        return eta if batch.offset is None else eta - batch.offset

    def residual(self, params: Params, batch: Batch) -> Array:
        """Pearson residuals; a quarter is added to the variance, for means next to nothing."""
        mean = self.mean(params, batch)
        counts = batch.y if batch.y.ndim == 1 else batch.y[:, 0]
        residual: Array = (counts[:, None] - mean) / np.sqrt(self.variance(params, batch) + 0.25)
        return residual

    def distance(self, params: Params, batch: Batch) -> Array:
        return -self.log_prob(params, batch)


def shortened(step: Array, gram: Array) -> Array:
    """A Newton step times :func:`shortening`."""
    factor = shortening(step, gram)
    return step if factor == 1.0 else step * factor


def shortening(step: Array, gram: Array) -> float:
    """``log(1 + r) / r``, with r the largest change of eta that a Newton step makes.

    Of a log-likelihood whose third derivative in eta is at most its second, as here, the
    factor keeps the step from overshooting (Sun and Tran-Dinh 2019), and goes to one as the
    steps become short. Sums over rows do not tell the largest change. It is taken as a multiple
    of the root mean square that the columns would make if none made up for another: means over
    the rows weighted by their information, of which the first column, the intercept or one of
    mean square one, holds the sum.

    References
    ----------
    Sun, T. and Tran-Dinh, Q. (2019). Generalized self-concordant functions: a recipe for
    Newton-type methods. Mathematical Programming 178, 145-213.
    """
    squares = np.diagonal(gram)
    if not squares[:1].sum() > 0.0:
        return 1.0
    r = _LARGEST * float(np.sqrt(squares @ step**2 / squares[0]))
    return float(np.log1p(r) / r) if r > 0.0 else 1.0


def first_row(bad: Array) -> int:
    """First row with an entry marked, of (n,) or (n, d)."""
    return int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])


def one_column(y: Array, name: str) -> None:
    """Refuse a response of several columns.

    Raises
    ------
    InvalidResponseError
        If y is not of shape (n,).
    """
    if y.ndim != 1:
        raise InvalidResponseError(f"{name} experts take one column as y, got shape {y.shape}")
