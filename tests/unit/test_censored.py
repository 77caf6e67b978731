"""Censored and truncated experts: moments, ascent, known answers, and bad input."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, optimize, stats

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, fit_em
from mixexperts.em.information import observed_information
from mixexperts.em.model import em_pass
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts import Binomial, Censored, Gamma, Gaussian, Poisson, Truncated
from mixexperts.experts._adapters import LinearGaussian, LinearPoisson
from mixexperts.experts._interval import log_between
from mixexperts.experts._window import normal_moments, window_moments, window_quantile
from mixexperts.gates import Gaussian as GaussianGate
from mixexperts.gates import Softmax

INF = np.inf


def two_lines(seed, n=1500):
    """Two crossing lines, of which the first is likelier to the right."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.0, 1.0, n)
    first = rng.random(n) < 1.0 / (1.0 + np.exp(-4.0 * x))
    noise = rng.standard_normal(n)
    return x, np.where(first, 1.0 + 1.5 * x + 0.3 * noise, -1.5 * x + 0.5 * noise)


START = Theta(
    {"coef": np.array([[0.3, 2.0], [0.0, 0.0]])},
    {"coef": np.array([[0.7, 1.0], [0.3, -1.0]]), "scale": np.array([0.5, 0.5])},
)


def batch_of(x, y, weight=None):
    design = np.column_stack([np.ones(len(x)), x])
    return Batch(y, {"mean": design}, design, np.ones(len(x)) if weight is None else weight)


def path(model, batch, theta, passes):
    found = [theta]
    for _ in range(passes):
        found.append(model.map_step(found[-1], em_pass(model, found[-1], batch)))
    return found


# --- numerics ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-8, -7),
        (-8, 8),
        (-1, 0.5),
        (0.2, 3),
        (6, 8),
        (-INF, -7),
        (7.5, INF),
        (-INF, 1),
        (-0.01, 0.01),
    ],
)
def test_truncated_normal_moments_are_those_of_quadrature(low, high):
    first, second = normal_moments(np.array([float(low)]), np.array([float(high)]))
    a, b = max(low, -12.0), min(high, 12.0)
    shift = min(abs(a), abs(b)) ** 2 / 2.0 if a * b > 0 else 0.0

    def moment(power):
        return integrate.quad(
            lambda z: z**power * np.exp(shift - z * z / 2.0),
            a,
            b,
            epsabs=1e-13,
            epsrel=1e-12,
            limit=400,
        )[0]

    mass = moment(0)
    assert first[0] == pytest.approx(moment(1) / mass, abs=1e-8)
    assert second[0] == pytest.approx(moment(2) / mass, abs=1e-8)


def test_moments_and_log_probabilities_stay_finite_far_out():
    grid = np.array([(a, b) for a in range(-30, 31, 3) for b in range(-30, 31, 3) if a < b] + [
        (30, INF), (-INF, -30), (-INF, 30), (29.999, 30.0)
    ], dtype=float)  # fmt: skip
    first, second = normal_moments(*grid.T)
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    inside = (first >= grid[:, 0]) & (first <= grid[:, 1])
    assert inside.all()
    one = np.ones(len(grid))
    log_p = log_between(LinearGaussian(), *grid.T, 0.0 * one, {"scale": one})
    assert np.isfinite(log_p).all()
    # the tail beyond 30 by its asymptotic series
    tail = (
        -450.0
        - math.log(30.0 * math.sqrt(2.0 * math.pi))
        + math.log1p(-1 / 30**2 + 3 / 30**4 - 15 / 30**6 + 105 / 30**8)
    )
    assert log_between(
        LinearGaussian(), np.array([30.0]), np.array([INF]), np.zeros(1), {"scale": np.ones(1)}
    )[0] == pytest.approx(tail, abs=1e-9)


