"""What may stand in what, and known values that no start overrules."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import (
    Censored,
    FrozenExperts,
    Gamma,
    Gaussian,
    Hurdle,
    InverseGaussian,
    Joint,
    Mixed,
    Multinomial,
    NegativeBinomial,
    PointMass,
    Poisson,
    SkewNormal,
    StudentT,
    Tied,
    Truncated,
    Uniform,
    Weibull,
    ZeroInflated,
)
from mixexperts.gates import Softmax

N = 300
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 2))
LABEL = (X[:, 0] + RNG.standard_normal(N) > 0).astype(int)
Y = np.where(LABEL, 2 + X[:, 0], -1 - X[:, 0]) + RNG.standard_t(5, N)
COUNTS = RNG.negative_binomial(2, 0.3, N).astype(float)


def fit(expert, y, **options):
    options = {"init": LABEL, "backend": "numpy", "gate": "constant"} | options
    return mx.MoERegressor(2, expert=expert, **options).fit(X, y)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tied(Truncated(Gaussian(), lower=-5.0), common=("x1",)),
        lambda: Tied(Censored(Gaussian()), common=("x1",)),
        lambda: Mixed([Truncated(Gaussian(), lower=-4.0)] * 2),
        lambda: Mixed([Multinomial(), "poisson"]),
        lambda: Hurdle(Truncated(Gamma(), upper=12.0)),
        lambda: Hurdle(Mixed(["gamma", "weibull"])),
        lambda: ZeroInflated(Tied("poisson")),
        lambda: Joint([ZeroInflated(), "gaussian"]),
        lambda: Joint([Multinomial(), "poisson"]),
    ],
)
def test_what_would_lose_a_part_is_refused_when_it_is_made(make):
    with pytest.raises(UnsupportedCombinationError, match="cannot"):
        make()


def test_skewed_families_take_no_fitted_means():
    other = fit("gaussian", Y)
    with pytest.raises(UnsupportedCombinationError, match="predictor_at"):
        fit(FrozenExperts([other, other], family=SkewNormal()), Y)


@pytest.mark.parametrize("init", ["model", "dict"])
def test_known_values_hold_whatever_the_start(init):
    free = fit(StudentT(), Y)
    start = free
    if init == "dict":
        names = ("intercept", "coef", "scale", "df")
        start = {name: getattr(free, f"{name}_") for name in names}
    held = fit(StudentT(df=3.0), Y, init=start)
    assert held.df_.tolist() == [3.0, 3.0]
    honest = fit(StudentT(df=3.0), Y)
    assert held.log_likelihood_ == pytest.approx(honest.log_likelihood_, abs=1e-6)
    assert held.n_parameters_ == free.n_parameters_ - 2


def test_known_values_of_other_families_hold_too():
    positive = np.exp(0.3 * Y)
    free = fit(Weibull(), positive)
    assert fit(Weibull(shape=1.0), positive, init=free).shape_.tolist() == [1.0, 1.0]
    wild = np.where(np.arange(N) % 15 == 0, RNG.uniform(-40.0, 40.0, N), 1.0 + X[:, 0] + 0.1 * Y)
    beside = fit([Gaussian(), Uniform()], wild, init=(np.arange(N) % 15 == 0).astype(int))
    stated = fit([Gaussian(), Uniform(-50.0, 50.0)], wild, init=beside)
    assert_allclose([stated.low_[1], stated.high_[1]], [-50.0, 50.0], rtol=1e-12)


@pytest.mark.parametrize("wrap", [Censored, lambda family: Truncated(family, lower=-9.0)])
def test_known_shapes_inside_wrappers(wrap):
    est = fit(wrap(StudentT(df=4.0)), Y)
    assert est.df_.tolist() == [4.0, 4.0]
    # next to nothing lies below the window
    assert est.log_likelihood_ == pytest.approx(fit(StudentT(df=4.0), Y).log_likelihood_, abs=0.5)


def test_a_hurdle_before_negative_binomials_of_any_dispersion():
    """Only zeros are left out: moments are those of all counts over the rest of the mass."""
    est = fit(Hurdle(NegativeBinomial()), COUNTS, init="auto", n_init=3, random_state=0)
    assert est.converged_
    batch = est.frame_.batch(X, COUNTS, None, None)
    inner, own = est.model_.expert.inner, est.model_.expert._own(est.theta_.expert)
    y = np.arange(1.0, 3000.0)
    rows = est.frame_.batch(np.repeat(X[:1], len(y), axis=0), y, None, None)
    mass = np.exp(inner.log_prob(own, rows))
    assert_allclose(inner.mean(own, batch)[0], y @ mass, rtol=1e-6)
    assert_allclose(inner.variance(own, batch)[0], y**2 @ mass - (y @ mass) ** 2, rtol=1e-5)


def test_a_spike_inside_a_wrapper_is_flagged():
    y = np.where(LABEL, np.exp(0.2 * X[:, 0]), np.exp(1.0 + 0.3 * Y))
    with pytest.warns(mx.errors.DegenerateFitWarning):
        est = fit(Hurdle(InverseGaussian()), y)
    assert est.status_ == "degenerate"


def test_atoms_off_the_integers():
    est = fit([PointMass(0.5), Poisson()], np.where(LABEL, 0.5, COUNTS))
    there = est.predictive(X[:5])
    step = there.cdf(0.5) - there.cdf(0.5 - 1e-9)
    assert_allclose(there.pdf(0.5), step, rtol=1e-9)
    for row, at in enumerate(0.5 * (there.cdf(0.5) + there.cdf(0.4))):
        assert there.ppf(at)[row] == pytest.approx(0.5)


def test_partial_fit_with_named_columns_of_the_gate():
    frame = pd.DataFrame(X, columns=["x1", "x2"])
    est = mx.MoERegressor(2, gate=Softmax(features=[["x1"]]), n_init=2, random_state=0)
    for _ in range(2):
        est.partial_fit(frame, Y)
    assert est.gate_coef_[0, 1] == 0.0
    assert est.gate_coef_[0, 0] != 0.0
