"""Paths of penalised fits: their grids, tables and estimators."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammaln

import mixexperts as mx
from mixexperts.em.sparse import kkt_violation, log_likelihood, null_fit
from mixexperts.estimators._lasso_grid import alpha_grid, criteria, n_candidates, worse
from mixexperts.estimators._lasso_parts import matching, part_of, rows_under

# Sums over rows in another order.
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


def regressor(**options):
    return mx.LassoMoERegressor(**{"n_init": 3, "random_state": 0, **options})


@pytest.fixture(scope="module")
def path():
    return regressor().path(FRAME, Y, n_alphas=12, alpha_min_ratio=0.05)


@pytest.fixture(scope="module")
def classes():
    est = mx.LassoMoEClassifier(n_init=3, random_state=0)
    return est.path(XC, YC, n_alphas=8, alpha_min_ratio=0.1)


def dense(path, point, est):
    """Coefficients of a point from the tidy frame, in the shapes of the attributes."""
    rows = path.frame[path.frame["point"] == point]
    found = {"expert": np.zeros(est.coef_.shape), "gate": np.zeros(est.gate_coef_.shape)}
    terms = {"expert": list(est.expert_terms_), "gate": list(est.gate_terms_)}
    for row in rows.itertuples():
        j = terms[row.room].index(row.term)
        label = row._8  # "class" is a keyword
        if row.room == "expert" and label is not None:
            found["expert"][row.expert - 1, list(est.classes_).index(label), j] = row.coef
        else:
            found[row.room][row.expert - 1, j] = row.coef
    return found["expert"], found["gate"]


# --- the grid -----------------------------------------------------------------------------------


def test_grid_goes_down_from_alpha_max_evenly_on_the_log_scale(path):
    alpha = path.table["alpha"].to_numpy()
    assert len(path) == 12
    assert alpha[0] == pytest.approx(path.alpha_max, rel=1e-12)
    assert alpha[-1] == pytest.approx(0.05 * path.alpha_max, rel=1e-12)
    assert_allclose(np.diff(np.log(alpha)), math.log(0.05) / 11, rtol=1e-9)
    assert_allclose(path.table["gate_alpha"], alpha, rtol=1e-12)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("penalty", ["lasso", "group", "mcp"])
def test_alpha_max_is_where_slopes_stop_being_stationary(ratio, penalty):
    est = regressor(penalty=penalty)
    path = est.path(X, Y, n_alphas=1, gate_ratio=ratio)
    problem = est._problem(X, Y)
    null = null_fit(problem.family, problem.rows, 2, est._penalty(problem), n_init=3, seed=0)

    def violation(factor):
        alpha = factor * path.alpha_max
        penalty = est._penalty(problem, alpha, ratio * alpha * problem.unit)
        return kkt_violation(problem.family, problem.rows, penalty, null.params)

    assert violation(1.0 + 1e-6) < 1e-7
    # One percent of the strength is then missing somewhere.
    assert violation(0.99) > 1e-3 * min(1.0, ratio) * path.alpha_max * problem.unit


def test_default_grids_depend_on_the_shape(monkeypatch):
    table = regressor().path(X, Y, n_alphas=3).table
    assert table["alpha"].iloc[-1] == pytest.approx(1e-2 * table["alpha"].iloc[0])
    wide = np.random.default_rng(0).standard_normal((30, 40))
    table = regressor(n_init=1).path(wide, Y[:30], n_alphas=2).table
    assert table["alpha"].iloc[-1] == pytest.approx(5e-2 * table["alpha"].iloc[0])


def test_given_alphas_are_taken_in_descending_order():
    path = regressor().path(X, Y, alphas=[0.05, 0.2, 0.1], gate_ratio=0.5)
    assert path.table["alpha"].tolist() == [0.2, 0.1, 0.05]
    assert_allclose(path.table["gate_alpha"], np.array([0.1, 0.05, 0.025]) * Y.std(), rtol=1e-12)
    assert math.isnan(path.alpha_max)


def test_ratio_is_the_estimators_own_by_default():
    path = regressor(alpha=0.1, gate_alpha=0.03).path(X, Y, n_alphas=2)
    assert_allclose(path.table["gate_alpha"], 0.3 * path.table["alpha"], rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-15, 1.0, 1e15])
def test_grids_of_nothing_start_low_in_any_unit(unit):
    assert_allclose(alpha_grid(0.0, 2, 0.1, unit) * unit, [1e-12, 1e-13], rtol=1e-9)
    assert_allclose(alpha_grid(3.0 / unit, 2, 0.1, unit) * unit, [3.0, 0.3], rtol=1e-9)


@given(st.floats(1e-8, 1e8), st.integers(2, 60), st.floats(1e-4, 0.9))
def test_grid_of_any_size(largest, count, ratio):
    grid = alpha_grid(largest, count, ratio)
    assert len(grid) == count
    assert (np.diff(grid) < 0.0).all()
    assert_allclose(grid[[0, -1]], [largest, ratio * largest], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_alphas": 0}, ValueError, "n_alphas"),
        ({"n_alphas": 2.0}, TypeError, "n_alphas"),
        ({"alpha_min_ratio": 1.0}, ValueError, "alpha_min_ratio"),
        ({"alpha_min_ratio": 0.0}, ValueError, "alpha_min_ratio"),
        ({"alphas": []}, ValueError, "alphas is empty"),
        ({"alphas": 0.1}, TypeError, "alphas must be a sequence"),
        ({"alphas": [0.1, -1.0]}, ValueError, "alphas"),
        ({"alphas": [0.1, math.nan]}, ValueError, "alphas"),
        ({"alphas": [0.1, 0.1]}, ValueError, "twice"),
        ({"gate_ratio": 0.0}, ValueError, "gate_ratio"),
        ({"gate_ratio": True}, TypeError, "gate_ratio"),
        ({"ebic_gamma": 1.5}, ValueError, "ebic_gamma"),
        ({"ebic_gamma": "1"}, TypeError, "ebic_gamma"),
    ],
)
def test_bad_arguments(options, error, match):
    with pytest.raises(error, match=match):
        regressor().path(X, Y, **options)


def test_ridge_alone_has_no_largest_alpha():
    with pytest.raises(ValueError, match="l1_ratio=0"):
        regressor(l1_ratio=0.0).path(X, Y)
    path = regressor(l1_ratio=0.0).path(X, Y, alphas=[0.1, 0.01])
    assert (path.table["n_nonzero"] == 3 * P).all()


# --- tables and estimators ------------------------------------------------------------------------


def test_every_point_is_optimal(path):
    assert (path.table["status"] == "converged").all()
    assert path.table["kkt_violation"].max() < 1e-6


def test_objective_of_a_point_is_no_less_than_that_of_a_fit_there(path):
    for point in (2, 6, 11):
        row = path.table.loc[point]
        est = regressor(alpha=row["alpha"], gate_alpha=row["gate_alpha"]).fit(FRAME, Y)
        assert row["objective"] >= est.objective_ - 1e-5


@pytest.mark.parametrize("point", [0, 3, 7, -1])
def test_estimators_say_what_the_tables_say(path, point):
    est, row = path.estimator(point), path.table.iloc[point]
    assert (est.alpha, est.gate_alpha) == (row["alpha"], row["gate_alpha"])
    assert est.objective_ == row["objective"]
    assert est.log_likelihood_ == row["log_likelihood"]
    assert (est.df_, est.n_nonzero_) == (row["df"], row["n_nonzero"])
    coef, gate = dense(path, row.name, est)
    assert_allclose(coef, est.coef_, rtol=ROUNDING)
    assert_allclose(gate, est.gate_coef_, rtol=ROUNDING)
    assert est.score_samples(FRAME, Y).sum() == pytest.approx(est.log_likelihood_, rel=ROUNDING)
    assert est.feature_names_in_.tolist() == list(FRAME.columns)
    for name in ("aic", "bic"):
        assert row[name] == pytest.approx(getattr(est, name)(FRAME, Y), rel=ROUNDING)


def test_estimators_of_classes_say_what_the_tables_say(classes):
    est = classes.estimator(5)
    coef, gate = dense(classes, 5, est)
    assert_allclose(coef, est.coef_, rtol=ROUNDING)
    assert_allclose(gate, est.gate_coef_, rtol=ROUNDING)
    assert est.predict(XC[:4]).dtype == YC.dtype
    experts = classes.frame[classes.frame["room"] == "expert"]
    assert set(experts["class"]) <= {"ant", "bee", "cow"}
    assert (
        classes.frame.loc[classes.frame["room"] == "gate", "class"].map(lambda v: v is None).all()
    )


def test_the_frame_holds_no_zeros_and_no_intercepts(path):
    assert (path.frame["coef"] != 0.0).all()
    assert set(path.frame["term"]) <= set(FRAME.columns)
    # K = 2: the gate's two rows are one slope.
    size = path.frame.groupby(["point", "room"]).size().unstack(fill_value=0)
    found = (size["expert"] + size["gate"] // 2).reindex(path.table.index, fill_value=0)
    assert_array_equal(found, path.table["n_nonzero"])


def test_a_path_of_nulls_has_an_empty_frame():
    path = regressor().path(X, Y, alphas=[50.0, 40.0])
    assert len(path.frame) == 0
    assert list(path.frame.columns)[:3] == ["point", "n_experts", "gate_ratio"]
    assert_allclose(path.estimator(0).coef_, 0.0)


def test_an_expert_keeps_its_number(path):
    """Experts of neighbouring points explain the same rows."""
    last = path.estimator(-1).responsibilities(FRAME, Y)
    for point in range(3, len(path)):
        resp = path.estimator(point).responsibilities(FRAME, Y)
        assert np.trace(resp.T @ last) > 0.8 * len(Y)


def test_points_that_are_not_there(path):
    for point in (12, -13):
        with pytest.raises(IndexError, match="12 points"):
            path.estimator(point)
    for point in (1.0, True, "bic"):
        with pytest.raises(TypeError, match="point must be an integer"):
            path.estimator(point)
    with pytest.raises(ValueError, match="not known"):
        path.best("cv")


def test_the_estimator_is_not_fitted():
    est = regressor()
    before = dict(vars(est))
    est.path(X, Y, n_alphas=2)
    assert vars(est) == before


@pytest.mark.parametrize("several", [False, True])
def test_a_fitted_start_stays_fitted(several):
    start = regressor().fit(X, Y)
    est = regressor(init=[start, "random"] if several else start)
    path = est.path(X, Y, alphas=[0.1, 0.02], gate_ratio=1.0)
    own = path.estimator(0)
    assert own is not est
    assert own.init is est.init
    assert hasattr(start, "coef_")
    alone = regressor(alpha=own.alpha, gate_alpha=own.gate_alpha, init=start).fit(X, Y)
    assert own.objective_ >= alone.objective_ - 1e-6 * abs(alone.objective_)
    # The neighbouring point takes it up as an estimator of its own.
    assert regressor(init=own).path(X, Y, alphas=[0.08]).table["status"].item() == "converged"


def test_generators_are_not_used_up():
    est = regressor(random_state=np.random.RandomState(3))
    one, two = (est.path(X, Y, alphas=[0.1]) for _ in range(2))
    pd.testing.assert_frame_equal(one.table, two.table)


def test_paths_repeat(path):
    again = regressor().path(FRAME, Y, n_alphas=12, alpha_min_ratio=0.05)
    pd.testing.assert_frame_equal(path.frame, again.frame)
    pd.testing.assert_frame_equal(path.table, again.table)


def test_weights_are_frequencies():
    weight = 1.0 + (np.arange(N) % 3 == 0)
    rows = np.repeat(np.arange(N), weight.astype(int))
    options = {"alphas": [0.3, 0.15, 0.08]}
    one = regressor().path(X, Y, weight, **options)
    two = regressor().path(X[rows], Y[rows], **options)
    for name in ("objective", "bic", "ebic"):
        assert_allclose(one.table[name], two.table[name], rtol=1e-6)


def test_the_unit_of_y_goes_into_alpha():
    one = regressor().path(X, Y, n_alphas=4, alpha_min_ratio=0.2)
    ratio = 1.0 / Y.std()  # that of the estimator's own strengths
    two = regressor().path(X, 100.0 * Y, n_alphas=4, alpha_min_ratio=0.2, gate_ratio=ratio)
    assert_allclose(two.table["gate_alpha"], one.table["gate_alpha"], rtol=1e-6)
    assert_allclose(two.table["alpha"], one.table["alpha"] / 100.0, rtol=1e-6)
    assert_array_equal(one.table["n_nonzero"], two.table["n_nonzero"])
    assert_allclose(two.estimator(3).coef_, 100.0 * one.estimator(3).coef_, atol=1e-3)


def test_relaxed_paths_report_dense_refits():
    options = {"alphas": [0.15, 0.1], "gate_ratio": 1.0}
    shrunk = regressor().path(X, Y, **options)
    relaxed = regressor(relax=True).path(X, Y, **options)
    assert_allclose(relaxed.table["objective"], shrunk.table["objective"], rtol=1e-9)
    assert (relaxed.table["log_likelihood"] > shrunk.table["log_likelihood"]).all()
    assert_array_equal(relaxed.table["n_nonzero"], shrunk.table["n_nonzero"])
    est = relaxed.estimator(1)
    assert_allclose(est.lasso_coef_, shrunk.estimator(1).coef_, rtol=1e-6, atol=1e-9)
    assert est.log_likelihood_ == relaxed.table["log_likelihood"].iloc[1]


@pytest.mark.parametrize("first", ["converged", "max_iter", "degenerate", "diverged"])
@pytest.mark.parametrize("second", ["converged", "max_iter", "degenerate", "diverged"])
def test_a_refit_is_no_sounder_than_its_fit_and_a_fit_than_its_refit(first, second):
    """Both have to hold: the penalised fit chose the columns, the refit has the coefficients."""
    problem = regressor()._problem(X, Y)
    null = null_fit(problem.family, problem.rows, 2, regressor()._penalty(problem), n_init=2)
    fit, final = (replace(null, status=s, flags=(s,)) for s in (first, second))
    said = worse(fit, final)
    rank = {"converged": 0, "max_iter": 1, "degenerate": 2, "diverged": 2}
    assert rank[said.status] == max(rank[first], rank[second])
    est = regressor(relax=True)
    est._adopt(problem, est._penalty(problem), fit, (fit,), final)
    assert (est.status_, est.flags_) == (said.status, said.flags)
    assert est.converged_ == (first == second == "converged")


def test_points_of_unsound_refits_are_not_chosen(monkeypatch):
    est = regressor(relax=True)
    own = mx.LassoMoERegressor._relaxed

    def collapsed(self, problem, penalty, fit):
        found = own(self, problem, penalty, fit)
        few = fit.params.coef.any()
        return replace(found, status="degenerate" if few else found.status, log_likelihood=1e9)

    monkeypatch.setattr(mx.LassoMoERegressor, "_relaxed", collapsed)
    path = est.path(X, Y, alphas=[0.5, 0.1], gate_ratio=1.0)
    assert path.table["status"].tolist() == ["converged", "degenerate"]
    assert path.best("bic") == 0


def test_adaptive_points_are_those_of_the_estimator():
    path = regressor(penalty="adaptive").path(X, Y, alphas=[0.2, 0.1, 0.05])
    est = regressor(penalty="adaptive", alpha=0.05, gate_alpha=0.05, n_init=10).fit(X, Y)
    assert path.table["objective"].iloc[-1] == pytest.approx(est.objective_, rel=1e-6)
    assert path.table["n_nonzero"].iloc[-1] == est.n_nonzero_


def test_warm_starts_compete():
    est = regressor(warm_start=True, alpha=0.1, gate_alpha=0.1).fit(X, Y)
    path = est.path(X, Y, alphas=[0.12, 0.1])
    assert path.table["objective"].iloc[1] >= est.objective_ - 1e-6


# --- criteria -------------------------------------------------------------------------------------


@given(
    st.floats(-1e4, 1e4),
    st.integers(0, 30),
    st.integers(1, 10),
    st.floats(2.0, 1e6),
    st.integers(30, 10**5),
)
def test_criteria_by_hand(llf, s, other, n, candidates):
    found = criteria(llf, s + other, s, n, candidates, 0.5)
    models = sum(math.log((candidates - i) / (s - i)) for i in range(s))
    bic = -2.0 * llf + (s + other) * math.log(n)
    assert found["aic"] == pytest.approx(-2.0 * llf + 2 * (s + other), abs=1e-6)
    assert found["bic"] == pytest.approx(bic, abs=1e-6)
    assert found["mbic"] == pytest.approx(-2.0 * llf + s * math.log(n), abs=1e-6)
    assert found["ebic"] == pytest.approx(bic + models, rel=1e-7, abs=1e-4)


def test_candidates_are_counted_as_non_zeros_are():
    assert n_candidates(regressor(n_experts=3)._problem(X, Y)) == 3 * P + 2 * P
    problem = regressor(gate_features=[0], expert_features=[1, 2])._problem(X, Y)
    assert n_candidates(problem) == 2 * 2 + 1
    assert n_candidates(mx.LassoMoEClassifier()._problem(XC, YC)) == 2 * 2 * 5 + 5


def test_ebic_of_a_table(path):
    row = path.table.loc[6]
    s, total = row["n_nonzero"], 3 * P
    models = gammaln(total + 1) - gammaln(s + 1) - gammaln(total - s + 1)
    assert row["ebic"] == pytest.approx(row["bic"] + models)
    assert regressor().path(FRAME, Y, alphas=[0.1], ebic_gamma=0.0).table["ebic"].iloc[
        0
    ] == pytest.approx(regressor().path(FRAME, Y, alphas=[0.1]).table["bic"].iloc[0])


def test_the_lowest_sound_point_is_best(path):
    for name in ("aic", "bic", "ebic", "mbic"):
        assert path.best(name) == int(path.table[name].to_numpy().argmin())
    table = path.table.copy()
    table.loc[path.best("bic"), "status"] = "degenerate"
    assert replace(path, table=table).best("bic") != path.best("bic")
    # Where two tie, the sparser.
    table = path.table.assign(bic=0.0)
    assert table["df"].iloc[replace(path, table=table).best("bic")] == table["df"].min()


def test_true_columns_are_found(path):
    est = path.estimator(path.best("ebic"))
    assert set(np.flatnonzero(est.support_)) >= {0, 1, 2, 3}


# --- parts of the rows --------------------------------------------------------------------------


def test_a_part_is_the_problem_of_its_rows():
    est = regressor()
    whole, rows = est._problem(X, Y), np.arange(0, N, 2)
    part = part_of(whole, rows, 5, standardize=True)
    alone = est._problem(X[rows], Y[rows])
    assert_allclose(part.rows.X, alone.rows.X, rtol=1e-12, atol=1e-12)
    assert_allclose(part.rows.y, alone.rows.y, rtol=1e-12, atol=1e-12)
    assert part.seed == 5
    assert part.frame.expert_map.column_names() == alone.frame.expert_map.column_names()


def test_rows_are_seen_as_a_problem_sees_its_own():
    problem = regressor()._problem(X, Y)
    seen = rows_under(problem, problem.data.given)
    assert_allclose(seen.X, problem.rows.X, rtol=1e-12, atol=1e-14)
    est = regressor(alpha=0.1, gate_alpha=0.1).fit(X, Y)
    half = rows_under(problem, problem.data.given, np.arange(50))
    params = problem.params(est.theta_)
    found = log_likelihood(problem.family, half, params) - 50 * math.log(problem.unit)
    assert found == pytest.approx(est.score_samples(X[:50], Y[:50]).sum(), rel=ROUNDING)


def test_columns_that_do_not_vary_in_a_part_are_left_out():
    rare = X.copy()
    rare[:, 4] = np.arange(N) == 7
    part = part_of(regressor()._problem(rare, Y), np.arange(10, N), 0, standardize=True)
    assert part.taken.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert part.frame.expert_map.column_names() == tuple(f"x{j}" for j in part.taken)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_experts_are_matched_by_their_rows(n_experts, seed):
    rng = np.random.default_rng(seed)
    target = rng.dirichlet(np.full(n_experts, 0.2), 40)
    shuffled = rng.permutation(n_experts)
    order = matching(target[:, shuffled], target, rng.uniform(0.5, 2.0, 40))
    assert_allclose(target[:, shuffled][:, order], target)


def test_the_bar_is_shown_only_if_asked(capfd):
    regressor().path(X, Y, alphas=[0.3])
    assert capfd.readouterr().err == ""
    regressor(verbose=1).path(X, Y, alphas=[0.3])
    assert "1/1" in capfd.readouterr().err


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = regressor().path(X, Y, n_alphas=3)
        path.estimator(0)
    assert repr(path).startswith("LassoPath of 3 points")
