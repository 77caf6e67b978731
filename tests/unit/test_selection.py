"""Choosing the number of experts."""

import warnings

import numpy as np
import pandas as pd
import pytest

import mixexperts as mx
from mixexperts.errors import DegenerateFitWarning
from mixexperts.experts import Gaussian
from mixexperts.inference.selection import Selection, experts_range, select


@pytest.fixture(scope="module")
def data():
    """Two clear experts."""
    rng = np.random.default_rng(20260901)
    X = rng.standard_normal((140, 1))
    y = np.where(rng.random(140) < 0.5, 4.0 + X[:, 0], -X[:, 0]) + 0.4 * rng.standard_normal(140)
    return X, y


@pytest.fixture(scope="module")
def estimator():
    return mx.MoERegressor(gate="constant", n_init=3, random_state=0)


@pytest.fixture(scope="module")
def selection(data, estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return mx.select(estimator, *data, n_experts=range(1, 5))


def test_table_holds_what_the_fits_say(selection, data):
    table = selection.table
    assert table.index.tolist() == [1, 2, 3, 4]
    assert table.index.name == "n_experts"
    for value, est in selection.estimators.items():
        row = table.loc[value]
        assert est.coef_.shape == (value, 1)
        assert row["log_likelihood"] == est.log_likelihood_
        assert row["df"] == est.n_parameters_ == 4 * value - 1
        for name in ("aic", "bic", "icl"):
            assert row[name] == pytest.approx(getattr(est, name)(*data))
        assert row["bic"] == pytest.approx(-2 * est.log_likelihood_ + row["df"] * np.log(140))
        assert row["status"] == est.status_
        assert row["n_starts"] == len(est.restarts_)
        assert row["min_share"] == pytest.approx(est.mass_.min() / 140)


def test_log_likelihood_never_falls_with_more_experts(selection):
    """Each fit also starts from the smaller one."""
    sound = selection.table["status"] == "converged"
    assert np.diff(selection.table.loc[sound, "log_likelihood"]).min() > -1e-6
    assert (
        selection.estimators[3].restarts_["init"].tolist().count("split") == 2
    )  # auto's, and grown


def test_two_clear_experts_are_found(selection):
    assert selection.best_n_experts() == 2
    assert selection.best_n_experts("icl") == 2
    assert selection.best_estimator is selection.estimators[2]
    assert selection.criterion == "bic"


def test_estimator_is_not_changed_and_fits_can_be_fitted_again(selection, estimator, data):
    assert not hasattr(estimator, "theta_")
    assert estimator.init == "auto"
    assert selection.best_estimator.init == "auto"
    again = selection.best_estimator.set_params(n_experts=2).fit(*data)
    assert again.coef_.shape == (2, 1)


def make(statuses, bic):
    table = pd.DataFrame({"bic": bic, "status": statuses}, index=pd.RangeIndex(1, len(bic) + 1))
    return Selection(table, {}, "bic")


def test_unsound_fits_are_not_chosen():
    assert make(["converged", "degenerate", "max_iter"], [9.0, 1.0, 5.0]).best_n_experts() == 3
    assert make(["degenerate", "diverged"], [9.0, 1.0]).best_n_experts() == 2


def test_fewest_experts_win_a_tie():
    assert make(["converged"] * 3, [5.0, 4.0, 4.0]).best_n_experts() == 2


def test_criterion_that_was_not_computed_is_refused(data, estimator):
    chosen = mx.select(estimator, *data, n_experts=[1, 2], criteria=("aic",), criterion="aic")
    assert list(chosen.table.filter(regex="ic$").columns) == ["aic"]
    assert chosen.best_n_experts() in (1, 2)
    with pytest.raises(ValueError, match="criterion='bic' was not computed; available: aic"):
        chosen.best_n_experts("bic")


def test_weights_and_offset_reach_every_fit(data, estimator):
    X, y = data
    weight = 1.0 + (np.arange(140) % 3 == 0)
    rows = np.repeat(np.arange(140), weight.astype(int))
    offset = X[:, 0] ** 2
    weighted = mx.select(
        estimator, X, y + offset, n_experts=[1, 2], sample_weight=weight, offset=offset
    )
    repeated = mx.select(estimator, X[rows], y[rows], n_experts=[1, 2])
    for name in ("log_likelihood", "aic", "bic", "icl"):
        assert weighted.table[name].tolist() == pytest.approx(repeated.table[name].tolist(), 1e-6)


def test_degenerate_fits_stand_in_the_table_and_warn_only_if_chosen(data):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((6, 1)), rng.standard_normal(6)
    est = mx.MoERegressor(gate="constant", n_init=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = mx.select(est, X, y, n_experts=[1, 4])
    assert chosen.table.loc[4, "status"] == "degenerate"
    assert "effective rows" in chosen.table.loc[4, "flag"]
    assert chosen.best_n_experts() == 1
    with pytest.warns(DegenerateFitWarning, match="no start reached a sound solution"):
        mx.select(est, X, y, n_experts=[4])


def test_checkpoints_are_kept_apart(data, tmp_path):
    path = tmp_path / "fit.ckpt"
    est = mx.MoERegressor(gate="constant", n_init=2, random_state=0, checkpoint=str(path))
    first = mx.select(est, *data, n_experts=[1, 2, 3])
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"fit.ckpt.K{k}" for k in (1, 2, 3)]
    again = mx.select(est, *data, n_experts=[1, 2, 3])
    assert again.table.equals(first.table)


@pytest.mark.parametrize(
    ("value", "error"),
    [([], ValueError), ([0, 1], ValueError), ([1.5], TypeError), ("123", TypeError),
     (None, TypeError), ([True], TypeError), (2.0, TypeError)],
)  # fmt: skip
def test_bad_numbers_of_experts(value, error, data, estimator):
    with pytest.raises(error, match="n_experts"):
        select(estimator, *data, n_experts=value)


def test_numbers_of_experts_are_sorted_and_distinct():
    assert experts_range([3, 1, 3, np.int64(2)]) == [1, 2, 3]
    assert experts_range(4) == [4]
    assert experts_range(k for k in (2, 1)) == [1, 2]


def test_other_bad_arguments(data, estimator):
    with pytest.raises(ValueError, match="criterion 'dic' is not known; known: aic, bic, icl"):
        select(estimator, *data, criteria=("dic",))
    with pytest.raises(ValueError, match="criterion 'dic' is not known"):
        select(estimator, *data, criterion="dic")
    with pytest.raises(TypeError, match=r"est\.init must be a name"):
        select(mx.MoERegressor(init=np.zeros(140, int)), *data)


def test_quadratic_truth_is_told_from_many_lines():
    """A criterion weighs terms against experts: one parabola, not several lines."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (150, 1))
    y = x[:, 0] ** 2 + 0.3 * rng.standard_normal(150)
    options = {"n_init": 3, "random_state": 0, "gate": "softmax"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.SeparationWarning)
        lines = mx.select(mx.MoERegressor(**options), x, y, n_experts=[1, 2, 3])
    parabola = mx.MoERegressor(1, expert=Gaussian(2), **options).fit(x, y)
    assert lines.best_n_experts() > 1
    assert parabola.bic(x, y) < lines.table["bic"].min()