def test_narrow_intervals_are_density_times_width():
    width = 10.0 ** -np.arange(1.0, 13.0)
    low = np.full(len(width), 1.3)
    scale = {"scale": np.ones(len(width))}
    found = log_between(LinearGaussian(), low, low + width, np.zeros(len(width)), scale)
    actual = (low + width) - low
    middle = stats.norm.logpdf(low + 0.5 * actual) + np.log(actual)
    # the middle is wrong by about width^2 (1.3^2 - 1) / 24, differences of tails by eps / width
    assert (np.abs(found - middle) <= 1e-10 + 0.04 * width**2).all()


@pytest.mark.parametrize("window", [(0.5, INF), (-INF, 2.0), (0.5, 4.0), (9.0, INF), (3.0, 3.1)])
def test_moments_and_quantiles_in_a_window_are_those_of_quadrature(window):
    low, high = (np.array([end]) for end in window)
    eta, shapes = np.array([0.3]), {"shape": np.array([2.5])}
    law = stats.gamma(2.5, scale=math.exp(0.3) / 2.5)
    low_p, chance = law.cdf(max(window[0], 0.0)), law.cdf(window[1]) - law.cdf(max(window[0], 0.0))
    a, b = max(window[0], 0.0), min(window[1], window[0] + 30.0 if window[0] > 0 else 60.0)
    chance = integrate.quad(law.pdf, a, b, epsrel=1e-12)[0]
    mean = integrate.quad(lambda y: y * law.pdf(y), a, b, epsrel=1e-12)[0] / chance
    square = integrate.quad(lambda y: (y - mean) ** 2 * law.pdf(y), a, b, epsrel=1e-12)[0] / chance
    found = window_moments(Gamma(), low, high, eta, shapes)
    assert found[0][0] == pytest.approx(mean, rel=1e-7)
    assert found[1][0] == pytest.approx(square, rel=1e-6)
    for p in (1e-6, 0.3, 0.9):
        q = window_quantile(Gamma(), np.array([p]), low, high, eta, shapes)
        assert (law.cdf(q[0]) - low_p) / chance == pytest.approx(p, rel=1e-5)


def test_zero_truncated_poisson_has_its_known_moments():
    mean = np.array([0.05, 1.0, 8.0])
    low, high = np.zeros(3), np.full(3, INF)
    first, variance = window_moments(LinearPoisson(), low, high, np.log(mean), {})
    known = mean / -np.expm1(-mean)
    assert_allclose(first, known, rtol=1e-12)
    assert_allclose(variance, known * (1.0 + mean - known), rtol=1e-10)


# --- the criteria of the specification --------------------------------------------------------


def test_exact_rows_follow_the_path_of_the_gaussian():
    x, y = two_lines(0, 400)
    plain = path(Model(Softmax(), Gaussian()), batch_of(x, y), START, 30)
    for expert, response in (
        (Censored(), y), (Censored(), np.column_stack([y, y])), (Truncated(), y),
    ):  # fmt: skip
        same = path(Model(Softmax(), expert), batch_of(x, response), START, 30)
        for left, right in zip(plain, same, strict=True):
            for name, values in left.expert.items():
                assert_allclose(right.expert[name], values, rtol=1e-10, atol=1e-10)
            assert_allclose(right.gate["coef"], left.gate["coef"], rtol=1e-10, atol=1e-10)


def seen(kind, x, y):
    """The rows that are seen, in the form in which they are."""
    if kind == "complete":
        return x, np.column_stack([y, y]), Censored()
    if kind == "right":
        return x, np.column_stack([np.minimum(y, 1.5), np.where(y > 1.5, INF, y)]), Censored()
    if kind == "interval":
        return x, np.column_stack([np.floor(y), np.floor(y) + 1.0]), Censored()
    keep = y > 0.0
    return x[keep], y[keep], Truncated(lower=0.0, of=kind)


