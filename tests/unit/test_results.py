"""Fits from a formula: the same numbers as the estimator, with names; and errors that help."""

import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal, assert_series_equal
from sklearn.exceptions import ConvergenceWarning

import mixexperts as mx
from mixexperts.errors import UnseenLevelError
from mixexperts.experts import Gaussian

OPTIONS = {"n_init": 3, "random_state": 0}


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(20260901)
    n = 160
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 60, n),
            "income": rng.lognormal(1.0, 0.5, n),
            "town": np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
            "exposure": rng.uniform(0, 1, n),
            "w": 1.0 + rng.integers(0, 2, n),
        },
        index=[f"row{i}" for i in range(n)],
    )
    side = frame["age"] - 40 + 4 * rng.logistic(size=n) > 0
    mean = np.where(side, 10 + 0.5 * frame["income"], -2 - frame["income"])
    frame["y"] = mean + 1.0 * (frame["town"] == "b") + 0.5 * rng.standard_normal(n)
    return frame


@pytest.fixture(scope="module")
def res(frame):
    return mx.moe("y ~ income + C(town) | age", data=frame, **OPTIONS)


# --- numbers ------------------------------------------------------------------------------------


def test_the_fit_is_that_of_the_estimator(res, frame):
    X = (
        frame[["income", "age"]]
        .assign(b=frame["town"] == "b", c=frame["town"] == "c")
        .astype(float)
    )
    est = mx.MoERegressor(
        expert_features=["income", "b", "c"], gate_features=["age"], **OPTIONS
    ).fit(X, frame["y"])
    assert res.llf == pytest.approx(est.log_likelihood_, abs=1e-6)
    assert res.aic == pytest.approx(est.aic(X, frame["y"]), abs=1e-5)
    assert res.bic == pytest.approx(est.bic(X, frame["y"]), abs=1e-5)
    assert res.icl == pytest.approx(est.icl(X, frame["y"]), abs=1e-3)
    assert (res.nobs, res.df_model, res.df_resid) == (160.0, 12, 148.0)
    own = res.expert_table.loc["income"].to_numpy()
    assert_allclose(own, est.coef_[:, 0], atol=1e-4)
    assert res.converged
    assert_frame_equal(res.restarts, res.estimator.restarts_)


def test_one_expert_is_statsmodels(frame):
    res = mx.moe("y ~ income + C(town) + age:income", data=frame, n_experts=1, **OPTIONS)
    ols = smf.ols("y ~ income + C(town) + age:income", data=frame).fit()
    assert res.llf == pytest.approx(ols.llf, rel=1e-10)
    own = res.params["expert"][1].drop("scale").to_numpy()
    assert_allclose(np.sort(own), np.sort(ols.params.to_numpy()), rtol=1e-7)
    assert_allclose(res.predict(frame), ols.fittedvalues, rtol=1e-9)
    assert res.bic == pytest.approx(ols.bic + np.log(160), rel=1e-10)  # the scale is counted


def test_names_of_parameters(res):
    assert res.params.index.names == ["part", "expert", "term"]
    assert len(res.params) == res.df_model
    terms = ["Intercept", "income", "C(town)[T.b]", "C(town)[T.c]", "scale"]
    assert res.expert_table.index.tolist() == terms
    assert res.gate_table.index.tolist() == ["Intercept", "age"]
    assert res.expert_table.columns.tolist() == [1, 2]
    assert not res.gate_table[2].any()
    assert res.params["gate", 1, "age"] == res.gate_table.at["age", 1]
    assert 2 not in res.params["gate"].index.get_level_values("expert")


def test_weights_and_offset_by_name_and_by_value(frame):
    formula = "y ~ income | age"
    named = mx.moe(formula, data=frame, weights="w", offset="exposure", **OPTIONS)
    valued = mx.moe(
        formula, data=frame, weights=frame["w"].to_numpy(), offset=frame["exposure"].to_numpy(),
        **OPTIONS,
    )  # fmt: skip
    assert named.llf == valued.llf
    assert named.nobs == frame["w"].sum()
    twice = frame.loc[np.repeat(frame.index, frame["w"].astype(int))]
    repeated = mx.moe(formula, data=twice, offset="exposure", **OPTIONS)
    assert repeated.llf == pytest.approx(named.llf, abs=1e-5)
    assert repeated.bic == pytest.approx(named.bic, abs=1e-4)
    moved = frame.assign(y=frame["y"] - frame["exposure"])
    taken = mx.moe(formula, data=moved, weights="w", **OPTIONS)
    assert taken.llf == pytest.approx(named.llf, abs=1e-6)
    assert_allclose(named.predict(frame), taken.predict(frame) + frame["exposure"], atol=1e-4)


