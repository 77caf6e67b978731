"""Heavy tails, skewness and outliers: what the families promise beside the conformance suite."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, special, stats

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.information import observed_information
from mixexperts.em.init import theta_from_responsibilities
from mixexperts.errors import InvalidResponseError
from mixexperts.experts import Gaussian, Huber, Laplace, SkewNormal, SkewT, StudentT, Uniform
from mixexperts.gates import Constant, Softmax
from mixexperts.kernels.special import half_step, normal_tail
from mixexperts.kernels.student import student_tail

SKEWED = {"skewness": np.array([-8.0, 0.5, 3.0]), "df": np.array([1.2, 4.0, 300.0])}


def shapes_of(expert):
    known = {**SKEWED, "df": SKEWED["df"]}
    return {s.name: known[s.name] for s in expert.shapes if s.name != "scale"}


# --- special functions ---


@pytest.mark.parametrize("copies", [1, 4])  # of more than 4096 numbers compiled
def test_log_of_the_normal_distribution_function(copies):
    x = np.tile(
        np.concatenate([-np.logspace(-8, 3, 1000), np.logspace(-8, 1.5, 1000), [0]]), copies
    )
    log_cdf, ratio = normal_tail(x)
    assert_allclose(log_cdf, special.log_ndtr(x), rtol=5e-14, atol=5e-16)
    left = x <= 0.0
    mills = np.sqrt(2.0 / np.pi) / special.erfcx(-x[left] / np.sqrt(2.0))
    assert_allclose(ratio[left], mills, rtol=5e-14)
    assert_allclose(ratio[~left], stats.norm.pdf(x[~left]) / stats.norm.cdf(x[~left]), rtol=5e-14)


@pytest.mark.parametrize("df", [1.5, 2.0, 5.3, 30.0, 200.0, 1001.0])
def test_log_of_the_distribution_function_of_t(df):
    r = np.concatenate([-np.logspace(-6, 2, 300), np.logspace(-6, 2, 300)])
    series = student_tail(np.array(df), r)
    table = student_tail(np.array([[df]]), r[None])
    known = stats.t.cdf(r * np.sqrt(df), df)
    there = known > 1e-250
    assert_allclose(series[0][there], np.log(known[there]), rtol=2e-13, atol=2e-15)
    for left, right in zip(table, series, strict=True):
        assert_allclose(left[0], right, rtol=1e-12, atol=2e-13)

    def slope(of, h):  # fourth order
        values = [of(i * h) for i in (-2, -1, 1, 2)]
        return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)

    by_r = slope(lambda h: student_tail(np.array(df), r + h)[0], 1e-4)
    assert_allclose(series[1], by_r, rtol=1e-8, atol=1e-8)
    for i, j in ((0, 2), (2, 3)):  # first and second derivative in df
        by_df = slope(lambda h, i=i: student_tail(np.array(df + h), r)[i], 1e-4 * df)
        assert_allclose(series[j], by_df, rtol=1e-8, atol=1e-9)


def test_ratio_of_gammas_one_half_apart():
    df = np.array([0.3, 1.0, 7.0, 99.9, 100.1, 3e3, 1e6])
    value, first, second = half_step(df)
    upper, lower = (df + 1.0) / 2.0, df / 2.0
    rounding = 1e-15 * (1.0 + np.abs(special.gammaln(upper)))
    assert (np.abs(value - special.gammaln(upper) + special.gammaln(lower)) < 8 * rounding).all()
    known = 0.5 * (special.digamma(upper) - special.digamma(lower))
    assert_allclose(first, known, rtol=1e-13, atol=1e-14)
    known = 0.25 * (special.polygamma(1, upper) - special.polygamma(1, lower))
    assert_allclose(second, known, rtol=1e-13, atol=1e-15)


# --- densities ---


def test_densities_are_those_of_scipy():
    z = np.linspace(-6.0, 6.0, 41)[:, None]
    df, skewness = SKEWED["df"], SKEWED["skewness"]
    log_f = StudentT().standard(z, df=df).log_f
    assert_allclose(log_f, stats.t.logpdf(z, df), rtol=1e-12, atol=1e-12)
    log_f = SkewNormal().standard(z, skewness=skewness).log_f
    assert_allclose(log_f, stats.skewnorm.logpdf(z, skewness), rtol=1e-11, atol=1e-11)
    w = skewness * z * np.sqrt((df + 1.0) / (df + z**2))
    known = np.log(2.0) + stats.t.logpdf(z, df) + np.log(stats.t.cdf(w, df + 1.0))
    log_f = SkewT().standard(z, df=df, skewness=skewness).log_f
    assert_allclose(log_f, known, rtol=1e-11, atol=1e-11)
    log_f = Laplace(smoothing=0.5).standard(z).log_f
    known = stats.genhyperbolic.logpdf(z, 1.0, 0.5, 0.0, scale=0.5)
    assert_allclose(log_f, known, rtol=1e-10)


@pytest.mark.parametrize("smoothing", [0.1, 0.01, 1e-4])
def test_laplace_is_as_near_to_its_corner_as_stated(smoothing):
    z = np.concatenate([[0.0], np.logspace(-6, 1.5, 200)])
    gap = Laplace(smoothing=smoothing).standard(z).log_f - stats.laplace.logpdf(z)
    assert -smoothing < gap[0] < 0.0
    bound = smoothing**2 * (1.0 / z[1:] + np.log(2.0 / smoothing) + 1.0) / 2.0
    assert (np.abs(gap[1:]) < bound).all()


def test_huber_is_normal_in_the_middle_and_exponential_beyond():
    expert = Huber(threshold=1.0)
    log_f = expert.standard(np.array([0.0, 0.5, 1.0, 2.0, 5.0, -5.0])).log_f
    assert_allclose(log_f - log_f[0], [0.0, -0.125, -0.5, -1.5, -4.5, -4.5], rtol=1e-14)
    wide = Huber(threshold=30.0).standard(np.linspace(-5, 5, 11)).log_f
    assert_allclose(wide, stats.norm.logpdf(np.linspace(-5, 5, 11)), rtol=1e-14)


@pytest.mark.parametrize("expert", [SkewNormal(), SkewT()], ids=["skew_normal", "skew_t"])
def test_distribution_functions_are_integrals(expert):
    shapes = shapes_of(expert)
    z = np.array([[-3.0], [-0.5], [0.0], [1.0], [4.0]])
    cdf = expert.standard_cdf(np.broadcast_to(z, (5, 3)), **shapes)
    for k in range(3):
        one = {name: values[k : k + 1] for name, values in shapes.items()}

        def density(x, one=one):
            log_f = expert.standard(np.array([[np.sinh(x)]]), **one).log_f[0, 0]
            return np.exp(log_f) * np.cosh(x)

        for i in (0, 2, 3):
            end = np.arcsinh(z[i, 0])
            known = integrate.quad(density, -40.0, end, points=[-1.0, 0.0][: 1 + (end > 0)],
                                   epsabs=0, epsrel=1e-9, limit=300)[0]  # fmt: skip
            assert cdf[i, k] == pytest.approx(known, rel=1e-8)


def test_many_degrees_of_freedom_are_the_normal_limit():
    z = np.linspace(-4.0, 4.0, 33)[:, None]
    log_f = StudentT().standard(z, df=np.array([1e6])).log_f
    # t is normal up to z^4 / (4 df)
    assert_allclose(log_f, stats.norm.logpdf(z), atol=1e-4)
    normal = SkewNormal().standard(z, skewness=np.array([2.0])).log_f
    few, many = (
        SkewT().standard(z, skewness=np.array([2.0]), df=np.array([df])).log_f - normal
        for df in (500.0, 1000.0)
    )
    assert np.abs(many[z > -1.0]).max() < 0.1
    away = np.abs(few) > 1e-3
    assert_allclose((few / many)[away], 2.0, rtol=0.05)  # the first term is one over df


def test_moments_that_do_not_exist_say_so():
    df = np.array([0.9, 1.5, 2.0, 3.0])
    assert np.isnan(StudentT().standard_mean(df=df)).tolist() == [True, False, False, False]
    variance = StudentT().standard_variance(df=df)
    assert np.isnan(variance[0])
    assert np.isinf(variance[1:3]).all()
    assert variance[3] == 3.0
    assert np.isinf(SkewT().standard_variance(df=df, skewness=np.ones(4))[1])


# --- one expert against direct maximisation ---


def one_expert(expert, X, y):
    batch = Batch(y, {"mean": X}, np.empty((len(y), 0)), np.ones(len(y)))
    model = Model(Constant(), expert)
    start = theta_from_responsibilities(model, batch, np.ones((len(y), 1)), np.random.default_rng())
    return fit_em(model, batch, start, monitor=Monitor(tol=1e-12, max_iter=3000), backend="numpy")


@pytest.mark.parametrize("df", [1.5, 4.0, 12.0])
def test_one_student_is_that_of_scipy(df):
    y = 3.0 + 2.0 * stats.t.rvs(df, size=400, random_state=1)
    y = y / y.std()
    found = one_expert(StudentT(), np.ones((400, 1)), y)
    known = stats.t.fit(y)
    # scipy stops within 1e-4 of the parameters; there the likelihood is flat to 1e-6
    ours = [found.theta.expert[name].item() for name in ("df", "coef", "scale")]
    assert found.log_likelihood >= stats.t.logpdf(y, *known).sum() - 1e-9
    assert found.log_likelihood == pytest.approx(stats.t.logpdf(y, *known).sum(), abs=1e-6)
    assert_allclose(ours, known, rtol=2e-3)
    assert_allclose(found.log_likelihood, stats.t.logpdf(y, *ours).sum(), rtol=1e-12)


def test_one_laplace_is_the_median_and_the_mean_deviation():
    y = np.random.default_rng(2).laplace(1.0, 0.7, 501)
    found = one_expert(Laplace(smoothing=1e-3), np.ones((501, 1)), y).theta.expert
    assert found["coef"].item() == pytest.approx(np.median(y), abs=1e-3)
    assert found["scale"].item() == pytest.approx(np.abs(y - np.median(y)).mean(), rel=1e-4)


def test_one_huber_is_the_m_estimate_at_its_scale():
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    X = sm.add_constant(rng.standard_normal((300, 2)))
    y = X @ [1.0, 2.0, -1.0] + rng.standard_t(2, 300)
    found = one_expert(Huber(), X, y).theta.expert
    scale = found["scale"].item()
    norm = sm.robust.norms.HuberT(1.345)
    # the estimating equations of both coefficients and scale
    z = (y - X @ found["coef"][0]) / scale
    assert_allclose(X.T @ norm.psi(z), 0.0, atol=1e-5 * len(y))
    assert np.sum(z * norm.psi(z)) == pytest.approx(len(y), rel=1e-6)


def test_known_many_degrees_of_freedom_give_gaussian_experts():
    X, y, _ = mx.datasets.make_moe_regression(
        n_samples=300, n_features=1, n_experts=2, noise=0.3, random_state=1
    )
    t = mx.MoERegressor(2, expert=StudentT(df=1e6), random_state=0).fit(X, y)
    normal = mx.MoERegressor(2, random_state=0).fit(X, y)
    assert t.log_likelihood_ == pytest.approx(normal.log_likelihood_, abs=1e-2)
    assert_allclose(t.coef_, normal.coef_, atol=1e-3)


# --- two experts ---


def simulate(expert, n, seed, **shapes):
    """Two lines that cross, rows to the left and to the right of 0."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.uniform(-1.0, 1.0, n)])
    batch = Batch(np.zeros(n), {"mean": X}, X, np.ones(n))
    known = {"scale": [0.5, 0.8], "skewness": [3.0, -10.0], "df": [5.0, 7.0], **shapes}
    params = {name: np.array(known[name]) for name in expert.param_names if name in known}
    truth = Theta(
        {"coef": np.array([[0.0, 10.0], [0.0, 0.0]])},
        {"coef": np.array([[0.0, 2.0], [0.0, -2.0]]), **params},
    )
    model = Model(Softmax(), expert)
    label = (rng.random(n) > np.exp(model.gate.log_prob(truth.gate, batch))[:, 0]).astype(int)
    y = expert.sample(truth.expert, batch, label, rng)
    return model, truth, Batch(y, {"mean": X}, X, np.ones(n))


