"""Figures of penalised fits show what their tables say."""

import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import mixexperts as mx
from mixexperts import plots
from mixexperts.plots.lasso import _apart

N, P = 160, 8


def make_data(seed=20261102):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, P))
    low = X[:, 0] + 0.6 * rng.standard_normal(N) < 0.0
    y = np.where(low, -3.0 + 2.0 * X[:, 1], 3.0 - 1.5 * X[:, 2] + X[:, 3])
    return pd.DataFrame(X, columns=[f"c{j}" for j in range(P)]), y + rng.standard_normal(N)


X, Y = make_data()
LABELS = np.where(Y > 2.0, "high", np.where(Y < -2.0, "low", "middle"))


@pytest.fixture(scope="module")
def path():
    est = mx.LassoMoERegressor(n_init=3, random_state=0)
    return est.path(X, Y, n_alphas=8, alpha_min_ratio=0.05)


@pytest.fixture(scope="module")
def est():
    return mx.LassoMoERegressorCV(
        [1, 2], n_alphas=6, alpha_min_ratio=0.05, gate_ratio=(0.5, 1.0), cv=3, n_init=3,
        random_state=0,
    ).fit(X, Y)  # fmt: skip


@pytest.fixture(scope="module")
def classes():
    est = mx.LassoMoEClassifier(n_init=2, random_state=0)
    return est.path(X, LABELS, n_alphas=4, alpha_min_ratio=0.2)


@pytest.fixture(scope="module")
def found():
    est = mx.LassoMoERegressor(2, 0.15, 0.08, n_init=2, random_state=0)
    return mx.stability_selection(est, X, Y, n_subsamples=6, random_state=0)


@pytest.fixture(autouse=True)
def no_figures_left():
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before, "a plot changed the settings of matplotlib"
    plt.close("all")


# --- frames -------------------------------------------------------------------------------------


def test_frames_need_no_matplotlib():
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "import numpy as np, mixexperts as mx\n"
        "X = np.random.default_rng(0).standard_normal((40, 3))\n"
        "y = X[:, 0] + np.sin(9.0 * X[:, 1])\n"
        "path = mx.LassoMoERegressor(1, random_state=0).path(X, y, n_alphas=3)\n"
        "mx.plots.path_frame(path), mx.plots.cv_frame(path)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_path_frame_is_the_coefficients_with_zeros(path):
    frame = plots.path_frame(path)
    ratio = path.table["gate_ratio"].iloc[0]
    assert frame.attrs == {"n_experts": 2, "gate_ratio": ratio, "chosen": None}
    lines = frame.groupby(["room", "expert", "term"]).ngroups
    assert len(frame) == lines * len(path)
    for point in (0, 5):
        fit, own = path.estimator(point), frame[frame["point"] == point]
        for room, coef in (("expert", fit.coef_), ("gate", fit.gate_coef_)):
            rows = own[own["room"] == room]
            at = [X.columns.get_loc(term) for term in rows["term"]]
            assert_allclose(rows["coef"], coef[rows["expert"] - 1, at])
            # What is not in the frame is zero.
            assert np.count_nonzero(coef) == np.count_nonzero(rows["coef"])
    assert frame["sound"].all()


def test_the_path_frame_of_a_choice_is_that_of_its_path(est):
    frame = plots.path_frame(est)
    assert frame.attrs == {
        "n_experts": est.n_experts_, "gate_ratio": est.gate_ratio_, "chosen": est.best_index_,
    }  # fmt: skip
    one = plots.path_frame(est, n_experts=1)
    assert one.attrs == {"n_experts": 1, "gate_ratio": 0.5, "chosen": None}
    assert set(one["room"]) == {"expert"}
    other = plots.path_frame(est, n_experts=2, gate_ratio=1.0)
    assert other.attrs["gate_ratio"] == 1.0


def test_classes_have_lines_of_their_own(classes):
    frame = plots.path_frame(classes)
    assert set(frame.loc[frame["room"] == "expert", "class"]) <= {"high", "low", "middle"}
    assert frame.loc[frame["room"] == "gate", "class"].isna().all()
    assert len(frame) % 4 == 0