def test_gate_in_the_formula_or_beside_it(frame):
    barred = mx.moe("y ~ income | age", data=frame, **OPTIONS)
    beside = mx.moe("y ~ income", data=frame, gate="~ age", **OPTIONS)
    constant = mx.moe("y ~ income", data=frame, **OPTIONS)
    assert barred.llf == beside.llf
    assert constant.llf < barred.llf
    assert constant.df_model == barred.df_model - 1
    assert constant.gate_table.index.tolist() == ["Intercept"]
    share = np.exp(constant.gate_table.loc["Intercept"])
    assert_allclose(share / share.sum(), constant.gate_proba(frame).iloc[0])


def test_no_intercepts(frame):
    res = mx.moe("y ~ income - 1 | age - 1", data=frame, **OPTIONS)
    assert res.expert_table.index.tolist() == ["income", "scale"]
    assert res.gate_table.index.tolist() == ["age"]
    assert res.df_model == 2 * 2 + 1
    X = frame[["income", "age"]]
    means = np.column_stack([X["income"] * res.expert_table.at["income", k] for k in (1, 2)])
    assert_allclose(res.predict_experts(frame), means, rtol=1e-9)


def test_a_family_with_options(frame):
    shared = mx.moe("y ~ income | age", data=frame, family=Gaussian(shared_scale=True), **OPTIONS)
    assert shared.expert_table.loc["scale"].nunique() == 1
    with pytest.raises(ValueError, match="degree"):
        mx.moe("y ~ income", data=frame, family=Gaussian(degree=2))


def test_several_numbers_of_experts(frame):
    res = mx.moe("y ~ income + C(town) | age", data=frame, n_experts=range(1, 4), **OPTIONS)
    assert res.selection.index.tolist() == [1, 2, 3]
    assert res.n_experts == res.selection["bic"].idxmin() == 2
    assert res.llf == res.selection.at[2, "log_likelihood"]
    assert res.bic == pytest.approx(res.selection.at[2, "bic"])


def test_same_call_same_fit(frame):
    first, second = (mx.moe("y ~ income | age", data=frame, n_init=2) for _ in range(2))
    assert first.llf == second.llf


# --- predictions --------------------------------------------------------------------------------


def test_predictions_keep_the_index_and_add_up(res, frame):
    new = frame.sample(9, random_state=0)
    mean = res.predict(new)
    assert mean.index.tolist() == new.index.tolist()
    assert mean.name == "y"
    experts, gate = res.predict_experts(new), res.gate_proba(new)
    assert_series_equal((experts * gate).sum(axis=1), mean, check_names=False)
    assert_allclose(res.posterior(new).sum(axis=1), 1.0)
    assert experts.columns.tolist() == [1, 2]
    assert_series_equal(res.predict().loc[new.index], mean)
    assert_allclose(res.predictive(new).mean(), mean)
    reordered = new[new.columns[::-1]].assign(unused="text")
    assert_series_equal(res.predict(reordered), mean)


def test_prediction_does_not_depend_on_the_other_rows(res, frame):
    """Centring, splines and levels are those of the fit, not of the new rows."""
    smooth = mx.moe("y ~ center(income) + bs(age, df=4)", data=frame, **OPTIONS)
    for fitted in (res, smooth):
        whole = fitted.predict(frame)
        for name in frame.index[:5]:
            assert fitted.predict(frame.loc[[name]]).iloc[0] == pytest.approx(whole[name], rel=1e-9)


def test_responsibilities_and_llf_come_from_the_same_density(res, frame):
    rows = res.design(response=True)
    assert rows.index.equals(frame.index)
    assert res.estimator.score_samples(rows.X, rows.y).sum() == pytest.approx(res.llf, abs=1e-8)
    assert_allclose(res.posterior().sum(), res.estimator.mass_, rtol=1e-6)


