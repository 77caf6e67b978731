"""The classifier as a citizen of scikit-learn, and as its own documentation describes it."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mixexperts as mx
from mixexperts import gates
from mixexperts.errors import SeparationWarning
from mixexperts.experts import Binomial, Gaussian, Multinomial, Ordinal
from mixexperts.penalties import Ridge
from mixexperts.sources import ArraySource, Block, Source

# So few rows of three classes are often parted by an expert; one test looks at what is said then.
pytestmark = pytest.mark.filterwarnings("ignore::mixexperts.errors.SeparationWarning")

NAMES = np.array(["ant", "bee", "cow"])
# Three classes, two experts with opposite slopes; neither separates its rows.
COEF = np.array([[[2.0, 0.5], [0.0, 1.5], [0, 0]], [[-2.0, 0.5], [0.5, -1.0], [0, 0]]])
INTERCEPT = np.array([[0.5, 0.0, 0.0], [-0.5, 0.5, 0.0]])


def draw(n=300, seed=0):
    X, y, _ = mx.datasets.make_moe_classification(
        n,
        coef=COEF,
        intercept=INTERCEPT,
        gate_coef=[[0.5, 3.0], [0.0, 0.0]],
        random_state=seed,
    )
    return X, NAMES[y]


@pytest.fixture
def data():
    return draw()


def classifier(**options):
    return mx.MoEClassifier(**{"n_init": 3, "random_state": 0, **options})


# --- scikit-learn's own checks ------------------------------------------------------------------

SETTINGS = {
    "default": {},
    "constant gate": {"gate": "constant"},
    "three experts, ridge": {"n_experts": 3, "expert_penalty": Ridge(0.01)},
    "one expert": {"n_experts": 1},
    "in chunks": {"chunk_rows": 40, "n_experts": 1},
    "gaussian gate": {
        "gate": gates.Gaussian(covariance="diag"),
        "expert": Multinomial(degree=0),
        "n_experts": 3,
    },
    # Without the gate's penalty 15 rows part the experts, and rounding says where the fit stands.
    "ordinal, ridge": {
        "expert": "ordinal",
        "expert_penalty": Ridge(0.01),
        "gate_penalty": Ridge(0.01),
        "n_init": 1,
    },
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_check_estimator(options):
    with warnings.catch_warnings():
        # Its data are separated, collinear and tiny on purpose; our warnings say so.
        for category in (
            mx.errors.DegenerateFitWarning,
            mx.errors.RankDeficientWarning,
            mx.errors.SeparationWarning,
            ConvergenceWarning,
        ):
            warnings.simplefilter("ignore", category)
        # Skipped: checks that need optional packages or environment variables.
        results = check_estimator(
            mx.MoEClassifier(**{"n_init": 2, **options}), on_skip=None, on_fail="raise"
        )
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert sum(r["status"] == "passed" for r in results) > 40


# --- what is predicted ---------------------------------------------------------------------------


@pytest.mark.parametrize("expert", ["multinomial", "ordinal"])
def test_probabilities_are_the_mixture_of_the_experts(data, expert):
    X, y = data
    est = classifier(expert=expert).fit(X, y)
    gate, own = est.gate_proba(X), est.predict_experts(X)
    assert own.shape == (300, 2, 3)
    proba = np.einsum("nk,nkc->nc", gate, own)
    assert_allclose(est.predict_proba(X), proba, rtol=1e-12)
    assert_allclose(np.exp(est.predict_log_proba(X)), proba, rtol=1e-12)
    assert_allclose(proba.sum(axis=1), 1.0)
    assert_array_equal(est.predict(X), NAMES[proba.argmax(axis=1)])
    code = np.searchsorted(NAMES, y)
    log_prob = np.log(proba[np.arange(300), code])
    assert_allclose(est.score_samples(X, y), log_prob, rtol=1e-10)
    assert log_prob.sum() == pytest.approx(est.log_likelihood_, abs=1e-8)
    assert -log_loss(y, proba) * 300 == pytest.approx(est.log_likelihood_, abs=1e-8)
    resp = gate * own[np.arange(300), :, code]
    assert_allclose(est.responsibilities(X, y), resp / resp.sum(axis=1, keepdims=True), rtol=1e-10)
    assert est.score(X, y) == np.mean(est.predict(X) == y)


def test_coefficients_are_log_odds_against_the_last_class(data):
    X, y = data
    est = classifier().fit(X, y)
    assert est.coef_.shape == (2, 3, 2)
    assert est.intercept_.shape == (2, 3)
    logits = np.einsum("np,kcp->nkc", X, est.coef_) + est.intercept_
    assert_allclose(est.predict_experts(X), softmax(logits, axis=2), rtol=1e-9)
    assert est.n_parameters_ == 2 * 2 * 3 + 3
    assert est.expert_terms_ == ("x0", "x1")


def test_two_classes_by_three_families(data):
    """One likelihood, three parametrisations; the second class is the success."""
    X, y = data
    start = (X[:, 1] > 0.0).astype(int)
    fits = [
        classifier(expert=e, init=start, tol=1e-11).fit(X, y == "ant")
        for e in ("binomial", "multinomial")
    ]
    ordinal = classifier(expert="ordinal", init=start, tol=1e-11).fit(X, y == "ant")
    for est in (*fits, ordinal):
        assert est.classes_.tolist() == [False, True]
        assert est.log_likelihood_ == pytest.approx(fits[0].log_likelihood_, abs=1e-6)
        assert_allclose(est.predict_proba(X), fits[0].predict_proba(X), atol=1e-4)
    assert_allclose(fits[1].coef_[:, 0], -fits[0].coef_, atol=1e-3)
    assert_allclose(ordinal.coef_, fits[0].coef_, atol=1e-3)


def test_log_probabilities_are_accurate_where_they_are_tiny():
    X = np.linspace(-1.0, 1.0, 60)[:, None]
    y = (X[:, 0] + 0.5 * np.sin(40.0 * X[:, 0]) > 0.0).astype(int)
    est = classifier(n_experts=1, expert_penalty=Ridge(1e-3)).fit(X, y)
    far = np.array([[-100.0], [100.0]])
    log_proba = est.predict_log_proba(far)
    logit = -(far[:, 0] * est.coef_[0, 0, 0] + est.intercept_[0, 0])
    assert_allclose(log_proba[:, 1], -np.logaddexp(0.0, -logit), rtol=1e-9, atol=1e-15)
    assert log_proba[0, 1] < -100.0


def test_samples_are_labels_in_their_shares(data):
    X, y = data
    est = classifier().fit(X, y)
    drawn = est.sample(np.tile(X[:1], (20_000, 1)), random_state=0)
    assert set(drawn) <= set(NAMES)
    share = (drawn[:, None] == NAMES).mean(axis=0)
    # standard errors below 0.0036: none beyond 4.5 of them
    assert np.abs(share - est.predict_proba(X[:1])[0]).max() < 4.5 * 0.0036
    with pytest.raises(ValueError, match="trials are for counts"):
        est.sample(X, trials=3)


def test_experts_are_ordered_by_the_mean_code(data):
    X, y = data
    est = classifier(n_experts=3, expert_penalty=Ridge(0.01)).fit(X, y)
    resp = est.responsibilities(X, y)
    level = resp * (est.predict_experts(X) @ np.arange(3.0))
    assert (np.diff(level.sum(axis=0) / resp.sum(axis=0)) > 0.0).all()


def test_criteria_are_their_formulas(data):
    X, y = data
    est = classifier().fit(X, y)
    llf, k = est.score_samples(X, y).sum(), est.n_parameters_
    assert est.aic(X, y) == pytest.approx(-2 * llf + 2 * k)
    assert est.bic(X, y) == pytest.approx(-2 * llf + k * np.log(300))
    assert est.icl(X, y) >= est.bic(X, y)


# --- labels --------------------------------------------------------------------------------------


def test_any_labels_give_the_same_fit(data):
    X, y = data
    code = np.searchsorted(NAMES, y)
    kinds = {
        "objects": y.astype(object),
        "integers": code * 10 - 5,
        "floats": code.astype(float),
        "series": pd.Series(y, index=np.arange(300) * 2),
        "categorical": pd.Categorical(y),
        "list": y.tolist(),
    }
    base = classifier(n_init=1, max_iter=50, tol=1e-3).fit(X, y)
    for name, labels in kinds.items():
        est = classifier(n_init=1, max_iter=50, tol=1e-3).fit(X, labels)
        assert est.log_likelihood_ == base.log_likelihood_, name
        assert_array_equal(np.argsort(est.classes_), np.arange(3))
        assert est.score(X, labels) == base.score(X, y)
        assert est.predict(X).dtype == est.classes_.dtype


def test_an_ordered_categorical_gives_the_order(data):
    X, y = data
    order = ["cow", "ant", "bee"]
    labels = pd.Series(pd.Categorical(y, categories=[*order, "dog"], ordered=True))
    est = classifier(expert="ordinal").fit(X, labels)
    assert est.classes_.tolist() == order  # without the class that does not occur
    turned = np.array([order.index(label) for label in y])
    again = classifier(expert="ordinal").fit(X, turned)
    assert est.log_likelihood_ == again.log_likelihood_
    assert est.score(X, labels) == est.score(X, y) == again.score(X, turned)


def test_weights_are_repeated_rows_and_zero_is_absence(data):
    X, y = data
    weight = np.arange(300) % 3
    rows = np.repeat(np.arange(300), weight)
    weighted = classifier(tol=1e-11).fit(X, y, weight)
    repeated = classifier(tol=1e-11).fit(X[rows], y[rows])
    assert weighted.log_likelihood_ == pytest.approx(repeated.log_likelihood_, abs=1e-7)
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-5)
    lone = y.copy()
    lone[0] = "dog"  # a class that only a row of weight zero has
    est = classifier().fit(X, lone, np.where(np.arange(300) == 0, 0.0, 1.0))
    assert est.classes_.tolist() == NAMES.tolist()


def test_classes_of_equal_weight(data):
    """Balanced weights: the mean probabilities of the classes are equal over the weighted rows."""
    from sklearn.utils.class_weight import compute_sample_weight

    X, y = data
    weight = compute_sample_weight("balanced", y)
    est = classifier(n_experts=1).fit(X, y, weight)
    mean = np.average(est.predict_proba(X), axis=0, weights=weight)
    assert_allclose(mean, 1.0 / 3.0, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * 20, r"one class only, a \(n_samples = 20\)"),
        ([1.5, 2.5] * 10, "Unknown label type"),
        (["a", None] * 10, "missing label in row 1"),
        ([0.0, np.nan] * 10, "NaN or another missing label in row 1"),
        ([0.0, np.inf] * 10, "infinity in row 1"),
    ],
)
def test_labels_that_cannot_be_used(y, message):
    with pytest.raises(ValueError, match=message):
        classifier().fit(np.arange(20.0)[:, None], y)


def test_a_class_that_the_fit_never_saw_is_named(data):
    X, y = data
    est = classifier().fit(X, y)
    unseen = np.where(np.arange(300) == 7, "dog", y)
    for method in ("score", "score_samples", "responsibilities", "bic"):
        with pytest.raises(ValueError, match=r"class dog in row 7.*ant, bee, cow"):
            getattr(est, method)(X, unseen)
    with pytest.raises(ValueError, match=r"another kind|class 1 in row 0"):
        est.score(X, np.ones(300, dtype=int))


def test_families_that_do_not_fit_the_classes(data):
    X, y = data
    with pytest.raises(ValueError, match="takes two classes, but y holds 3: ant, bee, cow"):
        classifier(expert="binomial").fit(X, y)
    with pytest.raises(TypeError, match="'gaussian' is no family of classes"):
        classifier(expert=Gaussian()).fit(X, y)
    with pytest.raises(ValueError, match="n_classes=4, but y holds 3"):
        classifier(expert=Multinomial(n_classes=4)).fit(X, y)
    assert classifier(expert=Binomial()).fit(X, y == "ant").classes_.tolist() == [False, True]
    with pytest.raises(NotFittedError):
        classifier().predict(X)


def test_regression_on_labels_says_what_takes_them(data):
    X, y = data
    with pytest.raises(ValueError, match=r"'bee'|'ant'|'cow'.*MoEClassifier"):
        mx.MoERegressor().fit(X, y)
    for expert in ("multinomial", Ordinal()):
        with pytest.raises(TypeError, match="use MoEClassifier"):
            mx.MoERegressor(expert=expert).fit(X, np.searchsorted(NAMES, y))


# --- starts, sources, tools ----------------------------------------------------------------------


def test_every_way_to_say_where_to_start(data):
    X, y = data
    base = classifier().fit(X, y)
    names = ("coef", "intercept", "gate_coef", "gate_intercept")
    ways = {
        "model": base,
        "parameters": {name: getattr(base, f"{name}_") for name in names},
        "responsibilities": base.responsibilities(X, y),
    }
    for name, init in ways.items():
        est = classifier(init=init).fit(X, y)
        assert est.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-6), name
    with pytest.raises(ValueError, match=r"init\['coef'\] must be a finite array of shape"):
        classifier(init={**ways["parameters"], "coef": base.coef_[:, :2]}).fit(X, y)
    with pytest.raises(ValueError, match="start from a model of the same response"):
        classifier(init=base).fit(X, y == "ant")
    base.set_params(warm_start=True).fit(X, y)
    assert base.restarts_["init"].tolist() == ["model"]


class Numbers(Source):
    """Rows with codes 1, 2, 3 as classes."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def blocks(self, rows):
        for i in range(0, len(self.y), 70):
            yield Block(self.X[i : i + 70], self.y[i : i + 70])


