"""The EM engine: one pass over blocks of rows gives the objective and the next parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Batch, Stats, Theta
from mixexperts.em.accelerate import Accelerator, Anderson
from mixexperts.em.executors import executor_for
from mixexperts.em.model import EStep, Model, em_pass, health, part
from mixexperts.em.monitor import Monitor, Status
from mixexperts.em.newton import Newton, NewtonStep
from mixexperts.em.passes import Pass, check_backend, choose_pass
from mixexperts.em.streaming import Stream
from mixexperts.errors import UnsupportedCombinationError

_MAX_HALVINGS = 40
# Where the gate jumps: no step is short enough to follow the gradient to a jump.
_JUMP_HALVINGS = 6
_TIE = 1e-9
# Share of EM's predicted gain that a Newton step must promise.
_LEAST_PROMISE = 0.4

__all__ = ["EMResult", "Executor", "Model", "em_pass", "first_best", "fit_em", "health", "part"]


class Executor(Protocol):
    """Where blocks live and how their statistics are summed."""

    def scatter(self, blocks: Any) -> Any:
        """Place the blocks; the handle returned is given back to :meth:`map_reduce`."""

    def map_reduce(self, function: Callable[[Batch], Stats], handle: Any) -> Stats:
        """Apply ``function`` to every block and add the results in a fixed tree order."""

    def close(self) -> None:
        """Release what was placed."""


@saveable("em_result")
@dataclass(frozen=True)
class EMResult:
    """What one run of EM came to.

    Attributes
    ----------
    theta : Theta
        Parameters at the last accepted point.
    log_likelihood, objective : float
        Log-likelihood and penalised log-likelihood at ``theta`` (sums over units); the objective
        of classification EM is the penalised classification likelihood.
    history : ndarray of shape (n_accepted,)
        Objective after each accepted pass; it never falls.
    status : str
        ``converged``, ``max_iter``, ``degenerate``, ``diverged`` or ``monotonicity_lost``; or
        ``screened``: the start ran on a sample only and did not go on to all rows.
    n_iter : int
        Passes over the data.
    n_backtracks : int
        Steps that were refused or halved.
    flags : tuple of str
        What makes the solution unsound or needs a warning, in words.
    mass : ndarray of shape (K,)
        Effective sampling units of each expert: sums of weight times responsibility.
    level : ndarray of shape (K,)
        Mean fitted response of each expert over the rows that it explains.
    predicted_gain : float
        Gain of log-likelihood that one more EM step predicts.
    separated : bool
        Whether the gate separates the experts perfectly.
    separated_experts : tuple of int
        Experts whose coefficients have no finite maximum.
    trajectory : ndarray of shape (n_draws,)
        Objective along the chain of stochastic EM; empty for other algorithms.
    """

    theta: Theta
    log_likelihood: float
    objective: float
    history: Array
    status: Status
    n_iter: int
    n_backtracks: int
    flags: tuple[str, ...]
    mass: Array
    level: Array
    predicted_gain: float
    separated: bool = False
    separated_experts: tuple[int, ...] = ()
    trajectory: Array = field(default_factory=lambda: np.empty(0))

    @property
    def sound(self) -> bool:
        """Whether the solution may be preferred over others by its likelihood."""
        return self.status in ("converged", "max_iter")

    @property
    def rank(self) -> tuple[bool, float]:
        """What the best of several solutions is the largest of: sound first, then objective."""
        return self.sound, self.objective if np.isfinite(self.objective) else -np.inf


def first_best(results: Sequence[EMResult]) -> int:
    """Index of the best result: sound first, then the objective, then the first of those that tie.

    Equal up to rounding is equal: which of two solutions rounds up must not decide.
    """
    ranks = [result.rank for result in results]
    sound, highest = max(ranks)
    tie = highest - _TIE * (1.0 + abs(highest)) if np.isfinite(highest) else highest
    return next(i for i, rank in enumerate(ranks) if rank[0] == sound and rank[1] >= tie)


def fit_em(
    model: Model,
    source: Batch | Sequence[Batch] | Stream,
    theta: Theta,
    *,
    monitor: Monitor | None = None,
    executor: Executor | None = None,
    backend: str = "auto",
    accelerate: bool | Accelerator = True,
    newton: bool | Newton | None = None,
    sample: Batch | None = None,
    alternative: Theta | None = None,
    e_step: EStep | None = None,
) -> EMResult:
    """Run EM from given parameters.

    Parameters
    ----------
    model : Model
        Gate, experts and penalties.
    source : Batch, sequence of Batch or Stream
        Blocks of rows; the result does not depend on how the rows are cut. A stream needs a
        ``StreamExecutor``.
    theta : Theta
        Starting parameters.
    monitor : Monitor or None
        Stopping rule; None takes the defaults of :class:`Monitor`.
    executor : Executor or None
        Where the blocks are summed; None is this process, or the GPU with ``"cupy"``.
    backend : {"auto", "numba", "numpy", "cupy"}
        Which kernels do the work. ``"auto"`` is the fused numba pass for the models that it
        knows, and the gate's and the expert's own methods for others; ``"cupy"`` is an NVIDIA
        GPU.
    accelerate : bool or Accelerator, default=True
        Anderson acceleration; a proposal that lowers the objective is replaced by the
        plain EM step, so that the history never falls.
    newton : bool, Newton or None
        Newton steps on the observed log-likelihood once EM is close, behind the same safeguard;
        None takes them where ``accelerate`` is True.
    sample : Batch, optional
        Rows that stand for all, with weights to match: the observed information is then taken
        from them (the gradient never is).
    alternative : Theta, optional
        Other starting parameters: the run begins from the better of the two.
    e_step : callable, optional
        Another E-step with its own objective, as in :mod:`mixexperts.em.variants`; the passes
        then run on the methods of gate and expert, without Newton steps.

    Returns
    -------
    EMResult

    Raises
    ------
    ValueError
        If the backend is not known.
    UnsupportedCombinationError
        If the backend does not serve the model.
    BackendUnavailableError
        If there is no CuPy or no GPU for ``"cupy"``.
    """
    check_backend(backend)
    if model.gate.objective == "joint" and not model.gate_penalty.is_null:
        raise UnsupportedCombinationError("a gate with a joint objective takes no penalty")
    run = _Run(
        model,
        source,
        (monitor or Monitor()).fresh(),
        executor or executor_for(backend, [source] if isinstance(source, Batch) else source, 1),
        accelerate,
        backend,
    )
    if e_step is not None:
        run.em_pass, newton = functools.partial(em_pass, e_step=e_step), False
    wanted = accelerate is True if newton is None else newton is not False
    if wanted:
        run.newton = newton if isinstance(newton, Newton) else Newton(model)
        run.newton.summation = run.over_all
        run.newton.sample = sample
        run.newton.compiled = backend != "numpy"
    return run.loop(theta, alternative)


def _quiet(em_pass: Pass, model: Model, theta: Theta, block: Batch) -> Stats:
    """A pass whose overflows show in the objective, not as warnings; also on threads."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return em_pass(model, theta, block)


