"""Expert families: f_k(y | x)."""

from mixexperts.experts.base import Expert
from mixexperts.experts.gaussian import Gaussian

__all__ = ["Expert", "Gaussian"]
