"""Experts that are put together from families of one expert each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts._glm import first_row
from mixexperts.experts._members import (
    NO_COLUMNS,
    Member,
    best_places,
    joint_derivatives,
    log_prob_of,
    regresses,
    take_rows,
)
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.penalties.base import Penalty

# Location and scale on which a member sees the response, where no common scale serves all.
_UNIT = "unit"
# Of the starts, about this share puts the families to the clusters at random.
_AT_RANDOM = 0.5


class Composite(Expert):
    """K experts, each a family of its own with parameters of its own.

    Parameters are kept as those of any family, expert on axis 0; where a family lacks one that
    others have, a placeholder stands in its place that nobody reads. With parameters of fewer
    experts than there are families, the first families are meant.
    """

    def _settle(self, families: tuple[Expert, ...]) -> None:
        """Derive from the families what others have as attributes; refuse one that stands alone."""
        for family in families:
            if family.truncates or family.infinite_response or family.takes_classes == "many":
                raise UnsupportedCombinationError(
                    f"{family.name!r} experts cannot stand beside others in {self.name!r} experts; "
                    "use families of numbers whose rows were sampled whatever their response"
                )
        using = [family for family in families if regresses(family)]
        atomic = any(f.discrete or f.has_atoms for f in families)
        discrete = all(f.discrete and f.on_integers() for f in families)
        settled = {
            "discrete": discrete,
            "has_atoms": atomic and not discrete,
            "affine_response": not atomic and all(f.affine_response for f in families),
            "partial": any(f.partial for f in families),
            "has_derivatives": all(f.has_derivatives for f in families),
            "uses_features": bool(using),
            "fit_intercept": using[0].fit_intercept if using else False,
            "degree": using[0].degree if using else 1,
            "param_names": tuple(dict.fromkeys(n for f in families for n in f.param_names)),
            "support": (
                min(f.support[0] for f in families), max(f.support[1] for f in families)
            ),
        }  # fmt: skip
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    @abstractmethod
    def families(self) -> tuple[Expert, ...]:
        """The family of each expert."""

    # --- members ---------------------------------------------------------------------------

    def _own(self, params: Params, k: int) -> dict[str, Array]:
        family = self.families[k]
        own = {name: params[name][k : k + 1] for name in family.param_names}
        if "coef" in own and not regresses(family):
            own["coef"] = own["coef"][:, :0]
        return own

    def _unit(self, params: Params, k: int) -> tuple[float, float]:
        if _UNIT not in params:
            return 0.0, 1.0
        return float(params[_UNIT][k, 0]), float(params[_UNIT][k, 1])

    def _member(self, params: Params, batch: Batch, k: int, allowed: Array | None) -> Member:
        family, (loc, scale) = self.families[k], self._unit(params, k)
        return Member(
            k,
            family,
            self._own(params, k),
            loc,
            scale,
            self.view(batch, k, loc, scale, allowed),
            allowed,
        )

    def view(self, batch: Batch, k: int, loc: float, scale: float, allowed: Array | None) -> Batch:
        """Rows as the family of expert k sees them; impossible responses are replaced."""
        family, y, offset = self.families[k], batch.y, batch.offset
        if (loc, scale) != (0.0, 1.0):
            y = (y - loc) / scale
            offset = None if offset is None else offset / scale
        if allowed is not None and y.ndim == 1:
            y = np.where(allowed, y, getattr(family, "inner", 0.0))
        designs = dict(batch.designs)
        if not regresses(family):
            designs["mean"] = batch.X[:, :0]
        return replace(batch, y=y, offset=offset, designs=designs)

    def members(self, params: Params, batch: Batch, *, seen: bool = True) -> list[Member]:
        """All experts; ``seen`` where the response has been observed and must be possible."""
        batch = batch.dense()
        n_experts = len(params["coef"])
        allowed = self.allowed(batch.y, n_experts) if seen else [None] * n_experts
        return [self._member(params, batch, k, allowed[k]) for k in range(n_experts)]

    def allowed(self, y: Array, n_experts: int) -> list[Array | None]:
        """Rows (n,) that each expert can have produced; None where it can have produced all.

        A value that has a probability of its own under some expert was not drawn from a
        density: under an expert that has a density there, its probability is zero.
        """
        families = self.families[:n_experts]
        if all(f.support == (-np.inf, np.inf) and not f.discrete for f in families) and (
            not self.has_atoms
        ):
            return [None] * n_experts
        possible = [f.possible(y) for f in families]
        if self.has_atoms:
            atoms = [f.atoms(y) for f in self.families]
            some = np.logical_or.reduce(atoms)
            possible = [p & (a | ~some) for p, a in zip(possible, atoms, strict=False)]
        return [None if rows.all() else rows for rows in possible]

    def _columns(self, members: list[Member], parts: list[Array]) -> Array:
        """Columns (n, K) from columns (n, 1)."""
        n = members[0].batch.n_rows
        return np.concatenate([np.broadcast_to(part, (n, 1)) for part in parts], axis=1)

    def _join(self, parts: list[dict[str, Array]], p: int) -> dict[str, Array]:
        """Parameters of all experts from those of each."""
        joined: dict[str, Array] = {"coef": np.zeros((len(parts), p))}
        for k, part in enumerate(parts):
            for name, value in part.items():
                if name == "coef":
                    joined["coef"][k, : value.shape[1]] = value[0]
                    continue
                if name not in joined:
                    joined[name] = np.ones((len(parts), *value.shape[1:]))
                joined[name][k] = value[0]
        return joined

    # --- EM --------------------------------------------------------------------------------

    def log_prob(self, params: Params, batch: Batch) -> Array:
        members = self.members(params, batch)
        return self._columns(members, [log_prob_of(member) for member in members])

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        stats: dict[str, Any] = {}
        mass, fitted = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
        for m in self.members(params, batch):
            own = weight[:, [m.k]]
            if m.allowed is not None:
                own = np.where(m.allowed[:, None], own, 0.0)
            found = m.family.accumulate(m.params, m.batch, own)
            stats |= {f"{m.k}.{name}": value for name, value in found.items()}
            mass[m.k] = found["mass"][0]
            fitted[m.k] = m.loc * mass[m.k] + m.scale * found["fitted"][0]
        return {"mass": mass, "fitted": fitted, **stats}

    @staticmethod
    def _stats(stats: Stats, k: int) -> Stats:
        prefix = f"{k}."
        return {n.removeprefix(prefix): v for n, v in stats.items() if n.startswith(prefix)}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """Each expert's own update."""
        n_experts, p = params["coef"].shape
        parts = [
            dict(self.families[k].update(self._own(params, k), self._stats(stats, k), penalty))
            for k in range(n_experts)
        ]
        return {**params, **self._join(parts, p)}

    def update_rises(self) -> bool:
        return all(family.update_rises() for family in self.families)

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Each expert's own start, on the rows that it can have produced."""
        batch = batch.dense()
        rows = batch.spread_units(resp)
        allowed = self.allowed(batch.y, resp.shape[1])
        if any(part is not None for part in allowed):
            within = np.stack(
                [np.ones(batch.n_rows) if part is None else part for part in allowed], axis=1
            )
            rows = rows * within
            lost = rows.sum(axis=1, keepdims=True) <= 0.0
            rows = np.where(lost, within, rows)  # to any expert that can have produced the row
            rows /= np.maximum(rows.sum(axis=1, keepdims=True), 1e-300)
        units, parts = [], []
        for k in range(resp.shape[1]):
            unit = self.measure(batch, k, allowed[k])
            parts.append(self.fit_one(batch, k, rows[:, k], allowed[k], unit, rng))
            units.append(unit)
        joined = self._join(parts, batch.X.shape[1])
        if any(unit != (0.0, 1.0) for unit in units):
            joined[_UNIT] = np.array(units)
        return joined

    def measure(self, batch: Batch, k: int, allowed: Array | None) -> tuple[float, float]:
        """Location and scale of the response for an expert that counts on a common scale."""
        family = self.families[k]
        if self.affine_response or not family.affine_response or batch.y.ndim != 1:
            return 0.0, 1.0
        weight = batch.spread_units(batch.weight)
        weight = weight if allowed is None else weight * allowed
        y = batch.y if batch.offset is None else batch.y - batch.offset
        total = weight.sum()
        if not total > 0.0:
            return 0.0, 1.0
        y = np.where(weight > 0.0, y, 0.0)
        centre = float(weight @ y / total)
        scale = float(np.sqrt(weight @ (y - centre) ** 2 / total))
        return (centre if family.fit_intercept else 0.0), scale if scale > 0.0 else 1.0

    def fit_one(
        self,
        batch: Batch,
        k: int,
        resp: Array,
        allowed: Array | None,
        unit: tuple[float, float],
        rng: np.random.Generator,
    ) -> dict[str, Array]:
        """Start of expert k alone, from responsibilities (n,)."""
        weight = batch.spread_units(batch.weight)
        alone = replace(
            self.view(batch, k, *unit, allowed),
            Z=np.empty((batch.n_rows, 0)),
            weight=weight if allowed is None else weight * allowed,
            unit=None,
            log_prior=None,
        )
        return dict(self.families[k].init_params(alone, resp[:, None], rng))

    def arranged(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Array:
        """Clusters put to families: where these fit them best, or in half of the cases anywhere."""
        n_experts = resp.shape[1]
        labels = self.interchangeable(n_experts)
        if len(set(labels)) == 1:
            return resp
        order = rng.permutation(n_experts)
        if rng.random() >= _AT_RANDOM:
            order = best_places(self, batch.dense(), resp, labels, rng)
        return resp[:, order]

    # --- the vector of free parameters ---------------------------------------------------------

    def sizes(self, params: Params) -> tuple[list[int], list[int]]:
        """Numbers of penalised coefficients and of other parameters of each expert."""
        heads, rests = [], []
        for k in range(len(params["coef"])):
            family, own = self.families[k], self._own(params, k)
            heads.append(family.penalized_coef(own).size if "coef" in own else 0)
            rests.append(family.n_params(own) - heads[-1])
        return heads, rests

    def _gather(self, params: Params, vectors: list[Array]) -> Array:
        """Coefficients of all experts first, as in families of one kind; then the others."""
        heads, _ = self.sizes(params)
        first = [v[:size] for v, size in zip(vectors, heads, strict=True)]
        return np.concatenate(first + [v[size:] for v, size in zip(vectors, heads, strict=True)])

    def pack(self, params: Params) -> Array:
        own = range(len(params["coef"]))
        return self._gather(params, [self.families[k].pack(self._own(params, k)) for k in own])

    def unpack(self, vector: Array, like: Params) -> Params:
        heads, rests = self.sizes(like)
        cuts = np.cumsum([*heads, *rests])[:-1]
        pieces = np.split(vector, cuts)
        n_experts, p = like["coef"].shape
        parts = [
            dict(
                self.families[k].unpack(
                    np.concatenate([pieces[k], pieces[n_experts + k]]), self._own(like, k)
                )
            )
            for k in range(n_experts)
        ]
        return {**like, **self._join(parts, p)}

    def score(self, params: Params, stats: Stats) -> Array:
        vectors = [
            self.families[k].score(self._own(params, k), self._stats(stats, k))
            for k in range(len(params["coef"]))
        ]
        return self._gather(params, vectors)

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """Predictors of all experts; a predictor that only some have is flat for the others."""
        return joint_derivatives(self.members(params, batch), *self.sizes(params))

    def n_params(self, params: Params) -> int:
        heads, rests = self.sizes(params)
        return sum(heads) + sum(rests)

    def n_params_each(self, params: Params) -> Array:
        heads, rests = self.sizes(params)
        return np.add(heads, rests)

    def at_boundary(self, params: Params) -> Array:
        own = range(len(params["coef"]))
        return np.array([bool(self.families[k].at_boundary(self._own(params, k))[0]) for k in own])

    def collapsed(self, params: Params, stats: Stats) -> Array:
        own = range(len(params["coef"]))
        found = [
            self.families[k].collapsed(self._own(params, k), self._stats(stats, k)) for k in own
        ]
        return np.array([bool(one[0]) for one in found])

    def boundary_reason_of(self, expert: int) -> str:
        return self.families[expert].boundary_reason()

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        return np.array([
            bool(
                self.families[k].separation(self._own(params, k), self._stats(stats, k), penalty)[0]
            )
            for k in range(len(params["coef"]))
        ])  # fmt: skip

    def interchangeable(self, n_experts: int) -> Array:
        """Experts of the same family with the same settings may change places."""
        families = self.families[:n_experts]
        return np.array([families.index(family) for family in families])

    def permute(self, params: Params, order: Array) -> Params:
        """The same experts in another order, in which each has a family like its own.

        Raises
        ------
        ValueError
            If an expert would come to a place of another family.
        """
        labels = self.interchangeable(len(order))
        if (labels[order] != labels).any():
            raise ValueError(
                f"order {np.asarray(order).tolist()} puts an expert where one of another family is"
            )
        return super().permute(params, order)

    def penalized_coef(self, params: Params) -> Array:
        heads, _ = self.sizes(params)
        coef: Array = params["coef"][np.flatnonzero(heads)]
        return coef

    # --- scales ------------------------------------------------------------------------------

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        """NaN where an expert's family lacks a parameter that others have."""
        n_experts = len(params["coef"])
        joined = {
            "intercept": np.full(n_experts, np.nan),
            "coef": np.full((n_experts, design.n_terms), np.nan),
        }
        for k in range(n_experts):
            family, unit = self.families[k], self._unit(params, k)
            columns = design if regresses(family) else NO_COLUMNS
            common = (loc, scale) if self.affine_response else unit
            own = family.raw(self._own(params, k), columns, *common)
            for name, value in own.items():
                if name in ("coef", "intercept") and not regresses(family):
                    continue
                if name not in joined:
                    joined[name] = np.full((n_experts, *value.shape[1:]), np.nan)
                joined[name][k] = value[0]
        return joined

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        n_experts = len(raw["coef"])
        parts, units = [], []
        for k in range(n_experts):
            family = self.families[k]
            own = {name: raw[name][k : k + 1] for name in ("intercept", *family.param_names)}
            columns, unit = design, (loc, scale)
            if not regresses(family):
                columns = NO_COLUMNS
                own |= {"intercept": np.zeros(1), "coef": np.empty((1, 0))}
            if not self.affine_response:
                unit = (0.0, 1.0)
                if family.affine_response:  # measured by the expert's own scale
                    spread = float(own["scale"][0]) if "scale" in own else 1.0
                    unit = (0.0, spread if spread > 0.0 else 1.0)
            parts.append(dict(family.engine(own, columns, *unit)))
            units.append(unit)
        p = design.n_columns if design.basis is None else design.basis.shape[1]
        joined = self._join(parts, p)
        if not self.affine_response and any(f.affine_response for f in self.families):
            joined[_UNIT] = np.array(units)
        return joined

    # --- responses ---------------------------------------------------------------------------

    def check_response(self, y: Array) -> None:
        self.check_rows(y)
        if y.ndim != 1:
            return
        for k, rows in enumerate(self.allowed(y, len(self.families))):
            if rows is not None and not rows.any():
                raise InvalidResponseError(
                    f"no response in y can come from expert {k + 1} ({self.families[k].name}); "
                    "leave it out"
                )

    def check_rows(self, y: Array) -> None:
        if y.ndim != 1:
            for family in self.families:
                family.check_rows(y)
            return
        bad = ~np.logical_or.reduce([family.possible(y) for family in self.families])
        if bad.any():
            row = first_row(bad)
            names = ", ".join(dict.fromkeys(family.name for family in self.families))
            raise InvalidResponseError(
                f"row {row} of y holds {y[row]:g}, which none of the experts ({names}) can have "
                "produced; NaN and infinities are no responses"
            )

    def working_response(self, batch: Batch) -> Array:
        if batch.y.ndim != 1:
            return self.families[0].working_response(batch)
        return np.asarray(batch.y, dtype=np.float64)

    def residual(self, params: Params, batch: Batch) -> Array:
        members = self.members(params, batch)
        return self._columns(members, [m.family.residual(m.params, m.batch) for m in members])

    def distance(self, params: Params, batch: Batch) -> Array:
        return -self.log_prob(params, batch)

    # --- predictions ---------------------------------------------------------------------------

    def response_at(self, y: Array, value: Array) -> Array:
        return self.families[0].response_at(y, value)

    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, (n, K)."""
        members = self.members(params, batch, seen=False)
        means = [m.loc + m.scale * m.family.mean(m.params, m.batch) for m in members]
        return self._columns(members, means)

    def variance(self, params: Params, batch: Batch) -> Array:
        members = self.members(params, batch, seen=False)
        parts = [m.scale**2 * m.family.variance(m.params, m.batch) for m in members]
        return self._columns(members, parts)

    def cdf(self, params: Params, batch: Batch) -> Array:
        members = self.members(params, batch, seen=False)
        return self._columns(members, [m.family.cdf(m.params, m.batch) for m in members])

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K)."""
        members = self.members(params, batch, seen=False)
        parts = []
        for m in members:
            own = getattr(m.family, "sf", None)
            parts.append(
                1.0 - m.family.cdf(m.params, m.batch) if own is None else own(m.params, m.batch)
            )
        return self._columns(members, parts)

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Quantile of each expert at each row, (n, K)."""
        members = self.members(params, batch, seen=False)
        parts = [
            m.loc + m.scale * m.family.quantile(m.params, m.batch, probability) for m in members
        ]
        return self._columns(members, parts)

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        drawn = np.empty(batch.n_rows)
        for m in self.members(params, batch, seen=False):
            rows = np.flatnonzero(label == m.k)
            if rows.size:
                part = take_rows(m.batch, rows)
                own = m.family.sample(m.params, part, np.zeros(rows.size, dtype=np.int64), rng)
                drawn[rows] = m.loc + m.scale * own
        return drawn
