"""Missing responses by likelihood: against brute force, and against what dropping rows does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.information import observed_information
from mixexperts.em.model import em_pass
from mixexperts.experts import MultivariateGaussian
from mixexperts.experts._several import missing_patterns
from mixexperts.gates import Softmax

D = 3


def make(n, seed, kind="mcar"):
    """Rows of two experts with three responses, those missing, and the truth."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 1))])
    coef = np.array([[[0.0, 1.0], [1.0, -1.0], [0.0, 0.5]], [[2.0, -0.5], [-1.0, 0.5], [1.0, 0.0]]])
    root = np.array([[0.6, 0, 0], [0.4, 0.5, 0], [-0.3, 0.2, 0.5]])
    covariance = np.stack([root @ root.T, 0.5 * np.eye(D) + 0.2])
    gate = np.array([[0.3, 1.0], [0.0, 0.0]])
    label = (rng.random(n) >= 1.0 / (1.0 + np.exp(-X @ gate[0]))).astype(int)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(covariance)[label], rng.normal(size=(n, D)))
    Y = np.einsum("ndp,np->nd", coef[label], X) + noise
    lost = np.zeros((n, D), dtype=bool)
    if kind == "mcar":
        lost = rng.random((n, D)) < 0.3
        lost[lost.all(axis=1), 0] = False
    else:  # the second and third are asked for only where the first is low
        lost[:, 1] = rng.random(n) < 1.0 / (1.0 + np.exp(-3.0 * (Y[:, 0] - 0.5)))
        lost[:, 2] = rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * (Y[:, 0] - 1.0)))
    theta = Theta({"coef": gate}, {"coef": coef, "covariance": covariance})
    return batch_of(X, np.where(lost, np.nan, Y)), batch_of(X, Y), theta


def batch_of(X, Y, weight=None):
    return Batch(Y, {"mean": X}, X, np.ones(len(X)) if weight is None else weight)


def models():
    return [Model(Softmax(), MultivariateGaussian(covariance=c)) for c in ("full", "diag", "tied")]


def fit(model, batch, theta, **options):
    options = {"monitor": Monitor(max_iter=3000), "backend": "numpy"} | options
    return fit_em(model, batch, theta, **options)


def test_likelihood_is_the_marginal_density():
    batch, _, theta = make(60, 0)
    found = MultivariateGaussian().log_prob(theta.expert, batch)
    for i, y in enumerate(batch.y):
        seen = ~np.isnan(y)
        for k in range(2):
            mean = theta.expert["coef"][k] @ batch.X[i]
            covariance = theta.expert["covariance"][k][np.ix_(seen, seen)]
            density = stats.multivariate_normal(mean[seen], covariance).logpdf(y[seen])
            assert found[i, k] == pytest.approx(density, rel=1e-10, abs=1e-10)


def test_likelihood_is_the_integral_over_what_is_missing():
    """The same by brute force: the complete density summed over a grid of the missing value."""
    batch, _, theta = make(40, 1)
    family = MultivariateGaussian()
    grid = np.linspace(-12.0, 12.0, 4001)
    row = int(np.flatnonzero(np.isnan(batch.y).sum(axis=1) == 1)[0])
    whole = np.tile(batch.y[row], (len(grid), 1))
    whole[np.isnan(whole)] = grid
    dense = family.log_prob(theta.expert, batch_of(np.tile(batch.X[row], (len(grid), 1)), whole))
    assert_allclose(
        np.log(np.exp(dense).sum(axis=0) * (grid[1] - grid[0])),
        family.log_prob(theta.expert, batch)[row],
        rtol=1e-9,
    )


