"""The pass in array API operations against the gate's and the expert's own methods.

It runs under ``array_api_strict``, through the executor that a GPU has, so that the dispatch is
tested where there is none.
"""

import functools
import importlib.util
from pathlib import Path

import array_api_strict as xp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats

from mixexperts._batch import Batch, Theta
from mixexperts.em import Model
from mixexperts.em.device import DeviceExecutor, device_pass, is_served
from mixexperts.em.model import em_pass
from mixexperts.em.passes import choose_pass
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant, Softmax
from mixexperts.kernels import array_api

_spec = importlib.util.spec_from_file_location(
    "_mixexperts_devices", Path(__file__).parents[1] / "_devices.py"
)
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)

# Sums of some hundred terms in another order.
TOL = 1e-11


def on_device(model, theta, batches, device=None):
    executor = DeviceExecutor(device or devices.StrictDevice())
    work = functools.partial(device_pass, model, theta)
    with np.errstate(all="ignore"):
        return executor.map_reduce(work, executor.scatter(batches))


def assert_same(found, expected, tol=TOL):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.shape(found[name]) == np.shape(value), name
        assert isinstance(found[name], np.ndarray | float), name
        scale = np.abs(value).max(initial=1.0)
        assert_allclose(found[name], value, rtol=0, atol=tol * scale, err_msg=name)


def reference(model, theta, batch):
    with np.errstate(all="ignore"):
        return em_pass(model, theta, batch)


def test_statistics_are_the_same(gate, expert, kind, case):
    model, theta, batch = case(gate, expert, kind)
    if not is_served(model):
        with pytest.raises(UnsupportedCombinationError, match="has no part for the"):
            choose_pass(model, "cupy")
        return
    assert choose_pass(model, "cupy") is device_pass
    assert_same(on_device(model, theta, [batch]), reference(model, theta, batch))


@pytest.mark.parametrize("n_experts", [1, 2, 4, 7])
def test_any_number_of_experts(gate, expert, case, n_experts):
    model, theta, batch = case(gate, expert, "everything", n_experts=n_experts)
    if is_served(model):
        assert_same(on_device(model, theta, [batch]), reference(model, theta, batch))


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 5), (9, 3), (0, 2), (3, 0)])
def test_any_number_of_columns(p, q):
    rng = np.random.default_rng(p + 10 * q)
    n, k = 70, 3
    batch = Batch(
        rng.standard_normal(n), {"mean": rng.standard_normal((n, p))},
        rng.standard_normal((n, q)), rng.uniform(0, 2, n),
    )  # fmt: skip
    gate = np.vstack([rng.standard_normal((k - 1, q)), np.zeros((1, q))])
    expert = {"coef": rng.standard_normal((k, p)), "scale": rng.uniform(0.5, 2, k)}
    model, theta = Model(Softmax(), Gaussian()), Theta({"coef": gate}, expert)
    assert_same(on_device(model, theta, [batch]), reference(model, theta, batch))


def test_a_shared_design_gives_the_same_as_a_copy(case):
    model, theta, batch = case(Softmax(), Gaussian(), "weights")
    shared = Batch(batch.y, batch.designs, batch.X, batch.weight)
    copied = Batch(batch.y, batch.designs, batch.X.copy(), batch.weight)
    device = devices.StrictDevice()
    left = on_device(model, theta, [shared], device)
    once = device.placed
    right = on_device(model, theta, [copied], device)
    assert_same(left, right, 1e-13)
    assert device.placed - once == once + batch.X.nbytes  # placed once, not twice


def test_blocks_add_up(gate, expert, case):
    model, theta, batch = case(gate, expert, "everything")
    if is_served(model):
        whole = on_device(model, theta, [batch])
        assert_same(on_device(model, theta, batch.split(7)), whole)


@pytest.mark.parametrize("distance", [10.0, 30.0, 1e3, 1e150])
def test_an_expert_out_of_reach_has_no_mass(gate, distance, case):
    model, theta, batch = case(gate, Gaussian(), "plain")
    coef = np.array(theta.expert["coef"])
    coef[1] = [distance, 0.0, 0.0]
    far = Theta(theta.gate, {"coef": coef, "scale": np.ones(3)})
    if is_served(model):
        found, expected = on_device(model, far, [batch]), reference(model, far, batch)
        assert_same(found, expected)
        assert (found["expert.mass"] > 0).tolist() == (expected["expert.mass"] > 0).tolist()


def test_rows_without_support(case):
    model, theta, batch = case(Constant(), Gaussian(), "plain")
    y, weight = np.array(batch.y), np.array(batch.weight)
    y[3] = 1e200
    wild = Batch(y, batch.designs, batch.Z, weight)
    assert on_device(model, theta, [wild])["log_likelihood"] == -np.inf
    weight[3] = 0.0  # such a row counts for nothing
    without = Batch(y, batch.designs, batch.Z, weight)
    rest = np.arange(len(y)) != 3
    kept = Batch(y[rest], {"mean": batch.X[rest]}, batch.Z[rest], weight[rest])
    found = on_device(model, theta, [without])["log_likelihood"]
    assert found == pytest.approx(reference(model, theta, kept)["log_likelihood"], rel=1e-13)


def test_e_step_of_rows_out_of_reach():
    joint = xp.asarray([[-np.inf, 0.0], [-np.inf, -np.inf], [-1e308, -1e307]])
    resp, log_density = array_api.e_step(xp, joint)
    assert np.asarray(resp._array).tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert np.asarray(log_density._array).tolist() == [0.0, -np.inf, -1e307]


