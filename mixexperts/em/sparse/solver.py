"""One penalised fit from given parameters: EM, Newton's steps, and sets of columns that grow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.monitor import Status
from mixexperts.em.sparse.newton import ActiveNewton
from mixexperts.em.sparse.problem import Point, Problem, narrowed
from mixexperts.em.sparse.rows import SparseParams
from mixexperts.em.sparse.steps import em_step

# Share of an EM step's gain that a coordinate may leave to the next sweep.
_CARE = 0.01
_FIRST_CARE = 1e-4
# Objective per unit of weight below which an EM step's gain invites Newton.
_CLOSE = 1e-3
_FIRST_TRY = 3
# Gains within rounding are none.
_ROUNDING = 4e-15
# A Newton step that falls by no more than rounding may is taken if the gradient falls to a share.
_NOISE = 1e-10
_BETTER = 0.3
# Steps without a rise after which a run ends, unless the gradient falls to this share.
_PATIENCE = 10
# A run that ends with such a gradient per unit of weight is on its way to where there is no bound.
_RUNAWAY = 1.0
_LESS = 0.8
# Columns taken in at a time: at least this many, and as many as there are.
_LEAST_NEW = 16
# Shares of the largest violation to which a set of columns is solved before it grows.
_INNER = 0.03


@dataclass(frozen=True)
class SparseFit:
    """A penalised fit.

    Attributes
    ----------
    params : SparseParams
        On all p columns, in the coding in which they are penalised.
    log_likelihood, objective : float
        Sums over rows; the objective is less the penalty.
    history : ndarray of shape (n_accepted,)
        Objective after each accepted step; it never falls.
    n_iter : int
        Steps of EM and of Newton.
    status : str
        ``converged``, ``max_iter``, ``degenerate``, ``diverged``, ``monotonicity_lost`` or
        ``screened``: the start was left for better ones.
    kkt_violation : float
        Largest distance of the gradient per unit of weight from the subdifferential.
    mass : ndarray of shape (K,)
        Effective rows of each expert.
    level : ndarray of shape (K,)
        Mean fitted response of each expert over the rows that it explains.
    flags : tuple of str
        What makes the solution unsound, in words.
    kind : str
        Where the fit started.
    """

    params: SparseParams
    log_likelihood: float
    objective: float
    history: Array
    n_iter: int
    status: Status
    kkt_violation: float
    mass: Array
    level: Array
    flags: tuple[str, ...] = ()
    kind: str = "parameters"

    @property
    def sound(self) -> bool:
        """Whether the solution may be preferred over others by its objective."""
        return self.status in ("converged", "max_iter", "screened")

    @property
    def rank(self) -> tuple[bool, float]:
        """What the best of several solutions is the largest of."""
        return self.sound, self.objective if np.isfinite(self.objective) else -np.inf


@dataclass
class Budget:
    """Steps that are left, and the objectives along the way."""

    most: int
    history: list[float] = field(default_factory=list)
    n_iter: int = 0

    def spent(self) -> bool:
        """Whether no step is left."""
        return self.n_iter >= self.most


def climb(problem: Problem, point: Point, tol: float, budget: Budget) -> tuple[Point, Status]:
    """EM and Newton's steps on all columns of a problem, to a violation of at most ``tol``."""
    newton = ActiveNewton(problem)
    care = _FIRST_CARE * problem.total
    next_try, pause = budget.n_iter + _FIRST_TRY, 1
    stalled, least = 0, np.inf
    while True:
        violation = problem.violation(point)
        if violation <= tol:
            return point, "converged"
        # Below its rounding the objective says nothing, the gradient still does.
        if violation <= _LESS * least:
            stalled, least = 0, violation
        if budget.spent():
            return point, "max_iter"
        if stalled >= _PATIENCE:
            newton = ActiveNewton(problem)  # whose region earlier failures do not narrow
            point, done = _newton_run(problem, newton, point, tol, budget)
            if not done:
                return point, "monotonicity_lost"
            stalled, least = 0, np.inf
            continue
        if problem.family.at_boundary(point.params.shapes).any():
            return point, "degenerate"
        before = point.objective
        following = em_step(problem, point, max(care, _ROUNDING * problem.total))
        gain = following.objective - before
        budget.n_iter += 1
        settled = _same_zeros(point.params, following.params)
        point = following
        budget.history.append(point.objective)
        rounding = _ROUNDING * max(1.0, abs(before))
        care = min(care, max(_CARE * gain, rounding))
        if settled and gain <= _CLOSE * problem.total and budget.n_iter >= next_try:
            point, done = _newton_run(problem, newton, point, tol, budget)
            pause = 1 if done else min(2 * pause, 64)
            next_try = budget.n_iter + pause
        stalled = stalled + 1 if point.objective - before <= 2.0 * rounding else 0


def _same_zeros(left: SparseParams, right: SparseParams) -> bool:
    """Whether the same coefficients are zero, and the others have the same signs."""
    return bool(
        np.array_equal(np.sign(left.coef), np.sign(right.coef))
        and np.array_equal(np.sign(left.gate_coef), np.sign(right.gate_coef))
    )


