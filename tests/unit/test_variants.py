"""Classification, stochastic and annealed EM: the same pass with another E-step."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.base import clone

import mixexperts as mx
from mixexperts._batch import Batch
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.init import initial_theta, keyed_rng
from mixexperts.em.model import em_pass
from mixexperts.em.variants import (
    AnnealedEM,
    ClassificationEM,
    Drawn,
    Hard,
    StochasticEM,
    Tempered,
    chain,
    resolve_algorithm,
)
from mixexperts.errors import DegenerateFitWarning
from mixexperts.experts import Binomial, Gaussian, Poisson
from mixexperts.gates import Constant, Softmax
from mixexperts.penalties import Ridge

N = 300


def simulate(seed=0, n=N, family="gaussian", noise=0.6):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    label = rng.integers(0, 2, n)
    mean = np.where(label == 0, 1 + x, -1 - x)
    y = mean + noise * rng.normal(size=n)
    if family == "poisson":
        y = rng.poisson(np.exp(0.5 + 0.5 * mean)).astype(float)
    if family == "binomial":
        y = rng.binomial(8, 1 / (1 + np.exp(-mean)))
        y = np.column_stack([y, 8 - y]).astype(float)
    return x[:, None], y, label


def batch_of(X, y, unit=None, weight=None):
    design = np.column_stack([np.ones(len(X)), X])
    u = len(X) if unit is None else unit[-1] + 1
    Z = design if unit is None else np.ones((u, 1))
    return Batch(y, {"mean": design}, Z, np.ones(u) if weight is None else weight, unit=unit)


FAMILIES = {"gaussian": Gaussian(), "poisson": Poisson(), "binomial": Binomial()}
E_STEPS = {"hard": Hard(), "beta=0.5": Tempered(0.5), "beta=0.9": Tempered(0.9)}


@pytest.mark.parametrize("gate", [Constant(), Softmax()])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("e_step", E_STEPS)
def test_the_score_is_the_gradient_of_the_variants_objective(gate, family, e_step):
    X, y, _ = simulate(1, 60, family)
    model, batch = Model(gate, FAMILIES[family], expert_penalty=Ridge(0.5)), batch_of(X, y)
    theta = initial_theta(model, batch, 3, "random", keyed_rng(0, "t", 1))
    at = model.pack(theta) + 0.1 * np.random.default_rng(0).normal(size=model.pack(theta).shape)
    theta = model.unpack(at, theta)

    def objective(vector):
        point = model.unpack(vector, theta)
        return em_pass(model, point, batch, E_STEPS[e_step])["objective"] - model.penalty_value(
            point
        )

    step = 1e-6
    numeric = [
        (objective(at + step * e) - objective(at - step * e)) / (2 * step) for e in np.eye(len(at))
    ]
    score = model.score(theta, em_pass(model, theta, batch, E_STEPS[e_step]))
    assert_allclose(score, numeric, atol=1e-5 * np.abs(numeric).max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("e_step", E_STEPS)
@pytest.mark.parametrize("seed", range(3))
def test_no_pass_lowers_the_variants_objective(family, e_step, seed):
    X, y, _ = simulate(seed, 120, family)
    model, batch = Model(Softmax(), FAMILIES[family], gate_penalty=Ridge(1.0)), batch_of(X, y)
    theta = initial_theta(model, batch, 3, "random", keyed_rng(seed, "t", 0))
    result = fit_em(
        model, batch, theta, monitor=Monitor(60), accelerate=False, e_step=E_STEPS[e_step]
    )
    assert len(result.history) > 2
    assert np.diff(result.history).min() >= -1e-9 * np.abs(result.history).max()


def test_beta_one_is_em():
    X, y, _ = simulate(2)
    model, batch = Model(Softmax(), Gaussian()), batch_of(X, y)
    theta = initial_theta(model, batch, 2, "kmeans", keyed_rng(0, "t", 0))
    plain, other = em_pass(model, theta, batch), em_pass(model, theta, batch, Tempered(1.0))
    assert other.pop("objective") == pytest.approx(plain["log_likelihood"], rel=1e-14)
    for name, value in plain.items():
        assert_allclose(other[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("e_step", [Hard(), Tempered(0.7), Drawn(0, 0)])
def test_groups_share_their_label_and_evidence_holds(e_step):
    X, y, _ = simulate(3, 90)
    unit = np.repeat(np.arange(30), 3)
    batch = batch_of(X, y, unit)
    prior = np.zeros((30, 2))
    prior[::3, 0] = -np.inf
    batch = Batch(batch.y, batch.designs, batch.Z, batch.weight, unit=unit, log_prior=prior)
    model = Model(Constant(), Gaussian())
    theta = initial_theta(model, batch, 2, "kmeans", keyed_rng(0, "t", 0))
    resp, _ = e_step(model.log_joint(theta, batch), batch)
    assert resp.shape == (30, 2)
    assert_allclose(resp.sum(axis=1), 1.0)
    assert (resp[::3, 0] == 0).all()
    if not isinstance(e_step, Tempered):
        assert set(np.unique(resp)) == {0.0, 1.0}


def test_classification_em_is_a_fixed_point_of_hard_assignment():
    X, y, _ = simulate(4)
    est = mx.MoERegressor(2, gate="constant", algorithm="cem", random_state=0).fit(X, y)
    mean = est.intercept_ + X * est.coef_[:, 0]
    label = (norm.logpdf(y[:, None], mean, est.scale_) + np.log(est.gate_proba(X))).argmax(axis=1)
    total = 0.0
    for k in range(2):
        rows = label == k
        design = np.column_stack([np.ones(rows.sum()), X[rows]])
        coef = np.linalg.lstsq(design, y[rows], rcond=None)[0]
        scale = np.sqrt(np.mean((y[rows] - design @ coef) ** 2))
        assert_allclose([est.intercept_[k], est.coef_[k, 0]], coef, atol=1e-6)
        assert est.scale_[k] == pytest.approx(scale, abs=1e-6)
        total += norm.logpdf(y[rows], design @ coef, scale).sum()
        total += rows.sum() * np.log(rows.mean())
    assert est.objective_ == pytest.approx(total, abs=1e-6)
    assert est.log_likelihood_ == pytest.approx(est.score_samples(X, y).sum(), abs=1e-8)
    assert est.objective_ < est.log_likelihood_
    assert_allclose(est.mass_, np.bincount(label))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("algorithm", ["sem", "daem"])
def test_the_last_stage_is_em(algorithm, family):
    """Its result is a stationary point of the likelihood, and here the best that EM finds."""
    X, y, _ = simulate(5, family=family)
    options = {"expert": family, "gate": "constant", "random_state": 0, "n_init": 4}
    em = mx.MoERegressor(2, **options).fit(X, y)
    est = mx.MoERegressor(2, algorithm=algorithm, **options).fit(X, y)
    assert est.converged_
    assert est.log_likelihood_ == est.objective_
    assert est.log_likelihood_ == pytest.approx(em.log_likelihood_, abs=1e-6)
    assert np.diff(est.history_).min(initial=0.0) >= -1e-9


def test_the_chain_moves_about_the_maximum():
    """Its objective rises from a poor start, then varies: it is no monotone sequence."""
    X, y, _ = simulate(6)
    est = mx.MoERegressor(2, gate="constant", algorithm="sem", random_state=0, n_init=1).fit(X, y)
    path = est.trajectory_
    assert len(path) == 100
    assert (np.diff(path[20:]) < 0).mean() > 0.2
    assert est.log_likelihood_ >= path.max()
    # draws lose at most as much as if no label could be told: half a unit per parameter and more
    loss = est.log_likelihood_ - path[20:].mean()
    assert 0.0 < loss < 2 * est.n_parameters_
    assert not hasattr(est.set_params(algorithm="em").fit(X, y), "trajectory_")


def test_draws_are_keyed_and_not_a_matter_of_threads():
    X, y, _ = simulate(7)
    model, batch = Model(Constant(), Gaussian()), batch_of(X, y)
    theta = initial_theta(model, batch, 2, "kmeans", keyed_rng(0, "t", 0))
    blocks = batch.split(64)
    one, path = chain(model, blocks, theta, 15, seed=3)
    two, again = chain(model, blocks, theta, 15, seed=3)
    _, other = chain(model, blocks, theta, 15, seed=4)
    assert (path == again).all()
    assert (path[1:] != other[1:]).all()
    assert_allclose(model.pack(one), model.pack(two), rtol=0)
    resp, _ = Drawn(0, 0)(model.log_joint(theta, batch), batch)
    expected = em_pass(model, theta, batch)["expert.mass"]
    drawn = sum(
        Drawn(0, i)(model.log_joint(theta, batch), batch)[0].sum(axis=0) for i in range(200)
    )
    assert resp.sum() == N
    assert_allclose(drawn / 200, expected, atol=4 * np.sqrt(N / 4 / 200))


def test_annealing_depends_less_on_the_start():
    """Two crossing lines from random cells: annealed runs reach the best optimum more often."""
    reached = {"em": 0, "daem": 0}
    for seed in range(6):
        X, y, _ = simulate(20 + seed, noise=0.4)
        best = mx.MoERegressor(3, gate="constant", random_state=0, n_init=30).fit(X, y)
        for name in reached:
            est = clone(best).set_params(algorithm=name, init="random", n_init=8, random_state=seed)
            table = est.fit(X, y).restarts_
            ok = table["status"].eq("converged")
            near = table["log_likelihood"] > best.log_likelihood_ - 0.1
            reached[name] += int((ok & near).sum())
    assert reached["daem"] >= reached["em"]


@pytest.mark.parametrize("algorithm", ["cem", "sem", "daem"])
def test_many_rows_labels_and_files(algorithm, tmp_path, monkeypatch):
    from mixexperts.estimators import _data

    monkeypatch.setattr(_data, "_START_ROWS", 200)
    X, y, label = simulate(8, 600)
    known = np.where(np.arange(600) % 5 == 0, label, -1)
    settings = {"algorithm": algorithm, "gate": "constant", "n_init": 3, "random_state": 1}
    path = tmp_path / "fit.ckpt"
    est = mx.MoERegressor(2, **settings).fit(X, y, partial_labels=known)
    assert est.intercept_[0] > 0 > est.intercept_[1]
    again = mx.MoERegressor(2, checkpoint=path, **settings).fit(X, y, partial_labels=known)
    assert again.objective_ == est.objective_
    est.save(tmp_path / "m.mxp")
    assert mx.load(tmp_path / "m.mxp").algorithm == algorithm


@pytest.mark.parametrize("init", ["cem", "anneal", "evolve"])
def test_variants_as_starts(init):
    X, y, _ = simulate(9)
    best = mx.MoERegressor(2, gate="constant", random_state=0).fit(X, y)
    est = clone(best).set_params(init=init, n_init=2).fit(X, y)
    assert est.log_likelihood_ == pytest.approx(best.log_likelihood_, abs=1e-6)
    assert est.restarts_["init"].tolist() == [init] * 2


def test_evolving_is_as_good_as_the_median_random_start():
    """Final likelihood at least the median of 10 random starts, in 9 of 10 seeds."""
    good = 0
    for seed in range(10):
        rng = np.random.default_rng([3, seed])
        x, label = rng.uniform(-2, 2, 300), rng.integers(0, 3, 300)
        y = np.choose(label, [2 + x, -2 - x, 4 - 2 * x]) + 0.5 * rng.normal(size=300)
        est = mx.MoERegressor(3, gate="constant", random_state=seed, init="random")
        table = est.fit(x[:, None], y).restarts_
        median = table.loc[table["status"] == "converged", "log_likelihood"].median()
        with warnings.catch_warnings():  # a single start may end degenerate: it counts as lost
            warnings.simplefilter("ignore", DegenerateFitWarning)
            evolved = clone(est).set_params(init="evolve", n_init=1).fit(x[:, None], y)
        good += evolved.log_likelihood_ >= median - 1e-6
    assert good >= 9


def test_settings_are_checked_and_saved(tmp_path):
    X, y, _ = simulate(1, 80)
    with pytest.raises(ValueError, match="algorithm='vem' is not known"):
        mx.MoERegressor(algorithm="vem").fit(X, y)
    with pytest.raises(TypeError, match="algorithm must be one of"):
        mx.MoERegressor(algorithm=3).fit(X, y)
    with pytest.raises(ValueError, match="schedule must hold ascending"):
        AnnealedEM(schedule=(0.8, 0.5))
    with pytest.raises(ValueError, match="passes must be a positive"):
        AnnealedEM(passes=0)
    for wrong, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="draws must be a positive"):
            StochasticEM(draws=wrong)
    assert resolve_algorithm("cem") == ClassificationEM()
    est = mx.MoERegressor(algorithm=StochasticEM(draws=7), n_init=1, random_state=0).fit(X, y)
    assert len(est.trajectory_) == 7
    est.save(tmp_path / "m.mxp")
    assert mx.load(tmp_path / "m.mxp").algorithm == StochasticEM(7)
