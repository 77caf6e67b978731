"""The penalised estimators: what they maximise, what they report, and what they refuse."""

import pickle
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

import mixexperts as mx
from mixexperts._design import DesignMap
from mixexperts.errors import DegenerateFitWarning, InferenceRefusedError, SeparationWarning
from mixexperts.experts import Gaussian
from mixexperts.sources import ArraySource

N, P = 160, 8
NAMES = np.array(["ant", "bee", "cow"])


def make_data(n=N, p=P, seed=20261101):
    """Two experts, told apart by the first column."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * rng.uniform(0.5, 3.0, p) + rng.uniform(-2.0, 2.0, p)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    low = Z[:, 0] + 0.7 * rng.standard_normal(n) < 0.0
    y = np.where(low, -3.0 + 2.0 * Z[:, 1], 3.0 - 1.5 * Z[:, 2] + Z[:, 3])
    return X, y + 0.6 * rng.standard_normal(n)


def make_classes(n=260, p=6, seed=3):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    slope = np.where(X[:, 0] + 0.5 * rng.standard_normal(n) < 0.0, 2.5, -2.5)
    logits = np.column_stack([slope * X[:, 1], 1.5 * X[:, 2], np.zeros(n)])
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return X, NAMES[y]


def make_three(n=240, p=5, seed=11):
    """Three experts that lie apart."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    label = np.digitize(X[:, 0] + 0.3 * rng.standard_normal(n), [-0.5, 0.5])
    slope = np.array([2.0, 0.0, -2.0])[label]
    return X, 4.0 * label + slope * X[:, 1] + 0.5 * rng.standard_normal(n)


X, Y = make_data()
X3, Y3 = make_three()
FRAME = pd.DataFrame(X, columns=[f"c{j}" for j in range(P)])
XC, YC = make_classes()


def regressor(**options):
    return mx.LassoMoERegressor(
        **{"alpha": 0.05, "gate_alpha": 0.03, "n_init": 3, "random_state": 0, **options}
    )


def classifier(**options):
    return mx.LassoMoEClassifier(
        **{"alpha": 0.02, "gate_alpha": 0.02, "random_state": 0, **options}
    )


@pytest.fixture(scope="module")
def est():
    return regressor().fit(FRAME, Y)


@pytest.fixture(scope="module")
def clf():
    return classifier().fit(XC, YC)


# --- scikit-learn's own checks ------------------------------------------------------------------

REGRESSORS = {
    "default": {},
    "one expert": {"n_experts": 1},
    "three experts, elastic net, reference": {
        "n_experts": 3, "l1_ratio": 0.5, "gate_coding": "reference",
    },
    "adaptive, relaxed": {"penalty": "adaptive", "relax": True, "n_init": 1},
    "group": {"penalty": "group", "n_init": 1},
    "by scale": {"by_scale": True, "n_init": 1},
}  # fmt: skip
CLASSIFIERS = {"default": {}, "one expert": {"n_experts": 1}, "elastic net": {"l1_ratio": 0.5}}


def passes(est):
    with warnings.catch_warnings():
        # Its data are tiny on purpose; our warnings say so.
        for category in (DegenerateFitWarning, ConvergenceWarning, SeparationWarning):
            warnings.simplefilter("ignore", category)
        # Skipped: checks that need optional packages or environment variables.
        results = check_estimator(est, on_skip=None, on_fail="raise")
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize("options", REGRESSORS.values(), ids=REGRESSORS)
def test_check_estimator_of_the_regressor(options):
    passes(mx.LassoMoERegressor(**{"n_init": 2, **options}))


@pytest.mark.parametrize("options", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_check_estimator_of_the_classifier(options):
    passes(mx.LassoMoEClassifier(**{"n_init": 2, **options}))


# --- what is maximised ---------------------------------------------------------------------------


def penalty_by_hand(est, X, weight, standardize=True, l1_ratio=1.0):
    """The elastic net of the experts and of the gate, from the attributes alone."""
    centre = weight @ X / weight.sum()
    size = (
        np.sqrt(weight @ (X - centre) ** 2 / weight.sum()) if standardize else np.ones(X.shape[1])
    )
    coef, gate = est.coef_ * size, est.gate_coef_ * size
    unit = est.frame_.scale

    def net(values, unit):
        return np.sum(l1_ratio * np.abs(values) + (1.0 - l1_ratio) / 2.0 * values**2 / unit)

    return est.alpha * net(coef, unit) + est.gate_alpha * net(gate, 1.0)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.6])
def test_objective_is_the_log_likelihood_less_the_penalty(standardize, l1_ratio):
    rng = np.random.default_rng(5)
    weight = rng.uniform(0.2, 2.0, N)
    est = regressor(standardize=standardize, l1_ratio=l1_ratio).fit(X, Y, weight)
    assert est.converged_
    llf = weight @ est.score_samples(X, Y)
    assert est.log_likelihood_ == pytest.approx(llf, rel=1e-10)
    own = penalty_by_hand(est, X, weight, standardize, l1_ratio)
    assert est.objective_ == pytest.approx(llf - weight.sum() * own, rel=1e-9)
    assert est.history_[-1] == pytest.approx(est.objective_, rel=1e-9)
    assert (np.diff(est.history_) > -1e-8 * np.abs(est.history_[1:])).all()
    assert est.kkt_violation_ < 1e-6


