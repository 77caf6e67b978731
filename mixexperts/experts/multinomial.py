"""Multinomial logistic experts: classes without an order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts._classes import ClassExpert, codes
from mixexperts.experts._glm import (
    _LARGEST,
    _NOTHING,
    _SEPARATION,
    _START_DAMPING,
    _START_STEPS,
)
from mixexperts.experts.base import Derivatives, RowTerms
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty, Ridge

# Rows taken at a time: what is made of them stays in the cache.
_ROWS = 4096
# Newton steps of the fit of all rows together that starts are pulled to.
_POOLED_STEPS = 6


@dataclass(frozen=True)
class Multinomial(ClassExpert):
    r"""Multinomial logistic experts for C classes without an order.

    .. math:: \log\frac{P(y = c \mid x, k)}{P(y = C - 1 \mid x, k)} =
        \mathrm{offset} + \beta_{0kc} + \beta_{kc}^\top x, \qquad c = 0, \ldots, C - 2

    The response holds the codes 0 to C - 1; the last class is the reference, whose coefficients
    are zero. An offset is added to the log odds of every class against the last one.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features: 0 gives constants, 1 logistic experts,
        2 adds squares and products, and so on.
    fit_intercept : bool, default=True
        Whether each expert has intercepts.
    n_classes : int or None, default=None
        Number C of classes. :class:`mixexperts.MoEClassifier` fills it in; without it the largest
        code of the rows that a start is made from tells it.

    Notes
    -----
    The update is one Newton step per expert, shortened where it is long. A penalty acts on the
    coefficients of all C classes, centred over the classes, so that it does not depend on which
    class is the reference; with two classes it is half of the penalty on a single slope.

    An expert whose rows lack a class, or whose features part the classes, has no finite maximum.
    The fit stands where the log-likelihood stopped rising, and the expert is marked as separated.

    An expert that does not depend on x, fitted twice, leaves a flat likelihood: two experts with
    the same gate slopes and different probabilities average to the same third one (Nguyen et al.
    2024).

    References
    ----------
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, 2nd edition. Chapman and
    Hall.
    Nguyen, H., Akbarian, P., Nguyen, T. and Ho, N. (2024). A general theory for softmax gating
    multinomial logistic mixture of experts. ICML.
    """

    degree: int = 1
    fit_intercept: bool = True
    n_classes: int | None = None

    name: ClassVar[str] = "multinomial"
    param_names: ClassVar[tuple[str, ...]] = ("coef",)
    nominal: ClassVar[bool] = True
    has_row_terms: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_terms()
        self.check_classes()

    @staticmethod
    def classes_of(params: Params) -> int:
        return int(params["coef"].shape[1]) + 1

    # --- two classes are binomial rows, and go through their compiled pass ----------------------

    @property
    def fused_code(self) -> int | None:  # type: ignore[override]
        """That of binomial experts where there are two classes."""
        return 2 if self.n_classes == 2 else None

    def fused_response(self, y: Array) -> tuple[Array, Array]:
        first = (y == 0.0).astype(np.float64)
        return first, np.ones_like(first)

    def fused_inputs(self, params: Params) -> tuple[Array, Array]:
        return params["coef"][:, 0], np.ones(len(params["coef"]))

    def fused_stats(self, sums: Array, gram: Array, cross: Array) -> Stats:
        return {
            "mass": sums[0],
            "gram": gram[:, None, None],
            "cross": cross[:, None],
            "fitted": sums[0] - sums[2],
        }

    # --- more classes have several predictors ---------------------------------------------

    def row_terms(self, params: Params, y: Array, eta: Array) -> RowTerms:
        n_experts, free, _ = params["coef"].shape
        first, second = np.tril_indices(free)
        log_proba = np.zeros((n_experts, free + 1, eta.shape[1]))
        log_proba[:, :free] = eta.reshape(n_experts, free, -1)
        log_proba -= log_proba.max(axis=1, keepdims=True)
        log_proba -= np.log(np.exp(log_proba).sum(axis=1, keepdims=True))
        code, known = codes(y, free + 1)
        log_f = np.take_along_axis(log_proba, code[None, None], axis=1)[:, 0]
        log_f = np.where(known, log_f, -np.inf)
        proba = np.exp(log_proba, out=log_proba)
        fitted = np.einsum("kcn,c->kn", proba, self.all_values(params))
        own = proba[:, :free]
        slope = (known & (code == np.arange(free)[:, None])) - own
        curve = -own[:, first] * own[:, second]
        curve[:, first == second] += own
        n = eta.shape[1]
        return RowTerms(log_f, slope.reshape(-1, n), curve.reshape(-1, n), {"fitted": fitted})

    def term_stats(
        self, params: Params, mass: Array, gram: Array, cross: Array, sums: Stats
    ) -> Stats:
        blocks = self._blocks(params, gram)
        return {"mass": mass, "gram": blocks, "cross": cross.reshape(params["coef"].shape), **sums}

    @staticmethod
    def _blocks(params: Params, half: Array) -> Array:
        """Grams of pairs of classes (K P, p, p) as (K, C - 1, C - 1, p, p)."""
        n_experts, free, p = params["coef"].shape
        first, second = np.tril_indices(free)
        gram = np.empty((n_experts, free, free, p, p))
        gram[:, first, second] = half.reshape(n_experts, len(first), p, p)
        gram[:, second, first] = gram[:, first, second]
        return gram

    # --- EM --------------------------------------------------------------------------------

    def log_class_proba(self, params: Params, batch: Batch, n_classes: int) -> Array:
        return _log_proba(params["coef"], batch.X, batch.offset)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        coef, X = params["coef"], batch.X
        n_experts, free, p = coef.shape
        first, second = np.tril_indices(free)
        code, known = codes(batch.y, free + 1)
        cross = np.zeros((n_experts * free, p))
        half = np.zeros((n_experts * len(first), p, p))
        fitted = np.zeros((n_experts, free + 1))
        for start in range(0, batch.n_rows, _ROWS):
            rows = slice(start, start + _ROWS)
            offset = None if batch.offset is None else batch.offset[rows]
            proba = np.exp(_log_proba(coef, X[rows], offset))
            weighted = weight[rows, :, None] * proba
            fitted += weighted.sum(axis=0)
            proba, weighted = proba[:, :, :free], weighted[:, :, :free]
            pairs = weighted[:, :, first] * proba[:, :, second]
            pairs *= -1.0
            pairs[:, :, first == second] += weighted
            half += kernels.many_grams(X[rows], pairs.reshape(len(pairs), -1))
            slope = np.negative(weighted)
            hit = known[rows] & (code[rows] < free)
            slope[hit, :, code[rows][hit]] += weight[rows][hit]
            cross += kernels.weighted_cross(X[rows], slope.reshape(len(slope), -1))
        return {
            "mass": weight.sum(axis=0),
            "gram": self._blocks(params, half),
            "cross": cross.reshape(coef.shape),
            "fitted": fitted @ self.all_values(params),
        }

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """One Newton step for each expert, shortened where it is long."""
        coef = params["coef"]
        step = np.zeros_like(coef)
        for k in np.flatnonzero(stats["mass"] > 0.0):
            gram, cross = stats["gram"][k], stats["cross"][k]
            if penalty.is_null and np.trace(_square(gram)) < _NOTHING:
                continue
            step[k] = _shortened(self._newton(gram, cross, coef[k], penalty), gram)
        return {"coef": coef + step}

    def _newton(self, gram: Array, cross: Array, coef: Array, penalty: Penalty) -> Array:
        """Newton step (C - 1, p) of one expert."""
        mask = self.penalized(coef.shape[1])
        if penalty.is_null:
            step = penalty.minimize_quadratic(
                _square(gram), cross.ravel(), coef.ravel(), np.tile(mask, len(coef))
            )
            return step.reshape(coef.shape)
        # Of all classes alike: both sides of the system sum to zero over them.
        contrast = np.vstack([np.eye(len(coef)), np.full(len(coef), -1.0)])
        whole = np.einsum("af,fgpq,bg->abpq", contrast, gram, contrast)
        step = penalty.minimize_quadratic(
            _square(whole),
            (contrast @ cross).ravel(),
            _centred(coef).ravel(),
            np.tile(mask, len(whole)),
        ).reshape(len(whole), -1)
        against: Array = step[:-1] - step[-1]
        return against

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Newton steps for all rows together, then for each expert, pulled to the pooled fit.

        The pull keeps a start finite where an expert's rows lack a class.
        """
        weight = batch.spread_units(resp * batch.weight[:, None])
        shape = (1, self.count(batch) - 1, batch.X.shape[1])
        everything = np.ones(shape[1] * shape[2], dtype=bool)
        rows = batch.spread_units(batch.weight)[:, None]

        def steps(base: Array, away: Array, weight: Array, count: int) -> Array:
            pulls = [Ridge(_START_DAMPING).scaled(float(mass)) for mass in weight.sum(axis=0)]
            for _ in range(count):
                stats = self.accumulate({"coef": base + away}, batch, weight)
                for k, pull in enumerate(pulls):
                    gram, cross = stats["gram"][k], stats["cross"][k]
                    step = pull.minimize_quadratic(
                        _square(gram), cross.ravel(), away[k].ravel(), everything
                    )
                    away[k] += _shortened(step.reshape(shape[1:]), gram)
            return base + away

        pooled = steps(np.zeros(shape), np.zeros(shape), rows, _POOLED_STEPS)
        away = np.zeros((weight.shape[1], *shape[1:]))
        return {"coef": steps(pooled, away, weight, _START_STEPS)}

    def pack(self, params: Params) -> Array:
        return params["coef"].transpose(1, 0, 2).ravel()

    def unpack(self, vector: Array, like: Params) -> Params:
        n_experts, free, p = like["coef"].shape
        return {"coef": vector.reshape(free, n_experts, p).transpose(1, 0, 2)}

    def score(self, params: Params, stats: Stats) -> Array:
        return self.pack({"coef": stats["cross"]})

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """In the log odds of each class against the last."""
        free = params["coef"].shape[1]
        proba = self.class_proba(params, batch)[:, :, :free].transpose(2, 0, 1)
        code, _ = codes(batch.y, free + 1)
        slope = (code == np.arange(free)[:, None])[:, :, None] - proba
        curve = -proba[:, None] * proba[None]
        curve[np.arange(free), np.arange(free)] += proba
        return Derivatives((batch.X,) * free, slope, curve, (False,) * free)

    def n_params(self, params: Params) -> int:
        return int(params["coef"].size)

    def n_params_each(self, params: Params) -> int:
        return int(params["coef"][0].size)

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        gram = stats["gram"]
        if not penalty.is_null:  # holds its own columns; the others may still run away
            free = ~self.penalized(gram.shape[-1])
            gram = gram[..., free, :][..., free]
        if not gram.shape[-1]:
            return np.zeros(len(gram), dtype=bool)
        return np.array([np.linalg.eigvalsh(_square(one))[0] < _SEPARATION for one in gram])

    # --- penalties, of all C classes alike ------------------------------------------------------

    def penalized_coef(self, params: Params) -> Array:
        """Coefficients of all classes, centred over them: (C K, p), class by class."""
        centred = _centred(params["coef"]).transpose(1, 0, 2)
        flat: Array = centred.reshape(-1, centred.shape[2])
        return flat

    def penalty_score(self, params: Params, gradient: Array) -> Array:
        n_experts, free, p = params["coef"].shape
        each = gradient.reshape(free + 1, n_experts, p)
        pull: Array = (each - each.mean(axis=0))[:-1].ravel()
        return pull

    def penalty_information(self, params: Params, diagonal: Array) -> Array:
        n_experts, free, p = params["coef"].shape
        centre = (np.eye(free + 1) - 1.0 / (free + 1))[:, :-1]
        blocks = np.einsum(
            "cf,ckp,cg->kpfg", centre, diagonal.reshape(free + 1, n_experts, p), centre
        )
        full = np.zeros((free, n_experts, p, free, n_experts, p))
        for k in range(n_experts):
            for j in range(p):
                full[:, k, j, :, k, j] = blocks[k, j]
        square: Array = full.reshape(free * n_experts * p, -1)
        return square

    # --- the user's scale ----------------------------------------------------------------------

    def raw_template(self, n_experts: int, n_terms: int, n_columns: int) -> dict[str, Array]:
        shape = n_experts, 2 if self.n_classes is None else int(self.n_classes)
        return {"intercept": np.zeros(shape), "coef": np.zeros((*shape, n_terms))}

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        """``intercept`` (K, C) and ``coef`` (K, C, J), zero for the last class."""
        coef = _with_reference(params["coef"])
        intercept, slopes = design.raw_coefficients(coef.reshape(-1, coef.shape[2]))
        return {
            "intercept": intercept.reshape(coef.shape[:2]),
            "coef": slopes.reshape(*coef.shape[:2], -1),
        }

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        """Inverse of :meth:`raw`; any class may be the reference there."""
        slopes = raw["coef"]
        flat = slopes.reshape(-1, slopes.shape[2])
        coef = design.engine_coefficients(raw["intercept"].ravel(), flat)
        coef = coef.reshape(*slopes.shape[:2], -1)
        return {"coef": coef[:, :-1] - coef[:, -1:]}

    # --- starts --------------------------------------------------------------------------------

    def working_response(self, batch: Batch) -> Array:
        """Membership in each class, (n, C): codes without an order have no distances."""
        code, _ = codes(batch.y, self.count(batch))
        member: Array = np.eye(self.count(batch))[code]
        return member[:, 0] if self.count(batch) == 2 else member

    def _lacks(self, method: str) -> UnsupportedCombinationError:
        return UnsupportedCombinationError(
            f"expert {self.name!r} has no {method}(): its classes have no order, and no mean, "
            "spread or quantiles; use probabilities, the mode, the highest-density region or "
            "samples, or expert='ordinal' for ordered classes"
        )


