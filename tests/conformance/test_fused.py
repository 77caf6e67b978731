"""The compiled pass against the gate's and the expert's own methods, every argument at work."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._batch import Batch, Columns, Theta, tree_sum
from mixexperts.em import Model
from mixexperts.em.passes import choose_pass, is_compiled
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant, Softmax

# Sums of some hundred terms in another order, and an exponential good to an ulp or two.
TOL = 1e-11


def assert_same(model, theta, batch):
    with np.errstate(all="ignore"):
        plain = choose_pass(model, "numpy")(model, theta, batch)
        fused = choose_pass(model, "numba")(model, theta, batch)
    assert fused.keys() == plain.keys()
    for name, value in plain.items():
        assert np.shape(fused[name]) == np.shape(value)
        scale = np.abs(value).max(initial=1.0)
        assert_allclose(fused[name], value, rtol=0, atol=TOL * scale, err_msg=name)


def test_statistics_are_the_same(gate, expert, kind, case):
    model, theta, batch = case(gate, expert, kind)
    if not is_compiled(model):
        with pytest.raises(UnsupportedCombinationError, match="has no fused pass"):
            choose_pass(model, "numba")
        return
    assert_same(model, theta, batch)


@pytest.mark.parametrize("n_experts", [1, 2, 4, 7])
def test_any_number_of_experts(gate, expert, case, n_experts):
    model, theta, batch = case(gate, expert, "weights", n_experts=n_experts)
    if is_compiled(model):
        assert_same(model, theta, batch)


@pytest.mark.parametrize("n_units", [1, 255, 256, 257, 700])
def test_any_number_of_rows(gate, expert, case, n_units):
    """Rows go in blocks: the last one may be short."""
    model, theta, batch = case(gate, expert, "offset", n_units=300)
    if is_compiled(model):
        times = -(-n_units // 300)
        rows = np.tile(np.arange(300), times)[:n_units]
        part = Batch(
            batch.y[rows],
            {"mean": batch.X[rows]},
            batch.Z[rows],
            np.linspace(0.5, 2.0, n_units),
            offset=batch.offset[rows],
        )
        assert_same(model, theta, part)


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
    assert_same(Model(Softmax(), Gaussian()), Theta({"coef": gate}, expert), batch)


@pytest.mark.parametrize("order", ["C", "F", "strided", "float32-y"])
def test_any_layout_of_the_arrays(order, case):
    model, theta, batch = case(Softmax(), Gaussian(), "weights")
    if order == "F":
        X = np.asfortranarray(batch.X)
    elif order == "strided":
        X = np.repeat(batch.X, 2, axis=1)[:, ::2]
    else:
        X = batch.X
    y = batch.y.astype(np.float32) if order == "float32-y" else batch.y
    assert_same(model, theta, dataclasses.replace(batch, y=y, designs={"mean": X}))


def test_shared_design_gives_the_same_as_a_copy(case):
    model, theta, batch = case(Softmax(), Gaussian(), "weights")
    shared = dataclasses.replace(batch, Z=batch.X)
    copied = dataclasses.replace(batch, Z=batch.X.copy())
    assert_same(model, theta, shared)
    left, right = (choose_pass(model, "numba")(model, theta, b) for b in (shared, copied))
    for name in left:
        assert_allclose(left[name], right[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("distance", [10.0, 30.0, 1e3, 1e150])
def test_an_expert_out_of_reach_has_no_mass(gate, distance, case):
    """Densities that underflow are zero in both passes, not the smallest number there is."""
    model, theta, batch = case(gate, Gaussian(), "plain")
    if not is_compiled(model):
        return
    coef = np.array(theta.expert["coef"])
    coef[1] = [distance, 0.0, 0.0]
    far = Theta(theta.gate, {"coef": coef, "scale": np.ones(3)})
    assert_same(model, far, batch)
    with np.errstate(all="ignore"):
        plain, fused = (choose_pass(model, b)(model, far, batch) for b in ("numpy", "numba"))
    assert (fused["expert.mass"] > 0).tolist() == (plain["expert.mass"] > 0).tolist()


@pytest.mark.parametrize("size", [1e6, 1e20, 1e46])
def test_a_steep_gate_does_not_swallow_the_densities(expert, size, case):
    model, theta, batch = case(Softmax(), expert, "offset")
    if not is_compiled(model):
        return
    # no row on the edge between two experts, where rounding decides who takes it
    logits = np.sort(batch.Z @ theta.gate["coef"].T, axis=1)
    assert np.diff(logits, axis=1)[:, -1].min() > 1e-4
    steep = Theta({"coef": size * theta.gate["coef"]}, theta.expert)
    assert_same(model, steep, batch)


@pytest.mark.parametrize("value", [1e100, 1e153, 1e160, 1e200])
def test_rows_without_support_are_seen_alike(value, case):
    """The log-likelihood is that of the reference, -inf where the exponent overflows."""
    model, theta, batch = case(Constant(), Gaussian(), "plain")
    y = np.array(batch.y)
    y[3] = value
    wild = dataclasses.replace(batch, y=y)
    with np.errstate(all="ignore"):
        left, right = (
            choose_pass(model, b)(model, theta, wild)["log_likelihood"] for b in ("numpy", "numba")
        )
    assert right == pytest.approx(left, rel=1e-12)


@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_columns_made_by_the_kernel(order, dtype):
    """Raw features, standardised as they are read, against the design made beforehand."""
    rng = np.random.default_rng(4)
    n, k = 700, 3
    raw = rng.normal(50.0, 3.0, size=(n, 8)).astype(dtype)
    raw = {"C": raw, "F": np.asfortranarray(raw), "strided": np.repeat(raw, 2, axis=1)[:, ::2]}[
        order
    ]
    columns = Columns(
        raw, 100, 650, np.array([-1, 6, 0, 3]), np.array([0, 50.0, 49.0, 51.0]),
        np.array([1.0, 0.3, 0.4, 0.5]),
    )  # fmt: skip
    other = Columns(raw, 100, 650, np.array([5, 2]), np.array([50.0, 50.0]), np.array([0.3, 1.0]))
    values = raw[100:650].astype(float)
    assert_allclose(columns.dense()[:, 1], (values[:, 6] - 50.0) * 0.3, rtol=1e-12, atol=1e-12)
    theta = Theta(
        {"coef": np.vstack([rng.standard_normal((k - 1, 2)), np.zeros(2)])},
        {"coef": rng.standard_normal((k, 4)), "scale": rng.uniform(0.5, 2, k)},
    )
    same = Theta({"coef": np.vstack([rng.standard_normal((k - 1, 4)), np.zeros(4)])}, theta.expert)
    model = Model(Softmax(), Gaussian())
    y, weight = rng.standard_normal(550), rng.uniform(0, 2, 550)
    for parameters, batch in (
        (theta, Batch(y, {"mean": columns}, other, weight)),
        (same, Batch(y, {"mean": columns}, columns, weight)),
    ):
        assert_same(model, parameters, batch)
        plain = choose_pass(model, "numpy")(model, parameters, batch)
        blocks = [choose_pass(model, "numba")(model, parameters, b) for b in batch.split(129)]
        for name, value in tree_sum(blocks).items():
            scale = np.abs(plain[name]).max(initial=1.0)
            assert_allclose(value, plain[name], rtol=0, atol=TOL * scale, err_msg=name)


def test_whole_fits_agree(case):
    from mixexperts.em import fit_em

    model, theta, batch = case(Softmax(), Gaussian(), "weights", n_units=300)
    plain, fused = (fit_em(model, batch, theta, backend=b) for b in ("numpy", "numba"))
    assert fused.status == plain.status
    assert fused.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-8)
    assert_allclose(model.pack(fused.theta), model.pack(plain.theta), atol=1e-3)