def test_rows_from_a_source(data):
    X, y = data
    code = np.searchsorted(NAMES, y) + 1.0
    base = classifier().fit(X, code)
    for source in (Numbers(X, code), ArraySource(X, code)):
        est = classifier().fit(source)
        assert est.classes_.tolist() == [1.0, 2.0, 3.0]
        assert est.log_likelihood_ == pytest.approx(base.log_likelihood_, abs=1e-6)
    with pytest.raises(ValueError, match="one class only"):
        classifier().fit(Numbers(X, np.ones(300)))


@pytest.mark.parametrize("labels", ["text", "integers", "truth values"])
def test_saved_and_loaded(data, labels, tmp_path):
    X, y = data
    y = {"text": y, "integers": np.searchsorted(NAMES, y), "truth values": y == "ant"}[labels]
    est = classifier(expert_penalty=Ridge(0.01)).fit(X, y)
    est.save(tmp_path / "model.mxp")
    for again in (mx.load(tmp_path / "model.mxp"), pickle.loads(pickle.dumps(est))):
        assert again.classes_.dtype == est.classes_.dtype
        assert_array_equal(again.predict(X), est.predict(X))
        assert_array_equal(again.predict_proba(X), est.predict_proba(X))
        assert again.score(X, y) == est.score(X, y)


