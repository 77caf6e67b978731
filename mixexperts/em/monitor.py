"""When to stop, and what to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from mixexperts._batch import Array

if TYPE_CHECKING:
    from mixexperts._batch import Theta

Status: TypeAlias = Literal[
    "converged", "max_iter", "degenerate", "diverged", "monotonicity_lost", "screened"
]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass
class Monitor:
    """Stopping rule and record of one run of EM.

    A run has converged when the gain that the next EM step predicts,
    ``score @ step``, is at most ``tol`` units of log-likelihood. The score is the gradient of
    the objective, so a slow crawl with a large gradient is not mistaken for a maximum, and
    the rule depends neither on n nor on how the parameters are scaled.

    Parameters
    ----------
    max_iter : int, default=1000
        Largest number of passes over the data.
    tol : float, default=1e-8
        Predicted gain of log-likelihood below which the run has converged.
    callback : callable or None
        Called as ``callback(theta, objective, n_iter)`` after every accepted pass.
    history : list of float
        Objectives of accepted passes so far; a resumed run starts from those before it.
    n_iter : int
        Passes so far.
    history : list of float
        Objective after each accepted pass so far; empty for a new run.
    n_iter : int, default=0
        Passes over the data so far.
    predicted_gain : float, default=inf
        Gain of log-likelihood that the next step predicts at the last accepted point.
    """

    max_iter: int = 1000
    tol: float = 1e-8
    callback: Callable[[Theta, float, int], None] | None = None
    history: list[float] = field(default_factory=list)
    n_iter: int = 0
    predicted_gain: float = np.inf

    def fresh(self) -> Monitor:
        """A copy for one run, which goes on from the passes and the history noted here."""
        return replace(self, history=list(self.history))

    def record(
        self, theta: Theta, objective: float, predicted_gain: float, n_iter: int | None = None
    ) -> None:
        """Note an accepted point, found by pass ``n_iter`` (None: the last)."""
        self.history.append(objective)
        self.predicted_gain = predicted_gain
        if self.callback is not None:
            self.callback(theta, objective, self.n_iter if n_iter is None else n_iter)

    def converged(self) -> bool:
        """Whether the last recorded point is stationary to within ``tol``."""
        return abs(self.predicted_gain) <= self.tol

    def exhausted(self) -> bool:
        """Whether the passes are used up."""
        return self.n_iter >= self.max_iter

    def trace(self) -> Array:
        """Objective after each accepted pass, (n_accepted,)."""
        return np.asarray(self.history)
