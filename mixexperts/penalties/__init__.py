"""Penalties on coefficients: none and ridge."""

from mixexperts.penalties.base import NoPenalty, Penalty, Ridge, solve_symmetric

__all__ = ["NoPenalty", "Penalty", "Ridge", "solve_symmetric"]