@pytest.mark.parametrize("kind", ["complete", "right", "interval", "population"])
def test_plain_em_never_lowers_the_likelihood(kind):
    x, y, expert = seen(kind, *two_lines(1, 500))
    model, batch = Model(Softmax(), expert), batch_of(x, y)
    values = [em_pass(model, t, batch)["log_likelihood"] for t in path(model, batch, START, 60)]
    assert np.diff(values).min() >= -1e-8 * abs(values[0])
    assert values[-1] > values[0] + 10.0


@pytest.mark.parametrize("kind", ["right", "interval", "population", "expert"])
def test_gradient_is_gone_at_convergence(kind):
    x, y, expert = seen(kind, *two_lines(2, 700))
    model, batch = Model(Softmax(), expert), batch_of(x, y)
    result = fit_em(model, batch, START, backend="numpy")
    assert result.status == "converged"
    at = model.pack(result.theta)

    def value(v):
        return em_pass(model, model.unpack(v, result.theta), batch)["log_likelihood"]

    gradient = optimize.approx_fprime(at, value, 1e-6)
    assert np.abs(gradient).max() < 1e-4 * len(x)
    slow = fit_em(model, batch, START, backend="numpy", newton=False)
    assert slow.log_likelihood == pytest.approx(result.log_likelihood, abs=1e-5)


def fitted(kind, seed, n=1500):
    x, y, expert = seen(kind, *two_lines(seed, n))
    result = fit_em(Model(Softmax(), expert), batch_of(x, y), START, backend="numpy")
    assert result.status == "converged"
    return result.theta


TRUTH = np.array([[1.0, 1.5], [0.0, -1.5]])


