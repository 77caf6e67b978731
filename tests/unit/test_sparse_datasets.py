"""Samples of sparse mixtures agree with their truth."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm, poisson

from mixexperts import datasets
from mixexperts.datasets import make_sparse_moe, make_wide_moe

# With fixed seeds a check within four standard errors cannot flicker.
STANDARD_ERRORS = 4.0
ACTIVE = {"gaussian": (2, 3, 2), "multinomial": (3, 2, 2), "poisson": (3, 2, 2)}


def free(truth):
    """Slopes of the experts, (2, p): the last class of each is the reference."""
    return truth.coef[:, 0] if truth.coef.ndim == 3 else truth.coef


@pytest.mark.parametrize("expert", ACTIVE)
def test_only_the_columns_of_the_design_have_a_part(expert):
    X, y, truth = make_sparse_moe(50, 9, expert=expert, random_state=0)
    assert X.shape == (50, 9)
    assert y.shape == truth.labels.shape == (50,)
    found = (*(free(truth) != 0).sum(axis=1), (truth.gate_coef[0] != 0).sum())
    assert found == ACTIVE[expert]
    assert not free(truth)[:, 6:].any()
    assert not truth.gate_coef[:, 6:].any()
    assert not truth.gate_coef[1].any()
    assert truth.gate_intercept.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("expert", ACTIVE)
def test_responses_obey_the_law_of_large_numbers(expert):
    n = 20_000
    X, y, truth = make_sparse_moe(n, expert=expert, random_state=3)
    target = np.eye(2)[y] if expert == "multinomial" else y
    residual = target - truth.mean(X)
    for weight in (np.ones(n), np.sign(X[:, 0]), truth.gate_proba(X)[:, 0]):
        product = (residual.T * weight).T
        bound = STANDARD_ERRORS * product.std(axis=0) / math.sqrt(n)
        assert np.all(np.abs(product.mean(axis=0)) < bound)
    hits = (truth.labels == 0) - truth.gate_proba(X)[:, 0]
    assert abs(hits.mean()) < STANDARD_ERRORS * hits.std() / math.sqrt(n)
    # A correlation's standard error is at most 1 / sqrt(n).
    expected = 0.5 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    assert_allclose(np.corrcoef(X.T), expected, atol=STANDARD_ERRORS / math.sqrt(n))
    assert_allclose(X.std(axis=0), 1.0, atol=STANDARD_ERRORS / math.sqrt(2 * n))


def test_count_likelihood_is_that_of_a_mixture_of_poissons():
    X, y, truth = make_sparse_moe(40, expert="poisson", random_state=1)
    gate = truth.gate_proba(X)
    density = np.sum(gate * poisson.pmf(y[:, None], truth.expert_means(X)), axis=1)
    assert truth.log_likelihood(X, y) == pytest.approx(np.log(density).sum(), rel=1e-10)
    assert_allclose(gate.sum(axis=1), 1.0, rtol=1e-12)
    for bad in (y - 100.0, y + 0.5):
        with pytest.raises(ValueError, match="y: found values other than counts"):
            truth.log_likelihood(X, bad)


def test_columns_of_the_wide_design_are_apart():
    X, y, truth = make_wide_moe(30, 400, n_experts=3, signal=1.5, gate_signal=0.7, random_state=5)
    assert X.shape == (30, 400)
    assert_array_equal((truth.coef != 0).sum(axis=1), [5, 5, 5])
    assert_array_equal((truth.gate_coef != 0).sum(axis=1), [2, 2, 0])
    assert np.all((truth.coef != 0).sum(axis=0) + (truth.gate_coef != 0).sum(axis=0) <= 1)
    assert set(np.abs(truth.coef[truth.coef != 0])) == {1.5}
    assert set(np.abs(truth.gate_coef[truth.gate_coef != 0])) == {0.7}
    residual = y - truth.expert_means(X)[np.arange(30), truth.labels]
    assert abs(residual.mean()) < STANDARD_ERRORS / math.sqrt(30)
    assert truth.intercept.tolist() == [-5.0, 0.0, 5.0]
    assert make_wide_moe(9, n_experts=1, random_state=0)[2].intercept.tolist() == [0.0]
    other = make_wide_moe(30, 400, n_experts=3, noise=2.0, random_state=5)
    assert_array_equal(other[0], X)
    assert_array_equal(other[2].coef != 0, truth.coef != 0)


def test_wide_labels_follow_the_gate():
    n = 20_000
    X, _, truth = make_wide_moe(n, 12, random_state=2)
    hits = (truth.labels == 0) - truth.gate_proba(X)[:, 0]
    assert abs(hits.mean()) < STANDARD_ERRORS * hits.std() / math.sqrt(n)
    assert abs(np.mean(truth.labels) - 0.5) < STANDARD_ERRORS * 0.5 / math.sqrt(n)


def test_wide_likelihood_is_that_of_a_mixture_of_normals():
    X, y, truth = make_wide_moe(25, 40, noise=0.5, random_state=0)
    density = truth.gate_proba(X) * norm.pdf(y[:, None], truth.expert_means(X), 0.5)
    assert truth.log_likelihood(X, y) == pytest.approx(np.log(density.sum(axis=1)).sum())


@pytest.mark.parametrize("make", [make_sparse_moe, make_wide_moe])
def test_seeds_reproduce(make):
    first, again, other = (make(20, 30, random_state=seed) for seed in (4, 4, 5))
    assert_array_equal(first[0], again[0])
    assert_array_equal(first[1], again[1])
    assert np.any(first[0] != other[0])
    assert make.__name__ in datasets.__all__


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_sparse_moe, {"expert": "beta"}, "expert: found 'beta'"),
        (make_sparse_moe, {"n_features": 5}, "n_features: found 5, expected at least 6"),
        (make_sparse_moe, {"n_samples": 0}, "n_samples: found 0"),
        (make_sparse_moe, {"noise": 0.0}, "noise: found 0.0"),
        (make_sparse_moe, {"correlation": 1.0}, "correlation: found 1.0"),
        (make_sparse_moe, {"correlation": math.nan}, "correlation: found nan"),
        (make_wide_moe, {"n_features": 11}, "n_features: found 11, expected at least 12"),
        (make_wide_moe, {"n_experts": 0}, "n_experts: found 0"),
        (make_wide_moe, {"n_active": 1.5}, "n_active: found 1.5"),
        (make_wide_moe, {"signal": math.inf}, "signal: found inf"),
        (make_wide_moe, {"gate_signal": -1.0}, "gate_signal: found -1.0"),
        (make_wide_moe, {"level": math.nan}, "level: found nan"),
        (make_wide_moe, {"correlation": -1.5}, "correlation: found -1.5"),
    ],
)
def test_bad_arguments_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