@pytest.mark.parametrize(
    ("expert", "shapes"),
    [
        (StudentT(), {"df": [3.0, 6.0]}),
        (Huber(), {}),
        (SkewNormal(), {"skewness": [2.0, -4.0]}),
        (SkewT(), {"skewness": [2.0, -4.0], "df": [4.0, 6.0]}),
    ],
    ids=["student", "huber", "skew_normal", "skew_t"],
)
def test_truth_is_recovered_within_four_standard_errors(expert, shapes):
    model, truth, batch = simulate(expert, 5000, 4, **shapes)
    start = Theta(truth.gate, {n: v * 1.1 + 0.05 for n, v in truth.expert.items()})
    found = fit_em(model, batch, start)
    assert found.status == "converged"
    information = observed_information(model, found.theta, batch)["information"]
    error = model.pack(found.theta) - model.pack(truth)
    assert (np.abs(error) < 4.0 * np.sqrt(np.diag(np.linalg.inv(information)))).all()


def test_laplace_is_recovered():
    model, truth, batch = simulate(Laplace(), 5000, 5)
    found = fit_em(model, batch, truth, monitor=Monitor(max_iter=2000))
    # Each expert has some 2500 rows on a half of x: the slope's standard error is
    # scale / sqrt(2500 / 12) = 0.055, that of the scale scale / 50.
    error = np.abs(found.theta.expert["coef"] - truth.expert["coef"])
    assert (error < 4.0 * 0.056 * np.array([[0.7], [1.0]])).all()
    assert_allclose(found.theta.expert["scale"], truth.expert["scale"], rtol=4 / 50)


