"""The compiled descents against plain numpy, and the E-step by columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from mixexperts.kernels import numba_descent
from mixexperts.penalties.sparse import SparsePenalty

N, Q = 40, 6


def soft(value, level):
    return np.sign(value) * max(abs(value) - level, 0.0)


def reference_linear(XT, g, h, coef, intercept, l1, l2, sweeps):
    """Cyclic coordinate descent written down plainly."""
    coef, d, shift = coef.copy(), np.zeros(XT.shape[1]), 0.0
    for _ in range(sweeps):
        for j in np.flatnonzero(np.isfinite(l1)):
            curve = XT[j] ** 2 @ h
            if curve + l2[j] <= 0.0:
                continue
            new = soft(XT[j] @ (g - h * d) + curve * coef[j], l1[j]) / (curve + l2[j])
            d += (new - coef[j]) * XT[j]
            coef[j] = new
        if intercept and h.sum() > 0.0:
            step = (g - h * d).sum() / h.sum()
            d += step
            shift += step
    return coef, shift, d


def quadratic(XT, g, h, coef, l1, l2, d):
    used = coef != 0.0
    penalty = l1[used] @ np.abs(coef[used]) + 0.5 * l2[used] @ coef[used] ** 2
    return g @ d - 0.5 * h @ d**2 - penalty


def draw(seed):
    rng = np.random.default_rng(seed)
    XT = rng.standard_normal((Q, N))
    h = rng.uniform(0.0, 2.0, N) * (rng.random(N) < 0.9)
    g = rng.standard_normal(N) * 2.0
    coef = rng.standard_normal(Q) * (rng.random(Q) < 0.5)
    l1 = rng.uniform(0.0, 8.0, Q)
    l1[rng.random(Q) < 0.2] = 0.0
    l1[0] = np.inf
    coef[0] = 0.0
    return XT, g, h, coef, l1, rng.uniform(0.0, 3.0, Q) * (rng.random(Q) < 0.5)


@pytest.mark.parametrize("intercept", [True, False])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_linear_descent_reaches_the_optimum_of_the_reference(intercept, seed):
    XT, g, h, coef, l1, l2 = draw(seed)
    expected, shift, _d = reference_linear(XT, g, h, coef, intercept, l1, l2, 400)
    found, moved = coef.copy(), np.zeros(N)
    got = numba_descent.linear_descent()(XT, g, h, found, intercept, l1, l2, 1e-16, 4000, moved)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(got, shift, atol=1e-6)
    np.testing.assert_allclose(moved, (found - coef) @ XT + got, atol=1e-10)


@given(seed=st.integers(0, 10_000), most=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_few_sweeps_never_fall(seed, most):
    XT, g, h, coef, l1, l2 = draw(seed)
    found, d = coef.copy(), np.zeros(N)
    numba_descent.linear_descent()(XT, g, h, found, True, l1, l2, 0.0, most, d)
    before = quadratic(XT, g, h, coef, l1, l2, np.zeros(N))
    assert quadratic(XT, g, h, found, l1, l2, d) >= before - 1e-10


def test_one_sweep_is_that_of_the_reference():
    XT, g, h, coef, l1, l2 = draw(3)
    expected, shift, d = reference_linear(XT, g, h, coef, True, l1, l2, 1)
    found, moved = coef.copy(), np.zeros(N)
    got = numba_descent.linear_descent()(XT, g, h, found, True, l1, l2, 0.0, 1, moved)
    np.testing.assert_allclose(found, expected, atol=1e-13)
    np.testing.assert_allclose(got, shift, atol=1e-13)
    np.testing.assert_allclose(moved, d, atol=1e-12)


def test_columns_without_curvature_stay():
    XT, g, _, coef, l1, _ = draw(1)
    found, d = coef.copy(), np.zeros(N)
    numba_descent.linear_descent()(XT, g, np.zeros(N), found, True, l1, np.zeros(Q), 1e-12, 10, d)
    assert np.array_equal(found, coef)
    assert not d.any()


def softmax_model(XT, weight, target, prob, coef, base, shift, l1, l2):
    """Quadratic model of a weighted multinomial log-likelihood less the penalty."""
    D = np.zeros(prob.shape)
    D[: len(coef)] = (coef - base) @ XT + shift[:, None]
    G = weight * (target - prob)
    mean = (prob * D).sum(axis=0)
    square = weight * ((prob * D**2).sum(axis=0) - mean**2)
    finite = np.where(np.isfinite(l1), l1, 0.0)
    return (G * D).sum() - 0.5 * square.sum() - np.sum(finite * np.abs(coef) + 0.5 * l2 * coef**2)


@pytest.mark.parametrize("free", [3, 2])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_softmax_descent_reaches_a_point_that_no_coordinate_betters(free, seed):
    rng = np.random.default_rng(seed)
    C = 3
    XT, weight = rng.standard_normal((Q, N)), rng.uniform(0.0, 2.0, N)
    prob = rng.dirichlet(np.ones(C), N).T.copy()
    target = np.eye(C)[rng.integers(0, C, N)].T
    base = rng.standard_normal((free, Q)) * (rng.random((free, Q)) < 0.5)
    l1, l2 = rng.uniform(0.0, 6.0, (free, Q)), rng.uniform(0.0, 2.0, (free, Q))
    l1[:, 2] = np.inf
    base[:, 2] = 0.0
    coef, shift = base.copy(), np.zeros(free)
    D, mean = np.zeros((C, N)), np.zeros(N)
    numba_descent.softmax_descent()(
        XT, weight * (target - prob), weight * prob, prob, coef, shift, True, l1, l2, 1e-15, 3000,
        D, mean,
    )  # fmt: skip
    assert not coef[:, 2].any()
    np.testing.assert_allclose(D[:free], (coef - base) @ XT + shift[:, None], atol=1e-9)
    np.testing.assert_allclose(mean, (prob * D).sum(axis=0), atol=1e-9)

    def value(coef, shift):
        return softmax_model(XT, weight, target, prob, coef, base, shift, l1, l2)

    best = value(coef, shift)
    for k in range(free):
        for step in (1e-4, -1e-4):
            moved = shift.copy()
            moved[k] += step
            assert value(coef, moved) <= best + 1e-9
            for j in np.flatnonzero(np.isfinite(l1[k])):
                other = coef.copy()
                other[k, j] += step
                assert value(other, shift) <= best + 1e-9


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_group_descent_ends_where_the_gradient_meets_the_norms(seed):
    rng = np.random.default_rng(seed)
    M, q = 3, 4
    XT = rng.standard_normal((q, N))
    G, H = rng.standard_normal((M, N)) * 2.0, rng.uniform(0.1, 2.0, (M, N))
    unit, l2 = rng.uniform(0.5, 2.0, (M, q)), rng.uniform(0.0, 1.0, (M, q))
    # columns 0 and 1 are one group over all predictors, 2 another; column 3 is free
    groups = [[m * q + j for m in range(M) for j in (0, 1)], [m * q + 2 for m in range(M)]]
    groups += [[m * q + 3] for m in range(M)]
    l1 = np.array([*rng.uniform(1.0, 20.0, 2), 0.0, 0.0, 0.0])
    unit[:, 3] = 1.0
    start = np.concatenate([[0], np.cumsum([len(g) for g in groups])])
    coef, D = np.zeros((M, q)), np.zeros((M, N))
    numba_descent.group_descent()(
        XT, G, H, coef, unit, l2, start, np.concatenate(groups), l1, 1e-16, 5000, D
    )
    np.testing.assert_allclose(D, coef @ XT, atol=1e-9)
    slope = (G - H * D) @ XT.T - l2 * coef
    for members, level in zip(groups, l1, strict=True):
        u, b, s = unit.ravel()[members], coef.ravel()[members], slope.ravel()[members]
        norm = np.linalg.norm(u * b)
        if norm > 0.0:
            np.testing.assert_allclose(s, level * u**2 * b / norm, atol=1e-5)
        else:
            assert np.linalg.norm(s / u) <= level + 1e-6


@given(seed=st.integers(0, 10_000), K=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_e_step_by_columns(seed, K):
    rng = np.random.default_rng(seed)
    log_f, score = rng.standard_normal((K, N)) * 30.0, rng.standard_normal((K, N)) * 30.0
    log_f[0, 0] = -np.inf if K > 1 else -3.0
    weight = rng.uniform(0.0, 2.0, N)
    resp, prob = np.empty((K, N)), np.empty((K, N))
    total = numba_descent.softmax_rows()(log_f, score, weight, resp, prob)
    log_prob = log_softmax(score, axis=0)
    joint = log_prob + log_f
    np.testing.assert_allclose(prob, np.exp(log_prob), atol=1e-14)
    np.testing.assert_allclose(resp, np.exp(joint - logsumexp(joint, axis=0)), atol=1e-13)
    np.testing.assert_allclose(total, weight @ logsumexp(joint, axis=0), rtol=1e-13)


@pytest.mark.parametrize(("weight", "expected"), [(1.0, -np.inf), (0.0, 0.0)])
def test_e_step_of_an_impossible_row(weight, expected):
    log_f, score = np.full((2, 1), -np.inf), np.zeros((2, 1))
    resp, prob = np.empty((2, 1)), np.empty((2, 1))
    total = numba_descent.softmax_rows()(log_f, score, np.array([weight]), resp, prob)
    assert total == expected
    np.testing.assert_allclose(resp, 0.5)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@given(seed=st.integers(0, 10_000), C=st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_compiled_gauge_is_that_of_the_penalty(ratio, seed, C):
    rng = np.random.default_rng(seed)
    coef = np.round(rng.standard_normal((C, Q)), 1) * (rng.random((C, Q)) < 0.7)
    penalty = SparsePenalty(0.0, 1.0, l1_ratio=ratio)
    found = coef.copy()
    numba_descent.gauge()(found, np.full((C, Q), ratio), np.full((C, Q), 1.0 - ratio))
    np.testing.assert_allclose(found, penalty.centred(coef), atol=1e-12)
