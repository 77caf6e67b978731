"""Penalties with zeros: proximal maps, slopes, stationarity, the rows of a softmax, units."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.special import softmax

import mixexperts as mx
from mixexperts.penalties import Ridge, SparsePenalty

INF = np.inf
KINDS = ("lasso", "mcp", "scad")
NO_GATE = np.zeros((1, 1))
strengths = st.floats(0.02, 2.0)
ratios = st.sampled_from([0.0, 0.3, 0.9, 1.0])
seeds = st.integers(0, 2**32 - 1)


@st.composite
def penalties(draw, kinds=KINDS, alpha=strengths):
    kind = draw(st.sampled_from(kinds))
    least = {"mcp": 1.02, "scad": 2.02}.get(kind)
    concavity = None if least is None else draw(st.floats(least, 8.0))
    return SparsePenalty(draw(alpha), draw(alpha), draw(ratios), kind, concavity)


def one(b):
    return np.full((1, 1, 1), float(b))


def at(penalty, b):
    """Penalty of one coefficient of an expert."""
    return penalty.value(one(b), NO_GATE)


def rooms(rng, n_experts=3, n_classes=2, p=5, zeros=0.4):
    """Coefficients of both rooms, some of them zero."""
    coef = rng.normal(size=(n_experts, n_classes, p)) * (rng.random((1, 1, p)) > zeros)
    gate = rng.normal(size=(n_experts, p)) * (rng.random((n_experts, p)) > zeros)
    return coef, gate


# One coefficient ---------------------------------------------------------------------------


@given(penalties(), st.floats(-6.0, 6.0), st.floats(-2.5, 3.0))
def test_prox_is_the_global_minimiser(penalty, u, log_step):
    step = np.exp(log_step)

    def objective(b):
        return (b - u) ** 2 / (2.0 * step) + at(penalty, b)

    found = penalty.prox(one(u), step, "expert").item()
    grid = np.linspace(-abs(u), abs(u), 121)
    values = [objective(b) for b in grid]
    nearest = grid[int(np.argmin(values))]
    width = abs(u) / 60 + 1e-6
    refined = minimize_scalar(
        objective, bounds=(nearest - width, nearest + width), method="bounded"
    )
    best = min(refined.fun, objective(0.0), objective(u), *values)
    assert objective(found) <= best + 1e-10 * max(best, 1.0)
    if abs(abs(u) - step * penalty.l1(one(0.0), "expert").item()) > 1e-6 * step:
        minus = penalty.prox(one(-u), step, "expert").item()
        assert minus == -found


def test_prox_of_known_values():
    lasso, mcp = SparsePenalty(1.0, 1.0), SparsePenalty(1.0, 1.0, kind="mcp", concavity=3.0)
    scad = SparsePenalty(1.0, 1.0, kind="scad", concavity=3.7)
    u = np.array([[[0.5, -1.5, 2.5, 5.0]]])
    assert_allclose(lasso.prox(u, 1.0, "expert")[0, 0], [0.0, -0.5, 1.5, 4.0])
    assert_allclose(mcp.prox(u, 1.0, "expert")[0, 0], [0.0, -0.75, 2.25, 5.0])
    middle = (2.5 * 2.7 - 3.7) / 1.7
    assert_allclose(scad.prox(u, 1.0, "expert")[0, 0], [0.0, -0.5, middle, 5.0])
    # Steps past the concavity: all or nothing, from level * sqrt(concavity * step) on.
    u = np.array([[[3.4, 3.5]]])
    assert_allclose(mcp.prox(u, 4.0, "expert")[0, 0], [0.0, 3.5])
    elastic = SparsePenalty(1.0, 1.0, l1_ratio=0.5)
    assert elastic.prox(one(2.5), 2.0, "expert").item() == pytest.approx(1.5 / 2.0)


@given(penalties(), st.floats(0.01, 5.0), st.sampled_from([-1.0, 1.0]))
def test_slopes_are_derivatives(penalty, size, sign):
    level = penalty.alpha * penalty.l1_ratio
    kinks = [level, level * (penalty.concavity or 1.0)]
    assume(min(abs(size - kink) for kink in kinks) > 1e-3)
    h, b = 1e-6, sign * size
    numeric = (at(penalty, b + h) - at(penalty, b - h)) / (2.0 * h)
    slope = sign * penalty.l1(one(size), "expert") + penalty.ridge("expert") * b
    assert slope.item() == pytest.approx(numeric, abs=1e-7)
    bend = (penalty.l1(one(size + h), "expert") - penalty.l1(one(size - h), "expert")) / (2.0 * h)
    assert penalty.curvature(one(size), "expert").item() == pytest.approx(bend.item(), abs=1e-7)


@given(penalties(), st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_the_linear_approximation_lies_above(penalty, size, other):
    ridge = penalty.ridge("expert").item()
    here = at(penalty, size) - 0.5 * ridge * size**2
    there = at(penalty, other) - 0.5 * ridge * other**2
    assert there <= here + penalty.l1(one(size), "expert").item() * (other - size) + 1e-12


@pytest.mark.parametrize("kind", ["mcp", "scad"])
def test_concave_penalties_start_as_the_lasso_and_become_flat(kind):
    penalty = SparsePenalty(0.4, 0.1, kind=kind)
    level, end = 0.4, 0.4 * penalty.concavity
    assert penalty.l1(one(0.0), "expert").item() == level
    assert penalty.l1(one(end), "expert").item() == pytest.approx(0.0, abs=1e-15)
    assert at(penalty, end) == pytest.approx(at(penalty, 100.0), rel=1e-14)
    flat = 0.5 * level * end if kind == "mcp" else 0.5 * level**2 * (penalty.concavity + 1.0)
    assert at(penalty, 100.0) == pytest.approx(flat, rel=1e-14)
    assert not penalty.is_convex
    near = SparsePenalty(0.4, 0.1, kind=kind, concavity=1e9)
    assert at(near, 3.0) == pytest.approx(at(SparsePenalty(0.4, 0.1), 3.0), rel=1e-8)


# Units -------------------------------------------------------------------------------------


@given(penalties(kinds=("lasso", "group")), seeds, st.floats(0.1, 10.0))
def test_value_is_linear_in_the_strengths(penalty, seed, factor):
    coef, gate = rooms(np.random.default_rng(seed))
    assert penalty.scaled(factor).value(coef, gate) == pytest.approx(
        factor * penalty.value(coef, gate), rel=1e-12
    )


@given(penalties(kinds=("mcp", "scad")), st.floats(0.0, 5.0), st.floats(0.1, 10.0))
def test_concave_penalties_scale_with_the_coefficients(penalty, size, factor):
    penalty = dataclasses.replace(penalty, l1_ratio=1.0)
    scaled = at(penalty.scaled(factor), factor * size)
    assert scaled == pytest.approx(factor**2 * at(penalty, size), rel=1e-12)


@given(penalties(kinds=(*KINDS, "group")), seeds)
def test_rooms_have_their_own_strength(penalty, seed):
    coef, gate = rooms(np.random.default_rng(seed))
    swapped = dataclasses.replace(penalty, alpha=penalty.gate_alpha, gate_alpha=penalty.alpha)
    assert penalty.value(coef, 0 * gate) == pytest.approx(
        swapped.value(0 * coef, coef.reshape(-1, coef.shape[-1])), rel=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_multiply_the_strength(kind):
    rng = np.random.default_rng(3)
    coef, gate = rooms(rng)
    weights, gate_weights = rng.exponential(size=coef.shape), rng.exponential(size=gate.shape)
    penalty = SparsePenalty(0.3, 0.5, 0.7, kind, None, weights, gate_weights)
    expected = 0.0
    for b, w in zip(coef.flat, weights.flat, strict=True):
        expected += at(SparsePenalty(0.3 * w, 0.0, 0.7, kind), b)
    for b, w in zip(gate.flat, gate_weights.flat, strict=True):
        expected += at(SparsePenalty(0.5 * w, 0.0, 0.7, kind), b)
    assert penalty.value(coef, gate) == pytest.approx(expected, rel=1e-12)
    assert_allclose(penalty.ridge("expert"), 0.3 * 0.3 * weights)
    assert_allclose(penalty.l1(0 * gate, "gate"), 0.5 * 0.7 * gate_weights)
    columns = SparsePenalty(0.3, 0.5, 0.7, kind, None, weights[0, 0])
    full = np.broadcast_to(weights[0, 0], coef.shape)
    other = dataclasses.replace(columns, weights=full)
    assert columns.value(coef, gate) == other.value(coef, gate)


@pytest.mark.parametrize("kind", [*KINDS, "group"])
def test_weights_of_zero_free_and_of_infinity_hold(kind):
    weights = np.array([0.0, INF, 1.0])
    penalty = SparsePenalty(0.3, 0.3, 0.8, kind, weights=weights, gate_weights=weights)
    coef, gate = np.array([[[5.0, 0.0, 0.0]]]), np.array([[5.0, 0.0, 0.0]])
    assert penalty.value(coef, gate) == 0.0
    assert penalty.value(coef + np.array([0.0, 1e-9, 0.0]), gate) == INF
    gradient, gate_gradient = np.array([[[0.0, 9.0, 0.0]]]), np.array([[0.0, 9.0, 0.0]])
    distance = penalty.subgradient_distance(gradient, coef, gate_gradient, gate)
    assert distance[0].max() == distance[1].max() == 0.0
    gradient[..., 0] = 0.25
    assert penalty.subgradient_distance(gradient, coef, gate_gradient, gate)[0].max() == 0.25
    u, gate_u = np.full((1, 1, 3), 0.1), np.full((1, 3), 0.1)
    if kind == "group":
        moved = penalty.prox_group(u, gate_u)
    else:
        moved = penalty.prox(u, 1.0, "expert"), penalty.prox(gate_u, 1.0, "gate")
        assert penalty.l1(np.zeros((1, 1, 3)), "expert")[0, 0, 1] == INF
    assert_array_equal(moved[0][0, 0], [0.1, 0.0, 0.0])
    assert_array_equal(moved[1][0], [0.1, 0.0, 0.0])
    assert penalty.zero_factor(gradient, gate_gradient) == 0.0


def test_without_l1_it_is_ridge():
    coef, gate = rooms(np.random.default_rng(5))
    for kind in (*KINDS, "group"):
        penalty = SparsePenalty(0.3, 0.2, 0.0, kind)
        columns = np.ones(5, dtype=bool)
        ridge = Ridge(0.3).value(coef, columns) + Ridge(0.2).value(gate, columns)
        assert penalty.value(coef, gate) == pytest.approx(ridge, rel=1e-12)


# Stationarity ------------------------------------------------------------------------------


@given(penalties(kinds=(*KINDS, "group")), seeds)
def test_distance_is_zero_at_proximal_points_alone(penalty, seed):
    rng = np.random.default_rng(seed)
    coef, gate = rooms(rng)
    step, gate_step = np.exp(rng.normal(size=coef.shape)), np.exp(rng.normal(size=gate.shape))
    if penalty.kind == "group":
        labels = np.array([0, 1, 1, 2, 2])
        penalty = dataclasses.replace(
            penalty, groups=labels, weights=rng.choice([0.0, 0.5, 2.0, INF], 5)
        )
        b, g = penalty.prox_group(coef, gate, step, gate_step)
    else:
        b, g = penalty.prox(coef, step, "expert"), penalty.prox(gate, gate_step, "gate")
    gradient, gate_gradient = (coef - b) / step, (gate - g) / gate_step
    distance = penalty.subgradient_distance(gradient, b, gate_gradient, g)
    assert max(d.max() for d in distance) < 1e-9
    moved = gradient.copy()
    where = np.unravel_index(np.argmax(np.abs(b)), b.shape)
    assume(b[where] != 0.0)
    moved[where] += 0.01
    distance = penalty.subgradient_distance(moved, b, gate_gradient, g)
    assert distance[0][where] == pytest.approx(0.01, abs=1e-9)


def test_distance_of_known_values():
    penalty = SparsePenalty(1.0, 2.0)
    gradient = np.array([[[0.5, -1.5, 1.0, 0.0]]])
    coef = np.array([[[0.0, 0.0, 2.0, -2.0]]])
    gate = np.array([[2.5, -2.0, 2.0, 1.0]])
    distance, gate_distance = penalty.subgradient_distance(
        gradient, coef, gate, np.array([[0.0, 0.0, 1.0, 1.0]])
    )
    assert_allclose(distance[0, 0], [0.0, 0.5, 0.0, 1.0])
    assert_allclose(gate_distance[0], [0.5, 0.0, 0.0, 1.0])


@given(penalties(kinds=(*KINDS, "group")), seeds)
def test_zero_factor_is_where_the_first_slope_moves(penalty, seed):
    assume(penalty.l1_ratio > 0.0)
    rng = np.random.default_rng(seed)
    gradient, gate_gradient = rooms(rng, zeros=0.0)
    factor = penalty.zero_factor(gradient, gate_gradient)
    zero, gate_zero = np.zeros_like(gradient), np.zeros_like(gate_gradient)
    for scale, stationary in ((1.0 + 1e-9, True), (1.0 - 1e-6, False)):
        distance = penalty.scaled(factor * scale).subgradient_distance(
            gradient, zero, gate_gradient, gate_zero
        )
        assert bool(max(d.max() for d in distance) < 1e-12) is stationary


def test_no_factor_helps_a_room_without_strength():
    gradient, gate_gradient = np.ones((2, 1, 3)), np.ones((2, 3))
    for kind in ("lasso", "group"):
        penalty = SparsePenalty(1.0, 0.0, kind=kind)
        assert penalty.zero_factor(gradient, gate_gradient) == INF
        assert penalty.zero_factor(gradient, 0 * gate_gradient) < INF


# Groups ------------------------------------------------------------------------------------


@given(seeds, strengths, strengths, ratios)
def test_group_prox_beats_its_neighbours(seed, alpha, gate_alpha, ratio):
    rng = np.random.default_rng(seed)
    coef, gate = rooms(rng)
    penalty = SparsePenalty(alpha, gate_alpha, ratio, "group", groups=[0, 1, 1, 2, 2])
    step, gate_step = np.exp(rng.normal(size=coef.shape)), np.exp(rng.normal(size=gate.shape))

    def objective(b, g):
        near = ((b - coef) ** 2 / (2 * step)).sum() + ((g - gate) ** 2 / (2 * gate_step)).sum()
        return near + penalty.value(b, g)

    b, g = penalty.prox_group(coef, gate, step, gate_step)
    best = objective(b, g)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        db, dg = rng.normal(size=b.shape), rng.normal(size=g.shape)
        assert best <= objective(b + size * db, g + size * dg) + 1e-12
    # Towards zero and away from it, all of a block together.
    for scale in (0.0, 0.9, 0.999, 1.001, 1.1):
        assert best <= objective(scale * b, scale * g) + 1e-12


def test_group_of_one_strength_is_shrunk_as_a_whole():
    rng = np.random.default_rng(0)
    coef, gate = rooms(rng, zeros=0.0)
    penalty = SparsePenalty(0.8, 0.8, kind="group")
    b, g = penalty.prox_group(coef, gate, 0.5, 0.5)
    norm = np.sqrt((coef**2).sum(axis=(0, 1)) + (gate**2).sum(axis=0))
    shrink = np.maximum(1.0 - 0.5 * 0.8 / norm, 0.0)
    assert_allclose(b, coef * shrink, rtol=1e-12)
    assert_allclose(g, gate * shrink, rtol=1e-12)
    pairs = SparsePenalty(0.8, 0.8, kind="group", groups=[4, 4, 7, 7, 7])
    blocks = [np.sqrt((norm[part] ** 2).sum()) for part in (slice(0, 2), slice(2, 5))]
    expected = 0.8 * (np.sqrt(2) * blocks[0] + np.sqrt(3) * blocks[1])
    assert pairs.value(coef, gate) == pytest.approx(expected, rel=1e-12)


def test_a_block_at_zero_is_judged_by_both_rooms():
    penalty = SparsePenalty(1.0, 2.0, kind="group")
    gradient, gate_gradient = np.full((1, 1, 1), 0.9), np.full((1, 1), 1.8)
    zero, gate_zero = np.zeros((1, 1, 1)), np.zeros((1, 1))
    alone = penalty.subgradient_distance(gradient, zero, 0 * gate_gradient, gate_zero)
    assert alone[0].item() == alone[1].item() == 0.0
    both = penalty.subgradient_distance(gradient, zero, gate_gradient, gate_zero)
    assert both[0].item() == both[1].item() > 0.2
    b, g = penalty.prox_group(gradient, gate_gradient)
    assert b.item() > 0.0
    assert g.item() > 0.0
    assert penalty.zero_factor(gradient, gate_gradient) == pytest.approx(np.hypot(0.9, 0.9))


def test_norms_of_tiny_and_huge_blocks():
    penalty = SparsePenalty(1.0, 1.0, kind="group")
    for size in (1e-200, 1e150):
        coef = np.full((1, 1, 2), size)
        assert penalty.value(coef, np.zeros((1, 2))) == pytest.approx(2 * size, rel=1e-12)


# Rows of a softmax -------------------------------------------------------------------------


def lattice(seed, n_rows, m=8):
    """Rows with ties and zeros."""
    rng = np.random.default_rng(seed)
    ties = rng.choice([-1.0, 0.0, 0.0, 0.5, 1.0], (n_rows, m))
    return np.where(rng.random(m) < 0.5, ties, rng.normal(size=(n_rows, m)))


@given(st.integers(1, 6), seeds)
def test_lasso_rows_have_the_least_squares_of_the_least_absolute_sum(n_rows, seed):
    rows = lattice(seed, n_rows)
    centred = SparsePenalty(0.1, 0.3).centred(rows)
    shift = (rows - centred)[0]
    assert_allclose(rows - centred, np.broadcast_to(shift, rows.shape), atol=1e-15)
    ordered = np.sort(rows, axis=0)
    low, high = ordered[(n_rows - 1) // 2], ordered[n_rows // 2]
    assert_allclose(shift, np.clip(rows.mean(axis=0), low, high), atol=1e-15)
    for j in range(rows.shape[1]):
        tried = np.concatenate([rows[:, j], np.linspace(-2.0, 2.0, 201), [rows[:, j].mean()]])
        sums = np.abs(rows[:, j] - tried[:, None]).sum(axis=1)
        least = np.abs(centred[:, j]).sum()
        assert least <= sums.min() + 1e-12
        tied = tried[sums <= least + 1e-12]
        squares = ((rows[:, j] - tied[:, None]) ** 2).sum(axis=1)
        assert (centred[:, j] ** 2).sum() <= squares.min() + 1e-12


@given(penalties(), st.integers(1, 5), seeds)
def test_no_other_rows_have_a_smaller_penalty(penalty, n_rows, seed):
    rng = np.random.default_rng(seed)
    rows = lattice(seed, n_rows)
    if seed % 2:
        penalty = dataclasses.replace(penalty, gate_weights=rng.choice([0.0, 0.5, 1.0], rows.shape))
    centred = penalty.centred(rows)
    assert_allclose(softmax(centred, axis=0), softmax(rows, axis=0), atol=1e-12)
    for j in range(rows.shape[1]):
        weights = penalty.gate_weights
        column = dataclasses.replace(
            penalty, gate_weights=None if weights is None else weights[:, [j]]
        )
        zero = np.zeros((n_rows, 1, 1))
        least = column.value(zero, centred[:, [j]])
        for shift in (*rows[:, j], *np.linspace(-2.0, 2.0, 101), rows[:, j].mean()):
            assert least <= column.value(zero, rows[:, [j]] - shift) + 1e-12


@given(penalties(kinds=("lasso", "group")), st.integers(2, 5), seeds)
def test_centred_rows_stay_as_they_are(penalty, n_rows, seed):
    centred = penalty.centred(lattice(seed, n_rows))
    assert_allclose(penalty.centred(centred), centred, atol=1e-12)


def test_centred_rows_of_two_experts_and_of_zeros():
    penalty = SparsePenalty(0.1, 0.1)
    rows = penalty.centred(np.array([[3.0, 0.0, 0.0], [1.0, 0.0, 4.0]]))
    assert_array_equal(rows, [[1.0, 0.0, -2.0], [-1.0, 0.0, 2.0]])
    # Most rows agree: those become zeros, exactly.
    rows = penalty.centred(np.array([[0.3], [0.1], [0.1]]))
    assert_array_equal(rows[1:], [[0.0], [0.0]])


@pytest.mark.parametrize("kind", [*KINDS, "group"])
def test_classes_of_an_expert_are_rows(kind):
    rng = np.random.default_rng(8)
    coef, _ = rooms(rng, n_experts=2, n_classes=4)
    penalty = SparsePenalty(0.3, 0.3, 0.9, kind)
    centred = penalty.centred(coef, "expert")
    for k in range(2):
        assert_allclose(centred[k], penalty.centred(coef[k], "gate"), atol=1e-15)
    single = coef[:, :1]
    assert_array_equal(penalty.centred(single, "expert"), single)


@pytest.mark.parametrize("kind", [*KINDS, "group"])
def test_reference_coding_holds_the_last_row(kind):
    rng = np.random.default_rng(9)
    coef, gate = rooms(rng)
    penalty = SparsePenalty(0.3, 0.3, 0.9, kind, gate_coding="reference")
    rows = penalty.centred(gate)
    assert_array_equal(rows, gate - gate[-1])
    assert penalty.value(coef, gate + 1.0) == INF
    symmetric = dataclasses.replace(penalty, gate_coding="symmetric")
    assert penalty.value(coef, rows) == symmetric.value(coef, rows)
    gradient = np.zeros_like(coef)
    gate_gradient = np.zeros_like(gate)
    gate_gradient[-1] = 7.0
    assert penalty.zero_factor(gradient, gate_gradient) == 0.0
    if kind != "group":
        assert (penalty.prox(gate, 1.0, "gate")[-1] == 0.0).all()


def test_a_held_row_is_the_one_that_becomes_zero():
    weights = np.array([[0.0, 0.0, 1.0], [INF, 0.0, 1.0], [0.0, 0.0, 0.0]])
    penalty = SparsePenalty(0.1, 0.1, gate_weights=weights)
    rows = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 4.0], [6.0, 6.0, 3.0]])
    centred = penalty.centred(rows)
    assert_array_equal(centred[:, 0], [-1.0, 0.0, 4.0])
    assert_allclose(centred[:, 1], [-2.0, -1.0, 3.0])
    # Free rows count for nothing in the sum, and for all in the tie.
    assert_allclose(centred[:, 2], rows[:, 2] - rows[:, 2].mean())


def test_free_slopes_are_counted_up_to_the_shift():
    penalty = SparsePenalty(0.1, 0.1)
    gate = np.array([[1.0, 0.0, 0.0, 2.0], [1.0, 3.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0]])
    lines = np.array([[[1.0, 0.0, 2.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]]])
    assert penalty.n_free(lines, gate) == 6 + 2 + 2 + 1
    classes = np.zeros((3, 3, 4))
    classes[0, :, 0], classes[0, 1, 1], classes[2, :2, 3] = 1.0, 1.0, 1.0
    assert penalty.n_free(classes, 0 * gate) == 2 + 1 + 2


# What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": -1.0}, ValueError, "alpha must be a finite number >= 0, got -1.0"),
        ({"gate_alpha": float("nan")}, ValueError, "gate_alpha must be a finite number"),
        ({"alpha": True}, TypeError, "alpha must be a number, got True"),
        ({"alpha": "0.1"}, TypeError, "alpha must be a number, got '0.1'"),
        ({"l1_ratio": 1.5}, ValueError, r"l1_ratio must lie in \[0, 1\], got 1.5"),
        ({"l1_ratio": float("nan")}, ValueError, r"l1_ratio must lie in \[0, 1\], got nan"),
        ({"kind": "ridge"}, ValueError, "kind must be one of 'lasso'"),
        ({"gate_coding": "first"}, ValueError, "gate_coding must be one of 'symmetric'"),
        ({"kind": "mcp", "concavity": 1.0}, ValueError, "> 1 for mcp, got 1.0"),
        ({"kind": "scad", "concavity": 2.0}, ValueError, "> 2 for scad, got 2.0"),
        ({"kind": "mcp", "concavity": INF}, ValueError, "finite number > 1"),
        ({"concavity": 3.0}, ValueError, "leave it None"),
        ({"weights": [1.0, -1.0]}, ValueError, "weights must be numbers >= 0, got -1"),
        ({"gate_weights": [float("nan")]}, ValueError, "gate_weights must be numbers >= 0"),
        ({"weights": [[1.0]]}, ValueError, r"weights must have shape \(p,\) or \(K, L, p\)"),
        ({"kind": "group", "gate_weights": [[1.0]]}, ValueError, r"must have shape \(p,\), got"),
        ({"groups": [0, 1]}, ValueError, 'groups is for kind="group"'),
        ({"kind": "group", "groups": [0.5, 1]}, ValueError, "groups must be integers"),
        ({"kind": "group", "groups": [[0, 1]]}, ValueError, "groups must be integers of shape"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        SparsePenalty(**{"alpha": 0.1, "gate_alpha": 0.1} | options)


def test_bad_coefficients_are_refused():
    penalty = SparsePenalty(0.1, 0.1, weights=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"weights has shape \(2,\) for coefficients of shape"):
        penalty.value(np.zeros((2, 1, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"the expert must have shape \(K, L, p\), got \(2, 3\)"):
        penalty.prox(np.zeros((2, 3)), 1.0, "expert")
    with pytest.raises(ValueError, match="room must be one of"):
        penalty.ridge("experts")
    group = SparsePenalty(0.1, 0.1, kind="group", groups=[0, 0])
    with pytest.raises(ValueError, match="groups has 2 labels for 3 columns"):
        group.value(np.zeros((2, 1, 3)), np.zeros((2, 3)))
    for method in ("l1", "curvature"):
        with pytest.raises(ValueError, match="use prox_group"):
            getattr(group, method)(np.zeros((2, 2)), "gate")
    with pytest.raises(ValueError, match="use prox_group"):
        group.prox(np.zeros((2, 2)), 1.0, "gate")
    with pytest.raises(ValueError, match="use prox"):
        penalty.prox_group(np.zeros((2, 1, 2)), np.zeros((2, 2)))


def test_it_is_a_value():
    weights = np.ones(3)
    penalty = SparsePenalty(1, 0.1, weights=weights)
    weights[0] = 5.0
    assert penalty.weights[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        penalty.weights[0] = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        penalty.alpha = 2.0
    again = pickle.loads(pickle.dumps(penalty))
    assert again.value(np.ones((1, 1, 3)), np.ones((1, 3))) == pytest.approx(3.3)
    assert not penalty.is_null
    assert SparsePenalty(0.0, 0.0, weights=[0.0, 1.0]).is_null
    assert not SparsePenalty(0.0, 0.0, weights=[INF, 1.0]).is_null


@pytest.mark.parametrize("name", ["lasso", "Elastic-Net", "mcp", "group"])
def test_smooth_estimators_say_where_zeros_come_from(name):
    X, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    for argument in ("expert_penalty", "gate_penalty"):
        with pytest.raises(ValueError, match="LassoMoERegressor and LassoMoEClassifier"):
            mx.MoERegressor(2, **{argument: name}).fit(X, y)
    with pytest.raises(TypeError, match="LassoMoERegressor"):
        mx.MoERegressor(2, expert_penalty=SparsePenalty(0.1, 0.1)).fit(X, y)