def test_objective_of_a_classifier(clf):
    llf = clf.score_samples(XC, YC).sum()
    assert clf.log_likelihood_ == pytest.approx(llf, rel=1e-10)
    size = XC.std(axis=0)
    own = 0.02 * (np.abs(clf.coef_ * size).sum() + np.abs(clf.gate_coef_ * size).sum())
    assert clf.objective_ == pytest.approx(llf - len(YC) * own, rel=1e-9)
    assert clf.kkt_violation_ < 1e-6
    log_odds = clf.coef_ @ XC.T + clf.intercept_[:, :, None]
    proba = np.exp(log_odds - np.logaddexp.reduce(log_odds, axis=1, keepdims=True))
    assert_allclose(clf.predict_experts(XC), proba.transpose(2, 0, 1), atol=1e-12)


@settings(max_examples=8)
@given(unit=st.floats(1e-4, 1e4), shift=st.floats(-1e3, 1e3))
def test_units_of_y_and_of_columns_do_not_matter(est, unit, shift):
    """alpha is stated in the unit of y; standardised columns have none."""
    other = regressor(alpha=0.05 / unit).fit(X * 7.0 + 100.0, Y * unit + shift)
    assert_allclose(other.coef_ * 7.0, est.coef_ * unit, atol=1e-4 * unit)
    assert_allclose(other.gate_coef_ * 7.0, est.gate_coef_, atol=1e-4)
    assert_array_equal(other.active_, est.active_)
    predicted = other.predict(X * 7.0 + 100.0)
    assert_allclose((predicted - shift) / unit, est.predict(FRAME), atol=1e-3)
    assert other.objective_ + N * np.log(unit) == pytest.approx(est.objective_, abs=1e-4)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_a_penalty_by_scale_has_no_unit(unit):
    weight = np.ones(N)
    est = regressor(by_scale=True, alpha=0.08).fit(X, Y)
    other = regressor(by_scale=True, alpha=0.08).fit(X, Y * unit)
    assert_allclose(other.coef_, est.coef_ * unit, atol=1e-4 * unit)
    assert other.kkt_violation_ < 1e-6
    size = X.std(axis=0)
    own = 0.08 * np.abs(est.coef_ * size / est.scale_[:, None]).sum()
    own += 0.03 * np.abs(est.gate_coef_ * size).sum()
    assert est.objective_ == pytest.approx(weight @ est.score_samples(X, Y) - N * own, rel=1e-9)


def test_a_penalty_by_scale_is_bounded():
    """With more columns than rows the other one runs to a spike."""
    rng = np.random.default_rng(4)
    wide = rng.standard_normal((40, 200))
    y = 2.0 * wide[:, 0] + rng.standard_normal(40)
    est = regressor(n_experts=1, alpha=0.1, by_scale=True).fit(wide, y)
    assert est.converged_
    assert est.support_[0]
    assert est.scale_[0] > 0.1
    with pytest.warns(DegenerateFitWarning, match="scale at the floor"):
        regressor(n_experts=1, alpha=0.1, by_scale=False).fit(wide, y)


def test_alpha_max_is_where_slopes_begin():
    est = regressor(n_init=10)
    alpha, gate_alpha = est.alpha_max(X, Y)
    milli = est.alpha_max(X, Y * 1e-3)
    assert milli == pytest.approx((alpha * 1e3, gate_alpha), rel=1e-5)
    null = regressor(alpha=1e3, gate_alpha=1e3, n_init=10).fit(X, Y)
    above = regressor(alpha=alpha * 1.01, gate_alpha=gate_alpha * 1.01, init=null).fit(X, Y)
    assert above.n_nonzero_ == 0
    for factors, room in (((0.97, 1.5), "expert"), ((1.5, 0.97), "gate")):
        strengths = {"alpha": alpha * factors[0], "gate_alpha": gate_alpha * factors[1]}
        below = regressor(**strengths, init=above).fit(X, Y)
        assert set(below.coefficients().room) == {room}
    with pytest.raises(ValueError, match="l1_ratio=0 is ridge"):
        regressor(l1_ratio=0.0).alpha_max(X, Y)


def test_columns_as_they_are_feel_their_unit():
    raw = regressor(standardize=False)
    small = raw.fit(X, Y).coef_
    assert np.abs(raw.fit(X * 100.0, Y).coef_ * 100.0).sum() > np.abs(small).sum() + 1e-3


def test_weights_are_frequencies():
    rng = np.random.default_rng(1)
    times = rng.integers(0, 4, N)
    rows = np.repeat(np.arange(N), times)
    weighted = regressor().fit(X, Y, times)
    repeated = regressor().fit(X[rows], Y[rows])
    assert weighted.objective_ == pytest.approx(repeated.objective_, abs=1e-5)
    assert_allclose(weighted.coef_, repeated.coef_, atol=1e-4)
    assert_array_equal(weighted.active_, repeated.active_)
    assert weighted.weight_sum_ == times.sum()


