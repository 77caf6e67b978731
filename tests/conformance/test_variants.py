"""Other E-steps and learning by blocks, for every family and every gate."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts.em import Model
from mixexperts.em.model import em_pass
from mixexperts.em.online import begin, complete_information, learn
from mixexperts.em.variants import Hard, Tempered
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax

STEP = 1e-5


def check_gradient(model, theta, batch, e_step):
    """The score at the variant's responsibilities is the gradient of its objective."""
    at = model.pack(theta)

    def objective(vector):
        return em_pass(model, model.unpack(vector, theta), batch, e_step)["objective"]

    numeric = np.array(
        [
            (objective(at + STEP * e) - objective(at - STEP * e)) / (2 * STEP)
            for e in np.eye(len(at))
        ]
    )
    score = model.score(theta, em_pass(model, theta, batch, e_step))
    # central differences of second order: h^2 times third derivatives, and rounding over h
    assert_allclose(score, numeric, rtol=0, atol=1e-5 * max(np.abs(numeric).max(), 1.0))


@pytest.mark.parametrize("e_step", [Hard(), Tempered(0.6)], ids=["hard", "tempered"])
def test_every_family_has_the_gradient_of_the_variants(expert, case, e_step):
    check_gradient(*case(Softmax(), expert, "everything"), e_step)


@pytest.mark.parametrize("e_step", [Hard(), Tempered(0.6)], ids=["hard", "tempered"])
def test_every_gate_has_the_gradient_of_the_variants(gate, case, e_step):
    check_gradient(*case(gate, Gaussian(), "everything"), e_step)


def check_learning(model, theta, batch):
    information = complete_information(model, theta, batch)
    assert np.isfinite(information).all()
    assert_allclose(information, information.T)
    total = float(batch.weight.sum())
    share = np.full(len(next(iter(theta.expert.values()))), 1 / 3)
    state = begin(model, theta, batch, share, total, total)
    value = em_pass(model, theta, batch)["log_likelihood"]
    for _ in range(8):
        state = learn(model, state, batch, 1.0)
    assert np.isfinite(model.pack(state.theta)).all()
    gain = em_pass(model, state.theta, batch)["log_likelihood"] - value
    if model.expert.n_params(theta.expert):
        assert gain > 0


def test_every_family_learns_from_blocks(expert, case):
    """Steps on one and the same block climb its likelihood."""
    model, theta, batch = case(Softmax(), expert, "weights")
    check_learning(model, theta, dataclasses.replace(batch))


def test_every_gate_learns_from_blocks(gate, case):
    model, theta, batch = case(gate, Gaussian(), "weights")
    check_learning(Model(model.gate, model.expert), theta, batch)
