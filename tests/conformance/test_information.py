"""The observed information against finite differences of the score, for whatever has one."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts.em import Model
from mixexperts.em.information import (
    has_information,
    observed_information,
    penalty_information,
)
from mixexperts.em.model import em_pass
from mixexperts.em.passes import fused_information
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant, Softmax
from mixexperts.penalties import Ridge


def by_differences(model, theta, batch, step=1e-5):
    here = model.pack(theta)

    def score(vector):
        point = model.unpack(vector, theta)
        return model.score(point, em_pass(model, point, batch))

    columns = [
        (
            8.0 * (score(here - step * e) - score(here + step * e))
            - (score(here - 2 * step * e) - score(here + 2 * step * e))
        )
        / (12 * step)
        for e in np.eye(len(here))
    ]
    return np.stack(columns, axis=1) if columns else np.empty((0, 0))


@pytest.mark.parametrize("n_experts", [1, 2, 3])
def test_information_is_minus_the_derivative_of_the_score(gate, expert, kind, case, n_experts):
    model, theta, batch = case(gate, expert, kind, n_experts=n_experts)
    theta = model.unpack(model.pack(theta), theta)
    if not has_information(model):
        with pytest.raises(UnsupportedCombinationError, match="no observed information"):
            observed_information(model, theta, batch)
        return
    found = observed_information(model, theta, batch)
    # Steps that shrink: near an edge of a link slopes bend fast.
    rounding = 1e-10 * batch.n_rows  # of the sums, over the step
    for step in (1e-5, 1e-6):
        right = by_differences(model, theta, batch, step)
        allowed = 1e-7 * np.abs(right).max(initial=0.0) + rounding
        if np.abs(found["information"] - right).max(initial=0.0) <= allowed:
            return
    assert_allclose(found["information"], right, rtol=0, atol=allowed)


@pytest.mark.parametrize("gate_of", [Softmax, Constant])
def test_penalties_add_their_hessian(gate_of, case):
    penalties = {"expert_penalty": Ridge(3.0)}
    if gate_of is Softmax:
        penalties["gate_penalty"] = Ridge(2.0)
    model, theta, batch = case(gate_of(), Gaussian(), "weights", **penalties)
    found = observed_information(model, theta, batch)["information"]
    found = found + penalty_information(model, theta)
    right = by_differences(model, theta, batch)
    assert_allclose(found, right, rtol=0, atol=1e-7 * np.abs(right).max())


def test_blocks_add_up(case):
    model, theta, batch = case(Softmax(), Gaussian(), "log_prior", n_units=90)
    whole = observed_information(model, theta, batch)["information"]
    parts = [observed_information(model, theta, b)["information"] for b in batch.split(7)]
    assert_allclose(sum(parts), whole, rtol=0, atol=1e-11 * np.abs(whole).max())
    assert isinstance(model, Model)


@pytest.mark.parametrize("n_experts", [1, 2, 4])
def test_compiled_information_is_that_of_the_reference(gate, expert, case, n_experts):
    """A design that gate and experts share goes through the compiled sums."""
    model, theta, batch = case(gate, expert, "everything", n_experts=n_experts, n_units=500)
    if batch.Z.shape[1] not in (0, batch.X.shape[1]):
        return
    first = np.searchsorted(batch.unit, np.arange(500))
    shared = dataclasses.replace(
        batch,
        y=batch.y[first],
        designs={"mean": batch.X[first]},
        unit=None,
        offset=batch.offset[first],
        log_prior=None,
    )
    if gate.uses_features:
        shared = dataclasses.replace(shared, Z=shared.X)
    compiled = fused_information(model, theta, shared)
    if compiled is None:
        return
    copied = dataclasses.replace(shared, log_prior=np.zeros((500, n_experts)))
    right = observed_information(model, theta, copied)["information"]
    found = model.expert.tie(theta.expert, compiled)
    assert_allclose(found, right, rtol=0, atol=1e-11 * np.abs(right).max())
