"""Zero-inflated and hurdle experts and point masses: known answers, derivatives, bad input."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, optimize, stats

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model
from mixexperts.em.information import observed_information
from mixexperts.em.model import em_pass
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts import (
    Binomial,
    Gamma,
    Gaussian,
    Hurdle,
    PointMass,
    Poisson,
    ZeroInflated,
)
from mixexperts.gates import Softmax
from mixexperts.penalties import NoPenalty

FORMULA = "art ~ C(fem) + C(mar) + kid5 + phd + ment"


@pytest.fixture(scope="module")
def articles():
    df = mx.datasets.load_biochemists()
    X = np.column_stack(
        [
            df["fem"] == "Women",
            df["mar"] == "Married",
            df["kid5"],
            df["phd"],
            df["ment"],
        ]
    ).astype(float)
    return df, X, df["art"].to_numpy(dtype=float)


def test_one_inflated_expert_is_the_zero_inflated_poisson_of_statsmodels(articles):
    from statsmodels.discrete.count_model import ZeroInflatedPoisson

    df, X, y = articles
    res = mx.moe(FORMULA, df, n_experts=1, family=ZeroInflated(Poisson()), backend="numpy")
    design = np.column_stack([np.ones(len(y)), X])
    peer = ZeroInflatedPoisson(y, design, exog_infl=np.ones((len(y), 1)))
    peer = peer.fit(method="bfgs", maxiter=500, gtol=1e-8, disp=0)
    assert res.llf == pytest.approx(peer.llf, abs=1e-5)
    share = res.estimator.inflation_[0]
    assert np.log(share / (1.0 - share)) == pytest.approx(peer.params[0], abs=1e-3)
    assert_allclose(res.estimator.coef_[0], peer.params[2:], atol=1e-3)
    assert res.df_model == 7


def test_a_hurdle_is_a_share_of_zeros_and_a_truncated_fit(articles):
    """Direct maximisation of the zero-truncated part; zero or not is a share."""
    df, X, y = articles
    res = mx.moe(FORMULA, df, n_experts=1, family=Hurdle(Poisson()), backend="numpy")
    design = np.column_stack([np.ones(len(y)), (X - X.mean(axis=0)) / X.std(axis=0)])[y > 0]

    def loss(coef):
        mean = np.exp(design @ coef)
        return -(stats.poisson.logpmf(y[y > 0], mean) - np.log(-np.expm1(-mean))).sum()

    best = optimize.minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-7})
    zero = np.mean(y == 0)
    zeros = len(y) * (zero * np.log(zero) + (1 - zero) * np.log(1 - zero))
    assert res.llf == pytest.approx(zeros - best.fun, abs=1e-6)
    assert res.estimator.zero_probability_[0] == pytest.approx(zero, abs=1e-8)
    assert_allclose(res.estimator.coef_[0] * X.std(axis=0), best.x[1:], atol=1e-4)


class _Beside:
    """A point mass and Poisson counts as two experts, for the numbers of pscl's zeroinfl."""

    def __init__(self):
        self.mass, self.counts = PointMass(), Poisson()

    def joint(self, gate, coef, batch):
        other = self.mass.log_prob({"value": np.zeros(1)}, batch)
        counts = self.counts.log_prob({"coef": coef}, batch)
        return Softmax().log_prob({"coef": gate}, batch) + np.hstack([other, counts])


def test_point_mass_with_a_softmax_gate_is_zeroinfl(articles):
    """EM of the two experts: -1604.773 in Zeileis, Kleiber and Jackman (2008)."""
    _, X, y = articles
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    design = np.column_stack([np.ones(len(y)), X])
    batch = Batch(y, {"mean": design}, design, np.ones(len(y)))
    gate, coef = np.zeros((2, 6)), np.zeros((1, 6))
    gate[0, 0], coef[0, 0] = -1.0, np.log(y.mean())
    both, softmax = _Beside(), Softmax()
    values = []
    for _ in range(600):
        joint = both.joint(gate, coef, batch)
        values.append(np.logaddexp.reduce(joint, axis=1).sum())
        resp = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
        params = {"coef": gate}
        gate = softmax.update(params, softmax.accumulate(params, batch, resp), NoPenalty())["coef"]
        sums = both.counts.accumulate({"coef": coef}, batch, resp[:, 1:])
        coef = both.counts.update({"coef": coef}, sums, NoPenalty())["coef"]
    assert np.diff(values).min() > -1e-9
    assert values[-1] == pytest.approx(-1604.773, abs=2e-3)


