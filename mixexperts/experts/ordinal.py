"""Ordinal logistic experts: classes with an order (cumulative logits)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._classes import ClassExpert, codes
from mixexperts.experts._glm import _LARGEST, _NOTHING, _SEPARATION, _START_DAMPING
from mixexperts.experts.base import Derivatives, RowTerms
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty, Ridge

# Least gap between neighbouring thresholds: a class between has no more than a quarter of it.
_LEAST_GAP = 1e-8
# Share of the rows that starts spread evenly over the classes, so that each has a threshold.
_SPREAD = 0.02
# Newton steps of a start: of all rows together, and of each expert.
_POOLED_STEPS, _OWN_STEPS = 6, 4


@dataclass(frozen=True)
class Ordinal(ClassExpert):
    r"""Ordinal logistic experts for C ordered classes (proportional odds).

    .. math:: P(y \le c \mid x, k) = \frac{1}{1 + \exp(-(\theta_{kc} - \eta_k))}, \qquad
        \eta_k = \mathrm{offset} + \beta_k^\top x, \qquad c = 0, \ldots, C - 2

    with ascending thresholds :math:`\theta_{kc}`. The response holds the codes 0 to C - 1 of the
    classes in ascending order. A positive coefficient makes high classes more likely, as in
    statsmodels' ``OrderedModel``, R's ``polr`` and Stata's ``ologit``. Thresholds stand in place
    of an intercept.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features: 0 gives the same probabilities in all
        rows, 1 a linear predictor, 2 adds squares and products, and so on.
    n_classes : int or None, default=None
        Number C of classes. :class:`mixexperts.MoEClassifier` fills it in; without it the largest
        code of the rows that a start is made from tells it.

    Notes
    -----
    The log-likelihood of one expert is concave in thresholds and slopes (Burridge 1981). The
    update is one Newton step in them, shortened so that the thresholds stay in order.

    References
    ----------
    McCullagh, P. (1980). Regression models for ordinal data. Journal of the Royal Statistical
    Society B 42, 109-142.
    Burridge, J. (1981). A note on maximum likelihood estimation for regression models using
    grouped data. Journal of the Royal Statistical Society B 43, 41-45.
    """

    degree: int = 1
    n_classes: int | None = None

    name: ClassVar[str] = "ordinal"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "threshold")
    fit_intercept = False

    def __post_init__(self) -> None:
        if self.degree != 0:  # thresholds alone are a model
            self.check_terms()
        self.check_classes()

    has_row_terms: ClassVar[bool] = True

    @staticmethod
    def classes_of(params: Params) -> int:
        return int(params["threshold"].shape[1]) + 1

    def design_options(self) -> Mapping[str, Any]:
        """Centred features: the thresholds take up the shift."""
        return {"center": True}

    # --- probabilities ---------------------------------------------------------------------

    @staticmethod
    def _eta(params: Params, batch: Batch) -> Array:
        eta: Array = batch.X @ params["coef"].T
        return eta if batch.offset is None else eta + batch.offset[:, None]

    def _ends(self, params: Params, batch: Batch, code: Array) -> tuple[Array, Array, Array]:
        """Upper and lower threshold less eta, and their gap, (n, K), of each row's class."""
        threshold = params["threshold"]
        inf = np.full((len(threshold), 1), np.inf)
        ends = np.hstack([-inf, threshold, inf])
        gap = np.hstack([inf, np.diff(threshold, axis=1), inf])
        eta = self._eta(params, batch)
        return ends.T[code + 1] - eta, ends.T[code] - eta, gap.T[code]

    def log_prob(self, params: Params, batch: Batch) -> Array:
        code, known = codes(batch.y, self.classes_of(params))
        log_prob = _log_between(*self._ends(params, batch, code))
        if not known.all():  # no class has such a code
            log_prob[~known] = np.where(np.isnan(batch.y[~known]), np.nan, -np.inf)[:, None]
        return log_prob

    def log_class_proba(self, params: Params, batch: Batch, n_classes: int) -> Array:
        every = (np.full(batch.n_rows, c) for c in range(n_classes))
        return np.stack([_log_between(*self._ends(params, batch, c)) for c in every], axis=2)

    # --- EM --------------------------------------------------------------------------------

    def _slopes(self, params: Params, batch: Batch) -> tuple[Array, ...]:
        """Codes (n,), and (n, K): derivatives of the log probability in the upper and the lower
        end, the information about each from its own side, and what both share."""
        from scipy.special import expit

        code, _ = codes(batch.y, self.classes_of(params))
        upper, lower, gap = self._ends(params, batch, code)
        above, below = expit(-upper), expit(lower)
        with np.errstate(over="ignore"):
            shared = 1.0 / np.expm1(gap)  # zero at the ends of the scale
        return (
            code,
            above + shared,
            -below - shared,
            above * expit(upper),
            below * expit(-lower),
            shared * (1.0 + shared),
        )

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        """Gradient and information in thresholds, then slopes."""
        X = batch.X
        n_experts, p = params["coef"].shape
        free = params["threshold"].shape[1]
        code, up, down, at_upper, at_lower, shared = self._slopes(params, batch)

        def of_thresholds(upper: Array, lower: Array) -> Array:
            """Weighted row values at the threshold above the row's class, and that below."""
            rows = np.zeros((batch.n_rows, free + 2, n_experts))
            index = np.arange(batch.n_rows)
            rows[index, code + 1] = weight * upper
            rows[index, code] += weight * lower
            return rows[:, 1:-1]

        size = free + p
        cross = np.empty((n_experts, size))
        gram = np.empty((n_experts, size, size))
        cross[:, :free] = of_thresholds(up, down).sum(axis=0).T
        cross[:, free:] = kernels.weighted_cross(X, -weight * (up + down))
        mixed = of_thresholds(-at_upper, -at_lower)
        gram[:, free:, free:] = kernels.weighted_gram(X, weight * (at_upper + at_lower))
        block = np.tensordot(mixed, X, axes=(0, 0)).transpose(1, 0, 2)
        gram[:, :free, free:] = block
        gram[:, free:, :free] = block.transpose(0, 2, 1)
        own = of_thresholds(at_upper + shared, at_lower + shared).sum(axis=0).T
        gram[:, :free, :free] = own[:, :, None] * np.eye(free)
        inner = np.zeros((free + 1, n_experts))  # classes between two thresholds
        np.add.at(inner, code, weight * shared)
        for c in range(1, free):
            gram[:, c - 1, c] = gram[:, c, c - 1] = -inner[c]
        return {
            "mass": weight.sum(axis=0),
            "gram": gram,
            "cross": cross,
            "fitted": np.einsum("ik,ik->k", weight, self.mean(params, batch)),
        }

    def row_terms(self, params: Params, y: Array, eta: Array) -> RowTerms:
        """Beside the slope in eta, products of X with what eta and each threshold share."""
        threshold = params["threshold"]
        n_experts, free = threshold.shape
        code, known = codes(y, free + 1)
        inf = np.full((n_experts, 1), np.inf)
        ends = np.hstack([-inf, threshold, inf])
        gap = np.hstack([inf, np.diff(threshold, axis=1), inf])
        with np.errstate(over="ignore"):
            shared = (1.0 / np.expm1(gap))[:, code]  # zero at the ends of the scale
        soft_upper, above = _softplus(eta - ends[:, code + 1])
        soft_lower, below = _softplus(ends[:, code] - eta)
        log_f = np.log(-np.expm1(-gap))[:, code] - soft_upper - soft_lower
        at_upper, at_lower = above * (1.0 - above), below * (1.0 - below)
        up, down = above + shared, -below - shared
        both = shared * (1.0 + shared)
        # of each threshold: rows of the class below it, and of the class above it
        t = np.arange(free)[:, None]
        under, over = (code == t).astype(np.float64), (code == t + 1).astype(np.float64)

        def of_thresholds(upper: Array, lower: Array) -> Array:
            values: Array = upper[:, None] * under + lower[:, None] * over
            return values

        mixed = -of_thresholds(at_upper, at_lower)
        inner = both[:, None] * (code == np.arange(1, free)[:, None])
        passed: Array = np.sum([_softplus(eta - threshold[:, [c]])[1] for c in range(free)], axis=0)
        return RowTerms(
            np.where(known, log_f, -np.inf),
            np.concatenate([-(up + down)[:, None], mixed], axis=1).reshape(-1, eta.shape[1]),
            at_upper + at_lower,
            {
                "thresholds": of_thresholds(up, down),
                "own": of_thresholds(at_upper + both, at_lower + both),
                "inner": inner,
                "fitted": passed,  # the sum of the probabilities of lying above each threshold
            },
        )

    def term_stats(
        self, params: Params, mass: Array, gram: Array, cross: Array, sums: Stats
    ) -> Stats:
        n_experts, free = params["threshold"].shape
        p = gram.shape[-1]
        products = cross.reshape(n_experts, free + 1, p)
        full = np.zeros((n_experts, free + p, free + p))
        full[:, free:, free:] = gram
        full[:, :free, free:] = products[:, 1:]
        full[:, free:, :free] = products[:, 1:].transpose(0, 2, 1)
        t = np.arange(free)
        full[:, t, t] = sums["own"]
        full[:, t[:-1], t[1:]] = full[:, t[1:], t[:-1]] = -sums["inner"]
        slopes = np.concatenate([sums["thresholds"], products[:, 0]], axis=1)
        return {"mass": mass, "gram": full, "cross": slopes, "fitted": sums["fitted"]}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """One Newton step for each expert, shortened where it is long or thresholds close in."""
        threshold, coef = params["threshold"].copy(), params["coef"].copy()
        free, p = threshold.shape[1], coef.shape[1]
        mask = np.concatenate([np.zeros(free, dtype=bool), self.penalized(p)])
        for k in np.flatnonzero(stats["mass"] > 0.0):
            gram, cross = stats["gram"][k], stats["cross"][k]
            if penalty.is_null and np.trace(gram) < _NOTHING:
                continue
            at = np.concatenate([threshold[k], coef[k]])
            step = _newton(gram, cross, at, mask, free, penalty)
            step *= _share(step, gram, threshold[k])
            threshold[k] = _ascending(threshold[k] + step[:free])
            coef[k] += step[free:]
        return {"coef": coef, "threshold": threshold}

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Thresholds at the shares of the classes, then Newton steps, pulled to the pooled fit.

        The pull keeps a start finite where an expert's rows lack a class.
        """
        weight = batch.spread_units(resp * batch.weight[:, None])
        rows = batch.spread_units(batch.weight)
        n_classes, p = self.count(batch), batch.X.shape[1]
        code, _ = codes(batch.y, n_classes)
        mass = np.bincount(code, weights=rows, minlength=n_classes)
        share = (1.0 - _SPREAD) * mass / mass.sum() + _SPREAD / n_classes
        below = np.cumsum(share)[:-1]
        start = np.concatenate([np.log(below / (1.0 - below)), np.zeros(p)])
        middle = 0.0 if batch.offset is None else float(rows @ batch.offset / rows.sum())
        start[: n_classes - 1] += middle
        everything = np.ones(len(start), dtype=bool)

        def steps(base: Array, weight: Array, count: int) -> Array:
            at = np.tile(base, (weight.shape[1], 1))
            pulls = [Ridge(_START_DAMPING).scaled(float(m)) for m in weight.sum(axis=0)]
            for _ in range(count):
                stats = self.accumulate(_parts(at, n_classes), batch, weight)
                for k, pull in enumerate(pulls):
                    gram = stats["gram"][k]
                    step = pull.minimize_quadratic(
                        gram, stats["cross"][k], at[k] - base, everything
                    )
                    thresholds = at[k, : n_classes - 1]
                    at[k] += step * _share(step, gram, thresholds)
                    at[k, : n_classes - 1] = _ascending(thresholds)
            return at

        pooled = steps(start, rows[:, None], _POOLED_STEPS)[0]
        return _parts(steps(pooled, weight, _OWN_STEPS), n_classes)

    def pack(self, params: Params) -> Array:
        """Slopes, first thresholds, and logs of the gaps between thresholds."""
        threshold = params["threshold"]
        gaps = np.log(np.diff(threshold, axis=1))
        return np.concatenate([params["coef"].ravel(), threshold[:, 0], gaps.T.ravel()])

    def unpack(self, vector: Array, like: Params) -> Params:
        n_experts, p = like["coef"].shape
        coef, rest = np.split(vector, [n_experts * p])
        rest = rest.reshape(-1, n_experts).T
        # The exponent is bounded so that a wild extrapolation stays a number (and is refused).
        gaps = np.exp(np.clip(rest[:, 1:], np.log(_LEAST_GAP), 50.0))
        threshold = np.cumsum(np.hstack([rest[:, :1], gaps]), axis=1)
        return {"coef": coef.reshape(n_experts, p), "threshold": threshold}

    def score(self, params: Params, stats: Stats) -> Array:
        free = params["threshold"].shape[1]
        # A move of one threshold, of itself or by its gap, moves all above it.
        above = np.cumsum(stats["cross"][:, :free][:, ::-1], axis=1)[:, ::-1]
        gaps = np.diff(params["threshold"], axis=1) * above[:, 1:]
        slopes = stats["cross"][:, free:]
        return np.concatenate([slopes.ravel(), above[:, 0], gaps.T.ravel()])

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """In the linear predictor, the first threshold, and the logs of the gaps."""
        code, up, down, at_upper, at_lower, shared = self._slopes(params, batch)
        free = params["threshold"].shape[1]
        gaps = np.vstack([np.ones(len(params["coef"])), np.diff(params["threshold"], axis=1).T])
        # Upper and lower end of a row move with parameter t if it lies at or below them.
        t = np.arange(free)[:, None]
        moves_upper, moves_lower = (
            (inside & (t <= end))[:, :, None] * gaps[:, None]
            for end, inside in ((code, code < free), (code - 1, code > 0))
        )
        first = np.concatenate([-np.ones((1, *up.shape)), moves_upper])
        second = np.concatenate([-np.ones((1, *up.shape)), moves_lower])
        slope = first * up + second * down
        curve = (
            first[:, None] * first[None] * at_upper
            + second[:, None] * second[None] * at_lower
            + (first - second)[:, None] * (first - second)[None] * shared
        )
        # The gaps are exponentials: their second derivatives are their first ones.
        bent = np.arange(2, free + 1)
        curve[bent, bent] -= slope[bent]
        ones = np.ones((batch.n_rows, 1))
        return Derivatives((batch.X, *(ones,) * free), slope, curve, (False,) * (free + 1))

    def n_params(self, params: Params) -> int:
        return int(params["coef"].size + params["threshold"].size)

    def n_params_each(self, params: Params) -> int:
        return int(params["coef"].shape[1] + params["threshold"].shape[1])

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        free = params["threshold"].shape[1]
        gram = stats["gram"] if penalty.is_null else stats["gram"][:, :free, :free]
        gone = np.diff(params["threshold"], axis=1) < np.sqrt(_LEAST_GAP)
        smallest = np.linalg.eigvalsh(gram)[:, 0]
        separated: Array = (smallest < _SEPARATION) | gone.any(axis=1)
        return separated

    # --- the user's scale ----------------------------------------------------------------------

    def raw_template(self, n_experts: int, n_terms: int, n_columns: int) -> dict[str, Array]:
        n_classes = 2 if self.n_classes is None else int(self.n_classes)
        threshold = np.tile(np.arange(n_classes - 1.0), (n_experts, 1))
        return {"coef": np.zeros((n_experts, n_terms)), "threshold": threshold}

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        """``coef`` (K, J) and ``threshold`` (K, C - 1)."""
        _, coef = design.raw_coefficients(params["coef"])
        return {"coef": coef, "threshold": params["threshold"] - _at_zero(design, params["coef"])}

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        """Inverse of :meth:`raw`.

        Raises
        ------
        InvalidResponseError
            If thresholds do not ascend.
        """
        if not (np.diff(raw["threshold"], axis=1) > 0.0).all():
            raise InvalidResponseError(
                "thresholds must ascend from class to class; sort those of each expert"
            )
        coef = design.engine_coefficients(np.zeros(len(raw["coef"])), raw["coef"])
        return {"coef": coef, "threshold": raw["threshold"] + _at_zero(design, coef)}

    # --- starts and predictions ----------------------------------------------------------------

    def working_response(self, batch: Batch) -> Array:
        """The codes, as scores."""
        return batch.y

    def residual(self, params: Params, batch: Batch) -> Array:
        """Pearson residuals of the codes; a quarter is added to the variance."""
        centred = batch.y[:, None] - self.mean(params, batch)
        residual: Array = centred / np.sqrt(self.variance(params, batch) + 0.25)
        return residual

    def _cumulative(self, params: Params, batch: Batch, sign: float) -> Array:
        """``P(y <= c)`` (``sign`` 1) or ``P(y > c)`` (-1) of all classes, (n, K, C)."""
        from scipy.special import expit

        inside = params["threshold"][None] - self._eta(params, batch)[:, :, None]
        last = np.full((*inside.shape[:2], 1), np.inf)
        cumulative: Array = expit(sign * np.concatenate([inside, last], axis=2))
        return cumulative

    def cdf(self, params: Params, batch: Batch) -> Array:
        return self._at(batch.y, self._cumulative(params, batch, 1.0), 0.0)

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K), accurate in the upper tail."""
        return self._at(batch.y, self._cumulative(params, batch, -1.0), 1.0)

    @staticmethod
    def _at(y: Array, cumulative: Array, below: float) -> Array:
        most = cumulative.shape[2] - 1
        code = np.clip(np.floor(np.nan_to_num(y)), 0.0, most).astype(np.int64)
        value = np.take_along_axis(cumulative, code[:, None, None], axis=2)[:, :, 0]
        value = np.where((y < 0.0)[:, None], below, value)
        return np.where(np.isnan(y)[:, None], np.nan, value)

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Least class whose distribution function reaches the probability, (n, K)."""
        if probability >= 1.0:
            shape = (batch.n_rows, len(params["coef"]))
            return np.full(shape, float(self.classes_of(params) - 1))
        if probability > 0.5:
            short = self._cumulative(params, batch, -1.0) > 1.0 - probability
        else:
            short = self._cumulative(params, batch, 1.0) < probability
        quantile: Array = short.sum(axis=2).astype(float)
        return quantile


def _log_between(upper: Array, lower: Array, gap: Array) -> Array:
    """Log of ``expit(upper) - expit(lower)``, accurate where it is tiny."""
    ends = np.logaddexp(0.0, -upper) + np.logaddexp(0.0, lower)
    log_prob: Array = np.log(-np.expm1(-gap)) - ends
    return log_prob


def _softplus(x: Array) -> tuple[Array, Array]:
    """``log(1 + exp(x))`` and its derivative ``expit(x)``."""
    small = np.exp(-np.abs(x))
    share = 1.0 / (1.0 + small)
    soft: Array = np.maximum(x, 0.0) + np.log(1.0 + small)
    return soft, np.where(x >= 0.0, share, small * share)


def _ascending(threshold: Array) -> Array:
    """Thresholds with at least the least gap."""
    gaps = np.maximum(np.diff(threshold), _LEAST_GAP)
    return np.concatenate([threshold[:1], threshold[0] + np.cumsum(gaps)])


def _newton(
    gram: Array, cross: Array, at: Array, mask: Array, free: int, penalty: Penalty
) -> Array:
    """Newton step in thresholds, then slopes; gaps that are closed and would go on stay closed."""
    shut = np.diff(at[:free]) < 2.0 * _LEAST_GAP
    tied = np.zeros_like(shut)
    while True:
        # Thresholds with a closed gap between them move as one.
        group = np.concatenate([[0], np.cumsum(~tied)])
        index = np.concatenate([group, group[-1] + 1 + np.arange(len(at) - free)])
        merge = np.eye(index[-1] + 1)[index]
        kept = np.searchsorted(index, np.arange(index[-1] + 1))
        step: Array = merge @ penalty.minimize_quadratic(
            merge.T @ gram @ merge, merge.T @ cross, at[kept], mask[kept]
        )
        closing = shut & ~tied & (np.diff(step[:free]) < 0.0)
        if not closing.any():
            return step
        tied |= closing


def _parts(at: Array, n_classes: int) -> dict[str, Array]:
    return {"coef": at[:, n_classes - 1 :], "threshold": at[:, : n_classes - 1]}


def _share(step: Array, gram: Array, threshold: Array) -> float:
    """Share of a Newton step in thresholds and slopes that is taken.

    The logistic parts of the log-likelihood ask for ``log(1 + r) / r``, with r the largest change
    of a threshold less eta; that of eta is taken as a multiple of its root mean square, as in
    :func:`_glm.shortened`. Logs of the gaps between thresholds are barriers: ``1 / (1 + s)``, with
    s the largest relative loss of a gap, keeps them open (Nesterov 2004, section 4.1.5).
    """
    free = len(threshold)
    size = np.diagonal(gram)
    slopes = float(size[free:] @ step[free:] ** 2) / max(float(size[:free].sum()), _NOTHING)
    r = _LARGEST * np.sqrt(slopes) + float(np.abs(step[:free]).max())
    s = float((-np.diff(step[:free]) / np.diff(threshold)).max(initial=0.0))
    share = np.log1p(r) / r if r > 0.0 else 1.0
    return float(min(share, 1.0 / (1.0 + s)))


def _at_zero(design: DesignMap, coef: Array) -> Array:
    """What centring moves from the slopes to the thresholds: eta where all features are 0."""
    origin = design.transform(np.zeros((1, len(design.names))))
    shift: Array = (origin @ coef.T).T
    return shift
