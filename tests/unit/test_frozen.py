"""Experts fitted before: concavity in the gate, names of features, streams, errors."""

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, PoissonRegressor
from sklearn.tree import DecisionTreeRegressor

import mixexperts as mx
from mixexperts.experts import FrozenExperts, Gaussian, Mixed
from mixexperts.gates import Softmax

# What is left to gain where a fit stops, and what of the gate's coefficients: the specification
# asks for the same optimum from any start to 1e-6.
SAME = 1e-6
STARTS = ("random", "kmeans", "elemental", "residual", "small_em")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(20261122)
    n = 700
    x = pd.DataFrame(rng.standard_normal((n, 2)), columns=["a", "b"])
    first = rng.random(n) < 1 / (1 + np.exp(-2.0 * x["a"]))
    mean = np.where(first, 10.0 + 2.0 * x["a"], -3.0 - x["b"] ** 2)
    y = mean + np.where(first, 1.0, 1.5) * rng.standard_normal(n)
    models = (
        LinearRegression().fit(x[first], y[first]),
        DecisionTreeRegressor(max_depth=4, random_state=0).fit(x[~first], y[~first]),
    )
    return x, y, models


def fitted(x, y, expert, **options):
    options = {"n_init": 1, "random_state": 0, "backend": "numpy", "tol": 1e-11} | options
    return mx.MoERegressor(2, expert=expert, **options).fit(x, y)


def test_the_optimum_does_not_depend_on_the_start(data):
    """With known scales only the gate is learned: the log-likelihood is concave."""
    x, y, models = data
    expert = FrozenExperts(models, known={"scale": [1.0, 1.5]})
    fits = [fitted(x, y, expert, init=init) for init in STARTS]
    rng = np.random.default_rng(1)
    for _ in range(3):
        fits.append(fitted(x, y, expert, init=rng.dirichlet([0.3, 0.3], len(y))))
    for fit in fits[1:]:
        assert fit.converged_
        assert fit.log_likelihood_ == pytest.approx(fits[0].log_likelihood_, abs=SAME)
        assert_allclose(fit.gate_coef_, fits[0].gate_coef_, atol=SAME)
        assert_allclose(fit.gate_intercept_, fits[0].gate_intercept_, atol=SAME)
    assert fits[0].n_parameters_ == 3
    assert_allclose(fits[0].scale_, [1.0, 1.5], rtol=1e-14)


def test_the_optimum_is_that_of_a_direct_maximisation(data):
    from scipy.optimize import minimize
    from scipy.stats import norm

    x, y, models = data
    log_f = np.stack(
        [norm.logpdf(y, m.predict(x), s) for m, s in zip(models, (1.0, 1.5), strict=True)]
    )
    X = np.column_stack([np.ones(len(x)), x])

    def negative(w):
        eta = X @ w
        gate = np.stack([-np.logaddexp(0.0, -eta), -np.logaddexp(0.0, eta)])
        return -np.logaddexp.reduce(gate + log_f).sum()

    best = minimize(negative, np.zeros(3), method="BFGS", options={"gtol": 1e-7})
    est = fitted(x, y, FrozenExperts(models, known={"scale": [1.0, 1.5]}))
    assert est.log_likelihood_ == pytest.approx(-best.fun, abs=1e-7)
    assert_allclose([est.gate_intercept_[0], *est.gate_coef_[0]], best.x, atol=1e-4)


def test_means_are_the_predictions_of_the_models(data):
    x, y, models = data
    est = fitted(x, y, FrozenExperts(models), init="kmeans")
    assert_allclose(
        est.predict_experts(x), np.column_stack([m.predict(x) for m in models]), rtol=1e-12
    )
    weights = est.gate_proba(x)
    assert_allclose(est.predict(x), (weights * est.predict_experts(x)).sum(axis=1), rtol=1e-12)
    # n_parameters: two scales and the gate's three
    assert (est.n_parameters_, est.coef_.shape) == (5, (2, 0))
    assert_allclose(est.scale_, [1.0, 1.4], rtol=0.15)
    assert np.isnan(est.intercept_).all()
    inside = (est.predictive(x).interval(0.9)[0] <= y) & (y <= est.predictive(x).interval(0.9)[1])
    assert inside.mean() == pytest.approx(0.9, abs=0.04)


