"""Every gate behind the estimator: parameters and back, tables, files, sparse predictions, odds."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

import mixexperts as mx
from mixexperts.errors import (
    DegenerateFitWarning,
    RankDeficientWarning,
    SeparationWarning,
    UnsupportedCombinationError,
)
from mixexperts.estimators._sparse import sparse_weights
from mixexperts.experts import Gaussian
from mixexperts.gates import Cosine, DSelectK, Sigmoid, Softmax, TopK, Tree
from mixexperts.gates import Gaussian as GaussianGate

GATES = {
    "softmax": Softmax(),
    "constant": "constant",
    "gaussian": GaussianGate("diag"),
    "temperature": Softmax(temperature=3.0),
    "activation": Softmax(activation="softplus"),
    "estimated temperature": Softmax(activation="tanh", temperature="estimate"),
    "transform": Softmax(transform="tanh"),
    "columns": Softmax(features=[["dose"], ["age", "dose"]]),
    "sigmoid": Sigmoid(),
    "cosine": Cosine(),
    "top_k": TopK(),
    "dselect_k": DSelectK(),
    "tree": Tree(),
    "ternary": Tree((0, 1, 2)),
}


@pytest.fixture(scope="module")
def df():
    rng = np.random.default_rng(11)
    X = rng.standard_normal((240, 2)) * [10.0, 0.5] + [40.0, -1.0]
    logits = np.column_stack([0.1 * (X[:, 0] - 40.0), 1.0 - 2.0 * X[:, 1], np.ones(240)])
    label = (logits + rng.gumbel(size=(240, 3))).argmax(axis=1)
    y = 5.0 * label + np.array([0.1, -0.1, 0.05])[label] * X[:, 0] + rng.standard_normal(240)
    return pd.DataFrame({"age": X[:, 0], "dose": X[:, 1], "y": y, "label": label})


def fitted(df, gate, n_experts=3, **options):
    options = {"n_init": 2, "random_state": 0, "backend": "numpy", "n_jobs": 1, **options}
    with warnings.catch_warnings():
        for category in (SeparationWarning, ConvergenceWarning):
            warnings.simplefilter("ignore", category)
        return mx.MoERegressor(n_experts, gate=gate, **options).fit(df[["age", "dose"]], df["y"])


@pytest.fixture(scope="module")
def fits(df):
    return {name: fitted(df, gate, init=df["label"].to_numpy()) for name, gate in GATES.items()}


def own_start(est):
    """The reported parameters of a fit, as a start."""
    raw = est.frame_.raw(est.model_, est.theta_)
    assert all(np.array_equal(getattr(est, f"{name}_"), values) for name, values in raw.items())
    return raw


@pytest.mark.parametrize("name", GATES)
def test_reported_parameters_are_the_fit(name, df, fits):
    """Started from its own parameters, a fit begins where it ended."""
    est = fits[name]
    again = fitted(df, GATES[name], init=own_start(est))
    assert again.history_[0] == pytest.approx(est.log_likelihood_, abs=1e-6)


@pytest.mark.parametrize("name", GATES)
def test_a_fit_starts_another(name, df, fits):
    est = fits[name]
    again = fitted(df, GATES[name], init=est)
    assert again.history_[0] == pytest.approx(est.log_likelihood_, abs=1e-8)
    if name not in ("constant", "softmax"):  # another gate still tells where the experts are
        assert np.isfinite(fitted(df, "softmax", init=est).log_likelihood_)
    grown = fitted(df, GATES[name], init=fitted(df, "softmax", n_experts=2), max_iter=3)
    assert len(grown.mass_) == 3


@pytest.mark.parametrize("name", GATES)
def test_a_saved_fit_comes_back(name, df, fits, tmp_path):
    est = fits[name]
    est.save(tmp_path / "fit.mxp")
    again = mx.load(tmp_path / "fit.mxp")
    X = df[["age", "dose"]]
    assert (again.predict(X) == est.predict(X)).all()
    assert again.model_ == est.model_


@pytest.mark.parametrize("name", GATES)
def test_reading_in_chunks_changes_nothing(name, df, fits):
    est = fitted(df, GATES[name], init=own_start(fits[name]), chunk_rows=37)
    assert est.log_likelihood_ == pytest.approx(fits[name].log_likelihood_, abs=1e-6)


@pytest.mark.parametrize("name", [n for n in GATES if n not in ("top_k", "dselect_k")])
def test_weight_two_is_the_row_twice(name, df):
    twice = pd.concat([df, df.iloc[::3]], ignore_index=True)
    weight = np.where(np.arange(len(df)) % 3 == 0, 2.0, 1.0)
    options = {"random_state": 0, "backend": "numpy", "tol": 1e-10, "gate": GATES[name]}
    with warnings.catch_warnings():
        for category in (SeparationWarning, ConvergenceWarning):
            warnings.simplefilter("ignore", category)
        weighted, doubled = (
            mx.MoERegressor(3, init=data["label"], **options).fit(
                data[["age", "dose"]], data["y"], sample_weight=w
            )
            for data, w in ((df, weight), (twice, None))
        )
    assert weighted.log_likelihood_ == pytest.approx(doubled.log_likelihood_, abs=1e-5)
    assert weighted.bic(df[["age", "dose"]], df["y"], sample_weight=weight) == pytest.approx(
        doubled.bic(twice[["age", "dose"]], twice["y"]), abs=1e-4
    )


COUNTS = {
    "softmax": 6, "constant": 2, "gaussian": 2 + 6 + 6, "temperature": 6, "activation": 6,
    "estimated temperature": 7, "transform": 6, "columns": 5, "sigmoid": 9, "cosine": 6,
    "top_k": 6, "dselect_k": 3 + 2 * 2 * 3, "tree": 6, "ternary": 6,
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_parameters_are_counted(name, fits):
    assert fits[name].n_parameters_ == 3 * 4 + COUNTS[name]


@pytest.mark.parametrize("name", GATES)
def test_tables_and_summary(name, df):
    """Every free parameter stands in ``params`` once; the summary can be read."""
    formula = "y ~ age + dose" if name == "constant" else "y ~ age + dose | age + dose"
    with warnings.catch_warnings():
        for category in (SeparationWarning, ConvergenceWarning):
            warnings.simplefilter("ignore", category)
        res = mx.moe(
            formula,
            data=df,
            n_experts=3,
            gate_family=GATES[name],
            init=df["label"],
            backend="numpy",
        )
    if name != "dselect_k":  # coefficients of selectors belong to no expert
        assert len(res.params) == res.df_model
        packed = res.estimator.model_.gate.pack(res.estimator.theta_.gate)
        assert len(res.params["gate"]) == len(packed)
    assert res.params.notna().all()
    text = str(res.summary())
    assert "Gate (" in text
    assert "nan" not in text
    assert text == str(res.summary())
    assert set(res.gate_table.columns) == {1, 2, 3}
    if name in ("softmax", "temperature", "columns"):
        ratios = res.odds_ratios()
        assert ratios.shape == (2, 2)
        assert_allclose(ratios, res.estimator.gate_odds_ratios_[:-1].T)
    else:
        with pytest.raises(UnsupportedCombinationError, match="has no odds ratios"):
            res.odds_ratios()


def test_odds_ratio_is_the_change_of_odds(df, fits):
    """One year more multiplies the odds against the last expert, by the gate's own weights."""
    X = df[["age", "dose"]].head(4)
    for name in ("softmax", "temperature", "columns"):
        est = fits[name]
        odds = [est.gate_proba(X.assign(age=X["age"] + years)) for years in (0.0, 1.0)]
        odds = [weights / weights[:, [-1]] for weights in odds]
        expected = np.tile(est.gate_odds_ratios_[:, 0], (4, 1))
        assert_allclose(odds[1] / odds[0], expected, rtol=1e-8)


