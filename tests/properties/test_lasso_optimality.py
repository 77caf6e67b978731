"""At every penalised solution the gradient is where the penalty's subdifferential has it.

Gradients, penalties and distances are written down here a second time, from fitted coefficients
on the user's scale; nothing of the solver is used.
"""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import expit, gammaln, log_softmax

import mixexperts as mx
from mixexperts.errors import DegenerateFitWarning
from mixexperts.experts import Gaussian

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=6)
TOL = 1e-6
FAMILIES = ("gaussian", "shared", "poisson", "gamma", "binomial", "multinomial")
KINDS = ("lasso", "elastic_net", "mcp", "scad", "group")
L1_RATIO = {"elastic_net": 0.6}
CONCAVITY = {"mcp": 3.0, "scad": 3.7}
SHAPE = {"gamma": 2.0}


def gaussian(family):
    return family in ("gaussian", "shared")


def draw(family, seed, n=150, p=10, n_experts=2):
    """Rows of a mixture whose experts and gate use two columns each."""
    rng = np.random.default_rng([20261122, seed])
    X = rng.standard_normal((n, p)) * rng.uniform(0.3, 3.0, p) + rng.standard_normal(p)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    gate = np.zeros((n_experts, p))
    gate[:, :2] = 1.5 * rng.standard_normal((n_experts, 2))
    label = (Z @ gate.T + rng.gumbel(size=(n, n_experts))).argmax(axis=1)
    coef = np.zeros((n_experts, p))
    for k in range(n_experts):
        coef[k, rng.permutation(p)[:2]] = rng.choice([-1.0, 1.0], 2)
    eta = np.sum(Z * coef[label], axis=1) + label - 0.5 * (n_experts - 1)
    if gaussian(family):
        y = 2.0 * eta + 0.7 * rng.standard_normal(n)
    elif family == "poisson":
        y = rng.poisson(np.exp(1.0 + 0.7 * eta)).astype(float)
    elif family == "gamma":
        y = rng.gamma(SHAPE["gamma"], np.exp(0.7 * eta) / SHAPE["gamma"])
    else:
        levels = [-1.0, 1.0] if family == "multinomial" else [0.0]
        y = np.digitize(2.0 * eta + rng.logistic(size=n), levels)
    return X, y, rng


def fitted(family, kind, X, y, weight, n_experts, **options):
    """A fit, with the arguments of its penalty in the words of the estimators."""
    settings_ = {
        "penalty": "lasso" if kind == "elastic_net" else kind,
        "l1_ratio": L1_RATIO.get(kind, 1.0),
        "concavity": CONCAVITY.get(kind),
        "random_state": 0,
        "n_init": 3,
        **options,
    }
    if family in ("binomial", "multinomial"):
        est = mx.LassoMoEClassifier(n_experts, expert=family, **settings_)
    else:
        expert = Gaussian(shared_scale=True) if family == "shared" else family
        est = mx.LassoMoERegressor(n_experts, expert=expert, **settings_)
    with warnings.catch_warnings():
        # A solution with an expert of few rows is one like any other here.
        warnings.simplefilter("ignore", DegenerateFitWarning)
        return est.fit(X, y, sample_weight=weight)


def pieces(family, est, X, y):
    """log f (n, K) of each expert and its derivative in the predictors (n, K, L)."""
    eta = est.intercept_ + X @ est.coef_.T if est.coef_.ndim == 2 else None
    if gaussian(family):
        residual = y[:, None] - eta
        log_f = -0.5 * (residual / est.scale_) ** 2 - np.log(est.scale_) - 0.5 * np.log(2 * np.pi)
        return log_f, (residual / est.scale_**2)[..., None]
    if family == "poisson":
        log_f = y[:, None] * eta - np.exp(eta) - gammaln(y + 1)[:, None]
        return log_f, (y[:, None] - np.exp(eta))[..., None]
    if family == "gamma":
        shape = est.shape_
        ratio = y[:, None] * np.exp(-eta)
        log_f = shape * (np.log(shape) - eta - ratio) - gammaln(shape)
        log_f = log_f + (shape - 1) * np.log(y)[:, None]
        return log_f, (shape * (ratio - 1))[..., None]
    if family == "binomial":
        code = (y == est.classes_[1]).astype(float)[:, None]
        log_f = code * eta - np.logaddexp(0.0, eta)
        return log_f, (code - expit(eta))[..., None]
    log_p = log_softmax(np.einsum("nj,kcj->nkc", X, est.coef_) + est.intercept_, axis=2)
    hot = np.eye(len(est.classes_))[y][:, None, :]
    return np.sum(hot * log_p, axis=2), hot - np.exp(log_p)


