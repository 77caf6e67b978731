"""Poisson and binomial experts: the elementwise parts, the steps, and the edges."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import expit

from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.engine import em_pass
from mixexperts.em.init import KINDS, initial_theta, keyed_rng
from mixexperts.em.passes import choose_pass
from mixexperts.errors import InvalidResponseError
from mixexperts.experts import Binomial, Poisson
from mixexperts.experts._glm import _LARGEST, shortened
from mixexperts.gates import Constant, Softmax
from mixexperts.penalties import NoPenalty, Ridge

N = 60


def batch_of(y, X=None, **options):
    X = np.ones((len(y), 1)) if X is None else X
    return Batch(np.asarray(y, dtype=float), {"mean": X}, X, np.ones(len(y)), **options)


@pytest.fixture
def rng():
    return np.random.default_rng(20260901)


def design(rng, n=N, p=2):
    return np.column_stack([np.ones(n), rng.standard_normal((n, p))])


# --- elementwise parts --------------------------------------------------------------------------

RESPONSES = {
    "poisson": (Poisson(), np.array([0.0, 1.0, 3.0, 40.0])),
    "binary": (Binomial(), np.array([0.0, 1.0, 1.0, 0.0])),
    "counts": (Binomial(), np.array([[0.0, 5.0], [3.0, 2.0], [7.0, 0.0], [0.0, 0.0]])),
}


@pytest.mark.parametrize("top", [0.0, 40.0, 290.0, 310.0, 800.0, 1e5])
@pytest.mark.parametrize("which", RESPONSES)
def test_the_compiled_pass_is_the_same_far_out(which, top):
    family, y = RESPONSES[which]
    batch = Batch(y, {"mean": np.eye(4)}, np.empty((4, 0)), np.ones(4))
    model = Model(Constant(), family)
    for eta in (top - np.arange(4.0), np.arange(4.0) - top):
        theta = Theta({"log_weight": np.zeros(1)}, {"coef": eta[None]})
        plain, fused = (choose_pass(model, b)(model, theta, batch) for b in ("numpy", "numba"))
        for key, value in plain.items():
            assert np.isfinite(value).all()
            # differences of numbers of this size
            size = np.abs(value).max(initial=1.0) * max(1.0, 1e-3 * top)
            assert_allclose(fused[key], value, rtol=0, atol=1e-11 * size, err_msg=key)


@pytest.mark.parametrize("which", RESPONSES)
def test_slope_and_curve_are_derivatives(which):
    family, y = RESPONSES[which]
    eta = np.linspace(-3.0, 3.0, 13) + np.zeros((4, 1))
    h = 1e-4
    up, mid, down = (family.density(y, eta + shift)[0] for shift in (h, 0.0, -h))
    _, mean = family.density(y, eta)
    slope, curve = family.moments(y, mean)
    # Central differences: h^2 times third derivatives (below 50), rounding 1e-14 / h (/ h).
    assert_allclose((up - down) / (2 * h), slope, atol=1e-6)
    assert_allclose(-(up - 2 * mid + down) / h**2, curve, atol=1e-5)


@pytest.mark.parametrize("eta", [-1e5, -800.0, -40.0, 40.0, 800.0, 1e5])
@pytest.mark.parametrize("which", RESPONSES)
def test_far_out_everything_stays_a_number(which, eta):
    family, y = RESPONSES[which]
    with np.errstate(all="raise", under="ignore"):
        log_prob, mean = family.density(y, np.full((4, 1), eta))
        slope, curve = family.moments(y, mean)
        for values in (log_prob, mean, slope, curve, curve**2):
            assert np.isfinite(values).all()
    assert (log_prob <= 1e-12).all()
    assert (curve >= 0.0).all()


def test_binary_rows_are_counts_of_one_trial(rng):
    X = design(rng)
    y = rng.integers(0, 2, N).astype(float)
    coef = {"coef": rng.standard_normal((3, 3))}
    weight = rng.uniform(size=(N, 3))
    single, double = batch_of(y, X), batch_of(np.column_stack([y, 1.0 - y]), X)
    family = Binomial()
    for method in ("log_prob", "mean", "variance", "cdf", "sf", "residual", "distance"):
        assert_allclose(
            getattr(family, method)(coef, single), getattr(family, method)(coef, double), atol=1e-14
        )
    left, right = (family.accumulate(coef, b, weight) for b in (single, double))
    for key in left:
        assert_allclose(left[key], right[key], rtol=1e-13, atol=1e-13)


def test_many_trials_are_that_many_rows_but_for_the_number_of_ways(rng):
    """Scores and information are the same; the log-likelihood differs by log binomials."""
    X, trials = design(rng, 12), rng.integers(0, 5, 12)
    successes = rng.binomial(trials, 0.4)
    rows = np.repeat(np.arange(12), trials)
    single = np.concatenate(
        [[1.0] * s + [0.0] * (m - s) for s, m in zip(successes, trials, strict=True)]
    )
    counts = batch_of(np.column_stack([successes, trials - successes]), X)
    family, coef = Binomial(), {"coef": rng.standard_normal((2, 3))}
    left = family.accumulate(coef, counts, np.ones((12, 2)))
    right = family.accumulate(coef, batch_of(single, X[rows]), np.ones((len(rows), 2)))
    for key in ("gram", "cross"):
        assert_allclose(left[key], right[key], rtol=1e-12, atol=1e-12)
    ways = stats.binom.logpmf(successes, trials, 0.5) + trials * np.log(2.0)
    assert_allclose(
        family.log_prob(coef, counts).sum(axis=0) - ways.sum(),
        family.log_prob(coef, batch_of(single, X[rows])).sum(axis=0),
    )


def test_rows_without_trials_say_nothing(rng):
    X = design(rng)
    y = rng.integers(0, 5, (N, 2)).astype(float)
    y[::3] = 0.0
    some = y.sum(axis=1) > 0
    family, coef = Binomial(), {"coef": rng.standard_normal((2, 3))}
    whole = family.accumulate(coef, batch_of(y, X), np.ones((N, 2)))
    part = family.accumulate(coef, batch_of(y[some], X[some]), np.ones((some.sum(), 2)))
    assert_allclose(whole["gram"], part["gram"], rtol=1e-12, atol=1e-12)
    assert_allclose(whole["cross"], part["cross"], rtol=1e-12, atol=1e-12)
    assert_array_equal(family.log_prob(coef, batch_of(y, X))[~some], 0.0)


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [-30.0, -8.0, 0.0, 8.0, 20.0])
@pytest.mark.parametrize("kind", ["poisson", "binomial"])
def test_steps_from_far_away_do_not_overshoot(kind, start, rng):
    """Newton's own steps do: from eta = -8 the first would go to a mean of exp(3000)."""
    X = design(rng)
    eta = X @ np.array([0.3, 0.5, -0.4])
    if kind == "poisson":
        family, y = Poisson(), rng.poisson(np.exp(eta)).astype(float)
    else:
        family = Binomial()
        s = rng.binomial(10, expit(eta))
        y = np.column_stack([s, 10 - s]).astype(float)
    batch, weight = batch_of(y, X), np.ones((N, 1))
    params = {"coef": np.array([[start, 0.0, 0.0]])}
    values = [family.log_prob(params, batch).sum()]
    for _ in range(80):
        params = family.update(params, family.accumulate(params, batch, weight), NoPenalty())
        values.append(family.log_prob(params, batch).sum())
    assert (np.diff(values) >= -1e-12 * abs(values[0])).all()
    score = family.score(params, family.accumulate(params, batch, weight))
    assert np.abs(score).max() < 1e-8


