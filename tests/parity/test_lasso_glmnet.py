"""One expert is the plain lasso: R's glmnet, and scikit-learn.

A Gaussian expert estimates its variance: ``alpha`` penalises the log-likelihood per row, so that
glmnet's ``lambda``, which penalises half the mean squared error, is ``alpha`` times the variance.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

import mixexperts as mx

sklearn_version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
HERE = Path(__file__).parent
DATA = pd.read_csv(HERE / "lasso_glmnet.csv")
SOLUTIONS = pd.read_csv(HERE / "lasso_glmnet_solutions.csv", comment="#")
COLUMNS = [f"x{j + 1}" for j in range(8)]
X = DATA[COLUMNS].to_numpy()
UNEVEN = np.array([1, 1, 2, 0, 1, 0.5, 1, 1])
CELLS = sorted(set(SOLUTIONS[["family", "variant", "lambda"]].itertuples(index=False, name=None)))
# Two thresholds of glmnet agree to 4e-9.
SAME = 1e-6


def response(family):
    y = DATA[family].to_numpy(float)
    return (y - y.mean()) / y.std() if family == "gaussian" else y


def solution(family, variant, lam):
    """Intercepts (classes,) and slopes (classes, 8) by glmnet."""
    where = (SOLUTIONS[["family", "variant"]] == [family, variant]).all(axis=1)
    rows = SOLUTIONS[where & (SOLUTIONS["lambda"] == lam)].sort_values("class")
    return rows["intercept"].to_numpy(), rows[COLUMNS].to_numpy()


def arguments(variant):
    return {
        "l1_ratio": 0.4 if variant == "elastic_net" else 1.0,
        "penalty": "group" if variant == "grouped" else "lasso",
        "penalty_weights": UNEVEN if variant == "uneven" else None,
        "standardize": variant != "raw_columns",
        "tol": 1e-13,
        "random_state": 0,
    }


def weight_of(variant):
    return DATA["weight"].to_numpy() if variant == "weighted" else np.ones(len(DATA))


def test_every_cell_is_there():
    assert len(CELLS) == 3 * (3 * 5 + 6)
    assert (SOLUTIONS.groupby(["family", "variant", "lambda"]).size() == 3).sum() == 18


@pytest.mark.parametrize(("family", "variant", "lam"), CELLS)
def test_one_expert_is_glmnet(family, variant, lam):
    intercept, coef = solution(family, variant, lam)
    y, weight = response(family), weight_of(variant)
    alpha = lam
    if family == "gaussian":
        residual = y - intercept[0] - X @ coef[0]
        alpha = lam / np.average(residual**2, weights=weight)
    options = arguments(variant)
    weighted = {"sample_weight": weight} if variant == "weighted" else {}
    expected = np.column_stack([intercept, coef])
    if variant == "uneven" and family == "multinomial":
        # Without a penalty only differences between classes are determined.
        expected[:, 4] -= expected[:, 4].mean()
    if family == "multinomial":
        est = mx.LassoMoEClassifier(1, alpha, **options).fit(X, y.astype(int), **weighted)
        found = np.column_stack([est.intercept_[0], est.coef_[0]])
        found = found - found[:, :1].mean() * np.eye(1, 9)  # glmnet's intercepts sum to zero
    elif family == "binomial":
        est = mx.LassoMoEClassifier(1, alpha, expert="binomial", **options)
        est.fit(X, y.astype(int), **weighted)
        found = np.column_stack([np.ravel(est.intercept_), np.reshape(est.coef_, (1, -1))])
    else:
        est = mx.LassoMoERegressor(1, alpha, expert=family, **options).fit(X, y, **weighted)
        found = np.column_stack([est.intercept_, est.coef_])
    assert_allclose(found, expected, atol=SAME)
    assert np.array_equal(found[:, 1:] != 0, np.abs(coef) > 1e-9)
    assert est.kkt_violation_ <= 1e-6


@pytest.mark.parametrize("l1_ratio", [1.0, 0.3])
def test_one_gaussian_expert_is_scikit_learns_lasso(l1_ratio):
    # In units of its standard deviation, in which the ridge part counts.
    y = response("gaussian")
    est = mx.LassoMoERegressor(
        1, 0.1, l1_ratio=l1_ratio, standardize=False, tol=1e-13, random_state=0
    ).fit(X, y)
    peer = ElasticNet(0.1 * est.scale_[0] ** 2, l1_ratio=l1_ratio, tol=1e-14, max_iter=10**6)
    if l1_ratio == 1.0:
        peer = Lasso(peer.alpha, tol=1e-14, max_iter=10**6)
    peer.fit(X, y)
    assert_allclose(est.coef_[0], peer.coef_, atol=SAME)
    assert est.intercept_[0] == pytest.approx(peer.intercept_, abs=SAME)
    assert est.scale_[0] ** 2 == pytest.approx(np.mean((y - peer.predict(X)) ** 2), rel=SAME)


@pytest.mark.parametrize("name", ["binomial", "multinomial"])
def test_one_expert_of_classes_is_scikit_learns_lasso(name):
    """scikit-learn's ``C`` is one over the penalty of the sum over rows."""
    y = DATA[name].to_numpy()
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    # The name of the penalty gave way to its mixing in scikit-learn 1.8.
    kind = {"l1_ratio": 1.0} if sklearn_version >= (1, 8) else {"penalty": "l1"}
    peer = LogisticRegression(
        C=1.0 / (0.03 * len(y)), solver="saga", tol=1e-12, max_iter=10**6, **kind
    ).fit(Z, y)
    est = mx.LassoMoEClassifier(1, 0.03, expert=name, tol=1e-13, random_state=0).fit(X, y)
    assert_allclose(est.predict_proba(X), peer.predict_proba(Z), atol=SAME)
    if name == "multinomial":
        assert_allclose(est.coef_[0] * X.std(axis=0), peer.coef_, atol=SAME)
