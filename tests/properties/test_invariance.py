"""What must not matter: blocks, repetition against weight, order, units of measurement."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mixexperts.experts import Gaussian
from mixexperts.penalties import Ridge

SEEDS = st.integers(0, 10_000)
# The examples of a test are a function of the test alone.
FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=20)
GATES = st.sampled_from(["softmax", "constant"])
FITTED = ("intercept_", "coef_", "scale_", "gate_intercept_", "gate_coef_", "mass_")
# Sums in another order: eps times a few hundred terms per pass, over some dozen passes.
SAME = 1e-10
# Where starts or sums differ, so may the last pass: with tol = 1e-12 it gains that much, and
# moves parameters by about sqrt(tol) standard errors.
LLF = 1e-8
PARAMETERS = 1e-6


def assert_same_fit(left, right, llf=LLF, parameters=PARAMETERS):
    assert left.status_ == right.status_
    assert_allclose(left.log_likelihood_, right.log_likelihood_, rtol=llf, atol=llf)
    for name in FITTED:
        value = getattr(right, name)
        size = np.abs(value).max(initial=1.0)
        assert_allclose(getattr(left, name), value, rtol=0, atol=parameters * size, err_msg=name)


@FIXED
@given(seed=SEEDS, gate=GATES, n_experts=st.integers(1, 3), penalised=st.booleans())
def test_blocks_do_not_matter(tools, seed, gate, n_experts, penalised):
    n = 60
    X, y, label = tools.draw(seed, n, 2, n_experts)
    options = {"gate": gate, "init": label, "quiet": True, "max_iter": 60, "tol": 1e-8}
    if penalised:
        options |= {"expert_penalty": Ridge(0.01)}
    whole = tools.fit(X, y, n_experts, chunk_rows=None, **options)
    for chunk_rows in (1, 7, n):
        cut = tools.fit(X, y, n_experts, chunk_rows=chunk_rows, **options)
        assert_same_fit(cut, whole, SAME, SAME)


@FIXED
@given(seed=SEEDS, gate=GATES, n_experts=st.integers(1, 3))
def test_weight_two_is_the_row_twice(tools, seed, gate, n_experts):
    X, y, _ = tools.draw(seed, 60, 2, n_experts)
    twice = np.random.default_rng(seed).integers(0, 2, 60) == 1
    rows = np.repeat(np.arange(60), 1 + twice)
    # The tolerance is on the gain, which is of second order in the parameters.
    options = {"gate": gate, "quiet": True, "max_iter": 500, "tol": 1e-15}
    weighted = tools.fit(X, y, n_experts, sample_weight=1.0 + twice, **options)
    repeated = tools.fit(X[rows], y[rows], n_experts, **options)
    assert_same_fit(weighted, repeated, LLF, 1e-6 if weighted.separated_ else 1e-8)
    assert weighted.weight_sum_ == len(rows)
    assert weighted.bic(X, y, sample_weight=1.0 + twice) == pytest.approx(
        repeated.bic(X[rows], y[rows]), rel=LLF
    )


@FIXED
@given(seed=SEEDS, gate=GATES, junk=st.sampled_from([0.0, 1e3, -1e12]))
def test_weight_zero_is_the_row_absent(tools, seed, gate, junk):
    X, y, _ = tools.draw(seed, 60)
    out = np.arange(60) % 6 == 1
    bad_X, bad_y = np.where(out[:, None], junk, X), np.where(out, junk, y)
    options = {"gate": gate, "quiet": True, "max_iter": 300}
    weighted = tools.fit(bad_X, bad_y, sample_weight=np.where(out, 0.0, 1.0), **options)
    absent = tools.fit(X[~out], y[~out], **options)
    assert_same_fit(weighted, absent)


def test_weight_zero_is_the_row_absent_however_wild(tools):
    """A value that is switched off because it is a code for 'missing' may be of any size."""
    X, y, _ = tools.draw(1, 60)
    weight = np.ones(60)
    weight[4] = 0.0
    wild = y.copy()
    wild[4] = 1e200
    absent = tools.fit(np.delete(X, 4, 0), np.delete(y, 4))
    with np.errstate(over="ignore", invalid="ignore"):
        assert_same_fit(tools.fit(X, wild, sample_weight=weight), absent)


@FIXED
@given(seed=SEEDS, gate=GATES, scale=st.sampled_from([1e-3, 0.5, 100.0]))
def test_a_common_weight_multiplies_the_log_likelihood(tools, seed, gate, scale):
    X, y, label = tools.draw(seed, 80)
    plain = tools.fit(X, y, gate=gate, init=label)
    weighted = tools.fit(
        X, y, gate=gate, init=label, sample_weight=np.full(80, scale), quiet=True, tol=1e-12 * scale
    )
    assert weighted.log_likelihood_ == pytest.approx(scale * plain.log_likelihood_, rel=1e-9)
    # at scale 1e-3 the fit is degenerate (0.08 rows), but its parameters are the same
    assert_allclose(weighted.coef_, plain.coef_, atol=1e-5)


@settings(FIXED, max_examples=8)
@given(seed=SEEDS, gate=GATES, n_experts=st.integers(1, 3))
def test_order_of_rows_does_not_matter(tools, seed, gate, n_experts):
    X, y, _ = tools.draw(seed, 70, 2, n_experts)
    order = np.random.default_rng(seed).permutation(70)
    options = {"gate": gate, "quiet": True, "n_init": 6, "max_iter": 200}
    plain = tools.fit(X, y, n_experts, **options)
    shuffled = tools.fit(X[order], y[order], n_experts, **options)
    assert_same_fit(shuffled, plain)
    assert_allclose(
        shuffled.restarts_["log_likelihood"], plain.restarts_["log_likelihood"], rtol=1e-6
    )


DESIGNS = {
    "quadratic": lambda X: (X, Gaussian(degree=2)),
    "nearly collinear": lambda X: (np.column_stack([X, X.sum(axis=1) + 1e-3 * X[:, 0] ** 2]), None),
}


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
@pytest.mark.parametrize("init", ["kmeans", "residual", "random", "elemental", "small_em", "split"])
def test_order_of_rows_does_not_matter_where_columns_are_made_orthogonal(tools, design, init):
    """The basis of ill-conditioned columns has no natural signs; the starts must not see them."""
    X, y, _ = tools.draw(2, 80)
    X, expert = design(X)
    options = {"expert": expert or Gaussian(), "init": init, "n_init": 3, "max_iter": 1}
    order = np.random.default_rng(0).permutation(80)
    plain = tools.fit(X, y, quiet=True, **options).restarts_["log_likelihood"]
    turned = tools.fit(X[order], y[order], quiet=True, **options).restarts_["log_likelihood"]
    assert_allclose(turned, plain, rtol=1e-7)  # one pass: the log-likelihood of the start


@FIXED
@given(seed=SEEDS, gate=GATES, degree=st.integers(1, 2))
def test_order_of_columns_does_not_matter(tools, seed, gate, degree):
    X, y, label = tools.draw(seed, 90, 3)
    order = [2, 0, 1]
    options = {"gate": gate, "init": label, "expert": Gaussian(degree), "quiet": True}
    plain = tools.fit(X, y, **options)
    turned = tools.fit(X[:, order], y, **options)
    assert turned.log_likelihood_ == pytest.approx(plain.log_likelihood_, rel=LLF)
    assert_allclose(turned.coef_[:, :3], plain.coef_[:, order], atol=1e-6)
    assert_allclose(turned.predict(X[:, order]), plain.predict(X), atol=1e-6)
    if gate == "softmax" and not plain.separated_:
        assert_allclose(turned.gate_coef_, plain.gate_coef_[:, order], atol=1e-5)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("gate", ["softmax", "constant"])
@pytest.mark.parametrize("times", [1e-12, 1e-3, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e8, -1e8])
def test_units_of_the_response_do_not_matter(tools, gate, intercept, times, shift):
    """y -> times * (y + shift) changes the log-likelihood by exactly -n log(times)."""
    if shift and not intercept:
        shift = 0.0  # without an intercept a shift is another model
    n = 80
    X, y, label = tools.draw(11, n)
    expert = Gaussian(fit_intercept=intercept)
    plain = tools.fit(X, y, gate=gate, init=label, expert=expert)
    moved = tools.fit(X, times * (y + shift), gate=gate, init=label, expert=expert)
    # The shift leaves y eps * |shift| of error, felt in units of the smallest scale.
    lost = np.finfo(float).eps * abs(shift) / plain.scale_.min()
    assert moved.status_ == plain.status_ == "converged"
    assert_allclose(
        moved.log_likelihood_ + n * np.log(times), plain.log_likelihood_, atol=1e-9 + 10 * n * lost
    )
    tol = 1e-6 + 100 * lost
    assert_allclose(moved.coef_ / times, plain.coef_, atol=tol)
    assert_allclose(moved.scale_ / times, plain.scale_, atol=tol)
    assert_allclose(moved.intercept_ / times - shift, plain.intercept_, atol=tol)
    assert_allclose(moved.gate_proba(X), plain.gate_proba(X), atol=tol)
    assert_allclose(moved.predict(X) / times - shift, plain.predict(X), atol=tol)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("gate", ["softmax", "constant"])
@pytest.mark.parametrize("times", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e6])
def test_units_of_the_features_do_not_matter(tools, gate, times, shift, degree):
    X, y, label = tools.draw(12, 90)
    units = times * np.array([1.0, 1e3])
    options = {"gate": gate, "init": label, "expert": Gaussian(degree)}
    plain = tools.fit(X, y, **options)
    moved = tools.fit(units * (X + shift), y, **options)
    lost = np.finfo(float).eps * abs(shift) * np.abs(plain.coef_).max() / plain.scale_.min()
    assert_allclose(moved.log_likelihood_, plain.log_likelihood_, atol=1e-9 + 1000 * len(y) * lost)
    tol = 1e-6 + 1000 * lost
    assert_allclose(moved.predict(units * (X + shift)), plain.predict(X), atol=tol)
    assert_allclose(moved.scale_, plain.scale_, atol=tol)
    if degree == 1:
        assert_allclose(moved.coef_ * units, plain.coef_, atol=tol)
    if gate == "softmax":
        gate_tol = tol * np.abs(plain.gate_coef_).max()
        assert_allclose(moved.gate_coef_ * units, plain.gate_coef_, atol=gate_tol)


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e160, 1e200])
@pytest.mark.parametrize("what", ["X", "y"])
def test_units_at_the_ends_of_the_numbers(tools, what, size):
    """Whatever can be stored can be scaled: squares of it need not be representable."""
    X, y, label = tools.draw(11, 80)
    plain = tools.fit(X, y, init=label)
    moved = (
        tools.fit(X * size, y, init=label) if what == "X" else tools.fit(X, y * size, init=label)
    )
    jacobian = 80 * np.log(size) if what == "y" else 0.0
    assert moved.log_likelihood_ + jacobian == pytest.approx(plain.log_likelihood_, abs=1e-8)


@pytest.mark.parametrize("gate", ["softmax", "constant"])
def test_penalised_fit_does_not_depend_on_units(tools, gate):
    X, y, label = tools.draw(12, 90)
    options = {"gate": gate, "init": label, "expert_penalty": Ridge(0.02)}
    plain = tools.fit(X, y, **options)
    moved = tools.fit(X * [1e-6, 1e3] + [5.0, -2.0], 1e4 * y - 7.0, **options)
    assert moved.objective_ + 90 * np.log(1e4) == pytest.approx(plain.objective_, abs=1e-8)
    assert_allclose((moved.predict(X * [1e-6, 1e3] + [5.0, -2.0]) + 7) / 1e4, plain.predict(X))


@FIXED
@given(seed=SEEDS, constant=st.sampled_from([0.0, -3.0, 1e6]))
def test_offset_is_part_of_the_mean(tools, seed, constant):
    """An offset is the same as taking it from y: the density moves with it."""
    X, y, label = tools.draw(seed, 70)
    offset = constant + np.random.default_rng(seed).standard_normal(70)
    taken = tools.fit(X, y, init=label, quiet=True)
    given_ = tools.fit(X, y + offset, init=label, offset=offset, quiet=True)
    lost = 1e-9 * (1 + abs(constant))
    assert given_.log_likelihood_ == pytest.approx(taken.log_likelihood_, abs=70 * lost)
    assert_allclose(given_.coef_, taken.coef_, atol=1e-5)
    assert_allclose(given_.predict(X, offset=offset), taken.predict(X) + offset, rtol=1e-6)
    assert_allclose(given_.predict(X, offset=np.zeros(70)), taken.predict(X), atol=1e-5)
    assert given_.score_samples(X, y + offset, offset=offset).sum() == pytest.approx(
        given_.log_likelihood_, abs=1e-8
    )


def test_many_rows_are_many_blocks(tools):
    """More rows than one block, and than the starts are made from: the sums are the same."""
    X, y, label = tools.draw(4, 45_000)
    options = {"init": label, "max_iter": 5, "quiet": True}
    many = tools.fit(X, y, **options)
    one = tools.fit(X, y, chunk_rows=45_000, backend="numpy", **options)
    assert many.log_likelihood_ == pytest.approx(one.log_likelihood_, rel=1e-12)
    assert_allclose(many.coef_, one.coef_, atol=1e-8)
    assert_allclose(many.gate_coef_, one.gate_coef_, atol=1e-7)


@pytest.mark.parametrize("init", ["kmeans", "split"])
def test_many_rows_of_weight_zero_do_not_crowd_out_the_others(tools, init):
    """Starts are made from a part of many rows: from those that count."""
    X, y, _ = tools.draw(4, 25_000)
    weight = np.zeros(25_000)
    weight[:60] = 1.0
    options = {"init": init, "n_init": 1, "max_iter": 1, "quiet": True}
    weighted = tools.fit(X, y, sample_weight=weight, **options)
    absent = tools.fit(X[:60], y[:60], **options)
    # one pass: the log-likelihood of the start
    assert weighted.log_likelihood_ == pytest.approx(absent.log_likelihood_, abs=1e-6)
