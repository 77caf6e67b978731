"""Many starts on many rows: all on a sample, the best few on all rows."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts.em import restarts, screening
from mixexperts.estimators import _data


@pytest.fixture
def data(monkeypatch):
    """Rows enough for two samples of 400 and for a block of 700."""
    monkeypatch.setattr(_data, "_START_ROWS", 400)
    monkeypatch.setattr(_data, "_BLOCK_ROWS", 700)
    X, y, _ = mx.datasets.make_moe_regression(
        n_samples=3000, n_features=2, n_experts=3, noise=0.4, random_state=3
    )
    return X, y


def fit(X, y, **options):
    options = {"n_init": 8, "random_state": 0} | options
    return mx.MoERegressor(3, **options).fit(X, y)


def test_only_the_best_few_run_on_all_rows(data):
    est = fit(*data)
    table = est.restarts_
    kept = table["status"] != "screened"
    assert 1 <= kept.sum() <= 3
    assert table["log_likelihood"].notna().tolist() == kept.tolist()
    assert (table.loc[~kept, "n_iter"] == 0).all()
    assert not table.loc[~kept, "reached_best"].any()
    assert est.converged_
    assert (np.diff(est.history_) >= -1e-8).all()


def test_the_optimum_is_that_of_starts_on_all_rows(data, monkeypatch):
    screened = fit(*data)
    monkeypatch.setattr(_data, "_START_ROWS", 10_000)
    whole = fit(*data)
    assert (whole.restarts_["status"] != "screened").all()
    assert screened.log_likelihood_ == pytest.approx(whole.log_likelihood_, abs=1e-6)
    assert_allclose(screened.coef_, whole.coef_, atol=1e-4)
    passes = [table["n_iter"].sum() for table in (screened.restarts_, whole.restarts_)]
    assert passes[0] < passes[1] / 2


def test_workers_and_checkpoints_change_nothing(data, tmp_path):
    alone = fit(*data)
    for options in ({"n_jobs": 2}, {"checkpoint": tmp_path / "fit.ckpt"}):
        other = fit(*data, **options)
        assert other.log_likelihood_ == alone.log_likelihood_
        assert other.restarts_["status"].tolist() == alone.restarts_["status"].tolist()


def test_an_interrupted_fit_goes_on_from_the_sample(data, tmp_path, monkeypatch):
    whole = fit(*data)
    path = tmp_path / "fit.ckpt"
    calls, run = [], restarts.run_start

    def interrupted(*args, **options):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(restarts, "run_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(*data, checkpoint=path)
    monkeypatch.setattr(restarts, "run_start", run)
    sampled = []
    original = restarts.run_on_sample
    monkeypatch.setattr(restarts, "run_on_sample", lambda *a: sampled.append(1) or original(*a))
    resumed = fit(*data, checkpoint=path)
    assert calls
    assert not sampled
    assert resumed.log_likelihood_ == whole.log_likelihood_
    assert_allclose(resumed.coef_, whole.coef_, rtol=0, atol=0)


def test_a_given_start_is_polished_on_the_sample(data):
    X, y = data
    label = np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))
    est = fit(X, y, init=label)
    assert est.restarts_["status"].tolist() == ["converged"]
    assert est.restarts_["init"].tolist() == ["labels"]


def test_the_summary_tells_of_the_others(data):
    X, y = data
    import pandas as pd

    df = pd.DataFrame(X, columns=["a", "b"]).assign(y=y)
    res = mx.moe("y ~ a + b", data=df, n_experts=3, n_init=8, random_state=0)
    assert "more starts ran on a sample of the rows" in str(res.summary())
    frame = mx.plots.restarts_frame(res)
    assert frame["log_likelihood"].notna().all()
    screened = int((res.restarts["status"] == "screened").sum())
    assert len(frame) == 8 - screened
    ax = mx.plots.plot_restarts(res)
    assert f"; {screened} more ran on a sample only" in " ".join(t.get_text() for t in ax.texts)


def test_a_warm_start_is_not_lost_to_the_sample(data):
    """The sample's optimum may be worse on all rows than the parameters that were given."""
    X, y = data
    est = fit(X, y, init="random", n_init=1, warm_start=True)
    for _ in range(2):
        before = est.log_likelihood_
        est.fit(X, y)
        assert est.log_likelihood_ >= before - 1e-8
        assert est.history_[0] >= before - 1e-8


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_plain_em_begins_where_it_is_told(data):
    X, y = data
    rows = np.random.default_rng(0)
    init = {"intercept": rows.normal(size=3), "coef": rows.normal(size=(3, 2)), "scale": np.ones(3)}
    few = fit(X, y, init=init, accelerate=False, max_iter=3, tol=0.0)
    more = fit(X, y, init=init, accelerate=False, max_iter=6, tol=0.0)
    assert_allclose(more.history_[:3], few.history_, rtol=1e-12)
    given = mx.MoERegressor(3, init=few, accelerate=False, max_iter=1, tol=0.0).fit(X, y)
    assert given.history_[0] == pytest.approx(few.history_[-1], abs=1e-8)


def test_finalists_are_distinct_and_hold_the_best():
    """Near is not transitive: -0.08 is near 0 and near -0.16."""

    def results(*objectives):
        return {
            i: SimpleNamespace(objective=value, sound=True) for i, value in enumerate(objectives)
        }

    sample = SimpleNamespace(weight=np.ones(4), n_units=4)  # distances count in full
    assert screening.finalists(results(-0.08, 0.0, -0.16), sample) == [0, 2]
    assert screening.finalists(results(-5.0, -3.0, -3.01, -4.0, -9.0), sample) == [0, 1, 3]
    assert screening.finalists(results(-5.0, -5.05, -5.01), sample) == [0]


def test_a_fit_resumes_at_every_point_with_the_same_digits(data, tmp_path, monkeypatch):
    """Newton's steps on the sample and on all rows included."""
    X, y = data
    options = {"n_init": 1, "init": "kmeans", "tol": 1e-10}
    whole = fit(X, y, **options)
    for stop in range(1, len(whole.history_) + 1):
        path = tmp_path / f"{stop}.ckpt"
        record, seen = restarts._Reporter.__call__, []

        def interrupted(self, *args, record=record, seen=seen, stop=stop):
            record(self, *args)
            seen.append(1)
            if len(seen) == stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(restarts._Reporter, "__call__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fit(X, y, checkpoint=path, **options)
        resumed = fit(X, y, checkpoint=path, **options)
        assert resumed.log_likelihood_ == whole.log_likelihood_
        assert resumed.n_iter_ == whole.n_iter_
        assert_allclose(resumed.coef_, whole.coef_, rtol=0, atol=0)
        assert_allclose(resumed.history_, whole.history_, rtol=0, atol=0)
