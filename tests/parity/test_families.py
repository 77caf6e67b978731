"""One expert against statsmodels' generalised linear models, or against a direct maximisation."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy import optimize, stats
from statsmodels.othermod.betareg import BetaModel

import mixexperts as mx
from mixexperts.experts import Binomial, Gamma, InverseGaussian, Poisson

N = 600
# Both sides stop where the gradient is next to nothing.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(20260901)
    x = rng.uniform(0.0, 1.0, (N, 2))
    mean = np.exp(0.6 + x @ [0.8, -0.5])
    return {
        "x": x,
        "gamma": rng.gamma(4.0, mean / 4.0),
        "inverse_gaussian": rng.wald(mean, 5.0),
        "poisson": rng.poisson(mean).astype(float),
        "negative_binomial": rng.negative_binomial(2.0, 2.0 / (2.0 + mean)).astype(float),
        "binomial": np.column_stack([s := rng.binomial(9, mean / (1 + mean)), 9 - s]).astype(float),
        "beta": rng.beta(6.0 * mean / (1.0 + mean), 6.0 / (1.0 + mean)),
        "weibull": mean * rng.weibull(1.7, N),
        "log_normal": mean * np.exp(0.4 * rng.standard_normal(N)),
        "exponential": rng.exponential(mean),
    }


def fit(family, x, y):
    est = mx.MoERegressor(1, expert=family, n_init=1, tol=1e-10).fit(x, y)
    assert est.status_ == "converged"
    return est, np.concatenate([est.intercept_, est.coef_[0]])


LINKS = sm.families.links
GLMS = [
    (Gamma(), sm.families.Gamma(LINKS.Log())),
    (Gamma(link="inverse"), sm.families.Gamma(LINKS.InversePower())),
    (Gamma(link="identity"), sm.families.Gamma(LINKS.Identity())),
    (InverseGaussian(), sm.families.InverseGaussian(LINKS.Log())),
    (InverseGaussian(link="inverse_squared"), sm.families.InverseGaussian(LINKS.InverseSquared())),
    (Poisson(link="identity"), sm.families.Poisson(LINKS.Identity())),
    (Poisson(link="sqrt"), sm.families.Poisson(LINKS.Sqrt())),
    (Binomial(link="probit"), sm.families.Binomial(LINKS.Probit())),
    (Binomial(link="cloglog"), sm.families.Binomial(LINKS.CLogLog())),
]


@pytest.mark.parametrize(("own", "peer"), GLMS, ids=[repr(own) for own, _ in GLMS])
def test_one_expert_is_the_generalised_linear_model(own, peer, data):
    y = data[own.name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of links that are not safe
        known = sm.GLM(y, sm.add_constant(data["x"]), family=peer).fit(tol=1e-14, maxiter=200)
    est, found = fit(own, data["x"], y)
    assert_allclose(found, known.params, **CLOSE)
    if own.name in ("poisson", "binomial"):
        assert est.log_likelihood_ == pytest.approx(known.llf, abs=1e-6)
    if own.name == "inverse_gaussian":  # the mean deviance is the estimate of maximum likelihood
        assert est.dispersion_[0] == pytest.approx(known.deviance / N, rel=1e-6)


def test_gamma_shape_is_that_of_maximum_likelihood(data):
    """Given the means, against a search in the shape alone."""
    est, _ = fit(Gamma(), data["x"], data["gamma"])
    mean = est.predict(data["x"])

    def loss(log_shape):
        shape = np.exp(log_shape)
        return -stats.gamma.logpdf(data["gamma"], shape, scale=mean / shape).sum()

    best = optimize.minimize_scalar(loss, bracket=(0.5, 2.0), tol=1e-12)
    assert est.shape_[0] == pytest.approx(np.exp(best.x), rel=1e-6)
    assert est.log_likelihood_ == pytest.approx(-best.fun, abs=1e-7)


def test_negative_binomial_is_nb2(data):
    y = data["negative_binomial"]
    known = sm.NegativeBinomial(y, sm.add_constant(data["x"]), loglike_method="nb2").fit(
        disp=False, method="newton", maxiter=200, tol=1e-14
    )
    est, found = fit("negative_binomial", data["x"], y)
    assert_allclose(np.append(found, est.dispersion_), known.params, **CLOSE)
    assert est.log_likelihood_ == pytest.approx(known.llf, abs=1e-6)


def test_beta_is_the_beta_model(data):
    y = data["beta"]
    known = BetaModel(y, sm.add_constant(data["x"])).fit(disp=False, method="bfgs", gtol=1e-10)
    est, found = fit("beta", data["x"], y)
    # Its precision is the logarithm of ours.
    assert_allclose(np.append(found, np.log(est.precision_)), known.params, rtol=1e-5, atol=1e-5)
    assert est.log_likelihood_ >= known.llf - 1e-6
    assert est.log_likelihood_ == pytest.approx(known.llf, abs=1e-5)


@pytest.mark.parametrize(("name", "logpdf", "shape"), [
    ("weibull", lambda y, eta, s: stats.weibull_min.logpdf(y, s, scale=np.exp(eta)), "shape"),
    ("log_normal", lambda y, eta, s: stats.lognorm.logpdf(y, s, scale=np.exp(eta)), "scale"),
    ("exponential", lambda y, eta, s: stats.expon.logpdf(y, scale=np.exp(eta)), None),
])  # fmt: skip
def test_durations_against_a_direct_maximisation(name, logpdf, shape, data):
    y, X = data[name], sm.add_constant(data["x"])
    est, found = fit(name, data["x"], y)

    def loss(v):
        return -logpdf(y, X @ v[:3], np.exp(v[3])).sum() + (0.0 if shape else v[3] ** 2)

    best = optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    best = optimize.minimize(loss, best.x, method="Nelder-Mead",
                             options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 5000})  # fmt: skip
    assert_allclose(found, best.x[:3], rtol=1e-5, atol=1e-5)
    if shape:
        assert_allclose(getattr(est, f"{shape}_"), np.exp(best.x[3]), rtol=1e-5)
    assert est.log_likelihood_ >= -best.fun - 1e-7
    assert est.log_likelihood_ == pytest.approx(-best.fun, abs=1e-6)


def test_log_normal_is_least_squares_of_logs(data):
    known = sm.OLS(np.log(data["log_normal"]), sm.add_constant(data["x"])).fit()
    est, found = fit("log_normal", data["x"], data["log_normal"])
    assert_allclose(found, known.params, **CLOSE)
    assert est.scale_[0] == pytest.approx(np.sqrt(known.ssr / N), rel=1e-8)
