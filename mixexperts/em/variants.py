"""Relatives of EM: the same pass with another E-step on the rows."""

from __future__ import annotations

import functools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Batch, Theta
from mixexperts.em.engine import EMResult, Executor, fit_em
from mixexperts.em.executors import executor_for
from mixexperts.em.model import Model, em_pass
from mixexperts.em.monitor import Monitor
from mixexperts.em.streaming import Stream
from mixexperts.kernels import numpy_

# A stage of annealing ends when the next step promises less than this, in log-likelihood.
_STAGE_TOL = 1e-3
# Most passes of a start that annealing or draws may take, as a share of all.
_SHARE = 0.5

# --- E-steps -----------------------------------------------------------------------------------
# Each takes log(gate x expert) (u, K), which it may overwrite, and the block; it gives
# responsibilities (u, K) and what each unit adds to the objective (u,).


@dataclass(frozen=True)
class Hard:
    """Each unit goes to its likeliest expert: the objective is the classification likelihood."""

    def __call__(self, log_joint: Array, batch: Batch) -> tuple[Array, Array]:
        best = log_joint.argmax(axis=1)
        rows = np.arange(len(best))
        terms = log_joint[rows, best]
        resp = np.zeros_like(log_joint)
        resp[rows, best] = np.isfinite(terms)
        return resp, terms


@dataclass(frozen=True)
class Tempered:
    """Responsibilities in proportion to ``(gate x expert) ** beta``.

    The objective is ``log(sum((gate x expert) ** beta)) / beta``, whose gradient is that of the
    expected complete log-likelihood under these responsibilities.
    """

    beta: float

    def __call__(self, log_joint: Array, batch: Batch) -> tuple[Array, Array]:
        resp, log_sum = numpy_.e_step(self.beta * log_joint)
        return resp, log_sum / self.beta


@dataclass(frozen=True)
class Drawn:
    """Each unit goes to an expert drawn by its responsibilities.

    The draws depend on the seed, the number of the draw and the rows of the block.
    """

    seed: int
    draw: int

    def __call__(self, log_joint: Array, batch: Batch) -> tuple[Array, Array]:
        resp, log_density = numpy_.e_step(log_joint)
        key = zlib.crc32(np.ascontiguousarray(batch.X).tobytes())
        key = zlib.crc32(np.ascontiguousarray(batch.y).tobytes(), key)
        uniform = np.random.default_rng([self.seed, self.draw, key]).random(len(resp))
        below = np.cumsum(resp, axis=1)[:, :-1]
        label = (uniform[:, None] >= below).sum(axis=1)
        # Rounding of the sums must not draw an expert that is ruled out.
        label = np.where(resp[np.arange(len(resp)), label] > 0.0, label, resp.argmax(axis=1))
        drawn = np.zeros_like(resp)
        drawn[np.arange(len(resp)), label] = resp.max(axis=1) > 0.0
        return drawn, log_density


# --- algorithms --------------------------------------------------------------------------------


class Algorithm(ABC):
    """How a start is run to its end."""

    name: ClassVar[str]

    @abstractmethod
    def run(
        self,
        model: Model,
        source: Batch | Sequence[Batch] | Stream,
        theta: Theta,
        *,
        seed: int = 0,
        monitor: Monitor | None = None,
        executor: Executor | None = None,
        begun: bool = False,
        **options: Any,
    ) -> EMResult:
        """Run from given parameters.

        Parameters
        ----------
        model, source, theta, monitor, executor, **options
            As in :func:`mixexperts.em.fit_em`.
        seed : int
            Of what is drawn.
        begun : bool, default=False
            Whether the parameters come from an earlier part of the same run: what goes before
            the last stage is not repeated.

        Returns
        -------
        EMResult
        """


@saveable("algorithm_em")
@dataclass(frozen=True)
class EM(Algorithm):
    """Expectation-maximisation itself (Dempster, Laird and Rubin 1977)."""

    name: ClassVar[str] = "em"

    def run(
        self,
        model: Model,
        source: Batch | Sequence[Batch] | Stream,
        theta: Theta,
        *,
        seed: int = 0,
        monitor: Monitor | None = None,
        executor: Executor | None = None,
        begun: bool = False,
        **options: Any,
    ) -> EMResult:
        return fit_em(model, source, theta, monitor=monitor, executor=executor, **options)