@pytest.mark.parametrize(
    ("kind", "replicates", "bound"),
    [
        ("right", 3, 0.05), ("population", 3, 0.08),
        pytest.param("right", 20, 0.05, marks=pytest.mark.slow),
        pytest.param("population", 20, 0.08, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_coefficients_come_back(kind, replicates, bound):
    thetas = [fitted(kind, seed) for seed in range(replicates)]
    coef = np.mean([theta.expert["coef"] for theta in thetas], axis=0)
    assert np.abs(coef - TRUTH).max() < bound
    slope = np.mean([theta.gate["coef"][0, 1] for theta in thetas])
    assert abs(slope - 4.0) < 0.5


def test_taking_censored_values_as_exact_collapses_on_them():
    x, y, _ = seen("right", *two_lines(3))
    model = Model(Softmax(), Gaussian())
    result = fit_em(model, batch_of(x, y[:, 0]), START, backend="numpy")
    assert result.status == "degenerate" or np.abs(result.theta.expert["coef"] - TRUTH).max() > 0.2


@pytest.mark.parametrize("seeds", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_ignoring_truncation_predicts_the_population_worse(seeds):
    wins = 0
    for seed in range(seeds):
        x, y, _ = seen("population", *two_lines(seed, 800))
        model = Model(Softmax(), Gaussian())
        naive = fit_em(model, batch_of(x, y), START, backend="numpy").theta
        aware = fitted("population", seed, 800)
        new = batch_of(*two_lines(1000 + seed, 2000))
        value = [em_pass(model, theta, new)["log_likelihood"] for theta in (naive, aware)]
        wins += value[1] > value[0]
    assert wins >= 0.9 * seeds


def test_one_expert_is_the_tobit_of_direct_maximisation():
    rng = np.random.default_rng(4)
    x = rng.standard_normal(300)
    latent = 0.5 + 1.2 * x + 0.8 * rng.standard_normal(300)
    y = np.column_stack([np.where(latent > 0.0, latent, -INF), np.maximum(latent, 0.0)])

    def loss(v):
        m, s = v[0] + v[1] * x, math.exp(v[2])
        exact = latent > 0.0
        return -(stats.norm.logpdf(latent[exact], m[exact], s).sum()
                 + stats.norm.logcdf(0.0, m[~exact], s).sum())  # fmt: skip

    best = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    est = mx.MoERegressor(n_experts=1, expert=Censored(), gate="constant", backend="numpy")
    est.fit(x[:, None], y)
    assert est.log_likelihood_ == pytest.approx(-best.fun, abs=1e-7)
    assert_allclose([est.intercept_[0], est.coef_[0, 0]], best.x[:2], atol=1e-5)
    assert est.scale_[0] == pytest.approx(math.exp(best.x[2]), abs=1e-5)
    assert est.score_samples(x[:, None], y).sum() == pytest.approx(est.log_likelihood_, rel=1e-12)


@pytest.mark.parametrize("of", ["population", "expert"])
def test_one_expert_is_the_truncated_regression_of_direct_maximisation(of):
    rng = np.random.default_rng(5)
    x = rng.standard_normal(600)
    y = 0.5 + 1.2 * x + 0.8 * rng.standard_normal(600)
    x, y = x[y > 0.0], y[y > 0.0]

    def loss(v):
        m, s = v[0] + v[1] * x, math.exp(v[2])
        return -(stats.norm.logpdf(y, m, s) - stats.norm.logsf(0.0, m, s)).sum()

    best = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    expert = Truncated(Gaussian(), lower=0.0, of=of)
    est = mx.MoERegressor(n_experts=1, expert=expert, gate="constant", backend="numpy")
    est.fit(x[:, None], y)
    assert est.log_likelihood_ == pytest.approx(-best.fun, abs=1e-6)
    assert_allclose([est.intercept_[0], est.coef_[0, 0]], best.x[:2], atol=2e-5)
    mean = est.predict(x[:, None])
    if of == "population":
        assert_allclose(mean, est.intercept_[0] + est.coef_[0, 0] * x, rtol=1e-12)
    else:
        assert (mean > 0.0).all()
        density = est.predictive(x[:, None]).logpdf(y)
        assert_allclose(est.score_samples(x[:, None], y), density, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_error_falls_at_the_parametric_rate():
    """Two normals of known scale, of which values above one are only known to be so."""
    sizes, errors = [500, 2000, 8000, 32000], []
    for n in sizes:
        found = []
        for seed in range(12):
            rng = np.random.default_rng([n, seed])
            y = rng.choice([-2.0, 2.0], n) + rng.standard_normal(n)
            y = np.column_stack([np.minimum(y, 1.0), np.where(y > 1.0, INF, y)])
            one = np.ones((n, 1))
            batch = Batch(y, {"mean": one}, one, np.ones(n))
            theta = Theta(
                {"coef": np.zeros((2, 1))},
                {"coef": np.array([[-1.5], [1.5]]), "scale": np.ones(2)},
            )
            found.append(fit_em(Model(Softmax(), Censored()), batch, theta).theta.expert["coef"])
        errors.append(np.sqrt(np.mean((np.array(found)[:, :, 0] - [-2.0, 2.0]) ** 2)))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.62 < slope < -0.38


# --- other families ---------------------------------------------------------------------------


def bounds_around(y, width):
    kind = np.arange(len(y)) % 4
    lower = np.where(kind == 1, -INF, np.where(kind == 2, y - width, y))
    upper = np.where(kind == 1, y + width, np.where(kind == 2, y + width, y))
    return np.column_stack([lower, np.where(kind == 3, INF, upper)])


CASES = [
    (Censored(Gamma()), lambda r, n: bounds_around(r.gamma(2.0, size=n) + 1.0, 0.5)),
    (Censored(Poisson()), lambda r, n: bounds_around(r.poisson(4.0, n) + 2.0, 1.0)),
    (Censored(Gaussian(shared_scale=True)), lambda r, n: bounds_around(r.standard_normal(n), 0.5)),
    (Truncated(Gamma(), lower=0.1, upper=9.0), lambda r, n: r.uniform(0.2, 8.0, n)),
    (Truncated(Gamma(), lower=0.1, of="expert"), lambda r, n: r.uniform(0.2, 8.0, n)),
    (Truncated(Poisson(), lower=0.0), lambda r, n: r.poisson(3.0, n) + 1.0),
    (Truncated(Poisson(), lower=0.0, of="expert"), lambda r, n: r.poisson(3.0, n) + 1.0),
    (Truncated(Censored(Gamma()), lower=0.1),
     lambda r, n: np.maximum(bounds_around(r.gamma(2.0, size=n) + 1.0, 0.5), 0.1)),
]  # fmt: skip


@pytest.mark.parametrize(("expert", "draw"), CASES)
def test_score_and_information_are_derivatives(expert, draw):
    rng = np.random.default_rng(6)
    n = 40
    x = rng.standard_normal(n)
    y = draw(rng, n)
    expert.check_response(y)
    batch = batch_of(x, y, rng.uniform(0.5, 2.0, n))
    model = Model(Softmax(), expert)
    resp = 0.8 * np.eye(2)[(x > 0).astype(int)] + 0.1
    theta = Theta(
        model.gate.init_params(batch, resp, rng), model.expert.init_params(batch, resp, rng)
    )
    at = model.pack(theta) + 0.1 * rng.standard_normal(model.pack(theta).shape)
    theta = model.unpack(at, theta)

    def score(v):
        point = model.unpack(v, theta)
        return model.score(point, em_pass(model, point, batch))

    def value(v):
        return em_pass(model, model.unpack(v, theta), batch)["log_likelihood"]

    unit, h = np.eye(len(at)), 1e-3
    numeric = [
        (value(at - 2 * h * e) - 8 * value(at - h * e) + 8 * value(at + h * e)
         - value(at + 2 * h * e)) / (12 * h)
        for e in unit
    ]  # fmt: skip
    assert_allclose(score(at), numeric, rtol=0, atol=1e-7 * np.abs(numeric).max())
    columns = [(score(at - 1e-5 * e) - score(at + 1e-5 * e)) / 2e-5 for e in unit]
    found = observed_information(model, theta, batch)["information"]
    size = np.abs(found).max()
    assert_allclose(found, np.stack(columns, axis=1), rtol=0, atol=1e-6 * size)


def test_a_window_for_each_row_is_that_of_the_family_where_they_agree():
    x, y = two_lines(7, 200)
    x, y = x[y > 0.0], y[y > 0.0]
    wide = np.column_stack([y, np.zeros(len(y)), np.full(len(y), INF)])
    for of in ("population", "expert"):
        one = em_pass(Model(Softmax(), Truncated(lower=0.0, of=of)), START, batch_of(x, y))
        own = em_pass(Model(Softmax(), Truncated(of=of)), START, batch_of(x, wide))
        for name, value in one.items():
            assert_allclose(own[name], value, rtol=1e-12, atol=1e-12)


def test_units_of_the_response_do_not_matter():
    x, y, _ = seen("right", *two_lines(8, 300))
    fits = []
    for scale in (1.0, 1e-7, 1e6):
        est = mx.MoERegressor(2, expert=Censored(), backend="numpy", n_init=2, random_state=0)
        fits.append(est.fit(x[:, None], y * scale))
        exact = np.isfinite(y).all(axis=1).sum()
        llf = est.log_likelihood_ + exact * math.log(scale)
        assert llf == pytest.approx(fits[0].log_likelihood_, abs=1e-5)
        assert_allclose(est.coef_ / scale, fits[0].coef_, rtol=1e-3)


def test_formula_with_bounds_and_its_predictions():
    x, y, _ = seen("right", *two_lines(9, 300))
    df = pd.DataFrame({"x": x, "lower": y[:, 0], "upper": y[:, 1]})
    res = mx.moe("lower + upper ~ x | x", df, n_experts=2, family=Censored(), n_init=2,
                 backend="numpy")  # fmt: skip
    law = res.predictive(df)
    assert_allclose(law.mean(), res.predict(df), rtol=1e-12)
    assert (law.ppf(0.99) > 1.5).any()  # of the response itself, beyond the limit
    assert np.isfinite(res.posterior(df).to_numpy()).all()
    with pytest.raises(UnsupportedCombinationError, match="R squared needs exact responses"):
        res.estimator.score(x[:, None], y)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2.0, 1.0), "row 3 holds .2, 1.: give the lower bound first"),
        ((-INF, INF), "row 3 holds .-inf, inf.: drop rows of which nothing is known"),
        ((np.nan, 1.0), "row 3 holds .nan, 1.: give -inf or inf"),
    ],
)
def test_bounds_that_cannot_be_are_refused_with_their_row(row, message):
    y = np.column_stack([np.arange(6.0), np.arange(6.0) + 1.0])
    y[3] = row
    with pytest.raises(InvalidResponseError, match=message):
        Censored().check_response(y)
    if not np.isnan(row).any():
        with pytest.raises(InvalidResponseError, match=message):
            mx.MoERegressor(expert=Censored()).fit(np.arange(6.0)[:, None], y)


def test_other_bad_responses_are_refused():
    with pytest.raises(InvalidResponseError, match="all rows of y are censored on the right"):
        Censored().check_response(np.array([[0.0, INF], [1.0, INF]]))
    with pytest.raises(InvalidResponseError, match="no gamma response lies between"):
        Censored(Gamma()).check_response(np.array([[1.0, 1.0], [-2.0, -1.0]]))
    with pytest.raises(InvalidResponseError, match="no poisson response lies between"):
        Censored(Poisson()).check_response(np.array([[1.0, 1.0], [2.2, 2.8]]))
    with pytest.raises(InvalidResponseError, match=r"row 1 of y holds -1\., outside the window"):
        Truncated(lower=0.0).check_response(np.array([1.0, -1.0]))
    with pytest.raises(InvalidResponseError, match=r"row 0 of y has the window .2, 1."):
        Truncated().check_response(np.array([[1.5, 2.0, 1.0]]))


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(UnsupportedCombinationError, match="Censored cannot wrap 'binomial'"):
        Censored(Binomial())
    with pytest.raises(TypeError, match="expert of Censored must be an instance of a family"):
        Censored("gaussian")
    with pytest.raises(UnsupportedCombinationError, match="Censored cannot wrap 'truncated'"):
        Censored(Truncated())
    with pytest.raises(ValueError, match="lower must be less than upper"):
        Truncated(lower=1.0, upper=1.0)
    with pytest.raises(ValueError, match="of must be 'population' or 'expert'"):
        Truncated(of="sample")
    with pytest.raises(ValueError, match="no gamma response lies between"):
        Truncated(Gamma(), upper=-1.0)
    with pytest.raises(TypeError, match="lower must be a number"):
        Truncated(lower=[0.0])
    with pytest.raises(UnsupportedCombinationError, match="do not go with the gate 'gaussian'"):
        Model(GaussianGate(), Truncated(lower=0.0))
    Model(GaussianGate(), Truncated(lower=0.0, of="expert"))


def test_values_seen_through_bounds_keep_their_law():
    y = np.array([[0.0, 0.0], [1.0, INF], [-INF, 1.0], [0.0, 2.0], [0.0, 2.0]])
    found = Censored().observed(y, np.array([3.0, 3.0, 3.0, 3.0, 1.0]))
    right = np.array([[3.0, 3.0], [1.0, INF], [3.0, 3.0], [2.0, INF], [0.0, 2.0]])
    assert_allclose(found, right)


def test_wrappers_are_values():
    expert = Truncated(Censored(Gamma()), lower=1.0)
    assert dataclasses.replace(expert) == expert
    assert repr(expert).startswith("Truncated(expert=Censored(expert=Gamma(")
