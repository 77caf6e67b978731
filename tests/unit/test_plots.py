"""Figures show what the model says: frames against predictions, axes against frames."""

import copy
import subprocess
import sys
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

import mixexperts as mx
from mixexperts import plots

# Frames hold what the model's own methods return; only summation order may differ.
ROUNDING = 1e-12
# A quantile has the probability asked for, up to the solver of quantiles.
QUANTILE_TOL = 1e-9


def two_lines(n=240, seed=0):
    """Rows of two crossing lines; g shifts the response and the gate depends on x."""
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-2.0, 2.0, n), rng.normal(size=n)
    g = rng.choice(["a", "b"], n, p=[0.7, 0.3])
    first = rng.uniform(size=n) < 1.0 / (1.0 + np.exp(-x))
    mean = np.where(first, 1.0 + x, -1.0 - x) + 0.3 * z + 0.5 * (g == "b")
    y = mean + 0.2 * rng.normal(size=n)
    return pd.DataFrame({"g": g, "z": z, "x": x, "y": y, "size": np.exp(y), "two": x > 0})


@pytest.fixture(scope="module")
def df():
    return two_lines()


@pytest.fixture(scope="module")
def results(df):
    return mx.moe("y ~ x + z + g | x", df, 2, n_init=4)


@pytest.fixture(scope="module")
def est(df):
    model = mx.MoERegressor(2, n_init=2, random_state=0)
    return model.fit(df[["x", "z"]], df["y"])


@pytest.fixture(scope="module")
def constant():
    tone = mx.datasets.load_tonedata()
    model = mx.MoERegressor(2, gate="constant", n_init=2, random_state=0)
    return model.fit(tone[["stretchratio"]].to_numpy(), tone["tuned"].to_numpy())


@pytest.fixture(scope="module")
def selected(df):
    return mx.moe("y ~ x + z + g | x", df, [1, 2, 3], n_init=2)


@pytest.fixture(autouse=True)
def no_figures_left():
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before, "a plot changed the settings of matplotlib"
    plt.close("all")


def grid_of(results, frame):
    """Rows of the data's variables that a frame was computed at."""
    x = frame.loc[frame["component"] == "mixture", "x"].to_numpy()
    return pd.DataFrame({frame.attrs["feature"]: x, **frame.attrs["held"]})


def legend_texts(ax):
    return [entry.get_text() for entry in ax.get_legend().get_texts()]


# --- frames ------------------------------------------------------------------------------


