"""Poisson and binomial experts against flexmix on real data, and against statsmodels with one."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy.special import log_softmax
from scipy.stats import poisson

import mixexperts as mx
from mixexperts._batch import Batch
from mixexperts.em import Model, fit_em
from mixexperts.em.init import initial_theta, keyed_rng
from mixexperts.errors import SeparationWarning
from mixexperts.experts import Binomial
from mixexperts.gates import Constant

REFERENCE = json.loads((Path(__file__).parent / "counts_cells.json").read_text(encoding="utf-8"))
CELLS, PRINTED = REFERENCE["cells"], REFERENCE["printed"]
# Printed log-likelihoods are rounded to 5e-5; ours stop within 1e-8 of the maximum or so.
ROUNDING = 1e-4
# Two coefficients of an expert, plus one.
DEGENERATE_ROWS = 3.0


def name(cell):
    return f"{cell['dataset']}-gate={cell['gate']}-K={cell['n_experts']}"


def load(cell):
    """Features of the experts and of the gate, and counts."""
    frame = getattr(mx.datasets, f"load_{cell['dataset']}")()
    if cell["dataset"] == "patent":
        return frame["lgRD"].to_numpy(), frame["RDS"].to_numpy(), frame["Patents"].to_numpy(float)
    length = np.log(frame["Length"].to_numpy())
    return length, length, frame["Faults"].to_numpy(float)


def fit(cell):
    x, z, y = load(cell)
    est = mx.MoERegressor(
        cell["n_experts"],
        expert="poisson",
        gate="constant" if cell["gate"] == "1" else "softmax",
        expert_features=[0],
        gate_features=[1],
        n_init=10 if cell["n_experts"] < 3 else 30,
        random_state=0,
    )
    with warnings.catch_warnings():
        # The best gate of fabricfault with three experts is a step.
        warnings.simplefilter("ignore", SeparationWarning)
        return est.fit(np.column_stack([x, z]), y)


@pytest.mark.parametrize("cell", CELLS, ids=name)
def test_the_data_are_those_of_the_peer(cell):
    x, z, y = load(cell)
    experts, gate = np.array(cell["experts"]), np.array(cell["gate_coef"])
    logits = gate[:, 0] + (np.outer(z, gate[:, 1]) if gate.shape[1] == 2 else 0.0 * x[:, None])
    mean = np.exp(experts[:, 0] + np.outer(x, experts[:, 1]))
    joint = log_softmax(logits, axis=1) + poisson.logpmf(y[:, None], mean)
    assert np.logaddexp.reduce(joint, axis=1).sum() == pytest.approx(
        cell["log_likelihood"], abs=ROUNDING
    )
    assert len(y) == cell["n"]


def test_every_cell_is_there_and_one_is_degenerate():
    assert len({name(cell) for cell in CELLS}) == 12
    few = [name(c) for c in CELLS if c["min_effective_rows"] < DEGENERATE_ROWS]
    assert few == ["fabricfault-gate=1-K=3"]


@pytest.mark.parametrize("cell", CELLS, ids=name)
def test_the_peer_is_reached(cell):
    est = fit(cell)
    assert est.status_ == "converged"
    assert est.n_parameters_ == cell["df"]
    if cell["min_effective_rows"] < DEGENERATE_ROWS:
        # Its solution is found, flagged, and not preferred.
        found = est.restarts_.set_index("status").loc["degenerate", "log_likelihood"]
        assert np.max(found) >= cell["log_likelihood"] - ROUNDING
        assert est.log_likelihood_ < cell["log_likelihood"]
    else:
        assert est.log_likelihood_ >= cell["log_likelihood"] - ROUNDING


def test_seizures_with_hours_as_exposure():
    printed = PRINTED["seizure"]
    frame = mx.datasets.load_seizure().assign(log_hours=lambda d: np.log(d["Hours"]))
    res = mx.moe(
        "Seizures ~ Treatment * np.log(Day)", frame, 2, family="poisson", offset="log_hours"
    )
    assert res.llf == pytest.approx(printed["log_likelihood"], abs=ROUNDING)
    assert res.df_model == printed["df"]
    assert res.bic == pytest.approx(printed["bic"], abs=2 * ROUNDING)


def test_centres_as_sampling_units():
    """Deaths under beta-blockers, both arms of a centre under the same expert."""
    printed = PRINTED["betablocker"]
    frame = mx.datasets.load_betablocker().sort_values("Center", kind="stable")
    treated = (frame["Treatment"] == "Treated").to_numpy(float)
    unit = np.unique(frame["Center"], return_inverse=True)[1]
    n_units = unit.max() + 1
    batch = Batch(
        np.column_stack([frame["Deaths"], frame["Total"] - frame["Deaths"]]).astype(float),
        {"mean": np.column_stack([np.ones(len(frame)), treated])},
        np.ones((n_units, 0)),
        np.ones(n_units),
        unit=unit,
    )
    model = Model(Constant(), Binomial())
    starts = (
        initial_theta(model, batch, printed["n_experts"], kind, keyed_rng(0, kind, 0))
        for kind in ("kmeans", "split", "small_em")
    )
    best = max(
        (fit_em(model, batch, theta) for theta in starts), key=lambda result: result.objective
    )
    assert best.status == "converged"
    assert best.log_likelihood == pytest.approx(printed["log_likelihood"], abs=ROUNDING)
    assert model.n_params(best.theta) == printed["df"]


# --- one expert is a generalised linear model -------------------------------------------------

N = 200


def glm_data(kind, rng):
    X = rng.standard_normal((N, 2)) * [1.0, 5.0] + [0.0, 100.0]
    eta = 0.5 + 0.6 * X[:, 0] + 0.1 * (X[:, 1] - 100.0)
    offset = 0.5 * rng.standard_normal(N)
    if kind == "poisson":
        return X, rng.poisson(np.exp(eta + offset)).astype(float), offset
    chance = 1.0 / (1.0 + np.exp(-eta - offset))
    if kind == "binary":
        return X, (rng.random(N) < chance).astype(float), offset
    trials = rng.integers(0, 9, N)  # some rows without trials
    successes = rng.binomial(trials, chance)
    return X, np.column_stack([successes, trials - successes]).astype(float), offset


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("kind", ["poisson", "binary", "counts"])
def test_one_expert_is_statsmodels(kind, with_offset, weighted):
    rng = np.random.default_rng(20260901)
    X, y, offset = glm_data(kind, rng)
    weight = rng.integers(1, 4, N).astype(float) if weighted else None
    offset = offset if with_offset else None
    some = np.ones(N, dtype=bool) if y.ndim == 1 else y.sum(axis=1) > 0
    take = lambda values: None if values is None else values[some]  # noqa: E731
    family = sm.families.Poisson() if kind == "poisson" else sm.families.Binomial()
    glm = sm.GLM(
        y[some], sm.add_constant(X[some]), family, offset=take(offset), freq_weights=take(weight)
    ).fit(tol=1e-14, maxiter=100)
    est = mx.MoERegressor(
        1, gate="constant", expert="poisson" if kind == "poisson" else "binomial", tol=1e-14
    ).fit(X, y, weight, offset=offset)
    assert est.status_ == "converged"
    assert_allclose(np.append(est.intercept_, est.coef_), glm.params, rtol=1e-6)
    assert est.log_likelihood_ == pytest.approx(glm.llf, rel=1e-8)
    predicted = est.predict(X[some], offset=take(offset))
    assert_allclose(
        predicted, glm.predict(sm.add_constant(X[some]), offset=take(offset)), rtol=1e-6
    )
