"""The objective never falls, and where a fit stops it is flat."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mixexperts.em.monitor import STATUSES
from mixexperts.experts import Gaussian
from mixexperts.penalties import Ridge

# The engine takes a fall of 64 eps * (|objective| + weight) for rounding; moving the objective
# to the scale of y adds a few units in the last place of the moved value.
ROUNDING = 64 * np.finfo(float).eps
SEEDS = st.integers(0, 10_000)
# The examples of a test are a function of the test alone.
FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=20)
KINDS = ("kmeans", "residual", "random", "elemental", "small_em", "split")


@FIXED
@given(
    seed=SEEDS,
    n=st.integers(12, 70),
    n_features=st.integers(1, 3),
    n_experts=st.integers(1, 4),
    gate=st.sampled_from(["softmax", "constant"]),
    init=st.sampled_from(KINDS),
    degree=st.integers(0, 2),
    shared=st.booleans(),
    intercept=st.booleans(),
    weighted=st.booleans(),
    accelerate=st.booleans(),
    size=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    penalties=st.tuples(*[st.sampled_from([None, Ridge(1e-3), Ridge(0.3)])] * 2),
)
@example(7, 60, 2, 3, "softmax", "random", 2, True, True, True, True, 1.0, (Ridge(0.3), None))
def test_history_never_falls(
    tools, seed, n, n_features, n_experts, gate, init, degree, shared, intercept, weighted,
    accelerate, size, penalties,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    X, y, _ = tools.draw(seed, n, n_features, n_experts, gap=rng.uniform(0, 3))
    weight = rng.gamma(1.0, size=n) * (rng.uniform(size=n) < 0.9) + 1e-3 if weighted else None
    est = tools.fit(
        X,
        y * size,
        n_experts,
        sample_weight=weight,
        gate=gate,
        expert=Gaussian(degree, shared, intercept or degree == 0),
        init=init,
        n_init=1,
        max_iter=60,
        accelerate=accelerate,
        gate_penalty=None if gate == "constant" else penalties[0],
        expert_penalty=penalties[1],
        quiet=True,
    )
    total = est.weight_sum_
    history = est.history_
    engine_size = np.abs(history + total * np.log(est.frame_.scale)).max()
    slack = ROUNDING * (engine_size + total + np.abs(history).max())
    assert est.status_ in STATUSES
    assert np.isfinite(history).all()
    assert np.diff(history, append=history[-1]).min() >= -slack
    assert history[-1] == est.objective_
    assert est.objective_ <= est.log_likelihood_
    assert est.n_iter_ >= len(history)


def newton_step_in_standard_errors(tools, objective, est):
    """How far a Newton step would go from the fitted raw parameters, in standard errors."""
    at, back = tools.flatten(tools.raw_parameters(est))
    gradient, hessian = tools.derivatives(lambda v: objective(back(v)), at, np.full(len(at), 1e-4))
    assert np.linalg.eigvalsh(-hessian)[0] > 0, "a maximum has negative curvature"
    covariance = np.linalg.inv(-hessian)
    return np.abs(covariance @ gradient) / np.sqrt(np.diag(covariance))


# ``converged`` promises a predicted gain of at most tol = 1e-8, that is an EM step of 1e-4
# standard errors of the complete data; where EM contracts by 0.99 a pass, the distance to the
# maximum is a hundred times that step in complete-data units and ten times more per standard
# error. Differences with step 1e-4 on sums of 1e2 see the gradient to 1e-10.
STATIONARY = 1e-2


@pytest.mark.parametrize("accelerate", [True, False])
@pytest.mark.parametrize("gate", ["softmax", "constant"])
@pytest.mark.parametrize("n_experts", [1, 2, 3])
def test_converged_means_stationary(tools, gate, n_experts, accelerate):
    for seed in range(3):
        X, y, _ = tools.draw(seed, 150, 2, n_experts)
        est = tools.fit(X, y, n_experts, gate=gate, accelerate=accelerate, tol=1e-8)
        assert est.status_ == "converged"

        def objective(raw, X=X, y=y, gate=gate):
            gate_X = np.empty((len(X), 0)) if gate == "constant" else X
            return tools.raw_log_density(raw, X, y, gate_X).sum()

        assert_allclose(objective(tools.raw_parameters(est)), est.log_likelihood_, rtol=1e-11)
        step = newton_step_in_standard_errors(tools, objective, est)
        assert step.max() < STATIONARY


@pytest.mark.parametrize("room", ["gate", "expert", "both"])
@pytest.mark.parametrize("n_experts", [1, 2, 3, 4])
def test_penalised_fit_is_the_maximum_of_the_penalised_likelihood(tools, room, n_experts):
    """log-likelihood - n alpha / 2 sum(coef^2), coefficients of standardised columns.

    Columns and response are standardised, the gate's coefficients centred over the experts.
    """
    alpha = 0.05
    X, y, _ = tools.draw(n_experts, 200, 2, n_experts)
    X = X * [3.0, 0.1] + [10.0, -5.0]
    y = 7.0 * y - 20.0
    ridge = {f"{r}_penalty": Ridge(alpha) for r in ("gate", "expert") if room in (r, "both")}
    est = tools.fit(X, y, n_experts, **ridge, n_init=3)
    assert est.status_ == "converged"
    spread = X.std(axis=0)

    def objective(raw):
        value = tools.raw_log_density(raw, X, y).sum()
        if room != "gate":
            value -= len(y) * alpha / 2 * np.sum((raw["coef"] * spread / y.std()) ** 2)
        if room != "expert":
            gate = (raw["gate_coef"] - raw["gate_coef"].mean(axis=0)) * spread
            value -= len(y) * alpha / 2 * np.sum(gate**2)
        return value

    raw = tools.raw_parameters(est)
    assert_allclose(tools.raw_log_density(raw, X, y).sum(), est.log_likelihood_, rtol=1e-11)
    assert_allclose(objective(raw), est.objective_, rtol=1e-11)
    assert newton_step_in_standard_errors(tools, objective, est).max() < STATIONARY


def test_ridge_shrinks_to_the_unpenalised_and_to_the_flat_fit(tools):
    X, y, _ = tools.draw(3, 150)
    free = tools.fit(X, y)
    nearly = tools.fit(X, y, expert_penalty=Ridge(1e-12), gate_penalty=Ridge(1e-12))
    flat = tools.fit(X, y, expert_penalty=Ridge(1e9), gate="constant")
    assert nearly.log_likelihood_ == pytest.approx(free.log_likelihood_, abs=1e-7)
    assert_allclose(nearly.coef_, free.coef_, atol=1e-6)
    # alpha = 1e9 leaves coefficients of order 1e-9; intercepts are not penalised
    assert np.abs(flat.coef_).max() < 1e-7
    constants = tools.fit(X, y, expert=Gaussian(degree=0), gate="constant")
    assert flat.log_likelihood_ == pytest.approx(constants.log_likelihood_, abs=1e-5)


@FIXED
@given(seed=SEEDS, gate=st.sampled_from(["softmax", "constant"]), n_experts=st.integers(2, 3))
def test_probabilities_sum_to_one_and_densities_agree(tools, seed, gate, n_experts):
    X, y, _ = tools.draw(seed, 60, 2, n_experts)
    est = tools.fit(X, y, n_experts, gate=gate, n_init=1, quiet=True)
    rng = np.random.default_rng(seed)
    new, new_y = 3 * rng.standard_normal((30, 2)), 10 * rng.standard_normal(30)
    for proba in (est.gate_proba(new), est.responsibilities(new, new_y)):
        assert proba.shape == (30, n_experts)
        assert (proba >= 0).all()
        # exp of a difference of logs of size up to 1e4: that many roundings
        assert_allclose(proba.sum(axis=1), 1.0, rtol=1e4 * np.finfo(float).eps)
    log_density = est.score_samples(new, new_y)
    assert_allclose(log_density, est.predictive(new).logpdf(new_y), rtol=1e-12, atol=1e-12)
    assert_allclose(est.predictive(new).pdf(new_y), np.exp(log_density), rtol=1e-10)
    gate_X = np.empty((30, 0)) if gate == "constant" else new
    raw = tools.raw_parameters(est)
    assert_allclose(
        log_density, tools.raw_log_density(raw, new, new_y, gate_X), rtol=1e-10, atol=1e-9
    )
    assert_allclose(
        est.predict(new), np.sum(est.gate_proba(new) * est.predict_experts(new), axis=1)
    )
    assert_allclose(est.predict_experts(new), raw["intercept"] + new @ raw["coef"].T, atol=1e-10)


@pytest.mark.parametrize("far", [1e3, 1e9, 1e100])
def test_responsibilities_sum_to_one_far_from_all_experts(tools, far):
    """Also where densities underflow or exponents overflow, at x where the experts cross."""
    rng = np.random.default_rng(1)
    x, side = rng.standard_normal(200), rng.integers(0, 2, 200)
    y = np.where(side == 1, x, -x) + 0.1 * rng.standard_normal(200)
    est = tools.fit(x[:, None], y, gate="constant", expert=Gaussian(shared_scale=True))
    crossing = -np.diff(est.intercept_) / np.diff(est.coef_[:, 0])
    with np.errstate(over="ignore"):
        resp = est.responsibilities([crossing, [0.0], [2.0]], np.full(3, far))
    assert_allclose(resp.sum(axis=1), 1.0, rtol=1e-9)


def test_responsibilities_where_no_density_is_left_are_nan(tools):
    """Not zero, not equal shares: a squared residual overflowed, and nothing is known."""
    X, y, _ = tools.draw(5)
    est = tools.fit(X, y)
    with np.errstate(over="ignore"):
        resp = est.responsibilities(X[:2], np.array([1e200, y[1]]))
        log_density = est.score_samples(X[:2], np.array([1e200, y[1]]))
    assert np.isnan(resp[0]).all()
    assert log_density[0] == -np.inf
    assert resp[1].sum() == pytest.approx(1.0)