def test_pipelines_searches_and_offsets(data):
    X, y = data
    pipe = make_pipeline(StandardScaler(), classifier(n_init=1, expert_penalty=Ridge(0.01)))
    search = GridSearchCV(pipe, {"moeclassifier__n_experts": [1, 2]}, scoring="neg_log_loss", cv=3)
    assert search.fit(X, y).best_params_ == {"moeclassifier__n_experts": 2}
    assert clone(pipe[-1]).get_params() == pipe[-1].get_params()
    proba = cross_val_predict(pipe, X, y, cv=3, method="predict_proba")
    assert proba.shape == (300, 3)
    offset = 0.3 * X[:, 0]
    est = classifier(n_experts=1, tol=1e-12).fit(X, y, offset=offset)
    plain = classifier(n_experts=1, tol=1e-12).fit(X, y)
    with pytest.raises(ValueError, match="offset is missing"):
        est.predict(X)
    assert_allclose(est.coef_[0, :2, 0] + 0.3, plain.coef_[0, :2, 0], atol=1e-5)
    assert est.score(X, y, offset=offset) == plain.score(X, y)


def test_separated_experts_are_named():
    X = np.linspace(-1.0, 1.0, 50)[:, None]
    y = np.array(["low", "high"])[(X[:, 0] > 0.1).astype(int)]
    with pytest.warns(SeparationWarning, match="expert 1 .*lack a class, or the features part"):
        est = classifier(n_experts=1).fit(X, y)
    assert est.separated_experts_.all()
    assert est.score(X, y) == 1.0
    held = classifier(n_experts=1, expert_penalty=Ridge(0.01)).fit(X, y)
    assert not held.separated_experts_.any()


