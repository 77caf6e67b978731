"""Gaussian gates: against densities written by hand, and in everything that a fit goes through."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal, norm

import mixexperts as mx
from mixexperts._batch import Batch
from mixexperts.em.engine import Model, em_pass, fit_em
from mixexperts.em.init import theta_from_responsibilities
from mixexperts.errors import DegenerateFitWarning, UnsupportedCombinationError
from mixexperts.experts import Gaussian as GaussianExpert
from mixexperts.gates import Gaussian
from mixexperts.penalties import NoPenalty, Ridge

COVARIANCES = ("full", "diag", "tied", "spherical")
every_covariance = pytest.mark.parametrize("covariance", COVARIANCES)


def draw(n=200, seed=3):
    """Two clusters of two features on awkward scales, with a line in each."""
    rng = np.random.default_rng([20260901, seed])
    label = (rng.random(n) < 0.4).astype(int)
    means = np.array([[1e3, -2.0], [1.03e3, 1.0]])
    roots = np.array([[[9.0, 0.0], [0.5, 0.8]], [[12.0, 0.0], [-0.9, 0.6]]])
    X = means[label] + np.einsum("ipq,iq->ip", roots[label], rng.standard_normal((n, 2)))
    y = np.where(label, 40.0 + 3.0 * X[:, 1], 0.1 * X[:, 0]) + rng.standard_normal(n)
    return X, y, label


@pytest.fixture
def data():
    return draw()


@pytest.fixture
def frame():
    X, y, _ = draw()
    return pd.DataFrame({"age": X[:, 0], "dose": X[:, 1], "y": y})


def regressor(covariance="full", **options):
    options = {"n_init": 3, "random_state": 0, **options}
    return mx.MoERegressor(gate=Gaussian(covariance=covariance), **options)


def matrices(est, covariance):
    """Covariances of the experts' features as matrices (K, d, d)."""
    n_experts, d = est.gate_means_.shape
    given = est.gate_covariances_
    if covariance == "full":
        return given
    if covariance == "tied":
        return np.array([given] * n_experts)
    wide = np.broadcast_to(given.reshape(n_experts, -1), (n_experts, d))
    return np.array([np.diag(row) for row in wide])


def by_hand(est, covariance, X, y):
    """log w_k N(x; m_k, S_k) and log N(y; ...) of each row and expert."""
    gate = [
        np.log(weight) + multivariate_normal(mean, square).logpdf(X)
        for weight, mean, square in zip(
            est.gate_weights_, est.gate_means_, matrices(est, covariance), strict=True
        )
    ]
    expert = norm.logpdf(y[:, None], est.intercept_ + X @ est.coef_.T, est.scale_)
    return np.stack(gate, axis=1), expert


# --- what a fit says is the mixture it names -----------------------------------------------------


@every_covariance
def test_everything_is_that_of_the_mixture_by_hand(data, covariance):
    X, y, _ = data
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    est = regressor(covariance).fit(X, y, weight)
    gate, expert = by_hand(est, covariance, X, y)
    joint = logsumexp(gate + expert, axis=1)
    conditional = joint - logsumexp(gate, axis=1)
    llf = weight @ joint
    assert est.log_likelihood_ == pytest.approx(llf, rel=1e-10)
    assert est.history_[-1] == pytest.approx(llf, rel=1e-10)
    assert est.objective_ == est.log_likelihood_
    assert est.restarts_["log_likelihood"].max() == pytest.approx(llf, rel=1e-10)
    resp = np.exp(gate + expert - joint[:, None])
    assert_allclose(est.score_samples(X, y), conditional, rtol=0, atol=1e-9)
    assert_allclose(est.predictive(X).logpdf(y), conditional, rtol=0, atol=1e-9)
    assert_allclose(est.gate_proba(X), softmax(gate, axis=1), atol=1e-10)
    assert_allclose(est.responsibilities(X, y), resp, atol=1e-10)
    mean = est.intercept_ + X @ est.coef_.T
    assert_allclose(est.predict(X), (softmax(gate, axis=1) * mean).sum(axis=1), rtol=1e-10)
    n, df = weight.sum(), est.n_parameters_
    assert est.aic(X, y, sample_weight=weight) == pytest.approx(-2 * llf + 2 * df, rel=1e-10)
    bic = -2 * llf + np.log(n) * df
    assert est.bic(X, y, sample_weight=weight) == pytest.approx(bic, rel=1e-10)
    entropy = -weight @ (resp * np.log(np.maximum(resp, 1e-300))).sum(axis=1)
    assert est.icl(X, y, sample_weight=weight) == pytest.approx(bic + 2 * entropy, rel=1e-10)