def test_importing_the_room_is_light():
    code = (
        "import sys, mixexperts.plots\n"
        "heavy = {'matplotlib', 'pandas', 'sklearn', 'formulaic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_frames_need_no_matplotlib():
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "import mixexperts as mx\n"
        "df = mx.datasets.load_tonedata()\n"
        "X, y = df[['stretchratio']], df['tuned']\n"
        "est = mx.MoERegressor(2, gate='constant', n_init=1, random_state=0).fit(X, y)\n"
        "p = mx.plots\n"
        "p.fit_frame(est, X), p.gate_frame(est, X), p.points_frame(est, X, y)\n"
        "p.history_frame(est), p.restarts_frame(est), p.posterior_frame(est, X, y)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_public_names_exist():
    assert plots.__all__ == sorted(plots.__all__)
    assert all(callable(getattr(plots, name)) for name in plots.__all__)


def test_fit_frame_of_results_is_the_models_predictions(results):
    frame = plots.fit_frame(results, n_grid=30, interval=0.8)
    assert frame.attrs["feature"] == "x"
    assert frame.attrs["response"] == "y"
    assert frame.attrs["held"] == {"z": results.data["z"].median(), "g": "a"}
    rows = grid_of(results, frame)
    parts = dict(list(frame.groupby("component")))
    assert set(parts) == {"mixture", "expert 1", "expert 2"}
    mixture = parts["mixture"]
    assert_allclose(mixture["mean"], results.predict(rows), rtol=ROUNDING)
    experts, gate = results.predict_experts(rows), results.gate_proba(rows)
    for k in (1, 2):
        assert_allclose(parts[f"expert {k}"]["mean"], experts[k], rtol=ROUNDING)
        assert_allclose(parts[f"expert {k}"]["weight"], gate[k], rtol=ROUNDING)
        assert parts[f"expert {k}"][["lower", "upper"]].isna().all(axis=None)
    predictive = results.predictive(rows)
    assert_allclose(predictive.cdf(mixture["lower"].to_numpy()), 0.1, atol=QUANTILE_TOL)
    assert_allclose(predictive.cdf(mixture["upper"].to_numpy()), 0.9, atol=QUANTILE_TOL)
    assert (mixture["lower"] < mixture["mean"]).all()
    assert (mixture["mean"] < mixture["upper"]).all()
    assert_allclose(rows["x"].iloc[[0, -1]], [results.data["x"].min(), results.data["x"].max()])


def test_fit_frame_of_an_estimator_holds_other_features_at_their_mean(est, df):
    frame = plots.fit_frame(est, df, feature="z", n_grid=7)
    assert frame.attrs["held"] == {"x": pytest.approx(df["x"].mean(), rel=ROUNDING)}
    mixture = frame[frame["component"] == "mixture"]
    rows = pd.DataFrame({"x": df["x"].mean(), "z": mixture["x"]})
    assert_allclose(mixture["mean"], est.predict(rows), rtol=ROUNDING)


def test_two_valued_features_are_held_at_the_frequent_value(df):
    X = np.column_stack([df["x"], df["g"] == "b"]).astype(float)
    est = mx.MoERegressor(2, n_init=1, random_state=0).fit(X, df["y"])
    frame = plots.fit_frame(est, X, n_grid=3)
    assert (frame.attrs["feature"], frame.attrs["held"]) == ("x0", {"x1": 0.0})
    points = plots.points_frame(est, X, df["y"], feature=0)
    assert_array_equal(points["at_held"], df["g"] == "a")
    moved = plots.fit_frame(est, X, at={"x1": 1.0}, n_grid=3)
    assert moved.attrs["held"] == {"x1": 1.0}
    assert not np.isclose(moved["mean"], frame["mean"]).any()


def test_at_moves_the_curves_and_the_filled_points(results, df):
    frame = plots.fit_frame(results, at={"g": "b", "z": 1.0}, n_grid=5)
    rows = grid_of(results, frame)
    assert set(rows["g"]) == {"b"}
    mixture = frame[frame["component"] == "mixture"]
    assert_allclose(mixture["mean"], results.predict(rows), rtol=ROUNDING)
    points = plots.points_frame(results, at={"g": "b"})
    assert_array_equal(points["at_held"], df["g"] == "b")


def test_points_are_the_data_with_responsibilities(results, df):
    points = plots.points_frame(results, feature="z")
    assert_array_equal(points["x"], df["z"])
    assert_allclose(points["y"], df["y"])
    assert_allclose(points[["expert 1", "expert 2"]], results.posterior(), rtol=ROUNDING)
    assert points.index.equals(df.index)


def test_the_response_is_as_the_formula_states_it(df):
    res = mx.moe("np.log(size) ~ poly(x, 2) * g | z", df, 2, n_init=1)
    points = plots.points_frame(res)
    assert points.attrs == {
        "feature": "x",
        "response": "np.log(size)",
        "held": {"g": "a", "z": res.data["z"].median()},
    }
    assert_allclose(points["y"], df["y"])
    ax = plots.plot_fit(res)
    assert ax.get_ylabel() == "np.log(size)"


def test_rows_with_missing_values_are_left_out(results, df):
    data = df.copy()
    data.loc[3, "z"] = np.nan
    data.loc[5, "y"] = np.nan
    points = plots.points_frame(results, data=data)
    assert points.index.equals(df.index.drop([3, 5]))
    whole = plots.points_frame(results)
    assert_allclose(points["expert 1"], whole.loc[points.index, "expert 1"], rtol=ROUNDING)


def test_data_may_be_a_dict_of_columns(results, df):
    points = plots.points_frame(results, data={name: df[name].tolist() for name in df})
    assert_allclose(points["y"], df["y"])


@pytest.mark.parametrize("by_name", [True, False])
def test_offsets_of_results_shift_the_curves(df, by_name):
    data = df.assign(shift=np.where(df["z"] > 0, 3.0, 1.0), z=0.0)
    data["y"] += data["shift"]
    offset = "shift" if by_name else data["shift"].to_numpy()
    res = mx.moe("y ~ x | x", data, 2, n_init=1, offset=offset)
    frame = plots.fit_frame(res, feature="x", n_grid=4)
    mixture = frame[frame["component"] == "mixture"]
    held = data["shift"].mode()[0] if by_name else data["shift"].median()
    rows = pd.DataFrame({"x": mixture["x"], "shift": held})
    expected = res.predict(rows, offset=np.full(4, held))
    assert_allclose(mixture["mean"], expected, rtol=ROUNDING)
    points = plots.points_frame(res, feature="x")
    assert_allclose(points[["expert 1", "expert 2"]], res.posterior(), rtol=ROUNDING)


def test_offset_of_an_estimator(df):
    offset = np.linspace(0.0, 4.0, len(df))
    X, y = df[["x"]], df["y"] + offset
    est = mx.MoERegressor(2, n_init=1, random_state=0).fit(X, y, offset=offset)
    frame = plots.fit_frame(est, X, n_grid=3, offset=offset)
    mixture = frame[frame["component"] == "mixture"]
    rows = pd.DataFrame({"x": mixture["x"]})
    assert_allclose(mixture["mean"], est.predict(rows, offset=np.full(3, 2.0)), rtol=ROUNDING)
    points = plots.points_frame(est, X, y, offset=offset)
    expected = est.responsibilities(X, y, offset=offset)
    assert_allclose(points[["expert 1", "expert 2"]], expected, rtol=ROUNDING)


def test_gate_frame_sums_to_one_and_is_the_gate(results):
    frame = plots.gate_frame(results, n_grid=11)
    wide = frame.pivot(index="x", columns="expert", values="weight")
    assert_allclose(wide.sum(axis=1), 1.0, rtol=ROUNDING)
    rows = pd.DataFrame({"x": wide.index, "z": 0.0, "g": "a"})
    assert_allclose(wide, results.gate_proba(rows), rtol=ROUNDING)
    assert frame.attrs == {"feature": "x", "held": {}}


def test_gate_frame_prefers_the_gates_own_variables(df):
    res = mx.moe("y ~ x | z", df, 2, n_init=1)
    assert plots.gate_frame(res).attrs["feature"] == "z"
    assert plots.fit_frame(res, n_grid=2).attrs["feature"] == "x"


def test_gate_of_labels_has_one_point_per_level(df):
    res = mx.moe("y ~ x | g", df, 2, n_init=1)
    frame = plots.gate_frame(res)
    assert frame.attrs == {"feature": "g", "held": {}}
    assert list(frame["x"]) == ["a", "b", "a", "b"]
    rows = pd.DataFrame({"x": 0.0, "g": ["a", "b"]})
    assert_allclose(frame["weight"], res.gate_proba(rows).to_numpy().T.ravel(), rtol=ROUNDING)


def test_constant_gate_needs_no_data(constant):
    frame = plots.gate_frame(constant)
    assert frame.attrs == {"feature": None, "held": {}}
    share = constant.gate_proba(np.zeros((1, 1)))[0]
    assert_allclose(frame["weight"], np.repeat(share, 2), rtol=ROUNDING)


def test_history_and_restarts_are_those_of_the_fit(est):
    history = plots.history_frame(est)
    assert_array_equal(history["objective"], est.history_)
    assert_array_equal(history["pass"], np.arange(1, len(est.history_) + 1))
    assert history["distance"].iloc[-1] == 0.0
    assert history["distance"].is_monotonic_decreasing
    starts = plots.restarts_frame(est)
    assert starts["log_likelihood"].is_monotonic_decreasing
    assert_array_equal(starts["rank"], [1, 2])
    assert_allclose(
        starts.set_index("start")["log_likelihood"].sort_index(),
        est.restarts_["log_likelihood"],
    )


def table_with_a_degenerate_fit():
    return pd.DataFrame(
        {
            "aic": [10.0, 8.0, 1.0],
            "bic": [9.0, 11.0, 2.0],
            "status": ["converged", "max_iter", "degenerate"],
        },
        index=pd.Index([1, 2, 3], name="n_experts"),
    )


def test_selection_frame_never_prefers_degenerate_fits():
    table = table_with_a_degenerate_fit()
    frame = plots.selection_frame(table, criteria=("aic", "bic"))
    best = frame[frame["best"]].set_index("criterion")["n_experts"]
    assert best.to_dict() == {"aic": 2, "bic": 1}
    assert list(frame["degenerate"]) == [False, False, True] * 2
    bare = plots.selection_frame(table.drop(columns="status"), criteria=["aic"])
    assert not bare["degenerate"].any()
    assert bare.loc[bare["best"], "n_experts"].tolist() == [3]
    all_bad = plots.selection_frame(table.assign(status="degenerate"), criteria="aic")
    assert all_bad.loc[all_bad["best"], "n_experts"].tolist() == [3]


def test_selection_frame_agrees_with_selection(selected, df):
    selection = mx.select(
        mx.MoERegressor(n_init=2, random_state=0), df[["x", "z"]], df["y"], n_experts=[1, 2, 3]
    )
    frame = plots.selection_frame(selection)
    for name, part in frame.groupby("criterion"):
        assert part.loc[part["best"], "n_experts"].item() == selection.best_n_experts(name)
        assert_array_equal(part["value"], selection.table[name])
    assert len(plots.selection_frame(selected)) == 9


def test_posterior_frame_is_tidy(results):
    frame = plots.posterior_frame(results)
    wide = frame.pivot(index="row", columns="expert", values="responsibility")
    assert_allclose(wide, results.posterior(), rtol=ROUNDING)


# --- axes --------------------------------------------------------------------------------


def test_plot_fit_draws_data_lines_mean_and_band(results):
    ax = plots.plot_fit(results)
    curves = [c for c in ax.collections if isinstance(c, LineCollection)]
    bands = [c for c in ax.collections if isinstance(c, PolyCollection)]
    points = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert [c.get_label() for c in curves] == ["expert 1", "expert 2"]
    assert len(bands) == 1
    assert sum(len(c.get_offsets()) for c in points) == len(results.data)
    assert [line.get_label() for line in ax.lines] == ["mean"]
    frame = plots.fit_frame(results)
    assert_allclose(ax.lines[0].get_ydata(), frame.loc[frame["component"] == "mixture", "mean"])
    assert legend_texts(ax) == ["expert 1", "expert 2", "mean", "90% interval", "other levels"]
    held = f"at z = {results.data['z'].median():.4g}, g = a"
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"x\n{held}", "y")


