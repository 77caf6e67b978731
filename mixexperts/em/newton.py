"""Newton steps on the observed log-likelihood, for the end of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mixexperts._batch import Array, Batch, Stats, Theta
from mixexperts.em.information import (
    has_information,
    observed_information,
    penalty_information,
)
from mixexperts.em.model import Model

# More parameters than this make the information dearer than the passes it saves.
_MOST_PARAMETERS = 400
# EM must have come this close, in log-likelihood per unit of weight, before a step is tried.
_CLOSE = 1e-3
# EM passes before the first try, and between a failure and the next try (doubled each time).
_FIRST_TRY = 4
_PAUSE = 2
# First radius, in standard errors over the root of the weight: a move of the parameters that
# does not depend on n.
_RADIUS = 0.1

# Steps with the information of a sample. Where more are needed, as near a singular information,
# its errors cost more passes than the information of all rows.
_SAMPLED_STEPS = 6

#: Sums a function of a block over all blocks.
Summation: TypeAlias = Callable[[Callable[[Batch], Stats]], Stats]


@dataclass(frozen=True)
class NewtonStep:
    """A step and the gain of the objective that the quadratic model promises for it."""

    step: Array
    gain: float
    #: Length in units of the information's diagonal, that is, of standard errors.
    length: float


class Newton:
    """Proposes steps that maximise the quadratic model of the objective in a trust region.

    EM is sure but crawls where experts overlap; with the observed information the end of a run
    takes a few passes. The information may be indefinite: the region's radius then bounds the
    step, and follows how well the model foretold the last gain. What falls is never accepted.

    Parameters
    ----------
    model : Model

    Notes
    -----
    The information is summed over the blocks. Of many rows, that of the first steps is taken from
    a sample: a step with an inexact information is a quasi-Newton step on the exact gradient.

    References
    ----------
    More, J. J. and Sorensen, D. C. (1983). Computing a trust region step. SIAM Journal on
    Scientific and Statistical Computing 4, 553-572.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        #: Set by the run: the sum over its blocks, and rows that may stand for them at first.
        self.summation: Summation | None = None
        self.sample: Batch | None = None
        self.tries: float = 0
        #: Whether the compiled sums may serve; set by the run's backend.
        self.compiled = True
        self.enabled = has_information(model)
        self.next_try: float = _FIRST_TRY
        self.failures: float = 0
        self.radius = 0.0
        self._noted: list[float] = [self.next_try, self.failures, self.radius, 0.0]

    def note(self) -> None:
        """Note the state before a point is looked at: a run resumed there looks at it again."""
        self._noted = [self.next_try, self.failures, self.radius, self.tries]

    def state(self) -> list[float]:
        """The state last noted, for a checkpoint: when a step is due and how far it may go."""
        return list(self._noted)

    def restore(self, state: list[float]) -> None:
        """Take a state over."""
        self.next_try, self.failures, self.radius, self.tries = state

    def due(self, n_iter: int, gain: float, tol: float, weight: float) -> bool:
        """Whether a step should be tried; always before EM is believed to have converged."""
        if not self.enabled or self.summation is None:
            return False
        return gain <= tol or (n_iter >= self.next_try and gain <= _CLOSE * weight)

    def propose(self, theta: Theta, score: Array, weight: float) -> NewtonStep | None:
        """The step from a point with gradient ``score``, or None where there is none."""
        self.tries += 1
        hessian = self._hessian(theta)
        if hessian is None:
            return None
        if not self.radius:
            self.radius = _RADIUS * math.sqrt(weight)
        return trust_region_step(hessian, score, self.radius)

    def _hessian(self, theta: Theta) -> Array | None:
        penalty = penalty_information(self.model, theta)
        if penalty is None or len(penalty) > _MOST_PARAMETERS or self.summation is None:
            self.enabled = False  # no use in asking again
            return None
        with np.errstate(all="ignore"):  # what is not finite is refused below
            work = functools.partial(
                observed_information, self.model, theta, compiled=self.compiled
            )
            early = self.sample if self.tries <= _SAMPLED_STEPS else None
            found = self.summation(work) if early is None else work(early)
        hessian: Array = found["information"] + penalty
        return hessian if np.isfinite(hessian).all() else None

    def judge(self, step: NewtonStep, gain: float, n_iter: int) -> None:
        """Adapt the radius to the gain that a step brought; -inf if it was refused."""
        if gain < 0.25 * step.gain:
            self.radius = 0.25 * step.length
        elif gain > 0.75 * step.gain:
            self.radius = max(self.radius, 2.0 * step.length)
        if gain < 0.0:
            self.pause(n_iter)

    def pause(self, n_iter: int) -> None:
        """Leave some passes to EM, after no step was possible or one fell."""
        self.next_try = n_iter + _PAUSE * 2 ** min(self.failures, 6)
        self.failures += 1


def trust_region_step(hessian: Array, score: Array, radius: float) -> NewtonStep | None:
    """Maximise ``score @ s - s @ hessian @ s / 2`` over steps of at most that length.

    Lengths are measured in units of the square roots of the Hessian's diagonal.
    """
    diagonal = np.abs(np.diagonal(hessian))
    if not diagonal.max(initial=0.0) > 0.0:
        return None
    size = np.sqrt(np.maximum(diagonal, 1e-8 * diagonal.max()))
    values, vectors = np.linalg.eigh(hessian / np.outer(size, size))
    slope = vectors.T @ (score / size)
    shift = _shift(values, slope, radius)
    damped = values + shift
    keep = damped > 1e-14 * max(abs(values[0]), abs(values[-1]))
    along = np.where(keep, slope, 0.0) / np.where(keep, damped, 1.0)
    gain = float(slope @ along - 0.5 * values @ along**2)
    step = (vectors @ along) / size
    if not (np.isfinite(step).all() and gain >= 0.0):
        return None
    return NewtonStep(step, gain, float(np.sqrt(along @ along)))


def _shift(values: Array, slope: Array, radius: float) -> float:
    """What is added to the eigenvalues so that the step is no longer than the radius."""

    def length(shift: float) -> float:
        damped = values + shift
        with np.errstate(divide="ignore", invalid="ignore"):
            along = np.where(slope == 0.0, 0.0, slope / damped)
        return float(np.sqrt(along @ along))

    lowest = max(0.0, -float(values[0]))
    if values[0] > 0.0 and length(0.0) <= radius:
        return 0.0
    low, high = lowest, lowest + float(np.sqrt(slope @ slope)) / radius
    for _ in range(60):  # the length falls in the shift
        middle = 0.5 * (low + high)
        low, high = (middle, high) if length(middle) > radius else (low, middle)
    return high
