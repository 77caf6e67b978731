"""The lasso's strength by theory: each step of its proof that numbers can check, and its laws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import norm

from mixexperts.theory import lasso_alpha_bound, lasso_alpha_shape

seeds = st.integers(0, 2**32 - 1)


def log_density(y, mean, score, log_variance):
    """Log density of Gaussian experts, (..., K) arrays of coordinates."""
    gate = score - logsumexp(score, axis=-1, keepdims=True)
    expert = norm.logpdf(y, mean, np.exp(0.5 * log_variance))
    return logsumexp(gate + expert, axis=-1)


def constants(y, A, scale_min):
    """How fast the log density moves with means, gate scores and log variances."""
    far = (np.abs(y) + A) / scale_min
    return far / scale_min, math.sqrt(2.0), 0.5 * np.maximum(1.0, far**2)


def gradient_norms(y, mean, score, log_variance):
    """Euclidean norms of the three parts of the gradient, by central differences."""
    point = np.stack([mean, score, log_variance])
    norms = []
    for part in range(3):
        slopes = []
        for k in range(point.shape[1]):
            h = np.zeros_like(point)
            h[part, k] = 1e-6
            rise = log_density(y, *(point + h)) - log_density(y, *(point - h))
            slopes.append(rise / 2e-6)
        norms.append(np.linalg.norm(slopes))
    return norms


@given(seeds, st.integers(1, 5), st.floats(0.0, 5.0), st.floats(0.3, 2.0), st.floats(1.0, 4.0))
def test_constants_bound_the_gradient_of_the_log_density(seed, n_experts, A, scale_min, ratio):
    rng = np.random.default_rng(seed)
    mean = rng.choice([-A, A], n_experts) * rng.choice([1.0, rng.random()])
    score = 4.0 * rng.standard_normal(n_experts)
    scale = scale_min * np.exp(rng.choice([0.0, 1.0, rng.random()], n_experts) * math.log(ratio))
    y = rng.normal() * (A + 3.0 * scale_min * ratio)
    found = gradient_norms(y, mean, score, 2.0 * np.log(scale))
    for norm_, bound in zip(found, constants(y, A, scale_min), strict=True):
        assert norm_ <= bound * (1.0 + 1e-6) + 1e-6


def test_constants_are_reached():
    # A row far off, which one expert explains alone and the gate gives to the other.
    A, scale, y = 2.0, 0.7, 9.0
    mean, score = np.array([-2.0, -2.0]), np.array([-15.0, 15.0])
    log_variance = 2.0 * np.log([scale, 1e-6 + scale])
    found = gradient_norms(y, mean, score, log_variance)
    assert found[0] == pytest.approx(constants(y, A, scale)[0], rel=1e-5)
    assert found[2] == pytest.approx(constants(y, A, scale)[2], rel=0.01)
    certain = gradient_norms(60.0, np.array([2.0, -2.0]), score, log_variance)
    assert certain[1] == pytest.approx(math.sqrt(2.0), rel=1e-5)


def averages_of_maxima(y, mean, score, log_variance, penalty, A, scale_min):
    """Both sides of the contraction over a set of points, all signs enumerated.

    Of f, with a sign for each row; and of the scaled coordinates, with a sign for each of them.
    """
    n = len(y)
    f = np.stack([log_density(y[i], mean[:, i], score[:, i], log_variance[:, i]) for i in range(n)])
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=n)))
    left = (signs @ f - penalty).max(axis=1).mean()
    to_mean, to_score, to_scale = constants(y, A, scale_min)
    scaled = np.concatenate(
        [mean * to_mean[:, None], score * to_score, log_variance * to_scale[:, None]], axis=2
    )
    halves = np.array_split(scaled.reshape(len(penalty), -1), 2, axis=1)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=halves[0].shape[1])))
    right = 0.0
    for first in signs:
        sums = signs @ halves[1].T + halves[0] @ first
        right += (math.sqrt(6.0) * sums - penalty).max(axis=1).mean() / len(signs)
    return left, right


@pytest.mark.parametrize("seed", range(5))
def test_signs_of_rows_contract_to_signs_of_coordinates(seed):
    rng = np.random.default_rng(seed)
    n, n_points, A, scale_min = 3, 12, 1.5, 0.6
    y = rng.normal(size=n) * 2.0
    mean = rng.uniform(-A, A, (n_points, n, 2))
    score = rng.normal(size=mean.shape) * 2.0
    log_variance = 2.0 * math.log(scale_min) + rng.uniform(0.0, 2.0, mean.shape)
    penalty = rng.exponential(size=n_points)
    left, right = averages_of_maxima(y, mean, score, log_variance, penalty, A, scale_min)
    assert left <= right
    # Where the density moves as fast as it can, no more than the constant is lost.
    y = np.full(n, 50.0)
    mean[..., 0] = -A + 1e-3 * rng.random((n_points, n))
    mean[..., 1], score[..., 0], score[..., 1] = -A, 30.0, -30.0
    log_variance[:] = 2.0 * math.log(scale_min)
    left, right = averages_of_maxima(y, mean, score, log_variance, 0 * penalty, A, scale_min)
    assert left <= right <= 1.05 * math.sqrt(6.0) * left


@given(st.floats(0.0, 3.0), st.floats(0.2, 3.0), st.floats(0.01, 3.0))
def test_signed_lipschitz_constants_have_light_tails(A, scale, t):
    """E exp(t e (2 A + s |z|)) <= exp(t^2 (2 A + s)^2 / 2) for a sign e and a normal z."""
    far = 2.0 * A + scale
    t /= far

    def integrand(z):
        return math.cosh(t * (2.0 * A + scale * abs(z))) * norm.pdf(z)

    assert 2.0 * quad(integrand, 0.0, 12.0)[0] <= math.exp(0.5 * (t * far) ** 2) * (1.0 + 1e-9)


def draw(rng, n, p):
    """Rows of two Gaussian experts, columns standardised, and their true coordinates."""
    X = rng.standard_normal((n, p))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    mean = np.stack([X[:, 0] + X[:, 1], -X[:, 0]], axis=1)
    score = np.stack([X[:, 2], -X[:, 2]], axis=1)
    expert = (rng.random(n) > 1.0 / (1.0 + np.exp(-2.0 * X[:, 2]))).astype(int)
    y = mean[np.arange(n), expert] + rng.standard_normal(n)
    return X, y, mean, score


def test_noise_of_the_gradient_at_the_truth_is_far_below():
    rng = np.random.default_rng(11)
    n, p = 200, 20
    noise, gate_noise, bounds = [], [], []
    for _ in range(50):
        X, y, mean, score = draw(rng, n, p)
        gate = np.exp(score - logsumexp(score, axis=1, keepdims=True))
        joint = np.log(gate) + norm.logpdf(y[:, None], mean, 1.0)
        tau = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        noise.append(np.abs(X.T @ (tau * (y[:, None] - mean)) / n).max())
        gate_noise.append(np.abs(X.T @ (tau - gate) / n).max())
        bounds.append(
            lasso_alpha_bound(n, p, 2, mean_bound=np.abs(mean).max(), scale_min=1.0, scale_max=1.0)
        )
    assert max(noise) < min(bound.alpha for bound in bounds) / 10.0
    assert max(gate_noise) < bounds[0].gate_alpha / 5.0


# Laws --------------------------------------------------------------------------------------

setting = {"mean_bound": 1.5, "scale_min": 0.5, "scale_max": 2.0}


def test_known_value():
    bound = lasso_alpha_bound(800, 10, 3, **setting)
    noise = math.sqrt(2.0 * math.log(60.0) / 800.0)
    assert bound.alpha == pytest.approx(2.0 * math.sqrt(6.0) * 5.0 / 0.25 * noise, rel=1e-14)
    assert bound.gate_alpha == pytest.approx(4.0 * math.sqrt(3.0) * noise, rel=1e-14)
    expected = (4.0 * bound.alpha + 7.0 * bound.gate_alpha) / (2.0 * math.log(60.0))
    mean, gate = 1.5 * 4.0 * 5.0, math.sqrt(2.0) * 3.0
    scale = math.log(4.0) * 0.5 * (1.0 + 4.0 * (3.0 + 3.0**0.25 * 2.0) ** 2)
    expected += 2.0 * math.sqrt(6.0 / 800.0) * 3.0 * (mean + gate + scale)
    assert bound.remainder(4.0, 7.0, 3.0) == pytest.approx(expected, rel=1e-14)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 20), st.floats(0.01, 100.0))
def test_units_and_rates(n, p, n_experts, unit):
    bound = lasso_alpha_bound(n, p, n_experts, **setting)
    # Four times the rows: half of all; y in another unit: slopes in that unit, its inverse here.
    more = lasso_alpha_bound(4 * n, p, n_experts, **setting)
    assert more.alpha == pytest.approx(bound.alpha / 2.0, rel=1e-12)
    assert more.remainder(1.0, 1.0, 1.0) == pytest.approx(bound.remainder(1, 1, 1) / 2.0, rel=1e-12)
    other = {name: value * unit for name, value in setting.items()}
    rescaled = lasso_alpha_bound(n, p, n_experts, **other)
    assert rescaled.alpha == pytest.approx(bound.alpha / unit, rel=1e-12)
    assert rescaled.gate_alpha == pytest.approx(bound.gate_alpha, rel=1e-12)
    assert rescaled.remainder(unit, 2.0, 3.0) == pytest.approx(
        bound.remainder(1.0, 2.0, 3.0), rel=1e-12
    )
    wider = lasso_alpha_bound(n, p + 1, n_experts + 1, **setting)
    assert wider.alpha > bound.alpha
    assert wider.gate_alpha > bound.gate_alpha


def test_one_expert_has_no_gate():
    bound = lasso_alpha_bound(100, 5, 1, **setting)
    assert bound.gate_alpha == 0.0
    assert bound.remainder(1.0, 0.0, 50.0) == bound.remainder(1.0, 0.0, 0.0)


def test_shape_is_that_of_the_publication():
    n, p = np.array([10, 1000, 100000]), np.array([1, 30, 5000])
    found = [lasso_alpha_shape(int(a), int(b), 0.3) for a, b in zip(n, p, strict=True)]
    assert_allclose(found, 0.3 * np.log(n) * np.sqrt(np.log(2 * p + 1) / n), rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be an integer >= 1, got 0"),
        ({"p": 2.0}, TypeError, "p must be an integer, got 2.0"),
        ({"n_experts": True}, TypeError, "n_experts must be an integer, got True"),
        ({"mean_bound": -1.0}, ValueError, "mean_bound must be a finite number >= 0, got -1.0"),
        ({"mean_bound": "1"}, TypeError, "mean_bound must be a number, got '1'"),
        ({"scale_min": 0.0}, ValueError, r"scale_min must lie in \(0, scale_max\], got"),
        ({"scale_min": 3.0}, ValueError, r"scale_min must lie in \(0, scale_max\], got"),
        ({"scale_max": float("nan")}, ValueError, "scale_max must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    arguments = {"n": 100, "p": 5, "n_experts": 2, **setting, **change}
    with pytest.raises(error, match=message):
        lasso_alpha_bound(**arguments)


def test_bad_arguments_of_shape_and_remainder_are_refused():
    with pytest.raises(ValueError, match="n must be an integer >= 2, got 1"):
        lasso_alpha_shape(1, 5, 1.0)
    with pytest.raises(ValueError, match="constant must be a finite number >= 0"):
        lasso_alpha_shape(10, 5, math.inf)
    bound = lasso_alpha_bound(100, 5, 2, **setting)
    with pytest.raises(ValueError, match="gate_slopes must be a finite number >= 0, got -1"):
        bound.remainder(1.0, -1.0, 1.0)