def gradients(family, est, X, y, weight, spread):
    """Per unit of weight: of the experts' slopes (K, L, p), the gate's (K, p), all intercepts."""
    log_f, score = pieces(family, est, X, y)
    log_gate = log_softmax(est.gate_intercept_ + X @ est.gate_coef_.T, axis=1)
    joint = log_gate + log_f
    total = np.logaddexp.reduce(joint, axis=1)
    resp = np.exp(joint - total[:, None])
    Z = (X - np.average(X, axis=0, weights=weight)) / spread
    share = weight / weight.sum()
    expert = np.einsum("n,nk,nkl,nj->klj", share, resp, score, Z)
    gate = np.einsum("n,nk,nj->kj", share, resp - np.exp(log_gate), Z)
    free = [np.einsum("n,nk,nkl->kl", share, resp, score).ravel()]
    free.append(share @ (resp - np.exp(log_gate)))
    # Of the logarithms of the scales, the log-likelihood's part.
    scale = share @ (resp * (score[..., 0] ** 2 * est.scale_**2 - 1.0)) if gaussian(family) else 0.0
    return expert, gate, np.concatenate(free), scale, weight @ total


def slope(kind, size, strength):
    """Derivative of the penalty of one coefficient in its absolute value."""
    if kind == "elastic_net":
        return strength * (0.6 + 0.4 * size)
    if kind == "mcp":
        return np.maximum(strength - size / 3.0, 0.0)
    if kind == "scad":
        return np.where(size <= strength, strength, np.maximum(3.7 * strength - size, 0.0) / 2.7)
    return strength + 0.0 * size


def distances(kind, gradient, coef, strength):
    """Distance of each gradient from the subdifferential of a penalty of single coefficients."""
    strength = np.broadcast_to(strength, coef.shape)
    at_zero = slope(kind, 0.0 * coef, strength)
    inside = np.maximum(np.abs(gradient) - at_zero, 0.0)
    outside = np.abs(gradient - np.sign(coef) * slope(kind, np.abs(coef), strength))
    return np.where(coef == 0.0, inside, outside)


def group_distances(expert, gate, coef, gate_coef, alpha, gate_alpha, groups):
    """The same of the group penalty: the coefficients of a group's columns in all rooms."""
    found = []
    for label in np.unique(groups):
        own = groups == label
        strength = np.concatenate(
            [np.full(coef[..., own].size, alpha), np.full(gate_coef[:, own].size, gate_alpha)]
        )
        u = np.concatenate([coef[..., own].ravel(), gate_coef[:, own].ravel()])
        g = np.concatenate([expert[..., own].ravel(), gate[:, own].ravel()])
        root = np.sqrt(own.sum())
        norm = np.linalg.norm(strength * u)
        if norm == 0.0:
            found.append(max(np.linalg.norm(g / strength) - root, 0.0) * max(alpha, gate_alpha))
        else:
            found.append(np.abs(g - root * strength**2 * u / norm).max())
    return np.array(found)


