"""Elementary functions of the compiled loops against libm, and the tiles against NumPy."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import gammaln

from mixexperts.kernels import _numba_math as own
from mixexperts.kernels import _numba_sums as sums


def made(function, x):
    out = np.array(x, dtype=float)
    function(out, len(out))
    return out


def test_exponential_is_within_one_unit_in_the_last_place():
    x = np.concatenate([np.linspace(-708.0, 709.0, 400_001), np.linspace(-1e-3, 1e-3, 1001)])
    assert (np.abs(made(own.exp_rows, x) - np.exp(x)) <= np.spacing(np.exp(x))).all()
    edge = made(own.exp_rows, [-709.0, -1e300, -np.inf, np.nan])
    assert edge[:3].tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(edge[3])


def test_logarithm_is_within_two_units_in_the_last_place():
    x = np.concatenate([np.geomspace(1e-300, 1e300, 400_001), np.linspace(0.5, 2.0, 400_001)])
    right = np.log(x)
    assert (np.abs(made(own.log_rows, x) - right) <= 2.0 * np.spacing(np.abs(right))).all()
    edge = made(own.log_rows, [0.0, np.nan])
    assert edge[0] == -np.inf
    assert np.isnan(edge[1])


def test_log1p_is_within_three_units_in_the_last_place():
    x = np.concatenate([np.linspace(0.0, 1.0, 400_001), np.geomspace(1e-300, 1.0, 10_001)])
    right = np.log1p(x)
    assert (np.abs(made(own.log1p_rows, x) - right) <= 3.0 * np.spacing(right)).all()


def test_log_factorial_is_that_of_the_gamma_function():
    x = np.concatenate([np.arange(2000.0), 2.0 ** np.arange(11, 50)])
    assert_allclose(made(own.log_factorial_rows, x), gammaln(x + 1.0), rtol=2e-15, atol=1e-15)
    assert made(own.log_factorial_rows, [20.0])[0] == pytest.approx(
        math.log(math.factorial(20)), rel=1e-15
    )


@pytest.mark.parametrize("n_weights", [3, 6, 9, 15])
@pytest.mark.parametrize(("p", "m"), [(1, 5), (2, 64), (5, 3), (12, 63)])
def test_tiles_add_weighted_grams(n_weights, p, m):
    rng = np.random.default_rng(n_weights + p)
    X, W = np.zeros((sums.padded(p, 4), 64)), rng.standard_normal((n_weights, 64))
    X[:p] = rng.standard_normal((p, 64))
    out = np.zeros((n_weights, len(X), len(X)))
    for _ in range(2):
        sums.add_grams(W, n_weights, X, p, m, out)
    right = 2.0 * np.einsum("gi,ai,bi->gab", W[:, :m], X[:, :m], X[:, :m])
    rows, columns = np.tril_indices(p)
    assert_allclose(sums.triangles(out, n_weights, p), right[:, rows, columns], atol=1e-12)


@pytest.mark.parametrize("p", [0, 4, 12])
def test_tiles_make_predictors_and_cross_products(p):
    rng = np.random.default_rng(p)
    X, V, c = rng.standard_normal((p, 64)), rng.standard_normal((6, 64)), rng.standard_normal(p)
    out, cross = np.full(64, np.nan), np.zeros((6, p))
    sums.predictor(c, X, p, 63, out)
    sums.add_cross(V, 6, X, p, 63, cross)
    assert_allclose(out[:63], c @ X[:, :63], atol=1e-13)
    assert np.isnan(out[63])
    assert_allclose(cross, V[:, :63] @ X[:, :63].T, atol=1e-12)