def _inside(model: Model, theta: Theta) -> Theta:
    """The nearest point in the model, as where one scale is shared and those of a start differ.

    A point that is in it up to rounding stays as it is: a resumed run repeats its passes to
    the last digit.
    """
    inside = model.unpack(model.pack(theta), theta)
    same = all(
        np.isclose(values, new[name], rtol=1e-12, atol=1e-300).all()
        for old, new in ((theta.gate, inside.gate), (theta.expert, inside.expert))
        for name, values in old.items()
    )
    return theta if same else inside


@dataclass
class _Point:
    theta: Theta
    stats: Stats
    objective: float

    @property
    def ok(self) -> bool:
        return bool(np.isfinite(self.objective))


class _Run:
    """State of one call of :func:`fit_em`; parameters themselves are never changed in place."""

    def __init__(
        self,
        model: Model,
        source: Batch | Sequence[Batch] | Stream,
        monitor: Monitor,
        executor: Executor,
        accelerate: bool | Accelerator,
        backend: str,
    ) -> None:
        self.model = model
        self.em_pass = choose_pass(model, backend)
        self.monitor = monitor
        self.executor = executor
        self.handle = executor.scatter([source] if isinstance(source, Batch) else source)
        self.accelerator: Accelerator | None = None
        if accelerate is not False:
            self.accelerator = Anderson() if accelerate is True else accelerate
        self.newton: Newton | None = None
        self.n_backtracks = 0

    def over_all(self, function: Callable[[Batch], Stats]) -> Stats:
        """Sum a function over all blocks; that is a pass, too."""
        self.monitor.n_iter += 1
        return self.executor.map_reduce(function, self.handle)

    def evaluate(self, theta: Theta) -> _Point:
        self.monitor.n_iter += 1
        work = functools.partial(_quiet, self.em_pass, self.model, theta)
        stats = self.executor.map_reduce(work, self.handle)
        value = stats.get("objective", stats["log_likelihood"])
        objective = value - self.model.penalty_value(theta)
        objective -= stats.get("gate.penalty", 0.0)  # a penalty that is a sum over rows
        return _Point(theta, stats, float(objective))

    def loop(self, theta: Theta, alternative: Theta | None = None) -> EMResult:
        point = self.evaluate(_inside(self.model, theta))
        if alternative is not None and not self.monitor.exhausted():
            other = self.evaluate(_inside(self.model, alternative))
            if other.ok and not (point.ok and point.objective >= other.objective):
                point = other
        if not point.ok:
            return self.result(point, "diverged")
        while True:
            image = self.model.map_step(point.theta, point.stats)
            here, there = self.model.pack(point.theta), self.model.pack(image)
            score = self.model.score(point.theta, point.stats)
            gain = float(score @ (there - here))
            n_iter = self.monitor.n_iter  # the pass that found the point, not what follows
            newton = self.newton_step(point, score, gain)
            if newton is not None:
                gain = max(gain, newton.gain)
            self.monitor.record(point.theta, point.objective, gain, n_iter)
            status = self.stop(point, there)
            if status is not None:
                return self.result(point, status)
            following = self.advance(point, here, image, there, newton)
            if following is None:
                return self.result(point, self.stalled(point))
            if following is point:  # no pass was left to better it
                return self.result(point, self.final(point, "max_iter"))
            rise = following.objective - point.objective
            point = following
            if not self.model.gate.smooth and rise <= self.monitor.tol:
                self.monitor.record(point.theta, point.objective, rise)
                return self.result(point, self.final(point, "converged"))

    def newton_step(self, point: _Point, score: Array, gain: float) -> NewtonStep | None:
        """Newton's step, where it is time for one and there is one to trust."""
        n_iter, weight = self.monitor.n_iter, point.stats["weight"]
        if self.newton is None:
            return None
        self.newton.note()
        if self.monitor.exhausted():
            return None
        if not self.newton.due(n_iter, gain, self.monitor.tol, weight) or self.perfect(point):
            return None
        step = self.newton.propose(point.theta, score, weight)
        # The observed information is at most the complete one, so that a full Newton step promises
        # at least half of what EM's does to first order. Less: directions were lost to rounding.
        if step is None or step.gain < _LEAST_PROMISE * gain:
            self.newton.pause(n_iter)
            return None
        return step

    def perfect(self, point: _Point) -> bool:
        """Whether nothing is left to gain, since a probability is at most one.

        All information is lost to rounding there, and Newton's step would be anything.
        """
        bounded = self.model.expert.discrete and self.model.gate.objective == "conditional"
        return bounded and point.objective >= -self.monitor.tol

    def stop(self, point: _Point, there: Array) -> Status | None:
        if not np.isfinite(there).all():
            return "diverged"
        if self.model.at_boundary(point.theta):
            return "degenerate"
        if self.monitor.converged():
            return self.final(point, "converged")
        return self.final(point, "max_iter") if self.monitor.exhausted() else None

    def final(self, point: _Point, status: Status) -> Status:
        """The status, unless the solution is degenerate."""
        return "degenerate" if health(self.model, point.theta, point.stats) else status

    def advance(
        self, point: _Point, here: Array, image: Theta, there: Array, newton: NewtonStep | None
    ) -> _Point | None:
        """The first that does not fall: Newton's, the accelerated, the EM step, shorter steps.

        None if no step helps; ``point`` itself if the passes are used up.
        """
        floor = point.objective - self.slack(point)
        if newton is not None and self.newton is not None:
            trial = self.evaluate(self.model.unpack(here + newton.step, point.theta))
            risen = trial.ok and trial.objective >= floor
            rise = trial.objective - point.objective if risen else -np.inf
            # A rise within rounding is none: EM goes on from there.
            gain = rise if rise > self.slack(point) else -np.inf
            self.newton.judge(newton, gain, self.monitor.n_iter)
            if risen:
                return trial
            self.n_backtracks += 1
            if self.monitor.exhausted():
                return point
        if self.accelerator is not None:
            proposal = self.accelerator.propose(here, there)
            if proposal is not None:
                trial = self.evaluate(self.model.unpack(proposal, point.theta))
                if trial.ok and trial.objective >= floor:
                    return trial
                self.accelerator.reset()
                self.n_backtracks += 1
                if self.monitor.exhausted():
                    return point
        trial = self.evaluate(image)
        step = there - here
        smooth = self.model.gate.smooth
        for _ in range(_MAX_HALVINGS if smooth else _JUMP_HALVINGS):
            if trial.ok and trial.objective >= floor:
                return trial
            if self.monitor.exhausted():
                return point
            step = 0.5 * step
            self.n_backtracks += 1
            trial = self.evaluate(self.model.unpack(here + step, point.theta))
        if not smooth:
            # The gate stands at a jump. With the gate as it is the experts' step cannot fall.
            trial = self.evaluate(Theta(point.theta.gate, image.expert))
            return trial if trial.ok and trial.objective >= floor else None
        return None

    def slack(self, point: _Point) -> float:
        """Rounding of the objective: a fall within it is no fall."""
        terms = abs(point.objective) + point.stats["weight"]
        return float(64.0 * np.finfo(float).eps * terms)

    def stalled(self, point: _Point) -> Status:
        """No step rises: at a maximum within rounding that is convergence, elsewhere a fault.

        Where the gate jumps there need not be a point with a gradient of zero.
        """
        if not self.model.gate.smooth:
            return self.final(point, "converged")
        within_rounding = abs(self.monitor.predicted_gain) <= 100.0 * self.slack(point)
        return self.final(point, "converged" if within_rounding else "monotonicity_lost")

    def result(self, point: _Point, status: Status) -> EMResult:
        rows = point.stats["expert.mass"]
        flags = health(self.model, point.theta, point.stats) if point.ok else ()
        return EMResult(
            theta=point.theta,
            log_likelihood=float(point.stats["log_likelihood"]),
            objective=point.objective,
            history=self.monitor.trace(),
            status=status,
            n_iter=self.monitor.n_iter,
            n_backtracks=self.n_backtracks,
            flags=flags,
            mass=point.stats.get("mass", rows),
            level=point.stats["expert.fitted"] / np.maximum(rows, np.finfo(float).tiny),
            predicted_gain=self.monitor.predicted_gain,
            separated=point.ok
            and self.model.gate_penalty.is_null
            and self.model.gate.separation(point.theta.gate, part(point.stats, "gate")),
            separated_experts=self.separated_experts(point),
        )

    def separated_experts(self, point: _Point) -> tuple[int, ...]:
        if not point.ok:
            return ()
        separated = self.model.expert.separation(
            point.theta.expert, part(point.stats, "expert"), self.model.expert_penalty
        )
        return tuple(np.flatnonzero(separated).tolist())
