"""Families of counts, durations and shares: densities, tails, steps, starts, edges."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, fit_em
from mixexperts.em.information import observed_information
from mixexperts.em.init import initial_theta, keyed_rng
from mixexperts.em.model import em_pass
from mixexperts.errors import DegenerateFitWarning, InvalidResponseError, SeparationWarning
from mixexperts.experts import (
    Beta,
    Exponential,
    Gamma,
    InverseGaussian,
    LogNormal,
    NegativeBinomial,
    Poisson,
    Weibull,
)
from mixexperts.experts._rising import rising_sums
from mixexperts.gates import Constant, Softmax

POSITIVE = (Exponential(), Gamma(), InverseGaussian(), LogNormal(), Weibull())
SHAPES = {
    "beta": {"precision": (4.0, 20.0)},
    "exponential": {},
    "gamma": {"shape": (3.0, 8.0)},
    "inverse_gaussian": {"dispersion": (0.3, 0.1)},
    "log_normal": {"scale": (0.5, 0.3)},
    "negative_binomial": {"dispersion": (0.5, 0.1)},
    "weibull": {"shape": (2.0, 4.0)},
}
FAMILIES = {
    family.name: family for family in (*POSITIVE, Beta(), NegativeBinomial())
}  # fmt: skip
# What scipy calls them, with eta and the first of the shapes above.
SCIPY = {
    "beta": lambda eta, a: stats.beta(a / (1 + math.exp(-eta)), a / (1 + math.exp(eta))),
    "exponential": lambda eta: stats.expon(scale=math.exp(eta)),
    "gamma": lambda eta, a: stats.gamma(a, scale=math.exp(eta) / a),
    "inverse_gaussian": lambda eta, a: stats.invgauss(math.exp(eta) * a, scale=1 / a),
    "log_normal": lambda eta, a: stats.lognorm(a, scale=math.exp(eta)),
    "negative_binomial": lambda eta, a: stats.nbinom(1 / a, 1 / (1 + a * math.exp(eta))),
    "weibull": lambda eta, a: stats.weibull_min(a, scale=math.exp(eta)),
}


@pytest.fixture
def rng():
    return np.random.default_rng(20260901)


def batch_of(y, X=None, offset=None):
    X = np.ones((len(y), 1)) if X is None else X
    return Batch(np.asarray(y, dtype=float), {"mean": X}, X, np.ones(len(y)), offset=offset)


def one(family, eta):
    """Parameters of one expert with a constant predictor and the first shapes above."""
    shapes = {name: np.array(values[:1]) for name, values in SHAPES[family.name].items()}
    return {"coef": np.array([[eta]]), **shapes}


def reference(family, eta):
    return SCIPY[family.name](eta, *(values[0] for values in SHAPES[family.name].values()))


# --- distributions -----------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [-2.0, 0.3, 4.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_moments_density_and_tails_are_those_of_scipy(name, eta):
    family, known = FAMILIES[name], reference(FAMILIES[name], eta)
    params = one(family, eta)
    probability = np.array([1e-12, 1e-6, 0.01, 0.3, 0.7, 0.99])
    y = np.concatenate([known.ppf(probability), known.isf([1e-6, 1e-12])])
    if name == "beta":
        y = y[(y > 0.0) & (y < 1.0)]
    batch = batch_of(y)
    log_prob = known.logpmf(y) if family.discrete else known.logpdf(y)
    assert_allclose(family.log_prob(params, batch)[:, 0], log_prob, rtol=1e-12, atol=1e-12)
    assert_allclose(family.mean(params, batch)[0, 0], known.mean(), rtol=1e-12)
    assert_allclose(family.variance(params, batch)[0, 0], known.var(), rtol=1e-11)
    # Those of scipy are good to some 1e-11 far out.
    assert_allclose(family.cdf(params, batch)[:, 0], known.cdf(y), rtol=1e-9)
    assert_allclose(family.sf(params, batch)[:, 0], known.sf(y), rtol=1e-9)
    for p in probability:
        assert_allclose(family.quantile(params, batch, p)[0, 0], known.ppf(p), rtol=1e-8)


@pytest.mark.parametrize("upper", [1e-30, 1e-100])
def test_upper_tails_keep_their_digits(upper):
    """Where one less the distribution function is zero; the survival function is log-accurate."""
    for family in (Exponential(), Gamma(), Weibull(), LogNormal()):
        known, params = reference(family, 1.0), one(family, 1.0)
        y = known.isf(upper)
        assert_allclose(family.sf(params, batch_of([y]))[0, 0], upper, rtol=1e-10)


def test_inverse_gaussian_tail_against_its_logarithm(rng):
    family, params = InverseGaussian(), one(InverseGaussian(), 1.0)
    y = np.array([5.0, 20.0, 80.0, 200.0])
    known = reference(family, 1.0).logsf(y)
    assert_allclose(np.log(family.sf(params, batch_of(y))[:, 0]), known, rtol=1e-9)


@pytest.mark.parametrize("shape", [150.0, 250.0, 1e4])
def test_variance_of_a_nearly_certain_weibull(shape):
    """Log y has variance pi^2 / (6 shape^2), and skewness -1.14: y has nearly that, relatively."""
    family = Weibull()
    params = {"coef": np.zeros((1, 1)), "shape": np.array([shape])}
    batch = batch_of([1.0])
    relative = family.variance(params, batch) / family.mean(params, batch) ** 2
    expected = np.pi**2 / (6 * shape**2) - 2.4041138 / shape**3
    assert_allclose(relative[0, 0], expected, rtol=20 / shape**2 + 1e-9)


@pytest.mark.parametrize("family", [
    Exponential(), Weibull(), LogNormal(), Gamma(), Gamma(link="inverse"),
], ids=repr)  # fmt: skip
def test_quantiles_flow_as_they_say(family, rng):
    """The derivatives of the distribution function are minus the speeds times the density."""
    y, eta, h = rng.gamma(2.0, 1.0, (20, 1)), rng.uniform(0.5, 1.5, (20, 1)), 1e-5
    shapes = {name: np.array(values[:1]) for name, values in SHAPES[family.name].items()}
    density = np.exp(family.log_density(y, eta, **shapes))
    speeds = family.flows_at(y, eta, **shapes)
    assert len(speeds) == 1 + len(shapes)
    rise = family.cdf_at(y, eta + h, **shapes) - family.cdf_at(y, eta - h, **shapes)
    assert_allclose(rise / (2 * h), -speeds[0] * density, rtol=1e-6, atol=1e-9)
    for name, speed in zip(shapes, speeds[1:], strict=True):
        if speed is not None:
            up, down = ({name: shapes[name] * np.exp(s)} for s in (h, -h))
            rise = family.cdf_at(y, eta, **up) - family.cdf_at(y, eta, **down)
            assert_allclose(rise / (2 * h), -speed * density, rtol=1e-6, atol=1e-9)


def test_weibull_and_gamma_of_shape_one_are_exponential(rng):
    batch = batch_of(rng.exponential(2.0, 50), np.column_stack([np.ones(50), rng.random(50)]))
    coef = rng.standard_normal((2, 2))
    base = Exponential()
    weight = rng.uniform(size=(50, 2))
    for family in (Gamma(shape=1.0), Weibull(shape=1.0)):
        params = {"coef": coef, "shape": np.ones(2)}
        for method in ("log_prob", "mean", "variance", "cdf", "sf"):
            assert_allclose(
                getattr(family, method)(params, batch),
                getattr(base, method)({"coef": coef}, batch),
                rtol=1e-12,
                atol=1e-14,
            )
        left, right = (f.accumulate(params, batch, weight) for f in (family, base))
        for name in right:
            assert_allclose(left[name], right[name], rtol=1e-11, atol=1e-12)


def test_log_normal_mixture_is_the_gaussian_mixture_of_logs(rng):
    X, log_y, _ = mx.datasets.make_moe_regression(300, n_experts=2, random_state=1)
    log_y = 2.0 * log_y / np.abs(log_y).max()
    positive = mx.MoERegressor(2, expert="log_normal", random_state=0).fit(X, np.exp(log_y))
    plain = mx.MoERegressor(2, random_state=0).fit(X, log_y)
    jacobian = log_y.sum()
    assert positive.log_likelihood_ + jacobian == pytest.approx(plain.log_likelihood_, abs=1e-6)
    # experts are ordered by their fitted means, which differ
    order = np.argsort(positive.scale_)[np.argsort(np.argsort(plain.scale_))]
    assert_allclose(positive.coef_[order], plain.coef_, atol=1e-4)
    assert_allclose(positive.scale_[order], plain.scale_, atol=1e-4)


# --- the negative binomial at its limits -------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-10, 1e-6, 1e-3, 0.03, 1.0, 50.0, 1e6])
@pytest.mark.parametrize("y", [0, 1, 7, 500, 4096, 4097, 20_000])
def test_rising_sums_are_the_sums(y, alpha):
    terms = [alpha * j for j in range(y)]
    exact = (
        math.fsum(math.log1p(t) for t in terms),
        math.fsum(t / (1.0 + t) for t in terms),
        math.fsum((t / (1.0 + t)) ** 2 for t in terms),
    )
    for shape in ((1, 1), (1,)):  # by table up to 4096, and by log gamma
        found = rising_sums(np.full(shape, float(y)), np.full(shape, alpha))
        for value, known in zip(found, exact, strict=True):
            # Differences of numbers of the size of y, or of log gamma of it.
            rounding = 1e-15 * (1.0 + y) * (1.0 + abs(math.log(alpha)))
            assert_allclose(value.item(), known, rtol=1e-12, atol=10 * rounding)


def test_rising_sums_in_either_layout(rng):
    y = np.concatenate([rng.poisson(5.0, 30), [5000, 9000]]).astype(float)
    alpha = np.array([0.2, 1e-4, 3.0])
    rows = rising_sums(y[:, None], alpha)
    columns = rising_sums(y[None, :], alpha[:, None])
    each = rising_sums(np.repeat(y, 3), np.tile(alpha, 32))
    for left, right, flat in zip(rows, columns, each, strict=True):
        assert left.shape == (32, 3)
        assert_array_equal(left, right.T)
        assert_allclose(left.ravel(), flat, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("alpha", [1e-10, 1e-8, 1e-6])
def test_negative_binomial_goes_to_poisson_without_cancellation(alpha):
    """To first order in alpha the log probability is Poisson's plus alpha ((y-m)^2 - y) / 2."""
    y = np.arange(200.0)
    eta = np.log(np.array([0.01, 1.0, 30.0, 120.0]))
    batch = Batch(y, {"mean": np.ones((200, 1))}, np.ones((200, 1)), np.ones(200))
    coef, shape = eta[:, None], np.full(4, alpha)
    family, limit = NegativeBinomial(), Poisson()
    params = {"coef": coef, "dispersion": shape}
    mean = np.exp(eta)
    first = 0.5 * alpha * ((y[:, None] - mean) ** 2 - y[:, None])
    plain = limit.log_prob({"coef": coef}, batch)
    # Terms of second order are below alpha^2 200^3; rounding is that of numbers up to 1e3.
    atol = alpha**2 * 1e7 + 2e-12
    assert_allclose(family.log_prob(params, batch), plain + first, rtol=0, atol=atol)
    assert_allclose(family.cdf(params, batch), limit.cdf({"coef": coef}, batch), atol=4e4 * alpha)
    slopes = family.terms(y[:, None], eta, dispersion=shape).slopes
    assert_allclose(slopes[1], first, rtol=0, atol=2 * alpha**2 * 1e7 + 2e-13)