def test_short_steps_are_taken_whole(rng):
    root = rng.standard_normal((9, 3))
    gram, step = root.T @ root, rng.standard_normal(3)
    for size in (1e-3, 1e-6):
        # log(1 + r) / r = 1 - r / 2 + ..., with r a few times the size of the step
        assert_allclose(shortened(size * step, gram), size * step, rtol=10 * size)
    assert_array_equal(shortened(step, np.zeros((3, 3))), step)
    assert_array_equal(shortened(np.zeros(3), gram), 0.0)
    length = lambda d: _LARGEST * np.sqrt(np.diag(gram) @ d**2 / gram[0, 0])  # noqa: E731
    far = 1e6 * step
    assert length(shortened(far, gram)) == pytest.approx(np.log1p(length(far)), rel=1e-12)


# --- separation -----------------------------------------------------------------------------------


def separated_cases(rng):
    X = design(rng)
    side = X[:, 1] > 0
    return {
        "no event": (Poisson(), batch_of(np.zeros(N), X)),
        "events on one side": (Poisson(), batch_of(np.where(side, 4.0 + side, 0.0), X)),
        "all zeros": (Binomial(), batch_of(np.zeros(N), X)),
        "all ones": (Binomial(), batch_of(np.ones(N), X)),
        "parted": (Binomial(), batch_of(side.astype(float), X)),
        "parted counts": (Binomial(), batch_of(np.column_stack([5.0 * side, 5.0 * ~side]), X)),
    }


