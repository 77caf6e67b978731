"""One expert is least squares; shared scales, no intercept and polynomials mean what they say."""

import re
import warnings
from math import comb

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import norm

from mixexperts.errors import DegenerateFitWarning, RankDeficientWarning
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax

SEEDS = st.integers(0, 10_000)
# The examples of a test are a function of the test alone.
FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=20)
# Least squares by QR here and by normal equations on standardised columns there.
OLS = 1e-9


@FIXED
@given(
    seed=SEEDS,
    n=st.integers(8, 60),
    n_features=st.integers(1, 4),
    intercept=st.booleans(),
    shared=st.booleans(),
    gate=st.sampled_from(["softmax", "constant"]),
    shift=st.sampled_from([0.0, 1e3]),
)
def test_one_expert_is_least_squares(tools, seed, n, n_features, intercept, shared, gate, shift):
    X, y, _ = tools.draw(seed, n, n_features, 1)
    X = X + shift * (1 if intercept else 0)
    expert = Gaussian(1, shared, intercept)
    est = tools.fit(X, y, 1, expert=expert, gate=gate)
    design = np.column_stack([np.ones(n), X]) if intercept else X
    ols = sm.OLS(y, design).fit()
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    tol = OLS * max(1.0, shift)
    raw = np.append(est.intercept_, est.coef_[0]) if intercept else est.coef_[0]
    assert_allclose(raw, beta, rtol=tol, atol=tol)
    assert est.log_likelihood_ == pytest.approx(ols.llf, rel=OLS, abs=OLS)
    assert est.scale_[0] == pytest.approx(np.sqrt(ols.ssr / n), rel=OLS)
    assert est.n_parameters_ == design.shape[1] + 1
    assert est.aic(X, y) == pytest.approx(-2 * ols.llf + 2 * est.n_parameters_, rel=OLS)
    expected = -2 * ols.llf + np.log(n) * est.n_parameters_
    assert est.bic(X, y) == pytest.approx(expected, rel=OLS)
    assert est.icl(X, y) == pytest.approx(est.bic(X, y), rel=1e-12)  # no entropy
    assert_allclose(est.predict(X), ols.fittedvalues, rtol=OLS, atol=OLS)
    assert est.restarts_["init"].tolist() == ["single"]
    assert est.n_iter_ <= 3


@FIXED
@given(seed=SEEDS, n_features=st.integers(1, 3))
def test_weighted_expert_is_weighted_least_squares(tools, seed, n_features):
    """Case weights: the log-likelihood is the weighted sum, the scale divides by their sum."""
    X, y, _ = tools.draw(seed, 50, n_features, 1)
    weight = np.random.default_rng(seed).gamma(2.0, size=50)
    est = tools.fit(X, y, 1, sample_weight=weight)
    design = sm.add_constant(X)
    wls = sm.WLS(y, design, weights=weight).fit()
    scale = np.sqrt(weight @ wls.resid**2 / weight.sum())
    assert_allclose(np.append(est.intercept_, est.coef_[0]), wls.params, rtol=OLS, atol=OLS)
    assert est.scale_[0] == pytest.approx(scale, rel=OLS)
    llf = weight @ norm.logpdf(wls.resid, scale=scale)
    assert est.log_likelihood_ == pytest.approx(llf, rel=OLS)
    assert est.bic(X, y, sample_weight=weight) == pytest.approx(
        -2 * llf + np.log(weight.sum()) * est.n_parameters_, rel=OLS
    )


def fit_on_too_few_rows(tools, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateFitWarning)  # the residuals are zero
        return tools.fit(X, y, 1, gate="constant")


@FIXED
@given(seed=SEEDS, n=st.integers(3, 8))
def test_fewer_rows_than_columns_gives_the_fit_of_least_norm(tools, seed, n):
    """In standardised columns; predictions at the data are those of least squares."""
    X, y, _ = tools.draw(seed, n, 12, 1)
    with pytest.warns(RankDeficientWarning, match="rows are fewer than the 13 columns"):
        est = fit_on_too_few_rows(tools, X, y)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    beta = np.linalg.lstsq(Z, y - y.mean(), rcond=None)[0]
    assert_allclose(est.coef_[0], beta / X.std(axis=0), rtol=1e-7, atol=1e-9)
    assert_allclose(est.predict(X), y, rtol=1e-7, atol=1e-7)


def powers_of(term, names):
    """Exponents of a term such as ``x0^2 x1``, read from its name."""
    powers = dict.fromkeys(names, 0)
    for factor in term.split(" "):
        name, power = re.fullmatch(r"(\w+?)(?:\^(\d+))?", factor).groups()
        powers[name] += int(power or 1)
    return [powers[name] for name in names]


@settings(FIXED, max_examples=12)
@given(
    seed=SEEDS,
    degree=st.sampled_from([0, 1, 2, 3, 5]),
    n_features=st.integers(1, 2),
    n_experts=st.integers(1, 2),
    intercept=st.booleans(),
    shift=st.sampled_from([0.0, 2.0]),
)
def test_raw_coefficients_are_those_of_the_named_monomials(
    tools, seed, degree, n_features, n_experts, intercept, shift
):
    intercept = intercept or degree == 0
    X, y, label = tools.draw(seed, 120, n_features, n_experts)
    X = 0.7 * X + shift
    expert = Gaussian(degree, fit_intercept=intercept)
    est = tools.fit(
        X,
        y,
        n_experts,
        expert=expert,
        init=label,
        gate="constant",
        max_iter=30,
        tol=1e-6,
        quiet=True,
    )
    names = [f"x{j}" for j in range(n_features)]
    exponents = np.array([powers_of(t, names) for t in est.expert_terms_]).reshape(-1, n_features)
    # all monomials of degree 1 to q, each once
    assert len({tuple(row) for row in exponents}) == len(exponents)
    assert len(exponents) == comb(n_features + degree, degree) - 1
    assert degree == 0 or (exponents.sum(axis=1) <= degree).all()
    columns = [np.ones(120)] + [np.prod(X**row, axis=1) for row in exponents]
    coefficients = np.column_stack([est.intercept_, est.coef_])
    parts = coefficients[:, None, :] * np.stack(columns, axis=1)
    # The raw form cancels: terms of size s sum to a mean with error eps * s, s up to 1e6 here,
    # and the raw coefficients carry the rounding of the binomial formula as well.
    size = np.abs(parts).sum(axis=2).T
    error = np.abs(parts.sum(axis=2).T - est.predict_experts(X))
    assert (error <= 1e-12 * (1 + size)).all()
    if not intercept:
        assert not est.intercept_.any()
    each = len(exponents) + int(intercept) + 1
    assert est.n_parameters_ == n_experts * each + n_experts - 1