def test_new_levels_and_missing_columns_are_named(res, frame):
    with pytest.raises(UnseenLevelError, match=r"'town'.*'zurich'"):
        res.predict(frame.assign(town="zurich"))
    with pytest.raises(ValueError, match="age"):
        res.predict(frame.drop(columns="age"))
    offset = mx.moe("y ~ income", data=frame, offset="exposure", **OPTIONS)
    with pytest.raises(ValueError, match="exposure"):
        offset.predict(frame.drop(columns="exposure"))


# --- missing rows -------------------------------------------------------------------------------


def test_missing_rows_are_dropped_counted_or_refused(frame):
    holed = frame.copy()
    holed.loc[["row3", "row7"], "income"] = np.nan
    holed.loc["row9", "y"] = np.nan
    formula = "y ~ income | age"
    dropped = mx.moe(formula, data=holed, **OPTIONS)
    whole = mx.moe(formula, data=holed.dropna(), **OPTIONS)
    assert dropped.llf == pytest.approx(whole.llf, abs=1e-9)
    assert (dropped.n_dropped, dropped.nobs) == (3, 157.0)
    assert "3 rows with missing values were left out" in str(dropped.summary())
    assert len(dropped.predict()) == 157
    with pytest.raises(ValueError, match=r"missing|NaN"):
        mx.moe(formula, data=holed, missing="raise", **OPTIONS)
    weighted = mx.moe(formula, data=holed, weights=frame["w"].to_numpy(), **OPTIONS)
    assert weighted.nobs == frame.drop(index=["row3", "row7", "row9"])["w"].sum()


# --- reading ------------------------------------------------------------------------------------


def test_summary_shows_the_numbers(res):
    text = str(res.summary())
    for value in (res.llf, res.aic, res.bic, res.icl):
        assert f"{value:.4f}" in text
    for term in ("Intercept", "income", "C(town)[T.b]", "scale", "age", "share"):
        assert term in text
    income = res.expert_table.at["income", 2]
    assert f"{income:.4f}" in text
    assert "expert 1" in text
    assert res.summary().as_html().count("<table") >= 3
    assert f"{res.llf:.4f}" in repr(res)
    assert "share" not in res.expert_table.index  # printing does not change the table


def test_summary_says_what_is_wrong(frame):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stopped = mx.moe("y ~ income | age", data=frame, max_iter=1, n_init=1)
        doubled = mx.moe(
            "y ~ income + twice", data=frame.assign(twice=2 * frame["income"]), **OPTIONS
        )
    assert "did not converge (status: max_iter)" in str(stopped.summary())
    assert "lacks full rank" in str(doubled.summary())


# --- errors -------------------------------------------------------------------------------------

ERRORS = {
    "unknown column": ({"formula": "y ~ incom"}, r"incom(.|\n)*income"),
    "unknown gate column": ({"formula": "y ~ income | agee"}, r"agee(.|\n)*age"),
    "unknown response": ({"formula": "yy ~ income"}, r"'?yy'?"),
    "no response": ({"formula": "~ income"}, r"response|left"),
    "empty gate": ({"formula": "y ~ income |"}, r"empty part"),
    "two gates": ({"formula": "y ~ income | age", "gate": "~ town"}, r"gate"),
    "broken formula": ({"formula": "y ~ income +* age"}, r"formula"),
    "unknown criterion": ({"criterion": "dic"}, r"criterion='dic' is not known"),
    "unknown family": ({"family": "gausian"}, r"family='gausian' .*did you mean 'gaussian'"),
    "unknown weights": ({"weights": "ww"}, r"weights|ww"),
    "short offset": ({"offset": np.zeros(3)}, r"offset"),
    "negative weights": ({"weights": -np.ones(160)}, r"weight"),
    "bad missing": ({"missing": "impute"}, r"missing"),
    "text response": ({"formula": "town ~ income"}, r"town"),
    "no experts": ({"n_experts": 0}, r"n_experts"),
    "empty range": ({"n_experts": range(0)}, r"n_experts is empty"),
}