# --- formulas ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    X, y = draw()
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(kind=y)
    frame.loc[4, "u"] = np.nan
    frame.loc[9, "kind"] = None
    return frame


def test_formula_with_labels(table, tmp_path):
    res = mx.moe("kind ~ u + v | v", data=table, family="multinomial", n_init=3)
    kept = table.dropna()
    est = classifier(expert_features=["u", "v"], gate_features=["v"]).fit(
        kept[["u", "v"]], kept["kind"]
    )
    assert res.llf == pytest.approx(est.log_likelihood_, abs=1e-6)
    assert res.n_dropped == 2
    assert list(res.expert_table.index) == [
        "Intercept [ant]", "u [ant]", "v [ant]", "Intercept [bee]", "u [bee]", "v [bee]",
    ]  # fmt: skip
    assert_allclose(res.expert_table.loc["v [bee]"], est.coef_[:, 1, 1], atol=1e-4)
    assert len(res.params) == res.df_model
    text = str(res.summary())
    assert "classification" in text
    assert "log odds against the class cow" in text
    proba = res.predict_proba(table)
    assert list(proba.columns) == NAMES.tolist()
    assert proba.isna().any(axis=1).sum() == 1
    label = res.predict(table)
    assert pd.isna(label[4])
    assert (label.drop(4) == proba.drop(4).idxmax(axis=1)).all()
    assert_allclose(res.predict_experts(kept).to_numpy().reshape(-1, 2, 3).sum(axis=2), 1.0)
    assert res.posterior(table).notna().all(axis=1).sum() == len(kept)
    res.save(tmp_path / "model.mxp")
    again = mx.load(tmp_path / "model.mxp")
    assert again.predict_proba(table).equals(proba)
    assert again.posterior(kept).equals(res.posterior(kept))
    with pytest.raises(ValueError, match="class dog in row 0"):
        res.posterior(kept.assign(kind="dog"))


