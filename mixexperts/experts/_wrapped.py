"""What censored and truncated families share: a family of one predictor, seen through bounds."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats, root_mean_square, weighted_mean
from mixexperts.experts._adapters import LinearGaussian, as_linear
from mixexperts.experts._interval import step_sizes
from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.penalties.base import Penalty

# Ends of a scale in units that are not known.
_LEAST, _MOST = 1e-290, 1e290


class Wrapped(LinearExpert):
    """A family whose response is known, or was sampled, within bounds.

    The engine sees the response as it is, since a probability has no units: scales are brought
    to size for the starts alone, and their floor is a share of the spread that the parameters
    themselves span.
    """

    expert: Any
    #: The wrapped family in the form of terms.
    base: LinearExpert
    _floors: tuple[Shape, ...]

    def __post_init__(self) -> None:
        base = copy.copy(as_linear(self.expert, type(self).__name__))
        given = base.shapes
        if base.affine_response:
            wide = tuple(
                replace(shape, lower=_LEAST, upper=_MOST) if shape.follows_scale else shape
                for shape in given
            )
            object.__setattr__(base, "shapes", wide)
        adopted = {
            name: getattr(base, name)
            for name in (
                "shapes", "support", "inner", "shortens", "discrete", "has_derivatives", "degree",
                "fit_intercept", "param_names",
            )
        }  # fmt: skip
        for name, value in {**adopted, "base": base, "_floors": given}.items():
            object.__setattr__(self, name, value)

    def with_intercept(self, fit_intercept: bool) -> Self:
        """The same with the wrapped family so."""
        wrapped = self.expert.with_intercept(fit_intercept)
        return replace(self, expert=wrapped)  # type: ignore[type-var]

    def point_response(self, y: Array) -> Array:
        raise NotImplementedError

    # --- the family ------------------------------------------------------------------------

    def is_fixed(self, shape: Shape) -> bool:
        return self.base.is_fixed(shape)

    def fixed_value(self, shape: Shape) -> float:
        return self.base.fixed_value(shape)

    def is_shared(self, shape: Shape) -> bool:
        return self.base.is_shared(shape)

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return self.base.nearest(self.point_response(y))

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        rows = y[:, 0] if y.ndim == 2 else y[:, :, 0].T
        return self.base.start_shapes(self.point_response(rows)[:, None], eta, weight)

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return self.base.mean_at(eta, **shapes)

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        return self.base.variance_at(eta, **shapes)

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return self.base.cdf_at(y, eta, **shapes)

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return self.base.sf_at(y, eta, **shapes)

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        return self.base.quantile_at(probability, eta, **shapes)

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        return self.base.draw(rng, eta, **shapes)

    # --- cells -----------------------------------------------------------------------------

    def within(self, lower: Array, upper: Array, eta: Array, **shapes: Array) -> Array:
        """Possible responses in the intervals, as near as can be to the middle of the family."""
        middle = eta if self.base.affine_response else self.base.mean_at(eta, **shapes)
        middle = np.where(np.isfinite(middle), middle, self.inner)
        if self.discrete:
            return np.clip(np.round(middle), lower + 1.0, upper)
        return np.clip(middle, lower, upper)

    def sizes(self, y: Array, eta: Array, shapes: dict[str, Array]) -> list[Array]:
        """Steps of differences at cells."""
        weights = self.base.terms(y, eta, **shapes).weights
        return step_sizes(self.base, tuple(np.broadcast_to(w, eta.shape) for w in weights))

    def update_rises(self) -> bool:
        """Where expectations given the bounds are exact: of Gaussian experts."""
        return isinstance(self.base, LinearGaussian)

    # --- EM --------------------------------------------------------------------------------

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """The update of the wrapped family.

        Its statistics have the expectations over what was not seen in place of what was, so
        that this is the M-step of a complete sample.
        """
        cls = type(self.base)
        own = cls.accumulate is LinearExpert.accumulate and cls._sums is LinearExpert._sums
        return self.base.update(params, stats, penalty) if own else super().update(
            params, stats, penalty
        )  # fmt: skip

    def update_shape(self, shape: Shape, params: Params, stats: Stats) -> Array:
        return self.base.update_shape(shape, params, stats)

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """As of the wrapped family, on a common scale where it has none of its own."""
        if not self.base.affine_response:
            return super().init_params(batch, resp, rng)
        y, weight = self.point_response(batch.y), batch.spread_units(batch.weight)
        y = y if batch.offset is None else y - batch.offset
        constant = self.fit_intercept and bool((batch.X[:, 0] == 1.0).all())
        loc = float(weighted_mean(y, weight)) if constant else 0.0
        scale = float(root_mean_square(y - loc, weight)) or 1.0
        offset = None if batch.offset is None else batch.offset / scale
        scaled = replace(batch, y=(self.bounded(batch.y) - loc) / scale, offset=offset)
        params = dict(LinearExpert.init_params(self._with_floors(), scaled, resp, rng))
        coef = params["coef"] * scale
        if constant:
            coef[:, 0] += loc
        for shape in self.shapes:
            if shape.follows_scale and not self.is_fixed(shape):
                params[shape.name] = params[shape.name] * scale
        return {**params, "coef": coef}

    def _with_floors(self) -> Wrapped:
        """The same with the floors of scales that the family has on a common scale."""
        inner, outer = copy.copy(self.base), copy.copy(self)
        for part, name, value in (
            (inner, "shapes", self._floors), (outer, "shapes", self._floors), (outer, "base", inner)
        ):  # fmt: skip
            object.__setattr__(part, name, value)
        return outer

    def bounded(self, y: Array) -> Array:
        """The response with the bounds that the family itself sets as columns, if any."""
        return y

    def at_boundary(self, params: Params) -> Array:
        at = np.zeros(len(params["coef"]), dtype=bool)
        for _, shape in self.free_shapes():
            (given,) = (floor for floor in self._floors if floor.name == shape.name)
            if not shape.boundary:
                continue
            unit = 1.0
            if self.base.affine_response and shape.follows_scale:
                unit = max(_span(params["coef"], self.fit_intercept), params[shape.name].max())
            at |= params[shape.name] <= given.lower * (1.0 + 1e-9) * unit
        return at

    def residual(self, params: Params, batch: Batch) -> Array:
        """Residuals of one number for each row."""
        residual: Array = self.point_response(batch.y)[:, None] - self.mean(params, batch)
        return residual


def _span(coef: Array, intercept: bool) -> float:
    """How far apart fitted values lie, from coefficients of standardised columns."""
    slopes = coef[:, int(intercept) :]
    away = coef[:, 0] - coef[:, 0].mean() if intercept else np.zeros(1)
    return float(np.sqrt((slopes**2).sum(axis=1).max(initial=0.0) + np.max(away**2)))


def merged(base: Array, where: Array, values: Array) -> Array:
    """A copy of an array with the values of the marked cells."""
    full = np.array(np.broadcast_to(base, where.shape), dtype=np.float64)
    full[where] = values
    return full


def cells(where: Array, *parts: Array) -> tuple[Array, ...]:
    """The marked cells of arrays that broadcast to the mark's shape."""
    return tuple(np.broadcast_to(part, where.shape)[where] for part in parts)


def cell_shapes(where: Array, shapes: dict[str, Array]) -> dict[str, Array]:
    """The same of shapes."""
    return {name: np.broadcast_to(values, where.shape)[where] for name, values in shapes.items()}


def changed(terms: Terms, where: Array, log_f: Array, slopes: list[Array]) -> Terms:
    """Terms with other log densities and slopes in the marked cells."""
    return Terms(
        merged(terms.log_f, where, log_f),
        terms.mean,
        tuple(merged(old, where, new) for old, new in zip(terms.slopes, slopes, strict=True)),
        terms.weights,
    )
