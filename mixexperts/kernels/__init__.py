"""The hot functions, on plain arrays: the same names in every backend file."""
