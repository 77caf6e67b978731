"""Choosing the penalty: folds, scores, criteria, and the estimators that go by them."""

import inspect
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mixexperts as mx
from mixexperts.errors import DegenerateFitWarning, InferenceRefusedError
from mixexperts.estimators._lasso_folds import chosen_by_folds, make_folds, summarised

ROUNDING = 1e-9
N, P = 160, 8


def make_data(n=N, p=P, seed=20261102):
    """Two experts that the first column tells apart; columns of many units."""
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n, p))
    low = Z[:, 0] + 0.6 * rng.standard_normal(n) < 0.0
    y = np.where(low, -3.0 + 2.0 * Z[:, 1], 3.0 - 1.5 * Z[:, 2] + Z[:, 3])
    return Z * rng.uniform(0.5, 3.0, p) + rng.uniform(-2.0, 2.0, p), y + rng.standard_normal(n)


def make_classes(n=220, p=5, seed=4):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    slope = np.where(X[:, 0] + 0.5 * rng.standard_normal(n) < 0.0, 2.5, -2.5)
    logits = np.column_stack([slope * X[:, 1], 1.5 * X[:, 2], np.zeros(n)])
    labels = np.array(["ant", "bee", "cow"])
    return X, labels[(logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]


X, Y = make_data()
FRAME = pd.DataFrame(X, columns=[f"c{j}" for j in range(P)])
XC, YC = make_classes()
QUICK = {"n_alphas": 7, "alpha_min_ratio": 0.05, "gate_ratio": 0.3, "n_init": 3, "cv": 3}


def regressor(**options):
    return mx.LassoMoERegressorCV(**{**QUICK, "random_state": 0, **options})


def classifier(**options):
    return mx.LassoMoEClassifierCV(**{**QUICK, "gate_ratio": 1.0, "random_state": 0, **options})


@pytest.fixture(scope="module")
def est():
    return regressor(n_experts=[1, 2], gate_ratio=(0.15, 0.3)).fit(FRAME, Y)


@pytest.fixture(scope="module")
def clf():
    return classifier().fit(XC, YC)


# --- scikit-learn's own checks ------------------------------------------------------------------

# Most of the data of these checks have no mixture to find: runs need not go to their end.
TINY = {"n_alphas": 3, "gate_ratio": 1.0, "cv": 2, "n_init": 1, "max_iter": 30}
CHECKED = {
    "cv": mx.LassoMoERegressorCV([1, 2], alpha_min_ratio=0.02, **TINY),
    "ebic": mx.LassoMoERegressorCV([1, 2], alpha_min_ratio=0.02, criterion="ebic", **TINY),
    "classes, cv": mx.LassoMoEClassifierCV([1, 2], alpha_min_ratio=0.2, **TINY),
    "classes, aic": mx.LassoMoEClassifierCV([1, 2], alpha_min_ratio=0.2, criterion="aic", **TINY),
}


@pytest.mark.parametrize(
    "est",
    [
        pytest.param(est, id=name, marks=[pytest.mark.slow] if "ic" in name else [])
        for name, est in CHECKED.items()
    ],
)
def test_check_estimator(est):
    with warnings.catch_warnings():
        # Its data are tiny on purpose, and the grids here short; our warnings say so.
        for category in (DegenerateFitWarning, ConvergenceWarning):
            warnings.simplefilter("ignore", category)
        for message in ("the smallest alpha of the grid", "at .* points some fold"):
            warnings.filterwarnings("ignore", message)
        results = check_estimator(est, on_skip=None, on_fail="raise")
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize(
    ("several", "single"),
    [
        (mx.LassoMoERegressorCV, mx.LassoMoERegressor),
        (mx.LassoMoEClassifierCV, mx.LassoMoEClassifier),
    ],
)
def test_settings_are_those_of_the_single_estimator(several, single):
    own, other = (inspect.signature(cls).parameters for cls in (several, single))
    assert set(other) - set(own) == {"alpha", "gate_alpha", "warm_start"}
    for name in set(own) & set(other):
        assert own[name].default == other[name].default, name


# --- the choice -----------------------------------------------------------------------------------


def test_the_choice_is_the_point_of_the_path_of_all_rows(est):
    table = est.cv_results_
    best = int(table["mean_score"].to_numpy().argmax())
    row = table.loc[best]
    assert est.best_index_ == best
    assert (est.alpha_, est.gate_alpha_) == (row["alpha"], row["gate_alpha"])
    assert (est.n_experts_, est.gate_ratio_) == (row["n_experts"], row["gate_ratio"]) == (2, 0.15)
    assert est.objective_ == row["objective"]
    assert est.df_ == row["df"]
    assert est.kkt_violation_ < 1e-6
    # One expert has one path, two have one for each ratio.
    assert table.groupby(["n_experts", "gate_ratio"]).size().to_dict() == {
        (1, 0.15): 7, (2, 0.15): 7, (2, 0.3): 7,
    }  # fmt: skip
    own = table[(table["n_experts"] == 2) & (table["gate_ratio"] == 0.15)]
    assert_array_equal(est.alphas_, own["alpha"])
    path = mx.LassoMoERegressor(2, n_init=3, random_state=0).path(
        FRAME, Y, n_alphas=7, alpha_min_ratio=0.05, gate_ratio=0.15
    )
    assert_allclose(path.table["objective"], own["objective"], rtol=1e-12)


def test_two_experts_and_their_columns_are_found(est):
    assert est.n_experts_ == 2
    assert set(np.flatnonzero(est.support_)) >= {0, 1, 2, 3}
    assert est.score(FRAME, Y) > 0.6


def test_attributes_are_those_of_the_chosen_fit(est):
    single = est.best_estimator_
    assert type(single) is mx.LassoMoERegressor
    assert (single.alpha, single.gate_alpha, single.n_experts) == (
        est.alpha_, est.gate_alpha_, est.n_experts_,
    )  # fmt: skip
    for name in ("coef_", "gate_coef_", "intercept_", "scale_", "active_"):
        assert_array_equal(getattr(est, name), getattr(single, name))
    assert_array_equal(est.predict(FRAME), single.predict(FRAME))
    assert_array_equal(est.gate_proba(FRAME), single.gate_proba(FRAME))
    assert_array_equal(est.responsibilities(FRAME, Y), single.responsibilities(FRAME, Y))
    assert str(est.summary()) == str(single.summary())
    assert est.coefficients().equals(single.coefficients())
    assert est.feature_names_in_.tolist() == list(FRAME.columns)
    with pytest.raises(InferenceRefusedError):
        est.inference(FRAME, Y)


def test_the_path_holds_the_chosen_coefficients(est):
    rows = est.path_[(est.path_["point"] == est.best_index_) & (est.path_["room"] == "expert")]
    coef = np.zeros(est.coef_.shape)
    terms = list(est.expert_terms_)
    coef[rows["expert"] - 1, [terms.index(term) for term in rows["term"]]] = rows["coef"]
    assert_allclose(coef, est.coef_, rtol=ROUNDING)


def test_classes_are_predicted(clf):
    assert clf.classes_.tolist() == ["ant", "bee", "cow"]
    assert type(clf.best_estimator_) is mx.LassoMoEClassifier
    assert clf.score(XC, YC) > 0.6
    assert_allclose(clf.predict_proba(XC).sum(axis=1), 1.0)
    assert set(clf.path_["class"]) <= {"ant", "bee", "cow", None}


@pytest.mark.parametrize("criterion", ["aic", "bic", "ebic", "mbic"])
def test_criteria_need_no_folds(criterion):
    est = regressor(criterion=criterion, cv="unused").fit(X, Y)
    table = est.cv_results_
    assert est.best_index_ == int(table[criterion].to_numpy().argmin())
    assert "mean_score" not in table.columns
    assert table[criterion].min() == table.loc[est.best_index_, criterion]


def test_gamma_goes_into_ebic():
    sparse = regressor(criterion="ebic", ebic_gamma=1.0).fit(X, Y)
    plain = regressor(criterion="ebic", ebic_gamma=0.0).fit(X, Y)
    assert_allclose(plain.cv_results_["ebic"], plain.cv_results_["bic"])
    assert sparse.df_ <= plain.df_


@pytest.mark.parametrize(
    "options",
    [{"criterion": "bic"}, {"criterion": "cv"}, {"criterion": "bic", "by_scale": True}],
    ids=["bic", "cv", "by_scale"],
)
def test_the_unit_of_the_response_does_not_matter(options):
    one = regressor(gate_ratio=(0.2, 0.5), **options).fit(X, Y)
    two = regressor(gate_ratio=(0.2, 0.5), **options).fit(X, 1000.0 * Y + 5.0)
    assert (one.best_index_, one.gate_ratio_) == (two.best_index_, two.gate_ratio_)
    assert_array_equal(one.active_, two.active_)
    assert_array_equal(one.gate_active_, two.gate_active_)
    assert_allclose(two.coef_, 1000.0 * one.coef_, rtol=1e-4, atol=1e-3)
    unit = 1.0 if "by_scale" in options else Y.std()
    assert one.gate_alpha_ == pytest.approx(one.gate_ratio_ * one.alpha_ * unit)
    assert two.gate_alpha_ == pytest.approx(one.gate_alpha_, rel=1e-6)


def test_one_standard_error_is_sparser_and_not_much_worse():
    plain, sparse = regressor().fit(X, Y), regressor(one_se=True).fit(X, Y)
    table = plain.cv_results_
    best, own = table.loc[plain.best_index_], table.loc[sparse.best_index_]
    assert sparse.df_ <= plain.df_
    assert own["mean_score"] >= best["mean_score"] - best["std_error"]
    near = table[table["mean_score"] >= best["mean_score"] - best["std_error"]]
    assert own["df"] == near["df"].min()


# --- folds and scores -----------------------------------------------------------------------------


def test_scores_are_those_of_fits_to_the_other_rows():
    """One point, by hand: the fold's path is one of the estimator's own."""
    pairs = list(KFold(2).split(X))
    est = regressor(alphas=[0.12, 0.08], cv=pairs, n_init=10)
    with pytest.warns(UserWarning, match="smallest alpha of the grid, 0.08"):
        est.fit(X, Y)
    for number, (train, test) in enumerate(pairs, start=1):
        fold = mx.LassoMoERegressor(2, 0.08, 0.3 * 0.08 * Y.std(), n_init=10, random_state=1)
        fold.fit(X[train], Y[train])
        score = fold.score_samples(X[test], Y[test]).mean()
        assert est.cv_results_.loc[1, f"fold{number}"] == pytest.approx(score, abs=1e-4)


def test_folds_do_not_hang_on_the_number_of_workers():
    one, two = regressor().fit(X, Y), regressor(n_jobs=2).fit(X, Y)
    pd.testing.assert_frame_equal(one.cv_results_, two.cv_results_)
    pd.testing.assert_frame_equal(one.path_, two.path_)
    assert_array_equal(one.coef_, two.coef_)


def test_splitters_and_pairs_are_the_same():
    options = {"criterion": "cv", "alphas": [0.3, 0.1, 0.01]}
    one = regressor(cv=KFold(3), **options).fit(X, Y)
    two = regressor(cv=list(KFold(3).split(X)), **options).fit(X, Y)
    pd.testing.assert_frame_equal(one.cv_results_, two.cv_results_)


def folds_of(est, X, y, cv, weight=None):
    problem = est._base(2)._problem(X, y, weight)
    return make_folds(cv, problem, X, y)


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_drawn_folds_hold_each_row_once_and_the_response_alike(n_folds, seed):
    folds = folds_of(regressor(random_state=seed), X, Y, n_folds)
    assert_array_equal(np.sort(np.concatenate(folds.test)), np.arange(N))
    for train, test in zip(folds.train, folds.test, strict=True):
        assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(N))
    sizes = [len(test) for test in folds.test]
    assert max(sizes) - min(sizes) <= 1
    # Of each n_folds neighbours in the order of the response a fold has one.
    rank = np.argsort(np.argsort(Y, kind="stable"), kind="stable")
    for test in folds.test:
        assert (np.bincount(rank[test] // n_folds, minlength=-(-N // n_folds)) <= 1).all()


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_drawn_folds_hold_the_classes_alike(n_folds, seed):
    folds = folds_of(classifier(random_state=seed), XC, YC, n_folds)
    for label in np.unique(YC):
        counts = [np.count_nonzero(YC[test] == label) for test in folds.test]
        assert max(counts) - min(counts) <= 1


def test_rows_of_no_weight_are_in_no_fold():
    weight = np.ones(N)
    weight[::4] = 0.0
    weight[1] = 3.0
    folds = folds_of(regressor(), X, Y, list(KFold(4).split(X)), weight)
    assert sum(len(test) for test in folds.test) == np.count_nonzero(weight)
    assert folds.weight.sum() == weight.sum()
    # Weights of rows count in the score as the rows twice do.
    options = {"alphas": [0.3, 0.1, 0.02]}
    weight = 1.0 + (np.arange(N) % 5 == 0)
    rows = np.repeat(np.arange(N), weight.astype(int))
    half = np.arange(N) < N // 2
    pairs = [
        (np.flatnonzero(half), np.flatnonzero(~half)),
        (np.flatnonzero(~half), np.flatnonzero(half)),
    ]
    twice = [tuple(np.flatnonzero(np.isin(rows, part)) for part in pair) for pair in pairs]
    one = regressor(cv=pairs, **options).fit(X, Y, weight)
    two = regressor(cv=twice, **options).fit(X[rows], Y[rows])
    assert_allclose(one.cv_results_["mean_score"], two.cv_results_["mean_score"], rtol=1e-6)


def test_columns_that_do_not_vary_in_a_fold_are_no_obstacle():
    rare = X.copy()
    rare[:, 5] = np.arange(N) == 11
    est = regressor().fit(rare, Y)
    assert np.isfinite(est.cv_results_["mean_score"]).all()


@given(
    st.integers(2, 6).flatmap(
        lambda folds: st.tuples(
            st.lists(
                st.lists(st.floats(-50.0, 5.0), min_size=folds, max_size=folds),
                min_size=1,
                max_size=5,
            ),
            st.lists(st.floats(0.5, 20.0), min_size=folds, max_size=folds),
        )
    )
)
def test_means_and_errors_by_hand(values):
    scores, weight = np.array(values[0]), np.array(values[1])
    mean, error, failed = summarised(scores, weight)
    assert_allclose(mean, np.average(scores, axis=1, weights=weight), atol=1e-9)
    for i, row in enumerate(scores):
        spread = np.average((row - mean[i]) ** 2, weights=weight)
        assert error[i] == pytest.approx(math.sqrt(spread / (len(weight) - 1)), abs=1e-9)
    assert (failed == 0).all()


def test_folds_without_a_score_are_never_chosen():
    scores = np.array([[-1.0, -1.0], [5.0, -np.inf], [np.nan, 3.0]])
    mean, error, failed = summarised(scores, np.ones(2))
    assert mean.tolist() == [-1.0, -np.inf, -np.inf]
    assert np.isnan(error).tolist() == [False, True, True]
    assert failed.tolist() == [0, 1, 1]
    assert chosen_by_folds(mean, error, np.array([3, 1, 1]), False) == 0


def test_the_sparser_of_equals_is_chosen():
    mean, error = np.array([-1.0, -1.0, -1.2, -3.0]), np.full(4, 0.3)
    df = np.array([9, 5, 4, 1])
    assert chosen_by_folds(mean, error, df, False) == 1
    assert chosen_by_folds(mean, error, df, True) == 2


class Far:
    """A splitter that holds out a row far from all others."""

    def split(self, X, y):
        yield np.arange(1, len(y)), np.array([0])
        yield np.arange(len(y) // 2), np.arange(len(y) // 2, len(y))


def test_rows_without_density_are_said():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 2))
    y = 3.0 * X[:, 0] + 0.01 * rng.standard_normal(60)
    X[0], y[0] = (1e153, 0.0), 0.0
    est = regressor(n_experts=1, cv=Far(), alphas=[1e3, 0.2, 0.02])
    with pytest.warns(UserWarning, match="at 2 of 3 points some fold has no finite score"):
        est.fit(X, y)
    assert est.cv_results_["failed_folds"].tolist() == [0, 1, 1]
    assert est.best_index_ == 0


# --- warnings and refusals --------------------------------------------------------------------


def test_choices_at_the_end_of_the_grid_are_said():
    with pytest.warns(
        UserWarning, match="the smallest alpha of the grid, 0.1, was chosen by 'bic'"
    ):
        regressor(criterion="bic", alphas=[0.3, 0.1]).fit(X, Y)
    with pytest.warns(
        UserWarning, match="the largest alpha of the grid, 0.12, was chosen by 'ebic'"
    ):
        regressor(criterion="ebic", alphas=[0.12, 1e-3]).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regressor(criterion="ebic").fit(X, Y)
        # All is zero there: no larger one can differ.
        noise = np.random.default_rng(5).standard_normal(N)
        assert regressor(n_experts=1, criterion="ebic").fit(X, noise).n_nonzero_ == 0


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_experts": []}, ValueError, "n_experts"),
        ({"n_experts": [0, 1]}, ValueError, "n_experts"),
        ({"n_experts": 2.0}, TypeError, "n_experts"),
        ({"criterion": "loo"}, ValueError, "criterion='loo' is not known; known: cv, aic"),
        ({"criterion": None}, TypeError, "criterion"),
        ({"one_se": 1}, TypeError, "one_se"),
        ({"one_se": True, "criterion": "bic"}, ValueError, "one_se=True needs"),
        ({"gate_ratio": []}, ValueError, "gate_ratio is empty"),
        ({"gate_ratio": [1.0, 1.0]}, ValueError, "twice"),
        ({"gate_ratio": [1.0, -1.0]}, ValueError, "gate_ratio"),
        ({"gate_ratio": None}, TypeError, "gate_ratio"),
        ({"ebic_gamma": -0.1}, ValueError, "ebic_gamma"),
        ({"alphas": [0.0]}, ValueError, "alphas"),
        ({"alpha_min_ratio": 2.0}, ValueError, "alpha_min_ratio"),
        ({"init": np.zeros(N)}, TypeError, "init must be the name"),
        ({"l1_ratio": 1.5}, ValueError, "l1_ratio"),
        ({"penalty": "ridge"}, ValueError, "penalty"),
        ({"cv": 1}, ValueError, "cv must be at least 2"),
        ({"cv": N + 1}, ValueError, "more than the 160 rows"),
        ({"cv": True}, TypeError, "cv must be"),
        ({"cv": "five"}, TypeError, "cv must be"),
        ({"cv": 2.5}, TypeError, "cv must be"),
        ({"cv": ShuffleSplit(1)}, ValueError, "give at least 2"),
        ({"cv": [(np.arange(5), np.arange(5, 9), 1)] * 2}, ValueError, "got 3 parts"),
        ({"cv": [(np.arange(5), np.array([N + 3]))] * 2}, ValueError, "pairs of row numbers"),
        ({"cv": [(np.arange(5), np.arange(0))] * 2}, ValueError, "0 validation rows"),
        ({"cv": [(np.arange(1), np.arange(1, 5))] * 2}, ValueError, "training rows of fold 1"),
    ],
)
def test_bad_arguments(options, error, match):
    with pytest.raises(error, match=match):
        regressor(**options).fit(X, Y)