@saveable("algorithm_cem")
@dataclass(frozen=True)
class ClassificationEM(Algorithm):
    """Classification EM: each unit belongs to one expert, the likeliest.

    The objective is the classification likelihood, the sum of ``log(gate x expert)`` of each
    unit's own expert; no pass lowers it. It has more local maxima than the likelihood, and its
    maximum is biased where experts overlap, but a run takes few passes.

    References
    ----------
    Celeux, G. and Govaert, G. (1992). A classification EM algorithm for clustering and two
    stochastic versions. Computational Statistics and Data Analysis 14, 315-332.
    """

    name: ClassVar[str] = "cem"

    def run(
        self,
        model: Model,
        source: Batch | Sequence[Batch] | Stream,
        theta: Theta,
        *,
        seed: int = 0,
        monitor: Monitor | None = None,
        executor: Executor | None = None,
        begun: bool = False,
        **options: Any,
    ) -> EMResult:
        # The objective has kinks where a unit changes its expert: nothing to extrapolate along.
        options |= {"accelerate": False, "newton": False}
        return fit_em(
            model, source, theta, monitor=monitor, executor=executor, e_step=Hard(), **options
        )


@saveable("algorithm_sem")
@dataclass(frozen=True)
class StochasticEM(Algorithm):
    """Stochastic EM: labels are drawn by the responsibilities, and experts fitted to them.

    The estimate is the point of the chain with the highest likelihood, from which plain EM goes
    on to a maximum. Averages over the chain would be wrong where labels switch.

    Parameters
    ----------
    draws : int, default=100
        Passes with drawn labels.

    References
    ----------
    Celeux, G. and Diebolt, J. (1985). The SEM algorithm: a probabilistic teacher algorithm
    derived from the EM algorithm for the mixture problem. Computational Statistics Quarterly 2,
    73-82.
    """

    draws: int = 100
    name: ClassVar[str] = "sem"

    def __post_init__(self) -> None:
        if isinstance(self.draws, bool) or not isinstance(self.draws, int | np.integer):
            raise TypeError(f"draws must be a positive integer, got {self.draws!r}")
        if self.draws < 1:
            raise ValueError(f"draws must be a positive integer, got {self.draws!r}")

    def run(
        self,
        model: Model,
        source: Batch | Sequence[Batch] | Stream,
        theta: Theta,
        *,
        seed: int = 0,
        monitor: Monitor | None = None,
        executor: Executor | None = None,
        begun: bool = False,
        **options: Any,
    ) -> EMResult:
        monitor = (monitor or Monitor()).fresh()
        trajectory = np.empty(0)
        if not begun:
            draws = max(1, min(self.draws, int(_SHARE * monitor.max_iter)))
            theta, trajectory = chain(model, source, theta, draws, seed, executor)
            monitor.n_iter += draws
            monitor.max_iter = max(monitor.max_iter, monitor.n_iter + 1)
        result = fit_em(model, source, theta, monitor=monitor, executor=executor, **options)
        return replace(result, trajectory=trajectory)


