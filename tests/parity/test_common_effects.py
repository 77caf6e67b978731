"""Effects in common and nested effects against flexmix on betablocker and seizure.

Reference: flexmix 2.3-18 (R 4.2.2), ``FLXMRglmfix`` and ``FLXMRglm``, the best of eight starts
with ``tolerance = 1e-12`` and ``minprior = 0``. The models are those of its help pages
``betablocker`` and ``seizure`` and of Gruen and Leisch (2008), Journal of Statistical Software
28(4), section 4, or variants.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts._batch import Batch
from mixexperts._design import DesignMap
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.init import initial_theta, keyed_rng
from mixexperts.experts import Binomial, Poisson, Tied
from mixexperts.gates import Constant

# flexmix stops at a relative change of 1e-12; what it misses is below that.
LLF_TOL = 1e-5
COEF_TOL = 1e-4


def beta():
    df = mx.datasets.load_betablocker()
    return df.assign(
        Survivals=df["Total"] - df["Deaths"], treated=(df["Treatment"] == "Treated").astype(float)
    )


def seizure():
    df = mx.datasets.load_seizure()
    return df.assign(
        log_hours=np.log(df["Hours"]),
        log_day=np.log(df["Day"]),
        treated=(df["Treatment"] == "Yes").astype(float),
    )


def test_common_treatment_effect_over_rows():
    res = mx.moe(
        "Deaths + Survivals ~ treated",
        data=beta(),
        n_experts=3,
        family=Tied(Binomial(), common=["treated"]),
        n_init=20,
    )
    assert res.llf == pytest.approx(-168.728722608, abs=LLF_TOL)
    assert res.df_model == 6
    assert res.bic == pytest.approx(360.1626, abs=5e-5)
    assert_allclose(res.estimator.coef_.ravel(), -0.31838147, atol=COEF_TOL)
    assert_allclose(
        np.sort(res.estimator.intercept_), [-2.93597316, -2.24885934, -1.61925788], atol=COEF_TOL
    )


def test_common_treatment_effect_with_centres_as_units():
    """Random intercepts of centres: both rows of a centre have one expert."""
    df = beta().sort_values("Center", kind="stable")
    y = df[["Deaths", "Survivals"]].to_numpy(float)
    _, unit = np.unique(df["Center"], return_inverse=True)
    X = np.column_stack([np.ones(len(df)), df["treated"]])
    columns = DesignMap(
        ("treated",), np.zeros(1), np.ones(1), np.eye(1, dtype=np.int64), intercept=True
    )
    batch = Batch(y, {"mean": X}, np.empty((22, 0)), np.ones(22), unit=unit)
    for expert, llf, size in (
        (Tied(Binomial(), common=["treated"]).bound(columns, 0.0, 1.0), -159.360519677, 6),
        (Binomial(), -158.309480286, 8),
    ):
        model = Model(Constant(), expert)
        results = [
            fit_em(
                model,
                batch,
                initial_theta(model, batch, 3, "random", keyed_rng(0, "random", i)),
                monitor=Monitor(max_iter=4000, tol=1e-10),
            )
            for i in range(8)
        ]
        best = max(results, key=lambda result: result.log_likelihood)
        assert best.log_likelihood == pytest.approx(llf, abs=LLF_TOL)
        assert model.n_params(best.theta) == size


def test_common_slope_of_counts_with_exposure():
    res = mx.moe(
        "Seizures ~ treated + log_day",
        data=seizure(),
        n_experts=2,
        family=Tied(Poisson(), common=["log_day"]),
        offset="log_hours",
    )
    assert res.llf == pytest.approx(-427.886005694, abs=LLF_TOL)
    assert (res.df_model, round(res.bic, 4)) == (6, 885.4219)
    assert_allclose(res.estimator.coef_[:, 1], -0.39324179, atol=COEF_TOL)
    assert_allclose(np.sort(res.estimator.coef_[:, 0]), [-2.16372708, -0.56121966], atol=COEF_TOL)


def test_nested_effect():
    """Two experts have one treatment effect, the third has none.

    flexmix started from the responsibilities of this fit stays there; the best of its own eight
    starts is -414.489.
    """
    nan = float("nan")
    family = Tied(Poisson(), {"treated": [[0, 1]]}, fixed={"treated": [nan, nan, 0.0]})
    res = mx.moe(
        "Seizures ~ treated + log_day",
        data=seizure(),
        n_experts=3,
        family=family,
        offset="log_hours",
        n_init=40,
    )
    assert res.llf == pytest.approx(-401.23938169, abs=LLF_TOL)
    assert (res.df_model, round(res.bic, 4)) == (9, 846.9535)
    coef = res.estimator.coef_
    assert coef[0, 0] == pytest.approx(coef[1, 0], abs=1e-12)
    assert coef[2, 0] == pytest.approx(0.0, abs=1e-12)
    assert_allclose(coef[:, 1], [-2.4592976, -0.29991409, -0.67290805], atol=COEF_TOL)
    assert coef[0, 0] == pytest.approx(-2.78112313, abs=COEF_TOL)