def test_a_fold_without_a_class_is_refused():
    y = YC.copy()
    y[y == "cow"] = "bee"
    y[3] = "cow"
    with pytest.raises(ValueError, match=r"no training row of fold . is of class 'cow'"):
        classifier().fit(XC, y)


def test_rows_that_train_and_validate_are_refused():
    pairs = [(np.arange(0, 100), np.arange(90, 160)), (np.arange(80, 160), np.arange(80))]
    with pytest.raises(
        ValueError, match=r"fold 1 of cv has 10 row\(s\) in training and validation"
    ):
        folds_of(regressor(), X, Y, pairs)
    # Rows of no weight take no part, and may stand anywhere.
    weight = np.ones(N)
    weight[90:100] = 0.0
    assert len(folds_of(regressor(), X, Y, pairs, weight)) == 2


def test_a_fold_without_variation_is_refused():
    y = np.zeros(N)
    y[0] = 1.0
    pairs = [(np.arange(1, N), np.arange(1)), (np.arange(N - 1), np.array([N - 1]))]
    with pytest.raises(ValueError, match="training rows of fold 1 cannot be fitted: y is constant"):
        regressor(n_experts=1, cv=pairs, alphas=[1.0]).fit(X, y)


def test_nothing_is_there_before_a_fit():
    for est in (regressor(), classifier()):
        for call in (lambda e: e.predict(X), lambda e: e.summary(), lambda e: e.alpha_max(X, Y)):
            with pytest.raises(NotFittedError):
                call(est)