@saveable("algorithm_daem")
@dataclass(frozen=True)
class AnnealedEM(Algorithm):
    """Deterministic annealing EM: responsibilities are flat at first and sharpen by stages.

    In the stage of inverse temperature beta they are in proportion to ``(gate x expert) **
    beta``, so that the run depends less on where it began. The last stage, with beta = 1, is
    EM: its likelihood is the objective, and the history is that of this stage.

    Parameters
    ----------
    schedule : tuple of float, default=(0.5, 0.6, 0.72, 0.86)
        Ascending inverse temperatures in (0, 1) of the stages before the last.
    passes : int, default=20
        Most passes of each of them. More at a low beta can melt all experts into one, from which
        no later stage parts them.

    References
    ----------
    Ueda, N. and Nakano, R. (1998). Deterministic annealing EM algorithm. Neural Networks 11,
    271-282.
    """

    schedule: tuple[float, ...] = (0.5, 0.6, 0.72, 0.86)
    passes: int = 20
    name: ClassVar[str] = "daem"

    def __post_init__(self) -> None:
        betas = np.asarray(self.schedule, dtype=float)
        rising = betas.ndim == 1 and (np.diff(betas) > 0).all()
        if not rising or not ((betas > 0) & (betas < 1)).all():
            raise ValueError(f"schedule must hold ascending numbers in (0, 1), got {betas}")
        if self.passes < 1:
            raise ValueError(f"passes must be a positive integer, got {self.passes!r}")

    def run(
        self,
        model: Model,
        source: Batch | Sequence[Batch] | Stream,
        theta: Theta,
        *,
        seed: int = 0,
        monitor: Monitor | None = None,
        executor: Executor | None = None,
        begun: bool = False,
        **options: Any,
    ) -> EMResult:
        monitor = (monitor or Monitor()).fresh()
        if not begun:
            theta, used = self.anneal(model, source, theta, monitor.max_iter, executor)
            monitor.n_iter += used
        return fit_em(model, source, theta, monitor=monitor, executor=executor, **options)

    def anneal(
        self,
        model: Model,
        source: Batch | Sequence[Batch] | Stream,
        theta: Theta,
        max_iter: int,
        executor: Executor | None = None,
    ) -> tuple[Theta, int]:
        """Parameters after the stages before the last, and the passes that they took."""
        used = 0
        for beta in self.schedule:
            left = min(self.passes, int(_SHARE * max_iter) - used)
            if left < 1:
                break
            stage = fit_em(
                model,
                source,
                theta,
                monitor=Monitor(left, _STAGE_TOL),
                executor=executor,
                accelerate=False,
                e_step=Tempered(beta),
            )
            used += stage.n_iter
            if stage.sound:
                theta = stage.theta
        return theta, used


#: What ``algorithm`` may be, by name.
ALGORITHMS: dict[str, type[Algorithm]] = {
    cls.name: cls for cls in (EM, ClassificationEM, StochasticEM, AnnealedEM)
}


def resolve_algorithm(algorithm: Any) -> Algorithm:
    """An algorithm from its name or an instance.

    Raises
    ------
    ValueError, TypeError
        If it is neither.
    """
    if isinstance(algorithm, Algorithm):
        return algorithm
    known = ", ".join(map(repr, ALGORITHMS))
    if not isinstance(algorithm, str):
        raise TypeError(
            f"algorithm must be one of {known}, or an instance from mixexperts.em.variants; got "
            f"{algorithm!r}"
        )
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm={algorithm!r} is not known; known: {known}")
    return ALGORITHMS[algorithm]()


def chain(
    model: Model,
    source: Batch | Sequence[Batch] | Stream,
    theta: Theta,
    draws: int,
    seed: int,
    executor: Executor | None = None,
) -> tuple[Theta, Array]:
    """The best point of a chain of stochastic EM, and the objective at each of its points."""
    blocks = [source] if isinstance(source, Batch) else source
    own: Executor = executor or executor_for("numpy", blocks, 1)
    handle = own.scatter(blocks)
    trajectory: list[float] = []
    best, highest, degenerate = theta, -np.inf, True
    try:
        for draw in range(draws):
            work = functools.partial(_quiet, model, theta, Drawn(seed, draw))
            stats = own.map_reduce(work, handle)
            value = float(stats["log_likelihood"]) - model.penalty_value(theta)
            trajectory.append(value)
            boundary = model.at_boundary(theta)
            if np.isfinite(value) and (not boundary, value) > (not degenerate, highest):
                best, highest, degenerate = theta, value, boundary
            with np.errstate(all="ignore"):
                following = model.map_step(theta, stats)
            alive = np.isfinite(model.pack(following)).all() and np.isfinite(value)
            # An expert that was drawn no rows, or too few to move, is taken back to the best.
            theta = following if alive and not model.at_boundary(following) else best
    finally:
        if executor is None:
            own.close()
    return best, np.array(trajectory)


def _quiet(model: Model, theta: Theta, e_step: Drawn, block: Batch) -> Any:
    with np.errstate(all="ignore"):
        return em_pass(model, theta, block, e_step)
