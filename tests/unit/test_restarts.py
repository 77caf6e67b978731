"""Many starts: the best sound one, the report, interrupts, checkpoints, workers."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.init import KINDS
from mixexperts.em.restarts import Restarts, Start
from mixexperts.errors import (
    ArchiveError,
    DegenerateFitWarning,
    RankDeficientWarning,
    SeparationWarning,
)
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant
from mixexperts.penalties import Ridge

# ``backend="numpy"`` where a test reaches into the methods of the expert.
PLAIN = {"backend": "numpy", "random_state": 0}


@pytest.fixture
def data():
    rng = np.random.default_rng(20260901)
    x = rng.standard_normal((120, 2))
    label = (x[:, 0] + 0.5 * rng.standard_normal(120) > 0).astype(int)
    y = np.where(label, 2.0 + x[:, 1], -1.0 - x[:, 0]) + 0.6 * rng.standard_normal(120)
    return x, y, label


# --- choosing among results -----------------------------------------------------------------------


def result(objective, status="converged"):
    """A result of a real run, with another objective and status."""
    design = np.ones((8, 1))
    batch = Batch(np.arange(8.0), {"mean": design}, design, np.ones(8))
    params = {"coef": np.array([[1.0], [6.0]]), "scale": np.ones(2)}
    theta = Theta({"log_weight": np.log([0.5, 0.5])}, params)
    run = fit_em(Model(Constant(), Gaussian()), batch, theta, monitor=Monitor(max_iter=1))
    return replace(
        run,
        log_likelihood=objective,
        objective=objective,
        status=status,
        mass=np.ones(2),
        theta=theta,
    )


def best_of(*results):
    return Restarts(tuple(Start("random", i) for i in range(len(results))), results).best_index


def test_best_is_the_highest_sound_objective():
    assert best_of(result(-5.0), result(-3.0), result(-4.0)) == 1
    assert best_of(result(-5.0), result(-5.0)) == 0
    assert best_of(result(-5.0, "max_iter"), result(-6.0)) == 0


@pytest.mark.parametrize("status", ["degenerate", "diverged", "monotonicity_lost"])
def test_unsound_results_are_never_preferred_to_sound_ones(status):
    assert best_of(result(1e6, status), result(-1e6)) == 1
    assert best_of(result(1e6, status), result(-1e6, "max_iter"), result(1e6, status)) == 1


@pytest.mark.parametrize("lost", [np.nan, -np.inf, np.inf])
def test_a_diverged_start_is_never_preferred_to_a_finite_one(lost):
    """Without any sound start, the best that has a number is taken."""
    assert best_of(result(lost, "diverged"), result(-7.0, "degenerate")) == 1
    assert best_of(result(-7.0, "degenerate"), result(lost, "diverged")) == 0


def test_table_marks_who_reached_the_best():
    results = (result(-3.0), result(-3.0005), result(-3.1), result(9.0, "degenerate"))
    starts = tuple(Start("random", i) for i in range(4))
    table = Restarts(starts, results).table(log_jacobian=10.0, response_scale=2.0)
    assert table["reached_best"] == [True, True, False, False]
    assert table["log_likelihood"] == pytest.approx([7.0, 6.9995, 6.9, 19.0])
    assert table["min_scale"] == [2.0] * 4
    assert table["min_share"] == [0.5] * 4


# --- through the estimator ----------------------------------------------------------------------


def test_restarts_table_has_one_row_per_start(data):
    X, y, _ = data
    est = mx.MoERegressor(2, n_init=8, random_state=0).fit(X, y)
    table = est.restarts_
    assert list(table.columns) == [
        "init", "log_likelihood", "objective", "status", "n_iter",
        "min_share", "min_scale", "flag", "reached_best",
    ]  # fmt: skip
    assert table.index.name == "start"
    assert table["init"].tolist() == [
        "kmeans", "residual", "split", "small_em",
        "elemental", "random", "kmeans", "residual",
    ]  # fmt: skip
    sound = table[table["status"].isin(["converged", "max_iter"])]
    # the first of the starts that tie up to rounding
    assert est.log_likelihood_ == pytest.approx(sound["log_likelihood"].max(), rel=1e-8)
    assert table.loc[table["reached_best"], "log_likelihood"].min() >= est.log_likelihood_ - 1e-3
    assert table["min_scale"].iloc[0] == pytest.approx(est.scale_.min(), rel=0.5)
    assert ((table["min_share"] > 0) & (table["min_share"] <= 0.5)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_fit(data, kind):
    X, y, _ = data
    fits = [mx.MoERegressor(2, init=kind, n_init=2, random_state=3).fit(X, y) for _ in range(2)]
    assert fits[0].history_.tolist() == fits[1].history_.tolist()
    assert (fits[0].coef_ == fits[1].coef_).all()


def test_more_starts_contain_the_fewer(data):
    """Seeds are keyed: the first starts are the same however many follow."""
    X, y, _ = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeparationWarning)
        few, many = (
            mx.MoERegressor(2, n_init=n, random_state=0).fit(X, y).restarts_ for n in (4, 9)
        )
    assert few["log_likelihood"].tolist() == many["log_likelihood"].iloc[:4].tolist()


def test_workers_change_nothing(data):
    """To rounding: a matrix product may round otherwise in another process."""
    X, y, _ = data
    one, two = (mx.MoERegressor(3, n_init=6, n_jobs=n, random_state=0).fit(X, y) for n in (1, 2))
    assert one.log_likelihood_ == pytest.approx(two.log_likelihood_, rel=1e-9)
    # A run stops at a predicted gain of 1e-8, that is some 1e-4 standard errors from the top.
    for name in ("coef_", "intercept_", "scale_", "mass_"):
        assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-4, err_msg=name)
    for name in ("init", "status", "flag"):
        assert one.restarts_[name].tolist() == two.restarts_[name].tolist()
    assert_allclose(one.restarts_["log_likelihood"], two.restarts_["log_likelihood"], rtol=1e-6)


def test_a_spike_is_not_chosen_over_a_sound_solution(data):
    """Three rows exactly on a plane: infinite likelihood, and no model."""
    X, y, label = data
    spike = np.where(np.arange(120) < 3, 0, 1)
    alone = mx.MoERegressor(2, init=spike, gate="constant", **PLAIN)
    with pytest.warns(DegenerateFitWarning, match="effective rows, fewer than its parameters"):
        alone.fit(X, y)
    both = mx.MoERegressor(2, init=[spike, label], gate="constant", **PLAIN).fit(X, y)
    assert both.restarts_["status"].tolist()[0] == "degenerate"
    assert both.status_ == "converged"
    assert both.restarts_["log_likelihood"][0] > both.log_likelihood_
    assert both.flags_ == ()


def test_flags_number_the_experts_as_they_are_reported(data):
    X, y, _ = data
    y = y.copy()
    y[:3] = -30.0 + 2.0 * X[:3, 0]
    spike = np.where(np.arange(120) < 3, 1, 0)  # second label, lowest mean: expert 1
    with pytest.warns(DegenerateFitWarning, match="expert 1"):
        est = mx.MoERegressor(2, init=spike, gate="constant", **PLAIN).fit(X, y)
    assert all(flag.startswith("expert 1 ") for flag in est.flags_)
    assert est.mass_[0] < est.mass_[1]


@pytest.mark.parametrize("gate_penalty", [None, Ridge(1e-3)])
def test_separated_gate_is_flagged_and_finite(gate_penalty):
    x = np.linspace(-1, 1, 80)
    y = np.where(x > 0.1, 5.0, -5.0) + 0.1 * np.sin(50 * x)
    est = mx.MoERegressor(
        2, expert=Gaussian(degree=0), gate_penalty=gate_penalty, random_state=0, n_init=3
    )
    if gate_penalty is None:
        with pytest.warns(SeparationWarning, match="no finite maximum"):
            est.fit(x[:, None], y)
    else:
        est.fit(x[:, None], y)
    assert est.separated_ is (gate_penalty is None)
    assert np.isfinite(est.gate_coef_).all()
    assert est.converged_
    assert ((est.gate_proba(x[:, None])[:, 1] > 0.5) == (x > 0.1)).all()


@pytest.mark.parametrize("penalised", [True, False])
def test_collinear_gate_is_not_called_separated(data, penalised):
    X, y, _ = data
    doubled = np.column_stack([X, X[:, 0]])
    est = mx.MoERegressor(2, random_state=0, gate_penalty=Ridge(0.01) if penalised else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficientWarning)
        warnings.simplefilter("error", SeparationWarning)
        est.fit(doubled, y)
    assert est.separated_ is False


# --- interrupts and checkpoints -----------------------------------------------------------------


class Clock:
    """Raises KeyboardInterrupt at a given call of ``Gaussian.accumulate``."""

    def __init__(self, monkeypatch, at=None):
        self.calls, self.at = 0, at
        original = Gaussian.accumulate

        def accumulate(expert, params, batch, weight):
            self.calls += 1
            if self.calls == self.at:
                raise KeyboardInterrupt
            return original(expert, params, batch, weight)

        monkeypatch.setattr(Gaussian, "accumulate", accumulate)


def regressor(path, **options):
    settings = {"n_experts": 2, "n_init": 5, "checkpoint": path, **PLAIN, **options}
    return mx.MoERegressor(**settings)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
def test_an_interrupted_fit_goes_on_to_the_same_end(data, tmp_path, monkeypatch, share):
    X, y, _ = data
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        whole = regressor(None).fit(X, y)
        total = clock.calls
    path = tmp_path / "fit.ckpt"
    with monkeypatch.context() as patch:
        Clock(patch, at=max(1, int(share * total)))
        with pytest.raises(KeyboardInterrupt):
            regressor(path).fit(X, y)
    assert path.exists()
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        resumed = regressor(path).fit(X, y)
        assert clock.calls < total + 20
        if share > 0.5:
            assert clock.calls < 0.7 * total, "finished starts were run again"
    assert resumed.log_likelihood_ == pytest.approx(whole.log_likelihood_, abs=1e-6)
    assert_allclose(
        resumed.restarts_["log_likelihood"], whole.restarts_["log_likelihood"], atol=1e-6
    )
    assert np.diff(resumed.history_).min(initial=0.0) >= -1e-10
    assert [p.name for p in tmp_path.iterdir()] == ["fit.ckpt"]


@pytest.mark.parametrize("accelerate", [False, True])
def test_the_running_start_goes_on_from_where_it_stood(data, tmp_path, monkeypatch, accelerate):
    X, y, label = data
    path = tmp_path / "fit.ckpt"
    slow = {"init": label, "accelerate": accelerate, "tol": 1e-14}
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        whole = regressor(None, **slow).fit(X, y)
        total = clock.calls
    with monkeypatch.context() as patch:
        Clock(patch, at=total - 4)
        with pytest.raises(KeyboardInterrupt):
            regressor(path, **slow).fit(X, y)
    resumed = regressor(path, **slow).fit(X, y)
    # The memory of the acceleration goes with it: the same passes, the same numbers.
    assert resumed.n_iter_ == whole.n_iter_
    assert_allclose(resumed.history_, whole.history_, rtol=1e-13)
    assert_allclose(resumed.coef_, whole.coef_, rtol=1e-12)


def test_a_finished_checkpoint_is_taken_as_it_is(data, tmp_path, monkeypatch):
    X, y, _ = data
    path = tmp_path / "fit.ckpt"
    first = regressor(path).fit(X, y)
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        again = regressor(path).fit(X, y)
        assert clock.calls == 0
    assert again.log_likelihood_ == first.log_likelihood_
    assert (again.coef_ == first.coef_).all()


def test_without_a_seed_the_one_of_the_file_is_used(data, tmp_path):
    X, y, _ = data
    path = tmp_path / "fit.ckpt"
    first = regressor(path, random_state=None).fit(X, y)
    again = regressor(path, random_state=None).fit(X, y)
    assert again.restarts_.equals(first.restarts_)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_workers_write_the_checkpoint_too(data, tmp_path, n_jobs):
    X, y, _ = data
    path = tmp_path / "fit.ckpt"
    first = regressor(path, n_jobs=n_jobs).fit(X, y)
    assert regressor(path).fit(X, y).restarts_.equals(first.restarts_)


CHANGES = {
    "y": lambda X, y: ({}, X, y + 1e-3 * X[:, 0], None),
    "X": lambda X, y: ({}, X**3, y, None),
    "weights": lambda X, y: ({}, X, y, np.arange(1.0, 121.0)),
    "n_experts": lambda X, y: ({"n_experts": 3}, X, y, None),
    "n_init": lambda X, y: ({"n_init": 6}, X, y, None),
    "init": lambda X, y: ({"init": "random"}, X, y, None),
    "gate": lambda X, y: ({"gate": "constant"}, X, y, None),
    "expert": lambda X, y: ({"expert": Gaussian(shared_scale=True)}, X, y, None),
    "penalty": lambda X, y: ({"gate_penalty": Ridge(0.1)}, X, y, None),
    "seed": lambda X, y: ({"random_state": 1}, X, y, None),
    "tol": lambda X, y: ({"tol": 1e-3}, X, y, None),
    "max_iter": lambda X, y: ({"max_iter": 77}, X, y, None),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_checkpoint_of_other_data_or_settings_is_refused(data, tmp_path, what):
    X, y, _ = data
    path = tmp_path / "fit.ckpt"
    regressor(path).fit(X, y)
    before = path.read_bytes()
    options, X, y, weight = CHANGES[what](X, y)
    with pytest.raises(ValueError, match="was written for other data or settings"):
        regressor(path, **options).fit(X, y, weight)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["labels", "responsibilities", "parameters", "model"])
def test_a_checkpoint_of_another_start_is_refused(data, tmp_path, kind):
    """The start itself is a setting: other labels must not be answered with the old result."""
    X, y, label = data
    other = (X[:, 1] > 0).astype(int)
    first = mx.MoERegressor(2, init=label, n_init=1, **PLAIN).fit(X, y)
    second = mx.MoERegressor(2, init=other, n_init=1, max_iter=2, tol=1e6, **PLAIN).fit(X, y)
    names = ("intercept", "coef", "scale")
    starts = {
        "labels": (label, other),
        "responsibilities": (np.eye(2)[label], np.eye(2)[other]),
        "parameters": tuple({n: getattr(e, f"{n}_") for n in names} for e in (first, second)),
        "model": (first, second),
    }[kind]
    path = tmp_path / "fit.ckpt"
    regressor(path, init=starts[0]).fit(X, y)
    with pytest.raises(ValueError, match="was written for other data or settings"):
        regressor(path, init=starts[1]).fit(X, y)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 broken"])
def test_a_damaged_checkpoint_is_refused(data, tmp_path, content):
    X, y, _ = data
    path = tmp_path / "fit.ckpt"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"fit\.ckpt"):
        regressor(path).fit(X, y)


def test_a_model_is_no_checkpoint(data, tmp_path):
    X, y, _ = data
    path = tmp_path / "model.mxp"
    regressor(None).fit(X, y).save(path)
    with pytest.raises(ArchiveError, match="holds a MoERegressor, expected a checkpoint"):
        regressor(path).fit(X, y)


def test_a_checkpoint_in_no_folder_is_refused_before_the_work(data, tmp_path):
    X, y, _ = data
    with pytest.raises(ValueError, match="there is no folder"):
        regressor(tmp_path / "no" / "fit.ckpt").fit(X, y)
