"""Penalised fits from several starts, the null model, and where slopes begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse.problem import Problem
from mixexperts.em.sparse.rows import SparseParams, SparseRows
from mixexperts.em.sparse.solver import SparseFit, finished, relabelled, solve
from mixexperts.em.sparse.starts import initial_params, named_starts
from mixexperts.experts.base import Expert
from mixexperts.penalties.sparse import Room, SparsePenalty

# Starts are run until their gradients are this close to optimal, in units of the weaker penalty,
# compared, and the best go on.
_ROUGH = (0.3, 0.03)
_KEPT = (0.4, 0.2)
# Steps that a start may take before the first comparison, and before the second.
_SHORT = (12, 40)
_TIE = 1e-9
# Objectives of runs that are not done may be this far apart, per unit of weight, to be compared.
_SAME = 1e-7
# What a run may still gain, per unit of weight, once it has been through the rounds.
_BELOW = 1e-2
# Rounds of trying each expert as the reference: a better fit may have a better reference again.
_REFERENCES = 4


@dataclass(frozen=True)
class SparseFits:
    """Fits from several starts.

    Attributes
    ----------
    all : tuple of SparseFit
        In the order of the starts.
    """

    all: tuple[SparseFit, ...]

    @property
    def best(self) -> SparseFit:
        """The sound one of the highest objective; the first of those that tie."""
        ranks = [fit.rank for fit in self.all]
        done = [fit.status != "screened" for fit in self.all]
        sound, highest = max(rank for rank, d in zip(ranks, done, strict=True) if d)
        tie = highest - _TIE * (1.0 + abs(highest)) if np.isfinite(highest) else highest
        return next(
            fit
            for fit, rank, d in zip(self.all, ranks, done, strict=True)
            if d and rank[0] == sound and rank[1] >= tie
        )


def fit_sparse(
    expert: Expert,
    rows: SparseRows,
    n_experts: int,
    penalty: SparsePenalty,
    *,
    starts: Sequence[SparseParams] | None = None,
    n_init: int = 10,
    init: str = "auto",
    tol: float = 1e-7,
    max_iter: int = 1000,
    seed: int = 0,
    likely: Array | None = None,
) -> SparseFits:
    """Maximise the log-likelihood less the penalty of experts and gate, from several starts.

    Parameters
    ----------
    expert : Expert
        Family of the experts, bound to the response.
    rows : SparseRows
    n_experts : int
    penalty : SparsePenalty
        Per unit of weight, for the columns of the rows.
    starts : sequence of SparseParams, optional
        Where to start; None makes ``n_init`` starts of the kind ``init``.
    n_init : int, default=10
    init : str, default="auto"
        A kind of :mod:`mixexperts.em.init`; ``"auto"`` takes several in turn.
    tol : float, default=1e-7
        Largest distance of the gradient per unit of weight from the subdifferential.
    max_iter : int, default=1000
        Most steps of a run.
    seed : int, default=0
    likely : ndarray of bool of shape (p,), optional
        Columns that are likely to have coefficients.

    Returns
    -------
    SparseFits
        Starts that fell behind have the status ``screened``.

    Raises
    ------
    UnsupportedCombinationError
        If the family has no single linear predictor.
    """
    from mixexperts.em.executors import one_blas_thread

    problem = Problem.of(expert, rows, n_experts, penalty)
    with one_blas_thread():
        if starts is None:
            given = list(_made(problem, init, n_init, seed))
        else:
            given = [(start, "parameters") for start in starts]
        fits = run_starts(problem, given, tol, max_iter, likely)
        if penalty.gate_coding == "reference" and n_experts > 2:
            _change_reference(problem, fits, tol, max_iter)
        return SparseFits(tuple(fits))


def _change_reference(problem: Problem, fits: list[SparseFit], tol: float, max_iter: int) -> None:
    """Try each expert of the best fit as the reference: the penalty depends on which it is."""
    best = SparseFits(tuple(fits)).best
    place = next(i for i, fit in enumerate(fits) if fit is best)
    for _ in range(_REFERENCES):
        best = fits[place]
        for k in range(problem.n_experts - 1):
            order = np.array([j for j in range(problem.n_experts) if j != k] + [k])
            start = best.params.permute(order)
            start = replace(
                start,
                gate_intercept=start.gate_intercept - start.gate_intercept[-1],
                gate_coef=start.gate_coef - start.gate_coef[-1],
            )
            other = solve(problem, start, tol=tol, max_iter=max_iter, kind=best.kind)
            if other.sound and other.rank > fits[place].rank:
                fits[place] = other
        if fits[place].objective <= best.objective + _SAME * problem.total:
            return


def _made(
    problem: Problem, init: str, n_init: int, seed: int
) -> Sequence[tuple[SparseParams, str]]:
    if problem.n_experts == 1:
        return [(initial_params(problem, "single", 0, seed), "single")]
    named = named_starts(problem, init, n_init)
    return [(initial_params(problem, kind, index, seed), kind) for kind, index in named]


def run_starts(
    problem: Problem,
    starts: Sequence[tuple[SparseParams, str]],
    tol: float,
    max_iter: int,
    likely: Array | None = None,
    bar: float | None = None,
) -> list[SparseFit]:
    """Run starts in rounds: all a little, the better ones further, the best to the end.

    With a ``bar`` those end before that are clearly below this objective.
    """
    fits = [
        SparseFit(
            params, np.nan, -np.inf, np.empty(0), 0, "screened", np.nan,
            np.empty(0), np.empty(0), kind=kind,
        )
        for params, kind in starts
    ]  # fmt: skip
    going = list(range(len(fits)))
    strengths = [a for a in (problem.penalty.alpha, problem.penalty.gate_alpha) if a > 0.0]
    unit = min([*strengths, 0.1])
    for rough, share, most in zip(_ROUGH, _KEPT, _SHORT, strict=True):
        if len(going) <= 2:
            break
        for i in going:
            fits[i] = _further(
                problem, fits[i], max(rough * unit, tol), min(most, max_iter), likely
            )
        going = _leaders(fits, going, share, problem.total)
    if bar is not None:
        going = [i for i in going if fits[i].objective > bar - _BELOW * problem.total]
    done = set()
    rest = sorted(set(range(len(fits))) - set(going), key=lambda i: (*fits[i].rank, -i))
    for i in going:
        fits[i] = _further(problem, fits[i], tol, max_iter, likely)
        done.add(i)
    # Where all leaders ended degenerate, those behind them may be sound.
    while rest and bar is None and not any(fits[i].sound for i in done):
        i = rest.pop()
        fits[i] = _further(problem, fits[i], tol, max_iter, likely)
        done.add(i)
    return [
        _judged(fit, tol) if i in done or not fit.sound else relabelled(fit, "screened")
        for i, fit in enumerate(fits)
    ]


def _judged(fit: SparseFit, tol: float) -> SparseFit:
    """A fit whose steps ran out in the rounds has converged to their tolerance only."""
    rough = fit.status == "converged" and fit.kkt_violation > tol
    return relabelled(fit, "max_iter") if rough else fit


def _further(
    problem: Problem, fit: SparseFit, tol: float, most: int, likely: Array | None
) -> SparseFit:
    if fit.status not in ("screened", "converged", "max_iter") or fit.n_iter >= most > 1:
        return fit
    new = solve(
        problem, fit.params, tol=tol, max_iter=most - fit.n_iter, kind=fit.kind, likely=likely
    )
    history = np.concatenate([fit.history, new.history[min(1, len(fit.history)) :]])
    return replace(new, history=history, n_iter=fit.n_iter + new.n_iter)


def _leaders(fits: list[SparseFit], going: list[int], share: float, total: float) -> list[int]:
    """The better ones, of runs that stand at the same optimum the first."""
    order = sorted(going, key=lambda i: (*fits[i].rank, -i), reverse=True)
    kept: list[int] = []
    for i in order:
        same = [j for j in kept if abs(fits[i].objective - fits[j].objective) <= _SAME * total]
        if not same:
            kept.append(i)
        if len(kept) >= max(2, int(np.ceil(share * len(fits)))):
            break
    return sorted(kept)


def null_fit(
    expert: Expert,
    rows: SparseRows,
    n_experts: int,
    penalty: SparsePenalty,
    *,
    n_init: int = 10,
    tol: float = 1e-9,
    seed: int = 0,
) -> SparseFit:
    """The best mixture of experts without penalised slopes.

    Columns without a penalty (weight 0) are there. Where every mixture is degenerate, K times
    the same expert.
    """
    bare = replace(
        rows,
        expert_mask=_free(penalty.weights, rows.expert_mask, rows.n_columns),
        gate_mask=_free(penalty.gate_weights, rows.gate_mask, rows.n_columns),
    )
    fits = fit_sparse(expert, bare, n_experts, penalty, n_init=n_init, tol=tol, seed=seed)
    if fits.best.sound or n_experts == 1:
        return fits.best
    # A response without clusters: experts that are alike are a stationary point, and a sound one.
    own = None if penalty.weights is None or penalty.weights.ndim > 1 else penalty.weights
    one = fit_sparse(expert, bare, 1, replace(penalty, weights=own, gate_weights=None), tol=tol)
    order = np.zeros(n_experts, dtype=np.intp)
    problem = Problem.of(expert, bare, n_experts, penalty)
    return finished(problem, problem.at(one.best.params.permute(order)), "null")


def _free(weights: Array | None, mask: Array | None, p: int) -> Array:
    """Columns (p,) that a room may use and that no penalty holds."""
    if weights is None:
        return np.zeros(p, dtype=bool)
    free = (weights == 0.0).reshape(-1, p).all(axis=0)
    found: Array = free if mask is None else free & mask
    return found


def alpha_max(
    expert: Expert, rows: SparseRows, fit: SparseFit, penalty: SparsePenalty
) -> tuple[float, float]:
    """The least strengths at which all slopes of the experts, and of the gate, stay zero.

    Exact at the null model ``fit``: the largest gradient per unit of weight over the factors of
    the penalty (which must have an absolute value: ``l1_ratio > 0``).

    Returns
    -------
    alpha, gate_alpha : float
        With a group penalty the second is in proportion to the first, as they are in ``penalty``.
    """
    problem = Problem.of(expert, rows, fit.params.n_experts, penalty)
    slopes = problem.slopes(problem.at(fit.params))
    if penalty.kind == "group":
        from mixexperts.em.sparse.groups import group_alpha_max

        return group_alpha_max(problem, fit.params, slopes)
    per_scale = slopes.coef / problem.pull.units(fit.params)
    largest = []
    rooms: tuple[tuple[Room, Array, Array | None], ...] = (
        ("expert", per_scale, rows.expert_mask),
        ("gate", slopes.gate_coef[: problem.gate_rows], rows.gate_mask),
    )
    for room, gradient, mask in rooms:
        unit = replace(penalty, alpha=1.0, gate_alpha=1.0)
        coef = np.zeros_like(slopes.coef if room == "expert" else slopes.gate_coef)
        factor = np.broadcast_to(unit.l1(coef, room), coef.shape)[: len(gradient)]
        usable = np.isfinite(factor) & (factor > 0.0) & (True if mask is None else mask)
        ratio = np.abs(gradient[usable]) / problem.total / factor[usable]
        largest.append(float(ratio.max(initial=0.0)))
    return largest[0], largest[1]


def kkt_violation(
    expert: Expert, rows: SparseRows, penalty: SparsePenalty, params: SparseParams
) -> float:
    """Largest distance of the gradient per unit of weight from the subdifferential."""
    problem = Problem.of(expert, rows, params.n_experts, penalty)
    return problem.violation(problem.at(params))


def responsibilities(expert: Expert, rows: SparseRows, params: SparseParams) -> Array:
    """Responsibilities (n, K)."""
    problem = Problem.of(expert, rows, params.n_experts, SparsePenalty(0.0, 0.0))
    return problem.at(params).resp.T


def log_likelihood(expert: Expert, rows: SparseRows, params: SparseParams) -> float:
    """Log-likelihood, a sum over rows."""
    problem = Problem.of(expert, rows, params.n_experts, SparsePenalty(0.0, 0.0))
    return float(problem.at(params).log_likelihood)
