"""Importing the package loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "numba", "matplotlib", "dask", "cupy", "formulaic", "statsmodels", "pandas", "sklearn",
    "scipy", "pyarrow", "joblib", "tqdm",
)  # fmt: skip


def _loaded_after(code: str) -> set[str]:
    """Top-level modules of a fresh process after some code."""
    code = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return {name.partition(".")[0] for name in json.loads(out)}


@pytest.mark.parametrize(
    "code",
    [
        "import mixexperts",
        "import mixexperts as mx; mx.__version__; dir(mx)",
        "import mixexperts.errors",
        # What a worker process or a user of the engine alone needs.
        "import mixexperts as mx; mx.em.fit_em; mx.experts.Gaussian(); mx.gates.Softmax()",
    ],
)
def test_nothing_heavy(code: str) -> None:
    assert _loaded_after(code) & set(HEAVY) == set()


def test_fitting_arrays_on_numpy_loads_no_plots_formulas_or_compilers() -> None:
    code = (
        "import numpy as np, mixexperts as mx\n"
        "x = np.linspace(-1, 1, 60)\n"
        "y = np.abs(x) + 0.1 * np.sin(99 * x)\n"
        "mx.MoERegressor(gate='constant', n_init=1, backend='numpy').fit(x[:, None], y)"
    )
    unwanted = {"matplotlib", "formulaic", "statsmodels", "numba", "dask", "cupy"}
    assert _loaded_after(code) & unwanted == set()


def test_all_names_exist() -> None:
    import mixexperts as mx

    assert sorted(mx.__all__) == dir(mx)
    for name in mx.__all__:
        assert getattr(mx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mx.nothing  # noqa: B018
