"""The estimator as a citizen of scikit-learn, and as its own documentation describes it."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mixexperts as mx
from mixexperts import gates
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax
from mixexperts.penalties import Ridge

FITTED = (
    "intercept_", "coef_", "scale_", "gate_intercept_", "gate_coef_", "mass_", "history_",
)  # fmt: skip


@pytest.fixture
def data():
    rng = np.random.default_rng(20260901)
    X = rng.standard_normal((150, 2))
    label = (X[:, 0] + 0.4 * rng.standard_normal(150) > 0).astype(int)
    y = np.where(label, 3.0 + X[:, 1], -1.0 - X[:, 0]) + 0.5 * rng.standard_normal(150)
    return X, y, label


@pytest.fixture
def frame(data):
    return pd.DataFrame(data[0], columns=["age", "income"])


def regressor(**options):
    return mx.MoERegressor(**{"n_init": 3, "random_state": 0, **options})


# --- scikit-learn's own checks ------------------------------------------------------------------

SETTINGS = {
    "default": {},
    "constant gate": {"gate": "constant"},
    "three experts": {"n_experts": 3},
    "quadratic": {"expert": Gaussian(degree=2)},
    "one expert": {"n_experts": 1},
    "in chunks": {"chunk_rows": 7},
    # On more columns than rows a full covariance is refused, and lines fit perfectly.
    "gaussian gate": {"gate": gates.Gaussian(covariance="diag"), "expert": Gaussian(degree=0)},
    "shared scale, ridge": {"expert": Gaussian(shared_scale=True), "gate_penalty": Ridge(0.01)},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_check_estimator(options):
    with warnings.catch_warnings():
        # Its data are degenerate, collinear and tiny on purpose; our warnings say so.
        for category in (
            mx.errors.DegenerateFitWarning,
            mx.errors.RankDeficientWarning,
            mx.errors.SeparationWarning,
            ConvergenceWarning,
        ):
            warnings.simplefilter("ignore", category)
        # Skipped: checks that need optional packages or environment variables.
        results = check_estimator(
            mx.MoERegressor(n_init=2, **options), on_skip=None, on_fail="raise"
        )
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert sum(r["status"] == "passed" for r in results) > 40


def test_clone_and_parameters():
    est = regressor(gate=Softmax(fit_intercept=False), expert=Gaussian(2), gate_features=[0])
    copy = clone(est)
    assert copy.get_params() == est.get_params()
    assert copy.set_params(n_experts=5).n_experts == 5
    assert est.n_experts == 2
    assert repr(mx.MoERegressor(3)) == "MoERegressor(n_experts=3)"


def test_only_the_first_argument_goes_by_position():
    with pytest.raises(TypeError):
        mx.MoERegressor(2, "softmax")


def test_fit_returns_self_and_leaves_its_parameters_alone(data):
    X, y, _ = data
    est = regressor()
    before = est.get_params()
    X_before, y_before = X.copy(), y.copy()
    X.flags.writeable = y.flags.writeable = False
    assert est.fit(X, y) is est
    assert est.get_params() == before
    assert (X_before == X).all()
    assert (y == y_before).all()
    assert est.n_features_in_ == 2


def test_pickle(data):
    X, y, _ = data
    est = regressor().fit(X, y)
    again = pickle.loads(pickle.dumps(est))
    for name in FITTED:
        assert (getattr(again, name) == getattr(est, name)).all(), name
    assert (again.predict(X) == est.predict(X)).all()


def test_pipeline_with_scaling_is_the_fit_without(data, frame):
    """Scaling is an affine change of columns: the same likelihood, the same predictions."""
    X, y, _ = data
    plain = regressor(tol=1e-12).fit(X, y)
    pipeline = make_pipeline(StandardScaler(), regressor(tol=1e-12)).fit(X, y)
    assert_allclose(pipeline.predict(X), plain.predict(X), atol=1e-5)
    assert pipeline[-1].log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-7)
    assert pipeline.score(X, y) == pytest.approx(plain.score(X, y), abs=1e-6)


def test_set_output_carries_names_through_a_pipeline(data, frame):
    y = data[1]
    scaler = StandardScaler().set_output(transform="pandas")
    pipeline = Pipeline([("scale", scaler), ("moe", regressor(gate_features=["income"]))])
    pipeline.fit(frame, y)
    est = pipeline[-1]
    assert est.feature_names_in_.tolist() == ["age", "income"]
    assert est.expert_terms_ == ("age", "income")
    assert est.gate_terms_ == ("income",)
    assert pipeline.predict(frame).shape == (150,)


def test_grid_search_and_cross_validation(data):
    X, y, _ = data
    folds = KFold(3, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.DegenerateFitWarning)
        search = GridSearchCV(regressor(n_init=2), {"n_experts": [1, 2]}, cv=folds).fit(X, y)
        scores = cross_val_score(regressor(n_init=2), X, y, cv=folds)
    assert search.best_params_ == {"n_experts": 2}
    assert search.best_estimator_.coef_.shape == (2, 2)
    assert_allclose(scores.mean(), search.best_score_)
    assert scores.mean() > 0.2


def test_score_is_r_squared(data):
    X, y, _ = data
    est = regressor().fit(X, y)
    weight = np.linspace(0, 2, 150)
    for w in (None, weight):
        ww = np.ones(150) if w is None else w
        rss = ww @ (y - est.predict(X)) ** 2
        tss = ww @ (y - np.average(y, weights=ww)) ** 2
        assert est.score(X, y, sample_weight=w) == pytest.approx(1 - rss / tss)


# --- data frames --------------------------------------------------------------------------------


def test_columns_are_matched_by_name(data, frame):
    y = data[1]
    est = regressor().fit(frame, y)
    base = est.predict(frame)
    assert (est.predict(frame[["income", "age"]]) == base).all()
    with pytest.raises(ValueError, match=r"(?s)unseen at fit time.*extra"):
        est.predict(frame.assign(extra=1.0))
    turned = frame[["income", "age"]]
    assert (est.score_samples(turned, y) == est.score_samples(frame, y)).all()
    assert (est.gate_proba(turned) == est.gate_proba(frame)).all()
    assert est.bic(turned, y) == est.bic(frame, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert (est.predict(frame.to_numpy()) == base).all()


def test_kinds_of_numbers_make_no_difference(data, frame):
    X, y, _ = data
    base = regressor().fit(X, y)
    lists = regressor().fit(X.tolist(), y.tolist())
    series = regressor().fit(frame, pd.Series(y, index=np.arange(150) * 3))
    fortran = regressor().fit(np.asfortranarray(X), y)
    for est in (lists, series, fortran):
        assert est.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-9)
    whole = regressor().fit(np.round(4 * X).astype(int), np.round(10 * y).astype(int))
    real = regressor().fit(np.round(4 * X), np.round(10 * y))
    assert whole.log_likelihood_ == real.log_likelihood_
    single = regressor().fit(X.astype(np.float32), y.astype(np.float32))
    assert single.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-3)
    nullable = regressor().fit(frame.astype("Float64"), y)
    assert nullable.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-9)


def test_gate_weights_as_a_transformation(data, frame):
    y = data[1]
    est = regressor().fit(frame, y)
    assert (est.transform(frame) == est.gate_proba(frame)).all()
    assert est.get_feature_names_out().tolist() == ["gate1", "gate2"]
    named = regressor().set_output(transform="pandas").fit(frame, y).transform(frame)
    assert named.columns.tolist() == ["gate1", "gate2"]


def test_an_offset_of_the_fit_is_asked_for_again(data):
    X, y, _ = data
    offset = np.linspace(-1, 1, 150)
    est = regressor().fit(X, y, offset=offset)
    for method in ("predict", "predict_experts", "predictive", "sample"):
        with pytest.raises(ValueError, match="offset is missing"):
            getattr(est, method)(X)
    with pytest.raises(ValueError, match="offset is missing"):
        est.bic(X, y)
    assert_allclose(est.predict(X, offset=offset), est.predict(X, offset=0 * offset) + offset)
    assert est.gate_proba(X).shape == (150, 2)  # the gate has none


# --- starts -------------------------------------------------------------------------------------


def test_every_way_to_say_where_to_start(data):
    X, y, label = data
    base = regressor(init=label, n_init=1).fit(X, y)
    resp = np.eye(2)[label]
    dictionary = {
        name: getattr(base, f"{name}_")
        for name in ("intercept", "coef", "scale", "gate_intercept", "gate_coef")
    }
    ways = {
        "responsibilities": resp,
        "text labels": np.array(["low", "high"])[label],
        "pandas labels": pd.Series(label),
        "list of labels": label.tolist(),
        "parameters": dictionary,
        "parameters without gate": {k: v for k, v in dictionary.items() if "gate" not in k},
        "model": base,
        "smaller model": regressor(n_experts=1).fit(X, y),
        "list": [label, "random", dictionary, base],
    }
    for name, init in ways.items():
        est = regressor(init=init, n_init=2).fit(X, y)
        assert est.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-5), name
        assert_allclose(est.coef_, base.coef_, atol=1e-3)
    assert est.restarts_["init"].tolist() == ["labels", "random", "random", "parameters", "model"]


def test_a_start_at_the_optimum_stays_there(data):
    X, y, _ = data
    base = regressor(tol=1e-10).fit(X, y)
    again = regressor(init=base, tol=1e-10).fit(X, y)
    assert again.n_iter_ <= 3
    assert again.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-8)
    assert_allclose(again.history_[0], base.log_likelihood_, atol=1e-8)


@pytest.mark.parametrize("expert", [Gaussian(2), Gaussian(fit_intercept=False)], ids=str)
@pytest.mark.parametrize("gate", ["softmax", "constant"])
def test_raw_parameters_describe_the_fit_whole(data, gate, expert):
    """Started from its own reported parameters, a fit begins where it ended."""
    X, y, _ = data
    X = X * [1e3, 1e-2] + ([50.0, -1.0] if expert.fit_intercept else 0.0)
    names = ("intercept", "coef", "scale", "gate_intercept", "gate_coef")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.SeparationWarning)
        base = regressor(gate=gate, expert=expert).fit(X, y)
        start = {name: getattr(base, f"{name}_") for name in names}
        again = regressor(gate=gate, expert=expert, init=start).fit(X, y)
    assert again.history_[0] == pytest.approx(base.log_likelihood_, abs=1e-6)


def test_warm_start_goes_on(data):
    X, y, _ = data
    est = regressor(warm_start=True, max_iter=2, n_init=1, init="random")
    with pytest.warns(ConvergenceWarning, match="max_iter=2 passes were not enough"):
        est.fit(X, y)
    first = est.log_likelihood_
    est.set_params(max_iter=1000).fit(X, y)
    assert est.history_[0] == pytest.approx(first, abs=1e-9)
    assert est.converged_
    assert est.restarts_["init"].tolist() == ["model"]
    est.set_params(n_experts=3).fit(X, y)  # another number of experts: from scratch
    assert est.coef_.shape == (3, 2)


def test_warm_start_with_other_columns_is_refused_under_its_own_name(data):
    X, y, _ = data
    est = regressor(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="warm_start"):
        est.fit(X[:, :1], y)


# --- what is reported ---------------------------------------------------------------------------


def test_experts_are_ordered_by_mean_fitted_response_over_their_rows(data):
    X, y, _ = data
    for n_experts in (2, 3):
        est = regressor(n_experts=n_experts).fit(X, y)
        resp = est.responsibilities(X, y)
        level = (resp * est.predict_experts(X)).sum(axis=0) / resp.sum(axis=0)
        assert (np.diff(level) > 0).all()
        assert not est.gate_coef_[-1].any()
        assert est.gate_intercept_[-1] == 0.0
        assert_allclose(est.mass_, est.responsibilities(X, y).sum(axis=0), rtol=1e-6)


def test_criteria_are_their_formulas(data):
    X, y, _ = data
    est = regressor().fit(X, y)
    weight = np.linspace(0.5, 2.0, 150)
    for w in (None, weight):
        ww = np.ones(150) if w is None else w
        llf = ww @ est.score_samples(X, y)
        resp = est.responsibilities(X, y)
        entropy = -np.sum(ww[:, None] * resp * np.log(np.maximum(resp, 1e-300)))
        k = 2 * (3 + 1) + 3
        assert est.n_parameters_ == k
        assert est.aic(X, y, sample_weight=w) == pytest.approx(-2 * llf + 2 * k)
        bic = -2 * llf + k * np.log(ww.sum())
        assert est.bic(X, y, sample_weight=w) == pytest.approx(bic)
        assert est.icl(X, y, sample_weight=w) == pytest.approx(bic + 2 * entropy)
    assert est.score_samples(X, y).sum() == pytest.approx(est.log_likelihood_, abs=1e-9)


def test_samples_follow_the_predictive_distribution(data):
    """Probability integral transform of draws: uniform."""
    X, y, _ = data
    est = regressor().fit(X, y)
    many = np.tile(X[:5], (2000, 1))
    drawn = est.sample(many, random_state=0)
    u = est.predictive(many).cdf(drawn)
    # Kolmogorov: sup |F_n - F| sqrt(n) exceeds 2.2 with probability 1e-4
    distance = np.abs(np.sort(u) - (np.arange(10_000) + 0.5) / 10_000).max()
    assert distance * 100 < 2.2
    assert (est.sample(many, random_state=0) == drawn).all()
    assert (est.sample(many, random_state=1) != drawn).any()


def test_unfitted_status_words_reach_the_user(data):
    X, y, _ = data
    with pytest.warns(ConvergenceWarning, match="status 'max_iter'"):
        est = regressor(max_iter=1).fit(X, y)
    assert (est.status_, est.converged_) == ("max_iter", False)
    assert est.n_iter_ == 1


def test_progress_goes_to_the_screen_only_if_asked(data, capsys):
    X, y, _ = data
    regressor().fit(X, y)
    assert capsys.readouterr() == ("", "")
    regressor(verbose=2).fit(X, y)
    shown = "".join(capsys.readouterr())
    assert "best log-likelihood" in shown
    assert shown.count(" passes") == 3


def test_refit_forgets_the_previous_fit(data, frame):
    X, y, _ = data
    est = regressor().fit(frame, y)
    est.set_params(n_experts=1).fit(X, y)
    fresh = regressor(n_experts=1).fit(X, y)
    assert not hasattr(est, "feature_names_in_")
    assert (est.coef_ == fresh.coef_).all()
    assert vars(est).keys() == vars(fresh).keys()


@pytest.mark.parametrize("method", ["responsibilities", "score_samples", "aic", "bic", "icl"])
def test_unfitted_estimators_say_so_given_the_response(method):
    with pytest.raises(NotFittedError):
        getattr(mx.MoERegressor(), method)([[0.0], [1.0]], [0.0, 1.0])


def test_a_start_outside_the_model_is_brought_into_it():
    """Free scales as the start of a shared one: the likelihood is that of the model fitted."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 1))
    side = rng.integers(0, 2, 200)
    y = np.where(side, 2 * x[:, 0], -1.0) + np.where(side, 1.5, 0.05) * rng.standard_normal(200)
    free = mx.MoERegressor(2, random_state=0).fit(x, y)
    own = mx.MoERegressor(2, expert=Gaussian(shared_scale=True), random_state=0).fit(x, y)
    led = clone(own).set_params(init=["auto", free]).fit(x, y)
    assert np.ptp(led.scale_) == 0.0
    assert led.log_likelihood_ == pytest.approx(own.log_likelihood_, abs=1e-3)
    assert led.restarts_["log_likelihood"].max() < free.log_likelihood_ - 10


