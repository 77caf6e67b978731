"""Softmax gates with a temperature, an activation, a transform, or columns of each logit's own."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts._design import DesignMap
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.errors import DesignError, SeparationWarning, UnsupportedCombinationError
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax
from mixexperts.gates._activations import HOMOGENEOUS, activate
from mixexperts.penalties import NoPenalty

ACTIVATIONS = ("identity", "sigmoid", "tanh", "softplus", "silu", "gelu", "relu", "leaky_relu")
IDENTIFYING = tuple(name for name in ACTIVATIONS if name not in HOMOGENEOUS)
# phi(z) by other means, before phi(0) is taken off.
FORMULAS = {
    "identity": lambda z: z,
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "softplus": lambda z: np.log1p(np.exp(z)),
    "silu": lambda z: z * special.expit(z),
    "gelu": lambda z: z * stats.norm.cdf(z),
    "relu": lambda z: np.maximum(z, 0.0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.1 * z),
}


def batch_of(Z, y=None, n=None):
    n = len(Z) if n is None else n
    y = np.zeros(n) if y is None else y
    return Batch(y=y, designs={"mean": Z}, Z=Z, weight=np.ones(n))


@pytest.fixture
def rng():
    return np.random.default_rng(20261122)


@pytest.fixture
def Z(rng):
    return np.column_stack([np.ones(50), rng.standard_normal((50, 2))])


# --- activations --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_derivatives(name, rng):
    z = np.concatenate([rng.normal(scale=3.0, size=50), [-40.0, 40.0]])
    value, slope, bend = activate(name, z)
    phi = FORMULAS[name]
    assert_allclose(value, phi(z) - phi(np.zeros(1)), rtol=1e-13, atol=1e-13)
    assert activate(name, np.zeros(1))[0] == 0.0
    h = 1e-5
    assert_allclose(slope, (phi(z + h) - phi(z - h)) / (2 * h), atol=1e-9)
    up, down = activate(name, z + h)[1], activate(name, z - h)[1]
    assert_allclose(bend, (up - down) / (2 * h), atol=1e-9)
    for extreme in (-1e6, 1e6):
        assert np.isfinite(activate(name, np.array([extreme]))).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_homogeneous_activations_are_known(name, rng):
    z = rng.normal(size=100)
    plain, scaled = activate(name, z)[0], activate(name, 3.0 * z)[0]
    assert (np.abs(scaled - 3.0 * plain).max() < 1e-12) == (name in HOMOGENEOUS)


# --- temperature ----------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.1, 3.0, 50.0])
@pytest.mark.parametrize("name", sorted(HOMOGENEOUS))
def test_scale_says_nothing_under_a_homogeneous_activation(name, c, Z, rng):
    """(beta, tau) and (c beta, c tau) are one density, that of the formula."""
    X = 3.0 * Z[:, 1:] + [1.0, -2.0]
    intercept, slopes = np.array([0.4, -0.7, 0.0]), np.vstack([rng.normal(size=(2, 2)), [0, 0]])

    def log_prob(scale):
        gate = Softmax(activation=name, temperature=0.7 * scale)
        design = DesignMap.fit(X, np.ones(50), ("x1", "x2"), **gate.design_options())
        raw = {"gate_intercept": scale * intercept, "gate_coef": scale * slopes}
        if name != "identity":
            raw["gate_role"] = np.array([0.0, 1.0, -1.0])
        params = gate.engine(raw, design)
        for key, values in gate.raw(params, design).items():
            assert_allclose(values, raw[key], rtol=1e-12, atol=1e-14)
        return gate.log_prob(params, batch_of(design.transform(X)))

    assert_allclose(log_prob(c), log_prob(1.0), rtol=1e-10)
    logits = (FORMULAS[name](X @ slopes.T) + intercept) / 0.7
    assert_allclose(log_prob(c), special.log_softmax(logits, axis=1), rtol=1e-10)


@pytest.mark.parametrize("name", [None, *sorted(HOMOGENEOUS)])
def test_temperature_is_not_estimated_where_it_means_nothing(name):
    with pytest.raises(ValueError, match=r"temperature='estimate'.*same density"):
        Softmax(activation=name, temperature="estimate")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be a positive"),
        ({"temperature": np.inf}, ValueError, "temperature must be a positive"),
        ({"temperature": "warm"}, TypeError, "temperature must be a number"),
        ({"temperature": True}, TypeError, "temperature must be a number"),
        ({"activation": "step"}, ValueError, "activation='step' is not known; known: 'identity'"),
        ({"transform": "log"}, ValueError, "transform='log' is not known; known: 'tanh'"),
        ({"features": "age"}, TypeError, "gate features must be a sequence"),
        ({"features": [["a", "a"]]}, ValueError, r"features\[0\] names a more than once"),
        ({"features": [[1.5]]}, TypeError, r"features\[0\] holds 1.5"),
        ({"features": ["age"]}, TypeError, r"features\[0\] must be a sequence"),
    ],
)
def test_wrong_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        Softmax(**options)


@pytest.mark.parametrize("name", IDENTIFYING)
@pytest.mark.parametrize("intercept", [True, False])
def test_gradient_in_slopes_intercepts_and_log_temperature(name, intercept, Z, rng):
    """Gradient and Hessian of the expected log-likelihood against central differences."""
    gate = Softmax(intercept, activation=name, temperature="estimate")
    design = Z if intercept else Z[:, 1:]
    batch, resp = batch_of(design), rng.dirichlet(np.ones(3), len(Z))
    params = gate.init_params(batch, resp, rng)
    packed = gate.pack(params)
    assert len(packed) == gate.n_params(params) == 2 * design.shape[1] + 1
    params = gate.unpack(packed + 0.5 * rng.standard_normal(len(packed)), params)
    here = gate.pack(params)

    def value(vector):
        return np.sum(resp * gate.log_prob(gate.unpack(vector, params), batch))

    def score(vector):
        point = gate.unpack(vector, params)
        return gate.score(point, gate.accumulate(point, batch, resp))

    h = 1e-5
    each = np.eye(len(here)) * h
    slope = [(value(here + e) - value(here - e)) / (2 * h) for e in each]
    assert_allclose(score(here), slope, rtol=1e-6, atol=1e-6)
    second = np.array([(score(here + e) - score(here - e)) / (2 * h) for e in each])
    assert_allclose(gate.accumulate(params, batch, resp)["curvature"], -second, atol=1e-5)


def test_temperature_limits(Z, rng):
    coef = np.vstack([rng.normal(size=(2, 3)), np.zeros(3)])
    batch = batch_of(Z)

    def prob(temperature):
        gate = Softmax(activation="tanh", temperature=temperature)
        params = {"coef": coef / temperature, "role": np.array([0, 1, -1])}
        return np.exp(gate.log_prob(params, batch))

    logits = np.tanh(Z[:, 1:] @ coef[:, 1:].T) + coef[:, 0]
    assert_allclose(prob(1e-9), np.eye(3)[logits.argmax(axis=1)], atol=1e-12)
    assert_allclose(prob(1e9), 1.0 / 3.0, atol=1e-8)


def two_lines(rng, n, slopes=(1.2, -0.8), intercept=0.3, tau=0.7, phi=np.tanh):
    """Two experts, X uniform on [-3, 3]^2, and a gate with an activation."""
    X = rng.uniform(-3.0, 3.0, (n, 2))
    logit = (phi(X @ np.array(slopes)) - phi(0.0) + intercept) / tau
    first = rng.random(n) < special.expit(logit)
    y = np.where(first, 0.5 + X @ [2.0, -1.0], -0.5 + X @ [-1.5, 1.0])
    y += np.where(first, np.sqrt(0.5), np.sqrt(0.7)) * rng.standard_normal(n)
    return X, y


def fit_design(X, y, gate):
    """A run from the truth of :func:`two_lines`."""
    Z = np.column_stack([np.ones(len(X)), X])
    start = Theta(
        {
            "coef": np.array([[0.3, 1.2, -0.8], [0.0, 0.0, 0.0]]) / 0.7,
            "role": np.array([0, -1]),
            "log_temperature": np.full(2, np.log(0.7)),
        },
        {"coef": np.array([[0.5, 2.0, -1.0], [-0.5, -1.5, 1.0]]), "scale": np.sqrt([0.5, 0.7])},
    )
    result = fit_em(Model(gate, Gaussian()), batch_of(Z, y), start, monitor=Monitor(5000, 1e-9))
    return result, float(np.exp(result.theta.gate["log_temperature"][0]))


def test_temperature_is_recovered(rng):
    """At n = 20000 the standard error is 1.94 / sqrt(n) = 0.0137."""
    X, y = two_lines(rng, 20_000)
    result, tau = fit_design(X, y, Softmax(activation="tanh", temperature="estimate"))
    assert result.status == "converged"
    assert (np.diff(result.history) >= -1e-9).all()
    assert abs(tau - 0.7) < 4 * 1.94 / np.sqrt(20_000)


@pytest.mark.slow
def test_temperature_has_the_standard_error_of_theory(rng):
    """Root-n rate with the constant 1.94 of the Fisher information, to 25 percent."""
    spread = {}
    for n in (1000, 4000):
        errors = []
        for _ in range(60):
            X, y = two_lines(rng, n)
            _, tau = fit_design(X, y, Softmax(activation="tanh", temperature="estimate"))
            errors.append(tau - 0.7)
        spread[n] = 1.4826 * np.median(np.abs(errors)) * np.sqrt(n)
    assert 0.75 * 1.94 < spread[4000] < 1.25 * 1.94


# Smallest eigenvalues of the Fisher information in (beta1, beta0, tau, a, b, log nu) per expert.
EIGENVALUES = {
    "identity": 0.0,
    "relu": 0.0,
    "leaky_relu": 0.0,
    "tanh": 4.0e-3,
    "softplus": 4.0e-3,
    "silu": 1.8e-3,
    "sigmoid": 1.3e-3,
    "gelu": 1.1e-3,
}


@pytest.mark.parametrize("name", EIGENVALUES)
def test_fisher_information_is_singular_just_where_scale_is_free(name, rng):
    n = 200_000
    X = rng.uniform(-3.0, 3.0, (n, 2))
    slopes, intercept, tau = np.array([1.2, -0.8]), 0.3, 0.7
    value, slope, _ = activate(name, X @ slopes)
    logit = (value + intercept) / tau
    prob = special.expit(logit)
    first = rng.random(n) < prob
    lines = [(np.array([2.0, -1.0]), 0.5, 0.5), (np.array([-1.5, 1.0]), -0.5, 0.7)]
    means = [X @ a + b for a, b, _ in lines]
    y = np.where(first, means[0], means[1])
    y += np.where(first, np.sqrt(0.5), np.sqrt(0.7)) * rng.standard_normal(n)
    dens = np.column_stack(
        [
            w * stats.norm.pdf(y, m, np.sqrt(nu))
            for w, m, (_, _, nu) in zip((prob, 1 - prob), means, lines, strict=True)
        ]
    )
    resp = dens / dens.sum(axis=1, keepdims=True)
    excess = (resp[:, 0] - prob) / tau
    columns = [excess[:, None] * slope[:, None] * X, excess, -excess * logit]
    for k, (_, _, nu) in enumerate(lines):
        residual = (y - means[k]) / nu
        columns += [
            (resp[:, k] * residual)[:, None] * X,
            resp[:, k] * residual,
            resp[:, k] * 0.5 * (residual**2 * nu - 1.0),
        ]
    scores = np.column_stack(columns)
    least = np.linalg.eigvalsh(scores.T @ scores / n)[0]
    if EIGENVALUES[name] == 0.0:
        assert abs(least) < 1e-9
    else:
        assert least == pytest.approx(EIGENVALUES[name], rel=0.1)


# --- on data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((300, 2)) * [2.0, 0.5] + [3.0, -1.0]
    logits = np.column_stack([X[:, 0] - 3.0, 1.0 - 1.5 * (X[:, 0] - 3.0), np.zeros(300)])
    label = (logits + rng.gumbel(size=(300, 3))).argmax(axis=1)
    y = 3.0 * label + np.array([1.0, -1.0, 0.5])[label] * X[:, 0] + 0.4 * rng.standard_normal(300)
    return pd.DataFrame(X, columns=["age", "dose"]), y, label


def fitted(data, gate, **options):
    X, y, label = data
    options = {"init": label, "random_state": 0, "backend": "numpy", "tol": 1e-10, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeparationWarning)
        return mx.MoERegressor(3, gate=gate, **options).fit(X, y)


def test_fixed_temperature_rewrites_the_coefficients(data):
    plain = fitted(data, "softmax")
    for c in (0.25, 1.0, 5.0):
        est = fitted(data, Softmax(temperature=c))
        assert est.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-10)
        assert_allclose(est.gate_coef_, c * plain.gate_coef_, rtol=1e-10, atol=1e-12)
        assert_allclose(est.gate_intercept_, c * plain.gate_intercept_, rtol=1e-10, atol=1e-12)
        assert_allclose(est.gate_odds_ratios_, plain.gate_odds_ratios_, rtol=1e-10)
        assert est.n_parameters_ == plain.n_parameters_


def test_identity_with_all_columns_is_the_plain_gate(data):
    plain = fitted(data, "softmax")
    assert Softmax(activation="identity").has_logits
    whole = fitted(data, Softmax(features=[None, ["age", "dose"]]))
    assert whole.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-7)
    assert_allclose(whole.gate_proba(data[0]), plain.gate_proba(data[0]), atol=1e-4)


def test_transform_acts_on_standardised_features(data):
    X = data[0]
    est = fitted(data, Softmax(transform="tanh"))
    M = np.tanh((X - X.mean()) / X.std(ddof=0))
    logits = est.gate_intercept_ + M.to_numpy() @ est.gate_coef_.T
    assert_allclose(est.gate_proba(X), special.softmax(logits, axis=1), atol=1e-10)
    assert est.gate_terms_ == ("tanh(age)", "tanh(dose)")
    # It does not depend on units or origins.
    moved = mx.MoERegressor(
        3, gate=Softmax(transform="tanh"), init=data[2], random_state=0, tol=1e-10
    ).fit(100.0 * X - 7.0, data[1])
    assert moved.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=1e-6)
    with pytest.raises(UnsupportedCombinationError, match="transform='tanh' has no odds ratios"):
        _ = est.gate_odds_ratios_


@pytest.mark.parametrize("name", ["tanh", "softplus"])
def test_activation_means_what_it_says(data, name):
    """Weights from the reported parameters, by the formula."""
    X = data[0] - data[0].mean()
    est = fitted((X, *data[1:]), Softmax(activation=name, temperature=0.5))
    phi = FORMULAS[name]
    logits = phi(X.to_numpy() @ est.gate_coef_.T) - phi(np.zeros(1)) + est.gate_intercept_
    assert_allclose(est.gate_proba(X), special.softmax(logits / 0.5, axis=1), atol=1e-10)
    reference = est.gate_role_ == -1
    assert reference.sum() == 1
    assert not est.gate_coef_[reference].any()
    # Units do not matter; the origin does.
    scaled = fitted((100.0 * X, *data[1:]), Softmax(activation=name, temperature=0.5))
    assert scaled.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=1e-6)
    with pytest.raises(UnsupportedCombinationError, match=f"activation='{name}' has no odds"):
        _ = est.gate_odds_ratios_


def test_estimated_temperature_is_reported_and_counted(data):
    X = data[0] - data[0].mean()
    est = fitted((X, *data[1:]), Softmax(activation="tanh", temperature="estimate"))
    free = fitted((X, *data[1:]), Softmax(activation="tanh", temperature=1.0))
    assert est.n_parameters_ == free.n_parameters_ + 1
    assert est.log_likelihood_ > free.log_likelihood_
    tau = float(est.gate_temperature_)
    logits = np.tanh(X.to_numpy() @ est.gate_coef_.T) + est.gate_intercept_
    assert_allclose(est.gate_proba(X), special.softmax(logits / tau, axis=1), atol=1e-10)


@pytest.mark.parametrize("name", IDENTIFYING)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_linear_data_bend_the_logits_no_more_than_they_must(name, seed):
    """Straight logits are in reach, and a temperature at its bound is pointed out."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1.0, 1.0, (1000, 1))
    first = rng.random(1000) < special.expit(3.0 * X[:, 0])
    y = np.where(first, 5.0, 0.0) + 0.1 * rng.standard_normal(1000)
    # Either expert as the reference.
    options = {"init": [first.astype(float), 1.0 - first], "backend": "numpy"}
    linear = mx.MoERegressor(2, **options).fit(X, y)
    gate = Softmax(activation=name, temperature="estimate")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        est = mx.MoERegressor(2, gate=gate, **options).fit(X, y)
    assert est.converged_
    assert est.log_likelihood_ > linear.log_likelihood_ - 0.05
    at_bound = abs(np.log(est.gate_temperature_)) > 0.999 * np.log(1e3)
    assert est.separated_ >= at_bound
    flagged = [w for w in caught if "as good as a simpler gate" in str(w.message)]
    assert len(flagged) == est.separated_


