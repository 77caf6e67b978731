"""Coefficients that experts have in common, or that are known."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts._registry import resolve
from mixexperts.errors import DesignError, UnsupportedCombinationError
from mixexperts.experts._glm import shortening
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.penalties.base import NoPenalty, Penalty, solve_symmetric

#: Groups of experts that have one coefficient, experts numbered from 0.
Groups: TypeAlias = Literal["all"] | tuple[tuple[int, ...], ...]

_INTERCEPT = "Intercept"
# Information that is next to nothing has no inverse among the floats.
_NOTHING = 1e-290
_START_STEPS = 4
# What the wrapped family says of itself.
_TRAITS = (
    "affine_response", "discrete", "has_atoms", "support", "response_columns", "fused_code",
    "has_row_terms", "has_derivatives", "uses_features", "fit_intercept", "degree", "param_names",
    "mean_link", "partial",
)  # fmt: skip


def _inner(name: str) -> Any:
    """A method of the wrapped family."""

    def method(self: Tied, *args: Any, **options: Any) -> Any:
        return getattr(self.expert, name)(*args, **options)

    method.__name__ = name
    method.__doc__ = getattr(Expert, name).__doc__
    return method


@dataclass(frozen=True)
class Tied(Expert):
    r"""Experts of one family, some of whose coefficients are common to experts, or known.

    With groups :math:`G_1, G_2, \dots` of experts for a term, ``coef_k = coef_l`` wherever k and
    l are in the same group. The constraints hold on the scale of the user's columns; they are
    linear, so that the update of the coefficients is one weighted least-squares problem of all
    experts together.

    Parameters
    ----------
    expert : Expert or str, default="gaussian"
        Family of the experts: Gaussian, Poisson, binomial, or another with a linear predictor.
    terms : mapping of str to "all" or list of lists of int, optional
        Terms with coefficients in common: of ``"all"`` experts, or of groups of experts by
        number from 0, ``{"x1": [[0, 1], [2]]}``. Experts in no group have their own. A factor is
        named by itself or by one of its columns, the intercept by ``"Intercept"``.
    common : sequence of str, optional
        More terms with coefficients that all experts have in common.
    fixed : mapping of str to float or list of float, optional
        Known coefficients, in units of the response per unit of the column: one number for all
        experts, or one per expert with NaN where it is free.
    layout : tuple, optional
        The columns; the fit fills it in.

    Notes
    -----
    A common coefficient counts once among the free parameters. Where groups or known
    coefficients tell experts from each other, these keep their numbers in a fit; others are put
    in order.

    References
    ----------
    Grün, B. and Leisch, F. (2008). Finite mixtures of generalized linear regression models. In
    Recent Advances in Linear Models and Related Areas, 205-230. Physica. (Fixed and nested
    effects.)
    """

    expert: Expert = "gaussian"  # type: ignore[assignment]
    terms: Any = ()
    common: Any = ()
    fixed: Any = ()
    layout: Any = None
    name: ClassVar[str] = "tied"

    def __post_init__(self) -> None:
        expert = resolve("expert", self.expert, "expert")
        common = [self.common] if isinstance(self.common, str) else list(self.common)
        terms = dict(_pairs(self.terms, "terms")) | dict.fromkeys(common, "all")
        fixed = dict(_pairs(self.fixed, "fixed"))
        settled: dict[str, Any] = {
            "expert": expert,
            "terms": tuple((term, _groups(term, value)) for term, value in terms.items()),
            "common": (),
            "fixed": tuple((term, _values(term, value)) for term, value in fixed.items()),
        }
        _check_apart(settled["terms"], settled["fixed"])
        steps = type(expert).quadratic is not Expert.quadratic
        barred = isinstance(expert, Tied) or expert.truncates or expert.infinite_response
        if barred or not (steps and "coef" in expert.param_names):
            raise UnsupportedCombinationError(
                f"expert {expert.name!r} cannot be tied; use a family with one linear predictor, "
                "such as Gaussian(), Poisson() or Binomial()"
            )
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        for name in _TRAITS:
            object.__setattr__(self, name, getattr(expert, name))

    @classmethod
    def example(cls, n_experts: int) -> Expert:
        """Gaussian experts with one slope in common."""
        columns = DesignMap(("x0", "x1"), np.zeros(2), np.ones(2), np.eye(2, dtype=np.int64), True)
        return cls(common=("x1",)).bound(columns, 0.0, 1.0)

    def family_name(self) -> str:
        return self.expert.family_name()

    def with_intercept(self, fit_intercept: bool) -> Tied:
        return replace(self, expert=self.expert.with_intercept(fit_intercept))

    def design_options(self) -> Mapping[str, Any]:
        """Columns stay what they are: equal slopes of mixed columns would mean something else."""
        return {**self.expert.design_options(), "orthogonalize": False}

    # --- the constraints -----------------------------------------------------------------------

    def bound(self, design: DesignMap, loc: float, scale: float) -> Expert:
        """The same with its terms found among the columns.

        Raises
        ------
        DesignError
            If there is no such term.
        """
        columns = ((_INTERCEPT,) if design.intercept else ()) + design.column_names()
        named = [term for term, _ in (*self.terms, *self.fixed)]
        for term in named:
            if not _matching(term, columns):
                raise DesignError(
                    f"term {term!r} of {type(self).__name__} is not among the terms of the "
                    f"experts: {', '.join(map(repr, columns))}"
                )
        raw = design.standard_to_raw()
        if _INTERCEPT in columns and _INTERCEPT not in named:
            raw[0, 1:] = 0.0  # free, on whatever scale
        size = np.diagonal(raw)
        plain = raw / size[:, None]
        nested = tuple(tuple(map(float, row)) for row in plain)
        layout = (columns, nested, tuple(map(float, size)), float(loc), float(scale))
        return replace(self, layout=layout)

    def _directions(self, params: Params) -> tuple[Array, Array, Array]:
        return _directions(self, *params["coef"].shape)

    def check_experts(self, n_experts: int) -> None:
        for term, groups in self.terms:
            for k in () if groups == "all" else (k for group in groups for k in group):
                if not 0 <= k < n_experts:
                    raise ValueError(
                        f"terms[{term!r}] names expert {k}, but n_experts={n_experts} (experts are "
                        f"numbered 0 to {n_experts - 1})"
                    )
        for term, values in self.fixed:
            if len(values) not in (1, n_experts):
                raise ValueError(
                    f"fixed[{term!r}] has {len(values)} values, but n_experts={n_experts}; give "
                    "one number, or one per expert"
                )
        self.expert.check_experts(n_experts)

    def interchangeable(self, n_experts: int) -> Array:
        """Experts with the same place in all groups and the same known coefficients."""
        marks: list[tuple[Any, ...]] = [() for _ in range(n_experts)]
        for _, groups in self.terms:
            for k in range(n_experts):
                whose = 0 if groups == "all" else _group_of(k, groups)
                marks[k] += (whose,)
        for _, values in self.fixed:
            for k in range(n_experts):
                value = values[k if len(values) > 1 else 0]
                marks[k] += (None if math.isnan(value) else value,)
        own = self.expert.interchangeable(n_experts)
        whole = [(mark, int(label)) for mark, label in zip(marks, own, strict=True)]
        return np.array([whole.index(mark) for mark in whole])

    # --- EM --------------------------------------------------------------------------------

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """One step of all coefficients together; the family's own for everything else."""
        free, _, _ = self._directions(params)
        gram, cross = self.expert.quadratic(params, stats)
        n_experts, p = cross.shape
        each = free.reshape(n_experts, p, -1)
        hessian = np.einsum("kpa,kpq,kqb->ab", each, gram, each)
        slope = free.T @ cross.ravel()
        if not penalty.is_null:
            mask = self.penalized(p)
            diagonal = penalty.curvature(params["coef"], mask)
            if diagonal is None:
                raise UnsupportedCombinationError(
                    f"Tied takes no {penalty.name} penalty, which is not smooth; use Ridge()"
                )
            hessian += free.T @ (diagonal.reshape(-1, 1) * free)
            slope -= free.T @ penalty.gradient(params["coef"], mask).ravel()
        step = np.zeros((n_experts, p))
        if not penalty.is_null or np.trace(hessian) >= _NOTHING:
            step = (free @ solve_symmetric(hessian, slope)).reshape(n_experts, p)
        steep = getattr(self.expert, "steepness", lambda _: None)(params)
        if steep is not None:
            step *= min(shortening(a * s, g) for a, s, g in zip(steep, step, gram, strict=True))
        return self.expert.stepped(params, stats, step)

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """The family's start, its coefficients averaged in the groups, then a few steps."""
        params = self.expert.init_params(batch, resp, rng)
        params = self.unpack(self.pack(params), params)
        weight = batch.spread_units(resp * batch.weight[:, None])
        for _ in range(_START_STEPS):
            params = self.update(params, self.accumulate(params, batch, weight), NoPenalty())
        return params

    def pack(self, params: Params) -> Array:
        _, known, inverse = self._directions(params)
        coef = params["coef"]
        return np.concatenate(
            [inverse @ (coef.ravel() - known), self.expert.pack(params)[coef.size :]]
        )

    def unpack(self, vector: Array, like: Params) -> Params:
        free, known, _ = self._directions(like)
        m = free.shape[1]
        return self.expert.unpack(np.concatenate([known + free @ vector[:m], vector[m:]]), like)

    def score(self, params: Params, stats: Stats) -> Array:
        free, _, _ = self._directions(params)
        score = self.expert.score(params, stats)
        return np.concatenate([free.T @ score[: len(free)], score[len(free) :]])

    def _merge(self, params: Params) -> Array:
        free, _, _ = self._directions(params)
        rest = self.expert.n_params(params) - len(free)
        merge = np.zeros((len(free) + rest, free.shape[1] + rest))
        merge[: len(free), : free.shape[1]] = free
        merge[len(free) :, free.shape[1] :] = np.eye(rest)
        return merge

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """Those of the family, and how its coefficients follow from the free ones."""
        return replace(self.expert.derivatives(params, batch), merge=self._merge(params))

    def tie(self, params: Params, information: Array) -> Array:
        found = self.expert.tie(params, information)
        merge = self._merge(params)
        cut = len(found) - len(merge)
        full = np.eye(len(found), cut + merge.shape[1])
        full[cut:, cut:] = merge
        tied: Array = full.T @ found @ full
        return tied

    def n_params(self, params: Params) -> int:
        free, _, _ = self._directions(params)
        return int(self.expert.n_params(params)) - len(free) + int(free.shape[1])

    def n_params_each(self, params: Params) -> Array:
        """Coefficients in common are held by the rows of all experts that have them."""
        n_experts, p = params["coef"].shape
        own = [int(columns.sum()) for columns in self._own_columns(params)]
        rest = np.broadcast_to(self.expert.n_params_each(params), (n_experts,)) - p
        counts: Array = rest + np.array(own)
        return counts

    def _own_columns(self, params: Params) -> list[Array]:
        """Which free coefficients are those of one expert alone, by expert."""
        n_experts, p = params["coef"].shape
        each = self._directions(params)[0].reshape(n_experts, p, -1)
        used: Array = (each != 0.0).any(axis=1)
        alone = used.sum(axis=0) == 1
        return [alone & used[k] for k in range(n_experts)]

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        """Of the coefficients that an expert has to itself."""
        if "gram" not in stats:
            return np.zeros(len(stats["mass"]), dtype=bool)
        n_experts, p = params["coef"].shape
        each = self._directions(params)[0].reshape(n_experts, p, -1)
        held = np.zeros(p, dtype=bool) if penalty.is_null else self.penalized(p)
        found = np.zeros(n_experts, dtype=bool)
        for k, columns in enumerate(self._own_columns(params)):
            free = each[k][:, columns]
            free = free[:, ~free[held].any(axis=0)]
            if free.shape[1]:
                own = {"mass": stats["mass"][[k]], "gram": (free.T @ stats["gram"][k] @ free)[None]}
                found[k] = self.expert.separation(params, own, NoPenalty())[0]
        return found

    def permute(self, params: Params, order: Array) -> Params:
        """The same experts in another order, in which each has constraints like its own.

        Raises
        ------
        ValueError
            If an expert would come to a place with other constraints.
        """
        labels = self.interchangeable(len(order))
        if (labels[order] != labels).any():
            raise ValueError(
                f"order {np.asarray(order).tolist()} puts an expert where another has other "
                "constraints"
            )
        return self.expert.permute(params, order)

    def penalty_score(self, params: Params, gradient: Array) -> Array:
        pulled: Array = self._directions(params)[0].T @ gradient.ravel()
        return pulled

    def penalty_information(self, params: Params, diagonal: Array) -> Array:
        free, _, _ = self._directions(params)
        information: Array = free.T @ (diagonal.reshape(-1, 1) * free)
        return information

    @property
    def sf(self) -> Any:
        """Probability above ``batch.y``, where the family has it."""
        return self.expert.sf  # type: ignore[attr-defined]

    check_response = _inner("check_response")
    check_rows = _inner("check_rows")
    possible = _inner("possible")
    atoms = _inner("atoms")
    log_prob = _inner("log_prob")
    accumulate = _inner("accumulate")
    fused_response = _inner("fused_response")
    fused_inputs = _inner("fused_inputs")
    fused_stats = _inner("fused_stats")
    term_coef = _inner("term_coef")
    row_terms = _inner("row_terms")
    term_stats = _inner("term_stats")
    update_rises = _inner("update_rises")
    at_boundary = _inner("at_boundary")
    collapsed = _inner("collapsed")
    boundary_reason = _inner("boundary_reason")
    penalized = _inner("penalized")
    raw = _inner("raw")
    engine = _inner("engine")
    working_response = _inner("working_response")
    residual = _inner("residual")
    distance = _inner("distance")
    response_at = _inner("response_at")
    mean = _inner("mean")
    sample = _inner("sample")
    variance = _inner("variance")
    cdf = _inner("cdf")
    quantile = _inner("quantile")