def test_expert_lines_lie_on_the_expert_and_widen_with_its_weight(results):
    ax = plots.plot_fit(results)
    line = next(c for c in ax.collections if isinstance(c, LineCollection))
    frame = plots.fit_frame(results)
    part = frame[frame["component"] == "expert 1"]
    segments = np.array(line.get_segments())
    ends = segments.reshape(-1, 2)
    expected = np.interp(ends[:, 0], part["x"], part["mean"])
    assert_allclose(ends[:, 1], expected, atol=1e-3 * np.ptp(results.data["y"]))
    width = np.array(line.get_linewidths())
    weight = np.interp(segments[:, :, 0].mean(axis=1), part["x"], part["weight"])
    assert np.corrcoef(width, weight)[0, 1] > 0.999
    assert width.max() > 2 * width.min()


def test_points_have_blended_colours(constant):
    tone = mx.datasets.load_tonedata()
    X, y = tone[["stretchratio"]].to_numpy(), tone["tuned"]
    ax = plots.plot_fit(constant, X, y)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x0", "tuned")
    resp = constant.responsibilities(X, y)
    pure = [np.array(matplotlib.colors.to_rgb(c)) for c in ("#0072B2", "#D55E00")]
    expected = resp @ np.array(pure)
    drawn = np.concatenate([c.get_facecolors()[:, :3] for c in scatters(ax)])
    order = np.argsort(resp.argmax(axis=1), kind="stable")
    assert_allclose(drawn, expected[order], atol=1e-12)
    assert [len(c.get_offsets()) for c in scatters(ax)] == np.bincount(resp.argmax(1)).tolist()