# --- columns of each logit's own ----------------------------------------------------------------


def test_coefficients_outside_the_columns_are_zero(data):
    gate = Softmax(features=[["age"], ["age", "dose"]])
    est = fitted(data, gate)
    role = est.gate_role_
    assert sorted(role) == [-1, 0, 1]
    only_age, reference = int(np.flatnonzero(role == 0)[0]), int(np.flatnonzero(role == -1)[0])
    assert est.gate_coef_[only_age, 1] == 0.0
    assert est.gate_coef_[only_age, 0] != 0.0
    assert not est.gate_coef_[reference].any()
    assert est.gate_intercept_[reference] == 0.0
    plain = fitted(data, "softmax")
    assert est.n_parameters_ == plain.n_parameters_ - 1
    assert est.log_likelihood_ < plain.log_likelihood_
    logits = est.gate_intercept_ + data[0].to_numpy() @ est.gate_coef_.T
    assert_allclose(est.gate_proba(data[0]), special.softmax(logits, axis=1), atol=1e-12)
    coef = est.gate_coef_ - est.gate_coef_[-1]
    assert_allclose(est.gate_odds_ratios_, np.exp(coef), rtol=1e-12)


def test_columns_of_each_logit_are_recovered(rng):
    """A logit that leaves out a column which the truth leaves out loses nothing but a parameter."""
    n = 4000
    X = rng.standard_normal((n, 2))
    logits = np.column_stack([0.5 + 1.5 * X[:, 0], -0.5 + 1.2 * X[:, 1], np.zeros(n)])
    label = (logits + rng.gumbel(size=(n, 3))).argmax(axis=1)
    y = 4.0 * label + 0.5 * rng.standard_normal(n)
    masked = mx.MoERegressor(3, gate=Softmax(features=[[0], [1]]), init=label).fit(X, y)
    plain = mx.MoERegressor(3, init=label).fit(X, y)
    assert masked.n_parameters_ == plain.n_parameters_ - 2
    assert 0.0 <= plain.log_likelihood_ - masked.log_likelihood_ < 6.0
    assert masked.bic(X, y) < plain.bic(X, y)
    assert masked.gate_coef_[0, 0] == pytest.approx(1.5, abs=0.25)
    assert masked.gate_coef_[1, 1] == pytest.approx(1.2, abs=0.25)


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ([["age"]], "gate features has 1 entries, but n_experts=3"),
        ([["age"], ["size"]], r"features\[1\] names 'size', which is not among the gate's columns"),
        ([[0], [7]], r"features\[1\] holds position 7, which is none of the gate's 2 columns"),
    ],
)
def test_columns_that_are_not_there_are_refused(data, features, match):
    with pytest.raises(ValueError, match=match):
        fitted(data, Softmax(features=features))


