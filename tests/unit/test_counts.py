"""Counts and proportions through every layer: estimator, formula, results, files, plots, CLI."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_score

import mixexperts as mx
from mixexperts.cli import main, predictions
from mixexperts.errors import InvalidResponseError, SeparationWarning
from mixexperts.experts import Binomial, Poisson

N = 240


def counts(seed=20260901):
    """Rows with counts, trials with successes, and single trials, of two experts each."""
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal((2, N))
    one = rng.random(N) < 1 / (1 + np.exp(-1.5 * z))
    hours = rng.uniform(0.5, 8.0, N)
    trials = rng.integers(0, 30, N)
    chance = 1 / (1 + np.exp(-np.where(one, 1.5 - 0.8 * x, -1.5 + 0.5 * x)))
    return pd.DataFrame(
        {
            "x": x,
            "z": z,
            "counts": rng.poisson(hours * np.exp(np.where(one, 2.0 + 0.5 * x, 0.2 - 0.3 * x))),
            "log_hours": np.log(hours),
            "w": rng.integers(1, 3, N),
            "trials": trials,
            "s": (s := rng.binomial(trials, chance)),
            "f": trials - s,
            "hit": rng.random(N) < chance,
        },
        index=np.arange(N) + 1000,
    )


FRAME = counts()
KINDS = {
    "poisson": ("counts ~ x | z", {"family": "poisson", "offset": "log_hours", "weights": "w"}),
    "binomial": ("s + f ~ x | z", {"family": "binomial", "weights": "w"}),
    "binary": ("hit ~ x | z", {"family": "binomial", "weights": "w"}),
}


def moe(kind, frame=FRAME, n_experts=2, **options):
    formula, settings = KINDS[kind]
    with warnings.catch_warnings():
        # a gate with two features may part some rows
        warnings.simplefilter("ignore", SeparationWarning)
        return mx.moe(formula, frame, n_experts, **{"n_init": 6, **settings, **options})


@pytest.fixture(scope="module")
def fits():
    return {kind: moe(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def res(request, fits):
    return fits[request.param]


def response(res):
    return res.design(response=True).y


# --- one fit, many views --------------------------------------------------------------------------


def test_the_likelihood_is_that_of_the_predictive_distribution(res):
    y = response(res)
    trials = y.sum(axis=1) if y.ndim == 2 else None
    value = y if y.ndim == 1 else y[:, 0]
    log_mass = res.predictive(trials=trials).logpdf(value)
    assert FRAME["w"] @ log_mass == pytest.approx(res.llf, rel=1e-10)


def test_predictions_are_means_over_the_gate(res):
    mean = (res.predict_experts().to_numpy() * res.gate_proba().to_numpy()).sum(axis=1)
    assert_allclose(res.predict(), mean, rtol=1e-12)
    assert_allclose(res.predictive().mean(), mean, rtol=1e-12)
    assert_array_equal(res.predict().index, FRAME.index)


def test_expert_means_come_from_the_coefficients_on_the_scale_of_the_data(fits):
    for kind, res in fits.items():
        est = res.estimator
        eta = est.intercept_ + np.outer(FRAME["x"], est.coef_[:, 0])
        if kind == "poisson":
            known = np.exp(eta + FRAME["log_hours"].to_numpy()[:, None])
        else:
            known = 1 / (1 + np.exp(-eta))
        assert_allclose(res.predict_experts().to_numpy(), known, rtol=1e-9)


def test_tables_have_coefficients_and_nothing_else(res):
    assert list(res.expert_table.index) == ["Intercept", "x"]
    assert "scale" not in str(res.summary())
    assert res.df_model == len(res.params) == 4 + 2
    assert res.restarts["min_scale"].isna().all()
    name = res.estimator.model_.expert.name
    assert f"2 x {name}" in str(res.summary())


def test_weights_are_rows_counted_twice(fits):
    twice = FRAME.loc[FRAME.index.repeat(FRAME["w"])]
    for kind, res in fits.items():
        again = moe(kind, twice, weights=None, tol=1e-10)
        assert again.llf == pytest.approx(res.llf, abs=1e-6)
        assert again.bic == pytest.approx(res.bic, abs=1e-5)


def test_saved_results_predict_the_same(res, tmp_path):
    res.save(tmp_path / "model.mxp")
    again = mx.load(tmp_path / "model.mxp")
    assert_array_equal(again.predict(FRAME), res.predict())
    assert_array_equal(again.estimator.separated_experts_, res.estimator.separated_experts_)
    assert str(again.summary()).splitlines()[-1] == str(res.summary()).splitlines()[-1]


def test_the_number_of_experts_is_chosen():
    res = moe("poisson", n_experts=range(1, 4))
    assert res.n_experts == 2
    assert list(res.selection.index) == [1, 2, 3]
    assert res.selection["log_likelihood"].is_monotonic_increasing


def test_an_offset_is_exposure():
    """Twice the hours, twice the counts; coefficients do not know the unit of time."""
    minutes = FRAME.assign(log_hours=FRAME["log_hours"] + np.log(60.0))
    res, again = (moe("poisson", frame, tol=1e-12) for frame in (FRAME, minutes))
    assert again.llf == pytest.approx(res.llf, rel=1e-10)
    shift = again.estimator.intercept_ - res.estimator.intercept_
    assert_allclose(shift, -np.log(60.0), atol=1e-6)
    doubled = FRAME.assign(log_hours=FRAME["log_hours"] + np.log(2.0))
    assert_allclose(res.predict(doubled), 2.0 * res.predict(), rtol=1e-12)


def test_trials_by_name_by_value_and_by_number(fits):
    res = fits["binomial"]
    known = FRAME["trials"].to_numpy() * res.predict().to_numpy()
    for trials in ("trials", FRAME["trials"], FRAME["trials"].to_numpy()):
        assert_allclose(res.predictive(trials=trials).mean(), known, rtol=1e-12)
    assert_allclose(res.predictive(trials=7).mean(), 7 * res.predict(), rtol=1e-12)
    drawn = res.estimator.sample(res.design().X, trials=FRAME["trials"], random_state=0)
    assert (drawn <= FRAME["trials"]).all()
    assert drawn.max() > 1
    with pytest.raises(ValueError, match="trials='tries' is not a column"):
        res.predictive(trials="tries")
    for bad in (-1, 2.5, np.nan):
        with pytest.raises(ValueError, match="trials must be integers >= 0"):
            res.predictive(trials=bad)
    with pytest.raises(ValueError, match=r"trials must be a number or have shape \(240,\)"):
        res.predictive(trials=[1, 2])
    with pytest.raises(ValueError, match="'poisson' experts have none"):
        fits["poisson"].predictive(trials=3)


def test_successes_of_the_data_lie_in_their_intervals(fits):
    """90% intervals of counts hold at least 90%; 4 binomial standard errors are 8%."""
    res = fits["binomial"]
    lower, upper = res.predictive(trials="trials").interval(0.9)
    inside = (lower <= FRAME["s"]) & (FRAME["s"] <= upper)
    assert inside.mean() > 0.82


# --- the estimator --------------------------------------------------------------------------------


def test_binary_responses_in_any_dress():
    X = FRAME[["x", "z"]]
    hit = FRAME["hit"]
    dresses = [hit, hit.astype(int), hit.to_numpy(float), hit.astype("Int64"), hit.to_list()]
    dresses.append(np.column_stack([hit, ~hit]))
    dresses.append(pd.DataFrame({"s": hit, "f": ~hit}))
    fits = [
        mx.MoERegressor(1, expert="binomial", gate="constant", tol=1e-12).fit(X, y) for y in dresses
    ]
    for est in fits[1:]:
        assert_allclose(est.coef_, fits[0].coef_, rtol=1e-6)
        assert est.log_likelihood_ == pytest.approx(fits[0].log_likelihood_, rel=1e-12)


def test_polynomials_and_no_intercept():
    X = FRAME[["x"]]
    est = mx.MoERegressor(1, gate="constant", expert=Poisson(degree=2), tol=1e-12)
    est.fit(X, FRAME["counts"])
    by_hand = mx.MoERegressor(1, gate="constant", expert="poisson", tol=1e-12)
    by_hand.fit(X.assign(x2=X["x"] ** 2), FRAME["counts"])
    assert est.expert_terms_ == ("x", "x^2")
    assert_allclose(est.coef_, by_hand.coef_, rtol=1e-6)
    through = mx.MoERegressor(1, gate="constant", expert=Binomial(fit_intercept=False))
    through.fit(X, FRAME["hit"])
    assert through.intercept_[0] == 0.0
    assert_allclose(through.predict(0 * X), 0.5)


def test_score_of_counts_is_r_squared_of_the_mean():
    X, y = FRAME[["x", "z"]], FRAME["counts"]
    est = mx.MoERegressor(2, expert="poisson", n_init=2, random_state=0).fit(X, y)
    assert est.score(X, y) == pytest.approx(r2_score(y, est.predict(X)), rel=1e-12)
    assert np.isfinite(cross_val_score(clone(est), X, y, cv=3)).all()


def test_score_of_two_columns_is_that_of_shares_weighted_by_trials():
    X, y = FRAME[["x", "z"]], FRAME[["s", "f"]]
    est = mx.MoERegressor(2, expert="binomial", n_init=2, random_state=0).fit(X, y)
    some = FRAME["trials"] > 0
    assert not some.all()
    share = FRAME["s"][some] / FRAME["trials"][some]
    known = r2_score(share, est.predict(X[some]), sample_weight=FRAME["trials"][some])
    assert est.score(X, y) == pytest.approx(known, rel=1e-12)
    weight = FRAME["w"]
    known = r2_score(share, est.predict(X[some]), sample_weight=(FRAME["trials"] * weight)[some])
    assert est.score(X, y, weight) == pytest.approx(known, rel=1e-12)
    assert np.isfinite(cross_val_score(clone(est), X, y, cv=3)).all()


@pytest.mark.parametrize("y", [np.zeros(N), np.full(N, 3)])
def test_constant_counts_have_a_fit(y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeparationWarning)
        est = mx.MoERegressor(1, expert="poisson", tol=1e-14).fit(FRAME[["x"]], y)
    assert est.status_ == "converged"
    assert_allclose(est.predict(FRAME[["x"]]), y, atol=1e-6)
    assert est.separated_experts_.tolist() == [not y.any()]


def test_separated_experts_are_said():
    y = np.where(FRAME["x"] > 0, 1, 0)
    with pytest.warns(SeparationWarning, match="coefficients of expert 1 have no finite maximum"):
        res = mx.moe("y ~ x", FRAME.assign(y=y), 1, family="binomial")
    assert "Separated: expert 1 " in str(res.summary())
    assert np.isfinite(res.params).all()
    assert res.converged
    held = mx.moe(
        "y ~ x", FRAME.assign(y=y), 1, family="binomial", expert_penalty=mx.penalties.Ridge(1e-3)
    )
    assert not held.estimator.separated_experts_.any()


@pytest.mark.parametrize("init", ["kmeans", "residual", "random", "elemental", "small_em", "split"])
@pytest.mark.parametrize("kind", ["poisson", "binomial"])  # single trials hardly part experts
def test_every_start_comes_to_a_sound_end(kind, init, fits):
    res = moe(kind, init=init, n_init=2)
    assert res.converged
    assert res.llf <= fits[kind].llf + 1e-6


def test_own_starts():
    X, y = FRAME[["x"]], FRAME["counts"]
    first = mx.MoERegressor(2, gate="constant", expert="poisson", random_state=0, n_init=3)
    first.fit(X, y)
    start = {"intercept": first.intercept_, "coef": first.coef_}
    for init in (start, first, (FRAME["counts"] > FRAME["counts"].median()).to_numpy()):
        again = clone(first).set_params(init=init).fit(X, y)
        assert again.log_likelihood_ == pytest.approx(first.log_likelihood_, abs=1e-6)


def test_a_checkpoint_is_gone_on_from(tmp_path):
    settings = {"expert": "binomial", "n_init": 2, "random_state": 0}
    X, y = FRAME[["x"]], FRAME[["s", "f"]]
    plain = mx.MoERegressor(2, **settings).fit(X, y)
    for _ in range(2):
        est = mx.MoERegressor(2, **settings, checkpoint=tmp_path / "run").fit(X, y)
        assert est.log_likelihood_ == plain.log_likelihood_
    other = mx.MoERegressor(2, **settings, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="other data"):
        other.fit(X, y[["f", "s"]])


def test_block_size_makes_no_difference():
    X, y = FRAME[["x"]], FRAME[["s", "f"]]
    a, b = (
        mx.MoERegressor(2, expert="binomial", n_init=1, random_state=0, chunk_rows=c).fit(X, y)
        for c in (None, 37)
    )
    assert a.log_likelihood_ == pytest.approx(b.log_likelihood_, rel=1e-10)


# --- what is refused ------------------------------------------------------------------------------

Y = FRAME["counts"].to_numpy(float)


def spoiled(value, at):
    y = Y.copy()
    y[at] = value
    return y


@pytest.mark.parametrize(
    ("expert", "y", "message"),
    [
        ("poisson", spoiled(-1.0, 7), "row 7 holds -1"),
        ("poisson", spoiled(0.5, 11), "row 11 holds 0.5"),
        ("poisson", np.column_stack([Y, Y]), "1d array"),
        ("binomial", spoiled(2.0, 0) * 0 + np.arange(N), "row 2 holds 2"),
        ("binomial", np.column_stack([Y, Y, Y]), r"shape \(240, 3\)"),
        ("binomial", np.zeros((N, 2)), "are 0 in all 240 rows"),
        ("gaussian", np.column_stack([Y, Y]), "column 1 of y is a linear combination"),
    ],
)
def test_responses_are_refused(expert, y, message):
    with pytest.raises(ValueError, match=message):
        mx.MoERegressor(2, expert=expert).fit(FRAME[["x"]], y)


def test_rows_are_numbered_as_given_also_beside_rows_of_weight_zero():
    weight = np.ones(N)
    weight[:5] = 0.0
    with pytest.raises(InvalidResponseError, match="row 7 holds -1"):
        mx.MoERegressor(2, expert="poisson").fit(FRAME[["x"]], spoiled(-1.0, 7), weight)


def test_new_responses_are_checked_as_those_of_the_fit(fits):
    est, X = fits["poisson"].estimator, fits["poisson"].design().X
    for method in (est.score_samples, est.responsibilities):
        with pytest.raises(InvalidResponseError, match=r"row 3 holds 0\.5"):
            method(X, spoiled(0.5, 3), offset=np.zeros(N))
    with pytest.raises(ValueError, match="y is missing: a mean of counts is no count"):
        est.score_samples(X, offset=np.zeros(N))


def test_two_columns_are_for_binomial_experts():
    for family in ("poisson",):
        with pytest.raises(ValueError, match=f"two columns.*{family} experts take one"):
            mx.moe("s + f ~ x", FRAME, family=family)


# --- plots and command line -----------------------------------------------------------------------


def test_plots(res):
    for kind in ("fit", "gate", "posterior", "history", "restarts"):
        ax = res.plot(kind)
        plt.close(ax.figure)


def test_the_plot_of_two_columns_shows_shares(fits):
    frame = mx.plots.points_frame(fits["binomial"])
    some = (FRAME["trials"] > 0).to_numpy()
    share = FRAME["s"] / FRAME["trials"].where(some)
    assert_allclose(frame["y"], share)
    assert frame["y"].isna().tolist() == (~some).tolist()
    curves = mx.plots.fit_frame(fits["binomial"])
    assert curves["lower"].isna().all()
    assert curves["mean"].between(0.0, 1.0).all()
    ax = fits["binomial"].plot()
    assert ax.get_ylabel() == "share of s"
    plt.close(ax.figure)
    est = fits["binomial"].estimator
    X = fits["binomial"].design().X
    again = mx.plots.points_frame(est, X, FRAME[["s", "f"]])
    assert_allclose(again["y"], frame["y"])
    bands = mx.plots.fit_frame(fits["poisson"]).query("component == 'mixture'")
    assert (bands["lower"] == np.floor(bands["lower"])).all()


def test_command_line(tmp_path, fits):
    FRAME.to_csv(tmp_path / "data.csv", index=False)
    code = main(
        ["fit", str(tmp_path / "data.csv"), "--formula", "s + f ~ x | z", "--family", "binomial",
         "--weights", "w", "--starts", "6", "--quiet", "--output", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 0
    code = main(
        ["predict", str(tmp_path / "out" / "model.mxp"), str(tmp_path / "data.csv"),
         "--trials", "trials", "--output", str(tmp_path / "pred.csv")]
    )  # fmt: skip
    assert code == 0
    made = pd.read_csv(tmp_path / "pred.csv")
    known = fits["binomial"].predictive(trials="trials").to_frame()
    assert_allclose(made["mean"], known["mean"], rtol=1e-6)
    assert_array_equal(made["upper"], known["upper"])


def test_predictions_with_missing_rows_and_trials(fits):
    spoilt = FRAME.copy()
    spoilt.iloc[4, 0] = np.nan
    table = predictions(fits["binomial"], spoilt, trials="trials")
    assert np.isnan(table["mean"].iloc[4])
    rest = np.arange(N) != 4
    known = fits["binomial"].predictive(trials="trials").mean()
    assert_allclose(table["mean"][rest], known[rest])
    with pytest.raises(ValueError, match="no column 'tries' of trials"):
        predictions(fits["binomial"], FRAME, trials="tries")
