"""Expectation-maximisation: the engine, its monitor, acceleration, starts and restarts."""

from mixexperts.em.engine import EMResult, Model, fit_em
from mixexperts.em.monitor import Monitor
from mixexperts.em.moves import split_merge
from mixexperts.em.online import Online
from mixexperts.em.variants import AnnealedEM, ClassificationEM, StochasticEM

__all__ = [
    "AnnealedEM",
    "ClassificationEM",
    "EMResult",
    "Model",
    "Monitor",
    "Online",
    "StochasticEM",
    "fit_em",
    "split_merge",
]
