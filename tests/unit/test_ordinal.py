"""Ordinal logistic experts: thresholds, derivatives, distribution, edges."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

import mixexperts as mx
from mixexperts._batch import Batch
from mixexperts.errors import InvalidResponseError
from mixexperts.experts import Ordinal
from mixexperts.experts.ordinal import _LEAST_GAP
from mixexperts.penalties import NoPenalty, Ridge

N = 80


@pytest.fixture
def rng():
    return np.random.default_rng(20260901)


def batch_of(y, X, **options):
    return Batch(np.asarray(y, dtype=float), {"mean": X}, X, np.ones(len(y)), **options)


def params_of(rng, n_experts=2, free=3, p=2):
    threshold = np.sort(rng.standard_normal((n_experts, free)), axis=1) + 0.3 * np.arange(free)
    return {"coef": rng.standard_normal((n_experts, p)), "threshold": threshold}


def test_probabilities_are_differences_of_cumulative_ones(rng):
    X, offset = rng.standard_normal((N, 2)), rng.standard_normal(N)
    y = rng.integers(0, 4, N)
    params = params_of(rng)
    batch = batch_of(y, X, offset=offset)
    cumulative = expit(params["threshold"] - (X @ params["coef"].T + offset[:, None])[:, :, None])
    ends = np.concatenate([np.zeros((N, 2, 1)), cumulative, np.ones((N, 2, 1))], axis=2)
    proba = Ordinal().class_proba(params, batch)
    assert_allclose(proba, np.diff(ends, axis=2), atol=1e-14)
    assert_allclose(Ordinal().cdf(params, batch), ends[np.arange(N), :, y + 1], atol=1e-14)
    assert_allclose(Ordinal().sf(params, batch), 1.0 - ends[np.arange(N), :, y + 1], atol=1e-14)


def test_gradient_and_information_in_thresholds_and_slopes(rng):
    """By central differences: h^2 times third and fourth derivatives, some tens."""
    batch = batch_of(rng.integers(0, 4, N), rng.standard_normal((N, 2)))
    params, family = params_of(rng, n_experts=1), Ordinal()
    at = np.concatenate([params["threshold"][0], params["coef"][0]])

    def value(v):
        return family.log_prob({"threshold": v[None, :3], "coef": v[None, 3:]}, batch).sum()

    stats = family.accumulate(params, batch, np.ones((N, 1)))
    h, eye = 1e-4, np.eye(5)
    slope = [(value(at + h * e) - value(at - h * e)) / (2 * h) for e in eye]
    assert_allclose(stats["cross"][0], slope, atol=1e-5)
    h = 1e-3
    for i, a in enumerate(eye):
        for j, b in enumerate(eye):
            mixed = sum(s * t * value(at + h * (s * a + t * b)) for s in (1, -1) for t in (1, -1))
            assert stats["gram"][0, i, j] == pytest.approx(-mixed / (4 * h * h), abs=2e-3)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_steps_from_afar_keep_the_order_and_never_fall(rng, scale, alpha):
    X = rng.standard_normal((N, 2))
    y = np.digitize(X[:, 0] + rng.logistic(size=N), [-1.0, 0.0, 1.5])
    batch, family, penalty = batch_of(y, X), Ordinal(), Ridge(alpha).scaled(N)
    start = params_of(rng, n_experts=1)
    params = {name: scale * value for name, value in start.items()}

    def value(params):
        pull = penalty.value(params["coef"], family.penalized(2))
        return family.log_prob(params, batch).sum() - pull

    values = [value(params)]
    for _ in range(80):
        params = family.update(params, family.accumulate(params, batch, np.ones((N, 1))), penalty)
        assert (np.diff(params["threshold"]) > 0.0).all()
        values.append(value(params))
    assert np.diff(values).min() >= -1e-9 * abs(values[0])
    stats = family.accumulate(params, batch, np.ones((N, 1)))
    pull = np.concatenate([np.zeros(3), penalty.gradient(params["coef"][0], np.ones(2, bool))])
    assert np.abs(stats["cross"][0] - pull).max() < 1e-7


def test_a_class_without_rows_closes_its_gap_and_the_rest_is_fitted(rng):
    """Thresholds that have met move as one: the fit is that without the class."""
    X = rng.standard_normal((N, 2))
    y = np.digitize(X[:, 0] + rng.logistic(size=N), [-0.5, 1.0])
    family = Ordinal(n_classes=4)
    skipping = batch_of(np.array([0, 2, 3])[y], X)
    fits = []
    for batch, n_classes in ((skipping, 4), (batch_of(y, X), 3)):
        family = Ordinal(n_classes=n_classes)
        params = family.init_params(batch, np.ones((N, 1)), rng)
        for _ in range(60):
            stats = family.accumulate(params, batch, np.ones((N, 1)))
            params = family.update(params, stats, NoPenalty())
        fits.append((params, family.log_prob(params, batch).sum(), stats))
    (four, llf, stats), (three, known, _) = fits
    assert np.diff(four["threshold"])[0, 0] < 10 * _LEAST_GAP
    assert llf == pytest.approx(known, abs=1e-6)
    assert_allclose(four["threshold"][:, 1:], three["threshold"], atol=1e-6)
    assert_allclose(four["coef"], three["coef"], atol=1e-6)
    assert Ordinal(n_classes=4).separation(four, stats, NoPenalty()).all()


def test_raw_parameters_undo_centring_and_scaling(rng):
    X = rng.standard_normal((200, 2)) * [1e3, 1e-2] + [5e3, -1.0]
    score = (X[:, 0] - 5e3) / 1e3 + rng.logistic(size=200)
    y = np.digitize(score, [-1.0, 0.5])
    for degree in (1, 2):
        expert = Ordinal(degree=degree)
        est = mx.MoEClassifier(1, expert=expert, tol=1e-12).fit(X, y)
        terms = X if degree == 1 else np.column_stack([X, X[:, [0]] * X, X[:, 1] ** 2])
        upper = expit(est.threshold_[None] - (terms @ est.coef_.T)[:, :, None])
        assert_allclose(est.predict_experts(X)[:, 0, 0], upper[:, 0, 0], atol=1e-7)
        raw = {"coef": est.coef_, "threshold": est.threshold_}
        again = mx.MoEClassifier(1, expert=expert, init=raw).fit(X, y)
        assert again.history_[0] == pytest.approx(est.log_likelihood_, abs=1e-6)


def test_thresholds_alone(rng):
    """Degree 0: the classes' shares under each expert."""
    y = rng.integers(0, 3, 300)
    est = mx.MoEClassifier(1, expert=Ordinal(degree=0), tol=1e-13).fit(
        rng.standard_normal((300, 1)), y
    )
    assert est.coef_.shape == (1, 0)
    shares = np.bincount(y) / 300
    assert_allclose(est.predict_proba(np.zeros((1, 1)))[0], shares, atol=1e-6)


