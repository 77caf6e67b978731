"""Learning block by block."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone

import mixexperts as mx
from mixexperts.em.information import observed_information
from mixexperts.em.model import em_pass
from mixexperts.em.online import complete_information
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.penalties import Ridge

N, BLOCK = 20_000, 500


def simulate(family="gaussian", seed=0, n=N):
    rng = np.random.default_rng([9, seed])
    x = rng.normal(size=(n, 2))
    label = (rng.random(n) < 1 / (1 + np.exp(-0.5 - x[:, 0]))).astype(int)
    mean = np.where(label == 0, 0.5 + x[:, 0] - 0.5 * x[:, 1], -1 - x[:, 0])
    if family == "poisson":
        return x, rng.poisson(np.exp(0.8 + 0.6 * mean)).astype(float)
    if family == "binomial":
        y = rng.binomial(10, 1 / (1 + np.exp(-1.5 * mean)))
        return x, np.column_stack([y, 10 - y]).astype(float)
    return x, mean + 0.7 * rng.normal(size=n)


def learn(est, X, y, block=BLOCK, **options):
    for i in range(0, len(X), block):
        est.partial_fit(X[i : i + block], y[i : i + block], **options)
    return est


def distance(est, mle, X, y):
    """Distance of both parameters from the MLE, in its standard errors."""
    model = est.model_
    theta = est.frame_.engine(model, mle.frame_.raw(mle.model_, mle.theta_))
    batch = est.frame_.batch(X, y, None, None)
    if model.gate.has_logits:
        information = observed_information(model, theta, batch)["information"]
    else:
        information = complete_information(model, theta, batch) * len(X)
    error = np.sqrt(np.diag(np.linalg.inv(information)))
    points = est.online_.average, est.online_.theta
    return [(model.pack(p) - model.pack(theta)) / error for p in points]


@pytest.mark.parametrize(
    ("family", "gate"),
    [
        ("gaussian", "softmax"),
        ("poisson", "softmax"),
        ("binomial", "constant"),
        ("gaussian", "gaussian"),
    ],
)
def test_one_reading_ends_within_sampling_error_of_the_mle(family, gate):
    """The mean square of z is 1/3 in theory: (1 + late)^2 / (1 + 2 late) - 1 with late = 1."""
    X, y = simulate(family)
    options = {"expert": family, "gate": gate, "random_state": 0, "n_init": 4}
    mle = mx.MoERegressor(2, **options).fit(X, y)
    averaged, last = distance(learn(mx.MoERegressor(2, **options), X, y), mle, X, y)
    assert np.abs(averaged).max() < 2.5
    assert np.mean(averaged**2) < 1.0
    assert np.mean(averaged**2) < np.mean(last**2)


def test_more_epochs_come_closer():
    X, y = simulate(seed=2, n=5000)
    options = {"random_state": 0, "n_init": 3, "backend": "numpy"}
    mle = mx.MoERegressor(2, **options).fit(X, y)
    est = mx.MoERegressor(2, **options)
    far = []
    for _ in range(6):
        far.append(np.abs(distance(learn(est, X, y), mle, X, y)[0]).max())
    assert far[-1] < 0.3
    assert far[-1] < far[0]


@pytest.mark.parametrize("late", [True, False])
def test_the_step_is_newtons_on_the_complete_data(late, monkeypatch):
    """From the MLE of all rows a block of those rows moves nothing."""
    X, y = simulate(seed=3, n=1500)
    est = mx.MoERegressor(2, random_state=0, n_init=3, tol=1e-12, backend="numpy").fit(X, y)
    before = est.model_.pack(est.theta_)
    est.partial_fit(X, y, average=late)
    assert_allclose(est.model_.pack(est.theta_), before, atol=1e-6)
    assert est.weight_sum_ == 3000
    assert est.status_ == "online"


def test_complete_information_is_that_of_least_squares():
    """Of one Gaussian expert: X'X / s^2, and 2 for the logarithm of the scale."""
    X, y = simulate(seed=4, n=800)
    est = mx.MoERegressor(1, backend="numpy").fit(X, y)
    batch = est.frame_.batch(X, y, None, None)
    found = complete_information(est.model_, est.theta_, batch)
    scale = est.theta_.expert["scale"][0]
    right = np.zeros((4, 4))
    right[:3, :3] = batch.X.T @ batch.X / len(X) / scale**2
    right[3, 3] = 2.0
    # central differences of a step of 0.02: the curvature of exp(-2 log s) is off by 0.03%
    assert_allclose(found, right, atol=1e-3 * right.max())


def test_weights_and_repeated_rows_agree():
    X, y = simulate(seed=5, n=600)
    weight = 1.0 + (np.arange(600) % 2)
    twice = np.repeat(np.arange(600), weight.astype(int))
    options = {"random_state": 0, "n_init": 2, "backend": "numpy"}
    one, two = mx.MoERegressor(2, **options), mx.MoERegressor(2, **options)
    for rows in (slice(0, 300), slice(300, 600)):
        one.partial_fit(X[rows], y[rows], weight[rows])
        inside = twice[(twice >= rows.start) & (twice < rows.stop)]
        two.partial_fit(X[inside], y[inside])
    assert_allclose(one.coef_, two.coef_, atol=1e-6)
    assert one.weight_sum_ == two.weight_sum_ == weight.sum()
    assert one.log_likelihood_ == pytest.approx(two.log_likelihood_, abs=1e-5)