def test_complete_rows_are_what_they_are_without_the_patterns():
    """Rows of weight zero with holes send all others through the patterns, and change nothing."""
    holes, whole, theta = make(200, 2)
    X = np.vstack([whole.X, holes.X])
    weight = np.repeat([1.0, 0.0], 200)
    for model in models():
        plain = em_pass(model, theta, whole)
        mixed = em_pass(model, theta, batch_of(X, np.vstack([whole.y, holes.y]), weight))
        for name, value in plain.items():
            assert_allclose(mixed[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


def test_complete_rows_need_one_step_for_one_expert():
    """The M-step is closed: without missing values the second step does not move."""
    _, whole, theta = make(300, 3)
    family = MultivariateGaussian()
    params = {name: values[:1] for name, values in theta.expert.items()}
    weight = np.ones((300, 1))
    for _ in range(2):
        before = params
        stats_ = family.accumulate(params, whole, weight)
        params = family.update(params, stats_, mx.penalties.NoPenalty())
    assert_allclose(params["coef"], before["coef"], atol=1e-12)
    assert_allclose(params["covariance"], before["covariance"], atol=1e-12)


@pytest.mark.parametrize("number", range(3), ids=["full", "diag", "tied"])
def test_plain_em_never_falls_and_newton_ends_where_it_does(number):
    model = models()[number]
    batch, _, theta = make(400, 4)
    theta = model.unpack(model.pack(theta), theta)
    slow = fit(model, batch, theta, accelerate=False)
    fast = fit(model, batch, theta)
    assert slow.status == fast.status == "converged"
    assert (np.diff(slow.history) >= 0.0).all()
    assert fast.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-6)
    assert fast.n_iter < slow.n_iter


@pytest.mark.parametrize("kind", ["mcar", "mar"])
def test_estimates_are_within_their_errors_of_the_truth(kind):
    model = models()[0]
    batch, _, theta = make(4000, 5, kind)
    found = fit(model, batch, theta)
    assert found.status == "converged"
    information = observed_information(model, found.theta, batch)["information"]
    error = np.sqrt(np.diagonal(np.linalg.inv(information)))
    z = (model.pack(found.theta) - model.pack(theta)) / error
    assert np.abs(z).max() < 4.0
    # Dropping incomplete rows loses information, and where the holes hang on y it misleads.
    complete = ~np.isnan(batch.y).any(axis=1)
    rest = batch_of(batch.X[complete], batch.y[complete])
    dropped = fit(model, rest, theta)
    lost = observed_information(model, dropped.theta, rest)["information"]
    wide = np.sqrt(np.diagonal(np.linalg.inv(lost)))
    assert (wide > error).mean() > 0.9
    off = np.abs((model.pack(dropped.theta) - model.pack(theta)) / wide).max()
    assert (off > 8.0) == (kind == "mar")


def test_missing_values_add_information_where_responses_are_correlated():
    """Rows that lack the second response still sharpen it, through the first."""
    rng = np.random.default_rng(6)
    n = 400
    X = np.ones((n, 1))
    Y = rng.standard_normal((n, 2)) @ np.linalg.cholesky([[1.0, 0.95], [0.95, 1.0]]).T
    Y[100:, 1] = np.nan
    model = Model(Softmax(), MultivariateGaussian())
    theta = Theta(
        {"coef": np.zeros((1, 1))}, {"coef": np.zeros((1, 2, 1)), "covariance": np.eye(2)[None]}
    )
    found = fit(model, batch_of(X, Y), theta)
    information = observed_information(model, found.theta, batch_of(X, Y))["information"]
    error = np.sqrt(np.diagonal(np.linalg.inv(information)))
    # the regression estimator: its variance is that of the mean of 400 and the rest of 100
    assert error[1] == pytest.approx(np.sqrt(0.95**2 / 400 + (1 - 0.95**2) / 100), rel=0.15)
    slope = np.cov(Y[:100].T)[0, 1] / Y[:100, 0].var(ddof=1)
    by_hand = Y[:100, 1].mean() + slope * (Y[:, 0].mean() - Y[:100, 0].mean())
    assert found.theta.expert["coef"][0, 1, 0] == pytest.approx(by_hand, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    lost=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=30),
    copies=st.sampled_from([1, 9, 12]),
)
def test_patterns_part_the_rows(lost, copies):
    """Every row is in one group, with the responses that it has; also of very many responses."""
    mask = np.tile(np.array(lost), (1, copies))
    y = np.where(mask, np.nan, 1.0)
    seen_rows = np.zeros(len(y), dtype=int)
    for rows, seen in missing_patterns(y):
        seen_rows[rows] += 1
        assert not np.isnan(y[rows][:, seen]).any()
        assert np.isnan(y[rows]).sum() == y[rows].size - y[rows][:, seen].size
    assert (seen_rows == 1).all()


def test_estimator_likelihood_is_that_of_the_engine():
    """Scaling of the responses, some of them missing, is taken back row by row."""
    batch, _, _ = make(300, 8)
    est = mx.MoERegressor(2, n_init=2, random_state=0).fit(batch.X[:, 1:], 10.0 * batch.y + 3.0)
    model = models()[0]
    expert = {
        "coef": np.concatenate([est.intercept_[:, :, None], est.coef_], axis=2),
        "covariance": est.covariance_,
    }
    gate = {"coef": np.column_stack([est.gate_intercept_, est.gate_coef_])}
    own = em_pass(model, Theta(gate, expert), batch_of(batch.X, 10.0 * batch.y + 3.0))
    assert est.log_likelihood_ == pytest.approx(own["log_likelihood"], rel=1e-10)
    assert est.score_samples(batch.X[:, 1:], 10.0 * batch.y + 3.0).sum() == pytest.approx(
        est.log_likelihood_, rel=1e-10
    )