def _pairs(given: Any, argument: str) -> Iterable[tuple[str, Any]]:
    pairs = tuple(given.items()) if isinstance(given, Mapping) else tuple(given or ())
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(
                f"{argument} must map names of terms to what holds of them, got {given!r}"
            )
    return pairs


def _groups(term: str, value: Any) -> Groups:
    if isinstance(value, str):
        if value != "all":
            raise ValueError(f"terms[{term!r}]={value!r}; give 'all' or groups such as [[0, 1]]")
        return "all"
    try:
        groups = tuple(tuple(int(k) for k in group) for group in value)
    except TypeError as error:
        raise TypeError(
            f"terms[{term!r}] must be 'all' or groups of experts such as [[0, 1], [2]], got "
            f"{value!r}"
        ) from error
    listed = [k for group in groups for k in group]
    twice = sorted({k for k in listed if listed.count(k) > 1})
    if twice:
        raise ValueError(f"terms[{term!r}] names expert {twice[0]} twice; groups do not overlap")
    return groups


def _values(term: str, value: Any) -> tuple[float, ...]:
    try:
        values = tuple(float(v) for v in np.atleast_1d(np.asarray(value, dtype=np.float64)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"fixed[{term!r}] must be a number or a list, got {value!r}") from error
    if any(math.isinf(v) for v in values) or all(math.isnan(v) for v in values):
        raise ValueError(f"fixed[{term!r}] must hold a finite number, got {value!r}")
    return values


def _check_apart(terms: tuple[tuple[str, Any], ...], fixed: tuple[tuple[str, Any], ...]) -> None:
    """Refuse a coefficient that is known and in common."""
    groups_of = dict(terms)
    for term, values in fixed:
        groups = groups_of.get(term, ())
        listed = range(len(values)) if groups == "all" else (k for g in groups for k in g)
        for k in listed:
            value = values[0] if len(values) == 1 else values[k] if k < len(values) else math.nan
            if not math.isnan(value):
                raise ValueError(
                    f"term {term!r} is both in common and fixed for expert {k}; choose one of the "
                    "two for each expert"
                )


def _group_of(k: int, groups: tuple[tuple[int, ...], ...]) -> int:
    """Number of the group that expert k is in; -1 for none."""
    return next((i for i, group in enumerate(groups) if k in group and len(group) > 1), -1)


def _matching(term: str, columns: tuple[str, ...]) -> list[int]:
    """Columns of a term: the one of its name, or those of the levels of a factor."""
    if term in columns:
        return [columns.index(term)]
    return [j for j, column in enumerate(columns) if column.startswith(f"{term}[")]


@functools.lru_cache(maxsize=64)
def _directions(tied: Tied, n_experts: int, p: int) -> tuple[Array, Array, Array]:
    """Coefficients (K p,) from free ones (m,): ``known + free @ g``; and the way back (m, K p)."""
    if tied.layout is None:
        raise ValueError(
            "Tied does not know its columns yet; call bound(design, loc, scale) first, as an "
            "estimator does"
        )
    columns, nested, size, loc, scale = tied.layout
    if len(columns) != p:
        raise DesignError(f"Tied was bound to {len(columns)} columns, but the design has {p}")
    number = np.full((n_experts, p), -1)
    known = np.zeros((n_experts, p))
    open_ = np.ones((n_experts, p), dtype=bool)
    leader = np.tile(np.arange(n_experts)[:, None], (1, p))
    for term, groups in tied.terms:
        for j in _matching(term, columns):
            for group in (range(n_experts),) if groups == "all" else groups:
                members = [k for k in group if k < n_experts]
                leader[members, j] = min(members, default=0)
    for term, values in tied.fixed:
        for j in _matching(term, columns):
            shift = loc if columns[j] == _INTERCEPT else 0.0
            for k in range(n_experts):
                value = values[k if len(values) > 1 else 0]
                if not math.isnan(value):
                    open_[k, j], known[k, j] = False, (value - shift) / (scale * size[j])
    at = 0
    for k in range(n_experts):
        for j in range(p):
            if open_[k, j] and leader[k, j] == k:
                number[k, j], at = at, at + 1
    free = np.zeros((n_experts, p, at))
    for k in range(n_experts):
        for j in range(p):
            if open_[k, j]:
                free[k, j, number[leader[k, j], j]] = 1.0
    back = np.linalg.inv(np.array(nested))
    free = np.einsum("pq,kqa->kpa", back, free).reshape(n_experts * p, at)
    inverse = np.linalg.pinv(free)
    found = free, (known @ back.T).ravel(), inverse
    for array in found:
        array.flags.writeable = False
    return found