# --- around the fit -----------------------------------------------------------------------------


def test_a_second_fit_leaves_nothing_of_the_first():
    est = regressor(criterion="bic").fit(X, Y)
    est.set_params(expert="poisson").fit(X, np.round(np.abs(Y)))
    assert not hasattr(est, "scale_")
    assert not hasattr(est.best_estimator_, "scale_")


def test_refits_repeat_and_clones_are_bare(est):
    again = clone(est)
    assert not hasattr(again, "coef_")
    again.fit(FRAME, Y)
    assert_array_equal(again.coef_, est.coef_)
    pd.testing.assert_frame_equal(again.cv_results_, est.cv_results_)


def test_saving_keeps_the_choice(est, clf, tmp_path):
    for model, rows in ((est, FRAME), (clf, XC)):
        model.save(tmp_path / "model.mxp")
        back = mx.load(tmp_path / "model.mxp")
        assert type(back) is type(model)
        assert_array_equal(back.predict(rows), model.predict(rows))
        assert back.alpha_ == model.alpha_
        assert_allclose(back.cv_results_["bic"], model.cv_results_["bic"])
        assert len(back.path_) == len(model.path_)
        assert_array_equal(back.best_estimator_.coef_, model.coef_)


def test_pipelines_and_offsets():
    pipe = make_pipeline(StandardScaler(), regressor(criterion="bic")).fit(X, Y)
    assert pipe.score(X, Y) > 0.5
    offset = 0.5 * X[:, 0]
    est = regressor(cv=KFold(3)).fit(X, Y + offset, offset=offset)
    plain = regressor(cv=KFold(3)).fit(X, Y)
    assert_allclose(est.cv_results_["mean_score"], plain.cv_results_["mean_score"], rtol=1e-6)
    assert_allclose(est.predict(X, offset=offset), plain.predict(X) + offset, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"penalty": "mcp"},
        {"penalty": "group"},
        {"penalty": "adaptive"},
        {"relax": True},
        {"l1_ratio": 0.5},
        {"gate_coding": "reference"},
        {"penalty_weights": np.r_[0.0, np.ones(P - 1)]},
        {"gate_features": [0, 1]},
        {"standardize": False},
    ],
    ids=str,
)
def test_every_penalty_can_be_chosen(options):
    options = {"n_alphas": 10, "alpha_min_ratio": 2e-3, "n_init": 10, **options}
    with warnings.catch_warnings():
        # Where whole rows come in at once the least shrunk may be the best.
        warnings.filterwarnings("ignore", message="the smallest alpha")
        est = regressor(criterion="ebic", **options).fit(X, Y)
    assert set(np.flatnonzero(est.support_)) >= {0, 1, 2}
    assert est.score(X, Y) > 0.5


