"""What must not matter to a penalised fit: order, names of experts, units, rows twice."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import mixexperts as mx
from mixexperts.errors import DegenerateFitWarning

SEEDS = st.integers(0, 10_000)
FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=8)
FAMILIES = ("gaussian", "poisson", "multinomial")
FITTED = ("intercept_", "coef_", "gate_intercept_", "gate_coef_")
# Runs stop where gradients are within 1e-10 of optimal; curvature is of the order of a hundredth.
SAME = 1e-6
TIGHT = {"tol": 1e-10, "n_init": 1, "max_iter": 5000}


def draw(family, seed, n=120, p=8):
    """Rows of two experts that can be told apart, and which expert each row is of."""
    X, y, truth = mx.datasets.make_sparse_moe(n, p, expert=family, random_state=seed)
    return X, y, truth.labels


def fit(family, X, y, weight=None, **options):
    make = mx.LassoMoEClassifier if family == "multinomial" else mx.LassoMoERegressor
    settings_ = {"alpha": 0.02, "gate_alpha": 0.03, **TIGHT, **options}
    if family == "poisson":
        settings_["expert"] = "poisson"
    with warnings.catch_warnings():
        # A solution with an expert of few rows is one like any other here.
        warnings.simplefilter("ignore", DegenerateFitWarning)
        return make(2, **settings_).fit(X, y, sample_weight=weight)


def assert_same(left, right, rows, order=(0, 1), columns=slice(None)):
    """Fits agree; `rows` are the same rows for the left and for the right one."""
    assert left.status_ == right.status_
    assert_allclose(left.objective_, right.objective_, rtol=1e-9, atol=1e-9)
    if hasattr(left, "classes_"):
        # Logits of an expert of nearly one class are hardly determined: probabilities are.
        found, expected = (est.predict_proba(X) for est, X in zip((left, right), rows, strict=True))
        assert_allclose(found, expected, atol=10 * SAME)
        return
    for name in FITTED:
        expected = getattr(right, name)[list(order)]
        if name.removeprefix("gate_") == "coef_":
            expected = expected[..., columns]
        size = np.abs(expected).max(initial=1.0)
        assert_allclose(getattr(left, name), expected, rtol=0, atol=SAME * size, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(seed=SEEDS)
def test_weight_two_is_the_row_twice(family, seed):
    X, y, label = draw(family, seed)
    twice = np.random.default_rng(seed).integers(0, 2, len(y)) == 1
    rows = np.repeat(np.arange(len(y)), 1 + twice)
    weighted = fit(family, X, y, 1.0 + twice, init=label)
    repeated = fit(family, X[rows], y[rows], init=label[rows])
    assert_same(weighted, repeated, (X, X))
    assert weighted.weight_sum_ == len(rows)


@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(seed=SEEDS)
def test_weight_zero_is_the_row_absent(family, seed):
    X, y, label = draw(family, seed)
    out = np.arange(len(y)) % 5 == 1
    wild = np.where(out[:, None], 1e3, X)
    weighted = fit(family, wild, y, np.where(out, 0.0, 1.0), init=label)
    absent = fit(family, X[~out], y[~out], init=label[~out])
    assert_same(weighted, absent, (X, X))


@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(seed=SEEDS)
def test_the_order_of_rows_does_not_matter(family, seed):
    X, y, label = draw(family, seed)
    order = np.random.default_rng(seed).permutation(len(y))
    moved = fit(family, X[order], y[order], init=label[order])
    assert_same(moved, fit(family, X, y, init=label), (X, X))


@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(seed=SEEDS)
def test_the_order_of_columns_does_not_matter(family, seed):
    """Near an optimum: from afar the order of coordinates may lead to another one."""
    X, y, label = draw(family, seed)
    order = np.random.default_rng(seed).permutation(X.shape[1])
    plain = fit(family, X, y, init=label)
    near = plain.responsibilities(X, y)
    moved = fit(family, X[:, order], y, init=near)
    assert_same(moved, fit(family, X, y, init=near), (X[:, order], X), columns=order)


@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(seed=SEEDS)
def test_the_names_of_experts_do_not_matter(family, seed):
    """With symmetric coding; the order of experts after a fit does not depend on the start's."""
    X, y, label = draw(family, seed)
    left, right = fit(family, X, y, init=label), fit(family, X, y, init=1 - label)
    same = np.abs(left.intercept_ - right.intercept_).max() < 1e-3
    assert_same(left, right, (X, X), order=(0, 1) if same else (1, 0))


@pytest.mark.parametrize("by_scale", [False, True])
@FIXED
@given(seed=SEEDS, unit=st.sampled_from([1e-3, 0.1, 7.0, 1e4]), shift=st.sampled_from([0.0, 50.0]))
def test_alpha_goes_with_the_unit_of_y(by_scale, seed, unit, shift):
    """By the scale it has none."""
    X, y, label = draw("gaussian", seed)
    options = {"init": label, "by_scale": by_scale}
    plain = fit("gaussian", X, y, **options)
    alpha = 0.02 if by_scale else 0.02 / unit
    moved = fit("gaussian", X, unit * y + unit * shift, alpha=alpha, **options)
    assert_allclose(moved.coef_, unit * plain.coef_, atol=SAME * unit)
    assert_allclose(moved.intercept_, unit * (plain.intercept_ + shift), atol=100 * SAME * unit)
    assert_allclose(moved.scale_, unit * plain.scale_, rtol=SAME)
    assert_allclose(moved.gate_coef_, plain.gate_coef_, atol=SAME)
    assert_array_equal(moved.active_, plain.active_)
    expected = plain.objective_ - len(y) * np.log(unit)
    assert moved.objective_ == pytest.approx(expected, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(seed=SEEDS)
def test_units_of_columns_do_not_matter(family, seed):
    X, y, label = draw(family, seed)
    rng = np.random.default_rng(seed)
    unit, shift = 10.0 ** rng.uniform(-3, 3, X.shape[1]), rng.uniform(-5, 5, X.shape[1])
    moved, plain = fit(family, unit * (X + shift), y, init=label), fit(family, X, y, init=label)
    assert_allclose(moved.coef_ * unit, plain.coef_, atol=SAME)
    assert_allclose(moved.gate_coef_ * unit, plain.gate_coef_, atol=SAME)
    assert_array_equal(moved.active_, plain.active_)
    assert moved.objective_ == pytest.approx(plain.objective_, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_standardising_units_matter(family):
    X, y, label = draw(family, 0)
    plain = fit(family, X, y, init=label, standardize=False)
    moved = fit(family, 100.0 * X, y, init=label, standardize=False)
    assert moved.objective_ > plain.objective_ + 1.0


@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(seed=SEEDS, kind=st.sampled_from(["lasso", "group", "mcp", "scad"]))
def test_the_best_of_all_starts_is_kept(family, seed, kind):
    X, y, _ = draw(family, seed)
    est = fit(family, X, y, penalty=kind, n_init=6, tol=1e-7, random_state=seed)
    table = est.restarts_
    assert len(table) == 6
    reached = table["objective"].to_numpy(float)[table["status"] != "degenerate"]
    if est.status_ != "degenerate":
        assert est.objective_ >= np.nanmax(reached) - 1e-7 * len(y)
    again = fit(family, X, y, penalty=kind, n_init=6, tol=1e-7, random_state=seed)
    assert_array_equal(again.coef_, est.coef_)
    assert_array_equal(again.gate_coef_, est.gate_coef_)