def test_offset_is_a_known_part_of_y(est):
    offset = np.linspace(-30.0, 40.0, N)
    other = regressor().fit(X, Y + offset, offset=offset)
    assert_allclose(other.coef_, est.coef_, atol=1e-5)
    assert_allclose(other.predict(X, offset=offset), est.predict(FRAME) + offset, atol=1e-4)
    with pytest.raises(ValueError, match="offset is missing"):
        other.predict(X)


def test_almost_no_penalty_is_almost_maximum_likelihood():
    full = mx.MoERegressor(2, n_init=5, random_state=0, expert=Gaussian(shared_scale=True))
    full.fit(X[:, :3], Y)
    tiny = regressor(alpha=1e-7, gate_alpha=1e-7, expert=Gaussian(shared_scale=True), n_init=10)
    tiny.fit(X[:, :3], Y)
    assert tiny.log_likelihood_ == pytest.approx(full.log_likelihood_, abs=1e-2)
    assert np.ptp(tiny.scale_) == 0.0


FAMILIES = {
    "poisson": lambda eta, rng: rng.poisson(np.exp(np.clip(eta / 3.0, -3.0, 3.0))),
    "binomial": lambda eta, rng: np.column_stack(
        [(hit := rng.binomial(6, 1.0 / (1.0 + np.exp(-eta)))), 6 - hit]
    ),
    "gamma": lambda eta, rng: rng.gamma(4.0, np.exp(eta / 4.0)),
    "student_t": lambda eta, rng: eta + rng.standard_t(4.0, len(eta)),
    "negative_binomial": lambda eta, rng: rng.negative_binomial(
        3.0, 1.0 / (1.0 + np.exp(np.clip(eta / 3.0, -3.0, 3.0)))
    ),
}