def test_formula_with_ordered_labels(table):
    order = ["cow", "bee", "ant"]
    frame = table.assign(kind=pd.Categorical(table["kind"], categories=order, ordered=True))
    res = mx.moe("kind ~ u + v", data=frame, family="ordinal", n_experts=1)
    assert list(res.expert_table.index) == ["u", "v", "cow | bee", "bee | ant"]
    assert res.classes.tolist() == order
    with pytest.raises(ValueError, match="no intercept to be left out"):
        mx.moe("kind ~ u - 1", data=frame, family="ordinal", n_experts=1)
    truth = mx.moe("I(u > 0) ~ v", data=frame, family="multinomial", n_experts=1)
    assert truth.classes.tolist() == [0.0, 1.0]


def test_formula_with_labels_and_numbers_for_experts(table):
    with pytest.raises(ValueError, match="family='multinomial' or 'ordinal'"):
        mx.moe("kind ~ u", data=table)


def test_command_line(table, tmp_path):
    from mixexperts.cli import main

    table.to_csv(tmp_path / "data.csv", index=False)
    out = tmp_path / "out"
    fit = ["fit", str(tmp_path / "data.csv"), "--formula", "kind ~ u + v | v", "--family"]
    assert main([*fit, "multinomial", "--starts", "1", "--quiet", "--output", str(out)]) == 0
    assert (out / "calibration.png").exists()
    new = tmp_path / "new.csv"
    predict = ["predict", str(out / "model.mxp"), str(tmp_path / "data.csv"), "--output", str(new)]
    assert main(predict) == 0
    predicted = pd.read_csv(new)
    assert {"predicted", "proba_ant", "proba_bee", "proba_cow"} <= set(predicted.columns)


