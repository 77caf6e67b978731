"""What every gate must satisfy, whatever it is."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_softmax

from mixexperts._archive import read_archive, write_archive
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant, Softmax
from mixexperts.penalties import NoPenalty

HALVINGS = 40


@pytest.fixture
def setting(gate, kind, case):
    _, theta, batch = case(gate, Gaussian(), kind)
    return gate, theta.gate, batch


def expected(gate, params, batch, weight, penalty):
    """Expected log-likelihood of the gate at fixed responsibilities times weights."""
    pull = 0.0
    if "coef" in params:
        coef = gate.penalized_coef(params)
        pull = penalty.value(coef, gate.penalized(coef.shape[1]))
    score = np.where(weight > 0.0, gate.log_score(params, batch), 0.0)
    return float(np.sum(weight * score)) - pull


def on_support(gate, params, batch, resp):
    """Responsibilities as EM has them: none where the gate gives no weight."""
    resp = np.where(np.isneginf(gate.log_score(params, batch)), 0.0, resp)
    return resp / resp.sum(axis=1, keepdims=True)


def promised(gate, params, stats, penalty):
    """Gradient of the expected log-likelihood less the penalty."""
    gradient = gate.score(params, stats)
    if "coef" in params:
        coef = gate.penalized_coef(params)
        gradient = gradient - gate.pull(
            params, penalty.gradient(coef, gate.penalized(coef.shape[1]))
        )
    return gradient


def test_weights_are_probabilities(setting):
    gate, params, batch = setting
    log_prob = gate.log_prob(params, batch)
    assert log_prob.shape == (batch.n_units, 3)
    assert (log_prob <= 0).all()
    assert_allclose(np.logaddexp.reduce(log_prob, axis=1), 0.0, atol=1e-14)


def test_score_and_weights_agree_for_conditional_gates(setting):
    gate, params, batch = setting
    score, log_prob = gate.log_score(params, batch), gate.log_prob(params, batch)
    if gate.objective == "conditional":
        assert_allclose(score, log_prob, rtol=1e-14)
    else:  # a joint gate's weights are its scores, normalised
        normal = score - np.logaddexp.reduce(score, axis=1, keepdims=True)
        assert_allclose(normal, log_prob, rtol=1e-10, atol=1e-10)


def test_updates_climb_to_the_maximum(setting, penalty, rng):
    """Each update is a direction of ascent; halved where need be, updates reach the top."""
    gate, params, batch = setting
    penalty = penalty.scaled(1000.0)
    resp = rng.dirichlet(np.ones(3), batch.n_units)
    if gate.objective == "conditional" and not gate.has_logits:
        # Of noise such a gate need not have a finite maximum; of what it can make itself it has.
        packed = gate.pack(params)
        target = gate.unpack(packed + 0.3 * rng.standard_normal(packed.shape), params)
        resp = np.exp(gate.log_prob(target, batch))
    resp = on_support(gate, params, batch, resp)
    weight = resp * batch.weight[:, None]
    for _ in range(400):
        image = gate.update(params, gate.accumulate(params, batch, weight), penalty)
        here, step = gate.pack(params), gate.pack(image) - gate.pack(params)
        value = expected(gate, params, batch, weight, penalty)
        stats = gate.accumulate(params, batch, weight)
        promise = promised(gate, params, stats, penalty) @ step
        if np.abs(step).max() < 1e-10:
            break
        # Rounding of a sum of this size; a rise below it cannot be seen.
        slack = 1e-14 * batch.n_units * (1.0 + abs(value))
        for i in range(HALVINGS):
            params = gate.unpack(here + 0.5**i * step, params)
            if expected(gate, params, batch, weight, penalty) >= value - slack:
                break
        else:
            pytest.fail("no step along the update raises the expected log-likelihood")
        if gate.sparse or not gate.smooth:
            # Up it goes; but a step may not leave an expert without weight where it explains
            # rows, or not cross a kink, so that the top need not be reached.
            assert promise > 0
            return
    else:
        # Along a ridge steps need not end; what they promise does.
        assert not gate.has_logits
        slack = 1e-7 * batch.n_units
        assert 0 <= promise < slack
    top = expected(gate, params, batch, weight, penalty)
    for _ in range(50):
        moved = gate.unpack(gate.pack(params) + 0.1 * rng.standard_normal(len(here)), params)
        assert expected(gate, moved, batch, weight, penalty) < top + slack


def test_start_follows_the_responsibilities(setting, rng):
    """Started from responsibilities, the gate explains them better than with zero coefficients."""
    gate, _, batch = setting
    resp = rng.dirichlet([4.0, 1.0, 0.5], batch.n_units)
    params = gate.init_params(batch, resp, rng)
    log_prob = gate.log_prob(params, batch)
    weight = on_support(gate, params, batch, resp) * batch.weight[:, None]
    score = np.sum(weight * np.where(weight > 0.0, log_prob, 0.0))
    nothing = gate.unpack(np.zeros(gate.n_params(params)), params)
    assert score > np.sum(weight * gate.log_prob(nothing, batch))
    hard = np.eye(3)[np.arange(batch.n_units) % 2]  # expert 3 holds nothing
    params = gate.init_params(batch, hard, rng)
    log_prob = gate.log_prob(params, batch)
    assert not np.isnan(log_prob).any()
    assert gate.sparse or np.isfinite(log_prob).all()


def test_permute_keeps_the_reference_last(setting):
    gate, params, _ = setting
    permuted = gate.permute(params, np.array([1, 2, 0]))
    again = gate.unpack(gate.pack(permuted), permuted)
    assert again.keys() == permuted.keys()
    for name in permuted:
        assert_allclose(again[name], permuted[name], rtol=1e-12, atol=1e-14)


def test_a_penalty_does_not_see_which_expert_is_the_reference(setting, penalty):
    gate, params, batch = setting
    if "coef" not in params:
        return
    mask = gate.penalized(batch.Z.shape[1])
    value = penalty.value(gate.penalized_coef(params), mask)
    for order in ([1, 2, 0], [2, 0, 1], [2, 1, 0]):
        permuted = gate.permute(params, np.array(order))
        assert penalty.value(gate.penalized_coef(permuted), mask) == pytest.approx(value, rel=1e-12)


def test_gate_without_features_ignores_them(gate, case):
    if gate.uses_features:
        return
    _, theta, batch = case(gate, Gaussian(), "plain")
    log_prob = gate.log_prob(theta.gate, batch)
    assert_allclose(log_prob, np.tile(log_prob[0], (batch.n_units, 1)))


def test_saved_gate_comes_back(gate, tmp_path):
    write_archive(tmp_path / "gate.mxp", "test", gate)
    assert read_archive(tmp_path / "gate.mxp")[1] == gate


# --- the two gates against what is known of them -----------------------------------------------


def test_softmax_is_that_of_scipy(case):
    _, theta, batch = case(Softmax(), Gaussian(), "plain")
    logits = batch.Z @ theta.gate["coef"].T
    log_prob = Softmax().log_prob(theta.gate, batch)
    assert_allclose(log_prob, log_softmax(logits, axis=1), rtol=1e-13)
    assert_allclose(theta.gate["coef"][-1], 0.0)


def test_softmax_survives_huge_logits(case):
    _, theta, batch = case(Softmax(), Gaussian(), "plain")
    log_prob = Softmax().log_prob({"coef": 1e6 * theta.gate["coef"]}, batch)
    assert np.isfinite(log_prob).all()
    assert_allclose(np.exp(log_prob).sum(axis=1), 1.0, rtol=1e-14)


def test_constant_gate_takes_the_weighted_shares(case, rng):
    _, theta, batch = case(Constant(), Gaussian(), "weights")
    resp = rng.dirichlet(np.ones(3), batch.n_units)
    weight = resp * batch.weight[:, None]
    stats = Constant().accumulate(theta.gate, batch, weight)
    share = np.exp(Constant().update(theta.gate, stats, NoPenalty())["log_weight"])
    assert_allclose(share, np.average(resp, axis=0, weights=batch.weight), rtol=1e-13)


def test_separation_is_seen_and_only_where_it_is(case):
    """Information is gone only where the gate is as good as a step."""
    gate = Softmax()
    _, _, batch = case(gate, Gaussian(), "plain", n_experts=2)
    resp = np.full((batch.n_units, 2), 0.5)
    for size, separated in ((1.0, False), (1e4, True)):
        params = {"coef": np.array([[0.0, size, 0.0], [0.0, 0.0, 0.0]])}
        assert gate.separation(params, gate.accumulate(params, batch, resp)) is separated


def test_no_gate_moves_without_data(gate, case):
    """Units of weight zero carry no information: the statistics vanish."""
    _, theta, batch = case(gate, Gaussian(), "plain")
    nothing = dataclasses.replace(batch, weight=np.zeros(batch.n_units))
    stats = gate.accumulate(theta.gate, nothing, np.zeros((batch.n_units, 3)))
    assert all(not np.any(value) for value in stats.values())