@pytest.mark.parametrize("degree", [1, 2, 5])
@pytest.mark.parametrize("shift", [0.0, 3.0, 50.0])
def test_polynomial_of_one_feature_is_polyfit(tools, degree, shift):
    rng = np.random.default_rng(degree)
    z = rng.uniform(-1, 1, 100)
    y = np.polynomial.Polynomial(rng.standard_normal(degree + 1))(z) + 0.1 * rng.standard_normal(
        100
    )
    est = tools.fit((z + shift)[:, None], y, 1, expert=Gaussian(degree))
    expected = np.polynomial.Polynomial.fit(z, y, degree)  # shifted and scaled: well conditioned
    residual = y - expected(z)
    llf = norm.logpdf(residual, scale=np.sqrt(np.mean(residual**2))).sum()
    assert est.log_likelihood_ == pytest.approx(llf, rel=1e-8)
    assert_allclose(est.predict((z + shift)[:, None]), expected(z), atol=1e-8)
    new = np.linspace(-1.5, 1.5, 7)
    assert_allclose(est.predict((new + shift)[:, None]), expected(new), atol=1e-6)


@FIXED
@given(seed=SEEDS, gate=st.sampled_from(["softmax", "constant"]))
def test_shared_scale_is_one_scale_and_fewer_parameters(tools, seed, gate):
    X, y, label = tools.draw(seed, 100)
    options = {"gate": gate, "init": label, "quiet": True}
    shared = tools.fit(X, y, expert=Gaussian(shared_scale=True), **options)
    free = tools.fit(X, y, **options)
    assert shared.scale_[0] == shared.scale_[1]
    assert shared.n_parameters_ == free.n_parameters_ - 1
    # the pooled scale is that of all residuals, weighted by the responsibilities
    resp = shared.responsibilities(X, y)
    residual = y[:, None] - shared.predict_experts(X)
    pooled = np.sqrt(np.sum(resp * residual**2) / 100)
    assert shared.scale_[0] == pytest.approx(pooled, rel=1e-6)
    # a fit with free scales started there can only be better
    better = tools.fit(X, y, gate=gate, init=shared, quiet=True)
    assert better.log_likelihood_ >= shared.log_likelihood_ - 1e-9


@FIXED
@given(seed=SEEDS, room=st.sampled_from(["expert_features", "gate_features"]))
def test_features_are_those_asked_for(tools, seed, room):
    """A fit on chosen columns is the fit whose other columns do not exist."""
    X, y, label = tools.draw(seed, 90, 3)
    other = "gate_features" if room == "expert_features" else "expert_features"
    options = {"init": label, "quiet": True}
    chosen = tools.fit(X, y, **{room: [2, 0]}, **options)
    masked = tools.fit(X, y, **{room: [True, False, True]}, **options)
    assert masked.log_likelihood_ == pytest.approx(chosen.log_likelihood_, abs=1e-9)
    narrow = tools.fit(X[:, [0, 2]], y, **{other: None}, **options)
    wide = chosen.coef_ if room == "expert_features" else chosen.gate_coef_
    assert wide.shape == (2, 2)
    terms = chosen.expert_terms_ if room == "expert_features" else chosen.gate_terms_
    assert terms == ("x2", "x0")
    both = tools.fit(X, y, expert_features=[0, 2], gate_features=slice(0, 3, 2), **options)
    assert both.log_likelihood_ == pytest.approx(narrow.log_likelihood_, abs=1e-9)
    assert_allclose(both.coef_, narrow.coef_, atol=1e-6)


@FIXED
@given(seed=SEEDS)
def test_rooms_without_features_are_constants(tools, seed):
    """No gate columns: constant weights; no expert columns: levels; neither intercept: 1 / K."""
    X, y, label = tools.draw(seed, 90)
    options = {"init": label, "quiet": True}
    empty = tools.fit(X, y, gate_features=[], **options)
    constant = tools.fit(X, y, gate="constant", **options)
    assert empty.log_likelihood_ == pytest.approx(constant.log_likelihood_, abs=1e-8)
    assert empty.n_parameters_ == constant.n_parameters_
    assert_allclose(empty.gate_proba(X), constant.gate_proba(X), atol=1e-5)
    levels = tools.fit(X, y, expert_features=[], **options)
    degree_0 = tools.fit(X, y, expert=Gaussian(degree=0), **options)
    assert levels.log_likelihood_ == pytest.approx(degree_0.log_likelihood_, abs=1e-8)
    assert levels.coef_.shape == degree_0.coef_.shape == (2, 0)
    equal = tools.fit(X, y, gate=Softmax(fit_intercept=False), gate_features=[], **options)
    assert_allclose(equal.gate_proba(X), 0.5)
    assert equal.n_parameters_ == constant.n_parameters_ - 1