def test_the_cv_frame_is_the_results(est):
    frame = plots.cv_frame(est)
    table = est.cv_results_.loc[frame["point"]]
    assert frame.attrs == {"criterion": "cv", "n_experts": 2}
    assert_allclose(frame["value"], table["mean_score"])
    assert_allclose(frame["std_error"], table["std_error"])
    assert frame.loc[frame["chosen"], "point"].tolist() == [est.best_index_]
    assert frame.loc[frame["best"], "point"].tolist() == [est.best_index_]
    bic = plots.cv_frame(est, criterion="bic", n_experts=1)
    assert bic.attrs == {"criterion": "bic", "n_experts": 1}
    assert bic["std_error"].isna().all()
    assert not bic["chosen"].any()
    assert bic.loc[bic["best"], "value"].item() == bic["value"].min()


def test_points_without_a_score_are_neither_drawn_nor_best(est):
    broken = mx.LassoMoERegressorCV()
    table = est.cv_results_.copy()
    table.loc[est.best_index_, ["mean_score", "std_error"]] = [-np.inf, np.nan]
    broken.path_, broken.cv_results_, broken.best_index_ = est.path_, table, est.best_index_
    frame = plots.cv_frame(broken)
    assert not frame.loc[frame["point"] == est.best_index_, "sound"].item()
    assert frame.loc[frame["best"], "point"].item() != est.best_index_
    plots.plot_cv(broken)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda p, e: plots.path_frame(p, n_experts=3), ValueError, "n_experts=3 is not on"),
        (lambda p, e: plots.path_frame(e, gate_ratio=9.0), ValueError, "gate_ratio=9.0"),
        (lambda p, e: plots.path_frame(mx.LassoMoERegressorCV()), TypeError, "is not fitted"),
        (lambda p, e: plots.path_frame(mx.LassoMoERegressor()), TypeError, "path or a fitted"),
        (lambda p, e: plots.cv_frame(p, criterion="cv"), ValueError, "was not computed"),
        (lambda p, e: plots.cv_frame(e, criterion="icl"), ValueError, "was not computed"),
        (lambda p, e: plots.plot_path(p, n_labels=7), ValueError, "n_labels"),
        (lambda p, e: plots.plot_path(p, point=99), ValueError, "point=99"),
        (lambda p, e: plots.plot_path(p, axes=plt.subplots(1, 2)[1]), ValueError, "3 axes"),
        (lambda p, e: plots.plot_stability(p), TypeError, "StabilitySelection"),
    ],
)
def test_bad_arguments(call, error, match, path, est):
    with pytest.raises(error, match=match):
        call(path, est)


# --- figures --------------------------------------------------------------------------------------


def curves(ax):
    """Lines of coefficients: those with a point for each of several alphas."""
    return [line for line in ax.get_lines() if len(line.get_xdata()) > 2]


def test_panels_hold_the_lines_of_their_room(path):
    axes = path.plot(point=3)
    frame = plots.path_frame(path)
    assert [ax.get_title(loc="left") for ax in axes] == ["expert 1", "expert 2", "gate (expert 2)"]
    for ax, room, expert in zip(axes, ("expert", "expert", "gate"), (1, 2, 2), strict=True):
        own = frame[(frame["room"] == room) & (frame["expert"] == expert)]
        used = own.groupby("term")["coef"].apply(lambda values: values.to_numpy().any())
        assert len(curves(ax)) == used.sum()
        drawn = sorted(line.get_ydata()[-1] for line in curves(ax))
        last = own[own["point"] == 7].set_index("term")["coef"]
        assert_allclose(drawn, sorted(last[used[used].index]))
        # The penalty falls to the right, on a log axis.
        assert ax.get_xscale() == "log"
        assert ax.get_xlim()[0] > ax.get_xlim()[1]
        marked = [line for line in ax.get_lines() if len(set(line.get_xdata())) == 1]
        assert any(np.isclose(m.get_xdata()[0], path.table["alpha"][3]) for m in marked)