def two_part(rng, n):
    x = rng.standard_normal(n)
    y = rng.gamma(2.0, np.exp(0.5 + 0.8 * x) / 2.0)
    return x, np.where(rng.random(n) < 0.3, 0.0, y)


def test_amounts_with_zeros_are_a_two_part_model():
    x, y = two_part(np.random.default_rng(0), 400)
    fits = {}
    for expert in (ZeroInflated(Gamma()), Hurdle(Gamma())):
        est = mx.MoERegressor(1, gate="constant", expert=expert, backend="numpy")
        fits[expert.name] = est.fit(x[:, None], y)
    alone = mx.MoERegressor(1, gate="constant", expert=Gamma(), backend="numpy")
    alone.fit(x[y > 0, None], y[y > 0])
    zero = np.mean(y == 0)
    zeros = len(y) * (zero * np.log(zero) + (1 - zero) * np.log(1 - zero))
    for est in fits.values():
        assert est.log_likelihood_ == pytest.approx(alone.log_likelihood_ + zeros, abs=1e-6)
        assert_allclose(est.coef_, alone.coef_, atol=1e-5)
        assert_allclose(est.predict(x[:, None]), (1 - zero) * alone.predict(x[:, None]), rtol=1e-4)


def test_quantiles_and_draws_have_the_mass_at_zero():
    rng = np.random.default_rng(1)
    x, y = two_part(rng, 300)
    expert = ZeroInflated(Gamma())
    est = mx.MoERegressor(1, gate="constant", expert=expert, backend="numpy").fit(x[:, None], y)
    law, share = est.predictive(x[:5, None]), est.inflation_[0]
    assert_allclose(law.cdf(0.0), share, rtol=1e-12)
    assert_allclose(law.sf(0.0), 1.0 - share, rtol=1e-12)
    assert_allclose(law.cdf(-1.0), 0.0)
    assert (law.ppf(0.9 * share) == 0.0).all()
    q = law.ppf(0.8)
    assert_allclose(law.cdf(q), 0.8, rtol=1e-9)
    drawn = law.sample(4000, random_state=0)
    assert abs((drawn == 0.0).mean() - share) < 4.5 * np.sqrt(share * (1 - share) / drawn.size)
    # the variance by quadrature of the continuous part
    mean = est.predict_experts(x[:1, None])[0, 0] / (1 - share)
    inner = stats.gamma(est.shape_[0], scale=mean / est.shape_[0])
    second = (1 - share) * integrate.quad(lambda t: t * t * inner.pdf(t), 0, np.inf)[0]
    assert law.var()[0] == pytest.approx(second - ((1 - share) * mean) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("expert", "draw"),
    [
        (ZeroInflated(Poisson()), lambda r, n: r.poisson(2.0, n) * (r.random(n) < 0.7)),
        (Hurdle(Poisson()), lambda r, n: r.poisson(2.0, n) * (r.random(n) < 0.7)),
        (ZeroInflated(Gamma()), lambda r, n: two_part(r, n)[1]),
        (Hurdle(Gamma(shared_shape=True)), lambda r, n: two_part(r, n)[1]),
    ],
)
def test_score_and_information_are_derivatives(expert, draw):
    rng = np.random.default_rng(2)
    n = 40
    x, y = rng.standard_normal(n), draw(rng, n).astype(float)
    design = np.column_stack([np.ones(n), x])
    batch = Batch(y, {"mean": design}, design, rng.uniform(0.5, 2.0, n))
    model = Model(Softmax(), expert)
    resp = 0.8 * np.eye(2)[(x > 0).astype(int)] + 0.1
    theta = Theta(model.gate.init_params(batch, resp, rng), expert.init_params(batch, resp, rng))
    at = model.pack(theta) + 0.1 * rng.standard_normal(model.pack(theta).shape)
    theta = model.unpack(at, theta)

    def score(v):
        point = model.unpack(v, theta)
        return model.score(point, em_pass(model, point, batch))

    def value(v):
        return em_pass(model, model.unpack(v, theta), batch)["log_likelihood"]

    unit = np.eye(len(at))
    numeric = [(value(at + 1e-5 * e) - value(at - 1e-5 * e)) / 2e-5 for e in unit]
    assert_allclose(score(at), numeric, rtol=0, atol=1e-6 * np.abs(numeric).max())
    columns = [(score(at - 1e-5 * e) - score(at + 1e-5 * e)) / 2e-5 for e in unit]
    found = observed_information(model, theta, batch)["information"]
    assert_allclose(found, np.stack(columns, axis=1), rtol=0, atol=1e-6 * np.abs(found).max())


