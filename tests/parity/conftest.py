"""Data of the R package RMoE: beside the repository where they are at hand, never part of it."""

from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "lasso"


@pytest.fixture(scope="session")
def rmoe():
    """Function that reads a data set by name: features without the column of ones, and y."""

    def read(name):
        file = REFERENCE / f"{name}.csv"
        if not file.exists():
            pytest.skip(f"{file} is not at hand")
        values = np.loadtxt(file, delimiter=",", skiprows=1)
        X, y = values[:, :-1], values[:, -1]
        return (X[:, 1:] if np.all(X[:, 0] == 1.0) else X), y

    return read