@every_covariance
def test_parameters_are_counted_and_shaped(data, covariance):
    X, y, _ = data
    est = regressor(covariance).fit(X, y)
    shape, count = {
        "full": ((2, 2, 2), 6), "tied": ((2, 2), 3), "diag": ((2, 2), 4), "spherical": ((2,), 2)
    }[covariance]  # fmt: skip
    assert est.gate_covariances_.shape == shape
    assert est.gate_weights_.shape == (2,)
    assert est.gate_weights_.sum() == pytest.approx(1.0)
    # Two lines with a scale; one free weight, two means.
    assert est.n_parameters_ == 2 * 4 + 1 + 4 + count
    assert len(est.model_.pack(est.theta_)) == est.n_parameters_
    assert not hasattr(est, "gate_coef_")


@every_covariance
def test_a_single_expert_has_the_moments_of_the_data(data, covariance):
    X, y, _ = data
    est = regressor(covariance, n_experts=1).fit(X, y)
    assert_allclose(est.gate_means_[0], X.mean(axis=0), rtol=1e-12)
    square = np.cov(X.T, bias=True)
    variance = np.diag(square)
    moments = {
        "full": [square], "tied": square, "diag": [variance], "spherical": variance.mean()
    }[covariance]  # fmt: skip
    assert_allclose(est.gate_covariances_, np.reshape(moments, est.gate_covariances_.shape))
    assert_allclose(est.gate_proba(X), 1.0)
    line = np.linalg.lstsq(np.column_stack([np.ones(len(y)), X]), y, rcond=None)[0]
    assert_allclose(np.r_[est.intercept_, est.coef_[0]], line, rtol=1e-8)


def test_equal_covariances_are_a_softmax_gate(data):
    """log g_k = x' S^-1 m_k - m_k' S^-1 m_k / 2 + log w_k, up to a constant."""
    X, y, _ = data
    est = regressor("tied").fit(X, y)
    slope = np.linalg.solve(est.gate_covariances_, est.gate_means_.T).T
    level = np.log(est.gate_weights_) - 0.5 * np.einsum("kd,kd->k", slope, est.gate_means_)
    assert_allclose(est.gate_proba(X), softmax(level + X @ slope.T, axis=1), atol=1e-10)


@every_covariance
def test_scores_from_the_inputs_of_the_kernels(data, covariance):
    """c - |A z - b|^2 / 2, with A lower triangular."""
    X, y, _ = data
    est = regressor(covariance).fit(X, y)
    batch = est._batch(X, y)
    rows = est.model_.gate.fused_inputs(est.theta_.gate)
    assert rows.shape == (2, 6)  # c, b_1, A_11, b_2, A_21, A_22
    c, b = rows[:, 0], rows[:, [1, 3]]
    A = np.zeros((2, 2, 2))
    A[:, 0, 0], A[:, 1] = rows[:, 2], rows[:, 4:]
    white = np.einsum("kpq,iq->ikp", A, batch.Z) - b
    score = est.model_.gate.log_score(est.theta_.gate, batch)
    assert_allclose(c - 0.5 * (white**2).sum(axis=2), score, rtol=1e-11)