def _newton_run(
    problem: Problem, newton: ActiveNewton, point: Point, tol: float, budget: Budget
) -> tuple[Point, bool]:
    """Newton's steps as long as they rise; whether there was any that did."""
    rose = False
    for _ in range(20):
        if budget.spent():
            break
        found = newton.propose(point)
        if found is None:
            break
        params, step = found
        trial = problem.at(params)
        gain = trial.objective - point.objective if trial.ok else -np.inf
        newton.judge(step, gain)
        budget.n_iter += 1
        slack = _ROUNDING * max(1.0, abs(point.objective))
        if gain < -slack or (
            gain <= slack and problem.violation(trial) >= problem.violation(point)
        ):
            break
        rose = True
        point = trial
        budget.history.append(point.objective)
        if step.gain <= 1e-14 * problem.total or problem.violation(point) <= tol:
            break
    return point, rose


def solve(
    problem: Problem,
    start: SparseParams,
    *,
    tol: float = 1e-7,
    max_iter: int = 1000,
    kind: str = "parameters",
    likely: Array | None = None,
) -> SparseFit:
    """Fit from given parameters, with a set of columns that grows until none is missing.

    Parameters
    ----------
    problem : Problem
        On all columns.
    start : SparseParams
        On all columns.
    tol : float, default=1e-7
        Largest distance of the gradient per unit of weight from the subdifferential.
    max_iter : int, default=1000
        Most steps.
    kind : str
        Where the parameters came from.
    likely : ndarray of bool of shape (p,), optional
        Columns to begin with, beside those with coefficients.
    """
    budget = Budget(max_iter)
    columns = start.active() if likely is None else start.active() | likely
    columns = problem.whole_groups(columns)
    params = start
    status: Status = "converged"
    inner = np.inf  # to what the set of columns has been solved
    while True:
        whole = problem.at(params)
        if not whole.ok:
            return _finished(problem, whole, budget, "diverged", kind)
        if not budget.history:
            budget.history.append(whole.objective)
        expert, gate = problem.distances(whole)
        distance = np.maximum(expert, gate)
        missing = float(distance[~columns].max(initial=0.0))
        stuck = status == "monotonicity_lost" and missing <= tol
        if status in ("max_iter", "degenerate") or stuck:
            return _finished(problem, whole, budget, status, kind)
        if missing <= tol and inner <= tol:
            return _finished(problem, whole, budget, "converged", kind)
        if missing > tol:
            entering = columns | _entering(distance, columns, tol)
            columns = problem.whole_groups(entering)
        inner = max(tol, min(_INNER * missing, 0.1 * inner))
        number = np.flatnonzero(columns)
        part = problem.restricted(number)
        point, status = climb(part, part.at(narrowed(params, number)), inner, budget)
        params = problem.spread(point.params, number)


def _entering(distance: Array, columns: Array, tol: float) -> Array:
    """Columns that come in: those that violate optimality most."""
    outside = np.where(columns, 0.0, distance)
    most = max(_LEAST_NEW, int(columns.sum()))
    candidates = np.flatnonzero(outside > tol)
    if len(candidates) > most:
        candidates = candidates[np.argsort(-outside[candidates], kind="stable")[:most]]
    entering = np.zeros(len(columns), dtype=bool)
    entering[candidates] = True
    return entering


def finished(problem: Problem, point: Point, kind: str) -> SparseFit:
    """A fit at a point that needs no steps."""
    return _finished(problem, point, Budget(0, [point.objective]), "converged", kind)


def _finished(
    problem: Problem, point: Point, budget: Budget, status: Status, kind: str
) -> SparseFit:
    mass = point.resp @ problem.rows.weight
    with np.errstate(all="ignore"):
        level = (point.resp * point.terms.mean) @ problem.rows.weight / mass
    violation = problem.violation(point) if point.ok else float("nan")
    flags = health(problem, point, mass) if point.ok else ()
    if point.ok and status == "max_iter" and violation > _RUNAWAY:
        flags += (f"the objective still rises with a gradient of {violation:.3g} per row",)
    if flags and status in ("converged", "max_iter"):
        status = "degenerate"
    return SparseFit(
        point.params,
        float(point.log_likelihood),
        float(point.objective),
        np.array(budget.history),
        budget.n_iter,
        status,
        violation,
        mass,
        level,
        flags,
        kind,
    )


def health(problem: Problem, point: Point, mass: Array) -> tuple[str, ...]:
    """Reasons why a solution is degenerate, empty if it is sound."""
    params = point.params
    slopes = (params.coef != 0.0).sum(axis=(1, 2))
    own = len(problem.family.free_shapes) - len(problem.family.tied_shapes)
    needed = slopes + problem.family.intercept + own + 1
    # a penalised fit holds slopes by the penalty: an expert needs a spread, not a full rank
    needed = np.minimum(needed, 3 + own)
    reasons = [
        f"expert {k + 1} rests on {mass[k]:.3g} effective rows, fewer than {needed[k]}"
        for k in np.flatnonzero(mass < needed * (1.0 - 1e-9))
    ]
    at_boundary = problem.family.at_boundary(params.shapes)
    reasons += [
        f"expert {k + 1} {problem.family.expert.boundary_reason()}"
        for k in np.flatnonzero(at_boundary)
    ]
    return tuple(reasons)


def relabelled(fit: SparseFit, status: Status) -> SparseFit:
    """The same fit with another status."""
    return replace(fit, status=status)