def scatters(ax):
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def test_interval_none_draws_no_band(est, df):
    ax = plots.plot_fit(est, df[["x", "z"]], df["y"], interval=None)
    assert not [c for c in ax.collections if isinstance(c, PolyCollection)]
    assert legend_texts(ax) == ["expert 1", "expert 2", "mean"]


def test_many_rows_are_thinned(est, df):
    ax = plots.plot_fit(est, df[["x", "z"]], df["y"], max_points=50)
    assert sum(len(c.get_offsets()) for c in scatters(ax)) == 50


def test_limits_hold_data_and_band(results):
    ax = plots.plot_fit(results)
    low, high = ax.get_ylim()
    frame = plots.fit_frame(results)
    assert low < min(results.data["y"].min(), frame["lower"].min())
    assert high > max(results.data["y"].max(), frame["upper"].max())


def test_one_expert_and_many_experts(df):
    X, y = df[["x"]], df["y"]
    one = mx.MoERegressor(1, random_state=0).fit(X, y)
    assert legend_texts(plots.plot_fit(one, X, y))[0] == "expert 1"
    assert_allclose(plots.gate_frame(one, X)["weight"], 1.0)
    labels = np.argsort(np.argsort(y)) * 10 // len(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ten = mx.MoERegressor(10, gate="constant", init=labels, max_iter=3).fit(X, y)
    ax = plots.plot_fit(ten, X, y)
    assert legend_texts(ax)[:10] == [f"expert {k}" for k in range(1, 11)]
    looks = {(h.get_color(), h.get_linestyle(), h._unscaled_dash_pattern) for h in handles(ax)[:10]}
    assert len(looks) == 10


