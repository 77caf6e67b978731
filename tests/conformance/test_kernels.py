"""NumPy kernels against loops that follow the formulas, every argument at work."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._batch import Batch, tree_sum, weighted_mean
from mixexperts.kernels import numpy_ as kernels

# Sums of a few dozen terms in another order.
TOL = 1e-13
SHAPES = [(1, 1, 1), (7, 1, 3), (20, 2, 1), (33, 4, 3)]


@pytest.mark.parametrize(("n", "k", "p"), SHAPES)
def test_e_step(rng, n, k, p):
    log_joint = 5 * rng.standard_normal((n, k))
    resp, log_density = kernels.e_step(log_joint.copy())
    for i in range(n):
        total = sum(np.exp(value) for value in log_joint[i])
        assert log_density[i] == pytest.approx(np.log(total), rel=TOL)
        for j in range(k):
            assert resp[i, j] == pytest.approx(np.exp(log_joint[i, j]) / total, rel=TOL)


@pytest.mark.parametrize("shift", [-1e5, -800.0, 800.0, 1e5])
def test_e_step_neither_overflows_nor_underflows(rng, shift):
    log_joint = rng.standard_normal((9, 3))
    resp, log_density = kernels.e_step(log_joint + shift)
    plain, base = kernels.e_step(log_joint.copy())
    rounding = 4 * np.spacing(abs(shift))
    assert_allclose(log_density, base + shift, rtol=0, atol=rounding)
    assert_allclose(resp, plain, rtol=0, atol=rounding)


def test_e_step_of_rows_out_of_reach(rng):
    log_joint = np.array([[-np.inf, 0.0], [-np.inf, -np.inf], [-1e308, -1e307]])
    resp, log_density = kernels.e_step(log_joint)
    assert_allclose(resp[0], [0.0, 1.0])
    assert log_density[1] == -np.inf  # seen as a fall, not as NaN
    assert_allclose(resp[2], [0.0, 1.0])


def test_e_step_may_overwrite_its_argument_as_documented(rng):
    log_joint = rng.standard_normal((5, 2))
    resp, _ = kernels.e_step(log_joint)
    assert resp is log_joint


@pytest.mark.parametrize(("n", "k", "p"), SHAPES)
def test_log_softmax(rng, n, k, p):
    logits = 5 * rng.standard_normal((n, k))
    result = kernels.log_softmax(logits)
    for i in range(n):
        total = sum(np.exp(value) for value in logits[i])
        for j in range(k):
            expected = logits[i, j] - np.log(total)
            assert result[i, j] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("n", "k", "p"), SHAPES)
def test_weighted_gram(rng, n, k, p):
    X, weight = rng.standard_normal((n, p)), rng.uniform(size=(n, k))
    loops = np.zeros((k, p, p))
    for i in range(n):
        for j in range(k):
            for a in range(p):
                for b in range(p):
                    loops[j, a, b] += weight[i, j] * X[i, a] * X[i, b]
    gram = kernels.weighted_gram(X, weight)
    assert_allclose(gram, loops, rtol=TOL, atol=TOL * n)
    assert_allclose(gram, gram.transpose(0, 2, 1), rtol=0, atol=TOL * n)


@pytest.mark.parametrize(("n", "k", "p"), SHAPES)
def test_weighted_cross(rng, n, k, p):
    X, values = rng.standard_normal((n, p)), rng.standard_normal((n, k))
    loops = np.zeros((k, p))
    for i in range(n):
        for j in range(k):
            for a in range(p):
                loops[j, a] += X[i, a] * values[i, j]
    assert_allclose(kernels.weighted_cross(X, values), loops, rtol=TOL, atol=TOL * n)


@pytest.mark.parametrize(("n", "k", "p"), SHAPES)
def test_softmax_stats(rng, n, k, p):
    Z = rng.standard_normal((n, p))
    prob = rng.dirichlet(np.ones(k), n)
    weight = rng.uniform(0.0, 2.0, n)
    resp = rng.dirichlet(np.ones(k), n) * weight[:, None]
    gradient, information = kernels.softmax_stats(Z, prob, resp, weight)
    first = np.zeros((k - 1, p))
    second = np.zeros((k - 1, k - 1, p, p))
    for i in range(n):
        for a in range(k - 1):
            first[a] += (resp[i, a] - weight[i] * prob[i, a]) * Z[i]
            for b in range(k - 1):
                mix = weight[i] * prob[i, a] * (float(a == b) - prob[i, b])
                second[a, b] += mix * np.outer(Z[i], Z[i])
    assert_allclose(gradient, first, rtol=TOL, atol=TOL * n)
    assert_allclose(information, second, rtol=TOL, atol=TOL * n)


def test_softmax_information_is_the_curvature(rng):
    """Against second differences of the log-likelihood, independent of the formula above."""
    n, k, q = 25, 3, 2
    Z, weight = rng.standard_normal((n, q)), rng.uniform(0.5, 2.0, n)
    resp = rng.dirichlet(np.ones(k), n) * weight[:, None]

    def value(free):
        logits = Z @ np.vstack([free.reshape(k - 1, q), np.zeros(q)]).T
        return np.sum(resp * kernels.log_softmax(logits))

    at, h = rng.standard_normal((k - 1) * q), 1e-4
    prob = np.exp(kernels.log_softmax(Z @ np.vstack([at.reshape(k - 1, q), np.zeros(q)]).T))
    gradient, information = kernels.softmax_stats(Z, prob, resp, weight)
    curvature = information.transpose(0, 2, 1, 3).reshape(len(at), len(at))
    eye = h * np.eye(len(at))
    # Rounding 1e-16 * |f| / h^2 is about 1e-6; truncation h^2 smaller still.
    for a in range(len(at)):
        slope = (value(at + eye[a]) - value(at - eye[a])) / (2 * h)
        assert slope == pytest.approx(gradient.ravel()[a], abs=1e-6)
        for b in range(len(at)):
            second = (
                value(at + eye[a] + eye[b])
                - value(at + eye[a] - eye[b])
                - value(at - eye[a] + eye[b])
                + value(at - eye[a] - eye[b])
            ) / (4 * h * h)
            assert -second == pytest.approx(curvature[a, b], abs=1e-5)


def test_kernels_leave_their_arguments_alone(rng, tools):
    """All but ``e_step``, which says that it overwrites."""
    X, weight = tools.frozen(rng.standard_normal((6, 2))), tools.frozen(rng.uniform(size=(6, 3)))
    kernels.log_softmax(weight)
    kernels.weighted_gram(X, weight)
    kernels.weighted_cross(X, weight)
    kernels.softmax_stats(X, weight, weight, weight[:, 0])


@pytest.mark.parametrize("n_parts", [1, 2, 3, 5, 8, 13])
def test_tree_sum_adds_every_part_once(n_parts):
    parts = [{"a": np.array([2.0**i]), "b": float(i)} for i in range(n_parts)]
    total = tree_sum(parts)
    assert total["a"] == 2.0**n_parts - 1
    assert total["b"] == n_parts * (n_parts - 1) / 2


def test_tree_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="data source is empty"):
        tree_sum([])


def test_units_spread_and_sum_over_their_rows(rng):
    unit = np.array([0, 0, 1, 2, 2, 2])
    design = rng.standard_normal((6, 2))
    weight = np.array([2.0, 0.5, 0.0])
    batch = Batch(rng.standard_normal(6), {"mean": design}, np.ones((3, 1)), weight, unit=unit)
    values, units = rng.standard_normal((6, 2)), rng.standard_normal((3, 2))
    assert_allclose(batch.sum_units(values), [values[unit == k].sum(axis=0) for k in range(3)])
    assert_allclose(batch.spread_units(units), units[unit])
    assert [part.n_rows for part in batch.split(1)] == [2, 1, 3]
    # at most so many rows, but a unit is never cut
    assert [part.unit.tolist() for part in batch.split(2)] == [[0, 0], [0], [0, 0, 0]]
    assert batch.split(6) == (batch,)
    assert_allclose(batch.take(1, 3).y, batch.y[2:])


@pytest.mark.parametrize("shift", [0.0, 1e8, -1e12])
def test_weighted_mean_bears_a_shift(rng, shift):
    values, weight = rng.standard_normal((50, 2)), rng.uniform(0.0, 2.0, 50)
    shifted = values + shift
    back = shifted - shift  # what the shift left of the values
    naive = np.average(back, axis=0, weights=weight)
    assert_allclose(weighted_mean(shifted, weight) - shift, naive, atol=2 * np.spacing(abs(shift)))


def test_compiled_closures_have_names_of_their_own():
    """Machine code is looked up by name; those of two processes were taken for each other."""
    from mixexperts.kernels import numba_, numba_information, numba_terms

    made = [numba_.fused_pass(code, gate) for code in range(3) for gate in range(3)]
    made += [numba_information.information(code, gate) for code in range(3) for gate in range(2)]
    made += [numba_terms.summed(gate) for gate in range(3)] + [numba_terms.linear_predictors()]
    names = [function.py_func.__qualname__ for function in made]
    assert len(set(names)) == len(names)
