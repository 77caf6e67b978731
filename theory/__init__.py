"""What theory says of the methods here; convergence-rate studies: claims, and their runs."""

if __name__ != "mixexperts.theory":
    raise ImportError("import mixexperts.theory; 'theory' is its source folder")

from mixexperts.theory.lasso import LassoAlphaBound, lasso_alpha_bound, lasso_alpha_shape

__all__ = ["LassoAlphaBound", "lasso_alpha_bound", "lasso_alpha_shape"]