def handles(ax):
    return ax.get_legend().legend_handles


def test_plot_gate_draws_lines_and_a_rug(results):
    ax = plots.plot_gate(results)
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == ["expert 1", "expert 2"]
    assert_allclose(lines[0].get_ydata() + lines[1].get_ydata(), 1.0, rtol=ROUNDING)
    assert lines[0].get_linestyle() != "-"
    (rug,) = [line for line in ax.lines if line.get_label() == "_rug"]
    assert_array_equal(rug.get_xdata(), np.unique(results.data["x"]))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "mixing weight")


def test_plot_gate_says_the_values_of_constant_weights(constant):
    ax = plots.plot_gate(constant)
    share = constant.gate_proba(np.zeros((1, 1)))[0]
    assert legend_texts(ax) == [f"expert {k + 1}: {share[k]:.3f}" for k in (0, 1)]
    assert ax.get_xlabel() == "the same for all rows"
    tone = mx.datasets.load_tonedata()
    ax = plots.plot_gate(constant, tone[["stretchratio"]].to_numpy())
    assert ax.get_xlabel() == "x0"


def test_plot_gate_along_labels(df):
    ax = plots.plot_gate(mx.moe("y ~ x | g", df, 2, n_init=1))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "g"


def test_plot_gate_says_where_others_are_held(df):
    ax = plots.plot_gate(mx.moe("y ~ 1 | x + g", df, 2, n_init=1), at={"g": "b"})
    assert ax.get_xlabel() == "x\nat g = b"