@pytest.mark.parametrize(("options", "match"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_argument(options, match, frame):
    settings = {"formula": "y ~ income | age", "data": frame, **OPTIONS, **options}
    with pytest.raises(ValueError, match=match):
        mx.moe(**settings)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_inits": 3}, "unknown arguments 'n_inits'"),
        ({"gate_features": ["age"]}, "unknown arguments 'gate_features'"),
        ({"n_experts": 2.5}, "n_experts"),
        ({"n_experts": "2"}, "n_experts"),
        ({"n_experts": True}, "n_experts"),
        ({"family": 3}, "family"),
    ],
)
def test_types_name_the_argument(options, match, frame):
    with pytest.raises(TypeError, match=match):
        mx.moe("y ~ income", data=frame, **options)


def test_data_may_be_a_dict_and_is_not_changed(frame):
    plain = {name: frame[name].to_numpy() for name in ("y", "income", "age")}
    before = frame.copy()
    from_dict = mx.moe("y ~ income | age", data=plain, **OPTIONS)
    from_frame = mx.moe("y ~ income | age", data=frame, **OPTIONS)
    assert from_dict.llf == from_frame.llf
    assert_frame_equal(frame, before)
    assert from_dict.predict(frame).tolist() == from_frame.predict(frame).tolist()


def test_columns_named_like_parameters_keep_their_coefficients():
    """A covariate may be called scale, share or Intercept: nothing is overwritten."""
    rng = np.random.default_rng(0)
    df = pd.DataFrame(rng.standard_normal((120, 2)), columns=["scale", "share"])
    df["y"] = 1.0 - 1.0 * df["scale"] + 2.0 * df["share"] + 0.1 * rng.standard_normal(120)
    res = mx.moe("y ~ scale + share", df, 1)
    coef = res.params["expert"][1]
    assert coef["scale"] == pytest.approx(-1.0, abs=0.1)
    assert coef["share"] == pytest.approx(2.0, abs=0.1)
    assert coef["(scale)"] == pytest.approx(0.1, abs=0.03)
    assert len(coef) == res.df_model == 4
    assert "(share)" in str(res.summary())


def test_a_small_tight_expert_is_pointed_out():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 1, 100), np.linspace(-1, 1, 8)])
    y = np.concatenate([rng.standard_normal(100), 3.0 + 1e-3 * rng.standard_normal(8)])
    res = mx.moe("y ~ x", pd.DataFrame({"x": x, "y": y}), 2)
    assert res.estimator.scale_.min() < 0.01
    assert any("may be a spike" in note for note in res.notes())


def test_selection_of_an_unconverged_fit_warns():
    df = mx.datasets.load_tonedata()
    with pytest.warns(ConvergenceWarning, match="max_iter=3"):
        mx.moe("tuned ~ stretchratio | stretchratio", df, [1, 2], max_iter=3)


def test_names_are_escaped_in_html_and_latex_is_made():
    df = mx.datasets.load_ais()
    res = mx.moe("Bfat ~ I((BMI<LBM)*Ht) + LBM", df, 2)
    assert "(BMI&lt;LBM)" in res._repr_html_()
    assert "(BMI<LBM)" in str(res.summary())
    assert res.summary().as_latex().count("tabular") == 6


def test_running_terms_are_refused():
    df = mx.datasets.load_ais()
    for term in ("np.cumsum(BMI)", "BMI.cummax()", "np.diff(BMI, prepend=0)"):
        with pytest.raises(ValueError, match="hangs on the other rows"):
            mx.moe(f"Bfat ~ {term}", df, 1)


def test_a_series_with_another_index_is_refused():
    df = mx.datasets.load_ais()
    weights = pd.Series(np.arange(202.0) + 1, index=df.index)
    with pytest.raises(ValueError, match="weights is a Series whose index differs"):
        mx.moe("Bfat ~ BMI", df, 1, weights=weights[::-1])


def test_warnings_point_at_the_line_of_the_user():
    df = mx.datasets.load_ais().assign(twice=lambda d: 2 * d["BMI"])
    with pytest.warns(mx.errors.RankDeficientWarning) as caught:
        mx.moe("Bfat ~ BMI + twice", df, 1)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_factor_of_one_level_is_pointed_out():
    df = mx.datasets.load_ais().assign(g="x")
    with pytest.warns(mx.errors.RankDeficientWarning, match="single level 'x'"):
        mx.moe("Bfat ~ BMI + g", df, 1)


def test_the_name_of_a_gate_is_no_formula():
    with pytest.raises(ValueError, match="gate='constant': here gate holds terms"):
        mx.moe("tuned ~ stretchratio", mx.datasets.load_tonedata(), 2, gate="constant")
