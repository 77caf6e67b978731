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

# Along the path, at so many points evenly spaced, starts of their own compete; each time a part
# of the kinds of starts.
_ANCHORS = 8
# In the last part there are so many slopes that starts rarely lead higher, and cost most.
_EARLY = 0.7
_PARTS = 2
# Runs from the other side are compared at this violation, and left where they are this far behind
# per unit of weight, or behind at all at so many points in turn.
_ROUGH = 2e-3
_BEHIND = 0.05
_MISSES = 3
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
    every = max(1, len(problems) // _ANCHORS)
    fits: list[SparseFit] = []
    contests = 0
    params, previous = null.params, None
    for i, problem in enumerate(problems):
        likely = _strong(problem, params, previous)
        fit = solve(problem, params, tol=tol, max_iter=max_iter, kind="path", likely=likely)
        early = i < _EARLY * len(problems) and (i == 1 or i % every == every // 2)
        if problem.n_experts > 1 and (early or not fit.sound):
            given = (
                starts
                if starts is not None
                else _part(named_starts(problem, init, n_init), contests)
            )
            contests += 1
            fit = _contest(problem, fit, given, tol, max_iter, seed)
        fits.append(fit)
        if fit.sound:
            params, previous = fit.params, problem
        if progress is not None:
            progress.update()  # type: ignore[attr-defined]
    return fits


def _part(named: list[tuple[str, int]], number: int) -> list[tuple[str, int]]:
    """The starts of one contest: all of them take part in turn."""
    return named[number % _PARTS :: _PARTS] or named


def _contest(
    problem: Problem,
    fit: SparseFit,
    starts: Sequence[SparseParams | tuple[str, int]],
    tol: float,
    max_iter: int,
    seed: int,
) -> SparseFit:
    """The better of a fit and of runs from starts of their own: parameters, or kinds to make."""
    given = [
        (start, "parameters")
        if isinstance(start, SparseParams)
        else (initial_params(problem, *start, seed), start[0])
        for start in starts
    ]
    bar = fit.objective if fit.sound else None
    fits = [fit, *run_starts(problem, given, tol, max_iter, bar=bar)]
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
    """Each point once more from its weaker neighbour, where that leads higher.

    The run from below is led on past some points at which it is behind: it may be the better one
    further up.
    """
    start, misses = fits[-1].params, 0
    for i in range(len(problems) - 2, -1, -1):
        problem, here = problems[i], fits[i]
        rough = solve(problem, start, tol=_ROUGH, max_iter=max_iter, kind="path")
        lead = rough.objective - here.objective
        if rough.sound and abs(lead) <= 1e-6 * problem.total and here.sound:
            start, misses = here.params, 0
            continue
        if rough.sound and (lead > -_ROUGH * problem.total or not here.sound):
            fit = solve(problem, rough.params, tol=tol, max_iter=max_iter, kind="path")
            if fit.sound and not _no_better(fit, here):
                fits[i], start, misses = fit, fit.params, 0
                continue
        misses += 1
        start = rough.params
        if not rough.sound or lead < -_BEHIND * problem.total or misses > _MISSES:
            start, misses = here.params, 0


def _strong(problem: Problem, params: SparseParams, previous: Problem | None) -> Array:
    """Columns that the next, weaker penalty is likely to let in.

    The sequential strong rule (Tibshirani et al. 2012), as a guess: optimality is checked after.
    """
    point = problem.at(params)
    slopes = problem.slopes(point)
    found = np.zeros(len(problem.XT), dtype=bool)
    if not len(found):
        return found
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