@every_covariance
def test_weights_far_outside_the_data_are_probabilities(data, covariance):
    X, y, _ = data
    est = regressor(covariance).fit(X, y)
    far = X[:3] * np.array([[1e8], [1e120], [1e300]])
    with np.errstate(all="raise", under="ignore"):
        proba = est.gate_proba(far)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)


# --- the M-step ----------------------------------------------------------------------------------


@every_covariance
def test_update_is_the_weighted_maximum_also_for_a_tight_cluster_far_away(covariance):
    """A cluster with a spread of 1e-3 at a distance of 1e4 keeps its digits."""
    rng = np.random.default_rng(1)
    Z = np.vstack([rng.standard_normal((60, 2)), 1e4 + 1e-3 * rng.standard_normal((60, 2))])
    resp = np.repeat(np.eye(2), 60, axis=0) * rng.uniform(0.5, 2.0, (120, 1))
    gate = Gaussian(covariance=covariance, covariance_floor=1e-12)
    batch = Batch(np.zeros(120), {"mean": np.ones((120, 1))}, Z, np.ones(120))
    params = gate.init_params(batch, resp, rng)
    for _ in range(2):  # the first brings the means to their places
        params = gate.update(params, gate.accumulate(params, batch, resp), NoPenalty())
    expected = []
    for k in range(2):
        w = resp[:, k][resp[:, k] > 0]
        part = Z[resp[:, k] > 0]
        part = part - part[0]
        expected.append(np.cov(part.T, aweights=w, bias=True))
    mass = resp.sum(axis=0)
    assert_allclose(np.exp(params["log_weight"]), mass / mass.sum(), rtol=1e-12)
    white = params["whitening"]
    if white.ndim == 2:
        white = white[:, :, None] * np.eye(2)
    found = np.linalg.inv(np.swapaxes(white, 1, 2) @ white)
    if covariance == "tied":
        expected = [np.average(expected, axis=0, weights=mass)] * 2
    elif covariance == "diag":
        expected = [np.diag(np.diag(square)) for square in expected]
    elif covariance == "spherical":
        expected = [np.eye(2) * np.trace(square) / 2 for square in expected]
    # Rounding of 1e4 is 2e-12, of the spread 2e-9.
    assert_allclose(found[0], expected[0], rtol=1e-8, atol=1e-10)
    assert_allclose(found[1], expected[1], rtol=1e-7, atol=1e-7 * expected[1].max())


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical"])
def test_an_expert_without_rows_stays_where_it_was(data, covariance):
    X, y, _ = data
    est = regressor(covariance).fit(X, y)
    batch, gate, params = est._batch(X, y), est.model_.gate, est.theta_.gate
    resp = np.tile([1.0, 0.0], (len(y), 1))
    moved = gate.update(params, gate.accumulate(params, batch, resp), NoPenalty())
    for name in ("mean", "whitening"):
        assert_allclose(moved[name][1], params[name][1], rtol=1e-14)
    assert np.isfinite(moved["log_weight"]).all()


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_proposals_below_the_floor_are_brought_back(covariance):
    """Singular values of a wild step are cut, and those of the others are left alone."""
    gate = Gaussian(covariance=covariance, covariance_floor=1e-4)
    rng = np.random.default_rng(0)
    batch = Batch(
        np.zeros(50), {"mean": np.ones((50, 1))}, rng.standard_normal((50, 3)), np.ones(50)
    )
    params = gate.init_params(batch, rng.dirichlet(np.ones(2), 50), rng)
    packed = gate.pack(params)
    inside = gate.unpack(packed, params)
    assert not gate.at_boundary(inside).any()
    packed[7:10] += 20.0  # log diagonal of the first expert
    back = gate.unpack(packed, params)
    wild = np.array(params["whitening"][0]) * np.exp(20.0)
    assert gate.at_boundary(back).tolist() == [True, covariance == "tied"]
    white = back["whitening"][0]
    assert_allclose(white, np.tril(white))
    assert (np.diag(white) > 0).all()
    assert_allclose(np.linalg.svd(white)[1], 100.0, rtol=1e-9)  # all three were beyond
    assert np.linalg.svd(wild)[1].min() > 100.0


