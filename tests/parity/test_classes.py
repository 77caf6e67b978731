"""Experts of classes: one expert is the plain model, and the truth of two is recovered."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from statsmodels.miscmodels.ordinal_model import OrderedModel

import mixexperts as mx
from mixexperts.em.information import observed_information
from mixexperts.penalties import Ridge


@pytest.fixture(scope="module")
def overlapping():
    """Three classes that no features part."""
    return mx.datasets.make_moe_classification(
        800,
        coef=[[[1.0, -0.5], [0.3, 0.8], [0.0, 0.0]]],
        intercept=[[0.2, -0.4, 0.0]],
        n_experts=1,
        random_state=3,
    )[:2]


@pytest.mark.parametrize("weighted", [False, True])
def test_one_expert_is_multinomial_logit(overlapping, weighted):
    X, y = overlapping
    weight = np.where(np.arange(len(y)) % 3 == 0, 2.0, 1.0) if weighted else None
    est = mx.MoEClassifier(1, tol=1e-12).fit(X, y, weight)
    peer = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000)
    peer.fit(X, y, weight)
    assert_allclose(est.coef_[0], peer.coef_ - peer.coef_[-1], atol=1e-6)
    assert_allclose(est.intercept_[0], peer.intercept_ - peer.intercept_[-1], atol=1e-6)
    assert_allclose(est.predict_proba(X), peer.predict_proba(X), atol=1e-6)
    rows = np.arange(len(y)) if weight is None else np.repeat(np.arange(len(y)), weight.astype(int))
    # statsmodels takes the first class as reference: the classes in reverse have ours there.
    known = sm.MNLogit(2 - y[rows], sm.add_constant(X[rows])).fit(disp=0, tol=1e-12, maxiter=100)
    mine = np.column_stack([est.intercept_[0], est.coef_[0]])[:2][::-1].T
    assert_allclose(mine, known.params, atol=1e-6)
    assert est.log_likelihood_ == pytest.approx(known.llf, abs=1e-8)


def test_a_penalty_is_that_of_all_classes_alike(overlapping):
    """scikit-learn's penalty is ``sum(coef ** 2) / (2 C)``, on centred coefficients at the optimum.

    Ours is ``n alpha / 2`` times the same sum, over standardised columns.
    """
    X, y = overlapping
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    est = mx.MoEClassifier(1, expert_penalty=Ridge(0.05), tol=1e-13).fit(X, y)
    peer = LogisticRegression(C=1.0 / (0.05 * len(y)), tol=1e-12, max_iter=5000).fit(X, y)
    assert_allclose(est.coef_[0], peer.coef_ - peer.coef_[-1], atol=1e-6)
    turned = mx.MoEClassifier(1, expert_penalty=Ridge(0.05), tol=1e-13).fit(X, 2 - y)
    assert_allclose(turned.predict_proba(X)[:, ::-1], est.predict_proba(X), atol=1e-7)


def test_one_binary_expert_is_logistic_regression(overlapping):
    X, y = overlapping
    known = sm.Logit((y == 1).astype(float), sm.add_constant(X)).fit(disp=0, tol=1e-12)
    for expert in ("multinomial", "binomial", "ordinal"):
        est = mx.MoEClassifier(1, expert=expert, tol=1e-12).fit(X, y == 1)
        assert est.log_likelihood_ == pytest.approx(known.llf, abs=1e-8), expert
        assert_allclose(est.predict_proba(X)[:, 1], known.predict(), atol=1e-6)
    assert_allclose(est.coef_[0], known.params[1:], atol=1e-6)
    assert_allclose(est.threshold_[0], -known.params[:1], atol=1e-6)


def test_one_ordinal_expert_is_the_ordered_logit():
    X, _ = load_wine(return_X_y=True)
    X = X[:, [0, 3, 5]]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rng = np.random.default_rng(2)
    score = 0.8 * X[:, 0] - 0.5 * X[:, 1] + 0.7 * X[:, 2] + rng.logistic(size=len(X))
    y = np.digitize(score, np.quantile(score, [0.2, 0.5, 0.85]))
    model = OrderedModel(y, X, distr="logit")
    known = model.fit(method="bfgs", disp=0, gtol=1e-6, maxiter=1000)
    assert np.abs(model.score(known.params)).max() < 1e-4
    threshold = model.transform_threshold_params(known.params)[1:-1]
    est = mx.MoEClassifier(1, expert="ordinal", tol=1e-12).fit(X, y)
    assert_allclose(est.coef_[0], known.params[:3], atol=1e-5)
    assert_allclose(est.threshold_[0], threshold, atol=1e-5)
    assert_allclose(est.predict_proba(X), known.predict(), atol=1e-5)
    assert est.log_likelihood_ == pytest.approx(known.llf, abs=1e-7)


TRUTH = {
    "coef": [[[2.0, 0.5], [0.0, 1.5], [0, 0]], [[-2.0, 0.5], [0.5, -1.0], [0, 0]]],
    "intercept": [[0.5, 0.0, 0.0], [-0.5, 0.5, 0.0]],
    "gate_coef": [[0.5, 3.0], [0.0, 0.0]],
    "gate_intercept": [0.3, 0.0],
}


def standard_errors(est, X, y, as_codes):
    """Of the packed parameters, from the observed information."""
    batch = est.frame_.batch(X, as_codes(y), None, None)
    information = observed_information(est.model_, est.theta_, batch)["information"]
    assert np.linalg.eigvalsh(information)[0] > 0.0
    return np.sqrt(np.diagonal(np.linalg.inv(information)))


def test_the_truth_of_two_experts_and_three_classes_is_recovered():
    X, y, truth = mx.datasets.make_moe_classification(5000, random_state=11, **TRUTH)
    est = mx.MoEClassifier(2, n_init=6, random_state=0).fit(X, y)
    assert est.log_likelihood_ >= truth.log_likelihood(X, y)
    error = standard_errors(est, X, y, lambda values: values.astype(float))
    found = est.model_.pack(est.theta_)
    distances = []
    for order in ([0, 1], [1, 0]):
        raw = {name: np.asarray(value, float)[order] for name, value in TRUTH.items()}
        distances.append((found - est.model_.pack(est.frame_.engine(est.model_, raw))) / error)
    nearest = min(distances, key=lambda z: np.abs(z).max())
    assert np.abs(nearest).max() < 4.0
    assert np.abs(nearest).max() > 0.3  # estimates are not the truth


def test_the_truth_of_two_ordinal_experts_is_recovered():
    rng = np.random.default_rng(8)
    X = rng.standard_normal((5000, 2))
    raw = {
        "coef": np.array([[2.0, 0.5], [-1.5, 1.0]]),
        "threshold": np.array([[-1.0, 0.5, 2.0], [-2.0, -0.5, 1.0]]),
        "gate_coef": np.array([[0.5, 3.0], [0.0, 0.0]]),
        "gate_intercept": np.array([0.3, 0.0]),
    }
    logit = X @ raw["gate_coef"][0] + raw["gate_intercept"][0]
    label = (rng.random(5000) > 1.0 / (1.0 + np.exp(-logit))).astype(int)
    score = np.einsum("ij,ij->i", X, raw["coef"][label]) + rng.logistic(size=5000)
    y = (score[:, None] > raw["threshold"][label]).sum(axis=1)
    est = mx.MoEClassifier(2, expert="ordinal", n_init=6, random_state=0).fit(X, y)
    error = standard_errors(est, X, y, lambda values: values.astype(float))
    found = est.model_.pack(est.theta_)
    distances = []
    for order in ([0, 1], [1, 0]):
        turned = {name: value[order] for name, value in raw.items()}
        distances.append((found - est.model_.pack(est.frame_.engine(est.model_, turned))) / error)
    nearest = min(distances, key=lambda z: np.abs(z).max())
    assert np.abs(nearest).max() < 4.0
    assert np.abs(nearest).max() > 0.3


def test_iris_with_one_expert_is_as_good_as_its_best_known_likelihood():
    """The likelihood of three-class logistic regression on iris: -5.949273 (statsmodels)."""
    X, y = load_iris(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.SeparationWarning)
        est = mx.MoEClassifier(1).fit(X, load_iris().target_names[y])
    assert est.log_likelihood_ == pytest.approx(-5.949273, abs=1e-5)