SHAPES = {"poisson": 0, "binomial": 0, "gamma": 1, "student_t": 2, "negative_binomial": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    y = FAMILIES[family](Y, np.random.default_rng(7)).astype(float)
    est = regressor(expert=family, tol=1e-6, n_init=2).fit(X, y)
    assert est.log_likelihood_ == pytest.approx(est.score_samples(X, y).sum(), rel=1e-9)
    assert est.kkt_violation_ < 1e-5
    assert 0 < est.n_nonzero_ < 3 * P
    assert est.df_ == est.n_nonzero_ + 2 + 1 + 2 * SHAPES[family]
    assert np.isfinite(est.predict(X)).all()


# --- what is reported ----------------------------------------------------------------------------


def test_gate_rows_are_those_of_smallest_penalty():
    est = regressor(n_experts=3, n_init=5).fit(X3, Y3)
    assert_allclose(np.median(est.gate_coef_, axis=0), 0.0, atol=1e-12)
    assert est.gate_intercept_.sum() == pytest.approx(0.0, abs=1e-10)
    logits = X3 @ est.gate_coef_.T + est.gate_intercept_
    proba = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert_allclose(est.gate_proba(X3), proba, atol=1e-12)
    assert_allclose(est.gate_odds_ratios_, np.exp(est.gate_coef_ - est.gate_coef_[-1]))


def test_gate_rows_of_two_experts_are_minus_each_other(est):
    assert_allclose(est.gate_coef_[0], -est.gate_coef_[1], atol=1e-12)
    assert est.gate_active_[0, 0]


def test_reference_coding_keeps_a_row_of_zeros():
    est = regressor(n_experts=3, gate_coding="reference", n_init=5).fit(X3, Y3)
    assert not est.gate_coef_[-1].any()
    assert est.gate_intercept_[-1] == 0.0
    assert est.converged_
    own = penalty_by_hand(est, X3, np.ones(len(Y3)))
    assert est.objective_ == pytest.approx(est.log_likelihood_ - len(Y3) * own, rel=1e-9)


def test_what_is_active_is_what_is_not_zero(est):
    assert_array_equal(est.active_, est.coef_ != 0.0)
    assert_array_equal(est.gate_active_, est.gate_coef_ != 0.0)
    assert_array_equal(est.support_, est.active_.any(axis=0) | est.gate_active_.any(axis=0))
    gate = min(2 - 1, 1) * est.gate_active_.any(axis=0).sum()
    assert est.n_nonzero_ == est.active_.sum() + gate
    assert est.df_ == est.n_nonzero_ + 2 + 1 + 2
    assert est.active_[:, 1:4].any(axis=0).all()
    assert not est.active_.all()


def test_counts_of_a_classifier(clf):
    own = np.minimum((clf.coef_ != 0.0).sum(axis=1), 2).sum()
    gate = (clf.gate_coef_ != 0.0).any(axis=0).sum()
    assert clf.n_nonzero_ == own + gate
    assert clf.df_ == own + gate + 2 * 2 + 1
    assert_allclose(clf.intercept_.sum(axis=1), 0.0, atol=1e-12)
    assert_allclose(np.median(clf.coef_, axis=1), 0.0, atol=1e-12)


def test_criteria_count_degrees_of_freedom(est):
    llf = est.log_likelihood_
    assert est.aic(FRAME, Y) == pytest.approx(-2.0 * llf + 2.0 * est.df_)
    assert est.bic(FRAME, Y) == pytest.approx(-2.0 * llf + np.log(N) * est.df_)
    assert est.icl(FRAME, Y) > est.bic(FRAME, Y)


def test_experts_are_in_ascending_order(est):
    resp = est.responsibilities(FRAME, Y)
    level = np.einsum("nk,nk->k", resp, est.predict_experts(FRAME)) / resp.sum(axis=0)
    assert level[0] < level[1]
    assert_allclose(est.mass_, resp.sum(axis=0), rtol=1e-6)


def test_tables(est, clf):
    table = est.coefficients()
    assert list(table.columns) == ["room", "expert", "class", "term", "coef"]
    assert len(table) == est.active_.sum() + est.gate_active_.sum()
    row = table[(table.room == "expert") & (table.term == "c1")].iloc[0]
    assert row.coef == est.coef_[row.expert - 1, 1]
    named = clf.coefficients()
    assert set(named["class"].dropna()) <= set(NAMES)
    text = str(est.summary())
    assert "no standard errors" in text
    assert "c1" in text
    assert f"{est.df_}" in text
    first = named[named.room == "expert"].iloc[0]
    assert f"{first['class']}: {first.term}" in str(clf.summary())
    for method in ("coefficients", "summary"):
        with pytest.raises(NotFittedError):
            getattr(regressor(), method)()


def test_starts_are_listed(est):
    assert len(est.restarts_) == 3
    assert est.restarts_.objective.max() == pytest.approx(est.objective_, abs=1e-6)
    assert est.restarts_.reached_best.any()


@pytest.mark.parametrize("name", ["inference", "conf_int", "pvalues"])
def test_inference_is_refused_with_the_reason(est, name):
    with pytest.raises(InferenceRefusedError, match="stability_selection"):
        getattr(est, name)()


def test_predictions_hang_together(est):
    mean = np.einsum("nk,nk->n", est.gate_proba(FRAME), est.predict_experts(FRAME))
    assert_allclose(est.predict(FRAME), mean, rtol=1e-12)
    assert_allclose(est.predictive(FRAME).mean(), mean, rtol=1e-9)
    assert 0.5 < est.score(FRAME, Y) < 1.0
    assert_allclose(est.predict(FRAME[FRAME.columns[::-1]]), mean, rtol=1e-12)
    assert est.sample(FRAME, random_state=0).shape == (N,)
    assert est.expert_terms_ == tuple(FRAME.columns)


def test_columns_of_the_rooms():
    est = regressor(expert_features=["c3", "c1", "c2"], gate_features=["c0", "c7"], n_init=5)
    est.fit(FRAME, Y)
    assert est.coef_.shape == (2, 3)
    assert est.gate_coef_.shape == (2, 2)
    assert est.expert_terms_ == ("c3", "c1", "c2")
    assert est.gate_terms_ == ("c0", "c7")
    moved = FRAME.assign(c4=0.0, c5=1.0)
    assert_array_equal(est.predict(moved), est.predict(FRAME))
    logits = FRAME[["c0", "c7"]].to_numpy() @ est.gate_coef_.T + est.gate_intercept_
    assert_allclose(np.log(est.gate_proba(FRAME))[:, 0] - np.log(est.gate_proba(FRAME))[:, 1],
                    logits[:, 0] - logits[:, 1], atol=1e-10)  # fmt: skip
    assert est.support_.sum() <= 5
    assert not est.support_[[4, 5, 6]].any()


def test_saved_and_pickled(est, clf, tmp_path):
    for model, data, y in ((est, FRAME, Y), (clf, XC, YC)):
        model.save(tmp_path / "model.mxp")
        for copy in (mx.load(tmp_path / "model.mxp"), pickle.loads(pickle.dumps(model))):
            assert type(copy) is type(model)
            assert copy.get_params() == model.get_params()
            assert_array_equal(copy.predict(data), model.predict(data))
            assert_array_equal(copy.score_samples(data, y), model.score_samples(data, y))
            assert_array_equal(copy.gate_coef_, model.gate_coef_)
            assert_array_equal(copy.coef_, model.coef_)
            pd.testing.assert_frame_equal(copy.coefficients(), model.coefficients())


def test_searched_over():
    search = GridSearchCV(regressor(n_init=1), {"alpha": [0.05, 5.0]}, cv=3).fit(X, Y)
    assert search.best_params_["alpha"] == 0.05
    assert clone(regressor(alpha=0.7)).alpha == 0.7


# --- penalties -----------------------------------------------------------------------------------


def test_strong_penalties_leave_nothing():
    est = regressor(alpha=50.0, gate_alpha=50.0).fit(X, Y)
    assert est.n_nonzero_ == 0
    assert not est.coef_.any()
    assert not est.gate_coef_.any()
    assert str(est.summary())


def test_free_and_heavy_columns():
    free = np.ones(P)
    free[[4, 5]] = 0.0
    heavy = np.where(np.arange(P) == 1, 1e6, 1.0)
    est = regressor(penalty_weights=free * heavy, gate_penalty_weights=free).fit(X, Y)
    assert est.active_[:, [4, 5]].all()
    assert est.gate_active_[:, [4, 5]].all()
    assert not est.active_[:, 1].any()


def test_groups_enter_together():
    labels = np.array(["a", "b", "b", "c", "c", "d", "e", "e"])
    est = regressor(penalty="group", groups=labels, alpha=0.12, gate_alpha=0.08).fit(X, Y)
    used = (est.active_ | est.gate_active_).any(axis=0)
    whole = est.active_.all(axis=0) & est.gate_active_.any(axis=0)
    for label in "abcde":
        assert used[labels == label].all() == used[labels == label].any()
    assert_array_equal(whole, used)
    assert used[1]
    assert not used.all()
    alone = regressor(penalty="group", alpha=0.12, gate_alpha=0.08).fit(X, Y)
    assert_array_equal(alone.active_[0], alone.active_[1])


@pytest.mark.parametrize("penalty", ["mcp", "scad"])
def test_concave_penalties_shrink_large_slopes_less(est, penalty):
    other = regressor(penalty=penalty).fit(FRAME, Y)
    assert other.converged_
    assert other.kkt_violation_ < 1e-6
    large = np.abs(est.coef_) > 0.5
    assert (np.abs(other.coef_[large]) > np.abs(est.coef_[large])).mean() > 0.9
    assert other.log_likelihood_ > est.log_likelihood_ - 1.0


def test_adaptive_lasso_weighs_by_its_pilot(est):
    other = regressor(penalty="adaptive", alpha=0.02, gate_alpha=0.02).fit(X, Y)
    pilot = regressor(alpha=0.02, gate_alpha=0.02).fit(X, Y)
    assert not (other.active_ & ~pilot.active_).any()
    assert other.active_.sum() < pilot.active_.sum()
    # What it maximises, with weights from the pilot's coefficients by hand.
    size, unit = X.std(axis=0), Y.std()
    with np.errstate(divide="ignore", invalid="ignore"):
        # ``alpha`` times a weight is in the unit of y, the weight itself has none.
        weights = 1.0 / (np.abs(pilot.coef_) * size / unit)
        gate = 1.0 / (np.abs(pilot.gate_coef_) * size).mean(axis=0)
        own = (weights * np.abs(other.coef_) * size)[other.active_].sum()
        own += (gate * np.abs(other.gate_coef_) * size)[other.gate_active_].sum()
    assert other.objective_ == pytest.approx(other.log_likelihood_ - N * 0.02 * own, rel=1e-5)
    plain = regressor(penalty="adaptive", concavity=1e-9, alpha=0.05).fit(X, Y)
    assert_allclose(plain.coef_, est.coef_, atol=1e-4)


def test_relaxed_fit_is_maximum_likelihood_on_the_active_set(est):
    other = regressor(relax=True).fit(X, Y)
    assert_array_equal(other.lasso_coef_ != 0.0, est.active_)
    assert_allclose(other.lasso_coef_, est.coef_, atol=1e-6)
    assert_array_equal(other.active_, est.active_)
    assert_array_equal(other.gate_active_, est.gate_active_)
    assert other.log_likelihood_ > est.log_likelihood_
    assert other.objective_ == pytest.approx(est.objective_, abs=1e-6)
    assert other.log_likelihood_ == pytest.approx(other.score_samples(X, Y).sum(), rel=1e-10)
    # No step of an active coefficient or an intercept raises the likelihood.
    resp = other.responsibilities(X, Y)
    residual = resp * (Y[:, None] - other.predict_experts(X)) / other.scale_**2
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    assert np.abs((residual.T @ Z / N)[other.active_]).max() < 1e-5
    gate = (resp - other.gate_proba(X)).T @ Z / N
    assert np.abs(gate[other.gate_active_]).max() < 1e-5
    assert not hasattr(regressor().fit(X, Y), "lasso_coef_")


def test_copies_of_a_column_are_taken_alike_by_a_ridge_share():
    twice = np.column_stack([X, X[:, 1]])
    est = regressor(l1_ratio=0.5).fit(twice, Y)
    assert_allclose(est.coef_[:, 1], est.coef_[:, -1], atol=1e-4)
    assert est.active_[:, -1].any()
    lasso = regressor().fit(twice, Y)
    assert lasso.objective_ == pytest.approx(regressor().fit(X, Y).objective_, abs=1e-4)


# --- starts --------------------------------------------------------------------------------------


def test_starts_that_are_given(est):
    label = (FRAME.c0 > FRAME.c0.mean()).to_numpy().astype(int)
    resp = np.where(label[:, None] == np.arange(2), 0.9, 0.1)
    raw = {"intercept": [-3.0, 3.0], "coef": np.zeros((2, P)), "scale": [1.0, 1.0]}
    full = mx.MoERegressor(2, n_init=2, random_state=0).fit(FRAME, Y)
    for init in (label, resp, raw, est, full, [label, est]):
        other = regressor(init=init).fit(FRAME, Y)
        assert other.objective_ == pytest.approx(est.objective_, abs=1e-3)
        assert len(other.restarts_) == 1 + isinstance(init, list)
    assert other.restarts_.init.tolist() == ["labels", "model"]


def test_models_of_fewer_experts_grow():
    small = regressor(n_experts=1, alpha=0.01).fit(X3, Y3)
    other = regressor(n_experts=3, init=[small, "residual"], n_init=4).fit(X3, Y3)
    assert other.restarts_.init.tolist() == ["split", *["residual"] * 4]
    assert np.isfinite(other.restarts_.objective[0])
    best = regressor(n_experts=3, n_init=10).fit(X3, Y3)
    table = mx.select(regressor(n_init=5), X3, Y3, n_experts=[1, 2, 3]).table
    assert table.bic.idxmin() == 3
    assert table.log_likelihood[3] == pytest.approx(best.log_likelihood_, abs=1e-3)


def test_one_m_step_from_labels_is_near_the_labels():
    label = (XC[:, 0] > 0.0).astype(int)
    other = classifier(init=label, max_iter=1)
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        other.fit(XC, YC)
    share = other.responsibilities(XC, YC).argmax(axis=1)
    assert max(np.mean(share == label), np.mean(share != label)) > 0.8


def test_warm_start_goes_on():
    est = regressor(warm_start=True).fit(X, Y)
    first = est.objective_
    est.set_params(alpha=0.051).fit(X, Y)
    assert est.restarts_.init.tolist() == ["model"]
    assert est.objective_ < first
    assert est.n_iter_ < 60
    with pytest.raises(ValueError, match="warm_start=True cannot go on"):
        est.fit(X[:, :5], Y)
    assert len(est.set_params(n_experts=1).fit(X, Y).restarts_) == 1
    assert est.restarts_.init.tolist() == ["single"]


def test_seeds_repeat_and_jobs_do_not_matter():
    fits = [regressor(n_experts=3, n_jobs=jobs, n_init=5).fit(X3, Y3) for jobs in (None, 2)]
    assert_array_equal(fits[0].coef_, fits[1].coef_)
    assert_array_equal(fits[0].restarts_.objective, fits[1].restarts_.objective)


# --- more columns than rows ------------------------------------------------------------


def test_twenty_thousand_columns():
    """Nothing has the size of all pairs of columns, which would be 3.2 GB."""
    rng = np.random.default_rng(2)
    wide = rng.standard_normal((100, 20_000))
    y = np.where(wide[:, 0] < 0.0, -8.0, 8.0) + rng.standard_normal(100)
    tracemalloc.start()
    est = regressor(alpha=0.7, gate_alpha=0.2, n_init=2).fit(wide, y)
    est.predict(wide)
    est.predictive(wide).interval(0.9)
    criteria = est.bic(wide, y)
    table = est.coefficients()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400e6
    assert est.coef_.shape == est.gate_coef_.shape == (2, 20_000)
    assert len(est.expert_terms_) == 20_000
    assert np.isfinite(criteria)
    assert "x0" in set(table.term)
    assert est.n_nonzero_ < 20


@given(
    center=st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
    scale=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3),
)
def test_designs_of_the_features_themselves(center, scale):
    plain = DesignMap.plain(("a", "b", "c"), np.array(center), np.array(scale))
    table = DesignMap(
        ("a", "b", "c"), np.array(center), np.array(scale), np.eye(3, dtype=int), True
    )
    rows = np.random.default_rng(0).standard_normal((5, 3))
    coef = np.random.default_rng(1).standard_normal((2, 4))
    coef[:, 2] = 0.0
    assert_array_equal(plain.transform(rows), table.transform(rows))
    assert plain.column_names() == table.column_names()
    assert plain.n_columns == table.n_columns == 4
    assert plain.is_plain
    assert_allclose(plain.standard_to_raw(), table.standard_to_raw())
    for mine, theirs in zip(
        plain.raw_coefficients(coef), table.raw_coefficients(coef), strict=True
    ):
        assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
    intercept, slopes = plain.raw_coefficients(coef)
    assert not slopes[:, 1].any()
    size = np.abs(slopes * plain.center).max() + np.abs(coef).max()
    assert_allclose(plain.engine_coefficients(intercept, slopes), coef, atol=1e-12 * size)