@pytest.mark.parametrize("which", list(separated_cases(np.random.default_rng(0))))
def test_separated_experts_stay_finite_and_are_marked(which, rng):
    family, batch = separated_cases(rng)[which]
    model = Model(Constant(), family)
    theta = initial_theta(model, batch, 1, "single", rng)
    result = fit_em(model, batch, theta)
    assert result.status == "converged"
    assert np.isfinite(model.pack(result.theta)).all()
    if which == "events on one side":  # no separation: their number binds the slope
        assert result.separated_experts == ()
    else:
        assert result.separated_experts == (0,)
        assert result.log_likelihood == pytest.approx(0.0, abs=1e-5)
    held = fit_em(Model(Constant(), family, expert_penalty=Ridge(1.0)), batch, theta)
    # a penalty holds slopes; an intercept without events, or with nothing else, is not held
    alone = which in ("no event", "all zeros", "all ones")
    assert held.separated_experts == ((0,) if alone else ())


@pytest.mark.parametrize("which", list(separated_cases(np.random.default_rng(0))))
@pytest.mark.parametrize("kind", KINDS)
def test_starts_are_finite_where_cells_are_empty(which, kind, rng):
    family, batch = separated_cases(rng)[which]
    model = Model(Softmax(), family)
    theta = initial_theta(model, batch, 3, kind, keyed_rng(0, kind, 0))
    assert np.isfinite(model.pack(theta)).all()
    assert np.isfinite(em_pass(model, theta, batch)["log_likelihood"])


def test_an_expert_for_the_zeros_is_sound(rng):
    """Counts with many zeros: one expert may take them all, and its likelihood has a bound."""
    y = np.where(rng.random(300) < 0.4, 0, rng.poisson(9.0, 300)).astype(float)
    model, batch = Model(Constant(), Poisson()), batch_of(y)
    result = fit_em(model, batch, initial_theta(model, batch, 2, "kmeans", rng))
    assert result.status == "converged"
    assert len(result.separated_experts) == 1
    mean = np.exp(result.theta.expert["coef"][:, 0])
    assert mean.min() < 1e-6
    assert mean.max() == pytest.approx(y[y > 0].mean(), rel=0.01)


def test_an_expert_with_events_is_not_separated(rng):
    X = design(rng, 500)
    y = rng.poisson(np.exp(-3.0 + 0.5 * X[:, 1])).astype(float)
    result = fit_em(
        Model(Constant(), Poisson()),
        batch_of(y, X),
        initial_theta(Model(Constant(), Poisson()), batch_of(y, X), 1, "single", rng),
    )
    assert result.separated_experts == ()


# --- responses ------------------------------------------------------------------------------------

