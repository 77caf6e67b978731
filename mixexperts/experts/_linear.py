"""What families of one linear predictor share, beside scales and shapes of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.experts._glm import shortened
from mixexperts.experts._shape import Shape as Shape
from mixexperts.experts.base import Derivatives, Expert, RowTerms
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty, Ridge, solve_symmetric

# Pull of the experts of a start towards the fit of all rows together, per row of an expert.
_START_DAMPING = 0.01
_START_STEPS = 6
_SEPARATION = 1e-3  # as for counts: see _glm
_NOTHING = 1e-290
# Longest step of a shape's logarithm in one update.
_LONGEST = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a pass needs of each row under each expert; arrays of one shape.

    Attributes
    ----------
    log_f : ndarray of shape (n, K) or (K, n)
        Log density.
    mean : ndarray of shape (n, K) or (K, n)
        Mean, or where there is none another location: experts are put in order by it.
    slopes : tuple of 1 + S ndarrays of shape (n, K) or (K, n)
        Derivatives of the log density in the linear predictor and in the free shapes t.
    weights : tuple of 1 + S ndarrays of shape (n, K) or (K, n)
        Curvatures >= 0 that the update divides by: expected or observed information, or that of
        a minorising function.
    """

    log_f: Array
    mean: Array
    slopes: tuple[Array, ...]
    weights: tuple[Array, ...]