@pytest.mark.parametrize("expert", [StudentT(), SkewT()], ids=["student", "skew_t"])
def test_degrees_of_freedom_of_every_expert_move(expert):
    """Those of all experts are estimated, not of the first alone: far apart, in both orders."""
    for df in ([2.5, 40.0], [40.0, 2.5]):
        model, truth, batch = simulate(expert, 4000, 6, df=df, skewness=[1.0, -1.0])
        start = Theta(truth.gate, {**truth.expert, "df": np.array([8.0, 8.0])})
        found = fit_em(model, batch, start).theta.expert["df"]
        heavy, light = found[np.argsort(df)]
        assert 2.0 < heavy < 3.2
        assert light > 10.0


def acceptance(expert, n, n_seeds, n_init):
    """Shortfalls of fits from several starts against a maximisation started from the truth."""
    short = []
    for seed in range(n_seeds):
        model, truth, batch = simulate(expert, n, seed, scale=[1.0, 1.0])
        best = fit_em(model, batch, truth, monitor=Monitor(tol=1e-10, max_iter=3000))
        est = mx.MoERegressor(2, expert=expert, n_init=n_init, random_state=seed)
        est.fit(batch.X[:, 1:], batch.y)
        short.append(best.log_likelihood - est.log_likelihood_)
    return np.array(short)


