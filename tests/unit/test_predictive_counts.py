"""Predictive distributions of counts, against enumeration and scipy."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from mixexperts._batch import Batch
from mixexperts._lattice import integers_between, likeliest, smallest_integer
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import Binomial, Poisson
from mixexperts.predictive import Predictive


@pytest.fixture
def rng():
    return np.random.default_rng(20260901)


MEANS = [[2.0, 30.0], [0.01, 0.5], [7.0, 7.0], [100.0, 1e4]]
CHANCES = [[0.1, 0.8], [1e-6, 0.5], [0.5, 0.5], [0.999, 0.3]]
TRIALS = np.array([12.0, 1.0, 4.0, 60.0])
WEIGHTS = np.array([0.35, 0.65])


def predictive(family, eta, trials=None, weights=WEIGHTS):
    eta = np.asarray(eta, dtype=float)
    n = len(eta)
    y = np.zeros(n) if trials is None else np.column_stack([np.zeros(n), trials])
    batch = Batch(y, {"mean": np.eye(n)}, np.ones((n, 1)), np.ones(n))
    return Predictive(family, {"coef": eta.T}, batch, np.log(np.broadcast_to(weights, eta.shape)))


def cases():
    logit = np.log(CHANCES) - np.log1p(-np.array(CHANCES))
    chance = np.array(CHANCES)
    return {
        "poisson": (
            predictive(Poisson(), np.log(MEANS)),
            lambda k, i: stats.poisson.pmf(k, np.array(MEANS)[i]) @ WEIGHTS,
            15_000,
        ),
        "binary": (
            predictive(Binomial(), logit),
            lambda k, i: stats.binom.pmf(k, 1, chance[i]) @ WEIGHTS,
            3,
        ),
        "counts": (
            predictive(Binomial(), logit, TRIALS),
            lambda k, i: stats.binom.pmf(k, TRIALS[i], chance[i]) @ WEIGHTS,
            70,
        ),
    }


@pytest.fixture(params=["poisson", "binary", "counts"])
def counted(request):
    """A predictive distribution of four rows, and the masses (4, m) of 0, 1, ..., m - 1."""
    made, pmf, most = cases()[request.param]
    values = np.arange(most)[:, None]
    return made, np.array([pmf(values, i) for i in range(4)])


def test_masses_and_their_sums(counted):
    made, mass = counted
    k = np.arange(mass.shape[1], dtype=float)[None]
    assert_allclose(made.pdf(k), mass, rtol=1e-9, atol=1e-300)
    assert_allclose(mass.sum(axis=1), 1.0, rtol=1e-9)
    assert_allclose(made.cdf(k), np.cumsum(mass, axis=1), rtol=1e-9)
    above = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]
    assert_allclose(made.sf(k)[:, :-1], above[:, 1:], rtol=1e-7, atol=1e-290)
    assert_array_equal(made.cdf(k + 0.5), made.cdf(k))
    assert_array_equal(made.pdf(k + 0.5), 0.0)


def test_outside_the_support_there_is_nothing(counted):
    made, _ = counted
    y = np.array([[-1.0, -0.5, -np.inf, np.inf, 1e300]])
    assert_array_equal(made.pdf(y), 0.0)
    assert_array_equal(made.cdf(y), np.tile([0.0, 0.0, 0.0, 1.0, 1.0], (4, 1)))
    assert_array_equal(made.sf(y), np.tile([1.0, 1.0, 1.0, 0.0, 0.0], (4, 1)))
    assert np.isnan(made.cdf(np.nan)).all()


def test_moments(counted):
    made, mass = counted
    k = np.arange(mass.shape[1])
    mean = mass @ k
    assert_allclose(made.mean(), mean, rtol=1e-9)
    assert_allclose(made.var(), mass @ k**2 - mean**2, rtol=1e-7)


@pytest.mark.parametrize("q", [1e-9, 0.025, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9])
def test_quantiles_are_the_least_integers_that_reach(counted, q):
    made, mass = counted
    known = (np.cumsum(mass, axis=1) >= q * (1.0 - 1e-15)).argmax(axis=1)
    assert_array_equal(made.ppf(q), known)


def test_ends_of_the_support(counted):
    made, _ = counted
    assert_array_equal(made.ppf(0.0), 0.0)
    top = made.ppf(1.0)
    if np.isfinite(top).all():
        assert_array_equal(made.pdf(top + 1.0), 0.0)
        assert (made.pdf(top) > 0.0).all()
    else:
        assert_array_equal(top, np.inf)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.99])
def test_intervals_hold_what_they_promise_and_no_end_can_be_spared(counted, confidence):
    made, mass = counted
    lower, upper = made.interval(confidence)
    half = 0.5 * (1.0 - confidence)
    for i in range(4):
        lo, hi = int(lower[i]), int(upper[i])
        assert mass[i, lo : hi + 1].sum() >= confidence - 1e-12
        assert mass[i, :lo].sum() <= half + 1e-12  # no more than half of the rest below
        assert mass[i, hi + 1 :].sum() <= half + 1e-12
        assert mass[i, : lo + 1].sum() >= half - 1e-12  # but more with one count less
        assert mass[i, hi:].sum() >= half - 1e-12


@pytest.mark.parametrize("confidence", [0.3, 0.5, 0.8, 0.9, 0.99])
def test_regions_are_the_smallest_sets_of_that_mass(counted, confidence):
    made, mass = counted
    for i, region in enumerate(made.hdr(confidence)):
        inside = np.zeros(mass.shape[1], dtype=bool)
        for first, last in region:
            inside[int(first) : int(last) + 1] = True
        assert mass[i, inside].sum() >= confidence - 1e-12
        # every value inside is at least as likely as any outside,
        least = mass[i, inside].min()
        assert mass[i, ~inside].max(initial=0.0) <= least * (1 + 1e-9)
        # and without its least likely values the set would hold too little
        assert mass[i, inside & (mass[i] > least * (1 + 1e-9))].sum() < confidence
        gaps = [b[0] - a[1] for a, b in pairwise(region)]
        assert all(gap > 1.0 for gap in gaps)


def test_mode_is_the_likeliest_integer(counted):
    made, mass = counted
    at = made.mode()
    assert_allclose(mass[np.arange(4), at.astype(int)], mass.max(axis=1), rtol=1e-12)


def test_draws_follow_the_masses(counted):
    made, mass = counted
    drawn = made.sample(4000, random_state=1)
    assert drawn.shape == (4000, 4)
    assert (drawn == np.floor(drawn)).all()
    for i in range(4):
        k = np.unique(made.ppf([0.1, 0.3, 0.5, 0.7, 0.9])[i])
        share = np.array([(drawn[:, i] <= value).mean() for value in k])
        known = np.cumsum(mass[i])[k.astype(int)]
        # 4.5 standard errors of a share of 4000
        assert (np.abs(share - known) <= 4.5 * np.sqrt(known * (1 - known) / 4000) + 1e-12).all()


def test_a_quantile_at_an_exact_mass_does_not_hang_on_rounding():
    """Eleven equal experts of chance a half: the sum of their weights is not exactly one."""
    made = predictive(Binomial(), np.zeros((1, 11)), weights=np.full(11, 1 / 11))
    assert made.ppf(0.5)[0] == 0.0
    assert made.interval(1e-9)[0][0] == 0.0


@pytest.mark.parametrize("mean", [1e6, 1e12, 1e17])
def test_large_counts_have_the_quantiles_of_scipy_or_the_normal(mean):
    made = predictive(Poisson(), np.log([[mean, mean]]))
    for q in (1e-6, 0.5, 0.975):
        known = mean + np.sqrt(mean) * stats.norm.ppf(q)
        # skewness 1 / sqrt(mean) moves quantiles by (z^2 - 1) / 6 < 5; the exponential of a log
        # has 40 roundings
        assert abs(made.ppf(q)[0] - known) <= 5.0 + 50 * np.spacing(mean) + 1e-13 * mean


def test_regions_of_too_many_counts_are_refused_by_row():
    made = predictive(Poisson(), np.log([[1.0, 2.0], [1e14, 2e14]]))
    with pytest.raises(UnsupportedCombinationError, match="row 1 has too many likely counts"):
        made.hdr(0.9)
    assert (made.interval(0.9)[0] > 0).tolist() == [False, True]


def test_trials_change_the_response_not_the_chance():
    logit = np.log(CHANCES) - np.log1p(-np.array(CHANCES))
    one, many = predictive(Binomial(), logit), predictive(Binomial(), logit, TRIALS)
    assert_allclose(many.mean(), TRIALS * one.mean(), rtol=1e-12)
    assert_allclose(many.expert_means(), TRIALS[:, None] * np.array(CHANCES), rtol=1e-12)


def test_no_trials_no_successes():
    made = predictive(Binomial(), [[0.3, -2.0]], [0.0])
    assert made.mean()[0] == made.std()[0] == made.ppf(0.9)[0] == made.ppf(1.0)[0] == 0.0
    assert_allclose(made.pdf([[0.0, 1.0]]), [[1.0, 0.0]], rtol=1e-15)
    assert made.hdr(0.9) == [[(0.0, 0.0)]]


def test_only_families_of_trials_take_two_columns():
    batch = Batch(np.zeros((1, 2)), {"mean": np.ones((1, 1))}, np.ones((1, 1)), np.ones(1))
    with pytest.raises(UnsupportedCombinationError, match="one response per row"):
        Predictive(Poisson(), {"coef": np.zeros((1, 1))}, batch, np.zeros((1, 1)))


# --- the tools on integers --------------------------------------------------------------------


def test_smallest_integer_against_counting(rng):
    target = rng.integers(0, 10_000, 50).astype(float)
    found = smallest_integer(lambda i, k: k >= target[i], np.full(50, -1.0), np.full(50, 12_345.0))
    assert_array_equal(found, target)
    ends = smallest_integer(lambda i, k: k > 0, np.array([-1.0, 4.0]), np.array([np.inf, 5.0]))
    assert_array_equal(ends[1], 5.0)


def test_integers_between_are_a_union():
    assert_array_equal(
        integers_between(np.array([3.0, 0.0, 9.0]), np.array([5.0, 3.0, 9.0])),
        [0, 1, 2, 3, 4, 5, 9],
    )
    assert integers_between(np.array([0.0]), np.array([1e9])) is None
    assert integers_between(np.array([0.0]), np.array([np.inf])) is None


def test_ties_belong_to_the_region():
    mass = np.array([0.2, 0.3, 0.3, 0.2])
    assert likeliest(np.arange(4.0), np.log(mass), 0.25) == [(1.0, 2.0)]
    assert likeliest(np.arange(4.0), np.log(mass), 0.7) == [(0.0, 3.0)]