def test_underdispersed_counts_are_poisson(rng):
    x = rng.standard_normal(400)
    y = rng.binomial(10, 1 / (1 + np.exp(-0.5 * x))).astype(float)
    est = mx.MoERegressor(1, expert="negative_binomial", n_init=1).fit(x[:, None], y)
    plain = mx.MoERegressor(1, expert="poisson", n_init=1).fit(x[:, None], y)
    assert est.status_ == "converged"
    assert est.n_iter_ <= 40
    assert est.dispersion_[0] < 1e-7
    assert est.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-4)
    assert_allclose(est.coef_, plain.coef_, rtol=1e-4)


def test_an_expert_without_events_is_marked(rng):
    x = rng.uniform(-1, 1, 400)
    empty = x < 0
    y = np.where(empty, 0, rng.negative_binomial(2, 0.1, 400)).astype(float)
    with pytest.warns(SeparationWarning):
        est = mx.MoERegressor(2, expert="negative_binomial", n_init=3, random_state=0).fit(
            x[:, None], y
        )
    assert est.separated_experts_.tolist().count(True) == 1 or est.separated_


# --- extreme responses -------------------------------------------------------------------------


def draw(family, rng, n=400, K=2):
    """A mixture of two experts, with its features."""
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    coef = np.array([[1.4, 0.3, -0.2], [-0.6, -0.2, 0.4]])[:K]
    params = {"coef": coef} | {
        name: np.array(values[:K]) for name, values in SHAPES[family.name].items()
    }
    gate = np.array([[0.3, 1.2, -0.8], [0.0, 0.0, 0.0]])[2 - K :]
    theta = Theta({"coef": gate}, params)
    blank = Batch(np.ones(n), {"mean": X}, X, np.ones(n))
    prob = np.exp(Softmax().log_prob(theta.gate, blank))
    label = (rng.random(n) >= prob[:, 0]).astype(int) if K == 2 else np.zeros(n, dtype=int)
    y = family.sample(params, blank, label, rng)
    return Batch(y, {"mean": X}, X, np.ones(n)), theta


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("family", POSITIVE, ids=lambda f: f.name)
def test_the_unit_of_the_response_does_not_matter(family, factor, rng):
    batch, _ = draw(family, rng, 300)
    X = batch.X[:, 1:]
    options = {"expert": family, "n_init": 2, "random_state": 0, "backend": "numpy"}
    base = mx.MoERegressor(2, **options).fit(X, batch.y)
    moved = mx.MoERegressor(2, **options).fit(X, factor * batch.y)
    assert base.status_ == moved.status_ == "converged"
    assert moved.log_likelihood_ + 300 * np.log(factor) == pytest.approx(
        base.log_likelihood_, abs=1e-5
    )
    assert_allclose(moved.intercept_ - np.log(factor), base.intercept_, atol=1e-3)
    assert_allclose(moved.coef_, base.coef_, atol=1e-3)


