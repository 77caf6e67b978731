"""Penalised fits with zeros: lasso, elastic net, group lasso, MCP and SCAD on both networks.

The M-steps of experts and gate are weighted quadratics less absolute values. They are climbed by
coordinate descent on a set of columns that grows until the gradients of all others are within the
subdifferential; the end of a run takes Newton steps in what is not zero. All that a step needs of
the columns outside the set is a sum over rows, so that there is no p x p matrix.
"""

from mixexperts.em.sparse.family import family_of
from mixexperts.em.sparse.fit import (
    SparseFits,
    alpha_max,
    fit_sparse,
    kkt_violation,
    log_likelihood,
    null_fit,
    responsibilities,
)
from mixexperts.em.sparse.path import sparse_path
from mixexperts.em.sparse.rows import SparseParams, SparseRows
from mixexperts.em.sparse.solver import SparseFit

__all__ = [
    "SparseFit",
    "SparseFits",
    "SparseParams",
    "SparseRows",
    "alpha_max",
    "family_of",
    "fit_sparse",
    "kkt_violation",
    "log_likelihood",
    "null_fit",
    "responsibilities",
    "sparse_path",
]
