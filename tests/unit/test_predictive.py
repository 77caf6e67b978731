"""The predictive distribution, against scipy, closed forms and its definitions.

Tolerances: EPS is one rounding. A quantile is known to (error of cdf) / density, so its bound is
EPS * cdf / density in the lower tail and EPS / density in the upper one, where cdf is near 1.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import ndtr

from mixexperts._batch import Batch
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts.base import Expert
from mixexperts.experts.gaussian import Gaussian
from mixexperts.predictive import Predictive

EPS = np.finfo(float).eps


class UpperTail(Gaussian):
    """Gaussian experts that offer their own upper tail."""

    def sf(self, params, batch):
        return ndtr(-self._residual(params, batch) / params["scale"])


class SpoiltLast(Gaussian):
    """Gaussian experts of which the last one answers NaN to everything."""

    @staticmethod
    def _spoil(values):
        values = np.array(values)
        values[:, -1] = np.nan
        return values

    def mean(self, params, batch):
        return self._spoil(super().mean(params, batch))

    def variance(self, params, batch):
        return self._spoil(super().variance(params, batch))

    def log_prob(self, params, batch):
        return self._spoil(super().log_prob(params, batch))

    def cdf(self, params, batch):
        return self._spoil(super().cdf(params, batch))

    def quantile(self, params, batch, probability):
        return self._spoil(super().quantile(params, batch, probability))


class Counts(Gaussian):
    """Poisson experts with the linear predictor as their mean."""

    sf = None  # the upper tail of a Gaussian is none of theirs

    def log_prob(self, params, batch):
        return stats.poisson.logpmf(batch.y[:, None], self.mean(params, batch))

    def cdf(self, params, batch):
        return stats.poisson.cdf(batch.y[:, None], self.mean(params, batch))

    def quantile(self, params, batch, probability):
        return stats.poisson.ppf(probability, self.mean(params, batch))


class NoVariance(Gaussian):
    variance = Expert.variance


def log(weight):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(weight, dtype=float))


def mixture(means, sds, weights, *, expert=None, offset=None, unit=None, **kwargs):
    """Rows with given expert means (n, K): the design holds one indicator per row."""
    means = np.atleast_2d(np.asarray(means, dtype=float))
    n = means.shape[0]
    params = {"coef": means.T.copy(), "scale": np.asarray(sds, dtype=float)}
    u = n if unit is None else int(unit.max()) + 1
    batch = Batch(
        np.full(n, np.nan), {"mean": np.eye(n)}, np.ones((u, 1)), np.ones(u), unit, offset
    )
    log_weight = log(np.broadcast_to(weights, means.shape))
    return Predictive(expert or Gaussian(), params, batch, log_weight, **kwargs)


MEANS = np.array([[0.0, 4.0], [0.0, 1.0], [-1.0, 3.0]])
SDS = np.array([1.0, 0.5])
WEIGHTS = np.array([0.3, 0.7])


@pytest.fixture
def three():
    return mixture(MEANS, SDS, WEIGHTS)


@st.composite
def mixtures(draw, min_weight=1e-12, log_sd=2.0, max_mean=1e3):
    """Means, scales and weights of one row: overlapping to disjoint, weights down to 1e-12."""
    k = draw(st.integers(1, 4))
    means = draw(st.lists(st.floats(-max_mean, max_mean), min_size=k, max_size=k))
    log_sds = draw(st.lists(st.floats(-log_sd, log_sd), min_size=k, max_size=k))
    log_weights = draw(st.lists(st.floats(np.log10(min_weight), 0.0), min_size=k, max_size=k))
    weights = 10.0 ** np.array(log_weights)
    return np.array(means), 10.0 ** np.array(log_sds), weights / weights.sum()


# --- one expert: scipy's normal distribution --------------------------------------------------


@pytest.fixture
def single():
    means, sd = np.array([-2.0, 0.0, 7.5]), 1.7
    return mixture(means[:, None], [sd], [1.0]), stats.norm(means, sd)


@pytest.mark.parametrize("method", ["pdf", "logpdf", "cdf", "sf"])
def test_one_expert_is_scipys_normal_at_values(single, method):
    ours, theirs = single
    y = np.array([-3.0, 0.4, 12.0])
    assert_allclose(getattr(ours, method)(y), getattr(theirs, method)(y), rtol=1e-12)


@pytest.mark.parametrize("method", ["mean", "var", "std", "median"])
def test_one_expert_is_scipys_normal_in_moments(single, method):
    ours, theirs = single
    assert_allclose(getattr(ours, method)(), getattr(theirs, method)(), rtol=1e-14)


@pytest.mark.parametrize("q", [0.0, 1e-300, 1e-9, 0.025, 0.5, 0.9, 1.0 - 1e-9, 1.0])
def test_one_expert_has_scipys_quantiles(single, q):
    ours, theirs = single
    assert_allclose(ours.ppf(q), theirs.ppf(q), rtol=1e-14)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.9, 1.0])
def test_interval_answers_as_scipys_frozen_distributions(single, confidence):
    ours, theirs = single
    for mine, other in zip(ours.interval(confidence), theirs.interval(confidence), strict=True):
        assert_allclose(mine, other, rtol=1e-14)


def test_one_normal_expert_has_the_central_interval_as_its_region(single):
    ours, theirs = single
    expected = np.column_stack(theirs.interval(0.8))[:, None]
    # Mass is met to 1e-13 and the ends share a log density to 1e-15: 1e-12 leaves room.
    assert_allclose(ours.hdr(0.8), expected, rtol=1e-12)


# --- moments ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(mixtures())
def test_moments_equal_the_closed_forms(case):
    means, sds, weights = case
    p = mixture(means, sds, weights)
    mean = weights @ means
    assert_allclose(p.mean(), [mean], rtol=1e-13, atol=1e-13 * np.abs(means).max())
    variance = weights @ (sds**2 + (means - mean) ** 2)
    assert_allclose(p.var(), [variance], rtol=1e-9)
    assert_allclose(p.std(), [np.sqrt(variance)], rtol=1e-9)


def test_expert_means_and_sizes(three):
    assert_allclose(three.expert_means(), MEANS, rtol=1e-15)
    assert_allclose(three.weights, np.tile(WEIGHTS, (3, 1)), rtol=1e-15)
    assert (three.n_rows, three.n_experts) == (3, 2)
    assert repr(three) == "Predictive(expert='gaussian', n_rows=3, n_experts=2)"
    with pytest.raises(ValueError, match="read-only"):
        three.weights[0, 0] = 1.0


def test_the_offset_shifts_every_expert_of_its_row():
    offset = np.array([0.5, -2.0, 10.0])
    plain, moved = mixture(MEANS, SDS, WEIGHTS), mixture(MEANS, SDS, WEIGHTS, offset=offset)
    assert_allclose(moved.mean(), plain.mean() + offset, rtol=1e-14)
    assert_allclose(moved.ppf(0.3), plain.ppf(0.3) + offset, rtol=1e-13)
    assert_allclose(moved.cdf(1.0 + offset), plain.cdf(1.0), rtol=1e-13)


def test_rows_that_share_a_sampling_unit_stay_rows():
    grouped = mixture(MEANS, SDS, WEIGHTS, unit=np.array([0, 0, 1]))
    plain = mixture(MEANS, SDS, WEIGHTS)
    assert_array_equal(grouped.ppf([0.1, 0.9]), plain.ppf([0.1, 0.9]))
    assert_array_equal(grouped.cdf(0.5), plain.cdf(0.5))


# --- density and distribution function --------------------------------------------------------


@settings(deadline=None)
@given(mixtures(log_sd=1.0, max_mean=30.0))
def test_density_integrates_to_one(case):
    means, sds, weights = case
    # The trapezoid rule errs by about exp(-2 pi^2 (sd / step)^2): nothing at step = sd / 4.
    step = sds.min() / 4.0
    grid = np.arange((means - 10.0 * sds).min(), (means + 10.0 * sds).max() + step, step)
    assert step * mixture(means, sds, weights).pdf(grid[None]).sum() == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(mixtures(log_sd=1.0, max_mean=5.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_density_integrates_to_the_distribution_function(case, start, share):
    means, sds, weights = case
    p = mixture(means, sds, weights)
    a = means.min() + (start - 0.5) * 4.0 * sds.max()
    b = a + share * 4.0 * sds.min()
    # Gauss-Legendre with 40 points is exact to rounding over four standard deviations.
    node, mass = np.polynomial.legendre.leggauss(40)
    y = 0.5 * (a + b) + 0.5 * (b - a) * node
    integral = 0.5 * (b - a) * (p.pdf(y[None]) @ mass)
    assert_allclose(p.cdf(b) - p.cdf(a), integral, atol=1e-13)
    assert_allclose(p.sf(a) - p.sf(b), integral, atol=1e-13)


def test_far_tails_stay_finite_and_exact_on_the_log_scale():
    p = mixture([[0.0, 1.0]], [1.0, 1.0], [0.25, 0.75])
    y = np.array([[-40.0, 41.0, 1e6]])
    expected = np.logaddexp(
        np.log(0.25) + stats.norm.logpdf(y, 0.0, 1.0), np.log(0.75) + stats.norm.logpdf(y, 1.0, 1.0)
    )
    assert_allclose(p.logpdf(y), expected, rtol=1e-14)
    assert np.isfinite(p.logpdf(y)).all()
    assert_array_equal(p.logpdf([[np.inf, -np.inf, 1e300]]), np.full((1, 3), -np.inf))
    assert_array_equal(p.cdf([[np.inf, -np.inf, 1e300]]), [[1.0, 0.0, 1.0]])


def test_lower_tail_keeps_its_relative_accuracy():
    p = mixture([[0.0, 1.0]], [1.0, 1.0], [0.25, 0.75])
    expected = 0.25 * stats.norm.cdf(-30.0) + 0.75 * stats.norm.cdf(-31.0)
    assert_allclose(p.cdf(-30.0), [expected], rtol=1e-12)


def test_upper_tail_takes_the_experts_own_route_if_there_is_one():
    args = ([[0.0, 1.0]], [1.0, 1.0], [0.25, 0.75])
    expected = 0.25 * stats.norm.sf(30.0) + 0.75 * stats.norm.sf(29.0)
    assert_allclose(mixture(*args, expert=UpperTail()).sf(30.0), [expected], rtol=1e-12, atol=0.0)
    assert_allclose(mixture(*args).sf([2.0]), 1.0 - mixture(*args).cdf([2.0]), atol=EPS)


@pytest.mark.parametrize("method", ["pdf", "logpdf", "cdf", "sf"])
def test_shape_rule(three, method):
    evaluate, columns = getattr(three, method), np.array([-1.0, 0.5, 2.0, 9.0])
    wide = evaluate(columns[None])
    assert wide.shape == (3, 4)
    for j, value in enumerate(columns):
        assert evaluate(value).shape == (3,)
        assert_array_equal(evaluate(value), wide[:, j])
    assert_array_equal(evaluate(columns[:3]), wide[np.arange(3), np.arange(3)])
    assert_array_equal(evaluate(np.tile(columns, (3, 1))), wide)
    assert evaluate(columns[:3, None]).shape == (3, 1)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (4, 4), (3, 1, 1), (1, 1, 3)])
def test_other_shapes_of_y_are_refused_by_name(three, shape):
    with pytest.raises(ValueError, match=r"^y must be a scalar, \(3,\)") as caught:
        three.pdf(np.zeros(shape))
    assert str(shape) in str(caught.value)


def test_blocks_do_not_show(three, monkeypatch):
    y, q = np.linspace(-5.0, 8.0, 50)[None], np.linspace(0.0, 1.0, 20)
    whole = three.cdf(y), three.ppf(q), three.hdr(0.7)
    monkeypatch.setattr("mixexperts.predictive._BLOCK", 7)
    assert_allclose(three.cdf(y), whole[0], rtol=1e-14)
    assert_allclose(three.ppf(q), whole[1], rtol=1e-13)
    for mine, other in zip(three.hdr(0.7), whole[2], strict=True):
        assert_allclose(mine, other, rtol=1e-11)


# --- quantiles --------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(mixtures(), st.integers(0, 3), st.floats(-5.0, 5.0))
def test_quantile_inverts_the_distribution_function(case, k, z):
    means, sds, weights = case
    k %= means.size
    p, y = mixture(means, sds, weights), means[k] + z * sds[k]
    cdf, density = float(p.cdf(y)[0]), float(p.pdf(y)[0])
    condition = (cdf if cdf <= 0.5 else 1.0) / density
    # The Gaussian cdf is good to a few roundings of itself and of its argument.
    bound = 16.0 * EPS * (condition + abs(y) + np.abs(means).max())
    # To first order, so in a gap between experts, flat in floats, it says nothing: see below.
    assume(cdf < 1.0 and bound < 1e-3 * sds.min())
    assert_allclose(p.ppf(cdf), [y], rtol=0.0, atol=bound)


@settings(max_examples=300, deadline=None)
@given(mixtures(max_mean=1e9), st.floats(1e-15, 1.0 - 1e-15))
def test_distribution_function_crosses_q_at_the_quantile(case, q):
    means, sds, weights = case
    p = mixture(means, sds, weights)
    x = float(p.ppf(q)[0])
    # Two neighbouring floats, widened by the rounding of y - mean, must enclose q.
    step = 4.0 * EPS * (abs(x) + np.abs(means).max())
    slack = 4.0 * EPS * (q if q <= 0.5 else 1.0)
    assert float(p.cdf(x - step)[0]) <= q + slack
    assert float(p.cdf(x + step)[0]) >= q - slack


def test_quantiles_of_disjoint_experts_with_extreme_weights():
    p = mixture([[0.0, 1e6]], [1.0, 1.0], [1.0 - 1e-12, 1e-12], expert=UpperTail())
    # Below: the first expert alone. Above: the second holds the last 1e-12 of the mass.
    inside = 0.3 / (1.0 - 1e-12)
    top = 1.0 - 2.0**-41
    second = stats.norm.isf((2.0**-41) / 1e-12) + 1e6
    assert_allclose(p.ppf(0.3), stats.norm.ppf([inside]), rtol=1e-13)
    assert_allclose(p.ppf(top), [second], rtol=1e-15)
    assert_allclose(p.ppf(1e-300), stats.norm.ppf([1e-300]), rtol=1e-13)


def test_upper_quantiles_use_the_experts_own_upper_tail():
    args, q = ([[-1.0, 1.0]], [1.0, 1.0], [0.5, 0.5]), 2.0**-40
    exact, rounded = mixture(*args, expert=UpperTail()), mixture(*args)
    assert_allclose(exact.ppf(1.0 - q), -exact.ppf(q), rtol=1e-13)
    # 1 - cdf is rounded to 1e-16, here 1e-4 of the tail's 1e-12, which leaves 1e-5 of y.
    assert_allclose(rounded.ppf(1.0 - q), -rounded.ppf(q), rtol=1e-4)


def test_quantiles_have_one_column_per_probability(three):
    q = np.array([0.9, 0.1, 0.5])
    table = three.ppf(q)
    assert table.shape == (3, 3)
    for j, value in enumerate(q):
        assert three.ppf(value).shape == (3,)
        assert_allclose(three.ppf(value), table[:, j], rtol=1e-15)
    assert three.ppf([]).shape == (3, 0)
    assert_array_equal(three.ppf([0.0, 1.0]), [[-np.inf, np.inf]] * 3)
    assert_array_equal(three.median(), three.ppf(0.5))


@pytest.mark.parametrize("q", [-1e-9, 1.0 + 1e-9, 95.0, np.nan, [0.5, 2.0]])
def test_probabilities_outside_the_unit_interval_are_refused(three, q):
    with pytest.raises(ValueError, match=r"^q must lie in \[0, 1\], got"):
        three.ppf(q)


def test_probabilities_in_a_table_are_refused(three):
    with pytest.raises(ValueError, match=r"q must be a scalar or \(m,\), got shape \(2, 2\)"):
        three.ppf(np.full((2, 2), 0.5))


@pytest.mark.parametrize("q", [0.0, 0.001, 0.2, 0.5, 0.8, 0.999])
def test_quantiles_of_counts_are_the_smallest_counts_that_reach_q(q):
    rates = np.array([[0.3, 4.0], [2.0, 30.0], [1.0, 1.0]])
    p = mixture(rates, [1.0, 1.0], WEIGHTS, expert=Counts())
    if q == 0.0:
        expected = stats.poisson.ppf(0.0, 1.0)
    else:
        table = np.tensordot(stats.poisson.cdf(np.arange(200), rates[..., None]), WEIGHTS, (1, 0))
        expected = (table < q).sum(axis=1)
    assert_array_equal(p.ppf(q), np.broadcast_to(expected, (3,)))


@settings(deadline=None)
@given(mixtures(), st.floats(0.01, 0.99))
def test_interval_leaves_equal_mass_on_both_sides(case, confidence):
    p = mixture(*case)
    lower, upper = p.interval(confidence)
    rounding = 16.0 * EPS * (p.pdf(lower) + p.pdf(upper)) * (np.abs(case[0]).max() + 1.0)
    assert_allclose(p.cdf(lower), 0.5 - 0.5 * confidence, atol=1e-14 + float(rounding[0]))
    assert_allclose(p.cdf(upper), 0.5 + 0.5 * confidence, atol=1e-14 + float(rounding[0]))


# --- highest-density regions ------------------------------------------------------------


def check_region(p, region, confidence, grid):
    """The definition: a set {density >= level} of the given mass."""
    ends = np.array(region)
    assert (np.diff(ends.ravel()) > 0.0).all()
    cdf = p.cdf(ends.reshape(1, -1)).reshape(ends.shape)
    assert (cdf[:, 1] - cdf[:, 0]).sum() == pytest.approx(confidence, abs=1e-8)
    density = p.logpdf(ends.reshape(1, -1)).ravel()
    # Rounding of y - mean, up to EPS * |mean| / sd = 1e-11 at ends some sds from a mean.
    assert np.ptp(density) < 1e-8
    inside = ((grid[:, None] > ends[:, 0]) & (grid[:, None] < ends[:, 1])).any(axis=1)
    height = p.logpdf(grid[None]).ravel()
    assert (height[inside] > density.min() - 1e-7).all()
    assert (height[~inside] < density.max() + 1e-7).all()


@settings(max_examples=150, deadline=None)
@given(mixtures(max_mean=100.0), st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.99, 0.9999]))
def test_region_is_the_level_set_of_its_mass(case, confidence):
    means, sds, weights = case
    p = mixture(means, sds, weights)
    (region,) = p.hdr(confidence)
    grid = np.sort((means[:, None] + sds[:, None] * np.linspace(-9.0, 9.0, 501)).ravel())
    check_region(p, region, confidence, grid)
    lower, upper = p.interval(confidence)
    length = sum(b - a for a, b in region)
    assert length <= float((upper - lower)[0]) * (1.0 + 1e-8)


def test_two_distant_peaks_give_two_intervals_of_known_ends():
    p = mixture([[-50.0, 50.0]], [1.0, 2.0], [0.5, 0.5])
    ((left, right),) = p.hdr(0.9)
    # At a common height the two intervals obey, for half widths a and b in their own scales,
    # exp(-a^2/2) = exp(-b^2/2) / 2 and cdf(a) + cdf(b) - 1 = confidence.
    from scipy.optimize import brentq

    def excess(b):
        return stats.norm.cdf(np.sqrt(b * b + 2.0 * np.log(2.0))) + stats.norm.cdf(b) - 1.9

    b = brentq(excess, 0.5, 5.0, xtol=1e-14)
    a = np.sqrt(b * b + 2.0 * np.log(2.0))
    assert_allclose(left, (-50.0 - a, -50.0 + a), rtol=1e-11)
    assert_allclose(right, (50.0 - 2.0 * b, 50.0 + 2.0 * b), rtol=1e-11)


def test_a_level_just_above_the_valley_parts_the_region():
    from scipy.optimize import brentq, minimize_scalar

    p = mixture([[-1.5, 1.52]], [1.0, 0.9], [0.5, 0.5])

    def log_density(y):
        return float(p.logpdf(y)[0])

    valley = minimize_scalar(log_density, bounds=(-1.0, 1.0), options={"xatol": 1e-9}).x
    level = log_density(valley) + 1e-5
    brackets = [(-9.0, -1.5), (-1.0, valley), (valley, 1.0), (1.5, 9.0)]
    ends = [brentq(lambda y: log_density(y) - level, a, b, xtol=1e-14) for a, b in brackets]
    cdf = p.cdf([ends])[0]
    (region,) = p.hdr(float(cdf[1] - cdf[0] + cdf[3] - cdf[2]))
    # The density has slope 1e-3 or so at the inner ends: 1e-13 of mass is 1e-10 of y.
    assert_allclose(np.ravel(region), ends, atol=1e-9)


def test_rows_differ_in_their_number_of_intervals(three):
    assert [len(row) for row in three.hdr(0.9)] == [2, 1, 2]
    assert all(isinstance(end, float) for row in three.hdr(0.9) for pair in row for end in pair)


def test_equal_experts_count_as_one():
    twice = mixture([[1.0, 1.0, 1.0]], [2.0, 2.0, 2.0], [0.2, 0.3, 0.5])
    once = mixture([[1.0]], [2.0], [1.0])
    assert_allclose(twice.hdr(0.9)[0], once.hdr(0.9)[0], rtol=1e-11)
    assert_allclose(twice.ppf([0.1, 0.9]), once.ppf([0.1, 0.9]), rtol=1e-14)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 90.0, -0.1, np.nan])
def test_region_refuses_confidences_outside_the_open_interval(three, confidence):
    with pytest.raises(ValueError, match=r"^confidence must lie in \(0, 1\), got"):
        three.hdr(confidence)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, 90.0, np.nan])
def test_interval_refuses_confidences_outside_the_closed_interval(three, confidence):
    with pytest.raises(ValueError, match=r"^confidence must lie in \[0, 1\], got"):
        three.interval(confidence)


def test_counts_have_no_region_and_are_told_so():
    p = mixture([[1.0, 6.0]], [1.0, 1.0], WEIGHTS, expert=Counts())
    with pytest.raises(UnsupportedCombinationError, match=r"jumps; use interval\(0\.9\)"):
        p.hdr(0.9)


@settings(max_examples=50, deadline=None)
@given(mixtures())
def test_no_point_is_denser_than_the_mode(case):
    means, sds, weights = case
    p = mixture(means, sds, weights)
    grid = (means[:, None] + sds[:, None] * np.linspace(-9.0, 9.0, 2001)).reshape(1, -1)
    # Rounding of y - mean enters the log density near a peak in the second order only.
    assert p.logpdf(grid).max() <= p.logpdf(p.mode())[0] + 1e-10


def test_mode_of_a_single_expert_is_its_mean(single):
    ours, theirs = single
    # A peak is flat: heights are equal in floats within sqrt(EPS) of it.
    assert_allclose(ours.mode(), theirs.mean(), atol=1.7e-7)


# --- weights of zero and next to it -----------------------------------------------------------


def test_experts_of_weight_zero_change_nothing():
    bare = mixture(MEANS, SDS, WEIGHTS)
    extra = np.column_stack([MEANS, np.full(3, 1e6)])
    spoilt = mixture(extra, [*SDS, 1.0], [*WEIGHTS, 0.0], expert=SpoiltLast())
    y = np.linspace(-3.0, 6.0, 7)[None]
    for method in ("pdf", "logpdf", "cdf", "sf"):
        assert_allclose(getattr(spoilt, method)(y), getattr(bare, method)(y), rtol=1e-14)
    for method in ("mean", "var", "median", "mode"):
        assert_allclose(getattr(spoilt, method)(), getattr(bare, method)(), rtol=1e-7)
    assert_allclose(spoilt.ppf([0.1, 0.9]), bare.ppf([0.1, 0.9]), rtol=1e-13)
    for mine, other in zip(spoilt.hdr(0.9), bare.hdr(0.9), strict=True):
        assert_allclose(mine, other, rtol=1e-11)
    # The spoilt expert stands at 1e6 and would show.
    assert np.abs(spoilt.sample(2000, random_state=0)).max() < 20.0


def test_a_weight_below_the_floats_still_shows_in_the_log_density():
    p = mixture([[0.0, 1e3]], [1.0, 1.0], [1.0, 0.0])
    log_weight = np.array([[0.0, -2000.0]])
    tiny = Predictive(Gaussian(), p._params, p._batch, log_weight)
    assert_allclose(tiny.logpdf(1e3), -2000.0 + stats.norm.logpdf([0.0]), rtol=1e-14)
    assert_allclose(tiny.ppf(0.99), stats.norm.ppf([0.99]), rtol=1e-14)


# --- location and scale of the response -------------------------------------------------------


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1e12), (0.0, 1e-12), (1e8, 1.0), (-3.0, 250.0)])
def test_shift_and_scale_pass_through(three, loc, scale):
    moved = mixture(MEANS, SDS, WEIGHTS, loc=loc, scale=scale)
    rounding = EPS * abs(loc)
    for method in ("mean", "median", "mode"):
        expected = loc + scale * getattr(three, method)()
        assert_allclose(getattr(moved, method)(), expected, rtol=1e-14, atol=rounding)
    assert_allclose(moved.expert_means(), loc + scale * MEANS, rtol=1e-14)
    assert_allclose(moved.std(), scale * three.std(), rtol=1e-14)
    assert_allclose(moved.var(), scale**2 * three.var(), rtol=1e-14)
    assert_allclose(moved.ppf([0.01, 0.9]), loc + scale * three.ppf([0.01, 0.9]), rtol=1e-14)
    for mine, other in zip(moved.hdr(0.9), three.hdr(0.9), strict=True):
        assert_allclose(mine, loc + scale * np.array(other), rtol=1e-14, atol=rounding)
    drawn = loc + scale * three.sample(4, random_state=1)
    assert_allclose(moved.sample(4, random_state=1), drawn, rtol=1e-14)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1e12), (0.0, 1e-12), (1e8, 1.0), (-3.0, 250.0)])
def test_density_and_distribution_function_of_a_moved_response(three, loc, scale):
    moved = mixture(MEANS, SDS, WEIGHTS, loc=loc, scale=scale)
    u = np.array([[-2.0, 0.25, 1.0, 4.5]])
    y = loc + scale * u
    # Forming y loses EPS * |loc| / scale of u; log density and log cdf have slopes below 12 here.
    rtol = 1e-13 + 12.0 * EPS * abs(loc) / scale
    assert_allclose(moved.cdf(y), three.cdf(u), rtol=rtol)
    assert_allclose(moved.pdf(y), three.pdf(u) / scale, rtol=rtol)
    assert_allclose(moved.logpdf(y), three.logpdf(u) - np.log(scale), rtol=rtol, atol=rtol)


# --- draws ------------------------------------------------------------------------------------


def test_draws_have_the_moments_of_the_distribution(three):
    size = 100_000
    drawn = three.sample(size, random_state=12)
    assert drawn.shape == (size, 3)
    assert (np.abs(drawn.mean(axis=0) - three.mean()) < 5.0 * three.std() / np.sqrt(size)).all()
    squares = (drawn - three.mean()) ** 2
    error = 5.0 * squares.std(axis=0) / np.sqrt(size)
    assert (np.abs(squares.mean(axis=0) - three.var()) < error).all()


def test_draws_follow_the_distribution_function(three):
    drawn = three.sample(20_000, random_state=3)
    for i in range(3):

        def cdf(y, i=i):
            return three.cdf(np.tile(y, (3, 1)))[i]

        assert stats.kstest(drawn[:, i], cdf).pvalue > 1e-3
        assert stats.kstest(drawn[:, i] + 0.1, cdf).pvalue < 1e-3


def test_each_row_draws_from_its_own_experts():
    p = mixture([[-50.0, 50.0]] * 3, [1.0, 1.0], [[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    drawn = p.sample(4000, random_state=9)
    # Five standard errors of a share: 5 sqrt(0.25 * 0.75 / 4000) = 0.034.
    assert_allclose((drawn > 0.0).mean(axis=0), [0.0, 1.0, 0.75], atol=0.034)
    assert_array_equal((drawn > 0.0).mean(axis=0)[:2], [0.0, 1.0])


def test_draws_of_one_row_cross_the_blocks_without_a_seam():
    drawn = mixture([[0.0, 3.0]], [1.0, 1.0], [0.5, 0.5]).sample(150_000, random_state=0)
    assert drawn.shape == (150_000, 1)
    assert np.unique(drawn).size == drawn.size


def test_sources_of_randomness(three):
    assert three.sample(random_state=5).shape == (3,)
    assert three.sample(0, random_state=5).shape == (0, 3)
    assert_array_equal(three.sample(2, random_state=5), three.sample(2, random_state=5))
    assert_array_equal(three.sample(random_state=5), three.sample(1, random_state=5)[0])
    for source in (np.random.default_rng, np.random.RandomState):
        first, again = source(8), source(8)
        draws = [three.sample(2, random_state=first) for _ in range(2)]
        assert_array_equal(draws[0], three.sample(2, random_state=again))
        assert (draws[0] != draws[1]).all()
    assert (three.sample() != three.sample()).all()


@pytest.mark.parametrize("bad", ["seed", 1.5, -1, True])
def test_other_sources_of_randomness_are_refused(three, bad):
    with pytest.raises(ValueError, match=r"^random_state must be"):
        three.sample(random_state=bad)


@pytest.mark.parametrize("bad", [-1, 2.5, True, "many"])
def test_other_sizes_are_refused(three, bad):
    with pytest.raises(ValueError, match=r"^size must be an integer >= 0"):
        three.sample(bad)


# --- the table, and what the constructor refuses ----------------------------------------------


def test_table_holds_the_methods_answers_under_the_given_index():
    p = mixture(MEANS, SDS, WEIGHTS, index=["a", "b", "c"])
    table = p.to_frame(0.8)
    assert list(table.columns) == ["mean", "std", "median", "lower", "upper"]
    assert list(table.index) == ["a", "b", "c"]
    lower, upper = p.interval(0.8)
    expected = np.column_stack([p.mean(), p.std(), p.median(), lower, upper])
    assert_array_equal(table.to_numpy(), expected)
    assert list(mixture(MEANS, SDS, WEIGHTS).to_frame().index) == [0, 1, 2]


def test_no_rows_give_empty_answers():
    p = mixture(np.empty((0, 2)), SDS, WEIGHTS)
    assert p.mean().shape == p.ppf(0.5).shape == p.mode().shape == p.cdf(1.0).shape == (0,)
    assert p.ppf([0.1, 0.9]).shape == (0, 2)
    assert p.hdr() == []
    assert p.sample(4, random_state=0).shape == (4, 0)
    assert len(p.to_frame()) == 0


def test_a_family_without_variance_says_so_and_keeps_the_rest():
    p = mixture(MEANS, SDS, WEIGHTS, expert=NoVariance())
    with pytest.raises(UnsupportedCombinationError, match=r"no variance\(\)"):
        p.std()
    assert_allclose(p.mean(), MEANS @ WEIGHTS, rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, "scale > 0, got 0.0 and 0.0"),
        ({"scale": np.inf}, "scale > 0"),
        ({"loc": np.nan}, "finite loc"),
        ({"index": [1, 2]}, "index must hold 3 labels, got 2"),
    ],
)
def test_constructor_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        mixture(MEANS, SDS, WEIGHTS, **change)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.3, 0.6], r"those of row 0 sum to 0\.9"),
        ([[0.3, 0.7], [0.3, 0.7], [0.3, np.nan]], "those of row 2 sum to nan"),
    ],
)
def test_constructor_refuses_weights_that_do_not_sum_to_one(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture(MEANS, SDS, weights)


@pytest.mark.parametrize("shape", [(2, 2), (3,), (3, 0)])
def test_constructor_refuses_weights_of_another_shape(three, shape):
    with pytest.raises(ValueError, match=r"log_weight must have shape \(3, K\), got"):
        Predictive(Gaussian(), three._params, three._batch, np.zeros(shape))


def test_constructor_refuses_a_response_of_several_columns(three):
    batch = Batch(np.zeros((3, 2)), {"mean": np.eye(3)}, np.ones((3, 1)), np.ones(3))
    with pytest.raises(
        UnsupportedCombinationError, match=r"one response per row, got shape \(3, 2"
    ):
        Predictive(Gaussian(), three._params, batch, log(np.tile(WEIGHTS, (3, 1))))


def test_a_narrow_peak_inside_a_wide_one_keeps_its_own_interval():
    p = mixture([[0.0, 6.0, -6.0]], [1.0, 1e-3, 1e-3], [0.98, 0.01, 0.01])
    (region,) = p.hdr(0.9)
    assert len(region) == 3
    assert all(b < c for (_, b), (c, _) in pairwise(region))
    assert [a < mean < b for (a, b), mean in zip(region, [-6.0, 0.0, 6.0], strict=True)] == [
        True
    ] * 3
