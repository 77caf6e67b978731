"""A family per expert: recovery, order, scales, impossible responses, atoms, errors."""

import dataclasses
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.base import clone

import mixexperts as mx
from mixexperts import _registry
from mixexperts._batch import Batch
from mixexperts.em import Model
from mixexperts.em.information import observed_information
from mixexperts.em.model import em_pass
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts import Binomial, Expert, Gamma, Gaussian, Mixed, Poisson, Tied
from mixexperts.gates import Softmax
from mixexperts.predictive import Predictive

N = 600
TRUE_LINE = (1000.0, 30.0, 5.0)  # intercept, slope of x2, scale


@dataclass(frozen=True)
class Spike(Expert):
    """All probability at zero: the shortest family without coefficients, not registered."""

    param_names = ()
    uses_features = False
    discrete = True
    has_derivatives = False

    def possible(self, y):
        return y == 0.0

    def check_response(self, y):
        assert np.isfinite(y).all()

    def init_params(self, batch, resp, rng):
        return {}

    def log_prob(self, params, batch):
        return np.where(batch.y == 0.0, 0.0, -np.inf)[:, None]

    def accumulate(self, params, batch, weight):
        return {"mass": weight.sum(axis=0), "fitted": np.zeros(1)}

    def update(self, params, stats, penalty):
        return params

    def pack(self, params):
        return np.empty(0)

    def unpack(self, vector, like):
        return like

    def score(self, params, stats):
        return np.empty(0)

    def n_params(self, params):
        return 0

    def n_params_each(self, params):
        return 0

    def at_boundary(self, params):
        return np.zeros(1, dtype=bool)

    def raw(self, params, design, loc, scale):
        return {}

    def engine(self, raw, design, loc, scale):
        return {}

    def mean(self, params, batch):
        return np.zeros((batch.n_rows, 1))

    def variance(self, params, batch):
        return np.zeros((batch.n_rows, 1))

    def cdf(self, params, batch):
        return (batch.y >= 0.0).astype(float)[:, None]

    def quantile(self, params, batch, probability):
        return np.zeros((batch.n_rows, 1))

    def sample(self, params, batch, label, rng):
        return np.zeros(batch.n_rows)


Spike.name = "spike"  # after the class: names stated in it enter the registry


@pytest.fixture
def spike(monkeypatch):
    """The family, known for the time of a test."""
    monkeypatch.setitem(_registry._FAMILIES["expert"], "spike", Spike)
    return Spike()


