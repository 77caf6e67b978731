"""Penalties on coefficients: none, ridge, and those that set coefficients to zero."""

from mixexperts.penalties.base import NoPenalty, Penalty, Ridge, solve_symmetric
from mixexperts.penalties.sparse import SparsePenalty

__all__ = ["NoPenalty", "Penalty", "Ridge", "SparsePenalty", "solve_symmetric"]