class LinearExpert(Expert):
    """Experts with a linear predictor ``eta = offset + x @ coef`` and S scalar shapes each.

    A family states its :attr:`shapes` and is a few elementwise functions of the response ``y``,
    ``eta`` and the shapes (keyword arguments by name), arrays that broadcast against each other:
    y may come as (n, 1) with eta (n, K) and shapes (K,), or as (1, n) with (K, n) and (K, 1). A
    response of c columns comes with its columns first, (c, n, 1) or (c, 1, n). Needed are
    :meth:`terms`, :meth:`nearest`, :meth:`start_shapes`, :meth:`mean_at`, :meth:`draw`, and
    ``check_response``; :meth:`curves` gives Newton steps and standard errors; :meth:`variance_at`,
    :meth:`cdf_at`, :meth:`sf_at`, :meth:`quantile_at` give predictive distributions.
    """

    #: Shapes of each expert, in the order in which the parameters are packed.
    shapes: ClassVar[tuple[Shape, ...]] = ()
    has_row_terms: ClassVar[bool] = True
    #: Some response inside the support, at which functions are numbers.
    inner: ClassVar[float] = 0.5
    #: Whether long Newton steps of the coefficients must be shortened: the third derivative of the
    #: log density in eta is about as large as the second. Where :attr:`Terms.weights` are those of
    #: a minorising quadratic, full steps are right.
    shortens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_terms()
        for shape in self.shapes:
            shape.check_fixed(getattr(self, shape.name, None))

    # --- the family ------------------------------------------------------------------------

    @abstractmethod
    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        """Log density, mean, first derivatives and curvatures, elementwise."""

    def log_density(self, y: Array, eta: Array, **shapes: Array) -> Array:
        """Log density alone; by default that of :meth:`terms`."""
        return self.terms(y, eta, **shapes).log_f

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        """Second derivatives of the log density in eta and the free shapes, sign changed.

        A symmetric (1 + S) x (1 + S) table of arrays.
        """
        raise self._lacks("curves")

    @abstractmethod
    def nearest(self, y: Array) -> tuple[Array, Array]:
        """The eta (n,) that a row alone asks for, kept finite, and a weight (n,) >= 0 for it.

        ``y`` is the response of the batch, (n,) or (n, c).
        """

    @abstractmethod
    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        """Shapes (K,) for a start, from weighted rows; arrays as in :meth:`terms`, (n, K)."""

    @abstractmethod
    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        """Mean of the response, elementwise."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        """One response for each eta (n,), with shapes (n,)."""

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        """Variance of the response, elementwise."""
        raise self._lacks("variance")

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        """Distribution function, elementwise."""
        raise self._lacks("cdf")

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        """Probability above y, elementwise, accurate in the upper tail."""
        return 1.0 - self.cdf_at(y, eta, **shapes)

    def log_cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        """Log of the distribution function, elementwise; by default as far out as that reaches."""
        with np.errstate(divide="ignore"):
            return np.log(self.cdf_at(y, eta, **shapes))

    def log_sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        """Log of the probability above y, elementwise; by default as far out as that reaches."""
        with np.errstate(divide="ignore"):
            return np.log(self.sf_at(y, eta, **shapes))

    def flows_at(self, y: Array, eta: Array, **shapes: Array) -> tuple[Array | None, ...]:
        """Speeds v at which the quantile at y moves in eta and in each free shape, elementwise.

        The derivatives of the distribution function are ``-v`` times the density. None: not
        known in closed form. By default those of a location and a single scale.
        """
        if not self.affine_response:
            return (None,) * (1 + len(self.shapes))
        scales = [shape for shape in self.shapes if shape.follows_scale]
        alone = len(scales) == 1 and scales[0].transform == "log" and scales[0].origin == 0.0
        speeds = [y - eta if alone and s is scales[0] else None for s in self.shapes]
        return np.ones_like(eta), *speeds

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        """Quantile, elementwise."""
        raise self._lacks("quantile")

    # --- which shapes are free ---------------------------------------------------------------

    def is_fixed(self, shape: Shape) -> bool:
        """Whether a shape is known: the field of its name holds its value."""
        return getattr(self, shape.name, None) is not None

    def fixed_value(self, shape: Shape) -> float:
        """The known value of a shape that :meth:`is_fixed`."""
        return float(getattr(self, shape.name))

    def is_shared(self, shape: Shape) -> bool:
        """Whether all experts have one value: the field ``shared_<name>`` says so."""
        return bool(getattr(self, f"shared_{shape.name}", False))

    def free_shapes(self) -> tuple[tuple[int, Shape], ...]:
        """Shapes that are estimated, with their places in :attr:`shapes`."""
        return tuple((s, shape) for s, shape in enumerate(self.shapes) if not self.is_fixed(shape))

    def shapes_of(self, params: Params) -> dict[str, Array]:
        """The shapes (K,) among the parameters."""
        return {shape.name: params[shape.name] for shape in self.shapes}

    # --- EM --------------------------------------------------------------------------------

    def eta(self, params: Params, batch: Batch) -> Array:
        """Linear predictors (n, K)."""
        eta: Array = batch.X @ params["coef"].T
        if batch.offset is not None:
            eta += batch.offset[:, None]
        return eta

    @staticmethod
    def columns_first(y: Array) -> Array:
        """A response (n,) or (n, c) as elementwise functions take it: (n, 1) or (c, n, 1)."""
        return y[:, None] if y.ndim == 1 else y.T[:, :, None]

    def outside(self, y: Array) -> Array:
        """Where y, an array as in :meth:`terms`, is no possible response; NaN is left alone."""
        lowest, highest = self.support
        return (y <= lowest) | (y >= highest)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        y, outside = self._inside(self.columns_first(batch.y))
        log_prob = self.log_density(y, self.eta(params, batch), **self.shapes_of(params))
        return log_prob if outside is None else np.where(outside, -np.inf, log_prob)

    def _inside(self, y: Array) -> tuple[Array, Array | None]:
        """The response with impossible values replaced, and where they were (None: nowhere)."""
        outside = self.outside(y)
        if not outside.any():
            return y, None
        return np.where(outside, self.inner, y), outside if y.ndim == 2 else np.any(outside, axis=0)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        y, _ = self._inside(self.columns_first(batch.y))  # such rows have no weight
        terms = self.terms(y, self.eta(params, batch), **self.shapes_of(params))
        # A row that is out of an expert's reach has no weight there, whatever its derivatives.
        slope, curve = (
            np.where(weight > 0.0, weight * part[0], 0.0) for part in (terms.slopes, terms.weights)
        )
        return {
            "mass": weight.sum(axis=0),
            "gram": kernels.weighted_gram(batch.X, curve),
            "cross": kernels.weighted_cross(batch.X, slope),
            **{name: _total(weight, part) for name, part in self._sums(terms).items()},
        }

    def _sums(self, terms: Terms) -> dict[str, Array]:
        """What is summed beside Grams and products, by name."""
        sums = {"fitted": terms.mean}
        for shape, slope, weight in zip(
            self.shapes, terms.slopes[1:], terms.weights[1:], strict=True
        ):
            sums[f"{shape.name}_slope"], sums[f"{shape.name}_weight"] = slope, weight
        return sums

    def row_terms(self, params: Params, y: Array, eta: Array) -> RowTerms:
        columns, outside = self._inside(
            y[None, :] if y.ndim == 1 else np.ascontiguousarray(y.T)[:, None, :]
        )
        shapes = {name: values[:, None] for name, values in self.shapes_of(params).items()}
        terms = self.terms(columns, eta, **shapes)
        sums = {name: np.broadcast_to(part, eta.shape) for name, part in self._sums(terms).items()}
        log_f = terms.log_f if outside is None else np.where(outside, -np.inf, terms.log_f)
        parts = (log_f, terms.slopes[0], terms.weights[0])
        log_f, slope, curve = (np.broadcast_to(part, eta.shape) for part in parts)
        return RowTerms(log_f, slope, curve, sums)

    def term_stats(
        self, params: Params, mass: Array, gram: Array, cross: Array, sums: Stats
    ) -> Stats:
        return {"mass": mass, "gram": gram, "cross": cross, **sums}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """A scoring step of the coefficients, and one of each shape."""
        coef = params["coef"]
        mask = self.penalized(coef.shape[1])
        step, steepness = np.zeros_like(coef), self.steepness(params)
        for k in np.flatnonzero(stats["mass"] > 0.0):
            gram, cross = stats["gram"][k], stats["cross"][k]
            if penalty.is_null and np.trace(gram) < _NOTHING:
                continue
            step[k] = penalty.minimize_quadratic(gram, cross, coef[k], mask)
            if steepness is not None:
                step[k] = shortened(steepness[k] * step[k], gram) / steepness[k]
        return self.stepped(params, stats, step)

    def quadratic(self, params: Params, stats: Stats) -> tuple[Array, Array]:
        return stats["gram"], stats["cross"]

    def stepped(self, params: Params, stats: Stats, step: Array) -> Params:
        moved = {"coef": params["coef"] + step}
        for _, shape in self.free_shapes():
            moved[shape.name] = self.update_shape(shape, params, stats)
        return {**params, **moved}

    def steepness(self, params: Params) -> Array | None:
        """Third derivatives over second ones in eta (K,), for shortening steps; None: full steps.

        See :attr:`shortens`.
        """
        return np.ones(len(params["coef"])) if self.shortens else None

    def update_shape(self, shape: Shape, params: Params, stats: Stats) -> Array:
        """New values (K,) of a shape: a step of t, at most one unit long."""
        slope, weight = stats[f"{shape.name}_slope"], stats[f"{shape.name}_weight"]
        if self.is_shared(shape):
            slope, weight = (np.full_like(part, part.sum()) for part in (slope, weight))
        step = np.where(weight > 0.0, slope / np.where(weight > 0.0, weight, 1.0), 0.0)
        free = shape.free(params[shape.name])
        moved = shape.value(free + np.clip(step, -_LONGEST, _LONGEST))
        return np.where(stats["mass"] > 0.0, moved, params[shape.name])

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Least squares on the scale of eta, then scoring steps, pulled to the pooled fit."""
        weight = batch.spread_units(resp * batch.weight[:, None])
        eta, curve = self.nearest(batch.y)
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
        away = self.admissible(None, pooled + away, batch) - pooled
        params: Params = {"coef": pooled + away}
        params = {**params, **self._first_shapes(params, batch, weight)}
        for _ in range(_START_STEPS):
            stats, steepness = self.accumulate(params, batch, weight), self.steepness(params)
            for k, pull in enumerate(pulls):
                gram_k, cross_k = stats["gram"][k], stats["cross"][k]
                step = pull.minimize_quadratic(gram_k, cross_k, away[k], everything)
                if steepness is not None:
                    step = shortened(steepness[k] * step, gram_k) / steepness[k]
                away[k] += step
            away = self.admissible(params["coef"], pooled + away, batch) - pooled
            moved = {
                shape.name: self.update_shape(shape, params, stats)
                for _, shape in self.free_shapes()
                if not shape.held
            }
            params = {**params, **moved, "coef": pooled + away}
        return params

    def admissible(self, previous: Array | None, coef: Array, batch: Batch) -> Array:
        """Coefficients (K, p) of a start, moved back to where all rows have a density.

        ``previous`` (K, p) are some that do; None: there are none yet.
        """
        return coef

    def _first_shapes(self, params: Params, batch: Batch, weight: Array) -> dict[str, Array]:
        found = self.start_shapes(self.columns_first(batch.y), self.eta(params, batch), weight)
        values = {}
        for shape in self.shapes:
            if self.is_fixed(shape):
                values[shape.name] = np.full(weight.shape[1], self.fixed_value(shape))
                continue
            value = np.asarray(found.get(shape.name, np.nan), dtype=np.float64)
            value = np.broadcast_to(value, (weight.shape[1],))
            if self.is_shared(shape):
                value = np.full_like(value, value.mean())
            values[shape.name] = np.clip(value, shape.lower, shape.upper)
        return values

    # --- acceleration, convergence, information --------------------------------------------------

    def pack(self, params: Params) -> Array:
        parts = [params["coef"].ravel()]
        for _, shape in self.free_shapes():
            free = shape.free(params[shape.name])
            parts.append(free.mean(keepdims=True) if self.is_shared(shape) else free)
        return np.concatenate(parts)

    def unpack(self, vector: Array, like: Params) -> Params:
        n_experts, p = like["coef"].shape
        params: dict[str, Array] = dict(like)
        params["coef"] = vector[: n_experts * p].reshape(n_experts, p)
        at = n_experts * p
        for _, shape in self.free_shapes():
            size = 1 if self.is_shared(shape) else n_experts
            value = shape.value(vector[at : at + size])
            params[shape.name] = np.broadcast_to(value, (n_experts,)).copy()
            at += size
        return params

    def score(self, params: Params, stats: Stats) -> Array:
        parts = [stats["cross"].ravel()]
        for _, shape in self.free_shapes():
            slope = stats[f"{shape.name}_slope"]
            parts.append(slope.sum(keepdims=True) if self.is_shared(shape) else slope)
        return np.concatenate(parts)

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """In eta and in the free shapes."""
        y, eta = self.columns_first(batch.y), self.eta(params, batch)
        shapes = self.shapes_of(params)
        slopes = self.terms(y, eta, **shapes).slopes
        curves = self.curves(y, eta, **shapes)
        free = self.free_shapes()
        places = [0, *(s + 1 for s, _ in free)]
        one = np.ones((batch.n_rows, 1))
        return Derivatives(
            (batch.X, *(one for _ in free)),
            np.stack([np.broadcast_to(slopes[s], eta.shape) for s in places]),
            np.stack([
                np.stack([np.broadcast_to(curves[s][t], eta.shape) for t in places]) for s in places
            ]),
            (False, *(self.is_shared(shape) for _, shape in free)),
        )  # fmt: skip

    def n_params(self, params: Params) -> int:
        each = len(params["coef"])
        free = [1 if self.is_shared(shape) else each for _, shape in self.free_shapes()]
        return int(params["coef"].size) + sum(free)

    def n_params_each(self, params: Params) -> int:
        own = [shape for _, shape in self.free_shapes() if not self.is_shared(shape)]
        return int(params["coef"].shape[1]) + len(own)

    def at_boundary(self, params: Params) -> Array:
        at = np.zeros(len(params["coef"]), dtype=bool)
        for _, shape in self.free_shapes():
            if shape.boundary:
                at |= params[shape.name] <= shape.lower * (1.0 + 1e-9)
            if shape.upper_boundary:
                at |= params[shape.name] >= shape.upper * (1.0 - 1e-9)
        return at

    def boundary_reason(self) -> str:
        ends = [(s.name, "smallest") for _, s in self.free_shapes() if s.boundary]
        ends += [(s.name, "largest") for _, s in self.free_shapes() if s.upper_boundary]
        named = " or ".join(f"its {name} at the {end} value allowed" for name, end in ends)
        return f"has {named or 'a parameter at its bound'}: its density is a spike"

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        if not self.discrete:
            return super().separation(params, stats, penalty)
        gram = stats["gram"]
        if not penalty.is_null:  # holds its own columns; the others may still run away
            free = ~self.penalized(gram.shape[1])
            gram = gram[:, free][:, :, free]
        if not gram.shape[1]:
            return np.zeros(len(gram), dtype=bool)
        separated: Array = np.linalg.eigvalsh(gram)[:, 0] < _SEPARATION
        return separated

    # --- scales ------------------------------------------------------------------------------

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        raw = super().raw(params, design, loc, scale)
        for shape in self.shapes:
            raw[shape.name] = params[shape.name] * (scale if shape.follows_scale else 1.0)
        return raw

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        params: dict[str, Array] = dict(super().engine(raw, design, loc, scale))
        for shape in self.shapes:
            params[shape.name] = raw[shape.name] / (scale if shape.follows_scale else 1.0)
            if self.is_fixed(shape):  # whatever the model that a start comes from has
                params[shape.name] = np.full_like(params[shape.name], self.fixed_value(shape))
        return params

    # --- starts and predictions ----------------------------------------------------------------

    def working_response(self, batch: Batch) -> Array:
        eta, _ = self.nearest(batch.y)
        return eta if batch.offset is None else eta - batch.offset

    def distance(self, params: Params, batch: Batch) -> Array:
        return -self.log_prob(params, batch)

    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, (n, K)."""
        return self.mean_at(self.eta(params, batch), **self.shapes_of(params))

    def variance(self, params: Params, batch: Batch) -> Array:
        return self.variance_at(self.eta(params, batch), **self.shapes_of(params))

    def cdf(self, params: Params, batch: Batch) -> Array:
        return self._at_response(self.cdf_at, params, batch, (0.0, 1.0))

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K), accurate in the upper tail."""
        return self._at_response(self.sf_at, params, batch, (1.0, 0.0))

    def _at_response(
        self, function: Any, params: Params, batch: Batch, ends: tuple[float, float]
    ) -> Array:
        y, eta = self.columns_first(batch.y), self.eta(params, batch)
        (lowest, highest), safe = self.support, np.where(self.outside(y), self.inner, y)
        with np.errstate(over="ignore", under="ignore"):
            found = np.broadcast_to(function(safe, eta, **self.shapes_of(params)), eta.shape)
        if safe is not y:
            found = np.where(y <= lowest, ends[0], np.where(y >= highest, ends[1], found))
        return found

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Quantile of each expert at each row, (n, K)."""
        eta = self.eta(params, batch)
        found = self.quantile_at(probability, eta, **self.shapes_of(params))
        return np.broadcast_to(found, eta.shape)

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        eta = self.eta(params, batch)[np.arange(batch.n_rows), label]
        shapes = {name: values[label] for name, values in self.shapes_of(params).items()}
        return self.draw(rng, eta, **shapes)


def _total(weight: Array, values: Array) -> Array:
    """Sums over rows of weight times values, (K,); what has no weight may be anything."""
    total: Array = np.where(weight > 0.0, weight * values, 0.0).sum(axis=0)
    return total