def test_same_parameters_for_all_experts_are_no_start():
    init = {"intercept": [0.0, 0.0], "coef": [[0.0], [0.0]], "scale": [1.0, 1.0]}
    with pytest.raises(ValueError, match="same parameters for every expert"):
        mx.MoERegressor(2, init=init).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])


def test_warm_start_of_a_high_degree_far_from_zero_loses_nothing():
    rng = np.random.default_rng(0)
    x = 1e6 + rng.uniform(-1, 1, (200, 1))
    y = (x[:, 0] - 1e6) ** 3 + 0.1 * rng.standard_normal(200)
    est = mx.MoERegressor(1, expert=Gaussian(3), warm_start=True, random_state=0).fit(x, y)
    first = est.log_likelihood_
    assert est.fit(x, y).history_[0] == pytest.approx(first, abs=1e-6)


def test_relative_weights_are_told_from_frequencies():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 1))
    with (
        pytest.warns(mx.errors.DegenerateFitWarning),
        pytest.warns(UserWarning, match="sample_weight sums to 1 over 50 rows"),
    ):
        mx.MoERegressor(1).fit(x, x[:, 0] + rng.standard_normal(50), np.full(50, 0.02))


def test_a_penalty_on_nothing_is_refused():
    with pytest.raises(TypeError, match="gate_penalty does nothing"):
        mx.MoERegressor(gate="constant", gate_penalty=Ridge(1.0)).fit([[0.0], [1.0]], [0.0, 1.0])


def test_criteria_do_not_see_rows_of_weight_zero():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((40, 1)), np.ones(40)
    y = x[:, 0] + rng.standard_normal(40)
    y[3], weight[3] = 1e200, 0.0
    est = mx.MoERegressor(1).fit(x, y, weight)
    assert est.bic(x, y, sample_weight=weight) == pytest.approx(
        -2 * est.log_likelihood_ + 3 * np.log(39)
    )
