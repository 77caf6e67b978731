"""Grids of penalties, fits along them, and what their points are judged by."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse import (
    SparseFit,
    SparseParams,
    alpha_max,
    fit_sparse,
    null_fit,
    sparse_path,
)
from mixexperts.estimators import _checks as checks
from mixexperts.estimators._lasso_arguments import positive_number
from mixexperts.estimators._lasso_problem import Problem, centred

#: Criteria of a path; lower is better.
CRITERIA = ("aic", "bic", "ebic", "mbic")
#: Statuses of a solution whose likelihood may be compared with others.
SOUND = ("converged", "max_iter")
# Where no column goes with the response, a grid starts here, on the solver's scale.
_LEAST = 1e-12


@dataclass(frozen=True)
class Branch:
    """Fits along a grid, for one number of experts and one ratio of the two strengths.

    Attributes
    ----------
    problem : Problem
    gate_ratio : float
    alphas : ndarray of shape (m,)
        Descending, as the estimator states them.
    gate_alphas : ndarray of shape (m,)
        ``gate_ratio`` times these on the solver's scale.
    alpha_max : float
        The smallest at which all slopes zero is stationary.
    fits : tuple of SparseFit
        Penalised fits.
    relaxed : tuple of SparseFit or None
        Their dense refits.
    """

    problem: Problem
    gate_ratio: float
    alphas: Array
    gate_alphas: Array
    alpha_max: float
    penalties: tuple[Any, ...]
    fits: tuple[SparseFit, ...]
    relaxed: tuple[SparseFit, ...] | None

    @property
    def final(self) -> tuple[SparseFit, ...]:
        """The fits that the estimators report: dense refits where there are any."""
        return self.fits if self.relaxed is None else self.relaxed


def largest_alpha(est: Any, problem: Problem, gate_ratio: float) -> float:
    """The smallest ``alpha`` at which all penalised slopes zero is stationary.

    Exact at the best mixture without slopes; the strength of the gate is ``gate_ratio`` times that
    of the experts on the solver's scale.

    Raises
    ------
    ValueError
        If the penalty is ridge alone, which sets nothing to zero.
    """
    if est.l1_ratio == 0.0:
        raise ValueError(
            "l1_ratio=0 is ridge alone, which sets no coefficient to zero, so that no alpha is the "
            "first at which all are; give alphas=[...], or an l1_ratio above 0"
        )
    unit = float(est._unit(problem))
    penalty = est._penalty(problem, 1.0 / unit, gate_ratio)
    null = null_fit(
        problem.family,
        problem.rows,
        problem.n_experts,
        penalty,
        n_init=est.n_init,
        seed=problem.seed,
    )
    expert, gate = alpha_max(problem.family, problem.rows, null, penalty)
    return max(expert, gate / gate_ratio) / unit


def alpha_grid(largest: float, n_alphas: int, ratio: float, unit: float = 1.0) -> Array:
    """``n_alphas`` values from ``largest`` down to ``ratio`` times it, evenly on the log scale.

    ``unit`` is how many times these the solver's are.
    """
    largest = max(largest, _LEAST / unit)  # a response that no column goes with at all
    grid: Array = (
        largest * np.geomspace(1.0, ratio, n_alphas) if n_alphas > 1 else np.array([largest])
    )
    return grid


def given_alphas(alphas: Any) -> Array:
    """Strengths of a user's grid, descending.

    Raises
    ------
    ValueError, TypeError
        If there are none, or one is no finite number > 0, or stands there twice.
    """
    if isinstance(alphas, str | numbers.Number) or not isinstance(alphas, Iterable):
        raise TypeError(f"alphas must be a sequence of numbers > 0 or None, got {alphas!r}")
    values = [positive_number(value, "alphas", "leave the others out") for value in alphas]
    if not values:
        raise ValueError("alphas is empty; give at least one number > 0, or None for a grid")
    if len(set(values)) < len(values):
        raise ValueError("alphas holds a number twice; give each once")
    return np.sort(np.array(values))[::-1]


def grid_arguments(n_alphas: Any, alpha_min_ratio: Any, problem: Problem) -> tuple[int, float]:
    """Number of points and smallest share of ``alpha_max``, checked.

    Raises
    ------
    ValueError, TypeError
        If they cannot be used.
    """
    points = checks.positive_integer(n_alphas, "n_alphas")
    if alpha_min_ratio is None:
        return points, 1e-2 if problem.data.n_rows > len(problem.taken) else 5e-2
    ratio = positive_number(alpha_min_ratio, "alpha_min_ratio", "it is a share, such as 0.01")
    if ratio >= 1.0:
        raise ValueError(
            f"alpha_min_ratio must lie in (0, 1), got {alpha_min_ratio!r}; the grid goes down to "
            "this share of the largest alpha"
        )
    return points, ratio


def fit_branch(
    est: Any,
    problem: Problem,
    gate_ratio: float,
    alphas: Array | None,
    *,
    n_alphas: int = 30,
    alpha_min_ratio: float = 1e-2,
    unit: float | None = None,
    progress: Any = None,
) -> Branch:
    """Fits of an estimator's penalty along a grid, the strongest first.

    ``alphas`` None makes the grid from ``alpha_max``. Of the adaptive lasso the grid is that of the
    pilots, and each point has weights of its own pilot. ``unit`` turns ``alpha`` into that of the
    solver where the ratio is one of the two strengths: of a part of the rows that of all.
    """
    largest = math.nan
    unit = float(est._unit(problem)) if unit is None else unit
    if alphas is None:
        largest = largest_alpha(est, problem, gate_ratio)
        alphas = alpha_grid(largest, n_alphas, alpha_min_ratio, unit)
    gate_alphas = gate_ratio * unit * alphas
    penalties = [
        est._penalty(problem, float(a), float(g)) for a, g in zip(alphas, gate_alphas, strict=True)
    ]
    starts, names = est._starts(problem, penalties[len(penalties) // 2])
    found = sparse_path(
        problem.family,
        problem.rows,
        problem.n_experts,
        penalties,
        starts=starts,
        n_init=est.n_init,
        init=names[0] if starts is None else "auto",
        tol=float(est.tol),
        max_iter=est.max_iter,
        seed=problem.seed,
        progress=progress,
    )
    if est.penalty == "adaptive":
        penalties, found = _adapted(est, problem, penalties, found)
    # Of rows that the likelihood cannot tell apart, those that the penalty sees. A neighbour's
    # solution that was found to hold took a look at the gradient.
    fits = [
        replace(fit, params=centred(penalty, fit.params), n_iter=max(fit.n_iter, 1))
        for penalty, fit in zip(penalties, found, strict=True)
    ]
    relaxed = None
    if est.relax:
        relaxed = tuple(
            est._relaxed(problem, penalty, fit)
            for penalty, fit in zip(penalties, fits, strict=True)
        )
    return Branch(
        problem, gate_ratio, alphas, gate_alphas, largest, tuple(penalties), tuple(fits), relaxed
    )


def _adapted(
    est: Any, problem: Problem, penalties: Sequence[Any], pilots: Sequence[SparseFit]
) -> tuple[list[Any], tuple[SparseFit, ...]]:
    """The second stage of the adaptive lasso at each point, from its pilot."""
    arguments = est._arguments()
    own, fits = [], []
    for penalty, pilot in zip(penalties, pilots, strict=True):
        pilot = replace(pilot, params=centred(penalty, pilot.params))
        adapted = arguments.adapted(penalty, pilot.params, problem.family.nominal)
        found = fit_sparse(
            problem.family,
            problem.rows,
            problem.n_experts,
            adapted,
            starts=(pilot.params,),
            tol=float(est.tol),
            max_iter=est.max_iter,
            seed=problem.seed,
        )
        own.append(adapted)
        fits.append(replace(found.best, kind=pilot.kind))
    return own, tuple(fits)


# --- what points are judged by ------------------------------------------------------------------


def worse(fit: SparseFit, final: SparseFit) -> SparseFit:
    """Of a fit and its dense refit the one whose status is worse, the refit where both tie."""
    rank = [SOUND.index(own.status) if own.status in SOUND else len(SOUND) for own in (fit, final)]
    return fit if rank[0] > rank[1] else final


def n_candidates(problem: Problem) -> int:
    """Slopes that a penalised fit could use, counted as ``n_nonzero_`` counts them.

    Of the gate K - 1 for a column, of multinomial experts C - 1 for each expert.
    """
    experts, gate = (len(columns) for columns in problem.room_columns)
    rows = problem.n_rows_of_expert - 1 if problem.family.nominal else 1
    return problem.n_experts * rows * experts + (problem.n_experts - 1) * gate


def criteria(
    log_likelihood: float, df: int, n_nonzero: int, n: float, candidates: int, ebic_gamma: float
) -> dict[str, float]:
    """AIC, BIC, EBIC and the BIC that counts slopes alone; lower is better.

    EBIC (Chen and Chen 2008) adds twice ``ebic_gamma`` times the log of the number of models with
    as many slopes.
    """
    from scipy.special import gammaln

    s, total = float(n_nonzero), float(candidates)
    models = float(gammaln(total + 1.0) - gammaln(s + 1.0) - gammaln(total - s + 1.0))
    deviance = -2.0 * log_likelihood
    return {
        "aic": deviance + 2.0 * df,
        "bic": deviance + df * math.log(n),
        "ebic": deviance + df * math.log(n) + 2.0 * ebic_gamma * models,
        "mbic": deviance + n_nonzero * math.log(n),
    }


def point_rows(branch: Branch, ebic_gamma: float) -> list[dict[str, Any]]:
    """One row of a table per point of a branch."""
    problem = branch.problem
    jacobian, candidates = problem.log_jacobian, n_candidates(problem)
    rows = []
    points = zip(branch.alphas, branch.gate_alphas, branch.fits, branch.final, strict=True)
    for alpha, gate_alpha, fit, final in points:
        n_nonzero, df = problem.counts(final.params)
        log_likelihood = final.log_likelihood + jacobian
        said = worse(fit, final)
        rows.append(
            {
                "n_experts": problem.n_experts,
                "gate_ratio": branch.gate_ratio,
                "alpha": float(alpha),
                "gate_alpha": float(gate_alpha),
                "log_likelihood": log_likelihood,
                "objective": fit.objective + jacobian,
                "n_nonzero": n_nonzero,
                "df": df,
                **criteria(
                    log_likelihood, df, n_nonzero, problem.data.weight, candidates, ebic_gamma
                ),
                "kkt_violation": fit.kkt_violation,
                "status": said.status,
                "n_iter": fit.n_iter,
                "flag": "; ".join(said.flags),
            }
        )
    return rows


def coefficient_rows(branch: Branch, orders: Sequence[Array], point: int) -> list[dict[str, Array]]:
    """Coefficients that are not zero, as columns of a table for each point of a branch.

    ``orders`` are the numbers of the experts at each point, ``point`` that of the first.
    """
    problem = branch.problem
    labels = [None] if problem.classes is None else list(problem.classes)
    expert_terms = np.array(problem.frame.expert_map.column_names(), dtype=object)
    gate_terms = np.array(problem.model.gate.terms(problem.frame.gate_map), dtype=object)
    classes = np.array(labels if problem.family.nominal else [None], dtype=object)
    tables = []
    for i, (final, order) in enumerate(zip(branch.final, orders, strict=True)):
        coef, gate = raw_slopes(problem, final.params.permute(order))
        k, c, j = np.nonzero(coef)
        m, t = np.nonzero(gate)
        size = len(k) + len(m)
        tables.append(
            {
                "point": np.full(size, point + i),
                "n_experts": np.full(size, problem.n_experts),
                "gate_ratio": np.full(size, branch.gate_ratio),
                "alpha": np.full(size, branch.alphas[i]),
                "gate_alpha": np.full(size, branch.gate_alphas[i]),
                "room": np.repeat(np.array(["expert", "gate"], dtype=object), [len(k), len(m)]),
                "expert": np.concatenate([k, m]) + 1,
                "class": np.concatenate([classes[c], np.full(len(m), None, dtype=object)]),
                "term": np.concatenate([expert_terms[j], gate_terms[t]]),
                "coef": np.concatenate([coef[k, c, j], gate[m, t]]),
            }
        )
    return tables


def raw_slopes(problem: Problem, params: SparseParams) -> tuple[Array, Array]:
    """Slopes on the scale of X and y: of the experts (K, L, p) and of the gate (K, q)."""
    experts, gate = problem.room_columns
    frame = problem.frame
    coef = params.coef[:, :, experts] * (problem.unit / frame.expert_map.scale)
    return coef, params.gate_coef[:, gate] / frame.gate_map.scale
