"""What every penalty must satisfy, whatever it is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._archive import read_archive, write_archive
from mixexperts.penalties import NoPenalty, Ridge, solve_symmetric

MASK = np.array([False, True, True, False, True])
# Central differences with h = 1e-5 on piecewise quadratic functions: only rounding is left.
GRADIENT_TOL = 1e-7


@pytest.fixture
def problem(rng):
    root = rng.standard_normal((20, 5))
    return root.T @ root, 10 * rng.standard_normal(5), rng.standard_normal(5)


def test_value_is_zero_at_zero_and_not_negative(penalty, rng):
    assert penalty.value(np.zeros(5), MASK) == 0.0
    for _ in range(20):
        value = penalty.value(rng.standard_normal((3, 5)), MASK)
        assert value >= 0
        assert (value == 0.0) == penalty.is_null


def test_only_marked_columns_count(penalty, rng):
    coef = rng.standard_normal((3, 5))
    moved = coef + ~MASK * rng.standard_normal((3, 5))
    assert penalty.value(coef, MASK) == penalty.value(moved, MASK)
    assert not penalty.gradient(coef, MASK)[:, ~MASK].any()


def test_value_adds_over_experts(penalty, rng):
    coef = rng.standard_normal((3, 5))
    assert penalty.value(coef, MASK) == pytest.approx(sum(penalty.value(c, MASK) for c in coef))


def test_scaling_scales(penalty, rng):
    coef = rng.standard_normal((3, 5))
    for total in (1.0, 0.5, 300.0):
        scaled = penalty.scaled(total)
        assert scaled.value(coef, MASK) == pytest.approx(total * penalty.value(coef, MASK))
        assert_allclose(scaled.gradient(coef, MASK), total * penalty.gradient(coef, MASK))


def test_gradient_is_that_of_the_value(penalty, rng):
    penalty = penalty.scaled(100.0)
    coef = rng.standard_normal((2, 5))
    gradient = penalty.gradient(coef, MASK)
    assert gradient.shape == coef.shape
    for at in np.ndindex(coef.shape):
        step = np.zeros_like(coef)
        step[at] = 1e-5
        slope = (penalty.value(coef + step, MASK) - penalty.value(coef - step, MASK)) / 2e-5
        assert slope == pytest.approx(gradient[at], abs=GRADIENT_TOL)


def test_quadratic_problem_is_solved(penalty, problem, rng):
    """No move in any direction, long or short, does better."""
    hess, grad, coef = problem
    penalty = penalty.scaled(1000.0)

    def objective(d):
        return 0.5 * d @ hess @ d - grad @ d + penalty.value(coef + d, MASK)

    step = penalty.minimize_quadratic(hess, grad, coef, MASK)
    assert step.shape == (5,)
    lowest = objective(step)
    for size in (1e-3, 1e-1, 1.0, 10.0):
        for direction in rng.standard_normal((50, 5)):
            assert objective(step + size * direction) > lowest
    for j in range(5):  # along the axes, where kinks lie
        for size in (-1e-2, 1e-2, -coef[j] - step[j]):
            move = np.zeros(5)
            move[j] = size
            assert objective(step + move) >= lowest


def test_arguments_are_left_alone(penalty, problem, tools):
    hess, grad, coef = (tools.frozen(array) for array in problem)
    penalty.minimize_quadratic(hess, grad, coef, tools.frozen(MASK))
    penalty.value(coef, MASK)
    penalty.gradient(coef, MASK)


def test_saved_penalty_comes_back(penalty, tmp_path):
    write_archive(tmp_path / "penalty.mxp", "test", penalty)
    assert read_archive(tmp_path / "penalty.mxp")[1] == penalty


# --- the two that are there -------------------------------------------------------------------


def test_ridge_is_the_closed_form(problem):
    hess, grad, coef = problem
    step = Ridge(2.0).minimize_quadratic(hess, grad, coef, MASK)
    penalised = np.diag(2.0 * MASK)
    assert_allclose(step, np.linalg.solve(hess + penalised, grad - penalised @ coef), rtol=1e-11)
    assert Ridge(2.0).value(coef, MASK) == pytest.approx(np.sum(coef[MASK] ** 2))


@pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf])
def test_ridge_refuses_a_bad_alpha(alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number >= 0"):
        Ridge(alpha)


def test_no_penalty_gives_the_solution_of_least_norm(rng):
    root = rng.standard_normal((3, 6))  # rank 3 of 6
    hess = root.T @ root
    grad = hess @ rng.standard_normal(6)
    step = NoPenalty().minimize_quadratic(hess, grad, np.zeros(6), np.ones(6, dtype=bool))
    assert_allclose(hess @ step, grad, rtol=0, atol=1e-10 * np.abs(grad).max())
    assert_allclose(step, np.linalg.pinv(hess) @ grad, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1.0, 1e12, 1e200])
def test_solve_symmetric_knows_no_scale(rng, scale):
    root = rng.standard_normal((12, 4))
    hess, x = root.T @ root, rng.standard_normal(4)
    assert_allclose(solve_symmetric(scale * hess, scale * (hess @ x)), x, rtol=1e-9)


def test_solve_symmetric_with_columns_of_very_different_size(rng):
    root = rng.standard_normal((30, 3)) * [1.0, 1e4, 1e-4]
    hess, x = root.T @ root, np.array([1.0, 2e-4, -3e4])
    # condition number 1e16 before, 10 after scaling: a solver that scales keeps 12 digits,
    # Cholesky (which needs none) does too
    assert_allclose(solve_symmetric(hess, hess @ x), x, rtol=1e-9)


def test_solve_symmetric_at_the_edges():
    assert solve_symmetric(np.empty((0, 0)), np.empty(0)).shape == (0,)
    assert_allclose(solve_symmetric(np.zeros((2, 2)), np.zeros(2)), 0.0)
    assert_allclose(solve_symmetric(np.full((2, 2), 1e-320), np.ones(2)), 0.0)
    assert np.isnan(solve_symmetric(np.diag([1.0, np.nan]), np.ones(2))).all()
    assert np.isnan(solve_symmetric(np.eye(2), np.array([1.0, np.inf]))).all()
    assert np.isnan(solve_symmetric(np.array([[1.0, np.nan], [np.nan, 1.0]]), np.ones(2))).all()