# --- figures -------------------------------------------------------------------------------------


def test_calibration_is_that_of_the_bins(data):
    X, y = data
    est = classifier().fit(X, y)
    frame = mx.plots.calibration_frame(est, X, y, n_bins=5)
    proba = est.predict_proba(X)
    assert frame.groupby("class")["n"].sum().eq(300).all()
    for c, name in enumerate(NAMES):
        part = frame[frame["class"] == name]
        assert part["n"] @ part["predicted"] == pytest.approx(proba[:, c].sum())
        assert part["n"] @ part["observed"] == pytest.approx((y == name).sum())
        assert ((part["lower"] <= part["observed"]) & (part["observed"] <= part["upper"])).all()
        gap = part["n"] @ (part["observed"] - part["predicted"]).abs() / 300
        assert frame.attrs["ece"][name] == pytest.approx(gap)
    from statsmodels.stats.proportion import proportion_confint

    row = frame.iloc[2]
    known = proportion_confint(row["observed"] * row["n"], row["n"], method="wilson")
    assert_allclose((row["lower"], row["upper"]), known, rtol=1e-9)
    assert mx.plots.calibration_frame(est, X, y, n_bins=1)["n"].tolist() == [300] * 3


def test_regions_are_the_predictions_on_a_grid(data):
    import matplotlib.pyplot as plt

    X, y = data
    X = np.column_stack([X, np.full(300, 1.0) + 0.1 * np.sin(np.arange(300))])
    est = classifier(expert_penalty=Ridge(0.01), gate_penalty=Ridge(0.01)).fit(X, y)
    frame = mx.plots.decision_regions_frame(est, X, features=(1, 0), at={"x2": 0.9}, n_grid=20)
    grid = np.column_stack([frame["y"], frame["x"], np.full(400, 0.9)])
    assert_array_equal(frame["predicted"], est.predict(grid))
    assert_allclose(frame["probability"], est.predict_proba(grid).max(axis=1))
    assert_array_equal(frame["expert"], est.gate_proba(grid).argmax(axis=1) + 1)
    for draw_it in (mx.plots.plot_decision_regions, mx.plots.plot_calibration):
        plt.close(draw_it(est, X, y).figure)
    plt.close(mx.plots.plot_posterior(est, X, y).figure)
    for wrong, message in (((0, 0), "twice"), ((0,), "pair"), (("x0", "x9"), "x9")):
        with pytest.raises(ValueError, match=message):
            mx.plots.decision_regions_frame(est, X, features=wrong)
    with pytest.raises(TypeError, match="must be a fitted MoEClassifier"):
        mx.plots.calibration_frame(mx.MoERegressor(1).fit(X, np.arange(300.0)), X, y)