def test_predictive_of_ordered_classes(rng):
    X = rng.standard_normal((300, 2))
    y = np.digitize(X[:, 0] + rng.logistic(size=300), [-1.0, 0.5])
    est = mx.MoEClassifier(1, expert="ordinal").fit(X, np.array(["c", "b", "a"])[y])
    assert est.classes_.tolist() == ["a", "b", "c"]  # sorted; no order was given
    proba = est.predict_proba(X[:9])
    predictive = est.predictive(X[:9])
    assert_allclose(predictive.mean(), proba @ [0.0, 1.0, 2.0], rtol=1e-10)
    assert_allclose(predictive.cdf(1.0), proba[:, :2].sum(axis=1), rtol=1e-10)
    assert_array_equal(predictive.ppf(0.5), (proba.cumsum(axis=1) < 0.5).sum(axis=1))
    assert_array_equal(predictive.mode(), proba.argmax(axis=1))


def test_thresholds_that_do_not_ascend_are_refused(rng):
    X, y = rng.standard_normal((60, 1)), rng.integers(0, 3, 60)
    init = {"coef": [[1.0], [-1.0]], "threshold": [[0.0, 1.0], [1.0, 0.0]]}
    with pytest.raises(InvalidResponseError, match="thresholds must ascend"):
        mx.MoEClassifier(2, expert="ordinal", init=init).fit(X, y)
