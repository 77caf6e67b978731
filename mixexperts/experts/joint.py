"""Several responses of different types, independent given the features and the expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts._registry import resolve
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts._several import filled, offset_columns
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.penalties.base import Penalty

# Observed values that are tried in the place of missing ones, to name the row of a bad one.
_TRIED = 50


@dataclass(frozen=True)
class Joint(Expert):
    r"""Experts of several responses, each with a family of its own.

    .. math:: f_k(y \mid x) = \prod_j f_{kj}(y_j \mid x)

    Given the features and the expert the responses are independent; what they have in common is
    which expert the row belongs to. For Gaussian responses that are correlated within experts
    use :class:`MultivariateGaussian`.

    A missing response (NaN) drops out of the product, which is the likelihood of what was
    observed and right where values are missing at random. A row without any is refused.

    Parameters
    ----------
    members : sequence of str or Expert, default=("gaussian", "poisson")
        Families of the responses, in the order of the columns of y; one column each. Binomial
        responses hold zeros and ones.
    degree : int, default=1
        Total degree of the polynomials in the features, for all responses.
    fit_intercept : bool, default=True
        Whether all responses have intercepts.

    Raises
    ------
    UnsupportedCombinationError
        If a family has several responses itself, or no coefficients.
    ValueError
        If a family states another degree, or ``fit_intercept=False`` on its own.

    Notes
    -----
    ``intercept_`` has shape (K, d) and ``coef_`` (K, d, n_terms) for d responses; other parameters
    such as ``scale_`` have shape (K, d), NaN for families without them.

    References
    ----------
    Hunt, L. and Jorgensen, M. (2003). Mixture model clustering for mixed data with missing
    information. Computational Statistics and Data Analysis 41, 429-440.
    """

    members: Any = ("gaussian", "poisson")
    degree: int = 1
    fit_intercept: bool = True

    name: ClassVar[str] = "joint"
    param_names: ClassVar[tuple[str, ...]] = ("coef",)
    multivariate: ClassVar[bool] = True
    allows_missing: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_terms()
        given = self.members
        if isinstance(given, str | Expert) or not hasattr(given, "__iter__"):
            raise TypeError(f"members must be a list of families, got {given!r}")
        members = tuple(resolve("expert", m, f"members[{j}]") for j, m in enumerate(given))
        if not members:
            raise ValueError("members is empty; give a family for each response")
        for j, member in enumerate(members):
            self._check_member(j, member)
        # What the class says of one family hangs on the members here.
        facts = {
            "members": members,
            "param_names": (
                "coef", *(f"{j}.{n}" for j, m in enumerate(members) for n in _own_names(m))
            ),
            "affine_response": any(m.affine_response for m in members),
            "discrete": any(m.discrete for m in members),
            "has_derivatives": all(m.has_derivatives for m in members),
        }  # fmt: skip
        for fact, value in facts.items():
            object.__setattr__(self, fact, value)

    def _check_member(self, j: int, member: Expert) -> None:
        if member.multivariate or 1 not in member.response_columns:
            raise UnsupportedCombinationError(
                f"members[{j}] is {member.name!r}, which takes several columns of y; give a "
                "family of one response for each column"
            )
        own = {field.name for field in fields(member)}  # type: ignore[arg-type]
        if not {"degree", "fit_intercept"} <= own or member.takes_classes == "many":
            raise UnsupportedCombinationError(
                f"members[{j}] is {member.name!r}, which cannot stand beside others; use a family "
                "of numbers as it is, without a wrapper"
            )
        if "coef" not in member.param_names or not member.uses_features:
            raise UnsupportedCombinationError(
                f"members[{j}] is {member.name!r}, which has no coefficients; use another family"
            )
        if member.degree not in (1, self.degree):
            raise ValueError(
                f"members[{j}] has degree={member.degree}; the degree is common to all responses: "
                f"Joint(..., degree={member.degree})"
            )
        if self.fit_intercept and not member.fit_intercept:
            raise ValueError(
                f"members[{j}] has fit_intercept=False, which is common to all responses: "
                "Joint(..., fit_intercept=False)"
            )

    def _families(self) -> tuple[Expert, ...]:
        """The members with the terms that all have."""
        terms: dict[str, Any] = {"degree": self.degree, "fit_intercept": self.fit_intercept}
        return tuple(replace(member, **terms) for member in self.members)

    def _each(self, params: Params) -> Iterator[tuple[int, Expert, Params]]:
        """Number, family and parameters of each member."""
        for j, family in enumerate(self._families()):
            own = {name: params[f"{j}.{name}"] for name in _own_names(family)}
            yield j, family, {"coef": params["coef"][:, j], **own}

    def _together(self, each: list[Params]) -> dict[str, Array]:
        """Inverse of :meth:`_each`."""
        params = {"coef": np.stack([own["coef"] for own in each], axis=1)}
        for j, own in enumerate(each):
            params |= {f"{j}.{name}": own[name] for name in own if name != "coef"}
        return params

    def _rows(self, batch: Batch, j: int) -> tuple[Any, Batch]:
        """Rows whose response j was observed, and their batch of that response alone."""
        seen = ~np.isnan(batch.y[:, j])
        rows: Any = slice(None) if seen.all() else np.flatnonzero(seen)
        y = batch.y[rows, j]
        offset = None
        if batch.offset is not None:
            columns = offset_columns(batch)
            offset = columns[rows, j if columns.shape[1] > 1 else 0]
        return rows, Batch(
            y,
            {name: design[rows] for name, design in batch.designs.items()},
            np.empty((len(y), 0)),
            batch.spread_units(batch.weight)[rows],
            offset=offset,
        )

    # --- response --------------------------------------------------------------------------

    def takes_columns(self, n_columns: int) -> bool:
        return n_columns == len(self.members)

    def affine_columns(self, n_columns: int) -> Array:
        return np.array([member.affine_response for member in self.members])

    def discrete_columns(self, n_columns: int) -> Array:
        return np.array([member.discrete for member in self.members])

    def check_response(self, y: Array) -> None:
        """A column for each family, NaN where a response is missing, never all of a row."""
        self._check(y, lambda family, column: family.check_response(column))
        lost = np.isnan(y).all(axis=0)
        if lost.any():
            raise InvalidResponseError(
                f"column {int(lost.argmax())} of y holds no value; leave that response out"
            )

    def check_rows(self, y: Array) -> None:
        self._check(y, lambda family, column: family.check_rows(column))

    def _check(self, y: Array, check: Callable[[Expert, Array], None]) -> None:
        d = len(self.members)
        if y.ndim != 2 or y.shape[1] != d:
            raise InvalidResponseError(
                f"joint experts of {d} families take a response of {d} columns, got shape {y.shape}"
            )
        empty = np.isnan(y).all(axis=1)
        if empty.any():
            raise InvalidResponseError(
                f"all responses are missing (NaN) in row {int(np.flatnonzero(empty)[0])} of y, "
                "which says nothing about the experts; drop such rows"
            )
        for j, family in enumerate(self.members):
            try:
                check(family, _with_something(family, y[:, j]))
            except InvalidResponseError as error:
                raise InvalidResponseError(f"column {j} of y: {error}") from error

    def response_at(self, y: Array, value: Array) -> Array:
        return np.where(np.isnan(y), np.nan, value)

    # --- EM --------------------------------------------------------------------------------

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        each = []
        for j, family in enumerate(self._families()):
            rows, part = self._rows(batch, j)
            each.append(family.init_params(part, batch.spread_units(resp)[rows], rng))
        return self._together(each)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        """Log density of what was observed of each row, (n, K)."""
        out: Array = np.zeros((batch.n_rows, len(params["coef"])), params["coef"].dtype)
        for j, family, own in self._each(params):
            rows, part = self._rows(batch, j)
            out[rows] += family.log_prob(own, part)
        return out

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        """The sums of each family over the rows that it sees, by number, and the whole masses."""
        stats: dict[str, Any] = {"mass": weight.sum(axis=0)}
        for j, family, own in self._each(params):
            rows, part = self._rows(batch, j)
            sums = family.accumulate(own, part, weight[rows])
            stats |= {f"{j}.{name}": value for name, value in sums.items()}
        first = next(self._each(params))
        _, every = self._rows(_observed(batch), 0)
        stats["fitted"] = np.einsum("ik,ik->k", weight, first[1].mean(first[2], every))
        return stats

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        return self._together(
            [family.update(own, _part(stats, j), penalty) for j, family, own in self._each(params)]
        )

    def pack(self, params: Params) -> Array:
        """Coefficients of all families, then their other parameters."""
        packed = [family.pack(own) for _, family, own in self._each(params)]
        return self._sorted(packed, params)

    def _sorted(self, vectors: list[Array], params: Params) -> Array:
        cut = params["coef"][:, 0].size
        return np.concatenate([v[:cut] for v in vectors] + [v[cut:] for v in vectors])

    def unpack(self, vector: Array, like: Params) -> Params:
        cut = like["coef"][:, 0].size
        coef, rest = np.split(vector, [like["coef"].size])
        each = []
        for j, family, own in self._each(like):
            n_own = family.n_params(own) - cut
            whole = np.concatenate([coef[j * cut : (j + 1) * cut], rest[:n_own]])
            each.append(family.unpack(whole, own))
            rest = rest[n_own:]
        return self._together(each)

    def score(self, params: Params, stats: Stats) -> Array:
        scores = [family.score(own, _part(stats, j)) for j, family, own in self._each(params)]
        return self._sorted(scores, params)

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """Those of each family in its own predictors; the first of each is that of the mean."""
        found = []
        for j, family, own in self._each(params):
            rows, part = self._rows(batch, j)
            found.append((rows, family.derivatives(own, part)))
        order = [(j, 0) for j in range(len(found))]
        order += [(j, t) for j, (_, one) in enumerate(found) for t in range(1, len(one.designs))]
        n, n_experts, count = batch.n_rows, len(params["coef"]), len(order)
        slope, curve = np.zeros((count, n, n_experts)), np.zeros((count, count, n, n_experts))
        designs, tied = [], []
        for a, (j, t) in enumerate(order):
            rows, one = found[j]
            design = np.zeros((n, one.designs[t].shape[1]))
            design[rows] = one.designs[t]
            designs.append(batch.X if t == 0 else design)
            tied.append(one.tied[t])
            slope[a, rows] = one.slope[t]
            for b, (i, s) in enumerate(order):
                if i == j:
                    curve[a, b, rows] = one.curve[t, s]
        return Derivatives(tuple(designs), slope, curve, tuple(tied))

    def n_params(self, params: Params) -> int:
        return sum(family.n_params(own) for _, family, own in self._each(params))

    def n_params_each(self, params: Params) -> int:
        return sum(int(np.max(f.n_params_each(own))) for _, f, own in self._each(params))

    def at_boundary(self, params: Params) -> Array:
        each = [family.at_boundary(own) for _, family, own in self._each(params)]
        boundary: Array = np.any(each, axis=0)
        return boundary

    def collapsed(self, params: Params, stats: Stats) -> Array:
        each = [family.collapsed(own, _part(stats, j)) for j, family, own in self._each(params)]
        collapsed: Array = np.any(each, axis=0)
        return collapsed

    def boundary_reason(self) -> str:
        reasons = [
            family.boundary_reason()
            for family in self.members
            if type(family).at_boundary is not Expert.at_boundary
        ]
        return " or ".join(dict.fromkeys(reasons)) or super().boundary_reason()

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        each = [
            family.separation(own, _part(stats, j), penalty)
            for j, family, own in self._each(params)
        ]
        separated: Array = np.any(each, axis=0)
        return separated

    def penalized_coef(self, params: Params) -> Array:
        """The coefficients that a penalty sees, (d K, p), in the order of :meth:`pack`."""
        each = [family.penalized_coef(own) for _, family, own in self._each(params)]
        return np.concatenate(each)

    # --- the user's scale ------------------------------------------------------------------

    def raw(self, params: Params, design: DesignMap, loc: Any, scale: Any) -> dict[str, Array]:
        d = len(self.members)
        loc, scale = np.broadcast_to(loc, (d,)), np.broadcast_to(scale, (d,))
        return self._stacked(
            [
                family.raw(own, design, float(loc[j]), float(scale[j]))
                for j, family, own in self._each(params)
            ]
        )

    @staticmethod
    def _stacked(each: list[dict[str, Array]]) -> dict[str, Array]:
        """Arrays of the members with the response on axis 1, NaN where one has no such."""
        stacked = {}
        for name in dict.fromkeys(name for raw in each for name in raw):
            like = next(raw[name] for raw in each if name in raw)
            columns = [raw.get(name, np.full(like.shape, np.nan)) for raw in each]
            stacked[name] = np.stack(columns, axis=1)
        return stacked

    def engine(self, raw: Mapping[str, Array], design: DesignMap, loc: Any, scale: Any) -> Params:
        d = len(self.members)
        loc, scale = np.broadcast_to(loc, (d,)), np.broadcast_to(scale, (d,))
        n_experts, _, n_terms = raw["coef"].shape
        each = []
        for j, family in enumerate(self._families()):
            names = family.raw_template(n_experts, n_terms, 1)
            own = {name: raw[name][:, j] for name in names}
            each.append(family.engine(own, design, float(loc[j]), float(scale[j])))
        return self._together(each)

    def raw_template(self, n_experts: int, n_terms: int, n_columns: int) -> dict[str, Array]:
        return self._stacked(
            [family.raw_template(n_experts, n_terms, 1) for family in self._families()]
        )

    def table_rows(
        self, raw: Mapping[str, Array], responses: tuple[str, ...]
    ) -> dict[tuple[str, ...], Array]:
        """The families' own parameters."""
        return {
            (name, response): values[:, j]
            for name, values in raw.items()
            if name not in ("intercept", "coef") and values.ndim == 2
            for j, response in enumerate(responses)
            if not np.isnan(values[:, j]).all()
        }

    # --- starts ----------------------------------------------------------------------------

    def working_response(self, batch: Batch) -> Array:
        """The responses on the scale of their predictors, (n, d); missing ones at the mean."""
        values = np.full(batch.y.shape, np.nan)
        for j, family in enumerate(self._families()):
            rows, part = self._rows(batch, j)
            values[rows, j] = family.working_response(part)
        return filled(values, batch.spread_units(batch.weight))

    def residual(self, params: Params, batch: Batch) -> Array:
        """Residuals of each expert, (n, K, d); zero where the response is missing."""
        residual = np.zeros((batch.n_rows, len(params["coef"]), len(self.members)))
        for j, family, own in self._each(params):
            rows, part = self._rows(batch, j)
            residual[rows, :, j] = family.residual(own, part)
        return residual

    def distance(self, params: Params, batch: Batch) -> Array:
        """Mean of the families' distances over the observed responses, (n, K)."""
        total = np.zeros((batch.n_rows, len(params["coef"])))
        for j, family, own in self._each(params):
            rows, part = self._rows(batch, j)
            total[rows] += family.distance(own, part)
        seen: Array = (~np.isnan(batch.y)).sum(axis=1, keepdims=True)
        return total / np.maximum(seen, 1)

    # --- predictions -----------------------------------------------------------------------

    def _stack(self, params: Params, batch: Batch, method: str) -> Array:
        columns = []
        for j, family, own in self._each(params):
            _, part = self._rows(_observed(batch), j)
            columns.append(getattr(family, method)(own, part))
        return np.stack(columns, axis=2)

    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, (n, K, d)."""
        return self._stack(params, batch, "mean")

    def variance(self, params: Params, batch: Batch) -> Array:
        """Variances of the responses, (n, K, d)."""
        return self._stack(params, batch, "variance")

    def covariance_within(self, params: Params, batch: Batch) -> Array:
        return self.variance(params, batch)[..., None] * np.eye(len(self.members))

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        """Responses (n, d), none of them missing."""
        columns = []
        for j, family, own in self._each(params):
            _, part = self._rows(_observed(batch), j)
            columns.append(family.sample(own, part, label, rng))
        return np.column_stack(columns)

    def marginal(self, params: Params, response: int) -> tuple[Expert, Params]:
        _, family, own = list(self._each(params))[response]
        return family, own


def _own_names(family: Expert) -> tuple[str, ...]:
    return tuple(name for name in family.param_names if name != "coef")


def _part(stats: Stats, j: int) -> Stats:
    prefix = f"{j}."
    return {n.removeprefix(prefix): value for n, value in stats.items() if n.startswith(prefix)}


def _observed(batch: Batch) -> Batch:
    """The batch with ones for missing responses, where their values do not matter."""
    lost = np.isnan(batch.y)
    return replace(batch, y=np.where(lost, 1.0, batch.y)) if lost.any() else batch


def _with_something(family: Expert, column: Array) -> Array:
    """A column without missing values: an observed one that will do stands for them."""
    lost = np.isnan(column)
    known = column[~lost]
    for value in known[:_TRIED]:
        try:
            family.check_rows(np.array([value]))
        except InvalidResponseError:
            continue
        return np.where(lost, value, column)
    return known