def _log_proba(coef: Array, X: Array, offset: Array | None) -> Array:
    """Log probabilities (n, K, C) at coefficients (K, C - 1, p)."""
    n_experts, free, p = coef.shape
    logits = np.zeros((len(X), n_experts, free + 1))
    logits[:, :, :free] = (X @ coef.reshape(-1, p).T).reshape(len(X), n_experts, free)
    if offset is not None:
        logits[:, :, :free] += offset[:, None, None]
    logits -= logits.max(axis=2, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=2, keepdims=True))
    return logits


def _with_reference(coef: Array) -> Array:
    """Coefficients (..., C - 1, p) with the zeros of the last class, (..., C, p)."""
    return np.concatenate([coef, np.zeros_like(coef[..., :1, :])], axis=-2)


def _centred(coef: Array) -> Array:
    """Coefficients of all classes that sum to zero over them, (..., C, p)."""
    full = _with_reference(coef)
    centred: Array = full - full.mean(axis=-2, keepdims=True)
    return centred


def _square(blocks: Array) -> Array:
    """Blocks (a, b, p, q) as one matrix (a p, b q)."""
    a, b, p, q = blocks.shape
    return blocks.transpose(0, 2, 1, 3).reshape(a * p, b * q)


def _shortened(step: Array, gram: Array) -> Array:
    """A Newton step (C - 1, p) times ``log(1 + r) / r``; see :func:`_glm.shortened`.

    The third derivative of the log of a sum of exponentials is at most the second times the
    largest difference between two changes of the logits (Sun and Tran-Dinh 2019, example 2). In
    r the changes of all classes add up in squares.
    """
    own = np.arange(len(step))
    squares = np.diagonal(gram[own, own], axis1=1, axis2=2)
    held = squares[:, :1].sum(axis=1) > 0.0
    if not held.any():
        return step
    change = np.einsum("cp,cp->c", squares[held], step[held] ** 2) / squares[held, 0]
    r = _LARGEST * float(np.sqrt(change.sum()))
    return step * (np.log1p(r) / r) if r > 0.0 else step