def test_two_inflated_experts_come_back():
    rng = np.random.default_rng(3)
    n = 4000
    x = rng.uniform(-2.0, 2.0, n)
    first = rng.random(n) < 1.0 / (1.0 + np.exp(-3.0 * x))
    mean = np.exp(np.where(first, 2.5 + 0.3 * x, 1.0 - 0.5 * x))
    y = rng.poisson(mean) * (rng.random(n) > np.where(first, 0.4, 0.1))
    est = mx.MoERegressor(2, expert=ZeroInflated(), backend="numpy", n_init=3, random_state=0)
    est.fit(x[:, None], y)
    order = np.argsort(est.intercept_)
    assert_allclose(est.intercept_[order], [1.0, 2.5], atol=0.08)
    assert_allclose(est.coef_[order, 0], [-0.5, 0.3], atol=0.08)
    assert_allclose(est.inflation_[order], [0.1, 0.4], atol=0.05)
    restored = mx.MoERegressor(2, expert=ZeroInflated(), backend="numpy", init=est)
    assert restored.fit(x[:, None], y).log_likelihood_ == pytest.approx(
        est.log_likelihood_, abs=1e-6
    )


def test_saved_fits_predict_the_same(tmp_path):
    x, y = two_part(np.random.default_rng(4), 100)
    est = mx.MoERegressor(1, gate="constant", expert=Hurdle(Gamma()), backend="numpy")
    est.fit(x[:, None], y).save(tmp_path / "fit.mxp")
    again = mx.load(tmp_path / "fit.mxp")
    assert again.expert == Hurdle(Gamma())
    assert_allclose(again.predict(x[:, None]), est.predict(x[:, None]), rtol=0)


def test_a_point_mass_is_all_at_its_value():
    one = np.ones((3, 1))
    batch = Batch(np.array([0.0, 2.0, 2.5]), {"mean": one}, one, np.ones(3))
    expert = PointMass(2.0)
    params = expert.init_params(batch, np.ones((3, 2)), np.random.default_rng(0))
    assert_allclose(expert.log_prob(params, batch)[:, 0], [-np.inf, 0.0, -np.inf])
    assert_allclose(expert.cdf(params, batch)[:, 1], [0.0, 1.0, 1.0])
    assert_allclose(expert.sf(params, batch)[:, 1], [1.0, 0.0, 0.0])
    assert_allclose(expert.mean(params, batch), 2.0)
    assert_allclose(expert.variance(params, batch), 0.0)
    assert expert.n_params(params) == 0
    assert (expert.sample(params, batch, np.zeros(3, dtype=int), None) == 2.0).all()
    assert dataclasses.replace(expert, value=0.0) == PointMass()


def test_bad_input_is_refused():
    with pytest.raises(InvalidResponseError, match="numbers >= 0 as y; row 1 holds -2"):
        ZeroInflated(Gamma()).check_response(np.array([0.0, -2.0]))
    with pytest.raises(InvalidResponseError, match=r"row 1 holds 0\.5"):
        Hurdle().check_response(np.array([0.0, 0.5]))
    with pytest.raises(InvalidResponseError, match="need responses that are not zero; all 3 rows"):
        ZeroInflated().check_response(np.zeros(3))
    for family in (Gaussian(), Binomial(), ZeroInflated()):
        with pytest.raises(UnsupportedCombinationError, match="Hurdle cannot wrap"):
            Hurdle(family)
    with pytest.raises(TypeError, match="expert of ZeroInflated must be an instance of a family"):
        ZeroInflated("poisson")
    with pytest.raises(ValueError, match="value must be finite"):
        PointMass(np.inf)
