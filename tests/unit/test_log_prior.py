"""Evidence about the experts of rows, and known labels."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.base import clone

import mixexperts as mx

N = 240


def simulate(seed=0, n=N, gap=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    label = (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int)
    # expert 0 lies above expert 1: the usual order would turn them round
    y = np.where(label == 0, gap + 0.5 * x, -gap - x) + rng.normal(size=n)
    return x[:, None], y, label


X, Y, LABEL = simulate()


def model(k=2, **options):
    return mx.MoERegressor(k, **{"n_init": 4, "random_state": 0, "backend": "numpy", **options})


def test_all_rows_labelled_is_one_regression_per_label():
    est = model().fit(X, Y, partial_labels=LABEL)
    complete = 0.0
    for k in range(2):
        rows = k == LABEL
        design = np.column_stack([np.ones(rows.sum()), X[rows]])
        coef, *_ = np.linalg.lstsq(design, Y[rows], rcond=None)
        scale = np.sqrt(np.mean((Y[rows] - design @ coef) ** 2))
        assert_allclose([est.intercept_[k], est.coef_[k, 0]], coef, atol=1e-8)
        assert est.scale_[k] == pytest.approx(scale, abs=1e-8)
        complete += norm.logpdf(Y[rows], design @ coef, scale).sum()
        complete += np.log(est.gate_proba(X[rows])[:, k]).sum()
    assert est.log_likelihood_ == pytest.approx(complete, abs=1e-8)
    assert_allclose(est.mass_, np.bincount(LABEL))
    assert len(est.restarts_) == 1  # nothing is left open


def test_gate_of_labelled_rows_is_logistic_regression():
    import statsmodels.api as sm

    est = model(tol=1e-13).fit(X, Y, partial_labels=LABEL)
    logit = sm.Logit(LABEL == 0, sm.add_constant(X)).fit(disp=0, tol=1e-12)
    assert_allclose([est.gate_intercept_[0], est.gate_coef_[0, 0]], logit.params, atol=1e-7)


def test_likelihood_with_some_labels_is_mixed():
    known = np.where(np.arange(N) % 5 == 0, LABEL, -1)
    est = model().fit(X, Y, partial_labels=known)
    mean = est.intercept_ + X * est.coef_[:, 0]
    joint = np.log(est.gate_proba(X)) + norm.logpdf(Y[:, None], mean, est.scale_)
    terms = np.where(
        known < 0, np.logaddexp.reduce(joint, axis=1), joint[np.arange(N), np.maximum(known, 0)]
    )
    assert est.log_likelihood_ == pytest.approx(terms.sum(), abs=1e-8)
    assert est.converged_
    assert est.aic(X, Y, partial_labels=known) == pytest.approx(
        -2 * terms.sum() + 2 * est.n_parameters_
    )
    resp = est.responsibilities(X, Y, partial_labels=known)
    assert_allclose(resp[known >= 0], np.eye(2)[known[known >= 0]], atol=0)
    free = est.responsibilities(X, Y)
    assert_allclose(free, np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None]), atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("turned", [False, True])
def test_experts_keep_the_users_numbers_whatever_the_start(seed, turned):
    features, y, label = simulate(seed=10 + seed, gap=2.0)
    names = 1 - label if turned else label
    known = np.where(np.arange(N) % 12 == 0, names, -1)
    est = model(random_state=seed).fit(features, y, partial_labels=known)
    above = 1 if turned else 0
    assert est.intercept_[above] > 0 > est.intercept_[1 - above]
    assert est.restarts_["reached_best"].sum() >= 3  # starts agree on the numbers


@pytest.mark.parametrize("init", ["kmeans", "split", "small_em", "residual", "elemental", "random"])
def test_every_start_heeds_the_numbers(init):
    features, y, label = simulate(seed=3, gap=2.5)
    known = np.where(np.arange(N) % 10 == 0, label, -1)
    est = model(init=init, n_init=2).fit(features, y, partial_labels=known)
    assert est.intercept_[0] > 0 > est.intercept_[1]


def test_missing_labels_have_three_spellings_and_labels_become_log_prior():
    known = np.where(np.arange(N) % 3 == 0, LABEL, -1)
    as_nan = np.where(known < 0, np.nan, known)
    as_none = np.where(known < 0, None, known)
    as_prior = np.where(np.arange(2) == known[:, None], 0.0, -np.inf)
    as_prior[known < 0] = 0.0
    fits = [model().fit(X, Y, partial_labels=given) for given in (known, as_nan, as_none)]
    fits.append(model().fit(X, Y, log_prior=as_prior))
    for est in fits[1:]:
        assert est.log_likelihood_ == fits[0].log_likelihood_
        assert_allclose(est.coef_, fits[0].coef_, rtol=0)
    assert fits[0].has_log_prior_


def rated(label, seed):
    """Evidence of a rater who is right in 80% of the rows."""
    right = np.random.default_rng([5, seed]).random(len(label)) < 0.8
    guess = np.where(right, label, 1 - label)
    return np.where(np.arange(2) == guess[:, None], np.log(0.8), np.log(0.2))


def test_soft_evidence_adds_to_the_gate():
    evidence = rated(LABEL, 0)
    est = model().fit(X, Y, log_prior=evidence)
    mean = est.intercept_ + X * est.coef_[:, 0]
    joint = np.log(est.gate_proba(X)) + norm.logpdf(Y[:, None], mean, est.scale_) + evidence
    assert est.log_likelihood_ == pytest.approx(np.logaddexp.reduce(joint, axis=1).sum(), abs=1e-8)
    # what is the same for all experts is a constant of the likelihood
    shifted = model().fit(X, Y, log_prior=evidence + 3.0)
    assert shifted.log_likelihood_ == pytest.approx(est.log_likelihood_ + 3.0 * N, abs=1e-6)


def test_evidence_finds_more_of_the_labels():
    right = []
    for seed in range(6):
        features, y, label = simulate(seed=seed)
        evidence = rated(label, seed)
        resp = model().fit(features, y, log_prior=evidence)
        resp = resp.responsibilities(features, y, log_prior=evidence)
        plain = model().fit(features, y).responsibilities(features, y)[:, ::-1]  # lower first
        right.append([(r.argmax(axis=1) == label).mean() for r in (resp, plain)])
    informed, uninformed = np.mean(right, axis=0)
    assert informed > uninformed + 0.02


def test_predictions_ignore_it():
    known = np.where(np.arange(N) % 2 == 0, LABEL, -1)
    est = model().fit(X, Y, partial_labels=known)
    weight = est.gate_proba(X)
    assert_allclose(est.predict(X), np.sum(weight * est.predict_experts(X), axis=1))
    mean = est.intercept_ + X * est.coef_[:, 0]
    joint = np.log(weight) + norm.logpdf(Y[:, None], mean, est.scale_)
    assert_allclose(est.score_samples(X, Y), np.logaddexp.reduce(joint, axis=1), atol=1e-10)


def test_weights_and_groups_go_with_labels():
    groups = np.arange(N) // 3
    known = np.where(np.arange(N) % 9 == 0, LABEL[groups * 3], -1)  # one row of every third group
    weight = 1.0 + (groups % 2)
    flat = np.repeat(np.random.default_rng(0).normal(size=N // 3), 3)
    features = np.column_stack([X[:, 0], flat])
    options = {"gate_features": [1], "expert_features": [0]}
    est = model(**options).fit(features, Y, weight, groups=groups, partial_labels=known)
    twice = groups % 2 == 1
    again = model(**options).fit(
        np.vstack([features, features[twice]]),
        np.r_[Y, Y[twice]],
        groups=np.r_[groups, groups[twice] + 1000],
        partial_labels=np.r_[known, known[twice]],
    )
    assert again.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=1e-7)
    pinned = np.isin(groups, groups[known >= 0])
    resp = est.responsibilities(features, Y, groups=groups, partial_labels=known)
    assert set(np.unique(resp[pinned])) == {0.0, 1.0}
    by_group = np.full(N // 3, -1)
    by_group[::3] = LABEL[::9]
    prior = np.where(np.arange(2) == by_group[:, None], 0.0, -np.inf)
    prior[by_group < 0] = 0.0
    per_group = clone(est).fit(features, Y, weight, groups=groups, log_prior=prior)
    assert per_group.log_likelihood_ == est.log_likelihood_


def test_labels_help_where_the_mixture_alone_is_weak():
    """The mean squared error of the slopes falls with the share of known labels."""
    errors = {0.0: [], 0.5: []}
    for seed in range(12):
        features, y, label = simulate(seed=100 + seed, n=150, gap=0.8)
        rng = np.random.default_rng(seed)
        known = np.where(rng.random(150) < 0.5, label, -1)
        for share, est in (
            (0.0, model(gate="constant").fit(features, y)),
            (0.5, model(gate="constant").fit(features, y, partial_labels=known)),
        ):
            slopes = np.sort(est.coef_[:, 0])
            errors[share].append(np.mean((slopes - [-1.0, 0.5]) ** 2))
    assert np.mean(errors[0.5]) < 0.5 * np.mean(errors[0.0])


def test_formula_takes_a_column_of_labels():
    frame = pd.DataFrame({"x": X[:, 0], "y": Y, "known": np.where(np.arange(N) % 4, np.nan, LABEL)})
    frame.loc[[3, 8], "y"] = np.nan  # dropped, with its label
    res = mx.moe("y ~ x | x", frame, 2, partial_labels="known", n_init=3, backend="numpy")
    kept = frame.dropna(subset="y")
    est = model(n_init=3).fit(kept[["x"]], kept["y"], partial_labels=kept["known"])
    assert res.llf == pytest.approx(est.log_likelihood_, abs=1e-8)
    assert res.aic == pytest.approx(-2 * res.llf + 2 * res.df_model)
    pinned = kept["known"].notna()
    assert_allclose(res.posterior()[pinned], np.eye(2)[kept["known"][pinned].astype(int)])
    assert "numbers that the evidence" in str(res.summary())
    with pytest.raises(ValueError, match="needs one number of experts"):
        mx.moe("y ~ x", frame, range(1, 3), partial_labels="known")
    with pytest.raises(ValueError, match="'gone' is not a column"):
        mx.moe("y ~ x", frame, 2, partial_labels="gone")


BAD = {
    "label 2 of 2": ({"partial_labels": np.r_[2, LABEL[1:]]}, ValueError, "is 2 in row 0"),
    "half a label": ({"partial_labels": np.r_[0.5, LABEL[1:]]}, ValueError, "0.5 in row 0"),
    "text": ({"partial_labels": ["a"] * N}, TypeError, "must hold expert numbers 0 to 1"),
    "short": ({"partial_labels": [0, 1]}, ValueError, r"partial_labels must have shape \(240,\)"),
    "prior of three": ({"log_prior": np.zeros((N, 3))}, ValueError, r"shape \(240, 2\)"),
    "nan": ({"log_prior": np.full((N, 2), np.nan)}, ValueError, "NaN or .infinity in row 0"),
    "nobody": ({"log_prior": np.full((N, 2), -np.inf)}, ValueError, "every expert for row 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_evidence_is_named(name):
    given, error, match = BAD[name]
    with pytest.raises(error, match=match):
        model().fit(X, Y, **given)


def test_groups_refuse_two_labels_and_two_priors():
    groups = np.arange(N) // 2
    est = model(gate="constant")
    with pytest.raises(ValueError, match="names two experts within group 0"):
        est.fit(X, Y, groups=groups, partial_labels=np.arange(N) % 2)
    with pytest.raises(ValueError, match="log_prior differs within group 0"):
        est.fit(X, Y, groups=groups, log_prior=np.random.default_rng(0).normal(size=(N, 2)))