def test_names_are_known(df):
    for name in ("sigmoid", "cosine", "top_k", "dselect_k", "tree"):
        est = fitted(df, name, max_iter=2, n_init=1)
        assert est.model_.gate.name == name
        if name != "tree":
            with pytest.raises(ValueError, match=f"gate_family='{name}' needs terms"):
                mx.moe("y ~ age", data=df, gate_family=name)
    bare = mx.moe("y ~ age", data=df, gate_family="tree", backend="numpy", n_init=2)
    assert bare.estimator.model_.gate.name == "constant"  # a tree without terms is constant
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        fitted(df, "sigmoyd")


@pytest.mark.parametrize("gate", ["tree", "sigmoid", DSelectK(2)], ids=str)
def test_check_estimator(gate):
    with warnings.catch_warnings():
        for category in (
            DegenerateFitWarning,
            RankDeficientWarning,
            SeparationWarning,
            ConvergenceWarning,
        ):
            warnings.simplefilter("ignore", category)
        est = mx.MoERegressor(gate=gate, n_init=1, expert=Gaussian(degree=0), max_iter=50)
        results = check_estimator(est, on_skip=None, on_fail="raise")
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize("bad", [
    ({"gate_role": np.array([0.0, 0.0, -1.0])}, "gate_role"),
    ({"gate_coef": np.ones((3, 2))}, "must be zero for the reference"),
    ({"gate_temperature": np.array(0.0)}, "gate_temperature"),
])  # fmt: skip
def test_wrong_starts_of_an_anchored_gate_are_refused(df, fits, bad):
    change, match = bad
    start = own_start(fits["estimated temperature"]) | change
    with pytest.raises(ValueError, match=match):
        fitted(df, GATES["estimated temperature"], init=start)


