"""Starts: valid, repeatable, and functions of weighted values alone."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._batch import Batch
from mixexperts.em import Model
from mixexperts.em.init import (
    AUTO,
    KINDS,
    initial_theta,
    keyed_rng,
    split_worst,
    theta_from_responsibilities,
)
from mixexperts.em.restarts import Start
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant, Softmax

MODELS = {"softmax": Model(Softmax(), Gaussian()), "constant": Model(Constant(), Gaussian())}
# Sums in another order; short runs inside a start may magnify that a little.
SAME = 1e-7


@pytest.fixture
def batch():
    rng = np.random.default_rng(20260901)
    n = 90
    x = rng.standard_normal((n, 2))
    y = np.array([-4.0, 0.0, 5.0])[rng.integers(0, 3, n)] + x[:, 0] + 0.5 * rng.standard_normal(n)
    design = np.column_stack([np.ones(n), x])
    return Batch(y / y.std(), {"mean": design}, design, np.ones(n))


def rows(batch, index, weight=None):
    return dataclasses.replace(
        batch,
        y=batch.y[index],
        designs={"mean": batch.X[index]},
        Z=batch.Z[index],
        weight=batch.weight[index] if weight is None else weight,
    )


@pytest.fixture(params=["softmax", "constant"])
def model(request):
    return MODELS[request.param]


def theta_of(model, batch, kind, index=0, n_experts=3):
    return initial_theta(model, batch, n_experts, kind, keyed_rng(7, kind, index))


def assert_same(model, left, right):
    assert_allclose(model.pack(left), model.pack(right), rtol=SAME, atol=SAME)


@pytest.mark.parametrize("n_experts", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_valid_parameters(model, batch, kind, n_experts):
    for index in range(3):
        theta = theta_of(model, batch, kind, index, n_experts)
        assert theta.expert["coef"].shape == (n_experts, 3)
        assert theta.expert["scale"].shape == (n_experts,)
        assert (theta.expert["scale"] > 0).all()
        assert np.isfinite(model.pack(theta)).all()
        log_prob = model.gate.log_prob(theta.gate, batch)
        assert log_prob.shape == (90, n_experts)
        assert_allclose(np.exp(log_prob).sum(axis=1), 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_are_keyed(model, batch, kind):
    """The same key, the same start; another index, another start."""
    first = model.pack(theta_of(model, batch, kind, 0))
    assert (first == model.pack(theta_of(model, batch, kind, 0))).all()
    others = [model.pack(theta_of(model, batch, kind, i)) for i in range(1, 5)]
    assert any(np.abs(other - first).max() > 1e-3 for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_do_not_depend_on_the_order_of_rows(model, batch, kind):
    order = np.random.default_rng(1).permutation(90)
    for index in range(3):
        assert_same(
            model,
            theta_of(model, rows(batch, order), kind, index),
            theta_of(model, batch, kind, index),
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_weight_two_starts_like_the_row_twice(model, batch, kind):
    times = 1 + np.arange(90) % 3
    twice = rows(batch, np.repeat(np.arange(90), times))
    weighted = rows(batch, np.arange(90), times.astype(float))
    for index in range(3):
        assert_same(
            model, theta_of(model, weighted, kind, index), theta_of(model, twice, kind, index)
        )


@pytest.mark.parametrize("junk", [0.0, 50.0, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_weight_zero_starts_like_the_row_absent(model, batch, kind, junk):
    out = np.arange(90) % 5 == 3
    weight = np.where(out, 0.0, 1.0)
    design = np.where(out[:, None], [1.0, junk, -junk], batch.X)
    weighted = dataclasses.replace(
        batch, y=np.where(out, junk, batch.y), designs={"mean": design}, Z=design, weight=weight
    )
    absent = rows(batch, ~out)
    for index in range(2):
        assert_same(
            model, theta_of(model, weighted, kind, index), theta_of(model, absent, kind, index)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_starts_bear_tied_rows(model, kind):
    """Many copies of few distinct points: fewer points than some kinds would like."""
    x = np.repeat([-1.0, 0.0, 1.0], 20)
    y = np.tile([0.0, 1.0], 30)
    design = np.column_stack([np.ones(60), x])
    batch = Batch(y, {"mean": design}, design, np.ones(60))
    for n_experts in (2, 4):
        theta = theta_of(model, batch, kind, 0, n_experts)
        assert np.isfinite(model.pack(theta)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_starts_bear_units_of_several_rows(model, batch, kind):
    unit = np.repeat(np.arange(30), 3)
    grouped = dataclasses.replace(batch, Z=batch.Z[::3], weight=np.ones(30), unit=unit)
    theta = theta_of(model, grouped, kind)
    assert theta.expert["coef"].shape == (3, 3)
    assert np.isfinite(model.pack(theta)).all()


def test_unknown_kind_lists_the_known(model, batch):
    with pytest.raises(ValueError, match="start 'kmean' is not known; known starts: 'kmeans'"):
        initial_theta(model, batch, 2, "kmean", keyed_rng(0, "x", 0))


def test_auto_runs_through_every_kind_but_the_dear_ones():
    assert sorted({*AUTO, "cem", "anneal", "evolve", "split_merge"}) == sorted(KINDS)


def test_keyed_numbers_depend_on_all_of_the_key():
    draws = {
        keyed_rng(seed, kind, index).random()
        for seed in (0, 1)
        for kind in ("kmeans", "split")
        for index in (0, 1)
    }
    assert len(draws) == 8


@pytest.mark.parametrize("n_experts", [1, 2, 3])
def test_split_adds_one_expert_and_splits_the_worst_explained(batch, n_experts):
    model = MODELS["constant"]
    theta = theta_of(model, batch, "kmeans", 0, n_experts)
    grown = split_worst(model, batch, theta, np.random.default_rng(0))
    assert grown.expert["coef"].shape == (n_experts + 1, 3)
    assert np.isfinite(model.pack(grown)).all()
    if n_experts == 1:
        # halves of one cloud: both fit their rows better than the one did
        assert (grown.expert["scale"] < theta.expert["scale"]).all()


def test_split_leaves_the_well_explained_alone(batch):
    """Two tight lines and a cloud: the cloud is split."""
    rng = np.random.default_rng(2)
    n = 150
    label = np.arange(n) % 3
    x = rng.standard_normal(n)
    spread = np.array([0.01, 0.01, 2.0])
    y = np.array([-20.0, 0.0, 20.0])[label] + x + spread[label] * rng.standard_normal(n)
    design = np.column_stack([np.ones(n), x])
    data = Batch(y, {"mean": design}, np.ones((n, 1)), np.ones(n))
    model = MODELS["constant"]
    theta = theta_from_responsibilities(model, data, np.eye(3)[label], rng)
    assert_allclose(theta.expert["scale"], spread, rtol=0.3)
    grown = split_worst(model, data, theta, rng)
    assert_allclose(grown.expert["coef"][:2], theta.expert["coef"][:2], atol=1e-6)
    assert_allclose(grown.expert["coef"][2:, 0], 20.0, atol=4.0)


def test_start_from_fewer_experts_is_split_until_there_are_enough(model, batch):
    one = theta_of(model, batch, "kmeans", 0, 1)
    grown = Start("split", theta=one).parameters(model, batch, 4, seed=0)
    assert len(grown.expert["scale"]) == 4
    again = Start("split", theta=one).parameters(model, batch, 4, seed=0)
    assert (model.pack(grown) == model.pack(again)).all()


def test_split_takes_the_prior_evidence_of_units_into_account(batch):
    """With log_prior, responsibilities are those of the E-step, prior included."""
    model = MODELS["constant"]
    theta = theta_of(model, batch, "kmeans", 0, 2)
    prior = np.tile([0.0, -np.inf], (90, 1))
    prior[60:] = [-np.inf, 0.0]  # known experts: the first 60 units, the last 30
    known = dataclasses.replace(batch, log_prior=prior)
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = split_worst(model, known, theta, np.random.default_rng(0))
    share = np.exp(grown.gate["log_weight"])
    # one of the two known groups (2/3 and 1/3) is split, the other is whole
    assert min(abs(share - 2 / 3).min(), abs(share - 1 / 3).min()) < 1e-6