@pytest.fixture(scope="module")
def data():
    """A Gaussian line far away and gamma responses near it."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((N, 2))
    first = rng.random(N) < 1 / (1 + np.exp(-2.0 * x[:, 0]))
    a, b, s = TRUE_LINE
    line = a + b * x[:, 1] + s * rng.standard_normal(N)
    return x, np.where(first, line, rng.gamma(4.0, np.exp(6.0 + 0.3 * x[:, 0]) / 4.0))


def fitted(x, y, expert, **options):
    options = {"n_init": 4, "random_state": 0, "backend": "numpy"} | options
    return mx.MoERegressor(2, expert=expert, **options).fit(x, y)


def numeric_gradient(function, at, step=1e-4):
    shifts = step * np.eye(len(at))
    return np.array([(function(at + e) - function(at - e)) / (2 * step) for e in shifts])


def test_each_expert_has_its_family(data):
    est = fitted(*data, [Gaussian(), "gamma"])
    a, b, s = TRUE_LINE
    assert est.converged_
    # four standard errors of some 300 rows
    assert est.intercept_[0] == pytest.approx(a, abs=4 * s / math.sqrt(300))
    assert est.coef_[0, 1] == pytest.approx(b, abs=4 * s / math.sqrt(300))
    assert est.scale_[0] == pytest.approx(s, rel=4 / math.sqrt(600))
    assert est.coef_[1, 0] == pytest.approx(0.3, abs=4 * 0.5 / math.sqrt(300))
    assert est.shape_[1] == pytest.approx(4.0, rel=0.35)
    assert np.isnan([est.scale_[1], est.shape_[0]]).all()
    assert est.n_parameters_ == (3 + 1) + (3 + 1) + 3  # the sum of the experts', and the gate's
    llf = est.log_likelihood_
    assert est.bic(*data) == pytest.approx(-2 * llf + 11 * math.log(N), rel=1e-12)
    log_f = np.stack(
        [
            stats.norm.logpdf(data[1], est.predict_experts(data[0])[:, 0], est.scale_[0]),
            stats.gamma.logpdf(
                data[1], est.shape_[1], scale=est.predict_experts(data[0])[:, 1] / est.shape_[1]
            ),
        ]
    )
    density = np.logaddexp.reduce(log_f + np.log(est.gate_proba(data[0]).T))
    assert density.sum() == pytest.approx(llf, rel=1e-12)


def test_the_order_of_the_list_is_that_of_the_experts_and_nothing_else(data):
    one, other = fitted(*data, [Gaussian(), Gamma()]), fitted(*data, [Gamma(), Gaussian()])
    assert other.log_likelihood_ == pytest.approx(one.log_likelihood_, abs=1e-6)
    assert other.bic(*data) == pytest.approx(one.bic(*data), abs=1e-5)
    assert_allclose(other.coef_[::-1], one.coef_, rtol=1e-4, atol=1e-5)
    assert_allclose(other.predict(data[0]), one.predict(data[0]), rtol=1e-5)
    assert_allclose(other.gate_proba(data[0])[:, ::-1], one.gate_proba(data[0]), atol=1e-5)


def test_experts_alike_are_put_in_order_among_themselves():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((N, 1))
    k = rng.integers(0, 3, N)
    y = np.array([50.0, 5.0, -50.0])[k] + rng.standard_normal(N)
    y = np.where(k == 1, rng.gamma(9.0, 1.0, N) * 0.5 + 100.0, y)
    est = mx.MoERegressor(
        3, expert=[Gaussian(), Gamma(), Gaussian()], n_init=8, random_state=0, gate="constant"
    ).fit(x, y)
    assert est.intercept_[0] < est.intercept_[2]
    assert np.isnan(est.scale_[1])
    with pytest.raises(ValueError, match="another family"):
        est.model_.expert.permute(est.theta_.expert, np.array([1, 0, 2]))


def test_units_of_the_response_do_not_matter(data):
    """Gaussian experts beside gamma ones see a standardised response of their own."""
    x, y = data
    plain, other = fitted(x, y, [Gaussian(), Gamma()]), fitted(x, 1e6 * y, [Gaussian(), Gamma()])
    shift = N * math.log(1e6)
    assert other.log_likelihood_ == pytest.approx(plain.log_likelihood_ - shift, abs=1e-6)
    assert_allclose(other.coef_[0], 1e6 * plain.coef_[0], rtol=1e-5, atol=1.0)
    assert other.scale_[0] == pytest.approx(1e6 * plain.scale_[0], rel=1e-6)


def test_one_kind_of_family_is_that_family(data):
    x, y = data
    mixed, plain = fitted(x, y, Mixed([Gaussian(), "gaussian"])), fitted(x, y, Gaussian())
    assert mixed.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-7)
    assert_allclose(mixed.coef_, plain.coef_, rtol=1e-6)
    assert mixed.n_parameters_ == plain.n_parameters_


def case(expert, y, rng):
    x = rng.standard_normal((len(y), 2))
    X = np.column_stack([np.ones(len(y)), x])
    batch = Batch(y, {"mean": X}, X, rng.uniform(0.5, 2.0, len(y)))
    model = Model(Softmax(), expert)
    resp = rng.dirichlet(np.ones(len(expert.experts)), len(y))
    from mixexperts.em.init import theta_from_responsibilities

    return model, theta_from_responsibilities(model, batch, resp, rng), batch


@pytest.mark.parametrize(
    "expert",
    [
        Mixed([Gaussian(), Gamma(), Gaussian()]),
        Mixed([Poisson(), Gaussian()]),
        Mixed([Gamma(), Poisson(), Gamma()]),
    ],
    ids=["gaussian-gamma", "poisson-gaussian", "gamma-poisson"],
)
def test_score_and_information_where_some_responses_are_impossible(expert):
    rng = np.random.default_rng(3)
    y = np.where(rng.random(60) < 0.5, rng.poisson(3.0, 60), rng.gamma(2.0, 2.0, 60))
    if "gamma" not in expert.family_name() or len(set(expert.experts)) == 2:
        y = np.where(rng.random(60) < 0.2, -y, y) if Gaussian() in expert.experts else y
    model, theta, batch = case(expert, y.astype(float), rng)
    here = model.pack(theta)

    def objective(vector):
        return em_pass(model, model.unpack(vector, theta), batch)["log_likelihood"]

    def score(vector):
        point = model.unpack(vector, theta)
        return model.score(point, em_pass(model, point, batch))

    assert len(here) == model.n_params(theta)
    found = score(here)
    # second-order differences with a step of 1e-4: 1e-8 of third derivatives
    assert_allclose(numeric_gradient(objective, here), found, atol=1e-6 * np.abs(found).max())
    right = -numeric_gradient(score, here)
    information = observed_information(model, theta, batch)["information"]
    assert_allclose(information, right, atol=1e-6 * np.abs(right).max())


def test_a_response_is_impossible_only_if_it_is_for_all(data):
    x, y = data
    y = np.where(np.arange(N) % 50 == 0, -5.0, y)
    est = fitted(x, y, [Gaussian(), Gamma()])
    resp = est.responsibilities(x, y)
    assert (resp[y < 0.0, 1] == 0.0).all()
    with pytest.raises(InvalidResponseError, match=r"row 0 of y holds -5.*gamma"):
        fitted(x, y, [Gamma(), Gamma()])
    with pytest.raises(InvalidResponseError, match=r"expert 2 \(gamma\); leave it out"):
        fitted(x, -np.abs(y), [Gaussian(), Gamma()])
    with pytest.raises(InvalidResponseError, match="NaN"):
        Mixed([Gaussian(), Gamma()]).check_response(np.array([1.0, np.nan]))


def spiked(rng, n=400):
    x = rng.standard_normal((n, 1))
    zero = rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))
    return x, np.where(zero, 0.0, 5.0 + x[:, 0] + rng.standard_normal(n)), zero


def test_a_spike_takes_the_values_that_it_holds(spike):
    x, y, zero = spiked(np.random.default_rng(5))
    est = fitted(x, y, Mixed([spike, Gaussian()]))
    assert_allclose(est.responsibilities(x, y), np.column_stack([zero, ~zero]), atol=0)
    # A two-part model: least squares of the rest, and a logistic regression of being zero.
    own = np.polyfit(x[~zero, 0], y[~zero], 1)
    assert_allclose([est.coef_[1, 0], est.intercept_[1]], own, rtol=1e-8)
    residual = y[~zero] - np.polyval(own, x[~zero, 0])
    scale = np.sqrt(np.mean(residual**2))
    import statsmodels.api as sm

    logit = sm.Logit(zero.astype(float), sm.add_constant(x)).fit(disp=0)
    parts = logit.llf + stats.norm.logpdf(residual, scale=scale).sum()
    assert est.log_likelihood_ == pytest.approx(parts, abs=1e-7)
    assert est.n_parameters_ == 2 + 3
    assert np.isnan([est.coef_[0, 0], est.intercept_[0], est.scale_[0]]).all()


def test_predictions_with_an_atom(spike):
    x, y, _ = spiked(np.random.default_rng(5))
    est = fitted(x, y, Mixed([spike, Gaussian()]))
    rows = x[:3]
    predictive = est.predictive(rows)
    weight = est.gate_proba(rows)
    mean, scale = est.predict_experts(rows)[:, 1], est.scale_[1]
    assert_allclose(predictive.logpdf(0.0), np.log(weight[:, 0]))
    assert_allclose(predictive.pdf(2.0), weight[:, 1] * stats.norm.pdf(2.0, mean, scale))
    below, above = (predictive.cdf(value) for value in (-1e-9, 0.0))
    assert_allclose(above - below, weight[:, 0], atol=1e-6)
    for q in (0.001, 0.1, 0.5, 0.9, 0.999):
        quantile = predictive.ppf(q)
        assert (predictive.cdf(quantile) >= q - 1e-12).all()
        # just below it the probability is smaller, also where the quantile is the atom
        assert (predictive.cdf(np.nextafter(quantile, -np.inf)) <= q + 1e-12).all()
    drawn = predictive.sample(20_000, random_state=0)
    share = (drawn == 0.0).mean(axis=0)
    assert_allclose(share, weight[:, 0], atol=4.5 * 0.5 / math.sqrt(20_000))
    for refused in (predictive.hdr, predictive.mode):
        with pytest.raises(UnsupportedCombinationError, match="probability of their own"):
            refused()
    assert (predictive.interval(0.9)[0] <= predictive.median()).all()


def test_a_uniform_expert_takes_gross_outliers():
    """Five percent of them: coefficients move by less than two standard errors."""
    rng = np.random.default_rng(12)
    x = rng.standard_normal((N, 1))
    clean = np.where(rng.random(N) < 0.5, 2.0 + 3.0 * x[:, 0], -2.0 - x[:, 0])
    clean = clean + 0.5 * rng.standard_normal(N)
    out = rng.random(N) < 0.05
    y = np.where(out, rng.uniform(-60.0, 60.0, N), clean)
    plain = mx.MoERegressor(2, gate="constant", random_state=0, n_init=4).fit(x[~out], clean[~out])
    family = [Gaussian(), Gaussian(), "uniform"]
    options = {"gate": "constant", "random_state": 0, "n_init": 8}
    est = mx.MoERegressor(3, expert=family, **options).fit(x, y)
    error = 0.5 / np.sqrt(0.475 * N)
    assert np.abs(est.coef_[:2, 0] - plain.coef_[:, 0]).max() < 2.0 * error
    assert np.abs(est.intercept_[:2] - plain.intercept_).max() < 2.0 * error
    assert est.mass_[2] == pytest.approx(out.sum(), abs=6.0)
    assert est.n_parameters_ == 2 * 3 + 2
    far = out & (np.abs(y) > 20.0)
    assert (est.responsibilities(x, y)[far, 2] > 0.999).all()


def test_counts_beside_densities_own_the_integers():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 1))
    count = rng.random(300) < 0.5
    y = np.where(count, rng.poisson(4.0, 300), 3.0 + rng.standard_normal(300))
    est = fitted(x, y, [Poisson(), Gaussian()])
    assert_allclose(est.responsibilities(x, y)[:, 0], count, atol=0)
    alone = mx.MoERegressor(1, expert="poisson").fit(x[count], y[count])
    assert_allclose(est.coef_[0], alone.coef_[0], rtol=1e-5)


def test_weights_are_repeated_rows_and_chunks_do_not_matter(data):
    x, y = data
    weight = 1 + np.arange(N) % 2
    family = [Gaussian(), Gamma()]
    est = fitted(x, y, family)
    weighted = mx.MoERegressor(2, expert=family, init=est, random_state=0)
    twice = clone(weighted).set_params(init=est)
    weighted.fit(x, y, sample_weight=weight)
    twice.fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    assert weighted.log_likelihood_ == pytest.approx(twice.log_likelihood_, abs=1e-6)
    assert_allclose(weighted.coef_, twice.coef_, rtol=1e-5, atol=1e-6)
    chunked = fitted(x, y, family, chunk_rows=100)
    assert chunked.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=1e-6)


def test_tables_files_copies(data, tmp_path):
    x, y = data
    frame = pd.DataFrame(x, columns=["a", "b"]).assign(y=y)
    res = mx.moe("y ~ a + b | a", data=frame, family=[Gaussian(), "gamma"], n_init=4)
    assert not res.params.isna().any()
    assert ("expert", 2, "scale") not in res.params.index
    assert len(res.params) == res.df_model
    assert "gaussian, " in str(res.summary())
    assert "nan" not in str(res.summary()).lower()
    res.save(tmp_path / "mixed.mxp")
    for back in (mx.load(tmp_path / "mixed.mxp"), pickle.loads(pickle.dumps(res))):
        assert_allclose(back.predict(frame), res.predict(frame))
    est = mx.MoERegressor(2, expert=[Gaussian(), "gamma"])
    assert clone(est).get_params()["expert"] == [Gaussian(), "gamma"]
    again = fitted(x, y, [Gaussian(), "gamma"], init=fitted(x, y, [Gaussian(), "gamma"]))
    assert again.n_iter_ <= 3
    labels = (y < 900.0).astype(int)
    assert fitted(x, y, [Gaussian(), "gamma"], init=labels).converged_


def test_offsets_are_those_of_each_family():
    rng = np.random.default_rng(11)
    x, offset = rng.standard_normal((N, 1)), rng.uniform(-1.0, 1.0, N)
    first = rng.random(N) < 0.5
    mean = np.exp(1.0 + 0.5 * x[:, 0] + offset)
    y = np.where(first, 40.0 + x[:, 0] + offset, rng.gamma(5.0, mean / 5.0))
    y += first * 0.3 * rng.standard_normal(N)
    est = mx.MoERegressor(
        2, expert=[Gaussian(), Gamma()], gate="constant", random_state=0, n_init=4
    ).fit(x, y, offset=offset)
    assert est.intercept_[0] == pytest.approx(40.0, abs=0.1)
    assert est.intercept_[1] == pytest.approx(1.0, abs=0.15)
    means = est.predict_experts(x, offset=offset)
    assert_allclose(
        np.log(means[:, 1]), est.intercept_[1] + est.coef_[1, 0] * x[:, 0] + offset, rtol=1e-9
    )


def test_predictive_of_counts_with_trials():
    rng = np.random.default_rng(0)
    family = Mixed([Binomial(), Binomial()])
    X = np.column_stack([np.ones(5), rng.standard_normal(5)])
    batch = Batch(
        np.column_stack([np.zeros(5), np.full(5, 9.0)]), {"mean": X}, np.empty((5, 0)), np.ones(5)
    )
    params = {"coef": np.array([[0.0, 1.0], [1.0, -1.0]])}
    predictive = Predictive(family, params, batch, np.full((5, 2), math.log(0.5)))
    known = Predictive(Binomial(), params, batch, np.full((5, 2), math.log(0.5)))
    assert_allclose(predictive.pdf(np.arange(10.0)[None]), known.pdf(np.arange(10.0)[None]))
    assert_allclose(predictive.ppf(0.7), known.ppf(0.7))
    assert predictive.hdr(0.5) == known.hdr(0.5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Mixed([]), ValueError, "experts is empty"),
        (lambda: Mixed(["gausian"]), ValueError, r"experts\[0\]='gausian'.*did you mean"),
        (lambda: Mixed([Gaussian(), Mixed([Gaussian()])]), TypeError, r"experts\[1\] is itself"),
        (lambda: Mixed([Gaussian(shared_scale=True)]), ValueError, "shared_scale=True"),
        (lambda: Mixed([Gaussian(degree=2), Gamma()]), ValueError, "different degree"),
        (
            lambda: Mixed([Gaussian(fit_intercept=False), Gamma()]),
            ValueError,
            "different fit_intercept",
        ),
        (lambda: mx.MoERegressor(expert=[]).fit([[1.0]], [1.0]), ValueError, "experts is empty"),
    ],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_number_of_experts_must_be_that_of_the_families(data):
    with pytest.raises(ValueError, match=r"n_experts=3.*2 families \(gaussian, gamma\)"):
        mx.MoERegressor(3, expert=[Gaussian(), Gamma()]).fit(*data)
    with pytest.raises(UnsupportedCombinationError, match="cannot be tied"):
        Tied(Mixed([Gaussian()]))


def test_an_expert_per_place_has_the_intercepts_of_the_formula(data):
    mixed = Mixed([Gaussian(), Gamma()]).with_intercept(False)
    assert [one.fit_intercept for one in mixed.experts] == [False, False]
    assert dataclasses.replace(mixed) == mixed