def test_counts_have_predictors_of_their_predictions(data):
    x, _, _ = data
    rng = np.random.default_rng(3)
    first = rng.random(len(x)) < 0.5
    y = rng.poisson(np.exp(np.where(first, 2.0 + 0.5 * x["a"], 0.1)))
    models = [PoissonRegressor(alpha=0).fit(x[k], y[k]) for k in (first, ~first)]
    est = fitted(x, y, FrozenExperts(models, family="poisson"))
    assert est.n_parameters_ == 3
    assert_allclose(est.predict_experts(x)[:, 0], models[0].predict(x), rtol=1e-12)
    again = fitted(x, y, FrozenExperts(models, family="poisson"), init="random")
    assert again.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=SAME)
    with pytest.raises(ValueError, match=r"models\[0\] predicts -.* no mean of poisson"):
        fitted(x, y, FrozenExperts([LinearRegression().fit(x, -y), models[1]], family="poisson"))


def test_models_find_their_features_by_name(data):
    x, y, models = data
    est = fitted(x, y, FrozenExperts(models))
    moved = fitted(x[["b", "a"]], y, FrozenExperts(models))
    assert moved.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=SAME)
    wide = fitted(x.assign(c=1.0 * np.arange(len(x)))[["c", "a", "b"]], y, FrozenExperts(models),
                  gate_features=["a", "b"])  # fmt: skip
    assert wide.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=SAME)
    plain = fitted(x.to_numpy(), y, FrozenExperts(models))  # by place
    assert plain.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=SAME)


def test_chunks_and_weights(data):
    x, y, models = data
    est = fitted(x, y, FrozenExperts(models))
    chunked = fitted(x, y, FrozenExperts(models), chunk_rows=90)
    assert chunked.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=1e-6)
    weight = 1 + np.arange(len(y)) % 2
    rows = np.repeat(np.arange(len(y)), weight)
    weighted = mx.MoERegressor(2, expert=FrozenExperts(models), n_init=1, random_state=0)
    weighted.fit(x, y, sample_weight=weight)
    twice = fitted(x.iloc[rows], y[rows], FrozenExperts(models))
    assert weighted.log_likelihood_ == pytest.approx(twice.log_likelihood_, abs=1e-5)


def test_experts_keep_the_order_of_the_models(data):
    x, y, models = data
    one, other = fitted(x, y, FrozenExperts(models)), fitted(x, y, FrozenExperts(models[::-1]))
    assert other.log_likelihood_ == pytest.approx(one.log_likelihood_, abs=SAME)
    assert_allclose(other.scale_[::-1], one.scale_, rtol=1e-4)
    assert_allclose(other.gate_proba(x)[:, ::-1], one.gate_proba(x), atol=1e-4)


def test_a_gate_without_intercept_and_copies(data, tmp_path):
    x, y, models = data
    est = fitted(x, y, FrozenExperts(models), gate=Softmax(fit_intercept=False))
    for copy in (pickle.loads(pickle.dumps(est)), clone(est).fit(x, y)):
        assert_allclose(copy.predict(x), est.predict(x), rtol=1e-6)
    with pytest.raises(TypeError, match="cannot save a sklearn"):
        est.save(tmp_path / "frozen.mxp")
    # what a checkpoint's key is made of tells models apart that print alike
    assert repr(FrozenExperts(models)) != repr(FrozenExperts([models[0], models[0]]))
    other = LinearRegression().fit(x, -y)
    assert repr(FrozenExperts([other])) != repr(FrozenExperts([models[0]]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: FrozenExperts([]), ValueError, "models is empty"),
        (
            lambda m: FrozenExperts([m[0], 3.0]),
            TypeError,
            r"models\[1\] is a float without predict",
        ),
        (lambda m: FrozenExperts(m, "gausian"), ValueError, "did you mean"),
        (lambda m: FrozenExperts(m, Mixed([Gaussian()])), ValueError, "no mean to be predicted"),
        (lambda m: FrozenExperts(m, known={"shape": 1.0}), ValueError, r"have \['scale'\]"),
        (lambda m: FrozenExperts(m, known={"scale": [1.0] * 3}), ValueError, "one per model"),
    ],
)
def test_mistakes_are_named(data, make, error, message):
    with pytest.raises(error, match=message):
        make(data[2])


def test_mistakes_of_a_fit_are_named(data):
    x, y, models = data
    with pytest.raises(ValueError, match="n_experts=3, but there are 2 models"):
        mx.MoERegressor(3, expert=FrozenExperts(models)).fit(x, y)
    two = LinearRegression().fit(x, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"models\[1\] predicts an array of shape"):
        fitted(x, y, FrozenExperts([models[0], two]))