def test_names_stand_at_large_lines_only(path):
    axes = plots.plot_path(path, n_labels=3)
    names = [{text.get_text() for text in ax.texts} for ax in axes]
    assert "c1" in names[0]
    assert "c2" in names[1]
    assert "c0" in names[2]
    assert len(set().union(*names)) <= 3
    assert not any(ax.texts for ax in plots.plot_path(path, n_labels=0))


def test_one_expert_has_no_panel_of_a_gate(est):
    axes = plots.plot_path(est, n_experts=1)
    assert [ax.get_title(loc="left") for ax in axes] == ["expert 1"]


def test_given_axes_are_used(path):
    figure, given = plt.subplots(1, 3)
    axes = plots.plot_path(path, axes=given)
    assert_array_equal(axes, given)
    assert plt.get_fignums() == [figure.number]


def test_classes_are_named(classes):
    axes = plots.plot_path(classes)
    names = [text.get_text() for ax in axes[:2] for text in ax.texts]
    assert names
    assert all(name.split(": ")[1] in ("high", "low", "middle") for name in names)


def test_a_path_of_nulls_can_be_drawn():
    est = mx.LassoMoERegressor(n_init=1, random_state=0)
    axes = est.path(X, Y, alphas=[9.0, 8.0]).plot()
    assert [len(curves(ax)) for ax in axes] == [0, 0, 0]


def test_the_choice_is_marked_and_counts_stand_above(est):
    ax = plots.plot_cv(est)
    frame = plots.cv_frame(est)
    drawn = curves(ax)
    assert len(drawn) == 2  # one for each ratio
    for line, ratio in zip(drawn, (0.5, 1.0), strict=True):
        own = frame[frame["gate_ratio"] == ratio]
        assert_allclose(line.get_xdata(), own["alpha"])
        assert_allclose(line.get_ydata(), own["value"])
    upright = [line.get_xdata()[0] for line in ax.get_lines() if len(set(line.get_xdata())) == 1]
    assert est.alpha_ in upright
    own = frame[frame["gate_ratio"] == est.gate_ratio_]
    best = own.loc[own["value"].idxmax()]
    near = own[own["value"] >= best["value"] - best["std_error"]]
    sparse = near.sort_values(["n_nonzero", "alpha"], ascending=[True, False]).iloc[0]
    assert sparse["alpha"] in upright
    ax.figure.canvas.draw()
    above = ax.child_axes[0]
    assert [t.get_text() for t in above.get_xticklabels()] == [str(n) for n in own["n_nonzero"]]
    assert "held-out" in ax.get_ylabel()
    assert plots.plot_cv(est, criterion="ebic").get_ylabel() == "EBIC (lower is better)"


def test_a_path_has_criteria_too(path):
    ax = plots.plot_cv(path)
    assert_allclose(curves(ax)[0].get_ydata(), path.table["bic"])
    assert ax.get_legend() is None


def test_stability_shows_the_shares(found):
    ax = found.plot(n_terms=4, threshold=0.8)
    shown = [text.get_text() for text in ax.get_yticklabels()]
    any_ = found.frame[found.frame["room"] == "any"]
    top = any_.sort_values("probability", ascending=False, kind="stable").head(4)
    assert shown == top["term"].tolist()
    assert_allclose(ax.collections[0].get_offsets()[:, 0], sorted(top["probability"])[::-1])
    assert ax.get_lines()[-1].get_xdata()[0] == 0.8
    for options in ({"n_terms": 0}, {"threshold": 0.4}):
        with pytest.raises(ValueError, match=next(iter(options))):
            found.plot(**options)


@given(st.lists(st.floats(-2.0, 3.0), min_size=1, max_size=12), st.floats(0.01, 0.3))
def test_names_are_moved_apart_no_more_than_needed(wanted, least):
    wanted = np.sort(wanted)
    places = _apart(wanted, least)
    assert (np.diff(places) >= least - 1e-9).all()
    assert places.mean() == pytest.approx(wanted.mean(), abs=1e-9)
    if (np.diff(wanted) >= least).all():
        assert_allclose(places, wanted, atol=1e-9)
