"""Between the user's columns and the engine's: centring, scaling, and the way back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Batch, Columns, Theta, root_mean_square, weighted_mean
from mixexperts._design import DesignMap, Rows
from mixexperts._moments import Moments, ObservedMoments
from mixexperts.em.engine import Model
from mixexperts.errors import DesignError
from mixexperts.experts.base import Expert

# Rows taken at a time.
_BLOCK_ROWS = 32768

#: Centre and spread of the response; of several also the shares of the weight observed.
Location: TypeAlias = tuple[Any, Any, Array | None]


@saveable("frame")
@dataclass(frozen=True)
class Frame:
    """How raw features and responses become a :class:`Batch`, and parameters come back.

    Attributes
    ----------
    expert_columns, gate_columns : ndarray of int
        Columns of X that the experts and the gate see.
    expert_map, gate_map : DesignMap
        Centring, scaling and expansion of those columns.
    loc, scale : float, or ndarray of shape (d,)
        The engine sees the response as ``(y - loc) / scale``, column by column of d responses.
    gate_is_joint : bool
        Whether the gate models the density of its features.
    maker : Expert or None
        Experts that make designs of their own from the features.
    observed : ndarray of shape (d,) or None
        Share of the weight of the fit whose response was observed; None with one response.
    """

    expert_columns: Array
    gate_columns: Array
    expert_map: DesignMap
    gate_map: DesignMap
    loc: Any
    scale: Any
    gate_is_joint: bool = False
    observed: Array | None = None
    maker: Expert | None = None

    @classmethod
    def fit(
        cls,
        model: Model,
        X: Array,
        y: Array,
        weight: Array,
        offset: Array | None,
        columns: tuple[Array, Array],
        names: tuple[str, ...],
        unit: Array | None = None,
    ) -> Frame:
        """Learn centres, scales and bases from rows, all of positive weight.

        With ``unit`` (n,), ascending, the weights are those of the sampling units (u,).
        """
        if len(X) > _BLOCK_ROWS and unit is None:
            return cls._of_blocks(model, X, y, weight, offset, columns, names)
        units = X, weight
        if unit is not None:  # the gate sees each unit once
            units = X[_first_rows(unit)], weight
            weight = weight[unit]

        def design(take: Array, gate: bool = False, **how: Any) -> DesignMap:
            rows, weights = units if gate else (X, weight)
            whole = len(take) == X.shape[1] and (np.diff(take) == 1).all()
            return DesignMap.fit(
                rows if whole else rows[:, take], weights, tuple(names[j] for j in take), **how
            )

        def location() -> Location:
            if model.expert.multivariate:
                return _several(y if offset is None else y - offset, weight)
            response = y if offset is None else y - offset
            centre = weighted_mean(response, weight)
            return float(centre), float(root_mean_square(response - centre, weight)), None

        gate_design = None if unit is None else functools.partial(design, gate=True)
        return cls._of(model, columns, design, location, gate_design)

    @classmethod
    def _of_blocks(
        cls,
        model: Model,
        X: Array,
        y: Array,
        weight: Array,
        offset: Array | None,
        columns: tuple[Array, Array],
        names: tuple[str, ...],
    ) -> Frame:
        """Many rows: block by block, without temporary arrays of their size."""
        blocks = [slice(i, i + _BLOCK_ROWS) for i in range(0, len(X), _BLOCK_ROWS)]

        def response(rows: slice) -> Array:
            values = model.expert.point_response(y[rows]).reshape(len(y[rows]), -1)
            return values if offset is None else values - offset[rows].reshape(len(values), -1)

        def moments(values: Callable[[slice], Array], of: Callable[..., Any]) -> Any:
            parts = [of(values(rows), weight[rows]) for rows in blocks]
            return functools.reduce(lambda left, right: left.merged(right), parts)

        several = model.expert.multivariate
        return cls.from_moments(
            model,
            moments(lambda rows: np.asarray(X[rows], dtype=np.float64), Moments.of),
            moments(response, ObservedMoments.of if several else Moments.of),
            lambda: ((X[rows], weight[rows]) for rows in blocks),
            columns,
            names,
        )

    @classmethod
    def from_moments(
        cls,
        model: Model,
        features: Moments,
        response: Moments | ObservedMoments,
        rows: Rows,
        columns: tuple[Array, Array],
        names: tuple[str, ...],
    ) -> Frame:
        """The same frame from moments of X and of ``y - offset``, to rounding.

        ``rows()`` gives X and weights in blocks; they are read where moments do not do.
        """

        def design(take: Array, **how: Any) -> DesignMap:
            def taken() -> Iterator[tuple[Array, Array]]:
                for X, weight in rows():
                    yield X[:, take], weight

            return DesignMap.from_moments(
                features.take(take), taken, tuple(names[j] for j in take), **how
            )

        def location() -> Location:
            if isinstance(response, ObservedMoments):
                return response.mean, response.spread, response.weight / features.weight
            return float(response.mean[0]), float(response.spread(response.mean)[0]), None

        return cls._of(model, columns, design, location)

    @classmethod
    def _of(
        cls,
        model: Model,
        columns: tuple[Array, Array],
        design: Callable[..., DesignMap],
        location: Callable[[], Location],
        gate_design: Callable[..., DesignMap] | None = None,
    ) -> Frame:
        maps: dict[Any, DesignMap] = {}
        keys = []
        for room, penalty, take in (
            (model.expert, model.expert_penalty, columns[0]),
            (model.gate, model.gate_penalty, columns[1]),
        ):
            degree, intercept = room.degree, room.fit_intercept and room.uses_features
            options = {"orthogonalize": penalty.is_null, **room.design_options()}
            own = gate_design if room is model.gate else None
            keys.append(
                (degree, intercept, tuple(sorted(options.items())), tuple(take), own is None)
            )
            if keys[-1] not in maps:
                make = own or design
                maps[keys[-1]] = make(take, degree=degree, intercept=intercept, **options)
        fault = model.gate.design_fault(maps[keys[1]])
        if fault is not None:
            raise DesignError(fault)
        joint = model.gate.objective == "joint"
        loc: Any = 0.0
        scale: Any = 1.0
        observed = None
        if model.expert.affine_response or model.expert.multivariate:
            loc, scale, observed = location()
            # Without an intercept a shift of y is not a shift of the model.
            loc = loc if model.expert.fit_intercept else 0.0
        if model.expert.multivariate:
            affine = model.expert.affine_columns(len(scale))
            loc, scale = np.where(affine, loc, 0.0), np.where(affine, scale, 1.0)
        maker = model.expert if model.expert.makes_designs else None
        return cls(*columns, maps[keys[0]], maps[keys[1]], loc, scale, joint, observed, maker)

    def batch(
        self,
        X: Array,
        y: Array | None,
        weight: Array | None,
        offset: Array | None,
        *,
        lazy: bool = False,
        unit: Array | None = None,
        log_prior: Array | None = None,
    ) -> Batch:
        """The engine's view of rows; without y the response is a placeholder.

        ``lazy`` leaves plain designs to be made by the kernel that reads them. ``unit`` (n,)
        numbers the sampling units, ascending; weights and evidence then are theirs.
        """
        n = X.shape[0]
        design = self._design(self.expert_map, X, self.expert_columns, lazy)
        own = {} if self.maker is None else self.maker.designs_of(X, self.loc, self.scale)
        # The same columns are held once, and their products are made once per pass.
        same = (
            unit is None
            and np.array_equal(self.expert_columns, self.gate_columns)
            and self.expert_map.same_columns(self.gate_map)
        )
        units = X if unit is None else X[_first_rows(unit)]
        return Batch(
            y=np.zeros((n, *np.shape(self.loc))) if y is None else self.response(y),
            designs={"mean": design, **own},
            Z=design if same else self._design(self.gate_map, units, self.gate_columns, lazy),
            weight=np.ones(len(units)) if weight is None else weight,
            unit=unit,
            offset=None if offset is None else offset / self.scale,
            log_prior=log_prior,
        )

    @staticmethod
    def _design(design: DesignMap, X: Array, taken: Array, lazy: bool) -> Array | Columns:
        if lazy and design.is_plain:
            return design.columns(X, taken)
        return design.transform(X[:, taken])

    def response(self, y: Array) -> Array:
        """Response on the engine's scale."""
        scaled: Array = (y - self.loc) / self.scale
        return scaled

    def log_jacobian(self, row_weight: Any, unit_weight: float | None = None) -> Any:
        """What the scaling of y, and of x in a joint density, adds to a log-likelihood.

        ``unit_weight`` is the total weight of the sampling units, where these are not the rows.
        Of several responses each counts by its share of the weight of the fit.
        """
        units = row_weight if unit_weight is None else unit_weight
        volume = units * self.log_volume()
        if np.ndim(self.scale):
            shares = 1.0 if self.observed is None else self.observed
            return volume - row_weight * float(np.sum(shares * np.log(self.scale)))
        return volume - row_weight * math.log(self.scale)

    def log_scale(self, batch: Batch) -> Array:
        """What the scaling of y takes off the log density of sampling units, (u,)."""
        rows = np.ones((batch.n_rows, 1)) * np.log(self.scale)
        if np.ndim(self.scale):  # of the responses that are not missing
            rows = np.where(np.isnan(batch.y), 0.0, rows).sum(axis=1, keepdims=True)
        return batch.sum_units(rows)[:, 0]

    def log_volume(self) -> float:
        """What the scaling of x in a joint density adds to the log density of a row."""
        return self.gate_map.log_volume() if self.gate_is_joint else 0.0

    @property
    def n_columns(self) -> int:
        """Number of responses d of several, else 1."""
        return int(np.size(self.loc))

    def same(self, other: Frame) -> bool:
        """Whether parameters of the engine mean the same under another frame."""
        return (
            np.array_equal(self.expert_columns, other.expert_columns)
            and np.array_equal(self.gate_columns, other.gate_columns)
            and self.expert_map.same_columns(other.expert_map)
            and self.gate_map.same_columns(other.gate_map)
            and np.array_equal(self.loc, other.loc)
            and np.array_equal(self.scale, other.scale)
        )

    def raw(self, model: Model, theta: Theta) -> dict[str, Array]:
        """Parameters on the scale of the user's columns, by the names of the attributes."""
        expert = model.expert.raw(theta.expert, self.expert_map, self.loc, self.scale)
        return expert | model.gate.raw(theta.gate, self.gate_map)

    def engine(self, model: Model, raw: Mapping[str, Array]) -> Theta:
        """Parameters on the engine's scale, the inverse of :meth:`raw`."""
        return Theta(
            model.gate.engine(raw, self.gate_map),
            model.expert.engine(raw, self.expert_map, self.loc, self.scale),
        )


def _several(response: Array, weight: Array) -> Location:
    """Centres, spreads and shares of the columns (n, d), over the rows that have a value."""
    found = [(column[seen], weight[seen]) for column in response.T for seen in [~np.isnan(column)]]
    centres = np.array([weighted_mean(values, own) for values, own in found])
    spreads = [
        root_mean_square(values - centre, own)
        for (values, own), centre in zip(found, centres, strict=True)
    ]
    shares = np.array([own.sum() for _, own in found]) / weight.sum()
    return centres, np.array(spreads), shares


def _first_rows(unit: Array) -> Array:
    """First row of each sampling unit, from their ascending numbers."""
    return np.flatnonzero(np.diff(unit, prepend=-1))