def test_plot_history_annotates_the_end(est):
    ax = plots.plot_history(est)
    (text,) = [child.get_text() for child in ax.texts]
    shown = f"{est.log_likelihood_:.3f}".replace("-", "\N{MINUS SIGN}")
    assert text == f"final: {shown}"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("accepted pass", "log-likelihood")
    (inset,) = ax.child_axes
    assert inset.get_yscale() == "log"
    assert not plots.plot_history(est, approach=None).child_axes
    log = plots.plot_history(est, approach="log")
    assert (log.get_yscale(), log.get_ylabel()) == ("log", "distance to final log-likelihood")


def test_plot_history_of_a_penalised_fit(df):
    est = mx.MoERegressor(2, n_init=1, random_state=0, expert_penalty=mx.penalties.Ridge(1e-2))
    ax = plots.plot_history(est.fit(df[["x"]], df["y"]))
    assert ax.get_ylabel() == "penalised log-likelihood"


def test_plot_history_of_one_pass():
    warm = mx.MoERegressor(1, random_state=0).fit(np.arange(9.0)[:, None], np.arange(9.0) % 4)
    ax = plots.plot_history(warm)
    ax.figure.canvas.draw()
    warm.history_ = warm.history_[-1:]
    plots.plot_history(warm, approach="log").figure.canvas.draw()


def test_history_inset_goes_where_the_curve_is_not(est):
    late = copy.copy(est)
    late.history_ = np.array([0.0] * 8 + [1.0, 10.0])
    box = plots.plot_history(late).child_axes[0].get_position()
    other = plots.plot_history(est).child_axes[0].get_position()
    assert box.x1 < other.x1
    assert box.y0 > other.y0


def test_plot_restarts_draws_every_start(results):
    ax = plots.plot_restarts(results)
    frame = plots.restarts_frame(results)
    drawn = np.concatenate([c.get_offsets() for c in scatters(ax)])
    assert_allclose(drawn[drawn[:, 0].argsort()], frame[["rank", "log_likelihood"]])
    assert ax.lines[0].get_ydata()[0] == results.llf
    reached = int(results.restarts["reached_best"].sum())
    assert [text.get_text() for text in ax.texts] == [f"best reached by {reached} of 4"]
    assert set(legend_texts(ax)) == set(results.restarts["init"])
    assert np.ptp(ax.get_ylim()) >= 1.0


def test_plot_restarts_marks_degenerate_starts_hollow():
    co2 = mx.datasets.load_co2_gnp()
    res = mx.moe("CO2 ~ GNP", co2, 4, n_init=30)
    bad = plots.restarts_frame(res)["degenerate"]
    assert bad.any()
    assert not bad.all()
    ax = plots.plot_restarts(res)
    hollow = sum(int((c.get_facecolors()[:, 3] == 0.0).sum()) for c in scatters(ax))
    assert hollow == bad.sum()
    assert legend_texts(ax)[-1] == "degenerate"


def test_plot_selection_marks_the_minima(selected):
    ax = plots.plot_selection(selected)
    best = [selected.selection[name].idxmin() for name in ("aic", "bic", "icl")]
    names = ("AIC", "BIC", "ICL")
    assert legend_texts(ax) == [
        f"{name} (min. at {k})" for name, k in zip(names, best, strict=True)
    ]
    assert len(ax.lines) == 3
    assert ax.get_xticks().tolist() == [1, 2, 3]
    assert ax.get_xlabel() == "number of experts"


def test_plot_selection_of_a_table_with_a_degenerate_fit():
    ax = plots.plot_selection(table_with_a_degenerate_fit(), criteria=("aic", "bic"))
    assert legend_texts(ax) == ["AIC (min. at 2)", "BIC (min. at 1)", "degenerate"]


