"""Rows read in chunks give the fit of rows in memory, however they are cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mixexperts._design import DesignMap
from mixexperts._moments import Moments
from mixexperts.experts import Gaussian
from mixexperts.penalties import Ridge
from mixexperts.sources import ArraySource, IteratorSource

SEEDS = st.integers(0, 10_000)
# The examples of a test are a function of the test alone.
FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
FITTED = ("intercept_", "coef_", "scale_", "gate_intercept_", "gate_coef_", "mass_", "history_")
# Sums in another order: eps times a few hundred terms per pass, over some dozen passes.
SAME = 1e-10


def cut_source(cuts, *parts):
    """The rows in blocks that end where ``cuts`` says; two cuts at a place give an empty block."""
    n = len(parts[0])
    edges = [0, *sorted(cut % (n + 1) for cut in cuts), n]

    def blocks():
        for i, j in itertools.pairwise(edges):
            yield tuple(part[i:j] for part in parts)

    return IteratorSource(blocks)


def assert_same_fit(left, right, tolerance=SAME):
    assert left.status_ == right.status_
    assert left.n_iter_ == right.n_iter_
    assert_allclose(left.log_likelihood_, right.log_likelihood_, rtol=tolerance, atol=tolerance)
    for name in FITTED:
        value = getattr(right, name)
        size = np.abs(value).max(initial=1.0)
        assert_allclose(getattr(left, name), value, rtol=0, atol=tolerance * size, err_msg=name)


@FIXED
@given(
    seed=SEEDS,
    n_experts=st.integers(1, 3),
    chunk_rows=st.integers(1, 150),
    cuts=st.lists(st.integers(0, 200), max_size=12),
    degree=st.integers(0, 2),
    gate=st.sampled_from(["softmax", "constant"]),
    penalised=st.booleans(),
    zeros=st.booleans(),
)
def test_a_source_gives_the_fit_of_the_arrays(
    tools, seed, n_experts, chunk_rows, cuts, degree, gate, penalised, zeros
):
    n = 120
    X, y, label = tools.draw(seed, n, 2, n_experts)
    X = X * [1.0, 100.0] + [0.0, 5000.0]
    rng = np.random.default_rng(seed)
    weight = rng.integers(0 if zeros else 1, 4, n).astype(float)
    # Each expert keeps rows, and two-row weights of zero do not empty the labels.
    weight[: 2 * n_experts] = 1.0
    offset = 0.3 * X[:, 0]
    options = {
        "init": label, "max_iter": 30, "tol": 1e-8, "quiet": True, "gate": gate,
        "expert": Gaussian(degree=degree),
        "expert_penalty": Ridge(0.01) if penalised else None,
    }  # fmt: skip
    whole = tools.fit(X, y, n_experts, sample_weight=weight, offset=offset, **options)
    parts = (X, y, weight, offset)
    options |= {"chunk_rows": chunk_rows}
    by_block = tools.fit(cut_source(cuts, *parts), None, n_experts, **options)
    assert_same_fit(by_block, whole)
    assert by_block.weight_sum_ == whole.weight_sum_
    # The chunks alone count: however the source cuts, every digit is the same.
    at_once = tools.fit(ArraySource(*parts), None, n_experts, **options)
    for name in FITTED:
        assert_array_equal(getattr(at_once, name), getattr(by_block, name), err_msg=name)


@FIXED
@given(seed=SEEDS, kind=st.sampled_from(["kmeans", "residual", "random", "small_em", "split"]))
def test_named_starts_are_the_same(tools, seed, kind):
    """Starts come from the same sample, to rounding, and so the runs are the same."""
    X, y, _ = tools.draw(seed, 150)
    options = {"init": kind, "n_init": 1, "max_iter": 25, "tol": 1e-6, "quiet": True}
    whole = tools.fit(X, y, **options)
    streamed = tools.fit(X, y, chunk_rows=40, **options)
    assert_same_fit(streamed, whole, 1e-9)


@FIXED
@given(seed=SEEDS, chunk_rows=st.sampled_from([None, 33]))
def test_single_precision_is_its_value(tools, seed, chunk_rows):
    """float32 features are computed with as float64: the same fit to the last digits."""
    X, y, label = tools.draw(seed, 90)
    X = X.astype(np.float32)
    options = {"init": label, "max_iter": 20, "quiet": True, "chunk_rows": chunk_rows}
    single = tools.fit(X, y, **options)
    double = tools.fit(X.astype(np.float64), y, **options)
    assert_same_fit(single, double)


@FIXED
@given(
    seed=SEEDS,
    cuts=st.lists(st.integers(0, 80), max_size=6),
    shift=st.sampled_from([0.0, 1e6, -3e9]),
    size=st.sampled_from([1.0, 1e-160, 1e160]),
)
def test_merged_moments_are_those_of_all_rows(seed, cuts, shift, size):
    rng = np.random.default_rng(seed)
    values = size * (rng.standard_normal((80, 3)) + shift)
    weight = rng.exponential(size=80) + 0.1
    whole = Moments.of(values, weight)
    edges = [0, *sorted(set(cuts) - {0, 80}), 80]
    parts = [Moments.of(values[i:j], weight[i:j], whole.unit) for i, j in itertools.pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    assert merged.n_rows == 80
    assert merged.weight == pytest.approx(weight.sum(), rel=1e-13)
    # Numbers near the shift are known to its rounding, their spread of one to eps * 3e9 = 7e-7.
    rounding = 1e-14 * size * max(abs(shift), 1.0)
    assert_allclose(merged.mean, whole.mean, rtol=0, atol=rounding)
    assert_allclose(
        merged.spread(merged.mean), whole.spread(whole.mean), rtol=1e-6 * (shift != 0) + 1e-12
    )
    exact = np.sqrt(np.average(((values - whole.mean) / size) ** 2, axis=0, weights=weight))
    assert_allclose(whole.spread(whole.mean) / size, exact, rtol=1e-6 * (shift != 0) + 1e-12)
    assert_array_equal(merged.size, np.abs(values).max(axis=0))


@pytest.mark.parametrize("n", [500, 40_000])
@pytest.mark.parametrize(
    ("degree", "intercept"), [(0, True), (1, True), (1, False), (3, True), (3, False)]
)
@pytest.mark.parametrize("collinear", [0.0, 1e-3, 1e-7, 1.0])
def test_maps_from_moments_are_those_from_rows(n, degree, intercept, collinear):
    """Well-conditioned, nearly collinear, and collinear: the same columns to rounding."""
    rng = np.random.default_rng(11)
    X = rng.standard_normal((n, 3)) * [1.0, 20.0, 0.3] + [0.5, -40.0, 0.0]
    X[:, 2] = collinear * X[:, 2] + (1.0 - collinear) * X[:, 0]
    weight = rng.exponential(size=n)
    names = ("a", "b", "c")
    how = {"degree": degree, "intercept": intercept}
    whole = DesignMap.fit(X, weight, names, **how)
    cuts = range(0, n, 7001)

    def rows():
        for i in cuts:
            yield X[i : i + 7001], weight[i : i + 7001]

    unit = np.array([8.0, 256.0, 4.0])
    moments = None
    for block, share in rows():
        part = Moments.of(block, share, unit)
        moments = part if moments is None else moments.merged(part)
    merged = DesignMap.from_moments(moments, rows, names, **how)
    assert merged.dependent == whole.dependent
    assert (merged.basis is None) == (whole.basis is None)
    assert_allclose(merged.center, whole.center, rtol=1e-12, atol=1e-14)
    assert_allclose(merged.scale, whole.scale, rtol=1e-12)
    # An orthonormal basis is known to the rounding of its columns times their condition.
    design = whole.transform(X[:50])
    tolerance = 1e-11 if whole.basis is None else 1e-15 * np.linalg.cond(whole.basis) ** 2 + 1e-10
    assert_allclose(merged.transform(X[:50]), design, rtol=0, atol=tolerance * np.abs(design).max())
