"""Gates: the mixing weights g_k(x)."""

from mixexperts.gates.base import Gate
from mixexperts.gates.gaussian import Gaussian
from mixexperts.gates.softmax import Constant, Softmax

__all__ = ["Constant", "Gate", "Gaussian", "Softmax"]
