"""The solver of penalised fits: derivatives, sets of columns, null models, paths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixexperts.em.sparse import (
    SparseParams,
    SparseRows,
    alpha_max,
    fit_sparse,
    kkt_violation,
    null_fit,
    sparse_path,
)
from mixexperts.em.sparse.newton import ActiveNewton
from mixexperts.em.sparse.problem import Problem
from mixexperts.em.sparse.solver import solve
from mixexperts.em.sparse.steps import em_step
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import (
    Binomial,
    Gamma,
    Gaussian,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
)
from mixexperts.penalties.sparse import SparsePenalty

N, P = 150, 8


def draw(seed=0, n=N, p=P):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    eta = np.where(rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 2])), X[:, 0] + 0.5, -X[:, 1])
    return rng, np.asfortranarray(X), eta


def responses(seed=0, n=N, p=P):
    rng, X, eta = draw(seed, n, p)
    return X, {
        "gaussian": (Gaussian(), eta + 0.5 * rng.standard_normal(n)),
        "shared": (Gaussian(shared_scale=True), eta + 0.5 * rng.standard_normal(n)),
        "poisson": (Poisson(), rng.poisson(np.exp(0.5 * eta)).astype(float)),
        "binomial": (Binomial(), (rng.random(n) < 1 / (1 + np.exp(-2 * eta))).astype(float)),
        "probit": (Binomial(link="probit"), (rng.standard_normal(n) < eta).astype(float)),
        "multinomial": (Multinomial(n_classes=3), np.digitize(eta, [-0.5, 0.5]).astype(float)),
        "gamma": (Gamma(), rng.gamma(3.0, np.exp(0.5 * eta) / 3.0)),
        "negative_binomial": (
            NegativeBinomial(),
            rng.negative_binomial(3, 3 / (3 + np.exp(eta))).astype(float),
        ),
        "student_t": (StudentT(), eta + 0.3 * rng.standard_t(5, n)),
    }


FAMILIES = tuple(responses()[1])
X, DATA = responses()
WEIGHT = np.random.default_rng(5).uniform(0.5, 2.0, N)
ROWS = {name: SparseRows(X, y, WEIGHT) for name, (_, y) in DATA.items()}
PENALTIES = {
    "lasso": {},
    "net": {"l1_ratio": 0.5},
    "mcp": {"kind": "mcp"},
    "scad": {"kind": "scad"},
    "group": {"kind": "group", "groups": np.arange(P) // 2},
}


def penalty(name, alpha=0.04, **kwargs):
    return SparsePenalty(alpha, alpha, **PENALTIES[name], **kwargs)


def some_point(name, pen, K=2, seed=0):
    """A point that is no optimum, with zeros among its coefficients."""
    expert = DATA[name][0]
    problem = Problem.of(expert, ROWS[name], K, pen)
    params = fit_sparse(expert, ROWS[name], K, pen, n_init=2, max_iter=3, seed=seed).best.params
    rng = np.random.default_rng(seed)
    coef = np.where(params.coef != 0.0, params.coef + 0.05 * rng.standard_normal(P), 0.0)
    if pen.kind == "group":
        coef[...] = 0.0
        coef[..., :4] = 0.3 * rng.standard_normal(coef[..., :4].shape)
    gate = params.gate_coef
    if pen.kind == "group":  # the norm of a block that is nearly zero bends too much for h
        gate = np.where(np.arange(P) < 4, 0.3 * rng.standard_normal(gate.shape), 0.0)
    if problem.gate_rows < K or pen.kind in ("mcp", "scad"):
        gate = gate - gate[-1]
    params = problem.centred(replace(params, coef=coef, gate_coef=gate))
    return problem, problem.at(params)


CASES = [(family, "lasso", "symmetric", False) for family in FAMILIES]
CASES += [
    (family, kind, coding, False)
    for family in ("gaussian", "poisson", "multinomial")
    for kind in ("net", "mcp", "scad", "group")
    for coding in ("symmetric", "reference")
]
CASES += [
    (family, kind, "symmetric", True)
    for family in ("gaussian", "shared")
    for kind in ("lasso", "net", "mcp", "group")
]


@pytest.mark.parametrize(("family", "kind", "coding", "by_scale"), CASES)
@pytest.mark.parametrize("K", [2, 3])
def test_newton_system_is_that_of_finite_differences(family, kind, coding, by_scale, K):
    pen = penalty(kind, gate_coding=coding, by_scale=by_scale)
    problem, point = some_point(family, pen, K)
    newton = ActiveNewton(problem)
    predictors = newton.predictors(point)
    hessian, score = newton.system(point, predictors)

    def moved(step):
        # ``moved`` would bring rows to the gauge, which is no part of the derivatives
        original = problem.centred
        problem.centred = lambda params: params
        try:
            return problem.at(newton.moved(point, predictors, step))
        finally:
            problem.centred = original

    size = len(score)
    h = 1e-6
    first = np.empty(size)
    second = np.empty((size, size))
    for i in range(size):
        step = np.zeros(size)
        step[i] = h
        up, down = moved(step), moved(-step)
        first[i] = (up.objective - down.objective) / (2 * h)
        above, below = (newton.system(at, predictors)[1] for at in (up, down))
        second[i] = -(above - below) / (2 * h)
    scale = np.abs(hessian).max()
    np.testing.assert_allclose(score, first, atol=1e-5 * scale)
    np.testing.assert_allclose(hessian, second, atol=1e-5 * scale)


@pytest.mark.parametrize(("family", "kind", "coding", "by_scale"), CASES)
def test_steps_never_fall_and_end_at_a_stationary_point(family, kind, coding, by_scale):
    expert, _ = DATA[family]
    pen = penalty(kind, gate_coding=coding, by_scale=by_scale)
    fits = fit_sparse(expert, ROWS[family], 2, pen, n_init=4, tol=1e-8, seed=1)
    for fit in fits.all:
        assert (np.diff(fit.history) >= -1e-9 * np.abs(fit.history[:-1])).all()
    best = fits.best
    if best.status == "converged":
        assert best.kkt_violation <= 1e-8
        assert kkt_violation(expert, ROWS[family], pen, best.params) <= 1e-8


@pytest.mark.parametrize("family", ["gaussian", "shared"])
@pytest.mark.parametrize("kind", ["lasso", "net", "mcp", "group"])
def test_an_em_step_does_not_fall_where_the_penalty_is_by_scale(family, kind):
    problem, point = some_point(family, penalty(kind, by_scale=True))
    for _ in range(5):
        following = em_step(problem, point, 1e-10)
        assert following.objective >= point.objective
        point = following
    first = em_step(problem, point, 1e-10)
    assert first.objective > -np.inf


def test_a_growing_set_of_columns_ends_where_all_columns_do():
    rng, wide, eta = draw(3, 300, 120)
    y = eta + 0.5 * rng.standard_normal(300)
    rows = SparseRows(wide, y, np.ones(300))
    pen = SparsePenalty(0.15, 0.1)
    start = fit_sparse(Gaussian(), rows, 2, pen, n_init=1, max_iter=1).best.params
    problem = Problem.of(Gaussian(), rows, 2, pen)
    grown = solve(problem, start, tol=1e-9)
    whole = solve(problem, start, tol=1e-9, likely=np.ones(120, dtype=bool))
    assert grown.status == whole.status == "converged"
    # different ways may end at different maxima; these do not
    np.testing.assert_allclose(grown.objective, whole.objective, rtol=1e-9)
    np.testing.assert_allclose(grown.params.coef, whole.params.coef, atol=1e-6)


@pytest.mark.parametrize("family", ["gaussian", "poisson", "multinomial"])
@pytest.mark.parametrize("kind", ["lasso", "net", "mcp", "group"])
def test_slopes_begin_at_alpha_max(family, kind):
    expert, _ = DATA[family]
    rows, pen = ROWS[family], penalty(kind, 1.0)
    null = null_fit(expert, rows, 2, pen, n_init=4)
    largest, gate_largest = alpha_max(expert, rows, null, pen)
    if kind == "group":
        assert largest == gate_largest
    for factor, stays in ((1.0 + 1e-6, True), (1.0 - 1e-3, False)):
        near = replace(pen, alpha=factor * largest, gate_alpha=factor * gate_largest)
        problem = Problem.of(expert, rows, 2, near)
        expert_part, gate_part = problem.distances(problem.at(null.params))
        assert (max(expert_part.max(), gate_part.max()) <= 1e-9) == stays


def test_the_null_of_a_response_without_clusters_is_sound():
    rng = np.random.default_rng(0)
    y = rng.standard_normal(60)
    rows = SparseRows(np.asfortranarray(rng.standard_normal((60, 3))), y, np.ones(60))
    null = null_fit(Gaussian(scale_floor=0.2), rows, 3, SparsePenalty(1.0, 1.0), n_init=6)
    assert null.sound
    assert null.kkt_violation < 1e-6


def test_a_path_is_as_high_as_fits_by_themselves():
    expert, _ = DATA["gaussian"]
    grid = np.geomspace(0.3, 0.02, 12)
    path = sparse_path(
        expert, ROWS["gaussian"], 2, [SparsePenalty(a, a) for a in grid], n_init=6, seed=0
    )
    for a, fit in zip(grid, path, strict=True):
        alone = fit_sparse(expert, ROWS["gaussian"], 2, SparsePenalty(a, a), n_init=6, seed=0)
        assert fit.objective >= alone.best.objective - 1e-3 * N
        assert fit.status != "converged" or fit.kkt_violation <= 1e-7


def test_weights_are_repeated_rows():
    y = DATA["gaussian"][1]
    times = np.random.default_rng(2).integers(1, 4, N)
    once = SparseRows(X, y, times.astype(float))
    often = SparseRows(
        np.asfortranarray(np.repeat(X, times, axis=0)), np.repeat(y, times), np.ones(times.sum())
    )
    pen = SparsePenalty(0.05, 0.05)
    start = fit_sparse(Gaussian(), once, 2, pen, n_init=1, max_iter=1).best.params
    left, right = (
        fit_sparse(Gaussian(), rows, 2, pen, starts=[start], tol=1e-9).best
        for rows in (once, often)
    )
    np.testing.assert_allclose(left.objective, right.objective, rtol=1e-10)
    np.testing.assert_allclose(left.params.coef, right.params.coef, atol=1e-6)


def test_masks_keep_columns_out():
    expert, y = DATA["gaussian"]
    experts, gate = np.arange(P) < 3, np.arange(P) >= 2
    rows = SparseRows(X, y, WEIGHT, expert_mask=experts, gate_mask=gate)
    for kind in PENALTIES:
        fit = fit_sparse(expert, rows, 2, penalty(kind, 0.01), n_init=3).best
        assert not fit.params.coef[..., ~experts].any()
        assert not fit.params.gate_coef[..., ~gate].any()
        assert fit.params.coef.any()
        assert fit.kkt_violation <= 1e-7


def test_an_offset_is_a_known_part_of_the_predictors():
    y = DATA["poisson"][1]
    offset = 0.3 * X[:, 4]
    pen = SparsePenalty(0.03, 0.03)
    fit = fit_sparse(Poisson(), SparseRows(X, y, WEIGHT, offset), 2, pen, n_init=3).best
    eta = fit.params.coef[:, 0] @ X.T + fit.params.intercept + offset
    log_f = y * eta - np.exp(eta)
    score = fit.params.gate_coef @ X.T + fit.params.gate_intercept[:, None]
    log_prob = score - np.logaddexp.reduce(score, axis=0)
    from scipy.special import gammaln

    total = WEIGHT @ (np.logaddexp.reduce(log_prob + log_f, axis=0) - gammaln(y + 1.0))
    np.testing.assert_allclose(fit.log_likelihood, total, rtol=1e-12)


def test_families_without_one_predictor_are_refused():
    with pytest.raises(UnsupportedCombinationError, match=r"ordinal.*one linear predictor"):
        fit_sparse(Ordinal(n_classes=3), ROWS["multinomial"], 2, SparsePenalty(0.1, 0.1))
    with pytest.raises(UnsupportedCombinationError, match="by scale is for Gaussian experts"):
        fit_sparse(Poisson(), ROWS["poisson"], 2, SparsePenalty(0.1, 0.1, by_scale=True))


def test_a_start_that_cannot_be_evaluated_ends_diverged():
    bad = SparseParams(
        np.full((2, 1), np.nan), np.zeros((2, 1, P)), np.zeros(2), np.zeros((2, P)),
        {"scale": np.ones(2)},
    )  # fmt: skip
    fit = fit_sparse(Gaussian(), ROWS["gaussian"], 2, SparsePenalty(0.1, 0.1), starts=[bad]).best
    assert fit.status == "diverged"
    assert not fit.sound


def test_a_run_without_steps_left_has_not_converged():
    fits = fit_sparse(
        Gaussian(), ROWS["gaussian"], 2, SparsePenalty(0.02, 0.02), n_init=6, max_iter=2
    )
    for fit in fits.all:
        assert fit.status != "converged" or fit.kkt_violation <= 1e-7


def test_no_other_reference_is_better():
    rng, wide, eta = draw(7, 300, 6)
    y = eta + np.where(wide[:, 3] > 0.0, 2.0, 0.0) + 0.4 * rng.standard_normal(300)
    rows = SparseRows(wide, y, np.ones(300))
    pen = SparsePenalty(0.03, 0.05, gate_coding="reference")
    best = fit_sparse(Gaussian(), rows, 3, pen, n_init=6, seed=0).best
    problem = Problem.of(Gaussian(), rows, 3, pen)
    for order in ([1, 2, 0], [0, 2, 1]):
        start = best.params.permute(np.array(order))
        start = replace(start, gate_coef=start.gate_coef - start.gate_coef[-1])
        other = solve(problem, start)
        assert other.objective <= best.objective + 1e-6


def test_the_null_keeps_columns_without_penalty():
    rng = np.random.default_rng(0)
    first = rng.standard_normal(200)
    second = -0.8 * first + 0.6 * rng.standard_normal(200)
    y = 2.0 * second + rng.standard_normal(200)
    rows = SparseRows(np.asfortranarray(np.column_stack([first, second])), y, np.ones(200))
    pen = SparsePenalty(1.0, 1.0, weights=np.array([0.0, 1.0]))
    null = null_fit(Gaussian(), rows, 1, pen)
    largest, _ = alpha_max(Gaussian(), rows, null, pen)
    for factor, inside in ((1.001, False), (0.99, True)):
        fit = fit_sparse(Gaussian(), rows, 1, replace(pen, alpha=factor * largest)).best
        assert fit.params.coef[0, 0, 0] != 0.0
        assert (fit.params.coef[0, 0, 1] != 0.0) == inside


def test_all_kinds_of_starts_take_part_in_a_path(monkeypatch):
    from mixexperts.em.sparse import path

    seen = set()
    made = path.initial_params

    def spy(problem, kind, index, seed):
        seen.add((kind, index))
        return made(problem, kind, index, seed)

    monkeypatch.setattr(path, "initial_params", spy)
    for points, n_init in ((20, 10), (20, 1)):
        seen.clear()
        grid = [SparsePenalty(a, a) for a in np.geomspace(0.3, 0.05, points)]
        sparse_path(Gaussian(), ROWS["gaussian"], 2, grid, n_init=n_init)
        assert len(seen) == n_init
