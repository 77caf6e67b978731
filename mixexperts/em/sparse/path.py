"""Fits along a path of penalties: warm starts from both sides, and starts of their own between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse.fit import null_fit, run_starts
from mixexperts.em.sparse.problem import Problem
from mixexperts.em.sparse.rows import SparseParams, SparseRows
from mixexperts.em.sparse.solver import SparseFit, solve
from mixexperts.em.sparse.starts import initial_params, named_starts
from mixexperts.experts.base import Expert
from mixexperts.penalties.sparse import SparsePenalty

# Where along the path, as shares of its points, starts of their own are made.
_ANCHORS = (0.3, 0.6)
# A run from the other side goes on only if this far, per unit of weight, it is not behind.
_ROUGH = 1e-2
_BEHIND = 1e-3
_TIE = 1e-8


def sparse_path(
    expert: Expert,
    rows: SparseRows,
    n_experts: int,
    penalties: Sequence[SparsePenalty],
    *,
    starts: Sequence[SparseParams] | None = None,
    n_init: int = 10,
    init: str = "auto",
    tol: float = 1e-7,
    max_iter: int = 1000,
    seed: int = 0,
    progress: object | None = None,
) -> tuple[SparseFit, ...]:
    """Fits at each of several penalties, the strongest first.

    From the null model on, each point starts from the one before. The objective has many local
    maxima, and a path that follows one of them may lose the best: at some points between, and at
    the first that has slopes, runs from starts of their own compete, and each point is
    tried again from its weaker neighbour.

    Parameters
    ----------
    expert, rows, n_experts, starts, n_init, init, tol, max_iter, seed
        As in :func:`fit_sparse`; ``starts`` compete at the points between.
    penalties : sequence of SparsePenalty
        From strong to weak.
    progress : object with ``update()``, optional
        Told of each point.

    Returns
    -------
    tuple of SparseFit
        One for each penalty.
    """
    from mixexperts.em.executors import one_blas_thread

    if not penalties:
        return ()
    null = null_fit(expert, rows, n_experts, penalties[0], n_init=n_init, seed=seed)
    whole = Problem.of(expert, rows, n_experts, penalties[0])
    problems = [whole.with_penalty(penalty) for penalty in penalties]
    with one_blas_thread():
        fits = _forward(problems, null, starts, n_init, init, tol, max_iter, seed, progress)
        _backward(problems, fits, tol, max_iter)
    return tuple(fits)


def _forward(
    problems: Sequence[Problem],
    null: SparseFit,
    starts: Sequence[SparseParams] | None,
    n_init: int,
    init: str,
    tol: float,
    max_iter: int,
    seed: int,
    progress: object | None,
) -> list[SparseFit]:
    anchors = {int(share * (len(problems) - 1)) for share in _ANCHORS} | {len(problems) // 8}
    fits: list[SparseFit] = []
    params, previous = null.params, None
    for i, problem in enumerate(problems):
        likely = _strong(problem, params, previous)
        fit = solve(problem, params, tol=tol, max_iter=max_iter, kind="path", likely=likely)
        if problem.n_experts > 1 and (i in anchors or not fit.sound):
            fit = _contest(problem, fit, starts, n_init, init, tol, max_iter, seed)
        fits.append(fit)
        if fit.sound:
            params, previous = fit.params, problem
        if progress is not None:
            progress.update()  # type: ignore[attr-defined]
    return fits


def _contest(
    problem: Problem,
    fit: SparseFit,
    starts: Sequence[SparseParams] | None,
    n_init: int,
    init: str,
    tol: float,
    max_iter: int,
    seed: int,
) -> SparseFit:
    """The better of a fit and of runs from starts of their own."""
    if starts is not None:
        given = [(start, "parameters") for start in starts]
    else:
        given = [
            (initial_params(problem, kind, index, seed), kind)
            for kind, index in named_starts(init, n_init)
        ]
    fits = [fit, *run_starts(problem, given, tol, max_iter)]
    done = [f for f in fits if f.status != "screened"]
    best = max(done, key=lambda f: f.rank)
    return fit if _no_better(best, fit) else best


def _no_better(other: SparseFit, fit: SparseFit) -> bool:
    return other.rank[0] <= fit.rank[0] and other.objective <= fit.objective + _TIE * (
        1.0 + abs(fit.objective)
    )


def _backward(
    problems: Sequence[Problem], fits: list[SparseFit], tol: float, max_iter: int
) -> None:
    """Each point once more from its weaker neighbour, where that leads higher."""
    for i in range(len(problems) - 2, -1, -1):
        start = fits[i + 1].params
        problem = problems[i]
        rough = solve(problem, start, tol=_ROUGH, max_iter=max_iter, kind="path")
        behind = rough.objective < fits[i].objective - _BEHIND * problem.total
        if not rough.sound or behind:
            continue
        if abs(rough.objective - fits[i].objective) <= 1e-6 * problem.total and fits[i].sound:
            continue
        fit = solve(problem, rough.params, tol=tol, max_iter=max_iter, kind="path")
        if fit.sound and not _no_better(fit, fits[i]):
            fits[i] = fit


def _strong(problem: Problem, params: SparseParams, previous: Problem | None) -> Array:
    """Columns that the next, weaker penalty is likely to let in.

    The sequential strong rule (Tibshirani et al. 2012), as a guess: optimality is checked after.
    """
    point = problem.at(params)
    slopes = problem.slopes(point)
    found = np.zeros(len(problem.XT), dtype=bool)
    if previous is None or problem.penalty.kind == "group":
        expert, gate = problem.distances(point, slopes)
        found = np.maximum(expert, gate) > 0.0
    else:
        l1, gate_l1, _, _ = problem.pull.thresholds(params)
        old, old_gate, _, _ = previous.pull.thresholds(params)
        for slope, new, before in ((slopes.coef, l1, old), (slopes.gate_coef, gate_l1, old_gate)):
            with np.errstate(invalid="ignore"):  # columns that are barred
                strong = np.abs(slope) > 2.0 * new - before
            found |= strong.reshape(-1, len(found)).any(axis=0)
    if int(found.sum()) > len(point.resp[0]):
        return np.zeros(len(found), dtype=bool)
    return problem.whole_groups(found)