def test_columns_must_not_depend_on_each_other(data):
    X = data[0].assign(twice=2.0 * data[0]["age"])
    with pytest.raises(DesignError, match="'twice'"):
        fitted((X, *data[1:]), Softmax(features=[["age"], ["twice"]]))
    with pytest.raises(DesignError, match="needs features, but there are none"):
        fitted(data, Softmax(activation="tanh"), gate_features=[])


def test_formula_names_the_columns(data):
    df = data[0].assign(y=data[1])
    gate = Softmax(features=[["age"], ["dose"]])
    res = mx.moe("y ~ age | age + dose", data=df, n_experts=3, gate_family=gate, init=data[2])
    assert len(res.params) == res.df_model
    table = res.gate_table
    assert (table == 0.0).to_numpy().sum() == 2 + 3
    assert res.odds_ratios().shape == (2, 2)
    assert "reference is expert" in str(res.summary())


@pytest.mark.parametrize("bound", [1e-3, 1e3])
def test_step_near_a_bound_goes_uphill(bound, rng, Z):
    """A temperature that wants past its bound stops there; the rest of the step knows."""
    gate = Softmax(activation="tanh", temperature="estimate")
    for _ in range(20):
        params = gate.init_params(batch_of(Z), rng.dirichlet(np.ones(3), 50), rng)
        near = np.full(3, np.log(bound) * (1.0 - 10.0 ** -rng.integers(3, 17)))
        near = {**params, "log_temperature": near}
        resp = np.eye(3)[rng.integers(0, 3, 50)]
        found = gate.accumulate(near, batch_of(Z), resp)
        image = gate.update(near, found, NoPenalty())
        assert abs(image["log_temperature"][0]) <= np.log(1e3)
        step = gate.pack(image) - gate.pack(near)
        assert gate.score(near, found) @ step > 0