@pytest.mark.parametrize(("expert", "y"), [("poisson", "counts"), ("binomial", "zeros and ones")])
def test_other_families(expert, y):
    rng = np.random.default_rng(3)
    Z = rng.standard_normal((250, 4))
    slope = np.where(Z[:, 0] + 0.5 * rng.standard_normal(250) < 0.0, 1.5, -1.5) * Z[:, 1]
    if y == "counts":
        response = rng.poisson(np.exp(1.5 + 0.8 * slope)).astype(float)
    else:
        response = (rng.uniform(size=250) < 1.0 / (1.0 + np.exp(-2.0 * slope))).astype(float)
    est = regressor(expert=expert, alpha_min_ratio=1e-3, n_init=10).fit(Z, response)
    assert set(np.flatnonzero(est.support_)) >= {0, 1}


def test_unsound_points_are_not_chosen():
    est = regressor()
    table = pd.DataFrame({"status": ["converged", "degenerate", "max_iter"], "df": [3, 9, 5]})
    none = np.zeros(3, dtype=int)
    mean, error = np.array([-2.0, 7.0, -1.0]), np.full(3, 0.1)
    assert est._best_of_folds(table, mean, error, none) == 2
    # Where nothing is sound the best is taken, and speaks for itself.
    table["status"] = "degenerate"
    assert est._best_of_folds(table, mean, error, none) == 1
    with pytest.raises(ValueError, match="no point has a finite score in all folds"):
        est._best_of_folds(table, np.full(3, -np.inf), error, none + 1)


def test_by_scale_is_settled_by_all_rows():
    rng = np.random.default_rng(2)
    Z = rng.standard_normal((60, 50))
    y = np.where(Z[:, 0] > 0, 2.0 * Z[:, 1], -2.0 * Z[:, 1]) + 0.5 * rng.standard_normal(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = regressor(n_init=2, n_alphas=3, alpha_min_ratio=0.3, cv=5).fit(Z, y)
    # Each fold has fewer rows than columns, all rows have more.
    assert est.best_estimator_.by_scale is False
    assert est.by_scale == "auto"


def test_the_bar_counts_all_points(capfd):
    regressor(verbose=1, alphas=[0.3, 0.1, 0.01]).fit(X, Y)
    assert f"{3 * 4}/{3 * 4}" in capfd.readouterr().err
