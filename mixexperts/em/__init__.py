"""Expectation-maximisation: the engine, its monitor, acceleration, starts and restarts."""

from mixexperts.em.engine import EMResult, Model, fit_em
from mixexperts.em.monitor import Monitor

__all__ = ["EMResult", "Model", "Monitor", "fit_em"]