def test_figures_of_results(table):
    import matplotlib.pyplot as plt

    res = mx.moe("kind ~ u + v | v", data=table, family="multinomial", n_init=2)
    for kind in ("calibration", "decision_regions", "gate", "history", "restarts", "posterior"):
        plt.close(res.plot(kind).figure)
    with pytest.raises(ValueError, match="kind='fit' is not known for classes"):
        res.plot("fit")


# --- rows that belong together, and rows that come in blocks ------------------------------------


def test_groups_share_an_expert(data):
    X, y = data
    groups = np.arange(300) // 3
    Z = np.repeat(X[::3, 1], 3)
    X = np.column_stack([X[:, 0], Z])
    est = classifier(gate_features=[1], expert_penalty=Ridge(0.01)).fit(X, y, groups=groups)
    resp = est.responsibilities(X, y, groups=groups)
    assert_allclose(resp.reshape(100, 3, 2), np.repeat(resp[::3, None], 3, axis=1), rtol=1e-12)
    own = est.predict_experts(X)[np.arange(300), :, np.searchsorted(NAMES, y)]
    joint = est.gate_proba(X)[::3] * own.reshape(100, 3, 2).prod(axis=1)
    assert_allclose(est.score_samples(X, y, groups=groups), np.log(joint.sum(axis=1)), rtol=1e-9)


def test_blocks_of_rows_one_after_the_other():
    X, y = draw(4000, seed=1)
    est = classifier(n_init=4)
    with pytest.raises(ValueError, match=r"class dog in row 0"):
        est.partial_fit(X[:500], y[:500]).partial_fit(X[:50], np.full(50, "dog"))
    est = classifier(n_init=4)
    for i in range(0, 4000, 500):
        est.partial_fit(X[i : i + 500], y[i : i + 500], classes=[*NAMES, "dog"])
    assert est.classes_.tolist() == [*NAMES, "dog"]
    whole = classifier(n_init=4).fit(X, y)
    test_X, test_y = draw(4000, seed=2)
    # the last blocks leave noise of a block's size: some hundredths of a nat
    gap = whole.score_samples(test_X, test_y).mean() - est.score_samples(test_X, test_y).mean()
    assert -0.01 < gap < 0.03
    assert est.predict_proba(test_X)[:, 3].max() < 0.01


def test_a_dense_gate_is_cut_when_predicting():
    X, code, _ = mx.datasets.make_moe_classification(
        400,
        coef=[[[1.5, 0.0], [0.0, 1.5], [0.0, 0.0]], [[-1.5, 0.5], [0.5, -1.5], [0.0, 0.0]]],
        intercept=np.zeros((2, 3)),
        gate_coef=[[2.0, 1.0], [0.0, 0.0]],
        random_state=0,
    )
    ridge = mx.penalties.Ridge(0.01)
    est = mx.MoEClassifier(
        2, n_init=2, random_state=0, backend="numpy", gate_penalty=ridge, expert_penalty=ridge
    ).fit(X, code)
    dense = est.predict_proba(X)
    np.testing.assert_array_equal(est.predict_proba(X, top_k=2), dense)
    np.testing.assert_array_equal(est.predict_proba(X, top_p=1.0), dense)
    first = est.gate_proba(X).argmax(axis=1)
    alone = est.predict_experts(X)[np.arange(len(X)), first]
    np.testing.assert_allclose(est.predict_proba(X, top_k=1), alone, rtol=1e-12)
    np.testing.assert_array_equal(est.predict(X, top_k=1), est.classes_[alone.argmax(axis=1)])
    with pytest.raises(ValueError, match="top_k"):
        est.predict(X, top_k=3)


def test_classes_that_change_between_blocks_are_refused():
    X, code, _ = mx.datasets.make_moe_classification(200, n_features=2, random_state=0)
    est = mx.MoEClassifier(1, random_state=0, backend="numpy").partial_fit(X, code, classes=[0, 1])
    with pytest.raises(ValueError, match=r"classes=\[5, 6\]"):
        est.partial_fit(X, code, classes=[5, 6])
