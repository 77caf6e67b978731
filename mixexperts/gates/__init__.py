"""Gates: the mixing weights g_k(x)."""

from mixexperts.gates.base import Gate
from mixexperts.gates.cosine import Cosine
from mixexperts.gates.dselect import DSelectK
from mixexperts.gates.gaussian import Gaussian
from mixexperts.gates.sigmoid import Sigmoid
from mixexperts.gates.softmax import Constant, Softmax
from mixexperts.gates.top_k import TopK
from mixexperts.gates.tree import Tree

__all__ = [
    "Constant",
    "Cosine",
    "DSelectK",
    "Gate",
    "Gaussian",
    "Sigmoid",
    "Softmax",
    "TopK",
    "Tree",
]
