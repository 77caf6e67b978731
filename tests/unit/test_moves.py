"""Moves that re-place experts, and moves that change their number."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts.em import split_merge
from mixexperts.em.moves import merged, overlap

LINES = {2: (lambda x: 2 + x, lambda x: -2 - x)}
LINES[3] = (*LINES[2], lambda x: 4 - 2 * x)


def design(n_experts, seed, n=300):
    """The standard two- and three-expert designs: crossing lines, noise 0.5."""
    rng = np.random.default_rng([197, n_experts, seed])
    x, label = rng.uniform(-2, 2, n), rng.integers(0, n_experts, n)
    y = np.choose(label, [line(x) for line in LINES[n_experts]]) + 0.5 * rng.normal(size=n)
    return x[:, None], y, label


def model(k, **options):
    settings = {"gate": "constant", "random_state": 0, "n_init": 3, "backend": "numpy", **options}
    return mx.MoERegressor(k, **settings)


@pytest.mark.parametrize("seed", [0, 1, 4, 5])
def test_moves_leave_a_planted_optimum_that_holds_em(seed):
    """Two experts begin on one line, and one on the other two: EM stays, the moves leave."""
    X, y, label = design(3, seed)
    planted = np.where(label == 0, (X[:, 0] > 0).astype(int), 2)
    held = model(3, init=planted).fit(X, y)
    best = model(3, n_init=10).fit(X, y)
    assert held.converged_
    assert held.log_likelihood_ < best.log_likelihood_ - 50.0
    batch = held.frame_.batch(X, y, None, None)
    rng = np.random.default_rng(seed)
    moved = split_merge(held.model_, batch, held.theta_, rng)
    found = moved.log_likelihood + held.frame_.log_jacobian(len(y))
    assert found == pytest.approx(best.log_likelihood_, abs=0.05)


def test_two_experts_are_merged_and_split_anew():
    X, y, _ = design(2, 1)
    poor = model(2, init=(np.arange(300) % 2)).fit(X, y)
    batch = poor.frame_.batch(X, y, None, None)
    # two experts that all but coincide: a saddle of the likelihood
    theta = poor.model_.unpack(1e-3 * np.ones(7), poor.theta_)
    moved = split_merge(poor.model_, batch, theta, np.random.default_rng(0))
    best = model(2, n_init=10).fit(X, y)
    assert moved.log_likelihood + poor.frame_.log_jacobian(300) == pytest.approx(
        best.log_likelihood_, abs=0.05
    )


def test_the_start_of_that_name_reaches_the_best_more_often_than_its_own_start():
    reached = {"elemental": 0, "split_merge": 0}
    for seed in range(20, 26):
        X, y, _ = design(3, seed)
        best = model(3, n_init=12).fit(X, y).log_likelihood_
        for init in reached:
            table = model(3, init=init, random_state=seed).fit(X, y).restarts_
            ok = table["status"].eq("converged") & (table["log_likelihood"] > best - 0.1)
            reached[init] += int(ok.sum())
    assert reached["split_merge"] >= reached["elemental"]
    assert reached["split_merge"] >= 17  # of 18


def test_moves_go_with_groups_counts_and_labels():
    rng = np.random.default_rng(3)
    subject = np.repeat(np.arange(80), 3)
    label = rng.integers(0, 3, 80)[subject]
    x = rng.normal(size=240)
    y = rng.poisson(np.exp(np.choose(label, [2 + 0 * x, 0.5 + x, 0.5 - x])))
    known = np.where(subject % 4 == 0, label, -1)
    options = {"expert": "poisson", "random_state": 0, "n_init": 2}
    best = model(3, **options).fit(x[:, None], y, groups=subject, partial_labels=known)
    est = model(3, init="split_merge", **options)
    est.fit(x[:, None], y, groups=subject, partial_labels=known)
    assert est.log_likelihood_ == pytest.approx(best.log_likelihood_, abs=1e-5)
    assert est.coef_[1, 0] > 0 > est.coef_[2, 0]


def test_overlap_and_merge():
    resp = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])
    shared = overlap(resp, np.array([1.0, 1.0, 2.0]))
    assert_allclose(np.diagonal(shared), 1.0)
    assert shared[1, 2] == pytest.approx(1.0)
    assert shared[0, 1] == 0.0
    assert_allclose(merged(resp, 1, 2), [[1, 0], [0, 1], [0, 1]])
    assert_allclose(merged(resp, 0, 1).sum(axis=1), 1.0)


@pytest.mark.parametrize("n_experts", [2, 3])
@pytest.mark.parametrize("first", [1, 5])
def test_the_true_number_is_found(n_experts, first):
    """In four of five seeds, from below and from above; `slow` has more."""
    assert recovered(n_experts, first, range(5)) >= 4


def recovered(n_experts, first, seeds):
    found = 0
    for seed in seeds:
        X, y, _ = design(n_experts, seed)
        found += mx.adapt_experts(model(first, random_state=seed), X, y).n_experts == n_experts
    return found


@pytest.mark.slow
@pytest.mark.parametrize("n_experts", [2, 3])
@pytest.mark.parametrize("first", [1, 5])
def test_the_true_number_is_found_in_eighty_percent(n_experts, first):
    assert recovered(n_experts, first, range(25)) >= 20


def test_the_table_tells_of_every_move():
    X, y, _ = design(3, 2)
    found = mx.adapt_experts(model(1), X, y, criterion="icl", max_experts=4)
    table = found.table
    assert found.n_experts == 3
    kept = table[table["accepted"]]
    assert kept["n_experts"].tolist() == [1, 2, 3]
    assert (np.diff(kept["icl"]) < 0).all()
    assert set(table["move"]) == {"start", "add", "delete", "merge"}
    last = table[table["step"] == table["step"].max()]
    assert not last["accepted"].any()
    assert last["icl"].min() >= kept["icl"].min() - 1e-6
    assert found.best_estimator.init == "auto"
    assert found.best_estimator.icl(X, y) == pytest.approx(kept["icl"].min())
    select = mx.select(model(1), X, y, n_experts=range(1, 5), criterion="icl")
    assert select.table.loc[3, "icl"] == pytest.approx(kept["icl"].min(), abs=1e-4)


def test_groups_are_counted_and_bad_settings_named():
    rng = np.random.default_rng(5)
    subject = np.repeat(np.arange(60), 4)
    label = rng.integers(0, 2, 60)[subject]
    x = rng.normal(size=240)
    y = np.where(label == 0, 1 + x, -1 - x) + rng.normal(size=240)
    found = mx.adapt_experts(model(3), x[:, None], y, groups=subject)
    assert found.n_experts == 2
    assert found.best_estimator.weight_sum_ == 60
    for wrong, match in (
        ({"criterion": "dic"}, "criterion='dic' is not known"),
        ({"max_experts": 2}, "max_experts=2 is less than"),
    ):
        with pytest.raises(ValueError, match=match):
            mx.adapt_experts(model(3), x[:, None], y, **wrong)
    with pytest.raises(TypeError, match="mixture-of-experts estimator"):
        mx.adapt_experts(object(), x[:, None], y)
