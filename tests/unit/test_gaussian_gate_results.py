"""Gaussian gates in formulas, tables, selections, plots, files and the command line."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts.cli import main
from mixexperts.gates import Gaussian


@pytest.fixture
def frame():
    """Two clusters of two features on awkward scales, with a line in each."""
    rng = np.random.default_rng(20260901)
    label = (rng.random(200) < 0.4).astype(int)
    means = np.array([[1e3, -2.0], [1.03e3, 1.0]])
    roots = np.array([[[9.0, 0.0], [0.5, 0.8]], [[12.0, 0.0], [-0.9, 0.6]]])
    X = means[label] + np.einsum("ipq,iq->ip", roots[label], rng.standard_normal((200, 2)))
    y = np.where(label, 40.0 + 3.0 * X[:, 1], 0.1 * X[:, 0]) + rng.standard_normal(200)
    return pd.DataFrame({"age": X[:, 0], "dose": X[:, 1], "y": y})


def test_formula_names_every_parameter(frame):
    res = mx.moe("y ~ age + dose | age + dose", frame, gate_family="gaussian")
    est = res.estimator
    assert res.gate_table.index.tolist() == [
        "weight", "mean(age)", "mean(dose)", "var(age)", "var(dose)", "cov(age, dose)"
    ]  # fmt: skip
    assert len(res.params) == res.df_model == 19
    assert ("gate", 2, "weight") not in res.params.index
    assert res.params["gate", 1, "weight"] == est.gate_weights_[0]
    assert res.params["gate", 2, "cov(age, dose)"] == est.gate_covariances_[1, 0, 1]
    text = str(res.summary())
    assert "Gate (gaussian): the features' distribution within each expert" in text
    assert "features and the response together" in text
    assert "reference is expert" not in text
    assert res.llf == est.log_likelihood_
    assert res.bic == pytest.approx(-2 * res.llf + 19 * np.log(len(frame)), rel=1e-10)


@pytest.mark.parametrize(
    ("covariance", "rows"),
    [
        ("tied", ["var(age)", "var(dose)", "cov(age, dose)"]),
        ("diag", ["var(age)", "var(dose)"]),
        ("spherical", ["var"]),
    ],
)
def test_tables_of_the_other_covariances(frame, covariance, rows):
    res = mx.moe("y ~ age | age + dose", frame, gate_family=Gaussian(covariance))
    assert res.gate_table.index.tolist() == ["weight", "mean(age)", "mean(dose)", *rows]
    raw = res.estimator.gate_covariances_
    value = {"tied": raw.ravel()[0], "diag": raw.ravel()[0], "spherical": raw.ravel()[0]}
    assert res.gate_table.at[rows[0], 1] == value[covariance]
    assert str(res.summary())


def test_one_expert_has_a_gate_to_show(frame):
    res = mx.moe("y ~ age | dose", frame, 1, gate_family="gaussian")
    assert "mean(dose)" in str(res.summary())
    assert len(res.params) == res.df_model == 5


@pytest.mark.parametrize(
    ("formula", "options", "match"),
    [
        ("y ~ age", {"gate_family": "gaussian"}, "there are none; name them after a bar"),
        ("y ~ age | dose - 1", {"gate_family": "gaussian"}, "no intercept to be left out"),
        ("y ~ age | dose", {"gate_family": "constant"}, "has no terms, but the formula gives"),
        ("y ~ age | dose", {"gate_family": "gausian"}, "gate_family='gausian' is not a known gate"),
        ("y ~ age", {"gate": "gaussian"}, "the kind of gate is named by gate_family='gaussian'"),
        ("y ~ age | I(0 * dose + 1)", {"gate_family": "gaussian"}, "features that vary"),
    ],
)
def test_formulas_that_make_no_gate_are_refused(frame, formula, options, match):
    with pytest.raises(ValueError, match=match):
        mx.moe(formula, frame, **options)


def test_other_kinds_by_name_are_what_they_were(frame):
    for family, formula in (("softmax", "y ~ age | dose"), ("constant", "y ~ age")):
        named = mx.moe(formula, frame, gate_family=family, n_init=2)
        assert named.llf == mx.moe(formula, frame, n_init=2).llf
        assert named.estimator.model_.gate.name == family


def test_selection_goes_by_the_joint_likelihood(frame):
    res = mx.moe("y ~ age | age", frame, range(1, 4), gate_family="gaussian", n_init=4)
    table = res.selection
    expected = -2 * table["log_likelihood"] + np.log(len(frame)) * table["df"]
    assert_allclose(table["bic"], expected, rtol=1e-10)
    assert (np.diff(table["log_likelihood"]) > 0).all()
    assert res.n_experts == 2


def test_plots_and_files_of_results(frame, tmp_path):
    import matplotlib.pyplot as plt

    res = mx.moe("y ~ age + dose | age", frame, gate_family="gaussian", n_init=2)
    for kind in ("fit", "gate", "history", "restarts", "posterior"):
        assert res.plot(kind) is not None
        plt.close("all")
    res.save(tmp_path / "res.mxp")
    again = mx.load(tmp_path / "res.mxp")
    assert again.gate_table.equals(res.gate_table)
    assert again.predict(frame).equals(res.predict(frame))


def test_command_line(frame, tmp_path):
    frame.to_csv(tmp_path / "data.csv", index=False)
    code = main(
        ["fit", str(tmp_path / "data.csv"), "--formula", "y ~ age | dose", "--starts", "2",
         "--gate-family", "gaussian", "--quiet", "--output", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 0
    table = pd.read_csv(tmp_path / "out" / "coefficients.csv")
    assert "mean(dose)" in set(table["term"])
    assert mx.load(tmp_path / "out" / "model.mxp").estimator.gate_means_.shape == (2, 1)
