"""Several Gaussian responses against least squares, scikit-learn's mixtures and brute force."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.mixture import GaussianMixture

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.model import em_pass
from mixexperts.experts import Gaussian, MultivariateGaussian
from mixexperts.gates import Constant


@pytest.fixture
def lines():
    """Two experts, two features, three responses."""
    rng = np.random.default_rng(20261122)
    X = rng.standard_normal((400, 2))
    label = (rng.random(400) < 1.0 / (1.0 + np.exp(-2.0 * X[:, 0]))).astype(int)
    coef = rng.standard_normal((2, 3, 2))
    Y = np.einsum("ndp,np->nd", coef[label], X) + 2.0 * label[:, None]
    Y += rng.standard_normal((400, 3)) @ np.array([[0.6, 0.3, 0.0], [0.0, 0.5, -0.2], [0, 0, 0.4]])
    return X, Y, label


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_one_expert_is_multivariate_least_squares(lines, covariance):
    X, Y, _ = lines
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(Y))
    weight *= len(Y) / weight.sum()
    est = mx.MoERegressor(1, expert=Gaussian(covariance=covariance)).fit(X, Y, weight)
    design = np.column_stack([np.ones(len(X)), X])
    root = np.sqrt(weight)[:, None]
    solution = np.linalg.lstsq(design * root, Y * root, rcond=None)[0]
    residual = (Y - design @ solution) * root
    matrix = residual.T @ residual / weight.sum()
    if covariance == "diag":
        matrix = np.diag(np.diag(matrix))
    assert_allclose(est.intercept_[0], solution[0], atol=1e-10)
    assert_allclose(est.coef_[0], solution[1:].T, atol=1e-10)
    assert_allclose(est.covariance_[0], matrix, atol=1e-10)
    density = stats.multivariate_normal(cov=matrix).logpdf(Y - design @ solution)
    assert est.log_likelihood_ == pytest.approx(weight @ density, abs=1e-8)
    assert est.n_parameters_ == 9 + (3 if covariance == "diag" else 6)


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_constants_are_a_gaussian_mixture(covariance):
    """Without features the model is scikit-learn's; both run to the end from the same start."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 3, 500)
    Y = rng.standard_normal((500, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]])
    Y += np.array([[0.0, 0.0], [4.0, -1.0], [1.0, 4.0]])[label]
    peer = GaussianMixture(
        3, covariance_type=covariance, means_init=[[0, 0], [4, -1], [1, 4]], tol=1e-12,
        max_iter=5000, reg_covar=0.0, random_state=0,
    ).fit(Y)  # fmt: skip
    est = mx.MoERegressor(
        3, gate="constant", expert=Gaussian(degree=0, covariance=covariance), init=label, tol=1e-10
    ).fit(np.zeros((500, 1)) + rng.standard_normal((500, 1)), Y)
    assert est.log_likelihood_ == pytest.approx(500 * peer.score(Y), abs=1e-6)
    order = np.argsort(peer.means_[:, 0])
    assert_allclose(est.intercept_, peer.means_[order], atol=1e-5)
    if covariance == "full":
        assert_allclose(est.covariance_, peer.covariances_[order], atol=1e-5)
    names = {"full": 17, "diag": 14, "tied": 11}
    assert est.n_parameters_ == names[covariance]


def test_constants_with_a_gaussian_gate_are_a_mixture_of_both(lines):
    """Experts without slopes and a diagonal gate: the joint density of x and y is a mixture."""
    X, Y, label = lines
    est = mx.MoERegressor(
        2,
        gate=mx.gates.Gaussian(covariance="diag"),
        expert=Gaussian(degree=0, covariance="diag"),
        init=label,
        tol=1e-11,
        max_iter=5000,
    ).fit(X, Y)
    both = np.hstack([X, Y])
    means = np.hstack([est.gate_means_, est.intercept_])
    spread = np.hstack([est.gate_covariances_, np.diagonal(est.covariance_, axis1=1, axis2=2)])
    peer = GaussianMixture(
        2, covariance_type="diag", weights_init=est.gate_weights_, means_init=means,
        precisions_init=1.0 / spread, tol=1e-12, max_iter=5000, reg_covar=0.0,
    ).fit(both)  # fmt: skip
    assert est.log_likelihood_ == pytest.approx(len(X) * peer.score(both), abs=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_one_column_is_the_univariate_family(lines, shared):
    X, Y, label = lines
    design = np.column_stack([np.ones(len(X)), X])
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(Y))
    results = []
    for expert, y in (
        (Gaussian(shared_scale=shared), Y[:, 0]),
        (MultivariateGaussian(covariance="tied" if shared else "full"), Y[:, :1]),
    ):
        batch = Batch(y, {"mean": design}, np.empty((len(y), 0)), weight)
        model = Model(Constant(), expert)
        resp = 0.8 * np.eye(2)[label] + 0.1
        rng = np.random.default_rng(0)
        start = Theta(
            model.gate.init_params(batch, resp, rng), expert.init_params(batch, resp, rng)
        )
        first = em_pass(model, start, batch)["log_likelihood"]
        results.append((first, fit_em(model, batch, start, backend="numpy", monitor=Monitor())))
    (first, one), (again, several) = results
    assert again == pytest.approx(first, abs=1e-9)
    assert_allclose(several.theta.expert["coef"][:, 0], one.theta.expert["coef"], atol=1e-7)
    variance = one.theta.expert["scale"] ** 2
    assert_allclose(several.theta.expert["covariance"][:, 0, 0], variance, atol=1e-7)
    assert several.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-8)
    assert len(several.history) == len(one.history)


def test_responses_that_are_independent_given_the_expert_are_a_product(lines):
    """Diagonal covariances, and the joint family of Gaussians, are one model."""
    X, Y, label = lines
    one = mx.MoERegressor(2, expert=Gaussian(covariance="diag"), init=label).fit(X, Y)
    other = mx.MoERegressor(2, expert=mx.experts.Joint(["gaussian"] * 3), init=label).fit(X, Y)
    assert one.log_likelihood_ == pytest.approx(other.log_likelihood_, abs=1e-7)
    assert_allclose(one.coef_, other.coef_, atol=1e-6)
    assert_allclose(np.diagonal(one.covariance_, axis1=1, axis2=2), other.scale_**2, atol=1e-6)
    assert one.n_parameters_ == other.n_parameters_