REFUSED = {
    "negative count": (Poisson(), [0, 2, -1], r"poisson.*row 2 holds -1"),
    "fraction": (Poisson(), [0, 0.5, 1], r"poisson.*row 1 holds 0.5"),
    "two columns of counts": (Poisson(), [[1, 2], [3, 4]], r"one column of counts.*\(2, 2\)"),
    "count for binary": (Binomial(), [0, 1, 1, 2], r"binomial.*row 3 holds 2"),
    "share": (Binomial(), [0, 0.25], r"binomial.*row 1 holds 0.25"),
    "negative failures": (Binomial(), [[1, 2], [3, -1]], r"row 1 holds \(3, -1\)"),
    "fraction of failures": (Binomial(), [[1, 2.5], [3, 1]], r"row 0 holds \(1, 2.5\)"),
    "no trials": (Binomial(), [[0, 0], [0, 0]], r"are 0 in all 2 rows"),
    "three columns": (Binomial(), [[0, 0, 1], [0, 1, 0]], r"shape \(2, 3\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_responses_are_refused_by_name_and_row(what):
    family, y, message = REFUSED[what]
    with pytest.raises(InvalidResponseError, match=message):
        family.check_response(np.asarray(y, dtype=float))


@pytest.mark.parametrize("family", [Poisson, Binomial])
def test_options_are_checked(family):
    with pytest.raises(ValueError, match="degree must be an integer >= 0"):
        family(degree=-1)
    with pytest.raises(TypeError, match="degree must be an integer >= 0"):
        family(degree=1.5)
    with pytest.raises(ValueError, match="leaves no column"):
        family(degree=0, fit_intercept=False)


# --- recovery -------------------------------------------------------------------------------------


def observed_information(model, theta, batch):
    """By central differences of the score, which the conformance tests hold to the density."""
    at = model.pack(theta)
    rows = []
    for step in 1e-5 * np.eye(len(at)):
        up, down = (
            model.score(moved, em_pass(model, moved, batch))
            for moved in (model.unpack(at + step, theta), model.unpack(at - step, theta))
        )
        rows.append((down - up) / 2e-5)
    return 0.5 * (np.array(rows) + np.array(rows).T)


@pytest.mark.parametrize("kind", ["poisson", "counts"])
def test_a_known_truth_is_recovered_within_four_standard_errors(kind):
    rng = np.random.default_rng(20260901)
    n = 5000
    x, z = rng.uniform(-1.0, 1.0, (2, n))
    X, Z = np.column_stack([np.ones(n), x]), np.column_stack([np.ones(n), z])
    coef = (
        np.array([[2.0, -0.8], [0.5, 1.2]])
        if kind == "poisson"
        else np.array([[-1.2, 0.7], [1.0, -0.9]])
    )
    gate = np.array([0.4, 1.5, 0.0, 0.0]).reshape(2, 2)
    label = (rng.random(n) > expit(Z @ gate[0])).astype(int)
    eta = np.einsum("ij,ij->i", X, coef[label])
    if kind == "poisson":
        family, y = Poisson(), rng.poisson(np.exp(eta)).astype(float)
    else:
        trials = rng.integers(5, 15, n)
        s = rng.binomial(trials, expit(eta))
        family, y = Binomial(), np.column_stack([s, trials - s]).astype(float)
    model = Model(Softmax(), family)
    batch = Batch(y, {"mean": X}, Z, np.ones(n))
    theta = initial_theta(model, batch, 2, "kmeans", rng)
    result = fit_em(model, batch, theta, monitor=Monitor(tol=1e-12))
    assert result.status == "converged"
    found = result.theta
    order = np.argsort(np.abs(found.expert["coef"] - coef[0]).sum(axis=1))
    found = model.permute(found, order)
    truth = dataclasses.replace(found, gate={"coef": gate}, expert={"coef": coef})
    information = observed_information(model, found, batch)
    assert np.linalg.eigvalsh(information).min() > 0.0
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    apart = (model.pack(found) - model.pack(truth)) / errors
    assert np.abs(apart).max() < 4.0
    assert errors.max() < 0.2  # four of them tell the experts apart