@pytest.mark.parametrize("family", [NegativeBinomial(), Poisson()], ids=lambda f: f.name)
def test_counts_of_a_million(family, rng):
    x = rng.standard_normal(300)
    mean = 1e6 * np.exp(0.3 * x)
    y = rng.poisson(mean * rng.gamma(20.0, 0.05, 300)).astype(float)
    est = mx.MoERegressor(1, expert=family, n_init=1).fit(x[:, None], y)
    assert est.status_ == "converged"
    assert est.intercept_[0] == pytest.approx(np.log(1e6), abs=0.1)
    if family.name == "negative_binomial":
        assert est.dispersion_[0] == pytest.approx(0.05, rel=0.3)


@pytest.mark.parametrize("shift", [-25.0, 25.0])
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"beta"}))
def test_offsets_move_the_intercepts_alone(name, shift, rng):
    family = FAMILIES[name]
    batch, _ = draw(family, rng, 300)
    X = batch.X[:, 1:]
    options = {"expert": family, "n_init": 2, "random_state": 0, "backend": "numpy"}
    base = mx.MoERegressor(2, **options).fit(X, batch.y)
    moved = mx.MoERegressor(2, **options).fit(X, batch.y, offset=np.full(300, shift))
    assert moved.status_ == "converged"
    assert moved.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-5)
    assert_allclose(moved.intercept_ + shift, base.intercept_, atol=1e-3)