def test_history_is_what_each_block_looked_like_before_it_was_learned():
    X, y = simulate(seed=6, n=1500)
    est = mx.MoERegressor(2, random_state=0, n_init=2)
    est.partial_fit(X[:500], y[:500])
    ahead = est.score_samples(X[500:1000], y[500:1000]).mean()
    est.partial_fit(X[500:1000], y[500:1000])
    assert est.history_[1] == pytest.approx(ahead, abs=1e-10)
    assert est.log_likelihood_ == pytest.approx(500 * est.history_.sum(), abs=1e-8)
    assert est.mass_.sum() == pytest.approx(1000)


def test_it_goes_on_after_a_file_and_fit_begins_anew(tmp_path):
    X, y = simulate(seed=7, n=1500)
    frame = pd.DataFrame(X, columns=["a", "b"])
    est = mx.MoERegressor(2, random_state=0, n_init=2)
    est.partial_fit(frame[:500], y[:500]).partial_fit(frame[500:1000], y[500:1000])
    est.save(tmp_path / "m.mxp")
    again = mx.load(tmp_path / "m.mxp")
    for model in (est, again):
        model.partial_fit(frame[1000:][["b", "a"]], y[1000:])
    assert_allclose(again.coef_, est.coef_, rtol=0, atol=0)
    assert (again.history_ == est.history_).all()
    est.fit(frame, y)
    assert not hasattr(est, "online_")
    assert est.converged_
    fresh = mx.MoERegressor(2, random_state=0, n_init=2).fit(frame, y)
    assert est.log_likelihood_ == fresh.log_likelihood_


def test_groups_offsets_and_penalties_go_along():
    rng = np.random.default_rng(8)
    u, size = 600, 4
    subject = np.repeat(np.arange(u), size)
    label = rng.integers(0, 2, u)[subject]
    x, offset = rng.normal(size=(2, u * size))
    y = rng.poisson(np.exp(np.where(label == 0, 1.5 - 0.5 * x, 0.3 + 0.5 * x) + 0.2 * offset))
    options = {"expert": "poisson", "gate": "constant", "random_state": 0, "n_init": 2}
    options["expert_penalty"] = Ridge(1e-3)
    mle = mx.MoERegressor(2, **options).fit(x[:, None], y, offset=0.2 * offset, groups=subject)
    est = mx.MoERegressor(2, **options)
    for i in range(0, u * size, 400):
        rows = slice(i, i + 400)
        est.partial_fit(x[rows, None], y[rows], offset=0.2 * offset[rows], groups=subject[rows])
    assert est.weight_sum_ == u
    assert est.row_weight_sum_ == u * size
    assert_allclose(est.coef_, mle.coef_, atol=0.05)
    assert_allclose(est.intercept_, mle.intercept_, atol=0.05)
    with pytest.raises(ValueError, match="groups is missing"):
        est.partial_fit(x[:4, None], y[:4], offset=offset[:4])
    with pytest.raises(ValueError, match="offset is missing"):
        est.partial_fit(x[:4, None], y[:4], groups=subject[:4])


def test_outlying_blocks_cannot_throw_it_out():
    X, y = simulate(seed=9, n=1000)
    est = mx.MoERegressor(2, random_state=0, n_init=2).partial_fit(X, y)
    est.partial_fit(X[:3], np.full(3, 1e6))
    assert np.isfinite(est.coef_).all()
    assert np.isfinite(em_pass(est.model_, est.theta_, est.frame_.batch(X, y, None, None))[
        "log_likelihood"
    ])  # fmt: skip
    learn(est, *simulate(seed=10, n=5000))
    assert np.abs(est.scale_ - 0.7).max() < 0.5


def test_bad_settings_are_named():
    X, y = simulate(n=100)
    est = mx.MoERegressor(2, n_init=1)
    for wrong in (0.5, 1.2):
        with pytest.raises(ValueError, match=r"power must lie in \(0.5, 1\]"):
            clone(est).partial_fit(X, y, power=wrong)
    est.partial_fit(X, y)
    with pytest.raises(ValueError, match="features"):
        est.partial_fit(X[:, :1], y)


def test_penalties_without_gradient_are_refused():
    from mixexperts.penalties.base import Penalty

    class Kinked(Ridge):
        def curvature(self, coef, mask):
            return None

    assert issubclass(Kinked, Penalty)
    X, y = simulate(n=200)
    est = mx.MoERegressor(2, n_init=1, expert_penalty=Kinked(1e-3), random_state=0)
    with pytest.raises(UnsupportedCombinationError, match="partial_fit takes gradients"):
        est.partial_fit(X, y)