@pytest.mark.parametrize("size", [1e20, 1e40, 1e160, 1e300, np.inf, np.nan])
def test_wild_extrapolations_are_numbers_or_refused(size):
    """Whatever an acceleration proposes, unpacking raises nothing."""
    gate, rng = Gaussian(), np.random.default_rng(0)
    batch = Batch(
        np.zeros(50), {"mean": np.ones((50, 1))}, rng.standard_normal((50, 3)), np.ones(50)
    )
    params = gate.init_params(batch, rng.dirichlet(np.ones(2), 50), rng)
    packed = gate.pack(params)
    packed[-3:] = [size, -size, size]
    with np.errstate(all="ignore"):
        back = gate.unpack(packed, params)
        score = gate.log_score(back, batch)
    assert np.isfinite(score).all() == (size < 1e30)
    limit = gate.covariance_floor**-0.5
    if size < 1e30:
        assert np.linalg.norm(back["whitening"], ord=2, axis=(1, 2)).max() <= limit * (1 + 1e-6)


# --- what is refused -----------------------------------------------------------------------------


def test_constant_columns_are_named(frame):
    X = frame[["age", "dose"]].assign(site=7.1, level=1e-300)
    for covariance in COVARIANCES:
        with pytest.raises(ValueError, match=r"features that vary.*'site', 'level'.*gate_features"):
            regressor(covariance).fit(X, frame["y"])
    regressor(gate_features=["age", "dose"]).fit(X[["age", "dose"]], frame["y"])


@pytest.mark.filterwarnings("ignore::mixexperts.errors.RankDeficientWarning")
def test_dependent_columns_are_named_where_they_matter(frame):
    X = frame[["age", "dose"]].assign(both=frame["age"] - 2.0 * frame["dose"])
    for covariance in ("full", "tied"):
        with pytest.raises(ValueError, match=r"not singular.*'both'.*covariance='diag'"):
            regressor(covariance).fit(X, frame["y"])
    for covariance in ("diag", "spherical"):
        est = regressor(covariance, expert_features=["age"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            est.fit(X, frame["y"])
        assert est.converged_


def test_columns_as_many_as_rows_are_refused():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((6, 6)), rng.standard_normal(6)
    with pytest.raises(ValueError, match="not singular"):
        regressor(n_experts=1, expert_features=[0]).fit(X, y)


def test_no_columns_are_refused(data):
    with pytest.raises(ValueError, match="there are none; name at least one column in gate_f"):
        regressor(gate_features=[]).fit(*data[:2])


def test_a_penalty_on_the_gate_is_refused(data):
    X, y, _ = data
    with pytest.raises(UnsupportedCombinationError, match=r"gate='gaussian'.*no gate_penalty"):
        regressor(gate_penalty=Ridge(0.1)).fit(X, y)
    est = regressor().fit(X, y)
    model = Model(Gaussian(), GaussianExpert(), gate_penalty=Ridge(0.1))
    with pytest.raises(UnsupportedCombinationError, match="joint objective takes no penalty"):
        fit_em(model, est._batch(X, y), est.theta_)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"covariance": "round"}, ValueError, "covariance='round' is not known; known: 'full'"),
        ({"covariance_floor": 0.0}, ValueError, r"covariance_floor must lie in \[1e-12, 1\)"),
        ({"covariance_floor": "low"}, TypeError, r"covariance_floor must be a number"),
        ({"covariance_floor": True}, TypeError, r"covariance_floor must be a number"),
    ],
)
def test_options_are_checked(options, error, match):
    with pytest.raises(error, match=match):
        Gaussian(**options)


