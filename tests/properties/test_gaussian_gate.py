"""Gaussian gates: units, origins and rotations that must not matter, ascent, recovery."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import norm

import mixexperts as mx
from mixexperts._batch import Theta
from mixexperts.em.engine import em_pass
from mixexperts.experts import Gaussian as GaussianExpert
from mixexperts.gates import Gaussian

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=20)
SEEDS = st.integers(0, 10_000)
COVARIANCES = st.sampled_from(["full", "diag", "tied", "spherical"])
# With tol = 1e-12 the last pass gains that much, and moves parameters by about its root.
LLF = 1e-8
PREDICTIONS = 1e-5


def change(covariance, rng):
    """A linear change of two features under which the covariances stay of their kind."""
    if covariance == "diag":
        return np.diag(10.0 ** rng.uniform(-4, 4, 2))
    rotation = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    if covariance == "spherical":
        return rotation * 10.0 ** rng.uniform(-4, 4)
    return rotation @ np.diag(10.0 ** rng.uniform(-2, 2, 2)) @ rng.standard_normal((2, 2))


@FIXED
@given(seed=SEEDS, covariance=COVARIANCES, n_experts=st.integers(1, 3))
def test_units_and_origin_of_the_features_do_not_matter(tools, seed, covariance, n_experts):
    X, y, label = tools.draw(seed, 120, 2, n_experts)
    rng = np.random.default_rng(seed)
    linear, shift = change(covariance, rng), 100.0 * rng.standard_normal(2)
    options = {"gate": Gaussian(covariance), "init": label, "quiet": True, "max_iter": 3000}
    plain = tools.fit(X, y, n_experts, **options)
    assume(plain.status_ == "converged")
    moved_X = (X + shift) @ linear
    moved = tools.fit(moved_X, y, n_experts, **options)
    volume = len(y) * np.linalg.slogdet(linear)[1]
    assert moved.log_likelihood_ == pytest.approx(plain.log_likelihood_ - volume, rel=LLF, abs=1e-6)
    assert_allclose(moved.predict(moved_X), plain.predict(X), atol=PREDICTIONS)
    assert_allclose(moved.gate_proba(moved_X), plain.gate_proba(X), atol=PREDICTIONS)
    density = plain.score_samples(X, y)
    assert_allclose(moved.score_samples(moved_X, y), density, atol=PREDICTIONS)
    means = (plain.gate_means_ + shift) @ linear
    assert_allclose(moved.gate_means_, means, rtol=1e-4, atol=1e-4 * np.abs(linear).max())


@FIXED
@given(seed=SEEDS, covariance=COVARIANCES)
def test_one_feature_shifts_the_likelihood_by_its_scale(tools, seed, covariance):
    X, y, label = tools.draw(seed, 80, 1, 2)
    options = {"gate": Gaussian(covariance), "init": label, "quiet": True}
    plain = tools.fit(X, y, **options)
    assume(plain.status_ == "converged")
    moved = tools.fit(-250.0 * X + 3.0, 7.0 * y - 1.0, **options)
    expected = plain.log_likelihood_ - len(y) * (np.log(250.0) + np.log(7.0))
    assert moved.log_likelihood_ == pytest.approx(expected, rel=LLF)
    assert_allclose(
        moved.score_samples(-250.0 * X + 3.0, 7.0 * y - 1.0),
        plain.score_samples(X, y) - np.log(7.0),
        atol=PREDICTIONS,
    )


@FIXED
@given(seed=SEEDS, covariance=COVARIANCES, n_experts=st.integers(1, 4))
def test_the_joint_likelihood_never_falls(tools, seed, covariance, n_experts):
    X, y, _ = tools.draw(seed, 80, 2, n_experts)
    for accelerate in (True, False):
        est = tools.fit(
            X, y, n_experts, gate=Gaussian(covariance), quiet=True, max_iter=200,
            accelerate=accelerate, n_init=3,
        )  # fmt: skip
        assert est.status_ in ("converged", "max_iter", "degenerate")
        falls = -np.diff(est.history_)
        assert falls.max(initial=0.0) <= 1e-11 * (1.0 + np.abs(est.history_).max())


@FIXED
@given(seed=SEEDS, covariance=COVARIANCES)
def test_weight_two_is_the_row_twice(tools, seed, covariance):
    X, y, _ = tools.draw(seed, 80, 2, 2)
    twice = np.random.default_rng(seed).integers(0, 2, 80) == 1
    rows = np.repeat(np.arange(80), 1 + twice)
    options = {"gate": Gaussian(covariance), "quiet": True, "max_iter": 2000}
    weighted = tools.fit(X, y, sample_weight=1.0 + twice, **options)
    repeated = tools.fit(X[rows], y[rows], **options)
    assert weighted.log_likelihood_ == pytest.approx(repeated.log_likelihood_, rel=LLF)
    assert_allclose(weighted.restarts_["objective"], repeated.restarts_["objective"], rtol=1e-7)


# --- recovery ------------------------------------------------------------------------------------

# One feature: mixture of N(.2, .1) and N(.8, .15) (variances), lines -5 x + 2 and .1 x.
TRUTH = {
    "intercept": np.array([2.0, 0.0]),
    "coef": np.array([[-5.0], [0.1]]),
    "scale": np.array([0.3, 0.3]),
    "gate_weights": np.array([0.5, 0.5]),
    "gate_means": np.array([[0.2], [0.8]]),
    "gate_covariances": np.array([[[0.1]], [[0.15]]]),
}
CORRELATED = {
    "intercept": np.array([-1.0, 2.0]),
    "coef": np.array([[1.0, -1.0], [0.5, 2.0]]),
    "scale": np.array([0.5, 1.0]),
    "gate_weights": np.array([0.35, 0.65]),
    "gate_means": np.array([[0.0, 10.0], [1.5, 11.0]]),
    "gate_covariances": np.array([[[1.0, 0.6], [0.6, 1.0]], [[2.0, -0.9], [-0.9, 0.8]]]),
}


def draw_from(truth, n, rng):
    label = rng.choice(2, size=n, p=truth["gate_weights"])
    roots = np.linalg.cholesky(truth["gate_covariances"])
    noise = rng.standard_normal((n, roots.shape[1]))
    X = truth["gate_means"][label] + np.einsum("ipq,iq->ip", roots[label], noise)
    mean = truth["intercept"][label] + np.einsum("ij,ij->i", X, truth["coef"][label])
    return X, mean + truth["scale"][label] * rng.standard_normal(n)


@pytest.mark.parametrize("truth", [TRUTH, CORRELATED], ids=["line", "plane"])
def test_the_truth_lies_within_four_standard_errors(truth):
    """Standard errors from the observed information: differences of the score."""
    X, y = draw_from(truth, 5000, np.random.default_rng(20260901))
    est = mx.MoERegressor(2, gate="gaussian", random_state=0, n_init=4, tol=1e-12).fit(X, y)
    model, batch = est.model_, est._batch(X, y)
    true = min(
        (
            est.frame_.engine(model, {k: v[order] for k, v in truth.items()})
            for order in ([0, 1], [1, 0])
        ),
        key=lambda theta: np.abs(theta.expert["coef"] - est.theta_.expert["coef"]).sum(),
    )
    at = model.pack(est.theta_)

    def score(vector):
        theta = model.unpack(vector, est.theta_)
        return model.score(theta, em_pass(model, theta, batch))

    step = 1e-4
    information = -np.array(
        [(score(at + step * e) - score(at - step * e)) / (2 * step) for e in np.eye(len(at))]
    )
    assert_allclose(information, information.T, atol=1e-3 * np.abs(information).max())
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    distance = np.abs(model.pack(true) - at) / errors
    assert distance.max() < 4.0, distance
    # Twice the gain over the truth is chi-squared with as many degrees of freedom.
    gain = est.log_likelihood_ - _llf(est, true, X, y)
    assert 0.0 < 2.0 * gain < len(at) + 4.0 * np.sqrt(2.0 * len(at))


def _llf(est, theta: Theta, X, y):
    stats = em_pass(est.model_, theta, est._batch(X, y))
    return stats["log_likelihood"] + est.frame_.log_jacobian(len(y))


def test_polynomial_experts_go_with_a_gate_on_the_features_themselves():
    rng = np.random.default_rng(3)
    X = np.concatenate([rng.normal(-2.0, 0.5, 200), rng.normal(2.0, 1.0, 200)])
    y = np.where(X < 0, X**2, 8.0 - X) + 0.3 * rng.standard_normal(400)
    expert = GaussianExpert(degree=2)
    est = mx.MoERegressor(2, gate="gaussian", expert=expert, random_state=0, n_init=4)
    est.fit(X[:, None], y)
    assert est.n_parameters_ == 2 * 4 + 1 + 2 * 2
    spread = np.sqrt(est.gate_covariances_.ravel())
    mean = est.intercept_ + np.column_stack([X, X**2]) @ est.coef_.T
    terms = norm.logpdf(X[:, None], est.gate_means_.ravel(), spread)
    terms += norm.logpdf(y[:, None], mean, est.scale_) + np.log(est.gate_weights_)
    assert est.log_likelihood_ == pytest.approx(logsumexp(terms, axis=1).sum(), rel=1e-10)