def test_plot_posterior_counts_rows(results):
    ax = plots.plot_posterior(results, n_bins=10)
    resp = results.posterior().to_numpy()
    counts = [np.histogram(r[r >= 1e-4], bins=np.linspace(0, 1, 11))[0] for r in resp.T]
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(2, 10)
    assert_allclose(heights**2 / 0.85**2 * np.max(counts), counts, atol=1e-9)
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == [f"expert {k + 1}\n{resp[:, k].sum():.1f} rows" for k in (0, 1)]


KINDS = ("fit", "gate", "history", "restarts", "selection", "posterior")


@pytest.mark.parametrize("kind", KINDS)
def test_given_axes_are_used_and_no_figure_is_made(selected, kind):
    figure, ax = plt.subplots()
    assert getattr(plots, f"plot_{kind}")(selected, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("kind", KINDS)
def test_new_figures_have_column_width_and_can_be_saved(selected, kind, tmp_path):
    ax = getattr(plots, f"plot_{kind}")(selected)
    assert len(plt.get_fignums()) == 1
    assert ax.figure.get_figwidth() == 3.4
    for suffix in ("png", "pdf", "svg"):
        ax.figure.savefig(tmp_path / f"figure.{suffix}")
    renderer = ax.figure.canvas.get_renderer()
    box = ax.get_tightbbox(renderer)
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= ax.figure.bbox.x1 + 1
    assert box.y1 <= ax.figure.bbox.y1 + 1


def test_no_figure_stays_open_when_drawing_fails(selected, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no legend")

    monkeypatch.setattr("mixexperts.plots.fit.legend_above", fail)
    with pytest.raises(RuntimeError, match="no legend"):
        plots.plot_fit(selected)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_results_draw_themselves(selected, kind):
    assert isinstance(selected.plot(kind), matplotlib.axes.Axes)


def test_names_with_dollars_are_shown_as_they_are():
    data = two_lines().rename(columns={"x": "a$b$"})
    est = mx.MoERegressor(2, n_init=1, random_state=0).fit(data[["a$b$"]], data["y"])
    ax = plots.plot_fit(est, data[["a$b$"]], data["y"])
    assert ax.get_xlabel() == r"a\$b\$"
    ax.figure.canvas.draw()


# --- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature": "w"}, r"feature='w' is not a variable of the model; available: 'x', 'z', 'g'"),
        ({"feature": "y"}, "feature='y' is not a variable"),
        ({"feature": "g"}, r"feature='g' is not numeric; numeric ones: 'x', 'z'"),
        ({"at": {"w": 1}}, r"at names 'w', which is not among the other variables: 'z', 'g'"),
        ({"at": {"x": 1}}, "at names 'x'"),
        ({"at": {"g": "c"}}, r"at\['g'\]='c' is not a level; levels: "),
        ({"interval": 1.5}, "interval must lie between 0 and 1 or be None, got 1.5"),
        ({"n_grid": 1}, "n_grid must be an integer of at least 2, got 1"),
        ({"X": np.zeros((3, 2))}, "X and y go with an estimator; results take data="),
    ],
)
def test_errors_of_results(results, options, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_fit(results, **options)
    assert plt.get_fignums() == []


def test_errors_of_estimators(est, df):
    X, y = df[["x", "z"]], df["y"]
    with pytest.raises(ValueError, match="X and y missing: an estimator keeps no data; pass the X"):
        plots.plot_fit(est)
    with pytest.raises(ValueError, match="X and y missing"):
        plots.plot_fit(est, X)
    with pytest.raises(ValueError, match="X missing: an estimator keeps no data"):
        plots.plot_gate(est)
    with pytest.raises(ValueError, match="X lacks the columns 'z' of the fit"):
        plots.plot_fit(est, df[["x"]], y)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 2\) as in the fit, got"):
        plots.plot_fit(est, np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(ValueError, match="y must hold 240 numbers, one per row, got shape"):
        plots.plot_fit(est, X, y[:5])
    with pytest.raises(ValueError, match="data= goes with results of a formula"):
        plots.plot_fit(est, X, y, data=df)
    with pytest.raises(ValueError, match="feature=7 is not a position among 2 columns"):
        plots.plot_fit(est, X, y, feature=7)
    with pytest.raises(ValueError, match="feature='x' has the same value 1 in all rows"):
        plots.plot_fit(est, X.assign(x=1.0), y)
    with pytest.raises(NotFittedError):
        plots.plot_history(mx.MoERegressor())
    with pytest.raises(TypeError, match="model must be a fitted MoERegressor or MoEResults, got"):
        plots.plot_fit("model")


def test_arrays_and_frames_may_be_exchanged(est, constant, df):
    by_array = plots.fit_frame(est, df[["x", "z"]].to_numpy(), n_grid=3)
    pd.testing.assert_frame_equal(by_array, plots.fit_frame(est, df, n_grid=3))
    named = pd.DataFrame({"stretch": [1.4, 2.9]})
    assert plots.fit_frame(constant, named.to_numpy(), n_grid=3).attrs["feature"] == "x0"


def test_unused_features_are_no_features(df):
    est = mx.MoERegressor(2, expert_features=["x"], gate="constant", n_init=1, random_state=0)
    est.fit(df[["z", "x"]], df["y"])
    assert plots.fit_frame(est, df, n_grid=2).attrs == {
        "feature": "x",
        "response": "y",
        "held": {},
        "interval": 0.9,
    }
    with pytest.raises(ValueError, match="feature='z' is not a variable of the model"):
        plots.fit_frame(est, df, feature="z")


def test_numbers_taken_as_factors_have_no_curve(df):
    res = mx.moe("y ~ C(k) + z", df.assign(k=np.arange(len(df)) % 3), 2, n_init=1)
    with pytest.raises(ValueError, match="the formula takes feature='k' as a factor"):
        plots.plot_fit(res)
    assert plots.plot_fit(res, feature="z").get_xlabel().startswith("z\nat k = ")


def test_a_model_of_labels_alone_has_no_curve(df):
    res = mx.moe("y ~ g + two", df, 2, n_init=1)
    with pytest.raises(ValueError, match="the model depends on no numeric variable"):
        plots.plot_fit(res)
    assert plots.gate_frame(res).attrs["feature"] is None


def test_loaded_results_need_data(results, df, tmp_path):
    results.save(tmp_path / "model.moe")
    loaded = mx.load(tmp_path / "model.moe")
    for kind in ("fit", "gate", "posterior"):
        with pytest.raises(ValueError, match="data is missing: a loaded model holds no data"):
            getattr(plots, f"plot_{kind}")(loaded)
        getattr(plots, f"plot_{kind}")(loaded, data=df)
    pd.testing.assert_frame_equal(plots.fit_frame(loaded, data=df), plots.fit_frame(results))


def test_data_without_a_complete_row(results, df):
    with pytest.raises(ValueError, match="no complete row of 240"):
        plots.plot_fit(results, data=df.assign(z=np.nan))


def test_errors_of_records(results, est):
    with pytest.raises(ValueError, match="these results are of one number of experts; fit several"):
        plots.plot_selection(results)
    with pytest.raises(TypeError, match="selection must be a Selection, MoEResults or a DataFrame"):
        plots.plot_selection(est)
    with pytest.raises(ValueError, match="criterion 'icl' is not in the table; its columns: 'aic'"):
        plots.plot_selection(table_with_a_degenerate_fit())
    with pytest.raises(ValueError, match="criteria is empty"):
        plots.plot_selection(table_with_a_degenerate_fit(), criteria=())
    with pytest.raises(ValueError, match="approach='slow' is not known"):
        plots.plot_history(est, approach="slow")