# --- degenerate solutions ------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [1e-3, 1e-6, 1e-12])
@every_covariance
def test_a_collapsed_covariance_is_flagged_and_not_preferred(covariance, floor):
    """Thirty rows share their features: a cluster of their own has an infinite density."""
    rng = np.random.default_rng(5)
    X = np.vstack([rng.standard_normal((100, 2)), np.tile([0.3, -0.2], (30, 1))])
    y = X @ [1.0, 2.0] + rng.standard_normal(130)
    label = np.repeat([0, 1], [100, 30])
    if covariance == "tied":  # two points in all: whatever is shared collapses too
        X = np.where(label[:, None], [0.3, -0.2], [1.0, 1.0])
        X[:, 1] += np.tile([1.0, -1.0], 65) * 1e-9
    gate = Gaussian(covariance=covariance, covariance_floor=floor)
    spike = regressor(covariance, init=label).set_params(gate=gate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.RankDeficientWarning)
        with pytest.warns(
            DegenerateFitWarning, match="variance of the gate's features at the floor"
        ):
            spike.fit(X, y)
    assert spike.status_ == "degenerate"
    assert any("gate's features at the floor" in flag for flag in spike.flags_)
    if covariance != "tied":
        sound = regressor(init=["auto", label], n_init=6).set_params(gate=gate).fit(X, y)
        assert sound.status_ == "converged"
        assert "degenerate" in set(sound.restarts_["status"])