@pytest.mark.parametrize("eta", [-700.0, -300.0, -30.0, 30.0, 300.0, 700.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_far_out_everything_stays_a_number(name, eta):
    family = FAMILIES[name]
    y = np.array([0.0, 1.0, 1e6]) if family.discrete else np.array([1e-12, 0.5, 1e12])
    if name == "beta":
        y = np.array([1e-300, 0.5, 1.0 - 1e-16])
    shapes = {key: np.array(values) for key, values in SHAPES[name].items()}
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        terms = family.terms(y[:, None], np.full((3, 2), eta), **shapes)
    for part in (terms.log_f, terms.mean, *terms.slopes, *terms.weights):
        assert np.isfinite(part).all()


# --- fits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_one_expert_takes_few_passes(name, rng):
    batch, _ = draw(FAMILIES[name], rng, 400, K=1)
    est = mx.MoERegressor(1, expert=name, n_init=1).fit(batch.X[:, 1:], batch.y)
    assert est.status_ == "converged"
    assert est.n_iter_ <= 10


@pytest.mark.parametrize("name", FAMILIES)
def test_two_experts_are_recovered(name):
    """From starts that do not know them: all parameters within four standard errors."""
    rng = np.random.default_rng(7)
    family = FAMILIES[name]
    batch, truth = draw(family, rng, 5000)
    model = Model(Softmax(), family)
    best = None
    for i, kind in enumerate(("kmeans", "residual")):
        start = initial_theta(model, batch, 2, kind, keyed_rng(0, kind, i))
        result = fit_em(model, batch, start)
        assert (np.diff(result.history) >= -1e-9 * abs(result.objective)).all()
        if best is None or result.objective > best.objective:
            best = result
    assert best.status == "converged"
    assert best.log_likelihood >= em_pass(model, truth, batch)["log_likelihood"]
    order = np.argsort(-best.theta.expert["coef"][:, 0])
    theta = model.permute(best.theta, order)
    information = observed_information(model, theta, batch)["information"]
    error = np.sqrt(np.diag(np.linalg.inv(information)))
    z = (model.pack(theta) - model.pack(truth)) / error
    assert np.abs(z).max() < 4.0


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"exponential"}))
def test_shapes_are_fixed_and_shared(name, rng):
    family = FAMILIES[name]
    batch, _ = draw(family, rng, 400)
    (shape,) = SHAPES[name]
    X = batch.X[:, 1:]
    options = {"n_init": 1, "random_state": 0, "backend": "numpy"}
    value = SHAPES[name][shape][0]
    fixed = mx.MoERegressor(2, expert=type(family)(**{shape: value}), **options).fit(X, batch.y)
    shared = mx.MoERegressor(2, expert=type(family)(**{f"shared_{shape}": True}), **options)
    shared.fit(X, batch.y)
    free = mx.MoERegressor(2, expert=family, init=shared, **options).fit(X, batch.y)
    assert_array_equal(getattr(fixed, f"{shape}_"), value)
    assert len(set(getattr(shared, f"{shape}_"))) == 1
    assert free.n_parameters_ == shared.n_parameters_ + 1 == fixed.n_parameters_ + 2
    assert free.log_likelihood_ >= shared.log_likelihood_ - 1e-6