# --- what is refused ------------------------------------------------------------


def fit(data=X, y=Y, weight=None, offset=None, **options):
    return regressor(n_init=1, **options).fit(data, y, weight, offset=offset)


FLAT = FRAME.assign(c2=4.0, c6=-1e9)
# name: (call, error, pattern that the message must match)
REFUSED = {
    "alpha zero": (lambda: fit(alpha=0.0), ValueError, r"alpha must be .* > 0, got 0.0; .*MoERegr"),
    "alpha negative": (lambda: fit(alpha=-1.0), ValueError, r"^alpha must be .* > 0"),
    "alpha nan": (lambda: fit(alpha=np.nan), ValueError, r"^alpha must be a finite"),
    "alpha infinite": (lambda: fit(alpha=np.inf), ValueError, r"^alpha must be a finite"),
    "alpha bool": (lambda: fit(alpha=True), TypeError, r"^alpha must be a number"),
    "alpha text": (lambda: fit(alpha="1"), TypeError, r"^alpha must be a number"),
    "gate_alpha zero": (lambda: fit(gate_alpha=0), ValueError, r"^gate_alpha must be"),
    "gate_alpha None": (lambda: fit(gate_alpha=None), TypeError, r"^gate_alpha must be"),
    "l1_ratio above": (lambda: fit(l1_ratio=1.01), ValueError, r"l1_ratio must lie in \[0, 1\]"),
    "l1_ratio nan": (lambda: fit(l1_ratio=np.nan), ValueError, r"l1_ratio must lie in"),
    "l1_ratio bool": (lambda: fit(l1_ratio=True), TypeError, r"l1_ratio must be a number"),
    "penalty": (
        lambda: fit(penalty="l2"),
        ValueError,
        r"penalty='l2' is not known; known: 'lasso'",
    ),
    "penalty object": (lambda: fit(penalty=1), TypeError, r"penalty must be one of"),
    "gate_coding": (lambda: fit(gate_coding="last"), ValueError, r"gate_coding='last'"),
    "concavity unused": (lambda: fit(concavity=3.0), ValueError, r"concavity has no use"),
    "concavity of mcp": (
        lambda: fit(penalty="mcp", concavity=1.0),
        ValueError,
        r"concavity must be a finite number > 1 with penalty='mcp'",
    ),
    "concavity of scad": (lambda: fit(penalty="scad", concavity=2), ValueError, r"number > 2"),
    "power": (lambda: fit(penalty="adaptive", concavity=0.0), ValueError, r"number > 0"),
    "weights shape": (
        lambda: fit(penalty_weights=np.ones(3)),
        ValueError,
        r"penalty_weights must have shape \(8,\)",
    ),
    "weights negative": (
        lambda: fit(gate_penalty_weights=-np.ones(P)),
        ValueError,
        r"gate_penalty_weights is -1 for column 0",
    ),
    "weights text": (
        lambda: fit(penalty_weights=["a"] * P),
        TypeError,
        r"penalty_weights must hold",
    ),
    "groups unused": (lambda: fit(groups=np.zeros(P)), ValueError, r"groups has no use"),
    "groups shape": (
        lambda: fit(penalty="group", groups=[0, 1]),
        ValueError,
        r"groups must have shape \(8,\)",
    ),
    "groups missing": (
        lambda: fit(penalty="group", groups=[0.0, np.nan, *range(6)]),
        ValueError,
        r"groups is missing for column 1",
    ),
    "standardize": (lambda: fit(standardize="no"), TypeError, r"standardize must be True or False"),
    "by_scale": (lambda: fit(by_scale=None), TypeError, r"by_scale must be True, False or 'auto'"),
    "by_scale of counts": (
        lambda: fit(y=np.round(np.abs(Y)), expert="poisson", by_scale=True),
        TypeError,
        r"by scale is for Gaussian experts",
    ),
    "relax": (lambda: fit(relax=1), TypeError, r"relax must be True or False"),
    "n_experts": (lambda: fit(n_experts=0), ValueError, r"n_experts must be a positive integer"),
    "too many experts": (lambda: fit(n_experts=N + 1), ValueError, r"n_experts=161 is more than"),
    "n_init": (lambda: fit(max_iter=0), ValueError, r"max_iter must be a positive integer"),
    "tol": (lambda: fit(tol=-1.0), ValueError, r"tol must be"),
    "n_jobs": (lambda: fit(n_jobs="all"), TypeError, r"n_jobs must be"),
    "constant columns": (
        lambda: fit(FLAT),
        ValueError,
        r"constant columns: 'c2', 'c6'. .* leave them out",
    ),
    "constant where the weight is": (
        lambda: fit(X * (np.arange(N) > 3)[:, None], weight=np.arange(N) <= 3),
        ValueError,
        r"constant columns: 'x0', 'x1'",
    ),
    "constant y": (lambda: fit(y=np.ones(N)), ValueError, r"y is constant"),
    "nan in X": (lambda: fit(np.where(X > 4.0, np.nan, X)), ValueError, r"X contains NaN"),
    "nan in y": (lambda: fit(y=np.where(Y > 4.0, np.nan, Y)), ValueError, r"y contains NaN"),
    "y missing": (lambda: regressor().fit(X), ValueError, r"requires y"),
    "several responses": (
        lambda: fit(y=np.column_stack([Y, Y**2])),
        TypeError,
        r"y has 2 columns; penalised experts take one response",
    ),
    "negative counts": (lambda: fit(expert="poisson"), ValueError, r"\by\b"),
    "sparse X": (lambda: fit(scipy.sparse.csr_array(X)), TypeError, r"dense"),
    "source": (lambda: fit(ArraySource(X, Y), None), TypeError, r"X is a ArraySource; .* arrays"),
    "degree": (lambda: fit(expert=Gaussian(degree=2)), TypeError, r"PolynomialFeatures"),
    "no intercept": (
        lambda: fit(expert=Gaussian(fit_intercept=False)),
        TypeError,
        r"fit_intercept=True",
    ),
    "classes": (lambda: fit(expert="multinomial"), TypeError, r"is for classes"),
    "column twice": (
        lambda: fit(expert_features=[0, 1, 0]),
        ValueError,
        r"expert_features names the column 'x0' twice",
    ),
    "unknown column": (lambda: fit(gate_features=["z"]), ValueError, r"gate_features names"),
    "labels": (lambda: fit(init=np.zeros(N)), ValueError, r"init holds 1 different labels"),
    "model of more experts": (
        lambda: fit(init=regressor(n_experts=3, n_init=5).fit(X3, Y3)),
        ValueError,
        r"init is a model of 3 experts, more than n_experts=2",
    ),
    "model of other columns": (
        lambda: fit(init=regressor().fit(X[:, :4], Y)),
        ValueError,
        r"init is a model whose experts have 4 coefficients",
    ),
    "init name": (lambda: fit(init="nosuch"), ValueError, r"'nosuch' is not known; known starts"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_refused_by_the_classifier():
    with pytest.raises(ValueError, match="one class only"):
        classifier().fit(XC, np.full(len(XC), "ant"))
    with pytest.raises(TypeError, match="is no family of classes"):
        classifier(expert="poisson").fit(XC, YC)
    with pytest.raises(ValueError, match="takes two classes, but y holds 3"):
        classifier(expert="binomial").fit(XC, YC)
    with pytest.raises(ValueError, match=r"requires y|y is missing"):
        classifier().fit(XC)


def test_offset_of_classes_is_added_to_log_odds_against_the_last():
    offset = 3.0 * XC[:, 3]
    est = classifier(init=(XC[:, 0] > 0.0).astype(int)).fit(XC, YC, offset=offset)
    assert est.log_likelihood_ == pytest.approx(est.score_samples(XC, YC, offset=offset).sum())
    logits = est.coef_ @ XC.T + est.intercept_[:, :, None]
    logits[:, :2] += offset
    proba = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert_allclose(est.predict_experts(XC, offset=offset), proba.transpose(2, 0, 1), atol=1e-10)


def test_verbose_says_how_the_starts_went(capsys):
    regressor(verbose=2).fit(X, Y)
    text = capsys.readouterr().err
    assert "slopes, converged" in text
    assert text.count("\n") == 4


def test_two_classes_are_binomial_rows():
    """Multinomial rows are minus each other; the penalty of the single slope is the same."""
    two = np.where(YC == "ant", "ant", "other")
    label = (XC[:, 0] > 0.0).astype(int)
    both = classifier(init=label).fit(XC, two)
    single = classifier(init=label, expert="binomial").fit(XC, two)
    assert both.objective_ == pytest.approx(single.objective_, abs=1e-5)
    assert_allclose(both.coef_[:, 0], -both.coef_[:, 1], atol=1e-12)
    slope = both.coef_[:, 1] - both.coef_[:, 0]
    assert_allclose(slope, single.coef_, atol=2e-3)
    assert_allclose(both.predict_proba(XC), single.predict_proba(XC), atol=1e-3)
    assert both.df_ == single.df_


def test_a_failed_fit_leaves_the_fitted_attributes(est):
    other = pickle.loads(pickle.dumps(est))
    before = other.coef_
    with pytest.raises(ValueError, match="constant columns"):
        other.fit(FLAT, Y)
    assert other.coef_ is before


@pytest.mark.parametrize(
    "options", [{"relax": True}, {"penalty": "mcp"}, {"penalty_weights": [0, 1, 1]}]
)
def test_separation_of_what_no_penalty_holds_is_said(options):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((120, 3))
    labels = (features[:, 0] > 0.0).astype(int)
    est = mx.LassoMoEClassifier(1, 0.02, 0.02, random_state=0, **options)
    with pytest.warns(SeparationWarning, match="expert 1"):
        est.fit(features, labels)
    assert est.separated_experts_.all()


def test_a_penalised_gate_that_separates_is_finite():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((150, 3))
    y = np.where(features[:, 0] > 0.0, 5.0 + features[:, 1], -5.0) + rng.standard_normal(150)
    est = mx.LassoMoERegressor(2, 0.02, 0.02, random_state=0).fit(features, y)
    assert not est.separated_
    with pytest.warns(SeparationWarning, match="gate separates"):
        relaxed = clone(est).set_params(relax=True).fit(features, y)
    assert relaxed.separated_