def test_a_gate_on_too_few_rows_is_flagged():
    """Five features, an intercept alone in the experts: six rows feed no covariance."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((100, 5))
    X[:6] += 20.0
    y = np.where(np.arange(100) < 6, 10.0, 0.0) + rng.standard_normal(100)
    est = regressor(expert="gaussian", expert_features=[], init=(np.arange(100) < 6).astype(int))
    with pytest.warns(DegenerateFitWarning, match="fewer than the 7 that its part of the gate"):
        est.fit(X, y)
    assert regressor("diag", expert_features=[], init=est.init).fit(X, y).converged_


# --- starts, refits, files -----------------------------------------------------------------------


@every_covariance
def test_its_own_parameters_are_a_start(data, covariance):
    X, y, _ = data
    est = regressor(covariance).fit(X, y)
    names = ("intercept", "coef", "scale", "gate_weights", "gate_means", "gate_covariances")
    raw = {name: getattr(est, f"{name}_") for name in names}
    again = regressor(covariance, init=raw, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again.fit(X, y)
    assert again.log_likelihood_ == pytest.approx(est.log_likelihood_, rel=1e-11)
    for name in names:
        assert_allclose(getattr(again, f"{name}_"), raw[name], rtol=1e-9, err_msg=name)
    del raw["gate_covariances"], raw["gate_means"]
    near = regressor(covariance, init=raw).fit(X, y)
    assert near.log_likelihood_ == pytest.approx(est.log_likelihood_, rel=1e-8)


def test_starts_that_are_no_gate_are_refused(data):
    X, y, _ = data
    good = {"intercept": [0.0, 9.0], "coef": np.zeros((2, 2)), "scale": [1.0, 1.0]}
    same = {"intercept": np.zeros(2), "coef": np.zeros((2, 2)), "scale": np.ones(2)}
    for init, match in [
        ({**good, "gate_weights": [0.7, 0.7]}, r"gate_weights'\] must be positive and sum to one"),
        ({**good, "gate_covariances": -np.ones((2, 2, 2))}, "must hold positive definite"),
        ({**good, "gate_covariances": np.ones((2, 2))}, r"shape \(2, 2, 2\)"),
        ({**good, "gate_coef": np.zeros((2, 2))}, r"unknown keys \['gate_coef'\].*gate_means"),
        (same, "same parameters for every expert"),
    ]:
        with pytest.raises(ValueError, match=match):
            regressor(init=init).fit(X, y)
    with pytest.raises(ValueError, match="same parameters for every expert"):
        regressor("tied", init=same).fit(X, y)
    with pytest.raises(ValueError, match="must hold positive variances"):
        regressor("diag", init={**good, "gate_covariances": np.zeros((2, 2))}).fit(X, y)


@pytest.mark.parametrize("gate", ["softmax", "constant", "gaussian", Gaussian("tied")])
@every_covariance
def test_a_model_with_any_gate_is_a_start(data, gate, covariance):
    X, y, _ = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.SeparationWarning)
        other = mx.MoERegressor(gate=gate, n_init=3, random_state=0).fit(X, y)
        best = regressor(covariance).fit(X, y)
        assert regressor(covariance, init=other).fit(X, y).log_likelihood_ == pytest.approx(
            best.log_likelihood_, abs=1e-5
        )
        back = mx.MoERegressor(gate=gate, init=best, random_state=0).fit(X, y)
    # Gates with separated experts have no maximum, only a limit.
    assert back.log_likelihood_ == pytest.approx(other.log_likelihood_, abs=1e-3)
    grown = regressor(covariance, n_experts=3, init=other).fit(X, y)
    assert grown.gate_weights_.shape == (3,)


def test_refits_leave_nothing_of_the_other_gate(data):
    X, y, _ = data
    est = regressor(warm_start=True).fit(X, y)
    first = est.log_likelihood_
    assert est.fit(X, y).log_likelihood_ == pytest.approx(first, rel=1e-9)
    est.set_params(gate="constant").fit(X, y)
    assert not hasattr(est, "gate_means_")
    assert est.gate_intercept_.shape == (2,)
    est.set_params(gate="gaussian").fit(X, y)
    assert not hasattr(est, "gate_intercept_")


@every_covariance
def test_blocks_do_not_matter(data, covariance):
    X, y, label = data
    whole = regressor(covariance, init=label).fit(X, y)
    cut = regressor(covariance, init=label, chunk_rows=17).fit(X, y)
    assert cut.log_likelihood_ == pytest.approx(whole.log_likelihood_, rel=1e-11)
    assert_allclose(cut.gate_covariances_, whole.gate_covariances_, rtol=1e-5)


def test_interrupted_fits_go_on(data, tmp_path):
    X, y, _ = data
    whole = regressor().fit(X, y)
    path = tmp_path / "fit.mxp"
    regressor(checkpoint=path).fit(X, y)
    again = regressor(checkpoint=path).fit(X, y)  # all starts are read from the file
    assert again.log_likelihood_ == whole.log_likelihood_


@every_covariance
def test_saved_fits_come_back(data, covariance, tmp_path):
    X, y, _ = data
    est = regressor(covariance).fit(X, y)
    est.save(tmp_path / "est.mxp")
    again = mx.load(tmp_path / "est.mxp")
    assert again.model_ == est.model_
    assert_allclose(again.predict(X), est.predict(X), rtol=0)
    assert again.bic(X, y) == est.bic(X, y)
    assert_allclose(again.gate_covariances_, est.gate_covariances_, rtol=0)


def test_repeated_measures_weigh_the_gate_once():
    """A unit has one row of gate features, however many responses."""
    rng = np.random.default_rng(4)
    unit = np.repeat(np.arange(30), 3)
    batch = Batch(
        rng.standard_normal(90), {"mean": np.ones((90, 1))}, rng.standard_normal((30, 1)),
        np.ones(30), unit=unit,
    )  # fmt: skip
    model = Model(Gaussian(), GaussianExpert())
    one = np.ones((30, 1))
    theta = theta_from_responsibilities(model, batch, one, rng)
    theta = model.map_step(theta, em_pass(model, theta, batch))
    stats = em_pass(model, theta, batch)
    assert stats["gate.mass"] == [30.0]
    gate = norm(batch.Z.mean(), batch.Z.std()).logpdf(batch.Z).sum()
    expert = norm(batch.y.mean(), batch.y.std()).logpdf(batch.y).sum()
    assert stats["log_likelihood"] == pytest.approx(gate + expert, rel=1e-9)