@pytest.mark.parametrize("family", [Gamma(), InverseGaussian(), LogNormal(), Weibull(), Beta()],
                         ids=lambda f: f.name)  # fmt: skip
def test_a_spike_is_called_degenerate(family, rng):
    """Rows on a curve without any error: their expert's density grows without bound."""
    n = 60
    x = rng.uniform(-1, 1, n)
    y = np.exp(0.5 * x - 1.0)
    if family.name == "beta":
        y = y / (1.0 + y)
    batch = batch_of(y, np.column_stack([np.ones(n), x]))
    start = initial_theta(Model(Constant(), family), batch, 1, "kmeans", rng)
    result = fit_em(Model(Constant(), family), batch, start)
    assert result.status == "degenerate"
    assert any("spike" in flag for flag in result.flags)


def test_a_spike_in_an_estimator_warns(rng):
    x = rng.uniform(-1, 1, 60)
    with pytest.warns(DegenerateFitWarning, match="spike"):
        mx.MoERegressor(1, expert="gamma", n_init=1).fit(x[:, None], np.exp(x))


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("family", POSITIVE, ids=lambda f: f.name)
def test_positive_families_name_rule_and_row(family, bad):
    y = np.array([1.0, 2.0, bad, bad])
    with pytest.raises(InvalidResponseError, match=f"{family.name} .*> 0 as y; row 2 holds"):
        family.check_response(y)


@pytest.mark.parametrize("bad", [0.0, 1.0, 37.0, -0.1, np.nan])
def test_beta_names_rule_and_row(bad):
    with pytest.raises(InvalidResponseError, match="strictly between 0 and 1 as y; row 1 holds"):
        Beta().check_response(np.array([0.5, bad]))


@pytest.mark.parametrize("bad", [0.5, -1.0, np.nan, np.inf])
def test_negative_binomial_names_rule_and_row(bad):
    with pytest.raises(InvalidResponseError, match="counts, integers >= 0, as y; row 1 holds"):
        NegativeBinomial().check_response(np.array([0.0, bad]))
    with pytest.raises(InvalidResponseError, match="one column of counts"):
        NegativeBinomial().check_response(np.zeros((3, 2)))


@pytest.mark.parametrize("make", [
    lambda v: Gamma(shape=v), lambda v: Weibull(shape=v), lambda v: LogNormal(scale=v),
    lambda v: Beta(precision=v), lambda v: InverseGaussian(dispersion=v),
    lambda v: NegativeBinomial(dispersion=v),
])  # fmt: skip
def test_fixed_shapes_are_checked(make):
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"=.* lies outside .* or None to estimate it"):
            make(value)
    for value in ("2", True):
        with pytest.raises(TypeError, match=r"must be None \(estimated\) or a number"):
            make(value)
    assert make(None) == make(None)
    assert make(2) == make(2.0)


def test_real_counts_negative_binomial_against_poisson():
    """Seizures: two Poisson experts, or one and two negative binomial ones."""
    frame = mx.datasets.load_seizure().assign(log_hours=lambda d: np.log(d["Hours"]))

    def fit(k, family):
        return mx.moe(
            "Seizures ~ Treatment * np.log(Day) | 1", data=frame, n_experts=k, family=family,
            offset="log_hours",
        )  # fmt: skip

    poisson, two = fit(2, "poisson"), fit(1, "negative_binomial")
    assert poisson.llf == pytest.approx(-376.18, abs=0.01)
    assert two.converged
    both = fit(2, "negative_binomial")
    assert both.llf >= max(poisson.llf, two.llf) - 1e-3
