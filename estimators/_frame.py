"""Between the user's columns and the engine's: centring, scaling, and the way back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Batch, Columns, Theta, root_mean_square, weighted_mean
from mixexperts._design import DesignMap, Rows
from mixexperts._moments import Moments
from mixexperts.em.engine import Model
from mixexperts.errors import DesignError
from mixexperts.experts.base import Expert

# Rows taken at a time.
_BLOCK_ROWS = 32768


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
    loc, scale : float
        The engine sees the response as ``(y - loc) / scale``.
    gate_is_joint : bool
        Whether the gate models the density of its features.
    maker : Expert or None
        Experts that make designs of their own from the features.
    """

    expert_columns: Array
    gate_columns: Array
    expert_map: DesignMap
    gate_map: DesignMap
    loc: float
    scale: float
    gate_is_joint: bool = False
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

        def location() -> tuple[float, float]:
            response = y if offset is None else y - offset
            centre = weighted_mean(response, weight)
            return float(centre), float(root_mean_square(response - centre, weight))

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
            values = y[rows].reshape(len(y[rows]), -1)
            return values if offset is None else values - offset[rows, None]

        def moments(values: Callable[[slice], Array]) -> Moments:
            parts = [Moments.of(values(rows), weight[rows]) for rows in blocks]
            return functools.reduce(Moments.merged, parts)

        return cls.from_moments(
            model,
            moments(lambda rows: np.asarray(X[rows], dtype=np.float64)),
            moments(response),
            lambda: ((X[rows], weight[rows]) for rows in blocks),
            columns,
            names,
        )

    @classmethod
    def from_moments(
        cls,
        model: Model,
        features: Moments,
        response: Moments,
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

        def location() -> tuple[float, float]:
            return float(response.mean[0]), float(response.spread(response.mean)[0])

        return cls._of(model, columns, design, location)

    @classmethod
    def _of(
        cls,
        model: Model,
        columns: tuple[Array, Array],
        design: Callable[..., DesignMap],
        location: Callable[[], tuple[float, float]],
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
        loc, scale = 0.0, 1.0
        if model.expert.affine_response:
            loc, scale = location()
            # Without an intercept a shift of y is not a shift of the model.
            loc = loc if model.expert.fit_intercept else 0.0
        maker = model.expert if model.expert.makes_designs else None
        return cls(*columns, maps[keys[0]], maps[keys[1]], loc, scale, joint, maker)

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
            y=np.zeros(n) if y is None else self.response(y),
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
        """
        units = row_weight if unit_weight is None else unit_weight
        volume = units * self.gate_map.log_volume() if self.gate_is_joint else 0.0
        return volume - row_weight * math.log(self.scale)

    def same(self, other: Frame) -> bool:
        """Whether parameters of the engine mean the same under another frame."""
        return (
            np.array_equal(self.expert_columns, other.expert_columns)
            and np.array_equal(self.gate_columns, other.gate_columns)
            and self.expert_map.same_columns(other.expert_map)
            and self.gate_map.same_columns(other.gate_map)
            and (self.loc, self.scale) == (other.loc, other.scale)
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


def _first_rows(unit: Array) -> Array:
    """First row of each sampling unit, from their ascending numbers."""
    return np.flatnonzero(np.diff(unit, prepend=-1))