@pytest.mark.parametrize("tile", [1, 4, 33, 100])
def test_grams_in_tiles(rng, tile):
    X, weight = rng.standard_normal((33, 4)), rng.uniform(size=(33, 3))
    found = array_api.weighted_grams(xp, xp.asarray(X), xp.asarray(weight), tile)
    expected = np.einsum("ig,ia,ib->gab", weight, X, X)
    assert_allclose(np.asarray(found._array), expected, rtol=0, atol=1e-13 * len(X))


# --- families, against scipy --------------------------------------------------------------------


def test_log_factorial():
    y = np.concatenate([np.arange(400.0), np.round(np.geomspace(400.0, 1e15, 300))])
    found = np.asarray(array_api.log_factorial(xp, xp.asarray(y))._array)
    assert found[:2].tolist() == [0.0, 0.0]
    assert_allclose(found[2:], special.gammaln(y[2:] + 1.0), rtol=1e-13, atol=0)


def family_parts(name, y, eta):
    family = array_api.FAMILIES[name]
    y, eta = xp.asarray(y), xp.asarray(eta)
    log_f, mean = family.density(xp, y, eta, None)
    slope, curve, extra = family.moments(xp, y, mean, None)
    assert extra is None
    return [
        np.asarray(part._array) for part in (log_f + family.constant(xp, y), mean, slope, curve)
    ]


def responses(name, rng, n):
    if name == "poisson":
        return rng.poisson(4.0, n).astype(float)
    if name == "trials":
        successes = rng.integers(0, 9, n).astype(float)
        return np.column_stack([successes, rng.integers(0, 5, n)])
    return rng.integers(0, 2, n).astype(float)


def log_pmf(name, y, eta):
    if name == "poisson":
        return stats.poisson.logpmf(y[:, None], np.exp(eta))
    pi = special.expit(eta)
    if name == "trials":
        return stats.binom.logpmf(y[:, :1], y.sum(axis=1, keepdims=True), pi)
    return stats.bernoulli.logpmf(y[:, None], pi)


FAMILIES = [("poisson", "poisson"), ("trials", "binomial"), ("single", "binomial")]


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_log_probabilities(rng, name, family):
    y, eta = responses(name, rng, 60), rng.normal(0.5, 1.5, (60, 3))
    assert_allclose(family_parts(family, y, eta)[0], log_pmf(name, y, eta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_moments_are_the_derivatives(rng, name, family):
    """Central differences of the log probability; their truncation is h^2 times its scale."""
    y, eta, h = responses(name, rng, 60), rng.normal(0.0, 1.0, (60, 3)), 1e-4
    low, (middle, mean, slope, curve), high = (
        family_parts(family, y, eta + shift)[0] if shift else family_parts(family, y, eta)
        for shift in (-h, 0.0, h)
    )
    assert_allclose((high - low) / (2 * h), slope, atol=1e-6)
    # The links are canonical: the information does not depend on y.
    assert_allclose((2 * middle - low - high) / h**2, curve, atol=1e-5)
    assert_allclose(mean, np.exp(eta) if family == "poisson" else special.expit(eta), rtol=1e-14)


@pytest.mark.parametrize("eta", [-800.0, -40.0, 40.0, 800.0])
def test_predictors_far_out_stay_numbers(eta):
    at = np.full((2, 1), eta)
    for name, y in (("poisson", [0.0, 3.0]), ("binomial", [0.0, 1.0])):
        parts = family_parts(name, np.array(y), at)
        assert all(np.isfinite(part).all() for part in parts)
        assert (parts[3] >= 0.0).all()
    # The smaller of both probabilities keeps its digits.
    log_f = family_parts("binomial", np.array([0.0, 1.0]), at)[0][:, 0]
    assert_allclose(log_f, [special.log_expit(-eta), special.log_expit(eta)], rtol=1e-14)


# --- the Gaussian gate, against formulas --------------------------------------------------------


def test_gaussian_gate(rng):
    n, q, k = 50, 2, 3
    Z, weight = rng.standard_normal((n, q)), rng.dirichlet(np.ones(k), n)
    mean = rng.standard_normal((k, q))
    factor = np.tril(rng.standard_normal((k, q, q))) + 2.0 * np.eye(q)
    covariance = np.linalg.inv(np.einsum("kpq,kpr->kqr", factor, factor))
    share = rng.dirichlet(np.ones(k))
    log_det = np.log(np.abs(np.linalg.det(factor)))
    constant = np.log(share) + log_det - 0.5 * q * np.log(2 * np.pi)
    gate = array_api.GaussianGate(*(xp.asarray(v) for v in (constant, mean, factor)))
    ones = xp.asarray(np.ones(n))
    rows = array_api.Rows(xp, ones, xp.asarray(Z), xp.asarray(Z), ones)
    for j in range(k):
        expected = np.log(share[j]) + stats.multivariate_normal.logpdf(Z, mean[j], covariance[j])
        assert_allclose(np.asarray(gate.scores(rows)._array)[:, j], expected, rtol=1e-11)
    sums = {name: np.asarray(v._array) for name, v in gate.sums(rows, xp.asarray(weight)).items()}
    residual = Z[:, None, :] - mean
    assert_allclose(sums["gate_mass"], weight.sum(axis=0), rtol=1e-13)
    assert_allclose(sums["first"], np.einsum("ik,ikp->kp", weight, residual), atol=1e-12)
    assert_allclose(
        sums["second"], np.einsum("ik,ikp,ikq->kpq", weight, residual, residual), atol=1e-12
    )