@pytest.mark.parametrize("expert", [SkewNormal(), SkewT()], ids=["skew_normal", "skew_t"])
def test_skewed_fits_reach_the_maximum(expert):
    assert acceptance(expert, 500, 2, 4).max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("expert", [SkewNormal(), SkewT()], ids=["skew_normal", "skew_t"])
def test_skewed_fits_of_many_rows_reach_the_maximum(expert):
    assert acceptance(expert, 10_000, 2, 4).max() < 0.5


# --- outliers ---


def tone(n_outliers):
    frame = mx.datasets.load_tonedata()
    x, y = frame["stretchratio"].to_numpy(), frame["tuned"].to_numpy()
    return np.append(x, np.zeros(n_outliers))[:, None], np.append(y, np.full(n_outliers, 4.0))


@pytest.mark.parametrize("expert", [StudentT(df=2.0), Laplace()], ids=["student", "laplace"])
def test_ten_outliers_in_the_tone_data_leave_the_lines(expert):
    """Ten trials at (0, 4): one of two Gaussian lines bends to them, robust ones stay."""
    options = {"n_experts": 2, "gate": "constant", "random_state": 0, "n_init": 12}
    x = np.array([[1.5], [2.0], [3.0]])
    shift = {}
    for name, family in (("gaussian", Gaussian()), ("robust", expert)):
        clean, spoilt = (
            np.sort(est.predict_experts(x), axis=1)
            if hasattr(est, "predict_experts")
            else np.sort(est.intercept_ + x * est.coef_[:, 0], axis=1)
            for est in (
                mx.MoERegressor(expert=family, **options).fit(*tone(k)) for k in (0, 10)
            )
        )  # fmt: skip
        shift[name] = np.abs(clean - spoilt).max()
    assert shift["robust"] < 0.1
    assert shift["gaussian"] > 3.0 * shift["robust"]


def two_slopes(rng, n=500):
    """Two lines of slope 2 and -2 that take turns softly, and the mean at any x."""
    x = rng.uniform(-1.0, 1.0, n)
    up = rng.random(n) < special.expit(5.0 * x)
    return x, np.where(up, 2.0 * x, -2.0 * x) + 0.3 * rng.standard_normal(n)


AT = np.linspace(-0.9, 0.9, 41)
MEAN_AT = 2.0 * AT * np.tanh(2.5 * AT)


def test_gross_outliers_on_one_side_do_not_pull_student_experts():
    """Five percent fifty scales away; one of two Gaussian experts goes there."""
    rng = np.random.default_rng(8)
    x, y = two_slopes(rng)
    y[rng.random(500) < 0.05] += 15.0
    off = {}
    for family in (Gaussian(), StudentT()):
        est = mx.MoERegressor(2, expert=family, random_state=0, n_init=6).fit(x[:, None], y)
        off[family.name] = np.abs(est.predict(AT[:, None]) - MEAN_AT).max()
    assert off["student_t"] < 0.2
    assert off["gaussian"] > 0.5