def group_pull(coef, gate_coef, alpha, gate_alpha, groups):
    """Derivative of the group penalty in the logarithm of each expert's slopes, (K,)."""
    total = np.zeros(len(coef))
    for label in np.unique(groups):
        own = groups == label
        squares = alpha**2 * np.sum(coef[..., own] ** 2, axis=(1, 2))
        norm = np.sqrt(squares.sum() + gate_alpha**2 * np.sum(gate_coef[:, own] ** 2))
        if norm > 0.0:
            total += np.sqrt(own.sum()) * squares / norm
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@FIXED
@given(
    seed=st.integers(0, 10_000),
    n_experts=st.sampled_from([2, 3]),
    coding=st.sampled_from(["symmetric", "reference"]),
    weighted=st.booleans(),
    uneven=st.booleans(),
    standardize=st.booleans(),
    alpha=st.sampled_from([0.01, 0.03, 0.1]),
    ratio=st.sampled_from([0.5, 1.0]),
    by_scale=st.booleans(),
)
def test_gradients_are_in_the_subdifferential(
    family, kind, seed, n_experts, coding, weighted, uneven, standardize, alpha, ratio, by_scale
):
    X, y, rng = draw(family, seed, n_experts=n_experts)
    weight = rng.uniform(0.2, 3.0, len(y)) if weighted else np.ones(len(y))
    if gaussian(family):
        # The solver's unit of y is this one: distances are in it.
        centre = np.average(y, weights=weight)
        y = (y - centre) / np.sqrt(np.average((y - centre) ** 2, weights=weight))
    factor, gate_factor, groups = np.ones(10), np.ones(10), np.arange(10)
    given_ = {}
    if uneven and kind == "group":
        groups = np.array([0, 1, 1, 2, 3, 3, 3, 4, 5, 6])
        given_ = {"groups": groups}
    elif uneven:
        factor, gate_factor = rng.choice([0.0, 0.5, 1.0, 2.0], (2, 10))
        given_ = {"penalty_weights": factor, "gate_penalty_weights": gate_factor}
    by_scale = by_scale and gaussian(family)
    if by_scale:
        given_["by_scale"] = True
    elif gaussian(family):
        given_["by_scale"] = False
    est = fitted(
        family,
        kind,
        X,
        y,
        weight if weighted else None,
        n_experts,
        alpha=alpha,
        gate_alpha=ratio * alpha,
        gate_coding=coding,
        standardize=standardize,
        **given_,
    )
    centred = X - np.average(X, axis=0, weights=weight)
    spread = np.sqrt(np.average(centred**2, axis=0, weights=weight)) if standardize else np.ones(10)
    expert, gate, free, scale, log_likelihood = gradients(family, est, X, y, weight, spread)
    # The penalty sees coefficients on standardised columns, by_scale over their expert's scale.
    unit = est.scale_[:, None, None] if by_scale else 1.0
    coef, expert = est.coef_.reshape(n_experts, -1, 10) * spread / unit, expert * unit
    rows = n_experts if coding == "symmetric" else n_experts - 1
    gate, gate_coef = gate[:rows], est.gate_coef_[:rows] * spread
    if kind == "group":
        strengths = alpha, ratio * alpha, groups
        found = group_distances(expert, gate, coef, gate_coef, *strengths)
        pull = group_pull(coef, gate_coef, *strengths)
    else:
        in_experts = distances(kind, expert, coef, alpha * factor)
        in_gate = distances(kind, gate, gate_coef, ratio * alpha * gate_factor)
        found = np.concatenate([in_experts.ravel(), in_gate.ravel()])
        pull = np.sum(np.abs(coef) * slope(kind, np.abs(coef), alpha * factor), axis=(1, 2))
    if gaussian(family):
        scale = scale + pull if by_scale else scale
        free = np.append(free, scale if family == "gaussian" else scale.sum())
    # A spike on a few rows has no place where it ends.
    assume(est.status_ != "degenerate")
    assert est.status_ == "converged"
    assert found.max() <= TOL
    assert np.abs(free).max() <= TOL
    assert est.kkt_violation_ <= TOL
    assert est.log_likelihood_ == pytest.approx(log_likelihood, rel=1e-9, abs=1e-7)
    slack = 1e-10 * (weight.sum() + abs(log_likelihood))
    assert np.diff(est.history_, append=est.history_[-1]).min() >= -slack
    if coding == "reference":
        assert not est.gate_coef_[-1].any()


@pytest.mark.parametrize("n_experts", [2, 3])
def test_a_gate_row_more_or_less_is_no_other_fit(n_experts):
    """Symmetric rows are those of the smallest penalty, then of the smallest square."""
    X, y, _ = draw("gaussian", 5, n_experts=n_experts)
    est = fitted("gaussian", "lasso", X, y, None, n_experts, alpha=0.02, gate_alpha=0.01)
    rows = est.gate_coef_ * X.std(axis=0)
    moves = np.linspace(-1.0, 1.0, 401)[:, None, None]
    absolute = np.abs(rows + moves).sum(axis=1)
    assert np.all(np.abs(rows).sum(axis=0) <= absolute.min(axis=0) + 1e-12)
    tied = np.abs(rows).sum(axis=0) >= absolute - 1e-12
    squares = np.where(tied, ((rows + moves) ** 2).sum(axis=1), np.inf)
    assert np.all((rows**2).sum(axis=0) <= squares.min(axis=0) + 1e-12)
    if n_experts == 2:
        assert_allclose(rows[0], -rows[1], atol=1e-12)


@pytest.mark.parametrize("family", ["gaussian", "poisson", "multinomial"])
def test_the_adaptive_lasso_is_optimal_for_its_weights(family):
    X, y, _ = draw(family, 3)
    est = fitted(family, "adaptive", X, y, None, 2, alpha=0.02, gate_alpha=0.02)
    assert est.status_ == "converged"
    assert est.kkt_violation_ <= TOL
    plain = fitted(family, "lasso", X, y, None, 2, alpha=0.02, gate_alpha=0.02)
    assert est.n_nonzero_ < plain.n_nonzero_
