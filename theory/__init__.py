"""Convergence-rate studies: claims, and the runs that show them."""

if __name__ != "mixexperts.theory":
    raise ImportError("import mixexperts.theory; 'theory' is its source folder")