@pytest.mark.parametrize("expert", [StudentT(), Laplace(), Huber()], ids=lambda e: e.name)
def test_wide_errors_harm_less_than_with_gaussian_experts(expert):
    """A tenth of the errors is eight times as wide."""
    wins = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, y = two_slopes(rng)
        y += np.where(rng.random(500) < 0.1, 2.4 * rng.standard_normal(500), 0.0)
        off = []
        for family in (expert, Gaussian()):
            est = mx.MoERegressor(2, expert=family, random_state=0, n_init=4).fit(x[:, None], y)
            off.append(np.mean((est.predict(AT[:, None]) - MEAN_AT) ** 2))
        wins += off[0] < off[1]
    assert wins == 3


Mixed = getattr(mx.experts, "Mixed", None)


@pytest.mark.skipif(Mixed is None, reason="needs experts of different families")
def test_a_noise_expert_takes_gross_outliers():
    """Five percent of gross outliers move coefficients by less than 2 standard errors."""
    rng = np.random.default_rng(9)
    x, y = two_slopes(rng, 1000)
    bad = rng.random(1000) < 0.05
    spoilt = np.where(bad, rng.uniform(-20.0, 20.0, 1000), y)
    options = {"random_state": 0, "n_init": 8}
    clean = mx.MoERegressor(2, expert=Gaussian(), **options).fit(x[:, None], y)
    noisy = mx.MoERegressor(3, expert=Mixed([Gaussian(), Gaussian(), Uniform()]), **options)
    noisy.fit(x[:, None], spoilt)
    order = np.argsort(clean.coef_[:, 0])
    # some 500 rows on half of x each: standard errors of slopes 0.3 / sqrt(500 / 12) = 0.046
    slopes = np.sort(noisy.coef_[:2, 0])
    assert (np.abs(slopes - clean.coef_[order, 0]) < 2.0 * 0.046).all()
    weight = noisy.responsibilities(x[:, None], spoilt)[:, 2]
    assert weight[bad & (np.abs(spoilt) > 5.0)].min() > 0.5


# --- errors ---


def test_faults_are_named():
    y = np.array([0.0, 1.0, np.nan, 2.0])
    for expert in (StudentT(), Uniform()):
        with pytest.raises(InvalidResponseError, match="row 2 holds nan"):
            expert.check_response(y)
    with pytest.raises(ValueError, match=r"df must lie in \(0, inf\], got -1"):
        StudentT(df=-1.0)
    with pytest.raises(TypeError, match="df must be a number"):
        StudentT(df="four")
    with pytest.raises(ValueError, match=r"df must lie in \(0, 1000\]"):
        SkewT(df=5e3)
    with pytest.raises(ValueError, match="threshold must lie"):
        Huber(threshold=0.0)
    with pytest.raises(ValueError, match="smoothing must lie"):
        Laplace(smoothing=0.0)
    with pytest.raises(ValueError, match="both ends or none"):
        Uniform(low=0.0)
    with pytest.raises(ValueError, match="low must be less than high"):
        Uniform(low=2.0, high=1.0)


def test_uniform_takes_its_ends_from_rows_that_count():
    batch = Batch(
        np.array([0.0, 5.0, -100.0]), {"mean": np.ones((3, 1))}, np.empty((3, 0)),
        np.array([1.0, 1.0, 0.0]),
    )  # fmt: skip
    resp = np.full((3, 2), 0.5)
    params = Uniform().init_params(batch, resp, np.random.default_rng())
    assert params["low"].tolist() == [0.0, 0.0]
    assert params["high"].tolist() == [5.0, 5.0]
    log_prob = Uniform().log_prob(params, batch)
    assert_allclose(log_prob[:, 0], [-np.log(5.0), -np.log(5.0), -np.inf])
    stated = Uniform(-1.0, 9.0).init_params(batch, resp, np.random.default_rng())
    assert (stated["low"][0], stated["high"][0]) == (-1.0, 9.0)
    assert Uniform().affine_response
    assert not Uniform(-1.0, 9.0).affine_response
    same = Batch(np.ones(3), batch.designs, batch.Z, batch.weight)
    with pytest.raises(InvalidResponseError, match="no interval"):
        Uniform().init_params(same, resp, np.random.default_rng())