def test_wrong_starts_of_trees_and_selectors_are_refused(df, fits):
    start = own_start(fits["tree"])
    with pytest.raises(ValueError, match=r"gate_leaf.*must hold each of"):
        fitted(df, "tree", init=start | {"gate_leaf": np.zeros(3)})
    with pytest.raises(ValueError, match="must end in a row of zeros"):
        fitted(df, "tree", init=start | {"gate_split_intercept": np.ones(3)})
    start = own_start(fits["dselect_k"])
    with pytest.raises(ValueError, match="gate_code"):
        fitted(df, "dselect_k", init=start | {"gate_code": np.zeros((3, 2))})


# --- sparse predictions ---------------------------------------------------------------------------


def test_dense_limits_are_exact(df, fits):
    X = df[["age", "dose"]]
    for est in fits.values():
        dense = est.predict(X)
        assert (est.predict(X, top_k=3) == dense).all()
        assert (est.predict(X, top_p=1.0) == dense).all()
        assert (est.predict(X, top_k=3, top_p=1) == dense).all()


def test_sparse_predictions_by_hand(df, fits):
    X, est = df[["age", "dose"]], fits["softmax"]
    proba, means = est.gate_proba(X), est.predict_experts(X)
    top = proba.argmax(axis=1)
    assert_allclose(est.predict(X, top_k=1), means[np.arange(len(X)), top])
    least = proba.argmin(axis=1)
    two = proba.copy()
    two[np.arange(len(X)), least] = 0.0
    two /= two.sum(axis=1, keepdims=True)
    assert_allclose(est.predict(X, top_k=2), (two * means).sum(axis=1))
    for p in (0.3, 0.7, 0.95):
        expected, counts = [], []
        for weights, mean in zip(proba, means, strict=True):
            order = np.argsort(-weights)
            n = int(np.searchsorted(np.cumsum(weights[order]), p)) + 1
            kept = order[:n]
            expected.append(weights[kept] @ mean[kept] / weights[kept].sum())
            counts.append(n)
        assert_allclose(est.predict(X, top_p=p), expected)
        assert est.active_experts(X, top_p=p) == pytest.approx(np.mean(counts))
    assert est.active_experts(X) == 3.0
    assert est.active_experts(X, top_k=2) == 2.0


def test_sparse_weights_of_ties_and_of_both():
    proba = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.6, 0.2, 0.1]])
    assert_allclose(sparse_weights(proba, 2), [[0.5, 0.5, 0, 0], [0, 0.75, 0.25, 0]])
    assert_allclose(sparse_weights(proba, 3, 0.5), [[0.5, 0.5, 0, 0], [0, 1, 0, 0]])
    assert_allclose(sparse_weights(proba, 1, 0.99), [[1, 0, 0, 0], [0, 1, 0, 0]])
    assert sparse_weights(proba) is proba


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"top_k": 0}, ValueError, "top_k must lie between 1 and the number of experts, 3"),
        ({"top_k": 4}, ValueError, "got 4"),
        ({"top_k": 1.5}, TypeError, "top_k must be an integer"),
        ({"top_k": True}, TypeError, "top_k must be an integer"),
        ({"top_p": 0.0}, ValueError, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.01}, ValueError, "got 1.01"),
        ({"top_p": np.nan}, ValueError, "got nan"),
        ({"top_p": "all"}, TypeError, "top_p must be a number"),
    ],
)
def test_wrong_cuts_are_refused(df, fits, options, error, match):
    with pytest.raises(error, match=match):
        fits["softmax"].predict(df[["age", "dose"]], **options)
    with pytest.raises(error, match=match):
        fits["softmax"].active_experts(df[["age", "dose"]], **options)
