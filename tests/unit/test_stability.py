"""Stability selection and sample splitting."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.exceptions import NotFittedError

import mixexperts as mx
from mixexperts.errors import InferenceRefusedError
from mixexperts.inference.splitting import _refuse_separated_gate, sample_splitting
from mixexperts.inference.stability import part_rows, stability_selection

ROUNDING = 1e-9
N, P = 200, 8


def make_data(n=N, p=P, seed=20261103, noise=0.7):
    """Two experts, told apart by the first column; one uses the second, one the third."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    low = X[:, 0] + 0.5 * rng.standard_normal(n) < 0.0
    y = np.where(low, -3.0 + 2.0 * X[:, 1], 3.0 - 2.0 * X[:, 2])
    return X, y + noise * rng.standard_normal(n)


def make_classes(n=300, p=5, seed=6):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    slope = np.where(X[:, 0] + 0.5 * rng.standard_normal(n) < 0.0, 5.0, -5.0)
    logits = np.column_stack([slope * X[:, 1], 3.0 * X[:, 2], np.zeros(n)])
    labels = np.array(["ant", "bee", "cow"])
    return X, labels[(logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]


X, Y = make_data()
FRAME = pd.DataFrame(X, columns=[f"c{j}" for j in range(P)])
XC, YC = make_classes()


def regressor(**options):
    settings = {"alpha": 0.15, "gate_alpha": 0.08, "n_init": 3, "random_state": 0}
    return mx.LassoMoERegressor(**{**settings, **options})


def probability(found, term, room, expert=0):
    rows = found.frame
    rows = rows[(rows["term"] == term) & (rows["room"] == room) & (rows["expert"] == expert)]
    return rows["probability"].item() if len(rows) else 0.0


@pytest.fixture(scope="module")
def found():
    return stability_selection(regressor(), FRAME, Y, n_subsamples=12, random_state=1)


@pytest.fixture(scope="module")
def split():
    return sample_splitting(regressor(), FRAME, Y, random_state=1)


# --- stability selection --------------------------------------------------------------------------


def test_true_columns_are_stable_where_they_belong(found):
    assert found.n_used == found.n_subsamples == 12
    assert set(found.selected(0.9)) == {"c0", "c1", "c2"}
    # Experts are in the order of their means: the low one uses c1, the other c2.
    assert probability(found, "c1", "expert", 1) == 1.0
    assert probability(found, "c2", "expert", 2) == 1.0
    assert probability(found, "c1", "expert", 2) < 0.5
    assert probability(found, "c0", "gate") == 1.0
    assert found.selected(0.9, room="gate") == ["c0"]
    assert set(found.selected(0.9, room="expert")) == {"c1", "c2"}


def test_shares_fit_together(found):
    assert found.selection_probability_.shape == (P,)
    for j, term in enumerate(FRAME.columns):
        any_ = probability(found, term, "any")
        assert any_ == found.selection_probability_[j]
        parts = [probability(found, term, "expert"), probability(found, term, "gate")]
        assert max(parts) <= any_ <= sum(parts) + ROUNDING
        own = [probability(found, term, "expert", k) for k in (1, 2)]
        assert max(own) <= parts[0] <= sum(own) + ROUNDING
    assert found.n_selected == pytest.approx(found.selection_probability_.sum())
    assert (found.frame["probability"] > 0.0).all()


def test_one_part_is_the_fit_of_its_rows():
    """A single part: what is selected with probability one is the support of that fit."""
    found = stability_selection(regressor(n_init=10), X, Y, n_subsamples=1, random_state=3)
    rows = part_rows(N, N // 2, 3, 0, False)
    alone = regressor(n_init=10).fit(X[rows], Y[rows])
    assert_array_equal(found.selection_probability_ == 1.0, alone.support_)
    assert found.n_selected == alone.support_.sum()


def test_parts_do_not_hang_on_workers_or_on_each_other(found):
    again = stability_selection(regressor(), FRAME, Y, n_subsamples=12, random_state=1, n_jobs=2)
    pd.testing.assert_frame_equal(found.frame, again.frame)
    assert_array_equal(part_rows(50, 20, 4, 7, False), part_rows(50, 20, 4, 7, False))
    other = stability_selection(regressor(), FRAME, Y, n_subsamples=12, random_state=2)
    assert not other.frame.equals(found.frame)


@given(st.integers(4, 60), st.integers(0, 2**31), st.integers(0, 10))
def test_pairs_are_complementary(n, seed, number):
    one, two = (part_rows(n, n // 2, seed, 2 * number + i, True) for i in (0, 1))
    assert len(one) == len(two) == n // 2
    assert not set(one) & set(two)
    assert len(np.unique(part_rows(n, n // 2, seed, number, False))) == n // 2


def test_pairs():
    found = stability_selection(regressor(), X, Y, n_subsamples=4, pairs=True, random_state=0)
    assert set(found.selected(1.0)) >= {"x0", "x1", "x2"}
    assert "complementary halves" in repr(found)


def test_the_bound_by_hand(found):
    q = found.n_selected
    assert found.error_bound(0.9) == pytest.approx(q**2 / (0.8 * P))
    assert found.error_bound(1.0) == pytest.approx(q**2 / P)
    for threshold in (0.5, 0.0, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            found.error_bound(threshold)
        with pytest.raises(ValueError, match="threshold"):
            found.selected(threshold)
    for threshold in ("c0", None, True):
        with pytest.raises(TypeError, match=r"threshold must be a number in \(0.5, 1\]"):
            found.selected(threshold)
        with pytest.raises(TypeError, match="threshold"):
            found.error_bound(threshold)
    with pytest.raises(ValueError, match="room"):
        found.selected(0.8, room="class")


def test_the_bound_counts_columns_that_could_be_selected():
    est = regressor(expert_features=["c1", "c2", "c3"], gate_features=["c0", "c1"])
    found = stability_selection(est, FRAME, Y, n_subsamples=3, random_state=0)
    assert found.n_columns == 4
    assert found.selection_probability_.shape == (P,)
    assert found.error_bound(1.0) == pytest.approx(found.n_selected**2 / 4)


def test_parts_that_are_no_halves_have_no_bound():
    found = stability_selection(regressor(), X, Y, n_subsamples=2, fraction=0.4, random_state=0)
    assert found.fraction == 0.4
    assert found.error_bound(0.9) is None
    with pytest.raises(ValueError, match="threshold"):
        found.error_bound(0.2)


@pytest.mark.parametrize("n", [67, 70])
def test_pairs_of_an_odd_number_of_rows_share_none(n, monkeypatch):
    seen = []

    def selects(self, problem, rows, number, target):
        seen.append(set(rows))
        return own(self, problem, rows, number, target)

    own = mx.LassoMoERegressor._selects
    monkeypatch.setattr(mx.LassoMoERegressor, "_selects", selects)
    found = stability_selection(
        regressor(n_init=1), X[:n], Y[:n], n_subsamples=4, pairs=True, random_state=0
    )
    assert [len(rows) for rows in seen] == [n // 2] * 4
    assert not seen[0] & seen[1]
    assert not seen[2] & seen[3]
    assert found.error_bound(1.0) > 0.0


def test_classes_and_choices():
    est = mx.LassoMoEClassifier(2, 0.02, 0.01, n_init=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = stability_selection(est, XC, YC, n_subsamples=4, random_state=0)
    assert set(found.selected(0.7)) >= {"x0", "x1", "x2"}
    cv = mx.LassoMoERegressorCV(
        2, criterion="ebic", gate_ratio=0.5, n_init=2, n_alphas=8, random_state=0
    )
    with pytest.raises(NotFittedError):
        stability_selection(cv, X, Y)
    found = stability_selection(cv.fit(X, Y), X, Y, n_subsamples=3, random_state=0)
    assert found.estimator.alpha == cv.alpha_
    assert set(found.selected(1.0)) >= {"x0", "x1", "x2"}


def test_rows_of_no_weight_take_no_part():
    weight = np.r_[np.ones(N), np.zeros(20)]
    rows = np.r_[np.arange(N), np.arange(20)]
    one = stability_selection(regressor(), X, Y, n_subsamples=3, random_state=0)
    two = stability_selection(
        regressor(), X[rows], Y[rows], sample_weight=weight, n_subsamples=3, random_state=0
    )
    pd.testing.assert_frame_equal(one.frame, two.frame)


def test_parts_without_a_class_are_left_out_and_said():
    est = mx.LassoMoEClassifier(1, 0.05, 0.05, random_state=0)
    y = np.repeat(["ant", "bee", "cow"], [30, 28, 2])
    with pytest.warns(UserWarning, match="of 10 parts have no sound fit and are left out"):
        found = stability_selection(est, XC[:60], y, n_subsamples=10, random_state=0)
    held = [np.isin([58, 59], part_rows(60, 30, 0, i, False)).any() for i in range(10)]
    assert 0 < found.n_used == sum(held) < 10
    y = np.repeat(["ant", "bee", "cow"], [30, 29, 1])
    with pytest.raises(ValueError, match="none of the 2 parts"):
        stability_selection(est, XC[:60], y, n_subsamples=2, fraction=0.1, random_state=0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_subsamples": 0}, ValueError, "n_subsamples"),
        ({"n_subsamples": 2.0}, TypeError, "n_subsamples"),
        ({"fraction": 1.0}, ValueError, "fraction"),
        ({"fraction": "half"}, TypeError, "fraction"),
        ({"fraction": 0.005}, ValueError, "a part needs at least 2 rows"),
        ({"pairs": 1}, TypeError, "pairs"),
        ({"pairs": True, "fraction": 0.4}, ValueError, "leave fraction at 0.5"),
        ({"pairs": True, "n_subsamples": 5}, ValueError, "must be even"),
        ({"random_state": -1}, ValueError, "random_state"),
    ],
)
def test_bad_arguments_of_stability(options, error, match):
    with pytest.raises(error, match=match):
        stability_selection(regressor(), X, Y, **options)


@pytest.mark.parametrize("function", [stability_selection, sample_splitting])
def test_what_cannot_be_resampled(function):
    with pytest.raises(TypeError, match="LassoMoERegressor"):
        function(mx.MoERegressor(), X, Y)
    with pytest.raises(TypeError, match=r"est\.init"):
        function(regressor(init=np.zeros(N)), X, Y)


# --- sample splitting -----------------------------------------------------------------------------


def test_the_second_part_estimates_what_the_first_selected(split):
    assert_array_equal(
        np.sort(np.concatenate([split.rows_selection, split.rows_inference])), np.arange(N)
    )
    first = split.rows_selection
    alone = regressor().fit(FRAME.iloc[first], Y[first])
    assert_allclose(split.estimator.coef_, alone.coef_, rtol=1e-12)
    rows = split.table[(split.table["room"] == "expert") & (split.table["term"] != "Intercept")]
    terms = list(alone.expert_terms_)
    assert {(r.expert - 1, terms.index(r.term)) for r in rows.itertuples()} == set(
        zip(*(axis.tolist() for axis in np.nonzero(alone.coef_)), strict=True)
    )
    gate = split.table[split.table["room"] == "gate"]
    assert set(gate["expert"]) == {1}  # of two experts log odds
    assert set(gate["term"]) == {
        t for t, own in zip(terms, alone.gate_active_[0], strict=True) if own
    }


def test_it_is_the_maximum_of_the_second_part(split):
    """Against maximum likelihood by another road: numerical derivatives of the log-likelihood."""
    rows, table = split.rows_inference, split.table
    Z, y = X[rows], Y[rows]
    names = list(FRAME.columns)
    value = table["coef"].to_numpy()

    def score_samples(coef, gate_intercept, log_scale):
        mean, logit = np.zeros((len(y), 2)), np.zeros((len(y), 2))
        logit[:, 0] = gate_intercept
        for c, row in zip(coef, table.itertuples(), strict=True):
            column = 1.0 if row.term == "Intercept" else Z[:, names.index(row.term)]
            (mean if row.room == "expert" else logit)[:, row.expert - 1] += c * column
        log_gate = logit - np.logaddexp.reduce(logit, axis=1, keepdims=True)
        density = norm.logpdf(y[:, None], mean, np.exp(log_scale))
        return np.logaddexp.reduce(log_gate + density, axis=1).sum()

    from scipy.optimize import minimize

    m = len(value)

    def loss(x):
        return -score_samples(x[:m], x[m], x[m + 1 :])

    start = np.r_[value, 0.0, np.log([0.7, 0.7])]
    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    assert split.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    assert_allclose(best.x[:m], value, atol=1e-4)
    hessian = np.empty((len(start), len(start)))
    step = 1e-4
    for i in range(len(start)):
        for j in range(len(start)):
            e, f = step * np.eye(len(start))[i], step * np.eye(len(start))[j]
            hessian[i, j] = (
                loss(best.x + e + f) - loss(best.x + e - f) - loss(best.x - e + f)
                + loss(best.x - e - f)
            ) / (4.0 * step**2)  # fmt: skip
    covariance = np.linalg.inv(hessian)[:m, :m]
    assert_allclose(split.covariance, covariance, rtol=1e-3, atol=1e-6)


def test_the_table_fits_together(split):
    table = split.table
    assert_allclose(table["std_err"], np.sqrt(np.diagonal(split.covariance)))
    assert_allclose(table["z"], table["coef"] / table["std_err"])
    assert_allclose(table["p_value"], 2.0 * norm.sf(np.abs(table["z"])))
    assert_allclose(table["upper"] - table["lower"], 2.0 * norm.ppf(0.975) * table["std_err"])
    narrow = split.conf_int(0.5)
    assert (narrow["lower"] > table["lower"]).all()
    assert_allclose(split.conf_int(), table[["lower", "upper"]])
    with pytest.raises(ValueError, match="level"):
        split.conf_int(95)
    assert "SampleSplit: 100 rows selected" in repr(split)


def test_robust_errors_are_near_the_usual_ones_where_the_model_is_right(split):
    robust = sample_splitting(regressor(), FRAME, Y, random_state=1, cov_type="robust")
    assert_allclose(robust.table["coef"], split.table["coef"], rtol=ROUNDING)
    ratio = robust.table["std_err"] / split.table["std_err"]
    assert ratio.between(0.6, 1.6).all()
    assert np.abs(ratio - 1.0).max() > 1e-3


def test_units_of_columns_and_response():
    scale, shift = np.linspace(0.5, 40.0, P), np.linspace(-5.0, 9.0, P)
    one = sample_splitting(regressor(), X, Y, random_state=1)
    two = sample_splitting(
        regressor(alpha=0.15 / 1000.0), X * scale + shift, 1000.0 * Y + 7.0, random_state=1
    )
    assert one.table["term"].tolist() == two.table["term"].tolist()
    slope = one.table["term"] != "Intercept"
    unit = np.array([scale[int(t[1:])] for t in one.table.loc[slope, "term"]])
    factor = np.where(one.table.loc[slope, "room"] == "gate", 1.0, 1000.0) / unit
    for name in ("coef", "std_err"):
        assert_allclose(two.table.loc[slope, name], factor * one.table.loc[slope, name], rtol=1e-5)


def test_the_order_of_named_columns_does_not_matter(split):
    """Coefficients stay with their columns, also where experts and gate name others."""
    names = ["c5", "c2", "c0", "c7", "c1", "c3", "c6", "c4"]
    found = sample_splitting(
        regressor(expert_features=names, gate_features=names[::-1]), FRAME, Y, random_state=1
    )
    keys = ["room", "expert", "term"]
    one, two = (s.table.set_index(keys).sort_index() for s in (split, found))
    assert one.index.equals(two.index)
    for name in ("coef", "std_err"):
        assert_allclose(one[name], two[name], rtol=1e-4)
    assert found.log_likelihood == pytest.approx(split.log_likelihood, abs=1e-6)
    # Where the refit starts: at the penalised fit, column by column.
    est = found.estimator
    part, params = _carried(found, FRAME, Y)
    assert_allclose(
        part.frame.raw(part.model, part.theta(params))["coef"],
        est.coef_[:, [names.index(t) for t in part.frame.expert_map.column_names()]],
        rtol=1e-9,
    )
    gate = [names[::-1].index(t) for t in part.frame.gate_map.column_names()]
    slopes = params.gate_coef[:, part.room_columns[1]] / part.frame.gate_map.scale
    assert_allclose(slopes, est.gate_coef_[:, gate], rtol=1e-9)


def test_weights_are_frequencies():
    """Rows of weight two are two rows, in both kinds of errors."""
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 3, N).astype(float)
    for cov_type in ("nonrobust", "robust"):
        found = sample_splitting(
            regressor(), X, Y, sample_weight=weight, random_state=1, cov_type=cov_type
        )
        rows = np.repeat(found.rows_inference, weight[found.rows_inference].astype(int))
        # The same split of repeated rows: its second part has them all.
        part, params = _carried(found, X[rows], Y[rows])
        from mixexperts.inference.splitting import _estimated

        table, _, _ = _estimated(part, found.estimator, params, 0.95, cov_type)
        for name in ("coef", "std_err"):
            assert_allclose(found.table[name], table[name], rtol=1e-5)


def _carried(found, Z, y):
    est = found.estimator
    return est._carried(est._problem(Z, y), np.arange(len(y)), est)


def test_intervals_cover():
    """Slopes of true columns: 0.95 of 60, within four standard errors of that share."""
    hits = total = 0
    for seed in range(15):
        Z, y = make_data(seed=seed)
        table = sample_splitting(regressor(n_init=2), Z, y, random_state=seed).table
        for expert, term, truth in ((1, "x1", 2.0), (2, "x2", -2.0)):
            row = table[
                (table["room"] == "expert") & (table["expert"] == expert) & (table["term"] == term)
            ]
            assert len(row) == 1
            hits += bool(row["lower"].item() < truth < row["upper"].item())
            total += 1
    assert total == 30
    assert hits >= 25


def test_a_choice_is_made_on_the_first_part_alone():
    cv = mx.LassoMoERegressorCV(
        2, criterion="ebic", gate_ratio=0.5, n_init=2, n_alphas=8, random_state=0
    )
    found = sample_splitting(cv, X, Y, random_state=1)
    alone = cv.fit(X[found.rows_selection], Y[found.rows_selection])
    assert found.estimator.alpha_ == alone.alpha_
    assert {"x1", "x2"} <= set(found.table["term"])


def test_shared_scales_and_other_families():
    shared = regressor(expert=mx.experts.Gaussian(shared_scale=True))
    table = sample_splitting(shared, X, Y, random_state=1, cov_type="robust").table
    assert np.isfinite(table["std_err"]).all()
    rng = np.random.default_rng(0)
    slope = np.where(X[:, 0] + rng.logistic(size=N, scale=0.3) < 0.0, 1.0, -1.0) * X[:, 1]
    counts = rng.poisson(np.exp(1.5 + 0.7 * slope)).astype(float)
    est = regressor(expert="poisson", alpha=0.1, gate_alpha=0.05)
    table = sample_splitting(est, X, counts, random_state=0).table
    assert {"x0", "x1"} <= set(table["term"])
    assert (table["std_err"] > 0.0).all()


def test_classes():
    est = mx.LassoMoEClassifier(2, 0.02, 0.01, n_init=4, random_state=0)
    found = sample_splitting(est, XC, YC, random_state=0)
    experts = found.table[found.table["room"] == "expert"]
    assert set(experts["class"]) <= {"ant", "bee", "cow"}
    assert (found.table.loc[found.table["room"] == "gate", "class"].isna()).all()
    assert (found.table["std_err"] > 0.0).all()
    # A column that all three classes use is known by two differences.
    assert experts.groupby(["expert", "term"]).size().max() <= 2


def test_a_part_that_cannot_carry_the_columns_is_refused():
    est = regressor(alpha=1e-3, gate_alpha=1e-3, n_init=2, by_scale=False)
    with pytest.raises(InferenceRefusedError, match=r"effective rows|no maximum|singular"):
        sample_splitting(est, X[:60], Y[:60], fraction=0.75, random_state=0)


def test_gates_that_separate_are_refused():
    rng = np.random.default_rng(0)
    y = np.where(X[:, 0] > 0.0, 6.0 + 2.0 * X[:, 1], -6.0 - 2.0 * X[:, 2])
    y += 0.5 * rng.standard_normal(N)
    with pytest.raises(InferenceRefusedError, match=r"gate .* no finite maximum|singular"):
        sample_splitting(regressor(), X, y, random_state=0)
    # A gate that is certain of every row is known before its information is looked at.
    est = regressor().fit(X, Y)
    part, params = est._carried(est._problem(X, Y), np.arange(N), est)
    _refuse_separated_gate(part, params)
    _refuse_separated_gate(part, replace(params, gate_coef=0.0 * params.gate_coef))
    with pytest.raises(InferenceRefusedError, match="the refit's gate separates the experts"):
        _refuse_separated_gate(part, replace(params, gate_coef=1e5 * params.gate_coef))
    # Experts that are as far apart, but that no column tells for certain, are no such case.
    y = np.where(X[:, 0] + rng.logistic(size=N) > 0.0, 60.0 + 9.0 * X[:, 1], -60.0 - 9.0 * X[:, 2])
    est = regressor(alpha=0.01, gate_alpha=0.03)
    table = sample_splitting(est, X, y + rng.standard_normal(N), random_state=0).table
    gate = table[(table["room"] == "gate") & (table["term"] == "x0")]
    assert len(gate) == 1
    assert gate["std_err"].item() < 1.0


@pytest.mark.parametrize("rare", [False, True])
def test_a_gate_that_separates_some_rows_is_refused(rare):
    """All rows of a group belong to one expert: its log odds are infinite, the others' are not."""
    rng = np.random.default_rng(1)
    Z = np.column_stack([X, rng.uniform(size=N) < 0.3])
    low = (X[:, 0] + rng.logistic(size=N) < 0.0) & ((Z[:, P] == 0.0) | rare)
    y = np.where(low, -6.0 + 2.0 * X[:, 1], 6.0 - 2.0 * X[:, 2]) + 0.5 * rng.standard_normal(N)
    est = regressor(gate_alpha=0.01, gate_features=[0, P])
    if rare:  # the same columns, nothing separates
        assert np.isfinite(sample_splitting(est, Z, y, random_state=0).table["std_err"]).all()
        return
    with pytest.raises(InferenceRefusedError, match=r"gate has no finite maximum|singular"):
        sample_splitting(est, Z, y, random_state=0)


def test_classes_that_separate_are_refused():
    y = np.where(X[:, 1] > 0.0, "up", "down")
    est = mx.LassoMoEClassifier(1, 0.05, 0.05, random_state=0)
    with pytest.raises(InferenceRefusedError, match=r"expert 1 has no finite maximum|singular"):
        sample_splitting(est, X, y, random_state=0)


def test_columns_that_do_not_vary_in_the_first_part_are_not_selected():
    """As in a fit that was never given them; factors of the penalty stay with their columns."""
    plain = sample_splitting(regressor(), X, Y, random_state=1)
    rare = np.insert(X, 1, 0.0, axis=1)
    rare[plain.rows_inference[::3], 1] = 1.0
    factors = np.ones(P + 1)
    factors[1] = 0.0
    for est in (regressor(), regressor(penalty_weights=factors, gate_penalty_weights=factors)):
        found = sample_splitting(est, rare, Y, random_state=1)
        assert "x1" not in set(found.table["term"])
        assert_allclose(found.table["coef"], plain.table["coef"], rtol=1e-4)
        assert_array_equal(found.estimator.support_, np.insert(plain.estimator.support_, 1, False))
    cv = mx.LassoMoERegressorCV(
        2, criterion="bic", alphas=[0.2, 0.15], n_init=2, gate_ratio=0.3, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert "x1" not in set(sample_splitting(cv, rare, Y, random_state=1).table["term"])


def test_a_response_that_does_not_vary_in_the_second_part_is_refused():
    y = Y.copy()
    y[sample_splitting(regressor(), X, Y, random_state=1).rows_inference] = 4.0
    with pytest.raises(InferenceRefusedError, match="in the rows that estimate y is constant"):
        sample_splitting(regressor(), X, y, random_state=1)


def test_errors_that_nobody_expects_are_not_hidden(monkeypatch):
    from mixexperts.estimators import _lasso_parts

    def broken(*args, **kwargs):
        raise ValueError("something else")

    problem = regressor()._problem(X, Y)
    target = np.full((N, 2), 0.5)
    monkeypatch.setattr(_lasso_parts.Problem, "of", broken)
    with pytest.raises(ValueError, match="something else"):
        regressor()._selects(problem, np.arange(50), 0, target)
    monkeypatch.undo()
    constant = regressor()._problem(X, np.r_[np.zeros(50), Y[50:]])
    assert regressor()._selects(constant, np.arange(50), 0, target) is None


def test_columns_and_classes_that_are_missing_in_a_part_are_refused():
    rare = np.column_stack([X, np.zeros(N)])
    first = sample_splitting(regressor(), X, Y, random_state=1).rows_selection
    rare[first[::2], P] = 1.0
    with pytest.raises(InferenceRefusedError, match="'x8' does not vary"):
        sample_splitting(regressor(), rare, Y + 8.0 * rare[:, P], random_state=1)
    y = YC.copy()
    y[y == "cow"] = "bee"
    y[0] = "cow"
    est = mx.LassoMoEClassifier(2, 0.1, 0.1, n_init=2, random_state=0)
    with pytest.raises(InferenceRefusedError, match="class 'cow' is missing"):
        sample_splitting(est, XC, y, random_state=0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"fraction": 0.0}, ValueError, "fraction"),
        ({"fraction": None}, TypeError, "fraction"),
        ({"level": 95}, ValueError, "level"),
        ({"cov_type": "HC0"}, ValueError, "cov_type"),
        ({"random_state": -2}, ValueError, "random_state"),
    ],
)
def test_bad_arguments_of_splitting(options, error, match):
    with pytest.raises(error, match=match):
        sample_splitting(regressor(), X, Y, **options)
