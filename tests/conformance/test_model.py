"""Every gate with every expert: gradient, additivity, weights, ascent, recovery."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._archive import read_archive, write_archive
from mixexperts._batch import add_stats
from mixexperts.em import Monitor, fit_em
from mixexperts.em.engine import em_pass
from mixexperts.penalties import Ridge

# Fourth-order central differences with h = 2e-5: truncation h^4 times fifth derivatives is below
# 1e-9 even for densities that bend within a hundredth of their scale; rounding eps * |f| / h under
# 1e-8, and kinks of second derivatives are seldom met.
STEP = 2e-5
GRADIENT_TOL = 1e-6
# Steps that hardly ever meet a jump or a kink; rounding stays under 1e-8.
SHORT_STEP = 1e-5
# Sums of some hundred terms in another order.
SUM_TOL = 1e-11
# Float32 keeps 1.2e-7; the log density squares a residual of a few scales.
FLOAT32_TOL = 1e-4
HALVINGS = 40


def objective(model, theta, batch):
    return em_pass(model, theta, batch)["log_likelihood"] - model.penalty_value(theta)


def numeric_gradient(function, at, step=STEP):
    """Fourth-order central differences."""
    gradient = np.empty_like(at)
    for i in range(len(at)):
        values = []
        for shift in (-2, -1, 1, 2):
            moved = at.copy()
            moved[i] += shift * step
            values.append(function(moved))
        gradient[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return gradient


def step_of(model):
    return STEP if model.gate.smooth else SHORT_STEP


def assert_stats_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        scale = np.abs(left[name]).max(initial=1.0)
        assert_allclose(left[name], right[name], rtol=0, atol=SUM_TOL * scale, err_msg=name)


def assert_gradient(model, theta, batch):
    """Against differences with steps that shrink: near an edge of a link functions bend fast."""
    stats = em_pass(model, theta, batch)
    score, here = model.score(theta, stats), model.pack(theta)
    for share in (1.0, 1 / 16, 1 / 256):
        step = share * step_of(model)
        numeric = numeric_gradient(
            lambda v: objective(model, model.unpack(v, theta), batch), here, step
        )
        terms = abs(stats["log_likelihood"]) + stats["weight"]
        rounding = 16.0 * np.finfo(float).eps * terms / STEP
        allowed = GRADIENT_TOL * np.abs(numeric).max(initial=0.0) + rounding
        if np.isclose(score, numeric, rtol=GRADIENT_TOL, atol=allowed).all():
            return
    assert_allclose(score, numeric, rtol=GRADIENT_TOL, atol=allowed)


def test_score_is_the_gradient_of_the_log_likelihood(gate, expert, kind, case):
    model, theta, batch = case(gate, expert, kind)
    assert_gradient(model, theta, batch)


def test_score_holds_the_pull_of_the_penalties(gate, expert, case):
    strong = Ridge(5.0)
    model, theta, batch = case(gate, expert, gate_penalty=strong, expert_penalty=strong)
    sizes = [room.penalized_coef(params).size for room, _, params in model.penalized_rooms(theta)]
    assert (model.penalty_value(theta) > 0) == any(sizes)
    assert_gradient(model, theta, batch)


def test_parts_add_up_to_the_whole(gate, expert, kind, case):
    model, theta, batch = case(gate, expert, kind)
    whole = em_pass(model, theta, batch)
    cuts = [0, 1, batch.n_units // 2, batch.n_units]
    parts = [em_pass(model, theta, batch.take(a, b)) for a, b in pairwise(cuts)]
    assert_stats_equal(whole, add_stats(add_stats(parts[0], parts[1]), parts[2]))
    assert_stats_equal(whole, em_pass(model, theta, batch.take(0, batch.n_units)))


def test_weight_two_is_the_unit_twice(gate, expert, kind, case, tools):
    model, theta, batch = case(gate, expert, kind)
    units = [batch.take(i, i + 1) for i in range(batch.n_units)]
    twice = np.arange(batch.n_units) % 3 == 1
    doubled = tools.join([u for u, two in zip(units, twice, strict=True) for _ in range(1 + two)])
    weighted = dataclasses.replace(batch, weight=np.where(twice, 2.0, 1.0) * batch.weight)
    assert_stats_equal(em_pass(model, theta, weighted), em_pass(model, theta, doubled))


def test_weight_zero_is_the_unit_absent(gate, expert, kind, case, tools):
    model, theta, batch = case(gate, expert, kind)
    absent = np.arange(batch.n_units) % 4 == 2
    units = [batch.take(i, i + 1) for i in range(batch.n_units)]
    kept = tools.join([u for u, out in zip(units, absent, strict=True) if not out])
    weighted = dataclasses.replace(batch, weight=np.where(absent, 0.0, batch.weight))
    assert_stats_equal(em_pass(model, theta, weighted), em_pass(model, theta, kept))


def test_unit_of_weight_zero_does_nothing_even_where_its_density_vanishes(case):
    from mixexperts.experts import Gaussian
    from mixexperts.gates import Softmax

    model, theta, batch = case(Softmax(), Gaussian(), "plain")
    y, weight = batch.y.copy(), batch.weight.copy()
    y[5], weight[5] = 1e200, 0.0  # its squared residual overflows: log density -inf
    with np.errstate(over="ignore", invalid="ignore"):
        stats = em_pass(model, theta, dataclasses.replace(batch, y=y, weight=weight))
    for name, value in stats.items():
        assert np.isfinite(value).all(), name


def test_one_update_ascends(gate, expert, kind, case):
    """The M-step, shortened if need be as the engine shortens it, raises the objective."""
    penalty = Ridge(0.5)
    model, theta, batch = case(gate, expert, kind, gate_penalty=penalty, expert_penalty=penalty)
    stats = em_pass(model, theta, batch)
    here = model.pack(theta)
    step = model.pack(model.map_step(theta, stats)) - here
    if np.abs(model.score(theta, stats)).max(initial=0.0) < 1e-13 * stats["weight"]:
        return  # nothing to learn
    assert model.score(theta, stats) @ step > 0  # a direction of ascent
    start = objective(model, theta, batch)
    trials = (
        objective(model, model.unpack(here + 0.5**i * step, theta), batch) for i in range(HALVINGS)
    )
    assert any(value > start for value in trials)


def test_pack_and_unpack_are_inverse(gate, expert, case):
    model, theta, batch = case(gate, expert)
    packed = model.pack(theta)
    assert packed.shape == (model.n_params(theta),)
    again = model.unpack(packed, theta)
    # parameters of order one; those through a matrix factor round in the last digits
    assert_allclose(model.pack(again), packed, rtol=1e-14, atol=1e-14)
    # A parameter that is off by a unit in the last place moves terms that cancel in the sum.
    assert_allclose(
        model.log_joint(again, batch), model.log_joint(theta, batch), rtol=1e-13, atol=1e-12
    )


def test_permuting_experts_permutes_everything(gate, expert, kind, case, tools):
    model, theta, batch = case(gate, expert, kind)
    order = tools.an_order(model)
    permuted = model.permute(theta, order)
    batch_p = batch
    if batch.log_prior is not None:
        batch_p = dataclasses.replace(batch, log_prior=batch.log_prior[:, order])
    joint = model.log_joint(theta, batch)
    assert_allclose(model.log_joint(permuted, batch_p), joint[:, order], rtol=1e-12, atol=1e-12)
    assert_allclose(
        model.expert.mean(permuted.expert, batch), model.expert.mean(theta.expert, batch)[:, order]
    )
    assert_allclose(
        model.gate.log_prob(permuted.gate, batch),
        model.gate.log_prob(theta.gate, batch)[:, order],
        rtol=1e-12,
        atol=1e-12,
    )
    assert model.n_params(permuted) == model.n_params(theta)
    back = model.permute(permuted, np.argsort(order))
    assert_allclose(model.pack(back), model.pack(theta), rtol=1e-12, atol=1e-12)
    # a valid point: packing loses nothing, the reference expert included
    through = model.unpack(model.pack(permuted), permuted)
    assert_allclose(model.log_joint(through, batch), model.log_joint(permuted, batch), rtol=1e-12)


def test_float32_data_give_nearly_the_same(gate, expert, kind, case, tools):
    model, theta, batch = case(gate, expert, kind)
    single = em_pass(model, tools.as_float32(theta), tools.as_float32(batch))
    for name, value in em_pass(model, theta, batch).items():
        scale = np.abs(value).max(initial=1.0)
        assert_allclose(single[name], value, rtol=0, atol=FLOAT32_TOL * scale, err_msg=name)


def test_saved_model_and_parameters_come_back(gate, expert, penalty, case, tmp_path):
    model, theta, batch = case(gate, expert, gate_penalty=penalty)
    write_archive(tmp_path / "model.mxp", "test", {"model": model, "theta": theta})
    kind, tree = read_archive(tmp_path / "model.mxp")
    assert kind == "test"
    assert tree["model"] == model
    assert_allclose(model.pack(tree["theta"]), model.pack(theta), rtol=0)
    assert (
        em_pass(tree["model"], tree["theta"], batch)["log_likelihood"]
        == (em_pass(model, theta, batch)["log_likelihood"])
    )


def test_one_expert_has_weight_one(gate, expert, case):
    model, theta, batch = case(gate, expert, "plain", n_experts=1)
    assert_allclose(model.gate.log_prob(theta.gate, batch), 0.0, atol=1e-15)
    stats = em_pass(model, theta, batch)
    alone = model.expert.log_prob(theta.expert, batch).sum()
    if expert.truncates:  # the chance of the rows to be sampled
        alone -= expert.log_inside(theta.expert, batch).sum()
    if gate.objective == "joint":  # the features keep their density
        assert model.gate.n_params(theta.gate) > 0
        alone += model.gate.log_score(theta.gate, batch).sum()
    else:
        assert model.gate.n_params(theta.gate) == 0
    assert stats["log_likelihood"] == pytest.approx(alone, rel=1e-13)


# Replicates, and how far a median of that many may lie from zero in its own standard errors, 1.2533
# times those of a mean: 4.5 leaves 1e-5 per parameter. Medians, since an estimate may lie on the
# boundary, such as the logarithm of a dispersion of zero. A maximum likelihood estimate is itself
# biased by order 1/n, at 500 units an eighth of a standard deviation for a scale; a third is
# allowed. Together that is 0.96 standard deviations: a scale wrong by 4% fails.
N_REPLICATES = 80
MEDIAN_ERRORS = 4.5 * 1.2533
BIAS_ALLOWED = 1.0 / 3.0


@pytest.mark.few_pairs
def test_sampling_then_fitting_recovers_the_truth(gate, expert, case, tools, rng):
    model, first, batch = case(gate, expert, "plain", n_units=500, n_experts=2)
    if not expert.n_params(first.expert):
        return  # experts without parameters are all alike
    theta = tools.separated_theta(model, batch, rng)
    truth, estimates, gains, crawling = model.pack(theta), [], [], 0
    for _ in range(N_REPLICATES):
        drawn, _ = tools.redraw(model, theta, batch, rng)
        result = fit_em(model, drawn, theta, monitor=Monitor(max_iter=2000))
        if result.status != "converged":
            # Towards a boundary, such as skewness zero or a class that an expert never sees, a run
            # may crawl; there is next to nothing left to gain then.
            assert result.status == "max_iter"
            assert result.predicted_gain < 1e-4
            crawling += 1
        gain = result.log_likelihood - em_pass(model, theta, drawn)["log_likelihood"]
        assert gain >= 0
        gains.append(2 * gain)
        estimates.append(model.pack(result.theta))
    assert crawling <= N_REPLICATES // 10
    if not model.gate.identified:
        # Only the density can be recovered. In a regular model twice the gain is chi-squared, one
        # per parameter; where parameters are not identified it is of that order.
        assert np.mean(gains) < 2 * len(truth)
        return
    error = np.median(estimates, axis=0) - truth
    low, high = np.quantile(estimates, [0.25, 0.75], axis=0)
    spread = (high - low) / 1.349  # of a normal distribution the standard deviation
    assert (spread > 0).all()
    allowed = spread * (MEDIAN_ERRORS / np.sqrt(N_REPLICATES) + BIAS_ALLOWED)
    assert (np.abs(error) <= allowed).all(), error / spread
